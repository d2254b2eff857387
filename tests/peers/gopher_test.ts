import { assert, assertEquals, assertMatch } from "@std/assert";
import { command, missing, Program, start, temporaryFolder } from "../helpers.ts";
import { latin1 } from "../lib/wire.ts";
import { onTerminal } from "../scripts/rig.ts";
import { certificates, finish, output, python } from "./peers.ts";

const BINARY = Uint8Array.from({ length: 300_000 }, (_, i) => i * i >> 3);
const AWKWARD = "a b/grüße &?#%1.txt";

/** Makes a folder to serve. */
async function fill(root: string): Promise<void> {
  await Deno.mkdir(`${root}/a b`, { recursive: true });
  await Deno.writeTextFile(`${root}/a.txt`, "alpha\n.\nomega\n");
  await Deno.writeTextFile(`${root}/${AWKWARD}`, "awkward\n");
  await Deno.writeFile(`${root}/b.bin`, BINARY);
  await Deno.writeTextFile(`${root}/page.html`, "<p>page</p>\n");
}

/** Starts our server; goes with its port. */
async function startOurs(folder: string, ...flags: string[]): Promise<[Program, number]> {
  await fill(`${folder}/root`);
  const server = start("gopher_server", ["--port", "0", ...flags, `${folder}/root`], [
    "--allow-read",
  ]);
  return [server, await server.port()];
}

async function assertBinary(path: string): Promise<void> {
  assert(latin1(await Deno.readFile(path)) === latin1(BINARY), path);
}

Deno.test({
  name: "curl gets menus, texts, binaries and searches of gopher_server, also over TLS",
  ignore: missing("curl", "openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const { ca, cert, key } = await certificates(folder.path);
    const tls = ["--cert", cert, "--key", key];
    for (const [scheme, flags] of [["gopher", []], ["gophers", tls]] as const) {
      const [server, port] = await startOurs(folder.path, ...flags);
      await using _ = server;
      const curl = (path: string, ...args: string[]) => {
        const common = ["-sS", "-m", "10", "--path-as-is", "--cacert", ca];
        return output(["curl", ...common, ...args, `${scheme}://127.0.0.1:${port}${path}`]);
      };
      const at = `\t127.0.0.1\t${port}\r\n`;
      const menu = `7Search below this folder\t/${at}1a b\t/a b${at}0a.txt\t/a.txt${at}` +
        `9b.bin\t/b.bin${at}hpage.html\t/page.html${at}.\r\n`;
      for (const path of ["", "/", "/1", "/1/"]) assertEquals(await curl(path), menu);
      assertEquals(await curl("/0/a.txt"), "alpha\r\n..\r\nomega\r\n.\r\n"); // it leaves the dots
      assertEquals(await curl(`/0/${encodeURIComponent(AWKWARD)}`), "awkward\r\n.\r\n");
      assertEquals(await curl("/7/%09TXT%20grü"), `0${AWKWARD}\t/${AWKWARD}${at}.\r\n`);
      assertEquals(await curl("/h/page.html"), "<p>page</p>\n");
      assertMatch(await curl("/0/../outside"), /^3no such file/);
      await curl("/9/b.bin", "-o", `${folder.path}/curl.bin`);
      await assertBinary(`${folder.path}/curl.bin`);
    }
  },
});

Deno.test({
  name: "lynx follows the menus of gopher_server, by IPv4 and IPv6",
  ignore: missing("lynx"),
  async fn() {
    await using folder = await temporaryFolder();
    for (const [host, place] of [["127.0.0.1", "127.0.0.1"], ["::1", "[::1]"]]) {
      const [server, port] = await startOurs(folder.path, "--host", host);
      await using _ = server;
      const url = `gopher://${place}:${port}`;
      const lynx = (...args: string[]) => output(["lynx", "-nocolor", ...args]);
      const links = async (url: string) =>
        Array.from((await lynx("-dump", "-listonly", url)).matchAll(/gopher:.*/g), ([url]) => url);
      const [search, folderLink, text, binary, page] = await links(url);
      assertEquals(
        [search, folderLink, text, binary],
        [`${url}/7/`, `${url}/1/a b`, `${url}/0/a.txt`, `${url}/9/b.bin`],
      );
      assertMatch(
        await lynx("-dump", url),
        /\(\?\) +\[1\]Search below this folder\n \(DIR\) +\[2\]a b\n\(FILE\) +\[3\]a\.txt\n \(BIN\)/,
      );
      assertEquals(await lynx("-dump", text), "alpha\n..\nomega\n.\n\n");
      assertEquals(await lynx("-source", page), "<p>page</p>\n"); // by a selector without its slash
      const [, awkward] = await links(folderLink.replace(" ", "%20"));
      assert(awkward.startsWith(`${url}/0/a b/gr`), awkward);
      const asked = `${url}/0/${encodeURIComponent(AWKWARD)}`;
      assertEquals(await lynx("-dump", asked), "awkward\n.\n\n");
      assertEquals((await links(`${search}?gr`)).length, 1);
      const saved = await new Deno.Command("lynx", { args: ["-source", binary] }).output();
      assert(latin1(saved.stdout) === latin1(BINARY));
    }
  },
});

