"""The load of load.go, for machines without Go. It is slower and may be what the numbers show.

load.py daytime|dns|file|http-big|http-small|smtp|socketserver|udp_echo ADDRESS SECONDS
"""

import contextlib
import itertools
import multiprocessing
import re
import selectors
import socket
import sys
import time

CLIENTS = 4  # conversations at a time
MOST = 20000  # and altogether, as each leaves a port in TIME_WAIT
WINDOW = 64  # datagrams under way
SIZE = 64  # octets of an echo's
KEPT = 32  # connections kept for small files
SENDERS = 16  # connections on which mail is sent
# What begins to send mail, what sends a message of 1 KB, and the replies.
HELO = [(b"HELO load\r\n", b"250")]
MAIL = [
    (b"MAIL FROM:<ann@example.org>\r\n", b"250"),
    (b"RCPT TO:<bob@example.org>\r\n", b"250"),
    (b"DATA\r\n", b"354"),
    (b"Subject: load\r\n\r\n" + (b"x" * 70 + b"\r\n") * 14 + b".\r\n", b"250"),
]
# Which IPv4 addresses has example.test?
QUESTION = (
    bytes.fromhex("1234 0100 0001 0000 0000 0000")
    + b"\x07example\x04test\x00"
    + bytes.fromhex("0001 0001")
)


def converse(address, greeting, most, end):
    """Connects, greets and reads to the end; returns how many conversations and bytes that were."""
    buffer = bytearray(1 << 20)
    count = size = 0
    while count < most and time.monotonic() < end:
        with socket.create_connection(address) as conn:
            conn.sendall(greeting)
            while n := conn.recv_into(buffer):
                size += n
        count += 1
    return count, size


def get(address, path, kept, end):
    """Asks for a file, over and over, on connections that are kept; returns how many answers came
    whole and how many bytes of files."""
    request = b"GET %s HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % path
    buffer = bytearray(1 << 20)
    count = size = 0
    with contextlib.ExitStack() as stack:
        conns = [stack.enter_context(socket.create_connection(address)) for _ in range(kept)]
        for conn in conns:
            conn.sendall(request)
        for conn in itertools.cycle(conns):
            head = b""
            while b"\r\n\r\n" not in head:
                head += conn.recv(65536) or sys.exit("the server has hung up")
            head, _, body = head.partition(b"\r\n\r\n")
            length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
            if not length or not head.startswith(b"HTTP/1.1 200 "):
                sys.exit("not the file: %r" % head)
            left = int(length[1]) - len(body)
            size += len(body)
            while left and time.monotonic() < end:
                n = conn.recv_into(buffer) or sys.exit("not all of the file")
                left -= n
                size += n
            if time.monotonic() >= end:
                return count, size
            count += 1
            conn.sendall(request)


def send(address, senders, end):
    """Sends one message after the other on each connection, none of which waits for another;
    returns how many were taken."""
    count = 0
    with selectors.DefaultSelector() as ready, contextlib.ExitStack() as stack:
        steps = {}
        for _ in range(senders):
            conn = stack.enter_context(socket.create_connection(address))
            conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            ready.register(conn, selectors.EVENT_READ)
            conn.recv(1000)
            conn.sendall(HELO[0][0])
            steps[conn] = HELO + MAIL
        while time.monotonic() < end:
            for key, _ in ready.select(1):
                conn = key.fileobj
                reply = conn.recv(1000)
                (_, expected), *rest = steps[conn]
                if not reply.startswith(expected):
                    sys.exit("refused: %r" % reply)
                count += not rest
                steps[conn] = rest or MAIL
                conn.sendall(steps[conn][0][0])
    return count


def ask(address, datagram, end):
    """Sends datagrams and, for each that comes back, the next; returns how many came back."""
    count = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as conn:
        conn.connect(address)
        conn.settimeout(0.2)
        for _ in range(WINDOW):
            conn.send(datagram)
        try:
            while time.monotonic() < end:
                conn.recv(65536)
                count += 1
                conn.send(datagram)
        except TimeoutError:
            pass  # nothing is under way any more
    return count


if __name__ == "__main__":
    what, address, seconds = sys.argv[1:]
    host, _, port = address.rpartition(":")
    address = host, int(port)
    start = time.monotonic()
    end = start + float(seconds)
    if what == "dns":
        done = ask(address, QUESTION, end)
    elif what == "udp_echo":
        done = ask(address, bytes(SIZE), end)
    elif what == "http-small":
        done = get(address, b"/small.txt", KEPT, end)[0]
    elif what == "http-big":
        done = get(address, b"/big.bin", 1, end)[1]
    elif what == "smtp":
        done = send(address, SENDERS, end)
    elif what == "file":
        done = converse(address, b"Hello server!\n", MOST, end)[1]
    else:
        greeting = b"hello world\n" if what == "socketserver" else b""
        with multiprocessing.Pool(CLIENTS) as pool:
            arguments = [(address, greeting, MOST // CLIENTS, end)] * CLIENTS
            done = sum(count for count, _ in pool.starmap(converse, arguments))
    print(done, time.monotonic() - start)
