import { assert, assertEquals, assertMatch } from "@std/assert";
import { retry } from "@std/async/retry";
import { command, missing, Program, type Result, temporaryFolder } from "../helpers.ts";
import { random } from "../lib/wire.ts";
import { FILES } from "../scripts/rig.ts";
import { certificates, eventually, here, output } from "./peers.ts";

const NAME = "ftp_client";
const PYFTPDLIB = "../lib/python3/dist-packages/pyftpdlib/__init__.py"; // beside Debian's python3

/** How a server is: no EPSV and an address in PASV that is a lie, 20 MB/s, TLS from the first octet. */
type Kind = "lie" | "slow" | "tls" | "reuse";
/** A server under way, the flags to find it, and who may write there. */
type Server = { program: Program; at: string[]; writer: string[] };
type Start = (folder: string, ...kinds: Kind[]) => Promise<Server>;

/** Starts pyftpdlib for what is below `folder/root`. */
async function startPyftpdlib(folder: string, ...kinds: Kind[]): Promise<Server> {
  // Debian's own Python, for which the package is.
  const argv = ["/usr/bin/python3", here("ftp_client.py"), `${folder}/root`, ...kinds];
  const program = new Program(argv);
  return { program, at: ["--port", `${await program.port()}`], writer: ["--user", "me"] };
}

/** Starts vsftpd for what is below `folder/root`, as whoever runs the tests. It has no MLSD. */
async function startVsftpd(folder: string, ...kinds: Kind[]): Promise<Server> {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const { port } = listener.addr;
  listener.close();
  const { ca, cert, key } = await certificates(folder);
  const settings = {
    ...{ listen: "YES", listen_ipv6: "NO", listen_address: "127.0.0.1", listen_port: port },
    ...{ background: "NO", seccomp_sandbox: "NO", run_as_launching_user: "YES" },
    ...{ anonymous_enable: "YES", anon_root: `${folder}/root`, allow_writeable_chroot: "YES" },
    ...{ write_enable: "YES", anon_upload_enable: "YES", anon_other_write_enable: "YES" },
    ...{ anon_umask: "022", secure_chroot_dir: folder },
    ...kinds.includes("lie") ? { cmds_denied: "EPSV", pasv_address: "127.9.8.7" } : {},
    ...kinds.includes("slow") ? { anon_max_rate: 20_000_000 } : {},
    ...kinds.includes("tls")
      ? {
        ...{ ssl_enable: "YES", implicit_ssl: "YES", allow_anon_ssl: "YES", ssl_ciphers: "HIGH" },
        ...{ rsa_cert_file: cert, rsa_private_key_file: key },
        require_ssl_reuse: kinds.includes("reuse") ? "YES" : "NO",
      }
      : {},
  };
  const lines = Object.entries(settings).map(([name, value]) => `${name}=${value}\n`);
  await Deno.writeTextFile(`${folder}/vsftpd.conf`, lines.join(""));
  const program = new Program(["vsftpd", `${folder}/vsftpd.conf`]);
  await retry(async () => (await Deno.connect({ hostname: "127.0.0.1", port })).close(), {
    minTimeout: 50,
    maxAttempts: 8,
  });
  const tls = kinds.includes("tls") ? ["--tls", "--ca", ca] : [];
  return { program, at: ["--port", `${port}`, ...tls], writer: [] };
}

const SERVERS: [name: string, installed: boolean, start: Start][] = [
  ["vsftpd", !missing("vsftpd", "openssl"), startVsftpd],
  ["pyftpdlib", !missing(PYFTPDLIB), startPyftpdlib],
];

/** Our client, under way. */
function startClient(args: string[], cwd: string): Program {
  const argv = command(NAME, [...FILES, "--allow-env=FTP_PASSWORD"]);
  return new Program([...argv, ...args], { cwd, env: { FTP_PASSWORD: "s3cret" } });
}

async function client(args: string[], cwd: string): Promise<Result> {
  await using program = startClient(args, cwd);
  return await program.ended();
}

const says = (stderr: string, code = 0, stdout = ""): Result => ({
  code,
  stdout,
  stderr: stderr.replace(/^(?=.)/gm, `${NAME}: `),
});

function octets(size: number): Uint8Array {
  const draw = random(size);
  const words = Uint32Array.from({ length: Math.ceil(size / 4) }, () => draw(2 ** 32));
  return new Uint8Array(words.buffer, 0, size);
}

const NAMES = [
  "plain",
  "a b",
  " lead",
  "grüße",
  "-minus",
  ".hidden",
  "x -> y",
  "st*r?",
  "~",
  '"q"',
];

