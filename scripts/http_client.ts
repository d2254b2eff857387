#!/usr/bin/env -S deno run --allow-net
/**
 * An HTTP/1.1 client (RFC 9110, 9112) on two levels: `fetch()`, or a connection, `--by-hand`.
 *
 *     deno run --allow-net --allow-read scripts/http_server.ts lib
 *     deno run --allow-net scripts/http_client.ts --by-hand --trace http://127.0.0.1:8080/
 *
 * Mirrors "HTTP Clients" of tutorial 002, which has no listing, and the modules of 003's table:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `http.client.HTTPConnection(host)`, `sock.connect()` | `--by-hand`: `connect()` |
 * | `c.request("GET", "/")`, `sock.sendall(head)` | `exchange()`: `conn.writeAll()` |
 * | `c.getresponse()`, `sock.makefile("rb").readline()` | `exchange()`: `conn.readLine()` |
 * | `r.read(65536)` until it returns `b""` | `for await (const data of response.body)` |
 * | `urllib.request.urlopen(Request(url, data, headers))` | `fetch(url, { method, headers, body })` |
 * | `ssl.create_default_context(cafile=ca)` | `Deno.createHttpClient({ caCerts })` |
 *
 * `fetch()` also speaks HTTP/2, obeys `http_proxy`, and has rules of its own for redirects.
 *
 * @module
 */
import { deadline } from "@std/async/deadline";
import { connect, named, readPem, UsageError } from "../lib/address.ts";
import { clientFlags, main, optional, progressBar, stopSignal, toggle } from "../lib/cli.ts";
import { FramedConn, LimitError, printable, printableText, writeAll } from "../lib/framing.ts";

const MAX_HEAD = 65536; // characters
const MAX_INTERIM = 100; // responses before the final one
const MAX_REDIRECTS = 10;
const EXPECT_ABOVE = 65536; // octets of a body before which it asks whether to send it
const EXPECT_WAIT = 1000; // milliseconds for an answer to that, as many servers give none

// What fetch() says names the URL, which may be a redirect's, and each layer: the last one knows.
const CAUSE = /(https?:[^ )]+).*client error \(\w+\): (?:[\w ]+ error: )?(.*)/;
const OWN = /^(connection|content-length|expect|host|transfer-encoding)$/i; // headers
const USABLE = /^https?:\/\/[^/@]+\//; // a password in it would go astray (RFC 9110, 4.2.4)

type Octets = Uint8Array<ArrayBuffer>;
type Body = AsyncIterable<Octets>; // each piece valid until the next
type Fields = Map<string, string>; // by their names in lower case
type Found = HttpResponse & { url: URL }; // the last one, after redirects
// Milliseconds for each reply, and what keeps open what a body comes from.
type Options = { timeout: number; ca?: string; trace?: boolean; held: DisposableStack };

/** A request. Its `headers` do not say how it is framed, nor to whom it goes. */
export type HttpRequest = { method: string; url: URL; headers: Headers; body?: Octets };

/** A response whose body is still to come. */
export type HttpResponse = { status: number; reason: string; headers: Fields; body: Body };

/** Sends a request on a connection of its own, then whatever it is redirected to. */
async function byHand(request: HttpRequest, options: Options): Promise<Found> {
  for (let i = 0; i <= MAX_REDIRECTS; i++) {
    const { url } = request;
    const tls = url.protocol === "https:";
    const host = url.hostname.replace(/^\[|\]$/g, ""); // of an IPv6 address
    const port = Number(url.port || (tls ? 443 : 80));
    const tcp = await connect({ ...options, host, port, tls, ca: tls ? options.ca : undefined });
    const conn = options.held.use(new FramedConn(tcp, options));
    const response = await exchange(conn, request).catch((error) => {
      throw named(url.host, error);
    });
    const next = redirected(request, response);
    if (!next) return { ...response, url };
    request = next;
    conn.close();
  }
  throw new Error(`${request.url}: redirected more than ${MAX_REDIRECTS} times`);
}

