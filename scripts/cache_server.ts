#!/usr/bin/env -S deno run --allow-net
/**
 * A cache server that speaks memcached's text protocol (`doc/protocol.txt` in its sources), so that
 * every client of memcached is a client of it: octets under a key, for a while, in memory.
 *
 *     deno run --allow-net scripts/cache_server.ts
 *     deno run --allow-net scripts/cache_client.ts --expire 60 set greeting hello
 *
 * When `--memory` is full, what was used longest ago goes, so a program must be able to do without
 * any item. An item takes 350 octets of it at least. What clients have sent half of comes on top, and
 * so do the 50 MB of Deno. There is no password: whoever reaches the port reads and deletes all.
 *
 * Its commands answer octet for octet what memcached 1.6.18 answers, oddities included. It has no
 * others, and says so by the version that it tells; `stats` has only what is in every tool's list.
 * `flush_all` with a delay is on time, and not a second early. A line of more than 256 KiB, or of
 * 2048 octets if it is no `get`, ends the connection.
 *
 * Mirrors the caching that tutorial 000 names, and the chapter "Caches" of the book of tutorial
 * 002, both without a listing. In Python it would be:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `asyncio.start_server(converse)` | `listen()`, `serve()` |
 * | `await reader.readline()` | `conn.readLineOctets()`: `conn.read()` until there is an LF |
 * | `await reader.readexactly(n)` | `conn.readExactly(n)`: `conn.read()` until there are `n` octets |
 * | `data.decode("latin-1")` | `buffer.toString("latin1")` |
 * | `writer.write(data)`, `await writer.drain()` | `conn.writeAll()`: `conn.write()` until all is sent |
 * | `bytearray(n)`, `array("i", [0] * n)` | `Buffer.alloc(n)`, `new Int32Array(n)` |
 * | `int(text) % 2**64` | `BigInt.asUintN(64, BigInt(text))` |
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { listen, UsageError } from "../lib/address.ts";
import { flag, main, serverFlags, stopSignal } from "../lib/cli.ts";
import { type FramedConn, LimitError } from "../lib/framing.ts";
import { serve } from "../lib/server.ts";

const PORT = 19211; // memcached's own is 11211
const VERSION = "1.5.3"; // of memcached, the first with all of these commands
const MAX_KEY = 250; // octets, as are the others
const MAX_ITEM = 1024 * 1024; // as memcached counts, see tooLarge()
const MAX_LINE = 2048;
const MAX_GET_LINE = 256 * 1024; // one may ask for many keys
const MAX_PIECE = 65536; // of what is sent or thrown away
const CHUNK = 256;
const CHUNK_OVERHEAD = 94; // 30 in the other arrays, the rest for the map
const MONTH = 30 * 24 * 60 * 60; // seconds
const BAD_LINE = "bad command line format";
const BAD_TIME = "invalid exptime argument";

/**
 * Items in a fixed amount of memory; when it is full, those used longest ago go. An item is the
 * number of its first chunk, from 1 on. Its other chunks follow in a list, `#next`, whose last is
 * any; the list from 0 on is of the chunks that are free. The characters of a key are octets
 * (Latin-1), as strings can be looked up in a Map and octets cannot.
 *
 * The values are in one large array, as in memcached: each in an object of its own, V8 let 100 MB of
 * dead ones gather before it looked for them.
 */
export class Cache {
  /** What has happened so far, and how many connections there are now. */
  readonly counts = { stored: 0, gets: 0, hits: 0, sets: 0, evicted: 0, open: 0 };
  /** By item: what the client wants to be kept with it. */
  readonly flags: Uint32Array;
  /** By item: Unix time in milliseconds. */
  readonly expires: Float64Array;
  /** By item: the number of this version of it. */
  readonly unique: Float64Array;
  readonly #items = new Map<string, number>(); // by key, in the order of use
  readonly #octets: Buffer; // by chunk
  readonly #next: Int32Array; // by chunk: the next of the item; from 0 on: those that are free
  readonly #chunks: Uint16Array; // by item
  readonly #length: Uint32Array; // by item, of the value
  #free = 0; // chunks
  #unique = 0;
  #flushAt = Infinity;

