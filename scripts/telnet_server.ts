#!/usr/bin/env -S deno run --allow-net
/**
 * A Telnet server (RFC 854): a prompt with a few commands, for whoever connects.
 *
 *     deno run --allow-net scripts/telnet_server.ts
 *     deno run --allow-net --allow-env=TERM scripts/telnet_client.ts
 *     telnet 127.0.0.1 8023
 *     nc 127.0.0.1 8023
 *
 * Mirrors "Telnet and SSH" of tutorial 002, in the words of Python's `socketserver`:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `ThreadingTCPServer(address, Handler)`, `serve_forever()` | `serve(listener, converse)` |
 * | `StreamRequestHandler.handle()` | `converse()` |
 * | `self.client_address` | `conn.peer`: `conn.remoteAddr` |
 * | `self.rfile.readline()` | `telnet.read()`, and `editor.type()` for each key |
 * | `self.wfile.write(answer)` | `telnet.write()`: `conn.write()` until all is sent |
 *
 * A client that knows no options, such as `nc`, sends lines, which its user's terminal has edited
 * and shown. One that agrees to ECHO sends each key as it is pressed: then the server edits the line,
 * and sends what the screen is to show of it. The server cannot know which it has, so it asks first:
 * twelve octets, which `nc` prints as if they were text.
 *
 * Everything goes over the network in the clear, what is typed as well. Nothing on the Internet
 * should listen for that: `ssh_server.ts` has the same commands behind a key.
 *
 * @module
 */
import { listen } from "../lib/address.ts";
import { main, serverFlags, stopSignal } from "../lib/cli.ts";
import { type FramedConn, LimitError, printable } from "../lib/framing.ts";
import { serve } from "../lib/server.ts";

const PORT = 8023;
const PROMPT = "> ";
const MAX_LINE = 1000; // characters
const MAX_COMMAND = 64; // octets: the longest here names a terminal, in 40 at most (RFC 1091)
const MAX_ANSWERS = 10_000; // about options, while nothing is typed
const [NUL, LF, CR] = [0x00, 0x0a, 0x0d];

// Commands of RFC 854, and EOF, the lowest of those that came later (RFC 1184).
const [IAC, DONT, DO, WONT, WILL, SB, EL, EC, AYT] = [255, 254, 253, 252, 251, 250, 248, 247, 246];
const [IP, BRK, SE, EOF] = [244, 243, 240, 236];
// Options: RFC 857, 858, 1091, 1073.
const [ECHO, SUPPRESS_GO_AHEAD, TERMINAL_TYPE, NAWS] = [1, 3, 24, 31];
const [IS, SEND] = [0, 1];
/** The commands that say what a key says on a terminal: ^C, DEL, ^U. */
const KEYS = new Map([[IP, 0x03], [BRK, 0x03], [EC, 0x7f], [EL, 0x15]]);

// From here to the end of LineEditor the same as in ssh_server.ts, to which a test holds it.

/** Somebody who is connected, as far as the commands know. */
export type User = {
  name: string;
  since: Date;
  terminal?: string; // its type, as they say
  window?: { columns: number; rows: number }; // of 0 if their program does not know
};

/** A command: what help says of it, and its answer to the text behind its name. */
type Command = [help: string, answer: (text: string, user: User, users: Set<User>) => string];

const COMMANDS: Record<string, Command> = {
  date: ["the date and time", () => new Date().toUTCString()],
  who: ["who is connected, and since when", (_, user, users) => {
    const row = ({ name, since }: User) => `${name} since ${since.toUTCString()}`;
    return Array.from(users, (other) => row(other) + (other === user ? " (you)" : "")).join("\n");
  }],
  echo: ["the TEXT behind it", (text) => text],
  size: ["your window and the type of your terminal", (_, { window, terminal }) => {
    const size = window?.columns
      ? `${window.columns} columns, ${window.rows} rows`
      : "size unknown";
    return `${size}; ${terminal || "type unknown"}`;
  }],
  help: ["these commands", () => {
    const rows = Object.entries(COMMANDS).map(([name, [help]]) => `${name.padEnd(6)}${help}`);
    return rows.join("\n");
  }],
  quit: ["the end of it", () => "bye"],
};

/**
 * Obeys a line that one of the users has typed. Returns the answer, an LF after each of its lines and
 * nothing in them that drives a terminal, and whether it is the last.
 */
export function obey(line: string, user: User, users: Set<User>): [answer: string, last: boolean] {
  const [, name, text] = /^\s*(\S*)\s*(.*?)\s*$/s.exec(line) ?? [];
  if (!name) return ["", false];
  const answer = Object.hasOwn(COMMANDS, name)
    ? COMMANDS[name][1](text, user, users)
    : `${name}: unknown command, help lists them`;
  return [answer.split("\n").map(printable).join("\n") + "\n", name === "quit"];
}

