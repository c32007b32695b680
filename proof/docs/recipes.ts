/**
 * What the proofs of docs/recipes.md share: copies of the template that have the document's blocks
 * where they say that they go.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname } from "node:path";
import process from "node:process";
import { after } from "node:test";
import { promisify } from "node:util";
import { pathWith, removeCopies } from "../support/copies.ts";
import {
  type Env,
  launch,
  ROOT,
  type Runtime,
  type Service,
  TEST_TIMEOUT_MS,
  untilPrinted,
  withService,
} from "../support/harness.ts";
import { blocks, blocksOf, use } from "./blocks.ts";

const COMMAND_TIMEOUT_MS = 120_000;
/** A stop of a service with endless streams takes milliseconds; this machine may be busy. */
export const STOP_MAX_MS = 3_000;

// ── Copies of the template with recipes in them ──

/** A folder of this file's own; each file of tests runs in a process of its own. */
export const FOLDER = realpathSync(mkdtempSync(`${tmpdir()}/heartbeat-recipes-`));
/** What an owner starts from. */
const ARCHIVE = `${FOLDER}/archive.tar`;
/** Made at the first call, because Node.js 20 does not wait for one hook before the next. */
let archived: Promise<unknown> | undefined;

function makeArchive(): Promise<unknown> {
  const lines = `git add --all && git archive --output="${ARCHIVE}" "$(git write-tree)"`;
  archived ??= shell(ROOT, lines, { GIT_INDEX_FILE: `${FOLDER}/index` });
  return archived;
}

after(() => rmSync(FOLDER, { recursive: true, force: true }));
after(removeCopies); // the folder of pathWith()

/** Runs shell commands in a folder, of which none may fail. */
export async function shell(
  cwd: string,
  commands: string,
  more: Env = {},
  node = process.execPath,
): Promise<string> {
  const PATH = `${dirname(node)}:${process.env.PATH}`;
  const env: NodeJS.ProcessEnv = { ...process.env, PATH, ...more };
  delete env.NODE_TEST_CONTEXT; // with it Node.js runs no test inside a test
  delete env.CI; // an owner's install mends a lock, and only checks it in CI
  const options = { cwd, env, maxBuffer: 1 << 26, timeout: COMMAND_TIMEOUT_MS };
  const run = promisify(execFile)("bash", ["--norc", "-euo", "pipefail", "-c", commands], options);
  const { stdout, stderr } = await run.catch((error) =>
    assert.fail(`${commands}\n${error.stdout}${error.stderr}`)
  );
  return stdout + stderr;
}

/** Unpacks what an owner starts from. */
export async function unpack(name: string): Promise<string> {
  const copy = `${FOLDER}/${name}`;
  mkdirSync(copy);
  await makeArchive();
  await shell(copy, `tar -xf "${ARCHIVE}"`);
  return copy;
}

/** Makes a copy with its packages and with recipes. */
export async function makeCopy(name: string, recipes: string[]): Promise<string> {
  const copy = await unpack(name);
  await shell(copy, "npm install --silent");
  for (const recipe of recipes) await add(copy, recipe);
  return copy;
}

/** Replaces a text in a file, which must be there. */
export function edit(path: string, from: string | RegExp, to: string) {
  const text = readFileSync(path, "utf8");
  assert.notEqual(text.search(from), -1, `${from} in ${path}`);
  writeFileSync(path, text.replace(from, () => to));
}

/** Inserts a text behind a line, which must be there. */
function insertBehind(path: string, line: RegExp, text: string) {
  const [found] = line.exec(readFileSync(path, "utf8")) ?? assert.fail(`${line} in ${path}`);
  edit(path, line, found + text);
}

/** Adds what a line permits to the lists of deno.json. */
function permit(copy: string, line: string) {
  const path = `${copy}/deno.json`;
  const [, name, added] = /^"(\w+)": \[(.*)\],$/.exec(line) ?? assert.fail(line);
  const list = new RegExp(`"${name}": \\[(.*)\\]`);
  const [, present] = list.exec(readFileSync(path, "utf8")) ?? [];
  if (present === undefined) {
    edit(path, /"read": /, `"${name}": [${added}],\n      "read": `);
    return;
  }
  const items = new Set([...present.split(", "), ...added.split(", ")]);
  edit(path, list, `"${name}": [${[...items].join(", ")}]`);
}

