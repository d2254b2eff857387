import { Buffer } from "node:buffer";
import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { basename } from "@std/path";
import { addressParser } from "postal-mime";
import { UsageError } from "../../lib/address.ts";
import { buildMessage, type Mail, parseMailbox } from "../../scripts/email_build.ts";
import {
  attachments,
  type Entity,
  type Message,
  outline,
  parseMessage,
  safeName,
  save,
} from "../../scripts/email_parse.ts";
import { latin1, octets, random } from "../lib/wire.ts";
import { command, mayRun, Program, run, temporaryFolder } from "../helpers.ts";

const READ = ["--allow-read"];
const SAVE = ["--allow-read", "--allow-write"];
const ANN = { from: "ann@example.test", to: ["bob@example.test"] };
const WHO = ["--from", ANN.from, "--to", ANN.to[0]];

/** Characters that can reorder a line, drive a terminal or not be seen. */
// deno-lint-ignore no-control-regex
const UNSAFE = /[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/;

const build = async (mail: Partial<Mail>) => latin1(await buildMessage({ ...ANN, ...mail }));
const rebuilt = async (mail: Partial<Mail>) =>
  await parseMessage(await buildMessage({ ...ANN, ...mail }));
const parse = (text: string) => parseMessage(Buffer.from(text, "latin1"));
const header = ({ headers }: Message, name: string) =>
  headers.filter(([key]) => key === name).map(([, value]) => value).join("\n");
const namesIn = (folder: string) => [...Deno.readDirSync(folder)].map(({ name }) => name).sort();

/** A multipart/mixed of these parts, each with its headers. */
const mixed = (...parts: string[]) => multipart("b", parts);
const multipart = (mark: string, parts: string[]) =>
  `Content-Type: multipart/mixed; boundary=${mark}\n\n` +
  parts.map((part) => `--${mark}\n${part}\n`).join("") + `--${mark}--\n`;
const named = (name: string, content = "x") =>
  `Content-Type: application/x-any\nContent-Disposition: attachment; filename=${name}\n\n${content}`;

Deno.test("a mailbox is an address, or a name and an address", () => {
  for (
    const [text, name, address] of [
      ["ann@example.test", "", "ann@example.test"],
      [" <ann@example.test> ", "", "ann@example.test"],
      ["Ann Lee <ann@example.test>", "Ann Lee", "ann@example.test"],
      ["Ann Lee<ann@example.test>", "Ann Lee", "ann@example.test"],
      ["Lee, Ann (home) <a.b+c@[192.0.2.1]>", "Lee, Ann (home)", "a.b+c@[192.0.2.1]"],
      ['"Lee \\"A\\", Ann" <a@[IPv6:2001:db8::1]>', 'Lee "A", Ann', "a@[IPv6:2001:db8::1]"],
      ["Жанна <жанна@пример.test>", "Жанна", "жанна@пример.test"],
      ['"a b"@example.test', "", '"a b"@example.test'],
    ]
  ) assertEquals(parseMailbox(text), { name, address });
  for (
    const text of [
      ...["", " ", "ann", "@", "a@", "@b", "a@b@c", "a b@c", "a@b c", "a@b, c@d", "a@b;c@d"],
      ...[
        "<a@b",
        "a@b>",
        "A <a@b> <c@d>",
        "A <>",
        "A <a@b> x",
        'A "B <a@b>',
        "a..b@c",
        ".a@b",
        "a.@b",
      ],
      ...["a@b.", "a@.b", "g: a@b;", "a@b\r\nBcc: c@d", "A\nB <a@b>", "A\rB <a@b>", "A <a\n@b>"],
      ...[
        '"A\r\nBcc: c@d" <a@b>',
        "a\0@b",
        "A\0 <a@b>",
        "A\x85 <a@b>",
        '"a\n"@b',
        "a@b\n",
        "\na@b",
      ],
      ...[`${"a".repeat(250)}@b.test`, `${"a".repeat(900)} <a@b>`, "a@[1\n]", "a@b(c)"],
    ]
  ) assertThrows(() => parseMailbox(text), UsageError);
});

Deno.test("a message has its headers, and all lines end with CRLF", async () => {
  const text = await build({
    from: '"Lee, Ann" <ann@example.test>',
    to: ["Bob <bob@example.test>", "carl@example.test"],
    cc: ["dora@example.test"],
    subject: "Hello",
    text: "one\ntwo\r\nthree\rfour\n.\nFrom here",
  });
  const [head, body] = text.split("\r\n\r\n");
  const rows = head.split("\r\n");
  assertEquals(rows.slice(0, 4), [
    'From: "Lee, Ann" <ann@example.test>',
    "To: Bob <bob@example.test>, carl@example.test",
    "Cc: dora@example.test",
    "Subject: Hello",
  ]);
  assertMatch(head, /^Message-ID: <[^@\s]+@example\.test>\r$/m);
  const [, date] = /^Date: (\w{3}, \d\d? \w{3} \d{4} \d\d:\d\d:\d\d \+0000)\r$/m.exec(head) ?? [];
  assert(Math.abs(Date.parse(date) - Date.now()) < 60_000, head);
  assert(rows.includes("MIME-Version: 1.0"), head);
  assertEquals(body, "one\r\ntwo\r\nthree\r\nfour\r\n.\r\nFrom here\r\n");
  assertEquals((await build({})).split("Message-ID: ").length, 2);
  assert((await build({})) !== (await build({})), "two messages with one ID");
});

Deno.test("any script and any length arrive as they were, in lines that SMTP takes", async () => {
  const random1 = random(1);
  const words = [
    "Grüße",
    "Привет",
    "ありがとう",
    "שלום",
    "👩‍👩‍👧",
    "a",
    '"q"',
    "\\",
    "100%",
    "=?x?=",
    "'",
    ";",
  ];
  for (let i = 0; i < 60; i++) {
    const some = () =>
      Array.from({ length: 1 + random1(12) }, () => words[random1(words.length)]).join(" ");
    const [subject, name, file, text] = [some(), some(), some(), some().repeat(random1(200))];
    const mail = { subject, text, attachments: [{ name: file, data: octets("x") }] };
    const built = await buildMessage({
      ...ANN,
      ...mail,
      to: [`"${name.replace(/["\\]/g, "\\$&")}" <a@b.c>`],
    });
    assertMatch(latin1(built), /^([\t -~]{1,998}\r\n|\r\n)+$/); // ASCII, and no CR or LF alone
    const message = await parseMessage(built);
    assertEquals(header(message, "Subject"), subject);
    const [, to] = /^To: (.*(?:\r\n .*)*)/m.exec(latin1(built)) ?? [];
    assertEquals(addressParser(to), [{ name, address: "a@b.c" }]);
    assertEquals(attachments(message.root)[0].name, file);
    assertEquals(message.text.trimEnd(), text.trimEnd());
  }
  const octet = await build({ text: "\0\x01\x7f\xff\x85 " });
  assertMatch(octet, /^([\t -~]{1,998}\r\n|\r\n)+$/);
  assertEquals((await parse(octet)).text.trimEnd(), "\0\x01\x7f\xff\x85");
});

Deno.test("text, HTML, pictures and files each have their place", async () => {
  const data = octets("\x89PNG");
  const structure = async (mail: Partial<Mail>) =>
    outline((await rebuilt(mail)).root).map((line) => line.replace(/(; charset=utf-8)?, .*/, ""));
  assertEquals(await structure({}), ["text/plain; charset=utf-8".replace(/;.*/, "")]);
  assertEquals(await structure({ text: "a" }), ["text/plain"]);
  assertEquals(await structure({ html: "a" }), ["text/html"]);
  const both = { text: "a", html: "<b>a</b>" };
  assertEquals(await structure(both), ["multipart/alternative", "  text/plain", "  text/html"]);
  const file = { name: "a.pdf", data };
  assertEquals(
    await structure({ text: "a", attachments: [file, file] }),
    ["multipart/mixed", "  text/plain", "  application/pdf", "  application/pdf"],
  );
  const pictured = {
    text: "a",
    html: "<img src='cid:a.png'><IMG SRC=CID:gr%C3%BC%C3%9F%25e.gif><p>(see acid:1 and cid:2)",
    inline: [{ name: "a.png", data }, { name: "grüß%e.gif", data }],
  };
  assertEquals(await structure({ ...pictured, attachments: [file] }), [
    "multipart/mixed",
    "  multipart/alternative",
    "    text/plain",
    "    multipart/related",
    "      text/html",
    "      image/png",
    "      image/gif",
    "  application/pdf",
  ]);
  // The HTML has the pictures by their Content-ID, which is new each time.
  const text = await build({ ...pictured, text: "" });
  const ids = [...text.matchAll(/^Content-ID: <(.*@.*)>\r$/gm)].map(([, id]) => id);
  const { text: html } = await parse(text);
  assertEquals(html.match(/cid:[^'>\s)]*/gi), [`cid:${ids[0]}`, `CID:${ids[1]}`, "cid:1", "cid:2"]);
  assert(!(await build({ ...pictured })).includes(ids[0]));
});

Deno.test("pictures and HTML that do not match are a mistake", async () => {
  const picture = { name: "a b.png", data: octets("x") };
  for (
    const [mail, says] of [
      [{ html: "<img src='cid:b.png'>" }, "cid:b.png"],
      [{ html: "<img src='cid:100%'>" }, "cid:100%"],
      [{ html: "<b>", inline: [picture] }, "cid:a%20b.png"],
      [{ text: "a", inline: [picture] }, "cid:a%20b.png"],
      [{ html: "<img src='cid:a%20b.png'>", inline: [picture, picture] }, "two pictures"],
    ] as [Partial<Mail>, string][]
  ) await assertRejects(() => build(mail), UsageError, says);
});

Deno.test("files arrive octet for octet, whatever they are", async () => {
  const pick = random(2);
  const files = [
    "a.bin",
    "a",
    "a.txt",
    "a.html",
    "a.eml",
    "a.mht",
    "a.ics",
    "a.gz",
    "a.zip",
    "a.tar.gz",
  ]
    .flatMap((name) =>
      ["", "\r\n", "--b\n.\n\rx", "a\n".repeat(999), String.fromCharCode(...Array(256).keys())]
        .map((text) => ({ name, data: octets(text) }))
    );
  files.push({ name: "big", data: Uint8Array.from({ length: 300_000 }, () => pick(256)) });
  // Part of a larger buffer, as octets that were read often are.
  files.push({ name: "part", data: new Uint8Array([1, 2, 3, 4]).subarray(1, 3) });
  const { root } = await rebuilt({ text: "a", attachments: files });
  assertEquals(
    attachments(root).map(({ name, content }) => [name, latin1(content)]),
    files.map(({ name, data }) => [name, latin1(data)]),
  );
});

Deno.test("nothing smuggles a header in", async () => {
  const data = octets("x");
  for (const bad of ["\r\n", "\n", "\r", "\0", "\r\n\r\n", "\n Bcc: c@d\n", "\v", "\x1b", "\x85"]) {
    const [name, address] = [`a${bad}Bcc: c@d.test`, `a${bad}@b.test`];
    for (
      const mail of [
        { from: address },
        { from: `"${name}" <a@b.test>` },
        { to: [ANN.to[0], address] },
        { to: [`${name} <a@b.test>`] },
        { cc: [address] },
        { cc: [`${name} <a@b.test>`] },
        { subject: name },
        { attachments: [{ name, data }] },
        { html: `<img src="cid:${encodeURIComponent(name)}">`, inline: [{ name, data }] },
      ]
    ) await assertRejects(() => build(mail), UsageError);
  }
  await assertRejects(() => build({ subject: "a".repeat(2000) }), UsageError, "word of more than");
  // What only looks like a header, a path or a URL is text.
  for (
    const text of [
      "Bcc: c@d",
      "/etc/passwd",
      "file:///etc/passwd",
      "data:,x",
      "http://127.0.0.1:1/",
    ]
  ) {
    const file = { name: text.replaceAll("/", "_"), data };
    const message = await rebuilt({ subject: text, text, html: text, attachments: [file] });
    assertEquals([header(message, "Subject"), message.text.trim()], [text, text]);
    assertEquals(latin1(attachments(message.root)[0].content), "x");
  }
});

Deno.test("headers are decoded, and so is the text", async () => {
  const message = await parse(
    "Subject: =?iso-8859-1?q?Gr=FC=DFe?= =?utf-8?b?4pyT?= and\r\n =?utf-8?q?more?=\r\n" +
      "X-Odd:nothing\r\nno header\r\n\tfolded\r\nFrom: =?koi8-r?b?4s/C?= <b@c>\r\n" +
      "Content-Type: text/plain; charset=windows-1251\r\n" +
      "Content-Transfer-Encoding: quoted-printable\r\n\r\n=CF=F0=E8=\r\n=E2=E5=F2\r\n",
  );
  assertEquals(message.headers.slice(0, 4), [
    ["Subject", "Grüße✓ and more"],
    ["X-Odd", "nothing"],
    ["no header\tfolded", ""],
    ["From", "Боб <b@c>"],
  ]);
  assertEquals(message.text, "Привет\n");
  assertEquals(outline(message.root), ["text/plain; charset=windows-1251, 7 bytes"]);
});

Deno.test("a part ends before the line end that belongs to the boundary", async () => {
  const encodings = {
    "7bit": ["", "a", "a\n", "a\n\n"],
    "8bit": ["\xff\n"],
    "quoted-printable": ["", "a", "a\n", "a=20\n"],
    "base64": ["YQ==", "YQo="],
    "x-unknown": ["a\n"],
  };
  const decoded = { "a=20\n": "a \n", "YQ==": "a", "YQo=": "a\n" } as Record<string, string>;
  for (const [encoding, contents] of Object.entries(encodings)) {
    for (const content of contents) {
      const part = `Content-Type: a/b\nContent-Transfer-Encoding: ${encoding}\n\n${content}`;
      for (const text of [mixed(part), mixed(part).replaceAll("\n", "\r\n")]) {
        const { root: { parts: [{ content: octets }] } } = await parse(text);
        assertEquals(latin1(octets), decoded[content] ?? content, `${encoding}: ${text}`);
      }
    }
  }
});

Deno.test("a message in a message is an attachment that is looked into", async () => {
  let text = "Subject: innermost\n\ntext\n";
  for (let i = 0; i < 12; i++) text = `Subject: ${i}\nContent-Type: message/rfc822\n\n${text}`;
  const { root } = await parse(text);
  const lines = outline(root);
  assertEquals(lines.length, 10);
  assertMatch(lines[8], /^ {16}message\/rfc822, \d+ bytes$/);
  assertMatch(lines[9], /^ {18}message\/rfc822, \d+ bytes, not looked into: more than 10 messages/);
  assertEquals(attachments(root), [root]);

  const inner = multipart("inner", ["\nhello", named("a.bin")]);
  const forwarded = await parse(mixed("\nsee", `Content-Type: message/rfc822\n\n${inner}`));
  assertEquals(outline(forwarded.root), [
    "multipart/mixed",
    "  text/plain, 3 bytes",
    "  message/rfc822, 163 bytes",
    "    multipart/mixed",
    "      text/plain, 5 bytes",
    "      application/x-any, 1 bytes, a.bin",
  ]);
  assertEquals(forwarded.text.trim(), "see");
  assertEquals(attachments(forwarded.root).map(({ content }) => latin1(content)), [inner]);
});

Deno.test("what is text and a file is both, what is no part is an attachment", async () => {
  const file = "Content-Disposition: inline; filename=a.txt\n\nhello";
  const { root, text } = await parse(mixed(file, "Content-Type: text/html\n\n<b>"));
  assertEquals(attachments(root).map(({ name }) => name), ["a.txt"]);
  assertMatch(text, /^hello/);
  for (
    const type of ["multipart/mixed", 'multipart/mixed; boundary=""', "multipart/mixed; boundary=x"]
  ) {
    const lost = await parse(`Content-Type: ${type}\n\n--b\n\nhello\n--b--\n`);
    assertEquals(outline(lost.root), ["multipart/mixed, 17 bytes"]);
    assertEquals(attachments(lost.root), [lost.root]);
  }
});

Deno.test("a name from a mail becomes a file's name", () => {
  for (
    const [name, safe] of [
      ["photo.png", "photo.png"],
      ["Grüße an 王.tar.gz", "Grüße an 王.tar.gz"],
      ["../../etc/passwd", "passwd"],
      ["/etc/passwd", "passwd"],
      ["C:\\Users\\ann\\a.txt", "a.txt"],
      ["a/..\\b", "b"],
      ["..", "attachment"],
      [".", "attachment"],
      ["a/", "attachment"],
      ["", "attachment"],
      [" . ", "attachment"],
      [".bashrc", "attachment.bashrc"],
      ["...hidden.txt", "hidden.txt"],
      ["-rf", "rf"],
      ["a.txt. .", "a.txt"],
      ["a\0.png", "a_.png"],
      ["a\r\nb\x1b[31m\x9b.png", "a__b_[31m_.png"],
      ["invoice\u202egpj.exe", "invoice_gpj.exe"],
      ["a\u2028b\u200bc\ufeffd\ud800e", "a_b_c_d_e"],
      ['<a>:"|?*', "_a______"],
      [`${"a".repeat(300)}.png`, `${"a".repeat(150)}.png`],
      [`${"ü".repeat(300)}.png`, `${"ü".repeat(75)}.png`],
      [`a.${"b".repeat(300)}`, `a.${"b".repeat(148)}`],
    ]
  ) assertEquals(safeName(name), safe, JSON.stringify(name));

  const pick = random(3);
  const pieces = [
    "../",
    "..\\",
    "/",
    ".",
    "-",
    " ",
    "a",
    "\0",
    "\n",
    "\u202e",
    "\ud800",
    "👩",
    "é",
    ".png",
    "~",
    ":",
  ];
  for (let i = 0; i < 3000; i++) {
    const name = Array.from({ length: pick(200) }, () => pieces[pick(pieces.length)]).join("");
    const safe = safeName(name);
    assertMatch(safe, /^[^\s./\\:-][^/\\:\p{C}]*$/u);
    assert(new TextEncoder().encode(safe).length <= 200, safe);
    assert(!/[\s.]$/.test(safe) && basename(safe) === safe, safe);
  }
  assertEquals(safeName("a/".repeat(1e6) + " ".repeat(1e6) + "b"), "attachment"); // and soon
});

Deno.test({
  name: "an attachment is saved whole, over nothing, in the folder",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const out = `${folder.path}/out`;
    await Deno.mkdir(out);
    await Deno.writeTextFile(`${out}/a.txt`, "mine");
    await Deno.mkdir(`${out}/dir.txt`);
    await Deno.symlink("../outside", `${out}/link.txt`);
    const file = (name?: string) => ({ name, content: octets("new") }) as Entity;
    const numbers = new Map();
    const names = [
      "a.txt",
      "a.txt",
      "dir.txt",
      "link.txt",
      "../../outside",
      undefined,
      undefined,
      "x.tar.gz",
      "x.tar.gz",
    ];
    for (const name of names) await save(file(name), out, numbers);
    await save(file("a.txt"), out); // as another run does
    assertEquals(namesIn(out), [
      ...["a-2.txt", "a-3.txt", "a-4.txt", "a.txt", "attachment", "attachment-2", "dir-2.txt"],
      ...["dir.txt", "link-2.txt", "link.txt", "outside", "x.tar-2.gz", "x.tar.gz"],
    ]);
    assertEquals(namesIn(folder.path), ["out"]);
    assertEquals(await Deno.readTextFile(`${out}/a.txt`), "mine");
    assertEquals(await Deno.readTextFile(`${out}/a-4.txt`), "new");
    await assertRejects(() => save(file("a"), `${out}/none`), Deno.errors.NotFound);
  },
});

Deno.test({
  name: "email_parse shows a message, and saves what is attached",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const [mail, out] = [`${folder.path}/m.eml`, `${folder.path}/out/deep`];
    await Deno.writeFile(
      mail,
      octets(
        "From: =?utf-8?q?Ann_L=C3=B6w?= <ann@example.test>\r\nSubject: =?utf-8?q?=1B=5B31m?=\r\n" +
          mixed(
            "\nHello \x1b[2J Bob,\n\tgr\xfc\xdfe\xe2\x80\xae\n\n",
            named('"../a.sh"', "#!/bin/sh"),
            named('".."'),
            "Content-Type: ev\x1bil/x; charset=\x07\n\nx",
          ),
      ),
    );
    // Everybody may do everything, as far as the umask goes.
    const argv = [...command("email_parse", SAVE), "--save", out, mail];
    await using program = new Program(["sh", "-c", 'umask 0; exec "$@"', "sh", ...argv]);
    const { code, stdout, stderr } = await program.ended();
    assertEquals([code, stderr], [0, ""]);
    assertEquals(
      stdout,
      `From: Ann Löw <ann@example.test>
Subject: \\x1b[31m
Content-Type: multipart/mixed; boundary=b

multipart/mixed
  text/plain, 27 bytes
  application/x-any, 9 bytes, ../a.sh
  application/x-any, 1 bytes, ..
  ev\\x1bil/x; charset=\\x07, 1 bytes

attachment: ../a.sh, application/x-any, 9 bytes, saved as ${out}/a.sh
attachment: .., application/x-any, 1 bytes, saved as ${out}/attachment
attachment: no name, ev\\x1bil/x, 1 bytes, saved as ${out}/attachment-2

Hello \\x1b[2J Bob,
\tgr\ufffd\ufffde\\u202e
`,
    );
    assertEquals(namesIn(out), ["a.sh", "attachment", "attachment-2"]);
    for (const name of namesIn(out)) {
      assertEquals((Deno.statSync(`${out}/${name}`).mode ?? 0) & 0o111, 0, name);
    }
    assertEquals(await Deno.readTextFile(`${out}/a.sh`), "#!/bin/sh");
    // Without --save nothing is written, and stdin needs no permission.
    const piped = await run("email_parse", [], { stdin: mixed("\nhello", named("a.sh")) });
    assertEquals(piped, {
      code: 0,
      stdout: `Content-Type: multipart/mixed; boundary=b\n
multipart/mixed\n  text/plain, 5 bytes\n  application/x-any, 1 bytes, a.sh\n
attachment: a.sh, application/x-any, 1 bytes\n\nhello\n`,
      stderr: "",
    });
  },
});

Deno.test({
  name: "an attachment that cannot be saved leaves nothing, and that is said",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const [mail, out] = [`${folder.path}/m.eml`, `${folder.path}/out`];
    await Deno.writeTextFile(
      mail,
      mixed(named("a", "a\n".repeat(40)), named("b", "b\n".repeat(99_000))),
    );
    // A file may have 100 KiB at most.
    const bound = ["sh", "-c", 'trap "" XFSZ; ulimit -f 100; exec "$@"', "sh"];
    const argv = [...bound, ...command("email_parse", SAVE), "--save", out, mail];
    await using program = new Program(argv);
    const { code, stdout, stderr } = await program.ended();
    assertEquals(code, 1);
    assertMatch(stderr, /^email_parse: .*file too large.*\n$/);
    assertMatch(stdout, /^attachment: a, .*saved as .*\/out\/a$/m);
    assertEquals(namesIn(out), ["a"]);
  },
});

Deno.test({
  name: "email_parse says in one line what it cannot do",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const mail = `${folder.path}/m.eml`;
    await Deno.writeTextFile(mail, mixed(named("a")));
    for (
      const [args, permissions, says] of [
        [[`${folder.path}/none`], READ, /\/none: no such file or directory\n$/],
        [[folder.path], READ, new RegExp(`: ${folder.path}: is a directory\n$`)],
        [[mail], [], /Requires read access.*--allow-read/i],
        [["--save", `${folder.path}/out`, mail], READ, /Requires write access.*--allow-write/i],
        [["--save", mail, mail], SAVE, /m\.eml.*(exists|not a directory)/],
      ] as [string[], string[], RegExp][]
    ) {
      const { code, stderr } = await run("email_parse", args, { permissions });
      assertEquals([code, stderr.split("\n").length], [1, 2], stderr);
      assertMatch(stderr, says);
    }
    assertEquals(namesIn(folder.path), ["m.eml"]);
    const full = ["sh", "-c", '"$@" > /dev/full', "sh", ...command("email_parse", READ), mail];
    await using program = new Program(full);
    assertMatch((await program.ended()).stderr, /^email_parse: stdout: no space left on device\n$/);
  },
});

