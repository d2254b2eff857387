#!/usr/bin/env -S deno run --allow-net
/**
 * The general client: connects, sends what comes on stdin and prints what the peer sends, octets as
 * they are, without a protocol. With `--listen` it is the other side.
 *
 *     deno run --allow-net scripts/netcat.ts --listen 127.0.0.1 8001
 *     deno run --allow-net scripts/netcat.ts 127.0.0.1 8001
 *
 * Mirrors "client-server architecture" of tutorial 000, which describes it step by step:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `socket()`, `connect((host, port))` | `connect()`: `Deno.connect()` |
 * | `sendall(data)` | `conn.writeAll()`: `conn.write()` until all is sent |
 * | `recv(65536)`, in chunks until it returns `b""` | `conn.conn.read(buffer)` until it returns null |
 * | `shutdown(SHUT_WR)` | `conn.conn.closeWrite()` |
 * | `close()` | `using`: `conn.close()` |
 * | a thread for each direction | two `async` functions at once |
 * | `sendto()`, `recvfrom()` | `socket.send()`, `socket.receive()` |
 *
 * A connection has two directions, and each ends by itself. The end of stdin ends ours (a
 * half-close); the peer may still answer, and we may still send after it has ended its own. Each
 * direction reads no more before the last is written, so that whoever is slow slows down the other
 * side and nobody's memory fills. On a terminal the peer's end ends it all, as somebody who types
 * would not know what else to wait for.
 *
 * @module
 */
import { delay } from "@std/async/delay";
import {
  at,
  connect,
  connectDatagrams,
  formatAddress,
  listen,
  listenDatagrams,
  reason,
  UsageError,
} from "../lib/address.ts";
import { clientFlags, flag, main, number, serverFlags, toggle } from "../lib/cli.ts";
import {
  FramedConn,
  type FramedConnOptions,
  printableText,
  trace,
  writeAll,
} from "../lib/framing.ts";

const CHUNK = 262144; // octets: larger ones sent a file no faster; a pipe holds fewer anyway
const MAX_DATAGRAM = 65507; // octets: what IPv4 and UDP leave of 65,535

/** Stdin, or what stands for it. */
export type Input = Pick<typeof Deno.stdin, "read" | "isTerminal">;
/** Stdout, or what stands for it. */
export type Output = Pick<typeof Deno.stdout, "write" | "isTerminal">;
/** Prints octets; given none, at the end, what it has held back. */
export type Print = (octets?: Uint8Array) => Promise<void>;

/**
 * Sends `input` to the peer and prints what it sends, both at once, until both have ended, or, if
 * `input` is a terminal, until the peer has.
 *
 * @throws {Error} if either direction fails; if it is ours, what the peer sent is printed first.
 */
export async function converse(conn: FramedConn, input: Input, print: Print): Promise<void> {
  const { peer } = conn;
  let unsent: Error | undefined;

  async function send(): Promise<void> {
    const buffer = new Uint8Array(CHUNK);
    while (!unsent) {
      const n = await input.read(buffer).catch(at("stdin"));
      try {
        if (n !== null) {
          await conn.writeAll(buffer.subarray(0, n));
          continue;
        }
        // Fails if the peer was gone when the last octets reached it, of which closeWrite() says
        // nothing. A Unix socket has said so by then, and here would for a peer that has it all.
        if (conn.conn.remoteAddr.transport === "tcp") await conn.conn.write(new Uint8Array());
        return await conn.conn.closeWrite();
      } catch (error) {
        unsent = new Error(`${peer}: not all was sent: ${reason(error)}`);
      }
    }
  }

  async function receive(): Promise<void> {
    const buffer = new Uint8Array(CHUNK); // that of readSome() is smaller, and slower
    for (let n; (n = await conn.conn.read(buffer).catch(at(peer))) !== null;) {
      if (conn.options.trace) trace("<", peer, buffer.subarray(0, n));
      await print(buffer.subarray(0, n));
    }
    await print();
  }

  const receiving = receive();
  const both = Promise.all([send(), receiving]);
  await (input.isTerminal() ? Promise.race([both, receiving]) : both);
  if (unsent) throw unsent;
}

/**
 * Sends each read of `input` to the peer as a datagram and prints those that come from it. Without
 * a `peer` it is whoever sends the first. As nobody says when a talk over UDP is over, it is when
 * `input` has ended and nothing has come for `timeout` milliseconds.
 */
