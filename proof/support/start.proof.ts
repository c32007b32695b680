/** Holds start.mjs, by which proof.yml starts the service on Windows and macOS. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { freePort, ROOT, scratch } from "./harness.ts";

const PROGRAM = `${ROOT}/proof/support/start.mjs`;
/** The lines of proof.yml: START and PROBE, as a shell reads them. */
const LINES = [
  ...readFileSync(`${ROOT}/.github/workflows/proof.yml`, "utf8")
    .matchAll(/- run: node proof\/support\/start\.mjs "(.+?)" "(.+?)"$/gm),
].map(([, start, probe]) => [start, probe]);

/** Runs the program to its end. Nothing may listen after it. */
async function run(program: string, start: string, probe: string): Promise<number | null> {
  const port = await freePort();
  const { status } = spawnSync(process.execPath, [program, start, probe], {
    cwd: ROOT,
    env: { ...process.env, PORT: `${port}`, HOST: "127.0.0.1" },
  });
  await assert.rejects(fetch(`http://127.0.0.1:${port}/`), "nothing is left behind");
  return status;
}

test("proof.yml starts the service by npm and by Deno's tasks", () => {
  assert.deepEqual(LINES.map(([start]) => start), ["npm start", "npx deno task start"]);
});

for (const [start, probe] of LINES) {
  test(`start.mjs exits with 0 once ${probe} found what ${start} starts`, async () => {
    assert.equal(await run(PROGRAM, start, probe), 0);
  });
}

test("start.mjs exits with 1 if the probe fails until the deadline", async () => {
  const folder = scratch();
  try {
    const text = readFileSync(PROGRAM, "utf8");
    assert.match(text, /DEADLINE_MS = 60_000;/);
    writeFileSync(`${folder}/start.mjs`, text.replace("60_000;", "2_000;"));
    assert.equal(await run(`${folder}/start.mjs`, "npm start", "exit 3"), 1);
  } finally {
    rmSync(folder, { recursive: true });
  }
});
