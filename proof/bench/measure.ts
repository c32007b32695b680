/**
 * How the benchmark measures: what is compared runs in turn on the same machine, and what counts is the median of the
 * rounds' ratios, for a machine's speed changes from minute to minute and does so for both.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { performance } from "node:perf_hooks";
import process from "node:process";
import { ENV, has, output, ROOT, type Side, WORK } from "./programs.ts";

/** Linux counts a process's CPU time in these: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html */
const TICKS_PER_S = 100;
/** Answers are waited for this long. */
const DEADLINE_MS = 30_000;

export interface Goal {
  atMost?: number;
  atLeast?: number;
}

/** One quantity of one row: ours, and what it is compared with. */
export interface Figure {
  name: string;
  unit: string;
  digits: number;
  ours: number;
  theirs?: number;
  ratio?: number;
  goal?: Goal;
}

export interface Row {
  what: string;
  against?: string;
  figures: Figure[];
}

export const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

export const median = (values: number[]) => values.toSorted((a, b) => a - b)[values.length >> 1];

/** Measures every side once a round. */
export async function inTurn<T>(
  rounds: number,
  sides: Side[],
  measure: (side: Side) => T | Promise<T>,
) {
  const seen: T[][] = [];
  for (let round = 0; round < rounds; round++) {
    const row: T[] = [];
    for (const side of sides) row.push(await measure(side));
    seen.push(row);
  }
  return seen;
}

/** A value as results.json keeps it. */
const kept = (value: number) => Number(value.toPrecision(4));

/** What two sides come to: the median of each, and that of the rounds' ratios. */
export function figure(
  name: string,
  unit: string,
  digits: number,
  pairs: number[][],
  goal?: Goal,
): Figure {
  return {
    name,
    unit,
    digits,
    ours: kept(median(pairs.map(([mine]) => mine))),
    theirs: kept(median(pairs.map(([, other]) => other))),
    ratio: Number(median(pairs.map(([mine, other]) => mine / other)).toFixed(3)),
    goal,
  };
}

/** What was measured of ours alone. */
export const alone = (name: string, unit: string, digits: number, ours: number): Figure => (
  { name, unit, digits, ours: kept(ours) }
);

// ── One run of a command ──

export interface Cost {
  cpuMs: number;
  wallMs: number;
}

/** What one run of a command costs, it and all that it starts. */
export function cost({ command, env }: Side): Cost {
  const json = `${WORK}/hyperfine.json`;
  const words = command.map((word) => `'${word}'`).join(" ");
  output(
    [
      "hyperfine",
      "--shell=none",
      "--runs=1",
      "--style=none",
      "--output=pipe",
      `--export-json=${json}`,
      words,
    ],
    { ...ENV, ...env },
  );
  const [{ user, system, mean }] = JSON.parse(readFileSync(json, "utf8")).results;
  return { cpuMs: (user + system) * 1000, wallMs: mean * 1000 };
}

/** The most memory that a command held, in MiB. */
export function peakMib({ command, env }: Side): number {
  const script = `/usr/bin/time --format=%M --output="$0" "$@" | cat >/dev/null`;
  output(["sh", "-c", script, `${WORK}/peak`, ...command], { ...ENV, ...env });
  return Number(readFileSync(`${WORK}/peak`, "utf8")) / 1024;
}

// ── Servers ──

export interface Server {
  port: number;
  child: ChildProcess;
  /** Until its first 200. */
  startMs: number;
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, "close");
  return port;
}

/** Sends a request for a path, and gives the connection once the answer's first bytes are there. */
export function ask(port: number, path: string) {
  return new Promise<{ head: string; end: () => void }>((resolve, reject) => {
    const socket = connect(
      port,
      "127.0.0.1",
      () => socket.write(`GET ${path} HTTP/1.1\r\nHost: bench\r\n\r\n`),
    );
    socket.once("data", (data) => resolve({ head: `${data}`, end: () => socket.destroy() }));
    socket.on("error", reject);
  });
}

/** Whether /healthz answers 200, asked once. */
const answers = (port: number) =>
  ask(port, "/healthz").then(
    ({ head, end }) => (end(), head.startsWith("HTTP/1.1 200")),
    () => false,
  );

