#!/usr/bin/env -S deno run --allow-net --allow-read
/**
 * An FTP server for the files of a folder (RFC 959, and 2389, 2428, 2640, 3659 for what came later):
 * everybody reads, and one who has the password writes, too.
 *
 *     deno run --allow-net --allow-read scripts/ftp_server.ts lib
 *     curl ftp://127.0.0.1:8021/
 *
 * Who may write is a user, whose password is in the environment:
 *
 *     FTP_PASSWORD=secret deno run --allow-net --allow-read --allow-write \
 *       --allow-env=FTP_PASSWORD scripts/ftp_server.ts --user me .
 *     curl -T README.md ftp://me:secret@127.0.0.1:8021/copy.md
 *
 * Commands go over one connection, and each file or list over another: the client opens it to a port
 * that it is told (PASV, EPSV), or the server to one of the client's (PORT, EPRT). Its other end is
 * the client's address, whatever the client says, or the server would attack others for it (RFC 2577).
 * With `--cert` both are TLS from the first octet; PORT and EPRT are then refused, as Deno has no
 * server's side of TLS for a connection that it opens. A client that stores a file and leaves before
 * it has read the tickets that end TLS 1.3's handshake cuts itself off, which is reported and leaves
 * nothing: `curl` may need `--tls-max 1.2`.
 *
 * A file is stored whole or not at all. That it ends FTP tells only by the end of its connection, so
 * "whole" means: that ended in order, and the other one is still there. ABOR, a reset, or a client that
 * is gone leaves nothing; one that stops in the middle and stays is believed. REST and APPE make a
 * copy first, so that what there was stays until the new is whole. Only a server that is killed leaves
 * a file `.NUMBER.part` behind.
 *
 * Links are followed to what is below ROOT, and never written, renamed or removed; other links are not
 * there, nor is a name that a line cannot hold or that is not UTF-8.
 *
 * Mirrors FTP of tutorials 002 and 003, which name `ftplib`, the client. What its methods meet here:
 *
 * | `ftplib.FTP` | Deno |
 * | --- | --- |
 * | `connect()`, `getwelcome()` | `listen()`, `serve()`, `converse()` |
 * | `login()` | `USER`, `PASS` |
 * | `makepasv()` | `passive()`: `Deno.listen()`, `listener.accept()` |
 * | `makeport()` | `active()`: `Deno.connect()` |
 * | `retrbinary()`, `retrlines()` | `retrieve()`: `file.readSync()`, `conn.write()` |
 * | `storbinary()`, `storlines()` | `store()`: `conn.read()`, `file.write()`, `Deno.renameSync()` |
 * | `nlst()`, `dir()`, `mlsd()` | `list()`: `Deno.readDirSync()`, `Deno.statSync()` |
 * | `abort()` | `converse()`, which reads on during a transfer |
 * | `cwd()`, `size()`, `delete()`, `mkd()`, `rename()` ... | the command of that name |
 *
 * In pyftpdlib, a server in Python, each command is a method as well, `ftp_RETR()`.
 *
 * @module
 */
import { isIP } from "node:net";
import { delay } from "@std/async/delay";
import {
  connect,
  isAllowed,
  listen,
  parseAccessList,
  readPem,
  reason,
  UsageError,
} from "../lib/address.ts";
import { main, optional, serverFlags, stopSignal } from "../lib/cli.ts";
import { type FramedConn, printable, trace } from "../lib/framing.ts";
import { isBelow, isSecret, serve } from "../lib/server.ts";

const PORT = 8021;
const MAX_LINE = 8192; // octets of a command
const MAX_WAITING = 100; // commands that wait for the end of a transfer
const MAX_FAILURES = 3; // logins
const CONNECT_TIMEOUT = 30_000; // milliseconds
const BUFFER = 1024 * 1024; // octets of a file
const HALF_A_YEAR = 183 * 24 * 60 * 60 * 1000; // milliseconds
const FACTS = ["type", "size", "modify"];
const [CR, LF] = [13, 10];
const [IAC, WILL, LOWEST_COMMAND] = [255, 251, 240]; // Telnet's
/** The files that are not whole yet, by their temporary names. */
const unfinished = new Set<string>();

