import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { LimitError } from "../../lib/framing.ts";
import { checkArticle, News, type Summary, thread } from "../../scripts/nntp_client.ts";
import {
  BadArticleError,
  converse,
  inject,
  matches,
  parseArticle,
  relay,
  Spool,
} from "../../scripts/nntp_server.ts";
import { mayRun, missing, run, start, temporaryFolder } from "../helpers.ts";
import { latin1, octets, random, receiving } from "../lib/wire.ts";
import { dial, eventually, hear, memory } from "../peers/peers.ts";
import { inEachForm, testServer } from "./rig.ts";

const ignore = !mayRun;
const [DATE, TODAY] = ["Sat, 29 Nov 2025 12:00:00 +0000", new Date()];
const HEADER = "From: Ann <ann@example.org>\r\nNewsgroups: local.test\r\nSubject: one\r\n";

/** An article of another server's. */
function article(id: string, more = "", body = "text\r\n"): string {
  return `Path: there\r\nMessage-ID: ${id}\r\nDate: ${DATE}\r\n${more}${HEADER}\r\n${body}`;
}

/** A spool in a temporary folder, with these articles. */
async function newSpool(
  ...articles: string[]
): Promise<AsyncDisposable & { spool: Spool; path: string }> {
  const folder = await temporaryFolder();
  const path = `${folder.path}/spool`;
  const spool = await Spool.open(path, [["local.test", "to try things"], ["local.talk", ""]]);
  for (const text of articles) await spool.store(parseArticle(octets(text)));
  return {
    spool,
    path,
    async [Symbol.asyncDispose]() {
      try {
        spool[Symbol.dispose]();
      } catch {
        // The test has done it.
      }
      await folder[Symbol.asyncDispose]();
    },
  };
}

/** Sends pieces to a server and no more; returns what it answers after the greeting. */
async function talk(spool: Spool, ...pieces: string[]): Promise<string> {
  const { wire, conn } = receiving(...pieces, null);
  await converse(conn, spool, (line) => {
    throw new Error(line);
  });
  const [greeting] = /^200 .*\r\n/.exec(wire.written) ?? [""];
  return wire.written.slice(greeting.length);
}

/** The same, of lines that have only a text for people behind the code, the code alone. */
async function codes(spool: Spool, ...pieces: string[]): Promise<string> {
  return (await talk(spool, ...pieces)).replace(
    /^(1\d\d|20\d|215|22[145]|23\d|24\d|33\d|340|4\d\d|5\d\d) .*\r$/gm,
    "$1\r",
  );
}

Deno.test("a name fits a wildmat by the last pattern that it fits", () => {
  for (
    const [wildmat, name, fits] of [
      ["*", "a.b", true],
      ["", "a.b", false],
      ["a.b", "a.b", true],
      ["a.b", "a.bc", false],
      ["A.b", "a.b", false],
      ["a.*", "a.b", true],
      ["a.*", "a.", true],
      ["a.*", "a", false],
      ["*.b", "a.b.b", true],
      ["*a*", "bab", true],
      ["*ab", "aab", true],
      ["a?c", "abc", true],
      ["a?c", "ac", false],
      ["???", "abc", true],
      ["a**b", "ab", true],
      ["*,!a.*", "a.b", false],
      ["*,!a.*", "b.a", true],
      ["*,!a.*,a.b", "a.b", true],
      ["!a.*,*", "a.b", true],
      ["!a.*", "b", false],
      ["a,b", "b", true],
      ["a.+", "a.+", true],
      ["a.b", "axb", false],
    ] as const
  ) assertEquals(matches(name, wildmat), fits, `${wildmat} ${name}`);
  const began = performance.now();
  assertEquals(matches("a".repeat(200), "*a".repeat(240) + "b"), false);
  assertEquals(matches("a".repeat(200), "*a".repeat(100) + "*b*"), false);
  assert(performance.now() - began < 1000);
});

Deno.test("an article that another program could read otherwise is none", () => {
  const good = article("<1@example.org>");
  assertEquals(parseArticle(octets(good)).body, "text\r\n");
  const folded = good.replace("Subject: one", "Subject: one\r\n\ttwo\r\n  three");
  assertEquals(parseArticle(octets(folded)).values.get("subject"), "one\ttwo  three");
  for (
    const [bad, why] of [
      ["", "no empty line"],
      [HEADER, "no empty line"],
      [good.replace("one", "o\0ne"), "NUL"],
      [good.replace("text", "t\rext"), "alone"],
      [good.replace("text\r\n", "text\n"), "alone"],
      [good.replace("one\r\n", "one\n"), "alone"],
      [good.replace("one", "o\x1bne"), "control character"],
      [good.replace("Subject: one", "Subject:one"), "not a header field"],
      [good.replace("Subject: one", "Subject: "), "not a header field"],
      [good.replace("Subject: one", "Sub ject: one"), "not a header field"],
      [good.replace("Subject: one", "Subject : one"), "not a header field"],
      [good.replace("Subject: one", "Subj\xfcct: one"), "not a header field"],
      [good.replace("Subject: one", "Subject: one\r\n \t"), "not a header field"],
      [good.replace("Subject: one", "Subject: \r\n one"), "not a header field"],
      [` ${good}`, "not a header field"],
      [`\r\n${good}`, "not a header field"],
      [good.replace("Subject: one\r\n", ""), "Subject is missing"],
      [good.replace("Newsgroups: local.test\r\n", ""), "Newsgroups is missing"],
      [good.replace(/From: .*\r\n/, ""), "From is missing"],
      [`subject: two\r\n${good}`, "Subject is there twice"],
      [`Message-ID: <2@example.org>\r\n${good}`, "Message-ID is there twice"],
      [`NEWSGROUPS: local.talk\r\n${good}`, "Newsgroups is there twice"],
      [`Date: ${DATE}\r\n${good}`, "Date is there twice"],
      ...["1@b", "<1>", "<@b>", "<a@>", "<a b@c>", "<a@b>c", "<a@b><c@d>", "<a@b@c\x80>"]
        .concat(`<a@${"b".repeat(247)}>`)
        .map((id) => [article(id), "Message-ID is not one"]),
      [good.replace(DATE, "yesterday"), "Date is not one"],
      [good.replace(DATE, "5"), "Date is not one"],
      [good.replace(DATE, "Sat, 99 Nov 2025 12:00:00 +0000"), "Date is not one"],
      [good.replace(DATE, "Sat, 29 Nov 2225 12:00:00 +0000"), "more than a day ahead"],
      [`X: ${"x".repeat(65536)}\r\n${good}`, "more than 65536 bytes"],
    ]
  ) assertThrows(() => parseArticle(octets(bad)), BadArticleError, why);
  parseArticle(octets(article(`<a@${"b".repeat(246)}>`)));
  parseArticle(octets(`X: 1\r\nX: 2\r\nReceived: \xff\r\n${good}`)); // what is not of the standard
});

