/**
 * How fast our servers are next to the Python tutorial's programs, and to the same programs in Go
 * and Node where those are installed; `http_server.ts` next to the file servers that Python and Go
 * bring along; the DNS server next to our UDP echo, which does nothing.
 *
 *     deno task bench               everything installed
 *     deno task bench python        next to Python only; also: go node
 *
 * The servers run on one core and get their load one after the other from the other core, in rounds.
 * What is printed is the median of the rounds, and of the ratios ours : theirs in each, with the
 * smallest and the largest. The second ratio, on Linux, is of what they do in a second of their
 * processor time: it holds where the load, and not the server, is what cannot go faster, as for
 * connections, of which the kernel does most at the client's side. A machine without Go gets its
 * load from Python, which is slower.
 *
 * @module
 */
import { fromFileUrl } from "@std/path";
import { command, missing, Program, temporaryFolder } from "../helpers.ts";

const ROUNDS = 5;
const SECONDS = 1;
const FILE_SIZE = 256 * 1024 * 1024;
const BIG_FILE_SIZE = 1e9;

/** A server, and its load if that is not of the same name. */
type Row = { what: string; load?: string; script: string; unit: string; per: number };
const ROWS: Row[] = [
  { what: "daytime", script: "daytime_server", unit: "connections/s", per: 1 },
  { what: "udp_echo", script: "udp_echo", unit: "round trips/s", per: 1 },
  { what: "dns", script: "dns_server", unit: "answers/s", per: 1 },
  { what: "file", script: "file_server", unit: "MB/s", per: 1e6 },
  { what: "socketserver", script: "socketserver", unit: "messages/s", per: 1 },
  { what: "http", load: "http-small", script: "http_server", unit: "requests/s", per: 1 },
  { what: "http", load: "http-big", script: "http_server", unit: "MB/s", per: 1e6 },
];
const PEERS = { python: "python3", go: "go", node: "node" };
const SIDES = ["ours", "python", "go", "node", "echo"] as const;
type Side = typeof SIDES[number];
/** Which rows each of the others has. */
const HAS: Record<Exclude<Side, "ours">, string[]> = {
  python: ["daytime", "udp_echo", "file", "socketserver", "http"],
  go: ["daytime", "udp_echo", "file", "http"],
  node: ["daytime", "udp_echo", "file"],
  echo: ["dns"],
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

/** The command of one side's server; undefined if it has none. */
async function server(
  side: Side,
  { what, script }: Row,
  folder: string,
): Promise<string[] | undefined> {
  const args = { file: [`${folder}/file.bin`], http: [`${folder}/www`] }[what] ?? [];
  if (side !== "ours" && !HAS[side].includes(what)) return undefined;
  switch (side) {
    case "ours":
      return [...command(script), "--port", "0", ...args];
    case "echo":
      return [...command("udp_echo"), "--port", "0"];
    case "python":
      // Isolated, or `import socketserver` would find the program itself.
      return ["python3", "-I", peerPath(`${what}.py`), ...args];
    case "go":
      return [await build(what, folder), ...args];
    case "node":
      return ["node", peerPath(`${what}.mjs`), ...args];
  }
}

/** What a server did in a round, in a second and in a second of its processor time. */
type Rates = { rate: number; perCpu: number };
type Round = Partial<Record<Side, Rates>>;

/** Puts load on a server. */
async function measure(
  load: string[],
  side: Side,
  { what, load: own = what }: Row,
  server: Program,
): Promise<Rates> {
  const address = `127.0.0.1:${await server.port()}`;
  const before = processorSeconds(server.pid);
  const kind = side === "echo" ? "udp_echo" : own;
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
  const unknown = Deno.args.filter((name) => !(name in PEERS));
  if (unknown.length > 0) {
    console.error(`bench: ${unknown.join(" ")} is none of python, go, node`);
    Deno.exit(2);
  }
  const sides = SIDES.filter((side) =>
    side === "ours" || side === "echo" ||
    (Deno.args.length > 0 ? Deno.args.includes(side) : isInstalled(side))
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
  const load = missing("go")
    ? ["python3", peerPath("load.py")]
    : [await build("load", folder.path)];

  printRow(["", ...sides.map((side) => side === "ours" ? side : `${side}: ours is x`)]);
  for (const row of ROWS) {
    const servers = new Map<Side, Program>();
    for (const side of sides) {
      const argv = await server(side, row, folder.path);
      if (!argv) continue;
      // What a server prints is not waited for.
      const quiet = ["sh", "-c", 'exec "$@" >/dev/null', "sh", ...onCore(0, argv)];
      const program = programs.use(new Program(quiet, { env: ONE_CORE }));
      await measure(load, side, row, program); // to warm up
      servers.set(side, program);
    }
    const rounds: Round[] = [];
    while (rounds.length < ROUNDS) {
      const round: Round = {};
      for (const [side, program] of servers) {
        round[side] = await measure(load, side, row, program);
      }
      rounds.push(round);
    }
    const cells = sides.map((side) => servers.has(side) ? describe(side, row.per, rounds) : "");
    printRow([`${row.what}, ${row.unit}`, ...cells]);
  }
}
