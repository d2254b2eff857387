import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { UsageError } from "../../lib/address.ts";
import { FramedConn, LimitError } from "../../lib/framing.ts";
import {
  download,
  Ftp,
  mirror,
  readFacts,
  readLong,
  readReply,
  upload,
} from "../../scripts/ftp_client.ts";
import {
  command,
  mayConnect,
  mayRun,
  missing,
  Program,
  type Result,
  temporaryFolder,
} from "../helpers.ts";
import { latin1, random, receiving } from "../lib/wire.ts";
import { certificate, FILES, forms, testServer } from "./rig.ts";

const NAME = "ftp_client";
const TIMEOUT = 15_000; // milliseconds

/** What a server says to a command, by its verb or whole; "" is nothing, null hangs up. */
type Script = {
  replies?: Record<string, string | null>;
  data?: Record<string, string>; // what it sends for a command, whole or its verb, or in a folder
  serve?: (data: FramedConn) => Promise<unknown>; // or what else it does then
  connections?: number; // so many, and no more
};
const POLITE: Record<string, string> = {
  greeting: "220-Welcome\r\n 220 to\r\n220 you",
  USER: "331 password",
  PASS: "230 welcome",
  PWD: '257 "/home of ""me""" is where you are',
  EPSV: "229 here (|||PORT|)",
  PASV: "227 there (127,9,8,7,HIGH,LOW)",
  REST: "350 go on",
  SIZE: "550 no idea",
  MDTM: "550 no idea",
  RETR: "150 here it comes",
  MLSD: "150 here it comes",
  LIST: "150 here it comes",
  STOR: "150 give it to me",
  end: "226 done",
  QUIT: "221 bye",
  anything: "200 ok",
};

