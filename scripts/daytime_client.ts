#!/usr/bin/env -S deno run --allow-net
/**
 * A daytime client (RFC 867): asks a server what day and time it is and prints the answer.
 *
 *     deno run --allow-net scripts/daytime_server.ts
 *     deno run --allow-net scripts/daytime_client.ts
 *
 * Mirrors the client that tutorial 000 describes step by step:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `socket()`, `connect((host, port))` | `connect()`: `Deno.connect()` |
 * | `recv(1024)` until it returns `b""` | `conn.readToEnd()`: `conn.read()` until it returns null |
 * | `close()` | `using`: `conn.close()` |
 * | `sendto(b"", address)`, `recvfrom(1024)` | `askDatagram()`: `socket.send()`, `socket.receive()` |
 *
 * @module
 */
import { connect } from "../lib/address.ts";
import { clientFlags, main, toggle } from "../lib/cli.ts";
import { askDatagram, FramedConn, printable } from "../lib/framing.ts";

const PORT = 8013; // 13 is the assigned one
const MAX_ANSWER = 1024; // octets; the RFC asks for one line

/** Makes text of the answer, a line that may come without its CRLF. */
function decode(answer: Uint8Array): string {
  return new TextDecoder().decode(answer).trimEnd();
}

/** TCP: the server answers a connection, without a question. */
export async function ask(conn: FramedConn): Promise<string> {
  const answer = await conn.readToEnd(MAX_ANSWER);
  if (answer.length === 0) throw new Error(`${conn.peer}: hung up without an answer`);
  return decode(answer);
}

if (import.meta.main) {
  await main({
    name: "daytime_client",
    about: "Asks what day and time it is (RFC 867).",
    permissions: "--allow-net",
    flags: { ...clientFlags(PORT), udp: toggle("ask with a datagram") },
  }, async (flags) => {
    if (flags.udp) {
      // Any datagram is a question, an empty one too.
      console.log(printable(decode(await askDatagram(flags, new Uint8Array()))));
    } else {
      using conn = new FramedConn(await connect(flags), flags);
      console.log(printable(await ask(conn)));
    }
  });
}
