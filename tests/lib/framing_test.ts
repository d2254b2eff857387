import { once } from "node:events";
import * as net from "node:net";
import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import {
  askDatagram,
  FramedConn,
  LimitError,
  printable,
  printableText,
  trace,
  writeAll,
} from "../../lib/framing.ts";
import { mayConnect, mayRun, pair, temporaryFolder } from "../helpers.ts";
import { Said } from "./said.ts";
import { latin1, octets, random, receiving } from "./wire.ts";

const { ConnectionReset, TimedOut } = Deno.errors;

const utf8 = (text: string) => new TextDecoder("utf-8", { ignoreBOM: true }).decode(octets(text));

/** Everything that `read` makes of a connection, the last of it null or an error's class. */
async function readAll(conn: FramedConn, read: Reader): Promise<(string | null)[]> {
  const results: (string | null)[] = [];
  try {
    do {
      const result = await read(conn);
      results.push(result instanceof Uint8Array ? latin1(result) : result);
    } while (results.at(-1) !== null);
  } catch (error) {
    results.push((error as Error).constructor.name);
  }
  return results;
}

type Reader = (conn: FramedConn) => Promise<string | Uint8Array | null>;
/** A reader, and what it must make of a connection that brings `text` and ends. */
type Case = { read: Reader; model: (text: string) => (string | null)[] };
const MAX = 1500;

function lines(text: string, endCounts: boolean): (string | null)[] {
  if (!text) return [null];
  const length = text.indexOf("\n") + 1;
  if ((length || text.length) > MAX) return ["LimitError"];
  if (!length) return endCounts ? [utf8(text), null] : ["UnexpectedEof"];
  const line = utf8(text.slice(0, length).replace(/\r?\n$/, ""));
  return [line, ...lines(text.slice(length), endCounts)];
}

function questions(text: string): (string | null)[] {
  if (!text) return [null];
  const length = text.indexOf("?") + 1;
  if ((length || text.length) > MAX) return ["LimitError"];
  if (!length) return ["UnexpectedEof"];
  return [utf8(text.slice(0, length)), ...questions(text.slice(length))];
}

function blocks(text: string, max: number, prefix: 2 | 4): (string | null)[] {
  if (!text) return [null];
  if (text.length < prefix) return ["UnexpectedEof"];
  const view = new DataView(octets(text).buffer);
  const end = prefix + (prefix === 2 ? view.getUint16(0) : view.getUint32(0));
  if (end > prefix + max) return ["LimitError"];
  if (text.length < end) return ["UnexpectedEof"];
  return [text.slice(prefix, end), ...blocks(text.slice(end), max, prefix)];
}

function dotLines(text: string): (string | null)[] {
  const length = `\r\n${text}`.indexOf("\r\n.\r\n");
  if (length < 0) return ["UnexpectedEof"];
  const message = text.slice(0, length).replace(/(?<=^|\r\n)\./g, "");
  return [message.length > MAX ? "too long" : message, ...dotLines(text.slice(length + 3))];
}

const cases: Record<string, Case> = {
  readLine: { read: (conn) => conn.readLine(MAX), model: (text) => lines(text, false) },
  readUntil: { read: (conn) => conn.readUntil("?", MAX), model: questions },
  readMessage: { read: (conn) => conn.readMessage(MAX), model: (text) => lines(text, true) },
  readExactly: {
    read: (conn) => conn.readExactly(3),
    model: (text) => [...text.match(/[^]{3}/g) ?? [], "UnexpectedEof"],
  },
  readBlock: { read: (conn) => conn.readBlock(MAX), model: (text) => blocks(text, MAX, 4) },
  readShortBlock: { read: (conn) => conn.readBlock(MAX, 2), model: (text) => blocks(text, MAX, 2) },
  readDotLines: {
    read: (conn) =>
      conn.readDotLines(MAX).catch((error) => {
        if (error instanceof LimitError) return "too long";
        throw error;
      }),
    model: dotLines,
  },
  readSome: {
    async read(conn) {
      let all = "";
      for (let some; (some = await conn.readSome(7)) !== null; all += latin1(some)) {
        assert(some.length > 0 && some.length <= 7);
      }
      return all || null;
    },
    model: (text) => text ? [text, null] : [null],
  },
  readToEnd: {
    read: async (conn) => latin1(await conn.readToEnd(MAX)) || null,
    model: (text) => text.length > MAX ? ["LimitError"] : text ? [text, null] : [null],
  },
};

