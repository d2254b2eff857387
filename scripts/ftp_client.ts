#!/usr/bin/env -S deno run --allow-net
/**
 * An FTP client (RFC 959, and 2428 and 3659 for what came later): lists folders, receives and sends
 * files, and copies whole folders from a server.
 *
 *     deno run --allow-net --allow-read scripts/ftp_server.ts .
 *     deno run --allow-net scripts/ftp_client.ts ls lib
 *
 * `get` and `mirror` take `--allow-read --allow-write`, `put` takes `--allow-read`, and `--user` takes
 * `--allow-env=FTP_PASSWORD`.
 *
 * Mirrors FTP of tutorials 002 and 003, which name Python's `ftplib` without a listing:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `ftp = ftplib.FTP()`, `ftp.connect(host, port)` | `Ftp.open()`: `Deno.connect()` |
 * | `ftp.login(user, password)`, `ftp.pwd()` | the same, and once for each connection |
 * | `ftp.getresp()`, `ftplib.error_perm` | `readReply()`, `Refusal` |
 * | `ftp.makepasv()`, `ftp.ntransfercmd("RETR x", n)` | `ftp.transfer("RETR x", work, n)` |
 * | `ftp.mlsd(path)`, `ftp.dir(path)` | `ftp.list(path)` |
 * | `ftp.size(path)`, `ftp.sendcmd("MDTM " + path)` | `ftp.size(path)`, `ftp.modified(path)` |
 * | `ftp.retrbinary("RETR x", file.write, rest=n)` | `download(ftp, "x", path)` |
 * | `ftp.storbinary("STOR x", file)` | `upload(ftp, path, "x")` |
 * | `ftp.quit()` | `ftp.quit()` |
 *
 * Commands go over one connection, and each file or list over another, which goes to the port that
 * the server names (EPSV, or else PASV) and to the address that it has already: the one in an answer
 * to PASV may be wrong, or somebody else's. PORT, which has the server connect, is not there.
 *
 * That a file ends FTP tells only by the end of its connection, as that of one that is cut off. It is
 * whole when the server says so (226 or 250) and it has the size that the server tells. Until then it
 * is `NAME.part`, which `--resume` continues, trusting that the server's file is still the same.
 *
 * `--tls` is for the connections of files, too. A server that wants these to resume the session of
 * the first one (`require_ssl_reuse` of vsftpd) refuses them, as Deno cannot.
 *
 * @module
 */
import { deadline } from "@std/async/deadline";
import { basename, join } from "@std/path";
import {
  connect,
  type Endpoint,
  isPrivate,
  named,
  readPem,
  reason,
  UsageError,
} from "../lib/address.ts";
import {
  askPassword,
  chooseCommand,
  clientFlags,
  type Commands,
  flag,
  listCommands,
  main,
  number,
  optional,
  progressBar,
  toggle,
} from "../lib/cli.ts";
import {
  FramedConn,
  type FramedConnOptions,
  LimitError,
  printable,
  writeAll,
} from "../lib/framing.ts";

const NAME = "ftp_client";
const PORT = 8021; // FTP's own is 21
const GUEST = "anonymous@"; // what the anonymous give for a password (RFC 1635)
const MAX_REPLY_LINES = 1000;
const MAX_LIST = 32 * 1024 * 1024; // octets of a folder's list
const OVERHEAD = 100; // octets that a line of it takes in memory besides its own
const MAX_ENTRIES = 500_000; // files and folders that are copied
const MAX_DEPTH = 32; // folders in folders
const BUFFER = 1024 * 1024; // octets of a file

/** What the server does not do, with its words. */
export class Refusal extends Error {
  /** Its reply to a command. */
  constructor(command: string, readonly reply: string) {
    const [verb, words] = [command.split(" ", 1)[0], reply.replaceAll("\n", " ")];
    super(`${verb}: the server says ${words.slice(0, 500)}`);
  }
}

/**
 * Reads a reply (RFC 959, 4.2): `123 text`, or lines from `123-` to `123 `, between which there may be
 * any others. Returns them with LF between them.
 *
 * @throws {Deno.errors.UnexpectedEof} if the server hangs up first, {@linkcode LimitError} if it is
 * too long; an Error if it is no reply.
 */
