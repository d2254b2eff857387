import { assert, assertEquals, assertMatch } from "@std/assert";
import { delay } from "@std/async/delay";
import { FramedConn } from "../../lib/framing.ts";
import { getStuck } from "../../scripts/deadlock.ts";
import { mayConnect, mayRun, pair, run, start } from "../helpers.ts";
import { eventually } from "../peers/peers.ts";

const MIB = 1024 * 1024;
const END = /^127\.0\.0\.1:\d+: wrote (\d+) of (\d+) octets, read (\d+)$/gm;

/** What the program says of its two ends: written, to write, read. */
function ends(stdout: string): number[][] {
  return [...stdout.matchAll(END)].map((match) => match.slice(1).map(Number));
}

Deno.test({
  name: "deadlock gets stuck, says where each end stands and why, and ends by itself",
  ignore: !mayRun,
  async fn() {
    const began = performance.now();
    const { code, stdout, stderr } = await run("deadlock");
    assert(performance.now() - began < 10_000, "within a few seconds");
    assertEquals([code, stderr], [0, ""]);
    assertMatch(stdout, /^Deadlock: .*buffers.*--fixed/ms);
    const [[near, , nearRead], [far, bytes, farRead]] = ends(stdout);
    assertEquals([bytes, nearRead, farRead], [64 * MIB, 0, 0]);
    for (const written of [near, far]) assert(0 < written && written < bytes, `${written}`);
    assertMatch(stdout, new RegExp(`\\b${near + far} octets lie in`));
  },
});

Deno.test({
  name: "deadlock goes through where the buffers hold all, and says that this is the trap",
  ignore: !mayRun,
  async fn() {
    for (const bytes of [1, 1000, 65536]) {
      const { code, stdout, stderr } = await run("deadlock", ["--bytes", `${bytes}`]);
      assertEquals([code, stderr], [0, ""]);
      assertEquals(ends(stdout), [[bytes, bytes, bytes], [bytes, bytes, bytes]]);
      assertMatch(stdout, /^No deadlock, this time: .*trap/ms);
    }
  },
});

Deno.test({
  name: "deadlock --fixed brings over as much as gets stuck without, and more",
  ignore: !mayRun,
  async fn() {
    for (const bytes of [1, 64 * MIB, 100_000_001]) {
      const { code, stdout, stderr } = await run("deadlock", ["--fixed", "--bytes", `${bytes}`]);
      assertEquals([code, stderr], [0, ""]);
      assertEquals(ends(stdout), [[bytes, bytes, bytes], [bytes, bytes, bytes]]);
      assertMatch(stdout, /^No deadlock: each end read while it wrote/m);
    }
  },
});

Deno.test({
  name: "two ends are closed after they talked, stuck or not",
  ignore: !mayConnect,
  async fn() {
    for (const fixed of [false, true]) {
      const { near, far } = await pair();
      const two = [near, new FramedConn(far)];
      assertEquals(await getStuck(two, 64 * MIB, fixed), !fixed);
      for (const { conn } of two) {
        const closed = await conn.write(new Uint8Array(1)).then(() => false, () => true);
        assert(closed);
      }
    }
  },
});

Deno.test({
  name: "two ends that are slow are not stuck",
  ignore: !mayConnect,
  async fn() {
    const { near, far } = await pair();
    const write = far.write.bind(far);
    far.write = async (data) => {
      await delay(300);
      return await write(data.subarray(0, 1000));
    };
    assertEquals(await getStuck([near, new FramedConn(far)], 6000, false), false);
  },
});

/** How many ends of TCP connections a process has. */
function connected(pid: number): number {
  const open = [...Deno.readDirSync(`/proc/${pid}/fd`)].flatMap(({ name }) => {
    try {
      return /^socket:\[(\d+)\]$/.exec(Deno.readLinkSync(`/proc/${pid}/fd/${name}`))?.[1] ?? [];
    } catch {
      return []; // closed meanwhile
    }
  });
  const established = Deno.readTextFileSync("/proc/net/tcp").split("\n")
    .map((line) => line.trim().split(/\s+/)).filter((fields) => fields[3] === "01");
  return established.filter((fields) => open.includes(fields[9])).length;
}

Deno.test({
  name: "Ctrl-C ends deadlock",
  ignore: !mayRun,
  async fn() {
    await using program = start("deadlock", ["--fixed", "--bytes", "1000000000000"]); // hours
    await eventually("both ends are connected", () => connected(program.pid) === 2);
    program.signal("SIGINT");
    const { code, stdout } = await program.ended();
    assertEquals([code, stdout], [130, ""]);
  },
});
