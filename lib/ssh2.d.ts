// Types for what is used of `ssh2`, whose package carries none. Those of `@types/ssh2` bring an old
// `@types/node` with them, against which nothing else here would check.

declare module "ssh2" {
  import type { Buffer } from "node:buffer";
  import type { EventEmitter } from "node:events";
  import type { Duplex, Readable, Writable } from "node:stream";

  // deno-lint-ignore no-explicit-any
  export type Listener = (...args: any[]) => void;
  /** What `listener` is called with stands in SFTP.md and README.md of the package. */
  export interface Emitter extends EventEmitter {
    on(event: string, listener: Listener): this;
    once(event: string, listener: Listener): this;
  }
  /** Which algorithms to offer: these, in their order, or the usual ones without some. */
  export type Algorithms = Record<string, string[] | { remove: string[] }>;

  export interface Key {
    type: string;
    comment: string;
    isPrivateKey(): boolean;
    getPublicSSH(): Buffer;
    equals(other: Key): boolean;
    sign(data: Buffer, hash?: string): Buffer | Error;
    verify(data: Buffer, signature: Buffer, hash?: string): boolean | Error;
  }

  export interface Channel extends Duplex {
    incoming: { window: number };
    outgoing: { window: number };
    stderr: Readable & Writable;
    exit(status: number): void;
    setWindow(rows: number, columns: number, height: number, width: number): void;
    close(): void;
  }

  export interface Attributes {
    mode: number;
    uid: number;
    gid: number;
    size: number;
    atime: number; // seconds
    mtime: number;
  }

  export type Done<T = void> = (error: Error | undefined, result: T) => void;
  /** The client's side of SFTP. */
  export interface SFTPWrapper extends Emitter {
    open(path: string, flags: string, done: Done<Buffer>): void;
    close(handle: Buffer, done: Done): void;
    fstat(handle: Buffer, done: Done<Attributes>): void;
    read(
      handle: Buffer,
      into: Buffer,
      at: number,
      length: number,
      position: number,
      done: (error: Error | undefined, length: number) => void,
    ): void;
    write(
      handle: Buffer,
      from: Buffer,
      at: number,
      length: number,
      position: number,
      done: Done,
    ): void;
    unlink(path: string, done: Done): void;
    rename(from: string, to: string, done: Done): void;
    ext_openssh_rename(from: string, to: string, done: Done): void;
    end(): void;
  }

  /** The server's side. */
  export interface SFTPServer extends Emitter {
    incoming: { window: number };
    outgoing: { window: number; id: number };
    push(data: Buffer | null): boolean | void;
    status(id: number, code: number, message: string): void;
    handle(id: number, handle: Buffer): void;
    data(id: number, data: Buffer): void;
    attrs(id: number, attributes: Attributes): void;
    name(
      id: number,
      names: { filename: string; longname?: string; attrs?: Attributes }[],
    ): void;
    end(): void;
  }

  export type Attempt =
    | { type: "none"; username: string }
    | { type: "publickey"; username: string; key: Key }
    | { type: "agent"; username: string; agent: string }
    | { type: "password"; username: string; password: string };

  export interface Pty {
    term: string;
    rows: number;
    cols: number;
  }

  export class Client extends EventEmitter implements Emitter {
    connect(options: {
      sock: Duplex;
      username: string;
      algorithms: Algorithms;
      hostVerifier: (key: Buffer, decide: (good: boolean) => void) => void;
      authHandler: (
        left: string[] | null,
        partial: boolean | null,
        next: (attempt: Attempt | false) => void,
      ) => void;
      readyTimeout: number; // milliseconds, 0: none; as is the next
      keepaliveInterval: number;
      debug?: (line: string) => void;
    }): this;
    exec(command: string, done: Done<Channel>): this;
    shell(window: Pty | false, done: Done<Channel>): this;
    sftp(done: Done<SFTPWrapper>): this;
    end(): this;
    destroy(): this;
    on(event: string, listener: Listener): this;
    once(event: string, listener: Listener): this;
  }

  export interface AuthContext {
    method: string;
    username: string;
    key: { algo: string; data: Buffer };
    blob?: Buffer; // what is signed, if it is
    signature?: Buffer;
    hashAlgo?: string;
    accept(): void;
    reject(methods?: string[]): void;
  }

  /** A client, as the server sees it. */
  export interface Connection extends Emitter {
    // Not documented, but an SFTPServer has neither an exit() nor a say in how much it is sent.
    _protocol: {
      exitStatus(channel: number, status: number): void;
      channelWindowAdjust(channel: number, octets: number): void;
    };
    end(): void;
  }

  export class Server extends EventEmitter {
    constructor(options: {
      hostKeys: string[];
      algorithms: Algorithms;
      keepaliveInterval: number; // milliseconds
      debug?: (line: string) => void;
    }, listener: (client: Connection) => void);
    injectSocket(socket: Duplex): void;
  }

  export const utils: {
    parseKey(data: Buffer | string, passphrase?: string): Key | Error;
    generateKeyPairSync(type: string): { private: string; public: string };
    sftp: { OPEN_MODE: Record<string, number>; STATUS_CODE: Record<string, number> };
  };
}