Deno.test({
  name: "Debian's gopher, at a terminal, reads, searches and saves what gopher_server has",
  ignore: missing("python3", "gopher"),
  async fn() {
    await using folder = await temporaryFolder();
    const [server, port] = await startOurs(folder.path);
    await using _ = server;
    await Deno.writeTextFile(`${folder.path}/.gopherrc`, ""); // else it greets a newcomer first
    const env = ["env", "TERM=vt100", `HOME=${folder.path}`, "PAGER=cat"];
    await using program = onTerminal([...env, "gopher", "127.0.0.1", `${port}`]);
    const types = async (keys: string, shows: RegExp) => {
      program.stdout = "";
      await program.type(keys);
      await program.until(shows);
    };
    await program.until(/\[1\] {2}Menu\//); // its question of Gopher+ has its answer
    await types(
      "\r",
      /Search below this folder <\?>[^]*\[2\] {2}a b\/[^]*\[3\] {2}a\.txt[^]*Page: 1/,
    );
    await types("3\r", /View item number/);
    await types("\r", /alpha[^]*omega[^]*Exit: u\]/);
    await types("u", /\[4\] {2}b\.bin <Bin>[^]*Page: 1/);
    await types("1\r", /Words to search for[^]*Next field/);
    await types("txt\r", /\[1\] {2}a\.txt[^]*\[2\] {2}a b\/gr[^]*Page: 1/);
    await types("u", /\[4\] {2}b\.bin <Bin>[^]*Page: 1/);
    await types("4\r", /Save in file:[^]*Next field/);
    await types(`\x15${folder.path}/saved.bin\r`, /Receiving File[^]*Page: 1/);
    await assertBinary(`${folder.path}/saved.bin`);
    await types("Q", /exit 0\r\n/);
    assertEquals(server.stderr.split("\n").length, 2, server.stderr);
  },
});

Deno.test({
  name: "gopher_client gets menus, texts and binaries of gophernicus",
  ignore: missing("python3", "gophernicus"),
  async fn() {
    await using folder = await temporaryFolder();
    const root = `${folder.path}/root`;
    await fill(root);
    await Deno.writeTextFile(`${root}/a b/gophermap`, "A map\n0A text\t/a.txt\n");
    await Deno.chmod(folder.path, 0o755); // it serves what everybody may read
    await using server = new Program(python("gopher.py", root));
    const url = `gopher://127.0.0.1:${await server.port()}`;
    const client = [...command("gopher_client", ["--allow-read", "--allow-write"])];
    const menu = await output([...client, url]);
    const [, selector] = /^1a b +\S+ \S+ +-+\t(\/a[^\t]*b\/)\t127\.0\.0\.1\t\d+\r\n/m.exec(menu) ??
      [];
    assertMatch(menu, /^9b\.bin .*\t\/b\.bin\t/m);
    assert(!menu.endsWith("\n.\r\n"));
    const map = await output([...client, `${url}/1${encodeURIComponent(selector)}`]);
    assertMatch(map, /^iA map\t.*\r\n0A text\t\/a\.txt\t127\.0\.0\.1\t\d+\r\n/);
    // It sends texts as they are, neither dots stuffed nor one at the end.
    assertEquals(await finish([...client, `${url}/0/a.txt`]), {
      code: 0,
      stdout: "alpha\r\n.\r\nomega\r\n",
      stderr: "gopher_client: no dot at the end: it may be cut off\n",
    });
    await output([...client, "--output", `${folder.path}/ours.bin`, `${url}/9/b.bin`]);
    await assertBinary(`${folder.path}/ours.bin`);
    const none = await finish([...client, `${url}/1/none/`]);
    assertMatch(none.stdout + none.stderr, /Error: File or directory not found!/);

    await using program = onTerminal([...command("gopher_client"), url]);
    const [, number] = await program.until(/ (\d) menu +a b [^]*q\(uit\): /);
    await program.type(`${number}\r`);
    await program.until(/ A map\r\n[^]*1 text +A text\r\n[^]*q\(uit\): /);
    await program.type("1\r");
    await program.until(/alpha\r\n\.\r\nomega\r\n/);
    await program.type("q\r");
    await program.until(/exit 0/);
  },
});
