import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { UsageError } from "../../lib/address.ts";
import { LimitError } from "../../lib/framing.ts";
import { Maildir } from "../../lib/maildir.ts";
import { Pop3Connection, RefusedError } from "../../scripts/pop3_client.ts";
import { type Account, converse, top } from "../../scripts/pop3_server.ts";
import { command, mayRun, missing, Program, type Result, temporaryFolder } from "../helpers.ts";
import { latin1, octets, random, receiving, type Wire } from "../lib/wire.ts";
import { dial, eventually, hear, memory } from "../peers/peers.ts";
import { FILES, inEachForm, testServer } from "./rig.ts";

const ignore = !mayRun;
const PASSWORD = "se cret";
const LOGIN = `USER mail\r\nPASS ${PASSWORD}\r\n`;
const ONE = "Subject: one\r\n\r\n.dot\r\n..\r\nthree\r\n"; // 33 octets
const TWO = "Subject: two\r\n\r\n"; // 16

// Where it is not told to a program, that makes one.
if (mayRun) Deno.env.delete("MAIL_PASSWORD");

/** A mailbox in a temporary folder. */
type Mailbox = AsyncDisposable & Account & { path: string; left: () => Promise<string[]> };

/** Makes one with these messages. */
async function mailbox(...messages: string[]): Promise<Mailbox> {
  const folder = await temporaryFolder();
  const maildir = await Maildir.open(`${folder.path}/mail`);
  for (const message of messages) await maildir.deliver(octets(message));
  const read = async (message: Parameters<Maildir["read"]>[0]) =>
    latin1(await maildir.read(message));
  return {
    ...{ maildir, user: "mail", password: PASSWORD, path: maildir.path },
    left: async () => await Promise.all((await maildir.list()).map(read)),
    [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose](),
  };
}

/** Sends pieces to a server and no more; returns what it answers, of refusals the code only. */
async function talk(account: Account, ...pieces: string[]): Promise<string> {
  const { wire, conn } = receiving(...pieces, null);
  await converse(conn, account);
  return answers(wire);
}

function answers({ written }: Wire): string {
  const [greeting] = /^.*\r\n/.exec(written) ?? [""];
  assertMatch(greeting, /^\+OK POP3 server ready <\d+\.\d+\.[0-9a-f]{16}@localhost>\r\n$/);
  return written.slice(greeting.length).replace(/^(-ERR(?: \[\S+\])?).*\r\n/gm, "$1\r\n");
}

const MORE =
  "TOP\r\nUIDL\r\nUSER\r\nPIPELINING\r\nRESP-CODES\r\nAUTH-RESP-CODE\r\nEXPIRE NEVER\r\n";
const CAN = `+OK capabilities\r\n${MORE}.\r\n`;
const [OK, ERR, WELCOME] = ["+OK\r\n", "-ERR\r\n", "+OK\r\n+OK 2 messages\r\n"];

Deno.test({ name: "pop3_server answers each command in each state", ignore }, async () => {
  await using box = await mailbox(ONE, TWO);
  const [one, two] = (await box.maildir.list()).map(({ name }) => name.split(",S=")[0]);
  const retr = "+OK 33 octets\r\nSubject: one\r\n\r\n..dot\r\n...\r\nthree\r\n.\r\n";
  const head = "+OK its top\r\nSubject: one\r\n\r\n";
  const cases: [commands: string, answers: string][] = [
    ["QUIT\r\n", OK],
    ["QUIT\r\nNOOP\r\n", OK], // nothing behind it is read
    ["CAPA\r\ncapa\r\n", CAN + CAN],
    ["STAT\r\nNOOP\r\nRETR 1\r\n\r\nSTLS\r\nAUTH PLAIN\r\nPASS x\r\n", ERR.repeat(7)],
    [LOGIN, WELCOME],
    [`user mail\npass ${PASSWORD}\n`, WELCOME],
    [`USER mail\r\nUSER nobody\r\n${LOGIN}`, OK + OK + WELCOME],
    [`${LOGIN}STAT\r\nNOOP\r\nCAPA\r\nUSER mail\r\n`, `${WELCOME}+OK 2 49\r\n${OK}${CAN}${ERR}`],
    [`${LOGIN}LIST\r\nLIST 2\r\n`, `${WELCOME}+OK 2 messages\r\n1 33\r\n2 16\r\n.\r\n+OK 2 16\r\n`],
    [
      `${LOGIN}UIDL\r\nuidl  1 \r\n`,
      `${WELCOME}+OK 2 messages\r\n1 ${one}\r\n2 ${two}\r\n.\r\n+OK 1 ${one}\r\n`,
    ],
    [`${LOGIN}RETR 1\r\n`, WELCOME + retr],
    [`${LOGIN}TOP 1 0\r\nTOP 1 1\r\n`, `${WELCOME}${head}.\r\n${head}..dot\r\n.\r\n`],
    [
      `${LOGIN}TOP 1 99999999999999999999\r\n`,
      `${WELCOME}${retr.replace("33 octets", "its top")}`,
    ],
    ...["0", "3", "-1", "1.0", "x", "1x", "99999999999999999999", "\0", "1\0", "+1", "\xb2"]
      .flatMap((n) => ["LIST", "UIDL", "RETR", "DELE", "TOP"].map((verb) => `${verb} ${n} 1`))
      .concat("RETR", "DELE", "TOP", "TOP 1", "TOP 1 -1", "TOP 1 x", "LISTS", "\0", "NOOP\0")
      .map((line): [string, string] => [`${LOGIN}${line}\r\n`, `${WELCOME}${ERR}`]),
    [
      `${LOGIN}DELE 1\r\nDELE 1\r\nRETR 1\r\nLIST 1\r\nUIDL 1\r\nTOP 1 0\r\nSTAT\r\nLIST\r\n`,
      `${WELCOME}+OK it goes when you QUIT\r\n${
        ERR.repeat(5)
      }+OK 1 16\r\n+OK 1 messages\r\n2 16\r\n.\r\n`,
    ],
    [
      `${LOGIN}DELE 1\r\nDELE 2\r\nLIST\r\nRSET\r\nSTAT\r\nQUIT\r\n`,
      `${WELCOME}${
        "+OK it goes when you QUIT\r\n".repeat(2)
      }+OK 0 messages\r\n.\r\n+OK 2 messages\r\n+OK 2 49\r\n+OK 0 removed\r\n`,
    ],
  ];
  for (const [commands, expected] of cases) {
    assertEquals(await talk(box, commands), expected, commands);
    assertEquals(await box.left(), [ONE, TWO], commands);
  }
  const last = await talk(box, `${LOGIN}DELE 1\r\nQUIT\r\nRETR 2\r\n`);
  assertEquals(last, `${WELCOME}+OK it goes when you QUIT\r\n+OK 1 removed\r\n`);
  assertEquals(await box.left(), [TWO]);
});

