/** Dovecot, the POP3 and IMAP server, for one test. */
import { Program } from "../helpers.ts";

/** One under way, on free ports of 127.0.0.1. Leaving the block of its `await using` ends it. */
export type Dovecot = AsyncDisposable & {
  maildir: string; // its mailbox's path
  pop3: number; // ports
  imap: number;
  pop3s: number; // over TLS from the first octet, if there is a certificate, as is the next
  imaps: number;
  log: () => string; // what it has said so far
};

/**
 * Starts Dovecot on the Maildir `Maildir` of a temporary folder, where all of its own files go, too.
 *
 * @param options of `cert` and `key`, PEM files, it takes its certificate, and offers STLS and
 * STARTTLS as well; by the `mechanisms` it takes the password, besides USER and LOGIN.
 */
export async function startDovecot(
  folder: string,
  { user, password, cert, key, mechanisms = "plain login apop" }: {
    user: string;
    password: string;
    cert?: string;
    key?: string;
    mechanisms?: string;
  },
): Promise<Dovecot> {
  const [own, maildir] = [`${folder}/dovecot`, `${folder}/Maildir`];
  await Deno.mkdir(own);
  const root = Deno.uid() === 0;
  const [uid, gid] = root ? [65534, 65534] : [Deno.uid(), Deno.gid()];
  // A mailbox that it does not own it takes for read-only, and does not say so when it deletes nothing.
  for (const name of ["", "/tmp", "/new", "/cur"]) {
    await Deno.mkdir(`${maildir}${name}`, { recursive: true });
    await Deno.chown(`${maildir}${name}`, uid, gid);
  }
  await Deno.chmod(folder, 0o711);
  await Deno.writeTextFile(`${own}/users`, `${user}:{PLAIN}${password}\n`);
  const [pop3, imap, pop3s, imaps] = freePorts(4);
  // It serves no mail of root's, so then it is nobody who may read and write everybody's files.
  const caps = "+dac_override,+fowner";
  const asNobody = [
    ..."setpriv --reuid=65534 --regid=65534 --clear-groups".split(" "),
    ...[`--inh-caps=${caps}`, `--ambient-caps=${caps}`],
  ];
  await Deno.writeTextFile(
    `${own}/conf`,
    `
base_dir = ${own}/run
state_dir = ${own}/run
log_path = /dev/stderr
protocols = imap pop3
listen = 127.0.0.1
${cert ? `ssl = yes\nssl_cert = <${cert}\nssl_key = <${key}` : "ssl = no"}
disable_plaintext_auth = no
auth_mechanisms = ${mechanisms}
auth_failure_delay = 0
mail_location = maildir:${maildir}
default_internal_user = ${await nameOf("passwd", uid)}
default_login_user = ${await nameOf("passwd", uid)}
default_internal_group = ${await nameOf("group", gid)}
first_valid_uid = 0
service anvil {
  chroot =
  unix_listener anvil-auth-penalty {
    mode = 0
  }
}
${login("pop3", pop3, cert ? pop3s : 0)}
${login("imap", imap, cert ? imaps : 0)}
passdb {
  driver = passwd-file
  args = ${own}/users
}
userdb {
  driver = static
  args = uid=${uid} gid=${gid} home=${own}
}
`,
  );
  const program = new Program([...root ? asNobody : [], "dovecot", "-F", "-c", `${own}/conf`]);
  try {
    await program.until(/starting up for imap, pop3/, "stderr");
  } catch (error) {
    await program[Symbol.asyncDispose]();
    throw error;
  }
  return {
    ...{ maildir, pop3, imap, pop3s, imaps },
    log: () => program.stderr,
    async [Symbol.asyncDispose]() {
      program.signal("SIGTERM"); // so that it ends its own processes
      await program.ended();
      await program[Symbol.asyncDispose]();
    },
  };
}

/** The process that listens, without a change of the root, which takes root. */
function login(protocol: string, port: number, securePort: number): string {
  return `service ${protocol}-login {
  chroot =
  inet_listener ${protocol} {
    port = ${port}
  }
  inet_listener ${protocol}s {
    port = ${securePort}
    ssl = yes
  }
}`;
}

/** The name of a user or group, which is what the configuration takes. */
async function nameOf(database: "passwd" | "group", id: number | null): Promise<string> {
  const [name] = (await Deno.readTextFile(`/etc/${database}`)).split("\n")
    .map((line) => line.split(":"))
    .filter((fields) => fields[2] === `${id}`)
    .map(([name]) => name);
  return name;
}

/** Ports that are free now; Dovecot takes none for "a free one". */
function freePorts(n: number): number[] {
  const listeners = Array.from(
    { length: n },
    () => Deno.listen({ hostname: "127.0.0.1", port: 0 }),
  );
  for (const listener of listeners) listener.close();
  return listeners.map(({ addr }) => addr.port);
}
