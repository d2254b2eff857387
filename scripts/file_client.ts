#!/usr/bin/env -S deno run --allow-net --allow-read --allow-write
/**
 * A client for files. Without a name it greets the server and keeps all that comes as `recv.txt`;
 * with a name it asks for that file of the server's folder (see `file_server.ts`).
 *
 *     deno run --allow-net --allow-read scripts/file_server.ts README.md
 *     deno run --allow-net --allow-read --allow-write scripts/file_client.ts
 *
 * Mirrors "Python File Transfer with Socket Module", client code, of tutorial 003:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `socket.socket()`, `s.connect((host, port))` | `connect()`: `Deno.connect()` |
 * | `s.send("Hello server!".encode())` | `conn.writeAll()`: `conn.write()` until all is sent |
 * | `open("recv.txt", "wb")`, `f.write(data)` | `Deno.open()`, `file.write()` until all is written |
 * | `s.recv(1024)` until it returns `b""` | `conn.readSome()`: `conn.read()` until it returns null |
 * | `f.close()`, `s.close()` | `using`: `file.close()`, `conn.close()` |
 *
 * Under its own name a file is only ever whole. Until then it is `NAME.part`, which `--resume`
 * continues, trusting that the server's file is still the same. Without a name nobody says how long the file is, and a server that dies looks like
 * one that is done: the listing's protocol cannot tell, which is what the `OK` line is for.
 *
 * @module
 */
import { basename } from "@std/path";
import { connect, named, UsageError } from "../lib/address.ts";
import { clientFlags, main, optional, progressBar, toggle } from "../lib/cli.ts";
import { FramedConn, printable, writeAll } from "../lib/framing.ts";

const PORT = 5001;

/**
 * Receives a file into `path`, by way of `path.part`, and returns its size in bytes.
 *
 * @param name the file to ask for; none: greet the server, and take whatever comes.
 * @param resume whether to go on where an earlier `path.part` ends.
 * @throws {Error} if the server refuses, or ends before the file does.
 */
export async function receiveFile(
  conn: FramedConn,
  path: string,
  name?: string,
  resume = false,
): Promise<number> {
  const part = `${path}.part`;
  let size = resume ? await sizeOf(part) : 0;
  let total: number | undefined;
  if (name === undefined) {
    await conn.writeAll("Hello server!");
  } else {
    await conn.writeAll(size > 0 ? `GET ${name}\t${size}\n` : `GET ${name}\n`);
    total = await readHeader(conn, size);
  }
  using file = await Deno.open(part, { create: true, write: true, truncate: !resume });
  await file.seek(0, Deno.SeekMode.End);
  const draw = total === undefined ? () => {} : progressBar(total);
  try {
    for (draw(size); total === undefined || size < total; draw(size)) {
      const data = await conn.readSome(total === undefined ? Infinity : total - size);
      if (data === null) break;
      await writeAll(file, data);
      size += data.length;
    }
  } catch (error) {
    throw named(`${size} bytes kept in ${part}`, error);
  }
  if (total !== undefined && size < total) {
    throw new Error(`connection ended after ${size} of ${total} bytes, kept in ${part}`);
  }
  await Deno.rename(part, path);
  return size;
}

/** A file's size in bytes, 0 if there is none. */
async function sizeOf(path: string): Promise<number> {
  try {
    return (await Deno.stat(path)).size;
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return 0;
    throw error;
  }
}

/** Reads `OK 700 of 1000`, and gives the 1000. */
async function readHeader(conn: FramedConn, offset: number): Promise<number> {
  const header = await conn.readLine() ?? "nothing";
  const [, rest, total] = /^OK (\d+) of (\d+)$/.exec(header) ?? [];
  if (Number(rest) + offset === Number(total)) return Number(total);
  throw new Error(`the server says: ${header}`);
}

if (import.meta.main) {
  await main({
    name: "file_client",
    about: "Receives a file: NAME of the server's folder, or else what it sends, as recv.txt.",
    usage: "[NAME]",
    permissions: "--allow-net --allow-read --allow-write",
    flags: {
      ...clientFlags(PORT),
      output: optional("FILE", "where to write (NAME without its folders, or recv.txt)"),
      resume: toggle("go on where an earlier transfer of NAME ended"),
    },
  }, async (flags, name) => {
    if (flags.resume && name === undefined) throw new UsageError("--resume needs NAME");
    if (name && /[\t\r\n]/.test(name)) throw new UsageError("NAME has a tab or a line's end");
    const path = flags.output ?? (name === undefined ? "recv.txt" : basename(name));
    using conn = new FramedConn(await connect(flags), flags);
    const size = await receiveFile(conn, path, name, flags.resume);
    console.error(`${flags.name}: received ${printable(path)}, ${size} bytes`);
  });
}
