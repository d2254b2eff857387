import { assert, assertEquals, assertMatch } from "@std/assert";
import { createConnection } from "node:net";
import { deadline } from "@std/async/deadline";
import { delay } from "@std/async/delay";
import { connect } from "../../lib/address.ts";
import { FramedConn } from "../../lib/framing.ts";
import { serveHttp } from "../../lib/server.ts";
import { room } from "../../scripts/web_chat.ts";
import { mayConnect, mayRun, type Program, start } from "../helpers.ts";

/** What a handshake has besides its first line, with the page's own origin. */
const handshake = (port: number): Record<string, string> => ({
  "Host": `127.0.0.1:${port}`,
  "Origin": `http://127.0.0.1:${port}`,
  "Upgrade": "websocket",
  "Connection": "keep-alive, Upgrade",
  "Sec-WebSocket-Version": "13",
  "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
});

type Said = { n: number; id: string; name: string; text: string; at: string };
type Heard = {
  run?: string;
  name?: string;
  missed?: number;
  here?: string[];
  said?: Said[];
  wait?: number;
};

/** Somebody with a WebSocket, as a page would be. */
class Guest implements AsyncDisposable {
  readonly heard: Heard[] = [];
  readonly socket: WebSocket;
  readonly #closed = Promise.withResolvers<{ code: number; reason: string }>();
  #change = Promise.withResolvers<void>();

  constructor(port: number) {
    const headers = { origin: `http://127.0.0.1:${port}` };
    this.socket = new WebSocket(`ws://127.0.0.1:${port}/room`, { headers });
    this.socket.onmessage = ({ data }) => {
      this.heard.push(JSON.parse(data));
      this.#change.resolve();
      this.#change = Promise.withResolvers();
    };
    this.socket.onclose = ({ code, reason }) => {
      this.#closed.resolve({ code, reason });
      this.#change.reject(new Error(`closed: ${code} ${reason}`));
      this.#change.promise.catch(() => {});
    };
  }

  /** Waits for one thing more to be heard, at most 20 s. */
  #next(): Promise<void> {
    return deadline(this.#change.promise, 20_000);
  }

  /** Sends, once it can: an object as JSON. */
  async send(...messages: unknown[]): Promise<void> {
    while (this.socket.readyState === WebSocket.CONNECTING) {
      await new Promise((resolve) => {
        this.socket.addEventListener("open", resolve);
        this.socket.addEventListener("close", resolve);
      });
    }
    for (const message of messages) {
      const raw = typeof message === "string" || message instanceof Uint8Array;
      this.socket.send(raw ? message as string : JSON.stringify(message));
    }
  }

  /** What is heard, the first that is so. */
  async until<T>(so: (heard: Heard) => T | undefined | false): Promise<T> {
    for (let i = 0;; i++) {
      while (i >= this.heard.length) await this.#next();
      const found = so(this.heard[i]);
      if (found) return found;
    }
  }

  /** What everybody has said so far, as this one heard it. */
  said(): Said[] {
    return this.heard.flatMap((heard) => heard.said ?? []);
  }

  /** Waits until somebody is heard to have said it. */
  hear(text: string): Promise<Said> {
    return this.until(({ said }) => said?.find((said) => said.text === text));
  }

  /** Waits until just these are here. */
  async sees(...names: string[]): Promise<void> {
    const here = () => this.heard.findLast(({ here }) => here)?.here?.join();
    while (here() !== names.join()) await this.#next();
  }

