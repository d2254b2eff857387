import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { concat } from "@std/bytes/concat";
import { createServer } from "node:net";
import { UsageError } from "../../lib/address.ts";
import { FramedConn, LimitError } from "../../lib/framing.ts";
import * as client from "../../scripts/gopher_client.ts";
import { parseMap } from "../../scripts/gopher_server.ts";
import { command, mayRun, missing, type Program, run, start, temporaryFolder } from "../helpers.ts";
import { latin1, octets, type Piece, random, receiving } from "../lib/wire.ts";
import { ask, dial, eventually, hear, memory } from "../peers/peers.ts";
import { FILES, inEachForm, onTerminal, testServer } from "./rig.ts";

const ignore = !mayRun;
const MISSING = "3no such file or folder\t\tnull.host\t1\r\n.\r\n";

/** Makes files, and folders of names that end with a slash. */
async function fill(folder: string, files: Record<string, string>): Promise<void> {
  for (const [name, data] of Object.entries(files)) {
    const path = `${folder}/${name}`;
    await Deno.mkdir(path.replace(/[^/]*$/, ""), { recursive: true });
    if (!path.endsWith("/")) await Deno.writeFile(path, octets(data));
  }
}

/** Starts a server of ours on the folder `root` of a folder. */
async function serving(
  folder: string,
  ...flags: string[]
): Promise<{ server: Program; port: number }> {
  const server = start("gopher_server", ["--port", "0", ...flags, `${folder}/root`]);
  return { server, port: await server.port() };
}

/** The answer to a selector. */
const get = (port: number, selector: string) => ask(port, `${selector}\r\n`);

/** A menu's lines, each without the host and port, which must be these. */
function lines(menu: string, host: string, port: number): string[] {
  assert(menu.endsWith("\r\n.\r\n"), menu);
  return menu.split("\r\n").slice(0, -2).map((line) => {
    if (/^[3i]/.test(line)) return line.replace("\t\tnull.host\t1", "");
    assert(line.endsWith(`\t${host}\t${port}`), line);
    return line.slice(0, -`\t${host}\t${port}`.length);
  });
}

Deno.test({
  name: "gopher_server: a folder's menu, with each type of item, and none that is not to be seen",
  ignore,
  async fn() {
    await using folder = await temporaryFolder();
    await fill(folder.path, {
      "outside": "secret",
      "root/.hidden": "secret",
      "root/.git/config": "secret",
      "root/a b/ä?#%&.txt": "x",
      "root/tab\there": "x",
      "root/line\nend.txt": "x",
      "root/bell\x07": "x",
      "root/a.TXT": "x",
      "root/page.html": "<p>",
      "root/p.gif": "x",
      "root/p.png": "x",
      "root/p.tar.gz": "x",
      "root/p.pdf": "x",
      "root/README": "text, \xc3\xa4",
      "root/cut": "x".repeat(1023) + "\xc3\xa4",
      "root/empty": "",
      "root/nul": "text\0",
      "root/octets": "\xff\xfe",
    });
    await Deno.symlink("a b", `${folder.path}/root/to-folder`);
    await Deno.symlink("README", `${folder.path}/root/to-file.png`);
    await Deno.symlink(`${folder.path}/outside`, `${folder.path}/root/out.txt`);
    await Deno.symlink(folder.path, `${folder.path}/root/up`);
    await Deno.symlink("nowhere", `${folder.path}/root/broken`);
    await Deno.symlink("loop", `${folder.path}/root/loop`);
    await new Deno.Command("mkfifo", { args: [`${folder.path}/root/pipe`] }).output();
    const { server, port } = await serving(folder.path);
    await using _ = server;
    const menu = [
      "7Search below this folder\t/",
      "0README\t/README",
      "1a b\t/a b",
      "0a.TXT\t/a.TXT",
      "0cut\t/cut",
      "0empty\t/empty",
      "9nul\t/nul",
      "9octets\t/octets",
      "gp.gif\t/p.gif",
      "9p.pdf\t/p.pdf",
      "Ip.png\t/p.png",
      "5p.tar.gz\t/p.tar.gz",
      "hpage.html\t/page.html",
      "Ito-file.png\t/to-file.png",
      "1to-folder\t/to-folder",
    ];
    for (const selector of ["", "/", "//"]) {
      assertEquals(lines(await get(port, selector), "127.0.0.1", port), menu);
    }
    assertEquals(await ask(port, "\n"), await get(port, "/"));
    for (const selector of ["/a b", "a b", "a b/", "/to-folder"]) {
      const path = `/${selector.replaceAll("/", "")}`;
      assertEquals(lines(await get(port, selector), "127.0.0.1", port), [
        `7Search below this folder\t${path}`,
        `0ä?#%&.txt\t${path}/ä?#%&.txt`,
      ]);
    }
    assertEquals(await get(port, "/a b/ä?#%&.txt"), "x\r\n.\r\n");
    assertEquals(await get(port, "/a.TXT\tignored"), "x\r\n.\r\n");
    assertEquals(await get(port, "/page.html"), "<p>");
    assertEquals(await get(port, "/to-file.png"), "text, ä");
  },
});

/** What RFC 1436 makes of a text, written in another way. */
function dotted(text: string): string {
  const lines = text.split(/\r?\n/);
  if (lines.at(-1) === "") lines.pop();
  return [...lines.map((line) => line.replace(/^\./, "..")), ".", ""].join("\r\n");
}

