import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { LimitError } from "../../lib/framing.ts";
import { Cache, converse } from "../../scripts/cache_server.ts";
import { mayRun, Program, run, scriptPath, start } from "../helpers.ts";
import { octets, random, receiving } from "../lib/wire.ts";
import { dial, eventually, hear } from "../peers/peers.ts";

const MB = 1024 * 1024;
const ROOM = 2 * MB; // more than these tests fill
const KEY = "k".repeat(250);
const BAD = "CLIENT_ERROR bad command line format\r\n";

/** What the server answers to octets that come in these pieces, a character for each octet. */
async function talk(cache: Cache, ...pieces: string[]): Promise<string> {
  const { wire, conn } = receiving(...pieces, null);
  await converse(conn, cache);
  return wire.written;
}

/** Asks one thing after the other; each is answered as it stands beside it. */
async function assertAnswers(cache: Cache, ...talks: [request: string, answer: string][]) {
  for (const [request, answer] of talks) {
    assertEquals(await talk(cache, request), answer, JSON.stringify(request.slice(0, 200)));
  }
}

const set = (key: string, value: string, flags = 0, expires = 0) =>
  `set ${key} ${flags} ${expires} ${value.length}\r\n${value}\r\n`;
const found = (key: string, value: string, rest = "0") =>
  `VALUE ${key} ${rest.replace(/^(\d+)/, `$1 ${value.length}`)}\r\n${value}\r\n`;

Deno.test("cache_server stores, and retrieves what it has", async () => {
  await assertAnswers(
    new Cache(ROOM),
    ["get a\r\n", "END\r\n"],
    ["set a 5 0 3\r\nabc\r\n", "STORED\r\n"],
    ["get a\r\n", "VALUE a 5 3\r\nabc\r\nEND\r\n"],
    ["gets a\r\n", "VALUE a 5 3 1\r\nabc\r\nEND\r\n"],
    ["get  a b  a \r\n", "VALUE a 5 3\r\nabc\r\nVALUE a 5 3\r\nabc\r\nEND\r\n"],
    ["gat 100 b a\r\n", "VALUE a 5 3\r\nabc\r\nEND\r\n"],
    ["gats 0 a\r\n", "VALUE a 5 3 1\r\nabc\r\nEND\r\n"],
    ["gat 0\r\n", "END\r\n"],
    ["add a 0 0 1\r\nx\r\n", "NOT_STORED\r\n"],
    ["add b 4294967295 0 0\r\n\r\n", "STORED\r\n"],
    ["gets b\r\n", "VALUE b 4294967295 0 2\r\n\r\nEND\r\n"],
    ["replace c 0 0 1\r\nx\r\n", "NOT_STORED\r\n"],
    ["replace b 1 0 1\r\nx\r\n", "STORED\r\n"],
    ["append b 9 0 2\r\nyz\r\n", "STORED\r\n"],
    ["prepend b 9 0 1\r\nw\r\n", "STORED\r\n"],
    ["gets b\r\n", "VALUE b 1 4 5\r\nwxyz\r\nEND\r\n"],
    ["append c 0 0 1\r\nx\r\n", "NOT_STORED\r\n"],
    ["prepend c 0 0 1\r\nx\r\n", "NOT_STORED\r\n"],
    ["cas c 0 0 1 5\r\nx\r\n", "NOT_FOUND\r\n"],
    ["cas b 0 0 1 4\r\nx\r\n", "EXISTS\r\n"],
    ["cas b 0 0 1 5\r\nx\r\n", "STORED\r\n"],
    ["gets b\r\n", "VALUE b 0 1 6\r\nx\r\nEND\r\n"],
    ["delete b\r\n", "DELETED\r\n"],
    ["delete b\r\n", "NOT_FOUND\r\n"],
    ["touch a 100\r\n", "TOUCHED\r\n"],
    ["touch b 100\r\n", "NOT_FOUND\r\n"],
    ["verbosity 1\r\n", "OK\r\n"],
    ["version\r\n", "VERSION 1.5.3\r\n"],
    ["flush_all\r\n", "OK\r\n"],
    ["get a\r\n", "END\r\n"],
    [set("a", "new") + "gets a\r\n", "STORED\r\n" + found("a", "new", "0 8") + "END\r\n"],
    ["quit\r\nget a\r\n", ""],
  );
});

