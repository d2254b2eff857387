#!/usr/bin/env -S deno run --allow-net
/**
 * A client for `socketserver.ts`: for each line that is typed a new connection (or a datagram),
 * the line sent and the answer printed.
 *
 *     deno run --allow-net scripts/socketserver.ts
 *     deno run --allow-net scripts/socketserver_client.ts
 *
 * Mirrors "The Python socketserver Module", client code, of tutorial 003:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `input("enter text .. .")` | `terminal.readLine()` |
 * | `with socket.socket(AF_INET, SOCK_STREAM)`, `connect()` | `using`, `connect()`: `Deno.connect()` |
 * | `sock.sendall(bytes(data + "\n", "utf-8"))` | `conn.writeAll()`: `conn.write()` until all is sent |
 * | `sock.recv(1024)`, once | `conn.readToEnd()`: `conn.read()` until it returns null |
 * | `SOCK_DGRAM`, `sendto()`, `recvfrom()` | `askDatagram()`: `socket.send()`, `socket.receive()` |
 *
 * The listing connects before it asks for a line; here the line comes first, as a server need not
 * wait while somebody thinks.
 *
 * @module
 */
import { connect, type Endpoint, UsageError } from "../lib/address.ts";
import { clientFlags, flag, main, oneOf, Terminal } from "../lib/cli.ts";
import { askDatagram, FramedConn, type FramedConnOptions, printable } from "../lib/framing.ts";

const PORT = 9999;
const TRANSPORTS = ["tcp", "udp", "unix", "unixpacket"] as const;
const MAX_ANSWER = 1024 * 1024; // octets

/** Sends a line over a connection of its own and returns the answer. */
export async function askConnection(
  endpoint: Endpoint & FramedConnOptions,
  line: string,
): Promise<string> {
  using conn = new FramedConn(await connect(endpoint), endpoint);
  await conn.writeAll(line + "\n");
  return new TextDecoder().decode(await conn.readToEnd(MAX_ANSWER));
}

/** Sends a line as a datagram, once, as the server acts on each, and returns the answer. */
export async function askByDatagram(
  endpoint: Endpoint & FramedConnOptions,
  line: string,
): Promise<string> {
  const question = new TextEncoder().encode(line + "\n");
  return new TextDecoder().decode(await askDatagram(endpoint, question, { retry: false }));
}

if (import.meta.main) {
  await main({
    name: "socketserver_client",
    about: "Sends each line to the server and prints its answer.",
    permissions: "--allow-net",
    flags: {
      ...clientFlags(PORT),
      transport: flag("KIND", "tcp, udp, unix, unixpacket", oneOf(...TRANSPORTS), "tcp"),
    },
  }, async (flags) => {
    const { transport, unix } = flags;
    if (transport.startsWith("unix") && !unix) {
      throw new UsageError(`${transport} needs --unix PATH`);
    }
    const ask = transport === "tcp" || transport === "unix" ? askConnection : askByDatagram;
    const terminal = new Terminal();
    for (let line; (line = await terminal.readLine("enter text .. .")) !== null;) {
      const answer = await ask(flags, line);
      terminal.print(`Sent: ${printable(line)}`);
      terminal.print(`Received: ${printable(answer)}`);
    }
    terminal.close();
  });
}
