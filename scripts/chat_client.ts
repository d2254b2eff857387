#!/usr/bin/env -S deno run --allow-net
/**
 * A client to chat with: it sends each line that is typed and prints each message that comes, at
 * whatever time. `q` ends it.
 *
 *     deno run --allow-net scripts/chat_server.ts
 *     deno run --allow-net scripts/chat_client.ts
 *
 * Mirrors "Example of Client Socket" of tutorial 003:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `socket.socket()`, `obj.connect((host, port))` | `connect()`: `Deno.connect()` |
 * | `input("type message: ")` | `terminal.readLine()` |
 * | `obj.send(message.encode())` | `conn.writeAll()`: `conn.write()` until all is sent |
 * | `obj.recv(1024).decode()` | `conn.readMessage()`: `conn.read()`, and what makes a message |
 * | `obj.close()` | `using`: `conn.close()` |
 *
 * @module
 */
import { deadline } from "@std/async/deadline";
import { connect } from "../lib/address.ts";
import { clientFlags, main, Terminal } from "../lib/cli.ts";
import { FramedConn, printable } from "../lib/framing.ts";

const PORT = 5001;

/**
 * Sends what is typed and prints what comes, and returns which side ended it: the client by `q` or
 * the end of its input, or the server.
 * Typed lines may come at any time; a pipe's would all come at once, so that each of them is held
 * back until the one before is answered, for at most `timeout` milliseconds.
 */
export async function chat(
  conn: FramedConn,
  terminal: Pick<Terminal, "interactive" | "print" | "readLine">,
  timeout: number,
): Promise<"client" | "server"> {
  let answer = Promise.withResolvers<void>();

  async function hear(): Promise<"server"> {
    for (let message; (message = await conn.readMessage()) !== null;) {
      terminal.print(`Received from server: ${printable(message)}`);
      answer.resolve();
    }
    return "server";
  }

  async function speak(): Promise<"client"> {
    for (let line; (line = await terminal.readLine("type message: ")) !== null && line !== "q";) {
      answer = Promise.withResolvers();
      await conn.writeAll(line + "\n");
      if (!terminal.interactive) await deadline(answer.promise, timeout).catch(() => {});
    }
    return "client";
  }

  return await Promise.race([hear(), speak()]);
}

if (import.meta.main) {
  await main({
    name: "chat_client",
    about: "Chats with a server; q ends it.",
    permissions: "--allow-net",
    flags: clientFlags(PORT),
  }, async (flags) => {
    // No timeout for replies: somebody types them, if at all.
    using conn = new FramedConn(await connect(flags), { trace: flags.trace });
    const terminal = new Terminal();
    const ended = await chat(conn, terminal, flags.timeout).finally(() => terminal.close());
    if (ended === "server") console.error(`${flags.name}: the server has ended the conversation`);
  });
}
