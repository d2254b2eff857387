import { assert, assertEquals, assertMatch } from "@std/assert";
import { command, missing, Program, start, temporaryFolder } from "../helpers.ts";
import * as peers from "./peers.ts";

const { dial, eventually, memory, output, python, sockets } = peers;
const MIB = 1024 * 1024;
const SIZE = 100 * MIB; // of the file `big`

/** A server under way and the folder it serves: `ten`, `big` and `sub/inner.txt`. */
type Rig = AsyncDisposable & { server: Program; port: number; folder: string };

/** Starts a server, with `argv` in place of its command if given. */
async function rig(
  flags: string[] = [],
  options: { argv?: string[]; permissions?: string[]; env?: Record<string, string> } = {},
): Promise<Rig> {
  await using used = new AsyncDisposableStack();
  const { path: folder } = used.use(await temporaryFolder());
  await Deno.mkdir(`${folder}/sub`);
  await Deno.writeTextFile(`${folder}/ten`, "0123456789");
  await Deno.writeTextFile(`${folder}/sub/inner.txt`, "inner");
  await Deno.writeTextFile(`${folder}/big`, "");
  await Deno.truncate(`${folder}/big`, SIZE);
  const argv = options.argv ?? [...command("http_server", options.permissions), "--port", "0"];
  const { env } = options;
  const server = used.use(new Program([...argv, ...flags, folder], env ? { env } : {}));
  const port = await server.port();
  const rest = used.move();
  return { server, port, folder, [Symbol.asyncDispose]: () => rest.disposeAsync() };
}

/** A test that starts the server and these programs. */
function test(name: string, programs: string[], fn: () => Promise<void>): void {
  Deno.test({ name: `http_server: ${name}`, ignore: missing(...programs), fn });
}

/** What curl, which must succeed, prints. */
const curl = (...args: string[]) => output(["curl", "--silent", "--show-error", ...args]);
/** The status that curl gets. */
const status = (...args: string[]) => curl("--output", "/dev/null", "-w", "%{http_code}", ...args);

/** It still serves, and has met nothing it did not expect. */
async function answers({ port, server }: Rig): Promise<void> {
  assertEquals(await curl(`http://127.0.0.1:${port}/ten`), "0123456789");
  assert(!/^\s+at |Uncaught|internal/m.test(server.stderr), server.stderr);
}

test("curl gets files, ranges, heads and what has changed", ["curl"], async () => {
  await using site = await rig();
  await using folder = await temporaryFolder();
  const url = `http://127.0.0.1:${site.port}`;
  const file = (name: string) => `${folder.path}/${name}`;
  assertEquals(await curl(`${url}/ten`), "0123456789");
  assertEquals(await curl("--http1.0", `${url}/ten`), "0123456789");
  assertEquals(await curl("--compressed", `${url}/ten`), "0123456789");
  assertEquals(
    await curl("--location", `${url}/sub`).then((page) => page.includes("inner.txt")),
    true,
  );
  for (const [range, part] of [["0-0", "0"], ["7-", "789"], ["-2", "89"], ["8-99", "89"]]) {
    assertEquals(await curl("--range", range, `${url}/ten`), part);
  }
  assertMatch(
    await curl("--range", "0-0,-1", `${url}/ten`),
    /bytes 0-0\/10\r\n\r\n0\r\n.*9\/10\r\n\r\n9\r\n/s,
  );
  assertMatch(
    await curl("--head", `${url}/big`),
    /^HTTP\/1\.1 200 OK\r\n(.+\r\n)*content-length: 104857600\r\n/,
  );

  await Deno.writeTextFile(file("part"), "012");
  await curl("--continue-at", "-", "--output", file("part"), `${url}/ten`);
  assertEquals(await Deno.readTextFile(file("part")), "0123456789", "continued");
  assertEquals(await status("--etag-save", file("etag"), `${url}/ten`), "200");
  assertEquals(await status("--etag-compare", file("etag"), `${url}/ten`), "304");
  assertEquals(await status("--time-cond", `${site.folder}/ten`, `${url}/ten`), "304");
  assertEquals(await status("--time-cond", "2001-01-01", `${url}/ten`), "200");
  assertEquals(await status("--upload-file", `${site.folder}/ten`, `${url}/new`), "405");
  assertEquals(await status("--range", "10-", `${url}/ten`), "416");
  assertEquals(
    await curl("--data", "a=1", "--data-urlencode", "b=é&", `${url}/`),
    '{"a":"1","b":"é&"}\n',
  );
  assertEquals(await status("--form", "a=1", `${url}/`), "415");

  await curl("--output", file("big"), "--limit-rate", "1G", `${url}/big`);
  assertEquals((await Deno.stat(file("big"))).size, SIZE);
  const many = await curl(...Array(50).fill(`${url}/ten`), "-w", "%{num_connects}");
  assertEquals(many, `01234567891${"01234567890".repeat(49)}`, "50 files over one connection");
});

