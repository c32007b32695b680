/**
 * `npm run bench`: what is measured, and the goals. `npm run bench -- NAME…` measures only the groups named and keeps
 * what results.json holds of the others; `npm run bench -- --report` measures nothing and writes the documents anew.
 *
 * What runs is in programs.ts, how it is measured in measure.ts, how it is reported in report.ts and pictures.ts.
 * BENCH_NODE names a Node.js that runs TypeScript by itself, PEER a Go program that answers /healthz and has --ping.
 */
import { cpSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import os from "node:os";
import { performance } from "node:perf_hooks";
import process from "node:process";
import {
  alone,
  cost,
  figure,
  freePort,
  type Goal,
  inTurn,
  lives,
  load,
  median,
  type Moment,
  peakMib,
  residentMib,
  type Row,
  stopMs,
  withServer,
} from "./measure.ts";
import {
  bare,
  bundle,
  copy,
  DENO,
  empty,
  has,
  NODE,
  output,
  PEER,
  ping,
  raw,
  ROOT,
  serve,
  type Side,
  socketAlone,
  source,
  WORK,
  write,
} from "./programs.ts";
import { everything, type Group, report, type Results, tables } from "./report.ts";

const PAIRS = 30;
const PEAK_PAIRS = 5;
const START_PAIRS = 15;
const STOP_PAIRS = 7;
const STREAMS = 30;
const LOAD_ROUNDS = 5;
const LOAD_SECONDS = 2;
const CONNECTIONS = 64;
const MANY_CONNECTIONS = 512;
const MEMORY_ROUNDS = 3;
const MEMORY_SECONDS = 5;
const LOAD_REQUESTS = 300_000;
const WARM_REQUESTS = 100_000;
const DOCKER_STARTS = 3;
const CONTAINERS = 200;
const PROBE_INTERVAL_S = 10;
const HEAL_AFTER_MS = 30_000;
const WEDGE_AFTER_MS = 15_000;
const HEALED_FOR_MS = 12_000;

/** What `npm ci` reads. */
const PACKAGE_FILES = ["package.json", "package-lock.json", "tools/package.json"];

/** The routes that the service has in the rows that need them, in front of its own. */
const EVENTS = `
app.get("/events", async (c) => {
  const { streamSSE } = await import("hono/streaming");
  return streamSSE(c, async (stream) => {
    await stream.writeSSE({ data: "open" });
    await new Promise((resolve) => stopping.addEventListener("abort", resolve));
  });
});`;
const WEDGE = `app.get("/wedge", () => { for (;;); });`;

const version = output([NODE, "--version"]);
const [major, minor] = version.slice(1).split(".").map(Number);
const side = (name: string, command: string[], env?: Side["env"]): Side => ({ name, command, env });

/** Keeps a row, and shows it at once to whoever waits. */
function add(rows: Row[], row: Row): void {
  rows.push(row);
  console.error(tables([row]).split("\n").at(-1));
}

// ── The rows, group by group ──

async function probe(): Promise<Row[]> {
  const rows: Row[] = [];
  const PORT = `${await freePort()}`;
  const compare = async (what: string, ours: Side, theirs: Side, goal?: Goal) => {
    const sides = [ours, theirs].map((side) => ({ ...side, env: { PORT, ...side.env } }));
    const runs = await inTurn(PAIRS, sides, cost);
    const figures = [
      figure("CPU", "ms", 1, runs.map((pair) => pair.map(({ cpuMs }) => cpuMs)), goal),
      figure("wall", "ms", 1, runs.map((pair) => pair.map(({ wallMs }) => wallMs)), goal),
      figure("peak memory", "MiB", 0, await inTurn(PEAK_PAIRS, sides, peakMib), goal),
    ];
    add(rows, { what, against: theirs.name, figures });
  };
  const nothing = (command: string[]) => side("an empty program", command);
  const url = `http://127.0.0.1:${PORT}/healthz`;
  const withFetch = `fetch("${url}").then((r)=>process.exit(r.ok?0:1),()=>process.exit(1))`;
  const [onDeno, onNode] = [side("", ping.deno), side("", ping.node)];
  const [deno, node, tsx] = [source.deno, source.node, source.tsx].map((command) =>
    side("", [...command, "--ping"])
  );
  const healing = (command: string[], ms: number) =>
    side(`HEAL_AFTER_MS=${ms}`, command, { HEAL_AFTER_MS: `${ms}`, PORT });

  await withServer(side("", serve.deno(), { PORT }), async () => {
    await compare("image on Deno", onDeno, nothing(empty.deno), { atMost: 1.15 });
    await compare("image on Node.js", onNode, nothing(empty.node), { atMost: 1.25 });
    await compare("image on Node.js", onNode, side("a socket of node:net", socketAlone));
    await compare("main.ts on Deno", deno, nothing(empty.denoTs), { atMost: 1.25 });
    await compare(`main.ts on Node.js ${major}`, node, nothing(empty.nodeTs), { atMost: 1.25 });
    await compare("main.ts on tsx", tsx, nothing(empty.tsx), { atMost: 1.25 });
    await compare("image on Deno", onDeno, side("node -e with fetch", [NODE, "-e", withFetch]), {
      atMost: 0.3,
    });
    await compare(
      "image on Deno",
      onDeno,
      side("curl -f", ["curl", "-fsS", "-o", "/dev/null", url]),
    );
    if (PEER) await compare("image on Deno", onDeno, side("the Go peer", [PEER, "--ping"]));
    for (
      const [name, command] of [["Deno", ping.deno], ["Node.js", ping.node]] as [string, string[]][]
    ) {
      const off = healing(command, 0);
      await compare(`image on ${name}, healing on`, healing(command, HEAL_AFTER_MS), {
        ...off,
        name: "off",
      }, {
        atMost: 1.07,
      });
    }
    const cached = side("", node.command, { NODE_COMPILE_CACHE: `${WORK}/compile-cache` });
    await compare(`main.ts on Node.js ${major}, NODE_COMPILE_CACHE set`, cached, {
      ...node,
      name: "not set",
    });
  });
  rmSync("/dev/shm/heartbeat-streak", { force: true }); // what a probe that heals leaves for the next one
  const cores = (ms: number) => CONTAINERS / PROBE_INTERVAL_S * ms / 1000;
  const [{ ours, theirs = 0 }] =
    rows.find(({ against }) => against === "node -e with fetch")!.figures;
  add(rows, {
    what: `image on Deno, ${CONTAINERS} containers probed every ${PROBE_INTERVAL_S} s, computed`,
    against: "node -e with fetch",
    figures: [figure("CPU", "cores", 2, [[cores(ours), cores(theirs)]])],
  });
  return rows;
}

interface Pair {
  what: string;
  ours: Side;
  theirs: Side;
  atLeast?: number;
}

/** Loads servers in turn, and compares some with others. */
async function race(
  rows: Row[],
  path: string,
  pairs: Pair[],
  mib?: { name: string },
): Promise<void> {
  const sides = [...new Set(pairs.flatMap(({ ours, theirs }) => [ours, theirs]))];
  const rounds = await inTurn(LOAD_ROUNDS, sides, (side) =>
    withServer(side, (server) => {
      load(server, path, 1, CONNECTIONS); // until it is compiled
      return { ...load(server, path, LOAD_SECONDS, CONNECTIONS), mib: residentMib(server) };
    }));
  for (const { what, ours, theirs, atLeast } of pairs) {
    const [mine, other] = [sides.indexOf(ours), sides.indexOf(theirs)];
    const of = (key: "perCpuS" | "perS" | "p99Ms" | "mib") =>
      rounds.map((seen) => [seen[mine][key], seen[other][key]]);
    const figures = [
      figure("requests per CPU second", "k/s", 1, of("perCpuS"), atLeast ? { atLeast } : undefined),
      figure("requests per second", "k/s", 1, of("perS")),
      figure("p99", "ms", 2, of("p99Ms")),
    ];
    if (mib) figures.push(figure(mib.name, "MiB", 0, of("mib")));
    add(rows, { what, against: theirs.name, figures });
  }
}

/** The service with its log off and on, and Hono alone with the same routes, on each runtime. */
async function servers() {
  const text = await withServer(
    side("", serve.deno()),
    async ({ port }) => (await fetch(`http://127.0.0.1:${port}/`)).text(),
  );
  const hono = bare(text);
  return (["deno", "node"] as const).map((runtime) => ({
    on: runtime === "deno" ? "Deno" : "Node.js",
    service: side("access log off", serve[runtime]()),
    logging: side("access log on", serve[runtime](), { ACCESS_LOG: "on" }),
    hono: side("bare Hono", hono[runtime]),
    goals: runtime === "deno" ? { "/": 0.92, "/healthz": 1 } : { "/": 0.95, "/healthz": 0.92 },
  }));
}

async function serving(): Promise<Row[]> {
  const rows: Row[] = [];
  for (const { on, service, logging, hono, goals } of await servers()) {
    await race(rows, "/", [
      { what: `\`/\` on ${on}`, ours: service, theirs: hono, atLeast: goals["/"] },
      { what: `\`/\` on ${on}, access log on`, ours: logging, theirs: service, atLeast: 0.75 },
    ]);
    const health: Pair[] = [
      { what: `\`/healthz\` on ${on}`, ours: service, theirs: hono, atLeast: goals["/healthz"] },
    ];
    if (PEER) {
      health.push({
        what: `\`/healthz\` on ${on}`,
        ours: service,
        theirs: side("the Go peer", [PEER]),
      });
    }
    await race(rows, "/healthz", health);
  }
  return rows;
}

async function telemetry(): Promise<Row[]> {
  const rows: Row[] = [];
  const collector = write(
    "collector.mjs",
    `import { createServer } from "node:http";
let exports = 0;
createServer((request, response) => {
  if (request.method === "POST") exports++;
  request.resume().on("end", () => response.end(String(exports)));
}).listen(Number(process.env.PORT), "127.0.0.1");`,
  );
  await withServer(side("", [process.execPath, collector]), async ({ port }) => {
    const url = `http://127.0.0.1:${port}`;
    const on = side("on", serve.deno(), { OTEL_DENO: "true", OTEL_EXPORTER_OTLP_ENDPOINT: url });
    const off = side("off", serve.deno());
    await race(rows, "/", [{ what: "`/` on Deno, OTEL_DENO=true", ours: on, theirs: off }], {
      name: "memory after it",
    });
    if (await (await fetch(url)).text() === "0") throw new Error("The collector got nothing");
  });
  return rows;
}

async function memory(): Promise<Row[]> {
  const rows: Row[] = [];
  for (const { on, service, logging, hono } of await servers()) {
    const afterLoad = (connections: number) =>
      inTurn(MEMORY_ROUNDS, [logging, service], (side) =>
        withServer(side, (server) => {
          load(server, "/", MEMORY_SECONDS, connections);
          return residentMib(server);
        }));
    const goal = on === "Deno" ? { atMost: 1.5 } : undefined;
    add(rows, {
      what: on, // as it comes: with the access log on
      against: service.name,
      figures: [
        figure("after load", "MiB", 0, await afterLoad(CONNECTIONS), goal),
        figure(
          `after load by ${MANY_CONNECTIONS} connections`,
          "MiB",
          0,
          await afterLoad(MANY_CONNECTIONS),
        ),
      ],
    });
    const rounds = await inTurn(
      MEMORY_ROUNDS,
      [service, hono],
      (side) =>
        withServer(side, (server) => {
          const seen = [residentMib(server)];
          let requests = 0;
          for (const until of [WARM_REQUESTS, LOAD_REQUESTS]) {
            while (requests < until) requests += load(server, "/", 1, CONNECTIONS).requests;
            seen.push(residentMib(server));
          }
          return seen;
        }),
    );
    const of = (at: number) => rounds.map(([ours, theirs]) => [ours[at], theirs[at]]);
    const grown = rounds.map((sides) => sides.map((seen) => seen[2] / seen[1]));
    add(rows, {
      what: `${on}, access log off`,
      against: hono.name,
      figures: [
        figure("idle", "MiB", 0, of(0)),
        figure("warm", "MiB", 0, of(1)),
        figure("at the end", "MiB", 0, of(2), { atMost: 1.05 }),
        figure("growth between", "times", 2, grown, { atMost: 1.02 }),
      ],
    });
  }
  return rows;
}

async function start(): Promise<Row[]> {
  const rows: Row[] = [];
  const startOf = (side: Side) => withServer(side, ({ startMs }) => startMs);
  for (
    const [name, ours, against, theirs, atMost] of [
      ["image on Deno", serve.deno(), "raw Deno.serve", raw.deno, 1.2],
      ["image on Node.js", serve.node(), "raw node:http", raw.node, 1.2],
      ["main.ts on Deno", source.deno, "raw Deno.serve", raw.deno],
      [`main.ts on Node.js ${major}`, source.node, "raw node:http", raw.node],
    ] as [string, string[], string, string[], number?][]
  ) {
    const pairs = await inTurn(START_PAIRS, [side(name, ours), side(against, theirs)], startOf);
    const goal = atMost ? { atMost } : undefined;
    add(rows, {
      what: `start to the first 200, ${name}`,
      against,
      figures: [figure("time", "ms", 0, pairs, goal)],
    });
  }
  const withEvents = bundle(copy("events", EVENTS), "events-bundle");
  for (const [name, run] of [["Deno", serve.deno], ["Node.js", serve.node]] as const) {
    const sides = [STREAMS, 0].map((streams) => side(`${streams}`, run(withEvents)));
    const pairs = await inTurn(
      STOP_PAIRS,
      sides,
      (side) => withServer(side, (server) => stopMs(server, "/events", Number(side.name))),
    );
    const what = `stop, image on ${name}, ${STREAMS} event streams open`;
    add(rows, { what, against: "none open", figures: [figure("time", "ms", 0, pairs)] });
  }
  return rows;
}

function install(): Row[] {
  const sizes = [[], ["--omit=dev"]].map((options, at) => {
    const folder = `${WORK}/install${at}`;
    mkdirSync(folder);
    for (const file of PACKAGE_FILES) {
      cpSync(`${ROOT}/${file}`, `${folder}/${file}`, { recursive: true });
    }
    output(["npm", "ci", "--silent", ...options], undefined, folder);
    const { packages } = JSON.parse(
      readFileSync(`${folder}/node_modules/.package-lock.json`, "utf8"),
    );
    const mb =
      Number(output(["du", "--summarize", "--bytes", `${folder}/node_modules`]).split("\t")[0]) /
      1e6;
    return { packages: Object.keys(packages).length, mb };
  });
  const rows: Row[] = [];
  add(rows, {
    what: "`npm ci`, all that the project is developed with",
    against: "`npm ci --omit=dev`, what it runs with",
    figures: [
      figure("packages", "", 0, [sizes.map(({ packages }) => packages)]),
      figure("size", "MB", 1, [sizes.map(({ mb }) => mb)]),
    ],
  });
  return rows;
}

/** Builds images, and removes them once they are measured. */
async function withImages<T>(
  folders: [tag: string, folder: string, ...options: string[]][],
  body: () => Promise<T> | T,
) {
  try {
    for (const [tag, folder, ...options] of folders) {
      output(["docker", "build", "--quiet", "--tag", tag, ...options, folder]);
    }
    return await body();
  } finally {
    has(["docker", "rmi", "--force", ...folders.map(([tag]) => tag)]);
  }
}

function image(): Promise<Row[]> {
  const rows: Row[] = [];
  const plain = write(
    "plain/Dockerfile",
    `FROM node:26.10.0-trixie-slim
WORKDIR /app
COPY . .
RUN npm ci --silent --ignore-scripts
CMD ["npx", "tsx", "main.ts"]`,
  ).replace(/\/Dockerfile$/, "");
  for (const file of [...PACKAGE_FILES, "main.ts"]) {
    cpSync(`${ROOT}/${file}`, `${plain}/${file}`, { recursive: true });
  }
  const tag = (name: string) => `heartbeat-bench-${process.pid}:${name}`;
  const targets = [["deno", "Deno"], ["node", "Node.js"]];
  const built = targets.map((
    [target],
  ): [string, string, string] => [tag(target), ROOT, `--target=${target}`]);
  return withImages([[tag("plain"), plain], ...built], () => {
    const bytes = (name: string) =>
      Number(output(["docker", "image", "inspect", "--format={{.Size}}", tag(name)]));
    const gzipped = (name: string) =>
      Number(output(["sh", "-c", `docker save ${tag(name)} | gzip | wc -c`]));
    const theirs = { unpacked: bytes("plain"), gzipped: gzipped("plain") };
    const mb = (name: string, ours: number, theirs: number, goal?: Goal) =>
      figure(name, "MB", 1, [[ours / 1e6, theirs / 1e6]], goal);
    for (const [target, runtime] of targets) {
      const what = `image on ${runtime}`;
      const container = output(["docker", "create", tag(target)]);
      const binary = Number(
        output(["sh", "-c", `docker cp ${container}:/bin/${target} - | tar -xO | wc -c`]),
      );
      output(["docker", "rm", container]);
      const unpacked = mb("unpacked", bytes(target), binary, { atMost: 1.06 });
      add(rows, { what, against: "the runtime's stripped binary", figures: [unpacked] });
      add(rows, {
        what,
        against: "the plain recipe",
        figures: [
          mb("unpacked", bytes(target), theirs.unpacked),
          mb("gzipped", gzipped(target), theirs.gzipped),
        ],
      });
      const healthyMs = Array.from({ length: DOCKER_STARTS }, () => {
        const fromMs = performance.now();
        const id = output(["docker", "run", "--detach", tag(target)]);
        while (
          output(["docker", "inspect", "--format={{.State.Health.Status}}", id]) !== "healthy"
        );
        const ms = performance.now() - fromMs;
        output(["docker", "rm", "--force", id]);
        return ms;
      });
      const pair = [median(healthyMs), 1000];
      add(rows, {
        what: `docker run, ${what}`,
        against: "the first probe is due",
        figures: [figure("to healthy", "ms", 0, [pair])],
      });
    }
    return rows;
  });
}

function lifecycle() {
  const tag = `heartbeat-bench-${process.pid}:wedge`;
  return withImages([[tag, copy("wedge", WEDGE), "--target=deno"]], async () => {
    // Half a core each, so that neither what turns for ever nor its probe waits for the other's.
    const all = ["--restart=unless-stopped", "--cpus=0.5"];
    const name = `HEAL_AFTER_MS=${HEAL_AFTER_MS}`;
    const lanes = await lives(
      tag,
      { [name]: [...all, "--env", name], "HEAL_AFTER_MS not set": all },
      WEDGE_AFTER_MS,
      HEALED_FOR_MS,
    );
    const [{ moments }] = lanes;
    const at = (what: Moment["what"]) => moments.findLast((moment) => moment.what === what)!.atS;
    const rows: Row[] = [];
    add(rows, {
      what: `image on Deno, wedged, ${name}`,
      figures: [
        alone("to unhealthy", "s", 0, at("unhealthy") - at("wedged")),
        alone("to its end", "s", 0, at("ended") - at("wedged")),
        alone("to healthy again", "s", 0, at("healthy") - at("wedged")),
      ],
    });
    return { rows, lanes };
  });
}

/** The groups in the order of the report: what each is called, what it needs, how it is measured. */
const GROUPS: Record<string, {
  title: string;
  method: string;
  needs: ("hyperfine" | "time" | "wrk" | "docker")[];
  measure: () => Promise<Row[]> | Row[] | ReturnType<typeof lifecycle>;
}> = {
  probe: {
    title: "What a probe costs",
    method:
      `${PAIRS} pairs of processes, and ${PEAK_PAIRS} for the memory; CPU is that of the process and all it starts.`,
    needs: ["hyperfine", "time"],
    measure: probe,
  },
  serving: {
    title: "What it serves",
    method:
      `${LOAD_ROUNDS} rounds in turn, each with new processes: one load thread, ${CONNECTIONS} connections, ` +
      `${LOAD_SECONDS} s after one of warming up. Standard output goes to /dev/null.`,
    needs: ["wrk"],
    measure: serving,
  },
  telemetry: {
    title: "What telemetry costs",
    method: `As above, with a collector on the same machine that takes everything.`,
    needs: ["wrk"],
    measure: telemetry,
  },
  memory: {
    title: "What it holds",
    method:
      `Resident memory, ${MEMORY_ROUNDS} rounds in turn, each with new processes. First the service as it comes, ` +
      `after ${MEMORY_SECONDS} s of \`/\` by ${CONNECTIONS} connections, and by ${MANY_CONNECTIONS}. Then without its ` +
      `log: idle, warm after ${WARM_REQUESTS / 1000}k requests, and at the end after ${
        LOAD_REQUESTS / 1000
      }k.`,
    needs: ["wrk"],
    measure: memory,
  },
  start: {
    title: "How fast it starts and stops",
    method:
      `${START_PAIRS} pairs of starts, ${STOP_PAIRS} of stops. A stop is from SIGTERM to the end, with exit code 0.`,
    needs: [],
    measure: start,
  },
  install: {
    title: "What an install brings",
    method: "Into an empty folder.",
    needs: [],
    measure: install,
  },
  image: {
    title: "What an image weighs",
    method: `The plain recipe is \`npm ci\` and \`npx tsx main.ts\` on Node.js's own slim image. ` +
      `To healthy is the median of ${DOCKER_STARTS}.`,
    needs: ["docker"],
    measure: image,
  },
  lifecycle: {
    title: "What healing does",
    method:
      `Two containers of one image, wedged together ${
        WEDGE_AFTER_MS / 1000
      } s after \`docker run\` by a route whose loop ` +
      `never ends, with half a core each; the moments are in results.json, and drawn in [lifecycle.svg](../../docs/lifecycle.svg).`,
    needs: ["docker"],
    measure: lifecycle,
  },
};

// ── The program ──

process.on("uncaughtException", ({ message }) => {
  console.error(message);
  process.exit(1);
});

const names = process.argv.slice(2);
const stray = names.find((name) => !(name in GROUPS) && name !== "--report");
if (stray !== undefined) {
  console.error(
    `There is no group ${JSON.stringify(stray)}: there are ${Object.keys(GROUPS).join(", ")}`,
  );
  process.exit(1);
}
let chosen = names.length > 0 ? names.filter((name) => name in GROUPS) : Object.keys(GROUPS);
if (chosen.length > 0 && (major < 22 || (major === 22 && minor < 18))) {
  console.error(`BENCH_NODE must name Node.js 22.18 or later: it is ${NODE}, ${version}`);
  process.exit(1);
}
const tools = ["hyperfine", "time", "wrk"] as const;
const missing = tools.filter((tool) =>
  chosen.some((name) => GROUPS[name].needs.includes(tool)) &&
  !has(["sh", "-c", `command -v ${tool === "time" ? "/usr/bin/time" : tool}`])
);
if (missing.length > 0) {
  console.error(
    `Missing: ${missing.join(", ")}. Install with: apt-get install ${missing.join(" ")}`,
  );
  process.exit(1);
}
const hasDocker = has(["docker", "version"]);
const left = chosen.filter((name) => !hasDocker && GROUPS[name].needs.includes("docker"));
if (left.length > 0) console.error(`Left out: ${left.join(", ")}, as no Docker engine answers`);
if (!PEER && chosen.includes("serving")) {
  console.error("Left out: the rows of the Go peer, as PEER is not set");
}
chosen = chosen.filter((name) => !left.includes(name));

const system = /PRETTY_NAME="(.*)"/.exec(readFileSync("/etc/os-release", "utf8"))![1];
const machine = `${os.availableParallelism()} cores, ${
  Math.round(os.totalmem() / 2 ** 30)
} GiB, ${system}`;
const runtimes = `Deno ${output([DENO, "--version"]).split(/[ \n]/)[1]}, Node.js ${
  version.slice(1)
}`;
const results: Results = {};
for (const name of chosen) {
  const { title, method, needs, measure } = GROUPS[name];
  const fromMs = performance.now();
  const measured = await measure();
  const docker = needs.includes("docker") &&
    `, Docker ${output(["docker", "version", "--format={{.Server.Version}}"])}`;
  const group: Group = {
    title,
    method,
    date: new Date().toISOString().slice(0, 10),
    machine,
    runtimes: `${runtimes}${docker || ""}`,
    ...(Array.isArray(measured) ? { rows: measured } : measured),
  };
  results[name] = group;
  output([DENO, "fmt", "--quiet", ...report({ [name]: group }, Object.keys(GROUPS))]); // what was measured is kept
  console.error(`${name}: ${((performance.now() - fromMs) / 1000).toFixed()} s`);
}
if (names.includes("--report")) {
  output([DENO, "fmt", "--quiet", ...report({}, Object.keys(GROUPS))]);
}
console.log(everything(results));
