import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { FramedConn } from "../../lib/framing.ts";
import { exchange, type HttpRequest, redirected } from "../../scripts/http_client.ts";
import {
  mayConnect,
  mayRun,
  missing,
  pair,
  type Result,
  run,
  start,
  temporaryFolder,
} from "../helpers.ts";
import { latin1, octets, type Piece, random, receiving } from "../lib/wire.ts";
import { eventually } from "../peers/peers.ts";
import { FILES, startOnTerminal, testServer } from "./rig.ts";

const LEVELS = [[], ["--by-hand"]];
const SIZED = "HTTP/1.1 200 OK\r\nContent-Length: 11\r\nX-A: 1\r\n\r\nhello world";
const CHUNKED = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" +
  '5;a="b"\r\nhello\r\n006 \r\n world\r\n0\r\nX-Trailer: yes\r\n\r\n';
const CLOSED = "HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\nhello world";

function get(url = "http://127.0.0.1:9/"): HttpRequest {
  return { method: "GET", url: new URL(url), headers: new Headers() };
}

function post(body: string): HttpRequest {
  return { ...get(), method: "POST", body: new TextEncoder().encode(body) };
}

/** What a response becomes: its head, and all of its body. */
type Outcome = { status: number; reason: string; headers: [string, string][]; body: string };

/** Asks on a connection and reads all of the answer. */
async function ask(conn: FramedConn, request = get()): Promise<Outcome> {
  const { headers, body, ...head } = await exchange(conn, request);
  let text = "";
  for await (const data of body) text += latin1(data);
  return { ...head, headers: [...headers], body: text };
}

/** What comes of a response that arrives in these pieces and ends. */
function answered(...pieces: Piece[]): Promise<Outcome> {
  return ask(receiving(...pieces.filter((piece) => piece !== ""), null).conn);
}