export async function readReply(conn: FramedConn): Promise<string> {
  const lines: string[] = [];
  for (let code = ""; lines.length < MAX_REPLY_LINES;) {
    const line = await conn.readLine();
    if (line === null) throw new Deno.errors.UnexpectedEof("hung up without an answer");
    code ||= /^[1-5]\d\d(?=[ -]|$)/.exec(line)?.[0] ?? "";
    if (!code) throw new Error(`not a reply of FTP: ${line.slice(0, 80)}`);
    lines.push(line);
    if (line === code || line.startsWith(`${code} `)) return lines.join("\n");
  }
  throw new LimitError(`reply of more than ${MAX_REPLY_LINES} lines`);
}

/** What a folder has. */
export type Entry = {
  kind: string; // as in `ls -l`: `-` a file, `d` a folder, `l` a link; `?` what is none or unreadable
  name: string; // if it is unreadable, the whole line
  size?: number; // in octets
  modified?: number; // in seconds since 1970; `ls -l` leaves out the zone, and the year or the time
  date?: string; // the same for people
  unique?: string; // the same for two names of the same thing
};

/** The seconds since 1970 of a time such as 20261128164535.123, which is UTC (RFC 3659, 2.3). */
function readTime(text?: string): number | undefined {
  const [, ...parts] = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)/.exec(text ?? "") ?? [];
  const [year, month, ...rest] = parts.map(Number);
  return parts.length > 0 ? Date.UTC(year, month - 1, ...rest) / 1000 : undefined;
}

/** Reads a line of MLSD (RFC 3659, 7.2). */
export function readFacts(line: string): Entry {
  const [whole, list, name] = /^((?:[^ ;=]+=[^;]*;)*) (.*)$/s.exec(line) ?? [];
  if (whole === undefined) return { kind: "?", name: line };
  const fact = (key: string) => new RegExp(`(?:^|;)${key}=([^;]*)`, "i").exec(list)?.[1];
  const type = fact("type")?.toLowerCase() ?? "";
  const kind = { file: "-", dir: "d", cdir: ".", pdir: "." }[type] ??
    (type.includes("link") ? "l" : "?");
  const modified = readTime(fact("modify"));
  const date = modified && new Date(modified * 1000).toISOString().slice(0, 16).replace("T", " ");
  const [size, unique] = [readSize(fact("size")), fact("unique")];
  return { kind, name, size, modified, date: date || undefined, unique };
}

/** Reads a line of LIST as most servers send it, which is that of `ls -l`. */
export function readLong(line: string): Entry {
  const [, kind, size, date, name] =
    /^([a-z-])[a-zA-Z-]{9}\S* +\d+ .*? (\d+) ([A-Z][a-z]{2} [ \d]\d (?:\d\d:\d\d| ?\d{4})) (.*)$/s
      .exec(line) ?? [];
  if (!kind) return { kind: "?", name: line };
  const isDots = kind === "d" && /^\.\.?$/.test(name);
  return { kind: isDots ? "." : /[dl-]/.test(kind) ? kind : "?", name, size: readSize(size), date };
}

function readSize(digits?: string): number | undefined {
  return /^\d{1,15}$/.test(digits ?? "") ? Number(digits) : undefined;
}

/** The commands that list a folder. LIST is older, and with `-a` does not leave out hidden files. */
const LISTS = [["MLSD", readFacts], ["LIST -a", readLong], ["LIST", readLong]] as const;

/**
 * A connection to an FTP server. Its methods throw a {@linkcode Refusal} if the server says no, what
 * {@linkcode readReply} throws, or the connection's error.
 */
export class Ftp {
  #home = ""; // where relative paths start
  #hasEpsv = true;
  #lists = LISTS.slice(); // those that the server may know

  /** Takes over `conn`; with `tls`, its data connections are TLS as well. */
  constructor(
    readonly conn: FramedConn,
    readonly tls?: { hostname: string; caCerts: string[] },
  ) {}

  /** Connects, and logs in; errors are named after the address. */
  static async open(
    endpoint: Endpoint & FramedConnOptions,
    user?: string,
    password?: string,
  ): Promise<Ftp> {
    const { tls, ca, host: hostname } = endpoint;
    const conn = new FramedConn(await connect(endpoint), endpoint);
    try {
      const caCerts = ca ? [await readPem(ca)] : [];
      const ftp = new Ftp(conn, tls ? { hostname, caCerts } : undefined);
      await ftp.login(user, password);
      return ftp;
    } catch (error) {
      conn.close();
      throw named(conn.peer, error);
    }
  }

