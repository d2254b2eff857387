import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { missing, Program, run, start, temporaryFolder } from "../helpers.ts";
import { certificates, DAYTIME, finish, output, python } from "./peers.ts";

/** What a script needs for Unix sockets and files. */
const FILES = ["--allow-read", "--allow-write"];

Deno.test({
  name: "nc gets the daytime over TCP, UDP, IPv6 and a Unix socket, as does our client",
  ignore: missing("nc"),
  async fn() {
    await using folder = await temporaryFolder();
    const path = `${folder.path}/daytime`;
    await using v4 = start("daytime_server", ["--port", "0"]);
    await using v6 = start("daytime_server", ["--port", "0", "--host", "::1"]);
    await using unix = start("daytime_server", ["--unix", path], FILES);
    const [port, port6] = [`${await v4.port()}`, `${await v6.port()}`];
    await unix.until(/listening on unix:.*\/daytime$/m, "stderr");
    assertMatch(v6.stderr, /listening on \[::1\]:\d+$/m);

    assertMatch(await output(["nc", "127.0.0.1", port]), DAYTIME);
    assertMatch(await output(["nc", "-u", "-W", "1", "127.0.0.1", port], "any\n"), DAYTIME);
    assertMatch(await output(["nc", "-6", "::1", port6]), DAYTIME);
    assertMatch(await output(["nc", "-6", "-u", "-W", "1", "::1", port6], "any\n"), DAYTIME);
    assertMatch(await output(["nc", "-U", path]), DAYTIME);
    for (
      const args of [["--host", "::1", "--port", port6], [
        "--host",
        "::1",
        "--port",
        port6,
        "--udp",
      ]]
    ) {
      assertMatch((await run("daytime_client", args)).stdout, DAYTIME);
    }
    const ours = await run("daytime_client", ["--unix", path], { permissions: FILES });
    assertMatch(ours.stdout, DAYTIME);

    unix.signal("SIGTERM");
    assertEquals((await unix.ended()).code, 0);
    assertEquals([...Deno.readDirSync(folder.path)], [], "the socket's file is gone");
  },
});

Deno.test({
  name: "our daytime client takes the line from nc, with or without its end",
  ignore: missing("nc"),
  async fn() {
    for (const line of ["Friday\r\n", "Friday"]) {
      await using nc = new Program(["nc", "-v", "-N", "-n", "-l", "127.0.0.1", "0"]);
      const [, port] = await nc.until(/Listening on \S+ (\d+)/, "stderr");
      await nc.type(line);
      await nc.endInput();
      const { code, stdout } = await run("daytime_client", ["--port", port]);
      assertEquals([code, stdout], [0, "Friday\n"]);
    }
  },
});

Deno.test({
  name: "daytime over TLS: openssl s_client, curl and our client, which trusts no stranger",
  ignore: missing("openssl", "curl"),
  async fn() {
    await using folder = await temporaryFolder();
    await Deno.mkdir(`${folder.path}/other`);
    const { ca, cert, key } = await certificates(folder.path);
    const wrong = await certificates(`${folder.path}/other`, "DNS:elsewhere.test");
    const tls = (cert: string, key: string) =>
      start("daytime_server", ["--port", "0", "--cert", cert, "--key", key], ["--allow-read"]);
    await using server = tls(cert, key);
    await using impostor = tls(wrong.cert, wrong.key);
    const port = `${await server.port()}`;

    const connect = ["-connect", `127.0.0.1:${port}`, "-CAfile", ca];
    const peer = ["openssl", "s_client", "-quiet", "-verify_return_error", ...connect];
    assertMatch(await output(peer), DAYTIME);
    // With telnet:// curl speaks no TLS; gopher sends a line and prints all that comes.
    const curl = ["curl", "-s", "--cacert", ca, `gophers://127.0.0.1:${port}/`];
    assertMatch(await output(curl), DAYTIME);

    const client = async (port: string, ...args: string[]) => {
      const flags = ["--port", port, ...args];
      return await run("daytime_client", flags, { permissions: ["--allow-read"] });
    };
    const trusting = await client(port, "--tls", "--ca", ca);
    assertMatch(trusting.stdout, DAYTIME);
    assertEquals([trusting.code, trusting.stderr], [0, ""]);
    const refusals = [
      await client(port, "--tls"), // nobody vouches for the root
      await client(port, "--tls", "--ca", wrong.ca),
      await client(`${await impostor.port()}`, "--tls", "--ca", wrong.ca), // not this one's name
    ];
    for (const { code, stdout, stderr } of refusals) {
      assertEquals([code, stdout], [1, ""]);
      assertMatch(stderr, /^daytime_client: 127\.0\.0\.1:\d+: .*certificate.*\n$/);
    }
    const plain = await client(port, "--timeout", "1"); // it says nothing, the server waits for a handshake
    assertEquals([plain.code, plain.stdout], [1, ""]);
    assertMatch(await output(peer), DAYTIME);
  },
});

Deno.test({
  name: "Python and nc get their datagrams back from udp_echo, from 0 octets to 65,507",
  ignore: missing("python3", "nc"),
  async fn() {
    await using server = start("udp_echo", ["--port", "0"]);
    const port = `${await server.port()}`;
    const sizes = [0, 1, 1500, 65507, 0];
    assertEquals(
      await output(python("kinds.py", "echo", port, ...sizes)),
      sizes.map((size) => `${size} True\n`).join(""),
    );
    assertEquals(await output(["nc", "-u", "-W", "1", "127.0.0.1", port], "hello\n"), "hello\n");
  },
});

