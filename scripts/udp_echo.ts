#!/usr/bin/env -S deno run --allow-net
/**
 * An echo server for UDP (RFC 862): every datagram goes back to where it came from.
 *
 *     deno run --allow-net scripts/udp_echo.ts
 *     deno run --allow-net scripts/udp_client.ts "hello"
 *
 * Mirrors "Socket Programming with UDP", server, of tutorial 001, which lists the calls:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `socket(AF_INET, SOCK_DGRAM)`, `bind()` | `listenDatagrams()`: `Deno.listenDatagram()` |
 * | `data, addr = s.recvfrom(65535)` | `serveDatagrams()`: `socket.receive(buffer)` |
 * | `s.sendto(data, addr)` | `serveDatagrams()`: `socket.send(data, addr)` |
 *
 * @module
 */
import { listenDatagrams } from "../lib/address.ts";
import { main, serverFlags, stopSignal } from "../lib/cli.ts";
import { serveDatagrams } from "../lib/server.ts";

const PORT = 8007; // 7 is the assigned one

/** Answers a datagram with itself, be it empty or of 65,507 octets, which is all UDP can hold. */
export function echo(data: Uint8Array): Uint8Array {
  return data;
}

if (import.meta.main) {
  const { host, port, allowFrom, trace } = serverFlags(PORT);
  await main({
    name: "udp_echo",
    about: "Sends every datagram back (RFC 862).",
    permissions: "--allow-net",
    flags: { host, port, allowFrom, trace },
  }, async (flags) => {
    await serveDatagrams(await listenDatagrams(flags), echo, { ...flags, signal: stopSignal() });
  });
}
