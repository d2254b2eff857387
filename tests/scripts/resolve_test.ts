import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { Buffer } from "node:buffer";
// @ts-types="npm:@types/dns-packet@5.6.5"
import { type Answer, decode, encode } from "dns-packet";
import {
  aliases,
  formatRecord,
  mailHosts,
  type Options,
  query,
  reverseName,
  systemAddresses,
  systemNames,
} from "../../scripts/resolve.ts";
import { mayConnect, mayRun, type Result, run } from "../helpers.ts";

const [TC, SERVFAIL, NXDOMAIN, REFUSED] = [0x0200, 2, 3, 5];

/** What a test server says: records, or the flags of an empty answer; nothing at all: silence. */
type Reply = Answer[] | number | undefined;

/** A DNS server in this process, over UDP and TCP, which notes whom it was asked about. */
function dnsServer(
  reply: (name: string, type: string, transport: "udp" | "tcp") => Reply,
  hostname = "127.0.0.1",
): AsyncDisposable & Required<Options> & { port: number; asked: string[] } {
  const listener = Deno.listen({ hostname, port: 0 });
  const { port } = listener.addr;
  const socket = Deno.listenDatagram({ transport: "udp", hostname, port });
  const asked: string[] = [];

  function answer(octets: Uint8Array, transport: "udp" | "tcp"): Uint8Array | undefined {
    const { id, questions = [] } = decode(Buffer.from(octets));
    const [{ name, type }] = questions;
    asked.push(`${type} ${name} ${transport}`);
    const said = reply(name, type, transport);
    if (said === undefined) return;
    const [flags, answers] = typeof said === "number" ? [said, []] : [0, said];
    return encode({ type: "response", id, flags, questions, answers });
  }

  const serving = Promise.all([
    (async () => {
      for await (const [octets, from] of socket) {
        const said = answer(octets, "udp");
        if (said) await socket.send(said, from);
      }
    })(),
    (async () => {
      for await (const conn of listener) {
        const octets = new Uint8Array(512);
        const size = await conn.read(octets) ?? 0; // a question comes in one piece here
        const said = answer(octets.subarray(2, size), "tcp") ?? new Uint8Array();
        await conn.write(Uint8Array.from([said.length >> 8, said.length & 255, ...said]));
        conn.close();
      }
    })(),
  ]);
  return {
    port,
    nameServer: { ipAddr: hostname, port },
    timeout: 5000,
    asked,
    async [Symbol.asyncDispose]() {
      socket.close();
      listener.close();
      await serving;
    },
  };
}

/** A server for these records, by name and type; of a name without any it says NXDOMAIN. */
function zone(records: Answer[]): ReturnType<typeof dnsServer> {
  return dnsServer((name, type) => {
    const owned = records.filter((record) => record.name === name);
    return owned.length > 0 ? owned.filter((record) => record.type === type) : NXDOMAIN;
  });
}

/** Runs the program against a server here, never against the system's. */
async function ask(server: { port: number }, ...args: string[]): Promise<Result> {
  return await run("resolve", ["--server", `127.0.0.1:${server.port}`, ...args]);
}

Deno.test("an IP address has a name of its own in DNS", () => {
  assertEquals(reverseName("192.0.2.10"), "10.2.0.192.in-addr.arpa");
  const nibbles = (head: string, tail: string) =>
    [...head + tail.padStart(32 - head.length, "0")].reverse().join(".") + ".ip6.arpa";
  for (
    const [address, head, tail] of [
      ["::", "", ""],
      ["::1", "", "1"],
      ["1::", "0001", ""],
      ["2001:db8::567:89ab", "20010db8", "056789ab"],
      ["2001:DB8:1:2:3:4:5:6", "20010db8000100020003000400050006", ""],
      ["2001:db8:0:0:1::1", "20010db80000000000010000000000", "01"],
      ["::ffff:192.0.2.1", "", "ffffc0000201"],
      ["fe80::1%eth0", "fe80", "1"],
    ]
  ) assertEquals(reverseName(address), nibbles(head, tail), address);
});

