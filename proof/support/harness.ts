/** What the tests share: starting the program on a runtime, and talking to it. */
import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { dirname } from "node:path";
import process from "node:process";
import { readSettings } from "../../main.ts";

export const ROOT = `${import.meta.dirname}/../..`;
export const TEST_TIMEOUT_MS = 20_000;
const POLL_MS = 50;
/** A busy machine starts a container within this. */
const PATIENCE_MS = 120_000;
/** A runtime and the options with which it runs main.ts. */
export interface Runtime {
  name: string;
  path: string;
  options: string[];
}

const DENO_OPTIONS = ["run", "-q", "-P", "--no-prompt"];
const NODE_OPTIONS = ["--disable-warning=ExperimentalWarning"];
const TSX_OPTIONS = ["--import", "tsx"];

/** The major version of the Node.js that runs the tests. */
export const [MAJOR, MINOR] = process.versions.node.split(".").map(Number);

function self(): Runtime {
  const path = process.execPath;
  if ("Deno" in globalThis) return { name: "Deno", path, options: DENO_OPTIONS };
  const runsTypeScript = MAJOR > 22 || (MAJOR === 22 && MINOR >= 18);
  if (runsTypeScript) return { name: `Node.js ${MAJOR}`, path, options: NODE_OPTIONS };
  return { name: "tsx", path, options: TSX_OPTIONS };
}

/** The runtime that runs the tests. */
export const SELF = self();

/** Says loudly what is skipped for want of a tool, and returns the reason. With CI set it fails. */
export function missing(what: string): string {
  if (process.env.CI) throw new Error(`${what}: in CI nothing is skipped`);
  console.log(`SKIPPED: ${what}`);
  return `SKIPPED: ${what}`;
}

/** Copies the project as it stands here, without what git ignores. */
export function copyProject(folder: string) {
  const args = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
  const files = execFileSync("git", args, { cwd: ROOT, encoding: "utf8" }).split("\0");
  for (const file of files.filter((file) => file && existsSync(`${ROOT}/${file}`))) {
    mkdirSync(dirname(`${folder}/${file}`), { recursive: true });
    cpSync(`${ROOT}/${file}`, `${folder}/${file}`);
  }
}

/**
 * A folder outside the project, with the settings and the packages that a run of main.ts needs. The
 * caller removes it.
 */
export function scratch(): string {
  const folder = mkdtempSync(`${tmpdir()}/heartbeat-proof-`);
  for (const file of ["package.json", "deno.json", "deno.lock"]) {
    cpSync(`${ROOT}/${file}`, `${folder}/${file}`);
  }
  symlinkSync(realpathSync(`${ROOT}/node_modules`), `${folder}/node_modules`);
  return folder;
}

/** The path of Deno's own binary, wherever npm put it. */
export function denoPath(): string {
  const options = { encoding: "utf8" } as const;
  return execFileSync(
    `${ROOT}/node_modules/.bin/deno`,
    ["eval", "console.log(Deno.execPath())"],
    options,
  ).trim();
}

/** tsx on the Node.js that runs the tests. */
export const TSX: Runtime = { name: "tsx", path: process.execPath, options: TSX_OPTIONS };

/**
 * Each runtime that main.ts is for: tsx on this Node.js, Node.js by itself (BENCH_NODE names one
 * that can) and Deno.
 */
export function allRuntimes(): Runtime[] {
  const runtimes = [
    TSX,
    { name: "Deno", path: denoPath(), options: DENO_OPTIONS },
  ];
  const path = process.env.BENCH_NODE;
  if (path) runtimes.push({ name: "Node.js 26", path, options: NODE_OPTIONS });
  else missing("BENCH_NODE names no Node.js 26, so nothing is tested on it");
  return runtimes;
}

export const VARIABLES = [
  "PORT",
  "HOST",
  "PING_TIMEOUT_MS",
  "DRAIN_DELAY_MS",
  "SHUTDOWN_TIMEOUT_MS",
  "HEAL_AFTER_MS",
  "ACCESS_LOG",
];

export type Env = Record<string, string>;
export const settings = (env: Env = {}) => readSettings((name) => env[name]);

// ── Processes ──

/** What the machine gives to a child, less what would set the service up. */
function environment(env: Env): Env {
  const inherited = Object.entries(process.env).filter(([name]) => !VARIABLES.includes(name));
  return { ...Object.fromEntries(inherited) as Env, ...env };
}