test("curl leaves ROOT by no path", ["curl"], async () => {
  await using site = await rig();
  const secret = `${site.folder}.secret`;
  await Deno.writeTextFile(secret, "SECRET");
  try {
    await Deno.symlink(secret, `${site.folder}/out`);
    const name = secret.split("/").at(-1);
    for (
      const up of ["..", "%2e%2e", ".%2e", "..%2f", "..%5c", "%252e%252e", "%c0%ae%c0%ae", "..%00"]
    ) {
      const url = `http://127.0.0.1:${site.port}/${up}/${name}`;
      assertMatch(await status("--path-as-is", url), /^40[04]$/, up);
      assertMatch(await status("--path-as-is", "--request-target", url, url), /^40[04]$/, up);
    }
    assertEquals(await status(`http://127.0.0.1:${site.port}/out`), "404");
    assertEquals(await status("--path-as-is", `http://127.0.0.1:${site.port}//etc/passwd`), "404");
  } finally {
    await Deno.remove(secret);
  }
});

test("curl over TLS, HTTP/2, a Unix socket and with a password", ["curl", "openssl"], async () => {
  await using folder = await temporaryFolder();
  const { ca, cert, key } = await peers.certificates(folder.path);
  await using secure = await rig(["--cert", cert, "--key", key]);
  const url = `https://127.0.0.1:${secure.port}/ten`;
  const version = ["-w", " %{http_version}"];
  assertEquals(await curl("--cacert", ca, "--http1.1", ...version, url), "0123456789 1.1");
  assertEquals(await curl("--cacert", ca, "--http2", ...version, url), "0123456789 2");
  assertEquals((await peers.finish(["curl", "--silent", url])).code, 60, "it verifies");
  assertEquals(
    await curl("--cacert", ca, "--head", url).then((head) => /^etag: /m.test(head)),
    true,
  );

  const path = `${folder.path}/socket`;
  await using local = start("http_server", ["--unix", path, secure.folder], ["--allow-write"]);
  await local.until(/listening on unix:.*\/socket\n/, "stderr");
  const unix = (...args: string[]) => curl("--unix-socket", path, ...args);

  assertEquals(await unix("http://localhost/ten"), "0123456789");
  assertEquals(await unix("--data", "a=1", "http://localhost/"), '{"a":"1"}\n');
  await local.until(/^unix:\S+ - - \[\S+ \+0000\] "GET \/ten HTTP\/\S+" 200 10\n/m);

  await using closed = await rig(["--user", "ann"], {
    permissions: ["--allow-env=HTTP_PASSWORD"],
    env: { HTTP_PASSWORD: "pass:wörd" },
  });
  const guarded = `http://127.0.0.1:${closed.port}/ten`;
  assertEquals(await curl("--user", "ann:pass:wörd", guarded), "0123456789");
  assertEquals(await curl("--anyauth", "--user", "ann:pass:wörd", guarded), "0123456789");
  for (const user of ["ann:pass", "ann:", "Ann:pass:wörd", ":"]) {
    assertEquals(await status("--user", user, guarded), "401", user);
  }
  assertEquals(await status(guarded), "401");
});

test(
  "curl stores a file whole, waits for 100 Continue, and hears of the limit",
  ["curl"],
  async () => {
    await using folder = await temporaryFolder();
    const up = `${folder.path}/up`;
    await Deno.mkdir(up);
    const flags = ["--upload", up, "--max-upload", "6"];
    await using site = await rig(flags, { permissions: ["--allow-write"] });
    const octets = new Uint8Array(5 * MIB);
    for (let at = 0; at < octets.length; at += 65536) {
      crypto.getRandomValues(
        octets.subarray(at, at + 65536),
      );
    }
    await Deno.writeFile(`${folder.path}/five`, octets);
    await Deno.writeFile(`${folder.path}/seven`, new Uint8Array(7 * MIB));
    const post = (name: string, file: string, ...args: string[]) =>
      status(
        "--data-binary",
        `@${folder.path}/${file}`,
        ...args,
        `http://127.0.0.1:${site.port}/${name}`,
      );
    assertEquals(await post("five", "five"), "201");
    assertEquals(await post("chunked", "five", "--header", "Transfer-Encoding: chunked"), "201");
    for (const name of ["five", "chunked"]) {
      const stored = await Deno.readFile(`${up}/${name}`);
      assert(
        stored.length === octets.length && stored.every((octet, i) => octet === octets[i]),
        name,
      );
    }
    assertEquals(await post("five", "seven"), "413");
    assertEquals(await post("five", "five", "--header", "Expect: 100-continue"), "409");
    assertEquals(await post("more", "seven", "--header", "Expect:"), "413");
    assertEquals(await post("more", "seven", "--header", "Transfer-Encoding: chunked"), "413");
    assertEquals(await post("..%2fmore", "five"), "403");
    assertEquals([...Deno.readDirSync(up)].map(({ name }) => name).sort(), ["chunked", "five"]);
    await answers(site);
  },
);

