/**
 * Holds the README: runs its commands in a copy of the project and compares what they print with
 * what is shown. Pastes its service and its test, and runs both on Deno, on Node.js (BENCH_NODE
 * names one that has SQLite) and in the images.
 */
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname } from "node:path";
import process from "node:process";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { docker, LOCKED, skip, TARGETS } from "../support/engine.ts";
import {
  copyProject,
  denoPath,
  freePort,
  launch,
  missing,
  ROOT,
  type Runtime,
  TEST_TIMEOUT_MS,
  until,
  untilPrinted,
  withRoutesOf,
} from "../support/harness.ts";

const NAME = `heartbeat-readme-${process.pid}`;
const README = readFileSync(`${ROOT}/README.md`, "utf8");
const COPY = mkdtempSync(`${tmpdir()}/readme-`);
const IMAGES = ["plain", ...TARGETS].map((target) => `${NAME}:${target}`);
after(async () => {
  if (!skip) await docker(["image", "rm", "--force", ...IMAGES]);
  rmSync(COPY, { recursive: true, force: true });
});

copyProject(COPY);
/** The blocks of a document's section, commands and output alike. */
const blocks = (text: string, title: string) =>
  [...text.split(`\n## ${title}\n`)[1].split("\n## ")[0].matchAll(/^```(?:sh)?\n(.+?)\n```$/gms)]
    .map(([, block]) => block);

const [START, START_ON_DENO, LISTENING, TRY, TRY_ON_DENO, PRINTED, SHIP, SHIPPED] = blocks(
  README,
  "Start",
);
const [HEALTHY, PASSED] = PRINTED.split("\n");

/** How to prepare the copy behind `cd shop`, and to start, probe and test the service. */
const WAYS = [[START, TRY], [START_ON_DENO, TRY_ON_DENO]].map(([first, rest]) => {
  const prepare = first.split("\n").slice(2);
  const start = prepare.pop()!;
  const [probe, tests] = rest.split("\n");
  return { prepare: prepare.join("\n"), start, probe, tests };
});
const [ON_NODE, ON_DENO] = WAYS;
const shell: Runtime = { name: "sh", path: "bash", options: [] };
const deno = denoPath();
const PATH = `${dirname(deno)}:${process.env.PATH}`;

/**
 * Runs a command in the copy, which may not fail, and returns what it printed on standard output.
 */
async function run(command: string, env: Record<string, string> = {}): Promise<string> {
  const inherited: NodeJS.ProcessEnv = { ...process.env, PATH, NO_COLOR: "1", ...env };
  delete inherited.NODE_TEST_CONTEXT; // with it Node.js runs no test inside a test
  return (await promisify(execFile)("bash", ["--norc", "-ec", command], {
    cwd: COPY,
    env: inherited,
  })).stdout
    .trim();
}

before(async () => {
  for (const { prepare } of WAYS) await run(prepare);
});

