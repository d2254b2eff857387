import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { delay } from "@std/async/delay";
import { type Folder, Folders, Maildir, type Message } from "../../lib/maildir.ts";
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

/** The messages of a folder: text and number. */
async function numbered(folder: Folder): Promise<[text: string, uid: number][]> {
  await folder.refresh();
  return await Promise.all(folder.messages.map(async (message) => {
    return [latin1(await folder.read(message)), message.uid] as [string, number];
  }));
}

Deno.test({ name: "numbers survive, and none is given twice", ignore }, async () => {
  await using home = await temporaryFolder();
  const maildir = await Maildir.open(home.path);
  for (const text of ["a", "b", "c"]) await maildir.deliver(octets(text));
  let validity = 0;
  for (
    const expected of [[["a", 1], ["b", 2], ["c", 3]], [["a", 1], ["b", 2]], [["a", 1], ["d", 4]]]
  ) {
    const folders = await Folders.open(home.path);
    const inbox = await folders.get("INBOX");
    assertEquals(await folders.get("INBOX"), inbox);
    assertEquals(await numbered(inbox) as unknown, expected);
    assert(inbox.uidNext >= 4 && inbox.uidValidity === (validity ||= inbox.uidValidity));
    const last = inbox.messages[inbox.messages.length - 1];
    if (expected.length === 3) await inbox.expunge([last]); // the largest number
    else { // while nobody looks, and what comes has the number after
      await maildir.remove(last);
      await maildir.deliver(octets("d"));
    }
    folders.close();
  }
});

Deno.test(
  { name: "a folder is seen by all as whoever has changed it left it", ignore },
  async () => {
    await using home = await temporaryFolder();
    const folders = await Folders.open(home.path);
    const [inbox, others] = [await folders.get("INBOX"), new Maildir(home.path)];
    const delivered = [
      await inbox.deliver(octets("a")),
      await inbox.deliver(octets("b"), { flags: "S" }),
    ];
    await inbox.refresh(); // somebody looks before they are numbered
    const [a, b] = await inbox.number(delivered);
    assertEquals([a.uid, b.uid, a.isNew, b.isNew], [1, 2, true, true]);
    const [theirA, theirB] = await others.list();
    await others.setFlags(theirA, "F");
    await others.remove(theirB);
    await others.deliver(octets("c"));
    assertEquals(await numbered(inbox), [["a", 1], ["c", 3]]);
    assertEquals([inbox.messages[0] === a, a.flags, b.gone], [true, "F", true]);
    await Promise.all(
      [..."STRD"].map((flag) => inbox.setFlags(a, (now) => [...now, flag].sort().join(""))),
    );
    assertEquals((await others.list())[0].flags, "DFRST");
    await assertRejects(() => inbox.read(b), Deno.errors.NotFound);
    folders.close();
  },
);

Deno.test(
  { name: "a message that is renamed while others look is never gone", ignore },
  async () => {
    await using home = await temporaryFolder();
    const folders = await Folders.open(home.path);
    const inbox = await folders.get("INBOX");
    // More than the system lists at once.
    for (let i = 0; i < 2000; i++) Deno.writeFileSync(`${home.path}/cur/${i}.host:2,`, octets("x"));
    await inbox.refresh();
    const before = [...inbox.messages];
    let done = false;
    const renaming = (async () => {
      for (let i = 0; !done; i++) {
        const [path, flags] = [`${home.path}/cur/${i % 2000}.host:2,`, ["", "S"]];
        if (i % 4000 >= 2000) flags.reverse();
        Deno.renameSync(path + flags[0], path + flags[1]); // while the system lists
        if (i % 20 === 0) await delay(0);
      }
    })();
    const delivering = Promise.all(Array.from({ length: 15 }, async (_, i) => {
      const [message] = await inbox.number([await inbox.deliver(octets(`new ${i}`))]);
      await inbox.refresh();
      return message.uid;
    }));
    const uids = await delivering;
    done = true;
    await renaming;
    assertEquals(uids.toSorted((a, b) => a - b), Array.from({ length: 15 }, (_, i) => 2001 + i));
    assert(before.every((message, i) => inbox.messages[i] === message && !message.gone));
    folders.close();
  },
);

Deno.test(
  { name: "who watches a folder is told of changes, those by others too", ignore },
  async () => {
    await using home = await temporaryFolder();
    const folders = await Folders.open(home.path);
    const [inbox, others] = [await folders.get("INBOX"), new Maildir(home.path)];
    const told = () => {
      const { promise, resolve } = Promise.withResolvers<void>();
      const unwatch = inbox.watch(resolve);
      return promise.finally(unwatch);
    };
    const [one, two] = [told(), told()];
    await others.deliver(octets("x"));
    await Promise.all([one, two]);
    const [message] = inbox.messages;
    const flagged = told();
    await inbox.setFlags(message, "F");
    await flagged;
    const removed = told();
    await others.remove(message);
    await removed;
    assertEquals([message.gone, inbox.messages], [true, []]);
    const gone = told();
    await Deno.remove(`${home.path}/cur`, { recursive: true });
    await gone;
    await assertRejects(() => inbox.refresh(), Deno.errors.NotFound);
    folders.close();
  },
);

