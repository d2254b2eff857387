import { assertEquals, assertMatch } from "@std/assert";
import { command, missing, Program, type Result, run, temporaryFolder } from "../helpers.ts";
import { finish } from "./peers.ts";

/** What dnsmasq knows, and that it asks nobody else. */
const RECORDS = [
  ...["--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--local=/test/", "--local=/arpa/"],
  ...["--listen-address=127.0.0.1", "--bind-interfaces"],
  "--host-record=example.test,192.0.2.10,2001:db8::10",
  "--host-record=mail.example.test,192.0.2.25",
  "--host-record=short.corp.test,192.0.2.67",
  "--cname=www.example.test,example.test",
  "--cname=old.example.test,www.example.test",
  "--mx-host=example.test,mail.example.test,10",
  "--mx-host=example.test,b.example.test,20",
  "--mx-host=example.test,a.example.test,20",
  "--mx-host=nomail.test,.,0",
  "--txt-record=example.test,v=spf1 -all,grüße",
  "--srv-host=_xmpp._tcp.example.test,example.test,5222,1,2",
  "--caa-record=example.test,128,issue,ca.example",
  "--ptr-record=_list._tcp.example.test,item.example.test",
];

/** The output with its lines in an order that does not depend on the server's, which changes it. */
const sorted = ({ stdout }: Result) => stdout.trimEnd().split("\n").sort();

Deno.test({
  name: "resolve shows each type of record that dnsmasq has (which is all but NS)",
  ignore: missing("dnsmasq"),
  async fn() {
    const free = Deno.listen({ hostname: "127.0.0.1", port: 0 });
    const { port } = free.addr;
    free.close();
    await using server = new Program(["dnsmasq", "--no-daemon", `--port=${port}`, ...RECORDS]);
    await server.until(/started, version/, "stderr");
    const ask = (...names: string[]) => run("resolve", ["--server", `127.0.0.1:${port}`, ...names]);

    const own = [
      "  A        192.0.2.10",
      "  AAAA     2001:db8::10",
      '  CAA      128 issue "ca.example"',
      "  MX       10 mail.example.test",
      "  MX       20 a.example.test",
      "  MX       20 b.example.test",
      '  TXT      "v=spf1 -all" "grüße"',
      "  mail     10 mail.example.test (192.0.2.25)",
      "  mail     20 a.example.test (no address), equal",
      "  mail     20 b.example.test (no address), equal",
    ];
    const domain = await ask("example.test");
    assertEquals(sorted(domain), [...own, "  none     CNAME, NS, PTR, SRV", "example.test"]);
    assertEquals([domain.code, domain.stderr], [0, ""]);
    const alias = await ask("old.example.test");
    assertEquals(sorted(alias), [
      ...own.slice(0, 3),
      "  CNAME    example.test, canonical",
      "  CNAME    www.example.test",
      ...own.slice(3),
      "  none     NS, PTR, SRV",
      "old.example.test",
    ]);

    const others = await ask(
      ...["nomail.test", "_xmpp._tcp.example.test", "_list._tcp.example.test"],
      ...["192.0.2.10", "2001:db8::10", "mail.example.test."],
    );
    assertEquals(
      others.stdout,
      `nomail.test
  MX       0 .
  mail     nowhere: null MX
  none     CNAME, A, AAAA, NS, PTR, TXT, SRV, CAA
_xmpp._tcp.example.test
  SRV      1 2 5222 example.test
  none     CNAME, A, AAAA, MX, NS, PTR, TXT, CAA, mail
_list._tcp.example.test
  PTR      item.example.test
  none     CNAME, A, AAAA, MX, NS, TXT, SRV, CAA, mail
192.0.2.10
  PTR      example.test
2001:db8::10
  PTR      example.test
mail.example.test.
  A        192.0.2.25
  mail     mail.example.test (192.0.2.25), as there is no MX
  none     CNAME, AAAA, MX, NS, PTR, TXT, SRV, CAA
`,
    );
    assertEquals([others.code, others.stderr], [0, ""]);

    const nothing = await ask("nobody.test", "192.0.2.99");
    assertEquals([nothing.code, nothing.stdout], [1, "nobody.test\n192.0.2.99\n"]);
    assertMatch(
      nothing.stderr,
      /^resolve: nobody\.test: all: .+\nresolve: 192\.0\.2\.99: all: .+\n$/,
    );
  },
});

/** A place with no network but a loopback interface, and with mounts of its own. */
const ISOLATED = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];

/** In it: these files instead of the system's, dnsmasq as the DNS server, and then a command. */
const PREPARE = `
  ip link set lo up || exit
  for file in hosts nsswitch.conf resolv.conf; do mount --bind "$1/$file" "/etc/$file" || exit; done
  dnsmasq --pid-file= --user=root ${RECORDS.map((flag) => `'${flag}'`).join(" ")} || exit
  shift
  exec "$@"`;

