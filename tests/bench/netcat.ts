/**
 * How fast 1 GiB goes through netcat.ts next to OpenBSD's `nc`.
 *
 *     deno run --allow-all tests/bench/netcat.ts
 *
 * Each way is measured with ours and with `nc`, one after the other, in rounds; the other end, if it
 * is not ours as well, is `nc`. The clock runs from the start of the sending program, Deno's own
 * start included, until both have ended. What is printed is the median of the rounds, and of the
 * ratios ours : nc in each, with the smallest and the largest.
 *
 * @module
 */
import { command, missing, Program, temporaryFolder } from "../helpers.ts";

const ROUNDS = 5;
const SIZE = 1024 * 1024 * 1024;

type Side = "ours" | "nc";

/** Which of both programs send and receive when `side` is measured, from what and into what. */
const ROWS = [
  { what: "pipe -> it -> nc", from: "pipe", to: "/dev/null", sender: true, receiver: false },
  { what: "file -> it -> nc", from: "file", to: "/dev/null", sender: true, receiver: false },
  { what: "nc -> it -> /dev/null", from: "pipe", to: "/dev/null", sender: false, receiver: true },
  { what: "nc -> it -> pipe", from: "pipe", to: "pipe", sender: false, receiver: true },
  { what: "pipe -> both ends -> pipe", from: "pipe", to: "pipe", sender: true, receiver: true },
  {
    what: "file -> both ends -> /dev/null",
    from: "file",
    to: "/dev/null",
    sender: true,
    receiver: true,
  },
] as const;

/** A program whose stdin or stdout a shell redirects: "$@" stands for it in `line`. */
function redirected(line: string, argv: string[]): Program {
  return new Program(["sh", "-c", line, "sh", ...argv]);
}

/** Bytes in a second, `side` being at one end or both. */
async function measure(side: Side, row: typeof ROWS[number], file: string): Promise<number> {
  const listen = row.receiver && side === "ours"
    ? [...command("netcat"), "--listen"]
    : ["nc", "-v", "-n", "-l", "127.0.0.1", "0"];
  const into = row.to === "pipe" ? "| cat >/dev/null" : `>${row.to}`;
  await using receiver = redirected(`"$@" </dev/null ${into}`, listen);
  const [, port] = await receiver.until(/istening on \S+[ :](\d+)/, "stderr");
  const connect = row.sender && side === "ours" ? command("netcat") : ["nc", "-N"];
  const send = row.from === "pipe" ? `head -c ${SIZE} /dev/zero | "$@"` : `"$@" <${file}`;
  const began = performance.now();
  await using sender = redirected(send, [...connect, "127.0.0.1", port]);
  for (const { code, stderr } of await Promise.all([sender.ended(), receiver.ended()])) {
    if (code !== 0) throw new Error(`${row.what}, ${side}: ${stderr}`);
  }
  return SIZE / (performance.now() - began) * 1000;
}

function median(numbers: number[]): number {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)];
}

function printRow(...cells: string[]): void {
  console.log(cells.map((cell, i) => cell.padEnd(i === 0 ? 32 : 9)).join(" ").trimEnd());
}

if (import.meta.main) {
  if (missing("nc")) {
    console.error("bench: nc is not installed");
    Deno.exit(1);
  }
  await using folder = await temporaryFolder();
  const file = `${folder.path}/file`;
  await new Program(["sh", "-c", `head -c ${SIZE} /dev/zero >"$1"`, "sh", file]).ended();
  printRow("MB/s", "ours", "nc", "ours : nc");
  for (const row of ROWS) {
    const rates: Record<Side, number[]> = { ours: [], nc: [] };
    for (let round = 0; round < ROUNDS; round++) {
      for (const side of ["ours", "nc"] as const) rates[side].push(await measure(side, row, file));
    }
    const ratios = rates.ours.map((rate, i) => rate / rates.nc[i]);
    const [ours, nc] = [rates.ours, rates.nc].map((rate) => (median(rate) / 1e6).toFixed());
    const [middle, least, most] = [median(ratios), Math.min(...ratios), Math.max(...ratios)]
      .map((ratio) => ratio.toFixed(2));
    printRow(row.what, ours, nc, `${middle} (${least}-${most})`);
  }
}
