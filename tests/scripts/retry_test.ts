import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { Adder, type Fault, pick, serveFlaky } from "../../scripts/flaky_server.ts";
import { add, addAll, Tally, troubleOf } from "../../scripts/retry_client.ts";
import { FramedConn } from "../../lib/framing.ts";
import { mayConnect, mayRun, Program, run, start } from "../helpers.ts";
import { testServer } from "./rig.ts";

const NO_FAULT = ["--refuse", "0", "--stall", "0", "--reset", "0", "--cut", "0"];
const NOTHING = { refused: 0, "timed out": 0, reset: 0, "cut short": 0 };

/** The server in this process, with one fault after the other and then none. */
function scripted(...faults: Fault[]): Promise<
  AsyncDisposable & { adder: Adder; log: string[]; port: number }
> {
  const stop = new AbortController();
  const adder = new Adder();
  const log: string[] = [];
  return new Promise((resolve, reject) => {
    const ended = serveFlaky(adder, () => faults.shift(), {
      name: "test",
      host: "127.0.0.1",
      port: 0,
      signal: stop.signal,
      log(line) {
        log.push(line);
        const port = Number(/listening on .*:(\d+)$/.exec(line)?.[1]);
        const dispose = async () => {
          stop.abort();
          await ended;
        };
        if (port) resolve({ adder, log, port, [Symbol.asyncDispose]: dispose });
      },
    });
    ended.catch(reject);
  });
}

/** Sends octets over a connection of its own, ends its side if told so, and returns the answer. */
async function send(port: number, text: string, end = true): Promise<string> {
  const conn = await Deno.connect({ hostname: "127.0.0.1", port });
  using framed = new FramedConn(conn, { timeout: 10_000 });
  await framed.writeAll(text);
  if (end) await conn.closeWrite();
  return new TextDecoder().decode(await framed.readToEnd(1000));
}

/** Stops a server, and returns the total it says it has come to. */
async function totalOf(server: Program): Promise<number> {
  server.signal("SIGINT");
  const { code, stdout, stderr } = await server.ended();
  assertEquals([code, stdout], [0, ""], stderr);
  assert(!/^\s+at |Uncaught/m.test(stderr), stderr);
  return Number(/: total (\d+), repeats recognised: \d+\n$/.exec(stderr)?.[1] ?? 0);
}

/** What a client has printed, by name. */
function figures(stdout: string): Record<string, number> {
  const rows = stdout.matchAll(
    /^(refused|timed out|reset|cut short|attempts|seconds) +([\d.]+)$/gm,
  );
  return Object.fromEntries(Array.from(rows, ([, name, count]) => [name, Number(count)]));
}

Deno.test("pick gives each fault its share", () => {
  const rates = { refuse: 0.5, stall: 0, reset: 0.25, cut: 0.125 };
  const picked = [0, 0.49, 0.5, 0.74, 0.75, 0.87, 0.875, 0.999].map((r) => pick(rates, r));
  const [refuse, reset, cut] = ["refuse", "reset", "cut"];
  assertEquals<unknown[]>(picked, [refuse, refuse, reset, reset, cut, cut, undefined, undefined]);
  assertEquals(pick({ refuse: 0, stall: 1, reset: 0, cut: 0 }, 0.9999999999), "stall");
});

Deno.test("an ID is done once and answered alike, until 10,000 newer ones have come", () => {
  const adder = new Adder();
  assertEquals(adder.answer("a add 5"), "a 5\r\n");
  assertEquals(adder.answer("b add 0"), "b 5\r\n");
  assertEquals(adder.answer("a add 5"), "a 5\r\n");
  assertEquals([adder.total, adder.repeats], [5, 1]);
  for (let i = 0; i < 9998; i++) adder.answer(`id-${i} add 1`);
  assertEquals(adder.answer("a add 5"), "a 5\r\n");
  assertEquals([adder.total, adder.repeats], [10_003, 2]);
  adder.answer("one-more add 1"); // the oldest goes, though it was asked for last
  assertEquals(adder.answer("b add 0"), "b 5\r\n");
  assertEquals(adder.answer("a add 5"), "a 10009\r\n");
});

Deno.test("what is not a request adds nothing", () => {
  const adder = new Adder();
  const wrong = [
    "",
    "a",
    "a add",
    "a add ",
    "a add x",
    "a add -1",
    "a add 1.5",
    "a add 1 ",
    " a add 1",
  ];
  wrong.push("a add 1\n", "a add 1234567890", `${"a".repeat(65)} add 1`, "é add 1", "a ADD 1");
  for (const request of wrong) {
    assertEquals(adder.answer(request), "ERROR not a request (ID add N)\r\n", request);
  }
  assertEquals([adder.total, adder.repeats], [0, 0]);
});

