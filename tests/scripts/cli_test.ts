import { assert, assertEquals, assertMatch } from "@std/assert";
import { createServer } from "node:net";
import {
  command,
  mayRun,
  missing,
  Program,
  type Result,
  run,
  scriptPath,
  start,
  temporaryFolder,
} from "../helpers.ts";
import { certificate, FILES, testServer } from "./rig.ts";

/** A label of 64 octets, one more than DNS has: nobody has to be asked that there is no such host. */
const NOBODY = "n".repeat(64);

/** A script as its `--help` shows it. */
type Shape = { name: string; help: string; wanted: string[]; has: (flag: string) => boolean };

/** All of our scripts, so that a new one is tested from its first day. */
const SHAPES: Shape[] = Array.from(
  mayRun ? Deno.readDirSync(scriptPath("x").replace(/x\.ts$/, "")) : [],
  (entry) => entry.name.replace(/\.ts$/, ""),
).sort().map((name) => {
  const args = ["run", "--no-prompt", scriptPath(name), "--help"];
  const { stdout } = new Deno.Command(Deno.execPath(), { args, stdin: "null" }).outputSync();
  const help = new TextDecoder().decode(stdout);
  const wanted = /\[flags\] ?(.*)/.exec(help)?.[1].split(" ").filter(Boolean) ?? [];
  return { name, help, wanted, has: (flag) => help.includes(`  ${flag} `) };
});
const isServer = (shape: Shape) => shape.has("--allow-from") && shape.has("--host");
// netcat is both, and has tests of its own for it.
const isClient = (shape: Shape) =>
  shape.has("--timeout") && shape.has("--port") && !shape.has("--listen");
const needsPath = (shape: Shape) => shape.wanted.includes("PATH");
const readsFirst = (shape: Shape) =>
  needsPath(shape) || shape.wanted.includes("[ROOT]") || shape.has("--known-hosts");

/** Runs a script with these permissions and no others. */
async function runWith(
  permissions: string[],
  name: string,
  args: string[],
  cwd?: string,
): Promise<Result> {
  const deno = [Deno.execPath(), "run", "--no-prompt", ...permissions];
  await using program = new Program([...deno, scriptPath(name), ...args], { cwd });
  await program.type("x: y\n").catch(() => {}); // some ask for a line before anything else
  await program.endInput();
  return await program.ended();
}

/** Flags that must be given, FOLDER the test's own; nobody listens on port 1. */
const GIVEN = new Map([
  ["email_build", ["--from", "ann@example.test", "--to", "bob@example.test"]],
  ["load_balancer", ["--backend", "127.0.0.1:1"]],
  ["nntp_server", ["--group", "local.test"]],
  ["smtp_client", ["--from", "ann@example.test", "--to", "bob@example.test"]],
  ["ssh_client", ["--known-hosts", "FOLDER/known_hosts", "--user", "ann"]],
  ["ssh_server", ["--authorized-keys", "/dev/null", "--host-key", "FOLDER/host_key"]],
]);

const given = (name: string, path: string) =>
  (GIVEN.get(name) ?? []).map((arg) => arg.replace("FOLDER", path));

/** A command of those that have none to listen. */
const COMMANDS = new Map([
  ["cache_client", "stats"],
  ["ftp_client", "ls"],
  ["imap_client", "list"],
  ["nntp_client", "groups"],
]);

/** What must be given besides: a folder, PATH, or of the commands the one that serves. */
const required = ({ name, wanted }: Shape, path: string) => [
  ...given(name, path),
  ...wanted.filter((argument) => !argument.startsWith("["))
    .map((argument) =>
      ({ COMMAND: COMMANDS.get(name) ?? "listen", URL: `${name.split("_")[0]}://127.0.0.1:3/` })[
        argument
      ] ?? path
    ),
];

/** It ended with `code` and one line, its own and no stack trace, that says `pattern`. */
function assertSays(result: Result, name: string, code: number, pattern: RegExp): void {
  const shown = `${name}: ${JSON.stringify(result)}`;
  assertMatch(result.stderr, new RegExp(`^${name}: [^\n]+\n$`), shown);
  assertMatch(result.stderr, pattern, shown);
  assertEquals(/^ {4}at |^error:/m.test(result.stderr), false, shown);
  assertEquals(result.code, code, shown);
}

/** A test of each script that `applies` to. */
function testEach(
  title: string,
  applies: (shape: Shape) => boolean,
  fn: (name: string, shape: Shape, folder: string) => Promise<void>,
): void {
  if (!mayRun) Deno.test({ name: `every script: ${title}`, ignore: true, fn() {} });
  for (const shape of SHAPES.filter(applies)) {
    Deno.test(`${shape.name}: ${title}`, async () => {
      await using folder = await temporaryFolder();
      await fn(shape.name, shape, folder.path);
    });
  }
}

