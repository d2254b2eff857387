import { Buffer } from "node:buffer";
import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { listen, UsageError } from "../../lib/address.ts";
import { FramedConn, LimitError } from "../../lib/framing.ts";
import { serve } from "../../lib/server.ts";
import {
  decodeFolder,
  decodeText,
  encodeFolder,
  Imap,
  partsOf,
  quote,
  readResponse,
  type Response,
  textPartOf,
  watch,
} from "../../scripts/imap_client.ts";
import { command, mayConnect, mayRun, missing, Program, temporaryFolder } from "../helpers.ts";
import { latin1, octets, type Piece, random, receiving } from "../lib/wire.ts";
import { dial, eventually, memory } from "../peers/peers.ts";
import { FILES, forms, testServer } from "./rig.ts";

const SECRET = 'pass"wörd\\ 1';

/** The parts of a message of which BODYSTRUCTURE is this. */
async function parts(structure: string) {
  const { conn } = receiving(`* X ${structure}\r\n`);
  return partsOf((await readResponse(conn)).values[0]);
}

Deno.test("parts have the sections of RFC 3501, 6.4.5", async () => {
  const leaf = (type: string) => `("${type.replace("/", '" "')}" NIL NIL NIL "7BIT" 5)`;
  const message = (subject: string, body: string) =>
    `("MESSAGE" "RFC822" NIL NIL NIL "7BIT" 9 (NIL ${subject} NIL) ${body} 1)`;
  const structure = `(${leaf("TEXT/PLAIN")}${leaf("APPLICATION/OCTET-STREAM")}${
    message("{1}\r\n3", `(${leaf("TEXT/PLAIN")}${leaf("APPLICATION/OCTET-STREAM")} "MIXED")`)
  }(${leaf("IMAGE/GIF")}${
    message(
      '"4.2"',
      `(${leaf("TEXT/PLAIN")}(${leaf("TEXT/PLAIN")}${
        leaf("TEXT/RICHTEXT")
      } "ALTERNATIVE") "MIXED")`,
    )
  }${message("NIL", leaf("TEXT/HTML"))} "MIXED") "MIXED" ("BOUNDARY" "x"))`;
  const lines = (await parts(structure)).map(({ depth, section, type, subject }) =>
    [" ".repeat(depth) + section, type, ...subject ? [subject] : []].join(" ")
  );
  assertEquals(
    lines.join("\n"),
    ` multipart/mixed
 1 text/plain
 2 application/octet-stream
 3 message/rfc822 3
  3 multipart/mixed
   3.1 text/plain
   3.2 application/octet-stream
 4 multipart/mixed
  4.1 image/gif
  4.2 message/rfc822 4.2
   4.2 multipart/mixed
    4.2.1 text/plain
    4.2.2 multipart/alternative
     4.2.2.1 text/plain
     4.2.2.2 text/richtext
  4.3 message/rfc822
   4.3.1 text/html`,
  );
  assertEquals((await parts(leaf("TEXT/HTML"))).map(({ section }) => section), ["1"]);
  for (
    const odd of ["()", "NIL", "x", "((()))", "(x)", "(NIL (NIL))", '("message" "rfc822" () ())']
  ) {
    assert((await parts(odd)).length > 0);
  }
});

Deno.test("the text to read is the first that is not attached", async () => {
  const text = (type: string, rest = "") => `("text" "${type}" NIL NIL NIL "7bit" 5 1${rest})`;
  const attached = text("plain", ' NIL ("ATTACHMENT" NIL)');
  const cases: [structure: string, section?: string][] = [
    [text("plain"), "1"],
    [attached],
    ['("image" "png")'],
    [`(${attached}(${text("plain")}${text("html")} "alternative") "mixed")`, "2.1"],
    [`(${text("calendar")}${text("html", ' NIL ("inline" NIL)')} "mixed")`, "2"],
  ];
  for (const [structure, section] of cases) {
    assertEquals(textPartOf(await parts(structure))?.section, section);
  }
});

