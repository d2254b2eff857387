import { assert, assertEquals, assertMatch } from "@std/assert";
import { missing, Program, type Result, run, temporaryFolder } from "../helpers.ts";
import { certificates, eventually, python } from "./peers.ts";

const LEVELS = [[], ["--by-hand"]];
const FILES = ["--allow-read", "--allow-write"];

/** Asks on both levels, and returns the result, which must be the same. */
async function both(...args: string[]): Promise<Result> {
  const [result, byHand] = await Promise.all(
    LEVELS.map((level) => run("http_client", [...level, ...args], { permissions: FILES })),
  );
  assertEquals(byHand, result);
  return result;
}

/** Gets a URL on both levels as a file, and returns its path. */
async function file(folder: string, url: string, ...args: string[]): Promise<string> {
  const [path] = await Promise.all(LEVELS.map(async (level, i) => {
    const path = `${folder}/got${i}`;
    const { code, stdout, stderr } = await run("http_client", [
      ...level,
      ...["--output", path, ...args, url],
    ], { permissions: FILES });
    assertEquals([code, stdout, stderr], [0, "", ""], `${level} ${url}`);
    return path;
  }));
  assertSame(await Deno.readFile(path), await Deno.readFile(`${folder}/got1`));
  return path;
}

/** Fails like `assertEquals`, but without a diff of megabytes. */
function assertSame(actual: Uint8Array, expected: Uint8Array): void {
  const at = expected.findIndex((octet, i) => octet !== actual[i]);
  assertEquals([actual.length, at], [expected.length, -1]);
}

/** Octets of every value, no line of text. */
function octets(size: number): Uint8Array<ArrayBuffer> {
  return Uint8Array.from({ length: size }, (_, i) => (i * 2654435761) >>> 13);
}

/** A port that nobody has now. */
function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

/** Starts nginx in `folder`, whose `www` it serves, with these servers besides. */
async function startNginx(folder: string, port: number, more = ""): Promise<Program> {
  await Deno.mkdir(`${folder}/www`, { recursive: true });
  const paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    .map((name) => `${name}_temp_path ${folder}/${name};`).join(" ");
  await Deno.writeTextFile(
    `${folder}/nginx.conf`,
    `
daemon off; master_process off; pid ${folder}/pid; error_log stderr;
events {}
http {
  ${paths} access_log off; gzip off; keepalive_timeout 60;
  server {
    listen 127.0.0.1:${port};
    root ${folder}/www;
    absolute_redirect off;
    location /ssi/ { ssi on; ssi_types *; }
    location = /moved { return 301 /a.txt?q=1; }
    location = /loop { return 302 /loop; }
    location = /see { return 303 /a.txt; }
    location = /again { return 307 /echo; }
    location = /broken { return 500; }
    location = /nothing { return 204; }
    location = /blank { return 200 "posted"; }
    location = /post { proxy_pass http://127.0.0.1:${port}/blank; }
    location = /echo {
      proxy_pass http://127.0.0.1:${port}/blank;
      add_header X-Got "$request_method $content_type $content_length $request_body";
    }
    location = /small { client_max_body_size 1k; proxy_pass http://127.0.0.1:${port}/blank; }
  }
  ${more}
}
`,
  );
  const nginx = new Program(["nginx", "-p", folder, "-c", `${folder}/nginx.conf`, "-e", "stderr"]);
  await eventually("nginx listens", async () => {
    try {
      (await Deno.connect({ hostname: "127.0.0.1", port })).close();
      return true;
    } catch {
      return false;
    }
  });
  return nginx;
}