  /** How it ends. */
  closed(): Promise<{ code: number; reason: string }> {
    return deadline(this.#closed.promise, 20_000);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.socket.close();
    await this.#closed.promise;
  }
}

let ids = 0;
const id = () => `0000000000000000${++ids}`;
/** What a guest says. */
const say = (text: string, as = id()) => ({ text, id: as });

/** Lets somebody in, and gives what they are told first. */
async function enter(
  port: number,
  name: string,
  { key = id(), ...known }: { key?: string; run?: string; last?: number } = {},
): Promise<Guest & { welcome: Required<Heard> }> {
  const guest = new Guest(port);
  await guest.send({ name, key, ...known });
  const welcome = await guest.until((heard) => heard.run && heard);
  return Object.assign(guest, { welcome: welcome as Required<Heard> });
}

/** Has all of these said, by as many as it takes: each may say only a few things at once. */
async function sayAll(port: number, texts: string[]): Promise<void> {
  for (let i = 0; i < texts.length; i += 4) {
    await using guest = await enter(port, "Crowd");
    const few = texts.slice(i, i + 4);
    await guest.send(...few.map((text) => say(text)));
    await guest.hear(few[few.length - 1]);
  }
}

/** Sends the head of a request by hand, and gives the connection and the head of the answer. */
async function ask(
  port: number,
  line: string,
  headers: Record<string, string>,
): Promise<{ conn: FramedConn; head: string }> {
  const conn = new FramedConn(await connect({ host: "127.0.0.1", port }), { timeout: 10_000 });
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  await conn.writeAll(`${line} HTTP/1.1\r\n${lines.join("")}\r\n`);
  const head: string[] = [];
  for (let text; (text = await conn.readLine()); head.push(text));
  return { conn, head: head.join("\n") };
}

/** A frame of a client (RFC 6455, 5.2), its mask zero. */
function frame(opcode: number, data: string | Uint8Array, final = true): Uint8Array {
  const octets = typeof data === "string" ? new TextEncoder().encode(data) : data;
  const { length } = octets;
  const size = length < 126 ? [length] : [126, length >> 8, length & 255];
  return new Uint8Array([
    final ? 0x80 | opcode : opcode,
    0x80 | size[0],
    ...size.slice(1),
    0,
    0,
    0,
    0,
    ...octets,
  ]);
}

/** Starts the program; with its port. */
async function open(
  ...args: string[]
): Promise<AsyncDisposable & { server: Program; port: number }> {
  const server = start("web_chat", ["--port", "0", ...args]);
  const port = await server.port();
  return { server, port, [Symbol.asyncDispose]: () => server[Symbol.asyncDispose]() };
}

Deno.test({
  name: "web_chat sends its page with a policy that lets nothing in but its own script",
  ignore: !mayRun,
  async fn() {
    await using at = await open();
    const url = `http://127.0.0.1:${at.port}/`;
    const nonces = [];
    for (let i = 0; i < 2; i++) {
      const response = await fetch(url);
      const text = await response.text();
      const policy = response.headers.get("content-security-policy") ?? "";
      const [, nonce] = /script-src 'nonce-([^']+)'/.exec(policy) ?? [];
      nonces.push(nonce);
      assertEquals(policy.split("; ").sort(), [
        "base-uri 'none'",
        "connect-src 'self'",
        "default-src 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "img-src data:",
        "require-trusted-types-for 'script'",
        `script-src 'nonce-${nonce}'`,
        `style-src 'nonce-${nonce}'`,
      ]);
      assertEquals(text.match(/<(script|style)[^>]*>/g), [
        `<style nonce="${nonce}">`,
        `<script nonce="${nonce}">`,
      ]);
      assertEquals(/innerHTML|outerHTML|insertAdjacent|document\.write|eval\(/.test(text), false);
      assertEquals(response.status, 200);
      assertEquals(response.headers.get("content-type"), "text/html; charset=utf-8");
      assertEquals(response.headers.get("x-content-type-options"), "nosniff");
      assertEquals(response.headers.get("referrer-policy"), "no-referrer");
      assertEquals(response.headers.get("cache-control"), "no-store");
    }
    assert(nonces[0] !== nonces[1]);

    const { conn, head } = await ask(at.port, "HEAD /", { Host: "x", Connection: "close" });
    using _ = conn;
    assertMatch(head, /^HTTP\/1\.1 200 OK/);
    const [, length] = /content-length: (\d+)/.exec(head) ?? [];
    assertEquals(Number(length), new TextEncoder().encode(await (await fetch(url)).text()).length);
    assertEquals((await conn.readToEnd(10)).length, 0);
  },
});

