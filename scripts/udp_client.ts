#!/usr/bin/env -S deno run --allow-net
/**
 * A client for UDP: sends a message, waits for what comes back, and sends again if nothing does,
 * as datagrams get lost (`askDatagram()` in `lib/framing.ts` is all of that). With `--count` it is a
 * ping, which measures round trips and losses.
 *
 *     deno run --allow-net scripts/udp_echo.ts
 *     deno run --allow-net scripts/udp_client.ts "hello"
 *     deno run --allow-net scripts/udp_client.ts --count 10
 *
 * Mirrors "Socket Programming with UDP", client, of tutorial 001, which lists the calls:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `socket(AF_INET, SOCK_DGRAM)` | `connectDatagrams()`: `Deno.listenDatagram({ port: 0 })` |
 * | `s.sendto(message.encode(), addr)` | `socket.send(data, addr)` |
 * | `data, addr = s.recvfrom(65535)` | `socket.receive()` |
 * | `s.settimeout(0.5)` | `askDatagram()`: a race against a timer |
 * | `s.close()` | `socket.close()` |
 *
 * @module
 */
import { delay } from "@std/async/delay";
import { connectDatagrams, type Endpoint, formatAddress } from "../lib/address.ts";
import { clientFlags, flag, main, number, seconds, stopSignal } from "../lib/cli.ts";
import { askDatagram, printable, trace } from "../lib/framing.ts";

const PORT = 8007; // 7 is the assigned one

/** What came of a ping. */
export type Tally = {
  sent: number;
  duplicates: number;
  roundTrips: number[]; // milliseconds, shortest first
};

/** How a ping is done; times in milliseconds. */
export type PingOptions = {
  count: number;
  interval: number; // between two datagrams
  timeout: number; // for answers after the last one
  trace?: boolean;
  signal?: AbortSignal; // ends it before its time
};

/** Sends `count` datagrams, each `message` behind a number of its own, and tallies the echoes. */
export async function ping(
  endpoint: Endpoint,
  message: string,
  options: PingOptions,
): Promise<Tally> {
  const { socket, server } = await connectDatagrams(endpoint);
  const peer = formatAddress(server);
  const sentAt: number[] = [];
  const roundTrips = new Map<number, number>();
  const done = new AbortController();
  let duplicates = 0;

  async function receive(): Promise<void> {
    const buffer = new Uint8Array(65536);
    for (;;) {
      const [data, from] = await socket.receive(buffer);
      const now = performance.now();
      if (options.trace) trace("<", formatAddress(from), data);
      const number = parseInt(new TextDecoder().decode(data));
      // Not from the server, or not one of the numbers that were sent.
      if (formatAddress(from) !== peer || !(number in sentAt)) continue;
      if (roundTrips.has(number)) duplicates++;
      else roundTrips.set(number, now - sentAt[number]);
      if (roundTrips.size === options.count) done.abort();
    }
  }

  const signal = options.signal ? AbortSignal.any([done.signal, options.signal]) : done.signal;
  const pause = (ms: number) => delay(ms, { signal }).catch(() => {});
  const receiving = receive().catch(() => {}); // it ends when the socket is closed
  for (let number = 0; number < options.count && !signal.aborted; number++) {
    const data = new TextEncoder().encode(`${number} ${message}`);
    if (options.trace) trace(">", peer, data);
    sentAt.push(performance.now());
    await socket.send(data, server);
    await pause(number < options.count - 1 ? options.interval : options.timeout);
  }
  socket.close();
  await receiving;
  const sorted = [...roundTrips.values()].sort((a, b) => a - b);
  return { sent: sentAt.length, duplicates, roundTrips: sorted };
}

/** The tally in lines to print: what was lost, how long it took, and a histogram. */
export function report({ sent, duplicates, roundTrips }: Tally): string[] {
  const lost = sent - roundTrips.length;
  const percent = (100 * lost / Math.max(1, sent)).toFixed(1);
  const lines = [`${sent} sent, ${lost} lost (${percent}%), ${duplicates} duplicates`];
  if (roundTrips.length === 0) return lines;
  // The nearest-rank percentile: the smallest value that so much of all is not above.
  const rank = (share: number) => roundTrips[Math.max(0, Math.ceil(share * roundTrips.length) - 1)];
  const [min, median, p99, max] = [0, 0.5, 0.99, 1].map(rank);
  const figures = [min, median, p99, max].map((ms) => ms.toFixed(3)).join("/");
  lines.push(`round trip min/median/p99/max ${figures} ms`);

  // Equal steps to the 99th percentile; the few above it, which may be far, count for the last.
  const BARS = 8;
  const width = (p99 - min) / BARS || 1;
  const counts = new Array(BARS).fill(0);
  for (const ms of roundTrips) counts[Math.min(BARS - 1, Math.floor((ms - min) / width))]++;
  const most = Math.max(...counts);
  for (const [i, count] of counts.entries()) {
    const from = (min + i * width).toFixed(3).padStart(10);
    lines.push(`${from} ms ${block(count / most * 30)} ${count || ""}`.trimEnd());
  }
  return lines;
}

/** A bar of so many columns, to the eighth of one. */
function block(columns: number): string {
  const eighths = Math.round(columns * 8);
  return "█".repeat(eighths >> 3) + ["", ..."▏▎▍▌▋▊▉"][eighths & 7];
}

if (import.meta.main) {
  const { host, port, timeout, trace } = clientFlags(PORT);
  await main({
    name: "udp_client",
    about: "Sends a datagram and prints the answer; with --count it is a ping.",
    usage: "[MESSAGE]",
    permissions: "--allow-net",
    flags: {
      host,
      port,
      timeout,
      trace,
      count: flag(
        "N",
        "send so many and tally the echoes; 0: one, and print it",
        number(0, 1e6),
        "0",
      ),
      interval: flag("S", "seconds between two of them", seconds, "1"),
    },
  }, async (flags, message = "Hello server!") => {
    if (flags.count === 0) {
      const again = (waited: number) =>
        console.error(`${flags.name}: no answer for ${waited / 1000} s, sending again`);
      const question = new TextEncoder().encode(message);
      const answer = await askDatagram(flags, question, { again });
      console.log(printable(new TextDecoder().decode(answer)));
      return 0;
    }
    const tally = await ping(flags, message, { ...flags, signal: stopSignal() });
    for (const line of report(tally)) console.log(line);
    return tally.roundTrips.length > 0 ? 0 : 1;
  });
}