Deno.test("a post gets what it lacks, and keeps what it has (RFC 5537, 3.5)", () => {
  const made = parseArticle(octets(`${HEADER}\r\ntext`));
  inject(made, "127.0.0.1");
  const value = (name: string) => made.values.get(name) ?? "";
  assertMatch(value("message-id"), /^<[0-9a-f-]{36}@localhost>$/);
  assertMatch(value("date"), /^\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d \+0000$/);
  assertEquals(value("injection-date"), value("date"));
  assertEquals(value("injection-info"), 'localhost; posting-host="127.0.0.1"');
  assertEquals(value("path"), "localhost!.POSTED.127.0.0.1!not-for-mail");
  assertEquals(made.header.at(-1), ["subject", "Subject: one\r\n"]);

  const own = parseArticle(octets(article("<1@example.org>")));
  inject(own, "");
  assertEquals(latin1(octets(own.header.map(([, field]) => field).join(""))).split("\r\n"), [
    "Path: localhost!.POSTED!there",
    "Injection-Info: localhost",
    "Message-ID: <1@example.org>",
    `Date: ${DATE}`,
    ...HEADER.split("\r\n"),
  ]);
  for (
    const more of [
      "Injection-Info: elsewhere\r\n",
      "Xref: elsewhere local.test:1\r\n",
      "Path: elsewhere!.POSTED!x\r\n",
      "Path: .POSTED.1.2.3.4!x\r\n",
      "Path: a!b!POSTED!x\r\n",
    ]
  ) {
    const draft = parseArticle(octets(`${more}${HEADER}\r\n`));
    assertThrows(() => inject(draft, ""), BadArticleError);
  }
  const far = parseArticle(octets(article("<1@example.org>", "Xref: there x:5\r\n")));
  relay(far, "::1");
  assertEquals(far.values.get("path"), "localhost!.SEEN.::1!there");
  for (const name of ["Path", "Date", "Message-ID"]) {
    const text = article("<1@example.org>").replace(new RegExp(`${name}: .*\r\n`), "");
    assertThrows(
      () => relay(parseArticle(octets(text)), ""),
      BadArticleError,
      `${name} is missing`,
    );
  }
});

const [ONE, TWO, THREE] = ["<1@example.org>", "<2@example.org>", "<3@example.org>"];

/** Three articles, the second in both groups. */
async function three(): ReturnType<typeof newSpool> {
  return await newSpool(
    article(ONE, "", ".dot\r\n..\r\n"),
    article(TWO, `References: ${ONE}\r\n`, "").replace("local.test", "local.test,local.talk"),
    article(THREE, "", "end\r\n").replace("Subject: one", "Subject: th\tree\r\n four\xff"),
  );
}

Deno.test({ name: "nntp_server answers each command in each state", ignore }, async () => {
  await using news = await three();
  const { spool } = news;
  const files = [1, 2, 3].map((n) => Deno.readFileSync(`${news.path}/articles/${n}`));
  const sizes = files.map(({ length }) => length);
  const over = [
    `1\tone\tAnn <ann@example.org>\t${DATE}\t${ONE}\t\t${
      sizes[0]
    }\t2\tXref: localhost local.test:1`,
    `2\tone\tAnn <ann@example.org>\t${DATE}\t${TWO}\t${ONE}\t${
      sizes[1]
    }\t0\tXref: localhost local.test:2 local.talk:1`,
    `3\tth ree four\xff\tAnn <ann@example.org>\t${DATE}\t${THREE}\t\t${
      sizes[2]
    }\t1\tXref: localhost local.test:3`,
  ].map((line) => `${line}\r\n`);
  const lines = (code: string, ...lines: string[]) => [code, ...lines, ".", ""].join("\r\n");
  const enter = "GROUP local.test\r\n";
  const entered = "211 3 1 3 local.test\r\n";
  const [head] = latin1(files[0]).split(/(?<=\r\n)\r\n/);
  const cases: [commands: string, answers: string][] = [
    ["QUIT\r\nDATE\r\n", "205\r\n"],
    ["quit\n", "205\r\n"],
    ["\r\nNOOP\r\nSTARTTLS\r\nAUTHINFO USER x\r\n \r\n\0\r\n", "500\r\n".repeat(6)],
    [
      "GROUP\r\nGROUP a b\r\nDATE x\r\nMODE\r\nMODE STREAM\r\nIHAVE\r\nNEWNEWS *\r\n",
      "501\r\n".repeat(7),
    ],
    ["MODE READER\r\nmode\t reader\r\n", "200\r\n".repeat(2)],
    [
      "GROUP nope\r\nGROUP LOCAL.TEST\r\nGROUP ../groups\r\nGROUP __proto__\r\nLISTGROUP x\r\n",
      "411\r\n".repeat(5),
    ],
    [
      "ARTICLE\r\nHEAD 1\r\nBODY\r\nSTAT 1\r\nNEXT\r\nLAST\r\nOVER\r\nXOVER 1-\r\nHDR subject\r\nXHDR path\r\nLISTGROUP\r\n",
      "412\r\n".repeat(11),
    ],
    [
      `${enter}STAT\r\nNEXT\r\nNEXT\r\nNEXT\r\nLAST\r\nLAST\r\nLAST\r\nSTAT\r\n`,
      `${entered}223 1 ${ONE}\r\n223 2 ${TWO}\r\n223 3 ${THREE}\r\n421\r\n223 2 ${TWO}\r\n223 1 ${ONE}\r\n422\r\n223 1 ${ONE}\r\n`,
    ],
    [
      `${enter}STAT 3\r\nSTAT\r\nSTAT ${ONE}\r\nSTAT\r\nSTAT 9\r\nSTAT\r\n`,
      `${entered}223 3 ${THREE}\r\n223 3 ${THREE}\r\n223 0 ${ONE}\r\n223 3 ${THREE}\r\n423\r\n223 3 ${THREE}\r\n`,
    ],
    [
      `STAT ${ONE}\r\nSTAT <9@x>\r\nSTAT <\r\nARTICLE <a/../../b@c>\r\nBODY <>\r\n`,
      `223 0 ${ONE}\r\n` + "430\r\n".repeat(4),
    ],
    [
      `${enter}STAT x\r\nSTAT 1-2\r\nSTAT -1\r\nSTAT 1.0\r\nSTAT 12345678901234567\r\nOVER 1-2-3\r\nOVER -5\r\nOVER 1x\r\n`,
      entered + "501\r\n".repeat(8),
    ],
    [
      `${enter}STAT 0\r\nSTAT 4\r\nHEAD 4294967297\r\nBODY 9999999999999999\r\n`,
      entered + "423\r\n".repeat(4),
    ],
    [
      `HEAD ${ONE}\r\nBODY ${ONE}\r\n`,
      `221\r\n${head}.\r\n222\r\n..dot\r\n...\r\n.\r\n`.replace("221\r\n", `221\r\n`),
    ],
    [`${enter}ARTICLE\r\n`, `${entered}220 1 ${ONE}\r\n${head}\r\n..dot\r\n...\r\n.\r\n`],
    [
      `${enter}BODY 2\r\nBODY 3\r\nSTAT\r\n`,
      `${entered}222\r\n.\r\n222\r\nend\r\n.\r\n223 3 ${THREE}\r\n`,
    ],
    [
      `${enter}OVER\r\nOVER 2\r\nXOVER 2-\r\nOVER 0-1\r\nOVER 1-4294967295\r\nOVER ${ONE}\r\n`,
      `${entered}224\r\n${over[0]}.\r\n224\r\n${over[1]}.\r\n224\r\n${over[1]}${
        over[2]
      }.\r\n224\r\n${over[0]}.\r\n224\r\n${over.join("")}.\r\n224\r\n${
        over[0].replace("1", "0")
      }.\r\n`,
    ],
    [
      `${enter}OVER 4-\r\nOVER 3-2\r\nXOVER 9\r\nHDR from 7-8\r\nXHDR from 7-8\r\nOVER <9@x>\r\n`,
      `${entered}423\r\n423\r\n420\r\n423\r\n420\r\n430\r\n`,
    ],
    [
      `${enter}HDR Subject 1-\r\nHDR :bytes 2\r\nHDR REFERENCES 1-2\r\nHDR xref ${TWO}\r\nXHDR message-id\r\nHDR path 1\r\nHDR x:y\r\n`,
      entered + lines("225", "1 one", "2 one", "3 th ree four\xff") +
      lines("225", `2 ${sizes[1]}`) +
      lines("225", "1 ", `2 ${ONE}`) + lines("225", "0 localhost local.test:2 local.talk:1") +
      lines("221", `1 ${ONE}`) + "503\r\n503\r\n",
    ],
    [
      `LISTGROUP local.test\r\nLISTGROUP\r\nLISTGROUP local.test 2-\r\nSTAT\r\nLISTGROUP local.talk 5-4294967295\r\n`,
      lines("211 3 1 3 local.test", "1", "2", "3").repeat(2) +
      lines("211 3 1 3 local.test", "2", "3") +
      `223 1 ${ONE}\r\n` + lines("211 1 1 1 local.talk"),
    ],
    [
      "LIST\r\nLIST active *.t?lk\r\nLIST ACTIVE x\r\nLIST NEWSGROUPS *,!*talk\r\n",
      lines("215", "local.test 3 1 y", "local.talk 1 1 y") + lines("215", "local.talk 1 1 y") +
      lines("215") +
      lines("215", "local.test\tto try things"),
    ],
    [
      "LIST OVERVIEW.FMT\r\nLIST HEADERS\r\nLIST HEADERS MSGID\r\nLIST ACTIVE.TIMES\r\nLIST ACTIVE [a]\r\n",
      lines(
        "215",
        "Subject:",
        "From:",
        "Date:",
        "Message-ID:",
        "References:",
        "Bytes:",
        "Lines:",
        "Xref:full",
      ) +
      lines(
        "215",
        "subject",
        "from",
        "date",
        "message-id",
        "references",
        ":bytes",
        ":lines",
        "xref",
      ).repeat(2) +
      "501\r\n501\r\n",
    ],
    [
      "NEWNEWS * 20200101 000000 GMT\r\nNEWNEWS local.talk 20200101 000000\r\nNEWNEWS * 20990101 000000\r\n",
      lines("230", ONE, TWO, THREE) + lines("230", TWO) + lines("230"),
    ],
    [
      "NEWNEWS * 200101 000000\r\nNEWGROUPS 20200101 000000 gmt\r\nNEWGROUPS 20990101 000000\r\n",
      lines("230", ONE, TWO, THREE) + lines("231", "local.test 3 1 y", "local.talk 1 1 y") +
      lines("231"),
    ],
    // A year of two digits that is to come is of the century before.
    [
      `NEWNEWS * ${`${TODAY.getFullYear() + 1}`.slice(2)}0101 000000\r\n`,
      lines("230", ONE, TWO, THREE),
    ],
    [
      "20201301 000000",
      "20200100 000000",
      "20200101 250000",
      "2020011 000000",
      "20200101 00000",
      "x 000000",
      "20200101 000000 CET",
    ]
      .map((time): [string, string] => [`NEWGROUPS ${time}\r\n`, "501\r\n"])
      .reduce(([commands, answers], [command, answer]) => [commands + command, answers + answer]),
  ];
  for (const [commands, expected] of cases) {
    const said = await codes(spool, commands);
    assertEquals(
      said.replace(/^22[12] .*\r$/gm, (line) => line.slice(0, 3) + "\r"),
      expected,
      commands,
    );
  }
  const capabilities = await talk(spool, "CAPABILITIES\r\nCAPABILITIES x\r\n");
  assertMatch(capabilities, /^101 .*\r\nVERSION 2\r\n(.*\r\n)*READER\r\n(.*\r\n)*\.\r\n101 /);
  const help = await talk(spool, "HELP\r\n");
  for (const word of (help.match(/^[A-Z]+/gm) ?? [])) {
    assert(!/^500/.test(await talk(spool, `${word}\r\n.\r\n`)), word);
  }
  const now = await talk(spool, "DATE\r\n");
  assertMatch(now, /^111 \d{14}\r\n$/);
  const [, y, mo, d, h, mi, s] = /^111 (....)(..)(..)(..)(..)(..)/.exec(now) ?? [];
  const ago = Date.now() - Date.parse(`${y}-${mo}-${d}T${h}:${mi}:${s}Z`);
  assert(ago >= 0 && ago < 60_000, now);
});