Deno.test("troubleOf knows what may pass from what will not", () => {
  const { errors } = Deno;
  const passing = [errors.ConnectionRefused, errors.Busy, errors.TimedOut, errors.ConnectionReset];
  passing.push(errors.BrokenPipe, errors.NotConnected, errors.UnexpectedEof);
  const [refused, late, reset, cut] = ["refused", "timed out", "reset", "cut short"];
  const found = passing.map((errorClass) => troubleOf(new errorClass("")));
  assertEquals<unknown[]>(found, [refused, refused, late, reset, reset, reset, cut]);
  for (const errorClass of [Error, errors.InvalidData, errors.NotCapable, errors.NotFound]) {
    assertEquals(troubleOf(new errorClass("")), undefined);
  }
  assertEquals(troubleOf(AbortSignal.abort().reason), undefined);
});

Deno.test({
  name: "an answer that is lost after the deed is had again, and nothing is added twice",
  ignore: !mayConnect,
  async fn() {
    await using server = await scripted("stall", "reset", "refuse", "cut");
    const endpoint = { host: "127.0.0.1", port: server.port, timeout: 1500 };
    const tally = new Tally(1);
    await addAll(endpoint, tally, 60_000);
    assertEquals([tally.answers, tally.total, tally.attempts], [1, 1, 5]);
    assertEquals(tally.met, { refused: 1, "timed out": 1, reset: 1, "cut short": 1 });
    assertEquals([server.adder.total, server.adder.repeats], [1, 3]);
    assertEquals(tally.report(), [
      "1 of 1 answers, total 1",
      ...["refused   1", "timed out 1", "reset     1", "cut short 1", "attempts  5"],
    ]);
    const said = server.log.slice(1).map((line) =>
      /^test: 127\.0\.0\.1:\d+: (\w+)/.exec(line)?.[1]
    );
    assertEquals(said, ["stall", "reset", "refuse", "cut", "answer"]);

    // A cut answer is never taken for a whole one, wherever it is cut.
    const { signal } = new AbortController();
    for (let n = 0; n < 30; n++) {
      await using cutting = await scripted("cut");
      cutting.adder.total = 1000;
      const asking = add({ ...endpoint, port: cutting.port }, "id", 7, signal);
      await assertRejects(() => asking, Deno.errors.UnexpectedEof, "middle of a message");
      assertEquals(await add({ ...endpoint, port: cutting.port }, "id", 7, signal), 1007);
    }
  },
});

Deno.test({
  name: "100 of 100 answers through a server that fails half of the time, and each done once",
  ignore: !mayRun,
  async fn() {
    // One server for one client, one for three at once.
    await Promise.all([1, 3].map(async (clients) => {
      await using server = start("flaky_server", ["--port", "0"]);
      const args = ["--port", `${await server.port()}`, "--timeout", "0.3"];
      const results = Array.from({ length: clients }, () => run("retry_client", args));
      for (const { code, stdout, stderr } of await Promise.all(results)) {
        assertEquals([code, stderr], [0, ""], stdout);
        assertMatch(stdout, clients === 1 ? /^100 of 100 answers, total 100\n/ : /^100 of 100 /);
        const { attempts, seconds, ...met } = figures(stdout);
        assert(seconds > 0);
        const troubles = Object.values(met);
        assert(troubles.length === 4 && troubles.every((count) => count > 0), stdout);
        assertEquals(attempts, 100 + troubles.reduce((sum, count) => sum + count), stdout);
      }
      assertEquals(await totalOf(server), clients * 100);
    }));
  },
});

/** Each fault, what the client takes it for, and what it says at its deadline. */
const FAULTS = [
  ["refuse", "refused", "the server is busy"],
  ["stall", "timed out", "no answer within 0.2 s (--timeout)"],
  ["reset", "reset", "connection reset by peer"],
  ["cut", "cut short", "connection ended in the middle of a message"],
] as const;

