import { assert, assertEquals, assertMatch } from "@std/assert";
import { type JetStreamManager, jetstreamManager } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import { countInside } from "../../scripts/queue_worker.ts";
import { missing, Program, run, start, temporaryFolder } from "../helpers.ts";
import { eventually, natsPort, startNats } from "./peers.ts";
import { testServer } from "../scripts/rig.ts";

const ignore = missing("nats-server");

/** A NATS server, what it is asked by, and our programs on it; all gone at the end. */
class Queue {
  /** The server, which a test may end and start anew. */
  server: Program;
  readonly #mine = new AsyncDisposableStack();

  private constructor(readonly folder: string, server: Program, readonly port: number) {
    this.server = server;
  }

  static async open(): Promise<Queue> {
    const folder = await temporaryFolder();
    const server = startNats(folder.path);
    const queue = new Queue(folder.path, server, await natsPort(server));
    queue.#mine.use(folder);
    queue.#mine.defer(() => queue.server[Symbol.asyncDispose]());
    return queue;
  }

  /** Starts one of our programs. */
  start(name: "queue_worker" | "queue_producer", ...args: string[]): Program {
    return this.#mine.use(start(name, ["--nats", `127.0.0.1:${this.port}`, ...args]));
  }

  /** Starts a worker, which is ready when this returns. */
  async worker(): Promise<Program> {
    const worker = this.start("queue_worker");
    await worker.until(/waiting for jobs from 127\.0\.0\.1:\d+\n/, "stderr");
    return worker;
  }

  /** Starts a producer and waits until its jobs are there; with the name of its run. */
  async producer(jobs: number, points: number): Promise<{ producer: Program; run: string }> {
    const producer = this.start("queue_producer", "--jobs", `${jobs}`, "--points", `${points}`);
    const [, run] = await producer.until(/ jobs published, run ([0-9a-f]{8})\n/, "stderr");
    return { producer, run };
  }

  /** A connection of the test's own. */
  async manager(): Promise<JetStreamManager> {
    const nats = await connect({ servers: `127.0.0.1:${this.port}`, reconnectTimeWait: 100 });
    this.#mine.defer(() => nats.close());
    return await jetstreamManager(nats);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#mine.disposeAsync();
  }
}

/** What a producer prints at the end of a run of which nothing is lost and nothing counted twice. */
async function truth(jobs: number, points: number): Promise<string> {
  let inside = 0;
  for (let seed = 0; seed < jobs; seed++) inside += await countInside({ seed, points });
  const [counted, all] = [inside, jobs * points].map((n) => n.toLocaleString("en-US"));
  const pi = (4 * inside / (jobs * points)).toFixed(5);
  return `pi is about ${pi} (${jobs} of ${jobs} jobs, ${counted} of ${all} points inside)\n`;
}

/** The numbers of the jobs that a worker says it has done. */
function doneBy(worker: Program): string[] {
  return Array.from(worker.stderr.matchAll(/: job \w+\.(\d+) done, /g), ([, number]) => number);
}

/** Of a run nothing is on the server, and of all streams only the workers' is. */
async function assertNothingLeft(manager: JetStreamManager): Promise<void> {
  const streams = await manager.streams.list().next();
  assertEquals(streams.map(({ config, state }) => [config.name, state.messages]), [["PI_JOBS", 0]]);
}

/** Says goodbye with Ctrl-C, and it ends as it should. */
async function stop(worker: Program, signal: Deno.Signal = "SIGINT"): Promise<void> {
  worker.signal(signal);
  const { code, stdout, stderr } = await worker.ended();
  assertEquals([code, stdout], [0, ""], stderr);
}

