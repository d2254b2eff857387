/**
 * What `socketserver` gives a Python programmer: a loop that accepts connections, or receives
 * datagrams, and hands each to a function.
 *
 * @module
 */
import { createHash, timingSafeEqual } from "node:crypto";
import type { BlockList } from "node:net";
import { delay } from "@std/async/delay";
import { deadline } from "@std/async/deadline";
import { join } from "@std/path";
import {
  bind,
  closeDatagrams,
  type Endpoint,
  formatAddress,
  isAllowed,
  type ListenOptions,
  reason,
} from "./address.ts";
import { FramedConn, LimitError, printable, trace } from "./framing.ts";

/** Milliseconds that a conversation has to end when the server stops, and a peer to hang up. */
const GRACE = 5000;
/** Milliseconds before it tries again when the system has no descriptor left. */
const RETRY = 100;
/** What is too late for a conversation. One for all: an error for each would be 4% of its cost. */
const OVER = new Deno.errors.BadResource("the conversation is over");
/** How accept fails when a peer has hung up while it waited in the backlog. */
const { ConnectionAborted, ConnectionReset, NotConnected } = Deno.errors;
const GONE = [ConnectionAborted, ConnectionReset, NotConnected];
/** Receives under way at once on a datagram socket, each with its own buffer. */
const RECEIVERS = 8;
/** Where unread octets go, of all connections alike. */
const SCRATCH = new Uint8Array(65536);
/**
 * Port 0 and those of echo, daytime, qotd, chargen and time, as assigned and as moved here. These
 * services answer everything: a datagram forged to come from one of them would be answered, and
 * the answer too, for ever.
 */
const UNANSWERED = new Set([0, ...[7, 13, 17, 19, 37].flatMap((port) => [port, 8000 + port])]);

/** How a server behaves; the common flags give all but `name` and `signal`. */
export type ServeOptions = {
  name: string; // the program's; it starts each line of the log
  signal?: AbortSignal; // ends the server
  maxConnections?: number; // served at once, further ones wait in the backlog; none: 1000
  idleTimeout?: number; // milliseconds of silence after which one is closed; none: 300,000
  allowFrom?: BlockList; // who is served; none: everyone
  trace?: boolean; // print both directions of the wire on stderr
  log?: (line: string) => void; // where the log goes; none: to stderr
};

/**
 * Accepts connections and serves each, many at a time, until `signal`: then it accepts no more and
 * gives those under way 5 s to end. One that fails is a line in the log and no other's business.
 */
export async function serve(
  listener: Deno.Listener,
  handler: (conn: FramedConn) => Promise<void>,
  options: ServeOptions,
): Promise<void> {
  const { signal, maxConnections = 1000, idleTimeout = 300_000, allowFrom } = options;
  const log = logger(options);
  /** The connections: when its handler was done, how many octets it had, and since when no more. */
  const active = new Map<FramedConn, { finished: number; octets: number; since: number }>();
  let wake = () => {};
  const change = () => new Promise<void>((resolve) => wake = resolve);

  async function converse(conn: FramedConn): Promise<void> {
    const state = { finished: Infinity, octets: 0, since: performance.now() };
    active.set(conn, state);
    try {
      // Else a second answer waits until the peer acknowledges the first, up to 40 ms.
      (conn.conn as Partial<Deno.TcpConn>).setNoDelay?.();
      await handler(conn);
    } catch (error) {
      if (active.has(conn)) log(`${conn.peer}: ${reason(error)}`); // else it was cut off, and told
    }
    state.finished = performance.now();
    // It fails if the peer is gone or was given up, which the handler has met if it mattered.
    await conn.finish(SCRATCH).catch(() => {});
    conn.close(OVER);
    active.delete(conn);
    wake();
  }

  // One timer for all connections costs less than one for each, or a clock read for each message.
  const sweeper = setInterval(() => {
    const now = performance.now();
    for (const [conn, state] of active) {
      if (now - state.finished > GRACE) conn.close();
      const octets = conn.bytesRead + conn.bytesWritten;
      if (octets > state.octets) Object.assign(state, { octets, since: now });
      if (state.finished < Infinity || now - state.since < idleTimeout) continue;
      conn.close(new Deno.errors.TimedOut(`closed, silent for ${idleTimeout / 1000} s`));
    }
  }, Math.min(1000, idleTimeout / 4));

  onAbort(signal, () => {
    listener.close();
    wake();
  });
  log(`listening on ${formatAddress(listener.addr)}`);
  let [failing, full] = [false, false];
  while (!signal?.aborted) {
    if (active.size >= maxConnections) {
      if (!full && maxConnections > 1) log(`${active.size} connections, others wait`);
      full = true;
      await change();
      continue;
    }
    try {
      const conn = await listener.accept();
      failing = false;
      if (allowFrom && !isAllowed(allowFrom, conn.remoteAddr)) {
        log(`${formatAddress(conn.remoteAddr)}: refused, not in --allow-from`);
        conn.close();
      } else {
        converse(new FramedConn(conn, options));
      }
    } catch (error) {
      if (signal?.aborted) break;
      if (GONE.some((gone) => error instanceof gone)) continue;
      // No descriptor is left: that must not end the server.
      if (!failing) log(`cannot accept, trying again: ${reason(error)}`);
      failing = true;
      await delay(RETRY);
    }
  }

  if (active.size > 0) {
    log(`stopping, ${GRACE / 1000} s for open connections (${active.size}); Ctrl-C again: none`);
  }
  const grace = setTimeout(() => {
    for (const [conn, { finished }] of active) {
      if (finished === Infinity) log(`${conn.peer}: cut off`);
      conn.close();
    }
    active.clear();
    wake();
  }, GRACE);
  while (active.size > 0) await change();
  clearTimeout(grace);
  clearInterval(sweeper);
}