for (const kind of ["tcp", "udp", "unix", "unixpacket"]) {
  Deno.test({
    name: `Python's socketserver and ours over ${kind}, either's client with either's server`,
    ignore: missing("python3"),
    async fn() {
      await using folder = await temporaryFolder();
      const listening = async (server: Program, path: string) => {
        const [, where] = await server.until(/listening on (?:unix:|.*:)(\S+)/, "stderr");
        if (kind.startsWith("unix")) assertEquals(where, path);
        return where;
      };
      const [a, b] = [`${folder.path}/a`, `${folder.path}/b`];
      const unix = (path: string) => kind.startsWith("unix") ? ["--unix", path] : ["--port", "0"];
      const flags = ["--transport", kind, "--reply", "upper", ...unix(a)];
      await using ours = start("socketserver", flags, FILES);
      const address = kind.startsWith("unix") ? b : "0";
      await using theirs = new Program(python("kinds.py", "serve", kind, address));
      const [ourPlace, theirPlace] = [await listening(ours, a), await listening(theirs, b)];

      // What Python sends without a line's end is a message, too.
      for (const [text, answer] of [["hello\n", "HELLO"], ["grüße", "GRÜSSE"]]) {
        assertEquals(
          await output(python("kinds.py", "ask", kind, ourPlace, text)),
          `${answer}\n`,
        );
      }
      await ours.until(/ wrote:\nhello\n/);
      if (kind === "tcp" || kind === "udp") assertMatch(ours.stdout, /^127\.0\.0\.1:\d+ wrote:$/m);

      const where = kind.startsWith("unix") ? ["--unix", theirPlace] : ["--port", theirPlace];
      const client = await run("socketserver_client", ["--transport", kind, ...where], {
        stdin: "hello\nagain\n",
        permissions: FILES,
      });
      assertEquals([client.code, client.stderr], [0, ""]);
      const lines = "Sent: hello\nReceived: HELLO\nSent: again\nReceived: AGAIN\n";
      assertEquals(client.stdout, lines);
      ours.signal("SIGINT");
      theirs.signal("SIGKILL");
      assertEquals((await ours.ended()).code, 0);
      await theirs.ended();
      if (kind.startsWith("unix")) {
        const left = [...Deno.readDirSync(folder.path)].map(({ name }) => name);
        assertEquals(left, ["b"], "ours leaves no file of its socket");
      }
    },
  });
}

Deno.test({
  name: "nc chats with our chat server, and our chat client with nc",
  ignore: missing("nc"),
  async fn() {
    await using server = start("chat_server", ["--port", "0"]);
    await using guest = new Program(["nc", "127.0.0.1", `${await server.port()}`]);
    await guest.type("hello there\n");
    await server.until(/^ from client: HELLO THERE$/m);
    await server.type("hello, nc\n");
    await guest.until(/^hello, nc\n/);

    await using nc = new Program(["nc", "-v", "-n", "-l", "127.0.0.1", "0"]);
    const [, port] = await nc.until(/Listening on \S+ (\d+)/, "stderr");
    await using client = start("chat_client", ["--port", port]);
    await client.type("hello\n");
    await nc.until(/^hello\n/);
    await nc.type("hello, \x1b[31mDeno\n");
    // What a stranger sends cannot paint the terminal.
    await client.until(/^Received from server: hello, \\x1b\[31mDeno$/m);
    await client.type("q\n");
    assertEquals((await client.ended()).code, 0);
  },
});

Deno.test({
  name: "nc takes files by hand from a folder, its list, and a single file",
  ignore: missing("nc"),
  async fn() {
    await using folder = await temporaryFolder();
    await Deno.mkdir(`${folder.path}/sub`);
    await Deno.writeTextFile(`${folder.path}/ä b.txt`, "0123456789");
    await Deno.writeTextFile(`${folder.path}/sub/empty`, "");
    await using shelf = start("file_server", ["--port", "0", folder.path]);
    await using single = start("file_server", ["--port", "0", `${folder.path}/ä b.txt`]);
    const nc = ["nc", "127.0.0.1"];
    const port = `${await shelf.port()}`;
    for (
      const [request, answer] of [
        ["GET ä b.txt\n", "OK 10 of 10\r\n0123456789"],
        ["GET ä b.txt", "OK 10 of 10\r\n0123456789"],
        ["GET ä b.txt\t4\r\n", "OK 6 of 10\r\n456789"],
        ["GET ä b.txt\t10\n", "OK 0 of 10\r\n"],
        ["GET sub/empty\n", "OK 0 of 0\r\n"],
        ["what is there?\n", "0 sub/empty\r\n10 ä b.txt\r\n"],
      ]
    ) assertEquals(await output([...nc, port], request), answer, request);
    for (const request of ["GET ä b.txt\t11\n", "GET nothing\n"]) {
      assertMatch(await output([...nc, port], request), /^ERROR .+\r\n$/);
    }
    assertEquals(await output([...nc, `${await single.port()}`], "Hello server!"), "0123456789");
    // A visitor who only says goodbye is none.
    const silent = await finish([...nc, "-N", port]);
    assertEquals([silent.code, silent.stdout], [0, ""]);
    assertStringIncludes(await output([...nc, port], "list\n"), "10 ä b.txt");
    assert(!shelf.stderr.includes("    at "), shelf.stderr);
  },
});
