"""Connects and prints what comes until the end."""
import socket
import sys

peer = socket.socket()
peer.connect(("127.0.0.1", int(sys.argv[1])))
answer = b""
while True:
    piece = peer.recv(1024)
    if not piece:
        break
    answer += piece
peer.close()
print(answer.decode("ascii"), end="")
