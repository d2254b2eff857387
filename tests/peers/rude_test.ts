import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { askDatagram } from "../../lib/framing.ts";
import { missing, Program, run, start, temporaryFolder } from "../helpers.ts";
import * as peers from "./peers.ts";

const { ask, DAYTIME, dial, eventually, hear, memory, python, sockets } = peers;
const MIB = 1024 * 1024;

/** The TCP servers: arguments, a good question, and the answer. */
const SERVERS: Record<string, { args?: string[]; question: string; answer: RegExp }> = {
  "daytime_server": { question: "", answer: DAYTIME },
  "thanks_server": { question: "", answer: /^Thank you for connecting\r\n$/ },
  "chat_server": { question: "hello", answer: /^typed\n$/ },
  "file_server": { args: ["FOLDER"], question: "GET whole\n", answer: /^OK 6 of 6\r\nwhole\n$/ },
  "socketserver": { args: ["--reply", "upper"], question: "hello\n", answer: /^HELLO$/ },
};
const NAMES = Object.keys(SERVERS);
/** Seconds that a rude peer waits to be connected: past a backlog of 5, the system's next try. */
const PATIENCE: Record<string, number> = { "thanks_server": 0.02 };

/** A server under way, and what a polite client finds. */
class Rig {
  static #asked = 0;

  private constructor(
    readonly name: string,
    readonly server: Program,
    readonly port: number,
    readonly folder: string, // what the file server serves
    readonly used: AsyncDisposable,
  ) {}

  /** Starts a server, with few descriptors if told so. */
  static async start(name: string, flags: string[] = [], limit = 0): Promise<Rig> {
    await using used = new AsyncDisposableStack();
    const { path } = used.use(await temporaryFolder());
    await Deno.writeTextFile(`${path}/whole`, "whole\n");
    const args = SERVERS[name].args?.map((arg) => arg === "FOLDER" ? path : arg) ?? [];
    const server = used.use(
      limit > 0
        ? new Program(peers.limited(limit, name, [...flags, ...args]))
        : start(name, ["--port", "0", ...flags, ...args]),
    );
    const port = await server.port();
    if (name === "daytime_server") await server.until(/listening on .* \(udp\)\n/, "stderr");
    return new Rig(name, server, port, path, used.move());
  }

  /** Asks, and checks the answer. */
  async answers(): Promise<void> {
    const { question, answer } = SERVERS[this.name];
    const mark = ++Rig.#asked;
    using conn = await dial(this.port);
    await conn.writeAll(this.name === "chat_server" ? `${question} ${mark}` : question);
    if (this.name === "chat_server") {
      await this.server.until(new RegExp(`^ from client: HELLO ${mark}$`, "m"));
      await this.server.type("typed\n");
    }
    assertMatch(await hear(conn, answer), answer);
    assert(!/^\s+at |Uncaught/m.test(this.server.stderr), this.server.stderr);
  }

