import { assertEquals, assertMatch } from "@std/assert";
import { missing, Program, run, start } from "../helpers.ts";
import { output, python } from "./peers.ts";

const STYLES = ["sequential", "concurrent", "workers"];
const ALL = `Beautiful is better than? Ugly.
Explicit is better than? Implicit.
Simple is better than? Complex.
`;
const UNKNOWN = "Flat is better than? Error: unknown aphorism.\n";

/** Starts our server in a style. */
function startZen(style: string): Program {
  const args = ["--port", "0", "--style", style];
  return start("zen_server", args, style === "workers" ? ["--allow-read"] : []);
}

for (const style of STYLES) {
  Deno.test({
    name: `Python's clients and nc ask zen_server, ${style}`,
    ignore: missing("python3", "nc"),
    async fn() {
      await using server = startZen(style);
      const port = `${await server.port()}`;
      const asked = await output(python("zen.py", "ask", port, 11));
      assertEquals(asked, (ALL + UNKNOWN).repeat(3).split("\n").slice(0, 11).join("\n") + "\n");
      assertEquals(await output(python("zen.py", "crowd", port, 20)), "wrong: none\n");
      const nc = ["nc", "-N", "127.0.0.1", port];
      assertEquals(
        await output(nc, "Simple is better than?Beautiful is better than?"),
        "Complex.Ugly.",
      );
      assertEquals(await output(nc, "Simple is better"), "");
      assertEquals(await output(nc), "");
      await server.until(/: connection ended in the middle of a message\n/, "stderr");
    },
  });

  Deno.test({
    name: `zen_server, ${style}, answers still when rude peers have been`,
    ignore: missing("python3"),
    async fn() {
      await using server = startZen(style);
      const port = `${await server.port()}`;
      assertEquals(await output(python("rude.py", "abuse", port, 5)), "abused\n");
      assertEquals((await run("zen_client", ["--port", port])).stdout, ALL);
      server.signal("SIGINT");
      const { code, stderr } = await server.ended();
      assertEquals([code, /^\s+at |Uncaught/m.test(stderr)], [0, false], stderr);
    },
  });
}

for (const kind of ["sequential", "threaded", "streams"]) {
  Deno.test({
    name: `our client, load test and pool at Python's server, ${kind}`,
    ignore: missing("python3"),
    async fn() {
      await using server = new Program(python("zen.py", kind));
      const port = ["--port", `${await server.port()}`];
      const asked = await run("zen_client", port);
      assertEquals(asked, { code: 0, stdout: ALL, stderr: "" });

      // Python's sequential server takes the second client when the first has left, as ours does.
      const alone = kind === "sequential";
      const size = alone ? "1" : "5";
      const pool = await run("connection_pool", [...port, "--requests", "100", "--size", size]);
      assertEquals([pool.code, pool.stderr], [0, ""]);
      assertMatch(
        pool.stdout,
        new RegExp(`^a new connection each .* 100\nthrough .* ${size}$`, "m"),
      );

      const test = ["--connections", "8", "--seconds", "0.3", "--timeout", "1.5"];
      const load = await run("zen_client", [...port, ...test]);
      const [first, ...rest] = load.stdout.split("\n");
      assertMatch(first, /^[1-9]\d* questions answered in \d\.\d\d s, [1-9]\d* per second$/);
      assertEquals([load.code, load.stderr], [alone ? 1 : 0, ""], load.stdout);
      const unanswered = "7 of 8 connections were never answered";
      assertEquals(rest[0] === unanswered, alone, load.stdout);
    },
  });
}
