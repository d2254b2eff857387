import { assert, assertEquals, assertMatch } from "@std/assert";
import { ask, format } from "../../scripts/dns_client.ts";
import { missing, Program, run, start, temporaryFolder } from "../helpers.ts";
import { certificates, eventually, finish, output } from "./peers.ts";

/** Every type, and every kind of answer. `big` has an answer of 600 octets, `huge` one of 5000. */
const ZONE = String.raw`
$ORIGIN example.test.
$TTL 1h
@          1d SOA ns1 first\.last 2026112101 2h 30m 2w 5m
           NS    ns1
           NS    ns2
           MX    10 host
           MX    20 backup.example.net.
           TXT   "v=spf1 -all" "two"
           CAA   0 issue "ca.example.net"
           CAA   128 iodef "mailto:host@example.test"
ns1        A     192.0.2.1
ns2        5m A  192.0.2.2
host       A     192.0.2.10
           A     192.0.2.11
           AAAA  2001:db8::10
www        CNAME host
away       CNAME www.example.net.
dangling   CNAME nothing
deep.empty TXT   "below"
nothere    MX    0 .
_imap._tcp SRV   0 1 8143 host
octets     TXT   "\000\"\\;\255" plain
*.w        TXT   "wild"
host.w     A     192.0.2.12
10.2.0.192.in-addr.arpa PTR host
child      NS    ns.child
ns.child   A     192.0.2.53
big        TXT   "1${"x".repeat(199)}" "2${"x".repeat(199)}" "3${"x".repeat(100)}"
huge       TXT   ${Array.from({ length: 20 }, (_, i) => `${i}`.padStart(250, "y")).join(" ")}
`;

/** Questions and the answers, as dig prints them. */
const ANSWERS: [question: string, ...answers: string[]][] = [
  [
    "example.test SOA",
    String
      .raw`example.test. 86400 IN SOA ns1.example.test. first\.last.example.test. 2026112101 7200 1800 1209600 300`,
  ],
  [
    "example.test NS",
    "example.test. 3600 IN NS ns1.example.test.",
    "example.test. 3600 IN NS ns2.example.test.",
  ],
  [
    "example.test MX",
    "example.test. 3600 IN MX 10 host.example.test.",
    "example.test. 3600 IN MX 20 backup.example.net.",
  ],
  ["example.test TXT", 'example.test. 3600 IN TXT "v=spf1 -all" "two"'],
  [
    "example.test CAA",
    'example.test. 3600 IN CAA 0 issue "ca.example.net"',
    'example.test. 3600 IN CAA 128 iodef "mailto:host@example.test"',
  ],
  ["ns2.example.test A", "ns2.example.test. 300 IN A 192.0.2.2"],
  [
    "host.example.test A",
    "host.example.test. 3600 IN A 192.0.2.10",
    "host.example.test. 3600 IN A 192.0.2.11",
  ],
  ["host.example.test AAAA", "host.example.test. 3600 IN AAAA 2001:db8::10"],
  ["www.example.test CNAME", "www.example.test. 3600 IN CNAME host.example.test."],
  ["nothere.example.test MX", "nothere.example.test. 3600 IN MX 0 ."],
  [
    "_imap._tcp.example.test SRV",
    "_imap._tcp.example.test. 3600 IN SRV 0 1 8143 host.example.test.",
  ],
  [
    "octets.example.test TXT",
    String.raw`octets.example.test. 3600 IN TXT "\000\"\\;\255" "plain"`,
  ],
  [
    "10.2.0.192.in-addr.arpa.example.test PTR",
    "10.2.0.192.in-addr.arpa.example.test. 3600 IN PTR host.example.test.",
  ],
  // A CNAME is followed, a wildcard stands for what is not there, case makes no difference.
  [
    "www.example.test AAAA",
    "www.example.test. 3600 IN CNAME host.example.test.",
    "host.example.test. 3600 IN AAAA 2001:db8::10",
  ],
  ["away.example.test A", "away.example.test. 3600 IN CNAME www.example.net."],
  ["any.w.example.test TXT", 'any.w.example.test. 3600 IN TXT "wild"'],
  ["a.b.w.example.test TXT", 'a.b.w.example.test. 3600 IN TXT "wild"'],
  ["*.w.example.test TXT", '*.w.example.test. 3600 IN TXT "wild"'],
  [
    "WwW.ExAmple.TEST A",
    "WwW.ExAmple.TEST. 3600 IN CNAME host.example.test.",
    "host.example.test. 3600 IN A 192.0.2.10",
    "host.example.test. 3600 IN A 192.0.2.11",
  ],
];

