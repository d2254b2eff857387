#!/usr/bin/env -S deno run --allow-net --allow-read --allow-write
/**
 * A mail server (SMTP, RFC 5321) that stores what it is sent in a Maildir, where POP3 and IMAP
 * servers and many mail programs find it.
 *
 *     deno run --allow-net --allow-read --allow-write scripts/smtp_server.ts mail
 *     printf 'Subject: hello\n\nHello, Bob.\n' | deno run --allow-net scripts/smtp_client.ts \
 *       --from ann@example.org --to bob@example.org
 *     nc -C 127.0.0.1 8025
 *
 * It takes mail for everybody, or with `--domain` for some domains only, and sends nothing on to
 * other servers. Once it says 250 to a message, that is on disk. A message becomes one file, however
 * many it is for. Only a dot between two CRLFs ends it, so with `nc` the option `-C` is needed.
 *
 * A message is in memory until it is stored, and so may be those of all connections at once:
 * `--max-connections` and `--max-size` limit that. STARTTLS is not offered, as Deno has only the
 * client's side of it; `--cert` gives TLS from the first octet. There is no login: whoever reaches
 * the port may send.
 *
 * Mirrors the chapter "SMTP" of tutorial 002, which has no listing, and Python's `smtpd`, since
 * Python 3.12 `aiosmtpd`:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `SMTPServer(address, None)`, `Controller(handler)` | `listen()`, `serve()` |
 * | `SMTPChannel`, `aiosmtpd.smtp.SMTP` | `converse()`, a `Session` for each client |
 * | `smtp_MAIL(arg)`, `smtp_RCPT(arg)` and so on | the commands in `Session` |
 * | `process_message()`, `handle_DATA()` | `Session.#data()` |
 * | `mailbox.Maildir(path).add(data)` | `maildir.deliver(data)`, which syncs as well |
 *
 * @module
 */
import { isIPv4, isIPv6 } from "node:net";
import { concat } from "@std/bytes/concat";
import { listen, reason, UsageError } from "../lib/address.ts";
import { flag, main, number, serverFlags, stopSignal } from "../lib/cli.ts";
import { type FramedConn, LimitError, printable } from "../lib/framing.ts";
import { Maildir } from "../lib/maildir.ts";
import { serve } from "../lib/server.ts";

const PORT = 8025; // SMTP's own is 25
const NAME = "localhost"; // what the server calls itself
const MAX_LINE = 512 + 26 + 17 + 10; // octets, the last for SIZE, 8BITMIME and SMTPUTF8
const [MAX_LOCAL_PART, MAX_DOMAIN] = [64, 255]; // octets
const MAX_RECIPIENTS = 100;
const MAX_BAD_COMMANDS = 10;
const MAX_GROUP = 4096; // octets of replies that are held back to be sent together
const EXTENSIONS = ["PIPELINING", "8BITMIME", "SMTPUTF8", "ENHANCEDSTATUSCODES"];
const encoder = new TextEncoder();

// The grammar of RFC 5321, 4.1.2 and 4.1.3, with the letters that RFC 6531 adds. What is not
// printable has been refused before.
const ATOM = String.raw`[^\s()<>@,;:\\".[\]]+`;
const LOCAL_PART = String.raw`${ATOM}(?:\.${ATOM})*|"(?:[^"\\]|\\.)*"`;
const LABEL = String.raw`[\p{L}\p{M}\p{N}]+(?:-+[\p{L}\p{M}\p{N}]+)*`;
const DOMAIN = String.raw`${LABEL}(?:\.${LABEL})*`;
const LITERAL = String.raw`\[[^\s\\[\]]+\]`;
const SOURCE_ROUTE = `@${DOMAIN}(?:,@${DOMAIN})*:`; // of old, to be ignored (appendix C)
const PATH = new RegExp(
  `^(FROM|TO): *<(?:(?:${SOURCE_ROUTE})?(${LOCAL_PART})(?:@(${DOMAIN}|${LITERAL}))?)?>( .*)?$`,
  "iu",
);

