/**
 * What the tests are run on: routes of one's own on each runtime (onEveryRuntime), and the service
 * of items on each runtime and in both images (onEverySubject).
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { randomUUID } from "node:crypto";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import { after, before, describe } from "node:test";
import { promisify } from "node:util";
import { docker, LOCKED, NAME, onHostNetwork, skip, TARGETS } from "./engine.ts";
import {
  allRuntimes,
  denoPath,
  type Env,
  launch,
  MAJOR,
  ROOT,
  type Runtime,
  type Service,
  untilPrinted,
  withRoutes,
  withRoutesOf,
  withService,
} from "./harness.ts";

type Body = (service: Service) => Promise<void>;

// ── Routes of one's own ──

export interface OnRuntime {
  runtime: Runtime;
  isNode: boolean;
  /** Starts main.ts with routes, and ends it whatever happens. */
  inRoutes: (env: Env, routes: string, body: Body) => Promise<void>;
}

/** Defines tests for each runtime. */
export function onEveryRuntime(define: (on: OnRuntime) => void): void {
  const runtimes = allRuntimes();
  describe("each runtime", { concurrency: runtimes.length }, () => {
    for (const runtime of runtimes) {
      const inRoutes = (env: Env, routes: string, body: Body) =>
        withRoutes(env, routes, body, { runtime });
      describe(`on ${runtime.name}`, () => {
        define({ runtime, isNode: runtime.name !== "Deno", inRoutes });
      });
    }
  });
}

// ── The service of items ──

export interface Subject {
  isNode: boolean;
  isImage: boolean;
  /** Why no row is followed, where there is no database. */
  noRows?: string;
  /** A new place for rows. */
  newData: () => string;
  /** Starts the service, and ends it whatever happens. SERVICE_DATA names where it keeps rows. */
  inService: (env: Env, body: Body) => Promise<void>;
}

const readPackage = (folder: string) => JSON.parse(readFileSync(`${folder}/package.json`, "utf8"));

/** A place for copies of the service. They find the packages of proof/ in it. */
function newPlace(): string {
  const place = mkdtempSync(`${tmpdir()}/heartbeat-items-`);
  symlinkSync(`${realpathSync(ROOT)}/proof/node_modules`, `${place}/node_modules`);
  after(() => rmSync(place, { recursive: true, force: true }));
  return place;
}

/** Moves the service of items in at the mark of a copy of main.ts. Returns the copy's folder. */
function moveIn(place: string): string {
  const folder = `${place}/service`;
  mkdirSync(`${folder}/static`, { recursive: true });
  const code = 'return await (await import("./routes.ts")).addRoutes(app, { stopping });';
  const source = readFileSync(`${ROOT}/main.ts`, "utf8");
  writeFileSync(`${folder}/main.ts`, withRoutesOf(source, code));
  cpSync(`${import.meta.dirname}/items`, folder, { recursive: true });
  const routes = readFileSync(`${folder}/routes.ts`, "utf8");
  writeFileSync(`${folder}/routes.ts`, routes.replace("../../../main.ts", "./main.ts"));
  writeFileSync(`${folder}/static/hello.txt`, "hello from a file\n");
  for (const file of ["deno.json", "deno.lock"]) cpSync(`${ROOT}/${file}`, `${folder}/${file}`);
  symlinkSync(realpathSync(`${ROOT}/node_modules`), `${folder}/node_modules`);
  const { type, dependencies, optionalDependencies } = readPackage(ROOT);
  for (const own of ["ws", "@types/ws", "zod"]) {
    dependencies[own] = readPackage(`${place}/node_modules/${own}`).version;
  }
  const manifest = { type, dependencies, optionalDependencies };
  writeFileSync(`${folder}/package.json`, JSON.stringify(manifest));
  return folder;
}

/** Defines tests for the service of items on each runtime and in both images. */
export function onEverySubject(define: (subject: Subject) => void): void {
  const place = newPlace();
  const folder = moveIn(place);
  const runtimes = allRuntimes();
  describe("each runtime", { concurrency: runtimes.length }, () => {
    for (const runtime of runtimes) {
      describe(`on ${runtime.name}`, () => define(onRuntime(runtime, place, folder)));
    }
  });
  describe("each image", { concurrency: TARGETS.length, skip }, () => {
    const newData = buildImages(folder);
    for (const target of TARGETS) {
      const inService: Subject["inService"] = ({ SERVICE_DATA = newData(), ...env }, body) =>
        inContainer(target, SERVICE_DATA, { SERVICE_DATA: "data", ...env }, body);
      describe(`the image ${target}`, () => {
        define({ isNode: target === "node", isImage: true, newData, inService });
      });
    }
  });
}

function onRuntime(runtime: Runtime, place: string, folder: string): Subject {
  const isNode = runtime.name !== "Deno";
  const options = isNode ? [] : [`--allow-read=${place}`, `--allow-write=${place}`];
  const start = { runtime: { ...runtime, options: [...runtime.options, ...options] } };
  const newData = () => mkdtempSync(`${place}/data-`);
  const inService: Subject["inService"] = (env, body) =>
    withService({ SERVICE_DATA: newData(), ...env }, body, { ...start, file: `${folder}/main.ts` });
  const subject: Subject = { isNode, isImage: false, newData, inService };
  if (runtime.name === "tsx" && MAJOR < 24) {
    subject.noRows = `SKIPPED: Node.js ${process.versions.node} has no node:sqlite of its own, ` +
      "so no row is followed under tsx";
    console.log(subject.noRows);
  }
  return subject;
}

