import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from "@std/assert";
import { XMLParser } from "fast-xml-parser";
import { connect } from "../../lib/address.ts";
import { FramedConn } from "../../lib/framing.ts";
import { asJson, call, Fault as TheirFault } from "../../scripts/rpc_client.ts";
import {
  dispatch,
  Fault,
  handle,
  handleJson,
  handleXml,
  type Method,
  methods,
  type Value,
} from "../../scripts/rpc_server.ts";
import { mayConnect, mayRun, missing, run, start, temporaryFolder } from "../helpers.ts";
import { inEachForm, testServer } from "./rig.ts";

/** What every object of JavaScript has, and no method may be. */
const INHERITED = [
  ...["constructor", "__proto__", "prototype", "toString", "hasOwnProperty", "valueOf"],
  ...["isPrototypeOf", "__defineGetter__", "toLocaleString", "get", "size", "entries"],
];

const octets = (text: string) => new TextEncoder().encode(text);
const json = (request: unknown) => jsonText(JSON.stringify(request));
function jsonText(text: string): unknown {
  const answer = handleJson(octets(text));
  return answer === undefined ? undefined : JSON.parse(answer);
}

/** Has the server know more methods until it is disposed of. */
function register(...more: Method[]): Disposable {
  const known = methods.length;
  methods.push(...more);
  return { [Symbol.dispose]: () => methods.splice(known) };
}

const result = (result: unknown, id: unknown = 1) => ({ jsonrpc: "2.0", result, id });
const error = (code: number, message: string, id: unknown = null) => ({
  jsonrpc: "2.0",
  error: { code, message },
  id,
});
const INVALID = error(-32600, "Invalid Request");

Deno.test("rpc_server answers the examples of JSON-RPC 2.0 as they stand there", () => {
  const ignored: Value[] = [];
  using _ = register(
    [
      "sum(a: double, b: double, c: double): double",
      (a: number, b: number, c: number) => a + b + c,
    ],
    ["get_data(): array", () => ["hello", 5]],
    ["update(a: any, b: any, c: any, d: any, e: any): any", (a: number) => ignored[0] = a],
    ["notify_sum(a: any, b: any, c: any): any", (a: number) => ignored[1] = a],
    ["notify_hello(a: any): any", (a: number) => ignored[2] = a],
  );
  const examples: [request: string, response?: string][] = [
    [
      '{"jsonrpc": "2.0", "method": "subtract", "params": [42, 23], "id": 1}',
      '{"jsonrpc": "2.0", "result": 19, "id": 1}',
    ],
    [
      '{"jsonrpc": "2.0", "method": "subtract", "params": [23, 42], "id": 2}',
      '{"jsonrpc": "2.0", "result": -19, "id": 2}',
    ],
    [
      '{"jsonrpc": "2.0", "method": "subtract", "params": {"subtrahend": 23, "minuend": 42}, "id": 3}',
      '{"jsonrpc": "2.0", "result": 19, "id": 3}',
    ],
    [
      '{"jsonrpc": "2.0", "method": "subtract", "params": {"minuend": 42, "subtrahend": 23}, "id": 4}',
      '{"jsonrpc": "2.0", "result": 19, "id": 4}',
    ],
    ['{"jsonrpc": "2.0", "method": "update", "params": [1,2,3,4,5]}'],
    ['{"jsonrpc": "2.0", "method": "foobar"}'],
    [
      '{"jsonrpc": "2.0", "method": "foobar", "id": "1"}',
      '{"jsonrpc": "2.0", "error": {"code": -32601, "message": "Method not found"}, "id": "1"}',
    ],
    [
      '{"jsonrpc": "2.0", "method": "foobar, "params": "bar", "baz]',
      '{"jsonrpc": "2.0", "error": {"code": -32700, "message": "Parse error"}, "id": null}',
    ],
    [
      '{"jsonrpc": "2.0", "method": 1, "params": "bar"}',
      '{"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}',
    ],
    [
      `[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
        {"jsonrpc": "2.0", "method"
      ]`,
      '{"jsonrpc": "2.0", "error": {"code": -32700, "message": "Parse error"}, "id": null}',
    ],
    [
      "[]",
      '{"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}',
    ],
    [
      "[1]",
      '[{"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}]',
    ],
    [
      "[1,2,3]",
      `[{"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null},
        {"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null},
        {"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null}]`,
    ],
    [
      `[{"jsonrpc": "2.0", "method": "sum", "params": [1,2,4], "id": "1"},
        {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]},
        {"jsonrpc": "2.0", "method": "subtract", "params": [42,23], "id": "2"},
        {"foo": "boo"},
        {"jsonrpc": "2.0", "method": "foo.get", "params": {"name": "myself"}, "id": "5"},
        {"jsonrpc": "2.0", "method": "get_data", "id": "9"}]`,
      `[{"jsonrpc": "2.0", "result": 7, "id": "1"},
        {"jsonrpc": "2.0", "result": 19, "id": "2"},
        {"jsonrpc": "2.0", "error": {"code": -32600, "message": "Invalid Request"}, "id": null},
        {"jsonrpc": "2.0", "error": {"code": -32601, "message": "Method not found"}, "id": "5"},
        {"jsonrpc": "2.0", "result": ["hello", 5], "id": "9"}]`,
    ],
    [
      `[{"jsonrpc": "2.0", "method": "notify_sum", "params": [1,2,4]},
        {"jsonrpc": "2.0", "method": "notify_hello", "params": [7]}]`,
    ],
  ];
  for (const [request, response] of examples) {
    assertEquals(jsonText(request), response && JSON.parse(response), request);
  }
  assertEquals(ignored, [1, 1, 7]); // what has no answer is done all the same
});

