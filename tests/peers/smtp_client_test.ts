import { assertEquals, assertMatch, assertRejects } from "@std/assert";
import { decodeBase64 } from "@std/encoding/base64";
import { connect, type Endpoint } from "../../lib/address.ts";
import { FramedConn } from "../../lib/framing.ts";
import { examine, SmtpConnection } from "../../scripts/smtp_client.ts";
import { command, missing, Program, type Result, temporaryFolder } from "../helpers.ts";
import { latin1, octets, random } from "../lib/wire.ts";
import { FILES } from "../scripts/rig.ts";
import { certificates, eventually, here, isolate, mayIsolate, output } from "./peers.ts";

const NAME = "smtp_client";
const LETTER = "Subject: hello\n\nHello, Bob.\n.a dot\n.\n..\nno end";
const RECEIVED = LETTER.replaceAll("\n", "\r\n") + "\r\n";

/** Runs our client with a message on stdin. */
async function send(args: string[], message = LETTER, password = ""): Promise<Result> {
  const permissions = [...FILES, "--allow-env=SMTP_PASSWORD"];
  const env = { SMTP_PASSWORD: password };
  await using program = new Program([...command(NAME, permissions), ...args], { env });
  await program.type(message);
  await program.endInput();
  return await program.ended();
}

/** What a server of aiosmtpd prints of a message. */
type Delivery = {
  name: string;
  tls: boolean;
  authenticated: boolean;
  from: string;
  options: string[];
  to: string[];
  data: string;
};

/** A server of aiosmtpd (see smtp_client.py), with what it got so far. */
class Aiosmtpd extends Program {
  constructor(host: string, form: string, folder: string, ...mechanisms: string[]) {
    const files = [`${folder}/cert.pem`, `${folder}/cert.key`];
    // Debian's own Python, for which the package is.
    const python = ["/usr/bin/python3", "-u", here("smtp_client.py")];
    super([...python, "serve", host, form, ...files, ...mechanisms]);
  }

  get deliveries(): Delivery[] {
    return this.stdout.split("\n").slice(0, -1).map((line) => JSON.parse(line));
  }
}

const data = (delivery: Delivery) => latin1(decodeBase64(delivery.data));

Deno.test({
  name: "smtp_client sends to aiosmtpd in each form, and names whom it refuses",
  ignore: missing("aiosmtpd", "openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const { ca } = await certificates(folder.path);
    const socket = `${folder.path}/socket`;
    for (
      const [host, form, flags] of [
        ["127.0.0.1", "plain", []],
        ["::1", "plain", ["--host", "::1"]],
        [socket, "plain", ["--unix", socket]],
        ["127.0.0.1", "tls", ["--tls", "--ca", ca]],
        ["127.0.0.1", "starttls", ["--starttls", "--ca", ca]],
      ] as const
    ) {
      await using server = new Aiosmtpd(host, form, folder.path);
      const [, port] = await server.until(/listening on .*?:(\d+|\/.*)\n/, "stderr");
      const at = host === socket ? [] : ["--port", port];
      const to = ["--to", "bob@example.org", "--to", "nobody@example.org", "--to", "carl@[::1]"];
      assertEquals(await send([...at, ...flags, "--from", "ann@example.org", ...to]), {
        code: 1,
        stdout: "",
        stderr: `smtp_client: nobody@example.org: 550 5.1.1 no such mailbox
smtp_client: accepted for 2 of 3: 250 2.0.0 kept\n`,
      }, form);
      const [delivery] = server.deliveries;
      assertEquals({ ...delivery, data: data(delivery) }, {
        name: { "::1": "[IPv6:::1]", [socket]: "localhost" }[host] ?? "[127.0.0.1]",
        tls: form === "starttls",
        authenticated: false,
        from: "ann@example.org",
        options: [`SIZE=${RECEIVED.length}`],
        to: ["bob@example.org", "carl@[::1]"],
        data: RECEIVED,
      }, `${host} ${form}`);
    }
  },
});