Deno.test("a text is decoded by its encoding and its charset", () => {
  const cases: [encoding: string, charset: string | null, octets: string, text: string][] = [
    ["7bit", "us-ascii", "a=20\r\n", "a=20\r\n"],
    ["8bit", null, "\xc3\xbc", "ü"],
    ["8bit", "US-ASCII", "\xc3\xbc", "ü"],
    ["binary", "ISO-8859-2", "\xb1", "ą"],
    ["quoted-printable", "utf-8", "=C3=\r\n=bc=  \t\r\n=\n=3d=3D=ZZ=", "ü===ZZ="],
    ["base64", "euc-jp", "xvz\r\nL3A==\r\n", "日本"],
    ["base64", "utf-8", "*w7\r\n*w=", "ü"],
    ["x-unknown", "klingon", "na\xefve", "naïve"],
    ["", "utf-8", "\xff", "\ufffd"],
  ];
  const part = { depth: 0, section: "1", type: "text/plain", size: 0 };
  for (const [encoding, charset, data, text] of cases) {
    const params = ["format", "flowed", "Charset", charset];
    assertEquals(decodeText({ ...part, encoding, params }, data).slice(0, text.length), text);
  }
  // In time that grows with the octets alone.
  for (const unit of ["=", "= ", "==\r\n", " "]) {
    decodeText({ ...part, encoding: "quoted-printable" }, unit.repeat(1e6));
  }
  assertEquals(decodeFolder("&AA".repeat(1e6)).length, 3e6);
});

/** Starts the client. */
function client(args: (string | number)[]): Program {
  return new Program([...command("imap_client", FILES), ...args.map(String)], {
    env: { MAIL_PASSWORD: SECRET, TZ: "UTC" },
  });
}

/** Runs the client to its end. */
async function ask(...args: (string | number)[]) {
  await using program = client(args);
  return await program.ended();
}

/** A server's answers by commands or their names. `TAG` in one is the tag; without it OK ends it. */
type Answers = Record<string, string>;

const message = (number: number, from: string) => {
  const header =
    `From: ${from}\r\nDate: Sun, 1 Feb 2026 09:30:00 +0000\r\nSubject: no ${number}\r\n\r\n`;
  return `* ${number} FETCH (UID ${number}0 FLAGS (\\Seen $Junk) RFC822.SIZE 1234 ` +
    `BODY[HEADER.FIELDS (DATE FROM SUBJECT)]<0> {${octets(header).length}}\r\n${header})\r\n`;
};

const MAILBOX: Answers = {
  greeting: "* OK ready\r\n",
  CAPABILITY: "* CAPABILITY IMAP4rev1 IDLE\r\n",
  EXAMINE:
    "* FLAGS (\\Seen)\r\n* 2 EXISTS\r\n* OK [UIDNEXT 21] more\r\nTAG OK [READ-ONLY] done\r\n",
  LIST: '* LIST (\\HasNoChildren) "/" INBOX\r\n* LIST (\\Noselect) NIL {8}\r\n&ZeVnLA-\r\n',
  STATUS: '* STATUS "INBOX" (UNSEEN 1 MESSAGES 2)\r\n',
  "UID SEARCH": "* SEARCH 20 10\r\n",
  "UID FETCH": message(1, "Ann <ann@example.org>") + message(2, "bob@example.org"),
  LOGOUT: "* BYE bye\r\n",
};

/** Answers commands until the client leaves; `heard` gets each as it came, literals included. */
async function converse(conn: FramedConn, answers: Answers, heard: string[] = []): Promise<void> {
  await conn.writeAll(octets(answers.greeting ?? MAILBOX.greeting));
  for (let line, tag = ""; (line = await conn.readLine()) !== null;) {
    for (let length; (length = /\{(\d+)\}$/.exec(line)?.[1]);) {
      await conn.writeAll("+ go on\r\n");
      line += `\r\n${latin1(await conn.readExactly(Number(length)))}${await conn.readLine()}`;
    }
    const [, given, name = ""] = /^(?:(\S+) )?((?:UID )?\S+)/.exec(line) ?? [];
    if (given) tag = given; // DONE has none
    const whole = given ? line.slice(given.length + 1) : line;
    heard.push(whole);
    const answer = answers[whole] ?? answers[name] ?? MAILBOX[name] ?? "";
    const ended = /^TAG|^\+/m.test(answer) ? answer : `${answer}TAG OK done\r\n`;
    await conn.writeAll(octets(ended.replaceAll("TAG", tag)));
  }
}

/** A server that does, for one test. */
function mailServer(answers: Answers = {}, heard: string[] = []) {
  return testServer((conn) => converse(conn, answers, heard));
}

const response = (given: Partial<Response>): Response => ({
  ...{ tag: "*", name: "", values: [] },
  ...given,
});

