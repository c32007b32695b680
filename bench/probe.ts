/**
 * What a probe costs: the CPU time of its whole process against that of an empty program on the same runtime, as the
 * median of pairs run in turn. `npm run bench` prints it for Deno and for the Node.js that runs it; another Node.js is
 * named by BENCH_NODE.
 */
import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import process from "node:process";

const PAIRS = 30;
const ROOT = `${import.meta.dirname}/..`;
const NODE = process.env.BENCH_NODE || process.execPath;
const DENO = `${ROOT}/node_modules/deno/deno`;
const TSX = [process.execPath, `${ROOT}/node_modules/tsx/dist/cli.mjs`];

/** User and system time in ms of a command and of all that it starts; throws if it fails. */
function cpuMs(command: string[], env: NodeJS.ProcessEnv): number {
  const script = `TIMEFORMAT='%3U %3S'; time "$@" >/dev/null`;
  const { status, stderr } = spawnSync("bash", ["-c", script, "bash", ...command], {
    cwd: ROOT,
    env,
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(`Cannot measure ${command.join(" ")}: ${stderr.trim()}`);
  const times = stderr.trim().split("\n").at(-1)!.split(" ").map(Number);
  return (times[0] + times[1]) * 1000;
}

function median(values: number[]): number {
  return values.toSorted((a, b) => a - b)[values.length >> 1];
}

const empty = `${mkdtempSync(`${ROOT}/.test-bench-`)}/empty.ts`;
writeFileSync(empty, "");
const service = spawn(process.execPath, ["--import", "tsx", "main.ts"], {
  cwd: ROOT,
  env: { ...process.env, HOST: "127.0.0.1", PORT: "0", ACCESS_LOG: "off" },
  stdio: ["ignore", "pipe", "inherit"],
});
try {
  const listening = await new Promise<string>((resolve) => service.stdout.on("data", (data) => resolve(`${data}`)));
  const env = {
    ...process.env,
    HOST: "127.0.0.1",
    PORT: listening.match(/\d+\n/)![0].trim(),
    DENO_NO_UPDATE_CHECK: "1",
  };
  const version = spawnSync(NODE, ["--version"], { encoding: "utf8" }).stdout.trim();
  const kinds: [string, string[], string[]][] = [
    ["deno run -P main.ts --ping", [DENO, "run", "-q", "-P", "main.ts", "--ping"], [DENO, "run", empty]],
    ["npx tsx main.ts --ping", [...TSX, "main.ts", "--ping"], [...TSX, empty]],
  ];
  const [major, minor] = version.slice(1).split(".").map(Number);
  if (major > 22 || (major === 22 && minor >= 18)) {
    kinds.push([`node main.ts --ping (${version})`, [NODE, "main.ts", "--ping"], [NODE, empty]]);
  } else {
    console.error(
      `Left out: node main.ts --ping, for which BENCH_NODE must name Node.js 22.18 or later (it is ${version})`,
    );
  }
  console.log("| probe | CPU | an empty program | ratio |\n|---|---|---|---|");
  for (const [name, probe, nothing] of kinds) {
    const pairs = Array.from({ length: PAIRS }, () => [cpuMs(probe, env), cpuMs(nothing, env)]);
    const [cost, base] = [0, 1].map((side) => median(pairs.map((pair) => pair[side])));
    const ratio = median(pairs.map(([probe, nothing]) => probe / nothing));
    console.log(`| \`${name}\` | ${cost.toFixed(0)} ms | ${base.toFixed(0)} ms | ${ratio.toFixed(2)} |`);
  }
} finally {
  service.kill("SIGTERM");
  rmSync(empty.replace(/\/empty.ts$/, ""), { recursive: true });
}