Deno.test({
  name: "gopher_server: texts have a dot at the end and others stuffed, all else goes as it is",
  ignore,
  async fn() {
    await using folder = await temporaryFolder();
    const root = `${folder.path}/root`;
    const texts = [
      "",
      "a",
      "a\n",
      "a\r\nb\n",
      ".",
      ".\n",
      "..a\n.\n\n.b",
      "\n",
      "\n\n.",
      "a\rb.\n",
    ];
    // Dots and line ends at each place around the end of a piece of 64 KiB.
    for (const text of ["\n.\n", "\r\n.\r\n", "\n..\n.\n"]) {
      for (let i = 0; i <= text.length; i++) texts.push("x".repeat(65536 - i) + text + "end\n");
    }
    const binary = latin1(new Uint8Array(200_000).map((_, i) => i * i >> 3));
    await fill(root, {
      ...Object.fromEntries(texts.map((text, i) => [`${i}.txt`, text])),
      "binary.png": binary,
      "none.bin": "",
    });
    const { server, port } = await serving(folder.path);
    await using _ = server;
    for (const [i, text] of texts.entries()) {
      assert(await get(port, `/${i}.txt`) === dotted(text), JSON.stringify(text.slice(-20)));
    }
    using conn = await dial(port);
    await conn.writeAll("/binary.png\r\n");
    assert(latin1(await conn.readToEnd(1e6)) === binary);
    assertEquals(await get(port, "/none.bin"), "");
  },
});

Deno.test({
  name: "gopher_server: a search by name, below a folder and within bounds",
  ignore,
  async fn() {
    await using folder = await temporaryFolder();
    const deep = Array.from({ length: 20 }, (_, i) => `d${i}`).join("/");
    await fill(`${folder.path}/root`, {
      "one.txt": "",
      "sub/Two One.txt": "",
      "sub/deeper/ONE.png": "",
      "sub/deeper/one/": "",
      "sub/.one": "",
      ".git/one": "",
      [`deep/${deep}/needle`]: "",
      "deep/needle": "",
    });
    await Deno.symlink("../..", `${folder.path}/root/sub/one-loop`);
    await Deno.symlink("..", `${folder.path}/root/sub/one-in`);
    const { server, port } = await serving(folder.path);
    await using _ = server;
    const search = async (selector: string, words: string) =>
      lines(await get(port, `${selector}\t${words}`), "127.0.0.1", port);
    assertEquals(await search("/sub", "one"), [
      "0Two One.txt\t/sub/Two One.txt",
      "1one-in\t/sub/one-in",
      "Ideeper/ONE.png\t/sub/deeper/ONE.png",
      "1deeper/one\t/sub/deeper/one",
    ]);
    assertEquals(await search("", " .TXT  oNe "), [
      "0one.txt\t/one.txt",
      "0sub/Two One.txt\t/sub/Two One.txt",
      "i(not everything was looked at)", // but 16 folders deep
    ]);
    assertEquals(await search("/sub", "two three"), ["inothing found"]);
    assertEquals((await search("/deep", "needle"))[0], "0needle\t/deep/needle");
    for (const words of ["", "  ", "\tone"]) {
      assertEquals(await get(port, `/sub\t${words}`), await get(port, "/sub"));
    }
    // Gopher+, of which there is just enough for a client to go on without it.
    const info = `+-1\r\n+INFO: 1Menu\t/sub\t127.0.0.1\t${port}\r\n.\r\n`;
    assertEquals(await get(port, "/sub\t$"), info);
    for (const selector of ["/none\tone", "/..\tone", "/one.txt/\0\tone"]) {
      assertEquals(await get(port, selector), MISSING);
    }
  },
});

Deno.test({
  name: "gopher_server: a folder of 10,001 files is cut, and that is said",
  ignore,
  async fn() {
    await using folder = await temporaryFolder();
    await Deno.mkdir(`${folder.path}/root/many`, { recursive: true });
    const create = "cd $0 && seq -f %g.txt 10001 | xargs touch";
    const made = await new Deno.Command("sh", { args: ["-c", create, `${folder.path}/root/many`] })
      .output();
    assert(made.success);
    const { server, port } = await serving(folder.path);
    await using _ = server;
    for (const selector of ["/many", "/many\tTXT"]) {
      const menu = lines(await get(port, selector), "127.0.0.1", port);
      assertEquals(menu.at(-1), "i(not everything was looked at)");
      // On a busy machine the time is over before.
      assert(menu.length > 1 && menu.length <= 10_002, `${menu.length}`);
    }
  },
});

/** Selectors that lead out of the root, or to what is hidden there, or nowhere. */
function escapes(folder: string): string[] {
  const up = [
    "..",
    "../",
    "../outside",
    "..//outside",
    "sub/../../outside",
    "sub/../a.txt",
    "./a.txt",
  ];
  return [
    ...up.flatMap((path) => [path, `/${path}`, `//${path}`]),
    ...["...", ".", "/.", "..\\outside", "sub\\..\\..\\outside", "/~", "~root", "/sub/.."],
    ...[
      "%2e%2e/outside",
      "/%2e%2e%2foutside",
      "..%2foutside",
      "..%00/outside",
      "%252e%252e/outside",
    ],
    ...["\u2025/outside", "\uff0e\uff0e/outside", "..\u2215outside", "\xc0\xae\xc0\xae/outside"],
    ...[`${folder}/outside`, `/${folder}/root/a.txt`, "/etc/passwd", "file:///etc/passwd"],
    ...["link", "folder/outside", "folder", "sub/link", "dangling", "loop", "loop/x", "sibling/x"],
    ...["a.txt/x", "sub/none", "pipe", "a.txt\0", "\0", "a\0.txt", "../outside\0.txt"],
    ...[".hidden", "/.git/config", ".git", "sub/.hidden", "tab here", "x".repeat(300)],
    ...[
      "/".repeat(300) + "..",
      "sub/".repeat(900) + "x",
      "a.txt\rx",
      "a.txt\x1b",
      "GET / HTTP/1.1",
    ],
    ...["URL:", "URL:javascript:alert(1)", 'URL:http://a/"\x1b', "URL:file:///etc/passwd"],
    ...["gophermap/..", "+", "$", "/a.txt\x0b", "\u202ea.txt"],
  ];
}

