import { assert, assertEquals, assertMatch, assertRejects } from "@std/assert";
import { delay } from "@std/async/delay";
import { type AddressInfo, createServer, type Socket } from "node:net";
import { type Endpoint, listen, parseAddress } from "../../lib/address.ts";
import { FramedConn } from "../../lib/framing.ts";
import { serve } from "../../lib/server.ts";
import { Balancer, relay } from "../../scripts/load_balancer.ts";
import { mayConnect, mayRun, missing, pair, type Program, run, start } from "../helpers.ts";
import { temporaryFolder } from "../helpers.ts";
import { ask, dial, eventually, hear } from "../peers/peers.ts";
import { inEachForm, testServer } from "./rig.ts";

/** A balancer over these ports, without anything that serves or checks. */
function balancerOver(ports: number[], leastConnections = false, log: string[] = []): Balancer {
  return new Balancer(ports.map((port) => parseAddress(`:${port}`)), {
    leastConnections,
    log: (line) => log.push(line),
  });
}

/** A balancer that serves in this process, without checks. */
async function balance(
  ...ports: number[]
): Promise<AsyncDisposable & { balancer: Balancer; port: number; log: string[] }> {
  const stop = new AbortController();
  const log: string[] = [];
  const balancer = balancerOver(ports, false, log);
  const listener = await listen({ host: "127.0.0.1", port: 0 });
  const serving = serve(listener, (client) => balancer.converse(client), {
    name: "balancer",
    signal: stop.signal,
    log: (line) => log.push(line.replace(/^balancer: /, "").replace(/^127\.0\.0\.1:\d+: /, "")),
  });
  log.length = 0; // that it listens
  return {
    balancer,
    port: (listener.addr as Deno.NetAddr).port,
    log,
    async [Symbol.asyncDispose]() {
      stop.abort();
      await serving;
    },
  };
}

/** The program over these addresses. */
function startOver(backends: (string | number)[], ...flags: string[]): Program {
  const addresses = backends.flatMap((to) => ["--backend", `${to}`.replace(/^\d+$/, ":$&")]);
  return start("load_balancer", ["--port", "0", ...addresses, ...flags]);
}

/** A backend that answers each line with its name and the line. */
function named(name: string): ReturnType<typeof testServer> {
  return testServer(async (conn) => {
    for (let line; (line = await conn.readLine()) !== null;) {
      await conn.writeLine(`${name} ${line}`);
    }
  });
}

/** A backend that answers when it has heard the end, with what it has heard. */
function patient(heard: string[] = []): ReturnType<typeof testServer> {
  return testServer(async (conn) => {
    const text = await hear(conn);
    if (text === "") return; // a check
    heard.push(text);
    await conn.writeAll(`heard ${text}`);
  });
}