Deno.test({
  name: "email_build takes its text from stdin or a file, and files from flags",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const write = async (name: string, text: string) => {
      await Deno.writeFile(`${folder.path}/${name}`, octets(text));
      return `${folder.path}/${name}`;
    };
    const page = await write("page.html", '<img src="cid:p.png">');
    const picture = await write("p.png", "\x89PNG");
    const note = await write("grüße.txt", "from the file");
    const ask = async (args: string[], options: Parameters<typeof run>[2] = {}) => {
      const { code, stdout, stderr } = await run("email_build", [...WHO, ...args], options);
      assertEquals([code, stderr], [0, ""]);
      return await parse(stdout);
    };
    // Without a permission, if there is no file.
    const plain = await ask(["--subject", "Grüße", "--cc", "C <c@d.test>"], { stdin: "Grüße\n" });
    assertEquals([plain.text, header(plain, "Subject")], ["Grüße\n", "Grüße"]);
    assertEquals(header(plain, "Cc"), "C <c@d.test>");
    const all = ["--html", page, "--inline", picture, "--attach", note, "--attach", picture];
    const message = await ask([...all, note], { permissions: READ, stdin: "not read" });
    assertEquals(message.text.trim(), "from the file");
    assertEquals(attachments(message.root).map(({ name }) => name), [
      "p.png",
      "grüße.txt",
      "p.png",
    ]);
    const html = await ask(["--html", page, "--inline", picture], { permissions: READ });
    assertEquals(outline(html.root)[0], "multipart/related");

    await write("bad.txt", "\xff");
    for (
      const [args, code, says] of [
        [["--subject", "a\r\nBcc: c@d"], 2, /"a\\r\\nBcc: c@d" has a line end or the like/],
        [["--to", "a@b\n"], 2, /"a@b\\n" has a line end or the like|not a mailbox/],
        [["--to", "a@b, c@d"], 2, /"a@b, c@d" is not a mailbox/],
        [
          ["--attach", await write("a\nBcc: c@d", "x")],
          2,
          /"a\\nBcc: c@d" has a line end or the like/,
        ],
        [["--inline", picture], 2, /the HTML does not have cid:p\.png/],
        [["--attach", `${folder.path}/none`], 1, /\/none: no such file or directory\n$/],
        [["--attach", folder.path], 1, /: is a directory/],
        [["--html", `${folder.path}/bad.txt`], 1, /\/bad\.txt: not UTF-8\n$/],
      ] as [string[], number, RegExp][]
    ) {
      const result = await run("email_build", [...WHO, ...args], { permissions: READ, stdin: "x" });
      assertEquals([result.code, result.stdout, result.stderr.split("\n").length], [code, "", 2]);
      assertMatch(result.stderr, says);
    }
    const denied = await run("email_build", [...WHO, "--attach", note], { stdin: "x" });
    assertEquals(denied.code, 1);
    assertMatch(denied.stderr, /^email_build: Requires read access.*--allow-read/i);
    const full = ["sh", "-c", 'echo | "$@" > /dev/full', "sh", ...command("email_build"), ...WHO];
    await using program = new Program(full);
    assertMatch((await program.ended()).stderr, /^email_build: stdout: no space left on device\n$/);
  },
});