Deno.test({
  name: "web_chat has one page and one WebSocket, for pages of its own host only",
  ignore: !mayRun,
  async fn() {
    await using at = await open();
    const right = handshake(at.port);
    const without = (name: string) =>
      Object.fromEntries(Object.entries(right).filter(([key]) => key !== name));
    const cases: [line: string, headers: Record<string, string>, says: RegExp][] = [
      ["GET /", { Host: "x" }, /^HTTP\/1\.1 200 /],
      ["GET /?x=1", { Host: "x" }, /^HTTP\/1\.1 200 /],
      ["GET /favicon.ico", right, /^HTTP\/1\.1 404 /],
      ["GET /room/", right, /^HTTP\/1\.1 404 /],
      ["GET /..%2froom", right, /^HTTP\/1\.1 404 /],
      ["POST /", { Host: "x", "Content-Length": "0" }, /^HTTP\/1\.1 405 [^]*^allow: GET, HEAD$/m],
      ["DELETE /room", right, /^HTTP\/1\.1 405 [^]*^allow: GET, HEAD$/m],
      ["GET /room", { Host: right.Host, Origin: right.Origin }, /^HTTP\/1\.1 426 /],
      ["HEAD /room", right, /^HTTP\/1\.1 426 /],
      ["GET /room", without("Upgrade"), /^HTTP\/1\.1 426 [^]*^upgrade: websocket$/m],
      ["GET /room", without("Connection"), /^HTTP\/1\.1 426 /],
      ["GET /room", without("Sec-WebSocket-Key"), /^HTTP\/1\.1 426 /],
      ["GET /room", { ...right, "Sec-WebSocket-Key": "short" }, /^HTTP\/1\.1 426 /],
      [
        "GET /room",
        { ...right, "Sec-WebSocket-Version": "8" },
        /^HTTP\/1\.1 426 [^]*^sec-websocket-version: 13$/m,
      ],
      ["GET /room", without("Origin"), /^HTTP\/1\.1 403 /],
      ...[
        "null",
        "",
        "http://127.0.0.1",
        `http://127.0.0.1:${at.port + 1}`,
        `http://localhost:${at.port}`,
        `http://127.0.0.1:${at.port}.evil.test`,
        `http://evil.test/127.0.0.1:${at.port}`,
        `http://127.0.0.1:${at.port}@evil.test`,
      ].map((Origin): [string, Record<string, string>, RegExp] => [
        "GET /room",
        { ...right, Origin },
        /^HTTP\/1\.1 403 /,
      ]),
      [
        "GET /room",
        right,
        /^HTTP\/1\.1 101 [^]*^sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK\+xOo=$/m,
      ],
      ["GET /room", { ...right, Upgrade: "WebSocket" }, /^HTTP\/1\.1 101 /],
      ["GET /room", { ...right, Origin: `https://127.0.0.1:${at.port}` }, /^HTTP\/1\.1 101 /],
    ];
    for (const [line, headers, says] of cases) {
      const { conn, head } = await ask(at.port, line, headers);
      using _ = conn;
      assertMatch(head, says, `${line} ${JSON.stringify(headers)}`);
    }
    await using ann = await enter(at.port, "Ann");
    assertEquals(ann.welcome.here, ["Ann"]);
    assertEquals(at.server.stderr.split("\n").length, 2, at.server.stderr);
  },
});

