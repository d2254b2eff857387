import { assert, assertEquals, assertMatch } from "@std/assert";
import type { Browser, ConsoleMessage, Page } from "playwright-core";
import { missing, type Program, start, temporaryFolder } from "../helpers.ts";
import { certificates, eventually } from "./peers.ts";

const CHROMIUM = "/usr/bin/chromium";
const ignore = missing("chromium");

/** What Chromium itself says while a server is away, and no page can keep it from. */
const AWAY = /^WebSocket connection to 'ws:\/\/127\.0\.0\.1:\d+\/room' failed: /;

/** A browser, and what went wrong in its pages. */
type Open = AsyncDisposable & { browser: Browser; wrong: string[] };

async function openBrowser(): Promise<Open> {
  const { chromium } = await import("playwright-core");
  const args = ["--disable-quic", "--no-first-run", "--disable-sync"];
  const browser = await chromium.launch({ executablePath: CHROMIUM, args });
  return { browser, wrong: [], [Symbol.asyncDispose]: () => browser.close() };
}

/** Opens the page in a browser of its own, as another person would. */
async function visit(
  { browser, wrong }: Open,
  port: number,
  options = {},
  scheme = "http",
): Promise<Page> {
  const context = await browser.newContext({ locale: "en-GB", ...options });
  const page = await context.newPage();
  page.on("console", (said: ConsoleMessage) => {
    if (!AWAY.test(said.text())) wrong.push(`${said.type()}: ${said.text()}`);
  });
  page.on("pageerror", (error) => wrong.push(`${error}`));
  page.on("requestfailed", (request) => wrong.push(`failed: ${request.url()}`));
  page.on("response", (response) => {
    if (response.status() !== 200) wrong.push(`${response.status()}: ${response.url()}`);
  });
  await page.goto(`${scheme}://127.0.0.1:${port}/`);
  return page;
}

/** Opens the page and enters the room. */
async function enter(
  open: Open,
  port: number,
  name: string,
  ...options: [options?: object, scheme?: string]
): Promise<Page> {
  const page = await visit(open, port, ...options);
  await page.getByLabel("What is your name?").fill(name);
  await page.keyboard.press("Enter");
  await state(page, /^Connected as /);
  return page;
}

/** Waits until the page says of its connection what matches. */
async function state(page: Page, pattern: RegExp): Promise<void> {
  const status = page.getByRole("status");
  await eventually(`${pattern}`, async () => pattern.test(await status.textContent() ?? ""));
}

/** Types a message and sends it off. */
async function say(page: Page, text: string): Promise<void> {
  await page.getByLabel("Message", { exact: true }).fill(text);
  await page.keyboard.press("Enter");
}

/** What the page shows to have been said, in order. */
async function said(page: Page): Promise<string[]> {
  return await page.locator("ol .text").allTextContents();
}

/** Waits until the pages show just these. */
async function show(pages: Page[], texts: string[]): Promise<void> {
  for (const page of pages) {
    const last = page.locator("ol .text").nth(texts.length - 1);
    await last.waitFor({ state: "attached", timeout: 20_000 }).catch(() => {});
    assertEquals(await said(page), texts);
  }
}

/** A line to a server that can be cut, or go dead, and work again. */
function line(to: number): AsyncDisposable & {
  port: number;
  cut: () => void;
  repair: () => void;
  freeze: (only?: "answers") => void;
} {
  let listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  const ends = new Set<Deno.TcpConn>();
  const dead = new Set<Deno.TcpConn>();
  const answering = new Set<Deno.TcpConn>();
  async function pump(from: Deno.TcpConn, to: Deno.TcpConn): Promise<void> {
    const buffer = new Uint8Array(65536);
    try {
      for (let n; (n = await from.read(buffer)) !== null;) {
        if (!dead.has(from)) await to.write(buffer.subarray(0, n));
      }
    } catch {
      // It was cut.
    }
    for (const conn of [from, to]) if (ends.delete(conn) && !dead.has(conn)) conn.close();
  }
  async function accept(): Promise<void> {
    const here = listener;
    try {
      for (;;) {
        const near = await here.accept();
        ends.add(near);
        const far = await Deno.connect({ hostname: "127.0.0.1", port: to });
        ends.add(far);
        answering.add(far);
        pump(near, far);
        pump(far, near);
      }
    } catch {
      // It was cut, or the server is away.
    }
  }
  let accepting = accept();
  const cut = () => {
    listener.close();
    for (const conn of ends) conn.close();
    ends.clear();
  };
  return {
    port,
    cut,
    repair() {
      listener = Deno.listen({ hostname: "127.0.0.1", port });
      accepting = accept();
    },
    freeze: (only) => (only ? answering : ends).forEach((conn) => dead.add(conn)),
    async [Symbol.asyncDispose]() {
      cut();
      await accepting;
    },
  };
}

