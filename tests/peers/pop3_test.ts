import { assert, assertEquals, assertMatch } from "@std/assert";
import { Maildir } from "../../lib/maildir.ts";
import { command, missing, Program, type Result, temporaryFolder } from "../helpers.ts";
import { latin1, octets } from "../lib/wire.ts";
import { FILES } from "../scripts/rig.ts";
import { startDovecot } from "./dovecot.ts";
import { certificates, finish, output, python } from "./peers.ts";

const [USER, PASSWORD] = ["mail", "se-cret"];
const MESSAGES = [
  "From: Ann <ann@example.org>\r\nSubject: one\r\n\r\n.\r\n..two dots\r\n\r\n.\r\nend\r\n",
  "Subject: no body\r\n\r\n",
  "Subject: octets\r\n\r\n\xff\xe4\x80\r\n" + `${"x".repeat(76)}\r\n`.repeat(3000),
  "Subject: long\r\n\r\n" + "y".repeat(998) + "\r\n",
];

/** Starts our server at the Maildir `mail` of a folder, with `messages`. */
async function startOurs(
  folder: string,
  messages: string[],
  flags: string[] = [],
): Promise<{ server: Program; port: number; maildir: Maildir }> {
  const maildir = await fill(`${folder}/mail`, messages);
  const argv = [...command("pop3_server"), "--port", "0", "--user", USER, maildir.path, ...flags];
  const server = new Program(argv, { env: { MAIL_PASSWORD: PASSWORD } });
  return { server, port: await server.port(), maildir };
}

async function fill(path: string, messages: string[]): Promise<Maildir> {
  const maildir = await Maildir.open(path);
  for (const message of messages) await maildir.deliver(octets(message));
  return maildir;
}

async function texts(maildir: Maildir): Promise<string[]> {
  const messages = await maildir.list();
  return await Promise.all(messages.map(async (m) => latin1(await maildir.read(m))));
}

Deno.test({
  name: "poplib has the same of pop3_server as of dovecot, by every command",
  ignore: missing("python3", "dovecot"),
  async fn() {
    await using folder = await temporaryFolder();
    const { server, port, maildir } = await startOurs(folder.path, MESSAGES);
    await using _server = server;
    const options = { user: USER, password: PASSWORD };
    await using dovecot = await startDovecot(folder.path, options);
    await fill(dovecot.maildir, MESSAGES);
    const ask = (port: number) => output(python("pop3.py", port, USER, PASSWORD));
    const ours = await ask(port);
    assertEquals(ours, await ask(dovecot.pop3));
    assertMatch(ours, /^stat \(4, \d+\)\n/);
    assertEquals(await texts(maildir), MESSAGES.slice(1));
  },
});

