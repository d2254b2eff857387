import { assert, assertEquals, assertMatch } from "@std/assert";
import { delay } from "@std/async/delay";
import { connect } from "node:net";
import { FramedConn } from "../../lib/framing.ts";
import { Room } from "../../scripts/chat_room.ts";
import { mayConnect, mayRun, missing, pair, run, start, temporaryFolder } from "../helpers.ts";
import { dial, eventually } from "../peers/peers.ts";
import { FILES, inEachForm } from "./rig.ts";

const COMMANDS = "commands: /nick NAME, /who, /quit";

/** Enters a room that runs in this process; `ended` is done when it has let go of the person. */
async function enter(
  room: Room,
): Promise<{ conn: FramedConn; name: string; ended: Promise<void> }> {
  const { near, far } = await pair();
  const conn = new FramedConn(far, { timeout: 10_000 });
  const ended = room.converse(near).finally(async () => {
    await near.finish(new Uint8Array(1024)).catch(() => {});
    near.close();
  });
  ended.catch(() => {});
  return { conn, name: await welcome(conn), ended };
}

/** Reads the welcome and returns the name in it. */
async function welcome(conn: FramedConn): Promise<string> {
  const line = await conn.readLine() ?? "";
  const [, name, commands] = /^\* you are (guest\d+); (.*)$/.exec(line) ?? [];
  assertEquals(commands, COMMANDS, line);
  return name;
}

/** Reads as many lines as there are in `lines`, which they must be. */
async function hears(conn: FramedConn, ...lines: (string | null)[]): Promise<void> {
  const heard: (string | null)[] = [];
  for (const _ of lines) heard.push(await conn.readLine());
  assertEquals(heard, lines);
}

Deno.test({
  name: "chat_room: people join, talk, get other names and leave",
  ignore: !mayConnect,
  async fn() {
    const room = new Room();
    const one = await enter(room);
    const two = await enter(room);
    assertEquals([one.name, two.name], ["guest1", "guest2"]);
    await one.conn.writeAll("hello\n");
    await two.conn.writeAll("good day\n");
    await hears(two.conn, "guest1: hello");
    await one.conn.writeAll("/nick ann\n");
    await hears(one.conn, "* guest2 has joined", "guest2: good day", "* guest1 is now ann");
    await hears(two.conn, "* guest1 is now ann");
    await two.conn.writeAll("/who\n");
    await hears(two.conn, "* here (2): ann, guest2");
    await one.conn.writeAll("/quit\nthis nobody hears\n");
    await hears(one.conn, "* bye", null);
    one.conn.close();
    await one.ended;
    await two.conn.writeAll("anybody here?\n/who\n");
    await hears(two.conn, "* ann has left", "* here (1): guest2");
    two.conn.close();
    await two.ended;
    assertEquals(room.people.size, 0);
  },
});

Deno.test({
  name: "chat_room: a name is of letters, digits, - and _, at most 20, and nobody else's",
  ignore: !mayConnect,
  async fn() {
    const room = new Room();
    const people = await Promise.all(Array.from({ length: 2 }, () => enter(room)));
    const [one, two] = people.sort((a, b) => a.name < b.name ? -1 : 1);
    await one.conn.writeAll("/nick Ann\n");
    for (let line; line !== "* guest1 is now Ann"; line = await one.conn.readLine());
    await two.conn.writeAll("/who\n");
    for (let line; line !== "* here (2): Ann, guest2"; line = await two.conn.readLine());
    const bad = "* a name has 1 to 20 letters (A to Z), digits, - and _";
    const long = "x".repeat(20);
    const cases: [line: string, ...answers: string[]][] = [
      ["/nick", bad],
      ["/nick  ", bad],
      ["/nick two words", bad],
      ["/nick a:b", bad],
      ["/nick *", bad],
      ["/nick grüße", bad],
      ["/nick \x1b[2J", bad],
      [`/nick ${long}x`, bad],
      ["/nick ann", "* ann is taken"],
      ["/nick Ann", "* Ann is taken"],
      ["/nick guest3", "* guest2 is now guest3"],
      ["/nick GUEST3", "* guest3 is now GUEST3"], // one's own is not taken
      [`  /nick   ${long}\t`, `* GUEST3 is now ${long}`],
      ["/nick -_9", `* ${long} is now -_9`],
      ["/nick guest3", "* -_9 is now guest3"],
    ];
    for (const [line, ...answers] of cases) {
      await two.conn.writeAll(`${line}\n`);
      await hears(two.conn, ...answers);
    }
    const three = await enter(room);
    assertEquals(three.name, "guest4", "guest3 is somebody");
    for (const { conn, ended } of [...people, three]) {
      conn.close();
      await ended.catch(() => {});
    }
  },
});

