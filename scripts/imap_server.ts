#!/usr/bin/env -S deno run --allow-net --allow-read --allow-write --allow-env=MAIL_PASSWORD
/**
 * An IMAP server (RFC 3501) for the mail of one person, which is in a Maildir.
 *
 *     MAIL_PASSWORD=secret deno run --allow-net --allow-env=MAIL_PASSWORD --allow-read --allow-write \
 *       scripts/imap_server.ts Maildir
 *     curl -u mail:secret imap://127.0.0.1:8143/ -X 'STATUS INBOX (MESSAGES UNSEEN)'
 *
 * Folders are Maildir++ (`Work.2024` is `Maildir/.Work.2024`), the numbers of messages (UIDs) are in
 * a file `uidlist` in each, and flags are in the names of the files: other programs may deliver,
 * read and delete there meanwhile, but not a second server with numbers of its own. Flags are the
 * five of the protocol; keywords are not stored. It also speaks IDLE (RFC 2177), UNSELECT
 * (RFC 3691), UIDPLUS (RFC 4315), SASL-IR (RFC 4959) and LITERAL+ (RFC 7888).
 *
 * There is no STARTTLS, as Deno cannot turn a server's connection into TLS: off this machine, use
 * `--cert` and `--key`, which is TLS from the first octet. Silence is taken for half an hour, the
 * least that section 5.4 of the RFC allows; a client in IDLE is told every two minutes that the
 * server is still there, and so is not silent.
 *
 * Mirrors the IMAP4 row of tutorial 003 (`imaplib`) and the chapter "IMAP" of tutorial 002, both
 * without a listing. It is the server's side of what `imaplib` does:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `IMAP4.login(user, password)`, `authenticate()` | `COMMANDS`: `LOGIN`, `AUTHENTICATE` |
 * | `IMAP4.list()`, `lsub()`, `create()`, `rename()`, ... | `COMMANDS.authenticated`, on `Folders` |
 * | `IMAP4.append(mailbox, flags, date, message)` | `append()`: `folder.deliver()`, `folder.number()` |
 * | `IMAP4.fetch(set, items)` | `fetch()`, of `ITEMS` and of `sectionOf()` a message |
 * | `IMAP4.search(charset, criteria)` | `search()`, which makes a function of each `searchKey()` |
 * | `IMAP4.store(set, "+FLAGS", flags)`, `expunge()` | `store()`, `expunge()` |
 * | `email.message_from_bytes()` | `parseMessage()`, which keeps where each part is |
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

/** Reads a command: its lines, and after each but the last a literal; null at the end. */
async function readCommand(conn: FramedConn, loggedIn: boolean): Promise<Arguments | null> {
  const pieces: (string | Buffer)[] = [];
  for (let left = MAX_COMMAND;;) {
    const line = await conn.readLineOctets(Math.min(left, MAX_COMMAND));
    if (line === null) return null;
    const text = Buffer.from(line).toString("latin1");
    if (loggedIn && pieces.length === 0 && /^\S+ APPEND /i.test(text)) left += MAX_MESSAGE;
    pieces.push(text);
    const [, digits, plus] = /\{(\d{1,10})(\+?)\}$/.exec(text) ?? [];
    if (digits === undefined) return new Arguments(pieces);
    left -= text.length + Number(digits);
    if (left < 0) throw new LimitError("command too long");
    if (!plus) await conn.writeAll("+ go on\r\n");
    const literal = Buffer.alloc(Number(digits));
    for (let size = 0; size < literal.length;) {
      const piece = await conn.readSome(literal.length - size);
      if (piece === null) return null;
      literal.set(piece, size);
      size += piece.length;
    }
    pieces.push(literal);
  }
}

/** From and to; Infinity is `*`, the last message. */
type SequenceSet = [number, number][];

/** A command. Each method takes what comes next, if it is that, or throws {@linkcode Bad}. */
class Arguments {
  #text: string;
  #at = 0;
  readonly #rest: (string | Buffer)[]; // literals, each with what follows it

  constructor([text, ...rest]: (string | Buffer)[]) {
    this.#text = `${text}`;
    this.#rest = rest;
  }

  /** Whether that comes next, which it does not take. */
  at(character: string): boolean {
    return this.#text[this.#at] === character;
  }

