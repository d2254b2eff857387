#!/usr/bin/env -S deno run --allow-net
/**
 * A connection pool: conversations with one server take turns on a few connections that stay open,
 * as opening one costs a round trip, with TLS several and a signature. Run, it asks the Zen server
 * the same questions over new connections and over pooled ones, and shows the saving.
 *
 *     deno run --allow-net scripts/zen_server.ts
 *     deno run --allow-net scripts/connection_pool.ts
 *
 * The pool is bounded: who finds all connections lent waits, and they are served in order. One that
 * the server has closed, or on which something came unasked, is thrown away while it is idle; so is
 * one whose conversation threw, as the rest of an answer may still be on its way; and one that
 * nobody has needed for a while. To the server an idle one is a silent client: one that serves a
 * client at a time (`--style sequential`) needs `--size 1`.
 *
 * What no pool can promise is that a connection is still alive when the question arrives: the
 * server may be hanging up at that moment. Then the conversation fails, and nobody knows whether
 * the server has done what it was asked. Only what does no harm twice may be asked again (in HTTP a
 * `GET`, but no `POST`); the pool cannot know which that is, and leaves it to who asks.
 *
 * Mirrors "connection pooling" of tutorial 000, which names it without a listing:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `with pool.connection() as conn:` | `pool.use(async (conn) => ...)` |
 * | `threading.BoundedSemaphore(size)` | `#enter()` and `#leave()`: a count, and a queue of promises |
 * | `queue.LifoQueue()` of idle sockets | an array, `push()` and `pop()` |
 * | `select.select([sock], [], [], 0)` before use | `conn.readable()`: a `conn.read()` left under way |
 * | `threading.Timer(...)`, `cancel()` | `setTimeout()`, `clearTimeout()` |
 * | `with ThreadPoolExecutor(...) as pool:` | `await using pool = new ConnectionPool(...)` |
 *
 * @module
 */
import { connect, type Endpoint, named } from "../lib/address.ts";
import { clientFlags, flag, main, number } from "../lib/cli.ts";
import { FramedConn, type FramedConnOptions } from "../lib/framing.ts";

const PORT = 1060;
const MAX_ANSWER = 1024; // octets

/** How a {@linkcode ConnectionPool} behaves. */
export type PoolOptions = {
  size: number; // connections at once
  idleTimeout: number; // milliseconds; if shorter than the server's, the pool hangs up first
};

/** Connections to one server, lent to one conversation at a time. */
export class ConnectionPool implements AsyncDisposable {
  /** How many connections it has opened so far. */
  opened = 0;
  readonly #idle: { conn: FramedConn; timer: ReturnType<typeof setTimeout> }[] = [];
  readonly #waiting: PromiseWithResolvers<void>[] = [];
  #lent = 0; // at most `size`; a place that is handed on to who waits stays counted
  #closed?: PromiseWithResolvers<void>;

  /** It opens none until one is needed. */
  constructor(
    readonly endpoint: Endpoint & FramedConnOptions,
    readonly options: PoolOptions,
  ) {}

  /**
   * Lends a connection to `converse`, as soon as there is one, and returns what that returns. When
   * it does, its conversation must be at an end, as the next begins there. In it, asking the pool
   * for a second connection may wait for ever: each could wait for one that another holds.
   *
   * @throws {Deno.errors.BadResource} if the pool is closed or is being closed; the error of
   * `connect()`, which is no other's business: whoever waits next tries as well; or what
   * `converse` throws.
   */
  async use<T>(converse: (conn: FramedConn) => Promise<T>): Promise<T> {
    await this.#enter();
    let conn: FramedConn | undefined;
    try {
      conn = this.#takeIdle() ?? await this.#open();
      const result = await converse(conn);
      await this.#putBack(conn);
      return result;
    } catch (error) {
      conn?.close();
      throw error;
    } finally {
      this.#leave();
    }
  }

