/**
 * The command line that all scripts share: flags and `--help`, exit codes and one-line errors,
 * Ctrl-C, lines from the terminal, the progress bar.
 *
 * @module
 */
import * as process from "node:process";
import * as readline from "node:readline";
import { isIP } from "node:net";
import { Writable } from "node:stream";
import { parseArgs } from "@std/cli/parse-args";
import { format } from "@std/fmt/bytes";
import {
  at,
  type Endpoint,
  formatAddress,
  parseAccessList,
  parseAddress,
  reason,
  UsageError,
} from "./address.ts";
import { type FramedConnOptions, printable, writeAll } from "./framing.ts";
import type { ServeOptions } from "./server.ts";

/** A flag: `--max-connections` for the key `maxConnections`. */
export type Flag<T> = {
  argument?: string; // what the help calls its argument; none: it is given or not
  help: string;
  parse: (given: string[]) => T; // the value of its arguments in order; of none the default
};

/** Makes a value of a flag's argument; throws a {@linkcode UsageError} if that is wrong. */
export type Read<T> = (text: string) => T;

/** Flags for the values of `V`. */
export type Flags<V> = { [K in keyof V]-?: Flag<V[K]> };

/** A program as its `--help` shows it. */
export type Program<V> = {
  name: string; // the script's, without `.ts`; it starts each line that the program says
  about: string;
  usage?: string; // its arguments: `PATH` must be given, `[NAME]` may; `NAME...`: one or more, last
  permissions: string; // Deno's flags for the least it runs with, which may be none
  flags: Flags<V>;
};

/** A flag with an argument; `fallback`, as somebody would type it, is its default. */
export function flag<T>(argument: string, help: string, read: Read<T>, fallback: string): Flag<T> {
  return {
    argument,
    help: `${help} (${fallback})`,
    parse: (given) => read(given.at(-1) ?? fallback),
  };
}

/** A flag with an argument and no default. */
export function optional(argument: string, help: string): Flag<string | undefined>;
/** The same, of an argument that `read` makes a value of. */
export function optional<T>(argument: string, help: string, read: Read<T>): Flag<T | undefined>;
export function optional(
  argument: string,
  help: string,
  read: Read<unknown> = (text) => text,
): Flag<unknown> {
  return { argument, help, parse: (given) => given.map(read).at(-1) };
}

/** A flag without an argument. */
export function toggle(help: string): Flag<boolean> {
  return { help, parse: (given) => given.length > 0 };
}

/** Reads a number from `min` to `max`, a whole one unless told otherwise. */
export function number(min: number, max: number, whole = true): Read<number> {
  return (text) => {
    const n = /^\d*\.?\d+$/.test(text) ? Number(text) : NaN;
    if (n >= min && n <= max && (!whole || Number.isInteger(n))) return n;
    throw new UsageError(`${text} is not a ${whole ? "whole " : ""}number from ${min} to ${max}`);
  };
}

/** Reads one of some words. */
export function oneOf<W extends string>(...words: W[]): Read<W> {
  return (text) => {
    const word = words.find((word) => word === text);
    if (word) return word;
    throw new UsageError(`${text} is none of ${words.join(", ")}`);
  };
}

/** Reads the address of a server as `host:port`, or without the port where that is the usual one. */
export function hostPort(usual: number): Read<string> {
  return (text) => {
    const address = parseAddress(text, usual);
    if (address.transport === "tcp") return formatAddress(address);
    throw new UsageError(`${text} is not HOST:PORT`);
  };
}

/** Reads seconds and returns milliseconds, of which a timer takes at most 2^31. */
export function seconds(text: string): number {
  return number(0.001, 2e6, false)(text) * 1000;
}

const host = (text: string) => {
  if (!text.includes(":") || isIP(text) === 6) return text;
  throw new UsageError(`${text} is neither a name nor an IP address (--port has the port)`);
};
const unix = optional("PATH", "a Unix domain socket instead");
const trace = toggle("print both directions of the wire on stderr");

/** The flags of every TCP server. */
export function serverFlags(
  defaultPort: number,
): Flags<
  & Pick<Endpoint, "host" | "port" | "unix" | "cert" | "key">
  & Omit<ServeOptions, "name" | "signal" | "log">
> {
  return {
    host: flag("H", "address to bind", host, "127.0.0.1"),
    port: flag("N", "port to bind, 0 for a free one", number(0, 65535), `${defaultPort}`),
    unix,
    cert: optional("FILE", "TLS from the first byte, with this certificate (PEM)"),
    key: optional("FILE", "and its private key (PEM)"),
    maxConnections: flag("N", "serve so many at once", number(1, 1e6), "1000"),
    idleTimeout: flag("S", "close what is silent for so many seconds", seconds, "300"),
    allowFrom: {
      argument: "CIDR",
      help: "serve these addresses only; may be repeated (everyone)",
      parse: (given) => given.length > 0 ? parseAccessList(given) : undefined,
    },
    trace,
  };
}

