#!/usr/bin/env -S deno run --allow-net --allow-read
/**
 * An SSH client (RFC 4251 to 4254): a shell on another machine, a command there, or a file from or to
 * there by SFTP.
 *
 *     ssh-keygen -t ed25519 -N "" -f id_ed25519
 *     deno run --allow-net --allow-read --allow-write scripts/ssh_server.ts \
 *       --authorized-keys id_ed25519.pub lib
 *     deno run --allow-net --allow-read --allow-write scripts/ssh_client.ts \
 *       --user ann --identity id_ed25519 --known-hosts known_hosts run date
 *
 * `--allow-write` is for what `get` receives, for a host key that you accept, and for the agent's
 * socket. With `--allow-env=HOME,USER,TERM,SSH_AUTH_SOCK,SSH_PASSWORD,SSH_PASSPHRASE`, or any of them,
 * it does as `ssh` does: it knows the hosts of `~/.ssh/known_hosts`, logs in under your name, tells a
 * shell your terminal's type, takes the keys of an agent, asks for a password and a key's passphrase.
 *
 * Mirrors "Telnet and SSH" of tutorial 002, which has no listing, in the words of `paramiko`:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `SSHClient()`, `client.connect(host, port, username)` | `openSsh()`: `Deno.connect()`, `client.connect()` |
 * | `load_host_keys(file)` | `new KnownHosts(host, text)` |
 * | `set_missing_host_key_policy(RejectPolicy())` | `hosts.check()`, in `hostVerifier` |
 * | `key_filename=`, `passphrase=`, `password=` | `readIdentity()`, `authHandler` |
 * | `stdin, stdout, stderr = client.exec_command("date")` | `run()`: `client.exec()` |
 * | `stdout.channel.recv_exit_status()` | `channel.once("close", ...)` |
 * | `client.invoke_shell(term, width, height)`, `resize_pty()` | `shell()`: `client.shell()`, `setWindow()` |
 * | `client.open_sftp()`, `sftp.get(remote, local)`, `put()` | `get()`, `put()`: `client.sftp()` |
 *
 * Whom one talks to is what the host key is for. Without that check one would tell the password to
 * whoever sits in between. So a key that is unknown is refused, unless you type yes, and one that has
 * changed always is: only the file's owner can take the old one out.
 *
 * SSH itself is by `ssh2`, as nobody should write that by hand. Deno's raw mode still makes CR LF of a
 * LF that comes, which some programs that fill the screen do not reckon with.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { createHash, createHmac } from "node:crypto";
import { constants } from "node:os";
import { posix } from "node:path";
import * as process from "node:process";
import { Duplex, type Readable } from "node:stream";
// The types only: it is loaded where it is needed, as that takes as long as all the rest.
import type { Attempt, Attributes, Channel, Client, Done, Key, SFTPWrapper } from "ssh2";
import { basename } from "@std/path";
import {
  at,
  connect,
  type Endpoint,
  formatEndpoint,
  named,
  reason,
  UsageError,
} from "../lib/address.ts";
import {
  askPassword,
  chooseCommand,
  clientFlags,
  type Commands,
  listCommands,
  main,
  optional,
  progressBar,
  stopSignal,
  Terminal,
  toggle,
} from "../lib/cli.ts";
import { printable, writeAll } from "../lib/framing.ts";

const NAME = "ssh_client";
const PORT = 8022;
const PIECE = 31 * 1024; // octets of a file at once; more ssh2 divides, for any server but OpenSSH
const AHEAD = 64; // requests for pieces that are sent before the first is answered

/** What ssh2 is to offer, without what does not work in Deno 2.9. */
const ALGORITHMS = { kex: { remove: ["ecdh-sha2-nistp521"] }, compress: ["none"] };
/** Of ssh-rsa the signatures use SHA-1. */
const HOST_KEY_ALGORITHMS = [
  "ssh-ed25519",
  "ecdsa-sha2-nistp256",
  "ecdsa-sha2-nistp384",
  "ecdsa-sha2-nistp521",
  "rsa-sha2-512",
  "rsa-sha2-256",
];