/** What the server serves, and to whom. */
export type Site = {
  root: string; // the folder, by its real path
  user?: string; // who may write; none: nobody
  password?: string;
  cert?: string; // PEM; none: no TLS
  key?: string;
  trace?: boolean; // print commands and replies on stderr
};

/** Where the next data connection comes from. */
type DataPort = { open(): Promise<Deno.Conn>; close(): void };

/** A client, and what it has told so far. */
class Session {
  name?: string; // that USER gave
  rights: "none" | "read" | "write" = "none";
  failures = 0;
  folder = "/"; // below the root
  ascii = true; // TYPE A
  facts = FACTS; // of MLST and MLSD
  offset = 0; // that REST gave
  from?: string; // that RNFR gave, by its real path
  onlyEpsv = false;
  over = false; // it gets no more replies
  ended = false; // it sends no more commands
  dataPort?: DataPort;
  transfer?: AbortController;
  readonly client: string; // its address
  readonly local: string; // ours, as it sees it
  #sent = Promise.resolve();

  constructor(readonly conn: FramedConn, readonly site: Site) {
    [this.client, this.local] = [hostOf(conn.conn.remoteAddr), hostOf(conn.conn.localAddr)];
  }

  /** Sends a reply, of one line or many, after those before it. */
  reply(text: string): Promise<void> {
    const lines = text.replaceAll("\n", "\r\n") + "\r\n";
    if (this.site.trace) trace(">", this.conn.peer, new TextEncoder().encode(lines));
    return this.#sent = this.#sent.then(() => this.conn.writeAll(lines));
  }

  setDataPort(port?: DataPort): void {
    this.dataPort?.close();
    this.dataPort = port;
  }
}

function hostOf(address: Deno.Addr): string {
  return "hostname" in address ? address.hostname.replace(/^::ffff:(?=\d+\.)/, "") : "";
}

/** A reply that something cannot be done. */
class Refusal extends Error {}

const missing = () => new Refusal("550 There is no such file or folder.");

function isName(name: string): boolean {
  return !/^\.{0,2}$|^~$|[\p{Cc}\ufffd/\\]/u.test(name);
}

/** A path from the root, in its shortest form; `..` leads up to the root and not past it. */
function absolute({ folder }: Session, path: string): string {
  const names: string[] = [];
  for (const name of (path.startsWith("/") ? path : `${folder}/${path}`).split("/")) {
    if (isName(name)) names.push(name);
    else if (name === ".." ? !names.pop() : name !== "." && name !== "") throw missing();
  }
  return `/${names.join("/")}`;
}

/**
 * Finds a file or folder below the root, by its real path; no link leads out of it. These calls are
 * the synchronous ones, so that no other client can change what is there between such a look and what
 * follows.
 */
function locate(s: Session, path: string): { real: string; info: Deno.FileInfo } {
  const { root } = s.site;
  const real = Deno.realPathSync(root + absolute(s, path));
  if (!isBelow(root, real)) throw missing();
  const info = Deno.statSync(real);
  if (!info.isFile && !info.isDirectory) throw missing(); // a pipe would wait for ever
  return { real, info };
}

/** Finds where a file or folder is or could be: in a folder that is there, and not a link. */
function place(s: Session, path: string): { real: string; info?: Deno.FileInfo } {
  const [, folder, name] = /^(.*\/)([^/]*)$/.exec(absolute(s, path)) ?? [];
  if (!name) throw new Refusal("550 It is the root.");
  const real = `${locate(s, folder).real}/${name}`;
  try {
    const info = Deno.lstatSync(real);
    if (info.isFile || info.isDirectory) return { real, info };
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return { real };
    throw error;
  }
  throw new Refusal("550 It is neither a file nor a folder.");
}

