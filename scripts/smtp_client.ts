#!/usr/bin/env -S deno run --allow-net
/**
 * An SMTP client (RFC 5321): hands a message, as it is, to a mail server for some recipients.
 *
 *     deno run --allow-net --allow-read --allow-write scripts/smtp_server.ts mail
 *     printf 'Subject: hello\n\nHello, Bob.\n' | deno run --allow-net scripts/smtp_client.ts \
 *       --from ann@example.org --to bob@example.org
 *
 * A FILE in place of stdin takes `--allow-read`, and `--user` takes `--allow-env=SMTP_PASSWORD`.
 *
 * Mirrors "SMTP" of tutorial 002 and its row in 003, which name Python's `smtplib` without a listing:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `smtp = smtplib.SMTP(host, port, timeout=10)` | `connect()`: `Deno.connect()`, `smtp.open()` |
 * | `smtplib.SMTP_SSL(host, port, context=...)` | the same with `--tls`: `Deno.startTls()` at once |
 * | `smtp.ehlo_or_helo_if_needed()`, `smtp.esmtp_features` | `smtp.hello()`, `smtp.extensions` |
 * | `smtp.starttls(context=...)`, `smtp.ehlo()` | `smtp.startTls()`: `Deno.startTls()`, `smtp.hello()` |
 * | `smtp.login(user, password)` | `smtp.login()`: PLAIN or LOGIN, in the clear on this machine only |
 * | `smtp.sendmail(a, [b, c], text, mail_options=[...])` | `smtp.send(a, [b, c], examine(octets), refused)` |
 * | the dict of refused recipients that it returns | `refused()`, told of each; a line on stderr |
 * | `smtp.getreply()`, `SMTPResponseException` | `readReply()`, an Error with the server's words |
 * | `smtp.quit()` | `smtp.quit()` |
 *
 * The envelope is `--from` and `--to`, and the headers are not looked at for it, as in `sendmail()`.
 * `send_message()` takes it from them, and takes Bcc out of what is sent. Nothing is rewritten here:
 * a message with a Bcc line, which would tell everybody of everybody (RFC 5322, 3.6.3), is refused
 * before anything is sent. So are a CR without its LF, which may not be sent (2.3.8; `sendmail()` of
 * a str makes a line end of it), and a line of more than 998 octets, which servers cut or refuse.
 * Only a LF becomes the CRLF that it has to be.
 *
 * A server may take minutes over a message before it accepts it (4.5.3.2.6): `--timeout 600` waits.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { encodeBase64 } from "@std/encoding/base64";
import { connect, isPrivate, named, readPem, UsageError } from "../lib/address.ts";
import { askPassword, clientFlags, main, optional, toggle } from "../lib/cli.ts";
import { FramedConn, LimitError, printable } from "../lib/framing.ts";

const PORT = 8025;
const MAX_REPLY_LINE = 4096; // octets, though servers have to make do with 512 (4.5.3.1.5)
const MAX_REPLY_LINES = 100;

/** A reply of the server (RFC 5321, 4.2): the code, and the text of each line. */
export type Reply = { code: number; lines: string[] };

/**
 * Reads a reply.
 *
 * @throws {Deno.errors.UnexpectedEof} if the server hangs up first, {@linkcode LimitError} if it is
 * too long; an Error if it is no reply.
 */
export async function readReply(conn: FramedConn): Promise<Reply> {
  const lines: string[] = [];
  for (let code = ""; lines.length < MAX_REPLY_LINES;) {
    const line = await conn.readLine(MAX_REPLY_LINE);
    if (line === null) throw new Deno.errors.UnexpectedEof("hung up without an answer");
    const [, digits, mark, text = ""] = /^([2-5]\d\d)(?:([ -])(.*))?$/s.exec(line) ?? [];
    if (!digits) throw new Error(`not a reply of SMTP: ${line.slice(0, 80)}`);
    if (code && digits !== code) throw new Error(`a reply of two codes, ${code} and ${digits}`);
    code = digits;
    lines.push(text);
    if (mark !== "-") return { code: Number(code), lines };
  }
  throw new LimitError(`reply of more than ${MAX_REPLY_LINES} lines`);
}

/** A reply as people read it. */
export function formatReply({ code, lines }: Reply): string {
  return `${code} ${lines.join(" ")}`.trimEnd();
}

