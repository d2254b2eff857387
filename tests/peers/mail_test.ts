/** Mail that our server has stored, read by our clients from Dovecot. */
import { assertEquals, assertMatch } from "@std/assert";
import { command, missing, Program, run, temporaryFolder } from "../helpers.ts";
import { startDovecot } from "./dovecot.ts";

const [user, password] = ["mail", "secret"];

Deno.test({
  name: "what smtp_server stores, pop3_client and imap_client read from dovecot",
  ignore: missing("dovecot"),
  async fn() {
    await using folder = await temporaryFolder();
    await using dovecot = await startDovecot(folder.path, { user, password });
    await using server = new Program([...command("smtp_server"), dovecot.maildir, "--port", "0"]);
    const envelope = ["--from", "ann@example.org", "--to", "bob@example.org"];
    const message = "Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\n\nHello, Bob.\n.\n";
    const args = ["--port", `${await server.port()}`, ...envelope];
    const { code, stderr } = await run("smtp_client", args, { stdin: message });
    assertEquals(code, 0, stderr);

    const read = async (name: string, port: number, ...args: string[]) => {
      const argv = [...command(name), "--port", `${port}`, ...args];
      await using program = new Program(argv, { env: { MAIL_PASSWORD: password } });
      const { code, stdout, stderr } = await program.ended();
      assertEquals([code, stderr], [0, ""]);
      return stdout;
    };
    assertMatch(await read("pop3_client", dovecot.pop3), /^ +1 .* Grüße\n$/);
    const got = await read("pop3_client", dovecot.pop3, "get", "1");
    assertMatch(got, /^Return-Path: <ann@example\.org>\r\nDelivered-To: bob@example\.org\r\n/);
    assertEquals(got.replace(/^[^]*(?=Subject: )/, ""), message.replaceAll("\n", "\r\n"));
    assertMatch(await read("imap_client", dovecot.imap, "list"), /^ +1 .* Grüße\n$/);
    assertMatch(await read("imap_client", dovecot.imap, "show", "1"), /\n\nHello, Bob\.\n\.\n$/);
  },
});