/** Puts routes before the template's own, or behind it if they return hooks. */
export function addRoutes(copy: string, code: string) {
  const routes = code.replace(/^(?=.)/gm, "  ");
  if (/^ *return \{/m.test(code)) {
    insertBehind(`${copy}/main.ts`, /"It works.*\n/, `\n${routes}`);
  } else {
    edit(`${copy}/main.ts`, /^ {2}app\.get\("\/",/m, `${routes}\n  app.get("/",`);
  }
}

/** The places of main.test.ts, by the words behind its name in a block. */
const PLACES: Record<string, RegExp> = {
  "": /^\/\/ A variable that your service needs.*\n/m,
  ", listening": /^.*assert\.equal\(probe\.code, 0.*\n/m,
  ", stopped": /^.*assert\.equal\(service\.code, 0.*\n/m,
};

/** Puts a block of TypeScript where it says that it goes. */
function addCode(copy: string, code: string) {
  const [heading, file, place] = /^\/\/ (\S+\.ts)(, \w+)?\n/.exec(code) ?? [];
  if (!heading) addRoutes(copy, code);
  else if (file === "main.test.ts") {
    const lines = code.slice(heading.length);
    const indented = place ? lines.replace(/^(?=.)/gm, "      ") : lines;
    insertBehind(`${copy}/${file}`, PLACES[place ?? ""], indented);
  } else {
    mkdirSync(dirname(`${copy}/${file}`), { recursive: true });
    writeFileSync(`${copy}/${file}`, code);
  }
}

/** Puts the blocks of a recipe where they say that they go. */
export async function add(copy: string, recipe: string) {
  for (const block of blocks.filter((block) => block.recipe === recipe)) {
    const { language, code } = block;
    if (!["sh", "jsonc", "ts"].includes(language)) continue;
    if (language === "jsonc") code.match(/^".*/gm)!.forEach((line) => permit(copy, line));
    if (language === "ts") addCode(copy, code);
    if (language === "sh" && /^npm install/.test(code)) await shell(copy, code);
    else if (language === "sh") continue;
    use(block);
  }
  // The places in main.test.ts differ in depth.
  await shell(copy, `${ROOT}/node_modules/.bin/deno fmt --quiet main.ts main.test.ts`);
}

/** Runs what an owner runs before a push. */
export const assertGreen = (copy: string, node?: string) =>
  shell(copy, "npm run check && npm test", {}, node);

/** What makes a copy for one runtime, and what its owner runs before a push. */
const ALONE = {
  node: "npm run only-node && npm run check && npm test",
  deno: "deno task only-deno && deno task check && deno task test",
};

/** As assertGreen, for a copy of the copy that is made one for a runtime alone. */
export async function assertGreenAlone(copy: string, kind: keyof typeof ALONE) {
  const alone = `${copy}-${kind}-alone`;
  await shell(FOLDER, `cp -a "${copy}" "${alone}"`);
  await shell(alone, ALONE[kind], { PATH: pathWith(kind) });
}

/** As assertGreen, on a machine that has Deno alone: installs for one recipe, pastes another's. */
export async function assertGreenOnDenoAlone(installs: string, pastes: string) {
  const copy = await unpack("deno-alone");
  const PATH = pathWith("deno");
  const [install] = blocksOf(installs, "sh", "deno ");
  await shell(copy, `deno task only-deno && ${install}`, { PATH });
  const [routes] = blocksOf(pastes, "ts");
  addRoutes(copy, routes);
  await shell(copy, "deno fmt --quiet && deno task check && deno task test", { PATH });
}

// ── The service of a copy ──

/** Starts main.ts of a copy. */
export const serve = (
  copy: string,
  runtime: Runtime,
  env: Env,
  body: (service: Service) => Promise<void>,
) => withService(env, body, { runtime, before: `cd "${copy}"` });

/** Starts main.ts of a copy, which fails, and returns what it said. */
export async function failToStart(copy: string, runtime: Runtime): Promise<string> {
  const program = launch([...runtime.options, "main.ts"], { PORT: "0" }, {
    runtime,
    before: `cd "${copy}"`,
  });
  const timer = setTimeout(() => program.kill("SIGKILL"), TEST_TIMEOUT_MS);
  assert.equal(await program.exit, 1, program.stdout);
  clearTimeout(timer);
  return program.stderr;
}

export const url = ({ port }: { port: number }, path: string) => `http://127.0.0.1:${port}${path}`;

export async function assertAnswer(
  address: string,
  init: RequestInit,
  status: number,
  text: string | RegExp,
) {
  const response = await fetch(address, init);
  const body = await response.text();
  assert.equal(response.status, status, `${address}: ${body}`);
  if (typeof text === "string") assert.equal(body, text, address);
  else assert.match(body, text, address);
  return response;
}

/** Stops a service, which exits with 0, and returns how long that took. */
export async function stop(service: Service): Promise<number> {
  const startMs = performance.now();
  service.kill("SIGTERM");
  assert.equal(await service.exit, 0, service.stdout + service.stderr);
  return performance.now() - startMs;
}

/** The service's line of the log for a path; one that failed is on standard error. */
export async function lineOf(
  service: Service,
  path: string,
  output: "stdout" | "stderr" = "stdout",
): Promise<Record<string, unknown>> {
  const line = await untilPrinted(
    service,
    () => service[output].split("\n").find((line) => line.includes(`"path":"${path}"`)),
  );
  return JSON.parse(line);
}

export const bearer = (token: string) => ({ headers: { Authorization: `Bearer ${token}` } });
