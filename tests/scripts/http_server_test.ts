import { assert, assertEquals, assertMatch } from "@std/assert";
import { concat } from "@std/bytes/concat";
import type { Endpoint } from "../../lib/address.ts";
import type { FramedConn } from "../../lib/framing.ts";
import { logLine, ranges } from "../../scripts/http_server.ts";
import { command, missing, Program, run, start, temporaryFolder } from "../helpers.ts";
import { dial, eventually } from "../peers/peers.ts";
import { FILES, forms } from "./rig.ts";

/** A line of the common log format: client, user, date, request line, status, octets. */
const LINE =
  /^(\S+) - (\S+) \[(\d\d\/[A-Z][a-z]{2}\/\d{4}(?::\d\d){3} [+-]\d{4})\] "((?:[^"\\\p{Cc}]|\\\P{Cc})*)" (\d{3}) (\d+|-)$/u;

/** An answer; `body` has a character for each octet. */
type Answer = { status: number; headers: Headers; body: string };

const bytes = (text: string) => Uint8Array.from(text, (letter) => letter.charCodeAt(0));
const utf8 = (body: string) => new TextDecoder().decode(bytes(body));

/** What is sent for a request: the target as it is, whatever it is. */
function message(
  line: string,
  fields: Record<string, string> = {},
  body: string | Uint8Array = "",
): Uint8Array {
  const octets = typeof body === "string" ? new TextEncoder().encode(body) : body;
  const length = octets.length > 0 ? { "content-length": `${octets.length}` } : {};
  const all = { host: "localhost", connection: "close", ...length, ...fields };
  const head = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`).join("");
  const version = / HTTP\/1\.\d$/.test(line) ? "" : " HTTP/1.1";
  return concat([new TextEncoder().encode(`${line}${version}\r\n${head}\r\n`), octets]);
}

/** Reads an answer to its end, which is the connection's, and checks what holds for every one. */
async function answerOf(conn: FramedConn, line = "GET"): Promise<Answer> {
  const octets = await conn.readToEnd(1e8);
  let text = "";
  for (let at = 0; at < octets.length; at += 8192) {
    text += String.fromCharCode(...octets.subarray(at, at + 8192));
  }
  const [, status, head, body] =
    /^HTTP\/1\.[01] (\d{3}) [^\r\n]*\r\n(.*?)\r\n\r\n(.*)$/s.exec(text) ??
      [];
  assert(status, `${line}: ${text.slice(0, 200)}`);
  const fields = head.split("\r\n").map((field) => /^([^:\s]+): (.*)$/.exec(field)?.slice(1));
  const headers = new Headers(fields as [string, string][]);
  const silent = line.startsWith("HEAD ") || status === "304";
  const length = silent ? 0 : Number(headers.get("content-length"));
  assertEquals(body.length, length, `${line}: ${text.slice(0, 300)}`);
  return { status: Number(status), headers, body };
}

/** Asks over a connection of its own. */
async function ask(
  to: number | Partial<Endpoint>,
  line: string,
  fields: Record<string, string> = {},
  body: string | Uint8Array = "",
): Promise<Answer> {
  using conn = await dial(to);
  await conn.writeAll(message(line, fields, body));
  return await answerOf(conn, line);
}

/** The status of an answer to a request whose body does not come, after which Deno waits for it. */
async function statusOf(
  port: number,
  line: string,
  fields: Record<string, string>,
): Promise<number> {
  using conn = await dial(port);
  await conn.writeAll(message(line, fields));
  return Number(/^HTTP\/1\.1 (\d{3}) /.exec(await conn.readLine() ?? "")?.[1]);
}

/** A server under way, the folder it serves and the one it stores in. */
type Rig = AsyncDisposable & { server: Program; port: number; root: string; up: string };

/** Starts a server of a few files; `before` goes before its command. */
async function rig(
  flags: string[] = [],
  { env, before = [], permissions = [] }: {
    env?: Record<string, string>;
    before?: string[];
    permissions?: string[];
  } = {},
): Promise<Rig> {
  await using used = new AsyncDisposableStack();
  const { path } = used.use(await temporaryFolder());
  const [root, up] = [`${path}/root`, `${path}/up`];
  await Deno.mkdir(`${root}/sub`, { recursive: true });
  await Deno.mkdir(up);
  await Deno.writeTextFile(`${root}/ten`, "0123456789");
  await Deno.writeTextFile(`${root}/sub/inner.txt`, "inner");
  await Deno.writeTextFile(`${path}/secret`, "SECRET");
  const given = flags.map((flag) => flag === "UP" ? up : flag);
  const argv = [...before, ...command("http_server", permissions), "--port", "0", ...given, root];
  const server = used.use(new Program(argv, env ? { env } : {}));
  const moved = used.move();
  try {
    const port = await server.port();
    return { server, port, root, up, [Symbol.asyncDispose]: () => moved.disposeAsync() };
  } catch (error) {
    await moved.disposeAsync();
    throw error;
  }
}

/** One that stores. */
const storing = (...flags: string[]) =>
  rig(["--upload", "UP", ...flags], { permissions: ["--allow-write"] });

const namesIn = (folder: string) => [...Deno.readDirSync(folder)].map(({ name }) => name).sort();

/** A test that starts the server. */
function test(name: string, fn: () => Promise<void>, ...needs: string[]): void {
  Deno.test({ name: `http_server: ${name}`, ignore: missing(...needs), fn });
}

Deno.test("http_server: ranges() reads every form of the header", () => {
  const cases: [header: string | null, expected: [number, number][] | undefined][] = [
    [null, undefined],
    ["bytes=0-0", [[0, 1]]],
    ["bytes=2-5", [[2, 6]]],
    ["bytes=7-", [[7, 10]]],
    ["bytes=-3", [[7, 10]]],
    ["bytes=-10", [[0, 10]]],
    ["bytes=-99", [[0, 10]]],
    ["bytes=8-99", [[8, 10]]],
    ["bytes=0-99999999999999999999999", [[0, 10]]],
    ["bytes=0-0,9-9", [[0, 1], [9, 10]]],
    ["bytes=0-0, 2-3 ,\t-1", [[0, 1], [2, 4], [9, 10]]],
    ["bytes=9-9,0-0", [[9, 10], [0, 1]]], // in the order asked for
    ["bytes=0-0,99-", [[0, 1]]], // what is there, at least
    ["BYTES=0-0", [[0, 1]]], // units are case-insensitive
    ["bytes=10-", []],
    ["bytes=10-11", []],
    ["bytes=-0", []],
    ["bytes=99-,100-200", []],
    ["bytes=0-5,2-9", undefined], // some of it twice, together more than all
    ["bytes=" + Array(1000).fill("0-").join(","), undefined],
    ["bytes=5-2", undefined],
    ["bytes=0-0,5-2", undefined],
    ["bytes=-", undefined],
    ["bytes=", undefined],
    ["bytes=a-b", undefined],
    ["bytes=1", undefined],
    ["bytes=0x1-2", undefined],
    ["bytes=--1", undefined],
    ["bytes=1-2-3", undefined],
    ["bytes=1.5-2", undefined],
    ["bytes 0-1", undefined],
    ["lines=0-1", undefined],
    ["", undefined],
  ];
  for (const [header, expected] of cases) {
    const found = ranges(header, 10)?.map(({ start, end }): [number, number] => [start, end]);
    assertEquals(found, expected, `${header?.slice(0, 40)}`);
  }
  assertEquals(ranges("bytes=0-", 0), []);
  assertEquals(ranges("bytes=-1", 0), []);
});

Deno.test("http_server: logLine() is a line of the common log format, whatever was sent", () => {
  const answer = new Response(null, { headers: { "content-length": "5" } });
  const [, client, user, date, what, status, size] =
    LINE.exec(logLine(new Request("http://x/a?b"), answer, "192.0.2.7:5", "ann")) ?? [];
  assertEquals([client, user, what.replace(/[^ ]*$/, ""), status, size], [
    "192.0.2.7",
    "ann",
    "GET /a?b ",
    "200",
    "5",
  ]);
  const [, day, month, rest] = /^(\d\d)\/(\w+)\/(.*)$/.exec(date) ?? [];
  const logged = Date.parse(`${day} ${month} ${rest.replace(":", " ")}`);
  assert(Math.abs(Date.now() - logged) < 60_000, date);
  for (const path of ['"', "\\", '" 200 5\n', "\x1b[2J", "\u202e", "%0d%0a", '\\" 404 -']) {
    // A URL would encode some of this by itself.
    const request = { method: "GET", url: `http://x/${path}`, headers: new Headers() } as Request;
    assertMatch(logLine(request, new Response(), "[::1]:5"), LINE, JSON.stringify(path));
  }
});

