"""The two ends of the retry pair, in Python.

    python3 -u retry.py ask PORT ID N       one attempt, and what it met: ConnectionResetError, ...
    python3 -u retry.py insist PORT COUNT   asks COUNT times to add 1, each until it is answered
    python3 -u retry.py serve FAULT...      fails so in turn (busy, stall, reset, cut, hang up, ok),
                                            then serves; says the ID of each request
"""
import random
import socket
import struct
import sys
import time
import uuid


def attempt(port, ident, number, timeout=0.3):
    with socket.create_connection(("127.0.0.1", port), timeout) as sock:
        sock.sendall(b"%s add %d\r\n" % (ident.encode(), number))
        answer = b""
        while not answer.endswith(b"\n"):
            piece = sock.recv(1024)
            if piece == b"":
                raise EOFError(answer.decode())
            answer += piece
    return answer.decode().rstrip("\r\n")


def ask(port, ident, number):
    try:
        print(attempt(int(port), ident, int(number)))
    except (OSError, EOFError) as error:
        print(type(error).__name__)


def insist(port, count):
    met = {}
    for _ in range(int(count)):
        ident = str(uuid.uuid4())
        delay = 0.01
        while True:
            try:
                whose, total = attempt(int(port), ident, 1).split()
                assert whose == ident
                break
            except (OSError, EOFError, ValueError) as error:
                met[type(error).__name__] = met.get(type(error).__name__, 0) + 1
                time.sleep(random.uniform(0, delay))
                delay = min(1, delay * 2)
    print("total", total, "met", *sorted(met))


def serve(*faults):
    answers, total, waiting = {}, 0, list(faults)
    stalled = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        print("listening on %s:%d" % server.getsockname(), file=sys.stderr)
        while True:
            sock, _ = server.accept()
            fault = waiting.pop(0) if waiting else "ok"
            ident, verb, number = sock.makefile().readline().split()
            assert verb == "add"
            print(ident, flush=True)
            if fault == "busy":
                sock.sendall(b"BUSY\r\n")
                sock.close()
                continue
            if ident not in answers:
                total += int(number)
                answers[ident] = b"%s %d\r\n" % (ident.encode(), total)
            if fault == "stall":
                stalled.append(sock)
                continue
            if fault == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif fault == "cut":
                sock.sendall(answers[ident][:-3])
            elif fault == "ok":
                sock.sendall(answers[ident])
            sock.close()


command, *rest = sys.argv[1:]
globals()[command](*rest)
