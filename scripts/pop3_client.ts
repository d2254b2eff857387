#!/usr/bin/env -S deno run --allow-net --allow-env=MAIL_PASSWORD
/**
 * A client of POP3 (RFC 1939) that lists the messages of a mailbox, prints one or deletes one.
 *
 *     MAIL_PASSWORD=secret deno run --allow-net --allow-read --allow-write --allow-env=MAIL_PASSWORD \
 *       scripts/pop3_server.ts mail
 *     MAIL_PASSWORD=secret deno run --allow-net --allow-env=MAIL_PASSWORD scripts/pop3_client.ts
 *
 * A number is a message's for one session only: once 1 is deleted, 2 is 1 in the next one, so look at
 * the list before you delete. `get` writes a message octet for octet as it came, with lines that end
 * with CRLF, as they do in an `.eml` file: `get 1 > 1.eml`, or `get 1 | deno run
 * scripts/email_parse.ts`. Only a terminal is spared what could drive it.
 *
 * Mirrors the POP3 row of tutorial 003, which names Python's `poplib`, and the chapter "POP" of
 * tutorial 002, both without a listing:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `pop = poplib.POP3(host, port)` | `connect()`: `Deno.connect()`, `pop.greet()` |
 * | `pop.apop(user, password)` or `pop.user(user)`, `pop.pass_(password)` | `pop.login(user, password)` |
 * | `pop.capa()`, `pop.list()` | `pop.capabilities()`, `pop.list()` |
 * | `pop.top(n, 0)` for each `n` | `pop.headers(numbers)`, which need not wait for each |
 * | `pop.retr(n)`, `pop.dele(n)`, `pop.quit()` | `pop.retrieve(n)`, `pop.delete(n)`, `pop.quit()` |
 * | `email.message_from_bytes(octets)` | `PostalMime.parse(octets)` |
 *
 * @module
 */
import { hash } from "node:crypto";
import { format } from "@std/fmt/bytes";
import PostalMime from "postal-mime";
import { connect, isPrivate, named, reason, UsageError } from "../lib/address.ts";
import {
  askPassword,
  clientFlags,
  flag,
  formatTime,
  main,
  number,
  oneOf,
  writeStdout,
} from "../lib/cli.ts";
import { FramedConn, LimitError, printable, printableText } from "../lib/framing.ts";

const PORT = 8110; // POP3's own is 110
const MAX_STATUS = 8192; // octets, as are the next three; RFC 1939 has 512
const MAX_LIST = 4 * 1024 * 1024;
const MAX_HEADER = 256 * 1024;
const MAX_MESSAGE = 64 * 1024 * 1024;
const BATCH = 100; // commands that are sent at once (RFC 2449, 6.6), fewer than fill a socket's buffer

/** The server says no: what it says. */
export class RefusedError extends Error {}

/** Returns a user's name; throws a {@linkcode UsageError} for what a command would take for more. */
export function checkUser(text: string): string {
  if (/^[^\s\p{Cc}]+$/u.test(text)) return text;
  throw new UsageError(`${JSON.stringify(text)} is not a user's name`);
}

/**
 * A connection to a POP3 server. Its methods throw a {@linkcode RefusedError} if the server says no,
 * an Error if what it says is no answer, or the connection's error.
 */
export class Pop3Connection {
  #timestamp?: string;

  /** Takes over `conn`. */
  constructor(readonly conn: FramedConn) {}

  /** Waits for the server to be ready. */
  async greet(): Promise<void> {
    const greeting = await this.#readStatus();
    // As RFC 5322 has a Message-ID: by others a false server learns of the password (CVE-2007-1558).
    this.#timestamp = /<[!-;=?-~]+@[!-;=?-~]+>/.exec(greeting)?.[0];
  }

  /**
   * Logs in, by APOP if the server has that (RFC 1939, 7), so that it is not told the password.
   *
   * @throws {UsageError} before anything is sent, if somebody on the way could read it, or if the
   * name or the password cannot be in a command.
   */
  async login(user: string, password: string): Promise<void> {
    if (!isPrivate(this.conn.conn)) throw new UsageError("a password is not sent without --tls");
    if (/\p{Cc}/u.test(password)) throw new UsageError("the password has a control character");
    checkUser(user);
    if (this.#timestamp) {
      const digest = hash("md5", this.#timestamp + password);
      await this.#ask(`APOP ${user} ${digest}`, `APOP ${user} ***`);
    } else {
      await this.#ask(`USER ${user}`);
      await this.#ask(`PASS ${password}`, "PASS ***");
    }
  }

  /** What the server says that it can (RFC 2449); nothing, if it does not say. */
  async capabilities(): Promise<Set<string>> {
    try {
      await this.#ask("CAPA");
    } catch (error) {
      if (error instanceof RefusedError) return new Set();
      throw error;
    }
    const lines = await this.#readLines();
    return new Set(lines.map((line) => line.toUpperCase().split(" ")[0]));
  }

  /** The messages' numbers and sizes in octets. */
  async list(): Promise<{ number: number; size: number }[]> {
    await this.#ask("LIST");
    return (await this.#readLines()).map((line) => {
      const [, number, size] = /^(\d{1,9}) (\d{1,15})(?: |$)/.exec(line) ?? unexpected(line);
      return { number: Number(number), size: Number(size) };
    });
  }

