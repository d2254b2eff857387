import { assertEquals, assertMatch } from "@std/assert";
import { missing, Program, run, start } from "../helpers.ts";
import { ask, eventually, limited, output, python, sockets } from "./peers.ts";

const NO_FAULT = ["--refuse", "0", "--stall", "0", "--reset", "0", "--cut", "0"];

Deno.test({
  name: "Python meets each fault of flaky_server as what it is",
  ignore: missing("python3"),
  async fn() {
    await Promise.all(
      ([
        ["refuse", /^BUSY\n$/, ""],
        ["stall", /^TimeoutError\n$/, ": total 5,"],
        ["reset", /^ConnectionResetError\n$/, ": total 5,"],
        ["cut", /^EOFError\n$/, ": total 5,"],
      ] as const).map(async ([fault, meets, total]) => {
        const rates = [...NO_FAULT, `--${fault}`, "1"];
        await using server = start("flaky_server", ["--port", "0", ...rates]);
        const port = await server.port();
        // Twice, as some of it could be chance; with one ID, so that it is done once.
        for (let i = 0; i < 2; i++) {
          assertMatch(await output(python("retry.py", "ask", port, "id", 5)), meets);
        }
        server.signal("SIGINT");
        const { code, stderr } = await server.ended();
        assertEquals(code, 0);
        assertEquals(/: total \d+,/.exec(stderr)?.[0] ?? "", total, stderr);
      }),
    );
    await using sound = start("flaky_server", ["--port", "0", ...NO_FAULT]);
    const port = await sound.port();
    assertEquals(await output(python("retry.py", "ask", port, "id", 5)), "id 5\n");
    assertMatch(await output(python("retry.py", "ask", port, "i=d", 5)), /^ERROR not a request/);
  },
});

Deno.test({
  name: "a Python client gets 40 of 40 answers from flaky_server, each done once",
  ignore: missing("python3"),
  async fn() {
    await using server = start("flaky_server", [
      "--port",
      "0",
      "--stall",
      "0.05",
      "--reset",
      "0.3",
    ]);
    const said = await output(python("retry.py", "insist", await server.port(), 40));
    assertMatch(said, /^total 40 met .*ConnectionResetError/);
  },
});

Deno.test({
  name: "retry_client gets its answers from a Python server that fails in each way",
  ignore: missing("python3"),
  async fn() {
    const faults = ["reset", "busy", "cut", "hang up", "stall", "cut", "reset"];
    await using server = new Program(python("retry.py", "serve", ...faults));
    const port = `${await server.port()}`;
    const args = ["--port", port, "--requests", "3", "--timeout", "1.5"];
    const { code, stdout, stderr } = await run("retry_client", args);
    assertEquals([code, stderr], [0, ""]);
    const rows = ["3 of 3 answers, total 3", "refused   1", "timed out 1", "reset     2"];
    rows.push("cut short 3", "attempts  10");
    assertEquals(stdout.split("\n").slice(0, 6), rows);
    assertEquals(new Set(server.stdout.trim().split("\n")).size, 3, "as many IDs as requests");
  },
});

Deno.test({
  name: "flaky_server with 64 descriptors outlives 150 connections, and answers after them",
  ignore: missing("python3", "prlimit"),
  async fn() {
    await using server = new Program(limited(64, "flaky_server", NO_FAULT));
    const port = await server.port();
    const before = sockets(server);
    // Twice, as what mends it must not work just once.
    for (const n of [1, 2]) {
      assertEquals(await ask(port, `before-${n} add 1\n`), `before-${n} ${2 * n - 1}\r\n`);
      await using held = new Program(python("rude.py", "hold", port, 150));
      await held.until(/^holding 150$/m);
      await held.endInput();
      assertEquals((await held.ended()).code, 0, held.stderr);
      const request = `after-${n} add 1\n`;
      await eventually("it answers", async () => {
        const late = AbortSignal.timeout(1000);
        const answer = await Promise.race([
          ask(port, request).catch(() => ""),
          new Promise<string>((resolve) => late.addEventListener("abort", () => resolve(""))),
        ]);
        return answer === `after-${n} ${2 * n}\r\n`;
      });
    }
    await eventually("all sockets are closed", () => sockets(server) <= before);
  },
});

Deno.test({
  name: "flaky_server stays up and leaks nothing when clients hang up, reset and talk nonsense",
  ignore: missing("python3"),
  async fn() {
    await using server = start("flaky_server", ["--port", "0"]);
    const port = await server.port();
    const before = sockets(server);
    assertEquals(await output(python("rude.py", "abuse", port, 20)), "abused\n");
    await eventually("all sockets are closed", () => sockets(server) <= before);
    const { code, stdout } = await run("retry_client", ["--port", `${port}`, "--requests", "5"]);
    assertEquals(code, 0);
    assertMatch(stdout, /^5 of 5 answers, total 5\n/);
    assertEquals(/^\s+at |Uncaught/m.test(server.stderr), false, server.stderr);
  },
});
