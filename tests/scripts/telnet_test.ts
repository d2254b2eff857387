import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
  assertThrows,
} from "@std/assert";
import { delay } from "@std/async/delay";
import { FramedConn, LimitError } from "../../lib/framing.ts";
import * as client from "../../scripts/telnet_client.ts";
import * as server from "../../scripts/telnet_server.ts";
import { command, mayConnect, mayRun, missing, pair, Program, run, start } from "../helpers.ts";
import { temporaryFolder } from "../helpers.ts";
import { latin1, octets, random, receiving } from "../lib/wire.ts";
import { ask, dial, eventually, hear } from "../peers/peers.ts";
import { assertLeft, inEachForm, startOnWindow, testServer } from "./rig.ts";

const [NOP, SB, WILL, WONT, DO, DONT, IAC] = [241, 250, 251, 252, 253, 254, 255];
const [SE, EOF] = [240, 236];
/** Some commands as they are sent. */
const AYT = "\xff\xf6";
const DO_ECHO = "\xff\xfd\x01";
/** What the server says first, before its prompt. */
const QUESTIONS = "\xff\xfb\x01\xff\xfb\x03\xff\xfd\x18\xff\xfd\x1f";

/** Both scripts have one, as scripts do not share. */
const DECODERS = [["server", server.Decoder], ["client", client.Decoder]] as const;

/** What a decoder of a new stream makes of these pieces. */
function decode(Decoder: new () => Pick<client.Decoder, "decode">, ...pieces: Uint8Array[]) {
  const decoder = new Decoder();
  return pieces.flatMap((piece) => [...decoder.decode(piece)]);
}

/** All ways to cut something short into two. */
function* cuts(text: string): Generator<[string, string]> {
  for (let i = 1; i < text.length; i++) yield [text.slice(0, i), text.slice(i)];
}

for (const [side, Decoder] of DECODERS) {
  Deno.test(`telnet ${side}: any octet after IAC, cut anywhere, and the data goes on`, () => {
    const A = 0x41;
    for (let octet = 0; octet < 256; octet++) {
      const [rest, item] = octet === IAC || octet < EOF
        ? [[], octet]
        : octet === SB
        ? [[9, 8, IAC, IAC, 7, IAC, SE], [SB, 9, 8, IAC, 7]]
        : octet >= WILL
        ? [[IAC], [octet, IAC]] // the option 255 is not doubled
        : [[], octet === SE ? undefined : [octet]];
      const stream = Uint8Array.of(A, IAC, octet, ...rest, A);
      const expected = [A, item, A].filter((item) => item !== undefined);
      for (let i = 0; i <= stream.length; i++) {
        for (let j = i; j <= stream.length; j++) {
          const pieces = [stream.subarray(0, i), stream.subarray(i, j), stream.subarray(j)];
          assertEquals(decode(Decoder, ...pieces), expected, `${octet}, cut at ${i} and ${j}`);
        }
      }
    }
  });

  Deno.test(`telnet ${side}: any octet after IAC in a subnegotiation`, () => {
    for (let octet = 0; octet < 256; octet++) {
      const got = decode(Decoder, Uint8Array.of(IAC, SB, 9, IAC, octet, 8, IAC, SE, NOP));
      const expected = octet === IAC || octet < EOF
        ? [[SB, 9, octet, 8], NOP]
        : octet === SE
        ? [[SB, 9], 8, NOP]
        : octet === SB
        ? [[SB, 8], NOP]
        : octet >= WILL
        ? [[octet, 8], NOP]
        : [[octet], 8, NOP];
      assertEquals(got, expected, `${octet}`);
    }
  });

  Deno.test(`telnet ${side}: a subnegotiation without an end is not kept`, () => {
    const decoder = new Decoder();
    const heap = () => Deno.memoryUsage().heapUsed;
    const piece = new Uint8Array(100_000);
    assertEquals([...decoder.decode(Uint8Array.of(IAC, SB, 31))], []);
    const before = heap();
    for (let i = 0; i < 20; i++) assertEquals([...decoder.decode(piece)], []);
    assert(heap() - before < 10e6, `grew by ${heap() - before}`);
    assertEquals([...decoder.decode(Uint8Array.of(IAC, SE, 65, IAC, NOP))], [65, [NOP]]);
  });

  Deno.test(`telnet ${side}: nonsense is survived, and cut or not it is the same`, () => {
    const next = random(1);
    const likely = [...octets("\xff\xff\xff\xfa\xf0\xfb\xfd\xf2\r\n\0a"), 1, 24, 31];
    for (let round = 0; round < 300; round++) {
      const stream = Uint8Array.from(
        { length: next(60) },
        () => next(4) > 0 ? likely[next(likely.length)] : next(256),
      );
      const pieces: Uint8Array[] = [];
      for (let i = 0; i < stream.length;) {
        pieces.push(stream.subarray(i, i += 1 + next(5)));
      }
      const decoder = new Decoder();
      const got = pieces.flatMap((piece) => [...decoder.decode(piece)]);
      assertEquals(got, decode(Decoder, stream));
      // Whatever came before, after this all is well.
      assertEquals([...decoder.decode(Uint8Array.of(0, IAC, NOP, 65))].slice(-2), [[NOP], 65]);
    }
  });
}

