#!/usr/bin/env -S deno run --allow-net
/**
 * A TLS client: says what was negotiated with the server and who that is, then sends it each line
 * that is typed and prints the answer.
 *
 *     deno run --allow-net scripts/tls_server.ts > tls.pem
 *     deno run --allow-net --allow-read scripts/tls_client.ts --ca tls.pem
 *
 * Mirrors "TLS/SSL" of tutorial 002 and "Security" of tutorial 000, which name it without a listing:
 *
 * | Python | Deno |
 * | --- | --- |
 * | `socket.create_connection((host, port))` | `connect()`: `Deno.connect()` |
 * | `ssl.create_default_context(cafile=...)` | the options `ca` and `rejectUnauthorized` |
 * | `context.wrap_socket(sock, server_hostname=host)` | `tls.connect({ socket, host })` of `node:tls` |
 * | `version()`, `cipher()`, `selected_alpn_protocol()` | `getProtocol()`, `getCipher()`, `alpnProtocol` |
 * | `getpeercert()` | `getPeerCertificate()` |
 * | `sendall(line)`, `recv()` until there is a line | `conn.writeLine()`, `conn.readLine()` |
 * | `unwrap()`, `close()` | `socket.end()`, `socket.destroy()` |
 *
 * `Deno.connectTls()`, which the other clients here use for `--tls`, is the same in one call, but
 * tells nothing of what was negotiated.
 *
 * TLS marks the end of what a side sends (`close_notify`), so that nobody on the way can make a part
 * look like the whole. Yet `node:tls` does not tell the one end from the other, nor does Python
 * unless asked to. Here each answer is a line, and one without its end is an error.
 *
 * @module
 */
import { X509Certificate } from "node:crypto";
import { Duplex } from "node:stream";
import * as tls from "node:tls";
import { connect, type Endpoint, formatEndpoint, named } from "../lib/address.ts";
import { clientFlags, main, optional, Terminal } from "../lib/cli.ts";
import { FramedConn, printable } from "../lib/framing.ts";

const PORT = 8443;
const MAX_ANSWER = 3 * 8192; // octets, as capitals may take three times those of the server's line

/** A TLS connection, and the socket that tells about it. */
export type SecureConn = { conn: Deno.Conn; socket: tls.TLSSocket };

/**
 * Connects, and verifies that the server's certificate is for `host` and that a trusted root
 * vouches for it: one of the usual ones or, if there is a `ca` file, one of those in it.
 *
 * @throws {Deno.errors.TimedOut} after `timeout`; else an error that says why the certificate is
 * refused, or the system's or that of TLS. All are named after the address.
 */
export async function connectSecure(endpoint: Endpoint): Promise<SecureConn> {
  const ca = endpoint.ca === undefined ? undefined : await readCertificates(endpoint.ca);
  try {
    // Said aloud, as NODE_TLS_REJECT_UNAUTHORIZED=0 in the environment turns the default around.
    return await handshake(endpoint, { ca, checkServerIdentity, rejectUnauthorized: true });
  } catch (error) {
    const { code = "" } = error as { code?: string };
    if (!/^UNABLE_TO_VERIFY|SELF_SIGNED/.test(code)) throw error;
    const why = await refusal(endpoint).catch(() => undefined);
    throw why === undefined ? error : named(formatEndpoint(endpoint), new Error(why));
  }
}

async function readCertificates(path: string): Promise<string> {
  const text = await Deno.readTextFile(path);
  try {
    new X509Certificate(text); // Node would pass over what is none
  } catch {
    throw new Error(`${path}: not a certificate (PEM)`);
  }
  return text;
}

/**
 * The error if the certificate is not for this host. Stricter than `node:tls`, which takes the
 * subject's common name for a host's (RFC 9525, 2, forbids it) and, in Deno, a name with a comma in
 * it for two.
 */
function checkServerIdentity(host: string, cert: tls.PeerCertificate): Error | undefined {
  const wrong = tls.checkServerIdentity(host, { ...cert, subject: {} as tls.Certificate });
  const ambiguous = /, (DNS|IP Address):/.test(new TextDecoder("latin1").decode(cert.raw));
  if (!wrong && !ambiguous) return;
  return new Error(`the certificate is for ${cert.subjectaltname || "no name"}, not for ${host}`);
}

/**
 * Why a certificate was refused, which Node does not tell, by a look at it over a connection of its
 * own. Nothing goes over that, and nothing of it is believed but for this message.
 */