/** Listens for the next data connection; returns the port. */
async function passive(s: Session): Promise<number> {
  const { cert, key } = s.site;
  const listener = await listen({ host: s.local, port: 0, cert, key }).catch((error) => {
    throw new Refusal(`425 Cannot listen: ${reason(error)}.`);
  });
  s.setDataPort({
    async open() {
      for (;;) {
        const conn = await listener.accept();
        if (hostOf(conn.remoteAddr) === s.client) return conn;
        conn.close();
      }
    },
    close: () => listener.close(),
  });
  return (listener.addr as Deno.NetAddr).port;
}

/** Notes where the next data connection goes: to the client itself, and to no service (RFC 2577, 3). */
function active(s: Session, host: string, port: number): string {
  if (s.onlyEpsv || s.site.cert) return "503 Here it is EPSV only.";
  const client = { transport: "tcp", hostname: s.client, port } as const;
  // IPv6 has many spellings, but none with a `%` is of use to others.
  const own = isIP(host) > 0 && !host.includes("%") && isAllowed(parseAccessList([host]), client);
  if (!own || port < 1024 || port > 65535) return "504 It has to be a port of yours from 1024 up.";
  const open = () => connect({ host: s.client, port, timeout: CONNECT_TIMEOUT });
  s.setDataPort({ open, close() {} });
  return "200 Noted.";
}

/** The number of an address's protocol in EPSV and EPRT (RFC 2428, 2). */
const protocolOf = (host: string) => isIP(host) === 6 ? "2" : "1";

/**
 * Opens the data connection, does `work` with it until that ends or is aborted, which `signal` tells,
 * and closes it. Returns the last reply.
 */
async function transfer(
  s: Session,
  what: string,
  work: (data: Deno.Conn, signal: AbortSignal) => Promise<void>,
): Promise<string> {
  const { dataPort } = s;
  if (!dataPort || s.ended) return "425 EPSV, PASV, EPRT or PORT comes first.";
  s.dataPort = undefined;
  let data: Deno.Conn | undefined;
  const end = s.transfer = new AbortController();
  end.signal.onabort = () => {
    dataPort.close();
    data?.close();
  };
  try {
    await s.reply(`150 ${what}`);
    data = await dataPort.open();
    if (end.signal.aborted) data.close();
    await work(data, end.signal);
    return "226 Done.";
  } catch (error) {
    const why = end.signal.aborted ? "aborted" : reason(error);
    console.error(`ftp_server: ${s.conn.peer}: ${printable(`${what}: ${why}`)}`);
    return data ? `426 ${systemText(error) ?? "Cut off"}.` : "425 There is no data connection.";
  } finally {
    s.transfer = undefined;
    end.abort();
  }
}

/** What the system says of an error, without the path behind it, which is the server's business. */
function systemText(error: unknown): string | undefined {
  return /^(.*?) \(os error \d+\)/.exec(error instanceof Error ? error.message : "")?.[1];
}

type Pieces = AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

/**
 * So many octets of a file, or all of a connection, in pieces that are valid until the next. Read
 * ahead by the system, a file is there in microseconds, and waiting for a thread to say so took a
 * third of the server's time.
 */
async function* read(from: Deno.FsFile | Deno.Conn, left = Infinity): AsyncGenerator<Uint8Array> {
  const buffer = new Uint8Array(Math.min(BUFFER, left));
  while (left > 0) {
    const room = buffer.subarray(0, left);
    const n = from instanceof Deno.FsFile ? from.readSync(room) : await from.read(room);
    if (n === null && left < Infinity) throw new Error("the file became shorter meanwhile");
    if (n === null) return;
    yield buffer.subarray(0, n);
    left -= n;
  }
}

