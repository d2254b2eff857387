/**
 * Addresses as people type them, as Deno takes them and as people read them, and one way to listen
 * and one to connect for TCP, Unix domain sockets and TLS.
 *
 * @module
 */
import { lookup } from "node:dns/promises";
import { BlockList, isIP } from "node:net";

const LOOPBACK = /^(::ffff:)?127\.|^::1$/;

/** What was asked for cannot be meant: the program ends with 2. */
export class UsageError extends Error {}

/** Where a program listens or connects. The names are those of the common flags, files are PEM. */
export type Endpoint = {
  host: string; // a name or an IP address, IPv6 without brackets
  port: number; // 0 to listen on a free one
  unix?: string; // the path of a Unix domain socket in place of both
  cert?: string; // to listen over TLS: a file with the certificate and its chain, or the PEM itself
  key?: string; // and one with the private key
  backlog?: number; // how many connections the kernel keeps waiting; none: 511
  reusePort?: boolean; // to share the port with other listeners, among which the kernel chooses
  tls?: boolean; // to connect over TLS, the server's certificate and name verified
  ca?: string; // and a file with root certificates besides the usual ones
  timeout?: number; // milliseconds to connect, TLS handshake included; none: no limit
};

/**
 * Reads an address as people type it: `host:port`, `:port`, `[::1]:port`, `unix:/path`, and
 * without a port where there is a `fallback` for it. No host means `127.0.0.1`.
 *
 * @throws {UsageError} if the text is none of these.
 */
export function parseAddress(text: string, fallback?: number): Deno.NetAddr | Deno.UnixAddr {
  const path = /^unix:(.+)$/.exec(text)?.[1];
  if (path) return { transport: "unix", path };
  const [whole, v6, name, digits] = /^(?:\[(.*)\]|([^:[\]\s]*))(?::(\d+))?$/.exec(text) ?? [];
  const port = digits === undefined ? fallback : Number(digits);
  if (!whole || port === undefined || port > 65535 || v6 !== undefined && isIP(v6) !== 6) {
    throw new UsageError(`${text} is not an address (host:port, [::1]:port or unix:/path)`);
  }
  return { transport: "tcp", hostname: v6 ?? (name || "127.0.0.1"), port };
}

/**
 * An address as people read it and {@linkcode parseAddress} takes it: IPv6 in brackets, and IPv4
 * that came in on an IPv6 socket (`::ffff:10.0.0.1`) as what it is.
 */
export function formatAddress(address: Deno.Addr): string {
  // The client's end of a Unix socket has no name unless it bound one.
  if ("path" in address) return `unix:${address.path || "(unnamed)"}`;
  if (!("hostname" in address)) return address.transport;
  const host = address.hostname.replace(/^::ffff:(?=\d+\.)/, "");
  return `${host.includes(":") ? `[${host}]` : host}:${address.port}`;
}

/**
 * Reads an access list: IP addresses and CIDR blocks such as `10.0.0.0/8`.
 *
 * @throws {UsageError} naming the entry that is neither.
 */
export function parseAccessList(entries: string[]): BlockList {
  const list = new BlockList();
  for (const entry of entries) {
    const [, address = "", prefix] = /^([^/]+)(?:\/(\d+))?$/.exec(entry) ?? [];
    const width = { 0: -1, 4: 32, 6: 128 }[isIP(address)] ?? -1;
    if (width < Number(prefix ?? 0)) {
      throw new UsageError(`${entry} is not a CIDR block (10.0.0.0/8, 192.168.1.7, fd00::/8)`);
    }
    list.addSubnet(address, Number(prefix ?? width), familyOf(address));
  }
  return list;
}

/** Whether the list has the address. File permissions guard a Unix socket: it always passes. */
export function isAllowed(list: BlockList, address: Deno.Addr): boolean {
  if (!("hostname" in address)) return true;
  return list.check(address.hostname, familyOf(address.hostname));
}

function familyOf(address: string): "ipv4" | "ipv6" {
  return isIP(address) === 6 ? "ipv6" : "ipv4";
}

/** How to listen at an endpoint: what `Deno.listen`, `Deno.listenTls` and `Deno.serve` take. */
export type ListenOptions =
  & { hostname: string; port: number; tcpBacklog?: number; reusePort?: boolean; path?: string }
  & Partial<Deno.TlsCertifiedKeyPem>;

