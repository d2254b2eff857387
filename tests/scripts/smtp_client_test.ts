import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { UsageError } from "../../lib/address.ts";
import { FramedConn, LimitError } from "../../lib/framing.ts";
import {
  checkMailbox,
  examine,
  formatReply,
  type Message,
  readReply,
  type Reply,
  SmtpConnection,
} from "../../scripts/smtp_client.ts";
import { command, mayConnect, mayRun, Program, type Result, temporaryFolder } from "../helpers.ts";
import { octets, type Piece, random, receiving } from "../lib/wire.ts";
import { dial } from "../peers/peers.ts";
import { testServer } from "./rig.ts";

const NAME = "smtp_client";
const LARGEST = "x:".padEnd(998, "x"); // 1000 octets with its CRLF
const LETTER = "Subject: hello\n\nHello, Bob.\n.dot\n";
const TO = ["--from", "ann@example.org", "--to", "bob@example.org"];

/** What a server says to a command, by its verb or whole; "" is nothing, null hangs up. */
type Script = Record<string, string | null>;
const POLITE: Script = {
  greeting: "220 mail.example",
  EHLO: "250-mail.example\r\n250-SIZE 1000\r\n250-8bitmime\r\n250 SMTPUTF8",
  DATA: "354 go on",
  message: "250 2.0.0 kept",
  QUIT: "221 bye",
  anything: "250 ok",
};

/** A mail server that says what is in its script, and else what is polite. */
function mailServer(script: Script): AsyncDisposable & { port: number; heard: string[] } {
  const heard: string[] = [];
  const server = testServer(async (conn) => {
    const say = async (...steps: string[]) => {
      const all = { ...POLITE, ...script };
      const reply = all[steps.find((step) => step in all) ?? "anything"];
      if (reply === null) throw new Error("hung up");
      if (reply === "") await conn.readToEnd(1e6);
      await conn.writeAll(`${reply}\r\n`);
      return reply;
    };
    await say("greeting");
    for (let line; (line = await conn.readLine()) !== null;) {
      heard.push(line);
      const [verb] = line.split(" ");
      const reply = await say(line, verb);
      if (verb !== "DATA" || !reply.startsWith("354")) continue;
      heard.push(new TextDecoder().decode(await conn.readDotLines(1e6)));
      await say("message");
    }
  });
  return { port: server.port, heard, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() };
}

