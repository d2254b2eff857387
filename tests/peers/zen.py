"""The conversation of the zen scripts, as a Python programmer writes it.

    python3 -u zen.py ask PORT COUNT     asks COUNT questions over one connection, prints the answers
    python3 -u zen.py crowd PORT COUNT   COUNT threads ask all questions three times, byte by byte
    python3 -u zen.py sequential         serves one client after the other
    python3 -u zen.py threaded           a thread for each: socketserver
    python3 -u zen.py streams            all in one thread: asyncio
"""
import asyncio
import socket
import socketserver
import sys
import threading

ZEN = {
    b"Beautiful is better than?": b"Ugly.",
    b"Explicit is better than?": b"Implicit.",
    b"Simple is better than?": b"Complex.",
}
QUESTIONS = list(ZEN)


def answer_to(question):
    return ZEN.get(question, b"Error: unknown aphorism.")


def recv_until(sock, suffix):
    """What comes up to the suffix; nothing if the end comes first. It trusts that no more follows."""
    message = b""
    while not message.endswith(suffix):
        data = sock.recv(4096)
        if not data and not message:
            return b""
        if not data:
            raise EOFError(f"ended after {message!r}")
        message += data
    return message


def ask(port, count):
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        for number in range(count):
            question = (QUESTIONS + [b"Flat is better than?"])[number % 4]
            sock.sendall(question)
            print(question.decode(), recv_until(sock, b".").decode())


def crowd(port, count):
    wrong = []

    def visit(number):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for turn in range(number, number + 9):
                question = QUESTIONS[turn % 3]
                for i in range(len(question)):
                    sock.sendall(question[i : i + 1])
                if (got := recv_until(sock, b".")) != ZEN[question]:
                    wrong.append((question, got))

    threads = [threading.Thread(target=visit, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print("wrong:", wrong or "none")


def converse(sock):
    try:
        while question := recv_until(sock, b"?"):
            sock.sendall(answer_to(question))
    except (EOFError, OSError) as error:
        print(error, file=sys.stderr)


def listening(port):
    print(f"listening on 127.0.0.1:{port}", file=sys.stderr)


def sequential():
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        listening(listener.getsockname()[1])
        while True:
            sock, _ = listener.accept()
            with sock:
                converse(sock)


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        converse(self.request)


def threaded():
    socketserver.ThreadingTCPServer.request_queue_size = 64
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        listening(server.server_address[1])
        server.serve_forever()


async def talk(reader, writer):
    try:
        while True:
            writer.write(answer_to(await reader.readuntil(b"?")))
            await writer.drain()
    except (asyncio.IncompleteReadError, OSError) as error:
        if getattr(error, "partial", error):
            print(error, file=sys.stderr)
    writer.close()


def streams():
    async def serve():
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        listening(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(serve())


command, *numbers = sys.argv[1:]
globals()[command](*map(int, numbers))
