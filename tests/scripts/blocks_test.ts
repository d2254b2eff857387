import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { serialize } from "node:v8";
import { FramedConn } from "../../lib/framing.ts";
import * as client from "../../scripts/blocks_client.ts";
import * as server from "../../scripts/blocks_server.ts";
import { mayConnect, mayRun, missing, type Program, run, start } from "../helpers.ts";
import { pair, temporaryFolder } from "../helpers.ts";
import { latin1, octets, random, receiving } from "../lib/wire.ts";
import { dial, eventually, memory } from "../peers/peers.ts";
import { FILES, inEachForm, testServer } from "./rig.ts";

const FORMATS = ["json", "xml", "clone"] as const;
const MIB = 1024 * 1024;
const text = (block: Uint8Array) => new TextDecoder().decode(block);

/** What is answered. */
type Receipt = { number: number; octets: number; error: string };

/** The receipt that there has to be, to the octet. */
const receipt = (number: number, octets: number) => JSON.stringify({ number, octets });

/** A block as it goes over the wire, by default with its true length. */
function frame(block: Uint8Array | string, length = block.length): Uint8Array {
  const data = typeof block === "string" ? octets(block) : block;
  const framed = new Uint8Array(4 + data.length);
  new DataView(framed.buffer).setUint32(0, length);
  framed.set(data, 4);
  return framed;
}

/** V8's structured clone, by hand: octets, and the octets of strings. */
function clone(...parts: (number | string)[]): Uint8Array {
  return octets(
    "\xff\x0f" + parts.map((p) => typeof p === "string" ? p : latin1(number(p))).join(""),
  );
}

/** A number as V8 writes it, seven bits to an octet. */
function number(n: number): Uint8Array {
  const written = [];
  for (; n >= 128; n = Math.floor(n / 128)) written.push(n % 128 + 128);
  return Uint8Array.from([...written, n]);
}

/** The parts of a clone over and over, up to 1 MiB. */
const filled = (...parts: (number | string)[]) => {
  const unit = latin1(clone(...parts).subarray(2));
  return clone(unit.repeat(Math.floor((MIB - 2) / unit.length)));
};

Deno.test("a message comes out of each format as what that format can hold", () => {
  const date = new Date("1969-07-20T20:17:40Z");
  const map = new Map<unknown, unknown>([["a", new Set([1, "ü€😀"])], [{ b: 1 }, null]]);
  const proto = JSON.parse('{"__proto__": {"x": 1}, "constructor": 2}');
  const all = { yes: true, no: false, none: null, few: [1, -2.5, 1e300], "": " x\n", ü: "&<>\"'" };
  for (
    const [message, json, xml] of [
      ["grüße €😀", "grüße €😀", "grüße €😀"],
      [" a\tb\n ", " a\tb\n ", " a\tb\n "],
      ["007", "007", "007"],
      [7, 7, "7"],
      ["", "", ""],
      [null, null, ""],
      [date, date.toJSON(), date.toJSON()],
      [map, {}, ""],
      [new Uint8Array([1, 255]), { 0: 1, 1: 255 }, Error],
      [["a"], ["a"], { item: "a" }],
      [[], [], ""],
      [[1, null, { a: null }, [], true], [1, null, { a: null }, [], true], {
        item: ["1", "", { a: "" }, "", "true"],
      }],
      [[["a", 1], []], [["a", 1], []], { item: [{ item: ["a", "1"] }, ""] }],
      [{ ü: { a: "&<>\"']]>" } }, { ü: { a: "&<>\"']]>" } }, { ü: { a: "&<>\"']]>" } }],
      [{ toString: "x" }, { toString: "x" }, { toString: "x" }],
      [all, all, Error],
      [proto, proto, Error],
      ["\0\x1b", "\0\x1b", Error],
      ["a\rb", "a\rb", Error],
      ["\ud800", "\ud800", Error],
      ["\ufffe", "\ufffe", Error],
      [{ "a b": 1 }, { "a b": 1 }, Error],
      [{ "a>": 1 }, { "a>": 1 }, Error],
      [{ "1a": 1 }, { "1a": 1 }, Error],
      [{ "": 1 }, { "": 1 }, Error],
      [{ µ: 1 }, { µ: 1 }, Error],
      [{ "#text": 1 }, { "#text": 1 }, Error],
      [{ "@_a": 1 }, { "@_a": 1 }, Error],
    ] as const
  ) {
    const through = (format: client.Format) =>
      server.decode(format, client.encode(format, message));
    assertEquals(through("clone"), message as unknown);
    assertEquals(through("json"), json as unknown);
    if (xml === Error) assertThrows(() => through("xml"), Error);
    else assertEquals(through("xml"), xml as unknown);
  }
  assertThrows(() => client.encode("clone", () => {}), Error, "could not be cloned");
  assertThrows(() => client.encode("json", 1n), TypeError);
  assertEquals(Object.keys(Object.prototype), [], "nobody's prototype has changed");
});

