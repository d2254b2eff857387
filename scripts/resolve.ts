#!/usr/bin/env -S deno run --allow-net
/**
 * Finds out about names and IP addresses: what the system's resolver says, what DNS itself says,
 * and which hosts take a domain's mail, in order (RFC 5321, 5.1).
 *
 *     deno run --allow-net scripts/dns_server.ts
 *     deno run --allow-net scripts/resolve.ts --server 127.0.0.1:8053 example.test
 *
 * Mirrors "Socket Names" and "DNS" of tutorial 002, which lists them without calls:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `socket.getaddrinfo(name, None)` | `lookup(name, { all: true })` of `node:dns/promises` |
 * | `socket.gethostbyname(name)` | `lookup(name)`: the first address |
 * | `AI_CANONNAME`, `gethostbyname_ex()` | none: `aliases()` follows CNAME records |
 * | `getnameinfo((address, 0), 0)`, `gethostbyaddr()` | `lookupService(address, 0)` |
 * | `dns.resolver.resolve(name, "MX")` (dnspython) | `Deno.resolveDns(name, "MX")` |
 * | `dns.reversename.from_address(address)` (dnspython) | `reverseName(address)` |
 *
 * Without `--server` it asks the system, and the DNS server that the system has.
 * `Deno.resolveDns()` looks into the hosts file before it asks, whichever server. And one error,
 * `NotFound`, is all it has for a name that does not exist, a type without records and a server
 * that refuses: `dns_client.ts`, which does the same on the wire, tells them apart.
 *
 * @module
 */
import { Buffer } from "node:buffer";
import { lookup, lookupService } from "node:dns/promises";
import { isIP } from "node:net";
import { deadline } from "@std/async/deadline";
import { parseAddress, reason, UsageError } from "../lib/address.ts";
import { flag, main, optional, seconds } from "../lib/cli.ts";
import { printable } from "../lib/framing.ts";

const PORT = 53;
const MAX_ALIASES = 8; // in a row; a server could go on for ever
const TYPES = ["A", "AAAA", "MX", "NS", "PTR", "TXT", "SRV", "CAA"] as const; // and CNAME
type Type = typeof TYPES[number] | "CNAME";
type DnsRecord = string | string[] | Deno.MxRecord | Deno.SrvRecord | Deno.CaaRecord;

/** Whom to ask, or else the system, and how many milliseconds to wait for each answer. */
export type Options = Pick<Deno.ResolveDnsOptions, "nameServer"> & { timeout: number };

/** The addresses that the system has for a name. */
export async function systemAddresses(name: string, { timeout }: Options): Promise<string[]> {
  const found = await answer(deadline(lookup(name, { all: true }), timeout));
  return found.map(({ address }) => address);
}

/** The addresses of a name, or an IP address, each with the name that the system has for it. */
export async function systemNames(name: string, options: Options): Promise<string[]> {
  const addresses = await systemAddresses(name, options);
  const ask = async (ip: string) => [`${ip} ${(await lookupService(ip, 0)).hostname}`];
  const names = addresses.map((ip) => answer(deadline(ask(ip), options.timeout)));
  return (await Promise.all(names)).flat();
}

/** A name's records of a type in DNS; an alias has those of its canonical name, but for CNAME. */
export async function query(name: string, type: Type, options: Options): Promise<DnsRecord[]> {
  const full = name.replace(/\.?$/, "."); // without the dot Deno tries the system's search domains
  const signal = AbortSignal.timeout(options.timeout);
  return await answer(Deno.resolveDns(full, type, { ...options, signal }) as Promise<DnsRecord[]>);
}

