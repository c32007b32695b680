/**
 * Holds the README: runs its commands in a copy of the project and compares what they print with what is shown. Pastes
 * its service and its test, and runs both on Deno, on Node.js (BENCH_NODE names one that has SQLite) and in the images.
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
import { docker, LOCKED, skip, TARGETS, until as untilTrue } from "../support/engine.ts";
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
} from "../support/harness.ts";

const LINES_MAX = 120;
const NAME = `heartbeat-readme-${process.pid}`;
const README = readFileSync(`${ROOT}/README.md`, "utf8");
const COPY = mkdtempSync(`${tmpdir()}/readme-`);
const IMAGES = ["plain", ...TARGETS].map((target) => `${NAME}:${target}`);
after(async () => {
  if (!skip) await docker(["image", "rm", "--force", ...IMAGES]);
  rmSync(COPY, { recursive: true, force: true });
});

copyProject(COPY);

/** The commands of the README's console, each with its like on Deno alone and what it is shown to print. */
const [START, PING, TEST, SHIP] = /^```console\n(.+?)^```$/ms.exec(README)![1].split(/^\$ /m).slice(
  1,
).map((shown) => {
  const [line, ...output] = shown.trimEnd().split("\n");
  const [command, onDeno] = line.split(/ +# on Deno alone: /);
  return { command, onDeno, output: output.join("\n") };
});
const shell: Runtime = { name: "sh", path: "bash", options: [] };
const deno = denoPath();
const PATH = `${dirname(deno)}:${process.env.PATH}`;

/** Runs a command in the copy, which may not fail, and returns what it printed on standard output. */
async function run(command: string, env: Record<string, string> = {}): Promise<string> {
  const inherited: NodeJS.ProcessEnv = { ...process.env, PATH, NO_COLOR: "1", ...env };
  delete inherited.NODE_TEST_CONTEXT; // with it Node.js runs no test inside a test
  return (await promisify(execFile)("bash", ["-c", command], { cwd: COPY, env: inherited })).stdout
    .trim();
}

test("the README is short", () => {
  const lines = README.trimEnd().split("\n").length;
  assert.ok(lines <= LINES_MAX, `${lines} lines`);
});

test("the README starts a copy as docs/copy.md does, which is tried", () => {
  const [start, onDeno] = [
    ...readFileSync(`${ROOT}/docs/copy.md`, "utf8").matchAll(/^```sh\n(.+?)\n```$/gms),
  ];
  assert.ok(README.includes(`\`\`\`sh\n${start[1]}\n# On Deno alone: ${onDeno[1]}\n\`\`\`\n`));
});

test("npm start and the probe print what is shown, and so do their likes on Deno", async () => {
  const port = `${await freePort()}`;
  const env = { PORT: port };
  for (const command of [START.command, START.onDeno, "deno run -P --no-prompt main.ts"]) {
    const program = launch(["-c", `cd "$COPY" && ${command.replace("&& ", "&& exec ")}`], {
      ...env,
      PATH,
      COPY,
    }, {
      runtime: shell,
    });
    try {
      await until(
        program,
        () => program.stdout.includes(`${START.output.replace("8080", port)}\n`),
      );
      for (
        const probe of [
          PING.command,
          PING.onDeno,
          "deno run -P --no-prompt main.ts --ping; echo $?",
        ]
      ) {
        assert.equal(await run(probe, env), PING.output.replace("8080", port), probe);
      }
      program.kill("SIGTERM");
      await program.exit;
      await assert.rejects(fetch(`http://127.0.0.1:${port}/`), "nothing is left behind");
    } finally {
      program.kill("SIGKILL");
    }
  }
});

test("npm test prints what is shown, and so does its like on Deno", async () => {
  const shown = TEST.output.replace("… ", "");
  const withoutTime = (line = "") => line.replace(/\d+m?s\)$/, "");
  assert.match(shown, /^ok \|/);
  for (const command of [TEST.command, TEST.onDeno]) {
    assert.equal(withoutTime((await run(command)).split("\n").at(-1)), withoutTime(shown), command);
  }
});

test("docker compose and docker run ship it", { skip }, async () => {
  const [plain] = IMAGES;
  const env = { COMPOSE_PROJECT_NAME: NAME, PUBLISHED_PORT: `${await freePort()}` };
  try {
    assert.equal(`… ${(await run(SHIP.command, env)).split("\n").at(-1)}`, SHIP.output);
  } finally {
    await run("docker compose down --volumes --rmi local", env);
  }
  const row = /^\| Docker +\| `(.+?)`/m.exec(README)![1];
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
  untilTrue(
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
  const permission = (pattern: RegExp) => pattern.exec(README.replaceAll("\n", " "))![1];
  edit("deno.json", '"read": ["static"]', permission(/`("read": [^`]+)` in `deno.json`/));
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
    await run("npm install && npx deno fmt", { PATH: PATH_OF_NODE });
    assert.match(
      await run(`${TEST.command} && npm run check`, { PATH: PATH_OF_NODE }),
      /a note that is posted is listed/,
    );
    assert.match(await run(`${TEST.onDeno} && deno task check`), /a note that is posted is listed/);
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
        await until(program, () => /Listening/.exec(program.stdout));
        await assertNotes(`http://127.0.0.1:${port}`, round);
        program.kill("SIGTERM");
        assert.equal(await program.exit, 0, program.stderr);
      } finally {
        program.kill("SIGKILL");
      }
    }
    rmSync(`${COPY}/data`, { recursive: true });
    mkdirSync(`${COPY}/data`);
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
  const route =
    'app.get("/slow", async (c) => { console.log("in flight"); await sleep(700); return c.text("whole"); });';
  writeFileSync(`${COPY}/main.ts`, withRoutesOf(main, route));
  // A terminal of its own: there npm passes the signal on beside the terminal.
  const terminal = spawn("script", [
    "--quiet",
    "--return",
    "--flush",
    "--command",
    "npm start",
    "/dev/null",
  ], {
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