Deno.test("cache_server counts up to 64 bits, down to 0, and in the place of the old number", async () => {
  const end = "END\r\n";
  const non = "CLIENT_ERROR cannot increment or decrement non-numeric value\r\n";
  const delta = "CLIENT_ERROR invalid numeric delta argument\r\n";
  await assertAnswers(
    new Cache(ROOM),
    ["incr n 1\r\n", "NOT_FOUND\r\n"],
    ["decr n 1\r\n", "NOT_FOUND\r\n"],
    [set("n", "9", 7), "STORED\r\n"],
    ["incr n 1\r\ngets n\r\n", "10\r\n" + found("n", "10", "7 2") + end],
    ["decr n 1\r\ngets n\r\n", "9\r\n" + found("n", "9 ", "7 3") + end],
    ["incr n 90\r\nget n\r\n", "99\r\n" + found("n", "99", "7") + end],
    ["decr n 100\r\nget n\r\n", "0\r\n" + found("n", "0 ", "7") + end],
    [set("n", `${2n ** 64n - 1n}`), "STORED\r\n"],
    ["decr n 0\r\n", "18446744073709551615\r\n"],
    ["incr n 2\r\nget n\r\n", "1\r\n" + found("n", "1".padEnd(20)) + end],
    ["incr n 18446744073709551615\r\n", "0\r\n"],
    ["incr n 18446744073709551616\r\nincr n -1\r\nincr n 1x\r\nincr n x\r\n", delta.repeat(4)],
    ...["", "x", "-1", "1x", "18446744073709551616", "9".repeat(100_000)].map(
      (value): [string, string] => [set("n", value) + "incr n 1\r\n", "STORED\r\n" + non],
    ),
    ...["7", " 7", "+7", "007", "7 x", "7\n", "7\0", "7 ".padEnd(1000)].map(
      (value): [string, string] => [set("n", value) + "incr n 1\r\n", "STORED\r\n8\r\n"],
    ),
  );
});

Deno.test("cache_server says what is wrong, and reads on", async () => {
  const large = "SERVER_ERROR object too large for cache\r\n";
  const time = "CLIENT_ERROR invalid exptime argument\r\n";
  const usage = BAD.replace("\r\n", ".  Usage: delete <key> [noreply]\r\n");
  const error = "ERROR\r\n";
  await assertAnswers(
    new Cache(ROOM),
    [set("a", "x"), "STORED\r\n"],
    ...["", " ", "GET a", "get", "gets", "gat", "gats", "frob", "m", "\x80", "\0get a", "\tget a"]
      .map((line): [string, string] => [`${line}\r\n`, error]),
    ...["set a 0 0", "set a 0 0 1 noreply x", "cas a 0 0 1", "incr a", "incr a 1 2 3", "touch a"]
      .map((line): [string, string] => [`${line}\r\n`, error]),
    ...["delete", "delete a 0 noreply x", "flush_all 1 2 3", "verbosity", "verbosity 1 2 3"]
      .map((line): [string, string] => [`${line}\r\n`, error]),
    ...["set a x 0 1", "set a -1 0 1", "set a 0 x 1", "set a 0 0 x", "set a 0 0 -1", "set a 1x 0 1"]
      .map((line): [string, string] => [`${line}\r\n`, BAD]),
    ...[`set ${KEY}k 0 0 1`, `get ${KEY}k`, `get a ${KEY}k`, `delete ${KEY}k`, `touch ${KEY}k 0`]
      .map((line): [string, string] => [`${line}\r\n`, BAD]),
    ...["cas a 0 0 1 x", "cas a 0 0 1 -1", "set a 0 0 2147483646", "set a 0 0 2147483648"]
      .map((line): [string, string] => [`${line}\r\n`, BAD]),
    ["set a 0 99999999999999999999 1\r\n", BAD],
    ["verbosity x\r\n", BAD],
    ["touch a x\r\ngat x a\r\nflush_all x\r\n", time.repeat(3)],
    ["delete a 1\r\ndelete a noreply 0\r\ndelete a 0 1\r\n", usage.repeat(3)],
    ["delete b 0\r\n", "NOT_FOUND\r\n"],
    // The line of data is no command where it is known how long it is.
    ["set a 0 0 1\r\nxy\r\n", "CLIENT_ERROR bad data chunk\r\n" + error],
    ["set a 0 0 3\r\nx\r\nget a\r\n", "CLIENT_ERROR bad data chunk\r\n" + error],
    ["get a\n", found("a", "x") + "END\r\n"],
    [set("big", "v".repeat(MB - 62)), "STORED\r\n"],
    ["append big 0 0 1\r\nx\r\n", "NOT_STORED\r\n"],
    [set("big", "v".repeat(MB - 62), 1) + "get big\r\n", large + "END\r\n"],
    [set(KEY, "v".repeat(MB - 309)), "STORED\r\n"],
    [`add ${set(KEY, "v".repeat(MB - 308)).slice(4)}`, large],
    [set("b", "x".repeat(5_000_000)) + "get a\r\n", large + found("a", "x") + "END\r\n"],
  );
});