Deno.test({
  name: "smtp_client logs in at aiosmtpd, over TLS or to loopback",
  ignore: missing("aiosmtpd", "openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const { ca } = await certificates(folder.path);
    const to = ["--from", "<>", "--to", "bob@example.org", "--trace"];
    const secrets = /s.cret|c8OpY3JldA|AGFubg|YW5u/; // as it is and in base64, the name as well
    for (
      const [form, flags, ...mechanisms] of [
        ["plain", [], "PLAIN"],
        ["plain", [], "LOGIN"],
        ["tls", ["--tls", "--ca", ca], "LOGIN", "PLAIN"],
        ["starttls", ["--starttls", "--ca", ca], "LOGIN"],
      ] as const
    ) {
      await using server = new Aiosmtpd("127.0.0.1", form, folder.path, ...mechanisms);
      const login = [...to, ...flags, "--port", `${await server.port()}`, "--user", "ann"];
      const { code, stderr } = await send(login, LETTER, "sécret");
      assertEquals([code, secrets.exec(stderr)], [0, null], stderr);
      assertMatch(stderr, /> \S+ AUTH (PLAIN|LOGIN)\\r\\n\n[^]*> \S+ \*\*\*\\r\\n\n/);
      const [{ authenticated, from }] = server.deliveries;
      assertEquals([authenticated, from], [true, "<>"]); // as aiosmtpd has the null reverse-path

      const wrong = await send(login, LETTER, "wrong");
      assertEquals(wrong.code, 1);
      assertMatch(wrong.stderr, /^smtp_client: 127.*: AUTH: the server says 535 5\.7\.8 .*\n/m);
      assertEquals(server.deliveries.length, 1);
    }
    await using server = new Aiosmtpd("127.0.0.1", "starttls", folder.path, "PLAIN");
    const port = `${await server.port()}`;
    const clear = await send([...to, "--port", port, "--user", "ann"], LETTER, "sécret");
    assertEquals([clear.code, secrets.exec(clear.stderr)], [1, null], clear.stderr);
    assertMatch(clear.stderr, /: the server does not offer AUTH\n$/m);
  },
});

Deno.test({
  name: "a server whom smtp_client cannot trust gets nothing after STARTTLS",
  ignore: missing("aiosmtpd", "openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const { ca } = await certificates(folder.path, "IP:127.0.0.2");
    await using server = new Aiosmtpd("127.0.0.1", "starttls", folder.path);
    const flags = ["--port", `${await server.port()}`, "--from", "a@b", "--to", "c@d", "--trace"];
    for (
      const [args, why] of [
        [["--starttls"], "no trusted root vouches for the certificate (--ca FILE names one)"],
        [["--starttls", "--ca", ca], "invalid peer certificate: "],
      ] as const
    ) {
      const { code, stderr } = await send([...flags, ...args]);
      assertEquals([code, stderr.includes(`: ${why}`)], [1, true], stderr);
      assertMatch(stderr, /> \S+ STARTTLS\\r\\n\n(< .*\n)+smtp_client: .*\n$/);
    }
  },
});

/**
 * Runs OpenSMTPD, which has fixed places for its queue and its socket, and looks names up: it gets
 * folders of its own there, and no name server. It ends with its stdin, as nobody else may kill what
 * is root's.
 */
const ISOLATED = `mount -n -t tmpfs none /run && mount -n -t tmpfs none /var/spool || exit
resolv=$(readlink -m /etc/resolv.conf) # with systemd in /run, and gone now
[ -e "$resolv" ] || { mkdir -p "\${resolv%/*}" && touch "$resolv"; } || exit
echo lookup file > /run/lookup && mount -n --bind /run/lookup "$resolv" || exit
smtpd -d -f "$1" < /dev/null & cat > /dev/null`;

/** Starts OpenSMTPD for ann and bob at mail.example, who have their Maildirs in `folder`. */
async function startOpensmtpd(folder: string): Promise<AsyncDisposable & { port: number }> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close();
  // It delivers as somebody who is not root, and who has to reach the folder.
  const user = Deno.uid() === 0 ? "nobody" : (await output(["id", "-un"])).trim();
  await Deno.mkdir(`${folder}/mail`);
  await Deno.chmod(folder, 0o711);
  await Deno.chmod(`${folder}/mail`, 0o777);
  const conf = `${folder}/smtpd.conf`;
  await Deno.writeTextFile(
    conf,
    `smtp max-message-size "100K"
listen on 127.0.0.1 port ${port} hostname mail.example
table boxes { ann@mail.example = ${user}, bob@mail.example = ${user} }
action "keep" maildir "${folder}/mail/%{rcpt.user}" virtual <boxes>
match from any for domain "mail.example" action "keep"
`,
  );
  const server = new Program([...isolate(), "sh", "-c", ISOLATED, "sh", conf]);
  try {
    await eventually("OpenSMTPD answers", async () => {
      const conn = await Deno.connect({ port }).catch(() => undefined);
      conn?.close();
      return conn !== undefined;
    });
    return {
      port,
      async [Symbol.asyncDispose]() {
        await server.endInput();
        await server.ended();
      },
    };
  } catch (error) {
    await server[Symbol.asyncDispose]();
    throw error;
  }
}

