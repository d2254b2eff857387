#!/usr/bin/env -S deno run --allow-net
/**
 * Estimates pi by chance, in pieces that others do: puts jobs in a queue in NATS JetStream, and adds
 * up the results that the workers send (see `queue_worker.ts`). A circle takes pi/4 of the square
 * around it, and so of random points in the square about that share is inside the circle.
 *
 *     nats-server -a 127.0.0.1 -js
 *     deno run --allow-net scripts/queue_worker.ts
 *     deno run --allow-net scripts/queue_producer.ts --jobs 60 --points 1000000
 *
 * Mirrors "Message Queues" of chapter 8 of the book in tutorial 002, which has no listing of it:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `queue.Queue()` | `manager.streams.add()`: a queue on the server's disk |
 * | `queue.put(job)`, `socket.send_json(job)` | `js.publish(subject, job, { msgID })`, stored when it returns |
 * | `queue.join()` | a count of the results, each once |
 * | `results.get()`, `socket.recv_json()` | `consumer.next()`, `message.ack()` |
 *
 * What is published is stored when the server says so; if that answer gets lost it is published
 * again, with the same id, and is one job. Each run has a name of its own and a stream for its
 * results, which goes when it ends, and its jobs with it; at Ctrl-C too. One that is killed leaves
 * both: its jobs will be done, and `PI_RESULTS_RUN` is there until somebody removes it.
 *
 * @module
 */
import type { JetStreamManager } from "@nats-io/jetstream";
import { deadline } from "@std/async/deadline";
import { delay } from "@std/async/delay";
import { retry } from "@std/async/retry";
import { named, reason } from "../lib/address.ts";
import { flag, hostPort, main, number, seconds, stopSignal } from "../lib/cli.ts";
import { printable } from "../lib/framing.ts";

const JOBS = "PI_JOBS"; // the stream; job 7 of a run is there as pi.jobs.RUN.7
const PAUSE = 1000; // milliseconds before NATS is tried again
const ANSWER = 2000; // milliseconds for NATS to answer before it is asked again
const AT_ONCE = 100; // jobs that are published without an answer yet

/** So many points of the pseudo-random sequence that starts from this seed. */
export type Job = { seed: number; points: number };

/** What became of a job: how many points are inside the circle, or why it was given up. */
export type Result = { inside: number } | { failed: string };

/** The results of a run of `jobs` jobs, each of `points` points. */
export class Tally {
  /** The jobs of which it is known what became of them. */
  readonly heard = new Set<string>();
  /** How many of them are done. */
  done = 0;
  /** How many points of those are inside the circle. */
  inside = 0;

  /** A run without results yet. */
  constructor(readonly jobs: number, readonly points: number) {}

  /**
   * Counts the result of job number `job`, and returns it if it is the first: of a job whose worker
   * is killed before it has acknowledged it, another one sends a result, too.
   *
   * @throws {Error} if it is no result, or there is no such job.
   */
  add(job: string, text: string): Result | undefined {
    const { inside, failed } = JSON.parse(text) ?? {};
    const counted = Number.isInteger(inside) && inside >= 0 && inside <= this.points;
    if (!counted && typeof failed !== "string") throw new Error("not a result");
    if (!/^(0|[1-9]\d*)$/.test(job) || Number(job) >= this.jobs) throw new Error("no such job");
    if (this.heard.has(job)) return;
    this.heard.add(job);
    if (!counted) return { failed };
    this.done++;
    this.inside += inside;
    return { inside };
  }

  /** The estimate so far. */
  get pi(): string {
    return this.done > 0 ? (4 * this.inside / (this.done * this.points)).toFixed(5) : "unknown";
  }

  /** The estimate, and what it rests on. */
  toString(): string {
    const points = [this.inside, this.done * this.points].map((n) => n.toLocaleString("en-US"));
    const jobs = `${this.done} of ${this.jobs} jobs`;
    return `pi is about ${this.pi} (${jobs}, ${points.join(" of ")} points inside)`;
  }
}

function isTimeout(error: unknown): boolean {
  return error instanceof Error && error.name === "TimeoutError";
}

/** Asks NATS until it answers: all that is asked here may be asked twice. */
function insist<T>(request: () => Promise<T>, signal?: AbortSignal): Promise<T> {
  const always = { maxAttempts: Number.MAX_SAFE_INTEGER, multiplier: 1, minTimeout: PAUSE };
  return retry(request, { ...always, isRetriable: isTimeout, signal });
}

/** Does something with each item, many at once. */
async function inBatches<T>(items: T[], each: (item: T) => Promise<unknown>): Promise<void> {
  for (let i = 0; i < items.length; i += AT_ONCE) {
    await Promise.all(items.slice(i, i + AT_ONCE).map(each));
  }
}

/**
 * Removes the jobs of a run that are still there. A purge by subject would do it at once, but in
 * older servers (2.9.10 is in Debian 12) workers lose the jobs of other runs by it.
 */
async function takeBack({ streams }: JetStreamManager, run: string): Promise<void> {
  const { state } = await streams.info(JOBS, { subjects_filter: `pi.jobs.${run}.*` });
  await inBatches(Object.keys(state.subjects ?? {}), async (subject) => {
    const job = await streams.getMessage(JOBS, { last_by_subj: subject });
    if (job) {
      await streams.deleteMessage(JOBS, job.seq, false).catch((error) => {
        if (isTimeout(error)) throw error; // else it has been done meanwhile
      });
    }
  });
}

