import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { connect } from "../../lib/address.ts";
import { FramedConn, LimitError } from "../../lib/framing.ts";
import { Maildir } from "../../lib/maildir.ts";
import { converse, type Service } from "../../scripts/smtp_server.ts";
import { mayRun, run, start, temporaryFolder } from "../helpers.ts";
import { latin1, random, receiving, Wire } from "../lib/wire.ts";
import { inEachForm } from "./rig.ts";

const GREETING = "220 localhost ESMTP\r\n";
const READY = "354 The message, and then a line that is a dot\r\n";
const BYE = "221 2.0.0 localhost closes\r\n";
const HELO = "HELO client\r\n";
const BEGIN = "EHLO client\r\nMAIL FROM:<ann@example.org>\r\n";
const TO_BOB = "RCPT TO:<bob@example.org>\r\n";

/** A test that stores in a folder. */
function test(name: string, fn: () => Promise<void>): void {
  Deno.test({ name, ignore: !mayRun, fn });
}

/** A server with a Maildir of its own, whose clients come one after the other. */
class Rig implements AsyncDisposable {
  private constructor(
    readonly service: Service,
    readonly log: string[],
    readonly path: string,
    readonly folder: AsyncDisposable,
  ) {}

  static async start(options: Partial<Service> = {}): Promise<Rig> {
    const folder = await temporaryFolder();
    const path = `${folder.path}/mail`;
    const lines: string[] = [];
    const log = (line: string) => lines.push(line);
    const maildir = await Maildir.open(path);
    const service = { maildir, maxSize: 10_000, domains: [], log, ...options };
    return new Rig(service, lines, path, folder);
  }

  /** What the server answers after its greeting to octets that come in these pieces. */
  async talk(...pieces: string[]): Promise<string> {
    const { wire, conn } = receiving(...pieces, null);
    await converse(conn, this.service);
    assertEquals(wire.written.slice(0, GREETING.length), GREETING);
    return wire.written.slice(GREETING.length);
  }

  /** The replies without their text. */
  async codes(...pieces: string[]): Promise<string[]> {
    const replies = (await this.talk(...pieces)).split("\r\n").slice(0, -1);
    return replies.filter((line) => line[3] === " ")
      .map((line) => /^\d+( [245]\.\d+\.\d+)?/.exec(line)?.[0] ?? line);
  }

  /** Takes the messages out of the Maildir, in which there must be nothing else. */
  async stored(): Promise<string[]> {
    const { maildir } = this.service;
    const messages = await maildir.list();
    const texts = [];
    for (const message of messages) {
      assert(message.isNew);
      texts.push(latin1(await maildir.read(message)));
      await maildir.remove(message);
    }
    for (const folder of ["tmp", "new", "cur"]) {
      assertEquals(await Array.fromAsync(Deno.readDir(`${this.path}/${folder}`)), []);
    }
    return texts;
  }

