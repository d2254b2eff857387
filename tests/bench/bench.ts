/**
 * How fast our servers are next to the Python tutorial's programs, to the same programs in Go and
 * Node where those are installed, and to the program that is known for the same thing:
 * `http_server.ts` next to the file servers that Python and Go bring along, the cache next to
 * memcached, the load balancer next to HAProxy, the DNS server next to our UDP echo, which does
 * nothing, and the workers of the Zen server next to its one thread. The Zen server answers where
 * those of Go and Node echo. The mail servers sync each message before they say that they have it.
 *
 *     deno task bench               everything installed
 *     deno task bench python        next to Python only; also: go node other
 *     deno task bench zen cache     these rows only
 *
 * The servers run on one core, but for the workers, which have all, and get their load one after
 * the other from the other core, in rounds.
 * What is printed is the median of the rounds, and of the ratios ours : theirs in each, with the
 * smallest and the largest. The second ratio, on Linux, is of what they do in a second of their
 * processor time: it holds where the load, and not the server, is what cannot go faster, as for
 * connections, of which the kernel does most at the client's side. A machine without Go gets its
 * load from Python, which is slower and cannot do all.
 *
 * @module
 */
import { retry } from "@std/async/retry";
import { fromFileUrl } from "@std/path";
import { command, missing, Program, temporaryFolder } from "../helpers.ts";

const ROUNDS = 5;
const SECONDS = 1;
const FILE_SIZE = 256 * 1024 * 1024;
const BIG_FILE_SIZE = 1e9;

/** A server, its load if that is not of the same name, and what else it is measured against. */
type Row = {
  what: string;
  load?: string;
  script: string;
  args?: string[];
  everyCore?: boolean;
  needsGo?: boolean; // its load, or what stands behind it, is in Go only
  pythonLoad?: boolean; // its load is in Python only, which is fast enough
  unit: string;
  per: number;
  other?: "concurrent" | "haproxy" | "memcached" | "udp_echo";
};
const ROWS: Row[] = [
  { what: "daytime", script: "daytime_server", unit: "connections/s", per: 1 },
  { what: "udp_echo", script: "udp_echo", unit: "round trips/s", per: 1 },
  { what: "dns", script: "dns_server", unit: "answers/s", per: 1, other: "udp_echo" },
  { what: "file", script: "file_server", unit: "MB/s", per: 1e6 },
  { what: "socketserver", script: "socketserver", unit: "messages/s", per: 1 },
  { what: "http", load: "http-small", script: "http_server", unit: "requests/s", per: 1 },
  { what: "http", load: "http-big", script: "http_server", unit: "MB/s", per: 1e6 },
  { what: "zen", script: "zen_server", needsGo: true, unit: "round trips/s", per: 1 },
  {
    what: "workers",
    load: "zen",
    script: "zen_server",
    args: ["--style", "workers", "--cost", "2"],
    everyCore: true,
    needsGo: true,
    unit: "answers/s",
    per: 1,
    other: "concurrent",
  },
  {
    what: "balancer",
    load: "zen",
    script: "load_balancer",
    needsGo: true,
    unit: "round trips/s",
    per: 1,
    other: "haproxy",
  },
  {
    what: "cache",
    script: "cache_server",
    needsGo: true,
    unit: "requests/s",
    per: 1,
    other: "memcached",
  },
  { what: "smtp", script: "smtp_server", pythonLoad: true, unit: "messages/s", per: 1 },
];
const PEERS = { python: "python3", go: "go", node: "node" };
const SIDES = ["ours", "python", "go", "node", "other"] as const;
type Side = typeof SIDES[number];
/** Which rows each of the others has. */
const HAS: Record<keyof typeof PEERS, string[]> = {
  python: ["daytime", "udp_echo", "file", "socketserver", "http", "smtp"],
  go: ["daytime", "udp_echo", "file", "http", "zen"],
  node: ["daytime", "udp_echo", "file", "zen"],
};

const ONE_CORE = { GOMAXPROCS: "1" };

const peerPath = (name: string) => fromFileUrl(new URL(`peers/${name}`, import.meta.url));
const pinned = !missing("taskset");
const onCore = (core: number, argv: string[]) =>
  pinned ? ["taskset", "-c", `${core}`, ...argv] : argv;

