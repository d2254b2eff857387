import { assert, assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { FramedConn } from "../../lib/framing.ts";
import { command, missing, type Program, run, screen, start, temporaryFolder } from "../helpers.ts";
import { assertLeft, onTerminal, startOnTerminal, testServer } from "./rig.ts";

const ignore = missing("python3");

/** What the screen shows once `pattern` has come, up to where the program ended if it has. */
async function shows(program: Program, pattern: RegExp): Promise<string[]> {
  await program.until(pattern);
  return screen(program.stdout);
}

/** A server that says a line when it is told to. */
function speaker() {
  const connected = Promise.withResolvers<FramedConn>();
  const server = testServer(async (conn) => {
    connected.resolve(conn);
    await conn.readToEnd(1e6); // until the client leaves
  });
  return { server, connected: connected.promise };
}

for (
  const [title, typed, shown, cursor] of [
    ["before one types", "", ["type message:"], 15],
    ["while one types", "half a li", ["type message: half a li"], 24],
    ["while one edits", "half\x1b[D\x1b[D", ["type message: half"], 17],
    ["into a line longer than the terminal is wide", "x".repeat(100), [
      `type message: ${"x".repeat(66)}`,
      "x".repeat(34),
    ], 35],
  ] as const
) {
  Deno.test({
    name: `chat_client: a message that comes ${title} leaves the line whole`,
    ignore,
    async fn() {
      const { server, connected } = speaker();
      await using _ = server;
      await using client = startOnTerminal("chat_client", ["--port", `${server.port}`]);
      await client.until(/type message: /);
      await client.type(typed);
      const [letters, ...moves] = typed.split("\x1b");
      await client.until(new RegExp(letters.slice(-9) + moves.map(() => ".\\[1D").join("")));
      const conn = await connected;
      for (const message of ["one", "two"]) {
        await conn.writeAll(`${message}\n`);
        const redrawn = `server: ${message}\\r\\n[^]*type message: ${letters}.\\[${cursor}G$`;
        await client.until(new RegExp(redrawn));
      }
      assertEquals(screen(client.stdout), [
        "Received from server: one",
        "Received from server: two",
        ...shown,
      ]);
    },
  });
}

Deno.test({
  name: "chat_client: q, Ctrl-D and Ctrl-C end it and give the terminal back",
  ignore,
  async fn() {
    for (const [keys, code] of [["q\r", 0], ["\x04", 0], ["typed\x03", 130]] as const) {
      const { server } = speaker();
      await using _ = server;
      await using client = startOnTerminal("chat_client", ["--port", `${server.port}`]);
      await client.until(/type message: /);
      await client.type(keys);
      await assertLeft(client, code);
      const lines = screen(client.stdout);
      assert(lines.includes(`exit ${code}`), `not on a line of its own: ${lines.slice(0, 3)}`);
    }
  },
});

Deno.test({
  name: "chat_client: a server that hangs up ends it, the terminal given back",
  ignore,
  async fn() {
    const { server, connected } = speaker();
    await using _ = server;
    await using client = startOnTerminal("chat_client", ["--port", `${server.port}`]);
    await client.until(/type message: /);
    await client.type("typed");
    await client.until(/typed/);
    (await connected).close();
    await assertLeft(client, 0);
    const lines = screen(client.stdout);
    assertEquals(lines.slice(0, 2), [
      "type message: typed",
      "chat_client: the server has ended the conversation",
    ]);
  },
});

Deno.test({
  name: "chat_server: prompts for an answer, and Ctrl-C at the prompt ends it",
  ignore,
  async fn() {
    await using server = startOnTerminal("chat_server", ["--port", "0"]);
    const [, port] = await server.until(/listening on .*:(\d+)\r\n/);
    await using client = start("chat_client", ["--port", port]);
    await client.type("hello\n");
    await server.until(/ from client: HELLO\r\n[^]*type message: /);
    await server.type("answ");
    await server.until(/answ/);
    await client.type("there?\n"); // held back until there is an answer
    await server.type("er\r");
    await client.until(/Received from server: answer\n/);
    const lines = await shows(server, / from client: THERE\?\r\n[^]*type message: [^]*G/);
    assertEquals(lines.map((line) => line.replace(/:\d+$/, ":PORT")), [
      "chat_server: listening on 127.0.0.1:PORT",
      "Connection from: 127.0.0.1:PORT",
      " from client: HELLO",
      "type message: answer",
      " from client: THERE?",
      "type message:",
    ]);
    client.signal("SIGKILL"); // else its conversation had its 5 s to end
    await client.ended();
    await server.type("\x03");
    await assertLeft(server, 0);
  },
});

Deno.test({
  name: "socketserver: asks for the reply on a terminal, and answers in capitals elsewhere",
  ignore,
  async fn() {
    await using server = startOnTerminal("socketserver", ["--port", "0"]);
    const [, port] = await server.until(/listening on .*:(\d+)\r\n/);
    const ask = run("socketserver_client", ["--port", port], { stdin: "hello\n" });
    await server.until(/ wrote:\r\nhello\r\n[^]*enter text \.\. /);
    await server.type("by hand\r");
    assertEquals((await ask).stdout, "Sent: hello\nReceived: by hand\n");
    await server.type("\x03");
    await assertLeft(server, 0);

    await using upper = startOnTerminal("socketserver", ["--port", "0", "--reply", "upper"]);
    const [, other] = await upper.until(/listening on .*:(\d+)\r\n/);
    const answer = await run("socketserver_client", ["--port", other], { stdin: "hello\n" });
    assertEquals(answer.stdout, "Sent: hello\nReceived: HELLO\n");
    await upper.type("\x03");
    await assertLeft(upper, 0);
  },
});

Deno.test({
  name: "socketserver_client: a prompt for each line, until Ctrl-D",
  ignore,
  async fn() {
    await using server = start("socketserver", ["--port", "0", "--reply", "upper"]);
    const args = ["--port", `${await server.port()}`];
    await using client = startOnTerminal("socketserver_client", args);
    for (const line of ["one", "two"]) {
      await client.until(/enter text \.\. \.[^r]*$/);
      await client.type(`${line}\r`);
      await client.until(new RegExp(`Received: ${line.toUpperCase()}\\r\\n[^]*enter text`));
    }
    await client.type("\x04");
    await assertLeft(client, 0);
    assertEquals(screen(client.stdout).slice(0, 6), [
      "enter text .. .one",
      "Sent: one",
      "Received: ONE",
      "enter text .. .two",
      "Sent: two",
      "Received: TWO",
    ]);
  },
});

Deno.test({
  name: "Ctrl-C ends a server and gives the terminal back",
  ignore,
  async fn() {
    await using folder = await temporaryFolder();
    for (
      const [name, ...args] of [
        ["daytime_server"],
        ["thanks_server"],
        ["chat_server"],
        ["socketserver"],
        ["file_server", folder.path],
        ["udp_echo"],
      ]
    ) {
      await using server = startOnTerminal(name, ["--port", "0", ...args]);
      await server.until(/listening on .*\r\n/);
      await server.type("\x03");
      await assertLeft(server, 0);
    }
  },
});

Deno.test({
  name: "file_client: a progress bar on a terminal, and none in a pipe",
  ignore,
  async fn() {
    await using folder = await temporaryFolder();
    await Deno.writeFile(`${folder.path}/file`, new Uint8Array(3_000_000));
    await using server = start("file_server", ["--port", "0", folder.path]);
    const args = ["--port", `${await server.port()}`, "file", "--output", `${folder.path}/got`];
    const piped = await run("file_client", args);
    const line = `file_client: received ${folder.path}/got, 3000000 bytes`;
    assertEquals(piped, { code: 0, stdout: "", stderr: `${line}\n` });

    await using client = startOnTerminal("file_client", args);
    await assertLeft(client, 0);
    const [bar, received] = screen(client.stdout);
    assertMatch(bar, /^█{20} 3 MB of 3 MB {2}[\d.]+ [kMG]?B\/s {2}0 s left$/);
    assertEquals(received, line);
    assertStringIncludes(client.stdout, `\r\x1b[K${"░".repeat(20)} 0 B of 3 MB`);
  },
});

/** A mail server that takes any password and message; what it hears. */
function mailServer() {
  const heard: string[] = [];
  const server = testServer(async (conn) => {
    await conn.writeAll("220 x\r\n");
    const replies = ["250-x\r\n250 AUTH PLAIN", "334", "235 in", "250 ok", "250 ok", "354 go"];
    for (const reply of replies) {
      heard.push(`${await conn.readLine()}`);
      await conn.writeAll(`${reply}\r\n`);
    }
    heard.push(new TextDecoder().decode(await conn.readDotLines(1000)));
    await conn.writeAll("250 kept\r\n");
  });
  return { server, heard };
}

/** Starts the mail client, which asks for a password. */
function startMail(port: number): Program {
  const args = ["--from", "a@b", "--to", "c@d", "--user", "ann", "--port", `${port}`];
  return onTerminal([...command("smtp_client", ["--allow-env=SMTP_PASSWORD"]), ...args]);
}

Deno.test({
  name: "smtp_client: the password is not shown, and the message is typed after it",
  ignore,
  async fn() {
    const { server, heard } = mailServer();
    await using _ = server;
    await using client = startMail(server.port);
    await client.until(/password: $/);
    await client.type("sécrex\x7ft\r");
    await client.until(/the text, then Ctrl-D\r\n/);
    await client.type("Subject: typed\r\rhello\r\x04");
    await assertLeft(client, 0);
    const utf8 = (text: string) => String.fromCharCode(...new TextEncoder().encode(text));
    assertEquals(heard[2], btoa(utf8("\0ann\0sécret")));
    assertEquals(heard.at(-1), "Subject: typed\r\n\r\nhello\r\n");
    assertEquals(screen(client.stdout).slice(0, 7), [
      "password:",
      "smtp_client: header fields, an empty line and the text, then Ctrl-D",
      "Subject: typed",
      "",
      "hello",
      "smtp_client: accepted for 1 of 1: 250 kept",
      "exit 0",
    ]);
  },
});

Deno.test({
  name: "smtp_client: Ctrl-C and Ctrl-D in place of a password end it and give the terminal back",
  ignore,
  async fn() {
    for (
      const [keys, code, line] of [
        ["\x03", 130, []],
        ["secr\x03", 130, []],
        ["\x04", 1, ["smtp_client: no password"]],
      ] as const
    ) {
      const { server, heard } = mailServer();
      await using _ = server;
      await using client = startMail(server.port);
      await client.until(/password: $/);
      await client.type(keys);
      await assertLeft(client, code);
      assertEquals(screen(client.stdout).slice(0, 2 + line.length), [
        "password:",
        ...line,
        `exit ${code}`,
      ]);
      assertEquals(heard, []);
    }
  },
});