/** A text cut in two at every place, and into single octets. */
function* cuts(text: string): Generator<string[]> {
  for (let at = 0; at <= text.length; at++) {
    yield [text.slice(0, at), text.slice(at)].filter((piece) => piece);
  }
  yield [...text];
}

Deno.test("each reader makes the same of its input however it is cut", async () => {
  const inputs: [reader: string, input: string, expected: (string | null)[]][] = [
    ["readLine", "one\r\n\n\r\ntw\ro\n", ["one", "", "", "tw\ro", null]],
    ["readLine", "one\nmiddle\r", ["one", "UnexpectedEof"]],
    ["readLine", "\xef\xbb\xbf\xc3\xa9\xf0\x9f\xa6\x95\xff\0\n", ["\ufeffé🦕\ufffd\0", null]],
    ["readUntil", "one?\n??two \xc3\xa9?", ["one?", "\n?", "?", "two é?", null]],
    ["readUntil", "one?middle\n", ["one?", "UnexpectedEof"]],
    ["readMessage", "\none\r\ntwo\nand a rest\r", ["", "one", "two", "and a rest\r", null]],
    ["readExactly", "abcdefgh", ["abc", "def", "UnexpectedEof"]],
    ["readBlock", "\0\0\0\x03a\nb\0\0\0\0\0\0\0\x01c", ["a\nb", "", "c", null]],
    ["readBlock", "\0\0\0\x01a\0\0", ["a", "UnexpectedEof"]],
    ["readBlock", "\0\0\0\x02a", ["UnexpectedEof"]],
    ["readBlock", "\xff\xff\xff\xffa", ["LimitError"]],
    ["readShortBlock", "\0\x03a\nb\0\0\0\x01c\0", ["a\nb", "", "c", "UnexpectedEof"]],
    ["readShortBlock", "\xff\xffa", ["LimitError"]],
    [
      "readDotLines",
      ".\r\n..\r\n...a\r\n.b\r\n\r\n.\r\na\r\n.\r",
      ["", ".\r\n..a\r\nb\r\n\r\n", "UnexpectedEof"],
    ],
    ["readSome", "twelve octets", ["twelve octets", null]],
    ["readToEnd", "a\r\nb\0", ["a\r\nb\0", null]],
  ];
  for (const [name, input, expected] of inputs) {
    assertEquals(cases[name].model(input), expected, `the model of ${name}`);
    for (const pieces of cuts(input)) {
      const { conn } = receiving(...pieces, null);
      assertEquals(await readAll(conn, cases[name].read), expected, `${name} ${pieces}`);
      assertEquals(conn.bytesRead > 0, true);
    }
  }
});

const ATOMS = ["\r\n", "\r\n", "\n", "\r", ".", "?", "\0", "\0\0\0\x05", "\xff", "\xc3\xa9", "a"];
/** A text out of what readers look for, now and then with a long line, cut at random. */
function randomPieces(below: (n: number) => number): string[] {
  const atoms = Array.from(
    { length: below(60) },
    () => below(40) ? ATOMS[below(ATOMS.length)] : "x".repeat(below(2 * MAX)),
  );
  const text = atoms.join("");
  const pieces = [];
  for (let at = 0, end; at < text.length; at = end) {
    end = at + 1 + below(below(2) ? 4 : text.length);
    pieces.push(text.slice(at, end));
  }
  return pieces;
}

Deno.test("random octets, randomly cut, are what the model says and buffered within bounds", async () => {
  for (const [name, { read, model }] of Object.entries(cases)) {
    for (let seed = 1; seed <= 400; seed++) {
      const pieces = randomPieces(random(seed));
      const { conn, wire } = receiving(...pieces, null);
      const results = await readAll(conn, read);
      assertEquals(results, model(pieces.join("")), `${name}, seed ${seed}`);
      assert(wire.offered <= 64 * 1024, `${name}, seed ${seed}: buffer of ${wire.offered}`);
    }
  }
});

