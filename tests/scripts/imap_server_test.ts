import { assert, assertEquals, assertMatch } from "@std/assert";
import { delay } from "@std/async/delay";
import { Buffer } from "node:buffer";
import { listen } from "../../lib/address.ts";
import { Folders, Maildir } from "../../lib/maildir.ts";
import { serve } from "../../lib/server.ts";
import { type Account, converse, parseMessage, sectionOf } from "../../scripts/imap_server.ts";
import { command, mayRun, missing, Program, run, temporaryFolder } from "../helpers.ts";
import { octets, random } from "../lib/wire.ts";
import { eventually } from "../peers/peers.ts";
import { Imap, itemsOf, literal } from "./imap.ts";
import { inEachForm } from "./rig.ts";

const ignore = !mayRun;
const PASSWORD = "secret";

/** A server in this process, for a Maildir of its own. */
type Server = AsyncDisposable & {
  maildir: Maildir; // as another program sees it
  account: Account;
  port: number;
  log: string[];
  open: (mailbox?: string) => Promise<Imap>; // logged in, with the mailbox selected
};

async function startServer(idleTimeout?: number): Promise<Server> {
  const home = await temporaryFolder();
  const stopped = new AbortController();
  const { signal } = stopped;
  const folders = await Folders.open(home.path);
  const account = { folders, user: "mail", password: PASSWORD, signal, idleTimeout };
  const listener = await listen({ host: "127.0.0.1", port: 0 });
  const { port } = listener.addr as Deno.NetAddr;
  const log: string[] = [];
  const options = {
    name: "imap_server",
    signal,
    idleTimeout,
    log: (line: string) => log.push(line),
  };
  const served = serve(listener, (conn) => converse(conn, account), options);
  return {
    ...{ account, port, log, maildir: new Maildir(home.path) },
    async open(mailbox) {
      const imap = await Imap.open(port, PASSWORD);
      if (mailbox) await imap.ok(`SELECT ${mailbox}`);
      return imap;
    },
    async [Symbol.asyncDispose]() {
      stopped.abort();
      await served;
      folders.close();
      await home[Symbol.asyncDispose]();
    },
  };
}

/** Starts the program on a Maildir, with a password. */
function startProgram(path: string, ...args: string[]): Program {
  const argv = [...command("imap_server"), "--port", "0", ...args, path];
  return new Program(argv, { env: { MAIL_PASSWORD: PASSWORD } });
}

const MESSAGE = "From: Ann <ann@example.org>\r\nTo: bob@example.org\r\nSubject: one\r\n" +
  "Date: Mon, 7 Feb 1994 21:52:25 -0800\r\n\r\nHello\r\nBob\r\n";