/** A backend that does to each connection as told; only Node's sockets can reset one. */
async function rude(
  behave: (socket: Socket) => void,
): Promise<AsyncDisposable & { port: number }> {
  const open = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    open.add(socket);
    socket.on("error", () => {});
    behave(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    port: (server.address() as AddressInfo).port,
    async [Symbol.asyncDispose]() {
      for (const socket of open) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

/** A port that nobody listens on. */
function closedPort(): number {
  using listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
  return listener.addr.port;
}

/** One line to a server and the line it answers, over a connection of their own. */
async function say(port: number, line: string): Promise<string | null> {
  using conn = await dial(port);
  await conn.writeLine(line);
  return await conn.readLine();
}

Deno.test("pick: in turn, those that are down last, none twice", () => {
  const balancer = balancerOver([1, 2, 3]);
  const [a, b, c] = balancer.backends;
  assertEquals(Array.from({ length: 5 }, () => balancer.pick()), [a, b, c, a, b]);
  a.up = false;
  assertEquals(Array.from({ length: 4 }, () => balancer.pick()), [c, b, c, b]);
  assertEquals(balancer.pick([b, c]), a, "better than none");
  assertEquals(balancer.pick([a, b, c]), undefined);
  b.up = c.up = false;
  const tried: typeof balancer.backends = [];
  for (let one; (one = balancer.pick(tried)) && tried.length < 9;) tried.push(one);
  assertEquals(new Set(tried), new Set([a, b, c]));
  assertEquals(tried.length, 3);
});

Deno.test("pick: with leastConnections the one with the fewest, equals in turn", () => {
  const balancer = balancerOver([1, 2, 3], true);
  const [a, b, c] = balancer.backends;
  assertEquals(Array.from({ length: 4 }, () => balancer.pick()), [a, b, c, a]);
  [a.open, b.open, c.open] = [2, 1, 1];
  assertEquals(Array.from({ length: 3 }, () => balancer.pick()), [b, c, b]);
  c.open = 0;
  c.up = false;
  assertEquals(balancer.pick(), b, "not that none open means down");
});

Deno.test({
  name: "connections go to three backends in turn, or to the one with the fewest",
  ignore: !mayRun,
  async fn() {
    await using a = named("a");
    await using b = named("b");
    await using c = named("c");
    const ports = [a.port, b.port, c.port];
    await using inTurn = startOver(ports);
    const port = await inTurn.port();
    const answers: (string | null)[] = [];
    for (const line of ["1", "2", "3", "4", "5", "6"]) answers.push(await say(port, line));
    assertEquals(answers, ["a 1", "b 2", "c 3", "a 4", "b 5", "c 6"]);

    await using fewest = startOver(ports, "--least-connections");
    const held: FramedConn[] = [];
    const next = async (line: string) => {
      const conn = await dial(await fewest.port());
      held.push(conn);
      await conn.writeLine(line);
      return await conn.readLine();
    };
    assertEquals([await next("1"), await next("2"), await next("3")], ["a 1", "b 2", "c 3"]);
    held[1].close();
    await eventually("b has none", async () => {
      fewest.signal("SIGUSR2");
      await fewest.until(/backends: [^\n]*\n/, "stderr");
      return new RegExp(`:${b.port} up 0 open`).test(fewest.stderr);
    });
    assertEquals([await next("4"), await next("5")], ["b 4", "c 5"]);
    for (const conn of held) conn.close();
  },
});

Deno.test({
  name: "octets arrive as they were sent, both ways at once, in each form and from a Unix backend",
  ignore: missing("openssl"),
  async fn() {
    await using folder = await temporaryFolder();
    const path = `${folder.path}/backend`;
    const listener = Deno.listen({ transport: "unix", path });
    const echoing = (async () => {
      for await (const conn of listener) conn.readable.pipeTo(conn.writable).catch(() => {});
    })();
    const sent = new Uint8Array(3 * 1024 * 1024 + 1);
    for (let i = 0; i < sent.length; i += 65536) {
      crypto.getRandomValues(sent.subarray(i, i + 65536));
    }
    const forms = inEachForm("load_balancer", folder.path, ["--backend", `unix:${path}`]);
    for await (const { form, ask } of forms) {
      const flags = Object.fromEntries(
        ask.join(" ").split(/ ?--/).slice(1).map((flag) => flag.split(" ")),
      );
      const to: Partial<Endpoint> = { ...flags, tls: "tls" in flags, port: Number(flags.port) };
      using conn = await dial(form === "TLS" ? { ...to, host: "localhost" } : to);
      const send = async () => {
        for (let at = 0, size = 1; at < sent.length; at += size, size = size * 3 % 200_003) {
          await conn.writeAll(sent.subarray(at, at + size));
        }
        await conn.conn.closeWrite();
      };
      const [got] = await Promise.all([conn.readToEnd(sent.length), send()]);
      assertEquals(got.length, sent.length, form);
      assert(got.every((octet, i) => octet === sent[i]), form);
    }
    listener.close();
    await echoing;
  },
});

Deno.test({
  name: "the end of each direction is passed on, and the other goes on",
  ignore: !mayConnect,
  async fn() {
    await using atEnd = patient();
    {
      await using rig = await balance(atEnd.port);
      using conn = await dial(rig.port);
      await conn.writeAll("question");
      await conn.conn.closeWrite();
      assertEquals(await hear(conn), "heard question");
      assertEquals(rig.log, []);
    }
    const heard = Promise.withResolvers<string>();
    await using first = testServer(async (conn) => {
      await conn.writeAll("that is all");
      await conn.conn.closeWrite();
      heard.resolve(await hear(conn));
    });
    await using rig = await balance(first.port);
    using conn = await dial(rig.port);
    assertEquals(await hear(conn), "that is all");
    await conn.writeAll("I have ");
    await conn.writeAll("more to say");
    await conn.conn.closeWrite();
    assertEquals(await heard.promise, "I have more to say");
    await eventually("it is over", () => rig.balancer.backends[0].open === 0);
    const { bytesSent, bytesReceived, total, failures } = rig.balancer.backends[0];
    assertEquals([bytesSent, bytesReceived, total, failures], [18, 11, 1, 0]);
    assertEquals(rig.log, []);
  },
});

Deno.test({
  name: "a backend that refuses is passed over and marked; the client does not notice",
  ignore: !mayConnect,
  async fn() {
    await using b = named("b");
    const closed = closedPort();
    await using rig = await balance(closed, b.port);
    assertEquals(await say(rig.port, "1"), "b 1");
    assertEquals(await say(rig.port, "2"), "b 2");
    assertEquals(await say(rig.port, "3"), "b 3");
    assertEquals(rig.log, [`down: 127.0.0.1:${closed}: connection refused`]);
    assertEquals(rig.balancer.backends.map(({ up, total, failures }) => [up, total, failures]), [
      [false, 0, 1],
      [true, 3, 0],
    ]);
  },
});

Deno.test({
  name: "when all refuse, each is tried, also those marked down, and the client is closed",
  ignore: !mayConnect,
  async fn() {
    const [one, two] = [closedPort(), closedPort()];
    await using rig = await balance(one, two);
    assertEquals(await ask(rig.port, "anybody?"), "");
    await eventually("it is logged", () => rig.log.length === 3);
    assertEquals(rig.log, [
      `down: 127.0.0.1:${one}: connection refused`,
      `down: 127.0.0.1:${two}: connection refused`,
      `no backend is left: 127.0.0.1:${two}: connection refused`,
    ]);
    assertEquals(await ask(rig.port), "");
    await eventually("it is logged", () => rig.log.length === 4);
    assertMatch(rig.log[3], /^no backend is left: 127\.0\.0\.1:\d+: connection refused$/);
    assertEquals(rig.balancer.backends.map(({ failures }) => failures), [2, 2]);

    // And one that is back is found, before any check.
    const listener = Deno.listen({ hostname: "127.0.0.1", port: one });
    const answering = ask(rig.port);
    (await listener.accept()).close();
    listener.close();
    assertEquals(await answering, "");
    assertEquals(rig.log.slice(4), [`up: 127.0.0.1:${one}`]);
  },
});

Deno.test({
  name: "a connection that a stopped backend never accepted moves to the next, whole",
  ignore: !mayConnect,
  async fn() {
    const heard: string[] = [];
    await using next = patient(heard);
    for (const when of ["at once", "after the question", "after its end"]) {
      const listener = Deno.listen({ hostname: "127.0.0.1", port: 0 });
      await using rig = await balance(listener.addr.port, next.port);
      const [{ address }] = rig.balancer.backends;
      using conn = await dial(rig.port);
      await eventually("it is connected", () => rig.balancer.backends[0].total === 1);
      if (when === "at once") listener.close();
      await conn.writeAll("one, ");
      await conn.writeAll("two, ");
      if (when === "after the question") {
        await delay(20); // so that it is in the backlog; the test holds without
        listener.close();
        await eventually("it has moved", () => rig.balancer.backends[1].total === 1);
      }
      await conn.writeAll("three");
      await conn.conn.closeWrite();
      if (when === "after its end") {
        await delay(20);
        listener.close();
      }
      assertEquals(await hear(conn), "heard one, two, three", when);
      assertEquals(heard.splice(0), ["one, two, three"], when);
      await eventually("it is over", () => rig.balancer.backends[1].open === 0);
      assertEquals(rig.balancer.backends[0].failures, 1, address);
      assertEquals(rig.log, [], when);
    }
  },
});

Deno.test({
  name: "relay: a reset that the first write meets is one, although the next read finds an end",
  ignore: !mayConnect,
  async fn() {
    let accepted = Promise.withResolvers<Socket>();
    await using resetting = await rude((socket) => accepted.resolve(socket));
    for (let i = 0; i < 20; i++) {
      const { near, far } = await pair();
      const server = await dial(resetting.port);
      (await accepted.promise).resetAndDestroy();
      accepted = Promise.withResolvers();
      const said = { octets: new TextEncoder().encode("question") };
      await assertRejects(() => relay(near, server, said), Error, `:${resetting.port}: `);
      await near.writeAll("still here"); // so nothing has ended for the client
      near.close();
      assertEquals(await hear(new FramedConn(far)), "still here");
      far.close();
    }
  },
});

Deno.test({
  name: "an answer in small pieces does not wait for the client to acknowledge each",
  ignore: !mayConnect,
  async fn() {
    await using pieces = testServer(async (conn) => {
      (conn.conn as Deno.TcpConn).setNoDelay();
      while (await conn.readLine() !== null) {
        for (const piece of ["a", "b", "c\n"]) await conn.writeAll(piece).then(() => delay(1));
      }
    });
    await using rig = await balance(pieces.port);
    using conn = await dial(rig.port);
    const times: number[] = [];
    for (let i = 0; i < 20; i++) {
      const began = performance.now();
      await conn.writeLine("go");
      assertEquals(await conn.readLine(), "abc");
      times.push(performance.now() - began);
    }
    // Waited for, each would take the 40 ms after which a client acknowledges by itself.
    assert(Math.min(...times.slice(5)) < 30, `${times}`);
  },
});

Deno.test({
  name: "a reset after part of an answer is not a reason to ask another; the client gets the part",
  ignore: !mayConnect,
  async fn() {
    const heard: string[] = [];
    await using next = patient(heard);
    await using breaking = await rude((socket) => {
      socket.once("data", () => socket.write("part", () => setTimeout(reset, 50, socket)));
    });
    const reset = (socket: Socket) => socket.resetAndDestroy();
    await using rig = await balance(breaking.port, next.port);
    using conn = await dial(rig.port);
    await conn.writeAll("question");
    assertEquals(await hear(conn), "part");
    await eventually("it is logged", () => rig.log.length > 0);
    assertEquals(rig.log, [`127.0.0.1:${breaking.port}: connection reset by peer`]);
    assertEquals(heard, []);
    assert(rig.balancer.backends[0].up);
  },
});

Deno.test({
  name: "one that says an answer and leaves the question unread still gets its answer through",
  ignore: !mayConnect,
  async fn() {
    // Closed with octets unread, Linux resets: the answer arrives and then the reset.
    await using curt = testServer((conn) => conn.writeAll("too long"));
    await using rig = await balance(curt.port);
    for (let i = 0; i < 20; i++) {
      using conn = await dial(rig.port);
      await conn.writeAll(new Uint8Array(100_000)).catch(() => {});
      assertEquals(await hear(conn), "too long");
    }
  },
});

Deno.test({
  name: "an answer arrives whole, though the backend has reset and the client talks on",
  ignore: !mayRun,
  async fn() {
    const answer = "x".repeat(50_000);
    const asked = Promise.withResolvers<Socket>();
    await using breaking = await rude((socket) => socket.once("data", () => asked.resolve(socket)));
    await using program = startOver([breaking.port]);
    using conn = await dial(await program.port());
    await conn.writeAll("one ");
    const socket = await asked.promise;
    program.signal("SIGSTOP"); // so that all of this is there when it looks
    await conn.writeAll("two");
    await new Promise((resolve) => socket.write(answer, resolve));
    socket.resetAndDestroy();
    program.signal("SIGCONT");
    assertEquals((await hear(conn)).length, answer.length);
  },
});

Deno.test({
  name: "an orderly end without a word is passed on, and not moved",
  ignore: !mayConnect,
  async fn() {
    const heard: string[] = [];
    await using next = patient(heard);
    await using polite = testServer(async (conn) => void await conn.readLine());
    await using rig = await balance(polite.port, next.port);
    assertEquals(await ask(rig.port, "question\n"), "");
    assertEquals([heard, rig.log], [[], []]);
  },
});

Deno.test({
  name: "after 64 KiB without an answer a conversation is not moved any more",
  ignore: !mayConnect,
  async fn() {
    for (const [size, moved] of [[65536, true], [65537, false]] as const) {
      const heard: string[] = [];
      await using next = patient(heard);
      await using resetting = await rude((socket) => {
        let got = 0;
        socket.on("data", (data) => (got += data.length) >= size && socket.resetAndDestroy());
      });
      await using rig = await balance(resetting.port, next.port);
      using conn = await dial(rig.port);
      await conn.writeAll("x".repeat(size));
      await conn.conn.closeWrite();
      assertEquals((await hear(conn)).length, moved ? "heard ".length + size : 0);
      assertEquals(heard.map((text) => text.length), moved ? [size] : []);
      if (moved) assertEquals(rig.log, []);
      else await eventually("it is logged", () => /connection reset by peer$/.test(rig.log[0]));
    }
  },
});

Deno.test({
  name: "a client that all backends reset is closed after each was tried once",
  ignore: !mayConnect,
  async fn() {
    let resets = 0;
    const reset = (socket: Socket) => {
      resets++;
      socket.resetAndDestroy();
    };
    await using one = await rude(reset);
    await using two = await rude(reset);
    await using rig = await balance(one.port, two.port);
    assertEquals(await ask(rig.port, "question"), "");
    await eventually("it is logged", () => rig.log.some((line) => /^no backend/.test(line)));
    assertEquals(resets, 2);
  },
});

Deno.test({
  name: "a client that resets ends its conversation, also with the backend, and no other",
  ignore: !mayConnect,
  async fn() {
    let open = 0;
    await using backend = testServer(async (conn) => {
      open++;
      await hear(conn).finally(() => open--);
    });
    await using rig = await balance(backend.port);
    using other = await dial(rig.port);
    await other.writeAll("still here");
    await eventually("it is served", () => open === 1);
    const { Socket } = await import("node:net");
    const socket = new Socket().on("error", () => {});
    await new Promise<void>((resolve) => socket.connect(rig.port, "127.0.0.1", resolve));
    await new Promise((resolve) => socket.write("half a quest", resolve));
    await eventually("both are served", () => open === 2);
    socket.resetAndDestroy();
    await eventually("the backend knows", () => open === 1);
    await eventually("it is logged", () => rig.log.length > 0);
    assertEquals(rig.log, ["connection reset by peer"]);
    assertEquals(rig.balancer.backends[0].failures, 0, "not the backend's fault");
  },
});

Deno.test({
  name: "checks: after 1 s, 2 s, 4 s and so on to 30 s while down; news are said once",
  ignore: !mayConnect,
  async fn() {
    const log: string[] = [];
    const port = closedPort();
    const balancer = balancerOver([port], false, log);
    const [backend] = balancer.backends;
    const stop = new AbortController();
    const watching = balancer.watch(stop.signal);
    /** Waits for the next check, which is due now, and goes with the wait until the one after. */
    const checked = async () => {
      backend.due = 0;
      await eventually("it is checked", () => backend.due > 0);
      return [backend.wait, Math.round((backend.due - performance.now()) / 1000) * 1000];
    };
    const waits: number[][] = [];
    for (let i = 0; i < 8; i++) waits.push(await checked());
    assertEquals(
      waits,
      [1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000].map((wait) => [wait, wait]),
    );
    assertEquals(log, [`down: 127.0.0.1:${port}: connection refused`]);

    const listener = Deno.listen({ hostname: "127.0.0.1", port });
    const accepted = listener.accept();
    assertEquals(await checked(), [2000, 2000]);
    assertEquals(await (await accepted).read(new Uint8Array(1)), null, "a check says nothing");
    (await accepted).close();
    assert(backend.up);
    listener.close();
    assertEquals(await checked(), [1000, 1000], "from the start again");
    assertEquals(log.slice(1), [
      `up: 127.0.0.1:${port}`,
      `down: 127.0.0.1:${port}: connection refused`,
    ]);
    stop.abort();
    await watching;
  },
});

/** Answers a connection with `text` at this port, as long as it is not disposed of. */
function listenAt(port: number, text: string): AsyncDisposable {
  const listener = Deno.listen({ hostname: "127.0.0.1", port });
  const answering = (async () => {
    for await (const conn of listener) {
      await conn.write(new TextEncoder().encode(text)).catch(() => {});
      conn.close();
    }
  })();
  return {
    async [Symbol.asyncDispose]() {
      listener.close();
      await answering;
    },
  };
}

Deno.test({
  name: "without a client, a backend that stops is known soon, and when it is back",
  ignore: !mayRun,
  async fn() {
    await using stays = named("stays");
    const port = closedPort();
    const up = new RegExp(`^load_balancer: up: 127\\.0\\.0\\.1:${port}$`, "m");
    const down = new RegExp(
      `^load_balancer: down: 127\\.0\\.0\\.1:${port}: connection refused$`,
      "m",
    );
    await using program = startOver([port, stays.port]);
    await program.until(down, "stderr");
    {
      await using _ = listenAt(port, "back\n");
      await program.until(up, "stderr");
      const balanced = await program.port();
      assertEquals(new Set([await say(balanced, "1"), await say(balanced, "2")]).has("back"), true);
      program.stderr = program.stderr.replace(/^.*(down|up): .*\n/gm, "");
    }
    await program.until(down, "stderr");
    assertEquals(program.stderr.match(/down: /g)?.length, 1);
    assertEquals(await say(await program.port(), "1"), "stays 1");
  },
});

Deno.test({
  name: "SIGUSR1 and SIGUSR2: a line of how the backends do",
  ignore: !mayRun,
  async fn() {
    await using a = named("a");
    const closed = closedPort();
    await using program = startOver([a.port, closed]);
    const port = await program.port();
    await program.until(/down: /, "stderr");
    using held = await dial(port);
    await held.writeLine("1");
    assertEquals(await held.readLine(), "a 1");
    assertEquals(await say(port, "2"), "a 2");
    for (const signal of ["SIGUSR2", "SIGUSR1"] as const) {
      await eventually("one is left", async () => {
        program.stderr = "";
        program.signal(signal);
        const line =
          `127.0.0.1:${a.port} up 1 open 2 total, 127.0.0.1:${closed} down 0 open 0 total`;
        const [said] = await program.until(/^load_balancer: \d backends: .*\n/m, "stderr");
        return said === `load_balancer: 2 backends: ${line}\n`;
      });
    }
  },
});

Deno.test({
  name: "--status: a page and JSON of how the backends do, to whom --allow-from allows",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    await using a = named("a");
    const path = `${folder.path}/<b>&"`;
    await using program = startOver([a.port, `unix:${path}`], "--status", "0");
    const [, port, status] = (await program.until(
      /^load_balancer: listening on 127\.0\.0\.1:(\d+)\nload_balancer: status: listening on (\S+)\n/,
      "stderr",
    )).map(String);
    assertEquals(await say(Number(port), "1234"), "a 1234");
    const get = async (path: string) => {
      const response = await fetch(`http://${status}${path}`);
      return { response, text: await response.text() };
    };
    await eventually(
      "it has ended",
      async () => /"bytesSent":6,/.test((await get("/status.json")).text),
    );
    const { response, text } = await get("/status.json");
    assertMatch(response.headers.get("content-type") ?? "", /^application\/json/);
    const numbers = { open: 0, total: 1, failures: 0, bytesSent: 6, bytesReceived: 8 };
    const { backends } = JSON.parse(text);
    assertEquals(backends[0], { address: `127.0.0.1:${a.port}`, up: true, ...numbers });
    assertEquals([backends.length, backends[1].address, backends[1].up], [
      2,
      `unix:${path}`,
      false,
    ]);

    const page = await get("/");
    assertEquals(page.response.headers.get("content-type"), "text/html; charset=utf-8");
    assert(
      page.text.includes(`<th>127.0.0.1:${a.port}<td>up<td>0<td>1<td>0<td>6 B<td>8 B`),
      page.text,
    );
    assert(page.text.includes("/&lt;b&gt;&amp;&quot;<td><strong>down</strong>"), page.text);
    assert(!/<b>|<script/.test(page.text));
    assertEquals((await get("/else")).response.status, 404);

    await using shut = startOver([a.port], "--status", "0", "--allow-from", "10.0.0.0/8");
    const [, closed] = await shut.until(/status: listening on (\S+)\n/, "stderr");
    const refused = await fetch(`http://${closed}/`);
    await refused.body?.cancel();
    assertEquals(refused.status, 403);
  },
});

Deno.test({
  name: "SIGTERM: no more are accepted, an open conversation ends whole, exit 0; a second at once",
  ignore: !mayRun,
  async fn() {
    await using a = named("a");
    for (const whole of [true, false]) {
      await using program = startOver([a.port], "--status", "0");
      const port = await program.port();
      await program.until(/status: listening/, "stderr");
      using conn = await dial(port);
      await conn.writeLine("1");
      assertEquals(await conn.readLine(), "a 1");
      program.signal("SIGTERM");
      await program.until(/stopping, 5 s for open connections \(1\)/, "stderr");
      await eventually(
        "it is refused",
        () => dial(port).then((other) => (other.close(), false), () => true),
      );
      await conn.writeLine("2");
      assertEquals(await conn.readLine(), "a 2");
      if (whole) conn.close();
      else program.signal("SIGTERM");
      assertEquals((await program.ended()).code, whole ? 0 : 130);
    }
  },
});

Deno.test({
  name: "--idle-timeout ends a conversation silent both ways, not one in which one side talks",
  ignore: !mayRun,
  async fn() {
    await using talking = testServer(async (conn) => {
      for (let i = 0; i < 12; i++) {
        await conn.writeAll("tick ");
        await delay(100);
      }
      await hear(conn);
    });
    await using program = startOver([talking.port], "--idle-timeout", "0.6");
    using conn = await dial(await program.port());
    assertEquals(await hear(conn), "tick ".repeat(12));
    await program.until(/: closed, silent for 0\.6 s\n/, "stderr");
  },
});

Deno.test({
  name: "a wrong command line and a port in use are said in one line",
  ignore: !mayRun,
  async fn() {
    const taken = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const port = `${taken.addr.port}`;
    const given = ["--port", "0", "--backend", ":1"];
    const own = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const itself = `127.0.0.1:${own.addr.port}`;
    own.close();
    for (
      const [args, code, says] of [
        [[], 2, "--backend ADDR is missing (--help tells more)"],
        [["--backend", "x"], 2, /^--backend: x is not an address .*/],
        [[...given, "--backend", ":70000"], 2, /^--backend: :70000 is not an address .*/],
        [[...given, "--status", "x"], 2, /^--status: x is not a whole number .*/],
        [
          ["--port", itself.slice(10), "--backend", itself],
          2,
          `--backend: ${itself} is the balancer itself (--help tells more)`,
        ],
        [[...given, "--port", port], 1, `127.0.0.1:${port}: address already in use`],
        [[...given, "--status", port], 1, `127.0.0.1:${port}: address already in use`],
      ] as const
    ) {
      const result = await run("load_balancer", [...args]);
      const [line] = result.stderr.trimEnd().split("\n").slice(-1);
      assertMatch(line, /^load_balancer: /);
      const text = line.replace("load_balancer: ", "");
      if (typeof says === "string") assertEquals(text, says);
      else assertMatch(text, says);
      assertEquals([result.code, result.stdout], [code, ""], args.join(" "));
    }
    taken.close();
  },
});
