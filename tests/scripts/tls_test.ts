import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { connect, type Endpoint, listen } from "../../lib/address.ts";
import { makeCertificate } from "../../lib/certificate.ts";
import { FramedConn } from "../../lib/framing.ts";
import { serve } from "../../lib/server.ts";
import { ask, connectSecure, describe } from "../../scripts/tls_client.ts";
import { answerLines } from "../../scripts/tls_server.ts";
import { command, mayRun, Program, run, start, temporaryFolder } from "../helpers.ts";
import { testServer } from "./rig.ts";

const HOST = "127.0.0.1";
const READ = ["--allow-read"];

/** A server of TLS that does `behave` to each line of a client, and then closes. */
async function tlsServer(
  behave: (conn: Deno.Conn) => Promise<unknown>,
): Promise<AsyncDisposable & { port: number; cert: string }> {
  const made = await makeCertificate(["localhost", HOST]);
  const listener = await listen({ host: HOST, port: 0, ...made });
  const accepting = (async () => {
    for await (const conn of listener) {
      try {
        if (await conn.read(new Uint8Array(1000)) !== null) await behave(conn);
      } catch {
        // The client has left, or trusts nobody.
      }
      conn.close();
    }
  })().catch(() => {}); // the listener is closed
  return {
    port: (listener.addr as Deno.NetAddr).port,
    cert: made.cert,
    async [Symbol.asyncDispose]() {
      listener.close();
      await accepting;
    },
  };
}

/** Runs the client with these root certificates. */
async function client(
  { port, ca, host = HOST, args = [] }: {
    port: number;
    ca?: string;
    host?: string;
    args?: string[];
  },
  stdin = "hello\n",
): Promise<{ code: number; stdout: string; stderr: string }> {
  await using folder = await temporaryFolder();
  const trusting = ca === undefined ? [] : ["--ca", `${folder.path}/ca.pem`];
  if (ca !== undefined) await Deno.writeTextFile(`${folder.path}/ca.pem`, ca);
  const flags = ["--host", host, "--port", `${port}`, ...trusting, ...args];
  return await run("tls_client", flags, { stdin, permissions: READ });
}

Deno.test({
  name: "tls_server makes a certificate, which is all that a client needs to talk to it",
  ignore: !mayRun,
  async fn() {
    for (const [host, names] of [[HOST, ""], ["127.0.0.2", ", IP Address:127.0.0.2"]]) {
      await using server = start("tls_server", ["--port", "0", "--host", host]);
      const port = await server.port();
      assertMatch(
        server.stdout,
        /^-----BEGIN CERTIFICATE-----\n[\w+/=\n]+\n-----END CERTIFICATE-----\n$/,
      );
      const [, fingerprint] = /SHA-256 (\S+)$/m.exec(server.stderr) ?? [];
      for (const name of host === HOST ? [HOST, "localhost"] : [host]) {
        const { code, stdout, stderr } = await client(
          { port, host, ca: server.stdout, args: ["--host", name] },
          "hello\ngrüße, \x1b[31m\n\n",
        );
        assertEquals([code, stdout], [0, "HELLO\nGRÜSSE, \\x1b[31M\n\n"], stderr);
        const said = Object.fromEntries(
          stderr.trimEnd().split("\n").map((line) => line.split(/ +(.*)/)),
        );
        assertMatch(said.valid, /^\w+ +\d+ [\d:]{8} \d{4} GMT to \w+ +\d+ [\d:]{8} \d{4} GMT$/);
        assertEquals({ ...said, valid: "" }, {
          version: "TLSv1.3",
          cipher: said.cipher,
          ALPN: "none",
          subject: "CN=localhost",
          issuer: "CN=localhost",
          names: `DNS:localhost, IP Address:127.0.0.1, IP Address:::1${names}`,
          valid: "",
          "SHA-256": fingerprint,
        });
        assertMatch(said.cipher, /^TLS_\w+_SHA\d+$/);
      }
      server.signal("SIGINT");
      const { code, stdout, stderr } = await server.ended();
      assertEquals([code, stdout.length > 0], [0, true]);
      assertMatch(
        stderr,
        /^tls_server: made a .*\ntls_server: it is on stdout.*\ntls_server: listening on .*\n$/,
      );
    }
  },
});

