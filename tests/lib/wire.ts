/** A connection whose network is the test, and chance that can be repeated. */
import { assert } from "@std/assert";
import { FramedConn } from "../../lib/framing.ts";

/** The octets of a string whose characters are octets. */
export function octets(text: string): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(text, (character) => character.charCodeAt(0));
}

/** The string whose characters are octets. */
export function latin1(data: Uint8Array): string {
  return Array.from(data, (n) => String.fromCharCode(n)).join("");
}

/** What arrives: octets, a failure, after which the system says that it ended, or the end. */
export type Piece = string | Uint8Array | Error | null;

/** A connection whose other side is the test, which says in what pieces octets arrive. */
export class Wire {
  /** The peer. */
  readonly remoteAddr: Deno.NetAddr = { transport: "tcp", hostname: "127.0.0.1", port: 9 };
  /** What was written to it. */
  written = "";
  /** The largest piece of its buffer that a read ever offered. */
  offered = 0;
  #pieces: (Uint8Array | Error | null)[] = [];
  #arrived = Promise.withResolvers<void>();
  #reading = false;

  /** Lets pieces arrive. */
  send(...pieces: Piece[]): this {
    this.#pieces.push(...pieces.map((piece) => typeof piece === "string" ? octets(piece) : piece));
    this.#arrived.resolve();
    this.#arrived = Promise.withResolvers();
    return this;
  }

  /** As of a `Deno.Conn`; one at a time. */
  async read(into: Uint8Array): Promise<number | null> {
    assert(!this.#reading, "two reads at once");
    assert(into.length > 0, "a read without room");
    this.offered = Math.max(this.offered, into.length);
    this.#reading = true;
    while (this.#pieces.length === 0) await this.#arrived.promise;
    this.#reading = false;
    const piece = this.#pieces[0];
    if (piece instanceof Error) {
      this.#pieces = [null];
      throw piece;
    }
    if (piece === null) return null;
    const n = Math.min(piece.length, into.length);
    into.set(piece.subarray(0, n));
    if (n < piece.length) this.#pieces[0] = piece.subarray(n);
    else this.#pieces.shift();
    return n;
  }

  /** Takes at most 1000 octets at a time. */
  write(data: Uint8Array): Promise<number> {
    this.written += latin1(data.subarray(0, 1000));
    return Promise.resolve(Math.min(1000, data.length));
  }

  /** Fails the read under way. */
  close(): void {
    this.#pieces = [];
    this.send(new Deno.errors.Interrupted("operation canceled"));
  }
}

/** A connection that receives these pieces and no more until the test sends some. */
export function receiving(...pieces: Piece[]): { wire: Wire; conn: FramedConn } {
  const wire = new Wire().send(...pieces);
  return { wire, conn: new FramedConn(wire as unknown as Deno.Conn) };
}

/** Makes a source of pseudorandom whole numbers below `n`. */
export function random(seed: number): (n: number) => number {
  let state = Math.imul(seed, 0x9e3779b1) >>> 0;
  return (n) => {
    state = (Math.imul(state, 69069) + 12345) >>> 0;
    return Math.floor(state / 2 ** 32 * n);
  };
}