/** Fills `root` with 300 files in 6 folders, and links, which are no files. */
async function plant(root: string): Promise<void> {
  for (const [i, folder] of ["", "sub", "sub/d d", "sub/d d/-ü", "-d", ".h"].entries()) {
    await Deno.mkdir(`${root}/${folder}`, { recursive: true });
    for (let n = 0; n < 50; n++) {
      const name = n < NAMES.length ? NAMES[n] : `${NAMES[n % NAMES.length]}${n}`;
      await Deno.writeFile(`${root}/${folder}/${name}`, octets(n === 0 ? 0 : 50 * i + 997 * n));
    }
  }
  await Deno.mkdir(`${root}/up`);
}

for (const [name, installed, start] of SERVERS) {
  for (const kinds of [[], ["lie"]] as Kind[][]) {
    Deno.test({
      name: `ftp_client at ${[name, ...kinds].join(", ")}: ls, get, put, mirror with 4 jobs`,
      ignore: !installed,
      async fn() {
        await using folder = await temporaryFolder();
        const [root, cwd] = [`${folder.path}/root`, `${folder.path}/client`];
        await plant(root);
        await Deno.mkdir(cwd);
        const { program, at, writer } = await start(folder.path, ...kinds);
        await using _ = program;

        const list = await client([...at, "ls"], cwd);
        assertEquals([list.code, list.stderr], [0, ""]);
        const found = list.stdout.split("\n").slice(0, -1).map((line) => line.slice(33));
        const there = Array.from(Deno.readDirSync(root), ({ name }) => name);
        assertEquals(found.sort(), there.sort());
        assertMatch(list.stdout, /^- {10,}\d+ [ \w:-]{16} grüße$/m);

        for (const file of NAMES) {
          const { size } = await Deno.stat(`${root}/sub/${file}`);
          const args = [...at, "get", "--", `sub/${file}`];
          assertEquals(await client(args, cwd), says(`received ${file}, ${size} bytes\n`));
          assertEquals(await output(["cmp", `${root}/sub/${file}`, `${cwd}/${file}`]), "");
          if (kinds.length > 0) break;
        }
        const none = await client([...at, "get", "none"], cwd);
        assertEquals([none.code, none.stdout], [1, ""]);
        assertMatch(none.stderr, /^ftp_client: RETR: the server says 550 .*\n$/);

        const names = kinds.length > 0 ? ["a b"] : ["a b", "-minus", "grüße", "plain"];
        for (const file of names) {
          await Deno.copyFile(`${root}/sub/${file}`, `${cwd}/${file}`);
          const args = [...at, ...writer, "put", "--", file, "up/"];
          const sent = await client(args, cwd);
          assertEquals(sent.code, 0, sent.stderr);
          assertEquals(await output(["cmp", `${root}/up/${file}`, `${cwd}/${file}`]), "");
        }

        const mirror = [...at, "mirror", ".", "copy", "--jobs", "4"];
        const total = 300 + names.length;
        const done = (received: number) =>
          says(`copy: ${received} files received, ${total - received} unchanged, 0 failed\n`);
        assertEquals(await client(mirror, cwd), done(total));
        assertEquals(await output(["diff", "-r", root, `${cwd}/copy`]), "");
        await Deno.writeTextFile(`${root}/sub/plain`, "new");
        await Deno.utime(`${root}/sub/d d/~`, 1e9, 1e9);
        await Deno.remove(`${cwd}/copy/-d/grüße`);
        assertEquals(await client(mirror, cwd), done(3));
        assertEquals(await output(["diff", "-r", root, `${cwd}/copy`]), "");
      },
    });
  }

  Deno.test({
    name: `ftp_client at ${name}: killed in the middle, it goes on there`,
    ignore: !installed,
    async fn() {
      await using folder = await temporaryFolder();
      const [root, cwd] = [`${folder.path}/root`, `${folder.path}/client`];
      await Deno.mkdir(root);
      await Deno.mkdir(cwd);
      const { program, at, writer } = await start(folder.path, "slow");
      await using _ = program;
      const total = 16_000_000;
      const cut = async (args: string[], growing: string) => {
        const sizeOf = async () => (await Deno.stat(growing).catch(() => ({ size: 0 }))).size;
        await using program = startClient([...at, ...writer, ...args], cwd);
        await eventually("some of it has gone", async () => await sizeOf() > 2_000_000);
        program.signal("SIGKILL");
        await program.ended();
        const size = await sizeOf();
        assert(size < total, `${size}`);
        return size;
      };
      await Deno.writeFile(`${root}/big`, octets(total));
      await cut(["get", "big"], `${cwd}/big.part`);
      assertEquals(Array.from(Deno.readDirSync(cwd), ({ name }) => name), ["big.part"]);
      const had = (await Deno.stat(`${cwd}/big.part`)).size;
      const { code, stderr } = await client([...at, "get", "big", "--resume", "--trace"], cwd);
      assertEquals(code, 0);
      assertMatch(stderr, new RegExp(`> \\S+ REST ${had}\\\\r`));
      assertEquals(await output(["cmp", `${root}/big`, `${cwd}/big`]), "");
      await Deno.remove(`${cwd}/big`);
      // A part that is whole, and a copy of a folder.
      await Deno.copyFile(`${root}/big`, `${cwd}/big.part`);
      const whole = says(`received big, ${total} bytes\n`);
      assertEquals(await client([...at, "get", "big", "--resume"], cwd), whole);
      await cut(["mirror", ".", "copy"], `${cwd}/copy/big.part`);
      const mirrored = says("copy: 1 files received, 0 unchanged, 0 failed\n");
      assertEquals(await client([...at, "mirror", ".", "copy", "--resume"], cwd), mirrored);
      assertEquals(await output(["diff", "-r", root, `${cwd}/copy`]), "");

      await cut(["put", "big", "up"], `${root}/up`);
      const again = await client([...at, ...writer, "put", "big", "up", "--resume"], cwd);
      assertEquals(again, says(`sent up, ${total} bytes\n`));
      assertEquals(await output(["cmp", `${root}/up`, `${cwd}/big`]), "");
    },
  });
}