Deno.test("telnet_server, LineEditor: each key, what the screen shows, and the line", () => {
  const back = "\b \b";
  const cases: [keys: string, shown: string, lines: (string | null)[]][] = [
    ["date\r", "date\n", ["date"]],
    ["date\n", "date\n", ["date"]],
    ["a\r\n", "a\n\n", ["a", ""]], // CR LF is a matter of Telnet
    ["dx\bate\r", `dx${back}ate\n`, ["date"]],
    ["dx\x7f\x7f\x7fdate\r", `dx${back}${back}date\n`, ["date"]],
    ["gr\u00fc\u{1f600}\x7f\r", `gr\u00fc\u{1f600}${back}\n`, ["gr\u00fc"]],
    ["abc\x15date\r", `abc${back.repeat(3)}date\n`, ["date"]],
    ["\x15\r", "\n", [""]],
    ["abc\x03date\r", "abc^C\ndate\n", ["", "date"]],
    ["\x04", "\n", [null]],
    ["a\x04b\r", "ab\n", ["ab"]],
    ["a\x7f\x04", `a${back}\n`, [null]],
    ["a\tb\r", "a b\n", ["a b"]],
    ["a\0\x01\x07\x1f\x80\x9fb\r", "ab\n", ["ab"]],
    ["\x1b[A\x1b[1;5Dda\x1bOCte\x1bx\r", "date\n", ["date"]], // arrows, and Alt-x
    ["a\x1b\rb\r", "a\nb\n", ["a", "b"]],
    ["a\x1b[\x7fb\r", `a${back}\n`, [""]],
  ];
  for (const [keys, shown, lines] of cases) {
    const editor = new server.LineEditor(10);
    let screen = "";
    const got: (string | null)[] = [];
    for (const key of keys) {
      const [show, line] = editor.type(key);
      screen += show;
      if (line !== undefined) got.push(line);
    }
    assertEquals([screen, got], [shown, lines], JSON.stringify(keys));
  }
  const editor = new server.LineEditor(3);
  for (const key of "abc") editor.type(key);
  assertThrows(() => editor.type("d"), LimitError, "line of more than 3 characters");
});

Deno.test("telnet_server, obey: the commands, and nothing in an answer drives a terminal", () => {
  const since = new Date(0);
  const user: server.User = { name: "127.0.0.1:1", since };
  const other = { name: "evil\x1b[2J\u202e", since, terminal: "\x1b]0;x\x07" };
  const users = new Set([user, other]);
  const says = (line: string, by = user) => server.obey(line, by, users);
  assertMatch(says("date")[0], /^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT\n$/);
  assertEquals(says("who"), [
    "127.0.0.1:1 since Thu, 01 Jan 1970 00:00:00 GMT (you)\n" +
    "evil\\x1b[2J\\u202e since Thu, 01 Jan 1970 00:00:00 GMT\n",
    false,
  ]);
  assertEquals(says(" echo  two  words "), ["two  words\n", false]);
  assertEquals(says("echo"), ["\n", false]);
  assertEquals(says("echo \x1b[2J"), ["\\x1b[2J\n", false]);
  assertEquals(says("size"), ["size unknown; type unknown\n", false]);
  assertEquals(says("size", other), ["size unknown; \\x1b]0;x\\x07\n", false]);
  user.window = { columns: 80, rows: 24 };
  user.terminal = "xterm";
  assertEquals(says("size"), ["80 columns, 24 rows; xterm\n", false]);
  assertEquals(says("help")[0].split("\n").length, 7);
  assertEquals(says("quit"), ["bye\n", true]);
  assertEquals(says(""), ["", false]);
  assertEquals(says("  "), ["", false]);
  for (const line of ["Date", "toString", "__proto__", "\x1b[2J x"]) {
    const [answer, last] = says(line);
    assertMatch(answer, /^[!-~]+: unknown command, help lists them\n$/);
    assertEquals(last, false);
  }
});

/** What the server sends on these pieces after its questions, up to the end or to its failure. */
async function told(...pieces: (string | Uint8Array)[]): Promise<{ text: string; error?: Error }> {
  const { wire, conn } = receiving(...pieces, null);
  const error = await server.converse(conn, new Set()).then(() => undefined, (error) => error);
  assertEquals(wire.written.slice(0, QUESTIONS.length), QUESTIONS);
  return { text: wire.written.slice(QUESTIONS.length), error };
}

Deno.test("telnet_server: each kind of line end is one, cut anywhere", async () => {
  const stream = "echo a\r\necho b\r\0echo c\recho d\n\r\n\n\r\0echo e\r\n";
  const expected = { text: "> a\r\n> b\r\n> c\r\n> d\r\n> > > > e\r\n> ", error: undefined };
  assertEquals(await told(stream), expected);
  for (const pieces of cuts(stream)) assertEquals(await told(...pieces), expected);
});