Deno.test("cache_server answers nothing where noreply says so, not even an error", async () => {
  const cache = new Cache(ROOM);
  await assertAnswers(
    cache,
    ["set a 0 0 1 noreply\r\n1\r\nadd a 0 0 1 noreply\r\n2\r\n", ""],
    ["cas a 0 0 1 77 noreply\r\nx\r\nreplace b 0 0 1 noreply\r\nx\r\n", ""],
    ["append a 0 0 1 noreply\r\n2\r\nprepend a 0 0 1 noreply\r\n3\r\n", ""],
    ["incr a 1 noreply\r\ndecr a 2 noreply\r\ntouch a 0 noreply\r\n", ""],
    ["get a\r\n", found("a", "311") + "END\r\n"],
    ["incr a x noreply\r\ntouch a x noreply\r\nset a 0 0 noreply\r\nverbosity noreply\r\n", ""],
    ["set a 0 0 1 noreply\r\nxyz", ""],
    [`set a 0 0 2000000 noreply\r\n${"x".repeat(2_000_000)}\r\nget a\r\n`, "END\r\n"],
    [set("a", "1") + "delete a 0 noreply\r\ndelete b noreply\r\n", "STORED\r\n"],
    ["flush_all noreply\r\nflush_all 0 noreply\r\nflush_all x noreply\r\n", ""],
    ["get noreply\r\nset a 0 0 1 noreply noreply\r\n", "END\r\nERROR\r\n"],
    ["set a 0 0 1 junk\r\n1\r\nget a\r\n", "STORED\r\n" + found("a", "1") + "END\r\n"],
  );
});

Deno.test("cache_server keeps any octets, in keys and in values", async () => {
  const cache = new Cache(ROOM);
  const octets = Array.from({ length: 256 }, (_, n) => String.fromCharCode(n)).join("");
  const key = octets.replace(/[\0\n\r ]/g, "").slice(0, 250);
  await assertAnswers(
    cache,
    ...[octets, "\r\n", "\r\nEND\r\n", "get a\r\n", octets.repeat(1000)].map(
      (value): [string, string] => [
        `${set(key, value)}get ${key}\r\n`,
        `STORED\r\n${found(key, value)}END\r\n`,
      ],
    ),
    // Two octets that are not UTF-8 are not the same key.
    [set("\xfe", "1") + set("\xff", "2"), "STORED\r\nSTORED\r\n"],
    ["get \xfe \xff\r\n", found("\xfe", "1") + found("\xff", "2") + "END\r\n"],
    // As in C, a line ends with its first NUL.
    ["get \xfe\0 \xff\r\nget \xfe\0\xff\r\n", (found("\xfe", "1") + "END\r\n").repeat(2)],
  );
});

