/** The eight mail programs together, as the README has them. */
import { assertEquals, assertMatch, assertStringIncludes } from "@std/assert";
import { command, mayRun, Program, type Result, temporaryFolder } from "../helpers.ts";

const env = { MAIL_PASSWORD: "secret" };

async function run(name: string, permissions: string[], args: string[], stdin = "") {
  await using program = new Program([...command(name, permissions), ...args], { env });
  await program.type(stdin);
  await program.endInput();
  const { code, stdout, stderr }: Result = await program.ended();
  assertEquals(code, 0, stderr);
  return { stdout, stderr };
}

Deno.test({
  name: "a message with an attachment, from the builder to both readers",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    await using servers = new AsyncDisposableStack();
    const serve = async (name: string) => {
      const argv = [...command(name), `${folder.path}/mail`, "--port", "0"];
      return ["--port", `${await servers.use(new Program(argv, { env })).port()}`];
    };
    const [smtp, pop3, imap] = [
      await serve("smtp_server"),
      await serve("pop3_server"),
      await serve("imap_server"),
    ];
    const file = `${folder.path}/Entwürfe.txt`;
    await Deno.writeTextFile(file, "one\n.\ntwo\n");
    const envelope = ["--from", "ann@example.org", "--to", "bob@example.org"];

    const args = [...envelope, "--subject", "Grüße", "--attach", file];
    const built = await run("email_build", ["--allow-read"], args, "Hello, Bob.\n.\n");
    const sent = await run("smtp_client", [], [...smtp, ...envelope], built.stdout);
    assertMatch(sent.stderr, /^smtp_client: accepted for 1 of 1: 250 2\.0\.0 \d+ octets stored\n$/);

    const got = await run("pop3_client", [], [...pop3, "get", "1"]);
    assertEquals(got.stdout.replace(/^Return-Path: [^]*?(?=From: )/, ""), built.stdout);
    const read = await run("email_parse", [], [], got.stdout);
    assertMatch(read.stdout, /^Subject: Grüße$/m);
    assertMatch(read.stdout, /\nattachment: Entwürfe\.txt, text\/plain, 10 bytes\n/);
    assertMatch(read.stdout, /\n\nHello, Bob\.\n\.\n$/);

    assertMatch((await run("pop3_client", [], [...pop3, "list"])).stdout, /^ +1 .* Grüße\n$/);
    const line = /^ +1 +----- .* ann@example\.org {11}Grüße\n$/;
    for (const words of [["list"], ["search", "subject", "grüße", "unseen"]]) {
      assertMatch((await run("imap_client", [], [...imap, ...words])).stdout, line);
    }
    const shown = await run("imap_client", [], [...imap, "show", "1"]);
    assertStringIncludes(shown.stdout, "\n  2 text/plain 16 B Entwürfe.txt\n\nHello, Bob.\n.\n");

    await run("pop3_client", [], [...pop3, "delete", "1"]);
    const { stdout, stderr } = await run("imap_client", [], [...imap, "list"]);
    assertEquals([stdout, stderr], ["", "imap_client: nothing in INBOX\n"]);
  },
});