Deno.test("telnet_server: echoes to a client that has agreed, and only then", async () => {
  const keys = "echo gr\xc3\xbc\x7f\xc3\xb6\xff\xf1\xc3\xff\xf1\x9f\r\0";
  const quiet = await told(keys);
  assertEquals(quiet.text, "> gr\xc3\xb6\xc3\x9f\r\n> ");
  const stream = DO_ECHO + "\xff\xfd\x03" + keys + "quit\r\0";
  const shown = "> echo gr\xc3\xbc\b \b\xc3\xb6\xc3\x9f\r\ngr\xc3\xb6\xc3\x9f\r\n> quit\r\nbye\r\n";
  assertEquals((await told(stream)).text, shown);
  for (const pieces of cuts(stream)) assertEquals((await told(...pieces)).text, shown);
  assertEquals((await told("\xff\xfe\x01echo a\r\n")).text, "> a\r\n> ");
  // Taken back, which is answered (WONT ECHO), and given again (WILL ECHO).
  const changes = [DO_ECHO, "echo a\r\n", "\xff\xfe\x01", "echo b\r\n", DO_ECHO, "echo c\r\n"];
  assertEquals(
    (await told(...changes)).text,
    "> echo a\r\na\r\n> \xff\xfc\x01b\r\n> \xff\xfb\x01echo c\r\nc\r\n> ",
  );
});

Deno.test("telnet_server: IP, BRK, EC, EL and AYT; EOF is the end; what else there is, is ignored", async () => {
  const cases: [sent: string, text: string][] = [
    ["echo a\xff\xf4echo b\r\n", "> > b\r\n> "],
    ["echo a\xff\xf3echo b\r\n", "> > b\r\n> "],
    ["echo ax\xff\xf7b\r\n", "> ab\r\n> "],
    ["echo a\xff\xf8echo b\r\n", "> b\r\n> "],
    [`echo a${AYT}b\r\n`, "> \r\n[yes]\r\nab\r\n> "],
    ["echo a\xff\xf5\xff\xf9\xff\xf1\xff\xf2\xff\xed\xff\xee\xff\xef\xff\xf0b\r\n", "> ab\r\n> "],
    ["echo a\r\xff\xf1\n\xff\xf1\xff\xececho b\r\n", "> a\r\n> "],
  ];
  for (const [sent, text] of cases) assertEquals(await told(sent), { text, error: undefined });
  const { text } = await told(`${DO_ECHO}echo a\xff\xf4echo x\xff\xf7b\xff\xf8`);
  assertEquals(text, `> echo a^C\r\n> echo x\b \bb${"\b \b".repeat(6)}`);
});

Deno.test("telnet_server: a line of 1000 characters is obeyed, a longer one ends the talk", async () => {
  const text = "\xc3\xbc".repeat(995);
  assertEquals((await told(`echo ${text}\r\n`)).text, `> ${text}\r\n> `);
  const { text: said, error } = await told(`echo ${text}x`, "\r\n");
  assertEquals(said, "> \r\nline of more than 1000 characters\r\n");
  assert(error instanceof LimitError);
});

Deno.test("telnet_server: hearing no more in the middle of a line is said", async () => {
  assertEquals((await told("echo a\r\necho")).error?.message, "left in the middle of a line");
});

Deno.test("telnet_server: window and terminal as they are told, bounded, and cut anywhere", async () => {
  const SIZE = "\xff\xfa\x1f\x00\xff\xff\x01\x02\xff\xf0"; // 255 and 258
  const TYPE = "\xff\xfa\x18\x00XTERM\xff\xf0";
  const cases: [sent: string, size: string][] = [
    ["", "size unknown; type unknown"],
    [SIZE, "255 columns, 258 rows; type unknown"],
    [SIZE + TYPE, "255 columns, 258 rows; XTERM"],
    ["\xff\xfa\x1f\x00\x50\x00\x18\xff\xf0" + SIZE, "255 columns, 258 rows; type unknown"],
    ["\xff\xfa\x1f\0\0\0\0\xff\xf0", "size unknown; type unknown"],
    ["\xff\xfa\x1f\0\x50\0\xff\xf0\xff\xfa\x1f\xff\xf0", "size unknown; type unknown"], // too short
    ["\xff\xfa\x18\x00a\x1b[2Jb\xff\xf0", "size unknown; a\\x1b[2Jb"],
    ["\xff\xfa\x18\x01\xff\xf0\xff\xfa\x18\x02x\xff\xf0", "size unknown; type unknown"], // no IS
    [`\xff\xfa\x18\x00${"x".repeat(1000)}\xff\xf0`, "size unknown; type unknown"],
    ["\xff\xfa\xff\xf0", "size unknown; type unknown"],
  ];
  for (const [sent, size] of cases) {
    const stream = `${sent}size\r\n`;
    assertEquals((await told(stream)).text, `> ${size}\r\n> `);
    if (stream.length > 100) continue;
    for (const pieces of cuts(stream)) {
      assertEquals((await told(...pieces)).text, `> ${size}\r\n> `);
    }
  }
});

