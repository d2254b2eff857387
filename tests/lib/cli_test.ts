import { assertEquals, assertMatch, assertStringIncludes, assertThrows } from "@std/assert";
import { fromFileUrl } from "@std/path";
import { UsageError } from "../../lib/address.ts";
import * as cli from "../../lib/cli.ts";
import { mayRun, missing, Program, type Result, screen } from "../helpers.ts";

const program = {
  name: "test",
  about: "A program of the tests.",
  usage: "PATH [NAME]",
  permissions: "--allow-net",
  flags: {
    ...cli.serverFlags(8013),
    maxSize: cli.flag("N", "octets", cli.number(1, 100), "10"),
    mode: cli.flag("M", "how", cli.oneOf("fast", "slow"), "fast"),
    verbose: cli.toggle("say more"),
    log: cli.optional("FILE", "where"),
  },
};

Deno.test("without flags there are the defaults", () => {
  const [flags, ...args] = cli.parse(program, ["path"]) ?? [];
  assertEquals(args, ["path"]);
  const defaults = { host: "127.0.0.1", port: 8013, maxConnections: 1000, idleTimeout: 300_000 };
  const absent = { unix: undefined, cert: undefined, key: undefined, allowFrom: undefined };
  const own = { maxSize: 10, mode: "fast", verbose: false, log: undefined } as const;
  assertEquals(flags, { name: "test", ...defaults, ...absent, ...own, trace: false });
  const client = cli.parse({ ...program, flags: cli.clientFlags(8013) }, ["path"])?.[0];
  assertEquals([client?.port, client?.tls, client?.timeout], [8013, false, 10_000]);
});

Deno.test("a server of HTTP has the flags of all but the limit on connections", () => {
  const http = { ...program, flags: cli.httpFlags(8080) };
  const [flags] = cli.parse(http, ["path"]) ?? [];
  const { maxConnections: _, ...rest } = cli.serverFlags(8080);
  assertEquals(Object.keys(http.flags), Object.keys(rest));
  assertEquals([flags?.port, flags?.idleTimeout], [8080, 300_000]);
  const limited = () => cli.parse(http, ["path", "--max-connections", "5"]);
  assertThrows(limited, UsageError, "unknown flag --max-connections");
});

Deno.test("flags may stand anywhere, be repeated, joined with = and short", () => {
  const lines: [line: string, expected: Record<string, unknown>, ...args: string[]][] = [
    ["-p 0 a b", { port: 0 }, "a", "b"],
    ["a --port=65535 b --verbose", { port: 65535, verbose: true }, "a", "b"],
    ["--port 1 --port 2 -p 3 a", { port: 3 }, "a"],
    ["--verbose a", { verbose: true }, "a"],
    ["--max-size 100 --idle-timeout .5 a", { maxSize: 100, idleTimeout: 500 }, "a"],
    ["--mode slow --log=- 12", { mode: "slow", log: "-" }, "12"],
    ["--host ::1 --unix /s 007 1e3", { host: "::1", unix: "/s" }, "007", "1e3"],
    ["a -- --port", { port: 8013 }, "a", "--port"],
  ];
  for (const [line, expected, ...wanted] of lines) {
    const [flags, ...args] = cli.parse(program, line.split(" ")) ?? [];
    assertEquals(args, wanted, line);
    assertEquals({ ...flags, ...expected }, flags, line);
  }
  const list = cli.parse(program, ["--allow-from", "::1", "--allow-from=10.0.0.0/8", "a"])?.[0]
    .allowFrom;
  assertEquals([list?.check("10.9.9.9", "ipv4"), list?.check("::1", "ipv6")], [true, true]);
});

Deno.test("a last argument with dots is one or more", () => {
  const many = { ...program, usage: "PATH NAME..." };
  const given = (line: string) => cli.parse(many, line.split(" ").filter(Boolean))?.slice(1);
  assertEquals([given("a b"), given("a b --port 1 c d")], [["a", "b"], ["a", "b", "c", "d"]]);
  assertThrows(() => given("a"), UsageError, "NAME... is missing");
  assertThrows(() => given(""), UsageError, "PATH is missing");
});

Deno.test("help is asked for with --help and -h, whatever else is on the line", () => {
  for (const line of [["--help"], ["-h"], ["path", "--help"], ["a", "b", "c", "-h"]]) {
    assertEquals(cli.parse(program, line), undefined);
  }
});

