import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { connect as connectFrom } from "node:net";
import { serve } from "../../lib/server.ts";
import { converse, type Site } from "../../scripts/ftp_server.ts";
import { command, mayRun, missing, Program, run, start, temporaryFolder } from "../helpers.ts";
import { Said } from "../lib/said.ts";
import { latin1, random } from "../lib/wire.ts";
import { eventually } from "../peers/peers.ts";
import { Ftp } from "./ftp.ts";
import { certificate } from "./rig.ts";

const ignore = !mayRun;
const WRITER = ["--allow-write", "--allow-env=FTP_PASSWORD"];

/** A server in this process for a folder in another: `me` may write, with `secret`. */
class Rig {
  readonly said = new Said();
  readonly #stop = new AbortController();
  readonly #served: Promise<void>;
  readonly port: number;

  private constructor(readonly outside: string, site: Partial<Site>, idleTimeout?: number) {
    const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    this.port = listener.addr.port;
    const all = { root: this.root, user: "me", password: "secret", ...site };
    this.#served = serve(listener, (conn) => converse(conn, all), {
      name: "test",
      signal: this.#stop.signal,
      idleTimeout,
    });
  }

  get root(): string {
    return `${this.outside}/root`;
  }

  /** Starts it with these files; `null` makes a folder. */
  static async start(
    files: Record<string, string | null> = {},
    { idleTimeout, ...site }: Partial<Site> & { idleTimeout?: number } = {},
  ): Promise<Rig> {
    const outside = await Deno.realPath(await Deno.makeTempDir());
    const rig = new Rig(outside, site, idleTimeout);
    await Deno.mkdir(rig.root);
    for (const [name, content] of Object.entries(files)) {
      if (content === null) await Deno.mkdir(`${rig.root}/${name}`);
      else await Deno.writeTextFile(`${rig.root}/${name}`, content);
    }
    return rig;
  }

  open(user?: string): Promise<Ftp> {
    return Ftp.open(this.port, user);
  }

  /** What is in the folder now: the files' names and contents, links as they are. */
  tree(folder = this.root): Record<string, string | null> {
    const found: Record<string, string | null> = {};
    for (const { name, isDirectory, isFile, isSymlink } of Deno.readDirSync(folder)) {
      const path = `${folder}/${name}`;
      if (isSymlink) found[name] = `-> ${Deno.readLinkSync(path)}`;
      else if (!isDirectory) found[name] = isFile ? Deno.readTextFileSync(path) : "a pipe";
      else {
        found[name] = null;
        for (const [below, content] of Object.entries(this.tree(path))) {
          found[`${name}/${below}`] = content;
        }
      }
    }
    return found;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#stop.abort();
    await this.#served;
    this.said[Symbol.dispose]();
    await Deno.remove(this.outside, { recursive: true });
  }
}