Deno.test("blocks_server reads XML that others write, and no more than that", () => {
  const read = (document: string) => server.decode("xml", new TextEncoder().encode(document));
  for (
    const [document, message] of [
      ["<message/>", ""],
      ['<?xml version="1.0"?>\n<message>1</message>\n<!-- end -->\n', "1"],
      ["<message>&#252;&#x20ac;&lt;&amp;lt;</message>", "ü€<&lt;"],
      ["<message><![CDATA[<a> & b]]></message>", "<a> & b"],
      ["<message><!-- not <this> -->a</message>", "a"],
      ['<message id="&lt;1">a</message>', { "#text": "a", "@_id": "<1" }],
      ["<message> <a>1</a><a/></message>", { "#text": " ", a: ["1", ""] }],
    ] as const
  ) {
    assertEquals(read(document), message as unknown, document);
  }
  for (
    const [document, error] of [
      ["", "Start tag expected"],
      ["message", "not expected"],
      ["<message>", "Unclosed tag"],
      ["<message><a></message></a>", "Expected closing tag"],
      ["<message>a & b</message>", "'&' is not expected"],
      ["<message></message><message></message>", "Multiple possible root nodes"],
      ["<message/><message/>", "not one <message>"],
      ["<message/><other/>", "not one <message>"],
      ["<other/>", "not one <message>"],
      ["<message a=1/>", "without value"],
      ["<message><__proto__><x>1</x></__proto__></message>", "__proto__"],
      ["<message><constructor>1</constructor></message>", "constructor"],
      ["<message>" + "<a>".repeat(200) + "</a>".repeat(200) + "</message>", "nested tags"],
      ['<!DOCTYPE m [<!ENTITY a "aaaa">]><message>&a;</message>', "DOCTYPE"],
      ['<!DOCTYPE m SYSTEM "file:///etc/passwd"><message/>', "DOCTYPE"],
    ]
  ) {
    assertThrows(() => read(document), Error, error);
  }
  assertThrows(() => server.decode("xml", octets("<message>\xff</message>")), TypeError);
  assertEquals(Object.keys(Object.prototype), []);
});