test(
  "Python: many requests on one connection, urllib, ranges read as MIME",
  ["python3"],
  async () => {
    await using site = await rig();
    const ask = (command: string, ...args: string[]) =>
      output(python("http_server_client.py", command, site.port, ...args));
    const asked = (await ask("reuse")).trimEnd().split("\n");
    assertEquals(asked, [
      ..."GET /ten 200,HEAD /ten 200,HEAD /big 200,GET /none 404,GET /ten 206,GET /ten 416".split(
        ",",
      ),
      ..."GET /ten 304,GET /ten 304,GET /ten 412,PUT /ten 405,POST / 200,POST / 200".split(","),
      ..."POST / 400,GET /big 200,GET / 200".split(","),
    ]);
    const lines = (await ask("urls")).split("\n");
    assertEquals(lines.map((line) => line.replace(/ b'(<!DOCTYPE |there is).*$/, "")), [
      "/ten 200 /ten b'0123456789'",
      "/sub 200 /sub/", // by the redirect
      "/none 404",
      "/ten 304 b''",
      "/ten 206 /ten b'89'",
      "",
    ]);
    // Octets that look like a boundary, or like line ends, are but octets.
    const octets = crypto.getRandomValues(new Uint8Array(65536));
    octets.set(new TextEncoder().encode("\r\n\r\n--x\r\n--\n\r"), 1000);
    await Deno.writeFile(`${site.folder}/random.png`, octets);
    const wanted = [[0, 0], [990, 1020], [1000, 1012], [5, 40_000], [65_535, 65_535]];
    const ranges = wanted.map(([first, last]) => `${first}-${last}`).join(",");
    const expected = await Promise.all(wanted.map(async ([first, last]) => {
      const digest = await crypto.subtle.digest("SHA-256", octets.subarray(first, last + 1));
      return `bytes ${first}-${last}/65536 image/png ${new Uint8Array(digest).toHex()}\n`;
    }));
    assertEquals(await ask("parts", "/random.png", `bytes=${ranges}`), expected.join(""));
  },
);

test("Python's http.server answers the same", ["python3"], async () => {
  await using site = await rig();
  const { folder } = site;
  await Deno.mkdir(`${folder}/with index`);
  await Deno.writeTextFile(`${folder}/with index/index.html`, "<p>index");
  const names = [
    "a.html",
    "b.css",
    "c.js",
    "d.json",
    "e.png",
    "f.svg",
    "h.pdf",
    "empty.txt",
    "none",
  ];
  const strange = ["<b>&", "a\"b'c", "new\nline", "q?#%", "%41", "é 日", "a+b", ".hidden"];
  for (const name of [...names, ...strange]) {
    if (name !== "none") {
      await Deno.writeTextFile(`${folder}/${name}`, name.replace("empty.txt", ""));
    }
  }
  const args = ["--bind", "127.0.0.1", "--directory", folder];
  await using theirs = new Program(["python3", "-u", "-m", "http.server", "0", ...args]);
  const [, port] = await theirs.until(/ port (\d+) /);
  const paths = [...names, ...strange, "ten"].map((name) => `/${encodeURIComponent(name)}`);
  paths.push(
    "/",
    "/sub",
    "/sub/",
    "/with%20index",
    "/with%20index/",
    "/ten/",
    "/sub/none",
    "//ten",
  );
  paths.push("/ten?query", "/sub/?query");
  const differences = await output(
    python("http_server_client.py", "compare", site.port, port, ...paths),
  );
  assertMatch(differences, /^asked [1-9]\d+\n$/);
});

test("Python's urllib answers a 401 with the password", ["python3"], async () => {
  await using site = await rig(["--user", "ann"], {
    permissions: ["--allow-env=HTTP_PASSWORD"],
    env: { HTTP_PASSWORD: "pass:word" },
  });
  const basic = (...given: string[]) =>
    output(python("http_server_client.py", "basic", site.port, ...given));
  assertEquals(await basic("ann", "pass:word"), "200 0123456789\n");
  assertMatch(await basic("ann", "pass"), /^401 Basic realm="[^"]*"/);
});

test("with 64 descriptors it outlives 150 connections, and answers after them", [
  "prlimit",
  "curl",
], async () => {
  await using site = await rig([], { argv: peers.limited(64, "http_server", []) });
  await answers(site);
  const held: Deno.Conn[] = [];
  for (let i = 0; i < 150; i++) {
    const conn = await Deno.connect({ hostname: "127.0.0.1", port: site.port }).catch(() => null);
    if (conn) held.push(conn); // for a moment nobody listens
  }
  await site.server.until(/cannot accept, trying again/, "stderr");
  for (const conn of held) conn.close();
  await eventually(
    "it listens again",
    () => peers.ask(site.port, "GET /ten HTTP/1.0\r\n\r\n").then(() => true, () => false),
  );
  await answers(site);
  await answers(site);
});

test("it stays up and leaks nothing when clients hang up, reset and talk nonsense", [
  "python3",
  "curl",
], async () => {
  await using site = await rig();
  const { port, server } = site;
  const before = sockets(server);
  await answers(site);
  assertEquals(await output(python("rude.py", "abuse", port, 20)), "abused\n");
  // In the middle of 100 MB: before the answer, after its first octets, and well into it.
  for (let i = 0; i < 60; i++) {
    using conn = await dial(port);
    await conn.writeAll("GET /big HTTP/1.1\r\nHost: x\r\n\r\n");
    if (i % 3 > 0) await conn.readLine();
    if (i % 3 > 1) await conn.readExactly(3 * MIB);
  }
  await answers(site);
  await eventually("all sockets and files are closed", () => {
    const names = Array.from(Deno.readDirSync(`/proc/${server.pid}/fd`), ({ name }) => name);
    const big = names.filter((name) => {
      try {
        return Deno.readLinkSync(`/proc/${server.pid}/fd/${name}`).endsWith("/big");
      } catch {
        return false; // closed meanwhile
      }
    });
    return big.length === 0 && sockets(server) <= before;
  });
  assertMatch(server.stderr, /^http_server: \S+\/big: \d+ of 104857600 bytes not sent$/m);
});

test("20 readers who never read a big file cost less than 80 MB and keep nobody waiting", [
  "curl",
], async () => {
  await using site = await rig();
  const { port, server } = site;
  const url = `http://127.0.0.1:${port}/big`;
  const download = async () => {
    const [size, seconds] =
      (await curl("-o", "/dev/null", "-w", "%{size_download} %{time_total}", url))
        .split(" ").map(Number);
    assertEquals(size, SIZE);
    return seconds;
  };
  const alone = await download();
  const before = memory(server, "VmHWM");
  const readers = await Promise.all(Array.from({ length: 20 }, async () => {
    const conn = await dial(port);
    await conn.writeAll("GET /big HTTP/1.1\r\nHost: x\r\n\r\n");
    assertEquals(await conn.readLine(), "HTTP/1.1 200 OK");
    return conn;
  }));
  const among = await download();
  await answers(site);
  const growth = (memory(server, "VmHWM") - before) / 1024;
  console.log(
    `20 readers: ${growth.toFixed(1)} MiB; 100 MiB in ${alone} s alone, ${among} s among them`,
  );
  assert(sockets(server) >= 21, "all of them are being served");
  assert(growth < 76, `cost ${growth} MiB`);
  for (const conn of readers) conn.close();
});

test("a request of 100 MB without an end costs no memory", ["curl"], async () => {
  await using site = await rig(["--max-upload", "1"]);
  const { port, server } = site;
  await answers(site);
  const junk = new Uint8Array(MIB).fill(0x41);
  const heads = [
    "GET /",
    "GET / HTTP/1.1\r\nX: ",
    "PUT / HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n",
  ];
  heads.push(
    "POST / HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: 999999999\r\n\r\n",
  );
  const chunk = `Transfer-Encoding: chunked\r\n\r\n${SIZE.toString(16)}\r\n`;
  heads.push(`POST / HTTP/1.1\r\nContent-Type: application/json\r\n${chunk}`);
  const before = memory(server, "VmHWM");
  for (const head of heads) {
    using conn = await dial(port);
    await conn.writeAll(head);
    try {
      for (let sent = 0; sent < 100; sent++) await conn.writeAll(junk);
    } catch {
      // The server has had enough.
    }
  }
  await answers(site);
  const growth = (memory(server, "VmHWM") - before) / 1024;
  console.log(`${growth.toFixed(1)} MiB more at its worst`);
  assert(growth < 32, `grew by ${growth} MiB`);
});