Deno.test("exactly max octets pass and one more does not", async () => {
  const nine = "123456789";
  const inputs: [Reader, exact: string, over: string][] = [
    [(conn) => conn.readLine(10), nine + "\n", nine + "0\n"],
    [(conn) => conn.readLine(10), nine.slice(1) + "\r\n", nine + "\r\n"],
    [(conn) => conn.readUntil("?", 10), nine + "?", nine + "0?"],
    [(conn) => conn.readMessage(10), nine + "\n", nine + "0\n"],
    [(conn) => conn.readMessage(10), nine + "0", nine + "01"],
    [(conn) => conn.readBlock(9), "\0\0\0\x09" + nine, "\0\0\0\x0a" + nine + "0"],
    [(conn) => conn.readDotLines(11), nine + "\r\n.\r\n", nine + "0\r\n.\r\n"],
    [(conn) => conn.readDotLines(11), "." + nine + "\r\n.\r\n", ".." + nine + "\r\n.\r\n"],
    [(conn) => conn.readToEnd(9), nine, nine + "0"],
  ];
  for (const [read, exact, over] of inputs) {
    for (const pieces of cuts(exact)) await read(receiving(...pieces, null).conn);
    for (const pieces of cuts(over)) {
      await assertRejects(() => read(receiving(...pieces, null).conn), LimitError);
    }
  }
});

Deno.test("a peer that never stops sending fills no memory", async () => {
  const mebibyte = "x".repeat(1024 * 1024);
  for (const name of ["readLine", "readUntil", "readMessage", "readToEnd"]) {
    const { conn } = receiving(mebibyte);
    assertEquals(await readAll(conn, cases[name].read), ["LimitError"]);
    assert(conn.bytesRead <= 4 * MAX, `${name} took ${conn.bytesRead} octets`);
  }
  const { conn, wire } = receiving(...Array(8).fill(mebibyte), "\r\n.\r\nNEXT\r\n");
  await assertRejects(() => conn.readDotLines(MAX), LimitError);
  assertEquals(await conn.readLine(), "NEXT");
  assert(wire.offered <= 64 * 1024);
});

Deno.test("the buffer starts small, and a large message does not stay in it", async () => {
  const { conn, wire } = receiving("hello\n");
  assertEquals(await conn.readLine(), "hello");
  assert(wire.offered <= 1024);
  wire.send("x".repeat(1024 * 1024));
  assertEquals((await conn.readExactly(1024 * 1024)).length, 1024 * 1024);
  wire.offered = 0;
  wire.send("bye\n");
  assertEquals(await conn.readLine(), "bye");
  assert(wire.offered <= 64 * 1024);
});

Deno.test("no other sequence than CRLF, dot, CRLF ends lines with a dot", async () => {
  const endings = [
    "\n.\n",
    "\r\n.\n",
    "\n.\r\n",
    "\r.\r\n",
    "\r.\n",
    "\r.\r",
    "\r\n.\r",
    "\n\n.\r\n",
  ];
  for (const ending of [...endings, ".\n", ".\r", "\r\n\0.\r\n", "\r\n.\0\r\n", "\r\r.\r\n"]) {
    for (const before of ["", "a", "x".repeat(1022)]) {
      const text = `${before}${ending}MAIL FROM:<forged>`;
      const expected = text.replace(/(?<=^|\r\n)\./, "") + "\r\n";
      const all = `${text}\r\n.\r\nNEXT\r\n`;
      const from = before.length > 1 ? before.length - 1 : 0;
      for (const tail of cuts(all.slice(from))) {
        const { conn } = receiving(...before.length > 1 ? [all.slice(0, from)] : [], ...tail);
        assertEquals(latin1(await conn.readDotLines(MAX)), expected);
        assertEquals(await conn.readLine(), "NEXT");
      }
    }
  }
});

Deno.test("the dot that ends lines is seen wherever a long line is taken in pieces", async () => {
  for (let length = 1015; length <= 1030; length++) {
    const line = "x".repeat(length);
    const { conn } = receiving(`${line}\r\n.\r\nNEXT\r\n`);
    assertEquals(latin1(await conn.readDotLines(MAX)), `${line}\r\n`);
    assertEquals(await conn.readLine(), "NEXT");
  }
});

