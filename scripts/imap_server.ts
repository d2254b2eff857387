#!/usr/bin/env -S deno run --allow-net --allow-read --allow-write --allow-env=MAIL_PASSWORD
/**
 * An IMAP server (RFC 3501) for the mail of one person, which is in a Maildir.
 *
 *     MAIL_PASSWORD=secret deno run --allow-net --allow-read --allow-write --allow-env=MAIL_PASSWORD \
 *       scripts/imap_server.ts mail
 *     MAIL_PASSWORD=secret deno run --allow-net --allow-env=MAIL_PASSWORD scripts/imap_client.ts list
 *
 * Without MAIL_PASSWORD it makes a password for the run and says it. `curl -u mail:secret
 * imap://127.0.0.1:8143/` lists the mailboxes, too.
 *
 * Mailboxes are folders as Maildir++ has them: `Work.2024` is `mail/.Work.2024`. The numbers of
 * messages (UIDs) are in a file `uidlist` in each, on disk before a client is told, and flags are in
 * the names of the files. So other programs may deliver, read and delete there meanwhile, but only
 * one server may give numbers. Flags are the five of the protocol; keywords are not stored. It also
 * speaks IDLE (RFC 2177), UNSELECT (RFC 3691), UIDPLUS (RFC 4315), SASL-IR (RFC 4959) and LITERAL+
 * (RFC 7888).
 *
 * TLS is from the first octet (`--cert`, `--key`) or not at all: there is no STARTTLS, as Deno cannot
 * start TLS on a connection that it has accepted. Half an hour of silence ends a connection, the
 * least that the RFC allows (5.4). A client in IDLE hears every two minutes that the server is still
 * there, which is no silence.
 *
 * Mirrors the chapter "IMAP" of tutorial 002 and the IMAP4 row of tutorial 003. Python has a client
 * only, `imaplib`; this is the server's side of it:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `imap.login()`, `imap.authenticate()` | `session.logIn()`: `isSecret(given, secret)` |
 * | `imap.list()`, `create()`, `rename()`, `delete()`, ... | `COMMANDS`: `folders.names()`, `create()`, ... |
 * | `imap.append(mailbox, flags, date, message)` | `append()`: `folder.deliver()`, `folder.number()` |
 * | `imap.fetch(set, items)`, `imap.search(None, keys)` | `fetch()`, `search()`: `folder.read()` |
 * | `imap.store(set, "+FLAGS", flags)`, `imap.expunge()` | `folder.setFlags()`, `folder.expunge()` |
 * | `imap.noop()`, of Python 3.14 `imap.idle()` | `session.update()`: `folder.refresh()`, `folder.watch()` |
 * | `email.message_from_bytes()` | `parseMessage()`, which keeps where each part is |
 *
 * It reads downwards: how a command is parsed, a session and what it is told, the commands as a
 * table, the structure of messages, FETCH, SEARCH.
 *
 * @module
 */
import { Buffer, isUtf8 } from "node:buffer";
import { decodeWords } from "postal-mime";
import { listen, reason } from "../lib/address.ts";
import { flag, main, seconds, serverFlags, stopSignal, toggle } from "../lib/cli.ts";
import { type FramedConn, LimitError, printable } from "../lib/framing.ts";
import { type Folder, Folders, type Message, type Numbered } from "../lib/maildir.ts";
import { isSecret, serve } from "../lib/server.ts";

const PORT = 8143;
const CAPABILITY = "CAPABILITY IMAP4rev1 SASL-IR AUTH=PLAIN LITERAL+ IDLE UIDPLUS UNSELECT";
const MAX_COMMAND = 65536; // octets, its literals among them
const MAX_MESSAGE = 50 * 1024 * 1024; // octets of one that is appended
const MAX_UNSENT = 65536; // octets that are kept to be sent together
const MAX_FIELD = 65536; // octets of a header field that are looked at
const MAX_FIELDS = 1000; // of a header; what is beyond is in the last
const [MAX_PARTS, MAX_DEPTH] = [1000, 20]; // of a message; what is beyond is in the last part
const MAX_NESTING = 50; // of search keys
const MAX_PATTERN = 1000; // octets, where a name has 250 at most
const MAX_LOGINS = 3;
const STILL_HERE = 120_000; // milliseconds
const DAY = 24 * 60 * 60 * 1000; // milliseconds
/** The letters that a Maildir has for flags. Its P, passed on, has no name here. */
const FLAGS = {
  "\\Answered": "R",
  "\\Flagged": "F",
  "\\Deleted": "T",
  "\\Seen": "S",
  "\\Draft": "D",
};
const FLAG_NAMES = Object.keys(FLAGS).join(" ");

/** What all sessions share. */
export type Account = {
  folders: Folders;
  user: string;
  password: string;
  signal?: AbortSignal; // ends the sessions
  idleTimeout?: number; // milliseconds
  loaded?: Content; // the message read last, as clients fetch a large one piece by piece
};

/** The command is not in the grammar. */
class Bad extends Error {}
/** The command cannot be done. */
class No extends Error {}

/* Commands as they come. A string is of octets (Latin-1) until it is known to be text. */

/** What a command says: an atom, a quoted string, a literal, or a list in parentheses. */
type Value = string | Buffer | Value[];

/** A command as it came: its lines, and after each but the last a literal. */
type Pieces = (string | Buffer)[];

/** Reads a command, of which there is something to read. */
async function readCommand(conn: FramedConn, loggedIn: boolean): Promise<Pieces> {
  const cutOff = () => new Deno.errors.UnexpectedEof("connection ended in the middle of a command");
  const pieces: Pieces = [];
  for (let left = MAX_COMMAND;;) {
    const line = await conn.readLineOctets(Math.min(left, MAX_COMMAND));
    if (line === null) throw cutOff();
    const text = Buffer.from(line).toString("latin1");
    if (loggedIn && pieces.length === 0 && /^\S+ APPEND /i.test(text)) left += MAX_MESSAGE;
    pieces.push(text);
    const [, digits, plus] = /\{(\d{1,10})(\+?)\}$/.exec(text) ?? [];
    if (digits === undefined) return pieces;
    left -= text.length + Number(digits);
    if (left < 0) throw new LimitError("command too long");
    if (!plus) await conn.writeAll("+ go on\r\n");
    const literal = Buffer.alloc(Number(digits));
    for (let size = 0; size < literal.length;) {
      const piece = await conn.readSome(literal.length - size);
      if (piece === null) throw cutOff();
      literal.set(piece, size);
      size += piece.length;
    }
    pieces.push(literal);
  }
}

