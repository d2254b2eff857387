#!/usr/bin/env -S deno run --allow-net --allow-read --allow-write
/**
 * An SSH server (RFC 4251 to 4254) for whoever has a key that it knows: a prompt with a few commands,
 * the same commands one at a time, and the files of a folder by SFTP, to read and not to write.
 *
 *     ssh-keygen -t ed25519 -N "" -f id_ed25519
 *     deno run --allow-net --allow-read --allow-write scripts/ssh_server.ts \
 *       --authorized-keys id_ed25519.pub lib
 *     deno run --allow-net --allow-read --allow-write scripts/ssh_client.ts \
 *       --user ann --identity id_ed25519 --known-hosts known_hosts
 *     ssh -p 8022 -i id_ed25519 -o UserKnownHostsFile=known_hosts 127.0.0.1 date
 *     sftp -P 8022 -i id_ed25519 -o UserKnownHostsFile=known_hosts 127.0.0.1
 *
 * Only the first start writes anything, the host key, so later ones run without `--allow-write`.
 *
 * Mirrors "Telnet and SSH" of tutorial 002, which has no listing, in the words of `paramiko`:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `sock.accept()`, `paramiko.Transport(sock)` | `serve(listener, converse)`, `server.injectSocket()` |
 * | `transport.add_server_key(key)`, `start_server(server=...)` | `new Server({ hostKeys, ... })` |
 * | `PKey.generate()`, `write_private_key_file()` | `utils.generateKeyPairSync()`, in `openHostKey()` |
 * | `check_auth_publickey(username, key)` | `client.on("authentication", ...)` |
 * | `check_channel_exec_request()`, `..._shell_request()` | `session.on("exec", ...)`, `"shell"` |
 * | `check_channel_pty_request()`, `..._window_change_request()` | `"pty"`, `"window-change"` |
 * | `channel.send_exit_status(0)`, `channel.close()` | `channel.exit(0)`, `channel.end()` |
 * | `SFTPServerInterface.open()`, `list_folder()`, `stat()` | `serveFiles()`: `OPEN`, `READDIR`, `STAT` |
 *
 * The name that a client gives is for `who` alone: the key decides. SSH itself is by `ssh2`, as nobody
 * should write that by hand. It wants a stream of Node and gets one that reads and writes a FramedConn,
 * so that `serve()` keeps its limits here as everywhere.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { createHash } from "node:crypto";
import { posix } from "node:path";
import { Duplex, type Writable } from "node:stream";
// The types only: it is loaded where it is needed, as that takes as long as all the rest.
import type {
  Attributes,
  AuthContext,
  Channel,
  Connection,
  Emitter,
  Key,
  Pty,
  SFTPServer,
} from "ssh2";
import { join } from "@std/path";
import { listen, UsageError } from "../lib/address.ts";
import { flag, main, optional, serverFlags, stopSignal, toggle } from "../lib/cli.ts";
import { type FramedConn, LimitError, printable } from "../lib/framing.ts";
import { isBelow, serve } from "../lib/server.ts";

const PORT = 8022;
const PROMPT = "> ";
const MAX_LINE = 1000; // characters
const LOGIN_GRACE = 60_000; // milliseconds from the connection to the login
const MAX_ATTEMPTS = 20; // at a login, of which an agent makes one for each of its keys
const MAX_SESSIONS = 10; // of a connection at once
const MAX_HANDLES = 100; // open files and folders of a session
const MAX_REQUESTS = 256; // of SFTP that wait for answers while there is room for more of them
const WINDOW = 2 * 1024 * 1024; // octets that a client may send ahead, as ssh2 has it
const MAX_READ = 32_768; // octets that a client may count on at once (filexfer-02, 3)
const ENTRIES = 100; // of a folder, in one answer
const NEVER = 2 ** 31 - 1; // milliseconds, the most a timer takes

/** What of `ssh2` a client may choose from; where nothing is said, all that it has. */
const ALGORITHMS = {
  // The larger groups would let anybody who connects keep this process busy for seconds, of group
  // exchange ssh2 has only the client's side, and Deno 2.9 has no ECDH with P-521.
  kex: [
    "curve25519-sha256",
    "curve25519-sha256@libssh.org",
    "ecdh-sha2-nistp256",
    "ecdh-sha2-nistp384",
    "diffie-hellman-group14-sha256",
  ],
  compress: ["none"], // the others do not work in Deno 2.9
};
/** Status codes (filexfer-02, 7), and the flag of OPEN for reading (6.3). */
const STATUS_CODE = { OK: 0, EOF: 1, NO_SUCH_FILE: 2, PERMISSION_DENIED: 3, FAILURE: 4 };
const READ = 0x01;
/** Requests of SFTP that would change something, or tell where a link leads. */
const REFUSED = "WRITE SETSTAT FSETSTAT REMOVE MKDIR RMDIR RENAME SYMLINK READLINK".split(" ");

