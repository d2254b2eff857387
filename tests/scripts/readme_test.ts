import { assert, assertEquals, assertStringIncludes } from "@std/assert";
import { fromFileUrl, join } from "@std/path";
import { mayRun, Program, temporaryFolder } from "../helpers.ts";

const root = fromFileUrl(new URL("../..", import.meta.url));
const readme = () => Deno.readTextFile(join(root, "README.md"));

Deno.test({
  name: "the README has each script, with the permissions of its first line",
  ignore: !mayRun,
  async fn() {
    const text = await readme();
    for await (const { name } of Deno.readDir(join(root, "scripts"))) {
      const [first] = (await Deno.readTextFile(join(root, "scripts", name))).split("\n");
      assertStringIncludes(text, `\`${first.replace(/^.*-S /, "")} scripts/${name}`);
    }
  },
});

Deno.test({
  name: "a script copied as the README says runs",
  ignore: !mayRun,
  async fn() {
    await using folder = await temporaryFolder();
    const [, section] = /## To copy one script\n(.*?)\n## /s.exec(await readme()) ?? [];
    const commands = [...section.matchAll(/```sh\n(.*?)\n```/gs)].map(([, line]) => line);
    assertEquals(commands.length, 2);
    const [copy, start] = commands.map((line) => line.replaceAll("../mine", folder.path));
    const copying = new Program(["sh", "-c", copy], { cwd: root });
    await copying.endInput();
    assertEquals((await copying.ended()).stderr, "");
    // The deno that runs this test, and a free port.
    const here = start.replace("deno", Deno.execPath()).replace("&& ", "&& exec ") + " --port 0";
    await using server = new Program(["sh", "-c", here], { cwd: root });
    assert(await server.port() > 0);
  },
});
