import { assert, assertEquals, assertMatch, assertThrows } from "@std/assert";
import { UsageError } from "../../lib/address.ts";
import { makeCertificate } from "../../lib/certificate.ts";
import { readName, writePair } from "../../scripts/certificate.ts";
import {
  command,
  mayRun,
  missing,
  Program,
  type Result,
  run,
  temporaryFolder,
} from "../helpers.ts";

/** What a program prints that must succeed. */
async function output(...argv: string[]): Promise<string> {
  const { code, stdout, stderr } = await new Deno.Command(argv[0], { args: argv.slice(1) })
    .output();
  assertEquals(code, 0, `${argv.join(" ")}: ${new TextDecoder().decode(stderr)}`);
  return new TextDecoder().decode(stdout);
}

/** The key of a certificate is the one beside it. */
async function assertPair(folder: string): Promise<void> {
  const certified = await output(
    ...["openssl", "x509", "-in", `${folder}/cert.pem`, "-noout", "-pubkey"],
  );
  assertEquals(
    await output("openssl", "pkey", "-in", `${folder}/key.pem`, "-pubout"),
    certified,
  );
}

/** What is in a folder, by name. */
const list = (folder: string) => [...Deno.readDirSync(folder)].map(({ name }) => name).sort();

function assertSays({ code, stdout, stderr }: Result, line: RegExp): void {
  assertEquals([code, stdout], [1, ""], stderr);
  assertMatch(stderr, line);
}

Deno.test("a certificate's name is a DNS name or an IP address", () => {
  const long = `${"a".repeat(63)}.`.repeat(3) + "a".repeat(61);
  for (
    const name of [
      ...["localhost", "a", "*.example.test", "xn--mnchen-3ya.de", "a-b.1.Test", long],
      ...["127.0.0.1", "::1", "fe80::1", "0:0:0:0:0:0:0:1", "::ffff:192.0.2.1"],
    ]
  ) assertEquals(readName(name), name);
  for (
    const text of [
      ...["", " ", "a b", "a..b", ".a", "a.", "-a", "a-", "a_b", "é.test", `a${long}`],
      ...["*", "*.", "*a.test", "a.*.test", "*.*.test", "a.test:80", "a@b", "http://a.test"],
      ...["127.0.0.256", "1.2.3", "a.1", "[::1]", "::1]:80/", ":::", "fe80::1%lo", "a".repeat(64)],
    ]
  ) assertThrows(() => readName(text), UsageError, "neither a DNS name nor an IP address");
});

Deno.test({
  name: "certificate makes what openssl takes for a server's certificate and its key",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const names = [
      "example.test",
      "*.example.test",
      "192.0.2.1",
      "2001:db8::1",
      "::ffff:192.0.2.9",
    ];
    const flags = names.flatMap((name) => ["--name", name]);
    const { code, stdout, stderr } = await run("certificate", ["--out", folder.path, ...flags]);
    assertEquals(code, 0, stderr);
    assertMatch(stderr, /^certificate: .*\/cert\.pem and key\.pem are for example\.test, .*\n$/);
    assertEquals(list(folder.path), ["cert.pem", "key.pem"]);

    const cert = `${folder.path}/cert.pem`;
    const x509 = (...args: string[]) => output("openssl", "x509", "-in", cert, "-noout", ...args);
    assertEquals(await x509("-fingerprint", "-sha256"), `sha256 Fingerprint=${stdout}`);
    const text = await x509("-text");
    assertMatch(text, /Subject: CN = example\.test\n/);
    assertMatch(text, /Issuer: CN = example\.test\n/);
    assertMatch(text, /NIST CURVE: P-256\n/);
    assertMatch(text, /Basic Constraints: critical\n\s+CA:FALSE\n/);
    const sans = /Subject Alternative Name: \n\s+(.*)\n/.exec(text)?.[1].split(", ");
    assertEquals(sans, [
      ...["DNS:example.test", "DNS:*.example.test", "IP Address:192.0.2.1"],
      ...["IP Address:2001:DB8:0:0:0:0:0:1", "IP Address:0:0:0:0:0:FFFF:C000:209"],
    ]);
    const verify = (...args: string[]) =>
      output("openssl", "verify", "-CAfile", cert, ...args, cert);
    const server = ["-purpose", "sslserver", "-x509_strict", "-check_ss_sig"];
    for (const name of ["example.test", "a.example.test"]) {
      await verify(...server, "-verify_hostname", name);
    }
    for (const address of ["192.0.2.1", "2001:db8::1"]) await verify("-verify_ip", address);
    await assertPair(folder.path);
  },
});