/** Clones that would cost their reader all memory, or all time, were they read. */
const BOMBS: Record<string, () => Uint8Array> = {
  "an array of 30 million in a block of 15 octets": () => clone("A", 30e6, "0$", 0, 30e6),
  "thousands of such arrays, each the first item of the one before": () => filled("A", 300_000),
  "a sparse array of 30 million": () => clone("a", 30e6, "@", 0, 30e6),
  "thousands of those": () => filled("a", 30e6),
  "buffers that may grow to 1 GiB": () => filled("~", 0, 2 ** 30),
  "nine arrays of 100, each a hundred times the next": () => {
    let value: unknown = 1;
    for (let i = 0; i < 9; i++) value = Array(100).fill(value);
    return new Uint8Array(serialize(value));
  },
  "a value that holds itself": () => clone('o"', 1, "a^", 0, "{", 1),
  "a text of 4 GiB": () => clone('"', 2 ** 32 - 1),
  "a text of 4 GiB and four octets": () => clone('"', 2 ** 32 + 4, "texta", 30e6, "@", 0, 30e6),
  "a length in more octets than V8 reads, so that to it a sparse array follows": () =>
    clone('o"', 1, 'a"\x8a' + "\x80".repeat(9), 0, "0000a", 30e6, "0{", 1),
  "a length without an end": () => clone("A" + "\x80".repeat(200), 0, "$", 0, 0),
  "a BigInt": () => clone("Z", 2 ** 31),
  "a typed array of 4 GiB": () => clone("\\", 1, 2 ** 32 - 1),
  "a regular expression": () => clone('R"', 6, "(a*)*b", 0),
  "an error": () => clone("r."),
  "shared memory": () => clone("u", 0),
  "a WebAssembly module": () => clone("w", 0),
};

