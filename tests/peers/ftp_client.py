"""pyftpdlib for our client, on a free port of 127.0.0.1: ftp_client.py ROOT [WORD]...

"me" with the password "s3cret" may write, everybody else may read.

lie        there is no EPSV, and the address in answers to PASV is somebody else's
slow       files come and go at 20 MB/s
"""
import sys

from pyftpdlib.authorizers import DummyAuthorizer
from pyftpdlib.handlers import FTPHandler, ThrottledDTPHandler
from pyftpdlib.servers import FTPServer

ROOT, WORDS = sys.argv[1], sys.argv[2:]


class Handler(FTPHandler):
    authorizer = DummyAuthorizer()


class Slow(ThrottledDTPHandler):
    read_limit = write_limit = 20_000_000


Handler.authorizer.add_anonymous(ROOT)
Handler.authorizer.add_user("me", "s3cret", ROOT, perm="elradfmwMT")
if "lie" in WORDS:
    Handler.masquerade_address = "127.9.8.7"
    Handler.proto_cmds = {k: v for k, v in FTPHandler.proto_cmds.items() if k != "EPSV"}
if "slow" in WORDS:
    Handler.dtp_handler = Slow
server = FTPServer(("127.0.0.1", 0), Handler)
print(f"listening on 127.0.0.1:{server.address[1]}", file=sys.stderr, flush=True)
server.serve_forever()
