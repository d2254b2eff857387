import { assert, assertEquals } from "@std/assert";
import { FramedConn } from "../../lib/framing.ts";
import { handleConnection, handleDatagram, responder, upper } from "../../scripts/socketserver.ts";
import { askByDatagram, askConnection } from "../../scripts/socketserver_client.ts";
import { mayConnect, mayRun, missing, pair, run, start, temporaryFolder } from "../helpers.ts";
import { certificate, FILES } from "./rig.ts";

const TRANSPORTS = ["tcp", "udp", "unix", "unixpacket"] as const;

/** Starts the server for one transport; with its endpoint, and the flags that lead a client there. */
async function startServer(transport: typeof TRANSPORTS[number], folder: string) {
  const isUnix = transport.startsWith("unix");
  const own = isUnix ? ["--unix", `${folder}/${transport}`] : [];
  const args = ["--transport", transport, ...own];
  const server = start("socketserver", ["--port", "0", ...args], FILES);
  const [, name] = await server.until(/listening on .*?:(\d+|\/[^ \n]+)/, "stderr");
  const endpoint = {
    host: "127.0.0.1",
    port: isUnix ? 0 : Number(name),
    unix: isUnix ? name : undefined,
    timeout: 10_000,
  };
  return { server, endpoint, args: isUnix ? args : ["--port", name, ...args] };
}

Deno.test("upper makes capitals and never more octets than there were", () => {
  for (
    const [text, capitals] of [
      ["", ""],
      ["hello, World 1", "HELLO, WORLD 1"],
      ["grüße", "GRÜSSE"], // two octets, and two octets
      ["ŉ ΐ", "ŉ ΐ"], // whose capitals are longer
      ["𐐨\u{1F600}", "𐐀\u{1F600}"],
    ]
  ) {
    assertEquals(upper(text), capitals);
  }
  const octets = (text: string) => new TextEncoder().encode(text).length;
  for (let code = 0; code < 0x20000; code++) {
    const letter = String.fromCodePoint(code);
    assert(octets(upper(letter)) <= octets(letter), code.toString(16));
  }
});

Deno.test("the handler serves one request at a time, and survives one that fails", async () => {
  const printed: string[] = [];
  const asked: ((answer: string | null) => void)[] = [];
  const replies = (text: string) => {
    if (text === "bad") throw new Error("no reply");
    return new Promise<string | null>((resolve) => asked.push(resolve));
  };
  const handle = responder((line) => printed.push(line), replies);
  const answers = ["one\n", "bad", "two\x1b\r\n", "end"].map((text, i) =>
    handle(text, `client ${i}`).catch((error) => `${error}`)
  );
  await Promise.resolve();
  assertEquals(printed, ["client 0 wrote:", "one"]); // and not yet the others
  asked[0]("first");
  assertEquals(await answers[0], "first");
  assertEquals(await answers[1], "Error: no reply");
  while (asked.length < 2) await Promise.resolve();
  assertEquals(printed.slice(2), ["client 1 wrote:", "bad", "client 2 wrote:", "two\\x1b"]);
  asked[1]("second");
  assertEquals(await answers[2], "second");
  while (asked.length < 3) await Promise.resolve();
  asked[2](null);
  assertEquals(await answers[3], undefined);
});

Deno.test({
  name: "one message on a connection gets one answer, with or without a line's end",
  ignore: !mayConnect,
  async fn() {
    for (
      const [said, answer] of [["hello\n", "HELLO"], ["hello", "HELLO"], ["\n", ""], ["", ""]]
    ) {
      const { near, far } = await pair();
      using client = new FramedConn(far);
      const served = handleConnection(responder(() => {}, upper), near).then(() => near.close());
      if (said) await client.writeAll(said);
      else await far.closeWrite();
      assertEquals(new TextDecoder().decode(await client.readToEnd(100)), answer);
      await served;
    }
  },
});

Deno.test("one datagram gets one answer, or none", async () => {
  const from = { transport: "udp", hostname: "::1", port: 5 } as const;
  const printed: string[] = [];
  const handle = responder((line) => printed.push(line), (text) => text === "x" ? "" : upper(text));
  const ask = (text: string) => handleDatagram(handle, new TextEncoder().encode(text), from);
  assertEquals(await ask("hi\n"), new TextEncoder().encode("HI"));
  assertEquals(await ask("x"), new Uint8Array());
  assertEquals(printed, ["[::1]:5 wrote:", "hi", "[::1]:5 wrote:", "x"]);
  const silent = responder(() => {}, () => Promise.resolve(null));
  assertEquals(await handleDatagram(silent, new Uint8Array(), from), undefined);
});

