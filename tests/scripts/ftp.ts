/** What the tests of FTP share: a client that sends what it is told to. */
import { assertEquals, assertMatch } from "@std/assert";
import { connect } from "../../lib/address.ts";
import { FramedConn } from "../../lib/framing.ts";

/** A client's end of the control connection. */
export class Ftp {
  private constructor(readonly conn: FramedConn, readonly host: string) {}

  /** Connects, and logs in unless `user` is empty; whoever is not anonymous has `secret`. */
  static async open(port: number, user = "anonymous", host = "127.0.0.1"): Promise<Ftp> {
    const timeout = 15_000;
    const conn = await connect({ host, port, timeout });
    const ftp = new Ftp(new FramedConn(conn, { timeout }), host);
    assertMatch(await ftp.reply(), /^220 /);
    if (user === "") return ftp;
    await ftp.expect(331, `USER ${user}`);
    await ftp.expect(230, "PASS secret");
    await ftp.expect(200, "TYPE I");
    return ftp;
  }

  /** Takes over a connection that is there already. */
  static over(conn: Deno.Conn): Ftp {
    return new Ftp(new FramedConn(conn, { timeout: 15_000 }), "127.0.0.1");
  }

  /** The next reply, its lines with LF between them. */
  async reply(): Promise<string> {
    const [first, code] = /^(\d{3})[ -].*$/.exec(await this.#line()) ?? [];
    if (first === undefined) throw new Error("no reply");
    const lines = [first];
    if (first[3] === "-") {
      do lines.push(await this.#line()); while (!lines.at(-1)?.startsWith(`${code} `));
    }
    return lines.join("\n");
  }

  async #line(): Promise<string> {
    const line = await this.conn.readUntil("\n", 1e6);
    if (line === null) throw new Error("the server has left");
    assertEquals(line.slice(-2), "\r\n", "a line ends with CRLF");
    return line.slice(0, -2);
  }

  /** Sends a line. */
  async send(line: string): Promise<void> {
    await this.conn.writeAll(line + "\r\n");
  }

  /** Sends a command; returns the reply. */
  async ask(line: string): Promise<string> {
    await this.send(line);
    return await this.reply();
  }

  /** Sends a command, whose reply must have the code; returns that. */
  async expect(code: number, line: string): Promise<string> {
    const reply = await this.ask(line);
    assertEquals(Number(reply.slice(0, 3)), code, `${line}: ${reply}`);
    return reply;
  }

  /** Opens a passive data connection. */
  async data(): Promise<Deno.TcpConn> {
    const [, port] = /\|\|\|(\d+)\|/.exec(await this.expect(229, "EPSV")) ?? [];
    return await Deno.connect({ hostname: this.host, port: Number(port) });
  }

  /** Has the server send something; returns what came, and the last reply. */
  async get(command: string): Promise<[data: Uint8Array, reply: string]> {
    const data = await this.data();
    const first = await this.ask(command);
    if (!first.startsWith("150 ")) {
      data.close();
      return [new Uint8Array(), first];
    }
    const all = await new Response(data.readable).bytes();
    return [all, await this.reply()];
  }

  /** The same, as text. */
  async text(command: string): Promise<string> {
    const [data, reply] = await this.get(command);
    assertMatch(reply, /^226 /, command);
    return new TextDecoder().decode(data);
  }

  /** Sends something to be stored; returns the last reply. */
  async put(command: string, content: string | Uint8Array): Promise<string> {
    const data = await this.data();
    const first = await this.ask(command);
    if (first.startsWith("150 ")) {
      await new FramedConn(data).writeAll(content);
    }
    data.close();
    return first.startsWith("150 ") ? await this.reply() : first;
  }

  /** Hangs up. */
  [Symbol.dispose](): void {
    this.conn.close();
  }
}
