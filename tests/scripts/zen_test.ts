import { assert, assertEquals, assertMatch } from "@std/assert";
import { delay } from "@std/async/delay";
import { once } from "node:events";
import { connect as connectNode } from "node:net";
import { Histogram, load, report, ZEN } from "../../scripts/zen_client.ts";
import { FramedConn } from "../../lib/framing.ts";
import { mayConnect, mayRun, missing, Program, run, start, temporaryFolder } from "../helpers.ts";
import { dial, eventually, hear } from "../peers/peers.ts";
import { FILES, forms, testServer } from "./rig.ts";

const STYLES = ["sequential", "concurrent", "workers"];
const QUESTIONS = ZEN.map(([question]) => question).join("");
const ANSWERS = ZEN.map(([, answer]) => answer).join("");
const PRINTED = ZEN.map(([question, answer]) => `${question} ${answer}\n`).join("");
const UNKNOWN = "Error: unknown aphorism.";

/** Starts the server in a style; all of its threads listen. */
async function startZen(
  style: string,
  ...args: string[]
): Promise<AsyncDisposable & { server: Program; port: number }> {
  const permissions = style === "workers" ? ["--allow-read"] : [];
  const server = start("zen_server", ["--port", "0", "--style", style, ...args], permissions);
  const port = await server.port();
  await said(server, ": listening on ", style === "workers" ? navigator.hardwareConcurrency : 1);
  return { server, port, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() };
}

/** Waits until a program has said so on stderr as often as that. */
async function said(program: Program, text: string, times: number): Promise<void> {
  await eventually(text, () => program.stderr.split(text).length > times);
}

/** Ends the server with Ctrl-C, and returns its log but for the lines that it listens. */
async function logOf(server: Program): Promise<string[]> {
  server.signal("SIGINT");
  const { code, stdout, stderr } = await server.ended();
  assertEquals([code, stdout], [0, ""], stderr);
  return stderr.split("\n").filter((line) => line && !line.includes(": listening on "));
}

/** Sends all over a connection of its own, ends its side and returns what comes. */
async function send(port: number, data: string | Uint8Array): Promise<string> {
  using conn = await dial(port);
  await conn.writeAll(data);
  await conn.conn.closeWrite();
  return await hear(conn);
}

async function ask(conn: FramedConn, question: string): Promise<string | null> {
  await conn.writeAll(question);
  return await conn.readUntil(".");
}

/** The name that the server's log has for a connection. */
function nameOf(conn: FramedConn): string {
  return `127.0.0.1:${(conn.conn.localAddr as Deno.NetAddr).port}`;
}

