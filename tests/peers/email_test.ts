import { assert, assertEquals, assertMatch } from "@std/assert";
import { encodeBase64 } from "@std/encoding/base64";
import { attachments, outline, parseMessage } from "../../scripts/email_parse.ts";
import { missing, Program, run, temporaryFolder } from "../helpers.ts";
import { output, python } from "./peers.ts";

const READ = ["--allow-read"];

/** A message as `email_peer.py` tells of it; an attachment is name, type and base64. */
type Told = {
  headers: Record<string, string>;
  to: [name: string, address: string][];
  date: number; // seconds
  types: string[];
  bodies: Record<"plain" | "html", string | null>;
  attachments: [name: string | null, type: string, base64: string][];
  pictures: [id: string, name: string][];
  defects: string[];
};

Deno.test({
  name:
    "Python's email reads what email_build makes, and finds no other defect than one that is meant",
  ignore: missing("python3"),
  async fn() {
    await using folder = await temporaryFolder();
    const path = (name: string) => `${folder.path}/${name}`;
    const names = [
      "grüße 王.bin",
      'a "b" \\c;d=e.bin',
      `${"é".repeat(100)}.bin`,
      "plain.txt",
      "empty",
    ];
    const data = Uint8Array.from({ length: 100_000 }, (_, i) => i * i >> 3);
    for (const name of names) {
      await Deno.writeFile(path(name), name === "empty" ? new Uint8Array() : data);
    }
    await Deno.writeTextFile(path("page.html"), '<p>Grüße <img src="cid:logo.png">\n');
    await Deno.writeFile(path("logo.png"), data.subarray(0, 100));
    const text = `Grüße, Привет, ありがとう\n\n.\nFrom here\n${"long ".repeat(500)}\n`;
    await Deno.writeTextFile(path("text.txt"), text);
    const subject = `Grüße — ${"Привет ".repeat(30)}ありがとう 👩‍👩‍👧`;
    const who = ["--from", "Ann Löw <ann@example.test>", "--cc", "dora@bücher.test"];
    const to: Told["to"] = [["Lee, Bob", "bob@example.test"], ["王", "carl@c.test"], [
      "",
      "e.f@g.test",
    ]];
    const args = [
      ...[...who, ...to.flatMap(([name, address]) => ["--to", `${name} <${address}>`])],
      ...["--subject", subject, "--html", path("page.html"), "--inline", path("logo.png")],
      ...[...names.flatMap((name) => ["--attach", path(name)]), path("text.txt")],
    ];
    const { code, stdout, stderr } = await run("email_build", args, { permissions: READ });
    assertEquals([code, stderr], [0, ""]);
    await Deno.writeTextFile(path("m.eml"), stdout);
    const told: Told = JSON.parse(await output(python("email_peer.py", "read", path("m.eml"))));
    // MailComposer has each name twice: by RFC 2231, and in encoded words for those who know no better.
    const defects = told.defects.filter((defect) => !/encoded.word/.test(defect));
    assertEquals(defects, []);
    assertEquals([told.headers.subject, told.to], [subject, to]);
    assertEquals(told.headers.from, "Ann Löw <ann@example.test>");
    assertEquals(told.headers.cc, "dora@xn--bcher-kva.test");
    assert(Math.abs(told.date - Date.now() / 1000) < 60);
    assertEquals(told.types, [
      ...["multipart/mixed", "multipart/alternative", "text/plain", "multipart/related"],
      ...["text/html", "image/png", ...Array(3).fill("application/octet-stream")],
      ...["text/plain", "application/octet-stream"],
    ]);
    const [[id]] = told.pictures;
    assertEquals(told.bodies, {
      plain: text,
      html: `<p>Grüße <img src="cid:${id.slice(1, -1)}">\n`,
    });
    assertEquals(
      told.attachments.map(([name, , base64]) => [name, base64]),
      names.map((name) => [name, name === "empty" ? "" : encodeBase64(data)]),
    );
  },
});