Deno.test({
  name: "web_chat: who is here hears who comes, what is said, and who leaves",
  ignore: !mayRun,
  async fn() {
    await using at = await open();
    await using ann = await enter(at.port, "Ann");
    const bob = await enter(at.port, "Bob");
    assertEquals(bob.welcome.here, ["Ann", "Bob"]);
    assertEquals([bob.welcome.missed, bob.welcome.said], [0, []]);
    assertEquals(bob.welcome.run, ann.welcome.run);
    await ann.sees("Ann", "Bob");

    const before = Date.now();
    await bob.send(say("hello", "0123456789abcdef-_"));
    const said = await ann.hear("hello");
    assertEquals(said, { n: 1, id: "0123456789abcdef-_", name: "Bob", text: "hello", at: said.at });
    assert(Date.parse(said.at) >= before - 1000 && Date.parse(said.at) <= Date.now() + 1000);
    assertEquals(await bob.hear("hello"), said);

    // Somebody who has not said who they are hears nothing.
    await using nobody = new Guest(at.port);
    await nobody.send();
    await bob[Symbol.asyncDispose]();
    await ann.sees("Ann");
    assertEquals(nobody.heard, []);
  },
});

Deno.test({
  name: "web_chat: no two names look the same, and text has nothing in it that hides or turns",
  ignore: !mayRun,
  async fn() {
    await using at = await open();
    await using guests = new AsyncDisposableStack();
    const names: [wanted: string, given: string][] = [
      ["Ann", "Ann"],
      ["Ann", "Ann 2"],
      [" ann\t", "ann 3"],
      ["A\u200bnn", "A\u200bnn 4"],
      ["\u202eAnn\u2066", "Ann 5"],
      ["Ａｎｎ", "Ａｎｎ 6"],
      ["Ann 2", "Ann 2 2"],
      ["A\nB\u0000C", "A B C"],
      ["<img src=x onerror=alert(1)>", "<img src=x onerror=alert"],
      ["x".repeat(1000), "x".repeat(24)],
      ["😀".repeat(30), "😀".repeat(24)],
      ["\ud800lone", "\ufffdlone"],
      ["__proto__", "__proto__"],
    ];
    for (const [wanted, given] of names) {
      const guest = guests.use(await enter(at.port, wanted));
      assertEquals(guest.welcome.name, given);
    }
    await using last = await enter(at.port, "Last");
    assertEquals(last.welcome.here, [...names.map(([, given]) => given), "Last"]);

    const texts: [sent: string, heard: string][] = [
      ["<img src=x onerror=alert(1)>&amp;", "<img src=x onerror=alert(1)>&amp;"],
      [" a\r\n\tb\u001b[31m\u0007 ", "a b [31m"],
      ["\u202eleft\u2069\u200f to right", "left to right"],
    ];
    for (const [sent, heard] of texts) {
      await last.send(say(sent));
      assertEquals((await last.hear(heard)).name, "Last");
    }
  },
});

Deno.test({
  name: "web_chat keeps the last 100 messages, and tells who comes back just what they missed",
  ignore: !mayRun,
  async fn() {
    await using at = await open();
    const early = await enter(at.port, "Early");
    const { run } = early.welcome;
    await early.send(say("first"));
    const { n } = await early.hear("first");
    await early[Symbol.asyncDispose]();

    const texts = (from: number, to: number) =>
      Array.from({ length: to - from + 1 }, (_, i) => `text ${from + i}`);
    await sayAll(at.port, texts(2, 4));
    const back = async (known: { run?: string; last?: number }) => {
      await using guest = await enter(at.port, "Back", known);
      const { missed, said } = guest.welcome;
      return { missed, said: said.map(({ text }) => text), numbers: said.map(({ n }) => n) };
    };
    assertEquals(await back({ run, last: n }), {
      missed: 0,
      said: texts(2, 4),
      numbers: [2, 3, 4],
    });
    assertEquals(await back({ run, last: 4 }), { missed: 0, said: [], numbers: [] });
    assertEquals(await back({ run, last: 0 }), {
      missed: 0,
      said: ["first", ...texts(2, 4)],
      numbers: [1, 2, 3, 4],
    });

    await sayAll(at.port, texts(5, 101)); // the 101st takes the place of the first
    const all = texts(2, 101);
    const numbers = all.map((_, i) => i + 2);
    assertEquals(await back({}), { missed: 0, said: all, numbers });
    assertEquals(await back({ run, last: n }), { missed: 0, said: all, numbers });
    assertEquals(await back({ run, last: 0 }), { missed: 1, said: all, numbers });
    assertEquals((await back({ run, last: 99 })).said, texts(100, 101));
    // Numbers of another run mean nothing in this one.
    assertEquals(await back({ run: "another", last: 99 }), { missed: 1, said: all, numbers });
    assertEquals(await back({ run, last: -5 }), { missed: 6, said: all, numbers });
    assertEquals(await back({ run, last: "x" as unknown as number }), {
      missed: 1,
      said: all,
      numbers,
    });

    await using other = await open();
    await using there = await enter(other.port, "Ann", { run, last: 99 });
    assert(there.welcome.run !== run);
    assertEquals([there.welcome.said, there.welcome.missed], [[], 0]);
  },
});

