import { assert, assertEquals } from "@std/assert";
import { FramedConn } from "../../lib/framing.ts";
import { missing, Program, start } from "../helpers.ts";
import { latin1, octets, random } from "../lib/wire.ts";
import { dial, eventually, memory } from "./peers.ts";

const PEER = missing("memcached");

/** Has each of both answer, ours and the real one, and compares all that they say. */
async function compare(groups: Iterable<string[]>): Promise<void> {
  const { program, port } = await startMemcached();
  await using _memcached = program;
  await using server = start("cache_server", ["--port", "0"]);
  const ours = await server.port();
  for (const requests of groups) {
    const [mine, its] = [await answers(ours, requests), await answers(port, requests)];
    for (const [i, answer] of mine.entries()) {
      assertEquals(answer, its[i], requests.slice(0, i + 1).join("\n"));
    }
    assertEquals(mine.length, requests.length);
  }
}

/** The real one, on a free port. */
async function startMemcached(): Promise<{ program: Program; port: number }> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close();
  const program = new Program([
    ...["memcached", "--listen", "127.0.0.1", "--port", `${port}`],
    ...["--threads", "1", "--user", "root", "--extended", "no_modern"],
  ]);
  await eventually("memcached listens", () =>
    dial(port).then((conn) => {
      conn.close();
      return true;
    }, () => false));
  return { program, port };
}

/**
 * What a server answers to each request, one after the other. Asked several at once, memcached has
 * answers that depend on what it is still sending: a wrong `get` takes earlier answers with it, and
 * `decr` leaves out its blanks. After what has no answer of its own there is one to wait for.
 */
async function answers(port: number, requests: string[]): Promise<string[]> {
  using conn = await dial(port);
  const all = [];
  for (const request of requests) {
    await conn.writeAll(octets(`${request}\r\nversion\r\n`));
    let answer = "";
    while (!/(^|\n)VERSION [\d.]+\r\n$/.test(answer)) {
      const piece = await conn.readSome();
      if (!piece) break;
      answer += latin1(piece);
    }
    all.push(answer.replace(/VERSION .*\r\n$/, ""));
  }
  return all;
}

const KEY = "k".repeat(250);
const large = (length: number) => `${length}\r\n${"x".repeat(length)}`;

/** Every command and every complaint; each group on a connection of its own. */
const SCRIPT: string[][] = [
  ["get a", "set a 5 0 3\r\nabc", "get a", "gets a", "get a b a", "gat 0 a", "gats 100 a", "gat a"],
  ["add a 0 0 1\r\nx", "add b 0 0 1\r\ny", "replace b 7 0 2\r\nzz", "replace c 0 0 1\r\nx"],
  [
    "append b 9 0 2\r\n>>",
    "prepend b 9 0 2\r\n<<",
    "gets b",
    "append c 0 0 1\r\nx",
    "prepend c 0 0 0\r\n",
  ],
  [
    "set c 1 0 1\r\nx",
    "gets c",
    "cas c 2 0 1 1\r\ny",
    "cas c 2 0 1 999\r\ny",
    "cas none 0 0 1 1\r\ny",
  ],
  ["set n 3 0 2\r\n10", "incr n 5", "decr n 6", "get n", "decr n 100", "get n", "incr none 1"],
  ["set n 0 0 20\r\n18446744073709551615", "incr n 2", "get n", "incr n x", "incr n -1", "decr n"],
  [
    "set n 0 0 1\r\nx",
    "incr n 1",
    "set n 0 0 0\r\n",
    "incr n 1",
    "set n 0 0 2\r\n 7",
    "incr n 1",
    "get n",
  ],
  [
    "touch a 100",
    "touch none 1",
    "touch a",
    "touch a x",
    "touch a -1",
    "get a",
    "set a 0 -1 1\r\nx",
    "get a",
  ],
  [
    "delete b",
    "delete b",
    "delete",
    "delete b 0",
    "delete b 1",
    "delete b noreply",
    "delete c 0 noreply",
  ],
  [
    "set a 0 0 1 noreply\r\nx",
    "get a",
    "incr a 1 noreply",
    "touch a 0 noreply",
    "delete a noreply",
    "get a",
  ],
  [
    "set a 0 0 2\r\n\r\n",
    "get a",
    "set a 0 0 5\r\n\0\xff\r\n\x01",
    "get a",
    "set \xff\xfe 0 0 1\r\nx",
    "get \xff\xfe \xff\xfd",
  ],
  ["set a 0 0 1\r\nxy", "get a", "set a 0 0 0\r\nx", "get a"],
  [
    "set a 0 0 -1",
    "set a 0 0 x",
    "set a x 0 1",
    "set a 0 x 1",
    "set a 0 0",
    "set",
    "cas a 0 0 1",
    "set a -1 0 1\r\nx",
  ],
  [
    "set a 4294967295 0 1\r\nx",
    "get a",
    "set a 4294967296 0 1\r\nx",
    "get a",
    "set a 0 99999999999999999999 1\r\nx",
  ],
  [
    `set ${KEY} 0 0 1\r\nx`,
    `get ${KEY}`,
    `get ${KEY}k`,
    `set ${KEY}k 0 0 1\r\nx`,
    `delete ${KEY}k`,
    `touch ${KEY}k 1`,
  ],
  [`incr ${KEY}k 1`, `get a ${KEY}k b`, `gat 1 ${KEY}k`, `gets`, "get", "gat", "gats 1"],
  [
    `set a 0 0 ${large(1048510)}`,
    `get a`,
    `set a 0 0 ${large(1048521)}`,
    "get a",
    `add a 0 0 ${large(2000000)}`,
    "get a",
  ],
  [
    "",
    " ",
    "nonsense",
    "GET a",
    "get  a  b ",
    " get a",
    "get a\0b",
    "\x80\xff",
    "set\ta 0 0 1",
  ],
  [
    "flush_all",
    "get a",
    "flush_all noreply",
    "flush_all 0",
    "flush_all x",
    "flush_all 0 noreply",
    "flush_all -5",
  ],
  ["verbosity 1", "verbosity", "verbosity x", "verbosity 1 noreply"],
];

