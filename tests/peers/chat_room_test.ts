import { assert, assertEquals, assertMatch } from "@std/assert";
import { delay } from "@std/async/delay";
import { connect } from "@nats-io/transport-node";
import type { FramedConn } from "../../lib/framing.ts";
import { missing, Program, start, temporaryFolder } from "../helpers.ts";
import { dial, eventually, memory, natsPort, output, sockets, startNats } from "./peers.ts";

const MIB = 1024 * 1024;
const LOST = "* other rooms are out of reach";
const BACK = "* other rooms are back";

/** Somebody in a room who reads all that is said. */
class Somebody {
  readonly heard: string[] = [];
  octets = 0;

  private constructor(readonly conn: FramedConn) {}

  static async enter(port: number, name = ""): Promise<Somebody> {
    const somebody = new Somebody(await dial(port));
    somebody.#listen();
    await somebody.hears(/^\* you are guest\d+;/);
    if (name) await somebody.say(`/nick ${name}`);
    if (name) await somebody.hears(new RegExp(`^\\* guest\\d+ is now ${name}$`));
    return somebody;
  }

  async #listen(): Promise<void> {
    try {
      while (await this.conn.readable()) {
        const line = await this.conn.readLine() ?? "";
        this.octets += line.length + 2;
        this.heard.push(line.slice(0, 80));
      }
    } catch {
      // closed by the test
    }
  }

  async say(line: string): Promise<void> {
    await this.conn.writeAll(`${line}\n`);
  }

  count(line: string): number {
    return this.heard.filter((heard) => heard === line).length;
  }

  async hears(what: RegExp | string, times = 1): Promise<void> {
    const so = (line: string) => typeof what === "string" ? line === what : what.test(line);
    await eventually(
      `${what}, among\n${this.heard.join("\n")}`,
      () => this.heard.filter(so).length >= times,
    );
  }

  /** Asks who is there. */
  async who(): Promise<string> {
    const before = this.heard.length;
    await this.say("/who");
    const answer = () => this.heard.slice(before).find((line) => line.startsWith("* here ("));
    await eventually("an answer to /who", () => answer() !== undefined);
    return answer() ?? "";
  }

  [Symbol.dispose](): void {
    this.conn.close();
  }
}

/** A reader with a small buffer who reads `size` octets in each `pause`, or with 0 never. */
function slowReader(port: number, size: number, pause: number): Program {
  return new Program([
    "python3",
    "-u",
    "-c",
    `
import socket, sys, time
port, size, pause = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
s.connect(("127.0.0.1", port))
s.sendall(b"/nick slow\\n")
print("in")
if size == 0:
    sys.stdin.read()
while size:
    data = s.recv(size)
    if not data:
        break
    for word in (b"marker 1", b"marker 2", b"marker 3"):
        if word in data:
            print(word.decode())
    time.sleep(pause)
`,
    ...[port, size, pause].map(String),
  ]);
}

const room = (nats: number, name = "chat_room") =>
  start(name, ["--port", "0", "--nats", `127.0.0.1:${nats}`]);

Deno.test({
  name: "chat_room: nc talks, and leaves by /quit or by its end",
  ignore: missing("nc"),
  async fn() {
    await using server = start("chat_room", ["--port", "0"]);
    const port = await server.port();
    using listener = await Somebody.enter(port, "ear");
    const nc = (...args: string[]) => ["nc", ...args, "127.0.0.1", `${port}`];
    const hello = (n: number) => `* you are guest${n}; commands: /nick NAME, /who, /quit\r\n`;
    assertEquals(await output(nc(), "hi\n/quit\n"), `${hello(2)}* bye\r\n`);
    await listener.hears("guest2: hi");
    await listener.hears("* guest2 has left");
    assertEquals(
      await output(nc("-N"), "/nick nc\r\nbye\r\n"),
      `${hello(3)}* guest3 is now nc\r\n`,
    );
    await listener.hears("nc: bye");
    await listener.hears("* nc has left");
    await using typed = new Program(nc("-C"));
    await typed.type("to all\n");
    await listener.hears("guest4: to all");
    await listener.say("welcome");
    await typed.until(/^ear: welcome\r\n/m);
    assertEquals(await listener.who(), "* here (2): ear, guest4");
  },
});