// From here to the end of LineEditor the same as in telnet_server.ts, to which a test holds it.

/** Somebody who is connected, as far as the commands know. */
export type User = {
  name: string;
  since: Date;
  terminal?: string; // its type, as they say
  window?: { columns: number; rows: number }; // of 0 if their program does not know
};

/** A command: what help says of it, and its answer to the text behind its name. */
type Command = [help: string, answer: (text: string, user: User, users: Set<User>) => string];

const COMMANDS: Record<string, Command> = {
  date: ["the date and time", () => new Date().toUTCString()],
  who: ["who is connected, and since when", (_, user, users) => {
    const row = ({ name, since }: User) => `${name} since ${since.toUTCString()}`;
    return Array.from(users, (other) => row(other) + (other === user ? " (you)" : "")).join("\n");
  }],
  echo: ["the TEXT behind it", (text) => text],
  size: ["your window and the type of your terminal", (_, { window, terminal }) => {
    const size = window?.columns
      ? `${window.columns} columns, ${window.rows} rows`
      : "size unknown";
    return `${size}; ${terminal || "type unknown"}`;
  }],
  help: ["these commands", () => {
    const rows = Object.entries(COMMANDS).map(([name, [help]]) => `${name.padEnd(6)}${help}`);
    return rows.join("\n");
  }],
  quit: ["the end of it", () => "bye"],
};

/**
 * Obeys a line that one of the users has typed. Returns the answer, an LF after each of its lines and
 * nothing in them that drives a terminal, and whether it is the last.
 */
export function obey(line: string, user: User, users: Set<User>): [answer: string, last: boolean] {
  const [, name, text] = /^\s*(\S*)\s*(.*?)\s*$/s.exec(line) ?? [];
  if (!name) return ["", false];
  const answer = Object.hasOwn(COMMANDS, name)
    ? COMMANDS[name][1](text, user, users)
    : `${name}: unknown command, help lists them`;
  return [answer.split("\n").map(printable).join("\n") + "\n", name === "quit"];
}

/** A line that comes a key at a time, for a screen that shows no more than it is told. */
export class LineEditor {
  #line: string[] = []; // by characters
  #sequence = ""; // the last character of an escape sequence under way

  /** For lines of at most `max` characters. */
  constructor(readonly max: number) {}

  /** How many characters the line has so far. */
  get length(): number {
    return this.#line.length;
  }

