/** Broadcast and multicast, Python's sockets on the other side. */
import { assertEquals, assertMatch } from "@std/assert";
import { command, missing, Program, start } from "../helpers.ts";
import { finish, output, python } from "./peers.ts";

/** Starts a listener in Python on a free port; with its port. */
async function listen(...args: string[]): Promise<{ theirs: Program; port: string }> {
  const theirs = new Program(python("cast.py", "listen", ...args, 0));
  return { theirs, port: `${await theirs.port()}` };
}

/** What a Python listener says that it heard. */
const heard = (theirs: Program, line: string) =>
  theirs.until(new RegExp(`^${line.replaceAll(/[.()]/g, "\\$&")}$`, "m"));

Deno.test({
  name: "broadcast: Python hears ours, and ours hears Python",
  ignore: missing("python3"),
  async fn() {
    const HERE = "127.255.255.255";
    const { theirs, port } = await listen(HERE, "-");
    await using _ = theirs;
    await using ours = start("broadcast", ["listen", "--port", "0"]);
    const ourPort = `${await ours.port()}`;

    const send = [...command("broadcast"), "send", "--to", HERE, "--port"];
    for (const [text, size] of [["hello", 5], ["grüße", 7], ["", 0]] as const) {
      assertEquals(await finish([...send, port, text]), {
        code: 0,
        stdout: "",
        stderr: `broadcast: ${size} bytes sent to ${HERE}:${port}\n`,
      });
      await heard(theirs, `from 127.0.0.1 TTL 64: ${text} (${size})`);
    }
    const from = await output(python("cast.py", "send", HERE, "-", ourPort, 1, "grüße\x07"));
    await ours.until(new RegExp(`^127\\.0\\.0\\.1:${from.trim()}: grüße\\\\x07\n$`));
  },
});

Deno.test({
  name: "multicast: Python hears ours with the TTL it was given, and ours hears Python",
  ignore: missing("python3"),
  async fn() {
    const [GROUP, LOOPBACK] = ["239.255.50.7", "127.0.0.1"];
    const { theirs, port } = await listen(GROUP, LOOPBACK);
    await using _ = theirs;
    // All three listen at the same port of this machine, the last one to another group.
    await using ours = start("multicast", ["listen", "--port", port]);
    const other = ["listen", "--port", port, "--group", "239.255.50.8"];
    await using others = start("multicast", other);
    await Promise.all([ours.port(), others.port()]);

    const send = [...command("multicast"), "send", "--port", port];
    for (
      const [text, ttl, args] of [
        ["here", 0, ["--ttl", "0"]],
        ["grüße", 1, []],
        ["far", 255, ["--ttl", "255"]],
        ["", 32, ["--ttl", "32"]],
      ] as const
    ) {
      const size = new TextEncoder().encode(text).length;
      assertEquals(await finish([...send, text, ...args]), {
        code: 0,
        stdout: "",
        stderr: `multicast: ${size} bytes sent to ${GROUP}:${port}\n`,
      });
      await heard(theirs, `from 127.0.0.1 TTL ${ttl}: ${text} (${size})`);
      await ours.until(new RegExp(`^127\\.0\\.0\\.1:\\d+: ${text}$`, "m"));
    }
    const to = (group: string, text: string) =>
      output(python("cast.py", "send", group, LOOPBACK, port, 0, text));
    const from = await to(GROUP, "from Python\n");
    await ours.until(new RegExp(`^127\\.0\\.0\\.1:${from.trim()}: from Python\\\\n$`, "m"));
    await heard(theirs, "from 127.0.0.1 TTL 0: from Python");
    await to("239.255.50.8", "to the others");
    await others.until(/^127\.0\.0\.1:\d+: to the others\n$/);
  },
});

/** A network namespace: interfaces of its own, from which nothing leads out. */
async function namespace(): Promise<
  AsyncDisposable & { inside: string[]; ip: (line: string) => Promise<string> }
