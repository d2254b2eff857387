import { assert, assertEquals, assertMatch } from "@std/assert";
import { Maildir } from "../../lib/maildir.ts";
import { missing, Program, start, temporaryFolder } from "../helpers.ts";
import { latin1, random } from "../lib/wire.ts";
import * as peers from "./peers.ts";

const { certificates, dial, eventually, finish, hear, memory, output, python, sockets } = peers;
const PROC = missing() || Deno.build.os !== "linux"; // memory() and sockets() read /proc
const MB = 1024 * 1024;

/** A server under way that stores in a folder of its own. */
async function serving(
  ...flags: string[]
): Promise<AsyncDisposable & { server: Program; port: number; path: string; root: string }> {
  await using used = new AsyncDisposableStack();
  const root = used.use(await temporaryFolder()).path;
  const path = `${root}/mail`;
  const server = used.use(start("smtp_server", [path, "--port", "0", ...flags]));
  const port = await server.port();
  const stack = used.move();
  return { server, port, path, root, [Symbol.asyncDispose]: () => stack.disposeAsync() };
}

/** What the files in `new` hold. */
async function stored(path: string): Promise<string[]> {
  const maildir = new Maildir(path);
  const messages = await maildir.list();
  return await Promise.all(messages.map(async (message) => latin1(await maildir.read(message))));
}

Deno.test({
  name: "smtplib sends, and mailbox.Maildir reads what smtp_server stored",
  ignore: missing("python3"),
  async fn() {
    await using rig = await serving("--domain", "example.org", "--max-size", "1000000");
    assertEquals(await output(python("smtp_server.py", rig.port, rig.path)), "done\n");
    assert(!/^\s+at |Uncaught/m.test(rig.server.stderr), rig.server.stderr);
  },
});

Deno.test({
  name: "swaks sends to smtp_server: with and without pipelining, by HELO, over TLS",
  ignore: missing("swaks", "openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const { ca, cert, key } = await certificates(folder.path);
    for (const tls of [false, true]) {
      await using rig = await serving(
        ...["--domain", "example.org", ...tls ? ["--cert", cert, "--key", key] : []],
      );
      const swaks = async (...args: string[]) =>
        (await finish([
          ...["swaks", "--server", `127.0.0.1:${rig.port}`, "--from", "ann@example.org"],
          ...tls ? ["--tls-on-connect", "--tls-verify", "--tls-ca-path", ca] : [],
          ...args,
        ])).code;
      const body = ["--body", "..\\n.\\nhello"];
      assertEquals(await swaks("--to", "bob@example.org", ...body), 0);
      assertEquals(await swaks("--to", "a@example.org,b@example.com", "--pipeline", ...body), 0);
      assertEquals(await swaks("--to", "bob@example.org", "--protocol", "SMTP", ...body), 0);
      assertEquals(await swaks("--to", "b@example.com", "--pipeline"), 24); // nobody is left
      const messages = await stored(rig.path);
      assertEquals(
        messages.map((text) => /^ by localhost with (\w+);/m.exec(text)?.[1]),
        tls ? ["ESMTPS", "ESMTPS", "SMTP"] : ["ESMTP", "ESMTP", "SMTP"],
      );
      for (const text of messages) assertMatch(text, /\r\n\r\n\.\.\r\n\.\r\nhello\r\n/);
    }
  },
});

Deno.test({
  name: "curl sends to smtp_server, over TLS as well",
  ignore: missing("curl", "openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const { ca, cert, key } = await certificates(folder.path);
    const mail = "Subject: from curl\r\n\r\n.dot\r\n";
    for (const tls of [false, true]) {
      await using rig = await serving(...tls ? ["--cert", cert, "--key", key] : []);
      const url = `${tls ? "smtps" : "smtp"}://127.0.0.1:${rig.port}/client.example`;
      const curl = [
        ...["curl", "--silent", "--show-error", "--cacert", ca, url, "--upload-file", "-"],
        ...["--mail-from", "ann@example.org", "--mail-rcpt", "bob@example.org"],
      ];
      await output([...curl, "--mail-rcpt", "carol@example.org"], mail);
      const [text, ...others] = await stored(rig.path);
      assertEquals(others, []);
      assert(text.endsWith(mail), text);
      assertMatch(text, /^Delivered-To: bob@example\.org\r\nDelivered-To: carol@example\.org\r$/m);
      assertMatch(text, /^Received: from client\.example \(\[127\.0\.0\.1\]\)\r$/m);
    }
  },
});