Deno.test("what is wrong on a command line is said by name", () => {
  const wrong: [line: string, said: RegExp][] = [
    ["a --colour", /^unknown flag --colour$/],
    ["a --colour=red", /unknown flag --colour/],
    ["a -x", /unknown flag -x/],
    ["a --prot 1", /unknown flag --prot/],
    ["a --no-trace", /--no-trace/],
    ["a --allow-net", /--allow-net.*before the script/],
    ["a --allow-read=/tmp", /--allow-read.*before the script/],
    ["a -A", /-A.*before the script/],
    ["a --port", /^--port: N is missing/],
    ["a -p", /^--port: N is missing/],
    ["a --port=", /^--port: N is missing/],
    ["a --log --verbose", /^--log: FILE is missing/],
    ["a --allow-from", /^--allow-from: CIDR is missing/],
    ["a --allow-from 10.0.0.0/33", /^--allow-from: 10\.0\.0\.0\/33 /],
    ["a --port x", /^--port: x is not a whole number from 0 to 65535/],
    ["a --port 65536", /^--port: 65536 /],
    ["a --port 1.5", /^--port: 1\.5 /],
    ["a --max-connections 0", /^--max-connections: 0 /],
    ["a --idle-timeout 0", /^--idle-timeout: 0 /],
    ["a --max-size 101", /^--max-size: 101 /],
    ["a --mode quick", /^--mode: quick is none of fast, slow/],
    ["a b c", /^unexpected argument c$/],
    ["", /^PATH is missing$/],
  ];
  for (const [line, said] of wrong) {
    const error = assertThrows(
      () => cli.parse(program, line.split(" ").filter(Boolean)),
      UsageError,
    );
    assertMatch(error.message, said, line);
  }
});

Deno.test("numbers, seconds and words", () => {
  const whole = cli.number(0, 255);
  assertEquals(["0", "255", "007"].map(whole), [0, 255, 7]);
  for (const text of ["", "-1", "256", "1.5", "1e1", "0x10", " 1", "1 ", "+1", "NaN", "∞", "1_0"]) {
    assertThrows(() => whole(text), UsageError, `${text} is not a whole number from 0 to 255`);
  }
  assertEquals([cli.number(0, 1, false)(".25"), cli.number(0, 1, false)("0.25")], [0.25, 0.25]);
  assertEquals([cli.seconds("0.001"), cli.seconds("10"), cli.seconds("1.5")], [1, 10_000, 1500]);
  for (const text of ["0", "-1", "1s", "1e9", "9999999", "Infinity"]) {
    assertThrows(() => cli.seconds(text), UsageError, `${text} is not a number`);
  }
  const nats = cli.hostPort(4222);
  assertEquals(["h", ":1", "[::1]", "h:2"].map(nats), [
    "h:4222",
    "127.0.0.1:1",
    "[::1]:4222",
    "h:2",
  ]);
  for (const text of ["", "unix:/x", "h:x", "::1"]) {
    assertThrows(() => nats(text), UsageError, "is not");
  }
  const given = cli.optional("N", "", cli.number(0, 9));
  assertEquals([given.parse([]), given.parse(["1", "2"])], [undefined, 2]);
  assertThrows(() => given.parse(["x"]), UsageError, "x is not a whole number");
  assertEquals(cli.oneOf("a", "b")("b"), "b");
  for (const text of ["", "A", "ab"]) {
    assertThrows(() => cli.oneOf("a", "b")(text), UsageError, `${text} is none of a, b`);
  }
});

const root = fromFileUrl(new URL("../..", import.meta.url));

/** The command of a small program that has `cli` and, as `program`, one without flags. */
function small(code: string): string[] {
  const own = { name: "small", about: "A program.", permissions: "", flags: {} };
  const lib = new URL("../../lib/", import.meta.url);
  return [
    Deno.execPath(),
    "eval",
    `import * as cli from "${lib}cli.ts"; import { UsageError } from "${lib}address.ts";
     const program = ${JSON.stringify(own)}; ${code}`,
  ];
}

/** Runs one to its end. */
async function result(code: string, arg?: string, input?: string): Promise<Result> {
  const args = arg ? ["--", arg] : [];
  await using program = new Program([...small(code), ...args], { cwd: root });
  if (input) await program.type(input);
  await program.endInput();
  return await program.ended();
}

Deno.test({
  name: "main ends with the right code, and says what failed in one line",
  ignore: !mayRun,
  async fn() {
    const runs: [run: string, code: number, stderr: string, arg?: string][] = [
      ["", 0, ""],
      ["return 3", 3, ""],
      ["throw new Error('First line \\x1b[31m\\nsecond')", 1, "small: first line \\x1b[31m\n"],
      ["throw new UsageError('x is wrong')", 2, "small: x is wrong (--help tells more)\n"],
      ["", 2, "small: unknown flag --y (--help tells more)\n", "--y"],
    ];
    const results = await Promise.all(
      runs.map(([run, , , arg]) => result(`await cli.main(program, async () => { ${run} });`, arg)),
    );
    for (const [at, [, code, stderr]] of runs.entries()) {
      assertEquals(results[at], { code, stdout: "", stderr });
    }
    const help = await result("await cli.main(program, async () => { throw 1 });", "-h");
    assertEquals([help.code, help.stderr], [0, ""]);
    assertMatch(help.stdout, /^deno run .*scripts\/small\.ts \[flags\]\n\nA program\.\n[^]*--help/);
  },
});