Deno.test("blocks_server takes no clone that could unfold, nor one that is cut", async (t) => {
  for (const [what, make] of Object.entries(BOMBS)) {
    await t.step(what, () => {
      const { message } = assertThrows(() => server.decode("clone", make()), Error);
      assertMatch(message, /^a clone's |^not a structured clone$/); // which V8 does not say
    });
  }
  const good = client.encode("clone", { a: ["x", 1.5, new Date(0), new Map([[1, new Set([2])]])] });
  server.decode("clone", good);
  for (let length = 0; length < good.length; length++) {
    assertThrows(() => server.decode("clone", good.subarray(0, length)), Error);
  }
  for (const other of ["", "\xff", "\xff\x0e0", "\xff\x100", "\0\x0f0", "{}"]) {
    assertThrows(() => server.decode("clone", octets(other)), Error, "not a structured clone");
  }
  assertThrows(() => server.decode("clone", octets("\xff\x0f")), Error);
  for (const deep of [filled("A", 1), filled('o"', 1, "a"), filled(";"), filled("'")]) {
    assertThrows(() => server.decode("clone", deep), RangeError);
  }
});

Deno.test("whatever is changed in a clone, reading and printing it ends soon or is refused", () => {
  const seed = Math.floor(Math.random() * 2 ** 32);
  const below = random(seed);
  const samples = [
    { a: 1, b: [1, 2, { c: null, d: "ü€" }], e: { f: [[], {}] } },
    [1.5, -1, 2 ** 31, true, undefined, "text", [[null], "x"]],
    new Map<unknown, unknown>([["a", new Set([1, 2])], [new Date(), new Uint8Array(5)]]),
    { n: new Float64Array(3), v: new DataView(new ArrayBuffer(9)), i: new BigUint64Array(2) },
  ].map((value) => client.encode("clone", value));
  const tags = octets("_0TF-\0o;'IUND\"c\\A${:,^aB~VZRr@");
  for (let i = 0; i < 5000; i++) {
    const block = samples[below(samples.length)].slice();
    for (let changes = 1 + below(4); changes > 0; changes--) {
      const at = 2 + below(block.length - 2);
      block[at] = below(2) ? tags[below(tags.length)] : below(256);
    }
    const began = performance.now();
    try {
      const value = server.decode("clone", block);
      const shown = Deno.inspect(value, { depth: 10 });
      assert(shown.length < 10_000, "it has become more");
    } catch (error) {
      const where = `seed ${seed}, ${i}: ${block}`;
      assert(error instanceof Error && error.name !== "AssertionError", `${where}: ${error}`);
    }
    assert(performance.now() - began < 1000, `seed ${seed}, ${i}: ${block}`);
  }
});

for (const format of FORMATS) {
  const messages = ["one", { zwei: "ü" }];
  const blocks = messages.map((message) => client.encode(format, message));
  const stream = blocks.map((block) => latin1(frame(block))).join("");
  const receipts = blocks.map(({ length }, i) => latin1(frame(receipt(i + 1, length))));

  Deno.test(`blocks_server in ${format}: two messages, an octet at a time`, async () => {
    const printed: string[] = [];
    const { wire, conn } = receiving(...stream, null);
    await server.receiver(format, (line) => printed.push(line))(conn);
    assertEquals(printed, ['127.0.0.1:9: "one"', '127.0.0.1:9: { zwei: "ü" }']);
    assertEquals(wire.written, receipts.join(""));
  });

  Deno.test(`blocks_server in ${format}: two messages, cut off at every place`, async () => {
    const first = 4 + blocks[0].length;
    for (let at = 0; at <= stream.length; at++) {
      const printed: string[] = [];
      const { conn } = receiving(...stream.slice(0, at), null);
      const served = server.receiver(format, (line) => printed.push(line))(conn);
      if ([0, first, stream.length].includes(at)) await served;
      else await assertRejects(() => served, Deno.errors.UnexpectedEof, "middle of a message");
      assertEquals(printed.length, Number(at >= first) + Number(at === stream.length), `${at}`);
    }
  });

  Deno.test(`blocks_client in ${format}: receipts an octet at a time, cut off at every place`, async () => {
    const answers = receipts.join("");
    for (let at = 0; at <= answers.length; at++) {
      const printed: string[] = [];
      const { wire, conn } = receiving(...answers.slice(0, at), null);
      const sent = client.sendMessages(conn, format, messages, (line) => printed.push(line));
      const whole = Number(at >= receipts[0].length) + Number(at === answers.length);
      if (whole === 2) await sent;
      else {await assertRejects(
          () => sent,
          Error,
          `127.0.0.1:9: ${whole} of 2 messages acknowledged: `,
        );}
      assertEquals(printed.length, whole);
      if (whole === 2) assertEquals(wire.written, stream);
    }
  });
}

Deno.test({
  name: "blocks_client says what is wrong with a receipt, and with a message before it sends any",
  ignore: !mayConnect,
  async fn() {
    const printed: string[] = [];
    const print = (line: string) => void printed.push(line);
    for (
      const [answer, says] of [
        ['{"number":2,"octets":1}', "not the receipt of message 1$"],
        ['{"number":1,"octets":2}', "not the receipt of message 1$"],
        ['{"number":"1","octets":1}', "not the receipt of message 1$"],
        ['{"number":1}', "not the receipt of message 1$"],
        ["{}", "not the receipt of message 1$"],
        ["null", "not the receipt of message 1$"],
        ["1", "not the receipt of message 1$"],
        ['"receipt"', "not the receipt of message 1$"],
        ["[1,1]", "not the receipt of message 1$"],
        ['{"number":1,"error":"no\\u001b!"}', "message refused: no\x1b!$"],
        ['{"number":1,"octets":1,"error":""}', "message refused: $"],
        ['{"error":{"toString":1}}', ""],
        ["nonsense", "unexpected token"],
        ['{"number":1,"octets":1}}', "unexpected non-whitespace"],
        ["", "unexpected end"],
        ["\xff", ""],
        ['{"number":1,"octets":1,"\xff":1}', ""],
        ["[".repeat(4096), ""],
        ["x".repeat(4097), "block of 4097 bytes, more than 4096$"],
      ] as const
    ) {
      const { near, far } = await pair();
      using _near = near;
      using peer = new FramedConn(far);
      const sending = client.sendMessages(near, "json", [1], print);
      await peer.readBlock();
      await peer.writeBlock(octets(answer));
      const { message } = await assertRejects(() => sending, Error);
      const where = "^127\\.0\\.0\\.1:\\d+: 0 of 1 messages acknowledged: ";
      assertMatch(message, new RegExp(where + says));
    }
    const strange = '{"number":1,"octets":1,"\u202e\\u001b":0}';
    const { conn } = receiving(frame(new TextEncoder().encode(strange)));
    await client.sendMessages(conn, "json", [1], print);
    assertEquals(printed, ['{"number":1,"octets":1,"\\u202e\\u001b":0}']);

    const { near, far } = await pair();
    using _near = near;
    using peer = new FramedConn(far);
    for (
      const [format, messages, says] of [
        ["json", [1, "x".repeat(MIB - 1)], "message 2: 1048577 bytes, more than 1048576"],
        ["xml", [1, { "a b": 1 }], 'message 2: XML has no such name: "a b"'],
        ["xml", ["\x1b"], 'message 1: XML has no such character: "\\u001b"'],
      ] as const
    ) {
      const sending = client.sendMessages(near, format, [...messages], () => {});
      await assertRejects(() => sending, Error, says);
    }
    near.close();
    assertEquals(await peer.readSome(), null, "nothing was sent");
  },
});

for (
  const [format, seen] of [
    ["json", [
      '{ text: "Grüße", sent: "1969-07-20T20:17:40.000Z", zip: "01067" }',
      "{}",
      '{ one: [ "only" ], two: [ "first", { second: [ true, null ] } ] }',
    ]],
    ["xml", [
      '{ text: "Grüße", sent: "1969-07-20T20:17:40.000Z", zip: "01067" }',
      '""',
      '{ one: { item: "only" }, two: { item: [ "first", { second: { item: [ "true", "" ] } } ] } }',
    ]],
    ["clone", [
      '{ text: "Grüße", sent: 1969-07-20T20:17:40.000Z, zip: "01067" }',
      'Map(2) { "äpfel" => 3, "birnen" => { reif: 2, unreif: 0.5 } }',
      '{ one: [ "only" ], two: [ "first", { second: [ true, null ] } ] }',
    ]],
  ] as const
) {
  Deno.test({
    name: `blocks_server shows what ${format} makes of the client's samples`,
    ignore: !mayRun,
    async fn() {
      await using server = start("blocks_server", ["--port", "0", "--format", format]);
      const args = ["--port", `${await server.port()}`, "--format", format];
      const { code, stdout, stderr } = await run("blocks_client", args);
      assertEquals([code, stderr], [0, ""]);
      assertMatch(stdout, /^(\{"number":[123],"octets":\d+\}\n){3}$/);
      server.signal("SIGINT");
      const log = (await server.ended()).stdout;
      assertEquals(log.replace(/^127\.0\.0\.1:\d+: /gm, ""), seen.join("\n") + "\n");
    },
  });
}

Deno.test({
  name: "blocks_server and its client: IPv4, IPv6, a Unix socket, TLS",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    for await (const { form, server, ask } of inEachForm("blocks_server", folder.path)) {
      const args = [...ask, "--message", "hi", "--message", '{"a": [1]}', "--message", "[1"];
      const { code, stdout, stderr } = await run("blocks_client", args, { permissions: FILES });
      assertEquals([code, stderr], [0, ""], form);
      assertEquals(stdout, `${receipt(1, 4)}\n${receipt(2, 9)}\n${receipt(3, 4)}\n`);
      await server.until(/: "hi"\n.*: \{ a: \[ 1 \] \}\n.*: "\[1"\n$/);
    }
  },
});

