import { assert, assertEquals, assertMatch } from "@std/assert";
import * as client from "../../scripts/telnet_client.ts";
import { command, missing, Program, start, temporaryFolder } from "../helpers.ts";
import { latin1, octets } from "../lib/wire.ts";
import { assertLeft, startOnWindow } from "../scripts/rig.ts";
import { dial, eventually, finish, output, python } from "./peers.ts";

const ALL = Uint8Array.from({ length: 256 }, (_, i) => i);

/** A program in a window, and how to type there and wait for what it then shows. */
async function atTerminal(argv: string[]) {
  const { program, resize } = await startOnWindow(argv);
  async function types(keys: string, shows: RegExp): Promise<RegExpExecArray> {
    program.stdout = "";
    await program.type(keys);
    return await program.until(shows);
  }
  return { program, resize, types };
}

Deno.test({
  name: "Debian's telnet on telnet_server: keys, Ctrl-C, the window, AYT, lines, and Ctrl-D",
  ignore: missing("python3", "telnet"),
  async fn() {
    await using server = start("telnet_server", ["--port", "0"]);
    const { program, types, resize } = await atTerminal([
      ...["telnet", "127.0.0.1"],
      `${await server.port()}`,
    ]);
    await using _ = program;
    await program.until(/\n> $/);
    const escape = async (line: string, shows: RegExp) => {
      await types("\x1d", /telnet> $/);
      return await types(`${line}\r`, shows);
    };
    await eventually("the server knows the terminal", async () => {
      const [, size] = await types("size\r", /size\r+\n(.*)\r\n> $/);
      return size === "80 columns, 24 rows; VT220";
    });
    await types("echo wrong\x7f\x7f\x7f\x7f\x7fright\r", /wrong(. .){5}right\r+\nright\r+\n> $/);
    await types("nonsense\x15date\r", /date\r+\n.* GMT\r+\n> $/);
    await types("nonsense\x03", /\^C\r+\n> $/);
    await resize(132, 50);
    await eventually("the server is told of the window", async () => {
      const [, size] = await types("size\r", /size\r+\n(.*)\r\n> $/);
      return size === "132 columns, 50 rows; VT220";
    });
    await escape("send ayt", /\[yes\]\r+\n$/);
    // Its user may want lines, which it edits and shows; then a Ctrl-C comes as IP and DO TIMING-MARK.
    await escape("mode line", /mode line\r+\n$/);
    await types("dste\x7f\x7f\x7fate\r", /.* GMT\r+\n> $/);
    await types("nonsense\x03", /\^C[^]*> $/);
    await types("echo back\r", /\r+\nback\r+\n> $/);
    await escape("mode character", /mode character\r+\n$/);
    await types("echo keys\r", /echo keys\r+\nkeys\r+\n> $/);
    await types("\x04", /bye\r+\nConnection closed by foreign host/);
    await assertLeft(program, 0);
  },
});

/** Starts telnetd for one connection, with a program in place of login. */
async function telnetd(program: string): Promise<Program & { address: number }> {
  const server = new Program(python("telnet.py", "inetd", program));
  return Object.assign(server, { address: await server.port() });
}