Deno.test({
  name: "nginx: files, chunks, redirects, errors and posts, on both levels",
  ignore: missing("nginx"),
  async fn() {
    await using folder = await temporaryFolder();
    const port = freePort();
    await using _nginx = await startNginx(folder.path, port);
    const [www, url] = [`${folder.path}/www`, `http://127.0.0.1:${port}`];
    const large = octets(3_000_001);
    await Deno.mkdir(`${www}/ssi`);
    await Deno.writeTextFile(`${www}/a.txt`, "alpha\n");
    await Deno.writeTextFile(`${www}/empty`, "");
    await Deno.writeFile(`${www}/large`, large);
    await Deno.writeFile(`${www}/ssi/large`, large);
    await Deno.writeTextFile(`${www}/ä b?c`, "named\n");

    assertSame(await Deno.readFile(await file(folder.path, `${url}/large`)), large);
    assertSame(await Deno.readFile(await file(folder.path, `${url}/ssi/large`)), large);
    assertEquals((await Deno.stat(await file(folder.path, `${url}/empty`))).size, 0);
    const { stderr } = await run("http_client", ["--by-hand", "--trace", `${url}/ssi/large`]);
    assertMatch(stderr, /^< .* Transfer-Encoding: chunked\\r\\n$/m);

    for (
      const [path, code, stdout, says] of [
        ["/a.txt", 0, /^alpha\n$/, /^$/],
        ["/ä b%3Fc", 0, /^named\n$/, /^$/],
        ["/moved", 0, /^alpha\n$/, /^$/],
        ["/see", 0, /^alpha\n$/, /^$/],
        ["/nothing", 0, /^$/, /^$/],
        ["/none", 1, /<h1>404 Not Found<\/h1>/, /^http_client: 404 Not Found\n$/],
        ["/broken", 1, /<h1>500 Inter/, /^http_client: 500 Internal Server Error\n$/],
      ] as const
    ) {
      const result = await both(url + path);
      assertEquals(result.code, code, result.stderr);
      assertMatch(result.stdout, stdout);
      assertMatch(result.stderr, says);
    }
    for (const level of LEVELS) {
      const { code, stdout, stderr } = await run("http_client", [...level, `${url}/loop`]);
      assertEquals([code, stdout], [1, ""]);
      assertMatch(stderr, /^http_client: [^\n]*(more than 10 times|number of redirects)[^\n]*\n$/);
    }
    assertEquals((await both(`http://localhost:${port}/a.txt`)).stdout, "alpha\n");

    for (
      const [args, got] of [
        [["--data", "a=1&b=2"], "application/x-www-form-urlencoded 7 a=1&b=2"],
        [["--json", "[1]"], "application/json 3 \\[1\\]"],
      ] as [string[], string][]
    ) {
      for (const path of ["/echo", "/again"]) {
        assertEquals((await both(...args, url + path)).stdout, "posted");
        const traced = ["--by-hand", "--trace", ...args, url + path];
        const { stderr } = await run("http_client", traced);
        assertMatch(stderr, new RegExp(`^< .* x-got: POST ${got}\\\\r\\\\n$`, "im"));
      }
    }
    // By hand it asks first, and is told to go on, or not to.
    const body = "x".repeat(100_000);
    const ask = (path: string) =>
      run("http_client", ["--by-hand", "--trace", "--data", body, url + path]);
    const echoed = await ask("/post");
    assertEquals([echoed.code, echoed.stdout], [0, "posted"]);
    assertMatch(
      echoed.stderr,
      /^> .* expect: 100-continue\\r\\n$[^]*^< .* 100 Continue\\r\\n$[^]*^> \S+ x+$/m,
    );
    const refused = await ask("/small");
    assertEquals(refused.code, 1);
    assertMatch(refused.stderr, /^http_client: 413 Request Entity Too Large$/m);
    assert(!/^> \S+ x/m.test(refused.stderr));
    const small = await run("http_client", ["--data", body.slice(0, 50_000), `${url}/small`]);
    assertEquals([small.code, small.stderr], [1, "http_client: 413 Payload Too Large\n"]);
  },
});

