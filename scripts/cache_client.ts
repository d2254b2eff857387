#!/usr/bin/env -S deno run --allow-net
/**
 * A client of memcached's text protocol (`doc/protocol.txt` in its sources), for one server, or for
 * several among which it spreads the keys by consistent hashing.
 *
 *     deno run --allow-net scripts/cache_server.ts
 *     deno run --allow-net --allow-run scripts/cache_client.ts --expire 60 cached -- sleep 2
 *
 * The second time, `cached` takes no two seconds: it keeps what a program prints under a hash of the
 * command line (not of the folder, nor of the environment). If no cache answers, the program is run.
 * `ring` shows which keys move when one of several servers leaves.
 *
 * Mirrors the caching that tutorial 000 names, and the chapter "Caches" of the book of tutorial
 * 002, both without a listing; `pymemcache` is the usual client in Python.
 *
 * | Python | Deno |
 * | --- | --- |
 * | `pymemcache.Client((host, port))` | `connect()`: `Deno.connect()`, `new CacheConnection()` |
 * | `client.get_many(keys)`, `client.incr(key, n)` | `cache.get(keys)`, `cache.arithmetic("incr", key, n)` |
 * | `pymemcache.HashClient(servers)` | `new Ring(servers)` |
 * | `hashlib.md5(b).digest()`, `struct.unpack("<4I", digest)` | `hash("md5", b, "buffer")`, `readUInt32LE()` |
 * | `bisect.bisect_left(points, point) % len(points)` | `points.find(([at]) => at >= point) ?? points[0]` |
 * | `functools.lru_cache`, of one process | `cached`, of all that reach the server |
 * | `subprocess.run(argv, stdout=PIPE)` | `new Deno.Command(program, { args }).spawn()` |
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { hash } from "node:crypto";
import {
  connect,
  type Endpoint,
  formatAddress,
  formatEndpoint,
  named,
  parseAddress,
  reason,
  UsageError,
} from "../lib/address.ts";
import {
  chooseCommand,
  clientFlags,
  type Commands,
  flag,
  listCommands,
  main,
  number,
  writeStdout,
} from "../lib/cli.ts";
import { FramedConn, type FramedConnOptions, printable, printableText } from "../lib/framing.ts";

const NAME = "cache_client";
const PORT = 19211; // memcached's own is 11211
const MAX_KEY = 250; // octets, as are the next two
const MAX_VALUE = 1024 * 1024;
const MAX_LINE = 2048; // of an answer
const MAX_STATS = 1000; // lines
const MONTH = 30 * 24 * 60 * 60; // seconds; what is more, memcached takes for a Unix time
const DIGESTS = 40; // for each server, with four points on the ring in each
const CRLF = Buffer.from("\r\n");

/** Throws a {@linkcode UsageError} if that is no key: with a line end in it, it would be a command. */
export function checkKey(key: string): void {
  const { length } = Buffer.from(key);
  if (length > 0 && length <= MAX_KEY && !/[\s\p{Cc}]/u.test(key)) return;
  const shown = JSON.stringify(key.length > 40 ? `${key.slice(0, 40)}...` : key);
  throw new UsageError(`${shown} is not a key (1 to ${MAX_KEY} bytes, no blanks)`);
}

/**
 * A connection to a cache server. Its methods throw a {@linkcode UsageError} for what is no key, else
 * what the server says is wrong, or what is wrong with what it says, or the connection's error.
 */
export class CacheConnection {
  /** Takes over `conn`. */
  constructor(readonly conn: FramedConn) {}

