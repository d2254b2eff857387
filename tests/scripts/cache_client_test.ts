import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { CacheConnection, checkKey, departures, Ring } from "../../scripts/cache_client.ts";
import { UsageError } from "../../lib/address.ts";
import {
  command,
  mayConnect,
  mayRun,
  missing,
  pair,
  Program,
  type Result,
  run,
  start,
  temporaryFolder,
} from "../helpers.ts";
import { dial, eventually, memory } from "../peers/peers.ts";
import { FILES, inEachForm, testServer } from "./rig.ts";

const OCTETS = Uint8Array.from({ length: 256 }, (_, i) => i);

const prints = (stdout: string): Result => ({ code: 0, stdout, stderr: "" });
const says = (stderr: string, stdout = ""): Result => ({ code: 1, stdout, stderr });

/** Starts cache servers; goes with their addresses and the flags to ask all of them. */
async function startServers(n: number): Promise<
  AsyncDisposable & { servers: Program[]; addresses: string[]; flags: string[] }
> {
  const servers = Array.from({ length: n }, () => start("cache_server", ["--port", "0"]));
  const ports = await Promise.all(servers.map((server) => server.port()));
  const addresses = ports.map((port) => `127.0.0.1:${port}`);
  return {
    servers,
    addresses,
    flags: addresses.flatMap((address) => ["--server", address]),
    async [Symbol.asyncDispose]() {
      for (const server of servers) await server[Symbol.asyncDispose]();
    },
  };
}

/** An address at which nobody listens. */
function nobody(): string {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return `127.0.0.1:${listener.addr.port}`;
}

Deno.test({
  name: "cache_client does everything at cache_server, in each form",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    for await (const { form, server, ask } of inEachForm("cache_server", folder.path)) {
      const client = async (expected: Result, ...args: string[]) => {
        const result = await run("cache_client", [...ask, ...args], { permissions: FILES });
        assertEquals(result, expected, `${form}: ${args}`);
      };
      await client(prints(""), "set", "a", "1\n\x1b2");
      await client(prints(""), "set", "é", "--", "-5");
      await client(prints("1\n\x1b2"), "get", "a");
      await client(
        says("cache_client: b: not found\n", "-5\n1\\n\\x1b2\n-5\n"),
        ..."get é a b é".split(" "),
      );
      await client(prints(""), "set", "n", "41", "--expire", "60");
      await client(prints("42\n"), "incr", "n");
      await client(prints("2\n"), "decr", "n", "40");
      await client(says("cache_client: b: not found\n"), "decr", "b");
      await client(prints(""), "touch", "n", "--expire", "2592000");
      await client(says("cache_client: b: not found\n"), "touch", "b");
      await client(prints(""), "delete", "a");
      await client(says("cache_client: a: not found\n"), "delete", "a");
      const { stdout } = await run("cache_client", [...ask, "stats"], { permissions: FILES });
      assertMatch(stdout, /^pid \d+\n[^]*^curr_items 2$/m);
      await client(prints(""), "flush");
      await client(says("cache_client: n: not found\n"), "get", "n");
      server.signal("SIGINT");
      const { code, stderr } = await server.ended();
      assertEquals([code, stderr.split("\n").length], [0, 2], stderr); // nothing to complain of
    }
  },
});

