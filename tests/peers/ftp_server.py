"""Python's ftplib against a server of ours: python3 ftp_server.py HOST PORT, then a command.

methods     every method of FTP, in a folder without files
reset N     N uploads that a reset cuts
tls CA      files of many sizes, over TLS from the first octet
"""
import ftplib
import io
import socket
import ssl
import struct
import sys

HOST, PORT, COMMAND = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def connect(passive=True):
    ftp = ftplib.FTP(timeout=15, encoding="utf-8")
    ftp.connect(HOST, PORT)
    assert ftp.getwelcome().startswith("220 ")
    assert ftp.login("me", "secret").startswith("230")
    ftp.set_pasv(passive)
    return ftp


class ImplicitTls(ftplib.FTP_TLS):
    """Python has only the other kind, which begins without TLS."""

    _sock = None

    @property
    def sock(self):
        return self._sock

    @sock.setter
    def sock(self, sock):
        if sock is not None and not isinstance(sock, ssl.SSLSocket):
            sock = self.context.wrap_socket(sock, server_hostname=HOST)
        self._sock = sock


def over_tls(ca):
    ftp = ImplicitTls(context=ssl.create_default_context(cafile=ca), timeout=15)
    ftp.connect(HOST, PORT)
    ftp.login("me", "secret", secure=False)
    ftp.prot_p()
    assert ftp.nlst() == []
    for size in (0, 1, 1000, 700_000, 3_000_000):
        content = bytes(range(250)) * (size // 250) + bytes(size % 250)
        ftp.storbinary("STOR file", io.BytesIO(content))
        received = io.BytesIO()
        ftp.retrbinary("RETR file", received.write)
        assert received.getvalue() == content, size
    assert ftp.nlst() == ["file"]
    ftp.quit()


def refused(call, *args):
    try:
        call(*args)
    except ftplib.error_perm as error:
        return str(error)[:3]
    raise AssertionError(f"{call} was not refused")


def methods(ftp):
    content = bytes(range(256)) * 1000
    assert ftp.pwd() == "/"
    assert ftp.mkd('fol "der') == '/fol "der'
    ftp.cwd('fol "der')
    assert ftp.pwd() == '/fol "der'
    assert ftp.storbinary("STOR file", io.BytesIO(content)).startswith("226")
    ftp.voidcmd("TYPE I")
    assert ftp.size("file") == len(content)
    received = io.BytesIO()
    assert ftp.retrbinary("RETR file", received.write).startswith("226")
    assert received.getvalue() == content
    rest = []
    ftp.retrbinary("RETR file", rest.append, rest=255999)
    assert rest == [b"\xff"], rest
    connection, size = ftp.ntransfercmd("RETR file", 1000)
    assert size == len(content) - 1000
    connection.close()
    assert ftp.getmultiline()[:3] in ("226", "426")
    assert ftp.storbinary("STOR file", io.BytesIO(b"end"), rest=2).startswith("226")
    assert ftp.storbinary("APPE file", io.BytesIO(b"!")).startswith("226")
    received = io.BytesIO()
    ftp.retrbinary("RETR file", received.write)
    assert received.getvalue() == b"\0\1end!"
    assert ftp.storlines("STOR text", io.BytesIO("one\nzwölf\n".encode())).startswith("226")
    lines = []
    ftp.retrlines("RETR text", lines.append)
    assert lines == ["one", "zwölf"], lines
    ftp.voidcmd("TYPE I")
    assert ftp.size("text") == 11
    ftp.voidcmd("TYPE A")
    assert refused(ftp.size, "text") == "550"
    assert ftp.storbinary("STOU", io.BytesIO(b"unique")).startswith("226")
    [unique] = [name for name in ftp.nlst() if name not in ("file", "text")]
    assert ftp.delete(unique).startswith("250")
    assert sorted(ftp.nlst()) == ["file", "text"]
    assert ftp.nlst("/") == ['/fol "der']
    listing = []
    ftp.dir(listing.append)
    assert len(listing) == 2 and listing[0].startswith("-rw") and listing[0].endswith(" file")
    facts = dict(ftp.mlsd(facts=["size"]))
    assert facts == {"file": {"size": "6"}, "text": {"size": "11"}}, facts
    ftp.sendcmd("OPTS MLST type;size;modify;")
    ftp.cwd("..")
    [(name, fact)] = ftp.mlsd()
    assert (name, fact["type"]) == ('fol "der', "dir")
    assert ftp.rename('fol "der/file', "moved").startswith("250")
    assert refused(ftp.rmd, 'fol "der') == "550"
    ftp.delete('fol "der/text')
    ftp.rmd('fol "der')
    assert refused(ftp.cwd, "..") == "550"
    # The LF of its ABOR is urgent data, and never comes.
    ftp.storbinary("STOR large", io.BytesIO(bytes(20_000_000)))
    connection = ftp.transfercmd("RETR large")
    connection.recv(1)
    assert ftp.abort().startswith("426")
    connection.close()
    assert ftp.getmultiline().startswith("226")
    assert ftp.abort().startswith("226")
    ftp.delete("large")
    ftp.delete("moved")
    assert ftp.nlst() == []
    assert ftp.quit().startswith("221")


if COMMAND == "methods":
    methods(connect())
    methods(connect(passive=False))
elif COMMAND == "tls":
    over_tls(sys.argv[4])
else:
    for i in range(int(sys.argv[4])):
        ftp = connect()
        connection = ftp.transfercmd(f"STOR reset{i}")
        connection.sendall(b"x" * 100_000)
        linger = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        connection.close()
        try:
            ftp.getresp()
            raise AssertionError("stored")
        except ftplib.error_temp as error:
            assert str(error)[:3] in ("425", "426"), error  # before it was accepted, or after
        ftp.quit()
print("done")
