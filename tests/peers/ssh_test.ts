import { assert, assertEquals, assertMatch } from "@std/assert";
import { command, missing, Program, type Result, run, start, temporaryFolder } from "../helpers.ts";
import { random } from "../lib/wire.ts";
import { onTerminal } from "../scripts/rig.ts";
import { eventually, finish, here, output } from "./peers.ts";

const MEGABYTES = 10;

/** Octets that look like nothing. */
function noise(size: number): Uint8Array {
  const next = random(5);
  const words = Uint32Array.from({ length: size / 4 }, () => next(2 ** 32));
  return new Uint8Array(words.buffer);
}

/** A folder with the keys `id` and `other` of OpenSSH, and a folder to serve. */
async function keyFolder() {
  const folder = await temporaryFolder();
  const { path } = folder;
  for (const name of ["id", "other"]) {
    await keygen("-t", "ed25519", "-N", "", "-f", `${path}/${name}`);
  }
  await Deno.mkdir(`${path}/root/sub`, { recursive: true });
  await Deno.writeTextFile(`${path}/root/sub/inside.txt`, "inside\n");
  await Deno.writeFile(`${path}/root/large`, noise(MEGABYTES * 1e6));
  return folder;
}

const keygen = (...args: string[]) => output(["ssh-keygen", "-q", ...args]);

/** The fingerprint of a public key, as `ssh-keygen` prints it. */
async function printOf(path: string): Promise<string> {
  return (await output(["ssh-keygen", "-l", "-f", path])).split(" ")[1];
}

async function assertSame(one: string, other: string): Promise<void> {
  assertEquals((await finish(["cmp", one, other])).code, 0, `${one} is not ${other}`);
}

/** Our server, and OpenSSH's options by which its clients find it and nothing of this machine. */
async function startServer(path: string) {
  const files = ["--authorized-keys", `${path}/id.pub`, "--host-key", `${path}/host`];
  const server = start("ssh_server", ["--port", "0", ...files, `${path}/root`]);
  const port = await server.port();
  const { stdout } = await finish(["ssh-keygen", "-y", "-f", `${path}/host`]);
  await Deno.writeTextFile(`${path}/known`, `[127.0.0.1]:${port} ${stdout}`);
  const options = openSshOptions(path);
  return {
    server,
    port,
    options,
    ssh: (...args: string[]) => ["ssh", ...options, "-p", `${port}`, "127.0.0.1", ...args],
    [Symbol.asyncDispose]: () => server[Symbol.asyncDispose](),
  };
}

const openSshOptions = (path: string) => [
  ...["-F", "none", "-i", `${path}/id`, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes"],
  ...["-o", `UserKnownHostsFile=${path}/known`, "-o", "GlobalKnownHostsFile=/dev/null"],
  ...["-o", "StrictHostKeyChecking=yes", "-o", "IdentityAgent=none"],
];

Deno.test({
  name:
    "ssh_server: OpenSSH's ssh runs commands, by every algorithm, and is refused without the key",
  ignore: missing("ssh", "ssh-keygen"),
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    await using rig = await startServer(path);
    const { ssh } = rig;
    assertMatch(await output(ssh("date")), /^\w{3}, \d\d .* GMT\n$/);
    const wrong = { code: 127, stdout: "", stderr: "nope: unknown command, help lists them\n" };
    assertEquals(await finish(ssh("nope")), wrong);
    assertEquals(await output(ssh("-T"), "echo one\necho two"), "one\ntwo\n");
    assertEquals(await output(ssh("echo", "a", "\x1b[2J")), "a \\x1b[2J\n");
    const algorithms = {
      KexAlgorithms: [
        ...["curve25519-sha256", "ecdh-sha2-nistp256", "ecdh-sha2-nistp384"],
        "diffie-hellman-group14-sha256",
      ],
      Ciphers: [
        ...["aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes256-ctr"],
        "chacha20-poly1305@openssh.com",
      ],
      MACs: ["hmac-sha2-256-etm@openssh.com", "hmac-sha2-512"],
    };
    for (const [option, names] of Object.entries(algorithms)) {
      for (const name of names) {
        const more = option === "MACs" ? ["-c", "aes128-ctr"] : [];
        const options = [...more, "-o", `${option}=${name}`, "-C"];
        assertEquals(await output(ssh(...options, "echo", name)), `${name}\n`);
      }
    }
    const options = [...rig.options, "-o", `IdentityFile=${path}/other`];
    options.splice(2, 2);
    const refused = await finish(["ssh", ...options, "-p", `${rig.port}`, "127.0.0.1", "date"]);
    assertMatch(refused.stderr, /Permission denied \(publickey\)/);
    assertEquals(refused.code, 255);
    const stolen = await finish(ssh("-W", "127.0.0.1:22"));
    assertMatch(stolen.stderr, /administratively prohibited/);
    assert(!/^\s+at |Uncaught/m.test(rig.server.stderr), rig.server.stderr);
  },
});

