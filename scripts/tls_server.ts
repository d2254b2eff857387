#!/usr/bin/env -S deno run --allow-net
/**
 * A TLS server: answers each line in capitals, like the upper-casing servers before it, only that
 * nobody on the way can read or change it. Without a certificate of yours it makes one for this run
 * and prints it on stdout, for the client to trust:
 *
 *     deno run --allow-net scripts/tls_server.ts > tls.pem
 *     deno run --allow-net --allow-read scripts/tls_client.ts --ca tls.pem
 *
 * Mirrors "TLS/SSL" of tutorial 002 and "Security" of tutorial 000, which name it without a listing:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `ssl.SSLContext(PROTOCOL_TLS_SERVER)`, `load_cert_chain(cert, key)` | `Deno.listenTls({ cert, key })` |
 * | `socket()`, `bind()`, `listen()` | the same call, here in `listen()` |
 * | `context.wrap_socket(sock, server_side=True)` | `listener.accept()`; the handshake comes with the first read |
 * | `recv()` until there is a line | `conn.readLine()`: `conn.read()` |
 * | `sendall(line.upper())` | `conn.writeAll()`: `conn.write()` until all is sent |
 * | `unwrap()`, `close()` | `serve()`, when the handler returns: `conn.closeWrite()`, `conn.close()` |
 *
 * A client that hangs in the handshake, or sends something else, keeps no other waiting: as Deno
 * accepts before the handshake, that is part of each client's own conversation. In Python a listener
 * that is wrapped has it inside `accept()`, where one silent client stops them all.
 *
 * @module
 */
import { listen } from "../lib/address.ts";
import { main, serverFlags, stopSignal } from "../lib/cli.ts";
import type { FramedConn } from "../lib/framing.ts";
import { serve } from "../lib/server.ts";

const PORT = 8443;

/** Answers each line in capitals, until the client ends; an over-long one ends it, too. */
export async function answerLines(conn: FramedConn): Promise<void> {
  for (let line; (line = await conn.readLine()) !== null;) {
    await conn.writeAll(line.toUpperCase() + "\r\n");
  }
}

if (import.meta.main) {
  const { unix: _, ...flags } = serverFlags(PORT); // TLS does not go with it
  await main({
    name: "tls_server",
    about: "Answers each line in capitals, over TLS.",
    permissions: "--allow-net",
    flags,
  }, async (flags) => {
    const options = { ...flags, signal: stopSignal() };
    if (flags.cert || flags.key) return await serve(await listen(flags), answerLines, options);

    // Loaded only if it is needed: it takes longer than all the rest.
    const { makeCertificate } = await import("../lib/certificate.ts");
    const names = new Set(["localhost", "127.0.0.1", "::1", flags.host]);
    const made = await makeCertificate([...names]);
    const listener = await listen({ ...flags, ...made });
    console.log(made.cert.trimEnd());
    console.error(`${flags.name}: made a certificate, SHA-256 ${made.fingerprint}`);
    console.error(`${flags.name}: it is on stdout; a client trusts it with --ca FILE`);
    await serve(listener, answerLines, options);
  });
}