/** Starts a server, waits for its first 200, and ends it after. What it prints goes nowhere. */
export async function withServer<T>(
  { command, env }: Side,
  body: (server: Server) => Promise<T> | T,
): Promise<T> {
  const port = Number(env?.PORT ?? await freePort());
  const fromMs = performance.now();
  const child = spawn(command[0], command.slice(1), {
    cwd: ROOT,
    env: { ...ENV, ...env, PORT: `${port}` },
    stdio: ["ignore", "ignore", "inherit"],
  });
  const exit = once(child, "exit");
  try {
    while (!await answers(port)) {
      if (child.exitCode !== null || performance.now() - fromMs > DEADLINE_MS) {
        throw new Error(`${command.join(" ")} does not answer; exit code: ${child.exitCode}`);
      }
      await sleep(1);
    }
    return await body({ port, child, startMs: performance.now() - fromMs });
  } finally {
    child.kill("SIGKILL");
    await exit;
  }
}

/** The CPU time that a process has used, it and all that it started. */
function cpuS(pid: number): number {
  // What follows the name, which may hold anything: utime, stime, and those of the children that ended.
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").replace(/.*\) /s, "").split(" ");
  const ownS = [11, 12, 13, 14].reduce((sum, at) => sum + Number(fields[at]), 0) / TICKS_PER_S;
  const children = readdirSync(`/proc/${pid}/task`).flatMap((thread) =>
    readFileSync(`/proc/${pid}/task/${thread}/children`, "utf8").split(" ").filter(Boolean)
  );
  return children.reduce((sum, child) => sum + cpuS(Number(child)), ownS);
}

export interface Load {
  requests: number;
  /** Thousands, by the server's own CPU time. */
  perCpuS: number;
  /** Thousands, by the clock. */
  perS: number;
  /** 99 of 100 are answered within this. */
  p99Ms: number;
}

/** Asks a server for a path as fast as it answers; `more` are further options of wrk. */
export function load(
  { port, child }: Server,
  path: string,
  seconds: number,
  connections: number,
  more: string[] = [],
) {
  const fromS = cpuS(child.pid!);
  const options = [
    "--threads=1",
    `--connections=${connections}`,
    `--duration=${seconds}s`,
    "--latency",
    ...more,
  ];
  const text = output(["wrk", ...options, `http://127.0.0.1:${port}${path}`]);
  const usedS = cpuS(child.pid!) - fromS;
  if (/Non-2xx|Socket errors/.test(text)) throw new Error(text);
  const [, p99, unit] = /99%\s+([\d.]+)(us|ms|s)/.exec(text)!;
  const requests = Number(/(\d+) requests in/.exec(text)![1]);
  return {
    requests,
    perCpuS: requests / usedS / 1000,
    perS: Number(/Requests\/sec:\s+([\d.]+)/.exec(text)![1]) / 1000,
    p99Ms: Number(p99) * { us: 0.001, ms: 1, s: 1000 }[unit as "us" | "ms" | "s"],
  } satisfies Load;
}

/** The resident memory of a server, in MiB. */
export const residentMib = ({ child }: Server) =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, "utf8"))![1]) / 1024;

/** How long a server takes to end by SIGTERM while so many streams are open; it must exit 0. */
export async function stopMs(
  { port, child }: Server,
  path: string,
  streams: number,
): Promise<number> {
  const open = await Promise.all(Array.from({ length: streams }, () => ask(port, path)));
  const refused = open.find(({ head }) => !head.startsWith("HTTP/1.1 200"));
  if (refused) throw new Error(`${path} answers ${refused.head.split("\r\n")[0]}`);
  const fromMs = performance.now();
  child.kill("SIGTERM");
  const [code] = child.exitCode === null ? await once(child, "exit") : [child.exitCode];
  const ms = performance.now() - fromMs;
  for (const { end } of open) end();
  if (code !== 0) throw new Error(`Stopped with ${streams} streams open it exits ${code}`);
  return ms;
}

// ── The life of a container ──

/** What happened to a container, in seconds from `docker run`. */
export interface Moment {
  atS: number;
  what: "run" | "started" | "wedged" | "failed probe" | "healthy" | "unhealthy" | "ended";
  /** What the probe printed, or the exit code. */
  detail?: string;
}