Deno.test({
  name: "CacheConnection keeps any octets under any key",
  ignore: !mayRun,
  async fn() {
    await using server = start("cache_server", ["--port", "0"]);
    using conn = await dial(await server.port());
    const cache = new CacheConnection(conn);
    const keys = ["k", "k".repeat(250), "é".repeat(125), "!\"#$%&'()*+,-./:;<=>?@[]^_`{|}~", "END"];
    const values = [
      OCTETS,
      new Uint8Array(),
      new TextEncoder().encode("END\r\n"),
      OCTETS.slice(10),
    ];
    values.push(new Uint8Array(1_000_000).fill(13));
    for (const [i, key] of keys.entries()) await cache.set(key, values[i], 60);
    assertEquals(
      await cache.get([...keys, "none", "k"]),
      new Map(keys.map((k, i) => [k, values[i]])),
    );
    assertEquals(await cache.get(["none"]), new Map());
    await cache.set("n", new TextEncoder().encode("18446744073709551615"));
    assertEquals(await cache.arithmetic("decr", "n", 1), 18446744073709551614n);
    assertEquals(await cache.arithmetic("incr", "n", 2), 0n);
    assertEquals(await cache.arithmetic("incr", "none", 1), null);
    assertEquals([await cache.touch("n", 0), await cache.touch("none", 0)], [true, false]);
    assertEquals([await cache.delete("n"), await cache.delete("n")], [true, false]);
    assertEquals((await cache.stats()).get("curr_items"), "5");
    await cache.flush();
    assertEquals(await cache.get(keys), new Map());
  },
});

const NO_KEYS = [
  "",
  "a b",
  "a\nflush_all",
  "a\rb",
  "a\tb",
  "a\0b",
  "a\x7fb",
  "a\u00a0b",
  "a\u2028b",
];
NO_KEYS.push("k".repeat(251), "é".repeat(125) + "k", "a 0 0 1\r\nx\r\nflush_all\r\nget b");

Deno.test({
  name: "what is no key is never sent",
  ignore: !mayConnect,
  async fn() {
    const { near, far } = await pair({ timeout: 2000 });
    const cache = new CacheConnection(near);
    for (const key of NO_KEYS) {
      const calls = [
        () => cache.get([key]),
        () => cache.get(["a", key]),
        () => cache.set(key, OCTETS),
        () => cache.delete(key),
        () => cache.arithmetic("incr", key, 1),
        () => cache.touch(key, 0),
      ];
      for (const call of calls) {
        await assertRejects(call, UsageError, " is not a key (1 to 250 bytes");
      }
      assertThrows(() => checkKey(key), UsageError);
    }
    assertEquals(near.bytesWritten, 0);
    near.close();
    far.close();
  },
});

Deno.test({
  name: "a wrong command line is said, exit 2, and nobody is asked",
  ignore: !mayRun,
  async fn() {
    let asked = 0;
    await using server = testServer(() => void asked++);
    const cases: [args: string[], says: RegExp][] = [
      ...NO_KEYS.filter((key) => !key.includes("\0")).flatMap((key): [string[], RegExp][] => [
        [["get", "a", key], / is not a key/],
        [["set", key, "x"], / is not a key/],
        [["incr", key], / is not a key/],
        [["--server", ":1", "--server", ":2", "ring", key], / is not a key/],
      ]),
      [["bogus"], /bogus is none of /],
      [["constructor"], /constructor is none of /],
      [["get"], /KEY\.\.\. is missing/],
      [["set", "a"], /VALUE is missing/],
      [["set", "a", "b", "c"], /unexpected argument c/],
      [["flush", "a"], /unexpected argument a/],
      [["incr", "a", "x"], /x is not a whole number/],
      [["incr", "a", "--", "-1"], /-1 is not a whole number/],
      [["incr", "a", "9007199254740992"], /is not a whole number/],
      [["set", "a", "b", "--expire", "2592001"], /--expire: 2592001 is not a whole number/],
      [["cached"], /PROGRAM is missing/],
      [["cached", "ls", "-l"], /unknown flag -l/],
      [["ring"], /ring needs --server at least twice/],
      [["--server", ":1", "ring"], /ring needs --server at least twice/],
      [["--server", ":1", "--server", "127.0.0.1:1", "ring"], /a --server is there twice/],
      [["--server", "x:y", "get", "a"], /--server: x:y is not an address/],
      [["--server", ":1", "--unix", "x", "get", "a"], /--unix and --server do not go together/],
    ];
    await Promise.all(cases.map(async ([args, says]) => {
      const { code, stdout, stderr } = await run("cache_client", [
        "--port",
        `${server.port}`,
        ...args,
      ]);
      assertEquals([code, stdout], [2, ""], `${args}: ${stderr}`);
      assertMatch(stderr, says);
      assertMatch(stderr, /^cache_client: [^\n]*\n$/);
    }));
    assertEquals(asked, 0);
  },
});