  /**
   * Waits for the greeting, and logs in, anonymously unless told otherwise.
   *
   * @throws {UsageError} before the password is sent, if somebody on the way could read it.
   */
  async login(user = "anonymous", password = GUEST): Promise<void> {
    if (password !== GUEST && !isPrivate(this.conn.conn)) {
      throw new UsageError("a password is not sent without --tls");
    }
    const greeting = await readReply(this.conn);
    if (!greeting.startsWith("220")) throw new Refusal("greeting", greeting);
    const reply = await this.#command(`USER ${user}`, /^(230|331)/);
    if (reply.startsWith("331")) await this.#command(`PASS ${password}`, /^2/, "PASS ***");
    await this.#command("TYPE I");
    if (this.tls) { // RFC 4217, 9
      await this.#command("PBSZ 0");
      await this.#command("PROT P");
    }
    const pwd = await this.#command("PWD", /^257 "/);
    this.#home = /"((?:[^"]|"")*)/.exec(pwd)?.[1].replaceAll('""', '"') ?? "";
  }

  /** A path from the root, without a slash at its end; a relative one starts where the login ended. */
  absolute(path = ""): string {
    const whole = path.startsWith("/") ? path : `${this.#home}/${path}`;
    return whole.replace(/^\/\/+/, "/").replace(/\/+$/, "");
  }

  /** A file's size in octets, if the server tells. */
  async size(path: string): Promise<number | undefined> {
    const reply = await this.#ask(`SIZE ${this.absolute(path)}`);
    return readSize(/^213 +(\d+) *$/.exec(reply)?.[1]);
  }

  /** When a file was modified, in seconds since 1970, if the server tells. */
  async modified(path: string): Promise<number | undefined> {
    const reply = await this.#ask(`MDTM ${this.absolute(path)}`);
    return readTime(/^213 +(\S+) *$/.exec(reply)?.[1]);
  }

  /** What a folder has, in the order of the names. */
  async list(path?: string): Promise<Entry[]> {
    // As an argument of LIST some servers would take it for options or a pattern.
    await this.#command(`CWD ${this.absolute(path) || "/"}`);
    for (;;) {
      const [command, read] = this.#lists[0];
      const entries: Entry[] = [];
      try {
        await this.transfer(command, async (data) => {
          for (let line; (line = await data.readLine()) !== null;) {
            if (data.bytesRead + OVERHEAD * entries.length > MAX_LIST) {
              throw new LimitError(`list that takes more than ${MAX_LIST} bytes`);
            }
            if (!/^(total \d+)?$/.test(line)) entries.push(read(line));
          }
        });
        return entries.filter(({ kind }) => kind !== ".").sort((a, b) => a.name < b.name ? -1 : 1);
      } catch (error) {
        const isUnknown = error instanceof Refusal && error.reply.startsWith("50");
        if (!isUnknown || this.#lists.length === 1) throw error;
        this.#lists.shift();
      }
    }
  }

  /**
   * Has the server send or take something, from `offset` on, and returns when it says that all is done.
   *
   * @param work reads from the data connection to its end, or writes to it.
   */
  async transfer(
    command: string,
    work: (data: FramedConn) => Promise<void>,
    offset = 0,
  ): Promise<void> {
    const { hostname } = this.conn.conn.remoteAddr as Deno.NetAddr;
    const { options } = this.conn;
    const { timeout = 10_000 } = options;
    const conn = await connect({ host: hostname, port: await this.#passive(), timeout });
    let data = new FramedConn(conn, options);
    try {
      if (offset > 0) await this.#command(`REST ${offset}`, /^350/);
      await this.#command(command, /^1/);
      if (this.tls) {
        data = new FramedConn(await Deno.startTls(conn as Deno.TcpConn, this.tls), options);
      }
      const run = async () => {
        await work(data);
        // Over TLS some servers wait for this at the end of what they send, too.
        await deadline(data.conn.closeWrite(), timeout).catch((error) => {
          throw new Error(`cannot end the data: ${reason(error)}`);
        });
      };
      const failure = await run().catch((error) => error);
      // Else that waits for the reply: with something unread, as a session ticket of TLS is, closing
      // it would reset it, and what was sent could be lost.
      if (failure) data.close();
      const reply = await readReply(this.conn).catch((error) => {
        throw failure ?? error;
      });
      const isDone = /^(226|250)/.test(reply);
      const refusal = new Refusal(command, reply);
      if (failure) throw isDone ? failure : named(refusal.message, failure);
      if (!isDone) throw refusal;
    } finally {
      data.close();
    }
  }

  /** Asks for a data connection; returns the port. */
  async #passive(): Promise<number> {
    const isPort = (port: number) => port > 0 && port < 65536;
    if (this.#hasEpsv) {
      const reply = await this.#ask("EPSV");
      const port = Number(/^229.*\(([!-~])\1\1(\d{1,5})\1\)/.exec(reply)?.[2]);
      if (isPort(port)) return port;
      if (!reply.startsWith("5")) throw new Refusal("EPSV", reply);
      this.#hasEpsv = false;
    }
    const reply = await this.#ask("PASV");
    // Servers differ in what they put around the six numbers (RFC 1123, 4.1.2.6).
    const [, high, low] = /^227.*?(?:\d{1,3},){4}(\d{1,3}),(\d{1,3})/.exec(reply) ?? [];
    const port = Number(high) * 256 + Number(low);
    if (isPort(port)) return port;
    throw new Refusal("PASV", reply);
  }

  /** Throws unless the server still answers. */
  async check(): Promise<void> {
    await this.#command("NOOP");
  }

  /** Leaves. All is done by then: how the server takes it does not matter. */
  async quit(): Promise<void> {
    await this.#ask("QUIT").catch(() => {});
    await this.conn.end();
  }

  /** Sends a command, and returns the reply, which has to be `expected`. */
  async #command(line: string, expected = /^2/, shown = line): Promise<string> {
    const reply = await this.#ask(line, shown);
    if (expected.test(reply)) return reply;
    throw new Refusal(line, reply);
  }

  /** Sends a line, `shown` in its place in a trace, and returns the reply. */
  async #ask(line: string, shown = line): Promise<string> {
    if (/[\r\n\0]/.test(line)) throw new UsageError("a command cannot hold a CR, LF or NUL");
    if (this.conn.buffered > 0) { // what comes unasked would pass for the answer
      throw new Refusal("unasked", await readReply(this.conn).finally(() => this.conn.close()));
    }
    // A server that has hung up may have said why, and if not the reading fails.
    await this.conn.writeAll(`${line}\r\n`, `${shown}\r\n`).catch(() => {});
    return await readReply(this.conn);
  }
}

