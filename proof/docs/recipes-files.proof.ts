/**
 * Holds the recipes of docs/recipes.md for which Deno needs permissions: secrets, addresses, files.
 * And the one that says what an error becomes. In one copy: on every runtime, and in both images
 * under Compose, as the copy's own CI starts it.
 */
import assert from "node:assert/strict";
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import process from "node:process";
import { before, test } from "node:test";
import { parse } from "yaml";
import {
  docker,
  health,
  inspect,
  published,
  skip as noEngine,
  type Target,
  TARGETS,
} from "../support/engine.ts";
import { allRuntimes, freePort, missing, ROOT, type Service } from "../support/harness.ts";
import { assertUsed, blocksOf } from "./blocks.ts";
import {
  addRoutes,
  assertAnswer,
  assertGreen,
  assertGreenAlone,
  bearer,
  edit,
  failToStart,
  FOLDER,
  lineOf,
  makeCopy,
  serve,
  shell,
  stop,
  url,
} from "./recipes.ts";

const RECIPES = [
  "Errors of your own",
  "A secret from a file",
  "An address that you call",
  "Files and a volume",
  "Static files",
];
/** This one is used by the images. */
const OF_IMAGES = ["Waiting for another service"];
const INTERNAL_ERROR = '{"error":"Internal Server Error"}';
const NAME = `heartbeat-recipes-${process.pid}`;
const NODE_26 = process.env.BENCH_NODE;
const RUNTIMES = allRuntimes();
const DENO = RUNTIMES.find(({ name }) => name === "Deno")!;

/** "A database" is the README's service. */
const [, database] = /^```ts\n(.+?)^```$/ms.exec(readFileSync(`${ROOT}/README.md`, "utf8")) ??
  assert.fail("the README has no service");

/** Without a database, because Node.js 20 has none. */
let files = "";
let withDatabase = "";
before(async () => {
  files = await makeCopy("shop", RECIPES);
  mkdirSync(`${files}/static`);
  writeFileSync(`${files}/static/rates.json`, '{ "EUR": 1 }\n');
  writeFileSync(`${files}/static/made.js`, "var  made=1");
  edit(`${files}/deno.json`, /"exclude": \["proof"\]/, '"exclude": ["proof", "static"]');
  withDatabase = `${FOLDER}/database`;
  cpSync(files, withDatabase, { recursive: true, verbatimSymlinks: true });
  addRoutes(withDatabase, database);
  await shell(withDatabase, "npm run --silent fmt");
});

test("recipes of files leave the gate green", async () => {
  if (NODE_26) await assertGreen(withDatabase, NODE_26);
  else missing("BENCH_NODE names no Node.js with SQLite, so the gate was not run with a database");
  assert.deepEqual(await shell(withDatabase, "ls data"), "", "the tests leave no data behind");
});

for (const kind of ["node", "deno"] as const) {
  test(`recipes of files leave a copy for ${kind} alone green`, () =>
    assertGreenAlone(files, kind));
}

for (const runtime of RUNTIMES) {
  test(`${runtime.name}: a secret, an address, files, static files, a database`, async (t) => {
    const hasDatabase = runtime.name !== "tsx";
    if (!hasDatabase) t.diagnostic("SKIPPED: the database, because Node.js 20 has no node:sqlite");
    const copy = hasDatabase ? withDatabase : files;
    const PORT = `${await freePort()}`;
    const env = { API_KEY: "secret", PORT, RATES_URL: `http://127.0.0.1:${PORT}/static` };
    for (const isFirst of [true, false]) {
      await serve(copy, runtime, env, async (service) => {
        await assertFiles(service.port, isFirst, hasDatabase);
        await stop(service);
        assert.equal(service.stderr, "");
      });
    }
    await shell(copy, "rm -f data/*");
    assert.match(await failToStart(copy, runtime), /Neither \/run\/secrets\/api_key nor API_KEY/);
  });

  test(`${runtime.name}: errors of one's own, in the answer and in the log`, async () => {
    await serve(files, runtime, { API_KEY: "secret" }, assertErrors);
  });

  test(`${runtime.name}: static files from a second file, and no other file`, async () => {
    await serve(await withSecondFile(), runtime, { API_KEY: "secret" }, assertStatic);
  });
}

// ── Permissions ──

test("Deno: the address of the recipe is one that it may call", async () => {
  await serve(files, DENO, { API_KEY: "secret" }, async (service) => {
    await assertAnswer(url(service, "/rates"), {}, 502, '{"error":"no rates"}');
    const { error } = await lineOf(service, "/rates", "stderr");
    assert.doesNotMatch(`${error}`, /NotCapable/, "a failed lookup is all that may happen");
    await stop(service);
  });
});

