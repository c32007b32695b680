/**
 * Holds the README: in a copy of the project it runs the commands that are shown and compares what they print, and moves
 * the service that is shown in at the mark, under Node.js (BENCH_NODE names one that has SQLite) and under Deno.
 */
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname } from "node:path";
import process from "node:process";
import { after, test } from "node:test";
import { promisify } from "node:util";
import {
  copyProject,
  denoPath,
  freePort,
  launch,
  missing,
  ROOT,
  type Runtime,
  until,
  withRoutesOf,
} from "../harness.ts";

const README = readFileSync(`${ROOT}/README.md`, "utf8");
const COPY = mkdtempSync(`${tmpdir()}/readme-`);
after(() => rmSync(COPY, { recursive: true, force: true }));

copyProject(COPY);

/** The commands of the README, each with what it is shown to print. */
const shown = [...README.matchAll(/^```sh\n(.+?)\n```\n\n```\n(.+?)\n```$/gms)].map(([, command, output]) =>
  [command, output] as const
);
const shell: Runtime = { name: "sh", path: "bash", options: [] };
const deno = denoPath();
const PATH = `${dirname(deno)}:${process.env.PATH}`;

test("the commands that are shown print what is shown", async () => {
  const [[start, listening], [ping, healthy]] = shown;
  const port = `${await freePort()}`;
  const env = { PORT: port };
  for (const command of [start.replace(/ +#.*/, ""), "deno task start", "deno run -P --no-prompt main.ts"]) {
    assert.ok(README.includes(command), command);
    const program = launch(["-c", `cd "$COPY" && ${command.replace("&& ", "&& exec ")}`], { ...env, PATH, COPY }, {
      runtime: shell,
    });
    try {
      const expected = listening.replace("8080", port);
      await until(program, () => program.stdout.includes(`${expected}\n`));
      for (
        const probe of [
          ping.replace(/ +#.*/, ""),
          "deno task ping; echo $?",
          "deno run -P --no-prompt main.ts --ping; echo $?",
        ]
      ) {
        const { stdout } = await promisify(execFile)("bash", ["-c", probe], {
          cwd: COPY,
          env: { ...process.env, ...env, PATH },
        });
        assert.equal(stdout.trim(), healthy.replace("8080", port), probe);
      }
      program.kill("SIGTERM");
      await program.exit;
      await assert.rejects(fetch(`http://127.0.0.1:${port}/`), "nothing is left behind");
    } finally {
      program.kill("SIGKILL");
    }
  }
});

/** Puts the service that is shown where the routes begin. */
function moveIn() {
  const code = /^```ts\n(.+?)^```$/ms.exec(README)![1];
  const main = readFileSync(`${ROOT}/main.ts`, "utf8");
  const moved = main.replace(/^ +\/\/ ═.*BEGIN HERE[^]*END HERE ═+$/m, () => code);
  assert.notEqual(moved, main);
  writeFileSync(`${COPY}/main.ts`, moved);
  mkdirSync(`${COPY}/data`, { recursive: true });
}

const sqlite = process.env.BENCH_NODE;
if (!sqlite) missing("BENCH_NODE names no Node.js with SQLite, so the README's service runs on Deno alone");

for (
  const runtime of [
    {
      name: "Deno",
      path: deno,
      options: ["run", "-q", "-P", "--no-prompt", "--allow-read=data", "--allow-write=data"],
    },
    ...sqlite ? [{ name: "Node.js", path: sqlite, options: [] }] : [],
  ]
) {
  test(`the service that is shown works, ${runtime.name}`, async () => {
    moveIn();
    const port = await freePort();
    const url = `http://127.0.0.1:${port}`;
    for (const round of [1, 2]) {
      const words = [...runtime.options, "main.ts"].join(" ");
      const program = launch(["-c", `cd "$COPY" && exec "$PROGRAM" ${words}`], {
        COPY,
        PROGRAM: runtime.path,
        PORT: `${port}`,
      }, { runtime: shell });
      try {
        await until(program, () => /Listening/.exec(program.stdout));
        assert.equal((await fetch(`${url}/readyz`)).status, 200);
        const posted = await fetch(`${url}/notes`, { method: "POST", body: `note ${round}` });
        assert.equal(posted.status, 201);
        const notes = await (await fetch(`${url}/notes`)).json() as { text: string }[];
        assert.deepEqual(notes.map(({ text }) => text), ["note 1", "note 2"].slice(0, round));
        program.kill("SIGTERM");
        assert.equal(await program.exit, 0, program.stderr);
      } finally {
        program.kill("SIGKILL");
      }
    }
    rmSync(`${COPY}/data`, { recursive: true });
  });
}

test("Ctrl-C on the terminal of npm start lets a request in flight finish", async () => {
  const port = await freePort();
  const main = readFileSync(`${ROOT}/main.ts`, "utf8");
  const route =
    'app.get("/slow", async (c) => { console.log("in flight"); await sleep(700); return c.text("whole"); });';
  writeFileSync(`${COPY}/main.ts`, withRoutesOf(main, route));
  // A terminal of its own: there npm passes the signal on beside the terminal.
  const terminal = spawn("script", ["--quiet", "--return", "--flush", "--command", "npm start", "/dev/null"], {
    cwd: COPY,
    env: { ...process.env, PORT: `${port}`, HOST: "127.0.0.1" },
    stdio: ["pipe", "pipe", "inherit"],
  });
  let printed = "";
  const shows = async (text: string) => {
    while (!printed.includes(text)) await once(terminal.stdout, "data");
  };
  terminal.stdout.on("data", (chunk) => printed += chunk);
  const exit = once(terminal, "exit");
  await shows("Listening");
  const slow = fetch(`http://127.0.0.1:${port}/slow`);
  await shows("in flight");
  terminal.stdin.write("\x03");
  assert.equal(await (await slow).text(), "whole");
  await exit; // the code is npm's own: 0, or at times that of the signal
  await assert.rejects(fetch(`http://127.0.0.1:${port}/`), "nothing is left behind");
  assert.match(printed, /Draining, requests in flight: 1/);
  assert.doesNotMatch(printed, /Cut/);
});
