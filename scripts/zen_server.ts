#!/usr/bin/env -S deno run --allow-net
/**
 * A server of one conversation, questions about the Zen of Python, in three styles: one client
 * after the other, all at once in one thread, and all at once in as many threads as there are
 * cores.
 *
 *     deno run --allow-net scripts/zen_server.ts
 *     deno run --allow-net scripts/zen_client.ts
 *     deno run --allow-net --allow-read scripts/zen_server.ts --style workers
 *
 * Which to choose:
 *
 * - `sequential` for nothing but learning: the first client that says nothing stops all others.
 * - `concurrent` nearly always. A conversation waits for its client most of its time, and while it
 *   waits the thread serves others: thousands of clients, and no locks, as only one runs at a time.
 * - `workers` when answers take processor time (`--cost`), which in one thread stops everybody.
 *   Threads share nothing: what one knows, such as who is in a chat, the others do not. Each serves
 *   `--max-connections`. A second server of this style, if somebody forgot the first, does not fail:
 *   it shares the port, too.
 *
 * Mirrors "Server Architecture" of tutorial 002, which names the book's chapter without a listing:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `while True:` `accept()`, converse, `close()` | `sequential`: `serve()` with one connection |
 * | `asyncio.start_server()`, `selectors` | `concurrent`: `serve()` |
 * | `threading.Thread`, `multiprocessing.Process` | `new Worker()` |
 * | `setsockopt(SOL_SOCKET, SO_REUSEPORT, 1)` | `listen({ reusePort: true })` |
 * | `recv_until(sock, b'?')` | `conn.readUntil("?")`: `conn.read()` in a loop |
 * | `sock.sendall(answer)` | `conn.writeAll()`: `conn.write()` until all is sent |
 *
 * @module
 */
import { once } from "node:events";
import { isMainThread, threadId, Worker, workerData } from "node:worker_threads";
import { type Endpoint, listen, UsageError } from "../lib/address.ts";
import { flag, main, number, oneOf, serverFlags, stopSignal } from "../lib/cli.ts";
import type { FramedConn } from "../lib/framing.ts";
import { serve, type ServeOptions } from "../lib/server.ts";

const PORT = 1060;
const MAX_QUESTION = 1024; // octets

/** The answers, encoded once. */
const APHORISMS = new Map([
  ["Beautiful is better than?", octets("Ugly.")],
  ["Explicit is better than?", octets("Implicit.")],
  ["Simple is better than?", octets("Complex.")],
]);
const UNKNOWN = octets("Error: unknown aphorism.");

/** Where and how to serve. */
export type Options = Endpoint & ServeOptions & {
  cost: number; // milliseconds of processor time that each answer takes
};

/** Makes the conversation: it answers questions until the client ends. */
export function conversation(cost: number): (conn: FramedConn) => Promise<void> {
  const turns = cost && cost * turnsPerMillisecond();
  return async (conn) => {
    for (let question; (question = await conn.readUntil("?", MAX_QUESTION)) !== null;) {
      work(turns);
      await conn.writeAll(APHORISMS.get(question) ?? UNKNOWN);
    }
  };
}

/** One client at a time; the others wait in the backlog. */
export async function sequential(options: Options): Promise<void> {
  await concurrent({ ...options, maxConnections: 1 });
}

/** All clients at once, in this thread. */
export async function concurrent(options: Options): Promise<void> {
  await serve(await listen(options), conversation(options.cost), options);
}

/** All clients at once, in this thread and one more for each further core. */
export async function workers(options: Options): Promise<void> {
  if (options.unix) throw new UsageError("workers share a port, not a --unix path");
  // Fails where a worker would: without --allow-read for what it loads.
  for (const file of [import.meta.url, "../lib"]) await Deno.stat(new URL(file, import.meta.url));
  const listener = await listen({ ...options, reusePort: true });
  // A worker runs this file again, to its end: `import.meta.main` is true there, the command line
  // the same, and Ctrl-C comes to each thread. Only `isMainThread` tells them apart.
  const threads = Array.from({ length: navigator.hardwareConcurrency - 1 }, async () => {
    const worker = new Worker(new URL(import.meta.url), { workerData: listener.addr });
    const [code] = await once(worker, "exit");
    if (code !== 0) throw new Error("a worker has failed");
  });
  await Promise.all([serve(listener, conversation(options.cost), options), ...threads]);
}

function octets(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

let worked = 0; // kept, as a loop without a result may be left out by the compiler

/** Keeps the processor busy for so many turns. */
function work(turns: number): void {
  for (let i = 0; i < turns; i++) worked = Math.imul(worked ^ i, 31);
}

/**
 * How many turns take a millisecond: the best of many measurements, as in others the processor was
 * another program's for a while. For the same reason `work()` counts turns and looks at no clock.
 */
function turnsPerMillisecond(): number {
  const times = Array.from({ length: 100 }, () => {
    const start = performance.now();
    work(50_000);
    return performance.now() - start;
  });
  return 50_000 / Math.min(...times);
}

if (import.meta.main) {
  await main({
    name: "zen_server",
    about: "Answers questions about the Zen of Python, in one of three styles.",
    permissions: "--allow-net",
    flags: {
      ...serverFlags(PORT),
      style: flag(
        "STYLE",
        "sequential, concurrent or workers, which need --allow-read",
        oneOf("sequential", "concurrent", "workers"),
        "concurrent",
      ),
      cost: flag("MS", "processor time that each answer takes", number(0, 60_000, false), "0"),
    },
  }, async (flags) => {
    const options = { ...flags, signal: stopSignal() };
    if (isMainThread) return await { sequential, concurrent, workers }[flags.style](options);
    const { port } = workerData as Deno.NetAddr;
    await concurrent({
      ...options,
      port,
      reusePort: true,
      name: `${flags.name} (thread ${threadId})`,
    });
  });
}