Deno.test({
  name: "gopher_server: no selector leads out of the root, by any spelling or link",
  ignore,
  async fn() {
    await using folder = await temporaryFolder();
    const root = `${folder.path}/root`;
    await fill(folder.path, {
      "outside": "secret",
      "root-too/x": "secret",
      "root/a.txt": "alpha",
      "root/.hidden": "secret",
      "root/.git/config": "secret",
      "root/sub/.hidden": "secret",
      "root/tab\there": "x",
      "root/map/file.txt": "x",
    });
    for (
      const [to, name] of [
        [`${folder.path}/outside`, "link"],
        ["../../outside", "sub/link"],
        [folder.path, "folder"],
        ["../root-too", "sibling"],
        ["nowhere", "dangling"],
        ["loop", "loop"],
        ["../../outside", "map/gophermap"],
      ]
    ) await Deno.symlink(to, `${root}/${name}`);
    await new Deno.Command("mkfifo", { args: [`${root}/pipe`] }).output();
    const { server, port } = await serving(folder.path);
    await using _ = server;
    for (const selector of escapes(folder.path)) {
      for (const asked of [selector, `${selector}\twords`]) {
        assertEquals(await get(port, asked), MISSING, JSON.stringify(asked));
      }
    }
    assertEquals(
      lines(await get(port, "/map"), "127.0.0.1", port).at(-1),
      "0file.txt\t/map/file.txt",
    );
    assertEquals(await get(port, "/folder/root/a.txt"), "alpha\r\n.\r\n"); // and in again
    assertEquals(
      await get(port, "URL:https://a.test/?b=1&c='\"<"),
      '<a href="https://a.test/?b=1&amp;c=&#39;&quot;&lt;">' +
        "https://a.test/?b=1&amp;c=&#39;&quot;&lt;</a>\n",
    );
    assertEquals(server.stderr.split("\n").length, 2, server.stderr);
  },
});

Deno.test("parseMap fills in what a gophermap leaves out", () => {
  const here = "192.0.2.1\t8070";
  for (
    const [line, names, item] of [
      ["Welcome", [], "iWelcome\t\tnull.host\t1"],
      ["", [], "i\t\tnull.host\t1"],
      ["0no tab", [], "i0no tab\t\tnull.host\t1"],
      ["\tno\ttype", [], "i no type\t\tnull.host\t1"],
      ["0a.txt\t", ["s"], `0a.txt\t/s/a.txt\t${here}`],
      ["0A\ta.txt", ["s", "t"], `0A\t/s/t/a.txt\t${here}`],
      ["0A\t/a.txt", ["s"], `0A\t/a.txt\t${here}`],
      ["1Up\t..", ["s", "t"], `1Up\t/s\t${here}`],
      ["1Up\t../../../..", ["s"], `1Up\t/\t${here}`],
      ["1Root\t/", ["s"], `1Root\t/\t${here}`],
      ["7Find\t/sub", [], `7Find\t/sub\t${here}`],
      ["hWeb\tURL:http://a.test/../b", ["s"], `hWeb\tURL:http://a.test/../b\t${here}`],
      ["1There\t\thost.test", ["s"], "1There\tThere\thost.test\t70"],
      ["1There\tx\thost.test\t71", ["s"], "1There\tx\thost.test\t71"],
      ["1There\t/x\thost.test\t71\t+", [], "1There\t/x\thost.test\t71"],
      ["iinfo\tfake\t(NULL)\t0", [], "iinfo\tfake\t(NULL)\t0"],
    ] as const
  ) {
    assertEquals(parseMap(`first\r\n${line}\nlast\n\n`, [...names], here).slice(1, -1), [item]);
  }
});

Deno.test({
  name: "gopher_server: a gophermap is the menu, and one that cannot be read is an error",
  ignore,
  async fn() {
    await using folder = await temporaryFolder();
    const map = "Welcome\n.\n0A text\ta.txt\n";
    await fill(folder.path, { "root/gophermap": map, "root/a.txt": "alpha\n", "root/sub/x": "" });
    await Deno.mkdir(`${folder.path}/root/sub/gophermap`);
    const { server, port } = await serving(folder.path);
    await using _ = server;
    assertEquals(lines(await get(port, ""), "127.0.0.1", port), [
      "iWelcome",
      "i.",
      "0A text\t/a.txt",
    ]);
    assertEquals(lines(await get(port, "/sub"), "127.0.0.1", port).length, 3);
    if (Deno.uid() === 0) return; // who may read everything
    await Deno.chmod(`${folder.path}/root/gophermap`, 0);
    assertEquals(await get(port, ""), "3there is no answer to that\t\tnull.host\t1\r\n.\r\n");
    await server.until(/: [^\n]*permission denied[^\n]*\n$/, "stderr");
  },
});

Deno.test({
  name: "gopher_server: a menu has the address at which the client came, in each form",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    await fill(folder.path, { "root/a.txt": "alpha\n", "root/b.bin": "\0\n." });
    const root = `${folder.path}/root`;
    const places = { plain: "127.0.0.1", IPv6: "[::1]", TLS: "127.0.0.1" };
    for await (
      const { form, server, ask: found } of inEachForm("gopher_server", folder.path, [root])
    ) {
      if (form === "Unix") {
        const menu = await ask({ unix: found[1] }, "\r\n");
        assertEquals(lines(menu, "localhost", 70)[1], "0a.txt\t/a.txt");
      } else {
        const [, port, ...rest] = found;
        const place = places[form as keyof typeof places];
        const flags = rest.slice(rest.indexOf("--ca")).filter(() => form === "TLS");
        const url = `${form === "TLS" ? "gophers" : "gopher"}://${place}:${port}`;
        const of = async (path: string) => {
          const { code, stdout, stderr } = await run("gopher_client", [...flags, url + path], {
            permissions: FILES,
          });
          assertEquals([code, stderr], [0, ""], form);
          return stdout;
        };
        const menu = `${await of("")}.\r\n`;
        assertEquals(lines(menu, place, Number(port))[1], "0a.txt\t/a.txt");
        assertEquals(await of("/0/a.txt"), "alpha\r\n");
        assertEquals(await of("/9/b.bin"), "\0\n.");
        assertEquals(await of("/7/%09B.b"), `9b.bin\t/b.bin\t${place}\t${port}\r\n`);
      }
      server.signal("SIGINT");
      const { code, stderr } = await server.ended();
      assertEquals([code, stderr.replaceAll(/^.*: (listening on |stopping, ).*\n/gm, "")], [0, ""]);
    }
    await using server = start("gopher_server", ["--host", "0.0.0.0", "--port", "0", root]);
    const port = await server.port();
    for (const host of ["127.0.0.1", "127.0.0.2"]) {
      assertEquals(lines(await ask({ host, port }, "\r\n"), host, port).length, 3);
    }
  },
});