/** The flags of every server on `Deno.serve`, which accepts connections by itself, without a limit. */
export function httpFlags(
  defaultPort: number,
): Omit<ReturnType<typeof serverFlags>, "maxConnections"> {
  const { maxConnections: _, ...flags } = serverFlags(defaultPort);
  const idleTimeout = flag("S", "give up a body silent for so many seconds", seconds, "300");
  const trace = toggle("print the heads of requests and answers on stderr, as Deno gives them");
  return { ...flags, idleTimeout, trace };
}

/** The flags of every TCP client. */
export function clientFlags(
  serverPort: number,
): Flags<Pick<Endpoint, "host" | "port" | "unix" | "tls" | "ca"> & Required<FramedConnOptions>> {
  return {
    host: flag("H", "the server's name or address", host, "127.0.0.1"),
    port: flag("N", "the server's port", number(1, 65535), `${serverPort}`),
    unix,
    tls: toggle("TLS from the first byte, the server verified"),
    ca: optional("FILE", "trust these root certificates too (PEM)"),
    timeout: flag("S", "seconds for the connection and each reply", seconds, "10"),
    trace,
  };
}

/**
 * Runs a program, which ends with what `run` returns or 0; with 2 if the command line is wrong, or
 * 1 if it failed, and one line of why.
 */
export async function main<V>(
  program: Program<V>,
  run: (flags: V & { name: string }, ...args: string[]) => Promise<number | void>,
): Promise<never> {
  try {
    const given = parse(program, Deno.args);
    if (!given) console.log(help(program));
    Deno.exit(given ? await run(...given) ?? 0 : 0);
  } catch (error) {
    const usage = error instanceof UsageError;
    const line = `${program.name}: ${printable(reason(error))}`;
    console.error(usage ? `${line} (--help tells more)` : line);
    Deno.exit(usage ? 2 : 1);
  }
}

/**
 * Reads a command line into flags and arguments; undefined if it asks for help.
 *
 * @throws {UsageError} naming the flag or argument that is wrong.
 */
export function parse<V>(
  program: Program<V>,
  line: string[],
): [flags: V & { name: string }, ...args: string[]] | undefined {
  const flags = Object.entries<Flag<unknown>>(program.flags)
    .map(([key, flag]) => ({ ...flag, key, name: kebab(key) }));
  const given = parseArgs(line, {
    string: ["_", ...flags.filter((flag) => flag.argument).map((flag) => flag.name)],
    boolean: ["help", ...flags.filter((flag) => !flag.argument).map((flag) => flag.name)],
    collect: flags.map((flag) => flag.name),
    alias: { help: "h", ..."port" in program.flags ? { port: "p" } : {} },
    unknown: (text, key) => {
      if (key === undefined) return;
      const hint = /^(allow|deny)-|^A$/.test(key) ? ", Deno's own come before the script" : "";
      throw new UsageError(`unknown flag ${text}${hint}`);
    },
  });
  if (given.help) return undefined;
  const values: Record<string, unknown> = { name: program.name };
  for (const { key, name, argument, parse } of flags) {
    const texts = given[name] as string[];
    try {
      if (argument && texts.includes("")) throw new UsageError(`${argument} is missing`);
      values[key] = parse(texts);
    } catch (error) {
      throw new UsageError(`--${name}: ${reason(error)}`);
    }
  }
  const wanted = program.usage?.split(" ") ?? [];
  const [extra, absent] = [given._[wanted.length], wanted[given._.length]];
  const many = program.usage?.endsWith("...");
  if (extra !== undefined && !many) throw new UsageError(`unexpected argument ${extra}`);
  if (absent && !absent.startsWith("[")) throw new UsageError(`${absent} is missing`);
  return [values as V & { name: string }, ...given._];
}

/** The commands of a program that has some: what their arguments are called, and what runs them. */
export type Commands<R> = Record<string, [usage: string, run: R]>;

/** The commands as a program's help shows them, a line for each. */
export function listCommands(commands: Commands<unknown>): string {
  return Object.entries(commands).map(([name, [usage]]) => `  ${name} ${usage}`.trimEnd()).join(
    "\n",
  );
}

/**
 * What runs the command of that name.
 *
 * @throws {UsageError} if there is none, or it does not take so many arguments.
 */
export function chooseCommand<R>(commands: Commands<R>, name: string, args: string[]): R {
  const [usage, run] = commands[oneOf(...Object.keys(commands))(name)];
  const program = { name, about: "", usage: usage || undefined, permissions: "", flags: {} };
  parse(program, ["--", ...args]);
  return run;
}

function help<V>({ name, about, usage, permissions, flags }: Program<V>): string {
  const rows = Object.entries<Flag<unknown>>({ ...flags, help: toggle("this text") })
    .map(([key, { argument = "", help }]) => [`--${kebab(key)} ${argument}`, help])
    .map(([flag, help]) => `  ${flag.padEnd(21)} ${help}`);
  const usageLine = ["deno run", permissions, `scripts/${name}.ts [flags]`, usage]
    .filter(Boolean).join(" ");
  const files = "ca" in flags || "cert" in flags ? " FILE needs --allow-read." : "";
  const path = "unix" in flags ? " PATH needs --allow-read and --allow-write." : "";
  const short = "port" in flags ? "-p, -h" : "-h";
  return `${usageLine}\n\n${about}\n\n${rows.join("\n")}\n
Short: ${short}. Permissions: ${permissions || "none"}.${files}${path}`;
}

