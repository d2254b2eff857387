"""A Web server for the files of a folder: Python's, over HTTP/1.1, a thread for each connection."""

import functools
import http.server
import sys


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # or each file waits 40 ms for the client's ACK of its head

    def log_message(self, format, *args):
        pass


class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128  # of its own it keeps 5 waiting, and the load opens 32 at once

    def handle_error(self, request, client_address):
        pass  # the load leaves in the middle of a file


handler = functools.partial(Handler, directory=sys.argv[1])
with Server(("127.0.0.1", 0), handler) as server:
    print("listening on 127.0.0.1:%d" % server.server_address[1], file=sys.stderr)
    server.serve_forever()