const RESPONSES: [octets: string, Response][] = [
  [
    "* OK [ALERT] don't \"panic (\r\n",
    response({ name: "OK", values: ["[ALERT] don't \"panic ("] }),
  ],
  ["A7 no\r\n", response({ tag: "A7", name: "NO", values: [""] })],
  [
    "* bye gr\xc3\xbc\xc3\x9fe {5}\r\n",
    response({ name: "BYE", values: ["gr\xc3\xbc\xc3\x9fe {5}"] }),
  ],
  ["+ idling\r\n", response({ tag: "+", values: ["idling"] })],
  ["+\r\n", response({ tag: "+", values: [""] })],
  ["* 23 EXISTS\r\n", response({ name: "EXISTS" })],
  ["* SEARCH\r\n", response({ name: "SEARCH" })],
  ["* search 2 84 882\n", response({ name: "SEARCH", values: ["2", "84", "882"] })],
  [
    '* LIST (\\Noselect) "\\\\" "a \\"b\\""\r\n',
    response({ name: "LIST", values: [["\\Noselect"], "\\", 'a "b"'] }),
  ],
  [
    "* LIST () nil [Gmail]/All\r\n",
    response({ name: "LIST", values: [[], null, "[Gmail]/All"] }),
  ],
  [
    '* 1 FETCH (BODY[HEADER.FIELDS ("DATE" FROM)]<0> {4}\r\n)(\r\n UID 7 X "NIL" (()(NIL "")))\r\n',
    response({
      name: "FETCH",
      values: [[
        ...['BODY[HEADER.FIELDS ("DATE" FROM)]<0>', ")(\r\n", "UID", "7"],
        ...["X", "NIL", [[], [null, ""]]],
      ]],
    }),
  ],
  ['* X "a\rb"\r c\r\n', response({ name: "X", values: ["a\rb", "\r", "c"] })],
  ["* X {0}\r\n{2}\r\n\xff\0\r\n", response({ name: "X", values: ["", "\xff\0"] })],
];

Deno.test("responses are read, wherever they are cut", async () => {
  for (const [text, expected] of RESPONSES) {
    for (let at = 0; at < text.length; at++) {
      const { conn } = receiving(text.slice(0, at), text.slice(at), "rest");
      assertEquals(await readResponse(conn), expected, text);
      assertEquals(await conn.readExactly(4), octets("rest"));
      const ends = receiving(text.slice(0, at), null).conn;
      await assertRejects(() => readResponse(ends), Error);
    }
  }
});

Deno.test("what is no response is said", async () => {
  const cases = [
    ...[
      "\r\n",
      "garbage\r\n",
      "* \r\n",
      "* 5\r\n",
      "*OK x\r\n",
      "A1 YES\r\n",
      "A1\r\n",
      "\x9b\r\n",
    ],
    ...['* X "open\r\n', "* X (\r\n", "* X )\r\n", "* X (()\r\n", "* X {5} x\r\n", "* X {x}\r\n"],
    ...["* X {-1}\r\n", "* 1 FETCH (BODY[ 5)\r\n", "* X {1}\r\na)\r\n"],
  ];
  for (const text of cases) {
    const { conn } = receiving(text);
    await assertRejects(() => readResponse(conn), Error, "not a response of IMAP: ");
  }
});

Deno.test("no response takes more than its share", async () => {
  const xs = new Uint8Array(4e7).fill(0x78);
  const cases: [pieces: Piece[], says: string][] = [
    [["* X {4294967296}\r\n"], "answer of more than 67108864 bytes"],
    [[`* X {${"9".repeat(400)}}\r\n`], "answer of more than"],
    [["* X {40000000}\r\n", xs, " {40000000}\r\n"], "answer of more than"],
    [["* X ", Buffer.from("() ".repeat(1e6)), "\r\n"], "answer of more than"],
    [["* X", Buffer.from(" {0}\r\n".repeat(1e6))], "answer of more than"],
    [[`* X ${"(".repeat(100_000)}\r\n`], "lists more than 200 deep"],
    [["* X ", xs], "line of more than 8388608 bytes"],
  ];
  for (const [pieces, says] of cases) {
    const { conn } = receiving(...pieces);
    await assertRejects(() => readResponse(conn), LimitError, says);
  }
  // Nor more time: of a section without its end, nothing is looked at twice.
  const { conn } = receiving("* X ", Buffer.from("BODY[ ".repeat(1e6)), "\r\n");
  await assertRejects(() => readResponse(conn), Error, "not a response");
  // 200 deep is still something.
  const { conn: deep } = receiving(`* X ${"(".repeat(200)}${")".repeat(200)}\r\n`);
  assertEquals((await readResponse(deep)).values.length, 1);
});

