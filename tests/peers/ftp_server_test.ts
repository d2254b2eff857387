import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { command, missing, Program, temporaryFolder } from "../helpers.ts";
import { Ftp } from "../scripts/ftp.ts";
import {
  certificates,
  eventually,
  finish,
  limited,
  memory,
  output,
  python,
  sockets,
} from "./peers.ts";

const PERMISSIONS = ["--allow-write", "--allow-env=FTP_PASSWORD"];
const ME = ["--user", "me:secret"];

/** The program for a folder, where `me` may write, and what it is served from. */
class Rig {
  private constructor(
    readonly server: Program,
    readonly port: number,
    readonly folder: string,
    readonly used: AsyncDisposable,
  ) {}

  /** Starts it, with few descriptors if told so. */
  static async start(args: string[] = [], limit = 0): Promise<Rig> {
    await using used = new AsyncDisposableStack();
    const { path } = used.use(await temporaryFolder());
    await Deno.mkdir(`${path}/root`);
    const own = [...args, "--user", "me", `${path}/root`];
    const [, run, ...rest] = command("ftp_server", PERMISSIONS);
    const argv = limit > 0
      ? limited(limit, "ftp_server", own).toSpliced(4, 0, ...PERMISSIONS)
      : [Deno.execPath(), run, ...rest, "--port", "0", ...own];
    const server = used.use(new Program(argv, { env: { FTP_PASSWORD: "secret" } }));
    return new Rig(server, await server.port(), path, used.move());
  }

  get root(): string {
    return `${this.folder}/root`;
  }

  get url(): string {
    return `ftp://127.0.0.1:${this.port}`;
  }

  names(): string[] {
    return Array.from(Deno.readDirSync(this.root), ({ name }) => name).sort();
  }