for (const style of STYLES) {
  const zenTest = (title: string, fn: () => Promise<void>) =>
    Deno.test({ name: `zen_server, ${style}: ${title}`, ignore: !mayRun, fn });

  zenTest("any number of questions, from many clients, one by one and all at once", async () => {
    await using zen = await startZen(style);
    await Promise.all(Array.from({ length: 30 }, async (_, i) => {
      using conn = await dial(zen.port);
      for (let turn = i; turn < i + 7; turn++) {
        const [question, answer] = ZEN[turn % 3];
        assertEquals(await ask(conn, question), answer);
      }
    }));
    assertEquals(await send(zen.port, ""), "");
    assertEquals(await send(zen.port, QUESTIONS.repeat(500)), ANSWERS.repeat(500));
    assertEquals(await logOf(zen.server), []);
  });

  zenTest("questions split and joined at every byte", async () => {
    await using zen = await startZen(style, "--trace");
    const { server, port } = zen;
    for (let cut = 0; cut <= QUESTIONS.length; cut++) {
      const parts = [QUESTIONS.slice(0, cut), QUESTIONS.slice(cut)];
      using conn = await dial(port);
      // By its trace the server has received each part for itself.
      for (const part of parts.filter((part) => part)) {
        await conn.writeAll(part);
        const received = `< ${nameOf(conn)} ${part}\n`;
        await server.until(new RegExp(received.replaceAll(/[.?]/g, "\\$&")), "stderr");
      }
      await conn.conn.closeWrite();
      assertEquals(await hear(conn), ANSWERS, `cut at ${cut}`);
    }
  });

  zenTest("what is no aphorism, too long, cut off, junk or reset", async () => {
    await using zen = await startZen(style);
    const { server, port } = zen;
    const junk = Uint8Array.from([...Array(256).keys(), 0x3f], (octet) => octet);
    assertEquals(
      await send(port, "?Flat is better than? Simple is better than?"),
      UNKNOWN.repeat(3),
    );
    assertEquals(
      await send(port, "simple is better than?\nSimple is better than?"),
      UNKNOWN.repeat(2),
    );
    assertEquals(await send(port, junk), UNKNOWN.repeat(2)); // a "?" is among the 256 octets
    assertEquals(await send(port, "x".repeat(1023) + "?" + QUESTIONS), UNKNOWN + ANSWERS);

    // Those that fail: what was asked before is answered, and a line in the log says why.
    const failures: string[] = [];
    for (
      const [data, answers, says] of [
        [`${QUESTIONS}${"x".repeat(1024)}?`, ANSWERS, "message of more than 1024 bytes"],
        ["x".repeat(100_000), "", "message of more than 1024 bytes"],
        [`${QUESTIONS}Beautiful is`, ANSWERS, "connection ended in the middle of a message"],
      ]
    ) {
      using conn = await dial(port);
      await conn.writeAll(data);
      if (says.startsWith("connection ended")) await conn.conn.closeWrite();
      assertEquals(await hear(conn), answers);
      failures.push(`${nameOf(conn)}: ${says}`);
    }
    const socket = connectNode(port, "127.0.0.1");
    socket.write(`${QUESTIONS}Simple`);
    await once(socket, "data"); // it has been accepted
    failures.push(`127.0.0.1:${socket.localPort}: connection reset by peer`);
    socket.resetAndDestroy();
    await server.until(/ reset by peer\n/, "stderr");

    assertEquals(await send(port, QUESTIONS), ANSWERS);
    const log = (await logOf(server)).map((line) => line.replace(/^zen_server( \(.*?\))?: /, ""));
    assertEquals(log, failures);
  });

  zenTest("--cost takes processor time", async () => {
    const [cost, count] = [20, 15];
    const spent: number[] = [];
    for (const args of [[], ["--cost", `${cost}`]]) {
      await using zen = await startZen(style, ...args);
      using conn = await dial(zen.port);
      await ask(conn, QUESTIONS);
      const before = processorTime(zen.server);
      for (let i = 0; i < count; i++) await ask(conn, "Simple is better than?");
      spent.push(processorTime(zen.server) - before);
    }
    assert(spent[0] < cost * count / 2, `${spent} ms`);
    assert(spent[1] > cost * count * 0.8, `${spent} ms`);
  });

  Deno.test({
    name: `zen_server, ${style}, and zen_client in each form`,
    ignore: !mayRun || missing("openssl"),
    async fn() {
      await using folder = await temporaryFolder();
      for (const [form, listen, found] of await forms(folder.path)) {
        const args = ["--port", "0", "--style", style, ...listen];
        if (style === "workers" && form === "Unix") {
          const { code, stderr } = await run("zen_server", args, { permissions: FILES });
          assertEquals(code, 2);
          assertMatch(stderr, /^zen_server: workers share a port, not a --unix path.*\n$/);
          continue;
        }
        await using server = start("zen_server", args, FILES);
        const [, port] = await server.until(/listening on .*?:(\d+|\/.*)\n/, "stderr");
        const where = form === "Unix" ? found : ["--port", port, ...found];
        for (const more of [[], ["--connections", "1", "--seconds", "0.1"]]) {
          const { code, stdout, stderr } = await run("zen_client", [...where, ...more], {
            permissions: FILES,
          });
          assertEquals([code, stderr], [0, ""], form);
          if (more.length === 0) assertEquals(stdout, PRINTED, form);
          else assertMatch(stdout, /^[1-9]\d* questions answered in \d+\.\d\d s, \d+ per second\n/);
        }
        assertEquals(await logOf(server), [], form); // nobody was cut off, over TLS either
      }
    },
  });
}

/** The milliseconds of processor time that a program has taken so far. */
function processorTime(program: Program): number {
  const stat = Deno.readTextFileSync(`/proc/${program.pid}/stat`);
  const [user, system] = stat.slice(stat.lastIndexOf(")")).split(" ").slice(12, 14).map(Number);
  return (user + system) * 10; // the kernel counts hundredths of a second
}

