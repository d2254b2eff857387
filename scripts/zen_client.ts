#!/usr/bin/env -S deno run --allow-net
/**
 * A client that asks about the Zen of Python, and with `--connections` a load test: many
 * connections at once, each asking one question after the other.
 *
 *     deno run --allow-net scripts/zen_server.ts
 *     deno run --allow-net scripts/zen_client.ts
 *     deno run --allow-net scripts/zen_client.ts --connections 20 --seconds 5
 *
 * A connection asks only when it has its last answer, so a slow server is asked less: the load says
 * how much a server can do and how long that takes, not how it fares with more than it can do.
 *
 * Mirrors "Server Architecture" of tutorial 002, which names the book's chapter without a listing:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `socket()`, `connect((host, port))` | `connect()`: `Deno.connect()` |
 * | `sock.sendall(question)` | `conn.writeAll()`: `conn.write()` until all is sent |
 * | `recv_until(sock, b'.')` | `conn.readUntil(".")`: `conn.read()` in a loop |
 * | `threading.Thread`, `asyncio.gather()` | `Promise.all()` |
 * | `time.perf_counter()` | `performance.now()` |
 *
 * @module
 */
import { connect, type Endpoint, named, reason, UsageError } from "../lib/address.ts";
import { clientFlags, flag, main, number, stopSignal } from "../lib/cli.ts";
import { FramedConn, type FramedConnOptions, printable } from "../lib/framing.ts";

const PORT = 1060;
const MAX_ANSWER = 1024; // octets
const POWERS = 40; // of two, that the histogram has: from a microsecond to two weeks

/** The questions, each with its answer. */
export const ZEN: [question: string, answer: string][] = [
  ["Beautiful is better than?", "Ugly."],
  ["Explicit is better than?", "Implicit."],
  ["Simple is better than?", "Complex."],
];

/** Asks a question and returns the answer; throws, named after the peer, if there is none. */
export async function ask(conn: FramedConn, question: string): Promise<string> {
  try {
    await conn.writeAll(question);
    const answer = await conn.readUntil(".", MAX_ANSWER);
    if (answer !== null) return answer;
    throw new Deno.errors.UnexpectedEof("hung up without an answer");
  } catch (error) {
    throw named(conn.peer, error);
  }
}

/**
 * Counts of latencies, in milliseconds, in buckets each 4.4% wider than the last: it takes the same
 * memory however many there are, and what it says of a share of them is at most so much too high.
 */
export class Histogram {
  /** How many there are. */
  count = 0;
  /** The smallest, as it was. */
  smallest = Infinity;
  /** The largest, as it was. */
  largest = 0;
  // Bucket i ends at 2^(i / 16) microseconds or so; the first and the last also have what is beyond.
  readonly #unit = 1 / 1024;
  readonly #counts = new Float64Array(16 * POWERS + 1);

