import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { missing, Program, type Result, run, start, temporaryFolder } from "../helpers.ts";
import { DAYTIME, finish, output, python } from "./peers.ts";

const HOST = "127.0.0.1";
const READ = ["--allow-read"];
const NAMES = "DNS:localhost,IP:127.0.0.1";
const DAY = 24 * 60 * 60 * 1000; // milliseconds

/** A certificate to make. */
type Wanted = {
  by?: string; // the issuer's name; none: itself
  names?: string; // none: it is an issuer's
  rsa?: boolean;
  days?: [from: number, to: number]; // from now
  config?: string; // lines for openssl's, in place of `names`
};

/** Makes certificates with openssl, `NAME.pem` and `NAME.key`, in a folder. */
class Authority {
  constructor(readonly folder: string) {
    Deno.writeTextFileSync(`${folder}/index`, "");
    // The dates are what `openssl req` cannot set.
    Deno.writeTextFileSync(
      `${folder}/ca.conf`,
      `[ca]\ndefault_ca = own\n[own]\ndatabase = ${folder}/index\nnew_certs_dir = ${folder}\n` +
        "rand_serial = yes\ndefault_md = sha256\npolicy = any\nunique_subject = no\n" +
        "copy_extensions = copy\n[any]\ncommonName = supplied\n",
    );
  }

  path(file: string): string {
    return `${this.folder}/${file}`;
  }

  async make(name: string, { by, names, rsa, days = [-1, 2], config }: Wanted): Promise<void> {
    const [cert, key, request] = ["pem", "key", "csr"].map((end) => this.path(`${name}.${end}`));
    const conf = this.path(`${name}.conf`);
    await Deno.writeTextFile(
      conf,
      `[req]\nprompt = no\ndistinguished_name = who\nreq_extensions = more\n[who]\nCN = ${name}\n` +
        `[more]\nbasicConstraints = critical, CA:${names || config ? "FALSE" : "TRUE"}\n` +
        (config ?? (names ? `subjectAltName = ${names}\n` : "")),
    );
    const kind = rsa ? ["rsa:2048"] : ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
    await output([
      ...["openssl", "req", "-new", "-nodes", "-config", conf, "-newkey", ...kind],
      ...["-keyout", key, "-out", request],
    ]);
    const [from, to] = days.map((days) =>
      new Date(Date.now() + days * DAY).toISOString().replaceAll(/[-:T]|\..*Z/g, "") + "Z"
    );
    const signer = by
      ? ["-cert", this.path(`${by}.pem`), "-keyfile", this.path(`${by}.key`)]
      : ["-selfsign", "-keyfile", key];
    await output([
      ...["openssl", "ca", "-batch", "-notext", "-config", this.path("ca.conf"), ...signer],
      ...["-startdate", from, "-enddate", to, "-in", request, "-out", cert],
    ]);
  }

  /** Starts a server that sends back each line from its end to its start; with its port. */
  async serve(name: string, ...flags: string[]): Promise<{ server: Program; port: string }> {
    const files = ["-cert", this.path(`${name}.pem`), "-key", this.path(`${name}.key`)];
    const server = new Program([
      ...["openssl", "s_server", "-accept", `${HOST}:0`, "-rev", ...files, ...flags],
    ]);
    const [, port] = await server.until(/ACCEPT 127\.0\.0\.1:(\d+)/);
    return { server, port };
  }

  /** Runs our client, which trusts `ca`. */
  async client(port: string, ca: string | undefined, host = HOST): Promise<Result> {
    const trusting = ca ? ["--ca", this.path(`${ca}.pem`)] : [];
    const flags = ["--host", host, "--port", port, ...trusting];
    return await run("tls_client", flags, { stdin: "hello\n", permissions: READ });
  }
}

/** What the client said of the connection. */
function facts({ stderr }: Result): Record<string, string> {
  return Object.fromEntries(stderr.trimEnd().split("\n").map((line) => line.split(/ +(.*)/)));
}

/** Starts our server with a certificate of its own making, and writes that to `ca`. */
async function startServer(ca: string): Promise<{ server: Program; port: number }> {
  const server = start("tls_server", ["--port", "0"]);
  const port = await server.port();
  await Deno.writeTextFile(ca, server.stdout);
  return { server, port };
}