Deno.test({
  name: "web_chat: with the same id it is said once, with the same key it is the same guest",
  ignore: !mayRun,
  async fn() {
    await using at = await open();
    await using bob = await enter(at.port, "Bob");
    const key = id();
    await using ann = await enter(at.port, "Ann", { key });
    const once = say("once");
    await ann.send(once, once, say("after"));
    await Promise.all([ann, bob].map((guest) => guest.hear("after")));
    assertEquals(bob.said().map(({ text }) => text), ["once", "after"]);
    assertEquals(ann.said().map(({ text }) => text), ["once", "once", "after"]);

    // Her old connection only looks alive.
    const changes = () => bob.heard.filter(({ here }) => here).length;
    const before = changes();
    const { run } = ann.welcome;
    await using again = await enter(at.port, "Ann", { key, run, last: 1 });
    assertEquals([again.welcome.name, again.welcome.here], ["Ann", ["Bob", "Ann"]]);
    assertEquals(again.welcome.said.map(({ text }) => text), ["after"]);
    assertEquals((await ann.closed()).code, 1000);
    await again.send(once, say("here I am"));
    await bob.hear("here I am");
    assertEquals(bob.said().map(({ text }) => text), ["once", "after", "here I am"]);
    assertEquals(changes(), before, "nobody came or left");

    // To say again who one is means to hear what is new, if anything.
    await again.send({ name: "Ann", key, run, last: 3 });
    await again.until(({ said, run }) => run && said?.length === 0);
    await again.send({ name: "Eve", key: id() });
    assertEquals((await again.closed()).code, 1008);
    await using eve = await enter(at.port, "Ann");
    assertEquals(eve.welcome.name, "Ann");
    const twin = id();
    await using second = await enter(at.port, "Ann", { key: twin });
    await using still = await enter(at.port, "Ann", { key: twin });
    assertEquals([second.welcome.name, still.welcome.name], ["Ann 2", "Ann 2"]);
  },
});

