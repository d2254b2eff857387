#!/usr/bin/env -S deno run --allow-net
/**
 * A chat room for browsers: a page, and a WebSocket (RFC 6455) for each that shows it.
 *
 *     deno run --allow-net scripts/web_chat.ts
 *     chromium --new-window http://127.0.0.1:8081/ http://127.0.0.1:8081/
 *
 * Mirrors "The World Wide Web" of tutorial 002, which has no listing, as Python's `http.server` and
 * the package `websockets` would have it:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `HTTPServer(address, Handler).serve_forever()` | `serveHttp()`: `Deno.serve()` |
 * | `self.path`, `self.headers`, `self.wfile.write(page)` | `request`, `new Response(page)` |
 * | `websockets.serve(handler, host, port)` | `Deno.upgradeWebSocket(request)` |
 * | `serve(..., origins=[...], ping_timeout=20)` | the `origin` header, `idleTimeout` |
 * | `async for message in websocket` | `socket.onmessage` |
 * | `await websocket.send(text)` | `socket.send(text)`, never waits: `bufferedAmount` |
 *
 * Messages are JSON. By the same random `key` a page has its name again, by the same `id` a text is
 * said once, and `run`, another at each start, and `last` are what it heard. `>` is the page's:
 *
 *     > {"name": "Ann", "key": "5d...", "run": "c0...", "last": 7}, and again every 20 s
 *     < {"name": "Ann", "run": "c0...", "missed": 0, "here": ["Ann"], "said": [...]}
 *     > {"text": "Hello", "id": "9a..."}
 *     < {"said": [{"n": 8, "id": "9a...", "name": "Ann", "text": "Hello", "at": "2026-..."}]}
 *     < {"here": ["Ann", "Bob"]} or {"wait": 2}: too fast, say it again in 2 s
 *
 * @module
 */
import { flag, httpFlags, main, seconds, stopSignal } from "../lib/cli.ts";
import { type HttpHandler, serveHttp } from "../lib/server.ts";

// In characters. Deno shows whole messages only: frames of up to 64 MiB, fragments without end.
const [MAX_NAME, MAX_TEXT, MAX_MESSAGE] = [24, 1000, 8192];
const [HISTORY, MAX_SOCKETS] = [100, 200];
const MAX_BUFFERED = 1024 * 1024; // octets that wait for a slow reader: twice the longest history
const [BURST, MAX_DEBT] = [5, 20]; // messages at once, then one a second; so many too fast: out
const ID = /^[\w-]{16,64}$/;
/** A connection; it has a name from joining to leaving. */
type Member = { socket: WebSocket; name: string; key: string; tokens: number; at: number };

/** The text without control and direction characters, all blanks between words one space. */
const clean = (text: string) =>
  text.toWellFormed().replace(/[\s\p{Cc}]+/gu, " ").replace(/\p{Bidi_Control}/gu, "").trim();
/** What can be seen of a name: two that are the same in it look the same. */
const seen = (name: string) =>
  name.normalize("NFKC").toLowerCase().replace(/[\p{C}\p{Z}\p{DI}]/gu, "");

