#!/usr/bin/env -S deno run --allow-net
/**
 * A client of memcached's text protocol (`doc/protocol.txt` in its sources), for one server, or for
 * several among which it spreads the keys by consistent hashing.
 *
 *     deno run --allow-net scripts/cache_server.ts
 *     deno run --allow-net --allow-run scripts/cache_client.ts --expire 60 cached -- sleep 2
 *
 * The second time, `cached` takes no two seconds: that is what a cache is for. It keeps what a
 * program prints, under a hash of the command line and of nothing else: neither of the folder nor
 * of the environment. A cache is an aid and no need: if none answers, the program is run.
 *
 * `ring` shows what moves when one of several servers leaves: by `hash % n` most keys, as if the
 * whole cache were empty all at once; on a ring only those that it had.
 *
 * Mirrors the caching that tutorial 000 names, and the chapter "Caches" of the book of tutorial
 * 002, both without a listing. In Python it would be:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `pymemcache.Client((host, port))` | `connect()`: `Deno.connect()`, `new CacheConnection()` |
 * | `client.get_many(keys)`, `client.incr(key, n)` | `cache.get(keys)`, `cache.arithmetic("incr", key, n)` |
 * | `pymemcache.HashClient(servers)` | `new Ring(servers)` |
 * | `hashlib.md5(b).digest()`, `struct.unpack("<4I", digest)` | `hash("md5", b, "buffer")`, `readUInt32LE()` |
 * | `bisect.bisect_left(points, point) % len(points)` | the loop in `ring.serverOf()` |
 * | `functools.lru_cache`, of one process | `cached`, of all that reach the server |
 * | `subprocess.run(argv, stdout=PIPE)` | `new Deno.Command(program, { args }).spawn()` |
 *
 * @module
 */
import { concat } from "@std/bytes/concat";
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
import { clientFlags, flag, main, number, parse } from "../lib/cli.ts";
import { FramedConn, type FramedConnOptions, printable } from "../lib/framing.ts";

const PORT = 19211; // memcached's own is 11211
const MAX_KEY = 250; // octets, as are the next two
const MAX_VALUE = 1024 * 1024;
const MAX_LINE = 2048; // of an answer
const MAX_STATS = 1000; // lines
const MONTH = 30 * 24 * 60 * 60; // seconds; what is more, memcached takes for a Unix time
const DIGESTS = 40; // for each server, with four points on the ring in each
const CRLF = Buffer.from("\r\n");

type Octets = Uint8Array<ArrayBuffer>;

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
  async get(keys: string[]): Promise<Map<string, Octets>> {
    keys.forEach(checkKey);
    const [due, values] = [new Set(keys), new Map<string, Octets>()];
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
    await this.#ask("set", key, ` 0 ${expire} ${value.length}`, /^STORED$/, [value, CRLF]);
  }

  /** Deletes a value; false if there is none. */
  async delete(key: string): Promise<boolean> {
    return await this.#ask("delete", key, "", /^(DELETED|NOT_FOUND)$/) === "DELETED";
  }

  /** Has a value expire in so many seconds from now, 0 is never; false if there is none. */
  async touch(key: string, expire: number): Promise<boolean> {
    return await this.#ask("touch", key, ` ${expire}`, /^(TOUCHED|NOT_FOUND)$/) === "TOUCHED";
  }

  /** Adds to a number modulo 2^64, or takes from it down to 0; returns it, null if there is none. */
  async arithmetic(verb: "incr" | "decr", key: string, by: number): Promise<bigint | null> {
    const answer = await this.#ask(verb, key, ` ${by}`, /^(\d{1,20}|NOT_FOUND)$/);
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

  async #ask(
    verb: string,
    key: string,
    args: string,
    answers: RegExp,
    data: Uint8Array[] = [],
  ): Promise<string> {
    checkKey(key);
    await this.conn.writeAll(concat([Buffer.from(`${verb} ${key}${args}\r\n`), ...data]));
    const line = await this.#readLine();
    return answers.test(line) ? line : unexpected(line);
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

function md5(text: string): Buffer {
  return hash("md5", text, "buffer");
}

/** Where a key is among 2^32 points. */
function pointOf(key: string): number {
  return md5(key).readUInt32LE(0);
}

/**
 * Consistent hashing (Karger et al., STOC 1997), its points where libketama has them. Each server
 * has 160 on a ring of 2^32, and a key is at the server of the first one from its own point on. With
 * a server its points go, and its keys to the next ones; all others stay where they are.
 */
export class Ring {
  readonly #points: [point: number, server: string][];

  /** Of one server at least, by unique names. Their order does not matter. */
  constructor(servers: string[]) {
    this.#points = servers.flatMap((server) =>
      Array.from({ length: DIGESTS }, (_, i) => md5(`${server}-${i}`)).flatMap((digest) =>
        [0, 4, 8, 12].map((at): [number, string] => [digest.readUInt32LE(at), server])
      )
    ).sort(([a, one], [b, other]) => a - b || (one < other ? -1 : 1));
  }

  /** The server that the key is at. */
  serverOf(key: string): string {
    const point = pointOf(key);
    let [low, high] = [0, this.#points.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.#points[middle][0] < point) low = middle + 1;
      else high = middle;
    }
    return this.#points[low % this.#points.length][1];
  }
}

