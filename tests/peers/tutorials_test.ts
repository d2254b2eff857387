import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { join } from "@std/path";
import { mayRun, missing, Program, run, start, temporaryFolder } from "../helpers.ts";
import { DAYTIME, finish, here, python } from "./peers.ts";

/** The tutorials themselves, which are not in the repository but beside it where CI runs. */
const TUTORIALS = here("../../../shared/tutorials");
/** By what words to know the listings of tutorial 003, and the port that each has. */
const LISTINGS: Record<string, [words: RegExp, port: string]> = {
  "chat_server": [/upper\(\)/, "5001"],
  "chat_client": [/Received from server/, "5001"],
  "file_server": [/test\.txt/, "5001"],
  "file_client": [/recv\.txt/, "5001"],
  "socketserver_server": [/BaseRequestHandler|serve_forever/, "9999"],
  "socketserver_client": [/enter text \.\. \./, "9999"],
};
const BYTES = Uint8Array.from({ length: 100_001 }, (_, i) => i * i >> 3);

/** Gives the command that runs a program of the tutorials on a port. */
type Theirs = (name: string, port: number) => string[];

/** The programs as this project understood them, which take their port as an argument. */
const retold: Theirs = (name, port) => python("announce.py", here(`tutorials/${name}.py`), port);

/** Writes the listings into a folder, unchanged but for the port. */
function listings(folder: string): Theirs {
  const [file] = [...Deno.readDirSync(TUTORIALS)].filter(({ name }) => name.startsWith("003_"));
  const tutorial = Deno.readTextFileSync(join(TUTORIALS, file.name));
  const blocks = [...tutorial.matchAll(/^```py\n(.*?)^```/gms)].map(([, text]) => text);
  return (name, port) => {
    const [words, fixed] = LISTINGS[name];
    const pieces = blocks.filter((block) => words.test(block)).join("").split(fixed);
    assertEquals(pieces.length, 2, `${name}: one listing with its port in one place`);
    Deno.writeTextFileSync(`${folder}/${name}.py`, pieces.join(`${port}`));
    return python("announce.py", `${folder}/${name}.py`);
  };
}

/** A test of one program of theirs and one of ours, with their programs told and listed. */
function both(name: string, test: (theirs: Theirs, folder: string) => Promise<void>) {
  const ignore = missing("python3");
  for (const listed of [false, true]) {
    Deno.test({
      name: `${name} (${listed ? "the listings" : "retold"})`,
      ignore: ignore || listed && !(mayRun && isFolder(TUTORIALS)),
      async fn() {
        await using folder = await temporaryFolder();
        await test(listed ? listings(folder.path) : retold, folder.path);
      },
    });
  }
}

function isFolder(path: string): boolean {
  try {
    return Deno.statSync(path).isDirectory;
  } catch {
    return false;
  }
}

both("the tutorials' chat clients talk to our chat server, one after the other", async (theirs) => {
  await using server = start("chat_server", ["--port", "0"]);
  const port = await server.port();
  for (const who of ["first", "second"]) {
    await using client = new Program(theirs("chat_client", port));
    await client.type(`${who}: grüß dich\n`);
    await server.until(
      new RegExp(`^Connection from: 127.+\n from client: ${who.toUpperCase()}: GRÜSS DICH$`, "m"),
    );
    await server.type(`hello ${who}\n`);
    await client.until(new RegExp(`Received from server: hello ${who}`));
    await client.type(`${who} again\n`);
    await server.until(new RegExp(`^ from client: ${who.toUpperCase()} AGAIN$`, "m"));
    await server.type(`goodbye ${who}\n`);
    await client.until(new RegExp(`Received from server: goodbye ${who}`));
    await client.type("q\n");
    assertEquals((await client.ended()).code, 0);
  }
});

both("our chat client talks to the tutorials' chat server", async (theirs) => {
  await using server = new Program(theirs("chat_server", 0));
  await using client = start("chat_client", ["--port", `${await server.port()}`]);
  for (const n of [1, 2]) {
    await client.type(`grüß dich ${n}\n`);
    await server.until(new RegExp(` from client:  ?GRÜSS DICH ${n}`));
    await server.type(`hello ${n}\n`);
    await client.until(new RegExp(`^Received from server: hello ${n}$`, "m"));
  }
  await client.type("q\n");
  const [ours, other] = await Promise.all([client.ended(), server.ended()]);
  assertEquals([ours.code, ours.stderr, other.code], [0, "", 0]);
});

