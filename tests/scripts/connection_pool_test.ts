import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { delay } from "@std/async/delay";
import { createServer, type Socket } from "node:net";
import { ask, ConnectionPool } from "../../scripts/connection_pool.ts";
import type { FramedConn } from "../../lib/framing.ts";
import { mayConnect, mayRun, missing, run, start, temporaryFolder } from "../helpers.ts";
import { eventually } from "../peers/peers.ts";
import { FILES, inEachForm, testServer } from "./rig.ts";

const ANSWERS: Record<string, string> = {
  "Beautiful is better than?": "Ugly.",
  "Explicit is better than?": "Implicit.",
  "Simple is better than?": "Complex.",
};
const FOR_EVER = 1e8; // milliseconds in which nothing retires
const QUESTION = "Simple is better than?";

/** A server of the conversation that keeps count of its connections. */
class Counting implements AsyncDisposable {
  total = 0;
  open = 0;
  most = 0;
  /** The connections, in order. */
  readonly conns: FramedConn[] = [];
  readonly #server: ReturnType<typeof testServer>;
  readonly endpoint: { host: string; port: number; timeout: number };

  /** `after` is done after each answer; the number is the connection's, from 1. */
  constructor(after: (conn: FramedConn, number: number) => Promise<unknown> | void = () => {}) {
    this.#server = testServer(async (conn) => {
      this.conns.push(conn);
      const number = ++this.total;
      this.most = Math.max(this.most, ++this.open);
      try {
        for (let question; (question = await conn.readUntil("?")) !== null;) {
          await conn.writeAll(ANSWERS[question] ?? "Error: unknown aphorism.");
          await after(conn, number);
        }
      } finally {
        this.open--;
      }
    });
    this.endpoint = { host: "127.0.0.1", port: this.#server.port, timeout: 10_000 };
  }

  get port(): number {
    return this.#server.port;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#server[Symbol.asyncDispose]();
  }
}

/** A test that leaves no timer and no connection. */
function poolTest(name: string, fn: () => Promise<void>): void {
  const strict = { sanitizeOps: true, sanitizeResources: true };
  Deno.test({ name: `ConnectionPool ${name}`, ignore: !mayConnect, ...strict, fn });
}

poolTest("has at most so many connections, and opens none without need", async () => {
  await using server = new Counting();
  await using pool = new ConnectionPool(server.endpoint, { size: 3, idleTimeout: FOR_EVER });
  assertEquals(server.total, 0);
  for (let i = 0; i < 5; i++) await pool.use((conn) => ask(conn, i));
  assertEquals([pool.opened, server.total], [1, 1]);

  let [lent, most] = [0, 0];
  const used = new Set<FramedConn>();
  await Promise.all(Array.from({ length: 50 }, (_, i) =>
    pool.use(async (conn) => {
      most = Math.max(most, ++lent);
      used.add(conn);
      for (let turn = 0; turn <= i % 4; turn++) await ask(conn, i + turn);
      lent--;
    })));
  assertEquals([most, used.size, pool.opened, server.total, server.most], [3, 3, 3, 3, 3]);
  assertEquals(await pool.use((conn) => Promise.resolve(used.has(conn))), true);
});

poolTest("serves in order those who wait, and lets nobody push in", async () => {
  await using server = new Counting();
  await using pool = new ConnectionPool(server.endpoint, { size: 1, idleTimeout: FOR_EVER });
  const order: number[] = [];
  const late: Promise<void>[] = [];
  const use = (number: number) =>
    pool.use(async (conn) => {
      order.push(number);
      await ask(conn, number);
      // Who comes at the very moment when a connection gets free is last in the queue.
      if (number < 100) late.push(use(number + 100));
      if (number % 7 === 3) throw new Error("a failure makes no difference");
    }).catch(() => {});
  const first = Array.from({ length: 20 }, (_, i) => use(i));
  await Promise.all(first);
  await Promise.all(late);
  const waited = Array.from({ length: 20 }, (_, i) => i);
  assertEquals(order, [...waited, ...waited.map((number) => number + 100)]);
});

/** Does `late` when so many callbacks have run after `gate`, that is between any two steps of the pool. */
async function inBetween(gate: Promise<void>, turns: number, late: () => void): Promise<void> {
  await gate;
  for (let i = 0; i < turns; i++) await null;
  late();
}

