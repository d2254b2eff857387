/** What the tests share: programs started as a person would, and loopback connections. */
import { fromFileUrl } from "@std/path";
import { FramedConn, type FramedConnOptions } from "../lib/framing.ts";

const granted = (name: "env" | "net" | "read" | "run" | "write") =>
  Deno.permissions.querySync({ name }).state === "granted";
/** Plain `deno test` has no permissions: what needs them is ignored there, not failed. */
export const mayConnect = granted("net");
/** Whether tests may start programs, which needs the rest as well. */
export const mayRun = mayConnect && granted("env") && granted("read") && granted("run") &&
  granted("write");

// Deno asks now and then whether there is a newer one, and tests send nothing off this machine.
if (mayRun) {
  Deno.env.set("DENO_NO_UPDATE_CHECK", "1");
  Deno.env.set("NO_PROXY", "127.0.0.1,localhost,::1");
}

/** The path of a script of ours. */
export function scriptPath(name: string): string {
  return fromFileUrl(new URL(`../scripts/${name}.ts`, import.meta.url));
}

/** The command that a script's first line gives, for whatever `deno` runs the tests. */
export function command(name: string, permissions: string[] = []): string[] {
  const [first] = Deno.readTextFileSync(scriptPath(name)).split("\n");
  const own = /^#!\/usr\/bin\/env -S deno run(.*)$/.exec(first)?.[1].split(" ").slice(1);
  if (!own) throw new Error(`${name}: no "deno run" in the first line`);
  return [Deno.execPath(), "run", "--no-prompt", ...own, ...permissions, scriptPath(name)];
}

/** What a finished program left. */
export type Result = { code: number; stdout: string; stderr: string };

/** A program under way. Leaving the block of its `await using` kills it. */
export class Program {
  /** What it has said so far. */
  stdout = "";
  /** What it has said so far about it. */
  stderr = "";
  readonly #child: Deno.ChildProcess;
  readonly #stdin: WritableStreamDefaultWriter<Uint8Array>;
  readonly #ended: Promise<Result>;
  #heard = Promise.withResolvers<void>();

  /** Starts `argv`. */
  constructor(argv: string[], options: { cwd?: string; env?: Record<string, string> } = {}) {
    const piped = { stdin: "piped", stdout: "piped", stderr: "piped" } as const;
    const env = { NO_COLOR: "1", ...options.env };
    const command = new Deno.Command(argv[0], { args: argv.slice(1), ...piped, ...options, env });
    this.#child = command.spawn();
    this.#stdin = this.#child.stdin.getWriter();
    this.#ended = this.#follow();
  }

  async #follow(): Promise<Result> {
    const hear = async (stream: ReadableStream<Uint8Array>, name: "stdout" | "stderr") => {
      for await (const text of stream.pipeThrough(new TextDecoderStream() as never)) {
        this[name] += text;
        this.#heard.resolve();
        this.#heard = Promise.withResolvers();
      }
    };
    const { stdout, stderr } = this.#child;
    const [status] = await Promise.all([
      this.#child.status,
      hear(stdout, "stdout"),
      hear(stderr, "stderr"),
    ]);
    this.#heard.reject(new Error("the program has ended"));
    this.#heard.promise.catch(() => {});
    return { code: status.code, stdout: this.stdout, stderr: this.stderr };
  }

  /** The process's number. */
  get pid(): number {
    return this.#child.pid;
  }

  /** Waits until `stream` matches, and returns the match; throws if the program ends before. */
  async until(pattern: RegExp, stream: "stdout" | "stderr" = "stdout"): Promise<RegExpExecArray> {
    const late = setTimeout(() => this.signal("SIGKILL"), 20_000);
    try {
      for (;;) {
        const match = pattern.exec(this[stream]);
        if (match) return match;
        await this.#heard.promise;
      }
    } catch {
      throw new Error(`no ${pattern} in ${stream}:\n${this.stdout}\n${this.stderr}`);
    } finally {
      clearTimeout(late);
    }
  }

  /** Waits until a server says that it listens, and returns the port. */
  async port(): Promise<number> {
    return Number((await this.until(/listening on .*:(\d+)/, "stderr"))[1]);
  }

  /** Types. */
  async type(text: string): Promise<void> {
    await this.#stdin.write(new TextEncoder().encode(text));
  }

  /** Ends stdin, as Ctrl-D does. */
  async endInput(): Promise<void> {
    await this.#stdin.close().catch(() => {});
  }

  /** Sends it a signal. */
  signal(signal: Deno.Signal): void {
    try {
      this.#child.kill(signal);
    } catch {
      // It has ended already.
    }
  }

  /** Waits until it ends, at most 20 s. */
  async ended(): Promise<Result> {
    const late = setTimeout(() => this.signal("SIGKILL"), 20_000);
    return await this.#ended.finally(() => clearTimeout(late));
  }

  /** Kills it. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.signal("SIGKILL");
    await this.endInput();
    await this.#ended;
  }
}

/** Starts a script of ours with the permissions its first line names, and further ones. */
export function start(name: string, args: string[] = [], permissions: string[] = []): Program {
  return new Program([...command(name, permissions), ...args]);
}

/** Runs a script of ours to its end. */
export async function run(
  name: string,
  args: string[] = [],
  options: { stdin?: string; permissions?: string[]; cwd?: string } = {},
): Promise<Result> {
  await using program = new Program([...command(name, options.permissions), ...args], {
    cwd: options.cwd,
  });
  if (options.stdin) await program.type(options.stdin).catch(() => {}); // it may not want it
  await program.endInput();
  return await program.ended();
}

/** Two ends of a connection on the loopback interface. */
export async function pair(options: FramedConnOptions = {}): Promise<{
  near: FramedConn;
  far: Deno.TcpConn;
}> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const [far, near] = await Promise.all([
    Deno.connect({ hostname: "127.0.0.1", port: listener.addr.port }),
    listener.accept(),
  ]);
  far.setNoDelay();
  return { near: new FramedConn(near, options), far };
}

/** A folder for one test, removed after it. */
export async function temporaryFolder(): Promise<AsyncDisposable & { path: string }> {
  const path = await Deno.makeTempDir();
  return { path, [Symbol.asyncDispose]: () => Deno.remove(path, { recursive: true }) };
}

/** The programs that others wrote and CI must have; elsewhere a test without its peer is ignored. */
export function missing(...programs: string[]): boolean {
  if (!mayRun) return true;
  const path = (Deno.env.get("PATH") ?? "").split(":");
  const absent = programs.filter((program) =>
    !path.some((folder) => isFile(`${folder}/${program}`))
  );
  if (absent.length > 0 && Deno.env.get("REQUIRE_PEERS") === "1") {
    throw new Error(`not installed: ${absent.join(", ")}`);
  }
  return absent.length > 0;
}

function isFile(path: string): boolean {
  try {
    return Deno.statSync(path).isFile;
  } catch {
    return false;
  }
}

/** What a terminal shows after `output`, without the blank rest of lines. */
export function screen(output: string, columns = 80): string[] {
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
      if (column === columns) [row, column] = [row + 1, 0];
      (lines[row] ??= [])[column++] = token;
    }
    while (lines.length <= row) lines.push([]);
  }
  return lines.map((line) => Array.from(line, (letter) => letter ?? " ").join("").trimEnd());
}
