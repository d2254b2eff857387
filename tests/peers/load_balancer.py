"""Both ends of a load balancer.

    python3 -u load_balancer.py script            a backend, and when it is told the balancer's port
                                                  on stdin, clients, too; prints what each hears
    python3 -u load_balancer.py mirror            a backend that takes what comes and, at its end,
                                                  sends as much back
    python3 -u load_balancer.py bulk PORT MB      sends so much, and prints how much comes back
"""
import hashlib
import random
import socket
import struct
import sys
import threading
import time

LONG = random.Random(8090).randbytes(3_000_000)


def listening():
    listener = socket.create_server(("127.0.0.1", 0))
    print("listening on 127.0.0.1:%d" % listener.getsockname()[1], file=sys.stderr)
    return listener


def hear(sock):
    """Reads to the end, and tells how that was."""
    got = b""
    try:
        while data := sock.recv(65536):
            got += data
        end = "end"
    except OSError as error:
        end = type(error).__name__
    text = got.decode() if len(got) < 100 else hashlib.sha256(got).hexdigest()[:16]
    return "%s (%d), %s" % (text, len(got), end)


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def half_close(sock):
    sock.sendall(b"question")
    sock.shutdown(socket.SHUT_WR)
    return hear(sock)


def answer_at_end(sock):
    heard = hear(sock)
    sock.sendall(b"answer")
    sock.close()
    return heard


def say_on(sock):
    heard = hear(sock)
    for word in (b"more ", b"and ", b"more"):
        sock.sendall(word)
        time.sleep(0.02)
    sock.shutdown(socket.SHUT_WR)
    return heard


def end_first(sock):
    sock.sendall(b"that is all")
    sock.shutdown(socket.SHUT_WR)
    return hear(sock)


def send_long(sock):
    sock.sendall(LONG)
    sock.shutdown(socket.SHUT_WR)
    return hear(sock)


def both_ways(sock):
    sending = threading.Thread(target=lambda: (sock.sendall(LONG), sock.shutdown(socket.SHUT_WR)))
    sending.start()
    heard = hear(sock)
    sending.join()
    return heard


def ask(sock):
    sock.sendall(b"question")
    return hear(sock)


def answer_and_reset(sock):
    sock.recv(100)
    sock.sendall(b"part")
    time.sleep(0.2)
    reset(sock)


def reset_at_once(sock):
    sock.recv(100)
    reset(sock)


def answer_unread(sock):
    sock.sendall(b"too long")
    sock.close()


def leave(sock):
    sock.sendall(b"question")
    sock.recv(100)
    sock.close()


def talk_to_nobody(sock):
    try:
        for _ in range(1000):
            sock.sendall(bytes(10_000))
            time.sleep(0.001)
        return "never noticed"
    except OSError:
        return "noticed"


def answer(sock):
    heard = sock.recv(100)
    sock.sendall(b"answer")
    sock.close()
    return heard.decode()


def end(sock):
    heard = sock.recv(100)
    sock.close()
    return heard.decode()


SCRIPT = [
    ("the client ends first", half_close, answer_at_end),
    ("the backend ends first", say_on, end_first),
    ("a long question", send_long, answer_at_end),
    ("a long answer", half_close, send_long),
    ("both ways at once", both_ways, both_ways),
    ("an answer", ask, answer),
    ("an end without a word", ask, end),
    ("a reset after a part", ask, answer_and_reset),
    ("a reset without a word", ask, reset_at_once),
    ("an answer, the question unread", ask, answer_unread),
    ("the client leaves", leave, talk_to_nobody),
]


def serve(listener, backends):
    while True:
        sock, _ = listener.accept()
        sock.settimeout(10)
        try:
            number = sock.recv(1)
        except ConnectionResetError:
            number = b""
        if number:  # else it was a check
            backends[number[0]].append(SCRIPT[number[0]][2](sock))
        sock.close()


def script():
    listener = listening()
    backends = [[] for _ in SCRIPT]
    port = int(sys.stdin.readline())
    threading.Thread(target=serve, args=(listener, backends), daemon=True).start()
    for number, (name, client, _) in enumerate(SCRIPT):
        for _ in range(2):  # as every other one may be for the backend that refuses
            with socket.create_connection(("127.0.0.1", port), timeout=10) as sock:
                sock.sendall(bytes([number]))
                print("%s: the client hears %s" % (name, client(sock)))
        late = time.monotonic() + 10
        while len(backends[number]) < 2 and time.monotonic() < late:
            time.sleep(0.01)
        print("%s: the backend hears %s" % (name, backends[number]))


def mirror():
    listener = listening()
    while True:
        sock, _ = listener.accept()
        size = 0
        buffer = bytearray(1 << 20)
        while count := sock.recv_into(buffer):
            size += count
        for _ in range(size >> 20):
            sock.sendall(buffer)
        sock.close()


def bulk(port, megabytes):
    with socket.create_connection(("127.0.0.1", int(port)), timeout=60) as sock:
        buffer = bytearray(1 << 20)
        for _ in range(int(megabytes)):
            sock.sendall(buffer)
        sock.shutdown(socket.SHUT_WR)
        size = 0
        while count := sock.recv_into(buffer):
            size += count
    print(size >> 20)


command, *arguments = sys.argv[1:]
globals()[command](*arguments)