Deno.test({
  name: "chat_room: an unknown command is said, an empty line ignored, nobody moves a cursor",
  ignore: !mayConnect,
  async fn() {
    const room = new Room();
    const one = await enter(room);
    const two = await enter(room);
    await hears(one.conn, "* guest2 has joined");
    await one.conn.writeAll("/nicer\n\n \t\r\n\r\r\n/\x1b[2J\n");
    const unknown = (command: string) => `* unknown command ${command}; ${COMMANDS}`;
    await hears(one.conn, unknown("/nicer"), unknown("/\\x1b[2J"));
    await one.conn.writeAll("\x1b[2J\x07 a\rb\u202ec\u0000\x9b1m\tgrüße 🙂\n\r/who \n");
    const said = "\\x1b[2J\\x07 a\\rb\\u202ec\\x00\\x9b1m\\tgrüße 🙂";
    await hears(two.conn, `guest1: ${said}`);
    await one.conn.writeAll(new Uint8Array([0x61, 0xff, 0xfd, 0x0a])); // not UTF-8
    await hears(two.conn, "guest1: a\ufffd\ufffd");
    one.conn.close();
    two.conn.close();
    await Promise.allSettled([one.ended, two.ended]);
  },
});

Deno.test({
  name: "chat_room: a line may end in LF or CRLF and come in any pieces",
  ignore: !mayConnect,
  async fn() {
    const room = new Room();
    const listener = await enter(room);
    const text = (i: number) => new TextEncoder().encode(`grüße ${i}${i % 2 ? "\r" : ""}\n`);
    const speakers = await Promise.all(
      Array.from({ length: text(10).length * 2 }, () => enter(room)),
    );
    await Promise.all(speakers.map(async ({ conn }, i) => {
      const line = text(10 + i);
      await conn.writeAll(line.subarray(0, i >> 1));
      await delay(20); // so that it comes in two
      await conn.writeAll(line.subarray(i >> 1));
    }));
    const expected = new Set(speakers.map(({ name }, i) => `${name}: grüße ${10 + i}`));
    while (expected.size > 0) {
      const line = await listener.conn.readLine() ?? "(end)";
      assert(line.startsWith("* ") || expected.delete(line), line);
    }
    // All octets one by one.
    for (const octet of text(99)) await speakers[0].conn.writeAll(new Uint8Array([octet]));
    await hears(listener.conn, `${speakers[0].name}: grüße 99`);
    for (const { conn } of [listener, ...speakers]) conn.close();
    await Promise.allSettled([listener, ...speakers].map(({ ended }) => ended));
  },
});

Deno.test({
  name: "chat_room: of 50 people each hears each line of the others once, in the same order",
  ignore: !mayRun,
  async fn() {
    await using server = start("chat_room", ["--port", "0"]);
    const port = await server.port();
    const people: { conn: FramedConn; name: string }[] = [];
    for (let i = 0; i < 50; i++) {
      const conn = await dial(port);
      people.push({ conn, name: await welcome(conn) });
    }
    const lines = 4;
    const heard = await Promise.all(people.map(async ({ conn }) => {
      const text = Array.from({ length: lines }, (_, i) => `line ${i}\n`).join("");
      await conn.writeAll(text); // all at once
      const heard: string[] = [];
      while (heard.length < lines * 49) {
        const line = await conn.readLine() ?? "(end)";
        if (!line.endsWith(" has joined")) heard.push(line);
      }
      return heard;
    }));
    const all = new Set([...heard[0], ...heard[1]]);
    assertEquals(all.size, lines * 50);
    for (const [i, { name }] of people.entries()) {
      assertEquals(new Set(heard[i]).size, lines * 49);
      assert(heard[i].every((line) => all.has(line) && !line.startsWith(`${name}: `)));
      for (const other of heard) {
        const both = new Set(other);
        const mine = heard[i].filter((line) => both.has(line));
        const has = new Set(mine);
        assertEquals(mine, other.filter((line) => has.has(line)));
      }
    }
    for (const { conn } of people) conn.close();
    await eventually("all have left", async () => {
      using conn = await dial(port);
      await welcome(conn);
      await conn.writeAll("/who\n");
      for (let line; (line = await conn.readLine()) !== null;) {
        if (line.startsWith("* here")) return line.startsWith("* here (1)");
      }
      return false;
    });
  },
});

