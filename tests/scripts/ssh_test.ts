import { Buffer } from "node:buffer";
import { Duplex } from "node:stream";
import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { deadline } from "@std/async/deadline";
import { delay } from "@std/async/delay";
import {
  type Channel,
  Client,
  type Connection,
  type Emitter,
  Server,
  type SFTPWrapper,
  utils,
} from "ssh2";
import type { FramedConn } from "../../lib/framing.ts";
import { serve, type ServeOptions } from "../../lib/server.ts";
import { get, KnownHosts, type Login, openSsh, put, type Ssh } from "../../scripts/ssh_client.ts";
import { converse, fingerprint, makeKey, openHostKey, readKeys } from "../../scripts/ssh_server.ts";
import {
  command,
  mayConnect,
  mayRun,
  missing,
  Program,
  run,
  scriptPath,
  start,
  temporaryFolder,
} from "../helpers.ts";
import { octets, random } from "../lib/wire.ts";
import { dial, eventually, hear, memory } from "../peers/peers.ts";
import { onTerminal, testServer } from "./rig.ts";

const { STATUS_CODE } = utils.sftp;
const WRITE = ["--allow-write"];
const text = (key: Buffer | string) => Buffer.from(key).toString();

/** A private key and its public one, as in their files. */
async function newKey(): Promise<{ private: string; public: string }> {
  const key = await makeKey();
  return { private: key, public: `ssh-ed25519 ${parsed(key).getPublicSSH().toString("base64")}` };
}

/** The octets of a public key, of which the file has the base64. */
const octetsOf = (line: string) => Buffer.from(line.split(" ")[1], "base64");

/** The private key as the client takes it. */
function parsed(key: string) {
  const result = utils.parseKey(key);
  if (result instanceof Error) throw result;
  return result;
}

/** A folder with keys, in files: `id` may log in, `other` may not, and `host` is the server's. */
async function keyFolder() {
  const folder = await temporaryFolder();
  const { path } = folder;
  for (const name of ["id", "other", "host"]) {
    const { private: key, public: line } = await newKey();
    await Deno.writeTextFile(`${path}/${name}`, key, { mode: 0o600 });
    await Deno.writeTextFile(`${path}/${name}.pub`, `${line}\n`);
  }
  await Deno.mkdir(`${path}/root/sub`, { recursive: true });
  await Deno.writeTextFile(`${path}/root/inside.txt`, "inside\n");
  return folder;
}

/** The server in this process, for those with the key `id` of the folder. */
async function serving(folder: string, options: Partial<ServeOptions> = {}) {
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const stop = new AbortController();
  const lines: string[] = [];
  const log = (line: string) => lines.push(line);
  const { key: hostKey } = await openHostKey(`${folder}/host`);
  const service = {
    hostKey,
    authorizedKeys: `${folder}/id.pub`,
    root: await Deno.realPath(`${folder}/root`),
    users: new Set<never>(),
    log,
  };
  const served = serve(listener, (conn) => converse(conn, service), {
    name: "server",
    signal: stop.signal,
    log,
    ...options,
  });
  const { port } = listener.addr;
  return {
    port,
    lines,
    users: service.users,
    open: (login: Partial<Login> = {}) => openAt(port, folder, login),
    async [Symbol.asyncDispose]() {
      stop.abort();
      await served;
    },
  };
}

/** Logs in at a server on this machine that has the key `host` of the folder. */
async function openAt(port: number, folder: string, login: Partial<Login> = {}): Promise<Ssh> {
  const endpoint = { host: "127.0.0.1", port, timeout: 10_000 };
  const host = `[127.0.0.1]:${port}`;
  const hosts = new KnownHosts(host, `${host} ${await Deno.readTextFile(`${folder}/host.pub`)}`);
  return await openSsh(endpoint, hosts, () => Promise.resolve(false), {
    user: "ann",
    identity: parsed(await Deno.readTextFile(`${folder}/id`)),
    ...login,
  });
}

/** Ends a client, and waits until it is closed. */
async function end({ client, lost }: Ssh): Promise<void> {
  client.end();
  await lost.catch(() => {});
}

/** Runs a command, and returns what it says and its exit status. */
async function execute(ssh: Ssh, command: string): Promise<[said: string, status: number]> {
  const channel = await ssh.result<Channel>((client, done) => client.exec(command, done));
  let said = "";
  channel.on("data", (piece) => said += piece).stderr.on("data", (piece) => said += piece);
  const [status] = await new Promise<number[]>((resolve) => {
    channel.on("close", (...status) => resolve(status));
  });
  return [said, status];
}

/** A polite client is served. */
async function assertServes(server: { open: () => Promise<Ssh> }): Promise<void> {
  const ssh = await server.open();
  assertEquals(await execute(ssh, "echo hello"), ["hello\n", 0]);
  await end(ssh);
}