Deno.test({
  name: "blocks_client ends with one line and 1 when a message is refused or the server leaves",
  ignore: !mayRun,
  async fn() {
    await using server = start("blocks_server", ["--port", "0", "--format", "xml"]);
    const port = `${await server.port()}`;
    const messages = ["--message", "1", "--message", "2"];
    const refused = await run("blocks_client", ["--port", port, ...messages]);
    assertEquals([refused.code, refused.stdout], [1, ""]);
    assertMatch(
      refused.stderr,
      /^blocks_client: 127\.0\.0\.1:\d+: 0 of 2 messages acknowledged: message refused: .+\n$/,
    );

    const named = ["--format", "xml", "--message", "1", "--message", '{"constructor": 1}'];
    const second = await run("blocks_client", ["--port", port, ...named]);
    assertEquals([second.code, second.stdout], [1, `${receipt(1, 20)}\n`]);
    assertMatch(
      second.stderr,
      /: 1 of 2 messages acknowledged: message refused: .*constructor.*\n$/,
    );

    await using leaving = testServer(async (conn) => {
      await conn.readBlock();
      await conn.writeBlock(octets('{"number": 1, "octets": 1}'));
      await conn.readBlock();
    });
    const alone = await run("blocks_client", ["--port", `${leaving.port}`, ...messages]);
    assertEquals([alone.code, alone.stdout], [1, '{"number": 1, "octets": 1}\n']);
    assertMatch(alone.stderr, /^blocks_client: 127\.0\.0\.1:\d+: 1 of 2 messages .*: hung up\n$/);

    const strange = await run("blocks_client", ["--port", port, "--format", "yaml"]);
    assertEquals(strange.code, 2);
    assertMatch(strange.stderr, /^blocks_client: --format: yaml is none of json, xml, clone/);
  },
});

