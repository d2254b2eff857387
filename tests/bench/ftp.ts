/**
 * How fast 1 GB goes through ftp_server.ts next to vsftpd, each way, with curl at the other end.
 *
 *     deno run --allow-all tests/bench/ftp.ts
 *
 * Both serve the same folder, one after the other, in rounds; what was stored is removed after each
 * transfer, in the time of neither. What is printed is the median of the rounds, by curl's clock, and
 * of the ratios ours : vsftpd in each, with the smallest and the largest. vsftpd needs root.
 *
 * @module
 */
import { retry } from "@std/async/retry";
import { command, missing, Program, temporaryFolder } from "../helpers.ts";

const ROUNDS = 9;
const SIZE = 1e9;
const USER = "anonymous:secret"; // whom vsftpd lets write, and ours by this password

type Way = "download" | "upload";

/** Starts ours; returns it and its port. */
async function startOurs(root: string): Promise<[Program, number]> {
  const permissions = ["--allow-write", "--allow-env=FTP_PASSWORD"];
  const argv = [...command("ftp_server", permissions), "--port", "0", "--user", "anonymous", root];
  const program = new Program(argv, { env: { FTP_PASSWORD: "secret" } });
  return [program, await program.port()];
}

/** Starts vsftpd, in the foreground, with a configuration of its own; returns it and its port. */
async function startVsftpd(folder: string, root: string): Promise<[Program, number]> {
  await Deno.mkdir(`${folder}/empty`);
  const port = freePort();
  const settings = [
    ...["listen=YES", "listen_ipv6=NO", "listen_address=127.0.0.1", `listen_port=${port}`],
    ...["background=NO", "seccomp_sandbox=NO", `secure_chroot_dir=${folder}/empty`],
    ...["anonymous_enable=YES", "local_enable=NO", `anon_root=${root}`, "write_enable=YES"],
    ...["anon_upload_enable=YES", "anon_other_write_enable=YES", "anon_umask=022"],
    "allow_writeable_chroot=YES",
  ];
  await Deno.writeTextFile(`${folder}/vsftpd.conf`, settings.map((line) => `${line}\n`).join(""));
  const program = new Program(["vsftpd", `${folder}/vsftpd.conf`]);
  const connect = async () => (await Deno.connect({ hostname: "127.0.0.1", port })).close();
  await retry(connect, { minTimeout: 50, maxAttempts: 8 });
  return [program, port];
}

function freePort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

async function curl(...args: string[]): Promise<string> {
  await using program = new Program(["curl", "--silent", "--show-error", "--user", USER, ...args]);
  const { code, stdout, stderr } = await program.ended();
  if (code !== 0) throw new Error(`curl ${args.join(" ")}: ${stderr}`);
  return stdout;
}

/** Octets in a second. */
async function measure(way: Way, port: number, file: string): Promise<number> {
  const url = `ftp://127.0.0.1:${port}`;
  const time = ["--write-out", "%{time_total}"];
  if (way === "download") {
    return SIZE / Number(await curl(...time, "--output", "/dev/null", `${url}/file`));
  }
  const seconds = Number(await curl(...time, "--upload-file", file, `${url}/up/stored`));
  await curl("--output", "/dev/null", "--quote", "DELE up/stored", `${url}/up/`);
  return SIZE / seconds;
}

function median(numbers: number[]): number {
  return numbers.toSorted((a, b) => a - b)[Math.floor(numbers.length / 2)];
}

if (import.meta.main) {
  if (missing("curl", "vsftpd") || Deno.uid() !== 0) {
    console.error("bench: it takes curl, vsftpd and root");
    Deno.exit(1);
  }
  await using folder = await temporaryFolder();
  await using programs = new AsyncDisposableStack();
  const root = `${folder.path}/root`;
  const file = `${root}/file`;
  await Deno.mkdir(`${root}/up`, { recursive: true });
  await Deno.chmod(folder.path, 0o755); // vsftpd is another user when it reads and writes
  await Deno.chmod(`${root}/up`, 0o777);
  await new Program(["sh", "-c", `head -c ${SIZE} /dev/urandom >"$1"`, "sh", file]).ended();
  const [ours, ourPort] = await startOurs(root);
  programs.use(ours);
  const [theirs, theirPort] = await startVsftpd(folder.path, root);
  programs.use(theirs);
  console.log("MB/s       ours     vsftpd   ours : vsftpd");
  for (const way of ["download", "upload"] as const) {
    const rounds: [ours: number, theirs: number][] = [];
    for (let round = 0; round < ROUNDS; round++) {
      rounds.push([await measure(way, ourPort, file), await measure(way, theirPort, file)]);
    }
    const ratios = rounds.map(([ours, theirs]) => ours / theirs);
    const [own, other] = [0, 1].map((i) =>
      (median(rounds.map((rates) => rates[i])) / 1e6).toFixed()
    );
    const [middle, least, most] = [median(ratios), Math.min(...ratios), Math.max(...ratios)]
      .map((ratio) => ratio.toFixed(2));
    console.log(
      `${way.padEnd(10)} ${own.padEnd(8)} ${other.padEnd(8)} ${middle} (${least}-${most})`,
    );
  }
}