  /**
   * Takes a character. Returns what the screen is to show, where LF is a new line, and the line once
   * it is done: an empty one if ^C has dropped it, null if ^D, typed before anything else, ends all.
   *
   * @throws {LimitError} if the line gets too long.
   */
  type(key: string): [shown: string, line?: string | null] {
    switch (key) {
      case "\r":
      case "\n":
        return ["\n", this.#take()];
      case "\b":
      case "\x7f":
        return [this.#line.pop() === undefined ? "" : "\b \b"];
      case "\x15": // ^U
        return ["\b \b".repeat(this.#take().length)];
      case "\x03": // ^C
        this.#take();
        return ["^C\n", ""];
      case "\x04": // ^D
        return this.length > 0 ? [""] : ["\n", null];
      case "\x1b":
        this.#sequence = key;
        return [""];
      case "\t":
        key = " "; // which takes one place on every screen
    }
    if (this.#sequence) { // of an arrow key, for one, which else would leave its letters
      const more = this.#sequence === "\x1b" ? /[[O]/ : /[ -?]/;
      this.#sequence = more.test(key) ? key : "";
      return [""];
    }
    if (/\p{Cc}/u.test(key)) return [""];
    if (this.length === this.max) {
      throw new LimitError(`line of more than ${this.max} characters`);
    }
    this.#line.push(key);
    return [key];
  }

  #take(): string {
    const line = this.#line.join("");
    this.#line = [];
    this.#sequence = "";
    return line;
  }
}

/** A key's fingerprint, as `ssh-keygen -l` prints it. */
export function fingerprint(key: Uint8Array): string {
  return `SHA256:${createHash("sha256").update(key).digest("base64").replace(/=+$/, "")}`;
}

/** Makes a private key, in the format of OpenSSH. */
export async function makeKey(): Promise<string> {
  const { utils } = await import("ssh2");
  for (;;) {
    const { private: key } = utils.generateKeyPairSync("ed25519");
    // ssh2 1.17 takes a zero at the front for none of the key's: one in 256 it cannot read itself.
    if (!(utils.parseKey(key) instanceof Error)) return key;
  }
}

/**
 * Reads the server's own key from a file, where it is made if there is none, for its owner alone.
 * Returns it in the format of OpenSSH, and its fingerprint.
 */
export async function openHostKey(path: string): Promise<{ key: string; fingerprint: string }> {
  const key = await Deno.readTextFile(path).catch(async (error) => {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    const made = await makeKey();
    const temporary = `${path}.${crypto.randomUUID()}`;
    await Deno.writeTextFile(temporary, made, { createNew: true, mode: 0o600 });
    await Deno.rename(temporary, path);
    return made;
  });
  const { utils } = await import("ssh2");
  const parsed = utils.parseKey(key);
  if (parsed instanceof Error || !parsed.isPrivateKey()) {
    throw new Error(`${path}: not a private key without a passphrase`);
  }
  return { key, fingerprint: fingerprint(parsed.getPublicSSH()) };
}

/**
 * Reads a file of public keys as `ssh-keygen` makes them, one in a line.
 *
 * @throws {Error} naming a line that is no such key. One with options is none, either: to pass over
 * them would allow more than they do.
 */
export async function readKeys(path: string): Promise<Key[]> {
  const { utils } = await import("ssh2");
  const lines = (await Deno.readTextFile(path)).split("\n").map((line) => line.trim());
  return lines.flatMap((line, index) => {
    if (!line || line.startsWith("#")) return [];
    const key = utils.parseKey(line);
    if (!(key instanceof Error || key.isPrivateKey())) return [key];
    throw new Error(`${path}:${index + 1}: not a public key (ssh-ed25519 AAAA... comment)`);
  });
}

/** A client's connection, as far as its sessions need it. */
type Link = {
  name: string; // of who has logged in
  client: Connection;
  stream: Duplex; // the octets of SSH
  close: (why: Error) => void;
};

/** Waits until the network has taken what is sent, which `ssh2` does not. */
async function drained(stream: Duplex): Promise<void> {
  if (stream.writableNeedDrain) await new Promise((resolve) => stream.once("drain", resolve));
}

/**
 * Serves a session (RFC 4254, 6): a shell, a command or SFTP, as the client asks for. Calls `ended`
 * when what it has started is over.
 */
function serveSession(
  session: Emitter,
  link: Link,
  { users, root }: Service,
  ended: () => void,
): void {
  const user: User = { name: link.name, since: new Date() };
  const left = new Promise<number>((resolve) => {
    session.once("close", () => resolve(0));
    link.stream.once("close", () => resolve(0));
  });

  /** Talks on the channel until that returns the exit status, or nobody is there any more. */
  async function start(
    channel: Channel | undefined, // none: the session has one already
    talk: (channel: Channel) => Promise<number>,
  ): Promise<void> {
    if (!channel) return;
    const watch = () => {
      if (channel.incoming.window < 0) link.close(new LimitError("sends more than it may"));
    };
    channel.on("close", ended).on("error", link.close);
    link.stream.on("data", watch); // ssh2 takes what comes
    users.add(user);
    try {
      channel.exit(await Promise.race([talk(channel), left]));
      channel.resume().end(); // it is not closed before what still comes has been read
    } catch (error) {
      link.close(error as Error);
    } finally {
      users.delete(user);
      link.stream.off("data", watch);
    }
  }

  async function say(to: Writable, text: string): Promise<void> {
    const data = user.window ? text.replaceAll("\n", "\r\n") : text;
    await new Promise<void>((resolve, reject) => {
      to.write(data, (error) => error ? reject(error) : resolve());
    });
    await drained(link.stream);
  }

  async function execute(channel: Channel, command: string): Promise<number> {
    const [name] = command.trim().split(/\s/);
    const known = !name || Object.hasOwn(COMMANDS, name);
    await say(known ? channel : channel.stderr, obey(command, user, users)[0]);
    return known ? 0 : 127; // as shells have it
  }

  async function shell(channel: Channel): Promise<number> {
    const editor = new LineEditor(MAX_LINE);
    const decoder = new TextDecoder("utf-8", { ignoreBOM: true });
    const prompt = user.window ? PROMPT : "";
    await say(channel, prompt);
    try {
      for await (const octets of channel.iterator({ destroyOnReturn: false })) {
        let screen = "";
        for (const key of decoder.decode(octets, { stream: true })) {
          const [shown, line] = editor.type(key);
          if (user.window) screen += shown;
          if (line === undefined) continue;
          const [answer, last] = obey(line ?? "quit", user, users);
          await say(channel, screen + answer + (last ? "" : prompt));
          if (last) return 0;
          screen = "";
        }
        await say(channel, screen);
      }
      const [, line] = editor.type("\n"); // what came last, without its end
      await say(channel, obey(line ?? "", user, users)[0]);
      return 0;
    } catch (error) {
      if (!(error instanceof LimitError)) throw error;
      await say(channel.stderr, `\n${error.message}\n`);
      return 1;
    }
  }

  function resize(accept: (() => void) | undefined, { cols: columns, rows }: Pty): void {
    user.window = { columns, rows };
    accept?.(); // there is nothing to accept if the client wants no reply
  }

  session
    .on("pty", (accept, _reject, pty: Pty) => {
      user.terminal = pty.term;
      resize(accept, pty);
    })
    .on("window-change", (accept, _reject, window: Pty) => resize(accept, window))
    .on("shell", (accept) => start(accept(), shell))
    .on("exec", (accept, _reject, { command }) => {
      start(accept(), (channel) => execute(channel, command));
    });
  if (!root) return;
  session.on("sftp", (accept) => {
    const sftp = accept();
    if (sftp) serveFiles(sftp, root, link, ended);
  });
}

/** Why a request of SFTP is refused, as a status code. */
class Refusal extends Error {
  constructor(readonly code: number) {
    super(`status ${code}`);
  }
}

/** The absolute path that a client means; above the root is the root. */
function absolute(path: string): string {
  if (path.includes("\0")) throw new Refusal(STATUS_CODE.NO_SUCH_FILE);
  return posix.join("/", path);
}

/** What it stands for below `root`. No name, and no symbolic link, leads out of that. */
async function realPath(root: string, path: string): Promise<string> {
  const real = await Deno.realPath(join(root, absolute(path)));
  if (isBelow(root, real)) return real;
  throw new Refusal(STATUS_CODE.NO_SUCH_FILE);
}

/** The attributes of a file, as SFTP has them (filexfer-02, 5). */
function attributes(
  { isDirectory, mode, uid, gid, size, atime, mtime }: Deno.FileInfo,
): Attributes {
  const seconds = (time: Date | null) => Math.floor((time?.getTime() ?? 0) / 1000);
  return {
    mode: mode ?? (isDirectory ? 0o40755 : 0o100644), // Windows has none
    uid: uid ?? 0,
    gid: gid ?? 0,
    size,
    atime: seconds(atime),
    mtime: seconds(mtime),
  };
}

/** The line of `ls -l` for it, which clients print as it is (filexfer-02, 7). */
function longName(name: string, info: Deno.FileInfo): string {
  const { mode, uid, gid, size, mtime } = attributes(info);
  const type = info.isDirectory ? "d" : info.isSymlink ? "l" : "-";
  const rights = Array.from("rwxrwxrwx", (right, bit) => mode & (0o400 >> bit) ? right : "-");
  const date = new Date(mtime * 1000).toUTCString().slice(5, 22);
  const columns = [uid, gid].map((id) => `${id}`.padEnd(8));
  return [type + rights.join(""), "  1", ...columns, `${size}`.padStart(8), date, name].join(" ");
}

type Entries = AsyncIterator<[name: string, info: Deno.FileInfo]>;

async function* list(folder: string): AsyncGenerator<[name: string, info: Deno.FileInfo]> {
  for await (const { name } of Deno.readDir(folder)) {
    const info = await Deno.lstat(join(folder, name)).catch(() => {}); // it may be gone
    if (info) yield [name, info];
  }
}

/**
 * Answers what is asked of SFTP (version 3, draft-ietf-secsh-filexfer-02) about what is below `root`,
 * which is `/` to the client, one request after the other; those that would change something it
 * refuses. Calls `ended` at the end.
 */
function serveFiles(sftp: SFTPServer, root: string, link: Link, ended: () => void): void {
  const files = new Map<string, Deno.FsFile>();
  const folders = new Map<string, Entries>();
  let [opened, waiting, over] = [0, 0, false];
  let last = Promise.resolve();

  function add<T>(to: Map<string, T>, one: T): Buffer {
    const handle = `${++opened}`;
    to.set(handle, one);
    return Buffer.from(handle);
  }

  function status(id: number, code: number): void {
    const [name = ""] = Object.entries(STATUS_CODE).find((entry) => entry[1] === code) ?? [];
    sftp.status(id, code, name.toLowerCase().replaceAll("_", " "));
  }

  function get<T>(from: Map<string, T>, handle: Buffer): T {
    const one = from.get(handle.toString());
    if (one === undefined) throw new Refusal(STATUS_CODE.FAILURE);
    return one;
  }

  /** The real path of what is to be opened, if it is of the kind. */
  async function toOpen(path: string, kind: "isFile" | "isDirectory"): Promise<string> {
    const real = await realPath(root, path);
    // What is no file is not even opened: on a named pipe that would wait for ever.
    const good = (await Deno.stat(real))[kind] && files.size + folders.size < MAX_HANDLES;
    if (!good) throw new Refusal(STATUS_CODE.FAILURE);
    return real;
  }

  // deno-lint-ignore no-explicit-any
  const answers: Record<string, (id: number, ...args: any[]) => Promise<void> | void> = {
    REALPATH: (id, path) => sftp.name(id, [{ filename: absolute(path) }]),
    async STAT(id, path) {
      sftp.attrs(id, attributes(await Deno.stat(await realPath(root, path))));
    },
    async LSTAT(id, path) {
      const name = absolute(path); // the last part of which may be a link
      const folder = await realPath(root, posix.dirname(name));
      sftp.attrs(id, attributes(await Deno.lstat(join(folder, posix.basename(name)))));
    },
    async OPEN(id, path, flags) {
      if (flags !== READ) throw new Refusal(STATUS_CODE.PERMISSION_DENIED);
      const file = await Deno.open(await toOpen(path, "isFile"));
      if (over) file.close();
      else sftp.handle(id, add(files, file));
    },
    async FSTAT(id, handle) {
      sftp.attrs(id, attributes(await get(files, handle).stat()));
    },
    async READ(id, handle, offset, length) {
      const buffer = Buffer.alloc(Math.min(length, MAX_READ));
      await get(files, handle).seek(Math.min(offset, 2 ** 53), Deno.SeekMode.Start);
      const n = await get(files, handle).read(buffer);
      if (n === null) throw new Refusal(STATUS_CODE.EOF);
      sftp.data(id, buffer.subarray(0, n));
    },
    async OPENDIR(id, path) {
      sftp.handle(id, add(folders, list(await toOpen(path, "isDirectory"))));
    },
    async READDIR(id, handle) {
      const names = [];
      for (let i = 0; i < ENTRIES; i++) {
        const { value, done } = await get(folders, handle).next();
        if (done) break;
        const [filename, info] = value;
        names.push({ filename, longname: longName(filename, info), attrs: attributes(info) });
      }
      if (names.length === 0) throw new Refusal(STATUS_CODE.EOF);
      sftp.name(id, names);
    },
    CLOSE(id, handle) {
      files.get(handle.toString())?.close();
      const known = [files, folders].some((open) => open.delete(handle.toString()));
      status(id, known ? STATUS_CODE.OK : STATUS_CODE.FAILURE);
    },
  };
  for (const name of REFUSED) {
    answers[name] = (id) => status(id, STATUS_CODE.PERMISSION_DENIED);
  }

  async function respond(id: number, answer: () => Promise<void> | void): Promise<void> {
    // A client that takes no answers gets none, and its window opens with something it sends.
    while (sftp.outgoing.window === 0) {
      await new Promise((resolve) => link.stream.once("data", resolve));
    }
    await drained(link.stream);
    try {
      await answer();
    } catch (error) {
      status(id, error instanceof Refusal ? error.code : statusOf(error));
    }
    waiting--;
    makeRoom();
  }

  // ssh2 would let the client send more as soon as its requests are here, answered or not; some ask
  // for all pieces of a file at once. If this returns false, it leaves that to us.
  const push = sftp.push.bind(sftp);
  sftp.push = (data) => {
    if (sftp.incoming.window < 0) link.close(new LimitError("sends more than it may"));
    push(data);
    return waiting < MAX_REQUESTS;
  };

  function makeRoom(): void {
    const room = WINDOW - sftp.incoming.window;
    if (waiting >= MAX_REQUESTS || room < WINDOW / 2) return;
    sftp.incoming.window += room;
    link.client._protocol.channelWindowAdjust(sftp.outgoing.id, room);
  }

  for (const [request, answer] of Object.entries(answers)) {
    sftp.on(request, (id: number, ...args) => {
      waiting++;
      last = last.then(() => respond(id, () => answer(id, ...args))).catch(link.close);
    });
  }
  sftp.on("error", link.close)
    .on("end", () => {
      last = last.then(() => {
        link.client._protocol.exitStatus(sftp.outgoing.id, 0); // of which scp makes its own
        sftp.end();
      }).catch(link.close);
    })
    .on("close", () => {
      over = true;
      for (const file of files.values()) file.close();
      ended();
    });
}

/** The status code for what the system says. */
function statusOf(error: unknown): number {
  const { NotFound, NotADirectory, PermissionDenied } = Deno.errors;
  if (error instanceof NotFound || error instanceof NotADirectory) return STATUS_CODE.NO_SUCH_FILE;
  return error instanceof PermissionDenied ? STATUS_CODE.PERMISSION_DENIED : STATUS_CODE.FAILURE;
}

/**
 * The connection as the stream that `ssh2` takes. As that answers whatever it is given, nothing more
 * is read from a client that does not take its answers.
 */
function streamOf(conn: FramedConn): Duplex {
  return new Duplex({
    allowHalfOpen: false,
    async read() {
      try {
        await drained(this);
        const octets = await conn.readSome();
        this.push(octets && Buffer.from(octets)); // a copy: they are valid until the next read
      } catch (error) {
        this.destroy(error as Error);
      }
    },
    write(data, _encoding, done) {
      conn.writeAll(data).then(() => done(), done);
    },
  });
}

/** What all connections share. */
export type Service = {
  hostKey: string; // as openHostKey() returns it
  authorizedKeys: string; // the path of a file for readKeys()
  root?: string; // the real path of the folder to serve by SFTP
  users: Set<User>;
  log?: (line: string) => void; // told who logs in
  debug?: (line: string) => void; // told each message, in both directions
};

/** Serves a connection to its end. */
export async function converse(conn: FramedConn, service: Service): Promise<void> {
  const { hostKey, authorizedKeys, log, debug } = service;
  const { Server } = await import("ssh2");
  const keys = await readKeys(authorizedKeys);
  const stream = streamOf(conn).setMaxListeners(3 * MAX_SESSIONS);
  const { promise: over, resolve, reject } = Promise.withResolvers<void>();
  stream.on("error", reject).on("finish", resolve).on("close", resolve);
  const close = (why: Error) => conn.close(why);
  const grace = setTimeout(() => {
    close(new Deno.errors.TimedOut(`closed, not logged in within ${LOGIN_GRACE / 1000} s`));
  }, LOGIN_GRACE);
  let failure: Error | undefined;
  let [greeted, name, attempts, sessions] = [false, "", 0, 0];

  /** Lets in who has the private key to one of the `keys`; first they ask with the public one. */
  function authenticate(client: Connection, attempt: AuthContext): void {
    const { method, username, key, blob, signature, hashAlgo } = attempt;
    if (++attempts > MAX_ATTEMPTS) {
      failure ??= new Error("too many attempts to log in");
      client.end();
      return;
    }
    const known = method === "publickey" && keys.find((one) => one.getPublicSSH().equals(key.data));
    if (!known || signature && blob && known.verify(blob, signature, hashAlgo) !== true) {
      return attempt.reject(["publickey"]);
    }
    name = username;
    if (signature) log?.(`${conn.peer}: ${name} logs in with ${fingerprint(key.data)}`);
    attempt.accept();
  }

  const server = new Server({
    hostKeys: [hostKey],
    algorithms: ALGORITHMS,
    keepaliveInterval: NEVER, // else no connection would ever be silent
    debug: debug && ((line) => debug(`${conn.peer} ${line.replace(/^\[[\d.]+\] /, "")}`)),
  }, (client) => {
    greeted = true;
    client.on("error", (error) => failure ??= error) // after which it ends the stream
      .on("authentication", (attempt) => authenticate(client, attempt))
      .once("ready", () => clearTimeout(grace))
      .on("session", (accept, reject) => {
        if (sessions === MAX_SESSIONS) return reject();
        sessions++;
        const link = { name: `${name} from ${conn.peer}`, client, stream, close };
        serveSession(accept(), link, service, () => sessions--);
      });
  });
  try {
    server.injectSocket(stream);
    await over;
    if (failure) throw failure;
    if (!greeted && conn.bytesRead > 0) throw new Error("does not speak SSH");
  } finally {
    clearTimeout(grace);
    stream.destroy();
  }
}

if (import.meta.main) {
  const { cert: _, key: __, ...common } = serverFlags(PORT);
  await main({
    name: "ssh_server",
    about: "Gives who has one of some keys a prompt, its commands, and the files of ROOT to read.",
    usage: "[ROOT]",
    permissions: "--allow-net --allow-read --allow-write",
    flags: {
      ...common,
      authorizedKeys: optional("FILE", "who may log in: public keys, one in a line; must be given"),
      hostKey: flag(
        "FILE",
        "the server's own key, made if it is not there",
        String,
        "ssh_host_key",
      ),
      trace: toggle("print the messages of both directions on stderr"),
    },
  }, async (flags, path) => {
    const { authorizedKeys, name } = flags;
    if (!authorizedKeys) throw new UsageError("--authorized-keys FILE is missing");
    await readKeys(authorizedKeys);
    const root = path && await Deno.realPath(path);
    if (root && !(await Deno.stat(root)).isDirectory) throw new Error(`${path}: not a directory`);
    const { key: hostKey, fingerprint } = await openHostKey(flags.hostKey);
    if (root && isBelow(root, await Deno.realPath(flags.hostKey))) {
      throw new UsageError(`${flags.hostKey} is in ROOT, where everybody could read it`);
    }
    const log = (line: string) => console.error(`${name}: ${printable(line)}`);
    const debug = flags.trace ? (line: string) => console.error(printable(line)) : undefined;
    const service = { hostKey, authorizedKeys, root, users: new Set<User>(), log, debug };
    const listener = await listen(flags);
    log(`the host key is ${fingerprint}`);
    await serve(listener, (conn) => converse(conn, service), {
      ...flags,
      trace: false, // as it would show what is encrypted
      signal: stopSignal(),
    });
  });
}
