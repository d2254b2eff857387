"""Peers of netcat that end in ways of their own.

    python3 -u netcat.py serve          takes one connection, or
    python3 -u netcat.py ask PORT       makes one; says a line, ends its sending side first, and
                                        then counts what still comes
    python3 -u netcat.py tls CERT KEY   takes one over TLS, and leaves without the close_notify that
                                        would end it in order
"""
import socket
import ssl
import sys


def accept():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print("listening on %s:%d" % listener.getsockname(), file=sys.stderr)
        return listener.accept()[0]


def count(conn):
    conn.sendall(b"that is all\n")
    conn.shutdown(socket.SHUT_WR)
    total = 0
    while data := conn.recv(65536):
        total += len(data)
    print(total)


def serve():
    count(accept())


def ask(port):
    count(socket.create_connection(("127.0.0.1", int(port))))


def tls(cert, key):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    conn = context.wrap_socket(accept(), server_side=True)
    conn.sendall(b"cut of")
    conn.recv(100)


{"serve": serve, "ask": ask, "tls": tls}[sys.argv[1]](*sys.argv[2:])
