/** What the gate says where something is missing: one line that names it. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import { test } from "node:test";
import { ROOT } from "./harness.ts";

/** Runs a copy of a file in an empty folder. */
function runAlone(command: string, file: string) {
  const folder = mkdtempSync(`${tmpdir()}/heartbeat-proof-`);
  try {
    cpSync(`${ROOT}/${file}`, `${folder}/${file}`);
    const env = { ...process.env, DOCKER_HOST: `unix://${folder}/none.sock` };
    return spawnSync(command, [`${folder}/${file}`], { env, encoding: "utf8", timeout: 30_000 });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

test("without an engine .ci/run names it", () => {
  const { status, stderr } = runAlone("bash", ".ci/run");
  assert.equal(status, 1);
  assert.match(
    stderr,
    /^No Docker engine answers `docker version`, and .+ is not there to start one\n$/,
  );
});

test("without the packages of the root, the proof names the command", () => {
  const { status, stderr } = runAlone(process.execPath, "proof/support/parent.js");
  assert.equal(status, 1);
  assert.match(stderr, /^.*npm ci.*\n$/);
});
