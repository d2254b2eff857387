import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { connect } from "../../lib/address.ts";
import { FramedConn, LimitError } from "../../lib/framing.ts";
import { receive } from "../../scripts/thanks_client.ts";
import { thank } from "../../scripts/thanks_server.ts";
import { mayConnect, mayRun, missing, pair, run, start, temporaryFolder } from "../helpers.ts";
import { FILES, inEachForm } from "./rig.ts";

const THANKS = "Thank you for connecting";

Deno.test({
  name: "thanks are a line, and a client takes 1024 octets of them",
  ignore: !mayConnect,
  async fn() {
    for (
      const [say, heard] of [
        [thank, THANKS],
        [(conn: FramedConn) => conn.writeAll("no line's end"), "no line's end"],
        [(conn: FramedConn) => conn.writeAll("x".repeat(1024)), "x".repeat(1024)],
        [(conn: FramedConn) => conn.writeAll("x".repeat(1025)), undefined],
      ] as const
    ) {
      const { near, far } = await pair();
      using client = new FramedConn(far);
      await say(near);
      near.close();
      if (heard !== undefined) assertEquals(await receive(client), heard);
      else await assertRejects(() => receive(client), LimitError);
    }
  },
});

Deno.test({
  name: "thanks_client prints thanks_server's thanks: TCP, IPv6, Unix socket, TLS",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    for await (const { ask } of inEachForm("thanks_server", folder.path)) {
      for (let i = 0; i < 2; i++) {
        const result = await run("thanks_client", ask, { permissions: FILES });
        assertEquals(result, { code: 0, stdout: `${THANKS}\n`, stderr: "" });
      }
    }
  },
});

/** The connections to `port` that the kernel still asks for, once it has asked again. */
async function askedAgain(port: number): Promise<true> {
  const peer = `0100007F:${port.toString(16).toUpperCase().padStart(4, "0")}`;
  for (;;) {
    for (const line of (await Deno.readTextFile("/proc/net/tcp")).split("\n")) {
      const [, , remote, state, , , retries] = line.trim().split(/\s+/);
      if (remote === peer && state === "02" && Number(retries) > 0) return true;
    }
  }
}

Deno.test({
  name: "thanks_server --max-connections 1 serves one, keeps six waiting and ignores the seventh",
  ignore: !mayRun || Deno.build.os !== "linux",
  async fn() {
    await using server = start("thanks_server", ["--port", "0", "--max-connections", "1"]);
    const port = await server.port();
    const endpoint = { host: "127.0.0.1", port, timeout: 3000 }; // less than the first one is held
    const client = async () => new FramedConn(await connect(endpoint));
    using held = await client();
    assertEquals(await held.readLine(), THANKS); // it is served, and not over until we hang up
    using stack = new DisposableStack();
    const waiting = [];
    for (let i = 0; i < 6; i++) waiting.push(stack.use(await client()));

    const giveUp = new AbortController();
    const seventh = Deno.connect({ port, signal: giveUp.signal }).then((conn) => {
      conn.close();
      return false;
    }, () => false);
    assert(await Promise.race([askedAgain(port), seventh]), "the backlog is longer than it says");
    giveUp.abort();
    await seventh;

    held.close();
    for (const conn of waiting) {
      assertEquals(await conn.readLine(), THANKS);
      assertEquals(await conn.readLine(), null);
      conn.close();
    }
    server.signal("SIGINT");
    const { code, stderr } = await server.ended();
    assertEquals(code, 0);
    // That it stops is said if it has not seen the last client leave yet.
    assertMatch(stderr, /^thanks_server: listening on \S+\n(thanks_server: stopping, .*\n)?$/);
  },
});
