#!/usr/bin/env -S deno run --allow-net --allow-read --allow-write --allow-env=MAIL_PASSWORD
/**
 * A POP3 server (RFC 1939 and 2449): hands out the mail of one mailbox, a Maildir, and removes what
 * its owner has taken.
 *
 *     MAIL_PASSWORD=secret deno run --allow-net --allow-read --allow-write --allow-env=MAIL_PASSWORD \
 *       scripts/pop3_server.ts mail
 *     MAIL_PASSWORD=secret deno run --allow-net --allow-env=MAIL_PASSWORD scripts/pop3_client.ts
 *
 * Without MAIL_PASSWORD it makes a password for the run and says it. `curl -u mail:secret
 * pop3://127.0.0.1:8110/` lists the mail, too, and with `/1` behind it prints a message.
 *
 * A conversation has three states, and so has this file: AUTHORIZATION, until the password is right;
 * TRANSACTION, in which DELE only marks a message; and UPDATE, after QUIT, in which what is marked
 * is removed. A conversation that ends in any other way removes nothing. The mailbox is one client's
 * at a time, by a lock on its folder, which ends with the process. Other programs, which know nothing
 * of that lock, may deliver and read meanwhile, as a Maildir allows.
 *
 * TLS is from the first octet (`--cert`, `--key`) or not at all. There is no STLS, as Deno cannot
 * start TLS on a connection that it has accepted. Without TLS a password can be read on the way, or
 * guessed in peace if it is sent by APOP, as MD5. `--trace` prints it, too.
 *
 * Mirrors the chapter "POP" of tutorial 002 and the POP3 row of tutorial 003. Python has a client
 * only, `poplib`; a server would be:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `asyncio.start_server(converse)` | `listen()`, `serve()` |
 * | `await reader.readline()` | `conn.readLine()`: `conn.read()` until there is an LF |
 * | `mailbox.Maildir(path)`, `keys()`, `get_bytes(key)` | `Maildir.open(path)`, `list()`, `read(message)` |
 * | `fcntl.flock(fd, LOCK_EX \| LOCK_NB)` | `file.tryLock(true)` |
 * | `hashlib.md5(octets).hexdigest()` | `hash("md5", text)` |
 * | `hmac.compare_digest(given, secret)` | `isSecret(given, secret)` |
 * | `octets.replace(b"\r\n.", b"\r\n..")` | `conn.writeDotLines(octets)` |
 *
 * @module
 */
import { hash } from "node:crypto";
import { listen, reason } from "../lib/address.ts";
import { flag, main, seconds, serverFlags, stopSignal, toggle } from "../lib/cli.ts";
import { type FramedConn, LimitError, printable } from "../lib/framing.ts";
import { Maildir, type Message } from "../lib/maildir.ts";
import { isSecret, serve } from "../lib/server.ts";

const PORT = 8110;
const MAX_LINE = 255; // octets of a command (RFC 2449, 4)
const MAX_ANSWER = 512; // octets of the first line of an answer
const MAX_FAILURES = 3; // logins
const [CR, LF] = [0x0d, 0x0a];
const encoder = new TextEncoder();
/** With RESP-CODES and AUTH-RESP-CODE (RFC 3206) an -ERR has in brackets a word for programs. */
const CAPABILITIES = encoder.encode(
  "TOP\nUIDL\nUSER\nPIPELINING\nRESP-CODES\nAUTH-RESP-CODE\nEXPIRE NEVER",
);

/** A mailbox, and who may read it. */
export type Account = { maildir: Maildir; user: string; password: string };

/** A message, which has its number to the end of the session. */
type Entry = { number: number; message: Message; size: number; uid: string; deleted: boolean };

/** A mailbox as it was at login, and the lock that makes it one session's. */
type Maildrop = { maildir: Maildir; lock: Deno.FsFile; entries: Entry[] };

/** What is answered with -ERR. */
class Refusal extends Error {}

/** Waits for the disk, whose error the client is told: its own mail is there. */
async function fromDisk<T>(work: Promise<T>): Promise<T> {
  return await work.catch((error) => {
    throw error instanceof Refusal ? error : new Refusal(`[SYS/TEMP] ${reason(error)}`);
  });
}