/** Publishes the jobs of a run and counts their results until all are there, or `signal`. */
async function produce(
  manager: JetStreamManager,
  tally: Tally,
  signal: AbortSignal,
  say: (line: string) => void,
  draw: () => void,
): Promise<void> {
  const { AckPolicy, RetentionPolicy } = await import("@nats-io/jetstream");
  const js = manager.jetstream();
  const run = crypto.randomUUID().slice(0, 8);
  const results = `PI_RESULTS_${run}`;
  const retention = RetentionPolicy.Workqueue; // what is acknowledged is removed
  await manager.streams.add({ name: JOBS, subjects: ["pi.jobs.*.*"], retention });
  await manager.streams.add({ name: results, subjects: [`pi.results.${run}.*`] });
  try {
    await manager.consumers.add(results, {
      durable_name: "producer",
      ack_policy: AckPolicy.Explicit,
      ack_wait: 5e9, // nanoseconds
    });
    const consumer = await js.consumers.get(results, "producer");

    const publish = (number: number) => {
      const job: Job = { seed: number, points: tally.points };
      const msgID = `${run}.${number}`;
      return insist(() => js.publish(`pi.jobs.${msgID}`, JSON.stringify(job), { msgID }), signal);
    };
    await inBatches([...Array(tally.jobs).keys()], publish);
    say(`${tally.jobs} jobs published, run ${run}`);

    const { promise: stopped, resolve: stop } = Promise.withResolvers<null>();
    signal.onabort = () => stop(null);
    const next = () =>
      consumer.next({ expires: 10_000 }).catch(async () => {
        await delay(PAUSE);
        await insist(() => consumer.info(), signal); // fails if the server has lost the results
        return null;
      });
    while (tally.heard.size < tally.jobs && !signal.aborted) {
      const message = await Promise.race([next(), stopped]);
      if (!message) continue;
      const job = message.subject.split(".")[3];
      try {
        const result = tally.add(job, message.string());
        if (result && "failed" in result) say(`job ${job} given up: ${result.failed}`);
        if (result) draw();
      } catch (error) {
        say(`ignored what came for job ${job}: ${reason(error)}`);
      }
      message.ack();
    }
  } catch (error) {
    if (!signal.aborted) throw error;
  } finally {
    // In this order: a job without a stream for its result would be tried again and again.
    const removed = insist(() => takeBack(manager, run))
      .then(() => insist(() => manager.streams.delete(results)));
    await deadline(removed, 5000).catch(() => {
      say(`left on the server: jobs pi.jobs.${run}.* and stream ${results}`);
    });
  }
}

/** The library's error as people read it. */
function explained(server: string, error: Error): Error {
  const plain = new Map([
    ["timeout", "no answer"],
    ["jetstream is not enabled", "no JetStream there (nats-server -js)"],
    ["error connecting - node provided an undefined error", "hung up"],
  ]);
  error.message = plain.get(error.message) ?? error.message;
  return named(server, error);
}

if (import.meta.main) {
  await main({
    name: "queue_producer",
    about: "Has pi estimated by queue_worker.ts, by way of a queue of jobs in NATS.",
    permissions: "--allow-net",
    flags: {
      nats: flag("HOST:PORT", "the NATS server", hostPort(4222), "127.0.0.1:4222"),
      jobs: flag("N", "how many jobs", number(1, 10_000), "60"),
      points: flag("N", "random points in each", number(1, 1e9), "1000000"),
      timeout: flag("S", "seconds for the connection", seconds, "10"),
    },
  }, async ({ name, nats: server, jobs, points, timeout }) => {
    const clear = Deno.stderr.isTerminal() ? "\r\x1b[K" : "";
    const write = (text: string) => Deno.stderr.writeSync(new TextEncoder().encode(text));
    const say = (line: string) => console.error(`${clear}${name}: ${printable(line)}`);
    const tally = new Tally(jobs, points);
    const draw = () => {
      const line = `${tally.heard.size} of ${jobs} jobs, pi is about ${tally.pi}`;
      if (clear) write(clear + line);
      else if (tally.heard.size % Math.ceil(jobs / 10) === 0) say(line);
    };
    const { connect } = await import("@nats-io/transport-node");
    const { jetstreamManager } = await import("@nats-io/jetstream");
    try {
      // One that leaves two pings unanswered is lost. It is tried again for as long as it takes.
      const options = { timeout, pingInterval: 5000, maxReconnectAttempts: -1 };
      const nats = await connect({ servers: server, ...options });
      (async () => {
        for await (const { type } of nats.status()) {
          if (type === "disconnect") say(`lost ${server}, trying again`);
          if (type === "reconnect") say(`${server} is back`);
        }
      })();
      const manager = await jetstreamManager(nats, { timeout: ANSWER });
      const signal = stopSignal();
      await produce(manager, tally, signal, say, draw);
      if (signal.aborted) {
        say(`stopped with ${tally.done} of ${jobs} jobs done`);
        return 130;
      }
    } catch (error) {
      throw explained(server, error as Error);
    } finally {
      write(clear);
    }
    console.log(`${tally}`);
    return tally.done === jobs ? 0 : 1;
  });
}
