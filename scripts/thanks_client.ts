#!/usr/bin/env -S deno run --allow-net
/**
 * A client that connects, prints what the server has to say, and closes.
 *
 *     deno run --allow-net scripts/thanks_server.ts
 *     deno run --allow-net scripts/thanks_client.ts
 *
 * Mirrors the client of tutorial 004, which describes it call by call:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `s = socket.socket()`, `s.connect(("127.0.0.1", port))` | `connect()`: `Deno.connect()` |
 * | `s.recv(1024)`, once | `conn.readToEnd()`: `conn.read()` until it returns null |
 * | `s.close()` | `using`: `conn.close()` |
 *
 * @module
 */
import { connect } from "../lib/address.ts";
import { clientFlags, main } from "../lib/cli.ts";
import { FramedConn, printable } from "../lib/framing.ts";

const PORT = 12345;
const MAX_ANSWER = 1024; // octets

/** Reads what the server says until it hangs up. */
export async function receive(conn: FramedConn): Promise<string> {
  const answer = await conn.readToEnd(MAX_ANSWER);
  if (answer.length === 0) throw new Error(`${conn.peer}: hung up without an answer`);
  return new TextDecoder().decode(answer).trimEnd();
}

if (import.meta.main) {
  await main({
    name: "thanks_client",
    about: "Connects and prints what the server has to say.",
    permissions: "--allow-net",
    flags: clientFlags(PORT),
  }, async (flags) => {
    using conn = new FramedConn(await connect(flags), flags);
    console.log(printable(await receive(conn)));
  });
}