/** Feeds what `write` sends, cut by chance, to a new connection. */
async function relayed(
  write: (conn: FramedConn) => Promise<void>,
  below: (n: number) => number,
): Promise<{ conn: FramedConn; sent: string }> {
  const { conn: writer, wire } = receiving();
  await write(writer);
  const sent = wire.written;
  assertEquals(writer.bytesWritten, sent.length);
  const pieces = [];
  for (let rest = sent; rest; rest = rest.slice(pieces.at(-1)?.length)) {
    pieces.push(rest.slice(0, 1 + below(below(2) ? 4 : 2000)));
  }
  return { conn: receiving(...pieces, null).conn, sent };
}

Deno.test("what is written in a form is read back", async () => {
  for (let seed = 1; seed <= 300; seed++) {
    const below = random(seed);
    const text = randomPieces(below).join("");
    const ends = text.replace(/\r?\n/g, "\r\n");
    const expected = ends && !ends.endsWith("\n") ? ends + "\r\n" : ends;
    const mail = await relayed((conn) => conn.writeDotLines(octets(text)), below);
    assertEquals(latin1(await mail.conn.readDotLines(1e6)), expected, `seed ${seed}`);
    assertEquals(await mail.conn.readSome(), null);
    const { conn, sent } = await relayed((conn) => conn.writeBlock(octets(text)), below);
    assertEquals(sent.length, 4 + text.length);
    assertEquals(latin1(await conn.readBlock() ?? octets("none")), text, `seed ${seed}`);
    const short = await relayed((conn) => conn.writeBlock(octets(text), 2), below);
    assertEquals(short.sent.length, 2 + text.length);
    assertEquals(latin1(await short.conn.readBlock(65535, 2) ?? octets("none")), text);
  }
  const { conn: bare, wire } = receiving();
  await assertRejects(() => bare.writeBlock(new Uint8Array(65536), 2), RangeError, "65536");
  assertEquals(wire.written, "");
  const { conn, sent } = await relayed((conn) => conn.writeLine("é"), () => 0);
  assertEquals([await conn.readLine(), sent], ["é", "\xc3\xa9\r\n"]);
});

Deno.test("lines are as they should be wherever one piece of them ends and the next begins", async () => {
  for (let length = 65536 - 12; length <= 65536; length++) {
    const line = "x".repeat(length);
    for (const end of ["\n.\n..", "\r\n.", "\r\r\n\n.\r", ""]) {
      const { conn, wire } = receiving();
      await conn.writeDotLines(octets(line + end));
      const expected = `${line}${end}`.replace(/\r?\n/g, "\r\n").replaceAll("\n.", "\n..");
      assert(wire.written === `${expected}\r\n.\r\n`, `${length} ${JSON.stringify(end)}`);
    }
  }
});

Deno.test("writeLine refuses what would be two lines, and sends nothing of it", async () => {
  for (const line of ["a\nb", "a\r", "\n", "QUIT\r\nDELE 1"]) {
    const { conn, wire } = receiving();
    await assertRejects(() => conn.writeLine(line), TypeError);
    assertEquals(wire.written, "");
  }
});

Deno.test("readMessage takes a line, or what comes before 50 ms of silence", async () => {
  const { conn, wire } = receiving("\nfirst\nse", "co", "nd");
  const began = performance.now();
  assertEquals([await conn.readMessage(), await conn.readMessage()], ["", "first"]);
  assertEquals(await conn.readMessage(), "second");
  assert(performance.now() - began >= 45, "it did not wait for more");
  wire.send("third");
  assertEquals(await conn.readMessage(), "third");
  // Other readers take up the read that it left under way.
  wire.send("fourth\r\nfifth", null);
  assertEquals(await conn.readLine(), "fourth");
  assertEquals([await conn.readMessage(), await conn.readMessage()], ["fifth", null]);
});

Deno.test("a reset is never taken for the end, nor one that readMessage left behind", async () => {
  for (const [name, { read }] of Object.entries(cases)) {
    for (const before of [[], ["a"]]) {
      const { conn } = receiving(...before, new ConnectionReset("reset"));
      for (let i = 0; i < 3; i++) {
        assertEquals((await readAll(conn, read)).at(-1), "ConnectionReset", name);
      }
    }
  }
  const { conn, wire } = receiving("a");
  assertEquals(await conn.readMessage(), "a");
  wire.send(new ConnectionReset("reset"));
  await new Promise((resolve) => setTimeout(resolve)); // it fails with nobody waiting for it
  for (let i = 0; i < 3; i++) await assertRejects(() => conn.readMessage(), ConnectionReset);
});