Deno.test("whatever comes is a response or an error, and nothing hangs", async () => {
  const pick = random(6);
  const pieces = [
    ...'* |A1 |OK |NO |BYE |+ |1 |FETCH |LIST |STATUS |(|)|()|"|\\|"a"|NIL|{3}\r\nabc'.split("|"),
    ...'{3}|{|}|[|]|BODY[|BODY[] |BODYSTRUCTURE |\r\n|\n|\r|\0|\xff|UID 7 |"text" "plain" '.split(
      "|",
    ),
  ];
  let read = 0;
  for (let i = 0; i < 20_000; i++) {
    const text = Array.from({ length: pick(20) }, () => pieces[pick(pieces.length)]).join("");
    const { conn } = receiving(`${pick(2) ? "* FETCH (" : ""}${text}\r\n`, null);
    for (;;) {
      try {
        const { values } = await readResponse(conn);
        const parts = partsOf(values);
        assert(parts.length > 0);
        textPartOf(parts);
        read++;
      } catch (error) {
        assert(error instanceof Error && !(error instanceof TypeError), `${text}: ${error}`);
        break;
      }
    }
  }
  assert(read > 500, `${read}`);
});

Deno.test("folders' names are modified UTF-7 on the wire", () => {
  const cases = [
    ["INBOX", "INBOX"],
    ["~peter/mail/台北/日本語", "~peter/mail/&U,BTFw-/&ZeVnLIqe-"], // the RFC's own
    ["Entwürfe", "Entw&APw-rfe"],
    ["&", "&-"],
    ["a&b&&", "a&-b&-&-"],
    ["&AOQ-", "&-AOQ-"],
    ["😀", "&2D3eAA-"],
    ["a\r\nA1 LOGOUT", "a&AA0ACg-A1 LOGOUT"],
    ["", ""],
  ];
  for (const [name, wire] of cases) {
    assertEquals(encodeFolder(name), wire);
    assertEquals(decodeFolder(wire), name);
  }
  // Were they decoded, what is shown could not be asked for.
  for (const wrong of ["&AOQ", "&AA-", "&AOQ=-", "&AGE-", "&!-", "&", "ü", "&U,BTF-x", "&&AOQ-"]) {
    assertEquals(decodeFolder(wrong), wrong);
  }
  const pick = random(1);
  for (let i = 0; i < 2000; i++) {
    const name = String.fromCharCode(
      ...Array.from({ length: pick(9) }, () => pick(2 ** (1 + pick(16)))),
    );
    assertMatch(encodeFolder(name), /^[ -~]*$/);
    assertEquals(decodeFolder(encodeFolder(name)), name);
  }
});

Deno.test("strings are quoted, or octets if quotes cannot hold them", () => {
  assertEquals(quote('a "b" \\c'), '"a \\"b\\" \\\\c"');
  assertEquals(quote(""), '""');
  for (const text of ["ü", "a\r\nb", "a\0", "\x7f"]) {
    assertEquals(quote(text), Buffer.from(text));
  }
});

const LINES = [
  "    10  ---S-  2026-02-01 09:30    1.23 kB  Ann                       no 1",
  "    20  ---S-  2026-02-01 09:30    1.23 kB  bob@example.org           no 2",
];
const [FIRST, SECOND] = LINES.map((line) => `${line}\n`);

/** What a client of which all went well has printed. */
const prints = (stdout: string, stderr = "") => ({ code: 0, stdout, stderr });

Deno.test({
  name: "imap_client lists, in each form",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    for (const [form, endpoint, flags] of await forms(folder.path)) {
      const [host, unix, cert, key] = ["--host", "--unix", "--cert", "--key"].map((name) => {
        const at = endpoint.indexOf(name);
        return at < 0 ? undefined : endpoint[at + 1];
      });
      const listener = await listen({ host: host ?? "127.0.0.1", port: 0, unix, cert, key });
      const stop = new AbortController();
      const serving = serve(listener, (conn) => converse(conn, {}), {
        ...{ name: "test", signal: stop.signal, log: () => {} },
      });
      const port = "port" in listener.addr ? ["--port", listener.addr.port] : [];
      assertEquals(await ask(...port, ...flags, "list"), prints(FIRST + SECOND), form);
      stop.abort();
      await serving;
    }
  },
});

