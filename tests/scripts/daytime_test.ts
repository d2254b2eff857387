import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { connect } from "../../lib/address.ts";
import { FramedConn, LimitError } from "../../lib/framing.ts";
import { ask } from "../../scripts/daytime_client.ts";
import { answerConnection, answerDatagram, daytime } from "../../scripts/daytime_server.ts";
import {
  command,
  mayConnect,
  mayRun,
  missing,
  pair,
  Program,
  run,
  start,
  temporaryFolder,
} from "../helpers.ts";
import { certificate, FILES } from "./rig.ts";

/** RFC 867, its first suggestion: `Tuesday, February 22, 1982 17:37:43-PST`. */
const LINE = /^[A-Z][a-z]+day, [A-Z][a-z]+ \d{1,2}, \d{4} \d\d:\d\d:\d\d-[A-Z][A-Z0-9+:-]*\r\n$/;

/** What a client prints is the line and nothing else. */
async function assertAsks(args: string[], permissions: string[] = []): Promise<void> {
  const { code, stdout, stderr } = await run("daytime_client", args, { permissions });
  assertMatch(stdout.replace("\n", "\r\n"), LINE, `${args}: ${stderr}`);
  assertEquals([code, stderr], [0, ""], `${args}`);
}

Deno.test("daytime is in the RFC's form", () => {
  assertMatch(daytime(), LINE);
  for (
    const [date, line] of [
      [new Date(2026, 0, 2, 0, 4, 5), /^Friday, January 2, 2026 00:04:05-/],
      [new Date(1982, 1, 22, 17, 37, 43), /^Monday, February 22, 1982 17:37:43-/],
      [new Date(2024, 1, 29, 23, 59, 59), /^Thursday, February 29, 2024 23:59:59-/],
    ] as const
  ) {
    assertMatch(daytime(date), line);
    assertMatch(daytime(date), LINE);
  }
});

Deno.test({
  name: "the daytime functions speak over a connection and in a datagram",
  ignore: !mayConnect,
  async fn() {
    const { near, far } = await pair();
    using client = new FramedConn(far);
    const served = answerConnection(near).then(() => near.close());
    assertMatch(`${await ask(client)}\r\n`, LINE);
    await served;
    assertMatch(new TextDecoder().decode(answerDatagram()), LINE);
  },
});

Deno.test({
  name: "a daytime client takes 1024 octets and no more",
  ignore: !mayConnect,
  async fn() {
    for (const size of [1024, 1025]) {
      const { near, far } = await pair();
      using client = new FramedConn(far);
      await near.writeAll("x".repeat(size));
      near.close();
      if (size <= 1024) assertEquals((await ask(client)).length, size);
      else await assertRejects(() => ask(client), LimitError);
    }
  },
});

Deno.test({
  name: "daytime_client prints daytime_server's line, by every address of it",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const socket = `${folder.path}/socket`;
    for (
      const [listen, ...clients] of [
        [[], [], ["--udp"], ["--host", "localhost"]],
        [["--host", "::1"], ["--host", "::1"], ["--host", "::1", "--udp"]],
        [["--host", "0.0.0.0"], [], ["--udp"]],
        [["--unix", socket], ["--unix", socket]],
      ]
    ) {
      await using server = start("daytime_server", ["--port", "0", ...listen], FILES);
      const port = listen.includes(socket)
        ? await server.until(/listening on unix:/, "stderr").then(() => "1")
        : `${await server.port()}`;
      for (const args of clients) await assertAsks(["--port", port, ...args], FILES);
      server.signal("SIGTERM");
      assertEquals((await server.ended()).code, 0);
    }
    assertEquals([...Deno.readDirSync(folder.path)], [], "a socket's file is left");
  },
});

Deno.test({
  name: "daytime over TLS is verified, and a rude client there is nobody else's business",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const { cert, key } = await certificate(folder.path);
    const files = ["--cert", cert, "--key", key];
    await using server = start("daytime_server", ["--port", "0", ...files], FILES);
    const port = await server.port();

    using _silent = await Deno.connect({ port }); // a handshake that is never begun
    {
      using junk = await Deno.connect({ port });
      await junk.write(new Uint8Array(1000).fill(0x58));
      using _gone = await Deno.connect({ port });
    }
    await server.until(/127\.0\.0\.1:\d+: the other side does not speak TLS$/m, "stderr");
    for (const host of ["127.0.0.1", "localhost"]) {
      await assertAsks(["--port", `${port}`, "--host", host, "--tls", "--ca", cert], FILES);
    }
    const stranger = await run("daytime_client", ["--port", `${port}`, "--tls"]);
    assertEquals([stranger.code, stranger.stdout], [1, ""]);
    assertMatch(
      stranger.stderr,
      /^daytime_client: 127\.0\.0\.1:\d+: no trusted root vouches for the certificate .*\n$/,
    );
  },
});

Deno.test({
  name: "daytime_server --allow-from serves those addresses and no others",
  ignore: !mayRun,
  async fn() {
    for (const allowed of [true, false]) {
      const list = ["--allow-from", "10.0.0.0/8", "--allow-from", allowed ? "127.0.0.1" : "::1"];
      await using server = start("daytime_server", ["--port", "0", ...list]);
      const port = `${await server.port()}`;
      if (allowed) {
        await assertAsks(["--port", port]);
        await assertAsks(["--port", port, "--udp"]);
        continue;
      }
      for (const udp of [[], ["--udp"]]) {
        const { stdout } = await run("daytime_client", [
          ...["--port", port, "--timeout", "0.2", ...udp],
        ]);
        assertEquals(stdout.trim(), "");
      }
      await server.until(
        /^daytime_server: 127\.0\.0\.1:\d+: refused, not in --allow-from$/m,
        "stderr",
      );
    }
  },
});

Deno.test({
  name: "daytime --trace shows the wire on both sides",
  ignore: !mayRun,
  async fn() {
    await using server = start("daytime_server", ["--port", "0", "--trace"]);
    const port = `${await server.port()}`;
    for (const udp of [[], ["--udp"]]) {
      const { stdout, stderr } = await run("daytime_client", ["--trace", "--port", port, ...udp]);
      const line = stdout.trim().replace(/\W/g, "\\$&");
      assertMatch(stderr, new RegExp(`^< 127\\.0\\.0\\.1:${port} ${line}\\\\r\\\\n$`, "m"));
      await server.until(new RegExp(`^> 127\\.0\\.0\\.1:\\d+ ${line}\\\\r\\\\n$`, "m"), "stderr");
      // An empty datagram is a line of the trace, too.
      if (udp.length) assertMatch(stderr, new RegExp(`^> 127\\.0\\.0\\.1:${port} $`, "m"));
    }
  },
});

Deno.test({
  name: "daytime_server says the time of its own zone",
  ignore: !mayRun,
  async fn() {
    for (
      const [TZ, hours, zone] of [
        ["UTC", 0, "UTC"],
        ["Asia/Tokyo", 9, "GMT+9"],
        ["Asia/Kathmandu", 5.75, "GMT+5:45"],
        ["Pacific/Honolulu", -10, "HST"],
      ] as const
    ) {
      await using server = new Program([...command("daytime_server"), "-p", "0"], { env: { TZ } });
      const args = ["--udp", "--port", `${await server.port()}`];
      const [, time, said] = /^(.*)-(.*)\n$/.exec((await run("daytime_client", args)).stdout) ?? [];
      assertEquals(said, zone);
      const off = Date.parse(`${time} UTC`) - hours * 3_600_000 - Date.now();
      assert(Math.abs(off) < 60_000, `${TZ}: ${time}`);
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
