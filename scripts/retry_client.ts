#!/usr/bin/env -S deno run --allow-net
/**
 * A client that gets every answer whole from a server that fails half of the time: it asks again,
 * each time later, with the same ID, until a deadline.
 *
 *     deno run --allow-net scripts/flaky_server.ts
 *     deno run --allow-net scripts/retry_client.ts
 *
 * - A timeout says nothing about the deed. The request may be lost, or done and its answer lost;
 *   no number of messages tells the two apart (the "two generals"). So asking again must be
 *   harmless: every request has an ID, every retry the same one, and the server does an ID once.
 * - Each wait is twice as long as the last, so that a server with too much to do gets less of it,
 *   and random, from nothing to that ("full jitter"): clients that failed together would otherwise
 *   come back together, and fail again.
 * - A number of attempts says nothing about how long somebody waits. A deadline does, and it bounds
 *   how long the server has to remember an ID.
 * - Only what may pass is tried again. `ERROR`, or a name that nobody has, is the same tomorrow.
 *
 * Mirrors "Error Handling and Fault Tolerance" of tutorial 000 and "Network Errors" of 002, which
 * have no listing:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `s.settimeout(1)` | `timeout` of `connect()` and `FramedConn` |
 * | `except ConnectionRefusedError` | `error instanceof Deno.errors.ConnectionRefused` |
 * | `except TimeoutError` | `Deno.errors.TimedOut` |
 * | `except ConnectionResetError` | `Deno.errors.ConnectionReset` |
 * | `s.recv()` returns `b""` in mid-answer | `conn.readLine()` throws `Deno.errors.UnexpectedEof` |
 * | `time.sleep(random.uniform(0, delay))`, `delay *= 2` | `retry()` of `@std/async` |
 * | `uuid.uuid4()` | `crypto.randomUUID()` |
 * | `time.monotonic() < deadline` | `AbortSignal.timeout()` |
 *
 * @module
 */
import { retry } from "@std/async/retry";
import { connect, type Endpoint, formatEndpoint, named, reason } from "../lib/address.ts";
import { clientFlags, flag, main, number, seconds } from "../lib/cli.ts";
import { FramedConn, type FramedConnOptions, printable } from "../lib/framing.ts";

const PORT = 1061;
const MAX_ANSWER = 200; // octets
const BACK_OFF = { minTimeout: 100, multiplier: 2, maxTimeout: 2000, jitter: 1 }; // milliseconds
const PATIENCE = 2000; // milliseconds without any answer before it says so

/** What an attempt can meet that the next may not. */
export type Trouble = "refused" | "timed out" | "reset" | "cut short";

const { BrokenPipe, Busy, ConnectionAborted, ConnectionRefused, ConnectionReset } = Deno.errors;
const { NotConnected, TimedOut, UnexpectedEof } = Deno.errors;
const TROUBLES = new Map<Trouble, (new () => Error)[]>([
  ["refused", [ConnectionRefused, Busy]],
  ["timed out", [TimedOut]],
  // The last one is a connection that was reset before it was looked at.
  ["reset", [ConnectionReset, ConnectionAborted, BrokenPipe, NotConnected]],
  ["cut short", [UnexpectedEof]],
]);

/** Which trouble an error is; undefined: one that trying again does not mend. */
export function troubleOf(error: unknown): Trouble | undefined {
  for (const [trouble, classes] of TROUBLES) {
    if (classes.some((errorClass) => error instanceof errorClass)) return trouble;
  }
}

/** What came of many requests. */
export class Tally {
  answers = 0;
  attempts = 0;
  /** The highest total that an answer had. */
  total = 0;
  readonly met: Record<Trouble, number> = { refused: 0, "timed out": 0, reset: 0, "cut short": 0 };
  /** The last trouble. */
  last?: unknown;

  /** For `requests` wanted. */
  constructor(readonly requests: number) {}

  /** The tally in lines to print. */
  report(): string[] {
    const rows = Object.entries({ ...this.met, attempts: this.attempts });
    return [
      `${this.answers} of ${this.requests} answers, total ${this.total}`,
      ...rows.map(([name, count]) => `${name.padEnd(10)}${count}`),
    ];
  }
}