Deno.test({
  name: "web_chat in Chromium: two people talk, and what they say and are called stays text",
  ignore,
  async fn() {
    await using server = start("web_chat", ["--port", "0"]);
    const port = await server.port();
    await using open = await openBrowser();
    const markup = "<img src=x onerror=alert(1)>";
    const ann = await enter(open, port, "Ann");
    const bob = await enter(open, port, "  Ann ");
    const eve = await enter(open, port, "<b>Eve</b>");
    const here = ["Ann", "Ann 2", "<b>Eve</b>"];
    for (const page of [ann, bob, eve]) {
      await eventually(
        "all are here",
        async () => `${await page.locator("ul li").allTextContents()}` === `${here}`,
      );
    }
    await state(bob, /^Connected as Ann 2$/);

    await say(ann, "Hello");
    await show([ann, bob, eve], ["Hello"]);
    await say(bob, "  Hi, \u202eAnn\u0007  ");
    await show([ann, bob, eve], ["Hello", "Hi, Ann"]);
    await say(eve, markup);
    const all = ["Hello", "Hi, Ann", markup];
    await show([ann, bob, eve], all);
    assertEquals(await ann.locator("ol b").allTextContents(), here);
    assertEquals(await ann.locator("ol img, ol b b, li li").count(), 0);
    assertEquals(await ann.getByLabel("Message", { exact: true }).inputValue(), "");

    // An hour that a program can read, too.
    const time = ann.locator("time").first();
    assertMatch(await time.getAttribute("datetime") ?? "", /^\d{4}-\d\d-\d\dT\d\d:\d\d:[\d.]+Z$/);
    assertMatch(await time.textContent() ?? "", /^\d\d:\d\d$/);

    // A reload has the name, and what was said.
    await ann.reload();
    assertEquals(await ann.getByLabel("What is your name?").inputValue(), "Ann");
    await ann.keyboard.press("Enter");
    await state(ann, /^Connected as Ann$/);
    await show([ann], all);
    assertEquals(open.wrong, []);
  },
});

Deno.test({
  name: "web_chat in Chromium talks over TLS as well",
  ignore: ignore || missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const { cert, key } = await certificates(folder.path);
    const tls = ["--port", "0", "--cert", cert, "--key", key];
    await using server = start("web_chat", tls, ["--allow-read"]);
    await using open = await openBrowser();
    const options = { ignoreHTTPSErrors: true };
    const port = await server.port();
    const ann = await enter(open, port, "Ann", options, "https");
    const bob = await enter(open, port, "Bob", options, "https");
    await say(ann, "Hello");
    await show([ann, bob], ["Hello"]);
    assertEquals(open.wrong, []);
  },
});