Deno.test({
  name: "chat_room: who never reads is out with a line, while others exchange 100 MB in 50 MiB",
  ignore: missing("python3"),
  async fn() {
    await using server = start("chat_room", ["--port", "0"]);
    const port = await server.port();
    const people: Somebody[] = [];
    for (let i = 0; i < 40; i++) people.push(await Somebody.enter(port));
    const [first] = people;
    await using _slow = slowReader(port, 0, 0);
    await first.hears(/ is now slow$/);
    await first.say("warm");
    const before = memory(server, "VmHWM");
    const exchanged = () => people.reduce((sum, { octets }) => sum + octets, 0);
    const line = "\x01".repeat(998); // four times as long when it is shown
    for (let i = 0; i < 100 && (exchanged() < 100 * MIB || !first.count("* slow has left")); i++) {
      const heard = people.map(({ octets }) => octets);
      await Promise.all(people.map((somebody) => somebody.say(line)));
      await eventually(
        "all lines have come",
        () => people.every(({ octets }, i) => octets - heard[i] >= 39 * 4000),
      );
    }
    await server.until(/^chat_room: 127\.0\.0\.1:\d+: closed, slow does not read$/m, "stderr");
    for (const somebody of people) assertEquals(somebody.count("* slow has left"), 1);
    const growth = (memory(server, "VmHWM") - before) / 1024;
    console.log(`${(exchanged() / MIB).toFixed()} MiB exchanged, ${growth.toFixed()} MiB more`);
    assert(exchanged() >= 100 * MIB);
    assert(growth < 50, `${growth} MiB`);
    assertMatch(await first.who(), /^\* here \(40\): /);
    assertEquals(first.heard.filter((line) => line.endsWith(" has left")).length, 1);
    for (const somebody of people) somebody.conn.close();
  },
});

Deno.test({
  name: "chat_room: a flood throws no slow reader out, and nobody waits for either",
  ignore: missing("python3"),
  async fn() {
    await using server = start("chat_room", ["--port", "0"]);
    const port = await server.port();
    using ann = await Somebody.enter(port, "ann");
    using bob = await Somebody.enter(port, "bob");
    await using slow = slowReader(port, 4096, 0.02);
    await ann.hears(/ is now slow$/);
    using flooder = await Somebody.enter(port, "flooder");
    const flood = flooder.conn.writeAll(`${"\x01".repeat(900)}\n`.repeat(50_000)).catch(() => {});
    await ann.hears(/^flooder: /, 3);
    // More than the system keeps was sent: if the room takes all of it, it does so soon.
    const taken = await Promise.race([flood.then(() => true), delay(2000)]);
    for (const i of [1, 2, 3]) {
      await ann.say(`marker ${i}`);
      await bob.hears(`ann: marker ${i}`);
      await slow.until(new RegExp(`^marker ${i}$`, "m"));
    }
    assert(!taken, "the flood was read");
    assertEquals(await bob.who(), "* here (4): ann, bob, flooder, slow");
    assertEquals(bob.count("* slow has left"), 0);
    // What it sent before it is gone is read no more once something is said to it.
    flooder.conn.close();
    await eventually("it has left", async () => {
      await ann.say("hello?");
      await delay(200);
      return bob.count("* flooder has left") === 1;
    });
  },
});

Deno.test({
  name: "chat_room --nats: three rooms are one",
  ignore: missing("nats-server"),
  async fn() {
    await using folder = await temporaryFolder();
    await using nats = startNats(folder.path);
    const port = await natsPort(nats);
    await using one = room(port);
    await using two = room(port);
    using ann = await Somebody.enter(await one.port(), "ann");
    using bob = await Somebody.enter(await two.port(), "bob");
    await ann.hears("* guest1 has joined");
    await ann.hears("* guest1 is now bob");
    // One who comes later knows all who are there.
    await using three = room(port);
    using cat = await Somebody.enter(await three.port());
    await eventually("all are known", async () => /ann, bob/.test(await cat.who()));
    await cat.say("/nick Bob");
    await cat.hears("* Bob is taken");
    await cat.say("/nick cat");
    for (const somebody of [ann, bob, cat]) await somebody.hears(/^\* guest\d+ is now cat$/);
    for (const somebody of [ann, bob, cat]) {
      assertEquals(await somebody.who(), "* here (3): ann, bob, cat");
    }
    await ann.say("hello \x1b[2J");
    for (const somebody of [bob, cat]) await somebody.hears("ann: hello \\x1b[2J");
    await bob.say("first");
    await bob.say("second");
    for (const somebody of [ann, cat]) {
      await somebody.hears("bob: second");
      const said = somebody.heard.filter((line) => line.startsWith("bob: "));
      assertEquals(said, ["bob: first", "bob: second"]);
    }
    assertEquals([ann.count("ann: hello \\x1b[2J"), bob.count("bob: first")], [0, 0]);
    await bob.say("/quit");
    for (const somebody of [ann, cat]) await somebody.hears("* bob has left");
    assertEquals(await cat.who(), "* here (2): ann, cat");

    one.signal("SIGTERM");
    await ann.hears("* the room closes");
    ann.conn.close();
    assertEquals((await one.ended()).code, 0);
    await cat.hears("* ann has left");
    assertEquals(await cat.who(), "* here (1): cat");
    assertEquals(one.stderr.match(/out of reach|back/g), null, one.stderr);
  },
});

