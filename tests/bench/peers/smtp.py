"""The SMTP server of Python's standard library (up to 3.11), which stores mail in a Maildir.

mailbox.Maildir syncs the file; for the promise of a 250 the folder is synced here as well.
"""

import asyncore
import mailbox
import os
import smtpd
import sys


class Server(smtpd.SMTPServer):
    def process_message(self, peer, mailfrom, rcpttos, data, **kwargs):
        maildir.add(data)
        os.fsync(folder)
        print("%s:%d:" % peer, mailfrom, rcpttos, len(data), file=sys.stderr)


maildir = mailbox.Maildir(sys.argv[1])
folder = os.open(os.path.join(sys.argv[1], "new"), os.O_RDONLY)
server = Server(("127.0.0.1", 0), None)
print("listening on 127.0.0.1:%d" % server.socket.getsockname()[1], file=sys.stderr)
asyncore.loop()
