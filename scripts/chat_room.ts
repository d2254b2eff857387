#!/usr/bin/env -S deno run --allow-net
/**
 * A chat room for many people: what one says all others hear. Any number of rooms, on as many
 * machines, are one room through NATS.
 *
 *     deno run --allow-net scripts/chat_room.ts
 *     deno run --allow-net scripts/chat_client.ts --port 5002
 *     nc 127.0.0.1 5002
 *     nats-server -a 127.0.0.1
 *     deno run --allow-net scripts/chat_room.ts --port 5003 --nats 127.0.0.1:4222
 *
 * Mirrors "Server Architecture" and "Message Queues" of tutorial 002, which names the book's
 * chapters without a listing:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `asyncio.start_server(converse)` | `serve(listener, converse)`: `listener.accept()` |
 * | `await reader.readline()` | `conn.readLine()`: `conn.read()` until there is a line |
 * | `writer.write(line)`, which keeps what cannot be sent | `person.tell()`, which keeps 256 KiB |
 * | `threading.Lock()` around the list of people | none: nothing else runs up to the next `await` |
 * | `zmq.PUB`, `zmq.SUB` | `nats.publish()`, `nats.subscribe()` |
 *
 * @module
 */
import { deadline } from "@std/async/deadline";
import { delay } from "@std/async/delay";
import { listen, named } from "../lib/address.ts";
import { flag, hostPort, main, optional, seconds, serverFlags, stopSignal } from "../lib/cli.ts";
import { type FramedConn, LimitError, printable } from "../lib/framing.ts";
import { serve } from "../lib/server.ts";

const PORT = 5002;
const COMMANDS = "/nick NAME, /who, /quit";
const NAME = /^[\w-]{1,20}$/; // ASCII: letters of other alphabets look the same and are not
const MAX_LINE = 1000; // octets
const MAX_WAITING = 256 * 1024; // octets that somebody may be behind: some 250 of the longest lines
const PACE = 200; // milliseconds from one line of a person to the next
const [BEAT, SILENCE] = [1000, 5000]; // milliseconds between a room's lists, and until it is gone
const [MAX_ROOMS, MAX_PEOPLE] = [1000, 10_000]; // others that are known, and in each
const fold = (name: string) => name.toLowerCase(); // names alike in this are one
const encode = (line: string) => new TextEncoder().encode(`${line}\r\n`);

/** Somebody in the room. */
class Person {
  readonly end = Promise.withResolvers<void>(); // of the conversation
  sending?: Promise<void>;
  #queue: Uint8Array[] = [];
  #waiting = 0;

  constructor(readonly conn: FramedConn, readonly number: number, public name: string) {}

  /** Sends a line as soon as it can be, and waits for nobody: who does not read is closed. */
  tell(line: string, octets = encode(line)): void {
    if (this.#waiting > MAX_WAITING) {
      return this.conn.close(new Error(`closed, ${this.name} does not read`));
    }
    this.#waiting += octets.length;
    this.#queue.push(octets);
    this.sending ??= this.#send();
  }

  async #send(): Promise<void> {
    while (this.#queue.length > 0) {
      for (const octets of this.#queue.splice(0)) {
        await this.conn.writeAll(octets).catch(this.end.reject);
        this.#waiting -= octets.length;
      }
    }
    this.sending = undefined;
  }
}

/** A room, and the people in it. */
export class Room {
  readonly people: Set<Person> = new Set();
  /** Other rooms, if `link()` has set it: who is there, and what they are told of what happens here. */
  others?: { names(): string[]; changed(): void; said(by: number, text: string): void };
  #entered = 0;
  #guests = 0;