Deno.test("TOP is the header, the empty line and so many lines", () => {
  for (
    const [message, lines, expected] of [
      ["a\r\nb\r\n\r\nc\r\n\r\nd\r\n", 0, "a\r\nb\r\n\r\n"],
      ["a\r\nb\r\n\r\nc\r\n\r\nd\r\n", 1, "a\r\nb\r\n\r\nc\r\n"],
      ["a\r\nb\r\n\r\nc\r\n\r\nd\r\n", 2, "a\r\nb\r\n\r\nc\r\n\r\n"],
      ["a\r\nb\r\n\r\nc\r\n\r\nd\r\n", 9, "a\r\nb\r\n\r\nc\r\n\r\nd\r\n"],
      ["\r\nbody\r\n", 0, "\r\n"],
      ["no end\r\nof the header", 0, "no end\r\nof the header"],
      ["a\r\n\r\nno end", 1, "a\r\n\r\nno end"],
      ["a\r\n\r\n\r\n\r\n", 1, "a\r\n\r\n\r\n"],
      ["", 5, ""],
    ] as const
  ) assertEquals(latin1(top(octets(message), lines)), expected);
});

Deno.test({ name: "who logs in must know the name and the password", ignore }, async () => {
  await using box = await mailbox(ONE, TWO);
  const failed = "-ERR [AUTH]\r\n";
  for (
    const wrong of [
      "USER mail\r\nPASS \r\n",
      "USER mail\r\nPASS se\r\n",
      `USER mail\r\nPASS ${PASSWORD} \r\n`,
      `USER mail\r\nPASS  ${PASSWORD}\r\n`,
      `USER Mail\r\nPASS ${PASSWORD}\r\n`,
      `USER \r\nPASS ${PASSWORD}\r\n`,
      `USER mail se\r\nPASS cret\r\n`,
    ]
  ) assertEquals(await talk(box, `${wrong}STAT\r\n`), `+OK\r\n${failed}${ERR}`, wrong);
  for (const wrong of ["APOP", "APOP mail", `APOP mail ${PASSWORD}`, "APOP mail 0 0"]) {
    assertEquals(await talk(box, `${wrong}\r\nSTAT\r\n`), `${failed}${ERR}`, wrong);
  }
  // Twice it may fail, and the third time it is over, whatever comes.
  const right = `USER mail\r\nPASS x\r\nAPOP mail x\r\nPASS ${PASSWORD}\r\nSTAT\r\n`;
  assertMatch(await talk(box, right), /(-ERR \[AUTH\]\r\n){2}\+OK 2 messages\r\n\+OK 2 49\r\n$/);
  const { wire, conn } = receiving(`USER mail\r\nPASS x\r\nPASS x\r\nPASS x\r\n${LOGIN}`, null);
  await assertRejects(() => converse(conn, box), Error, "3 failed logins");
  assertEquals(answers(wire), OK + failed.repeat(3));
});