Deno.test({
  name: "chat_room --nats: of a room that is killed the people leave, the others talk on",
  ignore: missing("nats-server"),
  async fn() {
    await using folder = await temporaryFolder();
    await using nats = startNats(folder.path);
    const port = await natsPort(nats);
    await using one = room(port);
    await using two = room(port);
    await using three = room(port);
    using ann = await Somebody.enter(await one.port(), "ann");
    using bob = await Somebody.enter(await two.port(), "bob");
    using cat = await Somebody.enter(await three.port(), "cat");
    await eventually("all are known", async () => /ann, bob, cat/.test(await ann.who()));
    three.signal("SIGKILL");
    await three.ended();
    await ann.say("cat?");
    await bob.hears("ann: cat?");
    for (const somebody of [ann, bob]) await somebody.hears("* cat has left");
    assertEquals(await ann.who(), "* here (2): ann, bob");
    assertEquals([ann.count("* bob has left"), bob.count("* ann has left")], [0, 0]);
    // The name is free again.
    using other = await Somebody.enter(await two.port(), "cat");
    await ann.hears(/^\* guest\d+ is now cat$/, 2);
    cat.conn.close();
    other.conn.close();
  },
});

Deno.test({
  name: "chat_room --nats: NATS is gone for 10 s and back",
  ignore: missing("nats-server"),
  async fn() {
    await using folder = await temporaryFolder();
    await using first = startNats(folder.path);
    const port = await natsPort(first);
    await using one = room(port);
    await using two = room(port);
    await using three = room(port);
    const [there, elsewhere] = [await one.port(), await two.port()];
    using ann = await Somebody.enter(there, "ann");
    using amy = await Somebody.enter(there, "amy");
    using bob = await Somebody.enter(elsewhere, "bob");
    using ben = await Somebody.enter(elsewhere, "ben");
    using cat = await Somebody.enter(await three.port(), "cat");
    for (const somebody of [ann, bob]) {
      await eventually("all are known", async () => (await somebody.who()).includes("(5)"));
    }
    const sockets1 = sockets(one);

    first.signal("SIGKILL");
    await first.ended();
    const gone = performance.now();
    for (const somebody of [ann, amy, bob, ben, cat]) await somebody.hears(LOST);
    assertEquals(await ann.who(), "* here (2): amy, ann");
    assertEquals(await bob.who(), "* here (2): ben, bob");
    await ann.say("only amy hears this");
    await amy.hears("ann: only amy hears this");
    await bob.say("only ben hears this");
    await ben.hears("bob: only ben hears this");
    // A room may close meanwhile, and two people take one name.
    three.signal("SIGTERM");
    await cat.hears("* the room closes");
    cat.conn.close();
    assertEquals((await three.ended()).code, 0);
    await amy.say("/nick eve");
    await amy.hears("* amy is now eve");
    await ben.say("/nick EVE");
    await ben.hears("* ben is now EVE");
    await delay(10_000 - (performance.now() - gone));
    await ann.say("still here");
    await amy.hears("ann: still here");

    await using second = startNats(folder.path, port);
    assertEquals(await natsPort(second), port);
    for (const somebody of [ann, amy, bob, ben]) await somebody.hears(BACK);
    for (const somebody of [ann, bob]) {
      await eventually(
        "they are one again, one eve is a guest and cat is gone",
        async () =>
          /: (EVE, ann, bob, guest\d+|ann, bob, eve, guest\d+)$/.test(await somebody.who()),
      );
    }
    assertEquals(await ann.who(), await bob.who());
    await ann.say("hello again");
    for (const somebody of [bob, ben]) await somebody.hears("ann: hello again");
    await bob.say("and to you");
    for (const somebody of [ann, amy]) await somebody.hears("bob: and to you");
    for (const somebody of [bob, ben]) await somebody.hears("* cat has left");
    for (const somebody of [ann, amy, bob, ben]) {
      assertEquals([somebody.count(LOST), somebody.count(BACK)], [1, 1]);
      const both = somebody.heard.filter((line) => /: (only|still)/.test(line)).length;
      assertEquals(both, somebody === amy ? 2 : somebody === ben ? 1 : 0);
    }
    assert(!ann.heard.includes("* bob has left") && !bob.heard.includes("* ann has left"));
    assertMatch(
      one.stderr,
      new RegExp(
        `^.*listening on .*\\nchat_room: 127.0.0.1:${port}: other rooms are out of reach\\n` +
          `chat_room: 127.0.0.1:${port}: other rooms are back\\n$`,
      ),
    );
    assertEquals(sockets(one), sockets1);
  },
});