export interface Lane {
  name: string;
  moments: Moment[];
  endS: number;
}

interface DockerEvent {
  Action: string;
  Actor: { ID: string; Attributes: { exitCode?: string } };
  timeNano: number;
}

interface DockerState {
  Health: { Status: string; Log: { End: string; ExitCode: number; Output: string }[] };
}

/**
 * Follows containers of one image that are started together and wedged together: their event loops turn for ever.
 *
 * @param options What `docker run` gets for each, beside what all get
 * @param wedgeAfterMs From `docker run`
 * @param endAfterMs From the first one that is healthy again
 */
export async function lives(
  image: string,
  options: Record<string, string[]>,
  wedgeAfterMs: number,
  endAfterMs: number,
) {
  const names = Object.keys(options);
  const events: DockerEvent[] = [];
  const args = ["events", "--format", "{{json .}}", "--filter", `image=${image}`];
  const follower = spawn("docker", args, { stdio: ["ignore", "pipe", "inherit"] });
  let rest = "";
  follower.stdout.on("data", (chunk) => {
    const lines = `${rest}${chunk}`.split("\n");
    rest = lines.pop()!;
    for (const line of lines) events.push(JSON.parse(line));
  });
  const ids: string[] = [];
  const fromS: number[] = [];
  // They would be restarted for ever, and turn for ever.
  const remove = () => void has(["docker", "rm", "--force", ...ids]);
  process.once("exit", remove);
  try {
    await sleep(500); // until it follows
    const port = (id: string) =>
      Number(output(["docker", "port", id, "8080/tcp"]).split(":").at(-1));
    for (const name of names) {
      fromS.push(Date.now() / 1000);
      ids.push(
        output(["docker", "run", "--detach", "--publish=127.0.0.1::8080", ...options[name], image]),
      );
    }
    await sleep(fromS[0] * 1000 + wedgeAfterMs - Date.now());
    const wedgedS = Date.now() / 1000;
    for (const id of ids) ask(port(id), "/wedge").catch(() => {}); // nobody ever answers
    const probes = new Map<string, Moment>();
    const seen = (action: string) =>
      ids.map((id) => events.filter(({ Action, Actor }) => Actor.ID === id && Action === action));
    let endS = Infinity;
    while (Date.now() / 1000 < endS) {
      await sleep(500);
      ids.forEach((id, at) => {
        const { Health: { Log } }: DockerState = JSON.parse(
          output(["docker", "inspect", "--format={{json .State}}", id]),
        );
        for (const { End, ExitCode, Output } of Log) {
          if (ExitCode === 0) continue;
          const atS = Date.parse(End) / 1000 - fromS[at];
          probes.set(`${at} ${End}`, { atS, what: "failed probe", detail: Output.trim() });
        }
      });
      if (endS === Infinity && seen("health_status: healthy").some(({ length }) => length === 2)) {
        endS = (Date.now() + endAfterMs) / 1000;
      }
      if (Date.now() / 1000 - wedgedS > 180) {
        throw new Error("No container was healthy again within three minutes");
      }
    }
    return names.map((name, at): Lane => {
      const moments: Moment[] = [{ atS: 0, what: "run" }, {
        atS: wedgedS - fromS[at],
        what: "wedged",
      }];
      for (const [key, probe] of probes) if (key.startsWith(`${at} `)) moments.push(probe);
      for (
        const [action, what] of [
          ["start", "started"],
          ["health_status: healthy", "healthy"],
          ["health_status: unhealthy", "unhealthy"],
          ["die", "ended"],
        ] as [string, Moment["what"]][]
      ) {
        for (const { timeNano, Actor: { Attributes: { exitCode } } } of seen(action)[at]) {
          moments.push({
            atS: timeNano / 1e9 - fromS[at],
            what,
            detail: exitCode && `exit code ${exitCode}`,
          });
        }
      }
      for (const moment of moments) moment.atS = Math.round(moment.atS * 10) / 10;
      return {
        name,
        moments: moments.toSorted((a, b) => a.atS - b.atS),
        endS: Math.round(endS - fromS[at]),
      };
    });
  } finally {
    follower.kill();
    process.off("exit", remove);
    remove();
  }
}