/** The request that a response redirects to (RFC 9110, 15.4), or undefined if it does not. */
export function redirected(sent: HttpRequest, got: HttpResponse): HttpRequest | undefined {
  const [{ method, url, body }, { status }] = [sent, got];
  const location = got.headers.get("location");
  if (![301, 302, 303, 307, 308].includes(status) || location === undefined) return undefined;
  const next = URL.parse(location, url);
  const unsafe = url.protocol === "https:" && next?.protocol === "http:";
  if (!next || !USABLE.test(next.href) || unsafe) throw wrong(`${url}: will not follow`, location);
  const headers = new Headers(sent.headers);
  // One server's secrets are no other's business.
  const secrets = next.origin === url.origin ? [] : ["authorization", "cookie"];
  for (const name of secrets) headers.delete(name);
  if (method === "GET" || status > 303) return { method, url: next, headers, body };
  headers.delete("content-type"); // 303 says GET; 301 and 302 came to mean it after a POST, too
  return { method: "GET", url: next, headers };
}

/**
 * Sends a request and reads the head of its response. A large body is sent when the server asks
 * for it or says nothing, but not if it refuses (RFC 9110, 10.1.1).
 *
 * @throws {Error} if the head, or later the body, ends too early or is not as RFC 9112 has it; a
 * {@linkcode LimitError} if the head is too large.
 */
export async function exchange(conn: FramedConn, request: HttpRequest): Promise<HttpResponse> {
  const { method, url, headers, body } = request;
  const ask = body !== undefined && body.length > EXPECT_ABOVE;
  let head = `${method} ${url.pathname}${url.search} HTTP/1.1\r\nhost: ${url.host}\r\n`;
  for (const [k, v] of [["connection", "close"], ...headers]) head += `${k}: ${v}\r\n`;
  if (body) head += `content-length: ${body.length}\r\n`;
  if (ask) head += "expect: 100-continue\r\n";
  await conn.writeAll(`${head}\r\n`, `${head}\r\n`.replace(/^(authorization: ).*$/m, "$1***"));
  // Read while the body is sent: who refuses it may hang up before all of it is there. Whatever
  // else fails then, it is the response that counts.
  const wanted = Promise.withResolvers<void>();
  const response = readResponse(conn, wanted.resolve);
  const refused = ask &&
    await deadline(Promise.race([wanted.promise, response]), EXPECT_WAIT).catch(() => {});
  if (body && !refused) await Promise.race([conn.writeAll(body), response]).catch(() => {});
  return await response;
}

/** Reads heads (RFC 9112, 4) until one is final, and tells of 100. */
async function readResponse(conn: FramedConn, onContinue: () => void): Promise<HttpResponse> {
  for (let i = 0; i <= MAX_INTERIM; i++) {
    const line = await conn.readLine();
    if (line === null) throw new Error("hung up without an answer");
    const [, version, code, reason = ""] = /^HTTP\/(1\.\d) ([1-9]\d\d)(?: (.*))?$/.exec(line) ?? [];
    if (!code) throw wrong("not an answer in HTTP/1.1", line);
    const [status, headers] = [Number(code), await readFields(conn)];
    if (status === 100) onContinue();
    if (status < 200) continue;
    return { status, reason, headers, body: bodyOf(conn, version, status, headers) };
  }
  throw new LimitError(`more than ${MAX_INTERIM} interim responses`);
}