test("a file's octets, type and validators; a folder's index.html; what is not there", async () => {
  await using site = await rig();
  const { port, root } = site;
  const big = crypto.getRandomValues(new Uint8Array(60_000));
  const large = concat(Array(20).fill(big)); // more than is read at once
  await Deno.writeFile(`${root}/large.bin`, large);
  await Deno.utime(`${root}/large.bin`, 1e9, 1e9);
  const { status, headers, body } = await ask(port, "GET /large.bin");
  assertEquals(status, 200);
  assert(body.length === large.length && bytes(body).every((octet, i) => octet === large[i]));
  assertEquals(headers.get("content-type"), "application/octet-stream");
  assertEquals(headers.get("last-modified"), "Sun, 09 Sep 2001 01:46:40 GMT");
  assertEquals(headers.get("accept-ranges"), "bytes");
  assertMatch(headers.get("etag") ?? "", /^"[!#-~]+"$/);

  const types: Record<string, RegExp> = {
    "a.html": /^text\/html; charset=utf-8$/i,
    "A.HTML": /^text\/html; charset=utf-8$/i,
    "a.css": /^text\/css; charset=utf-8$/i,
    "a.js": /^(text|application)\/javascript/,
    "a.json": /^application\/json/,
    "a.txt": /^text\/plain; charset=utf-8$/i,
    "a.svg": /^image\/svg\+xml/,
    "a.png": /^image\/png$/,
    "a.jpg": /^image\/jpeg$/,
    "a.pdf": /^application\/pdf$/,
    "a.wasm": /^application\/wasm$/,
    "a.mp4": /^video\/mp4$/,
    "a.woff2": /^font\/woff2$/,
    "a.unknown": /^application\/octet-stream$/,
    "html": /^application\/octet-stream$/,
    ".html": /^application\/octet-stream$/,
  };
  for (const [name, type] of Object.entries(types)) {
    await Deno.writeTextFile(`${root}/${name}`, name);
    const { status, headers, body } = await ask(port, `GET /${name}?q=1`);
    assertEquals([status, body], [200, name]);
    assertMatch(headers.get("content-type") ?? "", type, name);
  }
  await Deno.writeTextFile(`${root}/empty.txt`, "");
  const empty = await ask(port, "GET /empty.txt");
  assertEquals([empty.status, empty.headers.get("content-length"), empty.body], [200, "0", ""]);

  await Deno.writeTextFile(`${root}/sub/index.html`, "<p>index");
  const index = await ask(port, "GET /sub/");
  assertEquals([index.status, index.body], [200, "<p>index"]);
  assertMatch(index.headers.get("content-type") ?? "", /^text\/html/);
  const redirect = await ask(port, "GET /sub");
  assertEquals([redirect.status, redirect.headers.get("location")], [301, "/sub/"]);
  // Not `//host/...`, which would lead to another server.
  await Deno.mkdir(`${root}/evil.test/x`, { recursive: true });
  const inner = await ask(port, "GET //evil.test/x");
  assertEquals([inner.status, inner.headers.get("location")], [301, "/evil.test/x/"]);
  for (const target of ["/none", "/none/", "/ten/", "/ten/x", "/sub/none", "/none/index.html"]) {
    const { status, headers } = await ask(port, `GET ${target}`);
    assertEquals([status, headers.get("content-type")], [404, "text/plain; charset=utf-8"], target);
  }
});

test("of many small files asked for at once everybody gets their own", async () => {
  await using site = await rig();
  const contents = Array.from({ length: 100 }, (_, i) => `${i} `.repeat(10_000));
  for (const [i, text] of contents.entries()) await Deno.writeTextFile(`${site.root}/${i}`, text);
  await Promise.all(contents.map(async (text, i) => {
    const range = { range: "bytes=5-" };
    assertEquals((await ask(site.port, `GET /${i}`)).body === text, true, `${i}`);
    assertEquals((await ask(site.port, `GET /${i}`, range)).body === text.slice(5), true, `${i}`);
  }));
});

test("HEAD has the headers of GET and no body", async () => {
  await using site = await rig();
  const { port, root } = site;
  await Deno.writeFile(`${root}/large`, new Uint8Array(1e6));
  const etag = (await ask(port, "GET /ten")).headers.get("etag") ?? "";
  const cases: [target: string, fields?: Record<string, string>][] = [
    ["/"],
    ["/ten"],
    ["/large"],
    ["/sub"],
    ["/sub/"],
    ["/none"],
    ["/%ff"],
    ["/ten", { "if-none-match": etag }],
    ["/ten", { "if-match": '"other"' }],
  ];
  for (const [target, fields] of cases) {
    const [get, head] = [
      await ask(port, `GET ${target}`, fields),
      await ask(port, `HEAD ${target}`, fields),
    ];
    const shown = ({ status, headers }: Answer) =>
      [status, ...headers].filter((field) => !/^date,/.test(`${field}`));
    assertEquals(shown(head), shown(get), target);
  }
  // RFC 9110, 14.2: a range is for GET only.
  assertEquals((await ask(port, "HEAD /ten", { range: "bytes=0-1" })).status, 200);
});