/** The answer: empty if there is nothing; else throws an error that says why there is no answer. */
async function answer<T>(asking: Promise<T[]>): Promise<T[]> {
  try {
    return await asking;
  } catch (error) {
    const { name, code } = error as { name: string; code?: string };
    if (name === "NotFound" || code === "ENOTFOUND") return [];
    const late = ["TimedOut", "TimeoutError"].includes(name) || code === "EAI_AGAIN";
    if (late) throw new Error("no answer");
    if (code === "EPERM") throw new Error("requires net access, run again with --allow-net");
    throw new Error(reason(error).replace(/^proto error: |:\s*(Err\(.*)?$/g, ""));
  }
}

/** What a name is an alias of, and that one in turn; the last is marked as the canonical name. */
export async function aliases(name: string, options: Options): Promise<string[]> {
  const chain: string[] = [];
  while (chain.length <= MAX_ALIASES) {
    const [target] = await query(chain.at(-1) ?? name, "CNAME", options) as string[];
    if (target === undefined) return chain.map((it, i) => chain[i + 1] ? it : `${it}, canonical`);
    chain.push(formatRecord(target));
  }
  throw new Error(`more than ${MAX_ALIASES} aliases in a row`);
}

/** The hosts that take a domain's mail, in the order to try them (RFC 5321, 5.1). */
export async function mailHosts(domain: string, options: Options): Promise<string[]> {
  const addresses = async (host: string) =>
    [await query(host, "A", options), await query(host, "AAAA", options)].flat() as string[];
  const hosts = await query(domain, "MX", options) as Deno.MxRecord[];
  if (hosts.length === 1 && hosts[0].exchange === ".") return ["nowhere: null MX"]; // RFC 7505
  if (hosts.length === 0) {
    const own = await addresses(domain);
    return own.length > 0 ? [`${formatRecord(domain)} (${own.join(", ")}), as there is no MX`] : [];
  }
  hosts.sort((a, b) => a.preference - b.preference);
  return await Promise.all(hosts.map(async (mx) => {
    const found = (await addresses(mx.exchange)).join(", ") || "no address";
    const equal = hosts.some((other) => other !== mx && other.preference === mx.preference);
    return `${formatRecord(mx)} (${found})${equal ? ", equal" : ""}`;
  }));
}

/** The name at which DNS keeps the name of an IP address (RFC 1035, 3.5, and RFC 3596, 2.5). */
export function reverseName(address: string): string {
  if (isIP(address) === 4) return `${address.split(".").reverse().join(".")}.in-addr.arpa`;
  // A URL writes every form of an address in one: hexadecimal groups, and at most one `::`.
  const { hostname } = new URL(`http://[${address.replace(/%.*/, "")}]`);
  const groups = (text: string) => text.match(/\w+/g) ?? [];
  const all = groups(hostname.replace("::", `:${"0:".repeat(8 - groups(hostname).length)}`));
  const digits = all.map((group) => group.padStart(4, "0")).join("");
  return `${[...digits].reverse().join(".")}.ip6.arpa`;
}

/** A record as a zone file has it, but without the dot at the end of names. */
export function formatRecord(record: DnsRecord): string {
  const quote = (text: string) => `"${text.replace(/["\\]/g, "\\$&")}"`;
  // Deno makes a character of each octet of a TXT record, which is UTF-8 if it is text at all.
  const decode = (octets: string) => Buffer.from(octets, "latin1").toString();
  if (typeof record === "string") return record.replace(/(?<=.)\.$/, "");
  if (Array.isArray(record)) return record.map((octets) => quote(decode(octets))).join(" ");
  if ("exchange" in record) return `${record.preference} ${formatRecord(record.exchange)}`;
  if ("tag" in record) return `${record.critical ? 128 : 0} ${record.tag} ${quote(record.value)}`;
  return `${record.priority} ${record.weight} ${record.port} ${formatRecord(record.target)}`;
}

/** Asks at once all there is to ask: by label the rows to print, or in words why there are none. */
function askAll(name: string, options: Options): Map<string, Promise<string[] | string>> {
  const asked: ReturnType<typeof askAll> = new Map();
  const ask = (label: string, asking: Promise<string[]>) =>
    asked.set(label, asking.then((rows) => rows.length > 0 ? rows : "none", reason));
  const askDns = (type: Type, owner: string) =>
    ask(type, query(owner, type, options).then((records) => records.map(formatRecord)));
  if (!options.nameServer && !isIP(name)) ask("system", systemAddresses(name, options));
  if (!options.nameServer) ask("reverse", systemNames(name, options));
  if (isIP(name)) return askDns("PTR", reverseName(name));
  ask("CNAME", aliases(name, options));
  for (const type of TYPES) askDns(type, name);
  return ask("mail", mailHosts(name, options));
}

if (import.meta.main) {
  await main({
    name: "resolve",
    about: "Finds out about names and IP addresses: what the system says, DNS, and mail hosts.",
    usage: "NAME...",
    permissions: "--allow-net",
    flags: {
      server: optional("IP[:PORT]", "ask this DNS server, and not the system"),
      timeout: flag("S", "seconds for each answer", seconds, "10"),
    },
  }, async ({ name: program, server, timeout }, ...names) => {
    const options: Options = { timeout };
    if (server) {
      const { hostname: ipAddr, port } = parseAddress(server, PORT) as Deno.NetAddr;
      if (!isIP(ipAddr)) throw new UsageError(`${server} is not the IP address of a DNS server`);
      options.nameServer = { ipAddr, port };
    }
    let code = 0;
    for (const name of names) {
      const asked = askAll(name, options);
      const missing: Record<string, string[]> = {};
      console.log(printable(name));
      for (const [label, asking] of asked) {
        const found = await asking;
        if (typeof found === "string") (missing[found] ??= []).push(label);
        else found.forEach((text) => console.log(`  ${label.padEnd(7)}  ${printable(text)}`));
      }
      const { none = [], ...failures } = missing;
      if (none.length === asked.size) failures["no such name or records, or a refusal"] = ["all"];
      else if (none.length > 0) console.log(`  none     ${none.join(", ")}`);
      for (const [why, labels] of Object.entries(failures)) {
        console.error(printable(`${program}: ${name}: ${labels.join(", ")}: ${why}`));
        code = 1;
      }
    }
    return code;
  });
}
