#!/usr/bin/env -S deno run --allow-net
/**
 * A TCP load balancer: passes connections on to several servers, in turn or to the one with the
 * fewest, around those that are down.
 *
 *     deno run --allow-net scripts/zen_server.ts --port 1061
 *     deno run --allow-net scripts/zen_server.ts --port 1062
 *     deno run --allow-net scripts/load_balancer.ts --backend 127.0.0.1:1061 --backend 127.0.0.1:1062
 *     deno run --allow-net scripts/zen_client.ts --port 8090
 *
 * It knows no protocol: octets go both ways as they come, and so does the end of each direction. A
 * reset is passed on as an end, as Deno has no other to give. `pkill -USR2 -f load_balancer` prints how the backends
 * do, `--status PORT` shows it on a page. (`-USR1` prints it, too, but makes Deno start its debugger.)
 *
 * A client hears nothing of a backend that refuses, nor of one that resets the connection without
 * a word: a server that is stopped does that to those it has not accepted yet. The next one hears
 * from the start what the client has said. But if the first had acted on some of it, that is done
 * twice. Where it matters, requests need an ID (`retry_client.ts`). A check is only a TCP
 * connection, which a server that hangs takes, too.
 *
 * Mirrors the load balancing that tutorial 000 names without a listing. In Python it would be:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `asyncio.start_server(converse)` | `listen()`, `serve()` |
 * | `asyncio.open_connection(host, port)` | `connect()`: `Deno.connect()` |
 * | `await reader.read(65536)` until `b""` | `conn.readSome()`: `conn.read()` until null |
 * | `writer.write(data)`, `await writer.drain()` | `conn.writeAll()`: `conn.write()` until all is sent |
 * | `writer.write_eof()` | `conn.closeWrite()` |
 * | `asyncio.gather(ask(), answer())` | `Promise.all([ask(), answer()])` |
 *
 * @module
 */
import { delay } from "@std/async/delay";
import { concat } from "@std/bytes/concat";
import { format } from "@std/fmt/bytes";
import { escape } from "@std/html/entities";
import {
  connect,
  type Endpoint,
  formatAddress,
  listen,
  parseAddress,
  reason,
  UsageError,
} from "../lib/address.ts";
import { main, number, optional, serverFlags, stopSignal, toggle } from "../lib/cli.ts";
import { FramedConn, printable } from "../lib/framing.ts";
import { serve, serveHttp } from "../lib/server.ts";

const PORT = 8090;
const MAX_SAID = 65536; // octets kept of a client that has no answer yet
const CONNECT_TIMEOUT = 3000; // milliseconds, as are the others
const TICK = 100; // how exactly those that follow are kept
const UP_CHECK = 2000; // from one check of a backend that is up to the next
const [FIRST_CHECK, LAST_CHECK] = [1000, 30_000]; // of one that is down: twice as long each time

/** A server behind the balancer, and how it has done so far. */
export type Backend = {
  readonly endpoint: Endpoint;
  readonly address: string; // as people read it
  up: boolean;
  open: number; // conversations under way
  total: number; // and all so far
  failures: number; // connections it refused, or broke off
  bytesSent: number; // to it, in conversations that have ended
  bytesReceived: number;
  wait: number; // milliseconds between checks
  due: number; // when the next is, by `performance.now()`
};

/** It was the backend's connection that failed, and not the client's. */
class BackendError extends Error {}

/** What a client has said; undefined once that is too much, or answered. */
export type Said = { octets?: Uint8Array };

/**
 * Passes on what `client` and `server` say to each other until both have ended or one has failed,
 * and closes `server`. What the client has `said` to another server comes first.
 *
 * @throws {BackendError} if it was the server that failed; else the client's error.
 */
