/**
 * Ten saves in a row under `npm run dev` and `deno task dev`: each reloads the service, and the one
 * before drains.
 */
import assert from "node:assert/strict";
import { readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import process from "node:process";
import { test } from "node:test";
import {
  denoPath,
  freePort,
  launch,
  ROOT,
  type Runtime,
  scratch,
  TEST_TIMEOUT_MS,
  until,
  untilPrinted,
} from "../support/harness.ts";

const SAVES = 10;
const main = readFileSync(`${ROOT}/main.ts`, "utf8");
const shell: Runtime = { name: "sh", path: "bash", options: [] };
const nodes = [process.execPath, ...process.env.BENCH_NODE ? [process.env.BENCH_NODE] : []].map((
  path,
) => dirname(path));

for (
  const [command, folder] of [...nodes.map((folder) => ["npm run dev", folder]), [
    "deno task dev",
    dirname(denoPath()),
  ]]
) {
  test(`${command} misses none of ${SAVES} saves, ${folder}`, { timeout: 60_000 }, async () => {
    const copy = scratch();
    const port = await freePort();
    let saves = 0;
    /** Saves in place and by a rename in turn, because editors do the one or the other. */
    const saved = (text: string) => {
      const file = saves++ % 2 === 0 ? `${copy}/main.ts` : `${copy}/main.ts.new`;
      writeFileSync(file, main.replace("replace this", `${text}, replace this`));
      if (file.endsWith(".new")) renameSync(file, `${copy}/main.ts`);
    };
    const answers = async (text: string) => {
      const answer = () =>
        fetch(`http://127.0.0.1:${port}/`).then((response) => response.text(), String);
      const isAnswered = async () => (await answer()).includes(`${text},`);
      await until(isAnswered, text, TEST_TIMEOUT_MS);
    };
    saved("first");
    const env = {
      COPY: copy,
      PORT: `${port}`,
      HOST: "127.0.0.1",
      PATH: `${folder}:${process.env.PATH}`,
    };
    const program = launch(["-c", `cd "$COPY" && exec ${command}`], env, { runtime: shell });
    try {
      await untilPrinted(program, () => program.stdout.includes("Listening"));
      await answers("first");
      for (let save = 1; save <= SAVES; save++) {
        saved(`save ${save}`);
        await answers(`save ${save}`);
      }
      assert.equal(`${program.stdout}${program.stderr}`.match(/Draining/g)?.length, SAVES);
      program.kill("SIGINT"); // as Ctrl-C does: Deno's watch outlives a SIGTERM
      await program.exit;
      await assert.rejects(fetch(`http://127.0.0.1:${port}/`), "nothing is left behind");
    } finally {
      program.kill("SIGKILL");
      rmSync(copy, { recursive: true });
    }
  });
}