Deno.test("ssh_client: the known hosts of a file, by every form of an entry", async () => {
  const [a, b, c] = await Promise.all(
    Array.from({ length: 3 }, async () => (await newKey()).public),
  );
  const hosts = (host: string, ...lines: string[]) => new KnownHosts(host, lines.join("\n"));
  const known = (host: string, line: string) => hosts(host, line).check(octetsOf(a));
  for (
    const [host, pattern] of [
      ["example.org", "example.org"],
      ["example.org", "other.org,Example.ORG,10.0.0.1"],
      ["EXAMPLE.org", "example.org"],
      ["[example.org]:8022", "[example.org]:8022"],
      ["[::1]:8022", "[::1]:8022"],
      ["::1", "::1"],
      ["www.example.org", "*.example.org"],
      ["10.0.0.7", "10.0.0.?"],
      ["[10.0.0.7]:8022", "[10.0.0.*]:8022"],
    ]
  ) {
    assert(known(host, `${pattern} ${a}`), `${host} ${pattern}`);
    assert(known(host, `# a comment\n\n  ${pattern}\t${a} ann@home\r`), `${host} ${pattern}`);
  }
  for (
    const [host, pattern] of [
      ["example.org", "example.com"],
      ["example.org", "xexample.org"],
      ["example.org", "examplexorg"],
      ["example.org", "[example.org]:8022"],
      ["[example.org]:8022", "example.org"],
      ["www.example.org", "*.example.org,!www.example.org"],
      ["www.example.org", "!*.example.com"],
      ["example.org", "#example.org"],
      ["example.org", "@cert-authority example.org"],
      ["example.org", "|1|AAAA|AAAA"],
    ]
  ) assert(!known(host, `${pattern} ${a}`), `${host} ${pattern}`);

  const several = hosts("h", `h ${a}`, `x ${c}`, `h ${b}`);
  assert(several.check(octetsOf(a)) && several.check(octetsOf(b)));
  const changed = assertThrows(() => several.check(octetsOf(c)), Error, "refused");
  assertMatch(changed.message, /line 1, 3 of the known hosts$/);
  assert(changed.message.includes(fingerprint(octetsOf(c))));
  // Revoked it is refused wherever else it stands, and whether or not the host is known.
  for (const lines of [[`h ${a}`, `@revoked * ${a}`], [`@revoked h ${a}`]]) {
    assertThrows(() => hosts("h", ...lines).check(octetsOf(a)), Error, "is revoked");
  }
  assert(!hosts("h", `@revoked h ${b}`).check(octetsOf(a)));
});

Deno.test("ssh_client: asks first for host keys of the types that it knows", async () => {
  const rsa = `ssh-rsa ${btoa("\0\0\0\x07ssh-rsa")}`;
  const algorithms = (...lines: string[]) => new KnownHosts("h", lines.join("\n")).algorithms;
  assertEquals(algorithms()[0], "ssh-ed25519");
  assertEquals(algorithms(`h ${rsa}`).slice(0, 3), ["rsa-sha2-512", "rsa-sha2-256", "ssh-ed25519"]);
  assertEquals(algorithms(`h ${rsa}`, `h ${(await newKey()).public}`)[0], "ssh-ed25519");
  assertEquals(new Set(algorithms(`h ${rsa}`)), new Set(algorithms()));
});

Deno.test({
  name: "ssh_server: the host key is made once, for the owner alone",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const path = `${folder.path}/key`;
    const first = await openHostKey(path);
    assertEquals(await openHostKey(path), first);
    assertMatch(first.fingerprint, /^SHA256:[\w+/]{43}$/);
    assertEquals(((await Deno.stat(path)).mode ?? 0) & 0o777, 0o600);
    assertEquals(Array.from(Deno.readDirSync(folder.path), ({ name }) => name), ["key"]);
    await Deno.writeTextFile(path, (await newKey()).public);
    await assertRejects(() => openHostKey(path), Error, `${path}: not a private key`);
  },
});

Deno.test({
  name: "ssh_server: a file of keys has keys only, one in a line",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const path = `${folder.path}/keys`;
    const [a, b] = [(await newKey()).public, (await newKey()).public];
    await Deno.writeTextFile(path, `# mine\n\n${a} ann@home\r\n  ${b}`);
    assertEquals((await readKeys(path)).map((key) => text(key.getPublicSSH().toString("base64"))), [
      a.split(" ")[1],
      b.split(" ")[1],
    ]);
    for (const line of [`command="date" ${a}`, `no-pty ${a}`, "rubbish", a.slice(0, 40)]) {
      await Deno.writeTextFile(path, `${b}\n${line}\n`);
      await assertRejects(() => readKeys(path), Error, `${path}:2: not a public key`);
    }
  },
});

Deno.test({
  name: "ssh_client and ssh_server: commands, with stdin, stderr and the exit status",
  ignore: !mayRun,
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    const files = ["--authorized-keys", `${path}/id.pub`, "--host-key", `${path}/made`];
    const socket = `${path}/socket`;
    for (
      const [where, host, form] of [
        ["127.0.0.1:", "[127.0.0.1]", []],
        ["[::1]:", "[::1]", ["--host", "::1"]],
        [`unix:${socket}`, "[127.0.0.1]", ["--unix", socket]],
      ] as const
    ) {
      await using server = start("ssh_server", ["--port", "0", ...form, ...files]);
      const [, print, port] = await server.until(
        /host key is (\S+)\n.*listening on .*?(\d*)\n/,
        "stderr",
      );
      const login = [
        ...form,
        "--port",
        port || "1",
        "--user",
        "ann",
        "--known-hosts",
        `${path}/known`,
      ];
      const args = [...login, "--identity", `${path}/id`];
      const client = (...args: string[]) => run("ssh_client", args, { permissions: WRITE });
      const address = `${where}${port}`;
      const key = parsed(await Deno.readTextFile(`${path}/made`)).getPublicSSH();
      assertEquals(print, fingerprint(key));

      // Unknown it is refused where nobody can be asked, and nothing is written.
      const unknown = await client(...args, "run", "date");
      assertEquals(unknown, {
        code: 1,
        stdout: "",
        stderr:
          `ssh_client: ${address}: refused, the host is not known, nor its ssh-ed25519 key ${print}\n`,
      });
      const entry = `${host}:${port || 1} ssh-ed25519 ${key.toString("base64")}\n`;
      await Deno.writeTextFile(`${path}/known`, entry);

      const hello = await client(...args, "run", "echo", "hello", "you");
      assertEquals(hello, { code: 0, stdout: "hello you\n", stderr: "" });
      const wrong = await client(...args, "run", "nope -x");
      const stderr = "nope: unknown command, help lists them\n";
      assertEquals(wrong, { code: 127, stdout: "", stderr });
      const shell = await run("ssh_client", args, {
        stdin: "echo one\r\nsize\necho two",
        permissions: WRITE,
      });
      assertEquals(shell, {
        code: 0,
        stdout: "one\nsize unknown; type unknown\ntwo\n",
        stderr: "",
      });
      const refused = await client(...login, "--identity", `${path}/other`, "run", "date");
      assertEquals(
        refused.stderr,
        `ssh_client: ${address}: permission denied for ann, the server takes: publickey\n`,
      );
      assertEquals(refused.code, 1);
      await Deno.remove(`${path}/known`);
    }
  },
});