/** Reads fields up to an empty line (RFC 9112, 5), but none in folded lines, which are obsolete. */
async function readFields(conn: FramedConn): Promise<Fields> {
  const fields: Fields = new Map();
  for (let size = 0; size <= MAX_HEAD;) {
    const line = await conn.readLine() ?? "nothing";
    if (line === "") return fields;
    const [, name, value] = /^([!#$%&'*+.^`|~\w-]+):([^\r\0]*)$/.exec(line) ?? [];
    if (name === undefined) throw wrong("not a header", line);
    const [key, before] = [name.toLowerCase(), fields.get(name.toLowerCase())];
    fields.set(key, before === undefined ? value.trim() : `${before}, ${value.trim()}`);
    size += line.length + 2;
  }
  throw new LimitError(`headers of more than ${MAX_HEAD} bytes`);
}

/** The body that follows a head, by the rules of RFC 9112, 6.3, in their order. */
function bodyOf(conn: FramedConn, version: string, status: number, headers: Fields): Body {
  const [coding, length] = [headers.get("transfer-encoding"), headers.get("content-length")];
  if (status === 204 || status === 304) return take(conn, 0);
  if (coding !== undefined) {
    // Who frames a body in two ways, or as HTTP/1.0 cannot, may mean another than we would read.
    const plain = version !== "1.0" && length === undefined;
    if (plain && coding.toLowerCase() === "chunked") return readChunks(conn);
    throw wrong(`HTTP/${version} with a Transfer-Encoding that cannot be read`, coding);
  }
  if (length === undefined) return take(conn);
  if (!/^\d{1,15}$/.test(length)) throw wrong("not a Content-Length", length);
  return take(conn, Number(length));
}

/** The next `size` octets, or all up to the end. */
async function* take(conn: FramedConn, size = Infinity): Body {
  for (let left = size; left > 0;) {
    const data = await conn.readSome(left);
    if (data === null && size === Infinity) return;
    if (data === null) throw new Error(`connection ended, ${left} bytes are missing`);
    left -= data.length;
    yield data;
  }
}

/** What is in chunks (RFC 9112, 7.1), without their extensions and trailers. */
async function* readChunks(conn: FramedConn): Body {
  for (;;) {
    const line = await conn.readLine() ?? "nothing";
    const [, digits] = /^([\da-f]{1,12})[ \t]*(?:;.*)?$/i.exec(line) ?? [];
    if (!digits) throw wrong("not the size of a chunk", line);
    const size = parseInt(digits, 16);
    if (size === 0) break;
    yield* take(conn, size);
    const [cr, lf] = await conn.readExactly(2);
    if (cr !== 0x0d || lf !== 0x0a) throw new Error("a chunk is longer than its size");
  }
  await readFields(conn);
}

function wrong(what: string, text: string): Error {
  return new Error(`${what}: ${text.slice(0, 80)}`);
}

/** The same by `fetch()`, which waits for ever unless it is told to abort. */
async function byFetch({ url, ...init }: HttpRequest, options: Options): Promise<Found> {
  const { ca, timeout, held } = options;
  const client = held.use(Deno.createHttpClient({ caCerts: ca ? [await readPem(ca)] : [] }));
  const abort = held.adopt(new AbortController(), (abort) => abort.abort(new Error("closed")));

  function bounded<T>(reply: Promise<T>): Promise<T> {
    const late = new Deno.errors.TimedOut(`no answer within ${timeout / 1000} s (--timeout)`);
    const timer = setTimeout(() => abort.abort(late), timeout);
    return reply.finally(() => clearTimeout(timer));
  }

  async function* pieces(reader?: ReadableStreamDefaultReader<Octets>): Body {
    for (let read; reader && !(read = await bounded(reader.read())).done;) yield read.value;
  }

  try {
    const response = await bounded(fetch(url, { ...init, client, signal: abort.signal }));
    const { status, statusText: reason, headers, body } = response;
    const found = { status, reason, headers: new Map(headers), url: new URL(response.url) };
    return { ...found, body: pieces(body?.getReader()) };
  } catch (error) {
    const [, at = url, why] = CAUSE.exec(`${(error as Error).cause}`) ?? [];
    throw named(new URL(at).host, why ? new Error(why) : error);
  }
}

/**
 * Writes the body as the file at `path`, whole or not at all. Without one it prints the octets as
 * they are, but on a terminal as text that cannot drive it.
 */
async function receive({ url, headers, body }: Found, path?: string): Promise<void> {
  const part = `${path}.${Deno.pid}.part`;
  using file = path ? await Deno.create(part) : undefined;
  const out = file ?? Deno.stdout;
  const total = headers.get("content-length");
  const draw = file && total ? progressBar(Number(total)) : () => {};
  const decoder = new TextDecoder();
  let size = 0;
  const pieces = (async function* () {
    try {
      yield* body;
    } catch (error) {
      throw named(`${url.host}: after ${total ? `${size} of ${total}` : size} bytes`, error);
    }
  })();
  try {
    draw(size);
    for await (let data of pieces) {
      size += data.length;
      if (out.isTerminal()) {
        const text = decoder.decode(data, { stream: true }).replaceAll("\r", "");
        data = new TextEncoder().encode(printableText(text));
      }
      await writeAll(out, data);
      draw(size);
    }
    if (path) await Deno.rename(part, path);
  } catch (error) {
    if (path) await Deno.remove(part);
    throw error;
  }
}

/** Reads `Name: value` of headers that this client does not write itself. */
function parseHeaders(given: string[]): Headers {
  const headers = new Headers();
  for (const text of given) {
    const [, name, value] = /^([!#$%&'*+.^`|~\w-]+):([\t -~]*)$/.exec(text) ?? [];
    if (name === undefined) throw new UsageError(`not "Name: value": ${text}`);
    if (OWN.test(name)) throw new UsageError(`http_client writes the header ${name} itself`);
    headers.append(name, value);
  }
  return headers;
}

if (import.meta.main) {
  const { timeout, trace, ca } = clientFlags(80);
  await main({
    name: "http_client",
    about: "Gets what is at URL, or posts to it (RFC 9110, 9112).",
    usage: "URL",
    permissions: "--allow-net",
    flags: {
      byHand: toggle("speak HTTP/1.1 on a connection instead of fetch()"),
      data: optional("TEXT", "POST it, as a form does: name=value&name=value"),
      json: optional("TEXT", "POST it, as JSON"),
      header: { argument: "TEXT", help: '"Name: value"; may be repeated', parse: parseHeaders },
      output: optional("FILE", "write the body there, whole or not (--allow-read, --allow-write)"),
      timeout,
      trace,
      ca,
    },
  }, async ({ data, json, output, ...flags }, text) => {
    const url = URL.parse(text);
    if (!url || !USABLE.test(url.href)) {
      throw new UsageError("URL must start with http:// or https:// and have no user or password");
    }
    if (data && json) throw new UsageError("--data and --json do not go together");
    if (flags.trace && !flags.byHand) {
      throw new UsageError("--trace needs --by-hand: fetch() hides the wire");
    }
    // A rename would put a file in the place of `/dev/null`.
    const odd = output && await Deno.stat(output).then(({ isFile }) => !isFile, () => false);
    if (odd) throw new UsageError(`--output: ${output} is no file`);
    const headers = new Headers({ "accept-encoding": "identity", "user-agent": "http_client" });
    const body = data || json ? new TextEncoder().encode(data ?? json) : undefined;
    const type = json ? "application/json" : "application/x-www-form-urlencoded";
    if (body) headers.set("content-type", type);
    for (const [name, value] of flags.header) headers.set(name, value);
    const request = { method: body ? "POST" : "GET", url, headers, body };
    using held = new DisposableStack();
    const response = await (flags.byHand ? byHand : byFetch)(request, { ...flags, held });
    const stop = stopSignal();
    stop.addEventListener("abort", () => held.dispose());
    const { status, reason } = response;
    if (status >= 300) console.error(`${flags.name}: ${printable(`${status} ${reason}`)}`);
    await receive(response, status < 300 ? output : undefined).catch((error) => {
      if (!stop.aborted) throw error;
    });
    if (stop.aborted) return 130; // as of a program that Ctrl-C ends
    return status < 400 ? 0 : 1;
  });
}