  /** Of `limit` octets it takes from the system what is in use. */
  constructor(readonly limit: number) {
    const n = Math.floor(limit / (CHUNK + CHUNK_OVERHEAD)) + 1;
    this.#octets = Buffer.alloc(n * CHUNK);
    this.#next = new Int32Array(n);
    this.#chunks = new Uint16Array(n);
    [this.flags, this.#length] = [new Uint32Array(n), new Uint32Array(n)];
    [this.expires, this.unique] = [new Float64Array(n), new Float64Array(n)];
    this.#clear();
  }

  /** How many items there are. */
  get size(): number {
    return this.#items.size;
  }

  /** Octets that the items take. */
  get used(): number {
    return (this.#next.length - 1 - this.#free) * (CHUNK + CHUNK_OVERHEAD);
  }

  /** Finds the item of a key, which is then the one used last. */
  find(key: string): number {
    const now = Date.now();
    if (now >= this.#flushAt) this.#clear();
    const item = this.#items.get(key) ?? 0;
    if (item === 0) return 0;
    if (this.expires[item] <= now) {
      this.delete(key);
      return 0;
    }
    this.#items.delete(key);
    this.#items.set(key, item);
    return item;
  }

  /** A copy of the octets of an item, which may be gone before they are sent. */
  value(item: number): Buffer {
    const octets = Buffer.allocUnsafe(this.#length[item]);
    for (let chunk = item, at = 0; at < octets.length; chunk = this.#next[chunk]) {
      at += this.#octets.copy(octets, at, chunk * CHUNK, (chunk + 1) * CHUNK);
    }
    return octets;
  }

  /** Stores a value under a key, in place of what is there. */
  store(key: string, value: Uint8Array, flags: number, expires: number): void {
    this.delete(key);
    // The key, which is in the map, takes as much as if it were in the chunks, too.
    const chunks = Math.ceil((key.length + value.length) / CHUNK);
    if (this.#free < chunks) this.#evict(chunks + Math.floor(this.#next.length / 128));
    const item = this.#next[0];
    let last = 0;
    for (let i = 0; i < chunks; i++) {
      last = this.#next[last];
      this.#octets.set(value.subarray(i * CHUNK, (i + 1) * CHUNK), last * CHUNK);
    }
    this.#next[0] = this.#next[last];
    this.#free -= chunks;
    [this.#chunks[item], this.#length[item]] = [chunks, value.length];
    [this.flags[item], this.expires[item], this.unique[item]] = [flags, expires, ++this.#unique];
    this.#items.set(key, item);
    this.counts.stored++;
  }

  /** Deletes the item of a key, and returns whether there was one. */
  delete(key: string): boolean {
    const item = this.#items.get(key);
    if (item === undefined) return false;
    this.#items.delete(key);
    let last = item;
    for (let i = 1; i < this.#chunks[item]; i++) last = this.#next[last];
    this.#next[last] = this.#next[0];
    this.#next[0] = item;
    this.#free += this.#chunks[item];
    return true;
  }

  /** Deletes all items, at a Unix time in milliseconds. */
  flush(at: number): void {
    this.#flushAt = at;
    if (at > Date.now()) return;
    this.#clear();
    this.#unique++; // as memcached does
  }

  /**
   * Makes room for so many chunks: more than are needed now, as a new iterator first passes over the
   * places of all keys that are gone, and an old one would keep all tables that the Map has had.
   */
  #evict(chunks: number): void {
    for (const key of this.#items.keys()) {
      if (this.#free >= Math.min(chunks, this.#next.length - 1)) return;
      this.delete(key);
      this.counts.evicted++;
    }
  }

  #clear(): void {
    this.#items.clear();
    this.#free = this.#next.length - 1;
    for (let chunk = 0; chunk < this.#free; chunk++) this.#next[chunk] = chunk + 1;
    this.#flushAt = Infinity;
  }
}

function latin1(octets: Uint8Array<ArrayBuffer>): string {
  return Buffer.from(octets.buffer, octets.byteOffset, octets.length).toString("latin1");
}

async function send(conn: FramedConn, octets: string): Promise<void> {
  await conn.writeAll(Buffer.from(octets, "latin1"));
}

/** The request is wrong. */
class ClientError extends Error {}

/** A client's request: what it came on, and what it says. */
type Request = { conn: FramedConn; cache: Cache; command: string; args: string[]; quiet: boolean };

/** The commands, and how many arguments they take, with `noreply` where there is a most. */
const ARGUMENTS = new Map(([
  ["get gets", 1, Infinity], // <key>*
  ["gat gats", 1, Infinity], // <exptime> <key>*
  ["set add replace append prepend", 4, 5], // <key> <flags> <exptime> <bytes> [noreply]
  ["cas", 5, 6], // <key> <flags> <exptime> <bytes> <cas unique> [noreply]
  ["incr decr", 2, 3], // <key> <value> [noreply]
  ["touch", 2, 3], // <key> <exptime> [noreply]
  ["delete", 1, 3], // <key> [0] [noreply]
  ["flush_all", 0, 2], // [<delay>] [noreply]
  ["verbosity", 1, 2], // <level> [noreply]
  ["stats", 0, 0],
  ["version quit", 0, Infinity],
] as const).flatMap(([names, ...counts]) => names.split(" ").map((name) => [name, counts])));

/** Serves a client until it leaves. */
export async function converse(conn: FramedConn, cache: Cache): Promise<void> {
  cache.counts.open++;
  try {
    for (let line; (line = await conn.readLineOctets(MAX_GET_LINE)) !== null;) {
      const [command, ...args] = latin1(line).split("\0", 1)[0].split(" ").filter((word) => word);
      if (line.length > MAX_LINE && !/^gets?$/.test(command)) {
        throw new LimitError(`line of more than ${MAX_LINE} bytes`);
      }
      if (command === "quit") break;
      // A Web page can make a browser send lines to any port, after one of these.
      if (/^(GET|POST)$/.test(command) && args[0]?.startsWith("/")) break;
      const [least, most] = ARGUMENTS.get(command) ?? [Infinity, 0];
      const valid = args.length >= least && args.length <= most;
      const quiet = valid && most < Infinity && args.at(-1) === "noreply";
      const answer = valid ? await execute({ conn, cache, command, args, quiet }) : "ERROR";
      if (!quiet) await send(conn, `${answer}\r\n`);
    }
  } finally {
    cache.counts.open--;
  }
}

/** Does what a request asks for, and returns the answer or its last line. */
async function execute(request: Request): Promise<string> {
  const { cache, command, args, quiet } = request;
  try {
    switch (command) {
      case "get":
      case "gets":
        return await retrieve(request, args);
      case "gat":
      case "gats":
        return await retrieve(request, args.slice(1), expiry(args[0], BAD_TIME));
      case "incr":
      case "decr":
        return calculate(request);
      case "touch": {
        checkKeys([args[0]]);
        const expires = expiry(args[1], BAD_TIME);
        const item = cache.find(args[0]);
        if (item > 0) cache.expires[item] = expires;
        return item > 0 ? "TOUCHED" : "NOT_FOUND";
      }
      case "delete": {
        if (!["", "0", "noreply", "0 noreply"].includes(args.slice(1).join(" "))) {
          throw new ClientError(`${BAD_LINE}.  Usage: delete <key> [noreply]`);
        }
        checkKeys([args[0]]);
        return cache.find(args[0]) > 0 && cache.delete(args[0]) ? "DELETED" : "NOT_FOUND";
      }
      case "flush_all":
        cache.flush(unixTime(args.length > Number(quiet) ? signed(args[0], BAD_TIME) : 0));
        return "OK";
      case "verbosity":
        unsigned(args[0], BAD_LINE); // there is nothing to say more of
        return "OK";
      case "version":
        return `VERSION ${VERSION}`;
      case "stats":
        return `${stats(cache)}END`;
      default:
        return await store(request);
    }
  } catch (error) {
    if (error instanceof ClientError) return `CLIENT_ERROR ${error.message}`;
    throw error;
  }
}

/** Sends the items of these keys piece by piece, so that one who does not read holds only one. */
async function retrieve(
  { conn, cache, command }: Request,
  keys: string[],
  expires?: number,
): Promise<string> {
  checkKeys(keys);
  let answer = "";
  for (const key of keys) {
    cache.counts.gets++;
    const item = cache.find(key);
    if (item === 0) continue;
    cache.counts.hits++;
    if (expires !== undefined) cache.expires[item] = expires;
    const value = cache.value(item);
    const unique = command.endsWith("s") ? ` ${cache.unique[item]}` : "";
    answer += `VALUE ${key} ${cache.flags[item]} ${value.length}${unique}\r\n`;
    if (answer.length + value.length < MAX_PIECE) {
      answer += `${value.toString("latin1")}\r\n`;
    } else {
      await send(conn, answer);
      await conn.writeAll(value);
      answer = "\r\n";
    }
  }
  return `${answer}END`;
}

async function store({ conn, cache, command, args }: Request): Promise<string> {
  const [key] = args;
  checkKeys([key]);
  let flags = Number(BigInt.asUintN(32, unsigned(args[1], BAD_LINE)));
  let expires = expiry(args[2], BAD_LINE);
  const length = signed(args[3], BAD_LINE);
  const unique = command === "cas" ? unsigned(args[4], BAD_LINE) : 0n;
  if (length < 0 || length > 2 ** 31 - 3) throw new ClientError(BAD_LINE);
  if (tooLarge(key, flags, length)) {
    if (command === "set") cache.delete(key); // what it has is no longer true
    for (let left = length + 2; left > 0; left -= MAX_PIECE) {
      await conn.readExactly(Math.min(left, MAX_PIECE));
    }
    return "SERVER_ERROR object too large for cache";
  }
  let value: Uint8Array = await conn.readExactly(length);
  if (latin1(await conn.readExactly(2)) !== "\r\n") throw new ClientError("bad data chunk");

  cache.counts.sets++;
  const item = cache.find(key);
  if (command === "add" && item > 0) return "NOT_STORED";
  if (command === "cas" && item === 0) return "NOT_FOUND";
  if (command === "cas" && BigInt(cache.unique[item]) !== unique) return "EXISTS";
  if (["replace", "append", "prepend"].includes(command) && item === 0) return "NOT_STORED";
  if (command === "append" || command === "prepend") {
    const old = cache.value(item);
    [flags, expires] = [cache.flags[item], cache.expires[item]];
    if (tooLarge(key, flags, old.length + length)) return "NOT_STORED";
    value = Buffer.concat(command === "append" ? [old, value] : [value, old]);
  }
  cache.store(key, value, flags, expires);
  return "STORED";
}

function calculate({ cache, command, args: [key, text] }: Request): string {
  checkKeys([key]);
  const delta = unsigned(text, "invalid numeric delta argument");
  const item = cache.find(key);
  if (item === 0) return "NOT_FOUND";
  const value = cache.value(item).toString("latin1");
  const number = unsigned(value, "cannot increment or decrement non-numeric value");
  const sum = command === "incr" ? BigInt.asUintN(64, number + delta) : number - delta;
  const result = `${sum > 0n ? sum : 0n}`;
  // Memcached writes it over the old one, and blanks over the rest of that.
  const padded = Buffer.from(result.padEnd(value.length));
  cache.store(key, padded, cache.flags[item], cache.expires[item]);
  return result;
}

function checkKeys(keys: string[]): void {
  if (keys.some((key) => key.length > MAX_KEY)) throw new ClientError(BAD_LINE);
}

/** Whether memcached would not take such an item, to which it adds 56 octets of its own. */
function tooLarge(key: string, flags: number, length: number): boolean {
  return 56 + (flags > 0 ? 4 : 0) + key.length + 1 + length + 2 > MAX_ITEM;
}

/** Reads a number as C's `strtoll` does: behind a blank anything may follow. */
function integer(text: string, complaint: string): bigint {
  const digits = /^[\t-\r ]*([+-]?\d+)(?=[\0\t-\r ]|$)/.exec(text)?.[1];
  // The second, as a value may have a million digits, at which a bigint is slow.
  if (!digits || Math.abs(Number(digits)) > 2 ** 65) throw new ClientError(complaint);
  return BigInt(digits);
}

function unsigned(text: string, complaint: string): bigint {
  const n = integer(text, complaint);
  if (n < 0n || n >= 2n ** 64n) throw new ClientError(complaint);
  return n;
}

/** Reads a number of 64 bits and keeps 32 of them, as memcached does. */
function signed(text: string, complaint: string): number {
  const n = integer(text, complaint);
  if (BigInt.asIntN(64, n) !== n) throw new ClientError(complaint);
  return Number(BigInt.asIntN(32, n));
}

function expiry(text: string, complaint: string): number {
  const seconds = signed(text, complaint);
  return seconds === 0 ? Infinity : unixTime(seconds);
}

/** In milliseconds, of seconds from now; more than a month of them are a Unix time. */
function unixTime(seconds: number): number {
  return 1000 * seconds + (seconds > MONTH ? 0 : Date.now());
}

function stats({ counts, size, limit, used }: Cache): string {
  return Object.entries({
    pid: Deno.pid,
    uptime: Math.floor(performance.now() / 1000),
    time: Math.floor(Date.now() / 1000),
    version: VERSION,
    curr_connections: counts.open,
    cmd_get: counts.gets,
    cmd_set: counts.sets,
    get_hits: counts.hits,
    get_misses: counts.gets - counts.hits,
    limit_maxbytes: limit,
    bytes: used,
    curr_items: size,
    total_items: counts.stored,
    evictions: counts.evicted,
  }).map(([name, value]) => `STAT ${name} ${value}\r\n`).join("");
}

/** Reads a size such as `64MB`; in the smallest the largest item has room. */
function sizeOf(text: string): number {
  const [, digits, unit] = /^(\d{1,6})(MB|GB)$/.exec(text) ?? [];
  const octets = Number(digits) * (unit === "GB" ? 2 ** 30 : 2 ** 20);
  if (octets >= 2 * 2 ** 20 && octets <= 2 ** 30) return octets;
  throw new UsageError(`${text} is not a size from 2MB to 1GB`);
}

if (import.meta.main) {
  await main({
    name: "cache_server",
    about: "Keeps octets under a key for a while, for clients of memcached.",
    permissions: "--allow-net",
    flags: {
      ...serverFlags(PORT),
      memory: flag("SIZE", "for all items; the one used longest ago goes first", sizeOf, "64MB"),
    },
  }, async (flags) => {
    const cache = new Cache(flags.memory);
    const options = { ...flags, signal: stopSignal() };
    await serve(await listen(flags), (conn) => converse(conn, cache), options);
  });
}
