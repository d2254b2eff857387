import { assertEquals } from "@std/assert";
import { missing, Program, run, start } from "../helpers.ts";
import { output, python } from "./peers.ts";

for (const format of ["json", "xml"]) {
  Deno.test({
    name: `Python's struct and ${format} send our blocks_server messages, an octet at a time`,
    ignore: missing("python3"),
    async fn() {
      await using server = start("blocks_server", ["--port", "0", "--format", format]);
      const port = await server.port();
      assertEquals(
        await output(python("blocks.py", "ask", port, format)),
        "1 True\n2 True\n3 True\nend b''\n",
      );
      server.signal("SIGINT");
      const { code, stdout } = await server.ended();
      const list = format === "xml" ? '{ item: [ "a", "b" ] }' : '[ "a", "b" ]';
      const printed = ['"grüße €😀"', `{ list: ${list}, nested: { text: " <&> " } }`, '""'];
      assertEquals(code, 0);
      assertEquals(stdout.replace(/^127\.0\.0\.1:\d+: /gm, ""), printed.join("\n") + "\n");
    },
  });

  Deno.test({
    name: `our blocks_client sends Python's struct and ${format} messages, and takes its receipts`,
    ignore: missing("python3"),
    async fn() {
      await using peer = new Program(python("blocks.py", "serve", format));
      const messages = [
        "grüße €😀",
        '{"list": ["a", {"b": " <&>\'\\" "}], "n": 7}',
        "x".repeat(9000),
      ]
        .flatMap((message) => ["--message", message]);
      const args = ["--port", `${await peer.port()}`, "--format", format, ...messages];
      const { code, stdout, stderr } = await run("blocks_client", args);
      assertEquals([code, stderr, stdout.match(/octets/g)?.length], [0, "", 3]);
      const heard = await peer.ended();
      assertEquals([heard.code, heard.stderr.split("\n").length], [0, 2], heard.stderr);
      const n = format === "xml" ? '"7"' : "7";
      const second = `{"list": ["a", {"b": " <&>'\\" "}], "n": ${n}}`;
      assertEquals(heard.stdout, `"grüße €😀"\n${second}\n"${"x".repeat(9000)}"\n`);
    },
  });
}
