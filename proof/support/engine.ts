/** What the tests of the images share: a Docker engine, and containers that end with the test. */
import { execFile } from "node:child_process";
import { cpSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import type { TestContext } from "node:test";
import { promisify } from "node:util";
import { freePort, missing, ROOT, until } from "./harness.ts";

export const TARGETS = ["deno", "node"] as const;
/** What every resource that these tests make is named after, so that they touch nothing else. */
export const NAME = `heartbeat-test-${process.pid}`;
/** As a careful operator runs it. */
export const LOCKED = [
  "--read-only",
  "--cap-drop",
  "ALL",
  "--security-opt",
  "no-new-privileges",
  "--user",
  "12345",
]
  .concat(["--memory", "96m", "--pids-limit", "64"]);

export type Target = typeof TARGETS[number];
export interface Probe {
  Start: string;
  End: string;
  ExitCode: number;
  Output: string;
}
export interface State {
  Status: string;
  ExitCode: number;
  StartedAt: string;
  Health: { Status: string; FailingStreak: number; Log: Probe[] };
}

export const run = promisify(execFile);
/** A build downloads packages. */
const COMMAND_TIMEOUT_MS = 300_000;

/** Runs docker and gives its standard output; throws what it said on standard error. */
export async function docker(args: string[], env: Record<string, string> = {}): Promise<string> {
  const options = {
    env: { ...process.env, ...env },
    cwd: ROOT,
    maxBuffer: 1 << 28,
    timeout: COMMAND_TIMEOUT_MS,
  };
  return (await run("docker", args, options)).stdout.trim();
}

const hasEngine = await docker(["version"]).then(() => true, () => false);
/** Why a test that needs an engine is skipped, if it is. */
export const skip = !hasEngine &&
  missing("no Docker engine answers `docker version`, so no image is tested");

export const image = (target: Target, variant = "plain") => `${NAME}:${target}-${variant}`;

/** What an image is made from. */
const BUILD_FILES = [
  ".dockerignore",
  ".npmrc",
  "Dockerfile",
  "deno.json",
  "deno.lock",
  "main.ts",
  "package-lock.json",
  "package.json",
];

/** A folder with the files that an image is made from. The caller removes it, or its parent. */
export function buildFolder(parent = tmpdir()): string {
  const folder = mkdtempSync(`${parent}/heartbeat-image-`);
  for (const file of BUILD_FILES) cpSync(`${ROOT}/${file}`, `${folder}/${file}`);
  return folder;
}

/** Builds an image of a folder. Deno's is the one that a build without --target makes. */
export async function buildFrom(
  folder: string,
  target: Target,
  variant: string,
  flags: string[] = [],
) {
  const stage = target === "node" ? ["--target", "node"] : [];
  const tag = ["--tag", image(target, variant)];
  await docker(["build", "--quiet", ...tag, ...stage, ...flags, folder]);
}

/** Builds the image of a copy of the project, with its own main.ts or with another. */
export async function build(target: Target, variant = "plain", source?: string) {
  const folder = buildFolder();
  try {
    if (source !== undefined) writeFileSync(`${folder}/main.ts`, source);
    await buildFrom(folder, target, variant);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Removes what the tests of this process built. */
export async function removeImages() {
  const images = await docker([
    "images",
    "--format",
    "{{.Repository}}:{{.Tag}}",
    "--filter",
    `reference=${NAME}`,
  ]);
  if (!images) return;
  // By name, because another may have the same image.
  // Again, while Swarm still removes its containers.
  const remove = () =>
    docker(["rmi", "--force", ...images.split("\n")]).then(() => true, () => false);
  await until(remove, "removal of the images");
}

export const inspect = async (container: string): Promise<State> =>
  JSON.parse(await docker(["inspect", "--format", "{{json .State}}", container]));

export const health = (container: string, status: string, patienceMs?: number) =>
  until(
    async () => {
      const state = await inspect(container);
      return state.Health.Status === status && state;
    },
    `${status} container`,
    patienceMs,
  );

/** Starts a container and removes it after, whatever happens. */
export async function withContainer(
  target: Target,
  flags: string[],
  body: (container: string) => Promise<void>,
  variant = "plain",
) {
  const container = await docker(["run", "--detach", ...flags, image(target, variant)]);
  try {
    await body(container);
  } catch (error) {
    console.log(
      await docker(["logs", "--tail", "50", container]).catch(String),
      JSON.stringify(await inspect(container)),
    );
    throw error;
  } finally {
    await docker(["rm", "--force", container]);
  }
}

/**
 * A port and the flags by which a container serves on it without Docker's proxy, which ends with
 * the container whatever it still has to hand over.
 */
export async function onHostNetwork(): Promise<{ port: number; flags: string[] }> {
  const port = await freePort();
  return { port, flags: ["--network", "host", "--env", "HOST=127.0.0.1", "--env", `PORT=${port}`] };
}

/** The port of this machine that leads to the service in a container. */
export async function published(container: string): Promise<number> {
  return Number((await docker(["port", container, "8080/tcp"])).split(":").at(-1));
}

/** The command by which an image proves its health. */
export async function probeCommand(target: Target): Promise<string[]> {
  return JSON.parse(
    await docker([
      "image",
      "inspect",
      "--format",
      "{{json .Config.Healthcheck.Test}}",
      image(target),
    ]),
  )
    .slice(1);
}

/** Signals the runtime from inside its container: process 1 is its init. */
export async function signalRuntime(
  container: string,
  target: Target,
  signal: "SIGSTOP" | "SIGCONT",
) {
  const children = "/proc/1/task/1/children";
  const command = target === "deno"
    ? [
      "/bin/deno",
      "eval",
      `Deno.kill(parseInt(Deno.readTextFileSync("${children}")), "${signal}")`,
    ]
    : ["/bin/node", "-e", `process.kill(parseInt(fs.readFileSync("${children}")), "${signal}")`];
  await docker(["exec", container, ...command]);
}

/** Prints a measured fact beside the test that measured it. */
export const say = (t: TestContext, fact: string) => t.diagnostic(fact);
