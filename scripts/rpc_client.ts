#!/usr/bin/env -S deno run --allow-net
/**
 * A client of remote procedure calls, in JSON-RPC 2.0 or XML-RPC: calls a method and prints its
 * result as JSON, a date as text in ISO 8601 and octets in base64.
 *
 *     deno run --allow-net scripts/rpc_server.ts
 *     deno run --allow-net scripts/rpc_client.ts --xml quadratic 2 -- -4 0
 *
 * Mirrors "RPC" of tutorial 002, which has no listing of it:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `xmlrpc.client.ServerProxy(uri)` | `connect()`: `Deno.connect()` |
 * | `proxy.add(2, 0.5)` | `call()` |
 * | `xmlrpc.client.dumps(params, "add")`, `loads(answer)` | `write()`, `XMLParser` and `read()` |
 * | `http.client`, which those use | `post()`; a program of yours would use `fetch()` |
 * | `except xmlrpc.client.Fault` | `catch`, `instanceof Fault` |
 *
 * @module
 */
import { escape } from "@std/html/entities";
import { XMLParser } from "fast-xml-parser";
import { connect, formatEndpoint, named, UsageError } from "../lib/address.ts";
import { clientFlags, main, toggle } from "../lib/cli.ts";
import { FramedConn, printable } from "../lib/framing.ts";

const PORT = 7001;
const MAX_ANSWER = 16 * 1024 * 1024; // octets
const utf8 = new TextDecoder("utf-8", { fatal: true });

/** What the server answers in place of a result. */
export class Fault extends Error {
  constructor(readonly code: number, message: string) {
    super(`fault ${code}: ${printable(message)}`);
  }
}

/** Calls a method and returns its result; throws the server's {@linkcode Fault}. */
export async function call(
  conn: FramedConn,
  host: string, // for the header of that name
  protocol: "json" | "xml",
  method: string,
  params: unknown[],
): Promise<unknown> {
  const [type, body] = protocol === "xml"
    ? ["text/xml", writeCall(method, params)]
    : ["application/json", JSON.stringify({ jsonrpc: "2.0", method, params, id: 1 })];
  try {
    const answer = await post(conn, host, type, body);
    return protocol === "xml" ? readXml(answer) : readJson(answer);
  } catch (error) {
    throw error instanceof Fault ? error : named(conn.peer, error);
  }
}

function readJson(text: string): unknown {
  const { jsonrpc, id, error, result } = Object(JSON.parse(text, finite));
  if (jsonrpc === "2.0" && error) throw new Fault(error.code, `${error.message}`);
  if (jsonrpc === "2.0" && id === 1 && result !== undefined) return result;
  throw new Error("not an answer of JSON-RPC 2.0 to this call");
}

/** Refuses what 1e999 is read as, and what JSON would have as null. */
function finite(_: string, value: unknown): unknown {
  if (value !== Infinity && value !== -Infinity) return value;
  throw new Error("a number that is too large");
}

/** Sends by HTTP 1.0, whose answers have no chunks and end with the connection. */
async function post(conn: FramedConn, host: string, type: string, body: string): Promise<string> {
  const { length } = new TextEncoder().encode(body);
  const lines = ["POST / HTTP/1.0", `Host: ${host}`, `Content-Type: ${type}`];
  await conn.writeAll(`${lines.join("\r\n")}\r\nContent-Length: ${length}\r\n\r\n${body}`);
  const answer = utf8.decode(await conn.readToEnd(MAX_ANSWER)); // cut short it is no JSON, no XML
  const [head] = answer.split("\r\n\r\n", 1);
  if (/^HTTP\/1\.\d 200\b/.test(head)) return answer.slice(head.length + 4);
  throw new Error(`the server says: ${head.slice(0, 80).split("\r\n")[0] || "nothing"}`);
}

const writeText = (text: string) => escape(text).replaceAll("\r", "&#13;"); // CR is read as LF
// XML-RPC has no exponents.
const decimal = new Intl.NumberFormat("en", { maximumSignificantDigits: 17, useGrouping: false });

function writeCall(method: string, params: unknown[]): string {
  const list = params.map((param) => `<param>${write(param)}</param>`).join("");
  const content = `<methodName>${writeText(method)}</methodName><params>${list}</params>`;
  return `<?xml version="1.0"?>\n<methodCall>${content}</methodCall>\n`;
}

