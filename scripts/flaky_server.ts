#!/usr/bin/env -S deno run --allow-net
/**
 * A server that fails on purpose, at given rates, for a client to practise on: it refuses, stalls,
 * resets or cuts its answer short. Else it adds what it is asked to add.
 *
 *     deno run --allow-net scripts/flaky_server.ts
 *     deno run --allow-net scripts/retry_client.ts
 *     echo "my-first-id add 5" | nc -N 127.0.0.1 1061
 *
 * A connection is one request, `ID add N`, and its answer, `ID TOTAL`; `BUSY` means that nothing was
 * done, `ERROR` that it never will be. Three of the four faults come after the deed, so a client
 * that got no answer cannot know whether it was done, and has to ask again. With the same ID it gets
 * the answer it missed, and nothing is added twice.
 *
 * Mirrors "Error Handling and Fault Tolerance" of tutorial 000, which has no listing:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `ThreadingTCPServer(addr, Handler)` | `createServer(handler)`, `server.listen()` of `node:net` |
 * | `self.rfile.readline(200)` | `for await (const piece of socket)` until there is a line |
 * | `self.wfile.write(data)`, `close()` | `socket.end(data)` |
 * | `setsockopt(SO_LINGER, 1, 0)`, `close()`: a reset | `socket.resetAndDestroy()` |
 * | `random.random() < rate` | `Math.random() < rate` |
 *
 * The other servers stand on Deno's own sockets and `serve()`. This one cannot: `conn.close()` ends
 * the stream in order before anything else, and the client reads an end. Only `node:net` resets.
 *
 * @module
 */
import { createServer, type Socket } from "node:net";
import {
  type Endpoint,
  formatAddress,
  isAllowed,
  listen,
  reason,
  UsageError,
} from "../lib/address.ts";
import { type Flag, flag, main, number, serverFlags, stopSignal } from "../lib/cli.ts";
import { printable } from "../lib/framing.ts";
import type { ServeOptions } from "../lib/server.ts";

const PORT = 1061;
const MAX_LINE = 200; // octets
const MAX_CONNECTIONS = 1000; // more are closed at once
const MANY = 16; // connections at once, from which on descriptors may have run out
const GRACE = 5000; // milliseconds that a client has to hang up after its answer
/**
 * IDs remembered, the last ones: a retry that comes after so many newer requests is done again, so
 * a client must give up before that.
 */
const MAX_IDS = 10_000;

/** What can go wrong: before the deed the first, after it the others. */
export type Fault = "refuse" | "stall" | "reset" | "cut";

/** Picks a fault or none, each with its rate from 0 to 1, by a random number from 0 to 1. */
export function pick(rates: Record<Fault, number>, random = Math.random()): Fault | undefined {
  for (const fault of ["refuse", "stall", "reset", "cut"] as const) {
    random -= rates[fault];
    if (random < 0) return fault;
  }
}

/** A total, to which no request is added twice. */
export class Adder {
  total = 0;
  /** How many requests came that had been answered before. */
  repeats = 0;
  readonly #answers = new Map<string, string>();