/** What to do with mail. */
export type Service = {
  maildir: Maildir; // where it goes
  maxSize: number; // octets of a message
  domains: string[]; // whose mail is taken, in lower case; none: everybody's
  log: (line: string) => void; // told of each message, and of each command that is refused
};

/** What one MAIL, its RCPTs and its DATA are about: the envelope. */
type Transaction = { reversePath: string; utf8: boolean; recipients: Set<string> };

/** A command is not obeyed; the message is the reply. */
class Refusal extends Error {}

/** Serves a client until it leaves. Throws what reading and writing do, and if it was sent away. */
export async function converse(conn: FramedConn, service: Service): Promise<void> {
  await new Session(conn, service).converse();
}

class Session {
  #helo = ""; // the client's name, as it says
  #extended = false; // it said EHLO
  #transaction?: Transaction;
  #replies = `220 ${NAME} ESMTP\r\n`; // not sent yet

  constructor(readonly conn: FramedConn, readonly service: Service) {}

  async converse(): Promise<void> {
    const { conn, service } = this;
    await this.#flush();
    for (let line, bad = 0; (line = await this.#readLine()) !== null;) {
      // A Web page can make a browser send lines to any port, after one of these.
      if (/^(GET|POST) \//.test(line)) throw new Error("closed, it speaks HTTP");
      const [, word, args] = /^(\S*) *(.*?) *$/s.exec(line) ?? [line, "", ""];
      const verb = word.toUpperCase();
      const subject = verb === "DATA" ? this.#describe() : line;
      const reply = await this.#execute(verb, args, line).catch((error) => {
        if (error instanceof Refusal) return error.message;
        throw error;
      });
      const refused = /^[45]/.test(reply);
      if (refused || verb === "DATA") service.log(`${conn.peer}: ${subject}: ${reply}`);
      this.#replies += `${reply}\r\n`;
      // Not 503: a client that does not wait sends many in vain after one that is refused.
      if (/^50[0124]/.test(reply) && ++bad === MAX_BAD_COMMANDS) {
        this.#replies += `421 4.7.0 ${NAME} closes, too many bad commands\r\n`;
        await this.#flush();
        throw new Error(`closed after ${bad} bad commands`);
      }
      // RFC 2920, 3.2: of other commands the client waits for the reply.
      const grouped = /^(MAIL|RCPT|RSET)$/.test(verb) && conn.buffered > 0;
      if (!grouped || this.#replies.length > MAX_GROUP) await this.#flush();
      if (reply.startsWith("221")) return;
    }
  }

  async #readLine(): Promise<string | null> {
    try {
      return await this.conn.readLine(MAX_LINE);
    } catch (error) {
      if (error instanceof LimitError) this.#replies += `500 5.5.2 ${error.message}\r\n`;
      await this.#flush();
      throw error;
    }
  }