/** A message with a bit of everything, and no mistake in it. */
const GOOD = `Received: from a.test by b.test; Sat, 28 Nov 2026 10:00:00 +0000
From: =?utf-8?q?Ann_L=C3=B6w?= <ann@example.test>
To: "Bob, B." <bob@example.test>, friends: c@d.test, e@f.test;
Subject: =?iso-8859-1?b?R3L232U=?= =?utf-8?b?4pyT?=
 folded
MIME-Version: 1.0 (it is)
Content-Type: multipart/mixed; boundary="outer (b)"

preamble
--outer (b)
Content-Type: multipart/alternative; boundary=inner

--inner
Content-Type: text/plain; charset=utf-8; format=flowed
Content-Transfer-Encoding: quoted-printable

gr=C3=BC=C3=9Fe =
and more
--inner
Content-Type: text/html; charset=koi8-r

<p>\xc2\xc3<a href="cid:x">
--inner--
--outer (b)
Content-Type: application/x-any; name*0*=utf-8''gr%C3%BC; name*1="e.bin"
Content-Transfer-Encoding: base64
Content-Disposition: attachment; filename="=?utf-8?q?gr=C3=BC=C3=9Fe.bin?="

AAECAwQFBgcICQ==
--outer (b)
Content-Type: message/rfc822

Subject: inside
Content-Type: text/plain; charset=utf-16le

h\0i\0
--outer (b)--
epilogue
`;