Deno.test({
  name: "several servers: keys are spread and found again, in the order asked for",
  ignore: !mayRun,
  async fn() {
    await using all = await startServers(3);
    const keys = Array.from({ length: 12 }, (_, i) => `key-${i}`);
    for (const key of keys) {
      assertEquals(await run("cache_client", [...all.flags, "set", key, `<${key}>`]), prints(""));
    }
    const ring = new Ring(all.addresses);
    const reversed = all.addresses.toReversed().flatMap((address) => ["--server", address]);
    for (const flags of [all.flags, reversed]) {
      assertEquals(
        await run("cache_client", [...flags, "get", ...keys]),
        prints(keys.map((key) => `<${key}>\n`).join("")),
      );
    }
    const { stdout } = await run("cache_client", [...all.flags, "stats"]);
    for (const address of all.addresses) {
      const n = keys.filter((key) => ring.serverOf(key) === address).length;
      assert(stdout.includes(`${address} curr_items ${n}\n`), stdout);
    }
    assertEquals(await run("cache_client", [...all.flags, "flush"]), prints(""));
    const { code } = await run("cache_client", [...all.flags, "get", ...keys]);
    assertEquals(code, 1);
  },
});

Deno.test({
  name: "of several servers one that is down is said once, and nothing of its keys",
  ignore: !mayRun,
  async fn() {
    await using all = await startServers(2);
    const down = nobody();
    const flags = ["--server", down, ...all.flags];
    const ring = new Ring([down, ...all.addresses]);
    const keys = Array.from({ length: 40 }, (_, i) => `key-${i}`);
    const isDown = (key: string) => ring.serverOf(key) === down;
    const [lost = "", lost2 = ""] = keys.filter(isDown);
    const kept = keys.filter((key) => !isDown(key)).slice(0, 3);
    const refused = `cache_client: ${down}: connection refused\n`;

    for (const key of kept) {
      assertEquals(await run("cache_client", [...flags, "set", key, "x"]), prints(""));
    }
    assertEquals(
      await run("cache_client", [...flags, "get", lost, ...kept, lost2]),
      says(refused, "x\n".repeat(kept.length)), // and not that what it has is missing
    );
    for (const args of [["set", lost, "x"], ["delete", lost], ["incr", lost], ["touch", lost]]) {
      assertEquals(await run("cache_client", [...flags, ...args]), says(refused));
    }
    const stats = await run("cache_client", [...flags, "stats"]);
    assertEquals([stats.code, stats.stderr], [1, refused]);
    assertEquals(stats.stdout.match(/ pid /g)?.length, 2);
    assertEquals(await run("cache_client", [...flags, "flush"]), says(refused));
    assertEquals((await run("cache_client", [...all.flags, "get", ...kept])).stdout, "");
    assertEquals(
      await run("cache_client", ["--server", down, "get", "a", "b"]),
      says(refused), // nothing is known of the keys
    );
  },
});

const SERVERS = Array.from({ length: 5 }, (_, i) => `10.0.1.${i + 1}:11211`);

Deno.test("a ring gives each server its share, within a quarter of it", () => {
  const keys = Array.from({ length: 20_000 }, (_, i) => `key-${i}`);
  for (let n = 2; n <= SERVERS.length; n++) {
    const servers = SERVERS.slice(0, n);
    const ring = new Ring(servers);
    const places = keys.map((key) => ring.serverOf(key));
    const even = keys.length / n;
    for (const server of servers) {
      const has = places.filter((place) => place === server).length;
      assert(Math.abs(has - even) <= even / 4, `${server} has ${has} of ${keys.length} (${n})`);
    }
  }
});