Deno.test({
  name: "gopher_server: rude clients get what they deserve, and others their answers",
  ignore,
  async fn() {
    await using folder = await temporaryFolder();
    await fill(folder.path, { "root/a.txt": "alpha\n" });
    for (const name of ["large.bin", "large.txt"]) {
      using file = await Deno.create(`${folder.path}/root/${name}`);
      await file.truncate(100_000_000);
    }
    const { server, port } = await serving(folder.path, "--idle-timeout", "1");
    await using _ = server;
    const answers = async () => assertEquals(await get(port, "/a.txt"), "alpha\r\n.\r\n");
    const unanswered = "3there is no answer to that\t\tnull.host\t1\r\n.\r\n";

    using silent = await dial(port);
    const unread = await Promise.all(["large.bin", "large.txt"].map(async (name) => {
      const conn = await dial(port);
      await conn.writeAll(`/${name}\r\n`);
      return conn;
    }));
    await answers();
    assertEquals(await ask(port, "x".repeat(100_000)), unanswered);
    await server.until(/: line of more than 4096 bytes\n/, "stderr");
    assertEquals(await get(port, "x".repeat(4094)), MISSING);
    using slow = await dial(port);
    for (const octet of "/a.txt\r\n") {
      await slow.writeAll(octet);
      await answers();
    }
    assertEquals(await hear(slow), "alpha\r\n.\r\n");
    for (const said of ["", "/a.txt", "/large.bin\r\n", "/large.txt\r\n"]) {
      for (const half of [false, true]) {
        using conn = await dial(port);
        await conn.writeAll(said);
        if (half && !said.includes("large")) await conn.conn.closeWrite();
        if (half) await conn.readable();
      }
    }
    await answers();
    using cut = await dial(port);
    await cut.writeAll("/a.txt");
    await cut.conn.closeWrite();
    assertEquals(await hear(cut), unanswered);
    // A browser that is told of http://127.0.0.1:8070/.
    const request = `GET / HTTP/1.1\r\nHost: 127.0.0.1:${port}\r\n\r\n`;
    assertEquals(await ask(port, request), MISSING);
    assertEquals(await ask(port, `POST /a.txt HTTP/1.1\r\n\r\n${"x".repeat(1e6)}`), MISSING);

    assertEquals(await hear(silent), "");
    await eventually(
      "who does not read is closed, too",
      () => server.stderr.split("closed, silent for 1 s").length > 3,
    );
    for (const conn of unread) conn.close();
    await answers();
    assert(memory(server, "VmHWM") < 200 * 1024, `${memory(server, "VmHWM")} KiB`);
  },
});

Deno.test({
  name:
    "gopher_server: a file that becomes shorter while it is sent is said, and a text has no end",
  ignore,
  async fn() {
    await using folder = await temporaryFolder();
    await fill(folder.path, { "root/": "" });
    const path = `${folder.path}/root/large.txt`;
    {
      using file = await Deno.create(path);
      await file.truncate(50_000_000);
    }
    const { server, port } = await serving(folder.path);
    await using _ = server;
    using conn = await dial(port);
    await conn.writeAll("/large.txt\r\n");
    await conn.readable();
    await Deno.truncate(path, 10);
    let [size, last] = [0, 1];
    for (let data; (data = await conn.readSome()) !== null;) {
      size += data.length;
      last = data[data.length - 1];
    }
    assertEquals([size < 50_000_000, last], [true, 0]);
    await server.until(/large\.txt: it became \d+ bytes shorter while it was sent\n/, "stderr");
  },
});

Deno.test({
  name: "gopher_server answers 500 selectors of junk, and a good one after each tenth",
  ignore,
  async fn() {
    await using folder = await temporaryFolder();
    await fill(folder.path, {
      "outside": "secret",
      "root/a.txt": "alpha\n",
      "root/sub/b.bin": "beta",
    });
    await Deno.symlink(folder.path, `${folder.path}/root/up`);
    const { server, port } = await serving(folder.path);
    await using _ = server;
    const chance = random(7);
    const words = [
      ..."/ . .. \t \0 a.txt sub b.bin up outside URL: http: $ + % \\ root é".split(" "),
    ];
    for (let i = 0; i < 500; i++) {
      const parts = Array.from({ length: 1 + chance(8) }, () => {
        const word = words[chance(words.length)];
        return chance(5) > 0 ? word : String.fromCharCode(chance(256));
      });
      const said = octets(
        parts.map((part) => latin1(new TextEncoder().encode(part))).join("") + "\n",
      );
      const answer = await ask(port, said);
      assert(!answer.includes("secret"), latin1(said));
      assertMatch(answer, /^(?:[01379h+i][^]*\r\n\.\r\n|alpha\r\n\.\r\n|beta|<a href=[^]*)$/);
      if (i % 10 === 0) assertEquals(await get(port, "/sub/b.bin"), "beta");
    }
  },
});

const AT = { host: "192.0.2.1", port: 70, tls: false };