poolTest("lets nobody push in at the moment when a connection gets free", async () => {
  await using server = new Counting();
  for (let turns = 0; turns < 12; turns++) {
    await using pool = new ConnectionPool(server.endpoint, { size: 1, idleTimeout: FOR_EVER });
    const gate = Promise.withResolvers<void>();
    const order: string[] = [];
    let [lent, most, newcomer] = [0, 0, Promise.resolve()];
    const use = (name: string, until = Promise.resolve()) =>
      pool.use(async (conn) => {
        order.push(name);
        most = Math.max(most, ++lent);
        await ask(conn, 0);
        await until;
        lent--;
      });
    const others = [use("holder", gate.promise), use("first"), use("second")];
    await eventually("lent", () => lent === 1);
    const pushing = inBetween(gate.promise, turns, () => newcomer = use("newcomer"));
    gate.resolve();
    await pushing;
    await Promise.all([...others, newcomer]);
    assertEquals([order, most], [["holder", "first", "second", "newcomer"], 1], `${turns}`);
  }
});

poolTest("never hands out what is spoilt already, at whatever moment", async () => {
  await using server = new Counting();
  for (let turns = 0; turns < 12; turns++) {
    await using pool = new ConnectionPool(server.endpoint, { size: 2, idleTimeout: FOR_EVER });
    const gate = Promise.withResolvers<void>();
    let left: FramedConn | undefined;
    const leaving = pool.use(async (conn) => {
      await conn.writeAll(QUESTION.repeat(2));
      await conn.readExactly(15); // of 16 octets, so that the last is in the buffer
      left = conn;
      await gate.promise;
    });
    await eventually("left", () => left !== undefined);
    let newcomer = Promise.resolve();
    const coming = inBetween(gate.promise, turns, () => {
      newcomer = pool.use(async (conn) => {
        assert(conn !== left, `${turns}`);
        await ask(conn, 0);
      });
    });
    gate.resolve();
    await Promise.all([leaving, coming]);
    await newcomer;
  }
});

for (
  const [what, spoil] of [
    ["has hung up", (conn) => conn.conn.closeWrite()],
    ["has sent something unasked", (conn) => conn.writeAll("You are idle.")],
  ] as [string, (conn: FramedConn) => Promise<void>][]
) {
  poolTest(`hands out no connection whose server ${what}`, async () => {
    await using server = new Counting();
    await using pool = new ConnectionPool(server.endpoint, { size: 5, idleTimeout: FOR_EVER });
    const three = () => Promise.all([0, 1, 2].map((i) => pool.use((conn) => ask(conn, i))));
    await three();
    assertEquals([server.total, server.open], [3, 3]);
    for (const conn of server.conns) await spoil(conn);
    // It closes them without having been asked for one.
    await eventually("closed", () => server.open === 0);
    await three();
    assertEquals([server.total, pool.opened], [6, 6]);
  });
}

poolTest("hands out no connection that was reset", async () => {
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on("error", () => {});
    socket.on("data", () => socket.write("Complex."));
  });
  const port = await new Promise<number>((resolve) =>
    server.listen(0, "127.0.0.1", () => resolve((server.address() as { port: number }).port))
  );
  {
    const endpoint = { host: "127.0.0.1", port };
    await using pool = new ConnectionPool(endpoint, { size: 1, idleTimeout: FOR_EVER });
    const borrowed = await pool.use(async (conn) => (await ask(conn, 2), conn));
    sockets[0].resetAndDestroy();
    await assertRejects(() => borrowed.readable()); // from now on it can be known
    await pool.use((conn) => ask(conn, 2));
    assertEquals(pool.opened, 2);
  }
  await new Promise((resolve) => server.close(resolve));
});

poolTest("hands out no connection that a conversation left in the middle", async () => {
  await using server = new Counting();
  await using pool = new ConnectionPool(server.endpoint, { size: 1, idleTimeout: FOR_EVER });
  const leavings: ((conn: FramedConn) => Promise<unknown>)[] = [
    async (conn) => {
      await conn.writeAll(QUESTION.repeat(2));
      await conn.readExactly(15); // of 16 octets, so that the last is in the buffer
    },
    async (conn) => {
      await ask(conn, 0);
      conn.close();
    },
    async (conn) => {
      await conn.writeAll(QUESTION);
      throw new Error("stop");
    },
  ];
  for (const [i, leave] of leavings.entries()) {
    // The next one waits already, and gets its connection at once.
    const left = pool.use(leave).catch((error) => assertEquals(error.message, "stop"));
    await Promise.all([left, pool.use((conn) => ask(conn, 1))]);
    assertEquals(server.total, 1 + i + 1);
  }
  await eventually("all but one closed", () => server.open === 1);
});