  /** Stops it; nothing may have gone wrong inside. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.used[Symbol.asyncDispose]();
    assert(!/^\s+at |Uncaught/m.test(this.server.stderr), this.server.stderr);
  }
}

const curl = (...args: string[]) =>
  output(["curl", "--silent", "--show-error", "--max-time", "20", ...args]);

for (const host of ["127.0.0.1", "::1"]) {
  Deno.test({
    name: `Python's ftplib: every method, over ${host}`,
    ignore: missing("python3"),
    async fn() {
      await using rig = await Rig.start(["--host", host]);
      assertEquals(await output(python("ftp_server.py", host, rig.port, "methods")), "done\n");
      assertEquals(rig.names(), []);
    },
  });
}

Deno.test({
  name: "an upload that a reset cuts leaves nothing",
  ignore: missing("python3"),
  async fn() {
    await using rig = await Rig.start();
    const argv = python("ftp_server.py", "127.0.0.1", rig.port, "reset", 20);
    assertEquals(await output(argv), "done\n");
    assertEquals(rig.names(), []);
  },
});

Deno.test({
  name: "curl: gets, lists, puts, appends, resumes, makes folders, renames; passive and active",
  ignore: missing("curl"),
  async fn() {
    await using rig = await Rig.start();
    const { root, url, folder } = rig;
    const file = `${folder}/file`;
    const content = "0123456789".repeat(100_000);
    await Deno.writeTextFile(file, content);
    for (
      const way of [[], ["--disable-epsv"], ["--ftp-port", "-"], ["-P", "-", "--disable-eprt"]]
    ) {
      await curl(...ME, ...way, "--upload-file", file, `${url}/a%20b.txt`);
      assertEquals(await Deno.readTextFile(`${root}/a b.txt`), content);
      assertEquals(await curl(...way, `${url}/a%20b.txt`), content);
      assertEquals(await curl(...way, "--range", "5-14", `${url}/a%20b.txt`), "5678901234");
      assertMatch(await curl(...way, `${url}/`), /^-rw.* 1000000 .* a b\.txt\n$/);
      assertEquals(await curl(...way, "--list-only", `${url}/`), "a b.txt\n");
      await curl(...ME, ...way, "--quote", "DELE a b.txt", `${url}/`);
    }
    await curl(...ME, "--ftp-create-dirs", "--upload-file", file, `${url}/x/y/z.txt`);
    await curl(...ME, "--append", "--upload-file", file, `${url}/x/y/z.txt`);
    assertEquals(await Deno.readTextFile(`${root}/x/y/z.txt`), content + content);
    await Deno.writeTextFile(`${root}/half`, content.slice(0, 400_003));
    await curl(...ME, "--continue-at", "-", "--upload-file", file, `${url}/half`);
    assertEquals(await Deno.readTextFile(`${root}/half`), content);
    await Deno.writeTextFile(`${folder}/half`, content.slice(0, 400_003));
    await curl("--continue-at", "-", "--output", `${folder}/half`, `${url}/half`);
    assertEquals(await Deno.readTextFile(`${folder}/half`), content);
    assertMatch(
      await curl("--head", `${url}/half`),
      /^Last-Modified: .*\r\nContent-Length: 1000000/,
    );
    await curl(...ME, "-Q", "RNFR half", "-Q", "RNTO whole", `${url}/`);
    await Deno.writeTextFile(`${root}/text`, "one\ntwo\n");
    assertEquals(await curl("--use-ascii", `${url}/text`), "one\ntwo\n");
    await curl(...ME, "--use-ascii", "--crlf", "--upload-file", `${root}/text`, `${url}/copy`);
    assertEquals(await Deno.readTextFile(`${root}/copy`), "one\ntwo\n");
    assertEquals(rig.names(), ["copy", "text", "whole", "x"]);
    for (
      const [code, ...args] of [
        ["67", "--user", "me:wrong", url],
        ["25", "--upload-file", file, `${url}/anonymous`],
        ["78", `${url}/nothing`],
        ["9", `${url}/%2e%2e/`, "--path-as-is"],
        ["9", `${url}/%2e%2e%2ffile`],
        ["78", `${url}/%2fetc/passwd`, "--ftp-method", "nocwd"],
      ]
    ) {
      const result = await finish(["curl", "--silent", ...args]);
      assertEquals(`${result.code}`, code, args.join(" "));
    }
  },
});

/** Fills a folder with what a mirror has to carry. */
async function fill(folder: string): Promise<void> {
  await Deno.mkdir(`${folder}/a/b/c`, { recursive: true });
  await Deno.mkdir(`${folder}/empty`);
  await Deno.mkdir(`${folder}/with space`);
  for (let i = 0; i < 20; i++) await Deno.writeTextFile(`${folder}/a/f${i}`, `${i}\n`.repeat(i));
  await Deno.writeFile(`${folder}/a/b/c/large`, new Uint8Array(3e6).map((_, i) => i * i >> 8));
  await Deno.writeTextFile(`${folder}/with space/ü é 漢 #%;'"$&.txt`, "odd");
  await Deno.writeTextFile(`${folder}/.hidden`, "hidden");
}

/** Runs commands of lftp's. */
async function lftp(url: string, ...commands: string[]): Promise<string> {
  const settings = ["net:timeout 15", "net:max-retries 2", "cmd:fail-exit yes"];
  const lines = [...settings.map((set) => `set ${set}`), `open -u me,secret ${url}`, ...commands];
  return await output(["lftp", "--norc", "-c", lines.join("; ")]);
}

Deno.test({
  name: "lftp mirrors both ways, one file at a time and four, and over TLS",
  ignore: missing("lftp", "openssl", "diff"),
  async fn() {
    await using folder = await temporaryFolder();
    const { ca, cert, key } = await certificates(folder.path);
    const source = `${folder.path}/source`;
    await fill(source);
    for (const [parallel, secure] of [["1", false], ["4", false], ["2", true]] as const) {
      await using rig = await Rig.start(secure ? ["--cert", cert, "--key", key] : []);
      const url = secure ? rig.url.replace("ftp:", "ftps:") : rig.url;
      const trust = `set ssl:ca-file ${ca}; set ssl:priority NORMAL:-VERS-TLS1.3`;
      const flags = `--no-perms --parallel=${parallel}`;
      const target = `${rig.folder}/target`;
      await lftp(
        url,
        trust,
        `mirror --reverse ${flags} ${source} up`,
        `mirror ${flags} up ${target}`,
      );
      for (const copy of [`${rig.root}/up`, target]) await output(["diff", "-r", source, copy]);
      // There is nothing left to do.
      const again = `mirror --verbose=1 ${flags}`;
      assertEquals(await lftp(url, trust, `${again} up ${target}`), "");
      assertEquals(await lftp(url, trust, `${again} --reverse ${source} up`), "");
      await lftp(url, trust, `mirror --reverse --delete ${flags} ${source}/empty up`, "rmdir up");
      assertEquals(rig.names(), []);
    }
  },
});

Deno.test({
  name: "lftp: resumes, moves, deletes, lists 10,000 files, sends ALLO and goes on without",
  ignore: missing("lftp"),
  async fn() {
    await using rig = await Rig.start();
    const { root, folder } = rig;
    const content = "0123456789".repeat(100_000);
    await Deno.writeTextFile(`${root}/file`, content);
    await Deno.writeTextFile(`${folder}/half`, content.slice(0, 300_001));
    await lftp(rig.url, `get -c file -o ${folder}/half`, "mv file moved");
    assertEquals(await Deno.readTextFile(`${folder}/half`), content);
    await Deno.writeTextFile(`${root}/file`, content.slice(0, 300_001));
    await lftp(rig.url, `put -c ${folder}/half -o file`, "cat file > /dev/null", "rm moved");
    assertEquals(await Deno.readTextFile(`${root}/file`), content);
    assertEquals(rig.names(), ["file"]);
    assertMatch(await lftp(rig.url, "set ftp:passive-mode no", "cls -l", "quote STAT"), /file/);
    await Deno.mkdir(`${root}/many`);
    for (let i = 0; i < 10_000; i++) {
      Deno.writeTextFileSync(`${root}/many/${String(i).padStart(5, "0")}`, "");
    }
    for (const list of ["cls -1 many", "set ftp:use-mlsd no; cls -1 many", "nlist many"]) {
      const lines = (await lftp(rig.url, list)).trimEnd().split("\n");
      assertEquals([lines.length, lines[0], lines[9999]], [10_000, "many/00000", "many/09999"]);
    }
  },
});

Deno.test({
  name: "Python's ftplib over TLS, which waits for the other side's close_notify",
  ignore: missing("python3", "openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const { ca, cert, key } = await certificates(folder.path);
    await using rig = await Rig.start(["--cert", cert, "--key", key]);
    const argv = python("ftp_server.py", "127.0.0.1", rig.port, "tls", ca);
    assertEquals(await output(argv), "done\n");
  },
});

Deno.test({
  name: "curl over TLS gets, lists and puts, and does not trust another",
  ignore: missing("curl", "openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const { ca, cert, key } = await certificates(folder.path);
    await using rig = await Rig.start(["--cert", cert, "--key", key]);
    const url = rig.url.replace("ftp:", "ftps:");
    const file = `${folder.path}/file`;
    await Deno.writeTextFile(file, "secret\n".repeat(100_000));
    const trust = ["--cacert", ca, "--ssl-reqd"];
    await curl(...ME, ...trust, "--tls-max", "1.2", "--upload-file", file, `${url}/file`);
    assertEquals(await curl(...trust, `${url}/file`), await Deno.readTextFile(file));
    assertMatch(await curl(...trust, `${url}/`), /^-rw.* file\n$/);
    assertEquals((await finish(["curl", "--silent", `${url}/file`])).code, 60);
    assertEquals(rig.names(), ["file"]);
  },
});

Deno.test({
  name: "a client that is killed in the middle of an upload leaves nothing",
  ignore: missing("curl"),
  async fn() {
    await using rig = await Rig.start();
    const file = `${rig.folder}/file`;
    await Deno.writeFile(file, new Uint8Array(50e6));
    for (let i = 0; i < 20; i++) {
      const argv = ["curl", "--silent", ...ME, "--limit-rate", "20M", "-T", file, `${rig.url}/x`];
      await using client = new Program(argv);
      await eventually("it is being stored", () => rig.names().length === 1);
      client.signal("SIGKILL");
      await client.ended();
      await eventually("nothing is left", () => rig.names().length === 0);
    }
  },
});

Deno.test({
  name: "ftp_server with 48 descriptors outlives 100 clients that want two each, and answers then",
  ignore: missing("prlimit"),
  async fn() {
    await using rig = await Rig.start([], 48);
    await Deno.writeTextFile(`${rig.root}/a.txt`, "a");
    const open = async () => {
      const conn = await Deno.connect({ hostname: "127.0.0.1", port: rig.port });
      await conn.write(new TextEncoder().encode("USER ftp\r\nPASS x\r\nEPSV\r\nRETR a.txt\r\n"));
      return conn;
    };
    const before = sockets(rig.server) + 2; // those of `me`
    const clients = await Promise.all(Array.from({ length: 100 }, open));
    await rig.server.until(/cannot accept, trying again/, "stderr");
    clients.forEach((client) => client.close());
    // One that is there already is told, and can go on when there are descriptors again.
    using me = await Ftp.open(rig.port, "me");
    const held = [];
    for (let reply = ""; !reply.startsWith("425 ");) {
      held.push(await Deno.connect({ hostname: "127.0.0.1", port: rig.port }));
      reply = await me.ask("EPSV");
    }
    held.forEach((conn) => conn.close());
    await eventually("it answers", async () => (await me.ask("EPSV")).startsWith("229 "));
    assertMatch(await me.put("STOR b.txt", "b"), /^226 /);
    assertEquals(await me.text("RETR a.txt"), "a");
    await eventually("all is closed", () => sockets(rig.server) <= before);
  },
});

Deno.test({
  name: "ftp_server does not grow with clients that do not read, or that flood it",
  ignore: missing(),
  async fn() {
    await using rig = await Rig.start();
    await Deno.writeFile(`${rig.root}/large`, new Uint8Array(50e6));
    using first = await Ftp.open(rig.port);
    assertEquals((await first.get("RETR large"))[0].length, 50e6);
    const [before, least] = [sockets(rig.server), memory(rig.server, "VmHWM")];
    const stuck = await Promise.all(Array.from({ length: 32 }, async () => {
      const ftp = await Ftp.open(rig.port);
      const data = await ftp.data();
      await ftp.expect(150, "RETR large");
      return { ftp, data };
    }));
    using flood = await Ftp.open(rig.port, "");
    const junk = new Uint8Array(1024 * 1024).fill(0x41);
    for (let i = 0; i < 100; i++) {
      if (await flood.conn.writeAll(junk).then(() => false, () => true)) break;
    }
    // Commands whose replies nobody reads: they stop the client, and nothing else.
    using unread = await Ftp.open(rig.port, "");
    const many = new TextEncoder().encode("HELP\r\n".repeat(100_000));
    let blocked = true;
    const flooding = (async () => {
      for (let i = 0; i < 100; i++) await unread.conn.writeAll(many);
      blocked = false;
    })().catch(() => {});
    assertEquals((await first.get("RETR large"))[0].length, 50e6);
    const growth = (memory(rig.server, "VmHWM") - least) / 1024;
    console.log(
      `ftp_server: ${growth.toFixed(1)} MiB more with 32 that do not read and two floods`,
    );
    assert(growth < 32 * 1.5 + 30, `grew by ${growth} MiB`);
    assert(blocked, "it read on");
    unread.conn.close();
    await flooding;
    for (const { ftp, data } of stuck) {
      data.close();
      ftp.conn.close();
    }
    await eventually("all is closed", () => sockets(rig.server) <= before);
    assertStringIncludes(await first.expect(211, "STAT"), "No transfer");
  },
});
