#!/usr/bin/env -S deno run --allow-net --allow-read --allow-write
/**
 * A news server (NNTP, RFC 3977): keeps the articles of newsgroups (RFC 5536 and 5537) in a folder, the
 * spool, and takes further ones from readers by POST and from other servers by IHAVE.
 *
 *     deno run --allow-net --allow-read --allow-write scripts/nntp_server.ts spool --group local.test
 *     deno run --allow-net scripts/nntp_client.ts list local.test
 *
 * There is no login: whoever reaches the port reads, and posts under any name.
 *
 * The spool is text:
 *
 * - `articles/1`, `articles/2` and so on: the articles, each once, in whatever groups it is;
 * - `index`: for each article, in the order of arrival, a line with its file, when it came and what
 *   OVER says of it. The last field of that, Xref, has its number in each group. An article is there
 *   as soon as its line is, which is before anybody is told so;
 * - `groups`: a line for each group with its name, since when it is there, and what it is about. It
 *   stays, whether a later `--group` names it or not.
 *
 * No number and no message-id that the index has is used again. Nothing expires. Delete the file of an
 * article while the server is down, and not its line, and the article is gone for good. Moderation,
 * control messages and Supersedes do nothing here, and nothing is sent on to other servers.
 *
 * Mirrors the NNTP row of tutorial 003. Python has a client only, `nntplib`, and since 3.13 not even
 * that; a server would be:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `asyncio.start_server(converse)` | `listen()`, `serve()` |
 * | `await reader.readline()`, until it is `b".\r\n"` | `conn.readDotLines(max)` |
 * | `octets.replace(b"\r\n.", b"\r\n..")` | `conn.writeDotLines(octets)` |
 * | `fnmatch.fnmatchcase(name, pattern)` | `matches(name, wildmat)` |
 * | `os.fsync(f.fileno())`, `os.replace(temporary, path)` | `file.sync()`, `Deno.rename(temporary, path)` |
 * | `fcntl.flock(f, LOCK_EX \| LOCK_NB)` | `file.tryLock(true)` |
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { listen, named, reason, UsageError } from "../lib/address.ts";
import { main, serverFlags, stopSignal } from "../lib/cli.ts";
import { type FramedConn, LimitError, printable, writeAll } from "../lib/framing.ts";
import { serve } from "../lib/server.ts";

const PORT = 8119; // NNTP's own is 119
const IDENTITY = "localhost"; // what the server calls itself in Path and Xref
const MAX_LINE = 512; // octets of a command (RFC 3977, 3.1), as are the next four
const MAX_ARTICLE = 1024 * 1024;
const MAX_HEADER = 65536;
const MAX_INDEX = 64 * 1024 * 1024; // all of it is in memory; 100,000 articles and more
const BATCH = 65536; // of an answer
const MAX_NAME = 200; // characters of a group's name, which a command must have room for
const DAY = 24 * 60 * 60 * 1000; // milliseconds
/** What OVER tells and HDR takes (RFC 3977, 8.4 and 8.6). */
const FIELDS = "subject from date message-id references :bytes :lines xref".split(" ");
/** The same for readers: `Bytes:` is allowed (8.4.2), and slrn takes `:bytes` for no overview at all. */
const OVERVIEW = "Subject: From: Date: Message-ID: References: Bytes: Lines: Xref:full".split(" ");
const [ID, XREF] = [FIELDS.indexOf("message-id"), FIELDS.indexOf("xref")];
/** Of these fields an article has one at most (RFC 5536, 3). */
const SINGLE = new Set(
  `approved archive control date distribution expires followup-to from injection-date injection-info
  lines message-id newsgroups organization path references reply-to sender subject summary supersedes
  user-agent xref`.split(/\s+/),
);
const INDEX_LINE = /^(\d+)\t([^\t]+)\t((?:[^\t]*\t){7}Xref: [^\t]+)$/;
const WELCOME = "200 welcome, posting is allowed";
const SYNTAX = "501 HELP tells what the command takes";
const CAPABILITIES = [
  "VERSION 2",
  "IMPLEMENTATION nntp_server.ts",
  "READER",
  "POST",
  "IHAVE",
  "NEWNEWS",
  "OVER MSGID",
  "HDR",
  "LIST ACTIVE HEADERS NEWSGROUPS OVERVIEW.FMT",
];

