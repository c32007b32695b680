/** What the benchmark runs: the project as its images run it, and what that is compared with. */
import { spawnSync } from "node:child_process";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import { denoPath, ROOT, scratch, withRoutesOf } from "../support/harness.ts";

export { ROOT };
export type Runtime = "deno" | "node";
export const RUNTIMES: Runtime[] = ["deno", "node"];
/** What the tables call a runtime. */
export const NAMES = { deno: "Deno", node: "Node.js" };
export const DENO = denoPath();
export const NODE = process.env.BENCH_NODE || process.execPath;
/** A Go program that answers /healthz and has --ping; its rows are left out if it is not named. */
export const PEER = process.env.PEER;
/** Version 3, by its commit. */
const BEFORE = "7293c36";

const TSX = [process.execPath, `${ROOT}/node_modules/tsx/dist/cli.mjs`];
/** What every program gets, unless a row says otherwise. */
export const ENV = {
  ...process.env,
  HOST: "127.0.0.1",
  DENO_NO_UPDATE_CHECK: "1",
  ACCESS_LOG: "off",
  NO_COLOR: "1",
};

/** A command, and what the tables call it. */
export interface Side {
  name: string;
  command: string[];
  env?: Record<string, string>;
}

export const side = (name: string, command: string[], env?: Side["env"]): Side => (
  { name, command, env }
);

/** Runs a command and gives what it prints; throws what it says if it fails. */
export function output(command: string[], env: NodeJS.ProcessEnv = ENV, cwd = ROOT): string {
  const { status, stdout, stderr, error } = spawnSync(command[0], command.slice(1), {
    cwd,
    env,
    encoding: "utf8",
  });
  if (status !== 0) {
    throw new Error(`Cannot run ${command.join(" ")}: ${error?.message ?? stderr.trim()}`);
  }
  return stdout.trim();
}

/** Whether a command runs and succeeds. */
export const has = (command: string[]) =>
  spawnSync(command[0], command.slice(1), { cwd: ROOT }).status === 0;

// ── Folders, removed at the exit ──

/** What lies in it finds the project's packages: sources, and what is measured by the way. */
export const WORK = scratch();
/** What lies in it finds nothing but what its image has. */
const APPS = mkdtempSync(`${tmpdir()}/heartbeat-bench-`);
process.on("exit", () => {
  rmSync(WORK, { recursive: true });
  rmSync(APPS, { recursive: true });
});
process.on("SIGINT", () => process.exit(1));

/** Writes a file of the benchmark's own, and gives its path. */
export function write(name: string, text: string): string {
  const path = `${WORK}/${name}`;
  mkdirSync(path.replace(/\/[^/]*$/, ""), { recursive: true });
  writeFileSync(path, text);
  return path;
}

const LEFT_OUT_PATTERN = /^(node_modules|\.git|proof)$/;

/** A copy of a project as an image is built from it, with routes added; gives its folder. */
export function copy(name: string, routes: string, project = ROOT): string {
  const folder = `${WORK}/${name}`;
  for (const entry of readdirSync(project)) {
    if (LEFT_OUT_PATTERN.test(entry)) continue;
    cpSync(`${project}/${entry}`, `${folder}/${entry}`, { recursive: true });
  }
  const main = readFileSync(`${project}/main.ts`, "utf8");
  writeFileSync(`${folder}/main.ts`, withRoutesOf(main, routes));
  return folder;
}

// ── A Dockerfile, read for how it bundles and starts ──

