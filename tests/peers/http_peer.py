"""HTTP servers on Python's http.server, each on a free port of 127.0.0.1.

    python3 -u http_peer.py files FOLDER     SimpleHTTPRequestHandler, as it is: HTTP/1.0
    python3 -u http_peer.py handler VERSION  a handler that speaks HTTP/1.0 or HTTP/1.1:
        GET  /sized /chunked /closed   "hello world" in each framing; /drip/... each octet alone
        POST /echo                     the body, whose octets had to be asked for if there are many
        POST /refuse                   417 to "Expect: 100-continue"; what comes then is counted
        GET  /head                     the request's headers
"""
import functools
import http.server
import socket
import sys

TEXT = b"hello world"


class Handler(http.server.BaseHTTPRequestHandler):
    def drip(self, data):
        if not self.path.startswith("/drip"):
            return self.wfile.write(data)
        for n in range(len(data)):
            self.wfile.write(data[n:n + 1])
            self.wfile.flush()

    def answer(self, body, **headers):
        head = "HTTP/1.1 200 OK\r\n" if self.protocol_version > "HTTP/1.0" else "HTTP/1.0 200 OK\r\n"
        for name, value in headers.items():
            head += f"{name.replace('_', '-')}: {value}\r\n"
        self.close_connection = True
        self.drip((head + "\r\n").encode() + body)

    def do_GET(self):
        what = self.path.rsplit("/", 1)[-1]
        if what == "sized":
            self.answer(TEXT, Content_Length=len(TEXT))
        elif what == "chunked":
            self.answer(b"5\r\nhello\r\n6;x\r\n world\r\n0\r\nDone: yes\r\n\r\n", Transfer_Encoding="chunked")
        elif what == "closed":
            self.answer(TEXT)
        elif what == "head":
            text = str(self.headers).encode()
            self.answer(text, Content_Length=len(text))
        else:
            self.send_error(500 if what == "broken" else 404)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(body, Content_Length=len(body))

    def handle_expect_100(self):
        if self.path == "/refuse":
            self.send_error(417)
            self.close_connection = True
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_WR)
            print("octets after 417:", len(self.rfile.read()))
            return False
        print("asked for the body")
        return super().handle_expect_100()

    def log_message(self, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    def get_request(self):
        conn, address = super().get_request()
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return conn, address


if sys.argv[1] == "files":
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=sys.argv[2])
else:
    handler = Handler
    Handler.protocol_version = sys.argv[2]
server = Server(("127.0.0.1", 0), handler)
print(f"listening on 127.0.0.1:{server.server_address[1]}", file=sys.stderr, flush=True)
server.serve_forever()
