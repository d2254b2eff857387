import { assertEquals, assertRejects } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { joinGroup, send } from "../../scripts/multicast.ts";
import { mayConnect, mayRun, run, start } from "../helpers.ts";
import { heard, listener } from "./rig.ts";

const GROUP = "239.255.50.7"; // and 127.0.0.1 for the interface: nothing leaves this machine
const MAX_DATAGRAM = 65507; // what IPv4 and UDP leave of 65,535

Deno.test({
  name: "multicast send is heard by each listener of the group, and by none of another",
  ignore: !mayRun,
  async fn() {
    const one = await listener("multicast");
    await using _one = one.program;
    const port = `${one.port}`;
    await using two = start("multicast", ["listen", "--port", port]);
    await using other = start("multicast", ["listen", "--port", port, "--group", "239.255.50.8"]);
    await two.until(new RegExp(`^multicast: listening on ${GROUP}:${port} \\(udp\\)\n$`), "stderr");
    await other.port();
    for (const [text, size] of [["hello", 5], ["", 0], ["grüße", 7], ["--x", 3]] as const) {
      const args = ["--port", port, "--ttl", "0", "send", "--", text];
      const stderr = `multicast: ${size} bytes sent to ${GROUP}:${port}\n`;
      assertEquals(await run("multicast", args), { code: 0, stdout: "", stderr });
      await one.program.until(new RegExp(`: ${text}\n$`));
      await two.until(new RegExp(`: ${text}\n$`));
    }
    const there = ["--port", port, "--ttl", "0", "--group", "239.255.50.8", "--trace"];
    const { stderr } = await run("multicast", ["send", "to others", ...there]);
    assertEquals(
      stderr,
      `> 239.255.50.8:${port} to others\nmulticast: 9 bytes sent to 239.255.50.8:${port}\n`,
    );
    await other.until(/to others\n/);
    const lines = ["hello", "", "grüße", "--x"].map((text) => `127.0.0.1: ${text}\n`);
    assertEquals(await heard(one.program), lines.join(""));
    assertEquals(await heard(two), lines.join(""));
    assertEquals(await heard(other), "127.0.0.1: to others\n");
  },
});

Deno.test({
  name: "multicast listen prints any datagram on one line, escaped, and each of many",
  ignore: !mayRun,
  async fn() {
    const { program, port } = await listener("multicast");
    await using _ = program;
    const to = { group: GROUP, interface: "127.0.0.1", port, ttl: 0 };
    assertEquals(await send("", to), 0);
    assertEquals(await send("a\x1b[31mb\r\nc\0\u202e", to), 14);
    assertEquals(await send("x".repeat(MAX_DATAGRAM), to), MAX_DATAGRAM);
    const lines = ["", "a\\x1b[31mb\\r\\nc\\x00\\u202e", "x".repeat(MAX_DATAGRAM)];
    for (let i = 0; i < 50; i++) {
      await send(`number ${i}`, to);
      lines.push(`number ${i}`);
    }
    await program.until(new RegExp(`^(.*\n){${lines.length}}$`));
    // Several are received at once: their order is not promised.
    const printed = (await heard(program)).trimEnd().split("\n");
    assertEquals(printed.sort(), lines.map((line) => `127.0.0.1: ${line}`).sort());
  },
});

Deno.test({
  name: "joinGroup hears the group and not what comes to the port otherwise",
  ignore: !mayConnect,
  async fn() {
    const group = { group: GROUP, interface: "127.0.0.1", port: 0 };
    const socket = await joinGroup(group);
    const { port } = socket.addr as Deno.NetAddr;
    const data = new TextEncoder().encode("not to the group");
    await socket.send(data, { transport: "udp", hostname: "127.0.0.1", port });
    await send("to the group", { ...group, port, ttl: 0 });
    const [first] = await deadline(socket.receive(), 10_000);
    assertEquals(new TextDecoder().decode(first), "to the group");
    socket.close();

    // An address that is not this machine's is no interface of it.
    const nowhere = { ...group, interface: "198.51.100.77", port };
    const says = `${GROUP}:${port} on interface 198.51.100.77: `;
    await assertRejects(() => joinGroup(nowhere), Error, says);
    await assertRejects(() => send("", nowhere), Error, says);
    // No socket is left: one that shares the port with nobody can have it.
    Deno.listenDatagram({ transport: "udp", hostname: GROUP, port }).close();
    const nothing = { group: "ff12::5007", interface: "999999", port: 0 };
    await assertRejects(() => joinGroup(nothing), Error, "[ff12::5007]:0 on interface 999999: ");
    await assertRejects(() => send("", nothing), Error, "[ff12::5007]:0 on interface 999999: ");
  },
});

Deno.test({
  name: "multicast listen hears --allow-from only",
  ignore: !mayRun,
  async fn() {
    const { program, port } = await listener("multicast", "--allow-from", "127.0.0.9");
    await using _ = program;
    for (const via of ["127.0.0.1", "127.0.0.9"]) {
      await send(`from ${via}`, { group: GROUP, interface: via, port, ttl: 0 });
    }
    await program.until(/127\.0\.0\.9\n/);
    assertEquals(await heard(program), "127.0.0.9: from 127.0.0.9\n");
  },
});

Deno.test({
  name: "multicast says in one line what cannot be sent, and what cannot be meant",
  ignore: !mayRun,
  async fn() {
    const v6 = ["send", "x", "--group", "ff12::5007"];
    const noGroup = "is not a multicast address (224.0.0.0/4, ff00::/8)";
    const noNumber = "is not a number, as IPv6 needs (see ip link)";
    await Promise.all(([
      [["send", "--ttl", "0", "x".repeat(MAX_DATAGRAM + 1)], 1, `${GROUP}:5007: message too long`],
      [["send"], 2, "send needs a MESSAGE"],
      [["listen", "x"], 2, "listen takes no MESSAGE"],
      [["shout", "x"], 2, "shout is none of listen, send"],
      [["send", "x", "-p", "0"], 2, "--port: nobody listens at 0"],
      [["send", "x", "--ttl", "256"], 2, "--ttl: 256 is not a whole number from 0 to 255"],
      [["send", "x", "--interface", "1"], 2, "--interface: 1 is not an IPv4 address"],
      [v6, 2, `--interface: 127.0.0.1 ${noNumber}`],
      [[...v6, "--interface", "lo"], 2, `--interface: lo ${noNumber}`],
      [[...v6, "--interface", "1", "--ttl", "1"], 2, "--ttl: for IPv6 it is always 1"],
      ...["127.255.255.255", "223.255.255.255", "240.0.0.1", "ff::1", "fe80::1", "ff12::1%lo", "x"]
        .map((group) => [["send", "x", "--group", group], 2, `--group: ${group} ${noGroup}`]),
    ] as [args: string[], code: number, says: string][]).map(async ([args, code, says]) => {
      const result = await run("multicast", args);
      assertEquals(result.stderr.split(/ \(--help|, as Deno|\n/)[0], `multicast: ${says}`);
      assertEquals([result.code, result.stdout], [code, ""]);
    }));
  },
});