/** An FTP server that says what is in its script, and else what is polite. */
function ftpServer(
  { replies = {}, data = {}, serve, connections = Infinity }: Script = {},
): AsyncDisposable & {
  port: number;
  heard: string[];
  stored: Record<string, string>;
} {
  const [heard, stored]: [string[], Record<string, string>] = [[], {}];
  const server = testServer(async (conn) => {
    await using all = new AsyncDisposableStack();
    let [listener, folder]: [Deno.TcpListener | undefined, string] = [undefined, ""];
    const say = async (...steps: string[]) => {
      const known: Record<string, string | null> = { ...POLITE, ...replies };
      const reply = known[steps.find((step) => step in known) ?? "anything"];
      if (reply === null) throw new Error("hung up");
      if (reply === "") await conn.readToEnd(1e6);
      const { port = 0 } = listener?.addr ?? {};
      const numbers = { PORT: port, HIGH: port >> 8, LOW: port & 255 };
      const text = reply.replace(/PORT|HIGH|LOW/g, (name) => `${numbers[name as "PORT"]}`);
      await conn.writeAll(`${text}\r\n`);
      return text;
    };
    if (connections-- === 0) return await conn.writeAll("421 too many\r\n");
    await say("greeting");
    for (let line; (line = await conn.readLine()) !== null;) {
      heard.push(line);
      const [verb, path = ""] = line.split(/ (.*)/);
      if (verb === "CWD") folder = path;
      if (/^(EPSV|PASV)$/.test(verb)) {
        listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
        all.defer(listener.close.bind(listener));
      }
      const reply = await say(line, verb);
      if (!/^(RETR|MLSD|LIST|STOR)/.test(verb) || !reply.startsWith("150")) continue;
      assert(listener);
      using to = new FramedConn(await listener.accept());
      if (serve) await serve(to);
      else if (verb === "STOR") stored[line] = latin1(await to.readToEnd(1e8));
      else await to.writeAll(data[line] ?? data[`${verb} ${folder}`] ?? data[verb] ?? "");
      to.close();
      await say(`end ${verb}`, "end");
    }
  });
  return {
    port: server.port,
    heard,
    stored,
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

/** Logs in at a server on this machine, does something, and leaves. */
async function at<T>(
  port: number,
  work: (ftp: Ftp) => Promise<T>,
  timeout = TIMEOUT,
): Promise<T> {
  const ftp = await Ftp.open({ host: "127.0.0.1", port, timeout });
  try {
    return await work(ftp);
  } finally {
    await ftp.quit();
  }
}

/** Runs our client to its end. */
async function ftpClient(
  args: string[],
  { cwd, password, permissions = FILES }: {
    cwd?: string;
    password?: string;
    permissions?: string[];
  } = {},
): Promise<Result> {
  const all = [...permissions, "--allow-env=FTP_PASSWORD"];
  const env = password === undefined ? undefined : { FTP_PASSWORD: password };
  await using program = new Program([...command(NAME, all), ...args], { cwd, env });
  await program.endInput();
  return await program.ended();
}

/** What is below a folder, by its path. */
function tree(folder: string, start = ""): Record<string, string> {
  const files: Record<string, string> = {};
  for (const { name, isDirectory } of Deno.readDirSync(folder)) {
    const path = `${folder}/${name}`;
    if (isDirectory) {
      Object.assign(files, { [`${start}${name}/`]: "" }, tree(path, `${start}${name}/`));
    } else files[start + name] = latin1(Deno.readFileSync(path));
  }
  return files;
}

const names = (folder: string) => Object.keys(tree(folder)).sort();

Deno.test("readReply reads a reply however it is cut, and not an octet of the next", async () => {
  for (
    const [text, lines] of [
      ["220 ready\r\n", ["220 ready"]],
      ["220\r\n", ["220"]],
      ["220 \n", ["220 "]],
      ["211-a\r\n211 b\r\n", ["211-a", "211 b"]],
      ["211-a\r\n 211 b\r\n211-c\r\n212 d\r\n\r\n2110\r\n211\r\n", [
        ...["211-a", " 211 b", "211-c", "212 d", "", "2110", "211"],
      ]],
      ["550 é\u2028\x1b\r\n", ["550 é\u2028\x1b"]],
      ["211-x\r\n".repeat(999) + "211 x\r\n", [...Array(999).fill("211-x"), "211 x"]],
    ] as const
  ) {
    const data = new TextEncoder().encode(text);
    for (const cut of data.length > 1000 ? [1, 500] : data.keys()) {
      const { conn } = receiving(data.subarray(0, cut), data.subarray(cut), "221 next\r\n", null);
      assertEquals(await readReply(conn), lines.join("\n"));
      assertEquals(await readReply(conn), "221 next");
      const hungUp = receiving(data.subarray(0, cut), null).conn;
      await assertRejects(() => readReply(hungUp), Deno.errors.UnexpectedEof);
    }
  }
});

Deno.test("readReply says what is no reply", async () => {
  for (const text of ["", "22", "2200 x", "220x", " 220 x", "099 x", "600 x", "HTTP/1.1 400 x"]) {
    const { conn } = receiving(`${text}\r\n`);
    await assertRejects(() => readReply(conn), Error, `not a reply of FTP: ${text}`);
  }
  for (const text of [`220 ${"x".repeat(9000)}`, "220-x\r\n".repeat(1000)]) {
    await assertRejects(() => readReply(receiving(text).conn), LimitError);
  }
});

Deno.test("readFacts and readLong read a line of a list", () => {
  const modified = Date.UTC(2026, 10, 28, 16, 45, 35) / 1000;
  for (
    const [line, kind, name, size, time] of [
      ["type=file;size=3;modify=20261128164535; a b", "-", "a b", 3, modified],
      ["Type=FILE;Size=3;Modify=20261128164535.999;  a", "-", " a", 3, modified],
      ["modify=20261128164535;perm=el;type=dir;unique=f1; -d", "d", "-d", undefined, modified],
      ["type=cdir; .", ".", "."],
      ["type=pdir; ..", ".", ".."],
      ["type=OS.unix=slink:/etc; l", "l", "l"],
      ["type=OS.unix=chr-1/3; null", "?", "null"],
      ["size=x;modify=1;type=file; a", "-", "a"],
      ["size=9999999999999999;type=file; a", "-", "a"],
      ["type=file; ", "-", ""],
      [" a", "?", "a"],
      ["type=file;a", "?", "type=file;a"],
      ["no fact; a", "?", "no fact; a"],
      ["", "?", ""],
    ] as const
  ) {
    const entry = readFacts(line);
    assertEquals([entry.kind, entry.name, entry.size, entry.modified], [kind, name, size, time]);
  }
  for (
    const [line, kind, name, size, date] of [
      [
        "-rw-r--r--    1 0        0               3 Nov 28 16:45 a b",
        "-",
        "a b",
        3,
        "Nov 28 16:45",
      ],
      ["-rw-r--r--   1 root     root  5 Nov  8  2024  lead", "-", " lead", 5, "Nov  8  2024"],
      ["-rw-r--r--+ 1 me Domain Users 5 Nov  8 2024 -x 1", "-", "-x 1", 5, "Nov  8 2024"],
      ["drwxr-xr-x 2 1 Jan 01 00:00 4096 Nov 28 16:45 d", "d", "d", 4096, "Nov 28 16:45"],
      ["drwxr-xr-x 2 0 0 4096 Nov 28 16:45 ..", ".", "..", 4096, "Nov 28 16:45"],
      ["-rw-r--r-- 2 0 0 4096 Nov 28 16:45 ..", "-", "..", 4096, "Nov 28 16:45"],
      ["lrwxrwxrwx 1 0 0 1 Nov 28 16:45 l -> /etc", "l", "l -> /etc", 1, "Nov 28 16:45"],
      ["crw-rw-rw- 1 0 0 1, 3 Nov 28 16:45 null", "?", "null", 3, "Nov 28 16:45"],
      ["-rw-r--r-- 1 0 0 3 2024-11-28 16:45 a", "?", "-rw-r--r-- 1 0 0 3 2024-11-28 16:45 a"],
      ["line", "?", "line"],
      ["", "?", ""],
    ] as const
  ) {
    const entry = readLong(line);
    assertEquals([entry.kind, entry.name, entry.size, entry.date], [kind, name, size, date], line);
  }
});

Deno.test("whatever a line of a list is, it is read in no time", () => {
  const draw = random(7);
  const words =
    "type=file; type=dir;=size=3;modify=;20261128164535-rw-r--r-- 1 0 Nov 28 16:45 \0..//\\\x1b\ufffd";
  const began = performance.now();
  for (let i = 0; i < 3000; i++) {
    const pieces = Array.from({ length: draw(20) }, () => {
      const from = draw(words.length);
      return words.slice(from, from + draw(30));
    });
    for (const read of [readFacts, readLong]) assert(read(pieces.join("")).kind.length === 1);
  }
  for (const piece of ["1 ", "a=;", "a=", " ", "-", "1", "Nov 28 16:45 ", "drwxr-xr-x 1 "]) {
    for (const start of ["", "-rw-r--r-- 1 "]) {
      const line = start + piece.repeat(8192 / piece.length);
      for (const read of [readFacts, readLong]) read(line);
    }
  }
  assert(performance.now() - began < 5000);
});

Deno.test("a password goes to this machine or over TLS, and to nobody else", async () => {
  const login = async (hostname: string, ...account: string[]) => {
    const { wire, conn } = receiving("220 a\n", "331 b\n", "230 c\n", "200 d\n", '257 "/"\n');
    Object.assign(wire, { remoteAddr: { transport: "tcp", hostname, port: 21 } });
    await new Ftp(conn).login(...account);
    return wire.written;
  };
  for (const host of ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"]) {
    assertMatch(await login(host, "me", "s3cret"), /^USER me\r\nPASS s3cret\r\nTYPE I\r\nPWD\r\n$/);
  }
  for (const host of ["192.0.2.1", "2001:db8::1", "::ffff:192.0.2.1", "128.0.0.1"]) {
    for (const user of ["me", "anonymous"]) {
      await assertRejects(() => login(host, user, "s3cret"), UsageError, "not sent without --tls");
    }
    assertMatch(await login(host), /^USER anonymous\r\nPASS anonymous@\r\n/);
  }
});

Deno.test({
  name: "what would be a second command is none",
  ignore: !mayConnect,
  async fn() {
    await using server = ftpServer();
    await at(server.port, async (ftp) => {
      for (const path of ["a\r\nDELE b", "a\nb", "a\r", "\0"]) {
        await assertRejects(() => ftp.list(path), UsageError, "CR, LF or NUL");
        await assertRejects(() => ftp.size(path), UsageError, "CR, LF or NUL");
      }
      assertEquals(await ftp.size("x"), undefined);
    });
    assertEquals(server.heard.slice(4), ['SIZE /home of "me"/x', "QUIT"]);
    await assertRejects(
      () => Ftp.open({ host: "127.0.0.1", port: server.port }, "me", "a\r\nb"),
      UsageError,
      "CR, LF or NUL",
    );
  },
});

Deno.test({
  name: "MLSD gives way to LIST -a and that to LIST, EPSV to PASV, whose address nobody looks at",
  ignore: !mayConnect,
  async fn() {
    const long = "-rw-r--r-- 1 0 0 3 Nov 28 16:45 LIST\r\n";
    for (
      const [replies, asked] of [
        [{}, ["EPSV", "MLSD", "EPSV", "MLSD"]],
        [{ MLSD: "500 what" }, ["EPSV", "MLSD", "EPSV", "LIST -a", "EPSV", "LIST -a"]],
        [{ MLSD: "502 no", "LIST -a": "501 no" }, [
          ...["EPSV", "MLSD", "EPSV", "LIST -a", "EPSV", "LIST", "EPSV", "LIST"],
        ]],
        [{ EPSV: "500 what" }, ["EPSV", "PASV", "MLSD", "PASV", "MLSD"]],
        [{ EPSV: "522 no", PASV: "227 =127,9,8,7,HIGH,LOW" }, [
          ...["EPSV", "PASV", "MLSD", "PASV", "MLSD"],
        ]],
      ] as [Record<string, string>, string[]][]
    ) {
      await using server = ftpServer({
        replies,
        data: {
          MLSD: "type=file; MLSD\r\n",
          "LIST -a": long.replace("LIST", "LIST -a"),
          LIST: long,
        },
      });
      const lists = await at(
        server.port,
        async (ftp) => [await ftp.list(), await ftp.list("/x//")],
      );
      const [name] = asked.slice(-1);
      assertEquals(lists.map(([entry]) => entry.name), [name, name]);
      const heard = server.heard.slice(4, -1);
      assertEquals(heard.filter((line) => line.startsWith("CWD")), [
        'CWD /home of "me"',
        "CWD /x",
      ]);
      assertEquals(heard.filter((line) => !line.startsWith("CWD")), asked);
    }
    // A folder that may not be listed is no reason to think that the server does not know MLSD.
    await using server = ftpServer({ replies: { MLSD: "550 no" } });
    await at(
      server.port,
      (ftp) => assertRejects(() => ftp.list(), Error, "MLSD: the server says 550"),
    );
  },
});

Deno.test({
  name: "a wrong reply at any step is said, and nothing is taken for whole",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const path = `${folder.path}/file`;
    const wrong = [
      ...["150 x", "200 x", "226 x", "331 x", "421 bye", "451 x", "550 x", "999 x", "x", "", null],
      "220-never\r\nended",
    ];
    /** The code that is right there, and what else is. */
    const steps: [step: string, right: RegExp][] = [
      ["greeting", /^220 /],
      ["USER", /^331|^230/],
      ["PASS", /^2../],
      ["TYPE", /^2../],
      ["PWD", /^257/],
      ["EPSV", /^229|^5../], // then it is PASV
      ["PASV", /^227/],
      ["REST", /^350/],
      ["RETR", /^150/],
      ["end", /^(226|250)/],
    ];
    const jobs = steps.flatMap(([step, right]) => wrong.map((reply) => ({ step, right, reply })));
    await Promise.all(jobs.map(async ({ step, right, reply }, i) => {
      if (reply && right.test(reply) && !reply.includes("\n")) return;
      const EPSV = step === "PASV" ? "500 x" : POLITE.EPSV;
      await using server = ftpServer({
        replies: { EPSV, [step]: reply },
        data: { RETR: "end" },
      });
      const local = `${path}${i}`;
      await Deno.writeTextFile(`${local}.part`, "begin ");
      const get = () =>
        at(server.port, (ftp) => download(ftp, "file", local, { resume: true }), 500);
      const { message } = await assertRejects(get);
      const said = {
        "": /no answer within 0.5 s/,
        null: /hung up without|reset|broken pipe/,
        "999 x": /not a reply of FTP: 999 x/,
        "x": /not a reply of FTP: x/,
        "220-never\r\nended": /no answer within|the server says 220-never/,
      }[`${reply}`] ?? new RegExp(`the server says ${reply}`);
      assertMatch(message, said, `${step}: ${reply}`);
      const kept = await Deno.readTextFile(`${local}.part`);
      assertEquals(kept, step === "end" ? "begin end" : "begin ", `${step}: ${reply}`);
    }));
    assertEquals(names(folder.path).filter((name) => !name.endsWith(".part")), []);
  },
});

Deno.test({
  name: "what comes unasked is not taken for an answer",
  ignore: !mayConnect,
  async fn() {
    await using server = ftpServer({ replies: { SIZE: "213 1\r\n213 2" } });
    const ftp = await Ftp.open({ host: "127.0.0.1", port: server.port, timeout: TIMEOUT });
    assertEquals(await ftp.size("a"), 1);
    await assertRejects(() => ftp.size("b"), Error, "unasked: the server says 213 2");
    await assertRejects(() => ftp.check());
    assertEquals(server.heard.includes("SIZE b"), false);
  },
});

Deno.test({
  name: "a talk cut at any place is a failure, and leaves no whole file",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    let [limit, sent] = [Infinity, 0];
    await using server = ftpServer({ replies: { SIZE: "213 5" }, data: { RETR: "alpha" } });
    // A proxy that passes on so many octets of the server's control connection.
    await using proxy = testServer(async (conn) => {
      using origin = new FramedConn(await Deno.connect({ port: server.port }));
      (async () => {
        for (let data; (data = await conn.readSome()) !== null;) await origin.writeAll(data);
      })().catch(() => {});
      sent = 0;
      for (let data; sent < limit && (data = await origin.readSome(limit - sent)) !== null;) {
        sent += data.length;
        await conn.writeAll(data);
      }
    });
    const path = `${folder.path}/file`;
    const get = () => at(proxy.port, (ftp) => download(ftp, "file", path, { size: 5 }));
    assertEquals(await get(), 5);
    const whole = sent - `${POLITE.QUIT}\r\n`.length;
    assert(whole > 150);
    for (limit = 0; limit < whole; limit++) {
      await Deno.remove(path).catch(() => {});
      await assertRejects(get);
      assertEquals(names(folder.path).includes("file"), false, `${limit}`);
    }
    assertEquals(await get(), 5);
  },
});