Deno.test("rpc_server takes what JSON-RPC has for ids and parameters, and nothing else", () => {
  const echo = (changes: object) =>
    json({ jsonrpc: "2.0", method: "echo", params: [5], id: 1, ...changes });
  for (const id of [0, -1, 1.5, 2 ** 53 - 1, "", "x", "\u0000", null]) {
    assertEquals(echo({ id }), result(5, id));
  }
  for (const id of [true, [], {}, [1]]) assertEquals(echo({ id }), INVALID);
  for (const params of [null, 5, "5", true]) {
    assertEquals(echo({ params }), error(-32600, "Invalid Request", 1));
  }
  for (const jsonrpc of [2, 2.0, "2", "1.0", null, undefined, ["2.0"]]) {
    assertEquals(echo({ jsonrpc }), error(-32600, "Invalid Request", 1));
  }
  for (const method of [null, undefined, 1, ["echo"], {}]) {
    assertEquals(echo({ method }), error(-32600, "Invalid Request", 1));
  }
  for (const request of [null, 1, "x", true, [[]], [null]]) {
    assertEquals(json(request), Array.isArray(request) ? [INVALID] : INVALID);
  }

  const values = ["", "\u0000\ud800\u2028", 1.5, -7, true, false, null, [], {}, [[{ a: [] }]]];
  for (const value of values) {
    assertEquals(echo({ params: [value] }), result(value));
    assertEquals(echo({ params: { value } }), result(value));
  }
  const wrong = error(-32602, "Invalid params: echo(value: any): any, the same", 1);
  for (const params of [[], [1, 2], {}, { Value: 1 }, { value: 1, more: 2 }, { constructor: 1 }]) {
    assertEquals(echo({ params }), wrong);
  }
  assertEquals(echo({ params: undefined }), wrong);
  assertEquals(
    jsonText('{"jsonrpc":"2.0","method":"echo","params":{"__proto__":1},"id":1}'),
    wrong,
  );
  for (const text of ["", " ", "{", "nul", "[1,]", "{'a':1}", "\ufeff\ufeff{}", "1e", '"\n"']) {
    assertEquals(jsonText(text), error(-32700, "Parse error"));
  }
  for (const broken of [[0xff], [0x22, 0xc3, 0x22], [0x22, 0xed, 0xa0, 0x80, 0x22]]) {
    const answer = handleJson(new Uint8Array(broken));
    assertEquals(JSON.parse(answer ?? ""), error(-32700, "Parse error"));
  }
  // It would come back as null.
  const large = error(-32000, "the result is too large", 1);
  const request = '{"jsonrpc":"2.0","method":"echo","params":[[1e999]],"id":1}';
  assertEquals(jsonText(request), large);
  assertEquals(jsonText(request.replace("1e", "-1e")), large);
  // A notification's error is not answered either.
  assertEquals(json({ jsonrpc: "2.0", method: "add", params: ["x"] }), undefined);
  assertEquals(json({ jsonrpc: "2.0", method: "toString" }), undefined);
});

/** The call of XML-RPC for a method with these elements inside `<params>`. */
const methodCall = (method: string, params: string) =>
  `<?xml version="1.0"?>\n<methodCall>\n  <methodName>${method}</methodName>\n  <params>${params}</params>\n</methodCall>\n`;
const xml = (text: string) => handleXml(octets(text));
const echoXml = (value: string) => xml(methodCall("echo", `<param>${value}</param>`));

/** What is in the answer's <value>, or the fault's code and message. */
function contentOf(answer: string): string | [code: number, message: string] {
  const [, whole] = /^<\?xml version="1\.0"\?>\n<methodResponse>([^]*)<\/methodResponse>\n$/
    .exec(answer) ?? [];
  assert(whole !== undefined, answer);
  const [, value] = /^<params><param><value>([^]*)<\/value><\/param><\/params>$/.exec(whole) ?? [];
  if (value !== undefined) return value;
  const member = (name: string, type: string) =>
    `<member><name>${name}</name><value><${type}>([^<]*)</${type}></value></member>`;
  const members = member("faultCode", "int") + member("faultString", "string");
  const form = new RegExp(`^<fault><value><struct>${members}</struct></value></fault>$`);
  const [, code, message] = form.exec(whole) ?? [];
  assert(code !== undefined, answer);
  return [Number(code), message];
}

