import { assertEquals, assertMatch, assertRejects, assertStringIncludes } from "@std/assert";
import { FramedConn } from "../../lib/framing.ts";
import { receiveFile } from "../../scripts/file_client.ts";
import { fileHandler, folderHandler } from "../../scripts/file_server.ts";
import { mayRun, missing, pair, run, start, temporaryFolder } from "../helpers.ts";
import { inEachForm, testServer } from "./rig.ts";

/** Octets that repeat nowhere near, so that a piece out of place shows. */
function octets(size: number): Uint8Array {
  const values = new Uint32Array(Math.ceil(size / 4));
  for (let i = 0; i < values.length; i++) values[i] = Math.imul(i + 1, 2654435761);
  return new Uint8Array(values.buffer, 0, size);
}

async function fill(folder: string, files: Record<string, Uint8Array | string>): Promise<void> {
  for (const [name, data] of Object.entries(files)) {
    const path = `${folder}/${name}`;
    await Deno.mkdir(path.replace(/[^/]*$/, ""), { recursive: true });
    await Deno.writeFile(path, typeof data === "string" ? new TextEncoder().encode(data) : data);
  }
}

const names = (folder: string) => Array.from(Deno.readDirSync(folder), ({ name }) => name).sort();

/** Fails like `assertEquals`, but without a diff of megabytes. */
function assertSame(actual: Uint8Array, expected: Uint8Array): void {
  const at = expected.findIndex((octet, i) => octet !== actual[i]);
  assertEquals([actual.length, at], [expected.length, -1]);
}

/** What a handler answers to `greeting`, and what becomes of it. */
async function answerTo(
  handler: (conn: FramedConn) => Promise<void>,
  greeting: Uint8Array | string,
): Promise<Uint8Array> {
  const { near, far } = await pair();
  using client = new FramedConn(far);
  const served = handler(near).finally(() => near.finish(new Uint8Array(1024))).finally(() =>
    near.close()
  ).catch(() => {});
  await client.writeAll(greeting);
  if (greeting.length === 0) await far.closeWrite();
  const answer = await client.readToEnd(1e8);
  client.close();
  await served;
  return answer;
}

const text = (data: Uint8Array) => new TextDecoder().decode(data);

Deno.test({
  name: "a file is sent to any greeting, whatever its size",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const path = `${folder.path}/file`;
    for (const size of [0, 1, 1024 * 1024, 3 * 1024 * 1024 + 7]) {
      await Deno.writeFile(path, octets(size));
      for (const greeting of ["Hello server!", "GET other\n", "\n", new Uint8Array([0xff, 0])]) {
        assertSame(await answerTo(fileHandler(path), greeting), octets(size));
      }
    }
    assertEquals(await answerTo(fileHandler(path), ""), new Uint8Array()); // it never greeted
  },
});

