import { assertEquals, assertMatch } from "@std/assert";
import { missing, Program, run, start, temporaryFolder } from "../helpers.ts";
import { certificates, finish, output, python } from "./peers.ts";

Deno.test({
  name: "Python's xmlrpc.client calls rpc_server: every type, faults, introspection, MultiCall",
  ignore: missing("python3"),
  async fn() {
    await using server = start("rpc_server", ["--port", "0"]);
    const url = `http://127.0.0.1:${await server.port()}`;
    for (const path of ["", "/", "/RPC2", "/any?where"]) {
      assertMatch(await output(python("rpc.py", "client", url + path)), /^tried 154\n$/, path);
    }
    server.signal("SIGINT");
    const { code, stderr } = await server.ended();
    assertEquals([code, stderr.split("\n").length], [0, 2], stderr);
  },
});

Deno.test({
  name: "Python's xmlrpc.client and curl call rpc_server over TLS",
  ignore: missing("python3", "openssl", "curl"),
  async fn() {
    await using folder = await temporaryFolder();
    const { ca, cert, key } = await certificates(folder.path);
    const args = ["--port", "0", "--cert", cert, "--key", key];
    await using server = start("rpc_server", args, ["--allow-read"]);
    const port = await server.port();
    const url = `https://127.0.0.1:${port}/`;
    const theirs = python("rpc.py", "client", url);
    await using trusting = new Program(theirs, { env: { SSL_CERT_FILE: ca } });
    assertMatch((await trusting.ended()).stdout, /^tried 154\n$/);

    const request = '{"jsonrpc": "2.0", "method": "add", "params": [2, 3], "id": "a"}';
    const curl = ["curl", "-sS", "--cacert", ca, "-H", "Content-Type: application/json"];
    assertEquals(
      await output([...curl, "-d", request, url]),
      '{"jsonrpc":"2.0","result":5,"id":"a"}',
    );
    const client = ["--port", `${port}`, "--tls", "--ca", ca, "--xml", "add", "2", "3"];
    const ours = await run("rpc_client", client, { permissions: ["--allow-read"] });
    assertEquals(ours, { code: 0, stdout: "5\n", stderr: "" });
  },
});

Deno.test({
  name: "rpc_client calls Python's xmlrpc.server: every type there and back, and its faults",
  ignore: missing("python3"),
  async fn() {
    await using server = new Program(python("rpc.py", "server"));
    const port = `${await server.port()}`;
    const call = async (...args: string[]) => {
      const { code, stdout, stderr } = await run("rpc_client", ["--xml", "--port", port, ...args]);
      assertEquals([code, stderr], [0, ""], `${args}`);
      return JSON.parse(stdout);
    };

    // What Python takes our values for. A CR arrives as one, which Python itself would lose.
    for (
      const [value, shown] of [
        [2 ** 31 - 1, "int 2147483647"],
        [-(2 ** 31), "int -2147483648"],
        [2 ** 31, "float 2147483648.0"],
        [-1, "int -1"],
        [0.1, "float 0.1"],
        [5e-324, "float 5e-324"],
        [Number.MAX_VALUE, "float 1.7976931348623157e+308"],
        [-1e-7, "float -1e-07"],
        [true, "bool True"],
        [false, "bool False"],
        [null, "NoneType None"],
        ["", "str ''"],
        ["  ", "str '  '"],
        ["007", "str '007'"],
        [" <b>&amp;</b> ]]> \r\n\t\r", String.raw`str ' <b>&amp;</b> ]]> \r\n\t\r'`],
        ["\u0085 Grüße 😀\ufffd", String.raw`str '\x85 Gr\xfc\xdfe \U0001f600\ufffd'`],
        [[], "list []"],
        [[1, ["a", []], {}], "list [1, ['a', []], {}]"],
        [{}, "dict {}"],
        [{ "": "", a: { "<&>": [null] } }, "dict {'': '', 'a': {'<&>': [None]}}"],
        [JSON.parse('{"__proto__": {"a": 1}}'), "dict {'__proto__': {'a': 1}}"],
      ] as const
    ) {
      assertEquals(await call("received", "--", JSON.stringify(value)), shown);
    }
    assertEquals(await call("received", "plain text"), "str 'plain text'");

    // And we Python's.
    assertEquals(await call("values"), JSON.parse(await output(python("rpc.py", "values"))));
    const all = JSON.stringify([0, -1.5, "Grüße", { a: [null, true] }, []]);
    assertEquals(await call("echo", all), JSON.parse(all));

    const methods = await call("system.listMethods");
    assertEquals(methods.includes("system.multicall") && methods.includes("received"), true);
    assertMatch(await call("system.methodHelp", "received"), /^Tells what came/);
    const calls = '[{"methodName": "pow", "params": [2, 5]}, {"methodName": "nope", "params": []}]';
    const [[power], fault] = await call("system.multicall", calls);
    assertEquals([power, fault.faultCode], [32, 1]);

    for (
      const [args, says] of [
        [["fail", "fault"], String.raw`fault 42: of\nits own \x1b[31m`],
        [["fail", "crash"], "fault 1: <class 'ValueError'>:a mistake"],
        [["pow", "2", "99"], "fault 1: <class 'OverflowError'>:int exceeds XML-RPC limits"],
      ] as const
    ) {
      const failed = await run("rpc_client", ["--xml", "--port", port, ...args]);
      assertEquals(failed, { code: 1, stdout: "", stderr: `rpc_client: ${says}\n` });
    }
    // Its answer to JSON is none of JSON-RPC's.
    const wrong = await run("rpc_client", ["--json", "--port", port, "echo", "1"]);
    assertEquals([wrong.code, wrong.stdout], [1, ""]);
    assertMatch(wrong.stderr, /^rpc_client: 127\.0\.0\.1:\d+: [^\n]+\n$/);
  },
});

