/**
 * A connection that is read in messages and not in whatever pieces the network delivers: what
 * Python's `makefile`, `rfile` and `wfile` are for.
 *
 * @module
 */
import { concat } from "@std/bytes/concat";
import { deadline } from "@std/async/deadline";
import {
  closeDatagrams,
  connectDatagrams,
  type Endpoint,
  formatAddress,
  named,
} from "./address.ts";

const FIRST_BUFFER = 1024; // octets: most of what an idle connection costs
const BULK_BUFFER = 65536; // octets to which the buffer grows for a peer that fills it
const QUIET = 50; // milliseconds that readMessage takes for an end
const [CR, LF, DOT] = [0x0d, 0x0a, 0x2e];
const DOT_END = new Uint8Array([CR, LF, DOT, CR, LF]);
const EMPTY = new Uint8Array(0);
const encoder = new TextEncoder();
const decoder = new TextDecoder("utf-8", { ignoreBOM: true }); // a byte order mark is data here

/** The peer sent more than a line, a block or a message may have. */
export class LimitError extends Error {}

/** How a {@linkcode FramedConn} behaves. */
export type FramedConnOptions = {
  timeout?: number; // milliseconds for each read and write, past which it closes; none: no limit
  trace?: boolean; // print both directions of the wire on stderr
};

/**
 * A connection with a bounded buffer on its reading side. At most one read and one write may be
 * under way. Every method throws the system's error, or {@linkcode Deno.errors.TimedOut} after
 * `timeout`. Those that read a whole throw {@linkcode Deno.errors.UnexpectedEof} if the peer ends
 * in the middle of it, and those that take a `max`, in octets, a {@linkcode LimitError} past it.
 */
export class FramedConn {
  /** Octets received so far. */
  bytesRead = 0;
  /** Octets sent so far. */
  bytesWritten = 0;
  #buffer = EMPTY;
  #start = 0;
  #end = 0;
  #pending?: Promise<boolean>;
  #ended = false;
  #failure?: unknown;
  #closed = false;

  /** Takes over `conn`. */
  constructor(readonly conn: Deno.Conn, readonly options: FramedConnOptions = {}) {}

  /** The other side's address, as people read it. */
  get peer(): string {
    return formatAddress(this.conn.remoteAddr);
  }

  /** Octets received that nobody has read yet. */
  get buffered(): number {
    return this.#end - this.#start;
  }

  /** The next line as UTF-8 without its CRLF or LF, which count for `max`; null at the end. */
  readLine(max = 8192): Promise<string | null> {
    return this.#readUntil(LF, max, (line) => decoder.decode(withoutLineEnd(line)));
  }

  /** As {@linkcode readLine}, where they need not be text; valid until the next read. */
  readLineOctets(max = 8192): Promise<Uint8Array<ArrayBuffer> | null> {
    return this.#readUntil(LF, max, withoutLineEnd);
  }

  /** The next text that ends with `delimiter`, an ASCII character, which it keeps; null at the end. */
  readUntil(delimiter: string, max = 8192): Promise<string | null> {
    return this.#readUntil(delimiter.charCodeAt(0), max, (text) => decoder.decode(text));
  }

