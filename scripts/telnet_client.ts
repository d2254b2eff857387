#!/usr/bin/env -S deno run --allow-net
/**
 * A Telnet client (RFC 854): makes your terminal one of the server's.
 *
 *     deno run --allow-net scripts/telnet_server.ts
 *     deno run --allow-net --allow-env=TERM scripts/telnet_client.ts
 *     printf 'date\nwho\n' | deno run --allow-net scripts/telnet_client.ts 127.0.0.1 8023
 *
 * Mirrors Python's `telnetlib`, the Telnet row of tutorial 003:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `Telnet(host, port, timeout)` | `new Telnet(conn, terminal)`, with what `connect()` returns |
 * | `tn.read_some()`, `tn.read_until(b"> ")` | `telnet.read()`: `conn.read()`, without the commands |
 * | `tn.write(b"date\r\n")` | `telnet.write()`: each IAC doubled, and a line's LF made CR LF |
 * | `tn.interact()` | `interact()`, which knows what a terminal is |
 * | `tn.set_debuglevel(1)` | `--trace` |
 * | `tn.close()` | `using`: `conn.close()` |
 *
 * At first your terminal edits and shows a line, which goes when it is done, and Ctrl-C ends the
 * client. Once the server takes over the ECHO, each key goes as it is pressed, Ctrl-C like any other,
 * and you see what comes back. Ctrl-] (at first with Enter) leads to a prompt that can end it. The
 * server is told that the terminal's type is UNKNOWN without `--allow-env=TERM`. A pipe goes line by
 * line, and then the server has to end it: `--timeout` says how long it may be silent.
 *
 * What the server sends goes to the terminal as it is, since full-screen programs need that: a server
 * can do to the screen what it likes, so connect to those you trust. Everything goes over the network
 * in the clear, passwords as well, and `--trace` shows them, too: on the Internet `ssh_client.ts` is
 * the one to use.
 *
 * @module
 */
import { at, connect, reason, UsageError } from "../lib/address.ts";
import { clientFlags, main, stopSignal, writeStdout } from "../lib/cli.ts";
import { FramedConn, printable } from "../lib/framing.ts";

const PORT = 8023;
const ESCAPE = 0x1d; // ^]
const CHUNK = 65536; // octets of stdin in one piece
const MAX_COMMAND = 64; // octets: no command that is obeyed here has more
const MAX_ANSWERS = 10_000; // about options, while nothing is typed
const [SILENCE, MAX_SILENCE] = [300, 5000]; // milliseconds: when the server is asked for a sign
const [NUL, LF, CR] = [0x00, 0x0a, 0x0d];

// Commands of RFC 854, and EOF, the lowest of those that came later (RFC 1184).
const [IAC, DONT, DO, WONT, WILL, SB, SE, EOF] = [255, 254, 253, 252, 251, 250, 240, 236];
// Options: RFC 857, 858, 860, 1091, 1073.
const [ECHO, SUPPRESS_GO_AHEAD, TIMING_MARK, TERMINAL_TYPE, NAWS] = [1, 3, 6, 24, 31];
const [IS, SEND] = [0, 1];
const encoder = new TextEncoder();
// Their names: of the commands, from EOF on, and of the options that servers ask for most.
const COMMANDS = "EOF SUSP ABORT EOR SE NOP DM BRK IP AO AYT EC EL GA SB WILL WONT DO DONT"
  .split(" ");
const OPTIONS = new Map(
  `0 BINARY, 1 ECHO, 3 SUPPRESS-GO-AHEAD, 5 STATUS, 6 TIMING-MARK, 24 TERMINAL-TYPE, 31 NAWS,
  32 TERMINAL-SPEED, 33 TOGGLE-FLOW-CONTROL, 34 LINEMODE, 35 X-DISPLAY-LOCATION, 36 ENVIRON,
  37 AUTHENTICATION, 38 ENCRYPT, 39 NEW-ENVIRON`
    .split(/,\s+/).map((row) => row.split(" ") as [number: string, name: string]),
);

