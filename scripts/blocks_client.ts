#!/usr/bin/env -S deno run --allow-net
/**
 * A client that sends messages in blocks: a length of four octets in network order, then so many
 * octets, which are a message in JSON, XML or V8's structured clone. It prints the receipt that
 * each is answered with, which is JSON whatever the format of the messages is.
 *
 *     deno run --allow-net scripts/blocks_server.ts --format json
 *     deno run --allow-net scripts/blocks_client.ts --format json --message '{"a": [1, 2]}'
 *
 * Mirrors "Network Data" of tutorial 002 and "Data Serialization and Deserialization" of tutorial
 * 000, which name it without a listing:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `json.dumps(message).encode()` | `JSON.stringify()`, `TextEncoder` |
 * | `xml.etree.ElementTree.tostring(element)` | `XMLBuilder` of fast-xml-parser, `TextEncoder` |
 * | `pickle.dumps(message)` | `serialize()` of `node:v8` |
 * | `struct.pack("!I", len(data))`, `sendall()` | `conn.writeBlock()`: `DataView.setUint32()`, `conn.write()` |
 * | `recv(n)` until 4 are there, `struct.unpack("!I", ...)`, `recv(n)` until all are | `conn.readBlock()`: `conn.read()`, `DataView.getUint32()` |
 * | `json.loads(receipt)` | `TextDecoder`, `JSON.parse()` |
 *
 * Without `--message` it sends three samples that only the structured clone brings over whole. JSON
 * makes text of a date and an empty object of a map. XML is made of what JSON keeps: all becomes
 * text, a list's items are elements named `item`, and of a list of one nobody can tell that it was
 * a list.
 *
 * @module
 */
import { serialize } from "node:v8";
import { XMLBuilder } from "fast-xml-parser";
import { connect, named } from "../lib/address.ts";
import { clientFlags, flag, main, oneOf } from "../lib/cli.ts";
import { FramedConn, printable } from "../lib/framing.ts";

const PORT = 1060;
const MAX_BLOCK = 1024 * 1024; // octets that the server takes
const MAX_RECEIPT = 4096; // octets
const utf8 = new TextDecoder("utf-8", { fatal: true });
const XML_NAME = /^(?!.*[ªµº])[\p{L}_][\p{L}\p{Nd}._-]*$/u; // those three are letters, but of no name
const NO_XML_TEXT = /(?![\t\n\x7f-\x9f])[\p{Cc}\p{Cs}\ufffe\uffff]/u; // a CR arrives as a LF
const SAMPLES = [
  { text: "Grüße", sent: new Date("1969-07-20T20:17:40Z"), zip: "01067" },
  new Map<string, unknown>([["äpfel", 3], ["birnen", { reif: 2, unreif: 0.5 }]]),
  { one: ["only"], two: ["first", { second: [true, null] }] },
];

/** How messages are serialised. */
export type Format = "json" | "xml" | "clone";

/** Makes a block of a message; throws an error if the format cannot hold it. */
export function encode(format: Format, message: unknown): Uint8Array {
  if (format === "clone") return serialize(message);
  const json = JSON.stringify(message);
  return new TextEncoder().encode(format === "json" ? json : asXml(json));
}

/** The element that holds what a JSON text does. */
function asXml(json: string): string {
  const message = JSON.parse(json, (_, value) => {
    if (Array.isArray(value)) return { item: value };
    const kind = typeof value === "string" ? "character" : "name";
    const wrong = kind === "character"
      ? NO_XML_TEXT.exec(value)?.[0]
      : Object.keys(value ?? {}).find((name) => !XML_NAME.test(name));
    if (wrong !== undefined) throw new Error(`XML has no such ${kind}: ${JSON.stringify(wrong)}`);
    return value ?? ""; // of a list the builder writes all nulls first
  });
  return new XMLBuilder().build({ message });
}

/**
 * Sends messages, one after the other's receipt, and prints the receipts. Were all sent before the
 * first receipt is read, the two sides could come to wait for each other: see `deadlock.ts`.
 *
 * @throws {Error} before anything is sent if a message cannot be; later it says how many were
 * acknowledged before the server refused one, answered something else, or ended.
 */
export async function sendMessages(
  conn: FramedConn,
  format: Format,
  messages: unknown[],
  print: (line: string) => void,
): Promise<void> {
  const blocks = messages.map((message, i) => {
    try {
      const block = encode(format, message);
      if (block.length <= MAX_BLOCK) return block;
      throw new Error(`${block.length} bytes, more than ${MAX_BLOCK}`);
    } catch (error) {
      throw named(`message ${i + 1}`, error);
    }
  });
  for (const [i, block] of blocks.entries()) {
    try {
      await conn.writeBlock(block);
      const answer = await conn.readBlock(MAX_RECEIPT);
      if (answer === null) throw new Error("hung up");
      const text = utf8.decode(answer);
      const receipt = JSON.parse(text) ?? {}; // null would have no fields
      if (receipt.error !== undefined) throw new Error(`message refused: ${receipt.error}`);
      if (receipt.number !== i + 1 || receipt.octets !== block.length) {
        throw new Error(`not the receipt of message ${i + 1}`);
      }
      print(printable(text));
    } catch (error) {
      throw named(`${conn.peer}: ${i} of ${blocks.length} messages acknowledged`, error);
    }
  }
}

/** What `--message` means: JSON if it is that, else the text. */
function asMessage(argument: string): unknown {
  try {
    return JSON.parse(argument);
  } catch {
    return argument;
  }
}

if (import.meta.main) {
  await main({
    name: "blocks_client",
    about: "Sends messages in blocks and prints their receipts.",
    permissions: "--allow-net",
    flags: {
      ...clientFlags(PORT),
      format: flag("NAME", "json, xml, clone", oneOf("json", "xml", "clone"), "json"),
      message: {
        argument: "TEXT",
        help: "send this JSON, or text; may be repeated (three samples)",
        parse: (given: string[]) => given.length > 0 ? given.map(asMessage) : SAMPLES,
      },
    },
  }, async (flags) => {
    using conn = new FramedConn(await connect(flags), flags);
    await sendMessages(conn, flags.format, flags.message, console.log);
  });
}
