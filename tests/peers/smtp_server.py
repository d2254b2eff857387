"""Mail sent by smtplib and read back from the Maildir: smtp_server.py PORT MAILDIR. The server takes
mail for example.org alone, and messages of 1,000,000 octets."""

import email.policy
import mailbox
import smtplib
import sys
from email.message import EmailMessage

port, path = int(sys.argv[1]), sys.argv[2]
smtp = smtplib.SMTP("127.0.0.1", port, timeout=20)


def stored():
    """Takes the messages out of the Maildir."""
    maildir = mailbox.Maildir(path, create=False)
    octets = [maildir.get_bytes(key) for key in maildir.keys()]
    maildir.clear()
    return [email.message_from_bytes(message, policy=email.policy.default) for message in octets]


def refusal(kind, action, *arguments, **options):
    try:
        action(*arguments, **options)
    except kind as error:
        return error
    raise AssertionError("taken: %r" % (arguments,))


# What it offers.
assert smtp.ehlo()[0] == 250
assert smtp.esmtp_features == {
    "pipelining": "",
    "8bitmime": "",
    "smtputf8": "",
    "enhancedstatuscodes": "",
    "size": "1000000",
    "help": "",
}, smtp.esmtp_features
assert smtp.noop()[0] == 250
assert smtp.verify("bob@example.org")[0] == 252
assert smtp.expn("list")[0] == 502
assert smtp.help().startswith(b"2.0.0 HELO EHLO MAIL")
refusal(smtplib.SMTPNotSupportedError, smtp.starttls)
refusal(smtplib.SMTPNotSupportedError, smtp.login, "ann", "secret")

# A message of everything, to several.
message = EmailMessage()
message["From"], message["To"] = "Ann <ann@example.org>", "bob@example.org, carol@example.org"
message["Subject"] = "Grüße, 例"
message.set_content("hello ä\n")
message.add_attachment(bytes(range(256)) * 1000, maintype="application", subtype="octet-stream")
assert smtp.send_message(message) == {}
[got] = stored()
assert got["Return-Path"] == "<ann@example.org>", got["Return-Path"]
assert got.get_all("Delivered-To") == ["bob@example.org", "carol@example.org"]
assert len(got.get_all("Received")) == 1
assert got["Subject"] == message["Subject"]
text, attachment = got.iter_parts()
assert text.get_content() == "hello ä\n", text.get_content()
assert attachment.get_content() == bytes(range(256)) * 1000

# Lines with dots, and of 8 bits.
text = "a line\n.\n..\n.dot\n\n%s\nend ä\n.\n" % ("x" * 900)
octets = ("Subject: dots\n\n" + text).replace("\n", "\r\n").encode()
options = ["BODY=8BITMIME", "SIZE=%d" % len(octets)]
assert smtp.sendmail("a@b", "bob@example.org", octets, mail_options=options) == {}
[got] = stored()
assert got.get_payload(decode=True) == text.encode(), got.get_payload()

# Addresses of other letters.
message = EmailMessage()
message["From"], message["To"], message["Subject"] = "ä@example.org", "ö@example.org", "ü"
message.set_content("ß\n")
assert smtp.send_message(message) == {}
[got] = stored()
assert got["Delivered-To"] == "ö@example.org", got["Delivered-To"]
assert " with UTF8SMTP;" in got["Received"], got["Received"]
error = refusal(smtplib.SMTPSenderRefused, smtp.sendmail, "a", "b@example.org", "")
assert (error.smtp_code, error.smtp_error[:5]) == (501, b"5.1.7"), error

# Some recipients are refused, or all.
refused = smtp.sendmail("ann@example.org", ["bob@example.org", "x@example.com"], "Subject: x\n\n")
assert {who: code for who, (code, _) in refused.items()} == {"x@example.com": 550}, refused
assert stored()[0].get_all("Delivered-To") == ["bob@example.org"]
refusal(smtplib.SMTPRecipientsRefused, smtp.sendmail, "ann@example.org", ["x@example.com"], "")

# Too large: announced, and not.
large = "x" * 998 + "\r\n"
assert smtp.sendmail("a@b", "bob@example.org", large * 1000) == {}
assert len(stored()) == 1
error = refusal(smtplib.SMTPSenderRefused, smtp.sendmail, "a@b", "bob@example.org", large * 1001)
assert (error.smtp_code, error.smtp_error[:5]) == (552, b"5.3.4"), error
smtp.esmtp_features.pop("size")
error = refusal(smtplib.SMTPDataError, smtp.sendmail, "a@b", "bob@example.org", large * 1001)
assert (error.smtp_code, error.smtp_error[:5]) == (552, b"5.3.4"), error
assert smtp.sendmail("a@b", "bob@example.org", "Subject: still here\n\n") == {}
assert stored()[0]["Subject"] == "still here"

# A program of old.
with smtplib.SMTP("127.0.0.1", port, timeout=20) as old:
    assert old.helo("old")[0] == 250
    assert old.sendmail("", "POSTMASTER", "Subject: old\n\nold\n") == {}
[got] = stored()
assert (got["Return-Path"], got["Delivered-To"]) == ("<>", "POSTMASTER")
assert " with SMTP;" in got["Received"], got["Received"]

assert smtp.quit()[0] == 221
assert stored() == []
print("done")
