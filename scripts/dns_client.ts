#!/usr/bin/env -S deno run --allow-net
/**
 * A DNS client (RFC 1035): puts one question on the wire and prints every section of the answer.
 *
 *     deno run --allow-net scripts/dns_server.ts
 *     deno run --allow-net scripts/dns_client.ts example.test MX
 *
 * Mirrors what tutorial 002 lists under "DNS", on the wire; `resolve.ts` is the same by calls of
 * the system. With Python's `socket` and dnspython:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `dns.message.make_query(name, type)`, `to_wire()` | `encode()` of `dns-packet` |
 * | `socket(type=SOCK_DGRAM)`, `sendto()`, `recvfrom()` | `askDatagram()`: `socket.send()`, `socket.receive()` |
 * | `settimeout(0.5)`, and again | `askDatagram()`: a race against a timer |
 * | `dns.message.from_wire()` | `decode()` of `dns-packet` |
 * | `connect()`, `sendall(struct.pack("!H", n) + query)` | `connect()`, `conn.writeBlock(query, 2)` |
 * | `struct.unpack("!H", recv(2))`, `recv()` until all is there | `conn.readBlock(65535, 2)` |
 *
 * Anybody can send a datagram that claims to come from the server. An answer is taken only from
 * the server's address, at the port asked from, with the id and the question that were sent; port
 * and id are random, so that who cannot see the question has to guess both. What does not fit into
 * a datagram (TC) is asked for again over TCP.
 *
 * It exits with 0 if the server says NOERROR, which it also does of a name that has no such record.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { domainToASCII } from "node:url";
// @ts-types="npm:@types/dns-packet@5.6.5"
import {
  type Answer,
  decode,
  type DecodedPacket,
  encode,
  type OptAnswer,
  type Question,
} from "dns-packet";
import { connect, type Endpoint, named, UsageError } from "../lib/address.ts";
import { clientFlags, main, toggle } from "../lib/cli.ts";
import { askDatagram, FramedConn, type FramedConnOptions, printable } from "../lib/framing.ts";

const PORT = 8053; // 53 is the assigned one
const MAX_UDP = 1232; // octets; a datagram of so many crosses nearly every network in one piece
const RD = 0x0100; // the flag by which a resolver is asked to look further; others pass over it
const RCODES = ["NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED"];
const TYPES = ["A", "AAAA", "CAA", "CNAME", "MX", "NS", "PTR", "SOA", "SRV", "TXT", "ANY"];

/** What came back. */
export type Reply = {
  message: DecodedPacket;
  octets: number;
  over: "UDP" | "TCP";
};

/**
 * Asks a question over UDP, and over TCP if `tcp` or if the answer says that it is cut short.
 *
 * @throws {UsageError} if `name` cannot be a domain name, {@linkcode Deno.errors.TimedOut} if no
 * answer comes within the endpoint's `timeout`, {@linkcode Deno.errors.InvalidData} if over TCP
 * something else comes; else the error of the system.
 */
export async function ask(
  endpoint: Endpoint & FramedConnOptions,
  name: string,
  type: string,
  { tcp = false, again = (_milliseconds: number) => {} } = {},
): Promise<Reply> {
  const question = { name: encodeName(name), type, class: "IN" } as Question;
  const id = crypto.getRandomValues(new Uint16Array(1))[0];
  const opt = { type: "OPT", name: ".", udpPayloadSize: MAX_UDP } as OptAnswer;
  const query = encode({ type: "query", id, flags: RD, questions: [question], additionals: [opt] });
  if (!tcp) {
    const accepts = (data: Uint8Array) => decodeAnswer(data, id, question) !== undefined;
    const data = await askDatagram(endpoint, query, { again, accepts });
    const message = decodeAnswer(data, id, question);
    if (message && !message.flag_tc) return { message, octets: data.length, over: "UDP" };
  }
  using conn = new FramedConn(await connect(endpoint), endpoint);
  try {
    await conn.writeBlock(query, 2);
    const data = await conn.readBlock(65535, 2) ?? new Uint8Array();
    const message = decodeAnswer(data, id, question);
    if (message) return { message, octets: data.length, over: "TCP" };
    throw new Deno.errors.InvalidData(`${data.length} bytes, not the answer`);
  } catch (error) {
    throw named(conn.peer, error);
  }
}

/** A domain name for the wire: IDNA where it is not ASCII, no last dot. */
function encodeName(text: string): string {
  const name = (/^[!-~]*$/.test(text) ? text : domainToASCII(text)).replace(/(?<=[^.])\.$/, "");
  const labels = name === "." ? [] : name.split(".");
  if (name.length < 254 && labels.every((label) => /^[!-~]{1,63}$/.test(label))) return name;
  throw new UsageError(`${text} is not a domain name`);
}