Deno.test({
  name: "email_parse reads what Python's email makes",
  ignore: missing("python3"),
  async fn() {
    await using folder = await temporaryFolder();
    type Expected = Pick<Told, "attachments"> & { subject: string; text: string };
    const expected: Record<string, Expected> = JSON.parse(
      await output(python("email_peer.py", "write", folder.path)),
    );
    assertEquals(Object.keys(expected).length, 9);
    for (const [name, { subject, text, attachments: files }] of Object.entries(expected)) {
      const octets = await Deno.readFile(`${folder.path}/${name}.eml`);
      const message = await parseMessage(octets);
      assertEquals(message.headers.find(([key]) => key === "Subject")?.[1], subject, name);
      assertEquals(message.text.trimEnd(), text.trimEnd(), name);
      assertEquals(
        attachments(message.root).map(({ name, type, content }) => [
          name ?? null,
          type,
          encodeBase64(content),
        ]),
        files,
        name,
      );
      const args = ["--save", `${folder.path}/${name}`, `${folder.path}/${name}.eml`];
      const { code, stderr } = await run("email_parse", args, {
        permissions: ["--allow-read", "--allow-write"],
      });
      assertEquals([code, stderr], [0, ""], name);
      const saved = [...Deno.readDirSync(`${folder.path}/${name}`)]
        .map(({ name: file }) => encodeBase64(Deno.readFileSync(`${folder.path}/${name}/${file}`)));
      assertEquals(saved.sort(), files.map(([, , base64]) => base64).sort(), name);
    }
  },
});

Deno.test({
  name: "email_parse reads what mutt sends, a message of email_build in it",
  ignore: missing("mutt"),
  async fn() {
    await using folder = await temporaryFolder();
    const path = (name: string) => `${folder.path}/${name}`;
    const data = Uint8Array.from({ length: 5000 }, (_, i) => i * i >> 3);
    await Deno.writeFile(path('grüße "1".png'), data);
    const who = ["--from", "ann@example.test", "--to", "bob@example.test", "--subject", "inside"];
    const built = await run("email_build", [...who, "--attach", path('grüße "1".png')], {
      stdin: "Grüße\n",
      permissions: READ,
    });
    await Deno.writeTextFile(path("inner.eml"), built.stdout);
    await Deno.writeTextFile(path("sendmail"), `#!/bin/sh\ncat > '${path("sent.eml")}'\n`);
    await Deno.chmod(path("sendmail"), 0o755);
    const settings = [
      ...[`sendmail=${path("sendmail")}`, "sendmail_wait=0", "copy=no", "charset=utf-8"],
      ...["from=ann@example.test", "realname='Ann Löw'", "hostname=example.test"],
    ];
    await using mutt = new Program([
      ...["mutt", "-n", "-F", "/dev/null", "-e", `set ${settings.join(" ")}`, "-s", "Grüße — 王"],
      ...["-a", path('grüße "1".png'), path("inner.eml"), "--", "bob@example.test"],
    ], { env: { HOME: folder.path, LC_ALL: "C.UTF-8" } });
    await mutt.type("Grüße an Bob — 王\n");
    await mutt.endInput();
    const { code, stderr } = await mutt.ended();
    assertEquals(code, 0, stderr);
    const message = await parseMessage(await Deno.readFile(path("sent.eml")));
    const headers = Object.fromEntries(message.headers);
    assertEquals([headers.From, headers.Subject], ["Ann Löw <ann@example.test>", "Grüße — 王"]);
    assertEquals(message.text.trimEnd(), "Grüße an Bob — 王");
    assertMatch(
      outline(message.root).join("\n"),
      new RegExp(`^multipart/mixed
  text/plain; charset=utf-8, \\d+ bytes
  image/png, 5000 bytes, grüße "1".png
  message/rfc822, \\d+ bytes, inner.eml
    multipart/mixed
      text/plain; charset=utf-8, 8 bytes
      image/png, 5000 bytes, grüße "1".png$`),
    );
    const [picture, inner] = attachments(message.root);
    assertEquals(picture.content, data);
    assertEquals(
      new TextDecoder().decode(inner.content),
      built.stdout.replaceAll("\r\n", "\n"),
    );
  },
});