/** How a file is received or sent. */
export type TransferOptions = {
  resume?: boolean; // go on where an earlier transfer ended
  bar?: typeof progressBar; // shows how far it is
  size?: number; // of a file to receive, in octets, if it is known
  modified?: number; // the time that it gets, in seconds since 1970; none: now
};

/** Receives a file into `path`, by way of `path.part`, and returns its size in octets. */
export async function download(
  ftp: Ftp,
  remote: string,
  path: string,
  { resume = false, bar = progressBar, size: total, modified }: TransferOptions,
): Promise<number> {
  const part = `${path}.part`;
  let size = resume ? (await infoOf(part))?.size ?? 0 : 0;
  if (total !== undefined && size > total) {
    throw new Error(`${part} has ${size} bytes, and the server's file ${total}`);
  }
  const draw = total === undefined ? () => {} : bar(total);
  await ftp.transfer(`RETR ${ftp.absolute(remote)}`, async (data) => {
    using file = await Deno.open(part, { create: true, write: true, truncate: !resume });
    await file.seek(size, Deno.SeekMode.Start);
    for (let octets; draw(size), (octets = await data.readSome()) !== null;) {
      await writeAll(file, octets);
      size += octets.length;
      if (total !== undefined && size > total) throw new Error(`more came than ${total} bytes`);
    }
  }, size).catch((error) => {
    throw size > 0 ? named(`${size} bytes kept in ${part}`, error) : error;
  });
  if (total !== undefined && size < total) {
    throw new Error(`connection ended after ${size} of ${total} bytes, kept in ${part}`);
  }
  if (modified !== undefined) await Deno.utime(part, modified, modified);
  await Deno.rename(part, path);
  return size;
}