/** A port at which nobody listens. */
function nobody(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

/** What became of a message: the reply that accepts it, or why not; and those refused. */
type Outcome = { reply?: Reply; error?: Error; refused: string[] };

/** Sends a message by the exported functions. */
async function converse(
  conn: FramedConn,
  message: Message = examine(octets(LETTER)),
  recipients = ["bob@example.org"],
): Promise<Outcome> {
  const smtp = new SmtpConnection(conn);
  const refused: string[] = [];
  const hear = (recipient: string, reply: Reply) =>
    refused.push(`${recipient}: ${formatReply(reply)}`);
  try {
    await smtp.open();
    return { reply: await smtp.send("ann@example.org", recipients, message, hear), refused };
  } catch (error) {
    return { error: error as Error, refused };
  } finally {
    await smtp.quit();
  }
}

/** Runs our client with a message on stdin. */
async function send(
  args: string[],
  { message = LETTER, permissions = [] as string[], env = {} } = {},
): Promise<Result> {
  await using program = new Program([...command(NAME, permissions), ...args], { env });
  await program.type(message).catch(() => {}); // it may not want it
  await program.endInput();
  return await program.ended();
}

const says = (stderr: string): Result => ({
  code: 1,
  stdout: "",
  stderr: `${stderr.replaceAll(/^/gm, `${NAME}: `)}\n`,
});

/** A connection that receives these pieces, with an address of its own. */
function receivingAt(hostname: string, ...pieces: Piece[]) {
  const { wire, conn } = receiving(...pieces);
  const address = { transport: "tcp", hostname, port: 9 };
  Object.assign(wire, { localAddr: address, remoteAddr: address, closeWrite: async () => {} });
  return { wire, conn };
}

Deno.test("readReply reads a reply however it is cut, and not an octet of the next", async () => {
  for (
    const [text, reply] of [
      ["250 OK\r\n", { code: 250, lines: ["OK"] }],
      ["250\r\n", { code: 250, lines: [""] }],
      ["250 \r\n", { code: 250, lines: [""] }],
      ["250-\r\n250\r\n", { code: 250, lines: ["", ""] }],
      ["250-a\r\n250-b c\r\n250 d\r\n", { code: 250, lines: ["a", "b c", "d"] }],
      ["550 é\u2028\x1b\r\n", { code: 550, lines: ["é\u2028\x1b"] }],
      ["250-a\n250 b\n", { code: 250, lines: ["a", "b"] }],
      [`250 ${"x".repeat(4000)}\r\n`, { code: 250, lines: ["x".repeat(4000)] }],
      ["250-x\r\n".repeat(99) + "250 x\r\n", { code: 250, lines: Array(100).fill("x") }],
    ] as const
  ) {
    const data = new TextEncoder().encode(text);
    const places = data.length > 1000 ? [1, 500] : data.keys();
    for (const at of places) {
      const { conn } = receiving(data.subarray(0, at), data.subarray(at), "221 next\r\n", null);
      assertEquals(await readReply(conn), { code: reply.code, lines: [...reply.lines] });
      assertEquals(await readReply(conn), { code: 221, lines: ["next"] });
      await assertRejects(() => readReply(conn), Deno.errors.UnexpectedEof, "hung up");
      if (at === 0) continue;
      const cut = receiving(data.subarray(0, at), null).conn;
      await assertRejects(() => readReply(cut), Deno.errors.UnexpectedEof);
    }
  }
});

Deno.test("readReply says what is no reply, and how", async () => {
  for (
    const [text, why] of [
      ["", "not a reply of SMTP: "],
      ["25", "not a reply of SMTP: 25"],
      ["2500 OK", "not a reply of SMTP: 2500 OK"],
      ["250OK", "not a reply of SMTP: 250OK"],
      ["250+OK", "not a reply of SMTP: 250+OK"],
      [" 250 OK", "not a reply of SMTP:  250 OK"],
      ["150 OK", "not a reply of SMTP: 150 OK"],
      ["600 OK", "not a reply of SMTP: 600 OK"],
      ["HTTP/1.1 400 Bad Request", "not a reply of SMTP: HTTP/1.1 400"],
      ["250-a\r\n550 b", "a reply of two codes, 250 and 550"],
      ["250-a\r\nb", "not a reply of SMTP: b"],
    ]
  ) {
    const error = await assertRejects(() => readReply(receiving(`${text}\r\n`).conn), Error);
    assert(error.message.startsWith(why), error.message);
  }
  for (const text of [`250 ${"x".repeat(4100)}`, "250-x\r\n".repeat(100)]) {
    await assertRejects(() => readReply(receiving(text).conn), LimitError);
  }
});

Deno.test("examine knows what a server must be told of a message", () => {
  for (
    const [text, size, eightBit, international] of [
      ["x:", 4, false, false],
      ["\n", 2, false, false],
      ["Subject: x\n\n.\n", 17, false, false],
      ["Subject: x\r\n\r\n.\r\n", 17, false, false],
      ["Subject: x\n\n\xe4", 17, true, false],
      ["Subject: x\r\n\r\n\xe4", 17, true, false],
      ["\n\xe4", 5, true, false],
      ["Subject: \xc3\xa4\n\nx", 18, true, true],
      ["Subject: \xc3\xa4", 13, true, true],
      ["Subject: x\n\nBcc: in the text, where it is no header", 55, false, false],
    ] as const
  ) {
    const data = octets(text);
    assertEquals(examine(data), { octets: data, size, eightBit, international }, text);
  }
});

Deno.test("examine refuses what cannot be sent, and says which line", () => {
  for (
    const [text, why] of [
      ["", "the message is empty"],
      ["hello\n", "line 1 has no header field (Name: value)"],
      ["From ann\nSubject: x\n", "line 1 has no header field (Name: value)"],
      ["a:\rb", "line 1 has a CR without its LF"],
      ["a:\r\nb\r\r\n", "line 2 has a CR without its LF"],
      ["a:\n\nb\r", "line 3 has a CR without its LF"],
      ["a:\n\n\n.\r.\n", "line 4 has a CR without its LF"],
      [`a:\r\n\r\n${"x".repeat(999)}`, "line 3 has more than 998 octets"],
      ["From: a\nBcc: b\n\nx", "line 2 has Bcc, which all would see (--to is enough)"],
      ["RESENT-BCC : b", "line 1 has Bcc, which all would see (--to is enough)"],
    ]
  ) {
    assertThrows(() => examine(octets(text)), Error, why);
  }
  assertEquals(examine(octets(`${LARGEST}\r\n`)).size, 1000);
});

const NO_MAILBOXES = [
  "",
  "a b@example.org",
  "a@example.org>",
  "<a@example.org>",
  "a@example.org> SIZE=1",
  "a@example.org\r\nRCPT TO:<b@example.org",
  "a\n@example.org",
  "a\0@example.org",
  "a\x7f@example.org",
  "a\u0085@example.org",
  "a\u00a0b@example.org",
  "a\u2028b@example.org",
  "a\t@example.org",
  '"a@example.org',
  '"a\n"@example.org',
  '"a\\"@example.org',
  '"a\\\n"@example.org',
  'a"> b@example.org',
];

Deno.test("checkMailbox passes what is one argument of one command, and nothing else", () => {
  for (
    const text of [
      "ann@example.org",
      "postmaster",
      "a+b=c/d!e@[127.0.0.1]",
      "用户@例え.example",
      '"a b"@example.org',
      '"> \\" <"@example.org',
      '"a\\\\"@[IPv6:::1]',
    ]
  ) {
    assertEquals(checkMailbox(text), text);
  }
  for (const text of NO_MAILBOXES) {
    assertThrows(() => checkMailbox(text), UsageError, "is not a mail address");
  }
  // In no time, whatever it is.
  assertThrows(() => checkMailbox('"a'.repeat(50_000) + '"'), UsageError);
});

Deno.test("a whole conversation, octet by octet", async () => {
  const replies =
    "220 x\r\n250-x\r\n250-SIZE\r\n250-8BITMIME\r\n250 SMTPUTF8\r\n250 ok\r\n250 ok\r\n" +
    "550 no\r\n354 go\r\n250 kept\r\n221 bye\r\n";
  const { wire, conn } = receivingAt("::1", ...replies, null);
  const message = examine(octets("Subject: \xc3\xa4\n\n.\r\n..\nend"));
  assertEquals(await converse(conn, message, ["bob@example.org", "carl@example.org"]), {
    reply: { code: 250, lines: ["kept"] },
    refused: ["carl@example.org: 550 no"],
  });
  assertEquals(
    wire.written,
    "EHLO [IPv6:::1]\r\nMAIL FROM:<ann@example.org> SIZE=27 BODY=8BITMIME SMTPUTF8\r\n" +
      "RCPT TO:<bob@example.org>\r\nRCPT TO:<carl@example.org>\r\nDATA\r\n" +
      "Subject: \xc3\xa4\r\n\r\n..\r\n...\r\nend\r\n.\r\nQUIT\r\n",
  );
});

Deno.test({
  name: "what is no mail address is never sent",
  ignore: !mayConnect,
  async fn() {
    await using server = mailServer({});
    const smtp = new SmtpConnection(await dial(server.port));
    await smtp.open();
    const message = examine(octets(LETTER));
    for (const text of NO_MAILBOXES) {
      await assertRejects(() => smtp.send("a@b", ["c@d", text], message, () => {}), UsageError);
      if (text === "") continue; // the null reverse-path
      await assertRejects(() => smtp.send(text, ["c@d"], message, () => {}), UsageError);
    }
    await smtp.send("", ["c@d"], message, () => {});
    await smtp.quit();
    assertEquals(server.heard.slice(0, 2), ["EHLO [127.0.0.1]", "MAIL FROM:<> SIZE=37"]);
  },
});

const STEPS = ["greeting", "EHLO", "MAIL", "RCPT", "DATA", "message"];

for (
  const [how, reply, why] of [
    ["hangs up", null, /^(hung up without an answer|connection reset by peer)$/i],
    ["closes down", "421 4.3.2 going down", /: the server says 421 4\.3\.2 going down$/],
    ["talks garbage", "what?", /^not a reply of SMTP: what\?$/],
    ["breaks its reply", "250-a\r\n550 b", /^a reply of two codes, 250 and 550$/],
    ["says too much in a line", `250 ${"x".repeat(5000)}`, /^line of more than 4096 bytes$/],
    ["says too many lines", "250-x\r\n".repeat(200), /^reply of more than 100 lines$/],
    ["is silent", "", /^no answer within 0\.5 s \(--timeout\)$/],
    ["says the wrong thing", "399 what now", /: the server says 399 what now$/],
  ] as const
) {
  Deno.test({
    name: `a server that ${how}, at every step`,
    ignore: !mayConnect,
    async fn() {
      await Promise.all(STEPS.map(async (step) => {
        await using server = mailServer({ [step]: reply });
        const conn = await dial(server.port);
        const timed = new FramedConn(conn.conn, { timeout: reply === "" ? 500 : 10_000 });
        const { error, refused, reply: accepted } = await converse(timed);
        assertEquals(accepted, undefined, step);
        if (step === "RCPT" && reply?.startsWith("3")) {
          assertEquals([error, ...refused], [undefined, "bob@example.org: 399 what now"]);
        } else {
          assertEquals(refused, []);
          const [, start = "", rest] =
            /^(nobody knows whether the message is delivered: )?([^]*)$/.exec(
              `${error?.message}`,
            ) ?? [];
          assertMatch(rest, why, step);
          // After the dot only an answer tells.
          assertEquals(start !== "", step === "message" && !reply?.startsWith("4"), step);
        }
        const sent = server.heard.some((line) => line.startsWith("Subject:"));
        assertEquals(sent, step === "message", step);
      }));
    },
  });
}

Deno.test({
  name: "a server that refuses, at every step",
  ignore: !mayConnect,
  async fn() {
    for (const step of STEPS) {
      for (const reply of ["451 4.3.0 later", "554-5.7.1 not\r\n554 5.7.1 you"]) {
        await using server = mailServer({ [step]: reply, HELO: reply });
        const { error, refused, reply: accepted } = await converse(await dial(server.port));
        const words = reply.startsWith("4") ? reply : "554 5.7.1 not 5.7.1 you";
        const where = step === "EHLO" && reply.startsWith("5") ? "HELO" : step;
        assertEquals(accepted, undefined);
        if (step === "RCPT") {
          assertEquals([error, ...refused], [undefined, `bob@example.org: ${words}`]);
        } else assertEquals(error?.message, `${where}: the server says ${words}`);
        assertEquals(server.heard.at(-1), "QUIT"); // which it waits for (RFC 5321, 3.1)
      }
    }
  },
});

Deno.test({
  name: "DATA answered as if the message were there: nothing is sent",
  ignore: !mayConnect,
  async fn() {
    await using server = mailServer({ DATA: "250 2.0.0 kept" });
    const { error } = await converse(await dial(server.port));
    assertEquals(error?.message, "DATA: the server says 250 2.0.0 kept");
    assertEquals(server.heard.slice(-2), ["DATA", "QUIT"]);
  },
});

Deno.test({
  name: "what a server says unasked is not taken for the answer to what comes next",
  ignore: !mayConnect,
  async fn() {
    for (const step of STEPS.slice(0, 5)) {
      const polite = POLITE[step] ?? "250 ok";
      await using server = mailServer({ [step]: `${polite}\r\n250 2.0.0 kept` });
      const { error } = await converse(await dial(server.port));
      assertEquals(error?.message, "unasked: the server says 250 2.0.0 kept", step);
      const [last] = server.heard.at(-1)?.split(" ") ?? [];
      assertEquals(last, step === "greeting" ? undefined : step); // it hung up
    }
    await using server = mailServer({ MAIL: "250 ok\r\n421 4.4.2 too slow" });
    const { error } = await converse(await dial(server.port));
    assertEquals(error?.message, "unasked: the server says 421 4.4.2 too slow");
  },
});

Deno.test({
  name: "HELO where EHLO is not known, and then nothing that takes an extension",
  ignore: !mayConnect,
  async fn() {
    for (const reply of ["500 what?", "502 5.5.1 no", "550 no"]) {
      await using server = mailServer({ EHLO: reply });
      const { error, reply: accepted } = await converse(await dial(server.port));
      assertEquals([error, accepted?.code], [undefined, 250]);
      assertEquals(server.heard.slice(0, 3), [
        "EHLO [127.0.0.1]",
        "HELO [127.0.0.1]",
        "MAIL FROM:<ann@example.org>",
      ]);
      for (
        const [message, to, why] of [
          ["Subject: x\n\n\xe4", "c@d", /octets above 127.*8BITMIME$/],
          ["Subject: x\n\nx", "é@d", /is not ASCII.*SMTPUTF8$/],
        ] as const
      ) {
        await using server = mailServer({ EHLO: reply });
        const conn = await dial(server.port);
        const { error } = await converse(conn, examine(octets(message)), [to]);
        assertMatch(`${error?.message}`, why);
        assertEquals(server.heard.slice(2), ["QUIT"]);
      }
    }
  },
});

Deno.test({
  name: "a message is sent up to the SIZE that the server takes",
  ignore: !mayConnect,
  async fn() {
    for (
      const [size, length, parameters] of [
        ["SIZE 1000", 1000, " SIZE=1000"],
        ["size 1000", 1000, " SIZE=1000"],
        ["SIZE 1000", 1001, undefined],
        ["SIZE 0", 1001, " SIZE=1001"],
        ["SIZE", 1001, " SIZE=1001"],
        ["SIZE x", 1001, " SIZE=1001"],
        ["HELP", 1001, ""],
      ] as const
    ) {
      await using server = mailServer({ EHLO: `250-x\r\n250 ${size}` });
      const message = examine(octets(length > 1000 ? LARGEST.replace("x", "\n") : LARGEST));
      const { error } = await converse(await dial(server.port), message);
      const limited = parameters === undefined;
      const why = "the message has 1001 octets, and the server takes 1000";
      assertEquals(error?.message, limited ? why : undefined);
      const [, mail] = server.heard;
      assertEquals(mail, limited ? "QUIT" : `MAIL FROM:<ann@example.org>${parameters}`);
    }
  },
});

Deno.test({
  name: "a server that hangs up in the middle of a message: not delivered, and why",
  ignore: !mayConnect,
  async fn() {
    const large = examine(new Uint8Array(8e6).fill(10)); // more than the system takes by itself
    for (const last of ["", "552 5.3.4 too big\r\n", "250 2.0.0 kept\r\n"]) {
      await using server = testServer(async (conn) => {
        for (const reply of ["220 x", "250 x", "250 ok", "250 ok", "354 go"]) {
          await conn.writeAll(`${reply}\r\n`);
          await conn.readLine();
        }
        await conn.writeAll(last);
      });
      const { error, reply } = await converse(await dial(server.port), large);
      assertEquals(reply, undefined);
      // A reset may overtake what the server says.
      const why = last.startsWith("5") ? "message: the server says 552 5\\.3\\.4 too big$|" : "";
      assertMatch(
        `${error?.message}`,
        new RegExp(`^(${why}cut off in the message, which is not delivered: )`),
      );
    }
  },
});

Deno.test({
  name: "a server that does not read what it is sent is not waited for",
  ignore: !mayConnect,
  async fn() {
    await using server = testServer(async (conn) => {
      for (const reply of ["220 x", "250 x", "250 ok", "250 ok"]) {
        await conn.writeAll(`${reply}\r\n`);
        await conn.readLine();
      }
      await conn.writeAll("354 go\r\n");
      await new Promise(() => {});
    });
    const conn = new FramedConn((await dial(server.port)).conn, { timeout: 500 });
    const large = examine(new Uint8Array(8e6).fill(10)); // more than the system takes by itself
    const { error } = await converse(conn, large);
    assertEquals(
      error?.message,
      "cut off in the message, which is not delivered: no answer within 0.5 s (--timeout)",
    );
  },
});

Deno.test("any octets in place of a server: an end, and no message where no 354 came", async () => {
  const next = random(5321);
  const parts = [
    "220 x\r\n",
    "250-x\r\n",
    "250 x\r\n",
    "354 x\r\n",
    "421 x\r\n",
    "550 x\r\n",
    "\r\n",
  ];
  parts.push("2", "50", "-", " ", "\n", "\r", "\0", "x".repeat(500), "\xff", "250-SIZE 9\r\n");
  const polite = "220 x\r\n250-x\r\n250 SIZE\r\n250 x\r\n250 x\r\n354 x\r\n250 x\r\n";
  for (let i = 0; i < 2000; i++) {
    const start = polite.slice(0, next(polite.length + 1));
    const rest = Array.from({ length: next(8) }, () => parts[next(parts.length)]).join("");
    const all = start + rest;
    const at = next(all.length + 1);
    const { wire, conn } = receivingAt(
      "127.0.0.1",
      all.slice(0, at) || "2",
      all.slice(at) || "2",
      null,
    );
    const { error, reply, refused } = await converse(conn);
    assertEquals([error, reply, ...refused].filter(Boolean).length > 0, true);
    assertMatch(
      wire.written,
      /^([A-Z]{4}.*\r\n)*(Subject: hello\r\n\r\nHello, Bob\.\r\n\.\.dot\r\n\.\r\n(QUIT\r\n)?)?$/,
    );
    if (wire.written.includes("Subject")) assert(all.includes("354"), all);
  }
});

Deno.test("a password goes over TLS, to loopback or nowhere", async () => {
  const offer = "220 x\r\n250-x\r\n250 AUTH LOGIN PLAIN\r\n334\r\n235 ok\r\n";
  for (
    const [hostname, tls, sent] of [
      ["127.0.0.1", false, true],
      ["127.8.9.10", false, true],
      ["::1", false, true],
      ["::ffff:127.0.0.1", false, true],
      ["192.0.2.1", false, false],
      ["::ffff:192.0.2.1", false, false],
      ["2001:db8::1", false, false],
      ["::127.0.0.1", false, false],
      ["192.0.2.1", true, true],
    ] as const
  ) {
    const { wire, conn } = receivingAt(hostname, ...offer);
    if (tls) Object.assign(wire, { handshake: () => {} });
    const smtp = new SmtpConnection(conn);
    await smtp.open();
    const hello = wire.written;
    if (sent) await smtp.login("ann", "secret");
    else await assertRejects(() => smtp.login("ann", "secret"), UsageError, "without TLS");
    const login = `AUTH PLAIN\r\n${btoa("\0ann\0secret")}\r\n`;
    assertEquals(wire.written, hello + (sent ? login : ""), `${hostname} ${tls}`);
  }
});

Deno.test("a login that fails, step by step", async () => {
  for (
    const [offer, replies, why, written] of [
      ["HELP", "", "the server does not offer AUTH", ""],
      ["AUTH", "", "the server does not offer AUTH", ""],
      ["AUTH CRAM-MD5 X", "", "no AUTH by PLAIN or LOGIN, but by CRAM-MD5, X", ""],
      ["AUTH PLAIN", "504 no\r\n", "AUTH: the server says 504 no", "AUTH PLAIN\r\n"],
      ["AUTH PLAIN", "235 in\r\n", "AUTH: the server says 235 in", "AUTH PLAIN\r\n"],
      ["AUTH PLAIN", "334\r\n535 no\r\n", "AUTH: the server says 535 no", /^AUTH.*\r\n.*\r\n$/],
      ["AUTH PLAIN", "334\r\n334\r\n", "AUTH: the server says 334", /^AUTH.*\r\n.*\r\n$/],
      [
        "auth login",
        "334 VXNlcm5hbWU6\r\n535 no\r\n",
        "AUTH: the server says 535 no",
        /^AUTH.*\r\nYW5u\r\n$/,
      ],
      [
        "AUTH LOGIN",
        "334\r\n334\r\n421 bye\r\n",
        "AUTH: the server says 421 bye",
        /YW5u\r\nc2VjcmV0\r\n$/,
      ],
    ] as const
  ) {
    const { wire, conn } = receivingAt("::1", ...`220 x\r\n250-x\r\n250 ${offer}\r\n${replies}`);
    const smtp = new SmtpConnection(conn);
    await smtp.open();
    const hello = wire.written.length;
    const error = await assertRejects(() => smtp.login("ann", "secret"), Error);
    assertEquals(error.message, why);
    const rest = wire.written.slice(hello);
    if (typeof written === "string") assertEquals(rest, written);
    else assertMatch(rest, written);
  }
});

Deno.test({
  name: "smtp_client without STARTTLS, where that was asked for, sends nothing",
  ignore: !mayRun,
  async fn() {
    const offer = "250-x\r\n250 STARTTLS";
    for (
      const [script, heard, why] of [
        [{}, ["EHLO", "QUIT"], "the server does not offer STARTTLS"],
        [{ EHLO: "250 STARTTLS" }, ["EHLO", "QUIT"], "the server does not offer STARTTLS"], // its name
        [{ EHLO: "500 what?" }, ["EHLO", "HELO", "QUIT"], "the server does not offer STARTTLS"],
        [
          { EHLO: offer, STARTTLS: "454 4.7.0 not now" },
          ["EHLO", "STARTTLS", "QUIT"],
          "STARTTLS: the server says 454 4.7.0 not now",
        ],
        [
          { EHLO: offer, STARTTLS: "220 go\r\n250-x\r\n250 AUTH PLAIN" },
          ["EHLO", "STARTTLS"],
          "the server, or somebody on the way, went on in the clear after STARTTLS",
        ],
        [{ EHLO: offer, STARTTLS: null }, ["EHLO", "STARTTLS"], "hung up without an answer"],
      ] as const
    ) {
      await using server = mailServer(script);
      const args = ["--port", `${server.port}`, "--starttls", "--user", "ann", ...TO];
      assertEquals(
        await send(args, {
          permissions: ["--allow-env=SMTP_PASSWORD"],
          env: { SMTP_PASSWORD: "secret" },
        }),
        says(`127.0.0.1:${server.port}: ${why}`),
      );
      assertEquals(server.heard.map((line) => line.split(" ")[0]), [...heard]);
    }
    // What comes in the place of the handshake is not TLS.
    await using server = mailServer({ EHLO: offer, STARTTLS: "220 go" });
    const { code, stderr } = await send(["--port", `${server.port}`, "--starttls", ...TO]);
    assertEquals(code, 1);
    assertMatch(stderr, /^smtp_client: 127\.0\.0\.1:\d+: .+\n$/);
    assert(!server.heard.join().includes("MAIL"));
  },
});

Deno.test({
  name: "smtp_client names each recipient that is refused, in the server's words",
  ignore: !mayRun,
  async fn() {
    const words = "550-5.1.1 no such\r\n550 5.1.1 \x1b[31mmailbox";
    const shown = "550 5.1.1 no such 5.1.1 \\x1b[31mmailbox";
    await using server = mailServer({ "RCPT TO:<carl@example.org>": words });
    const args = ["--port", `${server.port}`, ...TO];
    const accepted = "accepted for 1 of";
    assertEquals(await send(args), {
      code: 0,
      stdout: "",
      stderr: `${NAME}: ${accepted} 1: 250 2.0.0 kept\n`,
    });
    assertEquals(
      await send([...args, "--to", "carl@example.org"]),
      says(`carl@example.org: ${shown}\n${accepted} 2: 250 2.0.0 kept`),
    );
    assertEquals(server.heard.filter((line) => line.startsWith("Subject:")), [
      LETTER.replaceAll("\n", "\r\n"),
      LETTER.replaceAll("\n", "\r\n"),
    ]);
    const nobody = [...args.slice(0, 4), "--to", "carl@example.org"];
    assertEquals(await send(nobody), says(`carl@example.org: ${shown}`));
    assertEquals(server.heard.slice(-2), ["RCPT TO:<carl@example.org>", "QUIT"]);

    // And not only if all goes well afterwards.
    await using late = mailServer({ "RCPT TO:<carl@example.org>": words, DATA: "451 later" });
    assertEquals(
      await send(["--port", `${late.port}`, ...TO, "--to", "carl@example.org"]),
      says(`carl@example.org: ${shown}\n127.0.0.1:${late.port}: DATA: the server says 451 later`),
    );
  },
});

Deno.test({
  name: "smtp_client ends well whatever becomes of QUIT, and says what became of the message",
  ignore: !mayRun,
  async fn() {
    await Promise.all([null, "500 what?", "what?", "250-", ""].map(async (reply) => {
      await using server = mailServer({ QUIT: reply });
      const { code, stderr } = await send(["--port", `${server.port}`, "--timeout", "1", ...TO]);
      assertEquals([code, stderr], [0, `${NAME}: accepted for 1 of 1: 250 2.0.0 kept\n`]);
    }));
    const unknown = "nobody knows whether the message is delivered";
    for (
      const [reply, why] of [
        [null, `${unknown}: hung up without an answer`],
        ["", `${unknown}: no answer within 1 s (--timeout)`],
        ["554 \x07spam", "message: the server says 554 \\x07spam"],
      ]
    ) {
      await using server = mailServer({ message: reply });
      assertEquals(
        await send(["--port", `${server.port}`, "--timeout", "1", ...TO]),
        says(`127.0.0.1:${server.port}: ${why}`),
      );
    }
  },
});

Deno.test({
  name: "smtp_client reads a file, or says why not, before it connects",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const file = `${folder.path}/letter.eml`;
    await Deno.writeTextFile(file, "Subject: from a file\r\n\r\n");
    await using server = mailServer({});
    const args = ["--port", `${server.port}`, ...TO];
    const permissions = ["--allow-read"];
    assertEquals((await send([...args, file], { permissions })).code, 0);
    assert(server.heard.includes("Subject: from a file\r\n\r\n"));

    server.heard.length = 0;
    assertEquals(
      await send([...args, `${file}.not`], { permissions }),
      says(`${file}.not: no such file or directory`),
    );
    const denied = await send([...args, file]);
    assertEquals(denied.code, 1);
    assertMatch(denied.stderr, /^smtp_client: requires read access .*--allow-read.*\n$/);
    await Deno.writeTextFile(file, "Bcc: somebody\n\nx");
    assertEquals(
      await send([...args, file], { permissions }),
      says(`${file}: line 1 has Bcc, which all would see (--to is enough)`),
    );
    assertEquals(await send(args, { message: "" }), says("stdin: the message is empty"));
    assertEquals(server.heard, []);
  },
});