Deno.test("rpc_server takes every form of XML-RPC's values, and writes one", () => {
  const same = (element: string) => [`<value>${element}</value>`, element];
  for (
    const [value, answer] of [
      ...["0", "-1", "2147483647", "-2147483648"].map((n) => same(`<int>${n}</int>`)),
      ["<value><i4>+07</i4></value>", "<int>7</int>"],
      ["<value> <int>\n5 </int>\t</value>", "<int>5</int>"],
      ["<value><i8>2147483648</i8></value>", "<double>2147483648</double>"],
      ["<value><i8>-999999999999999</i8></value>", "<double>-999999999999999</double>"],
      ["<value><double>2.0</double></value>", "<int>2</int>"],
      ["<value><double>-.5</double></value>", "<double>-0.5</double>"],
      ["<value><double>1e-7</double></value>", "<double>0.0000001</double>"],
      ["<value><double>1.5E+22</double></value>", "<double>15000000000000000000000</double>"],
      same("<double>-0</double>"),
      same("<boolean>0</boolean>"),
      same("<boolean>1</boolean>"),
      same("<string></string>"),
      ["<value></value>", "<string></string>"],
      ["<value/>", "<string></string>"],
      ["<value><string/></value>", "<string></string>"],
      ["<value> a\n b </value>", "<string> a\n b </string>"],
      same("<string>  \n </string>"),
      ["<value> \n</value>", "<string> \n</string>"],
      [
        "<value><string>a\rb\r\nc&#13;&#xD;\n</string></value>",
        "<string>a\nb\nc&#13;&#13;\n</string>",
      ],
      ["<value>&amp;&lt;&gt;&quot;&apos;</value>", "<string>&amp;&lt;&gt;&quot;&#39;</string>"],
      ["<value>&amp;#65;&amp;amp;</value>", "<string>&amp;#65;&amp;amp;</string>"],
      ["<value>&#65;&#x41;&#x1F600;&#x00000a;</value>", "<string>AA😀\n</string>"],
      ["<value>a<!-- < & -->b</value>", "<string>ab</string>"],
      ["<value>&foo;</value>", "<string>&amp;foo;</string>"], // no entity of XML's
      ["<value><![CDATA[<b>&amp;]]> <![CDATA[]]></value>", "<string>&lt;b&gt;&amp;amp; </string>"],
      same("<string>007</string>"),
      same("<string>ü世😀\u0085\u2028\ufffd</string>"),
      same("<dateTime.iso8601>19980717T14:08:55</dateTime.iso8601>"),
      same("<dateTime.iso8601>00010101T00:00:00</dateTime.iso8601>"),
      same("<dateTime.iso8601>20240229T23:59:59</dateTime.iso8601>"),
      [
        "<value><dateTime.iso8601> 1998-07-17T14:08:55 </dateTime.iso8601></value>",
        "<dateTime.iso8601>19980717T14:08:55</dateTime.iso8601>",
      ],
      same("<base64></base64>"),
      ["<value><base64>\nAAEC\n/w = =\n</base64></value>", "<base64>AAEC/w==</base64>"],
      ["<value><nil/></value>", "<nil></nil>"],
      same("<array><data></data></array>"),
      ["<value><array><data/></array></value>", "<array><data></data></array>"],
      [
        "<value><array> <data>\n<value>x</value> <value/></data></array></value>",
        "<array><data><value><string>x</string></value><value><string></string></value></data></array>",
      ],
      ["<value><struct/></value>", "<struct></struct>"],
      ...["a", "__proto__", "constructor", "&lt;&amp;", "", "&#13;", "#text"].map((name) =>
        same(
          `<struct><member><name>${name}</name><value><int>1</int></value></member></struct>`,
        )
      ),
      [
        "<value><struct><member><value>x</value><name>n</name></member></struct></value>",
        "<struct><member><name>n</name><value><string>x</string></value></member></struct>",
      ],
    ]
  ) assertEquals(contentOf(echoXml(value)), answer, value);
  assertEquals(({} as { a?: unknown }).a, undefined);
  assertEquals(contentOf(xml("<methodCall><methodName>add</methodName></methodCall>"))[0], -32602);
  assertEquals(contentOf(xml(methodCall("system.listMethods", "")))[0] === "<", true);

  for (let i = 0; i < 2000; i++) {
    const bits = crypto.getRandomValues(new Uint8Array(8));
    const [n] = new Float64Array(bits.buffer);
    if (!Number.isFinite(n)) continue;
    const [, digits] = /^<(?:double|int)>(-?[\d.]+)</.exec(
      `${contentOf(echoXml(`<value><double>${n}</double></value>`))}`,
    ) ?? [];
    assert(Object.is(Number(digits), n), `${n} ${digits}`);
  }
});

Deno.test("rpc_server refuses XML that is not well-formed, and XML-RPC that is none", () => {
  const refused = (code: number, text: string | Uint8Array) => {
    const answer = handleXml(typeof text === "string" ? octets(text) : text);
    assertEquals(contentOf(answer)[0], code, `${text}`.slice(0, 200));
  };
  const echo = (value: string) => methodCall("echo", `<param>${value}</param>`);
  for (
    const text of [
      "",
      "x",
      "<methodCall>",
      "<methodCall></methodcall>",
      methodCall("echo", "") + "x",
      echo("<value>a & b</value>"),
      echo("<value><int>1</value></int>"),
      new Uint8Array([0xfe, 0xff, 0, 0x3c]),
      new Uint8Array([...octets(echo("<value>")), 0xe4]),
    ]
  ) refused(-32700, text);
  for (const character of ["\x00", "\x1b", "\ufffe", "&#xFFFF;"]) {
    refused(-32500, echo(`<value>${character}</value>`)); // it has no answer in XML
  }
  refused(-32601, '<?xml version="1.0" encoding="utf-8"?><methodCall><methodName/></methodCall>');
  const int = "<value><int>1</int></value>";
  for (
    const text of [
      "<html/>",
      "<methodCall/>",
      "<methodCall/><methodCall/>",
      "<methodResponse/>",
      "<methodCall>echo</methodCall>",
      "<methodCall><methodName>a</methodName><methodName>b</methodName></methodCall>",
      "<methodCall><methodName>echo</methodName><params/><params/></methodCall>",
      methodCall("echo", "<param/>"),
      methodCall("echo", `<param>${int}${int}</param>`),
      ...[
        ...["1.0", "", "x", "0x10", "1e3", "1 2", "१"].map((n) => `<int>${n}</int>`),
        ...["9007199254740993", "-9007199254740993", "1.5"].map((n) => `<i8>${n}</i8>`),
        ...["", "nan", "inf", "Infinity", "1e", ".", "0x1p3"].map((n) => `<double>${n}</double>`),
        ...["", "true", "2", "01"].map((text) => `<boolean>${text}</boolean>`),
        ...[
          "",
          "x",
          "1998-07-17T14:08:55Z",
          "20240101T00:00",
        ]
          .map((text) => `<dateTime.iso8601>${text}</dateTime.iso8601>`),
        "<nil>x</nil>",
        "<int><int>1</int></int>",
        "<int>1</int><int>1</int>",
        "<int>1</int><string/>",
        "<unknown/>",
        "<toString/>",
        "<array/>",
        "<array><data/><data/></array>",
        "<array><value/></array>",
        "<struct><member/></struct>",
        "<struct><member><name>a</name></member></struct>",
        "<struct><member><value/></member></struct>",
        "<struct><member><name>a</name><name>b</name><value/></member></struct>",
      ].map((element) => echo(`<value>${element}</value>`)),
    ]
  ) refused(-32600, text);
  refused(-32500, echo("<value><double>1e999</double></value>"));
  refused(-32700, echo("<value><base64>A</base64></value>"));
  for (const date of ["20240230T00:00:00", "20240101T24:00:00", "20241301T00:00:00"]) {
    refused(-32700, echo(`<value><dateTime.iso8601>${date}</dateTime.iso8601></value>`));
  }
  refused(-32700, echo("<value><__proto__>1</__proto__></value>"));
});