/** Writes what JSON has, so neither a date nor octets. */
function write(value: unknown): string {
  const tag = (type: string, content: string) => `<value><${type}>${content}</${type}></value>`;
  if (value === null) return tag("nil", "");
  if (typeof value === "boolean") return tag("boolean", `${Number(value)}`);
  if (typeof value === "number") {
    return tag(Object.is(value | 0, value) ? "int" : "double", decimal.format(value)); // -0: double
  }
  if (typeof value !== "object") return tag("string", writeText(`${value}`));
  if (Array.isArray(value)) return tag("array", `<data>${value.map(write).join("")}</data>`);
  const member = ([name, value]: [string, unknown]) =>
    `<member><name>${writeText(name)}</name>${write(value)}</member>`;
  return tag("struct", Object.entries(value).map(member).join(""));
}

/** An element: those in it, each name's in an array, and its text as `#text`. */
type Node = { [name: string]: Node[] };
const textOf = (element: Node) => `${element["#text"] ?? ""}`;

const xml = new XMLParser({
  trimValues: false,
  parseTagValue: false,
  alwaysCreateTextNode: true,
  isArray: () => true,
  htmlEntities: true, // or it leaves `&#252;` as it stands
  jPath: false, // a path made up for each text takes ever longer, the longer the names are
});

/** How a type's text has to look, and what it means. */
const SCALARS = new Map<string, [pattern: RegExp, convert: (text: string) => unknown]>([
  ["int", [/^[+-]?\d{1,15}$/, Number]], // more digits a double may not have
  ["double", [/^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?$/i, (text) => finite("", Number(text))]],
  ["boolean", [/^[01]$/, (text) => text === "1"]],
  ["dateTime.iso8601", [/^/, (text) => text.replace(/^(\d{4})-?(\d\d)-?(\d\d)T/, "$1-$2-$3T")]],
  ["base64", [/^/, (text) => text.replaceAll(/\s/g, "")]],
  ["nil", [/^$/, () => null]],
]);

function readXml(text: string): unknown {
  // It could define entities, which unfold to far more than was sent.
  if (text.includes("<!D")) throw new Error("the answer has a DOCTYPE");
  const { fault, params } = first(xml.parse(text, true).methodResponse);
  if (!fault) return read(first(first(first(params).param).value));
  const { faultCode, faultString } = Object(read(first(first(fault).value)));
  throw new Fault(faultCode, `${faultString}`);
}

function first(nodes: Node[] = []): Node {
  if (nodes.length > 0) return nodes[0];
  throw new Error("that is no answer of XML-RPC");
}

function read(value: Node): unknown {
  const type = Object.keys(value).find((name) => name !== "#text");
  if (!type) return textOf(value); // a string may have no type
  const content = first(value[type]);
  if (type === "string") return textOf(content);
  if (type === "array") return (first(content.data).value ?? []).map(read);
  const entry = ({ name, value }: Node) => [textOf(first(name)), read(first(value))];
  if (type === "struct") return Object.fromEntries((content.member ?? []).map(entry));
  const text = textOf(content).trim();
  const scalar = SCALARS.get(type.replace(/^i[48]$/, "int"));
  if (scalar?.[0].test(text)) return scalar[1](text);
  throw new Error(`the answer has a value that is not of its type, ${type}`);
}

/** What an argument means: JSON if it is that, else text. */
function asValue(argument: string): unknown {
  try {
    return JSON.parse(argument, finite);
  } catch {
    return argument;
  }
}

/** A value as JSON on one line, safe to print. */
export function asJson(value: unknown): string {
  const json = JSON.stringify(value);
  return printable(json.replace(/[\x7f-\x9f]/g, (c) => `\\u00${c.charCodeAt(0).toString(16)}`));
}

if (import.meta.main) {
  await main({
    name: "rpc_client",
    about: "Calls METHOD, prints the result. An ARG is JSON, else text; -- before a negative one.",
    usage: "METHOD [ARG]...",
    permissions: "--allow-net",
    flags: {
      ...clientFlags(PORT),
      json: toggle("in JSON-RPC 2.0, the default"),
      xml: toggle("in XML-RPC"),
    },
  }, async (flags, method, ...args) => {
    if (flags.json && flags.xml) throw new UsageError("--json and --xml do not go together");
    using conn = new FramedConn(await connect(flags), flags);
    const host = flags.unix ? "localhost" : formatEndpoint(flags);
    const protocol = flags.xml ? "xml" : "json";
    console.log(asJson(await call(conn, host, protocol, method, args.map(asValue))));
  });
}