Deno.test({
  name: "a reset on the network is no end",
  ignore: !mayConnect,
  async fn() {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    for (const message of ["", "no line end"]) {
      const far = net.connect(listener.addr.port, "127.0.0.1"); // Deno's own close never resets
      await once(far, "connect");
      using near = new FramedConn(await listener.accept());
      if (message) {
        far.write(message);
        assertEquals(await near.readMessage(), message); // it leaves a read under way
      }
      far.resetAndDestroy();
      for (let i = 0; i < 3; i++) await assertRejects(() => near.readMessage(), ConnectionReset);
    }
  },
});

Deno.test({
  name: "a silent peer is timed out, reading and writing, and the connection closed",
  ignore: !mayConnect,
  async fn() {
    const { near: reader, far } = await pair({ timeout: 50 });
    const error = await assertRejects(() => reader.readLine(), TimedOut);
    assertMatch(error.message, /0\.05 s/);
    await assertRejects(() => reader.writeAll("x"), TimedOut);
    assertEquals(await far.read(new Uint8Array(1)), null);
    far.close();

    const { near: writer, far: deaf } = await pair({ timeout: 300 });
    await assertRejects(() => writer.writeAll(new Uint8Array(64 * 1024 * 1024)), TimedOut);
    assert(writer.bytesWritten > 0 && writer.bytesWritten < 64 * 1024 * 1024);
    deaf.close();
  },
});

Deno.test({
  name: "close ends a read and a write under way, and all later ones, with its reason",
  ignore: !mayConnect,
  async fn() {
    const operations: ((conn: FramedConn) => Promise<unknown>)[] = [
      (conn) => conn.readLine(),
      (conn) => conn.readExactly(1),
      (conn) => conn.readMessage(),
      (conn) => conn.writeAll(new Uint8Array(64 * 1024 * 1024)),
    ];
    for (const operation of operations) {
      const { near, far } = await pair();
      const why = new Error("enough");
      const rejected = assertRejects(() => operation(near), Error, "enough");
      near.close(why);
      near.close();
      assertEquals(await rejected, why);
      assertEquals(await assertRejects(() => near.readLine()), why);
      far.close();
    }
  },
});

Deno.test({
  name: "32 MiB go both ways at once, and none is lost or changed",
  ignore: !mayConnect,
  async fn() {
    const { near, far } = await pair();
    using a = near;
    using b = new FramedConn(far);
    const size = 32 * 1024 * 1024;
    const data = new Uint8Array(size).map((_, at) => at ^ (at >> 8) ^ (at >> 16));
    async function receive(conn: FramedConn) {
      const all = new Uint8Array(size);
      for (let at = 0; at < size;) {
        const some = await conn.readSome();
        assert(some, "it ended early");
        all.set(some, at);
        at += some.length;
      }
      return all.every((octet, at) => octet === data[at]);
    }
    const done = await Promise.all([receive(a), receive(b), a.writeAll(data), b.writeAll(data)]);
    assertEquals(done.slice(0, 2), [true, true]);
    assertEquals([a.bytesRead, a.bytesWritten, b.bytesRead, b.bytesWritten], Array(4).fill(size));
  },
});

Deno.test("readLineOctets gives what is no text as it is", async () => {
  const { conn } = receiving("\xff\xfe\0\xc3\r", "\n\n", null);
  const lines = [await conn.readLineOctets(), await conn.readLineOctets()];
  assertEquals(lines.map((line) => line && latin1(line)), ["\xff\xfe\0\xc3", ""]);
  assertEquals(await conn.readLineOctets(), null);
});

Deno.test("readable waits for something to read and leaves it there", async () => {
  const { conn, wire } = receiving();
  let ready: boolean | undefined;
  const waiting = conn.readable().then((is) => ready = is);
  await Promise.resolve();
  assertEquals(ready, undefined);
  wire.send("one\ntwo\n");
  assertEquals(await waiting, true);
  assertEquals(await conn.readLine(), "one");
  assertEquals(await conn.readable(), true); // of what is buffered
  assertEquals(await conn.readLine(), "two");
  wire.send(null);
  assertEquals([await conn.readable(), await conn.readLine()], [false, null]);
});

