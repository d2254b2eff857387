"""Mail servers of aiosmtpd, and smtplib, for the tests of smtp_client.ts.

    smtp_client.py serve HOST tls|starttls|plain CERT KEY MECHANISM...

serves on a free port of HOST, or at a Unix socket if that is a path, and prints each message as a line
of JSON. Who logs in is `ann` with the password `sécret`, by one of the mechanisms; none: nobody needs to.

    smtp_client.py send PORT FROM TO... < message

sends a message by smtplib's sendmail().
"""

import asyncio
import base64
import json
import smtplib
import ssl
import sys

USER, PASSWORD = b"ann", "sécret".encode()


def serve(host, form, cert, key, *mechanisms):
    # Only here: who sends needs no aiosmtpd.
    from aiosmtpd.smtp import SMTP, AuthResult

    class Handler:
        """Prints what it gets; knows everybody but nobody@."""

        async def handle_RCPT(self, server, session, envelope, address, options):
            if address.startswith("nobody@"):
                return "550 5.1.1 no such mailbox"
            envelope.rcpt_tos.append(address)
            return "250 OK"

        async def handle_DATA(self, server, session, envelope):
            message = {
                "name": session.host_name,
                "tls": session.ssl is not None,
                "authenticated": session.authenticated or False,
                "from": envelope.mail_from,
                "options": envelope.mail_options,
                "to": envelope.rcpt_tos,
                "data": base64.b64encode(envelope.original_content).decode(),
            }
            print(json.dumps(message))
            return "250 2.0.0 kept"

    def authenticate(server, session, envelope, mechanism, data):
        return AuthResult(success=(data.login, data.password) == (USER, PASSWORD), handled=False)

    context = None
    if form != "plain":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(cert, key)
    options = {
        "hostname": "mail.example",
        "enable_SMTPUTF8": True,
        "data_size_limit": 100_000,
        "tls_context": context if form == "starttls" else None,
        "require_starttls": form == "starttls",
    }
    if mechanisms:
        options |= {
            "authenticator": authenticate,
            "auth_required": True,
            "auth_require_tls": form == "starttls",
            "auth_exclude_mechanism": {"PLAIN", "LOGIN"} - set(mechanisms),
        }

    async def run():
        at_once = {"ssl": context} if form == "tls" else {}
        loop = asyncio.get_running_loop()
        make = lambda: SMTP(Handler(), **options)
        if host.startswith("/"):
            server = await loop.create_unix_server(make, host)
            print(f"listening on unix:{host}", file=sys.stderr)
        else:
            server = await loop.create_server(make, host, 0, **at_once)
            port = server.sockets[0].getsockname()[1]
            print(f"listening on {host}:{port}", file=sys.stderr)
        await server.serve_forever()

    asyncio.run(run())


def send(port, sender, *recipients):
    with smtplib.SMTP("127.0.0.1", int(port), timeout=10) as smtp:
        # Of a str it makes the line ends CRLF, bytes it sends as they are.
        smtp.sendmail(sender, recipients, sys.stdin.buffer.read().decode("ascii"))


{"serve": serve, "send": send}[sys.argv[1]](*sys.argv[2:])
