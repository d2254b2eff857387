"""The tutorial's socketserver; in place of somebody who types, it answers in capitals."""

import socketserver
import sys


class MyTCPHandler(socketserver.BaseRequestHandler):
    def handle(self):
        self.data = self.request.recv(1024).strip()
        host, port = self.client_address
        print("{}:{} wrote:".format(host, port))
        print(self.data.decode())
        self.request.sendall(self.data.upper())


with socketserver.TCPServer(("127.0.0.1", 0), MyTCPHandler) as server:
    print("listening on 127.0.0.1:%d" % server.server_address[1], file=sys.stderr)
    server.serve_forever()