test("ranges: one, several as multipart/byteranges, none that is there", async () => {
  await using site = await rig();
  const { port, root } = site;
  const get = (range: string, target = "/ten", fields = {}) =>
    ask(port, `GET ${target}`, { range, ...fields });
  const single: [range: string, body: string, where: string][] = [
    ["bytes=0-0", "0", "0-0"],
    ["bytes=2-5", "2345", "2-5"],
    ["bytes=7-", "789", "7-9"],
    ["bytes=-3", "789", "7-9"],
    ["bytes=-99", "0123456789", "0-9"],
    ["bytes=8-99", "89", "8-9"],
    ["bytes=0-9", "0123456789", "0-9"],
    ["bytes=99-,3-3", "3", "3-3"],
  ];
  for (const [range, expected, where] of single) {
    const { status, headers, body } = await get(range);
    assertEquals([status, body], [206, expected], range);
    assertEquals(headers.get("content-range"), `bytes ${where}/10`, range);
    assertEquals(headers.get("content-type"), "application/octet-stream");
    assert(headers.has("etag") && headers.has("last-modified"), range);
  }
  for (const range of ["bytes=10-", "bytes=99-100", "bytes=-0", "bytes=10-,20-"]) {
    const { status, headers } = await get(range);
    assertEquals([status, headers.get("content-range")], [416, "bytes */10"], range);
  }
  for (const range of ["bytes=5-2", "bytes=x", "lines=0-1", "bytes=0-,0-,0-", "bytes=0-6,4-9"]) {
    const { status, headers, body } = await get(range);
    assertEquals([status, body, headers.get("content-range")], [200, "0123456789", null], range);
  }

  const octets = crypto.getRandomValues(new Uint8Array(60_000));
  await Deno.writeFile(
    `${root}/large.png`,
    concat([octets, octets, octets, octets, octets, octets]),
  );
  const wanted = [[0, 0], [59_999, 200_000], [359_999, 359_999]];
  const several = await get(
    `bytes=${wanted.map(([first, last]) => `${first}-${last}`).join(", ")}`,
    "/large.png",
  );
  assertEquals([several.status, several.headers.get("content-range")], [206, null]);
  const [, boundary] = /^multipart\/byteranges; boundary=([\w-]{1,70})$/.exec(
    several.headers.get("content-type") ?? "",
  ) ??
    [];
  assert(boundary, `${several.headers.get("content-type")}`);
  const [before, ...parts] = several.body.split(`\r\n--${boundary}`);
  assertEquals([before, parts.pop(), parts.length], ["", "--\r\n", wanted.length]);
  for (const [i, part] of parts.entries()) {
    const [first, last] = wanted[i];
    const [, head, body] = /^\r\n(.*?)\r\n\r\n(.*)$/s.exec(part) ?? [];
    assertEquals(
      head.toLowerCase().split("\r\n").sort(),
      [`content-range: bytes ${first}-${last}/360000`, "content-type: image/png"],
    );
    const data = bytes(body);
    assertEquals(data.length, last - first + 1);
    assert(data.every((octet, at) => octet === octets[(first + at) % 60_000]), `part ${i}`);
  }
  assertEquals((await ask(port, "GET /", { range: "bytes=0-0" })).status, 200, "not of a listing");
});

test("conditions: If-Match, If-None-Match and the dates, in the order of RFC 9110", async () => {
  await using site = await rig();
  const { port, root } = site;
  await Deno.utime(`${root}/ten`, 1e9, 1e9);
  const [same, old, later] = [
    "Sun, 09 Sep 2001 01:46:40 GMT",
    "Sun, 09 Sep 2001 01:46:39 GMT",
    "Sun, 09 Sep 2001 01:46:41 GMT",
  ];
  const first = await ask(port, "GET /ten");
  const etag = first.headers.get("etag") ?? "";
  assertEquals((await ask(port, "GET /ten")).headers.get("etag"), etag);
  const cases: [fields: Record<string, string>, status: number][] = [
    [{ "if-none-match": etag }, 304],
    [{ "if-none-match": `W/${etag}` }, 304], // compared weakly
    [{ "if-none-match": `"x", ${etag}` }, 304],
    [{ "if-none-match": `"x",${etag},"y"` }, 304],
    [{ "if-none-match": `"x" , ${etag} , "y"` }, 304],
    [{ "if-none-match": "*" }, 304],
    [{ "if-none-match": '"x"' }, 200],
    [{ "if-none-match": etag.slice(1, -1) }, 200],
    [{ "if-none-match": '"x"', "if-modified-since": same }, 200], // the date does not count then
    [{ "if-none-match": etag, "if-modified-since": old }, 304],
    [{ "if-modified-since": same }, 304],
    [{ "if-modified-since": later }, 304],
    [{ "if-modified-since": old }, 200],
    [{ "if-modified-since": "yesterday" }, 200],
    [{ "if-match": etag }, 200],
    [{ "if-match": "*" }, 200],
    [{ "if-match": `"x", ${etag}` }, 200],
    [{ "if-match": '"x"' }, 412],
    [{ "if-match": `W/${etag}` }, 412], // compared strongly
    [{ "if-match": '"x"', "if-none-match": etag }, 412],
    [{ "if-match": etag, "if-none-match": etag }, 304],
    [{ "if-match": etag, "if-unmodified-since": old }, 200],
    [{ "if-unmodified-since": same }, 200],
    [{ "if-unmodified-since": old }, 412],
    [{ "if-unmodified-since": "yesterday" }, 200],
    [{ range: "bytes=0-1", "if-none-match": etag }, 304],
    [{ range: "bytes=99-", "if-match": '"x"' }, 412],
    [{ range: "bytes=0-1", "if-range": etag }, 206],
    [{ range: "bytes=0-1", "if-range": same }, 206],
    [{ range: "bytes=0-1", "if-range": `W/${etag}` }, 200],
    [{ range: "bytes=0-1", "if-range": '"x"' }, 200],
    [{ range: "bytes=0-1", "if-range": old }, 200],
    [{ range: "bytes=0-1", "if-range": later }, 200], // it has to be the very date
    [{ range: "bytes=99-", "if-range": '"x"' }, 200],
    [{ "if-range": etag }, 200],
  ];
  for (const [fields, status] of cases) {
    const answer = await ask(port, "GET /ten", fields);
    assertEquals(answer.status, status, JSON.stringify(fields));
    if (status === 304) assertEquals(answer.headers.get("etag"), etag);
    if (status === 304) assertEquals(answer.headers.get("last-modified"), same);
  }
  await Deno.writeTextFile(`${root}/ten`, "9876543210");
  await Deno.utime(`${root}/ten`, 1e9 + 1, 1e9 + 1);
  const changed = await ask(port, "GET /ten", { "if-none-match": etag });
  assertEquals([changed.status, changed.body], [200, "9876543210"], "as long, but another");
  assert(changed.headers.get("etag") !== etag);
});

/** What escapes of HTML stand for. */
const UNESCAPED: Record<string, string> = {
  "&lt;": "<",
  "&gt;": ">",
  "&amp;": "&",
  "&quot;": '"',
  "&#39;": "'",
};

