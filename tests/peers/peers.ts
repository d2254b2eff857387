/** What the tests against other people's programs share. */
import { assertEquals } from "@std/assert";
import { delay } from "@std/async/delay";
import { fromFileUrl } from "@std/path";
import { connect, type Endpoint } from "../../lib/address.ts";
import { FramedConn } from "../../lib/framing.ts";
import { command, Program, type Result } from "../helpers.ts";

/** A line in the form that RFC 867 suggests. */
export const DAYTIME = /^[A-Z][a-z]+day, [A-Z][a-z]+ \d+, \d{4} \d\d:\d\d:\d\d-[A-Z]\S*\r?\n$/;

/** The path of a file or folder beside this one. */
export function here(name: string): string {
  return fromFileUrl(new URL(name, import.meta.url));
}

/** The command for a Python program of this folder, its output not held back. */
export function python(name: string, ...args: (string | number)[]): string[] {
  return ["python3", "-u", here(name), ...args.map(String)];
}

/** The command for a server of ours on a free port that has `n` descriptors at most. */
export function limited(n: number, name: string, args: string[]): string[] {
  return ["prlimit", `--nofile=${n}`, ...command(name), "--port", "0", ...args];
}

/** Runs a program to its end. */
export async function finish(
  argv: string[],
  options: { stdin?: string; cwd?: string } = {},
): Promise<Result> {
  await using program = new Program(argv, options.cwd ? { cwd: options.cwd } : {});
  if (options.stdin) await program.type(options.stdin).catch(() => {}); // it may not want it
  await program.endInput();
  return await program.ended();
}

/** Runs a program that must succeed, and returns what it prints. */
export async function output(argv: string[], stdin?: string): Promise<string> {
  const { code, stdout, stderr } = await finish(argv, { stdin });
  assertEquals(code, 0, `${argv.join(" ")}: ${stderr}`);
  return stdout;
}

/** Starts a NATS server with JetStream, which keeps its streams in `folder`. */
export function startNats(folder: string, port = -1): Program {
  const address = ["--addr", "127.0.0.1", "--port", `${port}`];
  return new Program(["nats-server", ...address, "--jetstream", "--store_dir", folder]);
}

/** Waits until a NATS server listens, and returns its port. */
export async function natsPort(server: Program): Promise<number> {
  return Number((await server.until(/client connections on .*:(\d+)[^]*ready\n/, "stderr"))[1]);
}

/** Connects on loopback with 10 s for that and for each reply. */
export async function dial(to: number | Partial<Endpoint>): Promise<FramedConn> {
  const endpoint = typeof to === "number" ? { port: to } : to;
  const timeout = 10_000;
  return new FramedConn(await connect({ host: "127.0.0.1", port: 0, timeout, ...endpoint }), {
    timeout,
  });
}

/** Reads text until it matches, or to its end. */
export async function hear(conn: FramedConn, pattern?: RegExp): Promise<string> {
  const decoder = new TextDecoder();
  let text = "";
  for (let piece; !pattern?.test(text) && (piece = await conn.readSome()) !== null;) {
    text += decoder.decode(piece, { stream: true });
  }
  return text;
}

/** Sends `question` over a connection of its own and returns the answer. */
export async function ask(
  to: number | Partial<Endpoint>,
  question: string | Uint8Array = "",
): Promise<string> {
  using conn = await dial(to);
  await conn.writeAll(question);
  return await hear(conn);
}

/** Waits until something is so, at most 20 s. */
export async function eventually(
  what: string,
  so: () => boolean | Promise<boolean>,
): Promise<void> {
  for (const late = performance.now() + 20_000; !(await so()); await delay(5)) {
    if (performance.now() > late) throw new Error(`never came true: ${what}`);
  }
}

/** What a process takes of memory now (VmRSS) or took at its worst (VmHWM), in KiB. */
export function memory(program: Program, figure: "VmRSS" | "VmHWM" = "VmRSS"): number {
  const status = Deno.readTextFileSync(`/proc/${program.pid}/status`);
  return Number(new RegExp(`^${figure}:\\s*(\\d+) kB$`, "m").exec(status)?.[1]);
}

/** How many sockets a process has open. */
export function sockets(program: Program): number {
  const folder = `/proc/${program.pid}/fd`;
  return [...Deno.readDirSync(folder)].filter(({ name }) => {
    try {
      return Deno.readLinkSync(`${folder}/${name}`).startsWith("socket:");
    } catch {
      return false; // closed meanwhile
    }
  }).length;
}

/** Makes a root certificate, and one signed by it for `name`, such as `IP:127.0.0.1`. */
export async function certificates(
  folder: string,
  name = "IP:127.0.0.1",
): Promise<{ ca: string; cert: string; key: string }> {
  const [ca, caKey, cert, key] = ["ca.pem", "ca.key", "cert.pem", "cert.key"]
    .map((file) => `${folder}/${file}`);
  const make = (...args: string[]) =>
    output(["openssl", "req", "-x509", "-days", "1", "-nodes", "-newkey", "ec", ...args]);
  const curve = ["-pkeyopt", "ec_paramgen_curve:prime256v1"];
  await make(...curve, "-subj", "/CN=Test Root", "-out", ca, "-keyout", caKey);
  const signed = ["-CA", ca, "-CAkey", caKey, "-addext", "basicConstraints=critical,CA:FALSE"];
  const names = ["-subj", "/CN=Test", "-addext", `subjectAltName=${name}`];
  await make(...curve, ...signed, ...names, "-out", cert, "-keyout", key);
  return { ca, cert, key };
}

/** The command that gives a program folders and process numbers of its own, which takes root. */
export const isolate = (): string[] => [
  ...(Deno.uid() === 0 ? [] : ["sudo", "-n"]),
  ...["unshare", "--mount", "--pid", "--fork", "--kill-child"],
];

/** Whether {@linkcode isolate} works here. */
export function mayIsolate(): boolean {
  const [program, ...args] = [...isolate(), "mount", "-n", "-t", "tmpfs", "none", "/run"];
  try {
    return new Deno.Command(program, { args, stderr: "null" }).outputSync().success;
  } catch {
    return false; // there is no sudo
  }
}