function refusal(what: string, reply: Reply): Error {
  return new Error(`${what}: the server says ${formatReply(reply)}`);
}

/** A message, and what the server must be told of it. */
export type Message = {
  octets: Uint8Array;
  size: number; // in octets as SIZE counts them (RFC 1870, 5): every line with CRLF, no dot stuffed
  eightBit: boolean; // octets above 127, for which the server must have 8BITMIME (RFC 6152)
  international: boolean; // and some in the header, for which it must have SMTPUTF8 (RFC 6531)
};

/** Looks through a message. Throws an Error with the number of a line that cannot be sent. */
export function examine(octets: Uint8Array): Message {
  if (octets.length === 0) throw new Error("the message is empty");
  const text = Buffer.from(octets).toString("latin1");
  const [header] = text.split(/(?:^|\n)\r?\n/, 1);
  const refuse = (part: string, pattern: RegExp, what: string) => {
    const at = part.search(pattern);
    if (at >= 0) throw new Error(`line ${part.slice(0, at).split("\n").length} has ${what}`);
  };
  // A text alone would be taken for a header, and readers show nothing of it.
  refuse(text, /^(?!\r?\n|[!-9;-~]+[ \t]*:)/, "no header field (Name: value)");
  refuse(text, /\r(?!\n)/, "a CR without its LF");
  refuse(text, /^[^\r\n]{999}/m, "more than 998 octets"); // and its CRLF (4.5.3.1.6)
  refuse(header, /^(?:resent-)?bcc\s*:/im, "Bcc, which all would see (--to is enough)");
  let size = octets.length + (text.endsWith("\n") ? 0 : 2);
  for (let at = -1; (at = text.indexOf("\n", at + 1)) >= 0;) if (text[at - 1] !== "\r") size++;
  const isEightBit = /[\x80-\xff]/;
  return {
    octets,
    size,
    eightBit: isEightBit.test(text),
    international: isEightBit.test(header),
  };
}

/**
 * Returns a mailbox (4.1.2) as it is. Whether there is one of that name the server knows; here it
 * need only stay one argument of one command.
 *
 * @throws {UsageError} if it would not: a control character, or outside of quotes a blank, an angle
 * bracket or a comma.
 */
export function checkMailbox(text: string): string {
  if (/^(?:"(?:[^"\\\p{Cc}]|\\\P{Cc})*"|[^"<>,\p{Cc}\p{Z}])+$/u.test(text)) return text;
  throw new UsageError(`${JSON.stringify(text)} is not a mail address (ann@example.org)`);
}

/** A client that has no name gives its address (4.1.4). */
function addressLiteral(address: Deno.Addr): string {
  if (!("hostname" in address)) return "localhost"; // a Unix socket
  return address.hostname.includes(":") ? `[IPv6:${address.hostname}]` : `[${address.hostname}]`;
}

/**
 * A connection to a mail server. Its methods throw an Error with the server's words if it says no,
 * what {@linkcode readReply} throws, or the connection's error.
 */
export class SmtpConnection {
  /** What the server offers, by the keywords of its answer to EHLO, with their parameters. */
  readonly extensions = new Map<string, string[]>();

  /** Takes over `conn`, in whose place {@linkcode startTls} puts another. */
  constructor(public conn: FramedConn) {}

  /** Waits for the greeting, and says hello. */
  async open(): Promise<void> {
    const greeting = await readReply(this.conn);
    if (greeting.code !== 220) throw refusal("greeting", greeting);
    await this.hello();
  }

  /** Says EHLO, or HELO to a server that does not know that, and has no extensions. */
  async hello(): Promise<void> {
    this.extensions.clear();
    const name = addressLiteral(this.conn.conn.localAddr);
    const reply = await this.#ask(`EHLO ${name}`);
    if (reply.code >= 500) return await this.#command(`HELO ${name}`);
    if (reply.code >= 300) throw refusal("EHLO", reply);
    for (const line of reply.lines.slice(1)) {
      const [keyword, ...parameters] = line.toUpperCase().split(" ");
      this.extensions.set(keyword, parameters);
    }
  }