test("a listing: every link leads to its file, and no name is anything but text", async () => {
  await using site = await rig();
  const { port, root } = site;
  const shown: Record<string, string> = {
    "<b>&": "<b>&",
    "<script>alert(1)<!--": "<script>alert(1)<!--",
    "&lt;": "&lt;",
    "a\"b'c": "a\"b'c",
    "new\nline": "new\\nline",
    "tab\t": "tab\\t",
    "\x1b[2J": "\\x1b[2J",
    " two  spaces ": " two  spaces ",
    "q?#%": "q?#%",
    "%41": "%41",
    "+": "+",
    "a;b=c&d": "a;b=c&d",
    "http:example.test": "http:example.test",
    "javascript:alert(1)": "javascript:alert(1)",
    "日本語 ünïcødé 😀": "日本語 ünïcødé 😀",
    "bidi\u202etxt.exe": "bidi\\u202etxt.exe",
    ".hidden": ".hidden",
    "~": "~",
    ["x".repeat(255)]: "x".repeat(255),
  };
  for (const name of Object.keys(shown)) await Deno.writeTextFile(`${root}/${name}`, name);
  await Deno.mkdir(`${root}/<i>&"`);
  await Deno.writeTextFile(`${root}/<i>&"/in`, "in");
  await Deno.symlink("ten", `${root}/a link`);
  await Deno.symlink("sub", `${root}/a link to sub`);
  await Deno.symlink("../secret", `${root}/out`);
  await Deno.symlink("..", `${root}/parent`);
  await Deno.symlink("nowhere", `${root}/dangling`);
  await Deno.mkdir(`${root}/sub/index.html`); // no file, so no index
  await Deno.writeFile(`${root}/ten`, new Uint8Array(1_234_567));
  await Deno.utime(`${root}/ten`, 1e9, 1e9);

  const { status, headers, body } = await ask(port, "GET /");
  const html = utf8(body);
  assertEquals([status, headers.get("content-type")], [200, "text/html; charset=utf-8"]);
  assertMatch(headers.get("content-security-policy") ?? "", /^default-src 'none'/);
  assert(!/[^\n\P{Cc}]|[\u202a-\u202e]/u.test(html), "control characters");
  assertMatch(html, /<meta name="viewport" content="width=device-width, initial-scale=1">/);
  assertMatch(html, /color-scheme: light dark/);
  const text = (escaped: string) => escaped.replace(/&.*?;/g, (entity) => UNESCAPED[entity] ?? "?");
  const links = [...html.matchAll(/<a href="([^"<>]*)">([^<>"]*)<\/a>/g)]
    .map(([, href, label]) => ({ href: text(href), label: text(label) }));
  assertEquals(links.length, html.match(/<a\b/g)?.length);
  const folders = ['<i>&"/', "a link to sub/", "sub/"];
  const expected = [...folders, "a link", "ten", ...Object.values(shown)];
  assertEquals(links.map(({ label }) => label).sort(), expected.sort());
  assertEquals(links.slice(0, 3).map(({ label }) => label).sort(), folders.sort(), "folders first");
  const base = `http://127.0.0.1:${port}/`;
  for (const { href, label } of links) {
    const url = new URL(href, base);
    assertEquals(url.origin + "/", base, href);
    const { status, body } = await ask(port, `GET ${url.pathname}${url.search}`);
    assertEquals(status, 200, label);
    const [name] = Object.entries(shown).find(([, shown]) => shown === label) ?? [];
    if (name) assertEquals(utf8(body), name);
  }
  const row = html.split("<tr>").find((row) => row.includes(">ten<")) ?? "";
  assertMatch(row, /1\.23 MB/);
  assertMatch(row, /<time datetime="2001-09-09T01:46:40(\.000)?Z">2001-09-09 01:46<\/time>/);
  // Deeper down there is a way up, and in the title a name is but text, too.
  const deep = utf8((await ask(port, "GET /%3Ci%3E%26%22/")).body);
  assertMatch(deep, /<title>\/&lt;i&gt;&amp;&quot;\/<\/title>/);
  assertMatch(deep, /<a href="\.\.\/">/);
});

test("nothing outside of ROOT, whatever the path or the link, and never a 500", async () => {
  await using site = await rig();
  const { port, root } = site;
  const secret = root.replace(/root$/, "secret");
  await Deno.mkdir(`${root}-sibling`);
  await Deno.writeTextFile(`${root}-sibling/secret`, "SECRET");
  await Deno.symlink(secret, `${root}/out`);
  await Deno.symlink("../secret", `${root}/relative`);
  await Deno.symlink("out", `${root}/chain`);
  await Deno.symlink("chain", `${root}/chain2`);
  await Deno.symlink(root.replace(/\/root$/, ""), `${root}/away`);
  await Deno.symlink("../..", `${root}/sub/up`);
  await Deno.symlink("/", `${root}/slash`);
  await Deno.symlink(`${root}-sibling`, `${root}/sibling`);
  await Deno.symlink("loop", `${root}/loop`);
  await Deno.symlink("loop2", `${root}/loop1`);
  await Deno.symlink("loop1", `${root}/loop2`);
  await Deno.symlink("dangling", `${root}/nowhere`);
  await Deno.mkdir(`${root}/index`);
  await Deno.symlink(secret, `${root}/index/index.html`);
  await Deno.writeTextFile(`${root}/back\\slash`, "x");

  const ups = ".. %2e%2e .%2e %2E. %2e%2E ..%00 %00.. ... %252e%252e".split(" ");
  const slashes = "/ %2f %2F %5c \\ // %c0%af %252f %u2215 %ef%bc%8f".split(" ");
  const targets = ups.flatMap((up) =>
    slashes.flatMap((slash) => [
      `/${up}${slash}secret`,
      `/sub${slash}${up}${slash}${up}${slash}secret`,
      `/${Array(9).fill(up).join(slash)}${slash}etc/passwd`,
    ])
  );
  for (const up of "%c0%ae%c0%ae %e0%80%ae%e0%80%ae %uff0e%uff0e %ff%fe %c0%2e".split(" ")) {
    targets.push(`/${up}/secret`);
  }
  targets.push(
    ...`//etc/passwd ///etc/passwd /%2fetc/passwd /%2fetc%2fpasswd /${secret} //..//secret`.split(
      " ",
    ),
    ..."/../root-sibling/secret /..%2froot-sibling%2fsecret /sub/../../secret /../root/ten".split(
      " ",
    ),
    ..."/out /out/ /relative /chain /chain2 /away /away/ /away/secret /sub/up/secret".split(" "),
    ..."/sub/up/ /slash/etc/passwd /slash/ /sibling /sibling/secret".split(" "),
    ..."/loop /loop/ /loop/x /loop1 /nowhere /nowhere/ /ten%00 /ten%00.html /%00".split(" "),
    ..."/ten/.. /ten/../ten /./ten /sub/./inner.txt /back\\slash /back%5cslash".split(" "),
    ..."/~root /C:/ /% /%2 /%zz /ten% /%ed%a0%80 /%80".split(" "),
    ...[`/${"a".repeat(300)}`, `/${"a/".repeat(4000)}`, `/${"%2e".repeat(300)}`],
    ..."http://localhost/../secret http://localhost/%2e%2e/secret http:///../secret".split(" "),
    ..."http://localhost//etc/passwd file:///etc/passwd".split(" "),
  );
  for (let at = 0; at < targets.length; at += 50) {
    await Promise.all(
      targets.slice(at, at + 50).map(async (target) => {
        const { status, body } = await ask(port, `GET ${target}`);
        assert(status === 404 || status === 400, `${target}: ${status}`);
        assert(!/SECRET|root:/.test(body) && !body.includes(root), `${target}: ${body}`);
      }),
    );
  }
  // Its links that stay inside are served, and the folder whose index.html leads out is listed.
  await Deno.symlink(root, `${root}/self`);
  await Deno.symlink("../ten", `${root}/sub/ten`);
  for (
    const target of ["/self/self/ten", "/sub/ten", "//ten", "/sub//ten", "http://else.test/ten"]
  ) {
    assertEquals((await ask(port, `GET ${target}`)).body, "0123456789", target);
  }
  const listed = await ask(port, "GET /index/");
  assertEquals([listed.status, listed.body.includes("SECRET")], [200, false]);
  assert(!site.server.stderr.includes("\n    at "), site.server.stderr);
});

test("what is no file: a pipe, a socket, a device; none hangs it", async () => {
  await using site = await rig();
  const { port, root } = site;
  const made = await new Deno.Command("mkfifo", { args: [`${root}/fifo`] }).output();
  assertEquals(made.code, 0);
  using _socket = Deno.listen({ transport: "unix", path: `${root}/socket` });
  await Deno.symlink("/dev/zero", `${root}/zero`);
  for (const method of ["GET", "HEAD"]) {
    for (const name of ["fifo", "socket", "zero"]) {
      assertEquals((await ask(port, `${method} /${name}`)).status, 404, name);
    }
  }
  const { status, body } = await ask(port, "GET /");
  assertEquals([status, /fifo|socket|zero/.test(body)], [200, false]);
  assertEquals((await ask(port, "GET /ten")).body, "0123456789");
}, "mkfifo");