Deno.test({
  name: "cache_server answers each command and each mistake as memcached does, octet for octet",
  ignore: PEER,
  fn: () => compare(SCRIPT),
});

/** A random request, now and then a wrong one, on a few keys. */
function request(below: (n: number) => number): string {
  const pick = <T>(...items: T[]): T => items[below(items.length)];
  const key = () =>
    pick("a", "b", "c", "d", "e", "\xe9", below(20) ? "f" : "k".repeat(249 + below(4)));
  const time = () => pick("0", "0", "0", "1000", "2592001", "-1", below(10) ? "100" : "x");
  const quiet = () => pick("", "", "", " noreply");
  const value = pick(
    "",
    "1",
    "41",
    "x".repeat(below(600)),
    "18446744073709551615",
    "\r\n\0END\r\n",
  );
  const length = below(30) ? value.length : below(value.length + 1);
  const flags = pick("0", "1", "4294967295", below(10) ? "7" : "-1");
  const block = `${key()} ${flags} ${time()} ${length}`;
  return pick(
    () => `${pick("get", "gets")} ${Array.from({ length: below(4) }, key).join(" ")}`,
    () => `${pick("gat", "gats")} ${time()} ${Array.from({ length: below(3) }, key).join(" ")}`,
    () => `${pick("set", "add", "replace", "append", "prepend")} ${block}${quiet()}\r\n${value}`,
    () => `${pick("set", "set", "append", "prepend")} ${block}${quiet()}\r\n${value}`,
    () => `cas ${block} ${below(2000)}${quiet()}\r\n${value}`,
    () => `${pick("incr", "decr")} ${key()} ${pick("1", "7", "99999999999", "x", "-1")}${quiet()}`,
    () => `touch ${key()} ${time()}${quiet()}`,
    () => `delete ${key()}${pick("", "", " 0", " 1")}${quiet()}`,
    () => below(20) ? "verbosity 1" : `flush_all${quiet()}`,
    () => pick("", "nonsense", "set a", "incr a", "touch a", "get a  b"),
  )();
}

Deno.test({
  name: "cache_server answers 10,000 random requests as memcached does, octet for octet",
  ignore: PEER,
  fn: () =>
    compare(Array.from({ length: 200 }, (_, i) => {
      const below = random(i + 1);
      return Array.from({ length: 50 }, () => request(below));
    })),
});

Deno.test({
  name: "80 MB into --memory 8MB grow cache_server by less than 60 MB, whatever their size",
  ignore: PEER,
  async fn() {
    for (const size of [1000, 10_000, 100_000, 1_000_000]) {
      await using server = start("cache_server", ["--port", "0", "--memory", "8MB"]);
      using conn = await dial(await server.port());
      const ask = async (request: string) => {
        await conn.writeAll(request);
        return await conn.readLine();
      };
      await ask("version\r\n");
      const before = memory(server);
      const value = "x".repeat(size);
      for (let i = 0; i < 80e6 / size; i++) {
        assertEquals(await ask(`set key-${i} 0 0 ${size}\r\n${value}\r\n`), "STORED");
      }
      const growth = (memory(server, "VmHWM") - before) / 1024;
      assert(growth < 60, `${size} octets each: ${growth} MiB`);
      assert(await evictions(conn) > 72e6 / size - 2);
    }
  },
});

async function evictions(conn: FramedConn): Promise<number> {
  await conn.writeAll("stats\r\n");
  let count = NaN;
  for (let line; (line = await conn.readLine()) !== "END";) {
    count = Number(/^STAT evictions (\d+)$/.exec(line ?? "")?.[1] ?? count);
  }
  return count;
}