Deno.test({ name: "APOP's digest is of this connection's greeting", ignore }, async () => {
  await using box = await mailbox(ONE);
  const timestamps = new Set<string>();
  let digest = "";
  for (let i = 0; i < 3; i++) {
    const { wire, conn } = receiving();
    const done = converse(conn, box);
    await eventually("it greets", () => wire.written.endsWith("\n"));
    const [timestamp] = /<.*>/.exec(wire.written) ?? [""];
    timestamps.add(timestamp);
    if (digest) wire.send(`APOP mail ${digest}\r\n`); // of the connection before
    digest = await md5(timestamp + PASSWORD);
    wire.send(`APOP mail ${digest}\r\n`, null);
    await done;
    assertEquals(answers(wire), `${i > 0 ? "-ERR [AUTH]\r\n" : ""}+OK 1 messages\r\n`);
  }
  assertEquals(timestamps.size, 3);
});

/** As another program makes it. */
async function md5(text: string): Promise<string> {
  await using program = new Program(["md5sum"]);
  await program.type(text);
  await program.endInput();
  return (await program.ended()).stdout.slice(0, 32);
}

/** Some of everything. */
const SESSION =
  `CAPA\r\nUSER mail\r\nPASS x\r\n${LOGIN}STAT\r\nLIST\r\nLIST 1\r\nUIDL 2\r\nRETR 1\r\nTOP 1 1\r\nbogus\r\nDELE 1\r\nNOOP\r\nRSET\r\nDELE 3\r\n`;

Deno.test({ name: "pop3_server answers alike however commands are cut", ignore }, async () => {
  await using box = await mailbox(ONE, TWO);
  const whole = await talk(box, SESSION + "QUIT\r\n");
  assertMatch(whole, /\+OK 0 removed\r\n$/);
  assertEquals(await talk(box, ...SESSION, "QUIT\r\n"), whole);
  for (let at = 1; at < SESSION.length; at++) {
    assertEquals(await talk(box, SESSION.slice(0, at), `${SESSION.slice(at)}QUIT\r\n`), whole);
  }
});

Deno.test(
  { name: "without all of QUIT, whatever ends it, nothing is removed", ignore },
  async () => {
    await using box = await mailbox(ONE, TWO);
    const marked = `${LOGIN}DELE 1\r\nDELE 2\r\n`;
    await talk(box, marked); // the client has ended its side
    const endings: (string | Error | null)[][] = [
      ...["Q", "QUI", "QUIT", "QUIT\r", "RETR 1"].map((half) => [half, null]),
      [new Deno.errors.ConnectionReset("reset")],
      ["QUIT", new Deno.errors.ConnectionReset("reset")],
      [new Deno.errors.TimedOut("closed, silent for 600 s")],
      ["x".repeat(255) + "\r\nQUIT\r\n", null],
      ["x".repeat(100_000), "\r\nQUIT\r\n", null],
    ];
    for (const ending of endings) {
      const { conn } = receiving(marked, ...ending);
      await assertRejects(() => converse(conn, box));
      assertEquals(await box.left(), [ONE, TWO], `${ending}`.slice(0, 20));
    }
    for (let at = 0; at < marked.length; at++) {
      await talk(box, marked.slice(0, at)).catch((error) => {
        assert(error instanceof Deno.errors.UnexpectedEof, error);
      });
    }
    assertEquals(await box.left(), [ONE, TWO]);
    await talk(box, `${marked}QUIT\r\n`);
    assertEquals(await box.left(), []);
  },
);

Deno.test(
  { name: "a command of more than 255 octets is refused, and ends it", ignore },
  async () => {
    await using box = await mailbox();
    const longest = "x".repeat(253);
    assertEquals(await talk(box, `${longest}\r\nQUIT\r\n`), ERR + OK);
    for (const pieces of [[`${longest}x\r\nQUIT\r\n`], ["x".repeat(256)], [...longest, "xx\r\n"]]) {
      const { wire, conn } = receiving(`CAPA\r\n`, ...pieces, null);
      await assertRejects(() => converse(conn, box), LimitError, "more than 255 bytes");
      assertEquals(answers(wire), CAN + ERR);
    }
  },
);

Deno.test(
  { name: "numbers do not change, whatever other programs do meanwhile", ignore },
  async () => {
    await using box = await mailbox(ONE, TWO, "three\r\n", "four\r\n");
    const others = new Maildir(box.path);
    const { wire, conn } = receiving(LOGIN);
    const done = converse(conn, box);
    await eventually("it has logged in", () => wire.written.includes("4 messages"));
    const [one, two, three] = await others.list();
    await others.setFlags(one, "RS");
    await others.setFlags(one, "S");
    await others.remove(two);
    await others.deliver(octets("new\r\n"), { flags: "S" });
    wire.send("STAT\r\nRETR 1\r\nRETR 2\r\nTOP 2 0\r\nRETR 4\r\nRETR 5\r\n");
    wire.send("DELE 1\r\nDELE 2\r\nDELE 3\r\nNOOP\r\n");
    await eventually("all is answered", () => wire.written.endsWith("QUIT\r\n+OK\r\n"));
    await others.setFlags(three, "T");
    wire.send("QUIT\r\n");
    await done;
    const said = answers(wire);
    assertMatch(
      said,
      /4 messages\r\n\+OK 4 62\r\n\+OK 33 octets\r\n.*three\r\n\.\r\n-ERR\r\n-ERR\r\n/s,
    );
    assertMatch(
      said,
      /\+OK 6 octets\r\nfour\r\n\.\r\n-ERR\r\n(\+OK it.*\r\n){3}\+OK\r\n\+OK 3 removed\r\n$/,
    );
    assertEquals(await box.left(), ["four\r\n", "new\r\n"]);
  },
);