  /** Serves somebody from joining to leaving. */
  async converse(conn: FramedConn): Promise<void> {
    const person = new Person(conn, ++this.#entered, this.guestName());
    this.tell(`* ${person.name} has joined`);
    this.people.add(person);
    this.others?.changed();
    person.tell(`* you are ${person.name}; commands: ${COMMANDS}`);
    try {
      await Promise.race([this.#hear(person), person.end.promise]);
    } catch (error) {
      if (error instanceof LimitError) person.tell(`* a line has at most ${MAX_LINE} octets`);
      throw error;
    } finally {
      this.people.delete(person);
      this.tell(`* ${person.name} has left`);
      this.others?.changed();
      await deadline(Promise.resolve(person.sending), 2000).catch(() => {}); // the last lines
    }
  }

  async #hear(person: Person): Promise<void> {
    for (let line; (line = await person.conn.readLine(MAX_LINE)) !== null;) {
      this.#obey(person, line);
      await delay(PACE); // a flood would fill the queues of honest readers, and close them
      if (!this.people.has(person)) return;
    }
  }

  #obey(person: Person, line: string): void {
    const [, command = "", name] = /^\s*(\S*)\s*(.*?)\s*$/s.exec(line) ?? [];
    if (command === "/nick") {
      if (!NAME.test(name)) person.tell("* a name has 1 to 20 letters (A to Z), digits, - and _");
      else if (!this.#names(person).map(fold).includes(fold(name))) this.rename(person, name);
      else person.tell(`* ${name} is taken`);
    } else if (command === "/who") {
      const names = this.#names().sort();
      const rows = `here (${names.length}): ${names.join(", ")}`.match(/.{1,76}( |$)/g) ?? [];
      for (const row of rows) person.tell(`* ${row.trim()}`);
    } else if (command === "/quit") {
      person.tell("* bye");
      person.end.resolve();
    } else if (command.startsWith("/")) {
      person.tell(`* unknown command ${printable(command)}; commands: ${COMMANDS}`);
    } else if (command) {
      this.tell(`${person.name}: ${printable(line)}`, person);
      this.others?.said(person.number, line);
    }
  }

  /** Says a line to everybody here but the one it is from. */
  tell(line: string, from?: Person): void {
    const octets = encode(line); // once for all of them
    for (const person of this.people) if (person !== from) person.tell(line, octets);
  }

  /** Gives somebody another name. */
  rename(person: Person, name: string): void {
    if (name === person.name) return;
    this.tell(`* ${person.name} is now ${name}`);
    person.name = name;
    this.others?.changed();
  }

  /** A name that is free. */
  guestName(): string {
    while (this.#names().map(fold).includes(`guest${++this.#guests}`));
    return `guest${this.#guests}`;
  }

  #names(except?: Person): string[] {
    const here = [...this.people].filter((person) => person !== except).map(({ name }) => name);
    return [...here, ...this.others?.names() ?? []];
  }

  /** Sends everybody home. */
  close(): void {
    this.tell("* the room closes");
    for (const person of this.people) person.end.resolve();
    this.people.clear();
  }
}

/**
 * Makes a room one with all others that are linked to the same NATS server, until it is disposed
 * of. `name` is the program's, for its log. Throws if the server cannot be reached at the start.
 *
 * Each room tells the others `{ room, people: [[1, "ann"], ...] }` whenever that changes and every
 * second: what differs from the last time has joined, left or got a new name. A room that is
 * silent for 5 s, as it was killed, has nobody in it. If two people take a name at the same time,
 * or while their rooms are out of reach, the one in the room with the greater id loses it.
 * `{ room, said: [1, "hello"] }` is said by one of those people. While NATS is out of reach nothing
 * is published: what is said then stays in the room. Whoever may publish there can speak for anybody:
 * NATS has accounts for that.
 */
export async function link(room: Room, server: string, name: string): Promise<AsyncDisposable> {
  const { connect } = await import("@nats-io/transport-node");
  const nats = await connect({
    servers: server,
    noEcho: true,
    timeout: 5000, // milliseconds
    pingInterval: 2000, // after two without an answer the server hangs
    reconnectTimeWait: 500,
    maxReconnectAttempts: -1,
    ignoreAuthErrorAbort: true, // else a refused login would end the attempts
  }).catch((error) => Promise.reject(named(server, error)));
  const id = crypto.randomUUID();
  const others = new Map<string, { people: Map<number, string>; heard: number }>();
  let reachable = true;

  function publish(news: Record<string, unknown>): void {
    // Of what is published meanwhile NATS would send the last half second when it is back.
    if (reachable) nats.publish("chat_room", JSON.stringify({ room: id, ...news }));
  }

  function tellPeople(): void {
    const people = Array.from(room.people, ({ number, name }) => [number, name]);
    publish({ people: people.slice(0, MAX_PEOPLE) });
  }

  function update(from: string, people: Map<number, string>): void {
    const before = others.get(from)?.people ?? new Map<number, string>();
    others.set(from, { people, heard: performance.now() });
    for (const [number, name] of before) if (!people.has(number)) room.tell(`* ${name} has left`);
    for (const [number, name] of people) {
      const former = before.get(number);
      if (!former) room.tell(`* ${name} has joined`);
      else if (former !== name) room.tell(`* ${former} is now ${name}`);
    }
    const theirs = new Set(Array.from(people.values(), fold));
    for (const person of room.people) {
      // Only one of both rooms does it: that with the greater id.
      if (id < from || !theirs.has(fold(person.name))) continue;
      room.rename(person, room.guestName());
      person.tell(`* you are ${person.name} now, in another room is one of your name`);
    }
  }

  /** Takes what anybody may have published: nothing of it is sure. */
  function hear(news: unknown): void {
    const { room: from, people, said } = Object(news); // it may be null
    const known = others.get(from);
    if (isPair(said) && said[1].length <= MAX_LINE) {
      const name = known?.people.get(said[0]);
      if (name) room.tell(`${name}: ${printable(said[1])}`);
    } else if (
      isList(people) && (known || (others.size < MAX_ROOMS && from?.length === id.length))
    ) {
      update(from, new Map(people));
      if (!known) tellPeople(); // it has just started, and knows nobody
    }
  }

  nats.subscribe("chat_room", {
    callback(_error, message) {
      try {
        hear(message.json());
      } catch {
        // not JSON
      }
    },
  });

  const beat = setInterval(() => {
    tellPeople();
    for (const [from, { heard }] of others) {
      if (!reachable || performance.now() - heard < SILENCE) continue;
      update(from, new Map());
      others.delete(from);
    }
  }, BEAT);

  (async () => {
    for await (const { type } of nats.status()) {
      if (type !== (reachable ? "disconnect" : "reconnect")) continue;
      reachable = !reachable;
      const state = `other rooms are ${reachable ? "back" : "out of reach"}`;
      room.tell(`* ${state}`);
      console.error(`${name}: ${server}: ${state}`);
      for (const other of others.values()) other.heard = performance.now();
      tellPeople();
    }
  })();

  room.others = {
    names: () =>
      reachable ? [...others.values()].flatMap(({ people }) => [...people.values()]) : [],
    changed: tellPeople,
    said: (by, text) => publish({ said: [by, text] }),
  };
  tellPeople();
  return {
    async [Symbol.asyncDispose]() {
      clearInterval(beat);
      reachable = false;
      await deadline(nats.drain(), 1000).catch(() => {}); // its server may be gone, or hang
    },
  };
}

const isPair = (value: unknown): value is [number, string] =>
  Array.isArray(value) && Number.isSafeInteger(value[0]) && typeof value[1] === "string";
const isList = (value: unknown): value is [number, string][] =>
  Array.isArray(value) && value.length <= MAX_PEOPLE &&
  value.every((person) => isPair(person) && NAME.test(person[1]));

if (import.meta.main) {
  await main({
    name: "chat_room",
    about: "A chat room for many people, and with --nats on many machines.",
    permissions: "--allow-net",
    flags: {
      ...serverFlags(PORT),
      idleTimeout: flag("S", "close what is silent for so many seconds", seconds, "3600"),
      nats: optional("HOST:PORT", "one room with all at a NATS server", hostPort(4222)),
    },
  }, async (flags) => {
    const room = new Room();
    await using _others = flags.nats ? await link(room, flags.nats, flags.name) : undefined;
    const signal = stopSignal();
    signal.addEventListener("abort", () => room.close());
    await serve(await listen(flags), (conn) => room.converse(conn), { ...flags, signal });
  });
}