Deno.test("rpc_server has no method that JavaScript's objects bring along", () => {
  for (const name of INHERITED) {
    assertEquals(
      json({ jsonrpc: "2.0", method: name, id: 1 }),
      error(-32601, "Method not found", 1),
      name,
    );
    assertEquals(contentOf(xml(methodCall(name, ""))), [-32601, "Method not found"], name);
    assertThrows(() => dispatch(name, []), Fault, "Method not found");
    for (const system of ["system.methodHelp", "system.methodSignature"]) {
      assertThrows(() => dispatch(system, [name]), Fault, "Method not found");
    }
    const calls: Value = [{ methodName: name, params: [] }];
    const fault = { faultCode: -32601, faultString: "Method not found" };
    assertEquals(dispatch("system.multicall", [calls]), [fault]);
    // Nor a parameter, and as data it comes back as it was.
    const text =
      `{"jsonrpc": "2.0", "method": "echo", "params": {"value": {"${name}": 1}}, "id": 1}`;
    const [, echoed] = /"result":(.*?),"id"/.exec(handleJson(octets(text)) ?? "") ?? [];
    assertEquals(echoed, `{"${name}":1}`);
  }
  const polluting = '{"__proto__": {"id": 1, "method": "echo", "jsonrpc": "2.0"}}';
  assertEquals(jsonText(polluting), INVALID);
});

Deno.test("rpc_server: the methods, by number and by name, help and signatures", () => {
  const fault = (run: () => unknown): [number, string] => {
    const { code, message } = assertThrows(run, Fault) as Fault;
    return [code, message];
  };
  assertEquals(dispatch("add", [1, 2.5]), 3.5);
  assertEquals(dispatch("subtract", { subtrahend: 1, minuend: 3 }), 2);
  for (
    const [params, roots] of [
      [[2, -4, 0], [0, 2]],
      [[1, -5, 6], [2, 3]],
      [[-1, 5, -6], [2, 3]],
      [[1, 2, 1], [-1]],
      [[1, 0, 0], [0]],
      [[-1, 0, 0], [0]],
      [[1, 0, -4], [-2, 2]],
      [[0.5, 0.5, 0], [-1, 0]],
      [[1, 1e8, 1], [-1e8, -1e-8]],
      [[1, -1e8, 1], [1e-8, 1e8]],
    ]
  ) {
    const found = dispatch("quadratic", params) as number[];
    assertEquals(found.map((root) => Number(root.toPrecision(12))), roots, `${params}`);
    assert(!found.some((root) => Object.is(root, -0)), `${params}`);
  }
  assertEquals(fault(() => dispatch("quadratic", [0, 1, 1])), [-32500, "not quadratic: a is 0"]);
  assertEquals(fault(() => dispatch("quadratic", [1, 0, 1])), [-32500, "no real roots"]);
  for (const params of [[1, 1e200, 1], [1e-320, 1, 1]]) {
    assertEquals(fault(() => dispatch("quadratic", params)), [-32500, "the result is too large"]);
  }
  assertEquals(fault(() => dispatch("add", [1e308, 1e308])), [-32500, "the result is too large"]);
  assertEquals(fault(() => dispatch("subtract", [-1e308, 1e308]))[0], -32500);
  const overflow = { jsonrpc: "2.0", method: "add", params: [1e308, 1e308], id: 1 };
  assertEquals(json(overflow), error(-32000, "the result is too large", 1));

  const names = dispatch("system.listMethods", []) as string[];
  assertEquals(names.slice(0, 5), ["add", "subtract", "echo", "quadratic", "system.listMethods"]);
  for (const name of names) {
    assertMatch(dispatch("system.methodHelp", [name]) as string, /^[\w.]+\(.*\): \w+/);
    assert((dispatch("system.methodSignature", [name]) as string[][]).length > 0);
  }
  const signature = (name: string) => dispatch("system.methodSignature", { name });
  assertEquals(signature("quadratic"), [["array", "double", "double", "double"]]);
  assertEquals(signature("system.listMethods"), [["array"]]);
  assertEquals((signature("echo") as string[][]).length, 9);

  const results = dispatch("system.multicall", [[
    { methodName: "add", params: [1, 2] },
    { methodName: "subtract", params: { minuend: 3, subtrahend: 1 } },
    { methodName: "system.listMethods" },
    { methodName: "system.multicall", params: [[]] },
    { methodName: "add", params: ["x"] },
    { methodName: "add", params: null },
    { methodName: ["system.multicall"], params: [[]] },
    { methodName: 5 },
    { params: [] },
    "add",
    null,
  ]]) as (Value[] | { faultCode: number })[];
  assertEquals(
    results.map((one) => Array.isArray(one) ? one[0] : one.faultCode),
    [3, 2, names, -32602, -32602, -32602, -32601, -32601, -32601, -32601, -32601],
  );
});