/** A datagram to send back; one without octets is one, too. */
export type Answer = Uint8Array | undefined;

/**
 * Receives datagrams and sends back to each what `handler` makes of it, until `signal`. The octets
 * it is given stay valid until it returns and the answer is sent.
 */
export async function serveDatagrams(
  socket: Deno.DatagramConn,
  handler: (data: Uint8Array, from: Deno.Addr) => Answer | Promise<Answer>,
  options: ServeOptions,
): Promise<void> {
  const { signal, allowFrom } = options;
  const log = logger(options);

  async function answer(data: Uint8Array, from: Deno.Addr): Promise<void> {
    const peer = formatAddress(from);
    try {
      if (options.trace) trace("<", peer, data);
      const reply = await handler(data, from);
      if (!reply) return;
      if (options.trace) trace(">", peer, reply);
      await socket.send(reply, from);
    } catch (error) {
      log(`${peer}: ${reason(error)}`);
    }
  }

  // Buffers used again, and a few receives at once, measured twice the rate of `for await`.
  async function receive(): Promise<void> {
    const buffer = new Uint8Array(65536);
    while (!signal?.aborted) {
      try {
        const [data, from] = await socket.receive(buffer);
        if ("port" in from && UNANSWERED.has(from.port)) continue;
        if (!allowFrom || isAllowed(allowFrom, from)) await answer(data, from);
      } catch (error) {
        if (signal?.aborted) return;
        log(`cannot receive, trying again: ${reason(error)}`);
        await delay(RETRY);
      }
    }
  }

  log(`listening on ${formatAddress(socket.addr)} (${socket.addr.transport})`);
  // Deno takes one operation at a time on a Unix socket.
  for (let i = 0; i < (socket.addr.transport === "udp" ? RECEIVERS : 1); i++) receive();
  await new Promise<void>((resolve) => onAbort(signal, resolve));
  await closeDatagrams(socket);
}

/** A server of requests, as `Deno.serve` takes it, told the peer as people read it. */
export type HttpHandler = (request: Request, peer: string) => Response | Promise<Response>;

/**
 * Serves HTTP by `Deno.serve` until `signal`: then it takes no more requests and gives those under
 * way 5 s to end. `Deno.serve` accepts by itself, has no limit on connections and none on how long
 * one is silent; when no descriptor is left it ends. Here it then closes the connections that wait
 * without a request, and serves on. Those whose request is not all there it keeps until they leave,
 * whatever they are answered: on the Internet let a proxy that has limits stand before it.
 *
 * What {@linkcode bodyOf} throws is answered 413, 408 or 400, any other error of the handler 500 and
 * a line in the log. `--trace` prints the heads, as Deno gives them, without passwords.
 */