export async function relay(client: FramedConn, server: FramedConn, said: Said): Promise<void> {
  let over = false;
  let unsent: BackendError | undefined;
  const lost = (error: unknown): never => {
    throw new BackendError(`${server.peer}: ${reason(error)}`);
  };

  async function ask(): Promise<void> {
    if (said.octets) await server.writeAll(said.octets).catch(lost);
    while (await client.readable()) {
      if (over) return; // the next server is to hear it
      const octets = await client.readSome() ?? new Uint8Array();
      if (said.octets) said.octets = concat([said.octets, octets]);
      if (said.octets && said.octets.length > MAX_SAID) said.octets = undefined;
      await server.writeAll(octets).catch(lost);
    }
    await server.conn.closeWrite().catch(lost);
  }

  async function answer(): Promise<void> {
    for (let octets; (octets = await server.readSome().catch(lost)) !== null;) {
      said.octets = undefined;
      await client.writeAll(octets);
    }
    // Of a reset the system tells once: told to ask(), here it looks like an end.
    if (unsent && said.octets) throw unsent;
    await client.conn.closeWrite();
  }

  const asking = ask().catch((error) => {
    if (!(error instanceof BackendError)) throw error;
    unsent = error; // what the server said before that can still be read
  });
  try {
    await Promise.all([asking, answer()]);
    if (unsent) throw unsent;
  } finally {
    over = true;
    server.close();
  }
}

/** Chooses backends, and knows which are up. */
export class Balancer {
  readonly backends: Backend[];
  #next = 0;

  constructor(
    addresses: (Deno.NetAddr | Deno.UnixAddr)[],
    readonly options: { leastConnections?: boolean; trace?: boolean; log: (line: string) => void },
  ) {
    this.backends = addresses.map((to) => ({
      endpoint: "path" in to ? { host: "", port: 0, unix: to.path } : { ...to, host: to.hostname },
      ...{ address: formatAddress(to), up: true, open: 0, total: 0, failures: 0 },
      ...{ bytesSent: 0, bytesReceived: 0, wait: UP_CHECK, due: 0 },
    }));
  }

  /** The backend whose turn it is of those not `tried`, first of those that are up. */
  pick(tried: Backend[] = []): Backend | undefined {
    const [choice] = [...this.backends.slice(this.#next), ...this.backends.slice(0, this.#next)]
      .filter((backend) => !tried.includes(backend))
      .sort((a, b) =>
        Number(b.up) - Number(a.up) || (this.options.leastConnections ? a.open - b.open : 0)
      );
    if (choice) this.#next = this.backends.indexOf(choice) + 1;
    return choice;
  }

  /**
   * One conversation: with the first backend that takes it, or if that one fails without a word,
   * with the next. Each is tried once at most.
   *
   * @throws {Error} if it fails, or if no backend takes it.
   */
  async converse(client: FramedConn): Promise<void> {
    const said: Said = { octets: new Uint8Array() };
    const tried: Backend[] = [];
    let failure: unknown;
    for (let backend; (backend = this.pick(tried)); tried.push(backend)) {
      let server: FramedConn | undefined;
      backend.open++;
      try {
        server = await this.#connect(backend);
        backend.total++;
        return await relay(client, server, said);
      } catch (error) {
        if (error instanceof BackendError) backend.failures++;
        if (!(error instanceof BackendError && said.octets)) throw error;
        failure = error;
      } finally {
        backend.open--;
        backend.bytesSent += server?.bytesWritten ?? 0;
        backend.bytesReceived += server?.bytesRead ?? 0;
      }
    }
    throw new Error(`no backend is left: ${reason(failure)}`);
  }

  async #connect(backend: Backend): Promise<FramedConn> {
    for (const end = performance.now() + CONNECT_TIMEOUT;; await delay(TICK)) {
      try {
        const conn = await connect({ ...backend.endpoint, timeout: CONNECT_TIMEOUT });
        this.#mark(backend);
        return new FramedConn(conn, this.options);
      } catch (error) {
        // No descriptor is left here, of which a client may soon give back some.
        const full = (error as { code?: string }).code === "EMFILE";
        if (full && performance.now() < end) continue;
        if (full) throw error;
        this.#mark(backend, error);
        throw new BackendError(reason(error));
      }
    }
  }

  /** Notes that a backend takes connections, or why not, and says so if that is news. */
  #mark(backend: Backend, failure?: unknown): void {
    const up = failure === undefined;
    if (up === backend.up) return;
    const wait = up ? UP_CHECK : FIRST_CHECK;
    Object.assign(backend, { up, wait, due: performance.now() + wait });
    this.options.log(up ? `up: ${backend.address}` : `down: ${reason(failure)}`);
  }