Deno.test({
  name: "a file is whole if the server says so, and has the size that it said",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const path = `${folder.path}/file`;
    for (
      const [size, data, end, outcome, left] of [
        [5, "alpha", "226 done", 5, { file: "alpha" }],
        [5, "alpha", "250 done", 5, { file: "alpha" }],
        [undefined, "alpha", "226 done", 5, { file: "alpha" }],
        [0, "", "226 done", 0, { file: "" }],
        [
          5,
          "alpha",
          "426 cut",
          "5 bytes kept in PATH.part: RETR: the server says 426 cut",
          "alpha",
        ],
        [5, "alp", "451 disk", "3 bytes kept in PATH.part: RETR: the server says 451 disk", "alp"],
        [
          undefined,
          "alp",
          "426 cut",
          "3 bytes kept in PATH.part: RETR: the server says 426",
          "alp",
        ],
        [5, "", "426 cut", "RETR: the server says 426 cut", ""],
        [5, "alp", "226 done", "connection ended after 3 of 5 bytes, kept in PATH.part", "alp"],
        [5, "alphabet", "226 done", "8 bytes kept in PATH.part: more came than 5 byt", "alphabet"],
        [2 ** 32, "alp", "226 done", "connection ended after 3 of 4294967296 bytes", "alp"],
        [1e15 - 1, "", "226 done", "connection ended after 0 of 999999999999999 bytes", ""],
      ] as const
    ) {
      await using server = ftpServer({ replies: { end }, data: { RETR: data } });
      const got = at(server.port, (ftp) => download(ftp, "/file", path, { size }));
      if (typeof outcome === "number") assertEquals(await got, outcome);
      else await assertRejects(() => got, Error, outcome.replace("PATH", path));
      assertEquals(tree(folder.path), typeof left === "string" ? { "file.part": left } : left);
      await Deno.remove(`${path}.part`).catch(() => {});
      await Deno.remove(path).catch(() => {});
    }
  },
});

