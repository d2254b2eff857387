#!/usr/bin/env -S deno run --allow-net
/**
 * An authoritative DNS server (RFC 1034, RFC 1035) for one zone, over UDP and TCP. The zone is a
 * master file, or without one the small `example.test` below.
 *
 *     deno run --allow-net scripts/dns_server.ts
 *     dig @127.0.0.1 -p 8053 example.test MX
 *
 *     deno run --allow-net --allow-read scripts/dns_server.ts ZONEFILE
 *
 * Mirrors what tutorial 002 lists under "DNS", for which Python has no server; with its `socket`:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `socket(type=SOCK_DGRAM)`, `bind()` | `listenDatagrams()`: `Deno.listenDatagram()` |
 * | `recvfrom(65535)`, `sendto(answer, addr)` | `serveDatagrams()`: `socket.receive()`, `socket.send()` |
 * | `socket()`, `bind()`, `listen()`, `accept()` | `listen()`, `serve()` |
 * | `struct.unpack("!H", conn.recv(2))`, `recv()` until all is there | `conn.readBlock(65535, 2)` |
 * | `struct.pack("!H", n) + answer`, `sendall()` | `conn.writeBlock(answer, 2)` |
 * | `dns.message` of dnspython | `dns-packet` |
 *
 * It answers for its zone and nothing else: it looks nothing up elsewhere and gives the zone to
 * nobody whole (no AXFR). Over UDP an answer is as long as the client says that it can take
 * (RFC 6891), and else cut short (TC), at which the client asks again over TCP.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { isIP } from "node:net";
// @ts-types="npm:@types/dns-packet@5.6.5"
import {
  type Answer,
  decode,
  type DecodedPacket,
  encode,
  type OptAnswer,
  type StringAnswer,
} from "dns-packet";
import { listen, listenDatagrams, named } from "../lib/address.ts";
import { main, serverFlags, stopSignal } from "../lib/cli.ts";
import type { FramedConn } from "../lib/framing.ts";
import { serve, serveDatagrams } from "../lib/server.ts";

const PORT = 8053; // 53 is the assigned one
const [AA, TC, RD, DO] = [0x0400, 0x0200, 0x0100, 0x8000];
const [NOERROR, FORMERR, NXDOMAIN, NOTIMP, REFUSED, BADVERS] = [0, 1, 3, 4, 5, 16];
const MIN_UDP = 512; // octets that every client takes
const MAX_UDP = 4096; // octets that this server sends at most, however many the client takes
const MAX_TCP = 65535; // octets

/** A resource record. */
export type Resource = Exclude<Answer, OptAnswer>;

/** A zone's records by name. */
export type Zone = {
  origin: string;
  negative: Resource; // the SOA for an answer that there is nothing
  names: Map<string, Resource[]>; // in lower case; with names that only have others below them
};

/** What there is to say on a question. */
export type Finding = {
  rcode: number;
  aa: boolean; // by an authority
  answers: Resource[];
  authorities: Resource[];
  additionals: Resource[];
};

const nothing = (rcode: number, aa = false): Finding => (
  { rcode, aa, answers: [], authorities: [], additionals: [] }
);

/** Finds the answer to a question (RFC 1034, 4.3.2). */
export function lookup(zone: Zone, name: string, type: string): Finding {
  if (!isBelow(key(name), zone.origin)) return nothing(REFUSED);
  const finding = nothing(NOERROR, true);
  const { answers, authorities, additionals } = finding;
  // CNAMEs are followed while they stay in the zone and are no loop.
  const seen = new Set<string>();
  for (;;) {
    const at = key(name);
    if (!isBelow(at, zone.origin) || seen.has(at)) break;
    seen.add(at);
    const servers = findDelegation(zone, at);
    if (servers) {
      finding.aa = answers.length > 0;
      authorities.push(...servers);
      break;
    }
    const records = findName(zone, at);
    const alias = records?.find((record) => record.type === "CNAME") as StringAnswer | undefined;
    const found = alias ? [alias] : records?.filter((r) => type === "ANY" || r.type === type);
    answers.push(...found?.map((record) => ({ ...record, name })) ?? []);
    if (!records) finding.rcode = NXDOMAIN;
    if (!found?.length) authorities.push(zone.negative);
    if (!alias || type === "CNAME" || type === "ANY") break;
    name = alias.data;
  }
  for (const host of new Set([...answers, ...authorities].map(target).map(key))) {
    additionals.push(...(zone.names.get(host) ?? []).filter(({ type }) => /^A+$/.test(type)));
  }
  return finding;
}