Deno.test("when a server leaves a ring, its keys move and no others", () => {
  for (let turn = 0; turn < 20; turn++) {
    const servers = Array.from({ length: 2 + turn % 7 }, () => `${crypto.randomUUID()}:1`);
    const keys = Array.from({ length: 500 }, () => crypto.randomUUID());
    const ring = new Ring(servers);
    const shuffled = new Ring(servers.toSorted());
    const gone = servers[turn % servers.length];
    const smaller = new Ring(servers.filter((server) => server !== gone));
    for (const key of keys) {
      const place = ring.serverOf(key);
      assertEquals(shuffled.serverOf(key), place);
      if (place === gone) assert(smaller.serverOf(key) !== gone);
      else assertEquals(smaller.serverOf(key), place);
    }
    for (const { has, ring: moved, modulo } of departures(servers, keys)) {
      assertEquals(moved, has);
      // With hash % n a key stays with a chance of 1 in n, and there are 500 keys.
      const expected = keys.length * (1 - 1 / servers.length);
      assert(Math.abs(modulo - expected) < 80, `${modulo} of ${keys.length}, not ${expected}`);
    }
  }
});

Deno.test({
  name: "ring shows what moves, without a network",
  ignore: !mayRun,
  async fn() {
    const servers = ["one.test:1", "[::1]:2", "unix:/none"];
    const flags = servers.flatMap((server) => ["--server", server]);
    const { code, stdout, stderr } = await run("cache_client", [...flags, "ring"]);
    assertEquals([code, stderr], [0, ""]);
    const keys = Array.from({ length: 1000 }, (_, i) => `key-${i}`);
    const line = /^(\S+) has (\d+) of 1000 keys; if it leaves, (\d+) move, by hash % n (\d+)$/gm;
    const shown = Array.from(stdout.matchAll(line), ([, server, ...numbers]) => {
      const [has, ring, modulo] = numbers.map(Number);
      return { server, has, ring, modulo };
    });
    assertEquals(shown, departures(servers, keys));
    assertEquals(shown.reduce((sum, { has }) => sum + has, 0), 1000);
    assert(shown.every(({ ring, modulo }) => ring < 450 && modulo > 600), stdout);

    const few = await run("cache_client", [...flags, "ring", "a", "b"]);
    const has = Array.from(few.stdout.matchAll(/ has (\d) of 2 keys/g), ([, n]) => Number(n));
    assertEquals([few.code, has.length, has.reduce((sum, n) => sum + n, 0)], [0, 3, 2]);
    const alike = await run("cache_client", ["--server", "h", "--server", "h:1", "ring"]);
    assertMatch(alike.stdout, /^h:19211 has [^]*^h:1 has /m);
  },
});

/** Runs `cached` on a shell's script; returns the octets on stdout, what it says and the exit code. */
async function cached(flags: string[], script: string): Promise<[string, string, number]> {
  const [deno, ...args] = command("cache_client", ["--allow-run=sh"]);
  const { code, stdout, stderr } = await new Deno.Command(deno, {
    args: [...args, ...flags, "cached", "--", "sh", "-c", script],
    stdin: "null",
  }).output();
  const said = new TextDecoder().decode(stderr);
  return [stdout.toHex(), said.replace(/^(cache_client: .*), \d+ ms\n/m, "$1\n"), code];
}

/** How often a script has written a line to the file. */
async function runs(file: string): Promise<number> {
  return (await Deno.readTextFile(file)).split("\n").length - 1;
}

Deno.test({
  name: "cached runs a program once, and shows its octets twice",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    await using server = start("cache_server", ["--port", "0"]);
    const flags = ["--port", `${await server.port()}`, "--expire", "60"];
    const count = `${folder.path}/count`;
    const script = `echo run >> ${count}; printf '\\000\\377\\r\\n\\033END\\r\\n'; echo oops >&2`;
    const octets = "00ff0d0a1b454e440d0a";
    assertEquals(await cached(flags, script), [octets, "oops\ncache_client: miss\n", 0]);
    assertEquals(await cached(flags, script), [octets, "cache_client: hit\n", 0]);
    assertEquals(await runs(count), 1);
    assertEquals(await cached(flags, `${script} `), [octets, "oops\ncache_client: miss\n", 0]);
    assertEquals(await runs(count), 2);

    const silent = `echo run >> ${count}.silent`;
    assertEquals(await cached(flags, silent), ["", "cache_client: miss\n", 0]);
    assertEquals(await cached(flags, silent), ["", "cache_client: hit\n", 0]);
    assertEquals(await runs(`${count}.silent`), 1);

    // Words are not the same as one word with a blank, and input is no part of the key.
    const run2 = (...argv: string[]) =>
      run("cache_client", [...flags, "cached", ...argv], {
        permissions: ["--allow-run"],
        stdin: "x",
      });
    assertEquals((await run2("echo", "a b")).stdout, "a b\n");
    assertMatch((await run2("echo", "a", "b")).stderr, /: miss, \d+ ms\n/);
    assertEquals((await run2("cat")).stdout, "");
  },
});

