import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { Maildir, type Message } from "../../lib/maildir.ts";
import { mayRun, temporaryFolder } from "../helpers.ts";
import { latin1, octets } from "./wire.ts";

const ignore = !mayRun;
const NAME = /^\d+\.M\d+P\d+R[0-9a-f]{8}\.localhost,S=\d+,W=\d+$/;

async function names(path: string): Promise<string[]> {
  const entries = await Array.fromAsync(Deno.readDir(path));
  return entries.map(({ name }) => name);
}

async function readAll(maildir: Maildir): Promise<string[]> {
  return await Promise.all(
    (await maildir.list()).map(async (message) => latin1(await maildir.read(message))),
  );
}

Deno.test({ name: "a Maildir is its owner's alone", ignore }, async () => {
  await using folder = await temporaryFolder();
  await Maildir.open(`${folder.path}/a/b`);
  for (const name of ["", "/tmp", "/new", "/cur"]) {
    const { mode } = await Deno.stat(`${folder.path}/a/b${name}`);
    assertEquals(mode && mode & 0o777, 0o700);
  }
  const maildir = await Maildir.open(`${folder.path}/a/b`); // there already
  await maildir.deliver(octets("x"));
  const { mode } = await Deno.stat(`${folder.path}/a/b/new/${(await maildir.list())[0].name}`);
  assertEquals(mode && mode & 0o777, 0o600);
});

Deno.test({ name: "lines end with LF on disk and with CRLF on the wire", ignore }, async () => {
  await using folder = await temporaryFolder();
  const maildir = await Maildir.open(folder.path);
  for (
    const [sent, stored, wire] of [
      ["a\r\nb\r\n", "a\nb\n", "a\r\nb\r\n"],
      ["a\nb\r\nc", "a\nb\nc", "a\r\nb\r\nc"],
      ["\r\n\n\r\r\n\r", "\n\n\r\n\r", "\r\n\r\n\r\n\r"],
      ["", "", ""],
      ["\xff\0\n", "\xff\0\n", "\xff\0\r\n"],
    ]
  ) {
    const message = await maildir.deliver(octets(sent));
    assertMatch(message.name, NAME);
    const path = `${folder.path}/new/${message.name}`;
    assertEquals(latin1(await Deno.readFile(path)), stored);
    assertEquals(latin1(await maildir.read(message)), wire);
    assertEquals(await maildir.size(message), wire.length);
    await maildir.remove(message);
  }
  assertEquals(await maildir.list(), []);
  assertEquals(await names(`${folder.path}/tmp`), []);
});

Deno.test({ name: "messages are listed as they arrived", ignore }, async () => {
  await using folder = await temporaryFolder();
  const maildir = await Maildir.open(folder.path);
  const texts = Array.from({ length: 100 }, (_, i) => `message ${i}`);
  for (const text of texts) await maildir.deliver(octets(text));
  assertEquals(await readAll(maildir), texts);
  // Names as other programs give them: no microseconds, not of one width, nothing at all.
  await Deno.writeTextFile(`${folder.path}/cur/1000.V8I2.host:2,RS`, "old");
  await Deno.writeTextFile(`${folder.path}/cur/1000.M5P1.host`, "later in that second");
  await Deno.writeTextFile(`${folder.path}/new/999.M999999P1.host`, "older");
  await Deno.writeTextFile(`${folder.path}/new/.hidden`, "none");
  await Deno.symlink("/etc/passwd", `${folder.path}/new/1001.link`);
  await Deno.mkdir(`${folder.path}/cur/1002.folder`);
  assertEquals((await readAll(maildir)).slice(0, 4), [
    "older",
    "old",
    "later in that second",
    "message 0",
  ]);
  const [, old] = await maildir.list();
  assertEquals(old, {
    name: "1000.V8I2.host",
    file: "cur/1000.V8I2.host:2,RS",
    flags: "RS",
    isNew: false,
  });
  assertEquals(await maildir.size(old), 3);
});

Deno.test({ name: "many deliveries at once, each by a name of its own", ignore }, async () => {
  await using folder = await temporaryFolder();
  const maildir = await Maildir.open(folder.path);
  const texts = Array.from({ length: 500 }, (_, i) => `message ${i}`);
  const delivered = await Promise.all(texts.map((text) => maildir.deliver(octets(text))));
  assertEquals(new Set(delivered.map(({ name }) => name)).size, 500);
  assertEquals((await readAll(maildir)).toSorted(), texts.toSorted());
});