test("what may not be read is refused, and not with a 500", async () => {
  // Root may read everything until it gives that up.
  const before = Deno.uid() === 0
    ? ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    : [];
  await using site = await rig([], { before });
  const { port, root } = site;
  await Deno.mkdir(`${root}/shut`);
  await Deno.writeTextFile(`${root}/shut/in`, "in");
  await Deno.writeTextFile(`${root}/sub/index.html`, "index");
  for (const path of ["ten", "shut", "sub/index.html"]) await Deno.chmod(`${root}/${path}`, 0);
  try {
    for (const target of ["/ten", "/shut/", "/shut/in", "/sub/"]) {
      for (const method of ["GET", "HEAD"]) {
        const { status } = await ask(port, `${method} ${target}`);

        assert(status === 403 || status === 404, `${method} ${target}: ${status}`);
      }
    }
    assertEquals((await ask(port, "GET /")).status, 200);
    assertEquals((await ask(port, "GET /sub/inner.txt")).body, "inner");
  } finally {
    await Deno.chmod(`${root}/shut`, 0o700);
  }
}, "setpriv");

test("other methods are 405 with Allow; odd targets, versions and hosts harm nobody", async () => {
  await using site = await rig();
  const { port } = site;
  for (const method of ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "get", "FOO", "PROPFIND"]) {
    const { status, headers } = await ask(port, `${method} /ten`, {}, "body");
    assertEquals([status, headers.get("allow")], [405, "GET, HEAD, POST"], method);
  }
  assertEquals((await ask(port, "OPTIONS *")).status, 405);
  assertEquals((await ask(port, "CONNECT 127.0.0.1:1")).status, 405);
  for (const host of ["a b<>", "", "[", "%", "a:b:c", "é", "x".repeat(5000), "..", "a@b", '"']) {
    const { status } = await ask(port, "GET /ten", { host });
    assert(status === 200 || status === 400, `${host}: ${status}`);
  }
  for (const line of ["GET /ten HTTP/1.0", "GET http://[/ten", "GET *", "GET ten", "GET ?"]) {
    const { status } = await ask(port, line);
    assert([200, 400, 404].includes(status), `${line}: ${status}`);
  }
  const plain = await ask(port, "GET /ten HTTP/1.0", { connection: "" });
  assertEquals(plain.body, "0123456789", "the end of the connection is the end, in HTTP/1.0");
  using bare = await dial(port);
  await bare.writeAll("GET /ten HTTP/1.0\r\n\r\n");
  assertEquals((await answerOf(bare)).body, "0123456789", "without any header");
});

test("a Host header chooses no file", async () => {
  await using site = await rig();
  const { port } = site;
  for (const host of ["x/ten?", "x/ten#", "x?", "x#", "x/sub"]) {
    const { status } = await ask(port, "GET /none", { host });
    assert(status === 400 || status === 404, `${host}: ${status}`);
  }
});

test("requests that two servers could read differently, or that are too long, are refused", async () => {
  await using site = await rig();
  const { port } = site;
  const refused = async (head: string, what: string) => {
    using conn = await dial(port);
    // It may hang up before it has read all of that.
    await conn.writeAll(`${head}\r\n\r\n`).catch(() => {});
    const answer = await conn.readLine().catch(() => null);
    assertMatch(answer ?? "HTTP/1.1 400 not heard", /^HTTP\/1\.1 4\d\d /, what);
  };
  const post = "POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n";
  const chunks = "\r\n\r\n2\r\n{}\r\n0";
  await refused(`${post}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{} `, "two lengths");
  await refused(`${post}Content-Length: 2\r\nTransfer-Encoding: chunked${chunks}`, "both");
  await refused(`${post}Transfer-Encoding: chunked\r\nContent-Length: 2${chunks}`, "both");
  for (const length of ["-1", "+2", "0x2", "2, 3", "99999999999999999999999999", "two"]) {
    await refused(`${post}Content-Length: ${length}\r\n\r\n{}`, length);
  }
  await refused(`${post}Transfer-Encoding: gzip\r\n\r\n{}`, "not chunked");
  await refused(`GET /${"a".repeat(100_000)} HTTP/1.1\r\nHost: x`, "request line");
  await refused(`GET /ten HTTP/1.1\r\nHost: x\r\nX: ${"a".repeat(1e6)}`, "header");
  await refused(`GET /ten HTTP/1.1\r\nHost: x\r\n${"X: a\r\n".repeat(10_000)}X: a`, "headers");
  await refused("GET /ten HTTP/1.1\r\nHost : x", "blank before the colon");
  await refused("GET /ten HTTP/1.1\r\nHost: x\r\nX: a\r\n b", "folded");
  await refused("GET /ten HTTP/9.9\r\nHost: x", "version");
  await refused("GET /te\x00n HTTP/1.1\r\nHost: x", "NUL");
  await refused("\x16\x03\x01\x02\x00\x01\x00\x01\xfc", "TLS");
  assertEquals((await ask(port, "GET /ten")).body, "0123456789");
});

test("requests one behind the other on a connection are answered in their order", async () => {
  await using site = await rig();
  using conn = await dial(site.port);
  const more = { connection: "keep-alive" };
  const form = { ...more, "content-type": "application/x-www-form-urlencoded" };
  await conn.writeAll(concat([
    message("GET /ten", more),
    message("HEAD /ten", more),
    message("GET /none", more),
    message("POST /", form, "a=1"),
    message("POST /", more, "GET /secret HTTP/1.1\r\n\r\n"), // not read as the next request
    message("GET /ten", { ...more, range: "bytes=0-1" }),
    message("GET /sub/inner.txt"),
  ]));
  const octets = await conn.readToEnd(1e6);
  const answers = new TextDecoder().decode(octets).split(/(?=HTTP\/1\.1 )/);
  assertEquals(
    answers.map((text) => [text.slice(9, 12), text.slice(text.indexOf("\r\n\r\n") + 4)]),
    [
      ["200", "0123456789"],
      ["200", ""],
      ["404", "there is no such file\n"],
      ["200", '{"a":"1"}\n'],
      ["415", "neither a form nor JSON\n"],
      ["206", "01"],
      ["200", "inner"],
    ],
  );
});

test("a body that never comes is 408, also one that stops, and nobody waits for it", async () => {
  await using site = await storing("--idle-timeout", "0.5");
  const { port, up, server } = site;
  const json = { "content-type": "application/json", "content-length": "100" };
  const hang = async (target: string, fields: Record<string, string>, sent: string) => {
    using conn = await dial(port);
    await conn.writeAll(concat([message(`POST ${target}`, fields), bytes(sent)]));
    assertMatch(await conn.readLine() ?? "", /^HTTP\/1\.1 408 /, target);
  };
  const hanging = Promise.all([
    hang("/", json, ""),
    hang("/", json, "{"),
    hang("/", { "content-type": "application/json", "transfer-encoding": "chunked" }, "5\r\n{"),
    hang("/stored", { "content-length": "100" }, "half"),
  ]);
  assertEquals((await ask(port, "GET /ten")).body, "0123456789");
  await hanging;
  assertEquals(namesIn(up), []);
  assertEquals(server.stderr.split("\n").length, 2, server.stderr);
  // One that is slow but not silent may go on.
  using slow = await dial(port);
  await slow.writeAll(message("POST /slow", { "content-length": "6" }));
  for (const letter of "slowly") {
    await new Promise((resolve) => setTimeout(resolve, 150));
    await slow.writeAll(letter);
  }
  assertEquals((await answerOf(slow)).status, 201);
  assertEquals(await Deno.readTextFile(`${up}/slow`), "slowly");
});