Deno.test({
  name: "cached keeps neither a failure nor what is too large, and passes the exit code on",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    await using server = start("cache_server", ["--port", "0"]);
    const flags = ["--port", `${await server.port()}`];
    const count = `${folder.path}/count`;
    const cases: [script: string, octets: number, says: string, code: number][] = [
      ["printf x; exit 3", 1, "exit code 3", 3],
      ["printf x; kill -9 $$", 1, "exit code 137", 137],
      ["head -c 1048577 /dev/zero", 1_048_577, "more than 1048576 bytes", 0],
      ["head -c 3000000 /dev/zero", 3_000_000, "more than 1048576 bytes", 0],
    ];
    for (const [script, octets, says, code] of cases) {
      await Deno.writeTextFile(count, "");
      for (const time of [1, 2]) {
        const [stdout, stderr, ended] = await cached(flags, `echo run >> ${count}; ${script}`);
        assertEquals(stdout.length / 2, octets);
        assertEquals(stderr, `cache_client: miss, not kept (${says})\n`);
        assertEquals([ended, await runs(count)], [code, time]);
      }
    }
    const none = await run("cache_client", [...flags, "cached", `${folder.path}/none`], {
      permissions: ["--allow-run"],
    });
    assertEquals(none.code, 1);
    assertMatch(none.stderr, /^cache_client: [^\n]*\/none[^\n]*\n$/);
    for (const permissions of [[], ["--allow-run=sh"]]) {
      const result = await run("cache_client", [...flags, "cached", "ls"], { permissions });
      assertEquals(
        result,
        says(`cache_client: requires run access to "ls", run with --allow-run\n`),
      );
    }
    const { stdout } = await run("cache_client", [...flags, "stats"]);
    assertMatch(stdout, /^curr_items 0$/m);
  },
});

Deno.test({
  name: "cached shows 400 MB, and does not hold them",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    await using server = start("cache_server", ["--port", "0"]);
    const port = `${await server.port()}`;
    const file = `${folder.path}/shown`;
    const wait = `: > ${file}; while [ -e ${file} ]; do sleep 0.05; done`;
    const cached = ["cached", "--", "sh", "-c", `head -c 400000000 /dev/zero; ${wait}`];
    const argv = [...command("cache_client", ["--allow-run"]), "--port", port, ...cached];
    await using client = new Program(["sh", "-c", 'exec "$@" > /dev/null', "sh", ...argv]);
    await eventually("all is shown", () => Deno.stat(file).then(() => true, () => false));
    const peak = memory(client, "VmHWM");
    assert(peak < 250_000, `${peak} KiB`);
    await Deno.remove(file);
    assertMatch((await client.ended()).stderr, /: miss, not kept \(more than 1048576 bytes\), /);
  },
});