async function openMaildrop(maildir: Maildir): Promise<Maildrop> {
  // The folder itself is locked, so that a server that is killed leaves no file behind.
  const lock = await Deno.open(maildir.path);
  try {
    if (!await lock.tryLock(true)) throw new Refusal("[IN-USE] another session has the mailbox");
    const entries: Entry[] = [];
    for (const message of await maildir.list()) {
      const size = await maildir.size(message).catch(unlessGone);
      if (size === undefined) continue;
      const [number, uid] = [entries.length + 1, uniqueId(message)];
      entries.push({ number, message, size, uid, deleted: false });
    }
    return { maildir, lock, entries };
  } catch (error) {
    lock.close();
    throw error;
  }
}

function unlessGone(error: unknown): undefined {
  if (!(error instanceof Deno.errors.NotFound)) throw error;
}

/** What UIDL tells: the name for ever, or a hash of it, if it is one that may not go there. */
function uniqueId({ name }: Message): string {
  const [unique] = name.split(",S=");
  return /^[!-~]{1,70}$/.test(unique) ? unique : hash("sha256", name);
}

function refuse(why: string): string {
  return `-ERR ${printable(why)}`.slice(0, MAX_ANSWER - 2);
}

/** The header of a message, the empty line and so many lines of what follows. */
export function top(message: Uint8Array, lines: number): Uint8Array {
  let [end, left] = [0, Infinity];
  while (left > 0 && end < message.length) {
    const start = end;
    end = message.indexOf(LF, start) + 1 || message.length;
    if (left < Infinity) left--;
    else if (message[start] === CR && message[start + 1] === LF) left = lines;
  }
  return message.subarray(0, end);
}

/** Serves a client until it leaves. Throws a {@linkcode LimitError} if a command is too long. */
export async function converse(conn: FramedConn, account: Account): Promise<void> {
  const random = crypto.getRandomValues(new Uint8Array(8)).toHex();
  const timestamp = `<${Deno.pid}.${Date.now()}.${random}@localhost>`;
  await conn.writeLine(`+OK POP3 server ready ${timestamp}`);
  try {
    const login = await authorize(conn, account, timestamp);
    const goodbye = typeof login === "object" ? await transact(conn, login) : login;
    if (goodbye) await conn.writeLine(goodbye);
  } catch (error) {
    if (error instanceof LimitError) await conn.writeLine(refuse(error.message));
    throw error;
  }
}

/**
 * Calls `execute` for each command, but for CAPA, which is the same in each state, until that returns
 * something, or the client leaves.
 */
async function eachCommand<T>(
  conn: FramedConn,
  execute: (keyword: string, args: string[], text: string) => Promise<T | void>,
): Promise<T | undefined> {
  for (let line; (line = await conn.readLine(MAX_LINE)) !== null;) {
    const [, keyword, text] = /^(\S*) ?(.*)$/s.exec(line) ?? ["", "", ""];
    const args = text.split(" ").filter((arg) => arg);
    try {
      if (/^CAPA$/i.test(keyword)) {
        await answer(conn, "capabilities", CAPABILITIES);
        continue;
      }
      const result = await execute(keyword.toUpperCase(), args, text);
      if (result) return result;
    } catch (error) {
      if (!(error instanceof Refusal)) throw error;
      await conn.writeLine(refuse(error.message));
    }
  }
}

/** Answers with several lines, such as a message. */
async function answer(conn: FramedConn, first: string, lines: Uint8Array): Promise<void> {
  await conn.writeLine(`+OK ${first}`);
  await conn.writeDotLines(lines);
}

/** The AUTHORIZATION state: returns the mailbox, or what to say to one who has not logged in. */
function authorize(
  conn: FramedConn,
  { maildir, user, password }: Account,
  timestamp: string,
): Promise<Maildrop | string | undefined> {
  let name: string | undefined;
  let failures = 0;

  async function logIn(given: string, secret: string): Promise<Maildrop> {
    if (isSecret(given, secret)) return await fromDisk(openMaildrop(maildir));
    const why = "[AUTH] wrong name or password";
    if (++failures < MAX_FAILURES) throw new Refusal(why);
    await conn.writeLine(refuse(why));
    throw new Error(`${MAX_FAILURES} failed logins`);
  }

  return eachCommand(conn, async (keyword, args, text) => {
    switch (keyword) {
      case "USER":
        name = text;
        return await conn.writeLine("+OK"); // whoever that is
      case "PASS": // which may have blanks in it
        if (name === undefined) throw new Refusal("USER comes first");
        return await logIn(`${name}\n${text}`, `${user}\n${password}`);
      case "APOP":
        return await logIn(args.join("\n"), `${user}\n${hash("md5", timestamp + password)}`);
      case "QUIT":
        return "+OK";
      default:
        throw new Refusal("not a command, or none before the login");
    }
  });
}

