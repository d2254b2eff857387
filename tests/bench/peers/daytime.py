"""A daytime server, made of the calls that the tutorial describes: it sends the line and closes."""

import socket
import sys
import time

server = socket.socket()
server.bind(("127.0.0.1", 0))
server.listen()
print("listening on 127.0.0.1:%d" % server.getsockname()[1], file=sys.stderr)
while True:
    conn, addr = server.accept()
    conn.sendall(time.strftime("%A, %B %d, %Y %H:%M:%S-%Z\r\n").encode())
    conn.close()