/** How a post is answered, and the reason. */
async function post(spool: Spool, text: string, first = "POST"): Promise<string> {
  const said = await talk(spool, `${first}\r\n${text.replace(/^\./gm, "..")}\r\n.\r\nDATE\r\n`);
  assertMatch(said, /\r\n111 \d{14}\r\n$/); // a good request is answered after it
  return said.replace(/^3[34].*\r\n/, "").replace(/\r\n111 .*\r\n$/, "");
}

Deno.test({ name: "what is posted is there, whole, in its groups", ignore }, async () => {
  await using news = await newSpool();
  const { spool } = news;
  const to = HEADER.replace("local.test", "local.talk , local.test,local.talk");
  const body = ".\r\n..\r\n\r\n.x\r\n\xff\xe4\x80\r\n" + "y".repeat(5000);
  const [, id] = /^240 (<.*>) /.exec(await post(spool, `${to}\r\n${body}`)) ?? [];
  assertMatch(await post(spool, `${HEADER}\r\n`), /^240 /);
  const said = await talk(spool, `GROUP local.talk\r\nGROUP local.test\r\nARTICLE ${id}\r\n`);
  const stuffed = body.replace(/^\./gm, "..");
  assert(said.endsWith(`\r\n${to}\r\n${stuffed}\r\n.\r\n`), said);
  assertMatch(said, /^211 1 1 1 local.talk\r\n211 2 1 2 local.test\r\n220 0 <.*>\r\nXref: /);
  assertMatch(said, /^Xref: localhost local\.talk:1 local\.test:1\r$/m);
  const names = Array.from(Deno.readDirSync(`${news.path}/articles`), ({ name }) => name).sort();
  assertEquals(names, ["1", "2"]);
});