/** Sends the file `path`, and returns its size in octets. */
export async function upload(
  ftp: Ftp,
  path: string,
  remote: string,
  { resume = false, bar = progressBar }: TransferOptions,
): Promise<number> {
  using file = await Deno.open(path);
  const { isFile, size } = await file.stat();
  if (!isFile) throw new Error(`${path}: not a file`);
  let sent = resume ? await ftp.size(remote) ?? 0 : 0;
  if (sent > size) throw new Error(`${path} has ${size} bytes, and the server's file ${sent}`);
  await file.seek(sent, Deno.SeekMode.Start);
  const draw = bar(size);
  // APPE would put it behind what the server may still be writing of the earlier transfer.
  await ftp.transfer(`STOR ${ftp.absolute(remote)}`, async (data) => {
    const buffer = new Uint8Array(BUFFER);
    for (let n; draw(sent), (n = await file.read(buffer)) !== null; sent += n) {
      await data.writeAll(buffer.subarray(0, n));
    }
  }, sent).catch((error) => {
    throw named(`${sent} of ${size} bytes sent`, error);
  });
  const stored = await ftp.size(remote) ?? sent;
  if (stored !== sent) throw new Error(`${sent} bytes sent, and the server has ${stored}`);
  return sent;
}

/** What is at a path of ours, if anything. */
async function infoOf(path: string): Promise<Deno.FileInfo | undefined> {
  try {
    return await Deno.stat(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return undefined;
    throw error;
  }
}

/** Whether a name stays in its folder, and on its line when somebody lists that. */
function isName(name: string): boolean {
  return !/^\.{0,2}$|[/\\\p{Cc}\ufffd]/u.test(name);
}

/** How a folder is copied, and what is told of it. */
export type MirrorOptions = {
  jobs: number; // how many files at once
  resume: boolean; // go on where earlier transfers ended
  open: () => Promise<Ftp>; // a further connection, as each job has its own
  say: (line: string) => void; // of all that fails or is left out
};

/**
 * Copies what is below a folder of the server into the folder `local`. What is there already, with
 * the size and the time of the server's file, is not received again. Links are left out.
 *
 * @returns how many files were received, how many there were already, and how much failed.
 * @throws {LimitError} if there is no end to the folder; an error, too, if the connection fails before
 * it is known what there is.
 */
export async function mirror(
  first: Ftp,
  remote: string,
  local: string,
  { jobs, resume, open, say }: MirrorOptions,
): Promise<{ received: number; unchanged: number; failed: number }> {
  const counts = { received: 0, unchanged: 0, failed: 0 };
  const fail = (what: string, error: unknown) => {
    counts.failed++;
    say(`${what}: ${reason(error)}`);
  };
  /** Does a part of it. If that fails the others go on, unless the connection is dead. */
  async function attempt(ftp: Ftp, what: string, work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (error instanceof Deno.errors.NotCapable) throw error;
      fail(what, error);
      await ftp.check();
    }
  }

  const files: { remote: string; local: string; entry: Entry }[] = [];
  const folders = [{ remote: first.absolute(remote), local, above: [] as unknown[] }];
  for (const { remote, local, above } of folders) { // it grows meanwhile
    await attempt(first, remote || "/", async () => {
      const entries = await first.list(remote);
      await Deno.mkdir(local, { recursive: true });
      const names = new Set<string>();
      for (const entry of entries) {
        const { kind, name, unique } = entry;
        const path = { remote: `${remote}/${name}`, local: join(local, name) };
        const isTaken = names.has(name) || names.has(name.replace(/\.part$/, ""));
        names.add(name);
        if (kind === "l") say(`${path.remote}: a link, left out`);
        else if (kind === "?") fail(path.remote, "neither a file nor a folder, or not to be read");
        else if (!isName(name)) fail(path.remote, "not a safe name");
        else if (isTaken) {
          fail(path.remote, "the name is in use, maybe for a file that is not whole");
        } else if (kind === "-") files.push({ ...path, entry });
        else if (above.length === MAX_DEPTH) fail(path.remote, `in more than ${MAX_DEPTH} folders`);
        else if (unique && above.includes(unique)) {
          say(`${path.remote}: a folder in itself, left out`);
        } else folders.push({ ...path, above: [...above, unique] });
      }
    });
    if (files.length + folders.length + counts.failed > MAX_ENTRIES) {
      throw new LimitError(`more than ${MAX_ENTRIES} files and folders`);
    }
  }

  const total = files.reduce((sum, { entry }) => sum + (entry.size ?? NaN), 0);
  const draw = total > 0 ? progressBar(total) : () => {};
  let done = 0;
  const bar = () => {
    let before = 0;
    return (now: number) => {
      if (now > before) draw(done += now - before);
      before = now;
    };
  };
  const queue = files.values();
  async function work(connecting: Promise<Ftp>): Promise<void> {
    const ftp = await connecting;
    for (const { remote, local, entry } of queue) {
      await attempt(ftp, remote, async () => {
        const size = entry.size ?? await ftp.size(remote);
        const modified = entry.modified ?? await ftp.modified(remote);
        const old = await infoOf(local);
        const isSame = old?.isFile && old.size === size && Number(old.mtime) / 1000 === modified;
        if (isSame) bar()(old.size);
        else await download(ftp, remote, local, { resume, bar, size, modified });
        counts[isSame ? "unchanged" : "received"]++;
      });
    }
    if (ftp !== first) await ftp.quit();
  }
  const connections = [Promise.resolve(first), ...files.slice(1, jobs).map(open)];
  await Promise.all(connections.map((connecting) =>
    work(connecting).catch((error) => {
      if (error instanceof Deno.errors.NotCapable) throw error;
      say(reason(error));
    })
  ));
  for (const { remote } of queue) fail(remote, "no connection is left");
  return counts;
}