const all = () => true;

testEach("--help in 100 ms and without a permission", all, async (name, { help }) => {
  const [first] = (await Deno.readTextFile(scriptPath(name))).split("\n");
  const permissions = /^#!\/usr\/bin\/env -S deno run((?: --allow-[\w=]+)*)$/.exec(first)?.[1];
  assert(permissions !== undefined, first);
  assertMatch(help, new RegExp(`^deno run${permissions} scripts/${name}\\.ts \\[flags\\]`));
  assertMatch(help, /^ {2}--help +this text$/m);
  assertEquals(await runWith([], name, ["-h"]), { code: 0, stdout: help, stderr: "" });
  // A promise of ours, kept if any of ten runs keeps it, as other programs take their time, too.
  let best = Infinity;
  for (let i = 0; i < 10 && best >= 100; i++) {
    const began = performance.now();
    await new Deno.Command(Deno.execPath(), {
      args: ["run", "--no-prompt", scriptPath(name), "--help"],
      stdin: "null",
    }).output();
    best = Math.min(best, performance.now() - began);
  }
  assert(best < 100, `${best} ms`);
});

testEach("importing it does nothing", all, async (name, _, folder) => {
  await Deno.writeTextFile(`${folder}/import.ts`, `import "file://${scriptPath(name)}";\n`);
  const config = scriptPath(name).replace(/scripts\/[^/]*$/, "deno.json");
  const { code, stdout, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "--no-prompt", "--quiet", "--config", config, `${folder}/import.ts`, "--bogus"],
    stdin: "null",
  }).output();
  assertEquals([code, stdout.length, new TextDecoder().decode(stderr)], [0, 0, ""]);
});

