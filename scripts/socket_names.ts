#!/usr/bin/env -S deno run --allow-net
/**
 * The names that sockets have: connects to itself, or to HOST and PORT, and says what
 * `getsockname()` and `getpeername()` return at each end, and why.
 *
 *     deno run --allow-net scripts/socket_names.ts
 *     deno run --allow-net scripts/socket_names.ts 127.0.0.1 8013
 *
 * Mirrors "Socket Names" of tutorial 002, which lists the calls that take or return one:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `listener.bind((host, 0))` | `listen()`: `Deno.listen({ hostname, port: 0 })` |
 * | `listener.getsockname()` | `listener.addr` |
 * | `conn.connect((host, port))` | `connect()`: `Deno.connect({ hostname, port })` |
 * | `conn, address = listener.accept()` | `await listener.accept()`, its `remoteAddr` |
 * | `conn.getsockname()` | `conn.localAddr` |
 * | `conn.getpeername()` | `conn.remoteAddr` |
 * | `sock.bind((host, 0))`, `sock.getsockname()` | `listenDatagrams()`: `Deno.listenDatagram()`, `socket.addr` |
 * | `sock.sendto(data, address)` | `socket.send(data, address)` |
 * | `data, address = sock.recvfrom(1024)` | `await socket.receive()` |
 *
 * @module
 */
import {
  connect,
  type Endpoint,
  formatAddress,
  listen,
  listenDatagrams,
  UsageError,
} from "../lib/address.ts";
import { clientFlags, main, serverFlags } from "../lib/cli.ts";
import { printable } from "../lib/framing.ts";

const TIMEOUT = 10_000; // milliseconds to connect

/** A socket's names in lines: of each call what it returns, and why. */
function layOut(socket: string, ...calls: [call: string, name: Deno.Addr | string, why: string][]) {
  const lines = calls.flatMap(([call, name, why]) => [
    `  ${call.padEnd(14)} ${typeof name === "string" ? name : formatAddress(name)}`,
    `      ${why}`,
  ]);
  return [socket, ...lines, ""];
}

/** Listens at `endpoint`, connects to it, and lays out the names of all three sockets in lines. */
export async function connectionNames(endpoint: Endpoint): Promise<string[]> {
  using listener = await listen(endpoint);
  const { addr } = listener;
  const to = "hostname" in addr ? { host: addr.hostname, port: addr.port } : {};
  using client = await connect({ ...endpoint, ...to, timeout: TIMEOUT });
  using server = await listener.accept();
  const [bound, unbound, ...together] = "path" in addr
    ? [
      "the file that bind() made",
      "none: it called no bind(), and is answered without a name",
      "The client has no name, so it is not by names that two connections are told apart.",
    ]
    : [
      endpoint.port > 0 ? "as bind() was told" : "bind() was told 0, any port: the kernel chose",
      "it called no bind(): connect() chose the address, and an ephemeral port",
      "The two ends mirror each other. Together the four, two addresses and two ports, name the",
      "connection: any other differs in at least one of them.",
    ];
  return [
    ...layOut(
      "The listener",
      ["getsockname()", addr, bound],
      ["getpeername()", "none", "it only accepts: each connection is a socket of its own"],
    ),
    ...layOut(
      "The client's end",
      ["getsockname()", client.localAddr, unbound],
      ["getpeername()", client.remoteAddr, "where connect() went, to the listener"],
    ),
    ...layOut(
      "The server's end, which accept() returned",
      ["getsockname()", server.localAddr, "no port or file of its own: it shares the listener's"],
      ["getpeername()", server.remoteAddr, "the client's, which accept() returned, too"],
    ),
    ...together,
  ];
}

/** Connects to `endpoint` and lays out this end's names, and the other's as far as it is known. */
export async function peerNames(endpoint: Endpoint): Promise<string[]> {
  using conn = await connect({ ...endpoint, timeout: TIMEOUT });
  return [
    ...layOut(
      "This end",
      ["getsockname()", conn.localAddr, "connect() chose the address, and an ephemeral port"],
      ["getpeername()", conn.remoteAddr, "where connect() went: an address, whatever name it has"],
    ),
    ...layOut(
      "The other end, unless addresses are translated on the way (NAT)",
      ["getsockname()", conn.remoteAddr, "if addresses are translated at its side, it has another"],
      [
        "getpeername()",
        conn.localAddr,
        "if they are at ours, it sees another, and another port",
      ],
    ),
  ];
}

/** Binds a UDP socket at `host`, sends it a datagram from another, and lays out its names. */
export async function datagramNames(host: string): Promise<string[]> {
  using sockets = new DisposableStack();
  const bind = async () =>
    sockets.adopt(await listenDatagrams({ host, port: 0 }), (socket) => socket.close());
  const [receiver, sender] = [await bind(), await bind()];
  await sender.send(new Uint8Array(), receiver.addr);
  const [, from] = await receiver.receive();
  return layOut(
    "A UDP socket",
    ["getsockname()", receiver.addr, "as bind() was told, and a port that the kernel chose"],
    ["getpeername()", "none", "it is not connected: anybody may send to it"],
    ["sendto()", receiver.addr, "the address that a sender gives with each datagram"],
    ["recvfrom()", from, "the sender's, told with each datagram, to send an answer to"],
  );
}

if (import.meta.main) {
  const { host, port, unix } = serverFlags(0);
  await main({
    name: "socket_names",
    about: "Says how sockets are named, at the ends of a connection to HOST PORT or to itself.",
    usage: "[HOST] [PORT]",
    permissions: "--allow-net",
    flags: { host, port, unix },
  }, async (flags, peerHost, peerPort) => {
    if (peerHost && !/^\d+$/.test(peerPort ?? "")) {
      throw new UsageError("HOST and PORT go together, as in 127.0.0.1 8013");
    }
    if (peerHost && flags.unix) throw new UsageError("--unix does not go with HOST and PORT");
    const client = clientFlags(1);
    let lines: string[];
    if (peerHost) {
      const [host, port] = [client.host.parse([peerHost]), client.port.parse([peerPort])];
      lines = await peerNames({ host, port });
    } else {
      lines = [...await connectionNames(flags), ""];
      if (!flags.unix) lines.push(...await datagramNames(flags.host));
    }
    console.log(lines.map(printable).join("\n").trimEnd());
  });
}