/** What is no article, or one that is not taken, and why. */
export class BadArticleError extends Error {}

/** What is answered to a command that is not obeyed. */
class Refusal extends Error {}

function reject(why: string): never {
  throw new BadArticleError(printable(why).slice(0, 200));
}

function refuse(answer: string): never {
  throw new Refusal(answer);
}

/**
 * Whether a name fits a wildmat (RFC 3977, 4): patterns with `*` and `?`, of which the last one that
 * fits decides; it says no if there is a `!` before it.
 */
export function matches(name: string, wildmat: string): boolean {
  const pattern = wildmat.split(",").findLast((pattern) => fits(name, pattern.replace(/^!/, "")));
  return pattern !== undefined && !pattern.startsWith("!");
}

/** Only the last `*` is ever tried again, so that `*a*a*a*` takes no longer than length times length. */
function fits(name: string, pattern: string): boolean {
  let [i, j, star, from] = [0, 0, -1, 0];
  while (i < name.length) {
    if (pattern[j] === "*") [star, from] = [j++, i];
    else if (pattern[j] === "?" || pattern[j] === name[i]) [i, j] = [i + 1, j + 1];
    else if (star >= 0) [i, j] = [++from, star + 1];
    else return false;
  }
  return /^\**$/.test(pattern.slice(j));
}

/** An article as somebody sends it. The characters of its texts are octets. */
export type Draft = {
  header: [name: string, field: string][]; // in their order, the names in lower case, with CRLF
  values: Map<string, string>; // in one line each
  body: string;
};

/** Whether it is a message-id, of 250 octets at most, none of them a blank (RFC 5536, 3.1.3). */
export function isMessageId(text: string): boolean {
  return text.length <= 250 && /^<[!-;=?-~]+@[!-;=?-~]+>$/.test(text);
}

/**
 * Reads an article, which must be as RFC 5536 and RFC 3977, 3.6 want it: no program may see other
 * fields in it, or another end of them, than the next one.
 *
 * @throws {BadArticleError} if it is not.
 */
export function parseArticle(octets: Uint8Array): Draft {
  const text = Buffer.from(octets).toString("latin1");
  if (/\0|\r(?!\n)|(?<!\r)\n/.test(text)) reject("there is a NUL, or a CR or LF alone");
  const end = text.indexOf("\r\n\r\n");
  if (end < 0) reject("no empty line ends the header");
  if (end > MAX_HEADER) reject(`the header has more than ${MAX_HEADER} bytes`);
  if (/[^\t\r\n -~\x80-\xff]/.test(text.slice(0, end))) reject("a control character in the header");
  const draft: Draft = { header: [], values: new Map(), body: text.slice(end + 4) };
  const { header, values } = draft;
  for (const field of text.slice(0, end + 2).match(/.*\r\n(?:[ \t].*\r\n)*/g) ?? []) {
    const [, name, value] = /^([!-9;-~]+): (.*)\r\n$/s.exec(field) ?? [];
    if (!name || !value.split("\r\n").every((line) => /[^ \t]/.test(line))) {
      reject(`not a header field: ${field.trimEnd()}`);
    }
    const key = name.toLowerCase();
    if (SINGLE.has(key) && values.has(key)) reject(`${name} is there twice`);
    header.push([key, field]);
    values.set(key, value.replaceAll("\r\n", "").trim());
  }
  need(draft, "From", "Newsgroups", "Subject");
  if (!isMessageId(values.get("message-id") ?? "<a@b>")) reject("Message-ID is not one");
  const date = values.get("date");
  if (date === undefined) return draft;
  const time = /\d [A-Z][a-z]{2} \d{4} \d\d:\d\d/.test(date) ? Date.parse(date) : NaN;
  if (isNaN(time)) reject("Date is not one");
  if (time > Date.now() + DAY) reject("Date is more than a day ahead");
  return draft;
}

function need({ values }: Draft, ...names: string[]): void {
  for (const name of names) if (!values.has(name.toLowerCase())) reject(`${name} is missing`);
}