/** The reason why a response that arrives so fails, which is one line of people's. */
async function failure(...pieces: Piece[]): Promise<string> {
  const { message } = await assertRejects(() => answered(...pieces));
  assertMatch(message, /^[^\n]{1,200}$/);
  assert(!/undefined|NaN|Infinity|\[object|cannot read prop/i.test(message), message);
  return message;
}

Deno.test("exchange sends a request as RFC 9112 has it", async () => {
  const sent = async (request: HttpRequest) => {
    const { wire, conn } = receiving("HTTP/1.1 200 OK\r\n\r\n", null);
    await ask(conn, request);
    return wire.written;
  };
  const close = "connection: close\r\n";
  for (
    const [url, line, host] of [
      ["http://a.test/", "/", "a.test"],
      ["http://a.test", "/", "a.test"],
      ["http://A.test:80/x/../y%20z?q=1&r#part", "/y%20z?q=1&r", "a.test"],
      ["https://a.test:443/ä b", "/%C3%A4%20b", "a.test"],
      ["http://a.test:443/", "/", "a.test:443"],
      ["http://[::1]:8080/", "/", "[::1]:8080"],
      ["http://bücher.test/", "/", "xn--bcher-kva.test"],
    ]
  ) assertEquals(await sent(get(url)), `GET ${line} HTTP/1.1\r\nhost: ${host}\r\n${close}\r\n`);
  const request = { ...post("a=1"), headers: new Headers([["X-B", "2"], ["x-a", "1"]]) };
  assertEquals(
    await sent(request),
    "POST / HTTP/1.1\r\nhost: 127.0.0.1:9\r\n" + close +
      "x-a: 1\r\nx-b: 2\r\ncontent-length: 3\r\n\r\na=1",
  );
});

Deno.test("exchange reads a head and each framing of a body", async () => {
  const outcome = { status: 200, reason: "OK", body: "hello world" };
  assertEquals(await answered(SIZED), {
    ...outcome,
    headers: [["content-length", "11"], ["x-a", "1"]],
  });
  assertEquals(await answered(CHUNKED), {
    ...outcome,
    headers: [["transfer-encoding", "chunked"]],
  });
  assertEquals(await answered(CLOSED), { ...outcome, headers: [["x-a", "1"]] });

  const bodies: [response: string, status: number, reason: string, body: string][] = [
    ["HTTP/1.0 200 OK\r\n\r\nall\r\n\r\n", 200, "OK", "all\r\n\r\n"],
    ["HTTP/1.1 200\r\nContent-Length: 0\r\n\r\nmore", 200, "", ""],
    ["HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nmore", 200, "", "mo"],
    ["HTTP/1.1 999 Very Well\r\nCONTENT-LENGTH:\t2 \r\n\r\nok", 999, "Very Well", "ok"],
    ["HTTP/1.1 200 OK\nContent-Length: 2\n\nok", 200, "OK", "ok"], // RFC 9112, 2.2: may be taken
    ["HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n", 200, "OK", ""],
    [
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n",
      200,
      "OK",
      "0123456789",
    ],
    ["HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nhello", 204, "No Content", ""],
    ["HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n", 304, "Not Modified", ""],
    [
      `HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n${SIZED}`,
      200,
      "OK",
      "hello world",
    ],
  ];
  for (const [response, status, reason, body] of bodies) {
    const { headers: _, ...got } = await answered(response);
    assertEquals(got, { status, reason, body }, response);
  }
  const many =
    "HTTP/1.1 200 OK\r\nVia: a\r\nX: \r\nVIA:b\r\nSrv: grüße\r\nContent-Length: 0\r\n\r\n";
  const { headers } = await answered(new TextEncoder().encode(many));
  assertEquals(headers, [
    ["via", "a, b"],
    ["x", ""],
    ["srv", "grüße"],
    ["content-length", "0"],
  ]);
});

Deno.test("a response that is cut anywhere is complete or an error", async () => {
  for (const [response, body] of [[SIZED, true], [CHUNKED, true], [CLOSED, false]] as const) {
    const whole = await answered(response);
    // However it is cut in pieces, it is the same.
    for (let at = 1; at < response.length; at++) {
      assertEquals(await answered(response.slice(0, at), response.slice(at)), whole);
    }
    assertEquals(await answered(...response), whole);
    const head = response.indexOf("\r\n\r\n") + 4;
    for (let at = 0; at < response.length; at++) {
      const part = response.slice(0, at);
      const reset = new Deno.errors.ConnectionReset("Connection reset by peer (os error 104)");
      await failure(part, reset);
      if (body || at < head) await failure(part);
      // Without a length nobody can tell.
      else assertEquals((await answered(part)).body, response.slice(head, at));
    }
  }
  assertMatch(await failure(SIZED.slice(0, -4)), /^connection ended, 4 bytes are missing$/);
  assertMatch(await failure(CHUNKED.slice(0, 60)), /^connection ended, \d+ bytes are missing$/);
});

Deno.test("what is not as RFC 9112 has it is refused", async () => {
  const head = "HTTP/1.1 200 OK\r\n";
  const chunked = `${head}Transfer-Encoding: chunked\r\n\r\n`;
  for (
    const [response, says] of [
      ["", /^hung up without an answer$/],
      ["SSH-2.0-OpenSSH\r\n", /^not an answer in HTTP\/1\.1: SSH-2\.0-OpenSSH$/],
      ["HTTP/2 200 OK\r\n\r\n", /^not an answer in HTTP\/1\.1: HTTP\/2 200 OK$/],
      ["HTTP/1.1 20 OK\r\n\r\n", /^not an answer/],
      ["HTTP/1.1 2000 OK\r\n\r\n", /^not an answer/],
      ["HTTP/1.1 042 OK\r\n\r\n", /^not an answer/],
      ["HTTP/1.1 -20 OK\r\n\r\n", /^not an answer/],
      ["\r\nHTTP/1.1 200 OK\r\n\r\n", /^not an answer/],
      ["HTTP/1.1 101 Switching Protocols\r\n\r\n", /^hung up without an answer$/],
      [`${head}X: a\r\n b\r\n\r\n`, /^not a header: {2}b$/],
      [`${head} X: a\r\n\r\n`, /^not a header: {2}X: a$/],
      [`${head}X : a\r\n\r\n`, /^not a header: X : a$/],
      [`${head}X\r\n\r\n`, /^not a header: X$/],
      [`${head}: a\r\n\r\n`, /^not a header: : a$/],
      [`${head}X: a\rY: b\r\n\r\n`, /^not a header: X: a/],
      [`${head}X: a\0\r\n\r\n`, /^not a header: X: a/],
      [`${head}Content-Length: 5`, /^connection ended in the middle/],
      [`${head}Content-Length: 5\r\n`, /^not a header: nothing$/],
      [
        `${head}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello`,
        /^not a Content-Length: 5, 5$/,
      ],
      [
        `${head}Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello`,
        /^not a Content-Length: 5, 6$/,
      ],
      ...["-1", "+5", "5.0", "5a", "0x5", "", "5 5", "9".repeat(16)].map((length) =>
        [
          `${head}Content-Length: ${length}\r\n\r\nhello`,
          /^not a Content-Length: /,
        ] as const
      ),
      [
        `${head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n`,
        /^HTTP\/1\.1 with a Transfer/,
      ],
      ...["gzip", "gzip, chunked", "chunked, chunked", "identity", "", "xchunked"].map((coding) =>
        [
          `${head}Transfer-Encoding: ${coding}\r\n\r\n0\r\n\r\n`,
          /^HTTP\/1\.1 with a Transfer-Encoding that cannot be read: /,
        ] as const
      ),
      [
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        /^HTTP\/1\.0 with a Transfer-Encoding that cannot be read: chunked$/,
      ],
      ...["-5", "0x5", "", " 5", "g", "5 x", "1".repeat(13)].map((size) =>
        [`${chunked}${size}\r\nhello\r\n0\r\n\r\n`, /^not the size of a chunk: /] as const
      ),
      [`${chunked}4\r\nhello\r\n0\r\n\r\n`, /^a chunk is longer than its size$/],
      [`${chunked}5\r\nhello\n0\r\n\r\n`, /^a chunk is longer than its size$/],
      [`${chunked}6\r\nhello\r\n0\r\n\r\n`, /^a chunk is longer than its size$/],
      [`${chunked}5\r\nhello\r\n`, /^not the size of a chunk: nothing$/],
      [`${chunked}0\r\n`, /^not a header: nothing$/],
      [`${chunked}0\r\nno trailer\r\n\r\n`, /^not a header: no trailer$/],
    ] as const
  ) assertMatch(await failure(response), says, JSON.stringify(response));
});

Deno.test("a head that does not end is given up, and takes little memory until then", async () => {
  const head = "HTTP/1.1 200 OK\r\n";
  const interim = "HTTP/1.1 102 Processing\r\n\r\n";
  const chunked = `${head}Transfer-Encoding: chunked\r\n\r\n`;
  const most = /^headers of more than 65536 bytes$/;
  const many = /^more than 100 interim responses$/;
  for (
    const [first, forever, says] of [
      ["", "x", /^line of more than 8192 bytes$/],
      ["HTTP/1.1 200 ", "x", /^line of more than 8192 bytes$/],
      [`${head}X: `, "x", /^line of more than 8192 bytes$/],
      [head, "X: y\r\n", most],
      [head, `X: ${"y".repeat(8000)}\r\n`, most],
      ["", interim, many],
      ["", interim.replace("102", "100"), many],
      ["", `HTTP/1.1 102 Processing\r\nX: ${"y".repeat(600)}\r\n\r\n`, many],
      [`${chunked}5;`, "x", /^line of more than 8192 bytes$/],
      [`${chunked}0\r\n`, "X: y\r\n", most],
      [`${chunked}0\r\nX`, "y", /^line of more than 8192 bytes$/],
    ] as const
  ) {
    const { wire, conn } = receiving(first);
    const piece = forever.repeat(Math.ceil(1000 / forever.length));
    wire.send(...Array(1000).fill(piece));
    const { message } = await assertRejects(() => ask(conn));
    assertMatch(message, says);
    assert(conn.bytesRead < 100_000, `${conn.bytesRead}`);
    assert(wire.offered <= 65536, `${wire.offered}`);
  }
});

Deno.test("mutated responses are read or refused in one line", async () => {
  const choose = random(9112);
  const seeds = [SIZED, CHUNKED, CLOSED, `HTTP/1.1 100 Continue\r\n\r\n${CHUNKED}`];
  const spice = [
    "\r\n",
    "\n",
    "\r",
    "\0",
    ":",
    " ",
    ";",
    "0",
    "5",
    "f",
    "-",
    "é",
    "\x85",
    "\r\n\r\n",
  ];
  spice.push("Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n", "HTTP/1.1 200 OK\r\n");
  let [read, refused] = [0, 0];
  for (let i = 0; i < 6000; i++) {
    let text = seeds[choose(seeds.length)];
    for (let n = choose(4); n >= 0; n--) {
      const [at, span] = [choose(text.length + 1), choose(6)];
      const put = choose(2)
        ? spice[choose(spice.length)]
        : text.substr(choose(text.length), choose(20));
      text = text.slice(0, at) + put + text.slice(at + span);
    }
    try {
      const { body } = await answered(text);
      assert(body.length <= text.length);
      read++;
    } catch (error) {
      assert(error instanceof Error && /^[^\n]{1,200}$/.test(error.message), JSON.stringify(text));
      const ours = [Error, Deno.errors.UnexpectedEof].includes(
        error.constructor as ErrorConstructor,
      );
      assert(ours, `${error.stack}\n${JSON.stringify(text)}`);
      refused++;
    }
  }
  assert(read > 500 && refused > 500, `${read} read, ${refused} refused`);
});

/** What a server sees, and its client gets, of a large body: `behave` has read the head. */
async function upload(
  behave: (conn: FramedConn) => Promise<unknown>,
  size = 70_000,
): Promise<{ head: string; outcome: Outcome | Error }> {
  const { near, far } = await pair();
  using client = new FramedConn(far, { timeout: 10_000 });
  using server = near;
  const outcome = ask(client, post("x".repeat(size))).catch((error) => error)
    .finally(() => client.close());
  let head = "";
  for (let line; (line = await server.readLine()) !== "";) head += `${line}\n`;
  await behave(server);
  return { head, outcome: await outcome };
}

Deno.test({
  name: "a large body is sent when it is wanted, or when nobody says",
  ignore: !mayConnect,
  async fn() {
    const fine = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    const body = (conn: FramedConn) => conn.readExactly(70_000);
    for (
      const answers of [
        async (conn: FramedConn) => {
          assertEquals(conn.bytesRead < 1000, true);
          await conn.writeAll("HTTP/1.1 100 Continue\r\n\r\n");
          await body(conn);
          await conn.writeAll(fine);
        },
        async (conn: FramedConn) => { // who does not know the question waits for the body
          await body(conn);
          await conn.writeAll(fine);
        },
        async (conn: FramedConn) => { // late, and with another interim one
          await conn.writeAll("HTTP/1.1 102 Processing\r\n\r\n");
          await body(conn);
          await conn.writeAll(`HTTP/1.1 100 Continue\r\n\r\n${fine}`);
        },
      ]
    ) {
      const { head, outcome } = await upload(answers);
      assertMatch(head, /^content-length: 70000\nexpect: 100-continue\n$/m);
      assertEquals((outcome as Outcome).body, "ok");
    }
    // A small one goes at once.
    const { head } = await upload(async (conn) => {
      assertEquals((await conn.readExactly(1000)).length, 1000);
      await conn.writeAll(fine);
    }, 1000);
    assert(!/expect/.test(head));
  },
});

Deno.test({
  name: "a large body that is refused is not sent",
  ignore: !mayConnect,
  async fn() {
    for (const status of ["417 Expectation Failed", "413 Content Too Large", "200 OK"]) {
      const { outcome } = await upload(async (conn) => {
        await conn.writeAll(`HTTP/1.1 ${status}\r\nContent-Length: 2\r\n\r\nno`);
        await conn.conn.closeWrite();
        assertEquals(await conn.readSome(), null);
      });
      const { status: code, body } = outcome as Outcome;
      assertEquals([code, body], [parseInt(status), "no"]);
    }
    const { outcome } = await upload((conn) => Promise.resolve(conn.close()));
    assertMatch((outcome as Error).message, /^hung up without an answer$/);
  },
});

Deno.test({
  name: "who refuses a body in its midst and reads no more is heard",
  ignore: !mayConnect,
  async fn() {
    const { outcome } = await upload(async (conn) => {
      await conn.writeAll("HTTP/1.1 100 Continue\r\n\r\n");
      await conn.readExactly(10_000);
      await conn.writeAll(
        `HTTP/1.1 413 No\r\nContent-Length: 300000\r\n\r\n${"x".repeat(300_000)}`,
      );
    }, 20_000_000); // more than the sockets hold on the way
    const { status, body } = outcome as Outcome;
    assertEquals([status, body.length], [413, 300_000]);
  },
});

Deno.test("redirected follows RFC 9110, 15.4", () => {
  const secret: [string, string][] = [["authorization", "a"], ["cookie", "c"], ["x-a", "1"]];
  const from = (method: string, url: string, status: number, location?: string) => {
    const headers = new Headers([...secret, ["content-type", "t"]]);
    const body = method === "POST" ? octets("x") : undefined;
    const answered = new Map(location === undefined ? [] : [["location", location]]);
    const response = { status, reason: "", headers: answered, body: ReadableStream.from([]) };
    const next = redirected({ method, url: new URL(url), headers, body }, response);
    return next &&
      [next.method, next.url.href, [...next.headers.keys()].join(), next.body?.length ?? 0];
  };
  const [url, all] = ["http://a.test:81/x/y?q", "authorization,content-type,cookie,x-a"];
  const there = "http://a.test:81/x/z";
  for (const status of [301, 302, 303]) {
    assertEquals(from("GET", url, status, "z"), ["GET", there, all, 0]);
    assertEquals(from("POST", url, status, "z"), ["GET", there, "authorization,cookie,x-a", 0]);
  }
  for (const status of [307, 308]) {
    assertEquals(from("GET", url, status, "z"), ["GET", there, all, 0]);
    assertEquals(from("POST", url, status, "z"), ["POST", there, all, 1]);
  }
  for (const status of [200, 201, 300, 304, 305, 306, 404]) {
    assertEquals(from("GET", url, status, "z"), undefined);
  }
  assertEquals(from("GET", url, 302), undefined);
  const hop = (url: string, location: string) => from("GET", url, 302, location)?.slice(1, 3);
  assertEquals(hop(url, "/z"), ["http://a.test:81/z", all]);
  assertEquals(hop(url, "?z"), ["http://a.test:81/x/y?z", all]);
  assertEquals(hop(url, ""), ["http://a.test:81/x/y?q", all]);
  // Another host, port or scheme is another origin.
  for (const other of ["//b.test:81/", "http://a.test/", "https://a.test:81/", "//b.a.test:81/"]) {
    assertEquals(hop(url, other)?.[1], "content-type,x-a", other);
  }
  assertEquals(hop("https://a.test/", "https://A.test:443/z"), ["https://a.test/z", all]);
  for (
    const bad of ["http://", "ftp://a.test/", "file:///etc/passwd", "http://u:p@a.test/", "data:,x"]
  ) {
    assertThrows(() => hop(url, bad), Error, `${url}: will not follow: ${bad}`);
  }
  assertThrows(() => hop("https://a.test/", "http://a.test/"), Error, "not follow: http://a.test/");
});

/** A server that answers each path with what it is given for it, and how it is asked. */
function answering(answers: Record<string, string | Uint8Array>, asked: string[] = []) {
  return testServer(async (conn) => {
    let [head, length] = ["", 0];
    for (let line; (line = await conn.readLine()) !== "";) {
      head += `${line}\n`;
      length = Number(/^content-length: (\d+)/i.exec(line ?? "")?.[1] ?? length);
    }
    asked.push(head + latin1(await conn.readExactly(length)));
    const answer = answers[head.split(" ")[1]] ?? "HTTP/1.1 404 Not Found\r\n\r\n";
    await conn.writeAll(typeof answer === "string" ? octets(answer) : answer);
    await conn.finish(new Uint8Array(1024));
  });
}

/** Asks on both levels at once, for each what `args` make of its flag, and returns both results. */
function both(args: (name: string) => string[], permissions = FILES): Promise<Result[]> {
  return Promise.all(
    LEVELS.map((level) =>
      run("http_client", [...level, ...args(level[0] ?? "fetch")], { permissions })
    ),
  );
}

Deno.test({
  name: "http_client prints the octets of the body, and of 400 and more the status as well",
  ignore: !mayRun,
  async fn() {
    const binary = String.fromCharCode(...Array(256).keys());
    await using server = answering({
      "/text": "HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\nhello \x1b[31m\r\nyou\n",
      "/empty": "HTTP/1.1 204 No Content\r\n\r\n",
      "/old": "HTTP/1.0 200 OK\r\n\r\nold",
      "/same": "HTTP/1.1 304 Not\x1bModified\r\n\r\n",
      "/choice": "HTTP/1.1 300 Multiple Choices\r\nLocation: /text\r\n\r\nchoose",
      "/gone": "HTTP/1.1 410 Gone\r\nContent-Length: 4\r\n\r\ngone",
      "/broken":
        "HTTP/1.1 500 Internal Server Error\r\nTransfer-Encoding: chunked\r\n\r\n4\r\noops\r\n0\r\n\r\n",
    });
    const url = `http://127.0.0.1:${server.port}`;
    for (
      const [path, code, stdout, stderr] of [
        ["/text", 0, "hello \x1b[31m\r\nyou\n", ""],
        ["/text?q", 1, "", "404 Not Found"],
        ["/empty", 0, "", ""],
        ["/old", 0, "old", ""],
        ["/choice", 0, "choose", "300 Multiple Choices"],
        ["/gone", 1, "gone", "410 Gone"],
        ["/broken", 1, "oops", "500 Internal Server Error"],
      ] as const
    ) {
      for (const result of await both(() => [url + path])) {
        assertEquals(result, { code, stdout, stderr: stderr && `http_client: ${stderr}\n` }, path);
      }
    }
    const same = await run("http_client", ["--by-hand", `${url}/same`]);
    assertEquals(same.stderr, "http_client: 304 Not\\x1bModified\n");

    await using binaries = answering({
      "/": octets(`HTTP/1.1 200 OK\r\nContent-Length: 256\r\n\r\n${binary}`),
    });
    await using folder = await temporaryFolder();
    await both((
      level,
    ) => ["--output", `${folder.path}/${level}`, `http://localhost:${binaries.port}`]);
    for (const { name } of Deno.readDirSync(folder.path)) {
      assertEquals(latin1(await Deno.readFile(`${folder.path}/${name}`)), binary);
    }
    assertEquals([...Deno.readDirSync(folder.path)].length, 2);
  },
});

Deno.test({
  name: "http_client takes a response whose octets come one by one",
  ignore: !mayRun,
  async fn() {
    await using server = testServer(async (conn) => {
      (conn.conn as Deno.TcpConn).setNoDelay();
      const response = { s: SIZED, c: CHUNKED, e: CLOSED }[(await conn.readLine())?.[5] ?? ""];
      while (await conn.readLine());
      for (const octet of octets(response ?? "")) await conn.writeAll(new Uint8Array([octet]));
    });
    await Promise.all(["s", "c", "e"].map(async (path) => {
      for (const result of await both(() => [`http://127.0.0.1:${server.port}/${path}`])) {
        assertEquals(result, { code: 0, stdout: "hello world", stderr: "" }, path);
      }
    }));
  },
});

Deno.test({
  name: "http_client posts, with headers of one's own, and hides in the trace who one is",
  ignore: !mayRun,
  async fn() {
    const asked: string[] = [];
    await using server = answering({
      "/": "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
    }, asked);
    const url = `http://127.0.0.1:${server.port}/`;
    const type = (text: string) => new RegExp(`^content-type: ${text}$`, "m");
    for (
      const [args, ...patterns] of [
        [
          ["--data", "a=1&b=ü"],
          /^POST \/ HTTP\/1\.1\n/,
          type("application/x-www-form-urlencoded"),
          /^content-length: 8$/m,
          /\n\na=1&b=Ã¼$|\na=1&b=Ã¼$/,
        ],
        [["--json", '{"a": 1}'], /^POST /, type("application/json"), /\{"a": 1\}$/],
        [["--json", "1", "--header", "Content-Type: x/y"], /^POST /, type("x/y"), /1$/],
        [
          ["--header", "X-A:1", "--header", "x-a: 2", "--header", "User-Agent: me"],
          /^GET /,
          /^x-a: 1, 2$/m,
          /^user-agent: me$/m,
        ],
        [
          [],
          /^GET /,
          /^accept-encoding: identity$/m,
          /^user-agent: http_client$/m,
          new RegExp(`^host: 127\\.0\\.0\\.1:${server.port}$`, "m"),
        ],
      ] as [string[], ...RegExp[]][]
    ) {
      asked.length = 0;
      for (const { code, stdout, stderr } of await both(() => [...args, url])) {
        assertEquals([code, stdout, stderr], [0, "ok", ""]);
      }
      assertEquals(asked.length, 2);
      for (const request of asked) for (const pattern of patterns) assertMatch(request, pattern);
    }
    for (const secret of ["Basic c2VjcmV0", "Bearer c2VjcmV0 c2VjcmV0", "c2VjcmV0"]) {
      asked.length = 0;
      const header = ["--header", `Authorization: ${secret}`];
      const { stderr } = await run("http_client", ["--by-hand", "--trace", ...header, url]);
      assertMatch(stderr, /^> 127\.0\.0\.1:\d+ authorization: \*\*\*\\r\\n$/m);
      assertMatch(stderr, /^< 127\.0\.0\.1:\d+ HTTP\/1\.1 200 OK\\r\\n$/m);
      assert(!stderr.includes("c2VjcmV0"), stderr);
      await run("http_client", [...header, url]);
      assertEquals(asked.length, 2);
      for (const request of asked) {
        assert(request.includes(`\nauthorization: ${secret}\n`), request);
      }
    }
  },
});

Deno.test({
  name: "http_client follows redirects, not for ever, and takes no secret to another origin",
  ignore: !mayRun,
  async fn() {
    const [asked, elsewhere]: string[][] = [[], []];
    const to = (status: number, location: string) =>
      `HTTP/1.1 ${status} Go\r\nLocation: ${location}\r\nContent-Length: 5\r\n\r\nthere`;
    const fine = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    await using other = answering({ "/b": fine }, elsewhere);
    const hops = Array.from(
      { length: 10 },
      (_, i): [string, string] => [`/${i}`, to(302, `${i + 1}`)],
    );
    await using server = answering({
      ...Object.fromEntries(hops),
      "/10": fine,
      "/start": to(301, "/0"),
      "/loop": to(302, "/loop"),
      "/away": to(307, `//127.0.0.1:${other.port}/b`),
      "/see": to(303, "/10"),
      "/ftp": to(302, "ftp://127.0.0.1/"),
    }, asked);
    const url = `http://127.0.0.1:${server.port}`;
    for (
      const [path, code, stdout, byHand, most, byFetch, all] of [
        // fetch() follows 20.
        ["/0", 0, "ok", /^$/, 11, /^$/, 11],
        ["/start", 1, "", /: http:\S+: redirected more than 10 times\n$/, 11, undefined, 0],
        ["/loop", 1, "", /redirected more than 10 times\n$/, 11, /Maximum number of redirects/, 21],
        [
          "/ftp",
          1,
          "",
          /\/ftp: will not follow: ftp:\/\/127\.0\.0\.1\/\n$/,
          1,
          /Can not redirect/,
          1,
        ],
      ] as const
    ) {
      for (
        const [level, says, count] of [[["--by-hand"], byHand, most], [[], byFetch, all]] as const
      ) {
        if (!says) continue;
        asked.length = 0;
        const result = await run("http_client", [...level, url + path]);
        assertEquals([result.code, result.stdout], [code, stdout], result.stderr);
        assertMatch(result.stderr, says);
        assertMatch(result.stderr, /^(http_client: [^\n]+\n)?$/);
        assertEquals(asked.length, count);
      }
    }
    const secrets = ["--header", "Authorization: a", "--header", "Cookie: c", "--header", "X-A: 1"];
    await both(() => [...secrets, "--data", "x=1", `${url}/away`]);
    assertEquals(elsewhere.length, 2);
    for (const request of elsewhere) {
      assertMatch(
        request,
        /^POST \/b HTTP\/1\.1\n[^]*\nx-a: 1\n[^]*\nx=1$|^POST \/b [^]*x-a: 1\n[^]*x=1$/,
      );
      assert(!/^(authorization|cookie):/im.test(request), request);
    }
    asked.length = 0;
    await both(() => [...secrets, "--data", "x=1", `${url}/see`]);
    const second = asked.filter((request) => request.startsWith("GET /10 "));
    assertEquals(second.length, 2);
    for (const request of second) {
      assertMatch(request, /^authorization: a$/m);
      assert(!/content-(type|length)|x=1/.test(request), request);
    }
  },
});

Deno.test({
  name: "--output has the whole body or nothing",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const large = "x".repeat(1_000_000);
    const [head, chunk] = ["HTTP/1.1 200 OK\r\n", "F4240\r\n"];
    await using server = answering({
      "/sized": `${head}Content-Length: 1000000\r\n\r\n${large}`,
      "/chunked": `${head}Transfer-Encoding: chunked\r\n\r\n${chunk}${large}\r\n0\r\n\r\n`,
      "/short": `${head}Content-Length: 1000001\r\n\r\n${large}`,
      "/cut": `${head}Transfer-Encoding: chunked\r\n\r\n${chunk}${large.slice(7)}`,
      "/none": "HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno\n",
      "/same": "HTTP/1.1 304 Not Modified\r\n\r\n",
    });
    const url = `http://127.0.0.1:${server.port}`;
    const get = (path: string) =>
      both((level) => ["--output", `${folder.path}/${level}`, `${url}${path}`]);
    const names = () => [...Deno.readDirSync(folder.path)].map(({ name }) => name).sort();
    const short = [
      /: after 1000000 of 1000001 bytes: (connection ended, 1 bytes are missing|error reading a body from connection)\n$/,
    ];
    short.push(
      /: after 999993 bytes: (connection ended, 7 bytes are missing|error reading a body from connection)\n$/,
    );
    for (const [i, path] of ["/short", "/cut"].entries()) {
      for (const { code, stdout, stderr } of await get(path)) {
        assertEquals([code, stdout], [1, ""]);
        assertMatch(stderr, /^http_client: 127\.0\.0\.1:\d+: [^\n]+\n$/);
        assertMatch(stderr, short[i]);
      }
      assertEquals(names(), []);
    }
    for (const path of ["/sized", "/chunked"]) {
      for (const { code, stdout, stderr } of await get(path)) {
        assertEquals([code, stdout, stderr], [0, "", ""]);
      }
      assertEquals(names(), ["--by-hand", "fetch"]);
      for (const name of names()) {
        assert(await Deno.readTextFile(`${folder.path}/${name}`) === large);
        await Deno.writeTextFile(`${folder.path}/${name}`, "before");
      }
    }
    // What is not what was asked for does not take the place of what is there.
    for (
      const [path, code, stdout, said] of [
        ["/none", 1, "no\n", "404 Not Found"],
        ["/same", 0, "", "304 Not Modified"],
      ] as const
    ) {
      for (const result of await get(path)) {
        assertEquals(result, { code, stdout, stderr: `http_client: ${said}\n` });
      }
    }
    await get("/short");
    assertEquals(names(), ["--by-hand", "fetch"]);
    for (const name of names()) {
      assertEquals(await Deno.readTextFile(`${folder.path}/${name}`), "before");
    }
    for (const path of [folder.path, "/dev/null"]) {
      for (const { code, stderr } of await both(() => ["--output", path, `${url}/sized`])) {
        assertEquals(code, 2);
        assertMatch(stderr, new RegExp(`^http_client: --output: ${path} is no file \\(.*\n$`));
      }
    }
    assert((await Deno.stat("/dev/null")).isCharDevice);
  },
});