Deno.test("cache_server forgets what has expired", async () => {
  const now = Math.floor(Date.now() / 1000);
  const cache = new Cache(ROOM);
  const month = 30 * 24 * 60 * 60;
  for (const expires of [0, 100, month, now + 1000, 2 ** 31 - 1, -(2 ** 31) - 1, 2 ** 32]) {
    const answer = `STORED\r\n${found("a", "x")}END\r\n`;
    await assertAnswers(cache, [set("a", "x", 0, expires) + "get a\r\n", answer]);
  }
  for (const expires of [-1, -(2 ** 31), month + 1, now - 1000, 2 ** 31]) {
    const rest = `get a\r\ntouch a 0\r\nincr a 1\r\nreplace a 0 0 0\r\n\r\ndelete a\r\n`;
    const answer = "END\r\nNOT_FOUND\r\nNOT_FOUND\r\nNOT_STORED\r\nNOT_FOUND\r\n";
    await assertAnswers(cache, [set("a", "1", 0, expires) + rest, "STORED\r\n" + answer]);
    const touched = set("a", "1") + `touch a ${expires}\r\n` + rest;
    await assertAnswers(cache, [touched, "STORED\r\nTOUCHED\r\n" + answer]);
    const got = set("a", "1") + `gat ${expires} a\r\n` + rest;
    await assertAnswers(cache, [got, `STORED\r\n${found("a", "1")}END\r\n${answer}`]);
  }
  assertEquals(cache.used, 0);

  // In a second, and not before; what is changed meanwhile keeps its time.
  const began = Date.now();
  await assertAnswers(cache, [
    set("a", "1", 0, 1) + "incr a 1\r\nappend a 0 0 1\r\n3\r\nget a\r\n" + set("b", "x", 0, 0),
    `STORED\r\n2\r\nSTORED\r\n${found("a", "23")}END\r\nSTORED\r\n`,
  ]);
  await eventually("it has expired", async () => await talk(cache, "get a\r\n") === "END\r\n");
  assert(Date.now() - began >= 1000, `${Date.now() - began} ms`);
  assertEquals(await talk(cache, "get b\r\n"), found("b", "x") + "END\r\n");
});

Deno.test("flush_all with a delay deletes what is there then", async () => {
  const cache = new Cache(ROOM);
  assertEquals(
    await talk(cache, set("a", "1") + "flush_all 1\r\nget a\r\n"),
    [
      ..."STORED\r\nOK\r\n",
      ...found("a", "1"),
      ..."END\r\n",
    ].join(""),
  );
  assertEquals(await talk(cache, set("b", "2")), "STORED\r\n");
  await eventually("a is gone", async () => await talk(cache, "get a\r\n") === "END\r\n");
  const after = set("c", "3") + "get a b c\r\n";
  assertEquals(await talk(cache, after), "STORED\r\n" + found("c", "3") + "END\r\n");
  // Another takes its place, and what is stored after it has come true stays.
  await talk(cache, "flush_all 1\r\nflush_all 1000\r\n");
  const late = Date.now() + 1100;
  await eventually("the first is due", () => Date.now() > late);
  assertEquals(await talk(cache, "get c\r\n"), found("c", "3") + "END\r\n");
});