/** Opens a room; `idleTimeout` is the seconds that a browser has to answer a ping. */
export function room(idleTimeout = 30): HttpHandler {
  const run = crypto.randomUUID();
  const members = new Set<Member>();
  const history: { n: number; id: string; name: string; text: string; at: string }[] = [];
  const names = () => Array.from(members, ({ name }) => name).filter(Boolean);

  /** Sends to all who have joined. Who does not read is out: all of it would have to be kept. */
  function send(message: Record<string, unknown>, to: Iterable<Member> = members): void {
    const text = JSON.stringify(message);
    for (const member of to) {
      const { socket, name } = member;
      if (name && socket.readyState === WebSocket.OPEN) socket.send(text);
      if (socket.bufferedAmount <= MAX_BUFFERED) continue;
      socket.close(1013, "too slow");
      leave(member);
    }
  }

  function leave(member: Member): void {
    if (!member.name) return;
    member.name = "";
    send({ here: names() });
  }

  function join(member: Member, wanted: string, key: string, known: unknown, last: unknown): void {
    const old = members.values().find((other) => other.name && other.key === key);
    const short = Array.from(wanted).slice(0, MAX_NAME).join("").trim();
    let name = old?.name ?? short;
    const taken = names().map(seen);
    for (let i = 2; !old && taken.includes(seen(name)); i++) name = `${short} ${i}`;
    if (old) old.name = "";
    if (old !== member) old?.socket.close(1000, "joined elsewhere");
    Object.assign(member, { name, key });
    const from = known === run ? Number(last) || 0 : 0;
    const said = history.filter(({ n }) => n > from);
    const missed = known ? Math.max(0, (history[0]?.n ?? 1) - 1 - from) : 0;
    send({ run, name, missed, here: names(), said }, [member]);
    if (!old) send({ here: names() });
  }

  function say(name: string, text: string, id: string): void {
    const [n, at] = [(history.at(-1)?.n ?? 0) + 1, new Date().toJSON()];
    if (history.push({ n, id, name, text, at }) > HISTORY) history.shift();
    send({ said: history.slice(-1) });
  }

  function receive(member: Member, data: unknown): void {
    const { socket } = member;
    if (socket.readyState !== WebSocket.OPEN) return;
    if (typeof data !== "string") return socket.close(1003, "text only");
    if (data.length > MAX_MESSAGE) return socket.close(1009, "the message is too long");
    const now = performance.now();
    const tokens = Math.min(BURST, member.tokens + (now - member.at) / 1000) - 1;
    Object.assign(member, { tokens, at: now });
    if (tokens < -MAX_DEBT) return socket.close(1008, "far too fast");
    if (tokens < 0) return send({ wait: Math.ceil(1 - tokens) }, [member]);
    let message: Record<string, unknown>;
    try {
      message = Object(JSON.parse(data));
    } catch {
      return socket.close(1007, "a message is JSON");
    }
    const [name, key, text, id] = ["name", "key", "text", "id"].map((part) => message[part])
      .map((value) => typeof value === "string" && value.length <= MAX_TEXT ? clean(value) : "");
    const mayJoin = seen(name) && ID.test(key) && (!member.name || member.key === key);
    const known = history.find((said) => said.id === id);
    if (mayJoin) join(member, name, key, message.run, message.last);
    else if (known) send({ said: [known] }, [member]);
    else if (member.name && text && ID.test(id)) say(member.name, text, id);
    else socket.close(1008, "not a message, or not now");
  }

  return (request) => {
    const { method, url, headers } = request;
    const path = URL.parse(url)?.pathname;
    const refuse = (status: number, text: string, headers?: HeadersInit) =>
      new Response(`${text}\n`, { status, headers });
    if (path !== "/" && path !== "/room") return refuse(404, "not found");
    if (!/^(GET|HEAD)$/.test(method)) return refuse(405, "GET only", { allow: "GET, HEAD" });
    if (path === "/") return page();
    const origin = URL.parse(headers.get("origin") ?? "")?.host;
    if (origin !== headers.get("host")) return refuse(403, "for pages from here only");
    const parts = ["upgrade", "connection", "sec-websocket-version", "sec-websocket-key"];
    const handshake = [method, ...parts.map((name) => headers.get(name))].join("\n");
    if (!/^GET\nwebsocket\n.*\bupgrade\b.*\n13\n[\w+/]{22}==$/i.test(handshake)) {
      return refuse(426, "WebSocket only", { upgrade: "websocket", "sec-websocket-version": "13" });
    }
    if (members.size >= MAX_SOCKETS) return refuse(503, "the room is full");
    const { socket, response } = Deno.upgradeWebSocket(request, { idleTimeout });
    const member = { socket, name: "", key: "", tokens: BURST, at: performance.now() };
    socket.onopen = () => { // not counted before: of who is gone by now there will be no onclose
      if (members.add(member).size > MAX_SOCKETS) socket.close(1013, "the room is full");
    };
    socket.onmessage = ({ data }) => receive(member, data);
    socket.onclose = () => members.delete(member) && leave(member);
    return response; // any other than this would now end Deno.serve
  };
}

