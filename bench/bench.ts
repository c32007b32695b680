/**
 * `npm run bench`: measures the service and its probe side by side with what they are to be compared with, in turn, and
 * prints a table of ratios. The same goes to bench/results.json, and the probe's cost to bench/probe.svg.
 *
 * BENCH_NODE names a Node.js that runs TypeScript by itself, PEER a Go program that answers /healthz and has --ping.
 * It needs hyperfine, wrk and time; without a Docker engine the rows about images are left out, and it says so.
 */
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import process from "node:process";
import { parse, View } from "vega";
import { compile, type TopLevelSpec } from "vega-lite";

const PAIRS = 30;
const PEAK_PAIRS = 5;
const START_PAIRS = 15;
const DOCKER_STARTS = 3;
const LOAD_ROUNDS = 7;
const LOAD_SECONDS = 3;
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
process.on("exit", () => rmSync(work, { recursive: true }));
process.on("SIGINT", () => process.exit(1));
const write = (name: string, text: string) => {
  mkdirSync(`${work}/${name}`.replace(/\/[^/]*$/, ""), { recursive: true });
  writeFileSync(`${work}/${name}`, text);
  return `${work}/${name}`;
};
const emptyTs = write("empty.ts", "");
const emptyJs = write("empty.js", "");
const rawDeno = write(
  "raw-deno.ts",
  `Deno.serve({ hostname: "127.0.0.1", port: Number(Deno.env.get("PORT")), onListen() {} }, () => new Response(null));`,
);
const rawNode = write(
  "raw-node.mjs",
  `import { createServer } from "node:http";
createServer((_, response) => response.end()).listen(Number(process.env.PORT), "127.0.0.1");`,
);
output([DENO, "bundle", "--quiet", "--minify", "--code-splitting", `--outdir=${work}/bundle`, "main.ts"]);

/** The options with which the image runs Deno. */
const IMAGE_FLAGS: string[] = JSON.parse(
  /ENTRYPOINT (\["\/bin\/deno".*\])/.exec(readFileSync(`${ROOT}/Dockerfile`, "utf8").replaceAll("\\\n", ""))![1],
).slice(1, -1);
const denoBundle = [DENO, ...IMAGE_FLAGS, `${work}/bundle/main.js`];
const nodeBundle = [NODE, `${work}/bundle/main.js`];
const denoSource = [DENO, "run", "-q", "-P", "main.ts"];
const nodeSource = [NODE, "main.ts"];
const rawDenoServer = [DENO, "run", "-q", "-A", rawDeno];
const rawDenoInImage = [DENO, ...IMAGE_FLAGS, rawDeno];
const rawNodeServer = [NODE, rawNode];

interface Figure {
  name: string;
  unit: string;
  digits?: number;
  ours: number;
  theirs: number;
  /** Of the medians, unless it is the median of the pairs' ratios. */
  ratio?: number;
  goal?: { atMost?: number; atLeast?: number };
}
/** What two sides measured in turn come to: the median of each, and that of the pairs' ratios. */
const paired = (name: string, unit: string, digits: number, pairs: number[][], goal: Figure["goal"]): Figure => ({
  name,
  unit,
  digits,
  ours: median(pairs.map(([mine]) => mine)),
  theirs: median(pairs.map(([, other]) => other)),
  ratio: median(pairs.map(([mine, other]) => mine / other)),
  goal,
});

interface Row {
  what: string;
  ours: string;
  against: string;
  ratio: string;
  goal: string;
  figures: Figure[];
}
const rows: Row[] = [];

