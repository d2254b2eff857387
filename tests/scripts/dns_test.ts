import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { concat } from "@std/bytes/concat";
import { Buffer } from "node:buffer";
// @ts-types="npm:@types/dns-packet@5.6.5"
import { type Answer, decode, type DecodedPacket, encode, type Question } from "dns-packet";
import { UsageError } from "../../lib/address.ts";
import { FramedConn } from "../../lib/framing.ts";
import { ask, format } from "../../scripts/dns_client.ts";
import { lookup, parseZone, respond, tcpHandler, type Zone } from "../../scripts/dns_server.ts";
import { mayConnect, mayRun, missing, pair, run, start, temporaryFolder } from "../helpers.ts";
import { latin1, octets, random } from "../lib/wire.ts";
import { dial, memory } from "../peers/peers.ts";
import { FILES, inEachForm, testServer } from "./rig.ts";

const RCODES = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];
const [QR, AA, TC, RD] = [0x8000, 0x0400, 0x0200, 0x0100];
const [A, TXT, OPT, ANY] = [1, 16, 41, 255];

/** A record in a line: owner, TTL, type, data. */
function line(record: Answer): string {
  if (record.type === "OPT") return "OPT";
  const { name, ttl, type, data } = record;
  const text = typeof data === "string"
    ? data
    : Array.isArray(data)
    ? data.map((text) => JSON.stringify(latin1(Buffer.from(text)))).join(" ")
    : Object.values(data).join(" ");
  return `${name} ${ttl} ${type} ${text}`;
}

const read = (text: string): Zone => parseZone(octets(text), "zone");

/** The mistake in a file: `zone:LINE: REASON`. */
function mistake(text: string, what = text): string {
  try {
    read(text);
  } catch (error) {
    assert(error instanceof Error && error.constructor === Error, `${what}: ${error}`);
    assertMatch(error.message, /^zone:\d+: \S[^\r\n]*$/, what);
    return error.message;
  }
  throw new Error(`no mistake in ${JSON.stringify(what.slice(-200))}`);
}

/** Two octets each. */
const words = (...numbers: number[]) => numbers.flatMap((n) => [n >> 8, n & 255]);
/** A name on the wire; its labels may hold anything but a dot. */
const wire = (name: string) => [
  ...name.split(".").filter(Boolean).flatMap((label) => [label.length, ...octets(label)]),
  0,
];

/** A message: the header, the numbers of records that it announces, and what follows. */
function message(
  { id = 0x1234, flags = 0, counts = [1, 0, 0, 0] },
  ...parts: number[][]
): Uint8Array<ArrayBuffer> {
  return Uint8Array.from([...words(id, flags, ...counts), ...parts.flat()]);
}

/** An OPT record (RFC 6891, 6.1.2). */
function opt({ size = 1232, version = 0, flags = 0, options = [] as number[], owner = "" } = {}) {
  return [...wire(owner), ...words(OPT, size), 0, version, ...words(flags, options.length)]
    .concat(options);
}

/** A question, with EDNS if there is a `size`. */
function query(name: string, type: number, size?: number): Uint8Array<ArrayBuffer> {
  const counts = [1, 0, 0, size === undefined ? 0 : 1];
  const question = [...wire(name), ...words(type, 1)];
  return message({ flags: RD, counts }, question, size === undefined ? [] : opt({ size }));
}

/** The octets of the answer to a message; over TCP unless `udp`. */
function raw(zone: Zone, question: Uint8Array, udp = false): Buffer {
  const octets = respond(zone, question, udp);
  assert(octets, "an answer");
  return octets;
}

/** The answer, read. */
function answer(zone: Zone, question: Uint8Array, udp = false): DecodedPacket & { size: number } {
  const octets = raw(zone, question, udp);
  return { ...decode(octets), size: octets.length };
}

/** A datagram socket, on a free port if none is given. */
function bind(hostname: string, port = 0): Deno.DatagramConn & Disposable {
  const socket = Deno.listenDatagram({ transport: "udp", hostname, port });
  return Object.assign(socket, { [Symbol.dispose]: () => socket.close() });
}

const rcode = ({ flags = 0 }: DecodedPacket) => RCODES[flags & 15];

// The master file

/** Every feature of a master file. */
const FILE = String.raw`; A zone.

$TTL 1h30m ; for what says nothing else
$ORIGIN .
example.test IN SOA ns1.example.test. first\.last.example.test. ( ; who
    4294967295	; serial
    2h (30M 2w) ; refresh, retry, expire
    5m )        ; negative answers
        NS ns1.example.test.
$ORIGIN test.
example in ns ns2.example
$ORIGIN example.test.
@ 2D MX 10 mail
  IN 2D mx 20 backup.example.net.

  A 192.0.2.10
	AAAA 2001:DB8::10
  TXT "v=spf1 mx -all";a comment
  CAA 0 issue "ca.example.net; account=1"
  CAA 128 iodef mailto:host@example.test
  ; a comment between
ns1 A 192.0.2.1
ns2 60 IN A 192.0.2.2
mail IN 1m A 192.0.2.25
     1m IN A 192.0.2.26
     AAAA ::FFFF:192.0.2.25
NULLMX MX 0 .
noservice SRV 0 0 0 .
www CNAME @
(par (
  1w
A ) 192.0.2.3
)
  TXT ( "two" ; strings
"of" ) "text" (
  )
      AAAA 2001:db8::3

far.par.deep 0 TXT "a;b (c) \"d\" \\ \065\000\255" un\;quoted\( \"q ""
_imap._tcp 2147483647 SRV 65535 0 143 mail
*.people TXT anybody
10.2.0.192.in-addr.arpa PTR www
child NS ns.child
      NS ns.example.net.
ns.child A 192.0.2.53
$ORIGIN lower
$TTL 7
@ A 192.0.2.4
a A 192.0.2.5
$ORIGIN EXAMPLE.TEST.
last 1H TXT ( "the end" )`;

/** What it means, in groups of owner and type. */
const MEANS = String.raw`
example.test 5400 SOA ns1.example.test first\.last.example.test 4294967295 7200 1800 1209600 300
example.test 5400 NS ns1.example.test
example.test 5400 NS ns2.example.test
example.test 172800 MX 10 mail.example.test
example.test 172800 MX 20 backup.example.net
example.test 5400 A 192.0.2.10
example.test 5400 AAAA 2001:db8::10
example.test 5400 TXT "v=spf1 mx -all"
example.test 5400 CAA 0 issue ca.example.net; account=1 false
example.test 5400 CAA 128 iodef mailto:host@example.test true
ns1.example.test 5400 A 192.0.2.1
ns2.example.test 60 A 192.0.2.2
mail.example.test 60 A 192.0.2.25
mail.example.test 60 A 192.0.2.26
mail.example.test 5400 AAAA ::ffff:c000:219
nullmx.example.test 5400 MX 0 .
noservice.example.test 5400 SRV 0 0 0 .
www.example.test 5400 CNAME example.test
par.example.test 604800 A 192.0.2.3
par.example.test 5400 TXT "two" "of" "text"
par.example.test 5400 AAAA 2001:db8::3
far.par.deep.example.test 0 TXT "a;b (c) \"d\" \\ A\u0000ÿ" "un;quoted(" "\"q" ""
_imap._tcp.example.test 2147483647 SRV 65535 0 143 mail.example.test
*.people.example.test 5400 TXT "anybody"
10.2.0.192.in-addr.arpa.example.test 5400 PTR www.example.test
lower.example.test 7 A 192.0.2.4
a.lower.example.test 7 A 192.0.2.5
last.example.test 3600 TXT "the end"
`.trim().split("\n");

/** The records of a name and type, as the wire has them. */
function records(zone: Zone, name: string, type: string): string[] {
  const questions = [{ name, type, class: "IN" } as Question];
  return answer(zone, encode({ type: "query", questions })).answers?.map(line) ?? [];
}

Deno.test("parseZone reads every feature of a master file, whatever ends its lines", () => {
  for (const text of [FILE, `${FILE}\n`, FILE.replaceAll("\n", "\r\n"), `${FILE}\n\n;\n \t\n`]) {
    const zone = read(text);
    const wanted = new Map<string, string[]>();
    for (const means of MEANS) {
      const [name, , type] = means.split(" ");
      const key = `${name} ${type}`;
      wanted.set(key, [...wanted.get(key) ?? [], means]);
    }
    for (const [key, lines] of wanted) {
      const [name, type] = key.split(" ");
      assertEquals(records(zone, name, type), lines);
    }
    assertEquals(wanted.size, 24);
    const { authorities, additionals } = lookup(zone, "x.child.example.test", "A");
    assertEquals(authorities.map(line), [
      "child.example.test 5400 NS ns.child.example.test",
      "child.example.test 5400 NS ns.example.net",
    ]);
    assertEquals(additionals.map(line), ["ns.child.example.test 5400 A 192.0.2.53"]);
  }
});

Deno.test("parseZone: a TTL is its own, that of $TTL, or that of the record before", () => {
  const soa = (ttl: string) => `example.test. ${ttl} SOA . . 1 2 3 4 5\n`;
  const ttl = (text: string) => {
    const [record] = lookup(read(text), "a.example.test", "A").answers;
    return record.ttl;
  };
  assertEquals(ttl(`${soa("9")}a.example.test. A 192.0.2.1`), 9);
  assertEquals(ttl(`${soa("9")}$TTL 7\na.example.test. A 192.0.2.1`), 7);
  assertEquals(ttl(`$TTL 7\n${soa("9")}a.example.test. A 192.0.2.1`), 7);
  assertEquals(ttl(`$TTL 7\n${soa("")}a.example.test. 0 A 192.0.2.1`), 0);
  assertEquals(ttl(`${soa("9")}b.example.test. 8 A 192.0.2.1\na.example.test. A 192.0.2.1`), 8);
  for (const [written, seconds] of [["1w2d3h4m5s", 788645], ["2S", 2], ["1M", 60], ["90m", 5400]]) {
    assertEquals(ttl(`${soa("9")}a.example.test. ${written} A 192.0.2.1`), seconds);
  }
});