Deno.test({
  name: "download goes on where it was cut, upload too",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const path = `${folder.path}/file`;
    for (
      const [part, resume, asked] of [
        ["", true, ["EPSV", "RETR /a"]],
        ["alp", true, ["EPSV", "REST 3", "RETR /a"]],
        ["alpha", true, ["EPSV", "REST 5", "RETR /a"]],
        ["other", false, ["EPSV", "RETR /a"]],
      ] as const
    ) {
      await Deno.writeTextFile(`${path}.part`, part);
      await using server = ftpServer({ data: { RETR: "alpha".slice(resume ? part.length : 0) } });
      await at(server.port, (ftp) => download(ftp, "/a", path, { resume, size: 5, modified: 1e9 }));
      assertEquals(server.heard.slice(4, -1), [...asked]);
      assertEquals(tree(folder.path), { file: "alpha" });
      assertEquals(Number((await Deno.stat(path)).mtime), 1e12);
    }
    await Deno.writeTextFile(`${path}.part`, "alphabet");
    await using nothing = ftpServer();
    const longer = () =>
      at(nothing.port, (ftp) => download(ftp, "/a", path, { resume: true, size: 5 }));
    await assertRejects(longer, Error, `${path}.part has 8 bytes, and the server's file 5`);
    assertEquals(nothing.heard.slice(4), ["QUIT"]);

    for (
      const [size, resume, asked, sent] of [
        ["550 none", false, ["EPSV", "STOR /a"], "alpha"],
        ["550 none", true, ["EPSV", "STOR /a"], "alpha"],
        ["213 3", true, ["EPSV", "REST 3", "STOR /a"], "ha"],
        ["213 5", true, ["EPSV", "REST 5", "STOR /a"], ""],
      ] as const
    ) {
      await using server = ftpServer({ replies: { SIZE: size } });
      const put = () => at(server.port, (ftp) => upload(ftp, path, "/a", { resume }));
      if (size === "213 3") await assertRejects(put, Error, "5 bytes sent, and the server has 3");
      else assertEquals(await put(), 5);
      assertEquals(server.stored, { "STOR /a": sent });
      const heard = server.heard.slice(4, -1).filter((line) => line !== "SIZE /a");
      assertEquals(heard, [...asked]);
    }
    await using larger = ftpServer({ replies: { SIZE: "213 9" } });
    const shorter = () => at(larger.port, (ftp) => upload(ftp, path, "/a", { resume: true }));
    await assertRejects(shorter, Error, `${path} has 5 bytes, and the server's file 9`);
    assertEquals(larger.stored, {});
    await assertRejects(() => upload({} as Ftp, folder.path, "/a", {}), Error, "not a file");
  },
});