poolTest("retires what nobody needs, and that only", async () => {
  await using server = new Counting();
  await using pool = new ConnectionPool(server.endpoint, { size: 3, idleTimeout: 300 });
  await Promise.all([0, 1, 2].map((i) => pool.use((conn) => ask(conn, i))));
  assertEquals(server.open, 3);
  // The one used last is used again: the other two get old meanwhile.
  const began = performance.now();
  const used = new Set<FramedConn>();
  await eventually("two retired", async () => {
    await pool.use(async (conn) => {
      used.add(conn);
      await ask(conn, 0);
    });
    return server.open === 1;
  });
  assert(performance.now() - began > 200);
  assertEquals([used.size, server.total], [1, 3]);
  // One that is lent does not get old.
  await pool.use(async (conn) => {
    await delay(600);
    assert(used.has(conn));
    await ask(conn, 0);
  });
  await eventually("the last one retired", () => server.open === 0);
  await pool.use((conn) => ask(conn, 0));
  assertEquals(server.total, 4);
});

poolTest("passes an error on, and nobody else notices", async () => {
  await using server = new Counting();
  await using pool = new ConnectionPool(server.endpoint, { size: 2, idleTimeout: FOR_EVER });
  const gate = Promise.withResolvers<void>();
  const other = pool.use(async (conn) => {
    await ask(conn, 0);
    await gate.promise;
    await ask(conn, 1);
    return "fine";
  });
  const error = new Error("mine");
  const failing = pool.use(async (conn) => {
    await ask(conn, 0);
    throw error;
  });
  assertEquals(await failing.catch((thrown) => thrown), error);
  await eventually("its connection closed", () => server.open === 1);
  gate.resolve();
  assertEquals(await other, "fine");
  await Promise.all([0, 1].map((i) => pool.use((conn) => ask(conn, i))));
  assertEquals([server.total, server.open], [3, 2]);
});

poolTest(
  "fails a conversation whose connection dies under the question, and no other",
  async () => {
    // The first connection answers once; it is idle, and alive, until the next question comes.
    await using server = new Counting(async (conn, number) => {
      if (number > 1) return;
      await conn.readUntil("?");
      conn.close();
    });
    await using pool = new ConnectionPool(server.endpoint, { size: 1, idleTimeout: FOR_EVER });
    await pool.use((conn) => ask(conn, 0));
    const [lost, next] = [pool.use((conn) => ask(conn, 1)), pool.use((conn) => ask(conn, 2))];
    await assertRejects(() => lost, Deno.errors.UnexpectedEof, "hung up without an answer");
    await next;
    assertEquals([server.total, pool.opened], [2, 2]);
  },
);

poolTest("tells who asked that opening failed, and lets the next one try", async () => {
  const { ConnectionRefused } = Deno.errors;
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  const endpoint = { host: "127.0.0.1", port };
  await using pool = new ConnectionPool(endpoint, { size: 1, idleTimeout: FOR_EVER });
  const gate = Promise.withResolvers<void>();
  const holder = pool.use(() => gate.promise); // it has the only connection
  const accepted = await listener.accept();
  const waiting = Array.from({ length: 5 }, (_, i) => pool.use((conn) => ask(conn, i)));
  const outcomes = Promise.allSettled(waiting);
  listener.close();
  accepted.close();
  gate.reject(new Error("lost"));
  await assertRejects(() => holder, Error, "lost");
  for (const outcome of await outcomes) {
    assert(outcome.status === "rejected" && outcome.reason instanceof ConnectionRefused);
    assertEquals(outcome.reason.message, `127.0.0.1:${port}: connection refused`);
  }
  assertEquals(pool.opened, 1);
  // All places are free again.
  const again = Deno.listen({ hostname: "127.0.0.1", port });
  const [conn] = await Promise.all([again.accept(), pool.use(() => Promise.resolve())]);
  conn.close();
  again.close();
});

poolTest("closed, refuses who waits, and lets a conversation end", async () => {
  await using server = new Counting();
  const pool = new ConnectionPool(server.endpoint, { size: 2, idleTimeout: FOR_EVER });
  const gate = Promise.withResolvers<void>();
  const holder = pool.use(async (conn) => {
    await ask(conn, 0);
    await gate.promise;
    await ask(conn, 1);
    return "done";
  });
  const failing = assertRejects(
    () =>
      pool.use(async (conn) => {
        await ask(conn, 0);
        await gate.promise;
        throw new Error("mine");
      }),
    Error,
    "mine",
  );
  await eventually("two lent", () => server.open === 2);
  const waiting = Array.from({ length: 3 }, () => pool.use((conn) => ask(conn, 0)));
  const refused = Promise.all(
    waiting.map((use) => assertRejects(() => use, Deno.errors.BadResource)),
  );

  let closed = false;
  const closing = pool.close().then(() => closed = true);
  await refused;
  await assertRejects(() => pool.use(() => Promise.resolve()), Deno.errors.BadResource);
  assertEquals([closed, server.open], [false, 2]);
  gate.resolve();
  assertEquals(await holder, "done");
  await failing;
  await closing;
  await eventually("all closed", () => server.open === 0);
  assertEquals(server.total, 2);
  await pool.close(); // once more does no harm
});