/** What is taken out of deno.json, and what `deno task test` then says. */
const FORGOTTEN: [permission: string | RegExp, expected: RegExp][] = [
  [', "api.example.com"', /NotCapable: Requires net access to .+api\.example\.com/],
  [', "/run/secrets"', /NotCapable: Requires read access to .+run.secrets/],
  [/ *"write": \["data"\],\n/, /500 !== 204/],
];
for (const [permission, expected] of FORGOTTEN) {
  test(`Deno: the tests are red without ${permission}`, async () => {
    const config = readFileSync(`${files}/deno.json`, "utf8");
    edit(`${files}/deno.json`, permission, "");
    try {
      await assert.rejects(shell(files, "npm run --silent test:deno"), ({ message }) => {
        assert.match(message, expected);
        return true;
      });
    } finally {
      writeFileSync(`${files}/deno.json`, config);
      await shell(files, "rm -f data/*");
    }
  });
}

test("Deno: the log names a missing permission", async () => {
  const options = ["run", "-q", "--no-prompt", "--allow-env", "--allow-net"];
  const runtime = { ...DENO, options: [...options, "--allow-read=data,/run/secrets"] };
  await serve(files, runtime, { API_KEY: "secret" }, async (service) => {
    const put = { method: "PUT", body: "a page" };
    await assertAnswer(url(service, "/pages/one"), put, 500, INTERNAL_ERROR);
    const { error } = await lineOf(service, "/pages/one", "stderr");
    assert.match(`${error}`, /^NotCapable: Requires write access to "data\/one\.txt"/);
    await stop(service);
  });
});

// ── What is asked ──

/** Asks for all that these recipes promise; on Node.js 20 there is no database. */
async function assertFiles(port: number, isFirst: boolean, hasDatabase: boolean) {
  const at = { port };
  await assertAnswer(url(at, "/admin/hello"), bearer("secret"), 200, "hello");
  await assertAnswer(url(at, "/admin/hello"), bearer("other"), 401, /Unauthorized/);
  await assertAnswer(url(at, "/rates"), {}, 200, '{"EUR":1}');
  await assertAnswer(url(at, "/static/rates.json"), {}, 200, '{ "EUR": 1 }\n');
  await assertAnswer(url(at, "/static/none.json"), {}, 404, /Not Found/);
  if (isFirst) await assertWrites(at, hasDatabase);
  await assertAnswer(url(at, "/pages/one"), {}, 200, "page one");
  if (hasDatabase) await assertAnswer(url(at, "/notes"), {}, 200, '[{"id":1,"text":"a note"}]');
}

async function assertWrites(at: { port: number }, hasDatabase: boolean) {
  const put = { method: "PUT", body: "page one" };
  await assertAnswer(url(at, "/pages/one"), {}, 404, /Not Found/);
  await assertAnswer(url(at, "/pages/one"), put, 204, "");
  await assertAnswer(url(at, "/pages/one"), { method: "DELETE" }, 204, "");
  await assertAnswer(url(at, "/pages/one"), {}, 404, /Not Found/);
  await assertAnswer(url(at, "/pages/one"), put, 204, "");
  if (!hasDatabase) return;
  await assertAnswer(url(at, "/notes"), { method: "POST", body: "a note" }, 201, '{"id":1}');
}

/** Asks for what throws: the owner's own forms, the template's for the rest, all in the log. */
async function assertErrors(service: Service) {
  const post = { method: "POST" };
  await assertAnswer(url(service, "/cart/gold"), post, 409, '{"code":"out_of_stock"}');
  await assertAnswer(url(service, "/cart/tea"), post, 502, '{"code":"payment_failed"}');
  const line = await lineOf(service, "/cart/tea", "stderr");
  assert.equal(line.error, "Error: the bank is closed");
  assert.equal(line.cause, "a holiday");
  assert.match(`${line.stack}`, /^ +at .+main\.ts:\d+/);
  const denied = await assertAnswer(url(service, "/admin/hello"), {}, 401, /^\{"error":/);
  assert.match(`${denied.headers.get("WWW-Authenticate")}`, /^Bearer/);
  await stop(service);
}

/** Moves the recipe of static files into a second file, in another folder. */
async function withSecondFile(): Promise<string> {
  const copy = `${FOLDER}/second`;
  if (existsSync(copy)) return copy;
  cpSync(files, copy, { recursive: true, verbatimSymlinks: true });
  const [code] = blocksOf("Static files", "ts");
  mkdirSync(`${copy}/shop`);
  writeFileSync(
    `${copy}/shop/pages.ts`,
    `import type { App } from "../main.ts";
export async function addPages(app: App) {
${code}}
`,
  );
  const own = /^ {2}const \{ serveStatic \}[^]*?serveStatic\(\{ root: "\." \}\)\);\n/m;
  edit(`${copy}/main.ts`, own, "");
  addRoutes(copy, 'await (await import("./shop/pages.ts")).addPages(app);\n');
  return copy;
}