Deno.test({
  name: "somebody types mail to smtp_server at nc -C",
  ignore: missing("nc"),
  async fn() {
    await using rig = await serving();
    await using nc = new Program(["nc", "-C", "127.0.0.1", `${rig.port}`]);
    for (
      const [line, reply] of [
        ["HELO me", /^250 localhost$/m],
        ["MAIL FROM:<ann@example.org>", /^250 2\.1\.0 /m],
        ["RCPT TO:<bob@example.org>", /^250 2\.1\.5 /m],
        ["DATA", /^354 /m],
        ["Subject: typed\n\nhello\n.", /^250 2\.0\.0 \d+ octets stored$/m],
        ["QUIT", /^221 /m],
      ] as const
    ) {
      await nc.type(`${line}\n`);
      await nc.until(new RegExp(reply.source.replace("$", "\\r$"), "m"));
    }
    await nc.endInput();
    assertEquals((await nc.ended()).code, 0);
    assertMatch((await stored(rig.path))[0], /\r\nSubject: typed\r\n\r\nhello\r\n$/);
  },
});

/** The names of all that is below a folder. */
async function tree(path: string): Promise<string[]> {
  const names = [];
  for await (const { name, isDirectory } of Deno.readDir(path)) {
    names.push(name);
    if (!isDirectory) continue;
    names.push(...(await tree(`${path}/${name}`)).map((below) => `${name}/${below}`));
  }
  return names.sort();
}

Deno.test({
  name: "nothing that smtp_server is sent is written outside of its Maildir",
  ignore: missing(),
  async fn() {
    await using rig = await serving("--max-size", "100000");
    const empty = ["mail", "mail/cur", "mail/new", "mail/tmp"];
    assertEquals(await tree(rig.root), empty);
    const begin = "EHLO ../../x\r\nMAIL FROM:</../../x@example.org>\r\n";
    const far = '"../../../../x"@example.org';
    for (
      const [rude, reply] of [
        ["NOOP ".padEnd(100_000, "x") + "\r\n", /^500 5\.5\.2 line of more than 565 bytes\r\n$/m],
        ["x".repeat(100_000), /^500 5\.5\.2 line of more than 565 bytes\r\n$/m],
        [`EHLO x\r\nMAIL FROM:<> SIZE=100001\r\nQUIT\r\n`, /^552 5\.3\.4 .*\r\n221/m],
        [
          `${begin}RCPT TO:<${far}>\r\nDATA\r\n${"x\r\n".repeat(40_000)}.\r\nQUIT\r\n`,
          /^501 5\.1\.7 [^]*^503 /m,
        ],
        [
          `HELO ../../x\r\nMAIL FROM:<>\r\nRCPT TO:<${far}>\r\nDATA\r\n${
            "x\r\n".repeat(40_000)
          }.\r\nQUIT\r\n`,
          /^354 .*\r\n552 5\.3\.4 .*\r\n221/m,
        ],
        [
          "HELO x\r\nMAIL FROM:<\0\x1b@b>\r\nMAIL FROM:<>\r\nRCPT TO:<a\x01@b>\r\nDATA\r\nQUIT\r\n",
          /^500 5.5.2 .*\r\n250 .*\r\n500 5.5.2 .*\r\n503 .*\r\n221/m,
        ],
        [`HELO x\r\nMAIL FROM:<>\r\nRCPT TO:<${far}>\r\nDATA\r\nhalf`, /^354 .*\r\n$/m],
      ] as const
    ) {
      using conn = await dial(rig.port);
      await conn.writeAll(rude);
      await conn.conn.closeWrite();
      assertMatch(await hear(conn), reply, rude.slice(0, 100));
      assertEquals(await tree(rig.root), empty);
    }
    using conn = await dial(rig.port);
    const good = `HELO ../../x\r\nMAIL FROM:<>\r\nRCPT TO:<${far}>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n`;
    await conn.writeAll(good);
    await hear(conn);
    const [message, ...others] = (await tree(rig.root)).filter((name) => !empty.includes(name));
    assertMatch(message, /^mail\/new\/\d+\.M\d+P\d+R[0-9a-f]{8}\.localhost,S=\d+,W=\d+$/);
    assertEquals(others, []);
  },
});

Deno.test({
  name: "smtp_server killed in the middle of a load has all that it said 250 to, and nothing half",
  ignore: missing(),
  async fn() {
    await using folder = await temporaryFolder();
    const path = `${folder.path}/mail`;
    const below = random(9);
    const senders = 8;
    const said = new Set<string>();
    let sent = 0;

    async function send(port: number, enough: number, kill: () => void): Promise<void> {
      using conn = await dial(port);
      await conn.writeAll("HELO load\r\n");
      for (;;) {
        const id = `<${sent++}>`;
        const text = `Subject: ${id}\r\n\r\n${"x\r\n".repeat(below(2000))}end ${id}\r\n`;
        const begin = "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n";
        await conn.writeAll(`${begin}${text}.\r\n`);
        for (let line; !/ octets stored$/.test(line = await conn.readLine() ?? "");) {
          if (line === "") throw new Error("gone");
        }
        said.add(id);
        if (said.size >= enough) kill();
      }
    }

    const rounds = 5;
    for (let round = 0; round < rounds; round++) {
      await using server = start("smtp_server", [path, "--port", "0"]);
      const port = await server.port();
      const enough = said.size + 50 + below(100);
      const kill = () => server.signal("SIGKILL");
      const ends = Array.from({ length: senders }, () => send(port, enough, kill).catch(() => {}));
      await Promise.all(ends);
    }

    const found = new Map<string, number>();
    for await (const { name } of Deno.readDir(`${path}/new`)) {
      const text = await Deno.readTextFile(`${path}/new/${name}`);
      const [, id] =
        /^Return-Path: <a@b>\nDelivered-To: c@d\nReceived: [^]*^Subject: (<\d+>)\n\n(?:x\n)*end \1\n$/m
          .exec(text) ?? [];
      assert(id !== undefined, text.slice(0, 500));
      assertEquals(Number(/,S=(\d+)/.exec(name)?.[1]), text.length);
      found.set(id, (found.get(id) ?? 0) + 1);
    }
    assertEquals([...said].filter((id) => found.get(id) !== 1), []);
    assert(said.size >= rounds * 50, `${said.size}`);
    assert(found.size <= said.size + rounds * senders, `${found.size} of ${said.size}`);
  },
});