function isInstalled(side: keyof typeof PEERS): boolean {
  // Where there is no Node, `deno task` puts itself on the path under that name.
  if (side === "node" && Deno.env.get("PATH")?.includes("/node_compat_bin")) return false;
  return !missing(PEERS[side]);
}

/** Compiles a program of `peers/` into `folder`. */
async function build(name: string, folder: string): Promise<string> {
  const program = `${folder}/${name}`;
  const args = ["build", "-o", program, peerPath(`${name}.go`)];
  const { success } = await new Deno.Command("go", { args, env: { GO111MODULE: "off" } }).output();
  if (!success) throw new Error(`go build of peers/${name}.go failed`);
  return program;
}

/** How to start a server; `port` is where it will be if it does not say so itself. */
type Start = { argv: string[]; port?: number };

/** Starts the server of one side; undefined if it has none. */
async function server(
  side: Side,
  { what, script, args = [], other }: Row,
  folder: string,
  backend: string,
): Promise<Start | undefined> {
  const own = {
    file: [`${folder}/file.bin`],
    http: [`${folder}/www`],
    balancer: ["--backend", backend],
    smtp: [`${folder}/mail-${side}`],
  }[what] ?? args;
  const ours = (script: string, ...args: string[]) => [
    ...command(script, args.includes("workers") ? ["--allow-read"] : []),
    ...["--port", "0", ...args],
  ];
  if (side === "ours") return { argv: ours(script, ...own) };
  if (side !== "other") {
    if (!HAS[side].includes(what)) return undefined;
    // Isolated, or `import socketserver` would find the program itself.
    if (side === "python") return { argv: ["python3", "-I", peerPath(`${what}.py`), ...own] };
    if (side === "node") return { argv: ["node", peerPath(`${what}.mjs`), ...own] };
    return { argv: [await build(what, folder), ...own] };
  }
  if (other === "udp_echo") return { argv: ours("udp_echo") };
  if (other === "concurrent") return { argv: ours("zen_server", "--cost", "2") };
  if (!other || missing(other)) return undefined;
  const port = freePort();
  if (other === "memcached") {
    const threads = ["--threads", "1", "--user", "root"];
    return { argv: ["memcached", "--listen", `127.0.0.1:${port}`, ...threads], port };
  }
  const environment = [`PORT=${port}`, `BACKEND=${backend}`, `OTHER=${backend}`];
  return { argv: ["env", ...environment, "haproxy", "-q", "-f", peerPath("haproxy.cfg")], port };
}

function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

/** What a server did in a round, in a second and in a second of its processor time. */
type Rates = { rate: number; perCpu: number };
type Round = Partial<Record<Side, Rates>>;

/** A server under way. */
type Running = { program: Program; port: number };

/** Waits until a server of another kind can be reached. */
async function reached(port: number): Promise<number> {
  const connect = async () => (await Deno.connect({ hostname: "127.0.0.1", port })).close();
  await retry(connect, { minTimeout: 50, maxAttempts: 8 });
  return port;
}

/** Puts load on a server. */
async function measure(
  load: string[],
  side: Side,
  { what, load: own = what, other }: Row,
  { program: server, port }: Running,
): Promise<Rates> {
  const address = `127.0.0.1:${port}`;
  const before = processorSeconds(server.pid);
  const kind = side === "other" && other === "udp_echo" ? other : own;
  const argv = onCore(1, [...load, kind, address, `${SECONDS}`]);
  await using program = new Program(argv, { env: ONE_CORE });
  const { code, stdout, stderr } = await program.ended();
  if (code !== 0) throw new Error(`load on ${own}: ${stderr}`);
  const [done, seconds] = stdout.split(" ").map(Number);
  return { rate: done / seconds, perCpu: done / (processorSeconds(server.pid) - before) };
}

/** The processor time of a process so far; NaN where that cannot be told. */
function processorSeconds(pid: number): number {
  try {
    const [, fields] = Deno.readTextFileSync(`/proc/${pid}/stat`).split(") ");
    const [user, system] = fields.split(" ").slice(11, 13); // threads that have ended included
    return (Number(user) + Number(system)) / 100; // ticks of 10 ms
  } catch {
    return NaN;
  }
}

function median(numbers: number[]): number {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)];
}

