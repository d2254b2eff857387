"""The other side of Telnet: telnetd for one connection, as inetd starts it, or telnetlib's client."""

import os
import signal
import socket
import sys


def inetd(program):
    """Serves one connection by telnetd, with `program` in place of login."""
    # A shell in the background has left SIGINT ignored, and a program's Ctrl-C would be, too.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print("listening on 127.0.0.1:%d" % listener.getsockname()[1], file=sys.stderr)
        connection, _ = listener.accept()
    for descriptor in (0, 1, 2):
        os.dup2(connection.fileno(), descriptor)
    connection.close()
    os.execvp("telnetd", ["telnetd", "--no-hostinfo", "--exec-login=" + program])


def client(port):
    """Talks with a server that has a prompt, and prints what it hears."""
    import warnings

    warnings.simplefilter("ignore")
    import telnetlib

    with telnetlib.Telnet("127.0.0.1", int(port), timeout=10) as telnet:
        telnet.read_until(b"> ")
        printing = bytes(range(0x21, 0x7F)) + "\u00fc".encode()
        for text in printing, b"a\xffb":  # an IAC, which telnetlib doubles
            telnet.write(b"echo " + text + b"\r\n")
            answer = telnet.read_until(b"> ").removesuffix(b"\r\n> ")
            print(text == answer, answer[-9:])
        telnet.sock.send(b"\xff\xf4\xff")  # Synch: IP, IAC, and DM as urgent data
        telnet.sock.send(b"\xf2", socket.MSG_OOB)
        telnet.read_until(b"> ")
        telnet.write(b"echo urgent\r\n")
        print(telnet.read_until(b"urgent\r\n> "))
        telnet.write(b"quit\r\n")
        print(telnet.read_all())


{"inetd": inetd, "client": client}[sys.argv[1]](sys.argv[2])