/** A command as `--trace` has it: `WILL NAWS`, `SB NAWS 80 24`, `SB TERMINAL-TYPE IS xterm`. */
export function describe([verb, option, ...data]: number[]): string {
  const words: unknown[] = [COMMANDS[verb - EOF]];
  if (option !== undefined) words.push(OPTIONS.get(`${option}`) ?? option);
  if (option === NAWS && data.length === 4) {
    words.push(data[0] << 8 | data[1], data[2] << 8 | data[3]);
  } else if (option === TERMINAL_TYPE && data[0] === IS) {
    words.push("IS", printable(String.fromCharCode(...data.slice(1))));
  } else if (option === TERMINAL_TYPE && data[0] === SEND) {
    words.push("SEND");
  } else words.push(...data);
  return words.join(" ");
}

/** Takes what Telnet sends apart into data and commands, wherever the network has cut it. */
export class Decoder {
  #iac = false; // was the last octet
  #command: number[] = []; // under way, without its IAC

  /**
   * Each octet of the data, and each command without its IAC: `[NOP]`, `[DO, ECHO]`,
   * `[SB, TERMINAL_TYPE, SEND]`. A subnegotiation that is too long is left out; one that another
   * command comes into ends there, and is left out, too.
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

/** Your terminal, as far as the server may know it. */
export type Terminal = {
  type: string;
  size?: () => { columns: number; rows: number }; // none: nobody is there to see what is echoed
};

/** A Telnet connection to a server: data goes out and comes in, the rest is between the programs. */
export class Telnet {
  #decoder = new Decoder();
  #answers = 0;
  #sent = Promise.resolve();
  #last?: number; // octet of the data that was read
  #cr = false; // was written last
  /** The options that either side may have on, and whether it has. */
  #ours = new Map([[SUPPRESS_GO_AHEAD, false], [TERMINAL_TYPE, false]]);
  #theirs = new Map([[SUPPRESS_GO_AHEAD, false]]);

  /** Takes over `conn`. */
  constructor(readonly conn: FramedConn, readonly terminal: Terminal) {
    if (!terminal.size) return;
    this.#ours.set(NAWS, false);
    this.#theirs.set(ECHO, false);
  }

  /** Whether the server shows what is typed, and wants each key at once. */
  get echoes(): boolean {
    return this.#theirs.get(ECHO) === true;
  }