Deno.test({
  name: "web_chat in Chromium: killed and started again, it has the same people, and no text twice",
  ignore,
  async fn() {
    let server: Program = start("web_chat", ["--port", "0"]);
    try {
      const port = await server.port();
      await using wire = line(port);
      await using open = await openBrowser();
      const [ann, bob] = [await enter(open, wire.port, "Ann"), await enter(open, port, "Bob")];
      await say(bob, "zero");
      await show([ann, bob], ["zero"]);
      await say(ann, "one");
      await show([ann, bob], ["zero", "one"]);
      await say(bob, "two");
      await show([ann, bob], ["zero", "one", "two"]);
      // This one comes to Bob, and then the server dies before Ann hears of it.
      wire.freeze("answers");
      await say(ann, "three");
      await show([bob], ["zero", "one", "two", "three"]);

      server.signal("SIGKILL");
      await server.ended();
      wire.cut();
      await state(bob, /^Reconnecting$/);
      await state(ann, /^Reconnecting, your message waits$/);
      assertEquals(await ann.getByLabel("Message", { exact: true }).inputValue(), "three");
      await say(bob, "four");
      await state(bob, /^Reconnecting, your message waits$/);

      server = start("web_chat", ["--port", `${port}`]);
      await server.port();
      await state(bob, /^Reconnected as Bob$/);
      await show([bob], ["zero", "one", "two", "three", "four"]);
      wire.repair();
      await state(ann, /^Reconnected as Ann$/);
      await show([ann], ["zero", "one", "two", "four", "three"]);
      assertEquals(await ann.getByLabel("Message", { exact: true }).inputValue(), "");
      for (const page of [ann, bob]) {
        assertMatch(`${await page.locator(".note").allTextContents()}`, /^[^,]*started anew[^,]*$/);
      }

      // What is missed from now on is counted by the new server.
      wire.cut();
      await state(ann, /^Reconnecting/);
      await say(bob, "five");
      await show([bob], ["zero", "one", "two", "three", "four", "five"]);
      wire.repair();
      await state(ann, /^Reconnected as Ann$/);
      await show([ann], ["zero", "one", "two", "four", "three", "five"]);
      await say(ann, "six");
      await show([bob], ["zero", "one", "two", "three", "four", "five", "six"]);
      await show([ann], ["zero", "one", "two", "four", "three", "five", "six"]);
      assertEquals(open.wrong, []);
    } finally {
      await server[Symbol.asyncDispose]();
    }
  },
});

Deno.test({
  name: "web_chat in Chromium: who was offline gets what they missed, on a dead line as well",
  ignore,
  async fn() {
    await using server = start("web_chat", ["--port", "0"]);
    const port = await server.port();
    await using wire = line(port);
    await using open = await openBrowser();
    const bob = await enter(open, port, "Bob");
    const ann = await visit(open, wire.port);
    await ann.clock.install();
    await ann.reload();
    await ann.getByLabel("What is your name?").fill("Ann");
    await ann.keyboard.press("Enter");
    await state(ann, /^Connected as Ann$/);
    await say(ann, "one");
    await show([ann, bob], ["one"]);

    wire.cut();
    await state(ann, /^Reconnecting/);
    await eventually(
      "Ann is gone",
      async () => `${await bob.locator("ul li").allTextContents()}` === "Bob",
    );
    await say(bob, "two");
    await say(ann, "four");
    await show([bob], ["one", "two"]);
    await say(bob, "three");
    await show([bob], ["one", "two", "three"]);
    wire.repair();
    await state(ann, /^Reconnected as Ann$/);
    await show([ann, bob], ["one", "two", "three", "four"]);
    assertEquals(await ann.locator(".note").count(), 0);

    // Nobody says that this line is dead. For the server she is still there: it is her name.
    wire.freeze();
    await say(bob, "five");
    await show([bob], ["one", "two", "three", "four", "five"]);
    await say(ann, "six");
    assertEquals(await said(ann), ["one", "two", "three", "four"]);
    await ann.clock.fastForward(46_000);
    await show([ann, bob], ["one", "two", "three", "four", "five", "six"]);
    await state(ann, /^Reconnected as Ann$/);
    assertEquals(await bob.locator("ul li").allTextContents(), ["Bob", "Ann"]);
    assertEquals(open.wrong, []);
  },
});