Deno.test({
  name: "each command sends what it should, and prints what comes",
  ignore: !mayRun,
  async fn() {
    const heard: string[] = [];
    const structure =
      '* 1 FETCH (UID 10 BODYSTRUCTURE ("TEXT" "PLAIN" ("CHARSET" "ISO-8859-1") NIL ' +
      'NIL "QUOTED-PRINTABLE" 9 1) BODY[HEADER.FIELDS (X)]<0> {31}\r\nSubject: =?utf-8?q?=C3=BC?=\r\n\r\n)\r\n';
    const fetched =
      '* 1 FETCH (FLAGS ())\r\n* 1 FETCH (UID 10 BODY[1] "=FC\x1b[2J\x9b" FLAGS ())\r\n';
    await using server = mailServer({}, heard);
    await using one = mailServer({
      "UID FETCH": structure,
      "UID FETCH 10 (UID BODY.PEEK[1])": fetched,
    }, heard);
    const sends = (...commands: string[]) => {
      const [capability, login, ...rest] = heard.splice(0);
      assertEquals(capability, "CAPABILITY");
      assertEquals(login, `LOGIN "mail" {13}\r\n${latin1(Buffer.from(SECRET))}`);
      assertEquals(rest, [...commands, "LOGOUT"]);
    };
    const summary = "(UID FLAGS RFC822.SIZE BODY.PEEK[HEADER.FIELDS (DATE FROM SUBJECT)]<0.65536>)";

    assertEquals(
      await ask("-p", server.port, "folders"),
      prints("INBOX: 2 messages, 1 unseen\n日本: only folders\n"),
    );
    sends('LIST "" *', 'STATUS "INBOX" (MESSAGES UNSEEN)');
    assertEquals(
      await ask("-p", server.port, "list", "--last", 1, "--folder", 'Entwürfe "a\\b"\r\nA LOGOUT'),
      prints(FIRST + SECOND, "imap_client: the last 1 of 2, --last N shows more\n"),
    );
    sends(
      'EXAMINE "Entw&APw-rfe \\"a\\\\b\\"&AA0ACg-A LOGOUT"',
      "UID SEARCH ALL",
      `UID FETCH 20 ${summary}`,
    );
    await ask("-p", server.port, "search", ..."unseen ( from ann@example.org 1:* )".split(" "));
    sends(
      'EXAMINE "INBOX"',
      "UID SEARCH unseen (from ann@example.org 1:*)",
      `UID FETCH 10,20 ${summary}`,
    );
    await ask(
      "-p",
      server.port,
      "search",
      "subject",
      "a b",
      "body",
      "100%",
      "text",
      "{5}",
      "to",
      "",
    );
    assertEquals(heard[3], 'UID SEARCH subject "a b" body "100%" text "{5}" to ""');
    heard.length = 0;
    await ask("-p", server.port, "search", "not", "text", "ü\r\nA LOGOUT", "subject", "x\\y");
    assertEquals(
      heard[3],
      'UID SEARCH CHARSET UTF-8 not text {12}\r\n\xc3\xbc\r\nA LOGOUT subject "x\\\\y"',
    );
    heard.length = 0;

    const header = `To: ${"a@b, ".repeat(20_000)}`;
    await using long = mailServer({
      "UID FETCH":
        `* 1 FETCH (UID 10 BODYSTRUCTURE NIL BODY[] {${header.length}}\r\n${header})\r\n`,
    });
    const cut = await ask("-p", long.port, "show", 10);
    assertEquals(cut.stdout.split("\n")[0], header.slice(0, 65536));
    assertMatch(
      cut.stderr,
      /^imap_client: the header is longer, cut at 65536 bytes\n.* no text in it\n$/,
    );

    const { stdout, stderr, code } = await ask("-p", one.port, "show", 10);
    assertEquals([stderr, code], ["", 0]);
    assertEquals(stdout, "Subject: ü\n\n1 text/plain 9 B\n\nü\\x1b[2J›\n");
  },
});