/** Writes it all. What moves here keeps {@linkcode serve} from finding the client silent. */
async function write(s: Session, to: Deno.FsFile | Deno.Conn, pieces: Pieces): Promise<void> {
  for await (let rest of pieces) {
    while (rest.length > 0) {
      const n = await to.write(rest);
      s.conn.bytesWritten += n;
      rest = rest.subarray(n);
    }
  }
}

/** TYPE A on the way out: a CR before each LF, so that on the way in every file is itself again. */
async function* toAscii(pieces: Pieces): AsyncGenerator<Uint8Array> {
  for await (const piece of pieces) {
    const text = new Uint8Array(2 * piece.length);
    let n = 0;
    for (let i = 0; i < piece.length; i++) {
      if (piece[i] === LF) text[n++] = CR;
      text[n++] = piece[i];
    }
    yield text.subarray(0, n);
  }
}

/** TYPE A on the way in: no CR before LF, which may be in the next piece. */
async function* fromAscii(pieces: Pieces): AsyncGenerator<Uint8Array> {
  let last = 0;
  for await (const piece of pieces) {
    const text = new Uint8Array(piece.length + 1);
    let n = 0;
    for (let i = 0; i < piece.length; i++) {
      if (last === CR && piece[i] !== LF) text[n++] = CR;
      last = piece[i];
      if (last !== CR) text[n++] = last;
    }
    yield text.subarray(0, n);
  }
  if (last === CR) yield Uint8Array.of(CR);
}

async function send(s: Session, data: Deno.Conn, pieces: Pieces): Promise<void> {
  await write(s, data, pieces);
  await data.closeWrite();
}

function checkOffset({ offset, ascii }: Session, size: number): void {
  if (offset > 0 && ascii) throw new Refusal("504 REST goes with TYPE I.");
  if (offset > size) throw new Refusal("554 REST is past the end.");
}

async function retrieve(s: Session, path: string): Promise<string> {
  const { real, info } = locate(s, path);
  const { offset, ascii } = s;
  if (!info.isFile) throw new Refusal("550 It is no file.");
  checkOffset(s, info.size);
  using file = Deno.openSync(real);
  file.seekSync(offset, Deno.SeekMode.Start);
  const size = info.size - offset;
  const what = ascii ? path : `${path} (${size} bytes)`; // a form that clients look for
  return await transfer(s, what, (data) => {
    return send(s, data, ascii ? toAscii(read(file, size)) : read(file, size));
  });
}

/** Stores a file, whole or not at all, behind the first `offset` octets of the one that is there. */
async function store(s: Session, path: string, offset: number, what = path): Promise<string> {
  const { real, info } = place(s, path);
  const { ascii } = s;
  if (info?.isDirectory) throw new Refusal("553 It is a folder.");
  checkOffset(s, info?.size ?? 0);
  const temporary = real.replace(/[^/]*$/, `.${crypto.randomUUID()}.part`);
  using file = Deno.openSync(temporary, { write: true, createNew: true });
  unfinished.add(temporary);
  try {
    return await transfer(s, what, async (data, signal) => {
      if (offset > 0) {
        using old = Deno.openSync(real);
        await write(s, file, read(old, offset));
      }
      await write(s, file, ascii ? fromAscii(read(data)) : read(data));
      // A client that is gone ends both connections at once, and some turns later that is known here.
      for (let turn = 0; turn < 3; turn++) await delay(0);
      signal.throwIfAborted();
      Deno.renameSync(temporary, real);
      unfinished.delete(temporary);
    });
  } finally {
    if (unfinished.delete(temporary)) Deno.removeSync(temporary);
  }
}

/** When it was changed, as YYYYMMDDHHMMSS in UTC (RFC 3659, 2.3). */
function timeValue({ mtime }: Deno.FileInfo): string {
  return (mtime ?? new Date(0)).toISOString().replace(/\..*|\D/g, "");
}