/** A key's fingerprint, as `ssh-keygen -l` prints it. */
export function fingerprint(key: Uint8Array): string {
  return `SHA256:${createHash("sha256").update(key).digest("base64").replace(/=+$/, "")}`;
}

/** The type of a key, with which it begins (RFC 4253, 6.6). */
function typeOf(key: Buffer): string {
  return key.toString("latin1", 4, 4 + key.readUInt32BE());
}

const describe = (key: Buffer) => `${typeOf(key)} key ${fingerprint(key)}`;

/** The host keys of a file in the format of sshd(8), SSH_KNOWN_HOSTS FILE FORMAT, for one host. */
export class KnownHosts {
  readonly #trusted: { line: number; type: string; key: string }[] = []; // the keys in base64
  readonly #revoked: string[] = [];

  /** Takes those for `host`, or `[host]:port` if that is not 22, out of the text of the file. */
  constructor(readonly host: string, text: string) {
    for (const [index, line] of text.split("\n").entries()) {
      const [, mark, hosts, type, key] =
        /^\s*(?:(@\S+)\s+)?([^#\s]\S*)\s+(\S+)\s+(\S+)/.exec(line) ?? [];
      if (!hosts || !matches(hosts, host.toLowerCase())) continue;
      if (mark === "@revoked") this.#revoked.push(key);
      else if (!mark) this.#trusted.push({ line: index + 1, type, key });
    }
  }

  /** The algorithms for host keys, first those by which the host is known: it may have others, too. */
  get algorithms(): string[] {
    const types = this.#trusted.map(({ type }) => type);
    const known = HOST_KEY_ALGORITHMS.filter((name) => {
      return types.includes(name.replace(/^rsa-sha2-.*/, "ssh-rsa"));
    });
    return [...new Set([...known, ...HOST_KEY_ALGORITHMS])];
  }

  /**
   * Whether the host is known by this key; false if it is not known at all.
   *
   * @throws {Error} if it is known by others only, or the key is revoked.
   */
  check(key: Buffer): boolean {
    const base64 = key.toString("base64");
    if (this.#revoked.includes(base64)) throw new Error(`refused, its ${describe(key)} is revoked`);
    if (this.#trusted.length === 0) return false;
    if (this.#trusted.some((known) => known.key === base64)) return true;
    const lines = this.#trusted.map(({ line }) => line).join(", ");
    throw new Error(
      `refused, somebody may sit in between: its ${describe(key)} is not that of line ${lines} ` +
        `of the known hosts`,
    );
  }
}

/** Whether a list of patterns, or the hash of a name, is for the host. */
function matches(hosts: string, host: string): boolean {
  const [, salt, hash] = /^\|1\|([^|]+)\|([^|]+)$/.exec(hosts) ?? [];
  if (hash) {
    return createHmac("sha1", Buffer.from(salt, "base64")).update(host).digest("base64") === hash;
  }
  const fitting = hosts.toLowerCase().split(",").filter((pattern) => {
    const literal = pattern.replace(/^!/, "").replace(/[.+^${}()|[\]\\]/g, "\\$&");
    return new RegExp(`^${literal.replaceAll("*", ".*").replaceAll("?", ".")}$`).test(host);
  });
  return fitting.length > 0 && !fitting.some((pattern) => pattern.startsWith("!"));
}

/** Who wants to log in, and by what. */
export type Login = {
  user: string;
  identity?: Key; // their private key
  agent?: string; // the path of the socket of the agent that has their keys
  password?: () => Promise<string>; // asks for it; called if the server takes one
};

/** A connection to an SSH server, logged in. */
export class Ssh {
  /** Takes over `client`; `lost` is rejected once there is no connection any more. */
  constructor(readonly client: Client, readonly lost: Promise<never>) {
    lost.catch(() => {});
  }

  /** What `start` hands to its callback. Throws that error, or why the connection is lost. */
  result<T>(start: (client: Client, done: Done<T>) => void): Promise<T> {
    const answer = new Promise<T>((resolve, reject) => {
      start(this.client, (error, value) => error ? reject(error) : resolve(value));
    });
    const result = Promise.race([this.lost, answer]); // of a lost connection ssh2 may never tell
    result.catch(() => {}); // nobody may want to know any more
    return result;
  }
}

/**
 * Connects and logs in. `accept` is asked about the key of a server that `hosts` does not know.
 *
 * @throws {Error} if the server is not the one that it was, or does not let us in; {@linkcode
 * Deno.errors.TimedOut} if it takes longer than `timeout` for an answer. All are named after the
 * address.
 */
export async function openSsh(
  endpoint: Endpoint,
  hosts: KnownHosts,
  accept: (key: Buffer) => Promise<boolean>,
  { user: username, identity, agent, password }: Login,
  debug?: (line: string) => void,
): Promise<Ssh> {
  const { timeout = 10_000 } = endpoint;
  const { Client } = await import("ssh2");
  const sock = Duplex.fromWeb(await connect(endpoint) as never); // Node's types have streams of their own
  const client = new Client();
  const { promise: lost, reject: lose } = Promise.withResolvers<never>();
  let timer: ReturnType<typeof setTimeout> | undefined;
  let verified: Buffer | undefined; // the key that has been accepted

  function expectAnswer(): void {
    clearTimeout(timer);
    timer = setTimeout(() => {
      lose(new Deno.errors.TimedOut(`no answer within ${timeout / 1000} s (--timeout)`));
    }, timeout);
  }

  /**
   * Decides about a host key, at once if it can: during a later exchange of keys ssh2 1.17 would send
   * data in the meantime, and send it wrong.
   */
  function verify(key: Buffer, decide: (good: boolean) => void): void {
    function refuse(error: Error): void {
      lose(error);
      decide(false);
    }
    try {
      if (verified?.equals(key) || hosts.check(key)) return decide(true);
    } catch (error) {
      return refuse(error as Error);
    }
    clearTimeout(timer); // it is not the server's answer that is waited for
    accept(key).then((yes) => {
      if (!yes) throw new Error(`refused, the host is not known, nor its ${describe(key)}`);
      verified = Buffer.from(key);
      expectAnswer();
      decide(true);
    }).catch(refuse);
  }

  async function* attempts(): AsyncGenerator<Attempt, false, string[]> {
    let left = yield { type: "none", username }; // which tells what else there is
    if (identity && left.includes("publickey")) {
      left = yield { type: "publickey", username, key: identity };
    }
    if (agent && left.includes("publickey")) left = yield { type: "agent", username, agent };
    if (password && left.includes("password")) {
      clearTimeout(timer);
      const attempt = { type: "password", username, password: await password() } as const;
      expectAnswer();
      left = yield attempt;
    }
    throw new Error(`permission denied for ${username}, the server takes: ${left.join(", ")}`);
  }

  const login = attempts();
  const ready = new Promise((resolve) => client.once("ready", resolve));
  const cutOff = () => lose(new Error("the connection was cut off"));
  client.on("close", cutOff).on("error", (error) => {
    if (error.level === "client-socket") cutOff(); // of the streams' own words none says more
    else lose(error);
  });
  expectAnswer();
  client.connect({
    sock,
    username,
    algorithms: { ...ALGORITHMS, serverHostKey: hosts.algorithms },
    // Neither may return anything, a promise least of all: that would be taken for a decision.
    hostVerifier: (key, decide) => verify(key, decide),
    authHandler(left, _partial, next) {
      login.next(left ?? []).then(({ value }) => next(value)).catch(lose);
    },
    readyTimeout: 0,
    keepaliveInterval: timeout,
    debug,
  });
  try {
    await Promise.race([ready, lost]);
    return new Ssh(client, lost);
  } catch (error) {
    client.destroy();
    throw named(formatEndpoint(endpoint), error);
  } finally {
    clearTimeout(timer);
  }
}

/** Makes stdin, stdout and stderr those of the channel. Returns the exit status. */
async function attach({ lost }: Ssh, channel: Channel): Promise<number> {
  const closed = new Promise<[code?: number | null, signal?: string]>((resolve) => {
    channel.once("close", (...status) => resolve(status));
  });
  channel.on("error", () => {}); // of what is typed when it is over
  process.stdin.pipe(channel);

  async function print(from: Readable, to: typeof Deno.stdout): Promise<void> {
    // Not destroyed at its end, as the exit status is still to come.
    for await (const piece of from.iterator({ destroyOnReturn: false })) await writeAll(to, piece);
  }

  await Promise.all([print(channel, Deno.stdout), print(channel.stderr, Deno.stderr)]);
  const [code, name = ""] = await closed;
  if (typeof code === "number") return Math.min(code, 255);
  const signals: Record<string, number> = constants.signals;
  if (code === null) return 128 + (signals[name] ?? 127); // as shells have it
  return await Promise.race([lost, Promise.reject(new Error("it ended without an exit status"))]);
}

/**
 * Runs a command, of which stdin, stdout and stderr are ours. Returns its exit status, or 128 and the
 * signal's number if one has ended it.
 *
 * @throws {Error} if the connection is lost before.
 */
export async function run(ssh: Ssh, command: string): Promise<number> {
  return await attach(ssh, await ssh.result((client, done) => client.exec(command, done)));
}

/** As {@linkcode run}, a shell. On a terminal it gets one of its own, of the type `term`. */
export async function shell(ssh: Ssh, term: string): Promise<number> {
  if (!Deno.stdin.isTerminal() || !Deno.stdout.isTerminal()) {
    return await attach(ssh, await ssh.result((client, done) => client.shell(false, done)));
  }
  const { columns: cols, rows } = Deno.consoleSize();
  const channel = await ssh.result<Channel>((client, done) => {
    client.shell({ term, rows, cols }, done);
  });
  const resize = () => {
    const { columns, rows } = Deno.consoleSize();
    channel.setWindow(rows, columns, 0, 0);
  };
  Deno.addSignalListener("SIGWINCH", resize);
  Deno.stdin.setRaw(true); // each key goes as it is pressed, Ctrl-C like any other
  try {
    return await attach(ssh, channel);
  } finally {
    Deno.stdin.setRaw(false);
    Deno.removeSignalListener("SIGWINCH", resize);
  }
}

async function openSftp(ssh: Ssh): Promise<SFTPWrapper & Disposable> {
  const sftp = await ssh.result<SFTPWrapper>((client, done) => client.sftp(done));
  return Object.assign(sftp, { [Symbol.dispose]: () => sftp.end() });
}

/** A name beside `path` for what is not whole yet. */
function temporary(path: string): string {
  return `${path}.${crypto.getRandomValues(new Uint8Array(4)).toHex()}.part`;
}

/**
 * Receives the file `remote` by SFTP as `local`, whole or not at all, and returns its size in bytes.
 *
 * @throws {Error} if it cannot be read or written, or the connection is lost.
 */
export async function get(ssh: Ssh, remote: string, local: string): Promise<number> {
  using sftp = await openSftp(ssh);
  const handle = await ssh.result<Buffer>((_, done) => sftp.open(remote, "r", done))
    .catch(at(remote));
  const { size } = await ssh.result<Attributes>((_, done) => sftp.fstat(handle, done))
    .catch(at(remote));
  const pieces: Promise<Buffer>[] = [];
  let [asked, received] = [0, 0];

  async function read(position: number): Promise<Buffer> {
    const into = Buffer.alloc(PIECE);
    const n = await ssh.result<number>((_, done) => {
      sftp.read(handle, into, 0, PIECE, position, done);
    });
    return into.subarray(0, n);
  }

  /** The next piece, an empty one at the end, with those behind it asked for already. */
  async function next(): Promise<Buffer> {
    // As far as the size says and, as it may be wrong, on until one is empty.
    while (pieces.length === 0 || pieces.length < AHEAD && asked <= size) {
      const piece = read(asked);
      piece.catch(() => {}); // one before it may fail first
      pieces.push(piece);
      asked += PIECE;
    }
    return await pieces.splice(0, 1)[0].catch(at(remote));
  }

  const part = temporary(local);
  using file = await Deno.open(part, { write: true, createNew: true });
  try {
    const draw = progressBar(size);
    draw(0);
    for (let piece; (piece = await next()).length > 0; draw(received)) {
      if (received % PIECE > 0) throw new Error(`${remote}: changes while it is read`);
      await writeAll(file, piece).catch(at(local));
      received += piece.length;
    }
    if (received < size) throw new Error(`${remote}: ended after ${received} of ${size} bytes`);
    await Deno.rename(part, local);
  } catch (error) {
    await Deno.remove(part);
    throw error;
  }
  return received;
}

/**
 * Sends the file `local` by SFTP as `remote`, and returns its size in bytes. Under its name it is only
 * ever whole; when the connection is lost, what was sent stays there under a temporary one.
 *
 * @throws {Error} if it cannot be read or written, the connection is lost or `signal` is aborted.
 */
export async function put(
  ssh: Ssh,
  local: string,
  remote: string,
  signal?: AbortSignal,
): Promise<number> {
  using file = await Deno.open(local);
  const { isFile, size } = await file.stat();
  if (!isFile) throw new Error(`${local}: not a file`);
  using sftp = await openSftp(ssh);
  const part = temporary(remote);
  const handle = await ssh.result<Buffer>((_, done) => sftp.open(part, "wx", done))
    .catch(at(remote));
  const writes: Promise<void>[] = [];
  let sent = 0;
  try {
    const draw = progressBar(size);
    draw(0);
    for (;; draw(sent)) {
      signal?.throwIfAborted();
      const piece = Buffer.alloc(PIECE);
      const n = await file.read(piece).catch(at(local));
      if (n === null) break;
      writes.push(ssh.result((_, done) => sftp.write(handle, piece, 0, n, sent, done)));
      sent += n;
      if (writes.length === AHEAD) await writes.shift()?.catch(at(remote));
    }
    await Promise.all(writes).catch(at(remote));
    await ssh.result((_, done) => sftp.close(handle, done)).catch(at(remote));
    // In SFTP itself a rename replaces nothing; OpenSSH's own does.
    await ssh.result((_, done) => sftp.ext_openssh_rename(part, remote, done))
      .catch(() => ssh.result((_, done) => sftp.rename(part, remote, done)))
      .catch(at(remote));
  } catch (error) {
    await ssh.result((_, done) => sftp.unlink(part, done)).catch(() => {});
    throw error;
  }
  return sent;
}

/** What the environment says, if we may look. */
function environment(name: string): string | undefined {
  const { state } = Deno.permissions.querySync({ name: "env", variable: name });
  return state === "granted" ? Deno.env.get(name) : undefined;
}

/** Reads a private key, and asks for its passphrase if it has one. Throws an Error that names it. */
async function readIdentity(path: string): Promise<Key> {
  const text = await Deno.readTextFile(path);
  const { utils } = await import("ssh2");
  let key = utils.parseKey(text);
  if (key instanceof Error && /no passphrase given/.test(key.message)) {
    key = utils.parseKey(text, await askPassword("SSH_PASSPHRASE", `passphrase of ${path}: `));
    if (key instanceof Error) throw new Error(`${path}: wrong passphrase`);
  }
  if (key instanceof Error || !key.isPrivateKey()) throw new Error(`${path}: not a private key`);
  // Deno 2.9 does not take some that others do, half of the ECDSA keys for one.
  const signature = key.sign(Buffer.from("a test"));
  if (signature instanceof Error) throw new Error(`${path}: ${signature.message}`);
  return key;
}

/** The path of the agent's socket, if there is an agent. */
async function findAgent(): Promise<string | undefined> {
  const unix = environment("SSH_AUTH_SOCK");
  if (!unix) return;
  try {
    (await connect({ host: "", port: 0, unix })).close();
    return unix;
  } catch (error) {
    console.error(`${NAME}: goes on without an agent: ${reason(error)}`);
  }
}

/** Asks whether a host is the one that has this key, and if so adds it to the file. */
async function accept(host: string, key: Buffer, file: string): Promise<boolean> {
  if (!Deno.stdin.isTerminal()) return false;
  console.error(`${host} is not known. It has the ${describe(key)}`);
  console.error("Type yes if its owner says that this is so, and it goes on and is kept.");
  const terminal = new Terminal();
  const answer = await terminal.readLine("");
  terminal.close();
  if (answer !== "yes") return false;
  const text = await readText(file);
  const start = text === "" || text.endsWith("\n") ? "" : "\n";
  const line = `${start}${host} ${typeOf(key)} ${key.toString("base64")}\n`;
  await Deno.writeTextFile(file, line, { append: true, mode: 0o600 });
  return true;
}

/** A file's text, an empty one if there is no file. */
async function readText(path: string): Promise<string> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return "";
    throw error;
  }
}

/** What can be done once one is logged in, each with its arguments. */
const ACTIONS: Commands<(ssh: Ssh, args: string[], signal: AbortSignal) => Promise<number>> = {
  shell: ["", (ssh) => shell(ssh, environment("TERM") ?? "dumb")],
  run: ["COMMAND...", (ssh, words) => run(ssh, words.join(" "))],
  get: ["REMOTE [LOCAL]", async (ssh, [remote, local = posix.basename(remote)]) => {
    const size = await get(ssh, remote, local);
    console.error(`${NAME}: received ${printable(local)}, ${size} bytes`);
    return 0;
  }],
  put: ["LOCAL [REMOTE]", async (ssh, [local, remote = basename(local)], signal) => {
    const size = await put(ssh, local, remote, signal);
    console.error(`${NAME}: sent ${printable(remote)}, ${size} bytes`);
    return 0;
  }],
};

if (import.meta.main) {
  const { tls: _, ca: __, ...common } = clientFlags(PORT);
  const program = {
    name: NAME,
    about: `Does one of these on an SSH server, the first if there is no ACTION:

${listCommands(ACTIONS)}

A COMMAND with flags needs -- before it: run -- ls -l. What is written takes --allow-write. With
--allow-env=HOME,USER,TERM,SSH_AUTH_SOCK,SSH_PASSWORD,SSH_PASSPHRASE, or some of these, what no flag
says is taken from there; an agent takes --allow-write, too.`,
    usage: "[ACTION] [ARG]...",
    permissions: "--allow-net --allow-read",
    flags: {
      ...common,
      user: optional("NAME", "who logs in ($USER)"),
      identity: optional("FILE", "their private key"),
      knownHosts: optional("FILE", "the host keys that are known ($HOME/.ssh/known_hosts)"),
      trace: toggle("print the messages of both directions on stderr"),
    },
  };
  await main(program, async (flags, action = "shell", ...args) => {
    const perform = chooseCommand(ACTIONS, action, args);
    const home = environment("HOME");
    const file = flags.knownHosts ?? (home && `${home}/.ssh/known_hosts`);
    if (!file) throw new UsageError("--known-hosts FILE is missing (or --allow-env=HOME)");
    const user = flags.user ?? environment("USER");
    if (!user) throw new UsageError("--user NAME is missing (or --allow-env=USER)");

    const host = flags.port === 22 ? flags.host : `[${flags.host}]:${flags.port}`;
    const mayAsk = Deno.stdin.isTerminal() || environment("SSH_PASSWORD");
    const ssh = await openSsh(
      flags,
      new KnownHosts(host, await readText(file)),
      (key) => accept(host, key, file),
      {
        user,
        identity: flags.identity === undefined ? undefined : await readIdentity(flags.identity),
        agent: await findAgent(),
        password: mayAsk
          ? () => askPassword("SSH_PASSWORD", `password of ${user} at ${host}: `)
          : undefined,
      },
      flags.trace ? (line) => console.error(printable(line)) : undefined,
    );
    const signal = stopSignal();
    // Of what put has sent, it has something to remove first.
    signal.addEventListener("abort", () => action === "put" || ssh.client.destroy());
    try {
      return await perform(ssh, args, signal);
    } catch (error) {
      if (signal.aborted) return 130; // as if the signal had ended it
      throw error;
    } finally {
      ssh.client.end();
    }
  });
}
