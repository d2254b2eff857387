#!/usr/bin/env -S deno run --allow-net
/**
 * A server to chat with one client at a time: it prints what the client says, and its operator
 * types the answers. When one client is gone the next has its turn.
 *
 *     deno run --allow-net scripts/chat_server.ts
 *     deno run --allow-net scripts/chat_client.ts
 *
 * Mirrors "Example of Server Socket" of tutorial 003:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `socket.socket()`, `bind()`, `listen()` | `listen()`: `Deno.listen()` |
 * | `conn, addr = server.accept()` | `serve()`: `listener.accept()`, `conn.remoteAddr` |
 * | `conn.recv(1024).decode()` | `conn.readMessage()`: `conn.read()`, and what makes a message |
 * | `if not data: break` | `null` |
 * | `input("type message: ")` | `terminal.readLine()` |
 * | `conn.send(data.encode())` | `conn.writeAll()`: `conn.write()` until all is sent |
 *
 * @module
 */
import { listen } from "../lib/address.ts";
import { flag, main, number, serverFlags, stopSignal, Terminal } from "../lib/cli.ts";
import { type FramedConn, printable } from "../lib/framing.ts";
import { serve } from "../lib/server.ts";

const PORT = 5001;

/** The operator's side of the conversation. */
export type Operator = {
  print: (line: string) => void;
  /** Resolves to the line typed, or to null if there will be none. */
  readLine: (prompt: string) => Promise<string | null>;
};

/** Makes the handler of connections: each message that comes is printed and then answered. */
export function chat(operator: Operator): (conn: FramedConn) => Promise<void> {
  // A line that nobody finished before the client left is for the next one.
  let typing: Promise<string | null> | undefined;
  const answer = () =>
    typing ??= operator.readLine("type message: ").finally(() => typing = undefined);

  return async (conn) => {
    operator.print(`Connection from: ${conn.peer}`);
    for (let next = conn.readMessage();;) {
      const message = await next;
      if (message === null) return;
      operator.print(` from client: ${printable(message.toUpperCase())}`);
      // While the operator types, the client may say more, or leave and let the next one in.
      next = conn.readMessage();
      const first = await Promise.race([next.then(() => undefined), answer()]);
      if (typeof first === "string") await conn.writeAll(first + "\n");
    }
  };
}

if (import.meta.main) {
  await main({
    name: "chat_server",
    about: "Chats with one client at a time.",
    permissions: "--allow-net",
    flags: {
      ...serverFlags(PORT),
      maxConnections: flag("N", "there is one operator", number(1, 1), "1"),
    },
  }, async (flags) => {
    const listener = await listen(flags);
    await serve(listener, chat(new Terminal()), { ...flags, signal: stopSignal() });
  });
}