Deno.test({
  name: "smtp_client: a wrong command line, and no server",
  ignore: !mayRun,
  async fn() {
    const [from, to] = [TO.slice(0, 2), TO.slice(2)];
    for (
      const [args, why] of [
        [[], "--from: ADDR is missing"],
        [to, "--from: ADDR is missing"],
        [from, "--to: ADDR is missing"],
        [[...from, "--to", ""], "--to: ADDR is missing"],
        [[...from, ...to, "--to", "a b"], '--to: "a b" is not a mail address (ann@example.org)'],
        [[...from, "--to", "<>"], '--to: "<>" is not a mail address (ann@example.org)'],
        [["--from", "a\nb", ...to], '--from: "a\\nb" is not a mail address (ann@example.org)'],
        [[...TO, "--starttls", "--tls"], "--starttls does not go with --tls or --unix"],
        [[...TO, "--starttls", "--unix", "/x"], "--starttls does not go with --tls or --unix"],
        [[...TO, "--ca", "ca.pem"], "--ca needs --tls"],
        [[...TO, "a", "b"], "unexpected argument b"],
      ] as const
    ) {
      const { code, stdout, stderr } = await send([...args]);
      assertEquals([code, stdout], [2, ""]);
      assertEquals(stderr, `${NAME}: ${why} (--help tells more)\n`);
    }
    const login = [...TO, "--user", "ann"];
    const unset = await send(login, { permissions: ["--allow-env=SMTP_PASSWORD"] });
    assertEquals(unset.code, 2);
    assertMatch(unset.stderr, /^smtp_client: SMTP_PASSWORD is not set, which has the password/);
    const denied = await send(login, { env: { SMTP_PASSWORD: "secret" } });
    assertEquals(denied.code, 1);
    assertMatch(denied.stderr, /^smtp_client: requires env access to "SMTP_PASSWORD".*\n$/);

    const port = nobody();
    assertEquals(
      await send(["--port", `${port}`, ...TO]),
      says(`127.0.0.1:${port}: connection refused`),
    );
  },
});
