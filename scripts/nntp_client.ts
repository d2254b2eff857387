#!/usr/bin/env -S deno run --allow-net
/**
 * A client of news servers (NNTP, RFC 3977) that lists groups, shows what is new in one as threads,
 * prints an article and posts one.
 *
 *     deno run --allow-net --allow-read --allow-write scripts/nntp_server.ts spool --group local.test
 *     printf 'From: ann@example.org\nNewsgroups: local.test\nSubject: hello\n\nHello, all.\n' |
 *       deno run --allow-net scripts/nntp_client.ts post
 *     deno run --allow-net scripts/nntp_client.ts list local.test
 *
 * An article is posted as it is, and the server adds the Date and the Message-ID that it lacks. What
 * `email_build.ts` writes needs only a line `Newsgroups: local.test` before it.
 *
 * Mirrors the NNTP row of tutorial 003, which names Python's `nntplib`, and is without a listing:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `news = nntplib.NNTP(host, port, readermode=True)` | `connect()`: `Deno.connect()`, `news.greet()` |
 * | `news.list()`, `news.descriptions("*")` | `news.groups()` |
 * | `news.group(name)` | `news.enter(name)` |
 * | `news.over((first, last))` | `news.overview(first, last)`, by OVER, XOVER or HEAD |
 * | `news.article(id)` | `news.article(id)` |
 * | `news.post(file)` | `news.post(octets)` |
 * | `nntplib.decode_header(text)`, `email.message_from_bytes(octets)` | `PostalMime.parse(octets)` |
 * | `news.quit()` | `news.quit()` |
 *
 * @module
 */
import { Buffer } from "node:buffer";
import PostalMime, { decodeWords } from "postal-mime";
import { connect, named, UsageError } from "../lib/address.ts";
import {
  chooseCommand,
  clientFlags,
  type Commands,
  flag,
  formatTime,
  listCommands,
  main,
  number,
} from "../lib/cli.ts";
import { FramedConn, LimitError, printable, printableText } from "../lib/framing.ts";

const NAME = "nntp_client";
const PORT = 8119; // NNTP's own is 119
const MAX_STATUS = 8192; // octets, as are the next three; RFC 3977 has 512
const MAX_LIST = 32 * 1024 * 1024;
const MAX_HEADER = 256 * 1024;
const MAX_ARTICLE = 8 * 1024 * 1024;
const MAX_LINES = 100_000; // of an article: they take postal-mime a second and 160 MB
const MAX_FIELD = 8192; // characters of a field of an overview
const MAX_REFERENCES = 50; // of an article: the last ones
const MAX_INDENT = 20; // steps
const MAX_NUMBER = 2 ** 31 - 1; // of an article (RFC 3977, 6)
const LF = 0x0a;
const SHOWN = ["From", "Newsgroups", "Subject", "Date", "Message-ID"];

/** The server does not do it: what it says. */
export class RefusedError extends Error {
  /** What it says behind the code. */
  constructor(readonly code: number, text: string) {
    super(`the server says ${code} ${text}`);
  }
}

/** A newsgroup. */
export type Group = { name: string; low: number; high: number; about: string };

/** What is told of an article in a list. */
export type Summary = {
  number: number;
  id: string;
  references: string[]; // the message-ids of what it answers, the nearest last
  subject: string;
  from: string;
  date: string;
};

/**
 * A connection to a news server. Its methods throw a {@linkcode RefusedError} if the server says no, a
 * {@linkcode LimitError} for what is too large, an Error if what it says is no answer, or the
 * connection's error.
 */
export class News {
  /** Takes over `conn`. */
  constructor(readonly conn: FramedConn) {}

