"""Broadcast and multicast with plain sockets.

    python3 -u cast.py listen ADDRESS INTERFACE PORT          says "listening on", then for each datagram
                                                              its TTL and its text
    python3 -u cast.py send ADDRESS INTERFACE PORT TTL TEXT   says from which port it sent

ADDRESS is a broadcast address or a group; INTERFACE is where the group is: an address, or for IPv6
a name.
"""
import ipaddress
import socket
import struct
import sys

IP_RECVTTL = 12  # Linux's; older versions of Python have no name for it


def open_socket(address):
    v6 = ipaddress.ip_address(address).version == 6
    sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM)
    return sock, ipaddress.ip_address(address).is_multicast, v6


def listen(address, interface, port):
    sock, multicast, v6 = open_socket(address)
    if v6:
        index = socket.if_nametoindex(interface)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, int(port), 0, index))
        group = socket.inet_pton(socket.AF_INET6, address) + struct.pack("@I", index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, group)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVHOPLIMIT, 1)
    else:
        if multicast:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, int(port)))
        if multicast:
            group = socket.inet_aton(address) + socket.inet_aton(interface)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group)
        sock.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
    print("listening on %s:%d" % sock.getsockname()[:2], file=sys.stderr)
    while True:
        data, ancillary, _, peer = sock.recvmsg(65536, socket.CMSG_SPACE(4))
        (ttl,) = struct.unpack("@i", ancillary[0][2])
        print(f"from {peer[0]} TTL {ttl}: {data[:60].decode()} ({len(data)})")


def send(address, interface, port, ttl, text):
    sock, multicast, v6 = open_socket(address)
    if v6:
        index = socket.if_nametoindex(interface)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, int(ttl))
    elif multicast:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(interface))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, int(ttl))
    else:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, int(ttl))
    sock.sendto(text.encode(), (address, int(port)))
    print(sock.getsockname()[1])


{"listen": listen, "send": send}[sys.argv[1]](*sys.argv[2:])
