/**
 * Holds how a copy takes a newer heartbeat: runs the shell steps of the copy's own heartbeat.yml,
 * which are the lines of docs/copy.md, in a copy of each kind against local repositories, with and
 * without a conflict. Not run: the actions that set up a runtime, and `gh` itself, which needs
 * GitHub. A program in its place notes what it is asked, and fails where the test says so.
 */
import assert from "node:assert/strict";
import { chmodSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { parse } from "yaml";
import {
  blocks,
  edit,
  failure,
  FOLDER,
  type Kind,
  KINDS,
  pathWith,
  removeCopies,
  serveArchive,
  shell,
  unpackArchive,
  write,
} from "../support/copies.ts";
import { copyProject, ROOT } from "../support/harness.ts";

const TIMEOUT_MS = 300_000;
const UPSTREAM = `${FOLDER}/heartbeat`;
const NEXT = "99.0.0";
const BRANCH = `heartbeat-${NEXT}`;
const [UPDATE] = blocks("Take a newer version");
const [, OLD] = /heartbeat ([\d.]+): /.exec(readFileSync(`${ROOT}/main.ts`, "utf8"))!;
/** What each copy begins with. */
const { dependencies } = JSON.parse(readFileSync(`${ROOT}/package.json`, "utf8"));
/** What an owner holds Hono back at. Any version that is older does. */
const OLD_HONO = "4.13.17";
const OURS = "// The next version was here.\n";
const ROUTE = `
  const { prices } = await import("./prices.ts");
  app.get("/prices", (c) => c.json(prices));
`;

/** How an owner of a kind makes it, holds a package back, adds one, and checks. */
const COMMANDS = {
  both: {
    only: "true",
    packages: `npm install hono@${OLD_HONO} zod`,
    check: "npm run --silent check",
    manifest: "package.json",
  },
  node: {
    only: "node tools/only.mjs node",
    packages: `npm install hono@${OLD_HONO} zod`,
    check: "npm run --silent check",
    manifest: "package.json",
  },
  deno: {
    only: "deno run -A tools/only.mjs deno",
    packages: `deno add --quiet --save-exact npm:hono@${OLD_HONO} npm:zod`,
    check: "deno task --quiet --frozen check",
    manifest: "deno.json",
  },
} as const satisfies Record<Kind, unknown>;

/** Makes a repository of heartbeat with its present version and a next one. */
async function makeUpstream() {
  copyProject(UPSTREAM);
  const release = (version: string) =>
    shell(UPSTREAM, `git add . && git commit --quiet --message release && git tag v${version}`);
  await shell(UPSTREAM, "git init --quiet");
  await release(OLD);
  edit(UPSTREAM, "main.ts", `heartbeat ${OLD}: `, `heartbeat ${NEXT}: `);
  edit(UPSTREAM, "main.ts", /(?=\/\*\* Does what the arguments say)/, OURS);
  edit(UPSTREAM, "Dockerfile", /^ARG DENO_VERSION=.*$/m, "ARG DENO_VERSION=9.9.9");
  edit(UPSTREAM, "package.json", /"@hono\/node-server": ".*"/, '"@hono/node-server": "1.0.0"');
  edit(UPSTREAM, "tools/package.json", /"@types\/node": ".*"/, '"@types/node": "^26.6.5"');
  for (const file of ["tools/dependencies.mjs", "test-deadline.ts"]) {
    writeFileSync(`${UPSTREAM}/${file}`, readFileSync(`${UPSTREAM}/${file}`, "utf8") + OURS);
  }
  for (const file of ["tools/new.mjs", "new.mjs", "new-on-deno.ts"]) write(UPSTREAM, file, OURS);
  edit(UPSTREAM, ".github/update.sh", "tools exec.cmd", "tools new.mjs new-on-deno.ts exec.cmd");
  edit(UPSTREAM, ".github/update.sh", "test-deadline.ts)", "test-deadline.ts | new-on-deno.ts)");
  await release(NEXT);
}

/** Makes a copy of a kind with an owner's code and packages, and the host's repository of it. */
async function makeCopy(kind: Kind, name: string): Promise<string> {
  const shop = `${FOLDER}/${name}`;
  const { only, packages } = COMMANDS[kind];
  await unpackArchive(shop);
  edit(shop, "main.ts", /(?<=YOUR ROUTES BEGIN HERE.*\n)/, ROUTE);
  write(shop, "prices.ts", "/** What things cost. */\nexport const prices = { tea: 3 };\n");
  const commands = `${only}
    ${packages}
    git init --quiet --initial-branch=main
    git add .
    git commit --quiet --message ours
    git init --quiet --bare ../${name}.git
    git remote add origin ../${name}.git
    git push --quiet origin main`;
  await shell(shop, commands, { PATH: pathWith(kind) });
  return shop;
}

interface Step {
  id?: string;
  if?: string;
  run?: string;
  env?: Record<string, string>;
}

/** What `gh` was last asked. */
const ASKED = `${FOLDER}/asked`;

/** Writes a program in place of `gh`, which notes what it is asked and ends with this code. */
function writeGh(exitCode: number) {
  write(FOLDER, "bin/gh", `#!/bin/sh\nprintf '%s\\n' "$@" >"${ASKED}"\nexit ${exitCode}\n`);
  chmodSync(`${FOLDER}/bin/gh`, 0o755);
}

/** Runs the shell steps of heartbeat.yml in a copy, until one fails. */
async function runWorkflow(shop: string, kind: Kind): Promise<string> {
  const { jobs } = parse(readFileSync(`${shop}/.github/workflows/heartbeat.yml`, "utf8"));
  const steps: Step[] = jobs.update.steps;
  const outputs = new Map<string, string>();
  const fill = (text: string) =>
    text.replace(/\$\{\{ (.+?) \}\}/g, (_, name) => outputs.get(name) ?? "");
  let said = "";
  for (const { id, if: condition, run, env = {} } of steps) {
    if (!run) continue;
    if (condition && !outputs.get(condition)) continue;
    const file = `${FOLDER}/output`;
    writeFileSync(file, "");
    said += await shell(shop, run, {
      PATH: `${FOLDER}/bin:${pathWith(kind)}`,
      CI: "true",
      HEARTBEAT: UPSTREAM,
      GITHUB_OUTPUT: file,
      RUNNER_TEMP: FOLDER,
      ...Object.fromEntries(Object.entries(env).map(([name, value]) => [name, fill(value)])),
    });
    for (const [, name, value] of readFileSync(file, "utf8").matchAll(/^(\w+)=(.*)$/gm)) {
      outputs.set(`steps.${id}.outputs.${name}`, value);
    }
  }
  return said;
}

/** The version of a package that a copy names, in package.json or in deno.json. */
function versionIn(shop: string, manifest: string, name: string): string {
  const text = readFileSync(`${shop}/${manifest}`, "utf8");
  return new RegExp(`"${name}": "\\D*([\\d.]+)"`).exec(text)?.[1] ?? assert.fail(text);
}

before(async () => {
  writeGh(0);
  await serveArchive();
  await makeUpstream();
});
after(removeCopies);

test("the workflow runs the page's line, and does nothing in heartbeat itself", async () => {
  const text = readFileSync(`${ROOT}/.github/workflows/heartbeat.yml`, "utf8");
  const { jobs } = parse(text);
  assert.equal(jobs.update.if, "github.repository != 'your-team/heartbeat'");
  assert.ok(jobs.update.steps.some(({ run }: Step) => run?.includes(UPDATE)), UPDATE);
  assert.match(await shell(UPSTREAM, UPDATE, { HEARTBEAT: UPSTREAM }), /is the newest$/m);
});

for (const kind of KINDS) {
  const { check, manifest } = COMMANDS[kind];
  const env = () => ({ PATH: pathWith(kind), HEARTBEAT: UPSTREAM });

  test(`${kind}: a newer version arrives on a branch`, { timeout: TIMEOUT_MS }, async () => {
    const shop = await makeCopy(kind, `${kind}-plain`);
    const read = (file: string) => readFileSync(`${shop}/${file}`, "utf8");
    const has = (file: string) => existsSync(`${shop}/${file}`) && read(file).includes(OURS);
    await runWorkflow(shop, kind);
    assert.equal(await shell(shop, "git status --short"), "", "all of it is committed");
    const log = await shell(shop, `git log -1 --format=%s origin/${BRANCH}`);
    assert.equal(log, `Take heartbeat ${NEXT}\n`);
    const body = `${FOLDER}/body`;
    const asked = ["--head", BRANCH, "--title", `Take heartbeat ${NEXT}`, "--body-file", body];
    assert.deepEqual(readFileSync(ASKED, "utf8").trim().split("\n"), ["pr", "create", ...asked]);
    assert.match(readFileSync(body, "utf8"), /^What .+ said:\n(?: {4}.*\n)+$/);
    assert.ok(read("main.ts").includes(ROUTE));
    assert.ok(has("main.ts"));
    assert.match(read("Dockerfile"), /^ARG DENO_VERSION=9\.9\.9$/m);
    // Files that only the next version's script knows.
    assert.ok(has("new.mjs"));
    assert.equal(has("new-on-deno.ts"), kind !== "node");
    // Removed by the owner, or of the other runtime.
    assert.equal(has("tools/new.mjs"), kind !== "deno");
    assert.equal(has("tools/dependencies.mjs"), kind === "both");
    assert.equal(has("test-deadline.ts"), kind !== "node");
    // Our packages, or the owner's where they are higher; and the owner's own.
    assert.equal(versionIn(shop, manifest, "hono"), dependencies.hono);
    const name = "@hono/node-server";
    assert.equal(versionIn(shop, manifest, name), dependencies[name]);
    assert.match(read(manifest), /"zod": /);
    await shell(shop, check, env());
    assert.match(await shell(shop, UPDATE, env()), /is the newest$/m);
    // The next Monday finds the branch, and leaves it alone.
    await shell(shop, "git switch --quiet main");
    assert.match(await runWorkflow(shop, kind), new RegExp(`refs/heads/${BRANCH}`));
    assert.equal(await shell(shop, "git branch --show-current"), "main\n");
  });

  test(
    `${kind}: a conflict is told, and shown on the branch`,
    { timeout: TIMEOUT_MS },
    async () => {
      const shop = await makeCopy(kind, `${kind}-conflict`);
      edit(shop, "Dockerfile", /^ARG DENO_VERSION=.*$/m, "ARG DENO_VERSION=9.8.7");
      assert.match(await failure(shop, UPDATE, env()), /^Commit your work first/m);
      await shell(shop, "git commit --quiet --all --message newer");
      const said = await runWorkflow(shop, kind);
      const log = await shell(shop, `git log -1 --format=%s origin/${BRANCH}`);
      assert.equal(log, `Take heartbeat ${NEXT}, with conflicts\n`);
      assert.match(
        readFileSync(`${shop}/Dockerfile`, "utf8"),
        /^<{7} ours\nARG DENO_VERSION=9\.8\.7/m,
      );
      assert.ok(readFileSync(`${shop}/main.ts`, "utf8").includes(OURS), "the rest is applied");
      // As the page says: of a version the higher, then the command that was printed last.
      edit(shop, "Dockerfile", /^<{7} .*\n[^]*?^={7}\n([^]*?)^>{7} .*\n/m, "$1");
      assert.match(readFileSync(`${shop}/Dockerfile`, "utf8"), /^ARG DENO_VERSION=9\.9\.9$/m);
      const [, command] = /^Resolve the conflicts.* Then: (.+)$/m.exec(said) ?? assert.fail(said);
      await shell(shop, `${command} && git add --all && ${check}`, env());
      assert.equal(versionIn(shop, manifest, "hono"), dependencies.hono);
    },
  );
}

test("both: a branch without a pull request is taken back, so the next run tries again", {
  timeout: TIMEOUT_MS,
}, async () => {
  const shop = await makeCopy("both", "refused");
  const pushed = () => shell(shop, `git ls-remote origin "refs/heads/${BRANCH}"`);
  writeGh(1);
  try {
    await assert.rejects(runWorkflow(shop, "both"), { code: 1 });
    assert.match(readFileSync(ASKED, "utf8"), /^pr\ncreate\n/);
    assert.equal(await pushed(), "");
  } finally {
    writeGh(0);
  }
  // Each run has a fresh checkout of the default branch.
  await shell(shop, `git switch --quiet main && git branch --quiet -D "${BRANCH}"`);
  await runWorkflow(shop, "both");
  assert.match(await pushed(), new RegExp(`refs/heads/${BRANCH}$`, "m"));
});

test("both: by hand it commits nothing, and a conflict ends with exit code 1", {
  timeout: TIMEOUT_MS,
}, async () => {
  const shop = await makeCopy("both", "by-hand");
  const env = { PATH: pathWith("both"), HEARTBEAT: UPSTREAM };
  const head = await shell(shop, "git rev-parse HEAD");
  await shell(shop, UPDATE, env);
  assert.equal(await shell(shop, "git rev-parse HEAD"), head);
  await shell(shop, "git reset --quiet --hard && git clean --quiet -d --force", env);
  edit(shop, "Dockerfile", /^ARG DENO_VERSION=.*$/m, "ARG DENO_VERSION=9.8.7");
  await shell(shop, "git commit --quiet --all --message newer");
  await failure(shop, UPDATE, env);
  assert.match(await failure(shop, "git commit --message all"), /unmerged/i);
});