Deno.test({
  name: "nothing but one fault: the client says so at its deadline, and its requests are done once",
  ignore: !mayRun,
  async fn() {
    await Promise.all(FAULTS.map(async ([fault, trouble, says]) => {
      const rates = [...NO_FAULT, `--${fault}`, "1"];
      await using server = start("flaky_server", ["--port", "0", ...rates]);
      const port = await server.port();
      const { code, stdout, stderr } = await run("retry_client", [
        ...["--port", `${port}`, "--requests", "5", "--timeout", "0.2", "--deadline", "1.5"],
      ]);
      assertEquals(code, 1);
      const missing = "5 of 5 unanswered after 1.5 s";
      assertEquals(stderr, `retry_client: 127.0.0.1:${port}: ${says} (${missing})\n`);
      assertMatch(stdout, /^0 of 5 answers, total 0\n/);
      const { attempts, seconds: _, ...met } = figures(stdout);
      assert(met[trouble] > 5, `each was tried again: ${stdout}`);
      assertEquals(met, { ...NOTHING, [trouble]: met[trouble] });
      // At the deadline some may have been under way.
      assert(attempts >= met[trouble] && attempts <= met[trouble] + 5, stdout);
      assertEquals(await totalOf(server), fault === "refuse" ? 0 : 5);
    }));
  },
});

Deno.test({
  name: "what the server will never do is not asked again",
  ignore: !mayRun,
  async fn() {
    for (
      const [answer, says] of [
        ["ERROR no\x1b", "the server says: ERROR no\\x1b"],
        ["another 1", "an answer to another request"],
        ["ID -1", "the server says: ID -1"],
        ["x".repeat(300), "line of more than 200 bytes"],
      ]
    ) {
      const asked: (string | null)[] = [];
      await using server = testServer(async (conn) => {
        const request = await conn.readLine();
        asked.push(request);
        await conn.writeLine(answer.replace("ID", request?.split(" ")[0] ?? ""));
      });
      const args = ["--port", `${server.port}`, "--requests", "1"];
      const { code, stdout, stderr } = await run("retry_client", args);
      assertEquals([code, stdout], [1, ""]);
      const shown = stderr.replace(/(?<=says: )[\da-f-]{36}/, "ID");
      assertEquals(shown, `retry_client: 127.0.0.1:${server.port}: ${says}\n`);
      assertEquals(asked.length, 1);
      assertMatch(`${asked[0]}`, /^[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12} add 1$/);
    }
    // What has been answered before is told.
    let answered = 0;
    await using server = testServer(async (conn) => {
      const [id] = (await conn.readLine() ?? "").split(" ");
      await conn.writeLine(answered++ < 3 ? `${id} ${answered}` : "ERROR enough");
    });
    const args = ["--port", `${server.port}`, "--requests", "4"];
    const { code, stdout } = await run("retry_client", args);
    assertEquals(code, 1);
    assertMatch(stdout, /^[123] of 4 answers, total [123]\n/);
  },
});

Deno.test({
  name: "the deadline ends what is under way",
  ignore: !mayRun,
  async fn() {
    await using silent = testServer((conn) => conn.readToEnd(1000));
    const { port } = silent;
    const args = ["--port", `${port}`, "--timeout", "100", "--deadline", "0.5", "--requests", "3"];
    const began = performance.now();
    const { code, stdout, stderr } = await run("retry_client", args);
    assert(performance.now() - began < 15_000);
    assertEquals([code, stdout], [1, ""]);
    const unanswered = "no answer (3 of 3 unanswered after 0.5 s)";
    assertEquals(stderr, `retry_client: 127.0.0.1:${port}: ${unanswered}\n`);

    const stop = new AbortController();
    const asking = add({ host: "127.0.0.1", port }, "id", 1, stop.signal);
    stop.abort(new Error("enough"));
    await assertRejects(() => asking, Error, "enough");
  },
});

Deno.test({
  name: "a server that is not there is waited for, which is said once",
  ignore: !mayRun,
  async fn() {
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const port = `${listener.addr.port}`;
    listener.close();
    const args = ["--port", port, "--requests", "10"];
    const gone = await run("retry_client", [...args, "--deadline", "0.5"]);
    assertEquals(gone.code, 1);
    const refused = `retry_client: 127.0.0.1:${port}: connection refused`;
    assertEquals(gone.stderr, `${refused} (10 of 10 unanswered after 0.5 s)\n`);
    assert(figures(gone.stdout).refused >= 10, gone.stdout);

    await using client = start("retry_client", args);
    await client.until(/trying again/, "stderr");
    await using _server = start("flaky_server", ["--port", port, ...NO_FAULT]);
    const { code, stdout, stderr } = await client.ended();
    assertEquals([code, stderr], [0, `${refused}, trying again (--deadline)\n`]);
    assertMatch(stdout, /^10 of 10 answers, total 10\n/);
  },
});