  /** Sends a message, which must be taken. */
  async takes(text = "Subject: x\r\n\r\nx\r\n"): Promise<void> {
    const replies = await this.talk(`${BEGIN}${TO_BOB}DATA\r\n${text}.\r\nQUIT\r\n`);
    assertMatch(replies, /\r\n250 2\.0\.0 \d+ octets stored\r\n221 /);
    const [message, ...others] = await this.stored();
    assertEquals([message.endsWith(text), others], [true, []]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.folder[Symbol.asyncDispose]();
  }
}

/** The message below the lines that the server has put above it. */
function content(message: string): string {
  return /^Received: .*\r\n(?:[ \t].*\r\n)*([^]*)/m.exec(message)?.[1] ?? message;
}

test("smtp_server takes a message, and stores it with its envelope", async () => {
  await using rig = await Rig.start();
  const before = Math.floor(Date.now() / 1000) * 1000;
  const text = "Subject: hello\r\n\r\n..a dot\r\n\xff\0 any octets\r\n";
  const replies = await rig.talk(
    `${BEGIN}${TO_BOB}rcpt to: <"c d"@[IPv6:::1]> \r\nData\r\n${text}.\r\nQUIT\r\nNOOP\r\n`,
  );
  const length = text.length - 1; // without the dot that was stuffed
  assertEquals(
    replies,
    "250-localhost\r\n250-PIPELINING\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n" +
      "250-ENHANCEDSTATUSCODES\r\n250-SIZE 10000\r\n250 HELP\r\n250 2.1.0 OK\r\n" +
      `250 2.1.5 OK\r\n250 2.1.5 OK\r\n${READY}250 2.0.0 ${length} octets stored\r\n${BYE}`,
  );
  const [message] = await rig.stored();
  const [, date] = /;\r\n (.*)\r\n/.exec(message) ?? [];
  assertEquals(
    message,
    'Return-Path: <ann@example.org>\r\nDelivered-To: bob@example.org\r\nDelivered-To: "c d"@[IPv6:::1]' +
      `\r\nReceived: from client ([127.0.0.1])\r\n by localhost with ESMTP;\r\n ${date}\r\n` +
      text.replace("..", "."),
  );
  assertMatch(date, /^[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000$/);
  assert(Date.parse(date) >= before && Date.parse(date) <= Date.now(), date);
  assertEquals(rig.log, [
    '127.0.0.1:9: from <ann@example.org> for <bob@example.org>, <"c d"@[IPv6:::1]>: ' +
    `250 2.0.0 ${length} octets stored`,
  ]);
});

test("smtp_server answers each command by the RFCs' codes", async () => {
  await using rig = await Rig.start();
  const cases: [before: string, command: string, code: string][] = [
    // Any time.
    ["", "HELO client", "250"],
    ["", "helo client  ", "250"],
    ["", "EHLO [127.0.0.1]", "250"],
    ["", "EHLO", "501"],
    ["", "HELO two names", "501"],
    ["", "NOOP", "250 2.0.0"],
    ["", "NOOP whatever", "250 2.0.0"],
    ["", "RSET", "250 2.0.0"],
    ["", "RSET x", "501 5.5.4"],
    ["", "VRFY bob", "252 2.0.0"],
    ["", "VRFY", "501 5.5.4"],
    ["", "HELP", "214 2.0.0"],
    ["", "HELP MAIL", "214 2.0.0"],
    ["", "QUIT", "221 2.0.0"],
    ["", "QUIT x", "501 5.5.4"],
    ["", "EXPN list", "502 5.5.1"],
    ["", "STARTTLS", "502 5.5.1"],
    ["", "AUTH PLAIN", "502 5.5.1"],
    ["", "", "500 5.5.2"],
    ["", " NOOP", "500 5.5.2"],
    ["", "FROB", "500 5.5.2"],
    ["", "NOOP\0", "500 5.5.2"],
    ["", "NOOP \x1b[2J", "500 5.5.2"],
    ["", "NOOP \xff", "500 5.5.2"], // not UTF-8
    ["", "NOOP a\rb", "500 5.5.2"],
    // Out of order.
    ["", "MAIL FROM:<a@b>", "503 5.5.1"],
    ["", "RCPT TO:<a@b>", "503 5.5.1"],
    ["", "DATA", "503 5.5.1"],
    [HELO, "RCPT TO:<a@b>", "503 5.5.1"],
    [HELO, "DATA", "503 5.5.1"],
    [BEGIN, "MAIL FROM:<a@b>", "503 5.5.1"],
    [BEGIN, "DATA", "503 5.5.1"],
    [BEGIN + TO_BOB, "DATA x", "501 5.5.4"],
    [BEGIN + TO_BOB + "RSET\r\n", "RCPT TO:<a@b>", "503 5.5.1"],
    [BEGIN + TO_BOB + HELO, "DATA", "503 5.5.1"],
    [BEGIN + TO_BOB + "HELO\r\n", "DATA", "354"], // what is refused changes nothing
    [BEGIN + TO_BOB + "RCPT TO:<>\r\nMAIL\r\nFROB\r\n", "DATA", "354"],
    // Parameters.
    ["EHLO x\r\n", "MAIL FROM:<a@b> SIZE=10000", "250 2.1.0"],
    ["EHLO x\r\n", "MAIL FROM:<a@b>  size=0  body=8bitmime ", "250 2.1.0"],
    ["EHLO x\r\n", "MAIL FROM:<a@b> BODY=7BIT SMTPUTF8", "250 2.1.0"],
    ["EHLO x\r\n", "MAIL FROM:<> SIZE=10001", "552 5.3.4"],
    ["EHLO x\r\n", "MAIL FROM:<> SIZE=99999999999999999999", "552 5.3.4"],
    ["EHLO x\r\n", "MAIL FROM:<> SIZE=1 SIZE=10001", "552 5.3.4"],
    ["EHLO x\r\n", "MAIL FROM:<> SIZE=", "501 5.5.4"],
    ["EHLO x\r\n", "MAIL FROM:<> SIZE", "501 5.5.4"],
    ["EHLO x\r\n", "MAIL FROM:<> SIZE=-1", "501 5.5.4"],
    ["EHLO x\r\n", "MAIL FROM:<> SIZE=1=1", "501 5.5.4"],
    ["EHLO x\r\n", "MAIL FROM:<> =1", "501 5.5.4"],
    ["EHLO x\r\n", "MAIL FROM:<> BODY=BINARYMIME", "504 5.5.4"],
    ["EHLO x\r\n", "MAIL FROM:<> SMTPUTF8=yes", "555 5.5.4"],
    ["EHLO x\r\n", "MAIL FROM:<> RET=HDRS", "555 5.5.4"],
    ["EHLO x\r\n", "MAIL FROM:<>SIZE=1", "501 5.1.7"],
    [HELO, "MAIL FROM:<> SIZE=1", "555 5.5.4"],
    [BEGIN, "RCPT TO:<a@b> NOTIFY=NEVER", "555 5.5.4"],
    [BEGIN, "RCPT TO:<a@b> SMTPUTF8", "555 5.5.4"],
  ];
  for (const [before, command, code] of cases) {
    const replies = await rig.codes(`${before}${command}\r\n`).catch((error) => {
      if (code === "354" && error instanceof Deno.errors.UnexpectedEof) return ["354"];
      throw error;
    });
    assertEquals(replies.at(-1), code, before + command);
  }
  assertEquals(await rig.stored(), []);
});

test("smtp_server takes every form of address, and nothing that is none", async () => {
  await using rig = await Rig.start();
  const atom = "!#$%&'*+-/=?^_`{|}~aZ09";
  const [local, domain] = ["l".repeat(64), `${"d".repeat(62)}.`.repeat(4) + "xyz"];
  const good: [path: string, address: string][] = [
    ["<a@b>", "a@b"],
    [`<${atom}.x@b-c.4--d.example>`, `${atom}.x@b-c.4--d.example`],
    ['<"a b"@c>', '"a b"@c'],
    ['<"\\"a>\\\\@<"@c>', '"\\"a>\\\\@<"@c'],
    ['<""@c>', '""@c'],
    ["<a@[127.0.0.1]>", "a@[127.0.0.1]"],
    ["<a@[IPv6:2001:db8::1]>", "a@[IPv6:2001:db8::1]"],
    ["<@x:a@b>", "a@b"],
    ["<@x.example,@y:a@b>", "a@b"],
    ["<postmaster@b>", "postmaster@b"],
    [`<${local}@${domain}>`, `${local}@${domain}`],
  ];
  for (const [path, address] of good) {
    assertEquals(
      await rig.codes(`${HELO}MAIL FROM:${path}\r\nRCPT TO:${path}\r\nDATA\r\n.\r\n`),
      ["250", "250 2.1.0", "250 2.1.5", "354", "250 2.0.0"],
      path,
    );
    const [message] = await rig.stored();
    assertEquals(
      message.split("\r\n").slice(0, 2),
      [`Return-Path: <${address}>`, `Delivered-To: ${address}`],
    );
  }
  const bad = [
    ...[
      "",
      "a@b",
      "<a@b",
      "a@b>",
      "<a@b>x",
      "<a@b >",
      "< a@b>",
      "<<a@b>>",
      "<a>",
      "<@b>",
      "<a@>",
    ],
    ...["<a@@b>", "<a@b@c>", "<.a@b>", "<a.@b>", "<a..c@b>", "<a b@c>", "<a,b@c>", "<a;b@c>"],
    ...["<a@b..c>", "<a@.b>", "<a@b.>", "<a@-b>", "<a@b->", "<a@b_c>", "<a@b/c>", "<a@../b>"],
    ...['<"a@b>', '<a"b"@c>', '<"a"b@c>', '<"a\\"@c>', "<(a)b@c>", "<a\\b@c>", "<a@b(c)>"],
    ...["<a@[]>", "<a@[1.2.3]>", "<a@[1.2.3.256]>", "<a@[::1]>", "<a@[IPv6:1.2.3.4]>"],
    ...[
      "<a@[IPv6:::1>",
      "<a@[x:y]>",
      "<a@[127.0.0.1]x>",
      "<@x>",
      "<@x:>",
      "<@x:a>",
      "<@x,y:a@b>",
    ],
    ...[`<l${local}@b>`, `<a@${domain}z>`, `<"${local}"@b>`],
  ];
  for (const path of bad) {
    const ehlo = `EHLO x\r\nMAIL FROM:${path}\r\n`;
    assertEquals((await rig.codes(ehlo)).at(-1), "501 5.1.7", path);
    assertEquals((await rig.codes(`${BEGIN}RCPT TO:${path}\r\n`)).at(-1), "501 5.1.3", path);
  }
  for (const command of ["MAIL", "MAIL TO:<a@b>", "MAIL FROM <a@b>", "MAIL FROM:"]) {
    assertEquals((await rig.codes(`${HELO}${command}\r\n`)).at(-1), "501 5.1.7", command);
  }
  for (const command of ["RCPT", "RCPT FROM:<a@b>", "RCPT TO:", "RCPT TO:<>", "RCPT TO:<root>"]) {
    assertEquals((await rig.codes(`${BEGIN}${command}\r\n`)).at(-1), "501 5.1.3", command);
  }
  for (
    const odd of ["\x01", "\x7f", "\x1b", "\t", "\r", "\0", "\xc2\x85", "\xe2\x80\xae", "\xff"]
  ) {
    for (const path of [`<a${odd}@b>`, `<"${odd}"@b>`, `<a@b${odd}>`]) {
      const replies = await rig.codes(`${BEGIN}RCPT TO:${path}\r\nRSET\r\nMAIL FROM:${path}\r\n`);
      assertEquals(replies.slice(2), ["500 5.5.2", "250 2.0.0", "500 5.5.2"], path);
    }
  }
  assertEquals(await rig.stored(), []);
});

test("smtp_server: the null reverse-path, and postmaster", async () => {
  await using rig = await Rig.start({ domains: ["example.org", "bücher.example"] });
  const session = "EHLO x\r\nMAIL FROM:<> SMTPUTF8\r\n" + [
    ...[
      "<PostMaster>",
      "<bob@EXAMPLE.org>",
      "<postmaster@example.org>",
      "<a@B\xc3\x9ccher.example>",
    ],
    ...["<a@example.com>", "<postmaster@example.com>", "<a@sub.example.org>", "<a@[127.0.0.1]>"],
    ...[
      "<a@example.org@example.com>",
      "<a%example.com@example.org>",
      "<@example.com:a@example.org>",
    ],
  ].map((path) => `RCPT TO:${path}\r\n`).join("") + "DATA\r\n.\r\n";
  const [no, yes] = ["550 5.7.1", "250 2.1.5"];
  assertEquals((await rig.codes(session)).slice(2, -2), [
    ...[yes, yes, yes, yes, no, no, no, no, "501 5.1.3", yes, yes],
  ]);
  const [message] = await rig.stored();
  assertEquals(message.split("\r\n").slice(0, 7), [
    "Return-Path: <>",
    "Delivered-To: PostMaster",
    "Delivered-To: bob@EXAMPLE.org",
    "Delivered-To: postmaster@example.org",
    "Delivered-To: a@B\xc3\x9ccher.example",
    "Delivered-To: a%example.com@example.org",
    "Delivered-To: a@example.org",
  ]);
  assertEquals(
    rig.log[0],
    "127.0.0.1:9: RCPT TO:<a@example.com>: 550 5.7.1 Mail for example.com is not taken here",
  );
});

test("smtp_server takes addresses of all letters, if it is asked for", async () => {
  await using rig = await Rig.start();
  const path = "<\xc3\xa4@\xe4\xbe\x8b.example>"; // ä, and 例
  const not = "553 5.6.7";
  assertEquals((await rig.codes(`EHLO x\r\nMAIL FROM:${path}\r\n`)).at(-1), not);
  assertEquals((await rig.codes(`${BEGIN}RCPT TO:${path}\r\n`)).at(-1), not);
  await rig.talk(
    `EHLO x\r\nMAIL FROM:${path} SMTPUTF8\r\nRCPT TO:${path}\r\nDATA\r\n\xc3\xa4\r\n.\r\n`,
  );
  const [message] = await rig.stored();
  assertMatch(
    message,
    /^Return-Path: <\xc3\xa4@\xe4\xbe\x8b.example>\r\nDelivered-To: \xc3\xa4@/,
  );
  assertMatch(message, /^ by localhost with UTF8SMTP;\r\n.*\r\n\xc3\xa4\r\n$/m);
  // Octets are counted, not letters.
  const [fits, long] = [32, 33].map((n) => `<${"\xc3\xa4".repeat(n)}@b>`);
  const begin = "EHLO x\r\nMAIL FROM:<> SMTPUTF8\r\n";
  assertEquals(
    (await rig.codes(`${begin}RCPT TO:${fits}\r\nRCPT TO:${long}\r\n`)).slice(2),
    ["250 2.1.5", "501 5.1.3"],
  );
});

test("smtp_server tells whom it received from, made harmless", async () => {
  await using rig = await Rig.start();
  for (
    const [helo, from] of [
      ["HELO client.example", "client.example ([127.0.0.1])\r\n by localhost with SMTP;"],
      ["EHLO [10.0.0.1]", "[10.0.0.1] ([127.0.0.1])\r\n by localhost with ESMTP;"],
      ['EHLO x(by)<y>;\xc3\xa4"', "x?by??y???? ([127.0.0.1])\r\n by localhost with ESMTP;"],
    ]
  ) {
    await rig.talk(`${helo}\r\nMAIL FROM:<>\r\n${TO_BOB}DATA\r\n.\r\n`);
    const [, received] = /^Received: from (.*\r\n.*)\r\n/m.exec((await rig.stored())[0]) ?? [];
    assertEquals(received, from);
  }
});

test("smtp_server's limits", async () => {
  await using rig = await Rig.start();
  // A line of 565 octets, its end included.
  const [fits, long] = [565, 566].map((length) => "NOOP".padEnd(length - 2, "x") + "\r\n");
  assertEquals(await rig.codes("NOOP " + fits.slice(5)), ["250 2.0.0"]);
  for (const pieces of [[long], [...long], ["x".repeat(100_000)], ["NOOP ", "x".repeat(100_000)]]) {
    const { wire, conn } = receiving("RSET\r\n", ...pieces, "NOOP\r\n", null);
    await assertRejects(() => converse(conn, rig.service), LimitError);
    const replies = "250 2.0.0 Forgotten\r\n500 5.5.2 line of more than 565 bytes\r\n";
    assertEquals(wire.written, GREETING + replies);
  }
  // 100 recipients, of which one may be named twice.
  const paths = Array.from({ length: 101 }, (_, i) => `RCPT TO:<${i}@example.org>\r\n`);
  const replies = await rig.codes(`${BEGIN}${paths.join("")}${paths[0]}DATA\r\n.\r\n`);
  assertEquals(new Set(replies.slice(2, 102)), new Set(["250 2.1.5"]));
  assertEquals(replies.slice(102), ["452 4.5.3", "250 2.1.5", "354", "250 2.0.0"]);
  assertEquals((await rig.stored())[0].match(/^Delivered-To: \d+@example.org\r$/gm)?.length, 100);
  // Ten bad commands.
  const { wire, conn } = receiving("FROB\r\n".repeat(9) + "NOOP\r\nMAIL\r\nEXPN\r\nNOOP\r\n", null);
  await assertRejects(() => converse(conn, rig.service), Error, "closed after 10 bad commands");
  assertMatch(wire.written, /(500 .*\r\n){9}250 .*\r\n503 .*\r\n502 .*\r\n421 4\.7\.0 .*\r\n$/);
  // Those that came in vain after a MAIL that was refused are none.
  const vain = await rig.codes(`EHLO x\r\nMAIL FROM:<> SIZE=10001\r\n${paths.join("")}NOOP\r\n`);
  assertEquals([vain[1], vain[2], vain.at(-1)], ["552 5.3.4", "503 5.5.1", "250 2.0.0"]);
});

test("smtp_server refuses what is too large, and goes on", async () => {
  await using rig = await Rig.start({ maxSize: 1000 });
  const message = (size: number) => `${"x".repeat(68)}\r\n`.repeat(100).slice(-size);
  const dots = "..".padEnd(1000, "x") + "\r\n"; // of the 1002 the stuffed one does not count
  const mail = (text: string) => `MAIL FROM:<>\r\n${TO_BOB}DATA\r\n${text}.\r\n`;
  assertEquals(
    (await rig.codes(
      `EHLO x\r\nMAIL FROM:<> SIZE=1001\r\n`,
      mail(message(1001)) + mail(message(7000)) + mail(dots) + mail(message(1000)) +
        mail(dots.slice(1)),
    )).filter((code) => code.startsWith("552") || code === "250 2.0.0"),
    ["552 5.3.4", "552 5.3.4", "552 5.3.4", "552 5.3.4", "250 2.0.0", "250 2.0.0"],
  );
  assertEquals((await rig.stored()).map((text) => content(text).length), [1000, 1000]);
  assertEquals(rig.log.slice(0, 2), [
    "127.0.0.1:9: MAIL FROM:<> SIZE=1001: 552 5.3.4 A message may have 1000 octets",
    "127.0.0.1:9: from <> for <bob@example.org>: 552 5.3.4 A message may have 1000 octets",
  ]);
});

test("smtp_server sends replies together, up to where the client waits", async () => {
  await using rig = await Rig.start();
  class Writes extends Wire {
    readonly lines: number[] = [];
    override write(data: Uint8Array): Promise<number> {
      this.lines.push(latin1(data).split("\r\n").length - 1);
      return super.write(data);
    }
  }
  const linesOf = async (...pieces: string[]) => {
    const wire = new Writes().send(...pieces, null);
    await converse(new FramedConn(wire as unknown as Deno.Conn), rig.service);
    return wire.lines;
  };
  const group = `MAIL FROM:<>\r\n${TO_BOB}${TO_BOB}`;
  assertEquals(
    await linesOf("EHLO x\r\n", group + "DATA\r\n", ".\r\n" + group, "RSET\r\nQUIT\r\n"),
    [1, 7, 4, 1, 3, 2],
  );
  // A client that does not wait even there, and sends the message with the commands.
  assertEquals(await linesOf(`${HELO}${group}DATA\r\n.\r\n${group}RSET\r\nNOOP\r\nQUIT\r\n`), [
    ...[1, 1, 4, 1, 5, 1],
  ]);
  // What is held back has a limit.
  const many = await linesOf(HELO, "RSET\r\n".repeat(1000) + "RS", "ET\r\n");
  assert(many.slice(2).every((lines) => lines < 250), `${many}`);
  await rig.stored();
});

test("smtp_server answers and stores alike however it is cut", async () => {
  await using rig = await Rig.start();
  const session = BEGIN + TO_BOB +
    "RCPT TO:<x>\r\nDATA\r\nSubject: x\r\n\r\n..\r\n.x\r\n\r\n.\r\n" +
    `FROB\r\nMAIL FROM:<>\r\n${TO_BOB}DATA\r\n\n.\n\r\n.\r\nNOOP\r\nQUIT\r\n`;
  const expected = await rig.talk(session);
  assertMatch(expected, /22 octets stored\r\n500 [^]* 5 octets stored\r\n250 2.0.0 OK\r\n221 /);
  const messages = ["Subject: x\r\n\r\n.\r\nx\r\n\r\n", "\r\n.\r\n\r\n"];
  assertEquals((await rig.stored()).map(content), messages);
  const cuts = Array.from(session, (_, at) => [session.slice(0, at), session.slice(at)]);
  for (const pieces of [...cuts.slice(1), Array.from(session)]) {
    assertEquals(await rig.talk(...pieces), expected);
    assertEquals((await rig.stored()).map(content), messages);
  }
});

test("smtp_server: nothing but a dot between two CRLFs ends a message", async () => {
  await using rig = await Rig.start();
  const forged = `MAIL FROM:<forged@example.org>\r\n${TO_BOB}DATA\r\nforged\r\n`;
  for (
    const end of [
      ...[
        "\n.\n",
        "\r\n.\n",
        "\n.\r\n",
        "\r.\r",
        "\r.\r\n",
        "\r\n.\r",
        "\n.\r",
        "\r.\n",
        "\r\r\n.\r\r\n",
      ],
      ...["\r\n\0.\r\n", "\r\n.\0\r\n", "\r\n. \r\n", "\n\n.\n\n", "\r\n\x2e\n\r\n", "\r\r.\r\r"],
    ]
  ) {
    const text = `one${end}${forged}`;
    const session = `${HELO}MAIL FROM:<>\r\n${TO_BOB}DATA\r\n${text}\r\n.\r\nQUIT\r\n`;
    const from = session.indexOf("one");
    for (let at = from; at <= from + 3 + end.length + 4; at++) {
      const replies = await rig.codes(session.slice(0, at), session.slice(at));
      assertEquals(replies.slice(2), ["250 2.1.5", "354", "250 2.0.0", "221 2.0.0"]);
      const messages = await rig.stored();
      assertEquals(messages.length, 1, JSON.stringify(end));
      assertMatch(messages[0], /^Return-Path: <>\r\n[^]*one[^]*forged@[^]*forged\r\n\r\n$/);
    }
  }
  assert(rig.log.every((line) => line.includes("from <> for")), rig.log.join("\n"));
});

test("smtp_server stores nothing of what it got half of", async () => {
  await using rig = await Rig.start();
  const session = `${HELO}MAIL FROM:<>\r\n${TO_BOB}DATA\r\nSubject: x\r\n\r\nx\r\n.\r\n`;
  for (let length = session.indexOf("DATA"); length < session.length; length++) {
    const half = session.slice(0, length);
    const { wire, conn } = receiving(half, null);
    const whole = half.endsWith(`${TO_BOB}`) ? Promise.resolve() : undefined;
    await (whole ?? assertRejects(() => converse(conn, rig.service), Deno.errors.UnexpectedEof));
    if (!whole) {
      assertMatch(wire.written, /250 2\.1\.5 OK\r\n(354 .*\r\n)?$/, "replies are not lost");
    }
    assertEquals(await rig.stored(), []);
  }
});

test("smtp_server says that it cannot store, and recovers", async () => {
  await using rig = await Rig.start();
  await Deno.remove(`${rig.path}/new`);
  const mail = `MAIL FROM:<>\r\n${TO_BOB}DATA\r\nx\r\n.\r\n`;
  assertEquals((await rig.codes(`${HELO}${mail}DATA\r\n`)).slice(-2), ["451 4.3.0", "503 5.5.1"]);
  assertMatch(rig.log[0], /^127\.0\.0\.1:9: cannot store it: .*: no such file or directory$/);
  assertMatch(rig.log[1], /: from <> for <bob@example.org>: 451 4\.3\.0 /);
  await Deno.mkdir(`${rig.path}/new`);
  assertEquals(await rig.stored(), []);
  await rig.takes();
});

test("smtp_server takes a message after each of 600 sessions of junk", async () => {
  await using rig = await Rig.start();
  const below = random(6);
  const words = [
    ...["EHLO x", "HELO y", "MAIL FROM:<a@b>", "RCPT TO:<c@d>", "DATA", "RSET", "NOOP", "VRFY z"],
    ...[
      "MAIL FROM:",
      "<>",
      "SIZE=",
      "99999",
      "SMTPUTF8",
      "BODY=8BITMIME",
      "<@x:",
      '"',
      "\\",
      "@",
    ],
    ...[
      "[IPv6:",
      "]",
      ">",
      ".",
      "\0",
      "\xff",
      "\xc3\xa4",
      "\x1b",
      "\t",
      " ",
      "\r",
      "\n",
      "\r\n.\r\n",
    ],
    ...["x".repeat(600), "QUIT", "GET / HTTP/1.1", "BDAT 5 LAST"],
  ];
  for (let i = 0; i < 600; i++) {
    const pieces = Array.from({ length: 1 + below(30) }, () => {
      const line = Array.from(
        { length: 1 + below(below(3) ? 2 : 6) },
        () => words[below(words.length)],
      );
      const text = (below(2) ? words[below(4)] : "") + line.join(below(2) ? " " : "");
      return text.slice(below(20) ? 0 : below(text.length)) + (below(8) ? "\r\n" : "");
    });
    const { wire, conn } = receiving(...pieces, null);
    await converse(conn, rig.service).catch((error) => {
      const known = error instanceof LimitError || error instanceof Deno.errors.UnexpectedEof ||
        /^closed(,| after)/.test(error.message);
      if (!known) {
        throw error;
      }
    });
    assertMatch(
      wire.written,
      /^220 .*\r\n(\d{3}[ -][ -~\x80-\xff]+\r\n)*$/,
      JSON.stringify(pieces),
    );
    for (const reply of wire.written.split("\r\n")) assert(reply.length <= 510, reply);
    for (const message of await rig.stored()) {
      assertMatch(message, /^Return-Path: <.*>\r\n(Delivered-To: [!-~\x80-\xff ]+\r\n)+Received: /);
    }
    await rig.takes();
  }
});

test("smtp_server closes on a Web browser at once", async () => {
  await using rig = await Rig.start();
  const { wire, conn } = receiving(`POST / HTTP/1.1\r\nHost: x\r\n\r\n${BEGIN}${TO_BOB}`, null);
  await assertRejects(() => converse(conn, rig.service), Error, "it speaks HTTP");
  assertEquals(wire.written, GREETING);
});

test("smtp_server in each form, with the permissions of its first line", async () => {
  await using folder = await temporaryFolder();
  const path = `${folder.path}/there/mail`;
  for await (const { form, server } of inEachForm("smtp_server", folder.path, [path])) {
    const [, port] = await server.until(/listening on .*?:(\d+|\/.*)\n/, "stderr");
    const endpoint = form === "Unix" ? { unix: port } : { port: Number(port) };
    const tls = form === "TLS" ? { tls: true, ca: `${folder.path}/cert.pem` } : {};
    const host = form === "IPv6" ? "::1" : "127.0.0.1";
    using conn = new FramedConn(await connect({ host, port: 0, ...endpoint, ...tls }));
    await conn.writeAll(
      `${BEGIN}${TO_BOB}DATA\r\nSubject: ${form}\r\n\r\nhello\r\n.\r\nQUIT\r\n`,
    );
    const replies = latin1(await conn.readToEnd(10_000));
    assert(replies.endsWith(`octets stored\r\n${BYE}`), replies);
    const maildir = new Maildir(path);
    const [message] = await maildir.list();
    const text = latin1(await maildir.read(message));
    assertMatch(
      text,
      {
        plain: /^Received: from client \(\[127\.0\.0\.1\]\)\r\n by localhost with ESMTP;/m,
        IPv6: /^Received: from client \(\[IPv6:::1\]\)\r\n by localhost with ESMTP;/m,
        Unix: /^Received: from client\r\n by localhost with ESMTP;/m,
        TLS: /^Received: from client \(\[127\.0\.0\.1\]\)\r\n by localhost with ESMTPS;/m,
      }[form] ?? /no such form/,
    );
    await maildir.remove(message);
    conn.close();
    await server.until(
      /^smtp_server: \S+: from <ann@example\.org> for <bob@.*stored\n/m,
      "stderr",
    );
    server.signal("SIGINT");
    assertEquals((await server.ended()).code, 0);
  }
});

test("smtp_server with a wrong command line, or no place for mail", async () => {
  await using folder = await temporaryFolder();
  await Deno.writeTextFile(`${folder.path}/file`, "");
  for (
    const [args, code, message] of [
      [[], 2, "MAILDIR is missing"],
      [["mail", "--domain", "a b"], 2, "--domain: a b is not a domain"],
      [["mail", "--domain", "a@b"], 2, "--domain: a@b is not a domain"],
      [["mail", "--max-size", "0"], 2, "--max-size: 0 is not a whole number from 1 to "],
      [["mail", "--max-size", "10MB"], 2, "--max-size: 10MB is not a whole number from 1 to "],
      [["file"], 1, "file/tmp: "],
    ] as const
  ) {
    const result = await run("smtp_server", [...args, "--port", "0"], { cwd: folder.path });
    assertEquals([result.code, result.stderr.split("\n").length], [code, 2], result.stderr);
    assert(result.stderr.startsWith(`smtp_server: ${message}`), result.stderr);
  }
});

test("smtp_server takes mail for its domains, up to its size, as its flags say", async () => {
  await using folder = await temporaryFolder();
  const flags = ["--domain", "Example.org", "--domain", "example.net", "--max-size", "100"];
  await using server = start("smtp_server", [`${folder.path}/mail`, "--port", "0", ...flags]);
  const port = await server.port();
  using conn = new FramedConn(await connect({ host: "127.0.0.1", port }));
  await conn.writeAll(
    "EHLO x\r\nMAIL FROM:<>\r\nRCPT TO:<a@example.org>\r\nRCPT TO:<a@example.net>\r\n" +
      `RCPT TO:<\x1b@example.com>\r\nRCPT TO:<a@example.com>\r\nDATA\r\n${
        "x".repeat(98)
      }\r\n.\r\nQUIT\r\n`,
  );
  const replies = latin1(await conn.readToEnd(10_000));
  assertMatch(replies, /250-SIZE 100\r\n(.*\r\n){2}(250 2.1.5 OK\r\n){2}500 .*\r\n550 .*\r\n354/);
  assertMatch(replies, /100 octets stored\r\n221 /);
  await server.until(/: from <> for <a@example\.org>, <a@example\.net>: 250 /, "stderr");
  assert(server.stderr.includes("RCPT TO:<\\x1b@example.com>: 500 "), server.stderr); // escaped
});