Deno.test({ name: "what is not taken leaves nothing", ignore }, async () => {
  await using news = await newSpool(article(ONE));
  const { spool } = news;
  const before = await Deno.readFile(`${news.path}/index`);
  for (
    const [text, why] of [
      ["", "no empty line"],
      ["text", "no empty line"],
      [`${HEADER}\r\n\0`, "NUL"],
      [HEADER.replace("local.test", "local.tset") + "\r\n", "there is no group local.tset"],
      [HEADER.replace("local.test", "local.test,x\x1b") + "\r\n", "control character"],
      [HEADER.replace("local.test", "local.test,") + "\r\n", "there is no group "],
      [
        HEADER.replace("local.test", "local.test local.talk") + "\r\n",
        "there is no group local.test ",
      ],
      [HEADER.replace("local.test", "x".repeat(9000)) + "\r\n", "there is no group xxx"],
      [article(ONE), "it is here"],
      [article(TWO, "Xref: x\r\n"), "xref is for servers"],
      [`X: ${"x".repeat(1024 * 1024 - 10000)}\r\n${HEADER}\r\n`, "header has more than"],
      [`${HEADER}\r\n${"x".repeat(1024 * 1024)}`, "more than 1048576 bytes"],
    ]
  ) {
    const said = await post(spool, text);
    assert(said.startsWith("441 ") && said.includes(why) && said.length < 510, `${said} ${why}`);
  }
  for (
    const [id, text, code] of [
      [ONE, "", "435"],
      ["<a b@c>", "", "501"],
      ["1@b", "", "501"],
      [`<a@${"b".repeat(247)}>`, "", "501"],
      [TWO, article(THREE), "437"],
      [TWO, article(TWO).replace("local.test", "elsewhere.test"), "437"],
      [TWO, article(TWO).replace(`Date: ${DATE}\r\n`, ""), "437"],
      [TWO, article(TWO, "", `${"x".repeat(1024 * 1024)}\r\n`), "437"],
    ]
  ) {
    const said = await talk(spool, `IHAVE ${id}\r\n`, ...text ? [`${text}.\r\n`] : [], "DATE\r\n");
    assertMatch(said, new RegExp(`^(335 .*\r\n)?${code} .*\r\n111 `), `${id} ${text.slice(0, 99)}`);
  }
  assertEquals(await Deno.readFile(`${news.path}/index`), before);
  assertEquals([...Deno.readDirSync(`${news.path}/articles`)].length, 1);
  // Of another server's article a group that is not here is none of ours.
  const far = article(TWO).replace("local.test", "elsewhere.test, local.talk");
  assertMatch(await post(spool, far.slice(0, -2), `IHAVE ${TWO}`), /^235 <2@example.org> /);
  assertMatch(
    await talk(spool, "GROUP local.talk\r\nHDR xref 1\r\n"),
    /1 localhost local.talk:1\r\n/,
  );
});

Deno.test({ name: "a message-id is stored once, whoever comes at once", ignore }, async () => {
  await using news = await newSpool();
  const { spool } = news;
  const said = await Promise.all(Array.from({ length: 8 }, async (_, i) => {
    const { wire, conn } = receiving();
    const done = converse(conn, spool, console.error);
    wire.send(i % 2 ? "POST\r\n" : `IHAVE ${ONE}\r\n`);
    // Each is told to send it before any is stored.
    await eventually("it may send", () => /^3[34]/m.test(wire.written));
    wire.send(`${article(ONE)}.\r\n`, null);
    await done;
    return wire.written.split("\r\n")[2].slice(0, 3);
  }));
  assertEquals(said.filter((code) => code === "240" || code === "235").length, 1, `${said}`);
  assertEquals(said.filter((code) => code === "441" || code === "437").length, 7, `${said}`);
  assertMatch(await talk(spool, "GROUP local.test\r\n"), /^211 1 1 1 /);
});

/** Some of everything. */
const SESSION =
  "MODE READER\r\nLIST\r\nGROUP local.test\r\nSTAT\r\nNEXT\r\nOVER 1-\r\nHDR subject 1-3\r\n" +
  `ARTICLE ${ONE}\r\nBODY 3\r\nHEAD\r\nLISTGROUP local.talk\r\nXOVER\r\nNEWNEWS * 20200101 000000\r\n` +
  `bogus\r\nIHAVE ${ONE}\r\nPOST\r\nno\r\n..\r\n.\r\nPOST\r\n${HEADER}Message-ID: <n@x>\r\nDate: ${DATE}\r\n\r\ntext\r\n.\r\nLAST\r\n`;

Deno.test({ name: "nntp_server answers alike however commands are cut", ignore }, async () => {
  const whole = await (async () => {
    await using news = await three();
    return await talk(news.spool, SESSION + "QUIT\r\n");
  })();
  assertMatch(whole, /\r\n240 <n@x> is stored\r\n422 .*\r\n205 bye\r\n$/);
  const known = whole.replace("240 <n@x> is stored", "441 it is here, or was");
  await using news = await three();
  assertEquals(await talk(news.spool, ...SESSION, "QUIT\r\n"), whole);
  // What arrived in the meantime shows in some answers.
  const fixed = (said: string) => said.replace(/^(local.test|211|4\t|4 one|<n@x>).*\r\n/gm, "");
  for (let at = 1; at < SESSION.length; at += 3) {
    const said = await talk(news.spool, SESSION.slice(0, at), `${SESSION.slice(at)}QUIT\r\n`);
    assertEquals(fixed(said), fixed(known), `${at}`);
  }
});

Deno.test({ name: "a post that is cut off anywhere is not there", ignore }, async () => {
  await using news = await newSpool();
  const text = `POST\r\n${article(ONE)}.\r\n`;
  for (let at = 5; at < text.length - 1; at++) {
    for (const end of [null, new Deno.errors.ConnectionReset("reset")]) {
      const { conn } = receiving(text.slice(0, at), end);
      await converse(conn, news.spool, console.error).catch(() => {});
    }
  }
  assertEquals(await talk(news.spool, "GROUP local.test\r\n"), "211 0 1 0 local.test\r\n");
  assertEquals((await Deno.stat(`${news.path}/index`)).size, 0);
});

Deno.test(
  { name: "a command of more than 512 octets is refused, and ends it", ignore },
  async () => {
    await using news = await newSpool();
    const longest = `STAT <${"x".repeat(512 - 10)}@>`;
    assertMatch(await talk(news.spool, `${longest}\r\nDATE\r\n`), /^430 .*\r\n111 /);
    for (
      const pieces of [[`${longest}x\r\nDATE\r\n`], ["x".repeat(100_000)], [..."x".repeat(513)]]
    ) {
      const { wire, conn } = receiving("DATE\r\n", ...pieces, null);
      await assertRejects(() => converse(conn, news.spool, console.error), LimitError);
      assertMatch(wire.written, /^200 .*\r\n111 .*\r\n501 .*\r\n$/);
    }
  },
);

Deno.test({ name: "articles, numbers and groups survive a restart", ignore }, async () => {
  await using folder = await temporaryFolder();
  const path = `${folder.path}/spool`;
  const look = "LIST\r\nLIST NEWSGROUPS\r\nGROUP local.test\r\nOVER 1-\r\n" +
    "NEWNEWS * 20200101 000000\r\nNEWGROUPS 20200101 000000\r\n";
  const at = async (groups: [string, string][], ...commands: string[]) => {
    using spool = await Spool.open(path, groups);
    return await talk(spool, ...commands);
  };
  const groups: [string, string][] = [["local.test", "to try"], ["local.talk", ""]];
  const posts = [ONE, TWO, THREE].map((id) => `POST\r\n${article(id)}.\r\n`);
  await at(groups, ...posts);
  const before = await at([], look);
  const index = await Deno.readTextFile(`${path}/index`);
  assertMatch(before, /^215 .*\r\nlocal.test 3 1 y\r\n/);
  // What was written when the machine stopped, and was not said to be there, is not.
  for (const half of ["4", "4\t2025", "4\t2025-11-29T12:00:00.000Z\tone\t", "\0".repeat(4096)]) {
    await Deno.writeTextFile(`${path}/index`, index + half);
    await Deno.writeTextFile(`${path}/articles/new`, "half");
    assertEquals(await at([], look), before);
  }
  await Deno.writeTextFile(`${path}/index`, index + "4\t2025-11-2");
  const said = await at([["local.more", "x y"]], `POST\r\n${article("<4@x>")}.\r\n`, look);
  assertMatch(said, /\r\nlocal.test 4 1 y\r\nlocal.talk 0 1 y\r\nlocal.more 0 1 y\r\n/);
  assertMatch(said, /\r\nlocal.test\tto try\r\nlocal.talk\t\r\nlocal.more\tx y\r\n/);
  assertMatch(
    await at([["local.talk", "Grüße"]], "LIST NEWSGROUPS\r\n"),
    /talk\tGr\xc3\xbc\xc3\x9fe\r\nlocal.more\tx y\r\n/,
  );

  // Without their files articles are gone, and neither number nor message-id comes back.
  for (const n of [1, 4]) await Deno.remove(`${path}/articles/${n}`);
  assertEquals(
    await at(
      [],
      "GROUP local.test\r\nLISTGROUP\r\nSTAT 1\r\nSTAT\r\nNEXT\r\nNEXT\r\nLAST\r\nSTAT <4@x>\r\n",
    )
      .then((said) => said.replace(/^(4\d\d) .*/gm, "$1")),
    `211 2 2 4 local.test\r\n211 2 2 4 local.test\r\n2\r\n3\r\n.\r\n423\r\n223 2 ${TWO}\r\n` +
      `223 3 ${THREE}\r\n421\r\n223 2 ${TWO}\r\n430\r\n`,
  );
  assertMatch(await at([], `POST\r\n${article("<4@x>")}.\r\nIHAVE ${ONE}\r\n`), /441 .*\r\n435 /);
  for (const n of [2, 3]) await Deno.remove(`${path}/articles/${n}`);
  assertEquals(await at([], "GROUP local.test\r\n"), "211 0 5 4 local.test\r\n");
  assertMatch(
    await at([], `POST\r\n${article("<5@x>")}.\r\nGROUP local.test\r\n`),
    /240 .*\r\n211 1 5 5 local.test\r\n/,
  );
});