  /** Counts one. */
  add(ms: number): void {
    this.count++;
    this.smallest = Math.min(this.smallest, ms);
    this.largest = Math.max(this.largest, ms);
    const bucket = Math.ceil(16 * Math.log2(ms / this.#unit));
    this.#counts[Math.min(Math.max(0, bucket), this.#counts.length - 1)]++;
  }

  /** What a share of all, from 0 to 1, does not exceed: the nearest-rank percentile. */
  quantile(share: number): number {
    let left = Math.max(1, Math.ceil(share * this.count));
    const bucket = this.#counts.findIndex((count) => (left -= count) <= 0);
    return Math.min(this.largest, this.#unit * 2 ** (bucket / 16));
  }

  /** A bar for each power of two, from that of the smallest to that of the largest. */
  bars(): string[] {
    const counts = new Array<number>(POWERS + 1).fill(0);
    this.#counts.forEach((count, bucket) => counts[Math.ceil(bucket / 16)] += count);
    const most = Math.max(...counts);
    const first = counts.findIndex((count) => count > 0);
    const last = counts.findLastIndex((count) => count > 0);
    return counts.slice(first, last + 1).map((count, i) => {
      const bound = (this.#unit * 2 ** (first + i)).toFixed(3).padStart(10);
      return `up to ${bound} ms ${"█".repeat(Math.ceil(40 * count / most))} ${count}`;
    });
  }
}

/** What came of a load test. */
export type Load = {
  connections: number;
  unanswered: number; // of these, that had no answer at all
  failures: Map<string, number>; // of these, with the reason; a failed one asks no more
  latencies: Histogram;
  elapsed: number; // milliseconds to the last answer
};

/**
 * Asks over `connections` at once, each one question after the other for `duration` milliseconds,
 * and at least one, then waits for answers that are due, no longer than the endpoint's `timeout`.
 */
export async function load(
  endpoint: Endpoint & FramedConnOptions & { timeout: number },
  connections: number,
  duration: number,
  signal?: AbortSignal, // ends it before its time
): Promise<Load> {
  const result: Load = {
    connections,
    unanswered: connections,
    failures: new Map(),
    latencies: new Histogram(),
    elapsed: 0,
  };
  const open: FramedConn[] = [];
  const start = performance.now();

  async function converse(): Promise<void> {
    const conn = new FramedConn(await connect(endpoint), endpoint);
    open.push(conn);
    signal?.throwIfAborted();
    let i = 0;
    do {
      const [question, expected] = ZEN[i % ZEN.length];
      const asked = performance.now();
      const answer = await ask(conn, question);
      const now = performance.now();
      if (answer !== expected) {
        conn.close();
        throw new Error(`${conn.peer}: a wrong answer`);
      }
      if (i++ === 0) result.unanswered--;
      result.latencies.add(now - asked);
      result.elapsed = now - start;
    } while (performance.now() - start < duration && !signal?.aborted);
  }

  function failed(error: unknown): void {
    if (error instanceof UsageError) throw error;
    if (signal?.aborted) return;
    const why = reason(error);
    result.failures.set(why, (result.failures.get(why) ?? 0) + 1);
  }

  const closeAll = (why: string) => {
    for (const conn of open) conn.close(new Deno.errors.TimedOut(why));
  };
  const stop = () => closeAll("stopped");
  signal?.addEventListener("abort", stop);
  // An answer that comes octet by octet is never late by its connection's own clock.
  const late = () => closeAll("no answer when the time was over");
  const timer = setTimeout(late, duration + endpoint.timeout);
  try {
    // None hangs up before all are done: a server of one at a time would then come to the next.
    await Promise.all(Array.from({ length: connections }, () => converse().catch(failed)));
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", stop);
  }
  await Promise.all(open.map((conn) => conn.end()));
  return result;
}

/** The result in lines to print. */
export function report(load: Load): string[] {
  const { connections, unanswered, failures, latencies, elapsed } = load;
  const seconds = elapsed / 1000;
  const rate = Math.round(latencies.count / (seconds || 1));
  const lines = [
    `${latencies.count} questions answered in ${seconds.toFixed(2)} s, ${rate} per second`,
  ];
  if (unanswered > 0) {
    lines.push(`${unanswered} of ${connections} connections were never answered`);
  }
  for (const [why, count] of failures) lines.push(`${count} failed: ${printable(why)}`);
  if (latencies.count === 0) return lines;
  const shares = [0.5, 0.95, 0.99].map((share) => latencies.quantile(share));
  const figures = [latencies.smallest, ...shares, latencies.largest].map((ms) => ms.toFixed(3));
  return [...lines, `latency min/median/p95/p99/max ${figures.join("/")} ms`, ...latencies.bars()];
}

if (import.meta.main) {
  await main({
    name: "zen_client",
    about: "Asks about the Zen of Python; with --connections it is a load test.",
    permissions: "--allow-net",
    flags: {
      ...clientFlags(PORT),
      connections: flag("N", "load test: so many at once, 0 for none", number(0, 10_000), "0"),
      seconds: flag("S", "load test: for so long", number(0, 86_400, false), "0"),
    },
  }, async (flags) => {
    if (!flags.connections !== !flags.seconds) {
      throw new UsageError("--connections and --seconds go together, both above 0");
    }
    if (flags.connections > 0) {
      const signal = stopSignal();
      const result = await load(flags, flags.connections, flags.seconds * 1000, signal);
      for (const line of report(result)) console.log(line);
      if (signal.aborted) return 130;
      return result.unanswered + result.failures.size > 0 ? 1 : 0;
    }
    using conn = new FramedConn(await connect(flags), flags);
    for (const [question] of ZEN) {
      console.log(`${question} ${printable(await ask(conn, question))}`);
    }
    await conn.end();
    return 0;
  });
}