  /**
   * Goes over to TLS (RFC 3207), and forgets what was said before. If that fails nothing goes on in
   * the clear.
   *
   * @param host whom the server's certificate must name.
   * @param ca a file with root certificates besides the usual ones, PEM.
   */
  async startTls(host: string, ca?: string): Promise<void> {
    const caCerts = ca ? [await readPem(ca)] : [];
    if (!this.extensions.has("STARTTLS")) throw new Error("the server does not offer STARTTLS");
    await this.#command("STARTTLS");
    if (this.conn.buffered > 0) {
      // Read later, it would pass for what the server says over TLS.
      throw new Error("the server, or somebody on the way, went on in the clear after STARTTLS");
    }
    const secure = await Deno.startTls(this.conn.conn as Deno.TcpConn, { hostname: host, caCerts });
    this.conn = new FramedConn(secure, this.conn.options);
    await this.hello();
  }

  /**
   * Logs in by AUTH (RFC 4954), with PLAIN (RFC 4616) or else LOGIN.
   *
   * @throws {UsageError} before the password is sent, if somebody on the way could read it.
   */
  async login(user: string, password: string): Promise<void> {
    if (!isPrivate(this.conn.conn)) {
      throw new UsageError("a password is not sent without TLS (--starttls or --tls)");
    }
    const offered = this.extensions.get("AUTH") ?? [];
    const mechanism = ["PLAIN", "LOGIN"].find((name) => offered.includes(name));
    if (offered.length === 0) throw new Error("the server does not offer AUTH");
    if (!mechanism) throw new Error(`no AUTH by PLAIN or LOGIN, but by ${offered.join(", ")}`);
    // As answers, not behind AUTH, where a long one would not fit into a line (RFC 4954, 4).
    const answers = mechanism === "PLAIN" ? [`\0${user}\0${password}`] : [user, password];
    let reply = await this.#ask(`AUTH ${mechanism}`);
    for (const answer of answers) {
      if (reply.code !== 334) throw refusal("AUTH", reply);
      reply = await this.#ask(encodeBase64(answer), "***");
    }
    if (reply.code !== 235) throw refusal("AUTH", reply);
  }

  /**
   * Sends a message, from `sender` (the reverse-path, "" if nobody wants to hear of a failure), to
   * those of the recipients that the server accepts.
   *
   * @param refused told of each that it does not, and what it says.
   * @returns what it says when it accepts the message, to deliver it itself from then on; undefined
   * if it refuses all recipients.
   * @throws {UsageError} if one of them is no mail address; an Error, too, if the message needs what
   * the server does not offer, in both cases with nothing sent.
   */
  async send(
    sender: string,
    recipients: string[],
    message: Message,
    refused: (recipient: string, reply: Reply) => void,
  ): Promise<Reply | undefined> {
    if (sender !== "") checkMailbox(sender);
    recipients.forEach(checkMailbox);
    const parameters = this.#parameters(message, [sender, ...recipients]);
    await this.#command([`MAIL FROM:<${sender}>`, ...parameters].join(" "));
    let accepted = 0;
    for (const recipient of recipients) {
      const reply = await this.#ask(`RCPT TO:<${recipient}>`);
      if (reply.code === 421) throw refusal("RCPT", reply); // it is about to hang up
      if (reply.code >= 300) refused(recipient, reply);
      else accepted++;
    }
    if (accepted === 0) return undefined;
    const go = await this.#ask("DATA");
    if (go.code !== 354) throw refusal("DATA", go);
    return await this.#deliver(message.octets);
  }