  /** Checks each backend when it is due, until `signal`. */
  async watch(signal: AbortSignal): Promise<void> {
    await Promise.all(this.backends.map(async (backend) => {
      for (; !signal.aborted; await delay(TICK, { signal }).catch(() => {})) {
        if (performance.now() < backend.due) continue;
        if (!backend.up) backend.wait = Math.min(2 * backend.wait, LAST_CHECK);
        await this.#connect(backend).then((server) => server.close(), () => {});
        backend.due = performance.now() + backend.wait;
      }
    }));
  }

  /** How the backends do, in a line. */
  statusLine(): string {
    const each = this.backends.map((b) =>
      `${b.address} ${b.up ? "up" : "down"} ${b.open} open ${b.total} total`
    );
    return `${each.length} backends: ${each.join(", ")}`;
  }

  /** How the backends do, as a Web page and as `/status.json`. */
  statusPage({ url }: Request): Response {
    const { pathname } = new URL(url);
    const backends = this.backends.map(({ endpoint: _, wait: _wait, due: _due, ...rest }) => rest);
    if (pathname === "/status.json") return Response.json({ backends });
    if (pathname !== "/") return new Response("not found\n", { status: 404 });
    const rows = backends.map(({ address, up, open, total, failures, ...bytes }) => {
      const state = up ? "up" : "<strong>down</strong>";
      const cells = [state, open, total, failures, ...Object.values(bytes).map((n) => format(n))];
      return `<tr><th>${escape(address)}<td>${cells.join("<td>")}`;
    });
    return new Response(`${PAGE}${rows.join("\n")}\n</table>\n`, {
      headers: { "content-type": "text/html; charset=utf-8", "content-security-policy": POLICY },
    });
  }
}

const POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:";
const PAGE = `<!doctype html>
<html lang="en"><title>Load balancer</title><link rel="icon" href="data:,">
<meta name="viewport" content="width=device-width"><meta http-equiv="refresh" content="5">
<style>
:root { color-scheme: light dark; font: 1rem/1.5 system-ui, sans-serif }
body { margin: 1rem auto; max-width: 50rem; padding: 0 1rem }
table { border-collapse: collapse; width: 100% } tr { border-bottom: 1px solid #8886 }
th, td { padding: .4rem .1rem; text-align: right; font-variant-numeric: tabular-nums }
tr > :first-child { text-align: left } strong { color: light-dark(#b3261e, #ffb4ab) }
@media (max-width: 40rem) { tr { display: grid; grid: auto / repeat(6, 1fr); font-size: .8rem }
  tr > :first-child { grid-column: 1 / -1; font-size: 1rem; overflow-wrap: anywhere } }
</style>
<h1>Load balancer</h1><p>Sent and received is counted when a conversation ends. <a href="/status.json">As JSON</a></p>
<table><tr><th>Backend<th>State<th>Open<th>Total<th>Failed<th>Sent<th>Received
`;

if (import.meta.main) {
  await main({
    name: "load_balancer",
    about: "Passes connections on to several servers, in turn, around those that are down.",
    permissions: "--allow-net",
    flags: {
      ...serverFlags(PORT),
      backend: {
        argument: "ADDR",
        help: "a server, host:port or unix:/path; to be repeated for each",
        parse: (given) => given.map((text) => parseAddress(text)),
      },
      leastConnections: toggle("choose the one with the fewest connections, not in turn"),
      status: optional("PORT", "a Web page of how they do, 0: a free port", number(0, 65535)),
    },
  }, async (flags) => {
    if (flags.backend.length === 0) throw new UsageError("--backend ADDR is missing");
    const options = { ...flags, signal: stopSignal() };
    const log = (line: string) => console.error(`${flags.name}: ${printable(line)}`);
    const balancer = new Balancer(flags.backend, { ...flags, log });
    for (const signal of ["SIGUSR1", "SIGUSR2"] as const) {
      Deno.addSignalListener(signal, () => log(balancer.statusLine()));
    }
    const listener = await listen(flags);
    const own = balancer.backends.find(({ address }) => address === formatAddress(listener.addr));
    if (own) throw new UsageError(`--backend: ${own.address} is the balancer itself`);
    const servers = [serve(listener, (client) => balancer.converse(client), options)];
    balancer.watch(options.signal); // and at the end it is not waited for
    if (flags.status !== undefined) {
      const name = `${flags.name}: status`;
      const page = { ...options, name, port: flags.status, unix: undefined };
      servers.push(serveHttp(page, (request) => balancer.statusPage(request), page));
    }
    await Promise.all(servers);
  });
}
