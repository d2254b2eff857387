#!/usr/bin/env -S deno run --allow-net
/**
 * A server of remote procedure calls, in JSON-RPC 2.0 and in XML-RPC at one address: which of them
 * a request is, its content type says.
 *
 *     deno run --allow-net scripts/rpc_server.ts
 *     deno run --allow-net scripts/rpc_client.ts quadratic 2 -- -4 0
 *
 * Mirrors "RPC" of tutorial 002, which has no listing of it:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `SimpleXMLRPCServer((host, port))`, `serve_forever()` | `serveHttp()`: `Deno.serve()` |
 * | `register_function(quadratic)` | an entry of `methods` |
 * | `register_introspection_functions()`, `register_multicall_functions()` | those named `system.` |
 * | `xmlrpc.client.loads(body)`, `dumps((result,))` | `XMLParser` and `read()`, `write()` |
 * | `json.loads(body)`, `json.dumps(response)` | `JSON.parse()`, `JSON.stringify()` |
 * | `raise xmlrpc.client.Fault(code, text)` | `throw new Fault(code, text)` |
 *
 * XML-RPC's dates have no time zone. JavaScript's numbers are doubles: what has no fraction and 32
 * bits is sent as an `<int>`, 2.0 too, and an integer past 2^53 loses digits in JSON.
 *
 * @module
 */
import { concat } from "@std/bytes/concat";
import { escape } from "@std/html/entities";
import { XMLParser } from "fast-xml-parser";
import { reason } from "../lib/address.ts";
import { httpFlags, main, stopSignal } from "../lib/cli.ts";
import { printable } from "../lib/framing.ts";
import { bodyOf, serveHttp } from "../lib/server.ts";

const PORT = 7001;
const MAX_BODY = 1024 * 1024; // octets
const MAX_CALLS = 1000; // in one request, as an answer may be longer than its call
const MAX_DEPTH = 100; // of arrays and structs, which are gone through by recursion
const TYPES = "int double boolean string dateTime.iso8601 base64 array struct nil".split(" ");

// JSON-RPC has its codes from "Specification for Fault Code Interoperability" for XML-RPC.
const [PARSE_ERROR, INVALID_REQUEST, METHOD_NOT_FOUND] = [-32700, -32600, -32601];
const [INVALID_PARAMS, INTERNAL_ERROR, APPLICATION_ERROR] = [-32602, -32603, -32500];

/** What a method takes and returns. JSON has neither dates nor octets. */
export type Value =
  | (null | boolean | number | string | Temporal.PlainDateTime | Uint8Array | Value[])
  | { [name: string]: Value };

/** What is answered in place of a result: one of the codes above, and a message for people. */
export class Fault extends Error {
  constructor(readonly code: number, message: string) {
    super(message);
  }
}

/** A method: how to call it, and itself. Its parameters are double, string, array or any. */
export type Method = [help: string, run: (...params: never[]) => Value];

/** What can be called: no object, which would have a `constructor` and a `toString` as well. */
export const methods: Method[] = [
  ["add(a: double, b: double): double", (a: number, b: number) => a + b],
  ["subtract(minuend: double, subtrahend: double): double", (a: number, b: number) => a - b],
  ["echo(value: any): any, the same", (value: Value) => value],
  ["quadratic(a: double, b: double, c: double): array of roots of a*x*x + b*x + c", quadratic],
  ["system.listMethods(): array of names", () => methods.map(([help]) => help.split("(")[0])],
  ["system.methodHelp(name: string): string like this", (name: string) => find(name)[0]],
  ["system.methodSignature(name: string): array of its types, the result's first", signatures],
  ["system.multicall(calls: array): array of results, of calls {methodName, params}", multicall],
];

function find(name: string): Method {
  const method = methods.find(([help]) => help.split("(")[0] === name);
  if (method) return method;
  throw new Fault(METHOD_NOT_FOUND, "Method not found");
}

function quadratic(a: number, b: number, c: number): number[] {
  if (a === 0) throw new Fault(APPLICATION_ERROR, "not quadratic: a is 0");
  const discriminant = b * b - 4 * a * c;
  if (discriminant < 0) throw new Fault(APPLICATION_ERROR, "no real roots");
  // Of -b plus and minus the square root one may lose all its digits, which c / q does not.
  const q = -(b + (b < 0 ? -1 : 1) * Math.sqrt(discriminant)) / 2;
  const roots = discriminant === 0 ? [q / a] : [q / a, c / q];
  return roots.map((root) => root + 0).sort((x, y) => x - y); // -0 + 0 is 0
}

function signatures(name: string): string[][] {
  const types = [...find(name)[0].matchAll(/: (\w+)/g)].map(([, type]) => type);
  const signature = [...types.slice(-1), ...types.slice(0, -1)];
  return types.includes("any") ? TYPES.map((type) => types.map(() => type)) : [signature];
}

