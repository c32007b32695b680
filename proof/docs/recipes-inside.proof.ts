/**
 * Holds the recipes of docs/recipes.md that look into a container: on both images, locked down,
 * with a second file whose loop never ends.
 */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, writeFileSync } from "node:fs";
import process from "node:process";
import { after, before, describe, test } from "node:test";
import {
  docker,
  health,
  LOCKED,
  published,
  signalRuntime,
  skip,
  type Target,
  TARGETS,
} from "../support/engine.ts";
import { copyProject, ROOT, until, withRoutesOf } from "../support/harness.ts";
import { assertUsed, blocksOf } from "./blocks.ts";
import { assertAnswer, edit, FOLDER, shell, url } from "./recipes.ts";

const RECIPES = [
  "Looking into an image that has no shell",
  "Find what wedges it",
  "Variables from a file",
];
const NAME = `heartbeat-inside-${process.pid}`;
const image = (target: Target) => `${NAME}:${target}`;
const ROUTES = `
  const { addPrices } = await import("./shop/prices.ts");
  addPrices(app);
  app.get("/quoted", (c) => c.text(process.env.QUOTED ?? ""));
`;
/** A second file with a loop that never ends: at the document's own line. */
const SECOND_FILE = `import type { App } from "../main.ts";

/** Never ends. */
function countForEver(start: number): number {
  let count = start;
  for (;;) count = Math.sqrt(count) + 1;
}

class Till {
  readonly count = (start: number): number => countForEver(start);
}

export function addPrices(app: App) {
  const till = new Till();
  app.get("/wedge", (c) => c.json({ count: till.count(3) }));
}
`;

/** Sends process 1 what ends a wedged service. */
const END_BY_ALARM = {
  node: ["/bin/node", "-e", 'process.kill(1, "SIGALRM")'],
  deno: ["/bin/deno", "eval", "--no-config", 'Deno.kill(1, "SIGALRM")'],
};
const FOUND = new RegExp(
  [
    /^countForEver shop\/prices\.ts:[56]\n/,
    /count shop\/prices\.ts:10\n/,
    /\(anonymous\) shop\/prices\.ts:15\n/,
  ].map(({ source }) => source).join(""),
);
const [nodeLine, denoLine] = blocksOf("Find what wedges it", "sh");

/** The document's line, for a container without Compose, as the document says. */
const inContainer = (line: string, container: string) =>
  line.replace("docker compose exec -T app", `docker exec -i ${container}`);

test("the document shows a stack as the script prints it", () => {
  const [shown] = blocksOf("Find what wedges it", "");
  const lines = shown.trim().split("\n");
  assert.equal(lines.pop(), "…");
  for (const line of lines) assert.match(line, /^\S+ \S+\.ts:\d+$/);
});

describe("looking into a container", { skip }, () => {
  before(async () => {
    const folder = `${FOLDER}/wedged`;
    mkdirSync(folder);
    copyProject(folder);
    mkdirSync(`${folder}/shop`);
    writeFileSync(`${folder}/shop/prices.ts`, SECOND_FILE);
    const source = withRoutesOf(readFileSync(`${ROOT}/main.ts`, "utf8"), ROUTES);
    writeFileSync(`${folder}/main.ts`, source);
    const [, inspect] = documented(/`("--inspect=\S+,)`/);
    edit(
      `${folder}/Dockerfile`,
      /"\/app\/main\.js"\](?=\n# The probe has)/,
      `${inspect} "/app/main.js"]`,
    );
    for (const target of TARGETS) {
      await docker(["build", "--quiet", "--tag", image(target), "--target", target, folder]);
    }
  }, { timeout: 300_000 });
  after(() => docker(["image", "rm", "--force", ...TARGETS.map(image)]));

  for (const target of TARGETS) {
    test(`${target}: the commands for an image without a shell`, () =>
      withImage(target, [], (container) => lookInside(container, target)));

    test(`${target}: the lines that wedge it, in the source's words`, () =>
      withImage(
        target,
        [...LOCKED, "--restart", "unless-stopped"],
        (container) => findWedge(container, target),
      ));

    test(`${target}: variables from a file, whose quotes Docker takes literally`, () =>
      readEnvFile(target));
  }

  test("node: the document's line as it stands, under Compose", findWedgeUnderCompose);

  test("where.mjs says in one line that no JavaScript runs", () =>
    withImage("deno", [], async (container) => {
      await signalRuntime(container, "deno", "SIGSTOP");
      const said = shell(ROOT, inContainer(denoLine, container));
      await assert.rejects(said, /\nNo JavaScript ran within 5000 ms: .+ stopped\n$/);
    }));
});

test("the blocks of these recipes were all used", { skip }, () => assertUsed(RECIPES));

