import { assertEquals, assertMatch } from "@std/assert";
import { missing, Program, run, start, temporaryFolder } from "../helpers.ts";
import { FILES, onTerminal } from "../scripts/rig.ts";
import { ask, certificates, eventually, isolate, mayIsolate, output, python } from "./peers.ts";

/** Python has nntplib up to 3.12. */
function lacksNntplib(): boolean {
  if (missing("python3")) return true;
  const args = ["-W", "ignore", "-c", "import nntplib"];
  const { success } = new Deno.Command("python3", { args, stderr: "null" }).outputSync();
  return !success && Deno.env.get("REQUIRE_PEERS") !== "1";
}

const ROW = "'subject': '=?utf-8?b?R3LDvMOfZQ==?=', 'from': 'Ann <ann@example.org>', " +
  "'date': 'Sat, 29 Nov 2025 12:00:00 +0000'";
const [OVER1, OVER2, OVER3] = [
  `{${ROW}, 'message-id': '<1@example.org>', 'references': '', ':bytes': '303', ':lines': '3', 'xref': 'localhost local.test:1'})`,
  `{${ROW}, 'message-id': '<3@example.org>', 'references': '', ':bytes': '254', ':lines': '3', 'xref': 'localhost local.test:2'})`,
  `{${ROW}, 'message-id': '<2@example.org>', 'references': '<1@example.org>', ':bytes': '332', ':lines': '3', 'xref': 'localhost local.test:3'})`,
];
const FIELDS = "b'From: Ann <ann@example.org>', b'Newsgroups: local.test', " +
  "b'Subject: =?utf-8?b?R3LDvMOfZQ==?='";
const SENT = "b'Date: Sat, 29 Nov 2025 12:00:00 +0000'";
const [TEST, NONE] = [
  "GroupInfo(group='local.test', last='3', first='1', flag='y')",
  "GroupInfo(group='local.none', last='0', first='1', flag='y')",
];

/** What nntp.py prints. */
const TOLD = `getwelcome 200
['HDR', 'IHAVE', 'IMPLEMENTATION', 'LIST', 'NEWNEWS', 'OVER', 'POST', 'READER', 'VERSION'] 2
group ('211', 0, 1, 0, 'local.test')
post 240
post NNTPTemporaryError 441
post NNTPTemporaryError 441
ihave NNTPTemporaryError 435
ihave 235
post 240
list ('215', [${TEST}, ${NONE}])
list ('215', [${NONE}])
descriptions ('215', {'local.test': 'to try'})
description to try
newgroups ('231', [${TEST}, ${NONE}])
newgroups ('231', [])
newnews ('230', ['<1@example.org>', '<3@example.org>', '<2@example.org>'])
group ('211', 0, 1, 0, 'local.none')
group ('211', 3, 1, 3, 'local.test')
stat ('223', 1, '<1@example.org>')
next ('223', 2, '<3@example.org>')
next ('223', 3, '<2@example.org>')
next NNTPTemporaryError 421
last ('223', 2, '<3@example.org>')
stat ('223', 1, '<1@example.org>')
stat ('223', 0, '<2@example.org>')
stat NNTPTemporaryError 423
stat NNTPTemporaryError 430
head ('221', ArticleInfo(number=0, message_id='<2@example.org>', lines=[b'Xref: localhost local.test:3', b'Path: localhost!.POSTED.127.0.0.1!not-for-mail', b'Injection-Info: localhost; posting-host="127.0.0.1"', ${FIELDS}, b'Message-ID: <2@example.org>', b'References: <1@example.org>', ${SENT}]))
body ('222', ArticleInfo(number=1, message_id='<1@example.org>', lines=[b'.', b'..dots', b'\\xff']))
article ('220', ArticleInfo(number=2, message_id='<3@example.org>', lines=[b'Xref: localhost local.test:2', b'Path: localhost!.SEEN.127.0.0.1!there!not-for-mail', ${FIELDS}, b'Message-ID: <3@example.org>', ${SENT}, b'', b'.', b'..dots', b'\\xff']))
over ('224', [(1, ${OVER1}, (2, ${OVER2}, (3, ${OVER3}])
over ('224', [(3, ${OVER3}])
over ('224', [(0, ${OVER1}])
over NNTPTemporaryError 423
xover ('224', [(1, ${OVER1}])
xhdr ('221', [('1', '=?utf-8?b?R3LDvMOfZQ==?='), ('2', '=?utf-8?b?R3LDvMOfZQ==?='), ('3', '=?utf-8?b?R3LDvMOfZQ==?=')])
xhdr ('221', [('0', '')])
xhdr NNTPPermanentError 503
date True
help True
quit 205
`;