  /** The values of those keys that are there. */
  async get(keys: string[]): Promise<Map<string, Uint8Array>> {
    keys.forEach(checkKey);
    const due = new Set(keys);
    const values = new Map<string, Uint8Array>();
    await this.conn.writeLine(["get", ...due].join(" "));
    for (let line; (line = await this.#readLine()) !== "END";) {
      const [, key, length] = /^VALUE (\S+) \d{1,10} (\d{1,10})$/.exec(line) ?? unexpected(line);
      if (!due.delete(key)) unexpected(line);
      if (Number(length) > MAX_VALUE) throw new Error(`value of ${length} bytes, too many`);
      const data = await this.conn.readExactly(Number(length) + CRLF.length);
      if (!CRLF.equals(data.subarray(-CRLF.length))) throw new Error("value without its line end");
      values.set(key, data.subarray(0, -CRLF.length));
    }
    return values;
  }

  /** Stores a value for `expire` seconds, 30 days at most; 0 is for ever. */
  async set(key: string, value: Uint8Array, expire = 0): Promise<void> {
    await this.#ask(key, `set ${key} 0 ${expire} ${value.length}`, /^STORED$/, [value, CRLF]);
  }

  /** Deletes a value; false if there is none. */
  async delete(key: string): Promise<boolean> {
    return await this.#ask(key, `delete ${key}`, /^(DELETED|NOT_FOUND)$/) === "DELETED";
  }

  /** Has a value expire in so many seconds from now, 0 is never; false if there is none. */
  async touch(key: string, expire: number): Promise<boolean> {
    const answer = await this.#ask(key, `touch ${key} ${expire}`, /^(TOUCHED|NOT_FOUND)$/);
    return answer === "TOUCHED";
  }

  /** Adds to a number modulo 2^64, or takes from it down to 0; returns it, null if there is none. */
  async arithmetic(verb: "incr" | "decr", key: string, by: number): Promise<bigint | null> {
    const answer = await this.#ask(key, `${verb} ${key} ${by}`, /^(\d{1,20}|NOT_FOUND)$/);
    return answer === "NOT_FOUND" ? null : BigInt(answer);
  }

  /** What the server counts, by name. */
  async stats(): Promise<Map<string, string>> {
    const stats = new Map<string, string>();
    await this.conn.writeLine("stats");
    for (let line; (line = await this.#readLine()) !== "END";) {
      const [, name, value] = /^STAT (\S+) (.*)$/.exec(line) ?? unexpected(line);
      if (stats.has(name) || stats.size === MAX_STATS) unexpected(line); // so that it ends
      stats.set(name, value);
    }
    return stats;
  }

  /** Deletes everything. */
  async flush(): Promise<void> {
    await this.conn.writeLine("flush_all");
    const line = await this.#readLine();
    if (line !== "OK") unexpected(line);
  }

  async #ask(key: string, line: string, answers: RegExp, data: Uint8Array[] = []): Promise<string> {
    checkKey(key);
    await this.conn.writeAll(Buffer.concat([Buffer.from(line), CRLF, ...data]));
    const answer = await this.#readLine();
    return answers.test(answer) ? answer : unexpected(answer);
  }

  async #readLine(): Promise<string> {
    const line = await this.conn.readLine(MAX_LINE);
    if (line === null) throw new Deno.errors.UnexpectedEof("hung up without an answer");
    if (/^((SERVER|CLIENT)_)?ERROR( |$)/.test(line)) throw new Error(`the server says ${line}`);
    return line;
  }
}

function unexpected(line: string): never {
  throw new Error(`not an answer of memcached: ${printable(line.slice(0, 80))}`);
}

/** Where a key is among 2^32 points; throws a {@linkcode UsageError} if it is none. */
function pointOf(key: string): number {
  checkKey(key);
  return hash("md5", key, "buffer").readUInt32LE(0);
}

/**
 * Consistent hashing (Karger et al., STOC 1997), its points where libketama has them. Each server
 * has 160 on a ring of 2^32, and a key is at the server of the first one from its own point on. With
 * a server its points go, and its keys to the next ones; all others stay where they are.
 */
export class Ring {
  readonly #points: [point: number, server: string][] = []; // in order

  /** Of one server at least, by unique names. Their order does not matter. */
  constructor(readonly servers: string[]) {
    for (const server of servers) {
      for (let i = 0; i < DIGESTS; i++) {
        const digest = hash("md5", `${server}-${i}`, "buffer");
        for (const at of [0, 4, 8, 12]) this.#points.push([digest.readUInt32LE(at), server]);
      }
    }
    this.#points.sort(([a, one], [b, other]) => a - b || (one < other ? -1 : 1));
  }

  /** The server that the key is at. Throws a {@linkcode UsageError} for what is no key. */
  serverOf(key: string): string {
    const point = pointOf(key);
    // With hundreds of servers a binary search would pay, as bisect is one.
    const [, server] = this.#points.find(([at]) => at >= point) ?? this.#points[0];
    return server;
  }
}