Deno.test("parseUrl reads what RFC 4266 has, and sends nothing that would be two lines", () => {
  for (
    const [url, type, selector, words] of [
      ["gopher://192.0.2.1", "1", "", undefined],
      ["gopher://192.0.2.1/", "1", "", undefined],
      ["gopher://192.0.2.1:70/1", "1", "", undefined],
      ["GOPHER://192.0.2.1/0", "0", "", undefined],
      ["gopher://192.0.2.1/0/a.txt", "0", "/a.txt", undefined],
      ["gopher://192.0.2.1/00/a.txt", "0", "0/a.txt", undefined],
      ["gopher://192.0.2.1/0a%20b/../%C3%A4?c#d", "0", "a b/../ä?c#d", undefined],
      ["gopher://192.0.2.1/7/find%09two words", "7", "/find", "two words"],
      ["gopher://192.0.2.1/7%09", "7", "", ""],
      ["gopher://192.0.2.1/hURL:http://a.test/", "h", "URL:http://a.test/", undefined],
    ] as const
  ) {
    assertEquals(client.parseUrl(url), { type, text: url, selector, words, ...AT }, url);
  }
  const { host, port, tls } = client.parseUrl("gophers://[2001:db8::1]:7070/");
  assertEquals([host, port, tls], ["2001:db8::1", 7070, true]);
  for (
    const url of [
      ...["", "gopher:", "gopher://", "gopher:///", "http://192.0.2.1/", "192.0.2.1", "gopher:/x/"],
      ...["gopher://192.0.2.1:70000/", "gopher://192.0.2.1:x/", "gopher://[::1/", "gopher://a b/"],
      ...[
        "gopher://me@192.0.2.1/",
        "gopher://192.0.2.1?x",
        "gopher://192.0.2.1#x",
        "gopher://unix:x",
      ],
      ...["%0a", "%0D", "%00", "a\nb", "%09a%09b", "%09a%0a", "%", "%zz", "%ff"].map((path) =>
        `gopher://192.0.2.1/0${path}`
      ),
    ]
  ) assertThrows(() => client.parseUrl(url), UsageError, "");
});

Deno.test("parseMenu reads items, and takes what is none for a line of text", () => {
  const from = { ...client.parseUrl("gopher://192.0.2.1/"), tls: true };
  const item = (line: string) => client.parseMenu(octets(`${line}\r\n`), from)[0];
  const read = { type: "0", text: "A text", selector: "/a", ...AT, tls: true, place: "" };
  assertEquals(item("0A text\t/a\t192.0.2.1\t70"), read);
  assertEquals(item("0A text\t/a\t192.0.2.1\t70\t+"), read);
  assertEquals(item("0A text\t/a\t192.0.2.1\t 70 "), read);
  assertEquals(item("0A text\t/a\t192.0.2.1\t71"), { ...read, port: 71, place: "192.0.2.1:71" });
  const six = { ...read, host: "2001:db8::1", place: "[2001:db8::1]:70" };
  assertEquals(item("0A text\t/a\t[2001:db8::1]\t70"), six);
  assertEquals(item("0A text\t/a\t2001:db8::1\t70"), six);
  const link = { ...read, type: "h", selector: "URL:http://a.test/", place: "http://a.test/" };
  assertEquals(item("hA text\tURL:http://a.test/\t192.0.2.1\t70"), link);
  assertEquals(client.isOpen(link), false);
  for (
    const [line, open] of [
      ["0\t\th\t1", true],
      ["?x\tx\th\t1", true],
      ["0x\tx\t\t70", false],
      ["0x\tx\th\t0", false],
      ["0x\tx\th\t65536", false],
      ["0x\tx\th\t", false],
      ["0x\tx\th\t-1", false],
      ["0x\tx\th\t1e3", false],
      ["0x\tx\th", false],
      ["0x\tx", false],
      ["0\t", false],
      ["ix\tx\th\t1", false],
      ["3x\tx\th\t1", false],
      ["8x\tx\th\t23", false],
    ] as const
  ) assertEquals(client.isOpen(item(line)), open, line);
  for (const line of ["", "text", "\tx\ty\th\t1", "\t"]) {
    assertEquals(item(line), { type: "i", text: line, selector: "", host: "", port: 0 });
  }
  assertEquals(client.parseMenu(new Uint8Array(), from), []);
  assertEquals(client.parseMenu(octets("a\n\nb"), from).length, 3);
  assertThrows(() => client.parseMenu(octets("\n".repeat(1e6)), from), LimitError);
  const chance = random(9);
  for (let i = 0; i < 5000; i++) {
    const junk = Array.from({ length: chance(20) }, () => "01\t\t\t\n\r. h7"[chance(11)] ?? "x")
      .join("");
    for (const item of client.parseMenu(octets(junk), from)) {
      assert(!/[\t\n]/.test(item.selector + item.host) && item.port < 65536, junk);
    }
  }
});

Deno.test("undot takes a text out of its dots as the server put it in, or says that it has no end", async () => {
  const plain = (text: string) => {
    const octetsOf = client.undot(octets(text));
    return octetsOf && latin1(octetsOf);
  };
  for (
    const [wire, text] of [
      [".\r\n", ""],
      [".\n", ""],
      [".", ""],
      ["a\r\n.\r\n", "a\r\n"],
      ["..\r\n..a\r\nb.\r\n.\r\n", ".\r\n.a\r\nb.\r\n"],
      ["a\n.\n", "a\n"],
      ["", undefined],
      ["a", undefined],
      ["a.\r\n", undefined],
      ["a\r\n..\r\n", undefined],
      ["\n", undefined],
      [".\r\n\r\n", undefined],
    ] as const
  ) assertEquals(plain(wire), text, wire);
  const chance = random(5);
  for (let i = 0; i < 300; i++) {
    const text = Array.from({ length: chance(30) }, () => ".\n.\n\ra"[chance(6)]).join("");
    const { wire, conn } = receiving();
    await conn.writeDotLines(octets(text));
    assertEquals(plain(wire.written), plain(dotted(text)), JSON.stringify(text));
  }
});

/** What comes of asking for something at a server that says this, and what is said of it. */
async function asking(type: string, ...said: Piece[]) {
  const { wire, conn } = receiving(...said, null);
  const item = { ...client.parseUrl("gopher://192.0.2.1/"), type, selector: "/x" };
  const warned: string[] = [];
  const pieces = await Array.fromAsync(
    client.ask(conn, item, (line) => warned.push(line)),
    (piece) => piece.slice(),
  );
  assertEquals(wire.written, "/x\r\n");
  return [latin1(concat(pieces)), ...warned];
}

