"""The tutorial's file server, one client after the other, without what it prints."""

import socket
import sys

server = socket.socket()
server.bind(("127.0.0.1", 0))
server.listen()
print("listening on 127.0.0.1:%d" % server.getsockname()[1], file=sys.stderr)
while True:
    conn, addr = server.accept()
    data = conn.recv(1024).decode()
    with open(sys.argv[1], "rb") as f:
        while True:
            l = f.read(1024)
            if not l:
                break
            conn.sendall(l)
    conn.close()
