/**
 * `npm run bench`: measures the service and its probe side by side with what they are to be compared with, in turn, and
 * prints a table of ratios. The same goes to bench/results.json, and the probe's cost to bench/probe.svg.
 *
 * BENCH_NODE names a Node.js that runs TypeScript by itself, PEER a Go program that answers /healthz and has --ping.
 * It needs hyperfine and wrk; without a Docker engine the rows about images are left out, and it says so.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import process from "node:process";
import { parse, View } from "vega";
import { compile, type TopLevelSpec } from "vega-lite";

const PAIRS = 30;
const START_PAIRS = 15;
const LOAD_ROUNDS = 3;
const LOAD_SECONDS = 4;
const CONNECTIONS = 64;
const REQUESTS = 1_000_000;
const CONTAINERS = 200;
const PROBE_INTERVAL_S = 10;

const ROOT = `${import.meta.dirname}/..`;
const DENO = `${ROOT}/node_modules/deno/deno`;
const NODE = process.env.BENCH_NODE || process.execPath;
const TSX = [process.execPath, `${ROOT}/node_modules/tsx/dist/cli.mjs`];
const PEER = process.env.PEER;
const ENV = { ...process.env, HOST: "127.0.0.1", DENO_NO_UPDATE_CHECK: "1", ACCESS_LOG: "off", NO_COLOR: "1" };

/** Runs a command and gives what it prints; throws what it says if it fails. */
function output(command: string[], env: NodeJS.ProcessEnv = ENV): string {
  const { status, stdout, stderr, error } = spawnSync(command[0], command.slice(1), {
    cwd: ROOT,
    env,
    encoding: "utf8",
  });
  if (status !== 0) throw new Error(`Cannot run ${command.join(" ")}: ${error?.message ?? stderr.trim()}`);
  return stdout.trim();
}

const has = (command: string[]) => spawnSync(command[0], command.slice(1)).status === 0;
const missing = ["hyperfine", "wrk", "time"].filter((tool) =>
  !has(["sh", "-c", `command -v ${tool === "time" ? "/usr/bin/time" : tool}`])
);
if (missing.length > 0) {
  console.error(`Missing: ${missing.join(", ")}. Install with: apt-get install ${missing.join(" ")}`);
  process.exit(1);
}
const version = output([NODE, "--version"]);
const [major, minor] = version.slice(1).split(".").map(Number);
if (major < 22 || (major === 22 && minor < 18)) {
  console.error(`BENCH_NODE must name Node.js 22.18 or later: it is ${NODE}, ${version}`);
  process.exit(1);
}

const median = (values: number[]) => values.toSorted((a, b) => a - b)[values.length >> 1];

// ── What is measured ──

const work = mkdtempSync(`${ROOT}/.test-bench-`);
const write = (name: string, text: string) => {
  mkdirSync(`${work}/${name}`.replace(/\/[^/]*$/, ""), { recursive: true });
  writeFileSync(`${work}/${name}`, text);
  return `${work}/${name}`;
};
const emptyTs = write("empty.ts", "");
const emptyJs = write("empty.js", "");
const rawDeno = write(
  "raw-deno.ts",
  `Deno.serve({ hostname: "127.0.0.1", port: Number(Deno.env.get("PORT")) }, () => new Response(null));`,
);
const rawNode = write(
  "raw-node.mjs",
  `import { createServer } from "node:http";
createServer((_, response) => response.end()).listen(Number(process.env.PORT), "127.0.0.1");`,
);
output([
  DENO,
  "bundle",
  "--quiet",
  "--minify",
  "--external=@hono/node-server",
  `--output=${work}/deno/main.js`,
  "main.ts",
]);
output([DENO, "bundle", "--quiet", "--minify", "--code-splitting", `--outdir=${work}/node`, "main.ts"]);