Deno.test("rpc_server: an error that nobody foresaw is no fault of its own text", () => {
  const log = console.error;
  const logged: string[] = [];
  console.error = (line: string) => logged.push(line);
  try {
    using _ = register(
      ["crash(): nil", () => JSON.parse("a secret\x1b")],
      ["nul(): string", () => "\x00"],
      ["members(): struct", () => ({ "\x1b": 1 })],
    );
    const answer = json({ jsonrpc: "2.0", method: "crash", id: 1 });
    assertEquals(answer, error(-32603, "Internal error", 1));
    const crashed = contentOf(
      xml("<methodCall><methodName>crash</methodName></methodCall>"),
    );
    assertEquals(crashed, [-32603, "Internal error"]);
    assertEquals(json({ jsonrpc: "2.0", method: "crash" }), undefined);
    assertEquals([logged.length, logged[0].includes("\x1b")], [3, false]);
    // What no XML can hold.
    for (const name of ["nul", "members"]) {
      const call = `<methodCall><methodName>${name}</methodName></methodCall>`;
      assertEquals(contentOf(xml(call))[0], -32500);
    }
    assertEquals(json({ jsonrpc: "2.0", method: "nul", id: 1 }), result("\x00"));
    assertEquals(logged.length, 3);
  } finally {
    console.error = log;
  }
});

Deno.test("rpc_server: what unfolds, nests without end or comes by the thousand is refused", () => {
  const began = performance.now();
  const deep = (n: number, open: string, close: string) => open.repeat(n) + close.repeat(n);
  const call = (value: string) => `{"jsonrpc":"2.0","method":"echo","params":[${value}],"id":1}`;
  for (const [open, close] of [["[", "]"], ['{"a":', "}"]]) {
    const fit = open === "[" ? "" : "1";
    const nest = (n: number) => open.repeat(n) + fit + close.repeat(n);
    assertEquals(jsonText(call(nest(100))), result(JSON.parse(nest(100))));
    const tooLarge = error(-32000, "the result is too large", 1);
    for (const n of [102, 10_000, 100_000]) assertEquals(jsonText(call(nest(n))), tooLarge);
    // Others in the batch have their answers.
    const batch = jsonText(`[${call("5")},${call(nest(100_000))},${nest(10_000)}]`);
    assertEquals(batch, [result(5), tooLarge, INVALID]);
  }
  assertEquals(jsonText(deep(500_000, "[", "]")), [INVALID]);
  assertEquals(jsonText("[".repeat(1_000_000)), error(-32700, "Parse error"));
  const add = { jsonrpc: "2.0", method: "add", params: [1, 1], id: 1 };
  assertEquals((json(new Array(1000).fill(add)) as unknown[]).length, 1000);
  assertEquals(json(new Array(1001).fill(add)), error(-32600, "over 1000 calls"));
  assertEquals(jsonText(`[${"1,".repeat(500_000)}1]`), error(-32600, "over 1000 calls"));
  const calls = new Array(1001).fill({ methodName: "system.listMethods" });
  assertThrows(() => dispatch("system.multicall", [calls]), Fault, "over 1000 calls");
  const nested = '[{"methodName":["system.multicall"],"params":['.repeat(20_000) +
    "]}]".repeat(20_000);
  const [refusal] = (jsonText(call(nested).replace("echo", "system.multicall")) as {
    result: [{ faultCode: number }];
  }).result;
  assertEquals(refusal.faultCode, -32601);

  const value = (n: number, content: string) =>
    "<value><array><data>".repeat(n) + content + "</data></array></value>".repeat(n);
  assertEquals(contentOf(echoXml(value(100, "")))[0], "<");
  for (const n of [200, 10_000, 24_000]) assertEquals(contentOf(echoXml(value(n, "")))[0], -32700);
  for (const tag of ["a", "value", "methodCall"]) {
    assertEquals(contentOf(xml(deep(100_000, `<${tag}>`, `</${tag}>`)))[0], -32700);
    assertEquals(contentOf(xml(`<${tag}>`.repeat(100_000)))[0], -32700);
  }
  assertEquals(contentOf(echoXml(`<value>${"&lt;".repeat(200_000)}</value>`))[0], "<");
  assertEquals(contentOf(echoXml(`<value>${"&".repeat(500_000)}</value>`))[0], -32700);
  assertEquals(contentOf(xml(`<methodCall ${" a".repeat(200_000)}/>`))[0], -32700);
  for (const kind of ["double", "int", "boolean", "dateTime.iso8601"]) {
    const digits = echoXml(`<value><${kind}>${"1".repeat(1_000_000)}x</${kind}></value>`);
    assertEquals(contentOf(digits)[0], -32600);
  }

  const laughs = Array.from(
    { length: 9 },
    (_, i) => `<!ENTITY l${i + 1} "${`&l${i};`.repeat(10)}">`,
  );
  for (
    const doctype of [
      "<!DOCTYPE methodCall>",
      `<!DOCTYPE a [<!ENTITY l0 "lol">${laughs.join("")}]>`,
      '<!DOCTYPE a [<!ENTITY l9 SYSTEM "file:///etc/passwd">]>',
      '<!DOCTYPE a SYSTEM "http://127.0.0.1:1/x.dtd">',
      '<?x <!-- ?><!DOCTYPE a [<!ENTITY l9 "lol">]><!-- -->',
    ]
  ) {
    for (
      const text of [
        doctype + methodCall("echo", "<param><value>&l9;</value></param>").slice(21),
        methodCall("echo", `<param><value>${doctype}&l9;</value></param>`),
      ]
    ) {
      assertEquals(contentOf(xml(text)), [-32600, "a DOCTYPE is not taken"]);
    }
  }
  assert(performance.now() - began < 30_000); // some of these took minutes, were they let in
});

