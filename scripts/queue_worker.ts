#!/usr/bin/env -S deno run --allow-net
/**
 * A worker on a queue of jobs in NATS JetStream: counts random points that fall inside a circle, for
 * the producer's estimate of pi (see `queue_producer.ts`). Any number of them, on any number of
 * machines, work on one queue.
 *
 *     nats-server -a 127.0.0.1 -js
 *     deno run --allow-net scripts/queue_worker.ts
 *     deno run --allow-net scripts/queue_producer.ts
 *
 * Mirrors "Message Queues" of chapter 8 of the book in tutorial 002, which has no listing of it:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `zmq.Context().socket(zmq.PULL)`, `connect(url)` | `connect({ servers })` |
 * | `queue.get()`, `socket.recv()` | `consumer.next()`: at most one job in hand |
 * | `queue.task_done()` | `job.ackAck()`; until then the server keeps the job |
 * | `json.loads(message)` | `JSON.parse(job.string())`, and a look at each number |
 * | `random.Random(seed).random()` | `sfc32(seed)` |
 * | `socket.send_json(result)` | `js.publish(subject, result, { msgID })` |
 *
 * A job is the server's until it is acknowledged, which is when its result is stored. If the server
 * hears nothing from a worker for `ACK_WAIT`, as it was killed, another one gets the job; a worker
 * that computes for longer says now and then that it still does, and one that is ended with Ctrl-C
 * gives its job back. So a job may be done twice, but is never lost. The same job has the same points
 * wherever it is done, and its result the same id.
 *
 * @module
 */
import type { Consumer, JetStreamManager, JsMsg } from "@nats-io/jetstream";
import { deadline } from "@std/async/deadline";
import { delay } from "@std/async/delay";
import { retry } from "@std/async/retry";
import { named, reason } from "../lib/address.ts";
import { flag, hostPort, main, seconds, stopSignal } from "../lib/cli.ts";
import { printable } from "../lib/framing.ts";

const JOBS = "PI_JOBS"; // the stream; job 7 of a run is there as pi.jobs.RUN.7
const ACK_WAIT = 5000; // milliseconds without a word after which a job is another worker's
const TRIES = 5;
const PAUSE = 1000; // milliseconds before the next try, of a job or of NATS
const ANSWER = 2000; // milliseconds for NATS to answer before it is asked again
const SLICE = 1_000_000; // points that are counted without a look at anything else

/** So many points of the pseudo-random sequence that starts from this seed. */
export type Job = { seed: number; points: number };

/** What became of a job: how many points are inside the circle, or why it was given up. */
export type Result = { inside: number } | { failed: string };

/** Reads a job; throws an `Error` if it is none, or one without an end. */
export function parseJob(text: string): Job {
  const { seed, points } = JSON.parse(text) ?? {};
  if (!Number.isInteger(seed) || seed < 0 || seed >= 2 ** 32) throw new Error("no good seed");
  if (!Number.isInteger(points) || points < 1 || points > 1e9) throw new Error("no good points");
  return { seed, points };
}

/**
 * The generator sfc32 of PractRand, whose own tests it passes: 32-bit numbers from 128 bits
 * of state, of which a counter sees to it that two seeds' sequences are apart for at least 2^32
 * numbers. Good for simulations, and for no secret.
 */
export function sfc32(seed: number): () => number {
  let [a, b, c, counter] = [0, seed | 0, 0, 1];
  function next(): number {
    const sum = a + b + counter++ | 0;
    a = b ^ b >>> 9;
    b = c + (c << 3) | 0;
    c = (c << 21 | c >>> 11) + sum | 0;
    return sum >>> 0;
  }
  for (let i = 0; i < 12; i++) next(); // until each bit of the seed is everywhere
  return next;
}

/** Of the job's points in the unit square those in the quarter of a circle. Throws at `signal`. */
export async function countInside({ seed, points }: Job, signal?: AbortSignal): Promise<number> {
  const random = sfc32(seed);
  let inside = 0;
  for (let left = points; left > 0; left -= SLICE) {
    for (let i = Math.min(left, SLICE); i > 0; i--) {
      const x = random() / 2 ** 32;
      const y = random() / 2 ** 32;
      if (x * x + y * y < 1) inside++;
    }
    await delay(0, { signal }); // for heartbeats and Ctrl-C
  }
  return inside;
}