  /**
   * The headers of messages, in this order, or why there is none: by TOP or, as a server need not
   * have that, of the whole message.
   */
  async *headers(numbers: number[]): AsyncGenerator<Uint8Array | Error> {
    const can = await this.capabilities();
    const batch = can.has("TOP") && can.has("PIPELINING") ? BATCH : 1;
    const refusal = (error: Error) => {
      if (error instanceof RefusedError || error instanceof LimitError) return error;
      throw error;
    };
    for (let i = 0; i < numbers.length; i += batch) {
      const some = numbers.slice(i, i + batch);
      await this.conn.writeAll(some.map((n) => `TOP ${n} 0\r\n`).join(""));
      for (const n of some) {
        const header = await this.#readMessage(MAX_HEADER).catch(refusal);
        const whole = header instanceof RefusedError && batch === 1;
        yield whole ? await this.retrieve(n).catch(refusal) : header;
      }
    }
  }

  /** The octets of a message, at most 64 MiB. */
  async retrieve(number: number): Promise<Uint8Array> {
    await this.conn.writeLine(`RETR ${number}`);
    return await this.#readMessage(MAX_MESSAGE);
  }

  /** Marks a message: it is deleted when {@linkcode quit} returns, and not if that throws. */
  async delete(number: number): Promise<void> {
    await this.#ask(`DELE ${number}`);
  }

  /** Ends the session. */
  async quit(): Promise<void> {
    await this.#ask("QUIT");
  }

  /** Sends a command, of which a trace has `shown`, and returns what is said behind `+OK`. */
  async #ask(command: string, shown = command): Promise<string> {
    await this.conn.writeAll(`${command}\r\n`, `${shown}\r\n`);
    return await this.#readStatus();
  }

  async #readStatus(): Promise<string> {
    const line = await this.conn.readLine(MAX_STATUS);
    if (line === null) throw new Deno.errors.UnexpectedEof("hung up without an answer");
    const [, status, text] = /^(\+OK|-ERR)(?: (.*))?$/s.exec(line) ?? unexpected(line);
    if (status === "-ERR") throw new RefusedError(`the server says: ${text ?? "no"}`);
    return text ?? "";
  }

  async #readMessage(max: number): Promise<Uint8Array> {
    await this.#readStatus();
    return await this.conn.readDotLines(max);
  }

  async #readLines(): Promise<string[]> {
    const text = new TextDecoder().decode(await this.conn.readDotLines(MAX_LIST));
    return text.split("\r\n").slice(0, -1);
  }
}

function unexpected(line: string): never {
  throw new Error(`not an answer of POP3: ${line.slice(0, 80)}`);
}

/** A line about a message, to print: date, sender and subject, or what is wrong with it. */
async function describe(header: Uint8Array | Error): Promise<string> {
  try {
    if (header instanceof Error) throw header;
    const email = await PostalMime.parse(header);
    return [
      formatTime(email.date),
      (email.from?.name || email.from?.address || "").padEnd(24),
      email.subject ?? "",
    ].join("  ");
  } catch (error) {
    return `(${reason(error)})`;
  }
}

/** Prints a line for each message; returns how many there are. */
async function list(pop: Pop3Connection): Promise<number> {
  const messages = await pop.list();
  const headers = pop.headers(messages.map(({ number }) => number));
  for (const { number, size } of messages) {
    const { value } = await headers.next();
    const columns = [`${number}`.padStart(6), format(size).padStart(9), await describe(value)];
    console.log(printable(columns.join("  ")).trimEnd());
  }
  return messages.length;
}

/** Writes octets to stdout, or on a terminal as text that cannot drive it. */
async function print(octets: Uint8Array): Promise<void> {
  if (Deno.stdout.isTerminal()) {
    octets = new TextEncoder().encode(printableText(new TextDecoder().decode(octets)));
  }
  await writeStdout(octets);
}

if (import.meta.main) {
  await main({
    name: "pop3_client",
    about:
      `Lists the messages of a mailbox (number, size, date, sender, subject), or with get N prints
one, or with delete N deletes one. MAIL_PASSWORD has the password, or it is asked for.`,
    usage: "[list|get|delete] [N]",
    permissions: "--allow-net --allow-env=MAIL_PASSWORD",
    flags: {
      ...clientFlags(PORT),
      user: flag("NAME", "whose mailbox it is", checkUser, "mail"),
    },
  }, async ({ name, user, ...flags }, verb, n) => {
    const command = oneOf("list", "get", "delete")(verb ?? "list");
    if (command === "list" && n !== undefined) throw new UsageError(`unexpected argument ${n}`);
    if (command !== "list" && n === undefined) throw new UsageError("N is missing");
    const message = command === "list" ? 0 : number(1, 999_999_999)(n);
    const conn = new FramedConn(await connect(flags), flags);
    const say = (line: string) => console.error(`${name}: ${line}`);
    let octets: Uint8Array = new Uint8Array();
    try {
      const pop = new Pop3Connection(conn);
      await pop.greet();
      await pop.login(user, await askPassword("MAIL_PASSWORD", "password: "));
      if (command === "list" && await list(pop) === 0) say("no messages");
      if (command === "get") octets = await pop.retrieve(message);
      if (command === "delete") await pop.delete(message);
      await pop.quit();
      if (command === "delete") say(`deleted ${message}`);
    } catch (error) {
      throw error instanceof UsageError ? error : named(conn.peer, error);
    } finally {
      await conn.end();
    }
    await print(octets);
  });
}