Deno.test(
  { name: "at QUIT it says what could not be removed, and removes the rest", ignore },
  async () => {
    await using box = await mailbox(ONE, TWO, "three");
    const { wire, conn } = receiving(`${LOGIN}DELE 1\r\nDELE 2\r\nDELE 3\r\n`);
    const done = converse(conn, box);
    await eventually("they are marked", () => /(.*goes.*\r\n){3}/.test(wire.written));
    const [, two] = await box.maildir.list();
    await Deno.remove(`${box.path}/${two.file}`);
    await Deno.mkdir(`${box.path}/${two.file}/full`, { recursive: true }); // which no remove() takes
    wire.send("QUIT\r\n");
    await done;
    assertMatch(wire.written, /-ERR \[SYS\/TEMP\] 1 of 3 not removed: .*not empty\r\n$/);
    assertEquals(await box.left(), []);
  },
);

Deno.test(
  { name: "a mailbox that cannot be read is said, and no reason to hang up", ignore },
  async () => {
    await using box = await mailbox(ONE);
    await Deno.remove(`${box.path}/new`, { recursive: true });
    const { wire, conn } = receiving(`${LOGIN}CAPA\r\n`, null);
    await converse(conn, box);
    assertMatch(wire.written, /\r\n-ERR \[SYS\/TEMP\] .*\/new: no such file or directory\r\n/);
    assert(wire.written.endsWith(CAN));
    await Deno.mkdir(`${box.path}/new`);
    assertEquals(await talk(box, LOGIN), "+OK\r\n+OK 0 messages\r\n"); // the lock is free
  },
);

Deno.test({ name: "a unique id is one, whoever named the file", ignore }, async () => {
  await using box = await mailbox();
  const names = [
    "1.host",
    "2.M1P2.host,S=3,W=4",
    "3.host,S=3",
    `4.${"x".repeat(68)}`,
    `5.${"x".repeat(69)}`,
    "6.a host",
    "7.höst",
    "8.\x7f",
    "9.\n",
  ];
  for (const name of names) await Deno.writeTextFile(`${box.path}/cur/${name}:2,S`, "x");
  const said = await talk(box, `${LOGIN}UIDL\r\n`);
  const ids = said.match(/(?<=^\d )\S+(?=\r$)/gm) ?? [];
  assertEquals(ids.slice(0, 4), ["1.host", "2.M1P2.host", "3.host", names[3]]);
  assert(ids.slice(4).every((id) => /^[0-9a-f]{64}$/.test(id)), said);
  assertEquals([new Set(ids).size, said.split("\r\n").length], [9, 2 + 1 + 9 + 2]);
  assertEquals(await talk(box, `${LOGIN}UIDL\r\n`), said);
});

Deno.test({ name: "pop3_server survives 1500 sessions of junk", ignore }, async () => {
  await using box = await mailbox(ONE, TWO);
  const chance = random(7);
  for (let i = 0; i < 1500; i++) {
    const text = Array.from(SESSION + "QUIT\r\n");
    for (let n = 1 + chance(20); n > 0; n--) {
      const junk = ["\r\n", " ", "9", "", "\0", String.fromCharCode(chance(256))][chance(6)];
      text.splice(chance(text.length), chance(3) ? 1 : chance(50), junk);
    }
    const at = chance(text.length);
    const { conn } = receiving(text.slice(0, at).join(""), text.slice(at).join(""), null);
    await converse(conn, box).catch((error) => {
      if (error instanceof LimitError || error instanceof Deno.errors.UnexpectedEof) return;
      if (error.message !== "3 failed logins") throw error;
    });
  }
  // What it was told to delete by chance is gone, and it is as good as new.
  const left = await box.left();
  assertEquals(await talk(box, LOGIN), `+OK\r\n+OK ${left.length} messages\r\n`);
});

/** Starts a program of ours that finds the password in its environment, with further permissions. */
function started(name: string, args: string[], password = PASSWORD): Program {
  return new Program([...command(name, FILES), ...args], { env: { MAIL_PASSWORD: password } });
}

/** Runs the client to its end. */
async function client(args: string[], password?: string): Promise<Result> {
  await using program = started("pop3_client", args, password);
  await program.endInput();
  return await program.ended();
}

