#!/usr/bin/env -S deno run --allow-net --allow-env=MAIL_PASSWORD
/**
 * A client of IMAP4rev1 (RFC 3501) that looks into a mailbox and changes nothing there: what it shows
 * stays unseen. It lists folders and messages, shows one, searches, and watches for new ones (IDLE,
 * RFC 2177).
 *
 *     MAIL_PASSWORD=secret deno run --allow-net --allow-read --allow-write --allow-env=MAIL_PASSWORD \
 *       scripts/imap_server.ts mail
 *     MAIL_PASSWORD=secret deno run --allow-net --allow-env=MAIL_PASSWORD scripts/imap_client.ts list
 *
 * Mirrors the IMAP4 row of tutorial 003, which names Python's `imaplib`, and the chapter "IMAP" of
 * the book of tutorial 002, without a listing:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `imap = imaplib.IMAP4(host, port)` | `connect()`: `Deno.connect()`, `imap.greet()` |
 * | `imap.login(user, password)` | `imap.login(user, password)` |
 * | `imap.list()` | `imap.command("LIST", '""', "*")` |
 * | `imap.select("INBOX", readonly=True)` | `imap.examine("INBOX")` |
 * | `imap.uid("SEARCH", "UNSEEN")` | `imap.search(["UNSEEN"])` |
 * | `imap.uid("FETCH", "7", "(UID BODY.PEEK[1])")` | `imap.fetch("7", "(UID BODY.PEEK[1])")` |
 * | `imap.idle()`, of Python 3.14 | `imap.idle(over)` |
 * | `imap.logout()` | `imap.logout()` |
 * | `email.message_from_bytes(data)` | `PostalMime.parse(data)` |
 *
 * A message is never fetched whole. The server has read it already: it tells the header fields that
 * one asks for, and as BODYSTRUCTURE of what parts it consists, so that a text comes without the
 * pictures that were sent with it.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { delay } from "@std/async/delay";
import { format } from "@std/fmt/bytes";
import PostalMime, { decodeWords, type Email } from "postal-mime";
import { connect, type Endpoint, isPrivate, named, UsageError } from "../lib/address.ts";
import {
  askPassword,
  chooseCommand,
  clientFlags,
  type Commands,
  flag,
  formatTime,
  listCommands,
  main,
  number,
  stopSignal,
} from "../lib/cli.ts";
import {
  FramedConn,
  type FramedConnOptions,
  LimitError,
  printable,
  printableText,
} from "../lib/framing.ts";

const NAME = "imap_client";
const PORT = 8143; // IMAP's own is 143
const MAX_LINE = 8 * 1024 * 1024; // octets of a response up to a literal or its end
const MAX_ANSWER = 64 * 1024 * 1024; // octets of all that answers a command
const OVERHEAD = 100; // octets that a value takes in memory besides its own
const MAX_DEPTH = 200; // lists in lists
const MAX_HEADER = 65536; // octets of a message's header fields
const RENEW = 5 * 60_000; // milliseconds of IDLE; after 30 minutes a server may hang up
const POLL = 30_000; // milliseconds from NOOP to NOOP where there is no IDLE
const FLAGS = ["\\draft", "\\flagged", "\\answered", "\\seen", "\\deleted"];

/** What responses consist of: an atom or a string, whose characters are octets, NIL, a list. */
export type Value = string | null | Value[];

/** A response of a server. */
export type Response = {
  tag: string; // of the command that it ends; `*`: none; `+`: the server waits for more of it
  name: string; // in capitals: EXISTS, FETCH, LIST, ..., or OK, NO, BAD, BYE, PREAUTH
  values: Value[]; // of the latter, and of `+`, a text for people
};

/** Counts what an answer takes in memory; throws a {@linkcode LimitError} past 64 MiB. */
function meter(): (octets: number) => void {
  let left = MAX_ANSWER;
  return (octets) => {
    left -= octets + OVERHEAD;
    if (left < 0) throw new LimitError(`answer of more than ${MAX_ANSWER} bytes`);
  };
}

/**
 * Reads a response (RFC 3501, 7 and 9).
 *
 * @throws {LimitError} if it is larger than 64 MiB or more than 200 lists are one in the other;
 * an Error if it is none; {@linkcode Deno.errors.UnexpectedEof} if the server hangs up instead.
 */