Deno.test({
  name: "an upload that the server does not want is said, in its words",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const path = `${folder.path}/file`;
    await Deno.writeFile(path, new Uint8Array(20_000_000)); // more than the sockets hold
    for (
      const [replies, serve, says] of [
        [{ STOR: "553 no" }, undefined, /^0 of 20000000 bytes sent: STOR: the server says 553 no$/],
        [
          { end: "552 quota" },
          (data: FramedConn) => data.readExactly(100),
          /^\d+ of 20000000 bytes sent: STOR: the server says 552 quota: (broken pipe|connection reset.*)$/,
        ],
        [
          { end: "552 quota" },
          (data: FramedConn) => data.readToEnd(1e9),
          /^20000000 of 20000000 bytes sent: STOR: the server says 552 quota$/,
        ],
      ] as [Record<string, string>, Script["serve"], RegExp][]
    ) {
      await using server = ftpServer({ replies, serve });
      const put = () => at(server.port, (ftp) => upload(ftp, path, "x", {}));
      assertMatch((await assertRejects(put)).message, says);
    }
  },
});

Deno.test({
  name: "a data connection that never comes, or never ends, is given up",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const path = `${folder.path}/file`;
    using gone = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = gone.addr;
    gone.close();
    const silent = (data: FramedConn) => data.readToEnd(1e6);
    const slow = async (data: FramedConn) => {
      await data.writeAll("alp");
      await data.readToEnd(1e6);
    };
    for (
      const [script, says] of [
        [{ replies: { EPSV: `229 x (|||${port}|)` } }, /: connection refused/],
        [{ replies: { EPSV: "229 x (|||0|)" } }, /^EPSV: the server says 229 x/],
        [{ replies: { EPSV: "229 x (|||65536|)" } }, /^EPSV: the server says 229 x/],
        [{ replies: { EPSV: "500", PASV: "227 (1,2,3,4,256,0)" } }, /^PASV: the server says 227/],
        [{ replies: { EPSV: "500", PASV: "227 (1,2,3,4,5)" } }, /^PASV: the server says 227/],
        [{ serve: silent }, /^no answer within 0.3 s/],
        [{ serve: slow }, /^3 bytes kept in .*: no answer within 0.3 s/],
      ] as [Script, RegExp][]
    ) {
      await using server = ftpServer(script);
      const get = () => at(server.port, (ftp) => download(ftp, "x", path, {}), 300);
      assertMatch((await assertRejects(get)).message, says);
      assertEquals(names(folder.path).includes("file"), false);
    }
  },
});

/** Copies a folder from a server on this machine; returns the counts, and what was said. */
async function copy(
  port: number,
  remote: string,
  local: string,
  { jobs = 1, resume = false } = {},
): Promise<{ counts: Awaited<ReturnType<typeof mirror>>; said: string[] }> {
  const said: string[] = [];
  const open = () => Ftp.open({ host: "127.0.0.1", port, timeout: TIMEOUT });
  const options = { jobs, resume, open, say: (line: string) => said.push(line) };
  const counts = await at(port, (ftp) => mirror(ftp, remote, local, options));
  return { counts, said };
}

const counted = (received: number, unchanged: number, failed: number) => ({
  received,
  unchanged,
  failed,
});