export interface Program {
  child: ChildProcess;
  kill: (signal: NodeJS.Signals) => void;
  stdout: string;
  stderr: string;
  exit: Promise<number | null>;
}

interface Start {
  runtime?: Runtime;
  /** What a shell does first. */
  before?: string;
  /** Where the shell sends what the program prints. */
  output?: string;
}

/** Starts a runtime with arguments of one's own. */
export function launch(
  args: string[],
  env: Env,
  { runtime = SELF, before = ":", output = "" }: Start = {},
): Program {
  // A path in a variable, because Deno gives all permissions to a child whose path is its own.
  const child = spawn("sh", ["-c", `${before}; exec "$RUNTIME" "$@" ${output}`, "sh", ...args], {
    cwd: ROOT,
    env: environment({ ...env, RUNTIME: runtime.path }),
    stdio: ["ignore", "pipe", "pipe"],
  });
  const exit = once(child, "close").then(([code]) => code as number | null);
  // Not child.kill(): Deno would then report the signal, whatever the exit code.
  const kill = (signal: NodeJS.Signals) => {
    if (child.exitCode === null && child.signalCode === null) process.kill(child.pid!, signal);
  };
  const program: Program = { child, kill, stdout: "", stderr: "", exit };
  child.stdout!.on("data", (chunk) => {
    program.stdout += chunk;
  });
  child.stderr!.on("data", (chunk) => {
    program.stderr += chunk;
  });
  return program;
}

/** Runs the program to its end. */
export async function run(args: string[], env: Env = {}, start: Start = {}) {
  const { options } = start.runtime ?? SELF;
  const program = launch([...options, "main.ts", ...args], env, start);
  const timer = setTimeout(() => program.kill("SIGKILL"), TEST_TIMEOUT_MS);
  const code = await program.exit;
  clearTimeout(timer);
  return { code, stdout: program.stdout, stderr: program.stderr };
}

/** Waits until what is looked for is there. */
export async function until<T>(
  look: () => T | false | null | undefined | Promise<T | false | null | undefined>,
  what: string,
  patienceMs = PATIENCE_MS,
): Promise<T> {
  for (const startMs = performance.now();;) {
    const found = await look();
    if (found) return found;
    assert.ok(performance.now() - startMs < patienceMs, `no ${what} within ${patienceMs} ms`);
    await sleep(POLL_MS);
  }
}

/** As until(), looking again whenever the program prints; fails at once if the program ends. */
export async function untilPrinted<T>(
  program: Program,
  look: () => T | null | undefined,
): Promise<T> {
  const aborter = new AbortController();
  const late = () => new Error(`not printed in time: ${program.stdout}${program.stderr}`);
  const timer = setTimeout(() => aborter.abort(late()), TEST_TIMEOUT_MS);
  try {
    for (;;) {
      const found = look();
      if (found) return found;
      const { signal } = aborter;
      await Promise.race([
        once(program.child.stdout!, "data", { signal }),
        once(program.child.stderr!, "data", { signal }),
        program.exit.then((code) =>
          Promise.reject(new Error(`exit ${code}: ${program.stdout}${program.stderr}`))
        ),
      ]);
    }
  } finally {
    clearTimeout(timer);
    aborter.abort();
  }
}

/** Signals, waits for the end, and gives what it took. */
export async function stop(program: Program, signal: NodeJS.Signals = "SIGTERM") {
  const startMs = performance.now();
  program.kill(signal);
  const code = await program.exit;
  return { code, ms: performance.now() - startMs };
}

/** Signals, and waits until it drains. */
export async function drain(program: Program): Promise<void> {
  program.kill("SIGTERM");
  await untilPrinted(program, () => /^Draining/m.exec(program.stdout));
}

/**
 * Signals a service that is draining until it ends: so soon after the first, a signal counts as the
 * same.
 */
export async function cut(program: Program, signal: NodeJS.Signals): Promise<void> {
  const again = setInterval(() => program.kill(signal), 50);
  const code = await program.exit;
  clearInterval(again);
  assert.equal(code, 1);
}

export type Service = Program & { port: number; ping: (env?: Env) => ReturnType<typeof run> };

