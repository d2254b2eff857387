#!/usr/bin/env -S deno run --allow-net
/**
 * A Gopher client (RFC 1436) for what is at a URL (RFC 4266), `gopher://host:port/TYPE/selector`.
 *
 *     deno run --allow-net --allow-read scripts/gopher_server.ts .
 *     deno run --allow-net scripts/gopher_client.ts gopher://127.0.0.1:8070/
 *
 * On a terminal it prints texts, and menus with numbers to follow; what is neither it saves, under its
 * own name but in no file's place, which takes `--allow-read --allow-write` before the script. A pipe
 * gets the octets. What a menu that came over TLS (`gophers://`) leads to is asked for over TLS, too.
 * Words to search for stand behind `%09`:
 *
 *     deno run --allow-net scripts/gopher_client.ts gopher://127.0.0.1:8070/7/%09server | cat
 *
 * Mirrors the Gopher row of tutorial 003, which names `gopherlib` and `urllib` without a listing. Of
 * these Python 3 has the one no more, and the other without Gopher:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `urllib.urlopen("gopher://host/0/file")` | `parseUrl()`, `ask()` |
 * | `gopherlib.send_selector(selector, host, port)` | `connect()`, `conn.writeLine(selector)` |
 * | `s.makefile("rb").read()` | `conn.readToEnd(max)` |
 * | `gopherlib.get_directory(f)` | `parseMenu()` |
 * | `gopherlib.get_textfile(f)` | `undot()` |
 * | `gopherlib.get_binary(f)` | `conn.readSome()` until it returns null |
 *
 * A text, at most 16 MiB, ends with a dot, and if not, that is said. All else ends with the connection,
 * and what a server cuts off in an orderly way looks whole.
 *
 * @module
 */
import { concat } from "@std/bytes/concat";
import {
  connect,
  formatEndpoint,
  named,
  parseAddress,
  reason,
  UsageError,
} from "../lib/address.ts";
import { clientFlags, main, optional, stopSignal, Terminal } from "../lib/cli.ts";
import { FramedConn, LimitError, printable, printableText, writeAll } from "../lib/framing.ts";

const PORT = 70; // where a URL has none
const MAX_TEXT = 16 * 1024 * 1024; // octets, as are the next two
const MAX_MENU = 4 * 1024 * 1024;
const MAX_ERROR = 1024;
const MAX_ITEMS = 100_000; // lines of a menu
const [CR, LF, DOT] = [0x0d, 0x0a, 0x2e];

/** What the types of items are (RFC 1436, 3.8, and some that came later). */
const KINDS: Record<string, string> = {
  ...{ 0: "text", 1: "menu", 2: "phones", 3: "error", 4: "binhex", 5: "archive", 7: "search" },
  ...{ 8: "telnet", 9: "binary", T: "telnet", g: "image", I: "image", h: "html", i: "" },
};
const MENUS = /[17]/;
const TEXTS = /[017h]/;

/** Something that a server has. */
export type Item = {
  type: string; // a character
  text: string; // that a menu shows
  selector: string;
  words?: string; // to search for
  host: string;
  port: number; // 0 if it is none
  tls?: boolean;
  place?: string; // where it is, if not on the server that shows it
};

/** A line of text in a menu. */
const NOTHING: Item = { type: "i", text: "", selector: "", host: "", port: 0 };

