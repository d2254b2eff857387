"""Where keys are on a ring, by hashlib and bisect: a second opinion on cache_client.ts's Ring.

    python3 cache_client.py SERVER... < keys

prints the server of each key, one to a line.
"""

import bisect
import hashlib
import struct
import sys


def points_of(text):
    """The four numbers, the lowest octet first, in the MD5 of a text."""
    return struct.unpack("<4I", hashlib.md5(text.encode()).digest())


ring = sorted(
    (point, server)
    for server in sys.argv[1:]
    for i in range(40)
    for point in points_of(f"{server}-{i}")
)
points = [point for point, _ in ring]
for key in sys.stdin.read().split("\n")[:-1]:
    i = bisect.bisect_left(points, points_of(key)[0])
    print(ring[i % len(ring)][1])