  /** Stops the server. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.used[Symbol.asyncDispose]();
  }
}

/** A rude.py under way that holds connections until its input ends. */
async function holding(command: string, ...numbers: number[]): Promise<Program> {
  const program = new Program(python("rude.py", command, ...numbers));
  await program.until(/^holding \d+$/m);
  return program;
}

async function letGo(program: Program): Promise<void> {
  await program.endInput();
  assertEquals((await program.ended()).code, 0, program.stderr);
}

/** Whether nobody listens on a port any more. */
async function refused(port: number): Promise<boolean> {
  try {
    (await Deno.connect({ hostname: "127.0.0.1", port })).close();
    return false;
  } catch (error) {
    return error instanceof Deno.errors.ConnectionRefused;
  }
}

const mib = (kib: number) => (kib / 1024).toFixed(1);

for (const name of NAMES) {
  Deno.test({
    name: `${name} with 64 descriptors outlives 150 connections, and answers after them`,
    ignore: missing("python3", "prlimit"),
    async fn() {
      await using rig = await Rig.start(name, [], 64);
      await rig.answers();
      await using held = await holding("hold", rig.port, 150, PATIENCE[name] ?? 10);
      // The chat server takes one at a time and never runs out.
      if (name !== "chat_server") await rig.server.until(/cannot accept, trying again/, "stderr");
      await letGo(held);
      await rig.answers();
      await rig.answers();
    },
  });

  Deno.test({
    name: `${name} stays up and leaks nothing when clients hang up, reset and talk nonsense`,
    ignore: missing("python3"),
    async fn() {
      await using rig = await Rig.start(name);
      const before = sockets(rig.server);
      assertEquals(
        await peers.output(python("rude.py", "abuse", rig.port, 20, PATIENCE[name] ?? 10)),
        "abused\n",
      );
      await rig.answers();
      await eventually("all sockets are closed", () => sockets(rig.server) <= before);
    },
  });

  Deno.test({
    name: `${name} does not grow with 200 MB without a newline`,
    ignore: missing(),
    async fn() {
      await using rig = await Rig.start(name);
      await rig.answers();
      const before = memory(rig.server, "VmHWM");
      using conn = await dial(rig.port);
      const junk = new Uint8Array(MIB).fill(0x41);
      let sent = 0;
      try {
        for (; sent < 200; sent++) await conn.writeAll(junk);
      } catch {
        // The server has had enough.
      }
      conn.close();
      await rig.answers();
      const growth = memory(rig.server, "VmHWM") - before;
      console.log(`${name}: ${mib(growth)} MiB more at its worst, took ${sent} MB`);
      assert(growth < 24 * 1024, `grew by ${mib(growth)} MiB`);
    },
  });
}

Deno.test({
  name: "1 MB sent before the first read costs nobody the answer, nor 64 MB at daytime",
  ignore: missing(),
  async fn() {
    for (const name of NAMES.filter((name) => name !== "chat_server")) {
      await using rig = await Rig.start(name);
      const { question, answer } = SERVERS[name];
      for (const size of name === "daytime_server" ? [1, 64] : [1]) {
        const sent = new Uint8Array(size * MIB + question.length);
        sent.set(new TextEncoder().encode(question));
        assertMatch(await ask(rig.port, sent), answer);
      }
      if (name === "file_server") {
        assertEquals(await ask(rig.port, new Uint8Array(MIB)), "ERROR request too long\r\n");
        await using single = start("file_server", ["--port", "0", `${rig.folder}/whole`]);
        const greeting = new TextEncoder().encode("Hello\n" + "x".repeat(MIB));
        assertEquals(await ask(await single.port(), greeting), "whole\n");
      }
    }
  },
});

Deno.test({
  name: "a TLS port: junk, resets and unfinished handshakes harm nobody else and leak nothing",
  ignore: missing("python3", "openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const { ca, cert, key } = await peers.certificates(folder.path);
    const flags = ["--port", "0", "--cert", cert, "--key", key];
    await using server = start("daytime_server", flags, ["--allow-read"]);
    const port = await server.port();
    const answers = async () => assertMatch(await ask({ port, tls: true, ca }), DAYTIME);
    const before = sockets(server);
    await answers();
    await using held = await holding("unfinished", port, 100);
    await Promise.all([answers(), answers(), answers()]);
    assert(sockets(server) >= before + 99, "they are under way");
    assertEquals(await peers.output(python("rude.py", "abuse", port, 20)), "abused\n");
    await Promise.all([answers(), answers(), answers()]);
    await letGo(held);
    await eventually("all sockets are closed", () => sockets(server) <= before);
    await answers();
    assert(!/^\s+at |Uncaught/m.test(server.stderr), server.stderr);
  },
});

Deno.test({
  name: "20 readers who never read a big file cost less than 80 MB and keep nobody waiting",
  ignore: missing(),
  async fn() {
    await using rig = await Rig.start("file_server");
    const size = 128 * MIB;
    await Deno.writeFile(`${rig.folder}/big`, new Uint8Array());
    await Deno.truncate(`${rig.folder}/big`, size);
    const request = async () => {
      const conn = await dial(rig.port);
      await conn.writeAll("GET big\n");
      assertEquals(await conn.readLine(), `OK ${size} of ${size}`);
      return conn;
    };
    const download = async () => {
      const began = performance.now();
      using conn = await request();
      let left = size;
      for (let data; (data = await conn.readSome()) !== null;) left -= data.length;
      assertEquals(left, 0);
      return performance.now() - began;
    };
    const open = sockets(rig.server);
    const alone = await download();
    const before = memory(rig.server, "VmHWM");
    const readers = await Promise.all(Array.from({ length: 20 }, request));
    const among = await download();
    const growth = memory(rig.server, "VmHWM") - before;
    console.log(
      `20 readers: ${mib(growth)} MiB; 128 MiB in ${alone.toFixed()} ms alone, ` +
        `${among.toFixed()} ms among them`,
    );
    assert(sockets(rig.server) >= open + 20, "all of them are being served");
    assert(growth < 80 * 1000, `cost ${mib(growth)} MiB`);
    for (const conn of readers) conn.close();
    await eventually("they are forgotten", () => sockets(rig.server) <= open);
    await rig.answers();
  },
});

Deno.test({
  name: "3000 idle connections cost at most 10 KiB each",
  ignore: missing("python3"),
  async fn() {
    await using rig = await Rig.start("socketserver", ["--max-connections", "4000"]);
    const open = sockets(rig.server);
    // A server that has worked for a while: V8's young generation has grown by then, once for all.
    assertEquals(await peers.output(python("rude.py", "visit", rig.port, 4000)), "visited\n");
    const before = memory(rig.server);
    await using held = await holding("hold", rig.port, 3000);
    await rig.answers(); // so those before it have been accepted
    const each = (memory(rig.server) - before) / 3000;
    console.log(`${each.toFixed(2)} KiB for each of 3000 idle connections`);
    assert(each <= 10, `${each} KiB each`);
    assert(sockets(rig.server) >= open + 3000, "all of them are being served");
    await letGo(held);
    await eventually("all are closed", () => sockets(rig.server) <= open);
    await rig.answers();
  },
});

/**
 * Stands between one client and a server: it passes the request on, then `n` octets of the answer
 * and, like a network that is stuck, no more until it is cut.
 */
function relay(port: number, n: number): { port: number; stuck: Promise<void>; cut: () => void } {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const open: { close: () => void }[] = [listener];
  async function pass(): Promise<void> {
    const near = await listener.accept();
    const far = await Deno.connect({ hostname: "127.0.0.1", port });
    open.push(near, far);
    const buffer = new Uint8Array(65536);
    await far.write(buffer.subarray(0, await near.read(buffer) ?? 0));
    for (let left = n; left > 0;) {
      const got = await far.read(buffer.subarray(0, Math.min(left, buffer.length)));
      if (got === null) throw new Error("the server has ended");
      for (let at = 0; at < got;) at += await near.write(buffer.subarray(at, got));
      left -= got;
    }
  }
  const cut = () => open.forEach((end) => end.close());
  return { port: listener.addr.port, stuck: pass(), cut };
}

Deno.test({
  name: "a file server killed in mid-transfer leaves no short file, and --resume completes it",
  ignore: missing(),
  async fn() {
    const total = 3 * MIB + 1;
    const data = Uint8Array.from({ length: total }, (_, i) => i * i >> 5);
    const header = `OK ${total} of ${total}\r\n`.length;
    // Nothing of use, one octet, some, all but one.
    for (const part of [null, 1, MIB, total - 1]) {
      const n = part === null ? 5 : header + part;
      await using folder = await temporaryFolder();
      const [shelf, target] = [`${folder.path}/shelf`, `${folder.path}/got`];
      await Deno.mkdir(shelf);
      await Deno.writeFile(`${shelf}/big`, data);
      const args = (port: number) => ["big", "--port", `${port}`, "--output", target];

      await using first = start("file_server", ["--port", "0", shelf]);
      const between = relay(await first.port(), n);
      await using client = start("file_client", args(between.port));
      await between.stuck;
      first.signal("SIGKILL");
      await first.ended();
      between.cut();
      const cut = await client.ended();
      assertEquals([cut.code, cut.stdout], [1, ""]);
      assertMatch(cut.stderr, /^file_client: .+\n$/);
      const left = [...Deno.readDirSync(folder.path)].map(({ name }) => name).sort();
      assertEquals(left, part === null ? ["shelf"] : ["got.part", "shelf"]);
      if (part !== null) {
        assertStringIncludes(cut.stderr, `${part} of ${total} bytes`);
        assertEquals((await Deno.stat(`${target}.part`)).size, part);
      }

      await using second = start("file_server", ["--port", "0", shelf]);
      const rest = await run("file_client", [...args(await second.port()), "--resume", "--trace"]);
      assertEquals(rest.code, 0, rest.stderr.slice(-200));
      assertStringIncludes(rest.stderr, `OK ${total - (part ?? 0)} of ${total}`); // not all again
      assert(same(await Deno.readFile(target), data), "it is the server's file");
      assertEquals([...Deno.readDirSync(folder.path)].length, 2, "nothing else is left");
    }
  },
});

function same(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((octet, i) => octet === b[i]);
}

Deno.test({
  name: "no name leads out of a file server's folder, and none makes it hang",
  ignore: missing("mkfifo"),
  async fn() {
    await using rig = await Rig.start("file_server");
    await using outside = await temporaryFolder();
    const [root, secret] = [rig.folder, `${outside.path}/secret`];
    await Deno.writeTextFile(secret, "SECRET");
    await Deno.mkdir(`${root}/sub`);
    await Deno.writeTextFile(`${root}/sub/inner`, "inner");
    await Deno.symlink("sub/inner", `${root}/inside`);
    await Deno.symlink(secret, `${root}/out`);
    await Deno.symlink(outside.path, `${root}/away`);
    await Deno.symlink("..", `${root}/sub/up`);
    await Deno.symlink("/", `${root}/root`);
    await Deno.symlink("loop", `${root}/loop`);
    await Deno.symlink("nowhere", `${root}/dangling`);
    await peers.output(["mkfifo", `${root}/fifo`]);
    using _socket = Deno.listen({ transport: "unix", path: `${root}/socket` });
    const sibling = `../${outside.path.split("/").at(-1)}/secret`;
    const names = [
      ...[sibling, `sub/../${sibling}`, `sub/up/${sibling}`, secret, `/${secret}`, "/etc/passwd"],
      ...["../../../../../../etc/passwd", "root/etc/passwd", "sub/../whole", "..", ".", "/", "./"],
      ...["whole\0", "\0", "/etc/passwd\0whole", "out", "away", "away/secret", "sub", "sub/"],
      ...["fifo", "socket", "loop", "dangling", "whole/x", "..\\whole", "%2e%2e/secret", "~"],
      ...["x".repeat(300), "x/".repeat(2000), "\x1b[2J", "\ufffd", " whole"],
    ];
    const answers = await Promise.all(names.map((name) => ask(rig.port, `GET ${name}\n`)));
    for (const [i, answer] of answers.entries()) {
      assertMatch(answer, /^ERROR \P{Cc}+\r\n$/u, names[i]);
      assert(!answer.includes("SECRET") && !answer.includes(root), `${names[i]}: ${answer}`);
    }
    for (const digits of ["7", "-1", "1e1", "99999999999999999999999", "0x1", ""]) {
      const answer = await ask(rig.port, `GET whole\t${digits}\n`);
      assert(!answer.startsWith("OK"), `${digits}: ${answer}`);
    }
    assertEquals(await ask(rig.port, "GET inside\n"), "OK 5 of 5\r\ninner");
    assertEquals(await ask(rig.port, "GET sub/up/whole\n"), "OK 6 of 6\r\nwhole\n");
    assertEquals(await ask(rig.port, "what is there?\n"), "5 sub/inner\r\n6 whole\r\n");
    await rig.answers();
  },
});

Deno.test({
  name: "Ctrl-C: no more are accepted, a conversation under way ends well, exit 0",
  ignore: missing(),
  async fn() {
    await using capitals = await Rig.start("socketserver");
    await using files = await Rig.start("file_server");
    await using talk = await Rig.start("chat_server");
    const big = new Uint8Array(16 * MIB);
    await Deno.writeFile(`${files.folder}/big`, big);

    using asking = await dial(capitals.port);
    await capitals.answers(); // so `asking`, before it, has been accepted
    using loading = await dial(files.port);
    await loading.writeAll("GET big\n");
    assertEquals(await loading.readLine(), `OK ${big.length} of ${big.length}`);
    using chatting = await dial(talk.port);
    await chatting.writeAll("one");
    await talk.server.until(/ from client: ONE\n/);

    const rigs = [capitals, files, talk];
    for (const { server } of rigs) server.signal("SIGINT");
    for (const { port } of rigs) await eventually("it is refused", () => refused(port));

    await asking.writeAll("hello\n");
    assertEquals(await hear(asking), "HELLO");
    assertEquals((await loading.readToEnd(big.length)).length, big.length);
    await talk.server.type("two\n");
    assertEquals(await hear(chatting, /\n/), "two\n");
    for (const conn of [asking, loading, chatting]) conn.close();
    for (const { name, server } of rigs) {
      const { code, stderr } = await server.ended();
      assertEquals(code, 0, `${name}: ${stderr}`);
      // It says that it stops, and nothing of anybody cut off.
      assertMatch(stderr, /^\S+: listening on \S+\n\S+: stopping, .*\n$/);
    }
  },
});

Deno.test({
  name: "a second Ctrl-C ends a server at once; without it a silent peer holds it up 5 s at most",
  ignore: missing(),
  async fn() {
    await using hasty = await Rig.start("socketserver");
    await using patient = await Rig.start("socketserver");
    using _one = await dial(hasty.port);
    using two = await dial(patient.port);
    for (const rig of [hasty, patient]) {
      await rig.answers(); // so the silent one, before it, has been accepted
      rig.server.signal("SIGINT");
      await eventually("it is refused", () => refused(rig.port));
    }
    hasty.server.signal("SIGINT");
    assertEquals((await hasty.server.ended()).code, 130);
    assertEquals(await two.readSome().catch(() => null), null);
    const { code, stderr } = await patient.server.ended();
    assertEquals(code, 0);
    assertMatch(stderr, /^socketserver: 127\.0\.0\.1:\d+: cut off$/m);
  },
});

for (
  const [name, flags, answer] of [
    ["daytime_server", [], DAYTIME],
    ["udp_echo", [], /^good question$/],
    ["socketserver", ["--transport", "udp", "--reply", "upper"], /^GOOD QUESTION$/],
  ] as const
) {
  Deno.test({
    name: `${name} over UDP outlives 3000 random datagrams and answers no small service's port`,
    ignore: missing("python3"),
    async fn() {
      await using server = start(name, ["--port", "0", ...flags]);
      const port = await server.port();
      await server.until(/listening on .* \(udp\)\n/, "stderr");
      assertEquals(await peers.output(python("rude.py", "datagrams", port, 3000)), "sent 3000\n");
      const question = new TextEncoder().encode("good question");
      const heard = await askDatagram({ host: "127.0.0.1", port, timeout: 10_000 }, question);
      assertMatch(new TextDecoder().decode(heard), answer);
      const forged = await peers.output(python("rude.py", "forge", port));
      assertMatch(forged, /^forged from ([1-9]|10) ports, answered: none - good: 20\n$/);
    },
  });
}
