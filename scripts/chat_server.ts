#!/usr/bin/env -S deno run --allow-net
/**
 * A server to chat with one client at a time: it prints what the client says, and its operator
 * types the answers. When one client is gone the next has its turn. Unlike the listing's, both
 * sides may say more than one thing before the other answers.
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

/** Makes the handler of connections: the operator reads what the client says, and answers. */
export function chat(
  operator: Pick<Terminal, "interactive" | "print" | "readLine">,
): (conn: FramedConn) => Promise<void> {
  let client: FramedConn | undefined;
  let speaking: Promise<void> | undefined;
  let unanswered = 0;
  let heard = () => {};

  async function hear(conn: FramedConn): Promise<void> {
    for (let message; (message = await conn.readMessage()) !== null;) {
      operator.print(` from client: ${printable(message.toUpperCase())}`);
      unanswered++;
      heard();
    }
  }

  async function speak(): Promise<void> {
    for (;;) {
      // Somebody who types sees what there is to answer. A pipe's lines are kept, one a message.
      while (!operator.interactive && unanswered === 0) {
        await new Promise<void>((resolve) => heard = resolve);
      }
      unanswered--;
      const line = await operator.readLine("type message: ");
      if (line === null) return;
      const sent = await client?.writeAll(line + "\n").then(() => true, () => false);
      if (!sent) operator.print("Nobody is connected, this was not sent.");
    }
  }

  return async (conn) => {
    operator.print(`Connection from: ${conn.peer}`);
    client = conn;
    speaking ??= speak();
    try {
      await hear(conn);
    } finally {
      client = undefined;
      unanswered = 0;
      operator.print(`Connection closed: ${conn.peer}`);
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
    const terminal = new Terminal();
    // A line of the log must not get into the one being typed.
    const log = terminal.interactive ? terminal.print.bind(terminal) : undefined;
    await serve(listener, chat(terminal), { ...flags, signal: stopSignal(), log });
  });
}