/** What was read of a message holds: all of it can be printed, and each file has a name. */
async function assertReads(text: string, what: string): Promise<Message | Error> {
  const began = performance.now();
  const message = await parse(text).catch((error) => error);
  const took = performance.now() - began;
  assert(took < 10_000, `${what}: ${took} ms`);
  if (message instanceof Error) {
    assertMatch(
      message.message,
      /^more than|^the message is empty|^Maximum (MIME nesting depth|header size)/,
      what,
    );
    return message;
  }
  const lines = outline(message.root);
  assert(lines.length > 0 && !lines.some((line) => UNSAFE.test(line)), what);
  for (const { name } of attachments(message.root)) {
    assertMatch(safeName(name), /^[^\s./\\:-][^/\\:\p{C}]*$/u, what);
  }
  return message;
}

Deno.test("a message cut off or damaged at any place is read as far as it goes", async () => {
  const whole = await assertReads(GOOD, "whole") as Message;
  assertEquals(outline(whole.root), [
    "multipart/mixed",
    "  multipart/alternative",
    "    text/plain; charset=utf-8, 16 bytes",
    "    text/html; charset=koi8-r, 21 bytes",
    "  application/x-any, 10 bytes, grüße.bin",
    "  message/rfc822, 64 bytes",
    "    text/plain; charset=utf-16le, 4 bytes",
  ]);
  assertEquals(header(whole, "Subject"), "Größe✓ folded");
  for (let at = 0; at <= GOOD.length; at++) {
    await assertReads(GOOD.slice(0, at), `cut at ${at}`);
    if (at % 3 === 0) await assertReads(GOOD.slice(at), `from ${at}`);
  }
  const pick = random(4);
  const bad = [
    "\0",
    "\r",
    "\n",
    "\r\n",
    "\xff",
    "=",
    "=?",
    "?=",
    "--",
    '"',
    "(",
    ";",
    "\\",
    ":",
    "<",
    "*0*=",
  ];
  for (let i = 0; i < 600; i++) {
    let text = GOOD;
    for (let n = 0; n <= pick(4); n++) {
      const [at, end] = [pick(text.length), pick(text.length)];
      text = [
        () => text.slice(0, at) + bad[pick(bad.length)] + text.slice(at + pick(3)),
        () => text.slice(0, at) + text.slice(at + pick(40)),
        () => text.slice(0, at) + text.slice(Math.min(at, end), Math.max(at, end)) + text.slice(at),
        () => text.replaceAll("\n", ["\r", "\r\n", "\n\n", "\n "][pick(4)]),
      ][pick(4)]();
    }
    await assertReads(text, `mutation ${i}`);
  }
});