/** The question about an unknown host, and that the answer can be typed. */
// deno-lint-ignore no-control-regex
const ASKS = /ssh-ed25519 key (SHA256:\S+)\r\nType yes [^]*\x1b\[1G$/;

/** The flags by which the client finds a server of this process. */
const flags = (port: number, path: string) => [
  ...["--port", `${port}`, "--user", "ann", "--known-hosts", `${path}/known`],
  ...["--identity", `${path}/id`],
];

Deno.test({
  name: "ssh_client: on a terminal an unknown host is accepted by yes alone, a changed one never",
  ignore: missing("python3"),
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    await using server = await serving(path);
    const args = [...command("ssh_client", WRITE), ...flags(server.port, path), "run", "echo hi"];
    const print = fingerprint(octetsOf(await Deno.readTextFile(`${path}/host.pub`)));
    const known = `${path}/known`;
    for (const answer of ["y", "\x04"]) {
      await using client = onTerminal(args);
      await client.until(ASKS);
      await client.type(answer === "\x04" ? answer : `${answer}\r`);
      assertMatch((await client.ended()).stdout, /refused, the host is not known[^]*exit 1\r\n/);
      await assertRejects(() => Deno.stat(known), Deno.errors.NotFound);
    }
    await Deno.writeTextFile(known, "# no line end");
    {
      await using client = onTerminal(args);
      const [, shown] = await client.until(ASKS);
      assertEquals(shown, print);
      await client.type("yes\r");
      assertMatch((await client.ended()).stdout, /\r\nhi\r\n[^]*exit 0\r\n[^]* icanon/);
    }
    const [type, base64] = (await Deno.readTextFile(`${path}/host.pub`)).trim().split(" ");
    const entry = `[127.0.0.1]:${server.port} ${type} ${base64}\n`;
    assertEquals(await Deno.readTextFile(known), `# no line end\n${entry}`);
    {
      await using client = onTerminal(args);
      const { stdout } = await client.ended();
      assert(/hi\r\nexit 0\r\n/.test(stdout) && !stdout.includes("Type yes"), stdout);
    }
    await Deno.writeTextFile(known, entry.replace(base64, (await newKey()).public.split(" ")[1]));
    {
      await using client = onTerminal(args);
      const { stdout } = await client.ended();
      assertMatch(stdout, /ssh_client: \S+: refused, somebody may sit in between: [^]*exit 1\r\n/);
      assert(!stdout.includes("Type yes"), stdout);
      assert(stdout.replaceAll("\r\n", "").includes(print), stdout);
    }
  },
});

Deno.test({
  name: "ssh_client: a shell at a terminal, whose size follows, and which is given back",
  ignore: missing("python3"),
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    await using server = await serving(path);
    const host = await Deno.readTextFile(`${path}/host.pub`);
    for (
      const [end, status, says] of [
        ["quit\r", 0, "bye"],
        ["\x04", 0, "bye"],
        ["SIGTERM", 130, ""],
        ["cut", 1, "ssh_client: the connection was cut off"],
      ] as const
    ) {
      const proxy = between(server.port, (octets) => octets);
      await Deno.writeTextFile(`${path}/known`, `[127.0.0.1]:${proxy.port} ${host}`);
      await using client = onTerminal([
        ...["sh", "-c", 'tty; echo $$; TERM=vt100 exec "$@"', "sh"],
        ...command("ssh_client", ["--allow-env=TERM"]),
        ...flags(proxy.port, path),
      ]);
      const [, tty, pid] = await client.until(/^(\/dev\/\S+)\r\n(\d+)\r\n[^]*> $/);
      await client.type("size\r");
      await client.until(/\n80 columns, 24 rows; vt100\r+\n> $/);
      const { success } = await new Deno.Command("stty", {
        args: ["-F", tty, "cols", "100", "rows", "30"],
      }).output();
      assert(success);
      await eventually("the server knows the new size", async () => {
        await client.type("size\r");
        await client.until(/rows; vt100\r+\n> $/);
        return client.stdout.includes("\n100 columns, 30 rows; vt100\r");
      });
      await client.type("echo h\x03who\x15echö\x7f\x7fho döne\r");
      await client.until(/\ndöne\r+\n> $/);
      if (end === "SIGTERM") Deno.kill(Number(pid), end);
      else if (end !== "cut") await client.type(end);
      if (end === "cut") await proxy[Symbol.asyncDispose]();
      const { stdout } = await client.ended();
      assertMatch(stdout, new RegExp(`${says}[\r\n]*exit ${status}\r\n`));
      for (const mode of ["icanon", "echo", "isig", "icrnl"]) {
        assertMatch(stdout, new RegExp(`\\s${mode}\\s`), mode);
      }
      if (end !== "cut") await proxy[Symbol.asyncDispose]();
    }
  },
});

Deno.test({
  name: "ssh_client: an encrypted key takes its passphrase, from the environment or typed",
  ignore: missing("python3"),
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    await using server = await serving(path);
    const host = await Deno.readTextFile(`${path}/host.pub`);
    await Deno.writeTextFile(`${path}/known`, `[127.0.0.1]:${server.port} ${host}`);
    const passphrase = "two words";
    const encrypt = () => {
      const options = { passphrase, cipher: "aes256-ctr", rounds: 1 };
      // deno-lint-ignore no-explicit-any
      return (utils.generateKeyPairSync as any)("ed25519", options);
    };
    let encrypted = encrypt();
    while (utils.parseKey(encrypted.private, passphrase) instanceof Error) encrypted = encrypt();
    await Deno.writeTextFile(`${path}/id`, encrypted.private);
    await Deno.writeTextFile(`${path}/id.pub`, encrypted.public);
    const client = command("ssh_client", ["--allow-env=SSH_PASSPHRASE"]);
    const args = [...client, ...flags(server.port, path), "run", "echo in"];
    const secret = (value: string) => ({ env: { SSH_PASSPHRASE: value } });
    await using right = new Program(args, secret("two words"));
    assertEquals(await right.ended(), { code: 0, stdout: "in\n", stderr: "" });
    await using wrong = new Program(args, secret("two worlds"));
    const stderr = `ssh_client: ${path}/id: wrong passphrase\n`;
    assertEquals(await wrong.ended(), { code: 1, stdout: "", stderr });
    await using asked = onTerminal(args);
    await asked.until(/passphrase of .*: $/);
    await asked.type("two words\r");
    const { stdout } = await asked.ended();
    assertMatch(stdout, /: \r\nin\r\nexit 0\r\n/);
  },
});