Deno.test("telnet_server: of options only a change is answered, and what it does not know refused", async () => {
  const [ECHO, TYPE, SIZE, SGA] = ["\x01", "\x18", "\x1f", "\x03"];
  const ask = "\xff\xfa\x18\x01\xff\xf0"; // for the type
  const cases: [sent: string, answers: string][] = [
    // Answers to the server's own questions.
    [`\xff\xfd${ECHO}\xff\xfd${SGA}\xff\xfb${SIZE}`, ""],
    [`\xff\xfe${ECHO}\xff\xfe${SGA}\xff\xfc${SIZE}\xff\xfc${TYPE}`, ""],
    [`\xff\xfb${TYPE}`, ask],
    // What is so already.
    [`\xff\xfd${ECHO}\xff\xfd${ECHO}\xff\xfe${ECHO}\xff\xfe${ECHO}`, `\xff\xfc${ECHO}`],
    [`\xff\xfb${TYPE}\xff\xfb${TYPE}`, ask],
    // And back again.
    [`\xff\xfe${ECHO}\xff\xfd${ECHO}\xff\xfd${ECHO}`, `\xff\xfb${ECHO}`],
    [`\xff\xfc${TYPE}\xff\xfb${TYPE}`, `\xff\xfd${TYPE}${ask}`],
    [`\xff\xfb${SGA}\xff\xfb${SGA}\xff\xfc${SGA}`, `\xff\xfd${SGA}\xff\xfe${SGA}`],
    // The same option on the other side is another.
    [`\xff\xfb${ECHO}\xff\xfc${ECHO}`, `\xff\xfe${ECHO}`],
    [`\xff\xfd${TYPE}\xff\xfe${SIZE}`, `\xff\xfc${TYPE}`],
  ];
  for (let option = 0; option < 256; option++) {
    if (["\x01", "\x03", "\x18", "\x1f"].includes(String.fromCharCode(option))) continue;
    const name = String.fromCharCode(option);
    cases.push([
      `\xff\xfd${name}\xff\xfe${name}\xff\xfc${name}\xff\xfb${name}`,
      `\xff\xfc${name}\xff\xfe${name}`,
    ]);
  }
  for (const [sent, answers] of cases) {
    assertEquals(
      (await told(sent, "quit\r\n")).text.replace("quit\r\n", ""),
      `> ${answers}bye\r\n`,
    );
  }
});

/** A connection to the conversation of the server with somebody, in this process. */
async function visit(users = new Set<server.User>()) {
  const { near, far } = await pair();
  const ended = server.converse(near, users).then(() => undefined, (error: Error) => error)
    .finally(async () => {
      await near.finish(new Uint8Array(1024)).catch(() => {});
      near.close();
    });
  return { conn: new FramedConn(far, { timeout: 10_000 }), ended };
}

/** Each option's command in these octets, if that is all there is besides subnegotiations. */
function commands(octets: Uint8Array): number[][] {
  const items = decode(client.Decoder, octets);
  return items.filter((item) => Array.isArray(item) && item.length === 2) as number[][];
}

/** Answers every word about options with all there are, up to the end; returns how many it heard. */
async function provoke(conn: FramedConn): Promise<number> {
  let count = 0;
  for (let piece; (piece = await conn.readSome().catch(() => null)) !== null;) {
    const heard = commands(piece);
    count += heard.length;
    const all = heard.flatMap(([, option]) =>
      [WILL, DO, WONT, DONT].flatMap((verb) => [IAC, verb, option])
    );
    await conn.writeAll(new Uint8Array(all.slice(0, 3000))).catch(() => {}); // more it had to wait for
  }
  return count;
}

Deno.test({
  name: "telnet_server: nobody can have it answer for ever",
  ignore: !mayConnect,
  async fn() {
    // One that sends everything back, as an echo server does.
    const mirror = await visit();
    let heard = 0;
    for (let piece; heard < 10 && (piece = await mirror.conn.readSome()) !== null;) {
      heard += commands(piece).length;
      await mirror.conn.writeAll(piece.slice());
      if (latin1(piece).includes("\xff\xfe\x01")) break; // it was offered an ECHO, and refused
    }
    await mirror.conn.writeAll("\r\necho done\r\n");
    const { length } = commands(octets(await hear(mirror.conn, /done/)));
    assert(heard + length <= 10, `${heard} and ${length}`);
    mirror.conn.close();
    await mirror.ended;

    const { conn, ended } = await visit();
    const answers = await provoke(conn);
    conn.close();
    assertEquals((await ended)?.message, "options without end");
    assert(answers <= 10_004, `${answers}`);
  },
});

Deno.test({
  name: "telnet_server: after anything at all it still talks with others",
  ignore: !mayConnect,
  async fn() {
    const next = random(7);
    const users = new Set<server.User>();
    const witness = await visit(users);
    await hear(witness.conn, /> $/);
    const likely = octets(
      "\xff\xff\xff\xfa\xf0\xfb\xfc\xfd\xfe\xf6\x01\x03\x18\x1f\r\n\0\b\x15\x1b[who",
    );
    for (let round = 0; round < 150; round++) {
      const { conn, ended } = await visit(users);
      const noise = Uint8Array.from(
        { length: next(400) },
        () => next(8) > 0 ? likely[next(likely.length)] : next(256),
      );
      for (let i = 0; i < noise.length;) {
        await conn.writeAll(noise.subarray(i, i += 1 + next(200))).catch(() => {});
      }
      if (next(2) > 0) {
        await conn.conn.closeWrite().catch(() => {});
        await conn.readToEnd(1e7).catch(() => {});
      }
      conn.close();
      await ended;
      await witness.conn.writeAll(`echo round ${round}\r\n`);
      await hear(witness.conn, new RegExp(`round ${round}\r\n> $`));
    }
    assertEquals(users.size, 1);
    witness.conn.close();
    await witness.ended;
    assertEquals(users.size, 0);
  },
});