/** Makes messages that follow the rules most of the time. */
function generator(pick: (n: number) => number): () => string {
  const one = <T>(...of: T[]) => of[pick(of.length)];
  const rarely = (text: string) => pick(8) === 0 ? text : "";
  const bytes = (n: number) =>
    Array.from({ length: pick(n) }, () => String.fromCharCode(pick(256))).join("");
  const boundary = () =>
    one("b", "=_x", "a b", "b".repeat(70), "b".repeat(3000), "", '"', "--", "\xff", "b\\");
  const charset = () =>
    one(
      "utf-8",
      "iso-8859-1",
      "windows-1252",
      "gb2312",
      "iso-2022-jp",
      "utf-16",
      "utf-7",
      "x-none",
      "",
      '"',
      "\xff",
    );
  const words = () =>
    one(
      "=?utf-8?q?=C3=BC?=",
      "=?utf-8?b?w7w=?=",
      "=?x?q?=FF?=",
      "=?utf-8?b?w7w",
      "=?utf-8?z?a?=",
      "gr\xc3\xbc\xdfe",
      "a\0b",
      "\x1b[2J",
      "word",
    );
  const headers = () =>
    [
      `Subject: ${Array.from({ length: pick(20) }, words).join(one(" ", "", "\n "))}`,
      `From: ${one("a@b", "<", "<<a@b>>", '"a', "a: b, c;", "(((", words(), `${words()} <a@b>`)}`,
      one(
        "Date: yesterday",
        "no colon",
        ": no name",
        " folded first",
        "\tX: y",
        bytes(40),
        "From x y",
        "X-A:",
      ),
    ].slice(pick(3)).join("\n") + "\n";
  function entity(depth: number): string {
    const encoding = one(
      "7bit",
      "8bit",
      "binary",
      "base64",
      "quoted-printable",
      "x-uuencode",
      "BASE64 ",
      "",
    );
    const type = depth > 6 ? "text/plain" : one(
      "text/plain",
      "text/html",
      "text/calendar",
      "text",
      "",
      "/",
      "image/png",
      "message/rfc822",
      "multipart/mixed",
      "multipart/alternative",
      "multipart/related",
      "multipart/digest",
      "message/partial",
    );
    const mark = boundary();
    const head = `Content-Type: ${type}; charset=${one("", '"')}${charset()}${one("", '"')}` +
      (pick(6) ? `; boundary=${one("", '"')}${mark}${one("", '"')}` : "") + rarely(";;=;") + "\n" +
      `Content-Transfer-Encoding: ${encoding}\n` + rarely(`Content-Type: text/html; boundary=z\n`) +
      rarely(
        `Content-Disposition: attachment; filename${one("", "*", "*0*")}=${
          one("../../x", "\0", "a\u202eb", "utf-8''%2e%2e%2fx", words())
        }\n`,
      );
    const start = head + one("\n", "\n", "\n", "");
    if (type === "message/rfc822") return start + message(depth + 1);
    if (type.startsWith("multipart")) {
      const parts = Array.from(
        { length: pick(4) },
        () => `--${mark}${rarely(" x")}\n${entity(depth + 1)}`,
      );
      return start + rarely("preamble\n") + parts.join(one("\n", "")) +
        one(`\n--${mark}--`, "", `\n--${mark}`);
    }
    return start + one(
      bytes(400),
      "YWJj\nZGVm=\nZ".slice(pick(8)),
      "a=\n=3D=3=\n=zz=",
      "begin 644 x.exe\n#86)C\n`\nend\n",
      "<p>&amp;<style><!--<a href=x>".repeat(pick(9)),
      "\n".repeat(pick(50)),
      "x".repeat(pick(5000)),
      "--b\n--b--\n--\n",
      "",
    );
  }
  const message = (depth: number): string => headers() + entity(depth) + rarely(bytes(100));
  return () => {
    const text = message(0);
    return one(
      text,
      text,
      text.replaceAll("\n", "\r\n"),
      text.replaceAll("\n", "\r"),
      text.slice(0, pick(text.length)),
    );
  };
}