Deno.test({
  name: "Ctrl-C in the middle of a file leaves nothing of it",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    await using server = testServer(async (conn) => {
      while (await conn.readLine());
      await conn.writeAll("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhel");
      await conn.readToEnd(10_000);
    });
    for (const level of LEVELS) {
      const args = ["--output", `${folder.path}/file`, `http://127.0.0.1:${server.port}/`];
      await using client = start("http_client", [...level, ...args], FILES);
      await eventually("a part", () => [...Deno.readDirSync(folder.path)].length > 0);
      client.signal("SIGINT");
      const { code, stderr } = await client.ended();
      assertEquals([code, stderr], [130, ""]);
      assertEquals([...Deno.readDirSync(folder.path)], []);
    }
  },
});

Deno.test({
  name: "http_client says what is wrong with its command line, exit 2",
  ignore: !mayRun,
  async fn() {
    await Promise.all(([
      [["127.0.0.1:8080"], /URL must start with http:\/\/ or https:\/\//],
      [["localhost:8080/x"], /URL must start/],
      [["/x"], /URL must start/],
      [["ftp://127.0.0.1/"], /URL must start/],
      [["http://"], /URL must start/],
      [["http://u:secret@127.0.0.1/"], /no user or password/],
      [["http://u@127.0.0.1/"], /no user or password/],
      [["http://127.0.0.1:99999/"], /URL must start/],
      [[], /URL is missing/],
      [["http://127.0.0.1/", "x"], /unexpected argument x/],
      [["--data", "a", "--json", "1", "http://127.0.0.1/"], /--data and --json do not go together/],
      [["--trace", "http://127.0.0.1/"], /--trace needs --by-hand: fetch\(\) hides the wire/],
      ...["a", "a b: c", ": c", "a: b\r\nc: d", "a: b\nc: d", "a: \0", "ä: b", "a: ü"].map((
        header,
      ) => [["--header", header, "http://127.0.0.1/"], /--header: not "Name: value": /] as const)
        .filter(([[, header]]) => !header.includes("\0")), // no command line has that
      ...["Host", "content-length", "Transfer-Encoding", "Connection", "Expect"].map((name) =>
        [
          ["--header", `${name}: 1`, "http://127.0.0.1/"],
          new RegExp(`writes the header ${name} itself`, "i"),
        ] as const
      ),
    ] as [string[], RegExp][]).map(async ([args, says]) => {
      const { code, stdout, stderr } = await run("http_client", args);
      assertEquals([code, stdout], [2, ""], `${args}`);
      assertMatch(stderr, says);
      assertMatch(stderr, /^http_client: [^\n]+ \(--help tells more\)\n$/);
      assert(!stderr.includes("secret"));
    }));
  },
});

Deno.test({
  name: "http_client that gets no answer says why",
  ignore: !mayRun,
  async fn() {
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const dead = listener.addr.port;
    listener.close();
    await using silent = testServer((conn) => conn.readToEnd(1e6));
    await using stuck = testServer(async (conn) => {
      while (await conn.readLine());
      await conn.writeAll("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhel");
      await conn.readToEnd(1e6);
    });
    await using plain = testServer((conn) => conn.writeAll("no handshake\r\n"));
    await using other = testServer(async (conn) => {
      while (await conn.readLine());
      await conn.writeAll("no HTTP\r\n");
    });
    await using flooding = testServer(async (conn) => {
      while (await conn.readLine());
      for (;;) await conn.writeAll("HTTP/1.1 102 Processing\r\n\r\n".repeat(100));
    });
    // Who is to blame is where it led.
    await using leading = answering({
      "/": `HTTP/1.1 302 Go\r\nLocation: http://127.0.0.1:${dead}/\r\n\r\n`,
    });
    const quick = ["--timeout", "0.3"];
    await Promise.all(([
      [[`http://127.0.0.1:${dead}/`], /: 127\.0\.0\.1:\d+: connection refused\n$/],
      [
        [`http://127.0.0.1:${leading.port}/`],
        new RegExp(`: 127\\.0\\.0\\.1:${dead}: connection refused`),
      ],
      [[`http://[::1]:${dead}/`], /: \[::1\]:\d+: connection refused\n$/],
      [[`https://127.0.0.1:${dead}/`], /: 127\.0\.0\.1:\d+: connection refused\n$/],
      [[`http://${"n".repeat(64)}/`], /: n{64}(:80)?: unknown host\n$/],
      [
        [...quick, `http://127.0.0.1:${silent.port}/`],
        /: 127\.0\.0\.1:\d+: no answer within 0\.3 s/,
      ],
      [[...quick, `https://127.0.0.1:${silent.port}/`], /: 127\.0\.0\.1:\d+: no .* within 0\.3 s/],
      [
        ["--timeout", "2", `http://127.0.0.1:${stuck.port}/`],
        /after 3 of 6 bytes: no answer within 2 s/,
      ],
      [
        [`https://127.0.0.1:${plain.port}/`],
        /: 127\.0\.0\.1:\d+: the other side does not speak TLS/,
      ],
      [
        [`http://127.0.0.1:${other.port}/`],
        /: 127\.0\.0\.1:\d+: (not an answer in HTTP\/1\.1: no H|inv)/,
      ],
      [
        ["--timeout", "3", `http://127.0.0.1:${flooding.port}/`],
        /: (more than 100 interim|no answer)/,
      ],
      [["--ca", "/none/ca.pem", `https://127.0.0.1:${dead}/`], /: \/none\/ca\.pem: no such file/],
    ] as [string[], RegExp][]).map(async ([args, says]) => {
      for (const { code, stdout, stderr } of await both(() => args)) {
        assertEquals([code, stdout], [1, says.source.includes("of 6") ? "hel" : ""], stderr);
        assertMatch(stderr, says);
        assertMatch(stderr, /^http_client: [^\n]+\n$/);
      }
    }));
  },
});

Deno.test({
  name: "on a terminal the body cannot drive it",
  ignore: missing("python3"),
  async fn() {
    await using server = answering({
      "/":
        "HTTP/1.1 200 OK\r\nContent-Length: 24\r\n\r\na\tb\r\n\x1b[31mr\x07\xc3\xa4\xff\xe2\x80\xae<\r>\n.\n",
    });
    for (const level of LEVELS) {
      const url = `http://127.0.0.1:${server.port}/`;
      await using program = startOnTerminal("http_client", [...level, url]);
      await program.until(/^exit 0/m);
      assertMatch(
        program.stdout,
        /a\tb\r\n\\x1b\[31mr\\x07ä\ufffd\\u202e<>\r\n\.\r\n/,
      );
    }
  },
});
