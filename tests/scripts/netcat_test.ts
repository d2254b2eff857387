import { assert, assertEquals, assertMatch } from "@std/assert";
import { concat } from "@std/bytes/concat";
import { delay } from "@std/async/delay";
import { FramedConn } from "../../lib/framing.ts";
import { converse, exchange, type Input, printer } from "../../scripts/netcat.ts";
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
import { FILES, forms, startOnTerminal, testServer } from "./rig.ts";

const MIB = 1024 * 1024;
const bytes = (text: string) => new TextEncoder().encode(text);

/** What stands for stdout, and what was printed on it. */
function shown(terminal: boolean) {
  const decoder = new TextDecoder();
  const output = {
    text: "",
    isTerminal: () => terminal,
    write(octets: Uint8Array) {
      const some = octets.subarray(0, 5); // never all at once
      output.text += decoder.decode(some, { stream: true });
      return Promise.resolve(some.length);
    },
  };
  return output;
}

/** What stands for stdin: these reads, and then the end. */
function typed(...reads: (string | Promise<string>)[]): Input {
  return {
    isTerminal: () => false,
    async read(buffer) {
      const next = reads.shift();
      return next === undefined ? null : new TextEncoder().encodeInto(await next, buffer).written;
    },
  };
}

/** Waits until something is so, at most 20 s. */
async function until(so: () => boolean): Promise<void> {
  for (const late = performance.now() + 20_000; !so(); await delay(1)) {
    assert(performance.now() < late, "it never came true");
  }
}

Deno.test("printer: octets as they are, but to a terminal nothing that drives it", async () => {
  const sent = "grüße 😀\r\n\tone\rtwo\x1b[2J\x07\u202e\n\x9b\u2028\r";
  const safe = "grüße 😀\n\tonetwo\\x1b[2J\\x07\\u202e\n\\x9b\\u2028";
  const octets = bytes(sent);
  for (const [terminal, expected] of [[false, sent], [true, safe]] as const) {
    for (let cut = 0; cut <= octets.length; cut++) {
      const output = shown(terminal);
      const print = printer(output);
      await print(octets.subarray(0, cut));
      await print(octets.subarray(cut));
      await print();
      assertEquals(output.text, expected, `cut at ${cut}`);
    }
    const output = shown(terminal);
    const print = printer(output);
    for (const octet of octets) await print(new Uint8Array([octet]));
    await print();
    assertEquals(output.text, expected);
  }
  const output = shown(true);
  const print = printer(output);
  await print(new Uint8Array([0x41, 0xff, 0xc3])); // no letter, and half of one
  assertEquals(output.text, "A\ufffd");
  await print();
  assertEquals(output.text, "A\ufffd\ufffd");
});

Deno.test({
  name: "converse: each direction ends by itself",
  ignore: !mayConnect,
  async fn() {
    for (const first of ["near", "far"]) {
      const { near, far: conn } = await pair();
      using _ = near;
      using far = new FramedConn(conn, { timeout: 10_000 });
      const more = Promise.withResolvers<string>();
      const output = shown(false);
      const talk = converse(near, typed("one ", "two", more.promise), printer(output));
      assertEquals(new TextDecoder().decode(await far.readExactly(7)), "one two");
      if (first === "near") {
        more.resolve("");
        assertEquals(await far.readSome(), null);
      }
      await far.writeAll("answer");
      await conn.closeWrite();
      await until(() => output.text === "answer");
      if (first === "far") {
        more.resolve("three");
        assertEquals(new TextDecoder().decode(await far.readToEnd(100)), "three");
      }
      await talk;
    }
  },
});

Deno.test({
  name: "converse: if sending fails, what the peer sent is printed first",
  ignore: !mayConnect,
  async fn() {
    const { near, far } = await pair();
    using _ = near;
    await far.write(bytes("last words"));
    far.close();
    const order: string[] = [];
    const gate = Promise.withResolvers<void>();
    const failing = Promise.withResolvers<string>();
    const print = async (octets?: Uint8Array) => {
      await gate.promise;
      order.push(new TextDecoder().decode(octets));
    };
    // The system takes the first, which the peer refuses, and not the second.
    const input = typed("one", failing.promise);
    const talk = converse(near, input, print).catch((error) => order.push(error.message));
    await until(() => near.bytesWritten === 3);
    failing.resolve("two");
    await delay(20);
    gate.resolve();
    await talk;
    assertEquals(order, ["last words", "", `${near.peer}: not all was sent: broken pipe`]);
  },
});

