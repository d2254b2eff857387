import { assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import {
  bind,
  connect,
  connectDatagrams,
  type Endpoint,
  formatAddress,
  isAllowed,
  listen,
  listenDatagrams,
  named,
  parseAccessList,
  parseAddress,
  reason,
  UsageError,
} from "../../lib/address.ts";
import { FramedConn } from "../../lib/framing.ts";
import { mayConnect, mayRun, missing, Program, temporaryFolder } from "../helpers.ts";

const { AddrInUse, ConnectionRefused, NotFound, TimedOut } = Deno.errors;
const tcp = (hostname: string, port: number) => ({ transport: "tcp", hostname, port }) as const;
const LOCAL = { host: "127.0.0.1", port: 0 };

Deno.test("parseAddress reads every form of an address", () => {
  const forms: [text: string, expected: Deno.Addr, fallback?: number][] = [
    ["localhost:80", tcp("localhost", 80)],
    ["mail.example.org:8025", tcp("mail.example.org", 8025)],
    ["10.0.0.1:65535", tcp("10.0.0.1", 65535)],
    [":0", tcp("127.0.0.1", 0)],
    ["[::1]:80", tcp("::1", 80)],
    ["[2001:db8::7]:0", tcp("2001:db8::7", 0)],
    ["[::ffff:10.0.0.1]:7", tcp("::ffff:10.0.0.1", 7)],
    ["host", tcp("host", 25), 25],
    ["host:26", tcp("host", 26), 25],
    ["host", tcp("host", 0), 0],
    ["[::1]", tcp("::1", 25), 25],
    ["unix:/tmp/a b:1", { transport: "unix", path: "/tmp/a b:1" }],
    ["unix:relative", { transport: "unix", path: "relative" }, 25],
  ];
  for (const [text, expected, fallback] of forms) {
    assertEquals(parseAddress(text, fallback), expected, text);
  }
});

Deno.test("parseAddress refuses, by name, what is no address", () => {
  const none = [
    "",
    ":",
    "host",
    "host:",
    "host:x",
    "host:-1",
    "host:65536",
    "host:1.5",
    "host:1:2",
  ];
  const v6 = ["::1", "::1:80", "[::1]", "[::1]80", "[]:80", "[1.2.3.4]:80", "[::1:80", "::1]:80"];
  for (const text of [...none, ...v6, "[host]:80", "[::g]:80", "a b:80", "host:8 0", "unix:"]) {
    const { message } = assertThrows(() => parseAddress(text), UsageError);
    assertEquals(message.startsWith(`${text} is not an address`), true, message);
  }
  for (const text of ["", ":", "host:", "::1", "[x]", "a b", "host:99999"]) {
    assertThrows(() => parseAddress(text, 25), UsageError);
  }
});

Deno.test("formatAddress writes what parseAddress reads", () => {
  for (const text of ["host:80", "127.0.0.1:0", "[::1]:80", "[2001:db8::7]:65535", "unix:/a b"]) {
    assertEquals(formatAddress(parseAddress(text)), text);
  }
  assertEquals(formatAddress(tcp("::ffff:10.0.0.1", 80)), "10.0.0.1:80");
  assertEquals(formatAddress({ transport: "udp", hostname: "::", port: 53 }), "[::]:53");
  assertEquals(formatAddress({ transport: "unixpacket", path: "/a" }), "unix:/a");
  // What Deno gives as the path of a socket that has none.
  const unnamed = { transport: "unix", path: null } as unknown as Deno.UnixAddr;
  assertMatch(formatAddress(unnamed), /^unix:./);
});

Deno.test("an access list has the addresses of its blocks and no others", () => {
  const lists: [list: string, inside: string[], outside: string[]][] = [
    ["10.0.0.0/8", ["10.0.0.0", "10.255.255.255", "::ffff:10.1.2.3"], [
      "9.255.255.255",
      "11.0.0.0",
    ]],
    ["192.168.1.7", ["192.168.1.7", "::ffff:192.168.1.7"], ["192.168.1.6", "192.168.1.8", "::1"]],
    ["10.1.2.3/31", ["10.1.2.2", "10.1.2.3"], ["10.1.2.1", "10.1.2.4"]],
    ["0.0.0.0/0", ["0.0.0.0", "255.255.255.255", "::ffff:1.2.3.4"], ["::1", "fd00::1"]],
    ["::/0", ["::", "::1", "ffff::1"], []],
    ["fd00::/8", ["fd00::1", "fdff:1::"], ["fc00::1", "fe00::", "::1", "10.0.0.1"]],
    ["::1", ["::1"], ["::", "::2", "127.0.0.1"]],
    ["::1 127.0.0.1/32", ["::1", "127.0.0.1"], ["127.0.0.2", "::ffff:127.0.0.2"]],
  ];
  for (const [entries, inside, outside] of lists) {
    const list = parseAccessList(entries.split(" "));
    const allowed = (hostname: string) => isAllowed(list, tcp(hostname, 1));
    assertEquals(inside.filter((host) => !allowed(host)), [], entries);
    assertEquals(outside.filter(allowed), [], entries);
    assertEquals(isAllowed(list, { transport: "unix", path: "/a" }), true);
  }
  assertEquals(isAllowed(parseAccessList([]), tcp("127.0.0.1", 1)), false);
});

Deno.test("an access list names the entry that is no block", () => {
  const v4 = [
    "10.0.0.0/33",
    "10.0.0.0/",
    "10.0.0/8",
    "10.0.0.0/-1",
    "10.0.0.0/8/8",
    "10.0.0.0/1e1",
  ];
  const v6 = ["fd00::/129", "fd00::/", "[::1]", "fg00::/8"];
  for (
    const entry of [...v4, ...v6, "", "/8", "host", "10.0.0.0/ 8", "10.0.0.256", "10.0.0.0/8.0"]
  ) {
    const { message } = assertThrows(() => parseAccessList(["::1", entry]), UsageError);
    assertEquals(message.startsWith(`${entry} is not a CIDR block`), true, message);
  }
});

Deno.test("an error keeps its class and becomes one line that says where", () => {
  const messages: [given: string, expected: string][] = [
    ["Connection refused (os error 111)", "connection refused"],
    ["Connection refused (os error 111): at 127.0.0.1:1\nmore", "connection refused"],
    ["failed to lookup address information: Name or service not known", "unknown host"],
    ["getaddrinfo ENOTFOUND host", "unknown host"],
    ["getaddrinfo EPERM host", "no permission to look it up (--allow-net)"],
    ["EOF in the middle\nstack", "EOF in the middle"],
    ["Error: Address already in use (os error 98)", "address already in use"], // of Deno.serve
  ];
  for (const [given, expected] of messages) {
    assertEquals(reason(new Error(given)), expected);
    const error = named("host:1", new ConnectionRefused(given));
    assertEquals([error instanceof ConnectionRefused, error.message], [
      true,
      `host:1: ${expected}`,
    ]);
  }
  assertEquals(reason("text"), "text");
  assertEquals(named("host:1", "text").message, "host:1: text");
});

/** Sends a line to a listener and back. */
async function converse(listener: Deno.Listener, endpoint: Endpoint): Promise<string> {
  async function answer(): Promise<void> {
    for (let line: string | null = null; line === null;) { // none: who looked if somebody listens
      using server = new FramedConn(await listener.accept());
      line = await server.readLine();
      if (line) await server.writeLine(`${line} ${server.peer}`);
    }
  }
  const answered = answer();
  using client = new FramedConn(await connect(endpoint));
  await client.writeLine("hello");
  const line = await client.readLine();
  await answered;
  return line ?? "";
}

const portOf = (listener: Deno.Listener) => (listener.addr as Deno.NetAddr).port;

function withoutIpv6(): boolean {
  if (!mayConnect) return true;
  try {
    Deno.listen({ hostname: "::1", port: 0 }).close();
    return false;
  } catch {
    return true;
  }
}

Deno.test({
  name: "listen and connect over TCP",
  ignore: !mayConnect,
  async fn() {
    using listener = await listen(LOCAL);
    const answer = await converse(listener, { ...LOCAL, port: portOf(listener) });
    assertMatch(answer, /^hello 127\.0\.0\.1:\d+$/);
  },
});

Deno.test({
  name: "listen and connect over IPv6, and IPv4 to a socket for both is IPv4",
  ignore: withoutIpv6(),
  async fn() {
    using six = await listen({ host: "::1", port: 0 });
    assertMatch(formatAddress(six.addr), /^\[::1\]:\d+$/);
    assertMatch(await converse(six, { host: "::1", port: portOf(six) }), /^hello \[::1\]:\d+$/);
    using both = await listen({ host: "::", port: 0 });
    assertMatch(await converse(both, { ...LOCAL, port: portOf(both) }), /^hello 127\./);
  },
});

Deno.test({
  name: "a port that is taken, and one where nobody listens, are said in one line",
  ignore: !mayConnect,
  async fn() {
    const listener = await listen(LOCAL);
    const port = portOf(listener);
    const taken = await assertRejects(() => listen({ ...LOCAL, port }), AddrInUse);
    assertEquals(taken.message, `127.0.0.1:${port}: address already in use`);
    listener.close();
    const options = { ...LOCAL, port, timeout: 5000 };
    const refused = await assertRejects(() => connect(options), ConnectionRefused);
    assertEquals(refused.message, `127.0.0.1:${port}: connection refused`);
  },
});

Deno.test("options that do not go together are refused", async () => {
  const wrong: [(endpoint: Endpoint) => Promise<unknown>, Partial<Endpoint>, RegExp][] = [
    [listen, { cert: "cert.pem" }, /--cert.*--key/],
    [listen, { key: "key.pem" }, /--cert.*--key/],
    [listen, { unix: "/socket", cert: "cert.pem", key: "key.pem" }, /--unix.*--cert/],
    [connect, { ca: "ca.pem" }, /--ca.*--tls/],
    [connect, { unix: "/socket", tls: true }, /--unix.*--tls/],
  ];
  for (const [open, options, message] of wrong) {
    assertMatch(
      (await assertRejects(() => open({ ...LOCAL, ...options }), UsageError)).message,
      message,
    );
  }
});

/** Leaves the socket file of a server that was killed. */
async function leaveStale(path: string, kind: "unix" | "unixpacket"): Promise<void> {
  const call = kind === "unix" ? "listen" : "listenDatagram";
  const code = `Deno.${call}({ transport: "${kind}", path: ${JSON.stringify(path)} });
    console.log("up"); setInterval(() => {}, 1e6);`;
  await using server = new Program([Deno.execPath(), "eval", "--unstable-net", code]);
  await server.until(/up/);
  server.signal("SIGKILL");
  await server.ended();
}

Deno.test({
  name: "a Unix socket: one left by a killed server is replaced, one in use is not, nor a file",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const at = (name: string) => ({ ...LOCAL, unix: `${folder.path}/${name}` });
    const kinds = [["unix", listen], ["unixpacket", listenDatagrams]] as const;
    for (const [kind, open] of kinds) {
      const path = at(kind).unix;
      await leaveStale(path, kind);
      assertEquals((await Deno.lstat(path)).isSocket, true);
      const first = await open(at(kind));
      for (const [, again] of kinds) {
        const { message } = await assertRejects(() => again(at(kind)), AddrInUse);
        assertEquals(message, `unix:${path}: address already in use`);
      }
      if ("accept" in first) {
        assertEquals(await converse(first, at(kind)), "hello unix:(unnamed)");
      }
      first.close();
      await Deno.writeTextFile(at("file").unix, "precious");
      await assertRejects(() => open(at("file")), AddrInUse);
      assertEquals(await Deno.readTextFile(at("file").unix), "precious");
    }
    const absent = await assertRejects(() => connect(at("absent")), NotFound);
    assertEquals(absent.message, `unix:${at("absent").unix}: no such file or directory`);
  },
});