/**
 * One attempt: asks, over a connection of its own, to add `n`, and returns the total.
 *
 * @throws {Deno.errors.Busy} if the server will not now, the {@linkcode Trouble}s, the reason of
 * `signal`, or another Error if the server never will.
 */
export async function add(
  endpoint: Endpoint & FramedConnOptions,
  id: string,
  n: number,
  signal: AbortSignal,
): Promise<number> {
  using conn = new FramedConn(await connect(endpoint), endpoint);
  const hangUp = () => conn.close(signal.reason);
  signal.addEventListener("abort", hangUp);
  try {
    signal.throwIfAborted();
    await conn.writeLine(`${id} add ${n}`);
    const answer = await conn.readLine(MAX_ANSWER);
    if (answer === null) throw new UnexpectedEof("connection ended without an answer");
    if (answer === "BUSY") throw new Busy("the server is busy");
    const [, whose, total] = /^(\S+) (\d+)$/.exec(answer) ?? [];
    if (whose === id) return Number(total);
    throw new Error(whose ? "an answer to another request" : `the server says: ${answer}`);
  } catch (error) {
    throw signal.aborted ? signal.reason : named(formatEndpoint(endpoint), error);
  } finally {
    signal.removeEventListener("abort", hangUp);
  }
}

/**
 * Asks to add 1 as often as the tally wants, all at once, and each until it has its answer; the
 * tally is kept meanwhile.
 *
 * @param deadline milliseconds for all of them; one that is connecting then has its `timeout` left.
 * @throws {Deno.errors.TimedOut} at the deadline, or the first error that trying again does not
 * mend.
 */
export async function addAll(
  endpoint: Endpoint & FramedConnOptions,
  tally: Tally,
  deadline: number,
): Promise<void> {
  const stop = new AbortController();
  const { signal } = stop;
  const late = new Error("the deadline is over");
  const timer = setTimeout(() => stop.abort(late), deadline);

  async function attempt(id: string): Promise<void> {
    tally.attempts++;
    try {
      const total = await add(endpoint, id, 1, signal);
      // Not in one line, which would read the total before the wait.
      tally.total = Math.max(tally.total, total);
      tally.answers++;
    } catch (error) {
      const trouble = troubleOf(error);
      if (!trouble) throw error;
      tally.met[trouble]++;
      tally.last = error;
      throw error;
    }
  }

  const isRetriable = (error: unknown) => troubleOf(error) !== undefined;
  const options = { ...BACK_OFF, maxAttempts: Number.MAX_SAFE_INTEGER, isRetriable, signal };
  await Promise.all(Array.from({ length: tally.requests }, async () => {
    const id = crypto.randomUUID();
    await retry(() => attempt(id), options).catch((error) => stop.abort(error));
  }));
  clearTimeout(timer);
  if (tally.answers === tally.requests) return;
  if (signal.reason !== late) throw signal.reason;
  const last = tally.last ? reason(tally.last) : `${formatEndpoint(endpoint)}: no answer`;
  const missing = `${tally.requests - tally.answers} of ${tally.requests} unanswered`;
  throw new TimedOut(`${last} (${missing} after ${deadline / 1000} s)`);
}

if (import.meta.main) {
  await main({
    name: "retry_client",
    about: "Asks a server that fails, again and again, until it has every answer.",
    permissions: "--allow-net",
    flags: {
      ...clientFlags(PORT),
      timeout: flag("S", "seconds for the connection and each reply", seconds, "1"),
      requests: flag("N", "ask so many times, all at once", number(1, 1000), "100"),
      deadline: flag("S", "seconds for all of it", seconds, "60"),
    },
  }, async (flags) => {
    const tally = new Tally(flags.requests);
    const began = performance.now();
    const timer = setTimeout(() => {
      if (tally.answers > 0 || !tally.last) return;
      console.error(`${flags.name}: ${printable(reason(tally.last))}, trying again (--deadline)`);
    }, PATIENCE);
    try {
      await addAll(flags, tally, flags.deadline);
    } finally {
      clearTimeout(timer);
      if (tally.answers > 0 || tally.last) {
        for (const line of tally.report()) console.log(line);
        console.log(`seconds   ${((performance.now() - began) / 1000).toFixed(1)}`);
      }
    }
  });
}
