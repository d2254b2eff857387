import { assert, assertEquals, assertMatch } from "@std/assert";
import { askDatagram } from "../../lib/framing.ts";
import { ping, report } from "../../scripts/udp_client.ts";
import { echo } from "../../scripts/udp_echo.ts";
import { mayConnect, mayRun, run, start } from "../helpers.ts";

const MAX_DATAGRAM = 65507; // what IPv4 and UDP leave of 65,535

/** A socket that answers each datagram, the first is 0, with what `answers` makes of it. */
function testSocket(
  answers: (data: Uint8Array, number: number) => Uint8Array[],
): AsyncDisposable & { host: string; port: number; seen: string[] } {
  const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  const seen: string[] = [];
  const answering = (async () => {
    for await (const [data, from] of socket) {
      seen.push(new TextDecoder().decode(data));
      for (const answer of answers(data, seen.length - 1)) await socket.send(answer, from);
    }
  })();
  return {
    host: "127.0.0.1",
    port: (socket.addr as Deno.NetAddr).port,
    seen,
    async [Symbol.asyncDispose]() {
      socket.close();
      await answering;
    },
  };
}

Deno.test({
  name: "udp_echo echoes datagrams of any size",
  ignore: !mayRun,
  async fn() {
    assertEquals(echo(new Uint8Array([1, 2])), new Uint8Array([1, 2]));
    for (const host of ["127.0.0.1", "::1"]) {
      await using server = start("udp_echo", ["--port", "0", "--host", host]);
      const port = await server.port();
      for (const size of [0, 1, 1472, 1473, 65506, MAX_DATAGRAM]) {
        const question = Uint8Array.from({ length: size }, (_, i) => i * 7 + (i >> 8));
        const answer = await askDatagram({ host, port }, question);
        assertEquals(answer, question, `${host}: ${size}`);
      }
      server.signal("SIGINT");
      const { code, stdout, stderr } = await server.ended();
      assertEquals([code, stdout, stderr.split("\n").length], [0, "", 2], stderr);
    }
  },
});

Deno.test({
  name: "udp_echo keeps many clients' datagrams apart, and serves --allow-from only",
  ignore: !mayRun,
  async fn() {
    await using server = start("udp_echo", ["--port", "0", "--allow-from", "127.0.0.1"]);
    const endpoint = { host: "127.0.0.1", port: await server.port() };
    const answers = await Promise.all(Array.from({ length: 100 }, async (_, i) => {
      const question = new TextEncoder().encode(`client ${i}`);
      return new TextDecoder().decode(await askDatagram(endpoint, question));
    }));
    assertEquals(answers, answers.map((_, i) => `client ${i}`));

    const args = ["--port", "0", "--allow-from", "10.0.0.0/8"];
    await using strict = start("udp_echo", args);
    const port = `${await strict.port()}`;
    const refused = await run("udp_client", ["--port", port, "--timeout", "0.3"]);
    assertEquals([refused.code, refused.stdout], [1, ""]);
  },
});

Deno.test({
  name: "udp_client prints the answer, escaped",
  ignore: !mayRun,
  async fn() {
    await using server = start("udp_echo", ["--port", "0"]);
    const port = `${await server.port()}`;
    for (
      const [args, stdout] of [
        [[], "Hello server!"],
        [["grüße"], "grüße"],
        [[""], ""],
        [["a\x1b[31mb\nc"], "a\\x1b[31mb\\nc"],
        [["--", "--dashes"], "--dashes"],
        [["x".repeat(60_000)], "x".repeat(60_000)],
      ] as const
    ) {
      const result = await run("udp_client", ["--port", port, ...args]);
      assertEquals(result, { code: 0, stdout: `${stdout}\n`, stderr: "" });
    }
  },
});

Deno.test({
  name: "udp_client sends again with exponential back-off, and says so",
  ignore: !mayRun,
  async fn() {
    // The first two datagrams are lost.
    await using late = testSocket((data, number) => number < 2 ? [] : [data]);
    const got = await run("udp_client", ["--port", `${late.port}`, "once more"]);
    const again = (s: number) => `udp_client: no answer for ${s} s, sending again\n`;
    assertEquals(got, { code: 0, stdout: "once more\n", stderr: again(0.5) + again(1) });
    assertEquals(late.seen, ["once more", "once more", "once more"]);

    await using deaf = testSocket(() => []);
    const began = performance.now();
    const { code, stdout, stderr } = await run("udp_client", [
      ...["--port", `${deaf.port}`, "--timeout", "0.7", "anybody?"],
    ]);
    assert(performance.now() - began >= 700);
    assertEquals([code, stdout], [1, ""]);
    assertEquals(
      stderr,
      again(0.5) +
        `udp_client: 127.0.0.1:${deaf.port}: no answer (datagrams sent: 2)\n`,
    );
    assertEquals(deaf.seen, ["anybody?", "anybody?"]);
  },
});

Deno.test({
  name: "udp_client takes no answer from anybody but the server",
  ignore: !mayRun,
  async fn() {
    using sockets = new DisposableStack();
    const bind = () =>
      sockets.adopt(
        Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 }),
        (socket) => socket.close(),
      );
    const [stranger, server] = [bind(), bind()];
    const { port } = server.addr as Deno.NetAddr;
    await using client = start("udp_client", ["--port", `${port}`, "--trace"]);
    const [, from] = await server.receive();
    await stranger.send(new TextEncoder().encode("forged"), from);
    await client.until(/^< .* forged$/m, "stderr");
    await server.send(new TextEncoder().encode("true"), from);
    const { code, stdout } = await client.ended();
    assertEquals([code, stdout], [0, "true\n"]);
  },
});