  /** Does what a request asks for, unless it has been done, and returns the answer. */
  answer(request: string): string {
    const [, id, n] = /^([\w-]{1,64}) add (\d{1,9})$/.exec(request) ?? [];
    if (!id) return "ERROR not a request (ID add N)\r\n";
    const known = this.#answers.get(id);
    if (known) {
      this.repeats++;
      return known;
    }
    this.total += Number(n);
    const answer = `${id} ${this.total}\r\n`;
    this.#answers.set(id, answer);
    const [oldest] = this.#answers.keys(); // a Map keeps the order in which it was filled
    if (this.#answers.size > MAX_IDS) this.#answers.delete(oldest);
    return answer;
  }
}

/** Reads a line, or what is too long for one; null if the client ends before the line does. */
async function readLine(socket: Socket): Promise<string | null> {
  let text = "";
  for await (const piece of socket.iterator({ destroyOnReturn: false })) {
    text += piece.toString("latin1");
    const end = text.indexOf("\n");
    if (end >= 0) return text.slice(0, end).replace(/\r$/, "");
    if (text.length > MAX_LINE) return text;
  }
  return null;
}

/**
 * Takes a request and answers it, or fails as told, and returns what it did, for the log.
 *
 * @throws the system's error if the connection is lost before the request is there.
 */
export async function converse(socket: Socket, adder: Adder, fault?: Fault): Promise<string> {
  if (fault === "refuse") {
    hangUp(socket, "BUSY\r\n");
    return fault;
  }
  const request = await readLine(socket);
  if (request === null) {
    hangUp(socket, "");
    return "hung up before its request was whole";
  }
  const answer = adder.answer(request);
  if (fault === "reset") {
    socket.resetAndDestroy();
  } else if (fault === "stall") {
    socket.resume().once("end", () => socket.end());
  } else if (fault === "cut") {
    hangUp(socket, answer.slice(0, 1 + Math.random() * (answer.length - 1)));
  } else {
    hangUp(socket, answer);
  }
  return `${fault ?? "answer"}, ${answer.trim()}`;
}

/** Sends the last octets and reads on: closed with some unread, they would be lost to a reset. */
function hangUp(socket: Socket, last: string): void {
  socket.resume().end(last);
  const timer = setTimeout(() => socket.destroy(), GRACE);
  socket.once("close", () => clearTimeout(timer));
}

/**
 * Serves until `signal`; `nextFault` says, for each connection, what is to go wrong.
 *
 * @throws what `listen()` throws.
 */
export async function serveFlaky(
  adder: Adder,
  nextFault: () => Fault | undefined,
  options: Endpoint & ServeOptions,
): Promise<void> {
  const { name, signal, idleTimeout = 300_000, allowFrom, log = console.error } = options;
  const say = (line: string) => log(`${name}: ${printable(line)}`);
  const open = new Set<Socket>();
  let [most, quiet] = [0, true];

  // Half-open: who ends after the request wants the answer all the same.
  const server = createServer({ allowHalfOpen: true }, async (socket) => {
    quiet = false;
    most = Math.max(most, open.add(socket).size);
    socket.once("close", () => open.delete(socket));
    socket.on("error", () => {}); // without a listener it ends the program; converse() hears of it
    const { remoteAddress: hostname = "", remotePort: port = 0 } = socket;
    const client: Deno.NetAddr = { transport: "tcp", hostname, port };
    const peer = formatAddress(client);
    const silent = () => socket.destroy(new Error(`closed, silent for ${idleTimeout / 1000} s`));
    socket.setTimeout(idleTimeout, silent);
    try {
      if (allowFrom && !isAllowed(allowFrom, client)) throw new Error("not in --allow-from");
      say(`${peer}: ${await converse(socket, adder, nextFault())}`);
    } catch (error) {
      say(`${peer}: ${reason(error)}`);
      socket.destroy();
    }
  });
  server.maxConnections = MAX_CONNECTIONS;

  // Deno's own listener finds the address and a free port, and says in words why it cannot.
  const listener = await listen(options);
  const { hostname: host, port } = listener.addr as Deno.NetAddr;
  listener.close();
  const ended = Promise.withResolvers<void>();
  server.on("error", ended.reject);
  server.once("listening", () => say(`listening on ${formatAddress(listener.addr)}`));
  server.listen(port, host);

  // When accept fails, for want of a descriptor, this listener of Deno 2.9 accepts no more, for
  // ever, and does not say so. That looks like a quiet time after a busy one: then it listens anew.
  const timer = setInterval(() => {
    if (quiet && most > MANY) {
      server.close();
      server.listen(port, host);
      most = open.size;
    }
    quiet = true;
  }, 1000);

  signal?.addEventListener("abort", () => ended.resolve());
  await ended.promise.finally(() => {
    clearInterval(timer);
    server.close();
    for (const socket of open) socket.destroy();
  });
}

const rate = (help: string): Flag<number> => flag("R", help, number(0, 1, false), "0.125");

if (import.meta.main) {
  const { host, port, idleTimeout, allowFrom } = serverFlags(PORT);
  await main({
    name: "flaky_server",
    about: "Adds up, and fails on purpose; each rate is a share of all connections, from 0 to 1.",
    permissions: "--allow-net",
    flags: {
      host,
      port,
      idleTimeout,
      allowFrom,
      refuse: rate("says that it is busy"),
      stall: rate("does as asked, and says nothing"),
      reset: rate("does as asked, and resets the connection"),
      cut: rate("does as asked, and cuts the answer short"),
    },
  }, async (flags) => {
    // 0.2 + 0.4 + 0.3 + 0.1 is a little more than 1.
    if (flags.refuse + flags.stall + flags.reset + flags.cut > 1 + 1e-9) {
      throw new UsageError("--refuse, --stall, --reset and --cut add up to more than 1");
    }
    const adder = new Adder();
    await serveFlaky(adder, () => pick(flags), { ...flags, signal: stopSignal() });
    const { total, repeats } = adder;
    if (total > 0) console.error(`${flags.name}: total ${total}, repeats recognised: ${repeats}`);
  });
}