Deno.test({
  name: "connectDatagrams finds the server's address and binds loopback to reach it",
  ignore: !mayConnect,
  async fn() {
    const { socket, server } = await connectDatagrams({ ...LOCAL, port: 9 });
    assertEquals(server, { transport: "udp", hostname: "127.0.0.1", port: 9 });
    assertEquals((socket.addr as Deno.NetAddr).hostname, "127.0.0.1");
    socket.close();
  },
});

Deno.test({
  name: "a full backlog, and a server that never shakes hands, are timed out",
  ignore: !mayConnect,
  async fn() {
    using full = await listen({ ...LOCAL, backlog: 1 });
    const options = { ...LOCAL, port: portOf(full), timeout: 250 };
    const waiting: Deno.Conn[] = [];
    const fill = async () => {
      while (waiting.length < 10) waiting.push(await connect(options));
    };
    const expected = `127.0.0.1:${options.port}: no connection within 0.25 s`;
    assertEquals((await assertRejects(fill, TimedOut)).message, expected);
    for (const conn of waiting) conn.close();

    using mute = await listen(LOCAL);
    const tls = { ...LOCAL, port: portOf(mute), timeout: 250, tls: true };
    const { message } = await assertRejects(() => connect(tls), TimedOut);
    assertEquals(message, `127.0.0.1:${tls.port}: no connection within 0.25 s`);
    (await mute.accept()).close();
  },
});