Deno.test({
  name: "ssh_client: wrong command lines, and files that are no keys",
  ignore: !mayRun,
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    const all = ["--user", "ann", "--known-hosts", `${path}/known`, "--port", "1"];
    for (
      const [args, code, line] of [
        [[], 2, "--known-hosts FILE is missing (or --allow-env=HOME)"],
        [["--known-hosts", "x"], 2, "--user NAME is missing (or --allow-env=USER)"],
        [[...all, "date"], 2, "date is none of shell, run, get, put"],
        [[...all, "get"], 2, "REMOTE is missing"],
        [
          [...all, "--identity", `${path}/id.pub`, "run", "x"],
          1,
          `${path}/id.pub: not a private key`,
        ],
        [
          [...all, "--identity", `${path}/none`, "run", "x"],
          1,
          `${path}/none: no such file or directory`,
        ],
        [[...all, "run", "x"], 1, "127.0.0.1:1: connection refused"],
      ] as const
    ) {
      const { stderr, ...result } = await run("ssh_client", [...args]);
      const hint = code === 2 ? " (--help tells more)" : "";
      assertEquals([result.code, stderr], [code, `ssh_client: ${line}${hint}\n`]);
    }
    for (
      const [args, code, line] of [
        [[], 2, "--authorized-keys FILE is missing"],
        [["--authorized-keys", `${path}/id`], 1, `${path}/id:1: not a public key`],
        [["--authorized-keys", `${path}/id.pub`, path], 2, `${path}/host is in ROOT`],
      ] as const
    ) {
      const { stderr, ...result } = await run("ssh_server", [
        "--host-key",
        `${path}/host`,
        ...args,
      ]);
      assertEquals(result.code, code);
      assertMatch(stderr, new RegExp(`^ssh_server: ${line}`));
    }
  },
});

/** The whole of the client's SFTP, of which the types have what ssh_client.ts uses. */
// deno-lint-ignore no-explicit-any
type Sftp = Record<string, (...args: any[]) => void>;

async function openSftp(ssh: Ssh): Promise<Sftp> {
  return await ssh.result<SFTPWrapper>((client, done) => client.sftp(done)) as unknown as Sftp;
}

/** The status code of a request, 0 if it was answered. */
async function statusOf(
  ssh: Ssh,
  sftp: Sftp,
  request: string,
  ...args: unknown[]
): Promise<number> {
  try {
    await ssh.result((_, done) => sftp[request](...args, done));
    return STATUS_CODE.OK;
  } catch (error) {
    return (error as { code: number }).code;
  }
}

Deno.test({
  name: "ssh_server: nothing outside of ROOT, by any spelling or link",
  ignore: !mayRun,
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    const root = `${path}/root`;
    await Deno.writeTextFile(`${path}/secret`, "secret\n");
    await Deno.mkdir(`${path}/root-other`);
    await Deno.writeTextFile(`${path}/root-other/secret`, "secret\n");
    for (
      const [name, target] of [
        ["out", "../secret"],
        ["folder", ".."],
        ["absolute", "/etc"],
        ["loop", "loop"],
        ["two", "out"],
        ["sub/up", "../../secret"],
        ["in", "sub/../inside.txt"],
      ]
    ) await Deno.symlink(target, `${root}/${name}`);
    await using server = await serving(path);
    const ssh = await server.open();
    const sftp = await openSftp(ssh);
    const status = (request: string, ...args: unknown[]) => statusOf(ssh, sftp, request, ...args);
    const { OK, NO_SUCH_FILE, FAILURE, PERMISSION_DENIED } = STATUS_CODE;

    const outside = [
      ...[
        "../secret",
        "/../secret",
        "..//secret",
        "./../secret",
        "sub/../../secret",
        "....//secret",
      ],
      ...["../root-other/secret", "/../../../../../../etc/passwd", "/etc/passwd", `${path}/secret`],
      ...[
        "~/../secret",
        "~root",
        "..\\secret",
        "%2e%2e/secret",
        "..%2fsecret",
        "\uff0e\uff0e/secret",
      ],
      ...["out", "two", "sub/up", "folder/secret", "folder/root-other/secret", "absolute/passwd"],
      ...["folder/root/../secret", "\0", "inside.txt\0", "../secret\0inside.txt", "inside.txt\r\n"],
      ...[
        "inside.txt/",
        "inside.txt/x",
        "x".repeat(300),
        "../".repeat(1000) + "secret",
      ],
    ];
    for (const name of outside) {
      for (const [request, ...more] of [["open", "r"], ["opendir"], ["stat"]]) {
        const code = await status(request, name, ...more);
        const refused = code === NO_SUCH_FILE || code === FAILURE && name.length > 255;
        assert(refused, `${request} ${name}: ${code}`);
      }
    }
    assertEquals(await status("stat", "loop"), FAILURE);
    // A link is shown for what it is, not where it leads; behind one that leads out there is nothing.
    for (const name of ["out", "absolute", "folder", "in"]) {
      assertEquals([name, await status("lstat", name)], [name, OK]);
      assertEquals(await status("readlink", name), PERMISSION_DENIED);
    }
    for (const name of ["absolute/passwd", "folder/secret", "../secret"]) {
      assertEquals(await status("lstat", name), NO_SUCH_FILE);
    }
    for (
      const [name, absolute] of [
        [".", "/"],
        ["", "/"],
        ["..", "/"],
        ["../../x/./y//z/..", "/x/y"],
        ["folder/..", "/"],
        ["absolute/passwd", "/absolute/passwd"],
      ]
    ) assertEquals(await ssh.result((_, done) => sftp.realpath(name, done)), absolute);

    // What is inside is there, by all of its names.
    for (const name of ["inside.txt", "/inside.txt", "../inside.txt", "in", "./sub/../in"]) {
      await get(ssh, name, `${path}/got`);
      assertEquals(await Deno.readTextFile(`${path}/got`), "inside\n");
    }
    const names = await ssh.result<{ filename: string; longname: string }[]>((_, done) => {
      sftp.readdir("/", done);
    });
    const list = ["absolute", "folder", "in", "inside.txt", "loop", "out", "sub", "two"];
    assertEquals(names.map(({ filename }) => filename).sort(), list);
    const [line] = names.filter(({ filename }) => filename === "inside.txt");
    assertMatch(line.longname, /^-rw-r--r-- +1 \d+ +\d+ +7 \d\d \w{3} \d{4} \d\d:\d\d inside.txt$/);
    await end(ssh);
  },
});