Deno.test({
  name: "ping tallies what is lost and what comes twice",
  ignore: !mayConnect,
  async fn() {
    // Of ten the third and the seventh are lost, the fifth comes three times, and two are no echo.
    const junk = ["", "x", "10 more than were sent", "-1", "NaN"].map((text) =>
      new TextEncoder().encode(text)
    );
    await using server = testSocket((data, number) =>
      number === 2 || number === 6
        ? []
        : number === 4
        ? [data, data, data]
        : number === 8
        ? [...junk, data]
        : [data]
    );
    const options = { count: 10, interval: 5, timeout: 200 };
    const { sent, duplicates, roundTrips } = await ping(server, "hello", options);
    assertEquals([sent, duplicates, roundTrips.length], [10, 2, 8]);
    assertEquals(server.seen, Array.from({ length: 10 }, (_, i) => `${i} hello`));
    assert(roundTrips.every((ms) => ms > 0 && ms < 10_000));
    assertEquals(roundTrips, roundTrips.toSorted((a, b) => a - b));
  },
});

Deno.test({
  name: "ping does not wait for more when all has come, and ends with its signal",
  ignore: !mayConnect,
  async fn() {
    await using server = testSocket((data) => [data]);
    const began = performance.now();
    const all = await ping(server, "", { count: 3, interval: 1, timeout: 60_000 });
    assertEquals([all.sent, all.roundTrips.length], [3, 3]);

    const stop = new AbortController();
    await using deaf = testSocket(() => (stop.abort(), []));
    const options = { count: 3, interval: 60_000, timeout: 60_000, signal: stop.signal };
    assertEquals(await ping(deaf, "", options), { sent: 1, duplicates: 0, roundTrips: [] });
    assert(performance.now() - began < 30_000);
  },
});

Deno.test("report counts, ranks and draws", () => {
  assertEquals(report({ sent: 0, duplicates: 0, roundTrips: [] }), [
    "0 sent, 0 lost (0.0%), 0 duplicates",
  ]);
  assertEquals(report({ sent: 3, duplicates: 0, roundTrips: [] }), [
    "3 sent, 3 lost (100.0%), 0 duplicates",
  ]);
  const even = Array.from({ length: 100 }, (_, i) => i + 1);
  const [losses, figures, ...bars] = report({ sent: 125, duplicates: 4, roundTrips: even });
  assertEquals(losses, "125 sent, 25 lost (20.0%), 4 duplicates");
  assertEquals(figures, "round trip min/median/p99/max 1.000/50.000/99.000/100.000 ms");
  assertEquals(bars.length, 8);
  // Eight steps from 1 to the 99th percentile, each of 12.25.
  const counts = bars.map((bar) => Number(/(\d+)$/.exec(bar)?.[1]));
  assertEquals(counts, [13, 12, 12, 12, 13, 12, 12, 14]);

  // One round trip, or all the same: no width, one full bar.
  const same = report({ sent: 2, duplicates: 0, roundTrips: [0.25, 0.25] });
  assertEquals(same[1], "round trip min/median/p99/max 0.250/0.250/0.250/0.250 ms");
  assertEquals(same[2], `     0.250 ms ${"█".repeat(30)} 2`);
  assertEquals(same.slice(3).map((bar) => bar.endsWith(" ms")), new Array(7).fill(true));

  // A bar is drawn to the eighth of a column.
  const skewed = [...new Array(16).fill(0), 8];
  const drawn = report({ sent: 17, duplicates: 0, roundTrips: skewed });
  assertEquals(drawn[2], `     0.000 ms ${"█".repeat(30)} 16`);
  assertEquals(drawn.at(-1), "     7.000 ms █▉ 1");
});

Deno.test({
  name: "udp_client --count pings",
  ignore: !mayRun,
  async fn() {
    await using server = start("udp_echo", ["--port", "0"]);
    const port = `${await server.port()}`;
    const { code, stdout, stderr } = await run("udp_client", [
      ...["--port", port, "--count", "5", "--interval", "0.01"],
    ]);
    assertEquals([code, stderr], [0, ""]);
    const [losses, figures, ...bars] = stdout.trimEnd().split("\n");
    assertEquals(losses, "5 sent, 0 lost (0.0%), 0 duplicates");
    assertMatch(figures, /^round trip min\/median\/p99\/max (\d+\.\d{3}\/?){4} ms$/);
    assertEquals(bars.length, 8);

    await using deaf = testSocket(() => []);
    const lost = await run("udp_client", [
      ...["--port", `${deaf.port}`, "--count", "2", "--interval", "0.01", "--timeout", "0.05"],
    ]);
    const line = "2 sent, 2 lost (100.0%), 0 duplicates\n";
    assertEquals(lost, { code: 1, stdout: line, stderr: "" });
  },
});

Deno.test({
  name: "Ctrl-C ends a ping with its tally",
  ignore: !mayRun,
  async fn() {
    await using server = start("udp_echo", ["--port", "0"]);
    const args = ["--port", `${await server.port()}`, "--count", "1000", "--interval", "1000"];
    await using client = start("udp_client", ["--trace", ...args]);
    await client.until(/^< /m, "stderr");
    client.signal("SIGINT");
    const { code, stdout } = await client.ended();
    assertEquals([code, stdout.split("\n")[0]], [0, "1 sent, 0 lost (0.0%), 0 duplicates"]);
  },
});
