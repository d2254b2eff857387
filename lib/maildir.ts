/**
 * A mailbox as a Maildir on disk, which many programs may use at once without a lock: a message is
 * a file that is written in `tmp`, moved to `new`, and once a reader has seen it to `cur`, where
 * its name ends with its flags. Lines in it end with LF, as other mail programs have them; on the
 * wire, and in every size here, with CRLF.
 *
 * The format is described in maildir(5) of qmail; `,S=` and `,W=` in a name, the size of the file
 * and that with CRLF, are Courier's and Dovecot's. Folders are Maildir++, Courier's. The files
 * `uidlist`, `uidvalidity` and `subscribed` are our own, which other programs pass over.
 *
 * @module
 */
import { writeAll } from "./framing.ts";

const [CR, LF] = [0x0d, 0x0a];
const FOLDERS = ["tmp", "new", "cur"];
const ABANDONED = 36 * 60 * 60 * 1000; // milliseconds after which what is left in tmp goes
const POLL = 1000; // milliseconds from one look for new mail to the next
const MAX_LOOKS = 3; // until what is not listed is gone
const SETTLED = 2000; // milliseconds, the coarsest clock of a file system
/** Names between dots; those on disk are ASCII, of which `*` and `%` are wildcards elsewhere. */
// deno-lint-ignore no-control-regex
const FOLDER_NAME = /^[^./*%\x00-\x1f\x7f-\uffff]+(\.[^./*%\x00-\x1f\x7f-\uffff]+)*$/;
let lastDelivery = 0; // microseconds

/** A message in a Maildir, as its name tells. */
export type Message = {
  name: string; // unique in the Maildir and for ever; its time of arrival orders it
  file: string; // the file's path in the Maildir, `new/NAME` or `cur/NAME:2,FLAGS`
  flags: string; // in alphabetical order: Draft, Flagged, Passed, Replied, Seen, Trashed
  isNew: boolean; // no reader has seen yet that it is there
};

/** A Maildir. Where not told otherwise, methods throw the system's error. */
export class Maildir {
  readonly #syncNew = together(() => sync(`${this.path}/new`));
  readonly #syncCur = together(() => sync(`${this.path}/cur`));

  /** The one at `path`, which is there. */
  constructor(public path: string) {}

  /** Opens the one at `path`, made if it is not there, for its owner alone. */
  static async open(path: string): Promise<Maildir> {
    for (const folder of FOLDERS) {
      await Deno.mkdir(`${path}/${folder}`, { recursive: true, mode: 0o700 });
    }
    for await (const { name } of Deno.readDir(`${path}/tmp`)) {
      await removeAbandoned(`${path}/tmp/${name}`);
    }
    return new Maildir(path);
  }

  /**
   * Stores a message, whose lines may end with CRLF or LF. When it returns, the message is on disk
   * and stays there, whatever happens to this process or to the machine; if it throws, there is
   * nothing of it.
   *
   * @param options with `flags` that it already has it is not new; `received` is when it arrived, if
   * not now.
   */
  async deliver(
    data: Uint8Array,
    { flags = "", received }: { flags?: string; received?: Date } = {},
  ): Promise<Message> {
    const file = withLineEnds(data, LF);
    const wireSize = sizeWithLineEnds(file, 2);
    lastDelivery = Math.max(
      lastDelivery + 1,
      Math.floor((performance.timeOrigin + performance.now()) * 1000),
    );
    const [seconds, micros] = [Math.floor(lastDelivery / 1e6), lastDelivery % 1e6];
    const random = crypto.getRandomValues(new Uint8Array(4)).toHex();
    const unique = `${seconds}.M${micros}P${Deno.pid}R${random}.localhost`;
    const name = `${unique},S=${file.length},W=${wireSize}`;
    const isNew = flags === "";
    const message = { name, file: isNew ? `new/${name}` : inCur(name, flags), flags, isNew };
    const [temporary, final] = [`${this.path}/tmp/${name}`, `${this.path}/${message.file}`];
    try {
      await writeSynced(temporary, file);
      if (received) await Deno.utime(temporary, received, received);
      await Deno.rename(temporary, final);
      await (isNew ? this.#syncNew() : this.#syncCur());
    } catch (error) {
      for (const path of [temporary, final]) await Deno.remove(path).catch(() => {});
      throw error;
    }
    return message;
  }

  /** The messages, those that arrived first first. */
  async list(): Promise<Message[]> {
    const messages = new Map<string, Message>();
    // In this order, or one that is moved between the two looks would be missed.
    for (const folder of ["new", "cur"]) {
      for await (const { name: file, isFile } of Deno.readDir(`${this.path}/${folder}`)) {
        if (!isFile || file.startsWith(".")) continue;
        const [name, flags = ""] = file.split(":2,");
        messages.set(name, { name, file: `${folder}/${file}`, flags, isNew: folder === "new" });
      }
    }
    return [...messages.values()].map((message) => ({ message, time: arrival(message) }))
      .sort((a, b) => a.time - b.time || (a.message.name < b.message.name ? -1 : 1))
      .map(({ message }) => message);
  }

  /** Its octets, every line with CRLF. Throws {@linkcode Deno.errors.NotFound} if it is gone. */
  async read(message: Message): Promise<Uint8Array<ArrayBuffer>> {
    const file = await this.find(message, (path) => Deno.readFile(path));
    return withLineEnds(file, CR, LF);
  }

  /** How many octets {@linkcode read} returns, for which it need not read what was stored here. */
  async size(message: Message): Promise<number> {
    const [, size] = /,W=(\d+)/.exec(message.name) ?? [];
    return size === undefined ? (await this.read(message)).length : Number(size);
  }

  /** When it arrived. */
  async received(message: Message): Promise<Date> {
    const { mtime } = await this.find(message, (path) => Deno.stat(path));
    return mtime ?? new Date(0);
  }

  /** Gives it these flags in place of those it has, or makes them of those; it is no longer new. */
  async setFlags(message: Message, flags: string | ((now: string) => string)): Promise<void> {
    await this.find(message, async (path) => {
      const wanted = typeof flags === "string" ? flags : flags(message.flags);
      const file = inCur(message.name, wanted);
      await Deno.rename(path, `${this.path}/${file}`);
      Object.assign(message, { file, flags: wanted, isNew: false });
    });
  }

  /** Removes it. That it is gone already is no error. */
  async remove(message: Message): Promise<void> {
    try {
      await this.find(message, (path) => Deno.remove(path));
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }

  /** Does something with its file, which another program may have moved and given other flags. */
  protected async find<T>(message: Message, action: (path: string) => Promise<T>): Promise<T> {
    for (let tries = 0;; tries++) {
      try {
        return await action(`${this.path}/${message.file}`);
      } catch (error) {
        if (!(error instanceof Deno.errors.NotFound) || tries === 3) throw error;
        if (!await this.locate(message)) throw error;
      }
    }
  }

  /** Looks where its file is now; false if it is gone. */
  protected async locate(message: Message): Promise<boolean> {
    const found = (await this.list()).find(({ name }) => name === message.name);
    Object.assign(message, found);
    return found !== undefined;
  }
}

async function removeAbandoned(path: string): Promise<void> {
  try {
    const { mtime } = await Deno.lstat(path);
    if (!mtime || Date.now() - mtime.getTime() < ABANDONED) return;
    await Deno.remove(path, { recursive: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error; // delivered meanwhile
  }
}

/** Makes a function that does the action once for all who call it while the last one is under way. */
function together(action: () => Promise<void>): () => Promise<void> {
  let last = Promise.resolve();
  let next: Promise<void> | undefined;
  return () => {
    return next ??= last = last.catch(() => {}).then(() => {
      next = undefined; // who calls from now on needs another one
      return action();
    });
  };
}

/** A message with its number, which no other of its folder ever had or will have. */
export type Numbered = Message & {
  uid: number; // of two the one that came later has the larger
  gone: boolean; // somebody has removed it
};

/**
 * A folder whose messages have numbers (UIDs) that survive the program. They are in its file
 * `uidlist`, on disk before anybody is told. What is done with its files is done one after the other.
 */
export class Folder extends Maildir {
  /** The messages as last looked at, in the order of their numbers. */
  messages: Numbered[] = [];
  /** The next message will have this number or a larger one. */
  uidNext = 1;
  #lookedAt = ""; // when that had changed which was last looked at
  readonly #inTurn = queue();
  readonly #watchers = new Set<() => void>();
  #poll?: ReturnType<typeof setInterval>;

  /** The one at `path`; with another `uidValidity` it would be another one, with other numbers. */
  private constructor(path: string, readonly uidValidity: number) {
    super(path);
  }

  /** Reads the numbers of the one at `path`; one that has none yet takes `newValidity`. */
  static async load(path: string, newValidity: () => Promise<number>): Promise<Folder> {
    await Maildir.open(path);
    const text = await readIfThere(`${path}/uidlist`);
    const list = text === undefined ? undefined : parseList(`${path}/uidlist`, text);
    const folder = new Folder(path, list?.uidValidity ?? await newValidity());
    folder.uidNext = list?.uidNext ?? 1;
    if (!list) await folder.#store([]);
    await folder.#look(new Map(list?.uids));
    return folder;
  }

  /** Looks what other programs have done in the folder. */
  refresh(): Promise<void> {
    return this.#inTurn(() => this.#look());
  }

  /** Gives a number to what was just delivered here. */
  number(delivered: Message[]): Promise<Numbered[]> {
    return this.#inTurn(async () => {
      const names = new Set(delivered.map(({ name }) => name));
      // Somebody may have looked already, and then they have one.
      for (const { name } of this.messages) names.delete(name);
      const fresh = delivered.filter(({ name }) => names.has(name));
      await this.#store([...this.messages, ...this.#numbered(fresh)]);
      const byName = new Map(this.messages.map((message) => [message.name, message]));
      return delivered.map(({ name }) => {
        const message = byName.get(name);
        if (!message) throw new Deno.errors.NotFound("removed by another program");
        message.isNew = true; // though with flags it is not in `new`
        return message;
      });
    });
  }

  /** As of any Maildir; no other change of its flags comes between. */
  override async setFlags(
    message: Message,
    flags: string | ((now: string) => string),
  ): Promise<void> {
    await super.setFlags(message, flags);
    this.#tell();
  }

  /** Removes messages. That they are gone already is no error. */
  async expunge(messages: Numbered[]): Promise<void> {
    for (const message of messages) {
      await this.remove(message);
      message.gone = true;
    }
    await this.refresh();
  }

  /** Moves a message to another folder, its flags with it. */
  async move(message: Numbered, target: Folder): Promise<void> {
    await this.find(message, (path) => Deno.rename(path, `${target.path}/${message.file}`));
  }

  /** Moves the folder. */
  moveTo(path: string): Promise<void> {
    return this.#inTurn(async () => {
      await Deno.rename(this.path, path);
      this.path = path;
    });
  }

  /**
   * Calls `changed` after each change, those by other programs within a second, until what it
   * returns is called. The folder itself may be gone, which {@linkcode refresh} tells.
   */
  watch(changed: () => void): () => void {
    this.#watchers.add(changed);
    let looking = false;
    this.#poll ??= setInterval(async () => {
      if (looking) return;
      looking = true;
      await this.refresh().catch(() => this.#tell());
      looking = false;
    }, POLL);
    return () => {
      this.#watchers.delete(changed);
      if (this.#watchers.size > 0) return;
      clearInterval(this.#poll);
      this.#poll = undefined;
    };
  }

  /** One at a time. */
  protected override find<T>(message: Message, action: (path: string) => Promise<T>): Promise<T> {
    return super.find(message, (path) => this.#inTurn(() => action(path)));
  }

  /** Looks for all at once. */
  protected override async locate(message: Numbered): Promise<boolean> {
    await this.refresh();
    return !message.gone;
  }

  /** @param stored at the first look, the numbers by name that the file has. */
  async #look(stored?: Map<string, number>): Promise<void> {
    const times = await Promise.all(["new", "cur"].map(async (folder) => {
      const { mtime } = await Deno.stat(`${this.path}/${folder}`);
      return mtime?.getTime() ?? 0;
    }));
    if (this.#lookedAt === `${times}`) return;
    const known = new Map(this.messages.map((message) => [message.name, message]));
    const numbers = stored ?? new Map(this.messages.map(({ name, uid }) => [name, uid]));
    const found = new Map<string, Message>();
    // A file that is renamed while the system lists the folder may be missing from the list.
    for (let looks = 0; looks < MAX_LOOKS; looks++) {
      for (const message of await this.list()) found.set(message.name, message);
      if ([...numbers.keys()].every((name) => found.has(name) || known.get(name)?.gone)) break;
    }
    const isSame = found.size === numbers.size && [...found.keys()].every((n) => numbers.has(n));
    const messages = this.#numbered([...found.values()], numbers)
      .map((message) => known.get(message.name) ?? message)
      .sort((a, b) => a.uid - b.uid);
    if (isSame) this.messages = messages;
    else await this.#store(messages);
    let changed = !isSame;
    for (const message of known.values()) {
      const { file, flags = "" } = found.get(message.name) ?? {};
      changed ||= flags !== message.flags;
      if (file === undefined) message.gone = true;
      else Object.assign(message, { file, flags });
    }
    // Of two changes within a tick of the clock the second leaves no trace: young ones do not count.
    this.#lookedAt = Date.now() - Math.max(...times) > SETTLED ? `${times}` : "";
    if (changed) this.#tell();
  }

  /** With the numbers that they have, or the next ones. */
  #numbered(messages: Message[], numbers?: Map<string, number>): Numbered[] {
    let next = this.uidNext;
    return messages.map((message) => {
      const uid = numbers?.get(message.name) ?? next++;
      return { ...message, uid, gone: false };
    });
  }

  /** Takes these for its messages, once the file has them. */
  async #store(messages: Numbered[]): Promise<void> {
    const uidNext = Math.max(this.uidNext, (messages.at(-1)?.uid ?? 0) + 1);
    const uids = messages.map(({ uid, name }): [string, number] => [name, uid]);
    const list: UidList = { uidValidity: this.uidValidity, uidNext, uids };
    await writeWhole(this.path, "uidlist", JSON.stringify(list));
    this.messages = messages;
    this.uidNext = uidNext;
  }

  #tell(): void {
    for (const changed of this.#watchers) changed();
  }
}
/**
 * The folders of a mailbox (Maildir++): INBOX is the Maildir itself, and `Work.2024` is the Maildir
 * `.Work.2024` in it, whether or not there is a folder `Work`. Where not told otherwise, methods
 * throw {@linkcode Deno.errors.NotFound} if there is no such folder,
 * {@linkcode Deno.errors.AlreadyExists} if there is one, {@linkcode Deno.errors.InvalidData} if none
 * can have that name, and the system's error.
 */
export class Folders {
  readonly #open = new Map<string, Folder>(); // by name
  readonly #inTurn = queue();
  #uidValidity = 0; // of the youngest folder

  private constructor(readonly path: string, readonly lock: Deno.FsFile) {}

  /**
   * Opens those in `path`, made if it is not there, for this process alone, as the numbers of its
   * messages are in memory. The system takes back the lock when the process ends in whatever way.
   *
   * @throws {Deno.errors.Busy} if another process has them open.
   */
  static async open(path: string): Promise<Folders> {
    await Maildir.open(path);
    const lock = await Deno.open(`${path}/uidlist.lock`, { create: true, write: true });
    if (!await lock.tryLock(true)) {
      lock.close();
      throw new Deno.errors.Busy(`${path}: in use by another server`);
    }
    const folders = new Folders(path, lock);
    folders.#uidValidity = Number(await readIfThere(`${path}/uidvalidity`) ?? 0);
    return folders;
  }

  /** Lets another process open them. */
  close(): void {
    this.lock.close();
  }

  /** The names of all there are, INBOX first. */
  async names(): Promise<string[]> {
    const names: string[] = [];
    for await (const { name, isDirectory } of Deno.readDir(this.path)) {
      if (isDirectory && name.startsWith(".") && isFolderName(name.slice(1))) {
        names.push(name.slice(1));
      }
    }
    return ["INBOX", ...names.filter((name) => !isInbox(name)).sort()];
  }

  /** The folder of that name: the same one for all that ask. */
  get(name: string): Promise<Folder> {
    return this.#inTurn(() => this.#get(name));
  }

  /** Makes a folder. */
  create(name: string): Promise<void> {
    return this.#inTurn(() => this.#create(name));
  }

  /** Removes a folder with its messages, but for INBOX, and leaves those below it. */
  delete(name: string): Promise<void> {
    return this.#inTurn(async () => {
      if (isInbox(name)) throw new Deno.errors.InvalidData("INBOX cannot be deleted");
      const folder = await this.#get(name);
      const removed = `${this.path}/tmp/${crypto.randomUUID()}`; // at once, not file by file
      await folder.moveTo(removed);
      this.#open.delete(name);
      await Deno.remove(removed, { recursive: true });
    });
  }

  /** Gives a folder and those below it another name; of INBOX, moves its messages to a new folder. */
  rename(from: string, to: string): Promise<void> {
    return this.#inTurn(async () => {
      if (isInbox(from)) return await this.#moveInbox(to);
      const names = await this.names();
      const renamed = names.filter((name) => name === from || name.startsWith(`${from}.`))
        .map((name) => ({ name, newName: to + name.slice(from.length) }));
      if (renamed.length === 0) throw new Deno.errors.NotFound(`there is no ${from}`);
      for (const { newName } of renamed) this.#checkNew(newName, names);
      for (const { name, newName } of renamed) {
        const folder = await this.#get(name);
        await folder.moveTo(this.#pathOf(newName));
        this.#open.delete(name);
        this.#open.set(newName, folder);
      }
    });
  }

  /** The names of the folders that somebody has subscribed to, whether or not they are there. */
  async subscriptions(): Promise<string[]> {
    const text = await readIfThere(`${this.path}/subscribed`) ?? "";
    return text.split("\n").filter((name) => name !== "");
  }

  /** Subscribes to a folder, or no longer. */
  subscribe(name: string, subscribed: boolean): Promise<void> {
    return this.#inTurn(async () => {
      if (subscribed) await this.#get(name);
      const names = new Set(await this.subscriptions());
      if (subscribed) names.add(name);
      else names.delete(name);
      await writeWhole(this.path, "subscribed", [...names, ""].join("\n"));
    });
  }

  async #get(name: string): Promise<Folder> {
    const open = this.#open.get(name);
    if (open) return open;
    if (!(await this.names()).includes(name)) {
      throw new Deno.errors.NotFound(`there is no ${name}`);
    }
    const folder = await Folder.load(this.#pathOf(name), async () => {
      this.#uidValidity = Math.max(this.#uidValidity + 1, Math.floor(Date.now() / 1000));
      await writeWhole(this.path, "uidvalidity", `${this.#uidValidity}`);
      return this.#uidValidity;
    });
    this.#open.set(name, folder);
    return folder;
  }

  async #create(name: string): Promise<void> {
    this.#checkNew(name, await this.names());
    await Maildir.open(this.#pathOf(name));
    await Deno.writeTextFile(`${this.#pathOf(name)}/maildirfolder`, ""); // so Maildir++ has it
  }

  async #moveInbox(to: string): Promise<void> {
    await this.#create(to);
    const [inbox, target] = [await this.#get("INBOX"), await this.#get(to)];
    await inbox.refresh();
    for (const message of inbox.messages) await inbox.move(message, target);
    await inbox.refresh();
  }

  #checkNew(name: string, names: string[]): void {
    if (!isFolderName(name)) throw new Deno.errors.InvalidData("no folder can have that name");
    if (isInbox(name) || names.includes(name)) {
      throw new Deno.errors.AlreadyExists(`${name} is there already`);
    }
  }

  #pathOf(name: string): string {
    return name === "INBOX" ? this.path : `${this.path}/.${name}`;
  }
}