/** Runs a command by a shell that gives it files for stdin and stdout. */
function withFiles(argv: string[], input: string, output: string): Program {
  return new Program(["sh", "-c", 'in=$1 out=$2; shift 2; exec "$@" <"$in" >"$out"'].concat(
    ["sh", input, output, ...argv],
  ));
}

async function sha256(path: string): Promise<string> {
  const digest = await crypto.subtle.digest("SHA-256", await Deno.readFile(path));
  return new Uint8Array(digest).toHex();
}

/** Writes a file in which no two places look the same. */
async function writeNoise(path: string, size: number): Promise<void> {
  const data = new Uint32Array(size / 4);
  for (let i = 0, x = size; i < data.length; i++) data[i] = x = Math.imul(x, 1664525) + 1013904223;
  await Deno.writeFile(path, new Uint8Array(data.buffer));
}

Deno.test({
  name: "netcat: what goes in comes out, both ways at once, in each form",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const path = (name: string) => `${folder.path}/${name}`;
    const argv = command("netcat", FILES);
    for (const [form, listen, ask] of await forms(folder.path)) {
      if (form === "plain" || form === "IPv6") {
        const size = form === "plain" ? 64 * MIB : 4 * MIB;
        await writeNoise(path("there"), size);
        await writeNoise(path("back"), size / 2);
      }
      const [there, back] = [await sha256(path("there")), await sha256(path("back"))];
      const one = [...argv, "--listen", ...listen];
      await using listener = withFiles(one, path("back"), path("got there"));
      const [, port] = await listener.until(/listening on .*?:(\d+|\/.*)\n/, "stderr");
      const two = [...argv, ...ask, ...(form === "Unix" ? [] : ["--port", port])];
      await using client = withFiles(two, path("there"), path("got back"));
      for (const { code, stderr } of await Promise.all([client.ended(), listener.ended()])) {
        assertEquals(code, 0, `${form}: ${stderr}`);
        assertEquals(stderr.replace(/^netcat: listening on \S+\n/, ""), "");
      }
      assertEquals(await sha256(path("got there")), there, form);
      assertEquals(await sha256(path("got back")), back, form);
    }
  },
});

Deno.test({
  name: "netcat takes HOST and PORT or the flags, and --listen serves one peer",
  ignore: !mayRun,
  async fn() {
    const flags = (port: string) => ["--host", "127.0.0.1", "--port", port];
    for (
      const [listen, ask] of [
        [["127.0.0.1", "0"], (port: string) => ["127.0.0.1", port]],
        [["--port", "0"], flags],
        [[], (port: string) => ["localhost", port]],
      ] as const
    ) {
      await using listener = start("netcat", ["--listen", ...listen]);
      const port = `${await listener.port()}`;
      assertEquals(listener.stderr, `netcat: listening on 127.0.0.1:${port}\n`);
      await using client = start("netcat", ask(port));
      await client.type("hello\n");
      await listener.until(/^hello\n$/);
      const { code, stderr } = await run("netcat", flags(port), { stdin: "me, too" });
      assertEquals([code, stderr], [1, `netcat: 127.0.0.1:${port}: connection refused\n`]);
      await listener.type("hi\n");
      await listener.endInput();
      await client.until(/^hi\n$/);
      await client.endInput();
      assertEquals(await client.ended(), { code: 0, stdout: "hi\n", stderr: "" });
      assertEquals((await listener.ended()).code, 0);
    }
  },
});

Deno.test({
  name: "netcat: a wrong command line is said in one line, exit 2",
  ignore: !mayRun,
  async fn() {
    const TOGETHER = "HOST and PORT go together, as in 127.0.0.1 8001";
    const cases: [args: string[], says: string][] = [
      [[], "PORT is missing"],
      [["127.0.0.1"], TOGETHER],
      [["127.0.0.1", "0"], "PORT is missing"],
      [["--host", "127.0.0.1"], "PORT is missing"],
      [["--udp"], "PORT is missing"],
      [["--listen", "8001"], TOGETHER],
      [["8001", "127.0.0.1"], TOGETHER],
      [["127.0.0.1:80", "80"], "127.0.0.1:80 is neither a name nor an IP address (--port has"],
      [["--unix", "x", "127.0.0.1", "80"], "--unix does not go with HOST and PORT"],
      [["--unix", "x", "--udp"], "--udp and --unix do not go together"],
      [["--unix", "x", "--tls"], "--unix and --tls do not go together"],
      [["--unix", "x", "--listen", "--cert", "x", "--key", "y"], "--unix and --cert do not go"],
      [["--udp", "--tls", "127.0.0.1", "80"], "TLS does not go with --udp"],
      [["--udp", "--listen", "--cert", "x", "--key", "y"], "TLS does not go with --udp"],
      [["--ca", "x", "127.0.0.1", "80"], "--ca needs --tls"],
      [["--listen", "--tls"], "--listen takes --cert and --key for TLS"],
      [["--cert", "x", "--key", "y", "127.0.0.1", "80"], "--cert and --key need --listen"],
      [["--listen", "--cert", "x"], "--cert and --key go together"],
    ];
    await Promise.all(cases.map(async ([args, says]) => {
      const { code, stdout, stderr } = await run("netcat", args);
      assertEquals([code, stdout, stderr.split("\n").length], [2, "", 2], `${args}: ${stderr}`);
      assertEquals(stderr.slice(0, 8 + says.length), `netcat: ${says}`);
    }));
  },
});

