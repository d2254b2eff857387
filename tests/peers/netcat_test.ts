import { assert, assertEquals, assertMatch } from "@std/assert";
import { delay } from "@std/async/delay";
import { command, missing, Program, run, start, temporaryFolder } from "../helpers.ts";
import { certificates, eventually, memory, output, python } from "./peers.ts";

/** What a script needs for Unix sockets and certificates. */
const FILES = ["--allow-read", "--allow-write"];
const MIB = 1024 * 1024;

/** Both sides say a line, then both end their input; each must hear the other's, and end with 0. */
async function converses(ours: Program, theirs: Program): Promise<void> {
  await ours.type("from ours\n");
  await theirs.until(/^from ours\n$/);
  await theirs.type("from theirs\n");
  await ours.until(/^from theirs\n$/);
  await theirs.endInput();
  await ours.endInput();
  for (const end of [ours, theirs]) {
    const { code, stderr } = await end.ended();
    assertEquals(code, 0, stderr);
  }
}

Deno.test({
  name: "netcat and nc, either as the client of the other: TCP, IPv6 and a Unix socket",
  ignore: missing("nc"),
  async fn() {
    await using folder = await temporaryFolder();
    for (const [host, family] of [["127.0.0.1", "-4"], ["::1", "-6"]]) {
      await using server = start("netcat", ["--listen", "--host", host]);
      await using client = new Program(["nc", family, "-N", host, `${await server.port()}`]);
      await converses(server, client);

      await using nc = new Program(["nc", family, "-N", "-v", "-n", "-l", host, "0"]);
      const [, port] = await nc.until(/Listening on \S+ (\d+)/, "stderr");
      await using ours = start("netcat", [host, port]);
      await converses(ours, nc);
    }
    const path = `${folder.path}/ours`;
    await using server = start("netcat", ["--listen", "--unix", path], FILES);
    await server.until(/listening on unix:.*\/ours\n/, "stderr");
    await using client = new Program(["nc", "-N", "-U", path]);
    await converses(server, client);
    assertEquals([...Deno.readDirSync(folder.path)], [], "the socket's file is gone");

    const other = `${folder.path}/nc`;
    await using nc = new Program(["nc", "-N", "-l", "-U", other]);
    await eventually("nc listens", async () => (await Deno.stat(other).catch(() => null)) !== null);
    await using ours = start("netcat", ["--unix", other], FILES);
    await converses(ours, nc);
  },
});

Deno.test({
  name: "netcat --udp and nc -u, either as the client of the other",
  ignore: missing("nc"),
  async fn() {
    for (const [host, family] of [["127.0.0.1", "-4"], ["::1", "-6"]]) {
      await using server = start("netcat", ["--udp", "--listen", "--host", host]);
      await using client = new Program(["nc", family, "-u", host, `${await server.port()}`]);
      await client.type("from nc\n");
      await server.until(/^from nc\n$/);
      await server.type("from ours\n");
      await client.until(/^from ours\n$/);

      await using nc = new Program(["nc", family, "-u", "-v", "-n", "-l", host, "0"]);
      const [, port] = await nc.until(/Bound on \S+ (\d+)/, "stderr");
      await using ours = start("netcat", ["--udp", host, port, "--timeout", "0.3"]);
      await ours.type("from ours\n");
      await nc.until(/^from ours\n$/);
      await nc.type("from nc\n");
      await ours.until(/^from nc\n$/);
      await ours.endInput();
      assertEquals(await ours.ended(), { code: 0, stdout: "from nc\n", stderr: "" });
    }
  },
});

Deno.test({
  name: "netcat over TLS with openssl s_client and s_server, which it verifies",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const { ca, cert, key } = await certificates(folder.path);
    const flags = ["--listen", "--cert", cert, "--key", key];
    await using server = start("netcat", flags, FILES);
    const connect = ["-connect", `127.0.0.1:${await server.port()}`, "-CAfile", ca];
    const sClient = ["openssl", "s_client", "-quiet", "-verify_return_error", ...connect];
    await using client = new Program(sClient);
    await client.type("from openssl\n");
    await server.until(/^from openssl\n$/);
    await server.type("from ours\n");
    await client.until(/^from ours\n$/);
    await server.endInput(); // openssl takes this end for both
    assertEquals((await client.ended()).code, 0);
    assertEquals((await server.ended()).code, 0);

    const listening = async () => {
      const args = ["-accept", "127.0.0.1:0", "-cert", cert, "-key", key];
      const program = new Program(["openssl", "s_server", "-naccept", "1", ...args]);
      return { program, port: (await program.until(/ACCEPT 127\.0\.0\.1:(\d+)/))[1] };
    };
    const { program, port } = await listening();
    await using sServer = program;
    await using ours = start("netcat", ["--tls", "--ca", ca, "127.0.0.1", port], FILES);
    await ours.type("from ours\n");
    await sServer.until(/^from ours$/m);
    await sServer.type("from openssl\n");
    await ours.until(/^from openssl\n$/);
    await ours.endInput();
    assertEquals(await ours.ended(), { code: 0, stdout: "from openssl\n", stderr: "" });

    const other = await listening();
    await using _ = other.program;
    const refused = await run("netcat", ["--tls", "127.0.0.1", other.port]);
    assertEquals([refused.code, refused.stdout], [1, ""]);
    assertMatch(refused.stderr, /^netcat: 127\.0\.0\.1:\d+: .*certificate.*\n$/);
  },
});