Deno.test({
  name: "ssh_server: OpenSSH's ssh has a shell at a terminal, and tells of a new size",
  ignore: missing("ssh", "ssh-keygen", "python3", "stty"),
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    await using rig = await startServer(path);
    await using client = onTerminal(showingTty(["env", "TERM=vt100", ...rig.ssh()]));
    const [, tty] = await client.until(/^(\/dev\/\S+)\r\n[^]*> $/);
    await client.type("size\r");
    await client.until(/80 columns, 24 rows; vt100\r\n> $/);
    await resize(tty, 100, 30);
    await eventually("the server knows the new size", async () => {
      await client.type("size\r");
      await client.until(/rows; vt100\r\n> $/);
      return client.stdout.includes("\r\n100 columns, 30 rows; vt100\r\n");
    });
    await client.type("who\x15echx\x7fo fine\r");
    await client.until(/\r\nfine\r\n> $/);
    await client.type("\x04");
    assertMatch((await client.ended()).stdout, /\r\nbye\r\n[^]*exit 0\r\n/);
  },
});

/** The command, started with the name of its terminal shown first. */
function showingTty(argv: string[]): string[] {
  return ["sh", "-c", 'tty; exec "$@"', "sh", ...argv];
}

async function resize(tty: string, columns: number, rows: number): Promise<void> {
  await output(["stty", "-F", tty, "cols", `${columns}`, "rows", `${rows}`]);
}

Deno.test({
  name: "ssh_server: OpenSSH's sftp and scp read, over a new exchange of keys, and cannot write",
  ignore: missing("sftp", "scp", "ssh-keygen"),
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    await Deno.symlink("/etc/passwd", `${path}/root/out`);
    await using rig = await startServer(path);
    const { options } = rig;
    const sftp = async (commands: string, ...more: string[]) => {
      const argv = ["sftp", ...options, ...more, "-P", `${rig.port}`, "-b", "-", "127.0.0.1"];
      const result = await finish(argv, { stdin: commands, cwd: path });
      return { ...result, said: result.stdout.replace(/^sftp> .*\n/gm, "") };
    };
    const read = await sftp(
      "ls -1\ncd sub\npwd\nls -l\nget inside.txt got\nget ../large large",
      ...["-o", "RekeyLimit=4M"],
    );
    assertEquals([read.code, read.stderr], [0, ""]);
    assertMatch(
      read.said,
      /^large\nout\nsub\nRemote working directory: \/sub\n-rw-r--r-- .* 7 .* inside.txt\n$/,
    );
    assertEquals(await Deno.readTextFile(`${path}/got`), "inside\n");
    await assertSame(`${path}/large`, `${path}/root/large`);

    for (
      const [line, why] of [
        ["put id.pub new", 'dest open "/new": Permission denied'],
        ["put id.pub sub/inside.txt", 'dest open "/sub/inside.txt": Permission denied'],
        ["rm large", "remote delete /large: Permission denied"],
        ["rename large new", 'remote rename "/large" to "/new": Permission denied'],
        ["mkdir new", 'remote mkdir "/new": Permission denied'],
        ["rmdir sub", 'remote rmdir "/sub": Permission denied'],
        ["ln -s large new", 'remote symlink file "large" to "/new": Permission denied'],
        ["ln large new", "Server does not support hardlink@openssh.com extension"],
        ["chmod 777 large", 'remote setstat "/large": Permission denied'],
        ["chown 1 large", 'remote setstat "/large": Permission denied'],
        ["get out", "stat remote: No such file or directory"],
        ["get ../../../../etc/passwd x", 'File "/../../../../etc/passwd" not found.'],
        ["get /etc/passwd x", 'File "/etc/passwd" not found.'],
        ["ls ..//../etc", 'Can\'t ls: "/..//../etc" not found'],
      ]
    ) {
      const { code, stderr } = await sftp(`${line}\n`);
      assertEquals([line, code, stderr.trimEnd()], [line, 1, why]);
    }
    const scp = (...args: string[]) =>
      finish(["scp", ...options, "-P", `${rig.port}`, ...args], { cwd: path });
    const copied = await scp("-r", "127.0.0.1:/sub", "tree");
    assertEquals(copied, { code: 0, stdout: "", stderr: "" });
    assertEquals(await Deno.readTextFile(`${path}/tree/inside.txt`), "inside\n");
    assertEquals((await scp("id.pub", "127.0.0.1:new")).code, 1);
    assertEquals(Array.from(Deno.readDirSync(`${path}/root`), ({ name }) => name).sort(), [
      "large",
      "out",
      "sub",
    ]);
  },
});

