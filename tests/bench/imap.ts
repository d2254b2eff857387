/**
 * How long imap_server.ts takes in a Maildir of 10,000 messages, and how much memory.
 *
 *     deno run --allow-all tests/bench/imap.ts
 *
 * The first SELECT gives the messages their UIDs; it is the next ones that a client waits for, in
 * another conversation and after a restart. What is printed is the median of the rounds, with the
 * smallest and the largest. A message has 5 KB. Beside it is Dovecot, if it is installed.
 *
 * @module
 */
import { command, missing, Program, temporaryFolder } from "../helpers.ts";
import { octets } from "../lib/wire.ts";
import { startDovecot } from "../peers/dovecot.ts";
import { memory } from "../peers/peers.ts";
import { Imap } from "../scripts/imap.ts";

const MESSAGES = 10_000;
const ROUNDS = 7;
const PASSWORD = "secret";
const QUESTIONS: [what: string, command: string][] = [
  ["SELECT, known", "SELECT INBOX"],
  ["summary of the last 20", `FETCH ${MESSAGES - 19}:* (UID FLAGS RFC822.SIZE ENVELOPE)`],
  ["UIDs and flags of all", "FETCH 1:* (UID FLAGS)"],
  ["SEARCH UNSEEN", "SEARCH UNSEEN"],
  ["NOOP, nothing new", "NOOP"],
];

function fill(maildir: string): void {
  for (let i = 0; i < MESSAGES; i++) {
    const text = `From: Ann <ann@example.org>\nTo: bob@example.org\nSubject: message ${i}\n` +
      `Date: Mon, 7 Feb 1994 21:52:25 -0800\nMessage-ID: <${i}@example.org>\n\n` +
      `${"x".repeat(70)}\n`.repeat(70);
    const size = `S=${text.length},W=${text.length + text.split("\n").length - 1}`;
    const name = `${1_700_000_000 + i}.M${i}P1R1.localhost,${size}`;
    const file = i < MESSAGES / 2 ? `cur/${name}:2,S` : `new/${name}`;
    Deno.writeFileSync(`${maildir}/${file}`, octets(text));
  }
}

/** Milliseconds until the answer is there. */
async function time(imap: Imap, command: string): Promise<number> {
  const began = performance.now();
  await imap.ok(command);
  return performance.now() - began;
}

function show(what: string, times: number[]): void {
  const sorted = times.toSorted((a, b) => a - b).map((ms) => ms.toFixed(1));
  const [median, least, most] = [sorted[sorted.length >> 1], sorted[0], sorted.at(-1)];
  console.log(`${what.padEnd(26)}${median.padStart(8)} ms  (${least} to ${most})`);
}

async function measure(open: () => Promise<Imap>): Promise<void> {
  {
    using first = await open();
    show("SELECT, the first of all", [await time(first, "SELECT INBOX")]);
  }
  const times = new Map(QUESTIONS.map(([what]) => [what, [] as number[]]));
  for (let round = 0; round < ROUNDS; round++) {
    using imap = await open();
    for (const [what, command] of QUESTIONS) times.get(what)?.push(await time(imap, command));
  }
  for (const [what, all] of times) show(what, all);
}

await using folder = await temporaryFolder();
await Deno.chmod(folder.path, 0o755);
const maildir = `${folder.path}/Maildir`;
for (const name of ["tmp", "new", "cur"]) {
  await Deno.mkdir(`${maildir}/${name}`, { recursive: true });
}
fill(maildir);
const start = () => {
  const argv = [...command("imap_server"), "--port", "0", maildir];
  return new Program(argv, { env: { MAIL_PASSWORD: PASSWORD } });
};

console.log(`imap_server.ts, ${MESSAGES} messages`);
{
  await using server = start();
  const port = await server.port();
  await measure(() => Imap.open(port, PASSWORD));
  console.log(`memory now, at its worst  ${
    ["VmRSS", "VmHWM"].map((figure) => {
      return `${Math.round(memory(server, figure as "VmRSS") / 1024)} MB`;
    }).join(", ")
  }`);
}
const restarted: number[] = [];
for (let round = 0; round < ROUNDS; round++) {
  await using server = start();
  using imap = await Imap.open(await server.port(), PASSWORD);
  restarted.push(await time(imap, "SELECT INBOX"));
}
show("SELECT after a restart", restarted);

if (!missing("dovecot")) {
  console.log(`dovecot, ${MESSAGES} messages`);
  const other = `${folder.path}/other`;
  await Deno.mkdir(other);
  await Deno.chmod(other, 0o755);
  await using dovecot = await startDovecot(other, { user: "mail", password: PASSWORD });
  fill(dovecot.maildir);
  await measure(() => Imap.open(dovecot.imap, PASSWORD));
}
