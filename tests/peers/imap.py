"""Talks to an IMAP server with imaplib by each of its methods, and prints what it is told."""
import imaplib
import re
import sys
import time

MESSAGE = (
    b"From: Ann <ann@example.org>\r\nTo: bob@example.org\r\nSubject: one\r\n"
    b"Date: Mon, 7 Feb 1994 21:52:25 -0800\r\n\r\nHello\r\nBob\r\n"
)


def tell(what, answer):
    """Prints an answer without what servers word in their own ways."""
    kind, data = answer
    lines = [part for item in data for part in (item if isinstance(item, tuple) else (item,))]
    own = rb'\\Has(No)?Children|\\UnMarked| \\\*|"(?=(INBOX|Work|Game)[.0-9]*")|(?<=INBOX|.Work|.Game|.2024)"'
    print(what, kind, sorted(re.sub(own, b"", line or b"") for line in lines))


def only_kind(what, answer):
    """Prints whether it was done; what else there is are words."""
    print(what, answer[0])


def talk(port):
    with imaplib.IMAP4("127.0.0.1", port) as imap:
        only_kind("authenticate", imap.authenticate("PLAIN", lambda _: b"\0mail\0secret"))
    imap = imaplib.IMAP4("127.0.0.1", port)
    only_kind("login", imap.login("mail", "secret"))
    for name in ("Work", "Work.2024", "Play"):
        only_kind("create", imap.create(name))
    only_kind("create", imap.create("Work"))
    only_kind("rename", imap.rename("Play", "Game"))
    only_kind("subscribe", imap.subscribe("Game"))
    tell("lsub", imap.lsub())
    only_kind("unsubscribe", imap.unsubscribe("Game"))
    tell("lsub", imap.lsub())
    only_kind("delete", imap.delete("Game"))
    tell("list", imap.list())
    tell("list", imap.list('""', "Work.%"))
    when = time.struct_time((2020, 2, 29, 12, 34, 56, 5, 60, 0))
    for flags in ("", r"\Seen", r"\Flagged \Draft"):
        only_kind("append", imap.append("Work", flags, imaplib.Time2Internaldate(time.mktime(when)), MESSAGE))
    only_kind("append", imap.append("nowhere", "", None, MESSAGE))
    tell("status", imap.status("Work", "(MESSAGES RECENT UIDNEXT UNSEEN)"))
    tell("select", imap.select("Work"))
    tell("recent", imap.recent())
    for name in ("FLAGS", "PERMANENTFLAGS", "READ-WRITE", "UIDNEXT", "EXISTS"):
        tell("response", (name, imap.response(name)[1]))
    for items in (
        *("FLAGS", "RFC822.SIZE", "ENVELOPE", "BODY", "BODYSTRUCTURE", "UID"),
        *("(UID BODY.PEEK[])", "BODY.PEEK[HEADER]", "BODY.PEEK[TEXT]", "BODY.PEEK[1]<2.5>"),
        *("BODY.PEEK[HEADER.FIELDS (SUBJECT DATE)]", "BODY.PEEK[HEADER.FIELDS.NOT (SUBJECT)]"),
        *("RFC822.HEADER", "FLAGS"),
    ):
        tell(f"fetch {items}", imap.fetch("1:2", items))
    for items in ("RFC822.TEXT", "RFC822", "BODY[TEXT]<0.3>"):
        only_kind("fetch", imap.fetch("1:2", items))
        tell("fetch", imap.fetch("1:2", f"(FLAGS {items})"))
    tell("uid fetch", imap.uid("FETCH", "2:9", "(FLAGS)"))
    for keys in (
        *("ALL", "UNSEEN", "FLAGGED DRAFT", "NOT SEEN", "OR SEEN DRAFT", "SUBJECT one", "FROM ann"),
        *("BODY hello", "TEXT nowhere", "SENTON 7-Feb-1994", "SINCE 1-Mar-2020", "2:3", "UID 3"),
        *("LARGER 10", "SMALLER 10", "HEADER Date Feb", "KEYWORD x", "UNKEYWORD x", "(SEEN (ALL))"),
    ):
        tell(f"search {keys}", imap.search(None, keys))
    imap.literal = "héllo".encode()
    tell("search literal", imap.search("UTF-8", "TEXT"))
    tell("uid search", imap.uid("SEARCH", "ALL"))
    tell("store", imap.store("1", "+FLAGS", r"(\Answered)"))
    tell("store", imap.store("1:2", "-FLAGS", r"(\Seen)"))
    tell("store", imap.store("3", "FLAGS.SILENT", r"(\Deleted)"))
    tell("uid store", imap.uid("STORE", "2", "FLAGS", r"(\Deleted)"))
    only_kind("copy", imap.copy("1,3", "INBOX"))
    only_kind("uid copy", imap.uid("COPY", "2", "Work.2024"))
    only_kind("copy", imap.copy("1", "nowhere"))
    only_kind("check", imap.check())
    tell("uid expunge", imap.uid("EXPUNGE", "3"))
    tell("expunge", imap.response("EXPUNGE"))
    tell("expunge", imap.expunge())
    only_kind("noop", imap.noop())
    only_kind("unselect", imap.unselect())
    tell("select", imap.select("INBOX", readonly=True))
    tell("fetch", imap.fetch("1:*", "(UID FLAGS INTERNALDATE)"))
    only_kind("close", imap.close())
    tell("select", imap.select("Work.2024"))
    tell("store", imap.store("1", "FLAGS", r"(\Deleted \Flagged)"))
    only_kind("close", imap.close())
    tell("status", imap.status("Work.2024", "(MESSAGES UIDNEXT UNSEEN)"))
    only_kind("logout", imap.logout())


talk(int(sys.argv[1]))