/** A line that comes a key at a time, for a screen that shows no more than it is told. */
export class LineEditor {
  #line: string[] = []; // by characters
  #sequence = ""; // the last character of an escape sequence under way

  /** For lines of at most `max` characters. */
  constructor(readonly max: number) {}

  /** How many characters the line has so far. */
  get length(): number {
    return this.#line.length;
  }

  /**
   * Takes a character. Returns what the screen is to show, where LF is a new line, and the line once
   * it is done: an empty one if ^C has dropped it, null if ^D, typed before anything else, ends all.
   *
   * @throws {LimitError} if the line gets too long.
   */
  type(key: string): [shown: string, line?: string | null] {
    switch (key) {
      case "\r":
      case "\n":
        return ["\n", this.#take()];
      case "\b":
      case "\x7f":
        return [this.#line.pop() === undefined ? "" : "\b \b"];
      case "\x15": // ^U
        return ["\b \b".repeat(this.#take().length)];
      case "\x03": // ^C
        this.#take();
        return ["^C\n", ""];
      case "\x04": // ^D
        return this.length > 0 ? [""] : ["\n", null];
      case "\x1b":
        this.#sequence = key;
        return [""];
      case "\t":
        key = " "; // which takes one place on every screen
    }
    if (this.#sequence) { // of an arrow key, for one, which else would leave its letters
      const more = this.#sequence === "\x1b" ? /[[O]/ : /[ -?]/;
      this.#sequence = more.test(key) ? key : "";
      return [""];
    }
    if (/\p{Cc}/u.test(key)) return [""];
    if (this.length === this.max) {
      throw new LimitError(`line of more than ${this.max} characters`);
    }
    this.#line.push(key);
    return [key];
  }

  #take(): string {
    const line = this.#line.join("");
    this.#line = [];
    this.#sequence = "";
    return line;
  }
}

/** Takes what Telnet sends apart into data and commands, wherever the network has cut it. */
export class Decoder {
  #iac = false; // was the last octet
  #command: number[] = []; // under way, without its IAC

  /**
   * Each octet of the data, and each command without its IAC: `[AYT]`, `[DO, ECHO]`,
   * `[SB, NAWS, 0, 80, 0, 24]`. A subnegotiation that is too long is left out, one that another
   * command comes into ends there and is left out, too.
   */
  *decode(octets: Uint8Array): Generator<number | number[]> {
    for (const octet of octets) {
      const [verb] = this.#command;
      if (verb >= WILL) { // an option, which may be 255
        this.#command = [];
        yield [verb, octet];
      } else if (octet === IAC && !this.#iac) {
        this.#iac = true;
      } else if (!this.#iac || octet === IAC || octet < EOF) {
        // Below EOF there is no command. A DM was there, sent as urgent data (RFC 854, Synch), which
        // the system takes out of the stream unless it is told not to, and Deno cannot tell it.
        this.#iac = false;
        if (verb !== SB) yield octet;
        else if (this.#command.length <= MAX_COMMAND) this.#command.push(octet);
      } else {
        this.#iac = false;
        const ended = octet === SE && verb === SB && this.#command.length <= MAX_COMMAND;
        if (ended) yield this.#command;
        this.#command = octet >= SB ? [octet] : [];
        if (octet < SB && octet !== SE) yield [octet];
      }
    }
  }
}

/** A user's Telnet connection: keys come in, text goes out, and the rest is between the programs. */
export class Telnet {
  #decoder = new Decoder();
  #text = new TextDecoder("utf-8", { ignoreBOM: true });
  #last?: number; // octet of the data
  #ended = false;
  #answers = 0;
  /** The options that either side may have on: which are, and which the client was asked about. */
  #ours = new Map([[ECHO, "asked"], [SUPPRESS_GO_AHEAD, "asked"]]);
  #theirs = new Map([[TERMINAL_TYPE, "asked"], [NAWS, "asked"], [SUPPRESS_GO_AHEAD, "off"]]);

  /** Takes over `conn`; what the client says of its terminal it tells `user`. */
  constructor(readonly conn: FramedConn, readonly user: User) {}

  /** Whether the screen shows only what it is sent. */
  get echoes(): boolean {
    return this.#ours.get(ECHO) === "on";
  }

  /**
   * Asks the client about the options, which it may never answer. Without SUPPRESS-GO-AHEAD it should
   * get a GA behind each prompt (RFC 854); no client waits for that, and `nc` would print it.
   */
  async negotiate(): Promise<void> {
    const ours = [ECHO, SUPPRESS_GO_AHEAD].flatMap((option) => [IAC, WILL, option]);
    const theirs = [TERMINAL_TYPE, NAWS].flatMap((option) => [IAC, DO, option]);
    await this.conn.writeAll(new Uint8Array([...ours, ...theirs]));
  }

  /**
   * The keys that come next, perhaps none; null at EOF or the end of the connection. CR LF, CR NUL,
   * CR and LF are one key each.
   */
  async read(): Promise<string | null> {
    const octets = this.#ended ? null : await this.conn.readSome();
    if (octets === null) return null;
    const keys: number[] = [];
    const answers: number[] = [];
    for (const item of this.#decoder.decode(octets)) {
      if (typeof item === "number") {
        if (this.#last !== CR || item !== LF && item !== NUL) keys.push(item);
        this.#last = item;
        continue;
      }
      const key = KEYS.get(item[0]);
      this.#ended = item[0] === EOF;
      if (this.#ended) break;
      if (key) keys.push(key);
      else answers.push(...this.#answer(item));
    }
    if (keys.length > 0) this.#answers = 0;
    if (answers.length > 0) await this.conn.writeAll(new Uint8Array(answers));
    return this.#text.decode(new Uint8Array(keys), { stream: true });
  }

  /** Sends text, its LF as CR LF. No IAC is to be doubled: UTF-8 has no octet of 255. */
  async write(text: string): Promise<void> {
    await this.conn.writeAll(text.replaceAll("\n", "\r\n"));
  }

  #answer([verb, option, ...data]: number[]): number[] {
    if (verb >= WILL) return this.#agree(verb, option);
    if (verb === AYT) return [...new TextEncoder().encode("\r\n[yes]\r\n")];
    if (verb === SB && option === NAWS && data.length === 4) {
      this.user.window = { columns: data[0] << 8 | data[1], rows: data[2] << 8 | data[3] };
    } else if (verb === SB && option === TERMINAL_TYPE && data[0] === IS) {
      this.user.terminal = String.fromCharCode(...data.slice(1));
    }
    return []; // NOP, DM and GA ask for nothing, and for AO it is too late: what was to say is said
  }

  /**
   * Answers what asks for a change, and nothing else: neither what agrees or refuses, nor what asks
   * for what is so already. Two sides that do no more cannot answer each other for ever (RFC 854 has
   * the rule, RFC 1143 the reasons); one that does more is cut off.
   */
  #agree(verb: number, option: number): number[] {
    const theirs = verb === WILL || verb === WONT;
    const on = verb === WILL || verb === DO;
    const options = theirs ? this.#theirs : this.#ours;
    const before = options.get(option) ?? "off";
    const agreed = on && options.has(option);
    if (options.has(option)) options.set(option, agreed ? "on" : "off");
    const answer: number[] = [];
    if (before !== "asked" && on !== (before === "on")) {
      answer.push(IAC, theirs ? (agreed ? DO : DONT) : (agreed ? WILL : WONT), option);
    }
    if (option === TERMINAL_TYPE && agreed && before !== "on") {
      answer.push(IAC, SB, TERMINAL_TYPE, SEND, IAC, SE);
    }
    if (answer.length > 0 && ++this.#answers > MAX_ANSWERS) throw new Error("options without end");
    return answer;
  }
}

/** Talks with somebody who has connected, one of the `users` until it is over. */
export async function converse(conn: FramedConn, users: Set<User>): Promise<void> {
  const user: User = { name: conn.peer, since: new Date() };
  const telnet = new Telnet(conn, user);
  const editor = new LineEditor(MAX_LINE);
  users.add(user);
  try {
    await telnet.negotiate();
    await telnet.write(PROMPT);
    for (let keys; (keys = await telnet.read()) !== null;) {
      let screen = "";
      for (const key of keys) {
        const [shown, line] = editor.type(key);
        if (telnet.echoes) screen += shown;
        if (line === undefined) continue;
        const [answer, last] = obey(line ?? "quit", user, users);
        await telnet.write(screen + answer + (last ? "" : PROMPT));
        if (last) return;
        screen = "";
      }
      await telnet.write(screen);
    }
    if (editor.length > 0) throw new Deno.errors.UnexpectedEof("left in the middle of a line");
  } catch (error) {
    if (error instanceof LimitError) await telnet.write(`\n${error.message}\n`);
    throw error;
  } finally {
    users.delete(user);
  }
}

if (import.meta.main) {
  await main({
    name: "telnet_server",
    about: "Gives whoever connects a prompt with a few commands.",
    permissions: "--allow-net",
    flags: serverFlags(PORT),
  }, async (flags) => {
    const users = new Set<User>();
    const options = { ...flags, signal: stopSignal() };
    await serve(await listen(flags), (conn) => converse(conn, users), options);
  });
}