/** Adds a row to the table: what was measured side by side, and whether the goals are met. */
function row(what: string, against: string, figures: Figure[]) {
  const value = (number: number, { unit, digits = 1 }: Figure) => `${number.toFixed(digits)} ${unit}`;
  const cell = (text: (figure: Figure) => string) => figures.map(text).join(", ");
  const bounds: string[] = [];
  const missed: string[] = [];
  for (const figure of figures) {
    const { goal: { atMost, atLeast } = {}, name } = figure;
    const ratio = figure.ratio = Math.round((figure.ratio ?? figure.ours / figure.theirs) * 1000) / 1000;
    if (atMost) bounds.push(`≤ ${atMost}`);
    if (atLeast) bounds.push(`≥ ${atLeast}`);
    if (ratio > (atMost ?? Infinity) || ratio < (atLeast ?? 0)) missed.push(name);
  }
  const goal = [...bounds.slice(0, 1), ...missed.map((name) => figures.length > 1 ? `${name} missed` : "missed")];
  const added = {
    what: `${what}: ${figures.map(({ name }) => name).join(", ")}`,
    ours: cell((figure) => value(figure.ours, figure)),
    against: `${against}: ${cell((figure) => value(figure.theirs, figure))}`,
    ratio: cell(({ ratio }) => ratio!.toFixed(2)),
    goal: goal.join(", "),
    figures,
  };
  rows.push(added);
  console.error(`${added.what} | ${added.ours} | ${added.against} | ${added.ratio} | ${added.goal}`);
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
  output(
    ["hyperfine", "--shell=none", "--runs=1", "--style=none", "--output=pipe", `--export-json=${json}`, words],
    env,
  );
  const [{ user, system, mean }] = JSON.parse(readFileSync(json, "utf8")).results;
  return { cpuMs: (user + system) * 1000, wallMs: mean * 1000 };
}

/** The most memory that a command held, in MiB. */
function peakMib(command: string[], env: NodeJS.ProcessEnv): number {
  const script = `/usr/bin/time --format=%M --output="$0" "$@" | cat >/dev/null`;
  output(["sh", "-c", script, `${work}/peak`, ...command], env);
  return Number(readFileSync(`${work}/peak`, "utf8")) / 1024;
}

const probeCpuMs: { probe: string; kind: string; cpuMs: number }[] = [];