Deno.test({
  name: "no name of a server leaves the folder, nor is one file written as another",
  ignore: !mayRun,
  async fn() {
    const bad = [
      ...[
        "../x",
        "..",
        ".",
        "",
        "/etc/x",
        "a/b",
        "a/../../x",
        "a\\b",
        "..\\x",
        "nul\0",
        "esc\x1b[1m",
      ],
      ...["tab\t", "cr\rx", "del\x7f", "c1\x85"],
    ];
    const octet = "\ufffd";
    for (
      const [kind, line] of [
        ["MLSD", (type: string, name: string) => `type=${type};size=4; ${name}\r\n`],
        [
          "LIST",
          (type: string, name: string) =>
            `${type === "dir" ? "d" : "-"}rw-r--r-- 1 0 0 4 Nov 28 16:45 ${name}\r\n`,
        ],
      ] as const
    ) {
      await using folder = await temporaryFolder();
      const local = `${folder.path}/a/b/c`;
      const both = bad.flatMap((name) => [line("file", name), line("dir", name)]).join("");
      const good = line("file", "fine") + line("file", " fine -> x") + line("file", "x.part");
      const twice = line("file", "fine") + line("file", "fine.part") + line("dir", "fine");
      const end = line("file", "one\nline") + line("dir", "-d");
      await using server = ftpServer({
        replies: kind === "LIST" ? { MLSD: "500 what" } : {},
        data: { [`${kind} /r`]: both + good + twice + end + line("file", octet), RETR: "data" },
      });
      const { counts, said } = await copy(server.port, "/r", local, { jobs: 3 });
      // Those two that LIST has for every folder are no news.
      const news = kind === "LIST" ? -2 : 0;
      const files = {
        " fine -> x": "data",
        fine: "data",
        one: "data",
        "x.part": "data",
        "-d/": "",
      };
      assertEquals(tree(local), files, said.join("\n"));
      assertEquals(names(folder.path).filter((path) => !path.startsWith("a/b/c/")), ["a/", "a/b/"]);
      assertEquals(counts, counted(4, 0, 2 * bad.length + news + 3 + 1 + 1), said.join("\n"));
      assertEquals(server.heard.filter((line) => /\.\.|etc|\\|a\/b/.test(line)), []);
    }
  },
});

Deno.test({
  name: "links and what is not a file are left out, and said",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const local = `${folder.path}/copy`;
    await using server = ftpServer({
      data: {
        "MLSD /r": "type=OS.unix=slink:/etc; l\r\ntype=OS.unix=chr-1/3; null\r\n" +
          "type=dir;unique=1; d\r\ntype=file; f\r\nnonsense\r\n",
        "MLSD /r/d": "type=dir;unique=2; e\r\ntype=dir; g\r\n",
        "MLSD /r/d/e": "type=dir;unique=1; again\r\n",
      },
    });
    const { counts, said } = await copy(server.port, "/r", local);
    assertEquals(counts, counted(1, 0, 2));
    assertEquals(said, [
      "/r/l: a link, left out",
      "/r/nonsense: neither a file nor a folder, or not to be read",
      "/r/null: neither a file nor a folder, or not to be read",
      "/r/d/e/again: a folder in itself, left out",
    ]);
    assertEquals(names(local), ["d/", "d/e/", "d/g/", "f"]);
  },
});

Deno.test({
  name: "a list without an end, a line without one, and folders in folders for ever are given up",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const local = `${folder.path}/copy`;
    for (
      const [piece, says] of [
        ["type=file; x\r\n".repeat(5000), /^list that takes more than 33554432 bytes$/],
        ["x".repeat(65536), /^line of more than 8192 bytes$/],
      ] as const
    ) {
      let sent = 0;
      await using server = ftpServer({
        async serve(data) {
          for (;; sent += piece.length) await data.writeAll(piece);
        },
      });
      const list = () => at(server.port, (ftp) => ftp.list());
      assertMatch((await assertRejects(list, LimitError)).message, says);
      assert(sent < 1e8, `${sent}`);
    }
    await using server = ftpServer({ data: { MLSD: "type=dir; d\r\n" } });
    const { counts, said } = await copy(server.port, "/", local);
    assertEquals(counts, counted(0, 0, 1));
    assertEquals(said, [`${"/d".repeat(33)}: in more than 32 folders`]);
    assertEquals(names(local).length, 32);
  },
});

Deno.test({
  name: "what is there already is not received again, if the server tells the time",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const local = `${folder.path}/copy`;
    const facts = "type=file;size=4;modify=20261128164535; a\r\ntype=file;size=4; b\r\n";
    const long = "-rw-r--r-- 1 0 0 4 Nov 28 16:45 a\r\n-rw-r--r-- 1 0 0 4 Nov 28 16:45 b\r\n";
    const MDTM = "213 20261128164535";
    for (
      const [replies, data, again] of [
        [{}, { MLSD: facts }, counted(1, 1, 0)], // nobody knows the time of b
        [{ MDTM }, { MLSD: facts }, counted(0, 2, 0)],
        [{ MDTM, MLSD: "500 what" }, { LIST: long }, counted(0, 2, 0)],
        [{ MLSD: "500 what" }, { LIST: long }, counted(2, 0, 0)],
      ] as [Record<string, string>, Record<string, string>, unknown][]
    ) {
      await using server = ftpServer({ replies, data: { ...data, RETR: "data" } });
      assertEquals((await copy(server.port, "/", local)).counts.received, 2);
      assertEquals((await copy(server.port, "/", local)).counts, again);
      await Deno.writeTextFile(`${local}/a`, "late"); // of the same size
      await Deno.remove(`${local}/b`);
      assertEquals((await copy(server.port, "/", local)).counts, counted(2, 0, 0));
      assertEquals(tree(local), { a: "data", b: "data" });
      await Deno.remove(local, { recursive: true });
    }
  },
});