Deno.test({
  name: "zen_server: 20 silent clients stop sequential",
  ignore: !mayRun,
  async fn() {
    await using zen = await startZen("sequential");
    using used = new DisposableStack();
    const silent: FramedConn[] = [];
    for (let i = 0; i < 20; i++) silent.push(used.use(await dial(zen.port)));
    using other = used.use(await dial(zen.port));
    await other.writeAll(QUESTIONS);
    let answered = false;
    other.readable().then(() => answered = true);
    // Each in its turn has the server for itself, as long as it likes; the other asked before.
    for (const conn of silent) {
      assertEquals(await ask(conn, "Simple is better than?"), "Complex.");
      assertEquals(answered, false);
      conn.close();
    }
    await other.conn.closeWrite();
    assertEquals(await hear(other), ANSWERS);
    assertEquals(await logOf(zen.server), []);
  },
});

Deno.test({
  name: "zen_server: --idle-timeout frees sequential of a silent client",
  ignore: !mayRun,
  async fn() {
    await using zen = await startZen("sequential", "--idle-timeout", "0.2");
    using silent = await dial(zen.port);
    assertEquals(await send(zen.port, QUESTIONS), ANSWERS);
    assertEquals(await hear(silent), "");
    const log = [`zen_server: ${nameOf(silent)}: closed, silent for 0.2 s`];
    assertEquals(await logOf(zen.server), log);
  },
});

for (const style of ["concurrent", "workers"]) {
  Deno.test({
    name: `zen_server: 20 silent clients do not stop ${style}`,
    ignore: !mayRun,
    async fn() {
      await using zen = await startZen(style);
      using used = new DisposableStack();
      const silent: FramedConn[] = [];
      for (let i = 0; i < 20; i++) silent.push(used.use(await dial(zen.port)));
      for (let i = 0; i < 20; i++) assertEquals(await send(zen.port, QUESTIONS), ANSWERS);
      for (const conn of silent) assertEquals(await ask(conn, QUESTIONS.slice(0, 25)), "Ugly.");
    },
  });
}

Deno.test({
  name: "zen_server: workers share the connections among all threads",
  ignore: !mayRun,
  async fn() {
    await using zen = await startZen("workers");
    // Each names its thread in the log. That one of two has none of 60 is a matter of 2^-59.
    for (let i = 0; i < 60; i++) await send(zen.port, "x");
    await said(zen.server, " in the middle of a message\n", 60);
    const threads = new Set((await logOf(zen.server)).map((line) => line.split(": ")[0]));
    assertEquals(threads.size > 1, navigator.hardwareConcurrency > 1, [...threads].join());
  },
});

Deno.test({
  name: "zen_client prints what it is told, escaped, and says what it is not",
  ignore: !mayRun,
  async fn() {
    await using liar = testServer(async (conn) => {
      await conn.writeAll("\x1b[31mRed\n.Two.Three.Four.");
      await conn.readToEnd(1e6);
    });
    const told = await run("zen_client", ["--port", `${liar.port}`]);
    const answers = ["\\x1b[31mRed\\n.", "Two.", "Three."];
    const stdout = ZEN.map(([question], i) => `${question} ${answers[i]}\n`).join("");
    assertEquals(told, { code: 0, stdout, stderr: "" });

    for (
      const [sent, says] of [
        ["", "hung up without an answer"],
        ["Ugl", "connection ended in the middle of a message"],
        ["x".repeat(2000), "message of more than 1024 bytes"],
      ]
    ) {
      await using server = testServer(async (conn) => {
        await conn.readUntil("?");
        await conn.writeAll(sent);
        await conn.conn.closeWrite();
        await conn.readToEnd(1e6);
      });
      const stderr = `zen_client: 127.0.0.1:${server.port}: ${says}\n`;
      const result = await run("zen_client", ["--port", `${server.port}`]);
      assertEquals(result, { code: 1, stdout: "", stderr });
    }
  },
});

/** What a report says in numbers: of the questions, and of the bars together. */
function totals(lines: string[]): { answered: number; bars: number } {
  const answered = Number(/^(\d+) questions/.exec(lines[0])?.[1]);
  const bars = lines.filter((line) => line.startsWith("up to"));
  return { answered, bars: bars.reduce((sum, bar) => sum + Number(bar.split(" ").at(-1)), 0) };
}