  /** What stands behind the address in MAIL. */
  #parameters({ size, eightBit, international }: Message, addresses: string[]): string[] {
    const need = (extension: string, why: string) => {
      if (this.extensions.has(extension)) return;
      throw new Error(`${why}, and the server does not offer ${extension}`);
    };
    const parameters = [];
    const [limit] = this.extensions.get("SIZE") ?? [];
    if (Number(limit) > 0 && size > Number(limit)) {
      throw new Error(`the message has ${size} octets, and the server takes ${limit}`);
    }
    if (this.extensions.has("SIZE")) parameters.push(`SIZE=${size}`);
    if (eightBit) {
      need("8BITMIME", "the message has octets above 127");
      parameters.push("BODY=8BITMIME");
    }
    if (international || /[^\0-\x7f]/.test(addresses.join())) {
      need("SMTPUTF8", "an address or the header is not ASCII");
      parameters.push("SMTPUTF8");
    }
    return parameters;
  }

  /** Sends the octets of the message and the dot, and returns the reply that accepts it. */
  async #deliver(octets: Uint8Array): Promise<Reply> {
    await this.#expectSilence();
    const cut = await this.conn.writeDotLines(octets).then(() => undefined, (error) => error);
    const doubt = (why: unknown) =>
      cut
        ? named("cut off in the message, which is not delivered", cut)
        : named("nobody knows whether the message is delivered", why);
    // A server that hangs up in the middle may have said why.
    const reply = await readReply(this.conn).catch((error) => {
      throw doubt(error);
    });
    if (reply.code < 300 && !cut) return reply;
    throw reply.code < 400 ? doubt(refusal("message", reply)) : refusal("message", reply);
  }

  /** Says QUIT, and closes. All is done by then: how the server takes it does not matter. */
  async quit(): Promise<void> {
    await this.#ask("QUIT").catch(() => {});
    await this.conn.end();
  }

  /** Sends a command that is done or refused: the first digit of the reply tells (4.2.1). */
  async #command(line: string): Promise<void> {
    const reply = await this.#ask(line);
    if (reply.code >= 300) throw refusal(line.split(" ", 1)[0], reply);
  }

  /** Sends a line, `shown` in its place in a trace, and returns the reply. */
  async #ask(line: string, shown = line): Promise<Reply> {
    await this.#expectSilence();
    // A server that has hung up may have said why, and if not the reading fails.
    await this.conn.writeAll(`${line}\r\n`, `${shown}\r\n`).catch(() => {});
    return await readReply(this.conn);
  }

  /** Throws what the server said unasked, and closes: it would pass for the next answer. */
  async #expectSilence(): Promise<void> {
    if (this.conn.buffered === 0) return;
    throw refusal("unasked", await readReply(this.conn).finally(() => this.conn.close()));
  }
}

async function readMessage(file?: string): Promise<Message> {
  const octets = file === undefined
    ? await new Response(Deno.stdin.readable).bytes()
    : await Deno.readFile(file);
  try {
    return examine(octets);
  } catch (error) {
    throw named(file ?? "stdin", error);
  }
}

if (import.meta.main) {
  await main({
    name: "smtp_client",
    about: `Sends a message, FILE or else stdin, to a mail server for the recipients.

--user needs --allow-env=SMTP_PASSWORD, and asks for the password if that is not set.`,
    usage: "[FILE]",
    permissions: "--allow-net",
    flags: {
      from: {
        argument: "ADDR",
        help: "the sender, who hears of failures; '<>' for nobody",
        parse: (given: string[]) => {
          const text = given.at(-1);
          if (text === undefined) throw new UsageError("ADDR is missing");
          return text === "<>" ? "" : checkMailbox(text);
        },
      },
      to: {
        argument: "ADDR",
        help: "a recipient; repeated for each",
        parse: (given: string[]) => {
          if (given.length === 0) throw new UsageError("ADDR is missing");
          return given.map(checkMailbox);
        },
      },
      user: optional("NAME", "log in, over TLS or on this machine only"),
      ...clientFlags(PORT),
      starttls: toggle("TLS by STARTTLS, or nothing is sent; the server verified"),
    },
  }, async ({ name, from, to, user, starttls, ...flags }, file) => {
    if (starttls && (flags.tls || flags.unix)) {
      throw new UsageError("--starttls does not go with --tls or --unix");
    }
    const password = user === undefined ? "" : await askPassword("SMTP_PASSWORD", "password: ");
    if (file === undefined && Deno.stdin.isTerminal()) {
      console.error(`${name}: header fields, an empty line and the text, then Ctrl-D`);
    }
    const message = await readMessage(file);
    const endpoint = starttls ? { ...flags, ca: undefined } : flags;
    const smtp = new SmtpConnection(new FramedConn(await connect(endpoint), flags));
    const say = (line: string) => console.error(`${name}: ${printable(line)}`);
    let accepted = to.length;
    try {
      await smtp.open();
      if (starttls) await smtp.startTls(flags.host, flags.ca);
      if (user !== undefined) await smtp.login(user, password);
      const reply = await smtp.send(from, to, message, (recipient, reply) => {
        accepted--;
        say(`${recipient}: ${formatReply(reply)}`);
      });
      if (reply) say(`accepted for ${accepted} of ${to.length}: ${formatReply(reply)}`);
      return accepted < to.length ? 1 : 0;
    } catch (error) {
      throw named(smtp.conn.peer, error);
    } finally {
      await smtp.quit();
    }
  });
}