Deno.test({ name: "imap_server: who may do what, and when", ignore }, async () => {
  await using server = await startServer();
  using imap = await Imap.open(server.port);
  assertMatch(imap.greeting, /^\* OK \[CAPABILITY IMAP4rev1 .*AUTH=PLAIN/);
  const answers = async (...pairs: [string, string | RegExp][]) => {
    for (const [question, answer] of pairs) {
      const { tagged } = await imap.ask(question);
      if (typeof answer === "string") assertEquals(tagged, answer, question);
      else assertMatch(tagged, answer, question);
    }
  };
  const not = "BAD no such command, or not now";
  await answers(
    ["capability", "OK done"],
    ["NOOP", "OK done"],
    ["SELECT INBOX", not],
    ["FETCH 1 FLAGS", not],
    ["STARTTLS", not],
    ["LOGIN mail wrong", /^NO \[AUTHENTICATIONFAILED\]/],
    ['LOGIN "mail" "sec\\"ret"', /^NO \[AUTHENTICATIONFAILED\]/],
    [`LOGIN ${literal("mail")} ${literal(PASSWORD)}`, /^OK \[CAPABILITY /],
    ["LOGIN mail secret", not],
    ["FETCH 1 FLAGS", not],
    ["CLOSE", not],
    ["SELECT nowhere", "NO [NONEXISTENT] there is no such mailbox"],
    ["select inbox", "OK [READ-WRITE] selected"],
    ["FETCH 1:* FLAGS", "OK done"],
    ["UID NOOP", not],
    ["UID LOGIN a b", not],
    ["EXAMINE INBOX", "OK [READ-ONLY] selected"],
    ["EXPUNGE", "NO [READ-ONLY] the mailbox was only examined"],
    ["STORE 1:* FLAGS ()", "NO [READ-ONLY] the mailbox was only examined"],
    ["SELECT nowhere", "NO [NONEXISTENT] there is no such mailbox"],
    ["CHECK", not],
    ["SELECT INBOX", "OK [READ-WRITE] selected"],
    ["UNSELECT", "OK done"],
    ["UNSELECT", not],
    ["LOGOUT", "OK done"],
  );
  assertEquals(await imap.next(), "");
});

Deno.test({ name: "imap_server: AUTHENTICATE, and three failures end it", ignore }, async () => {
  await using server = await startServer();
  const plain = (text: string) => btoa(text.replaceAll(" ", "\0"));
  for (const response of [plain(" mail secret"), plain("mail mail secret")]) {
    using imap = await Imap.open(server.port);
    assertMatch((await imap.ask(`AUTHENTICATE PLAIN ${response}`)).tagged, /^OK/);
  }
  using imap = await Imap.open(server.port);
  await imap.send("a AUTHENTICATE PLAIN\r\n");
  assertEquals(await imap.next(), "+ ");
  await imap.send("*\r\n");
  assertEquals(await imap.next(), "a BAD cancelled");
  for (
    const [response, answer] of [
      ["=", "BAD not what PLAIN sends (RFC 4616)"],
      [plain("mail secret"), "BAD not what PLAIN sends (RFC 4616)"],
      [plain("root mail secret"), "NO [AUTHORIZATIONFAILED] nobody is somebody else"],
      [plain(" mail secre"), "NO [AUTHENTICATIONFAILED] wrong name or password"],
      [plain(" mai lsecret"), "NO [AUTHENTICATIONFAILED] wrong name or password"],
    ]
  ) assertEquals((await imap.ask(`AUTHENTICATE PLAIN ${response}`)).tagged, answer);
  assertEquals((await imap.ask("AUTHENTICATE LOGIN")).tagged, "NO PLAIN alone is known");
  await imap.send(`b AUTHENTICATE PLAIN\r\n`);
  assertEquals(await imap.next(), "+ ");
  await imap.send(`${plain(" mail ")}\r\n`);
  assertMatch(await imap.next(), /^b NO/);
  assertEquals([await imap.next(), await imap.next()], ["* BYE 3 failed logins", ""]);
});

Deno.test(
  { name: "imap_server: what is no command is BAD, and the next one is done", ignore },
  async () => {
    await using server = await startServer();
    await server.maildir.deliver(octets(MESSAGE));
    using imap = await server.open("INBOX");
    for (
      const bad of [
        ...[
          "",
          "FETCH",
          "FETCH 1",
          "FETCH 0 FLAGS",
          "FETCH 1: FLAGS",
          "FETCH 1,, FLAGS",
          "FETCH 2 FLAGS",
        ],
        ...[
          "FETCH 4294967296 FLAGS",
          "FETCH 1 (FLAGS",
          "FETCH 1 FLAGS UID",
          "FETCH 1 (ALL)",
          "FETCH 1 X",
        ],
        ...[
          "FETCH 1 BODY[",
          "FETCH 1 BODY[X]",
          "FETCH 1 BODY[MIME]",
          "FETCH 1 BODY[0]",
          "FETCH 1 BODY[1.]",
        ],
        ...["FETCH 1 BODY[]<1>", "FETCH 1 BODY[HEADER.FIELDS]"],
        ...[
          "FETCH 1 UID[]",
          "FETCH 1 RFC822[]",
          "STORE 1 FLAGS",
          "STORE 1 X (\\Seen)",
          "STORE 1 FLAGS (\\X)",
        ],
        ...[
          "STORE 1 *FLAGS ()",
          "COPY 1",
          "SEARCH",
          "SEARCH X",
          "SEARCH NOT",
          "SEARCH OR ALL",
          "SEARCH (ALL",
        ],
        ...[
          "SEARCH ON x",
          "SEARCH ON 1-Foo-1994",
          "SEARCH 9",
          "SEARCH LARGER x",
          "SEARCH CHARSET UTF-8",
        ],
        ...[
          `SEARCH ${"NOT ".repeat(60)}ALL`,
          `SEARCH ${"(".repeat(1000)}`,
          "STATUS INBOX",
          "STATUS INBOX (X)",
        ],
        ...[
          "LIST",
          'LIST ""',
          'LIST "" a(b',
          `LIST "" ${"*a".repeat(600)}`,
          'CREATE "a',
          'CREATE "a\\b"',
        ],
        ...[
          "APPEND INBOX",
          "APPEND INBOX (\\Seen) x",
          'APPEND INBOX "x" {0+}\r\n',
          "LOGOUT now",
          "NOOP\t",
        ],
        ...["SELECT a b", "CREATE \xfc", "UID", "UID FETCH", "IDLE now", "X Y {3+}\r\nabc"],
        ...['APPEND INBOX "31-Foo-2020 00:00:00 +0000" {0+}\r\n'],
      ]
    ) {
      assertMatch((await imap.ask(bad)).tagged, /^BAD /, bad);
      assertEquals((await imap.ok("FETCH 1 UID"))[0], "* 1 FETCH (UID 1)");
    }
    for (const line of ["", " ", "* NOOP", "+ NOOP", "a", "(b) NOOP", "\0"]) {
      await imap.send(`${line}\r\n`);
      assertMatch(await imap.next(), /^(\*|a) BAD /, line);
    }
    await imap.ok("NOOP   "); // blanks at the end are forgiven
  },
);

Deno.test({ name: "imap_server: a conversation may come in any two pieces", ignore }, async () => {
  await using server = await startServer();
  const talk = [
    `a LOGIN ${literal("mail")} "secret"\r\n`,
    `b APPEND INBOX (\\Seen) ${literal(MESSAGE)}\r\n`,
    "c EXAMINE INBOX\r\n",
    "d FETCH 1 (UID BODY.PEEK[TEXT])\r\n",
    "e IDLE\r\nDONE\r\n",
    `f SEARCH SUBJECT ${literal("one")} TO bob\r\n`,
    "g LOGOUT\r\n",
  ].join("");
  let expected: string | undefined;
  for (let cut = 0; cut < talk.length; cut += cut < 60 ? 1 : 7) {
    using imap = await Imap.open(server.port);
    await imap.send(talk.slice(0, cut));
    await delay(0);
    await imap.send(talk.slice(cut));
    let heard = "";
    for (let line; (line = await imap.next()) !== "";) {
      if (!/APPENDUID|EXISTS|UIDNEXT|RECENT|^\* SEARCH/.test(line)) heard += `${line}\r\n`;
    }
    expected ??= heard;
    assertMatch(heard, /^d OK/m);
    assertEquals(heard, expected, `cut at ${cut}`);
  }
});

Deno.test({ name: "imap_server: FETCH tells all there is of a message", ignore }, async () => {
  await using server = await startServer();
  const received = new Date("2020-02-29T12:34:56Z");
  await server.maildir.deliver(octets(MESSAGE), { flags: "FS", received });
  await server.maildir.deliver(octets(MESSAGE));
  using imap = await server.open("INBOX");
  const fetched = async (items: string, n = 1) =>
    itemsOf((await imap.ok(`FETCH ${n} ${items}`))[0]);
  const ann = '(("Ann" NIL "ann" "example.org"))';
  const full: [string, string][] = [
    ["FLAGS", "(\\Flagged \\Seen)"],
    ["INTERNALDATE", '"29-Feb-2020 12:34:56 +0000"'],
    ["RFC822.SIZE", `${MESSAGE.length}`],
    [
      "ENVELOPE",
      `("Mon, 7 Feb 1994 21:52:25 -0800" "one" ${ann} ${ann} ${ann} ` +
      '((NIL NIL "bob" "example.org")) NIL NIL NIL NIL)',
    ],
    ["BODY", '("text" "plain" ("charset" "us-ascii") NIL NIL "7bit" 12 2)'],
  ];
  assertEquals([...await fetched("FAST")], full.slice(0, 3));
  assertEquals([...await fetched("all")], full.slice(0, 4));
  assertEquals([...await fetched("FULL")], full);
  const [header, text] = MESSAGE.split(/(?<=\r\n\r\n)/);
  const octetsOf = (text: string) => `{${text.length}}\r\n${text}`;
  for (
    const [item, label, value] of [
      ["BODY[]", "BODY[]", octetsOf(MESSAGE)],
      ["body[header]", "BODY[HEADER]", octetsOf(header)],
      ["BODY.PEEK[TEXT]", "BODY[TEXT]", octetsOf(text)],
      ["RFC822", "RFC822", octetsOf(MESSAGE)],
      ["RFC822.HEADER", "RFC822.HEADER", octetsOf(header)],
      ["RFC822.TEXT", "RFC822.TEXT", octetsOf(text)],
      ["BODY[1]", "BODY[1]", octetsOf(text)],
      ["BODY[2]", "BODY[2]", "NIL"],
      ["BODY[]<5.4>", "BODY[]<5>", octetsOf(" Ann")],
      ["BODY[TEXT]<7.100>", "BODY[TEXT]<7>", octetsOf("Bob\r\n")],
      ["BODY[TEXT]<4294967295.4294967295>", "BODY[TEXT]<4294967295>", octetsOf("")],
      [
        'BODY[HEADER.FIELDS (to "SUBJECT")]',
        'BODY[HEADER.FIELDS (TO "SUBJECT")]',
        octetsOf("To: bob@example.org\r\nSubject: one\r\n\r\n"),
      ],
    ]
  ) assertEquals([...await fetched(item)], [[label, value]]);
  assertEquals(await imap.ok("UID FETCH 2 FLAGS"), ["* 2 FETCH (UID 2 FLAGS (\\Recent))"]);
  assertEquals(await imap.ok("UID FETCH 7,2,3:9 (UID)"), ["* 2 FETCH (UID 2)"]);
  assertEquals(await imap.ok("UID FETCH 1:4294967295 UID"), [
    "* 1 FETCH (UID 1)",
    "* 2 FETCH (UID 2)",
  ]);
  assertEquals(await imap.ok("FETCH *:1,2 UID"), ["* 1 FETCH (UID 1)", "* 2 FETCH (UID 2)"]);
  const sets = `${"1,2,".repeat(15_000)}1`;
  assertEquals((await imap.ok(`UID FETCH ${sets} UID`)).length, 2);
});

Deno.test({ name: "imap_server: reading sets Seen, PEEK and EXAMINE do not", ignore }, async () => {
  await using server = await startServer();
  await server.maildir.deliver(octets(MESSAGE));
  using imap = await server.open();
  const flags = async () => (await server.maildir.list())[0].flags;
  await imap.ok("EXAMINE INBOX");
  assertEquals(await imap.ok("FETCH 1 FLAGS"), ["* 1 FETCH (FLAGS (\\Recent))"]);
  await imap.ok("FETCH 1 BODY[]");
  assertEquals((await server.maildir.list())[0].isNew, true);
  await imap.ok("SELECT INBOX");
  assertEquals((await server.maildir.list())[0].isNew, false);
  for (const item of ["BODY.PEEK[]", "BODY.PEEK[TEXT]<0.1>", "RFC822.HEADER", "ENVELOPE", "BODY"]) {
    assertEquals((await imap.ok(`FETCH 1 ${item}`)).length, 1);
    assertEquals(await flags(), "");
  }
  for (const item of ["BODY[]", "BODY[HEADER]<0.1>", "RFC822", "RFC822.TEXT"]) {
    const [answer, ...rest] = await imap.ok(`FETCH 1 ${item}`);
    assertEquals([itemsOf(answer).get("FLAGS"), rest], ["(\\Seen \\Recent)", []]);
    assertEquals(await flags(), "S");
    assertEquals(itemsOf((await imap.ok(`FETCH 1 ${item}`))[0]).size, 1);
    await imap.ok("STORE 1 FLAGS ()");
  }
});

Deno.test({
  name: "imap_server: STORE sets the five flags, and keeps those it has no name for",
  ignore,
}, async () => {
  await using server = await startServer();
  await server.maildir.deliver(octets(MESSAGE), { flags: "P" });
  using imap = await server.open("INBOX");
  for (
    const [store, told, flags] of [
      ["+FLAGS (\\Seen \\Answered)", "(\\Answered \\Seen)", "PRS"],
      ["-flags \\seen", "(\\Answered)", "PR"],
      ["FLAGS \\Flagged \\Draft \\Deleted", "(\\Flagged \\Deleted \\Draft)", "DFPT"],
      ["FLAGS (\\Recent $Forwarded word)", "()", "P"],
      ["+FLAGS.SILENT (\\Seen)", undefined, "PS"],
      ["FLAGS.SILENT ()", undefined, "P"],
    ]
  ) {
    assertEquals(await imap.ok(`STORE 1 ${store}`), told ? [`* 1 FETCH (FLAGS ${told})`] : []);
    assertEquals((await server.maildir.list())[0].flags, flags);
  }
  assertEquals(await imap.ok("UID STORE 1 +FLAGS \\Seen"), ["* 1 FETCH (UID 1 FLAGS (\\Seen))"]);
  assertEquals(await imap.ok("UID STORE 2:9 +FLAGS \\Seen"), []);
});

Deno.test({ name: "imap_server: SEARCH by every key", ignore }, async () => {
  await using server = await startServer();
  const received = (day: string) => new Date(`${day}T23:59:59Z`);
  const mail: [string, string, string][] = [
    ["S", "2020-01-01", MESSAGE],
    [
      "",
      "2020-01-02",
      "Subject: =?utf-8?q?gr=C3=BC=C3=9Fe?=\r\nCc: c@x\r\nBcc: d@x\r\n\r\nh\xc3\xa4\r\n",
    ],
    [
      "DFRST",
      "2020-01-03",
      "Subject: parts\r\nX-Empty:\r\nDate: 1 Mar 2020 00:00:00 +1400\r\n" +
      "Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain; charset=utf-8\r\n" +
      `Content-Transfer-Encoding: base64\r\n\r\n${btoa("c\xc3\xa9dille")}\r\n--b\r\n` +
      "Content-Type: text/html; charset=iso-8859-1\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" +
      "a=\r\n=F1o\r\n--b\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\ndeep\r\n--b\r\n" +
      "Content-Type: image/png\r\n\r\npicture\r\n--b--\r\n",
    ],
  ];
  for (const [flags, day, text] of mail) {
    await server.maildir.deliver(octets(text), { flags, received: received(day) });
  }
  using imap = await server.open("INBOX");
  for (
    const [keys, found] of Object.entries({
      "ALL": "1 2 3",
      "ANSWERED": "3",
      "DELETED": "3",
      "DRAFT": "3",
      "FLAGGED": "3",
      "SEEN": "1 3",
      "UNANSWERED": "1 2",
      "UNDELETED": "1 2",
      "UNDRAFT": "1 2",
      "UNFLAGGED": "1 2",
      "UNSEEN": "2",
      "RECENT": "2",
      "NEW": "2",
      "OLD": "1 3",
      "KEYWORD $Junk": "",
      "UNKEYWORD $Junk": "1 2 3",
      "BEFORE 2-Jan-2020": "1",
      "ON 2-Jan-2020": "2",
      'SINCE "02-jan-2020"': "2 3",
      "SENTBEFORE 8-Feb-1994": "1",
      "SENTON 7-Feb-1994": "1",
      "SENTSINCE 1-Mar-2020": "3",
      [`LARGER ${MESSAGE.length}`]: "3",
      [`SMALLER ${MESSAGE.length}`]: "2",
      "SUBJECT ONE": "1",
      'SUBJECT ""': "1 2 3",
      "FROM ann@": "1",
      "TO bob": "1",
      "CC c@": "2",
      "BCC d@": "2",
      'HEADER X-Empty ""': "3",
      "HEADER Subject art": "3",
      "BODY hello": "1",
      "BODY one": "",
      "TEXT one": "1",
      "TEXT bob@": "1",
      "CHARSET UTF-8 BODY c\xc3\x89d": "",
      [`CHARSET UTF-8 BODY ${literal("c\xc3\x89D")}`]: "3",
      [`SUBJECT ${literal("gr\xc3\xbc\xc3\x9f")}`]: "2",
      [`BODY ${literal("h\xc3\x84")}`]: "2",
      [`BODY ${literal("a\xc3\xb1o")}`]: "3",
      "BODY deep": "3",
      "BODY inner": "3",
      "TEXT picture": "",
      "NOT SEEN": "2",
      "NOT NOT SEEN": "1 3",
      "OR SUBJECT one CC c": "1 2",
      "OR (SEEN DELETED) (UNSEEN ON 2-Jan-2020)": "2 3",
      "SEEN UNDELETED": "1",
      "2:*": "2 3",
      "1,3 SEEN": "1 3",
      "UID 2:99": "2 3",
      "((((ALL))))": "1 2 3",
    })
  ) {
    // Outside of a literal 8 bits are no string.
    const { untagged, tagged } = await imap.ask(`SEARCH ${keys}`);
    if (/^[ -~]*$|\{/.test(keys)) {
      assertEquals(untagged, [found ? `* SEARCH ${found}` : "* SEARCH"], keys);
    } else assertMatch(tagged, /^BAD/);
  }
  assertMatch(
    (await imap.ask("SEARCH CHARSET KOI8-R ALL")).tagged,
    /^NO \[BADCHARSET \(US-ASCII UTF-8\)\]/,
  );
  await imap.ok("STORE 1 +FLAGS \\Deleted");
  await imap.ok("UID EXPUNGE 1");
  assertEquals(await imap.ok("UID SEARCH ALL"), ["* SEARCH 2 3"]);
  assertEquals(await imap.ok("SEARCH ALL"), ["* SEARCH 1 2"]);
});

Deno.test({ name: "imap_server: LIST and LSUB", ignore }, async () => {
  await using server = await startServer();
  using imap = await server.open();
  for (const name of ["Work.2024.May", "Work.2023", "Works", "In&AOQ-.x"]) {
    await imap.ok(`CREATE ${name}`);
  }
  const list = async (command: string) =>
    (await imap.ok(command)).map((line) => line.replace(/^\* L\w+ \((.*)\) "\." "(.*)"$/, "$2$1"));
  for (
    const [command, ...names] of [
      ['LIST "" *', "INBOX", "In&AOQ-.x", "Work.2023", "Work.2024.May", "Works"],
      ['LIST "" %', "INBOX", "In&AOQ-\\Noselect", "Work\\Noselect", "Works"],
      ['LIST "" inbox', "INBOX"],
      ['LIST "" Work.%', "Work.2023", "Work.2024\\Noselect"],
      ["LIST Work. %", "Work.2023", "Work.2024\\Noselect"],
      ['LIST "" W*y', "Work.2024.May"],
      ['LIST "" %.%', "In&AOQ-.x", "Work.2023", "Work.2024\\Noselect"],
      ['LIST "" "Work"', "Work\\Noselect"],
      ['LIST "" nowhere'],
      [`LIST "" ${"*%".repeat(400)}`, "INBOX", "In&AOQ-.x", "Work.2023", "Work.2024.May", "Works"],
      ['LIST "" ""', "\\Noselect"],
      ['LIST "" ../%'],
      ['LSUB "" *'],
    ]
  ) assertEquals(await list(command), names, command);
  await imap.ok("SUBSCRIBE Work.2024.May");
  await imap.ok("SUBSCRIBE inbox");
  assertMatch((await imap.ask("SUBSCRIBE nowhere")).tagged, /^NO/);
  assertEquals(await list('LSUB "" *'), ["Work.2024.May", "INBOX"]);
  assertEquals(await list('LSUB "" %'), ["Work\\Noselect", "INBOX"]);
  await imap.ok("DELETE Work.2024.May");
  assertEquals(await list('LSUB "" *'), ["Work.2024.May", "INBOX"]); // a subscription outlives it
  await imap.ok("UNSUBSCRIBE Work.2024.May");
  assertEquals(await list('LSUB "" *'), ["INBOX"]);
});

Deno.test({ name: "imap_server: CREATE, RENAME, DELETE, STATUS", ignore }, async () => {
  await using server = await startServer();
  await server.maildir.deliver(octets(MESSAGE));
  await server.maildir.deliver(octets(MESSAGE), { flags: "S" });
  using imap = await server.open();
  for (
    const [command, answer] of [
      ["CREATE Work.", "OK done"],
      ["CREATE Work", "NO [ALREADYEXISTS] it is there already"],
      ["CREATE InBox", "NO [ALREADYEXISTS] it is there already"],
      ["RENAME Work INBOX", "NO [ALREADYEXISTS] it is there already"],
      ["RENAME Work Work.a.b", "OK done"],
      ["RENAME Work.a Play", "OK done"],
      ["DELETE Play", "NO [NONEXISTENT] there is no such mailbox"],
      ["DELETE Play.b", "OK done"],
      ["DELETE inbox", "NO [CANNOT] INBOX cannot be deleted"],
      ...["../x", "a/b", "/etc", "a..b", ".a", literal("a\0b"), literal("a\r\nb"), '""', '"*"', "."]
        .map(
          (name) => [`CREATE ${name}`, "NO [CANNOT] no folder can have that name"],
        ),
      ["SELECT ../../etc", "NO [NONEXISTENT] there is no such mailbox"],
      ["RENAME INBOX Old", "OK done"],
      ["RENAME nowhere x", "NO [NONEXISTENT] there is no such mailbox"],
      ["COPY 1 x", "BAD no such command, or not now"],
    ]
  ) assertEquals((await imap.ask(command)).tagged, answer, command);
  const status = async (name: string) =>
    (await imap.ok(`STATUS ${name} (MESSAGES RECENT UNSEEN UIDNEXT)`))[0];
  assertEquals(await status("inbox"), '* STATUS "INBOX" (MESSAGES 0 RECENT 0 UNSEEN 0 UIDNEXT 3)');
  assertEquals(await status("Old"), '* STATUS "Old" (MESSAGES 2 RECENT 1 UNSEEN 1 UIDNEXT 3)');
  const validity = async () => (await imap.ok("STATUS New (UIDVALIDITY)"))[0];
  await imap.ok("CREATE New");
  const before = await validity();
  await imap.ok("SELECT New");
  await imap.ok("DELETE New"); // which is the end of what is selected
  assertEquals((await imap.ask("CHECK")).tagged, "BAD no such command, or not now");
  await imap.ok("CREATE New");
  assert(before < await validity());
});

Deno.test({ name: "imap_server: APPEND and COPY say where a message is", ignore }, async () => {
  await using server = await startServer();
  using imap = await server.open("INBOX");
  await imap.ok("CREATE Copies");
  const date = '"29-Feb-2020 13:34:56 +0100"';
  const { untagged, tagged } = await imap.ask(
    `APPEND inbox (\\Seen \\Draft) ${date} ${literal(MESSAGE)}`,
  );
  assertEquals(untagged, ["* 1 EXISTS", "* 1 RECENT"]);
  assertMatch(tagged, /^OK \[APPENDUID \d+ 1\] stored$/);
  await imap.ok(`APPEND INBOX ${literal("\n\nx")}`);
  await imap.ok(`APPEND INBOX () " 1-Jan-1970 00:00:00 -0000" ${literal("")}`);
  assertMatch((await imap.ask(`APPEND nowhere ${literal("x")}`)).tagged, /^NO \[TRYCREATE\]/);
  assertMatch((await imap.ask("COPY 1 nowhere")).tagged, /^NO \[TRYCREATE\]/);
  assertEquals((await imap.ask("UID COPY 9:99 Copies")).tagged, "OK nothing to copy");
  assertMatch((await imap.ask("COPY 1,3 Copies")).tagged, /^OK \[COPYUID \d+ 1,3 1:2\] copied$/);
  await imap.ok("STORE 2 +FLAGS.SILENT \\Deleted");
  await imap.ok("EXPUNGE");
  assertMatch(
    (await imap.ask("UID COPY 1:3 Copies")).tagged,
    /^OK \[COPYUID \d+ 1,3 3:4\] copied$/,
  );
  await imap.ok("EXAMINE Copies");
  const items = "(FLAGS INTERNALDATE RFC822.SIZE)";
  assertEquals((await imap.ok(`FETCH 1,2 ${items}`)).map((line) => [...itemsOf(line).values()]), [
    ["(\\Seen \\Draft \\Recent)", '"29-Feb-2020 12:34:56 +0000"', `${MESSAGE.length}`],
    ["(\\Recent)", '"01-Jan-1970 00:00:00 +0000"', "0"],
  ]);
});

Deno.test({
  name: "imap_server: sessions and programs see each other's changes, when they may",
  ignore,
}, async () => {
  await using server = await startServer();
  for (let i = 0; i < 4; i++) await server.maildir.deliver(octets(MESSAGE));
  using one = await server.open("INBOX");
  using two = await server.open("INBOX");
  assertEquals(await one.ok("STORE 1 +FLAGS \\Flagged"), [
    "* 1 FETCH (FLAGS (\\Flagged \\Recent))",
  ]);
  assertEquals(await two.ok("NOOP"), ["* 1 FETCH (FLAGS (\\Flagged))"]); // recent for the first alone
  // Two changes at once, of which each session knows its own.
  await Promise.all([
    one.ok("STORE 2 +FLAGS.SILENT \\Seen"),
    two.ok("STORE 2 +FLAGS.SILENT \\Draft"),
  ]);
  assertEquals((await server.maildir.list())[1].flags, "DS");
  for (const session of [one, two]) {
    await session.ok("NOOP");
    assertMatch((await session.ok("FETCH 2 FLAGS"))[0], /\\Seen \\Draft/);
  }
  // Sequence numbers stay while a command is about them.
  await two.ok("STORE 2:3 +FLAGS.SILENT \\Deleted");
  await two.ok("EXPUNGE");
  const gone = "NO [EXPUNGEISSUED] some of the messages are gone";
  for (const command of ["FETCH 1:4 UID", "STORE 3:4 +FLAGS.SILENT \\Seen", "COPY 2:4 INBOX"]) {
    const { untagged, tagged } = await one.ask(command);
    assertEquals(tagged, gone);
    assertEquals(untagged.some((line) => line.endsWith("EXPUNGE")), command.startsWith("COPY"));
    if (command.startsWith("COPY")) {
      assertEquals(untagged.slice(0, 2), ["* 3 EXPUNGE", "* 2 EXPUNGE"]);
    }
  }
  assertEquals((await server.maildir.list()).length, 2); // of COPY all or none
  assertEquals(await one.ok("UID SEARCH ALL"), ["* SEARCH 1 4"]);
  // Another program delivers, sets flags, and deletes.
  await two.ok("NOOP");
  const [first] = await server.maildir.list();
  await server.maildir.setFlags(first, "");
  await server.maildir.deliver(octets(MESSAGE));
  assertEquals(await one.ok("NOOP"), ["* 3 EXISTS", "* 3 RECENT", "* 1 FETCH (FLAGS (\\Recent))"]);
  await server.maildir.remove(first);
  assertMatch((await two.ask("FETCH 1 BODY[]")).tagged, /^NO \[EXPUNGEISSUED\]/);
  assertEquals(await two.ok("CHECK"), ["* 1 EXPUNGE"]);
});

/** A client that believes what it is told: the flags of each message, or not yet. */
class Believer {
  readonly view: (string | undefined)[] = [];

  constructor(readonly imap: Imap) {}

  /** Sends a command and takes in what comes back. */
  async ask(command: string): Promise<void> {
    const { untagged, tagged } = await this.imap.ask(command);
    assertMatch(tagged, /^OK|EXPUNGEISSUED/, command);
    for (const line of untagged) {
      const [, digits, kind, flags] =
        /^\* (\d+) (EXISTS|EXPUNGE|FETCH)(?: \([^]*FLAGS \((.*?)\))?/.exec(line) ?? [];
      const n = Number(digits);
      if (kind === "EXPUNGE") assertEquals(this.view.splice(n - 1, 1).length, 1, line);
      if (kind === "FETCH" && flags !== undefined) {
        assert(n <= this.view.length, line);
        this.view[n - 1] = flags.replace(/ ?\\Recent/, "");
      }
      if (kind !== "EXISTS") continue;
      assert(n >= this.view.length, line); // it shrinks by EXPUNGE alone
      while (this.view.length < n) this.view.push(undefined);
    }
  }
}

Deno.test({ name: "imap_server: what many clients believe in the end is so", ignore }, async () => {
  await using server = await startServer();
  for (let i = 0; i < 20; i++) await server.maildir.deliver(octets(MESSAGE));
  const chance = random(3);
  const clients: Believer[] = [];
  for (let i = 0; i < 4; i++) {
    clients.push(new Believer(await server.open()));
    await clients[i].ask("SELECT INBOX");
    await clients[i].ask("FETCH 1:* FLAGS");
  }
  const flags = () =>
    ["\\Seen", "\\Flagged", "\\Deleted", "\\Draft"].filter(() => chance(3) === 0).join(" ");
  const act = async (client: Believer) => {
    const n = 1 + chance(Math.max(1, client.view.length));
    const sign = ["+", "-", ""][chance(3)];
    const commands = [
      `APPEND INBOX (${flags()}) ${literal(MESSAGE)}`,
      ...["NOOP", "UID SEARCH UNSEEN", "CHECK", "NOOP"],
      ...client.view.length > 0
        ? [
          `STORE ${n} ${sign}FLAGS (${flags()})`,
          `STORE ${n} ${sign}FLAGS.SILENT (\\Answered)`,
          `FETCH ${n}:* (UID FLAGS)`,
          `FETCH ${n} BODY[TEXT]`,
          `COPY ${n} INBOX`,
          "EXPUNGE",
        ]
        : [],
    ];
    const command = commands[chance(commands.length)];
    await client.ask(command);
    if (/SILENT/.test(command) && client.view[n - 1] !== undefined) {
      await client.ask(`FETCH ${n} FLAGS`);
    }
  };
  const program = async () => {
    const messages = await server.maildir.list();
    const message = messages[chance(messages.length)];
    if (chance(3) === 0 || !message) await server.maildir.deliver(octets(MESSAGE));
    else if (chance(2) === 0) await server.maildir.remove(message);
    else await server.maildir.setFlags(message, chance(2) ? "S" : "T").catch(() => {}); // gone
  };
  await Promise.all(
    [...clients.map((client) => async () => await act(client)), program].map(async (step) => {
      for (let i = 0; i < 80; i++) await step();
    }),
  );
  using truth = await server.open("INBOX");
  const answers = (await truth.ok("FETCH 1:* FLAGS")).map((line) => itemsOf(line).get("FLAGS"));
  const known = answers.map((flags) => flags?.replace(/ ?\\Recent/, "").slice(1, -1));
  for (const client of clients) {
    await client.ask("NOOP");
    assertEquals(client.view.map((flags, i) => flags ?? known[i]), known);
    client.imap.conn.close();
  }
});

Deno.test(
  { name: "imap_server: only EXPUNGE and CLOSE remove, and CLOSE says nothing", ignore },
  async () => {
    await using server = await startServer();
    for (let i = 0; i < 6; i++) await server.maildir.deliver(octets(MESSAGE));
    const left = async () => (await server.maildir.list()).length;
    {
      using imap = await server.open("INBOX");
      await imap.ok("STORE 1:5 +FLAGS.SILENT \\Deleted");
    } // which hangs up
    using imap = await server.open("INBOX");
    assertEquals((await imap.ok("SEARCH DELETED"))[0], "* SEARCH 1 2 3 4 5");
    await imap.ok("UNSELECT");
    await imap.ok("EXAMINE INBOX");
    await imap.ok("CLOSE");
    await imap.ok("SELECT INBOX");
    await imap.ok("SELECT INBOX");
    assertEquals(await left(), 6);
    assertEquals(await imap.ok("UID EXPUNGE 2,6"), ["* 2 EXPUNGE"]); // 6 is not deleted
    await server.maildir.setFlags((await server.maildir.list())[0], ""); // a change of mind elsewhere
    assertEquals(
      await imap.ok("EXPUNGE"),
      [
        ...["* 4 EXPUNGE", "* 3 EXPUNGE", "* 2 EXPUNGE"],
        "* 1 FETCH (FLAGS (\\Recent))",
      ].map((line) => line.replace(" (\\Recent)", " ()")),
    );
    await imap.ok("STORE 1:* +FLAGS \\Deleted");
    assertEquals(await imap.ok("CLOSE"), []);
    assertEquals(await left(), 0);
  },
);

Deno.test(
  { name: "imap_server: IDLE tells of what comes, from here and elsewhere", ignore },
  async () => {
    await using server = await startServer();
    using idle = await server.open("INBOX");
    await idle.send("i IDLE\r\n");
    assertEquals(await idle.next(), "+ idling");
    using other = await server.open("INBOX");
    await other.ok(`APPEND INBOX ${literal(MESSAGE)}`);
    assertEquals([await idle.next(), (await idle.next()).slice(3)], ["* 1 EXISTS", " RECENT"]);
    await other.ok("STORE 1 FLAGS \\Deleted");
    assertMatch(await idle.next(), /^\* 1 FETCH \(FLAGS \(\\Deleted/);
    await other.ok("EXPUNGE");
    assertEquals(await idle.next(), "* 1 EXPUNGE");
    await server.maildir.deliver(octets(MESSAGE));
    assertEquals(await idle.next(), "* 1 EXISTS");
    await idle.next();
    await idle.send("DONE\r\nj NOOP\r\n");
    assertEquals([await idle.next(), await idle.next()], ["i OK done", "j OK done"]);
    await idle.send("k IDLE\r\n");
    await idle.next();
    await idle.send("l NOOP\r\n");
    assertEquals(await idle.next(), "k BAD DONE expected");
    await idle.ok("UNSELECT");
    await idle.send("m IDLE\r\ndone\r\n"); // with nothing selected
    assertEquals([await idle.next(), await idle.next()], ["+ idling", "m OK done"]);
  },
);

Deno.test({ name: "imap_server: who idles is not silent", ignore }, async () => {
  await using server = await startServer(1000);
  using idle = await server.open("INBOX");
  using silent = await server.open("INBOX");
  await idle.send("i IDLE\r\n");
  assertEquals(await idle.next(), "+ idling");
  for (let i = 0; i < 4; i++) assertEquals(await idle.next(), "* OK still here");
  await idle.send("DONE\r\n");
  assertEquals(await idle.next(), "i OK done");
  assertEquals(await silent.next(), "");
});

Deno.test(
  { name: "imap_server: a mailbox that somebody deletes ends the sessions in it", ignore },
  async () => {
    await using server = await startServer();
    using owner = await server.open();
    await owner.ok("CREATE Gone");
    using one = await server.open("Gone");
    using two = await server.open("Gone");
    await two.send("i IDLE\r\n");
    await two.next();
    await owner.ok("RENAME Gone Lost"); // it has another name, and is the same
    await owner.ok(`APPEND Lost ${literal(MESSAGE)}`);
    assertEquals((await one.ok("NOOP")).length, 2);
    assertEquals([await two.next(), (await two.next()).slice(3)], ["* 1 EXISTS", " RECENT"]);
    await owner.ok("DELETE Lost");
    assertEquals((await one.ask("NOOP")).tagged, "NO the mailbox is gone");
    assertEquals(await one.next(), "* BYE the mailbox is gone");
    assertEquals(await two.next(), "* BYE the mailbox is gone");
  },
);

Deno.test(
  { name: "imap_server: a command has its limit, which ends the conversation", ignore },
  async () => {
    await using server = await startServer();
    const refused = async (login: boolean, ...pieces: string[]) => {
      using imap = await (login ? server.open("INBOX") : Imap.open(server.port));
      for (const piece of pieces) await imap.send(piece).catch(() => {}); // it may be closed by then
      let last = "";
      for (let line; (line = await imap.next()) !== "";) last += `${line}\n`;
      assertMatch(last, /^(\+ go on\n)*\* BAD .*\n\* BYE\n$/);
    };
    await refused(true, `a SEARCH ${"ALL ".repeat(20_000)}\r\n`);
    await refused(true, "x".repeat(70_000)); // and no end
    await refused(true, "a SEARCH TEXT {65536}\r\n");
    await refused(true, "a SEARCH TEXT {9999999999+}\r\n");
    await refused(true, `a SEARCH TEXT ${literal("x".repeat(40_000))} TEXT {30000}\r\n`);
    await refused(true, "a APPEND INBOX {52500000}\r\n");
    await refused(false, "a APPEND INBOX {70000}\r\n");
    await refused(false, "a LOGIN mail {70000+}\r\n");
    using imap = await server.open("INBOX");
    const large = `Subject: large\r\n\r\n${"0123456789abcdef".repeat(64)}\r\n`.repeat(2000);
    await imap.ok(`APPEND INBOX ${literal(large)}`);
    assertEquals(
      (await imap.ok("FETCH 1 RFC822.SIZE"))[0],
      `* 1 FETCH (RFC822.SIZE ${large.length})`,
    );
    const at = large.length - 70_000;
    const [part] = await imap.ok(`FETCH 1 BODY.PEEK[]<${at}.65536>`);
    assertEquals(part, `* 1 FETCH (BODY[]<${at}> {65536}\r\n${large.slice(at, at + 65536)})`);
    const [whole] = await imap.ok("FETCH 1 BODY.PEEK[]");
    assert(whole === `* 1 FETCH (BODY[] {${large.length}}\r\n${large})`);
    assertEquals(await eventually("all are closed", () => server.log.length >= 7), undefined);
  },
);

Deno.test(
  { name: "imap_server: garbage is answered or hung up on, and nobody else minds", ignore },
  async () => {
    await using server = await startServer();
    await server.maildir.deliver(octets(MESSAGE));
    using good = await server.open("INBOX");
    const seeds = [
      'a FETCH 1:* (FLAGS UID BODY.PEEK[1.HEADER.FIELDS (TO "x")]<0.5> ENVELOPE BODYSTRUCTURE)',
      'a SEARCH CHARSET UTF-8 OR (SEEN NOT 1:*) SUBJECT "x" SINCE 1-Feb-1994 UID 1,3:*',
      "a STORE 1 +FLAGS.SILENT (\\Seen $x)",
      'a APPEND INBOX (\\Seen) " 1-Feb-1994 00:00:00 +0000" {3+}\r\nabc',
      'a LIST "" %.*',
      "a STATUS INBOX (MESSAGES UNSEEN)",
      "a UID COPY 1 INBOX",
      'a SELECT "INBOX"',
    ];
    const chance = random(7);
    const alphabet = '()[]{}<>"\\ *%.,:+-0129aZ\r\n\0\xff~';
    for (let i = 0; i < 150; i++) {
      using imap = await server.open("INBOX");
      let talk = "";
      for (let j = 0; j < 10; j++) {
        const text = [...seeds[chance(seeds.length)]];
        for (let k = chance(4); k >= 0; k--) {
          const at = chance(text.length);
          const letter = alphabet[chance(alphabet.length)];
          if (chance(3) === 0) text.splice(at, chance(5));
          else if (chance(2) === 0) text.splice(at, 0, letter);
          else text[at] = letter;
        }
        talk += `${text.join("")}\r\n`;
      }
      await imap.send(`${talk}\r\nz NOOP\r\n`);
      await imap.conn.conn.closeWrite();
      for (let line; (line = await imap.next()) !== "";) {
        assertMatch(
          line,
          /^(\*|\+|[^ ]+ (OK|NO|BAD)) /,
        );
      }
      await good.ok("NOOP");
    }
    assertEquals(
      server.log.filter((line) =>
        !/listening|command too long|line of more|middle of a/.test(line)
      ),
      [],
    );
  },
);

/** Checks that the parts of a message are in each other, one after the other; returns their number. */
function checkParts(part: ReturnType<typeof parseMessage>): number {
  const { header, body, parts } = part;
  let [at, count] = [body.byteOffset, 1];
  if (header.length > 0) assert(header.byteOffset + header.length <= at);
  for (const inner of parts) {
    count += checkParts(inner);
    for (const piece of [inner.header, inner.body].filter(({ length }) => length > 0)) {
      assert(piece.byteOffset >= at);
      at = piece.byteOffset + piece.length;
    }
    assert(at <= body.byteOffset + body.length);
  }
  return count;
}

Deno.test("imap_server: the parts of any message are in it, and there is a limit to them", () => {
  const pieces = [
    ...[
      "\r\n",
      "\r\n\r\n",
      "--a",
      "--b",
      "--ab",
      "--a--",
      "--b--",
      "--",
      "text",
      "Subject: x\r\n",
      ": ",
      "\xff",
    ],
    ...[
      "Content-Type: multipart/mixed; boundary=a\r\n",
      "Content-Type: message/rfc822\r\n",
      "\t",
      " ",
      "a:",
    ],
    ...[
      'Content-Type: multipart/digest; boundary="b"\r\n',
      'Content-Type: text/plain; x="',
      "\r",
      '"',
      ";",
    ],
    ...["Content-Type: multipart/x; boundary=ab\r\n", "From: (((\r\n", 'To: "<@:;,\r\n'],
  ];
  const chance = random(11);
  for (let i = 0; i < 5000; i++) {
    const text = Array.from({ length: chance(40) }, () => pieces[chance(pieces.length)]).join("");
    const data = Buffer.from(text, "latin1");
    const root = parseMessage(data);
    checkParts(root);
    assertEquals(Buffer.concat([root.header, root.body]).toString("latin1"), text);
    for (const what of ["", "HEADER", "TEXT", "MIME", "HEADER.FIELDS", "HEADER.FIELDS.NOT"]) {
      const path = Array.from({ length: chance(5) }, () => 1 + chance(3));
      sectionOf({ data, root }, { path, what, names: ["Subject"] });
    }
  }
  const nested = (i: number) => `Content-Type: multipart/mixed; boundary=b${i}\r\n\r\n--b${i}\r\n`;
  const deep = Array.from({ length: 10_000 }, (_, i) => nested(i)).join("");
  const many = `${nested(0)}\r\nx\r\n${"--b0\r\n\r\nx\r\n".repeat(10_000)}`;
  for (
    const text of [
      ...[deep, many, "Content-Type: message/rfc822\r\n\r\n".repeat(10_000)],
      ...[
        "a:\r\n".repeat(100_000),
        `${nested(0)}${"--\r\n".repeat(100_000)}`,
        "\r\n".repeat(100_000),
      ],
      ...[
        `Subject: ${"x".repeat(1_000_000)}`,
        `Content-Type: text/plain${"; a=b".repeat(100_000)}`,
      ],
    ]
  ) assert(checkParts(parseMessage(Buffer.from(text))) <= 3000);
});

Deno.test(
  { name: "imap_server: 10,000-deep mail and hostile headers are told of", ignore },
  async () => {
    await using server = await startServer();
    const nested = (i: number) =>
      `Content-Type: multipart/mixed; boundary=b${i}\r\n\r\n--b${i}\r\n`;
    const mail = [
      Array.from({ length: 10_000 }, (_, i) => nested(i)).join(""),
      "Content-Type: message/rfc822\r\n\r\n".repeat(10_000),
      `From: ${"(".repeat(100_000)}\r\nTo: ${"<".repeat(100_000)}\r\nCc: ${
        '"\\'.repeat(50_000)
      }\r\n\r\nx`,
      `From: ${"a@b, ".repeat(20_000)}\r\nSubject: ${"=?utf-8?q?".repeat(10_000)}\r\n\r\nx`,
      `Content-Type: text/plain; ${" ".repeat(60_000)}x${" ".repeat(60_000)}\r\n\r\nx`,
      `Content-Type: text/plain; charset=nonsense\r\nContent-Transfer-Encoding: base64\r\n\r\n===`,
    ];
    for (const text of mail) await server.maildir.deliver(octets(text));
    using imap = await server.open("INBOX");
    const answers = await imap.ok("FETCH 1:* (ENVELOPE BODYSTRUCTURE)");
    assertEquals(answers.length, mail.length);
    for (const answer of answers) assertEquals(itemsOf(answer).size, 2);
    assertEquals(await imap.ok("SEARCH TEXT nowhere"), ["* SEARCH"]);
    assertEquals(await imap.ok("SEARCH FROM a@b SUBJECT utf"), ["* SEARCH 4"]);
  },
);

Deno.test({ name: "imap_server in each form", ignore: missing("openssl") }, async () => {
  await using folder = await temporaryFolder();
  const path = `${folder.path}/mail`;
  let uid = 0;
  for await (const { form, server, ask } of inEachForm("imap_server", folder.path, [path])) {
    const [, password] = await server.until(
      /^imap_server: made a password for mail: (\S{16})$/m,
      "stderr",
    );
    const [, value] = ask;
    const to = form === "Unix"
      ? { unix: value }
      : { port: Number(value), host: form === "IPv6" ? "::1" : "localhost" };
    const tls = form === "TLS" ? { tls: true, ca: `${folder.path}/cert.pem` } : {};
    using imap = await Imap.open({ ...to, ...tls }, password);
    assertMatch(
      (await imap.ask(`APPEND INBOX ${literal(MESSAGE)}`)).tagged,
      new RegExp(` ${++uid}\\]`),
    );
    await imap.ok("LOGOUT");
    imap.conn.close();
    server.signal("SIGTERM");
    assertEquals((await server.ended()).code, 0);
  }
});

Deno.test(
  { name: "imap_server: UIDs and flags survive a restart, and kill -9", ignore },
  async () => {
    await using folder = await temporaryFolder();
    const known = new Map<string, string>(); // the subject by the UID
    let validity = "";
    for (let round = 0; round < 3; round++) {
      await using server = startProgram(folder.path);
      using imap = await Imap.open(await server.port(), PASSWORD);
      const [, v] = /UIDVALIDITY (\d+)/.exec((await imap.ok("SELECT INBOX")).join()) ?? [];
      assertEquals(v, validity ||= v);
      const items = (await imap.ok("UID FETCH 1:* (FLAGS BODY.PEEK[TEXT])")).map(itemsOf);
      const here = new Map(
        items.map((item) => [`${item.get("UID")}`, `${item.get("BODY[TEXT]")}`]),
      );
      for (const [uid, text] of known) assertEquals(here.get(uid), text);
      if (round > 0) assertEquals(items[0].get("FLAGS"), "(\\Flagged)");
      else {
        await imap.ok(`APPEND INBOX ${literal("\r\nfirst")}`);
        await imap.ok("STORE 1 FLAGS \\Flagged");
        known.set("1", "{5}\r\nfirst");
      }
      // It is killed while messages are stored and their UIDs told, the last of which is removed.
      const { uids } = { uids: known.size };
      setTimeout(() => server.signal("SIGKILL"), 200 + 100 * round);
      try {
        for (let i = 0;; i++) {
          const text = `round ${round} message ${i}`;
          const { tagged } = await imap.ask(`APPEND INBOX ${literal(`\r\n${text}`)}`);
          const [, uid] = /APPENDUID \d+ (\d+)/.exec(tagged) ?? [];
          assert(uid && !known.has(uid), `${uid} twice`);
          known.set(uid, `{${text.length}}\r\n${text}`);
        }
      } catch {
        assert(known.size > uids, "it was killed before anything was stored");
      }
    }
  },
);

Deno.test(
  { name: "imap_server: Ctrl-C says goodbye, wrong command lines are told", ignore },
  async () => {
    await using folder = await temporaryFolder();
    await using server = startProgram(folder.path);
    const port = await server.port();
    using waiting = await Imap.open(port, PASSWORD);
    using idle = await Imap.open(port, PASSWORD);
    await idle.send("i IDLE\r\n");
    await idle.next();
    const second = await run("imap_server", ["--port", "0", folder.path]);
    assertEquals([second.code, second.stderr], [
      1,
      `imap_server: ${folder.path}: in use by another server\n`,
    ]);
    const taken = await run("imap_server", ["--port", `${port}`, `${folder.path}/other`]);
    assertEquals([taken.code, taken.stderr], [
      1,
      `imap_server: 127.0.0.1:${port}: address already in use\n`,
    ]);
    server.signal("SIGINT");
    assertEquals(await waiting.next(), "* BYE the server stops");
    assertEquals(await idle.next(), "* BYE the server stops");
    const { code, stderr } = await server.ended();
    assertEquals(code, 0, stderr);
    assert(!/cut off|secret/.test(stderr), stderr);
    assertEquals((await run("imap_server")).code, 2);
    assertEquals((await run("imap_server", ["--help"])).code, 0);
    const file = `${folder.path}/file`;
    await Deno.writeTextFile(file, "");
    assertEquals((await run("imap_server", ["--port", "0", file])).code, 1);
  },
);