Deno.test({
  name:
    "a worker killed in the middle of a job, NATS killed and restarted: 60 jobs counted 60 times",
  ignore,
  async fn() {
    const points = 1_000_000;
    await using queue = await Queue.open();
    const manager = await queue.manager();
    const first = await queue.worker();
    const { producer } = await queue.producer(60, points);

    // It is stopped until it is in the middle of a job: one is out, and not acknowledged.
    await first.until(/(done.*\n[^]*){5}/, "stderr");
    const inHand = async () => (await manager.consumers.info("PI_JOBS", "workers")).num_ack_pending;
    await eventually("it is in the middle of a job", async () => {
      first.signal("SIGSTOP");
      if (await inHand() === 1 && await inHand() === 1) return true;
      first.signal("SIGCONT");
      return false;
    });
    first.signal("SIGKILL");
    await first.ended();
    assertEquals(await inHand(), 1);

    const others = await Promise.all([queue.worker(), queue.worker()]);
    const programs = [producer, ...others];
    await Promise.all(others.map((worker) => worker.until(/(done.*\n[^]*){5}/, "stderr")));
    await queue.server[Symbol.asyncDispose](); // by SIGKILL
    for (const program of programs) {
      await program.until(/: lost 127\.0\.0\.1:\d+, trying again\n/, "stderr");
    }
    queue.server = startNats(queue.folder, queue.port);
    await natsPort(queue.server);
    for (const program of programs) {
      await program.until(/: 127\.0\.0\.1:\d+ is back\n/, "stderr");
    }

    const { code, stdout, stderr } = await producer.ended();
    assertEquals([code, stdout], [0, await truth(60, points)], stderr);
    const done = new Set([first, ...others].flatMap(doneBy));
    assertEquals(done.size, 60, "each job was some worker's");
    await Promise.all(others.map((worker) => stop(worker)));
    for (const { stderr } of programs) {
      assertEquals(stderr.match(/: lost | is back\n/g), [": lost ", " is back\n"], stderr);
      // A job that was done twice may come for the second time when the run is over.
      const rest = stderr.replaceAll(/: job \w+\.\d+: try . of 5 failed: nobody waits .*/g, "");
      assertEquals(/^\s+at |rror:|failed|trying again: /m.test(rest), false, stderr);
    }
    await assertNothingLeft(manager);
  },
});

Deno.test({
  name: "three workers on the jobs of two producers: two exact results, and nothing is left",
  ignore,
  async fn() {
    await using queue = await Queue.open();
    // A producer need not wait for a worker to be there, nor a worker for a producer.
    const early = await queue.producer(60, 1000);
    const workers = await Promise.all([queue.worker(), queue.worker(), queue.worker()]);
    const late = await queue.producer(45, 2000);
    const runs = [[early, 60, 1000, 10], [late, 45, 2000, 9]] as const;
    for (const [{ producer }, jobs, points, lines] of runs) {
      const { code, stdout, stderr } = await producer.ended();
      assertEquals([code, stdout], [0, await truth(jobs, points)], stderr);
      assertEquals(
        stderr.match(/^queue_producer: \d+ of \d+ jobs, pi is/gm)?.length,
        lines,
        stderr,
      );
    }
    const done = () => workers.flatMap(doneBy).length;
    await eventually("they have said what they have done", () => done() >= 60 + 45);
    assertEquals(done(), 60 + 45, "no job was done twice");
    assert(workers.every((worker) => doneBy(worker).length > 0));
    await assertNothingLeft(await queue.manager());
    await Promise.all(workers.map((worker) => stop(worker, "SIGTERM")));
  },
});

Deno.test({
  name: "a job that takes longer than ACK_WAIT stays with its worker, until Ctrl-C there",
  ignore,
  async fn() {
    await using queue = await Queue.open();
    const manager = await queue.manager();
    const [holder, { producer }] = [await queue.worker(), await queue.producer(1, 1e9)];
    const state = () => manager.consumers.info("PI_JOBS", "workers");
    await eventually("it has the job", async () => (await state()).num_ack_pending === 1);
    const other = await queue.worker();
    const began = performance.now();
    await eventually("it has it for longer than ACK_WAIT", async () => {
      const { num_ack_pending: pending, num_redelivered: again } = await state();
      assertEquals([pending, again], [1, 0]);
      return performance.now() - began > 6500;
    });

    const stopped = performance.now();
    await stop(holder);
    assertMatch(holder.stderr, /: job \w+\.0 given back\n$/);
    await eventually("the other has it", async () => (await state()).num_redelivered === 1);
    // Without a word to the server it would be ACK_WAIT after the last heartbeat.
    assert(performance.now() - stopped < 3000);
    await stop(other);
    assertMatch(other.stderr, /: job \w+\.0 given back\n$/);

    producer.signal("SIGINT");
    const { code, stdout, stderr } = await producer.ended();
    assertEquals([code, stdout], [130, ""], stderr);
    assertMatch(stderr, /: stopped with 0 of 1 jobs done\n$/);
    await assertNothingLeft(manager);
  },
});

