#!/usr/bin/env -S deno run --allow-net --allow-read
/**
 * A Gopher server for the files of a folder (RFC 1436).
 *
 *     deno run --allow-net --allow-read scripts/gopher_server.ts .
 *     curl gopher://127.0.0.1:8070/
 *
 * The client sends a line, the selector, and gets a menu or a file. A folder's menu lists what is in
 * it, or is what its file `gophermap` says, where fields that are missing are filled in:
 *
 *     A line without a tab is just shown.
 *     0A text of ours<TAB>lib/cli.ts
 *     1A menu elsewhere<TAB>/<TAB>192.0.2.1<TAB>70
 *
 * A folder's selector with words behind a tab searches for names below it. What type an item is its
 * name's extension says. Hidden files are not there, nor is what has a control character in its name,
 * which no line of a menu can hold, or is a link that leads out of the folder.
 *
 * Mirrors the Gopher row of tutorial 003, which names clients: Python 2's `gopherlib`, and `urllib`.
 * A server would be one on `socketserver`:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `ThreadingTCPServer((host, port), Handler)`, `serve_forever()` | `listen()`, `serve()` |
 * | `class Handler(StreamRequestHandler)`, `def handle(self)` | `gopherHandler()` |
 * | `self.rfile.readline(4096)`, which may be half a line | `conn.readLine(4096)` |
 * | `self.request.getsockname()` | `conn.localAddr` |
 * | `os.path.realpath(path)`, `os.scandir(path)` | `Deno.realPath(path)`, `Deno.readDir(path)` |
 * | `shutil.copyfileobj(file, self.wfile)` | `file.read(buffer)`, `conn.writeAll(data)` |
 *
 * @module
 */
import { escape } from "@std/html/entities";
import { extname, join, resolve } from "@std/path";
import { formatAddress, listen } from "../lib/address.ts";
import { main, serverFlags, stopSignal } from "../lib/cli.ts";
import { type FramedConn, printable } from "../lib/framing.ts";
import { isBelow, serve } from "../lib/server.ts";

const PORT = 8070; // Gopher's own is 70
const MAX_SELECTOR = 4096; // octets; RFC 1436 has 255
const MAX_NAMES = 10_000; // that a menu or a search looks at
const MAX_DEPTH = 16; // folders in folders, of a search
const MAX_TIME = 3000; // milliseconds
const BUFFER = 64 * 1024; // octets of a file
const [CR, LF, DOT] = [0x0d, 0x0a, 0x2e];

/** The item types of files (RFC 1436, 3.8; `I` and `h` came later), by their names' extensions. */
const TYPES = [
  ["0", "c cfg conf cpp css csv diff go h ini java js json log lua md pl py rb rs rst sh sql svg"],
  ["0", "tex toml ts tsv txt xml yaml yml"],
  ["5", "7z bz2 gz rar tar tgz xz zip zst"],
  ["g", "gif"],
  ["h", "htm html"],
  ["I", "avif bmp ico jpeg jpg png tif tiff webp"],
];

/** What the client is told in place of an answer. */
class Refusal extends Error {}

/** A file or folder: its names from the root on, and its real path. */
type Found = { names: string[]; path: string; isDirectory: boolean };

/** Whether a name may be listed and asked for, which `..`, for one, may not. */
const isName = (name: string) => !/^\.|[/\\]/.test(name) && printable(name) === name;

/** Finds a file or folder below the root; no symbolic link leads out of it. */
async function locate(root: string, names: string[]): Promise<Found> {
  const missing = new Refusal("no such file or folder");
  if (!names.every(isName)) throw missing;
  try {
    const path = await Deno.realPath(join(root, ...names));
    const { isFile, isDirectory } = await Deno.stat(path);
    // What is neither is not even opened: on a named pipe that would wait for ever.
    if (isBelow(root, path) && (isFile || isDirectory)) return { names, path, isDirectory };
  } catch {
    // It is not there, the name is too long, links go round in circles, or it may not be seen.
  }
  throw missing;
}

/** The type of an item. A file without an extension is a text if it begins as one. */
async function typeOf({ names, path, isDirectory }: Found): Promise<string> {
  if (isDirectory) return "1";
  const extension = extname(names.at(-1) ?? "").slice(1).toLowerCase();
  // What is not known is sent as it is, so no octet of it changes.
  if (extension) return TYPES.find(([, known]) => known.split(" ").includes(extension))?.[0] ?? "9";
  using file = await Deno.open(path);
  const start = new Uint8Array(1024);
  const n = await file.read(start) ?? 0;
  const text = new TextDecoder().decode(start.subarray(0, n), { stream: true });
  return /[\0\ufffd]/.test(text) ? "9" : "0";
}

const note = (type: "3" | "i", text: string) => `${type}${text}\t\tnull.host\t1`;

/** The items of what is in a folder, or of what is below it and has all the words in its name. */
async function list(root: string, from: string[], place: string, words: string[] = []) {
  const items: string[] = [];
  const cut = note("i", "(not everything was looked at)");
  const late = performance.now() + MAX_TIME;
  const folders = [from];
  let [left, whole] = [MAX_NAMES, true];
  for (const folder of folders) {
    const entries = await Array.fromAsync(Deno.readDir(join(root, ...folder))).catch(() => {
      whole = false; // it may not be read
      return [];
    });
    for (const { name, isFile, isDirectory } of entries.sort((a, b) => a.name < b.name ? -1 : 1)) {
      if (left-- === 0 || performance.now() > late) return [...items, cut];
      if (!isName(name)) continue;
      const names = [...folder, name];
      // Not behind links, which may go round in circles.
      if (words.length > 0 && isDirectory) {
        if (names.length <= from.length + MAX_DEPTH) folders.push(names);
        else whole = false;
      }
      if (!words.every((word) => name.toLowerCase().includes(word))) continue;
      try {
        const here = { names, path: join(root, ...names), isDirectory };
        const type = await typeOf(isFile || isDirectory ? here : await locate(root, names));
        const text = names.slice(from.length).join("/");
        items.push(`${type}${text}\t/${names.join("/")}\t${place}`);
      } catch {
        // A link that leads out, a pipe, gone meanwhile, or it may not be read.
      }
    }
  }
  return whole ? items : [...items, cut];
}

