#!/usr/bin/env -S deno run --allow-net --allow-read
/**
 * A server for files. With a file it waits for a greeting, whatever it says, sends the file, and
 * closes. With a folder it takes one request in a line:
 *
 *     GET name                 a file of the folder or below it
 *     GET name<TAB>offset      the rest of it, from so many bytes on
 *
 * and answers `OK 700 of 1000` (bytes that follow, bytes of the whole file) and the bytes, or
 * `ERROR` and why. Any other greeting is answered with a list of the files and their sizes.
 *
 *     deno run --allow-net --allow-read scripts/file_server.ts README.md
 *     deno run --allow-net --allow-read --allow-write scripts/file_client.ts
 *
 * Mirrors "Python File Transfer with Socket Module", server code, of tutorial 003:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `socket.socket()`, `bind()`, `listen()` | `listen()`: `Deno.listen()` |
 * | `server.accept()` | `serve()`: `listener.accept()` |
 * | `conn.recv(1024).decode()` | `conn.readMessage()`: `conn.read()`, and what makes a message |
 * | `open(filename, "rb")`, `f.read(1024)` | `Deno.open(path)`, `file.read(buffer)` |
 * | `conn.send(l)`, which may send less | `conn.writeAll()`: `conn.write()` until all is sent |
 * | `f.close()` | `using`: `file.close()` |
 * | `conn.close()` | `serve()`, when the handler returns |
 *
 * @module
 */
import { join } from "@std/path";
import { listen } from "../lib/address.ts";
import { main, serverFlags, stopSignal } from "../lib/cli.ts";
import { type FramedConn, LimitError, printable } from "../lib/framing.ts";
import { isBelow, serve } from "../lib/server.ts";

const PORT = 5001;
const MAX_REQUEST = 4096; // octets
// The larger the pieces, the faster a file goes; but each reader who does not read holds one.
const BUFFER = 2 * 1024 * 1024; // octets

/** A request that is answered with `ERROR` and the message. */
class Refusal extends Error {}

/** Sends the octets of `file` from `offset` to `size`. */
async function sendFile(conn: FramedConn, file: Deno.FsFile, size: number, offset = 0) {
  await file.seek(offset, Deno.SeekMode.Start);
  const buffer = new Uint8Array(Math.min(BUFFER, size - offset));
  for (let left = size - offset; left > 0;) {
    const n = await file.read(buffer.subarray(0, Math.min(left, buffer.length)));
    if (n === null) throw new Error(`the file became ${left} bytes shorter while it was sent`);
    await conn.writeAll(buffer.subarray(0, n));
    left -= n;
  }
}

/** Makes a handler that sends the file at `path`, just its octets, whatever the greeting. */
export function fileHandler(path: string): (conn: FramedConn) => Promise<void> {
  return async (conn) => {
    if (await conn.readMessage(MAX_REQUEST) === null) return;
    using file = await Deno.open(path);
    await sendFile(conn, file, (await file.stat()).size);
  };
}

/** Makes a handler that answers requests for what is in the folder at `path`. */
export async function folderHandler(path: string): Promise<(conn: FramedConn) => Promise<void>> {
  const root = await Deno.realPath(path);
  return async (conn) => {
    try {
      const greeting = await conn.readMessage(MAX_REQUEST);
      if (greeting === null) return;
      const [, name, digits] = /^GET ([^\t]+)(?:\t(\d+))?$/.exec(greeting) ?? [];
      if (name === undefined) return await sendListing(conn, root);
      using file = await openInside(root, name);
      const { size } = await file.stat();
      const offset = Number(digits ?? 0);
      if (offset > size) throw new Refusal(`${offset} is past the end, the file has ${size} bytes`);
      await conn.writeLine(`OK ${size - offset} of ${size}`);
      await sendFile(conn, file, size, offset);
    } catch (error) {
      if (error instanceof LimitError) await conn.writeLine("ERROR request too long");
      // What else fails is for the log, and in the middle of a file there is no telling the client.
      if (!(error instanceof Refusal)) throw error;
      await conn.writeLine(`ERROR ${error.message}`);
      if (error.cause) throw error.cause; // for the log, as it may tell what clients need not know
    }
  };
}

/** Opens a file below `root`; no name, and no symbolic link, leads out of it. */
async function openInside(root: string, name: string): Promise<Deno.FsFile> {
  const missing = new Refusal(`no such file: ${printable(name)}`);
  if (name.startsWith("/") || name.includes("\0") || name.split("/").includes("..")) throw missing;
  try {
    const path = await Deno.realPath(join(root, name));
    // What is no file is not even opened: on a named pipe that would wait for ever.
    if (!isBelow(root, path) || !(await Deno.stat(path)).isFile) throw missing;
    return await Deno.open(path);
  } catch (error) {
    if (error === missing || error instanceof Deno.errors.NotFound) throw missing;
    throw new Refusal(`cannot open ${printable(name)}`, { cause: error });
  }
}

async function sendListing(conn: FramedConn, root: string, below = ""): Promise<void> {
  const entries = await Array.fromAsync(Deno.readDir(join(root, below)));
  for (const { name, isDirectory, isFile } of entries.sort((a, b) => a.name < b.name ? -1 : 1)) {
    const path = below + name;
    if (isDirectory) await sendListing(conn, root, `${path}/`);
    // A name with a line's end or a tab in it cannot be asked for.
    if (!isFile || printable(name) !== name) continue;
    const { size } = await Deno.stat(join(root, path));
    await conn.writeLine(`${size} ${path}`);
  }
}

if (import.meta.main) {
  await main({
    name: "file_server",
    about: "Sends the file PATH to any greeting, or the files of the folder PATH to GET.",
    usage: "PATH",
    permissions: "--allow-net --allow-read",
    flags: serverFlags(PORT),
  }, async (flags, path) => {
    const { isDirectory } = await Deno.stat(path);
    const handler = isDirectory ? await folderHandler(path) : fileHandler(path);
    await serve(await listen(flags), handler, { ...flags, signal: stopSignal() });
  });
}