Deno.test({ name: "a spool is one server's, and what is no index is said", ignore }, async () => {
  await using news = await three();
  await assertRejects(() => Spool.open(news.path, []), Error, "another server has it");
  news.spool[Symbol.dispose]();
  const file = `${news.path}/index`;
  const good = await Deno.readTextFile(file);
  const [one, two, rest] = good.split(/(?<=\n)/);
  for (
    const [text, why] of [
      [`${one}junk\n`, "line 2: not the line of an article"],
      [`${one}${one}${two}`, "line 2: local.test:1 is not the next number there"],
      [`${one}${rest}`, "line 2: local.test:3 is not the next number there"],
      [good.replace("\t", " "), "line 1: not"],
    ]
  ) {
    await Deno.writeTextFile(file, text);
    await assertRejects(() => Spool.open(news.path, []), Error, `${file}: ${why}`);
  }
  await Deno.writeTextFile(file, good);
  using spool = await Spool.open(news.path, []);
  assertMatch(await talk(spool, "GROUP local.test\r\n"), /^211 3 /);
});

Deno.test({ name: "a disk that fails is said, and no reason to hang up", ignore }, async () => {
  await using news = await newSpool(article(ONE));
  const logged: string[] = [];
  const attempt = async (...pieces: string[]) => {
    const { wire, conn } = receiving(...pieces, null);
    await converse(conn, news.spool, (line) => logged.push(line));
    return wire.written.replace(/^(\d{3}) .*\r$/gm, "$1\r");
  };
  const posts = [`POST\r\n${article(TWO)}.\r\n`, `IHAVE ${THREE}\r\n${article(THREE)}.\r\n`];
  await Deno.rename(`${news.path}/articles`, `${news.path}/away`);
  const failing = await attempt(`BODY ${ONE}\r\n`, ...posts, "DATE\r\n");
  assertEquals(failing, "200\r\n403\r\n340\r\n441\r\n335\r\n436\r\n111\r\n");
  assertEquals(logged.length, 3);
  assertMatch(logged[1], /^127.0.0.1:9: .*: no such file or directory$/);
  await Deno.rename(`${news.path}/away`, `${news.path}/articles`);
  // Half a line that was written meanwhile is in nobody's way.
  await Deno.writeTextFile(`${news.path}/index`, "half", { append: true });
  assertEquals(await attempt(...posts), "200\r\n340\r\n240\r\n335\r\n235\r\n");
  news.spool[Symbol.dispose]();
  using spool = await Spool.open(news.path, []);
  assertMatch(await talk(spool, "GROUP local.test\r\n"), /^211 3 1 3 /);
});

Deno.test({ name: "nntp_server survives 1500 sessions of junk", ignore }, async () => {
  await using news = await three();
  const chance = random(11);
  for (let i = 0; i < 1500; i++) {
    const text = Array.from(SESSION + "QUIT\r\n");
    for (let n = 1 + chance(20); n > 0; n--) {
      const junk =
        ["\r\n", " ", "9", "", "\0", "*", "<", String.fromCharCode(chance(256))][chance(8)];
      text.splice(chance(text.length), chance(3) ? 1 : chance(50), junk);
    }
    const at = chance(text.length);
    const { conn } = receiving(text.slice(0, at).join(""), text.slice(at).join(""), null);
    await converse(conn, news.spool, (line) => {
      throw new Error(line);
    }).catch((error) => {
      if (!(error instanceof LimitError || error instanceof Deno.errors.UnexpectedEof)) throw error;
    });
  }
  const said = await talk(news.spool, "GROUP local.test\r\nOVER 1-\r\nQUIT\r\n");
  assertMatch(said, /^211 (\d+) 1 \1 local.test\r\n224 .*\r\n(\d+\t.*\r\n)+\.\r\n205 /);
  news.spool[Symbol.dispose]();
  using again = await Spool.open(news.path, []);
  assertEquals(await talk(again, "GROUP local.test\r\nOVER 1-\r\nQUIT\r\n"), said);
});

Deno.test({
  name: "what nntp_server said is stored is there after kill -9, under its number",
  ignore,
  async fn() {
    await using folder = await temporaryFolder();
    const args = ["--port", "0", `${folder.path}/spool`, "--group", "local.test"];
    const stored = new Map<string, string>(); // what was sent, by message-id
    let numbers = "";
    for (let round = 0; round < 3; round++) {
      await using server = start("nntp_server", args);
      const port = await server.port();
      const looks: string[] = [];
      const posters = Array.from({ length: 5 }, async (_, i) => {
        using conn = await dial(port);
        await conn.readLine();
        for (let n = 0;; n++) {
          const id = `<${round}.${i}.${n}@example.org>`;
          const body = `.${id}\r\n`.repeat(1 + n * 100);
          await conn.writeLine(n % 2 ? "POST" : `IHAVE ${id}`);
          await conn.readLine();
          await conn.writeDotLines(octets(article(id, "", body)));
          const said = await conn.readLine();
          if (said === null) return;
          assertMatch(said, /^2[34]/);
          stored.set(id, body);
          await conn.writeLine(`GROUP local.test`);
          looks.push(await conn.readLine() ?? "");
        }
      });
      await eventually("some are stored", () => stored.size >= (round + 1) * 20);
      server.signal("SIGKILL");
      await Promise.all(posters.map((poster) => poster.catch(() => {})));
    }
    await using server = start("nntp_server", args);
    using conn = await dial(await server.port());
    await conn.readLine();
    const ask = async (command: string) => {
      await conn.writeLine(command);
      return `${await conn.readLine()}`;
    };
    for (const [id, body] of stored) {
      assertMatch(await ask(`BODY ${id}`), /^222 /, id);
      assertEquals(latin1(await conn.readDotLines(1e6)), body);
      assertMatch(await ask(`IHAVE ${id}`), /^435 /);
    }
    const [, count, high] = /^211 (\d+) 1 (\d+) /.exec(await ask("GROUP local.test")) ?? [];
    assertEquals(count, high); // none was used twice, and none is missing
    assert(Number(count) >= stored.size);
    assertMatch(await ask("HDR message-id 1-"), /^225 /);
    numbers = latin1(await conn.readDotLines(1e6));
    await server[Symbol.asyncDispose]();
    await using again = start("nntp_server", args);
    using other = await dial(await again.port());
    await other.writeAll("GROUP local.test\r\nHDR message-id 1-\r\nQUIT\r\n");
    assert((await hear(other)).includes(numbers));
  },
});