Deno.test({
  name: "chat_room --nats: junk on its subject harms nothing",
  ignore: missing("nats-server"),
  async fn() {
    await using folder = await temporaryFolder();
    await using nats = startNats(folder.path);
    const port = await natsPort(nats);
    await using one = room(port);
    await using two = room(port);
    using ann = await Somebody.enter(await one.port(), "ann");
    using bob = await Somebody.enter(await two.port(), "bob");
    await eventually("all are known", async () => /ann, bob/.test(await ann.who()));
    const client = await connect({ servers: `127.0.0.1:${port}`, noEcho: true });
    const publish = (news: unknown) => client.publish("chat_room", JSON.stringify(news));
    const fake = "0".repeat(36); // the least id, so that others yield to it
    const ids: string[] = []; // of those from whom something came
    client.subscribe("chat_room", {
      callback(_, message) {
        ids.push(/"room":"([^"]*)/.exec(message.string())?.[1] ?? "");
      },
    });
    await eventually("the rooms tell who is in them", () => new Set(ids).size === 2);
    const [id] = ids;
    // Rooms that have just started, all empty, are told at once, not with the next beat.
    const began = performance.now();
    for (let i = 100; i < 120; i++) publish({ room: `${i}`.padEnd(36, "f"), people: [] });
    const before = ids.length;
    await eventually("each was told by both", () => ids.length >= before + 40);
    assert(performance.now() - began < 15_000); // in which there are 30 beats
    for (const junk of ["", "{", "\xff\xfe", "[".repeat(100_000), "x".repeat(900_000)]) {
      client.publish("chat_room", junk);
    }
    client.publish("chat_room", new Uint8Array([0xff, 0, 0x80]));
    const strange = [null, 1, "x", [], {}, [1], [1, 2], ["1", "x"], [1.5, "x"], [1, null], true];
    for (const value of strange) {
      publish(value);
      for (const from of [fake, id, value]) {
        publish({ room: from, people: value });
        publish({ room: from, people: [value] });
        publish({ room: from, said: value });
      }
    }
    for (const name of ["", "a b", "x".repeat(21), "\x1b[2J", "a\n", "grüße", "* x"]) {
      publish({ room: fake, people: [[1, name]] });
    }
    publish({ room: fake, people: Array.from({ length: 10_001 }, (_, i) => [i, `n${i}`]) });
    publish({ room: "short", people: [[1, "short"]] });
    publish({ room: fake, said: [1, "not of anybody"] });
    publish({ room: fake, people: [[1, "eve"]] });
    publish({ room: fake, said: [2, "nor this"] });
    publish({ room: fake, said: [1, "x".repeat(1001)] });
    publish({ room: fake, said: [1, "hi\x1b[2J\r\nann: \u202efake\ud800"] });
    for (const somebody of [ann, bob]) {
      await somebody.hears("eve: hi\\x1b[2J\\r\\nann: \\u202efake\ufffd");
      assertEquals(somebody.heard.filter((line) => line.startsWith("eve: ")).length, 1);
      assert(!somebody.heard.some((line) => /not of anybody|nor this|short|n1\b/.test(line)));
    }
    publish({ room: fake, people: [] });
    for (const somebody of [ann, bob]) await somebody.hears("* eve has left");
    // One that takes a name that is in use is believed, if its id is the lesser one.
    publish({ room: fake, people: [[1, "ANN"]] });
    await ann.hears(/^\* ann is now guest\d+$/);
    publish({ room: fake, people: [] });
    await ann.hears("* ANN has left");
    await ann.say("/nick ann");
    await bob.hears(/^\* guest\d+ is now ann$/);
    await ann.say("all is well");
    await bob.hears("ann: all is well");
    // A list was published in the name of bob's room, too, which has told its own since then.
    await eventually("as before", async () => await ann.who() === "* here (2): ann, bob");
    await client.close();
    assertEquals([one, two].map(({ stderr }) => stderr.split("\n").length), [2, 2]);
  },
});
