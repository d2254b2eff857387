import { assert, assertEquals, assertMatch } from "@std/assert";
import { missing, Program, type Result, run, temporaryFolder } from "../helpers.ts";
import { Ring } from "../../scripts/cache_client.ts";
import { eventually, output, python } from "./peers.ts";

/** Starts a real memcached on a free port, which it writes to a file. */
async function startMemcached(folder: string): Promise<AsyncDisposable & { port: number }> {
  const file = `${folder}/port.${crypto.randomUUID()}`;
  // As root it wants a user, who has to reach the folder.
  const argv = ["memcached", "-l", "127.0.0.1", "-p", "-1", "-u", "root"];
  const server = new Program(argv, { env: { MEMCACHED_PORT_FILENAME: file } });
  try {
    let port = 0;
    await eventually("memcached has a port", async () => {
      const text = await Deno.readTextFile(file).catch(() => "");
      port = Number(/^TCP INET: (\d+)\n/.exec(text)?.[1]);
      return port > 0;
    });
    return { port, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() };
  } catch (error) {
    await server[Symbol.asyncDispose]();
    throw error;
  }
}

/** What a client that finds all has to say. */
const prints = (stdout: string): Result => ({ code: 0, stdout, stderr: "" });
const lacks = (key: string, stdout = ""): Result => ({
  code: 1,
  stdout,
  stderr: `cache_client: ${key}: not found\n`,
});

Deno.test({
  name: "cache_client does everything at memcached, and nc finds it there",
  ignore: missing("memcached", "nc"),
  async fn() {
    await using folder = await temporaryFolder();
    await using server = await startMemcached(folder.path);
    const ask = (...args: string[]) => run("cache_client", ["--port", `${server.port}`, ...args]);
    const nc = (request: string) =>
      output(["nc", "-N", "127.0.0.1", `${server.port}`], `${request}\r\nquit\r\n`);

    assertEquals(await ask("set", "grüße", "hello world"), prints(""));
    assertEquals(await nc("get grüße"), "VALUE grüße 0 11\r\nhello world\r\nEND\r\n");
    assertEquals(await ask("set", "empty", ""), prints(""));
    assertEquals(await ask("get", "grüße"), prints("hello world"));
    assertEquals(await ask("get", "empty"), prints(""));
    assertEquals(await ask("get", "grüße", "none", "empty"), lacks("none", "hello world\n\n"));
    assertEquals(await nc("set n 7 0 2\r\n10"), "STORED\r\n"); // with flags, which others use
    assertEquals(await ask("get", "n"), prints("10"));
    assertEquals(await ask("incr", "n"), prints("11\n"));
    assertEquals(await ask("incr", "n", "9007199254740991"), prints("9007199254741002\n"));
    assertEquals(await ask("decr", "n", "2"), prints("9007199254741000\n"));
    assertEquals(await nc("set most 0 0 20\r\n18446744073709551615"), "STORED\r\n");
    assertEquals(await ask("decr", "most", "1"), prints("18446744073709551614\n"));
    assertEquals(await ask("incr", "most", "3"), prints("1\n"));
    assertEquals(await ask("incr", "none"), lacks("none"));
    assertEquals(await ask("touch", "n", "--expire", "2592000"), prints(""));
    assertEquals(await ask("get", "n"), prints("9007199254741000"));
    assertEquals(await ask("touch", "none"), lacks("none"));
    assertEquals(await ask("delete", "n"), prints(""));
    assertEquals(await ask("delete", "n"), lacks("n"));

    const key = "k".repeat(250);
    assertEquals(await ask("set", key, "longest"), prints(""));
    assertEquals(await ask("get", key), prints("longest"));
    const many = Array.from({ length: 1000 }, (_, i) => `${key.slice(10)}${i}`);
    assertEquals((await ask("get", key, ...many)).stdout, "longest\n");

    const stats = await ask("stats");
    assertMatch(stats.stdout, /^pid \d+\n[^]*^version 1\.\d+\.\d+\n[^]*^curr_items 4\n/m);
    assertEquals([stats.code, stats.stderr], [0, ""]);
    assertEquals(await ask("flush"), prints(""));
    assertEquals(await nc("get grüße"), "END\r\n");

    const wrong = await ask("incr", "n", "x");
    assertEquals([wrong.code, wrong.stdout], [2, ""]);
    await ask("set", "word", "x");
    const refused = await ask("incr", "word");
    assertEquals([refused.code, refused.stdout], [1, ""]);
    assertMatch(
      refused.stderr,
      /^cache_client: 127\.0\.0\.1:\d+: the server says CLIENT_ERROR cannot increment.*\n$/,
    );
  },
});