async function refusal(endpoint: Endpoint): Promise<string> {
  const { conn, socket } = await handshake(endpoint, { rejectUnauthorized: false });
  const { subject, issuer, valid_from, valid_to } = socket.getPeerCertificate();
  conn.close();
  if (Date.parse(valid_to) < Date.now()) return `the certificate expired on ${valid_to}`;
  if (Date.parse(valid_from) > Date.now()) {
    return `the certificate is not valid before ${valid_from}`;
  }
  const by = title(issuer) === title(subject) ? "self-signed" : `issued by ${title(issuer)}`;
  return `the certificate is ${by}, and no trusted root vouches for it (--ca FILE names one)`;
}

async function handshake(
  endpoint: Endpoint,
  options: tls.ConnectionOptions,
): Promise<SecureConn> {
  const { host, port, timeout } = endpoint;
  const tcp = await connect({ host, port, timeout });
  const stream = Duplex.fromWeb(tcp as never); // Node's types have streams of their own
  const socket = tls.connect({ ...options, host, socket: stream });
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  socket.once("secureConnect", resolve).on("error", reject);
  const timer = timeout && setTimeout(() => {
    const late = `no answer to the handshake within ${timeout / 1000} s`;
    socket.destroy(new Deno.errors.TimedOut(late));
  }, timeout);
  try {
    await promise;
    return { conn: adapt(socket, tcp), socket };
  } catch (error) {
    throw named(formatEndpoint(endpoint), error);
  } finally {
    clearTimeout(timer);
  }
}

/** Gives the socket the methods of a `Deno.Conn`, as far as a FramedConn uses them. */
function adapt(socket: tls.TLSSocket, { localAddr, remoteAddr }: Deno.Conn): Deno.Conn {
  const pieces = socket[Symbol.asyncIterator]();
  let rest = new Uint8Array();
  const conn: Partial<Deno.Conn> = {
    localAddr,
    remoteAddr,
    async read(buffer) {
      if (rest.length === 0) {
        const { value, done } = await pieces.next();
        if (done) return null;
        rest = value;
      }
      const n = Math.min(rest.length, buffer.length);
      buffer.set(rest.subarray(0, n));
      rest = rest.subarray(n);
      return n;
    },
    write: (data) =>
      new Promise((resolve, reject) => {
        socket.write(data, (error) => error ? reject(error) : resolve(data.length));
      }),
    closeWrite: () => new Promise((resolve) => socket.end(resolve)),
    close: () => socket.destroy(),
  };
  return conn as Deno.Conn;
}

/** A subject or an issuer, as people read it. */
function title(name: tls.Certificate): string {
  return Object.entries(name).map(([key, value]) => `${key}=${value}`).join(", ");
}

/** What was negotiated and who the server is, in lines to print. */
export function describe(socket: tls.TLSSocket): string[] {
  const cert = socket.getPeerCertificate();
  return Object.entries({
    version: socket.getProtocol(),
    cipher: socket.getCipher().name,
    ALPN: socket.alpnProtocol || "none",
    subject: title(cert.subject),
    issuer: title(cert.issuer),
    names: cert.subjectaltname,
    valid: `${cert.valid_from} to ${cert.valid_to}`,
    "SHA-256": cert.fingerprint256,
  }).map(([key, value]) => `${key.padEnd(8)} ${value}`);
}

/** Sends a line and returns the answer. */
export async function ask(conn: FramedConn, line: string): Promise<string> {
  await conn.writeLine(line).catch(() => {}); // who has hung up gives no answer, either
  const answer = await conn.readLine(MAX_ANSWER);
  if (answer === null) throw new Error(`${conn.peer}: hung up without an answer`);
  return answer;
}

if (import.meta.main) {
  const { host, port, timeout, trace } = clientFlags(PORT);
  await main({
    name: "tls_client",
    about: "Says who a TLS server is, sends it lines and prints the answers.",
    permissions: "--allow-net",
    flags: {
      host,
      port,
      ca: optional("FILE", "trust these root certificates and no others (PEM)"),
      timeout,
      trace,
    },
  }, async (flags) => {
    const { conn: secure, socket } = await connectSecure(flags);
    for (const line of describe(socket)) console.error(printable(line));
    using conn = new FramedConn(secure, flags);
    const terminal = new Terminal();
    for (let line; (line = await terminal.readLine("type a line: ")) !== null;) {
      terminal.print(printable(await ask(conn, line)));
    }
    await secure.closeWrite();
  });
}