Deno.test("ask has an answer however it is cut, and tells what is none", async () => {
  const long = Array.from({ length: 500 }, (_, i) => `${i}.\r\n`).join("");
  const cases: [type: string, said: string, got: string][] = [
    ["0", "a\r\n..b\r\n.\r\n", "a\r\n.b\r\n"],
    ["1", "0a\t/a\th\t1\r\n.\r\n", "0a\t/a\th\t1\r\n"],
    ["7", ".\r\n", ""],
    ["h", "<p>\r\n", "<p>\r\n"],
    ["9", "..\0\r\n.\r\n", "..\0\r\n.\r\n"],
    ["I", "", ""],
    ["9", long, long],
    ["?", "3x", "3x"],
    ["0", "3x\ty\r\nz\r\n.\r\n", "3x\ty\r\nz\r\n"],
  ];
  for (const [type, said, got] of cases) {
    assertEquals(await asking(type, said), [got]);
    for (let cut = 1; cut < said.length; cut += said.length > 100 ? 97 : 1) {
      assertEquals(await asking(type, said.slice(0, cut), said.slice(cut)), [got]);
    }
  }
  const warning = "no dot at the end: it may be cut off";
  for (const type of ["0", "1", "7"]) assertEquals(await asking(type, "..a\n"), ["..a\n", warning]);
  for (const type of ["0", "1", "9", "h"]) {
    for (const said of ["3no \x1b[2J\t\th\t1\r\n.\r\n", "3no \x1b[2J\tx\n"]) {
      await assertRejects(() => asking(type, said), Error, "the server says: no \x1b[2J");
    }
    await assertRejects(
      () => asking(type, "x", new Deno.errors.ConnectionReset("reset")),
      Error,
      "reset",
    );
  }
});

Deno.test("ask sends words behind a tab, and never two lines", async () => {
  const sent = async (selector: string, words?: string) => {
    const { wire, conn } = receiving(".\r\n", null);
    const item = { ...client.parseUrl("gopher://192.0.2.1/"), selector, words };
    await Array.fromAsync(client.ask(conn, item, () => {}));
    return wire.written;
  };
  assertEquals(await sent(""), "\r\n");
  assertEquals(await sent("/x", "a b"), "/x\ta b\r\n");
  for (const [selector, words] of [["a\rb"], ["a\nb"], ["a", "b\r\nc"]]) {
    await assertRejects(() => sent(selector, words), TypeError);
  }
});

Deno.test("safeName gives a file of this folder, whatever the selector", () => {
  for (
    const [selector, name] of [
      ["/lib/cli.ts", "cli.ts"],
      ["grüße & co.tar.gz", "grüße _ co.tar.gz"],
      ["", "gopher"],
      ["/", "gopher"],
      ["/x/", "gopher"],
      ["..", "_"],
      ["/../../.profile", "_profile"],
      ["-rf", "_rf"],
      ["a\0b\x1b[2J\u202e", "a_b__2J_"],
      ["..\\..\\a:b", "__.._a_b"],
      ["x".repeat(5000) + ".png", "x".repeat(56) + ".png"],
    ]
  ) assertEquals(client.safeName(selector), name);
});

/** A server that says this to whatever it is asked, and notes the selectors. */
function saying(behave: (conn: FramedConn, selector: string) => Promise<unknown>) {
  const selectors: string[] = [];
  const server = testServer(async (conn) => {
    const selector = await conn.readLine();
    if (selector === null) return;
    selectors.push(selector);
    await behave(conn, selector);
  });
  return { server, selectors, url: `gopher://127.0.0.1:${server.port}` };
}

const fetch = (url: string, ...flags: string[]) =>
  run("gopher_client", [...flags, url], { permissions: FILES });
const names = (folder: string) => Array.from(Deno.readDirSync(folder), ({ name }) => name).sort();

Deno.test({
  name: "gopher_client: a file is saved whole or not at all, and never in the place of another",
  ignore,
  async fn() {
    await using folder = await temporaryFolder();
    const file = `${folder.path}/file`;
    const { server, selectors, url } = saying(async (conn, selector) => {
      if (selector === "/late") await Deno.writeTextFile(`${file}.late`, "theirs");
      await conn.writeAll(selector === "/text" ? "..a\r\n.\r\n" : new Uint8Array(300_000).fill(7));
    });
    await using _ = server;
    const saved = async (path: string, output: string) => {
      const { code, stdout, stderr } = await fetch(`${url}${path}`, "--output", output);
      assertEquals(stdout, "");
      return [code, stderr.replace(folder.path, "")];
    };
    assertEquals(await saved("/9/x", file), [0, "gopher_client: saved /file, 300000 bytes\n"]);
    assertEquals(await saved("/0/text", `${file}.txt`), [
      0,
      "gopher_client: saved /file.txt, 4 bytes\n",
    ]);
    assertEquals(await Deno.readTextFile(`${file}.txt`), ".a\r\n");
    const asked = selectors.length;
    await Deno.symlink("nowhere", `${file}.link`);
    for (const name of ["/file", "/file.link", ""]) {
      const line = `gopher_client: ${name}: there is such a file already\n`;
      assertEquals(await saved("/0/text", folder.path + name), [1, line]);
    }
    assertEquals(selectors.length, asked);
    assertEquals((await Deno.readFile(file)).length, 300_000);
    const [code1, says] = await saved("/9/late", `${file}.late`); // it was not there at first
    assertEquals(code1, 1);
    assertMatch(`${says}`, /^gopher_client: .*file exists\n$/);
    assertEquals(await Deno.readTextFile(`${file}.late`), "theirs");
    const none = await saved("/9/x", `${folder.path}/none/x`);
    assertMatch(
      `${none}`,
      /^1,gopher_client: [^\n]*\/none\/x\.\d+\.part: no such file or directory\n$/,
    );
    assertEquals(names(folder.path), ["file", "file.late", "file.link", "file.txt"]);
    const { code, stderr } = await run("gopher_client", ["--output", `${file}.2`, `${url}/9/x`]);
    assertMatch(stderr, /^gopher_client: requires read access to .* --allow-read flag\n$/);
    assertEquals(code, 1);
  },
});