Deno.test({
  name: "a job without a connection leaves its files to the others, and no file is forgotten",
  ignore: !mayRun,
  async fn() {
    const all = "abcdefgh".split("");
    const data = {
      MLSD: all.map((name) => `type=file;size=4; ${name}\r\n`).join(""),
      RETR: "data",
    };
    for (
      const [script, jobs, counts, says] of [
        [{}, 1, counted(8, 0, 0), []],
        [{}, 4, counted(8, 0, 0), []],
        [{}, 16, counted(8, 0, 0), []],
        [{ connections: 1 }, 3, counted(8, 0, 0), ["ADDR: greeting: the server says 421 too many"]],
        [{ replies: { "RETR /c": "550 no" } }, 2, counted(7, 0, 1), [
          "/c: RETR: the server says 550",
        ]],
        [{ replies: { "RETR /c": null } }, 2, counted(7, 0, 1), ["/c: hung up"]],
        [{ replies: { "RETR /c": null } }, 1, counted(2, 0, 6), [
          "/c: hung up",
          "/h: no connection",
        ]],
        [{ replies: { RETR: null } }, 4, counted(0, 0, 8), ["/a: hung up", "/h: no connection"]],
        [{ replies: { "end RETR": "426 cut" } }, 4, counted(0, 0, 8), ["/h: 4 bytes kept in"]],
      ] as [Script, number, unknown, string[]][]
    ) {
      await using folder = await temporaryFolder();
      await using server = ftpServer({ ...script, data });
      const result = await copy(server.port, "/", folder.path, { jobs });
      const said = result.said.join("\n").replaceAll(`127.0.0.1:${server.port}`, "ADDR");
      assertEquals(result.counts, counts, said);
      for (const line of says) assert(said.includes(line), `${line}:\n${said}`);
      const whole = names(folder.path).filter((name) => !name.endsWith(".part"));
      assertEquals(whole.length, result.counts.received);
      assertEquals(new Set(server.heard.filter((line) => line === "PWD")).size, 1);
    }
  },
});

/** Makes a tree of a few hundred files in `root`, with names of all kinds. */
async function plant(root: string): Promise<Record<string, string>> {
  const draw = random(959);
  for (const folder of ["", "empty", "a b/ü", "-d/d/d", " s", "{a,b}*"]) {
    await Deno.mkdir(`${root}/${folder}`, { recursive: true });
    for (let i = 0; i < 60 && folder !== "empty"; i++) {
      const name = ["f", "-l", ".hidden", "a b", "grüße", " s", "x -> y", "q?[1]"][i % 8];
      const size = draw(10) === 0 ? 0 : draw(5000);
      const data = Uint8Array.from({ length: size }, () => draw(256));
      await Deno.writeFile(`${root}/${folder}/${name}${i}`, data);
    }
  }
  return tree(root);
}

Deno.test({
  name: "ftp_server and ftp_client: a list, files both ways, a whole tree, in each form",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const [root, cwd] = [`${folder.path}/root`, `${folder.path}/client`];
    const planted = await plant(root);
    const files = Object.keys(planted).filter((path) => !path.endsWith("/")).length;
    for (const [form, listen, ask] of await forms(folder.path)) {
      if (form === "Unix") continue; // the data connections take addresses
      await Deno.mkdir(cwd);
      const argv = command("ftp_server", ["--allow-write", "--allow-env=FTP_PASSWORD"]);
      await using server = new Program([...argv, "--port", "0", ...listen, "--user", "me", root], {
        env: { FTP_PASSWORD: "s3cret" },
      });
      const at = ["--port", `${await server.port()}`, ...ask];
      const me = [...at, "--user", "me"];
      const client = async (args: string[], code: number, stderr: RegExp, password?: string) => {
        const result = await ftpClient(args, { cwd, password });
        assertEquals(result.code, code, result.stderr);
        assertMatch(result.stderr, stderr);
        return result.stdout;
      };

      const done = (...counts: number[]) =>
        new RegExp(`^ftp_client: copy: ${counts.join(" files received, ")} unchanged, 0 failed\n$`);
      await client([...at, "mirror", "/", "copy", "--jobs", "4"], 0, done(files, 0));
      assertEquals(tree(`${cwd}/copy`), planted);
      await Deno.writeTextFile(`${cwd}/-new`, "");
      await client([...me, "put", "--", "-new", "empty/"], 0, /sent empty\/-new, 0 byt/, "s3cret");
      assertEquals(tree(`${root}/empty`), { "-new": "" });
      await Deno.remove(`${root}/empty/-new`);
      if (form !== "plain") {
        await Deno.remove(cwd, { recursive: true });
        continue;
      }

      const list = await client([...at, "ls", "a b/ü"], 0, /^$/);
      assertMatch(list, /^- +\d+ \d{4}-\d\d-\d\d \d\d:\d\d {2}s13\n/);
      assertEquals(list.split("\n").length, 61);

      await Deno.writeTextFile(`${cwd}/copy/f0`, "changed");
      await client([...at, "mirror", ".", "copy"], 0, done(1, files - 1));
      assertEquals(tree(`${cwd}/copy`), planted);

      await client([...at, "get", "a b/ü/grüße4"], 0, /^ftp_client: received grüße4, \d+ bytes\n$/);
      await client([...at, "get", "--", "-l1", "copy"], 0, /^ftp_client: received copy\/-l1, /);
      assertEquals(latin1(await Deno.readFile(`${cwd}/grüße4`)), planted["a b/ü/grüße4"]);

      await client([...me, "put", "grüße4", "empty/new"], 0, /sent empty\/new, \d+ by/, "s3cret");
      assertEquals(tree(`${root}/empty`), { new: planted["a b/ü/grüße4"] });
      await client([...at, "put", "grüße4"], 1, /^ftp_client: 0 of \d+ bytes sent: STOR: .* 550 /);
      await client([...me, "ls"], 1, /^ftp_client: \S+: PASS: the server says 530 .*\n$/, "wrong");
      await client([...me, "ls"], 2, /^ftp_client: FTP_PASSWORD is not set/);
      await client(
        [...me, "--trace", "ls"],
        0,
        /> \S+ PASS \*\*\*\\r\\n\n(?![^]*s3cret)/,
        "s3cret",
      );
      await Deno.remove(`${root}/empty/new`);
      await Deno.remove(cwd, { recursive: true });
    }
  },
});