Deno.test({
  name: "a folder answers GET, and anything else with a listing",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const root = `${folder.path}/root`;
    await fill(folder.path, {
      "root/a.txt": "alpha\n",
      "root/empty": "",
      "root/sub/grüße & co.txt": "hallo",
      "root/sub/deep/b": "beta",
      "root/..dots": "two dots",
      "root/line\nend": "cannot be asked for",
      "outside": "secret",
      "root-too/x": "secret",
    });
    await Deno.symlink(`${folder.path}/outside`, `${root}/link-out`);
    await Deno.symlink(`${folder.path}`, `${root}/folder-out`);
    await Deno.symlink("../root-too", `${root}/sibling`);
    await Deno.symlink("a.txt", `${root}/link-in`);
    await Deno.symlink("nowhere", `${root}/broken`);
    await new Deno.Command("mkfifo", { args: [`${root}/pipe`] }).output();

    const handler = await folderHandler(root);
    const ask = async (greeting: string) => text(await answerTo(handler, greeting));
    const listing = [
      "8 ..dots",
      "6 a.txt",
      "0 empty",
      "4 sub/deep/b",
      "5 sub/grüße & co.txt",
      "",
    ].join("\r\n");
    for (
      const [greeting, answer] of [
        ["GET a.txt\n", "OK 6 of 6\r\nalpha\n"],
        ["GET a.txt\r\n", "OK 6 of 6\r\nalpha\n"],
        ["GET a.txt", "OK 6 of 6\r\nalpha\n"],
        ["GET a.txt\t2\n", "OK 4 of 6\r\npha\n"],
        ["GET a.txt\t6\n", "OK 0 of 6\r\n"],
        ["GET empty\n", "OK 0 of 0\r\n"],
        ["GET sub/grüße & co.txt\n", "OK 5 of 5\r\nhallo"],
        ["GET sub/deep/b\n", "OK 4 of 4\r\nbeta"],
        ["GET ./sub//deep/b\n", "OK 4 of 4\r\nbeta"],
        ["GET ..dots\n", "OK 8 of 8\r\ntwo dots"],
        ["GET link-in\n", "OK 6 of 6\r\nalpha\n"],
        ["GET folder-out/root/a.txt\n", "OK 6 of 6\r\nalpha\n"], // and in again
        ["Hello server!", listing],
        ["\n", listing],
        ["GET\n", listing],
        ["get a.txt\n", listing],
        ["GET a.txt\t-1\n", listing],
        ["GET a.txt\t7\n", "ERROR 7 is past the end, the file has 6 bytes\r\n"],
        [`GET ${"x".repeat(4092)}\n`, "ERROR request too long\r\n"],
        [`${"x".repeat(4097)}`, "ERROR request too long\r\n"],
        ["GET a\x1b[1m\n", "ERROR no such file: a\\x1b[1m\r\n"],
      ]
    ) {
      assertEquals(await ask(greeting), answer, greeting);
    }
    for (
      const name of [
        ..."nothing sub sub/ . / .. ../outside ../root-too/x ../root/a.txt sub/../a.txt".split(" "),
        ..."link-out folder-out/outside sibling/x broken pipe a.txt/ a.txt/x".split(
          " ",
        ),
        ...["/etc/passwd", `${root}/a.txt`, "a.txt\0", "\0", "x".repeat(300), "a.txt\rx"],
        ...["..", "sub/..", "./..", "..\\outside"],
      ]
    ) {
      const answer = await ask(`GET ${name}\n`);
      assertMatch(answer, /^ERROR (no such file|cannot open )[^\r\n]*\r\n$/, name);
      assertEquals(answer.includes(folder.path) && !name.includes(folder.path), false, name);
    }
  },
});

Deno.test({
  name: "receiveFile writes under the final name only what is whole",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const path = `${folder.path}/got`;
    for (
      const [answer, name, resume, outcome, left] of [
        ["alpha", undefined, false, 5, { got: "alpha" }],
        ["", undefined, false, 0, { got: "" }],
        ["OK 5 of 5\r\nalpha", "a", false, 5, { got: "alpha" }],
        ["OK 5 of 5\r\nalpha and more", "a", false, 5, { got: "alpha" }],
        ["OK 0 of 0\r\n", "a", false, 0, { got: "" }],
        ["OK 5 of 5\r\nalp", "a", false, "connection ended after 3 of 5", { "got.part": "alp" }],
        ["OK 2 of 5\r\nha", "a", true, 5, { got: "alpha" }],
        ["OK 5 of 5\r\nal", "a", false, "connection ended after 2 of 5", { "got.part": "al" }],
        ["OK 3 of 5\r\np", "a", true, "connection ended after 3 of 5", { "got.part": "alp" }],
        ["OK 5 of 5\r\nalpha", "a", true, "the server says: OK 5 of 5", { "got.part": "alp" }],
        ["ERROR no\r\n", "a", true, "the server says: ERROR no", { "got.part": "alp" }],
        ["OK 4 of 4\r\nbeta", "a", false, 4, { got: "beta" }], // an old part is not in the way
        ["ERROR no\r\n", "a", false, "the server says: ERROR no", {}],
        ["", "a", false, "the server says: nothing", {}],
        ["OK\r\n", "a", false, "the server says: OK", {}],
        ["OK 5 of", "a", false, "ended in the middle", {}],
        [`OK 5 of 5${" ".repeat(9000)}\r\n`, "a", false, "more than 8192", {}],
      ] as const
    ) {
      const { near, far } = await pair();
      using client = new FramedConn(far);
      await near.writeAll(answer);
      await near.conn.closeWrite();
      const received = receiveFile(client, path, name, resume);
      if (typeof outcome === "number") assertEquals(await received, outcome);
      else await assertRejects(() => received, Error, outcome);
      near.close();
      assertEquals(names(folder.path), Object.keys(left), answer);
      for (const [file, content] of Object.entries(left)) {
        assertEquals(await Deno.readTextFile(`${folder.path}/${file}`), content, answer);
      }
      await Deno.remove(path).catch(() => {});
    }
  },
});