/** The NS records that give `name`, or a name above it, to another server. */
function findDelegation(zone: Zone, name: string): Resource[] | undefined {
  let found: Resource[] | undefined;
  for (; name !== zone.origin; name = parent(name)) {
    const servers = zone.names.get(name)?.filter(({ type }) => type === "NS");
    if (servers?.length) found = servers;
  }
  return found;
}

/** A name's records, or those of the wildcard that stands for it (RFC 4592); undefined: no such name. */
function findName({ names }: Zone, name: string): Resource[] | undefined {
  if (names.has(name)) return names.get(name);
  while (!names.has(name)) name = parent(name);
  return names.get(`*.${name}`);
}

/** The host that a record sends one to. */
function target(record: Resource): string {
  if (record.type === "NS") return record.data;
  if (record.type === "MX") return record.data.exchange;
  return record.type === "SRV" ? record.data.target : "";
}

const key = (name: string) => name.replace(/[A-Z]+/g, (letters) => letters.toLowerCase());
const parent = (name: string) => name.slice(name.indexOf(".") + 1 || name.length) || ".";
const isBelow = (name: string, origin: string) =>
  origin === "." || `.${name}`.endsWith(`.${origin}`);

/**
 * Answers a message; undefined if it is too short or itself an answer.
 *
 * @param udp whether the answer is a datagram and must fit into what the client takes.
 */
export function respond(zone: Zone, message: Uint8Array, udp: boolean): Buffer | undefined {
  const octets = Buffer.from(message.buffer, message.byteOffset, message.length);
  if (octets.length < 12 || octets[2] & 0x80) return undefined;
  // The header alone, when what follows it is not understood.
  const bare = (rcode: number) =>
    Buffer.from([octets[0], octets[1], 0x80 | octets[2] & 0x79, rcode, 0, 0, 0, 0, 0, 0, 0, 0]);
  if (octets[2] & 0x78) return bare(NOTIMP);
  // dns-packet makes room for as many records as are announced; a query has an OPT, and a TSIG, at most.
  const [asked, ...others] = [4, 6, 8, 10].map((at) => octets.readUInt16BE(at));
  if (asked !== 1 || others.some((n) => n > 2)) return bare(FORMERR);
  let query: DecodedPacket;
  try {
    query = decode(octets);
  } catch {
    return bare(FORMERR);
  }
  const { id, flags = 0, questions = [], additionals = [] } = query;
  const [{ name, type, class: group }] = questions;
  const [opt, second] = additionals.filter((record) => record.type === "OPT");
  if (second || opt && opt.name !== ".") return bare(FORMERR);
  let finding = nothing(REFUSED); // zone transfers and other classes, too
  if (opt?.ednsVersion) finding = nothing(BADVERS);
  else if (group === "IN" && !/^[AI]XFR$/.test(type)) finding = lookup(zone, name, type);

  const edns = { udpPayloadSize: MAX_UDP, ednsVersion: 0, extendedRcode: finding.rcode >> 4 };
  const opts = opt ? [{ ...opt, ...edns, flags: opt.flags & DO, options: [] }] : [];
  const pack = ({ rcode, aa, ...sections }: Finding, tc = 0) =>
    encode({
      type: "response",
      id,
      flags: flags & RD | (aa ? AA : 0) | tc | rcode & 15,
      questions,
      ...sections,
      additionals: [...sections.additionals, ...opts],
    });
  const most = udp ? Math.min(Math.max(opt?.udpPayloadSize ?? 0, MIN_UDP), MAX_UDP) : MAX_TCP;
  let answer = pack(finding);
  // Without a record that nobody asked for it is still a whole answer (RFC 2181, 9), but for glue.
  if (answer.length > most && finding.answers.length > 0) {
    answer = pack({ ...finding, additionals: [] });
  }
  if (answer.length > most) answer = pack(nothing(finding.rcode, finding.aa), TC);
  // Labels are text to dns-packet: octets that are no text, and dots in them, come out as others.
  const end = 12 + (name === "." ? 1 : Buffer.byteLength(name) + 2) + 4;
  const same = answer.subarray(12, end).equals(octets.subarray(12, end));
  return same ? answer : bare(FORMERR);
}