const NEGATIVE = String
  .raw`example.test. 300 IN SOA ns1.example.test. first\.last.example.test. 2026112101 7200 1800 1209600 300`;
const REFERRAL = [
  "child.example.test. 3600 IN NS ns.child.example.test.",
  "ns.child.example.test. 3600 IN A 192.0.2.53",
];

/** What dig says, blanks made one, and without what it says about a section. */
async function dig(port: number, ...args: string[]): Promise<string[]> {
  const base = ["dig", "-r", "@127.0.0.1", "-p", `${port}`, "+tries=1", "+time=10"];
  const said = await output([...base, ...args]);
  return said.split("\n").map((line) => line.replace(/\s+/g, " ")).filter(Boolean);
}

/** An answer of dig's: status and flags, records of all sections, size, transport. */
async function answer(
  port: number,
  ...args: string[]
): Promise<{ status: string; records: string[]; size: number; over: string; edns: string }> {
  const shown = "+noall +comments +answer +authority +additional +stats".split(" ");
  const lines = await dig(port, ...shown, ...args);
  const text = lines.join("\n");
  const [, status] = /status: (\w+)/.exec(text) ?? [];
  const [, flags] = /^;; flags: ([a-z ]*);/m.exec(text) ?? [];
  return {
    status: `${status} ${flags}`,
    records: lines.filter((line) => !line.startsWith(";")),
    size: Number(/MSG SIZE rcvd: (\d+)/.exec(text)?.[1]),
    over: /^;; SERVER: .*\((UDP|TCP|TLS)\)$/m.exec(text)?.[1] ?? "",
    edns: /^; EDNS: (.*)$/m.exec(text)?.[1] ?? "",
  };
}

