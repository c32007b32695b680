/**
 * Holds the steps of CHANGELOG.md from 3.0.0 to 4.0.0: does them in a copy of 3.0.0 for both
 * runtimes, into which the service of the README moved, and in one for Deno alone, into which the
 * service of items moved.
 */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import process from "node:process";
import { after, before, test } from "node:test";
import {
  edit,
  failure,
  filesOf,
  FOLDER,
  pathWith,
  removeCopies,
  shell,
  write,
} from "../support/copies.ts";
import { skip as noEngine } from "../support/engine.ts";
import { copyProject, freePort, missing, ROOT } from "../support/harness.ts";

const TIMEOUT_MS = 300_000;
const UPSTREAM = `${FOLDER}/heartbeat`;
/** Version 3.0.0, with fixes. */
const OLD_COMMIT = "7293c3623ff9f9d00ab4b5f344f9ce2360c3009a";
const git = (...args: string[]) => execFileSync("git", args, { cwd: ROOT, encoding: "utf8" });
const hasHistory = spawnSync("git", ["cat-file", "-e", OLD_COMMIT], { cwd: ROOT }).status === 0;
const skip = !hasHistory && missing(`git has no ${OLD_COMMIT}, so no copy of 3.0.0 is updated`);

const [, CHANGES] = readFileSync(`${ROOT}/CHANGELOG.md`, "utf8").split(/^## 4\.0\.0$/m);
const [FILES, DENO_ALONE] = [...CHANGES.matchAll(/^ {3}```sh\n([^]+?)\n {3}```$/gm)]
  .map(([, commands]) => commands.replaceAll("https://github.com/your-team/heartbeat", UPSTREAM));
const [EXAMPLE] = /git checkout refs\/heartbeat\/v4\.0\.0 -- main\.test\.ts/.exec(CHANGES)!;
const UPDATE = "sh .github/update.sh";

/** Makes a repository of heartbeat with 3.0.0 and what stands here as 4.0.0. */
async function makeUpstream() {
  mkdirSync(UPSTREAM);
  const release = (version: string) =>
    shell(UPSTREAM, `git add . && git commit --quiet --message release && git tag v${version}`);
  await shell(UPSTREAM, `git init --quiet && git -C "${ROOT}" archive ${OLD_COMMIT} | tar -x`);
  await release("3.0.0");
  await shell(UPSTREAM, "git rm --quiet -r .");
  copyProject(UPSTREAM);
  await release("4.0.0");
}

/** Makes a copy of 3.0.0 with the routes of an owner. */
async function makeCopy(name: string, routes: string): Promise<string> {
  const shop = `${FOLDER}/${name}`;
  mkdirSync(shop);
  await shell(shop, `git -C "${ROOT}" archive --worktree-attributes ${OLD_COMMIT} | tar -x`);
  edit(shop, "main.ts", /(?= *\/\/ ═+ YOUR ROUTES END HERE)/, `${routes}\n`);
  return shop;
}

/** Resolves the conflicts as CHANGELOG.md says: the owner's in addRoutes, else heartbeat's. */
function resolve(shop: string, files: string[]) {
  for (const file of files) {
    const text = readFileSync(`${shop}/${file}`, "utf8");
    const pattern = /^<{7} ours\n([^]*?)^={7}\n([^]*?)^>{7} theirs\n/gm;
    const resolved = text.replace(
      pattern,
      (_, ours, theirs) => ours.includes("YOUR ROUTES BEGIN HERE") ? ours : theirs,
    );
    writeFileSync(`${shop}/${file}`, resolved);
  }
}

/** Runs the update, which ends in conflicts, resolves them, and runs what it said last. */
async function updateWithConflicts(shop: string, env: Record<string, string>) {
  const said = await failure(shop, UPDATE, env);
  const unmerged = await shell(shop, "git diff --name-only --diff-filter=U");
  resolve(shop, unmerged.trim().split("\n"));
  const [, command] = /^Resolve the conflicts.* Then: (.+)$/m.exec(said) ?? assert.fail(said);
  await shell(shop, command, env);
}

const readJson = (path: string) => JSON.parse(readFileSync(path, "utf8"));

/** Takes our deno.json, with permissions and packages of the owner's. */
function takeDenoJson(shop: string, read: string[], more: object) {
  const { imports } = readJson(`${shop}/deno.json`);
  const ours = readJson(`${UPSTREAM}/deno.json`);
  ours.permissions.default = { ...ours.permissions.default, read: ["static", ...read], ...more };
  if (imports) delete ours.tasks["only-deno"];
  writeFileSync(`${shop}/deno.json`, `${JSON.stringify({ imports, ...ours }, null, 2)}\n`);
}

/** Builds and starts the service on Docker, posts a note and reads it. */
async function assertServesNotes(shop: string) {
  const port = await freePort();
  const env = { COMPOSE_PROJECT_NAME: `heartbeat-3-${process.pid}`, PUBLISHED_PORT: `${port}` };
  const url = `http://127.0.0.1:${port}/notes`;
  try {
    await shell(shop, "docker compose up --build --wait", env);
    await fetch(url, { method: "POST", body: "tea" });
    assert.deepEqual(await (await fetch(url)).json(), [{ id: 1, text: "tea" }]);
  } finally {
    await shell(shop, "docker compose down --volumes --rmi local", env);
  }
}

before(async () => {
  if (!skip) await makeUpstream();
});
after(removeCopies);

test("the README's service moves from 3.0.0 to 4.0.0, and to Node.js alone", {
  skip,
  timeout: TIMEOUT_MS,
}, async () => {
  const env = { PATH: pathWith("both"), HEARTBEAT: UPSTREAM };
  const readme = git("show", `${OLD_COMMIT}:README.md`);
  const [routes, tests] = [...readme.matchAll(/^```ts\n([^]+?)^```$/gm)].map(([, code]) => code);
  const shop = await makeCopy("notes", routes);
  write(shop, "notes.test.ts", tests);
  edit(shop, "deno.json", '"read": ["static"]', '"read": ["static", "data"], "write": ["data"]');
  const flags = '"--allow-read=/app/static,/data", "--allow-write=/data"';
  edit(shop, "Dockerfile", '"--allow-read=/app/static"', flags);
  await shell(shop, "npm ci && npx deno fmt && git init --quiet", env);
  await shell(shop, "git add . && git commit --quiet --message ours", env);

  await shell(shop, FILES, env);
  await updateWithConflicts(shop, env);
  takeDenoJson(shop, [], {});
  const manifest = readJson(`${shop}/package.json`);
  manifest.scripts = readJson(`${UPSTREAM}/package.json`).scripts;
  writeFileSync(`${shop}/package.json`, `${JSON.stringify(manifest, null, 2)}\n`);
  await shell(shop, `${EXAMPLE} && npm run fmt && npm run check`, env);
  assert.match(await failure(shop, "npm run test:deno", env), /NotCapable: .*data\/test-\d+\.db/);
  takeDenoJson(shop, ["data"], { write: ["data"] });
  await shell(shop, "npm run fmt && npm run check && npm run test:deno", env);
  const entry = /^ENTRYPOINT[^]*?\]$/m;
  const dockerfile = readFileSync(`${UPSTREAM}/Dockerfile`, "utf8");
  assert.equal(
    entry.exec(readFileSync(`${shop}/Dockerfile`, "utf8"))?.[0],
    entry.exec(dockerfile)?.[0],
  );
  await shell(shop, "git add . && git commit --quiet --message taken", env);
  assert.match(await shell(shop, UPDATE, env), /^heartbeat 4\.0\.0 is the newest$/m);

  if (!noEngine) await assertServesNotes(shop);
  await shell(shop, "npm run only-node && npm run check", env);
  const deno = /^(deno\.|test-deadline|tools\/(only|dependencies))/;
  assert.deepEqual((await filesOf(shop)).filter((file) => deno.test(file)), []);
});