function kebab(key: string): string {
  return key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
}

let stopping: AbortController | undefined;

/** Aborted by the first Ctrl-C or SIGTERM from now on; the second ends the process at once. */
export function stopSignal(): AbortSignal {
  Deno.addSignalListener("SIGINT", interrupt);
  Deno.addSignalListener("SIGTERM", interrupt);
  return (stopping = new AbortController()).signal;
}

function interrupt(): void {
  if (!stopping || stopping.signal.aborted) Deno.exit(130); // a shell's 128, and SIGINT's 2
  stopping.abort();
}

/**
 * Lines from stdin: typed at a prompt, with editing and history, while what is printed meanwhile
 * appears above the line being typed; or a pipe's, without a prompt.
 */
export class Terminal {
  /** Whether somebody types. */
  readonly interactive: boolean = Deno.stdin.isTerminal() && Deno.stdout.isTerminal();
  readonly #editor = readline.createInterface({
    input: process.stdin,
    output: process.stdout,
    terminal: this.interactive,
  }).on("SIGINT", () => { // here Ctrl-C is a character, not a signal
    this.close();
    interrupt();
  });
  readonly #lines = this.#editor[Symbol.asyncIterator]();
  #asking = false;
  #closed = false;

  /** The next line, or null at the end (Ctrl-D) and after it. */
  async readLine(prompt: string): Promise<string | null> {
    if (this.#closed) return null;
    this.#asking = this.interactive;
    this.#editor.setPrompt(prompt);
    if (this.#asking) this.#editor.prompt();
    const { value, done } = await this.#lines.next();
    if (done) this.close();
    this.#asking = false;
    return done ? null : value;
  }

  /** Prints a line. */
  print(line: string): void {
    if (!this.#asking) return console.log(line);
    const { rows } = this.#editor.getCursorPos();
    readline.moveCursor(process.stdout, 0, -rows);
    readline.cursorTo(process.stdout, 0);
    readline.clearScreenDown(process.stdout);
    console.log(line + "\n".repeat(rows)); // the prompt goes up again as many rows
    this.#editor.prompt(true);
  }

  /** Gives the terminal back, on a new line. */
  close(): void {
    if (this.#asking) console.log();
    this.#asking = false;
    this.#closed = true;
    this.#editor.close();
  }
}

/** A time for a column of a list: `2026-11-28 17:04` where we are, or blanks if `text` is no date. */
export function formatTime(text = ""): string {
  const time = new Date(text);
  return (isNaN(Number(time)) ? "" : time.toLocaleString("sv").slice(0, 16)).padEnd(16); // ISO 8601
}

/** Writes octets to stdout, in as many writes as it takes. Throws an error that names stdout. */
export async function writeStdout(octets: Uint8Array): Promise<void> {
  await writeAll(Deno.stdout, octets).catch(at("stdout"));
}

/**
 * A password: what the environment has under `name` (which takes `--allow-env=NAME`), or what
 * somebody types at `prompt`, unseen.
 *
 * @throws {UsageError} naming the variable, if it is not set and nobody is there to type.
 */
export async function askPassword(name: string, prompt: string): Promise<string> {
  const set = Deno.env.get(name);
  if (set) return set;
  if (!Deno.stdin.isTerminal()) throw new UsageError(`${name} is not set, which has the password`);
  const output = new Writable({ write: (_chunk, _encoding, done) => done() }); // no echo
  const editor = readline.createInterface({ input: process.stdin, output, terminal: true });
  Deno.stderr.writeSync(new TextEncoder().encode(prompt));
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  editor.on("line", resolve)
    .on("SIGINT", () => {
      console.error(); // what comes next on the terminal starts on a line of its own
      Deno.exit(130);
    })
    .on("close", () => reject(new Error("no password")));
  return await promise.finally(() => {
    editor.close();
    console.error();
  });
}

/** Draws on stderr, if a terminal, how much of `total` bytes is done; the first call starts it. */
export function progressBar(total: number): (done: number) => void {
  let [start, base, drawn] = [NaN, 0, -Infinity];
  return (done) => {
    const now = performance.now();
    if (Number.isNaN(start)) [start, base] = [now, done];
    if (!Deno.stderr.isTerminal() || now < drawn + 100 && done < total) return;
    drawn = now;
    const rate = (done - base) / Math.max(1, now - start) * 1000;
    const bar = "█".repeat(total ? Math.floor(20 * done / total) : 20).padEnd(20, "░");
    const left = rate > 0 ? `${Math.ceil((total - done) / rate)} s left` : "";
    const line = `${bar} ${format(done)} of ${format(total)}  ${format(rate)}/s  ${left}`;
    Deno.stderr.writeSync(new TextEncoder().encode(`\r\x1b[K${line}${done < total ? "" : "\n"}`));
  };
}