Deno.test("Cache: what was used longest ago goes, and no more than must", () => {
  const [item, room] = [350, 10];
  const cache = new Cache(room * item);
  const has = (key: string) => cache.find(key) > 0;
  for (let i = 0; i < room; i++) cache.store(`${i}`, octets(`value ${i}`), i, Infinity);
  assertEquals([cache.used, cache.counts.evicted], [room * item, 0]);
  assert(has("0"));
  cache.store("1", octets("changed"), 0, Infinity); // both were used after 2
  cache.store("x", octets(""), 0, Infinity);
  assertEquals([has("2"), cache.counts.evicted], [false, 1]);
  cache.store("y", octets("y".repeat(256 * 2)), 0, Infinity); // of three chunks, with its key
  assertEquals([has("3"), has("4"), has("5"), cache.counts.evicted], [false, false, false, 4]);
  for (const key of ["6", "7", "8", "9", "0", "1", "x", "y"]) assert(has(key), key);
  const value = (key: string) => cache.value(cache.find(key)).toString("latin1");
  assertEquals(value("y"), "y".repeat(512));
  assertEquals(value("1"), "changed");
  assertEquals(cache.flags[cache.find("9")], 9);
  cache.store("z", octets("z".repeat(256 * room - 1)), 0, Infinity);
  assertEquals([has("z"), has("y"), cache.used], [true, false, room * item]);
  cache.flush(0);
  assertEquals([has("z"), cache.used], [false, 0]);
});

Deno.test("Cache does as a list in the order of use would, over 30,000 random uses", () => {
  const chance = random(11);
  const chunks = 40;
  const cache = new Cache(chunks * 350);
  let list: { key: string; value: string; flags: number }[] = []; // the one used last is last
  const size = ({ key, value }: { key: string; value: string }) =>
    Math.ceil((key.length + value.length) / 256);
  for (let i = 0; i < 30_000; i++) {
    const key = "k".repeat(chance(3) ? 1 : 240) + chance(30);
    const known = list.find((item) => item.key === key);
    const item = cache.find(key);
    const value = item > 0 ? cache.value(item).toString("latin1") : undefined;
    assertEquals(value, known?.value, `${i}: ${key}`);
    if (known) {
      assertEquals(cache.flags[item], known.flags);
      list = [...list.filter((item) => item !== known), known];
    }
    const what = chance(10);
    if (what === 0 && known) {
      cache.delete(key);
      list.pop();
    } else if (what < 4) {
      const fresh = { key, value: `${i}`.repeat(chance(4) ? chance(40) : chance(1000)), flags: i };
      cache.store(key, octets(fresh.value), i, Infinity);
      list = [...list.filter((item) => item !== known), fresh];
      const used = () => list.reduce((sum, item) => sum + size(item), 0);
      while (used() > chunks) list.shift();
      assertEquals(cache.used, used() * 350);
    } else if (chance(3000) === 0) {
      cache.flush(0);
      list = [];
    }
  }
  assert(cache.counts.evicted > 1000, `${cache.counts.evicted}`);
});

Deno.test({
  name: "Cache: hits leave nothing behind in memory",
  ignore: !mayRun,
  async fn() {
    // In a process of its own, as in this one other tests have left room.
    const script = scriptPath("cache_server");
    const config = script.replace(/scripts\/[^/]*$/, "deno.json");
    await using program = new Program([
      ...[Deno.execPath(), "run", "--no-prompt", "--quiet", "--config", config, "-"],
    ]);
    await program.type(`
      import { Cache } from "file://${script}";
      const cache = new Cache(20_000 * 350);
      const keys = Array.from({ length: 20_000 }, (_, i) => \`key-\${i}\`);
      for (const key of keys) cache.store(key, new Uint8Array(1), 0, Infinity);
      cache.store("one more", new Uint8Array(1), 0, Infinity); // so that one has to go
      const use = (rounds) => {
        for (let i = 0; i < rounds; i++) for (const key of keys) cache.find(key);
        return Deno.memoryUsage().rss / 2 ** 20;
      };
      console.log(-use(100) + use(300));
    `);
    await program.endInput();
    const { stdout, stderr } = await program.ended();
    assert(Number(stdout) < 100, `${stdout.trim()} MiB`);
    assertMatch(stdout, /\d/, stderr);
  },
});