function isFolderName(name: string): boolean {
  return name.length < 250 && FOLDER_NAME.test(name);
}

function isInbox(name: string): boolean {
  return name.toUpperCase() === "INBOX";
}

/** Makes a function that does what it is given one after the other. */
function queue(): <T>(task: () => Promise<T>) => Promise<T> {
  let last: Promise<unknown> = Promise.resolve();
  return (task) => {
    const result = last.then(task);
    last = result.catch(() => {});
    return result;
  };
}

function inCur(name: string, flags: string): string {
  return `cur/${name}:2,${flags}`;
}

async function writeSynced(path: string, data: Uint8Array): Promise<void> {
  using file = await Deno.open(path, { createNew: true, write: true, mode: 0o600 });
  await writeAll(file, data);
  await file.sync();
}

/** Writes a file of a Maildir whole or not at all; when it returns, it is on disk. */
async function writeWhole(maildir: string, name: string, text: string): Promise<void> {
  const temporary = `${maildir}/tmp/${crypto.randomUUID()}`;
  try {
    await writeSynced(temporary, new TextEncoder().encode(text));
    await Deno.rename(temporary, `${maildir}/${name}`);
    await sync(maildir);
  } catch (error) {
    await Deno.remove(temporary).catch(() => {});
    throw error;
  }
}

