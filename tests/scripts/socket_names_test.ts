import { assert, assertEquals } from "@std/assert";
import { connectionNames, datagramNames, peerNames } from "../../scripts/socket_names.ts";
import { mayConnect, mayRun, missing, Program, run, start, temporaryFolder } from "../helpers.ts";
import { FILES, testServer } from "./rig.ts";

/** The names in what was laid out: of each socket those that its calls returned. */
function names(lines: string[]): Record<string, string>[] {
  const sockets: Record<string, string>[] = [];
  for (const line of lines) {
    const [, call, name] = /^ {2}(\w+)\(\) +(\S+)$/.exec(line) ?? [];
    if (call === "getsockname") sockets.push({});
    if (call) sockets[sockets.length - 1][call] = name;
  }
  return sockets;
}

Deno.test({
  name: "connectionNames: the ends mirror each other, and the server's shares the listener's port",
  ignore: !mayConnect,
  async fn() {
    for (const host of ["127.0.0.1", "::1", "localhost"]) {
      const lines = await connectionNames({ host, port: 0 });
      const [listener, client, server] = names(lines);
      const shown = host === "::1" ? "\\[::1\\]" : "(127\\.0\\.0\\.1|\\[::1\\])";
      for (const { getsockname } of [listener, client]) {
        assert(new RegExp(`^${shown}:[1-9]\\d*$`).test(getsockname), getsockname);
      }
      assertEquals(listener.getpeername, "none");
      assertEquals(server.getsockname, listener.getsockname);
      assertEquals(client.getpeername, listener.getsockname);
      assertEquals(server.getpeername, client.getsockname);
      assert(client.getsockname !== server.getsockname);
      assert(lines.some((line) => line.includes("bind() was told 0")));
    }
    // A port that was asked for is not said to be chosen.
    const free = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = free.addr;
    free.close();
    const lines = await connectionNames({ host: "127.0.0.1", port });
    assertEquals(names(lines)[0].getsockname, `127.0.0.1:${port}`);
    assert(!lines.some((line) => line.includes("bind() was told 0")));
  },
});

Deno.test({
  name:
    "connectionNames: of a listener on every address, the server's end has the one that was used",
  ignore: !mayConnect,
  async fn() {
    for (const [any, one] of [["0.0.0.0", "127.0.0.1"], ["::", "[::1]"]]) {
      const [listener, client, server] = names(await connectionNames({ host: any, port: 0 }));
      const port = listener.getsockname.split(":").at(-1);
      assertEquals(listener.getsockname, `${any === "::" ? "[::]" : any}:${port}`);
      assertEquals([server.getsockname, client.getpeername], Array(2).fill(`${one}:${port}`));
      assertEquals(server.getpeername, client.getsockname);
    }
  },
});

Deno.test({
  name: "datagramNames: the sender comes with the datagram",
  ignore: !mayConnect,
  async fn() {
    for (const [host, shown] of [["127.0.0.1", "127.0.0.1"], ["::1", "[::1]"]]) {
      const [socket] = names(await datagramNames(host));
      const port = socket.getsockname.split(":").at(-1);
      const sender = socket.recvfrom.split(":").at(-1);
      assert(port !== sender && Number(sender) > 0);
      assertEquals(socket, {
        getsockname: `${shown}:${port}`,
        getpeername: "none",
        sendto: `${shown}:${port}`,
        recvfrom: `${shown}:${sender}`,
      });
    }
  },
});

/** What Python's own calls return at the other end. */
const ACCEPTOR = `
import socket, sys
family, host = (socket.AF_INET6, "::1") if sys.argv[1] == "::1" else (socket.AF_INET, "127.0.0.1")
listener = socket.create_server((host, 0), family=family)
print("listening on :%d" % listener.getsockname()[1], file=sys.stderr)
conn, address = listener.accept()
assert conn.getpeername() == address
for host, port in (conn.getsockname()[:2], conn.getpeername()[:2]):
    print(("[%s]:%d" if ":" in host else "%s:%d") % (host, port))
`;

Deno.test({
  name: "socket_names HOST PORT says what Python finds at the other end",
  ignore: missing("python3"),
  async fn() {
    for (const host of ["127.0.0.1", "::1", "localhost"]) {
      await using python = new Program(["python3", "-c", ACCEPTOR, host]);
      const port = await python.port();
      const { code, stdout, stderr } = await run("socket_names", [host, `${port}`]);
      assertEquals([code, stderr], [0, ""]);
      const [here, there] = names(stdout.split("\n"));
      const [own, peer] = (await python.ended()).stdout.split("\n");
      assertEquals(there, { getsockname: own, getpeername: peer });
      assertEquals(here, { getsockname: peer, getpeername: own });
    }
  },
});

Deno.test({
  name: "socket_names lays out its own sockets: IPv4, IPv6, Unix",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const path = `${folder.path}/socket`;
    for (
      const [args, count] of [[[], 4], [["--host", "::1"], 4], [["--unix", path], 3]] as const
    ) {
      const { code, stdout, stderr } = await run("socket_names", [...args], { permissions: FILES });
      assertEquals([code, stderr], [0, ""]);
      const sockets = names(stdout.split("\n"));
      assertEquals(sockets.length, count);
      assert(stdout.split("\n").every((line) => line.length < 100), stdout);
      if (count === 4) continue;
      const [file, unnamed] = [`unix:${path}`, "unix:(unnamed)"];
      assertEquals(sockets, [
        { getsockname: file, getpeername: "none" },
        { getsockname: unnamed, getpeername: file },
        { getsockname: file, getpeername: unnamed },
      ]);
      assertEquals([...Deno.readDirSync(folder.path)], [], "the socket's file is gone");
    }
  },
});

Deno.test({
  name: "socket_names connects to any server, and says what is wrong",
  ignore: !mayRun,
  async fn() {
    await using daytime = start("daytime_server", ["--port", "0"]);
    const port = await daytime.port();
    const [here] = names(await peerNames({ host: "127.0.0.1", port }));
    assertEquals(here.getpeername, `127.0.0.1:${port}`);
    await using rude = testServer(() => {}); // it hangs up at once
    assertEquals((await run("socket_names", ["127.0.0.1", `${rude.port}`])).code, 0);

    const closed = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const nobody = `${closed.addr.port}`;
    closed.close();
    const noName = "n".repeat(64); // as a label one octet too long: no name server is asked
    for (
      const [args, code, says] of [
        [["127.0.0.1", nobody], 1, `127.0.0.1:${nobody}: connection refused`],
        [[noName, "80"], 1, `${noName}:80: unknown host`],
        [["--port", `${port}`], 1, `127.0.0.1:${port}: address already in use`],
        [["127.0.0.1"], 2, "HOST and PORT go together, as in 127.0.0.1 8013 (--help tells more)"],
        [["127.0.0.1", "0"], 2, "0 is not a whole number from 1 to 65535 (--help tells more)"],
        [["--unix", "x", "127.0.0.1", "80"], 2, "--unix does not go with HOST and PORT (--help"],
      ] as const
    ) {
      const result = await run("socket_names", [...args]);
      assertEquals([result.code, result.stdout], [code, ""]);
      assertEquals(result.stderr.slice(0, 14 + says.length), `socket_names: ${says}`);
      assertEquals(result.stderr.split("\n").length, 2, result.stderr);
    }
  },
});