Deno.test({
  name: "pop3_client lists, gets and deletes at pop3_server, in each form",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const path = `${folder.path}/mail`;
    for await (const { form, server, ask } of inEachForm("pop3_server", folder.path, [path])) {
      const pattern = /^pop3_server: made a password for mail: ([0-9a-f]{16})\n/;
      const [, password] = pattern.exec(server.stderr) ?? [];
      const maildir = new Maildir(path);
      const received = "Date: Fri, 28 Nov 2025 12:30:00 +0000";
      const from = "From: =?utf-8?q?J=C3=BCrgen?= <j@example.org>";
      const subject = "Subject: =?utf-8?b?R3LDvMOfZQ==?= \x1b[31m";
      const message = [from, received, subject, "", ".", "\x1b..", "bye", ""].join("\r\n");
      await maildir.deliver(octets(message));
      await maildir.deliver(octets("no header\r\n"));
      await maildir.deliver(octets("\r\n"));
      const run = async (...args: string[]) => {
        const { code, stdout, stderr } = await client([...ask, ...args], password);
        return [code, stdout, stderr];
      };
      const here = new Date("2025-11-28T12:30Z").toLocaleString("sv").slice(0, 16);
      const first = `     1      142 B  ${here}  Jürgen                    Grüße \\x1b[31m\n`;
      const list = [`${first}     2       11 B\n     3        2 B\n`, ""];
      assertEquals(await run(), [0, ...list], form);
      assertEquals(await run("get", "1"), [0, message, ""]);
      assertEquals(await run("delete", "1"), [0, "", "pop3_client: deleted 1\n"]);
      assertEquals(await run("list"), [0, "     1       11 B\n     2        2 B\n", ""]);
      for (const message of await maildir.list()) await maildir.remove(message);
      assertEquals(await run(), [0, "", "pop3_client: no messages\n"]);
      const [code, stdout, stderr] = await run("get", "1");
      assertEquals([code, stdout], [1, ""]);
      assertMatch(`${stderr}`, /^pop3_client: \S+: the server says: no such message\n$/);
      server.signal("SIGINT");
      const ended = await server.ended();
      // It may not know yet that the last client has left.
      const usual = /^pop3_server: (made a password|listening on|stopping, ).*\n/gm;
      assertEquals([ended.code, ended.stderr.replaceAll(usual, "")], [0, ""]);
    }
  },
});

Deno.test(
  { name: "a mailbox is one session's at a time, also of two servers", ignore },
  async () => {
    await using box = await mailbox(ONE, TWO);
    const servers = [0, 1].map(() => started("pop3_server", ["--port", "0", box.path]));
    const [one, two] = await Promise.all(servers.map((server) => server.port()));
    const enter = async (port: number) => {
      const conn = await dial(port);
      await conn.writeAll(`${LOGIN}DELE 1\r\n`);
      return { conn, said: await hear(conn, /-ERR.*\r\n-ERR.*\r\n|QUIT\r\n/) };
    };
    const busy = /\r\n-ERR \[IN-USE\] .*\r\n-ERR /;
    using _first = (await enter(one)).conn;
    for (const port of [one, two]) {
      const { conn, said } = await enter(port);
      assertMatch(said, busy);
      assertMatch((await client(["--port", `${port}`])).stderr, /: the server says: \[IN-USE\] /);
      await conn.writeAll(`PASS x\r\n`);
      conn.close();
    }
    // With a server that is killed the lock goes, and what it was told to delete stays.
    await servers[0][Symbol.asyncDispose]();
    const { conn: third, said } = await enter(two);
    assertMatch(said, /\+OK 2 messages\r\n\+OK it goes/);
    third.close();
    assertEquals(await box.left(), [ONE, TWO]);
    // Who has the answer to QUIT may come again at once.
    for (let i = 0; i < 20; i++) {
      using conn = await dial(two);
      await conn.writeAll(`${LOGIN}QUIT\r\n`);
      assertMatch(await hear(conn, /removed\r\n|ERR/), /0 removed/, `${i}`);
    }
    assertEquals(
      await Array.fromAsync(Deno.readDir(box.path), ({ name }) => name).then((names) =>
        names.sort()
      ),
      ["cur", "new", "tmp"],
    );
    await servers[1][Symbol.asyncDispose]();
  },
);

Deno.test({ name: "a session that is silent or cut off loses its deletions", ignore }, async () => {
  await using box = await mailbox(ONE, TWO);
  const args = ["--port", "0", "--idle-timeout", "0.5", box.path];
  await using server = started("pop3_server", args);
  const port = await server.port();
  using silent = await dial(port);
  await silent.writeAll(`${LOGIN}DELE 1\r\n`);
  assertMatch(await hear(silent), /QUIT\r\n$/);
  await server.until(/: closed, silent for 0\.5 s\n/, "stderr");
  for (const end of ["reset", "stop"]) {
    using conn = await dial(port);
    await conn.writeAll(`${LOGIN}DELE 1\r\nRETR 2\r\n`);
    await conn.readable();
    if (end === "reset") conn.close(); // with octets unread
    else {
      server.signal("SIGTERM");
      assertEquals((await server.ended()).code, 0);
    }
  }
  assertEquals(await box.left(), [ONE, TWO]);
});