Deno.test("records are written as in a zone file", () => {
  assertEquals(["192.0.2.1", "a.test.", "."].map(formatRecord), ["192.0.2.1", "a.test", "."]);
  assertEquals(formatRecord({ preference: 10, exchange: "a.test." }), "10 a.test");
  assertEquals(formatRecord({ preference: 0, exchange: "." }), "0 .");
  const srv = { priority: 1, weight: 2, port: 5222, target: "a.test." };
  assertEquals(formatRecord(srv), "1 2 5222 a.test");
  const caa = { tag: "issue", value: 'ca; a="b"' };
  assertEquals(formatRecord({ ...caa, critical: false }), '0 issue "ca; a=\\"b\\""');
  assertEquals(formatRecord({ ...caa, critical: true }), '128 issue "ca; a=\\"b\\""');
  // Deno gives an octet of TXT as a character each.
  const octets = String.fromCharCode(...new TextEncoder().encode("grüße"));
  assertEquals(
    formatRecord(["a b", 'q"\\', "", octets, "\xff"]),
    '"a b" "q\\"\\\\" "" "grüße" "\ufffd"',
  );
});

Deno.test({
  name: "the system's resolver knows what the hosts file has",
  ignore: !mayConnect,
  async fn() {
    // Every hosts file has these two: nobody else is asked.
    const addresses = await systemAddresses("localhost", { timeout: 5000 });
    assert(addresses.includes("127.0.0.1"), `${addresses}`);
    const names = await systemNames("localhost", { timeout: 5000 });
    assertEquals(names.map((row) => row.replace(/ \S+$/, "")), addresses);
    const [name, ...others] = await systemNames("127.0.0.1", { timeout: 5000 });
    assertMatch(name, /^127\.0\.0\.1 [^\s\d]\S*$/);
    assertEquals(others, []);
  },
});

Deno.test({
  name: "no such name, no such record and a refusal are no records; silence is an error",
  ignore: !mayConnect,
  async fn() {
    const replies = new Map<string, Reply>([
      ["empty.test", []],
      ["nobody.test", NXDOMAIN],
      ["refused.test", REFUSED],
      ["broken.test", SERVFAIL],
    ]);
    await using server = dnsServer((name) => replies.get(name));
    for (const name of replies.keys()) assertEquals(await query(name, "A", server), [], name);
    for (const timeout of [100, 60_000]) { // Deno itself gives up after 2 s
      const options = { ...server, timeout };
      await assertRejects(() => query("silent.test", "A", options), Error, "no answer");
    }
    assertEquals(
      new Set(server.asked),
      new Set([...replies.keys(), "silent.test"].map((name) => `A ${name} udp`)),
    );
  },
});

Deno.test({
  name: "what is too long for a datagram comes over TCP",
  ignore: !mayConnect,
  async fn() {
    const data = Array.from({ length: 40 }, (_, i) => `${i}`.padEnd(250, "."));
    await using server = dnsServer((name, _, transport) =>
      transport === "udp" ? TC : [{ name, type: "TXT", data: [...data] }]
    );
    assertEquals(await query("long.test", "TXT", server), [data]);
    assertEquals(server.asked, ["TXT long.test udp", "TXT long.test tcp"]);
  },
});

Deno.test({
  name: "aliases are followed to their end, if they have one",
  ignore: !mayConnect,
  async fn() {
    await using server = dnsServer((name, type) => {
      const [label, number] = name.split(".");
      if (type !== "CNAME" || number === "0") return [];
      const data = label === "loop" ? name : `${label}.${Number(number) - 1}.test`;
      return [{ name, type, data }];
    });
    const chain = (name: string) => aliases(name, server);
    assertEquals(await chain("a.0.test"), []);
    assertEquals(await chain("a.1.test"), ["a.0.test, canonical"]);
    const eight = [7, 6, 5, 4, 3, 2, 1].map((number) => `a.${number}.test`);
    assertEquals(await chain("a.8.test"), [...eight, "a.0.test, canonical"]);
    for (const name of ["a.9.test", "a.999999.test", "loop.1.test"]) {
      await assertRejects(() => chain(name), Error, "more than 8 aliases in a row");
    }
  },
});