/** The options with which the image runs Deno. */
const IMAGE_FLAGS: string[] = JSON.parse(
  /ENTRYPOINT (\["\/bin\/deno".*\])/.exec(readFileSync(`${ROOT}/Dockerfile`, "utf8").replaceAll("\\\n", ""))![1],
).slice(1, -1);
const denoBundle = [DENO, ...IMAGE_FLAGS, `${work}/deno/main.js`];
const nodeBundle = [NODE, `${work}/node/main.js`];
const denoSource = [DENO, "run", "-q", "-P", "main.ts"];
const nodeSource = [NODE, "main.ts"];
const rawDenoServer = [DENO, "run", "-q", "-A", rawDeno];
const rawNodeServer = [NODE, rawNode];

interface Row {
  what: string;
  ours: string;
  against: string;
  ratio: number;
  goal: string;
  met: boolean | null;
}
const rows: Row[] = [];
/** Adds a row; the goal is a bound on the ratio, negative if the ratio is to be at least that. */
function row(what: string, ours: string, against: string, ratio: number, bound?: number) {
  const met = bound === undefined ? null : bound < 0 ? ratio >= -bound : ratio <= bound;
  const goal = bound === undefined ? "" : `${bound < 0 ? "≥" : "≤"} ${Math.abs(bound)}`;
  rows.push({ what, ours, against, ratio: Math.round(ratio * 1000) / 1000, goal, met });
  console.error(`${what}: ${ours} against ${against}: ${ratio.toFixed(2)} ${goal}${met === false ? " MISSED" : ""}`);
}

// ── Servers ──

async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/** Whether a port answers a request with 200, asked once. */
function answers(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1", () => socket.write("GET /healthz HTTP/1.1\r\nHost: bench\r\n\r\n"));
    socket.once("data", (data) => (socket.destroy(), resolve(`${data}`.startsWith("HTTP/1.1 200"))));
    socket.once("error", () => resolve(false));
  });
}