/** Makes `ca.pem` and, of that authority, `cert.pem` and `key.pem` for 127.0.0.1. */
async function makeCertificates(folder: string): Promise<void> {
  const key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
  for (
    const line of [
      `req -x509 ${key} -subj /CN=authority -keyout ca.key -out ca.pem`,
      `req -x509 ${key} -subj /CN=server -keyout key.pem -out cert.pem -CA ca.pem -CAkey ca.key ` +
      "-addext basicConstraints=CA:FALSE -addext subjectAltName=IP:127.0.0.1",
    ]
  ) {
    const command = new Deno.Command("openssl", { args: line.split(" "), cwd: folder });
    const { success, stderr } = await command.output();
    if (!success) throw new Error(new TextDecoder().decode(stderr));
  }
}

Deno.test({
  name: "TLS: the certificate's name and authority are verified",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    await makeCertificates(folder.path);
    const file = (name: string) => `${folder.path}/${name}.pem`;
    const own = { cert: file("cert"), key: file("key") };
    using listener = await listen({ ...LOCAL, ...own });
    const client = { ...LOCAL, port: portOf(listener), tls: true, timeout: 5000, ca: file("ca") };
    assertMatch(await converse(listener, client), /^hello 127/);

    const wrong = [[{ ...client, ca: undefined }, "127.0.0.1"], [
      { ...client, host: "localhost" },
      "localhost",
    ]] as const;
    for (const [endpoint, host] of wrong) {
      const refused = assertRejects(() => connect(endpoint), Deno.errors.InvalidData);
      using server = new FramedConn(await listener.accept());
      await assertRejects(() => server.readLine()); // the handshake's failure
      assertMatch(
        (await refused).message,
        new RegExp(`^${host}:${client.port}: [^\n]*certificate`),
      );
    }

    const bad: [() => Promise<unknown>, string][] = [
      [() => listen({ ...LOCAL, ...own, cert: file("absent") }), file("absent")],
      [() => listen({ ...LOCAL, ...own, cert: file("key") }), file("key")],
      [() => connect({ ...client, ca: file("absent") }), file("absent")],
    ];
    for (const [open, path] of bad) {
      const { message } = await assertRejects(open);
      assertEquals([message.includes(path), message.includes("\n")], [true, false], message);
    }
  },
});