Deno.test({
  name: "telnet_client on telnetd: a shell, its window, Ctrl-C, Ctrl-D, and its end",
  ignore: missing("python3", "telnetd"),
  async fn() {
    await using server = await telnetd("/bin/sh");
    const argv = command("telnet_client", ["--allow-env=TERM"]);
    const { program, types, resize } = await atTerminal([...argv, "--port", `${server.address}`]);
    await using _ = program;
    await program.until(/[#$] $/);
    await types("echo $TERM; stty size\r", /size\r+\nvt220\r+\n24 80\r+\n[#$] $/);
    await resize(255, 50);
    await eventually("the shell's terminal is as large", async () => {
      const [, size] = await types("stty size\r", /stty size\r+\n(.*)\r+\n[#$] $/);
      return size === "50 255";
    });
    for (const keys of ["\x03", "\x04"]) {
      await types("cat\r", /cat\r+\n/);
      await types("line\r", /line\r+\nline\r+\n/);
      await types(keys, /[#$] $/);
    }
    // In a flood it comes with urgent data, behind which Deno sees nothing until more is sent.
    await types("yes\r", /(y\r+\n){10000}/);
    await types("\x03", /\^C[^]*[#$] $/);
    await types("\x1d", /telnet> $/);
    await types("\r", /\n$/);
    await types("exit\r", /telnet_client: the server has ended it\r+\n/);
    await assertLeft(program, 0);
  },
});

Deno.test({
  name: "telnet_client on telnetd: quit at the prompt of Ctrl-], and lines from a pipe",
  ignore: missing("python3", "telnetd"),
  async fn() {
    await using server = await telnetd("/bin/sh");
    const { program, types } = await atTerminal([
      ...command("telnet_client"),
      ...["127.0.0.1", `${server.address}`],
    ]);
    await using _ = program;
    await program.until(/[#$] $/);
    await types("\x1d", /telnet> $/);
    await program.type("quit\r");
    await assertLeft(program, 0);

    await using other = await telnetd("/bin/sh");
    const argv = [...command("telnet_client"), "127.0.0.1", `${other.address}`];
    // It sleeps, as telnetd throws away what a program says when it ends.
    const stdin = "expr 6 \\* 7\nsleep 0.5\nexit\n";
    const { code, stdout, stderr } = await finish(argv, { stdin });
    assertEquals([code, stderr], [0, ""]);
    assertMatch(stdout, /\b42\r\n/);
  },
});

Deno.test({
  name: "every octet goes through telnetd and comes back",
  ignore: missing("python3", "telnetd"),
  async fn() {
    await using folder = await temporaryFolder();
    const path = `${folder.path}/octets`;
    // It waits for a line first, as telnetd sets the terminal anew for each option agreed to, and for
    // an octet at last, as telnetd throws away what a program says when it ends.
    const script = "#!/bin/sh\nread line\nstty raw -echo\nprintf ready\nhead -c 256; head -c 1\n";
    await Deno.writeTextFile(path, script, { mode: 0o755 });
    await using server = await telnetd(path);
    using conn = await dial(server.address);
    const size = () => ({ columns: 80, rows: 24 });
    const telnet = new client.Telnet(conn, { type: "vt220", size });
    let text = "";
    async function until(so: () => boolean): Promise<void> {
      for (let data; !so() && (data = await telnet.read()) !== null;) text += latin1(data);
    }
    await until(() => telnet.echoes);
    await telnet.write(octets("\r"));
    await until(() => text.endsWith("ready"));
    text = "";
    await telnet.write(ALL);
    await until(() => text.length >= 256);
    assertEquals(text, latin1(ALL));
    await telnet.write(octets("."));
    await until(() => false);
  },
});

Deno.test({
  name: "Python's telnetlib on telnet_server",
  ignore: missing("python3"),
  async fn() {
    await using server = start("telnet_server", ["--port", "0"]);
    const text = await output(python("telnet.py", "client", await server.port()));
    const [printing, iac, urgent, quit] = text.split("\n");
    assertMatch(printing, /^True /);
    assertEquals(iac, "False b'a\\xef\\xbf\\xbdb'"); // no UTF-8, and said to be none
    assertEquals(urgent, "b'urgent\\r\\n> '");
    assertEquals(quit, "b'bye\\r\\n'");
  },
});

Deno.test({
  name: "nc on telnet_server: a plain terminal, and one that refuses all options (-t)",
  ignore: missing("nc"),
  async fn() {
    await using server = start("telnet_server", ["--port", "0"]);
    const port = `${await server.port()}`;
    for (const flags of [["-N"], ["-N", "-t"]]) {
      const argv = ["nc", ...flags, "127.0.0.1", port];
      const { code, stdout } = await finish(argv, { stdin: "echo hello\nsize\nquit\n" });
      assertEquals(code, 0);
      assert(stdout.endsWith("> hello\r\n> size unknown; type unknown\r\n> bye\r\n"), stdout);
    }
    // A person's: lines when they come, the end by Ctrl-D, which is a half-close.
    await using nc = new Program(["nc", "-N", "127.0.0.1", port]);
    for (const text of ["one", "two"]) {
      await nc.until(/> $/);
      nc.stdout = "";
      await nc.type(`echo ${text}\n`);
      await nc.until(new RegExp(`^${text}\r\n> $`));
    }
    await nc.endInput();
    assertEquals((await nc.ended()).code, 0);
  },
});