/** Starts a server, waits for its first 200, and ends it after. */
async function withServer<T>(
  command: string[],
  body: (port: number, server: ChildProcess, startMs: number) => Promise<T> | T,
) {
  const port = await freePort();
  const env: NodeJS.ProcessEnv = { ...ENV, PORT: `${port}` };
  const fromMs = performance.now();
  const server = spawn(command[0], command.slice(1), { cwd: ROOT, env, stdio: ["ignore", "ignore", "inherit"] });
  const exit = new Promise((resolve) => server.once("exit", resolve));
  try {
    while (!await answers(port)) {
      if (server.exitCode !== null) throw new Error(`${command.join(" ")} ended with ${server.exitCode}`);
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    return await body(port, server, performance.now() - fromMs);
  } finally {
    server.kill("SIGKILL");
    await exit;
  }
}

// ── Probes ──

interface Cost {
  cpuMs: number;
  wallMs: number;
}

/** What one run of a command costs, it and all that it starts. */
function cost(command: string[], env: NodeJS.ProcessEnv): Cost {
  const json = `${work}/hyperfine.json`;
  const words = command.map((word) => `'${word}'`).join(" ");
  output(["hyperfine", "--shell=none", "--runs=1", "--style=none", `--export-json=${json}`, words], env);
  const [{ user, system, mean }] = JSON.parse(readFileSync(json, "utf8")).results;
  return { cpuMs: (user + system) * 1000, wallMs: mean * 1000 };
}

/** The most memory that a command held, in MiB. */
function peakMib(command: string[], env: NodeJS.ProcessEnv): number {
  const script = `/usr/bin/time --format=%M --output="$0" "$@" >/dev/null`;
  output(["sh", "-c", script, `${work}/peak`, ...command], env);
  return Number(readFileSync(`${work}/peak`, "utf8")) / 1024;
}

const probeCpuMs: { probe: string; kind: string; cpuMs: number }[] = [];

await withServer(denoSource, (port) => {
  const env = { ...ENV, PORT: `${port}` };
  const url = `http://127.0.0.1:${port}/healthz`;
  /** Measures two commands in turn. */
  const compare = (name: string, ours: string[], against: string, theirs: string[], bound?: number, pairs = PAIRS) => {
    const runs = Array.from({ length: pairs }, () => [cost(ours, env), cost(theirs, env)]);
    const [ourMs, theirMs] = [0, 1].map((side) => median(runs.map((run) => run[side].cpuMs)));
    const ratio = median(runs.map(([mine, other]) => mine.cpuMs / other.cpuMs));
    row(`probe, CPU: ${name}`, `${ourMs.toFixed(1)} ms`, `${against}, ${theirMs.toFixed(1)} ms`, ratio, bound);
    const [ourWallMs, theirWallMs] = [0, 1].map((side) => median(runs.map((run) => run[side].wallMs)));
    row(
      `probe, wall: ${name}`,
      `${ourWallMs.toFixed(1)} ms`,
      `${against}, ${theirWallMs.toFixed(1)} ms`,
      ourWallMs / theirWallMs,
    );
    const [ourMib, theirMib] = [peakMib(ours, env), peakMib(theirs, env)];
    row(
      `probe, peak memory: ${name}`,
      `${ourMib.toFixed(0)} MiB`,
      `${against}, ${theirMib.toFixed(0)} MiB`,
      ourMib / theirMib,
    );
    return [ourMs, theirMs];
  };
  const draw = (probe: string, kind: string, cpuMs: number) => probeCpuMs.push({ probe, kind, cpuMs });
  for (
    const [name, ours, against, theirs, bound] of [
      ["image on Deno", [...denoBundle, "--ping"], "an empty program", [DENO, "run", emptyJs], 1.15],
      ["image on Node.js", [...nodeBundle, "--ping"], "an empty program", [NODE, emptyJs], 1.15],
      ["main.ts on Deno", [...denoSource, "--ping"], "an empty program", [DENO, "run", emptyTs], 1.25],
      [`main.ts on Node.js ${major}`, [...nodeSource, "--ping"], "an empty program", [NODE, emptyTs], 1.25],
      ["main.ts on tsx", [...TSX, "main.ts", "--ping"], "an empty program", [...TSX, emptyTs], 1.25],
    ] as [string, string[], string, string[], number][]
  ) {
    const [ourMs, emptyMs] = compare(name, ours, against, theirs, bound);
    draw(name, "empty program", emptyMs);
    draw(name, "probe itself", Math.max(0, ourMs - emptyMs));
  }
  const withFetch = [NODE, "-e", `fetch("${url}").then((r)=>process.exit(r.ok?0:1),()=>process.exit(1))`];
  const [imageMs, fetchMs] = compare("image on Deno", [...denoBundle, "--ping"], "node -e with fetch", withFetch, 0.3);
  compare("image on Deno", [...denoBundle, "--ping"], "curl -f", ["curl", "-fsS", "-o", "/dev/null", url]);
  draw("node -e with fetch", "probe itself", fetchMs);
  if (PEER) {
    const [, peerMs] = compare("image on Deno", [...denoBundle, "--ping"], "the Go peer", [PEER, "--ping"]);
    draw("the Go peer", "probe itself", peerMs);
  }
  const cores = (ms: number) => CONTAINERS / PROBE_INTERVAL_S * ms / 1000;
  row(
    `${CONTAINERS} containers probed every ${PROBE_INTERVAL_S} s (computed)`,
    `${cores(imageMs).toFixed(2)} cores`,
    `with fetch, ${cores(fetchMs).toFixed(2)} cores`,
    imageMs / fetchMs,
  );
});

// ── Serving ──

/** Requests per second, and the time in ms within which 99 of 100 are answered. */
function load(
  port: number,
  path: string,
  seconds = LOAD_SECONDS,
): { perSecond: number; p99Ms: number; requests: number } {
  const text = output([
    "wrk",
    "--threads=1",
    `--connections=${CONNECTIONS}`,
    `--duration=${seconds}s`,
    "--latency",
    `http://127.0.0.1:${port}${path}`,
  ]);
  const [, p99, unit] = /99%\s+([\d.]+)(us|ms|s)/.exec(text)!;
  if (/Non-2xx|Socket errors/.test(text)) throw new Error(text);
  return {
    perSecond: Number(/Requests\/sec:\s+([\d.]+)/.exec(text)![1]),
    p99Ms: Number(p99) * { us: 0.001, ms: 1, s: 1000 }[unit as "us" | "ms" | "s"],
    requests: Number(/(\d+) requests in/.exec(text)![1]),
  };
}

/** Loads two servers in turn. */
async function race(
  name: string,
  ours: string[],
  against: string,
  theirs: string[],
  bound?: number,
  path = "/healthz",
) {
  const rounds: { perSecond: number; p99Ms: number }[][] = [[], []];
  for (let round = 0; round < LOAD_ROUNDS; round++) {
    for (const [side, command] of [ours, theirs].entries()) {
      rounds[side].push(await withServer(command, (port) => (load(port, path, 1), load(port, path))));
    }
  }
  const [ourRate, theirRate] = rounds.map((round) => median(round.map(({ perSecond }) => perSecond)));
  const [ourP99, theirP99] = rounds.map((round) => median(round.map(({ p99Ms }) => p99Ms)));
  const thousands = (rate: number) => `${(rate / 1000).toFixed(1)}k/s`;
  row(
    `${path}, requests: ${name}`,
    thousands(ourRate),
    `${against}, ${thousands(theirRate)}`,
    ourRate / theirRate,
    bound && -bound,
  );
  row(`${path}, p99: ${name}`, `${ourP99.toFixed(2)} ms`, `${against}, ${theirP99.toFixed(2)} ms`, ourP99 / theirP99);
}

await race("Deno", denoSource, "raw Deno.serve", rawDenoServer, 0.9);
await race(`Node.js ${major}`, nodeSource, "raw node:http", rawNodeServer, 0.9);
if (PEER) await race("Deno", denoSource, "the Go peer", [PEER], 1.5);
const logging = (command: string[]) => ["env", "ACCESS_LOG=on", ...command];
await race("Deno, access log on", logging(denoSource), "off", denoSource, undefined, "/");
await race(`Node.js ${major}, access log on`, logging(nodeSource), "off", nodeSource, undefined, "/");

/** Starts two servers in turn. */
async function starts(name: string, ours: string[], against: string, theirs: string[], bound?: number) {
  const times: number[][] = [[], []];
  for (let pair = 0; pair < START_PAIRS; pair++) {
    for (const [side, command] of [ours, theirs].entries()) {
      times[side].push(await withServer(command, (_port, _server, startMs) => startMs));
    }
  }
  const [ourMs, theirMs] = times.map(median);
  row(
    `start to first 200: ${name}`,
    `${ourMs.toFixed(0)} ms`,
    `${against}, ${theirMs.toFixed(0)} ms`,
    ourMs / theirMs,
    bound,
  );
}

await starts("Deno, bundled", denoBundle, "raw Deno.serve", rawDenoServer, 1.2);
await starts(`Node.js ${major}, bundled`, nodeBundle, "raw node:http", rawNodeServer, 1.2);
await starts("Deno, main.ts", denoSource, "raw Deno.serve", rawDenoServer);
await starts(`Node.js ${major}, main.ts`, nodeSource, "raw node:http", rawNodeServer);

/** Resident memory in MiB: idle, after a tenth of the requests, and after all. */
function resident(command: string[]): Promise<number[]> {
  return withServer(command, (port, server) => {
    const mib = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${server.pid}/status`, "utf8"))![1]) / 1024;
    const seen = [mib()];
    for (const until of [REQUESTS / 10, REQUESTS]) {
      for (let requests = 0; requests < until;) requests += load(port, "/healthz", 1).requests;
      seen.push(mib());
    }
    return seen;
  });
}

for (
  const [name, ours, against, theirs] of [
    ["Deno", denoBundle, "raw Deno.serve", rawDenoServer],
    [`Node.js ${major}`, nodeBundle, "raw node:http", rawNodeServer],
  ] as [string, string[], string, string[]][]
) {
  const [mine, other] = [await resident(ours), await resident(theirs)];
  const mib = (value: number) => `${value.toFixed(0)} MiB`;
  row(`resident memory, idle: ${name}`, mib(mine[0]), `${against}, ${mib(other[0])}`, mine[0] / other[0], 1.15);
  row(`after ${REQUESTS} requests: ${name}`, mib(mine[2]), `${against}, ${mib(other[2])}`, mine[2] / other[2], 1.15);
  row(
    `the same, grown since a tenth of them: ${name}`,
    mib(mine[2]),
    `itself, ${mib(mine[1])}`,
    mine[2] / mine[1],
    1.05,
  );
}

// ── Images ──

if (has(["docker", "version"])) {
  write(
    "plain/Dockerfile",
    `FROM node:26.10.0-trixie-slim
WORKDIR /app
COPY package.json package-lock.json ./
RUN npm ci --silent --ignore-scripts
COPY main.ts ./
CMD ["npx", "tsx", "main.ts"]`,
  );
  for (const file of ["package.json", "package-lock.json", "main.ts"]) {
    write(`plain/${file}`, readFileSync(`${ROOT}/${file}`, "utf8"));
  }
  const tag = `heartbeat-bench-${process.pid}`;
  const targets = ["deno", "node"];
  output(["docker", "build", "--quiet", "--tag", `${tag}:plain`, `${work}/plain`]);
  for (const target of targets) {
    output(["docker", "build", "--quiet", "--tag", `${tag}:${target}`, "--target", target, "."]);
  }
  const bytes = (name: string) =>
    Number(output(["docker", "image", "inspect", "--format", "{{.Size}}", `${tag}:${name}`]));
  const gzipped = (name: string) => Number(output(["sh", "-c", `docker save ${tag}:${name} | gzip | wc -c`]));
  const mb = (size: number) => `${(size / 1e6).toFixed(1)} MB`;
  const plain = { size: bytes("plain"), gzipped: gzipped("plain") };
  for (const target of targets) {
    const container = output(["docker", "create", `${tag}:${target}`]);
    const binary = Number(output(["sh", "-c", `docker cp ${container}:/bin/${target} - | tar -xO | wc -c`]));
    output(["docker", "rm", container]);
    row(
      `image: ${target}`,
      mb(bytes(target)),
      `the runtime's stripped binary, ${mb(binary)}`,
      bytes(target) / binary,
      1.06,
    );
    row(`image: ${target}`, mb(bytes(target)), `the plain recipe, ${mb(plain.size)}`, bytes(target) / plain.size);
    row(
      `image, gzipped: ${target}`,
      mb(gzipped(target)),
      `the plain recipe, ${mb(plain.gzipped)}`,
      gzipped(target) / plain.gzipped,
    );
    const fromMs = performance.now();
    const id = output(["docker", "run", "--detach", `${tag}:${target}`]);
    while (output(["docker", "inspect", "--format", "{{.State.Health.Status}}", id]) !== "healthy");
    const healthyMs = performance.now() - fromMs;
    output(["docker", "rm", "--force", id]);
    row(`docker run to healthy: ${target}`, `${healthyMs.toFixed(0)} ms`, "the first probe, 1000 ms", healthyMs / 1000);
  }
  output(["docker", "rmi", ...["plain", ...targets].map((name) => `${tag}:${name}`)]);
} else {
  console.error("Left out: the images, as no Docker engine answers");
}
rmSync(work, { recursive: true });

// ── What comes of it ──

const machine = {
  cores: Number(output(["nproc"])),
  node: version,
  deno: output([DENO, "--version"]).split(/[ \n]/)[1],
};
writeFileSync(`${ROOT}/bench/results.json`, JSON.stringify({ machine, rows }, null, 2) + "\n");
const spec: TopLevelSpec = {
  title: "What one probe costs: CPU of the whole process, ms",
  width: 520,
  data: { values: probeCpuMs },
  mark: "bar",
  encoding: {
    x: { field: "cpuMs", type: "quantitative", title: null },
    y: { field: "probe", type: "nominal", sort: null, title: null, axis: { labelLimit: 220 } },
    color: { field: "kind", type: "nominal", title: null, legend: { orient: "bottom" } },
  },
};
writeFileSync(
  `${ROOT}/bench/probe.svg`,
  await new View(parse(compile(spec).spec), { renderer: "none" }).toSVG() + "\n",
);
console.log("| measure | ours | against | ratio | goal |\n| --- | --- | --- | --- | --- |");
for (const { what, ours, against, ratio, goal, met } of rows) {
  console.log(`| ${what} | ${ours} | ${against} | ${ratio.toFixed(2)} | ${goal}${met === false ? ", missed" : ""} |`);
}