/** Starts dns_server with {@linkcode ZONE}. */
async function serving(...flags: string[]): Promise<AsyncDisposable & { port: number }> {
  await using stack = new AsyncDisposableStack();
  const folder = stack.use(await temporaryFolder());
  await Deno.writeTextFile(`${folder.path}/zone`, ZONE);
  const args = ["--port", "0", ...flags, `${folder.path}/zone`];
  const server = stack.use(start("dns_server", args, ["--allow-read"]));
  const port = await server.port();
  if (!flags.includes("--cert")) await server.until(/listening on .* \(udp\)\n/, "stderr");
  const owned = stack.move();
  return { port, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

Deno.test({
  name: "dig agrees with the zone on every type, over UDP and over TCP",
  ignore: missing("dig"),
  async fn() {
    await using server = await serving();
    const questions = ANSWERS.flatMap(([question]) => question.split(" "));
    const wanted = ANSWERS.flatMap(([, ...answers]) => answers);
    for (const over of [["+notcp"], ["+tcp"], ["+tcp", "+keepopen"], ["+noedns"], ["+dnssec"]]) {
      assertEquals(await dig(server.port, ...over, "+noall", "+answer", ...questions), wanted);
    }
    const [first] = ANSWERS;
    const { status, over } = await answer(server.port, ...first[0].split(" "));
    assertEquals([status, over], ["NOERROR qr aa rd", "UDP"]);
  },
});

Deno.test({
  name: "dig: NXDOMAIN and NODATA with the SOA, a referral, and REFUSED, over UDP and TCP",
  ignore: missing("dig"),
  async fn() {
    await using server = await serving();
    for (const over of ["+notcp", "+tcp"]) {
      for (
        const [question, status, ...records] of [
          ["nothing.example.test A", "NXDOMAIN qr aa rd", NEGATIVE],
          ["below.host.example.test A", "NXDOMAIN qr aa rd", NEGATIVE],
          ["below.host.w.example.test TXT", "NXDOMAIN qr aa rd", NEGATIVE],
          ["host.example.test TXT", "NOERROR qr aa rd", NEGATIVE],
          ["host.w.example.test TXT", "NOERROR qr aa rd", NEGATIVE],
          ["any.w.example.test A", "NOERROR qr aa rd", NEGATIVE],
          ["empty.example.test TXT", "NOERROR qr aa rd", NEGATIVE],
          ["host.example.test TYPE65", "NOERROR qr aa rd", NEGATIVE],
          [
            ...["dangling.example.test A", "NXDOMAIN qr aa rd"],
            ...["dangling.example.test. 3600 IN CNAME nothing.example.test.", NEGATIVE],
          ],
          ["child.example.test NS", "NOERROR qr rd", ...REFERRAL],
          ["www.child.example.test A", "NOERROR qr rd", ...REFERRAL],
          ["example.net A", "REFUSED qr rd"],
          [". NS", "REFUSED qr rd"],
          ["example.test CH", "REFUSED qr rd"],
        ]
      ) {
        const got = await answer(server.port, over, ...question.split(" "));
        assertEquals([got.status, ...got.records], [status, ...records], question);
      }
    }
    const quiet = await answer(server.port, "+norecurse", "host.example.test");
    assertEquals(quiet.status, "NOERROR qr aa");
    const transfer = await dig(server.port, "example.test", "AXFR");
    assertEquals(transfer.at(-1), "; Transfer failed.");
  },
});

Deno.test({
  name: "dig: EDNS sizes, truncation and the way to TCP, version, DO, additional addresses, ANY",
  ignore: missing("dig"),
  async fn() {
    await using server = await serving();
    const [big, huge] = ["big.example.test", "huge.example.test"];
    for (
      const [name, args, cut] of [
        [big, ["+noedns"], true],
        [big, ["+bufsize=512"], true],
        [big, ["+bufsize=600"], false],
        [big, ["+bufsize=1232"], false],
        [huge, ["+bufsize=1232"], true],
        [huge, ["+bufsize=4096"], true],
        [huge, ["+bufsize=8192"], true], // more than the server sends
      ] as const
    ) {
      const what = `${name} ${args}`;
      const short = await answer(server.port, name, "TXT", ...args, "+ignore");
      const status = `NOERROR qr aa ${cut ? "tc " : ""}rd`;
      assertEquals([short.status, short.over], [status, "UDP"], what);
      assertEquals(short.records.length, cut ? 0 : 1, what);
      const limit = Number(/\d+/.exec(args[0])?.[0] ?? 512);
      assert(short.size <= limit, `${what}: ${short.size} octets`);
      assertEquals(short.edns !== "", args[0] !== "+noedns", what);
      const whole = await answer(server.port, name, "TXT", ...args);
      assertEquals([whole.status, whole.over], ["NOERROR qr aa rd", cut ? "TCP" : "UDP"], what);
      assert(whole.records[0].includes(name === big ? `"3xxx` : `yyy19"`), what);
    }

    const version = await answer(server.port, "example.test", "+edns=1", "+noednsnegotiation");
    assertEquals([version.status, version.records], ["BADVERS qr rd", []]);
    assertMatch(version.edns, /^version: 0, flags:; udp: \d+$/);
    const negotiated = await answer(server.port, "ns1.example.test", "+edns=1");
    assertEquals(negotiated.records, ["ns1.example.test. 3600 IN A 192.0.2.1"]);
    const dnssec = await answer(server.port, "ns1.example.test", "+dnssec", "+nsid", "+subnet=0/0");
    assertEquals(dnssec.records, negotiated.records);
    assertMatch(dnssec.edns, /^version: 0, flags: do; udp: \d+$/);

    const addresses = ANSWERS.filter(([question]) => /^host\S+ A+$/.test(question))
      .flatMap(([, ...answers]) => answers);
    const mail = await answer(server.port, "example.test", "MX");
    const [, ...exchanges] = ANSWERS[2];
    assertEquals(mail.records, [...exchanges, ...addresses]);
    const bare = await answer(server.port, "example.test", "MX", "+noedns", "+noadditional");
    assertEquals(bare.records, exchanges);

    const any = await answer(server.port, "example.test", "ANY", "+noadditional");
    assertEquals(any.records, ANSWERS.slice(0, 5).flatMap(([, ...answers]) => answers));
    const opcode = await answer(server.port, "example.test", "+opcode=NOTIFY");
    assertMatch(opcode.status, /^NOTIMP qr/);
  },
});

Deno.test({
  name: "dig over TLS, and our client, which trusts no stranger",
  ignore: missing("dig", "openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const { ca, cert, key } = await certificates(folder.path);
    await using server = await serving("--cert", cert, "--key", key);
    const tls = ["+tls", `+tls-ca=${ca}`, "+tls-hostname=127.0.0.1", "+keepopen"];
    const questions = ANSWERS.flatMap(([question]) => question.split(" "));
    const got = await dig(server.port, ...tls, "+noall", "+answer", ...questions);
    assertEquals(got, ANSWERS.flatMap(([, ...answers]) => answers));

    const client = (...flags: string[]) => {
      const args = ["--port", `${server.port}`, ...flags, "huge.example.test", "TXT"];
      return run("dns_client", args, { permissions: ["--allow-read"] });
    };
    const trusting = await client("--tls", "--ca", ca);
    assertEquals([trusting.code, trusting.stderr], [0, ""]);
    assertMatch(trusting.stdout, /^;; NOERROR, flags: aa rd, .* over TCP\n/);
    const wary = await client("--tls");
    assertEquals([wary.code, wary.stdout], [1, ""]);
    assertMatch(wary.stderr, /^dns_client: 127\.0\.0\.1:\d+: .*certificate.*\n$/);
  },
});

const HUGE = Array.from({ length: 20 }, (_, i) => `${i}`.padStart(250, "y"));

/** Starts dnsmasq with names of its own, and none of anybody else's. */
async function dnsmasq(): Promise<AsyncDisposable & { port: number }> {
  for (let tries = 1;; tries++) {
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = listener.addr;
    listener.close();
    const server = new Program([
      ...["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts"],
      ...["--pid-file=", "--log-facility=-", "--local-ttl=3600", "--auth-ttl=3600"],
      ...[`--port=${port}`, "--listen-address=127.0.0.1", "--bind-interfaces"],
      ...[
        "--auth-zone=example.test,192.0.2.0/24,2001:db8::/32",
        "--auth-server=ns1.example.test,127.0.0.1",
      ],
      "--auth-soa=7,first.last.example.test,7200,1800,1209600",
      "--host-record=host.example.test,192.0.2.10,2001:db8::10",
      "--cname=www.example.test,host.example.test",
      "--mx-host=example.test,host.example.test,10",
      "--srv-host=_imap._tcp.example.test,host.example.test,8143,0,1",
      "--txt-record=example.test,v=spf1 -all,two",
      `--txt-record=huge.example.test,${HUGE}`,
      "--caa-record=example.test,0,issue,ca.example.net",
    ]);
    const failed = () => /^dnsmasq: /m.test(server.stderr);
    const question = ["dig", "-r", "@127.0.0.1", "-p", `${port}`, "+tries=1", "+time=1", "host"];
    await eventually(
      "dnsmasq answers",
      async () => failed() || (await finish(question)).code === 0,
    );
    if (!failed()) return Object.assign(server, { port });
    await server[Symbol.asyncDispose]();
    // Somebody was quicker to take that port.
    if (tries === 5) throw new Error(`dnsmasq: ${server.stderr}`);
  }
}

/** What dnsmasq has, and the same for ours. */
const SAME = `
$ORIGIN example.test.
$TTL 1h
@          SOA   ns1 first.last 7 2h 30m 2w 1h
           NS    ns1
           MX    10 host
           TXT   "v=spf1 -all" "two"
           CAA   0 issue "ca.example.net"
host       A     192.0.2.10
           AAAA  2001:db8::10
www        CNAME host
_imap._tcp SRV   0 1 8143 host
huge       TXT   ${HUGE.join(" ")}
`;
const QUESTIONS = [
  ...["SOA", "NS", "MX", "TXT", "CAA"].map((type) => `example.test ${type}`),
  ...["host.example.test A", "host.example.test AAAA", "_imap._tcp.example.test SRV"],
  ...["www.example.test A", "www.example.test AAAA", "www.example.test CNAME"],
  ...["huge.example.test TXT", "host.example.test TXT", "nothing.example.test A"],
];

Deno.test({
  name: "dig and our client hear the same from dnsmasq as from our server",
  ignore: missing("dig", "dnsmasq"),
  async fn() {
    await using folder = await temporaryFolder();
    await Deno.writeTextFile(`${folder.path}/zone`, SAME);
    await using ours = start("dns_server", ["--port", "0", `${folder.path}/zone`], [
      "--allow-read",
    ]);
    await using theirs = await dnsmasq();
    const ports = [await ours.port(), theirs.port];
    await ours.until(/listening on .* \(udp\)\n/, "stderr");
    for (const question of QUESTIONS) {
      const [name, type] = question.split(" ");
      const heard = await Promise.all(ports.flatMap((port) => [
        dig(port, "+noall", "+answer", name, type),
        client(port, name, type),
      ]));
      const [wanted] = heard;
      const empty = question === "host.example.test TXT" || name.startsWith("nothing");
      assertEquals(
        wanted.length,
        empty ? 0 : type.startsWith("A") && name.startsWith("www") ? 2 : 1,
      );
      assertEquals(heard, Array(4).fill(wanted), question);
    }
    const reverse = await dig(theirs.port, "+noall", "+answer", "-x", "192.0.2.10");
    assertEquals(await client(theirs.port, "10.2.0.192.in-addr.arpa", "PTR"), reverse);
    assertEquals(reverse.length, 1);
  },
});

/** The records of the answer as our client prints them; over TCP if they are many. */
async function client(port: number, name: string, type: string): Promise<string[]> {
  const reply = await ask({ host: "127.0.0.1", port, timeout: 10_000 }, name, type);
  assertEquals(reply.over, name.startsWith("huge") ? "TCP" : "UDP");
  const lines = format(reply);
  const [from, to] = [";; ANSWER: ", ";; AUTHORITY: "]
    .map((title) => lines.findIndex((line) => line.startsWith(title)));
  return lines.slice(from + 1, to);
}

Deno.test({
  name:
    "dns_client prints what dnsmasq says, and tells by its exit code that there is no such name",
  ignore: missing("dig", "dnsmasq"),
  async fn() {
    await using server = await dnsmasq();
    const client = (...args: string[]) => run("dns_client", ["--port", `${server.port}`, ...args]);
    const mx = await client("example.test", "MX");
    assertEquals([mx.code, mx.stderr], [0, ""]);
    assertMatch(
      mx.stdout,
      /^;; NOERROR, flags: .*rd.* over UDP\n;; QUESTION: 1\n;example\.test\. IN MX\n/,
    );
    assertMatch(mx.stdout, /^;; ANSWER: 1\nexample\.test\. 3600 IN MX 10 host\.example\.test\.\n/m);
    assertMatch(mx.stdout, /^;EDNS version 0, \d+ bytes\n$/m);
    const huge = await client("huge.example.test", "TXT");
    assertEquals([huge.code, huge.stderr], [0, ""]);
    assert(huge.stdout.includes(HUGE.map((text) => `"${text}"`).join(" ")));
    assertMatch(huge.stdout, /^;; NOERROR, .* over TCP$/m);
    const none = await client("nothing.example.test", "--tcp");
    assertEquals([none.code, none.stderr], [1, ""]);
    assertMatch(none.stdout, /^;; NXDOMAIN, .* over TCP\n/);
    assertMatch((await client("example.net")).stdout, /^;; REFUSED, /);
  },
});