> {
  const name = `cast-${Deno.pid}`;
  await output(["ip", "netns", "add", name]);
  return {
    inside: ["ip", "netns", "exec", name],
    ip: (line) => output(["ip", "-n", name, ...line.split(" ")]),
    [Symbol.asyncDispose]: async () => void await output(["ip", "netns", "del", name]),
  };
}

/** Whether one can be made, which a container's root may not do either. */
function mayMakeNamespace(): boolean {
  if (missing("ip", "python3") || Deno.uid() !== 0) return false;
  const ip = (...args: string[]) => new Deno.Command("ip", { args }).outputSync().success;
  const name = `cast-try-${Deno.pid}`;
  return ip("netns", "add", name) && ip("netns", "del", name);
}

Deno.test({
  name:
    "multicast over IPv6: Python hears ours by the interface it was given, and ours hears Python",
  ignore: !mayMakeNamespace(),
  async fn() {
    await using net = await namespace();
    // Two interfaces, each the far end of the other.
    await net.ip("link add near type veth peer name far");
    for (const [link, address] of [["far", "fe80::2"], ["near", "fe80::1"]]) {
      await net.ip(`link set ${link} addrgenmode none up`);
      // Without nodad an address cannot be used for its first seconds.
      await net.ip(`addr add ${address}/64 dev ${link} nodad`);
    }
    const within = (argv: string[]) => new Program([...net.inside, ...argv]);
    // The scope of ff15 is larger than a link, so that its datagrams could go by any.
    for (const group of ["ff12::5007", "ff15::5007"]) {
      for (const [link, address] of [["near", "fe80::1"], ["far", "fe80::2"]]) {
        const [number] = (await net.ip(`-o link show ${link}`)).split(":");
        await using theirs = within(python("cast.py", "listen", group, link, 0));
        const port = `${await theirs.port()}`;
        const args = ["--group", group, "--interface", number, "--port", port];
        await using ours = within([...command("multicast"), "listen", ...args]);
        await ours.until(
          new RegExp(`: listening on \\[${group}\\]:${port} \\(udp\\)\n$`),
          "stderr",
        );

        const send = [...net.inside, ...command("multicast"), "send", "hello", ...args];
        const stderr = `multicast: 5 bytes sent to [${group}]:${port}\n`;
        assertEquals(await finish(send), { code: 0, stdout: "", stderr });
        await heard(theirs, `from ${address} TTL 1: hello (5)`);
        await ours.until(new RegExp(`^\\[${address}\\]:\\d+: hello$`, "m"));

        const theirSend = python("cast.py", "send", group, link, port, 0, "from Python\x1b");
        const from = (await output([...net.inside, ...theirSend])).trim();
        await ours.until(new RegExp(`^\\[${address}\\]:${from}: from Python\\\\x1b$`, "m"));
        ours.signal("SIGINT");
        assertEquals((await ours.ended()).code, 0);
      }
    }
  },
});

Deno.test({
  name: "broadcast and multicast say that nothing leads to a network",
  ignore: !mayMakeNamespace(),
  async fn() {
    await using net = await namespace();
    const fails = async (name: string, ...args: string[]) => {
      const { code, stderr } = await finish([
        ...net.inside,
        ...command(name),
        "send",
        "x",
        ...args,
      ]);
      assertMatch(stderr, new RegExp(`^${name}: \\S+: network is unreachable\n$`));
      assertEquals(code, 1);
    };
    await fails("broadcast", "--to", "127.255.255.255"); // the loopback interface is down
    await net.ip("link set lo up");
    const v6 = ["--group", "ff15::5007", "--interface", "1"];
    await fails("multicast", ...v6);

    await net.ip("-6 route add local ff00::/8 dev lo"); // which the script's header gives
    const listen = [...net.inside, ...command("multicast"), "listen", "--port", "0", ...v6];
    await using ours = new Program(listen);
    const args = ["send", "hello", "--port", `${await ours.port()}`, ...v6];
    await output([...net.inside, ...command("multicast"), ...args]);
    await ours.until(/^\[::1\]:\d+: hello\n$/);
  },
});
