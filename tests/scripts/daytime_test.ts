import { assertEquals, assertMatch } from "@std/assert";
import { connect } from "../../lib/address.ts";
import { FramedConn } from "../../lib/framing.ts";
import { daytime } from "../../scripts/daytime_server.ts";
import { mayRun, run, start } from "../helpers.ts";

/** RFC 867, its first suggestion: `Tuesday, February 22, 1982 17:37:43-PST`. */
const LINE = /^[A-Z][a-z]+day, [A-Z][a-z]+ \d{1,2}, \d{4} \d\d:\d\d:\d\d-[A-Z][A-Z0-9+:-]*\r\n$/;

Deno.test("daytime is in the RFC's form", () => {
  assertMatch(daytime(), LINE);
  assertMatch(daytime(new Date(2026, 0, 2, 0, 4, 5)), /^Friday, January 2, 2026 00:04:05-/);
});

Deno.test({
  name: "daytime_client prints daytime_server's line, over TCP and over UDP",
  ignore: !mayRun,
  async fn() {
    await using server = start("daytime_server", ["--port", "0"]);
    const port = `${await server.port()}`;
    for (const args of [[], ["--udp"]]) {
      const { code, stdout, stderr } = await run("daytime_client", ["--port", port, ...args]);
      assertMatch(stdout.replace("\n", "\r\n"), LINE);
      assertEquals([code, stderr], [0, ""]);
    }
  },
});

Deno.test({
  name: "what a daytime client sends costs it no answer",
  ignore: !mayRun,
  async fn() {
    await using server = start("daytime_server", ["--port", "0"]);
    const port = await server.port();
    using conn = new FramedConn(await connect({ host: "127.0.0.1", port }));
    await conn.writeAll(new Uint8Array(1024 * 1024));
    assertMatch(new TextDecoder().decode(await conn.readToEnd(100)), LINE);
  },
});