await withServer(denoSource, (port) => {
  const env = { ...ENV, PORT: `${port}` };
  const url = `http://127.0.0.1:${port}/healthz`;
  /** Measures two commands in turn; the goal is a bound on each ratio. */
  const compare = (name: string, ours: string[], against: string, theirs: string[], atMost?: number) => {
    const runs = Array.from({ length: PAIRS }, () => [cost(ours, env), cost(theirs, env)]);
    const peaks = Array.from({ length: PEAK_PAIRS }, () => [peakMib(ours, env), peakMib(theirs, env)]);
    const cpu = paired("CPU", "ms", 1, runs.map((pair) => pair.map(({ cpuMs }) => cpuMs)), { atMost });
    const wall = paired("wall", "ms", 1, runs.map((pair) => pair.map(({ wallMs }) => wallMs)), { atMost });
    row(`probe, ${name}`, against, [cpu, wall, paired("peak memory", "MiB", 0, peaks, { atMost })]);
    return [cpu.ours, cpu.theirs];
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
  row(`${CONTAINERS} containers probed every ${PROBE_INTERVAL_S} s`, "node -e with fetch", [
    { name: "computed", unit: "cores", digits: 2, ours: cores(imageMs), theirs: cores(fetchMs) },
  ]);
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
  atLeast?: number,
  path = "/healthz",
) {
  const rounds: { perSecond: number; p99Ms: number }[][] = [];
  for (let round = 0; round < LOAD_ROUNDS; round++) {
    const pair = [];
    for (const command of [ours, theirs]) {
      pair.push(await withServer(command, (port) => (load(port, path, 1), load(port, path))));
    }
    rounds.push(pair);
  }
  const thousands = rounds.map((round) => round.map(({ perSecond }) => perSecond / 1000));
  const [ourP99, theirP99] = [0, 1].map((side) => median(rounds.map((round) => round[side].p99Ms)));
  row(`${path}, ${name}`, against, [
    paired("requests", "k/s", 1, thousands, { atLeast }),
    { name: "p99", unit: "ms", digits: 2, ours: ourP99, theirs: theirP99 },
  ]);
}

await race("Deno", denoSource, "raw Deno.serve", rawDenoServer, 0.9);
await race(`Node.js ${major}`, nodeSource, "raw node:http", rawNodeServer, 0.9);
if (PEER) await race("Deno", denoSource, "the Go peer", [PEER], 1.5);
const logging = (command: string[]) => ["env", "ACCESS_LOG=on", ...command];
await race("Deno, access log on", logging(denoSource), "off", denoSource, undefined, "/");
await race(`Node.js ${major}, access log on`, logging(nodeSource), "off", nodeSource, undefined, "/");

/** Starts two servers in turn. */
async function starts(name: string, ours: string[], against: string, theirs: string[], atMost?: number) {
  const pairs: number[][] = [];
  for (let pair = 0; pair < START_PAIRS; pair++) {
    const times = [];
    for (const command of [ours, theirs]) times.push(await withServer(command, (_port, _server, startMs) => startMs));
    pairs.push(times);
  }
  row(`start, ${name}`, against, [paired("to the first 200", "ms", 0, pairs, { atMost })]);
}

await starts("Deno, bundled", denoBundle, "raw Deno.serve with the image's options", rawDenoInImage, 1.2);
await starts(`Node.js ${major}, bundled`, nodeBundle, "raw node:http", rawNodeServer, 1.2);
await starts("Deno, main.ts", denoSource, "raw Deno.serve", rawDenoServer);
await starts(`Node.js ${major}, main.ts`, nodeSource, "raw node:http", rawNodeServer);

/** Resident memory in MiB: idle, after a tenth of the requests, and after all. */
function resident(command: string[]): Promise<number[]> {
  return withServer(command, (port, server) => {
    const mib = () => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${server.pid}/status`, "utf8"))![1]) / 1024;
    const seen = [mib()];
    let requests = 0;
    for (const until of [REQUESTS / 10, REQUESTS]) {
      while (requests < until) requests += load(port, "/healthz", 1).requests;
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
  const figure = (name: string, at: number) => ({
    name,
    unit: "MiB",
    digits: 0,
    ours: mine[at],
    theirs: other[at],
    goal: { atMost: 1.15 },
  });
  row(`resident memory, ${name}`, against, [
    figure("idle", 0),
    figure("after 100k requests", 1),
    figure("after 1M", 2),
  ]);
  row(`resident memory, ${name}`, against, [{
    name: "growth from 100k requests to 1M",
    unit: "times",
    digits: 2,
    ours: mine[2] / mine[1],
    theirs: other[2] / other[1],
    goal: { atMost: 1.02 },
  }]);
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
  const plain = { size: bytes("plain"), gzipped: gzipped("plain") };
  for (const target of targets) {
    const container = output(["docker", "create", `${tag}:${target}`]);
    const binary = Number(output(["sh", "-c", `docker cp ${container}:/bin/${target} - | tar -xO | wc -c`]));
    output(["docker", "rm", container]);
    const size = (theirs: number, atMost?: number) => ({
      name: "unpacked",
      unit: "MB",
      ours: bytes(target) / 1e6,
      theirs: theirs / 1e6,
      goal: { atMost },
    });
    row(`image, ${target}`, "the runtime's stripped binary", [size(binary, 1.06)]);
    row(`image, ${target}`, "the plain recipe", [
      size(plain.size),
      { name: "gzipped", unit: "MB", ours: gzipped(target) / 1e6, theirs: plain.gzipped / 1e6 },
    ]);
    const healthyMs = [];
    for (let start = 0; start < DOCKER_STARTS; start++) {
      const fromMs = performance.now();
      const id = output(["docker", "run", "--detach", `${tag}:${target}`]);
      while (output(["docker", "inspect", "--format", "{{.State.Health.Status}}", id]) !== "healthy");
      healthyMs.push(performance.now() - fromMs);
      output(["docker", "rm", "--force", id]);
    }
    row(`docker run, ${target}`, "the first probe is due", [
      { name: "to healthy", unit: "ms", digits: 0, ours: median(healthyMs), theirs: 1000 },
    ]);
  }
  output(["docker", "rmi", ...["plain", ...targets].map((name) => `${tag}:${name}`)]);
} else {
  console.error("Left out: the images, as no Docker engine answers");
}

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
output([DENO, "fmt", "--quiet", "bench/results.json", "bench/probe.svg"]);
console.log("| measure | ours | against | ratio | goal |\n| --- | --- | --- | --- | --- |");
for (const { what, ours, against, ratio, goal } of rows) {
  console.log(`| ${what} | ${ours} | ${against} | ${ratio} | ${goal} |`);
}