/** TCP: messages behind their length in two octets, any number in a connection (RFC 7766). */
export function tcpHandler(zone: Zone): (conn: FramedConn) => Promise<void> {
  return async (conn) => {
    for (let message; (message = await conn.readBlock(MAX_TCP, 2)) !== null;) {
      const answer = respond(zone, message, false);
      if (answer) await conn.writeBlock(answer, 2);
    }
  };
}

const EXAMPLE = `
$ORIGIN example.test.
$TTL 1h
@         SOA   ns1 hostmaster ( 2026112101 ; serial
                2h 30m 2w 5m )              ; refresh, retry, expire, negative answers
          NS    ns1
          NS    ns2
          MX    10 mail
          MX    20 backup.example.net.
          A     192.0.2.10
          AAAA  2001:db8::10
          TXT   "v=spf1 mx -all"
          CAA   0 issue "ca.example.net"
ns1       A     192.0.2.1
ns2       A     192.0.2.2
mail      A     192.0.2.25
www       CNAME @
_imap._tcp SRV  0 1 8143 mail
*.people  TXT   "anybody" "at \\"home\\""
10.rev    PTR   www
`;

const TIME = /^\d+([smhdw]\d+)*[smhdw]?$/i;
const UNITS: Record<string, number> = { m: 60, h: 3600, d: 86400, w: 604800 };
/** Labels of anything visible but quotes and escapes, which are left out. */
const NAME = /^[!#-\-/-[\]-~]{1,63}(\.[!#-\-/-[\]-~]{1,63})*$/;
/** The first label of a mailbox may have dots in it, escaped (RFC 1035, 5.3). */
const MAILBOX = /^([!#-\-/-[\]-~]|\\\.){1,63}(\.[!#-\-/-[\]-~]{1,63})*$/;

/** An entry of a master file (RFC 1035, 5.1), taken field by field; what is wrong with it, it throws. */
class Entry {
  readonly fields: string[] = []; // as written; a quoted one starts with its quote
  inherits = false; // the owner of the entry before
  origin?: string; // of relative names

  constructor(readonly line: number) {}

  take(what: string): string {
    const field = this.fields.shift();
    if (field === undefined) throw new Error(`${what} is missing`);
    return field;
  }

  number(what: string, max: number): number {
    const field = this.take(what);
    if (/^\d+$/.test(field) && Number(field) <= max) return Number(field);
    throw new Error(`${what} ${field} is not a whole number from 0 to ${max}`);
  }

  /** Seconds, which may be written as `1h30m`. */
  time(what: string): number {
    const field = this.take(what);
    let seconds = TIME.test(field) ? 0 : NaN;
    for (const [, n, unit] of field.matchAll(/(\d+)(\D?)/g)) {
      seconds += Number(n) * (UNITS[unit.toLowerCase()] ?? 1);
    }
    if (seconds < 2 ** 31) return seconds; // RFC 2181, 8
    throw new Error(`${what} ${field} is not a time`);
  }

  address(version: number): string {
    const field = this.take("address");
    if (isIP(field) === version && !field.includes("%")) return field;
    throw new Error(`${field} is not an IPv${version} address`);
  }

  /** A domain name, made absolute, without its last dot. */
  name(what: string, pattern = NAME): string {
    const field = this.take(what);
    if (field === ".") return field;
    let name = field.replace(/(?<=[^.])\.$/, "");
    if (name === field) {
      if (this.origin === undefined) {
        throw new Error(`${field} has no dot at its end, and there is no $ORIGIN`);
      }
      const suffix = this.origin === "." ? "" : `.${this.origin}`;
      name = field === "@" ? this.origin : field + suffix;
    }
    if (name === "." || pattern.test(name) && name.length < 254) return name;
    throw new Error(`${what} ${field} is not a domain name`);
  }

  /** A character string, its escapes resolved. */
  string(what: string): Buffer {
    const octets = this.take(what).replace(/^"/, "").replace(/\\(\d{1,3}|.)/g, (_, escaped) => {
      if (/\D/.test(escaped)) return escaped;
      if (escaped.length < 3 || Number(escaped) > 255) {
        throw new Error(`\\${escaped} is not an octet`);
      }
      return String.fromCharCode(Number(escaped));
    });
    if (octets.length > 255) throw new Error(`${what} of ${octets.length} octets, more than 255`);
    return Buffer.from(octets, "latin1");
  }

  /** A resource record; its fields are those that `dns-packet` knows. */
  record(owner: string, usual?: number): Resource {
    // The class, which says nothing new, stands before or behind the TTL, if either is there.
    const [first = "", second = ""] = this.fields;
    const at = [first, TIME.test(first) ? second : ""].findIndex((field) => /^in$/i.test(field));
    if (at >= 0) this.fields.splice(at, 1);
    const ttl = TIME.test(this.fields[0] ?? "") ? this.time("TTL") : usual;
    const type = this.take("type").toUpperCase();
    const shape = RDATA[type];
    if (!shape) throw new Error(`${type} is not a type that is known here`);
    const data = typeof shape === "function"
      ? shape(this, "data")
      : Object.fromEntries(Object.entries(shape).map(([what, read]) => [what, read(this, what)]));
    if (ttl === undefined) throw new Error("no TTL, and no $TTL before it");
    return { name: owner, type, ttl, data } as Resource;
  }
}

type Reader = (entry: Entry, what: string) => unknown;
const name: Reader = (entry, what) => entry.name(what);
const time: Reader = (entry, what) => entry.time(what);
const upTo = (max: number): Reader => (entry, what) => entry.number(what, max);
const short = upTo(65535);

function matching(pattern: RegExp, what: string, text: string): string {
  if (pattern.test(text)) return text;
  throw new Error(`${what} ${text} has other characters than it may`);
}

/** How the data of each type is written. */
const RDATA: Record<string, Reader | Record<string, Reader>> = {
  A: (entry) => entry.address(4),
  AAAA: (entry) => entry.address(6),
  CNAME: name,
  NS: name,
  PTR: name,
  MX: { preference: short, exchange: name },
  SOA: {
    mname: name,
    rname: (entry, what) => entry.name(what, MAILBOX),
    serial: upTo(2 ** 32 - 1),
    refresh: time,
    retry: time,
    expire: time,
    minimum: time,
  },
  SRV: { priority: short, weight: short, port: short, target: name },
  TXT: (entry) => {
    const strings = [entry.string("text")];
    while (entry.fields.length > 0) strings.push(entry.string("text"));
    if (strings.reduce((sum, { length }) => sum + 1 + length, 0) > 65535) {
      throw new Error("more than 65535 octets of text");
    }
    return strings;
  },
  CAA: {
    flags: upTo(255),
    tag: (entry, what) => matching(/^[a-z\d]{1,255}$/i, what, entry.take(what)),
    value: (entry, what) => matching(/^[\0-\x7f]*$/, what, entry.string(what).toString("latin1")),
  },
};

/** What an entry is made of: comment, parenthesis, line's end, blank, quoted field, field, mistake. */
const TOKEN =
  /;[^\n]*|([()])|(\r?\n)|([ \t]+)|("(?:[^"\\\n]|\\[^\n])*)"|((?:[^ \t\r\n();"\\]|\\[^\r\n])+)|(.)/gs;