/** An sshd of OpenSSH on this machine that lets in, with the key `id`, the user that runs the tests. */
async function startSshd(path: string, config = "", types = ["ed25519"]) {
  if (Deno.uid() === 0) await Deno.mkdir("/run/sshd", { recursive: true }); // which it then insists on
  for (const type of types) await keygen("-t", type, "-N", "", "-f", `${path}/host_${type}`);
  const user = (await output(["id", "-un"])).trim();
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close(); // sshd takes none for "a free one"
  await Deno.writeTextFile(
    `${path}/conf`,
    `
ListenAddress 127.0.0.1
Port ${port}
${types.map((type) => `HostKey ${path}/host_${type}`).join("\n")}
AuthorizedKeysFile ${path}/id.pub
StrictModes no
PidFile none
UsePAM no
PrintMotd no
Subsystem sftp internal-sftp
${config}
`,
  );
  const sshd = new Program(["/usr/sbin/sshd", "-D", "-e", "-f", `${path}/conf`]);
  try {
    await sshd.until(/Server listening on/, "stderr");
  } catch (error) {
    await sshd[Symbol.asyncDispose]();
    throw error;
  }
  const host = `[127.0.0.1]:${port}`;
  const hosts: Record<string, string> = {}; // the line of known hosts for each type
  for (const type of types) {
    hosts[type] = `${host} ${await Deno.readTextFile(`${path}/host_${type}.pub`)}`;
  }
  await Deno.writeTextFile(`${path}/known`, Object.values(hosts).join(""));
  const args = ["--port", `${port}`, "--user", user, "--known-hosts", `${path}/known`];
  return {
    sshd,
    hosts,
    args,
    client: (...rest: string[]) => [
      ...command("ssh_client", ["--allow-write", "--allow-env=TERM"]),
      ...args,
      ...["--identity", `${path}/id`, ...rest],
    ],
    [Symbol.asyncDispose]: () => sshd[Symbol.asyncDispose](),
  };
}

Deno.test({
  name: "ssh_client: commands by OpenSSH's sshd, their octets, stderr, stdin, status and signals",
  ignore: missing("sshd", "ssh-keygen"),
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    await using rig = await startSshd(path, "RekeyLimit 4M");
    const client = (stdin: string, ...args: string[]) => finish(rig.client(...args), { stdin });
    for (
      const [line, code, stdout, stderr] of [
        ["tr a-z A-Z; echo err >&2; test -t 0 || exit 7", 7, "TYPED\n", "err\n"],
        ["kill -TERM $$", 143, "", ""],
        ["exec >&- 2>&-; sleep 0.2; exit 5", 5, "", ""],
      ] as const
    ) {
      assertEquals([line, await client("typed\n", "run", line)], [line, { code, stdout, stderr }]);
    }
    assertEquals((await client("", "run", "--", "printf", "%s-", "a", "-b")).stdout, "a--b-");
    assertEquals((await client("exit 3")).code, 3); // a shell without a terminal

    const large = `${path}/root/large`;
    const sh = (line: string) => ["sh", "-c", line, "sh", ...rig.client("run")];
    await output([...sh(`"$@" "cat ${large}" | { sleep 0.3; cat; } > ${path}/got`)]); // a slow reader
    await assertSame(`${path}/got`, large);
    await output([...sh(`"$@" "cat > ${path}/sent" < ${large}`)]);
    await assertSame(`${path}/sent`, large);
    const cut = await finish(sh(`"$@" "cat ${large}" | head -c 10 | wc -c`));
    assertEquals(cut, { code: 0, stdout: "10\n", stderr: "ssh_client: broken pipe\n" });
  },
});