/**
 * Makes an article of what a reader posts, as an injecting agent has to (RFC 5537, 3.5): with what it
 * lacks of Message-ID, Date and Path, and with where it came from.
 */
export function inject(draft: Draft, host: string): void {
  const { values } = draft;
  const path = values.get("path") ?? "not-for-mail";
  for (const name of ["injection-info", "xref"]) {
    if (values.has(name)) reject(`${name} is for servers to add`);
  }
  if (/(^|!)\s*\.?POSTED\b/i.test(path)) reject("Path names a server that has injected it");
  const now = new Date().toUTCString().replace("GMT", "+0000");
  // With both of its own it may be given to several servers, and is to be the same on all of them.
  const isNew = !values.has("message-id") || !values.has("date");
  if (isNew && !values.has("injection-date")) put(draft, "Injection-Date", now);
  put(draft, "Injection-Info", host ? `${IDENTITY}; posting-host="${host}"` : IDENTITY);
  if (!values.has("date")) put(draft, "Date", now);
  if (!values.has("message-id")) put(draft, "Message-ID", `<${crypto.randomUUID()}@${IDENTITY}>`);
  put(draft, "Path", `${IDENTITY}!.POSTED${host && `.${host}`}!${path}`);
}

/** Marks another server's article, as a relaying agent has to (RFC 5537, 3.6). */
export function relay(draft: Draft, host: string): void {
  need(draft, "Message-ID", "Date", "Path");
  put(draft, "Path", `${IDENTITY}!.SEEN${host && `.${host}`}!${draft.values.get("path")}`);
}

/** Puts a field on top of the header, in place of the one that is there. */
function put({ header, values }: Draft, name: string, value: string): void {
  const key = name.toLowerCase();
  const at = header.findIndex(([other]) => other === key);
  if (at >= 0) header.splice(at, 1);
  header.unshift([key, `${name}: ${value}\r\n`]);
  values.set(key, value);
}

/** The names in Newsgroups, each once. */
function newsgroups({ values }: Draft): string[] {
  return [...new Set(values.get("newsgroups")?.split(",").map((name) => name.trim()))];
}

/** An article in the spool. */
export type Article = {
  file: string;
  arrived: string; // as of Date.toISOString(), so that text order is time's
  overview: string; // what OVER says of it behind the number; the characters are octets
};

/** What OVER says of one thing. */
function valueOf({ overview }: Article, field: number): string {
  return overview.split("\t")[field].slice(field === XREF ? "Xref: ".length : 0);
}

/** The groups that it is in, and its numbers there. */
function placesOf(article: Article): [name: string, n: number][] {
  return valueOf(article, XREF).split(" ").slice(1).map((place) => {
    const [name, n] = place.split(":");
    return [name, Number(n)];
  });
}

/** A newsgroup. */
export class Group {
  /** The articles by number. */
  readonly articles: (Article | undefined)[] = [undefined];
  /** How many there are. */
  count = 0;
  /** The lowest number that one has, or if there is none, the next to come. */
  low = 1;

  /** One without articles. */
  constructor(readonly name: string, readonly created: string, readonly about: string) {}

  /** The highest number that one has, or had. */
  get high(): number {
    return this.articles.length - 1;
  }

  /** Gives the next number to an article, or to one that is gone. */
  add(article?: Article): void {
    this.articles.push(article);
    if (article) this.count++;
    else if (this.count === 0) this.low = this.high + 1;
  }

  /** The numbers from `low` to `high` that have one. */
  *between(low: number, high: number): Generator<[n: number, article: Article]> {
    for (let n = Math.max(low, this.low); n <= Math.min(high, this.high); n++) {
      const article = this.articles[n];
      if (article) yield [n, article];
    }
  }
}

/** The articles on disk, of one process at a time. Methods throw the system's error. */
export class Spool {
  /** By name. */
  readonly groups: Map<string, Group> = new Map();
  /** By message-id, with those that are gone. */
  readonly articles: Map<string, Article | undefined> = new Map();
  #files = 0; // the number of the last one
  #size = 0; // octets of the index
  #storing: Promise<void> = Promise.resolve();

