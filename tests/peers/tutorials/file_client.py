"""Greets, and keeps as recv.txt all that comes until the end."""
import socket
import sys

peer = socket.socket()
peer.connect(("127.0.0.1", int(sys.argv[1])))
peer.send(b"Hello server!")
with open("recv.txt", "wb") as target:
    while True:
        piece = peer.recv(1024)
        if not piece:
            break
        target.write(piece)
peer.close()
print("Successfully received")