Deno.test({
  name: "ftp_client at vsftpd over TLS, which may want what Deno cannot do",
  ignore: missing("vsftpd", "openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const [root, cwd] = [`${folder.path}/root`, `${folder.path}/client`];
    await plant(root);
    await Deno.mkdir(cwd);
    {
      const { program, at } = await startVsftpd(folder.path, "tls");
      await using _ = program;
      const done = says("copy: 300 files received, 0 unchanged, 0 failed\n");
      assertEquals(await client([...at, "mirror", ".", "copy"], cwd), done);
      assertEquals(await output(["diff", "-r", root, `${cwd}/copy`]), "");
      for (const file of ["plain", "a b"]) { // the first is empty
        await Deno.copyFile(`${root}/${file}`, `${cwd}/${file}`);
        const { code, stderr } = await client([...at, "put", file, "up/"], cwd);
        assertEquals(code, 0, stderr);
        assertEquals(await output(["cmp", `${root}/up/${file}`, `${cwd}/${file}`]), "");
      }
      // No root that we know vouches for it.
      const { code, stderr } = await client([...at.slice(0, -2), "ls"], cwd);
      assertEquals([code, stderr.includes("no trusted root vouches")], [1, true], stderr);
    }
    const { program, at } = await startVsftpd(folder.path, "tls", "reuse");
    await using _ = program;
    const refused = says(
      "RETR: the server says 522 SSL connection failed: session reuse required\n",
      1,
    );
    assertEquals(await client([...at, "get", "a b", "again"], cwd), refused);
  },
});

Deno.test({
  name: "what pyftpdlib lists and does not give is said, and its folders in themselves end",
  ignore: missing(PYFTPDLIB),
  async fn() {
    await using folder = await temporaryFolder();
    const root = `${folder.path}/root`;
    await Deno.mkdir(`${root}/sub`, { recursive: true });
    await Deno.writeTextFile(`${root}/sub/file`, "data");
    await Deno.writeTextFile(`${root}/new\nline`, "data");
    await Deno.symlink(".", `${root}/sub/loop`);
    await Deno.symlink("/etc", `${root}/out`);
    const { program, at } = await startPyftpdlib(folder.path);
    await using _ = program;
    const { code, stderr } = await client([...at, "mirror", "/", "copy"], folder.path);
    assertEquals(code, 1);
    const lines = stderr.split("\n").slice(0, -1).map((line) => line.replace(/(550) .*/, "$1"));
    assertEquals(lines, [
      "ftp_client: /line: neither a file nor a folder, or not to be read",
      "ftp_client: /out: CWD: the server says 550",
      "ftp_client: /sub/loop: a folder in itself, left out",
      "ftp_client: /new: RETR: the server says 550",
      "ftp_client: copy: 1 files received, 0 unchanged, 3 failed",
    ]);
    assertEquals(await Deno.readTextFile(`${folder.path}/copy/sub/file`), "data");
    assertEquals(Array.from(Deno.readDirSync(`${folder.path}/copy`), ({ name }) => name), ["sub"]);
  },
});