Deno.test({
  name: "tls_server with --cert and --key says nothing of a certificate, and may read them",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const { code } = await run("certificate", ["--out", folder.path, "--name", "localhost"]);
    assertEquals(code, 0);
    const [cert, key] = [`${folder.path}/cert.pem`, `${folder.path}/key.pem`];
    const flags = ["--port", "0", "--cert", cert, "--key", key];
    await using server = start("tls_server", flags, READ);
    const port = await server.port();
    assertEquals([server.stdout, server.stderr.split("\n").length], ["", 2], server.stderr);
    const ca = await Deno.readTextFile(cert);
    const { stdout, stderr } = await client({ port, host: "localhost", ca });
    assertEquals(stdout, "HELLO\n", stderr);

    // It is a name of this machine, too, but not of the certificate.
    const wrong = await client({ port, ca });
    assertEquals(wrong, {
      code: 1,
      stdout: "",
      stderr:
        `tls_client: ${HOST}:${port}: the certificate is for DNS:localhost, not for ${HOST}\n`,
    });
  },
});

Deno.test({
  name: "the functions of both, over a connection that leaves nothing open",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const made = await makeCertificate(["localhost"]);
    const ca = `${folder.path}/ca.pem`;
    await Deno.writeTextFile(ca, made.cert);
    const listener = await listen({ host: HOST, port: 0, ...made });
    const { port } = listener.addr as Deno.NetAddr;
    const stop = new AbortController();
    const log: string[] = [];
    const options = { signal: stop.signal, log: (line: string) => log.push(line) };
    const serving = serve(listener, answerLines, { name: "tls_server", ...options });
    const endpoint = { host: "localhost", port, timeout: 10_000 };
    {
      const { conn: secure, socket } = await connectSecure({ ...endpoint, ca });
      using conn = new FramedConn(secure, endpoint);
      assertEquals(describe(socket).map((line) => line.split(" ")[0]), [
        ...["version", "cipher", "ALPN", "subject", "issuer", "names", "valid", "SHA-256"],
      ]);
      assertEquals(conn.peer, `${HOST}:${port}`);
      // The longest line, and the letter that grows most.
      const longest = "ΐ".repeat((8192 - 2) / 2);
      assertEquals(await ask(conn, longest), longest.toUpperCase());
      await assertRejects(() => ask(conn, "x".repeat(8191)), Error, "hung up without an answer");
    }
    {
      const { conn: secure } = await connectSecure({ ...endpoint, ca });
      using conn = new FramedConn(secure, endpoint);
      assertEquals(await ask(conn, "a"), "A");
      await secure.closeWrite(); // with a close_notify, so that the server has nothing to say of it
    }
    stop.abort();
    await serving;
    const said = log.filter((line) => !line.includes("stopping")); // it may be the quicker one
    assertEquals(said.map((line) => line.replaceAll(/\d{4,5}/g, "N")), [
      `tls_server: listening on ${HOST}:N`,
      `tls_server: ${HOST}:N: line of more than N bytes`,
    ]);
  },
});

Deno.test({
  name: "tls_client trusts nobody whom it was not told to, whatever the environment says",
  ignore: !mayRun,
  async fn() {
    await using server = start("tls_server", ["--port", "0", "--trace"]);
    const port = await server.port();
    const other = await makeCertificate(["localhost", HOST]);
    const says = new RegExp(
      `^tls_client: ${HOST}:${port}: the certificate is self-signed, and no trusted root vouches ` +
        "for it \\(--ca FILE names one\\)\n$",
    );
    for (const ca of [undefined, other.cert]) {
      const { code, stdout, stderr } = await client({ port, ca });
      assertEquals([code, stdout], [1, ""]);
      assertMatch(stderr, says);
    }
    const argv = [...command("tls_client"), "--port", `${port}`];
    const env = { NODE_TLS_REJECT_UNAUTHORIZED: "0" };
    await using careless = new Program(argv, { env });
    await careless.type("hello\n").catch(() => {});
    const { code, stdout, stderr } = await careless.ended();
    assertEquals([code, stdout], [1, ""]);
    assertMatch(stderr, says);
    // Nor did any of them send it a line.
    server.signal("SIGINT");
    assertEquals(/^[<>]/m.test((await server.ended()).stderr), false, server.stderr);
  },
});

Deno.test({
  name: "tls_client says which --ca file is none",
  ignore: !mayRun,
  async fn() {
    const { key } = await makeCertificate(["localhost"]);
    const bad = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    for (const ca of ["", "junk", bad, key]) {
      const { code, stdout, stderr } = await client({ port: 1, ca });
      assertEquals([code, stdout], [1, ""]);
      assertMatch(stderr, /^tls_client: .*\/ca\.pem: not a certificate \(PEM\)\n$/);
    }
    const none = await run("tls_client", ["--ca", "/none/ca.pem"], { permissions: READ });
    assertEquals([none.code, none.stdout], [1, ""]);
    assertEquals(none.stderr, "tls_client: /none/ca.pem: no such file or directory\n");
  },
});