export async function exchange(
  socket: Deno.DatagramConn,
  input: Input,
  print: Print,
  options: FramedConnOptions & { timeout: number; peer?: Deno.Addr },
): Promise<void> {
  const { timeout, trace: tracing } = options;
  const known = Promise.withResolvers<Deno.Addr>();
  if (options.peer) known.resolve(options.peer);
  let printed = Promise.resolve();
  let last = 0;

  async function receive(): Promise<never> {
    const buffer = new Uint8Array(65536);
    for (;;) {
      const [data, from] = await socket.receive(buffer);
      if (tracing) trace("<", formatAddress(from), data);
      known.resolve(from); // which does nothing when there is one
      if (formatAddress(from) !== formatAddress(await known.promise)) continue;
      await (printed = print(data));
      last = performance.now();
    }
  }

  async function send(): Promise<void> {
    const peer = await known.promise;
    const buffer = new Uint8Array(MAX_DATAGRAM);
    for (let n; (n = await input.read(buffer).catch(at("stdin"))) !== null;) {
      if (tracing) trace(">", formatAddress(peer), buffer.subarray(0, n));
      await socket.send(buffer.subarray(0, n), peer).catch(at(formatAddress(peer)));
    }
    last = performance.now();
    for (let left; (left = last + timeout - performance.now()) > 0;) {
      await delay(left);
      await printed;
    }
    await print();
  }

  await Promise.race([send(), receive()]);
}

/** Prints on `output`: to a terminal as text that cannot drive it, else the octets as they are. */
export function printer(output: Output): Print {
  const terminal = output.isTerminal();
  const decoder = new TextDecoder("utf-8", { ignoreBOM: true }); // keeps a letter's first octets
  function safe(octets?: Uint8Array): Uint8Array {
    const text = decoder.decode(octets, { stream: octets !== undefined });
    // A CR says nothing new before an LF, and elsewhere could write over what stands there.
    return new TextEncoder().encode(printableText(text.replaceAll("\r", "")));
  }
  return async (octets) => {
    await writeAll(output, terminal ? safe(octets) : octets ?? new Uint8Array()).catch(
      at("stdout"),
    );
  };
}

if (import.meta.main) {
  const { cert, key } = serverFlags(0);
  const client = clientFlags(1);
  const host = {
    ...client.host,
    help: "the peer's name or address, or the one to bind (127.0.0.1)",
  };
  const port = flag("N", "its port; with --listen 0 is a free one", number(0, 65535), "0");
  const timeout = {
    ...client.timeout,
    help: "seconds to connect; with --udp, of silence at the end (10)",
  };
  await main({
    name: "netcat",
    about: "Sends stdin to a peer and prints what it sends. HOST PORT are --host and --port.",
    usage: "[HOST] [PORT]",
    permissions: "--allow-net",
    flags: {
      ...client,
      host,
      port,
      timeout,
      listen: toggle("wait for the peer instead; serves one"),
      udp: toggle("datagrams: each read of stdin is one"),
      cert: { ...cert, help: "with --listen, TLS with this certificate (PEM)" },
      key,
    },
  }, async (flags, givenHost, givenPort) => {
    const { name, udp, unix, tls, ca, cert, key } = flags;
    if (givenHost && !/^\d+$/.test(givenPort ?? "")) {
      throw new UsageError("HOST and PORT go together, as in 127.0.0.1 8001");
    }
    if (givenHost && unix) throw new UsageError("--unix does not go with HOST and PORT");
    if (udp && unix) throw new UsageError("--udp and --unix do not go together");
    if (udp && (tls || ca || cert || key)) throw new UsageError("TLS does not go with --udp");
    if (flags.listen && (tls || ca)) {
      throw new UsageError("--listen takes --cert and --key for TLS");
    }
    if (!flags.listen && (cert || key)) throw new UsageError("--cert and --key need --listen");
    const endpoint = { ...flags };
    if (givenHost) endpoint.host = host.parse([givenHost]);
    if (givenPort) endpoint.port = port.parse([givenPort]);
    if (!flags.listen && !unix && !endpoint.port) throw new UsageError("PORT is missing");

    const print = printer(Deno.stdout);
    const say = (address: Deno.Addr, kind = "") =>
      console.error(`${name}: listening on ${formatAddress(address)}${kind}`);
    if (udp && flags.listen) {
      const socket = await listenDatagrams(endpoint);
      say(socket.addr, " (udp)");
      await exchange(socket, Deno.stdin, print, flags);
    } else if (udp) {
      const { socket, server: peer } = await connectDatagrams(endpoint);
      await exchange(socket, Deno.stdin, print, { ...flags, peer });
    } else if (flags.listen) {
      const listener = await listen(endpoint);
      say(listener.addr);
      using conn = new FramedConn(await listener.accept(), { trace: flags.trace });
      listener.close();
      await converse(conn, Deno.stdin, print);
    } else {
      using conn = new FramedConn(await connect(endpoint), { trace: flags.trace });
      await converse(conn, Deno.stdin, print);
    }
  });
}