Deno.test(
  { name: "flags are in the name, and a message that has some is not new", ignore },
  async () => {
    await using folder = await temporaryFolder();
    const maildir = await Maildir.open(folder.path);
    const message = await maildir.deliver(octets("x"));
    assertEquals([message.flags, message.isNew], ["", true]);
    await maildir.setFlags(message, "FS");
    assertEquals([message.flags, message.isNew], ["FS", false]);
    assertEquals(await names(`${folder.path}/cur`), [`${message.name}:2,FS`]);
    assertEquals(await names(`${folder.path}/new`), []);
    assertEquals(await maildir.list(), [message]);
    await maildir.setFlags(message, "");
    assertEquals([message.flags, message.isNew], ["", false]);
    assertEquals(await maildir.list(), [message]);
    const received = new Date("2020-02-29T12:00:00Z");
    const draft = await maildir.deliver(octets("y"), { flags: "D", received });
    assertEquals([draft.flags, draft.isNew], ["D", false]);
    assertEquals(await maildir.received(draft), received);
  },
);

Deno.test(
  { name: "what another program has moved is found, and what is gone is not", ignore },
  async () => {
    await using folder = await temporaryFolder();
    const [ours, others] = [await Maildir.open(folder.path), new Maildir(folder.path)];
    const message = await ours.deliver(octets("x\n"));
    const theirs: Message = { ...message };
    await others.setFlags(theirs, "S");
    assertEquals(latin1(await ours.read(message)), "x\r\n");
    assertEquals(message, theirs);
    await others.setFlags(theirs, "RS");
    await ours.setFlags(message, "T");
    assertEquals(await ours.list(), [message]);
    await others.remove(theirs);
    await assertRejects(() => ours.read(message), Deno.errors.NotFound);
    await assertRejects(() => ours.setFlags(message, "S"), Deno.errors.NotFound);
    await ours.remove(message);
  },
);

Deno.test({ name: "of a delivery that fails nothing is left", ignore }, async () => {
  await using folder = await temporaryFolder();
  const maildir = await Maildir.open(folder.path);
  await Deno.remove(`${folder.path}/new`);
  await assertRejects(() => maildir.deliver(octets("x")), Deno.errors.NotFound);
  assertEquals(await names(`${folder.path}/tmp`), []);
  await Deno.mkdir(`${folder.path}/new`);
  await maildir.deliver(octets("x")); // one that failed does not stop the next
});

Deno.test({ name: "what was left half-written goes after a day and a half", ignore }, async () => {
  await using folder = await temporaryFolder();
  await Maildir.open(folder.path);
  await Deno.writeTextFile(`${folder.path}/tmp/old`, "");
  await Deno.writeTextFile(`${folder.path}/tmp/young`, "");
  const hours = (n: number) => new Date(Date.now() - n * 3600_000);
  await Deno.utime(`${folder.path}/tmp/old`, hours(37), hours(37));
  await Deno.utime(`${folder.path}/tmp/young`, hours(35), hours(35));
  await Maildir.open(folder.path);
  assertEquals(await names(`${folder.path}/tmp`), ["young"]);
});

Deno.test({ name: "a Maildir is opened while others deliver to it", ignore }, async () => {
  await using folder = await temporaryFolder();
  const maildir = await Maildir.open(folder.path);
  const texts = Array.from({ length: 200 }, (_, i) => `message ${i}`);
  const delivered = Promise.all(texts.map((text) => maildir.deliver(octets(text))));
  for (let i = 0; i < 20; i++) await Maildir.open(folder.path);
  await delivered;
});

Deno.test({ name: "10,000 messages are in the order of their numbers", ignore }, async () => {
  await using folder = await temporaryFolder();
  const maildir = await Maildir.open(folder.path);
  for (let i = 0; i < 10_000; i++) {
    Deno.writeFileSync(`${folder.path}/cur/${i}.M${i}P1R1.localhost,S=1,W=1:2,S`, octets("x"));
  }
  const messages = await maildir.list();
  assertEquals(messages.length, 10_000);
  assert(messages.every(({ name }, i) => parseInt(name) === i));
});