test("each command of the start can be typed in cmd, PowerShell 5.1, sh and zsh", () => {
  const commands = [START, START_ON_DENO, TRY, TRY_ON_DENO, SHIP].join("\n");
  assert.doesNotMatch(commands, /&&|[;'`$\\<>|]/);
  assert.doesNotMatch(commands.replaceAll(/".*?"/g, ""), /#/, "zsh may take it for a pattern");
});

for (const { start, probe } of WAYS) {
  test(`${start} and ${probe} print what is shown`, async () => {
    const port = `${await freePort()}`;
    const env = { PORT: port };
    const program = launch(
      ["-c", `cd "$COPY" && exec ${start}`],
      { ...env, PATH, COPY },
      { runtime: shell },
    );
    try {
      const line = LISTENING.replace("8080", port);
      await untilPrinted(program, () => program.stdout.includes(`${line}\n`));
      assert.equal(await run(probe, env), HEALTHY.replace("8080", port));
      program.kill("SIGTERM");
      await program.exit;
      await assert.rejects(fetch(`http://127.0.0.1:${port}/`), "nothing is left behind");
      await assert.rejects(run(probe, env), { code: 1 }, "a stopped service is unhealthy");
    } finally {
      program.kill("SIGKILL");
    }
  });
}

for (const { tests } of WAYS) {
  test(`${tests} prints what is shown`, async () => {
    const withoutTime = (line = "") => line.replace(/\d+m?s\)$/, "");
    assert.match(PASSED, /^ok \|/);
    assert.equal(withoutTime((await run(tests)).split("\n").at(-1)), withoutTime(PASSED));
  });
}

test("docker compose and docker run ship it", { skip }, async () => {
  const [plain] = IMAGES;
  const env = { COMPOSE_PROJECT_NAME: NAME, PUBLISHED_PORT: `${await freePort()}` };
  try {
    assert.equal((await run(SHIP, env)).split("\n").at(-1), SHIPPED);
  } finally {
    await run("docker compose down --volumes --rmi local", env);
  }
  const row = /^\| Docker +\| `(.+?)`<br>`(.+?)` +\|/m.exec(README)!.slice(1).join("\n");
  const command = row.replace("run -p 8080:8080", `run --detach -p 127.0.0.1::8080`).replace(
    /heartbeat/g,
    plain,
  )
    .replace("-v notes:", `-v ${NAME}:`);
  assert.notEqual(command, row);
  const container = (await run(command)).split("\n").at(-1)!;
  try {
    await healthy(container);
  } finally {
    await docker(["rm", "--force", container]);
    await docker(["volume", "rm", "--force", NAME]);
  }
});

const healthy = (container: string) =>
  until(
    async () =>
      await docker(["inspect", "--format", "{{.State.Health.Status}}", container]) === "healthy",
    "healthy container",
  );

// ── Move in ──

/** Replaces a text in a file of the copy, which must be there. */
function edit(file: string, from: string, to: string) {
  const text = readFileSync(`${ROOT}/${file}`, "utf8");
  assert.ok(text.includes(from), `${from} in ${file}`);
  writeFileSync(`${COPY}/${file}`, text.replace(from, () => to));
}

/** Pastes the service and its test, and adds the permissions, as the README says. */
function moveIn() {
  const [service, example] = [...README.matchAll(/^```ts\n(.+?)^```$/gms)].map(([, code]) => code);
  const route = /^ +app\.get\("\/", .+\n/m.exec(readFileSync(`${ROOT}/main.ts`, "utf8"))![0];
  edit("main.ts", route.trim(), `${route.trim()}\n\n${service}`);
  writeFileSync(`${COPY}/notes.test.ts`, example);
  const [, permissions] = /^```jsonc\n(.+?)\n```$/ms.exec(README)!;
  edit("deno.json", '"read": ["static"]', permissions.replace("\n", "\n      "));
}

const sqlite = process.env.BENCH_NODE;
const skipNode = !sqlite &&
  missing("BENCH_NODE names no Node.js with SQLite, so the README's service runs on Deno alone");

/** Posts a note and expects all notes so far. */
async function assertNotes(url: string, count: number) {
  assert.equal((await fetch(`${url}/readyz`)).status, 200);
  const posted = await fetch(`${url}/notes`, { method: "POST", body: `note ${count}` });
  assert.deepEqual([posted.status, await posted.json()], [201, { id: count }]);
  const notes = await (await fetch(`${url}/notes`)).json() as { text: string }[];
  assert.deepEqual(notes.map(({ text }) => text), ["note 1", "note 2"].slice(0, count));
}

test(
  "the service and its test leave npm test and npm run check green",
  { skip: skipNode },
  async () => {
    moveIn();
    const PATH_OF_NODE = `${dirname(sqlite!)}:${PATH}`;
    await run("npm install\nnpm run fmt", { PATH: PATH_OF_NODE });
    assert.match(
      await run(`${ON_NODE.tests} && npm run check`, { PATH: PATH_OF_NODE }),
      /a note that is posted is listed/,
    );
    assert.match(
      await run(`${ON_DENO.tests} && deno task check`),
      /a note that is posted is listed/,
    );
    assert.deepEqual(await run("ls -A data"), ".gitignore", "no test touches the real notes");
  },
);

for (
  const runtime of [
    { name: "Deno", path: deno, options: ["run", "-q", "-P", "--no-prompt"], skip: false },
    { name: "Node.js", path: `${sqlite}`, options: [], skip: skipNode },
  ]
) {
  test(`the service that is shown works, ${runtime.name}`, { skip: runtime.skip }, async () => {
    moveIn();
    const port = await freePort();
    for (const round of [1, 2]) {
      const words = [...runtime.options, "main.ts"].join(" ");
      const env = { COPY, PROGRAM: runtime.path, PORT: `${port}` };
      const program = launch(["-c", `cd "$COPY" && exec "$PROGRAM" ${words}`], env, {
        runtime: shell,
      });
      try {
        await untilPrinted(program, () => /Listening/.exec(program.stdout));
        await assertNotes(`http://127.0.0.1:${port}`, round);
        program.kill("SIGTERM");
        assert.equal(await program.exit, 0, program.stderr);
      } finally {
        program.kill("SIGKILL");
      }
    }
    const notes = readdirSync(`${COPY}/data`).filter((name) => name !== ".gitignore");
    for (const name of notes) rmSync(`${COPY}/data/${name}`);
  });
}

for (const target of TARGETS) {
  test(
    `the service that is shown works in the image on ${target}, and keeps its notes in a volume`,
    { skip },
    async () => {
      moveIn();
      const image = `${NAME}:${target}`;
      const volume = `${NAME}-${target}`;
      await run(`docker build --quiet --tag ${image} --target ${target} .`);
      try {
        for (const round of [1, 2]) {
          const flags = [
            "--detach",
            ...LOCKED,
            "--volume",
            `${volume}:/data`,
            "--publish",
            "127.0.0.1::8080",
          ];
          const container = await docker(["run", ...flags, image]);
          try {
            await healthy(container);
            await assertNotes(`http://${await docker(["port", container, "8080/tcp"])}`, round);
            await docker(["stop", container]);
            assert.equal(
              await docker(["inspect", "--format", "{{.State.ExitCode}}", container]),
              "0",
            );
          } finally {
            await docker(["rm", "--force", container]);
          }
        }
      } finally {
        await docker(["volume", "rm", "--force", volume]);
      }
    },
  );
}

test("Ctrl-C on the terminal of npm start lets a request in flight finish", async () => {
  const port = await freePort();
  const main = readFileSync(`${ROOT}/main.ts`, "utf8");
  const route = 'app.get("/slow", async (c) => { console.log("in flight"); await sleep(700); ' +
    'return c.text("whole"); });';
  writeFileSync(`${COPY}/main.ts`, withRoutesOf(main, route));
  // A terminal of its own: there npm passes the signal on beside the terminal.
  const script = ["--quiet", "--return", "--flush", "--command", "npm start", "/dev/null"];
  const terminal = spawn("script", script, {
    cwd: COPY,
    env: { ...process.env, PORT: `${port}`, HOST: "127.0.0.1" },
    stdio: ["pipe", "pipe", "inherit"],
  });
  let printed = "";
  terminal.stdout.on("data", (chunk) => {
    printed += chunk;
  });
  const exit = once(terminal, "exit");
  const shows = (text: string) =>
    until(
      () => {
        assert.equal(terminal.exitCode, null, printed);
        return printed.includes(text);
      },
      text,
      TEST_TIMEOUT_MS,
    );
  try {
    await shows("Listening");
    const slow = fetch(`http://127.0.0.1:${port}/slow`);
    await shows("in flight");
    terminal.stdin.write("\x03");
    assert.equal(await (await slow).text(), "whole");
    await exit; // the code is npm's own: 0, or at times that of the signal
    await assert.rejects(fetch(`http://127.0.0.1:${port}/`), "nothing is left behind");
    assert.match(printed, /Draining, requests in flight: 1/);
    assert.doesNotMatch(printed, /Cut/);
  } finally {
    terminal.kill("SIGHUP"); // as a terminal that is closed
  }
});