/** The next receipt. */
async function readReceipt(conn: FramedConn): Promise<Partial<Receipt>> {
  return JSON.parse(text(await conn.readBlock() ?? octets("null")));
}

/** Asks on a connection, good things, and hears that they are. */
async function asks(conn: FramedConn, format: client.Format, number: number): Promise<void> {
  const block = client.encode(format, "good");
  await conn.writeBlock(block);
  assertEquals(await readReceipt(conn), { number, octets: block.length });
}

/** That a server grew by no more than `limit` KiB at its worst, since `before`. */
function assertSmall(program: Program, before: number, limit: number): void {
  const growth = memory(program, "VmHWM") - before;
  assert(growth < limit, `grew by ${growth} KiB`);
}

Deno.test({
  name: "blocks_server answers a block that is no message, and goes on with the next",
  ignore: !mayRun,
  async fn() {
    const long = `<${"1".repeat(5000)}/>`;
    const junk = [
      long,
      "",
      "\0",
      "\xff\xfe",
      "nonsense",
      "<!DOCTYPE message []><message/>",
      "\xff\x0fA\x7f",
    ];
    for (const format of FORMATS) {
      await using program = start("blocks_server", ["--port", "0", "--format", format]);
      using conn = await dial(await program.port());
      for (const [i, block] of junk.entries()) {
        await conn.writeBlock(octets(block));
        const { number, error } = await readReceipt(conn);
        assertEquals([number, typeof error], [2 * i + 1, "string"], block);
        assertMatch(`${error}`, /^[ -~]{1,210}$/);
        await asks(conn, format, 2 * i + 2);
      }
      program.signal("SIGINT");
      conn.close();
      const { code, stdout, stderr } = await program.ended();
      assertEquals([code, stdout.match(/: "good"\n/g)?.length], [0, junk.length], stdout + stderr);
    }
  },
});