Deno.test({
  name: "a bad job is tried 5 times, and the producer told why it was given up",
  ignore,
  async fn() {
    await using queue = await Queue.open();
    const manager = await queue.manager();
    const js = manager.jetstream();
    const bad = ["hello", '{"seed":1,"points":"many"}', '{"points":1}', "\x1b[2J\xff"];
    const { producer, run } = await queue.producer(bad.length + 2, 1000);
    for (const [number, data] of bad.entries()) {
      const subject = `pi.jobs.${run}.${number}`;
      const stored = await manager.streams.getMessage("PI_JOBS", { last_by_subj: subject });
      await manager.streams.deleteMessage("PI_JOBS", stored?.seq ?? 0);
      await js.publish(subject, data);
    }
    // And some of a run that nobody has started.
    await js.publish("pi.jobs.nobody.\x1b[31m", "{}");
    await js.publish("pi.jobs.nobody.7", '{"seed":1,"points":1}');

    const workers = await Promise.all([queue.worker(), queue.worker()]);
    const { code, stdout, stderr } = await producer.ended();
    assertEquals(code, 1, stderr);
    assertMatch(stdout, /^pi is about \d\.\d+ \(2 of 6 jobs, [\d,]+ of 2,000 points inside\)\n$/);
    const reasons = ["unexpected token 'h'", "no good points", "no good seed", "unexpected token"];
    for (const [number, why] of reasons.entries()) {
      const lines = stderr.match(new RegExp(`: job ${number} given up: .*\n`, "g"))?.join("") ?? "";
      assertMatch(lines, new RegExp(`^[^\n]*: ${why}.* \\(5 tries\\)\n$`));
    }

    const messages = async () => (await manager.streams.info("PI_JOBS")).state.messages;
    await eventually("the others are given up, too", async () => await messages() === 0);
    await Promise.all(workers.map((worker) => stop(worker)));
    const said = workers.map(({ stderr }) => stderr).join("");
    for (const job of [...bad.keys().map((number) => `${run}.${number}`), "nobody.7"]) {
      const tries = Array.from(
        said.matchAll(new RegExp(`: job ${job}: try (\\d) of 5 failed: `, "g")),
        ([, n]) => Number(n),
      );
      assertEquals(tries.sort(), [1, 2, 3, 4], said);
      assertEquals(said.match(new RegExp(`: job ${job} given up after 5 tries: `, "g"))?.length, 1);
    }
    assertMatch(said, /: job nobody\.7 given up after 5 tries: nobody waits for its result\n/);
    // deno-lint-ignore no-control-regex
    assertEquals(/[\x00-\x09\x0b-\x1f\x7f-\x9f]/.test(said + stderr), false, said);
    await assertNothingLeft(manager);
  },
});

Deno.test({
  name: "a job whose worker dies each time is given up after 5, by the next, and the producer told",
  ignore,
  async fn() {
    await using queue = await Queue.open();
    const manager = await queue.manager();
    await stop(await queue.worker()); // it has made the workers' place in the queue
    const { producer } = await queue.producer(1, 1000);
    const jobs = await manager.jetstream().consumers.get("PI_JOBS", "workers");
    for (let attempt = 1; attempt <= 5; attempt++) {
      const job = await jobs.next({ expires: 15_000 });
      assertEquals(job?.info.deliveryCount, attempt); // and not a word about it to the server
    }
    const worker = await queue.worker();
    const { code, stdout, stderr } = await producer.ended();
    assertEquals([code, stdout.split(",")[0]], [1, "pi is about unknown (0 of 1 jobs"], stderr);
    assertMatch(stderr, /: job 0 given up: no worker came back with it \(5 tries\)\n/);
    await stop(worker);
    assertMatch(
      worker.stderr,
      /: job \w+\.0 given up after 5 tries: no worker came back with it\n$/,
    );
    await assertNothingLeft(manager);
  },
});

Deno.test({
  name: "a result that comes twice counts once, what is none is said, and ids keep doubles out",
  ignore,
  async fn() {
    await using queue = await Queue.open();
    const manager = await queue.manager();
    const js = manager.jetstream();
    const { producer, run } = await queue.producer(3, 1000);
    // As after an acknowledgement that got lost.
    const again = await js.publish(`pi.jobs.${run}.1`, "{}", { msgID: `${run}.1` });
    assertEquals(again.duplicate, true);
    await manager.streams.purge("PI_JOBS", { filter: `pi.jobs.${run}.2` });
    const worker = await queue.worker();
    await producer.until(/2 of 3 jobs/, "stderr");
    const double = await js.publish(`pi.results.${run}.0`, '{"inside":1}', { msgID: `${run}.0` });
    assertEquals(double.duplicate, true);

    const send = (number: string, text: string) => js.publish(`pi.results.${run}.${number}`, text);
    await send("0", '{"inside":1}');
    await send("1", '{"failed":"too late"}');
    for (const [number, text] of [["3", '{"inside":1}'], ["2", "\x1b[2Jx"], ["2", "null"]]) {
      await send(number, text);
    }
    await send("2", '{"inside":1001}');
    await send("2", '{"inside":1000}');
    const { code, stdout, stderr } = await producer.ended();
    const inside = 1000 + await countInside({ seed: 0, points: 1000 }) +
      await countInside({ seed: 1, points: 1000 });
    assertEquals(code, 0, stderr);
    assertMatch(
      stdout,
      new RegExp(`^pi is about ${(4 * inside / 3000).toFixed(5)} \\(3 of 3 jobs`),
    );
    const ignored = stderr.match(/(?<=: ignored what came for )job .*\n/g)?.join("") ?? "";
    assertMatch(
      ignored,
      /^job 3: no such job\njob 2: unexpected token '\\x1b'.*\n(job 2: not a result\n){2}$/,
    );
    await stop(worker);
    await assertNothingLeft(manager);
  },
});