/** A line of MLST and MLSD: the facts that the client wants (RFC 3659, 7.2). */
function factsLine({ facts }: Session, info: Deno.FileInfo, name: string): string {
  const [type, size] = info.isFile ? ["file", info.size] : ["dir"];
  const values: Record<string, unknown> = { type, size, modify: timeValue(info) };
  const known = facts.filter((fact) => values[fact] !== undefined);
  return known.map((fact) => `${fact}=${values[fact]};`).join("") + ` ${name}`;
}

/** A line of LIST: as of `ls -l`, in UTC. */
function longLine(_: Session, info: Deno.FileInfo, name: string): string {
  const { isFile, mode, nlink, size, mtime } = info;
  const date = mtime ?? new Date(0);
  const bits = Array.from("rwxrwxrwx", (bit, i) => (mode ?? 0o755) >> (8 - i) & 1 ? bit : "-");
  const [, day, month, year, time] = date.toUTCString().split(" ");
  const recent = Math.abs(Date.now() - date.getTime()) < HALF_A_YEAR;
  const when = `${month} ${day.replace(/^0/, " ")} ${recent ? time.slice(0, 5) : ` ${year}`}`;
  const mark = (isFile ? "-" : "d") + bits.join("");
  return `${mark} ${nlink ?? 1} ftp ftp ${`${size}`.padStart(13)} ${when} ${name}`;
}

/** The lines for a file, or for all that is in a folder and can be asked for. */
function list(s: Session, path: string, line: typeof longLine, prefix = ""): string[] {
  const { real, info } = locate(s, path);
  if (info.isFile) return [line(s, info, path)];
  const names = Array.from(Deno.readDirSync(real), ({ name }) => name).filter(isName).sort();
  return names.flatMap((name) => {
    try {
      let info = Deno.lstatSync(`${real}/${name}`);
      if (!info.isFile && !info.isDirectory) info = locate(s, `${path || "."}/${name}`).info;
      return line(s, info, prefix + name);
    } catch {
      return []; // a link that leads out, a pipe, or gone meanwhile
    }
  });
}

function sendList(s: Session, lines: string[]): Promise<string> {
  const text = new TextEncoder().encode(lines.map((line) => `${line}\r\n`).join(""));
  return transfer(s, "Here is the list.", (data) => send(s, data, [text]));
}

/** `ls` has options, which clients send along. */
const withoutOptions = (argument: string) => argument.replace(/^(-\S*( +|$))+/, "");

/** A path in a reply, its quotes doubled. */
const quoted = (path: string) => `"${path.replaceAll('"', '""')}"`;

/** By command, what makes the last reply to it. */
type Commands = Record<string, (s: Session, argument: string) => string | Promise<string>>;

const FOR_ALL: Commands = {
  USER(s, name) {
    [s.name, s.rights] = [name, "none"];
    return "331 The password, please; for anonymous any will do.";
  },
  PASS(s, password) {
    const { name, site } = s;
    if (name === undefined) return "503 USER comes first.";
    s.name = undefined;
    const isWriter = isSecret(`${name}\0${password}`, `${site.user}\0${site.password}`);
    if (site.user && site.password && isWriter) s.rights = "write";
    else if (/^(anonymous|ftp)$/i.test(name)) s.rights = "read";
    if (s.rights !== "none") return `230 You may ${s.rights}.`;
    s.over = ++s.failures === MAX_FAILURES;
    return s.over ? "421 Wrong, once too often." : "530 Wrong name or password.";
  },
  QUIT(s) {
    s.over = true;
    return "221 Goodbye.";
  },
  NOOP: () => "200 Nothing done.",
  SYST: () => "215 UNIX Type: L8",
  HELP: () => `214-The commands:\n ${VERBS.join(" ")}\n214 That is all.`,
  FEAT({ facts, site }) {
    const mlst = FACTS.map((fact) => facts.includes(fact) ? `${fact}*;` : `${fact};`).join("");
    const features = [
      "EPRT",
      "EPSV",
      "MDTM",
      `MLST ${mlst}`,
      "REST STREAM",
      "SIZE",
      "TVFS",
      "UTF8",
    ];
    if (site.cert) features.push("PBSZ", "PROT");
    return `211-Besides RFC 959:\n ${features.join("\n ")}\n211 That is all.`;
  },
  OPTS(s, option) {
    if (/^UTF-?8( ON)?$/i.test(option)) return "200 Names are in UTF-8.";
    const [, wanted] = /^MLST ?(.*)$/i.exec(option) ?? [];
    if (wanted === undefined) return "501 There is no such option.";
    s.facts = FACTS.filter((fact) => wanted.toLowerCase().split(";").includes(fact));
    return `200 MLST OPTS ${s.facts.map((fact) => `${fact};`).join("")}`;
  },
  PBSZ: ({ site }) => site.cert ? "200 PBSZ=0" : "503 There is no TLS.",
  PROT: ({ site }, level) => site.cert && level === "P" ? "200 It is private." : "536 No.",
};

