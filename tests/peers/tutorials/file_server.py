"""Takes one greeting and sends test.txt by the KiB."""
import socket
import sys

listener = socket.socket()
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen()
peer, _ = listener.accept()
peer.recv(1024)
source = open("test.txt", "rb")
while True:
    piece = source.read(1024)
    if not piece:
        break
    peer.send(piece)
source.close()
peer.close()
print("File transferred")
