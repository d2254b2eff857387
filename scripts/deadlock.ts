#!/usr/bin/env -S deno run --allow-net
/**
 * A deadlock on a TCP connection, both ends in one process: each writes all it has to say before it
 * reads anything, until the buffers between them are full and each waits for the other to read.
 * With `--fixed` each reads while it writes.
 *
 *     deno run --allow-net scripts/deadlock.ts
 *     deno run --allow-net scripts/deadlock.ts --bytes 100000
 *     deno run --allow-net scripts/deadlock.ts --fixed
 *
 * Mirrors "TCP" of tutorial 002, a chapter whose book has such a program:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `sock.sendall(data)`, then `sock.recv(1024)` | `await send()`, then `await receive()` |
 * | a thread for each, or `select()` | `Promise.all([send(), receive()])` |
 * | a write that blocks stops its thread | a write that waits is a promise: the process goes on, and can look |
 *
 * A protocol is safe from it where one side listens while the other speaks, a message and its
 * answer at a time, and each message has a bound (as in `blocks_client.ts`), or where each side
 * always reads, whatever it is writing.
 *
 * @module
 */
import { delay } from "@std/async/delay";
import { connect, formatAddress, listen } from "../lib/address.ts";
import { flag, main, number, toggle } from "../lib/cli.ts";
import { FramedConn } from "../lib/framing.ts";

const BYTES = 64 * 1024 * 1024; // Linux's buffers on loopback have held some 4 MiB each way
const CHUNK = new Uint8Array(65536);
const LOOK = 200; // milliseconds between two looks at how far they are
const LOOKS = 5; // without any progress that are taken for a standstill

/** One end's part: it sends `bytes` octets and receives as many, one after the other or at once. */
export async function talk(conn: FramedConn, bytes: number, fixed: boolean): Promise<void> {
  async function send(): Promise<void> {
    while (conn.bytesWritten < bytes) {
      await conn.writeAll(CHUNK.subarray(0, bytes - conn.bytesWritten));
    }
  }
  async function receive(): Promise<void> {
    while (conn.bytesRead < bytes && await conn.readSome() !== null);
  }
  if (fixed) {
    await Promise.all([send(), receive()]);
  } else {
    await send();
    await receive();
  }
}

/** Resolves when nothing moves between the ends any more; throws when `signal` is aborted. */
async function standstill(ends: FramedConn[], signal: AbortSignal): Promise<void> {
  let before = 0;
  for (let quiet = 0; quiet < LOOKS; quiet++) {
    await delay(LOOK, { signal });
    const moved = ends.reduce((sum, end) => sum + end.bytesWritten + end.bytesRead, 0);
    if (moved > before) quiet = 0;
    before = moved;
  }
}

/** Lets the two ends of a connection talk until they are done, false, or stuck, true; closes them. */
export async function getStuck(
  ends: FramedConn[],
  bytes: number,
  fixed: boolean,
): Promise<boolean> {
  const done = new AbortController();
  const talks = Promise.all(ends.map((end) => talk(end, bytes, fixed))).then(() => false);
  const stuck = standstill(ends, done.signal).then(() => true, () => false);
  try {
    return await Promise.race([talks, stuck]);
  } finally {
    done.abort();
    for (const end of ends) end.close(); // which fails the writes that wait
    await talks.catch(() => {});
  }
}

/** What came of it. */
function report(ends: FramedConn[], stuck: boolean, fixed: boolean): string {
  const inBuffers = ends.reduce((sum, end) => sum + end.bytesWritten - end.bytesRead, 0);
  if (stuck) {
    return `Deadlock: nothing moves any more. ${inBuffers} octets lie in the system's buffers, and
these are full. Neither end can write on until the other reads, and neither reads
until it has written all. --fixed is the cure: to read while writing.`;
  }
  if (fixed) return "No deadlock: each end read while it wrote, and all that was sent has arrived.";
  return `No deadlock, this time: the system's buffers held all that nobody was reading yet. That
is the trap: it works with the test's data, and hangs with more (try without --bytes).`;
}

if (import.meta.main) {
  await main({
    name: "deadlock",
    about: "Two ends of a connection that write before they read, and wait for each other.",
    permissions: "--allow-net",
    flags: {
      bytes: flag("N", "octets that each end sends", number(1, 1e12), `${BYTES}`),
      fixed: toggle("read while writing"),
    },
  }, async ({ bytes, fixed }) => {
    using listener = await listen({ host: "127.0.0.1", port: 0 });
    const { port } = listener.addr as Deno.NetAddr;
    const conns = await Promise.all([connect({ host: "127.0.0.1", port }), listener.accept()]);
    const ends = conns.map((conn) => new FramedConn(conn));
    const stuck = await getStuck(ends, bytes, fixed);
    for (const { conn, bytesWritten, bytesRead } of ends) {
      const name = formatAddress(conn.localAddr);
      console.log(`${name}: wrote ${bytesWritten} of ${bytes} octets, read ${bytesRead}`);
    }
    console.log(report(ends, stuck, fixed));
  });
}