Deno.test({
  name: "netcat: what the peer sent before it left is printed, and what it did not take is said",
  ignore: !mayRun,
  async fn() {
    const gone = Promise.withResolvers<void>();
    await using server = testServer(async (conn) => {
      await conn.writeAll("last words");
      conn.close();
      gone.resolve();
    });
    const where = `127.0.0.1:${server.port}`;
    const args = ["127.0.0.1", `${server.port}`];
    const failed = (stdout: string) => ({
      code: 1,
      stdout,
      stderr: `netcat: ${where}: not all was sent: broken pipe\n`,
    });
    // An endless stdin: `yes` sees the end of the pipe as netcat ends.
    const line = 'yes | "$@"';
    await using endless = new Program(["sh", "-c", line, "sh", ...command("netcat"), ...args]);
    const { code, stdout, stderr } = await endless.ended();
    assertEquals([code, stdout], [1, "last words"]);
    assertMatch(stderr, /^netcat: 127\.0\.0\.1:\d+: (not all was sent: .*|connection reset.*)\n$/);

    // One line, which the system took: the peer was gone, and only then stdin ends.
    await using client = start("netcat", [...args, "--trace"]);
    await client.until(/^last words$/);
    await client.type("x\n");
    await client.until(/^> 127.* x\\n$/m, "stderr");
    await client.endInput();
    const late = await client.ended();
    const untraced = late.stderr.replaceAll(/^[<>].*\n/gm, "");
    assertEquals({ ...late, stderr: untraced }, failed("last words"));

    // Nothing of ours is lost: the peer just had no more to say.
    const silent = await run("netcat", args);
    assertEquals(silent, { code: 0, stdout: "last words", stderr: "" });
  },
});

Deno.test({
  name: "netcat: a peer on a Unix socket that has it all and leaves first is no failure",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const path = `${folder.path}/socket`;
    using listener = Deno.listen({ transport: "unix", path });
    await using client = start("netcat", ["--unix", path], FILES);
    using conn = new FramedConn(await listener.accept());
    await client.type("question\n");
    assertEquals(await conn.readLine(), "question");
    await conn.writeAll("answer\n");
    conn.close();
    await client.until(/^answer\n$/);
    await client.endInput();
    assertEquals(await client.ended(), { code: 0, stdout: "answer\n", stderr: "" });
  },
});

Deno.test({
  name: "netcat: stdin that cannot be read and stdout that nobody reads are said, exit 1",
  ignore: !mayRun,
  async fn() {
    await using server = testServer(async (conn) => {
      for (;;) await conn.writeAll(new Uint8Array(MIB));
    });
    const argv = [...command("netcat"), "127.0.0.1", `${server.port}`];
    for (
      const [line, says] of [
        ['"$@" </', "stdin: is a directory"],
        ['{ "$@"; echo "exit $?" >&2; } | head -c 1', "stdout: broken pipe"],
      ]
    ) {
      await using program = new Program(["sh", "-c", `${line} >/dev/null`, "sh", ...argv]);
      if (says.startsWith("stdin")) await program.endInput();
      const { code, stderr } = await program.ended();
      const exit = says.startsWith("stdin") ? "" : "exit 1\n";
      assertEquals(stderr, `netcat: ${says}\n${exit}`);
      assertEquals(code, exit ? 0 : 1);
    }
  },
});

