"""Connects, and only then asks for a line; sends it, takes one recv, and all that again."""
import socket
import sys

while True:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as talk:
        talk.connect(("localhost", int(sys.argv[1])))
        line = input("enter text .. .")
        talk.sendall(bytes(line + "\n", "utf-8"))
        answer = str(talk.recv(1024), "utf-8")
        print("Sent:", line)
        print("Received:", answer)