/** How many of the keys each server has, and how many move when it leaves, on a ring and by modulo. */
export function departures(
  servers: string[],
  keys: string[],
): { server: string; has: number; ring: number; modulo: number }[] {
  const full = new Ring(servers);
  return servers.map((server) => {
    const others = servers.filter((other) => other !== server);
    const smaller = new Ring(others);
    let [has, ring, modulo] = [0, 0, 0];
    for (const key of keys) {
      const [place, point] = [full.serverOf(key), pointOf(key)];
      if (place === server) has++;
      if (place !== smaller.serverOf(key)) ring++;
      if (servers[point % servers.length] !== others[point % others.length]) modulo++;
    }
    return { server, has, ring, modulo };
  });
}

/** What is asked of a server over one connection. */
type Question<T> = (cache: CacheConnection, address: string) => Promise<T>;

type Options = Endpoint & FramedConnOptions & { expire: number };

/** Asks a server, over a connection of its own; errors are named after the server. */
async function ask<T>(address: string, options: Options, question: Question<T>): Promise<T> {
  const server = parseAddress(address);
  const place = "path" in server
    ? { unix: server.path }
    : { host: server.hostname, port: server.port };
  using conn = new FramedConn(await connect({ ...options, ...place }), options);
  const answer = await question(new CacheConnection(conn), address).catch((error) => {
    throw named(conn.peer, error);
  });
  await conn.end();
  return answer;
}

/** Asks servers at once; returns the worst exit code. If one of several fails, that is said. */
async function askEach(servers: string[], options: Options, question: Question<number>) {
  const codes = servers.map((server) =>
    ask(server, options, question).catch((error) => {
      if (servers.length === 1) throw error;
      return say(reasonOf(error), 1);
    })
  );
  return Math.max(...await Promise.all(codes));
}

/** What is no server's fault is thrown on; of anything else it returns the reason. */
function reasonOf(error: unknown): string {
  if (error instanceof UsageError || error instanceof Deno.errors.NotCapable) throw error;
  return reason(error);
}

/** Says something on stderr; returns the exit code that goes with it. */
function say(line: string, code: number): number {
  console.error(`${NAME}: ${printable(line)}`);
  return code;
}

const decoder = new TextDecoder();

/** Prints octets as they are, or on a terminal as text that cannot drive it. */
async function print(octets: Uint8Array): Promise<void> {
  if (Deno.stdout.isTerminal()) {
    const text = decoder.decode(octets, { stream: true }).replaceAll("\r", "");
    octets = Buffer.from(printableText(text));
  }
  await writeStdout(octets);
}

/** Runs a command with its arguments; returns the exit code. */
type Run = (ring: Ring, args: string[], options: Options) => Promise<number>;

async function get(ring: Ring, keys: string[], options: Options): Promise<number> {
  const shares = Map.groupBy(keys, (key) => ring.serverOf(key));
  const answers = new Map<string, Uint8Array | undefined>();
  let code = await askEach([...shares.keys()], options, async (cache, server) => {
    const share = shares.get(server) ?? [];
    const found = await cache.get(share);
    for (const key of share) answers.set(key, found.get(key));
    return 0;
  });
  // What a server that failed has is not known to be missing.
  for (const key of keys.filter((key) => answers.has(key))) {
    const value = answers.get(key);
    if (!value) code = say(`${key}: not found`, 1);
    else if (keys.length === 1) await print(value);
    else console.log(printable(new TextDecoder().decode(value)));
  }
  return code;
}

/**
 * A command that asks the server of its one key, or all if it has none, and prints the answers: a
 * number, or what was counted; false and null say that the key is not there.
 */
function asks(
  question: (cache: CacheConnection, args: string[], ttl: number) => Promise<unknown>,
): Run {
  return async (ring, args, options) => {
    const [key] = args;
    const servers = args.length > 0 ? [ring.serverOf(key)] : ring.servers;
    return await askEach(servers, options, async (cache, server) => {
      const answer = await question(cache, args, options.expire);
      if (answer === false || answer === null) return say(`${key}: not found`, 1);
      if (typeof answer === "bigint") console.log(`${answer}`);
      const start = servers.length > 1 ? `${server} ` : "";
      const counts = answer instanceof Map ? answer : [];
      for (const [name, value] of counts) console.log(printable(`${start}${name} ${value}`));
      return 0;
    });
  };
}

