/**
 * Holds what makes the first hour the same on each machine, as far as Linux can: scripts and tasks
 * that every shell reads, a signal to npm or to `deno task` alone, tests that hang, and the line
 * endings of a copy. Windows and macOS themselves run in the workflow.
 */
import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
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
  untilPrinted,
} from "../support/harness.ts";

const read = (file: string) => readFileSync(`${ROOT}/${file}`, "utf8");
const shell: Runtime = { name: "sh", path: "sh", options: [] };
const PATH = `${dirname(denoPath())}:${process.env.PATH}`;
const NODES = [process.execPath, ...process.env.BENCH_NODE ? [process.env.BENCH_NODE] : []];

test("each script of package.json reads the same in cmd and in sh", () => {
  const scripts = Object.entries(JSON.parse(read("package.json")).scripts as object);
  for (const [name, script] of scripts) {
    for (const command of script.split(" && ")) {
      assert.match(command, /^(exec )?(node|npm|tsx|deno) /u, name);
      assert.doesNotMatch(command.replace(/^node --eval ".+"$/, ""), /[|&;<>$`'\\"]/, name);
    }
  }
  assert.match(read("exec.cmd"), /^@rem .+\n@%\*\n$/, "cmd finds exec as this file");
  assert.match(read(".dockerignore"), /^exec\.cmd$/m, "no image holds it");
});

test("no task of deno.json needs a shell of the machine", () => {
  const tasks = JSON.parse(read("deno.json")).tasks as Record<string, string>;
  for (const [name, task] of Object.entries(tasks)) {
    assert.match(task, /^\(?deno /, name);
    assert.doesNotMatch(task, /\b(ba|z|da)?sh\b/, name);
  }
});

test("tools/package.json has the version without which Yarn 1 installs nothing", () => {
  assert.match(JSON.parse(read("tools/package.json")).version, /^\d+\.\d+\.\d+$/);
});

for (const command of ["npm start", "deno task start"]) {
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    test(`${command} drains and leaves nothing when it alone gets ${signal}`, async () => {
      const copy = scratch();
      cpSync(`${ROOT}/main.ts`, `${copy}/main.ts`);
      const port = await freePort();
      const env = { COPY: copy, PATH, PORT: `${port}`, HOST: "127.0.0.1" };
      const program = launch(["-c", `cd "$COPY" && exec ${command}`], env, { runtime: shell });
      try {
        await untilPrinted(program, () => program.stdout.includes("Listening"));
        program.kill(signal);
        assert.equal(await program.exit, 0, program.stderr);
        assert.match(program.stdout, /^Draining, requests in flight: 0$/m);
        await assert.rejects(fetch(`http://127.0.0.1:${port}/`), "nothing is left behind");
      } finally {
        program.kill("SIGKILL");
        rmSync(copy, { recursive: true });
      }
    });
  }
}

/** Runs the program that finds the tests in a folder with these files. */
function runTests(node: string, files: Record<string, string>, deadlineMs = 60_000) {
  const copy = scratch();
  try {
    const runner = read("tools/test-node.mjs");
    assert.match(runner, /FILE_DEADLINE_MS = 60_000;/);
    writeFileSync(`${copy}/run.mjs`, runner.replace("60_000;", `${deadlineMs};`));
    for (const [file, text] of Object.entries(files)) {
      mkdirSync(dirname(`${copy}/${file}`), { recursive: true });
      writeFileSync(`${copy}/${file}`, `import { test } from "node:test";\n${text}`);
    }
    const env: NodeJS.ProcessEnv = { ...process.env };
    delete env.NODE_TEST_CONTEXT; // with it Node.js runs no test inside a test
    return spawnSync(node, ["run.mjs"], { cwd: copy, env, encoding: "utf8" });
  } finally {
    rmSync(copy, { recursive: true });
  }
}

for (const node of NODES) {
  test(`npm run test:node finds tests, and ends and names one that loops, ${node}`, () => {
    const good = { "a b.test.ts": 'test("one", () => {});', "c d/e.test.ts": 'test("two");' };
    const hidden = { ".git/x.test.ts": "throw 1;", "c d/node_modules/x.test.ts": "throw 1;" };
    const passed = runTests(node, { ...good, ...hidden });
    assert.equal(passed.status, 0, passed.stdout);
    assert.match(passed.stdout, /✔ one/);
    assert.match(passed.stdout, /✔ two/);

    const none = runTests(node, hidden);
    assert.equal(none.status, 1);
    assert.match(none.stderr, /^Failed on Node\.js v.+: there is no \*\.test\.ts\n$/);

    const loop = { "loop.test.ts": 'process.on("SIGTERM", () => {});\nfor (;;);' };
    const hung = runTests(node, { ...good, ...loop }, 10_000);
    assert.equal(hung.status, 1);
    assert.match(hung.stdout, /^\.\/loop\.test\.ts took more than 10 s$/m);
    assert.match(hung.stderr, /^Failed on Node\.js v.+: \.\/loop\.test\.ts\n$/);
  });
}

test("a copy's .gitattributes has the line about line endings alone", () => {
  const git = (...args: string[]) => execFileSync("git", args, { cwd: ROOT, encoding: "utf8" });
  const archived = execFileSync("tar", ["-xO", ".gitattributes"], {
    input: execFileSync("git", ["archive", "HEAD"], { cwd: ROOT, maxBuffer: 2 ** 28 }),
    encoding: "utf8",
  });
  assert.match(archived, /^\* text=auto eol=lf\n# [^\n$]+\n$/);
  assert.match(git("check-attr", "eol", "--", "main.ts"), /: lf$/m);
});
