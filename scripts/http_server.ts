#!/usr/bin/env -S deno run --allow-net --allow-read
/**
 * A Web server for the files of a folder (HTTP, RFC 9110), as `python3 -m http.server` is: files,
 * listings, ranges, and answers to POST.
 *
 *     deno run --allow-net --allow-read scripts/http_server.ts lib
 *     curl -i http://127.0.0.1:8080/
 *
 * It serves all that is in the folder, whatever its name, but for links that lead out of it. A POST
 * of a form or of JSON is answered with what it holds, as JSON. With `--upload DIR` a POST to `/name`
 * stores its body as `name` in DIR:
 *
 *     deno run --allow-net --allow-read --allow-write scripts/http_server.ts --upload . lib
 *     curl --data-binary @README.md http://127.0.0.1:8080/copy.md
 *
 * Mirrors "Python http.server Module" of tutorial 001 and "HTTP Servers" of tutorial 002, which
 * describe it without a listing:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `HTTPServer((host, port), Handler)`, `serve_forever()` | `serveHttp()`: `Deno.serve()` |
 * | `do_GET()`, `do_POST()` | a function of a `Request` in `METHODS` that returns a `Response` |
 * | `self.path`, `self.headers` | `request.url`, `request.headers` |
 * | `self.rfile.read(length)` | `bodyOf()`: `request.body`, with a limit |
 * | `send_response()`, `send_header()`, `wfile.write()` | `new Response(body, { status, headers })` |
 * | `SimpleHTTPRequestHandler.translate_path()` | `locate()` |
 * | `log_message()` | `logLine()`, on stdout |
 *
 * Another method is another function in `METHODS`: the `Allow` of a 405 names it by itself.
 *
 * @module
 */
import { concat } from "@std/bytes/concat";
import { decodeBase64 } from "@std/encoding/base64";
import { format } from "@std/fmt/bytes";
import { escape } from "@std/html/entities";
import { contentType } from "@std/media-types/content-type";
import { extname, join } from "@std/path";
import { named, reason, UsageError } from "../lib/address.ts";
import { flag, httpFlags, main, number, optional, stopSignal } from "../lib/cli.ts";
import { printable } from "../lib/framing.ts";
import { bodyOf, type HttpHandler, isBelow, isSecret, serveHttp } from "../lib/server.ts";

const PORT = 8080;
const MAX_POST = 1024 * 1024; // octets of a form or of JSON
// Octets of a file that are read at once. From 128 KiB on, each buffer would be the system's to give
// and to take back, which is slower.
const CHUNK = 120 * 1024;

/** What the server serves, and to whom. */
export type Site = {
  root: string; // the folder, by its real path
  upload?: string; // the folder for what is sent; none: nothing is stored
  maxUpload: number; // octets
  idleTimeout?: number; // milliseconds that a body may be silent
  credentials?: string; // `user:password` that everybody has to give; none: nobody
};

/** An answer that is all text. */
function say(status: number, text: string, headers: Record<string, string> = {}): Response {
  const body = new TextEncoder().encode(text);
  const type = "text/plain; charset=utf-8";
  const always = { "content-type": type, "content-length": `${body.length}` };
  return new Response(body, { status, headers: { ...always, ...headers } });
}

/** A file or folder of the site, by its real path. */
type Located = { path: string; info: Deno.FileInfo };

/**
 * Finds what a path of a URL names below the root: neither `..` in any spelling nor a symbolic link
 * leads out of it.
 *
 * The calls are the synchronous ones, here and where files are read. For what lies in the system's
 * cache they take microseconds, and these answers half the time that the others do.
 */
function locate(root: string, segments: string[]): Located | undefined {
  if (segments.some((name) => /^\.\.?$|[/\\\0]/.test(name))) return undefined;
  try {
    const path = Deno.realPathSync(`${root}/${segments.join("/")}`);
    if (!isBelow(root, path)) return undefined;
    const info = Deno.statSync(path);
    return info.isFile || info.isDirectory ? { path, info } : undefined; // a pipe would wait for ever
  } catch {
    return undefined; // the name is too long, links go round in circles, or it may not be read
  }
}