export async function serveHttp(
  endpoint: Endpoint,
  handler: HttpHandler,
  options: Omit<ServeOptions, "maxConnections" | "idleTimeout"> & {
    answered?: (request: Request, response: Response, peer: string) => void; // for a log of its own
  },
): Promise<void> {
  const { signal, allowFrom } = options;
  const log = logger(options);
  let active = 0;
  let idle = () => {};

  async function respond(request: Request, { remoteAddr }: Deno.ServeHandlerInfo) {
    const peer = formatAddress(remoteAddr);
    if (options.trace) traceHead("<", peer, `${request.method} ${request.url}`, request.headers);
    active++;
    const response = await answer(request, peer, remoteAddr).finally(() => {
      if (--active === 0) idle();
    });
    options.answered?.(request, response, peer);
    if (options.trace) traceHead(">", peer, `${response.status}`, response.headers);
    return response;
  }

  const failure = (status: number, text: string) =>
    new Response(`${text}\n`, { status, headers: { connection: "close" } });

  function internalError(error: unknown, peer = "cannot answer"): Response {
    log(`${peer}: ${reason(error)}`);
    return failure(500, "internal server error");
  }

  async function answer(request: Request, peer: string, address: Deno.Addr): Promise<Response> {
    if (signal?.aborted) return failure(503, "stopping");
    if (allowFrom && !isAllowed(allowFrom, address)) {
      log(`${peer}: refused, not in --allow-from`);
      return failure(403, "not allowed from your address");
    }
    // Deno puts the Host before the target in the URL: with a slash in it, it would be part of that.
    if (!/^[\w.~%!$&'()*+,;=:[\]-]*$/.test(request.headers.get("host") ?? "")) {
      return failure(400, "bad Host");
    }
    try {
      return await handler(request, peer);
    } catch (error) {
      if (error instanceof LimitError) return failure(413, error.message);
      if (error instanceof Deno.errors.InvalidData) return failure(400, error.message);
      if (error instanceof Deno.errors.TimedOut) return failure(408, error.message);
      return internalError(error, peer);
    }
  }

  const listenHere = (options: ListenOptions) =>
    Deno.serve(
      {
        ...options,
        onListen() {},
        onError: (error) => internalError(error),
      } as Deno.ServeTcpOptions,
      respond,
    );
  let server: Deno.HttpServer<Deno.Addr> | undefined = await bind(endpoint, listenHere);
  const here = { ...endpoint, port: "port" in server.addr ? server.addr.port : 0 };
  log(`listening on ${formatAddress(server.addr)}`);
  const stopped = new Promise<void>((resolve) => onAbort(signal, resolve));
  let failed = -Infinity;
  while (!signal?.aborted) {
    try {
      server ??= await bind(here, listenHere);
      await Promise.race([server.finished, stopped]);
      // It ends, too, if a handler fails that has upgraded its connection.
      if (!signal?.aborted) throw new Error("the server has ended");
    } catch (error) {
      const now = performance.now();
      if (now - failed > 10_000) log(`cannot accept, trying again: ${reason(error)}`);
      failed = now;
      server?.shutdown().catch(() => {}); // that closes the connections without a request
      server = undefined;
      await delay(RETRY);
    }
  }
  if (active > 0) log(`stopping, ${GRACE / 1000} s for requests (${active}); Ctrl-C again: none`);
  // shutdown() takes away what still comes of requests' bodies, so those end first.
  const drained = new Promise<void>((resolve) => idle = resolve);
  if (active === 0) idle();
  await deadline(drained.then(() => server?.shutdown()), GRACE).catch(() =>
    log("requests cut off")
  );
}

/**
 * The octets of a request's body as they come.
 *
 * @throws {LimitError} past `max` octets, or at once if more are announced;
 * {@linkcode Deno.errors.TimedOut} if for `idleTimeout` milliseconds none come;
 * {@linkcode Deno.errors.InvalidData} if it is cut off or not as HTTP has it.
 */
export async function* bodyOf(
  { headers, body }: Request,
  max: number,
  idleTimeout = 300_000,
): AsyncGenerator<Uint8Array<ArrayBuffer>> {
  const tooLarge = () => new LimitError(`body of more than ${max} bytes`);
  if (Number(headers.get("content-length")) > max) throw tooLarge();
  if (!body) return;
  const reader = body.getReader();
  try {
    for (let size = 0;;) {
      const { value, done } = await deadline(reader.read(), idleTimeout).catch((error) => {
        if (!(error instanceof DOMException)) throw new Deno.errors.InvalidData(reason(error));
        throw new Deno.errors.TimedOut(`body silent for ${idleTimeout / 1000} s`);
      });
      if (done) return;
      size += value.length;
      if (size > max) throw tooLarge();
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => {}); // what still comes of it ends the connection
  }
}

/**
 * Whether a path is the folder `root` or below it, both as `Deno.realPath` gives them: so no `..` and
 * no symbolic link leads out.
 */
export function isBelow(root: string, path: string): boolean {
  return path === root || path.startsWith(join(root, "/"));
}

/** Whether they are the same, in a time that does not tell how much of `given` is right. */
export function isSecret(given: Uint8Array | string, secret: Uint8Array | string): boolean {
  const digest = (data: Uint8Array | string) => createHash("sha256").update(data).digest();
  return timingSafeEqual(digest(given), digest(secret));
}

/** Prints the head of a message, without what it has to prove who sent it. */
function traceHead(direction: "<" | ">", peer: string, start: string, headers: Headers): void {
  const lines = Array.from(headers, ([name, value]) => {
    return `${name}: ${/(authorization|cookie)$/.test(name) ? "***" : value}\r\n`;
  });
  trace(direction, peer, new TextEncoder().encode(`${start}\r\n${lines.join("")}\r\n`));
}

function onAbort(signal: AbortSignal | undefined, action: () => void): void {
  if (signal?.aborted) action();
  else signal?.addEventListener("abort", action, { once: true });
}

function logger({ name, log = console.error }: ServeOptions): (line: string) => void {
  return (line) => log(`${name}: ${printable(line)}`); // an error may quote what the network sent
}
