// Types for the `@std` functions in use. The npm package that `deno.json` maps `@std` to carries
// none; with `jsr:@std/...` in `deno.json` instead, this file can go.

declare module "@std/assert" {
  export function assert(value: unknown, message?: string): asserts value;
  export function assertEquals<T>(actual: T, expected: T, message?: string): void;
  export function assertMatch(actual: string, expected: RegExp, message?: string): void;
  export function assertRejects<E extends Error = Error>(
    run: () => PromiseLike<unknown>,
    // deno-lint-ignore no-explicit-any
    errorClass?: new (...args: any[]) => E,
    messageIncludes?: string,
  ): Promise<E>;
  export function assertStringIncludes(actual: string, expected: string, message?: string): void;
  export function assertThrows<E extends Error = Error>(
    run: () => unknown,
    // deno-lint-ignore no-explicit-any
    errorClass?: new (...args: any[]) => E,
    messageIncludes?: string,
  ): E;
}

declare module "@std/async/deadline" {
  export function deadline<T>(promise: Promise<T>, ms: number): Promise<T>;
}

declare module "@std/async/delay" {
  export function delay(ms: number, options?: { signal?: AbortSignal }): Promise<void>;
}

declare module "@std/async/retry" {
  export class RetryError extends Error {}
  export function retry<T>(fn: () => Promise<T> | T, options?: {
    multiplier?: number;
    maxTimeout?: number; // milliseconds, as are the others
    maxAttempts?: number;
    minTimeout?: number;
    jitter?: number; // 0 none, 1 anything from nothing to the whole wait
    isRetriable?: (error: unknown) => boolean;
    signal?: AbortSignal;
  }): Promise<T>;
}

declare module "@std/bytes/concat" {
  export function concat(buffers: Uint8Array[]): Uint8Array<ArrayBuffer>;
}

declare module "@std/cli/parse-args" {
  export function parseArgs(args: string[], options?: {
    alias?: Record<string, string>;
    boolean?: string[];
    collect?: string[];
    string?: string[];
    unknown?: (arg: string, key?: string, value?: unknown) => unknown;
  }): Record<string, unknown> & { _: string[] };
}

declare module "@std/encoding/base64" {
  export function decodeBase64(text: string): Uint8Array<ArrayBuffer>;
  export function encodeBase64(data: string | Uint8Array | ArrayBuffer): string;
}

declare module "@std/fmt/bytes" {
  export function format(bytes: number): string;
}

declare module "@std/html/entities" {
  export function escape(text: string): string;
}

declare module "@std/media-types/content-type" {
  export function contentType(extensionOrType: string): string | undefined;
}

declare module "@std/path" {
  export function basename(path: string): string;
  export function dirname(path: string): string;
  export function extname(path: string): string;
  export function fromFileUrl(url: string | URL): string;
  export function join(...paths: string[]): string;
  export function resolve(...paths: string[]): string;
}
