#!/usr/bin/env -S deno run
/**
 * Builds a mail message (RFC 5322, MIME of RFC 2045 to 2049) and writes it to stdout, its lines with
 * CRLF, as SMTP wants them.
 *
 *     echo 'Hello, Bob.' | deno run scripts/email_build.ts \
 *       --from 'Ann Lee <ann@example.org>' --to bob@example.org --subject Grüße
 *
 *     deno run --allow-read scripts/email_build.ts --from ann@example.org --to bob@example.org \
 *       --subject 'The licence' --attach LICENSE README.md | deno run scripts/email_parse.ts
 *
 * The text is FILE, or stdin. With `--html PAGE` the message has both, for the reader's program to
 * choose; if the text is empty, HTML alone. `<img src="cid:logo.png">` in the page shows the picture
 * of `--inline logo.png`. FILE and what flags name takes `--allow-read`.
 *
 * Mirrors "Building and Parsing E-Mail" of tutorial 002, which has no listing; in Python it is
 * `email.message.EmailMessage`:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `msg = EmailMessage()`, `msg["Subject"] = "Grüße"` | `buildMessage({ subject: "Grüße", ... })` |
 * | `Address("Ann Lee", addr_spec="ann@example.org")` | `parseMailbox("Ann Lee <ann@example.org>")` |
 * | `msg["Date"] = localtime()`, `msg["Message-ID"] = make_msgid()` | always there |
 * | `msg.set_content(text)`, `msg.add_alternative(html, subtype="html")` | `text`, `html` |
 * | `add_related(data, "image", "png", cid=make_msgid())` | `inline`, whose `cid:NAME` becomes the ID |
 * | `msg.add_attachment(data, maintype, subtype, filename=name)` | `attachments` |
 * | `mimetypes.guess_type(name)` | `contentType(extname(name))` of `@std/media-types` |
 * | `msg.as_bytes(policy=policy.SMTP)` | `new MailComposer(...).compile().build()` |
 *
 * The message names who gets it, but does not decide it: that is the envelope, the `--from` and
 * `--to` of `smtp_client.ts`. So there is no `--bcc`: name those to `smtp_client.ts` alone.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { basename, extname } from "@std/path";
import { contentType } from "@std/media-types/content-type";
import { UsageError } from "../lib/address.ts";
import { type Flag, main, optional, writeStdout } from "../lib/cli.ts";

const MAX_ADDRESS = 254; // octets (RFC 5321, 4.5.3.1.3, without the angle brackets)
const MAX_WORD = 800; // characters: a header is folded at blanks, and a line has 998 octets at most

const ATOM = String.raw`[^\s"(),.:;<>@[\\\]]+`; // in any script (RFC 6531)
const DOTTED = String.raw`${ATOM}(\.${ATOM})*`;
const QUOTED = String.raw`"([^"\\<>]|\\[^<>])+"`;
/** A local part, and a domain or an address literal such as `[192.0.2.1]`. */
const ADDRESS = new RegExp(String.raw`^(${DOTTED}|${QUOTED})@(${DOTTED}|\[[\w.:-]+\])$`);
const LONG_WORD = new RegExp(`[!-~]{${MAX_WORD + 1}}`);

/** A file that goes with a message. */
export type File = { name: string; data: Uint8Array };

/** What a message is made of. */
export type Mail = {
  from: string; // as parseMailbox() takes it, and so are these two
  to: string[];
  cc?: string[];
  subject?: string;
  text?: string;
  html?: string;
  inline?: File[]; // pictures that the HTML has as `cid:NAME`
  attachments?: File[];
};

/**
 * Reads a mailbox as people write it: `ann@example.org` or `Ann Lee <ann@example.org>`, the name
 * with or without quotes.
 *
 * @throws {UsageError} if it is none, or several, or could be taken for another header.
 */
export function parseMailbox(text: string): { name: string; address: string } {
  const [, quoted, name = "", inner] =
    /^\s*(?:"((?:[^"\\]|\\.)*)"|([^<>"]*?))\s*<([^<>]*)>\s*$/.exec(checkHeader(text)) ?? [];
  const address = inner ?? text.trim();
  if (ADDRESS.test(address) && Buffer.byteLength(address) <= MAX_ADDRESS) {
    return { name: quoted?.replace(/\\(.)/g, "$1") ?? name, address };
  }
  throw new UsageError(`${quote(text)} is not a mailbox (ann@example.org or Ann <ann@...>)`);
}

/** The text, if it can be in a header; with a line end in it, the rest would be a header of its own. */
function checkHeader(text: string): string {
  if (/\p{Cc}/u.test(text)) throw new UsageError(`${quote(text)} has a line end or the like in it`);
  if (!LONG_WORD.test(text)) return text;
  throw new UsageError(`${quote(text)} has a word of more than ${MAX_WORD} characters`);
}

function quote(text: string): string {
  return JSON.stringify(text.length > 60 ? `${text.slice(0, 60)}...` : text);
}

