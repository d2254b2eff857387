"""Mail messages by Python's email package: reads one to JSON, or writes some to a folder.

    python3 email_peer.py read FILE
    python3 email_peer.py write FOLDER

Octets are base64 in the JSON. What is written has beside it what must be read of it.
"""
import base64
import email.policy
import json
import sys
from email.headerregistry import Address
from email.message import EmailMessage
from email.mime.application import MIMEApplication
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.utils import localtime, make_msgid

ALL = bytes(range(256)) * 20
TEXT = "Grüße an Bob,\n\n.\nFrom here\n" + "lang " * 300 + "\n"


def base64_of(octets):
    return base64.b64encode(octets).decode()


def read(path):
    with open(path, "rb") as file:
        message = email.message_from_binary_file(file, policy=email.policy.default)
    body = {kind: message.get_body((kind,)) for kind in ("plain", "html")}
    parts = list(message.walk())
    return {
        "headers": {name.lower(): str(value) for name, value in message.items()},
        "to": [[a.display_name, a.addr_spec] for a in message["To"].addresses],
        "date": message["Date"].datetime.timestamp(),
        "types": [part.get_content_type() for part in parts],
        "bodies": {kind: part and part.get_content() for kind, part in body.items()},
        "attachments": [
            [part.get_filename(), part.get_content_type(), base64_of(part.get_payload(decode=True))]
            for part in message.iter_attachments()
        ],
        "pictures": [
            [part["Content-ID"], part.get_filename()] for part in parts if part["Content-ID"]
        ],
        "defects": [repr(defect) for part in parts for defect in part.defects]
        + [repr(d) for part in parts for value in part.values() for d in value.defects],
    }


def started(subject):
    message = EmailMessage()
    message["From"] = Address("Ann Löw", addr_spec="ann@example.test")
    message["To"] = [Address("Lee, Bob", addr_spec="bob@example.test"), Address("王", "carl", "c.test")]
    message["Subject"] = subject
    message["Date"] = localtime()
    message["Message-ID"] = make_msgid(domain="example.test")
    return message


def write(folder):
    """Each message has a text, and these attachments: name, type, octets."""
    messages = {}
    for charset in ("utf-8", "iso-8859-1"):
        for encoding in ("quoted-printable", "base64", "8bit"):
            text = TEXT.replace("lang " * 300, "") if encoding == "8bit" else TEXT
            message = started(f"Grüße {charset} — ありがとう " + "weit " * 40 + "weg")
            message.set_content(text, charset=charset, cte=encoding)
            messages[f"{charset}-{encoding}"] = (message, text, [])

    message = started("ASCII, and long, " * 20 + "\\ (\"end\")")
    message.set_content("plain\n")
    message.add_alternative("<p>html", subtype="html")
    files = [
        ("grüße 王.bin", "application/x-any", ALL),
        ("a" * 180 + "é.bin", "application/x-any", b""),
        ('quote " and \\ back.png', "image/png", b"\r\n\x00\n"),
    ]
    for name, type, octets in files:
        message.add_attachment(octets, *type.split("/"), filename=name)
    for encoding in ("7bit", "quoted-printable", "base64"):
        message.add_attachment("a\n\n b \nc\n", cte=encoding, filename=f"{encoding}.txt")
        files.append((f"{encoding}.txt", "text/plain", b"a\n\n b \nc\n"))
    messages["files"] = (message, "plain\n", files)

    inner = started("inside")
    inner.set_content("inner\n")
    message = started("forward")
    message.set_content("see below\n")
    message.add_attachment(inner)
    octets = inner.as_bytes(policy=email.policy.default)
    messages["forward"] = (message, "see below\n", [(None, "message/rfc822", octets)])

    # As programs did before RFC 2231, and some do today.
    message = MIMEMultipart()
    message["Subject"] = "alt"
    message.attach(MIMEText("старый\n", _charset="koi8-r"))
    part = MIMEApplication(ALL)
    part.add_header("Content-Disposition", 'attachment; filename="=?utf-8?b?Z3LDvMOfZS5iaW4=?="')
    message.attach(part)
    messages["old"] = (message, "старый\n", [("grüße.bin", "application/octet-stream", ALL)])

    expected = {}
    for name, (message, text, files) in messages.items():
        policy = email.policy.compat32 if name == "old" else email.policy.default
        ends = "\r\n" if name.endswith("8bit") or name == "files" else "\n"
        with open(f"{folder}/{name}.eml", "wb") as file:
            file.write(message.as_bytes(policy=policy.clone(linesep=ends)))
        expected[name] = {
            "subject": str(message["Subject"]),
            "text": text,
            "attachments": [[file, type, base64_of(octets)] for file, type, octets in files],
        }
    return expected


if __name__ == "__main__":
    print(json.dumps({"read": read, "write": write}[sys.argv[1]](sys.argv[2])))