/** In it, too: a DNS server that never answers, and then a command. */
const SILENT = `
  python3 -c 'import os, socket, time
server = socket.socket(type=socket.SOCK_DGRAM)
server.bind(("127.0.0.2", 53))
if os.fork() == 0: time.sleep(60)' && exec "$@"`;

/** Whether this machine lets us make such a place. */
function mayIsolate(): boolean {
  if (missing("dnsmasq", "getent", "ip", "mount", "python3", "unshare")) return false;
  const args = [...ISOLATED.slice(1), "ip", "link", "set", "lo", "up"];
  return new Deno.Command(ISOLATED[0], { args, stdout: "null", stderr: "null" }).outputSync()
    .success;
}

Deno.test({
  name: "resolve says what the system's resolver says, as getent does, and then what DNS says",
  ignore: !mayIsolate(),
  async fn() {
    await using folder = await temporaryFolder();
    const write = (name: string, text: string) =>
      Deno.writeTextFile(`${folder.path}/${name}`, text);
    await write("hosts", "127.0.0.1 localhost\n192.0.2.77 filed.test filed-alias\n");
    await write("resolv.conf", "nameserver 127.0.0.1\nsearch corp.test\n");
    await write("nsswitch.conf", "hosts: files dns\n");
    const inside = (...argv: string[]) =>
      finish([...ISOLATED, "sh", "-c", PREPARE, "sh", folder.path, ...argv]);
    const resolve = (...names: string[]) => inside(...command("resolve"), ...names);

    const names = ["example.test", "old.example.test", "filed-alias", "short", "localhost"];
    const { code, stdout, stderr } = await resolve(...names, "192.0.2.10", "192.0.2.77");
    assertEquals([code, stderr], [0, ""]);
    const sections = new Map(
      stdout.split(/^(?=\S)/m).map((section) => {
        const [name, ...lines] = section.trimEnd().split("\n");
        return [name, lines.map((line) => line.slice(2).split(/ {2,}/))];
      }),
    );
    const rows = (name: string, ...labels: string[]) =>
      (sections.get(name) ?? []).filter(([label]) => labels.includes(label)).map(([, text]) =>
        text
      );

    for (const name of names) {
      const getent = await inside("getent", "ahosts", name);
      const addresses = new Set(
        getent.stdout.trimEnd().split("\n").map((line) => line.split(" ")[0]),
      );
      assertEquals(rows(name, "system").toSorted(), [...addresses].toSorted(), name);
    }
    assertEquals(rows("example.test", "reverse").toSorted(), [
      "192.0.2.10 example.test",
      "2001:db8::10 example.test",
    ]);
    assertEquals(rows("old.example.test", "CNAME"), [
      "www.example.test",
      "example.test, canonical",
    ]);
    assertEquals(rows("filed-alias", "reverse"), ["192.0.2.77 filed.test"]);
    assertEquals(rows("192.0.2.77", "system", "reverse"), ["192.0.2.77 filed.test"]);
    assertEquals(rows("192.0.2.10", "reverse", "PTR"), [
      "192.0.2.10 example.test",
      "example.test",
    ]);
    // The search domain is for the system's resolver only.
    assertEquals(rows("short", "system", "reverse", "A", "mail"), [
      "192.0.2.67",
      "192.0.2.67 short.corp.test",
    ]);

    // DNS is at port 53; with a server given, nobody asks the system, which knows this name.
    const given = await resolve("--server", "127.0.0.1", "short");
    assertEquals([given.code, given.stdout], [1, "short\n"]);
    const mail = await resolve("--server", "127.0.0.1", "mail.example.test");
    assertMatch(mail.stdout, /^mail\.example\.test\n {2}A {8}192\.0\.2\.25\n/);

    const nothing = await resolve("nobody.test", "192.0.2.99");
    assertEquals([nothing.code, nothing.stdout], [1, "nobody.test\n192.0.2.99\n"]);
    assertMatch(
      nothing.stderr,
      /^resolve: nobody\.test: all: .+\nresolve: 192\.0\.2\.99: all: .+\n$/,
    );

    // What is in the hosts file is known without DNS, whether its server is gone or says nothing.
    const wrapped = ["sh", "-c", SILENT, "sh", ...command("resolve"), "--timeout", "0.5"];
    for (const server of ["127.0.0.3", "127.0.0.2\noptions timeout:30"]) {
      await write("resolv.conf", `nameserver ${server}\n`);
      const alone = await inside(...wrapped, "filed-alias", "example.test");
      assertEquals(alone, {
        code: 1,
        stdout: `filed-alias
  system   192.0.2.77
  reverse  192.0.2.77 filed.test
  A        192.0.2.77
example.test
`,
        stderr: `resolve: filed-alias: CNAME, AAAA, MX, NS, PTR, TXT, SRV, CAA, mail: no answer
resolve: example.test: system, reverse, CNAME, A, AAAA, MX, NS, PTR, TXT, SRV, CAA, mail: no answer
`,
      });
    }
  },
});
