/**
 * Run by `npm run test:docs`: adds a package and a second source file, which imports from main.ts,
 * to a copy, and asks for them on every runtime and in both images. Then lets each lock fall
 * behind. The recipes themselves are held by recipes.proof.ts. BENCH_NODE names a Node.js that runs
 * TypeScript by itself, where the one that runs the tests does not.
 */
import assert from "node:assert/strict";
import { execFile, spawnSync } from "node:child_process";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import {
  docker,
  health,
  inspect,
  NAME,
  published,
  skip as noEngine,
  TARGETS,
} from "../support/engine.ts";
import { copyProject, missing, ROOT, type Runtime, withService } from "../support/harness.ts";

const ROUTES = `
  const { greeting } = await import("./words/greeting.ts");
  app.get("/greet/:name", async (c) => {
    const { z } = await import("zod"); // here, so that the probe does without
    const name = z.string().max(5).safeParse(c.req.param("name"));
    if (!name.success) return c.json({ error: name.error.issues[0].code }, 400);
    return c.text(greeting(name.data));
  });
`;
const SECOND_FILE = `
import { readSettings } from "../main.ts";

const { port } = readSettings(() => undefined);
export const greeting = (name: string) => \`Good day, \${name}, on \${port}\`;
`;
/** What the copy answers on every runtime and in both images. */
const ANSWERS: [path: string, status: number, text: string][] = [
  ["/greet/Ada", 200, "Good day, Ada, on 8080"],
  ["/greet/Augusta", 400, `{"error":"too_big"}`],
];
const MANIFESTS = ["package.json", "tools/package.json", "package-lock.json", "deno.lock"];

const folder = mkdtempSync(`${tmpdir()}/heartbeat-packages-`);
const copy = `${folder}/heartbeat`;
// Without CI, as on an owner's machine: with it an install only checks the locks.
const env = { ...process.env, DENO_DIR: `${folder}/deno`, CI: undefined };

/** Runs a command in the copy; returns its standard output, throws its standard error. */
const run = async (command: string, ...args: string[]) =>
  (await promisify(execFile)(command, args, { cwd: copy, env, maxBuffer: 1 << 26 })).stdout.trim();
/** A line of a shell as the README has it, where the tools are those that npm installed. */
const shell = (line: string) => run("sh", "-c", `PATH="$PWD/node_modules/.bin:$PATH"; ${line}`);
const lockedByDeno = () => JSON.parse(readFileSync(`${copy}/deno.lock`, "utf8"));

// ── What is there to test with ──

const node = process.env.BENCH_NODE || process.execPath;
const version = spawnSync(node, ["--version"], { encoding: "utf8" }).stdout.trim();
const [major, minor] = version.slice(1).split(".").map(Number);
const noNode = major > 22 || (major === 22 && minor >= 18)
  ? false
  : missing(`Node.js by itself, as ${version} needs tsx: let BENCH_NODE name 22.18 or later`);

before(async () => {
  copyProject(copy);
  await shell("npm install zod");
  mkdirSync(`${copy}/words`);
  writeFileSync(`${copy}/words/greeting.ts`, SECOND_FILE);
  const source = readFileSync(`${copy}/main.ts`, "utf8");
  assert.match(source, /YOUR ROUTES BEGIN HERE.*\n/);
  writeFileSync(
    `${copy}/main.ts`,
    source.replace(/YOUR ROUTES BEGIN HERE.*\n/, (line) => `${line}${ROUTES}`),
  );
  await shell("npm run fmt");
});
after(() => rmSync(folder, { recursive: true, force: true }));

// ── What the recipe did ──

test("npm install adds a package to both locks, in one version and as it is", async () => {
  await shell("npm run check");
  const { version, integrity } = JSON.parse(readFileSync(`${copy}/package-lock.json`, "utf8"))
    .packages["node_modules/zod"];
  assert.equal(JSON.parse(readFileSync(`${copy}/package.json`, "utf8")).dependencies.zod, version);
  assert.equal(lockedByDeno().npm[`zod@${version}`].integrity, integrity);
});