Deno.test({ name: "10,000 messages: at once there, and within bounds", ignore }, async () => {
  await using box = await mailbox();
  for (let i = 0; i < 10_000; i++) {
    const text = octets(`Subject: message ${i}\n\n${"x".repeat(70)}\n`);
    const name = `${i}.M1P1R1.localhost,S=${text.length},W=${text.length + 3}`;
    Deno.writeFileSync(i % 2 ? `${box.path}/new/${name}` : `${box.path}/cur/${name}:2,S`, text);
  }
  await using server = started("pop3_server", ["--port", "0", box.path]);
  const port = await server.port();
  // A promise of ours, kept if one of five keeps it, as other programs take their time, too.
  let best = Infinity;
  for (let i = 0; i < 5 && best >= 500; i++) {
    using conn = await dial(port);
    const began = performance.now();
    await conn.writeAll(`${LOGIN}STAT\r\nQUIT\r\n`);
    assertMatch(await hear(conn), /\+OK 10000 \d+\r\n\+OK 0 removed\r\n$/);
    best = Math.min(best, performance.now() - began);
  }
  assert(best < 500, `${best} ms`);
  const { stdout } = await client(["--port", `${port}`]);
  const lines = stdout.split("\n");
  assertEquals([lines.length, lines[9999].replace(/.* m/, "m")], [10_001, "message 9999"]);
  const all = Array.from({ length: 10_000 }, (_, i) => `DELE ${i + 1}\r\n`).join("");
  using conn = await dial(port);
  const [said] = await Promise.all([hear(conn), conn.writeAll(`${LOGIN}${all}QUIT\r\n`)]);
  assertMatch(said, /\+OK 10000 removed\r\n$/);
  assertEquals(await box.left(), []);
  assert(memory(server, "VmHWM") < 200 * 1024, `${memory(server, "VmHWM")} KiB`);
});

const GREETING = "+OK ready <1.2@host>\r\n";
const HEADER = "Subject: x\r\nFrom: a@example.org\r\n\r\n";

/** A client at a server that says this, whatever it is asked. */
async function at(...said: string[]): Promise<{ wire: Wire; pop: Pop3Connection }> {
  const { wire, conn } = receiving(...said, null);
  const pop = new Pop3Connection(conn);
  await pop.greet();
  return { wire, pop };
}

Deno.test("Pop3Connection logs in by APOP only at a timestamp that is a Message-ID", async () => {
  const cases: [greeting: string, apop: boolean][] = [
    ["+OK <1896.697170952@dbc.mtview.ca.us>", true], // RFC 1939, 7, as is what it makes of tanstaaf
    ["+OK", false],
    ["+OK ready", false],
    ["+OK <a>", false],
    ["+OK <@>", false],
    ["+OK <a b@c>", false],
    ["+OK <a@b\x80>", false],
    ["+OK <a@\0b>", false],
    ["+OK <a\t@b>", false],
  ];
  for (const [greeting, apop] of cases) {
    const { wire, pop } = await at(`${greeting}\r\n+OK\r\n+OK\r\n`);
    await pop.login("mrose", "tanstaaf");
    const expected = apop
      ? "APOP mrose c4c9334bac560ecc979e58001b3e22fb\r\n"
      : "USER mrose\r\nPASS tanstaaf\r\n";
    assertEquals(wire.written, expected, greeting);
  }
});

Deno.test("Pop3Connection sends no password that others could read, and no two lines for one", async () => {
  for (const hostname of ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"]) {
    const { wire, pop } = await at(GREETING, "+OK\r\n");
    wire.remoteAddr.hostname = hostname;
    await pop.login("mail", "x");
  }
  for (const hostname of ["128.0.0.1", "10.0.0.1", "::ffff:10.0.0.1", "::2", "fe80::127.0.0.1"]) {
    const { wire, pop } = await at(GREETING, "+OK\r\n");
    wire.remoteAddr.hostname = hostname;
    await assertRejects(() => pop.login("mail", "x"), UsageError, "without --tls");
    assertEquals(wire.written, "");
  }
  for (
    const [user, password] of [
      ["a\r\nDELE 1", "x"],
      ["a\nb", "x"],
      ["a b", "x"],
      ["", "x"],
      ["a", "x\r\nDELE 1"],
      ["a", "x\ny"],
      ["a", "x\0"],
    ]
  ) {
    const { wire, pop } = await at("+OK\r\n+OK\r\n+OK\r\n");
    await assertRejects(() => pop.login(user, password), UsageError);
    assertEquals(wire.written, "");
  }
});

const words = (header: Uint8Array | Error) => header instanceof Error ? header.message : header;