/** Starts the service on a free port, and ends it whatever happens. */
export async function withService(
  env: Env,
  body: (service: Service) => Promise<void>,
  { file = "main.ts", ...start }: Start & { file?: string } = {},
) {
  const { runtime = SELF } = start;
  const variables = { PORT: "0", HOST: "127.0.0.1", ...env };
  const program = launch([...runtime.options, file], variables, start);
  try {
    const listening = () => /Listening on http:\/\/\S+:(\d+)\b.*\n/.exec(program.stdout)?.[1];
    const port = Number(await untilPrinted(program, listening));
    const ping = (more: Env = {}) =>
      run(["--ping"], { ...variables, PORT: `${port}`, ...more }, { runtime });
    await body(Object.assign(program, { port, ping }));
  } finally {
    program.kill("SIGKILL");
    await program.exit;
  }
}

/** The text of main.ts with routes of one's own where it says that they begin. */
export function withRoutesOf(source: string, routes: string): string {
  assert.match(source, /YOUR ROUTES BEGIN HERE.*\n/);
  return source.replace(/YOUR ROUTES BEGIN HERE.*\n/, (line) => `${line}${routes}\n`);
}

/** As withService, with routes of one's own where main.ts says that they begin. */
export async function withRoutes(
  env: Env,
  routes: string,
  body: (service: Service) => Promise<void>,
  start: Start = {},
) {
  const folder = scratch();
  try {
    writeFileSync(
      `${folder}/main.ts`,
      withRoutesOf(readFileSync(`${ROOT}/main.ts`, "utf8"), routes),
    );
    await withService(env, body, { ...start, file: `${folder}/main.ts` });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

// ── Sockets ──

export class Client {
  socket: Socket;
  received = "";
  ended: Promise<void>;

  constructor(port: number) {
    this.socket = connect(port, "127.0.0.1");
    this.socket.on("data", (chunk) => {
      this.received += chunk;
    });
    this.socket.on("error", () => {});
    this.ended = new Promise((resolve) => this.socket.once("close", () => resolve()));
  }

  send(text: string): this {
    this.socket.write(text);
    return this;
  }

  get(path: string): this {
    return this.send(`GET ${path} HTTP/1.1\r\nHost: test\r\n\r\n`);
  }

  async until(pattern: RegExp): Promise<string> {
    const signal = AbortSignal.timeout(TEST_TIMEOUT_MS);
    while (!pattern.test(this.received)) {
      await Promise.race([
        once(this.socket, "data", { signal }),
        this.ended.then(() =>
          Promise.reject(new Error(`closed after ${JSON.stringify(this.received)}`))
        ),
      ]);
    }
    return this.received;
  }
}

/** A server that does with a connection what the test says. */
export async function withFake(
  onConnection: (socket: Socket) => void,
  body: (port: number) => Promise<void>,
  host = "127.0.0.1",
) {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket.on("error", () => {}));
    onConnection(socket);
  });
  server.listen(0, host);
  await once(server, "listening");
  try {
    await body((server.address() as AddressInfo).port);
  } finally {
    for (const socket of sockets) socket.destroy();
    server.close();
  }
}

/** A port that nothing listens on. */
export async function freePort(): Promise<number> {
  let free = 0;
  await withFake(() => {}, async (port) => {
    free = port;
  });
  return free;
}

export const STACK = /^\s+at .+:\d+/m;

/** The lines of a log that hold JSON. */
export const entries = (text: string): Record<string, unknown>[] =>
  text.split("\n").filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));

/** The one line that the log has of a path, on whichever stream. */
export async function lineOf(service: Program, path: string) {
  const find = (text: string) => entries(text).filter((entry) => entry.path === path);
  await untilPrinted(service, () => find(service.stdout + service.stderr)[0]);
  const [out, error] = [find(service.stdout), find(service.stderr)];
  assert.equal(out.length + error.length, 1, `lines of ${path}`);
  return { line: [...error, ...out][0], isError: error.length > 0 };
}

/** Nothing but whole lines of JSON was printed as an error, and no stack of a runtime. */
export function assertOnlyEntries(stderr: string): void {
  assert.doesNotMatch(stderr, STACK);
  for (const line of stderr.split("\n").slice(0, -1)) {
    assert.doesNotThrow(() => JSON.parse(line), `no JSON: ${line}`);
  }
}

export const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));
