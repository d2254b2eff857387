"""Prints who wrote what, one recv of it, and answers with a line that is typed."""
import socketserver
import sys


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        said = self.request.recv(1024).strip()
        host, port = self.client_address
        print(f"{host}:{port} wrote:")
        print(said.decode())
        self.request.sendall(input("enter text .. ").encode())


with socketserver.TCPServer(("localhost", int(sys.argv[1])), Handler) as server:
    server.serve_forever()
