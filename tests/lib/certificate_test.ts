import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { createPrivateKey, X509Certificate } from "node:crypto";
import { connect, listen } from "../../lib/address.ts";
import { makeCertificate } from "../../lib/certificate.ts";
import { FramedConn } from "../../lib/framing.ts";
import { mayConnect, missing, temporaryFolder } from "../helpers.ts";

const DAY = 24 * 60 * 60 * 1000;
const NAMES = [
  "localhost",
  "www.example.test",
  "*.example.test",
  "127.0.0.1",
  "::1",
  "2001:db8::7",
];

Deno.test("a certificate has the names, the key and the days that were asked for", async () => {
  const began = Date.now();
  for (const days of [undefined, 1, 10_000]) { // the last ends after 2049, where dates change form
    const { cert, key, fingerprint } = await makeCertificate(NAMES, days);
    const x509 = new X509Certificate(cert);
    assertEquals(x509.subject, "CN=localhost");
    assertEquals(x509.issuer, x509.subject);
    for (const name of ["localhost", "www.example.test"]) { // Deno's does not know wildcards
      assertEquals(x509.checkHost(name) !== undefined, true, name);
    }
    for (const name of ["example.test", "a.b.example.test", "localhost.test"]) {
      assertEquals(x509.checkHost(name), undefined, name);
    }
    for (const address of ["127.0.0.1", "::1", "2001:db8::7"]) {
      assertEquals(x509.checkIP(address) !== undefined, true, address);
    }
    for (const address of ["127.0.0.2", "::2"]) assertEquals(x509.checkIP(address), undefined);
    assertEquals(x509.ca, false);
    assertEquals(x509.fingerprint256, fingerprint);
    assertEquals([x509.publicKey.asymmetricKeyType, x509.verify(x509.publicKey)], ["ec", true]);
    assert(x509.checkPrivateKey(createPrivateKey(key)), "the key is another's");
    const [from, to] = [x509.validFrom, x509.validTo].map((date) => Date.parse(date));
    const second = 1000; // a certificate's dates have no fraction
    assert(from >= began - DAY / 24 - second && from <= Date.now() - DAY / 24, x509.validFrom);
    const length = (days ?? 7) * DAY;
    assert(to >= began + length - second && to <= Date.now() + length, x509.validTo);
    assertMatch(cert, /^-----BEGIN CERTIFICATE-----\n[^]*\n-----END CERTIFICATE-----\n$/);
    assertMatch(key, /^-----BEGIN PRIVATE KEY-----\n[^]*\n-----END PRIVATE KEY-----\n$/);
  }
});

Deno.test("an IPv6 address may be spelled in any way", async () => {
  for (const spelled of ["::ffff:192.0.2.1", "2001:DB8:0:0:0:0:0:7", "64:ff9b::192.0.2.1", "::"]) {
    const { cert } = await makeCertificate([spelled]);
    const short = new URL(`http://[${spelled}]`).hostname.slice(1, -1);
    assertEquals(new X509Certificate(cert).checkIP(short) !== undefined, true, spelled);
  }
});

Deno.test("no two certificates have a number, a key or a fingerprint in common", async () => {
  const made = await Promise.all(Array.from({ length: 50 }, () => makeCertificate(["localhost"])));
  const numbers = made.map(({ cert }) => new X509Certificate(cert).serialNumber);
  assertEquals(new Set(numbers).size, 50);
  assertEquals(new Set(made.map(({ key }) => key)).size, 50);
  assertEquals(new Set(made.map(({ fingerprint }) => fingerprint)).size, 50);
  // RFC 5280, 4.1.2.2: positive, and at most 20 octets with the sign.
  for (const number of numbers) assertMatch(number, /^(?!0+$)[0-9A-F]{1,40}$/);
});