Deno.test({
  name: "rude clients of smtp_server cost it little, and nobody else anything",
  ignore: PROC,
  async fn() {
    await using rig = await serving();
    const { server, port } = rig;
    const sockets1 = sockets(server);
    const mail = "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n";
    let count = 0;
    async function takes(text = "Subject: x\r\n\r\nx\r\n"): Promise<void> {
      using conn = await dial(port);
      await conn.writeAll(`HELO x\r\n${mail}${text}.\r\nQUIT\r\n`);
      assertMatch(await hear(conn), /octets stored\r\n221 /);
      assertEquals((await new Maildir(rig.path).list()).length, ++count);
    }
    await takes();
    const before = memory(server);
    await using stack = new AsyncDisposableStack();
    const open = async (text: string) => {
      const conn = stack.use(await dial(port));
      await conn.writeAll(text);
      return conn;
    };
    // Some say nothing, or not all of it.
    for (let i = 0; i < 200; i++) await open(["", "EHL", `HELO x\r\n${mail}half`][i % 3]);
    // Some do not read the answers to what they send and send.
    for (const line of ["HELP\r\n", "RSET\r\n"]) {
      const deaf = await open("");
      let wrote = 0;
      (async () => {
        for (; wrote < 1000 * MB; wrote += MB) await deaf.writeAll(line.repeat(MB / line.length));
      })().catch(() => {});
      let last = -1;
      await eventually("it is held up", async () => {
        if (wrote > 0 && wrote === last) return true;
        last = wrote;
        await new Promise((resolve) => setTimeout(resolve, 300));
        return false;
      });
    }
    // One sends a line without an end, one a message of nothing but ends, one 20 MB of a message.
    const line = await open("");
    await (async () => {
      for (let i = 0; i < 10; i++) await line.writeAll("x".repeat(MB));
    })().catch(() => {}); // the server may have waited long enough for its end
    assertMatch(await hear(line).catch(() => "500 "), /500 /);
    await takes("\r\n".repeat(MB));
    const large = await open(`HELO x\r\n${mail}`);
    for (let i = 0; i < 20; i++) await large.writeAll("x".repeat(MB));
    await large.writeAll("\r\n.\r\nQUIT\r\n");
    assertMatch(await hear(large), /552 5\.3\.4 [^]*221 /);
    await takes();
    const growth = (memory(server, "VmHWM") - before) / 1024;
    assert(growth < 150, `${growth} MiB`);
    await stack.disposeAsync();
    await eventually("all have gone", () => sockets(server) <= sockets1);
    await takes();
    assertEquals((await tree(rig.path)).filter((name) => name.startsWith("tmp/")), []);
    assert(!/^\s+at |Uncaught/m.test(server.stderr), server.stderr);
  },
});

Deno.test({
  name: "smtp_server out of descriptors refuses for now, and loses nothing",
  ignore: missing("prlimit"),
  async fn() {
    await using folder = await temporaryFolder();
    const argv = peers.limited(64, "smtp_server", [`${folder.path}/mail`]);
    await using server = new Program(argv);
    const port = await server.port();
    using conn = await dial(port);
    await conn.writeAll("HELO x\r\n");
    await hear(conn, /^250 /m);
    const mail = "MAIL FROM:<>\r\nRCPT TO:<a@b>\r\nDATA\r\nx\r\n.\r\n";
    {
      await using stack = new AsyncDisposableStack();
      for (let i = 0; i < 150; i++) stack.use(await dial(port));
      await server.until(/cannot accept, trying again/, "stderr");
      await conn.writeAll(mail);
      await hear(conn, /^451 4\.3\.0 .*\r\n/m);
    }
    await eventually("it has descriptors again", async () => {
      await conn.writeAll(mail);
      return /^250 .* stored\r\n/m.test(await hear(conn, /^(250 .* stored|451 .*)\r\n/m));
    });
    assertEquals((await stored(`${folder.path}/mail`)).length, 1);
    assertEquals((await tree(folder.path)).filter((name) => name.startsWith("mail/tmp/")), []);
  },
});