Deno.test({
  name: "mail goes to the hosts of the MX records by preference, or to the domain itself",
  ignore: !mayConnect,
  async fn() {
    const domains: Record<string, [preference: number, exchange: string][]> = {
      "one.test": [[10, "one.test"]],
      "order.test": [[100, "c.test"], [20, "b.test"], [9, "a.test"]],
      // Those of one preference stay as they came: a server changes their order, to spread load.
      "mixed.test": [[20, "d.test"], [5, "b.test"], [20, "c.test"], [5, "a.test"]],
      "null.test": [[0, "."]],
      // RFC 7505 wants the null MX to be alone: beside another it is none.
      "both.test": [[0, "."], [10, "a.test"]],
    };
    const addresses: Record<string, string[]> = {
      "a.test": ["192.0.2.1", "192.0.2.2", "2001:db8::1"],
      "six.test": ["2001:db8::6"],
    };
    await using server = dnsServer((name, type) => {
      const at = { name, ttl: 60 };
      if (type === "MX") {
        const records = domains[name] ?? [];
        return records.map(([preference, exchange]) => (
          { ...at, type, data: { preference, exchange } }
        ));
      }
      if (name === "silent.test") return undefined;
      const own = (addresses[name] ?? []).filter((it) => it.includes(":") === (type === "AAAA"));
      return own.map((data) => ({ ...at, type: type as "A", data }));
    });
    const hosts = (name: string) => mailHosts(name, server);
    assertEquals(await hosts("one.test"), ["10 one.test (no address)"]);
    assertEquals(await hosts("order.test"), [
      "9 a.test (192.0.2.1, 192.0.2.2, 2001:db8::1)",
      "20 b.test (no address)",
      "100 c.test (no address)",
    ]);
    assertEquals((await hosts("mixed.test")).map((row) => row.replace(/\(.*\)/, "-")), [
      ...["5 b.test -, equal", "5 a.test -, equal"],
      ...["20 d.test -, equal", "20 c.test -, equal"],
    ]);
    assertEquals(await hosts("null.test"), ["nowhere: null MX"]);
    assertEquals((await hosts("both.test")).map((row) => row.split(" (")[0]), ["0 .", "10 a.test"]);
    assertEquals(await hosts("six.test"), ["six.test (2001:db8::6), as there is no MX"]);
    assertEquals(await hosts("nothing.test"), []);
    domains["half.test"] = [[1, "silent.test"], [2, "a.test"]];
    const mail = mailHosts("half.test", { ...server, timeout: 100 });
    await assertRejects(() => mail, Error, "no answer");
  },
});

Deno.test({
  name: "resolve shows what DNS has, a line each, and where mail goes",
  ignore: !mayRun,
  async fn() {
    const at = (name: string) => ({ name, ttl: 60 });
    await using server = zone([
      { ...at("example.test"), type: "A", data: "192.0.2.10" },
      { ...at("example.test"), type: "AAAA", data: "2001:db8::10" },
      { ...at("example.test"), type: "MX", data: { preference: 20, exchange: "b.example.test" } },
      { ...at("example.test"), type: "MX", data: { preference: 10, exchange: "a.example.test" } },
      { ...at("example.test"), type: "MX", data: { preference: 20, exchange: "c.example.test" } },
      { ...at("example.test"), type: "NS", data: "ns.example.test" },
      { ...at("example.test"), type: "TXT", data: ["v=spf1", "-all"] },
      { ...at("example.test"), type: "TXT", data: ["red \x1b[31m\u202e\n"] },
      { ...at("a.example.test"), type: "A", data: "192.0.2.25" },
      { ...at("a.example.test"), type: "AAAA", data: "2001:db8::25" },
      { ...at("b.example.test"), type: "A", data: "192.0.2.26" },
      { ...at("nomail.test"), type: "MX", data: { preference: 0, exchange: "." } },
      { ...at("plain.test"), type: "A", data: "192.0.2.30" },
      { ...at("alias.test"), type: "CNAME", data: "plain.test" },
      { ...at("10.2.0.192.in-addr.arpa"), type: "PTR", data: "example.test" },
    ]);
    const names = ["example.test", "nomail.test", "plain.test", "alias.test", "192.0.2.10"];
    const { code, stdout, stderr } = await ask(server, ...names);
    assertEquals(
      stdout,
      `example.test
  A        192.0.2.10
  AAAA     2001:db8::10
  MX       20 b.example.test
  MX       10 a.example.test
  MX       20 c.example.test
  NS       ns.example.test
  TXT      "v=spf1" "-all"
  TXT      "red \\x1b[31m\\u202e\\n"
  mail     10 a.example.test (192.0.2.25, 2001:db8::25)
  mail     20 b.example.test (192.0.2.26), equal
  mail     20 c.example.test (no address), equal
  none     CNAME, PTR, SRV, CAA
nomail.test
  MX       0 .
  mail     nowhere: null MX
  none     CNAME, A, AAAA, NS, PTR, TXT, SRV, CAA
plain.test
  A        192.0.2.30
  mail     plain.test (192.0.2.30), as there is no MX
  none     CNAME, AAAA, MX, NS, PTR, TXT, SRV, CAA
alias.test
  CNAME    plain.test, canonical
  none     A, AAAA, MX, NS, PTR, TXT, SRV, CAA, mail
192.0.2.10
  PTR      example.test
`,
    );
    assertEquals([code, stderr], [0, ""]);
  },
});