/** A client's connection whose server is the test. */
function connected(size?: () => { columns: number; rows: number }, type = "xterm") {
  const { wire, conn } = receiving();
  const telnet = new client.Telnet(conn, { type, size });
  const data: string[] = [];
  const ended = (async () => {
    for (let piece; (piece = await telnet.read()) !== null;) data.push(latin1(piece));
  })();
  return { wire, telnet, ended, data: () => data.join("") };
}

const SCREEN = () => ({ columns: 255, rows: 24 });

/** What a client of this kind sends on these pieces, and the data it has of them. */
async function answers(
  pieces: (string | Uint8Array)[],
  size: (() => { columns: number; rows: number }) | null = SCREEN,
): Promise<[sent: string, data: string]> {
  const { wire, telnet, ended, data } = connected(size ?? undefined);
  wire.send(...pieces, null);
  await ended;
  await telnet.write(new Uint8Array()); // after the last answer
  return [wire.written, data()];
}

Deno.test("telnet_client: agrees to echoes, window and type, and refuses the rest; changes only", async () => {
  const IS = "\xff\xfa\x18\0xterm\xff\xf0";
  const size = "\xff\xfa\x1f\x00\xff\xff\x00\x18\xff\xf0"; // 255 is doubled
  const cases: [sent: string, answers: string][] = [
    ["\xff\xfb\x01\xff\xfb\x01\xff\xfc\x01\xff\xfc\x01", "\xff\xfd\x01\xff\xfe\x01"],
    ["\xff\xfb\x03\xff\xfd\x03\xff\xfd\x03", "\xff\xfd\x03\xff\xfb\x03"],
    ["\xff\xfd\x1f\xff\xfd\x1f", `\xff\xfb\x1f${size}`],
    ["\xff\xfd\x18\xff\xfa\x18\x01\xff\xf0", `\xff\xfb\x18${IS}`],
    ["\xff\xfa\x18\0evil\xff\xf0\xff\xfa\x1f\xff\xf0\xff\xfa\xff\xf0\xff\xf6", ""],
    ["\xff\xfd\x01\xff\xfe\x01", "\xff\xfc\x01"], // to echo is the server's part
    ["\xff\xfb\x1f\xff\xfb\x18", "\xff\xfe\x1f\xff\xfe\x18"],
  ];
  for (let option = 0; option < 256; option++) {
    const name = String.fromCharCode(option);
    if (["\x01", "\x03", "\x18", "\x1f"].includes(name)) continue;
    cases.push([`\xff\xfd${name}\xff\xfe${name}\xff\xfb${name}`, `\xff\xfc${name}\xff\xfe${name}`]);
  }
  for (const [sent, expected] of cases) {
    assertEquals(await answers([`a${sent}b`]), [expected, "ab"]);
    for (const pieces of cuts(`a${sent}b`)) assertEquals(await answers(pieces), [expected, "ab"]);
  }
  // Where nobody sees anything, there is no window, and nothing to echo for.
  const nobody = await answers(["\xff\xfb\x01\xff\xfd\x1f"], null);
  assertEquals(nobody, ["\xff\xfe\x01\xff\xfc\x1f", ""]);
});

Deno.test("telnet_client: every octet arrives, CR NUL as CR, and cut anywhere", async () => {
  const all = Uint8Array.from({ length: 256 }, (_, i) => i);
  const sent = latin1(all).replace("\xff", "\xff\xff") + "\r\0\r\0\r\n\n";
  const expected = latin1(all) + "\r\r\r\n\n";
  assertEquals(await answers([sent]), ["", expected]);
  for (const pieces of cuts(sent)) assertEquals(await answers(pieces), ["", expected]);
});

Deno.test("telnet_client: what is written, in lines and by keys", async () => {
  const all = latin1(Uint8Array.from({ length: 256 }, (_, i) => i));
  const cases: [keys: boolean, data: string, sent: string][] = [
    [false, "a\nb\r\nc\rd\n", "a\r\nb\r\nc\r\0d\r\n"],
    [false, "\r\r\n\n\xff\n", "\r\0\r\n\r\n\xff\xff\r\n"],
    [true, "a\rb\nc\r\n", "a\r\0b\nc\r\0\n"],
    [true, all, all.replace("\r", "\r\0").replace("\xff", "\xff\xff")],
    [false, all, all.replace("\r", "\r\0").replace("\n", "\r\n").replace("\xff", "\xff\xff")],
  ];
  for (const [keys, data, sent] of cases) {
    for (const pieces of [[data], ...cuts(data.slice(0, 9))]) {
      const { wire, telnet } = connected(SCREEN);
      if (keys) {
        wire.send("\xff\xfb\x01");
        await eventually("it is told to echo", () => telnet.echoes);
      }
      for (const piece of pieces) await telnet.write(octets(piece));
      if (pieces.length > 1) await telnet.write(octets(data.slice(9)));
      assertEquals(wire.written.replace("\xff\xfd\x01", ""), sent, JSON.stringify(data));
    }
  }
});

