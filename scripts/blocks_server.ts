#!/usr/bin/env -S deno run --allow-net
/**
 * A server for messages in blocks: a length of four octets in network order, then so many octets,
 * which are a message in JSON, XML or V8's structured clone. It prints each message and answers
 * with a receipt, a block as well, which is JSON whatever the format of the messages is.
 *
 *     deno run --allow-net scripts/blocks_server.ts --format clone
 *     deno run --allow-net scripts/blocks_client.ts --format clone
 *
 * Mirrors "Network Data" of tutorial 002 and "Data Serialization and Deserialization" of tutorial
 * 000, which name it without a listing:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `recv(n)` until 4 are there, `struct.unpack("!I", ...)`, `recv(n)` until all are | `conn.readBlock()`: `conn.read()`, `DataView.getUint32()` |
 * | `json.loads(data)` | `TextDecoder`, `JSON.parse()` |
 * | `xml.etree.ElementTree.fromstring(data)` | `TextDecoder`, `XMLParser` of fast-xml-parser |
 * | `pickle.loads(data)` | `deserialize()` of `node:v8` |
 * | `json.dumps(receipt).encode()` | `JSON.stringify()`, `TextEncoder` |
 * | `struct.pack("!I", len(data))`, `sendall()` | `conn.writeBlock()`: `DataView.setUint32()`, `conn.write()` |
 *
 * A pickle is a program: `loads()` imports and calls what it names, `os.system` too, so from a
 * stranger it is his program on your machine. A structured clone is data only (no functions, no
 * classes, no code), yet V8 takes the lengths in it at their word: a few octets can announce an
 * array that takes all memory. Hence `checkClone()`. And in every format a message that can be read
 * is not yet one that makes sense: its shape is still to be checked by whoever uses it.
 *
 * @module
 */
import { deserialize } from "node:v8";
import { XMLParser } from "fast-xml-parser";
import { listen, reason } from "../lib/address.ts";
import { flag, main, oneOf, serverFlags, stopSignal } from "../lib/cli.ts";
import { type FramedConn, LimitError, printable } from "../lib/framing.ts";
import { serve } from "../lib/server.ts";

const PORT = 1060;
const MAX_BLOCK = 1024 * 1024; // octets
const utf8 = new TextDecoder("utf-8", { fatal: true });
const xml = new XMLParser({
  ignoreAttributes: false,
  ignoreDeclaration: true,
  ignorePiTags: true,
  trimValues: false,
  parseTagValue: false, // 007 is no 7 to XML
  htmlEntities: true, // or it leaves `&#252;` as it stands
  jPath: false, // a path made up for each text takes ever longer, the longer the names are
  onDangerousProperty: (name: string) => name, // or it renames `toString`; `__proto__` it refuses
});

/** How messages are serialised. */
export type Format = "json" | "xml" | "clone";

/** Makes a value of a block; throws an error that says why if it is not one of this format. */
export function decode(format: Format, block: Uint8Array): unknown {
  if (format === "clone") {
    checkClone(block);
    return deserialize(block);
  }
  const text = utf8.decode(block);
  if (format === "json") return JSON.parse(text);
  // It could define entities, which unfold to far more than was sent.
  if (text.includes("<!D")) throw new Error("a DOCTYPE is not taken");
  const { message, ...others } = xml.parse(text, true); // or it takes what is not well-formed
  if (message === undefined || Array.isArray(message) || Object.keys(others).length > 0) {
    throw new Error("not one <message> and no more");
  }
  return message;
}

/**
 * Reads through the tags of V8's format and throws an error at what could unfold: an array longer
 * than the block, for which V8 makes room at once; a sparse one, the same; a reference back, by
 * which a small value prints without an end. It lets pass what JSON has, Date, Map, Set and
 * typed arrays; all else (BigInt, RegExp, Error and so on) is refused as well.
 */
function checkClone(block: Uint8Array): void {
  // Of other versions V8 takes some, too, and may read them in other ways.
  if (block[0] !== 0xff || block[1] !== 15) throw new Error("not a structured clone");
  let at = 2;
  let items = 0; // of all arrays; each takes an octet or more
  const skip = (n: number) => at += n;
  function number(): number { // seven bits to an octet, the lowest first; V8 reads five at most
    let n = 0;
    for (let unit = 1; unit <= 2 ** 28; unit *= 128) {
      n += (block[at] & 127) * unit;
      if (!(block[at++] & 128)) return n;
    }
    throw new Error("a clone's number of more than five octets");
  }
  while (at < block.length) {
    const tag = String.fromCharCode(block[at++]);
    if ("$\\".includes(tag)) number(); // the first of two
    if ("ND".includes(tag)) skip(8); // a float, a Date
    else if ('"c\\'.includes(tag)) skip(number()); // a text, Latin-1 or UTF-16; a typed array
    else if (tag === "A") items += number();
    else if ("IU{:,$".includes(tag)) number(); // an integer; the end of an object, Map, Set, array
    else if (!"_0TF-\0o;'".includes(tag)) throw new Error(`a clone's tag ${tag} is not taken`);
  }
  if (at !== block.length || items > block.length) throw new Error("a clone's lengths are wrong");
}

/**
 * Makes the handler of connections: prints each message, its peer before it, and answers it. The
 * receipt has the message's number on its connection, from 1, and its octets, or what the error is.
 */
export function receiver(
  format: Format,
  print: (line: string) => void,
): (conn: FramedConn) => Promise<void> {
  return async (conn) => {
    for (let number = 1;; number++) {
      const answer = (receipt: object) =>
        conn.writeBlock(new TextEncoder().encode(JSON.stringify({ number, ...receipt })));
      const block = await conn.readBlock(MAX_BLOCK).catch(async (error) => {
        if (error instanceof LimitError) await answer({ error: error.message });
        throw error; // where the next block starts nobody knows
      });
      if (block === null) return;
      let receipt: { octets: number } | { error: string } = { octets: block.length };
      try {
        const message = decode(format, block);
        const shown = Deno.inspect(message, { depth: 10, compact: true, breakLength: Infinity });
        print(`${conn.peer}: ${printable(shown)}`);
      } catch (error) {
        receipt = { error: `not ${format}: ${printable(reason(error)).slice(0, 200)}` };
        console.error(`blocks_server: ${conn.peer}: message ${number} refused, ${receipt.error}`);
      }
      await answer(receipt);
    }
  };
}

if (import.meta.main) {
  await main({
    name: "blocks_server",
    about: "Prints messages that come in blocks, and answers with receipts.",
    permissions: "--allow-net",
    flags: {
      ...serverFlags(PORT),
      format: flag("NAME", "json, xml, clone", oneOf("json", "xml", "clone"), "json"),
    },
  }, async (flags) => {
    const listener = await listen(flags);
    await serve(listener, receiver(flags.format, console.log), { ...flags, signal: stopSignal() });
  });
}