Deno.test({
  name: "web_chat closes who breaks its rules, by the code for it, and nobody else",
  ignore: !mayRun,
  async fn() {
    await using at = await open();
    await using ann = await enter(at.port, "Ann");
    const key = id();
    const cases: [message: unknown, code: number][] = [
      [new Uint8Array([1, 2, 3]), 1003],
      ["not JSON", 1007],
      ["", 1007],
      ['{"name": "Ann"', 1007],
      ["null", 1008],
      ["3", 1008],
      ["[]", 1008],
      ['"text"', 1008],
      ["{}", 1008],
      [say("before joining"), 1008],
      [{ name: "Bob" }, 1008],
      [{ name: "Bob", key: "short" }, 1008],
      [{ name: "Bob", key: `${key}!` }, 1008],
      [{ name: 3, key }, 1008],
      [{ name: { toString: "x" }, key }, 1008],
      [{ name: " \u200b\u202e", key }, 1008],
      [" ".repeat(8193), 1009],
      ["€".repeat(100_000), 1009],
    ];
    for (const [message, code] of cases) {
      await using guest = new Guest(at.port);
      await guest.send(message);
      assertEquals((await guest.closed()).code, code, JSON.stringify(message)?.slice(0, 80));
      assertEquals(guest.heard, []);
    }
    const joined: [message: unknown, code: number][] = [
      [{ text: "no id" }, 1008],
      [{ text: "bad id", id: "<b>" }, 1008],
      [say(" \u202e\n"), 1008],
      [say("x".repeat(1001)), 1008],
      [say("x".repeat(9000)), 1009],
    ];
    for (const [message, code] of joined) {
      await using guest = await enter(at.port, "Bob");
      await guest.send(message);
      assertEquals((await guest.closed()).code, code, JSON.stringify(message)?.slice(0, 80));
    }
    // The longest there is: a page could not send more octets for it.
    const escaped = "\\u20ac".repeat(1000);
    await using bob = await enter(at.port, "Bob");
    await bob.send(`{"text": "${escaped}", "id": "${id()}"}`);
    await ann.hear("€".repeat(1000));
    assertEquals(ann.said().length, 1);

    // What no browser sends: fragments, which are one message, and frames that are not masked.
    const { conn, head } = await ask(at.port, "GET /room", handshake(at.port));
    using _ = conn;
    assertMatch(head, /^HTTP\/1\.1 101/);
    const join = JSON.stringify({ name: "Raw", key: id() });
    await conn.writeAll(frame(1, join.slice(0, 10), false));
    await conn.writeAll(frame(9, "ping"));
    await conn.writeAll(frame(0, join.slice(10)));
    await ann.sees("Ann", "Bob", "Raw");
    for (const rude of [frame(1, new Uint8Array([0xff, 0xfe])), frame(15, ""), new Uint8Array(9)]) {
      const { conn } = await ask(at.port, "GET /room", handshake(at.port));
      using _ = conn;
      await conn.writeAll(rude);
      await conn.readToEnd(1000); // it is hung up on
    }
    await ann.send(say("still here"));
    await bob.hear("still here");
    assertEquals(at.server.stderr.split("\n").length, 2, at.server.stderr);
  },
});

Deno.test({
  name: "web_chat takes a few messages at once and then one a second, and drops who floods",
  ignore: !mayRun,
  async fn() {
    await using at = await open();
    await using ann = await enter(at.port, "Ann");
    await using bob = await enter(at.port, "Bob");
    // To join was the first of five.
    const texts = Array.from({ length: 5 }, (_, i) => `text ${i}`);
    await bob.send(...texts.map((text) => say(text)));
    const wait = await bob.until(({ wait }) => wait);
    assertEquals(bob.said().map(({ text }) => text), texts.slice(0, 4));
    assertEquals(wait, 2);
    await delay(wait * 1000);
    await bob.send(say("after the wait"));
    await ann.hear("after the wait");

    // One after the other, as with more on the way the close could be lost to a reset.
    const waits = () => bob.heard.flatMap(({ wait }) => wait ?? []);
    for (let open = true, tries = 0; open && tries < 30; tries++) {
      const before = waits().length;
      await bob.send(say("flood"));
      open = await bob.until(() => waits().length > before).then(() => true, () => false);
    }
    assertEquals(await bob.closed(), { code: 1008, reason: "far too fast" });
    assertEquals(waits().at(-1), 21);
    await ann.sees("Ann");

    await using eve = await enter(at.port, "Eve");
    await eve.send(...Array.from({ length: 1000 }, (_, i) => say(`flood ${i}`)));
    await eve.closed();
    await ann.hear("flood 3");
    assertEquals(ann.said().map(({ text }) => text), [
      ...texts.slice(0, 4),
      "after the wait",
      ...Array.from({ length: 4 }, (_, i) => `flood ${i}`),
    ]);
  },
});