Deno.test("telnet_client: a new size is told if it was asked for", async () => {
  let columns = 80;
  const { wire, telnet } = connected(() => ({ columns, rows: 24 }));
  telnet.tellSize();
  await telnet.write(octets("a"));
  wire.send("\xff\xfd\x1f");
  await eventually("it tells the size", () => wire.written.endsWith("\xff\xf0"));
  columns = 300;
  telnet.tellSize();
  telnet.end();
  await telnet.write(octets("b"));
  const sizes = "\xff\xfa\x1f\0\x50\0\x18\xff\xf0\xff\xfa\x1f\x01\x2c\0\x18\xff\xf0";
  assertEquals(wire.written, `a\xff\xfb\x1f${sizes}\xff\xecb`);
});

Deno.test("telnet_client: a trace names commands and options", () => {
  const cases: [command: number[], name: string][] = [
    [[WILL, 31], "WILL NAWS"],
    [[DONT, 24], "DONT TERMINAL-TYPE"],
    [[DO, 3], "DO SUPPRESS-GO-AHEAD"],
    [[WONT, 255], "WONT 255"],
    [[SB, 31, 0, 80, 1, 2], "SB NAWS 80 258"],
    [[SB, 31, 0], "SB NAWS 0"],
    [[SB, 24, 1], "SB TERMINAL-TYPE SEND"],
    [[SB, 24, 0, 0x61, 0x1b], "SB TERMINAL-TYPE IS a\\x1b"],
    [[SB, 24, 7], "SB TERMINAL-TYPE 7"],
    [[SB, 99, 1, 2], "SB 99 1 2"],
    [[SB], "SB"],
    [[EOF], "EOF"],
    [[246], "AYT"],
  ];
  for (const [command, name] of cases) assertEquals(client.describe(command), name);
});

Deno.test({
  name: "telnet_client: no server can have it answer for ever",
  ignore: !mayConnect,
  async fn() {
    const { near, far } = await pair();
    const conn = new FramedConn(far, { timeout: 10_000 });
    const telnet = new client.Telnet(near, { type: "xterm", size: SCREEN });
    const reading = (async () => {
      while (await telnet.read() !== null);
    })();
    const ended = assertRejects(() => reading, Error, "options without end").then(() =>
      near.close()
    );
    await conn.writeAll(Uint8Array.of(IAC, DO, 31, IAC, WILL, 1, IAC, DO, 99));
    const count = await provoke(conn);
    await ended;
    assert(count <= 10_000, `${count}`);
    conn.close();
  },
});

Deno.test({
  name: "telnet_client and telnet_server agree in a few words, and then talk",
  ignore: !mayConnect,
  async fn() {
    const { conn, ended } = await visit();
    let columns = 80;
    const size = () => ({ columns, rows: 24 });
    const telnet = new client.Telnet(conn, { type: "xterm", size });
    let text = "";
    const over = (async () => {
      for (let piece; (piece = await telnet.read()) !== null;) text += latin1(piece);
    })();
    const shows = (end: string) => eventually(`it shows ${end}`, () => text.endsWith(end));
    await eventually("the server echoes", () => telnet.echoes);
    await telnet.write(octets("size\r"));
    await shows("> size\r\n80 columns, 24 rows; xterm\r\n> ");
    columns = 132;
    telnet.tellSize();
    await telnet.write(octets("sixe\x7f\x7fze\r"));
    await shows("132 columns, 24 rows; xterm\r\n> ");
    const spoken = conn.bytesWritten;
    // 4 options agreed to, a type and two sizes, and the keys.
    assertEquals(spoken, 4 * 3 + 11 + 2 * 9 + 6 + 10, `${spoken}`);
    await telnet.write(octets("\x04"));
    await over;
    conn.close();
    assertEquals(await ended, undefined);
  },
});

Deno.test({
  name:
    "telnet_client: a server that asks and sends, and reads nothing meanwhile, does not stop it",
  ignore: !mayConnect,
  async fn() {
    const { near, far } = await pair();
    const telnet = new client.Telnet(near, { type: "xterm" });
    const size = 8_000_000;
    let received = 0;
    const reading = (async () => {
      for (let piece; (piece = await telnet.read()) !== null;) received += piece.length;
    })();
    const writing = telnet.write(new Uint8Array(size));
    const conn = new FramedConn(far);
    const piece = new Uint8Array(size / 1000);
    for (let i = 0; i < 1000; i++) {
      await conn.writeAll(piece);
      await conn.writeAll(Uint8Array.of(IAC, DO, 99));
    }
    await eventually("all is received", () => received === size);
    let heard = 0;
    while (heard < size + 3000) heard += (await conn.readSome())?.length ?? NaN;
    assertEquals(heard, size + 3000);
    await writing;
    conn.close();
    await reading;
    near.close();
  },
});