Deno.test({
  name: "nntplib understands nntp_server, by every method, over TLS too",
  ignore: lacksNntplib() || missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const { ca, cert, key } = await certificates(folder.path);
    for (
      const [form, flags, root] of [["plain", [], []], ["tls", ["--cert", cert, "--key", key], [
        ca,
      ]]] as const
    ) {
      const groups = ["--group", "local.test to try", "--group", "local.none"];
      const args = ["--port", "0", ...flags, `${folder.path}/${form}`, ...groups];
      await using server = start("nntp_server", args, FILES);
      assertEquals(await output(python("nntp.py", await server.port(), ...root)), TOLD, form);
    }
  },
});

Deno.test({
  name: "slrn reads a group of nntp_server's, shows an article and answers it",
  ignore: missing("slrn", "python3"),
  async fn() {
    await using folder = await temporaryFolder();
    const args = ["--port", "0", `${folder.path}/spool`, "--group", "local.test", "--trace"];
    await using server = start("nntp_server", args);
    const port = await server.port();
    for (const n of [1, 2, 3]) {
      const article = `From: Ann <ann@example.org>\r\nNewsgroups: local.test\r\n` +
        `Subject: number ${n}\r\nMessage-ID: <${n}@example.org>\r\n\r\n..dot ${n}\r\nbye\r\n.\r\n`;
      assertMatch(await ask(port, `POST\r\n${article}QUIT\r\n`), /\r\n240 /);
    }
    await Deno.writeTextFile(`${folder.path}/newsrc`, "local.test:\n");
    await Deno.writeTextFile(
      `${folder.path}/slrnrc`,
      'set username "bob"\nset hostname "example.org"\nset realname "Bob"\n' +
        'set editor_command "echo Hello, Ann. >> %s"\n',
    );
    const files = ["-i", `${folder.path}/slrnrc`, "-f", `${folder.path}/newsrc`];
    await using reader = onTerminal(
      [
        "env",
        `HOME=${folder.path}`,
        "TERM=vt100",
        "slrn",
        "-n",
        ...files,
        "-h",
        "127.0.0.1",
        "-p",
        `${port}`,
      ],
    );
    /** Presses keys, and waits for what is drawn after that. */
    const press = async (keys: string, shown: RegExp) => {
      reader.stdout = "";
      await reader.type(keys);
      await reader.until(shown);
    };
    await reader.until(/3 {2}local\.test/);
    await press("\r", /number 1[^]*number 2[^]*number 3[^]*Group: local\.test/);
    await press("\r", /\.dot 1\r\nbye\r\n[^]*: number 1/);
    await press("f", /want to followup/);
    await press("y", /Post the message\?/);
    await press("y", /done\./);
    await press("q", /News Groups/);
    await press("q", /Do you really want to quit/);
    await press("y", /exit 0/);
    assertMatch(server.stderr, /< \S+ XOVER 1-3\\r\\n/);
    const said = await ask(port, "GROUP local.test\r\nARTICLE 4\r\nQUIT\r\n");
    assertMatch(said, /^References: <1@example\.org>\r$/m);
    assertMatch(said, /^Subject: Re: number 1\r$/m);
    assertMatch(said, /\r\n> \.dot 1\r\n> bye\r\nHello, Ann\.\r\n\.\r\n/);
  },
});

/**
 * Runs innd, which hands readers over to nnrpd, as the user `news` and with nothing of its own outside
 * a folder that only it has. It looks names up, and has no name server. It ends with its stdin.
 */
const ISOLATED = `mount -n -t tmpfs none /run && chmod 755 /run || exit
resolv=$(readlink -m /etc/resolv.conf) # with systemd in /run, and gone now
[ -e "$resolv" ] || { mkdir -p "\${resolv%/*}" && touch "$resolv"; } || exit
echo lookup file > /run/lookup && mount -n --bind /run/lookup "$resolv" || exit
cp -r "$1" /run/inn && cd /run/inn && mkdir articles incoming incoming/tmp incoming/bad outgoing overview log &&
touch history active.times control.ctl moderators distrib.pats inn-secrets.conf expire.ctl || exit
export INNCONF=/run/inn/inn.conf
chown -R news:news . && chmod 755 . && /usr/lib/news/bin/makedbz -i -o || exit
/usr/lib/news/bin/innd -d -P "$2" < /dev/null & cat > /dev/null`;

