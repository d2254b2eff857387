"""A TLS server and client of Python's `ssl`.

    python3 -u tls_peer.py serve CERT KEY VERSION           answers lines in capitals
    python3 -u tls_peer.py ask PORT CA HOST VERSION LINE... prints what was negotiated and the answers

VERSION is TLSv1_2 or TLSv1_3, and nothing else will do.
"""
import socket
import ssl
import sys


def only(context, version):
    context.minimum_version = context.maximum_version = ssl.TLSVersion[version]


def serve(cert, key, version):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    only(context, version)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print("listening on 127.0.0.1:%d" % listener.getsockname()[1], file=sys.stderr)
        while True:
            conn, _ = listener.accept()
            conn.settimeout(10)
            try:
                with context.wrap_socket(conn, server_side=True) as secure:
                    for line in secure.makefile("rb"):
                        secure.sendall(line.upper())
                    secure.unwrap()
                print("ended")
            except OSError as error:
                print("failed:", error)


def ask(port, ca, host, version, *lines):
    context = ssl.create_default_context(cafile=ca)
    only(context, version)
    sock = socket.create_connection(("127.0.0.1", int(port)), timeout=10)
    try:
        secure = context.wrap_socket(sock, server_hostname=host)
    except ssl.SSLCertVerificationError as error:
        print(error.verify_message)
        return
    with secure:
        print(secure.version(), dict(secure.getpeercert()["subject"][0])["commonName"])
        replies = secure.makefile("rb")
        for line in lines:
            secure.sendall(line.encode() + b"\n")
            print(replies.readline().decode().rstrip("\r\n"))
        secure.unwrap()  # raises if the server does not say its end, too


command, *rest = sys.argv[1:]
{"serve": serve, "ask": ask}[command](*rest)