Deno.test("a read takes over from a readable that waits, and both see a failure", async () => {
  const { conn, wire } = receiving();
  const waiting = conn.readable();
  const line = conn.readLine();
  wire.send("one\n");
  assertEquals([await waiting, await line], [true, "one"]);
  const dead = conn.readable();
  conn.close(new Error("why"));
  await assertRejects(() => dead, Error, "why");
});

Deno.test({
  name: "end lets the peer see an end, after all that was sent, and closes",
  ignore: !mayConnect,
  async fn() {
    const { near, far } = await pair();
    using client = new FramedConn(far);
    await near.writeLine("last");
    await near.end();
    assertEquals(latin1(await client.readToEnd(100)), "last\r\n");
    await assertRejects(() => near.writeLine("more"), Error);
    await near.end(); // once more is no harm
  },
});

Deno.test({
  name: "finish sends all, then waits for the peer's end and forgets what it sends",
  ignore: !mayConnect,
  async fn() {
    const { near, far } = await pair();
    using server = near;
    using client = new FramedConn(far);
    await far.write(octets("no line end"));
    assertEquals(await server.readMessage(), "no line end"); // it leaves a read under way
    await server.writeLine("answer");
    const finished = server.finish(new Uint8Array(100));
    assertEquals(latin1(await client.readToEnd(100)), "answer\r\n");
    await client.writeAll(new Uint8Array(1024 * 1024));
    await client.conn.closeWrite();
    await finished;
  },
});

Deno.test({
  name: "--trace prints both directions, a line a line, without a control character",
  ignore: !mayConnect,
  async fn() {
    using said = new Said();
    const { near, far } = await pair({ trace: true });
    using conn = near;
    await far.write(octets("a\x1b[31m\r\n\xe9"));
    assertEquals(await conn.readLine(), "a\x1b[31m");
    await conn.writeAll("one\ntwo\n");
    await conn.writeAll("PASS secret\r\n", "PASS ***\r\n");
    const heard = new Uint8Array(64);
    let n = 0;
    while (n < 21) n += await far.read(heard.subarray(n)) ?? 64;
    assertEquals(new TextDecoder().decode(heard.subarray(0, n)), "one\ntwo\nPASS secret\r\n");
    far.close();
    assertEquals(said.lines, [
      `< ${conn.peer} a\\x1b[31m\\r\\n`,
      `< ${conn.peer} \\xe9`,
      `> ${conn.peer} one\\n`,
      `> ${conn.peer} two\\n`,
      `> ${conn.peer} PASS ***\\r\\n`,
    ]);
    said.lines.length = 0;
    trace(">", "peer", octets("x".repeat(3000)));
    trace("<", "peer", octets(""));
    assertEquals(said.lines[0], `> peer ${"x".repeat(1024)}`);
    assertStringIncludes(said.lines[1], "1976 bytes more");
    assertEquals(said.lines.slice(2).map((line) => line.trim()), ["< peer"]);
  },
});

Deno.test("printable leaves text as it is, and no control or direction character", () => {
  assertEquals(printable("Grüße, 漢字 🦕 ~"), "Grüße, 漢字 🦕 ~");
  assertEquals(printable("\x1b[2J\r\n\t\x07\x7f\x9b"), "\\x1b[2J\\r\\n\\t\\x07\\x7f\\x9b");
  const directions = [0x61c, 0x200e, 0x200f, 0x202a, 0x202e, 0x2028, 0x2029, 0x2066, 0x2069];
  for (const code of directions) {
    const escaped = `a\\u${code.toString(16).padStart(4, "0")}b`;
    assertEquals(printable(`a${String.fromCharCode(code)}b`), escaped);
  }
});