Deno.test({
  name: "ssh_server: every request of SFTP that would change something is refused",
  ignore: !mayRun,
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    await using server = await serving(path);
    const ssh = await server.open();
    const sftp = await openSftp(ssh);
    const handle = await ssh.result<Buffer>((_, done) => sftp.open("inside.txt", "r", done));
    const data = Buffer.from("changed");
    for (
      const [request, ...args] of [
        ...["w", "r+", "w+", "wx", "wx+", "a", "a+", "ax"].map((
          mode,
        ) => ["open", "inside.txt", mode]),
        ["open", "new", "w"],
        ["write", handle, data, 0, data.length, 0],
        ["setstat", "inside.txt", { mode: 0o777 }],
        ["fsetstat", handle, { size: 0 }],
        ["unlink", "inside.txt"],
        ["rmdir", "sub"],
        ["mkdir", "new"],
        ["rename", "inside.txt", "new"],
        ["symlink", "/etc", "new"],
        ["chmod", "inside.txt", 0o777],
        ["utimes", "inside.txt", 0, 0],
        ["open", "../secret", "w"],
        ["unlink", "../secret"],
      ]
    ) {
      const code = await statusOf(ssh, sftp, request as string, ...args);
      assertEquals([request, code], [request, STATUS_CODE.PERMISSION_DENIED]);
    }
    assertEquals(await Deno.readTextFile(`${path}/root/inside.txt`), "inside\n");
    assertEquals((await Deno.stat(`${path}/root/inside.txt`)).mode, 0o100644);
    assertEquals(Array.from(Deno.readDirSync(`${path}/root`), ({ name }) => name).sort(), [
      "inside.txt",
      "sub",
    ]);
    await assertRejects(() => put(ssh, `${path}/id.pub`, "new"), Error, "new: permission denied");
    // Neither are handles that nobody has opened, or that are of the other kind.
    const folder2 = await ssh.result<Buffer>((_, done) => sftp.opendir("/", done));
    const into = Buffer.alloc(10);
    for (
      const [request, ...args] of [
        ["read", folder2, into, 0, 10, 0],
        ["readdir", handle],
        ["fstat", Buffer.from("99")],
        ["close", Buffer.from("../x")],
      ]
    ) assertEquals(await statusOf(ssh, sftp, request as string, ...args), STATUS_CODE.FAILURE);
    // Nor are more than so many open at once.
    const opened = await Promise.all(
      Array.from({ length: 120 }, () => statusOf(ssh, sftp, "open", "inside.txt", "r")),
    );
    assertEquals(opened.filter((code) => code === STATUS_CODE.OK).length, 98);
    await end(ssh);
  },
});

/**
 * Stands between a client and the server at `port`, and does what `tamper` says to what the client
 * sends (`up`) and the server: returns other octets, or null to cut the connection.
 */
function between(
  port: number,
  tamper: (
    octets: Uint8Array,
    direction: "up" | "down",
  ) => Uint8Array | null | Promise<Uint8Array | null>,
) {
  return testServer(async (near) => {
    using far = await dial(port);
    const pass = async (from: FramedConn, to: FramedConn, direction: "up" | "down") => {
      for (let octets; (octets = await from.readSome()) !== null;) {
        const passed = await tamper(octets, direction);
        if (passed === null) return;
        await to.writeAll(passed);
      }
    };
    await Promise.race([pass(near, far, "up"), pass(far, near, "down")]);
  });
}

Deno.test({
  name: "ssh_client: get receives files of every size, and over one that is there",
  ignore: !mayRun,
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    await using server = await serving(path);
    const ssh = await server.open();
    const next = random(1);
    const octet = () => next(256);
    const all = Uint8Array.from({ length: 3_000_000 }, octet);
    const PIECE = 31 * 1024;
    for (const size of [3_000_000, 0, 1, PIECE - 1, PIECE, PIECE + 1, 64 * PIECE, 65 * PIECE]) {
      await Deno.writeFile(`${path}/root/file`, all.subarray(0, size));
      assertEquals(await get(ssh, "file", `${path}/got`), size);
      const got = await Deno.readFile(`${path}/got`);
      assert(got.length === size && got.every((octet, i) => octet === all[i]), `${size}`);
    }
    await assertRejects(() => get(ssh, "sub", `${path}/got`), Error, "sub: failure");
    await assertRejects(() => get(ssh, "none", `${path}/got`), Error, "none: no such file");
    await assertRejects(() => get(ssh, "file", `${path}/none/got`), Deno.errors.NotFound);
    await assertRejects(() => get(ssh, "file", path), Error, "Is a directory");
    assert(!Array.from(Deno.readDirSync(path)).some(({ name }) => name.endsWith(".part")));
    await end(ssh);
  },
});

