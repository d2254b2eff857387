/** What the tests of the scripts share: a certificate, rude servers, a terminal to type at. */
import { FramedConn } from "../../lib/framing.ts";
import { command, Program } from "../helpers.ts";

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

/**
 * Starts a script of ours at a terminal of 80 columns, which is what `type` types at and `stdout`
 * shows. At the end it shows the exit code and the state that the terminal was left in.
 */
export function startOnTerminal(name: string, args: string[]): Program {
  const bridge = "import pty, sys; pty.spawn(sys.argv[1:])";
  // Ctrl-C goes to the shell as well, which must not die of it.
  const shell = 'trap : INT; stty rows 24 cols 80; "$@"; echo "exit $?"; stty -a';
  const argv = [...command(name), ...args];
  return new Program(["python3", "-c", bridge, "sh", "-c", shell, "sh", ...argv]);
}

/** What a terminal of 80 columns shows after `output`, without the blank rest of lines. */
export function screen(output: string): string[] {
  const lines: string[][] = [[]];
  let [row, column] = [0, 0];
  // deno-lint-ignore no-control-regex
  for (const [token, digits, final] of output.matchAll(/\x1b\[\??([\d;]*)([A-Za-z])|[^]/gu)) {
    const n = parseInt(digits) || 1;
    if (final === "A") row = Math.max(0, row - n);
    else if (final === "B") row += n;
    else if (final === "C") column += n;
    else if (final === "D") column = Math.max(0, column - n);
    else if (final === "G") column = n - 1;
    else if (final === "K" || final === "J") {
      lines[row].splice(column);
      if (final === "J") lines.splice(row + 1);
    } else if (final) continue; // colours and modes
    else if (token === "\r") column = 0;
    else if (token === "\n") row++;
    else {
      if (column === 80) [row, column] = [row + 1, 0];
      (lines[row] ??= [])[column++] = token;
    }
    while (lines.length <= row) lines.push([]);
  }
  return lines.map((line) => Array.from(line, (letter) => letter ?? " ").join("").trimEnd());
}