/** What a client does at a server, and what it gives. */
const ASKS: [said: string, ask: (pop: Pop3Connection) => Promise<unknown>, result: unknown][] = [
  ["+OK\r\n1 10\r\n3 20 and more\r\n.\r\n", (pop) => pop.list(), [
    { number: 1, size: 10 },
    { number: 3, size: 20 },
  ]],
  ["+OK\r\nTOP\r\nexpire 30\r\n.\r\n", (pop) => pop.capabilities(), new Set(["TOP", "EXPIRE"])],
  ["-ERR what?\r\n", (pop) => pop.capabilities(), new Set()],
  ["+OK\r\n..\r\n.x\r\n.\r\n", (pop) => pop.retrieve(7), octets(".\r\nx\r\n")],
  [
    `+OK\r\nPIPELINING\r\nTOP\r\n.\r\n+OK\r\n${HEADER}.\r\n-ERR gone\r\n+OK\r\n\r\n.\r\n`,
    (pop) => Array.fromAsync(pop.headers([1, 2, 3]), words),
    [octets(HEADER), "the server says: gone", octets("\r\n")],
  ],
  [ // no TOP
    `+OK\r\nPIPELINING\r\n.\r\n-ERR\r\n+OK\r\n${HEADER}body\r\n.\r\n-ERR\r\n-ERR gone\r\n+OK\r\n\r\n.\r\n`,
    (pop) => Array.fromAsync(pop.headers([1, 2, 3]), words),
    [octets(`${HEADER}body\r\n`), "the server says: gone", octets("\r\n")],
  ],
];

Deno.test("Pop3Connection takes an answer however it is cut, and says if it is not all there", async () => {
  for (const [said, ask, result] of ASKS) {
    const whole = GREETING + said;
    assertEquals(await ask((await at(...whole)).pop), result);
    for (let cut = 1; cut < whole.length; cut++) {
      assertEquals(await ask((await at(whole.slice(0, cut), whole.slice(cut))).pop), result);
      await assertRejects(
        async () => await ask((await at(whole.slice(0, cut))).pop),
        Deno.errors.UnexpectedEof,
      );
    }
  }
});

Deno.test("Pop3Connection takes nothing else for an answer, and not without an end", async () => {
  for (const line of ["", "OK", "+ok", "+OKAY", "-ERROR", "* OK", "220 ready", "\0", "\xff+OK"]) {
    await assertRejects(() => at(`${line}\r\n`), Error, "not an answer of POP3");
  }
  await assertRejects(() => at(`-ERR [SYS/PERM] no\r\n`), RefusedError, "says: [SYS/PERM] no");
  await assertRejects(() => at("+OK " + "x".repeat(1e6)), LimitError);
  for (
    const line of ["", "1", "x 1", "1 x", "-1 1", "1  1", "9999999999 1", `1 ${"9".repeat(16)}`]
  ) {
    const { pop } = await at(GREETING, `+OK\r\n${line}\r\n.\r\n`);
    await assertRejects(() => pop.list(), Error, "not an answer of POP3");
  }
  const long = `1 1 ${"x".repeat(1000)}\r\n`.repeat(4200);
  await assertRejects(
    async () => (await at(GREETING, "+OK\r\n", long, ".\r\n")).pop.list(),
    LimitError,
  );
  // One header that is too long is said in its place, and the talk goes on.
  const huge = `X: ${"x".repeat(300_000)}\r\n\r\n`;
  const { pop } = await at(
    `${GREETING}+OK\r\nPIPELINING\r\nTOP\r\n.\r\n+OK\r\n${huge}.\r\n+OK\r\n${HEADER}.\r\n`,
  );
  const [first, second] = await Array.fromAsync(pop.headers([1, 2]));
  assert(first instanceof LimitError);
  assertEquals(second, octets(HEADER));
});

Deno.test("Pop3Connection survives 3000 answers of junk", async () => {
  const chance = random(3);
  for (let i = 0; i < 3000; i++) {
    const [said, ask] = ASKS[chance(ASKS.length)];
    const text = Array.from(GREETING + said);
    for (let n = 1 + chance(8); n > 0; n--) {
      const junk = ["\r\n", ".", "-ERR ", "+OK", "", String.fromCharCode(chance(256))][chance(6)];
      text.splice(chance(text.length), chance(3) ? 1 : chance(20), junk);
    }
    await at(text.join("")).then(({ pop }) => ask(pop)).catch((error) => {
      if (error instanceof RefusedError || error instanceof Deno.errors.UnexpectedEof) return;
      if (!error.message.startsWith("not an answer of POP3")) throw error;
    });
  }
});