Deno.test({
  name: "cached runs the program although no cache answers",
  ignore: !mayRun,
  async fn() {
    const down = nobody();
    const shown = ["61", `cache_client: no cache (${down}: connection refused)\n`, 0];
    assertEquals(await cached(["--server", down], "printf a"), shown);
    assertEquals((await cached(["--server", down], "exit 7"))[2], 7);

    await using silent = testServer((conn) => conn.readToEnd(1e6));
    const [stdout, stderr] = await cached(
      ["--port", `${silent.port}`, "--timeout", "0.2"],
      "printf a",
    );
    assertEquals(stdout, "61");
    assertMatch(
      stderr,
      /^cache_client: no cache \(127.*: no answer within 0\.2 s \(--timeout\)\)\n$/,
    );

    await using junk = testServer((conn) => conn.writeAll("HTTP/1.1 400 \x1b[2J\r\n\r\n"));
    const [out, err] = await cached(["--port", `${junk.port}`], "printf a");
    assertEquals(out, "61");
    assertMatch(
      err,
      /^cache_client: no cache \(127.*: not an answer of memcached: HTTP.*\\x1b.*\)\n$/,
    );

    // It is there when it is asked, and gone when the output is to be kept.
    await using once = testServer(async (conn) => {
      if ((await conn.readLine())?.startsWith("get ")) await conn.writeAll("END\r\n");
    });
    const [gone, said] = await cached(["--port", `${once.port}`], "printf a");
    assertEquals(gone, "61");
    assertMatch(said, /^cache_client: miss, not kept \(127.*: hung up without an answer\)\n$/);
    const usage = await run("cache_client", ["--server", down, "--ca", "x", "cached", "ls"], {
      permissions: ["--allow-run"],
    });
    assertEquals([usage.code, usage.stdout], [2, ""]); // that is not the server's fault
  },
});

/** The requests, each with a whole answer and what comes of it. */
const ANSWERS: [
  call: (cache: CacheConnection) => Promise<unknown>,
  answer: string,
  result: unknown,
][] = [
  [(c) => c.get(["a"]), "END\r\n", new Map()],
  [
    (c) => c.get(["a", "b"]),
    "VALUE b 4294967295 7\r\nEND\r\n\r\n\r\nVALUE a 0 0\r\n\r\nEND\r\n",
    new Map([["b", new TextEncoder().encode("END\r\n\r\n")], ["a", new Uint8Array()]]),
  ],
  [(c) => c.set("a", OCTETS), "STORED\r\n", undefined],
  [(c) => c.delete("a"), "DELETED\r\n", true],
  [(c) => c.delete("a"), "NOT_FOUND\r\n", false],
  [(c) => c.arithmetic("incr", "a", 1), "18446744073709551615\r\n", 2n ** 64n - 1n],
  [(c) => c.arithmetic("decr", "a", 1), "NOT_FOUND\r\n", null],
  [(c) => c.touch("a", 1), "TOUCHED\r\n", true],
  [(c) => c.stats(), "STAT a 1\r\nSTAT b \r\nEND\r\n", new Map([["a", "1"], ["b", ""]])],
  [(c) => c.flush(), "OK\r\n", undefined],
];

Deno.test({
  name: "every answer is read, cut at every octet, and one that ends early is an error",
  ignore: !mayConnect,
  async fn() {
    for (const [call, answer, result] of ANSWERS) {
      for (let cut = 0; cut < answer.length; cut++) {
        const octets = new TextEncoder().encode(answer);
        for (const whole of [true, false]) {
          const { near, far } = await pair({ timeout: 10_000 });
          const called = call(new CacheConnection(near));
          called.catch(() => {});
          if (cut > 0) await far.write(octets.subarray(0, cut));
          await eventually("the first part is there", () => near.bytesRead === cut);
          if (whole) await far.write(octets.subarray(cut));
          else await far.closeWrite();
          if (whole) assertEquals(await called, result, `${answer} cut at ${cut}`);
          else await assertRejects(() => called, Deno.errors.UnexpectedEof);
          near.close();
          far.close();
        }
      }
    }
  },
});