Deno.test({
  name: "what a server refuses is said in its words, exit 1, and a password is shown to nobody",
  ignore: !mayRun,
  async fn() {
    const cases: [Answers, says: string, args?: string[]][] = [
      [{ greeting: "* BYE full\r\n" }, "the server says BYE full"],
      [{ greeting: "* NO\r\n" }, "not a response of IMAP: NO "],
      [{ greeting: "220 SMTP\r\n" }, "not a response of IMAP: 220 SMTP"],
      [
        { LOGIN: "TAG NO [AUTHENTICATIONFAILED] wrong\x1b[2J\r\n" },
        "the server says NO " +
        "[AUTHENTICATIONFAILED] wrong\\x1b[2J",
      ],
      [{ EXAMINE: "TAG NO no such folder\r\n" }, "the server says NO no such folder"],
      [{ EXAMINE: "+ more\r\n" }, "not a response of IMAP: +  more"],
      [{ EXAMINE: "A99 OK\r\n" }, "not a response of IMAP: A99 OK "],
      [{ "UID SEARCH": "TAG BAD no key\r\n" }, "the server says BAD no key"],
      [{ "UID SEARCH": "* SEARCH 1 1,ALL\r\n" }, "not a response of IMAP: SEARCH without numbers"],
      [{ "UID SEARCH": "* BYE restarting\r\n" }, "the server says BYE restarting"],
      [{ STATUS: "TAG NO not yours\r\n" }, "INBOX: the server says NO not yours", ["folders"]],
      [{ "UID FETCH": "" }, "no message 10 in INBOX", ["show", "10"]],
      [
        { CAPABILITY: "* CAPABILITY IMAP4rev1 logindisabled\r\n" },
        "the server takes no password " +
        "here (LOGINDISABLED), it may over --tls",
      ],
    ];
    await Promise.all(cases.map(async ([answers, says, args = ["list"]]) => {
      const heard: string[] = [];
      await using server = mailServer(answers, heard);
      const { code, stdout, stderr } = await ask("-p", server.port, ...args);
      assertEquals([code, stdout], [1, ""]);
      assertEquals(stderr, `imap_client: 127.0.0.1:${server.port}: ${says}\n`);
      if (says.includes("LOGINDISABLED")) assertEquals(heard, ["CAPABILITY"]);
    }));

    await using server = mailServer({ LOGIN: "* NO [ALERT] over quota\r\n" });
    const { code, stderr } = await ask("-p", server.port, "--trace", "list");
    assertEquals(code, 0);
    assertMatch(stderr, /LOGIN "mail" \{13\}\\r\\n\n[^]*> \S+ \*\*\*\n/);
    assert(!stderr.includes("rd\\"), stderr);
    assertMatch(stderr, /^imap_client: the server says NO \[ALERT\] over quota$/m);

    // Somebody whom the server knows already needs no password.
    const heard: string[] = [];
    await using known = mailServer({ greeting: "* PREAUTH hello\r\n" }, heard);
    assertEquals((await ask("-p", known.port, "list")).code, 0);
    assertEquals(heard[0], 'EXAMINE "INBOX"');
  },
});

Deno.test("a password is not sent in the clear to another machine", async () => {
  for (const hostname of ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1"]) {
    const { wire, conn } = receiving();
    Object.assign(wire, { remoteAddr: { transport: "tcp", hostname, port: 143 } });
    await assertRejects(
      () => new Imap(conn).login("mail", "x"),
      UsageError,
      "not sent without --tls",
    );
    assertEquals(wire.written, "");
  }
});

Deno.test({
  name: "a wrong command line is said, exit 2, and nobody is asked",
  ignore: !mayRun,
  async fn() {
    let asked = 0;
    await using server = testServer(() => void asked++);
    const cases: [args: string[], says: string][] = [
      [[], "COMMAND is missing"],
      [["bogus"], "bogus is none of folders, list, show, search, watch"],
      [["constructor"], "constructor is none of folders, list, show, search, watch"],
      [["list", "x"], "unexpected argument x"],
      [["show"], "UID is missing"],
      [["show", "0"], "0 is not a whole number from 1 to 4294967295"],
      [["show", "1:*"], "1:* is not a whole number from 1 to 4294967295"],
      [["search"], "KEY... is missing"],
      [["list", "--last", "0"], "--last: 0 is not a whole number from 1 to 1000"],
      [["list", "--password", "x"], "unknown flag --password"],
      [["list", "--ca", "x"], "--ca needs --tls"],
    ];
    await Promise.all(cases.map(async ([args, says]) => {
      const { code, stdout, stderr } = await ask("-p", server.port, ...args);
      assertEquals([code, stdout, stderr], [2, "", `imap_client: ${says} (--help tells more)\n`]);
    }));
    assertEquals(asked, 0);
    await using polite = mailServer();
    await using program = new Program([
      ...["env", "-u", "MAIL_PASSWORD", ...command("imap_client")],
      ...["-p", `${polite.port}`, "list"],
    ]);
    const { code, stderr } = await program.ended();
    assertEquals([code, stderr], [
      2,
      "imap_client: MAIL_PASSWORD is not set, which has the password (--help tells more)\n",
    ]);
  },
});

