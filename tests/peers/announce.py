"""Runs a Python program and says on stderr where it listens, as our own servers do.

    python3 -u announce.py PROGRAM [ARGUMENT]...

The tutorials' servers say nothing until somebody connects, and some serve only one connection:
a test that tried whether they are there would be that one.
"""
import runpy
import socket
import sys

just_listen = socket.socket.listen


def listen(self, *backlog):
    just_listen(self, *backlog)
    host, port = self.getsockname()[:2]
    print(f"listening on {host}:{port}", file=sys.stderr, flush=True)


socket.socket.listen = listen
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