/** Prints what a program prints, from the cache or by running it; the exit code is the program's. */
async function cached(ring: Ring, argv: string[], options: Options): Promise<number> {
  const began = performance.now();
  const end = (what: string, code: number) =>
    say(`${what}, ${Math.round(performance.now() - began)} ms`, code);
  const [program, ...args] = argv;
  if ((await Deno.permissions.request({ name: "run", command: program })).state !== "granted") {
    throw new Deno.errors.NotCapable(`Requires run access to "${program}", run with --allow-run`);
  }
  const key = hash("sha256", JSON.stringify(argv));
  const server = ring.serverOf(key);
  const found = await ask(server, options, (cache) => cache.get([key])).catch(reasonOf);
  const value = typeof found === "string" ? undefined : found.get(key);
  if (value) {
    await print(value);
    return end("hit", 0);
  }

  // Without input, as what the program reads would not be in the key.
  const child = new Deno.Command(program, { args, stdin: "null", stdout: "piped" }).spawn();
  const pieces: Uint8Array[] = [];
  let size = 0;
  for await (const piece of child.stdout) {
    await print(piece);
    size += piece.length;
    if (size <= MAX_VALUE) pieces.push(piece);
  }
  const { code } = await child.status;
  if (typeof found === "string") return end(`no cache (${found})`, code);
  if (code !== 0) return end(`miss, not kept (exit code ${code})`, code);
  if (size > MAX_VALUE) return end(`miss, not kept (more than ${MAX_VALUE} bytes)`, code);
  const keep = (cache: CacheConnection) => cache.set(key, Buffer.concat(pieces), options.expire);
  const failure = await ask(server, options, keep).catch(reasonOf);
  return end(failure ? `miss, not kept (${failure})` : "miss", code);
}

function showRing({ servers }: Ring, args: string[]): Promise<number> {
  if (servers.length < 2) throw new UsageError("ring needs --server at least twice");
  const keys = args.length > 0 ? args : Array.from({ length: 1000 }, (_, i) => `key-${i}`);
  for (const { server, has, ring, modulo } of departures(servers, keys)) {
    const moved = `if it leaves, ${ring} move, by hash % n ${modulo}`;
    console.log(`${server} has ${has} of ${keys.length} keys; ${moved}`);
  }
  return Promise.resolve(0);
}

const readCount = number(0, Number.MAX_SAFE_INTEGER);

/** The commands, each with its arguments. */
const COMMANDS: Commands<Run> = {
  get: ["KEY...", get],
  set: ["KEY VALUE", asks((cache, [key, text], ttl) => cache.set(key, Buffer.from(text), ttl))],
  delete: ["KEY", asks((cache, [key]) => cache.delete(key))],
  incr: ["KEY [N]", asks((cache, [key, n = "1"]) => cache.arithmetic("incr", key, readCount(n)))],
  decr: ["KEY [N]", asks((cache, [key, n = "1"]) => cache.arithmetic("decr", key, readCount(n)))],
  touch: ["KEY", asks((cache, [key], ttl) => cache.touch(key, ttl))],
  stats: ["", asks((cache) => cache.stats())],
  flush: ["", asks((cache) => cache.flush())],
  cached: ["PROGRAM [ARG]...", cached],
  ring: ["[KEY]...", showRing],
};

if (import.meta.main) {
  const program = {
    name: NAME,
    about: `Asks servers that speak memcached's protocol. The commands:

${listCommands(COMMANDS)}

cached needs --allow-run, and -- before a PROGRAM with flags: cached -- ls -l`,
    usage: "COMMAND [ARG]...",
    permissions: "--allow-net",
    flags: {
      ...clientFlags(PORT),
      server: {
        argument: "ADDR",
        help: "a server, in place of --host and --port; repeated for each",
        parse: (given: string[]) => given.map((text) => formatAddress(parseAddress(text, PORT))),
      },
      expire: flag("S", "set, touch, cached: keep so long, 0 for ever", number(0, MONTH), "0"),
    },
  };
  await main(program, async (flags, command, ...args) => {
    const { server, unix } = flags;
    const run = chooseCommand(COMMANDS, command, args);
    if (COMMANDS[command][0].endsWith("[N]")) readCount(args[1] ?? "1"); // wrong, it must not even connect
    if (unix && server.length > 0) throw new UsageError("--unix and --server do not go together");
    if (new Set(server).size < server.length) throw new UsageError("a --server is there twice");
    const addresses = server.length > 0 ? server : [formatEndpoint(flags)];
    return await run(new Ring(addresses), args, flags);
  });
}