  /** Waits for the server to be ready, and for a reader. */
  async greet(): Promise<void> {
    await this.#readStatus(200, 201);
    const can = await this.#capabilities();
    // A server for servers changes by this into one for readers (RFC 3977, 5.3); old ones want it, too.
    if (can.has("READER")) return;
    await this.#ask("MODE READER", 200, 201).catch((error) => {
      if (!(error instanceof RefusedError) || can.has("MODE-READER")) throw error;
    });
  }

  /** What the server can, in capitals; nothing if it does not say. */
  async #capabilities(): Promise<Set<string>> {
    const lines = await this.#askLines("CAPABILITIES", 101).catch(unlessUnknown) ?? [];
    return new Set(lines.map((line) => line.toUpperCase().split(" ")[0]));
  }

  /** The groups whose names fit a wildmat (RFC 3977, 4), or all. */
  async groups(wildmat?: string): Promise<Group[]> {
    const which = wildmat === undefined ? "" : ` ${wildmat}`;
    const lines = await this.#askLines(`LIST ACTIVE${which}`, 215);
    const told = await this.#askLines(`LIST NEWSGROUPS${which}`, 215).catch(unlessUnknown) ?? [];
    const about = new Map(told.map((line) => {
      const [, name, text] = /^(\S+)\s*(.*)$/s.exec(line) ?? unexpected(line);
      return [name, text];
    }));
    return lines.map((line) => {
      const [, name, high, low] = /^(\S+) (\d{1,16}) (\d{1,16}) /.exec(line) ?? unexpected(line);
      return { name, low: Number(low), high: Number(high), about: about.get(name) ?? "" };
    });
  }

  /** Enters a group; returns its lowest and its highest number. */
  async enter(name: string): Promise<{ low: number; high: number }> {
    const text = await this.#ask(`GROUP ${name}`, 211);
    const [, low, high] = /^\d{1,16} (\d{1,16}) (\d{1,16})( |$)/.exec(text) ?? unexpected(text);
    return { low: Number(low), high: Number(high) };
  }

  /** What is told of the articles in the group from number `low` to `high`, those that are there. */
  async overview(low: number, high: number): Promise<Summary[]> {
    const lines = await this.#over("OVER", low, high) ?? await this.#over("XOVER", low, high);
    if (!lines) return await this.#heads(low, high);
    const byNumber = new Map(lines.map((line) => {
      const [, number] = /^(\d{1,16})\t/.exec(line) ?? unexpected(line);
      return [Number(number), line];
    }));
    const summaries: Summary[] = [];
    for (const [number, line] of byNumber) {
      if (number < low || number > high) unexpected(line); // or there could be any number of them
      const [, subject, from, date, id, references] = line.split("\t");
      const fields = { subject, from, date, "message-id": id, references };
      const header = Object.entries(fields).map(([name, value = ""]) => {
        return `${name}: ${value.replace(/[\r\n]/g, " ").slice(-MAX_FIELD)}\r\n`;
      });
      summaries.push(await summarise(number, header.join("")));
    }
    return summaries.sort((a, b) => a.number - b.number);
  }

  /** The lines that a command answers with, none if there is no article, or undefined if it is unknown. */
  async #over(command: string, low: number, high: number): Promise<string[] | undefined> {
    return await this.#askLines(`${command} ${low}-${high}`, 224).catch((error) => {
      const isEmpty = error instanceof RefusedError && [420, 423].includes(error.code);
      return isEmpty ? [] : unlessUnknown(error);
    });
  }

  /** The same of the headers, one by one, from a server that has no overview. */
  async #heads(low: number, high: number): Promise<Summary[]> {
    const summaries: Summary[] = [];
    for (let n = low; n <= high; n++) {
      try {
        await this.#ask(`HEAD ${n}`, 221);
        summaries.push(await summarise(n, await this.conn.readDotLines(MAX_HEADER)));
      } catch (error) {
        if (!(error instanceof RefusedError) || error.code !== 423) throw error;
      }
    }
    return summaries;
  }

  /** The octets of an article: by message-id, or by number in the group. */
  async article(which: string): Promise<Uint8Array> {
    await this.#ask(`ARTICLE ${which}`, 220);
    return await this.conn.readDotLines(MAX_ARTICLE);
  }

  /** Posts an article; returns what the server says of it. */
  async post(octets: Uint8Array): Promise<string> {
    await this.#ask("POST", 340);
    const cut = await this.conn.writeDotLines(octets).then(() => undefined, (error) => error);
    if (cut) throw named("cut off in the article, which is not posted", cut);
    return await this.#readStatus(240).catch((error) => {
      if (error instanceof RefusedError) throw error;
      throw named("nobody knows whether it is posted", error);
    });
  }

  /** Leaves. All that was asked for is there already: what goes wrong here is no loss. */
  async quit(): Promise<void> {
    await this.#ask("QUIT", 205).catch(() => {});
  }

  /** Sends a command, and returns what is said behind one of these codes. */
  async #ask(command: string, ...codes: number[]): Promise<string> {
    await this.conn.writeLine(command);
    return await this.#readStatus(...codes);
  }

  async #askLines(command: string, code: number): Promise<string[]> {
    await this.#ask(command, code);
    const text = new TextDecoder().decode(await this.conn.readDotLines(MAX_LIST));
    return text.split("\r\n").slice(0, -1);
  }

  async #readStatus(...codes: number[]): Promise<string> {
    const line = await this.conn.readLine(MAX_STATUS);
    if (line === null) throw new Deno.errors.UnexpectedEof("hung up without an answer");
    const [, code, text = ""] = /^(\d{3})(?: (.*))?$/s.exec(line) ?? unexpected(line);
    if (codes.includes(Number(code))) return text;
    throw new RefusedError(Number(code), text);
  }
}