const FOR_READERS: Commands = {
  PWD: (s) => `257 ${quoted(s.folder)}`,
  CWD(s, path) {
    if (!locate(s, path).info.isDirectory) return "550 It is no folder.";
    s.folder = absolute(s, path);
    return `250 ${quoted(s.folder)}`;
  },
  CDUP: (s) => FOR_READERS.CWD(s, ".."),
  LIST: (s, argument) => sendList(s, list(s, withoutOptions(argument), longLine)),
  NLST(s, argument) {
    const path = withoutOptions(argument);
    const prefix = path.replace(/[^/]$/, "$&/"); // so that each can be asked for (RFC 1123, 4.1.2.7)
    return sendList(s, list(s, path, (_s, _info, name) => name, prefix));
  },
  MLSD(s, path) {
    if (!locate(s, path).info.isDirectory) return "501 It is no folder.";
    return sendList(s, list(s, path, factsLine));
  },
  MLST: (s, path) =>
    `250-The facts:\n ${factsLine(s, locate(s, path).info, absolute(s, path))}\n250 That is all.`,
  RETR: retrieve,
  REST(s, offset) {
    if (!/^\d{1,15}$/.test(offset)) return "501 A number of octets, please.";
    s.offset = Number(offset);
    return `350 From ${offset} on.`;
  },
  SIZE(s, path) {
    const { isFile, size } = locate(s, path).info;
    // With CRLF it is another one, which only reading the whole file tells (RFC 3659, 4).
    if (s.ascii) return "550 SIZE goes with TYPE I.";
    return isFile ? `213 ${size}` : "550 It is no file.";
  },
  MDTM: (s, path) => `213 ${timeValue(locate(s, path).info)}`,
  TYPE(s, type) {
    if (!/^(A( N)?|I|L 8)$/i.test(type)) return "504 It is A or I.";
    s.ascii = /^A/i.test(type);
    return `200 TYPE ${type}.`;
  },
  MODE: (_, mode) => /^S$/i.test(mode) ? "200 MODE S." : "504 It is S.",
  STRU: (_, structure) => /^F$/i.test(structure) ? "200 STRU F." : "504 It is F.",
  async PASV(s) {
    if (s.onlyEpsv) return "503 Here it is EPSV only.";
    if (isIP(s.local) !== 4) return "502 For IPv6 it is EPSV.";
    const port = await passive(s);
    return `227 Entering Passive Mode (${[...s.local.split("."), port >> 8, port & 255]}).`;
  },
  async EPSV(s, protocol) {
    if (/^ALL$/i.test(protocol)) {
      s.onlyEpsv = true;
      return "200 From now on it is EPSV only.";
    }
    if (!["", protocolOf(s.local)].includes(protocol)) return `522 Use (${protocolOf(s.local)}).`;
    return `229 Entering Extended Passive Mode (|||${await passive(s)}|)`;
  },
  PORT(s, argument) {
    const numbers = argument.split(",").map((digits) =>
      /^\d+$/.test(digits) ? Number(digits) : 256
    );
    if (numbers.length !== 6 || Math.max(...numbers) > 255) return "501 Six numbers, please.";
    return active(s, numbers.slice(0, 4).join("."), numbers[4] * 256 + numbers[5]);
  },
  EPRT(s, argument) {
    const [, , protocol, host, port] = /^([!-~])(\d+)\1(.+)\1(\d{1,5})\1$/.exec(argument) ?? [];
    if (!port) return "501 |PROTOCOL|ADDRESS|PORT|, please.";
    if (protocol !== protocolOf(s.local)) return `522 Use (${protocolOf(s.local)}).`;
    return active(s, host, Number(port));
  },
  ABOR(s) {
    s.setDataPort();
    return "226 Nothing is under way.";
  },
  STAT(s, argument) {
    const busy = s.transfer ? "A transfer is under way." : "No transfer is under way.";
    const type = s.ascii ? "A" : "I";
    if (!argument) return `211-You may ${s.rights}.\n TYPE ${type}, MODE S, STRU F.\n211 ${busy}`;
    const lines = list(s, withoutOptions(argument), longLine).map((line) => ` ${line}\n`);
    return `213-The list:\n${lines.join("")}213 That is all.`;
  },
};