for (const style of STYLES) {
  Deno.test({
    name: `a load test of zen_server, ${style}`,
    ignore: !mayRun,
    async fn() {
      await using zen = await startZen(style);
      const args = ["--connections", "20", "--seconds", "0.5", "--timeout", "2"];
      const { code, stdout, stderr } = await run("zen_client", ["--port", `${zen.port}`, ...args]);
      assertEquals(stderr, "");
      const lines = stdout.trimEnd().split("\n");
      const { answered, bars } = totals(lines);
      assert(answered >= 20 && bars === answered, stdout);
      const latency = lines.findIndex((line) => line.startsWith("latency min/median/p95/p99/max "));
      const failures = lines.slice(1, latency);
      if (style === "sequential") {
        const silence = `127.0.0.1:${zen.port}: no answer within 2 s (--timeout)`;
        assertEquals(failures, [
          "19 of 20 connections were never answered",
          `19 failed: ${silence}`,
        ]);
        assertEquals(code, 1);
      } else {
        assertEquals([code, failures], [0, []]);
        assertEquals(await logOf(zen.server), []);
      }
      const figures = lines[latency].match(/\d+\.\d{3}/g)?.map(Number) ?? [];
      assertEquals(figures.length, 5);
      assertEquals(figures, figures.toSorted((a, b) => a - b));
      assert(lines.every((line) => line.length <= 80), stdout);
    },
  });
}

Deno.test({
  name: "a load test of a server that dies, is not there or will not",
  ignore: !mayRun,
  async fn() {
    const test = ["--connections", "5", "--seconds", "10"];
    await using zen = await startZen("concurrent");
    const port = `${zen.port}`;
    await using client = start("zen_client", ["--port", port, ...test, "--trace"]);
    await said(client, "\n< ", 20);
    zen.server.signal("SIGKILL");
    const dead = await client.ended();
    const failed = dead.stdout.matchAll(/^(\d+) failed: 127\.0\.0\.1:\d+: (.*)$/gm).toArray();
    assertEquals(failed.reduce((sum, [, count]) => sum + Number(count), 0), 5, dead.stdout);
    for (const [, , why] of failed) {
      assertMatch(why, /^(connection reset by peer|broken pipe|hung up without an answer)$/);
    }
    assert(totals(dead.stdout.split("\n")).answered >= 20);
    assertEquals(dead.code, 1);

    const nothing = (port: number | string, why: string) =>
      `0 questions answered in 0.00 s, 0 per second
5 of 5 connections were never answered
5 failed: 127.0.0.1:${port}: ${why}
`;
    const refused = await run("zen_client", ["--port", port, ...test]);
    assertEquals(refused, { code: 1, stdout: nothing(port, "connection refused"), stderr: "" });

    await using liar = testServer(async (conn) => {
      await conn.readUntil("?");
      await conn.writeAll(UNKNOWN);
      await conn.readToEnd(0); // its client leaves at once
    });
    const wrong = await run("zen_client", ["--port", `${liar.port}`, ...test]);
    assertEquals(wrong, { code: 1, stdout: nothing(liar.port, "a wrong answer"), stderr: "" });
  },
});

Deno.test({
  name: "a load test ends in time when answers come octet by octet, and never whole",
  ignore: !mayConnect,
  async fn() {
    await using slow = testServer(async (conn) => {
      await conn.readUntil("?");
      for (;; await delay(20)) await conn.writeAll("x");
    });
    const endpoint = { host: "127.0.0.1", port: slow.port, timeout: 500 };
    const began = performance.now();
    const { unanswered, failures, latencies } = await load(endpoint, 3, 100);
    assert(performance.now() - began >= 600);
    assertEquals([unanswered, latencies.count], [3, 0]);
    const why = `127.0.0.1:${slow.port}: no answer when the time was over`;
    assertEquals([...failures], [[why, 3]]);
  },
});

Deno.test({
  name: "a load test waits for the answer that is due when its time is over",
  ignore: !mayConnect,
  async fn() {
    const over = Promise.withResolvers<void>();
    await using late = testServer(async (conn) => {
      await conn.readUntil("?");
      await over.promise;
      await conn.writeAll("Ugly.");
      await conn.readToEnd(0);
    });
    const endpoint = { host: "127.0.0.1", port: late.port, timeout: 20_000 };
    const loading = load(endpoint, 2, 50);
    await delay(100);
    over.resolve();
    const { unanswered, failures, latencies } = await loading;
    assertEquals([unanswered, failures.size, latencies.count], [0, 0, 2]);
    assert(latencies.smallest > 50);
  },
});