/** How many of the keys each server has, and how many move when it leaves, on a ring and by modulo. */
export function departures(
  servers: string[],
  keys: string[],
): { server: string; has: number; ring: number; modulo: number }[] {
  const byModulo = (servers: string[], key: string) => servers[pointOf(key) % servers.length];
  const ring = new Ring(servers);
  return servers.map((server) => {
    const others = servers.filter((other) => other !== server);
    const smaller = new Ring(others);
    const count = (so: (key: string) => boolean) => keys.filter(so).length;
    return {
      server,
      has: count((key) => ring.serverOf(key) === server),
      ring: count((key) => ring.serverOf(key) !== smaller.serverOf(key)),
      modulo: count((key) => byModulo(servers, key) !== byModulo(others, key)),
    };
  });
}

/** Does something at a server, over a connection of its own; errors are named after the server. */
async function at<T>(
  address: string,
  options: Pick<Endpoint, "tls" | "ca"> & FramedConnOptions,
  action: (cache: CacheConnection) => Promise<T>,
): Promise<T> {
  const server = parseAddress(address);
  const place = "path" in server
    ? { host: "", port: 0, unix: server.path }
    : { host: server.hostname, port: server.port, unix: undefined };
  using conn = new FramedConn(await connect({ ...options, ...place }), options);
  const result = await action(new CacheConnection(conn)).catch((error) => {
    throw named(conn.peer, error);
  });
  await conn.conn.closeWrite().catch(() => {}); // over TLS a mere close does not say that it ends
  return result;
}

/** What is no server's fault is thrown on; of anything else it returns the reason. */
function reasonOf(error: unknown): string {
  if (error instanceof UsageError || error instanceof Deno.errors.NotCapable) throw error;
  return reason(error);
}

const decoder = new TextDecoder();

/** Prints octets as they are, or on a terminal as text that cannot drive it. */
async function print(octets: Uint8Array): Promise<void> {
  if (Deno.stdout.isTerminal()) {
    const text = decoder.decode(octets, { stream: true }).replaceAll("\r", "");
    octets = Buffer.from(text.replace(/[^\n\t]+/g, printable));
  }
  try {
    while (octets.length > 0) octets = octets.subarray(await Deno.stdout.write(octets));
  } catch (error) {
    throw named("stdout", error);
  }
}

/**
 * Prints what a program prints, from the cache or by running it; returns its exit code and what
 * there is to say of it. `ask` does something at the server of a key.
 */
async function cached(
  [program, ...args]: string[],
  expire: number,
  ask: <T>(key: string, action: (cache: CacheConnection) => Promise<T>) => Promise<T>,
): Promise<[code: number, what: string]> {
  if ((await Deno.permissions.request({ name: "run", command: program })).state !== "granted") {
    throw new Deno.errors.NotCapable(`Requires run access to "${program}", run with --allow-run`);
  }
  const key = hash("sha256", JSON.stringify([program, ...args]));
  const found = await ask(key, (cache) => cache.get([key])).catch(reasonOf);
  const value = typeof found === "string" ? undefined : found.get(key);
  if (value) {
    await print(value);
    return [0, "hit"];
  }

  // Without input, as what the program reads would not be in the key.
  const child = new Deno.Command(program, { args, stdin: "null", stdout: "piped" }).spawn();
  const pieces: Octets[] = [];
  let size = 0;
  for await (const piece of child.stdout) {
    await print(piece);
    size += piece.length;
    if (size <= MAX_VALUE) pieces.push(piece);
  }
  const { code } = await child.status;
  if (typeof found === "string") return [code, `no cache (${found})`];
  if (code !== 0) return [code, `miss, not kept (exit code ${code})`];
  if (size > MAX_VALUE) return [code, `miss, not kept (more than ${MAX_VALUE} bytes)`];
  const failure = await ask(key, (cache) => cache.set(key, concat(pieces), expire)).catch(reasonOf);
  return [code, failure ? `miss, not kept (${failure})` : "miss"];
}

