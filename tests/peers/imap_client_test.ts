import { Buffer } from "node:buffer";
import { assert, assertEquals, assertMatch } from "@std/assert";
import { Maildir } from "../../lib/maildir.ts";
import { Imap } from "../../scripts/imap_client.ts";
import { command, missing, Program, type Result, temporaryFolder } from "../helpers.ts";
import { latin1, octets } from "../lib/wire.ts";
import { certificate, FILES } from "../scripts/rig.ts";
import { startDovecot } from "./dovecot.ts";
import { dial, output } from "./peers.ts";

const LOGIN = { user: "ann@example.org", password: 'pass"wörd\\ {5} %' };

/** Starts the client. */
function client(...args: (string | number)[]): Program {
  const flags = ["--user", LOGIN.user, ...args.map(String)];
  return new Program([...command("imap_client", FILES), ...flags], {
    env: { MAIL_PASSWORD: LOGIN.password, TZ: "UTC" },
  });
}

/** Runs the client to its end. */
async function ask(...args: (string | number)[]): Promise<Result> {
  await using program = client(...args);
  return await program.ended();
}

const prints = (stdout: string, stderr = ""): Result => ({ code: 0, stdout, stderr });

/** Delivers a message as our SMTP server does. A character of it is an octet. */
async function deliver(box: Maildir, text: string): Promise<void> {
  await box.deliver(octets(text.replaceAll("\n", "\r\n")));
}

const utf8 = (text: string) => latin1(Buffer.from(text));
const multipart = (type: string, boundary: string, ...parts: string[]) =>
  `Content-Type: multipart/${type}; boundary="${boundary}"\n\n` +
  parts.map((part) => `--${boundary}\n${part}\n`).join("") + `--${boundary}--\n`;

const INNER = "From: Bob <bob@example.org>\nSubject: =?utf-8?b?w4RwZmVs?=\n" +
  multipart(
    "alternative",
    "inner",
    "Content-Type: text/plain; charset=utf-16le\nContent-Transfer-Encoding: base64\n\n" +
      Buffer.from("Äpfel", "utf16le").toString("base64"),
    "Content-Type: text/html\n\n<b>no</b>",
  );

/** Messages, and what is shown of them. */
const CASES: { message: string; subject?: string; structure: string; text?: string }[] = [
  {
    message: "Subject: plain\n\nHello,\n.dots\n\tand tabs, no \x1b[31mred\x07\n",
    subject: "plain",
    structure: "1 text/plain 40 B",
    text: "Hello,\n.dots\n\tand tabs, no \\x1b[31mred\\x07",
  },
  {
    message: "Subject: =?iso-8859-1?q?Gr=FC=DFe?= =?utf-8?b?IOaXpeacrA==?=\n =?utf-8?q?!?=\n" +
      "Content-Type: text/plain; charset=iso-8859-15\nContent-Transfer-Encoding: 8bit\n\n5 \xa4\n",
    subject: "Grüße 日本!",
    structure: "1 text/plain 5 B",
    text: "5 €",
  },
  {
    message:
      `Subject: ${
        utf8("8-bit ü")
      } \x1b]0;title\x07\nContent-Type: text/plain; charset=shift_jis\n` +
      "Content-Transfer-Encoding: quoted-printable\n\n=93=FA=\n=96{=\n",
    subject: "8-bit ü \\x1b]0;title\\x07",
    structure: "1 text/plain 16 B",
    text: "日本",
  },
  {
    message: "Subject: nobody's charset\nContent-Type: text/plain; charset=klingon\n\nna\xefve\n",
    subject: "nobody's charset",
    structure: "1 text/plain 7 B",
    text: "naïve",
  },
  {
    message: `Subject: html only\nContent-Type: text/html; charset=utf-8\n\n<p>${utf8("ü")}</p>\n`,
    subject: "html only",
    structure: "1 text/html 11 B",
    text: "<p>ü</p>",
  },
  {
    message:
      'Subject: no text\nContent-Type: image/png; name*0*=utf-8\'\'%C3%A4; name*1="\\"b.png"\n' +
      "Content-Transfer-Encoding: base64\n\nAAAA\n",
    subject: "no text",
    structure: '1 image/png 6 B ä"b.png',
  },
  {
    message: "Subject: nested\n" + multipart(
      "mixed",
      "outer",
      'Content-Type: text/plain\nContent-Disposition: attachment; filename="=?utf-8?q?=C3=BC?=.txt"\n\nno',
      `Content-Type: message/rfc822\n\n${INNER}`,
      multipart("related", "third", "\nlast"),
    ),
    subject: "nested",
    structure: `multipart/mixed
  1 text/plain 2 B ü.txt
  2 message/rfc822 ${octets(INNER.replaceAll("\n", "\r\n")).length} B Äpfel
    2 multipart/alternative
      2.1 text/plain 16 B
      2.2 text/html 9 B
  3 multipart/related
    3.1 text/plain 4 B`,
    text: "Äpfel",
  },
  { message: "\n", structure: "1 text/plain 0 B", text: "" },
  {
    message: "Subject: nothing in it\n" + multipart("mixed", "x"),
    subject: "nothing in it",
    structure: "multipart/mixed\n  1 text/plain 0 B",
    text: "",
  },
];