Deno.test({
  name: "receiveFile asks for what is missing, by name and offset",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    for (
      const [part, resume, request] of [
        [undefined, false, "GET a b\n"],
        [undefined, true, "GET a b\n"],
        ["", true, "GET a b\n"],
        ["xyz", true, "GET a b\t3\n"],
        ["xyz", false, "GET a b\n"],
      ] as const
    ) {
      if (part !== undefined) await Deno.writeTextFile(`${folder.path}/got.part`, part);
      const { near, far } = await pair();
      using client = new FramedConn(far);
      const received = receiveFile(client, `${folder.path}/got`, "a b", resume).catch(() => {});
      assertEquals(`${await near.readLine()}\n`, request);
      near.close();
      await received;
      await Deno.remove(`${folder.path}/got.part`).catch(() => {});
    }
  },
});

Deno.test({
  name: "file_server and file_client: the tutorial's file, and files of a folder",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const [root, cwd] = [`${folder.path}/root`, `${folder.path}/client`];
    await fill(folder.path, { "root/sub/big": octets(5_000_000), "root/a": "alpha" });
    await Deno.mkdir(cwd);
    {
      await using server = start("file_server", ["--port", "0", `${root}/sub/big`]);
      const result = await run("file_client", ["--port", `${await server.port()}`], { cwd });
      const stderr = "file_client: received recv.txt, 5000000 bytes\n";
      assertEquals(result, { code: 0, stdout: "", stderr });
      assertSame(await Deno.readFile(`${cwd}/recv.txt`), octets(5_000_000));
    }
    await using server = start("file_server", ["--port", "0", root]);
    const port = `${await server.port()}`;
    await Deno.writeTextFile(`${cwd}/big`, "an older one");
    for (
      const [args, code, line] of [
        [[], 0, "received recv.txt, 22 bytes"],
        [["sub/big"], 0, "received big, 5000000 bytes"],
        [["a", "--output", "b"], 0, "received b, 5 bytes"],
        [["c"], 1, "the server says: ERROR no such file: c"],
        [["../client/b"], 1, "the server says: ERROR no such file: ../client/b"],
        [["a", "--output", "no/b"], 1, "no/b.part: no such file or directory"],
      ] as const
    ) {
      const result = await run("file_client", ["--port", port, ...args], { cwd });
      assertEquals([result.code, result.stdout], [code, ""], result.stderr);
      assertStringIncludes(result.stderr, line);
      assertEquals(result.stderr.split("\n").length, 2);
    }
    assertEquals(names(cwd), ["b", "big", "recv.txt"]);
    assertSame(await Deno.readFile(`${cwd}/big`), octets(5_000_000));
    assertEquals(await Deno.readTextFile(`${cwd}/b`), "alpha");
    assertEquals(await Deno.readTextFile(`${cwd}/recv.txt`), "5 a\r\n5000000 sub/big\r\n");
  },
});