Deno.test({
  name: "poplib and curl reach pop3_server over TLS",
  ignore: missing("python3", "curl", "openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const { ca, cert, key } = await certificates(folder.path);
    const tls = ["--cert", cert, "--key", key];
    const { server, port } = await startOurs(folder.path, MESSAGES, tls);
    await using _server = server;
    const said = await output(python("pop3.py", port, USER, PASSWORD, ca));
    assertMatch(said, /\nlist \(\[b'1 20', .*\nquit ok\n$/);
    const url = `pop3s://127.0.0.1:${port}/1`;
    assertEquals(
      await output(["curl", "-sS", "-u", `${USER}:${PASSWORD}`, "--cacert", ca, url]),
      MESSAGES[1],
    );
  },
});

Deno.test({
  name: "curl lists, reads, looks and deletes at pop3_server",
  ignore: missing("curl"),
  async fn() {
    await using folder = await temporaryFolder();
    const { server, port, maildir } = await startOurs(folder.path, MESSAGES.slice(0, 2));
    await using _server = server;
    const curl = (path: string, ...args: string[]) => {
      const login = ["-sS", "-m", "10", "-u", `${USER}:${PASSWORD}`];
      return output(["curl", ...login, ...args, `pop3://127.0.0.1:${port}/${path}`]);
    };
    const [one, two] = (await maildir.list()).map(({ name }) => name.split(",S=")[0]);
    assertEquals(await curl(""), "1 70\r\n2 20\r\n");
    assertEquals(await curl("1"), MESSAGES[0]);
    assertEquals(await curl("", "-X", "UIDL"), `1 ${one}\r\n2 ${two}\r\n`);
    assertEquals(await curl("", "-X", "TOP 1 0"), MESSAGES[0].replace(/(?<=\r\n\r\n).*/s, ""));
    for (const command of ["STAT", "NOOP", "LIST 2", "RSET", "UIDL 1"]) {
      await curl("", "-I", "-X", command);
    }
    assertEquals((await texts(maildir)).length, 2);
    await curl("1", "-I", "-X", "DELE"); // curl says QUIT
    assertEquals(await texts(maildir), [MESSAGES[1]]);
    const wrong = await finish(["curl", "-sS", "-u", "mail:x", `pop3://127.0.0.1:${port}/1`]);
    assertEquals([wrong.code, wrong.stdout], [67, ""]); // "login denied"
  },
});

Deno.test({
  name: "fetchmail takes each message of pop3_server once",
  ignore: missing("fetchmail"),
  async fn() {
    await using folder = await temporaryFolder();
    const { server, port, maildir } = await startOurs(folder.path, MESSAGES);
    await using _server = server;
    const config = `${folder.path}/fetchmailrc`;
    const fetch = async (keep: string) => {
      const taken = `${folder.path}/taken`;
      await Deno.writeFile(
        config,
        octets(
          `poll 127.0.0.1 protocol POP3 port ${port} uidl username ${USER} password ${PASSWORD} ` +
            `sslproto '' no rewrite ${keep} mda "cat >> ${taken}"`,
        ),
        { mode: 0o600 },
      );
      const env = { HOME: folder.path, FETCHMAILHOME: folder.path };
      await using program = new Program(["fetchmail", "-f", config, "--invisible"], { env });
      const { code, stderr } = await program.ended();
      const octetsTaken = await Deno.readFile(taken).catch(() => new Uint8Array());
      await Deno.remove(taken).catch(() => {});
      return { code, stderr, taken: latin1(octetsTaken) };
    };
    const expected = MESSAGES.join("").replaceAll("\r\n", "\n");
    const first = await fetch("keep");
    assertEquals([first.code, first.taken], [0, expected], first.stderr);
    await maildir.deliver(octets("Subject: five\r\n\r\n"));
    const second = await fetch("keep");
    assertEquals([second.code, second.taken], [0, "Subject: five\n\n"], second.stderr);
    assertEquals((await texts(maildir)).length, 5);
    const third = await fetch("fetchall no keep");
    assertEquals([third.code, third.taken], [0, `${expected}Subject: five\n\n`], third.stderr);
    assertEquals(await texts(maildir), []);
  },
});

Deno.test({
  name: "pop3_client lists, gets and deletes at dovecot, by APOP, and over TLS by PASS",
  ignore: missing("dovecot", "openssl"),
  async fn() {
    for (const mechanisms of ["plain apop", "plain"]) {
      await using folder = await temporaryFolder();
      const { ca, cert, key } = await certificates(folder.path);
      const options = { user: USER, password: PASSWORD, cert, key, mechanisms };
      await using dovecot = await startDovecot(folder.path, options);
      const maildir = await fill(dovecot.maildir, MESSAGES);
      const apop = mechanisms.includes("apop");
      const at = apop
        ? ["--port", `${dovecot.pop3}`]
        : ["--port", `${dovecot.pop3s}`, "--tls", "--ca", ca];
      const client = async (args: string[], password = PASSWORD): Promise<Result> => {
        const env = { MAIL_PASSWORD: password };
        const argv = [...command("pop3_client", FILES), "--user", USER, ...at, ...args];
        await using program = new Program(argv, { env });
        await program.endInput();
        return await program.ended();
      };
      const list = await client(["list"]);
      assertEquals([list.code, list.stderr], [0, ""]);
      assertMatch(list.stdout, /^ +1 +70 B +Ann +one\n +2 +20 B +no body\n/);
      assertEquals(list.stdout.split("\n").length, 5);
      assertEquals((await client(["get", "1"])).stdout, MESSAGES[0]);
      assertEquals((await client(["get", "4"])).stdout, MESSAGES[3]);
      const none = await client(["delete", "9"]);
      assertEquals([none.code, none.stdout], [1, ""]);
      assertMatch(none.stderr, /: the server says: /);
      const wrong = await client(["list"], "x");
      assertEquals([wrong.code, wrong.stdout], [1, ""]);
      assertMatch(wrong.stderr, /: the server says: \[AUTH\] Authentication failed\.\n$/);
      const { stderr } = await client(["--trace", "delete", "1"]);
      assertMatch(stderr, apop ? /> \S+ APOP mail \*\*\*/ : /> \S+ PASS \*\*\*/);
      assertMatch(stderr, /\npop3_client: deleted 1\n$/);
      assertEquals(await texts(maildir), MESSAGES.slice(1));
      assert(!/error|panic|fatal/i.test(dovecot.log()), dovecot.log());
    }
  },
});