Deno.test({
  name: "nginx over TLS: the certificate and its name are verified on both levels",
  ignore: missing("nginx", "openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    await Deno.mkdir(`${folder.path}/other`);
    const good = await certificates(folder.path);
    const wrong = await certificates(`${folder.path}/other`, "DNS:elsewhere.test");
    const [plain, port, impostor] = [freePort(), freePort(), freePort()];
    const secure = (port: number, { cert, key }: { cert: string; key: string }) => `
  server {
    listen 127.0.0.1:${port} ssl http2;
    ssl_certificate ${cert}; ssl_certificate_key ${key};
    root ${folder.path}/www;
    location = /down { return 302 http://127.0.0.1:${plain}/a.txt; }
  }
`;
    const more = secure(port, good) + secure(impostor, wrong);
    await using _nginx = await startNginx(folder.path, plain, more);
    await Deno.writeTextFile(`${folder.path}/www/a.txt`, "alpha\n");
    const url = `https://127.0.0.1:${port}`;
    assertEquals(await both("--ca", good.ca, `${url}/a.txt`), {
      code: 0,
      stdout: "alpha\n",
      stderr: "",
    });
    // A URL that leads to https may start as http.
    const start = await both("--ca", good.ca, `http://127.0.0.1:${plain}/a.txt`);
    assertEquals([start.code, start.stdout], [0, "alpha\n"], start.stderr);
    // By hand none leads out of TLS. fetch() lets it.
    const down = ["--ca", good.ca, `${url}/down`];
    const refused = await run("http_client", ["--by-hand", ...down], { permissions: FILES });
    assertEquals([refused.code, refused.stdout], [1, ""]);
    assertMatch(refused.stderr, /^http_client: \S+\/down: will not follow: http:\S+\n$/);
    assertEquals((await run("http_client", down, { permissions: FILES })).stdout, "alpha\n");
    for (
      const args of [
        [`${url}/a.txt`], // nobody vouches for the root
        ["--ca", wrong.ca, `${url}/a.txt`],
        ["--ca", wrong.ca, `https://127.0.0.1:${impostor}/a.txt`], // not this one's name
      ]
    ) {
      for (const level of LEVELS) {
        const { code, stdout, stderr } = await run("http_client", [...level, ...args], {
          permissions: FILES,
        });
        assertEquals([code, stdout], [1, ""]);
        assertMatch(stderr, /^http_client: 127\.0\.0\.1:\d+: [^\n]*certificate[^\n]*\n$/);
      }
    }
  },
});

Deno.test({
  name: "Python's http.server: files, and each framing whole and octet by octet",
  ignore: missing("python3"),
  async fn() {
    await using folder = await temporaryFolder();
    await Deno.mkdir(`${folder.path}/www`);
    const large = octets(1_000_003);
    await Deno.writeFile(`${folder.path}/www/large`, large);
    await using files = new Program(python("http_peer.py", "files", `${folder.path}/www`));
    const url = `http://127.0.0.1:${await files.port()}`;
    assertSame(await Deno.readFile(await file(folder.path, `${url}/large`)), large);
    const listing = await both(`${url}/`);
    assertMatch(listing.stdout, /<a href="large">large<\/a>/);

    for (const version of ["HTTP/1.0", "HTTP/1.1"]) {
      await using server = new Program(python("http_peer.py", "handler", version));
      const url = `http://127.0.0.1:${await server.port()}`;
      const kinds = version === "HTTP/1.0" ? ["sized", "closed"] : ["sized", "closed", "chunked"];
      for (const path of kinds.flatMap((kind) => [`/${kind}`, `/drip/${kind}`])) {
        const expected = { code: 0, stdout: "hello world", stderr: "" };
        assertEquals(await both(url + path), expected, path);
      }
      const head = await run("http_client", ["--by-hand", "--header", "X-A: b", `${url}/head`]);
      assertEquals(
        head.stdout,
        `host: ${url.slice(7)}\nconnection: close\naccept-encoding: identity\n` +
          "user-agent: http_client\nx-a: b\n\n",
      );
      const { code, stderr } = await both(`${url}/broken`);
      assertEquals([code, stderr], [1, "http_client: 500 Internal Server Error\n"]);
    }
  },
});

Deno.test({
  name: "Python's http.server: posts, asked for with 100 or refused with 417",
  ignore: missing("python3"),
  async fn() {
    const large = "x".repeat(100_000);
    await using old = new Program(python("http_peer.py", "handler", "HTTP/1.0"));
    await using server = new Program(python("http_peer.py", "handler", "HTTP/1.1"));
    const [oldUrl, url] = [
      `http://127.0.0.1:${await old.port()}`,
      `http://127.0.0.1:${await server.port()}`,
    ];
    for (const body of ["a=ü", large]) {
      // HTTP/1.0 knows no 100: the body is sent after a second.
      for (const at of [oldUrl, url]) {
        assertEquals((await both("--data", body, `${at}/echo`)).stdout, body);
      }
    }
    assertEquals([old.stdout, server.stdout], ["", "asked for the body\n"]);
    const refused = await run("http_client", ["--by-hand", "--data", large, `${url}/refuse`]);
    assertEquals([refused.code, refused.stderr], [1, "http_client: 417 Expectation Failed\n"]);
    await server.until(/^octets after 417: 0$/m);
  },
});