Deno.test({
  name: "resolve says in a line what there is not, what got no answer and what is no name",
  ignore: !mayRun,
  async fn() {
    const record = (name: string): Answer[] => [{ name, type: "A", data: "192.0.2.1" }];
    await using server = dnsServer((name, type) => {
      if (name === "silent.test" || name === "half.test" && type !== "A") return undefined;
      if (name === "loop.test" && type === "CNAME") return [{ name, type, data: name }];
      return type === "A" && name !== "nobody.test" ? record(name) : NXDOMAIN;
    });
    const names = ["nobody.test", "half.test", "silent.test", "loop.test", "a.test"];
    const said = await ask(server, "--timeout", "1", ...names);
    const whole = (name: string, none: string) =>
      `${name}\n  A        192.0.2.1\n  mail     ${name} (192.0.2.1), as there is no MX\n  none     ${none}\n`;
    const types = "AAAA, MX, NS, PTR, TXT, SRV, CAA";
    assertEquals(said, {
      code: 1,
      stdout: "nobody.test\nhalf.test\n  A        192.0.2.1\nsilent.test\n" +
        whole("loop.test", types) + whole("a.test", `CNAME, ${types}`),
      stderr: [
        "nobody.test: all: no such name or records, or a refusal",
        `half.test: CNAME, ${types}, mail: no answer`,
        `silent.test: CNAME, A, ${types}, mail: no answer`,
        "loop.test: CNAME: more than 8 aliases in a row",
      ].map((line) => `resolve: ${line}\n`).join(""),
    });
    server.asked.length = 0;
    for (const name of ["a_b.test", "x..y", "a b", "a\x1b[31m", `${"x".repeat(64)}.test`]) {
      const { code, stdout, stderr } = await ask(server, "--", name);
      assertEquals([code, stdout], [1, `${name.replace("\x1b", "\\x1b")}\n`]);
      assertMatch(stderr, /^resolve: [ -~]+: CNAME, A, AAAA, [^\n:]+: \w[ -~]*[^\s:]\n$/);
    }
    assertEquals(server.asked, []);
  },
});

Deno.test({
  name: "--server takes an IP address, IPv6 in brackets, and says what is none",
  ignore: !mayRun,
  async fn() {
    const reply = (name: string): Reply => [{ name, type: "A", data: "192.0.2.1" }];
    await using v4 = dnsServer(reply);
    await using v6 = dnsServer(reply, "::1");
    for (const server of [`127.0.0.1:${v4.port}`, `:${v4.port}`, `[::1]:${v6.port}`]) {
      const { code, stdout, stderr } = await run("resolve", ["--server", server, "a.test"]);
      assertEquals([code, stderr], [0, ""], server);
      assertMatch(stdout, /^a\.test\n {2}A +192\.0\.2\.1\n/);
    }
    for (
      const server of [
        "",
        "a b",
        "localhost:53",
        "::1",
        "127.0.0.1:x",
        "127.0.0.1:70000",
        "unix:/dns",
      ]
    ) {
      const { code, stdout, stderr } = await run("resolve", ["--server", server, "a.test"]);
      assertEquals([code, stdout], [2, ""], server);
      assertMatch(stderr, /^resolve: .+ \(--help tells more\)\n$/);
    }
  },
});

Deno.test({
  name: "resolve without permission asks nobody, and names the flag",
  ignore: !mayRun,
  async fn() {
    const { code, stdout, stderr } = await run("resolve", ["a.test"], {
      permissions: ["--deny-net"],
    });
    assertEquals([code, stdout], [1, "a.test\n"]);
    const [system, dns, ...others] = stderr.trimEnd().split("\n");
    assertMatch(system, /^resolve: a\.test: system, reverse: requires net access.* --allow-net$/);
    assertMatch(dns, /^resolve: a\.test: CNAME, A, [^:]+, mail: requires net access to .+$/);
    assertEquals(others, []);
  },
});