/** For `catch`: nothing, if the server does not have the command, or not for us. */
function unlessUnknown(error: unknown): undefined {
  if (!(error instanceof RefusedError) || !/^50/.test(`${error.code}`)) throw error;
}

function unexpected(line: string): never {
  throw new Error(`not an answer of NNTP: ${line.slice(0, 80)}`);
}

async function summarise(number: number, header: string | Uint8Array): Promise<Summary> {
  const email = await PostalMime.parse(header);
  const ids = (text = ""): string[] => text.match(/<[^<>\s]+>/g) ?? [];
  return {
    number,
    id: ids(email.messageId)[0] ?? "",
    references: ids(email.references).slice(-MAX_REFERENCES),
    subject: email.subject ?? "",
    from: email.from?.name || email.from?.address || "",
    date: email.date ?? "",
  };
}

/**
 * Articles as threads: each below the nearest one that it refers to and that is among them (RFC 5537,
 * 3.4.3), and how deep. Where references lead in a circle, one of them is left out.
 */
export function thread(articles: Summary[]): [article: Summary, depth: number][] {
  const byId = new Map(articles.map((article) => [article.id, article]));
  const parents = new Map<Summary, Summary>();
  const isAbove = (article: Summary, below?: Summary) => {
    while (below && below !== article) below = parents.get(below);
    return below === article;
  };
  for (const article of articles) {
    const parent = article.references.map((id) => byId.get(id))
      .findLast((found) => found && !isAbove(article, found));
    if (parent) parents.set(article, parent);
  }
  const children = Map.groupBy(articles, (article) => parents.get(article));
  const threads: [Summary, number][] = [];
  const next = (parent: Summary | undefined, depth: number) =>
    (children.get(parent) ?? []).map((child): [Summary, number] => [child, depth]).reverse();
  const rest = next(undefined, 0);
  for (let row; (row = rest.pop());) {
    threads.push(row);
    rest.push(...next(row[0], row[1] + 1));
  }
  return threads;
}

/**
 * Throws an Error, before anything is sent, if that is no article (RFC 5536) with what a poster has to
 * say in it. Its lines may end with CRLF or LF.
 */
export function checkArticle(octets: Uint8Array): void {
  const text = Buffer.from(octets).toString("latin1").replaceAll("\r\n", "\n");
  if (/[\0\r]/.test(text)) throw new Error("there is a NUL, or a CR alone");
  const end = text.indexOf("\n\n");
  if (end < 0) throw new Error("no empty line ends the header");
  const names = (text.slice(0, end + 1).match(/.*\n(?:[ \t].*\n)*/g) ?? []).map((field) => {
    const [, name] = /^([!-9;-~]+): [ \t]*[^ \t\n]/.exec(field) ?? [];
    if (!name) throw new Error(`not a header field: ${field.slice(0, 60).trimEnd()}`);
    return name.toLowerCase();
  });
  for (const name of ["From", "Newsgroups", "Subject"]) {
    const times = names.filter((other) => other === name.toLowerCase()).length;
    if (times !== 1) throw new Error(times === 0 ? `${name} is missing` : `${name} is there twice`);
  }
}

/** Returns text that can be an argument of a command; with a blank or a line end it would be two. */
function checkWord(text: string): string {
  if (/^[^\s\p{Cc}]{1,250}$/u.test(text)) return text;
  throw new UsageError(`${JSON.stringify(text)} is no name`);
}

/** Says something on stderr. */
function say(line: string): void {
  console.error(`${NAME}: ${printable(line)}`);
}