/** Each result is in an array of its own, a fault in none. */
function multicall(calls: Value[]): Value[] {
  if (calls.length > MAX_CALLS) throw new Fault(INVALID_PARAMS, `over ${MAX_CALLS} calls`);
  return calls.map((call) => {
    const { methodName, params = [] } = Object(call);
    try {
      if (methodName === "system.multicall") throw new Fault(INVALID_PARAMS, "a call of itself");
      return [dispatch(methodName, params)];
    } catch (error) {
      return faultOf(error);
    }
  });
}

/** Calls a method, its parameters in an array or by their names in an object; throws a Fault. */
export function dispatch(name: string, params: object): Value {
  const [help, run] = find(name);
  const wanted = [...help.matchAll(/(\w+): (\w+)/g)];
  const given = new Map<string, Value>(Object.entries(Object(params))); // an array's by number
  const values = wanted.map(([, param, type], i) => {
    const value = given.get(Array.isArray(params) ? `${i}` : param);
    const own = Array.isArray(value) ? "array" : (typeof value).replace("number", "double");
    return own === type || type === "any" ? value : undefined;
  });
  if (given.size !== wanted.length || values.includes(undefined)) {
    throw new Fault(INVALID_PARAMS, `Invalid params: ${help}`);
  }
  const result = run(...values as never[]);
  check(result);
  return result;
}

/** Throws at a result that could not be written: a number that is none, or what nests too deep. */
function check(result: unknown, depth = 0): void {
  if (depth > MAX_DEPTH || typeof result === "number" && !Number.isFinite(result)) {
    throw new Fault(APPLICATION_ERROR, "the result is too large");
  }
  if (typeof result !== "object" || result === null) return;
  for (const inner of Object.values(result)) check(inner, depth + 1);
}

/** An error as XML-RPC has it. What nobody foresaw is for the log only. */
function faultOf(error: unknown): { faultCode: number; faultString: string } {
  if (error instanceof Fault) return { faultCode: error.code, faultString: error.message };
  console.error(`rpc_server: ${printable(reason(error))}`);
  return { faultCode: INTERNAL_ERROR, faultString: "Internal error" };
}

/** What `parse` makes of a body's text. */
function parsed<T>(body: Uint8Array, parse: (text: string) => T): T {
  try {
    return parse(new TextDecoder("utf-8", { fatal: true }).decode(body));
  } catch (error) {
    throw error instanceof Fault ? error : new Fault(PARSE_ERROR, "Parse error");
  }
}

/** Answers a request or a batch of JSON-RPC; undefined if all of it is notifications. */
export function handleJson(body: Uint8Array): string | undefined {
  try {
    const request = parsed(body, JSON.parse);
    if (!Array.isArray(request)) return JSON.stringify(respond(request));
    if (request.length === 0) throw new Fault(INVALID_REQUEST, "Invalid Request");
    if (request.length > MAX_CALLS) throw new Fault(INVALID_REQUEST, `over ${MAX_CALLS} calls`);
    const responses = request.map(respond).filter(Boolean);
    return responses.length > 0 ? JSON.stringify(responses) : undefined;
  } catch (error) {
    return JSON.stringify(failure(null, error));
  }
}

function respond(request: unknown): object | undefined {
  const { jsonrpc, method, params = [], id } = Object(request);
  const hasId = id === null || typeof id === "string" || Number.isFinite(id);
  const valid = jsonrpc === "2.0" && typeof method === "string" && Object(params) === params &&
    (hasId || id === undefined);
  if (!valid) return failure(hasId ? id : null, new Fault(INVALID_REQUEST, "Invalid Request"));
  let response: object;
  try {
    response = { jsonrpc: "2.0", result: dispatch(method, params), id };
  } catch (error) {
    response = failure(id, error);
  }
  return hasId ? response : undefined;
}

function failure(id: unknown, error: unknown): object {
  const { faultCode, faultString: message } = faultOf(error);
  const code = faultCode === APPLICATION_ERROR ? -32000 : faultCode; // JSON-RPC's own for it
  return { jsonrpc: "2.0", error: { code, message }, id };
}

/** Answers a call of XML-RPC. */
export function handleXml(body: Uint8Array): string {
  let content: string;
  try {
    const [name, params] = parsed(body, readCall);
    content = `<params><param>${write(dispatch(name, params))}</param></params>`;
    if (NOT_XML.test(content)) throw new Fault(APPLICATION_ERROR, "a character that XML has not");
  } catch (error) {
    content = `<fault>${write(faultOf(error))}</fault>`;
  }
  return `<?xml version="1.0"?>\n<methodResponse>${content}</methodResponse>\n`;
}

