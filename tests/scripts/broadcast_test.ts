import { assertEquals, assertMatch } from "@std/assert";
import { send } from "../../scripts/broadcast.ts";
import { mayRun, run } from "../helpers.ts";
import { heard, listener } from "./rig.ts";

const HERE = "127.255.255.255"; // this machine's own broadcast address: nothing leaves it
const MAX_DATAGRAM = 65507; // what IPv4 and UDP leave of 65,535

Deno.test({
  name: "broadcast send is printed by broadcast listen, and Ctrl-C ends it",
  ignore: !mayRun,
  async fn() {
    const { program, port } = await listener("broadcast");
    await using _ = program;
    assertMatch(program.stderr, /^broadcast: listening on 127\.255\.255\.255:\d+ \(udp\)\n$/);
    for (const [text, size] of [["hello", 5], ["", 0], ["grüße", 7], ["--x", 3]] as const) {
      const result = await run("broadcast", [
        "--port",
        `${port}`,
        "--to",
        HERE,
        "send",
        "--",
        text,
      ]);
      const stderr = `broadcast: ${size} bytes sent to ${HERE}:${port}\n`;
      assertEquals(result, { code: 0, stdout: "", stderr });
      await program.until(new RegExp(`: ${text}\n$`));
    }
    const lines = ["hello", "", "grüße", "--x"].map((text) => `127.0.0.1: ${text}\n`);
    assertEquals(await heard(program), lines.join(""));
  },
});

Deno.test({
  name: "broadcast listen prints any datagram on one line, escaped, and each of many",
  ignore: !mayRun,
  async fn() {
    const { program, port } = await listener("broadcast");
    await using _ = program;
    const to = { to: HERE, port };
    assertEquals(await send("", to), 0);
    assertEquals(await send("a\x1b[31mb\r\nc\0\u202e", to), 14);
    assertEquals(await send("x".repeat(MAX_DATAGRAM), to), MAX_DATAGRAM);
    using socket = binary(port);
    await socket.send(new Uint8Array([0xff, 0xfe, 0x41]));
    for (let i = 0; i < 50; i++) await send(`number ${i}`, to);
    const lines = ["", "a\\x1b[31mb\\r\\nc\\x00\\u202e", "x".repeat(MAX_DATAGRAM), "\ufffd\ufffdA"];
    for (let i = 0; i < 50; i++) lines.push(`number ${i}`);
    await program.until(new RegExp(`^(.*\n){${lines.length}}$`));
    // Several are received at once: their order is not promised.
    const printed = (await heard(program)).trimEnd().split("\n");
    assertEquals(printed.sort(), lines.map((line) => `127.0.0.1: ${line}`).sort());
  },
});

/** A socket that sends octets of any kind. */
function binary(port: number): Disposable & { send: (data: Uint8Array) => Promise<number> } {
  const socket = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
  return {
    send: (data) => socket.send(data, { transport: "udp", hostname: HERE, port }),
    [Symbol.dispose]: () => socket.close(),
  };
}

Deno.test({
  name: "broadcast listen hears --allow-from only, and with --host all that comes to an address",
  ignore: !mayRun,
  async fn() {
    const strict = await listener("broadcast", "--allow-from", "127.0.0.9", "--trace");
    await using _ = strict.program;
    const stranger = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.1", port: 0 });
    const friend = Deno.listenDatagram({ transport: "udp", hostname: "127.0.0.9", port: 0 });
    const say = (socket: Deno.DatagramConn, text: string, to = HERE, port = strict.port) =>
      socket.send(new TextEncoder().encode(text), { transport: "udp", hostname: to, port });
    await say(stranger, "me");
    await say(friend, "and me");
    await strict.program.until(/^< 127\.0\.0\.9:\d+ and me$/m, "stderr");
    await strict.program.until(/and me\n/);
    strict.program.signal("SIGTERM");
    const { code, stdout } = await strict.program.ended();
    assertMatch(stdout, /^127\.0\.0\.9:\d+: and me\n$/);
    assertEquals(code, 0);

    // Who is bound to an address of the machine hears no broadcast.
    const own = await listener("broadcast", "--host", "127.0.0.1");
    const all = await listener("broadcast", "--host", "0.0.0.0");
    await using _own = own.program;
    await using _all = all.program;
    for (const { program, port } of [own, all]) {
      await say(stranger, "to all", HERE, port);
      await say(stranger, "to one", "127.0.0.1", port);
      await program.until(/to one\n/);
    }
    assertEquals(await heard(own.program), "127.0.0.1: to one\n");
    assertEquals(await heard(all.program), "127.0.0.1: to all\n127.0.0.1: to one\n");
    stranger.close();
    friend.close();
  },
});

Deno.test({
  name: "broadcast says in one line what cannot be sent, and what cannot be meant",
  ignore: !mayRun,
  async fn() {
    const long = ["send", "--to", HERE, "x".repeat(MAX_DATAGRAM + 1)];
    for (
      const [args, code, says] of [
        [long, 1, `${HERE}:1060: message too long`],
        [["send"], 2, "send needs a MESSAGE (--help tells more)"],
        [["listen", "x"], 2, "listen takes no MESSAGE (--help tells more)"],
        [["shout", "x"], 2, "shout is none of listen, send (--help tells more)"],
        [["send", "x", "-p", "0"], 2, "--port: nobody listens at 0 (--help tells more)"],
        [
          ["send", "x", "--to", "::1"],
          2,
          "--to: ::1 is not an IPv4 address (IPv6 has no broadcast) (--help tells more)",
        ],
      ] as const
    ) {
      const result = await run("broadcast", [...args]);
      assertEquals(result, { code, stdout: "", stderr: `broadcast: ${says}\n` });
    }
  },
});