test("a body that is not what its header says is the client's fault, not a 500", async () => {
  await using site = await rig();
  using conn = await dial(site.port);
  const chunked = { "content-type": "application/json", "transfer-encoding": "chunked" };
  await conn.writeAll(message("POST /", chunked));
  await conn.writeAll("2\r\n{}\r\nzz\r\n");
  const answer = await conn.readLine().catch(() => null);

  assertMatch(answer ?? "HTTP/1.1 400 not heard", /^HTTP\/1\.1 400 /);
  assertEquals((await ask(site.port, "GET /ten")).body, "0123456789");
});

test("a POST of a form or of JSON is answered with what it holds", async () => {
  await using site = await rig();
  const { port } = site;
  const form = "application/x-www-form-urlencoded";
  const json = "application/json";
  const deep = "[".repeat(1000) + "]".repeat(1000);
  const cases: [type: string, body: string, expected: number | string][] = [
    [form, "a=1&b=2", '{"a":"1","b":"2"}'],
    [form, "a=1&b=2&a=3&a=", '{"a":["1","3",""],"b":"2"}'],
    [
      form,
      "__proto__=x&constructor=y&toString=z",
      '{"__proto__":"x","constructor":"y","toString":"z"}',
    ],
    [form, "__proto__=x&__proto__=y", '{"__proto__":["x","y"]}'],
    [form, "a+b=c%26d%3D%C3%A9", '{"a b":"c&d=é"}'],
    [form, "%3Cb%3E=%ff", '{"<b>":"\ufffd"}'],
    [form, "", "{}"],
    [form, "=", '{"":""}'],
    [`${form.toUpperCase()};charset=UTF-8`, "a", '{"a":""}'],
    [json, ' {"a" : [1, null, "é\\u202e"]} ', '{"a":[1,null,"é\u202e"]}'],
    [`${json}; charset=utf-8`, '{"__proto__":{"x":1}}', '{"__proto__":{"x":1}}'],
    [json, "0", "0"],
    [json, '"\\ud800"', '"\\ud800"'],
    [json, deep, deep],
    [json, "{", 400],
    [json, "", 400],
    [json, "NaN", 400],
    [json, "{'a':1}", 400],
    [json, '{"a":"\x1b"}', 400],
    [json, "[".repeat(500_000), 400],
    ["text/plain", "a=1", 415],
    ["application/octet-stream", "\0", 415],
    ["multipart/form-data; boundary=x", "--x--", 415],
    ["application/jsonx", "{}", 415],
    ["", "{}", 415],
  ];
  for (const [type, body, expected] of cases) {
    const answer = await ask(port, "POST /any/path", { "content-type": type }, body);
    const shown = `${type}: ${body.slice(0, 40)}`;
    if (typeof expected === "number") {
      assertEquals(answer.status, expected, shown);
      assert(!/[^\n\P{Cc}]/u.test(answer.body), answer.body);
      continue;
    }
    assertEquals([answer.status, utf8(answer.body)], [200, `${expected}\n`], shown);
    assertMatch(answer.headers.get("content-type") ?? "", /^application\/json/);
  }
  assertEquals((await ask(port, "POST /", {}, "{}")).status, 415, "without a type");

  const most = 1024 * 1024;
  const full = await ask(port, "POST /", { "content-type": form }, "a".repeat(most));
  assertEquals([full.status, full.body.length], [200, most + 8]);
  for (const type of [form, json]) {
    const announced = { "content-type": type, "content-length": `${most + 1}` };
    assertEquals(await statusOf(port, "POST /", announced), 413, type);
    const chunked = { "content-type": type, "transfer-encoding": "chunked" };
    using conn = await dial(port);
    await conn.writeAll(message("POST /", chunked));
    await conn.writeAll(`${(most + 1).toString(16)}\r\n${"a".repeat(most + 1)}`);
    assertMatch(await conn.readLine() ?? "", /^HTTP\/1\.1 413 /, type);
  }
  const octets = { "content-type": "application/octet-stream", "content-length": `${most + 1}` };

  assertEquals(await statusOf(port, "POST /file", octets), 415, "without --upload");
});