Deno.test({
  name: "openssl s_client talks to tls_server by TLS 1.2 and 1.3, and verifies it",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const ca = `${folder.path}/ca.pem`;
    const { server, port } = await startServer(ca);
    await using _ = server;
    const client = (...flags: string[]) => [
      ...["openssl", "s_client", "-connect", `${HOST}:${port}`, "-CAfile", ca],
      ...["-verify_return_error", ...flags],
    ];
    for (const [flag, version] of [["-tls1_2", "TLSv1.2"], ["-tls1_3", "TLSv1.3"]]) {
      for (const name of [["-verify_hostname", "localhost"], ["-verify_ip", HOST]]) {
        await using peer = new Program(client(flag, ...name));
        await peer.type("hello\n");
        await peer.until(/^HELLO\r?$/m);
        assertStringIncludes(peer.stdout, `New, ${version}, Cipher is `);
        assertStringIncludes(peer.stdout, "Verification: OK");
        await peer.type("Q\n"); // s_client's own, for the end
        assertEquals((await peer.ended()).code, 0);
      }
    }
    const wrong = await finish(client("-verify_hostname", "elsewhere.test"));
    assertEquals(wrong.code, 1);
    assertMatch(wrong.stderr, /hostname mismatch/);
    const old = await finish(client("-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"));
    assertEquals(old.code, 1);
    // Those who ended well are not in the log.
    server.signal("SIGINT");
    const { code, stderr } = await server.ended();
    const said = stderr.split("\n").filter((line) => /^tls_server: 127/.test(line));
    assertEquals([code, said.length], [0, 2], stderr);
  },
});

Deno.test({
  name: "tls_client talks to openssl s_server by TLS 1.2 and 1.3, EC, RSA and over an intermediate",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const pki = new Authority(folder.path);
    await pki.make("Root", {});
    await pki.make("RSA Root", { rsa: true });
    await pki.make("Middle", { by: "Root" });
    await pki.make("ec", { by: "Root", names: NAMES });
    await pki.make("rsa", { by: "RSA Root", names: NAMES, rsa: true });
    await pki.make("leaf", { by: "Middle", names: `${NAMES},DNS:*.example.test` });
    for (
      const [name, root, issuer, chain] of [
        ["ec", "Root", "Root", []],
        ["rsa", "RSA Root", "RSA Root", []],
        ["leaf", "Root", "Middle", ["-cert_chain", pki.path("Middle.pem")]],
      ] as const
    ) {
      for (const [flag, version] of [["-tls1_2", "TLSv1.2"], ["-tls1_3", "TLSv1.3"]]) {
        const { server, port } = await pki.serve(name, flag, ...chain);
        await using _ = server;
        const result = await pki.client(port, root);
        assertEquals([result.code, result.stdout], [0, "olleh\n"], result.stderr);
        const said = facts(result);
        const x509 = (...args: string[]) =>
          output(["openssl", "x509", "-noout", "-in", pki.path(`${name}.pem`), ...args]);
        assertEquals(
          `sha256 Fingerprint=${said["SHA-256"]}\n`,
          await x509("-fingerprint", "-sha256"),
        );
        const [from, to] = said.valid.split(" to ");
        assertEquals(`notBefore=${from}\nnotAfter=${to}\n`, await x509("-dates"));
        assertEquals([said.version, said.subject, said.issuer, said.ALPN], [
          ...[version, `CN=${name}`, `CN=${issuer}`, "none"],
        ]);
        assertStringIncludes(said.names, "DNS:localhost, IP Address:127.0.0.1");
        const key = name === "rsa" ? "RSA" : "ECDSA";
        const cipher = version === "TLSv1.3" ? /^TLS_/ : new RegExp(`^ECDHE-${key}-`);
        assertMatch(said.cipher, cipher);
      }
    }
  },
});

