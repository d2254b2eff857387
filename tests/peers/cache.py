"""A small client of memcached's protocol: cache.py PORT. It tries what a program would do with it."""

import socket
import sys


class Cache:
    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.file = self.socket.makefile("rwb")

    def send(self, *lines):
        self.file.write(b"".join(line + b"\r\n" for line in lines))
        self.file.flush()

    def line(self):
        line = self.file.readline()
        assert line.endswith(b"\r\n"), line
        return line[:-2]

    def ask(self, *lines):
        self.send(*lines)
        return self.line()

    def set(self, key, value, expire=0, flags=0, verb=b"set", more=b""):
        return self.ask(b"%s %s %d %d %d%s" % (verb, key, flags, expire, len(value), more), value)

    def get(self, *keys, verb=b"get"):
        self.send(b" ".join([verb, *keys]))
        found = {}
        while (line := self.line()) != b"END":
            word, key, flags, length, *unique = line.split(b" ")
            assert word == b"VALUE", line
            value = self.file.read(int(length) + 2)
            assert value.endswith(b"\r\n"), value
            found[key] = (value[:-2], int(flags), *map(int, unique))
        return found


cache = Cache(int(sys.argv[1]))
other = Cache(int(sys.argv[1]))

# Objects of any octets, many at once, over two connections.
blobs = {b"blob-%d" % i: bytes(range(256)) * i for i in range(100)}
for i, (key, value) in enumerate(blobs.items()):
    assert cache.set(key, value, flags=i) == b"STORED"
found = other.get(*blobs, b"none")
assert found == {key: (value, i) for i, (key, value) in enumerate(blobs.items())}

# A million octets.
large = b"\r\nEND\r\n" * 140000
assert cache.set(b"large", large) == b"STORED"
assert other.get(b"large")[b"large"] == (large, 0)
assert cache.set(b"large", b"x" * 1048577) == b"SERVER_ERROR object too large for cache"
assert other.get(b"large") == {}

# Two that change the same: one of them has to read it again.
assert cache.set(b"both", b"1") == b"STORED"
[(_, _, unique)] = cache.get(b"both", verb=b"gets").values()
[(_, _, same)] = other.get(b"both", verb=b"gets").values()
assert unique == same
assert cache.set(b"both", b"2", verb=b"cas", more=b" %d" % unique) == b"STORED"
assert other.set(b"both", b"3", verb=b"cas", more=b" %d" % same) == b"EXISTS"
assert other.get(b"both") == {b"both": (b"2", 0)}

# Counting, without an answer each and with the last.
assert cache.set(b"hits", b"0") == b"STORED"
for _ in range(1000):
    cache.file.write(b"incr hits 1 noreply\r\n")
assert cache.ask(b"incr hits 1") == b"1001"
assert other.ask(b"decr hits 2") == b"999"
assert other.get(b"hits") == {b"hits": (b"999 ", 0)}

# A lock, as it is done with add.
assert cache.set(b"lock", b"me", 100, verb=b"add") == b"STORED"
assert other.set(b"lock", b"you", 100, verb=b"add") == b"NOT_STORED"
assert cache.ask(b"delete lock") == b"DELETED"
assert other.set(b"lock", b"you", 100, verb=b"add") == b"STORED"

assert cache.ask(b"flush_all") == b"OK"
assert other.get(*blobs) == {}
cache.send(b"quit")
assert cache.file.read() == b""
print("done")