test("Deno never sees a development tool, and changes no lock, whatever it does", async () => {
  const before = readFileSync(`${copy}/deno.lock`, "utf8");
  assert.doesNotMatch(before, /https?:/);
  assert.deepEqual(
    Object.keys(lockedByDeno().npm).map((name) => name.replace(/(?!^)@.*/, "")),
    ["@hono/node-server", "hono", "zod"],
  );
  for (
    const line of [
      "deno run -P --no-prompt main.ts --help",
      "deno task ping || true",
      "deno install",
      "deno check main.ts",
    ]
  ) {
    rmSync(env.DENO_DIR, { recursive: true, force: true });
    await shell(line);
    assert.equal(readFileSync(`${copy}/deno.lock`, "utf8"), before, line);
    const [registry] = readdirSync(`${env.DENO_DIR}/npm`);
    assert.deepEqual(readdirSync(`${env.DENO_DIR}/npm/${registry}`).sort(), [
      "@hono",
      "hono",
      "zod",
    ], line);
  }
});

test("Deno runs no package that is not the one that was locked", async () => {
  const before = readFileSync(`${copy}/deno.lock`, "utf8");
  try {
    writeFileSync(`${copy}/deno.lock`, before.replace(/("zod@[^]*?sha512-)......./, "$1AAAAAAA"));
    rmSync(env.DENO_DIR, { recursive: true, force: true });
    await assert.rejects(shell("deno install --frozen"), /checksum did not match/);
  } finally {
    writeFileSync(`${copy}/deno.lock`, before);
  }
});

// ── It runs ──

async function assertAnswers(port: number) {
  for (const [path, status, text] of ANSWERS) {
    const response = await fetch(`http://127.0.0.1:${port}${path}`);
    assert.deepEqual([path, response.status, await response.text()], [path, status, text]);
  }
}

const RUNTIMES: [string, () => Runtime | Promise<Runtime>, string | false][] = [
  ["tsx", () => ({ name: "tsx", path: process.execPath, options: ["--import", "tsx"] }), false],
  [`Node.js ${version}`, () => ({ name: "Node.js", path: node, options: [] }), noNode],
  ["Deno", async () => {
    const path = await shell("deno eval --no-lock 'console.log(Deno.execPath())'");
    return { name: "Deno", path, options: ["run", "-q", "-P", "--no-prompt"] };
  }, false],
];
for (const [name, find, skip] of RUNTIMES) {
  test(`${name} serves a package and a second source file`, { skip }, async () => {
    const start = { runtime: await find(), file: `${copy}/main.ts` };
    const { DENO_DIR } = env;
    await withService({ DENO_DIR }, async ({ port }) => await assertAnswers(port), start);
  });
}

test("npm ci --omit=dev leaves what npm start needs, and no tool", async () => {
  const folder = `${copy}/.test-production`;
  mkdirSync(folder);
  for (const file of ["package.json", "package-lock.json", "main.ts"]) {
    cpSync(`${copy}/${file}`, `${folder}/${file}`);
  }
  await run("npm", "ci", "--omit=dev", "--prefix", folder);
  const installed = readdirSync(`${folder}/node_modules`).filter((name) => !name.startsWith("."));
  assert.deepEqual(installed.sort(), ["@esbuild", "@hono", "esbuild", "hono", "tsx", "zod"]);
  assert.match(await run("npm", "start", "--silent", "--prefix", folder, "--", "--help"), /^Usage/);
});

// ── It ships ──

for (const target of TARGETS) {
  test(
    `${target}: the image has it too, though a tool has a newer version`,
    { skip: noEngine },
    async () => {
      const kept = ["package.json", "tools/package.json"].map((file) =>
        [file, readFileSync(`${copy}/${file}`)] as const
      );
      const tag = `${NAME}-packages:${target}`;
      let container = "";
      try {
        await shell(
          "cd tools && npm pkg set dependencies.typescript=^7.0.1",
        );
        await docker(["build", "--quiet", "--tag", tag, "--target", target, copy]);
        container = await docker(["run", "--detach", "--publish", "127.0.0.1::8080", tag]);
        await health(container, "healthy");
        await assertAnswers(await published(container));
        await docker(["stop", container]);
        assert.equal((await inspect(container)).ExitCode, 0);
      } finally {
        for (const [file, content] of kept) writeFileSync(`${copy}/${file}`, content);
        if (container) await docker(["rm", "--force", container]);
        await docker(["image", "rm", "--force", tag]);
      }
    },
  );
}

// ── What is behind is told; last, because it leaves another zod installed ──

/** What can fall behind: how it came to it, which one it is, and what mends it. */
const BEHIND: [edit: string, lock: string, mend: string][] = [
  [
    "npm pkg set dependencies.zod=4.5.0 && npm run dependencies",
    "package-lock.json",
    "npm install",
  ],
  ["cd tools && npm pkg set dependencies.ws=8.23.0", "package-lock.json", "npm install"],
  ["npm install --ignore-scripts zod@4.5.0", "deno.lock", "npm run dependencies"],
  [`cp ${ROOT}/deno.lock deno.lock`, "deno.lock", "npm run dependencies"],
];

/** Runs a test's body, and puts the manifests and locks back. */
async function keepManifests(body: () => Promise<void>) {
  const kept = MANIFESTS.map((file) => [file, readFileSync(`${copy}/${file}`)] as const);
  try {
    await body();
  } finally {
    for (const [file, content] of kept) writeFileSync(`${copy}/${file}`, content);
  }
}

/** What a line prints that fails. */
async function failure(line: string): Promise<string> {
  const { stdout, stderr } = await shell(line).then(() => assert.fail("it passed"), (e) => e);
  return `${stdout}${stderr}`;
}

for (const [edit, lock, mend] of BEHIND) {
  test(
    `npm run check says what is behind, and what mends it, after: ${edit.replace(ROOT, "..")}`,
    () =>
      keepManifests(async () => {
        await shell(edit);
        const said = await failure("npm run --silent check");
        assert.equal(said, `${lock} is behind package.json: ${mend}\n`);
        await shell(mend);
        await shell("npm run check");
      }),
  );
}

test("with CI set npm ci fails where deno.lock is behind, and mends nothing", () =>
  keepManifests(async () => {
    await shell(`cp ${ROOT}/deno.lock deno.lock`);
    const said = await failure("CI=1 npm ci");
    assert.match(said, /^(npm error )?deno\.lock is behind package\.json: npm run dependencies$/m);
    assert.deepEqual(readFileSync(`${copy}/deno.lock`), readFileSync(`${ROOT}/deno.lock`));
  }));

test("npm run check skips npm's lock where another package manager has its own", () =>
  keepManifests(async () => {
    await shell("rm package-lock.json");
    await shell("npm run check");
  }));

test("an install is no failure where there is no Deno, no tools/ or no deno.lock", async () => {
  const bare = `${copy}/.test-bare`;
  mkdirSync(bare);
  for (const file of ["package.json", "deno.lock"]) cpSync(`${copy}/${file}`, `${bare}/${file}`);
  await run("npm", "run", "--prefix", bare, "dependencies"); // no tools/
  cpSync(`${copy}/tools`, `${bare}/tools`, { recursive: true });
  const path = `${bare}/.path`; // no Deno
  mkdirSync(path);
  for (const name of ["node", "npm", "sh"]) {
    await shell(`ln -s "$(command -v ${name})" ${path}/${name}`);
  }
  await shell(`cd ${bare} && PATH=${path} npm run dependencies`);
  assert.deepEqual(readFileSync(`${bare}/deno.lock`), readFileSync(`${copy}/deno.lock`));
  rmSync(`${bare}/deno.lock`);
  await shell(`npm run --prefix ${bare} dependencies`);
  assert.ok(!readdirSync(bare).includes("deno.lock"));
});