Deno.test({
  name: "certificate is for this machine unless told otherwise, and where it stands",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const { code, stdout, stderr } = await run("certificate", [], { cwd: folder.path });
    assertEquals([code, stderr], [
      0,
      "certificate: cert.pem and key.pem are for localhost, 127.0.0.1, ::1\n",
    ]);
    assertMatch(stdout, /^([\dA-F]{2}:){31}[\dA-F]{2}\n$/);
    await assertPair(folder.path);
  },
});

Deno.test({
  name: "certificate keeps the key to its owner, even if the umask does not",
  ignore: !mayRun || Deno.build.os === "windows",
  async fn() {
    await using folder = await temporaryFolder();
    const argv = [...command("certificate"), "--out", folder.path];
    await using program = new Program(["sh", "-c", 'umask 0; exec "$@"', "sh", ...argv]);
    assertEquals((await program.ended()).code, 0, program.stderr);
    const mode = (file: string) => (Deno.statSync(`${folder.path}/${file}`).mode ?? 0) & 0o777;
    assertEquals([mode("key.pem"), mode("cert.pem")], [0o600, 0o666]);
  },
});

Deno.test({
  name: "certificate replaces nothing without --force, and with it both",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const certificate = (...args: string[]) => run("certificate", ["--out", folder.path, ...args]);
    for (const file of ["cert.pem", "key.pem"]) {
      await Deno.writeTextFile(`${folder.path}/${file}`, "mine");
      assertSays(
        await certificate(),
        new RegExp(`^certificate: .*/${file}: file exists \\(--force replaces both\\)\n$`),
      );
      assertEquals(list(folder.path), [file]);
      assertEquals(await Deno.readTextFile(`${folder.path}/${file}`), "mine");
      await Deno.remove(`${folder.path}/${file}`);
    }
    await certificate();
    const before = await Deno.readTextFile(`${folder.path}/cert.pem`);
    assertEquals((await certificate("--force")).code, 0);
    assert(await Deno.readTextFile(`${folder.path}/cert.pem`) !== before);
    assertEquals(list(folder.path), ["cert.pem", "key.pem"]);
    await assertPair(folder.path);
  },
});

Deno.test({
  name: "of many certificates made at once one is written, and its key",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const pairs = await Promise.all(Array.from({ length: 16 }, () => makeCertificate(["a.test"])));
    const done = await Promise.allSettled(pairs.map((pair) => writePair(folder.path, pair)));
    assertEquals(done.filter(({ status }) => status === "fulfilled").length, 1);
    for (const one of done) {
      if (one.status === "rejected") assert(one.reason instanceof Deno.errors.AlreadyExists);
    }
    assertEquals(list(folder.path), ["cert.pem", "key.pem"]);
    await assertPair(folder.path);
  },
});

Deno.test({
  name: "certificate says which folder it cannot write to, and leaves nothing there",
  ignore: missing("setpriv"),
  async fn() {
    await using folder = await temporaryFolder();
    const [file, closed] = [`${folder.path}/file`, `${folder.path}/closed`];
    await Deno.writeTextFile(file, "");
    await Deno.mkdir(closed, { mode: 0o500 });
    // Root may write anywhere but for this.
    const capabilities = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"];
    const bound = Deno.uid() === 0 ? capabilities : [];
    for (
      const [out, says] of [
        [`${folder.path}/none`, /^certificate: .*\/none: no such file or directory\n$/],
        [file, /^certificate: .*\/file: not a directory\n$/],
        [closed, /^certificate: .*\/closed\/key\.pem: permission denied\n$/],
      ] as const
    ) {
      await using program = new Program([...bound, ...command("certificate"), "--out", out]);
      assertSays(await program.ended(), says);
    }
    assertEquals([list(folder.path), list(closed)], [["closed", "file"], []]);
  },
});

Deno.test({
  name: "certificate says so if it has replaced one file only",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    await Deno.mkdir(`${folder.path}/cert.pem`);
    assertSays(
      await run("certificate", ["--out", folder.path, "--force"]),
      /^certificate: .*\/cert\.pem: is a directory; .*\/key\.pem is replaced, and does not go with it\n$/,
    );
    assertEquals(list(folder.path), ["cert.pem", "key.pem"]);
  },
});