Deno.test({
  name: "web_chat drops who does not read, before much of what the others say waits for them",
  ignore: !mayRun,
  async fn() {
    await using at = await open();
    await using ann = await enter(at.port, "Ann");
    const { conn } = await ask(at.port, "GET /room", handshake(at.port));
    using _ = conn;
    await conn.writeAll(frame(1, JSON.stringify({ name: "Deaf", key: id() })));
    await ann.sees("Ann", "Deaf");
    const isThere = () => ann.heard.findLast(({ here }) => here)?.here?.includes("Deaf");
    let said = 0;
    const four = () => Array.from({ length: 4 }, () => `${said++} ${"€".repeat(990)}`);
    while (isThere() && said < 5000) { // 15 MB
      await Promise.all(Array.from({ length: 8 }, () => sayAll(at.port, four())));
    }
    assert(!isThere(), `not dropped after ${said} messages`);
    // The kernel took some MiB first, which is what can still be read; behind it is the reason.
    for (let tail = ""; !tail.includes("too slow");) {
      const piece = await conn.readSome();
      assert(piece, "ended without a reason");
      tail = new TextDecoder().decode(piece.slice(-200));
    }
    await ann.send(say("still here"));
    await ann.hear("still here");
  },
});

Deno.test({
  name: "web_chat has a limit on connections, and those that were never made do not count",
  ignore: !mayRun,
  async fn() {
    await using at = await open();
    const head = Object.entries(handshake(at.port)).map(([name, value]) => `${name}: ${value}\r\n`);
    const request = `GET /room HTTP/1.1\r\n${head.join("")}\r\n`;
    for (let i = 0; i < 250; i++) {
      const socket = createConnection(at.port, "127.0.0.1");
      socket.on("error", () => {});
      await new Promise<void>((resolve) => socket.write(request, () => resolve()));
      socket.resetAndDestroy(); // only Node's sockets can be told to
      if (i % 2) (await connect({ host: "127.0.0.1", port: at.port })).close();
    }
    await using guests = new AsyncDisposableStack();
    for (let i = 0; i < 199; i++) {
      const { conn, head } = await ask(at.port, "GET /room", handshake(at.port));
      guests.defer(() => conn.close());
      assertMatch(head, /^HTTP\/1\.1 101/, `${i}`);
    }
    const last = await enter(at.port, "Last");
    const refused = await ask(at.port, "GET /room", handshake(at.port));
    refused.conn.close();
    assertMatch(refused.head, /^HTTP\/1\.1 503 /);
    assertEquals(
      (await fetch(`http://127.0.0.1:${at.port}/`).then((page) => page.text())).length > 0,
      true,
    );
    await last[Symbol.asyncDispose]();
    await using next = await enter(at.port, "Next");
    assertEquals(next.welcome.here, ["Next"]);
  },
});

Deno.test({
  name: "web_chat notices who is gone without a word, and ends with a word itself",
  ignore: !mayRun,
  async fn() {
    await using at = await open("--idle-timeout", "0.5");
    await using ann = await enter(at.port, "Ann");
    const { conn } = await ask(at.port, "GET /room", handshake(at.port));
    using _ = conn;
    await conn.writeAll(frame(1, JSON.stringify({ name: "Gone", key: id() })));
    await ann.sees("Ann", "Gone");
    await ann.sees("Ann"); // as it answers no ping
    await ann.send(say("and I do"));
    await ann.hear("and I do");

    const before = performance.now();
    at.server.signal("SIGINT");
    assertEquals((await ann.closed()).code, 1001);
    const { code, stdout, stderr } = await at.server.ended();
    assertEquals([code, stdout, stderr.split("\n").length], [0, "", 2], stderr);
    assert(performance.now() - before < 5000, "it waited for nobody");
  },
});

Deno.test({
  name: "a room without the command line",
  ignore: !mayConnect,
  async fn() {
    const stop = new AbortController();
    const lines: string[] = [];
    const log = (line: string) => lines.push(line);
    const endpoint = { host: "127.0.0.1", port: 0 };
    const ended = serveHttp(endpoint, room(), { name: "room", signal: stop.signal, log });
    while (lines.length === 0) await delay(1);
    const port = Number(/:(\d+)$/.exec(lines[0])?.[1]);
    await using ann = await enter(port, "Ann");
    await ann.send(say("hello"));
    assertEquals((await ann.hear("hello")).n, 1);
    stop.abort();
    assertEquals((await ann.closed()).code, 1001);
    await ended;
    assertEquals(lines.length, 1, `${lines}`);
  },
});