const IMAGE = `${NAME}-items`;

/** Writes package-lock.json. Elsewhere, because npm would lock the linked node_modules as links. */
async function lockForNpm(folder: string): Promise<void> {
  const elsewhere = mkdtempSync(`${folder}/lock-`);
  cpSync(`${folder}/package.json`, `${elsewhere}/package.json`);
  const flags = ["--package-lock-only", "--ignore-scripts", "--no-audit"];
  await promisify(execFile)("npm", ["install", ...flags], { cwd: elsewhere });
  cpSync(`${elsewhere}/package-lock.json`, `${folder}/package-lock.json`);
  rmSync(elsewhere, { recursive: true });
}

/** Builds both images before the tests and removes them after. Returns what makes a volume. */
function buildImages(folder: string): () => string {
  const volumes: string[] = [];
  before(async () => {
    if (skip) return;
    const lock = ["install", "--quiet", "--lockfile-only"];
    await promisify(execFile)(denoPath(), lock, { cwd: folder });
    await lockForNpm(folder);
    for (const file of [".dockerignore", "Dockerfile"]) {
      cpSync(`${ROOT}/${file}`, `${folder}/${file}`);
    }
    const config = readFileSync(`${folder}/deno.json`, "utf8");
    const permitted = config.replace('["static"]', '["static", "data"], "write": ["data"]');
    assert.notEqual(permitted, config);
    writeFileSync(`${folder}/deno.json`, permitted);
    for (const target of TARGETS) {
      await docker(["build", "--quiet", "--tag", `${IMAGE}:${target}`, "--target", target, folder]);
    }
  });
  after(async () => {
    if (skip) return;
    if (volumes.length > 0) await docker(["volume", "rm", "--force", ...volumes]);
    await docker(["rmi", "--force", ...TARGETS.map((target) => `${IMAGE}:${target}`)]);
  });
  return () => {
    const volume = `${IMAGE}-${volumes.length}`;
    volumes.push(volume);
    return volume;
  };
}

/** Starts a container in the foreground: its output, signals and exit code are its client's. */
async function inContainer(target: string, volume: string, env: Env, body: Body): Promise<void> {
  const container = `${IMAGE}-${randomUUID()}`;
  const { port, flags } = await onHostNetwork();
  // In a container the one other server is the service itself.
  const variables = Object.entries({ ...env, UPSTREAM_PORT: `${port}` });
  const set = variables.flatMap(([name, value]) => ["--env", `${name}=${value}`]);
  // Docker's probe and one of the test's at once would not fit into the memory of LOCKED.
  const quiet = ["--no-healthcheck", ...flags];
  const named = ["--name", container, ...quiet, "--volume", `${volume}:/data`, ...set];
  const program = launch(["run", ...LOCKED, ...named, `${IMAGE}:${target}`], {}, {
    runtime: { name: target, path: "docker", options: [] },
  });
  const kill = (signal: NodeJS.Signals) => {
    docker(["kill", "--signal", signal, container]).catch(() => {});
  };
  // As of a process that SIGKILL ended.
  const exit = program.exit.then((code) => code === 137 ? null : code);
  const ping = async () => {
    const format = "{{json .Config.Healthcheck.Test}}";
    const image = `${IMAGE}:${target}`;
    const [, ...probe] = JSON.parse(await docker(["inspect", "--format", format, image]));
    return { code: 0, stdout: await docker(["exec", container, ...probe]), stderr: "" };
  };
  try {
    await untilPrinted(program, () => /Listening on/.exec(program.stdout));
    await body(Object.assign(program, { kill, exit, port, ping }));
  } finally {
    await docker(["rm", "--force", container]);
    await program.exit;
  }
}

/** One service for the tests of a group. A test leaves nothing that another would notice. */
export const shareService = ({ inService }: Subject, env: Env = {}) =>
  share((body) => inService(env, body));

/** As shareService(), with routes of one's own. */
export const shareRoutes = ({ inRoutes }: OnRuntime, routes: string) =>
  share((body) => inRoutes({}, routes, body));

function share(start: (body: Body) => Promise<void>): () => Service {
  let service: Service;
  let done: Promise<void>;
  let release = () => {};
  const released = new Promise<void>((resolve) => {
    release = resolve;
  });
  before(async () => {
    await new Promise<void>((resolve, reject) => {
      done = start((started) => {
        service = started;
        resolve();
        return released;
      });
      done.catch(reject);
    });
  });
  after(async () => {
    release();
    await done;
  });
  return () => service;
}

/** Checks the types of main.ts with the service of items inside, as tsc does for Node.js. */
export async function checkTypesOnDeno(): Promise<void> {
  const cwd = moveIn(newPlace());
  await promisify(execFile)(denoPath(), ["check", "--quiet", "main.ts"], { cwd });
}