Deno.test({
  name: "an article of 100 MB takes nntp_server's time, and not its memory",
  ignore,
  async fn() {
    await using folder = await temporaryFolder();
    const args = ["--port", "0", `${folder.path}/spool`, "--group", "local.test"];
    await using server = start("nntp_server", args);
    using conn = await dial(await server.port());
    await conn.writeAll("POST\r\n" + HEADER);
    const before = memory(server);
    const piece = octets(`${"x".repeat(76)}\r\n`.repeat(1000));
    for (let sent = 0; sent < 100e6; sent += piece.length) await conn.writeAll(piece);
    await conn.writeAll(".\r\nDATE\r\nQUIT\r\n");
    assertMatch(await hear(conn), /^200 .*\r\n340 .*\r\n441 .*\r\n111 .*\r\n205 /);
    const grown = memory(server, "VmHWM") - before;
    assert(grown < 64 * 1024, `${grown} KiB`);
  },
});

Deno.test({
  name: "nntp_server tells of 2000 articles at once",
  ignore,
  async fn() {
    await using folder = await temporaryFolder();
    const path = `${folder.path}/spool`;
    await Deno.mkdir(`${path}/articles`, { recursive: true });
    const lines = Array.from({ length: 2000 }, (_, i) => {
      const [n, id] = [i + 1, `<${i}@example.org>`];
      Deno.writeTextFileSync(`${path}/articles/${n}`, `Subject: ${n}\r\n\r\n`);
      const over = `${n}\tAnn <ann@example.org>\t${DATE}\t${id}\t\t200\t1`;
      return `${n}\t${new Date().toISOString()}\t${over}\tXref: localhost local.test:${n}\n`;
    });
    await Deno.writeTextFile(`${path}/index`, lines.join(""));
    await using server = start("nntp_server", ["--port", "0", path, "--group", "local.test"]);
    using conn = await dial(await server.port());
    for (const wanted of ["200 ", "211 2000 1 2000 ", "224 "]) {
      if (wanted === "211 2000 1 2000 ") await conn.writeLine("GROUP local.test");
      if (wanted === "224 ") await conn.writeLine("OVER 1-4294967295");
      assert((await conn.readLine())?.startsWith(wanted), wanted);
    }
    const told = latin1(await conn.readDotLines(1e7)).split("\r\n");
    assertEquals([told.length, told[1999].split("\t")[4]], [2001, "<1999@example.org>"]);
  },
});

Deno.test({ name: "nntp_server says what is wrong with its command line", ignore }, async () => {
  await using folder = await temporaryFolder();
  const path = `${folder.path}/spool`;
  for (
    const [args, why] of [
      [["--group", "local.test"], "SPOOL is missing"],
      [[path], `--group NAME is missing, ${path} has none yet`],
      ...["../x", "a b\tc", "a..b", "x".repeat(201)]
        .map((name): [string[], string] => [[path, "--group", name], "is not the name of a group"]),
    ] as [string[], string][]
  ) {
    const { code, stderr } = await run("nntp_server", ["--port", "0", ...args]);
    assertEquals([code, stderr.includes(why), stderr.split("\n").length], [2, true, 2], stderr);
  }
  await using news = await newSpool();
  const { code, stderr } = await run("nntp_server", ["--port", "0", news.path, "--group", "a"]);
  assertEquals([code, stderr], [1, `nntp_server: ${news.path}: another server has it\n`]);
});

// From here on it is about the client.

/** An article in a list, with what it refers to. */
function summary(number: number, ...references: number[]): Summary {
  const ids = references.map((n) => `<${n}@x>`);
  return { number, id: `<${number}@x>`, references: ids, subject: "", from: "", date: "" };
}

/** Threads as numbers, each with as many dots before it as it is deep. */
function outline(...articles: Summary[]): string {
  return thread(articles).map(([{ number }, depth]) => ".".repeat(depth) + number).join(" ");
}

Deno.test("articles are below the nearest one that they refer to", () => {
  assertEquals(outline(), "");
  assertEquals(outline(summary(1), summary(2), summary(3)), "1 2 3");
  assertEquals(outline(summary(1), summary(2, 1), summary(3, 1, 2), summary(4, 1)), "1 .2 ..3 .4");
  assertEquals(outline(summary(1), summary(3, 1, 2), summary(4)), "1 .3 4"); // 2 is not there
  assertEquals(outline(summary(2, 9), summary(3, 9, 2)), "2 .3");
  assertEquals(outline(summary(1, 2), summary(2)), "2 .1"); // the answer came first
  assertEquals(outline(summary(1, 1)), "1");
  assertEquals(outline(summary(1, 2), summary(2, 1)), "2 .1"); // a circle, once each
  assertEquals(outline(summary(1, 3), summary(2, 1), summary(3, 2)), "3 .1 ..2");
  assertEquals(outline(summary(1), summary(1), summary(2, 1)), "1 1 .2"); // two of one message-id
  const deep = Array.from({ length: 1000 }, (_, i) => summary(i, i - 1));
  assertEquals(thread(deep).at(-1)?.[1], 999);
});

Deno.test("an article that a server would refuse is not sent", () => {
  const good = `${HEADER}\r\ntext`;
  for (const text of [good, good.replaceAll("\r\n", "\n"), `X: y\r\n z\r\n${HEADER}\r\n`]) {
    checkArticle(octets(text));
  }
  for (
    const [text, why] of [
      ["", "no empty line"],
      [HEADER, "no empty line"],
      [`\n${good}`, "not a header field"],
      [good.replace("text", "te\0xt"), "NUL"],
      [good.replace("text", "te\rxt"), "CR alone"],
      [good.replace("Subject: ", "Subject:"), "not a header field: Subject:one"],
      [good.replace("Subject: one", "Subject:  "), "not a header field"],
      [good.replace("Subject: one", "hello"), "not a header field: hello"],
      [good.replace(/From.*\r\n/, ""), "From is missing"],
      [good.replace(/Subject.*\r\n/, ""), "Subject is missing"],
      [good.replace(/Newsgroups.*\r\n/, ""), "Newsgroups is missing"],
      [`from: x\n${good}`, "From is there twice"],
    ]
  ) assertThrows(() => checkArticle(octets(text)), Error, why);
});