Deno.test({
  name: "what cache_client keeps expires in memcached",
  ignore: missing("memcached"),
  async fn() {
    await using folder = await temporaryFolder();
    await using server = await startMemcached(folder.path);
    const ask = (...args: string[]) => run("cache_client", ["--port", `${server.port}`, ...args]);
    await ask("set", "short", "x", "--expire", "1");
    await ask("set", "long", "x", "--expire", "2592000"); // a second more were the year 1970
    await ask("set", "touched", "x");
    await ask("touch", "touched", "--expire", "1");
    const cached = async () => {
      const args = ["--port", `${server.port}`, "--expire", "1", "cached", "echo", "x"];
      return (await run("cache_client", args, { permissions: ["--allow-run"] })).stderr;
    };
    assertMatch(await cached(), / miss, /);
    await eventually("it is run again", async () => (await cached()).includes(" miss, "));
    await eventually(
      "they expire",
      async () => (await ask("get", "short", "touched")).stdout === "",
    );
    assertEquals(await ask("get", "long"), prints("x"));
    assertEquals((await ask("set", "x", "x", "--expire", "2592001")).code, 2);
  },
});

Deno.test({
  name: "cached keeps a program's octets in memcached, and what that refuses is said",
  ignore: missing("memcached"),
  async fn() {
    await using folder = await temporaryFolder();
    await using server = await startMemcached(folder.path);
    const cached = (...argv: string[]) =>
      run("cache_client", ["--port", `${server.port}`, "--expire", "60", "cached", "--", ...argv], {
        permissions: ["--allow-run"],
      });
    const large = ["head", "-c", "1048000", "/dev/zero"];
    for (const what of ["miss", "hit"]) {
      const { code, stdout, stderr } = await cached(...large);
      assertEquals([code, stdout.length], [0, 1_048_000]);
      assertMatch(stderr, new RegExp(`^cache_client: ${what}, \\d+ ms\n$`));
    }
    // With what memcached adds to it, it is too large an item.
    const { code, stdout, stderr } = await cached("head", "-c", "1048576", "/dev/zero");
    assertEquals([code, stdout.length], [0, 1_048_576]);
    assertMatch(
      stderr,
      /^cache_client: miss, not kept \(127.*: the server says SERVER_ERROR object too .*\), \d+ ms\n$/,
    );
  },
});

Deno.test({
  name: "keys are spread over several of memcached as Python's hashlib and bisect would",
  ignore: missing("memcached", "python3"),
  async fn() {
    await using folder = await temporaryFolder();
    await using one = await startMemcached(folder.path);
    await using two = await startMemcached(folder.path);
    await using three = await startMemcached(folder.path);
    const servers = [one, two, three].map(({ port }) => `127.0.0.1:${port}`);
    const flags = servers.flatMap((server) => ["--server", server]);
    const keys = Array.from({ length: 12 }, (_, i) => `key ${i}`.replace(" ", "é"));
    for (const key of keys) {
      assertEquals((await run("cache_client", [...flags, "set", key, key])).code, 0);
    }
    assertEquals(
      await run("cache_client", [...flags, "get", ...keys]),
      prints(keys.map((key) => `${key}\n`).join("")),
    );
    const places = (await output(python("cache_client.py", ...servers), `${keys.join("\n")}\n`))
      .trimEnd().split("\n");
    for (const server of servers) {
      const expected = keys.filter((_, i) => places[i] === server);
      const { stdout } = await run("cache_client", ["--server", server, "get", ...keys]);
      assertEquals(stdout, expected.map((key) => `${key}\n`).join(""));
    }
  },
});

Deno.test({
  name: "the ring is that of Python's hashlib and bisect, for any servers and keys",
  ignore: missing("python3"),
  async fn() {
    for (const n of [1, 2, 3, 10]) {
      const servers = Array.from({ length: n }, (_, i) => `[::1]:${19211 + i}`);
      const ring = new Ring(servers);
      const keys = Array.from({ length: 2000 }, () => crypto.randomUUID());
      const places = await output(python("cache_client.py", ...servers), `${keys.join("\n")}\n`);
      assertEquals(keys.map((key) => `${ring.serverOf(key)}\n`).join(""), places);
      assert(new Set(places.split("\n")).size === n + 1);
    }
  },
});