/** Asks for a path as it stands: fetch() would resolve its dots. */
function askRaw(port: number, path: string): Promise<number> {
  return new Promise((resolve, reject) =>
    request({ host: "127.0.0.1", port, path }, (response) => {
      response.resume().on("end", () => resolve(response.statusCode!));
    }).on("error", reject).end()
  );
}

async function assertStatic(service: Service) {
  await assertAnswer(url(service, "/static/rates.json"), {}, 200, '{ "EUR": 1 }\n');
  for (const path of ["../main.ts", "%2e%2e/main.ts", "..%2fmain.ts", "%2e%2e%2fmain.ts"]) {
    assert.notEqual(await askRaw(service.port, `/static/${path}`), 200, path);
  }
  await stop(service);
}

// ── Images ──

/** The proof's own: the second service is the upstream of the first, by the recipe's name. */
const OVERRIDE = `
services:
  app:
    environment: { RATES_URL: "http://api.example.com:8080/static" }
  orders:
    environment: { API_KEY: another, DATABASE: ":memory:" }
    networks: { default: { aliases: [api.example.com] } }
`;

/** The commands that make the secret in the copy's own CI: the document's step of ci.yml. */
function ciCommands(): string {
  const [step] = blocksOf("A secret from a file", "yaml", "ci.yml");
  const workflow = readFileSync(`${withDatabase}/.github/workflows/ci.yml`, "utf8");
  assert.match(workflow, /- run: docker compose up --no-build --wait/, "what this test runs");
  const [{ run }] = parse(step);
  return run;
}

for (const target of TARGETS) {
  test(`${target}: an image under Compose, with a secret, a volume and an address`, {
    skip: noEngine,
  }, async () => {
    const tag = `${NAME}:${target}`;
    const compose = composeOf(target, tag);
    const [secret] = blocksOf("A secret from a file", "yaml");
    const [waiting] = blocksOf("Waiting for another service", "yaml");
    for (const [name, text] of Object.entries({ secret, waiting, override: OVERRIDE })) {
      writeFileSync(`${withDatabase}/${name}.yaml`, text);
    }
    await docker(["build", "--quiet", "--tag", tag, "--target", target, withDatabase]);
    try {
      await assert.rejects(compose("up", "--wait", "--no-build"), /api_key/, "CI needs the file");
      await shell(withDatabase, `rm -rf ../secrets; umask 077; ${ciCommands()}`);
      await compose("up", "--wait", "--no-build");
      await shell(withDatabase, "rm -r ../secrets");
      await compose("down", "--volumes", "--timeout", "5");

      const [commands, plain] = blocksOf("A secret from a file", "sh");
      await shell(withDatabase, `umask 077\n${commands.replace("a-secret-key", "secret")}`);
      await compose("up", "--wait", "--no-build");
      await assertComposed(compose);
      await assertSecretWithoutCompose(plain, tag);
    } finally {
      rmSync(`${FOLDER}/secrets`, { recursive: true, force: true });
      await compose("down", "--volumes", "--timeout", "5");
      await docker(["image", "rm", "--force", tag]);
    }
  });
}

/** The document's `docker run` gives the service its secret. */
async function assertSecretWithoutCompose(line: string, tag: string) {
  const ours = line.replace("8080:8080", "127.0.0.1::8080 --detach").replace("heartbeat", tag);
  const container = (await shell(withDatabase, ours)).trim();
  try {
    await health(container, "healthy");
    const at = { port: await published(container) };
    await assertAnswer(url(at, "/admin/hello"), bearer("secret"), 200, "hello");
  } finally {
    await docker(["rm", "--force", "--volumes", container]);
  }
}

/** Compose with the recipes' files beside the copy's own. */
function composeOf(target: Target, tag: string) {
  const names = ["compose.yaml", "secret.yaml", "waiting.yaml", "override.yaml"];
  const files = names.flatMap((file) => ["--file", `${withDatabase}/${file}`]);
  const env = { IMAGE: tag, ORDERS_IMAGE: tag, PUBLISHED_PORT: "127.0.0.1:0" };
  return (...args: string[]) =>
    docker(["compose", "--project-name", `${NAME}-${target}`, ...files, ...args], env);
}

/** Asks for all that the recipes promise of the two services, before and after a restart. */
async function assertComposed(compose: (...args: string[]) => Promise<string>) {
  const [app, orders] = await Promise.all(
    ["app", "orders"].map((name) => compose("ps", "--quiet", name)),
  );
  const healthyAt = (await inspect(app)).Health.Log.find(({ ExitCode }) => ExitCode === 0)!.End;
  assert.ok(Date.parse((await inspect(orders)).StartedAt) > Date.parse(healthyAt), "it waited");
  await assertFiles(await published(app), true, true);
  await docker(["restart", app]);
  await health(app, "healthy");
  await assertFiles(await published(app), false, true);
}

test("the blocks of these recipes were all used", {
  skip: noEngine,
}, () => assertUsed([...RECIPES, ...OF_IMAGES]));