Deno.test({
  name: "the first Ctrl-C aborts the signal, the second ends the program",
  ignore: !mayRun,
  async fn() {
    await using program = new Program(
      small(`setInterval(() => {}, 1e6); const signal = cli.stopSignal();
        signal.onabort = () => console.log("stopping"); console.log("ready");`),
      { cwd: root },
    );
    await program.until(/ready/);
    program.signal("SIGTERM");
    await program.until(/stopping/);
    program.signal("SIGINT");
    assertEquals(await program.ended(), { code: 130, stdout: "ready\nstopping\n", stderr: "" });
  },
});

Deno.test({
  name: "from a pipe Terminal reads lines without a prompt, and the progress bar is not drawn",
  ignore: !mayRun,
  async fn() {
    const code =
      `const terminal = new cli.Terminal(); const bar = cli.progressBar(2); bar(0); bar(2);
      for (let line; (line = await terminal.readLine("> ")) !== null;) terminal.print("[" + line + "]");
      terminal.close();`;
    const { stdout, stderr } = await result(code, undefined, "one\n\ntwo\r\nthree");
    assertEquals([stdout, stderr], ["[one]\n[]\n[two]\n[three]\n", ""]);
  },
});

/** Starts a small program on a terminal of its own. */
function onTerminal(code: string, columns = 80): Program {
  const spawn = "import pty, sys; sys.exit(pty.spawn(sys.argv[1:]) >> 8)";
  const wide = ["sh", "-c", `stty cols ${columns} rows 20 && exec "$@"`, "sh"];
  return new Program(["python3", "-c", spawn, ...wide, ...small(code)], { cwd: root });
}

Deno.test({
  name: "a line printed while one is typed appears above it, and what is typed is kept",
  ignore: missing("python3", "sh", "stty"),
  async fn() {
    await using program = onTerminal(
      `const terminal = new cli.Terminal();
      Deno.addSignalListener("SIGUSR1", () => terminal.print("news"));
      console.log("pid", Deno.pid);
      const line = await terminal.readLine("> ");
      terminal.print("got " + line);
      terminal.close();
      Deno.exit();`,
      40,
    );
    const pid = Number((await program.until(/pid (\d+)\r\n[^]*> /))[1]);
    await program.type("hl\x1b[D"); // the left arrow
    await program.until(/hl[^]+/);
    Deno.kill(pid, "SIGUSR1");
    await program.until(/news\r\n[^]*> hl[^]+/);
    await program.type("e\x1b[C");
    await program.until(/> hel/);
    const long = "lo " + "0123456789".repeat(5) + "end"; // more than a row
    await program.type(long);
    await program.until(/end$/);
    Deno.kill(pid, "SIGUSR1");
    await program.until(/news\r\n[^]*news\r\n[^]*end/);
    await program.type("!\r");
    const { code, stdout } = await program.ended();
    const typed = `> hel${long}!`;
    const [, ...rows] = screen(stdout, 40);
    const got = `got hel${long}!`;
    const wrapped = [typed, got].flatMap((line) => [line.slice(0, 40), line.slice(40)]);
    assertEquals([code, rows.filter((row) => row)], [0, ["news", "news", ...wrapped]]);
  },
});

Deno.test({
  name: "Ctrl-D ends a terminal's lines, and Ctrl-C aborts the signal",
  ignore: missing("python3", "sh", "stty"),
  async fn() {
    const code = `const signal = cli.stopSignal(); const terminal = new cli.Terminal();
      signal.onabort = () => { console.log("stopped"); Deno.exit(); };
      console.log("ended", await terminal.readLine("> "));
      if (!signal.aborted) Deno.exit();`;
    for (const [key, said] of [["\x04", /ended null/], ["\x03", /stopped/]] as const) {
      await using program = onTerminal(code);
      await program.until(/> /);
      await program.type(key);
      const { stdout } = await program.ended();
      assertMatch(stdout, said);
    }
  },
});

Deno.test({
  name: "the progress bar is redrawn in one row, and ends with it full",
  ignore: missing("python3", "sh", "stty"),
  async fn() {
    await using program = onTerminal(`const bar = cli.progressBar(2000);
      bar(0); bar(1000); bar(2000); const none = cli.progressBar(0); none(0);`);
    const { stdout } = await program.ended();
    assertStringIncludes(stdout, `\r\x1b[K${"░".repeat(20)} 0 B of 2 kB`);
    const [full, none] = screen(stdout);
    assertMatch(full, /^█{20} 2 kB of 2 kB /);
    assertMatch(none, /^█{20} 0 B of 0 B /);
  },
});

Deno.test("a time is a column of sixteen characters, blank if it is none", () => {
  const here = new Date(2026, 10, 28, 7, 4);
  assertEquals(cli.formatTime(here.toUTCString()), "2026-11-28 07:04");
  for (const text of [undefined, "", "soon"]) assertEquals(cli.formatTime(text), " ".repeat(16));
});