Deno.test({
  name: "flaky_server outlives junk, half requests and who hangs up, and does none of it",
  ignore: !mayRun,
  async fn() {
    await using server = start("flaky_server", ["--port", "0", ...NO_FAULT]);
    const port = await server.port();
    const answers = async (id: string) =>
      assertMatch(await send(port, `${id} add 1\r\n`), /^\S+ \d+\r\n$/);
    await answers("one");
    assertEquals(await send(port, "two add 1\n", false), "two 2\r\n");
    assertEquals(await send(port, "half add 1"), "");
    assertEquals(await send(port, ""), "");
    const error = "ERROR not a request (ID add N)\r\n";
    assertEquals(await send(port, "\n"), error);
    assertEquals(await send(port, "\xff\0\x1b[2J\n"), error);
    assertEquals(await send(port, "x".repeat(16e6)), error);
    assertEquals(await send(port, `three add 1${" ".repeat(1e6)}\n`), error);
    assertEquals(await send(port, "four add 1\nfive add 1\n"), "four 3\r\n");
    await Promise.all(Array.from({ length: 100 }, async (_, i) => {
      const conn = await Deno.connect({ hostname: "127.0.0.1", port });
      if (i % 2) await conn.write(new TextEncoder().encode("six add 1"));
      conn.close();
    }));
    // Octet by octet it is a request all the same.
    using slow = await Deno.connect({ hostname: "127.0.0.1", port });
    slow.setNoDelay();
    for (const octet of new TextEncoder().encode("slow add 1\r\n")) {
      await slow.write(new Uint8Array([octet]));
    }
    assertEquals(await new FramedConn(slow, { timeout: 10_000 }).readLine(), "slow 4");
    await answers("last");
    assertEquals(await totalOf(server), 5);
    // deno-lint-ignore no-control-regex
    assert(!/[\x00-\x09\x0b-\x1f\xff]/.test(server.stderr), server.stderr);
  },
});

Deno.test({
  name: "flaky_server serves --allow-from only, and closes what is silent",
  ignore: !mayRun,
  async fn() {
    const args = ["--port", "0", "--idle-timeout", "0.2", ...NO_FAULT];
    await using server = start("flaky_server", args);
    assertEquals(await send(await server.port(), "id ad", false), "");
    await server.until(/^flaky_server: 127\.0\.0\.1:\d+: closed, silent for 0\.2 s\n/m, "stderr");
    assertEquals(await totalOf(server), 0);

    await using strict = start("flaky_server", [...args, "--allow-from", "10.0.0.0/8"]);
    const port = await strict.port();
    await send(port, "id add 1\r\n").catch(() => {}); // an end or a reset
    await strict.until(/^flaky_server: 127\.0\.0\.1:\d+: not in --allow-from\n/m, "stderr");
    assertEquals(await totalOf(strict), 0);
  },
});

Deno.test({
  name: "rates that are none, and more faults than connections, are wrong",
  ignore: !mayRun,
  async fn() {
    const hint = "(--help tells more)\n";
    const more = await run("flaky_server", ["--refuse", "0.7", "--cut", "0.2"]);
    const sum = "flaky_server: --refuse, --stall, --reset and --cut add up to more than 1";
    assertEquals(more, { code: 2, stdout: "", stderr: `${sum} ${hint}` });
    const two = await run("flaky_server", ["--cut", "2"]);
    const range = "flaky_server: --cut: 2 is not a number from 0 to 1";
    assertEquals(two, { code: 2, stdout: "", stderr: `${range} ${hint}` });
    const whole = ["--refuse", "0.2", "--stall", "0.4", "--reset", "0.3", "--cut", "0.1"];
    await using exact = start("flaky_server", ["--port", "0", ...whole]);
    await exact.port();
    const none = await run("retry_client", ["--requests", "0"]);
    assertEquals(none.code, 2);
  },
});

Deno.test({
  name: "--trace shows that each retry has the ID of the first attempt",
  ignore: !mayRun,
  async fn() {
    await using server = start("flaky_server", ["--port", "0", ...NO_FAULT, "--cut", "0.5"]);
    const args = ["--port", `${await server.port()}`, "--requests", "20", "--trace"];
    const { code, stderr } = await run("retry_client", args);
    assertEquals(code, 0);
    const ids = Array.from(stderr.matchAll(/^> \S+ ([\da-f-]{36}) add 1\\r\\n$/gm), ([, id]) => id);
    assert(ids.length > 20, stderr);
    assertEquals(new Set(ids).size, 20);
  },
});
