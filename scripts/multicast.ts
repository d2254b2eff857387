#!/usr/bin/env -S deno run --allow-net
/**
 * Multicast (RFC 1112, RFC 4291 2.7): one datagram that all who have joined a group get, however
 * many listen, on this machine and on others.
 *
 *     deno run --allow-net scripts/multicast.ts listen
 *     deno run --allow-net scripts/multicast.ts send "hello"
 *
 * Mirrors "Broadcast and Multicast" of tutorial 001, which has no listing. In Python these are
 * options of the socket:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `setsockopt(SO_REUSEADDR)`, `bind((group, 5007))` | `Deno.listenDatagram({ hostname: group, reuseAddress: true })` |
 * | `IP_ADD_MEMBERSHIP` | `socket.joinMulticastV4(group, address)` |
 * | `IPV6_JOIN_GROUP`, `if_nametoindex("eth0")` | `socket.joinMulticastV6(group, number)` |
 * | `IP_MULTICAST_IF` | `hostname: address`: it goes out by the interface whose address is bound |
 * | `IPV6_MULTICAST_IF` | `hostname: "ff02::1%2"`: this binds to interface 2 |
 * | `IP_MULTICAST_TTL` | `membership.setTTL()`, which whoever sends must join for |
 * | `IPV6_MULTICAST_HOPS` | none, it is 1 |
 * | `IP_MULTICAST_LOOP` | `membership.setLoopback()`; on in Python, off in Deno |
 *
 * A datagram leaves this machine only by `--interface`, which is the loopback one unless told
 * otherwise, and passes as many routers as its TTL says, less one; with 0 it stays here on any
 * interface. 239.0.0.0/8 is for everybody's own use (RFC 2365). Linux's loopback interface takes
 * no IPv6 multicast until it has a route (`ip -6 route add local ff00::/8 dev lo`).
 *
 * @module
 */
import { isIPv4, isIPv6 } from "node:net";
import { formatAddress, named, UsageError } from "../lib/address.ts";
import { flag, main, number, oneOf, serverFlags, stopSignal } from "../lib/cli.ts";
import { printable, trace } from "../lib/framing.ts";
import { serveDatagrams } from "../lib/server.ts";

const PORT = 5007;
const GROUP = "239.255.50.7";
const TTL = 1; // RFC 1112 6.1: unless told otherwise it is 1

/** A group, and the interface of this machine where it is. */
export type Group = {
  group: string; // a multicast address
  port: number;
  interface: string; // its address, or for IPv6 its number
};

/** Binds a socket, and makes it a member of the group. */
async function join(
  to: Group,
  hostname: string,
  port: number,
  ttl = TTL,
): Promise<Deno.DatagramConn> {
  const { group, interface: via } = to;
  let socket: Deno.DatagramConn | undefined;
  try {
    socket = Deno.listenDatagram({ transport: "udp", hostname, port, reuseAddress: true });
    if (isIPv6(group)) {
      const membership = await socket.joinMulticastV6(group, Number(via));
      await membership.setLoopback(true);
    } else {
      const membership = await socket.joinMulticastV4(group, via);
      await membership.setLoopback(true);
      await membership.setTTL(ttl);
    }
    return socket;
  } catch (error) {
    socket?.close();
    throw named(`${format(to)} on interface ${via}`, error);
  }
}

/**
 * Joins a group to listen, beside all others on this machine who do. Bound to the group and not to
 * all addresses, the socket gets nothing else that comes to the port.
 *
 * @throws the system's error, named after the group, if there is no such interface.
 */
export async function joinGroup(to: Group): Promise<Deno.DatagramConn> {
  // The interface goes with an address that many interfaces may have, such as ff02::1.
  const hostname = isIPv6(to.group) ? `${to.group}%${to.interface}` : to.group;
  return await join(to, hostname, to.port);
}

/**
 * Sends one datagram, and returns how many octets it has. That it was sent is all there is to know.
 *
 * @throws the system's error, named after the group, if there is no such interface, no way there
 * by it, or if the text is longer than a datagram.
 */
export async function send(
  message: string,
  to: Group & { ttl?: number; trace?: boolean },
): Promise<number> {
  const data = new TextEncoder().encode(message);
  const hostname = isIPv6(to.group) ? `ff02::1%${to.interface}` : to.interface;
  const socket = await join(to, hostname, 0, to.ttl);
  try {
    if (to.trace) trace(">", format(to), data);
    return await socket.send(data, { transport: "udp", hostname: to.group, port: to.port });
  } catch (error) {
    throw named(format(to), error);
  } finally {
    socket.close();
  }
}

function format({ group: hostname, port }: Group): string {
  return formatAddress({ transport: "udp", hostname, port });
}

/** Prints who sent a datagram, and its text; there is no answer. */
function print(data: Uint8Array, from: Deno.Addr): undefined {
  console.log(`${formatAddress(from)}: ${printable(new TextDecoder().decode(data))}`);
}

const multicast = (text: string) => {
  if (isIPv4(text) && /^2(2[4-9]|3\d)\./.test(text)) return text;
  if (isIPv6(text) && /^ff[\da-f]{2}:[^%]+$/i.test(text)) return text;
  throw new UsageError(`${text} is not a multicast address (224.0.0.0/4, ff00::/8)`);
};

if (import.meta.main) {
  const { allowFrom, trace } = serverFlags(PORT);
  await main({
    name: "multicast",
    about: "listen joins a group and prints what is sent to it, send MESSAGE sends to a group.",
    usage: "COMMAND [MESSAGE]",
    permissions: "--allow-net",
    flags: {
      group: flag("ADDRESS", "a multicast address, IPv4 or IPv6", multicast, GROUP),
      port: flag("N", "port, to listen 0 for a free one", number(0, 65535), `${PORT}`),
      interface: flag("I", "the one to use: its address, for IPv6 its number", String, "127.0.0.1"),
      ttl: {
        argument: "N",
        help: `send: so many networks, 0 for this machine alone (${TTL})`,
        parse: (given) => given.length > 0 ? number(0, 255)(given.at(-1) ?? "") : undefined,
      },
      allowFrom: { ...allowFrom, help: "listen: to these addresses only; may be repeated (all)" },
      trace,
    },
  }, async (flags, command, message?: string) => {
    const { group, interface: via, ttl } = flags;
    const action = oneOf("listen", "send")(command);
    if (isIPv4(group) && !isIPv4(via)) {
      throw new UsageError(`--interface: ${via} is not an IPv4 address`);
    }
    if (isIPv6(group) && !/^[1-9]\d*$/.test(via)) {
      throw new UsageError(`--interface: ${via} is not a number, as IPv6 needs (see ip link)`);
    }
    if (isIPv6(group) && ttl !== undefined) {
      throw new UsageError("--ttl: for IPv6 it is always 1, as Deno cannot set it");
    }
    if (action === "listen") {
      if (message !== undefined) throw new UsageError("listen takes no MESSAGE");
      const socket = await joinGroup(flags);
      return await serveDatagrams(socket, print, { ...flags, signal: stopSignal() });
    }
    if (message === undefined) throw new UsageError("send needs a MESSAGE");
    if (flags.port === 0) throw new UsageError("--port: nobody listens at 0");
    const size = await send(message, flags);
    console.error(`${flags.name}: ${size} bytes sent to ${format(flags)}`);
  });
}
