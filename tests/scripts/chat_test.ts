import { assertEquals, assertMatch } from "@std/assert";
import { FramedConn } from "../../lib/framing.ts";
import { chat as chatAsClient } from "../../scripts/chat_client.ts";
import { chat as chatAsServer } from "../../scripts/chat_server.ts";
import { mayConnect, mayRun, missing, pair, run, start, temporaryFolder } from "../helpers.ts";
import { FILES, inEachForm, testServer } from "./rig.ts";

/** Somebody at a terminal: `type` types a line, null ends the input; `printed` waits for lines. */
class Person {
  readonly lines: string[] = [];
  readonly prompts: string[] = [];
  readonly interactive = true;
  readonly #typed: (string | null)[] = [];
  #wake = () => {};
  #notice = () => {};

  print = (line: string): void => {
    this.lines.push(line);
    this.#notice();
  };

  readLine = async (prompt: string): Promise<string | null> => {
    this.prompts.push(prompt);
    while (this.#typed.length === 0) await new Promise<void>((resolve) => this.#wake = resolve);
    return this.#typed.shift() ?? null;
  };

  type(...lines: (string | null)[]): void {
    this.#typed.push(...lines);
    this.#wake();
  }

  async printed(count: number): Promise<string[]> {
    while (this.lines.length < count) await new Promise<void>((resolve) => this.#notice = resolve);
    return this.lines;
  }
}

Deno.test({
  name: "chat: each side prints what the other types, in any order, and q ends it",
  ignore: !mayConnect,
  async fn() {
    const { near, far } = await pair();
    const [operator, user] = [new Person(), new Person()];
    const served = chatAsServer(operator)(near).then(() => near.close());
    const client = new FramedConn(far);
    const ended = chatAsClient(client, user, 1000);

    user.type("hello", "are you there?"); // two before there is an answer
    assertEquals(await operator.printed(3), [
      `Connection from: ${near.peer}`,
      " from client: HELLO",
      " from client: ARE YOU THERE?",
    ]);
    operator.type("yes");
    assertEquals(await user.printed(1), ["Received from server: yes"]);
    user.type("grüße \x1b[2J");
    assertEquals((await operator.printed(4))[3], " from client: GRÜSSE \\x1b[2J");
    operator.type("\u202eevil");
    assertEquals((await user.printed(2))[1], "Received from server: \\u202eevil");
    user.type("q");
    assertEquals(await ended, "client");
    client.close();
    await served;
    assertEquals(new Set([...operator.prompts, ...user.prompts]), new Set(["type message: "]));
  },
});

Deno.test({
  name: "chat: the operator sees a client leave, and what is typed for nobody goes nowhere",
  ignore: !mayConnect,
  async fn() {
    const operator = new Person();
    const serve = chatAsServer(operator);
    for (const [answer, lines] of [["for you", 3], ["for you, too", 7]] as const) {
      const { near, far } = await pair();
      using client = new FramedConn(far);
      const served = serve(near).then(() => near.close());
      await client.writeAll("hi\n");
      await operator.printed(lines - 1);
      operator.type(answer);
      assertEquals(await client.readLine(), answer);
      await far.closeWrite();
      await served;
      await operator.printed(lines);
      operator.type("too late");
      await operator.printed(lines + 1);
    }
    const conversation = [
      "Connection from: 127.0.0.1:",
      " from client: HI",
      "Connection closed: 127.0.0.1:",
      "Nobody is connected, this was not sent.",
    ];
    assertEquals(
      operator.lines.map((line) => line.replace(/\d+$/, "")),
      [...conversation, ...conversation],
    );
  },
});

Deno.test({
  name: "chat: a client of a pipe holds a line back until the one before is answered, for a time",
  ignore: !mayConnect,
  async fn() {
    const said: string[] = [];
    await using server = testServer(async (conn) => {
      for (let line; (line = await conn.readLine()) !== null;) {
        said.push(line);
        if (line !== "one") await conn.writeAll(`${said.length}\n`);
      }
    });
    const user = Object.assign(new Person(), { interactive: false });
    using conn = new FramedConn(await Deno.connect({ port: server.port }));
    user.type("one", "two", "three", null);
    assertEquals(await chatAsClient(conn, user, 100), "client");
    assertEquals(said, ["one", "two", "three"]);
    assertEquals(user.lines, ["Received from server: 2", "Received from server: 3"]);
  },
});

Deno.test({
  name: "chat_server and chat_client: one conversation, and then the next",
  ignore: !mayRun,
  async fn() {
    await using server = start("chat_server", ["--port", "0"]);
    const port = `${await server.port()}`;
    await using first = start("chat_client", ["--port", port]);
    await first.type("first\n");
    await server.until(/^Connection from: 127\.0\.0\.1:\d+\n from client: FIRST\n/);
    using second = new FramedConn(await Deno.connect({ port: Number(port) }));
    await second.writeAll("second\n");
    for (const words of ["one", "two"]) {
      await server.type(`${words}\n`);
      await first.until(new RegExp(`Received from server: ${words}\n$`));
      await first.type(`after ${words}\n`);
      await server.until(new RegExp(` from client: AFTER ${words}\n$`, "i")); // not from the second
    }
    assertEquals(server.stdout.match(/Connection from: /g)?.length, 1);
    await server.type("bye\n");
    await first.type("q\n");
    assertEquals(await first.ended(), {
      code: 0,
      stdout: ["one", "two", "bye"].map((words) => `Received from server: ${words}\n`).join(""),
      stderr: "",
    });
    await server.until(/Connection from: .*\n from client: SECOND\n$/);
    await server.type("to the second\n");
    assertEquals(await second.readLine(), "to the second");
    second.close();
    await server.until(/(Connection closed: [^]*){2}/);

    server.signal("SIGINT");
    const { code: end, stderr } = await server.ended();
    assertEquals([end, stderr], [0, `chat_server: listening on 127.0.0.1:${port}\n`]);
  },
});

Deno.test({
  name: "chat_server at the end of its input listens on without replies",
  ignore: !mayRun,
  async fn() {
    await using server = start("chat_server", ["--port", "0"]);
    await server.endInput();
    const port = await server.port();
    for (const name of ["one", "two"]) {
      using conn = new FramedConn(await Deno.connect({ port }));
      await conn.writeAll(`${name}\n`);
      await server.until(new RegExp(` from client: ${name}\n`, "i"));
      await conn.writeAll(`${name} again\n`);
      await server.until(new RegExp(` from client: ${name} again\n`, "i"));
      await conn.conn.closeWrite();
      assertEquals(await conn.readLine(), null);
    }
  },
});

Deno.test({
  name: "chat_server takes a message without a line's end, and outlives rude clients",
  ignore: !mayRun,
  async fn() {
    await using server = start("chat_server", ["--port", "0"]);
    const port = await server.port();
    const client = async () => new FramedConn(await Deno.connect({ port }));
    {
      using loud = await client();
      await loud.writeAll("x".repeat(70_000));
      await server.until(/: message of more than 65536 bytes$/m, "stderr");
      assertEquals(await loud.readLine(), null);
    }
    {
      using rude = await client();
      await rude.writeAll("half a mess"); // and resets, as not all is read
    }
    using python = await client();
    await python.writeAll("no line's end");
    await server.until(/ from client: NO LINE'S END\n/);
    await server.type("so what\n");
    assertEquals(await python.readLine(), "so what");
  },
});

Deno.test({
  name: "chat_client says that the server has ended the conversation",
  ignore: !mayRun,
  async fn() {
    await using server = testServer(async (conn) => {
      await conn.readLine();
      await conn.writeAll("bye"); // one message with its connection
    });
    await using client = start("chat_client", ["--port", `${server.port}`]);
    await client.type("hello\n");
    assertEquals(await client.ended(), {
      code: 0,
      stdout: "Received from server: bye\n",
      stderr: "chat_client: the server has ended the conversation\n",
    });
  },
});

Deno.test({
  name: "chat by a Unix socket, IPv6 and TLS",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const who: Record<string, RegExp> = {
      plain: /^Connection from: 127\.0\.0\.1:\d+\n/,
      IPv6: /^Connection from: \[::1\]:\d+\n/,
      Unix: /^Connection from: unix:\(unnamed\)\n/,
      TLS: /^Connection from: 127\.0\.0\.1:\d+\n/,
    };
    for await (const { form, server, ask } of inEachForm("chat_server", folder.path)) {
      await server.type("answer\n");
      const stdin = "question\n";
      const result = await run("chat_client", ask, { stdin, permissions: FILES });
      assertEquals(result, { code: 0, stdout: "Received from server: answer\n", stderr: "" });
      assertMatch(server.stdout, who[form]);
    }
  },
});
