"""A UDP server that sends every datagram back, made of the calls that the tutorial lists."""

import socket
import sys

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 0))
print("listening on 127.0.0.1:%d" % server.getsockname()[1], file=sys.stderr)
while True:
    data, addr = server.recvfrom(65535)
    server.sendto(data, addr)