both("the tutorials' file client takes a file from our server, twice", async (theirs, folder) => {
  await Deno.writeFile(`${folder}/any.bin`, BYTES);
  await using server = start("file_server", ["--port", "0", `${folder}/any.bin`]);
  const argv = theirs("file_client", await server.port());
  for (const _ of [1, 2]) {
    const { code, stdout, stderr } = await finish(argv, { cwd: folder });
    assertEquals([code, stderr], [0, ""]);
    assertStringIncludes(stdout, "Successfully received");
    assertEquals(await Deno.readFile(`${folder}/recv.txt`), BYTES);
    await Deno.remove(`${folder}/recv.txt`);
  }
});

both("our file client takes the tutorials' file", async (theirs, folder) => {
  await Deno.writeFile(`${folder}/test.txt`, BYTES);
  await using server = new Program(theirs("file_server", 0), { cwd: folder });
  const ours = await run("file_client", ["--port", `${await server.port()}`], { cwd: folder });
  assertEquals(ours.code, 0, ours.stderr);
  assertEquals(await Deno.readFile(`${folder}/recv.txt`), BYTES);
  const other = await server.ended();
  assertEquals(other.code, 0, other.stderr);
  assertStringIncludes(other.stdout, "File transferred");
});

both("the tutorials' socketserver client is answered by our operator", async (theirs) => {
  await using server = start("socketserver", ["--port", "0", "--reply", "prompt"]);
  await using client = new Program(theirs("socketserver_client", await server.port()));
  for (const n of [1, 2]) {
    await client.type(`question ${n}\n`);
    await server.until(new RegExp(`^127\\.0\\.0\\.1:\\d+ wrote:\nquestion ${n}$`, "m"));
    await server.type(`answer ${n}\n`);
    await client.until(new RegExp(`Received:  ?answer ${n}`));
  }
});

both("the tutorials' socketserver client is answered in capitals", async (theirs) => {
  await using server = start("socketserver", ["--port", "0", "--reply", "upper"]);
  // At the end of its input it fails, connected once more: all that is no harm.
  const argv = theirs("socketserver_client", await server.port());
  for (const word of ["one", "two"]) {
    const { stdout } = await finish(argv, { stdin: `${word}\n` });
    assertStringIncludes(stdout, `Sent: ${word}\nReceived: ${word.toUpperCase()}\n`);
  }
});

both("our socketserver client is answered by the tutorials' server", async (theirs) => {
  await using server = new Program(theirs("socketserver_server", 0));
  await using client = start("socketserver_client", ["--port", `${await server.port()}`]);
  for (const n of [1, 2]) {
    await client.type(`question ${n}\n`);
    await server.until(new RegExp(`127\\.0\\.0\\.1:\\d+ wrote:\nquestion ${n}\n`));
    await server.type(`answer ${n}\n`);
    await client.until(new RegExp(`^Sent: question ${n}\nReceived: answer ${n}$`, "m"));
  }
  await client.endInput();
  const { code, stderr } = await client.ended();
  assertEquals([code, stderr], [0, ""]);
});

for (
  const [name, said] of [["thanks", /^Thank you for connecting\n$/], ["daytime", null]] as const
) {
  Deno.test({
    name: `${name} as the tutorials describe it, their client with our server and the reverse`,
    ignore: missing("python3"),
    async fn() {
      await using ours = start(`${name}_server`, ["--port", "0"]);
      await using theirs = new Program(retold(`${name}_server`, 0));
      for (const _ of [1, 2]) {
        const mine = await run(`${name}_client`, ["--port", `${await theirs.port()}`]);
        assertMatch(mine.stdout, said ?? /^\w{3} \w{3} .* \d{4}\n$/);
        assertEquals([mine.code, mine.stderr], [0, ""]);
        const other = await finish(retold(`${name}_client`, await ours.port()));
        assertMatch(other.stdout.replace(/\s*$/, "\n"), said ?? DAYTIME);
        assertEquals([other.code, other.stderr], [0, ""]);
      }
      if (name === "thanks") assert(theirs.stdout.includes("Got connection from"));
    },
  });
}