  private constructor(readonly path: string, readonly index: Deno.FsFile) {}

  /**
   * Opens the one at `path`, made if it is not there.
   *
   * @param groups to be in it, with what they are about; a group that is there keeps the rest.
   * @throws an Error if another process has it, or if a file is not as it should be.
   */
  static async open(path: string, groups: [name: string, about: string][]): Promise<Spool> {
    await Deno.mkdir(`${path}/articles`, { recursive: true });
    const index = await Deno.open(`${path}/index`, { read: true, write: true, create: true });
    const spool = new Spool(path, index);
    try {
      if (!await index.tryLock(true)) throw new Error(`${path}: another server has it`);
      await spool.#readGroups(groups);
      await spool.#readIndex();
    } catch (error) {
      index.close();
      throw error;
    }
    return spool;
  }

  async #readGroups(wanted: [name: string, about: string][]): Promise<void> {
    const text = await Deno.readTextFile(`${this.path}/groups`).catch((error) => {
      if (error instanceof Deno.errors.NotFound) return "";
      throw error;
    });
    const add = (name: string, created: string, about: string) =>
      this.groups.set(name, new Group(name, created, about));
    for (const line of text.split("\n").filter((line) => line)) {
      const [name, created = "", about = ""] = line.split("\t");
      add(name, created, about);
    }
    for (const [name, about] of wanted) {
      const old = this.groups.get(name);
      add(name, old?.created ?? new Date().toISOString(), about || (old?.about ?? ""));
    }
    const lines = Array.from(this.groups.values(), ({ name, created, about }) => {
      return `${name}\t${created}\t${about}\n`;
    });
    await writeFile(this.path, "groups", Buffer.from(lines.join("")));
  }

  async #readIndex(): Promise<void> {
    const text = Buffer.from(await Deno.readFile(`${this.path}/index`)).toString("latin1");
    // Of a line without its end nobody was told.
    this.#size = text.lastIndexOf("\n") + 1;
    const files = new Set<string>();
    for await (const { name } of Deno.readDir(`${this.path}/articles`)) files.add(name);
    for (const [i, line] of text.slice(0, this.#size).split("\n").slice(0, -1).entries()) {
      try {
        const [, file, arrived, overview] = INDEX_LINE.exec(line) ?? [];
        if (!file) throw new Error("not the line of an article");
        this.#files = Number(file);
        this.#add({ file, arrived, overview }, files.has(file));
      } catch (error) {
        throw named(`${this.path}/index: line ${i + 1}`, error);
      }
    }
  }

  #add(article: Article, isThere = true): void {
    this.articles.set(valueOf(article, ID), isThere ? article : undefined);
    for (const [name, n] of placesOf(article)) {
      const group = this.groups.get(name);
      if (group && n !== group.high + 1) {
        throw new Error(`${name}:${n} is not the next number there`);
      }
      group?.add(isThere ? article : undefined);
    }
  }

  /** The octets of an article. */
  async read({ file }: Article): Promise<Buffer> {
    return Buffer.from(await Deno.readFile(`${this.path}/articles/${file}`));
  }

  /**
   * Stores an article in those of its groups that are here. When it returns, the article is on disk
   * and stays there, whatever happens to this process or to the machine.
   *
   * @throws {BadArticleError} if there was one with its message-id, or if there is no place for it.
   */
  store(draft: Draft): Promise<void> {
    // One after the other: so a message-id is there once, and a number never before a lower one.
    return this.#storing = this.#storing.catch(() => {}).then(() => this.#store(draft));
  }

  async #store(draft: Draft): Promise<void> {
    const { header, values, body } = draft;
    if (this.articles.has(values.get("message-id") ?? "")) reject("it is here, or was");
    const places = newsgroups(draft).map((name) => this.groups.get(name))
      .filter((group) => group !== undefined)
      .map(({ name, high }) => `${name}:${high + 1}`);
    if (places.length === 0) reject("none of its groups is here");
    put(draft, "Xref", [IDENTITY, ...places].join(" "));
    const text = `${header.map(([, field]) => field).join("")}\r\n${body}`;
    const lines = body.match(/\n/g)?.length ?? 0;
    values.set(":bytes", `${text.length}`).set(":lines", `${lines}`);
    const told = FIELDS.map((field) => (values.get(field) ?? "").replaceAll("\t", " "));
    told[XREF] = `Xref: ${told[XREF]}`;
    const [file, arrived, overview] = [
      `${this.#files + 1}`,
      new Date().toISOString(),
      told.join("\t"),
    ];
    const line = Buffer.from(`${file}\t${arrived}\t${overview}\n`, "latin1");
    if (this.#size + line.length > MAX_INDEX) reject("the spool is full");

    await writeFile(`${this.path}/articles`, file, Buffer.from(text, "latin1"));
    await this.index.truncate(this.#size); // an attempt that failed may have left half a line
    await this.index.seek(this.#size, Deno.SeekMode.Start);
    await writeSynced(this.index, line);
    this.#size += line.length;
    this.#files++;
    this.#add({ file, arrived, overview });
  }

  /** Gives it back. */
  [Symbol.dispose](): void {
    this.index.close();
  }
}

/** Writes a file and its name to the disk, or none of it; only one at a time in a folder. */
async function writeFile(folder: string, name: string, data: Uint8Array): Promise<void> {
  const temporary = `${folder}/new`;
  {
    using file = await Deno.open(temporary, { write: true, create: true, truncate: true });
    await writeSynced(file, data);
  }
  await Deno.rename(temporary, `${folder}/${name}`);
  using names = await Deno.open(folder);
  await names.sync();
}

async function writeSynced(file: Deno.FsFile, data: Uint8Array): Promise<void> {
  await writeAll(file, data);
  await file.sync();
}

/** Reads `3`, `3-5` or `3-` (RFC 3977, 9.8). */
function parseRange(text: string): [low: number, high: number] {
  const [whole, low, dash, high] = /^(\d{1,16})(-)?(\d{1,16})?$/.exec(text) ?? [];
  if (whole === undefined || !dash && high) refuse(SYNTAX);
  return [Number(low), dash ? Number(high ?? Infinity) : Number(low)];
}

/** Reads `20251231 235959` or `251231 235959` and perhaps `GMT` (RFC 3977, 7.3.2); returns ISO 8601. */
function parseTime([date, time, zone = ""]: string[]): string {
  const [, century, year, month, day] = /^(\d\d)?(\d\d)(\d\d)(\d\d)$/.exec(date) ?? refuse(SYNTAX);
  const [, hour, minute, second] = /^(\d\d)(\d\d)(\d\d)$/.exec(time) ?? refuse(SYNTAX);
  if (!/^(GMT)?$/i.test(zone)) refuse(SYNTAX);
  const now = new Date().getFullYear();
  const guess = Math.floor(now / 100) - (Number(year) > now % 100 ? 1 : 0);
  const text = `${century ?? guess}${year}-${month}-${day}T${hour}:${minute}:${second}`;
  const moment = new Date(zone ? `${text}Z` : text);
  return isNaN(Number(moment)) ? refuse(SYNTAX) : moment.toISOString();
}

/** Returns a wildmat that is one; with what RFC 3977 keeps out of it, it would fit nothing. */
function parseWildmat(text: string): string {
  return /[[\]\\]/.test(text) ? refuse(SYNTAX) : text;
}

/** What a command takes, in brackets what may be missing, and what it does. */
type Command = [usage: string, run: (it: Session, ...args: string[]) => Promise<void>];

/** An article, with its number in the group, or 0 if it was asked for by its message-id. */
type Found = [n: number, article: Article];

/** Serves a client until it leaves. Throws what reading and writing do; `log` is told of the disk. */
export async function converse(
  conn: FramedConn,
  spool: Spool,
  log: (line: string) => void,
): Promise<void> {
  await new Session(conn, spool, log).converse();
}

class Session {
  #group?: Group;
  #current = 0; // a number in it

  static readonly #commands = new Map<string, Command>(Object.entries<Command>({
    ARTICLE: ["[message-id|number]", (it, which) => it.#show(220, which)],
    BODY: ["[message-id|number]", (it, which) => it.#show(222, which)],
    CAPABILITIES: ["[keyword]", (it) => it.#tell("101 what is here", CAPABILITIES)],
    DATE: ["", (it) => it.#say(`111 ${new Date().toISOString().replace(/\..*|\D/g, "")}`)],
    GROUP: ["name", (it, name) => it.#say(it.#enter(name))],
    HDR: ["field [message-id|range]", (it, name, which) => it.#headers(225, 423, name, which)],
    HEAD: ["[message-id|number]", (it, which) => it.#show(221, which)],
    HELP: ["", (it) => it.#tell("100 commands", Session.#usages())],
    IHAVE: ["message-id", (it, id) => it.#ihave(id)],
    LAST: ["", (it) => it.#step(-1, "422 there is none before it")],
    LIST: ["[keyword] [wildmat|argument]", (it, ...args) => it.#list(...args)],
    LISTGROUP: ["[name] [range]", (it, ...args) => it.#listGroup(...args)],
    MODE: ["READER", (it, mode) => it.#say(/^READER$/i.test(mode) ? WELCOME : SYNTAX)],
    NEWGROUPS: ["date time [GMT]", (it, ...time) => it.#newGroups(time)],
    NEWNEWS: ["wildmat date time [GMT]", (it, wildmat, ...time) => it.#newNews(wildmat, time)],
    NEXT: ["", (it) => it.#step(1, "421 there is none after it")],
    OVER: ["[message-id|range]", (it, which) => it.#over(423, which)],
    POST: ["", (it) => it.#post()],
    QUIT: ["", (it) => it.#say("205 bye")],
    STAT: ["[message-id|number]", (it, which) => it.#point(223, it.#find(which))],
    XHDR: ["field [message-id|range]", (it, name, which) => it.#headers(221, 420, name, which)],
    XOVER: ["[range]", (it, which) => it.#over(420, which)],
  }));

  static #usages(): IteratorObject<string> {
    return Session.#commands.entries().map(([keyword, [usage]]) => `${keyword} ${usage}`.trim());
  }

  constructor(
    readonly conn: FramedConn,
    readonly spool: Spool,
    readonly log: (line: string) => void,
  ) {}

  async converse(): Promise<void> {
    await this.#say(WELCOME);
    for (let line; (line = await this.#readCommand()) !== null;) {
      const [keyword = "", ...args] = line.split(/[ \t]+/).filter((word) => word);
      try {
        await this.#execute(keyword.toUpperCase(), args);
        if (/^QUIT$/i.test(keyword)) return;
      } catch (error) {
        if (!(error instanceof Refusal)) throw error;
        await this.#say(error.message);
      }
    }
  }

  async #readCommand(): Promise<string | null> {
    return await this.conn.readLine(MAX_LINE).catch(async (error) => {
      if (error instanceof LimitError) await this.#say(`501 ${error.message}`);
      throw error;
    });
  }

  async #execute(keyword: string, args: string[]): Promise<void> {
    const [usage, run] = Session.#commands.get(keyword) ??
      refuse("500 no such command, HELP lists them");
    const wanted = usage.split(" ").filter((word) => word);
    const least = wanted.filter((word) => !word.startsWith("[")).length;
    if (args.length < least || args.length > wanted.length) refuse(SYNTAX);
    await run(this, ...args);
  }

  #say(line: string): Promise<void> {
    return this.conn.writeLine(line);
  }

  /** Answers with lines, of which none starts with a dot. */
  async #tell(first: string, lines: Iterable<string>): Promise<void> {
    let batch = `${first}\r\n`;
    for (const line of lines) {
      batch += `${line}\r\n`;
      if (batch.length < BATCH) continue;
      await this.conn.writeAll(Buffer.from(batch, "latin1"));
      batch = "";
    }
    await this.conn.writeAll(Buffer.from(`${batch}.\r\n`, "latin1"));
  }

  /** Waits for the disk. What is wrong there is for the log, and not for the client. */
  async #onDisk<T>(work: Promise<T>, answer: string): Promise<T> {
    return await work.catch((error) => {
      if (error instanceof BadArticleError) throw error;
      this.log(`${this.conn.peer}: ${reason(error)}`);
      refuse(answer);
    });
  }

  #groupNow(): Group {
    return this.#group ?? refuse("412 no group is selected");
  }

  /** Selects a group and its first article, and returns what to say. */
  #enter(wanted?: string): string {
    if (wanted !== undefined) {
      this.#group = this.spool.groups.get(wanted) ?? refuse("411 no such group");
    }
    const { name, count, low, high } = this.#groupNow();
    this.#current = low;
    return `211 ${count} ${low} ${high} ${name}`;
  }

  async #listGroup(name?: string, range = "1-"): Promise<void> {
    const [low, high] = parseRange(range);
    const first = this.#enter(name);
    await this.#tell(first, this.#groupNow().between(low, high).map(([n]) => `${n}`));
  }

  #find(which?: string): Found {
    if (which?.startsWith("<")) {
      return [0, this.spool.articles.get(which) ?? refuse("430 no such article")];
    }
    const [n, high] = which === undefined ? [this.#current, this.#current] : parseRange(which);
    if (n !== high) refuse(SYNTAX);
    const none = which === undefined ? "420 no current article" : "423 no such number";
    return [n, this.#groupNow().articles[n] ?? refuse(none)];
  }

  /** The articles of a range, or that of another name; if there is none, it answers with `none`. */
  #select(none: number, which?: string): IteratorObject<Found> {
    if (which === undefined || which.startsWith("<")) return [this.#find(which)].values();
    const [low, high] = parseRange(which);
    if (this.#groupNow().between(low, high).next().done) refuse(`${none} no such numbers`);
    return this.#groupNow().between(low, high);
  }

  /** Says which article it is, and makes it the current one if it was not found by its message-id. */
  async #point(code: number, [n, article]: Found): Promise<void> {
    if (n > 0) this.#current = n;
    await this.#say(`${code} ${n} ${valueOf(article, ID)}`);
  }

  /** Goes to the nearest article in a direction. */
  async #step(by: 1 | -1, none: string): Promise<void> {
    this.#find();
    const { articles, high } = this.#groupNow();
    let n = this.#current + by;
    while (n > 0 && n <= high && !articles[n]) n += by;
    await this.#point(223, [n, articles[n] ?? refuse(none)]);
  }

  /** Sends an article (220), its header (221) or its body (222). */
  async #show(code: number, which?: string): Promise<void> {
    const found = this.#find(which);
    const octets = await this.#onDisk(this.spool.read(found[1]), "403 it cannot be read now");
    const body = octets.indexOf("\r\n\r\n") + 4;
    await this.#point(code, found);
    await this.conn.writeDotLines(
      octets.subarray(code === 222 ? body : 0, code === 221 ? body - 2 : octets.length),
    );
  }

  async #over(none: number, which?: string): Promise<void> {
    const articles = this.#select(none, which);
    await this.#tell("224 overview", articles.map(([n, { overview }]) => `${n}\t${overview}`));
  }

  async #headers(code: number, none: number, name: string, which?: string): Promise<void> {
    const articles = this.#select(none, which);
    const field = FIELDS.indexOf(name.toLowerCase());
    if (field < 0) refuse("503 not one of those in LIST HEADERS");
    await this.#tell(`${code} headers`, articles.map(([n, a]) => `${n} ${valueOf(a, field)}`));
  }

  async #list(keyword?: string, argument?: string): Promise<void> {
    const pattern = parseWildmat(argument ?? "*");
    const groups = this.spool.groups.values().filter(({ name }) => matches(name, pattern));
    switch ((keyword ?? "ACTIVE").toUpperCase()) {
      case "ACTIVE":
        return await this.#tell("215 groups", groups.map(active));
      case "NEWSGROUPS":
        return await this.#tell("215 what they are about", groups.map(description));
      case "OVERVIEW.FMT":
        return await this.#tell("215 what OVER tells", OVERVIEW);
      case "HEADERS":
        return await this.#tell("215 what HDR tells", FIELDS);
      default:
        refuse("501 no such list");
    }
  }

  async #newGroups(time: string[]): Promise<void> {
    const since = parseTime(time);
    const groups = this.spool.groups.values().filter(({ created }) => created >= since);
    await this.#tell("231 new groups", groups.map(active));
  }

  async #newNews(wildmat: string, time: string[]): Promise<void> {
    const [since, pattern] = [parseTime(time), parseWildmat(wildmat)];
    const groups = new Set(this.spool.groups.keys().filter((name) => matches(name, pattern)));
    const articles = this.spool.articles.values().filter((article) => article !== undefined)
      .filter(({ arrived }) => arrived >= since)
      .filter((article) => placesOf(article).some(([name]) => groups.has(name)));
    await this.#tell("230 new articles", articles.map((article) => valueOf(article, ID)));
  }

  async #post(): Promise<void> {
    await this.#say("340 send the article, and then a line that is a dot");
    await this.#receive("240", "441", "441", (draft) => {
      for (const name of newsgroups(draft)) {
        if (!this.spool.groups.has(name)) reject(`there is no group ${name}`);
      }
      inject(draft, hostOf(this.conn));
    });
  }

  async #ihave(id: string): Promise<void> {
    if (!isMessageId(id)) refuse(SYNTAX);
    if (this.spool.articles.has(id)) refuse("435 it is here, or was");
    await this.#say("335 send it, and then a line that is a dot");
    await this.#receive("235", "437", "436", (draft) => {
      if (draft.values.get("message-id") !== id) reject("it has another Message-ID");
      relay(draft, hostOf(this.conn));
    });
  }

  /** Reads an article and stores it as `prepare` makes it. */
  async #receive(
    stored: string,
    bad: string,
    failed: string,
    prepare: (draft: Draft) => void,
  ): Promise<void> {
    try {
      const draft = parseArticle(await this.conn.readDotLines(MAX_ARTICLE));
      prepare(draft);
      await this.#onDisk(this.spool.store(draft), `${failed} it cannot be stored now`);
      await this.#say(`${stored} ${draft.values.get("message-id")} is stored`);
    } catch (error) {
      if (!(error instanceof BadArticleError || error instanceof LimitError)) throw error;
      refuse(`${bad} ${error.message}`);
    }
  }
}

