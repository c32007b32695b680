/** main.ts serves when it was started, by whatever way, and does nothing when it is imported. */
import assert from "node:assert/strict";
import { cpSync, mkdirSync, realpathSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { launch, ROOT, type Runtime, scratch, untilPrinted } from "../support/harness.ts";
import { onEveryRuntime } from "../support/subjects.ts";

/** Runs `body` with a folder that holds main.ts. */
async function withCopy(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = realpathSync(scratch());
  cpSync(`${ROOT}/main.ts`, `${folder}/main.ts`);
  try {
    await body(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** A file serves: it says where it listens, and a signal ends it with 0. */
async function assertServes(runtime: Runtime, file: string, env = {}): Promise<void> {
  const variables = { HOST: "127.0.0.1", PORT: "0", ...env };
  const program = launch([...runtime.options, file], variables, { runtime });
  try {
    await untilPrinted(program, () => /^Listening on/.exec(program.stdout));
    program.kill("SIGTERM");
    assert.equal(await program.exit, 0);
  } finally {
    program.kill("SIGKILL");
  }
}

onEveryRuntime(({ runtime, isNode }) => {
  test("it serves, and probes, through a link to its folder", async () => {
    await withCopy(async (folder) => {
      symlinkSync(folder, `${folder}/current`);
      const file = `${folder}/current/main.ts`;
      await assertServes(runtime, file);
      const args = [...runtime.options, file, "--ping"];
      const probe = launch(args, { HOST: "127.0.0.1", PORT: "1" }, { runtime });
      assert.equal(await probe.exit, 1);
      assert.match(probe.stderr, /^unhealthy: /);
    });
  });

  for (const name of ["main.ts", "shop.ts"]) {
    test(`it serves through a link to the file, named ${name}`, async () => {
      await withCopy(async (folder) => {
        mkdirSync(`${folder}/bin`);
        symlinkSync(`${folder}/main.ts`, `${folder}/bin/${name}`);
        await assertServes(runtime, `${folder}/bin/${name}`);
      });
    });
  }

  for (const name of ["other/main.js", "other/main.ts", "main.js"]) {
    test(`it does nothing where another project's ${name} imports it`, async () => {
      await withCopy(async (folder) => {
        mkdirSync(`${folder}/other`);
        const other = `${folder}/${name}`;
        const url = pathToFileURL(`${folder}/main.ts`);
        writeFileSync(other, `await import(${JSON.stringify(url)}); console.log("imported");`);
        const program = launch([...runtime.options, other], { PORT: "malformed" }, { runtime });
        assert.equal(await program.exit, 0, program.stderr);
        assert.equal(program.stdout, "imported\n");
      });
    });
  }

  if (!isNode) return;
  test("it serves under PM2, whose launcher imports it", async () => {
    await withCopy(async (folder) => {
      const launcher = `${folder}/ProcessContainerFork.js`;
      const url = pathToFileURL(`${folder}/main.ts`);
      writeFileSync(launcher, `await import(${JSON.stringify(url)});`);
      await assertServes(runtime, launcher, { pm_exec_path: `${folder}/main.ts` });
    });
  });
});