Deno.test("hundreds of made-up messages are read, whatever is wrong with them", async () => {
  const make = generator(random(5));
  for (let i = 0; i < 500; i++) await assertReads(make(), `message ${i}`);
});

/** So many multiparts in each other, none of them closed. */
const nested = (n: number) =>
  Array.from({ length: n }, (_, i) => `Content-Type: multipart/mixed; boundary=b${i}\n\n--b${i}\n`)
    .join("");

/** What those send who want to break a mail program, and what some mail programs do by mistake. */
const BROKEN: Record<string, [text: () => string, error?: RegExp]> = {
  empty: [() => "", /the message is empty/],
  "a line end": [() => "\n"],
  "only a header": [() => "Subject: x"],
  "no header": [() => "\nhello\n"],
  "bare CR": [() => "Subject: x\rFrom: y\r\rtext\r"],
  NULs: [() => "\0".repeat(100_000)],
  "8-bit headers": [() => "Subject: \xfc\xc3\xbc\xff\nFrom: \x80 <\xff@\xfe>\n\nx"],
  "endless encoded words": [() => "Subject: " + "=?utf-8?q?=41?= ".repeat(20_000) + "\n\nx"],
  "unended encoded words": [() => "Subject: " + "=?utf-8?b?".repeat(30_000) + "\n\nx"],
  "a folded header": [() => "Subject:" + "\n x".repeat(50_000) + "\n\nx"],
  "30,000 headers": [() => "a: b\n".repeat(30_000) + "\nx"],
  "a huge header": [() => "Subject: " + "x".repeat(3_000_000) + "\n\nx", /header size/],
  "30,000 addresses": [() => "To: " + "<a@b>,".repeat(30_000) + "\n\nx"],
  "open comments": [() => "Content-Type: text/plain" + "(".repeat(500_000) + "\n\nx"],
  "30,000 parameters": [() => "Content-Type: a/b" + ";a*1*=b".repeat(30_000) + "\n\nx"],
  "10,000 deep": [() => nested(10_000), /nesting depth/],
  "200 deep, and not closed": [() => nested(200) + "\n" + "--b1x\n".repeat(3000)],
  "4,000 parts": [() => mixed(...Array(4000).fill("\nx"))],
  "messages with many parts": [
    () => {
      const message = multipart("inner", Array(5000).fill(""));
      return mixed(...Array(4).fill(`Content-Type: message/rfc822\n\n${message}`));
    },
    /more than 10000 parts/,
  ],
  "1,000 attachments of one name": [() => mixed(...Array(1000).fill(named("a.txt")))],
  "10 MB of empty lines": [() => "\n\n" + "\n".repeat(1e7), /more than 500000 lines/],
  "10 MB of base64's ends": [
    () => "Content-Transfer-Encoding: base64\n\n" + "A=".repeat(5e6),
    /more than 500000 lines and equals signs/,
  ],
  "a line of 10 MB": [() => "\n" + "x".repeat(1e7)],
  "10 MB of base64": [
    () => "Content-Transfer-Encoding: base64\n\n" + ("QUJD".repeat(19) + "\r\n").repeat(128_000),
  ],
  "too much": [() => "\n" + "x".repeat(34e6), /more than 33554432 bytes/],
  "HTML that is all tags": [
    () => mixed("\nx", "Content-Type: text/html\n\n" + "<a ".repeat(300_000)),
  ],
  "HTML that is all comments": [
    () => mixed("\nx", "Content-Type: text/html\n\n" + "<!--".repeat(300_000)),
  ],
  "HTML that is all blanks": [
    () => mixed("\nx", "Content-Type: text/html\n\n" + " ".repeat(1e6) + "x"),
  ],
  "names of parameters of objects": [
    () => "Content-Type: a/b; __proto__=x; constructor=y; hasOwnProperty*0=z\n\nx",
  ],
};

Deno.test({
  name: "email_parse prints the structure of each, or says in one line why not",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const make = generator(random(6));
    const made = Array.from({ length: 10 }, (_, i) => [`made-up ${i}`, [make]] as const);
    for (const [what, [text, error]] of [...Object.entries(BROKEN), ...made]) {
      await Deno.writeFile(`${folder.path}/m.eml`, Buffer.from(text(), "latin1"));
      const args = ["--save", `${folder.path}/out`, `${folder.path}/m.eml`];
      const { code, stdout, stderr } = await run("email_parse", args, { permissions: SAVE });
      if (error) {
        assertEquals([code, stdout], [1, ""], what);
        assertMatch(stderr, new RegExp(`^email_parse: \\S+/m\\.eml: .*${error.source}.*\n$`), what);
      } else {
        assertEquals([code, stderr], [0, ""], what);
        assertMatch(stdout, /^\n\S.*( bytes.*\n|\n {2})/m, what);
        assert(!UNSAFE.test(stdout.replace(/[\n\t]/g, "")), what);
      }
    }
    assertEquals(namesIn(folder.path), ["m.eml", "out"]);
    for (const name of namesIn(`${folder.path}/out`)) assertMatch(name, /^[^\s.-]/);
  },
});