const FOR_WRITERS: Commands = {
  STOR: (s, path) => store(s, path, s.offset),
  APPE: (s, path) => store(s, path, place(s, path).info?.size ?? 0),
  STOU(s) {
    const name = crypto.randomUUID();
    return store(s, name, 0, `FILE: ${name}`); // RFC 1123, 4.1.2.9
  },
  DELE(s, path) {
    const { real, info } = place(s, path);
    if (!info?.isFile) throw missing();
    Deno.removeSync(real);
    return "250 Deleted.";
  },
  MKD(s, path) {
    Deno.mkdirSync(place(s, path).real);
    return `257 ${quoted(absolute(s, path))}`;
  },
  RMD(s, path) {
    const { real, info } = place(s, path);
    if (!info?.isDirectory) throw missing();
    Deno.removeSync(real);
    return "250 Removed.";
  },
  RNFR(s, path) {
    const { real, info } = place(s, path);
    if (!info) throw missing();
    s.from = real;
    return "350 And the new name?";
  },
  RNTO(s, path) {
    const { from } = s;
    const { real, info } = place(s, path);
    if (!from) return "503 RNFR comes first.";
    if (info?.isDirectory) return "553 There is a folder.";
    const busy = unfinished.values().some((file) => file.startsWith(`${from}/`));
    if (busy) return "450 Something is being stored in there.";
    Deno.renameSync(from, real);
    return "250 Renamed.";
  },
};

const VERBS = [FOR_ALL, FOR_READERS, FOR_WRITERS].flatMap(Object.keys).sort();
const TRANSFERS = /^(RETR|STOR|APPE|STOU|LIST|NLST|MLSD)$/;
/** What may come between REST or RNFR and the command that it is for. */
const BETWEEN = /^(REST|RNFR|PASV|EPSV|PORT|EPRT|TYPE|NOOP|STAT)$/;

/** Does what a command says, and returns the last reply to it. */
async function execute(s: Session, verb: string, argument: string): Promise<string> {
  const command = FOR_ALL[verb] ?? FOR_READERS[verb] ?? FOR_WRITERS[verb];
  if (!command) return "500 There is no such command.";
  if (!FOR_ALL[verb] && s.rights === "none") return "530 USER and PASS come first.";
  if (FOR_WRITERS[verb] && s.rights !== "write") return "550 You may only read.";
  try {
    return await command(s, argument);
  } catch (error) {
    if (error instanceof Refusal) return error.message;
    const text = systemText(error);
    if (text) return `550 ${text}.`;
    throw error;
  } finally {
    if (!BETWEEN.test(verb)) [s.offset, s.from] = [0, undefined];
  }
}