  /** Refuses who waits and who comes, lets conversations end, and closes all connections. */
  async close(): Promise<void> {
    if (!this.#closed) {
      this.#closed = Promise.withResolvers();
      for (const turn of this.#waiting.splice(0)) turn.reject(closedError());
      if (this.#lent === 0) this.#closed.resolve();
    }
    for (let conn; (conn = this.#takeIdle());) await conn.end();
    await this.#closed.promise;
  }

  /** Closes the pool when the block of its `await using` ends. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  async #enter(): Promise<void> {
    if (this.#closed) throw closedError();
    if (this.#lent < this.options.size) {
      this.#lent++;
      return;
    }
    const turn = Promise.withResolvers<void>();
    this.#waiting.push(turn);
    await turn.promise;
  }

  #leave(): void {
    const next = this.#waiting.shift();
    if (next) return next.resolve(); // its place goes from hand to hand: nobody can push in
    this.#lent--;
    if (this.#lent === 0) this.#closed?.resolve();
  }

  async #open(): Promise<FramedConn> {
    const conn = new FramedConn(await connect(this.endpoint), this.endpoint);
    this.opened++;
    return conn;
  }

  /** The one used last: so those that are not needed get old, and go. */
  #takeIdle(): FramedConn | undefined {
    const last = this.#idle.pop();
    clearTimeout(last?.timer);
    return last?.conn;
  }

  async #putBack(conn: FramedConn): Promise<void> {
    // On an idle connection nothing is due: whatever comes, an end, a reset or octets, it is spoilt.
    // The read that tells stays under way when the connection is lent again. It then ends with the
    // first octets of the next answer, and finds nothing idle to discard.
    let spoilt = false;
    const spoil = () => {
      spoilt = true;
      this.#discard(conn);
    };
    conn.readable().then(spoil, spoil);
    await null; // octets that the conversation left unread have spoilt it by now
    if (spoilt) return conn.close();
    if (this.#closed) return await conn.end();
    const timer = setTimeout(() => this.#discard(conn), this.options.idleTimeout);
    this.#idle.push({ conn, timer });
  }

  /** Closes the connection if it is idle, and not lent. */
  #discard(conn: FramedConn): void {
    const index = this.#idle.findIndex((idle) => idle.conn === conn);
    if (index < 0) return;
    clearTimeout(this.#idle[index].timer);
    this.#idle.splice(index, 1);
    conn.close();
  }
}

function closedError(): Error {
  return new Deno.errors.BadResource("the connection pool is closed");
}

const ZEN = [
  ["Beautiful is better than?", "Ugly."],
  ["Explicit is better than?", "Implicit."],
  ["Simple is better than?", "Complex."],
];

/** Asks the question of that number; throws, named after the peer, if the answer is not the right one. */
export async function ask(conn: FramedConn, number: number): Promise<void> {
  const [question, expected] = ZEN[number % ZEN.length];
  try {
    await conn.writeAll(question);
    const answer = await conn.readUntil(".", MAX_ANSWER);
    if (answer === null) throw new Deno.errors.UnexpectedEof("hung up without an answer");
    if (answer !== expected) throw new Error("a wrong answer");
  } catch (error) {
    throw named(conn.peer, error);
  }
}

/** Does `request` for each number below `count`, so many at once, and returns the milliseconds. */
async function measure(
  count: number,
  atOnce: number,
  request: (number: number) => Promise<void>,
): Promise<number> {
  const start = performance.now();
  let next = 0;
  await Promise.all(Array.from({ length: atOnce }, async () => {
    while (next < count) await request(next++);
  }));
  return performance.now() - start;
}

if (import.meta.main) {
  await main({
    name: "connection_pool",
    about: "Asks the Zen server over new connections, and over a pool of them, and compares.",
    permissions: "--allow-net",
    flags: {
      ...clientFlags(PORT),
      size: flag("N", "connections of the pool, and requests at once", number(1, 1000), "10"),
      requests: flag("N", "requests each way", number(1, 1_000_000), "1000"),
    },
  }, async (flags) => {
    const row = (name: string, ms: number, opened: number) =>
      console.log([
        name.padEnd(22),
        (ms / 1000).toFixed(2).padStart(7),
        Math.round(1000 * flags.requests / ms).toString().padStart(10),
        opened.toString().padStart(11),
      ].join("  "));
    const askAlone = async (number: number) => {
      using conn = new FramedConn(await connect(flags), flags);
      await ask(conn, number);
    };
    await measure(Math.min(100, flags.requests), flags.size, askAlone); // to warm up both programs
    const alone = await measure(flags.requests, flags.size, askAlone);
    await using pool = new ConnectionPool(flags, { size: flags.size, idleTimeout: 60_000 });
    const pooled = await measure(
      flags.requests,
      flags.size,
      (number) => pool.use((conn) => ask(conn, number)),
    );
    console.log(`${"".padEnd(22)}  seconds  requests/s  connections`);
    row("a new connection each", alone, flags.requests);
    row("through the pool", pooled, pool.opened);
    console.log(`saved: ${Math.round(100 * (1 - pooled / alone))}% of the time`);
  });
}