/** The only message in a mailbox. */
async function received(mailbox: string): Promise<string> {
  const files = async () => {
    const entries = await Array.fromAsync(Deno.readDir(`${mailbox}/new`)).catch(() => []);
    return entries.map(({ name }) => `${mailbox}/new/${name}`);
  };
  await eventually(`a message is in ${mailbox}`, async () => (await files()).length > 0);
  const [file] = await files();
  const text = latin1(await Deno.readFile(file));
  await Deno.remove(file);
  return text;
}

Deno.test({
  name: "smtp_client sends to OpenSMTPD, which delivers it",
  ignore: missing("smtpd", "unshare") || Deno.env.get("REQUIRE_PEERS") !== "1" && !mayIsolate(),
  async fn() {
    await using folder = await temporaryFolder();
    await using server = await startOpensmtpd(folder.path);
    const args = ["--port", `${server.port}`, "--from", "carl@example.org"];
    const [ann, bob, nobody] = ["ann", "bob", "nobody"]
      .map((name) => ["--to", `${name}@mail.example`]);
    const mail = `${folder.path}/mail`;

    const one = await send([...args, ...ann]);
    assertMatch(
      one.stderr,
      /^smtp_client: accepted for 1 of 1: 250 2\.0\.0 \w+ Message accepted for delivery\n$/,
    );
    assertEquals(one.code, 0);
    const text = await received(`${mail}/ann`);
    assertMatch(
      text,
      /^Return-Path: <carl@example\.org>\n[^]*^Received: from \[127\.0\.0\.1\] \(/m,
    );
    assertMatch(text, /^Subject: hello\n/m);
    assertEquals(text.slice(text.indexOf("\n\n")), `${LETTER.slice(LETTER.indexOf("\n\n"))}\n`);

    const header = await send([...args, ...ann], "Subject: é\n\né\n");
    assertEquals(header.code, 1);
    assertMatch(header.stderr, /ASCII, and the server does not offer SMTPUTF8\n$/);
    const both = await send([...args, ...ann, ...nobody, ...bob], "Subject: e\n\né\n");
    assertEquals(both.code, 1);
    assertMatch(
      both.stderr,
      /^smtp_client: nobody@mail\.example: 5\d\d .*\nsmtp_client: accepted for 2 of 3: 250 .*\n$/,
    );
    for (const name of ["ann", "bob"]) {
      assertMatch(await received(`${mail}/${name}`), /\n\n\xc3\xa9\n$/);
    }

    const none = await send([...args, ...nobody, "--to", "ann@elsewhere.example"]);
    assertEquals(none.code, 1);
    assertMatch(
      none.stderr,
      /^smtp_client: nobody@mail\.example: 5.*\nsmtp_client: ann@elsewhere\.example: 5.*\n$/,
    );

    const large = await send([...args, ...ann], `${"x:".padEnd(998, "x")}\n`.repeat(103));
    assertEquals(large.code, 1);
    assertMatch(
      large.stderr,
      /: the message has 103000 octets, and the server takes 102400\n$/,
    );
    const nearly = `X: y\n\n${`${".".repeat(998)}\n`.repeat(100)}`;
    const fit = await send([...args.slice(0, 2), "--from", "<>", ...bob], nearly);
    assertEquals(fit.code, 0, fit.stderr);
    const last = await received(`${mail}/bob`);
    assertMatch(last, /^Delivered-To: bob@mail\.example\n/); // without a Return-Path
    assertEquals(last.slice(last.indexOf("\n\n")), nearly.slice(nearly.indexOf("\n\n")));
  },
});

/** Connects to a mail server and says hello. */
async function open(endpoint: Partial<Endpoint>): Promise<SmtpConnection> {
  const to = { host: "127.0.0.1", port: 0, timeout: 10_000, ...endpoint };
  const smtp = new SmtpConnection(new FramedConn(await connect(to), to));
  await smtp.open();
  return smtp;
}

Deno.test({
  name: "what was learned before TLS is forgotten",
  ignore: missing("aiosmtpd", "openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const { ca } = await certificates(folder.path);
    await using server = new Aiosmtpd("127.0.0.1", "starttls", folder.path, "PLAIN");
    const smtp = await open({ port: await server.port() });
    const offers = () => ["STARTTLS", "AUTH"].map((keyword) => smtp.extensions.has(keyword));
    assertEquals(offers(), [true, false]);
    await smtp.startTls("127.0.0.1", ca);
    assertEquals(offers(), [false, true]);
    await assertRejects(() => smtp.startTls("127.0.0.1", ca), Error, "does not offer STARTTLS");
    await smtp.quit();
  },
});

Deno.test({
  name: "smtp_client announces to aiosmtpd what is not ASCII, and keeps to its SIZE",
  ignore: missing("aiosmtpd"),
  async fn() {
    await using server = new Aiosmtpd("127.0.0.1", "plain", "/nowhere");
    const port = ["--port", `${await server.port()}`];
    const options = async (from: string, to: string, message: string) => {
      assertEquals((await send([...port, "--from", from, "--to", to], message)).code, 0);
      const delivery = server.deliveries.at(-1) as Delivery;
      assertEquals([delivery.from, ...delivery.to], [from, to]);
      assertEquals(
        data(delivery),
        latin1(new TextEncoder().encode(message.replaceAll("\n", "\r\n"))),
      );
      return delivery.options;
    };
    const ascii = "Subject: x\n\nx\n";
    assertEquals(await options("a@b.example", '"a b"@c.example', ascii), ["SIZE=17"]);
    assertEquals(await options("a@b.example", "c@d.example", "Subject: x\n\né\n"), [
      "SIZE=18",
      "BODY=8BITMIME",
    ]);
    assertEquals(await options("a@b.example", "c@d.example", "Subject: é\n\nx\n"), [
      "SIZE=18",
      "BODY=8BITMIME",
      "SMTPUTF8",
    ]);
    assertEquals(await options("é@b.example", "c@d.example", ascii), ["SIZE=17", "SMTPUTF8"]);
    assertEquals(await options("a@b.example", "用@例え.example", ascii), ["SIZE=17", "SMTPUTF8"]);

    const args = [...port, "--from", "a@b", "--to", "c@d"];
    const line = "x:".padEnd(998, "x");
    assertEquals((await send(args, `${line}\n`.repeat(100))).code, 0);
    const { code, stderr } = await send(args, `${line}\n`.repeat(100) + "\n");
    assertEquals(code, 1);
    assertMatch(
      stderr,
      /^\S+ 127\S+: the message has 100002 octets, and the server takes 100000\n$/,
    );
  },
});

Deno.test({
  name: "aiosmtpd gets of smtp_client what it gets of smtplib, whatever the lines",
  ignore: missing("aiosmtpd"),
  async fn() {
    await using server = new Aiosmtpd("127.0.0.1", "plain", "/nowhere");
    const port = await server.port();
    const smtp = await open({ port });
    const next = random(25);
    const pieces = ["\n", "\r\n", ".", "..", "x", " ", "\n.\n", "\r\n.\r\n", "\n..", "\0"];
    const messages = Array.from({ length: 100 }, () => {
      return "X: y\n\n" + Array.from({ length: next(30) }, () => pieces[next(10)]).join("");
    });
    for (const message of messages) {
      await smtp.send("a@b", ["c@d"], examine(octets(message)), () => {});
    }
    await smtp.quit();
    await eventually("all have come", () => server.deliveries.length === messages.length);
    for (const [i, message] of messages.entries()) {
      const normal = message.replaceAll(/\r?\n/g, "\r\n");
      const expected = normal.endsWith("\r\n") ? normal : `${normal}\r\n`;
      const { options, ...delivery } = server.deliveries[i];
      assertEquals(data({ options, ...delivery }), expected, JSON.stringify(message));
      assertEquals(options, [`SIZE=${expected.length}`]);
    }
    // smtplib, as smtp_client's header says, for a few of them.
    const python = ["/usr/bin/python3", here("smtp_client.py"), "send", `${port}`, "a@b", "c@d"];
    for (const i of [0, 1, 2, 3]) {
      await output(python, messages[i]);
      assertEquals(server.deliveries.at(-1)?.data, server.deliveries[i].data);
    }
  },
});