Deno.test({
  name: "tls_client at a server that is plain, silent or gone says so in a line",
  ignore: !mayRun,
  async fn() {
    await using plain = testServer((conn) => conn.writeAll("220 ready\r\n"));
    await using silent = testServer((conn) => conn.readToEnd(1e6));
    await using gone = testServer((conn) => conn.readSome());
    for (
      const [{ port }, says] of [
        [plain, "the other side does not speak TLS"],
        [silent, "no answer to the handshake within 1 s"],
        [gone, ".*disconnected before secure TLS connection was established"],
      ] as const
    ) {
      const args = says.includes("1 s") ? ["--timeout", "1"] : [];
      const { code, stdout, stderr } = await client({ port, args });
      assertEquals([code, stdout], [1, ""]);
      assertMatch(stderr, new RegExp(`^tls_client: ${HOST}:${port}: ${says}\n$`));
    }
  },
});

Deno.test({
  name: "tls_client tells an answer that is cut off or never comes from an answer",
  ignore: !mayRun,
  async fn() {
    const send = (text: string) => (conn: Deno.Conn) => new FramedConn(conn).writeAll(text);
    const held = Promise.withResolvers<void>();
    await using whole = await tlsServer(send("one \x1b]2;\u202e\r\n"));
    await using cut = await tlsServer(send("HEL"));
    await using flood = await tlsServer(send("x".repeat(100_000)));
    await using nothing = await tlsServer(() => Promise.resolve());
    await using silent = await tlsServer(() => held.promise);
    const said = async (server: { port: number; cert: string }, ...args: string[]) => {
      const result = await client({ port: server.port, ca: server.cert, args });
      return [result.code, result.stdout, result.stderr.trimEnd().split("\n").at(-1)];
    };
    assertEquals((await said(whole)).slice(0, 2), [0, "one \\x1b]2;\\u202e\n"]);
    assertEquals(await said(cut), [
      ...[1, "", "tls_client: connection ended in the middle of a message"],
    ]);
    assertEquals(await said(flood), [1, "", "tls_client: line of more than 24576 bytes"]);
    const none = `tls_client: ${HOST}:${nothing.port}: hung up without an answer`;
    assertEquals(await said(nothing), [1, "", none]);
    assertEquals(await said(silent, "--timeout", "2"), [
      ...[1, "", "tls_client: no answer within 2 s (--timeout)"],
    ]);
    held.resolve();
  },
});

Deno.test({
  name: "tls_client --trace shows what goes through the tunnel",
  ignore: !mayRun,
  async fn() {
    await using server = start("tls_server", ["--port", "0", "--trace"]);
    const port = await server.port();
    const { stderr } = await client({ port, ca: server.stdout, args: ["--trace"] });
    const wire = stderr.split("\n").filter((line) => /^[<>]/.test(line));
    assertEquals(wire, [`> ${HOST}:${port} hello\\r\\n`, `< ${HOST}:${port} HELLO\\r\\n`]);
    await server.until(
      /^< 127\.0\.0\.1:\d+ hello\\r\\n\n> 127\.0\.0\.1:\d+ HELLO\\r\\n$/m,
      "stderr",
    );
  },
});

Deno.test({
  name: "who hangs in the handshake, speaks plain text or junk keeps nobody else from tls_server",
  ignore: !mayRun,
  async fn() {
    await using server = start("tls_server", ["--port", "0", "--idle-timeout", "1"]);
    const endpoint: Endpoint = { host: HOST, port: await server.port(), timeout: 10_000 };
    const answers = async () => {
      const { code, stdout, stderr } = await client({ port: endpoint.port, ca: server.stdout });
      assertEquals([code, stdout], [0, "HELLO\n"], stderr);
    };
    using silent = await connect(endpoint);
    using begun = await connect(endpoint);
    await begun.write(new Uint8Array([22, 3, 1, 2])); // the start of a record, and no more
    for (const junk of ["hello\r\n", "GET / HTTP/1.0\r\n\r\n", "\0".repeat(20_000)]) {
      using conn = new FramedConn(await connect(endpoint), endpoint);
      await conn.writeAll(junk);
      // It may be reset, as it sends more than is read of it.
      await conn.readToEnd(1000).catch(() => {});
    }
    (await connect(endpoint)).close();
    await answers();
    await server.until(/127\.0\.0\.1:\d+: the other side does not speak TLS$/m, "stderr");
    for (const conn of [silent, begun]) {
      const { port } = conn.localAddr as Deno.NetAddr;
      await server.until(new RegExp(`${HOST}:${port}: closed, silent for 1 s$`, "m"), "stderr");
    }
    await answers();
    assertEquals(/^ {4}at |Uncaught|BEGIN/m.test(server.stderr), false, server.stderr);
  },
});