export async function readResponse(conn: FramedConn, spend = meter()): Promise<Response> {
  const line = await readLine(conn, spend);
  const [, tag, status, text = ""] = /^(\S+) (OK|NO|BAD|BYE|PREAUTH)(?: (.*))?$/is.exec(line) ?? [];
  if (status) return { tag, name: status.toUpperCase(), values: [text] };
  if (/^\+( |$)/.test(line)) return { tag: "+", name: "", values: [line.slice(2)] };
  const [start, name] = /^\* (?:\d+ )?([A-Z][\w-]*)(?: |$)/i.exec(line) ?? unexpected(line);
  const values = await readValues(conn, line.slice(start.length), spend);
  return { tag: "*", name: name.toUpperCase(), values };
}

/** Reads values, of which `line` has those up to the first literal. */
async function readValues(
  conn: FramedConn,
  line: string,
  spend: (octets: number) => void,
): Promise<Value[]> {
  // Blanks, a parenthesis, a quoted string, a literal's length, `BODY[...]` with its blanks, an atom.
  const token =
    /( +)|([()])|"([^"\\]*(?:\\.[^"\\]*)*)"|\{(\d+)\}$|BODY\[[^\]]*][<\d>]*|(?!BODY\[)[^ ()"{]+/isy;
  const lists: Value[][] = [[]];
  for (let at = 0; at < line.length; at = token.lastIndex) {
    const [atom, blank, bracket, quoted, length] = token.exec(line) ?? unexpected(line.slice(at));
    if (blank) continue;
    spend(0); // its octets, which are the line's, have been counted
    const list = lists[lists.length - 1];
    if (bracket === "(") {
      if (lists.length > MAX_DEPTH) throw new LimitError(`lists more than ${MAX_DEPTH} deep`);
      const inner: Value[] = [];
      list.push(inner);
      lists.push(inner);
    } else if (bracket) {
      if (lists.length === 1) unexpected(line.slice(at));
      lists.pop();
    } else if (length) {
      spend(Number(length));
      list.push(Buffer.from(await conn.readExactly(Number(length))).toString("latin1"));
      line = await readLine(conn, spend);
      token.lastIndex = 0;
    } else if (quoted !== undefined) {
      list.push(quoted.replace(/\\(.)/gs, "$1"));
    } else {
      list.push(/^NIL$/i.test(atom) ? null : atom);
    }
  }
  return lists.length === 1 ? lists[0] : unexpected("a list without its end");
}

async function readLine(conn: FramedConn, spend: (octets: number) => void): Promise<string> {
  const line = await conn.readLineOctets(MAX_LINE);
  if (line === null) throw new Deno.errors.UnexpectedEof("the server has hung up");
  spend(line.length);
  return Buffer.from(line).toString("latin1");
}

function unexpected(line: string): never {
  fail(`not a response of IMAP: ${line.slice(0, 80)}`);
}

function wordsOf({ name, values: [text] }: Response): string {
  return `the server says ${name} ${octetsOf(text)}`;
}

function fail(message: string): never {
  throw new Error(message);
}

/** The string; an empty one if the server sent something else in its place. */
function stringOf(value: Value | undefined): string {
  return typeof value === "string" ? value : "";
}

function octetsOf(value: Value | undefined): Buffer<ArrayBuffer> {
  return Buffer.from(stringOf(value), "latin1");
}

function listOf(value: Value | undefined): Value[] {
  return Array.isArray(value) ? value : [];
}

/** The values of a list by the names before them, in capitals, and `BODY[]` for any section. */
function mapOf(value: Value | undefined): Map<string, Value> {
  const pairs = listOf(value).map((name, i, list): [string, Value] => {
    return [stringOf(name).toUpperCase().replace(/\[.*/s, "[]"), list[i + 1] ?? null];
  });
  return new Map(pairs.filter((_, i) => i % 2 === 0));
}

/** A folder's name as the wire has it: modified UTF-7 (RFC 3501, 5.1.3). */
export function encodeFolder(name: string): string {
  return name.replace(/&|[^ -~]+/g, (text) => {
    if (text === "&") return "&-";
    const base64 = Buffer.from(text, "utf16le").swap16().toString("base64");
    return `&${base64.replace(/=+$/, "").replaceAll("/", ",")}-`;
  });
}

/** A folder's name as people read it; as it is, if it is not as {@linkcode encodeFolder} makes it. */
export function decodeFolder(name: string): string {
  const decoded = name.replace(/&([A-Za-z0-9+,]*)-/g, (_, base64: string) => {
    const octets = Buffer.from(base64.replaceAll(",", "/"), "base64");
    return base64 ? octets.subarray(0, octets.length & ~1).swap16().toString("utf16le") : "&";
  });
  return encodeFolder(decoded) === name ? decoded : name;
}

/** A string as a command takes it: quoted, or the octets for a literal if that cannot be. */
export function quote(text: string): string | Uint8Array {
  return /^[ -~]*$/.test(text) ? `"${text.replace(/["\\]/g, "\\$&")}"` : Buffer.from(text);
}

/**
 * A connection to an IMAP server. Its methods throw an Error with the server's words if it says NO,
 * BAD or BYE, else what {@linkcode readResponse} or the connection does.
 */
export class Imap {
  /** Set to true when the server tells how many messages there are, as it does if more arrive. */
  news = false;
  /** A UID that the messages in the folder are below, as far as the server has told. */
  next = 1;
  #commands = 0;

  /** Takes over `conn`. */
  constructor(readonly conn: FramedConn) {}

  /** Reads the greeting; true if the server knows already who this is. */
  async greet(): Promise<boolean> {
    const { name, values } = await this.#read();
    return name === "PREAUTH" || name !== "OK" && unexpected(`${name} ${values}`);
  }

  /**
   * Sends a command, and returns the values of the responses that have its name.
   *
   * @param args go as they are, octets as a literal, which the server has to ask for.
   * @throws {TypeError} if there is a CR or LF where no literal is.
   */
  async command(name: string, ...args: (string | Uint8Array)[]): Promise<Value[][]> {
    const tag = `A${++this.#commands}`;
    let line = `${tag} ${name}`;
    for (const arg of args) {
      if (typeof arg === "string") {
        line += line.endsWith("(") || arg.startsWith(")") ? arg : ` ${arg}`;
      } else {
        await this.conn.writeLine(`${line} {${arg.length}}`);
        await this.#readTo("+", tag);
        await this.conn.writeAll(arg, name === "LOGIN" ? "***" : undefined);
        line = "";
      }
    }
    await this.conn.writeLine(line);
    const responses = await this.#readTo(tag, tag);
    return responses.filter((response) => response.name === name.replace("UID ", ""))
      .map(({ values }) => values);
  }

  /** What the server can do, in capitals; after the login it may be more. */
  async capabilities(): Promise<Set<string>> {
    const words = (await this.command("CAPABILITY")).flat();
    return new Set(words.map((word) => stringOf(word).toUpperCase()));
  }

  /**
   * Logs in, unless the server wants no password over this connection.
   *
   * @throws {UsageError} before the password is sent, if somebody on the way could read it.
   */
  async login(user: string, password: string): Promise<void> {
    if (!isPrivate(this.conn.conn)) throw new UsageError("a password is not sent without --tls");
    if ((await this.capabilities()).has("LOGINDISABLED")) {
      fail("the server takes no password here (LOGINDISABLED), it may over --tls");
    }
    await this.command("LOGIN", quote(user), Buffer.from(password));
  }

  /** Enters a folder to look around. */
  async examine(folder: string): Promise<void> {
    await this.command("EXAMINE", quote(encodeFolder(folder)));
  }

  /**
   * The unique numbers (UIDs), in order, of the messages that fit all the keys (RFC 3501, 6.4.4).
   * Keys of one word go as they are, others as a string.
   */
  async search(keys: string[]): Promise<number[]> {
    const args = keys.map((key) => /^[!-~]+$/.test(key) && !/["%\\{]/.test(key) ? key : quote(key));
    const charset = args.every((arg) => typeof arg === "string") ? [] : ["CHARSET", "UTF-8"];
    const uids = (await this.command("UID SEARCH", ...charset, ...args)).flat();
    return uids.map((uid) => Number(uid) || unexpected("SEARCH without numbers"))
      .sort((a, b) => a - b);
  }

  /**
   * Fetches `items` of the messages with these UIDs, such as `7,9:*`. In the maps that it returns
   * there are UID and, whatever it is that is fetched of their octets, `BODY[]`.
   */
  async fetch(uids: string, items: string): Promise<Map<string, Value>[]> {
    const messages = (await this.command("UID FETCH", uids, items)).map(([list]) => mapOf(list))
      .filter((message) => message.has("UID") && message.has("BODY[]")); // others came unasked
    for (const message of messages) this.next = Math.max(this.next, Number(message.get("UID")) + 1);
    return messages;
  }

  /** Takes what comes, until there is news or until `over`. */
  async listen(over: Promise<unknown>): Promise<void> {
    const ended = over.then(() => false);
    while (!this.news && await Promise.race([this.conn.readable().then(() => true), ended])) {
      const response = await this.#read();
      if (response.tag !== "*") fail(wordsOf(response));
    }
  }

  /** Has the server tell at once what happens in the folder, until there is news or until `over`. */
  async idle(over: Promise<unknown>): Promise<void> {
    const tag = `A${++this.#commands}`;
    await this.conn.writeLine(`${tag} IDLE`);
    await this.#readTo("+", tag);
    await this.listen(over);
    await this.conn.writeLine("DONE");
    await this.#readTo(tag, tag);
  }

  /** Leaves. All that was asked for is there already: what goes wrong here is no loss. */
  async logout(): Promise<void> {
    await this.command("LOGOUT").catch(() => {});
    await this.conn.end();
  }

  /** Reads up to the response `end` of a command; returns those before it. */
  async #readTo(end: string, command: string): Promise<Response[]> {
    const responses: Response[] = [];
    for (const spend = meter();;) {
      const response = await this.#read(spend);
      const { tag, name, values } = response;
      if (tag === command && name !== "OK") fail(wordsOf(response));
      if (tag === end) return responses;
      if (tag !== "*") unexpected(`${tag} ${name} ${values}`);
      responses.push(response);
    }
  }

  async #read(spend = meter()): Promise<Response> {
    const response = await readResponse(this.conn, spend);
    const { name, values: [text] } = response;
    if (name === "BYE") fail(wordsOf(response));
    if (/^\[ALERT\]/i.test(stringOf(text))) say(wordsOf(response)); // people must see it (7.1)
    if (name === "EXISTS") this.news = true;
    const [, next] = /^\[UIDNEXT (\d+)\]/i.exec(stringOf(text)) ?? [];
    if (next) this.next = Number(next);
    return response;
  }
}

/** A part of a message. */
export type Part = {
  depth: number; // in how many others it is
  section: string; // by which it is fetched, as `2.1`
  type: string; // `text/plain`, in small letters
  params?: Value; // of the type: names and values
  disposition?: Value; // `attachment` or `inline`, and its params
  encoding: string; // of its octets for the transfer
  size: number; // in octets, so encoded
  subject?: Value; // of a part that is a message
};

/**
 * The parts of a message, those in others after them, as BODYSTRUCTURE has them (RFC 3501, 7.4.2).
 *
 * @param section of the message, if it is a part of another; `own` of its only part.
 */
export function partsOf(body: Value, section = "", own = below(section, 1), depth = 0): Part[] {
  const fields = listOf(body);
  if (Array.isArray(fields[0])) {
    const end = fields.findIndex((field) => !Array.isArray(field));
    const type = `multipart/${stringOf(fields[end])}`.toLowerCase();
    const parts = fields.slice(0, end).flatMap((part, i) => {
      return partsOf(part, below(section, i + 1), below(section, i + 1), depth + 1);
    });
    return [{ depth, section, type, encoding: "", size: 0 }, ...parts];
  }
  const [main, subtype, params, _id, _description, encoding, size, envelope, inner] = fields;
  const isMessage = Array.isArray(envelope);
  const type = `${stringOf(main)}/${stringOf(subtype)}`.toLowerCase();
  const part = {
    ...{ depth, section: own, type, params, size: Number(size) || 0 },
    disposition: fields[isMessage ? 11 : type.startsWith("text/") ? 9 : 8],
    encoding: stringOf(encoding).toLowerCase(),
    subject: isMessage ? envelope[1] : undefined,
  };
  return [part, ...isMessage ? partsOf(inner, own, undefined, depth + 1) : []];
}

function below(section: string, number: number): string {
  return section === "" ? `${number}` : `${section}.${number}`;
}

/** What a part is called: a file's name, a message's subject, or "". */
async function titleOf({ params, disposition, subject }: Part): Promise<string> {
  const [kind, more] = listOf(disposition);
  const lines = [
    `Content-Type: application/octet-stream${paramsOf(params)}`, // a file, whatever it is
    `Content-Disposition: ${stringOf(kind)}${paramsOf(more)}`,
    `Subject: ${stringOf(subject)}`,
  ].map((line) => `${line.replace(/[\r\n]+/g, " ")}\r\n`);
  const email = await readHeader(lines.join(""));
  return email.subject || email.attachments[0]?.filename || "";
}

function paramsOf(value: Value | undefined): string {
  return Array.from(mapOf(value), ([name, value]) => {
    return `; ${name}="${stringOf(value).replace(/["\\]/g, "\\$&")}"`;
  }).join("");
}

/** Reads header fields. Their size is bounded, as postal-mime takes 2 KiB and 20 µs for a line. */
async function readHeader(fields: Value | undefined): Promise<Email> {
  return await PostalMime.parse(octetsOf(fields).subarray(0, MAX_HEADER));
}

/** The first part to read. Of several forms of the same text the plainest comes first. */
export function textPartOf(parts: Part[]): Part | undefined {
  return parts.find(({ type, disposition }) => {
    const [kind] = listOf(disposition);
    return /^text\/(plain|html)$/.test(type) && !/^attachment$/i.test(stringOf(kind));
  });
}

/** The text of a part; one in an unknown charset is read as if in Windows-1252. */
export function decodeText({ params, encoding }: Part, octets: string): string {
  if (encoding === "quoted-printable") {
    octets = octets.replace(/=(?:[ \t]*\r?\n|([0-9A-F]{2}))/gi, (_, code) => {
      return code ? String.fromCharCode(parseInt(code, 16)) : "";
    });
  }
  const data = Buffer.from(octets, encoding === "base64" ? "base64" : "latin1");
  const charset = stringOf(mapOf(params).get("CHARSET"));
  try {
    // ASCII is what a text is in that says nothing: it may well be in UTF-8.
    return new TextDecoder(/^(us-ascii)?$/i.test(charset) ? "utf-8" : charset).decode(data);
  } catch {
    return new TextDecoder("windows-1252").decode(data);
  }
}

/** Says something on stderr. */
function say(line: string): void {
  console.error(`${NAME}: ${printable(line)}`);
}

type Options = Endpoint & FramedConnOptions & { user: string; folder: string; last: number };

async function listFolders(imap: Imap): Promise<void> {
  for (const [attributes, _delimiter, name] of await imap.command("LIST", '""', "*")) {
    const folder = octetsOf(name).toString();
    const shown = printable(decodeFolder(folder));
    if (/\\(Noselect|NonExistent)\b/i.test(listOf(attributes).join(" "))) {
      console.log(`${shown}: only folders`);
      continue;
    }
    const [[, counts] = []] = await imap.command("STATUS", quote(folder), "(MESSAGES UNSEEN)")
      .catch((error) => {
        throw named(shown, error);
      });
    const status = mapOf(counts);
    const [messages, unseen] = ["MESSAGES", "UNSEEN"].map((item) => stringOf(status.get(item)));
    console.log(printable(`${shown}: ${messages} messages, ${unseen} unseen`));
  }
}

/** Prints a line for each of the messages that are not before `first`. */
async function summarise(imap: Imap, uids: string, first = 0): Promise<void> {
  const header = `BODY.PEEK[HEADER.FIELDS (DATE FROM SUBJECT)]<0.${MAX_HEADER}>`;
  for (const message of await imap.fetch(uids, `(UID FLAGS RFC822.SIZE ${header})`)) {
    const uid = Number(message.get("UID"));
    if (uid < first) continue;
    const email = await readHeader(message.get("BODY[]"));
    const flags = listOf(message.get("FLAGS")).join(" ").toLowerCase();
    const columns = [
      `${uid}`.padStart(6),
      FLAGS.map((flag, i) => flags.includes(flag) ? "DFRST"[i] : "-").join(""),
      formatTime(email.date),
      format(Number(message.get("RFC822.SIZE")) || 0).padStart(9),
      (email.from?.name || email.from?.address || "").padEnd(24),
      email.subject,
    ];
    console.log(printable(columns.join("  ")).trimEnd());
  }
}

async function search(imap: Imap, { folder, last }: Options, keys: string[]): Promise<void> {
  await imap.examine(folder);
  const uids = await imap.search(keys);
  if (uids.length === 0) return say(`nothing in ${folder}`);
  await summarise(imap, uids.slice(-last).join(","));
  if (uids.length > last) say(`the last ${last} of ${uids.length}, --last N shows more`);
}

async function show(imap: Imap, { folder }: Options, [uid]: string[]): Promise<void> {
  const fetch = async (items: string) => {
    const [message] = await imap.fetch(uid, items);
    return message ?? fail(`no message ${uid} in ${folder}`);
  };
  await imap.examine(folder);
  const header = `BODY.PEEK[HEADER.FIELDS (DATE FROM TO CC SUBJECT)]<0.${MAX_HEADER}>`;
  const message = await fetch(`(UID BODYSTRUCTURE ${header})`);
  const fields = stringOf(message.get("BODY[]"));
  const { headers } = await readHeader(fields);
  for (const { originalKey, value } of headers) {
    console.log(printableText(`${originalKey}: ${decodeWords(value)}`));
  }
  if (fields.length >= MAX_HEADER) say(`the header is longer, cut at ${MAX_HEADER} bytes`);
  console.log();
  const parts = partsOf(message.get("BODYSTRUCTURE") ?? null);
  for (const part of parts) {
    const { depth, section, type, size } = part;
    const rest = type.startsWith("multipart/") ? [] : [format(size), await titleOf(part)];
    const line = [section, type, ...rest].filter((word) => word).join(" ");
    console.log(printable("  ".repeat(depth) + line));
  }
  const part = textPartOf(parts);
  if (!part) return say("no text in it");
  console.log();
  const text = await fetch(`(UID BODY.PEEK[${part.section}])`);
  console.log(printableText(decodeText(part, stringOf(text.get("BODY[]"))).trimEnd()));
}

/**
 * Prints a line for each message that arrives in a folder, until `signal`.
 *
 * @param options in milliseconds, how long it idles at a time and, if the server cannot (RFC 2177),
 * how often it asks.
 */
export async function watch(
  imap: Imap,
  folder: string,
  signal: AbortSignal,
  { renew = RENEW, poll = POLL } = {},
): Promise<void> {
  const idles = (await imap.capabilities()).has("IDLE");
  await imap.examine(folder);
  say(`watching ${folder}, ${idles ? "by IDLE" : `asking every ${poll / 1000} s`}`);
  imap.news = false;
  while (!signal.aborted) {
    const done = new AbortController();
    const wake = AbortSignal.any([signal, done.signal]);
    const over = delay(idles ? renew : poll, { signal: wake }).catch(() => {});
    await (idles ? imap.idle(over) : imap.listen(over)).finally(() => done.abort());
    if (!idles) await imap.command("NOOP");
    if (!imap.news) continue;
    imap.news = false;
    // `*` is the last message, even if it is not as new as that (RFC 3501, 6.4.8).
    const { next } = imap;
    await summarise(imap, `${next}:*`, next);
  }
}

type Run = (imap: Imap, options: Options, args: string[]) => Promise<void>;

/** The commands, each with its arguments. */
const COMMANDS: Commands<Run> = {
  folders: ["", listFolders],
  list: ["", (imap, options) => search(imap, options, ["ALL"])],
  show: ["UID", show],
  search: ["KEY...", search],
  watch: ["", (imap, { folder }) => watch(imap, folder, stopSignal())],
};

if (import.meta.main) {
  const program = {
    name: NAME,
    about:
      `Looks into a mailbox and changes nothing there: what it shows stays unseen. The commands:

${listCommands(COMMANDS)}

list, search and watch print a message's UID, flags (Draft, Flagged, Replied, Seen, Trashed), date,
size, sender and subject. search takes the keys of RFC 3501: search unseen from ann since 1-Feb-2026.
MAIL_PASSWORD has the password, or it is asked for.`,
    usage: "COMMAND [ARG]...",
    permissions: "--allow-net --allow-env=MAIL_PASSWORD",
    flags: {
      ...clientFlags(PORT),
      user: flag("NAME", "who logs in", String, "mail"),
      folder: flag("NAME", "where to look, except for folders", String, "INBOX"),
      last: flag("N", "list, search: the last so many", number(1, 1000), "20"),
    },
  };
  await main(program, async (flags, command, ...args) => {
    const run = chooseCommand(COMMANDS, command, args);
    if (command === "show") number(1, 2 ** 32 - 1)(args[0]);
    using conn = new FramedConn(await connect(flags), flags);
    try {
      const imap = new Imap(conn);
      if (!await imap.greet()) {
        await imap.login(flags.user, await askPassword("MAIL_PASSWORD", "password: "));
      }
      await run(imap, flags, args);
      await imap.logout();
    } catch (error) {
      throw error instanceof UsageError ? error : named(conn.peer, error);
    }
  });
}