  /** The data that comes next, none if it was all about options; null at the end. */
  async read(): Promise<Uint8Array | null> {
    const octets = await this.conn.readSome().catch(at(this.conn.peer));
    if (octets === null) return null;
    const data: number[] = [];
    for (const item of this.#decoder.decode(octets)) {
      if (typeof item === "number") {
        if (this.#last !== CR || item !== NUL) data.push(item);
        this.#last = item;
      } else this.#obey(item);
    }
    return new Uint8Array(data);
  }

  /**
   * Sends data, each IAC doubled. A CR must have LF or NUL behind it: lines end with LF, which gets
   * a CR before it, and while the server echoes with CR, the key, which gets a NUL.
   */
  async write(data: Uint8Array): Promise<void> {
    this.#answers = 0;
    const octets: number[] = [];
    for (const octet of data) {
      if (this.#cr && octet !== LF) octets.push(NUL);
      if (octet === LF && !this.#cr && !this.echoes) octets.push(CR);
      octets.push(...octet === IAC ? [IAC, IAC] : [octet]);
      this.#cr = octet === CR && !this.echoes;
      if (octet === CR && this.echoes) octets.push(NUL);
    }
    await this.#send(octets);
  }

  /** Tells the server the size of the window, if it has asked for that. */
  tellSize(): void {
    if (!this.terminal.size || !this.#ours.get(NAWS)) return;
    const { columns, rows } = this.terminal.size();
    this.#command(SB, NAWS, columns >> 8, columns & 255, rows >> 8, rows & 255);
  }

  /** Has the server send something: how it takes this, which changes nothing (RFC 860). */
  askForSign(): void {
    this.#command(DO, TIMING_MARK);
  }

  /** Says that no more data comes. Many servers take a half-close for a user who is gone. */
  end(): void {
    this.#command(EOF);
  }

  #obey(command: number[]): void {
    if (this.conn.options.trace) console.error(`< ${describe(command)}`);
    const [verb, option, ...data] = command;
    if (verb >= WILL) this.#agree(verb, option);
    else if (verb === SB && option === TERMINAL_TYPE && data[0] === SEND) {
      this.#answer(SB, TERMINAL_TYPE, IS, ...encoder.encode(this.terminal.type));
    }
  }

  /**
   * Answers what asks for a change, and nothing else: neither what agrees or refuses, nor what asks
   * for what is so already. Two sides that do no more cannot answer each other for ever (RFC 854 has
   * the rule, RFC 1143 the reasons).
   */
  #agree(verb: number, option: number): void {
    const theirs = verb === WILL || verb === WONT;
    const on = verb === WILL || verb === DO;
    const options = theirs ? this.#theirs : this.#ours;
    if (on === (options.get(option) ?? false)) return;
    const agreed = on && options.has(option);
    if (options.has(option)) options.set(option, agreed);
    this.#answer(theirs ? (agreed ? DO : DONT) : (agreed ? WILL : WONT), option);
    if (option === NAWS && agreed) this.tellSize();
  }

  #answer(...command: number[]): void {
    if (++this.#answers > MAX_ANSWERS) throw new Error(`${this.conn.peer}: options without end`);
    this.#command(...command);
  }

  /** Sends a command, and does not wait: with the server waiting, too, both would for ever. */
  #command(...command: number[]): void {
    if (this.conn.options.trace) console.error(`> ${describe(command)}`);
    const doubled = command.flatMap((octet) => octet === IAC ? [IAC, IAC] : [octet]);
    const octets = command[0] === SB ? [IAC, ...doubled, IAC, SE] : [IAC, ...command];
    this.#send(octets).catch(() => {}); // then there is nothing more to read, either
  }

  /** Sends octets after those before, of which a write may have sent a part so far. */
  #send(octets: number[]): Promise<void> {
    const sent = this.#sent.then(() => this.conn.writeAll(new Uint8Array(octets)));
    this.#sent = sent.catch(() => {});
    return sent;
  }
}

/**
 * Sends what is typed and shows what comes, until the server ends it or somebody at the terminal
 * does, by the prompt that Ctrl-] leads to or by Ctrl-D in place of a line. Returns which of them.
 * When any other input has ended, the server must end it, and not be silent for `timeout`
 * milliseconds before.
 *
 * @throws {Error} if either direction fails; if it is ours, what the server sent is shown first.
 */
export async function interact(telnet: Telnet, timeout: number): Promise<"client" | "server"> {
  const { conn, terminal } = telnet;
  const buffer = new Uint8Array(CHUNK);
  let [raw, prompting] = [false, false];
  let unsent: unknown;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let heard = () => {}; // called whenever something has come
  let printing = false;

  /** Acts once nothing has come for so long, other than because nobody takes the output. */
  function whenSilent(milliseconds: number, act: () => void): void {
    heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => {
        if (printing) return heard();
        heard = () => {};
        act();
      }, milliseconds);
    };
    heard();
  }

  /**
   * Asks the silent server for a sign, and a few times more, ever later. Where urgent data was in the
   * stream, Deno may not see what is behind it before more comes: the prompt, for one, after Ctrl-C
   * has stopped a program on telnetd.
   */
  function watch(milliseconds: number): void {
    if (milliseconds > MAX_SILENCE) return;
    whenSilent(milliseconds, () => {
      telnet.askForSign();
      watch(2 * milliseconds);
    });
  }

  function update(): void {
    if (raw === (telnet.echoes && !prompting)) return;
    raw = !raw;
    Deno.stdin.setRaw(raw);
  }

  async function receive(): Promise<"server"> {
    for (let data; (data = await telnet.read()) !== null;) {
      update();
      printing = true;
      await writeStdout(data);
      printing = false;
      heard();
    }
    return "server";
  }

  async function send(): Promise<"client" | "server"> {
    for (let n; (n = await Deno.stdin.read(buffer).catch(at("stdin"))) !== null;) {
      const typed = buffer.subarray(0, n);
      const escape = terminal.size ? typed.indexOf(ESCAPE) : -1;
      unsent = "the server has ended";
      try {
        await telnet.write(escape < 0 ? typed : typed.subarray(0, escape));
      } catch (error) {
        unsent = error;
        return await receiving;
      }
      unsent = undefined;
      if (raw) watch(SILENCE);
      if (escape >= 0 && await quits()) return "client";
    }
    if (terminal.size) return "client"; // Ctrl-D
    telnet.end();
    whenSilent(timeout, () => {
      const within = `no answer within ${timeout / 1000} s (--timeout)`;
      conn.close(new Deno.errors.TimedOut(within));
    });
    return await receiving;
  }

  /** Asks whether to end. */
  async function quits(): Promise<boolean> {
    prompting = true;
    update();
    await writeStdout(encoder.encode("\ntelnet> "));
    const n = await Deno.stdin.read(buffer).catch(at("stdin"));
    prompting = false;
    update();
    const line = new TextDecoder().decode(buffer.subarray(0, n ?? 0)).trim();
    if (n === null || /^(q|quit|close)$/.test(line)) return true;
    if (line) await writeStdout(encoder.encode("quit ends it, Enter goes on\r\n"));
    return false;
  }

  const receiving = receive();
  try {
    const ended = await Promise.race([receiving, send()]);
    if (ended === "client") return ended;
    if (unsent) throw new Error(`${conn.peer}: not all was sent: ${reason(unsent)}`);
    if (conn.bytesRead === 0) throw new Error(`${conn.peer}: hung up without a word`);
    return ended;
  } finally {
    if (raw) Deno.stdin.setRaw(false);
  }
}

