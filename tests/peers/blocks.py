"""Messages in blocks, a length (`struct`'s "!I") before each, an octet at a time both ways.

    python3 -u blocks.py ask PORT FORMAT     sends messages and prints the receipts
    python3 -u blocks.py serve FORMAT        serves one connection: prints messages, sends receipts

FORMAT, of the messages, is json or xml; a receipt is JSON.
"""
import json
import socket
import struct
import sys
import xml.etree.ElementTree as ET

MESSAGES = ["grüße €😀", {"list": ["a", "b"], "nested": {"text": " <&> "}}, ""]


def send_block(sock, data):
    for octet in struct.pack("!I", len(data)) + data:
        sock.sendall(bytes([octet]))


def recv_exactly(sock, n):
    data = b""
    while len(data) < n:
        octet = sock.recv(1)
        if not octet:
            return None
        data += octet
    return data


def recv_block(sock):
    length = recv_exactly(sock, 4)
    return None if length is None else recv_exactly(sock, struct.unpack("!I", length)[0])


def element(name, value):
    made = ET.Element(name)
    if isinstance(value, dict):
        made.extend(element(key, item) for key, item in value.items())
    elif isinstance(value, list):
        made.extend(element("item", item) for item in value)
    else:
        made.text = str(value)
    return made


def value(element):
    if len(element) == 0:
        return element.text or ""
    items = [value(child) for child in element]
    return items if element[0].tag == "item" else dict(zip([e.tag for e in element], items))


def dumps(message):
    if form == "json":
        return json.dumps(message, ensure_ascii=False).encode()
    return ET.tostring(element("message", message))  # in ASCII, with &#252; and the like


def loads(data):
    return json.loads(data) if form == "json" else value(ET.fromstring(data))


def ask(sock):
    for message in MESSAGES:
        send_block(sock, dumps(message))
        receipt = json.loads(recv_block(sock))
        print(receipt["number"], receipt["octets"] == len(dumps(message)))
    sock.shutdown(socket.SHUT_WR)
    print("end", sock.recv(1))


def serve(sock):
    for number in range(1, 1000):
        data = recv_block(sock)
        if data is None:
            return
        print(json.dumps(loads(data), ensure_ascii=False))
        send_block(sock, json.dumps({"number": number, "octets": len(data)}).encode())


command, *port, form = sys.argv[1:]
if command == "ask":
    sock = socket.create_connection(("127.0.0.1", int(port[0])), timeout=10)
else:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print("listening on %s:%d" % listener.getsockname(), file=sys.stderr)
        sock, _ = listener.accept()
with sock:
    sock.settimeout(10)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    (ask if command == "ask" else serve)(sock)