Deno.test({
  name: "bind hands over what there is to listen with, and names what goes wrong after it",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    await makeCertificates(folder.path);
    const file = (name: string) => `${folder.path}/${name}.pem`;
    const [cert, key] = await Promise.all(
      ["cert", "key"].map((name) => Deno.readTextFile(file(name))),
    );
    const given = (endpoint: Partial<Endpoint>) =>
      bind({ ...LOCAL, ...endpoint }, (options) => JSON.parse(JSON.stringify(options)));
    const own = { hostname: "127.0.0.1", port: 0 };
    assertEquals(await given({}), own);
    assertEquals(await given({ backlog: 5 }), { ...own, tcpBacklog: 5 });
    assertEquals(await given({ unix: "/none/s" }), { ...own, path: "/none/s" });
    assertEquals(await given({ cert, key }), { ...own, cert, key });
    assertEquals(await given({ cert: file("cert"), key: file("key") }), { ...own, cert, key });
    assertEquals(await given({ cert, key: file("key") }), { ...own, cert, key });

    const fail = () => {
      throw new Deno.errors.AddrInUse("Error: Address already in use (os error 98)");
    };
    const said: [endpoint: Partial<Endpoint>, message: string][] = [
      [{}, ""],
      [{ cert: file("cert"), key: file("key") }, ` with ${file("cert")} and ${file("key")}`],
      [{ cert, key }, ""], // a key is not for the log
    ];
    for (const [endpoint, files] of said) {
      const failed = () => bind({ ...LOCAL, ...endpoint }, fail);
      const { message } = await assertRejects(failed, Deno.errors.AddrInUse);
      assertEquals(message, `127.0.0.1:0${files}: address already in use`);
    }
  },
});

Deno.test({
  name: "TLS to a server that does not speak it is an error with the address",
  ignore: !mayConnect,
  async fn() {
    using listener = await listen(LOCAL);
    const options = { ...LOCAL, port: portOf(listener), tls: true, timeout: 5000 };
    const refused = assertRejects(() => connect(options));
    using server = new FramedConn(await listener.accept());
    await server.writeLine("220 plain text");
    assertMatch((await refused).message, new RegExp(`^127\\.0\\.0\\.1:${options.port}: [^\n]+$`));
  },
});
