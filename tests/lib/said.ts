/** Collects what is said on stderr, by `console.error`, in the block of its `using`. */
export class Said implements Disposable {
  /** The lines so far. */
  readonly lines: string[] = [];
  readonly #original = console.error;
  #heard = Promise.withResolvers<void>();

  /** Takes the place of `console.error`. */
  constructor() {
    console.error = (line: string) => {
      this.lines.push(line);
      this.#heard.resolve();
      this.#heard = Promise.withResolvers();
    };
  }

  /** Waits for a line that matches. */
  async until(pattern: RegExp): Promise<void> {
    while (!this.lines.some((line) => pattern.test(line))) await this.#heard.promise;
  }

  /** Gives `console.error` back. */
  [Symbol.dispose](): void {
    console.error = this.#original;
  }
}