/** The message, if it is the answer to that question. */
function decodeAnswer(
  data: Uint8Array,
  id: number,
  { name, type }: Question,
): DecodedPacket | undefined {
  try {
    const message = decode(Buffer.from(data.buffer, data.byteOffset, data.length));
    if (decode.bytes > data.length) return;
    const [question] = message.questions ?? [];
    const same = question
      ? question.name.toLowerCase() === name.toLowerCase() && question.type === type &&
        question.class === "IN"
      : rcode(message) === "FORMERR"; // what it could not read, a server need not repeat
    if (message.flag_qr && message.id === id && same) return message;
  } catch {
    // Not a DNS message.
  }
}

function rcode({ flags = 0, additionals = [] }: DecodedPacket): string {
  const opt = additionals.find((record) => record.type === "OPT");
  const code = (opt?.extendedRcode ?? 0) << 4 | flags & 15;
  return RCODES[code] ?? `RCODE ${code}`;
}

/** The reply in lines to print: every section, in the form of a zone's master file. */
export function format({ message, octets, over }: Reply): string[] {
  const { id, questions = [], answers = [], authorities = [], additionals = [] } = message;
  const flags = (["aa", "tc", "rd", "ra", "ad", "cd"] as const).filter((flag) =>
    message[`flag_${flag}`]
  );
  const section = (title: string, records: Answer[]) => [
    `;; ${title}: ${records.length}`,
    ...records.map(formatRecord),
  ];
  return [
    `;; ${rcode(message)}, flags: ${flags.join(" ")}, id ${id}, ${octets} bytes over ${over}`,
    `;; QUESTION: ${questions.length}`,
    ...questions.map(({ name, class: group, type }) => `;${fqdn(name)} ${group} ${type}`),
    ...section("ANSWER", answers),
    ...section("AUTHORITY", authorities),
    ...section("ADDITIONAL", additionals),
  ].map(printable);
}

const fqdn = (name: string) => name === "." ? name : `${name}.`;

function formatRecord(record: Answer): string {
  const { type, name } = record;
  if (type === "OPT") return `;EDNS version ${record.ednsVersion}, ${record.udpPayloadSize} bytes`;
  return [fqdn(name), record.ttl, record.class, type, formatData(record)].join(" ");
}

function formatData(record: Exclude<Answer, OptAnswer>): string {
  switch (record.type) {
    case "CNAME":
    case "NS":
    case "PTR":
      return fqdn(record.data);
    case "MX":
      return `${record.data.preference} ${fqdn(record.data.exchange)}`;
    case "SOA": {
      const { mname, rname, serial, refresh, retry, expire, minimum } = record.data;
      return [fqdn(mname), fqdn(rname), serial, refresh, retry, expire, minimum].join(" ");
    }
    case "SRV": {
      const { priority, weight, port, target } = record.data;
      return [priority, weight, port, fqdn(target)].join(" ");
    }
    case "CAA":
      return `${record.data.flags} ${record.data.tag} ${quote(record.data.value)}`;
    case "TXT":
      return [record.data].flat().map((text) => quote(text.toString())).join(" ");
    default: // an address, or octets of a type that this program does not know
      return typeof record.data === "string" ? record.data : Deno.inspect(record.data);
  }
}

function quote(text: string): string {
  return `"${text.replace(/["\\]/g, "\\$&")}"`;
}

if (import.meta.main) {
  await main({
    name: "dns_client",
    about: `Asks a DNS server (RFC 1035) one question. TYPE: ${TYPES.join(", ")} (A).`,
    usage: "NAME [TYPE]",
    permissions: "--allow-net",
    flags: { ...clientFlags(PORT), tcp: toggle("ask over TCP at once") },
  }, async (flags, name, type = "A") => {
    const again = (waited: number) =>
      console.error(`${flags.name}: no answer for ${waited / 1000} s, sending again`);
    // What only a connection has asks for one; connect() says what does not go together.
    const tcp = flags.tcp || flags.tls || (flags.ca ?? flags.unix) !== undefined;
    if (!TYPES.includes(type.toUpperCase())) {
      throw new UsageError(`TYPE: ${type} is none of ${TYPES.join(", ")}`);
    }
    const reply = await ask(flags, name, type.toUpperCase(), { tcp, again });
    for (const line of format(reply)) console.log(line);
    return rcode(reply.message) === "NOERROR" ? 0 : 1;
  });
}