test("a service of several files moves from 3.0.0 to 4.0.0 on Deno alone", {
  skip,
  timeout: TIMEOUT_MS,
}, async () => {
  const env = { PATH: pathWith("deno"), HEARTBEAT: UPSTREAM };
  const code = 'return await (await import("./routes.ts")).addRoutes(app, { stopping });';
  const shop = await makeCopy("items", code);
  cpSync(`${ROOT}/proof/support/items`, shop, { recursive: true });
  edit(shop, "routes.ts", "../../../main.ts", "./main.ts");
  edit(shop, "main.test.ts", "/replace this route/", "/./");
  // As the page of 3.0.0 said.
  await shell(shop, "rm -r package-lock.json tsconfig.json .npmrc tools", env);
  await shell(shop, "deno add --save-exact npm:zod npm:ws npm:@types/ws", env);
  await shell(shop, "deno fmt && git init --quiet && git add .", env);
  await shell(shop, "git commit --quiet --message ours", env);

  await shell(shop, FILES, env);
  await shell(shop, DENO_ALONE, env);
  await shell(shop, UPDATE, env);
  takeDenoJson(shop, ["data"], { write: ["data"] });
  await shell(shop, "deno fmt && deno task check", env);
  await shell(shop, "deno task test", { ...env, SERVICE_DATA: "data" });
  const node = /^(package|tsconfig|\.npmrc|exec|tools\/)/;
  assert.deepEqual((await filesOf(shop)).filter((file) => node.test(file)), []);
  const { imports } = readJson(`${shop}/deno.json`);
  assert.deepEqual(Object.keys(imports).toSorted(), [
    "@hono/node-server",
    "@types/ws",
    "hono",
    "ws",
    "zod",
  ]);
  await shell(shop, "git add . && git commit --quiet --message taken", env);
  assert.match(await shell(shop, UPDATE, env), /^heartbeat 4\.0\.0 is the newest$/m);
});
