"""The four servers of `socketserver` and plain sockets to ask such servers with.

    python3 -u kinds.py serve KIND ADDRESS            answers in capitals
    python3 -u kinds.py ask KIND ADDRESS TEXT         prints the answer
    python3 -u kinds.py echo ADDRESS SIZE...          says which sizes a UDP echo sends back whole

KIND is tcp, udp, unix or unixpacket, ADDRESS a port on 127.0.0.1 or a path.
"""
import os
import socket
import socketserver
import sys

SERVERS = {
    "tcp": socketserver.TCPServer,
    "udp": socketserver.UDPServer,
    "unix": socketserver.UnixStreamServer,
    "unixpacket": socketserver.UnixDatagramServer,
}


class StreamHandler(socketserver.StreamRequestHandler):
    def handle(self):
        self.wfile.write(self.rfile.readline().strip().upper())


class DatagramHandler(socketserver.BaseRequestHandler):
    def handle(self):
        data, sock = self.request
        sock.sendto(data.strip().upper(), self.client_address)


def serve(kind, address):
    handler = StreamHandler if kind in ("tcp", "unix") else DatagramHandler
    with SERVERS[kind](address, handler) as server:
        name = server.server_address
        where = "unix:" + name if isinstance(name, str) else "%s:%d" % name
        print("listening on", where, file=sys.stderr)
        server.serve_forever()


def ask(kind, address, text):
    family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
    stream = kind in ("tcp", "unix")
    with socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        own = f"{address}.python" if kind == "unixpacket" else None
        if own:
            sock.bind(own)  # without a name of its own it could not be answered
        sock.connect(address)
        sock.send(text.encode())
        print(sock.recv(65536).decode())
        if own:
            os.unlink(own)


def echo(address, *sizes):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(10)
        for size in map(int, sizes):
            sent = os.urandom(size)
            sock.sendto(sent, address)
            data, peer = sock.recvfrom(65536)
            print(size, data == sent and peer == address)


command, *rest = sys.argv[1:]
at = 0 if command == "echo" else 1
rest[at] = rest[at] if rest[at].startswith("/") else ("127.0.0.1", int(rest[at]))
{"serve": serve, "ask": ask, "echo": echo}[command](*rest)