Deno.test({
  name: "Ctrl-C at a producer takes its own jobs back and no other's",
  ignore,
  async fn() {
    await using queue = await Queue.open();
    const manager = await queue.manager();
    await stop(await queue.worker()); // it has made the workers' place in the queue
    const [first, second] = [await queue.producer(300, 1000), await queue.producer(30, 1000)];
    first.producer.signal("SIGINT");
    const ended = await first.producer.ended();
    assertEquals([ended.code, ended.stdout], [130, ""], ended.stderr);
    assertMatch(ended.stderr, /: stopped with 0 of 300 jobs done\n$/);
    assertEquals((await manager.streams.info("PI_JOBS")).state.messages, 30);

    const worker = await queue.worker();
    const { code, stdout, stderr } = await second.producer.ended();
    assertEquals([code, stdout], [0, await truth(30, 1000)], stderr);
    await stop(worker);
    assertEquals(doneBy(worker).length, 30);
    await assertNothingLeft(manager);
  },
});

Deno.test({
  name:
    "a producer that NATS has left says at Ctrl-C what stays there, or that its results are gone",
  ignore,
  async fn() {
    await using queue = await Queue.open();
    const { producer: robbed, run: lost } = await queue.producer(5, 1000);
    const { producer, run } = await queue.producer(5, 1000);
    const manager = await queue.manager();
    await manager.streams.delete(`PI_RESULTS_${lost}`);
    const said = await robbed.ended();
    assertEquals(said.code, 1, said.stderr);
    assertMatch(said.stderr, /: 127\.0\.0\.1:\d+: stream not found\n$/);

    await queue.server[Symbol.asyncDispose]();
    await producer.until(/: lost /, "stderr");
    producer.signal("SIGINT");
    const { code, stdout, stderr } = await producer.ended();
    assertEquals([code, stdout], [130, ""], stderr);
    const left = `left on the server: jobs pi.jobs.${run}.* and stream PI_RESULTS_${run}`;
    assert(stderr.includes(`queue_producer: ${left}\n`), stderr);
  },
});

Deno.test({
  name: "a worker outlives that NATS starts anew without its disk",
  ignore,
  async fn() {
    await using queue = await Queue.open();
    const worker = await queue.worker();
    await queue.server[Symbol.asyncDispose]();
    await worker.until(/: lost /, "stderr");
    await using empty = await temporaryFolder();
    queue.server = startNats(empty.path, queue.port);
    await natsPort(queue.server);
    const { producer } = await queue.producer(5, 1000);
    const { code, stdout, stderr } = await producer.ended();
    assertEquals([code, stdout], [0, await truth(5, 1000)], stderr);
    await stop(worker);
  },
});

Deno.test({
  name: "no NATS, no JetStream and what is neither are said in one line",
  ignore,
  async fn() {
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const free = listener.addr.port;
    listener.close();
    await using bare = new Program(["nats-server", "--addr", "127.0.0.1", "--port", "-1"]);
    await using silent = testServer((conn) => conn.readToEnd(1e6));
    await using rude = testServer(() => {});
    await using other = testServer((conn) => conn.writeAll("SSH-2.0-\x1b[2J\r\n"));
    const cases: [port: number, says: RegExp][] = [
      [free, /connection refused/],
      [await natsPort(bare), /no JetStream there \(nats-server -js\)/],
      [silent.port, /no answer/],
      [rude.port, /hung up/],
      [other.port, /unexpected response from server/],
    ];
    await Promise.all(
      ["queue_worker", "queue_producer"].flatMap((name) =>
        cases.map(async ([port, says]) => {
          const args = ["--nats", `127.0.0.1:${port}`, "--timeout", "0.5"];
          const { code, stdout, stderr } = await run(name, args);
          assertEquals([code, stdout], [1, ""], stderr);
          assertMatch(stderr, new RegExp(`^${name}: 127\\.0\\.0\\.1:${port}: ${says.source}\n$`));
        })
      ),
    );
  },
});
