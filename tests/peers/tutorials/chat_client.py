"""Says what is typed and prints one recv after each, until a q."""
import socket
import sys

talk = socket.socket()
talk.connect(("127.0.0.1", int(sys.argv[1])))
while True:
    line = input("type message: ")
    if line == "q":
        break
    talk.send(line.encode())
    print("Received from server:", talk.recv(1024).decode())
talk.close()