/**
 * Calls `open` to listen at the endpoint, with the certificate read and the socket file of a dead
 * server gone.
 *
 * @throws {UsageError} if the options do not go together; else the error of the system or of the
 * certificate, {@linkcode named} after the address or the file.
 */
export async function bind<T>(endpoint: Endpoint, open: (options: ListenOptions) => T): Promise<T> {
  const { host: hostname, port, unix: path, cert, key, backlog: tcpBacklog, reusePort } = endpoint;
  if (!cert !== !key) throw new UsageError("--cert and --key go together");
  if (path && cert) throw new UsageError("--unix and --cert do not go together");
  const tls = cert && key ? { cert: await readPem(cert), key: await readPem(key) } : {};
  try {
    if (path) await removeStale(path);
    return open({ hostname, port, tcpBacklog, reusePort, ...path ? { path } : {}, ...tls });
  } catch (error) {
    const files = cert && !isPem(cert) ? ` with ${cert} and ${key}` : "";
    throw named(formatEndpoint(endpoint) + files, error);
  }
}

/** Listens for connections, over TLS if there is a `cert`. Throws what {@linkcode bind} does. */
export function listen(endpoint: Endpoint): Promise<Deno.Listener> {
  return bind<Deno.Listener>(endpoint, ({ path, cert = "", key = "", ...tcp }) => {
    if (path) return Deno.listen({ transport: "unix", path });
    return cert ? Deno.listenTls({ ...tcp, cert, key }) : Deno.listen(tcp);
  });
}

/**
 * Binds a datagram socket: UDP, or with `unix` a Unix domain socket of whole datagrams.
 *
 * @throws {UsageError} if TLS is asked for, too; else the system's error, {@linkcode named} after
 * the address.
 */
export async function listenDatagrams(endpoint: Endpoint): Promise<Deno.DatagramConn> {
  const { host: hostname, port, unix: path, tls, cert } = endpoint;
  if (tls || cert) throw new UsageError("TLS does not go with datagrams");
  try {
    if (path) await removeStale(path);
    if (path) return Deno.listenDatagram({ transport: "unixpacket", path });
    return Deno.listenDatagram({ transport: "udp", hostname, port });
  } catch (error) {
    throw named(formatEndpoint(endpoint), error);
  }
}

/**
 * Binds a datagram socket to talk to one server from, and finds the server's address: what comes
 * from any other is not its answer. A Unix socket needs a name of its own to be answered at; it is
 * the server's with the process's number behind it.
 *
 * @throws the system's error, {@linkcode named} after the address.
 */
export async function connectDatagrams(
  endpoint: Endpoint,
): Promise<{ socket: Deno.DatagramConn; server: Deno.Addr }> {
  const { host, port, unix: path } = endpoint;
  if (path) {
    const socket = await listenDatagrams({ ...endpoint, unix: `${path}.${Deno.pid}` });
    return { socket, server: { transport: "unixpacket", path } };
  }
  const { address } = await lookup(host).catch((error) => {
    if (error.code !== "EPERM") throw named(formatEndpoint(endpoint), error);
    throw new Deno.errors.NotCapable(`Requires net access to "${host}", run with --allow-net`);
  });
  // IPv6 has many spellings, and answers come from this one.
  const hostname = /^[^%.]*:[^%.]*$/.test(address)
    ? new URL(`http://[${address}]`).hostname.slice(1, -1)
    : address;
  const anywhere = familyOf(hostname) === "ipv6" ? "::" : "0.0.0.0";
  const local = LOOPBACK.test(hostname) ? hostname : anywhere;
  const socket = await listenDatagrams({ ...endpoint, host: local, port: 0 });
  return { socket, server: { transport: "udp", hostname, port } };
}

/** Closes a datagram socket, and removes a Unix one's file, which Deno leaves. */
export async function closeDatagrams(socket: Deno.DatagramConn): Promise<void> {
  socket.close();
  if (socket.addr.transport === "unixpacket") await Deno.remove(socket.addr.path);
}

/** Removes the socket file of a server that was killed: nobody could bind its name again. */
async function removeStale(path: string): Promise<void> {
  try {
    (await Deno.connect({ transport: "unix", path })).close();
  } catch (error) {
    // A socket that is in use for datagrams says "wrong type", a file that is no socket refuses.
    const refused = error instanceof Deno.errors.ConnectionRefused;
    if (refused && (await Deno.lstat(path)).isSocket) await Deno.remove(path);
  }
}