Deno.test({
  name: "gopher_client: of what is cut off, refused or given up nothing is left",
  ignore,
  async fn() {
    await using folder = await temporaryFolder();
    // Only Node's sockets can be told to reset.
    const resetting = createServer((socket) => {
      socket.on("error", () => {});
      socket.once(
        "data",
        () => socket.write(new Uint8Array(300_000), () => socket.resetAndDestroy()),
      );
    });
    const address = await new Promise((resolve) =>
      resetting.listen(0, "127.0.0.1", () => resolve(resetting.address()))
    );
    const { server, url } = saying(async (conn, selector) => {
      if (selector === "/none") return await conn.writeAll("3no such file\t\th\t1\r\n.\r\n");
      await conn.writeAll(new Uint8Array(selector === "/text" ? 100 : 300_000));
      await conn.readable(); // until the client leaves
    });
    await using _ = server;
    const part = /^gopher_client: 127\.0\.0\.1:\d+: /;
    for (
      const [from, says] of [
        [
          `gopher://127.0.0.1:${(address as { port: number }).port}/9/x`,
          /connection reset by peer\n$/,
        ],
        [`${url}/9/none`, /: the server says: no such file\n$/],
        [`${url}/0/none`, /: the server says: no such file\n$/],
        [`${url}/9/stalls`, /: no answer within 0\.3 s \(--timeout\)\n$/],
        [`${url}/0/text`, /: no answer within 0\.3 s \(--timeout\)\n$/],
      ] as const
    ) {
      const result = await fetch(from, "--timeout", "0.3", "--output", `${folder.path}/file`);
      assertEquals([result.code, result.stdout], [1, ""]);
      assertMatch(result.stderr, part);
      assertMatch(result.stderr, says);
    }
    await new Promise((resolve) => resetting.close(resolve));

    for (const flags of [["--output", `${folder.path}/file`], []]) {
      await using client = start("gopher_client", [...flags, `${url}/9/stalls`], FILES);
      if (flags.length > 0) {
        await eventually("some of it is there", () => {
          const [name] = names(folder.path);
          return name !== undefined && Deno.statSync(`${folder.path}/${name}`).size === 300_000;
        });
      } else await eventually("some of it came", () => client.stdout.length === 300_000);
      client.signal("SIGINT");
      const { code, stderr } = await client.ended();
      assertEquals([code, stderr], [130, ""]);
    }
    assertEquals(names(folder.path), []);
  },
});

Deno.test({
  name: "gopher_client: a pipe gets the octets, and rude servers have an end",
  ignore,
  async fn() {
    const forever = async (conn: FramedConn, said: string) => {
      for (const data = octets(said.repeat(65536 / said.length)); true;) await conn.writeAll(data);
    };
    const { server, url } = saying(async (conn, selector) => {
      if (selector === "/menu") {
        for (let i = 0; i < 1000; i++) {
          await conn.writeAll(`0Item\t/item\t127.0.0.1\t70\r\n`.repeat(1000));
        }
      }
      if (selector === "/long") {
        for (let i = 0; i < 1000; i++) await conn.writeAll("x".repeat(10_000));
      }
      if (selector === "/forever") await forever(conn, "more\r\n");
      if (selector === "/types") {
        await conn.writeAll("\x1bA\x1b[2J\t/../x\t\x1b[1m\t70\r\n\0\t\t\r\n\xff\xfe\r\n.\r\n");
      }
      if (selector === "/undotted") await conn.writeAll("..a\r\n\x1b[2Jb");
    });
    await using _ = server;
    const longer = (max: number) => `: answer of more than ${max} bytes\n`;
    for (
      const [path, code, stdout, stderr] of [
        ["/1/menu", 1, "", longer(4194304)],
        ["/1/long", 1, "", longer(4194304)],
        [
          "/0/long",
          0,
          "x".repeat(10_000_000),
          "gopher_client: no dot at the end: it may be cut off\n",
        ],
        ["/1/forever", 1, "", longer(4194304)],
        ["/0/forever", 1, "", longer(16777216)],
        [
          "/0/undotted",
          0,
          "..a\r\n\x1b[2Jb",
          "gopher_client: no dot at the end: it may be cut off\n",
        ],
        ["/9/undotted", 0, "..a\r\n\x1b[2Jb", ""],
        ["/1/none", 0, "", "gopher_client: no dot at the end: it may be cut off\n"],
        ["/9/none", 0, "", ""],
        [
          "/7/find",
          2,
          "",
          ": a search needs words: %09 and these at the end of URL (--help tells more)\n",
        ],
      ] as const
    ) {
      const result = await fetch(url + path);
      assertEquals(result.code, code, path);
      assert(result.stdout === stdout, path);
      assert(result.stderr.endsWith(stderr), `${path}: ${result.stderr}`);
    }
    await using client = start("gopher_client", [`${url}/9/forever`]);
    await eventually("much of it is through", () => client.stdout.length > 5e6);
    assert(memory(client) < 150 * 1024);
  },
});

/** The client at a terminal in a folder, and how to type there and wait for what it then shows. */
function atTerminal(folder: string, url: string, ...flags: string[]) {
  const argv = [...command("gopher_client", FILES), ...flags, url];
  const program = onTerminal(["sh", "-c", 'cd "$0" && exec "$@"', folder, ...argv]);
  async function types(keys: string, shows: RegExp): Promise<string> {
    program.stdout = "";
    await program.type(keys);
    return (await program.until(shows))[0];
  }
  return { program, types };
}

const PROMPT = /number, b\(ack\) or q\(uit\): /;
const prompted = (text: string) => new RegExp(`${text}[^]*${PROMPT.source}`);