Deno.test("parseZone: an SOA's TTL bounds that of negative answers", () => {
  for (const [ttl, minimum, negative] of [[9, 5, 5], [5, 9, 5], [5, 0, 0], [0, 5, 0]]) {
    const zone = read(`example.test. ${ttl} SOA . . 1 2 3 4 ${minimum}`);
    for (const [name, rcode] of [["example.test", 0], ["x.example.test", 3]] as const) {
      const finding = lookup(zone, name, "A");
      assertEquals([finding.rcode, finding.authorities.map(({ ttl }) => ttl)], [rcode, [negative]]);
    }
    assertEquals(lookup(zone, "example.test", "SOA").answers.map((soa) => soa.ttl), [ttl]);
  }
});

Deno.test("parseZone takes names to their limits, and no longer ones", () => {
  const label = "x".repeat(63);
  const origin = `${label}.${label}.${label}`; // 191 octets, of 253
  const soa = `$ORIGIN ${origin}.\n$TTL 1\n@ SOA . . 1 2 3 4 5\n`;
  const name = `${"y".repeat(61)}.${origin}`;
  assertEquals(name.length, 253);
  const zone = read(`${soa}${"y".repeat(61)} CNAME ${name}.\n`);
  assertEquals(records(zone, name, "CNAME"), [`${name} 1 CNAME ${name}`]);
  assertMatch(mistake(`${soa}${"y".repeat(62)} A 192.0.2.1\n`), /^zone:4: /);
  assertMatch(mistake(`${soa}y CNAME ${"y".repeat(62)}\n`), /^zone:4: /);
  assertMatch(mistake(`${soa}y CNAME ${"y".repeat(64)}.\n`), /^zone:4: /);
  const longest = read(`${soa}@ TXT ${"z".repeat(255)} "${"\\200".repeat(255)}"`);
  const strings = [`"${"z".repeat(255)}"`, `"${"\xc8".repeat(255)}"`];
  assertEquals(records(longest, origin, "TXT"), [`${origin} 1 TXT ${strings.join(" ")}`]);
});

Deno.test("parseZone: the root can be the zone, and a record's data", () => {
  const zone = read(
    "$TTL 5\n. SOA . . 1 2 3 4 5\n  NS .\ntest. A 192.0.2.1\n$ORIGIN .\nx A 192.0.2.2",
  );
  assertEquals(records(zone, ".", "NS"), [". 5 NS ."]);
  assertEquals(records(zone, "test", "A"), ["test 5 A 192.0.2.1"]);
  assertEquals(records(zone, "x", "A"), ["x 5 A 192.0.2.2"]);
  assertEquals(lookup(zone, "y.x", "A").rcode, 3);
});