/** Some of everything. */
const SESSION = [
  set("a", "1\r\n2", 3) + "get a b a\r\ngets a\r\n",
  "append a 0 0 3\r\nxyz\r\nget a\r\nadd a 0 0 1\r\nx\r\ncas a 0 0 1 99\r\nx\r\n",
  "set n 0 0 1\r\n9\r\nincr n 3\r\ndecr n 5 noreply\r\nget n\r\nbogus\r\n",
  `set l 0 0 300\r\n${"l".repeat(300)}\r\ngat 10 l n\r\ntouch l 5\r\n`,
  "set a 0 0 1\r\nxy\r\nset a 0 x 1\r\ndelete a\r\n\n \r\n",
  "verbosity 1\r\nflush_all\r\nget n\r\nversion\r\nquit\r\n",
].join("");

Deno.test("cache_server answers alike however requests are cut", async () => {
  const whole = await talk(new Cache(ROOM), SESSION);
  assertMatch(whole, /^STORED\r\nVALUE a 3 4\r\n1\r\n2\r\n.*VERSION 1\.5\.3\r\n$/s);
  assertEquals(await talk(new Cache(ROOM), ...SESSION), whole);
  for (let at = 1; at < SESSION.length; at++) {
    const answer = await talk(new Cache(ROOM), SESSION.slice(0, at), SESSION.slice(at));
    assertEquals(answer, whole, `${at}`);
  }
  // What is thrown away is counted as well.
  const large = set("a", "x".repeat(MB));
  const refused = "SERVER_ERROR object too large for cache\r\nEND\r\n";
  const places = [1, 18, 19, 20, 21, 65536, 65556, MB, MB + 20, MB + 21].map((at) =>
    at % large.length
  );
  for (const at of places) {
    const pieces = [large.slice(0, at), large.slice(at) + "get a\r\n"];
    assertEquals(await talk(new Cache(ROOM), ...pieces), refused, `${at}`);
  }
});

Deno.test("cache_server takes many keys in one line, and no other line of more than 2048 octets", async () => {
  const cache = new Cache(ROOM);
  const keys = Array.from({ length: 20_000 }, (_, i) => `key-${i}`);
  await talk(cache, ...keys.slice(0, 5000).map((key) => set(key, "x")));
  const all = keys.slice(0, 5000).map((key) => found(key, "x")).join("") + "END\r\n";
  assertEquals(await talk(cache, `get ${keys.join(" ")}\r\n`), all);
  assertEquals(await talk(cache, `${" ".repeat(100)}get ${keys.join(" ")}\r\n`), all);

  const line = (length: number) => "x".repeat(length) + "\r\n";
  assertEquals(await talk(cache, line(2048)), "ERROR\r\n");
  const cases: [long: string, max: number][] = [
    [line(2049), 2048],
    ["x".repeat(2049), 2048],
    [`gat 0 ${keys.join(" ")}\r\n`, 2048],
    [`get ${line(256 * 1024)}`, 256 * 1024],
  ];
  for (const [long, max] of cases) {
    // What was asked before is answered; nothing behind the line is.
    for (
      const pieces of [[`version\r\n${long}`], ["version\r\n", ...long.match(/.{1,1000}/gs) ?? []]]
    ) {
      const { wire, conn } = receiving(...pieces, "get key-0\r\n", null);
      await assertRejects(() => converse(conn, cache), LimitError, `more than ${max} bytes`);
      assertEquals(wire.written, "VERSION 1.5.3\r\n");
    }
  }
});

Deno.test("cache_server says what it was sent half of", async () => {
  const cache = new Cache(ROOM);
  for (const half of ["g", "get a", "set a 0 0 5\r\n", "set a 0 0 5\r\nab", "set a 0 0 1\r\nx\r"]) {
    const { wire, conn } = receiving(`version\r\n${half}`, null);
    const why = "in the middle of a ";
    await assertRejects(() => converse(conn, cache), Deno.errors.UnexpectedEof, why);
    assertEquals(wire.written, "VERSION 1.5.3\r\n");
  }
  assertEquals([cache.used, cache.counts.open], [0, 0]);
});