Deno.test({
  name: "chat_room: /who of many people is in lines that a terminal shows",
  ignore: !mayConnect,
  async fn() {
    const room = new Room();
    const names = Array.from({ length: 500 }, (_, i) => `somebody_${i}`).sort();
    room.others = { names: () => names, changed() {}, said() {} };
    const { conn, ended } = await enter(room);
    await conn.writeAll("/who\n");
    let text = "";
    while (!text.endsWith(` ${names[499]}`)) {
      const line = await conn.readLine() ?? "";
      assert(/^\* .{1,76}$/.test(line), line);
      text += ` ${line.slice(2)}`;
    }
    assertEquals(text, ` here (501): guest1, ${names.join(", ")}`);
    conn.close();
    await ended;
  },
});

Deno.test({
  name: "chat_room: a line of more than 1000 octets is answered and ends the conversation",
  ignore: !mayRun,
  async fn() {
    await using server = start("chat_room", ["--port", "0"]);
    const port = await server.port();
    using one = await dial(port);
    await welcome(one);
    using two = await dial(port);
    await welcome(two);
    await hears(one, "* guest2 has joined");
    await one.writeAll(`${"x".repeat(998)}\r\n`);
    await hears(two, `guest1: ${"x".repeat(998)}`);
    await one.writeAll(`${"x".repeat(1000)}\n`);
    await hears(one, "* a line has at most 1000 octets", null);
    await hears(two, "* guest1 has left");
    await server.until(/^chat_room: 127\.0\.0\.1:\d+: line of more than 1000 bytes$/m, "stderr");
    using three = await dial(port);
    await three.writeAll("y".repeat(100_000)); // and no end
    assertEquals(await welcome(three), "guest3");
    await hears(three, "* a line has at most 1000 octets", null);
    await hears(two, "* guest3 has joined", "* guest3 has left");
  },
});

Deno.test({
  name: "chat_room: the end of what somebody says, or a reset, is leaving",
  ignore: !mayRun,
  async fn() {
    await using server = start("chat_room", ["--port", "0"]);
    const port = await server.port();
    using one = await dial(port);
    await welcome(one);
    using two = await dial(port);
    await two.writeAll("hi\n/who\nbye");
    await two.conn.closeWrite();
    assertEquals(await welcome(two), "guest2");
    await hears(two, "* here (2): guest1, guest2", null);
    await hears(one, "* guest2 has joined", "guest2: hi", "* guest2 has left");
    for (let i = 3; i < 8; i++) {
      const socket = connect(port, "127.0.0.1");
      const told = new Promise((resolve) => socket.once("data", resolve));
      socket.on("error", () => {});
      await told;
      socket.resetAndDestroy();
      await hears(one, `* guest${i} has joined`, `* guest${i} has left`);
    }
    await one.writeAll("/who\n");
    await hears(one, "* here (1): guest1");
    assert(!/^\s+at |Uncaught/m.test(server.stderr), server.stderr);
  },
});

Deno.test({
  name: "chat_room: whoever talks fast is read slowly, and of what is read nothing is lost",
  ignore: !mayConnect,
  async fn() {
    const room = new Room();
    const listener = await enter(room);
    const flooder = await enter(room);
    await hears(listener.conn, "* guest2 has joined");
    const began = performance.now();
    await flooder.conn.writeAll(Array.from({ length: 6 }, (_, i) => `${i}\n\n`).join(""));
    for (let i = 0; i < 6; i++) await hears(listener.conn, `guest2: ${i}`);
    const took = performance.now() - began;
    assert(took > 10 * 190, `11 lines and blank ones in ${took} ms`);
    flooder.conn.close();
    listener.conn.close();
    await Promise.allSettled([flooder.ended, listener.ended]);
  },
});