Deno.test({
  name: "ssh_client: a shell of OpenSSH's sshd at a terminal, whose size it is told",
  ignore: missing("sshd", "ssh-keygen", "python3", "stty"),
  async fn() {
    await using folder = await keyFolder();
    await using rig = await startSshd(folder.path);
    await using client = onTerminal(showingTty(["env", "TERM=vt100", ...rig.client()]));
    const [, tty] = await client.until(/^(\/dev\/\S+)\r\n/);
    await client.type("cd /; PS1=ready exec sh\r");
    await client.until(/[\n\rl]ready$/);
    await client.type("stty size; echo =$TERM\r");
    await client.until(/\n24 80\r+\n=vt100\r+\nready$/);
    await resize(tty, 100, 30);
    await eventually("the shell knows the new size", async () => {
      const before = client.stdout.length;
      await client.type("stty size\r");
      const answered = /\n\d+ \d+\r+\nready$/;
      await eventually("it answers", () => answered.test(client.stdout.slice(before)));
      return /\n30 100\r+\nready$/.test(client.stdout);
    });
    await client.type("echo started; sleep 60\r");
    await client.until(/\nstarted\r+\n$/);
    await client.type("\x03"); // ends what runs there, and not us
    await client.until(/\^C[^]*ready$/);
    await client.type("exit 9\r");
    const { stdout } = await client.ended();
    assertMatch(stdout, /exit 9\r\n[^]* icanon [^]* echo /);
  },
});

Deno.test({
  name: "ssh_client: get and put by OpenSSH's sshd, whole or not at all",
  ignore: missing("sshd", "ssh-keygen", "cmp"),
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    const [large, there] = [`${path}/root/large`, `${path}/root/sub`];
    await using rig = await startSshd(path);
    const client = (...args: string[]) => finish(rig.client(...args), { cwd: path });
    const size = MEGABYTES * 1e6;
    const got = await client("get", large);
    assertEquals(got.stderr, `ssh_client: received large, ${size} bytes\n`);
    await assertSame(`${path}/large`, large);
    for (const name of ["new", "inside.txt"]) { // which is replaced
      const sent = await client("put", "large", `${there}/${name}`);
      assertEquals(sent.stderr, `ssh_client: sent ${there}/${name}, ${size} bytes\n`);
      await assertSame(`${there}/${name}`, large);
    }
    await Deno.writeTextFile(`${path}/empty`, "");
    assertEquals((await client("put", "empty", `${there}/empty`)).code, 0);
    assertEquals((await Deno.stat(`${there}/empty`)).size, 0);
    // The size of such a file is said to be 0.
    assertEquals((await client("get", "/proc/version", "version")).code, 0);
    assertEquals(
      await Deno.readTextFile(`${path}/version`),
      await Deno.readTextFile("/proc/version"),
    );
    for (
      const [args, error] of [
        [["get", `${path}/none`], `${path}/none: no such file`],
        [["get", there], `${there}: failure`],
        [["put", "none"], "none: no such file or directory"],
        [["put", "root"], "root: not a file"],
        [["put", "id", `${path}/none/id`], `${path}/none/id: no such file`],
        [["put", "id", there], `${there}: failure`],
      ] as const
    ) {
      const { code, stderr } = await client(...args);
      assertEquals([code, stderr], [1, `ssh_client: ${error}\n`]);
    }

    // Ended by Ctrl-C, and with the connection cut: what was sent by then stays, but not under its name.
    const names = () => Array.from(Deno.readDirSync(there), ({ name }) => name).sort();
    const before = names();
    const pipe = `${path}/endless`;
    await output(["truncate", "--size", "20G", pipe]); // no octets on the disk
    for (const end of ["SIGINT", "cut"] as const) {
      await using sending = new Program(rig.client("put", pipe, `${there}/cut`));
      await eventually("a part is there", () => names().length > before.length);
      if (end === "SIGINT") sending.signal(end);
      else await output(["pkill", "-P", `${rig.sshd.pid}`]); // the processes of its connections
      const { code } = await sending.ended();
      assertEquals(code, end === "SIGINT" ? 130 : 1);
      assertEquals(names().filter((name) => !name.endsWith(".part")), before);
      if (end === "SIGINT") assertEquals(names(), before);
    }
  },
});