Deno.test({
  name: "telnet_client with a pipe, on telnet_server in each form",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const permissions = ["--allow-read", "--allow-write"];
    for await (const { form, ask } of inEachForm("telnet_server", folder.path)) {
      const stdin = "echo gr\u00fc\u00dfe\r\nwho\n";
      const { code, stdout, stderr } = await run("telnet_client", ask, { stdin, permissions });
      assertEquals([code, stderr], [0, ""], form);
      assertMatch(
        stdout,
        /^> grüße\r\n> \S+ since .* GMT \(you\)\r\n> $/,
        form,
      );
    }
  },
});

Deno.test({
  name: "telnet_client takes HOST and PORT or the flags, and says what is wrong in one line",
  ignore: !mayRun,
  async fn() {
    await using running = start("telnet_server", ["--port", "0"]);
    const port = `${await running.port()}`;
    for (const args of [["127.0.0.1", port], ["--port", port], ["localhost", "-p", port]]) {
      const { code, stdout } = await run("telnet_client", args, { stdin: "quit\nmore\n" });
      assertEquals([code, stdout], [0, "> bye\r\n"]);
    }
    running.signal("SIGINT");
    assertEquals((await running.ended()).code, 0);
    const wrong: [args: string[], code: number, says: string][] = [
      [["127.0.0.1", port], 1, `127.0.0.1:${port}: connection refused\n`],
      [["127.0.0.1", "x"], 2, "x is not a whole number from 1 to 65535"],
      [["a:1"], 2, "a:1 is neither a name nor an IP address"],
      [["--unix", "x", "127.0.0.1"], 2, "--unix does not go with HOST and PORT"],
      [["127.0.0.1", port, "x"], 2, "unexpected argument x"],
    ];
    for (const [args, expected, says] of wrong) {
      const { code, stdout, stderr } = await run("telnet_client", args);
      assertEquals([code, stdout, stderr.split("\n").length], [expected, "", 2], stderr);
      assertEquals(stderr.slice(0, 15 + says.length), `telnet_client: ${says}`);
    }
  },
});

Deno.test({
  name: "telnet_server: people see each other, plain clients too, and a long line is said",
  ignore: !mayRun,
  async fn() {
    await using running = start("telnet_server", ["--port", "0"]);
    const port = await running.port();
    using one = await dial(port);
    await hear(one, /> $/);
    using two = await dial(port);
    await hear(two, /> $/);
    await two.writeAll("who\n");
    const list = await hear(two, /\n> $/);
    const [mine, other] = [two, one].map(({ conn }) => (conn.localAddr as Deno.NetAddr).port);
    assertMatch(list, new RegExp(`^127.0.0.1:${other} since [^]*\n127.0.0.1:${mine} .*you`));
    await one.end();
    await eventually("one has left", async () => {
      await two.writeAll("who\n");
      return !(await hear(two, /\n> $/)).includes(`:${other} `);
    });
    assertMatch(await ask(port, "x".repeat(5000)), /> \r\nline of more than 1000 characters\r\n$/);
    await running.until(/: line of more than 1000 characters\n/, "stderr");
    await two.writeAll("quit\n");
    assertEquals(await hear(two), "bye\r\n");
  },
});

Deno.test({
  name: "telnet_client: what the server did not take before it ended is said",
  ignore: !mayRun,
  async fn() {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = listener.addr;
    await using sending = start("telnet_client", ["--port", `${port}`]);
    using conn = await listener.accept();
    const chunk = `${"x".repeat(65535)}\n`;
    for (let full = false; !full;) { // until nothing moves any more
      const typed = sending.type(chunk).then(() => false, () => true);
      full = await Promise.race([typed, delay(500).then(() => true)]);
    }
    await conn.write(octets("enough\r\n"));
    await conn.closeWrite();
    assertEquals(await sending.ended(), {
      code: 1,
      stdout: "enough\r\n",
      stderr: `telnet_client: 127.0.0.1:${port}: not all was sent: the server has ended\n`,
    });
  },
});

Deno.test({
  name: "telnet_client: waits for a slow reader of its output, and not for a silent server",
  ignore: !mayRun,
  async fn() {
    await using lavish = testServer(async (conn) => {
      await conn.writeAll(new Uint8Array(3e6));
      await conn.finish(new Uint8Array(100));
    });
    const args = ["--port", `${lavish.port}`, "--timeout", "0.2"];
    const line = '{ "$@" </dev/null; echo "exit $?" >&2; } | { sleep 1; wc -c; }';
    await using slow = new Program(["sh", "-c", line, "sh", ...command("telnet_client"), ...args]);
    assertEquals(await slow.ended(), { code: 0, stdout: "3000000\n", stderr: "exit 0\n" });

    await using silent = testServer(async (conn) => {
      await conn.writeAll("hello");
      await conn.readToEnd(100);
    });
    const { code, stdout, stderr } = await run("telnet_client", [
      "--port",
      `${silent.port}`,
      ...args.slice(2),
    ]);
    assertEquals([code, stdout], [1, "hello"]);
    const says = `telnet_client: 127.0.0.1:${silent.port}: no answer within 0.2 s (--timeout)\n`;
    assertEquals(stderr, says);
  },
});

