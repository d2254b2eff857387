import { assert, assertEquals, assertMatch } from "@std/assert";
import { command, missing, Program, temporaryFolder } from "../helpers.ts";
import { octets } from "../lib/wire.ts";
import { Imap, itemsOf } from "../scripts/imap.ts";
import { type Dovecot, startDovecot } from "./dovecot.ts";
import { certificates, finish, output, python } from "./peers.ts";

const PASSWORD = "secret";

/** Starts our server on a Maildir. */
function startOurs(path: string, ...args: string[]): Program {
  const argv = [...command("imap_server"), "--port", "0", ...args, path];
  return new Program(argv, { env: { MAIL_PASSWORD: PASSWORD } });
}

/** Starts Dovecot on `Maildir` in a folder, which it has to reach as another user. */
async function startReference(folder: string): Promise<Dovecot> {
  await Deno.chmod(folder, 0o755);
  return await startDovecot(folder, { user: "mail", password: PASSWORD });
}

Deno.test({
  name: "imap_server answers imaplib, method by method, what dovecot answers",
  ignore: missing("python3", "dovecot"),
  async fn() {
    await using folder = await temporaryFolder();
    await using dovecot = await startReference(folder.path);
    await using ours = startOurs(`${folder.path}/ours`);
    const [answers, expected] = await Promise.all(
      [await ours.port(), dovecot.imap].map((port) => output(python("imap.py", port))),
    );
    assertEquals(answers.split("\n"), expected.split("\n"));
    assertMatch(answers, /\nlogout OK\n|\nlogout BYE\n/); // to the end
  },
});