/** The instructions of a project's Dockerfile, one a line. */
const instructionsOf = (project: string) =>
  readFileSync(`${project}/Dockerfile`, "utf8").replace(/^\s*#.*\n/gm, "").replaceAll("\\\n", " ");

/** The options that an instruction gives a runtime. */
function optionsOf(
  project: string,
  runtime: Runtime,
  instruction: "ENTRYPOINT" | "HEALTHCHECK",
): string[] {
  const pattern = new RegExp(`^${instruction}\\b[^[\\n]*(\\[.*"/bin/${runtime}".*\\])`, "m");
  const words: string[] = JSON.parse(pattern.exec(instructionsOf(project))![1]);
  return words.slice(words.indexOf(`/bin/${runtime}`) + 1, words.indexOf("/app/main.js"));
}

/** The command that bundles main.ts for a runtime, less the folder where it puts it. */
function bundlerOf(project: string, runtime: Runtime): string[] {
  const text = instructionsOf(project);
  const esbuild = /\S*esbuild main\.ts [^&|;\n]*/.exec(text);
  const ofDeno = /\bdeno bundle [^&|;\n]*/.exec(text);
  const command = runtime === "node" && esbuild ? esbuild : ofDeno;
  const words = command![0].trim().split(/\s+/).filter((word) => !word.startsWith("--outdir="));
  if (words[0] === "deno") return [DENO, ...words.slice(1)];
  return [`${ROOT}/node_modules/.bin/esbuild`, ...words.slice(1)];
}

// ── A project, as its images run it ──

/** A bundle in a folder that holds what /app holds in the image. */
export interface App {
  serve: string[];
  ping: string[];
}

/**
 * Bundles a main.ts, and tells how it is run.
 *
 * @param folder Where the main.ts lies
 * @param project Where the Dockerfile lies
 */
export function build(folder: string, runtime: Runtime, project = folder): App {
  const app = mkdtempSync(`${APPS}/${runtime}-`);
  output([...bundlerOf(project, runtime), `--outdir=${app}`], ENV, folder);
  if (runtime === "deno") {
    cpSync(`${project}/deno.json`, `${app}/deno.json`);
  } else {
    writeFileSync(`${app}/package.json`, `{"type":"module"}`);
    symlinkSync(`${ROOT}/node_modules`, `${app}/node_modules`);
  }
  const program = runtime === "deno" ? DENO : NODE;
  const options = (instruction: "ENTRYPOINT" | "HEALTHCHECK") =>
    optionsOf(project, runtime, instruction).map((word) => word.replaceAll("/app/", `${app}/`));
  return {
    serve: [program, ...options("ENTRYPOINT"), `${app}/main.js`],
    ping: [program, ...options("HEALTHCHECK"), `${app}/main.js`, "--ping"],
  };
}

/** The project as it stands. */
export const image = { deno: build(ROOT, "deno"), node: build(ROOT, "node") };

export const source = {
  deno: [DENO, "run", "-q", "-P", "main.ts"],
  node: [NODE, "main.ts"],
  tsx: [...TSX, "main.ts"],
};

/** The folder of the version before this one; undefined if git does not have it. */
export function versionBefore(): string | undefined {
  const folder = `${WORK}/before`;
  if (existsSync(folder)) return folder;
  if (!has(["git", "cat-file", "-e", `${BEFORE}^{commit}`])) {
    console.error(`Left out: the rows against version 3, as git has no commit ${BEFORE}`);
    return undefined;
  }
  mkdirSync(folder);
  output(["sh", "-c", `git archive ${BEFORE} | tar -x -C "$0"`, folder]);
  return folder;
}

// ── What it is compared with ──

/** A command of an image, with another file in the bundle's place. */
const withFile = (command: string[], file: string) => [
  ...command.slice(0, command.findIndex((word) => word.endsWith("/main.js"))),
  file,
];

const emptyJs = write("empty.js", "");
const emptyTs = write("empty.ts", "");
/** Programs of nothing: what starting each runtime costs, with the options of the probe. */
export const empty = {
  deno: withFile(image.deno.ping, emptyJs),
  denoTs: [DENO, "run", "-q", "-P", emptyTs],
  node: withFile(image.node.ping, emptyJs),
  nodeTs: [NODE, emptyTs],
  tsx: [...TSX, emptyTs],
};

const SOCKET_JS = `import { connect } from "node:net";
connect({ host: "127.0.0.1", port: Number(process.env.PORT) })
  .once("data", (data) => process.exit(String(data).startsWith("HTTP/1.1 200") ? 0 : 1))
  .write("GET /healthz HTTP/1.1\\r\\nHost: probe\\r\\nConnection: close\\r\\n\\r\\n");`;
/** On Node.js the least that a probe can be: a socket, and the first bytes of the answer. */
export const socketAlone = [NODE, write("socket.mjs", SOCKET_JS)];

const RAW_DENO_JS = `const port = Number(Deno.env.get("PORT"));
Deno.serve({ hostname: "127.0.0.1", port, onListen() {} }, () => new Response(null));`;
const RAW_NODE_JS = `import { createServer } from "node:http";
createServer((_, response) => response.end()).listen(Number(process.env.PORT), "127.0.0.1");`;
/** The runtime's own server with the options of the service. It answers all with nothing. */
export const raw = {
  deno: withFile(image.deno.serve, write("raw-deno.js", RAW_DENO_JS)),
  node: withFile(image.node.serve, write("raw-node.mjs", RAW_NODE_JS)),
};

const LISTEN = {
  deno: `const port = Number(Deno.env.get("PORT"));
Deno.serve({ hostname: "127.0.0.1", port, onListen() {} }, app.fetch);`,
  node: `import { serve } from "@hono/node-server";
serve({ fetch: app.fetch, hostname: "127.0.0.1", port: Number(process.env.PORT) });`,
};

/** Hono alone: the service's routes on the adapter's defaults, bundled and run alike. */
export function bareHono(runtime: Runtime, routes: string): string[] {
  const text = `import { Hono } from "hono";
const app = new Hono();
const uncached = { "Cache-Control": "no-store" };
app.get("/healthz", (c) => c.body(null, 200, uncached));
app.get("/readyz", (c) => c.json({ status: "ready" }, 200, uncached));
${routes}
app.get("/", (c) => c.text("It works: replace this route in main.ts with your own\\n"));
${LISTEN[runtime]}`;
  write(`bare-${runtime}/main.ts`, text);
  return build(`${WORK}/bare-${runtime}`, runtime, ROOT).serve;
}