Deno.test({
  name: "a killed file_server leaves no short file, and --resume completes it",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const path = `${folder.path}/got`;
    const size = 32_000_000; // more than the sockets hold on the way
    {
      using file = await Deno.open(`${folder.path}/big`, { create: true, write: true });
      await file.truncate(size);
      await file.write(octets(1000));
      await file.seek(-1000, Deno.SeekMode.End);
      await file.write(octets(1000));
    }
    const cut = 1_000_000;
    {
      await using server = start("file_server", ["--port", "0", folder.path]);
      const port = await server.port();
      // The proxy passes on some of it, kills the server and passes on its end.
      await using proxy = testServer(async (conn) => {
        using origin = new FramedConn(await Deno.connect({ port }));
        await origin.writeAll(`${await conn.readLine()}\n`);
        await conn.writeAll(await origin.readExactly(cut));
        server.signal("SIGKILL");
        for (let data; (data = await origin.readSome()) !== null;) await conn.writeAll(data);
      });
      const args = ["--port", `${proxy.port}`, "big", "--output", path];
      const { code, stderr } = await run("file_client", args);
      assertEquals(code, 1);
      assertMatch(stderr, /^file_client: [^\n]*\n$/);
      assertEquals(names(folder.path), ["big", "got.part"]);
    }
    const { size: had } = await Deno.stat(`${path}.part`);
    assertEquals(had >= cut - 100 && had < size, true, `${had}`);

    await using server = start("file_server", ["--port", "0", "--trace", folder.path]);
    const port = `${await server.port()}`;
    const args = ["--port", port, "big", "--resume", "--output", path];
    assertEquals((await run("file_client", args)).code, 0);
    await server.until(new RegExp(`^< .* GET big\\\\t${had}\\\\n$`, "m"), "stderr");
    assertEquals(names(folder.path), ["big", "got"]);
    assertEquals(
      (await new Deno.Command("cmp", { args: [path, `${folder.path}/big`] }).output()).code,
      0,
    );
  },
});

Deno.test({
  name: "file_client --timeout gives up on a silent server and keeps what it has",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    await using server = testServer(async (conn) => {
      await conn.readLine();
      await conn.writeAll("OK 100 of 100\r\nsome");
      await conn.readLine(); // until the client leaves
    });
    const { code, stderr } = await run("file_client", [
      ...["--port", `${server.port}`, "--timeout", "0.3", "file"],
    ], { cwd: folder.path });
    assertEquals(code, 1);
    assertMatch(stderr, /^file_client: .*no answer within 0\.3 s \(--timeout\)\n$/);
    assertMatch(stderr, /^file_client: 4 bytes kept in file\.part: /);
    assertEquals(names(folder.path), ["file.part"]);
    assertEquals(await Deno.readTextFile(`${folder.path}/file.part`), "some");
  },
});

Deno.test({
  name: "file_server says no to a client that goes on and on, and serves the next",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    await fill(folder.path, { a: "alpha" });
    await using server = start("file_server", ["--port", "0", folder.path]);
    const port = await server.port();
    using loud = new FramedConn(await Deno.connect({ port }));
    await loud.writeAll("x".repeat(1_000_000));
    assertEquals(await loud.readLine(), "ERROR request too long");
    using next = new FramedConn(await Deno.connect({ port }));
    await next.writeAll("GET a\n");
    assertEquals(text(await next.readToEnd(100)), "OK 5 of 5\r\nalpha");
  },
});

Deno.test({
  name: "files by a Unix socket, IPv6 and TLS",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    await fill(folder.path, { "root/a": octets(1_000_000) });
    for await (const { ask } of inEachForm("file_server", folder.path, [`${folder.path}/root`])) {
      const { code, stderr } = await run("file_client", [...ask, "a"], {
        cwd: folder.path,
      });
      assertEquals([code, stderr], [0, "file_client: received a, 1000000 bytes\n"]);
      assertSame(await Deno.readFile(`${folder.path}/a`), octets(1_000_000));
    }
  },
});