/** Messages as they should not be, and some as they may. */
const NASTY: Record<string, string> = {
  plain:
    "From: Ann <ann@example.org>\nTo: bob@example.org\nSubject: plain\nDate: Mon, 7 Feb 1994 21:52:25 -0800\nMessage-ID: <1@x>\n\nHello\nworld\n",
  noFinalNewline: "Subject: no end\n\nlast line without end",
  headerOnly: "Subject: header only\n",
  headerOnlyNoNl: "Subject: header only",
  emptyBody: "Subject: x\n\n",
  bodyOnly: "\nbody only\n",
  noHeaderLine: "this is no header\nat all\n",
  folded:
    'Subject: a\n folded\n\tsubject  \nFrom: =?utf-8?q?J=C3=BCrgen?= <j@example.org>,\n "Quoted \\"Q\\" Name" <q@example.org>\nTo: undisclosed-recipients:;\nCc: Group: a@b.c, D <d@e.f>; , g@h.i (comment (nested) here)\nIn-Reply-To: <2@y>\n\nx\n',
  eightBit:
    "Subject: gr\xfc\xdfe \xe9\nFrom: J\xfcrgen <j@example.org>\nX-8bit: \xc3\xa4\n\nb\xf6dy\n",
  multi:
    'From: a@b\nSubject: multi\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary="xx"\n\npreamble\n--xx\nContent-Type: text/plain; charset=utf-8\n\none\n--xx\nContent-Type: text/html\nContent-Disposition: attachment; filename="a b.html"\nContent-ID: <id@x>\nContent-Description: some html\nContent-Language: en, de\nContent-Location: http://x/\n\n<p>two\n\n--xx\n\nthree, no header\n--xx--\nepilogue\n',
  nested:
    'Subject: nested\nContent-Type: multipart/mixed; boundary=outer\n\n--outer\nContent-Type: multipart/alternative; boundary="inner"\n\n--inner\nContent-Type: text/plain\n\nplain\n--inner\nContent-Type: text/html\n\n<b>html</b>\n--inner--\n\n--outer\nContent-Type: application/octet-stream; name=x.bin\nContent-Transfer-Encoding: base64\n\nAAECAw==\n--outer--\n',
  rfc822:
    "Subject: outer\nContent-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: message/rfc822\nContent-Description: forwarded\n\nFrom: inner@x.y\nSubject: inner\nContent-Type: multipart/mixed; boundary=c\n\nignored\n--c\n\nfirst\n--c\nContent-Type: image/png\nContent-Transfer-Encoding: base64\n\niVBORw0KGgo=\n--c--\ninner epilogue\n--b\nContent-Type: message/rfc822\n\nSubject: simple inner\n\nsimple text\n--b--\n",
  topRfc822: "Subject: top\nContent-Type: message/rfc822\n\nSubject: in\nFrom: x@y\n\ninner body\n",
  topRfc822multi:
    "Subject: top\nContent-Type: message/rfc822\n\nSubject: in\nContent-Type: multipart/mixed; boundary=q\n\n--q\n\na\n--q\n\nb\n--q--\n",
  missingEnd:
    "Subject: missing end\nContent-Type: multipart/mixed; boundary=xx\n\n--xx\n\none\n--xx\n\ntwo without end\n",
  missingEndNested:
    "Subject: missing\nContent-Type: multipart/mixed; boundary=o\n\n--o\nContent-Type: multipart/alternative; boundary=i\n\n--i\n\nin\n--o\n\nafter\n--o--\n",
  noParts: "Subject: noparts\nContent-Type: multipart/mixed; boundary=xx\n\nno delimiter here\n",
  noBoundary: "Subject: noboundary\nContent-Type: multipart/mixed\n\n--xx\n\nhm\n--xx--\n",
  emptyParts:
    "Subject: e\nContent-Type: multipart/mixed; boundary=x\n\n--x\n--x\n\n--x\n\n\n--x--\n",
  onlyEnd: "Subject: e\nContent-Type: multipart/mixed; boundary=x\n\n--x--\n",
  headerCut:
    "Subject: cut\nContent-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: text/html\n--x\nContent-Type: text/plain\n\nok\n--x--\n",
  digest:
    "Subject: digest\nContent-Type: multipart/digest; boundary=d\n\n--d\n\nSubject: d1\n\nbody1\n--d\nContent-Type: text/plain\n\nnot a message\n--d--\n",
  prefix:
    "Subject: p\nContent-Type: multipart/mixed; boundary=foo\n\n--foo\nContent-Type: multipart/mixed; boundary=foobar\n\n--foobar\n\na\n--foobar--\n--foo\n\nb\n--foo-- trailing\nepi\n",
  sameBoundary:
    "Subject: same\nContent-Type: multipart/mixed; boundary=s\n\n--s\nContent-Type: multipart/mixed; boundary=s\n\n--s\n\ninner\n--s--\n--s\n\nouter\n--s--\n",
  trailingSpace:
    'Subject: t\nContent-Type: multipart/mixed; boundary="x y"\n\n--x y  \n\na\n--x y--  \nend\n',
  bareCr: "Subject: cr\rinside\n\nbody\rwith\rcr\n",
  dupHeaders: "Subject: one\nSubject: two\nTo: a@b\nTo: c@d\n\nx\n",
  spaceColon: "Subject : spaced\nFrom:nospace@x\nEmpty:\nSubject:\n\nx\n",
  weirdAddr:
    'From: \nTo: ann\nCc: <>, <a@b>, , "x" , <@route:u@h>, a b c@d, u@[1.2.3.4]\nReply-To: "a, b" <"local part"@x.y>\nSender: (only comment)\n\nx\n',
  contentTypeOdd:
    'Subject: o\nContent-Type: TEXT/Plain (comment); Charset="us\\"x" ; format=flowed; x=\n\nx\n',
  badType: "Subject: o\nContent-Type: nonsense\n\nx\n",
  rfc2231:
    "Subject: o\nContent-Type: application/pdf; name*0*=utf-8''a%20; name*1=b.pdf\nContent-Disposition: inline; filename*=utf-8''%e4.pdf\n\nx\n",
  mimeInMime:
    "Subject: x\nContent-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: message/rfc822\n\nContent-Type: message/rfc822\nSubject: l2\n\nSubject: l3\nContent-Type: multipart/mixed; boundary=z\n\n--z\n\ndeep\n--z--\n--a--\n",
  noBlank822:
    "Subject: x\nContent-Type: multipart/mixed; boundary=a\n\n--a\nContent-Type: message/rfc822\n\n--a--\n",
  leadingBlankDelimiter: "Content-Type: multipart/mixed; boundary=a\n\n\n\n--a\n\n\n\n--a--",
  mboxFrom: "From x Mon Jan 1\nSubject: mbox\n\nx\n",
  longHeader: "Subject: " + "x".repeat(3000) + "\nX: " + "y".repeat(70000) + "\n\nz\n",
};

/** All sections that a message may have up to three parts at each of four levels. */
function sections(): string[] {
  const paths = [""];
  for (let level = 0; level < 4; level++) {
    for (const path of paths.filter((path) => path.split(".").filter((n) => n).length === level)) {
      for (const n of [1, 2, 3]) paths.push(path ? `${path}.${n}` : `${n}`);
    }
  }
  const kinds = [
    "",
    "HEADER",
    "TEXT",
    "MIME",
    "HEADER.FIELDS (SUBJECT FROM)",
    "HEADER.FIELDS.NOT (TO)",
  ];
  return paths.flatMap((path) =>
    kinds.filter((kind) => path || kind !== "MIME").map((kind) => {
      return `BODY.PEEK[${[path, kind].filter((text) => text).join(".")}]`;
    })
  );
}

