/**
 * A mailbox as a Maildir on disk, which many programs may use at once without a lock: a message is
 * a file that is written in `tmp`, moved to `new`, and once a reader has seen it to `cur`, where
 * its name ends with its flags. Lines in it end with LF, as other mail programs have them; on the
 * wire, and in every size here, with CRLF.
 *
 * The format is described in maildir(5) of qmail; `,S=` and `,W=` in a name, the size of the file
 * and that with CRLF, are Courier's and Dovecot's.
 *
 * @module
 */

const [CR, LF] = [0x0d, 0x0a];
const FOLDERS = ["tmp", "new", "cur"];
const ABANDONED = 36 * 60 * 60 * 1000; // milliseconds after which what is left in tmp goes
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
  constructor(readonly path: string) {}

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
    const file = await this.#find(message, (path) => Deno.readFile(path));
    return withLineEnds(file, CR, LF);
  }

  /** How many octets {@linkcode read} returns, for which it need not read what was stored here. */
  async size(message: Message): Promise<number> {
    const [, size] = /,W=(\d+)/.exec(message.name) ?? [];
    return size === undefined ? (await this.read(message)).length : Number(size);
  }

  /** When it arrived. */
  async received(message: Message): Promise<Date> {
    const { mtime } = await this.#find(message, (path) => Deno.stat(path));
    return mtime ?? new Date(0);
  }

  /** Gives it these flags in place of those it has, and it is no longer new. */
  async setFlags(message: Message, flags: string): Promise<void> {
    const file = inCur(message.name, flags);
    await this.#find(message, (path) => Deno.rename(path, `${this.path}/${file}`));
    Object.assign(message, { file, flags, isNew: false });
  }

  /** Removes it. That it is gone already is no error. */
  async remove(message: Message): Promise<void> {
    try {
      await this.#find(message, (path) => Deno.remove(path));
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) throw error;
    }
  }

  /** Does something with its file, which another program may have moved and given other flags. */
  async #find<T>(message: Message, action: (path: string) => Promise<T>): Promise<T> {
    for (let tries = 0;; tries++) {
      try {
        return await action(`${this.path}/${message.file}`);
      } catch (error) {
        if (!(error instanceof Deno.errors.NotFound) || tries === 3) throw error;
        const found = (await this.list()).find(({ name }) => name === message.name);
        if (!found) throw error;
        Object.assign(message, found);
      }
    }
  }
}

async function removeAbandoned(path: string): Promise<void> {
  try {
    const { mtime } = await Deno.lstat(path);
    if (mtime && Date.now() - mtime.getTime() > ABANDONED) await Deno.remove(path);
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

/** Has what a folder lists on disk. */
async function sync(folder: string): Promise<void> {
  using file = await Deno.open(folder);
  await file.sync();
}

function inCur(name: string, flags: string): string {
  return `cur/${name}:2,${flags}`;
}

async function writeSynced(path: string, data: Uint8Array): Promise<void> {
  using file = await Deno.open(path, { createNew: true, write: true, mode: 0o600 });
  for (let rest = data; rest.length > 0;) rest = rest.subarray(await file.write(rest));
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