/** The entries of a master file: each is a line, or several in parentheses. */
function* entries(text: string, path: string): Generator<Entry> {
  let [line, depth, entry] = [1, 0, new Entry(1)];
  for (const token of `${text}\n`.matchAll(TOKEN)) {
    const [, parenthesis, newline, blank, quoted, bare, mistake] = token;
    const field = quoted ?? bare;
    if (parenthesis) depth += parenthesis === "(" ? 1 : -1;
    if (mistake || depth < 0) {
      throw new Error(`${path}:${line}: ${mistake ?? ")"} without the other`);
    }
    if (blank && depth === 0 && entry.fields.length === 0) entry.inherits = true;
    if (field !== undefined) entry.fields.push(field);
    if (!newline) continue;
    line++;
    if (depth > 0) continue;
    if (entry.fields.length > 0) yield entry;
    entry = new Entry(line);
  }
  if (depth > 0) throw new Error(`${path}:${entry.line}: ( without the other`);
}

/**
 * Reads a zone's master file (RFC 1035, 5; RFC 2308, 4).
 *
 * @throws {Error} `PATH:LINE: REASON` for the first mistake.
 */
export function parseZone(file: Uint8Array, path: string): Zone {
  let zone: Zone | undefined;
  let owner: string | undefined;
  let origin: string | undefined;
  let usual: number | undefined;
  let last: number | undefined;
  for (const entry of entries(Buffer.from(file).toString("latin1"), path)) {
    entry.origin = origin;
    try {
      const [first] = entry.fields;
      if (first.startsWith("$")) entry.take("directive");
      if (first === "$ORIGIN") origin = entry.name("origin");
      else if (first === "$TTL") usual = entry.time("TTL");
      else if (first.startsWith("$")) throw new Error(`${first} is not supported`);
      else {
        if (!entry.inherits) owner = entry.name("owner");
        if (owner === undefined) throw new Error("there is no owner before it");
        const record = entry.record(owner, usual ?? last);
        last = record.ttl;
        if (record.type === "SOA") {
          if (zone) throw new Error("a second SOA");
          const ttl = Math.min(record.ttl ?? 0, record.data.minimum ?? 0); // RFC 2308, 5
          zone = { origin: key(owner), negative: { ...record, ttl }, names: new Map() };
        }
        if (!zone) throw new Error("the first record must be the SOA");
        add(zone, record);
      }
      if (entry.fields.length > 0) throw new Error(`unexpected ${entry.fields[0]}`);
    } catch (error) {
      throw named(`${path}:${entry.line}`, error);
    }
  }
  if (!zone) throw new Error(`${path}:1: no record`);
  return zone;
}

