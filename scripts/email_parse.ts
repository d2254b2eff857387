#!/usr/bin/env -S deno run
/**
 * Reads a mail message (RFC 5322, MIME of RFC 2045 to 2049): prints its headers decoded, its structure
 * as a tree, its attachments, and its text.
 *
 *     deno run --allow-read scripts/email_parse.ts message.eml
 *     deno run --allow-read --allow-write scripts/email_parse.ts --save photos message.eml
 *
 * Without FILE it reads stdin, and needs no permission. `--save` stores the attachments in a folder,
 * under names that are safe there, and never over a file that is there.
 *
 * Mirrors "Building and Parsing E-Mail" of tutorial 002, which has no listing; in Python it is
 * `email`:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `msg = message_from_binary_file(f, policy=policy.default)` | `await parseMessage(octets)`: `new PostalMime().parse()` |
 * | `msg.items()`, decoded by the policy | `message.headers`: `decodeWords()` |
 * | `msg.iter_parts()`, `part.get_content_type()` | `entity.parts`, `entity.type` |
 * | `email.iterators._structure(msg)` | `outline(entity)` |
 * | `msg.get_body(("plain", "html")).get_content()` | `message.text` |
 * | `msg.iter_attachments()`, `part.get_filename()` | `attachments(entity)`, `entity.name` |
 * | `part.get_payload(decode=True)` | `entity.content` |
 *
 * A message in a message is an attachment, whose structure is shown, too. If there is no text, the
 * HTML is shown, as it is. What comes neither as base64 nor as quoted-printable is lines, and they
 * end with LF here.
 *
 * @module
 */
import { concat } from "@std/bytes/concat";
import { extname, join } from "@std/path";
import PostalMime, { decodeWords } from "postal-mime";
import { named, reason } from "../lib/address.ts";
import { main, optional, writeStdout } from "../lib/cli.ts";
import { LimitError, printable, printableText } from "../lib/framing.ts";

const MAX_MESSAGE = 32 * 1024 * 1024; // octets
/** Lines, and equals signs, which end base64: for each the parser may take 30 us and 1.5 KB. */
const MAX_PIECES = 500_000;
const MAX_PARTS = 10_000;
const MAX_DEPTH = 10; // messages in each other
const MAX_STEM = 150; // octets of a file's name, of 255 with its extension and a number
const MESSAGE = "message/rfc822";
const [LF, EQUALS] = [0x0a, 0x3d];

/** An entity (RFC 2045, 2.4): a message, or a part of one. All of it is as the mail has it. */
export type Entity = {
  type: string; // such as `text/plain`, in lower case
  charset?: string;
  name?: string; // of a file
  content: Uint8Array; // decoded
  parts: Entity[]; // of a multipart, or the message in this message/rfc822
  isText: boolean; // to be read with the message
  unread?: string; // why there is no looking into it
};

/** A message as a person reads it. */
export type Message = {
  headers: [name: string, value: string][]; // in their order, decoded
  root: Entity;
  text: string; // or HTML, if there is no text
};

/** What PostalMime makes of an entity. It has no other tree, and this one is not documented. */
type Node = {
  contentType: Header;
  contentDisposition: Header;
  contentTransferEncoding: { encoding: string };
  content: ArrayBuffer | null;
  childNodes: Node[];
  parentNode?: Node;
};
type Header = { parsed: { value: string; params: Record<string, string> } };

/**
 * Reads a message, whatever is wrong with it: what cannot be understood is text, or missing.
 *
 * @throws {LimitError} if it is too large, or has too many lines or parts; else an Error if its headers
 * are more than 2 MiB, or its multiparts more than 256 in each other.
 */
export function parseMessage(octets: Uint8Array): Promise<Message> {
  return parse(octets, { pieces: MAX_PIECES, parts: MAX_PARTS }, 1);
}

/** What a message, and those in it, may still have. */
type Left = { pieces: number; parts: number };

async function parse(octets: Uint8Array, left: Left, depth: number): Promise<Message> {
  if (octets.length === 0) throw new Error("the message is empty");
  if (octets.length > MAX_MESSAGE) throw new LimitError(`more than ${MAX_MESSAGE} bytes`);
  if (depth > MAX_DEPTH) throw new LimitError(`more than ${MAX_DEPTH} messages in each other`);
  for (const octet of octets) if (octet === LF || octet === EQUALS) left.pieces--;
  if (left.pieces < 0) throw new LimitError(`more than ${MAX_PIECES} lines and equals signs`);
  const parser = new PostalMime({ forceRfc822Attachments: true });
  const { headers, text, html } = await parser.parse(octets);
  const { root } = parser as unknown as { root: Node };

  async function toEntity(node: Node): Promise<Entity> {
    if (--left.parts < 0) throw new LimitError(`more than ${MAX_PARTS} parts`);
    const { value: type, params } = node.contentType.parsed;
    const { value: disposition, params: { filename } } = node.contentDisposition.parsed;
    const name = filename || params.name;
    const entity: Entity = {
      type,
      charset: params.charset,
      name: name ? decodeWords(name) : undefined,
      content: contentOf(node, octets),
      parts: [],
      isText: /^text\/(plain|html)$/.test(type) && disposition !== "attachment",
    };
    for (const child of node.childNodes) entity.parts.push(await toEntity(child));
    if (type !== MESSAGE) return entity;
    try {
      entity.parts.push((await parse(entity.content, left, depth + 1)).root);
    } catch (error) {
      entity.unread = reason(error);
    }
    return entity;
  }

  return {
    headers: headers.map(({ originalKey, value }) => [originalKey, decodeWords(value)]),
    root: await toEntity(root),
    text: text ?? html ?? "",
  };
}