test("--upload stores a body whole under a new name, or not at all", async () => {
  await using site = await storing("--max-upload", "5");
  const { port, up } = site;
  const post = (name: string, body: string | Uint8Array, fields = {}) =>
    ask(port, `POST /${name}`, fields, body);
  const octets = concat(
    Array.from({ length: 100 }, () => crypto.getRandomValues(new Uint8Array(50_000))),
  );
  assertEquals((await post("five.bin", octets)).status, 201);
  const stored = await Deno.readFile(`${up}/five.bin`);
  assert(stored.length === 5e6 && stored.every((octet, i) => octet === octets[i]), "exactly 5 MB");
  assertEquals((await ask(port, "POST /empty", { "content-length": "0" })).status, 201);
  assertEquals((await Deno.stat(`${up}/empty`)).size, 0);
  const form = { "content-type": "application/x-www-form-urlencoded" };
  assertEquals((await post("form", "a=1", form)).status, 201);
  assertEquals(await Deno.readTextFile(`${up}/form`), "a=1", "its type does not matter here");
  using conn = await dial(port);
  await conn.writeAll(message("POST /chunked", { "transfer-encoding": "chunked" }));
  await conn.writeAll("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
  assertEquals((await answerOf(conn)).status, 201);
  assertEquals(await Deno.readTextFile(`${up}/chunked`), "abcde");
  const letters = "%C3%A9%20%E6%97%A5.txt";
  assertEquals((await post(letters, "x")).status, 201);
  assertEquals(await Deno.readTextFile(`${up}/é 日.txt`), "x");
  assertEquals(
    (await post("", "a=1", form)).body,
    '{"a":"1"}\n',
    "no name: an echo, as without it",
  );
  const kept = ["chunked", "empty", "five.bin", "form", "é 日.txt"];
  assertEquals(namesIn(up), kept);

  // A taken name, also one of a folder or of a link that leads somewhere or nowhere.
  await Deno.mkdir(`${up}/folder`);
  await Deno.symlink("nowhere", `${up}/dangling`);
  await Deno.symlink("../secret", `${up}/out`);
  for (const name of ["form", "folder", "dangling", "out"]) {
    assertEquals((await post(name, "other")).status, 409, name);
  }
  assertEquals(await Deno.readTextFile(`${up}/form`), "a=1");
  assertEquals(await Deno.readTextFile(`${up}/../secret`), "SECRET");

  const refused = [
    ..."..%2fx %2e%2e%2fx .. . .hidden %2ehidden a%00b a/b a%2fb sub/x /a/b a%5cb ..%5cx".split(
      " ",
    ),
    ..."a%0ab %1b%5b2J a%7f %e2%80%aetxt %ff % %c0%ae".split(" "),
    ...["n".repeat(256), "n".repeat(5000), "%E6%97%A5".repeat(86)],
  ];
  for (const name of refused) {
    const { status } = await post(name, "x");
    assert(status >= 400 && status < 500, `${name.slice(0, 40)}: ${status}`);
  }
  assertEquals((await post("n".repeat(255), "x")).status, 201, "as long as a name may be");
  await Deno.remove(`${up}/${"n".repeat(255)}`);
  assertEquals(namesIn(up), [...kept, "folder", "dangling", "out"].sort());
  assertEquals(namesIn(`${up}/..`), ["root", "secret", "up"]);
});

test("--upload: more than the limit is 413, whether said before or not, and leaves nothing", async () => {
  await using site = await storing("--max-upload", "1");
  const { port, up } = site;
  for (const length of ["1000001", "9007199254740993"]) {
    assertEquals(await statusOf(port, "POST /large", { "content-length": length }), 413, length);
  }
  using conn = await dial(port);
  await conn.writeAll(message("POST /large", { "transfer-encoding": "chunked" }));
  await conn.writeAll(`${(600_000).toString(16)}\r\n${"a".repeat(600_000)}\r\n`);
  await eventually("some of it is there", () => namesIn(up).length > 0);
  await conn.writeAll(`${(600_000).toString(16)}\r\n${"a".repeat(600_000)}\r\n`);
  assertMatch(await conn.readLine() ?? "", /^HTTP\/1\.1 413 /);
  await eventually("nothing is left", () => namesIn(up).length === 0);
  assertEquals((await ask(port, "POST /most", {}, "a".repeat(1e6))).status, 201);
  assertEquals((await Deno.stat(`${up}/most`)).size, 1e6);
});

/** Starts to store, and goes on once the server has something of it in a file of its own. */
async function half(
  port: number,
  up: string,
  name: string,
  fields: Record<string, string>,
): Promise<FramedConn> {
  const before = namesIn(up).length;
  const conn = await dial(port);
  await conn.writeAll(message(`POST /${name}`, fields));
  const first = "transfer-encoding" in fields ? "5\r\nfirst\r\n" : "first";
  await conn.writeAll(first);
  await eventually("it is under way", () => namesIn(up).length > before);
  return conn;
}

test("--upload: who leaves in the middle leaves nothing; of two with one name, one wins", async () => {
  await using site = await storing();
  const { port, up } = site;
  for (const [name, value] of [["content-length", "10"], ["transfer-encoding", "chunked"]]) {
    using conn = await half(port, up, "left", { [name]: value });
    assertMatch(namesIn(up).join(), /^\.[\w-]+\.part$/, "hidden while it is unfinished");
    conn.close();
    await eventually("nothing is left", () => namesIn(up).length === 0);
  }
  const rivals = await Promise.all(
    ["one", "two", "six"].map(() => half(port, up, "won", { "content-length": "8" })),
  );
  await eventually("all are under way", () => namesIn(up).length === 3);
  await Promise.all(rivals.map((conn, i) => conn.writeAll(["one", "two", "six"][i])));
  const statuses = await Promise.all(rivals.map(async (conn) => (await answerOf(conn)).status));
  assertEquals(statuses.toSorted(), [201, 409, 409]);
  const winner = ["one", "two", "six"][statuses.indexOf(201)];
  assertEquals(await Deno.readTextFile(`${up}/won`), `first${winner}`);
  assertEquals(namesIn(up), ["won"]);
  for (const conn of rivals) conn.close();
});

test("--upload: killed in the middle, it leaves an unfinished file; stopped, none", async () => {
  for (const signal of ["SIGKILL", "SIGINT"] as const) {
    await using site = await storing();
    const { port, up, server } = site;
    using conn = await half(port, up, "name", { "content-length": "10" });
    server.signal(signal);
    if (signal === "SIGINT") {
      await server.until(/stopping, 5 s/, "stderr");

      await conn.writeAll("whole"); // it is given the time for that
      assertEquals((await answerOf(conn)).status, 201);
      assertEquals((await server.ended()).code, 0);
      assertEquals(namesIn(up), ["name"]);
      assertEquals(await Deno.readTextFile(`${up}/name`), "firstwhole");
    } else {
      await server.ended();
      assertMatch(namesIn(up).join(), /^\.[\w-]+\.part$/);
    }
  }
});

const basic = (text: string) =>
  `Basic ${btoa(String.fromCharCode(...new TextEncoder().encode(text)))}`;

test("--user: only the right name and password; they are neither logged nor traced", async () => {
  const password = "Pässwört:✓ 1";
  const flags = ["--user", "Ann", "--trace", "--upload", "UP"];
  await using site = await rig(flags, {
    env: { HTTP_PASSWORD: password },
    permissions: ["--allow-env=HTTP_PASSWORD", "--allow-write"],
  });
  const { port, server, up } = site;
  const right = basic(`Ann:${password}`);
  const encoded = right.slice(6);
  for (const authorization of [right, `basic ${encoded}`, `BASIC  ${encoded}`]) {
    assertEquals((await ask(port, "GET /ten", { authorization })).body, "0123456789");
  }
  const wrong = [`${password}x`, password.slice(0, -1), password.toLowerCase(), `${password}\0`, ""]
    .map((password) => basic(`Ann:${password}`));
  wrong.push(...[`ann:${password}`, `:${password}`, password, ":", "Ann", ""].map(basic));
  wrong.push("Basic", "Basic !!!", "Basic ====", `Bearer ${encoded}`, encoded, `Basic\t${encoded}`);
  wrong.push(`Basic ${encoded} x`, `Basic ${encoded}, Basic x`, 'Digest username="Ann"', "é");
  for (const authorization of ["", ...wrong]) {
    const { status, headers, body } = await ask(
      port,
      "GET /ten",
      authorization ? { authorization } : {},
    );
    assertEquals(status, 401, authorization);
    assertMatch(headers.get("www-authenticate") ?? "", /^Basic realm="[^"]*"/);
    assert(!body.includes("0123"), body);
  }
  for (const line of ["HEAD /ten", "POST /", "PUT /ten", "GET /none", "GET /%ff", "GET /"]) {
    assertEquals((await ask(port, line)).status, 401, line);
  }
  assertEquals((await ask(port, "POST /stored", {}, "x")).status, 401);
  assertEquals(namesIn(up), []);

  await ask(port, "GET /last", { authorization: right });
  await server.until(/GET \/last/);
  const lines = server.stdout.trimEnd().split("\n").map((line) => LINE.exec(line) ?? [line]);
  assertEquals(lines.filter((line) => line.length !== 7), []);
  for (const [, , user, , , status] of lines) assertEquals(user, status === "401" ? "-" : "Ann");
  const said = server.stdout + server.stderr;
  assert(!/P.{0,8}ssw/.test(said), said);

  assert(!said.includes(encoded), "not in base64 either");
  assertMatch(server.stderr, /authorization: /);
});

test(
  "--user without a password, an empty one or an impossible name is a wrong command line",
  async () => {
    await using folder = await temporaryFolder();
    const cases: [env: string, args: string[], says: RegExp][] = [
      ["--unset=HTTP_PASSWORD", ["--user", "x"], /HTTP_PASSWORD is not set/],
      ["HTTP_PASSWORD=", ["--user", "x"], /HTTP_PASSWORD is not set/],
      ["HTTP_PASSWORD=y", ["--user", ""], /--user: NAME is missing/],
      ["HTTP_PASSWORD=y", ["--user", "a:b"], /--user: /],
    ];
    for (const [env, args, says] of cases) {
      const argv = ["env", env, ...command("http_server", ["--allow-env=HTTP_PASSWORD"])];
      await using program = new Program([...argv, "--port", "0", ...args, folder.path]);
      // It must not start to serve.
      const served = program.until(/listening/, "stderr").then(() => program.signal("SIGKILL"));
      const { code, stderr } = await program.ended();
      await served.catch(() => {});
      assertMatch(stderr, says);
      assertEquals(code, 2, stderr);
    }
  },
  "env",
);

test("--upload without --allow-write is said before anybody uploads", async () => {
  await using folder = await temporaryFolder();
  const { code, stderr } = await run("http_server", ["--upload", folder.path, folder.path]);
  assertEquals(code, 1);
  assertMatch(stderr, /^http_server: [^\n]*--allow-write[^\n]*\n$/);
});

test("a page of another site can post nothing", async () => {
  await using folder = await temporaryFolder();
  const args = ["--port", "0", "--upload", folder.path, folder.path];
  await using server = start("http_server", args, FILES);
  const url = `http://127.0.0.1:${await server.port()}`;
  for (const [origin, status] of [["http://evil.test", 403], ["null", 403], [url, 201]] as const) {
    const response = await fetch(`${url}/x`, { method: "POST", body: "x", headers: { origin } });
    await response.body?.cancel();
    assertEquals(response.status, status, origin);
  }
});

test("a ROOT or --upload DIR that is no folder is said by name", async () => {
  await using folder = await temporaryFolder();
  const file = `${folder.path}/file`;
  await Deno.writeTextFile(file, "");
  const cases: [args: string[], says: RegExp][] = [
    [[`${folder.path}/none`], /\/none: no such file or directory\n$/],
    [[file], /\/file/],
    [["--upload", `${folder.path}/none`, folder.path], /\/none/],
    [["--upload", file, folder.path], /\/file/],
  ];
  for (const [args, says] of cases) {
    await using program = start("http_server", ["--port", "0", ...args], FILES);
    const served = program.until(/listening/, "stderr").then(() => program.signal("SIGKILL"));
    const { code, stderr } = await program.ended();
    await served.catch(() => {});
    assertMatch(stderr, says);
    assertMatch(stderr, /^http_server: [^\n]*\n$/);
    assertEquals(code, 1, stderr);
  }
});

test("the log: a line on stdout for each answer, and no target forges another", async () => {
  await using site = await rig();
  const { port, server } = site;
  await ask(port, "GET /ten");
  await ask(port, "HEAD /ten");
  await ask(port, "GET /none?a=b");
  await ask(port, "PUT /ten", {}, "x");
  await ask(port, "POST /", { "content-type": "application/json" }, "{}");
  const strange = [
    `/"`,
    `/\\`,
    `/"%20200%205`,
    `/a"\\"b\\`,
    "/%0d%0a127.0.0.1%20-%20-%20[]",
    "/%1b[2J",
    "/é\u202e",
    "/%e2%80%ae",
    "/[x]",
    "/\x1b[31m",
    "/\x07",
    "/a\tb",
    "/a\x7f",
    "/a\rb",
  ];
  for (const target of strange) await ask(port, `GET ${target}`);
  await ask(port, "GET /the-end");
  await server.until(/the-end.*\n/);
  const lines = server.stdout.split("\n");
  assertEquals(lines.pop(), "");
  const records = lines.map((line) => LINE.exec(line)?.slice(1) ?? [line]);
  assertEquals(records.filter(({ length }) => length !== 6), []);
  assertEquals(
    records.slice(0, 5).map(([client, user, , what, status, size]) => [
      client,
      user,
      what.replace(/ [^ ]*$/, ""),
      status,
      size,
    ]),
    [
      ["127.0.0.1", "-", "GET /ten", "200", "10"],
      ["127.0.0.1", "-", "HEAD /ten", "200", "10"],
      ["127.0.0.1", "-", "GET /none?a=b", "404", "22"],
      ["127.0.0.1", "-", "PUT /ten", "405", "15"],
      ["127.0.0.1", "-", "POST /", "200", "3"],
    ],
  );
  assert(
    records.some(([, , , what]) => what.startsWith(`GET /a\\"\\\\\\"b\\\\ `)),
    lines.join("\n"),
  );
  // deno-lint-ignore no-control-regex
  assert(!/[\x00-\x09\x0b-\x1f\x7f\u202e]/.test(server.stdout));
  assertMatch(server.stderr, /^http_server: listening on 127\.0\.0\.1:\d+\n$/);
});

test("over TCP, IPv6, a Unix socket and TLS", async () => {
  await using folder = await temporaryFolder();
  for (const [form, flags, client] of await forms(folder.path)) {
    await using site = await (async () => {
      if (form !== "Unix") return await rig(flags, { permissions: FILES });
      const server = start("http_server", ["--port", "0", ...flags, folder.path], FILES);
      await server.until(/listening on unix:.*\/socket\n/, "stderr");
      return { server, port: 0, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() };
    })();
    await Deno.writeTextFile(`${folder.path}/ten`, "0123456789");
    const value = (flag: string) => client[client.indexOf(flag) + 1];
    const to = {
      port: site.port,
      ...client.includes("--host") ? { host: value("--host") } : {},
      ...client.includes("--unix") ? { unix: value("--unix") } : {},
      ...client.includes("--tls") ? { tls: true, ca: value("--ca") } : {},
    };
    const { status, body } = await ask(to, "GET /ten");

    assertEquals([status, body], [200, "0123456789"], form);
    const [, client2 = ""] = LINE.exec((await site.server.until(/.*\n/))[0].trimEnd()) ?? [];
    assertMatch(client2, { IPv6: /^\[?::1\]?$/, Unix: /^unix:/ }[form] ?? /^127\.0\.0\.1$/);
  }
}, "openssl");

test("--allow-from refuses others, --trace shows both heads", async () => {
  await using closed = await rig(["--allow-from", "10.0.0.0/8", "--upload", "UP"], {
    permissions: ["--allow-write"],
  });
  for (const line of ["GET /ten", "GET /", "POST /stored", "PUT /ten"]) {
    const { status, body } = await ask(closed.port, line, {}, line.startsWith("P") ? "x" : "");
    assertEquals([status, body.includes("0123")], [403, false], line);
  }
  assertEquals(namesIn(closed.up), []);
  assertMatch(closed.server.stderr, /127\.0\.0\.1:\d+: refused, not in --allow-from\n/);
  await using open = await rig(["--allow-from", "127.0.0.0/8", "--trace"]);
  assertEquals((await ask(open.port, "GET /ten", { "x-odd": "\u00e9" })).status, 200);
  await open.server.until(/^> 127\.0\.0\.1:\d+ content-length: 10\\r\\n$/m, "stderr");
  assertMatch(open.server.stderr, /^< 127\.0\.0\.1:\d+ GET http:\/\/localhost\/ten\\r\\n$/m);
  assertMatch(open.server.stderr, /^> 127\.0\.0\.1:\d+ 200\\r\\n$/m);
  assert(!/[^\n -~]/.test(open.server.stderr), open.server.stderr);
});

test("a file that shrinks while it is sent ends the connection short, and the log says so", async () => {
  await using site = await rig();
  const { port, root, server } = site;
  const size = 64 * 1024 * 1024;
  await Deno.writeFile(`${root}/shrinking`, new Uint8Array());
  await Deno.truncate(`${root}/shrinking`, size);
  using conn = await dial(port);
  await conn.writeAll(message("GET /shrinking", { connection: "keep-alive" }));
  assertMatch(await conn.readLine() ?? "", /^HTTP\/1\.1 200 /);
  await Deno.truncate(`${root}/shrinking`, 100);
  const got = await conn.readToEnd(size).catch(() => null); // and not silence
  assert(got === null || got.length < size);
  await server.until(/^http_server: \S+\/shrinking: \d+ of 67108864 bytes not sent\n/m, "stderr");
  assertEquals((await ask(port, "GET /ten")).body, "0123456789");
});

test("Ctrl-C gives a download under way the time to end", async () => {
  await using site = await rig();
  const { port, root, server } = site;
  const size = 64 * 1024 * 1024;
  await Deno.writeFile(`${root}/big`, new Uint8Array());
  await Deno.truncate(`${root}/big`, size);
  using conn = await dial(port);
  await conn.writeAll(message("GET /big"));
  assertMatch(await conn.readLine() ?? "", /^HTTP\/1\.1 200 /);
  server.signal("SIGINT");
  const octets = await conn.readToEnd(size + 10_000);
  assert(octets.length > size, `${octets.length}`);
  const { code, stderr } = await server.ended();
  assertEquals(code, 0);
  assertEquals(stderr.includes("cut off"), false, stderr);
});