Deno.test({
  name: "tls_client refuses each certificate that is not good, and says why",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const pki = new Authority(folder.path);
    const names = NAMES;
    await pki.make("Root", {});
    await pki.make("Other Root", {});
    await pki.make("Middle", { by: "Root" });
    await pki.make("elsewhere", { by: "Root", names: "DNS:elsewhere.test,IP:192.0.2.1" });
    await pki.make("localhost", { by: "Root", config: "keyUsage = digitalSignature\n" });
    const joined = '[alt]\nDNS.1 = "elsewhere.test, DNS:localhost"\n';
    await pki.make("joined", { by: "Root", config: `subjectAltName = @alt\n${joined}` });
    await pki.make("expired", { by: "Root", names, days: [-30, -1] });
    await pki.make("early", { by: "Root", names, days: [1, 30] });
    await pki.make("good", { by: "Root", names });
    await pki.make("stranger", { by: "Other Root", names });
    await pki.make("self", { names });
    await pki.make("orphan", { by: "Middle", names });
    await pki.make("by good", { by: "good", names });
    const client = `subjectAltName = ${names}\nextendedKeyUsage = clientAuth\n`;
    await pki.make("a client", { by: "Root", config: client });
    // A root that only has the name of the one that is trusted.
    await Deno.mkdir(pki.path("forger"));
    const forger = new Authority(pki.path("forger"));
    await forger.make("Root", {});
    await forger.make("forged", { by: "Root", names });
    for (const end of ["pem", "key"]) {
      await Deno.copyFile(forger.path(`forged.${end}`), pki.path(`forged.${end}`));
    }

    const date = "\\w+ +\\d+ [\\d:]{8} \\d{4} GMT";
    const unknown = (issued: string) =>
      `the certificate is ${issued}, and no trusted root vouches for it \\(--ca FILE names one\\)`;
    for (
      const [name, ca, says, ...flags] of [
        [
          ...["elsewhere", "Root"],
          "the certificate is for DNS:elsewhere\\.test, IP Address:192\\.0\\.2\\.1, not for localhost",
        ],
        ["localhost", "Root", "the certificate is for no name, not for localhost"],
        ["joined", "Root", "the certificate is for .*, not for localhost"],
        ["expired", "Root", `the certificate expired on ${date}`],
        ["early", "Root", `the certificate is not valid before ${date}`],
        ["good", undefined, unknown("issued by CN=Root")],
        ["stranger", "Root", unknown("issued by CN=Other Root")],
        ["forged", "Root", unknown("issued by CN=Root")],
        ["self", undefined, unknown("self-signed")],
        ["self", "Root", unknown("self-signed")],
        ["orphan", "Root", unknown("issued by CN=Middle")],
        ["by good", "Root", unknown("issued by CN=good"), "-cert_chain", pki.path("good.pem")],
        ["a client", "Root", unknown("issued by CN=Root")],
      ] as [name: string, ca: string | undefined, says: string, ...flags: string[]][]
    ) {
      const { server, port } = await pki.serve(name, ...flags);
      await using _ = server;
      const { code, stdout, stderr } = await pki.client(port, ca, "localhost");
      assertEquals([code, stdout], [1, ""], `${name}: ${stderr}`);
      assertMatch(stderr, new RegExp(`^tls_client: localhost:${port}: ${says}\n$`), name);
    }
    // The last of them is what a good one is not refused for.
    const { server, port } = await pki.serve("good");
    await using _ = server;
    assertEquals((await pki.client(port, "Root", "localhost")).stdout, "olleh\n");
  },
});

Deno.test({
  name: "Python's ssl and ours, either's client with either's server",
  ignore: missing("python3", "openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const pki = new Authority(folder.path);
    await pki.make("Root", {});
    await pki.make("python", { by: "Root", names: NAMES });
    const { server: ours, port } = await startServer(pki.path("ours.pem"));
    await using _ = ours;
    for (const version of ["TLSv1_2", "TLSv1_3"]) {
      const shown = version.replace("_", ".");
      const ask = (ca: string, host: string) =>
        output(python("tls_peer.py", "ask", port, pki.path(ca), host, version, "hello", "grüße"));
      for (const host of [HOST, "localhost"]) {
        assertEquals(await ask("ours.pem", host), `${shown} localhost\nHELLO\nGRÜSSE\n`);
      }
      assertMatch(await ask("ours.pem", "elsewhere.test"), /^Hostname mismatch/);
      assertMatch(await ask("Root.pem", "localhost"), /^self-signed certificate/);

      const files = [pki.path("python.pem"), pki.path("python.key")];
      await using theirs = new Program(python("tls_peer.py", "serve", ...files, version));
      const result = await pki.client(`${await theirs.port()}`, "Root");
      assertEquals([result.code, result.stdout], [0, "HELLO\n"], result.stderr);
      assertEquals([facts(result).version, facts(result).subject], [shown, "CN=python"]);
      await theirs.until(/^ended$/m); // that our client said its end, too
    }
  },
});

Deno.test({
  name: "what certificate.ts makes serves daytime, to our client and to openssl's",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const { code } = await run("certificate", ["--out", folder.path]);
    assertEquals(code, 0);
    const [cert, key] = [`${folder.path}/cert.pem`, `${folder.path}/key.pem`];
    const flags = ["--port", "0", "--cert", cert, "--key", key];
    await using server = start("daytime_server", flags, READ);
    const port = `${await server.port()}`;
    for (const host of [HOST, "localhost"]) {
      const client = await run(
        "daytime_client",
        ["--tls", "--ca", cert, "--host", host, "--port", port],
        { permissions: READ },
      );
      assertEquals([client.code, client.stderr], [0, ""]);
      assertMatch(client.stdout, DAYTIME);
    }
    const peer = ["openssl", "s_client", "-quiet", "-connect", `localhost:${port}`];
    const verify = ["-CAfile", cert, "-verify_return_error", "-verify_hostname", "localhost"];
    assertMatch(await output([...peer, ...verify]), DAYTIME);
  },
});