function describe(side: Side, per: number, rounds: Round[]): string {
  const rates = rounds.map((round) => round[side]?.rate ?? NaN);
  const rate = Math.round(median(rates) / per).toLocaleString("en-US");
  if (side === "ours") return rate;
  const ratios = (key: keyof Rates) =>
    rounds.map((round) => (round.ours?.[key] ?? NaN) / (round[side]?.[key] ?? NaN));
  const byClock = ratios("rate");
  const [middle, least, most, byCpu] = [
    median(byClock),
    Math.min(...byClock),
    Math.max(...byClock),
    median(ratios("perCpu")),
  ]
    .map((ratio) => ratio.toFixed(2));
  return `${rate}: ${middle} (${least}-${most}), cpu ${byCpu}`;
}

function printRow(cells: string[]): void {
  console.log(cells.map((cell, i) => cell.padEnd([26, 9][i] ?? 36)).join(" ").trimEnd());
}

if (import.meta.main) {
  const others = SIDES.filter((side) => side !== "ours");
  const [wanted, names] = [others, ROWS.map(({ what }) => what)]
    .map((known: readonly string[]) => Deno.args.filter((arg) => known.includes(arg)));
  if (wanted.length + names.length < Deno.args.length) {
    console.error(`bench: they are ${[...others, ...ROWS.map(({ what }) => what)].join(", ")}`);
    Deno.exit(2);
  }
  const sides = SIDES.filter((side) =>
    side === "ours" ||
    (wanted.length > 0 ? wanted.includes(side) : side === "other" || isInstalled(side))
  );
  const rows = ROWS.filter(({ what, needsGo }) =>
    (names.length === 0 || names.includes(what)) && !(needsGo && missing("go"))
  );
  await using folder = await temporaryFolder();
  await using programs = new AsyncDisposableStack();
  await Deno.writeFile(`${folder.path}/file.bin`, new Uint8Array(FILE_SIZE).fill(42));
  await Deno.mkdir(`${folder.path}/www`);
  await Deno.writeFile(`${folder.path}/www/small.txt`, new Uint8Array(4096).fill(42));
  {
    using big = await Deno.create(`${folder.path}/www/big.bin`);
    const piece = new Uint8Array(1e6).fill(42);
    for (let size = 0; size < BIG_FILE_SIZE;) size += await big.write(piece);
  }
  const pythonLoad = ["python3", peerPath("load.py")];
  const usualLoad = missing("go") ? pythonLoad : [await build("load", folder.path)];

  // What the balancers have behind them: an echo, on the core of the load.
  const echo = missing("go") ? command("udp_echo") : [await build("zen", folder.path)];
  const behind = programs.use(new Program(onCore(1, echo), { env: ONE_CORE }));
  const backend = `127.0.0.1:${await behind.port()}`;

  printRow(["", ...sides.map((side) => side === "ours" ? side : `${side}: ours is x`)]);
  for (const row of rows) {
    const load = row.pythonLoad ? pythonLoad : usualLoad;
    const servers = new Map<Side, Running>();
    for (const side of sides) {
      const start = await server(side, row, folder.path, backend);
      if (!start) continue;
      // What a server prints is not waited for.
      const argv = row.everyCore ? start.argv : onCore(0, start.argv);
      const quiet = ["sh", "-c", 'exec "$@" >/dev/null', "sh", ...argv];
      const program = programs.use(new Program(quiet, { env: ONE_CORE }));
      const port = await (start.port ? reached(start.port) : program.port()).catch((error) => {
        if (side === "ours") throw error;
        console.error(`bench: ${row.what}, ${side}: ${error.message.trim().split("\n").at(-1)}`);
      });
      if (port === undefined) continue; // Python 3.12 has no smtpd
      const running = { program, port };
      await measure(load, side, row, running); // to warm up
      servers.set(side, running);
    }
    const rounds: Round[] = [];
    while (rounds.length < ROUNDS) {
      const round: Round = {};
      for (const [side, running] of servers) {
        round[side] = await measure(load, side, row, running);
      }
      rounds.push(round);
    }
    const cells = sides.map((side) => servers.has(side) ? describe(side, row.per, rounds) : "");
    printRow([`${row.what}, ${row.unit}`, ...cells]);
  }
}