for (const transport of TRANSPORTS) {
  const isDatagram = transport === "udp" || transport === "unixpacket";

  Deno.test({
    name: `socketserver and its client by ${transport}: a request for each line`,
    ignore: !mayRun,
    async fn() {
      await using folder = await temporaryFolder();
      const { server, args } = await startServer(transport, folder.path);
      await using _ = server;
      const lines = ["hello", "", "grüße \x1b[1m", "x".repeat(3000)];
      const stdin = lines.join("\n"); // the last one without its end
      const result = await run("socketserver_client", args, { stdin, permissions: FILES });
      const [, , escaped, long] = lines;
      const heard = ["HELLO", "", "GRÜSSE \\x1b[1M", long.toUpperCase()];
      const said = ["hello", "", escaped.replace("\x1b", "\\x1b"), long];
      const stdout = said.map((line, i) => `Sent: ${line}\nReceived: ${heard[i]}\n`).join("");
      assertEquals(result, { code: 0, stdout, stderr: "" });

      server.signal("SIGINT");
      const { code, stdout: log } = await server.ended();
      assertEquals(code, 0);
      const who = transport === "unix"
        ? "unix:\\(unnamed\\)"
        : transport === "unixpacket"
        ? `unix:${folder.path}/unixpacket\\.\\d+`
        : "127\\.0\\.0\\.1:\\d+";
      const from = new RegExp(`^${who} wrote:$`, "gm");
      const heardThere = said.map((line) => `WHO\n${line.trim()}\n`).join("");
      assertEquals(log.replace(from, "WHO"), heardThere);
      assertEquals([...Deno.readDirSync(folder.path)], [], "a socket's file is left");
    },
  });

  Deno.test({
    name: `socketserver by ${transport} serves many clients at once, and long messages`,
    ignore: !mayRun,
    async fn() {
      await using folder = await temporaryFolder();
      const { server, endpoint } = await startServer(transport, folder.path);
      await using _ = server;
      // By Unix datagrams a client's own name is made of its process, so that there is one at once;
      // and of long datagrams the kernel keeps but a few.
      const sizes = transport === "unixpacket"
        ? [[1, 0], [1, 5], [1, 60_000]]
        : transport === "udp"
        ? [[30, 0], [30, 5], [1, 60_000]]
        : [[30, 0], [30, 5], [5, 65_000]];
      const ask = isDatagram ? askByDatagram : askConnection;
      for (const [clients, size] of sizes) {
        const answers = await Promise.all(
          Array.from({ length: clients }, (_, i) => ask(endpoint, `${i} ${"x".repeat(size)}`)),
        );
        // The blank behind the number is trimmed where nothing follows.
        assertEquals(answers, answers.map((_, i) => `${i} ${"X".repeat(size)}`.trim()));
      }
    },
  });
}

Deno.test({
  name: "socketserver is not held up by a client that says nothing or too much",
  ignore: !mayRun,
  async fn() {
    await using server = start("socketserver", ["--port", "0"]);
    const port = await server.port();
    using _silent = await Deno.connect({ port });
    using loud = new FramedConn(await Deno.connect({ port }));
    await loud.writeAll("x".repeat(70_000));
    await server.until(/: message of more than 65536 bytes$/m, "stderr");
    assertEquals(await loud.readLine(), null);
    assertEquals(await askConnection({ host: "127.0.0.1", port }, "hello"), "HELLO");
  },
});

Deno.test({
  name: "socketserver answers by --reply prompt with the lines of its stdin, in order",
  ignore: !mayRun,
  async fn() {
    await using server = start("socketserver", ["--port", "0", "--reply", "prompt"]);
    const endpoint = { host: "127.0.0.1", port: await server.port() };
    const answers = [askConnection(endpoint, "one"), askConnection(endpoint, "two")];
    await server.until(/wrote:\n(one|two)\n/);
    await server.type("first\n");
    await server.until(/wrote:\n.*\n.* wrote:\n.*\n/);
    await server.type("second\n");
    assertEquals((await Promise.all(answers)).sort(), ["first", "second"]);
    // At the end of its input there are no answers, but it goes on.
    await server.endInput();
    assertEquals(await askConnection(endpoint, "three"), "");
    await server.until(/three/);
  },
});

Deno.test({
  name: "socketserver over TLS",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const { cert, key } = await certificate(folder.path);
    await using server = start("socketserver", ["-p", "0", "--cert", cert, "--key", key], FILES);
    const args = ["--port", `${await server.port()}`, "--tls", "--ca", cert];
    const result = await run("socketserver_client", args, { stdin: "hi\n", permissions: FILES });
    assertEquals(result, { code: 0, stdout: "Sent: hi\nReceived: HI\n", stderr: "" });
  },
});