Deno.test({
  name: "ssh_client: a get that is cut off, or ended by Ctrl-C, leaves nothing",
  ignore: !mayRun,
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    await Deno.writeFile(`${path}/root/file`, new Uint8Array(5_000_000));
    await Deno.mkdir(`${path}/here`);
    await using server = await serving(path);
    for (const end of ["cut", "SIGINT", "SIGTERM"] as const) {
      let received = 0;
      const { promise: stalled, resolve: stall } = Promise.withResolvers<void>();
      const { promise: never, resolve: release } = Promise.withResolvers<null>();
      await using proxy = between(server.port, (octets, direction) => {
        if (direction === "down") received += octets.length;
        if (received < 2_000_000) return octets;
        stall();
        return end === "cut" ? null : never;
      });
      const host = await Deno.readTextFile(`${path}/host.pub`);
      await Deno.writeTextFile(`${path}/known`, `[127.0.0.1]:${proxy.port} ${host}`);
      const args = [...flags(proxy.port, path), "get", "file"];
      await using client = new Program([...command("ssh_client", WRITE), ...args], {
        cwd: `${path}/here`,
      });
      await stalled;
      if (end !== "cut") {
        await eventually("a part is there", () => [...Deno.readDirSync(`${path}/here`)].length > 0);
        client.signal(end);
      }
      const { code, stderr } = await client.ended();
      release(null);
      assertMatch(stderr, end === "cut" ? /^ssh_client: file: .+\n$/ : /^$/);
      assertEquals(code, end === "cut" ? 1 : 130);
      assertEquals([...Deno.readDirSync(`${path}/here`)], []);
    }
  },
});

Deno.test({
  name: "ssh_server: a client that is silent, sends garbage or leaves at any point harms nobody",
  ignore: !mayConnect || !mayRun,
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    await using server = await serving(path);
    const next = random(7);
    const garbage = (n: number) => Uint8Array.from({ length: n }, () => next(256));
    const ident = octets("SSH-2.0-rude\r\n");
    for (
      const said of [
        octets("GET / HTTP/1.1\r\nHost: x\r\n\r\n"),
        octets("SSH-1.5-old\r\n"),
        octets("SSH-2.0-" + "x".repeat(100_000)),
        octets("\0".repeat(10_000)),
        ident,
        new Uint8Array([...ident, ...garbage(1000)]),
        new Uint8Array([...ident, 0xff, 0xff, 0xff, 0xff, ...garbage(100)]), // a length
        new Uint8Array([...ident, 0, 0, 0, 1, ...garbage(100)]),
        ...Array.from({ length: 20 }, () => garbage(1 + next(300))),
        ...Array.from({ length: 20 }, () => new Uint8Array([...ident, ...garbage(next(300))])),
      ]
    ) {
      using conn = await dial(server.port);
      await conn.writeAll(said);
      await conn.conn.closeWrite();
      await hear(conn).catch(() => {});
    }
    await assertServes(server);
    assert(server.lines.some((line) => line.endsWith("does not speak SSH")));

    // The same with everything that a login and a command are made of: cut short, or one octet wrong.
    let total = 0;
    {
      await using proxy = between(server.port, (octets, direction) => {
        if (direction === "up") total += octets.length;
        return octets;
      });
      await assertServes({ open: () => openAt(proxy.port, path) });
    }
    for (let i = 0; i < 40; i++) {
      const at = next(total);
      let [passed, done] = [0, false];
      await using proxy = between(server.port, (octets, direction) => {
        if (direction === "down" || done) return octets;
        passed += octets.length;
        if (passed <= at) return octets;
        done = true;
        if (i % 2 === 0) return null;
        const wrong = octets.slice();
        wrong[octets.length - (passed - at)] ^= 1 << next(8);
        return wrong;
      });
      try {
        const ssh = await openAt(proxy.port, path);
        await deadline(execute(ssh, "echo hello"), 200).catch(() => {});
        await end(ssh);
      } catch {
        // It was to fail.
      }
    }
    await assertServes(server);
    assertEquals(server.users.size, 0);
  },
});

Deno.test({
  name: "ssh_server: the limits on silence, on connections and on who may connect",
  ignore: !mayRun,
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    const args = [
      "--port",
      "0",
      "--authorized-keys",
      `${path}/id.pub`,
      "--host-key",
      `${path}/host`,
    ];
    {
      await using server = start("ssh_server", [
        ...[...args, "--idle-timeout", "0.4", "--max-connections", "3"],
      ]);
      const port = await server.port();
      const open = () => openAt(port, path);
      const started = performance.now();
      const silent = await Promise.all(Array.from({ length: 3 }, () => dial(port)));
      const shell = open(); // has to wait until one of them is closed
      await Promise.all(silent.map((conn) => hear(conn).catch(() => {})));
      assert(performance.now() - started > 390);
      const ssh = await shell;
      await assertRejects(() => ssh.lost, Error, "cut off"); // it is silent, too
      await assertServes({ open });
      assertEquals(server.stderr.match(/closed, silent for 0.4 s\n/g)?.length, 4);
      for (const conn of silent) conn.close();
    }
    await using server = start("ssh_server", [...args, "--allow-from", "10.0.0.0/8"]);
    using conn = await dial(await server.port());
    assertEquals(await hear(conn).catch(() => ""), "");
    await server.until(/refused, not in --allow-from/, "stderr");
  },
});