/** Numbers that look random and are the same each time. */
function sequence(seed: number): (below: number) => number {
  return (below) => {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    return Math.floor(seed / 2 ** 32 * below);
  };
}

/** Requests of both kinds, spoilt: octets changed, cut out, put twice, and pieces of others put in. */
function* spoilt(count: number): Generator<["json" | "xml", Uint8Array]> {
  const random = sequence(7001);
  const all = "<value><struct><member><name>a</name><value><array><data><value><i4>1</i4></value>" +
    "<value><double>1.5</double></value><value><boolean>1</boolean></value><value>&lt;&#65;</value>" +
    "<value><dateTime.iso8601>19980717T14:08:55</dateTime.iso8601></value><value><nil/></value>" +
    "<value><base64>AAEC</base64></value><value><![CDATA[x]]></value></data></array></value></member>" +
    "</struct></value>";
  const seeds = {
    json: [
      '{"jsonrpc": "2.0", "method": "echo", "params": [{"a": [1, -2.5e3, "\\u0041x", null, true]}], "id": "1"}',
      '[{"jsonrpc": "2.0", "method": "quadratic", "params": {"a": 1, "b": 0, "c": -4}, "id": 1}, {"jsonrpc": "2.0", "method": "add"}]',
      '{"jsonrpc": "2.0", "method": "system.multicall", "params": [[{"methodName": "add", "params": [1, 2]}]], "id": null}',
    ],
    xml: [
      methodCall("echo", `<param>${all}</param>`),
      methodCall(
        "system.multicall",
        `<param><value><array><data><value><struct><member><name>methodName</name><value>add</value></member></struct></value></data></array></value></param>`,
      ),
    ],
  };
  const pieces = [
    ...[
      "<",
      ">",
      "&",
      ";",
      '"',
      "[",
      "]",
      "{",
      "}",
      "\0",
      "\xff",
      "]]>",
      "<!--",
      "-->",
      "<?",
      "?>",
    ],
    ...[
      "<!DOCTYPE a>",
      "<![CDATA[",
      "&#x110000;",
      "&a;",
      "__proto__",
      "1e999",
      "<value>",
      "</value>",
    ],
    ...["<int>", "<string/>", ",", ":", "-", "0", "null", "\\ud800", "toString", " ", "é"],
  ].map((piece) => Uint8Array.from(piece, (c) => c.charCodeAt(0)));
  for (let i = 0; i < count; i++) {
    const kind = random(2) === 0 ? "json" : "xml";
    let body = [...octets(seeds[kind][random(seeds[kind].length)])];
    for (let edits = random(4); edits >= 0; edits--) {
      const at = random(body.length + 1);
      const length = random(8) === 0 ? random(60) : random(3);
      const what = random(5);
      if (what === 0) body.splice(at, length);
      else if (what === 1) body[at] = random(256);
      else if (what === 2) body.splice(at, 0, ...body.slice(at, at + random(60)));
      else if (what === 3) body.splice(at, length, ...pieces[random(pieces.length)]);
      else if (random(10) === 0) body = body.slice(0, at);
    }
    yield [kind, new Uint8Array(body)];
  }
}

/** Asserts that an answer is one of its protocol's, and of no inner error; returns its code, if any. */
function codeOf(kind: "json" | "xml", answer: string | undefined): number {
  if (answer === undefined) return 0;
  if (kind === "xml") {
    assert(typeof new XMLParser({ maxNestedTags: 1000 }).parse(answer, true) === "object", answer);
    const content = contentOf(answer);
    if (typeof content === "string") return 0;
    assert(content[0] !== -32603, answer);
    return content[0];
  }
  const parsed = JSON.parse(answer);
  for (const one of Array.isArray(parsed) ? parsed : [parsed]) {
    assertEquals(one.jsonrpc, "2.0");
    assertEquals("result" in one, !("error" in one), answer);
    assert("id" in one && one.error?.code !== -32603, answer);
  }
  return parsed.error?.code ?? 0;
}

Deno.test("rpc_server answers 6000 spoilt requests in due form", () => {
  const codes = new Map<string, number>();
  for (const [kind, body] of spoilt(6000)) {
    const answer = kind === "json" ? handleJson(body) : handleXml(body);
    const key = `${kind} ${codeOf(kind, answer)}`;
    codes.set(key, (codes.get(key) ?? 0) + 1);
  }
  // All of these were met, so the requests were spoilt neither too little nor too much.
  for (const kind of ["json", "xml"]) {
    for (const code of [0, -32700, -32600, -32601]) {
      assert((codes.get(`${kind} ${code}`) ?? 0) > 10, JSON.stringify([...codes]));
    }
  }
});

