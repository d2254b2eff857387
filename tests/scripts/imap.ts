/** An IMAP client for tests: what it is told, octet by octet. */
import { assertEquals } from "@std/assert";
import { FramedConn } from "../../lib/framing.ts";
import { dial } from "../peers/peers.ts";
import { latin1, octets } from "../lib/wire.ts";

/** A conversation with an IMAP server. Strings are octets. */
export class Imap {
  #tag = 0;

  private constructor(readonly conn: FramedConn, readonly greeting: string) {}

  /** Connects, and logs in if there is a password. */
  static async open(to: Parameters<typeof dial>[0], password?: string): Promise<Imap> {
    const conn = await dial(to);
    const imap = new Imap(conn, await Imap.#response(conn));
    if (password !== undefined) await imap.ok(`LOGIN mail ${password}`);
    return imap;
  }

  /** A line with the literals in it, without its last CRLF; "" at the end. */
  static async #response(conn: FramedConn): Promise<string> {
    let response = "";
    for (;;) {
      const line = await conn.readLineOctets(1 << 20);
      if (line === null) return response;
      response += latin1(line);
      const size = /\{(\d+)\}$/.exec(response)?.[1];
      if (size === undefined) return response;
      response += `\r\n${latin1(await conn.readExactly(Number(size)))}`;
    }
  }

  /** The next response. */
  next(): Promise<string> {
    return Imap.#response(this.conn);
  }

  /** Sends octets as they are. */
  async send(text: string): Promise<void> {
    await this.conn.writeAll(octets(text));
  }

  /** Sends a command, in which literals need no leave, and returns all that is answered. */
  async ask(command: string): Promise<{ untagged: string[]; tagged: string }> {
    const tag = `t${++this.#tag}`;
    await this.send(`${tag} ${command}\r\n`);
    const untagged: string[] = [];
    for (;;) {
      const response = await this.next();
      if (response === "") throw new Error(`hung up at ${command.slice(0, 100)}`);
      if (response.startsWith(`${tag} `)) {
        return { untagged, tagged: response.slice(tag.length + 1) };
      }
      untagged.push(response);
    }
  }

  /** Sends a command that must succeed, and returns what is answered before the OK. */
  async ok(command: string): Promise<string[]> {
    const { untagged, tagged } = await this.ask(command);
    assertEquals(tagged.slice(0, 2), "OK", `${command.slice(0, 200)}: ${tagged}`);
    return untagged;
  }

  /** Hangs up. */
  [Symbol.dispose](): void {
    this.conn.close();
  }
}

/** A literal that is sent without waiting (RFC 7888). */
export function literal(text: string): string {
  return `{${text.length}+}\r\n${text}`;
}

/** The items of a FETCH response, by name. */
export function itemsOf(response: string): Map<string, string> {
  const items = new Map<string, string>();
  let at = response.indexOf("(") + 1;
  /** The end of the value that begins there. */
  function valueEnd(from: number): number {
    const size = /\{(\d+)\}\r\n/y;
    size.lastIndex = from;
    const literal = size.exec(response);
    if (literal) return size.lastIndex + Number(literal[1]);
    if (response[from] === '"') {
      const quoted = /"(?:[^"\\]|\\.)*"/y;
      quoted.lastIndex = from;
      quoted.exec(response);
      return quoted.lastIndex;
    }
    if (response[from] === "(") {
      let end = from + 1;
      while (response[end] !== ")") end = response[end] === " " ? end + 1 : valueEnd(end);
      return end + 1;
    }
    const atom = /[^ ()]*/y;
    atom.lastIndex = from;
    atom.exec(response);
    return atom.lastIndex;
  }
  while (at < response.length && response[at] !== ")") {
    const name = /(?:[^ [\]]|\[[^\]]*\])+/y;
    name.lastIndex = at;
    const [label] = name.exec(response) ?? [];
    const start = name.lastIndex + 1;
    const end = valueEnd(start);
    items.set(`${label}`, response.slice(start, end));
    at = response[end] === " " ? end + 1 : end;
  }
  return items;
}
