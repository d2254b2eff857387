import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { Tally } from "../../scripts/queue_producer.ts";
import { countInside, parseJob, sfc32 } from "../../scripts/queue_worker.ts";
import { mayRun, run } from "../helpers.ts";

Deno.test("sfc32 gives the numbers that PractRand's gives", () => {
  // From the same generator written in Python, after PractRand's description of it.
  for (
    const [seed, ...numbers] of [
      [0, 1363572419, 145230303, 808754475, 4216505632],
      [1, 2012149540, 1872316204, 1707632675, 1779833415],
      [0xffffffff, 1984736529, 3747275468, 1287205723, 2021412065],
    ]
  ) {
    assertEquals(numbers.map(sfc32(seed)), numbers);
  }
});

Deno.test("the same job has the same points, and they give pi", async () => {
  for (const [seed, inside] of [[0, 78666], [7, 78374], [0xffffffff, 78512]]) {
    assertEquals(await countInside({ seed, points: 100_000 }), inside);
  }
  assert([0, 1].includes(await countInside({ seed: 3, points: 1 })));
  // Over several slices; five standard deviations are 0.0029.
  const inside = await countInside({ seed: 1, points: 8_000_001 });
  assert(Math.abs(4 * inside / 8_000_001 - Math.PI) < 0.0029, `${inside}`);
});

Deno.test("a long job lets others run, and ends with its signal", async () => {
  const stop = new AbortController();
  const counting = countInside({ seed: 1, points: 1e9 }, stop.signal);
  setTimeout(() => stop.abort(), 1);
  await assertRejects(() => counting, DOMException, "abort");
});

Deno.test("parseJob takes a job and nothing else", () => {
  for (const job of [{ seed: 0, points: 1 }, { seed: 2 ** 32 - 1, points: 1e9 }]) {
    assertEquals(parseJob(JSON.stringify({ ...job, more: "x" })), job);
  }
  for (const text of ["", "x", "{", "\0", '{"seed":1,"points":1}x']) {
    assertThrows(() => parseJob(text), SyntaxError);
  }
  for (
    const text of [
      ...["null", "7", '"x"', "[]", "{}", '{"seed":1}', '{"points":1}'],
      ...["0", "-1", "1.5", '"1"', "null", "1e10", "[1]", "{}", "true"]
        .map((points) => `{"seed":1,"points":${points}}`),
      ...["-1", "0.5", "4294967296", '"1"', "null"]
        .map((seed) => `{"seed":${seed},"points":1}`),
    ]
  ) {
    assertThrows(() => parseJob(text), Error, "no good");
  }
});

Deno.test("a tally counts each job once, whatever comes", () => {
  const tally = new Tally(3, 1000);
  assertEquals(`${tally}`, "pi is about unknown (0 of 3 jobs, 0 of 0 points inside)");
  assertEquals(tally.add("0", '{"inside":785}'), { inside: 785 });
  assertEquals(tally.add("0", '{"inside":0}'), undefined);
  assertEquals(tally.add("0", '{"failed":"too late"}'), undefined);
  assertEquals(tally.add("2", '{"failed":"why"}'), { failed: "why" });
  assertEquals(tally.add("2", '{"inside":1}'), undefined);
  assertEquals(`${tally}`, "pi is about 3.14000 (1 of 3 jobs, 785 of 1,000 points inside)");
  for (const job of ["3", "-1", "01", "1.0", "x", "", " 1", "1e0"]) {
    assertThrows(() => tally.add(job, '{"inside":1}'), Error, "no such job");
  }
  for (const inside of ["-1", "1001", "0.5", '"1"', "null", "[]", "true"]) {
    assertThrows(() => tally.add("1", `{"inside":${inside}}`), Error, "not a result");
  }
  for (const text of ["null", "7", "{}", '{"failed":7}']) {
    assertThrows(() => tally.add("1", text), Error, "not a result");
  }
  assertThrows(() => tally.add("1", "{"), SyntaxError);
  assertEquals(tally.heard.size, 2);
  assertEquals(tally.add("1", '{"inside":1000}'), { inside: 1000 });
  assertEquals(`${tally}`, "pi is about 3.57000 (2 of 3 jobs, 1,785 of 2,000 points inside)");
});

Deno.test({
  name: "the queue scripts say what is wrong with their command line",
  ignore: !mayRun,
  async fn() {
    const both: [string[], RegExp][] = [
      [["--nats", "unix:/x"], /: --nats: unix:\/x is not HOST:PORT /],
      [["--nats", "a:b:c"], /: --nats: a:b:c is not an address /],
      [["--nats", "nats://127.0.0.1:4222"], /: --nats: nats:\/\/.* is not an address /],
      [["--nats"], /: --nats: HOST:PORT is missing /],
      [["--timeout", "0"], /: --timeout: 0 is not a number /],
    ];
    const producers: [string[], RegExp][] = [
      [["--jobs", "0"], /: --jobs: 0 is not a whole number from 1 to 10000 /],
      [["--points", "1.5"], /: --points: 1\.5 is not a whole number from 1 to 1000000000 /],
      [["60"], /: unexpected argument 60 /],
    ];
    const cases = [
      ...both.map(([args, says]) => ["queue_worker", args, says] as const),
      ...[...both, ...producers].map(([args, says]) => ["queue_producer", args, says] as const),
    ];
    await Promise.all(cases.map(async ([name, args, says]) => {
      const { code, stdout, stderr } = await run(name, args);
      assertEquals([code, stdout, stderr.split("\n").length], [2, "", 2], stderr);
      assertMatch(stderr, says);
    }));
  },
});