/**
 * The parser ends each line with LF. The last line's end is the boundary's, if there is one after it
 * (RFC 2046, 5.1.1), and may be missing at the end of the message.
 */
function contentOf(node: Node, message: Uint8Array): Uint8Array {
  const content = new Uint8Array(node.content ?? []);
  const hasEnd = node.parentNode === undefined && message.at(-1) === LF;
  const exact = hasEnd || /base64/.test(node.contentTransferEncoding.encoding);
  return exact || content.at(-1) !== LF ? content : content.subarray(0, -1);
}

/** The structure: an entity in a line, and below it, two columns to the right, what it has in it. */
export function outline(entity: Entity): string[] {
  const { type, charset, parts, unread } = entity;
  const facts = [charset ? `${type}; charset=${charset}` : type || "no type"];
  if (parts.length === 0 || type === MESSAGE) facts.push(`${entity.content.length} bytes`);
  if (entity.name) facts.push(entity.name);
  if (unread) facts.push(`not looked into: ${unread}`);
  const below = parts.flatMap(outline).map((line) => `  ${line}`);
  return [printable(facts.join(", ")), ...below];
}

/** What is no text to be read with the message, or is a file, too. */
export function attachments(entity: Entity): Entity[] {
  const { type, parts, isText, name } = entity;
  if (parts.length > 0 && type !== MESSAGE) return parts.flatMap(attachments);
  return isText && !name ? [] : [entity];
}

/**
 * Makes a file's name out of one that a mail has: no path, not hidden, no option of a command, all of
 * it visible and in the order in which it is, not too long, and not empty.
 */
export function safeName(name = ""): string {
  const last = name.split(/[/\\]/).at(-1) ?? "";
  const [extension] = /\.[\p{L}\p{N}]{1,10}$/u.exec(last.slice(-21)) ?? [""];
  const stem = last.slice(0, last.length - extension.length);
  const { read } = new TextEncoder().encodeInto(stem, new Uint8Array(MAX_STEM)); // whole characters
  const visible = stem.slice(0, read).replace(/[\p{C}\p{Zl}\p{Zp}<>:"|?*]/gu, "_");
  return (visible.replace(/^[\s.-]+|[\s.]+$/g, "") || "attachment") + extension;
}

/**
 * Saves an attachment in a folder: whole or not at all, under a name that nothing there has, and never
 * executable.
 *
 * @param numbers the last number given to each name, where many may have the same.
 * @returns the path.
 * @throws the system's error.
 */
export async function save(
  { name: given, content }: Entity,
  folder: string,
  numbers: Map<string, number> = new Map(),
): Promise<string> {
  const name = safeName(given);
  const extension = extname(name);
  const stem = name.slice(0, name.length - extension.length);
  const part = join(folder, `.${crypto.randomUUID()}.part`);
  try {
    await Deno.writeFile(part, content, { createNew: true });
    for (;;) {
      const n = (numbers.get(name) ?? 0) + 1;
      numbers.set(name, n);
      const path = join(folder, n === 1 ? name : `${stem}-${n}${extension}`);
      if (await link(part, path)) return path;
    }
  } finally {
    await Deno.remove(part).catch(() => {}); // it was not made
  }
}

/** Gives a file a further name; false if something has that name, which a rename would replace. */
async function link(path: string, further: string): Promise<boolean> {
  try {
    await Deno.link(path, further);
    return true;
  } catch (error) {
    if (error instanceof Deno.errors.AlreadyExists) return false;
    throw error;
  }
}

/** Reads a stream; what is too large, not to its end. */
async function read(stream: ReadableStream<Uint8Array>): Promise<Uint8Array> {
  const chunks: Uint8Array[] = [];
  let size = 0;
  for await (const chunk of stream) {
    chunks.push(chunk);
    size += chunk.length;
    if (size > MAX_MESSAGE) break;
  }
  return concat(chunks);
}

function print(lines: string[]): Promise<void> {
  return writeStdout(new TextEncoder().encode(lines.map((line) => `${line}\n`).join("")));
}

if (import.meta.main) {
  await main({
    name: "email_parse",
    about: "Prints a mail message (RFC 5322, MIME) from FILE or stdin: headers, structure,\n" +
      "attachments, text. FILE takes --allow-read, and --save takes --allow-write besides.",
    usage: "[FILE]",
    permissions: "",
    flags: {
      save: optional("DIR", "store the attachments in this folder"),
    },
  }, async ({ name, save: folder }, path) => {
    const file = path === undefined ? Deno.stdin : await Deno.open(path);
    if (file.isTerminal()) console.error(`${name}: a message, then Ctrl-D`);
    const { headers, root, text } = await read(file.readable).then(parseMessage).catch((error) => {
      throw named(path ?? "stdin", error);
    });
    await print(headers.map(([name, value]) => printable(`${name}: ${value}`)));
    await print(["", ...outline(root)]);
    const files = attachments(root);
    if (files.length > 0) await print([""]);
    if (folder !== undefined) await Deno.mkdir(folder, { recursive: true });
    const numbers = new Map<string, number>();
    for (const file of files) {
      const facts = [file.name ?? "no name", file.type, `${file.content.length} bytes`];
      if (folder !== undefined) facts.push(`saved as ${await save(file, folder, numbers)}`);
      await print([printable(`attachment: ${facts.join(", ")}`)]);
    }
    if (text) await print(["", printableText(text.trimEnd())]);
  });
}