/** The octets of a section; none of what is not there. */
function octetsOf(value = "NIL"): string {
  const [, literal, quoted = ""] = /^\{\d+\}\r\n([^]*)$|^"([^]*)"$/.exec(value) ?? [];
  return literal ?? quoted;
}

Deno.test({
  name: "imap_server has every octet of every section as dovecot has it",
  ignore: missing("dovecot"),
  async fn() {
    await using folder = await temporaryFolder();
    await using dovecot = await startReference(folder.path);
    for (const [i, text] of Object.values(NASTY).entries()) {
      const name = `${1_700_000_000 + i}.M1P1.host:2,S`;
      await Deno.writeFile(`${dovecot.maildir}/cur/${name}`, octets(text));
    }
    await using ours = startOurs(dovecot.maildir);
    using own = await Imap.open(await ours.port(), PASSWORD);
    using reference = await Imap.open(dovecot.imap, PASSWORD);
    for (const imap of [own, reference]) await imap.ok("EXAMINE INBOX");
    const asked = [...sections(), "BODY.PEEK[]<3.5>", "BODY.PEEK[TEXT]<0.7>", "BODY.PEEK[1]<9.9>"];
    let compared = 0;
    for (const [i, name] of Object.keys(NASTY).entries()) {
      const fetch = `FETCH ${i + 1} (${asked.join(" ")} RFC822.SIZE BODYSTRUCTURE)`;
      const [answer, expected] = (await Promise.all([own.ok(fetch), reference.ok(fetch)]))
        .map(([response]) => itemsOf(response));
      for (const [label, value] of expected) {
        const said = `${name}: ${label}`;
        if (label === "RFC822.SIZE") assertEquals(answer.get(label), value, said);
        else if (label !== "BODYSTRUCTURE") {
          const octets = octetsOf(answer.get(label));
          // A part that is a text has a part 1 for dovecot, itself. The RFC has none.
          if (octets === "" && /\.1(\.MIME)?\]/.test(label)) continue;
          // Without a blank line after the header, dovecot makes one for some of its fields.
          const made = octetsOf(value) === `${octets}\r\n` && label.includes("FIELDS");
          if (!made || !/^(header|noHeader|noBlank)/.test(name)) {
            assertEquals(octets, octetsOf(value), said);
          }
          compared += octets.length > 0 ? 1 : 0;
        } else if (!/^(rfc2231|badType)$/.test(name)) { // which dovecot reads in its own way
          assertEquals(answer.get(label)?.toLowerCase(), value.toLowerCase(), said);
        }
      }
    }
    assert(compared > 300, `${compared}`);
  },
});

Deno.test({
  name: "imap_server says the sender and the recipients as dovecot does",
  ignore: missing("dovecot"),
  async fn() {
    await using folder = await temporaryFolder();
    await using dovecot = await startReference(folder.path);
    const fields = [
      "Ann <ann@example.org>",
      'ann@example.org, <bob@example.org>,\r\n\t"C, D" <c@d>',
      "=?utf-8?q?J=C3=BCrgen?= <j@example.org>",
      "J\xfcrgen <j@example.org>",
      "ann@example.org (Ann (nested \\) comment))",
      "undisclosed-recipients:;",
      "Group: a@b.c, D <d@e.f>; , g@h.i",
      "Unclosed: a@b, c@d",
      "<@route,@other:u@h>",
      '"local part"@example.org',
      "u@[1.2.3.4]",
      'Two Words "and, more" <x@y>',
      "",
    ];
    for (const [i, field] of fields.entries()) {
      const text = `From: ${field}\nSubject: =?x?q?y?=\n folded \nIn-Reply-To: <1@x>\n\nx\n`;
      const name = `${1_700_000_000 + i}.M1P1.host:2,S`;
      await Deno.writeFile(`${dovecot.maildir}/cur/${name}`, octets(text.replaceAll("\r\n", "\n")));
    }
    await using ours = startOurs(dovecot.maildir);
    using own = await Imap.open(await ours.port(), PASSWORD);
    using reference = await Imap.open(dovecot.imap, PASSWORD);
    for (const imap of [own, reference]) await imap.ok("EXAMINE INBOX");
    /** With quoted strings for literals, and without routes, which are obsolete. */
    const plain = (response: string) =>
      response.replaceAll(
        /"((?:[^"\\]|\\.)*)"/g,
        (_, text) => `<${text.replaceAll(/\\(.)/g, "$1")}>`,
      )
        .replaceAll(/\{(\d+)\}\r\n/g, "").replaceAll("<@route,@other>", "NIL").replaceAll(
          /[<>]/g,
          "",
        );
    for (const [i, field] of fields.entries()) {
      const [answer, expected] = await Promise.all(
        [own, reference].map((imap) => imap.ok(`FETCH ${i + 1} ENVELOPE`)),
      );
      assertEquals(plain(answer[0]), plain(expected[0]), field);
    }
  },
});