const NOT_XML = /[^\t\n\r -\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/u;
const writeText = (text: string) => escape(text).replaceAll("\r", "&#13;"); // CR is read as LF
// XML-RPC has no exponents.
const decimal = new Intl.NumberFormat("en", { maximumSignificantDigits: 17, useGrouping: false });

function write(value: Value): string {
  const tag = (type: string, content: string) => `<value><${type}>${content}</${type}></value>`;
  if (value === null) return tag("nil", "");
  if (typeof value === "boolean") return tag("boolean", `${Number(value)}`);
  if (typeof value === "number") {
    return tag(Object.is(value | 0, value) ? "int" : "double", decimal.format(value)); // -0: double
  }
  if (typeof value === "string") return tag("string", writeText(value));
  if (value instanceof Uint8Array) return tag("base64", value.toBase64());
  if (value instanceof Temporal.PlainDateTime) {
    return tag("dateTime.iso8601", `${value.round("second")}`.replaceAll("-", ""));
  }
  if (Array.isArray(value)) return tag("array", `<data>${value.map(write).join("")}</data>`);
  const member = ([name, value]: [string, Value]) =>
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
  maxNestedTags: 4 * MAX_DEPTH, // a struct's value is in a struct, a member and a value
});

/** How a type's text has to look, and what it means. */
const SCALARS = new Map<string, [pattern: RegExp, convert: (text: string) => Value]>([
  ["int", [/^[+-]?\d{1,15}$/, Number]], // more digits a double may not have
  ["double", [/^[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?$/i, Number]], // \d+\.?\d* could take hours
  ["boolean", [/^[01]$/, (text) => text === "1"]],
  ["dateTime.iso8601", [/^\d{4}-?\d\d-?\d\dT[\d:]{8}$/, Temporal.PlainDateTime.from]],
  ["base64", [/^/, (text) => Uint8Array.fromBase64(text)]],
  ["nil", [/^$/, () => null]],
]);

function readCall(text: string): [name: string, params: Value[]] {
  // It could define entities, which unfold to far more than was sent.
  if (text.includes("<!D")) throw new Fault(INVALID_REQUEST, "a DOCTYPE is not taken");
  const { methodName, params } = only(xml.parse(text, true).methodCall); // true: well-formed only
  const list = params ? only(params).param ?? [] : [];
  return [textOf(only(methodName)), list.map((param) => read(only(param.value)))];
}

function read(value: Node): Value {
  const [type, other] = Object.keys(value).filter((name) => name !== "#text");
  if (!type) return textOf(value); // a string may have no type
  if (other) throw new Fault(INVALID_REQUEST, "a value of two types");
  const content = only(value[type]);
  if (type === "string") return textOf(content);
  if (type === "array") return (only(content.data).value ?? []).map(read);
  const entry = ({ name, value }: Node) => [textOf(only(name)), read(only(value))];
  // As own properties, `__proto__` too.
  if (type === "struct") return Object.fromEntries((content.member ?? []).map(entry));
  const text = textOf(content).trim();
  const scalar = SCALARS.get(type.replace(/^i[48]$/, "int"));
  if (scalar?.[0].test(text)) return scalar[1](text);
  throw new Fault(INVALID_REQUEST, "not a value, or not of its type");
}

function only(elements: Node[] = []): Node {
  if (elements.length === 1) return elements[0];
  throw new Fault(INVALID_REQUEST, "an element is missing or there twice");
}

/** Answers a request of HTTP, whatever its path. */
export async function handle(request: Request, idleTimeout?: number): Promise<Response> {
  const refuse = (status: number, text: string, headers: HeadersInit) =>
    new Response(`${text}\n`, { status, headers });
  if (request.method !== "POST") return refuse(405, "POST only", { allow: "POST" });
  // A page of another site may have the browser POST text or a form, but neither of these types
  // unless an OPTIONS request is first answered that it may, which here none is.
  const type = request.headers.get("content-type") ?? "";
  const [, kind] = /^\w+\/(?:[\w.-]+\+)?(json|xml)\b/.exec(type.toLowerCase()) ?? [];
  if (!kind) return refuse(415, "neither JSON nor XML", { accept: "application/json, text/xml" });
  const body = concat(await Array.fromAsync(bodyOf(request, MAX_BODY, idleTimeout)));
  const answer = kind === "xml" ? handleXml(body) : handleJson(body);
  if (answer === undefined) return new Response(null, { status: 204 });
  const headers = { "content-type": kind === "xml" ? "text/xml" : "application/json" };
  return new Response(answer, { headers });
}

if (import.meta.main) {
  await main({
    name: "rpc_server",
    about: "Serves remote procedure calls in JSON-RPC 2.0 and XML-RPC.",
    permissions: "--allow-net",
    flags: httpFlags(PORT),
  }, async (flags) => {
    const options = { ...flags, signal: stopSignal() };
    await serveHttp(flags, (request) => handle(request, flags.idleTimeout), options);
  });
}
