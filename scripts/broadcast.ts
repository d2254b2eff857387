#!/usr/bin/env -S deno run --allow-net
/**
 * Broadcast: one datagram that every machine of a network gets, sent and listened for.
 *
 *     deno run --allow-net scripts/broadcast.ts listen
 *     deno run --allow-net scripts/broadcast.ts send --to 127.255.255.255 "hello"
 *
 * Mirrors "Broadcast and Multicast" of tutorial 001, which has no listing; the book of tutorial 002
 * has one in its chapter on UDP:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `sock = socket(AF_INET, SOCK_DGRAM)`, `sock.bind(("", 1060))` | `listenDatagrams()`: `Deno.listenDatagram()` |
 * | `data, address = sock.recvfrom(65535)` | `serveDatagrams()`: `socket.receive()` |
 * | `sock.setsockopt(SOL_SOCKET, SO_BROADCAST, 1)` | nothing, it is on for every UDP socket |
 * | `sock.sendto(text.encode(), ("<broadcast>", 1060))` | `socket.send()` to `255.255.255.255` |
 *
 * 255.255.255.255 is the network that the default route leads through, and no router passes it on.
 * 127.255.255.255 stays on this machine. To hear what a network sends, a socket is bound to its
 * broadcast address or to all (`--host 0.0.0.0`), never to one of the machine's own addresses.
 *
 * @module
 */
import { isIPv4 } from "node:net";
import { formatAddress, listenDatagrams, named, UsageError } from "../lib/address.ts";
import { flag, main, number, oneOf, serverFlags, stopSignal } from "../lib/cli.ts";
import { printable, trace } from "../lib/framing.ts";
import { serveDatagrams } from "../lib/server.ts";

const PORT = 1060;
const LOOPBACK_BROADCAST = "127.255.255.255";

/**
 * Sends one datagram, and returns how many octets it has. That it was sent is all there is to know.
 *
 * @throws the system's error, named after the address, if there is no way there or the text is
 * longer than a datagram.
 */
export async function send(
  message: string,
  { to, port, trace: tracing }: { to: string; port: number; trace?: boolean },
): Promise<number> {
  const data = new TextEncoder().encode(message);
  const address = { transport: "udp", hostname: to, port } as const;
  const socket = await listenDatagrams({ host: "0.0.0.0", port: 0 });
  try {
    if (tracing) trace(">", formatAddress(address), data);
    return await socket.send(data, address);
  } catch (error) {
    throw named(formatAddress(address), error);
  } finally {
    socket.close();
  }
}

/** Prints who sent a datagram, and its text; there is no answer. */
function print(data: Uint8Array, from: Deno.Addr): undefined {
  console.log(`${formatAddress(from)}: ${printable(new TextDecoder().decode(data))}`);
}

const ipv4 = (text: string) => {
  if (isIPv4(text)) return text;
  throw new UsageError(`${text} is not an IPv4 address (IPv6 has no broadcast)`);
};

if (import.meta.main) {
  const { host, allowFrom, trace } = serverFlags(PORT);
  await main({
    name: "broadcast",
    about: "listen prints what is sent to all of a network, send MESSAGE sends to all of it.",
    usage: "COMMAND [MESSAGE]",
    permissions: "--allow-net",
    flags: {
      host: flag("H", "listen: address to bind", (text) => host.parse([text]), LOOPBACK_BROADCAST),
      port: flag("N", "port, to listen 0 for a free one", number(0, 65535), `${PORT}`),
      to: flag("ADDRESS", "send: the network's broadcast address", ipv4, "255.255.255.255"),
      allowFrom: { ...allowFrom, help: "listen: to these addresses only; may be repeated (all)" },
      trace,
    },
  }, async (flags, command, message?: string) => {
    if (oneOf("listen", "send")(command) === "listen") {
      if (message !== undefined) throw new UsageError("listen takes no MESSAGE");
      const socket = await listenDatagrams(flags);
      return await serveDatagrams(socket, print, { ...flags, signal: stopSignal() });
    }
    if (message === undefined) throw new UsageError("send needs a MESSAGE");
    if (flags.port === 0) throw new UsageError("--port: nobody listens at 0");
    const size = await send(message, flags);
    console.error(`${flags.name}: ${size} bytes sent to ${flags.to}:${flags.port}`);
  });
}