Deno.test({
  name: "rpc_server stays up under spoilt requests, and goes on on the same connections",
  ignore: !mayRun,
  async fn() {
    await using server = start("rpc_server", ["--port", "0"]);
    const url = `http://127.0.0.1:${await server.port()}/`;
    for (const [kind, body] of spoilt(400)) {
      const headers = { "content-type": kind === "json" ? "application/json" : "text/xml" };
      const response = await fetch(url, { method: "POST", headers, body: body as BodyInit });
      const text = await response.text();
      assert(response.status === 200 || response.status === 204 && text === "", text);
      codeOf(kind, text || undefined);
    }
    server.signal("SIGINT");
    const { code, stderr } = await server.ended();
    assertEquals([code, stderr.split("\n").length], [0, 2], stderr);
  },
});

Deno.test("rpc_server takes POST of the two types, whatever the path", async () => {
  const post = (type: string | undefined, body: string, method = "POST") =>
    handle(
      new Request("http://127.0.0.1/a/b?c", {
        method,
        headers: type === undefined ? {} : { "content-type": type },
        ...(method === "POST" ? { body } : {}),
      }),
    );
  const add = '{"jsonrpc": "2.0", "method": "add", "params": [1, 2], "id": 1}';
  for (const type of ["application/json", "application/json-rpc", "application/vnd.x+json ;a=b"]) {
    const response = await post(type, add);
    assertEquals([response.status, await response.json()], [200, result(3)]);
  }
  for (const type of ["text/xml", "application/xml; charset=utf-8", "TEXT/XML"]) {
    const response = await post(type, methodCall("add", ""));
    assertEquals([response.status, contentOf(await response.text())[0]], [200, -32602]);
  }
  for (
    const type of ["text/plain", "text/html", "text/plain;+json", "application/jsonx", "xml", ""]
  ) {
    const response = await post(type, add);
    assertEquals([response.status, response.headers.get("accept")], [
      415,
      "application/json, text/xml",
    ]);
    await response.body?.cancel();
  }
  for (const method of ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"]) {
    const response = await post("application/json", "", method);
    assertEquals([response.status, response.headers.get("allow")], [405, "POST"]);
    await response.body?.cancel();
  }
  assertEquals((await post("application/json", add.replace(', "id": 1', ""))).status, 204);
});

Deno.test({
  name: "rpc_client and rpc_server in each form of a server, by JSON and by XML",
  ignore: !mayRun || missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    for await (const { form, ask } of inEachForm("rpc_server", folder.path)) {
      const permissions = form === "plain" || form === "IPv6"
        ? []
        : ["--allow-read", "--allow-write"];
      for (const protocol of ["--json", "--xml"]) {
        const call = (...args: string[]) =>
          run("rpc_client", [protocol, ...ask, ...args], { permissions });
        const said = async (...args: string[]) => {
          const { code, stdout, stderr } = await call(...args);
          assertEquals([code, stderr], [0, ""], `${form} ${protocol} ${args}`);
          return stdout;
        };
        assertEquals(await said("quadratic", "2", "--", "-4", "0"), "[0,2]\n");
        const value = '{"a":[1,-2.5,null,true," x \\n",{}],"ü":"\\u009b\\u202e"}';
        assertEquals(await said("echo", value), `${value}\n`);
        if (form !== "plain") continue;
        assertEquals(await said("echo", "no JSON: [1,"), '"no JSON: [1,"\n');
        assertEquals(await said("echo", "1e999"), '"1e999"\n');
        assertEquals(await said("echo", '"5"'), '"5"\n');
        assertEquals(
          await said("system.methodSignature", "add"),
          '[["double","double","double"]]\n',
        );
        const code = protocol === "--xml" ? -32500 : -32000;
        for (
          const [args, says] of [
            [["nope"], "fault -32601: Method not found"],
            [["toString", "1"], "fault -32601: Method not found"],
            [["add", "1"], "fault -32602: Invalid params: add(a: double, b: double): double"],
            [["quadratic", "1", "0", "1"], `fault ${code}: no real roots`],
          ] as const
        ) {
          const failed = { code: 1, stdout: "", stderr: `rpc_client: ${says}\n` };
          assertEquals(await call(...args), failed);
        }
        const nul = await call("echo", '"\\u0000"');
        const refused = "rpc_client: fault -32500: a character that XML has not\n";
        const nothing = { code: 1, stdout: "", stderr: refused };
        const given = { code: 0, stdout: '"\\u0000"\n', stderr: "" };
        assertEquals(nul, protocol === "--xml" ? nothing : given);
        const traced = await call("--trace", "add", "1", "2");
        assertMatch(traced.stderr, /^> \S+ POST \S+ HTTP\/1\.0\\r\\n$/m);
        assertMatch(traced.stderr, /^< \S+ HTTP\/1\.\d 200 OK\\r\\n$/m);
        assertMatch(traced.stderr, /^> .*add.*$/m);
        assertEquals(traced.stdout, "3\n");
        const small = await call("--trace", "echo", "1e-7"); // XML-RPC has no exponents
        assertMatch(small.stderr, protocol === "--xml" ? />0\.0000001</ : /\[1e-7\]/);
      }
    }
    const both = await run("rpc_client", ["--json", "--xml", "add"]);
    assertEquals([both.code, both.stderr.split("\n").length], [2, 2]);
  },
});