Deno.test({
  name:
    "ssh_client: the host keys of OpenSSH's sshd, known, hashed, of one type, changed and revoked",
  ignore: missing("sshd", "ssh-keygen"),
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    await using rig = await startSshd(path, "", ["ed25519", "ecdsa", "rsa"]);
    const { hosts } = rig;
    const [known, other] = [`${path}/known`, await Deno.readTextFile(`${path}/other.pub`)];
    const changed = (type: string) => hosts[type].replace(/ssh-ed25519.*/, other);
    const print = await printOf(`${path}/host_ed25519.pub`);
    const refused = (line: string) =>
      new RegExp(
        `refused, somebody .* its ssh-ed25519 key ${
          print.replaceAll("+", "\\+")
        } is not that of line ${line} of`,
      );
    for (
      const [lines, expected] of [
        [hosts.ed25519, /^$/],
        [hosts.ecdsa, /^$/],
        [hosts.rsa, /^$/],
        [changed("ed25519"), refused("1")],
        [`# x\n${changed("ed25519")}${other}`, refused("2")],
        [
          `${hosts.ed25519}@revoked * ${hosts.ed25519.replace(/\S+ /, "")}`,
          /key SHA256:\S+ is revoked/,
        ],
        ["", /the host is not known, nor its ssh-ed25519 key SHA256/],
      ] as const
    ) {
      await Deno.writeTextFile(known, lines);
      if (lines === hosts.ed25519) { // OpenSSH's own hash of it
        await keygen("-H", "-f", known);
        assertMatch(await Deno.readTextFile(known), /^\|1\|/);
      }
      const { code, stderr } = await finish(rig.client("run", "true"));
      assertEquals(code, `${expected}` === "/^$/" ? 0 : 1, stderr);
      assertMatch(stderr, expected);
    }
  },
});

Deno.test({
  name: "ssh_client: keys of every type, encrypted ones, an agent, and the wrong password at sshd",
  ignore: missing("sshd", "ssh-keygen", "ssh-agent", "ssh-add"),
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    await using rig = await startSshd(path, "PasswordAuthentication yes");
    const client = async (name: string, env = {}, ...more: string[]): Promise<Result> => {
      const argv = command("ssh_client", ["--allow-write", "--allow-env", ...more]);
      const identity = name ? ["--identity", `${path}/${name}`] : [];
      const own = { SSH_AUTH_SOCK: "", SSH_PASSWORD: "", SSH_PASSPHRASE: "", ...env };
      await using program = new Program([...argv, ...rig.args, ...identity, "run", "true"], {
        env: own,
      });
      await program.endInput();
      return await program.ended();
    };
    const types: [name: string, passphrase: string, ...options: string[]][] = [
      ["rsa", "", "-t", "rsa", "-b", "2048"],
      ["encrypted", "two words", "-t", "ed25519", "-a", "1"],
    ];
    for (const [name, passphrase, ...options] of types) {
      await keygen(...options, "-N", passphrase, "-f", `${path}/${name}`);
      const keys = await Deno.readTextFile(`${path}/${name}.pub`);
      await Deno.writeTextFile(`${path}/id.pub`, keys, { append: true });
      const { code, stderr } = await client(name, { SSH_PASSPHRASE: passphrase });
      assertEquals([name, code, stderr], [name, 0, ""]);
    }
    const wrong = await client("encrypted", { SSH_PASSPHRASE: "two worlds" });
    assertEquals(wrong.stderr, `ssh_client: ${path}/encrypted: wrong passphrase\n`);

    const denied =
      /permission denied for \S+, the server takes: publickey, password, keyboard-inter/;
    assertMatch((await client("other", { SSH_PASSWORD: "wrong" })).stderr, denied);
    assertEquals((await client("", { SSH_PASSWORD: "wrong" })).code, 1);

    const SSH_AUTH_SOCK = `${path}/agent`;
    await using agent = new Program(["ssh-agent", "-D", "-a", SSH_AUTH_SOCK]);
    await agent.until(/SSH_AUTH_SOCK=/);
    const add = (name: string) =>
      output(["env", `SSH_AUTH_SOCK=${SSH_AUTH_SOCK}`, "ssh-add", "-q", `${path}/${name}`]);
    await add("other");
    assertMatch((await client("", { SSH_AUTH_SOCK })).stderr, /permission denied/);
    await add("rsa");
    assertEquals(await client("", { SSH_AUTH_SOCK }), { code: 0, stdout: "", stderr: "" });
    const gone = await client("rsa", { SSH_AUTH_SOCK: `${path}/gone` });
    const line = `goes on without an agent: unix:${path}/gone: no such file or directory`;
    assertEquals([gone.code, gone.stderr], [0, `ssh_client: ${line}\n`]);
  },
});