/** The TRANSACTION state, and at QUIT the UPDATE state: returns what to say at the end. */
async function transact(conn: FramedConn, drop: Maildrop): Promise<string | undefined> {
  const { maildir, entries } = drop;
  using _lock = drop.lock; // given back before the last answer: whoever has that may log in again
  const left = () => entries.filter(({ deleted }) => !deleted);
  await conn.writeLine(`+OK ${entries.length} messages`);

  function find(number = ""): Entry {
    const entry = /^\d+$/.test(number) ? entries[Number(number) - 1] : undefined;
    if (!entry || entry.deleted) throw new Refusal("no such message");
    return entry;
  }

  async function read(number?: string): Promise<Uint8Array> {
    const data = await fromDisk(maildir.read(find(number).message).catch(unlessGone));
    if (!data) throw new Refusal("another program has removed it");
    return data;
  }

  /** Answers with a line for the message of that number, or with one for each. */
  async function scan(number: string | undefined, show: (entry: Entry) => string): Promise<void> {
    const line = (entry: Entry) => `${entry.number} ${show(entry)}`;
    if (number !== undefined) return await conn.writeLine(`+OK ${line(find(number))}`);
    const lines = left().map(line);
    await answer(conn, `${lines.length} messages`, encoder.encode(lines.join("\n")));
  }

  return await eachCommand(conn, async (keyword, [number, lines = ""]) => {
    switch (keyword) {
      case "STAT": {
        const total = left().reduce((sum, { size }) => sum + size, 0);
        return await conn.writeLine(`+OK ${left().length} ${total}`);
      }
      case "LIST":
        return await scan(number, ({ size }) => `${size}`);
      case "UIDL":
        return await scan(number, ({ uid }) => uid);
      case "RETR": {
        const data = await read(number);
        return await answer(conn, `${data.length} octets`, data);
      }
      case "TOP":
        if (!/^\d+$/.test(lines)) throw new Refusal("TOP takes a message and a number of lines");
        return await answer(conn, "its top", top(await read(number), Number(lines)));
      case "DELE":
        find(number).deleted = true;
        return await conn.writeLine("+OK it goes when you QUIT");
      case "RSET":
        for (const entry of entries) entry.deleted = false;
        return await conn.writeLine(`+OK ${entries.length} messages`);
      case "NOOP":
        return await conn.writeLine("+OK");
      case "QUIT":
        return await update(maildir, entries.filter(({ deleted }) => deleted));
      default:
        throw new Refusal("not a command, or none after the login");
    }
  });
}

/** The UPDATE state: removes messages, and returns what to say of that. */
async function update(maildir: Maildir, entries: Entry[]): Promise<string> {
  // Another program may have moved them: one look at all of them costs less than one for each.
  const messages = new Map(entries.map(({ message }) => [message.name, message]));
  for (const found of await maildir.list().catch(() => [])) {
    Object.assign(messages.get(found.name) ?? {}, found);
  }
  const failures: string[] = [];
  for (const message of messages.values()) {
    await maildir.remove(message).catch((error) => failures.push(reason(error)));
  }
  if (failures.length === 0) return `+OK ${entries.length} removed`;
  return refuse(`[SYS/TEMP] ${failures.length} of ${entries.length} not removed: ${failures[0]}`);
}

if (import.meta.main) {
  await main({
    name: "pop3_server",
    about: "Hands out the mail of a Maildir (made if it is not there) by POP3.",
    usage: "MAILDIR",
    permissions: "--allow-net --allow-read --allow-write --allow-env=MAIL_PASSWORD",
    flags: {
      ...serverFlags(PORT),
      // Ten minutes are the least (RFC 1939, 3).
      idleTimeout: flag("S", "close what is silent for so many seconds", seconds, "600"),
      user: flag("NAME", "whose mailbox it is; the password is MAIL_PASSWORD's", String, "mail"),
      trace: toggle("print both directions of the wire on stderr, passwords too"),
    },
  }, async ({ user, ...flags }, path) => {
    const listener = await listen(flags);
    const maildir = await Maildir.open(path);
    let password = Deno.env.get("MAIL_PASSWORD");
    if (!password) {
      password = crypto.getRandomValues(new Uint8Array(8)).toHex();
      console.error(`${flags.name}: made a password for ${printable(user)}: ${password}`);
    }
    const account = { maildir, user, password };
    await serve(listener, (conn) => converse(conn, account), { ...flags, signal: stopSignal() });
  });
}