/** Asks a socket of the test's, which runs `answer` meanwhile. */
async function ask(
  answer: (socket: Deno.DatagramConn) => Promise<unknown>,
  options: Parameters<typeof askDatagram>[2] & { timeout?: number } = {},
): Promise<string> {
  const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  try {
    const { hostname: host, port } = socket.addr as Deno.NetAddr;
    const asked = askDatagram({ host, port, ...options }, octets("question"), options);
    const answered = answer(socket);
    return await asked.then(latin1).finally(() => answered);
  } finally {
    socket.close();
  }
}

Deno.test({
  name: "a question is sent again until it is answered",
  ignore: !mayConnect,
  async fn() {
    const waits: number[] = [];
    const answer = await ask(async (socket) => {
      await socket.receive();
      const [question, from] = await socket.receive();
      await socket.send(octets(`${latin1(question)} again`), from);
    }, { again: (wait) => waits.push(wait) });
    assertEquals([answer, waits], ["question again", [500]]);
  },
});

Deno.test({
  name: "an answer counts from an address however it was spelled",
  ignore: !mayConnect,
  async fn() {
    const socket = Deno.listenDatagram({ transport: "udp", hostname: "::1", port: 0 });
    const { port } = socket.addr as Deno.NetAddr;
    const asking = askDatagram({ host: "0:0:0:0:0:0:0:1", port, timeout: 5000 }, octets("x"));
    const [question, from] = await socket.receive();
    await socket.send(question, from);
    assertEquals(latin1(await asking.finally(() => socket.close())), "x");
  },
});

Deno.test({
  name: "an answer counts only from where the question went, and if it is one",
  ignore: !mayConnect,
  async fn() {
    const answer = await ask(async (socket) => {
      const [, from] = await socket.receive();
      const other = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
      await other.send(octets("forged"), from);
      other.close();
      await socket.send(octets("guessed"), from);
      await socket.send(octets("true"), from);
    }, { accepts: (answer) => latin1(answer) !== "guessed" });
    assertEquals(answer, "true");
  },
});

Deno.test({
  name: "no answer is an error that says how often it was asked",
  ignore: !mayConnect,
  async fn() {
    const silent = (socket: Deno.DatagramConn) => socket.receive();
    for (const [timeout, retry, times] of [[50, false, 1], [600, true, 2]] as const) {
      const error = await assertRejects(() => ask(silent, { timeout, retry }), TimedOut);
      assertMatch(error.message, new RegExp(`^127\\.0\\.0\\.1:\\d+: .*sent: ${times}\\)$`));
    }
  },
});

Deno.test({
  name: "a Unix socket of datagrams is asked too, and no socket file stays",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const path = `${folder.path}/socket`;
    const server = Deno.listenDatagram({ transport: "unixpacket", path });
    const asked = askDatagram({ host: "", port: 0, unix: path }, octets("question"));
    const [question, from] = await server.receive();
    await server.send(question, from);
    server.close();
    assertEquals(latin1(await asked), "question");
    assertEquals(Array.from(Deno.readDirSync(folder.path), ({ name }) => name), ["socket"]);
  },
});

Deno.test({
  name: "a question that cannot be sent is an error that says where it was to go",
  ignore: !mayConnect,
  async fn() {
    const asking = () => askDatagram({ host: "127.0.0.1", port: 8099 }, new Uint8Array(65508));
    await assertRejects(asking, Error, "127.0.0.1:8099: message too long");
  },
});

Deno.test("what is buffered is what nobody has read", async () => {
  const { conn } = receiving("one\r\ntwo");
  assertEquals(conn.buffered, 0);
  await conn.readLine();
  assertEquals(conn.buffered, 3);
  await conn.readSome();
  assertEquals(conn.buffered, 0);
});

Deno.test("in lines that are printed tabs and line ends work, and nothing else does", () => {
  assertEquals(printableText("a\tb\r\nc\n\x1b[2J\rd\u202e"), "a\tb\nc\n\\x1b[2J\\rd\\u202e");
});

Deno.test("writeAll writes it all, however little is taken at a time", async () => {
  const { wire } = receiving();
  const text = "0123456789".repeat(350); // the wire takes 1000 octets at a time
  await writeAll(wire, octets(text));
  assertEquals(wire.written, text);
  const full = { write: () => Promise.reject(new Error("no space left")) };
  await assertRejects(() => writeAll(full, octets("x")), Error, "no space left");
  await writeAll(full, octets("")); // nothing is nothing
});
