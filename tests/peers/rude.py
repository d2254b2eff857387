"""Peers without manners.

    python3 -u rude.py hold PORT COUNT [PATIENCE]   connects COUNT times, says "holding", and keeps
                                                    all until its input ends; nothing is sent or read
    python3 -u rude.py visit PORT COUNT             asks politely, one after the other
    python3 -u rude.py abuse PORT COUNT [PATIENCE]  hangs up early, resets and talks nonsense
    python3 -u rude.py unfinished PORT COUNT        starts TLS handshakes, says "holding", keeps all
    python3 -u rude.py datagrams PORT COUNT         sends random datagrams
    python3 -u rude.py forge PORT                   asks from the small services' ports and from its own
"""
import random
import resource
import socket
import struct
import sys

random.seed(867)
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def dial(port, patience=10.0):
    sock = socket.socket()
    sock.settimeout(patience)
    try:
        sock.connect(("127.0.0.1", port))
    except TimeoutError:
        pass  # the system goes on trying
    return sock


def keep(socks):
    print("holding", len(socks))
    sys.stdin.read()


def hold(port, count, patience=10.0):
    keep([dial(port, patience) for _ in range(count)])


def visit(port, count):
    for _ in range(count):
        with dial(port) as sock:
            sock.sendall(b"hello\n")
            sock.recv(1024)
    print("visited")


def abuse(port, count, patience=10.0):
    for _ in range(count):
        for send in (b"", b"G", random.randbytes(100), random.randbytes(20_000), b"\xff\x00\r\n"):
            for reset in (False, True):
                sock = dial(port, patience)
                try:
                    sock.send(send)
                except OSError:
                    pass  # the server was quicker to hang up, or slow to accept
                if reset:
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                sock.close()
    print("abused")


def unfinished(port, count):
    socks = [dial(port) for _ in range(count)]
    hello = bytes.fromhex("16 0301 0200 01 0001fc 0303") + random.randbytes(32)
    for n, sock in enumerate(socks):
        sock.sendall(hello[: n % (len(hello) + 1)])
    keep(socks)


def datagrams(port, count):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for n in range(count):
            size = random.choice([0, 1, 10, 512, 1500, 9000] + [65507] * (n % 100 == 0))
            sock.sendto(random.randbytes(size), ("127.0.0.1", port))
    print("sent", count)


def forge(port):
    forged = []
    for own in (7, 13, 17, 19, 37, 8007, 8013, 8017, 8019, 8037):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            sock.bind(("127.0.0.1", own))
            forged.append(sock)
        except OSError:
            sock.close()  # in use, or only root's
    good = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    good.settimeout(10)
    answers = 0
    for _ in range(20):
        for sock in forged:
            sock.sendto(b"who goes there?", ("127.0.0.1", port))
        # An answer that came after the forged datagrams were dealt with.
        good.sendto(b"who goes there?", ("127.0.0.1", port))
        answers += len(good.recv(65536)) > 0
    heard = []
    for sock in forged:
        sock.setblocking(False)
        try:
            sock.recv(65536)
            heard.append(sock.getsockname()[1])
        except BlockingIOError:
            pass
    print("forged from", len(forged), "ports, answered:", heard or "none", "- good:", answers)


command, *numbers = sys.argv[1:]
globals()[command](*[float(n) if "." in n else int(n) for n in numbers])
