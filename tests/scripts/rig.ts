/** What the tests of the scripts share: a certificate, rude servers, a terminal to type at. */
import { assertEquals, assertMatch } from "@std/assert";
import { FramedConn } from "../../lib/framing.ts";
import { command, Program, start } from "../helpers.ts";

/** What a program of ours needs besides for Unix sockets and certificates. */
export const FILES = ["--allow-read", "--allow-write"];

/** Makes a certificate for `localhost`, its own root, in `folder`. */
export async function certificate(folder: string): Promise<{ cert: string; key: string }> {
  const [cert, key] = [`${folder}/cert.pem`, `${folder}/key.pem`];
  const { code, stderr } = await new Deno.Command("openssl", {
    args: [
      ..."req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2".split(" "),
      ..."-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1".split(" "),
      ..."-addext basicConstraints=critical,CA:FALSE -keyout".split(" "),
      ...[key, "-out", cert],
    ],
  }).output();
  if (code !== 0) throw new Error(new TextDecoder().decode(stderr));
  return { cert, key };
}

/** The forms that the common flags give a TCP server, each with its flags and its client's. */
export async function forms(
  folder: string,
): Promise<[form: string, listen: string[], ask: string[]][]> {
  const { cert, key } = await certificate(folder);
  const unix = ["--unix", `${folder}/socket`];
  return [
    ["plain", [], []],
    ["IPv6", ["--host", "::1"], ["--host", "::1"]],
    ["Unix", unix, unix],
    ["TLS", ["--cert", cert, "--key", key], ["--tls", "--ca", cert]],
  ];
}

/**
 * Starts a TCP server of ours in each of its forms, in turn. Goes with the arguments by which its
 * client finds it.
 */
export async function* inEachForm(
  name: string,
  folder: string,
  args: string[] = [],
): AsyncGenerator<{ form: string; server: Program; ask: string[] }> {
  for (const [form, listen, ask] of await forms(folder)) {
    await using server = start(name, ["--port", "0", ...listen, ...args], FILES);
    const [, port] = await server.until(/listening on .*?:(\d+|\/.*)\n/, "stderr");
    yield { form, server, ask: form === "Unix" ? [...ask] : ["--port", port, ...ask] };
  }
}

/** A server in this process that does `behave` to each connection, and then closes it. */
export function testServer(
  behave: (conn: FramedConn) => Promise<unknown> | void,
): AsyncDisposable & { port: number } {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const open = new Set<FramedConn>();
  async function converse(conn: FramedConn): Promise<void> {
    open.add(conn);
    try {
      await behave(conn);
    } catch {
      // The client has left, which is what some are tested for.
    }
    conn.close();
    open.delete(conn);
  }
  const accepting = (async () => {
    for await (const conn of listener) converse(new FramedConn(conn));
  })();
  return {
    port: listener.addr.port,
    async [Symbol.asyncDispose]() {
      listener.close();
      for (const conn of open) conn.close();
      await accepting;
    },
  };
}

/** Starts the listener of a script that takes datagrams for many; with its port. */
export async function listener(
  name: string,
  ...args: string[]
): Promise<{ program: Program; port: number }> {
  const program = start(name, ["listen", "--port", "0", ...args]);
  return { program, port: await program.port() };
}

/** Ends such a listener with Ctrl-C; returns what it printed, its senders' ports left out. */
export async function heard(program: Program): Promise<string> {
  program.signal("SIGINT");
  const { code, stdout, stderr } = await program.ended();
  assertEquals([code, stderr.split("\n").length], [0, 2], stderr);
  return stdout.replaceAll(/^(\S+):\d+: /gm, "$1: ");
}

/**
 * Starts a script of ours at a terminal of 80 columns, which is what `type` types at and `stdout`
 * shows. At the end it shows the exit code and the state that the terminal was left in.
 */
export function startOnTerminal(name: string, args: string[]): Program {
  return onTerminal([...command(name), ...args]);
}

/** The same for any program. */
export function onTerminal(argv: string[]): Program {
  const bridge = "import pty, sys; pty.spawn(sys.argv[1:])";
  // Ctrl-C goes to the shell as well, which must not die of it.
  const shell = 'trap : INT; stty rows 24 cols 80; "$@"; echo "exit $?"; stty -a';
  return new Program(["python3", "-c", bridge, "sh", "-c", shell, "sh", ...argv]);
}

/** Starts any program at such a terminal, of the type vt220, whose size can be changed. */
export async function startOnWindow(argv: string[]): Promise<{
  program: Program;
  pid: number; // of the program itself
  resize: (columns: number, rows: number) => Promise<void>;
}> {
  const shell = 'echo "$$ at $(tty)"; exec env TERM=vt220 "$@"';
  const program = onTerminal(["sh", "-c", shell, "sh", ...argv]);
  const [, pid, tty] = await program.until(/(\d+) at (\S+)\r\n/);
  async function resize(columns: number, rows: number): Promise<void> {
    const args = ["-F", tty, "cols", `${columns}`, "rows", `${rows}`];
    assertEquals((await new Deno.Command("stty", { args }).output()).code, 0);
  }
  return { program, pid: Number(pid), resize };
}

/** It ended with `code`, and left a terminal that shows what is typed, a line at a time. */
export async function assertLeft(program: Program, code: number): Promise<void> {
  const { stdout } = await program.ended();
  assertMatch(stdout, new RegExp(`exit ${code}\\r\\n`));
  for (const mode of ["icanon", "echo", "isig", "icrnl"]) {
    assertMatch(stdout, new RegExp(`\\s${mode}\\s`), mode);
  }
}