/** The page. Its own script and style run by a nonce, which is another one each time. */
function page(): Response {
  const nonce = crypto.randomUUID();
  const headers = {
    "content-type": "text/html; charset=utf-8",
    "content-security-policy": `default-src 'none'; script-src 'nonce-${nonce}'; ` +
      `style-src 'nonce-${nonce}'; img-src data:; connect-src 'self'; base-uri 'none'; ` +
      `form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'`,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
  };
  return new Response(PAGE.replaceAll("NONCE", nonce), { headers });
}

const PAGE = `<!doctype html>
<html lang="en"><title>Web chat</title>
<meta name="viewport" content="width=device-width, interactive-widget=resizes-content">
<link rel="icon" href="data:,">
<style nonce="NONCE">
:root { --page: #f3f4f1; --card: #fff; --ink: #1a211e; --soft: #57625c; --line: #dadfd9;
  --own: #0d6e5b; --mark: #0d6e5b; color-scheme: light dark; background: var(--page);
  color: var(--ink); font: 1rem/1.45 system-ui, sans-serif }
@media (prefers-color-scheme: dark) { :root { --page: #111513; --card: #1c221f; --ink: #e7ece9;
  --soft: #9faaa4; --line: #333c37; --own: #17695a; --mark: #63c9b0 } }
* { box-sizing: border-box; margin: 0; padding: 0; font: inherit; color: inherit; list-style: none }
[hidden] { display: none !important } ::placeholder { color: var(--soft) }
:focus-visible { outline: 2px solid var(--mark); outline-offset: 2px }
body, main { display: grid; grid: auto minmax(0, 1fr) auto / minmax(0, 1fr) }
header, aside, #log, #say { padding: .75rem max(1.25rem, 50% - 23rem); border: 0 solid var(--line) }
header, aside, #say { display: flex; gap: 1rem; align-items: baseline; background: var(--card) }
h1, h2 { flex: none } #state { margin-left: auto } aside { border-width: 0 0 1px; padding-top: 0 }
h1, h2, b, label, button { font-weight: 600 } .own .text { background: var(--own); color: #fff }
h2, ul, #state, .who, .note { font-size: .8125rem; color: var(--soft) }
#state::before { content: "● "; color: #c98a12 } .ready #state::before { color: #1f9d6b }
ul { display: flex; gap: 1rem; overflow-x: auto; color: var(--ink); white-space: nowrap }
ol { display: grid; align-content: end; min-height: 100%; overflow-wrap: anywhere }
ol li { display: grid; justify-items: start; margin-top: 1rem } .who { margin: 0 .875rem .125rem }
ol .own { justify-items: end } ol .note { justify-items: center; text-align: center } ol .more { margin-top: .25rem }
.text { max-width: 85%; padding: .5rem .875rem; border-radius: 1.125rem; background: var(--card) }
#log { overflow-y: auto; position: relative; outline-offset: -2px } #say { border-top-width: 1px }
input { flex: 1; min-width: 0; border: 1px solid var(--soft); background: var(--card) }
input, button { padding: .65rem 1.125rem; border-radius: .75rem }
button { border: 0; background: var(--own); color: #fff; cursor: pointer }
#door { display: grid; gap: 1rem; place-self: center; width: min(22rem, 100% - 2.5rem) }
#door label { font-size: 1.5rem; letter-spacing: -.02em } body { height: 100dvh }
.own b, .more .who { position: absolute; clip-path: inset(50%) }
</style>
<header><h1>Web chat</h1><p id="state" role="status">Not connected</p></header>
<form id="door">
  <label for="name">What is your name?</label>
  <input id="name" maxlength="${MAX_NAME}" required autofocus autocomplete="nickname">
  <button>Enter the room</button>
</form>
<main hidden>
  <aside><h2 id="here">Here now</h2><ul aria-labelledby="here" aria-live="polite"></ul></aside>
  <div id="log" role="log" aria-label="Messages" aria-live="off" tabindex="0"><ol></ol></div>
  <form id="say" autocomplete="off">
    <input id="text" maxlength="${MAX_TEXT}" placeholder="Message" aria-label="Message">
    <button>Send</button>
  </form>
</main>
<script nonce="NONCE">
const $ = (selector) => document.querySelector(selector);
const [log, list, text, door] = ["#log", "ol", "#text", "#door"].map($);
const make = (tag, parts) => Object.assign(document.createElement(tag), parts);
const random = () => Array.from(crypto.getRandomValues(new Uint8Array(9)), (n) => n + 100).join("");
const store = (() => { try { return localStorage } catch { return {} } })(); // it may be forbidden
let socket, retry, deaf, pending, run, me, end, last = 0, tries = 0, atEnd = true, key = random();
const send = (message) => socket?.readyState === 1 && socket.send(JSON.stringify(message));
const join = () => send({ name: $("#name").value, key, run, last });
const say = () => me && pending && send(pending);
function report(state, as = "") {
  me = as;
  document.body.className = me && "ready";
  $("#state").textContent = state + me + (pending && !me ? ", your message waits" : "");
}
function connect() {
  socket = new WebSocket(new URL("/room", location.origin.replace("http", "ws")));
  socket.onopen = join;
  socket.onclose = lose;
  socket.onmessage = ({ data }) => hear(JSON.parse(data));
  deaf = setTimeout(lose, 45000);
}
function lose({ reason } = {}) {
  [retry, deaf].forEach(clearTimeout);
  Object.assign(socket, { onopen: null, onclose: null, onmessage: null }).close();
  retry = setTimeout(connect, Math.min(10000, 500 * 2 ** tries++) * (.5 + Math.random() / 2));
  report("Reconnecting" + (reason ? " (" + reason + ")" : ""));
}
function hear({ run: now, name, missed, here, said = [], wait }) {
  clearTimeout(deaf); // a line may die and not tell, but on a live one each join has its answer
  deaf = setTimeout(lose, 45000);
  if (wait) setTimeout(say, wait * 1000);
  if (now) {
    if (run && run !== now) note("The server was started anew: something may have got lost");
    if (missed) note("Messages missed, as only the last 100 are kept: " + missed);
    if (!me) report(run ? "Reconnected as " : "Connected as ", name);
    [run, last, tries] = [now, run === now ? last : 0, 0];
  }
  said.forEach(show);
  if (now) say();
  if (here) $("ul").replaceChildren(...here.map((textContent) => make("li", { textContent })));
  if (door.hidden) return;
  [door.hidden, $("main").hidden] = [true, false];
  text.focus();
  setTimeout(() => log.ariaLive = "polite", 1000); // what is new from now on is read out
}
const note = (textContent) => list.append(make("li", { className: "note", textContent }));
function show({ n, id, name, text: words, at }) {
  last = Math.max(last, n);
  if (document.getElementById(id)) return; // said again to a server that was started anew
  const [date, former, who] = [new Date(at), list.lastChild, make("p", { className: "who" })];
  const more = former?.name === name && date - former.date < 300000 ? " more" : "";
  const item = make("li", { id, name, date, className: (name === me ? "own" : "") + more });
  const textContent = date.toLocaleTimeString([], { timeStyle: "short" });
  who.append(make("b", { textContent: name }), " ", make("time", { dateTime: at, textContent }));
  item.append(who, make("p", { className: "text", dir: "auto", textContent: words }));
  list.append(item);
  if (id !== pending?.id) return;
  text.value = text.value.replace(pending.text, "").trim();
  pending = undefined;
}
setInterval(join, 20000);
ononline = onoffline = () => socket && lose();
log.onscroll = () => atEnd = end - log.scrollTop < 40; // of what there was to see then
const settle = () => { end = log.scrollHeight - log.clientHeight; if (atEnd) log.scrollTop = end };
[log, list].forEach((part) => new ResizeObserver(settle).observe(part));
$("#name").value = store.name ?? "";
onsubmit = (event) => { // of either form
  event.preventDefault();
  store.name = $("#name").value;
  if (!socket) return connect();
  const words = text.value.trim();
  if (!words || me && pending) return;
  if (words !== pending?.text) pending = { id: random(), text: words };
  if (me) say(); else report("Reconnecting");
};
</script>`;

if (import.meta.main) {
  await main({
    name: "web_chat",
    about: "A chat room for browsers, on one page.",
    permissions: "--allow-net",
    flags: { ...httpFlags(8081), idleTimeout: flag("S", "time to answer a ping", seconds, "30") },
  }, async (flags) => {
    await serveHttp(flags, room(flags.idleTimeout / 1000), { ...flags, signal: stopSignal() });
  });
}
