"""Tells everyone who connects the time, in a line, and hangs up."""
import socket
import sys
import time

listener = socket.socket()
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen()
while True:
    peer, _ = listener.accept()
    peer.sendall((time.ctime() + "\r\n").encode("ascii"))
    peer.close()