/** The client in a window, told the terminal's type. */
function atTerminal(port: number) {
  const argv = command("telnet_client", ["--allow-env=TERM"]);
  return startOnWindow([...argv, "--port", `${port}`]);
}

Deno.test({
  name: "telnet_client at a terminal: keys, Ctrl-C, the window as it changes, and Ctrl-D",
  ignore: missing("python3"),
  async fn() {
    await using running = start("telnet_server", ["--port", "0"]);
    const { program: terminal, resize } = await atTerminal(await running.port());
    await using _ = terminal;
    await terminal.until(/connected to 127\.0\.0\.1:\d+, Ctrl-\] escapes\r\n> $/);
    await terminal.type("echo wrong\x7f\x7f\x7f\x7f\x7fright\r");
    await terminal.until(/> echo wrong(. .){5}right\r+\nright\r+\n> $/);
    await terminal.type("nonsense\x03");
    await terminal.until(/> nonsense\^C\r+\n> $/);
    await resize(255, 50);
    await eventually("the server is told of the window", async () => {
      terminal.stdout = "";
      await terminal.type("size\r");
      const [, size] = await terminal.until(/size\r+\n(.*)\r+\n> $/);
      return size === "255 columns, 50 rows; vt220";
    });
    await terminal.type("\x04");
    await terminal.until(/\r\nbye\r+\n/);
    await assertLeft(terminal, 0);
    assertMatch(terminal.stdout, /telnet_client: the server has ended it\r\n/);
  },
});

Deno.test({
  name: "telnet_client at a terminal: Ctrl-] leads to a prompt, Enter back, quit out",
  ignore: missing("python3"),
  async fn() {
    await using running = start("telnet_server", ["--port", "0"]);
    const { program: terminal } = await atTerminal(await running.port());
    await using _ = terminal;
    await terminal.until(/\n> $/);
    await terminal.type("ech");
    await terminal.until(/> ech$/);
    await terminal.type("\x1d");
    await terminal.until(/> ech\r?\ntelnet> $/);
    await terminal.type("\r");
    await terminal.until(/telnet> \r\n$/);
    await terminal.type("o me\r");
    await terminal.until(/\nme\r+\n> $/);
    await terminal.type("\x1d");
    await terminal.until(/> \r?\ntelnet> $/);
    await terminal.type("x\r");
    await terminal.until(/quit ends it, Enter goes on\r+\n$/);
    await terminal.type("\r");
    await terminal.until(/\n> $/);
    await terminal.type("\x1d");
    await terminal.until(/telnet> $/);
    await terminal.type("quit\r");
    await assertLeft(terminal, 0);
  },
});

Deno.test({
  name: "telnet_client at a terminal that is not echoed for sends lines; Ctrl-] and Enter escape",
  ignore: missing("python3"),
  async fn() {
    const lines: string[] = [];
    await using plain = testServer(async (conn) => {
      await conn.writeAll("\x1b[1mwelcome\r\n");
      for (let line; (line = await conn.readUntil("\n")) !== null;) lines.push(line);
    });
    for (const [keys, code] of [["\x03", 130], ["\x04", 0], ["\x1d\r", 0]] as const) {
      const { program: terminal } = await atTerminal(plain.port);
      await using _ = terminal;
      await terminal.until(/welcome\r+\n$/);
      assertStringIncludes(terminal.stdout, "\x1b[1mwelcome"); // as it is: that is a terminal
      await terminal.type("lime\x7f\x7fne\r");
      await eventually("it has come", () => lines.length === 1);
      assertEquals(lines.splice(0), ["line\r\n"]);
      await terminal.type(keys);
      if (keys === "\x1d\r") {
        await terminal.until(/telnet> $/);
        await terminal.type("q\r");
      }
      await assertLeft(terminal, code);
    }
  },
});

Deno.test({
  name:
    "telnet_client gives the terminal back when the server is gone, at a failure, and on SIGTERM",
  ignore: missing("python3"),
  async fn() {
    const cases: [end: (conn: FramedConn, pid: number) => unknown, code: number, says: string][] = [
      [(conn) => conn.close(), 0, "the server has ended it"],
      [(_, pid) => Deno.kill(pid, "SIGTERM"), 130, ""],
      [
        (conn) => conn.writeAll(octets("\xff\xfd\x63".repeat(10_001))),
        1,
        `127.0.0.1:PORT: options without end`,
      ],
    ];
    for (const [end, code, says] of cases) {
      const { promise, resolve } = Promise.withResolvers<FramedConn>();
      await using echoing = testServer(async (conn) => {
        await conn.writeAll(octets("\xff\xfb\x01ready"));
        assertEquals(latin1(await conn.readExactly(3)), DO_ECHO);
        resolve(conn);
        await conn.readToEnd(1e6);
      });
      const { program: terminal, pid } = await atTerminal(echoing.port);
      await using _ = terminal;
      await terminal.until(/ready$/);
      await end(await promise, pid);
      await assertLeft(terminal, code);
      const said = terminal.stdout.replaceAll(`${echoing.port}`, "PORT");
      assertStringIncludes(said, says && `telnet_client: ${says}\r\n`);
    }
  },
});