/** What {@linkcode Folder} has in its file. */
type UidList = { uidValidity: number; uidNext: number; uids: [name: string, uid: number][] };

function parseList(path: string, text: string): UidList {
  try {
    return JSON.parse(text);
  } catch {
    throw new Error(`${path}: not a list of UIDs; without it all messages would get new ones`);
  }
}

async function readIfThere(path: string): Promise<string | undefined> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/** Has what a folder lists on disk. */
async function sync(folder: string): Promise<void> {
  using file = await Deno.open(folder);
  await file.sync();
}

/** Microseconds, of which names that others gave may have none but those of the whole second. */
function arrival({ name }: Message): number {
  const [, seconds, micros] = /^(\d+)(?:\.M(\d+))?/.exec(name) ?? [];
  return Number(seconds ?? 0) * 1e6 + Number(micros ?? 0);
}

/** The octets with `end` in place of each LF and CRLF. */
function withLineEnds(data: Uint8Array, ...end: number[]): Uint8Array<ArrayBuffer> {
  const result = new Uint8Array(sizeWithLineEnds(data, end.length));
  let size = 0;
  for (let i = 0; i < data.length; i++) {
    if (data[i] === LF) { for (const octet of end) result[size++] = octet; }
    else if (data[i] !== CR || data[i + 1] !== LF) result[size++] = data[i];
  }
  return result;
}

/** How many octets they are with ends of `length` octets in place of each LF and CRLF. */
function sizeWithLineEnds(data: Uint8Array, length: number): number {
  let size = data.length;
  for (let i = 0; i < data.length; i++) {
    if (data[i] === LF) size += length - (data[i - 1] === CR ? 2 : 1);
  }
  return size;
}