/** Says something on stderr, in place of a progress bar. */
function say(line: string): void {
  console.error(`${Deno.stderr.isTerminal() ? "\r\x1b[K" : ""}${NAME}: ${printable(line)}`);
}

type Options = { jobs: number; resume: boolean; open: () => Promise<Ftp> };
type Run = (ftp: Ftp, options: Options, args: string[]) => Promise<number | void>;

async function list(ftp: Ftp, _: Options, [path]: string[]): Promise<void> {
  for (const { kind, name, size, date } of await ftp.list(path)) {
    const columns = [kind, `${size ?? ""}`.padStart(13), (date ?? "").padEnd(16), printable(name)];
    console.log(columns.join(" "));
  }
}

async function get(ftp: Ftp, { resume }: Options, [remote, given = "."]: string[]): Promise<void> {
  const isFolder = (await infoOf(given))?.isDirectory;
  if (isFolder && !isName(basename(remote))) throw new UsageError(`${remote} has no file's name`);
  const local = isFolder ? join(given, basename(remote)) : given;
  const size = await download(ftp, remote, local, { resume, size: await ftp.size(remote) });
  say(`received ${local}, ${size} bytes`);
}

async function put(ftp: Ftp, { resume }: Options, [local, given = ""]: string[]): Promise<void> {
  const remote = /(^|\/)$/.test(given) ? given + basename(local) : given;
  say(`sent ${remote}, ${await upload(ftp, local, remote, { resume })} bytes`);
}

async function copy(ftp: Ftp, options: Options, [remote, given]: string[]): Promise<number> {
  const local = given ?? (isName(basename(remote)) ? basename(remote) : ".");
  const { received, unchanged, failed } = await mirror(ftp, remote, local, { ...options, say });
  say(`${local}: ${received} files received, ${unchanged} unchanged, ${failed} failed`);
  return failed > 0 ? 1 : 0;
}

/** The commands, each with its arguments. */
const COMMANDS: Commands<Run> = {
  ls: ["[PATH]", list],
  get: ["REMOTE [LOCAL]", get],
  put: ["LOCAL [REMOTE]", put],
  mirror: ["REMOTE [LOCAL]", copy],
};

if (import.meta.main) {
  const { unix: _, ...flags } = clientFlags(PORT); // the data connections take addresses
  const program = {
    name: NAME,
    about: `Lists folders of an FTP server, receives and sends files, copies folders. The commands:

${listCommands(COMMANDS)}

get and mirror need --allow-read and --allow-write, put needs --allow-read, and --user needs
--allow-env=FTP_PASSWORD, and asks for the password if that is not set. A name that starts with a
dash comes after --: get -- -name`,
    usage: "COMMAND [ARG]...",
    permissions: "--allow-net",
    flags: {
      ...flags,
      user: optional("NAME", "log in, over TLS or on this machine only"),
      resume: toggle("go on where an earlier get, put or mirror of it ended"),
      jobs: flag("N", "mirror: receive so many files at once", number(1, 16), "4"),
    },
  };
  await main(program, async ({ user, ...flags }, command, ...args) => {
    const run = chooseCommand(COMMANDS, command, args);
    const password = user && await askPassword("FTP_PASSWORD", "password: ");
    const open = () => Ftp.open(flags, user, password);
    const ftp = await open();
    const code = await run(ftp, { ...flags, open }, args);
    await ftp.quit();
    return code;
  });
}