Deno.test({
  name: "a server that lies is said, with its address",
  ignore: !mayRun,
  async fn() {
    const cases: [args: string[], answer: string, says: string][] = [
      [["get", "a"], "STORED\r\n", "not an answer of memcached: STORED"],
      [["get", "a"], "\x1b]0;x\x07\u202e\r\n", "not an answer of memcached: \\x1b]0;x\\x07\\u202e"],
      [["get", "a"], `${"x".repeat(2000)}\r\n`, `not an answer of memcached: ${"x".repeat(80)}`],
      [["get", "a"], "x".repeat(3000), "line of more than 2048 bytes"],
      [["get", "a"], "VALUE b 0 1\r\nx\r\nEND\r\n", "not an answer of memcached: VALUE b 0 1"],
      [["get", "a"], "VALUE a 0 0\r\n\r\n".repeat(2), "not an answer of memcached: VALUE a 0 0"],
      [["get", "a"], "VALUE a 0 -1\r\nx\r\nEND\r\n", "not an answer of memcached: VALUE a 0 -1"],
      [["get", "a"], "VALUE a 0 1e3\r\nx\r\n", "not an answer of memcached: VALUE a 0 1e3"],
      [["get", "a"], "VALUE a 0\r\nx\r\nEND\r\n", "not an answer of memcached: VALUE a 0"],
      [["get", "a"], "VALUE a 0 1048577\r\n", "value of 1048577 bytes, too many"],
      [["get", "a"], "VALUE a 0 9999999999\r\n", "value of 9999999999 bytes, too many"],
      [["get", "a"], "VALUE a 0 1\r\nxy\r\nEND\r\n", "value without its line end"],
      [["get", "a"], "VALUE a 0 2\r\nx\r\nEND\r\n", "value without its line end"],
      [["get", "a"], "VALUE a 0 5\r\nx\r\n", "connection ended in the middle of a message"],
      [["get", "a"], "VALUE a 0 1\r\nx\r\n", "hung up without an answer"],
      [["get", "a"], "VALUE a 0 1\r\nx\r\nEN", "connection ended in the middle of a message"],
      [["get", "a"], "", "hung up without an answer"],
      [["set", "a", "x"], "NOT_STORED\r\n", "not an answer of memcached: NOT_STORED"],
      [["set", "a", "x"], "STORED x\r\n", "not an answer of memcached: STORED x"],
      [
        ["set", "a", "x"],
        "SERVER_ERROR out of \x1bmemory\r\n",
        "the server says SERVER_ERROR out of \\x1bmemory",
      ],
      [["set", "a", "x"], "ERROR\r\n", "the server says ERROR"],
      [["touch", "a"], "CLIENT_ERROR no\r\n", "the server says CLIENT_ERROR no"],
      [["delete", "a"], "END\r\n", "not an answer of memcached: END"],
      [["incr", "a"], "1 \r\n", "not an answer of memcached: 1 "],
      [["incr", "a"], "-1\r\n", "not an answer of memcached: -1"],
      [["incr", "a"], `${"1".repeat(21)}\r\n`, `not an answer of memcached: ${"1".repeat(21)}`],
      [["flush"], "END\r\n", "not an answer of memcached: END"],
      [["stats"], "STAT a 1\r\nSTAT a 1\r\n", "not an answer of memcached: STAT a 1"],
      [
        ["stats"],
        Array.from({ length: 1100 }, (_, i) => `STAT ${i} x\r\n`).join(""),
        "not an answer of memcached: STAT 1000 x",
      ],
      [["stats"], "STAT a 1\r\n", "hung up without an answer"],
    ];
    for (const [args, answer, expected] of cases) {
      await using server = testServer(async (conn) => {
        await conn.readSome();
        await conn.writeAll(answer);
        await conn.finish(new Uint8Array(1024));
      });
      const result = await run("cache_client", ["--port", `${server.port}`, ...args]);
      assertEquals(result, says(`cache_client: 127.0.0.1:${server.port}: ${expected}\n`), answer);
    }
    await using silent = testServer(async (conn) => {
      await conn.writeAll("VALUE a 0 2\r\nx");
      await conn.readToEnd(1e6);
    });
    const late = await run("cache_client", [
      "--port",
      `${silent.port}`,
      "--timeout",
      "0.2",
      "get",
      "a",
    ]);
    const message = "no answer within 0.2 s (--timeout)";
    assertEquals(late, says(`cache_client: 127.0.0.1:${silent.port}: ${message}\n`));
  },
});