Deno.test({
  name: "nntp_client lists, posts and reads at nntp_server, in each form",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const groups = ["--group", "local.test to try things", "--group", "local.empty"];
    const args = [`${folder.path}/spool`, ...groups];
    const from = "From: =?utf-8?q?J=C3=BCrgen?= <j@example.org>\n";
    const here = new Date(DATE).toLocaleString("sv").slice(0, 16);
    const stored = /^nntp_client: posted: <.*> is stored\n$/;
    let number = 0;
    for await (const { form, server, ask } of inEachForm("nntp_server", folder.path, args)) {
      const permissions = ["--allow-read", "--allow-write"];
      const news = (args: string[], stdin = "") =>
        run("nntp_client", [...args, ...ask], { stdin, permissions });
      const one = `${from}Newsgroups: local.test\nSubject: =?utf-8?b?R3LDvMOfZQ==?=\n` +
        `Message-ID: <${++number}@x>\nDate: ${DATE}\n\n.\n..\n\x1b[31mbye\n`;
      assertMatch((await news(["post"], one)).stderr, stored, form);
      const row = `     ${number}  ${here}  Jürgen                    Grüße\n`;
      const more = number > 1 ? `nntp_client: from ${number} on, --last N shows more\n` : "";
      const listed = await news(["list", "local.test", "--last", "1"]);
      assertEquals(listed, { code: 0, stdout: row, stderr: more });
      const shown = `From: Jürgen <j@example.org>\nNewsgroups: local.test\nSubject: Grüße\n` +
        `Date: ${DATE}\nMessage-ID: <${number}@x>\n\n.\n..\n\\x1b[31mbye\n`;
      const read = { code: 0, stdout: shown, stderr: "" };
      assertEquals(await news(["read", `<${number}@x>`]), read);
      if (form === "plain") {
        const file = `${folder.path}/answer`;
        const answer = `${HEADER.replace("one", "Re: \u202e")}References: <1@x>\r\n\r\nyes`;
        await Deno.writeTextFile(file, answer);
        assertMatch((await news(["post", file])).stderr, stored);
        number++;
        assertEquals(await news(["read", "local.test", "1"]), read);
        const [first, second] = (await news(["list", "local.test"])).stdout.split(/(?<=\n)/);
        assertEquals(first, row);
        assertMatch(second, /^ {5}2 {2}.{16} {2}Ann {23} {2}Re: \\u202e\n$/);
        const empty = "nntp_client: no article in local.empty\n";
        assertEquals(await news(["list", "local.empty"]), { code: 0, stdout: "", stderr: empty });
        assertEquals(
          (await news(["groups"])).stdout,
          "local.test                1-2           to try things\nlocal.empty               empty\n",
        );
        assertMatch((await news(["groups", "*.e*"])).stdout, /^local.empty +empty\n$/);
        for (
          const [args, why, stdin] of [
            [["list", "nope"], "411 no such group"],
            [["read", "local.test", "99"], "423 no such number"],
            [["read", "<9@x>"], "430 no such article"],
            [["post"], "441 it is here, or was", one],
          ] as [string[], string, string?][]
        ) {
          const { code, stdout, stderr } = await news(args, stdin);
          assertEquals([code, stdout], [1, ""]);
          assertMatch(stderr, new RegExp(`^nntp_client: \\S+: the server says ${why}\n$`));
        }
      }
      server.signal("SIGINT");
      const ended = await server.ended();
      assertEquals([ended.code, ended.stderr.split("\n").length], [0, 2], ended.stderr);
    }
  },
});

Deno.test({ name: "nntp_client says what is wrong with its command line", ignore }, async () => {
  for (
    const [args, code, why] of [
      [[], 2, "COMMAND is missing"],
      [["local.test"], 2, "local.test is none of groups, list, read, post"],
      [["list"], 2, "GROUP is missing"],
      [["list", "a b"], 2, '"a b" is no name'],
      [["list", "a\r\nQUIT"], 2, '"a\\r\\nQUIT" is no name'],
      [["list", "x".repeat(251)], 2, "is no name"],
      [["read"], 2, "GROUP|MESSAGE-ID is missing"],
      [["read", "local.test"], 2, "N is missing"],
      [["read", "local.test", "1-5"], 2, "1-5 is not a whole number"],
      [["post", "/nowhere/a"], 1, "/nowhere/a: no such file or directory"],
      [["post"], 1, "stdin: no empty line ends the header"],
      [["groups"], 1, "127.0.0.1:1: connection refused"],
    ] as [string[], number, string][]
  ) {
    const result = await run("nntp_client", ["--port", "1", ...args], {
      permissions: ["--allow-read"],
    });
    assertEquals([result.code, result.stdout], [code, ""], `${args}`);
    assert(result.stderr.includes(why) && result.stderr.split("\n").length === 2, result.stderr);
  }
});

/** What a server sends, come what may, and a client of it. */
function served(...pieces: (string | Error | null)[]): { news: News; said: () => string } {
  const { wire, conn } = receiving(...pieces);
  return { news: new News(conn), said: () => wire.written };
}

Deno.test("nntp_client asks by OVER, by XOVER, or for each header", async () => {
  const told = `3\ttwo\tAnn <a@b>\t${DATE}\t<2@x>\t<0@x> <1@x>\t9\t1\tXref: x\r\n`;
  const expected = [{
    number: 3,
    id: "<2@x>",
    references: ["<0@x>", "<1@x>"],
    subject: "two",
    from: "Ann",
    date: "2025-11-29T12:00:00.000Z",
  }];
  const head = "From: Ann <a@b>\r\nSubject: two\r\nMessage-ID: <2@x>\r\n" +
    `References: <0@x>\r\n <1@x>\r\nDate: ${DATE}\r\n`;
  for (
    const [answers, asked, found] of [
      [`224 x\r\n${told}.\r\n`, "OVER", expected],
      [`500 what?\r\n224 x\r\n${told}.\r\n`, "OVER XOVER", expected],
      [`503 no\r\n224\r\n${told}.\r\n`, "OVER XOVER", expected],
      ["423 none\r\n", "OVER", []],
      ["500\r\n420 none\r\n", "OVER XOVER", []],
      [
        "500\r\n502\r\n423 no\r\n221 3 <2@x>\r\n" + head + ".\r\n",
        "OVER XOVER HEAD HEAD",
        expected,
      ],
      [`224 x\r\n3\t\r\n.\r\n`, "OVER", [{
        number: 3,
        id: "",
        references: [],
        subject: "",
        from: "",
        date: "",
      }]],
    ] as const
  ) {
    const { news, said } = served(answers, null);
    assertEquals(await news.overview(2, 3), found as Summary[], answers);
    assertEquals(said().replace(/ .*\r\n/g, " ").trim(), asked);
  }
});

Deno.test("nntp_client asks for readers where there are others, too", async () => {
  for (
    const [answers, asked, error] of [
      ["200 x\r\n101 x\r\nVERSION 2\r\nREADER\r\n.\r\n", "CAPABILITIES "],
      ["201 x\r\n101 x\r\nVERSION 2\r\nMODE-READER\r\n.\r\n200 x\r\n", "CAPABILITIES MODE READER "],
      ["200 x\r\n500 x\r\n200 x\r\n", "CAPABILITIES MODE READER "],
      ["200 x\r\n500 x\r\n500 x\r\n", "CAPABILITIES MODE READER "],
      ["200 x\r\n101 x\r\nMODE-READER\r\n.\r\n502 no\r\n", "CAPABILITIES MODE READER ", "502 no"],
      ["400 busy\r\n", "", "400 busy"],
      ["502 go away\r\n", "", "502 go away"],
      ["220 x ESMTP\r\n", "", "220 x ESMTP"],
      ["SSH-2.0-x\r\n", "", "not an answer of NNTP: SSH-2.0-x"],
      ["", "", "hung up without an answer"],
    ]
  ) {
    const { news, said } = served(...answers ? [answers] : [], null);
    if (error) await assertRejects(() => news.greet(), Error, error);
    else await news.greet();
    assertEquals(said().replaceAll("\r\n", " "), asked);
  }
});