Deno.test({
  name: "each command has the reply that the RFCs give it",
  ignore,
  async fn() {
    await using rig = await Rig.start({ "a.txt": "one\ntwo\n", sub: null, 'sub/q"q': "quoted" });
    await Deno.utime(`${rig.root}/a.txt`, 1e9, 1e9);
    using nobody = await rig.open("");
    for (
      const [line, reply] of [
        ["NOOP", /^200 /],
        ["noop", /^200 /],
        ["SYST", /^215 UNIX Type: L8$/],
        ["HELP", /^214-.*\n .*\bRETR\b.*\n214 /],
        ["FEAT", /^211-[^]*\n EPSV\n[^]*\n MLST type\*;size\*;modify\*;\n[^]*\n UTF8\n211 /],
        ["OPTS UTF8 ON", /^200 /],
        ["OPTS utf-8 on", /^200 /],
        ["OPTS NOTHING", /^501 /],
        ["NOTHING", /^500 /],
        [" NOOP", /^500 /],
        ["PBSZ 0", /^503 /],
        ["PROT P", /^536 /],
        ["PASS early", /^503 /],
        ...["PWD", "LIST", "RETR a.txt", "STOR a.txt", "EPSV", "STAT"].map((line) =>
          [line, /^530 /] as const
        ),
        ["QUIT", /^221 /],
      ] as const
    ) assertMatch(await nobody.ask(line), reply, line);
    assertEquals(await nobody.conn.readLine(), null);

    using me = await rig.open("me");
    for (
      const [line, reply] of [
        ["PWD", /^257 "\/"$/],
        ["CWD sub", /^250 /],
        ["PWD", /^257 "\/sub"$/],
        ["CWD nothing", /^550 /],
        ["CWD /a.txt", /^550 /],
        ["CDUP", /^250 /],
        ["CDUP", /^550 /],
        ["CWD /sub/.././/sub/", /^250 "\/sub"$/],
        ["CWD /", /^250 "\/"$/],
        ['MKD with "quotes"', /^257 "\/with ""quotes"""$/],
        ["MKD sub", /^550 /],
        ['RMD with "quotes"', /^250 /],
        ["RMD sub", /^550 /],
        ["RMD a.txt", /^550 /],
        ["RMD /", /^550 /],
        ["DELE sub", /^550 /],
        ["DELE nothing", /^550 /],
        ["SIZE a.txt", /^213 8$/],
        ["SIZE sub", /^550 /],
        ["MDTM a.txt", /^213 20010909014640$/],
        ["MLST a.txt", /^250-.*\n type=file;size=8;modify=20010909014640; \/a\.txt\n250 /],
        ["MLST", /^250-.*\n type=dir;modify=\d{14}; \/\n250 /],
        ["OPTS MLST modify;size;other;", /^200 MLST OPTS size;modify;$/],
        ["FEAT", /\n MLST type;size\*;modify\*;\n/],
        ["MLST a.txt", /^250-.*\n size=8;modify=20010909014640; \/a\.txt\n250 /],
        ["OPTS MLST", /^200 MLST OPTS $/],
        ["MLST a.txt", /^250-.*\n {2}\/a\.txt\n250 /],
        ["TYPE A N", /^200 /],
        ["SIZE a.txt", /^550 /],
        ["TYPE L 8", /^200 /],
        ["TYPE E", /^504 /],
        ["TYPE A T", /^504 /],
        ["MODE S", /^200 /],
        ["MODE B", /^504 /],
        ["STRU F", /^200 /],
        ["STRU R", /^504 /],
        ["REST x", /^501 /],
        ["REST 5", /^350 /],
        ["RNTO b.txt", /^503 /],
        ["RNFR nothing", /^550 /],
        ["RNFR a.txt", /^350 /],
        ["NOOP", /^200 /],
        ["RNTO sub", /^553 /],
        ["RNTO b.txt", /^503 /],
        ["RNFR a.txt", /^350 /],
        ["RNTO sub/b.txt", /^250 /],
        ["RNFR sub", /^350 /],
        ["RNTO sub/sub2", /^550 /],
        ["STAT", /^211-.*\n .*TYPE I.*\n211 /],
        ["STAT -l sub", /^213-.*\n -rw.* b\.txt\n -rw.* q"q\n213 /],
        ["PASV", /^227 .*\(127,0,0,1,\d+,\d+\)/],
        ["EPSV", /^229 .*\(\|\|\|\d+\|\)/],
        ["EPSV 1", /^229 /],
        ["EPSV 2", /^522 .*\(1\)/],
        ["ABOR", /^226 /],
        ["LIST", /^425 /],
        ["RETR sub/b.txt", /^425 /],
        ["STOR c.txt", /^425 /],
        ["EPSV ALL", /^200 /],
        ["PASV", /^503 /],
        ["PORT 127,0,0,1,200,0", /^503 /],
        ["EPRT |1|127.0.0.1|51200|", /^503 /],
        ["EPSV", /^229 /],
        ["USER anonymous", /^331 /],
        ["PWD", /^530 /],
      ] as const
    ) assertMatch(await me.ask(line), reply, line);
    assertEquals(rig.tree(), { sub: null, "sub/b.txt": "one\ntwo\n", 'sub/q"q': "quoted" });
  },
});

Deno.test({
  name: "files and lists go both ways: RETR, STOR, APPE, STOU, REST, LIST, NLST, MLSD",
  ignore,
  async fn() {
    await using rig = await Rig.start({ "a.txt": "0123456789", sub: null, "sub/b": "bb" });
    using me = await rig.open("me");
    assertEquals(await me.text("RETR a.txt"), "0123456789");
    await me.expect(350, "REST 7");
    assertEquals(await me.text("RETR a.txt"), "789");
    assertEquals(await me.text("RETR a.txt"), "0123456789", "REST is for one command");
    await me.expect(350, "REST 10");
    assertEquals(await me.text("RETR a.txt"), "");
    await me.expect(350, "REST 11");
    assertMatch((await me.get("RETR a.txt"))[1], /^554 /);
    await me.expect(350, "REST 2");
    await me.expect(200, "TYPE A");
    assertMatch((await me.get("RETR a.txt"))[1], /^504 /);
    await me.expect(200, "TYPE I");
    await me.expect(350, "REST 2");
    await me.expect(250, "CWD /");
    assertEquals(await me.text("RETR a.txt"), "0123456789", "another command came between");

    assertMatch(await me.put("STOR new name.txt", "new"), /^226 /);
    assertMatch(await me.put("STOR new name.txt", "newer"), /^226 /);
    assertMatch(await me.put("APPE new name.txt", " and more"), /^226 /);
    assertMatch(await me.put("APPE appended", "all"), /^226 /);
    await me.expect(350, "REST 4");
    assertMatch(await me.put("STOR a.txt", "abc"), /^226 /);
    await me.expect(350, "REST 100");
    assertMatch(await me.put("STOR a.txt", "abc"), /^554 /);
    assertMatch(await me.put("STOR empty", ""), /^226 /);
    const data = await me.data();
    const [, name] = /^150 FILE: (\S+)$/.exec(await me.ask("STOU")) ?? [];
    data.close();
    assertMatch(await me.reply(), /^226 /);
    assertEquals(rig.tree(), {
      "a.txt": "0123abc",
      "new name.txt": "newer and more",
      appended: "all",
      empty: "",
      [name]: "",
      sub: null,
      "sub/b": "bb",
    });
    await me.expect(250, `DELE ${name}`);

    const NAMES = "a.txt\r\nappended\r\nempty\r\nnew name.txt\r\nsub\r\n";
    assertEquals(await me.text("NLST"), NAMES);
    assertEquals(await me.text("NLST -a"), NAMES);
    assertEquals(await me.text("NLST sub"), "sub/b\r\n");
    assertEquals(await me.text("NLST /sub/"), "/sub/b\r\n");
    assertEquals(await me.text("NLST sub/b"), "sub/b\r\n");
    assertMatch(
      await me.text("LIST -la"),
      /^-rw\S+ 1 ftp ftp +7 [A-Z][a-z]{2} [ \d]\d \d\d:\d\d a\.txt\r\n-.*\r\n-.*\r\n-.*\r\ndrwx\S+ \d ftp ftp +\d+ .* sub\r\n$/,
    );
    await Deno.utime(`${rig.root}/sub/b`, 1e9, 1e9);
    assertMatch(await me.text("LIST -l sub"), /^-rw\S+ 1 ftp ftp +2 Sep {2}9 {2}2001 b\r\n$/);
    assertEquals(await me.text("MLSD sub"), "type=file;size=2;modify=20010909014640; b\r\n");
    assertMatch((await me.get("MLSD a.txt"))[1], /^501 /);
    assertMatch((await me.get("LIST nothing"))[1], /^550 /);
    assertMatch((await me.get("RETR sub"))[1], /^550 /);
    assertMatch(await me.put("STOR sub", ""), /^553 /);
    assertMatch(await me.put("STOR nothing/x", ""), /^550 /);
    assertMatch(await me.put("STOR a.txt/x", ""), /^550 /);
  },
});

Deno.test({
  name: "TYPE A has CRLF on the wire, and every file comes back as it was",
  ignore,
  async fn() {
    const next = random(7);
    const some = Array.from({ length: 5000 }, () => "\r\na"[next(3)]).join("");
    const long = "x".repeat(1024 * 1024 - 1) + "\r\n" + some + "\r"; // a CRLF on the edge of a piece
    for (const content of ["", "\n", "\r", "\r\n", "\n\r\n\r\r\n", "a\nb", some, long]) {
      await using rig = await Rig.start({ file: content });
      using me = await rig.open("me");
      await me.expect(200, "TYPE A");
      const text = await me.text("RETR file");
      assert(text === content.replaceAll("\n", "\r\n"), `sent: ${content.slice(0, 20)}`);
      assertMatch(await me.put("STOR copy", text), /^226 /);
      assert(rig.tree().copy === content, `stored: ${content.slice(0, 20)}`);
      assertMatch(await me.put("APPE copy", "\r\n"), /^226 /);
      assert(rig.tree().copy === content + "\n");
    }
  },
});

/** Every command that takes a path, those that open a data connection last. */
const WITH_PATH = [
  ...["CWD", "MLST", "SIZE", "MDTM", "STAT", "DELE", "MKD", "RMD", "RNFR", "RNTO"],
  ...["LIST", "NLST", "MLSD", "RETR", "STOR", "APPE"],
];

Deno.test({
  name: "no spelling and no link leads any command out of the root",
  ignore,
  async fn() {
    await using rig = await Rig.start({ "a.txt": "a", sub: null, "sub/b": "b" });
    const { root, outside } = rig;
    await Deno.writeTextFile(`${outside}/secret`, "secret");
    await Deno.mkdir(`${outside}/empty`);
    await Deno.mkdir(`${outside}/root-too`);
    await Deno.writeTextFile(`${outside}/root-too/x`, "secret");
    const links = {
      file: "../secret",
      folder: "..",
      whole: outside,
      empty: "../empty",
      sibling: "../root-too",
      dangling: "../not-there",
      inner: "nowhere",
      loop: "loop",
      "sub/up": "../..",
    };
    for (const [name, target] of Object.entries(links)) {
      await Deno.symlink(target, `${root}/${name}`);
    }
    await new Deno.Command("mkfifo", { args: [`${root}/pipe`] }).output();
    const before = rig.tree(outside);
    const paths = [
      ...["..", "../", "../secret", "..//secret", ".././secret", "./../secret", "../root/a.txt"],
      ...["sub/../../secret", "sub/..//..//secret", "/..", "/../secret", "/sub/../../secret"],
      ...["../empty", "../root-too/x", "../new", "sub/../../new", "/../new"],
      ...[`${outside}/secret`, `/${outside}/secret`, "/etc/passwd", "//etc/passwd", "/secret/new"],
      ...Object.keys(links).filter((name) => name !== "inner" && name !== "dangling"),
      ...["file/x", "folder/secret", "folder/root/../secret", "folder/new", "whole/secret"],
      ...["whole/new", "empty/new", "sibling/x", "dangling", "dangling/x", "inner", "inner/x"],
      ...["loop/x", "sub/up/secret", "sub/up/new", "pipe", "pipe/x", "a.txt/", "a.txt/x"].slice(
        0,
        5,
      ),
      ...["~", "~/", "~/new", "~root/new", "~root/.bashrc", "..\\secret", "sub\\..\\..\\secret"],
      ...["\0", "a.txt\0", "new\0", "../secret\0.txt", "sub/\0/x", "new\x01", "new\x7f", "new\x85"],
      ...["\ufeff/../../secret", "new\ufffd", "x".repeat(256), `${"é".repeat(128)}`],
      "x/".repeat(3000),
    ];
    using me = await rig.open("me");
    for (const verb of WITH_PATH) {
      for (const path of paths) {
        if (verb === "RNTO") await me.expect(350, "RNFR a.txt");
        const reply = WITH_PATH.indexOf(verb) < WITH_PATH.indexOf("LIST")
          ? await me.ask(`${verb} ${path}`)
          : await me.put(`${verb} ${path}`, "no");
        assertMatch(reply, /^(501|55[03]) /, `${verb} ${path}`);
        assertEquals(reply.includes(outside) && !path.includes(outside), false, reply);
      }
    }
    // A name of Latin-1, which is not UTF-8.
    for (const verb of ["MKD", "MLST"]) {
      await me.conn.writeAll(new Uint8Array([...new TextEncoder().encode(verb), 32, 0xe9, 13, 10]));
      assertMatch(await me.reply(), /^550 /);
    }
    // A line's end in a name makes two lines of it, and neither means something else.
    for (const [end, second] of [["\r\n", 500], ["\n", 500], ["\r", 500]] as const) {
      await me.conn.writeAll(`MLST a.txt${end}../secret\r\n`);
      assertMatch(await me.reply(), /^250-/);
      assertMatch(await me.reply(), new RegExp(`^${second} `));
    }
    await me.expect(257, "PWD");
    assertEquals(rig.tree(outside), before);
  },
});

Deno.test({
  name: "a list has no name that a line cannot hold, and no link that leads out",
  ignore,
  async fn() {
    const plain = [
      "a b",
      " leading",
      "trailing ",
      "-rf",
      "ü é 漢",
      "%41",
      "...",
      "a;b=c",
      "'\"$(x)",
    ];
    await using rig = await Rig.start(Object.fromEntries(plain.map((name) => [name, name])));
    for (
      const name of ["line\nend", "cr\rlf", "tab\tbed", "esc\x1b[1m", "del\x7f", "back\\slash"]
    ) {
      await Deno.writeTextFile(`${rig.root}/${name}`, "");
    }
    await Deno.symlink("a b", `${rig.root}/in`);
    await Deno.symlink("../..", `${rig.root}/out`);
    await new Deno.Command("python3", {
      args: ["-c", `open(b"${rig.root}/\\xe9", "w")`], // no UTF-8
    }).output();
    using ftp = await rig.open();
    const expected = [...plain, "in"].sort();
    for (const command of ["NLST", "LIST", "MLSD"]) {
      const lines = (await ftp.text(command)).split("\r\n");
      assertEquals(lines.pop(), "");
      assertEquals(lines.length, expected.length, command);
      lines.forEach((line, i) => assert(line.endsWith(expected[i]), line));
    }
    for (const name of expected) {
      assertEquals(await ftp.text(`RETR ${name}`), name === "in" ? "a b" : name);
    }
    // A link is read, and not written.
    using me = await rig.open("me");
    for (const command of ["DELE in", "RNFR in", "STOR in", "APPE in", "RMD in", "MKD in"]) {
      await me.expect(550, command);
    }
  },
});

Deno.test({
  name: "who does not log in reads nothing, who has no password writes nothing",
  ignore,
  async fn() {
    await using rig = await Rig.start({ "a.txt": "a", sub: null });
    for (const name of ["anonymous", "ftp", "Anonymous"]) {
      using ftp = await rig.open(name);
      assertEquals(await ftp.text("RETR a.txt"), "a");
      for (
        const command of [
          ...["STOR b", "APPE a.txt", "STOU", "DELE a.txt", "MKD b", "RMD sub", "RNFR a.txt"],
          ...["RNTO b", "STOR a.txt", "STOR ../x", "DELE nothing"],
        ]
      ) assertMatch(await ftp.put(command, "no"), /^550 You may only read\.$/, command);
    }
    using failing = await rig.open("");
    for (const [name, password] of [["me", "wrong"], ["you", "secret"]]) {
      await failing.expect(331, `USER ${name}`);
      await failing.expect(530, `PASS ${password}`);
      await failing.expect(503, "PASS secret");
    }
    await failing.expect(331, "USER me");
    await failing.send("PASS \r\nUSER me\r\nPASS secret");
    assertMatch(await failing.reply(), /^421 /);
    assertEquals(await failing.conn.readLine(), null);
    assertEquals(rig.tree(), { "a.txt": "a", sub: null });

    // Without --user nobody writes, whatever the password.
    await using closed = await Rig.start({}, { user: undefined, password: undefined });
    for (const [name, password] of [["undefined", "undefined"], ["", ""], ["me", "secret"]]) {
      using ftp = await closed.open("");
      await ftp.expect(331, `USER ${name}`);
      await ftp.expect(530, `PASS ${password}`);
    }
    // A writer may have the name that everybody has, and still needs the password.
    await using same = await Rig.start({}, { user: "anonymous" });
    using reader = await same.open("");
    await reader.expect(331, "USER anonymous");
    await reader.expect(230, "PASS somebody@example.test");
    await reader.expect(550, "MKD x");
    using writer = await same.open("anonymous");
    await writer.expect(257, "MKD x");
  },
});

Deno.test({
  name: "PORT and EPRT lead to the client's own address and to no service",
  ignore,
  async fn() {
    await using rig = await Rig.start({ "a.txt": "a" });
    using ftp = await rig.open();
    using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = listener.addr;
    const [high, low] = [port >> 8, port & 255];
    for (
      const [line, code] of [
        [`PORT 127,0,0,2,${high},${low}`, 504],
        [`PORT 10,0,0,1,${high},${low}`, 504],
        [`PORT 0,0,0,0,${high},${low}`, 504],
        ["PORT 127,0,0,1,0,21", 504],
        ["PORT 127,0,0,1,3,255", 504],
        ["PORT 127,0,0,1,0,0", 504],
        ["PORT 127,0,0,1,256,0", 501],
        ["PORT 127,0,0,1,300,300", 501],
        ["PORT 127,0,0,1,4", 501],
        ["PORT 127,0,0,1,4,0,0", 501],
        ["PORT 127,0,0,1,4,-1", 501],
        ["PORT 127.0.0.1,4,0", 501],
        ["PORT", 501],
        [`EPRT |1|127.0.0.2|${port}|`, 504],
        [`EPRT |1|0.0.0.0/0|${port}|`, 504],
        [`EPRT |1|127.0.0.0/8|${port}|`, 504],
        [`EPRT |1|localhost|${port}|`, 504],
        [`EPRT |1|2130706433|${port}|`, 504],
        [`EPRT |1|::1|${port}|`, 504],
        ["EPRT |1|127.0.0.1|1023|", 504],
        ["EPRT |1|127.0.0.1|65536|", 504],
        [`EPRT |2|::1|${port}|`, 522],
        [`EPRT |3|127.0.0.1|${port}|`, 522],
        [`EPRT |1|127.0.0.1|${port}`, 501],
        [`EPRT 1|127.0.0.1|${port}|`, 501],
        ["EPRT", 501],
      ] as const
    ) {
      await ftp.expect(code, line);
      await ftp.expect(425, "LIST");
    }
    for (const line of [`PORT 127,0,0,1,${high},${low}`, `EPRT !1!127.0.0.1!${port}!`]) {
      await ftp.expect(200, line);
      await ftp.expect(150, "RETR a.txt");
      assertEquals(await new Response((await listener.accept()).readable).text(), "a");
      assertMatch(await ftp.reply(), /^226 /);
    }
    listener.close();
    await ftp.expect(200, `EPRT |1|127.0.0.1|${port}|`);
    await ftp.expect(150, "RETR a.txt");
    assertMatch(await ftp.reply(), /^425 /);
    await ftp.expect(200, "NOOP");
  },
});

/** Connects to a port from another address of this machine's; resolves when it is closed. */
async function intrude(port: number): Promise<string> {
  const socket = connectFrom({ host: "127.0.0.1", port, localAddress: "127.0.0.2" });
  let heard = "";
  socket.on("data", (data) => heard += data);
  await new Promise((resolve) => socket.on("close", resolve).on("error", () => {}));
  return heard;
}

Deno.test({
  name: "a data connection from another address is closed, and the client's own waited for",
  ignore,
  async fn() {
    await using rig = await Rig.start({ "a.txt": "for the client only" });
    using me = await rig.open("me");
    for (const command of ["RETR a.txt", "STOR b.txt"]) {
      const [, port] = /\|\|\|(\d+)\|/.exec(await me.expect(229, "EPSV")) ?? [];
      const intruder = intrude(Number(port));
      await me.expect(150, command);
      assertEquals(await intruder, "");
      const data = await Deno.connect({ hostname: "127.0.0.1", port: Number(port) });
      if (command.startsWith("STOR")) await data.closeWrite();
      assertEquals(
        await new Response(data.readable).text(),
        command.startsWith("STOR") ? "" : "for the client only",
      );
      assertMatch(await me.reply(), /^226 /);
      assertEquals(await refused(Number(port)), true, "one connection each");
    }
    // Another command, or the end, closes the one that nobody came to.
    const [, first] = /\|\|\|(\d+)\|/.exec(await me.expect(229, "EPSV")) ?? [];
    const [, second] = /\|\|\|(\d+)\|/.exec(await me.expect(229, "EPSV")) ?? [];
    assertEquals([await refused(Number(first)), await refused(Number(second))], [true, false]);
    me.conn.close();
    await eventually("the port is closed", () => refused(Number(second)));
  },
});

async function refused(port: number): Promise<boolean> {
  try {
    (await Deno.connect({ hostname: "127.0.0.1", port })).close();
    return false;
  } catch (error) {
    return error instanceof Deno.errors.ConnectionRefused;
  }
}

/** Ways to end an upload of "cut" before it is whole. */
const CUTS: Record<string, (me: Ftp, data: Deno.TcpConn) => Promise<void> | void> = {
  async "by ABOR"(me, data) {
    await me.send("ABOR");
    assertMatch(await me.reply(), /^426 /);
    assertMatch(await me.reply(), /^226 /);
    await me.expect(200, "NOOP");
    data.close();
  },
  "by a client that is gone"(me, data) {
    me.conn.close();
    data.close();
  },
  "by a client that is gone, the data first"(me, data) {
    data.close();
    me.conn.close();
  },
  async "by the end of the commands"(me, data) {
    await me.conn.conn.closeWrite();
    assertMatch(await me.reply(), /^426 /);
    assertEquals(await me.conn.readLine(), null);
    data.close();
  },
  async "by an over-long line"(me, data) {
    await me.send("x".repeat(8193));
    assertMatch(await me.reply(), /^500 /);
    data.close();
  },
  async "by 101 commands that wait"(me, data) {
    await me.send("NOOP\r\n".repeat(100) + "NOOP");
    assertMatch(await me.reply(), /^421 /);
    data.close();
  },
  async "by silence"(me, data) {
    assertEquals(await me.conn.readLine().catch(() => null), null);
    data.close();
  },
};

for (const [how, cut] of Object.entries(CUTS)) {
  Deno.test({
    name: `an upload that is cut ${how} leaves nothing, and what there was`,
    ignore,
    async fn() {
      await using rig = await Rig.start({ old: "old" }, { idleTimeout: 500 });
      for (const command of ["STOR new", "STOR old", "APPE old", "STOU", "REST 1\r\nSTOR old"]) {
        using me = await rig.open("me");
        const data = await me.data();
        await me.send(command);
        if (command.startsWith("REST")) assertMatch(await me.reply(), /^350 /);
        assertMatch(await me.reply(), /^150 /);
        await data.write(new TextEncoder().encode("cut"));
        await eventually("it is being stored", () => Object.keys(rig.tree()).length === 2);
        await cut(me, data);
        await eventually("nothing is left", () => Object.keys(rig.tree()).length === 1);
        assertEquals(rig.tree(), { old: "old" }, command);
      }
    },
  });
}