Deno.test({
  name: "a server that hangs up anywhere is said, exit 1",
  ignore: !mayRun,
  async fn() {
    // What the server of a whole session sends, which is then cut at many places.
    const heard: string[] = [];
    let sent = "";
    await using whole = testServer(async (conn) => {
      const { writeAll } = conn;
      conn.writeAll = (data) => {
        sent += typeof data === "string" ? data : latin1(data);
        return writeAll.call(conn, data);
      };
      await converse(conn, {}, heard);
    });
    const session = async (port: number) => {
      using conn = await dial(port);
      const imap = new Imap(conn);
      await imap.greet();
      await imap.login("mail", SECRET);
      await imap.examine("INBOX");
      const uids = await imap.search(["ü"]);
      assertEquals((await imap.fetch(uids.join(), "(UID BODY.PEEK[])")).length, 2);
    };
    await session(whole.port);
    const full = sent.slice(0, sent.lastIndexOf("OK"));
    let at = 0;
    await using cut = testServer(async (conn) => {
      await conn.writeAll(octets(full.slice(0, at)));
      await conn.conn.closeWrite();
      while (await conn.readSome() !== null);
    });
    for (; at < full.length; at++) {
      const error = await assertRejects(() => session(cut.port), Error);
      assert(!(error instanceof TypeError || error instanceof Deno.errors.TimedOut), `${error}`);
    }
    at = full.indexOf("+ ");
    const { code, stdout, stderr } = await ask("-p", cut.port, "list");
    assertEquals([code, stdout], [1, ""]);
    assertMatch(
      stderr,
      /^imap_client: 127.0.0.1:\d+: the server has hung up\n$/,
    );
  },
});

Deno.test({
  name: "a server that is silent, or never ends, is given up",
  ignore: !mayRun,
  async fn() {
    const endless = (text: string) => async (conn: FramedConn) => {
      for (const data = octets(text.repeat(1000));;) await conn.writeAll(data);
    };
    await using silent = testServer((conn) => conn.readToEnd(100));
    await using mute = mailServer({ "UID SEARCH": "* SEARCH 1\r\nTAGG" });
    for (const { port } of [silent, mute]) {
      const { code, stderr } = await ask("-p", port, "--timeout", 0.3, "list");
      assertEquals(code, 1);
      assertMatch(stderr, /^imap_client: 127.0.0.1:\d+: no answer within 0.3 s \(--timeout\)\n$/);
    }
    const says: [text: string, says: string][] = [
      ["* 1 EXISTS\r\n", "answer of more than 67108864 bytes"],
      ["* SEARCH 1 2 3 4 5 6 7 8 9 10 11 12\r\n", "answer of more than 67108864 bytes"],
    ];
    for (const [text, expected] of says) {
      await using server = testServer(async (conn) => {
        await conn.writeAll("* OK hi\r\n");
        await endless(text)(conn);
      });
      await using program = client(["-p", server.port, "list"]);
      let most = 0;
      const watching = setInterval(() => most = Math.max(most, peak(program)), 20);
      const { code, stderr } = await program.ended();
      clearInterval(watching);
      assertEquals([code, stderr.split("\n").length], [1, 2], stderr);
      assert(stderr.includes(expected), stderr);
      assert(most > 0 && most < 600_000, `${most} KiB`);
    }
  },
});

/** The most memory that a program has taken, in KiB, 0 if it has ended. */
function peak(program: Program): number {
  try {
    return memory(program, "VmHWM") || 0;
  } catch {
    return 0;
  }
}

const watches = (folder: string) => `imap_client: watching ${folder}, by IDLE\n`;

