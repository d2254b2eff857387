"""A chat with one client: one recv is one message, and one answer is typed for each."""
import socket
import sys

listener = socket.socket()
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen()
talk, address = listener.accept()
print("Connection from:", address)
while True:
    said = talk.recv(1024).decode()
    if not said:
        break
    print(" from client:", said.upper())
    talk.send(input("type message: ").encode())
talk.close()