/** The names in the path of a URL, decoded; undefined if they cannot be. */
function segmentsOf(url: string): string[] | undefined {
  const [, path] = /^[^:]+:\/\/[^/?#]*([^?#]*)/.exec(url) ?? [];
  try {
    return path?.split("/").filter(Boolean).map(decodeURIComponent);
  } catch {
    return undefined;
  }
}

/** GET and HEAD: a file, the folder's `index.html`, or the folder's listing. */
function get(request: Request, segments: string[], { root }: Site): Response | Promise<Response> {
  let found = locate(root, segments);
  const asFolder = /^[^?#]*\/(?:[?#]|$)/.test(request.url);
  if (found?.info.isDirectory) {
    const [query] = /\?[^#]*/.exec(request.url) ?? [""];
    const location = segments.map((name) => `/${encodeURIComponent(name)}`).join("") + "/" + query;
    if (!asFolder) return say(301, `${location}\n`, { location });
    const index = locate(root, [...segments, "index.html"]);
    if (!index?.info.isFile) return list(root, segments);
    found = index;
  } else if (asFolder) found = undefined;
  return found ? sendFile(request, found) : say(404, "there is no such file\n");
}

/** Sends a file, or of it what the request's conditions and ranges leave. */
function sendFile({ method, headers: asked }: Request, { path, info }: Located): Response {
  const { size } = info;
  const modified = info.mtime?.toUTCString() ?? "";
  const etag = `"${size.toString(36)}-${info.mtime?.getTime().toString(36)}"`;
  const headers = { etag, "last-modified": modified, "accept-ranges": "bytes" };
  const unmet = unmetCondition(asked, etag, modified);
  if (unmet === 412) return say(412, "it has changed\n", headers);
  if (unmet === 304) return new Response(null, { status: 304, headers });

  // By the official types `.ts` is a film.
  const type = contentType(extname(path).replace(/^\.ts$/, ".txt")) ?? "application/octet-stream";
  const whole = { start: 0, end: size };
  const current = [null, etag, modified].includes(asked.get("if-range"));
  const parts = method === "GET" && current ? ranges(asked.get("range"), size) : undefined;
  if (!parts) {
    return sendPieces(method, path, [whole], 200, { ...headers, "content-type": type });
  }
  if (parts.length === 0) {
    return say(416, "nothing there\n", { "content-range": `bytes */${size}` });
  }
  const names = parts.map(({ start, end }) => `bytes ${start}-${end - 1}/${size}`);
  if (parts.length === 1) {
    const one = { "content-type": type, "content-range": names[0] };
    return sendPieces(method, path, parts, 206, { ...headers, ...one });
  }
  const boundary = crypto.randomUUID();
  const text = (text: string) => new TextEncoder().encode(text);
  const pieces = parts.flatMap((part, i): Piece[] => {
    const fields = `Content-Type: ${type}\r\nContent-Range: ${names[i]}`;
    return [text(`\r\n--${boundary}\r\n${fields}\r\n\r\n`), part];
  });
  return sendPieces(method, path, [...pieces, text(`\r\n--${boundary}--\r\n`)], 206, {
    ...headers,
    "content-type": `multipart/byteranges; boundary=${boundary}`,
  });
}

/** The status if one of the request's conditions is not met, in their order (RFC 9110, 13.2.2). */
function unmetCondition(asked: Headers, etag: string, modified: string): 304 | 412 | undefined {
  const has = (tags: string, own: string[]) =>
    tags === "*" || tags.split(/\s*,\s*/).some((tag) => own.includes(tag));
  const [match, unmodified] = [asked.get("if-match"), asked.get("if-unmodified-since")];
  const changed = unmodified && Date.parse(modified) > Date.parse(unmodified);
  if (match ? !has(match, [etag]) : changed) return 412;
  const [noneMatch, since] = [asked.get("if-none-match"), asked.get("if-modified-since")];
  const same = since && Date.parse(modified) <= Date.parse(since);
  if (noneMatch ? has(noneMatch, [etag, `W/${etag}`]) : same) return 304;
}

/** Makes a response of pieces, those of the file read as they are sent. */
function sendPieces(
  method: string,
  path: string,
  pieces: Piece[],
  status: number,
  headers: Record<string, string>,
): Response {
  const length = pieces.reduce((sum, piece) => sum + sizeOf(piece), 0);
  headers["content-length"] = `${length}`;
  if (method === "HEAD") {
    Deno.openSync(path).close(); // or it fails as GET does
    return new Response(null, { status, headers });
  }
  const octets = octetsOf(path, pieces, length);
  octets.next(); // opens the file, which fails here or not at all
  if (length <= CHUNK) {
    const whole = concat([...octets]);
    headers["content-length"] = `${whole.length}`; // less, if the file became shorter just now
    return new Response(whole, { status, headers });
  }
  const body = new ReadableStream({ // which ReadableStream.from() does as well, at half the speed
    pull(controller) {
      const { value, done } = octets.next();
      if (done) controller.close();
      else controller.enqueue(value);
    },
    cancel: () => void octets.return(),
  }, { highWaterMark: 0 });
  return new Response(body, { status, headers });
}

/** Octets of a file, from `start` to before `end`. */
export type Range = { start: number; end: number };
type Piece = Range | Uint8Array<ArrayBuffer>;
const sizeOf = (piece: Piece) => "end" in piece ? piece.end - piece.start : piece.length;

/**
 * Reads a `Range` header (RFC 9110, 14.2): the ranges that the file has, which may be none; or
 * undefined if all is to be sent, as without the header: it is not of bytes or not valid, or asks
 * for more than there is, some of it twice.
 */
export function ranges(header: string | null, size: number): Range[] | undefined {
  const [, list] = /^bytes=(.*)$/i.exec(header ?? "") ?? [];
  const found: Range[] = [];
  for (const spec of list?.split(",") ?? ["none"]) {
    const [, first, last] = /^[ \t]*(\d*)-(\d*)[ \t]*$/.exec(spec) ?? [];
    if (!first && !last || first && last && Number(first) > Number(last)) return undefined;
    const start = first ? Number(first) : Math.max(0, size - Number(last));
    const end = first && last ? Math.min(size, Number(last) + 1) : size;
    if (start < end) found.push({ start, end });
  }
  return found.reduce((sum, range) => sum + sizeOf(range), 0) > size ? undefined : found;
}

/** Reads the pieces of a body as they are sent; the first octets are none, the file is open then. */
function* octetsOf(
  path: string,
  pieces: Piece[],
  length: number,
): Generator<Uint8Array<ArrayBuffer>, void> {
  using file = Deno.openSync(path);
  let unsent = length;
  try {
    yield new Uint8Array(0);
    for (const piece of pieces) {
      if ("end" in piece) file.seekSync(piece.start, Deno.SeekMode.Start);
      for (let left = sizeOf(piece); left > 0;) {
        const buffer = "end" in piece ? new Uint8Array(Math.min(CHUNK, left)) : piece;
        const n = "end" in piece ? file.readSync(buffer) : left;
        if (n === null) return; // it became shorter; so does the message, which tells the client
        left -= n;
        unsent -= n;
        yield buffer.subarray(0, n);
      }
    }
  } finally {
    if (unsent > 0) {
      console.error(`http_server: ${printable(path)}: ${unsent} of ${length} bytes not sent`);
    }
  }
}

/** A page that lists a folder: what {@linkcode get} would give, folders first. */
function list(root: string, segments: string[]): Response {
  const [folders, files]: [string[], string[]] = [[], []];
  const names = Array.from(Deno.readDirSync(join(root, ...segments)), ({ name }) => name);
  for (const name of names.sort((a, b) => a.localeCompare(b, "en"))) {
    const { isFile, size = 0, mtime } = locate(root, [...segments, name])?.info ?? {};
    if (isFile === undefined) continue;
    const [slash, date] = [isFile ? "" : "/", mtime?.toISOString() ?? ""];
    (isFile ? files : folders).push(
      `<tr><td><a href="./${encodeURIComponent(name)}${slash}">${
        escape(printable(name))
      }${slash}</a>
<td>${isFile ? format(size) : ""}
<td><time datetime="${date}">${date.slice(0, 16).replace("T", " ")}</time>`,
    );
  }
  if (segments.length > 0) folders.unshift('<tr><td><a href="../">../</a><td><td>');
  const title = escape(printable(`/${segments.map((name) => `${name}/`).join("")}`));
  const html = `<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${title}</title>
<style>
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif }
body { max-width: 50rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.25rem; overflow-wrap: anywhere }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums }
tr { border-top: 1px solid color-mix(in srgb, currentColor 15%, transparent) }
td:not(:first-child) { padding-left: 1rem; text-align: right; vertical-align: top;
  white-space: nowrap; opacity: .7; line-height: 2.75 }
a { display: block; padding: .625rem 0; overflow-wrap: anywhere; text-decoration: none;
  color: light-dark(#0645ad, #8ab4f8) }
a[href$="/"] { font-weight: 600 }
a:is(:hover, :focus-visible) { text-decoration: underline }
@media (max-width: 32rem) { /* a telephone: the date below the name */
  tr { display: grid; grid-template-columns: 1fr auto }
  td:nth-child(3) { grid-row: 2; padding: 0 0 .5rem; text-align: left; line-height: 1 }
}
</style>
<h1>${title}</h1>
<table>
${[...folders, ...files].join("\n")}
</table>
`;
  return say(200, html, {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'",
  });
}

/** POST: stores the body, or answers what a form or JSON holds. */
async function post(request: Request, segments: string[], site: Site): Promise<Response> {
  // A page of another site may have the browser send it a form, or a file as text.
  const origin = request.headers.get("origin");
  if (origin && URL.parse(origin)?.host !== request.headers.get("host")) {
    return say(403, "for pages from here only\n");
  }
  if (site.upload && segments.length > 0) return await store(request, segments, site);
  const type = request.headers.get("content-type")?.split(";")[0].trim().toLowerCase();
  const isForm = type === "application/x-www-form-urlencoded";
  if (!isForm && type !== "application/json") return say(415, "neither a form nor JSON\n");
  const pieces = await Array.fromAsync(bodyOf(request, MAX_POST, site.idleTimeout));
  const text = new TextDecoder().decode(concat(pieces));
  if (isForm) {
    const form = new URLSearchParams(text);
    const fields = Array.from(new Set(form.keys()), (name) => {
      const values = form.getAll(name);
      return [name, values.length > 1 ? values : values[0]];
    });
    return sayJson(Object.fromEntries(fields));
  }
  try {
    return sayJson(JSON.parse(text));
  } catch (error) {
    return say(400, `not JSON: ${printable(reason(error))}\n`);
  }
}

function sayJson(value: unknown): Response {
  return say(200, JSON.stringify(value) + "\n", { "content-type": "application/json" });
}

/** Stores the body of a POST under a name that is not there yet, whole or not at all. */
async function store(request: Request, segments: string[], site: Site): Promise<Response> {
  const { upload = "", maxUpload, idleTimeout } = site;
  const name = segments.join("/");
  const length = new TextEncoder().encode(name).length;
  if (/^\.|[/\\]/.test(name) || printable(name) !== name || length > 255) {
    return say(403, "no name for a file: one name, without a dot first\n");
  }
  const path = join(upload, name);
  const unfinished = join(upload, `.${crypto.randomUUID()}.part`);
  try {
    using file = await Deno.open(unfinished, { write: true, createNew: true });
    for await (const piece of bodyOf(request, maxUpload, idleTimeout)) {
      for (let at = 0; at < piece.length;) at += await file.write(piece.subarray(at));
    }
    await Deno.link(unfinished, path); // unlike a rename it replaces nothing
  } catch (error) {
    if (error instanceof Deno.errors.AlreadyExists) return say(409, "the name is taken\n");
    throw error;
  } finally {
    await Deno.remove(unfinished).catch(() => {});
  }
  return say(201, "stored\n");
}

/** Throws, before anybody sends something, if nothing could be stored in the folder. */
async function tryToStore(dir: string): Promise<void> {
  const path = await Deno.makeTempFile({ dir }).catch((error) => {
    throw named(dir, error);
  });
  await Deno.remove(path);
}

/** A method's answer; another method is another line here. */
const METHODS = new Map<string, typeof get>([
  ["GET", get],
  ["HEAD", get],
  ["POST", post],
]);

/** Whether the request has the credentials (Basic, RFC 7617), compared in constant time. */
function isAuthorized({ headers }: Request, credentials: string): boolean {
  const [, given = ""] = /^basic +(\S+)$/i.exec(headers.get("authorization") ?? "") ?? [];
  try {
    return isSecret(decodeBase64(given), credentials);
  } catch {
    return false; // not base64
  }
}

/** A line of the common log format. Deno does not tell the version of HTTP. */
export function logLine(request: Request, response: Response, peer: string, user = "-"): string {
  const [, day, month, year, time] = new Date().toUTCString().split(" ");
  const target = request.url.replace(/^[^:]+:\/\/[^/?#]*/, "") || "*";
  const what = printable(`${request.method} ${target}`).replace(/["\\]/g, "\\$&");
  const host = peer.replace(/:\d+$/, "");
  if (response.status === 401) user = "-"; // somebody else
  const size = response.headers.get("content-length") ?? "-";
  const date = `${day}/${month}/${year}:${time} +0000`;
  return `${host} - ${user} [${date}] "${what} HTTP/-" ${response.status} ${size}`;
}

/** Prints a line of the log; `console.log()` takes three times as long. */
function print(line: string): void {
  try {
    Deno.stdout.writeSync(new TextEncoder().encode(`${line}\n`));
  } catch {
    // Whoever read the log has left.
  }
}

/** Makes the server's answers to all requests. */
export function handler(site: Site): HttpHandler {
  return async (request) => {
    if (site.credentials && !isAuthorized(request, site.credentials)) {
      return say(401, "who are you?\n", {
        "www-authenticate": 'Basic realm="files", charset="UTF-8"',
      });
    }
    const method = METHODS.get(request.method);
    if (!method) return say(405, "no such method\n", { allow: [...METHODS.keys()].join(", ") });
    const segments = segmentsOf(request.url);
    if (!segments) return say(400, "the path cannot be decoded\n");
    try {
      return await method(request, segments, site);
    } catch (error) {
      // For a file, but not for the folder that it stores in, this is the client's business.
      if (method === post || !(error instanceof Deno.errors.PermissionDenied)) throw error;
      return say(403, "it may not be read\n");
    }
  };
}

if (import.meta.main) {
  await main({
    name: "http_server",
    about: "Serves the files of the folder ROOT, or of this one, over HTTP.",
    usage: "[ROOT]",
    permissions: "--allow-net --allow-read",
    flags: {
      ...httpFlags(PORT),
      upload: optional("DIR", "store what is posted to /NAME there (--allow-write)"),
      maxUpload: flag("MB", "and at most so much of it", number(1, 1e6), "100"),
      user: optional("NAME", "ask for the password in HTTP_PASSWORD (--allow-env=HTTP_PASSWORD)"),
    },
  }, async (flags, root = ".") => {
    const { user } = flags;
    const password = user && Deno.env.get("HTTP_PASSWORD");
    if (user !== undefined && !password) throw new UsageError("--user: HTTP_PASSWORD is not set");
    if (user?.includes(":")) throw new UsageError("--user: a name has no colon"); // RFC 7617
    if (!(await Deno.stat(root)).isDirectory) throw new Error(`${root}: not a directory`);
    if (flags.upload) await tryToStore(flags.upload);
    const site = {
      ...flags,
      root: await Deno.realPath(root),
      maxUpload: flags.maxUpload * 1e6,
      credentials: user && `${user}:${password}`,
    };
    await serveHttp(flags, handler(site), {
      ...flags,
      signal: stopSignal(),
      answered: (request, response, peer) => print(logLine(request, response, peer, user)),
    });
  });
}