Deno.test({
  name: "Ctrl-C ends a load test with what it has, and half of its flags is none",
  ignore: !mayRun,
  async fn() {
    await using zen = await startZen("concurrent");
    const port = `${zen.port}`;
    const test = ["--connections", "2", "--seconds", "1000"];
    await using client = start("zen_client", ["--port", port, ...test, "--trace"]);
    await said(client, "\n< ", 20);
    client.signal("SIGINT");
    const { code, stdout } = await client.ended();
    const { answered, bars } = totals(stdout.trimEnd().split("\n"));
    assert(answered >= 10 && bars === answered, stdout);
    assertEquals([code, stdout.includes("failed")], [130, false]);

    for (const half of [test.slice(0, 2), test.slice(2)]) {
      const { code, stderr } = await run("zen_client", ["--port", port, ...half]);
      assertEquals(code, 2);
      assertMatch(stderr, /^zen_client: --connections and --seconds go together.*\n$/);
    }
    const { code: mixed } = await run("zen_client", ["--port", port, ...test, "--ca", "none"]);
    assertEquals(mixed, 2);
  },
});

Deno.test("Histogram ranks within 4.4%, counts all and draws in 80 columns", () => {
  const histogram = new Histogram();
  // From 2 microseconds to 2 minutes, with no regularity.
  const sizes = Array.from({ length: 5000 }, (_, i) => 0.002 * 1.0036 ** ((i * 2357) % 5000));
  for (const ms of sizes) histogram.add(ms);
  sizes.sort((a, b) => a - b);
  for (const share of [0.0001, 0.01, 0.5, 0.95, 0.99, 0.9999, 1]) {
    const exact = sizes[Math.ceil(share * sizes.length) - 1];
    const ranked = histogram.quantile(share);
    assert(ranked >= exact * 0.999999 && ranked <= exact * 1.0443, `${share}: ${ranked}, ${exact}`);
  }
  assertEquals([histogram.smallest, histogram.largest], [sizes[0], sizes[4999]]);
  const bars = histogram.bars();
  assert(bars.every((bar) => bar.length <= 80), bars.join("\n"));
  for (const bar of bars) {
    const [, bound, blocks, count] = /^up to +([\d.]+) ms (█+) (\d+)$/.exec(bar) ?? [];
    // So many are between half of the bound and the bound, which are powers of two.
    const [high, low] = [Number(bound), Number(bound) / 2].map((ms) =>
      2 ** Math.round(Math.log2(ms))
    );
    assertEquals(Number(count), sizes.filter((ms) => ms > low && ms <= high).length, bar);
    assert(blocks.length <= 40);
  }
  assert(bars.some((bar) => bar.includes("█".repeat(40))));

  const four = new Histogram();
  for (const ms of [8, 1, 4, 2]) four.add(ms);
  assertEquals([0, 0.25, 0.26, 0.5, 0.51, 1].map((share) => four.quantile(share)), [
    1,
    1,
    2,
    2,
    4,
    8,
  ]);

  // What is out of range is in the first and in the last bucket; between is an empty bar.
  const odd = new Histogram();
  for (const ms of [0, 1, 4, 1e13]) odd.add(ms);
  assertEquals(odd.bars().length, 41);
  assertEquals(odd.bars()[11], "up to      2.000 ms  0");
  assertEquals(odd.bars().reduce((sum, bar) => sum + Number(bar.split(" ").at(-1)), 0), 4);
  assertEquals([odd.smallest, odd.quantile(0.5), odd.largest], [0, 1, 1e13]);
});

Deno.test("report has a line for each reason, however many failed", () => {
  const latencies = new Histogram();
  for (let i = 0; i < 300; i++) latencies.add(1);
  const failures = new Map([["a\x1b", 7], ["b", 1]]);
  assertEquals(report({ connections: 9, unanswered: 2, failures, latencies, elapsed: 1500 }), [
    "300 questions answered in 1.50 s, 200 per second",
    "2 of 9 connections were never answered",
    "7 failed: a\\x1b",
    "1 failed: b",
    "latency min/median/p95/p99/max 1.000/1.000/1.000/1.000/1.000 ms",
    `up to      1.000 ms ${"█".repeat(40)} 300`,
  ]);
});