/**
 * Connects; with `tls` the handshake is done when it returns.
 *
 * @throws {UsageError} if the options do not go together, {@linkcode Deno.errors.TimedOut} after
 * `timeout`; else the error of the system or of TLS, {@linkcode named} after the address.
 */
export async function connect(endpoint: Endpoint): Promise<Deno.Conn> {
  const { host: hostname, port, unix: path, tls, ca, timeout } = endpoint;
  if (ca && !tls) throw new UsageError("--ca needs --tls");
  if (path && tls) throw new UsageError("--unix and --tls do not go together");
  const caCerts = ca ? [await readPem(ca)] : [];
  const attempt = new AbortController();
  let conn: Deno.Conn | undefined;
  const timer = timeout && setTimeout(() => {
    attempt.abort();
    conn?.close();
  }, timeout);
  try {
    if (path) return await Deno.connect({ transport: "unix", path });
    const tcp = conn = await Deno.connect({ hostname, port, signal: attempt.signal });
    tcp.setNoDelay();
    if (!tls) return tcp;
    const secure = conn = await Deno.startTls(tcp, { hostname, caCerts });
    await secure.handshake();
    return secure;
  } catch (error) {
    if (!attempt.signal.aborted) conn?.close();
    const late = new Deno.errors.TimedOut(`no connection within ${(timeout ?? 0) / 1000} s`);
    throw named(formatEndpoint(endpoint), attempt.signal.aborted ? late : error);
  } finally {
    clearTimeout(timer);
  }
}

/** Whether nobody on the way can listen, as over TLS, a Unix socket or this machine's loopback. */
export function isPrivate(conn: Deno.Conn): boolean {
  if ("handshake" in conn || !("hostname" in conn.remoteAddr)) return true;
  return LOOPBACK.test(conn.remoteAddr.hostname);
}

/** Reads PEM from a file; what is PEM itself it returns. Throws an error that names the file. */
export async function readPem(path: string): Promise<string> {
  if (isPem(path)) return path;
  const text = await Deno.readTextFile(path);
  if (!isPem(text)) throw new Error(`${path}: not PEM`);
  return text;
}

function isPem(text: string): boolean {
  return text.includes("-----BEGIN ");
}

/** The endpoint's address as people read it. */
export function formatEndpoint({ host: hostname, port, unix: path }: Endpoint): string {
  return formatAddress(path ? { transport: "unix", path } : { transport: "tcp", hostname, port });
}

/** What went wrong, as people read it: a line, without the system's number, and a file's name first. */
export function reason(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error);
  if (/^getaddrinfo EPERM/.test(message)) return "no permission to look it up (--allow-net)";
  if (/^failed to lookup address|^getaddrinfo E/.test(message)) return "unknown host";
  // Reset between the handshake and Deno's question for the peer's name.
  if (/^transport endpoint is not connected/i.test(message)) return "connection reset by peer";
  if (message.endsWith("invalid peer certificate: UnknownIssuer")) {
    return "no trusted root vouches for the certificate (--ca FILE names one)";
  }
  if (message.includes("without sending TLS close_notify")) {
    return "cut off, without TLS close_notify";
  }
  if (message.includes("of type InvalidContentType")) return "the other side does not speak TLS";
  const [line] = message.replace(/^Error: /, "").split("\n"); // as Deno.serve quotes the system's
  const [, what, path] = /^(.*?) \(os error \d+\)(?:: \w+ '(.*?)')?/.exec(line) ?? ["", line];
  const lower = /^[A-Z][a-z]/.test(what) ? what[0].toLowerCase() + what.slice(1) : what;
  return path ? `${path}: ${lower}` : lower;
}

/** For `catch`: throws the error {@linkcode named} after where it happened. */
export function at(where: string): (error: unknown) => never {
  return (error) => {
    throw named(where, error);
  };
}

/** The error, of the same class, its message now `where` it happened and the {@linkcode reason}. */
export function named(where: string, error: unknown): Error {
  const named = error instanceof Error ? error : new Error(String(error));
  // A missing permission names its address already, and the flag that grants it.
  if (!(named instanceof Deno.errors.NotCapable)) named.message = `${where}: ${reason(named)}`;
  return named;
}