Deno.test({
  name: "over TLS a data connection whose other end speaks none is given up",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const { cert, key } = await certificate(folder.path);
    const path = `${folder.path}/file`;
    await Deno.writeTextFile(path, "");
    const pem = { cert: await Deno.readTextFile(cert), key: await Deno.readTextFile(key) };
    for (const answer of ["", "not a handshake\r\n"]) {
      // What takes TLS off the control connection of a server that has none.
      await using plain = ftpServer({
        async serve(data) {
          await data.writeAll(answer);
          await data.readToEnd(1e6);
        },
      });
      using listener = Deno.listenTls({ hostname: "127.0.0.1", port: 0, ...pem });
      const accepting = (async () => {
        for await (const conn of listener) {
          const origin = await Deno.connect({ port: plain.port });
          const ends = [
            conn.readable.pipeTo(origin.writable),
            origin.readable.pipeTo(conn.writable),
          ];
          for (const end of ends) end.catch(() => {});
        }
      })();
      const open = () =>
        Ftp.open({
          ...{ host: "127.0.0.1", port: listener.addr.port, timeout: 300 },
          ...{ tls: true, ca: cert },
        });
      for (
        const work of [
          (ftp: Ftp) => ftp.list(),
          (ftp: Ftp) => download(ftp, "x", `${folder.path}/x`, {}),
          (ftp: Ftp) => upload(ftp, path, "x", {}),
        ]
      ) {
        const ftp = await open();
        await assertRejects(() => work(ftp) as Promise<unknown>);
        ftp.conn.close();
      }
      assertEquals(plain.heard.filter((line) => line === "PROT P").length, 3);
      listener.close();
      await accepting;
    }
  },
});

Deno.test({
  name:
    "a command line that is wrong is said before anybody is asked, and a permission by its flag",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const cwd = folder.path;
    await Deno.writeTextFile(`${cwd}/file`, "data");
    await using server = ftpServer({ data: { MLSD: "type=file; a\r\n", RETR: "data" } });
    const at = ["--port", `${server.port}`];
    for (
      const [args, says] of [
        [["ls", "a", "b"], /unexpected argument b/],
        [["get"], /REMOTE is missing/],
        [["get", "a", "b", "c"], /unexpected argument c/],
        [["put"], /LOCAL is missing/],
        [["mirror"], /REMOTE is missing/],
        [["toString"], /toString is none of ls, get, put, mirror/],
        [["mirror", "/", "--jobs", "0"], /--jobs: 0 is not a whole number from 1 to 16/],
      ] as const
    ) {
      const { code, stderr } = await ftpClient([...at, ...args], { cwd });
      assertEquals(code, 2);
      assertMatch(stderr, says);
    }
    assertEquals(server.heard, []);
    for (
      const [permissions, args, says] of [
        [[], ["get", "a"], /--allow-read/],
        [["--allow-read"], ["get", "a"], /--allow-write/],
        [[], ["put", "file"], /--allow-read/],
        [[], ["mirror", "/"], /--allow-write/],
        [["--allow-write"], ["mirror", "/"], /--allow-read/],
      ] as const
    ) {
      const { code, stderr } = await ftpClient([...at, ...args], {
        cwd,
        permissions: [...permissions],
      });
      assertEquals(code, 1);
      assertMatch(stderr, says);
      assertEquals(stderr.split("\n").length, 2);
    }
    for (
      const [args, code, says] of [
        [["ls", "a\r\nDELE b"], 2, /a command cannot hold a CR, LF or NUL/],
        [["get", ".."], 2, /^ftp_client: \.\. has no file's name/],
        [["put", "nothing"], 1, /^ftp_client: nothing: no such file or directory\n$/],
        [["put", "."], 1, /^ftp_client: \.: not a file\n$/],
        [["get", "a", "no/b"], 1, /^ftp_client: no\/b\.part: no such file or directory/],
      ] as const
    ) {
      const result = await ftpClient([...at, ...args], { cwd });
      assertEquals(result.code, code, result.stderr);
      assertMatch(result.stderr, says);
    }
    assertEquals(server.heard.filter((line) => line.startsWith("DELE")), []);
    assertEquals(names(cwd), ["file"]);
  },
});

Deno.test({
  name: "what a server says drives no terminal",
  ignore: !mayRun,
  async fn() {
    await using server = ftpServer({
      replies: { "CWD /x": "550 \x1b[31mno\u202e" },
      data: { MLSD: "type=file; \x1b]0;x\x07a\r\n\x1bc\r\n" },
    });
    const list = await ftpClient(["--port", `${server.port}`, "ls"]);
    assertEquals(list.stdout.replaceAll(/ +/g, " "), "- \\x1b]0;x\\x07a\n? \\x1bc\n");
    const refused = await ftpClient(["--port", `${server.port}`, "ls", "/x"]);
    assertEquals(refused.stderr, "ftp_client: CWD: the server says 550 \\x1b[31mno\\u202e\n");
  },
});
