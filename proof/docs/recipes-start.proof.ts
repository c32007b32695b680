/** Holds the recipes of docs/recipes.md that start the service another way: `.env` and PM2. */
import assert from "node:assert/strict";
import { appendFileSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import process from "node:process";
import { before, test } from "node:test";
import {
  denoPath,
  type Env,
  freePort,
  launch,
  missing,
  type Program,
  type Runtime,
  until as eventually,
  untilPrinted,
} from "../support/harness.ts";
import { assertUsed, blocksOf } from "./blocks.ts";
import { addRoutes, assertAnswer, FOLDER, makeCopy, shell, url } from "./recipes.ts";

const RECIPES = ["PM2"];
const PM2_VERSION = "7.0.4";
const BASH: Runtime = { name: "bash", path: "bash", options: [] };
const NODE_26 = process.env.BENCH_NODE;
/** Longer than PM2's own patience of 1.6 s. */
const SLOW_MS = 2500;

let copy = "";
before(async () => {
  copy = await makeCopy("start", ["A variable"]);
  addRoutes(
    copy,
    `app.get("/slow", async (c) => {
  await sleep(${SLOW_MS});
  return c.text("slow");
});
`,
  );
});

// ── Variables from a file ──

const [onNode, onDeno] = blocksOf("Variables from a file", "sh");
for (const line of (onNode + onDeno).trim().split("\n")) {
  test(`${line}: the file's variables, unless they are set`, async () => {
    writeFileSync(`${copy}/.env`, "GREETING=from the file\nHOST=127.0.0.1\nPORT=0\n");
    await withLine(line, {}, async (program) => {
      await assertGreeting(program, 1, "from the file");
      if (!line.includes("watch")) return;
      appendFileSync(`${copy}/main.ts`, "\n");
      await assertGreeting(program, 2, "from the file");
    });
    await withLine(line, { GREETING: "from the shell" }, async (program) => {
      await assertGreeting(program, 1, "from the shell");
    });
  });
}

/** Runs a line of the document in the copy, and ends it as Ctrl-C does. */
async function withLine(line: string, env: Env, body: (program: Program) => Promise<void>) {
  // npx would be a process between the test and the line.
  const command = line.replace(/^npx /, "node_modules/.bin/");
  const PATH = `${dirname(denoPath())}:${dirname(process.execPath)}:${process.env.PATH}`;
  const args = ["-c", `cd "${copy}" && exec ${command}`];
  const program = launch(args, { PATH, ...env }, { runtime: BASH });
  try {
    await body(program);
    program.kill("SIGINT");
    await program.exit;
  } finally {
    program.kill("SIGKILL");
  }
}

/** Asks the service that listens for the given time. */
async function assertGreeting(program: Program, starts: number, expected: string) {
  const address = await untilPrinted(program, () => {
    const found = [...program.stdout.matchAll(/^Listening on \S+:(\d+)\b/gm)];
    return found[starts - 1]?.[1];
  });
  await assertAnswer(url({ port: Number(address) }, "/greeting"), {}, 200, expected);
}

// ── PM2 ──

const [byNode, byDeno] = blocksOf("PM2", "sh");
const TSX = ' --node-args="--import tsx"';
const STARTS: [name: string, line: string, node: string | undefined][] = [
  ["tsx", byNode.trim() + TSX, process.execPath],
  ["Node.js 26", byNode, NODE_26],
  ["Deno", byDeno, process.execPath],
];

before(async () => {
  await shell(FOLDER, `npm install --silent --no-save --prefix pm2 pm2@${PM2_VERSION}`);
});

for (const [name, line, node] of STARTS) {
  const skip = node === undefined && missing("BENCH_NODE names no Node.js 26 for PM2");
  test(`PM2 starts the service on ${name}, and a stop drains it`, { skip }, async () => {
    const port = await freePort();
    const PATH = [dirname(node!), dirname(denoPath()), `${FOLDER}/pm2/node_modules/.bin`];
    const env = {
      PATH: [...PATH, process.env.PATH].join(":"),
      PM2_HOME: `${FOLDER}/pm2-${port}`,
      PORT: `${port}`,
      HOST: "127.0.0.1",
      GREETING: name,
    };
    const pm2 = (commands: string) => shell(copy, commands, env, node);
    try {
      await pm2(line);
      const greets = () => fetch(url({ port }, "/greeting")).then(({ ok }) => ok, () => false);
      await eventually(greets, "service under PM2");
      const slow = assertAnswer(url({ port }, "/slow"), {}, 200, "slow");
      await pm2("pm2 stop shop");
      await slow;
      assert.match(await pm2("cat $PM2_HOME/logs/*"), /^Draining, requests in flight: 1$/m);
    } finally {
      await pm2("pm2 kill");
    }
  });
}

test("the blocks of these recipes were all used", () => assertUsed(RECIPES));
