"""Asks a news server by every method of nntplib, which Python has up to 3.12.

nntp.py PORT [CA]: the server has the empty group local.test; prints what each method returns.
"""

import datetime
import ssl
import sys
import warnings

warnings.simplefilter("ignore", DeprecationWarning)
import nntplib  # noqa: E402

PORT = int(sys.argv[1])
if len(sys.argv) > 2:
    context = ssl.create_default_context(cafile=sys.argv[2])
    news = nntplib.NNTP_SSL("127.0.0.1", PORT, ssl_context=context, readermode=True)
else:
    news = nntplib.NNTP("127.0.0.1", PORT, readermode=True)

FIRST = b"""\
From: Ann <ann@example.org>
Newsgroups: local.test
Subject: =?utf-8?b?R3LDvMOfZQ==?=
Message-ID: <1@example.org>
Date: Sat, 29 Nov 2025 12:00:00 +0000

.
..dots
\xff
"""
SECOND = FIRST.replace(b"<1@", b"<2@").replace(b"Date", b"References: <1@example.org>\nDate")
FAR = b"Path: there!not-for-mail\n" + FIRST.replace(b"<1@", b"<3@")


def show(name, *args):
    """Calls a method and prints what it returns, without the words for people in it."""
    try:
        result = getattr(news, name)(*args)
    except nntplib.NNTPError as error:
        print(name, type(error).__name__, error.response[:3])
        return
    if isinstance(result, tuple) and isinstance(result[0], str):
        result = (result[0][:3],) + result[1:]
    print(name, result[:3] if isinstance(result, str) and name != "description" else result)


show("getwelcome")
print(sorted(news.getcapabilities()), news.nntp_version)
show("group", "local.test")
show("post", FIRST.splitlines(keepends=True))
show("post", FIRST.splitlines(keepends=True))
show("post", FIRST.replace(b"<1@", b"<9@").replace(b"Subject", b"X").splitlines(keepends=True))
show("ihave", "<1@example.org>", FAR.splitlines(keepends=True))
show("ihave", "<3@example.org>", FAR.splitlines(keepends=True))
show("post", SECOND.splitlines(keepends=True))
show("list")
show("list", "local.n*")
show("descriptions", "local.*")
show("description", "local.test")
show("newgroups", datetime.datetime(2020, 1, 1))
show("newgroups", datetime.datetime(2090, 1, 1))
show("newnews", "local.*", datetime.datetime(2020, 1, 1))
show("group", "local.none")
show("group", "local.test")
show("stat")
show("next")
show("next")
show("next")
show("last")
show("stat", 1)
show("stat", "<2@example.org>")
show("stat", 9)
show("stat", "<9@example.org>")
show("head", "<2@example.org>")
show("body", 1)
show("article", 2)
show("over", (1, None))
show("over", (3, 3))
show("over", "<1@example.org>")
show("over", (4, 9))
show("xover", 1, 1)
show("xhdr", "subject", "1-3")
show("xhdr", "references", "<3@example.org>")
show("xhdr", "organization", "1")
print("date", abs((news.date()[1] - datetime.datetime.utcnow()).total_seconds()) < 60)
print("help", len(news.help()[1]) > 10)
show("quit")