/** Reads the values of a command, which has a space between each and the next (RFC 3501, 9). */
function parseCommand([text, ...rest]: Pieces): Value[] {
  let at = 0;
  function take(pattern: RegExp): string | undefined {
    pattern.lastIndex = at;
    const [match] = pattern.exec(`${text}`) ?? [];
    at += match?.length ?? 0;
    return match;
  }
  function values(end: RegExp, depth: number): Value[] {
    const found: Value[] = [];
    while (take(end) === undefined) {
      if (depth > MAX_NESTING || found.length > 0 && !take(/ /y)) throw new Bad("not a command");
      found.push(value(depth));
    }
    return found;
  }
  function value(depth: number): Value {
    if (take(/\(/y)) return values(/\)/y, depth + 1);
    const quoted = take(/"[^"\\]*(?:\\["\\][^"\\]*)*"/y);
    if (quoted !== undefined) return withoutQuotes(quoted);
    if (take(/\{\d+\+?\}$/y)) {
      const [literal, next] = rest.splice(0, 2);
      [text, at] = [next, 0];
      return literal;
    }
    // A section has brackets, in which there may be spaces.
    const atom = take(/BODY(\.PEEK)?\[[ -Z^-~]*\](<[\d.]+>)?|[^(){ "\p{Cc}\x80-\xff]+/iuy);
    if (atom === undefined) throw new Bad("not a command");
    return atom;
  }
  return values(/ *$/y, 0);
}

function stringOf(value: Value): string {
  if (Array.isArray(value)) throw new Bad("a string expected");
  return value.toString("latin1");
}

function mailboxOf(value: Value): string {
  return stringOf(value).replace(/^inbox$/i, "INBOX");
}

function listOf(value: Value): string[] {
  if (!Array.isArray(value)) throw new Bad("a list expected");
  return value.map(stringOf);
}

/** The letters of flags. Keywords are passed over, and `\Recent`, which is not the client's to set. */
function lettersOf(names: string[]): string {
  return names.map((name) => {
    const known = Object.entries(FLAGS).find(([flag]) => isEqual(flag, name));
    if (!known && /^\\(?!recent$)/i.test(name)) throw new Bad("there is no such flag");
    return known?.[1] ?? "";
  }).join("");
}

function numberOf(value: Value, least = 0): number {
  const n = /^\d{1,10}$/.test(stringOf(value)) ? Number(value) : NaN;
  if (n >= least && n < 2 ** 32) return n;
  throw new Bad("a number expected");
}

/** From and to; Infinity is `*`, the last message. */
type SequenceSet = [number, number][];

function sequenceSetOf(value: Value): SequenceSet {
  return stringOf(value).split(",").map((range) => {
    const [from, to = from, more] = range.split(":")
      .map((n) => n === "*" ? Infinity : numberOf(n, 1));
    if (more !== undefined) throw new Bad("a set of messages expected");
    return [from, to];
  });
}

/** The day in a text such as `Mon, 7 Feb 1994 21:52:25 -0800`, counted from 1970; NaN without one. */
function dayOf(text: string): number {
  const [, day, month, year] = /(\d{1,2})[ -]([A-Z]{3})[ -](\d{4})/i.exec(text) ?? [];
  return Date.parse(`${day} ${month} ${year} UTC`) / DAY;
}

function dateTimeOf(value: Value): Date {
  const text = stringOf(value).replace(
    /^([ \d]\d)-(...)-(\d{4} \d\d:\d\d:\d\d [+-]\d{4})$/,
    "$1 $2 $3",
  );
  const date = new Date(text);
  if (text === value || Number.isNaN(date.getTime())) throw new Bad("a date expected");
  return date;
}

/** What is in a quoted string or a comment. */
function withoutQuotes(text: string): string {
  return text.slice(1, -1).replaceAll(/\\(.)/g, "$1");
}

function isEqual(a: string, b: string): boolean {
  return a.toUpperCase() === b.toUpperCase();
}

/* Sessions. */

/** A message of the selected folder, and what the client was told of it. */
type Told = { message: Numbered; flags: string; recent: boolean };

/** A client's session. */
class Session {
  loggedIn = false;
  failures = 0; // to log in
  bye?: string; // why it is over
  folder?: Folder; // selected
  readOnly = true;
  view: Told[] = []; // of the folder; the sequence number of the first is 1
  wake = () => {}; // ends wait()
  #unsent: Buffer[] = [];
  #size = 0;

  constructor(readonly conn: FramedConn, readonly account: Account) {}

  get folders(): Folders {
    return this.account.folders;
  }

  /** Sends this, at the latest after the command. */
  async send(...pieces: (string | Buffer)[]): Promise<void> {
    for (const piece of pieces) {
      const octets = typeof piece === "string" ? Buffer.from(piece, "latin1") : piece;
      this.#unsent.push(octets);
      this.#size += octets.length;
    }
    if (this.#size > MAX_UNSENT) await this.flush();
  }

  async flush(): Promise<void> {
    const octets = Buffer.concat(this.#unsent);
    [this.#unsent, this.#size] = [[], 0];
    await this.conn.writeAll(octets);
  }

  /** Waits for what the client sends; false at the end, undefined if woken or after that time. */
  async wait(milliseconds?: number): Promise<boolean | undefined> {
    const { promise, resolve, reject } = Promise.withResolvers<boolean | undefined>();
    this.wake = () => resolve(undefined);
    this.conn.readable().then(resolve, reject);
    const timer = milliseconds && setTimeout(this.wake, milliseconds);
    return await promise.finally(() => clearTimeout(timer));
  }

  /** Does a command and answers it. */
  async execute(pieces: Pieces): Promise<void> {
    const [tag = "*"] = /^[^(){ %*"\\+\p{Cc}\x80-\xff]+(?= )/u.exec(`${pieces[0]}`) ?? [];
    let [name, uid, answer] = ["", false, ""];
    try {
      let [, first = "", ...args] = parseCommand(pieces);
      if (tag === "*") throw new Bad("a tag expected");
      uid = isEqual(stringOf(first), "UID");
      if (uid) [first = "", ...args] = args;
      name = stringOf(first).toUpperCase();
      const command = [
        COMMANDS.any,
        COMMANDS[this.loggedIn ? "authenticated" : "notAuthenticated"],
        this.folder ? COMMANDS.selected : {},
      ].map((commands) => commands[name]).find((command) => command);
      if (!command || uid && !/^(COPY|EXPUNGE|FETCH|SEARCH|STORE)$/.test(name)) {
        throw new Bad("no such command, or not now");
      }
      const [least, most, run] = command;
      if (args.length < least || args.length > most) throw new Bad("too few arguments or too many");
      answer = `OK ${await run(this, args, uid) ?? "done"}`;
    } catch (error) {
      answer = answerOf(error);
    }
    // What these are about must keep its sequence number (RFC 3501, 7.4.1).
    await this.update(uid || !/^(FETCH|STORE|SEARCH)$/.test(name));
    // IDLE is answered after DONE. Until then what ends it is a BYE.
    if (name !== "IDLE" || this.bye === undefined) await this.send(`${tag} ${answer}\r\n`);
    await this.flush();
  }

  logIn(user: string, password: string): string {
    const given = Buffer.from(`${user}\0${password}`, "latin1");
    this.loggedIn = isSecret(given, `${this.account.user}\0${this.account.password}`);
    if (this.loggedIn) return `[${CAPABILITY}] logged in`;
    if (++this.failures === MAX_LOGINS) this.bye = `${MAX_LOGINS} failed logins`;
    throw new No("[AUTHENTICATIONFAILED] wrong name or password");
  }

  select(folder?: Folder, readOnly = true): void {
    [this.folder, this.readOnly, this.view] = [folder, readOnly, []];
  }

  /** Looks what other programs have done. */
  async look(): Promise<void> {
    try {
      await this.folder?.refresh();
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
      this.bye = "the mailbox is gone"; // and what the client knows of it means nothing any more
      throw new No(this.bye);
    }
  }

  /** Takes new messages into the view; returns whether there are any. */
  async admit(): Promise<boolean> {
    const last = this.view.at(-1)?.message.uid ?? 0;
    const messages = this.folder?.messages ?? [];
    const fresh = messages.slice(messages.findLastIndex(({ uid }) => uid <= last) + 1);
    for (const message of fresh) {
      this.view.push({ message, flags: message.flags, recent: message.isNew });
      if (!message.isNew || this.readOnly) continue;
      message.isNew = false; // so it is recent in no other session
      await this.folder?.setFlags(message, (flags) => flags).catch(unlessGone);
    }
    return fresh.length > 0;
  }

  /** Tells what has changed since the client was told, and with `expunge` what is gone. */
  async update(expunge: boolean): Promise<void> {
    for (let n = this.view.length; expunge && n > 0; n--) {
      if (!this.view[n - 1].message.gone) continue;
      this.view.splice(n - 1, 1);
      await this.send(`* ${n} EXPUNGE\r\n`);
    }
    if (await this.admit()) await this.sendCounts();
    for (const [i, told] of this.view.entries()) {
      if (told.flags === told.message.flags) continue;
      told.flags = told.message.flags;
      await this.send(`* ${i + 1} FETCH (FLAGS ${flagsOf(told)})\r\n`);
    }
  }

  async sendCounts(): Promise<void> {
    const recent = this.view.filter(({ recent }) => recent).length;
    await this.send(`* ${this.view.length} EXISTS\r\n* ${recent} RECENT\r\n`);
  }

  /** The messages of a set that are in the view, with their sequence numbers. */
  choose(set: SequenceSet, uid: boolean): { told: Told; n: number }[] {
    const last = uid ? this.view.at(-1)?.message.uid ?? 0 : this.view.length;
    const ranges = set.map((range) => range.map((n) => n === Infinity ? last : n))
      .map(([a, b]) => [Math.min(a, b), Math.max(a, b)])
      .sort(([a], [b]) => a - b);
    // Of none at all 1:* is asked for, too.
    if (!uid && last > 0 && ranges.some(([, to]) => to > last)) {
      throw new Bad("not so many messages");
    }
    let i = 0;
    return this.view.map((told, index) => ({ told, n: index + 1 })).filter(({ told, n }) => {
      const number = uid ? told.message.uid : n;
      while (i < ranges.length && ranges[i][1] < number) i++;
      return i < ranges.length && ranges[i][0] <= number;
    });
  }

  /** Does something with each of them, and says at the end if some are gone. */
  async each(
    chosen: { told: Told; n: number }[],
    action: (told: Told, n: number) => Promise<unknown>,
  ): Promise<void> {
    const gone = chosen.filter(({ told }) => told.message.gone);
    for (const one of chosen) {
      if (one.told.message.gone) continue;
      await action(one.told, one.n).catch((error) => {
        unlessGone(error);
        gone.push(one);
      });
    }
    if (gone.length > 0) throw new No("[EXPUNGEISSUED] some of the messages are gone");
  }

  /** A message of the selected folder. */
  async load(message: Numbered): Promise<Content> {
    if (this.account.loaded?.message === message) return this.account.loaded;
    const octets = await (this.folder as Folder).read(message);
    const data = Buffer.from(octets.buffer, octets.byteOffset, octets.length);
    return this.account.loaded = { message, data, root: parseMessage(data) };
  }

  /** The folder of that name, to put messages in. */
  async target(name: string): Promise<Folder> {
    const folder = await this.folders.get(name).catch(unlessGone);
    if (!folder) throw new No("[TRYCREATE] there is no such mailbox");
    return folder;
  }
}

function unlessGone(error: unknown): undefined {
  if (!(error instanceof Deno.errors.NotFound)) throw error;
}

function answerOf(error: unknown): string {
  if (error instanceof Bad) return `BAD ${error.message}`;
  if (error instanceof No) return `NO ${error.message}`;
  if (error instanceof Deno.errors.NotFound) return "NO [NONEXISTENT] there is no such mailbox";
  if (error instanceof Deno.errors.AlreadyExists) return "NO [ALREADYEXISTS] it is there already";
  if (error instanceof Deno.errors.InvalidData) return `NO [CANNOT] ${error.message}`;
  return `NO ${printable(reason(error)).replaceAll(/[^ -~]/g, "?")}`; // if it can still be sent
}

function flagsOf({ message, recent }: Told): string {
  const flags = Object.entries(FLAGS).filter(([, letter]) => message.flags.includes(letter));
  return `(${[...flags.map(([name]) => name), ...recent ? ["\\Recent"] : []].join(" ")})`;
}

/** Serves a client until it leaves. */
export async function converse(conn: FramedConn, account: Account): Promise<void> {
  const session = new Session(conn, account);
  const stop = () => {
    session.bye ??= "the server stops";
    session.wake();
  };
  account.signal?.addEventListener("abort", stop);
  try {
    await conn.writeAll(`* OK [${CAPABILITY}] ready\r\n`);
    while (session.bye === undefined && await session.wait()) {
      await session.execute(await readCommand(conn, session.loggedIn));
    }
    if (session.bye) await conn.writeAll(`* BYE ${session.bye}\r\n`);
  } catch (error) {
    // Nobody knows where the next command begins.
    if (error instanceof LimitError) await conn.writeAll(`* BAD ${error.message}\r\n* BYE\r\n`);
    throw error;
  } finally {
    account.signal?.removeEventListener("abort", stop);
  }
}

/* Commands. */

/** How many arguments it takes, and does; with `uid` its numbers are UIDs. Returns what follows OK. */
type Command = [
  least: number,
  most: number,
  run: (session: Session, args: Value[], uid: boolean) => Promise<string | void> | string | void,
];

/** The commands by the state that a session must be in (RFC 3501, 6.1 to 6.4). */
const COMMANDS: Record<
  "any" | "notAuthenticated" | "authenticated" | "selected",
  Record<string, Command>
> = {
  any: {
    CAPABILITY: [0, 0, (session) => session.send(`* ${CAPABILITY}\r\n`)],
    NOOP: [0, 0, (session) => session.look()],
    LOGOUT: [0, 0, async (session) => {
      session.select();
      session.bye = ""; // as it comes before the OK
      await session.send("* BYE see you\r\n");
    }],
  },
  notAuthenticated: {
    LOGIN: [2, 2, (session, [user, password]) => session.logIn(stringOf(user), stringOf(password))],
    AUTHENTICATE: [1, 2, authenticate],
  },
  authenticated: {
    SELECT: [1, 1, (session, [name]) => select(session, mailboxOf(name), false)],
    EXAMINE: [1, 1, (session, [name]) => select(session, mailboxOf(name), true)],
    // A dot at the end says that there will be some below.
    CREATE: [1, 1, ({ folders }, [name]) => folders.create(mailboxOf(name).replace(/\.$/, ""))],
    DELETE: [1, 1, async (session, [name]) => {
      const folder = await session.folders.get(mailboxOf(name));
      await session.folders.delete(mailboxOf(name));
      if (session.folder === folder) session.select();
    }],
    RENAME: [2, 2, ({ folders }, [from, to]) => {
      return folders.rename(mailboxOf(from), mailboxOf(to).replace(/\.$/, ""));
    }],
    SUBSCRIBE: [1, 1, ({ folders }, [name]) => folders.subscribe(mailboxOf(name), true)],
    UNSUBSCRIBE: [1, 1, ({ folders }, [name]) => folders.subscribe(mailboxOf(name), false)],
    LIST: [2, 2, async (session, args) => {
      await list(session, "LIST", args, await session.folders.names());
    }],
    LSUB: [2, 2, async (session, args) => {
      await list(session, "LSUB", args, await session.folders.subscriptions());
    }],
    STATUS: [2, 2, status],
    APPEND: [2, 4, append],
    IDLE: [0, 0, idle],
  },
  selected: {
    CHECK: [0, 0, (session) => session.look()],
    CLOSE: [0, 0, async (session) => {
      if (!session.readOnly) await removeDeleted(session, session.view);
      session.select();
    }],
    UNSELECT: [0, 0, (session) => session.select()],
    EXPUNGE: [0, 1, async (session, [set], uid) => {
      if (uid !== (set !== undefined)) throw new Bad("only of UIDs there is a set");
      checkWritable(session);
      const chosen = session.choose(uid ? sequenceSetOf(set) : [[1, Infinity]], true);
      await removeDeleted(session, chosen.map(({ told }) => told));
    }],
    SEARCH: [1, Infinity, search],
    FETCH: [2, 2, fetch],
    STORE: [3, Infinity, store],
    COPY: [2, 2, copy],
  },
};

async function authenticate(session: Session, [mechanism, response]: Value[]): Promise<string> {
  if (!isEqual(stringOf(mechanism), "PLAIN")) throw new No("PLAIN alone is known");
  if (response === undefined) {
    await session.conn.writeAll("+ \r\n");
    response = await session.conn.readLine(MAX_COMMAND) ?? "*";
  }
  if (response === "*") throw new Bad("cancelled");
  const plain = Buffer.from(stringOf(response), "base64").toString("latin1");
  const [as, user, password] = plain.split("\0");
  if (password === undefined) throw new Bad("not what PLAIN sends (RFC 4616)");
  if (as !== "" && as !== user) throw new No("[AUTHORIZATIONFAILED] nobody is somebody else");
  return session.logIn(user, password);
}

async function select(session: Session, name: string, readOnly: boolean): Promise<string> {
  session.select();
  const folder = await session.folders.get(name);
  await folder.refresh();
  session.select(folder, readOnly);
  await session.admit();
  await session.sendCounts();
  const unseen = session.view.findIndex(({ flags }) => !flags.includes("S")) + 1;
  await session.send(
    `* FLAGS (${FLAG_NAMES})\r\n`,
    `* OK [PERMANENTFLAGS (${readOnly ? "" : FLAG_NAMES})] those that stay\r\n`,
    unseen > 0 ? `* OK [UNSEEN ${unseen}] the first that is not seen\r\n` : "",
    `* OK [UIDVALIDITY ${folder.uidValidity}] as long as the UIDs\r\n`,
    `* OK [UIDNEXT ${folder.uidNext}] the next UID\r\n`,
  );
  return readOnly ? "[READ-ONLY] selected" : "[READ-WRITE] selected";
}

async function status(session: Session, [name, wanted]: Value[]): Promise<void> {
  const folder = await session.folders.get(mailboxOf(name));
  await folder.refresh();
  const { messages, uidNext, uidValidity } = folder;
  const values: Record<string, number> = {
    MESSAGES: messages.length,
    RECENT: messages.filter(({ isNew }) => isNew).length,
    UIDNEXT: uidNext,
    UIDVALIDITY: uidValidity,
    UNSEEN: messages.filter(({ flags }) => !flags.includes("S")).length,
  };
  const items = listOf(wanted).map((item) => item.toUpperCase());
  if (!items.every((item) => item in values)) throw new Bad("there is no such item");
  const said = items.map((item) => `${item} ${values[item]}`).join(" ");
  await session.send(`* STATUS ${nstring(mailboxOf(name))} (${said})\r\n`);
}

async function append(session: Session, [name, ...rest]: Value[]): Promise<string> {
  const data = rest.pop();
  const flags = Array.isArray(rest[0]) ? lettersOf(listOf(rest.splice(0, 1)[0])) : undefined;
  const [received] = rest.splice(0, 1).map(dateTimeOf);
  if (!(data instanceof Buffer) || rest.length > 0) throw new Bad("a literal expected");
  const folder = await session.target(mailboxOf(name));
  const [message] = await folder.number([await folder.deliver(data, { flags, received })]);
  return `[APPENDUID ${folder.uidValidity} ${message.uid}] stored`;
}

async function list(
  session: Session,
  response: string,
  [reference, wanted]: Value[],
  names: string[],
): Promise<void> {
  const pattern = mailboxOf(stringOf(reference) + stringOf(wanted));
  if (pattern.length > MAX_PATTERN) throw new Bad("too long a pattern");
  // With its attributes. Without a pattern the question is what is between the parts of a name.
  const found = new Map(stringOf(wanted) === "" ? [["", "\\Noselect"]] : []);
  for (const name of names) {
    // One above it may match that is not there itself (RFC 3501, 6.3.8 and 6.3.9).
    const parts = name.split(".");
    const lineage = parts.map((_, i) => parts.slice(0, parts.length - i).join("."));
    const match = lineage.find((name) => matches(name, pattern));
    if (match) found.set(match, names.includes(match) ? "" : "\\Noselect");
  }
  for (const [name, attributes] of found) {
    await session.send(`* ${response} (${attributes}) "." ${nstring(name)}\r\n`);
  }
}

/** Whether a name matches a pattern, in which `*` is anything and `%` anything without a dot. */
function matches(name: string, pattern: string): boolean {
  let ends = new Set([0]); // where in the name it may have come to
  for (const character of pattern) {
    const next = new Set<number>();
    for (const end of ends) {
      if (name[end] === character) next.add(end + 1);
      if (character !== "*" && character !== "%") continue;
      for (let i = end; i <= name.length && !next.has(i); i++) {
        next.add(i);
        if (character === "%" && name[i] === ".") break;
      }
    }
    ends = next;
  }
  return ends.has(name.length);
}

/** Tells of changes as they happen, until the client sends DONE (RFC 2177). */
async function idle(session: Session): Promise<void> {
  const { conn, account: { idleTimeout = Infinity } } = session;
  await conn.writeAll("+ idling\r\n");
  let changed = true;
  const unwatch = session.folder?.watch(() => {
    changed = true;
    session.wake();
  });
  try {
    for (;;) {
      while (changed) {
        changed = false;
        await session.look();
        await session.update(true);
      }
      await session.flush();
      const more = await session.wait(Math.min(STILL_HERE, idleTimeout / 2));
      if (more === false || session.bye) return;
      if (more) break;
      if (!changed) await session.send("* OK still here\r\n");
    }
  } finally {
    unwatch?.();
  }
  const line = await conn.readLine(MAX_COMMAND);
  if (!isEqual(line ?? "", "DONE")) throw new Bad("DONE expected");
}

function checkWritable({ readOnly }: Session): void {
  if (readOnly) throw new No("[READ-ONLY] the mailbox was only examined");
}

/** Removes those of the messages that have the flag. */
async function removeDeleted(session: Session, view: Told[]): Promise<void> {
  await session.look(); // another program may have taken the flag away
  const messages = view.map(({ message }) => message);
  await session.folder?.expunge(messages.filter(({ flags }) => flags.includes("T")));
}

async function store(session: Session, args: Value[], uid: boolean): Promise<void> {
  const [set, item, ...flags] = args;
  const [, sign, silent] = /^([+-]?)FLAGS(\.SILENT)?$/i.exec(stringOf(item)) ?? [];
  if (sign === undefined) throw new Bad("FLAGS expected");
  const letters = lettersOf(flags.flat().map(stringOf)); // there may be no parentheses
  checkWritable(session);
  const replaced = sign ? letters : Object.values(FLAGS).join("");
  const change = (flags: string) => {
    const others = sign === "+"
      ? [...flags]
      : [...flags].filter((flag) => !replaced.includes(flag));
    return [...new Set(sign === "-" ? others : [...others, ...letters])].sort().join("");
  };
  await session.each(session.choose(sequenceSetOf(set), uid), async (told, n) => {
    await session.folder?.setFlags(told.message, change);
    told.flags = change(told.flags); // what the client knows; update() tells what is different
    if (silent) return;
    told.flags = told.message.flags;
    const number = uid ? `UID ${told.message.uid} ` : "";
    await session.send(`* ${n} FETCH (${number}FLAGS ${flagsOf(told)})\r\n`);
  });
}

async function copy(session: Session, [set, name]: Value[], uid: boolean): Promise<string> {
  const chosen = session.choose(sequenceSetOf(set), uid);
  const [source, target] = [session.folder as Folder, await session.target(mailboxOf(name))];
  const delivered: Message[] = [];
  try {
    await session.each(chosen, async ({ message }) => {
      const [data, received] = [await source.read(message), await source.received(message)];
      delivered.push(await target.deliver(data, { flags: message.flags, received }));
    });
    const copies = await target.number(delivered);
    if (copies.length === 0) return "nothing to copy";
    const originals = chosen.map(({ told }) => told.message);
    return `[COPYUID ${target.uidValidity} ${uidSet(originals)} ${uidSet(copies)}] copied`;
  } catch (error) {
    for (const message of delivered) await target.remove(message); // all or none
    throw error;
  }
}

/** Their UIDs as a set, in their order. */
function uidSet(messages: Numbered[]): string {
  const ranges: SequenceSet = [];
  for (const { uid } of messages) {
    const last = ranges.at(-1);
    if (last?.[1] === uid - 1) last[1] = uid;
    else ranges.push([uid, uid]);
  }
  return ranges.map(([from, to]) => from === to ? from : `${from}:${to}`).join(",");
}

/* The structure of messages (RFC 2045, RFC 2046). */

/** A message, or a part of one, whose octets are a view of those of the whole. */
type Part = {
  header: Buffer; // with the blank line
  body: Buffer;
  fields: Map<string, string>; // those that are asked for, by name in small letters
  type: string; // such as `text/plain`, in small letters
  parameters: [name: string, value: string][]; // of the type
  parts: Part[]; // of a multipart; of a message/rfc822 the message. These have one at least
};

/** A message as it was read. */
type Content = { message?: Numbered; data: Buffer; root: Part };

/** A line that ends a part of the multipart at that level; at the end of the message level -1. */
type Delimiter = { start: number; end: number; level: number; last: boolean };

const FIELDS = new RegExp(
  "^(date|subject|from|sender|reply-to|to|cc|bcc|in-reply-to|message-id|" +
    "content-(type|transfer-encoding|id|description|disposition|language|location|md5))$",
);
const [LF, DASH] = [0x0a, 0x2d];
const EMPTY = Buffer.alloc(0);

/** Finds the parts of a message, all of whose lines end with CRLF. */
export function parseMessage(data: Buffer): Part {
  const boundaries: string[] = []; // of the multiparts around, the outermost first
  let count = 0;

  /** The delimiter that the line from there on is, if it is one. */
  function delimiterAt(start: number): Delimiter | undefined {
    if (data[start] !== DASH || data[start + 1] !== DASH) return undefined;
    let [level, length] = [-1, 0];
    // What follows a boundary does not matter (RFC 2046, 5.1.1), unless it makes a longer one.
    for (let i = 0; i < boundaries.length; i++) {
      if (boundaries[i].length < length || !isAt(data, start + 2, boundaries[i])) continue;
      [level, length] = [i, boundaries[i].length];
    }
    if (level < 0) return undefined;
    return { start, end: lineEnd(data, start), level, last: isAt(data, start + 2 + length, "--") };
  }

  function nextDelimiter(from: number): Delimiter {
    for (let at = from; boundaries.length > 0 && at < data.length; at++) {
      const found = data[at] === DASH && data[at - 1] === LF ? delimiterAt(at) : undefined;
      if (found) return found;
    }
    return { start: data.length, end: data.length, level: -1, last: true };
  }

  /** The part that begins there, and the delimiter after it. */
  function partAt(start: number, usualType: string, depth: number): [Part, Delimiter] {
    count++;
    const fields = new Map<string, string>();
    let [end, next]: [number, Delimiter?] = [start];
    for (const { name, line } of headerOf(data, start)) {
      next = delimiterAt(end);
      if (next) break;
      end += line.length;
      if (FIELDS.test(name) && !fields.has(name)) fields.set(name, valueOf(line));
    }
    if (!next && isAt(data, end, "\r\n")) end += 2;

    const written = fields.get("content-type") ?? usualType;
    const type = /^[^\s/;()]+\/[^\s;()]+/.exec(written)?.[0].toLowerCase() ?? "text/plain";
    const parameters = parametersOf(written);
    const parameter = (wanted: string) => parameters.find(([name]) => name === wanted)?.[1];
    if (/^text\//.test(type) && !parameter("charset")) parameters.push(["charset", "us-ascii"]);

    const parts: Part[] = [];
    const boundary = parameter("boundary");
    let least = end; // where the body ends at the earliest
    if (!next && depth < MAX_DEPTH && isMultipart({ type }) && boundary) {
      const level = boundaries.push(boundary) - 1;
      next = nextDelimiter(end);
      while (next.level === level && !next.last) {
        least = next.end;
        if (count >= MAX_PARTS) next = nextDelimiter(least);
        else {
          const usual = type === "multipart/digest" ? "message/rfc822" : "text/plain";
          const [part, after] = partAt(least, usual, depth + 1);
          parts.push(part);
          next = after;
        }
      }
      boundaries.pop();
      if (next.level === level) {
        least = next.end;
        next = nextDelimiter(least); // over the epilogue
      }
    } else if (!next && depth < MAX_DEPTH && isMessage({ type }) && count < MAX_PARTS) {
      const [message, after] = partAt(end, "text/plain", depth + 1);
      parts.push(message);
      least += message.header.length + message.body.length;
      next = after;
    }
    next ??= nextDelimiter(end);
    if (parts.length === 0 && (isMultipart({ type }) || isMessage({ type }))) {
      const nothing = { type: "text/plain", parameters: parametersOf("; charset=us-ascii") };
      parts.push({ header: EMPTY, body: EMPTY, fields: new Map(), parts: [], ...nothing });
    }
    // The line end before a delimiter belongs to that.
    const limit = next.level < 0 ? next.start : next.start - 2;
    const header = data.subarray(start, Math.max(start, Math.min(end, limit)));
    const body = data.subarray(end, Math.max(least, limit));
    return [{ header, body, fields, type, parameters, parts }, next];
  }

  const [root] = partAt(0, "text/plain", 0);
  return root;
}

function isAt(data: Buffer, start: number, text: string): boolean {
  for (let i = 0; i < text.length; i++) {
    if (data[start + i] !== text.charCodeAt(i)) return false;
  }
  return true;
}

function lineEnd(data: Buffer, start: number): number {
  return data.indexOf(LF, start) + 1 || data.length;
}

/** The fields of the header that starts there, each with the lines that continue it. */
function* headerOf(data: Buffer, start = 0): Generator<{ name: string; line: Buffer }> {
  for (let [at, n] = [start, 0]; at < data.length && !isAt(data, at, "\r\n"); n++) {
    let end = lineEnd(data, at);
    // The last one is all that is left of too many.
    const goesOn = () =>
      n < MAX_FIELDS ? data[end] === 0x20 || data[end] === 0x09 : !isAt(data, end, "\r\n");
    while (end < data.length && goesOn()) end = lineEnd(data, end);
    const line = data.subarray(at, end);
    const [, name = ""] = /^([^\s:]+)[ \t]*:/.exec(line.toString("latin1", 0, 1000)) ?? [];
    yield { name: name.toLowerCase(), line };
    at = end;
  }
}

/** What a field says, on one line. */
function valueOf(field: Buffer): string {
  const text = field.toString("latin1", field.indexOf(":") + 1, MAX_FIELD);
  return text.replaceAll("\r\n", "").replaceAll(/[\t\r\0]/g, " ").trim();
}

function parametersOf(field: string): [name: string, value: string][] {
  const parameter = /;\s*([^\s=;]+)\s*=\s*(?:("[^"\\]*(?:\\.[^"\\]*)*")|([^\s;]*))/g;
  return [...field.matchAll(parameter)].map(([, name, quoted, word]) => {
    return [name.toLowerCase(), quoted === undefined ? word : withoutQuotes(quoted)];
  });
}

function isMultipart({ type }: Pick<Part, "type">): boolean {
  return type.startsWith("multipart/");
}

function isMessage({ type }: Pick<Part, "type">): boolean {
  return type === "message/rfc822";
}

/** A string as the protocol has it; none is NIL. */
function nstring(text: string | undefined): string {
  if (text === undefined) return "NIL";
  if (!/^[ -~]{0,1000}$/.test(text)) return `{${text.length}}\r\n${text}`;
  return `"${text.replaceAll(/["\\]/g, "\\$&")}"`;
}

function nstrings(texts: string[] = []): string {
  return texts.length > 0 ? `(${texts.map(nstring).join(" ")})` : "NIL";
}

/** BODYSTRUCTURE, or BODY, which has nothing of what extends it (RFC 3501, 7.4.2). */
function structure(part: Part, extended: boolean): string {
  const { fields, type, body, parts } = part;
  const [main, subtype] = type.split("/").map(nstring);
  const parameters = nstrings(part.parameters.flat());
  const field = (name: string) => nstring(fields.get(`content-${name}`));
  const disposition = fields.get("content-disposition");
  const [kind = ""] = disposition?.split(/[\s;]/, 1) ?? [];
  const extension = [
    disposition ? `(${nstring(kind)} ${nstrings(parametersOf(disposition).flat())})` : "NIL",
    nstrings(fields.get("content-language")?.match(/[\w-]+/g) ?? []),
    field("location"),
  ];
  if (isMultipart(part)) {
    const children = parts.map((part) => structure(part, extended)).join("");
    const rest = extended ? [parameters, ...extension] : [];
    return `(${[children, subtype, ...rest].join(" ")})`;
  }
  const encoding = nstring(fields.get("content-transfer-encoding") ?? "7bit");
  const items = [main, subtype, parameters, field("id"), field("description"), encoding];
  items.push(`${body.length}`);
  if (isMessage(part)) items.push(envelope(parts[0]), structure(parts[0], extended));
  if (isMessage(part) || type.startsWith("text/")) {
    let [lines, at] = [0, 0];
    while ((at = body.indexOf(LF, at) + 1) > 0) lines++;
    items.push(`${lines}`);
  }
  if (extended) items.push(field("md5"), ...extension);
  return `(${items.join(" ")})`;
}

function envelope({ fields }: Part): string {
  const text = (name: string) => nstring(fields.get(name));
  const [from, sender, replyTo, ...others] = ["from", "sender", "reply-to", "to", "cc", "bcc"]
    .map((name) => addresses(fields.get(name) ?? ""));
  const authors = [from, ...[sender, replyTo].map((list) => list === "NIL" ? from : list)];
  const ids = [text("in-reply-to"), text("message-id")];
  return `(${[text("date"), text("subject"), ...authors, ...others, ...ids].join(" ")})`;
}

/** Addresses as (name, route, mailbox, host); where a group begins and ends, one without host. */
function addresses(field: string): string {
  const list: string[] = [];
  let words: string[] = []; // of a name, or of an address without brackets
  let bracketed: string[] | undefined;
  let [comment, isOpen, inGroup] = ["", false, false];
  const add = (...address: (string | undefined)[]) =>
    list.push(`(${address.map(nstring).join(" ")})`);

  function finish(): void {
    const address = bracketed ?? words.splice(Math.max(0, words.lastIndexOf("@") - 1));
    const at = address.lastIndexOf("@");
    const host = at < 0 ? "" : address.splice(at).slice(1).join("");
    const name = words.join(" ") || comment || undefined;
    if (bracketed || address.length > 0) add(name, undefined, address.join(""), host);
    [words, bracketed, comment, isOpen] = [[], undefined, "", false];
  }
  function endGroup(): void {
    finish();
    if (inGroup) add(undefined, undefined, undefined, undefined);
    inGroup = false;
  }

  for (const token of tokensOf(field)) {
    if (token.startsWith("(")) comment ||= withoutQuotes(token);
    else if (token === "<") [bracketed, isOpen] = [[], true];
    else if (token === ">") isOpen = false;
    else if (token === ":" && bracketed) bracketed = []; // that was a route
    else if (token === ":") {
      add(undefined, undefined, words.join(" "), undefined);
      [words, inGroup] = [[], true];
    } else if (token === ";") endGroup();
    else if (token === "," && !isOpen) finish();
    else {
      const word = token.startsWith('"') ? withoutQuotes(token) : token;
      if (isOpen || !bracketed) (bracketed ?? words).push(word);
    }
  }
  endGroup();
  return list.length > 0 ? `(${list.join("")})` : "NIL";
}

/** The words, quoted strings, comments and special characters of a field (RFC 5322, 3.2). */
function tokensOf(field: string): string[] {
  const quoted = /"[^"\\]*(?:\\.[^"\\]*)*"?/.source;
  const comment = /\((?:[^()\\]|\\.|\((?:[^()\\]|\\.)*\))*\)?/.source; // with others in it
  const token = `${quoted}|${comment}|\\[[^\\]]*\\]?|[<>,;:@)]|[^\\s"<>,;:@()[]+`;
  return field.match(new RegExp(token, "g")) ?? [];
}

/* FETCH (RFC 3501, 6.4.5). */

/** What FETCH asks of each message. */
type Item = {
  label: string; // by which the answer has it
  value: (told: Told, session: Session) => Promise<string | Buffer | undefined> | string;
  sees: boolean; // whoever is answered that has seen the message
};

/** The items but for sections. */
const ITEMS: Record<string, Item["value"]> = {
  UID: ({ message }) => `${message.uid}`,
  FLAGS: (told) => flagsOf(told),
  INTERNALDATE: async ({ message }, { folder }) => {
    const date = (await (folder as Folder).received(message)).toUTCString();
    return date.replace(/^..., (..) (...) (....) (.*) GMT$/, '"$1-$2-$3 $4 +0000"');
  },
  "RFC822.SIZE": async ({ message }, { folder }) => `${await (folder as Folder).size(message)}`,
  ENVELOPE: async ({ message }, session) => envelope((await session.load(message)).root),
  BODY: async ({ message }, session) => structure((await session.load(message)).root, false),
  BODYSTRUCTURE: async ({ message }, session) =>
    structure((await session.load(message)).root, true),
};

const FAST = ["FLAGS", "INTERNALDATE", "RFC822.SIZE"];
const MACROS: Record<string, string[]> = {
  FAST,
  ALL: [...FAST, "ENVELOPE"],
  FULL: [...FAST, "ENVELOPE", "BODY"],
};
/** The old names of sections. */
const OLD: Record<string, string> = {
  "RFC822": "BODY[]",
  "RFC822.HEADER": "BODY.PEEK[HEADER]",
  "RFC822.TEXT": "BODY[TEXT]",
};

async function fetch(session: Session, [set, wanted]: Value[], uid: boolean): Promise<void> {
  const names = Array.isArray(wanted)
    ? listOf(wanted)
    : MACROS[stringOf(wanted).toUpperCase()] ?? [stringOf(wanted)];
  const items = names.map(itemOf);
  if (uid && !items.some(({ label }) => label === "UID")) items.unshift(itemOf("UID"));
  const sees = !session.readOnly && items.some(({ sees }) => sees);
  await session.each(session.choose(sequenceSetOf(set), uid), async (told, n) => {
    const { message } = told;
    const asked = [...items];
    if (sees && !message.flags.includes("S")) {
      await session.load(message); // else it is not seen
      const see = (flags: string) => [...new Set([...flags, "S"])].sort().join("");
      await session.folder?.setFlags(message, see);
      if (!items.some(({ label }) => label === "FLAGS")) asked.push(itemOf("FLAGS"));
    }
    const answer: (string | Buffer)[] = [];
    for (const { label, value } of asked) {
      if (label === "FLAGS") told.flags = message.flags;
      const said = await value(told, session) ?? "NIL";
      answer.push(answer.length > 0 ? " " : "", `${label} `);
      answer.push(...said instanceof Buffer ? [`{${said.length}}\r\n`, said] : [said]);
    }
    await session.send(`* ${n} FETCH (`, ...answer, ")\r\n");
  });
}

const WHAT = "(HEADER|TEXT|MIME|HEADER\\.FIELDS(?:\\.NOT)? \\(.+\\))";
const SECTION = new RegExp(`^(?:([1-9]\\d*(?:\\.[1-9]\\d*)*)(?:\\.${WHAT})?|${WHAT}?)$`);

/** Of the part at that path all, or what is named; of its header the fields that are named. */
type Section = { path: number[]; what: string; names: string[] };

function itemOf(name: string): Item {
  const label = name.toUpperCase();
  if (label in ITEMS) return { label, value: ITEMS[label], sees: false };
  const [, peek, text = "?", first = 0, length = Infinity] =
    /^BODY(\.PEEK)?\[(.*)\](?:<(\d{1,10})\.(\d{1,10})>)?$/.exec(OLD[label] ?? label) ?? [];
  const [all, path, ofPart, ofMessage] = SECTION.exec(text) ?? [];
  if (all === undefined || ofMessage === "MIME") throw new Bad("there is no such item");
  const [what = "", ...names] = (ofPart ?? ofMessage)?.match(/[^ ()"]+/g) ?? [];
  const section = { path: path?.split(".").map(Number) ?? [], what, names };
  return {
    label: label in OLD ? label : label.replace(/\.PEEK|\.\d+(?=>$)/g, ""),
    async value({ message }, session) {
      const octets = sectionOf(await session.load(message), section);
      return octets?.subarray(Number(first), Number(first) + Number(length));
    },
    sees: !peek,
  };
}

/** The octets of a section; undefined if there is no such part. */
export function sectionOf(
  { data, root }: Content,
  { path, what, names }: Section,
): Buffer | undefined {
  let part: Part | undefined = root;
  for (const [depth, n] of path.entries()) {
    // The parts of a message that is a part are those of its body; that of a text is its part 1.
    const inside: Part = depth > 0 && isMessage(part) ? part.parts[0] : part;
    if (isMultipart(inside)) part = inside.parts[n - 1];
    else part = n === 1 && (depth === 0 || inside !== part) ? inside : undefined;
    if (!part) return undefined;
  }
  if (what === "MIME") return part.header;
  if (what === "") return path.length === 0 ? data : part.body;
  const message = path.length === 0 ? root : isMessage(part) ? part.parts[0] : undefined;
  if (what === "TEXT") return message?.body;
  if (what === "HEADER") return message?.header;
  return message && fieldsOf(message.header, names, what === "HEADER.FIELDS");
}

/** The fields of a header that have one of the names, or those that do not, and the blank line. */
function fieldsOf(header: Buffer, names: string[], wanted: boolean): Buffer {
  const known = new Set(names.map((name) => name.toLowerCase()));
  const result = Buffer.alloc(header.length);
  let [size, end] = [0, 0];
  for (const { name, line } of headerOf(header)) {
    if (known.has(name) === wanted) size += line.copy(result, size);
    end += line.length;
  }
  return result.subarray(0, size + header.copy(result, size, end));
}

/* SEARCH (RFC 3501, 6.4.4). */

/** Whether a message is one of those that are looked for. */
type Test = (told: Told, session: Session) => boolean | Promise<boolean>;

async function search(session: Session, keys: Value[], uid: boolean): Promise<void> {
  if (isEqual(`${keys[0]}`, "CHARSET")) {
    const [, charset = ""] = keys.splice(0, 2);
    if (!/^(us-ascii|utf-8)$/i.test(stringOf(charset))) {
      throw new No("[BADCHARSET (US-ASCII UTF-8)] it is not known");
    }
  }
  const test = searchKeys(keys, session);
  const found: number[] = [];
  await session.each(session.choose([[1, Infinity]], true), async (told, n) => {
    if (await test(told, session)) found.push(uid ? told.message.uid : n);
  });
  await session.send(`* ${["SEARCH", ...found].join(" ")}\r\n`);
}

/** All of the keys. */
function searchKeys(keys: Value[], session: Session): Test {
  const tests: Test[] = [];
  do tests.push(searchKey(keys, session)); while (keys.length > 0);
  return async (...of) => {
    for (const test of tests) if (!await test(...of)) return false;
    return true;
  };
}

/** Takes the next key off them. */
function searchKey(keys: Value[], session: Session, depth = 0): Test {
  if (depth > MAX_NESTING) throw new Bad("keys nested too deep");
  const next = () => {
    const [value] = keys.splice(0, 1);
    if (value === undefined) throw new Bad("there is something missing");
    return value;
  };
  const nextKey = () => searchKey(keys, session, depth + 1);

  const key = next();
  if (Array.isArray(key)) return searchKeys(key, session);
  const name = stringOf(key).toUpperCase();
  if (/^[\d*]/.test(name)) return isIn(session, sequenceSetOf(name), false);
  const [, sent, order] = /^(SENT)?(BEFORE|ON|SINCE)$/.exec(name) ?? [];
  if (order) return hasDate(next(), order, sent !== undefined);
  const flag = Object.entries(FLAGS).find(([flag]) =>
    isEqual(`\\${name.replace(/^UN/, "")}`, flag)
  );
  if (flag) return ({ message }) => message.flags.includes(flag[1]) !== name.startsWith("UN");
  switch (name) {
    case "ALL":
      return () => true;
    case "RECENT":
      return ({ recent }) => recent;
    case "OLD":
      return ({ recent }) => !recent;
    case "NEW":
      return ({ recent, message }) => recent && !message.flags.includes("S");
    case "KEYWORD":
    case "UNKEYWORD":
      next(); // no message has any
      return () => name === "UNKEYWORD";
    case "UID":
      return isIn(session, sequenceSetOf(next()), true);
    case "NOT": {
      const test = nextKey();
      return async (...of) => !await test(...of);
    }
    case "OR": {
      const [one, other] = [nextKey(), nextKey()];
      return async (...of) => await one(...of) || await other(...of);
    }
    case "LARGER":
    case "SMALLER": {
      const [n, sign] = [numberOf(next()), name === "LARGER" ? 1 : -1];
      return async ({ message }, { folder }) =>
        Math.sign(await (folder as Folder).size(message) - n) === sign;
    }
    case "BCC":
    case "CC":
    case "FROM":
    case "HEADER":
    case "SUBJECT":
    case "TO": {
      const field = name === "HEADER" ? stringOf(next()) : name;
      return contains(next(), (root) => headerTexts(root, field));
    }
    case "BODY":
      return contains(next(), bodyTexts);
    case "TEXT":
      return contains(next(), (root) => [...headerTexts(root), ...bodyTexts(root)]);
    default:
      throw new Bad("there is no such search key");
  }
}

function isIn(session: Session, set: SequenceSet, uid: boolean): Test {
  const chosen = new Set(session.choose(set, uid).map(({ told }) => told));
  return (told) => chosen.has(told);
}

/** Neither the time nor its zone matters. */
function hasDate(date: Value, order: string, sent: boolean): Test {
  const wanted = /^\d\d?-...-\d{4}$/.test(stringOf(date)) ? dayOf(stringOf(date)) : NaN;
  if (Number.isNaN(wanted)) throw new Bad("a date expected, such as 1-Feb-2026");
  return async ({ message }, session) => {
    const day = sent
      ? dayOf((await session.load(message)).root.fields.get("date") ?? "")
      : Math.floor((await (session.folder as Folder).received(message)).getTime() / DAY);
    return order === "ON" ? day === wanted : order === "SINCE" ? day >= wanted : day < wanted;
  };
}

/** Whether one of the texts has the string in it, in capital or small letters. */
function contains(string: Value, textsOf: (root: Part) => Iterable<string>): Test {
  const wanted = textOf(Buffer.from(stringOf(string), "latin1")).toLowerCase();
  return async ({ message }, session) => {
    for (const text of textsOf((await session.load(message)).root)) {
      if (text.toLowerCase().includes(wanted)) return true;
    }
    return false;
  };
}

/** The fields of a header, or what those of that name say, with encoded words (RFC 2047) decoded. */
function* headerTexts({ header }: Part, wanted?: string): Generator<string> {
  for (const { name, line } of headerOf(header)) {
    const value = decodeWords(textOf(Buffer.from(valueOf(line), "latin1")));
    if (wanted === undefined) yield `${name}: ${value}`;
    else if (isEqual(name, wanted)) yield value;
  }
}

/** What is text in the body. */
function* bodyTexts(part: Part): Generator<string> {
  for (const inner of part.parts) {
    if (isMessage(part)) yield* headerTexts(inner);
    yield* bodyTexts(inner);
  }
  if (!part.type.startsWith("text/")) return;
  const encoding = part.fields.get("content-transfer-encoding") ?? "";
  const [, charset] = part.parameters.find(([name]) => name === "charset") ?? [];
  yield textOf(decode(part.body, encoding), charset);
}

function decode(body: Buffer, encoding: string): Buffer {
  if (isEqual(encoding, "base64")) return Buffer.from(body.toString("latin1"), "base64");
  if (!isEqual(encoding, "quoted-printable")) return body;
  const text = body.toString("latin1").replaceAll(/=[ \t]*\r\n/g, "");
  const octet = (_: string, hex: string) => String.fromCharCode(parseInt(hex, 16));
  return Buffer.from(text.replaceAll(/=([0-9A-F]{2})/gi, octet), "latin1");
}

/** Octets as text; of a charset that is not known, as UTF-8 if they are that, or else Latin-1. */
function textOf(octets: Buffer, charset = "us-ascii"): string {
  try {
    if (!isEqual(charset, "us-ascii")) return new TextDecoder(charset).decode(octets);
  } catch {
    // There is no such charset.
  }
  return octets.toString(isUtf8(octets) ? "utf8" : "latin1");
}

if (import.meta.main) {
  await main({
    name: "imap_server",
    about: "Serves the mail in a Maildir (made if it is not there) by IMAP.",
    usage: "MAILDIR",
    permissions: "--allow-net --allow-read --allow-write --allow-env=MAIL_PASSWORD",
    flags: {
      ...serverFlags(PORT),
      idleTimeout: flag("S", "close what is silent for so many seconds", seconds, "1800"),
      user: flag("NAME", "whose mail it is; the password is MAIL_PASSWORD's", String, "mail"),
      trace: toggle("print both directions of the wire on stderr, passwords too"),
    },
  }, async (flags, path) => {
    const listener = await listen(flags);
    const folders = await Folders.open(path);
    let password = Deno.env.get("MAIL_PASSWORD");
    if (!password) {
      password = crypto.getRandomValues(new Uint8Array(8)).toHex();
      console.error(`${flags.name}: made a password for ${printable(flags.user)}: ${password}`);
    }
    const options = { ...flags, signal: stopSignal() };
    const account: Account = { ...options, folders, password };
    await serve(listener, (conn) => converse(conn, account), options);
  });
}
