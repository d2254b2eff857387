"""Gophernicus, a Gopher server, for each connection as inetd starts it."""

import os
import socket
import subprocess
import sys

root = sys.argv[1]
quiet = ["-nm", "-ns", "-nx", "-nu", "-nr"]  # no shared memory, log, scripts, users; also as root

with socket.create_server(("127.0.0.1", 0)) as listener:
    port = listener.getsockname()[1]
    print("listening on 127.0.0.1:%d" % port, file=sys.stderr)
    arguments = ["gophernicus", "-r", root, "-h", "127.0.0.1", "-p", str(port), *quiet]
    while True:
        connection, _ = listener.accept()
        with connection:
            subprocess.run(arguments, stdin=connection, stdout=connection)
