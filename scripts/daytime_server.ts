#!/usr/bin/env -S deno run --allow-net
/**
 * A daytime server (RFC 867): over TCP and over UDP it says what day and time it is, and that is
 * all.
 *
 *     deno run --allow-net scripts/daytime_server.ts
 *     nc 127.0.0.1 8013
 *
 * Mirrors "A daytime server" of tutorial 000, which describes it without a listing:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `socket()`, `bind()`, `listen()` | `listen()`: `Deno.listen()` |
 * | `accept()` in a loop | `serve()`: `listener.accept()` |
 * | `conn.sendall(...)` | `conn.writeAll()`: `conn.write()` until all is sent |
 * | `conn.close()` | `serve()`, when the handler returns |
 * | `socket(type=SOCK_DGRAM)`, `bind()` | `listenDatagrams()`: `Deno.listenDatagram()` |
 * | `recvfrom()`, `sendto()` | `serveDatagrams()`: `socket.receive()`, `socket.send()` |
 *
 * @module
 */
import { listen, listenDatagrams } from "../lib/address.ts";
import { main, serverFlags, stopSignal } from "../lib/cli.ts";
import type { FramedConn } from "../lib/framing.ts";
import { serve, serveDatagrams } from "../lib/server.ts";

const PORT = 8013; // 13 is the assigned one

const format = new Intl.DateTimeFormat("en-US", {
  weekday: "long",
  month: "long",
  day: "numeric",
  year: "numeric",
  hour: "2-digit",
  minute: "2-digit",
  second: "2-digit",
  hourCycle: "h23",
  timeZoneName: "short",
});

/** The line that is sent, as in the RFC's `Tuesday, February 22, 1982 17:37:43-PST`. */
export function daytime(now = new Date()): string {
  const part = Object.fromEntries(format.formatToParts(now).map((p) => [p.type, p.value]));
  const { weekday, month, day, year, hour, minute, second, timeZoneName } = part;
  return `${weekday}, ${month} ${day}, ${year} ${hour}:${minute}:${second}-${timeZoneName}\r\n`;
}

/** TCP: what the client sends is thrown away, the connection closed after the line. */
export async function answerConnection(conn: FramedConn): Promise<void> {
  await conn.writeAll(daytime());
}

/** UDP: a datagram with the line for each that arrives. */
export function answerDatagram(): Uint8Array {
  return new TextEncoder().encode(daytime());
}

if (import.meta.main) {
  await main({
    name: "daytime_server",
    about: "Says what day and time it is, over TCP and UDP (RFC 867).",
    permissions: "--allow-net",
    flags: serverFlags(PORT),
  }, async (flags) => {
    const options = { ...flags, signal: stopSignal() };
    const listener = await listen(flags);
    const servers = [serve(listener, answerConnection, options)];
    if (listener.addr.transport === "tcp" && !flags.cert) {
      const socket = await listenDatagrams({ ...flags, port: listener.addr.port });
      servers.push(serveDatagrams(socket, answerDatagram, options));
    }
    await Promise.all(servers);
  });
}