Deno.test({
  name: "imap_client shows messages of all kinds from dovecot, and none is seen after it",
  ignore: missing("dovecot"),
  async fn() {
    await using folder = await temporaryFolder();
    await using dovecot = await startDovecot(folder.path, LOGIN);
    const box = await Maildir.open(dovecot.maildir);
    for (const { message } of CASES) await deliver(box, message);
    for (const [i, { subject, structure, text }] of CASES.entries()) {
      const header = subject === undefined ? "" : `Subject: ${subject}\n`;
      assertEquals(
        await ask("-p", dovecot.imap, "show", i + 1),
        text === undefined
          ? prints(`${header}\n${structure}\n`, "imap_client: no text in it\n")
          : prints(`${header}\n${structure}\n\n${text}\n`),
      );
    }
    const { stdout, stderr, code } = await ask("-p", dovecot.imap, "list");
    assertEquals([code, stderr], [0, ""]);
    assertEquals(
      stdout.split("\n").map((line) => line.slice(70)),
      [...CASES.map(({ subject }) => subject ?? ""), ""],
    );
    assert((await box.list()).every(({ flags }) => flags === ""));
  },
});

Deno.test({
  name: "imap_client does everything at dovecot",
  ignore: missing("dovecot"),
  async fn() {
    await using folder = await temporaryFolder();
    await using dovecot = await startDovecot(folder.path, LOGIN);
    const asks = (...args: (string | number)[]) => ask("-p", dovecot.imap, ...args);
    const box = await Maildir.open(dovecot.maildir);
    for (const name of ["Entw&APw-rfe", "&ZeVnLA-", "&-", 'a "b" \\c', "sub.folder"]) {
      await deliver(await Maildir.open(`${dovecot.maildir}/.${name}`), `Subject: in ${name}\n\n`);
    }
    const froms = ["Ann <ann@example.org>", "bob@example.org", "=?utf-8?q?J=C3=BCrgen?= <j@x>"];
    for (const [i, from] of froms.entries()) {
      const date = `Date: Sun, 1 Feb 2026 09:3${i}:00 +0000`;
      await deliver(box, `From: ${from}\n${date}\nSubject: no ${i}\n\n${utf8("Grüße")}\n`);
    }
    await box.setFlags((await box.list())[0], "FS");
    const lines = [
      "     1  -F-S-  2026-02-01 09:30       93 B  Ann                       no 0\n",
      "     2  -----  2026-02-01 09:31       87 B  bob@example.org           no 1\n",
      "     3  -----  2026-02-01 09:32      101 B  Jürgen                    no 2\n",
    ];

    assertEquals(await asks("list"), prints(lines.join("")));
    assertEquals(
      await asks("list", "--last", 2),
      prints(lines.slice(1).join(""), "imap_client: the last 2 of 3, --last N shows more\n"),
    );
    const { stdout: folders, code } = await asks("folders");
    assertEquals(code, 0);
    assertEquals(folders.trimEnd().split("\n").sort(), [
      "&: 1 messages, 1 unseen",
      "Entwürfe: 1 messages, 1 unseen",
      "INBOX: 3 messages, 2 unseen",
      'a "b" \\c: 1 messages, 1 unseen',
      "sub.folder: 1 messages, 1 unseen",
      "sub: only folders",
      "日本: 1 messages, 1 unseen",
    ]);
    for (const name of ["Entwürfe", "日本", "&", 'a "b" \\c', "sub.folder"]) {
      assertMatch((await asks("list", "--folder", name)).stdout, /^ {5}1 .* in \S.*\n$/);
    }
    const none = await asks("list", "--folder", "none\r\nA7 LOGOUT");
    assertEquals([none.code, none.stdout], [1, ""]);
    assertMatch(
      none.stderr,
      /^imap_client: \S+: the server says NO Mailbox doesn't exist: none.*\n$/,
    );

    const searches: [keys: string[], found: number[]][] = [
      [["all"], [1, 2, 3]],
      [["unseen"], [2, 3]],
      [["from", "ann"], [1]],
      ["or from ann from bob".split(" "), [1, 2]],
      ["not ( from ann )".split(" "), [2, 3]],
      [["2:*", "subject", "no 1"], [2]],
      [["sentsince", "2-Feb-2026"], []],
      [["from", "jürgen"], [3]],
      ["body grüße not from bob text ß".split(" "), [1, 3]],
      [["subject", "100%"], []],
      [["subject", "{5}"], []],
      [["from", 'a"b\\c'], []],
      [["from", "ü\r\nA9 LOGOUT"], []],
    ];
    using conn = await dial(dovecot.imap);
    const imap = new Imap(conn);
    await imap.greet();
    await imap.login(LOGIN.user, LOGIN.password);
    await imap.examine("INBOX");
    for (const [keys, found] of searches) assertEquals(await imap.search(keys), found, keys.join());
    await imap.logout();
    assertEquals(await asks("search", "from", "jürgen"), prints(lines[2]));
    assertEquals(
      await asks("search", "from", "nobody"),
      prints("", "imap_client: nothing in INBOX\n"),
    );
    const wrong = await asks("search", "bogus");
    assertEquals([wrong.code, wrong.stdout], [1, ""]);
    assertMatch(
      wrong.stderr,
      /^imap_client: \S+: the server says BAD .*Unknown argument BOGUS.*\n$/,
    );
    const gone = await asks("show", 99);
    assertEquals([gone.code, gone.stdout], [1, ""]);
    assertMatch(gone.stderr, /^imap_client: \S+: no message 99 in INBOX\n$/);

    const other = await asks("list", "--user", "bob");
    assertEquals(other.code, 1);
    assertMatch(
      other.stderr,
      /^imap_client: \S+: the server says NO \[AUTHENTICATIONFAILED\] .*\n$/,
    );
  },
});