Deno.test({
  name: "a certificate is what openssl and Python's strictest check take for a server's",
  ignore: missing("openssl", "python3"),
  async fn() {
    await using folder = await temporaryFolder();
    const run = async (...argv: string[]): Promise<string> => {
      const command = new Deno.Command(argv[0], { args: argv.slice(1), cwd: folder.path });
      const { code, stdout, stderr } = await command.output();
      const said = new TextDecoder().decode(stdout) + new TextDecoder().decode(stderr);
      assertEquals(code, 0, said);
      return said;
    };
    const { cert, key, fingerprint } = await makeCertificate(NAMES);
    await Deno.writeTextFile(`${folder.path}/cert.pem`, cert);
    await Deno.writeTextFile(`${folder.path}/key.pem`, key);

    const verify = "openssl verify -x509_strict -purpose sslserver -CAfile cert.pem".split(" ");
    const wanted = ["localhost", "a.example.test"].map((name) => ["-verify_hostname", name]);
    const addresses = ["127.0.0.1", "::1"].map((address) => ["-verify_ip", address]);
    for (const name of [...wanted, ...addresses]) {
      assertEquals(await run(...verify, ...name, "cert.pem"), "cert.pem: OK\n");
    }
    const text = await run(
      ..."openssl x509 -noout -text -fingerprint -sha256 -in cert.pem".split(" "),
    );
    for (
      const part of [
        /Version: 3 /,
        /Signature Algorithm: ecdsa-with-SHA256/,
        /NIST CURVE: P-256/,
        /X509v3 Basic Constraints: critical\n +CA:FALSE\n/,
        /X509v3 Key Usage: critical\n +Digital Signature\n/,
        /X509v3 Extended Key Usage: *\n +TLS Web Server Authentication\n/,
        /DNS:localhost, DNS:www\.example\.test, DNS:\*\.example\.test, IP Address:127\.0\.0\.1, IP/,
      ]
    ) assertMatch(text, part);
    assert(text.includes(`Fingerprint=${fingerprint}\n`), text);
    assertEquals(
      await run(..."openssl pkey -pubout -in key.pem".split(" ")),
      await run(..."openssl x509 -noout -pubkey -in cert.pem".split(" ")),
    );

    const strict = `import ssl
server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.load_cert_chain("cert.pem", "key.pem")
client = ssl.create_default_context(cafile="cert.pem")
client.verify_flags |= ssl.VERIFY_X509_STRICT
for name in "localhost", "a.example.test", "127.0.0.1", "::1":
    to, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(back, to, server_hostname=name), server.wrap_bio(to, back, True)
    for end in ends * 3:
        try:
            end.do_handshake()
        except ssl.SSLWantReadError:
            pass
    print(ends[0].version(), end=" ")
`;
    assertEquals(await run("python3", "-c", strict), "TLSv1.3 ".repeat(4));
  },
});

Deno.test({
  name: "TLS with a certificate as the only root: each of its names works, and no other",
  ignore: !mayConnect,
  async fn() {
    const names = ["localhost", "127.0.0.1", "a.example.test"];
    const { cert, key } = await makeCertificate(["localhost", "127.0.0.1", "*.example.test"]);
    const other = await makeCertificate(names);
    using listener = Deno.listenTls({ hostname: "127.0.0.1", port: 0, cert, key });
    const { port } = listener.addr;
    const attempt = async (hostname: string, root = cert): Promise<string> => {
      const tcp = await Deno.connect({ hostname: "127.0.0.1", port });
      using server = await listener.accept();
      const answered = server.write(new TextEncoder().encode("in")).catch(() => {});
      try {
        using client = await Deno.startTls(tcp, { hostname, caCerts: [root] });
        const buffer = new Uint8Array(10);
        const n = await client.read(buffer) ?? 0;
        return new TextDecoder().decode(buffer.subarray(0, n));
      } finally {
        await answered;
      }
    };
    for (const name of names) assertEquals(await attempt(name), "in", name);
    for (const name of ["example.test", "127.0.0.2", "localhost.test", "a.b.example.test"]) {
      await assertRejects(() => attempt(name), Deno.errors.InvalidData, "certificate");
    }
    await assertRejects(() => attempt("localhost", other.cert), Deno.errors.InvalidData);
  },
});

Deno.test({
  name: "a certificate goes to listen and connect as it is",
  ignore: !mayConnect,
  async fn() {
    const { cert, key } = await makeCertificate(["127.0.0.1"]);
    using listener = await listen({ host: "127.0.0.1", port: 0, cert, key });
    const { port } = listener.addr as Deno.NetAddr;
    const accepted = listener.accept();
    const tls = { tls: true, ca: cert, timeout: 5000 };
    const connected = connect({ host: "127.0.0.1", port, ...tls });
    using server = new FramedConn(await accepted);
    const answered = server.writeLine("in");
    using client = new FramedConn(await connected);
    assertEquals(await client.readLine(), "in");
    await answered;
  },
});