/** Whether nobody takes a result: the run's stream for them is gone. */
function isOver(error: unknown): boolean {
  const names = ["StreamNotFoundError", "JetStreamNotEnabled"]; // looked for, published to
  return error instanceof Error && names.includes(error.name);
}

/** Does a job, or tells the server and after the last try the producer why not; returns what to say. */
async function work(job: JsMsg, manager: JetStreamManager, signal: AbortSignal): Promise<string> {
  const id = job.subject.split(".").slice(2).join(".");
  const results = `pi.results.${id}`;
  const attempt = job.info.deliveryCount;
  const js = manager.jetstream();
  const insist = <T>(request: () => Promise<T>) =>
    retry(request, {
      maxAttempts: Number.MAX_SAFE_INTEGER,
      multiplier: 1,
      isRetriable: (error) => error instanceof Error && error.name === "TimeoutError",
      signal,
    });
  // Published again when the answer gets lost, a result is stored once: JetStream knows its id.
  const publish = (result: Result) =>
    insist(() => js.publish(results, JSON.stringify(result), { msgID: id }));
  const heartbeat = setInterval(() => job.working(), ACK_WAIT / 3);
  try {
    // A worker that is killed cannot say that this was the last try: the next one does.
    if (attempt > TRIES) throw new Error("no worker came back with it");
    await insist(() => manager.streams.find(results)); // fails before the work if it is for nobody
    const task = parseJob(job.string());
    const inside = await countInside(task, signal);
    await publish({ inside });
    // If this gets lost the job comes again, and its second result is dropped.
    await job.ackAck().catch(() => {});
    return `job ${id} done, ${inside} of ${task.points} points inside`;
  } catch (error) {
    if (signal.aborted) {
      job.nak();
      return `job ${id} given back`;
    }
    const why = isOver(error) ? "nobody waits for its result" : reason(error);
    if (attempt < TRIES) {
      job.nak(PAUSE);
      return `job ${id}: try ${attempt} of ${TRIES} failed: ${why}`;
    }
    await publish({ failed: `${why} (${TRIES} tries)` }).catch((error) => {
      if (!isOver(error)) throw error;
    });
    job.term();
    return `job ${id} given up after ${TRIES} tries: ${why}`;
  } finally {
    clearInterval(heartbeat);
  }
}

/** The workers' place in the queue. The first of all makes both. */
async function findJobs(manager: JetStreamManager): Promise<Consumer> {
  const { AckPolicy, RetentionPolicy } = await import("@nats-io/jetstream");
  const retention = RetentionPolicy.Workqueue; // what is acknowledged is removed
  await manager.streams.add({ name: JOBS, subjects: ["pi.jobs.*.*"], retention });
  await manager.consumers.add(JOBS, {
    durable_name: "workers",
    ack_policy: AckPolicy.Explicit,
    ack_wait: ACK_WAIT * 1e6, // in nanoseconds
    max_deliver: -1, // at a limit a job would rest there, and the producer never know
  });
  return await manager.jetstream().consumers.get(JOBS, "workers");
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
    name: "queue_worker",
    about: "Works on the jobs that queue_producer.ts gives to NATS, until Ctrl-C.",
    permissions: "--allow-net",
    flags: {
      nats: flag("HOST:PORT", "the NATS server", hostPort(4222), "127.0.0.1:4222"),
      timeout: flag("S", "seconds for the connection", seconds, "10"),
    },
  }, async ({ name, nats: server, timeout }) => {
    const say = (line: string) => console.error(`${name}: ${printable(line)}`);
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
      let jobs: Consumer | undefined = await findJobs(manager);
      const signal = stopSignal();
      const { promise: stopped, resolve: stop } = Promise.withResolvers<null>();
      signal.onabort = () => stop(null);
      say(`waiting for jobs from ${server}`);
      let failing = false;
      while (!signal.aborted) {
        try {
          jobs ??= await findJobs(manager); // somebody may have removed it
          const job = await Promise.race([jobs.next({ expires: 10_000 }), stopped]);
          failing = false;
          if (job) say(await work(job, manager, signal));
        } catch (error) {
          if (nats.isClosed()) throw error;
          if (signal.aborted) break;
          if (!failing) say(`trying again: ${reason(error)}`);
          failing = true;
          jobs = undefined;
          await delay(PAUSE, { signal }).catch(() => {});
        }
      }
      // A job that is given back must reach the server, if that is there.
      await deadline(nats.flush(), 1000).catch(() => {});
    } catch (error) {
      throw explained(server, error as Error);
    }
  });
}