Deno.test("Pop3Connection sends 100 commands at once where the server takes that", async () => {
  const { wire, conn } = receiving(`${GREETING}+OK\r\nPIPELINING\r\nTOP\r\n.\r\n`);
  const pop = new Pop3Connection(conn);
  await pop.greet();
  const numbers = Array.from({ length: 150 }, (_, i) => i + 1);
  const headers = pop.headers(numbers);
  const tops = (some: number[]) => some.map((n) => `TOP ${n} 0\r\n`).join("");
  const first = headers.next();
  await eventually("they are sent", () => wire.written.endsWith("TOP 100 0\r\n"));
  assertEquals(wire.written, `CAPA\r\n${tops(numbers.slice(0, 100))}`);
  wire.send(...Array(150).fill(`+OK\r\n${HEADER}.\r\n`), null);
  await first;
  assertEquals((await Array.fromAsync(headers)).length, 149);
  assertEquals(wire.written, `CAPA\r\n${tops(numbers)}`);
});

Deno.test(
  { name: "deleted it is if the server says so at QUIT, and not before", ignore },
  async () => {
    const cases: [answers: string[], code: number, says: RegExp][] = [
      [["+OK", "+OK", "+OK"], 0, /^pop3_client: deleted 1\n$/],
      [["+OK", "+OK", "-ERR disk \x1b[0m\u202e"], 1, /: the server says: disk \\x1b\[0m\\u202e\n$/],
      [["+OK", "+OK"], 1, /^pop3_client: 127\.0\.0\.1:\d+: hung up without an answer\n$/],
      [["+OK", "-ERR no"], 1, /: the server says: no\n$/],
      [["-ERR"], 1, /: the server says: no\n$/],
      [["+OK", "+OK", "\x1b+OK"], 1, /: not an answer of POP3: \\x1b\+OK\n$/],
    ];
    for (const [answers, code, says] of cases) {
      const asked: string[] = [];
      await using server = testServer(async (conn) => {
        await conn.writeAll(GREETING);
        for (const answer of answers) {
          asked.push(await conn.readLine() ?? "");
          await conn.writeAll(`${answer}\r\n`);
        }
        await conn.conn.closeWrite();
        await conn.readToEnd(100);
      });
      const result = await client(["--port", `${server.port}`, "delete", "1"]);
      assertEquals([result.code, result.stdout], [code, ""]);
      assertMatch(result.stderr, says);
      assertEquals(asked.slice(1), ["DELE 1", "QUIT"].slice(0, answers.length - 1));
    }
  },
);

Deno.test({ name: "a wrong command line is said, and nobody is asked", ignore }, async () => {
  let asked = 0;
  await using server = testServer(() => void asked++);
  const cases: [args: string[], says: RegExp][] = [
    [["bogus"], /bogus is none of list, get, delete/],
    [["list", "1"], /unexpected argument 1/],
    [["get"], /N is missing/],
    [["delete"], /N is missing/],
    [["get", "1", "2"], /unexpected argument 2/],
    ...["0", "x", "1\r\nDELE 2", "1.5", "1e3", "9999999999"].map((n): [string[], RegExp] => [
      ["delete", n],
      n.includes("\n") ? /: 1\\r / : / is not a whole number/,
    ]),
    [["--user", "a b"], /"a b" is not a user's name/],
    [["--user", "a\r\nDELE 1"], /"a\\r\\nDELE 1" is not a user's name/],
  ];
  for (const [args, says] of cases) {
    const { code, stdout, stderr } = await client(["--port", `${server.port}`, ...args]);
    assertEquals([code, stdout], [2, ""]);
    assertMatch(stderr, says);
  }
  assertEquals(asked, 0);
});

Deno.test(
  { name: "a trace of the client shows no password, nor what it is made of", ignore },
  async () => {
    for (const said of [`${GREETING}+OK\r\n-ERR\r\n`, "+OK\r\n+OK\r\n+OK\r\n-ERR\r\n"]) {
      await using server = testServer(async (conn) => {
        await conn.writeAll(said);
        await conn.readToEnd(1000);
      });
      const args = ["--port", `${server.port}`, "--trace", "get", "1"];
      const { stderr } = await client(args, "tanstaaf");
      assertMatch(stderr, /> \S+ (APOP mail|USER mail[^]*PASS) \*\*\*/);
      assert(!/tanstaaf|[0-9a-f]{32}/.test(stderr), stderr);
    }
  },
);

Deno.test(
  { name: "a terminal is shown nothing that could drive it", ignore: missing("python3") },
  async () => {
    await using box = await mailbox("Subject: x\r\n\r\n\x1b[2J\ttab\r\n");
    await using server = started("pop3_server", ["--port", "0", box.path]);
    const port = `${await server.port()}`;
    const argv = [...command("pop3_client"), "--port", port, "get", "1"];
    const bridge = "import pty, sys; pty.spawn(sys.argv[1:])";
    await using program = new Program(["python3", "-c", bridge, ...argv], {
      env: { MAIL_PASSWORD: PASSWORD },
    });
    const { stdout } = await program.ended();
    assertEquals(stdout, "Subject: x\r\n\r\n\\x1b[2J\ttab\r\n"); // the terminal's own CRs
  },
);