Deno.test({
  name: "watch prints what is new, once, until Ctrl-C",
  ignore: !mayRun,
  async fn() {
    const heard: string[] = [];
    let served: FramedConn | undefined;
    // The news comes after the wait, in it, before it, and from a server that counts down first.
    const pieces = [
      "+ idling\r\n* OK still here\r\n* 1 EXPUNGE\r\n* 1 FETCH (FLAGS (\\Seen))\r\n* 3 EXISTS\r\n",
      "* 4 EXISTS\r\n+ idling\r\n",
      "+ idling\r\n",
    ];
    const fetched = [message(2, "old") + message(3, "Ann"), `* 5 EXISTS\r\n${message(4, "Bob")}`];
    await using server = testServer((conn) => {
      served = conn;
      return converse(conn, {
        get IDLE() {
          return pieces.shift() ?? "+ idling\r\n";
        },
        get "UID FETCH"() {
          return fetched.shift() ?? message(5, "Cid");
        },
      }, heard);
    });
    await using program = client(["-p", server.port, "watch", "--folder", "日本"]);
    await program.until(/Cid.*\n/);
    await eventually("it waits", () => heard.at(-1) === "IDLE");
    await served?.writeAll("* 6 EXPUNGE\r\n");
    program.signal("SIGINT");
    const { code, stdout, stderr } = await program.ended();
    assertEquals([code, stderr], [0, watches("日本")]);
    assertEquals(stdout.split("\n").map((line) => line.slice(44, 47)), ["Ann", "Bob", "Cid", ""]);
    const sets = heard.filter((line) => line.startsWith("UID")).map((line) => line.split(" ")[2]);
    assertEquals(sets, ["21:*", "31:*", "41:*"]);
    assertEquals(heard.slice(-3), ["IDLE", "DONE", "LOGOUT"]);
  },
});

Deno.test({
  name: "watch says that the server is gone, exit 1",
  ignore: !mayRun,
  async fn() {
    const cases: [IDLE: string, says: string][] = [
      ["+ idling\r\n* BYE shutting down\r\n", "the server says BYE shutting down"],
      ["TAG NO not now\r\n", "the server says NO not now"],
      ["+ idling\r\nTAG OK enough\r\n", "the server says OK enough"],
    ];
    for (const [IDLE, says] of cases) {
      await using server = mailServer({ IDLE });
      assertEquals(await ask("-p", server.port, "watch"), {
        ...{ code: 1, stdout: "" },
        stderr: `${watches("INBOX")}imap_client: 127.0.0.1:${server.port}: ${says}\n`,
      });
    }
    for (const capabilities of ["IMAP4rev1 IDLE", "IMAP4rev1"]) {
      let served: FramedConn | undefined;
      await using server = testServer((conn) =>
        converse(served = conn, {
          CAPABILITY: `* CAPABILITY ${capabilities}\r\n`,
          IDLE: "+ idling\r\n",
        })
      );
      await using program = client(["-p", server.port, "watch"]);
      await program.until(/watching/, "stderr");
      served?.close();
      const { code, stderr } = await program.ended();
      assertEquals(code, 1);
      assertMatch(
        stderr,
        /\nimap_client: \S+: (the server has hung up|connection reset by peer)\n$/,
      );
    }
  },
});

Deno.test({
  name: "watch renews IDLE, and asks by NOOP where there is none",
  ignore: !mayConnect,
  async fn() {
    for (const [capability, asks] of [["IDLE", "IDLE"], ["", "NOOP"]]) {
      const heard: string[] = [];
      await using server = mailServer({
        CAPABILITY: `* CAPABILITY IMAP4rev1 ${capability}\r\n`,
        IDLE: "+ idling\r\n",
      }, heard);
      using conn = await dial(server.port);
      const imap = new Imap(conn);
      await imap.greet();
      const stop = new AbortController();
      const watching = watch(imap, "INBOX", stop.signal, { renew: 20, poll: 20 });
      const times = () => heard.filter((line) => line === asks).length;
      await eventually("it asks again", () => times() > 2);
      stop.abort();
      await watching;
      assertEquals(
        heard.slice(2, 5),
        capability ? ["IDLE", "DONE", "IDLE"] : Array(3).fill("NOOP"),
      );
      assert(!heard.some((line) => line.startsWith("UID FETCH")));
    }
  },
});