/**
 * The lines that the client sends. LF ends one, and CR alone does: `abort()` of `ftplib` sends the LF
 * after ABOR as urgent data, which the system takes out of the stream. Telnet's commands (RFC 854),
 * which come before ABOR (RFC 959, 4.1.3), are left out.
 */
async function* readLines(conn: FramedConn): AsyncGenerator<string> {
  let line: number[] = [];
  let [last, isOption] = [0, false];
  for (let octets; (octets = await conn.readSome()) !== null;) {
    for (const octet of octets) {
      const isCommand = last === IAC && octet >= LOWEST_COMMAND;
      last = isCommand ? 0 : octet;
      if (octet === IAC || isCommand || isOption) {
        isOption = isCommand && octet >= WILL && octet < IAC;
      } else if (octet !== CR && octet !== LF) {
        const length = line.push(octet);
        if (length > MAX_LINE) throw new Refusal(`500 A line of more than ${MAX_LINE} octets.`);
      } else if (line.length > 0) {
        yield new TextDecoder().decode(Uint8Array.from(line));
        line = [];
      }
    }
  }
}

/**
 * Serves a client until it leaves. During a transfer it reads on, to learn of ABOR or that the client
 * is gone; STAT is answered at once, and other commands wait for their turn.
 */
export async function converse(conn: FramedConn, site: Site): Promise<void> {
  const s = new Session(conn, site);
  let [last, waiting] = [Promise.resolve(), 0];

  async function obey(verb: string, argument: string): Promise<void> {
    if (s.over) return;
    await s.reply(await execute(s, verb, argument));
    if (s.over) await conn.conn.closeWrite();
  }

  try {
    await s.reply("220 Ready.");
    for await (const line of readLines(conn)) {
      const shown = line.replace(/^(PASS ).*/is, "$1***");
      if (site.trace) trace("<", conn.peer, new TextEncoder().encode(`${shown}\n`));
      const [word, argument = ""] = line.split(/ (.*)/s);
      const verb = word.toUpperCase();
      if (verb === "ABOR") s.transfer?.abort();
      if (verb === "STAT" && s.transfer) {
        await obey(verb, argument);
        continue;
      }
      if (++waiting > MAX_WAITING) throw new Refusal("421 Too many commands at once.");
      last = last.then(() => obey(verb, argument))
        .then(() => void waiting--, (error) => conn.close(error)); // which the next read throws
      if (waiting === 1 && !TRANSFERS.test(verb)) await last; // else it reads on
      if (s.over) break;
    }
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    await s.reply(error.message);
  } finally {
    s.ended = true;
    s.transfer?.abort();
    await last;
    s.setDataPort();
  }
}

if (import.meta.main) {
  const { unix: _, ...flags } = serverFlags(PORT); // the data connections take addresses
  const user = "may write, with FTP_PASSWORD (--allow-write, --allow-env=FTP_PASSWORD)";
  await main({
    name: "ftp_server",
    about: "Serves the files of the folder ROOT, or of this one, over FTP.",
    usage: "[ROOT]",
    permissions: "--allow-net --allow-read",
    flags: { ...flags, user: optional("NAME", user) },
  }, async ({ user, trace, ...flags }, root = ".") => {
    const password = user && Deno.env.get("FTP_PASSWORD");
    if (user !== undefined && !password) throw new UsageError("--user: FTP_PASSWORD is not set");
    if (!(await Deno.stat(root)).isDirectory) throw new Error(`${root}: not a directory`);
    if (user) await Deno.remove(await Deno.makeTempFile({ dir: root })); // it fails now or not at all
    const listener = await listen(flags);
    const cert = flags.cert && await readPem(flags.cert);
    const key = flags.key && await readPem(flags.key);
    const site = { root: await Deno.realPath(root), user, password, cert, key, trace };
    addEventListener("unload", () => unfinished.forEach((path) => Deno.removeSync(path)));
    await serve(listener, (conn) => converse(conn, site), { ...flags, signal: stopSignal() });
  });
}