Deno.test({
  name: "blocks_server and lying, cut and giant lengths: said, closed, and the next one is served",
  ignore: !mayRun,
  async fn() {
    await using program = start("blocks_server", ["--port", "0"]);
    const port = await program.port();
    {
      using conn = await dial(port);
      await asks(conn, "json", 1);
    }
    const before = memory(program, "VmHWM");

    // Announced: 4 GiB less one octet, 2 GiB, one octet too many; and the largest that is taken.
    for (const length of [2 ** 32 - 1, 2 ** 31, MIB + 1]) {
      using conn = await dial(port);
      await asks(conn, "json", 1);
      await conn.writeAll(frame("12345", length));
      const error = `block of ${length} bytes, more than ${MIB}`;
      assertEquals(await readReceipt(conn), { number: 2, error });
      assertEquals(await conn.readBlock(), null, "it hangs up");
      await program.until(new RegExp(`: ${error}\n`), "stderr");
    }
    const many = await Promise.all(Array.from({ length: 100 }, async () => {
      const conn = await dial(port);
      await conn.writeAll(frame("", 2 ** 32 - 1));
      return conn;
    }));
    for (const conn of many) {
      assertMatch(text(await conn.readToEnd(200)), /4294967295 bytes, more than 1048576/);
      conn.close();
    }
    const waiting = await Promise.all(Array.from({ length: 100 }, async () => {
      const conn = await dial(port);
      await conn.writeAll(frame("12345", MIB)); // and never more
      return conn;
    }));
    {
      using conn = await dial(port);
      await asks(conn, "json", 1); // so those before it have been accepted
    }
    assertSmall(program, before, 24 * 1024);
    for (const conn of waiting) conn.close();
    const cut = () => program.stderr.match(/: connection ended in the middle of a message\n/g);
    await eventually("each is a line in the log", () => cut()?.length === 100);

    // A length that is too small, and the rest taken for what it then is: one more block.
    {
      using conn = await dial(port);
      await conn.writeAll(frame(`12${latin1(frame("3"))}`, 2));
      for (const [i, length] of [2, 1].entries()) {
        assertEquals(await readReceipt(conn), { number: i + 1, octets: length });
      }
    }
    // Cut in the length and in the block.
    for (const start of [frame("12345").subarray(0, 3), frame("12345").subarray(0, 6)]) {
      using conn = await dial(port);
      await conn.writeAll(start);
      await conn.conn.closeWrite();
      assertEquals(await conn.readBlock(), null);
    }
    await eventually("each is a line in the log", () => cut()?.length === 102);
    using conn = await dial(port);
    await asks(conn, "json", 1);
    await conn.writeBlock(new Uint8Array(MIB).fill(0x37)); // the largest, a number to JSON
    assertEquals(await readReceipt(conn), { number: 2, octets: MIB });
    assert(!/^\s+at |Uncaught/m.test(program.stderr), program.stderr);
  },
});

Deno.test({
  name: "blocks_server refuses clones and XML that would cost it all memory, and serves the next",
  ignore: !mayRun,
  async fn() {
    const entities = Array.from(
      { length: 9 },
      (_, i) => `<!ENTITY e${i + 1} "${`&e${i};`.repeat(10)}">`,
    );
    const laughs = `<!DOCTYPE m [<!ENTITY e0 "ha">${entities.join("")}]><message>&e9;</message>`;
    const bombs = { clone: Object.values(BOMBS).map((make) => make()), xml: [octets(laughs)] };
    for (const format of ["clone", "xml"] as const) {
      await using program = start("blocks_server", ["--port", "0", "--format", format]);
      using conn = await dial(await program.port());
      await asks(conn, format, 1);
      const before = memory(program, "VmHWM");
      for (const [i, bomb] of bombs[format].entries()) {
        await conn.writeBlock(bomb);
        assertEquals(typeof (await readReceipt(conn)).error, "string");
        await asks(conn, format, 2 * i + 3);
      }
      assertSmall(program, before, 64 * 1024);
    }
  },
});

Deno.test({
  name: "blocks_server prints nothing unescaped, on one line for each message",
  ignore: !mayRun,
  async fn() {
    await using server = start("blocks_server", ["--port", "0", "--format", "clone"]);
    const message = { "\x1b[2J\u202e\n": "\x1b]0;x\x07\r\n\u202e\u2066", list: ["a\nb", "\x9b1m"] };
    using conn = await dial(await server.port());
    await client.sendMessages(conn, "clone", [message, new Map([["\x1b\u202e", "\n"]])], () => {});
    await server.until(/\n.*\n/);
    assertMatch(server.stdout, /^(\P{Cc}+\n){2}$/u);
    assertEquals(/[\u2028-\u202e\u2066-\u2069]/.test(server.stdout), false);
  },
});