Deno.test({
  name: "Python ends its direction first and still gets 20 MB from netcat, client or server",
  ignore: missing("python3"),
  async fn() {
    const size = 20 * MIB;
    const send = async (netcat: Program, python: Program) => {
      await netcat.until(/^that is all\n$/);
      for (let sent = 0; sent < size; sent += MIB) await netcat.type("x".repeat(MIB));
      await netcat.endInput();
      assertEquals((await netcat.ended()).code, 0, netcat.stderr);
      assertEquals((await python.ended()).stdout, `${size}\n`);
    };
    await using server = new Program(python("netcat.py", "serve"));
    await using client = start("netcat", ["127.0.0.1", `${await server.port()}`]);
    await send(client, server);
    await using listener = start("netcat", ["--listen"]);
    await using asker = new Program(python("netcat.py", "ask", await listener.port()));
    await send(listener, asker);
  },
});

Deno.test({
  name: "netcat over TLS says so when the peer just drops the connection",
  ignore: missing("python3", "openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const { ca, cert, key } = await certificates(folder.path);
    await using server = new Program(python("netcat.py", "tls", cert, key));
    const port = `${await server.port()}`;
    await using client = start("netcat", ["--tls", "--ca", ca, "127.0.0.1", port], FILES);
    await client.until(/^cut of$/);
    await client.type("x");
    const { code, stdout, stderr } = await client.ended();
    assertEquals([code, stdout], [1, "cut of"]);
    assertMatch(stderr, /^netcat: 127\.0\.0\.1:\d+: .*close_notify.*\n$/);
  },
});

/** Waits until a count stands still, and returns it. */
async function stalled(count: () => number): Promise<number> {
  for (let [last, since] = [count(), performance.now()];;) {
    await delay(20);
    assert(count() < 1024 * MIB, "it never stands still");
    if (count() !== last) [last, since] = [count(), performance.now()];
    else if (last > 0 && performance.now() - since > 500) return last;
  }
}

/** What is under way when nobody reads: the system's buffers of both sockets and of the pipes. */
const UNDER_WAY = 32 * MIB;

Deno.test({
  name: "netcat takes no more from stdin than a peer that does not read, and does not grow",
  ignore: missing(),
  async fn() {
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    await using client = start("netcat", ["127.0.0.1", `${listener.addr.port}`]);
    using peer = await listener.accept();
    const before = memory(client, "VmHWM");
    let [taken, feeding] = [0, true];
    const fed = (async () => {
      const chunk = "x".repeat(65536);
      for (; feeding; taken += chunk.length) await client.type(chunk);
    })();
    const held = await stalled(() => taken);
    const growth = memory(client, "VmHWM") - before;
    console.log(`stdin: ${held / MIB} MiB under way, netcat grew by ${growth} KiB`);
    assert(held < UNDER_WAY, `took ${held} bytes`);
    assert(growth < 24 * 1024, `grew by ${growth} KiB`);
    // Nor was anything lost: it goes on as the peer does.
    const buffer = new Uint8Array(65536);
    let received = 0;
    for (let n; (n = await peer.read(buffer)) !== null;) {
      received += n;
      if (feeding && received > held + UNDER_WAY) {
        feeding = false;
        fed.then(() => client.endInput());
      }
    }
    assertEquals(received, taken);
    await peer.closeWrite();
    assertEquals((await client.ended()).code, 0);
  },
});

Deno.test({
  name: "netcat takes no more from the peer than stdout's reader, and does not grow",
  ignore: missing("mkfifo"),
  async fn() {
    await using folder = await temporaryFolder();
    const fifo = `${folder.path}/fifo`;
    await output(["mkfifo", fifo]);
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const argv = [...command("netcat"), "127.0.0.1", `${listener.addr.port}`];
    await using client = new Program(["sh", "-c", 'exec "$@" >"$0"', fifo, ...argv]);
    using reader = await Deno.open(fifo);
    using peer = await listener.accept();
    await client.endInput();
    const before = memory(client, "VmHWM");
    let [sent, sending] = [0, true];
    const done = (async () => {
      const chunk = new Uint8Array(65536);
      while (sending) sent += await peer.write(chunk);
      await peer.closeWrite();
    })();
    const held = await stalled(() => sent);
    const growth = memory(client, "VmHWM") - before;
    console.log(`stdout: ${held / MIB} MiB under way, netcat grew by ${growth} KiB`);
    assert(held < UNDER_WAY, `took ${held} bytes`);
    assert(growth < 24 * 1024, `grew by ${growth} KiB`);
    const buffer = new Uint8Array(65536);
    let received = 0;
    for (let n; (n = await reader.read(buffer)) !== null;) {
      received += n;
      sending &&= received < held + UNDER_WAY;
    }
    await done;
    assertEquals(received, sent);
    assertEquals((await client.ended()).code, 0);
  },
});