Deno.test({
  name: "web_chat in Chromium works with a keyboard and a screen reader",
  ignore,
  async fn() {
    await using server = start("web_chat", ["--port", "0"]);
    const port = await server.port();
    await using open = await openBrowser();
    const page = await visit(open, port);
    const focused = () =>
      page.evaluate("document.activeElement.id || document.activeElement.textContent");
    const press = (key: string) => page.keyboard.press(key);
    assertEquals(await focused(), "name");
    assertMatch(
      await page.locator("body").ariaSnapshot(),
      /textbox "What is your name\?".*\n.*button "Enter the room"/,
    );
    await press("Enter"); // a name is wanted
    assertEquals(await page.getByRole("status").textContent(), "Not connected");
    await page.keyboard.type("Ann");
    await press("Tab");
    assertEquals(await focused(), "Enter the room");
    await press("Space");
    await state(page, /^Connected as Ann$/);
    assertEquals(await focused(), "text");
    await page.keyboard.type("by Enter");
    await press("Enter");
    await show([page], ["by Enter"]);
    assertEquals(await focused(), "text");
    await page.keyboard.type("by the button");
    await press("Tab");
    assertEquals(await focused(), "Send");
    const outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle");
    assertEquals(outline, "solid");
    await press("Enter");
    await show([page], ["by Enter", "by the button"]);
    await press("Shift+Tab");
    await press("Shift+Tab");
    assertEquals(await focused(), "log");

    const tree = await page.locator("body").ariaSnapshot();
    assertMatch(tree, /^- banner:/m);
    assertMatch(tree, /heading "Web chat" \[level=1\]/);
    assertMatch(tree, /status: .*Connected as Ann/);
    assertMatch(tree, /heading "Here now" \[level=2\]/);
    assertMatch(tree, /list "Here now":\n +- listitem: Ann/);
    assertMatch(tree, /log "Messages".*:\n +- list:\n +- listitem/);
    assertMatch(tree, /textbox "Message"/);
    assertMatch(tree, /button "Send"/);
    // The name is there for those who hear the page, if it is not shown.
    assertEquals((await page.getByRole("log").ariaSnapshot()).match(/Ann/g)?.length, 2);
    await eventually(
      "what is new is read out",
      async () => await page.getByRole("log").getAttribute("aria-live") === "polite",
    );
    assertEquals(await page.evaluate("document.documentElement.lang"), "en");
    assertEquals(open.wrong, []);
  },
});

/** In a page: the contrast (WCAG 2.2) of what is on it, by what it is. */
const CONTRASTS = `(() => {
  const rgb = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const [r, g, b] = rgb(color).map((c) => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (rgb(color)[3] !== 0) return color;
    }
  };
  const ratio = (a, b) => {
    const [low, high] = [light(a), light(b)].sort((a, b) => a - b);
    return (high + .05) / (low + .05);
  };
  const found = {};
  for (const what of ["h1", "h2", "label", "#state", "ul li", ".who b", "time", ".note", ".text",
    ".own .text", "input", "button"]) {
    const elements = Array.from(document.querySelectorAll(what)).filter((e) => e.offsetParent);
    for (const e of elements) {
      found[what] = Math.min(found[what] ?? 99, ratio(getComputedStyle(e).color, behind(e)));
      if (what !== "input") continue;
      found.placeholder = ratio(getComputedStyle(e, "::placeholder").color, behind(e));
      found.border = 1.5 * ratio(getComputedStyle(e).borderTopColor, behind(e.parentElement));
    }
  }
  const focus = getComputedStyle(document.activeElement);
  found.focus = 1.5 * ratio(focus.outlineColor, behind(document.activeElement.parentElement));
  return found;
})()`; // for what is not text 3 is enough, where text needs 4.5