Deno.test({
  name: "gopher_client at a terminal: menus are followed, texts printed, files saved",
  ignore: missing("python3"),
  async fn() {
    await using folder = await temporaryFolder();
    await fill(folder.path, {
      "root/a.txt": "alpha\n.\n",
      "root/b.bin": "\x1b[2J\0",
      "root/sub/deep.txt": "deep\n",
      "here/": "",
    });
    const { server, port } = await serving(folder.path);
    await using _ = server;
    const { program, types } = atTerminal(`${folder.path}/here`, `gopher://127.0.0.1:${port}`);
    await using _client = program;
    const menu = "    1 search  Search below this folder\r\n" +
      "    2 text    a.txt\r\n    3 binary  b.bin\r\n    4 menu    sub\r\n";
    await program.until(prompted(menu));
    await types("2\r", prompted("\nalpha\r\n\\.\r\n"));
    await types("3\r", prompted("saved b\\.bin, 5 bytes\r\n"));
    await types("3\r", prompted("gopher_client: b\\.bin: there is such a file already\r\n"));
    await types("4\r", prompted("    2 text    deep\\.txt\r\n"));
    await types("2\r", prompted("\ndeep\r\n"));
    await types("b\r", prompted(menu));
    await types("b\r", prompted(menu));
    await types("99\r", prompted(menu));
    await types("1\r", /words: /);
    await types("DEEP txt\r", prompted("    1 text    sub/deep\\.txt\r\n"));
    await types("1\r", prompted("\ndeep\r\n"));
    server.signal("SIGKILL");
    await server.ended();
    await types("1\r", prompted(`gopher_client: 127\\.0\\.0\\.1:${port}: connection refused\r\n`));
    await types("q\r", /exit 0\r\n[^]* icanon /);
    assertEquals(await Deno.readTextFile(`${folder.path}/here/b.bin`), "\x1b[2J\0");
    assertEquals(names(`${folder.path}/here`), ["b.bin"]);
  },
});

Deno.test({
  name: "gopher_client at a terminal: nothing that a server says drives it or leaves the folder",
  ignore: missing("python3"),
  async fn() {
    await using folder = await temporaryFolder();
    await fill(folder.path, { "here/": "" });
    const stalled = Promise.withResolvers<void>();
    const { server, selectors, url } = saying(async (conn, selector) => {
      const at = `\t127.0.0.1\t${server.port}\r\n`;
      const items = [
        `i\x1b[2Jinfo\u202e\t\t\t`,
        `0text\x1b]0;title\x07\t/text${at}`,
        `9up\t/../../etc/../..${at}`,
        `\x1b\x1b[31mtype\t/type\x1b/-x.sh${at}`,
        `8telnet\tme\t127.0.0.2\t23`,
        `hWeb\tURL:http://a.test/\x1b[2J${at}`,
        `0lost\t/\r${at}`,
        `0elsewhere\t/\t127.0.0.2\t1`,
        `9stalls\t/stalls${at}`,
        "no item \x1b[2J",
      ];
      if (selector === "/text") await conn.writeAll("\x1b[2J\x1b]0;x\x07\rtab\there\r\n");
      else if (selector) await conn.writeAll("\x1b[2J");
      else await conn.writeAll(`${items.join("\r\n")}\r\n.\r\n`.replaceAll("\r\n\r\n", "\r\n"));
      if (selector === "/stalls") {
        stalled.resolve();
        await conn.readable();
      }
    });
    await using _ = server;
    const { program, types } = atTerminal(`${folder.path}/here`, url);
    await using _client = program;
    const { index } = await program.until(PROMPT);
    // deno-lint-ignore no-control-regex -- what Deno and the line editor draw with
    const shown = program.stdout.slice(0, index).replaceAll(/\x1b\[\d*[GJK]/g, "");
    assertEquals(shown.split("\r\n"), [
      "              \\x1b[2Jinfo\\u202e",
      "    1 text    text\\x1b]0;title\\x07",
      "    2 binary  up",
      "    3 \\x1b       \\x1b[31mtype",
      "      telnet  telnet  127.0.0.2:23",
      "      html    Web  http://a.test/\\x1b[2J",
      "    4 text    lost",
      "    5 text    elsewhere  127.0.0.2:1",
      "    6 binary  stalls",
      "              no item \\x1b[2J",
      "",
    ]);
    const text = await types("1\r", prompted("it may be cut off"));
    assert(text.includes("\\x1b[2J\\x1b]0;x\\x07\\rtab"), text);
    await types("2\r", prompted("saved _, 4 bytes"));
    await types("3\r", prompted("saved _x\\.sh, 4 bytes"));
    const asked = selectors.length;
    await types("4\r", prompted("a line cannot hold a CR or LF"));
    await types("5\r", prompted("127\\.0\\.0\\.2:1: connection refused"));
    assertEquals(selectors.length, asked);
    await program.type("6\r");
    await stalled.promise;
    await types("\x03", /interrupted\r\n[^]*exit 130\r\n[^]* icanon /);
    assertEquals(names(`${folder.path}/here`), ["_", "_x.sh"]);
  },
});

Deno.test({
  name: "gopher_client at a terminal: a URL of a text, a file and a search; Ctrl-C and Ctrl-D",
  ignore: missing("python3"),
  async fn() {
    await using folder = await temporaryFolder();
    await fill(folder.path, { "root/a.txt": "alpha\n", "root/b.bin": "beta", "here/": "" });
    const { server, port } = await serving(folder.path);
    await using _ = server;
    const url = `gopher://127.0.0.1:${port}`;
    for (
      const [path, keys, shows] of [
        ["/0/a.txt", "", /alpha\r\nexit 0\r\n/],
        ["/9/b.bin", "", /gopher_client: saved b\.bin, 4 bytes\r\nexit 0\r\n/],
        [
          "/9/none",
          "",
          /gopher_client: .*: the server says: no such file or folder\r\nexit 1\r\n/,
        ],
        ["/1/none", "", /the server says: no such file or folder\r\n[^]*exit 1\r\n[^]* icanon /],
        ["/7/", "a\r", prompted("    1 text    a\\.txt\r\n")],
        ["/7/", "\r", /exit 0\r\n[^]* icanon /],
        ["", "\x04", /exit 0\r\n[^]* icanon /],
        ["", "\x03", /exit 130\r\n[^]* icanon /],
      ] as const
    ) {
      const { program } = atTerminal(`${folder.path}/here`, url + path);
      await using _client = program;
      if (keys) await program.until(path ? /words: / : PROMPT);
      if (keys) await program.type(keys);
      await program.until(shows);
    }
  },
});
