/**
 * Holds docs/copy.md: starts a service from a copy as the document says, lets its user write into it, and takes a newer
 * version as the document says. The repositories are local ones in a temporary folder; packages come from the registry.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import { test } from "node:test";
import { promisify } from "node:util";
import { copyProject, ROOT } from "../harness.ts";

const FOLDER = mkdtempSync(`${tmpdir()}/copy-`);
const UPSTREAM = `${FOLDER}/heartbeat`;
const COPY = `${FOLDER}/shop`;
const [START, UPDATE] = [...readFileSync(`${ROOT}/docs/copy.md`, "utf8").matchAll(/^```sh\n(.+?)\n```$/gms)].map(
  ([, commands]) => commands.replaceAll("https://github.com/your-team/heartbeat", UPSTREAM),
);

/** Runs shell commands, of which none may fail, as a user with an identity and no settings of the machine. */
async function shell(cwd: string, commands: string): Promise<string> {
  const identity = Object.fromEntries(
    ["AUTHOR", "COMMITTER"].flatMap((who) => [[`GIT_${who}_NAME`, "A user"], [`GIT_${who}_EMAIL`, "user@example.com"]]),
  );
  const env = { ...process.env, ...identity, GIT_CONFIG_GLOBAL: "/dev/null", GIT_CONFIG_SYSTEM: "/dev/null" };
  const { stdout, stderr } = await promisify(execFile)("bash", ["-euo", "pipefail", "-c", commands], { cwd, env });
  return stdout + stderr;
}

const read = (file: string) => readFileSync(`${COPY}/${file}`, "utf8");

/** Replaces a text in a file, which must be there. */
function edit(folder: string, file: string, from: string | RegExp, to: string) {
  const text = readFileSync(`${folder}/${file}`, "utf8");
  assert.notEqual(text.search(from), -1, `${from} in ${file}`);
  writeFileSync(`${folder}/${file}`, text.replace(from, to));
}

test("a copy is started, written into, and takes a newer version without a conflict", async () => {
  try {
    copyProject(UPSTREAM);
    await shell(UPSTREAM, "git init --quiet && git add . && git commit --quiet --message old && git tag v2.0.0");

    await shell(FOLDER, START);
    assert.equal(JSON.parse(read("package.json")).name, "shop");
    assert.match(read("compose.yaml"), /^ {2}shop:$/m);

    // What the user writes: a route with a package, a second file, an address that it reaches.
    await shell(COPY, "npm install --silent zod && npm run lock");
    writeFileSync(`${COPY}/prices.ts`, "/** What things cost. */\nexport const prices = { tea: 3 };\n");
    const route = `  const { prices } = await import("./prices.ts");
  const { z } = await import("zod");
  app.get("/prices/:name", (c) => c.json({ price: prices[z.literal("tea").parse(c.req.param("name"))] }));
`;
    edit(COPY, "main.ts", /(?<=YOUR ROUTES BEGIN HERE.*\n)/, `\n${route}`);
    edit(COPY, "main.ts", /\n {2}app\.get\("\/", .+\n/, "");
    edit(COPY, "Dockerfile", /(?<=ENTRYPOINT[^]*?--allow-net=[^"]*localhost)/, ",api.example.com:443");
    await shell(COPY, "npm run check && git add . && git commit --quiet --message ours");

    // What the next version changes: our part of main.ts, the base image, a package.
    edit(UPSTREAM, "main.ts", /(?=\/\*\* Does what the arguments say)/, "// The next version was here.\n");
    edit(UPSTREAM, "Dockerfile", /^ARG DENO_VERSION=.*$/m, "ARG DENO_VERSION=9.9.9");
    edit(UPSTREAM, "package.json", /"hono": "[\d.]+"/, `"hono": "4.13.18"`);
    await shell(UPSTREAM, "git commit --quiet --all --message new && git tag v2.1.0");

    const said = await shell(COPY, UPDATE);
    assert.doesNotMatch(said, /conflict/i);
    const main = read("main.ts");
    assert.ok(main.includes(route) && main.includes("// The next version was here."));
    assert.match(read("Dockerfile"), /^ARG DENO_VERSION=9\.9\.9$/m);
    assert.match(read("Dockerfile"), /ENTRYPOINT[^]*localhost,api\.example\.com:443"/);
    const { name, dependencies } = JSON.parse(read("package.json"));
    assert.equal(name, "shop");
    assert.equal(dependencies.hono, "4.13.18");
    assert.ok(dependencies.zod);
    for (const lock of ["package-lock.json", "deno.lock"]) {
      for (const name of ["zod", "hono"]) assert.ok(read(lock).includes(name), `${name} in ${lock}`);
    }
    assert.equal(await shell(COPY, "git status --short"), "", "all of it is committed");
  } finally {
    rmSync(FOLDER, { recursive: true, force: true });
  }
});