/** The items of a `gophermap` in the folder `names`, the host and port of our own being `place`. */
export function parseMap(text: string, names: string[], place: string): string[] {
  return text.trimEnd().split(/\r?\n/).map((line) => {
    const [shown, selector, host, port = "70"] = line.split("\t");
    if (!shown || shown === line) return note("i", line.replaceAll("\t", " "));
    const target = selector || shown.slice(1);
    if (host) return `${shown}\t${target}\t${host}\t${port}`;
    const path = target.startsWith("URL:") ? target : resolve("/", ...names, target);
    return `${shown}\t${path}\t${place}`;
  });
}

/** A folder's menu: what its `gophermap` says, or what is in it. */
async function menuOf(root: string, names: string[], place: string): Promise<string[]> {
  const map = await locate(root, [...names, "gophermap"]).catch(() => undefined);
  if (map?.isDirectory === false) return parseMap(await Deno.readTextFile(map.path), names, place);
  const search = `7Search below this folder\t/${names.join("/")}\t${place}`;
  return [search, ...await list(root, names, place)];
}

/** The octets of a file as they are; or of a text in lines that end with CRLF, their dots stuffed. */
async function* read(path: string, isText: boolean): AsyncGenerator<Uint8Array> {
  using file = await Deno.open(path);
  const buffer = new Uint8Array(BUFFER);
  const lines = new Uint8Array(isText ? 2 * BUFFER : 0);
  let last = LF;
  for (let { size: left } = await file.stat(); left > 0;) {
    const n = await file.read(buffer.subarray(0, left));
    if (n === null) throw new Error(`${path}: it became ${left} bytes shorter while it was sent`);
    left -= n;
    let size = 0;
    for (const octet of buffer.subarray(0, isText ? n : 0)) {
      if (octet === DOT && last === LF) lines[size++] = DOT;
      if (octet === LF && last !== CR) lines[size++] = CR;
      last = lines[size++] = octet;
    }
    yield isText ? lines.subarray(0, size) : buffer.subarray(0, n);
  }
  if (isText) yield new TextEncoder().encode(last === LF ? ".\r\n" : "\r\n.\r\n");
}

/** Sends what a selector names; `words` is what comes behind it. */
async function answer(conn: FramedConn, root: string, selector: string, words = "") {
  const [, url] = /^URL:(https?:[!-~]+)$/.exec(selector) ?? [];
  // A menu may have links to the Web. Clients that do not know such selectors get a page with it.
  if (url) return await conn.writeAll(`<a href="${escape(url)}">${escape(url)}</a>\n`);
  const found = await locate(root, selector.split("/").filter(Boolean));
  if (found.isDirectory) {
    const { localAddr } = conn.conn;
    // Where the client has reached us; it knows best where a Unix socket is.
    const place = "port" in localAddr
      ? formatAddress(localAddr).replace(/:(\d+)$/, "\t$1")
      : "localhost\t70";
    // Debian's `gopher` begins with Gopher+, an extension, and wants to hear of one item in it.
    const plus = `+-1\r\n+INFO: 1Menu\t/${found.names.join("/")}\t${place}\r\n.\r\n`;
    if (words === "$") return await conn.writeAll(plus);
    const wanted = words.toLowerCase().match(/\S+/g);
    if (!wanted) return await sendMenu(conn, await menuOf(root, found.names, place));
    const items = await list(root, found.names, place, wanted);
    return await sendMenu(conn, items.length > 0 ? items : [note("i", "nothing found")]);
  }
  const isText = await typeOf(found) === "0";
  for await (const piece of read(found.path, isText)) await conn.writeAll(piece);
}

async function sendMenu(conn: FramedConn, items: string[]): Promise<void> {
  await conn.writeDotLines(new TextEncoder().encode(items.map((item) => `${item}\n`).join("")));
}

/** Makes a handler that serves the folder at `path`. */
export async function gopherHandler(path: string): Promise<(conn: FramedConn) => Promise<void>> {
  const root = await Deno.realPath(path);
  return async (conn) => {
    try {
      const line = await conn.readLine(MAX_SELECTOR);
      const [selector, words] = line?.split("\t") ?? [];
      if (selector !== undefined) await answer(conn, root, selector, words);
    } catch (error) {
      // In the middle of an answer there is no telling the client.
      if (conn.bytesWritten === 0) {
        const text = error instanceof Refusal ? error.message : "there is no answer to that";
        await sendMenu(conn, [note("3", text)]);
      }
      if (!(error instanceof Refusal)) throw error; // for the log
    }
  };
}

if (import.meta.main) {
  await main({
    name: "gopher_server",
    about: "Serves the files of the folder ROOT, or of this one, over Gopher (RFC 1436).",
    usage: "[ROOT]",
    permissions: "--allow-net --allow-read",
    flags: serverFlags(PORT),
  }, async (flags, root = ".") => {
    if (!(await Deno.stat(root)).isDirectory) throw new Error(`${root}: not a directory`);
    const handler = await gopherHandler(root);
    await serve(await listen(flags), handler, { ...flags, signal: stopSignal() });
  });
}