/** Reads a URL, `gophers://` over TLS. Throws a {@linkcode UsageError} if it cannot be asked for. */
export function parseUrl(url: string): Item {
  const wrong = new UsageError(`${url} is not gopher://HOST:PORT/TYPE/SELECTOR`);
  const [, scheme, authority, path = ""] = /^(gophers?):\/\/([^/?#@\s]+)(?:\/(.*))?$/is.exec(url) ??
    [];
  if (!scheme) throw wrong;
  const address = parseAddress(authority, PORT);
  try {
    const [, type = "1", rest = ""] = /^(.)(.*)$/su.exec(decodeURIComponent(path)) ?? [];
    const [, selector, words] = /^([^\t\r\n\0]*)(?:\t([^\t\r\n\0]*))?$/.exec(rest) ?? [];
    if (selector === undefined || !("hostname" in address)) throw wrong;
    const { hostname: host, port } = address;
    return { type, text: url, selector, words, host, port, tls: /s$/i.test(scheme) };
  } catch {
    throw wrong; // a % that encodes nothing, too
  }
}

/** Reads a menu of the server that `from` is on. Throws a {@linkcode LimitError} at too many lines. */
export function parseMenu(octets: Uint8Array, from: Item): Item[] {
  const lines = new TextDecoder().decode(octets).split(/\r?\n/, MAX_ITEMS + 1);
  if (lines.length > MAX_ITEMS) throw new LimitError(`menu of more than ${MAX_ITEMS} lines`);
  if (lines.at(-1) === "") lines.pop();
  return lines.map((line) => {
    const [shown, selector, field = "", digits = ""] = line.split("\t");
    if (!shown || selector === undefined) return { ...NOTHING, text: line };
    const [type] = shown;
    const text = shown.slice(type.length);
    const host = field.replace(/^\[(.*)\]$/, "$1");
    const port = /^ *\d{1,5} *$/.test(digits) && Number(digits) < 65536 ? Number(digits) : 0;
    const [, url] = /^URL:(.*)/.exec(selector) ?? [];
    const isNear = type === "i" || type === "3" || host === from.host && port === from.port;
    const place = url ?? (isNear ? "" : formatEndpoint({ host, port }));
    return { type, text, selector, host, port, tls: from.tls, place };
  });
}

/** Whether one can ask for an item, and not just see it, as a link to the Web. */
export function isOpen({ type, selector, host, port }: Item): boolean {
  return !/[238Ti]/.test(type) && !selector.startsWith("URL:") && host !== "" && port > 0;
}

/** The lines before the one that is a dot, their stuffed dots removed; undefined if there is none. */
export function undot(octets: Uint8Array): Uint8Array | undefined {
  let end = octets.length;
  for (const octet of [LF, CR, DOT]) if (octets[end - 1] === octet) end--;
  const isLine = (i: number) => i === 0 || octets[i - 1] === LF;
  if (octets[end] !== DOT || !isLine(end)) return undefined;
  return octets.subarray(0, end).filter((octet, i) => octet !== DOT || !isLine(i));
}

/**
 * Asks for an item, and gives the octets of what it is; `warn` is told of a text without an end.
 *
 * @throws {Error} if the server says that there is none; a {@linkcode LimitError} if a text is too
 * long.
 */
export async function* ask(
  conn: FramedConn,
  { type, selector, words }: Item,
  warn: Warn,
): AsyncGenerator<Uint8Array> {
  await conn.writeLine(words === undefined ? selector : `${selector}\t${words}`);
  const isText = TEXTS.test(type);
  const max = MENUS.test(type) ? MAX_MENU : isText ? MAX_TEXT : MAX_ERROR;
  const octets = await conn.readToEnd(max).catch((error) => {
    if (isText || !(error instanceof LimitError)) throw error;
  });
  if (octets) {
    const start = new TextDecoder().decode(octets.subarray(0, MAX_ERROR));
    const [, error] = /^3([^\t\n]*)\t[^\n]*\n(?:\.\r?\n)?$/.exec(start) ?? [];
    if (error !== undefined) throw new Error(`the server says: ${error}`);
    const lines = isText ? undot(octets) : octets;
    if (!lines && type !== "h") warn("no dot at the end: it may be cut off");
    yield lines ?? octets;
  }
  // A long one, of which nothing is taken yet.
  for (let data; (data = await conn.readSome()) !== null;) yield data;
}

/** Writes it all to a file or to stdout; returns the size in octets. */
async function write(to: { write(data: Uint8Array): Promise<number> }, pieces: Pieces) {
  let size = 0;
  for await (const piece of pieces) {
    size += piece.length;
    await writeAll(to, piece);
  }
  return size;
}

type Pieces = AsyncGenerator<Uint8Array>;

/** Makes a file of it, whole or not at all, and not in the place of another. */
async function save(path: string, pieces: Pieces): Promise<string> {
  const part = `${path}.${Deno.pid}.part`;
  await Deno.lstat(path).then(() => {
    throw new Deno.errors.AlreadyExists(`${path}: there is such a file already`);
  }, (error) => {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  });
  using file = await Deno.open(part, { write: true, createNew: true });
  try {
    const size = await write(file, pieces);
    await Deno.link(part, path); // unlike a rename it replaces nothing
    return `saved ${path}, ${size} bytes`;
  } finally {
    await Deno.remove(part);
  }
}

/** The last name of a selector, made one for a file in this folder. */
export function safeName(selector: string): string {
  const name = selector.split("/").at(-1)?.slice(-60) ?? "";
  return name.replace(/^[.-]+|[^\p{L}\p{M}\p{N}._ +-]/gu, "_") || "gopher";
}

/** Prints a menu, with a number before each item that one can ask for. */
function printMenu(menu: Item[]): void {
  let n = 0;
  for (const item of menu) {
    const { type, text, place = "" } = item;
    const number = isOpen(item) ? `${++n}` : "";
    const line = `${number.padStart(5)} ${(KINDS[type] ?? type).padEnd(8)}${text}  ${place}`;
    console.log(printable(line.trimEnd()));
  }
}

type Get = (item: Item) => Pieces;
type Warn = (line: string) => void;

/** Prints what a text has or where it is saved; or prints a menu, and follows it as somebody says. */
async function browse(start: Item, get: Get, warn: Warn): Promise<void> {
  const trail: Item[][] = []; // menus, the last one being the one that is seen
  let terminal: Terminal | undefined;
  // Only when there is something to ask: till then Deno may, for a permission.
  const ask = (prompt: string) => (terminal ??= new Terminal()).readLine(prompt);

  async function visit(item: Item): Promise<void> {
    if (item.type === "7" && item.words === undefined) {
      const words = await ask("words: ");
      if (!words) return;
      item = { ...item, words: words.replaceAll("\t", " ") };
    }
    if (!TEXTS.test(item.type)) return warn(await save(safeName(item.selector), get(item)));
    const octets = concat(await Array.fromAsync(get(item)));
    if (MENUS.test(item.type)) {
      trail.push(parseMenu(octets, item));
      return printMenu(trail[trail.length - 1]);
    }
    console.log(printableText(new TextDecoder().decode(octets)).replace(/\n$/, ""));
  }

  try {
    await visit(start);
    while (trail.length > 0) {
      const line = await ask("number, b(ack) or q(uit): ");
      if (line === null || line === "q") return;
      if (line === "b" && trail.length > 1) trail.pop();
      const menu = trail[trail.length - 1];
      const item = menu.filter(isOpen)[Number(line) - 1];
      if (item) await visit(item).catch((error) => warn(reason(error)));
      else printMenu(menu);
    }
  } finally {
    terminal?.close();
  }
}

if (import.meta.main) {
  const { timeout, trace, ca } = clientFlags(PORT);
  await main({
    name: "gopher_client",
    about: "Gets what is at URL (RFC 1436, 4266): gopher://HOST:PORT/TYPE/SELECTOR, or gophers://.",
    usage: "URL",
    permissions: "--allow-net",
    flags: {
      output: optional("FILE", "write it there, whole or not (--allow-read, --allow-write)"),
      timeout,
      trace,
      ca,
    },
  }, async ({ name, output, ...flags }, url) => {
    const start = parseUrl(url);
    const isShown = output === undefined && Deno.stdout.isTerminal();
    if (start.type === "7" && start.words === undefined && !isShown) {
      throw new UsageError("a search needs words: %09 and these at the end of URL");
    }
    const warn = (line: string) => console.error(`${name}: ${printable(line)}`);
    let conn: FramedConn | undefined;
    const stop = stopSignal();
    stop.onabort = () => conn ? conn.close(new Error("interrupted")) : Deno.exit(130);

    async function* get(item: Item): Pieces {
      const { host, port, tls } = item;
      conn = undefined;
      const tcp = await connect({ ...flags, host, port, tls, ca: tls ? flags.ca : undefined });
      conn = new FramedConn(tcp, flags);
      try {
        yield* ask(conn, item, warn);
      } catch (error) {
        throw named(conn.peer, error);
      } finally {
        await conn.end();
      }
    }

    try {
      if (isShown) await browse(start, get, warn);
      else if (output === undefined) await write(Deno.stdout, get(start));
      else warn(await save(output, get(start)));
    } catch (error) {
      if (!stop.aborted) throw error;
    }
    if (stop.aborted) return 130; // as of a program that Ctrl-C ends
  });
}