function active({ name, high, low }: Group): string {
  return `${name} ${high} ${low} y`;
}

/** A line with what a group is about, in UTF-8, its characters octets as those of all answers. */
function description({ name, about }: Group): string {
  return Buffer.from(`${name}\t${about}`).toString("latin1");
}

/** The client's address, or "" on a Unix socket. */
function hostOf({ conn: { remoteAddr } }: FramedConn): string {
  return "hostname" in remoteAddr ? remoteAddr.hostname.replace(/^::ffff:(?=\d+\.)|%.*/, "") : "";
}

/** Reads a group's name (RFC 5536, 3.1.4) and, behind a blank, what it is about. */
function parseGroup(text: string): [name: string, about: string] {
  const [, name, about = ""] = /^([\w+-]+(?:\.[\w+-]+)*)(?: (\P{Cc}*))?$/u.exec(text) ?? [];
  if (name && name.length <= MAX_NAME) return [name, about.trim()];
  throw new UsageError(`${text} is not the name of a group (local.test)`);
}

if (import.meta.main) {
  await main({
    name: "nntp_server",
    about: "Keeps the articles of newsgroups in SPOOL, a folder made if it is not there.",
    usage: "SPOOL",
    permissions: "--allow-net --allow-read --allow-write",
    flags: {
      ...serverFlags(PORT),
      group: {
        argument: "NAME",
        help: "a group to have, or 'NAME TEXT' with what it is about; repeated for each",
        parse: (given: string[]) => given.map(parseGroup),
      },
    },
  }, async ({ group, ...flags }, path) => {
    const listener = await listen(flags);
    const spool = await Spool.open(path, group);
    if (spool.groups.size === 0) {
      throw new UsageError(`--group NAME is missing, ${path} has none yet`);
    }
    const log = (line: string) => console.error(`${flags.name}: ${printable(line)}`);
    const options = { ...flags, signal: stopSignal() };
    await serve(listener, (conn) => converse(conn, spool, log), options);
  });
}