/** What the environment calls this terminal, if we may look. */
function terminalType(): string {
  const { state } = Deno.permissions.querySync({ name: "env", variable: "TERM" });
  return (state === "granted" && Deno.env.get("TERM")) || "UNKNOWN";
}

if (import.meta.main) {
  const client = clientFlags(PORT);
  await main({
    name: "telnet_client",
    about: "Makes this terminal one of the server's. HOST and PORT are --host and --port.",
    usage: "[HOST] [PORT]",
    permissions: "--allow-net",
    flags: client,
  }, async ({ name, ...flags }, host, port) => {
    if (host && flags.unix) throw new UsageError("--unix does not go with HOST and PORT");
    const endpoint = { ...flags };
    if (host) endpoint.host = client.host.parse([host]);
    if (port) endpoint.port = client.port.parse([port]);
    const interactive = Deno.stdin.isTerminal() && Deno.stdout.isTerminal();
    // No timeout for replies before the input has ended: somebody may still type.
    using conn = new FramedConn(await connect(endpoint), { trace: flags.trace });
    const size = interactive ? Deno.consoleSize : undefined;
    const telnet = new Telnet(conn, { type: terminalType(), size });
    Deno.addSignalListener("SIGWINCH", () => telnet.tellSize());
    stopSignal().addEventListener("abort", () => {
      if (interactive) Deno.stdin.setRaw(false);
      Deno.exit(130);
    });
    if (interactive) console.error(`${name}: connected to ${conn.peer}, Ctrl-] escapes`);
    const ended = await interact(telnet, flags.timeout);
    if (interactive && ended === "server") console.error(`${name}: the server has ended it`);
  });
}