testEach(
  "a wrong command line is said in one line, exit 2",
  all,
  async (name, shape, path) => {
    const given = name === "netcat" ? ["--port", "1"] : required(shape, path);
    const least = / --port N .*free/.test(shape.help) ? 0 : 1;
    const file = `${path}/file`;
    await Deno.writeTextFile(file, "");
    const cases: [string[], RegExp][] = [
      [["--bogus"], /unknown flag --bogus/],
      [["--bogus=1"], /unknown flag --bogus/],
      [["-x"], /unknown flag -x/],
      [["--allow-net"], /unknown flag --allow-net, Deno's own come before the script/],
      [["--allow-net=127.0.0.1"], /unknown flag --allow-net.*, Deno's own come before the script/],
    ];
    const flags: [flag: string, args: string[], says: RegExp][] = [
      ["--host", ["--host"], /--host: H is missing/],
      ["--port", ["--port"], /--port: N is missing/],
      ["--port", ["--port", ""], /--port: N is missing/],
      ["--port", ["-p", "70000"], /--port: 70000 is not a whole number from . to 65535/],
      ["--port", ["--port", "-1"], /-1|N is missing/],
      ...["70000", "-1", "x"].map((port): [string, string[], RegExp] => [
        "--port",
        [`--port=${port}`],
        new RegExp(`--port: ${port} is not a whole number from ${least} to 65535`),
      ]),
      ["--max-connections", ["--max-connections", "0"], /--max-connections: 0 is not a whole/],
      ["--idle-timeout", ["--idle-timeout", "0"], /--idle-timeout: 0 is not a number from/],
      [
        "--allow-from",
        ["--allow-from", "10.0.0.0/33"],
        /--allow-from: 10\.0\.0\.0\/33 is not a CIDR/,
      ],
      ["--timeout", ["--timeout", "soon"], /--timeout: soon is not a number from/],
      ["--cert", ["--cert", file], /--cert and --key (go together|need --listen)/],
      ["--key", ["--key", file], /--cert and --key (go together|need --listen)/],
      [
        "--cert",
        ["--cert", file, "--key", file, "--unix", "x"],
        /--unix and --cert do not go|need --listen|unknown flag --unix/, // that of tls_server
      ],
      ["--tls", ["--ca", file], /--ca needs --tls/],
      ["--tls", ["--tls", "--unix", "x"], /--unix and --tls do not go|unknown flag --unix/],
      ["--transport", ["--transport", "sctp"], /--transport: sctp is none of tcp, udp/],
      ["--transport", ["--transport", "unix"], /unix needs --unix PATH/],
    ];
    for (const [flag, args, says] of flags) {
      if (shape.has(flag)) cases.push([[...given, ...args], says]);
    }
    if (required(shape, path).length > 0) {
      const [flag = shape.wanted[0]] = GIVEN.get(name) ?? [];
      cases.push([[], new RegExp(`(${flag}(:? .*)?|${shape.wanted[0]}) is missing`)]);
    }
    await Promise.all(cases.map(async ([args, says]) => {
      const result = await run(name, args, { permissions: FILES, cwd: path, stdin: "x: y\n" });
      assertSays(result, name, 2, says);
      assertEquals(result.stdout, "", `${args}`);
    }));
  },
);

/** The others say it of a file that they are given. */
const needsPermission = (shape: Shape) => !shape.help.includes("Permissions: none.");

testEach("a missing permission is said by the flag that grants it", needsPermission, async (
  name,
  shape,
  path,
) => {
  const given = required(shape, path);
  const granted = command(name).filter((arg) => arg.startsWith("--allow-"));
  const own = granted.filter((permission) => permission !== "--allow-net");
  const port = shape.has("--port") ? ["--port", "1"] : [];
  const cases: [permissions: string[], args: string[], says: RegExp][] = [
    [own, port, /--allow-net/],
    [[], port, readsFirst(shape) ? /--allow-read/ : /--allow-net/],
    [[...own, "--allow-net=127.0.0.1:2"], port, /--allow-net/],
  ];
  if (shape.has("--unix")) {
    cases.push([["--allow-net"], ["--unix", `${path}/s`], /--allow-(read|write)/]);
  }
  if (own.length === granted.length) cases.splice(0, Infinity, [[], [], /--allow-(read|write)/]);
  await Promise.all(cases.map(async ([permissions, args, says]) => {
    assertSays(await runWith(permissions, name, [...args, ...given], path), name, 1, says);
  }));
});

testEach("a server that cannot listen says why", isServer, async (name, shape, path) => {
  const given = required(shape, path);
  await using other = start(name, ["--port", "0", ...given]);
  const port = await other.port();
  const file = `${path}/file`;
  await Deno.writeTextFile(file, "not a socket");
  const cases: [args: string[], says: RegExp][] = [
    [["--port", `${port}`], new RegExp(`: 127\\.[\\d.]+:${port}: address already in use`)],
    [["--host", "198.51.100.77", "--port", "0"], /: 198\.51\.100\.77:0: .*assign/],
    [["--host", NOBODY, "--port", "0"], /: n{64}:0: unknown host/],
  ];
  if (shape.has("--unix")) {
    cases.push(
      [["--unix", `${path}/none/socket`], /\/none\/socket: no such file or directory/],
      [["--unix", file], /\/file: address already in use/],
    );
  }
  await Promise.all(cases.map(async ([args, says]) => {
    const result = await run(name, [...args, ...given], { permissions: FILES });
    assertSays(result, name, 1, says);
    assertEquals(result.stdout, "");
  }));
  assertEquals(await Deno.readTextFile(file), "not a socket");
});

testEach("a path that is not there is said by name", needsPath, async (name, shape, path) => {
  const result = await run(name, ["--port", "0", ...required(shape, `${path}/none`)]);
  assertSays(result, name, 1, new RegExp(`${path}/none: no such file`));
});

const hasTls = (shape: Shape) => !missing("openssl") && shape.has("--cert") && isServer(shape);

testEach("a server's certificate and key are said by name", hasTls, async (name, shape, path) => {
  const given = required(shape, path);
  const { cert, key } = await certificate(path);
  await Deno.mkdir(`${path}/other`);
  const { key: otherKey } = await certificate(`${path}/other`);
  const junk = `${path}/junk`;
  await Deno.writeTextFile(junk, "no PEM");
  await Promise.all(([
    [`${path}/none`, key, /\/none: no such file or directory$/m],
    [cert, `${path}/none`, /\/none: no such file or directory$/m],
    [junk, key, /\/junk/],
    [cert, junk, /\/junk/],
    [key, cert, /\.pem/],
    [cert, otherKey, /\/other\/key\.pem/],
    [path, key, /: is a directory/],
  ] as const).map(async ([cert, key, says]) => {
    const args = ["--port", "0", "--cert", cert, "--key", key, ...given];
    assertSays(await run(name, args, { permissions: FILES }), name, 1, says);
  }));
});

/** How a client is asked for one thing, over TCP, which it does not try for long. */
const ASKED = new Map([
  ["cache_client", ["get", "x"]],
  ["dns_client", ["--tcp", "example.test"]],
  ["ftp_client", ["ls"]],
  ["imap_client", ["list"]],
  ["nntp_client", ["groups"]],
  ["retry_client", ["--requests", "1", "--deadline", "1"]],
  ["rpc_client", ["system.listMethods"]],
]);
const asked = (name: string, path: string) => [...given(name, path), ...ASKED.get(name) ?? []];

const isConnected = (shape: Shape) => isClient(shape) && shape.has("--tls");

testEach(
  "a --ca file without a certificate is said by name",
  isConnected,
  async (name, _, path) => {
    await Deno.writeTextFile(`${path}/junk`, "no PEM");
    await using server = testServer(() => {});
    const args = ["--port", `${server.port}`, "--tls", "--ca", `${path}/junk`];
    const result = await run(name, [...args, ...asked(name, path)], {
      permissions: FILES,
      stdin: "x: y\n",
      cwd: path,
    });
    assertSays(result, name, 1, /\/junk/);
  },
);

/** What a client does, and says, when the server hangs up at once: not all take it for a failure. */
const HUNG_UP = new Map<string, [code: number, says: RegExp]>([
  ["chat_client", [0, /^chat_client: the server has ended the conversation\n$/]],
  ["file_client", [0, /^file_client: received recv\.txt, 0 bytes\n$/]],
  ["socketserver_client", [0, /^$/]], // a server may have no answer
]);

testEach("a client that gets no server says why", isClient, async (name, shape, path) => {
  const fails = async (args: string[], says: RegExp) => {
    const options = { permissions: FILES, stdin: "x: y\n", cwd: path };
    assertSays(await run(name, [...args, ...asked(name, path)], options), name, 1, says);
  };
  const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  const port = `${listener.addr.port}`;
  listener.close();
  // Over UDP nobody says that nobody is there.
  const refused = shape.has("--unix") || shape.has("--ca")
    ? "connection refused"
    : "no answer \\(datagrams sent: 1\\)";
  await fails(
    ["--port", port, "--timeout", "0.3"],
    new RegExp(`^${name}: 127\\.0\\.0\\.1:${port}: ${refused}( \\(1 of 1 unanswered.*\\))?\n$`),
  );
  await fails(["--host", NOBODY], /: n{64}:\d+: unknown host\n$/);
  if (shape.has("--udp")) {
    await fails(["--udp", "--host", NOBODY], /: n{64}:\d+: unknown host\n$/);
  }
  if (shape.has("--unix")) {
    await fails(["--unix", `${path}/none`], /\/none: no such file or directory\n$/);
  }
  if (!shape.has("--tls")) return;
  await using plain = testServer((conn) => conn.writeAll("not a handshake\r\n"));
  const tls = ["--port", `${plain.port}`, "--tls"];
  await fails([...tls, "--ca", `${path}/none`], /\/none: no such file or directory\n$/);
  await fails(tls, new RegExp(`: 127\\.0\\.0\\.1:${plain.port}: .*TLS`));
});

testEach("a client that loses its server says so", isConnected, async (name, _, path) => {
  const ask = (port: number) =>
    run(name, ["--port", `${port}`, "--timeout", "5", ...asked(name, path)], {
      stdin: "x: y\n",
      cwd: path,
    });

  await using closing = testServer(() => {});
  const { code, stderr } = await ask(closing.port);
  const [expected, says] = HUNG_UP.get(name) ?? [1, new RegExp(`^${name}: 127\\.0\\.0\\.1:.*\n$`)];
  assertMatch(stderr, says);
  assertEquals(code, expected);

  // Only Node's sockets can be told to reset.
  const resetting = createServer((socket) => {
    socket.on("error", () => {});
    socket.write("in", () => socket.resetAndDestroy());
  });
  const address = await new Promise((resolve) =>
    resetting.listen(0, "127.0.0.1", () => resolve(resetting.address()))
  );
  const { port } = address as { port: number };
  assertSays(await ask(port), name, 1, /reset|broken pipe/);
  await new Promise((resolve) => resetting.close(resolve));
});

testEach("a client gives up on a silent server after --timeout", isClient, async (
  name,
  _,
  path,
) => {
  await using silent = testServer((conn) => conn.readToEnd(1e6));
  const args = ["--port", `${silent.port}`, "--timeout", "0.2", ...asked(name, path)];
  const result = await run(name, args, { stdin: "x: y\n", cwd: path });
  // Who chats may be silent as long as they like: there the end of the input is the end.
  if (name === "chat_client") assertEquals(result, { code: 0, stdout: "", stderr: "" });
  else assertSays(result, name, 1, /: 127\.0\.0\.1:\d+: no answer|no answer within 0\.2 s/);
});

testEach("SIGINT and SIGTERM end a server, exit 0", isServer, async (name, shape, path) => {
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    await using server = start(name, ["--port", "0", ...required(shape, path)]);
    const port = await server.port();
    server.signal(signal);
    const { code, stdout, stderr } = await server.ended();
    // The certificate that tls_server makes, and what it says of it.
    const printed = stdout.replace(
      /^-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----\n$/,
      "",
    );
    assertEquals([code, printed], [0, ""], stderr);
    assertMatch(stderr, new RegExp(`^${name}: listening on 127\\.[\\d.]+:${port}`, "m"));
    assertEquals(
      stderr.replaceAll(
        /^.*: (listening on |made a |the host key is |it is on stdout|down: ).*\n/gm,
        "",
      ),
      "",
    );
  }
});