/** A file as MailComposer takes it: its content, never a path or a URL for it to read. */
function attach({ name, data }: File) {
  const type = contentType(extname(name))?.replace(/;.*/, "") ?? "";
  return {
    filename: checkHeader(name),
    content: Buffer.from(data.buffer, data.byteOffset, data.length),
    // A message in a message cannot be base64 (RFC 2046, 5.2.1), so it would not arrive as it is.
    contentType: /^(message\/.*|multipart\/.*|)$/.test(type) ? "application/octet-stream" : type,
    contentDisposition: "attachment",
  };
}

/**
 * Builds a message, its lines with CRLF.
 *
 * @throws {UsageError} for what cannot be in a header, and if the HTML and the pictures do not match.
 */
export async function buildMessage(mail: Mail): Promise<Uint8Array> {
  const { from, to, cc = [], subject = "", text = "", inline = [], attachments = [] } = mail;
  const pictures = new Map<string, File & { cid: string }>();
  for (const file of inline) {
    if (pictures.has(file.name)) throw new UsageError(`two pictures are named ${file.name}`);
    pictures.set(file.name, { ...file, cid: `${crypto.randomUUID()}@inline` });
  }
  const unused = new Set(pictures.values());
  const html = mail.html?.replace(/(?<=["'(=]\s*cid:)[^"'()\s>]+/gi, (reference) => {
    const picture = pictures.get(decodePercent(reference));
    if (!picture) {
      throw new UsageError(`the HTML has cid:${reference}, and there is no such picture`);
    }
    unused.delete(picture);
    return picture.cid;
  });
  for (const { name } of unused) {
    throw new UsageError(`the HTML does not have cid:${encodeURI(name)}`);
  }

  // Loaded only now: it takes as long as all the rest.
  const { default: MailComposer } = await import("nodemailer/lib/mail-composer");
  const composer = new MailComposer({
    from: parseMailbox(from),
    to: to.map(parseMailbox),
    cc: cc.map(parseMailbox),
    subject: checkHeader(subject),
    text: text.replace(/\r\n?/g, "\n"), // a CR alone may not be in a message (RFC 5322, 2.3)
    html: html?.replace(/\r\n?/g, "\n"),
    attachments: [
      ...Array.from(pictures.values(), (file) => ({
        ...attach(file),
        contentDisposition: "inline",
        cid: file.cid,
      })),
      ...attachments.map(attach),
    ],
    newline: "windows",
    disableFileAccess: true,
    disableUrlAccess: true,
  });
  return await composer.compile().build();
}

function decodePercent(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    return text; // a % that is just that
  }
}

/** Decodes UTF-8, which `where` has, or throws an error that says so. */
function decode(octets: Uint8Array, where: string): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(octets);
  } catch {
    throw new Error(`${where}: not UTF-8`);
  }
}

async function readFiles(paths: string[]): Promise<File[]> {
  const read = async (path: string) => ({ name: basename(path), data: await Deno.readFile(path) });
  return await Promise.all(paths.map(read));
}

function repeated(argument: string, help: string): Flag<string[]> {
  return { argument, help: `${help}; may be repeated`, parse: (given) => given };
}

if (import.meta.main) {
  await main({
    name: "email_build",
    about:
      "Builds a mail message (RFC 5322, MIME), its text from FILE or stdin, and writes it to\n" +
      "stdout. What is read of files takes --allow-read.",
    usage: "[FILE]",
    permissions: "",
    flags: {
      from: optional("MAILBOX", "whose message it is: ann@example.org or 'Ann <ann@example.org>'"),
      to: repeated("MAILBOX", "for whom it is"),
      cc: repeated("MAILBOX", "who gets a copy"),
      subject: optional("TEXT", "what it is about"),
      html: optional("PAGE", "a file with the same as HTML"),
      inline: repeated("PICTURE", "a file that PAGE has as cid:NAME"),
      attach: repeated("FILE", "a file that goes with it"),
    },
  }, async ({ name, from, to, cc, subject, html: page, inline, attach }, path) => {
    if (!from) throw new UsageError("--from MAILBOX is missing");
    if (to.length === 0) throw new UsageError("--to MAILBOX is missing");
    const html = page && decode(await Deno.readFile(page), page);
    const [pictures, attachments] = [await readFiles(inline), await readFiles(attach)];
    let text = "";
    if (path !== undefined) text = decode(await Deno.readFile(path), path);
    // With a page, nobody at a terminal has to type that there is no text.
    else if (html === undefined || !Deno.stdin.isTerminal()) {
      if (Deno.stdin.isTerminal()) console.error(`${name}: the text, then Ctrl-D`);
      text = decode(await new Response(Deno.stdin.readable).bytes(), "stdin");
    }
    // Whole before the first octet of it goes out: in a pipe half a message would be sent, too.
    const mail = { from, to, cc, subject, text, html, inline: pictures, attachments };
    await writeStdout(await buildMessage(mail));
  });
}