Deno.test({
  name: "imap_client watches a folder of dovecot, over TLS, until it is thrown out",
  ignore: missing("doveadm", "dovecot", "openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const files = await certificate(folder.path);
    await using dovecot = await startDovecot(folder.path, { ...LOGIN, ...files });
    const box = await Maildir.open(dovecot.maildir);
    await deliver(box, "Subject: old\n\n");
    const flags = ["-p", dovecot.imaps, "--tls", "--ca", files.cert];
    await using one = client(...flags, "watch");
    await using other = client(...flags, "watch");
    await one.until(/watching INBOX, by IDLE\n/, "stderr");
    await other.until(/watching INBOX, by IDLE\n/, "stderr");
    await deliver(box, "Subject: first\n\n");
    await one.until(/first\n/);
    await other.until(/first\n/);
    await box.remove((await box.list())[0]);
    await deliver(box, "Subject: second\n\n");
    await one.until(/second\n/);
    one.signal("SIGINT");
    const left = await one.ended();
    assertEquals([left.code, left.stderr], [0, "imap_client: watching INBOX, by IDLE\n"]);
    assertEquals(left.stdout.match(/\w+\n/g), ["first\n", "second\n"]);
    await output(["doveadm", "-c", `${folder.path}/dovecot/conf`, "kick", LOGIN.user]);
    const { code, stderr } = await other.ended();
    assertEquals(code, 1);
    assertMatch(stderr, /\nimap_client: \S+: the server (says BYE .*|has hung up)\n$/);
  },
});

Deno.test({
  name: "imap_client lists and finds the last of 10,000 messages at dovecot",
  ignore: missing("dovecot"),
  async fn() {
    await using folder = await temporaryFolder();
    await using dovecot = await startDovecot(folder.path, LOGIN);
    for (let i = 1; i <= 10_000; i++) {
      const text = `From: Ann <ann@example.org>\nSubject: no ${i}\n\nx\n`;
      Deno.writeTextFileSync(`${dovecot.maildir}/cur/${1e9 + i}.M1P1.localhost:2,`, text);
    }
    const { code, stdout, stderr } = await ask("-p", dovecot.imap, "list");
    assertEquals([code, stderr], [0, "imap_client: the last 20 of 10000, --last N shows more\n"]);
    assertEquals(
      stdout.match(/no \d+\n/g),
      Array.from({ length: 20 }, (_, i) => `no ${9981 + i}\n`),
    );
    const found = await ask("-p", dovecot.imap, "search", "subject", "no 777");
    assertEquals(found.stdout.match(/no \d+\n/g)?.length, 11);
  },
});