Deno.test({
  name: "web_chat in Chromium can be read in both themes, on a desk and on a phone",
  ignore,
  async fn() {
    await using server = start("web_chat", ["--port", "0"]);
    const port = await server.port();
    await using open = await openBrowser();
    const backgrounds = new Set<unknown>();
    const bob = await enter(open, port, "Bob");
    await say(bob, `A word without an end: ${"x".repeat(300)}`);
    for (const colorScheme of ["light", "dark"]) {
      const page = await visit(open, port, { colorScheme, viewport: { width: 320, height: 568 } });
      const check = async (wanted: string[]) => {
        const found = Object.entries(await page.evaluate(CONTRASTS) as Record<string, number>);
        for (const what of wanted) assert(found.some(([name]) => name === what), what);
        assertEquals(found.filter(([, ratio]) => ratio < 4.5), [], colorScheme);
        backgrounds.add(
          await page.evaluate("getComputedStyle(document.documentElement).backgroundColor"),
        );
      };
      const fits = () =>
        page.evaluate(`[document.documentElement.scrollWidth <= innerWidth,
          document.documentElement.scrollHeight <= innerHeight && log.scrollWidth <= log.clientWidth,
          Math.round(document.querySelector("#text").getBoundingClientRect().bottom) <= innerHeight]`);
      await check(["h1", "label", "input", "button", "#state", "border", "focus"]);
      await page.getByLabel("What is your name?").fill("A long name for small phone");
      await page.keyboard.press("Enter");
      await state(page, /^Connected as /);
      await say(page, "Mine");
      await page.locator(".own").first().waitFor();
      await page.evaluate('note("A note")');
      await check([
        ...["h1", "h2", "#state", "ul li", ".who b", "time", ".note", ".text", ".own .text"],
        ...["input", "placeholder", "button", "border", "focus"],
      ]);
      for (const [width, height] of [[320, 568], [390, 844], [1280, 800], [1280, 320]]) {
        await page.setViewportSize({ width, height });
        assertEquals(await fits(), [true, true, true], `${width}x${height}`);
      }
      await page.emulateMedia({ reducedMotion: "reduce" });
      assertEquals(await page.evaluate("document.getAnimations().length"), 0);
      await page.context().close();
    }
    assertEquals(backgrounds.size, 2, "one for each theme");
    assertEquals(open.wrong, []);
  },
});

Deno.test({
  name: "web_chat in Chromium stays at the last message, unless somebody reads further up",
  ignore,
  async fn() {
    await using server = start("web_chat", ["--port", "0"]);
    const port = await server.port();
    await using open = await openBrowser();
    for (const name of ["Crowd", "Crowd", "Crowd"]) { // a few each, as fast as they may
      const page = await enter(open, port, name);
      const before = (await said(page)).length;
      for (let i = 0; i < 4; i++) {
        await say(page, `${"A longer text. ".repeat(20)}${before + i}`);
        await page.locator("ol .text").nth(before + i).waitFor();
      }
      await page.context().close();
    }
    const viewport = { width: 390, height: 600 };
    const [ann, bob] = [
      await enter(open, port, "Ann", { viewport }),
      await enter(open, port, "Bob"),
    ];
    const fromEnd = () =>
      ann.evaluate("Math.round(log.scrollHeight - log.scrollTop - log.clientHeight)");
    const position = () => ann.evaluate("log.scrollTop");
    await eventually("at the end", async () => await fromEnd() === 0);
    await say(bob, "one");
    await ann.getByText("one", { exact: true }).waitFor();
    await eventually("still at the end", async () => await fromEnd() === 0);
    // Some come before the page is told that it was scrolled for those before.
    await ann.evaluate(`new Promise((resolve) => {
      let left = 50;
      const timer = setInterval(() => {
        const id = String(left).padStart(20, "0");
        show({ n: 1, id, name: "Crowd", text: "A longer text. ".repeat(20), at: "2026-01-01" });
        if (--left === 0) resolve(clearInterval(timer));
      }, 1);
    })`);
    await eventually("at the end of many", async () => await fromEnd() === 0);
    await ann.setViewportSize({ width: 390, height: 300 }); // as when a keyboard comes up
    await eventually("at the end on less room", async () => await fromEnd() === 0);

    await ann.evaluate("log.scrollTop = 100");
    await eventually("further up", async () => await position() === 100);
    await say(bob, "two");
    await ann.getByText("two", { exact: true }).waitFor({ state: "attached" });
    assertEquals(await position(), 100);
    assertEquals(await ann.evaluate("document.documentElement.scrollHeight <= innerHeight"), true);

    await ann.getByRole("log").focus();
    await ann.keyboard.press("End");
    await eventually("at the end again", async () => await fromEnd() === 0);
    await say(bob, "three");
    await ann.getByText("three", { exact: true }).waitFor();
    await eventually("and it stays there", async () => await fromEnd() === 0);
    assertEquals(open.wrong, []);
  },
});
