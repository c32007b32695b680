/** Servers of the benchmark: starting them, loading them, and what they use meanwhile. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { connect } from "node:net";
import { performance } from "node:perf_hooks";
import { freePort, sleep } from "../support/harness.ts";
import { ENV, output, ROOT, type Side } from "./programs.ts";

/** Linux counts a process's CPU time in these: https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html */
const TICKS_PER_S = 100;
/** Answers are waited for this long. */
const DEADLINE_MS = 30_000;

export interface Server {
  port: number;
  child: ChildProcess;
  /** Until its first 200. */
  startMs: number;
}

/** An answer of which the first bytes are there. */
interface Answer {
  head: string;
  end: () => void;
}

/** Sends a request for a path. Resolves once the answer's first bytes are there. */
export function ask(port: number, path: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, "127.0.0.1");
    socket.write(`GET ${path} HTTP/1.1\r\nHost: bench\r\n\r\n`);
    socket.once("data", (data) => resolve({ head: `${data}`, end: () => socket.destroy() }));
    socket.on("error", reject);
  });
}

/** Whether /healthz answers 200, asked once. */
async function isUp(port: number): Promise<boolean> {
  try {
    const { head, end } = await ask(port, "/healthz");
    end();
    return head.startsWith("HTTP/1.1 200");
  } catch {
    return false;
  }
}

/** Starts a server, waits for its first 200, and ends it after. What it prints goes nowhere. */
export async function withServer<T>(
  { command, env }: Side,
  body: (server: Server) => Promise<T> | T,
): Promise<T> {
  let port = Number(env?.PORT);
  if (!port) port = await freePort();
  const fromMs = performance.now();
  const child = spawn(command[0], command.slice(1), {
    cwd: ROOT,
    env: { ...ENV, ...env, PORT: `${port}` },
    stdio: ["ignore", "ignore", "inherit"],
  });
  const exit = once(child, "exit");
  try {
    while (!await isUp(port)) {
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

/** Starts several servers, of which one at a time is loaded. */
export function withServers<T>(
  [first, ...others]: Side[],
  body: (servers: Server[]) => Promise<T> | T,
): Promise<T> {
  return withServer(first, (server) => {
    if (others.length === 0) return body([server]);
    return withServers(others, (servers) => body([server, ...servers]));
  });
}

// ── What a server uses ──

/** The CPU time that a process has used, it and all that it started. */
function cpuS(pid: number): number {
  // The fields behind the name: utime, stime, and those of the children that ended.
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").replace(/.*\) /s, "").split(" ");
  const ownS = [11, 12, 13, 14].reduce((sum, at) => sum + Number(fields[at]), 0) / TICKS_PER_S;
  const children = readdirSync(`/proc/${pid}/task`).flatMap((thread) =>
    readFileSync(`/proc/${pid}/task/${thread}/children`, "utf8").split(" ").filter(Boolean)
  );
  return children.reduce((sum, child) => sum + cpuS(Number(child)), ownS);
}

/** The resident memory of a server, in MiB. */
export const residentMib = ({ child }: Server) =>
  Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${child.pid}/status`, "utf8"))![1]) / 1024;

// ── Load ──

export interface Load {
  requests: number;
  /** Thousands, by the server's own CPU time. */
  perCpuS: number;
  /** Thousands, by the clock. */
  perS: number;
  /** 99 of 100 are answered within this. */
  p99Ms: number;
}

const MS = { us: 0.001, ms: 1, s: 1000 };

/** Asks a server for a path as fast as it answers; `more` are further options of wrk. */
export function load(
  { port, child }: Server,
  path: string,
  seconds: number,
  connections: number,
  more: string[] = [],
): Load {
  const options = ["--threads=1", `--connections=${connections}`, `--duration=${seconds}s`];
  const url = `http://127.0.0.1:${port}${path}`;
  const fromS = cpuS(child.pid!);
  const text = output(["wrk", ...options, "--latency", ...more, url]);
  const usedS = cpuS(child.pid!) - fromS;
  if (/Non-2xx|Socket errors/.test(text)) throw new Error(text);
  const [, p99, unit] = /99%\s+([\d.]+)(us|ms|s)/.exec(text)!;
  const requests = Number(/(\d+) requests in/.exec(text)![1]);
  return {
    requests,
    perCpuS: requests / usedS / 1000,
    perS: Number(/Requests\/sec:\s+([\d.]+)/.exec(text)![1]) / 1000,
    p99Ms: Number(p99) * MS[unit as keyof typeof MS],
  };
}

/** How long a server takes to end by SIGTERM while so many streams are open; it must exit 0. */
export async function stopMs(
  { port, child }: Server,
  path: string,
  streams: number,
): Promise<number> {
  const open = await Promise.all(Array.from({ length: streams }, () => ask(port, path)));
  const refused = open.find(({ head }) => !head.startsWith("HTTP/1.1 200"));
  if (refused) throw new Error(`${path} answers ${refused.head.split("\r\n")[0]}`);
  const exit = once(child, "exit");
  const fromMs = performance.now();
  child.kill("SIGTERM");
  const [code] = await exit;
  const ms = performance.now() - fromMs;
  for (const { end } of open) end();
  if (code !== 0) throw new Error(`Stopped with ${streams} streams open it exits ${code}`);
  return ms;
}