Deno.test({
  name: "rpc_client says what is wrong with an answer, and takes none for one that is not",
  ignore: !mayConnect,
  async fn() {
    let answer = "";
    let asked = "";
    await using server = testServer(async (conn) => {
      for (let line; (line = await conn.readLine()) !== "";) asked += `${line}\n`;
      await conn.writeAll(answer);
    });
    const ask = async (protocol: "json" | "xml", text: string) => {
      [answer, asked] = [text, ""];
      using conn = new FramedConn(await connect({ host: "127.0.0.1", port: server.port }));
      return await call(conn, "here:1", protocol, "m", []);
    };
    const body = (text: string, ...headers: string[]) =>
      [`HTTP/1.1 200 OK`, ...headers, "", text].join("\r\n");
    const fails = async (protocol: "json" | "xml", text: string, says: string) => {
      const { message } = await assertRejects(() => ask(protocol, text), Error, says);
      assert(message.startsWith(`127.0.0.1:${server.port}: `), message);
    };
    const good = '{"jsonrpc":"2.0","result":[1,"ü"],"id":1}';
    assertEquals(await ask("json", body(good)), [1, "ü"]);
    assertMatch(asked, /^POST \/ HTTP\/1\.0\nHost: here:1\nContent-Type: application\/json\n/);
    assertEquals(await ask("json", body(good, "A: b", "Content-Length: 44")), [1, "ü"]);
    assertEquals(await ask("json", body('{"jsonrpc":"2.0","result":null,"id":1}')), null);

    for (
      const [text, says] of [
        ["", "the server says: nothing"],
        ["HTTP/1.1 404 Not Found\r\n\r\n", "the server says: HTTP/1.1 404 Not Found"],
        ["HTTP/1.1 204 No Content\r\n\r\n", "the server says: HTTP/1.1 204 No Content"],
        ["220 mail.example ESMTP\r\n", "the server says: 220 mail.example"],
        ["x".repeat(10_000), `the server says: ${"x".repeat(80)}`],
        [body(" ".repeat(1 << 24)), "16777216 bytes"],
      ]
    ) for (const protocol of ["json", "xml"] as const) await fails(protocol, text, says);
    const whole = body("<methodResponse><params><param><value/></param></params></methodResponse>");
    assertEquals(await ask("xml", whole), "");
    for (let n = 0; n < whole.length; n += 3) await fails("xml", whole.slice(0, n), "");
    for (let n = 0; n < body(good).length; n += 3) await fails("json", body(good).slice(0, n), "");

    for (
      const [text, says] of [
        ["", "JSON"],
        ["{", "JSON"],
        ["null", "not an answer of JSON-RPC 2.0"],
        ["[]", "not an answer of JSON-RPC 2.0"],
        ['{"result":1,"error":null,"id":1}', "not an answer of JSON-RPC 2.0"],
        ['{"error":{"code":1,"message":"x"},"id":1}', "not an answer of JSON-RPC 2.0"],
        ['{"jsonrpc":"2.0","result":[1e999],"id":1}', "too large"],
        ['{"jsonrpc":"2.0","result":1,"id":2}', "to this call"],
        ['{"jsonrpc":"2.0","result":1}', "to this call"],
        ['{"jsonrpc":"2.0","id":1}', "to this call"],
      ]
    ) await fails("json", body(text), says);
    const fault = body('{"jsonrpc":"2.0","error":{"code":7,"message":"so\\nit is"},"id":1}');
    const { code } = await assertRejects(
      () => ask("json", fault),
      TheirFault,
      "fault 7: so\\nit is",
    );
    assertEquals(code, 7);

    const response = (value: string) =>
      body(
        `<methodResponse><params><param><value>${value}</value></param></params></methodResponse>`,
      );
    for (
      const [value, is] of [
        ["<int>-5</int>", -5],
        ["<i8>999999999999999</i8>", 1e15 - 1],
        ["<double>1e-7</double>", 1e-7],
        [" a&#x1F600;\n", " a😀\n"],
        ["<string/>", ""],
        ["\n<base64>AA\nEC</base64>", "AAEC"],
        ["<dateTime.iso8601>19980717T14:08:55</dateTime.iso8601>", "1998-07-17T14:08:55"],
        ["<array><data/></array>", []],
        ["<struct> </struct>", {}],
        [`<string>${"&lt;".repeat(200_000)}</string>`, "<".repeat(200_000)],
      ] as const
    ) assertEquals<unknown>(await ask("xml", response(value)), is);
    const polluted = "<struct><member><name>__proto__</name><value>x</value></member></struct>";
    assertEquals(asJson(await ask("xml", response(polluted))), '{"__proto__":"x"}');
    for (
      const [text, says] of [
        [body(""), "start tag expected"],
        [body("<html>"), "unclosed tag"],
        [body("<html/>"), "no answer of XML-RPC"],
        [body("<methodResponse/>"), "no answer of XML-RPC"],
        [body("<methodResponse><params/></methodResponse>"), "no answer of XML-RPC"],
        [response("<array/>"), "no answer of XML-RPC"],
        [response("<struct><member/></struct>"), "no answer of XML-RPC"],
        [response("<toString/>"), "toString"],
        [response("<i8>9007199254740993</i8>"), "type, i8"],
        [response("<int>x</int>"), "type, int"],
        [response("<double>inf</double>"), "type, double"],
        [response("<double>1e999</double>"), "too large"],
        [response("<boolean>true</boolean>"), "type, boolean"],
        [body("<!DOCTYPE a [<!ENTITY b 'c'>]><methodResponse/>"), "DOCTYPE"],
      ]
    ) await fails("xml", text, says);
  },
});

Deno.test("rpc_client prints JSON that a terminal may have and that is JSON still", () => {
  const text = "\x1b[31m\x7f\x80\x9b\u061c\u200e\u2028\u202e\u2066 \\x7f ü😀\ud800";
  const printed = asJson({ [text]: [text] });
  assertEquals(JSON.parse(printed), { [text]: [text] });
  assertEquals(/[\p{Cc}\p{Cf}\u2028]/u.test(printed), false, printed);
});
