"""Python's own Web clients, to ask a server of files with.

    python3 -u http_server_client.py parts PORT PATH RANGES   a multipart/byteranges, by the email parser
    python3 -u http_server_client.py reuse PORT               many requests on one connection
    python3 -u http_server_client.py urls PORT                urllib: statuses, redirects, conditions
    python3 -u http_server_client.py basic PORT NAME PASSWORD urllib's answer to a 401
    python3 -u http_server_client.py compare PORT PORT PATH... where two servers' answers differ
"""
import email
import email.policy
import hashlib
import http.client
import json
import re
import sys
import urllib.error
import urllib.parse
import urllib.request

HOST = "127.0.0.1"


def parts(port, path, ranges):
    conn = http.client.HTTPConnection(HOST, port, timeout=10)
    conn.request("GET", path, headers={"Range": ranges})
    answer = conn.getresponse()
    head = f"Content-Type: {answer.headers['Content-Type']}\r\n\r\n".encode()
    message = email.message_from_bytes(head + answer.read(), policy=email.policy.HTTP)
    assert message.is_multipart() and not message.defects, message.defects
    for part in message.iter_parts():
        data = part.get_payload(decode=True)
        print(part["Content-Range"], part.get_content_type(), hashlib.sha256(data).hexdigest())


def reuse(port):
    conn = http.client.HTTPConnection(HOST, port, timeout=10)
    conn.connect()
    name = conn.sock.getsockname()

    def ask(method, path, body=None, **fields):
        conn.request(method, path, body, {key.replace("_", "-"): fields[key] for key in fields})
        answer = conn.getresponse()
        data = answer.read()
        assert conn.sock and conn.sock.getsockname() == name, "another connection"
        whole = None if answer.status == 304 else str(len(data))
        assert method == "HEAD" or answer.headers["Content-Length"] == whole, answer.headers
        print(method, path, answer.status)
        return answer, data

    answer, data = ask("GET", "/ten")
    assert data == b"0123456789", data
    ask("HEAD", "/ten")
    ask("HEAD", "/big")
    ask("GET", "/none")
    ask("GET", "/ten", Range="bytes=2-4")
    ask("GET", "/ten", Range="bytes=10-")
    ask("GET", "/ten", If_None_Match=answer.headers["ETag"])
    ask("GET", "/ten", If_Modified_Since=answer.headers["Last-Modified"])
    ask("GET", "/ten", If_Match='"other"')
    ask("PUT", "/ten")  # with a body that it does not want it may hang up
    ask("POST", "/", b"a=1&a=2", Content_Type="application/x-www-form-urlencoded")
    ask("POST", "/", iter([b'{"a":', b"1}"]), Content_Type="application/json")  # chunked
    ask("POST", "/", b"{", Content_Type="application/json")
    ask("GET", "/big")
    ask("GET", "/")


def urls(port):
    def ask(path, **fields):
        request = urllib.request.Request(f"http://{HOST}:{port}{path}", headers=fields)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                print(path, answer.status, answer.url.rpartition(str(port))[2], answer.read()[:10])
                return answer
        except urllib.error.HTTPError as error:
            print(path, error.code, error.read())

    etag = ask("/ten").headers["ETag"]
    ask("/sub")
    ask("/none")
    ask("/ten", **{"If-None-Match": etag})
    ask("/ten", Range="bytes=-2")


def basic(port, name, password):
    url = f"http://{HOST}:{port}/ten"
    passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
    passwords.add_password(None, url, name, password)
    opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords))
    try:
        with opener.open(url, timeout=10) as answer:
            print(answer.status, answer.read().decode())
    except urllib.error.HTTPError as error:
        print(error.code, error.headers["WWW-Authenticate"])


def compare(one, other, *paths):
    def ask(port, method, path, fields):
        conn = http.client.HTTPConnection(HOST, port, timeout=10)
        conn.request(method, path, headers=fields)
        answer = conn.getresponse()
        data = answer.read()
        listing = path.partition("?")[0].endswith("/") and b"<html" in data
        if listing:  # each has a page of its own: the links are what it says
            data = sorted(link.removeprefix("./") for link in re.findall(r'href="([^"]*)"', data.decode()))
            data = [urllib.parse.unquote(link) for link in data if link != "../"]
        seen = [answer.status, data if answer.status < 300 else None]
        if answer.status < 300 and answer.headers["Last-Modified"]:
            seen += [answer.headers[name] for name in ("Content-Length", "Last-Modified")]
            seen.append(answer.headers.get_content_type())
        elif answer.status == 301:
            seen.append(answer.headers["Location"])
        return seen, answer.headers["Last-Modified"]

    asked = 0
    for path in paths:
        for method in "GET", "HEAD":
            seen, modified = ask(one, method, path, {})
            again = [{"If-Modified-Since": modified}] if modified else []
            for fields in [{}, *again]:
                pair = [ask(port, method, path, fields)[0] for port in (one, other)]
                asked += 1
                if pair[0] != pair[1]:
                    print(method, path, json.dumps(fields), *map(repr, pair))
    print("asked", asked)


command, *rest = sys.argv[1:]
numbers = 2 if command == "compare" else 1
globals()[command](*map(int, rest[:numbers]), *rest[numbers:])
