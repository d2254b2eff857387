#!/usr/bin/env -S deno run --allow-net
/**
 * A server that thanks whoever connects and hangs up.
 *
 *     deno run --allow-net scripts/thanks_server.ts
 *     deno run --allow-net scripts/thanks_client.ts
 *
 * Mirrors the server of tutorial 004, which describes it call by call:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `s = socket.socket()`, `s.bind(("", port))` | `listen()`: `Deno.listen({ hostname, port })` |
 * | `s.listen(5)` | the same call: `tcpBacklog: 5` |
 * | `c, addr = s.accept()` in a loop | `serve()`: `listener.accept()` |
 * | `c.send(b"Thank you for connecting")` | `conn.writeLine()`: `conn.write()` until all is sent |
 * | `c.close()` | `serve()`, when the handler returns |
 *
 * The empty host of the listing lets every machine in; this server is `127.0.0.1` until it is told
 * `--host 0.0.0.0`.
 *
 * @module
 */
import { listen } from "../lib/address.ts";
import { main, serverFlags, stopSignal } from "../lib/cli.ts";
import type { FramedConn } from "../lib/framing.ts";
import { serve } from "../lib/server.ts";

const PORT = 12345;

/**
 * "Five connections are kept waiting if the server is busy and if a sixth tries to connect then
 * it is refused", says the tutorial. Linux keeps one more than it is told, and refuses nobody: it
 * ignores the seventh, whose system goes on trying. `--max-connections 1` and a few `nc` show it.
 */
const BACKLOG = 5;

/** Thanks one client. */
export async function thank(conn: FramedConn): Promise<void> {
  await conn.writeLine("Thank you for connecting");
}

if (import.meta.main) {
  await main({
    name: "thanks_server",
    about: "Thanks whoever connects and hangs up.",
    permissions: "--allow-net",
    flags: serverFlags(PORT),
  }, async (flags) => {
    const listener = await listen({ ...flags, backlog: BACKLOG });
    await serve(listener, thank, { ...flags, signal: stopSignal() });
  });
}
