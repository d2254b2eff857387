"""Connects and prints one recv."""
import socket
import sys

peer = socket.socket()
peer.connect(("127.0.0.1", int(sys.argv[1])))
print(peer.recv(1024).decode())
peer.close()