Deno.test(
  { name: "folders are made, renamed and deleted, and those below stay", ignore },
  async () => {
    await using home = await temporaryFolder();
    const folders = await Folders.open(home.path);
    for (const name of ["Work.2024", "Work", "Workshop"]) await folders.create(name);
    await Deno.stat(`${home.path}/.Work.2024/maildirfolder`);
    assertEquals(await folders.names(), ["INBOX", "Work", "Work.2024", "Workshop"]);
    const [work, below] = [await folders.get("Work"), await folders.get("Work.2024")];
    const [message] = await below.number([await below.deliver(octets("x"))]);
    await folders.rename("Work", "Old.Work");
    assertEquals(await folders.names(), ["INBOX", "Old.Work", "Old.Work.2024", "Workshop"]);
    assertEquals(await folders.get("Old.Work.2024"), below);
    assertEquals(latin1(await below.read(message)), "x");
    await folders.delete("Old.Work");
    assertEquals(await folders.names(), ["INBOX", "Old.Work.2024", "Workshop"]);
    assertEquals(await names(`${home.path}/tmp`), []);
    await assertRejects(() => work.refresh(), Deno.errors.NotFound);
    await folders.create("Old.Work");
    assert((await folders.get("Old.Work")).uidValidity > work.uidValidity);
    await assertRejects(() => work.refresh(), Deno.errors.NotFound);
    await assertRejects(() => folders.rename("Workshop", "Old.Work"), Deno.errors.AlreadyExists);
    await assertRejects(() => folders.rename("nowhere", "x"), Deno.errors.NotFound);
    await assertRejects(() => folders.delete("nowhere"), Deno.errors.NotFound);
    await folders.rename("Old", "New"); // which is not there itself
    assertEquals(await folders.names(), ["INBOX", "New.Work", "New.Work.2024", "Workshop"]);
    folders.close();
  },
);

Deno.test(
  { name: "INBOX is always there: renamed, it gives its messages away", ignore },
  async () => {
    await using home = await temporaryFolder();
    const folders = await Folders.open(home.path);
    const inbox = await folders.get("INBOX");
    await inbox.deliver(octets("a"));
    await inbox.deliver(octets("b"), { flags: "S" });
    await folders.create("INBOX.below");
    await folders.rename("INBOX", "Old");
    assertEquals(await folders.names(), ["INBOX", "INBOX.below", "Old"]);
    assertEquals(await numbered(inbox), []);
    assertEquals(await numbered(await folders.get("Old")), [["a", 1], ["b", 2]]);
    await assertRejects(() => folders.delete("INBOX"), Deno.errors.InvalidData);
    await assertRejects(() => folders.rename("Old", "inbox"), Deno.errors.AlreadyExists);
    folders.close();
  },
);

Deno.test({ name: "no name of a folder leaves the Maildir", ignore }, async () => {
  await using home = await temporaryFolder();
  const root = `${home.path}/root`;
  const folders = await Folders.open(root);
  await Maildir.open(`${home.path}/elsewhere`);
  await Deno.symlink(`${home.path}/elsewhere`, `${root}/.link`);
  for (
    const name of [
      ...["", ".", "..", "../elsewhere", "a/b", "/etc", "a..b", ".a", "a.", "a\0b", "a\nb"],
      ...["*", "a%", "grüße", "x".repeat(250), "./../elsewhere"],
    ]
  ) {
    await assertRejects(() => folders.create(name), Deno.errors.InvalidData);
    await assertRejects(() => folders.rename("INBOX", name), Deno.errors.InvalidData);
    await assertRejects(() => folders.get(name), Deno.errors.NotFound);
    await assertRejects(() => folders.subscribe(name, true), Deno.errors.NotFound);
    await assertRejects(() => folders.delete(name), Deno.errors.NotFound);
  }
  await assertRejects(() => folders.get("link"), Deno.errors.NotFound);
  await folders.create("x".repeat(249));
  await folders.create("&AOQ- \"'\\");
  assertEquals(await names(home.path).then((found) => found.sort()), ["elsewhere", "root"]);
  folders.close();
});

Deno.test(
  { name: "subscriptions survive, and so does one to a folder that goes", ignore },
  async () => {
    await using home = await temporaryFolder();
    for (const names of [[], ["a"], ["a"]]) {
      const folders = await Folders.open(home.path);
      assertEquals(await folders.subscriptions(), names);
      if (names.length === 0) await folders.create("a");
      else await folders.delete("a").catch(() => {});
      if (names.length === 0) await folders.subscribe("a", true);
      folders.close();
    }
    const folders = await Folders.open(home.path);
    await folders.subscribe("a", false);
    assertEquals(await folders.subscriptions(), []);
    folders.close();
  },
);

Deno.test({ name: "folders are one server's at a time", ignore }, async () => {
  await using home = await temporaryFolder();
  const folders = await Folders.open(home.path);
  await assertRejects(() => Folders.open(home.path), Deno.errors.Busy, "in use by another server");
  folders.close();
  (await Folders.open(home.path)).close();
});

Deno.test({ name: "a list of numbers that is none is said, not overwritten", ignore }, async () => {
  await using home = await temporaryFolder();
  await Maildir.open(home.path);
  await Deno.writeTextFile(`${home.path}/uidlist`, "{");
  const folders = await Folders.open(home.path);
  await assertRejects(() => folders.get("INBOX"), Error, `${home.path}/uidlist: not a list`);
  assertEquals(await Deno.readTextFile(`${home.path}/uidlist`), "{");
  folders.close();
});