/** Adds a record, and the names between it and the origin. */
function add({ origin, names }: Zone, record: Resource): void {
  if (!isBelow(key(record.name), origin)) throw new Error(`${record.name} is outside of ${origin}`);
  const here = names.get(key(record.name)) ?? [];
  const alone = [...here, record].some(({ type }) => type === "CNAME");
  const written = JSON.stringify(record.data);
  const set = here.filter(({ type }) => type === record.type);
  if (set.some(({ data }) => JSON.stringify(data) === written)) return; // RFC 2181, 5
  if (alone && here.length > 0) throw new Error(`${record.name}: a CNAME stands alone`);
  if (set.some(({ ttl }) => ttl !== record.ttl)) {
    throw new Error(`${record.name} ${record.type}: its records differ in TTL`); // RFC 2181, 5.2
  }
  names.set(key(record.name), [...here, record]);
  for (let name = key(record.name); name !== origin; name = parent(name)) {
    if (!names.has(parent(name))) names.set(parent(name), []);
  }
}

if (import.meta.main) {
  await main({
    name: "dns_server",
    about: "Answers DNS questions about one zone (RFC 1035): that of the master file ZONEFILE.",
    usage: "[ZONEFILE]",
    permissions: "--allow-net",
    flags: serverFlags(PORT),
  }, async (flags, path) => {
    const file = path === undefined ? new TextEncoder().encode(EXAMPLE) : await Deno.readFile(path);
    const zone = parseZone(file, path ?? "example.test");
    const options = { ...flags, signal: stopSignal() };
    const listener = await listen(flags);
    const servers = [serve(listener, tcpHandler(zone), options)];
    if (listener.addr.transport === "tcp" && !flags.cert) {
      const socket = await listenDatagrams({ ...flags, port: listener.addr.port });
      servers.push(serveDatagrams(socket, (query) => respond(zone, query, true), options));
    }
    await Promise.all(servers);
  });
}