poolTest("closes at the end of its block what is idle", async () => {
  await using server = new Counting();
  {
    await using pool = new ConnectionPool(server.endpoint, { size: 9, idleTimeout: FOR_EVER });
    await Promise.all(Array.from({ length: 30 }, (_, i) => pool.use((conn) => ask(conn, i))));
    assertEquals(server.open, 9);
  }
  await eventually("all closed", () => server.open === 0);
  {
    await using _unused = new ConnectionPool(server.endpoint, { size: 9, idleTimeout: FOR_EVER });
  }
  assertEquals(server.total, 9);
});

/** The program's table. */
function table(stdout: string): { alone: number; pooled: number } {
  const [head, ...rows] = stdout.trimEnd().split("\n");
  assertMatch(head, /^ +seconds +requests\/s +connections$/);
  assertMatch(rows[2], /^saved: -?\d+% of the time$/);
  const [, alone] = /^a new connection each +\d+\.\d\d +\d+ +(\d+)$/.exec(rows[0]) ?? [];
  const [, pooled] = /^through the pool +\d+\.\d\d +\d+ +(\d+)$/.exec(rows[1]) ?? [];
  return { alone: Number(alone), pooled: Number(pooled) };
}

Deno.test({
  name: "connection_pool opens what it says, and all its answers are right",
  ignore: !mayRun,
  async fn() {
    await using server = new Counting();
    const port = ["--port", `${server.port}`];
    const few = await run("connection_pool", [...port, "--requests", "60", "--size", "4"]);
    assertEquals([few.code, few.stderr], [0, ""]);
    assertEquals(table(few.stdout), { alone: 60, pooled: 4 });
    assertEquals(server.total, 60 + 60 + 4); // the first ones to warm up
    const one = await run("connection_pool", [...port, "--requests", "1"]);
    assertEquals([table(one.stdout), server.total], [{ alone: 1, pooled: 1 }, 124 + 3]);
  },
});

Deno.test({
  name: "connection_pool in each form",
  ignore: !mayRun || missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    for await (const { form, server, ask } of inEachForm("zen_server", folder.path)) {
      const args = [...ask, "--requests", "40", "--size", "5"];
      const { code, stdout, stderr } = await run("connection_pool", args, { permissions: FILES });
      assertEquals([code, stderr], [0, ""], form);
      assertEquals(table(stdout), { alone: 40, pooled: 5 }, form);
      server.signal("SIGINT");
      const log = (await server.ended()).stderr;
      assertEquals(log.split("\n").length, 2, log); // that it listens, and nothing of anybody cut off
    }
  },
});

Deno.test({
  name: "connection_pool at a server that lies, dies or serves one at a time",
  ignore: !mayRun,
  async fn() {
    await using liar = testServer(async (conn) => {
      await conn.readUntil("?");
      await conn.writeAll("Uncertain.");
      await conn.readToEnd(1000);
    });
    const lied = await run("connection_pool", ["--port", `${liar.port}`]);
    const says = `connection_pool: 127.0.0.1:${liar.port}: a wrong answer\n`;
    assertEquals(lied, { code: 1, stdout: "", stderr: says });

    // With the 20th connection, the first of the pool, it answers no more.
    let connections = 0;
    await using dying = testServer(async (conn) => {
      const dead = ++connections === 20;
      for (let question; (question = await conn.readUntil("?")) !== null && !dead;) {
        await conn.writeAll(ANSWERS[question]);
      }
    });
    const args = ["--port", `${dying.port}`, "--requests", "19", "--size", "1"];
    const died = await run("connection_pool", args);
    const lost = `connection_pool: 127.0.0.1:${dying.port}: hung up without an answer\n`;
    assertEquals(died, { code: 1, stdout: "", stderr: lost });

    await using sequential = start("zen_server", ["--port", "0", "--style", "sequential"]);
    const port = ["--port", `${await sequential.port()}`, "--requests", "30"];
    const alone = await run("connection_pool", [...port, "--size", "1"]);
    assertEquals([alone.code, table(alone.stdout)], [0, { alone: 30, pooled: 1 }]);
    // An idle connection is a silent client: the other one is never served.
    const both = await run("connection_pool", [...port, "--size", "2", "--timeout", "0.5"]);
    assertEquals([both.code, both.stdout], [1, ""]);
    assertMatch(both.stderr, /^connection_pool: 127\.0\.0\.1:\d+: no answer within 0\.5 s.*\n$/);
  },
});