Deno.test({
  name: "ssh_server: at most ten sessions of a connection, and some attempts to log in",
  ignore: !mayRun,
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    await using server = await serving(path);
    const ssh = await server.open();
    const shells = await Promise.all(
      Array.from(
        { length: 10 },
        () => ssh.result<Channel>((client, done) => client.shell(false, done)),
      ),
    );
    await assertRejects(() => execute(ssh, "date"), Error, "Channel open failure");
    await assertRejects(() => openSftp(ssh), Error, "Channel open failure");
    assertEquals(server.users.size, 10);
    for (const shell of shells.slice(5)) shell.resume().end();
    await eventually("there is room again", () => {
      return execute(ssh, "echo hello").then(([said]) => said === "hello\n", () => false);
    });
    assertEquals(server.users.size, 5);
    // A session is for one of them: what is asked for besides is not even refused.
    // deno-lint-ignore no-explicit-any
    const { _protocol: protocol } = ssh.client as any;
    for (const request of ["exec", "shell", "subsystem"]) {
      const channel = await ssh.result<Channel>((client, done) => client.shell(false, done));
      protocol[request]((channel.outgoing as { id?: number }).id, "sftp", true);
      channel.resume().end("quit\n");
      await new Promise((resolve) => channel.on("close", resolve));
    }
    await end(ssh);
    await eventually("all have left", () => server.users.size === 0);

    await using guesser = await serving(path);
    const other = parsed(await Deno.readTextFile(`${path}/other`));
    let tries = 0;
    const client = new Client();
    const closed = new Promise((resolve) => client.on("close", resolve));
    client.on("error", () => {}).connect({
      sock: Duplex.fromWeb(await Deno.connect({ port: guesser.port }) as never),
      username: "ann",
      algorithms: {},
      hostVerifier: (_key, decide) => decide(true),
      authHandler(_left, _partial, next) {
        tries++;
        next({ type: "publickey", username: "ann", key: other });
      },
      readyTimeout: 0,
      keepaliveInterval: 0,
    });
    await closed;
    assertEquals(tries, 21);
    await eventually("it is told", () => guesser.lines.some((line) => /too many att/.test(line)));
  },
});

Deno.test({
  name: "ssh_server: a flood, and answers that nobody reads, take no memory and no one's turn",
  ignore: !mayRun,
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    await Deno.writeFile(`${path}/root/file`, new Uint8Array(1_000_000));
    const args = ["--authorized-keys", `${path}/id.pub`, "--host-key", `${path}/host`];
    await using server = start("ssh_server", ["--port", "0", ...args, `${path}/root`]);
    const port = await server.port();
    await assertServes({ open: () => openAt(port, path) });
    const before = memory(server, "VmHWM");

    /**
     * Does something again and again, until the server has enough of it, or for half a second with
     * the answers kept back on the way.
     */
    async function flood(reads: boolean, begin: (ssh: Ssh) => Promise<() => void>): Promise<void> {
      let held = Promise.resolve();
      let release = () => {};
      await using proxy = between(port, async (octets, direction) => {
        if (direction === "down") await held;
        return octets;
      });
      const ssh = await openAt(proxy.port, path);
      const { _sock: sock } = ssh.client as unknown as { _sock: Duplex };
      const again = await begin(ssh);
      if (!reads) held = new Promise((resolve) => release = resolve);
      let lost = false;
      ssh.lost.catch(() => lost = true);
      for (
        const end = performance.now() + (reads ? 8000 : 500);
        performance.now() < end && !lost;
      ) {
        for (let i = 0; i < 50 && !sock.writableNeedDrain; i++) again();
        await delay(1);
      }
      await assertServes({ open: () => openAt(port, path) });
      release();
      ssh.client.destroy();
    }

    const help = Buffer.from("help\n".repeat(200));
    const shell = async (ssh: Ssh) => {
      const channel = await ssh.result<Channel>((client, done) => client.shell(false, done));
      return channel.on("error", () => {});
    };
    await flood(false, async (ssh) => {
      const channel = await shell(ssh);
      return () => channel.write(help);
    });
    // One that heeds no window, and gives none to answer in.
    const heedless = (channel: object) => {
      const { outgoing } = channel as Channel;
      return () => Object.assign(channel, { outgoing: { ...outgoing, window: 1e9 } });
    };
    await flood(true, async (ssh) => {
      const channel = await shell(ssh);
      const grab = heedless(channel);
      return () => grab() && channel.write(help);
    });
    await server.until(/sends more than it may/, "stderr");
    const reading = async (ssh: Ssh) => {
      const sftp = await openSftp(ssh);
      const handle = await ssh.result<Buffer>((_, done) => sftp.open("file", "r", done));
      const into = Buffer.alloc(31_000);
      const grab = heedless(sftp);
      return { sftp, grab, read: () => sftp.read(handle, into, 0, into.length, 0, () => {}) };
    };
    await flood(false, async (ssh) => (await reading(ssh)).read);
    await flood(true, async (ssh) => {
      const { sftp, grab, read } = await reading(ssh);
      Object.assign(sftp, { push: () => false }); // as if there was no room for answers
      const long = "x".repeat(30_000);
      let sent = 0;
      return () => grab() && (sent++ < 100 ? read() : sftp.stat(long, () => {}));
    });
    await server.until(/(sends more than it may[^]*){2}/, "stderr");
    const grown = (memory(server, "VmHWM") - before) / 1024;
    assert(grown < 100, `${grown} MiB more`);
    assert(!/^\s+at |Uncaught/m.test(server.stderr), server.stderr);
  },
});