/** Starts innd with the groups local.test and local.empty. */
async function startInn(folder: string): Promise<AsyncDisposable & { port: number }> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close();
  const groups = ["control n", "control.cancel n", "junk n", "local.test y", "local.empty y"];
  const files = {
    "inn.conf": `domain: example.test
pathhost: inn.example.test
mta: "/bin/false %s"
pathnews: /usr/lib/news
${["db", "etc", "run", "spool", "tmp", "filter"].map((name) => `path${name}: /run/inn\n`).join("")}
${
      ["articles", "incoming", "outgoing", "overview", "log"].map((name) =>
        `path${name}: /run/inn/${name}\n`
      ).join("")
    }
ovmethod: tradindexed
hismethod: hisv6
bindaddress: 127.0.0.1
bindaddress6: "::1"
port: ${port}
nnrpdpostport: ${port}
doinnwatch: false
pgpverify: false
`,
    active: groups.map((group) => group.replace(" ", " 0000000000 0000000001 ") + "\n").join(""),
    newsgroups: "local.test\tTo try things\n",
    newsfeeds: "ME:*::\nnobody!:!*:Tf,Wnm:\n",
    "storage.conf": "method tradspool {\n newsgroups: *\n class: 0\n}\n",
    "incoming.conf": 'peer ME {\n hostname: "127.0.0.1"\n}\n',
    "readers.conf": 'auth here {\n hosts: 127.0.0.1\n default: "<here>"\n}\n' +
      'access here {\n users: "<here>"\n newsgroups: "local.*"\n access: RP\n}\n',
  };
  await Deno.mkdir(`${folder}/inn`);
  for (const [name, text] of Object.entries(files)) {
    await Deno.writeTextFile(`${folder}/inn/${name}`, text);
  }
  const server = new Program([
    ...isolate(),
    "sh",
    "-c",
    ISOLATED,
    "sh",
    `${folder}/inn`,
    `${port}`,
  ]);
  try {
    await eventually("innd answers", async () => {
      const conn = await Deno.connect({ port }).catch(() => undefined);
      conn?.close();
      return conn !== undefined;
    });
  } catch (error) {
    await server[Symbol.asyncDispose]();
    throw new Error(`${error}: ${server.stderr}`);
  }
  return {
    port,
    async [Symbol.asyncDispose]() {
      await server.endInput();
      await server.ended();
    },
  };
}

const HEADER = "From: =?utf-8?q?J=C3=BCrgen?= <j@example.org>\nNewsgroups: local.test\n";

Deno.test({
  name: "nntp_client lists, posts and reads at inn2",
  ignore: missing("ctlinnd", "unshare") ||
    Deno.env.get("REQUIRE_PEERS") !== "1" && !mayIsolate(),
  async fn() {
    await using folder = await temporaryFolder();
    await using inn = await startInn(folder.path);
    const news = (args: string[], stdin = "") =>
      run("nntp_client", [...args, "--port", `${inn.port}`], { stdin });
    const groups = await news(["groups"]);
    assertEquals([groups.code, groups.stderr], [0, ""]);
    assertMatch(groups.stdout, /^local\.test +empty +To try things\n/m);
    assertMatch((await news(["groups", "*.empty"])).stdout, /^local\.empty +empty\n$/);
    const none = "nntp_client: no article in local.test\n";
    assertEquals(await news(["list", "local.test"]), { code: 0, stdout: "", stderr: none });

    const body = ".\n..dots\nGrüße\n" + "x".repeat(900) + "\n";
    const one = `${HEADER}Subject: =?utf-8?b?R3LDvMOfZQ==?=\nMessage-ID: <1@example.org>\n` +
      `MIME-Version: 1.0\nContent-Type: text/plain; charset=utf-8\n\n${body}`;
    const posted = await news(["--trace", "post"], one);
    assertMatch(
      posted.stderr,
      /> \S+ MODE READER\\r\\n[^]*\nnntp_client: posted: .*<1@example.org>/,
    );
    assertEquals((await news(["post"], `${HEADER}Subject: other\n\nno\n`)).code, 0);
    const answer = `${HEADER}Subject: Re: one\nReferences: <1@example.org>\n\nyes\n`;
    assertEquals((await news(["post"], answer)).code, 0);
    let list = "";
    await eventually("innd has told of three articles", async () => {
      list = (await news(["list", "local.test"])).stdout;
      return list.split("\n").length === 4;
    });
    assertMatch(
      list,
      /^ +1 {2}.{16} {2}Jürgen +Grüße\n +3 {2}.{16} {2}Jürgen {22}Re: one\n +2 {2}.{16}.* other\n$/,
    );
    for (const which of [["local.test", "1"], ["<1@example.org>"]]) {
      const { code, stdout } = await news(["read", ...which]);
      assertEquals(code, 0);
      assertMatch(
        stdout,
        /^From: Jürgen <j@example.org>\nNewsgroups: local.test\nSubject: Grüße\n/,
      );
      assertEquals(stdout.slice(stdout.indexOf("\n\n") + 2), body);
    }
    for (
      const [args, code, stdin] of [
        [["list", "local.none"], 411],
        [["read", "local.test", "9"], 423],
        [["read", "<9@example.org>"], 430],
        [["post"], 441, one],
        [["post"], 441, `${HEADER.replace("local.test", "local.none")}Subject: x\n\nx\n`],
      ] as [string[], number, string?][]
    ) {
      const said = await news(args, stdin);
      assertEquals([said.code, said.stdout], [1, ""]);
      assertMatch(
        said.stderr,
        new RegExp(`^nntp_client: 127\\.0\\.0\\.1:\\d+: the server says ${code} `),
      );
    }
  },
});