/** What the document says in words. */
function documented(pattern: RegExp): RegExpExecArray {
  return pattern.exec(readFileSync(`${ROOT}/docs/recipes.md`, "utf8")) ?? assert.fail(`${pattern}`);
}

/** Starts a container and removes it after, whatever happens. */
async function withImage(
  target: Target,
  flags: string[],
  body: (container: string) => Promise<void>,
) {
  const port = ["--publish", "127.0.0.1::8080"];
  const container = await docker(["run", "--detach", ...port, ...flags, image(target)]);
  try {
    await health(container, "healthy");
    await body(container);
  } finally {
    await docker(["rm", "--force", container]);
  }
}

/** Runs the document's line while the loop turns for ever, twice: the first leaves it so. */
async function findWedge(container: string, target: Target) {
  const port = await published(container);
  const hanging = fetch(url({ port }, "/wedge")).catch(String);
  const line = inContainer(target === "node" ? nodeLine : denoLine, container);
  for (const _ of ["wedged", "still wedged"]) assert.match(await shell(ROOT, line), FOUND);
  // As the probe ends it. The policy still starts it again, because nobody stopped it by hand.
  await docker(["exec", container, ...END_BY_ALARM[target]]).catch(() => {});
  await hanging;
  await until(async () => {
    const count = await docker(["inspect", "--format", "{{.RestartCount}}", container]);
    return count === "1";
  }, "restart by the policy");
}

/** Runs the document's own line in the project's folder, where Compose runs the image. */
async function findWedgeUnderCompose() {
  const env = { COMPOSE_PROJECT_NAME: NAME, IMAGE: image("node"), PUBLISHED_PORT: "0" };
  const compose = (command: string) => shell(ROOT, `docker compose ${command}`, env);
  try {
    await compose("up --detach --wait --no-build");
    const port = (await compose("port app 8080")).trim().split(":").at(-1);
    const hanging = fetch(`http://127.0.0.1:${port}/wedge`).catch(String);
    assert.match(await shell(ROOT, nodeLine, env), FOUND);
    await compose("kill");
    await hanging;
  } finally {
    await compose("down --volumes --timeout 1");
  }
}

/** The commands of the table, which need no runtime. */
function outside(): string {
  const [, table] = documented(/^\| shows .+\n\| -.+\n((?:\|.+\n)+)/m);
  const rows = [...table.matchAll(/`(.+)`/g)].map(([, command]) => command.replace("\\|", "|"));
  assert.equal(rows.length, 5);
  return rows.join("\n");
}

/** Runs the commands that look into a container without a shell. */
async function lookInside(app: string, target: Target) {
  const [onDeno, onNode, beside] = blocksOf(RECIPES[0], "sh");
  const folder = mkdtempSync(`${FOLDER}/inside-`);
  const printed = await shell(folder, outside(), { app });
  for (const expected of [/^0 healthy: /m, /main\.js/, /MiB/]) assert.match(printed, expected);
  assert.ok(existsSync(`${folder}/app-files/main.js`));
  assert.match(await shell(folder, "tar --list --file app.tar"), /^app\/main\.js$/m);
  const status = await shell(folder, target === "deno" ? onDeno : onNode, { app });
  assert.match(status, /^Name:\s+tini$/m);
  const [, version] = /NODE_VERSION=(\S+)/.exec(readFileSync(`${ROOT}/Dockerfile`, "utf8"))!;
  // The base of the image is the same Debian; this one has a client in place of curl.
  const code = 'fetch("http://127.0.0.1:8080/readyz").then((r) => r.text()).then(console.log), 0';
  const command = `bash -c 'ls /proc/1/root/app; node -p "${code.replaceAll('"', '\\"')}"'`;
  const asked = beside.replace("-it ", "")
    .replace("debian:trixie-slim", `node:${version}-trixie-slim`)
    .replace(/bash\s*$/, command);
  const seen = await shell(folder, asked, { app });
  assert.match(seen, /main\.js/);
  assert.match(seen, /"status":"ready"/);
}

/** Runs an image with variables from a file. */
async function readEnvFile(target: Target) {
  const folder = mkdtempSync(`${FOLDER}/env-`);
  writeFileSync(`${folder}/.env`, 'QUOTED="a"\n');
  const [, , line] = blocksOf("Variables from a file", "sh");
  const ours = line.replace("8080:8080 heartbeat", `127.0.0.1::8080 --detach ${image(target)}`);
  assert.notEqual(ours, line);
  const container = (await shell(folder, ours)).trim();
  try {
    await health(container, "healthy");
    const port = await published(container);
    await assertAnswer(url({ port }, "/quoted"), {}, 200, '"a"');
  } finally {
    await docker(["rm", "--force", container]);
  }
}