Deno.test({
  name: "imap_server with curl, and over TLS",
  ignore: missing("curl", "openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const { ca, cert, key } = await certificates(folder.path);
    await using server = startOurs(`${folder.path}/mail`, "--cert", cert, "--key", key);
    const port = await server.port();
    const curl = (path: string, ...args: string[]) =>
      output([
        "curl",
        "-sS",
        "--cacert",
        ca,
        "-u",
        "mail:secret",
        ...args,
        `imaps://127.0.0.1:${port}/${path}`,
      ]);
    const message = "Subject: one\r\n\r\nHello\r\n";
    await Deno.writeTextFile(`${folder.path}/message`, message);
    await curl("", "-X", "CREATE Work");
    for (const mailbox of ["INBOX", "Work", "INBOX"]) {
      await curl(mailbox, "-T", `${folder.path}/message`);
    }
    assertEquals(await curl(""), '* LIST () "." "INBOX"\r\n* LIST () "." "Work"\r\n');
    assertEquals(await curl("INBOX;UID=2"), message);
    assertEquals(await curl("INBOX;UID=1;SECTION=TEXT"), "Hello\r\n");
    assertEquals(await curl("INBOX;MAILINDEX=2;PARTIAL=9.3"), message.slice(9, 12));
    assertEquals(await curl("INBOX?SUBJECT%20one"), "* SEARCH 1 2\r\n");
    assertEquals(
      await curl("INBOX", "-X", "STORE 1 +FLAGS (\\Deleted)"),
      "* 1 FETCH (FLAGS (\\Deleted \\Seen))\r\n",
    );
    assertEquals(await curl("INBOX", "-X", "EXPUNGE"), "* 1 EXPUNGE\r\n");
    assertMatch(
      await curl("", "-X", "STATUS INBOX (MESSAGES UIDNEXT)"),
      /^\* STATUS "INBOX" \(MESSAGES 1 UIDNEXT 3\)/,
    );
    const wrong = ["curl", "-sS", "--cacert", ca, "-u", "mail:wrong", `imaps://127.0.0.1:${port}/`];
    assertEquals((await finish(wrong)).code, 67); // CURLE_LOGIN_DENIED
    await curl("", "--login-options", "AUTH=PLAIN", "--sasl-ir");
  },
});

Deno.test({
  name: "imap_server with mutt: it reads, deletes, flags, and copies to a mailbox that it makes",
  ignore: missing("mutt", "python3"),
  async fn() {
    await using folder = await temporaryFolder();
    await using server = startOurs(`${folder.path}/mail`);
    const port = await server.port();
    using imap = await Imap.open(port, PASSWORD);
    for (const subject of ["one", "two", "three"]) {
      const text = `From: a@b\r\nSubject: ${subject}\r\n\r\n${subject}\r\n`;
      await imap.ok(`APPEND INBOX {${text.length}+}\r\n${text}`);
    }
    const url = `imap://127.0.0.1:${port}/`;
    await Deno.writeTextFile(
      `${folder.path}/muttrc`,
      `set imap_user=mail imap_pass=secret ssl_starttls=no ssl_force_tls=no folder=${url}
set header_cache="" message_cachedir="" delete=yes quit=yes confirmappend=no confirmcreate=no move=no
push "<delete-pattern>~s two<enter><sync-mailbox><first-entry><flag-message><copy-message>=Saved<enter><quit>"
`,
    );
    const bridge =
      "import os, pty, sys; os.environ.update(TERM='xterm', HOME=sys.argv[1]); pty.spawn(sys.argv[2:])";
    const argv = ["mutt", "-n", "-F", `${folder.path}/muttrc`, "-f", `${url}INBOX`];
    await using mutt = new Program(["python3", "-c", bridge, folder.path, ...argv]);
    await mutt.ended();
    await imap.ok("SELECT INBOX");
    assertEquals(await imap.ok("FETCH 1:* (UID FLAGS)"), [
      "* 1 FETCH (UID 1 FLAGS (\\Flagged))",
      "* 2 FETCH (UID 3 FLAGS ())",
    ], mutt.stdout);
    assertEquals(await imap.ok("STATUS Saved (MESSAGES)"), ['* STATUS "Saved" (MESSAGES 1)']);
  },
});
