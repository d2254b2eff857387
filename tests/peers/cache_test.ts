import { assert, assertEquals } from "@std/assert";
import { missing, start } from "../helpers.ts";
import { dial, eventually, hear, memory, output, python, sockets } from "./peers.ts";

const MB = 1024 * 1024;
const PROC = missing() || Deno.build.os !== "linux"; // memory() and sockets() read /proc

Deno.test({
  name: "a Python program uses cache_server as it would memcached",
  ignore: missing("python3"),
  async fn() {
    await using server = start("cache_server", ["--port", "0"]);
    assertEquals(await output(python("cache.py", await server.port())), "done\n");
  },
});

Deno.test({
  name: "rude clients of cache_server cost it little, and nobody else anything",
  ignore: PROC,
  async fn() {
    await using server = start("cache_server", ["--port", "0", "--memory", "128MB"]);
    const port = await server.port();
    using conn = await dial(port);
    const ask = async (request: string) => {
      await conn.writeAll(request);
      return await conn.readLine();
    };
    const large = "x".repeat(MB - 200);
    const keys = Array.from({ length: 90 }, (_, i) => `large-${i}`);
    for (const key of keys) {
      assertEquals(await ask(`set ${key} 0 0 ${large.length}\r\n${large}\r\n`), "STORED");
    }
    const idle = sockets(server);
    const before = memory(server);
    await using stack = new AsyncDisposableStack();

    // Nobody reads what they asked for: 9 GB.
    for (let i = 0; i < 100; i++) {
      const deaf = stack.use(await dial(port));
      await deaf.writeAll(`get ${keys.join(" ")}\r\n`);
    }
    // Some promise data that never comes, or leave in the middle of it.
    for (let i = 0; i < 100; i++) {
      const liar = stack.use(await dial(port));
      await liar.writeAll(`set liar 0 0 ${MB - 200}\r\nhalf`);
      using gone = await dial(port);
      await gone.writeAll(i % 2 ? "get la" : "set gone 0 0 5\r\nab");
    }
    // One sends and sends a line.
    using endless = await dial(port);
    const piece = "x".repeat(MB);
    await (async () => {
      for (let i = 0; i < 200; i++) await endless.writeAll(piece);
    })().catch(() => {}); // the server may have waited long enough for its end
    assertEquals(await hear(endless).catch(() => ""), "");
    await server.until(
      /: line of more than 2048 bytes\n|: line of more than 262144 bytes\n/,
      "stderr",
    );
    // One has something enormous to store, of which 50 MB come.
    using giant = await dial(port);
    await giant.writeAll("set giant 0 0 2147483645\r\n");
    for (let i = 0; i < 50; i++) await giant.writeAll(piece);

    for (let i = 0; i < 100; i++) assertEquals(await ask("get liar gone giant\r\n"), "END");
    const growth = (memory(server, "VmHWM") - before) / 1024;
    assert(growth < 350, `${growth} MiB`); // a value for each that does not read, and some garbage
    await stack.disposeAsync();
    giant.close();
    endless.close();
    await eventually("all have gone", () => sockets(server) === idle);
    assertEquals(await ask("version\r\n"), "VERSION 1.5.3");
  },
});