  async #flush(): Promise<void> {
    const replies = this.#replies;
    this.#replies = "";
    await this.conn.writeAll(replies);
  }

  #describe(): string {
    if (!this.#transaction) return "DATA";
    const recipients = Array.from(this.#transaction.recipients, (address) => `<${address}>`);
    return `from <${this.#transaction.reversePath}> for ${recipients.join(", ") || "nobody"}`;
  }

  /** Does what a command asks for, and returns the reply. */
  async #execute(verb: string, args: string, line: string): Promise<string> {
    if (printable(line) !== line || line.includes("\ufffd")) {
      throw new Refusal("500 5.5.2 Control characters, or octets that are not UTF-8");
    }
    if (/^(DATA|RSET|QUIT)$/.test(verb) && args) {
      throw new Refusal(`501 5.5.4 ${verb} stands alone`);
    }
    switch (verb) {
      case "HELO":
      case "EHLO":
        if (!/^\S+$/.test(args)) throw new Refusal(`501 ${verb} is followed by the client's name`);
        this.#transaction = undefined;
        [this.#helo, this.#extended] = [args, verb === "EHLO"];
        if (!this.#extended) return `250 ${NAME}`;
        return [`250-${NAME}`, ...EXTENSIONS, `SIZE ${this.service.maxSize}`].join("\r\n250-") +
          "\r\n250 HELP";
      case "MAIL":
        return this.#mail(args);
      case "RCPT":
        return this.#rcpt(args);
      case "DATA":
        return await this.#data();
      case "RSET":
        this.#transaction = undefined;
        return "250 2.0.0 Forgotten";
      case "NOOP":
        return "250 2.0.0 OK";
      case "VRFY":
        if (!args) throw new Refusal("501 5.5.4 VRFY is followed by an address");
        return "252 2.0.0 Not verified; RCPT tells whether mail for it is taken";
      case "HELP":
        return "214 2.0.0 HELO EHLO MAIL RCPT DATA RSET NOOP VRFY HELP QUIT, as in RFC 5321";
      case "QUIT":
        return `221 2.0.0 ${NAME} closes`;
      case "AUTH":
      case "BDAT":
      case "EXPN":
      case "STARTTLS":
        throw new Refusal(`502 5.5.1 There is no ${verb} here`);
      default:
        throw new Refusal("500 5.5.2 No such command");
    }
  }

  #mail(args: string): string {
    if (!this.#helo) throw new Refusal("503 5.5.1 EHLO or HELO comes first");
    if (this.#transaction) throw new Refusal("503 5.5.1 MAIL was given already, RSET forgets it");
    const { address, utf8, parameters } = parsePath("FROM", args);
    for (const [keyword, value] of parameters) {
      const known = this.#extended ? keyword : "";
      if (known === "SIZE") {
        if (!/^\d{1,20}$/.test(value)) throw new Refusal("501 5.5.4 SIZE is a number of octets");
        if (Number(value) > this.service.maxSize) throw this.#tooLarge();
      } else if (known === "BODY") {
        if (!/^(7BIT|8BITMIME)$/i.test(value)) {
          throw new Refusal("504 5.5.4 BODY is 8BITMIME or 7BIT");
        }
      } else if (known !== "SMTPUTF8" || value) {
        throw new Refusal("555 5.5.4 A parameter is not known here");
      }
    }
    this.#transaction = { reversePath: address, utf8, recipients: new Set() };
    return "250 2.1.0 OK";
  }

  #rcpt(args: string): string {
    if (!this.#transaction) throw new Refusal("503 5.5.1 MAIL comes first");
    const { utf8, recipients } = this.#transaction;
    const { address, domain, parameters } = parsePath("TO", args, utf8);
    if (parameters.length > 0) throw new Refusal("555 5.5.4 A parameter is not known here");
    const { domains } = this.service;
    if (domain && domains.length > 0 && !domains.includes(domain.toLowerCase())) {
      throw new Refusal(`550 5.7.1 Mail for ${domain} is not taken here`);
    }
    if (recipients.size >= MAX_RECIPIENTS && !recipients.has(address)) {
      throw new Refusal(`452 4.5.3 A message may have ${MAX_RECIPIENTS} recipients`);
    }
    recipients.add(address);
    return "250 2.1.5 OK";
  }

  async #data(): Promise<string> {
    const { conn, service } = this;
    const transaction = this.#transaction;
    if (!transaction?.recipients.size) {
      throw new Refusal(`503 5.5.1 ${transaction ? "RCPT" : "MAIL"} comes first`);
    }
    this.#replies += "354 The message, and then a line that is a dot\r\n";
    await this.#flush();
    this.#transaction = undefined; // whatever becomes of it
    const text = await conn.readDotLines(service.maxSize).catch((error) => {
      throw error instanceof LimitError ? this.#tooLarge() : error;
    });
    try {
      await service.maildir.deliver(concat([encoder.encode(this.#trace(transaction)), text]));
    } catch (error) {
      service.log(`${conn.peer}: cannot store it: ${reason(error)}`);
      throw new Refusal("451 4.3.0 It cannot be stored now, try again later");
    }
    return `250 2.0.0 ${text.length} octets stored`;
  }

  #tooLarge(): Refusal {
    return new Refusal(`552 5.3.4 A message may have ${this.service.maxSize} octets`);
  }

  /** The lines that delivery puts above a message (RFC 5321, 4.4; RFC 9228). */
  #trace({ reversePath, utf8, recipients }: Transaction): string {
    const { conn } = this.conn;
    const [host] = this.conn.peer.split(/:\d+$/);
    const literal = host.startsWith("[") ? host.replace("[", "[IPv6:") : `[${host}]`;
    const from = this.#helo.replace(/[^\w.:[\]-]/g, "?") +
      ("hostname" in conn.remoteAddr ? ` (${literal})` : "");
    const secure = this.#extended && "handshake" in conn ? "S" : "";
    const protocol = `${utf8 ? "UTF8" : this.#extended ? "E" : ""}SMTP${secure}`;
    return [
      `Return-Path: <${reversePath}>`,
      ...Array.from(recipients, (address) => `Delivered-To: ${address}`),
      `Received: from ${from}`,
      ` by ${NAME} with ${protocol};`,
      ` ${new Date().toUTCString().replace("GMT", "+0000")}`,
      "",
    ].join("\r\n");
  }
}

/** Reads what follows MAIL or RCPT: `FROM:<local-part@domain> KEYWORD=value ...`. */
function parsePath(keyword: "FROM" | "TO", args: string, utf8 = false) {
  const [what, status] = keyword === "FROM" ? ["MAIL", "5.1.7"] : ["RCPT", "5.1.3"];
  const [, found, local = "", domain = "", rest = ""] = PATH.exec(args) ?? [];
  const mayLackDomain = keyword === "FROM" ? local === "" : /^postmaster$/i.test(local);
  if (found?.toUpperCase() !== keyword || !(domain ? isDomain(domain) : mayLackDomain)) {
    throw new Refusal(`501 ${status} It is ${what} ${keyword}:<name@domain>`);
  }
  if (octets(local) > MAX_LOCAL_PART || octets(domain) > MAX_DOMAIN) {
    throw new Refusal(`501 ${status} The address is too long`);
  }
  const parameters = rest.split(" ").filter((word) => word).map((word): [string, string] => {
    const [, name, value = ""] = /^([a-z0-9][a-z0-9-]*)(?:=([^=]+))?$/i.exec(word) ?? [];
    if (!name) throw new Refusal("501 5.5.4 A parameter is not KEYWORD or KEYWORD=value");
    return [name.toUpperCase(), value];
  });
  const address = domain ? `${local}@${domain}` : local;
  utf8 ||= parameters.some(([name]) => name === "SMTPUTF8");
  if (!utf8 && octets(address) > address.length) {
    throw new Refusal("553 5.6.7 An address that is not ASCII needs SMTPUTF8 with MAIL");
  }
  return { address, domain, utf8, parameters };
}

/** Whether it is a name, which the grammar has seen to, or an IP address in brackets. */
function isDomain(domain: string): boolean {
  if (!domain.startsWith("[")) return true;
  const literal = domain.slice(1, -1);
  return /^IPv6:/i.test(literal) ? isIPv6(literal.slice(5)) : isIPv4(literal);
}

function octets(text: string): number {
  return encoder.encode(text).length;
}

function parseDomain(text: string): string {
  if (new RegExp(`^${DOMAIN}$`, "u").test(text)) return text.toLowerCase();
  throw new UsageError(`${text} is not a domain`);
}

if (import.meta.main) {
  await main({
    name: "smtp_server",
    about: "Takes mail and stores it in MAILDIR, which is made if it is not there.",
    usage: "MAILDIR",
    permissions: "--allow-net --allow-read --allow-write",
    flags: {
      ...serverFlags(PORT),
      domain: {
        argument: "NAME",
        help: "take mail for this domain only; may be repeated (every one)",
        parse: (given: string[]) => given.map(parseDomain),
      },
      maxSize: flag("N", "refuse messages of more octets", number(1, 1e9), "10485760"),
    },
  }, async (flags, path) => {
    const listener = await listen(flags);
    const service = {
      maildir: await Maildir.open(path),
      maxSize: flags.maxSize,
      domains: flags.domain,
      log: (line: string) => console.error(`${flags.name}: ${printable(line)}`),
    };
    const options = { ...flags, signal: stopSignal() };
    await serve(listener, (conn) => converse(conn, service), options);
  });
}