  async #readUntil<T>(
    delimiter: number,
    max: number,
    read: (octets: Uint8Array<ArrayBuffer>) => T,
  ): Promise<T | null> {
    if (this.buffered === 0 && !await this.#fill()) return null;
    for (let searched = 0;; await this.#need()) {
      const length = this.#sizeUntil(delimiter, searched);
      if ((length || this.buffered) > max) {
        const what = delimiter === LF ? "line" : "message";
        throw new LimitError(`${what} of more than ${max} bytes`);
      }
      if (length) return read(this.#take(length));
      searched = this.buffered;
    }
  }

  /**
   * The next message, as UTF-8, of a peer that may not mark where it ends; null at the end. A
   * message ends with a line, with the peer, or when octets came and for 50 ms no more follow.
   *
   * The tutorials' programs send a message without a mark and take what one `recv` returns for
   * one message. On a real network one message comes in pieces, two come as one, and a pause in
   * the middle of one looks like its end: this clock only guesses better than one `recv`. A
   * protocol of your own needs a delimiter ({@linkcode readLine}) or a length.
   */
  async readMessage(max = 65536): Promise<string | null> {
    let more = this.buffered > 0 || await this.#fill();
    while (more && this.buffered <= max && !this.#sizeUntil(LF)) more = await this.#fillSoon();
    if (this.buffered === 0) return null;
    const length = this.#sizeUntil(LF) || this.buffered;
    if (length > max) throw new LimitError(`message of more than ${max} bytes`);
    return decoder.decode(withoutLineEnd(this.#take(length)));
  }

  /** Exactly `n` octets. */
  async readExactly(n: number): Promise<Uint8Array<ArrayBuffer>> {
    while (this.buffered < n) await this.#need();
    return this.#take(n).slice();
  }

  /** The next block, a length of so many octets in network order and then that; null at the end. */
  async readBlock(max = 1024 * 1024, prefix = 4): Promise<Uint8Array<ArrayBuffer> | null> {
    if (this.buffered === 0 && !await this.#fill()) return null;
    const length = (await this.readExactly(prefix)).reduce((sum, octet) => sum * 256 + octet, 0);
    if (length > max) throw new LimitError(`block of ${length} bytes, more than ${max}`);
    return await this.readExactly(length);
  }

  /**
   * The lines before the one that is a single dot, their stuffed dots removed (RFC 5321, 4.5.2).
   * Only CRLF, dot, CRLF ends them: did a bare LF count too, one server would see two messages
   * where another sees one. Past `max` it reads on to the dot first, so that the talk can go on.
   */
  async readDotLines(max: number): Promise<Uint8Array<ArrayBuffer>> {
    let message = new Uint8Array(FIRST_BUFFER);
    let [size, matched] = [0, 2]; // and octets of DOT_END that came last; it begins as a line does
    while (matched < DOT_END.length) {
      if (this.buffered === 0) await this.#need();
      if (size > max) message = EMPTY;
      else if (size + this.buffered >= message.length) {
        const larger = new Uint8Array(Math.min(2 * (size + this.buffered) + 1, max));
        larger.set(message.subarray(0, max));
        message = larger;
      }
      while (matched < DOT_END.length && this.buffered > 0) {
        const octet = this.#buffer[this.#start++];
        const heldBack = matched === 4; // the CR after a dot
        matched = octet === DOT_END[matched] ? matched + 1 : octet === CR ? 1 : 0;
        if (matched > 2) continue;
        if (heldBack) message[size++] = CR;
        message[size++] = octet; // past max it goes nowhere
      }
    }
    if (size > max) throw new LimitError(`message of more than ${max} bytes`);
    return message.subarray(0, size);
  }

  /** What comes next, up to `max` octets, valid until the next read; null at the end: `recv(max)`. */
  async readSome(max = Infinity): Promise<Uint8Array<ArrayBuffer> | null> {
    if (this.buffered === 0 && !await this.#fill()) return null;
    return this.#take(Math.min(max, this.buffered));
  }

  /**
   * Waits, without a limit, until there is something to read, and leaves it there; false at the
   * end. A connection on which nothing is due shows in this way that it is dead.
   */
  readable(): Promise<boolean> {
    return this.buffered > 0 ? Promise.resolve(true) : this.#pending ??= this.#read();
  }

  /** Everything up to the end. */
  async readToEnd(max: number): Promise<Uint8Array<ArrayBuffer>> {
    while (this.buffered <= max && await this.#fill());
    if (this.buffered > max) throw new LimitError(`answer of more than ${max} bytes`);
    return this.#take(this.buffered).slice();
  }

  /**
   * Sends all of `data`, a string as UTF-8, in as many writes as it takes: `sendall`. A trace has
   * `shown` in its place, if it holds what is nobody's business.
   */
  async writeAll(data: Uint8Array | string, shown?: string): Promise<void> {
    let rest = typeof data === "string" ? encoder.encode(data) : data;
    try {
      while (rest.length > 0) {
        const n = await this.#bounded(this.conn.write(rest));
        this.bytesWritten += n;
        if (this.options.trace) {
          trace(">", this.peer, shown === undefined ? rest.subarray(0, n) : encoder.encode(shown));
        }
        rest = rest.subarray(n);
        if (shown) shown = "(the rest of it)\n";
      }
    } catch (error) {
      // Why this side closed it, if it did. What the peer sent before it left can still be read.
      throw this.#failure ?? error;
    }
  }

  /** Sends a line and CRLF. Throws a TypeError if `line` has either: it would be two. */
  async writeLine(line: string): Promise<void> {
    if (/[\r\n]/.test(line)) throw new TypeError("a line cannot hold a CR or LF");
    await this.writeAll(line + "\r\n");
  }

  /** Sends a block as {@linkcode readBlock} reads it. Throws a RangeError if it is too long. */
  async writeBlock(data: Uint8Array, prefix = 4): Promise<void> {
    if (data.length >= 256 ** prefix) throw new RangeError(`block of ${data.length} bytes`);
    const length = new Uint8Array(4);
    new DataView(length.buffer).setUint32(0, data.length);
    await this.writeAll(concat([length.subarray(4 - prefix), data]));
  }

  /** Sends lines, their ends (LF or CRLF) made CRLF and their dots stuffed, and the dot. */
  async writeDotLines(data: Uint8Array): Promise<void> {
    // Piece by piece: an object for each line would take many times what short lines do.
    const piece = new Uint8Array(Math.min(2 * data.length + 5, BULK_BUFFER));
    let [size, last] = [0, LF];
    for (let i = 0; i < data.length; i++) {
      if (last === LF && data[i] === DOT) piece[size++] = DOT;
      last = data[i];
      if (last === LF) piece[size++] = CR;
      if (last !== CR || data[i + 1] !== LF) piece[size++] = last;
      if (size > piece.length - 5) {
        await this.writeAll(piece.subarray(0, size));
        size = 0;
      }
    }
    const end = last === LF ? [DOT, CR, LF] : [CR, LF, DOT, CR, LF];
    piece.set(end, size);
    await this.writeAll(piece.subarray(0, size + end.length));
  }

  /**
   * Ends the sending side (a half-close), then throws away what the peer still sends, into
   * `scratch`. Closed with octets unread, the connection would be reset, and with it an answer
   * lost that the peer has not read yet.
   */
  async finish(scratch: Uint8Array): Promise<void> {
    await this.conn.closeWrite();
    await this.#pending;
    while (await this.conn.read(scratch) !== null);
  }

  /**
   * Says that no more comes, and closes: just before the program exits, a mere close over TLS leaves
   * the peer to wonder whether it was cut off. The peer may have left first.
   */
  async end(): Promise<void> {
    await this.conn.closeWrite().catch(() => {});
    this.close();
  }

  /** Closes the connection. What is under way, and all that comes later, throws `why`. */
  close(why: Error = new Deno.errors.BadResource("connection closed")): void {
    this.#failure ??= why;
    if (!this.#closed) this.conn.close();
    this.#closed = true;
  }

  /** Closes the connection when the block of its `using` ends. */
  [Symbol.dispose](): void {
    this.close();
  }

  /** How many octets are buffered up to the first `delimiter` and with it, or 0 if it is not there. */
  #sizeUntil(delimiter: number, searched = 0): number {
    const at = this.#buffer.subarray(0, this.#end).indexOf(delimiter, this.#start + searched);
    return at < 0 ? 0 : at + 1 - this.#start;
  }

  #take(n: number): Uint8Array<ArrayBuffer> {
    return this.#buffer.subarray(this.#start, this.#start += n);
  }

  async #need(): Promise<void> {
    if (await this.#fill()) return;
    throw new Deno.errors.UnexpectedEof("connection ended in the middle of a message");
  }

  /** Reads once; false at the end. */
  #fill(): Promise<boolean> {
    return this.#bounded(this.#pending ??= this.#read());
  }

  /** Reads once unless nothing comes soon; false then or at the end. */
  async #fillSoon(): Promise<boolean> {
    const quiet = Promise.withResolvers<boolean>();
    const timer = setTimeout(() => quiet.resolve(false), QUIET);
    // Left under way, a read is taken up by the next one, as is its failure.
    const read = this.#pending ??= this.#read();
    return await Promise.race([read, quiet.promise]).finally(() => clearTimeout(timer));
  }

  async #read(): Promise<boolean> {
    try {
      if (this.#failure) throw this.#failure;
      if (this.#ended) return false;
      this.#makeRoom();
      const n = await this.conn.read(this.#buffer.subarray(this.#end));
      this.#ended = n === null;
      if (n === null) return false;
      this.bytesRead += n;
      this.#end += n;
      if (this.options.trace) {
        trace("<", this.peer, this.#buffer.subarray(this.#end - n, this.#end));
      }
      return true;
    } catch (error) {
      // Kept, as the system tells of a reset once and after that of an orderly end.
      throw this.#failure ??= error;
    } finally {
      this.#pending = undefined;
    }
  }

  #makeRoom(): void {
    const { length } = this.#buffer;
    const full = this.#end === length;
    if (this.buffered === 0) {
      if (length === 0 || length > BULK_BUFFER) this.#buffer = new Uint8Array(FIRST_BUFFER);
      else if (full && length < BULK_BUFFER) this.#buffer = new Uint8Array(2 * length);
      this.#start = this.#end = 0;
    } else if (full) {
      const target = this.#start > 0 ? this.#buffer : new Uint8Array(2 * length);
      target.set(this.#buffer.subarray(this.#start));
      this.#buffer = target;
      this.#end -= this.#start;
      this.#start = 0;
    }
  }

  /** The operation, which closes the connection if it takes longer than `timeout`. */
  #bounded<T>(operation: Promise<T>): Promise<T> {
    const { timeout } = this.options;
    if (!timeout) return operation;
    const timer = setTimeout(() => {
      this.close(new Deno.errors.TimedOut(`no answer within ${timeout / 1000} s (--timeout)`));
    }, timeout);
    return operation.finally(() => clearTimeout(timer));
  }
}

/**
 * Sends a datagram and returns the first that comes back from where it went and that `accepts`
 * takes for an answer; others are passed over, as anybody can send one. As either may get lost, it
 * is sent again after 0.5 s, 1 s, 2 s and so on, which `again` is told, unless `retry` is false.
 *
 * @throws {Deno.errors.TimedOut} after the endpoint's `timeout`; else the system's error, if it
 * cannot be sent. Both are named after the address.
 */
export async function askDatagram(
  endpoint: Endpoint & FramedConnOptions,
  question: Uint8Array,
  {
    retry = true,
    again = (_milliseconds: number) => {},
    accepts = (_answer: Uint8Array): boolean => true,
  } = {},
): Promise<Uint8Array> {
  const { socket, server } = await connectDatagrams(endpoint);
  const { trace: tracing, timeout = 10_000 } = endpoint;
  const peer = formatAddress(server);
  const end = performance.now() + timeout;
  let answer: Promise<Uint8Array> | undefined;
  async function receive(): Promise<Uint8Array> {
    for (;;) {
      const [data, from] = await socket.receive(new Uint8Array(65536));
      if (tracing) trace("<", formatAddress(from), data);
      if (formatAddress(from) === peer && accepts(data)) return data;
    }
  }
  try {
    for (let tries = 1, wait = retry ? 500 : timeout;; tries++, wait *= 2) {
      if (tracing) trace(">", peer, question);
      await socket.send(question, server).catch((error) => {
        throw named(peer, error);
      });
      answer ??= receive(); // only now: on a Unix socket Deno cannot send while it receives
      const left = Math.max(0, end - performance.now());
      try {
        return await deadline(answer, Math.min(wait, left));
      } catch (error) {
        if (!(error instanceof DOMException)) throw error;
      }
      if (wait < left) again(wait);
      else throw new Deno.errors.TimedOut(`${peer}: no answer (datagrams sent: ${tries})`);
    }
  } finally {
    await closeDatagrams(socket);
  }
}

/** Writes all of `data` to a file or stdout, in as many writes as it takes. */
export async function writeAll(
  to: { write(data: Uint8Array): Promise<number> },
  data: Uint8Array,
): Promise<void> {
  while (data.length > 0) data = data.subarray(await to.write(data));
}

/** Prints octets of the wire on stderr, a line of theirs on a line, and at most 1024 of them. */
export function trace(direction: "<" | ">", peer: string, octets: Uint8Array): void {
  const text = String.fromCharCode(...octets.subarray(0, 1024));
  const lines = text.match(/[^\n]*\n|[^\n]+/g) ?? [""];
  if (octets.length > 1024) lines.push(`... ${octets.length - 1024} bytes more`);
  for (const line of lines) console.error(`${direction} ${peer} ${escape(line, /[^ -~]/g)}`);
}

/** Text from the network, safe to print: control and direction characters as escapes. */
export function printable(text: string): string {
  return escape(text, /[\p{Cc}\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]/gu);
}

/** The same, of lines: in them tabs and the ends of lines work as such. */
export function printableText(text: string): string {
  return text.replaceAll("\r\n", "\n").replace(/[^\n\t]+/g, printable);
}

/** The text with what `unprintable` matches as escapes: `\n`, `\x1b`, `\u202e`. */
function escape(text: string, unprintable: RegExp): string {
  return text.replace(unprintable, (character) => {
    const code = character.charCodeAt(0).toString(16);
    if (code.length > 2) return `\\u${code.padStart(4, "0")}`;
    return { "\t": "\\t", "\n": "\\n", "\r": "\\r" }[character] ?? `\\x${code.padStart(2, "0")}`;
  });
}

function withoutLineEnd<T extends ArrayBufferLike>(line: Uint8Array<T>): Uint8Array<T> {
  if (line.at(-1) !== LF) return line;
  return line.subarray(0, line.at(-2) === CR ? -2 : -1);
}