async function listGroups(news: News, wildmat?: string): Promise<void> {
  const groups = await news.groups(wildmat);
  for (const { name, low, high, about } of groups) {
    const numbers = high < low ? "empty" : `${low}-${high}`;
    console.log(printable(`${name.padEnd(24)}  ${numbers.padEnd(12)}  ${about}`).trimEnd());
  }
  if (groups.length === 0) say("no group");
}

async function listArticles(news: News, group: string, last: number): Promise<void> {
  const { low, high } = await news.enter(group);
  const first = Math.max(low, high - last + 1);
  const articles = high < low ? [] : await news.overview(first, high);
  for (const [{ number, date, from, subject }, depth] of thread(articles)) {
    const columns = [
      `${number}`.padStart(6),
      formatTime(date),
      from.padEnd(24),
      "  ".repeat(Math.min(depth, MAX_INDENT)) + subject,
    ];
    console.log(printable(columns.join("  ")).trimEnd());
  }
  if (articles.length === 0) say(`no article in ${group}`);
  if (first > low) say(`from ${first} on, --last N shows more`);
}

async function read(news: News, which: string, number?: string): Promise<void> {
  if (number !== undefined) await news.enter(which);
  const octets = await news.article(number ?? which);
  const lines = octets.reduce((lines, octet) => lines + Number(octet === LF), 0);
  if (lines > MAX_LINES) throw new LimitError(`article of more than ${MAX_LINES} lines`);
  const { headers, text, html, attachments } = await PostalMime.parse(octets);
  for (const name of SHOWN) {
    const header = headers.find(({ key }) => key === name.toLowerCase());
    if (header) console.log(printableText(`${name}: ${decodeWords(header.value)}`));
  }
  console.log();
  console.log(printableText((text ?? html ?? "").trimEnd()));
  for (const { filename, mimeType } of attachments) say(`attachment: ${filename ?? mimeType}`);
}

async function readArticle(file?: string): Promise<Uint8Array> {
  if (file === undefined && Deno.stdin.isTerminal()) say("the article, then Ctrl-D");
  const octets = file === undefined
    ? await new Response(Deno.stdin.readable).bytes()
    : await Deno.readFile(file);
  try {
    checkArticle(octets);
    return octets;
  } catch (error) {
    throw named(file ?? "stdin", error);
  }
}

/** Looks at a command's arguments, and returns what to do at the server. */
type Prepare = (last: number, ...args: string[]) => Run | Promise<Run>;
type Run = (news: News) => Promise<void>;

/** The commands, each with its arguments. */
const COMMANDS: Commands<Prepare> = {
  groups: ["[WILDMAT]", (_, wildmat) => {
    if (wildmat !== undefined) checkWord(wildmat);
    return (news) => listGroups(news, wildmat);
  }],
  list: ["GROUP", (last, group) => {
    checkWord(group);
    return (news) => listArticles(news, group, last);
  }],
  read: ["GROUP|MESSAGE-ID [N]", (_, which, n) => {
    checkWord(which);
    if (n !== undefined) number(1, MAX_NUMBER)(n);
    else if (!/^<.+>$/.test(which)) throw new UsageError("N is missing");
    return (news) => read(news, which, n);
  }],
  post: ["[FILE]", async (_, file) => {
    const octets = await readArticle(file);
    return async (news) => say(`posted: ${await news.post(octets)}`);
  }],
};

if (import.meta.main) {
  const program = {
    name: NAME,
    about: `Reads and posts news. The commands:

${listCommands(COMMANDS)}

list prints an article's number, date, author and subject, an answer below what it answers. read
takes a group and a number there, or a message-id in quotes: '<1@example.org>'. post takes an article
with its header from FILE, which needs --allow-read, or stdin.`,
    usage: "COMMAND [ARG]...",
    permissions: "--allow-net",
    flags: {
      ...clientFlags(PORT),
      last: flag("N", "list: the last so many numbers", number(1, 1000), "20"),
    },
  };
  await main(program, async ({ last, ...flags }, command, ...args) => {
    const prepare = chooseCommand(COMMANDS, command, args);
    const run = await prepare(last, ...args);
    const conn = new FramedConn(await connect(flags), flags);
    try {
      const news = new News(conn);
      await news.greet();
      await run(news);
      await news.quit();
    } catch (error) {
      throw named(conn.peer, error);
    } finally {
      await conn.end();
    }
  });
}
