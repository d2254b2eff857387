#!/usr/bin/env -S deno run --allow-read --allow-write
/**
 * Makes a certificate to try TLS with, for a week: a server's, signed with its own key and by nobody
 * else. Writes `cert.pem` and `key.pem`, and prints the certificate's SHA-256 fingerprint, by which
 * people compare certificates.
 *
 *     deno run --allow-read --allow-write scripts/certificate.ts
 *     deno run --allow-net --allow-read scripts/tls_server.ts --cert cert.pem --key key.pem
 *
 * Mirrors "TLS/SSL" of tutorial 002 and "Security" of tutorial 000, which name it without a listing.
 * Python makes no certificates; those who use its `ssl` are sent to OpenSSL's command line:
 *
 * | `openssl` | Deno |
 * | --- | --- |
 * | `req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 7` | `makeCertificate()`: `crypto.subtle.generateKey()`, `@peculiar/x509` |
 * | `-subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1` | `--name`, as often as there are names |
 * | `-addext basicConstraints=critical,CA:FALSE` | always |
 * | `-out cert.pem -keyout key.pem` | `writePair()`: `Deno.writeTextFile()`, `Deno.link()`, `Deno.rename()` |
 * | `x509 -in cert.pem -noout -sha256 -fingerprint` | what is printed |
 *
 * Whoever has `cert.pem` can check that a server has the key to it, which is what a client's
 * `--ca cert.pem` does; whoever has `key.pem` can be that server.
 *
 * @module
 */
import { isIP } from "node:net";
import { join } from "@std/path";
import { reason, UsageError } from "../lib/address.ts";
import { flag, main, toggle } from "../lib/cli.ts";

const NAMES = ["localhost", "127.0.0.1", "::1"];

/**
 * A name that a certificate can be for: an IP address or a DNS name, its first label may be `*`.
 *
 * @throws {UsageError} if it is neither.
 */
export function readName(text: string): string {
  const label = "[a-z\\d]([a-z\\d-]{0,61}[a-z\\d])?";
  // What ends in a number is a mistyped address: no top-level domain is one.
  const dns = new RegExp(`^(?=.{1,253}$)(\\*\\.)?(${label}\\.)*(?!\\d+$)${label}$`, "i");
  if (dns.test(text) || isIP(text) && !text.includes("%")) return text;
  throw new UsageError(`${text} is neither a DNS name nor an IP address`);
}

/**
 * Writes `cert.pem` and `key.pem` into `folder`, each whole or not at all, and the key readable by
 * its owner only from its first moment.
 *
 * @param force whether to replace what is there.
 * @throws the system's error, also if one is there already; it says so if they no longer match.
 */
export async function writePair(
  folder: string,
  { cert, key }: { cert: string; key: string },
  force = false,
): Promise<void> {
  if (!(await Deno.stat(folder)).isDirectory) throw new Error(`${folder}: not a directory`);
  const files = [
    { path: join(folder, "key.pem"), text: key, mode: 0o600 },
    { path: join(folder, "cert.pem"), text: cert, mode: undefined }, // what the umask leaves
  ].map((file) => ({ ...file, part: `${file.path}.${crypto.randomUUID()}` }));
  const placed: string[] = [];
  try {
    for (const { part, text, mode } of files) {
      await Deno.writeTextFile(part, text, { createNew: true, mode });
    }
    for (const { part, path } of files) {
      // A rename replaces what somebody else has put there meanwhile, a link does not.
      await (force ? Deno.rename(part, path) : Deno.link(part, path));
      placed.push(path);
    }
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    for (const { part, path } of files) error.message = error.message.replaceAll(part, path);
    if (error instanceof Deno.errors.AlreadyExists) {
      error.message = `${reason(error)} (--force replaces both)`;
    }
    if (!force) {
      for (const path of placed) await Deno.remove(path);
    } else if (placed.length > 0) {
      error.message = `${reason(error)}; ${placed} is replaced, and does not go with it`;
    }
    throw error;
  } finally {
    for (const { part } of files) await Deno.remove(part).catch(() => {}); // renamed, or never made
  }
}

if (import.meta.main) {
  await main({
    name: "certificate",
    about: "Makes a certificate and its key to try TLS with, for a week.",
    permissions: "--allow-read --allow-write",
    flags: {
      out: flag("DIR", "the folder for cert.pem and key.pem", String, "."),
      name: {
        argument: "NAME",
        help: `a name or address of the server; may be repeated (${NAMES.join(", ")})`,
        parse: (given) => (given.length > 0 ? given : NAMES).map(readName),
      },
      force: toggle("replace cert.pem and key.pem if they are there"),
    },
  }, async ({ out, name: names, force }) => {
    // Loaded only now: it takes longer than all the rest.
    const { makeCertificate } = await import("../lib/certificate.ts");
    const made = await makeCertificate(names);
    await writePair(out, made, force);
    console.error(`certificate: ${join(out, "cert.pem")} and key.pem are for ${names.join(", ")}`);
    console.log(made.fingerprint);
  });
}