  /** Takes what a sticky pattern matches, or nothing. */
  take(pattern: RegExp): string | undefined {
    pattern.lastIndex = this.#at;
    const [match] = pattern.exec(this.#text) ?? [];
    this.#at += match?.length ?? 0;
    return match;
  }

  need(pattern: RegExp, what: string): string {
    const taken = this.take(pattern);
    if (taken === undefined) throw new Bad(`${what} expected`);
    return taken;
  }

  space(): this {
    this.need(/ /y, "a space");
    return this;
  }

  end(): void {
    this.need(/ *$/y, "the end");
  }

  /** A word of the protocol, in capitals. */
  word(): string {
    return this.need(/[A-Z0-9.+-]+/iy, "a word").toUpperCase();
  }

  literal(): Buffer {
    this.need(/\{\d+\+?\}$/y, "a literal");
    const [literal, text] = this.#rest.splice(0, 2);
    [this.#text, this.#at] = [`${text}`, 0];
    return literal as Buffer;
  }

  astring(characters: RegExp = /[^(){ %*"\\\p{Cc}\x80-\xff]+/uy): string {
    if (this.at("{")) return this.literal().toString("latin1");
    const quoted = this.take(/"[^"\\]*(?:\\["\\][^"\\]*)*"/y);
    if (quoted === undefined) return this.need(characters, "a string");
    return withoutQuotes(quoted);
  }

  mailbox(): string {
    return this.astring().replace(/^inbox$/i, "INBOX");
  }

  /** So many names of mailboxes, and then the end. */
  mailboxes(n: number): string[] {
    const names = Array.from({ length: n }, () => this.space().mailbox());
    this.end();
    return names;
  }

  /** A name with wildcards. */
  pattern(): string {
    return this.astring(/[^(){ "\\\p{Cc}\x80-\xff]+/uy);
  }

  list<T>(element: () => T): T[] {
    this.need(/\(/y, "(");
    const elements: T[] = [];
    while (this.take(/\)/y) === undefined) {
      if (elements.length > 0) this.space();
      elements.push(element());
    }
    return elements;
  }

  /** As letters. Keywords are passed over, and `\Recent`, which is not the client's to set. */
  flags(): string {
    const flag = () => this.need(/\\?[^(){ %*"\\\]\p{Cc}\x80-\xff]+/uy, "a flag");
    return (this.at("(") ? this.list(flag) : [flag()]).map((name) => {
      const known = Object.entries(FLAGS).find(([flag]) => isEqual(flag, name));
      if (!known && /^\\(?!recent$)/i.test(name)) throw new Bad("there is no such flag");
      return known?.[1] ?? "";
    }).join("");
  }

  number(): number {
    const n = Number(this.need(/\d{1,10}/y, "a number"));
    if (n >= 2 ** 32) throw new Bad("a number of 32 bits expected");
    return n;
  }

  sequenceSet(): SequenceSet {
    const n = () => this.take(/\*/y) ? Infinity : this.number() || this.number();
    const set: SequenceSet = [];
    do {
      const from = n();
      set.push([from, this.take(/:/y) ? n() : from]);
    } while (this.take(/,/y));
    return set;
  }

  /** A day, counted from 1970. */
  date(): number {
    const day = dayOf(this.need(/"?\d{1,2}-[A-Z]{3}-\d{4}"?/iy, "a date"));
    if (Number.isNaN(day)) throw new Bad("there is no such day");
    return day;
  }

  dateTime(): Date {
    const text = this.need(/"[ \d]\d-[A-Z]{3}-\d{4} \d\d:\d\d:\d\d [+-]\d{4}"/iy, "a date");
    const date = new Date(text.slice(1, -1).replace("-", " ").replace("-", " "));
    if (Number.isNaN(date.getTime())) throw new Bad("there is no such time");
    return date;
  }
}

/** What is in a quoted string or a comment. */
function withoutQuotes(text: string): string {
  return text.slice(1, -1).replaceAll(/\\(.)/g, "$1");
}

function isEqual(a: string, b: string): boolean {
  return a.toUpperCase() === b.toUpperCase();
}

/** The day in a text such as `Mon, 7 Feb 1994 21:52:25 -0800`, counted from 1970; NaN without one. */
function dayOf(text: string): number {
  const [, day, month, year] = /(\d{1,2})[ -]([A-Z]{3})[ -](\d{4})/i.exec(text) ?? [];
  return Date.parse(`${day} ${month} ${year} UTC`) / DAY;
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
  async execute(args: Arguments): Promise<void> {
    let [tag, name, answer, uid] = ["*", "", "", false];
    try {
      tag = args.need(/[^(){ %*"\\+\p{Cc}\x80-\xff]+/uy, "a tag");
      name = args.space().word();
      uid = name === "UID";
      if (uid) name = args.space().word();
      const command = [
        COMMANDS.any,
        COMMANDS[this.loggedIn ? "authenticated" : "notAuthenticated"],
        this.folder ? COMMANDS.selected : {},
      ].map((commands) => commands[name]).find((command) => command);
      if (!command || uid && !/^(COPY|EXPUNGE|FETCH|SEARCH|STORE)$/.test(name)) {
        throw new Bad("no such command, or not now");
      }
      answer = `OK ${await command(this, args, uid) ?? "done"}`;
    } catch (error) {
      answer = answerOf(error);
    }
    // What these are about must keep its sequence number (RFC 3501, 7.4.1).
    await this.update(uid || !/^(FETCH|STORE|SEARCH)$/.test(name));
    await this.send(`${tag} ${answer}\r\n`);
    await this.flush();
  }

  logIn(user: string, password: string): string {
    const given = Buffer.from(`${user}\0${password}`, "latin1");
    this.loggedIn = isSecret(given, `${this.account.user}\0${this.account.password}`);
    if (this.loggedIn) return `[${CAPABILITY}] logged in`;
    if (++this.failures === MAX_LOGINS) this.bye = `${MAX_LOGINS} failed logins`;
    throw new No("[AUTHENTICATIONFAILED] wrong user or password");
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
      const args = await readCommand(conn, session.loggedIn);
      if (!args) return;
      await session.execute(args);
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

/** Does what a command asks for; with `uid` its numbers are UIDs. Returns what follows the OK. */
type Command = (
  session: Session,
  args: Arguments,
  uid: boolean,
) => Promise<string | void> | string | void;

/** The commands by the state that a session must be in (RFC 3501, 6.1 to 6.4). */
const COMMANDS: Record<
  "any" | "notAuthenticated" | "authenticated" | "selected",
  Record<string, Command>
> = {
  any: {
    async CAPABILITY(session, args) {
      args.end();
      await session.send(`* ${CAPABILITY}\r\n`);
    },
    async NOOP(session, args) {
      args.end();
      await session.look();
    },
    async LOGOUT(session, args) {
      args.end();
      session.select();
      session.bye = ""; // as it comes before the OK
      await session.send("* BYE see you\r\n");
    },
  },

  notAuthenticated: {
    LOGIN(session, args) {
      const [user, password] = [args.space().astring(), args.space().astring()];
      args.end();
      return session.logIn(user, password);
    },
    async AUTHENTICATE(session, args) {
      const mechanism = args.space().word();
      let response = args.take(/ [A-Z0-9+/=]+/iy)?.slice(1);
      args.end();
      if (mechanism !== "PLAIN") throw new No("PLAIN alone is known");
      if (response === undefined) {
        await session.conn.writeAll("+ \r\n");
        response = await session.conn.readLine(MAX_COMMAND) ?? "*";
      }
      if (response === "*") throw new Bad("cancelled");
      const [as, user, password] = Buffer.from(response, "base64").toString("latin1").split("\0");
      if (password === undefined) throw new Bad("not what PLAIN sends (RFC 4616)");
      if (as !== "" && as !== user) throw new No("[AUTHORIZATIONFAILED] nobody is somebody else");
      return session.logIn(user, password);
    },
  },

  authenticated: {
    SELECT: (session, args) => select(session, args, false),
    EXAMINE: (session, args) => select(session, args, true),
    async CREATE({ folders }, args) {
      const [name] = args.mailboxes(1);
      await folders.create(name.replace(/\.$/, "")); // the dot says that there will be some below
    },
    async DELETE(session, args) {
      const [name] = args.mailboxes(1);
      const folder = await session.folders.get(name);
      await session.folders.delete(name);
      if (session.folder === folder) session.select();
    },
    async RENAME({ folders }, args) {
      const [from, to] = args.mailboxes(2);
      await folders.rename(from, to.replace(/\.$/, ""));
    },
    async SUBSCRIBE({ folders }, args) {
      const [name] = args.mailboxes(1);
      await folders.subscribe(name, true);
    },
    async UNSUBSCRIBE({ folders }, args) {
      const [name] = args.mailboxes(1);
      await folders.subscribe(name, false);
    },
    async LIST(session, args) {
      await list(session, args, "LIST", await session.folders.names());
    },
    async LSUB(session, args) {
      await list(session, args, "LSUB", await session.folders.subscriptions());
    },
    async STATUS(session, args) {
      const name = args.space().mailbox();
      const items = args.space().list(() => args.word());
      args.end();
      const folder = await session.folders.get(name);
      await folder.refresh();
      const { messages, uidNext, uidValidity } = folder;
      const values: Record<string, number> = {
        MESSAGES: messages.length,
        RECENT: messages.filter(({ isNew }) => isNew).length,
        UIDNEXT: uidNext,
        UIDVALIDITY: uidValidity,
        UNSEEN: messages.filter(({ flags }) => !flags.includes("S")).length,
      };
      if (!items.every((item) => item in values)) throw new Bad("there is no such item");
      const said = items.map((item) => `${item} ${values[item]}`);
      await session.send(`* STATUS ${nstring(name)} (${said.join(" ")})\r\n`);
    },
    async APPEND(session, args) {
      const name = args.space().mailbox();
      const flags = args.space().at("(") ? args.flags() : undefined;
      if (flags !== undefined) args.space();
      const received = args.at('"') ? args.dateTime() : undefined;
      if (received) args.space();
      const data = args.literal();
      args.end();
      const folder = await session.target(name);
      const [message] = await folder.number([await folder.deliver(data, { flags, received })]);
      return `[APPENDUID ${folder.uidValidity} ${message.uid}] stored`;
    },
    IDLE: idle,
  },

  selected: {
    async CHECK(session, args) {
      args.end();
      await session.look();
    },
    async CLOSE(session, args) {
      args.end();
      if (!session.readOnly) await removeDeleted(session, session.view);
      session.select();
    },
    UNSELECT(session, args) {
      args.end();
      session.select();
    },
    async EXPUNGE(session, args, uid) {
      const set: SequenceSet = uid ? args.space().sequenceSet() : [[1, Infinity]];
      args.end();
      checkWritable(session);
      await removeDeleted(session, session.choose(set, true).map(({ told }) => told));
    },
    SEARCH: search,
    FETCH: fetch,
    STORE: store,
    COPY: copy,
  },
};

async function select(session: Session, args: Arguments, readOnly: boolean): Promise<string> {
  const [name] = args.mailboxes(1);
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

async function list(
  session: Session,
  args: Arguments,
  response: string,
  names: string[],
): Promise<void> {
  const [reference, wanted] = [args.space().astring(), args.space().pattern()];
  args.end();
  const pattern = (reference + wanted).replace(/^inbox$/i, "INBOX");
  if (pattern.length > MAX_PATTERN) throw new Bad("too long a pattern");
  // With its attributes. Without a pattern the question is what is between the parts of a name.
  const found = new Map(wanted === "" ? [["", "\\Noselect"]] : []);
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
async function idle(session: Session, args: Arguments): Promise<void> {
  args.end();
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

async function store(session: Session, args: Arguments, uid: boolean): Promise<void> {
  const set = args.space().sequenceSet();
  const sign = args.space().take(/[+-]/y);
  const item = args.word();
  if (item !== "FLAGS" && item !== "FLAGS.SILENT") throw new Bad("FLAGS expected");
  let letters = args.space().flags();
  while (args.at(" ")) letters += args.space().flags();
  args.end();
  checkWritable(session);
  const replaced = sign ? letters : Object.values(FLAGS).join("");
  const change = (flags: string) => {
    const others = sign === "+"
      ? [...flags]
      : [...flags].filter((flag) => !replaced.includes(flag));
    return [...new Set(sign === "-" ? others : [...others, ...letters])].sort().join("");
  };
  await session.each(session.choose(set, uid), async (told, n) => {
    await session.folder?.setFlags(told.message, change);
    told.flags = change(told.flags); // what the client knows; update() tells what is different
    if (item === "FLAGS.SILENT") return;
    told.flags = told.message.flags;
    const number = uid ? `UID ${told.message.uid} ` : "";
    await session.send(`* ${n} FETCH (${number}FLAGS ${flagsOf(told)})\r\n`);
  });
}

async function copy(session: Session, args: Arguments, uid: boolean): Promise<string> {
  const set = args.space().sequenceSet();
  const [name] = args.mailboxes(1);
  const chosen = session.choose(set, uid);
  const [source, target] = [session.folder as Folder, await session.target(name)];
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
function* tokensOf(field: string): Generator<string> {
  const token = /\s*("[^"\\]*(?:\\.[^"\\]*)*"?|\[[^\]]*\]?|[<>,;:@()]|[^\s"<>,;:@()[]+)/y;
  for (let match; (match = token.exec(field));) {
    const start = token.lastIndex - 1;
    if (match[1] === "(") { // in which there may be others
      let depth = 1;
      for (; depth > 0 && token.lastIndex < field.length; token.lastIndex++) {
        const character = field[token.lastIndex];
        if (character === "\\") token.lastIndex++;
        else if (character === "(") depth++;
        else if (character === ")") depth--;
      }
    }
    yield match[1] === "(" ? field.slice(start, token.lastIndex) : match[1];
  }
}

/* FETCH (RFC 3501, 6.4.5). */

/** What FETCH asks of each message. */
type Item = {
  label: string; // by which the answer has it
  value: (told: Told, session: Session) => Promise<string | Buffer | undefined> | string;
  sees?: boolean; // whoever is answered that has seen the message
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

/** Of the part at that path all, or what is named; of its header the fields that are named. */
type Section = { path: number[]; what: string; names: string[] };

async function fetch(session: Session, args: Arguments, uid: boolean): Promise<void> {
  const set = args.space().sequenceSet();
  const macro = args.space().take(/(ALL|FAST|FULL)(?= *$)/iy)?.toUpperCase();
  const items = macro
    ? MACROS[macro].map(itemOf)
    : args.at("(")
    ? args.list(() => fetchItem(args))
    : [fetchItem(args)];
  args.end();
  if (uid && !items.some(({ label }) => label === "UID")) items.unshift(itemOf("UID"));
  const sees = !session.readOnly && items.some(({ sees }) => sees);
  await session.each(session.choose(set, uid), async (told, n) => {
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
      const said = await value(told, session) ?? "NIL";
      answer.push(answer.length > 0 ? " " : "", `${label} `);
      answer.push(...said instanceof Buffer ? [`{${said.length}}\r\n`, said] : [said]);
      if (label === "FLAGS") told.flags = message.flags;
    }
    await session.send(`* ${n} FETCH (`, ...answer, ")\r\n");
  });
}

function itemOf(label: string): Item {
  return { label, value: ITEMS[label] };
}

function fetchItem(args: Arguments): Item {
  const name = args.word();
  if (name === "RFC822") return sectionItem(name, { path: [], what: "", names: [] }, true);
  if (name === "RFC822.HEADER") {
    return sectionItem(name, { path: [], what: "HEADER", names: [] }, false);
  }
  if (name === "RFC822.TEXT") return sectionItem(name, { path: [], what: "TEXT", names: [] }, true);
  if (name in ITEMS && !args.at("[")) return itemOf(name);
  if (name !== "BODY" && name !== "BODY.PEEK") throw new Bad("there is no such item");
  args.need(/\[/y, "[");
  const path = args.take(/[1-9]\d*(\.[1-9]\d*)*/y)?.split(".").map(Number) ?? [];
  const isPart = path.length > 0;
  const what = isPart && !args.take(/\./y) ? "" : args.at("]") && !isPart ? "" : args.word();
  if (!/^(HEADER(\.FIELDS(\.NOT)?)?|TEXT|)$/.test(what) && !(what === "MIME" && isPart)) {
    throw new Bad("there is no such section");
  }
  const names = what.includes("FIELDS") ? args.space().list(() => args.astring()) : [];
  args.need(/\]/y, "]");
  const range = args.take(/<\d{1,10}\.\d{1,10}>/y)?.slice(1, -1).split(".").map(Number);
  const fields = names.map((name) => /^[\w-]+$/.test(name) ? name : nstring(name)).join(" ");
  const said = [...path, ...what ? [what] : []].join(".") + (fields && ` (${fields})`);
  const label = `BODY[${said}]${range ? `<${range[0]}>` : ""}`;
  return sectionItem(label, { path, what, names }, name === "BODY", range);
}

function sectionItem(label: string, section: Section, sees: boolean, range?: number[]): Item {
  const [start, length] = range ?? [0, Infinity];
  return {
    label,
    value: async ({ message }, session) =>
      sectionOf(await session.load(message), section)?.subarray(start, start + length),
    sees,
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

async function search(session: Session, args: Arguments, uid: boolean): Promise<void> {
  const charset = args.space().take(/CHARSET /iy) ? args.astring() : "utf-8";
  if (!/^(us-ascii|utf-8)$/i.test(charset)) {
    throw new No("[BADCHARSET (US-ASCII UTF-8)] it is not known");
  }
  args.take(/ /y);
  const test = searchKeys(args, session, 0);
  args.end();
  const found: number[] = [];
  await session.each(session.choose([[1, Infinity]], true), async (told, n) => {
    if (await test(told, session)) found.push(uid ? told.message.uid : n);
  });
  await session.send(`* ${["SEARCH", ...found].join(" ")}\r\n`);
}

/** Keys with a space between, of which all must be so. */
function searchKeys(args: Arguments, session: Session, depth: number): Test {
  const tests = [searchKey(args, session, depth)];
  while (args.at(" ")) tests.push(searchKey(args.space(), session, depth));
  return async (...of) => {
    for (const test of tests) if (!await test(...of)) return false;
    return true;
  };
}

function searchKey(args: Arguments, session: Session, depth: number): Test {
  if (depth > MAX_NESTING) throw new Bad("keys nested too deep");
  const key = () => searchKey(args.space(), session, depth + 1);
  if (args.take(/\(/y)) {
    const test = searchKeys(args, session, depth + 1);
    args.need(/\)/y, ")");
    return test;
  }
  if (args.take(/(?=[\d*])/y) !== undefined) return isIn(session, args.sequenceSet(), false);
  const name = args.word();
  const [, sent, order] = /^(SENT)?(BEFORE|ON|SINCE)$/.exec(name) ?? [];
  if (order) return hasDate(args.space().date(), order, sent !== undefined);
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
      args.space().astring(); // no message has any
      return () => name === "UNKEYWORD";
    case "UID":
      return isIn(session, args.space().sequenceSet(), true);
    case "NOT": {
      const test = key();
      return async (...of) => !await test(...of);
    }
    case "OR": {
      const [one, other] = [key(), key()];
      return async (...of) => await one(...of) || await other(...of);
    }
    case "LARGER":
    case "SMALLER": {
      const n = args.space().number();
      const difference = name === "LARGER" ? 1 : -1;
      return async ({ message }, { folder }) =>
        Math.sign(await (folder as Folder).size(message) - n) === difference;
    }
    case "BCC":
    case "CC":
    case "FROM":
    case "HEADER":
    case "SUBJECT":
    case "TO": {
      const field = name === "HEADER" ? args.space().astring() : name;
      return contains(args, (root) => headerTexts(root, field));
    }
    case "BODY":
      return contains(args, bodyTexts);
    case "TEXT":
      return contains(args, (root) => [...headerTexts(root), ...bodyTexts(root)]);
    default:
      throw new Bad("there is no such search key");
  }
}

function isIn(session: Session, set: SequenceSet, uid: boolean): Test {
  const chosen = new Set(session.choose(set, uid).map(({ told }) => told));
  return (told) => chosen.has(told);
}

/** Neither the time nor its zone matters. */
function hasDate(wanted: number, order: string, sent: boolean): Test {
  return async ({ message }, session) => {
    const day = sent
      ? dayOf((await session.load(message)).root.fields.get("date") ?? "")
      : Math.floor((await (session.folder as Folder).received(message)).getTime() / DAY);
    return order === "ON" ? day === wanted : order === "SINCE" ? day >= wanted : day < wanted;
  };
}

/** Whether one of the texts has the string that comes next, in capital or small letters. */
function contains(args: Arguments, textsOf: (root: Part) => Iterable<string>): Test {
  const wanted = textOf(Buffer.from(args.space().astring(), "latin1")).toLowerCase();
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