Deno.test("what no server of news may say is an error of nntp_client's, and bounded", async () => {
  const calls: [call: (news: News) => Promise<unknown>, answers: string, error: string][] = [
    [(news) => news.enter("a"), "211 1 1\r\n", "not an answer"],
    [(news) => news.enter("a"), "211 x y z\r\n", "not an answer"],
    [(news) => news.enter("a"), `211 1 1 ${"9".repeat(17)} a\r\n`, "not an answer"],
    [(news) => news.enter("a"), `211 ${"x".repeat(9000)}`, "more than 8192 bytes"],
    [(news) => news.groups(), "215 x\r\na b c\r\n.\r\n215 x\r\n.\r\n", "not an answer"],
    [(news) => news.groups(), "215 x\r\n.\r\n215 x\r\n \r\n.\r\n", "not an answer"],
    [(news) => news.groups(), "215 x\r\na 1 1 y\r\n", "in the middle"],
    [(news) => news.overview(1, 2), "224 x\r\n3\tx\r\n.\r\n", "not an answer"],
    [(news) => news.overview(1, 2), "224 x\r\n-1\tx\r\n.\r\n", "not an answer"],
    [(news) => news.overview(1, 2), "224 x\r\nx\r\n.\r\n", "not an answer"],
    [(news) => news.article("1"), "222 1 <a@b>\r\n.\r\n", "the server says 222"],
    [
      (news) => news.article("1"),
      "220 1 <a@b>\r\n" + "x".repeat(8388609) + "\r\n.\r\n",
      "more than",
    ],
    [(news) => news.post(octets("x")), "440 no\r\n", "the server says 440 no"],
    [(news) => news.post(octets("x")), "340 x\r\n441 bad\r\n", "the server says 441 bad"],
    [(news) => news.post(octets("x")), "340 x\r\n", "nobody knows whether it is posted: hung up"],
  ];
  for (const [call, answers, error] of calls) {
    await assertRejects(() => call(served(answers, null).news), Error, error);
  }
  // Without descriptions it lists the groups all the same.
  for (const none of ["503 no\r\n", "215 x\r\n.\r\n"]) {
    const { news } = served("215 x\r\na 0000000005 0000000001 y\r\n.\r\n" + none, null);
    assertEquals(await news.groups(), [{ name: "a", low: 1, high: 5, about: "" }]);
  }
  const twice = `1\tone\r\n1\ttwo\r\n`.repeat(10_000);
  const { news } = served(`224 x\r\n${twice}.\r\n`, null);
  assertEquals((await news.overview(1, 1)).map(({ subject }) => subject), ["two"]);
});

/** What a client asks for, and what a server answers. */
const ANSWERS = "200 x\r\n101 x\r\nVERSION 2\r\nREADER\r\n.\r\n215 x\r\na.b 2 1 y\r\n.\r\n" +
  "215 x\r\na.b\tabout\r\n.\r\n211 2 1 2 a.b\r\n224 x\r\n" +
  `1\tone\tAnn <a@b>\t${DATE}\t<1@x>\t\t9\t1\r\n2\tRe: one\tBob <b@b>\t${DATE}\t<2@x>\t<1@x>\t9\t1\r\n.\r\n` +
  "220 1 <1@x>\r\nSubject: one\r\n\r\n..\r\ntext\r\n.\r\n340 x\r\n240 x\r\n205 x\r\n";

async function everything(news: News): Promise<unknown> {
  await news.greet();
  const groups = await news.groups();
  const { low, high } = await news.enter("a.b");
  const threads = thread(await news.overview(low, Math.min(high, low + 999)));
  const text = latin1(await news.article("1"));
  return [groups, threads, text, await news.post(octets("x"))];
}

Deno.test("nntp_client hears the same however answers are cut, and says so if one is cut off", async () => {
  const whole = await everything(served(ANSWERS, null).news);
  assertMatch(JSON.stringify(whole), /"about".*"Bob".*1\]\],.*\.\\r\\ntext\\r\\n","x"\]$/);
  assertEquals(await everything(served(...ANSWERS, null).news), whole);
  for (let at = 1; at < ANSWERS.indexOf("205"); at++) {
    const { news } = served(ANSWERS.slice(0, at), ANSWERS.slice(at), null);
    assertEquals(await everything(news), whole);
    for (const end of [null, new Deno.errors.ConnectionReset("reset")]) {
      if (at > ANSWERS.indexOf("205") - 3) continue; // that it is posted is said already
      await assertRejects(() => everything(served(ANSWERS.slice(0, at), end).news));
    }
  }
});

Deno.test("nntp_client survives 1500 servers of junk", async () => {
  const chance = random(5);
  let good = 0;
  for (let i = 0; i < 1500; i++) {
    const text = Array.from(ANSWERS);
    for (let n = 1 + chance(6); n > 0; n--) {
      const junk =
        ["\r\n", ".\r\n", "\t", "9", "", "\0", String.fromCharCode(chance(256))][chance(7)];
      text.splice(chance(text.length), chance(3) ? 1 : chance(50), junk);
    }
    const { news } = served(text.join(""), null);
    await everything(news).then(() => good++, (error) => {
      assert(error.constructor !== TypeError && error.constructor !== RangeError, error);
    });
  }
  assert(good > 50, `${good}`);
});

Deno.test({ name: "nntp_client prints nothing that could drive a terminal", ignore }, async () => {
  const evil = "\x1b]0;x\x07\u202e\x9b";
  await using server = testServer(async (conn) => {
    await conn.writeAll("200 x\r\n");
    for (let line; (line = await conn.readLine()) !== null;) {
      const answers: Record<string, string> = {
        CAPABILITIES: "101 x\r\nREADER\r\n.\r\n",
        LIST: `215 x\r\na${evil} 1 1 y\r\n.\r\n`,
        GROUP: "211 1 1 1 a\r\n",
        OVER: `224 x\r\n1\t${evil}\t${evil} <a@b>\t${evil}\t<1@x>\r\n.\r\n`,
        ARTICLE: `220 x\r\nFrom: ${evil}\r\nSubject: =?utf-8?q?=1b=5b31m?=\r\n\r\n${evil}\r\n.\r\n`,
        POST: `440 ${evil}\r\n`,
        QUIT: "205 x\r\n",
      };
      await conn.writeAll(answers[line.split(" ")[0]]);
    }
  });
  for (const args of [["groups"], ["list", "a"], ["read", "<1@x>"], ["post"]]) {
    const stdin = args[0] === "post" ? `${HEADER}\r\n` : "";
    const { code, stdout, stderr } = await run("nntp_client", [...args, "-p", `${server.port}`], {
      stdin,
    });
    assertEquals(code, args[0] === "post" ? 1 : 0, stderr);
    assertMatch(stdout + stderr, /\\x1b/);
    // deno-lint-ignore no-control-regex
    assert(!/[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]/.test(stdout + stderr), args[0]);
  }
});

Deno.test({ name: "an article of too many lines is not parsed for minutes", ignore }, async () => {
  await using server = testServer(async (conn) => {
    await conn.writeAll("200 x\r\n500 x\r\n500 x\r\n220 x\r\n\r\n");
    await conn.writeAll(octets("\r\n".repeat(100_001)));
    await conn.writeAll(".\r\n");
    await conn.readToEnd(1000);
  });
  const { code, stderr } = await run("nntp_client", ["read", "<1@x>", "-p", `${server.port}`]);
  assertEquals([code, stderr.includes("article of more than 100000 lines")], [1, true], stderr);
});