/** Whether there is the module for Debian's own Python. */
function missingParamiko(): boolean {
  if (missing("ssh-keygen")) return true;
  try {
    return !Deno.statSync("/usr/lib/python3/dist-packages/paramiko").isDirectory;
  } catch {
    if (Deno.env.get("REQUIRE_PEERS") === "1") throw new Error("not installed: paramiko");
    return true;
  }
}

const paramiko = (
  ...args: string[]
) => ["/usr/bin/python3", "-uW", "ignore", here("ssh.py"), ...args];

Deno.test({
  name: "ssh_server: Python's paramiko, call by call as the header has them",
  ignore: missingParamiko(),
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    await using rig = await startServer(path);
    const files = [`${path}/known`, `${path}/id`, "/large", `${path}/got`];
    const [exec, sftp, put, remove, shell] =
      (await output(paramiko("client", `${rig.port}`, ...files)))
        .split("\n");
    assertEquals(exec, "b'' b'nope: unknown command, help lists them\\n' 127");
    assertEquals(sftp, "['large', 'sub'] / 0o100644");
    await assertSame(`${path}/got`, `${path}/root/large`);
    assertEquals([put, remove], Array(2).fill("[Errno 13] permission denied"));
    const screen =
      "> size\\r\\n90 columns, 20 rows; vt100\\r\\n> size\\r\\n100 columns, 30 rows; vt100\\r\\n";
    assertEquals(shell, `b'${screen}> quit\\r\\nbye\\r\\n' 0`);
  },
});

Deno.test({
  name: "ssh_client: the password at a server of Python's paramiko, from the environment or typed",
  ignore: missingParamiko() || missing("python3"),
  async fn() {
    await using folder = await keyFolder();
    const { path } = folder;
    await using server = new Program(paramiko("server", `${path}/other`));
    const port = await server.port();
    const host = await Deno.readTextFile(`${path}/other.pub`);
    await Deno.writeTextFile(`${path}/known`, `[127.0.0.1]:${port} ${host}`);
    const argv = [
      ...command("ssh_client", ["--allow-env=SSH_PASSWORD"]),
      ...["--port", `${port}`, "--user", "ann", "--known-hosts", `${path}/known`, "run", "said"],
    ];
    await using right = new Program(argv, { env: { SSH_PASSWORD: "sécret" } });
    await right.endInput();
    assertEquals(await right.ended(), { code: 3, stdout: "said\n", stderr: "" });
    await using wrong = new Program([...argv, "--trace"], { env: { SSH_PASSWORD: "wröng" } });
    await wrong.endInput();
    const { code, stderr } = await wrong.ended();
    assertMatch(stderr, /permission denied for ann, the server takes: publickey, password\n$/);
    assert(code === 1 && !stderr.includes("wr"), stderr);
    const none = await run("ssh_client", argv.slice(argv.indexOf("--port")));
    assertMatch(none.stderr, /permission denied for ann/);

    await using asked = onTerminal(argv);
    await asked.until(/password of ann at \[127.0.0.1\]:\d+: $/);
    await asked.type("sécrex\x7ft\r");
    const { stdout } = await asked.ended();
    assertMatch(stdout, /: \r\nsaid\r\nexit 3\r\n/);
    assert(!stdout.includes("cret"), stdout);
  },
});