Deno.test({
  name: "netcat: --timeout is for connecting, a talk may be silent longer; Ctrl-C ends it",
  ignore: !mayRun,
  async fn() {
    await using server = testServer(async (conn) => {
      await delay(400);
      await conn.writeAll("at last");
      await conn.readToEnd(100);
    });
    await using client = start("netcat", ["127.0.0.1", `${server.port}`, "--timeout", "0.2"]);
    await client.until(/^at last$/);
    client.signal("SIGINT");
    const { code, stderr } = await client.ended();
    assertEquals([code, stderr], [130, ""]);
  },
});

Deno.test({
  name: "netcat at a terminal: the peer's end is the end, and what it sends drives nothing",
  ignore: missing("python3"),
  async fn() {
    await using server = testServer(async (conn) => {
      assertEquals(await conn.readLine(), "hello");
      await conn.writeAll("grüße\x1b[2J\r\n\tend\r\n");
    });
    await using client = startOnTerminal("netcat", ["127.0.0.1", `${server.port}`]);
    await client.type("hello\r");
    const { stdout } = await client.ended();
    assertMatch(stdout, /grüße\\x1b\[2J\r+\n\tend\r+\nexit 0\r\n/);
  },
});

/** A datagram socket of this process's on loopback. */
function bind(): Deno.DatagramConn & { addr: Deno.NetAddr } & Disposable {
  const options = { transport: "udp", hostname: "127.0.0.1", port: 0 } as const;
  return Object.assign(Deno.listenDatagram(options), {
    [Symbol.dispose](this: Deno.DatagramConn) {
      this.close();
    },
  }) as never;
}

Deno.test({
  name: "exchange: only the peer's datagrams count, and silence after the end of stdin ends it",
  ignore: !mayConnect,
  async fn() {
    await Promise.all([false, true].map(async (listening) => {
      using socket = bind();
      using peer = bind();
      using stranger = bind();
      const output = shown(false);
      const more = Promise.withResolvers<string>();
      const known = listening ? {} : { peer: peer.addr };
      const options = { timeout: 600, ...known };
      const talk = exchange(socket, typed("one", "two", more.promise), printer(output), options);
      if (listening) await peer.send(bytes("first "), socket.addr);
      const heard = async () => new TextDecoder().decode((await peer.receive())[0]);
      assertEquals([await heard(), await heard()], ["one", "two"]);
      await stranger.send(bytes("forged "), socket.addr);
      await peer.send(bytes(""), socket.addr);
      await peer.send(bytes("second "), socket.addr);
      await until(() => output.text.endsWith("second "));
      await delay(700); // a longer silence, but stdin has not ended
      more.resolve("three");
      assertEquals(await heard(), "three");
      // Each makes it wait anew.
      for (const text of ["a", "b", "c"]) {
        await delay(250);
        await peer.send(bytes(text), socket.addr);
      }
      await talk;
      assertEquals(output.text, `${listening ? "first " : ""}second abc`);
    }));
  },
});

Deno.test({
  name: "netcat --udp at both ends",
  ignore: !mayRun,
  async fn() {
    for (const host of ["127.0.0.1", "::1"]) {
      await using listener = start("netcat", ["--udp", "--listen", "--host", host]);
      const port = `${await listener.port()}`;
      const shown = host === "::1" ? "[::1]" : host;
      assertEquals(listener.stderr, `netcat: listening on ${shown}:${port} (udp)\n`);
      await using client = start("netcat", ["--udp", host, port, "--timeout", "0.3", "--trace"]);
      await client.type("hello\n");
      await listener.until(/^hello\n$/);
      await listener.type("hi\n");
      await client.until(/^hi\n$/);
      await client.endInput();
      assertEquals((await client.ended()).code, 0);
      assertMatch(client.stderr, /^> \S+ hello\\n\n< \S+ hi\\n\n$/);
      listener.signal("SIGINT");
      assertEquals((await listener.ended()).code, 130);
    }
  },
});

Deno.test({
  name: "netcat --udp sends a file in datagrams of at most 65,507 octets",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const [input, output] = [`${folder.path}/in`, `${folder.path}/out`];
    await writeNoise(input, 140_000);
    using peer = bind();
    const args = ["--udp", "127.0.0.1", `${peer.addr.port}`, "--timeout", "0.1"];
    await using client = withFiles([...command("netcat"), ...args], input, output);
    const pieces: Uint8Array[] = [];
    while (pieces.length < 3) pieces.push((await peer.receive())[0]);
    assertEquals(pieces.map(({ length }) => length), [65507, 65507, 140_000 - 2 * 65507]);
    assertEquals(concat(pieces), await Deno.readFile(input));
    assertEquals(await client.ended(), { code: 0, stdout: "", stderr: "" });
  },
});