/** A server of ssh2 with the key `host` of the folder, which lets everybody in. */
async function oddServer(folder: string, begin: (client: Connection) => void) {
  const hostKeys = [await Deno.readTextFile(`${folder}/host`)];
  const clients: Connection[] = [];
  const server = new Server({ hostKeys, algorithms: {}, keepaliveInterval: 1e6 }, (client) => {
    clients.push(client);
    begin(client.on("error", () => {}).on("authentication", (attempt) => attempt.accept()));
  }) as unknown as import("node:net").Server;
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    port: (server.address() as { port: number }).port,
    async [Symbol.asyncDispose]() {
      for (const client of clients) client.end();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

Deno.test({
  name: "ssh_client: every way in which a command can end",
  ignore: !mayRun,
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    const ends: Record<string, (channel: Channel, client: Connection) => void> = {
      status: (channel) => channel.exit(7),
      "too high a status": (channel) => channel.exit(256),
      // deno-lint-ignore no-explicit-any
      signal: (channel) => (channel as any).exit("KILL"),
      "no status": () => {},
      "the connection is lost": (_, client) => client.end(),
    };
    await using server = await oddServer(path, (client) =>
      client.on("session", (accept) => {
        (accept() as Emitter).on("exec", (accept, _reject, { command }) => {
          const channel = accept();
          channel.write("said\n");
          ends[command](channel, client);
          channel.end();
        });
      }));
    const host = await Deno.readTextFile(`${path}/host.pub`);
    await Deno.writeTextFile(`${path}/known`, `[127.0.0.1]:${server.port} ${host}`);
    for (
      const [command, code, line] of [
        ["status", 7],
        ["too high a status", 255],
        ["signal", 137],
        ["no status", 1, "it ended without an exit status"],
        ["the connection is lost", 1, "the connection was cut off"],
      ] as const
    ) {
      const result = await run("ssh_client", [...flags(server.port, path), "run", command]);
      const stderr = line ? `ssh_client: ${line}\n` : "";
      assertEquals([command, result], [command, { code, stdout: "said\n", stderr }]);
    }
  },
});

Deno.test({
  name:
    "ssh_client: servers that are silent, that are none, or that say one thing and send another",
  ignore: !mayRun,
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    for (
      const [greeting, error] of [
        ["", "no answer within 0.3 s (--timeout)"],
        ["SSH-2.0-x\r\n", "no answer within 0.3 s (--timeout)"],
        ["220 mail.example\r\n".repeat(2000), "max greeting lines exceeded"],
        ["SSH-1.5-x\r\n", "invalid identification string"],
        ["\xff".repeat(10_000), "header line too long"],
        ["SSH-2.0-x\r\n\xff\xff\xff\xff", "bad packet length"],
      ]
    ) {
      await using server = testServer(async (conn) => {
        await conn.writeAll(octets(greeting));
        await conn.readToEnd(1e6);
      });
      const hosts = new KnownHosts("x", "");
      const endpoint = { host: "127.0.0.1", port: server.port, timeout: 300 };
      const login = { user: "ann" };
      await assertRejects(
        () => openSsh(endpoint, hosts, () => Promise.resolve(true), login),
        Error,
        `127.0.0.1:${server.port}: ${error}`,
      );
    }

    const answers: Record<string, (offset: number, length: number) => Buffer | undefined> = {
      shorter: (offset, length) => offset < 60_000 ? Buffer.alloc(length) : undefined,
      longer: (offset, length) => offset < 200_000 ? Buffer.alloc(length) : undefined,
      pieces: (offset) => offset < 100_000 ? Buffer.alloc(1000) : undefined,
    };
    await using server = await oddServer(path, (client) =>
      client.on("session", (accept) => {
        (accept() as Emitter).on("sftp", (accept) => {
          const sftp = accept() as Emitter & Record<string, (...args: unknown[]) => void>;
          sftp.on("OPEN", (id, name) => sftp.handle(id, Buffer.from(name)))
            .on("FSTAT", (id) => sftp.attrs(id, { size: 100_000 }))
            .on("READ", (id, handle, offset, length) => {
              const data = answers[`${handle}`](offset, length);
              if (data) sftp.data(id, data);
              else sftp.status(id, STATUS_CODE.EOF);
            });
        });
      }));
    const ssh = await openAt(server.port, path);
    const got = (name: string) => get(ssh, name, `${path}/got`);
    await assertRejects(() => got("shorter"), Error, "shorter: ended after 63488 of 100000 bytes");
    await assertRejects(() => got("pieces"), Error, "pieces: changes while it is read");
    assertEquals(await got("longer"), 222_208);
    await end(ssh);
  },
});

Deno.test({
  name: "ssh_server: a client that has logged in and sends any messages, and leaves at any time",
  ignore: !mayRun,
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    await using server = await serving(path, { idleTimeout: 2000 });
    const next = random(11);
    const ignore = () => {};
    for (let round = 0; round < 25; round++) {
      const ssh = await server.open();
      const { client } = ssh;
      // deno-lint-ignore no-explicit-any
      const { _protocol: protocol } = client as any;
      const channel = await ssh.result<Channel>((client, done) => client.shell(false, done));
      channel.on("error", ignore).resume();
      const sftp = await openSftp(ssh);
      const handle = await ssh.result<Buffer>((_, done) => sftp.open("inside.txt", "r", done));
      const into = Buffer.alloc(100);
      const payload = (length: number) =>
        Uint8Array.from({ length }, () => next(3) ? next(4) : next(256));
      const steps = [
        () => channel.write("help\n".repeat(1 + next(50))),
        () => channel.end(),
        () => sftp.read(handle, into, 0, 100, 0, ignore),
        () => sftp.close(handle, ignore),
        () => sftp.opendir("/", ignore),
        () => sftp.end(),
        () => client.exec("who", ignore),
        () => client.shell({ term: "x", rows: next(9), cols: next(9) }, ignore),
        () => protocol.rekey(),
        () => protocol.channelData(next(3), Buffer.from(payload(next(60)))),
        () => protocol.channelEOF(next(3)),
        () => protocol.channelClose(next(3)),
        ...Array.from({ length: 12 }, () => () => {
          // A message of any type, of which 2 to 4 and 80 to 100 are for a time like this.
          const octets = payload(1 + next(60));
          octets[0] = next(2) ? 80 + next(21) : next(100);
          const packet = protocol._cipher.allocPacket(octets.length);
          packet.set(octets, 5);
          protocol._cipher.encrypt(packet);
        }),
      ];
      for (let i = 0; i < 30; i++) {
        try {
          steps[next(steps.length)]();
        } catch {
          break; // ssh2 has closed it
        }
        if (next(4) === 0) await delay(0);
      }
      if (next(2)) client.end();
      else client.destroy();
      await ssh.lost.catch(ignore);
    }
    await eventually("all have left", () => server.users.size === 0);
    await assertServes(server);
  },
});

Deno.test({
  name: "ssh_server: the commands and the line editor are the Telnet server's, word for word",
  ignore: !mayRun,
  async fn() {
    const [telnet, ssh] = await Promise.all(["telnet_server", "ssh_server"].map(async (name) => {
      const script = await Deno.readTextFile(scriptPath(name));
      return /^\/\*\* Somebody who is connected,[^]*?^export class LineEditor [^]*?^}\n/m.exec(
        script,
      )?.[0];
    }));
    assert(ssh);
    assertEquals(ssh, telnet);
  },
});