Deno.test("cache_server survives 2000 sessions of junk", async () => {
  const chance = random(5);
  const cache = new Cache(20 * 350);
  for (let i = 0; i < 2000; i++) {
    const octets = Array.from(SESSION);
    for (let n = 1 + chance(20); n > 0; n--) {
      const junk = chance(3) ? String.fromCharCode(chance(256)) : ["\r\n", " ", "9", ""][chance(4)];
      octets.splice(chance(octets.length), chance(3) ? 1 : chance(50), junk);
    }
    const text = octets.join("");
    const at = chance(text.length);
    const { conn } = receiving(text.slice(0, at), text.slice(at), null);
    await converse(conn, cache).catch((error) => {
      if (error instanceof LimitError || error instanceof Deno.errors.UnexpectedEof) return;
      throw error;
    });
  }
  // It is as good as new.
  assertEquals(await talk(cache, "flush_all\r\n"), "OK\r\n");
  assertEquals(cache.used, 0);
  assertEquals(
    await talk(cache, set("a", "x") + "get a\r\n"),
    `STORED\r\n${found("a", "x")}END\r\n`,
  );
});

Deno.test({
  name: "cache_server answers pipelined requests in order, and tells its statistics",
  ignore: !mayRun,
  async fn() {
    await using server = start("cache_server", ["--port", "0", "--memory", "2MB"]);
    const port = await server.port();
    using conn = await dial(port);
    await conn.writeAll(set("a", "1") + "get a\r\nincr a 1\r\nget b\r\n");
    const answers = "STORED\r\nVALUE a 0 1\r\n1\r\nEND\r\n2\r\nEND\r\n";
    let said = "";
    while (said.length < answers.length) {
      said += new TextDecoder().decode(await conn.readSome() ?? new Uint8Array());
    }
    assertEquals(said, answers);
    await conn.writeAll("stats\r\nstats items\r\nquit\r\n");
    const lines = (await hear(conn)).split("\r\n");
    assertEquals(lines.splice(-3), ["END", "ERROR", ""]);
    const stats = new Map(lines.map((line): [string, string] => {
      const [, name, value] = /^STAT (\w+) (\S+)$/.exec(line) ?? [];
      return [name, value];
    }));
    const expected: [string, number | string][] = [
      ["pid", server.pid],
      ["version", "1.5.3"],
      ["curr_connections", 1],
      ["cmd_get", 2],
      ["cmd_set", 1],
      ["get_hits", 1],
      ["get_misses", 1],
      ["curr_items", 1],
      ["bytes", 350],
      ["evictions", 0],
      ["limit_maxbytes", 2 * MB],
    ];
    for (const [name, value] of expected) assertEquals(stats.get(name), `${value}`, name);
    for (const name of ["uptime", "time", "total_items"]) {
      assertMatch(`${stats.get(name)}`, /^\d+$/);
    }
    assert(Math.abs(Number(stats.get("time")) - Date.now() / 1000) < 60);

    for (const size of ["1MB", "2GB", "64", "64 MB", "x", "0MB", "-1MB", "9999999999MB"]) {
      const { code, stderr } = await run("cache_server", [`--memory=${size}`]);
      assertEquals(code, 2);
      assertMatch(stderr, /^cache_server: --memory: .* is not a size from 2MB to 1GB .*\n$/);
    }
  },
});

Deno.test({
  name: "cache_server closes a connection whose data never comes",
  ignore: !mayRun,
  async fn() {
    await using server = start("cache_server", ["--port", "0", "--idle-timeout", "0.5"]);
    const port = await server.port();
    using waiting = await dial(port);
    await waiting.writeAll("set a 0 0 10\r\nhalf");
    assertEquals(await hear(waiting), "");
    await server.until(/: closed, silent for 0\.5 s\n/, "stderr");
    using next = await dial(port);
    await next.writeAll("get a\r\nquit\r\n");
    assertEquals(await hear(next), "END\r\n");
  },
});