/** The commands, each with its arguments. */
const COMMANDS = new Map(Object.entries({
  get: "KEY...",
  set: "KEY VALUE",
  delete: "KEY",
  incr: "KEY [N]",
  decr: "KEY [N]",
  touch: "KEY",
  stats: undefined,
  flush: undefined,
  cached: "PROGRAM [ARG]...",
  ring: "[KEY]...",
}));

if (import.meta.main) {
  const program = {
    name: "cache_client",
    about: `Asks servers that speak memcached's protocol. The commands:

  ${Array.from(COMMANDS, (words) => words.join(" ").trim()).join("\n  ")}

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
    const { name, server, unix, expire } = flags;
    if (!COMMANDS.has(command)) throw new UsageError(`no command ${command}`);
    const usage = COMMANDS.get(command);
    parse({ ...program, usage, flags: {} }, ["--", ...args]); // throws unless it is as many as that
    const keys = command === "cached" ? [] : usage?.endsWith("...") ? args : args.slice(0, 1);
    keys.forEach(checkKey);
    if (unix && server.length > 0) throw new UsageError("--unix and --server do not go together");
    if (new Set(server).size < server.length) throw new UsageError("a --server is there twice");
    if (command === "ring") {
      if (server.length < 2) throw new UsageError("ring needs --server at least twice");
      const counted = keys.length > 0 ? keys : Array.from({ length: 1000 }, (_, i) => `key-${i}`);
      for (const { server: leaver, has, ring, modulo } of departures(server, counted)) {
        const moved = `if it leaves, ${ring} move, by hash % n ${modulo}`;
        console.log(`${leaver} has ${has} of ${counted.length} keys; ${moved}`);
      }
      return 0;
    }

    const addresses = server.length > 0 ? server : [formatEndpoint(flags)];
    const ring = new Ring(addresses);
    const say = (line: string) => console.error(`${name}: ${printable(line)}`);
    if (command === "cached") {
      const began = performance.now();
      const [code, what] = await cached(args, expire, (key, action) => {
        return at(ring.serverOf(key), flags, action);
      });
      say(`${what}, ${Math.round(performance.now() - began)} ms`);
      return code;
    }

    const [key, argument] = args;
    const by = command.endsWith("cr") ? number(0, Number.MAX_SAFE_INTEGER)(argument ?? "1") : 0;
    const values = new Map<string, Octets>();
    let code = 0;
    const fail = (line: string) => {
      say(line);
      code = 1;
    };
    const found = (result: unknown) => {
      if (result === false || result === null) fail(`${key}: not found`);
      else if (typeof result === "bigint") console.log(`${result}`);
    };

    async function ask(cache: CacheConnection, address: string, keys: string[]): Promise<void> {
      if (command === "get") {
        (await cache.get(keys)).forEach((value, key) => values.set(key, value));
      }
      if (command === "set") await cache.set(key, Buffer.from(argument), expire);
      if (command === "delete") found(await cache.delete(key));
      if (command === "touch") found(await cache.touch(key, expire));
      if (command === "incr" || command === "decr") found(await cache.arithmetic(command, key, by));
      if (command === "flush") await cache.flush();
      if (command !== "stats") return;
      const start = addresses.length > 1 ? [address] : [];
      for (const entry of await cache.stats()) {
        console.log(printable([...start, ...entry].join(" ")));
      }
    }

    const shares = keys.length > 0
      ? Map.groupBy(keys, (key) => ring.serverOf(key))
      : new Map(addresses.map((address) => [address, []]));
    await Promise.all(Array.from(shares, async ([address, keys]) => {
      try {
        await at(address, flags, (cache) => ask(cache, address, keys));
      } catch (error) {
        if (addresses.length === 1) throw error;
        fail(reasonOf(error));
      }
    }));
    for (const key of command === "get" ? keys : []) {
      const value = values.get(key);
      if (!value) fail(`${key}: not found`);
      else if (keys.length === 1) await print(value);
      else console.log(printable(new TextDecoder().decode(value)));
    }
    return code;
  });
}
