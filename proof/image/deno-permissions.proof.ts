/**
 * Run by `npm run test:image`: deno.json alone says what the service may use, in the image as from
 * source. A permission that is missing there is named, in the log and by the tests.
 */
import assert from "node:assert/strict";
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { after, before, test } from "node:test";
import {
  build,
  docker,
  health,
  image,
  LOCKED,
  published,
  removeImages,
  run,
  skip,
  withContainer,
} from "../support/engine.ts";
import { copyProject, denoPath, ROOT, withRoutesOf } from "../support/harness.ts";

/** The start opens a database; a route reaches an address. */
const ROUTES = `
const { DatabaseSync } = await import("node:sqlite");
const db = new DatabaseSync(process.env.DATABASE ?? "data/notes.db");
db.exec("PRAGMA journal_mode=WAL");
db.exec("CREATE TABLE IF NOT EXISTS note (text TEXT)");
app.get("/notes", (c) => c.json(db.prepare("SELECT count(*) AS n FROM note").get()));
app.get("/reach", async (c) => c.text(await fetch("http://192.0.2.1/").then(String)));
`;
const source = readFileSync(`${ROOT}/main.ts`, "utf8");
const withDatabase = withRoutesOf(source, ROUTES);
const sourceLineOf = (text: string) =>
  withDatabase.split("\n").findIndex((line) => line.includes(text)) + 1;

/** deno.json as an owner edits it. */
const config = readFileSync(`${ROOT}/deno.json`, "utf8");
const permitted = edited('"read": ["static"]', '"read": ["static", "data"], "write": ["data"]');

function edited(from: string, to: string): string {
  assert.ok(config.includes(from), `deno.json has no ${from}`);
  return config.replace(from, to);
}

const FOLDER = mkdtempSync(`${tmpdir()}/heartbeat-permissions-`);

/** The flags that mount another deno.json into a container. */
function mounted(name: string, text: string): string[] {
  const file = `${FOLDER}/${name}.json`;
  writeFileSync(file, text);
  return ["--volume", `${file}:/app/deno.json:ro`];
}

before(async () => {
  if (skip) return;
  await build("deno");
  await build("deno", "database", withDatabase);
}, { timeout: 600_000 });

after(async () => {
  rmSync(FOLDER, { recursive: true });
  if (!skip) await removeImages();
});

/** Runs the image until it ends by itself, and returns what it printed on standard error. */
async function failedStart(flags: string[], variant = "plain"): Promise<string> {
  const args = ["run", "--rm", ...LOCKED, ...flags, image("deno", variant)];
  const error = await run("docker", args, { timeout: 20_000 }).then(
    ({ stdout }) => assert.fail(`it started: ${stdout}`),
    (error) => error,
  );
  assert.equal(error.code, 1, error.stderr);
  return error.stderr;
}

test("a permission that the start misses is named, with the line of the source", {
  skip,
}, async () => {
  const stderr = await failedStart([], "database");
  assert.match(stderr, /NotCapable: Requires read access to \\"data\/notes\.db\\"/);
  const line = sourceLineOf("new DatabaseSync");
  assert.match(stderr, new RegExp(`/main\\.ts:${line}:`));
});

test("another file mounted at /app/deno.json has the permissions of one environment", {
  skip,
}, async () => {
  const flags = [...mounted("permitted", permitted), "--publish", "127.0.0.1::8080", ...LOCKED];
  await withContainer("deno", [...flags, "--volume", "/data"], async (container) => {
    await health(container, "healthy");
    const url = `http://127.0.0.1:${await published(container)}`;
    assert.deepEqual(await (await fetch(`${url}/notes`)).json(), { n: 0 });

    // Addresses other than the service's own are still closed.
    assert.equal((await fetch(`${url}/reach`)).status, 500);
    const { stderr } = await run("docker", ["logs", container]);
    assert.match(stderr, /NotCapable: Requires net access to \\"192\.0\.2\.1:80\\"/);
    assert.match(stderr, new RegExp(`/main\\.ts:${sourceLineOf('"/reach"')}:`));
    assert.equal(await docker(["diff", container]), "");
  }, "database");
});

test("packages in `imports` and tasks of deno.json are no matter to the image", {
  skip,
}, async () => {
  const imports = edited("{", '{ "imports": { "zod": "npm:zod@99.0.0" },');
  await withContainer("deno", [...LOCKED, ...mounted("imports", imports)], async (container) => {
    await health(container, "healthy");
    const { stdout, stderr } = await run("docker", ["logs", container]);
    assert.match(stdout, /^Listening on [^\n]+\n$/);
    assert.equal(stderr, "");
  });
});

const REFUSED: [string, string, RegExp][] = [
  ["importMap", '{ "importMap": "./import_map.json",', /import map at '\/app\/import_map\.json'/],
  ["links", '{ "links": ["../link"],', /Failed loading link '\.\.\/link'/],
];
for (const [name, text, expected] of REFUSED) {
  test(`\`${name}\` in deno.json fails the start, and is named`, { skip }, async () => {
    assert.match(await failedStart(mounted(name, edited("{", text))), expected);
  });
}

test("an unknown permission in deno.json fails the start, and is named", { skip }, async () => {
  const unknown = edited('"env": true', '"env": true, "smell": true');
  assert.match(await failedStart(mounted("unknown", unknown)), /unknown field `smell`/);
});

// ── From source ──

/** Runs `deno task test` in a copy with the database. */
async function taskTest(name: string, settings: string, main = withDatabase) {
  const copy = `${FOLDER}/${name}`;
  copyProject(copy);
  symlinkSync(realpathSync(`${ROOT}/node_modules`), `${copy}/node_modules`);
  writeFileSync(`${copy}/main.ts`, main);
  writeFileSync(`${copy}/deno.json`, settings);
  writeFileSync(`${copy}/data/notes.db`, "the real data");
  const outcome = await run(denoPath(), ["task", "--quiet", "test"], { cwd: copy })
    .then(({ stdout }) => ({ code: 0, stdout }), ({ code, stdout }) => ({ code, stdout }));
  assert.deepEqual(readdirSync(`${copy}/data`).sort(), [".gitignore", "notes.db"]);
  assert.equal(readFileSync(`${copy}/data/notes.db`, "utf8"), "the real data");
  return outcome;
}

test("a permission that the start misses turns `deno task test` red", async () => {
  const { code, stdout } = await taskTest("missing", config);
  assert.equal(code, 1, stdout);
  assert.match(stdout, /NotCapable: Requires read access to \\"data\/test-\d+\.db\\"/);
});

test("`deno task test` is green once deno.json has the permission", async () => {
  const { code, stdout } = await taskTest("added", permitted);
  assert.equal(code, 0, stdout);
});

test("`deno task test` removes the database of a start that failed", async () => {
  const fail =
    'throw new Error(`left: ${[...Deno.readDirSync("data")].map((file) => file.name)}`);';
  const { code, stdout } = await taskTest("failed", permitted, withRoutesOf(source, ROUTES + fail));
  assert.equal(code, 1, stdout);
  for (const end of ["db", "db-wal", "db-shm"]) {
    assert.match(stdout, new RegExp(`left: .*test-\\d+\\.${end}\\b(?!-)`));
  }
});