Deno.test({
  name: "curl is refused by rpc_server what is no call, and by the right status",
  ignore: missing("curl"),
  async fn() {
    await using folder = await temporaryFolder();
    await using server = start("rpc_server", ["--port", "0"]);
    const url = `http://127.0.0.1:${await server.port()}/`;
    const curl = async (type: string | undefined, body: string | Uint8Array, ...more: string[]) => {
      await Deno.writeFile(`${folder.path}/body`, asOctets(body));
      const header = type === undefined ? [] : ["-H", `Content-Type: ${type}`];
      const data = more.length > 0 ? more : ["--data-binary", `@${folder.path}/body`];
      const { stdout } = await finish(["curl", "-sS", "-i", ...header, ...data, url]);
      const [, status, head, answer] =
        /^(?:HTTP\/1\.1 100 Continue\r\n\r\n)?HTTP\/1\.1 (\d+) [^]*?\r\n([^]*?)\r\n\r\n([^]*)$/
          .exec(stdout) ?? [];
      return { status: Number(status), head, answer };
    };
    const add = '{"jsonrpc": "2.0", "method": "add", "params": [1, 2], "id": 7}';
    const xml = (params: string) =>
      `<methodCall><methodName>echo</methodName><params>${params}</params></methodCall>`;

    for (
      const type of ["application/json", "Application/JSON; charset=utf-8", "application/a+json"]
    ) {
      const { status, head, answer } = await curl(type, add);
      assertEquals([status, answer], [200, '{"jsonrpc":"2.0","result":3,"id":7}'], type);
      assertMatch(head, /^content-type: application\/json$/mi);
    }
    for (const type of ["text/xml", "TEXT/XML;charset=UTF-8", "application/xml"]) {
      const { status, head, answer } = await curl(type, xml("<param><value>x</value></param>"));
      assertEquals(status, 200);
      assertMatch(answer, /<params><param><value><string>x<\/string><\/value><\/param><\/params>/);
      assertMatch(head, /^content-type: text\/xml/mi);
    }
    // What a page of another site can have sent by a form.
    for (const type of ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]) {
      assertEquals((await curl(type, add)).status, 415, type);
    }
    assertEquals((await curl("", add)).status, 415);
    for (const more of [["-X", "GET"], ["-X", "OPTIONS"], ["-X", "PUT", "-d", add], ["-I"]]) {
      const { status, head } = await curl("application/json", "", ...more);
      assertEquals(status, 405, `${more}`);
      assertMatch(head, /^allow: POST$/mi);
    }
    // A mebibyte is taken, and no more.
    const padded = (size: number) => add.replace("}", "}".padStart(size - add.length + 1));
    assertEquals((await curl("application/json", padded(1 << 20))).status, 200);
    assertEquals((await curl("application/json", padded((1 << 20) + 1))).status, 413);
    const chunked = ["-H", "Transfer-Encoding: chunked", "--data-binary", `@${folder.path}/body`];
    await Deno.writeTextFile(`${folder.path}/body`, padded(2 << 20));
    const sent = await finish([
      ..."curl -sS -o /dev/null -w %{http_code} -H".split(" "),
      ...["Content-Type: application/json", ...chunked, url],
    ]);
    assertEquals(sent.stdout, "413");

    // The last of a key's values counts, as in Python.
    const twice = add.replace('"method"', '"method": "nope", "method"');
    assertEquals(
      (await curl("application/json", twice)).answer,
      '{"jsonrpc":"2.0","result":3,"id":7}',
    );
    const broken = new Uint8Array([
      ...asOctets('{"jsonrpc": "2.0", "method": "'),
      0xff,
      0x22,
      0x7d,
    ]);
    assertEquals(JSON.parse((await curl("application/json", broken)).answer), {
      jsonrpc: "2.0",
      error: { code: -32700, message: "Parse error" },
      id: null,
    });
    assertMatch((await curl("text/xml", broken)).answer, /<int>-32700<\/int>/);
    assertEquals((await curl("application/json", add.replace(', "id": 7', ""))).status, 204);
  },
});

function asOctets(body: string | Uint8Array): Uint8Array {
  return typeof body === "string" ? new TextEncoder().encode(body) : body;
}