const HEAD = "$ORIGIN example.test.\n$TTL 1h\n@ SOA ns1 host 1 2 3 4 5\n  NS ns1\n";
/** Mistakes below five good lines, with the line and what the reason must name. */
const MISTAKES: [text: string, line: number, reason: RegExp][] = [
  ["x A 192.0.2", 5, /192\.0\.2 .*IPv4/],
  ["x A 192.0.2.256", 5, /IPv4/],
  ["x A 192.0.02.1", 5, /IPv4/],
  ["x A 2001:db8::1", 5, /IPv4/],
  ["x AAAA 192.0.2.1", 5, /IPv6/],
  ["x AAAA 2001:db8:::1", 5, /IPv6/],
  ["x A", 5, /missing/],
  ["x", 5, /type is missing/],
  ["x 5m IN", 5, /type is missing/],
  ["x MX 10", 5, /exchange is missing/],
  ["x MX", 5, /preference is missing/],
  ["x TXT", 5, /missing/],
  ["x CAA 0 issue", 5, /value is missing/],
  ["x SRV 0 0 1", 5, /target is missing/],
  ["x CNAME", 5, /missing/],
  ["$TTL", 5, /missing/],
  ["$ORIGIN", 5, /missing/],
  ["x A 192.0.2.1 192.0.2.2", 5, /unexpected 192\.0\.2\.2/],
  ["x MX 10 mail extra", 5, /unexpected extra/],
  ["$TTL 5 6", 5, /unexpected 6/],
  ["$ORIGIN a b", 5, /unexpected b/],
  ["x A 192.0.2.1\n) x A 192.0.2.2", 6, /\)/],
  ["x A ( 192.0.2.1\n) y A 192.0.2.2", 5, /unexpected y/],
  ["x MX 65536 mail", 5, /preference 65536 .*65535/],
  ["x MX -1 mail", 5, /preference -1/],
  ["x MX 1.5 mail", 5, /preference 1\.5/],
  ["x SRV 0 0 65536 mail", 5, /port 65536/],
  ["x CAA 256 issue y", 5, /flags 256 .*255/],
  ["x 2147483648 A 192.0.2.1", 5, /2147483648/],
  ["x 99999w A 192.0.2.1", 5, /99999w/],
  ["$TTL never", 5, /never/],
  ["$TTL 5x", 5, /5x/],
  ["x TYPE65 1", 5, /TYPE65/],
  ["x HINFO a b", 5, /HINFO/],
  ["x 192.0.2.1", 5, /192\.0\.2\.1/],
  ["x CH TXT a", 5, /CH/],
  ["x HS A 192.0.2.1", 5, /HS/],
  ["@ SOA ns1 host 2 2 3 4 5", 5, /second SOA/],
  ["x SOA ns1 host 1 2 3 4 5", 5, /second SOA/],
  ["x. A 192.0.2.1", 5, /x.*outside.*example\.test/],
  ["xexample.test. A 192.0.2.1", 5, /outside/],
  ["test. A 192.0.2.1", 5, /outside/],
  ["$ORIGIN example.net.\nx A 192.0.2.1", 6, /x\.example\.net.*outside/],
  ["x CNAME y\nx A 192.0.2.1", 6, /CNAME/],
  ["x A 192.0.2.1\nX CNAME y", 6, /CNAME/],
  ["x CNAME y\nx CNAME z", 6, /CNAME/],
  ["@ CNAME y", 5, /CNAME/],
  ["x 5 A 192.0.2.1\nx 6 A 192.0.2.2", 6, /TTL/],
  ["x A ( 192.0.2.1", 5, /\(/],
  ["x A 192.0.2.1\n\ny A ( ; one\n192.0.2.2\n\n", 7, /\(/],
  ["x A 192.0.2.1 )", 5, /\)/],
  ['x TXT "a', 5, /"/],
  ['x TXT "a\nb"', 5, /"/],
  ['x TXT ( a\n"b\n)', 6, /"/],
  ['x TXT "a\\', 5, /["\\]/],
  ["x TXT a\\", 5, /\\/],
  ["x TXT \\256", 5, /256/],
  [`x TXT ${"a".repeat(256)}`, 5, /256.*255/],
  [`x TXT "${"\\097".repeat(256)}"`, 5, /256.*255/],
  [`${"a".repeat(64)} A 192.0.2.1`, 5, /not a domain name/],
  [`x CNAME ${"a.".repeat(128)}`, 5, /not a domain name/],
  ["x..y A 192.0.2.1", 5, /x\.\.y/],
  [".x A 192.0.2.1", 5, /\.x/],
  ["x CNAME ..", 5, /\.\./],
  ["$INCLUDE other.zone", 5, /\$INCLUDE/],
  ["$GENERATE 1-2 a A 192.0.2.$", 5, /\$GENERATE/],
  ["\n\n; comment\n  \nx A y ; and so on", 9, /y .*IPv4/],
  ["x TXT (\n a\n b )\n\ny A z", 9, /z .*IPv4/],
];

Deno.test("parseZone says the line and the reason of every mistake", () => {
  assert(read(HEAD));
  for (const [text, line, reason] of MISTAKES) {
    for (const file of [`${HEAD}${text}`, `${HEAD}${text}\n`.replaceAll("\n", "\r\n")]) {
      const message = mistake(file);
      assertMatch(message, new RegExp(`^zone:${line}: `), text);
      assertMatch(message.replace(/^zone:\d+: /, ""), reason, text);
    }
  }
  for (
    const [file, line, reason] of [
      ["", 1, /./],
      ["\n; nothing\n", 1, /./],
      ["$TTL 5\n$ORIGIN example.test.\n", 1, /./],
      ["example.test. 5 A 192.0.2.1", 1, /SOA/],
      ["$TTL 5\n\nexample.test. NS ns1\n", 3, /no dot at its end|SOA/],
      ["example 5 SOA . . 1 2 3 4 5", 1, /example has no dot at its end/],
      ["@ 5 SOA . . 1 2 3 4 5", 1, /@ has no dot at its end/],
      ["$ORIGIN example", 1, /example has no dot at its end/],
      ["example.test. 5 SOA ns1 . 1 2 3 4 5", 1, /ns1 has no dot at its end/],
      ["example.test. SOA . . 1 2 3 4 5", 1, /no TTL/],
      [" 5 SOA . . 1 2 3 4 5", 1, /owner/],
      ["$ORIGIN example.test.\n@ 5 SOA . . 4294967296 2 3 4 5", 2, /4294967296/],
      ["$ORIGIN example.test.\n@ 5 SOA . . 1 2 3 (\n4 )\n", 2, /minimum is missing/],
      ["$ORIGIN example.test.\n@ 5 SOA . . 1 2 3 4 5 6", 2, /unexpected 6/],
      ["$ORIGIN example.test.\n@ 5 SOA . . 1 2 3 4 x", 2, /x/],
      ["example.test. 5 SOA . . 1 2 3 4 5\n$ORIGIN a..b.", 2, /a\.\.b/],
    ] as const
  ) {
    const message = mistake(file);
    assertMatch(message, new RegExp(`^zone:${line}: `), JSON.stringify(file));
    assertMatch(message.replace(/^zone:\d+: /, ""), reason, JSON.stringify(file));
  }
});

// What a zone may hold and be answered with is as BIND's named-compilezone has it.
Deno.test("parseZone takes escaped blanks and octets past ASCII in a string without quotes", () => {
  const zone = read(`${HEAD}x TXT a\\ b\\\tc gr\xc3\xa0 \x85 "\xc3\xa0"\n`);
  const strings = ["a b\tc", "gr\xc3\xa0", "\x85", "\xc3\xa0"].map((text) => JSON.stringify(text));
  assertEquals(records(zone, "x.example.test", "TXT"), [
    `x.example.test 3600 TXT ${strings.join(" ")}`,
  ]);
});

Deno.test("parseZone takes one TTL and one class, in any order, and no more", () => {
  for (const order of ["5", "IN", "5 IN", "IN 5", ""]) {
    const [record] = lookup(read(`${HEAD}x ${order} A 192.0.2.1`), "x.example.test", "A").answers;
    assertEquals(record.ttl, order.includes("5") ? 5 : 3600);
  }
  for (const order of ["5 6", "IN IN", "5 IN 5", "IN 5 IN"]) {
    assertMatch(mistake(`${HEAD}x ${order} A 192.0.2.1`), /^zone:5: /);
  }
});

Deno.test("parseZone refuses what cannot be put on the wire as it is written", () => {
  const strings = Array(258).fill("a".repeat(253)).join(" "); // 65,532 octets of data
  for (
    const text of [
      "x AAAA fe80::1%eth0", // an interface of this machine
      'x CAA 0 "issue" "y"',
      "x CAA 0 iss-ue y", // RFC 8659, 4.1: letters and digits
      `x CAA 0 ${"a".repeat(256)} y`,
      "x TXT \\12a", // RFC 1035, 5.1: three digits, or something else than a digit
      `x TXT ${strings} aaa`,
    ]
  ) {
    assertMatch(mistake(HEAD + text), /^zone:5: /);
  }
  const most = read(`${HEAD}x TXT ${strings} aa`);
  assertEquals(lookup(most, "x.example.test", "TXT").answers.length, 1);
});

Deno.test("parseZone: octets of a CAA's value arrive as they are, or are refused", () => {
  const value = (text: string) =>
    latin1(raw(read(`${HEAD}x CAA 0 issue "${text}"`), query("x.example.test", 257)));
  assert(value("a\\127\\;\\010").includes("\x05issuea\x7f;\n"));
  for (const text of ["\\255", "\xc3\xa9", "\xe9"]) {
    const octets = text === "\\255" ? "\xff" : text;
    try {
      assert(value(text).includes(`\x05issue${octets}`), text);
    } catch (error) {
      assertMatch(`${error}`, /^Error: zone:5: /);
    }
  }
});

Deno.test("parseZone: the dots of a mailbox's first label stay, those of others are refused", () => {
  const soa = (rname: string) => `$ORIGIN example.test.\n@ 5 SOA . ${rname} 1 2 3 4 5`;
  for (
    const [rname, labels] of [["a\\.b\\.c", "\x05a.b.c\x07example"], ["a.b", "\x01a\x01b\x07"]]
  ) {
    assert(latin1(raw(read(soa(rname)), query("example.test", 6))).includes(labels), rname);
  }
  assertMatch(mistake(soa("a.b\\.c")), /^zone:2: /);
});

/** A random zone in random notation, and its records by owner and type. */
function randomZone(below: (n: number) => number): { text: string; wanted: Map<string, string[]> } {
  const pick = <T>(...choices: T[]) => choices[below(choices.length)];
  const origin = "example.test";
  const absolute = (text: string) =>
    text === "@" ? origin : text.endsWith(".") ? text.slice(0, -1) : `${text}.${origin}`;
  const anyCase = (text: string) =>
    text.replace(/[a-z]/g, (letter) => pick(letter, letter, letter.toUpperCase()));
  const written = (name: string) =>
    anyCase(
      name === origin
        ? pick("@", `${origin}.`)
        : pick(`${name}.`, name.slice(0, -origin.length - 1)),
    );
  const time = (seconds: number) =>
    pick(`${seconds}`, `${Math.floor(seconds / 60)}m${seconds % 60}s`, `${seconds}S`);
  let depth = 0;
  const gap = (): string => {
    const choices = [" ", "\t", "   ", " ( ", "( ", ' (;x)("\n'];
    if (depth > 0) choices.push(") ", " )", "\n", " ; c\n\t");
    const chosen = pick(...choices);
    depth += /^ ?\(/.test(chosen) ? 1 : chosen.includes(")") && !chosen.includes(";") ? -1 : 0;
    return chosen;
  };
  const host = () => `${pick("a", "b", "c.d", "_e", "*.f", "g.*.h", "0.1")}.${origin}`;
  const wanted = new Map<string, string[]>();
  const ttls = new Map<string, number>();
  const soa = `${origin} 77 SOA ns.${origin} host.${origin} 1 2 3 4 5`;
  wanted.set(`${origin} SOA`, [soa]);
  let text = `$ORIGIN ${origin}.\n$TTL ${time(90)}\n@ 77 SOA ns host 1 2 3 4 5\n`;
  let before = origin;
  for (let n = below(30); n > 0; n--) {
    const name = pick(origin, host(), host(), before, before);
    const type = pick("A", "AAAA", "MX", "PTR", "SRV", "TXT", "CNAME");
    const group = `${name} ${type}`;
    const others = ["A", "AAAA", "MX", "PTR", "SRV", "TXT", "SOA"]
      .some((other) => wanted.has(`${name} ${other}`));
    if (type === "CNAME" && others || wanted.has(`${name} CNAME`)) continue;
    const ttl = ttls.get(group) ?? pick(90, below(100_000));
    ttls.set(group, ttl);
    const to = written(pick(origin, host()));
    const [number, word] = [below(65536), pick("x", "y z", ";", "(", "ü", "")];
    const [fields, means] = {
      A: [[`192.0.2.${n}`], `192.0.2.${n}`],
      AAAA: [[pick(`2001:db8::${n}`, `2001:DB8:0::${n}`)], `2001:db8::${n}`],
      MX: [[`${number}`, to], `${number} ${absolute(to)}`],
      PTR: [[to], absolute(to)],
      SRV: [["0", `${n}`, `${number}`, to], `0 ${n} ${number} ${absolute(to)}`],
      TXT: [[`"${word}"`, `${n}`], `${JSON.stringify(word)} "${n}"`],
      CNAME: [[to], absolute(to)],
    }[type];
    const start = name === before ? pick(" ", "\t  ", written(name)) : written(name);
    const said = [...ttl === 90 ? pick([], [time(ttl)]) : [time(ttl)], ...pick([], ["IN"], ["in"])];
    const row = [...pick(said, said.toReversed()), anyCase(type), ...fields];
    text += start + row.map((field) => gap() + field).join("") + ")".repeat(depth) +
      pick("", " ", " ; end", ";(") + pick("\n", "\r\n", "\n\n", "\n ; \n");
    depth = 0;
    before = name;
    const line = `${name} ${ttl} ${type} ${means}`;
    if (!wanted.get(group)?.includes(line)) wanted.set(group, [...wanted.get(group) ?? [], line]);
  }
  return { text, wanted };
}

Deno.test("parseZone and lookup: 300 random zones in random notation, against a model", () => {
  for (let seed = 1; seed <= 300; seed++) {
    const below = random(seed);
    const { text, wanted } = randomZone(below);
    let zone: Zone;
    try {
      zone = read(text);
    } catch (error) {
      throw new Error(`seed ${seed}: ${error}\n${text}`);
    }
    const owners = new Set([...wanted.keys()].map((group) => group.split(" ")[0]));
    for (const [group, lines] of wanted) {
      const [name, type] = group.split(" ");
      const answers = records(zone, name, type);
      assertEquals(answers.slice(0, lines.length), lines, `seed ${seed}: ${group}\n${text}`);
      assert(type === "CNAME" || answers.length === lines.length, `seed ${seed}: ${group}`);
    }
    // RFC 4592: a name is there if it or one below it is; else a wildcard just below the closest
    // name that is there stands for it.
    const exists = (name: string) =>
      [...owners].some((owner) => owner === name || owner.endsWith(`.${name}`));
    for (let n = 0; n < 30; n++) {
      const labels = Array.from({ length: below(4) }, () => "abcdefgh*01"[below(11)]);
      const name = [...labels, "example.test"].join(".");
      let closest = name;
      while (!exists(closest)) closest = closest.slice(closest.indexOf(".") + 1);
      const source = closest === name ? name : `*.${closest}`;
      const there = exists(source);
      if (wanted.has(`${source} CNAME`)) continue;
      for (const type of ["A", "TXT"]) {
        const { rcode, answers, authorities } = lookup(zone, name, type);
        const count = wanted.get(`${source} ${type}`)?.length ?? 0;
        assertEquals(
          [RCODES[rcode], answers.length, authorities.length],
          [there ? "NOERROR" : "NXDOMAIN", count, count ? 0 : 1],
          `seed ${seed}: ${name} ${type}\n${text}`,
        );
        assert(answers.every((record) => record.name === name));
      }
    }
  }
});

Deno.test("parseZone: a file full of mistakes is an error with a line, or a zone that answers", () => {
  const pieces = [...'();"\\\n\r\t @.$*09aZ-\0\xa0\xff']
    .concat("\n ", "IN ", "1h", "CNAME ", "NS ", "\\00");
  let [good, bad] = [0, 0];
  for (let seed = 1; seed <= 3000; seed++) {
    const below = random(seed);
    let text = FILE;
    for (let edits = 1 + below(4); edits > 0; edits--) {
      const [at, length] = [below(text.length), below(2) * below(12)];
      const insert = [
        pieces[below(pieces.length)],
        text.slice(below(text.length)).slice(0, length),
      ];
      text = text.slice(0, at) + insert[below(2)] + text.slice(at + below(2) * length);
    }
    try {
      const zone = read(text);
      good++;
      for (const name of ["example.test", "x.people.example.test", "far.par.deep.example.test"]) {
        for (const type of [A, TXT, ANY]) respond(zone, query(name, type), false);
      }
    } catch (error) {
      bad++;
      assert(error instanceof Error && error.constructor === Error, `seed ${seed}: ${error}`);
      const [, at] = /^zone:(\d+): [^\n]/.exec(error.message) ?? [];
      const lines = text.split("\n").length;
      assert(Number(at) >= 1 && Number(at) <= lines, `seed ${seed}: ${error.message}`);
    }
  }
  assert(good > 300 && bad > 300, `${good} zones, ${bad} mistakes`);
});

// Finding the answer

const ZONE = read(`
$ORIGIN example.test.
$TTL 3600
@        SOA   ns1 host 1 2h 30m 2w 5m
         NS    ns1
         MX    10 mail
         TXT   apex
ns1      A     192.0.2.1
mail     A     192.0.2.25
         AAAA  2001:db8::25
www      CNAME mail
ext      CNAME www.example.net.
dangling CNAME nothing
typeless CNAME www2
www2     CNAME ns1
self     CNAME self
loop1    CNAME loop2
loop2    CNAME loop1
a.b.c    TXT   deep
_s._tcp  SRV   0 1 80 mail
*.w      TXT   wild
         MX    10 mail
x.w      A     192.0.2.7
*.alias  CNAME mail
child    NS    ns.child
         NS    ns.example.net.
ns.child A     192.0.2.53
below.child TXT not ours
deeper.child NS ns.deeper.child
gone     CNAME host.child
`);
const SOA = "example.test 300 SOA ns1.example.test host.example.test 1 7200 1800 1209600 300";
const MAIL = ["mail.example.test 3600 A 192.0.2.25", "mail.example.test 3600 AAAA 2001:db8::25"];

/** What a lookup finds, in lines; of a name below `example.test` unless it ends with a dot. */
function found(name: string, type: string): string[] {
  const full = name === "." ? name : `${name}.example.test`.replace(/^\.|\.\..*/g, "");
  const finding = lookup(ZONE, full, type);
  const { rcode, aa, answers, authorities, additionals } = finding;
  return [
    RCODES[rcode] + (aa ? " aa" : ""),
    ...answers.map(line),
    ...authorities.map((record) => `authority ${line(record)}`),
    ...additionals.map((record) => `additional ${line(record)}`),
  ];
}
const nodata = ["NOERROR aa", `authority ${SOA}`];
const nxdomain = ["NXDOMAIN aa", `authority ${SOA}`];
const mailAddresses = MAIL.map((line) => `additional ${line}`);

Deno.test("lookup: a name's records, NODATA, NXDOMAIN, and names that only have others below", () => {
  assertEquals(found("mail", "A"), ["NOERROR aa", MAIL[0]]);
  assertEquals(found("mail", "AAAA"), ["NOERROR aa", MAIL[1]]);
  assertEquals(found("mail", "TXT"), nodata);
  assertEquals(found("mail", "UNKNOWN_65280"), nodata);
  assertEquals(found("", "A"), nodata);
  assertEquals(found("nothing", "A"), nxdomain);
  assertEquals(found("x.mail", "A"), nxdomain);
  assertEquals(found("a.b.c", "TXT"), ["NOERROR aa", 'a.b.c.example.test 3600 TXT "deep"']);
  for (const empty of ["b.c", "c", "_tcp", "w", "alias"]) assertEquals(found(empty, "TXT"), nodata);
  for (const none of ["x.c", "x.b.c", "x.a.b.c", "_tcp._tcp"]) {
    assertEquals(found(none, "A"), nxdomain);
  }
});

Deno.test("lookup: REFUSED for what is not of the zone", () => {
  for (const name of ["example.net.", "test.", ".", "xexample.test.", "example.test.net."]) {
    for (const type of ["A", "SOA", "NS", "ANY"]) {
      assertEquals(found(name, type), ["REFUSED"], name);
    }
  }
});

Deno.test("lookup: a wildcard stands for names that are not there, and for those alone", () => {
  const wild = (name: string) => ["NOERROR aa", `${name}.example.test 3600 TXT "wild"`];
  for (const name of ["y.w", "y.z.w", "*.w", "a.y.w", "Y.W"]) {
    assertEquals(found(name, "TXT"), wild(name));
    assertEquals(found(name, "A"), nodata);
  }
  assertEquals(found("x.w", "TXT"), nodata);
  assertEquals(found("y.x.w", "TXT"), nxdomain);
  assertEquals(found("y.*.w", "TXT"), nxdomain);
  assertEquals(found("y.w", "MX"), [
    ...["NOERROR aa", "y.w.example.test 3600 MX 10 mail.example.test"],
    ...mailAddresses,
  ]);
  assertEquals(found("y.alias", "A"), [
    ...["NOERROR aa", "y.alias.example.test 3600 CNAME mail.example.test", MAIL[0]],
  ]);
});

Deno.test("lookup follows a CNAME to its end: data, none, no name, another zone, another server", () => {
  const www = "www.example.test 3600 CNAME mail.example.test";
  assertEquals(found("www", "A"), ["NOERROR aa", www, MAIL[0]]);
  assertEquals(found("www", "CNAME"), ["NOERROR aa", www]);
  assertEquals(found("www", "ANY"), ["NOERROR aa", www]);
  assertEquals(found("www", "TXT"), ["NOERROR aa", www, `authority ${SOA}`]);
  assertEquals(found("typeless", "A"), [
    "NOERROR aa",
    "typeless.example.test 3600 CNAME www2.example.test",
    "www2.example.test 3600 CNAME ns1.example.test",
    "ns1.example.test 3600 A 192.0.2.1",
  ]);
  assertEquals(found("dangling", "A"), [
    "NXDOMAIN aa", // RFC 6604, 3
    "dangling.example.test 3600 CNAME nothing.example.test",
    `authority ${SOA}`,
  ]);
  assertEquals(found("ext", "A"), ["NOERROR aa", "ext.example.test 3600 CNAME www.example.net"]);
  assertEquals(found("gone", "A"), [
    "NOERROR aa",
    "gone.example.test 3600 CNAME host.child.example.test",
    "authority child.example.test 3600 NS ns.child.example.test",
    "authority child.example.test 3600 NS ns.example.net",
    "additional ns.child.example.test 3600 A 192.0.2.53",
  ]);
});

Deno.test("lookup: a loop of CNAMEs ends, and none is told twice", () => {
  const loop = (a: string, b: string) => `${a}.example.test 3600 CNAME ${b}.example.test`;
  assertEquals(found("self", "A"), ["NOERROR aa", loop("self", "self")]);
  assertEquals(found("loop1", "A"), ["NOERROR aa", loop("loop1", "loop2"), loop("loop2", "loop1")]);
  const links = Array.from({ length: 200 }, (_, i) => `c${i} CNAME c${i + 1}\n`);
  const { rcode, answers } = lookup(read(HEAD + links.join("")), "c0.example.test", "A");
  assert(answers.length >= 8, `${answers.length} links`); // where it stops, it is no error
  assertEquals(rcode, answers.length === links.length ? 3 : 0);
  assertEquals(line(answers[1]), `c1.example.test 3600 CNAME c2.example.test`);
});

Deno.test("lookup: what is another server's is left to it, with its address", () => {
  const referral = [
    "NOERROR",
    "authority child.example.test 3600 NS ns.child.example.test",
    "authority child.example.test 3600 NS ns.example.net",
    "additional ns.child.example.test 3600 A 192.0.2.53",
  ];
  for (const name of ["child", "ns.child", "below.child", "x.deeper.child", "CHILD"]) {
    for (const type of ["A", "TXT", "NS", "SOA", "ANY"]) {
      assertEquals(found(name, type), referral, `${name} ${type}`);
    }
  }
});

Deno.test("lookup adds the addresses of the hosts that NS, MX and SRV name", () => {
  assertEquals(found("", "NS"), [
    ...["NOERROR aa", "example.test 3600 NS ns1.example.test"],
    "additional ns1.example.test 3600 A 192.0.2.1",
  ]);
  assertEquals(found("", "MX"), [
    ...["NOERROR aa", "example.test 3600 MX 10 mail.example.test"],
    ...mailAddresses,
  ]);
  assertEquals(found("_s._tcp", "SRV"), [
    ...["NOERROR aa", "_s._tcp.example.test 3600 SRV 0 1 80 mail.example.test"],
    ...mailAddresses,
  ]);
});

Deno.test("lookup adds no address twice", () => {
  const zone = read(`${HEAD}ns1 A 192.0.2.1\n@ NS NS1\n@ MX 10 ns1\n@ MX 20 ns1\n`);
  for (const type of ["MX", "ANY", "NS"]) {
    const { additionals } = lookup(zone, "example.test", type);
    assertEquals(additionals.map(line), ["ns1.example.test 3600 A 192.0.2.1"], type);
  }
});

Deno.test("lookup: ANY is everything of the name", () => {
  assertEquals(found("", "ANY"), [
    "NOERROR aa",
    "example.test 3600 SOA ns1.example.test host.example.test 1 7200 1800 1209600 300",
    "example.test 3600 NS ns1.example.test",
    "example.test 3600 MX 10 mail.example.test",
    'example.test 3600 TXT "apex"',
    "additional ns1.example.test 3600 A 192.0.2.1",
    ...mailAddresses,
  ]);
  assertEquals(found("c", "ANY"), nodata);
  assertEquals(found("nothing", "ANY"), nxdomain);
});

Deno.test("lookup: case makes no difference in ASCII, and the answer has that of the question", () => {
  assertEquals(found("MaIl", "A"), ["NOERROR aa", "MaIl.example.test 3600 A 192.0.2.25"]);
  const { answers } = lookup(ZONE, "WWW.eXample.TEST", "A");
  assertEquals(answers.map(line), ["WWW.eXample.TEST 3600 CNAME mail.example.test", MAIL[0]]);
  // RFC 4343: of ASCII alone. The Kelvin sign is not a K, though it has k for a lower case.
  const zone = read(`${HEAD}k A 192.0.2.1`);
  assertEquals(lookup(zone, "K.example.test", "A").rcode, 0);
  assertEquals(lookup(zone, "\u212a.example.test", "A").rcode, 3);
});

// Messages

Deno.test("respond copies the id, RD and the question, and sets QR and AA; no other flag", () => {
  for (const [id, flags] of [[0, 0], [0xffff, RD], [1, 0x07ff & ~RD], [0x8000, 0x07ff]]) {
    const question = [...wire("MaIL.example.test"), ...words(A, 1)];
    const octets = raw(ZONE, message({ id, flags }, question), true);
    const own = [...words(id, QR | AA | flags & RD, 1, 1, 0, 0), ...question];
    assertEquals([...octets.subarray(0, own.length)], own);
  }
  const refused = raw(ZONE, query("example.net", A));
  assertEquals([...refused.subarray(2, 12)], words(QR | RD | 5, 1, 0, 0, 0));
  const missing = answer(ZONE, query("nothing.example.test", A));
  assertEquals([missing.flags, missing.authorities?.map(line)], [AA | RD | 3, [SOA]]);
  const referral = answer(ZONE, query("x.child.example.test", A));
  assertEquals([referral.flag_aa, referral.authorities?.length], [false, 2]);
});

Deno.test("respond repeats a question of any type, and knows no record of most", () => {
  const types = [...Array(300).keys(), 32768, 32769, 65280, 65535];
  for (const type of types) {
    const question = query("a.b.c.example.test", type);
    const reply = raw(ZONE, question);
    assertEquals(
      reply.subarray(12, question.length).toString("hex"),
      Buffer.from(question.subarray(12)).toString("hex"),
      `${type}`,
    );
    assertEquals(reply[7] > 0, type === TXT || type === ANY, `${type}`);
    assertEquals(reply[3], type === 251 || type === 252 ? 5 : 0, `rcode for type ${type}`);
  }
});

Deno.test("respond is silent to what is no query: too short, or an answer", () => {
  const good = query("mail.example.test", A);
  for (let n = 0; n < 12; n++) assertEquals(respond(ZONE, good.subarray(0, n), true), undefined);
  for (const flags of [QR, QR | AA, 0xffff]) {
    assertEquals(respond(ZONE, message({ flags }, wire("x"), words(A, 1)), true), undefined);
  }
});

Deno.test("respond: a query cut anywhere after the header is a format error", () => {
  const good = query("mail.example.test", A, 1232);
  for (let n = 12; n < good.length; n++) {
    const cut = raw(ZONE, good.subarray(0, n));
    assertEquals([...cut], words(0x1234, QR | RD | 1, 0, 0, 0, 0), `${n} octets`);
  }
  assertEquals(rcode(answer(ZONE, good)), "NOERROR");
});

Deno.test("respond: other opcodes NOTIMP, other classes and zone transfers refused", () => {
  const question = [...wire("example.test"), ...words(6, 1)];
  for (let opcode = 1; opcode < 16; opcode++) {
    const octets = raw(ZONE, message({ flags: opcode << 11 | RD }, question));
    assertEquals([...octets], words(0x1234, QR | opcode << 11 | RD | 4, 0, 0, 0, 0));
  }
  for (const group of [0, 2, 3, 4, 254, 255, 256, 0x8001, 65535]) {
    const other = message({}, wire("example.test"), words(6, group));
    const { flags = 0, answers } = answer(ZONE, other);
    assert([1, 5].includes(flags & 15) && !(flags & AA) && answers?.length === 0, `class ${group}`);
  }
  for (const type of [251, 252]) {
    const { flags, answers } = answer(ZONE, message({}, wire("example.test"), words(type, 1)));
    assertEquals([flags, answers?.length], [5, 0]);
  }
});

Deno.test("respond: no question, or two, is a format error", () => {
  const question = [...wire("mail.example.test"), ...words(A, 1)];
  for (const [count, parts] of [[0, []], [0, [question]], [2, [question, question]]] as const) {
    const octets = raw(ZONE, message({ counts: [count, 0, 0, 0] }, ...parts));
    assertEquals([...octets], words(0x1234, QR | 1, 0, 0, 0, 0));
  }
});

Deno.test("respond: EDNS gets its version, size and DO back, and no option; without it, none", () => {
  const question = [...wire("mail.example.test"), ...words(A, 1)];
  const counts = [1, 0, 0, 1];
  const options = [...words(10, 8), 1, 2, 3, 4, 5, 6, 7, 8, ...words(65001, 0)]; // a cookie, nothing
  for (const [given, flags] of [[0, 0], [0x8000, 0x8000], [0xffff, 0x8000]]) {
    const octets = raw(ZONE, message({ counts }, question, opt({ flags: given, options })));
    const wanted = [0, ...words(OPT, 4096), 0, 0, ...words(flags, 0)];
    assertEquals([...octets.subarray(-11)], wanted);
    assertEquals(octets[11], 1);
  }
  for (const version of [1, 255]) {
    const octets = raw(ZONE, message({ counts }, question, opt({ version })));
    const wanted = [...words(0x1234, QR, 1, 0, 0, 1), ...question, 0, ...words(OPT, 4096), 1, 0];
    assertEquals([...octets], [...wanted, ...words(0, 0)]); // BADVERS
  }
  assertEquals(answer(ZONE, message({}, question)).additionals, []);
});

Deno.test("respond: an OPT with an owner, or two of them, is a format error", () => {
  const question = [...wire("mail.example.test"), ...words(A, 1)];
  for (
    const [what, parts] of [
      ["an owner", [opt({ owner: "a" })]],
      ["two", [opt(), opt()]], // RFC 6891, 6.1.1
    ] as const
  ) {
    const bad = message({ counts: [1, 0, 0, parts.length] }, question, ...parts);
    assertEquals(rcode(answer(ZONE, bad, true)), "FORMERR", what);
  }
});

/** A zone of which the answer to `x.example.test TXT` has exactly so many octets. */
function zoneWithAnswer(size: number, question: Uint8Array): Zone {
  const make = (strings: number, rest: number) =>
    read(
      HEAD + Array.from({ length: Math.ceil(strings / 200) }, (_, i) => {
        const many = Array(Math.min(200, strings - 200 * i)).fill(`"${"a".repeat(254)}"`);
        return `x TXT ${i} ${many.join(" ")} "${"b".repeat(i === 0 ? rest : 0)}"\n`;
      }).join(""),
    );
  for (let strings = Math.floor(size / 255) + 1; strings > 0; strings--) {
    const least = raw(make(strings, 0), question);
    const rest = size - least.length;
    if (rest < 0 || least[2] & 2) continue; // it was too long, or even for TCP
    if (rest > 255) break;
    return make(strings, rest);
  }
  throw new Error(`no zone for ${size} octets`);
}

Deno.test("respond: an answer fits into what the client takes, to the octet, or is cut short", () => {
  const rows = Array.from({ length: 260 }, (_, i) => `x TXT ${i} ${"a".repeat(250)}\n`);
  const tooLarge = read(HEAD + rows.join("")); // even for TCP
  for (
    const [taken, limit, udp] of [
      [undefined, 512, true],
      [0, 512, true],
      [511, 512, true],
      [512, 512, true],
      [513, 513, true],
      [1232, 1232, true],
      [4096, 4096, true],
      [4097, 4096, true],
      [65535, 4096, true],
      [undefined, 65535, false],
      [512, 65535, false],
    ] as const
  ) {
    const question = query("x.example.test", TXT, taken);
    const whole = answer(zoneWithAnswer(limit, question), question, udp);
    const what = `${taken} ${udp}`;
    assertEquals([whole.size, whole.flag_tc, whole.flag_aa], [limit, false, true], what);
    assertEquals((whole.answers?.length ?? 0) > 0, true, what);

    const zone = udp ? zoneWithAnswer(limit + 1, question) : tooLarge;
    const cut = answer(zone, question, udp);
    assertEquals([cut.flags, cut.questions?.length], [AA | TC | RD, 1], what);
    assertEquals([cut.answers, cut.authorities], [[], []], what);
    assertEquals(cut.additionals?.length, taken === undefined ? 0 : 1, what);
  }
});

Deno.test("respond leaves additional addresses out before it cuts an answer short, but not glue", () => {
  const addresses = Array.from({ length: 40 }, (_, i) => `A 192.0.2.${i}\n`).join("  ");
  const zone = read(`${HEAD}mail ${addresses}x MX 10 mail\ndown NS ns.down\nns.down ${addresses}`);
  const mx = answer(zone, query("x.example.test", 15), true);
  assertEquals([mx.flag_tc, mx.answers?.length, mx.additionals?.length], [false, 1, 0]);
  const more = answer(zone, query("x.example.test", 15, 4096), true);
  assertEquals([more.flag_tc, more.answers?.length, more.additionals?.length], [false, 1, 41]);
  const referral = answer(zone, query("y.down.example.test", A), true);
  assertEquals([referral.flag_tc, referral.authorities], [true, []]);
});

/** Messages to which there is no answer but an error. */
const HOSTILE: Record<string, Uint8Array> = {
  "a pointer to itself": message({}, [0xc0, 12], words(A, 1)),
  "a loop of two pointers": message({}, [0xc0, 14, 0xc0, 12], words(A, 1)),
  "a loop with a label": message({}, [1, 0x61, 0xc0, 12], words(A, 1)),
  "a pointer ahead": message({}, [0xc0, 18], words(A, 1), wire("example.test")),
  "a pointer past the end": message({}, [0xff, 0xff], words(A, 1)),
  "a pointer to the id": message({ id: 0 }, [0xc0, 0], words(A, 1)),
  "a pointer into the header": message({}, [0xc0, 4], words(257, 1)),
  "a pointer into the header, no zero after it": message({}, [0xc0, 4], words(257, 257)),
  "half a pointer": message({}, [0xc0]),
  "a label past the end": message({}, [63, 0x61], words(A, 1)),
  "a label of a reserved kind": message({}, [0x41, 0x61, 0], words(A, 1)),
  "another": message({}, [0x80, 0x61, 0], words(A, 1)),
  "a name without an end": message({}, [1, 0x61, 1, 0x61]),
  "a name of 256 octets": message({}, wire("abc.".repeat(63) + "ab"), words(A, 1)),
  "no name": message({}),
  "a name and no more": message({}, wire("example.test")),
  "65,535 questions": message({ counts: [65535, 0, 0, 0] }, wire("example.test"), words(A, 1)),
  "65,535 of everything": message({ counts: [65535, 65535, 65535, 65535] }),
  "65,535 additional records": message({ counts: [1, 0, 0, 65535] }, wire(""), words(A, 1)),
  "an OPT that is cut": message({ counts: [1, 0, 0, 1] }, wire(""), words(A, 1), [0, 0, OPT, 0]),
  "an option that is cut": message(
    { counts: [1, 0, 0, 1] },
    [...wire(""), ...words(A, 1), 0, ...words(OPT, 512, 0, 0, 100, 10), 0],
  ),
};

Deno.test("respond: compression loops, pointers anywhere and lying counts are format errors", () => {
  for (const [what, octets] of Object.entries(HOSTILE)) {
    for (const udp of [true, false]) {
      const error = raw(ZONE, octets, udp);
      assertEquals([error.length, error[3] & 15], [12, 1], what);
    }
  }
});

Deno.test("respond: labels of dots and of octets that are no text match nothing of the zone", () => {
  for (const label of [".", "..", "a.", ".a", "a.b", "\xff", "\0", "\n", "\n.", "\xc3\xa0", " "]) {
    for (const below of ["", "example.test", "w.example.test", "b.c.example.test"]) {
      const name = [label.length, ...octets(label), ...wire(below)];
      for (const extra of [[], opt()]) {
        const counts = [1, 0, 0, extra.length ? 1 : 0];
        const got = raw(ZONE, message({ counts }, name, words(A, 1), extra));
        const what = JSON.stringify([label, below]);
        // Repeated as it was asked, or refused as a whole.
        const same = got.subarray(12, 12 + name.length).equals(Buffer.from(name));
        assert(same || got.length === 12 && (got[3] & 15) === 1, `${what}: ${got.toString("hex")}`);
      }
    }
  }
});

Deno.test("respond reads no more records than a query has", () => {
  // A record's data is a chain of 8000 pointers, each to the one before; 4000 records then have its
  // end for a name. To follow all of them took half a second, for one datagram.
  const head = [...wire("mail.example.test"), ...words(A, 1), 0, ...words(65280, 1, 0, 0, 16_001)];
  const at = 12 + head.length;
  const chain = Array.from({ length: 8000 }, (_, i) => words(0xc000 | at + Math.max(0, 2 * i - 1)));
  const row = words(0xc000 | at + 15_999, 65280, 1, 0, 0, 0);
  const counts = [1, 0, 0, 4001];
  const bomb = message({ counts }, head, [0], chain.flat(), Array(4000).fill(row).flat());
  assert(bomb.length < 65536);
  assertEquals(rcode(answer(ZONE, bomb)), "FORMERR");
});

Deno.test("respond: 20,000 random and broken messages, and none has more to say than it may", () => {
  const seeds = [
    query("mail.example.test", A),
    query("y.w.example.test", 15, 1232),
    query("child.example.test", ANY, 65535),
    query("loop1.example.test", A, 512),
    message({ counts: [1, 0, 0, 1] }, wire("example.test"), words(ANY, 1), opt({ flags: 0x8000 })),
    ...Object.values(HOSTILE),
  ];
  let answered = 0;
  for (let seed = 1; seed <= 20_000; seed++) {
    const below = random(seed);
    let octets: Uint8Array;
    if (seed % 4 === 0) octets = Uint8Array.from({ length: below(60) }, () => below(256));
    else {
      octets = seeds[below(seeds.length)].slice();
      if (below(4) === 0) octets = concat([octets, seeds[below(seeds.length)].subarray(12)]);
      for (let n = below(4); n > 0; n--) {
        octets[below(octets.length)] = [0, 1, 12, 41, 63, 0xc0, 0xff, below(256)][below(8)];
      }
      if (below(4) === 0) octets = octets.subarray(0, below(octets.length + 1));
    }
    const what = `seed ${seed}: ${Buffer.from(octets).toString("hex")}`;
    let got: Uint8Array | undefined;
    try {
      got = respond(ZONE, octets, true);
    } catch (error) {
      throw new Error(`${what}: ${error}`);
    }
    if (octets.length < 12 || octets[2] & 0x80) assertEquals(got, undefined, what);
    else {
      assert(got && got.length >= 12 && got.length <= 4096, what);
      assertEquals([got[0], got[1], got[2] >> 7], [octets[0], octets[1], 1], what);
      const header = new DataView(got.buffer, got.byteOffset, 12);
      const complete = got.length === 12 || decode(Buffer.from(got)).questions?.length === 1;
      assert(complete && header.getUint16(4) <= 1, what);
      if (got.length > 12) answered++;
    }
  }
  assert(answered > 1000, `${answered} had an answer`);
});

// Over TCP

/** A message as it goes over TCP. */
const prefixed = (data: Uint8Array) => Uint8Array.from([...words(data.length), ...data]);

Deno.test({
  name: "tcpHandler answers any number of questions, in pieces of any size",
  ignore: !mayConnect,
  async fn() {
    const size = 65535 - 12 - 10 - 11 - 4;
    const padding = [...words(12, size), ...Array(size).fill(0)];
    const questions = [
      query("mail.example.test", A),
      query("nothing.example.test", A),
      new Uint8Array(), // passed over, as is the next
      message({ flags: QR }, wire("example.test"), words(A, 1)),
      HOSTILE["a pointer to itself"],
      message(
        { counts: [1, 0, 0, 1] },
        [...wire("test"), ...words(A, 1)],
        opt({ options: padding }),
      ),
      query("example.test", ANY, 512),
    ];
    assertEquals(questions[5].length, 65535);
    const wanted = questions.map((question) => respond(ZONE, question, false))
      .filter((answer) => answer !== undefined);
    assertEquals(wanted.map((answer) => answer[3]), [0, 3, 1, 5, 0]);
    const stream = concat(questions.map(prefixed));
    for (const size of [1, 2, 3, 13, stream.length]) {
      const { near, far } = await pair();
      using _near = near;
      using asking = new FramedConn(far, { timeout: 10_000 });
      const serving = tcpHandler(ZONE)(near);
      for (let at = 0, n = size; at < stream.length; at += n) {
        if (at > 200) n = 10_000; // in the long one
        await asking.writeAll(stream.subarray(at, at + n));
      }
      for (const answer of wanted) {
        assertEquals(await asking.readBlock(65535, 2), new Uint8Array(answer));
      }
      await far.closeWrite();
      await serving; // the end between two messages is none too early
    }
  },
});

Deno.test({
  name: "dns_server answers each question on UDP and on TCP alike, in every form of TCP",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    await Deno.writeTextFile(`${folder.path}/zone`, FILE);
    const forms = inEachForm("dns_server", folder.path, [`${folder.path}/zone`]);
    for await (const { form, server, ask } of forms) {
      const udp = form === "plain" || form === "IPv6";
      if (udp) await server.until(/listening on .* \(udp\)\n/, "stderr");
      for (const over of udp ? ["UDP", "TCP"] : ["TCP"]) {
        const args = [
          ...ask,
          ...udp && over === "TCP" ? ["--tcp"] : [],
          "mail.example.test",
          "aaaa",
        ];
        const { code, stdout, stderr } = await run("dns_client", args, { permissions: FILES });
        assertEquals([code, stderr], [0, ""], form);
        assertMatch(stdout, new RegExp(`^;; NOERROR, flags: aa rd, .* over ${over}\n`));
        assertMatch(stdout, /^mail\.example\.test\. 5400 IN AAAA ::ffff:c000:219$/m);
      }
      server.signal("SIGINT");
      assertEquals((await server.ended()).code, 0, form);
    }
  },
});

Deno.test({
  name: "dns_server refuses a zone with a mistake, one that is not there, and a second one",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const path = `${folder.path}/bad.zone`;
    const refuse = async (text: string, reason: RegExp) => {
      await Deno.writeFile(path, octets(text));
      const result = await run("dns_server", ["--port", "0", path], { permissions: FILES });
      assertEquals([result.code, result.stdout], [1, ""], result.stderr);
      assertMatch(result.stderr, /^dns_server: [^\n]+\n$/);
      assert(result.stderr.startsWith(`dns_server: ${path}:`), result.stderr);
      assertMatch(result.stderr.slice(`dns_server: ${path}:`.length), reason);
    };
    const [text, line, reason] = MISTAKES[0];
    await refuse(HEAD + text, new RegExp(`^${line}: .*${reason.source}`));
    await refuse(`${HEAD}\x1b[31m A 192.0.2.1`, /^5: [ -~]+\n$/); // nothing paints the terminal
    await refuse(`${HEAD}x \x07\x7f\x9b`, /^5: [ -~]+\n$/);
    await refuse("", /^1: .+\n$/);
    // A time of many digits must not be tried in each of the ways to split them.
    await refuse(`${HEAD}$TTL ${"1".repeat(64)}x`, /^5: TTL 1+x .+\n$/);

    const gone = await run("dns_server", [`${folder.path}/gone`], { permissions: FILES });
    assertEquals([gone.code, gone.stdout], [1, ""]);
    assertMatch(gone.stderr, /^dns_server: \S+\/gone: no such file or directory\n$/);
    const forbidden = await run("dns_server", [path]);
    assertEquals(forbidden.code, 1);
    assertMatch(forbidden.stderr, /^dns_server: [^\n]*--allow-read[^\n]*\n$/);
    assertEquals((await run("dns_server", [path, path])).code, 2);
  },
});

/** A dns_server of the built-in zone under way; `good` asks it something. */
async function serving() {
  await using stack = new AsyncDisposableStack();
  const server = stack.use(start("dns_server", ["--port", "0"]));
  const port = await server.port();
  await server.until(/listening on .* \(udp\)\n/, "stderr");
  const endpoint = { host: "127.0.0.1", port, timeout: 10_000 };
  const owned = stack.move();
  return {
    server,
    port,
    async good(tcp: boolean) {
      const { message, over } = await ask(endpoint, "ns1.example.test", "A", { tcp });
      assertEquals(message.answers?.map(line), ["ns1.example.test 3600 A 192.0.2.1"]);
      assertEquals(over, tcp ? "TCP" : "UDP");
      assert(!/^\s+at |Uncaught/m.test(server.stderr), server.stderr);
    },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

Deno.test({
  name: "dns_server over TCP outlives cut messages, lying lengths and silence",
  ignore: !mayRun,
  async fn() {
    await using rig = await serving();
    const good = prefixed(query("ns1.example.test", A));
    const open: FramedConn[] = [];
    for (
      const sent of [
        new Uint8Array(),
        ...[1, 2, 3, 13, good.length - 1].map((n) => good.subarray(0, n)),
        Uint8Array.from([0xff, 0xff, ...good]),
        Uint8Array.from([0, 0, 0, 0, 0, 1, 0]),
        prefixed(new Uint8Array(65535)),
        ...Object.values(HOSTILE).map(prefixed),
      ]
    ) {
      for (const leave of ["at once", "in order", "not"]) {
        const conn = await dial(rig.port);
        await conn.writeAll(sent);
        if (leave === "in order") await conn.conn.closeWrite();
        if (leave === "not") open.push(conn);
        else conn.close();
      }
    }
    await rig.good(true);
    await rig.good(false);
    // On the connections that stayed, one that was answered goes on.
    const conn = open.at(-1);
    assert(conn);
    assertEquals((await conn.readBlock(65535, 2))?.[3], 1);
    await conn.writeAll(good);
    assertEquals((await conn.readBlock(65535, 2))?.[3], 0);
    for (const conn of open) conn.close();
  },
});

Deno.test({
  name:
    "dns_server outlives 3000 random datagrams after 3000, without a line of log, and does not grow",
  ignore: missing(),
  async fn() {
    await using rig = await serving();
    using socket = bind("127.0.0.1");
    const to = { transport: "udp", hostname: "127.0.0.1", port: rig.port } as const;
    const hostile = Object.values(HOSTILE);
    const storm = async (first: number) => {
      for (let seed = first; seed < first + 3000; seed++) {
        const below = random(seed);
        const size = [0, 11, 12, 30, 512, 1500, seed % 100 ? 40 : 65000][below(7)];
        const data = Uint8Array.from({ length: size }, () => below(256));
        if (size > 2) data[2] &= below(2) ? 0x07 : 0xff; // half of them look like queries
        await socket.send(below(3) ? data : hostile[below(hostile.length)], to);
        // What the system's queue has no room for, the server would never see.
        if (seed % 20 === 0) await rig.good(false);
      }
      await rig.good(true);
    };
    await storm(1);
    const before = memory(rig.server);
    await storm(3001);
    const growth = memory(rig.server) - before;
    assert(growth < 16 * 1024, `grew by ${growth} KiB`);
    assertEquals(rig.server.stderr.split("\n").length, 3, rig.server.stderr);
  },
});

// The client

type Peer = AsyncDisposable & {
  host: string;
  port: number;
  timeout: number;
  seen: { data: Uint8Array; port: number }[];
};

/**
 * A DNS server that is the test, over UDP and TCP: `udp` has the datagrams to send back to the nth,
 * from 0, and who sends each if not it; `tcp` has the octets.
 */
async function testPeer(
  { udp = () => [], tcp = async () => {}, timeout = 10_000 }: {
    udp?: (
      query: Buffer,
      n: number,
    ) => (Uint8Array | { from: Deno.DatagramConn; data: Uint8Array })[];
    tcp?: (conn: FramedConn, query: Buffer) => Promise<void>;
    timeout?: number;
  },
): Promise<Peer> {
  await using stack = new AsyncDisposableStack();
  let bound: { port: number; socket: Deno.DatagramConn } | undefined;
  while (!bound) {
    const server = testServer(async (conn) => {
      const query = await conn.readBlock(65535, 2);
      if (query) await tcp(conn, Buffer.from(query));
    });
    try {
      bound = { port: server.port, socket: bind("127.0.0.1", server.port) };
      stack.use(server);
    } catch {
      await server[Symbol.asyncDispose](); // somebody has that port
    }
  }
  const { port, socket } = bound;
  const seen: Peer["seen"] = [];
  const answering = (async () => {
    for await (const [data, from] of socket) {
      seen.push({ data, port: (from as Deno.NetAddr).port });
      for (const answer of udp(Buffer.from(data), seen.length - 1)) {
        if (answer instanceof Uint8Array) await socket.send(answer, from);
        else await answer.from.send(answer.data, from);
      }
    }
  })();
  stack.defer(async () => {
    socket.close();
    await answering;
  });
  const owned = stack.move();
  return {
    ...{ host: "127.0.0.1", port, timeout, seen },
    [Symbol.asyncDispose]: () => owned.disposeAsync(),
  };
}

/** The answer to `query` that it is at `address`, with what is to differ. */
function reply(
  query: Buffer,
  address: string,
  { flags = AA, xor = 0, question = {}, questions = 1 } = {},
): Buffer {
  const { id = 0, questions: asked = [] } = decode(query);
  const [{ name }] = asked;
  return encode({
    ...{ type: "response", id: id ^ xor, flags: flags & 0x7fff },
    questions: Array(questions).fill({ ...asked[0], ...question }),
    answers: [{ type: "A", name, ttl: 5, data: address }],
  });
}

const addresses = ({ message }: { message: DecodedPacket }) =>
  message.answers?.map((record) => "data" in record ? record.data : record.type);
const [FORGED, TRUE] = ["203.0.113.66", "192.0.2.1"];

Deno.test({
  name: "dns_client takes the answer of that id and question from that server, and no other",
  ignore: !mayConnect,
  async fn() {
    for (
      const [what, forge] of Object.entries<(query: Buffer) => Uint8Array>({
        "another id": (query) => reply(query, FORGED, { xor: 1 }),
        "its other octet": (query) => reply(query, FORGED, { xor: 0x100 }),
        "another name": (query) => reply(query, FORGED, { question: { name: "b.example.test" } }),
        "a name below": (query) => reply(query, FORGED, { question: { name: "x.a.example.test" } }),
        "another type": (query) => reply(query, FORGED, { question: { type: "AAAA" } }),
        "another class": (query) => reply(query, FORGED, { question: { class: "CH" } }),
        "no question": (query) => reply(query, FORGED, { questions: 0 }),
        "the query": (query) => query,
        "a query with an answer in it": (query) => {
          const forged = reply(query, FORGED);
          forged[2] &= 0x7f;
          return forged;
        },
        "nothing": () => new Uint8Array(),
        "a header": (query) => reply(query, FORGED).subarray(0, 12),
        "half of one": (query) => reply(query, FORGED).subarray(0, 6),
        "an answer cut before its data": (query) => reply(query, FORGED).subarray(0, -4),
        "an answer cut in its data": (query) => reply(query, FORGED).subarray(0, -2),
        "a compression loop": (query) =>
          Buffer.concat([
            reply(query, FORGED).subarray(0, 12),
            Buffer.from([0xc0, 12, 0, 1, 0, 1]),
          ]),
        "noise": () => Uint8Array.from({ length: 500 }, (_, i) => i * i >> 3),
      })
    ) {
      await using peer = await testPeer({ udp: (query) => [forge(query), reply(query, TRUE)] });
      assertEquals(addresses(await ask(peer, "a.example.test", "A")), [TRUE], what);
      assertEquals(peer.seen.length, 1, what);
    }
    // Another port of the same address, and the same port of another.
    const strangers: Deno.DatagramConn[] = [];
    await using peer = await testPeer({
      udp: (query) => [
        ...strangers.map((from) => ({ from, data: reply(query, FORGED) })),
        reply(query, TRUE),
      ],
    });
    using near = bind("127.0.0.1");
    using far = bind("127.0.0.2", peer.port);
    for (const stranger of [near, far]) {
      strangers[0] = stranger;
      assertEquals(addresses(await ask(peer, "a.example.test", "A")), [TRUE]);
    }
  },
});

Deno.test({
  name: "dns_client takes an answer that is late, that differs in case, that knows no question",
  ignore: !mayConnect,
  async fn() {
    let first: Buffer | undefined;
    const waited: number[] = [];
    const again = (milliseconds: number) => waited.push(milliseconds);
    await using late = await testPeer({
      udp: (query, n) => n === 0 ? (first = reply(query, TRUE), []) : first ? [first, first] : [],
    });
    assertEquals(addresses(await ask(late, "a.example.test", "A", { again })), [TRUE]);
    assertEquals([waited, late.seen.length], [[500], 2]);
    assertEquals(late.seen[0].data, late.seen[1].data, "the same question, from the same port");
    assertEquals(late.seen[0].port, late.seen[1].port);

    const name = "A.eXAMPLE.tEST";
    await using other = await testPeer({
      udp: (query) => [reply(query, TRUE, { question: { name } })],
    });
    assertEquals(addresses(await ask(other, "a.example.test", "A")), [TRUE]);

    const error = (query: Buffer) =>
      Buffer.from([query[0], query[1], 0x80, 1, ...words(0, 0, 0, 0)]);
    await using puzzled = await testPeer({ udp: (query) => [error(query)] });
    assertEquals(rcode((await ask(puzzled, "a.example.test", "A")).message), "FORMERR");
  },
});

Deno.test({
  name: "dns_client asks with RD, EDNS 1232, and a new id and port each time",
  ignore: !mayConnect,
  async fn() {
    await using peer = await testPeer({ udp: (query) => [reply(query, TRUE)] });
    for (let n = 0; n < 24; n++) await ask(peer, "a.example.test", "A");
    const ids = peer.seen.map(({ data }) => data[0] << 8 | data[1]);
    const ports = peer.seen.map(({ port }) => port);
    // Of 24 among tens of thousands hardly two are the same, and none follows from the one before.
    for (const numbers of [ids, ports]) {
      assert(new Set(numbers).size >= 21, `${numbers}`);
      const steps = numbers.slice(1).map((n, i) => n - numbers[i]);
      assert(new Set(steps).size >= 19, `${numbers}`);
    }
    const question = [...wire("a.example.test"), ...words(A, 1)];
    const { data } = peer.seen[0];
    assertEquals(
      data,
      Uint8Array.from([
        ...[data[0], data[1], ...words(RD, 1, 0, 0, 1)],
        ...[...question, ...opt({ size: 1232 })],
      ]),
    );
  },
});

Deno.test({
  name: "dns_client asks again over TCP for what was cut short, and at once if told to",
  ignore: !mayConnect,
  async fn() {
    const strings = Array.from({ length: 100 }, (_, i) => `${i}`.padStart(200, "x"));
    const zone = read(`${HEAD}big TXT ${strings.join(" ")}`);
    const udp = (query: Uint8Array) => [raw(zone, query, true)];
    const tcp = async (conn: FramedConn, query: Buffer) => {
      for (const octet of prefixed(raw(zone, query))) {
        await conn.writeAll(Uint8Array.of(octet));
      }
    };
    await using peer = await testPeer({ udp, tcp });
    for (const [options, datagrams] of [[{}, 1], [{ tcp: true }, 1]] as const) {
      const { message, octets, over } = await ask(peer, "big.example.test", "TXT", options);
      const [big] = message.answers ?? [];
      assertEquals([over, message.flag_tc, peer.seen.length], ["TCP", false, datagrams]);
      assertEquals(
        line(big),
        `big.example.test 3600 TXT ${strings.map((text) => `"${text}"`).join(" ")}`,
      );
      assert(octets > 20_000);
    }
    // What is cut short even so, it shows.
    const short = (query: Buffer) => reply(query, TRUE, { flags: TC });
    await using stubborn = await testPeer({
      udp: (query) => [short(query)],
      tcp: (conn, query) => conn.writeAll(prefixed(short(query))),
    });
    const { message, over } = await ask(stubborn, "a.example.test", "A");
    assertEquals([over, message.flag_tc], ["TCP", true]);
  },
});

Deno.test({
  name:
    "dns_client over TCP: what is not the answer is an error, cut, too short, another's or none",
  ignore: !mayConnect,
  async fn() {
    const { InvalidData, UnexpectedEof, TimedOut } = Deno.errors;
    const send = (make: (query: Buffer) => Uint8Array) => (conn: FramedConn, query: Buffer) =>
      conn.writeAll(make(query));
    for (
      const [what, tcp, error] of [
        ["another id", send((q) => prefixed(reply(q, FORGED, { xor: 1 }))), InvalidData],
        [
          "another type",
          send((q) => prefixed(reply(q, FORGED, { question: { type: "MX" } }))),
          InvalidData,
        ],
        ["the query", send(prefixed), InvalidData],
        ["no octets", send(() => prefixed(new Uint8Array())), InvalidData],
        ["noise", send(() => prefixed(new Uint8Array(65535).fill(7))), InvalidData],
        ["cut data", send((q) => prefixed(reply(q, FORGED).subarray(0, -1))), InvalidData],
        ["the end at once", async () => {}, InvalidData],
        ["half a length", send(() => new Uint8Array(1)), UnexpectedEof],
        ["a length alone", send(() => Uint8Array.of(0, 50)), UnexpectedEof],
        ["a cut answer", send((q) => prefixed(reply(q, FORGED)).subarray(0, -1)), UnexpectedEof],
        ["silence", (conn: FramedConn) => conn.readToEnd(1), TimedOut],
      ] as const
    ) {
      const timeout = what === "silence" ? 200 : 10_000;
      await using peer = await testPeer({
        udp: (query) => [reply(query, FORGED, { flags: TC })],
        tcp: (conn, query) => tcp(conn, query).then(() => {}),
        timeout,
      });
      const failure = await assertRejects(() => ask(peer, "a.example.test", "A"), error)
        .catch((error) => {
          throw new Error(what, { cause: error });
        });
      assert(!failure.message.includes("\n"), what);
    }
    await using deaf = await testPeer({ timeout: 100 });
    await assertRejects(() => ask(deaf, "a.example.test", "A"), TimedOut);
  },
});

Deno.test({
  name: "dns_client asks for names in IDNA, and only for what is one",
  ignore: !mayConnect,
  async fn() {
    await using peer = await testPeer({ udp: (query) => [reply(query, TRUE)] });
    const longest = `${"x".repeat(63)}.${"x".repeat(63)}.${"x".repeat(63)}.${"x".repeat(61)}`;
    for (
      const [name, asked] of [
        ["example.test.", "example.test"],
        ["bücher.example.test", "xn--bcher-kva.example.test"],
        ["_imap._tcp.EXAMPLE.test", "_imap._tcp.EXAMPLE.test"],
        ["*.test", "*.test"],
        [".", "."],
        [longest, longest],
      ]
    ) {
      const { message } = await ask(peer, name, "A");
      assertEquals(message.questions?.[0].name, asked);
    }
    const bad = ["", "..", "a..b", ".a", "x".repeat(64), `${longest}x`, "a b", "a\n", "ü..b", "\0"];
    for (const name of bad) {
      await assertRejects(() => ask(peer, name, "A"), UsageError).catch((error) => {
        throw new Error(JSON.stringify(name), { cause: error });
      });
    }
    assertEquals(peer.seen.length, 6);
  },
});

Deno.test("format shows every section and type, as a master file would", () => {
  const shown = (name: string, type: string, size?: number) => {
    const questions = [{ name, type, class: "IN" } as Question];
    const opt = { type: "OPT", name: ".", udpPayloadSize: size } as Answer;
    const additionals = size ? [opt] : [];
    const query = encode({ type: "query", id: 7, flags: RD, questions, additionals });
    const octets = raw(ZONE, query, true);
    return format({ message: decode(octets), octets: octets.length, over: "UDP" });
  };
  assertEquals(shown("example.test", "MX", 1232), [
    ";; NOERROR, flags: aa rd, id 7, 164 bytes over UDP",
    ";; QUESTION: 1",
    ";example.test. IN MX",
    ";; ANSWER: 1",
    "example.test. 3600 IN MX 10 mail.example.test.",
    ";; AUTHORITY: 0",
    ";; ADDITIONAL: 3",
    "mail.example.test. 3600 IN A 192.0.2.25",
    "mail.example.test. 3600 IN AAAA 2001:db8::25",
    ";EDNS version 0, 4096 bytes",
  ]);
  assertEquals(shown("nothing.example.test", "A").filter((line) => !line.startsWith(";;")), [
    ";nothing.example.test. IN A",
    "example.test. 300 IN SOA ns1.example.test. host.example.test. 1 7200 1800 1209600 300",
  ]);
  assertMatch(shown("nothing.example.test", "A")[0], /^;; NXDOMAIN, flags: aa rd, /);
  assertMatch(shown("example.net", "A")[0], /^;; REFUSED, flags: rd, /);

  const records = [
    { type: "TXT", data: ['say "hi"', "back\\slash", "\x1b[31m\n"] },
    { type: "CAA", data: { flags: 128, tag: "is\x07sue", value: 'a"b' } },
    { type: "SRV", data: { priority: 1, weight: 2, port: 3, target: "." } },
    { type: "CNAME", data: "a\x1b.test" },
    { type: "HINFO", data: { cpu: "\x1b", os: "\u202e" } },
    { type: "UNKNOWN_65280", data: Buffer.from([1, 27]) },
  ].map((record) => ({ ...record, name: "x\x9b.test", ttl: 0, class: "IN" }) as Answer);
  const message = decode(encode({ type: "response", answers: records }));
  const lines = format({ message, octets: 1, over: "TCP" });
  assertEquals(lines.slice(3, 7), [
    String.raw`x\x9b.test. 0 IN TXT "say \"hi\"" "back\\slash" "\x1b[31m\n"`,
    String.raw`x\x9b.test. 0 IN CAA 128 is\x07sue "a\"b"`,
    String.raw`x\x9b.test. 0 IN SRV 1 2 3 .`,
    String.raw`x\x9b.test. 0 IN CNAME a\x1b.test.`,
  ]);
  for (const line of lines) assert(!/\p{Cc}|\u202e/u.test(line), line);
});

Deno.test({
  name: "dns_client prints the answer, escaped, and its exit code says if there is one",
  ignore: !mayRun,
  async fn() {
    await using rig = await serving();
    const port = `${rig.port}`;
    const client = (...args: string[]) => run("dns_client", ["--port", port, ...args]);
    const www = await client("www.example.test");
    assertEquals([www.code, www.stderr], [0, ""]);
    assertMatch(www.stdout, /^www\.example\.test\. 3600 IN CNAME example\.test\.$/m);
    assertMatch(www.stdout, /^example\.test\. 3600 IN A 192\.0\.2\.10$/m);
    for (
      const [args, code, pattern] of [
        [["nothing.example.test"], 1, /^;; NXDOMAIN, /],
        [["example.net", "MX"], 1, /^;; REFUSED, /],
        [["ns1.example.test", "txt"], 0, /^;; NOERROR, /],
        [["any.people.example.test", "TXT", "--tcp"], 0, /TXT "anybody" "at \\"home\\""$/m],
        [["EXAMPLE.test.", "ANY"], 0, /^;; NOERROR, /],
      ] as const
    ) {
      const result = await client(...args);
      assertEquals([result.code, result.stderr], [code, ""], `${args}`);
      assertMatch(result.stdout, pattern);
    }
    for (
      const args of [[], ["a..b"], ["a", "HINFO"], ["a", "A", "b"], ["a", "--ca", "x", "--tcp"]]
    ) {
      const result = await client(...args);
      assertEquals([result.code, result.stdout], [2, ""], `${args}`);
      assertMatch(result.stderr, /^dns_client: [^\n]+\n$/);
    }

    const text = (query: Buffer) => {
      const { id, questions } = decode(query);
      const data = ["\x1b]0;evil\x07", "\u202e"];
      const answers = [{ type: "TXT" as const, name: "\x1b[2J.test", ttl: 1, data }];
      return [encode({ type: "response", id, questions, answers })];
    };
    await using evil = await testPeer({ udp: text });
    const shown = await run("dns_client", ["--port", `${evil.port}`, "a.test", "TXT"]);
    assertEquals([shown.code, shown.stderr], [0, ""]);
    const escaped = String.raw`\x1b[2J.test. 1 IN TXT "\x1b]0;evil\x07" "\u202e"`;
    assertEquals(shown.stdout.split("\n")[4], escaped);
  },
});

Deno.test({
  name: "dns_client tells of a server that is silent, of one that is gone, and of a retry",
  ignore: !mayRun,
  async fn() {
    const client = (port: number, ...args: string[]) =>
      run("dns_client", ["--port", `${port}`, "a.test", ...args]);
    await using lossy = await testPeer({ udp: (query, n) => n === 0 ? [] : [reply(query, TRUE)] });
    await using deaf = await testPeer({ tcp: (conn) => conn.readToEnd(1).then(() => {}) });
    using gone = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = gone.addr;
    gone.close();
    const [twice, never, silent, refused] = await Promise.all([
      client(lossy.port),
      client(deaf.port, "--timeout", "0.7"),
      client(deaf.port, "--tcp", "--timeout", "0.3"),
      client(port, "--tcp"),
    ]);
    const again = "dns_client: no answer for 0.5 s, sending again\n";
    assertEquals([twice.code, twice.stderr], [0, again]);
    assertMatch(twice.stdout, /^a\.test\. 5 IN A 192\.0\.2\.1$/m);
    const nothing = `dns_client: 127.0.0.1:${deaf.port}: no answer (datagrams sent: 2)\n`;
    assertEquals(never, { code: 1, stdout: "", stderr: again + nothing });
    assertEquals([silent.code, silent.stdout], [1, ""]);
    assertMatch(silent.stderr, /^dns_client: [^\n]*no answer within 0\.3 s[^\n]*\n$/);
    const line = `dns_client: 127.0.0.1:${port}: connection refused\n`;
    assertEquals(refused, { code: 1, stdout: "", stderr: line });
  },
});
