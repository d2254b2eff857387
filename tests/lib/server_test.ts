import {
  assert,
  assertEquals,
  assertMatch,
  assertRejects,
  assertStringIncludes,
} from "@std/assert";
import {
  connect,
  connectDatagrams,
  type Endpoint,
  listen,
  listenDatagrams,
  parseAccessList,
} from "../../lib/address.ts";
import { askDatagram, FramedConn } from "../../lib/framing.ts";
import {
  type Answer,
  isBelow,
  serve,
  serveDatagrams,
  type ServeOptions,
} from "../../lib/server.ts";
import { mayConnect, mayRun, temporaryFolder } from "../helpers.ts";
import { Said } from "./said.ts";

type Options = Partial<ServeOptions> & { host?: string };
type Handler = (conn: FramedConn) => Promise<void>;

/** A server for one test. Leaving the block of its `await using` stops it. */
class Server implements AsyncDisposable {
  /** What it logged. */
  readonly said: Said = new Said();
  /** Settles when it has ended. */
  readonly ended: Promise<void>;
  readonly #stop = new AbortController();
  readonly #clients: FramedConn[] = [];

  /** Has `serve` or `serveDatagrams` run at an address. */
  constructor(readonly endpoint: Endpoint, run: (options: ServeOptions) => Promise<void>) {
    this.ended = run({ name: "test", signal: this.#stop.signal });
  }

  /** Starts one over TCP. */
  static async start(handler: Handler, options: Options = {}): Promise<Server> {
    const listener = await listen({ host: options.host ?? "127.0.0.1", port: 0 });
    const { port } = listener.addr as Deno.NetAddr;
    const run = (more: ServeOptions) => serve(listener, handler, { ...more, ...options });
    return new Server({ host: "127.0.0.1", port }, run);
  }

  /** Connects a client, which is closed with the server. */
  async client(): Promise<FramedConn> {
    const client = new FramedConn(await connect({ ...this.endpoint, timeout: 5000 }));
    this.#clients.push(client);
    return client;
  }

  stop(): void {
    this.#stop.abort();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.stop();
    for (const client of this.#clients) client.close();
    await this.ended;
    this.said[Symbol.dispose]();
  }
}

/** Sends each line back. */
async function echo(conn: FramedConn): Promise<void> {
  for (let line; (line = await conn.readLine()) !== null;) await conn.writeLine(line);
}

/** Sends a line and returns the answer. */
async function say(client: FramedConn, line: string): Promise<string | null> {
  await client.writeLine(line);
  return await client.readLine();
}

Deno.test({
  name: "a handler that fails is one line in the log, and the others go on",
  ignore: !mayConnect,
  async fn() {
    const failures: Record<string, [error: unknown, said: string]> = {
      error: [new Error("boom\nsecond line"), "boom"],
      system: [new Deno.errors.ConnectionReset("Reset (os error 104)"), "reset"],
      text: ["just text", "just text"],
      abort: [new DOMException("Signal timed out.", "TimeoutError"), "signal timed out."],
      frozen: [Object.freeze(new Error("cold")), "cold"],
    };
    await using server = await Server.start(async (conn) => {
      const line = await conn.readLine() ?? "";
      if (line in failures) throw failures[line][0];
      await conn.writeLine(line);
      await echo(conn);
    });
    const bystander = await server.client();
    assertEquals(await say(bystander, "before"), "before");
    for (const [name, [, said]] of Object.entries(failures)) {
      server.said.lines.length = 0;
      const client = await server.client();
      assertEquals(await say(client, name), null);
      assertEquals(await say(bystander, "after"), "after");
      const { port } = client.conn.localAddr as Deno.NetAddr;
      assertEquals(server.said.lines, [`test: 127.0.0.1:${port}: ${said}`]);
    }
  },
});

Deno.test({
  name: "an error that repeats what the network sent is logged with escapes",
  ignore: !mayConnect,
  async fn() {
    const fail = (text: string) => {
      throw new Error(`unknown command ${text}`);
    };
    await using stream = await Server.start(async (conn) => fail(await conn.readLine() ?? ""));
    assertEquals(await say(await stream.client(), "\x1b[31m\x07"), null);
    assertStringIncludes(stream.said.lines[1], "unknown command \\x1b[31m\\x07");

    await using datagrams = await startDatagrams((data) => fail(new TextDecoder().decode(data)));
    const { socket, server } = await connectDatagrams(datagrams.endpoint);
    await socket.send(new TextEncoder().encode("\x1b[31m\x07"), server);
    socket.close();
    await datagrams.said.until(/unknown/);
    assertStringIncludes(datagrams.said.lines[1], "unknown command \\x1b[31m\\x07");
  },
});

Deno.test({
  name: "past maxConnections connections wait in the backlog, and each gets its turn",
  ignore: !mayConnect,
  async fn() {
    let [now, most] = [0, 0];
    await using server = await Server.start(async (conn) => {
      most = Math.max(most, ++now);
      await echo(conn);
      now--;
    }, { maxConnections: 2 });
    const clients = [];
    for (let i = 0; i < 6; i++) clients.push(await server.client());
    for (const client of clients) {
      for (let i = 0; i < 5; i++) assertEquals(await say(client, "hello"), "hello");
      client.close();
    }
    assertEquals(most, 2);
    const said = server.said.lines.filter((line) => line.includes("connections"));
    assertEquals(said, ["test: 2 connections, others wait"]);
  },
});

Deno.test({
  name: "idleTimeout closes a silent connection, and not one that is active either way",
  ignore: !mayConnect,
  async fn() {
    await using server = await Server.start(echo, { idleTimeout: 500 });
    const [silent, active] = [await server.client(), await server.client()];
    const began = performance.now();
    let closed = false;
    const end = silent.readToEnd(1).then(({ length }) => length).finally(() => closed = true);
    while (!closed) {
      assertEquals(await say(active, "hello"), "hello");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    assertEquals(await end, 0);
    assert(performance.now() - began >= 490);
    const { port } = silent.conn.localAddr as Deno.NetAddr;
    await server.said.until(/silent/);
    assertEquals(server.said.lines.slice(1), [
      `test: 127.0.0.1:${port}: closed, silent for 0.5 s`,
    ]);
    assertEquals(await say(active, "still here"), "still here");
  },
});

Deno.test({
  name: "allowFrom: anybody else is closed at once, with a line in the log",
  ignore: !mayConnect,
  async fn() {
    {
      await using server = await Server.start(echo, { allowFrom: parseAccessList(["10.0.0.0/8"]) });
      const client = await server.client();
      assertEquals((await client.readToEnd(1)).length, 0);
      const { port } = client.conn.localAddr as Deno.NetAddr;
      assertMatch(server.said.lines[1], new RegExp(`^test: 127\\.0\\.0\\.1:${port}: refused`));
    }
    for (const host of ["127.0.0.1", "::"]) { // to the second it comes as ::ffff:127.0.0.1
      const allowFrom = parseAccessList(["127.0.0.0/8"]);
      await using server = await Server.start(echo, { allowFrom, host });
      assertEquals(await say(await server.client(), "hello"), "hello");
    }
  },
});

Deno.test({
  name: "an answer in two writes is not held back until the first is acknowledged",
  ignore: !mayConnect,
  async fn() {
    await using server = await Server.start(async (conn) => {
      while (await conn.readLine() !== null) {
        await conn.writeAll("ans");
        await conn.writeAll("wer\n");
      }
    });
    const client = await server.client();
    const start = performance.now();
    for (let i = 0; i < 200; i++) {
      await client.writeLine("question");
      assertEquals(await client.readLine(), "answer");
    }
    // With Nagle's algorithm each takes the 40 ms in which the client delays its ACK.
    assert(performance.now() - start < 4000);
  },
});

Deno.test({
  name: "a client that sends 16 MiB, more than the kernel keeps, first still gets the answer",
  ignore: !mayConnect,
  async fn() {
    await using server = await Server.start((conn) => conn.writeLine("answer"));
    const client = await server.client();
    await client.writeAll(new Uint8Array(16 * 1024 * 1024));
    assertEquals(new TextDecoder().decode(await client.readToEnd(100)), "answer\r\n");
  },
});

Deno.test({
  name: "a server that is stopped lets a conversation end, and takes no other",
  ignore: !mayConnect,
  async fn() {
    await using server = await Server.start(echo);
    const client = await server.client();
    assertEquals(await say(client, "hello"), "hello");
    server.stop();
    const late = async () => await say(await server.client(), "hello");
    assertEquals(await late().catch(() => null), null); // refused, or reset from the backlog
    assertEquals(await say(client, "still here"), "still here");
    client.close();
    await server.ended;
    assertEquals(server.said.lines, [
      `test: listening on 127.0.0.1:${server.endpoint.port}`,
      "test: stopping, 5 s for open connections (1); Ctrl-C again: none",
    ]);
  },
});

Deno.test({
  name: "a server with nothing open stops at once, even one that was stopped before it began",
  ignore: !mayConnect,
  async fn() {
    const began = performance.now();
    await using idle = await Server.start(echo);
    idle.stop();
    await idle.ended;
    await using early = await Server.start(echo, { signal: AbortSignal.abort() });
    await early.ended;
    assert(performance.now() - began < 2500);
  },
});

Deno.test({
  name: "within 5 s, who never hangs up is closed and who never ends is cut off",
  ignore: !mayConnect,
  async fn() {
    const began = performance.now();
    await using busy = await Server.start((conn) => conn.writeLine("bye"), { maxConnections: 1 });
    const lingering = await busy.client();
    assertEquals(await lingering.readLine(), "bye");
    const next = (await busy.client()).readLine(); // it waits for the one place

    await using stopping = await Server.start(echo);
    const stuck = await stopping.client();
    assertEquals(await say(stuck, "hello"), "hello");
    stopping.stop();
    await stopping.ended;
    assertEquals((await stuck.readToEnd(1)).length, 0);
    // Once: what the conversation makes of it is no news.
    const said = stopping.said.lines.filter((line) => /cut off|over|closed/.test(line));
    assertEquals(said.length, 1, `${said}`);
    assertEquals(await next, "bye");
    const took = performance.now() - began;
    assert(took > 4500 && took < 9000, `${took} ms`);
  },
});

Deno.test({
  name: "accept may fail: it is said once, and the next connection is served",
  ignore: !mayConnect,
  async fn() {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    let failures = 3;
    const failing = {
      addr: listener.addr,
      close: () => listener.close(),
      accept: () => {
        if (failures-- > 0) throw new Error("Too many open files (os error 24)");
        return listener.accept();
      },
    } as unknown as Deno.Listener;
    const endpoint = { host: "127.0.0.1", port: listener.addr.port };
    await using server = new Server(endpoint, (options) => serve(failing, echo, options));
    assertEquals(await say(await server.client(), "hello"), "hello");
    assertEquals(server.said.lines.length, 2);
    assertMatch(server.said.lines[1], /^test: cannot accept.*: too many open files$/);
  },
});

type DatagramHandler = (data: Uint8Array, from: Deno.Addr) => Answer | Promise<Answer>;

/** Starts one for datagrams. */
async function startDatagrams(
  handler: DatagramHandler,
  { unix, ...options }: Options & { unix?: string } = {},
): Promise<Server> {
  const socket = await listenDatagrams({ host: "127.0.0.1", port: 0, unix });
  const port = "port" in socket.addr ? socket.addr.port : 0;
  const run = (more: ServeOptions) => serveDatagrams(socket, handler, { ...more, ...options });
  return new Server({ host: "127.0.0.1", port, unix, timeout: 5000 }, run);
}

const octets = (length: number) => Uint8Array.from({ length }, (_, at) => at * 7);

Deno.test({
  name: "datagrams of every size come back whole",
  ignore: !mayConnect,
  async fn() {
    await using server = await startDatagrams((data) => data);
    for (const size of [0, 1, 512, 1500, 65507]) {
      assertEquals(await askDatagram(server.endpoint, octets(size)), octets(size));
    }
    const line = `test: listening on 127.0.0.1:${server.endpoint.port} (udp)`;
    assertEquals(server.said.lines, [line]);
  },
});

Deno.test({
  name: "no datagram is answered that says it comes from a small service",
  ignore: !mayConnect,
  async fn() {
    const seen: number[] = [];
    await using server = await startDatagrams((data, from) => {
      seen.push((from as Deno.NetAddr).port);
      return data;
    });
    const to = { ...server.endpoint, hostname: "127.0.0.1", transport: "udp" } as const;
    const forged = [7, 13, 17, 19, 37].flatMap((port) => [port, 8000 + port]).filter((port) => {
      try {
        Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port }).close();
        return true;
      } catch {
        return false; // taken, or not ours to take
      }
    });
    assert(forged.length > 0, "none of the ports is free");
    for (const port of forged) {
      const socket = await listenDatagrams({ host: "127.0.0.1", port });
      await socket.send(octets(3), to);
      socket.close();
    }
    await askDatagram(server.endpoint, octets(3));
    assertEquals(seen.filter((port) => forged.includes(port)), []);
    assertEquals(seen.length, 1);
  },
});

Deno.test({
  name: "a datagram handler may fail, or answer nothing, and only who is allowed is answered",
  ignore: !mayConnect,
  async fn() {
    await using server = await startDatagrams((data) => {
      if (data.length === 1) throw new DOMException("boom");
      return data.length === 2 ? undefined : data;
    });
    const { socket, server: to } = await connectDatagrams(server.endpoint);
    for (const size of [1, 2, 1, 0]) await socket.send(octets(size), to);
    assertEquals((await socket.receive())[0].length, 0);
    const { port } = socket.addr as Deno.NetAddr;
    socket.close();
    assertEquals(server.said.lines.slice(1), Array(2).fill(`test: 127.0.0.1:${port}: boom`));

    const allowFrom = parseAccessList(["10.0.0.0/8"]);
    let called = 0;
    await using closed = await startDatagrams(() => void called++, { allowFrom });
    const asked = askDatagram({ ...closed.endpoint, timeout: 100 }, octets(1), { retry: false });
    await assertRejects(() => asked, Deno.errors.TimedOut);
    assertEquals(called, 0);
  },
});

Deno.test({
  name: "datagrams over a Unix socket, whose file goes with the server",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    {
      const unix = `${folder.path}/socket`;
      await using server = await startDatagrams((data) => data, { unix });
      for (const size of [1, 1500, 65507]) {
        assertEquals(await askDatagram(server.endpoint, octets(size)), octets(size));
      }
      assertEquals(server.said.lines, [`test: listening on unix:${unix} (unixpacket)`]);
    }
    assertEquals([...Deno.readDirSync(folder.path)], []);
  },
});

Deno.test("what is below a folder is not what only begins with its name", () => {
  for (
    const [root, path, below] of [
      ["/a/b", "/a/b", true],
      ["/a/b", "/a/b/c", true],
      ["/a/b", "/a/bc", false],
      ["/a/b", "/a", false],
      ["/a/b", "/", false],
      ["/", "/", true],
      ["/", "/etc", true],
    ] as const
  ) assertEquals(isBelow(root, path), below, `${root} ${path}`);
});
