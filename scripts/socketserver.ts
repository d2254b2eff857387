#!/usr/bin/env -S deno run --allow-net
/**
 * The four servers of Python's `socketserver`, TCP and UDP, each also over a Unix domain socket,
 * with one handler for all: it prints what a client wrote and answers, with what the operator
 * types or with the client's own words in capitals.
 *
 *     deno run --allow-net scripts/socketserver.ts
 *     deno run --allow-net scripts/socketserver_client.ts
 *
 * Mirrors "The Python socketserver Module", server code, of tutorial 003:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `MyTCPHandler.handle()` | `handleConnection()`, `handleDatagram()` |
 * | `self.request.recv(1024).strip()` | `conn.readMessage()`, `.trim()` |
 * | `self.client_address` | `conn.peer`: `conn.remoteAddr` |
 * | `input("enter text .. ")` | `terminal.readLine()` |
 * | `self.request.sendall(msg.encode())` | `conn.writeAll()`: `conn.write()` until all is sent |
 * | `TCPServer((HOST, PORT), MyTCPHandler)`, `UnixStreamServer` | `listen()`: `Deno.listen()` |
 * | `UDPServer`, `UnixDatagramServer` | `listenDatagrams()`: `Deno.listenDatagram()` |
 * | `server.serve_forever()` | `serve()`, `serveDatagrams()` |
 *
 * @module
 */
import { formatAddress, listen, listenDatagrams, UsageError } from "../lib/address.ts";
import { flag, main, oneOf, serverFlags, stopSignal, Terminal } from "../lib/cli.ts";
import { type FramedConn, printable } from "../lib/framing.ts";
import { serve, serveDatagrams } from "../lib/server.ts";

const PORT = 9999;
const TRANSPORTS = ["tcp", "udp", "unix", "unixpacket"] as const;
const REPLY = Deno.stdin.isTerminal() ? "prompt" : "upper";

/** Takes what a client wrote and gives the answer; undefined: none. */
export type Respond = (text: string, client: string) => Promise<string | undefined>;

/**
 * What both handlers do between receiving and sending: print the text, and answer what `reply`
 * makes of it. One request at a time, as in the listing's server.
 */
export function responder(
  print: (line: string) => void,
  reply: (text: string) => string | Promise<string | null>,
): Respond {
  let before: Promise<unknown> = Promise.resolve();
  return (text, client) => {
    const answer = before.then(async () => {
      print(`${client} wrote:`);
      print(printable(text.trim()));
      return await reply(text.trim()) ?? undefined;
    });
    before = answer.catch(() => {});
    return answer;
  };
}

/** `handle()` for TCP and Unix stream sockets: one message, one answer. */
export async function handleConnection(respond: Respond, conn: FramedConn): Promise<void> {
  const text = await conn.readMessage();
  const answer = text === null ? undefined : await respond(text, conn.peer);
  if (answer !== undefined) await conn.writeAll(answer);
}

/** `handle()` for UDP and Unix datagram sockets, which Deno calls `unixpacket`. */
export async function handleDatagram(
  respond: Respond,
  data: Uint8Array,
  from: Deno.Addr,
): Promise<Uint8Array | undefined> {
  const answer = await respond(new TextDecoder().decode(data), formatAddress(from));
  return answer === undefined ? undefined : new TextEncoder().encode(answer);
}

/**
 * The text in capitals, or only its ASCII letters if the capitals of the others take more octets: a
 * datagram's answer must not outgrow it, or a forged sender's address makes the server a weapon.
 */
export function upper(text: string): string {
  const size = (text: string) => new TextEncoder().encode(text).length;
  const capitals = text.toUpperCase();
  if (size(capitals) <= size(text)) return capitals;
  return text.replace(/[a-z]/g, (letter) => letter.toUpperCase());
}

if (import.meta.main) {
  await main({
    name: "socketserver",
    about: "Prints what clients write and answers, over TCP, UDP or Unix sockets.",
    permissions: "--allow-net",
    flags: {
      ...serverFlags(PORT),
      transport: flag("KIND", "tcp, udp, unix, unixpacket", oneOf(...TRANSPORTS), "tcp"),
      reply: flag(
        "HOW",
        "prompt (by hand) or upper (in capitals)",
        oneOf("prompt", "upper"),
        REPLY,
      ),
    },
  }, async (flags) => {
    const { transport, unix } = flags;
    if (transport.startsWith("unix") && !unix) {
      throw new UsageError(`${transport} needs --unix PATH`);
    }
    const terminal = flags.reply === "prompt" ? new Terminal() : undefined;
    // A line of the log must not get into the one being typed.
    const log = terminal?.interactive ? terminal.print.bind(terminal) : undefined;
    const respond = responder(
      (line) => terminal ? terminal.print(line) : console.log(line),
      (text) => terminal ? terminal.readLine("enter text .. ") : upper(text),
    );
    const options = { ...flags, signal: stopSignal(), log };
    if (transport === "tcp" || transport === "unix") {
      const listener = await listen(flags);
      await serve(listener, (conn) => handleConnection(respond, conn), options);
    } else {
      const socket = await listenDatagrams(flags);
      await serveDatagrams(socket, (data, from) => handleDatagram(respond, data, from), options);
    }
  });
}