Deno.test({
  name: "chat_room --max-connections: the next one waits until somebody leaves",
  ignore: !mayRun,
  async fn() {
    await using server = start("chat_room", ["--port", "0", "--max-connections", "2"]);
    const port = await server.port();
    const one = await dial(port);
    await welcome(one);
    using two = await dial(port);
    await welcome(two);
    using three = await dial(port);
    await two.writeAll("/who\n");
    await hears(two, "* here (2): guest1, guest2");
    one.close();
    assertEquals(await welcome(three), "guest3");
    await hears(two, "* guest1 has left", "* guest3 has joined");
  },
});

Deno.test({
  name: "chat_room on SIGTERM tells everybody and ends with 0, none of them cut off",
  ignore: !mayRun,
  async fn() {
    await using server = start("chat_room", ["--port", "0"]);
    const port = await server.port();
    const people: FramedConn[] = [];
    for (let i = 0; i < 3; i++) {
      people.push(await dial(port));
      await welcome(people[i]);
    }
    await hears(people[0], "* guest2 has joined", "* guest3 has joined");
    await hears(people[1], "* guest3 has joined");
    server.signal("SIGTERM");
    for (const conn of people) {
      await hears(conn, "* the room closes", null);
      await conn.writeAll("still here\n/who\n/nick nobody\n"); // as it may cross on the way
    }
    for (const conn of people) conn.close();
    const { code, stderr } = await server.ended();
    assertEquals(code, 0);
    assertMatch(stderr, /^.*listening on .*\n.*stopping, 5 s for open connections \(3\).*\n$/);
  },
});

Deno.test({
  name: "chat_room with chat_client, plain, by IPv6, a Unix socket and TLS",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    for await (const { form, server, ask } of inEachForm("chat_room", folder.path)) {
      await using ann = start("chat_client", ask, FILES);
      await ann.until(/you are guest1; /);
      await using bob = start("chat_client", ask, FILES);
      await bob.until(/you are guest2; /);
      await ann.type("/nick ann\n");
      await bob.until(/Received from server: \* guest1 is now ann\n/);
      await ann.type("hello\n");
      await bob.until(/Received from server: ann: hello\n$/);
      await bob.type("good day\n");
      await ann.until(/Received from server: guest2: good day\n$/);
      await ann.type("q\n");
      assertEquals(await ann.ended().then(({ code, stderr }) => [code, stderr]), [0, ""], form);
      await bob.until(/Received from server: \* ann has left\n$/);
      await bob.type("/quit\n");
      const { code, stdout, stderr } = await bob.ended();
      assertMatch(stdout, /Received from server: \* bye\n$/);
      const gone = "chat_client: the server has ended the conversation\n";
      assertEquals([code, stderr], [0, gone], form);
      // Of TLS Deno's client does not say that it ends.
      const cut = form === "TLS" ? "chat_room: .*: cut off, without TLS close_notify\n" : "";
      assertMatch(server.stderr, new RegExp(`^chat_room: listening on .*\n${cut}$`));
    }
  },
});

Deno.test({
  name: "chat_room: a wrong or dead NATS server is said in one line",
  ignore: !mayRun,
  async fn() {
    const wrong: [address: string, says: string][] = [
      ["", "HOST:PORT is missing"],
      ["unix:/x", "unix:/x is not HOST:PORT"],
      ["a:b", "a:b is not an address (host:port, [::1]:port or unix:/path)"],
    ];
    for (const [address, says] of wrong) {
      const { code, stderr } = await run("chat_room", ["--nats", address]);
      assertEquals([code, stderr], [2, `chat_room: --nats: ${says} (--help tells more)\n`]);
    }
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const dead = `127.0.0.1:${listener.addr.port}`;
    listener.close();
    const { code, stderr } = await run("chat_room", ["--port", "0", "--nats", dead]);
    assertEquals([code, stderr], [1, `chat_room: ${dead}: connection refused\n`]);
  },
});
