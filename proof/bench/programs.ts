/** What the benchmark runs: the project as it is run, and the programs that it is compared with. */
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import process from "node:process";
import { ROOT, scratch } from "../support/harness.ts";

export { ROOT };
export const NODE = process.env.BENCH_NODE || process.execPath;
/** A Go program that answers /healthz and has --ping; its rows are left out if it is not named. */
export const PEER = process.env.PEER;
export const TSX = [process.execPath, `${ROOT}/node_modules/tsx/dist/cli.mjs`];
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

/** The binary itself: the command that npm installs may be a script, which would be measured as well. */
export const DENO = output([
  `${ROOT}/node_modules/.bin/deno`,
  "eval",
  "console.log(Deno.execPath())",
]);

/** Whether a command runs and succeeds. */
export const has = (command: string[]) => spawnSync(command[0], command.slice(1)).status === 0;

/** What lies in it finds the project's packages. Removed at the exit. */
export const WORK = scratch();
process.on("exit", () => rmSync(WORK, { recursive: true }));
process.on("SIGINT", () => process.exit(1));

/** Writes a file of the benchmark's own, and gives its path. */
export function write(name: string, text: string): string {
  const path = `${WORK}/${name}`;
  mkdirSync(path.replace(/\/[^/]*$/, ""), { recursive: true });
  writeFileSync(path, text);
  return path;
}

/** A copy of the project, as an image is built from it, with routes in its place for them; gives its folder. */
export function copy(name: string, routes: string): string {
  const folder = `${WORK}/${name}`;
  for (
    const entry of readdirSync(ROOT).filter((entry) => !/^(node_modules|\.git|proof)$/.test(entry))
  ) {
    cpSync(`${ROOT}/${entry}`, `${folder}/${entry}`, { recursive: true });
  }
  const main = readFileSync(`${ROOT}/main.ts`, "utf8");
  const mark = /^.*YOUR ROUTES BEGIN HERE.*$/m;
  if (!mark.test(main)) throw new Error("main.ts has no mark that says: YOUR ROUTES BEGIN HERE");
  writeFileSync(`${folder}/main.ts`, main.replace(mark, (line) => `${line}\n${routes}`));
  return folder;
}

// ── The project, as it is run ──

const dockerfile = readFileSync(`${ROOT}/Dockerfile`, "utf8").replaceAll("\\\n", "");
/** The options that an instruction of the Dockerfile gives a runtime. */
function optionsOf(runtime: "deno" | "node", instruction: "ENTRYPOINT" | "HEALTHCHECK"): string[] {
  const [, command] = new RegExp(`^${instruction}.* (\\[.*"/bin/${runtime}".*\\])`, "m").exec(
    dockerfile,
  )!;
  const words: string[] = JSON.parse(command.slice(command.indexOf("[")));
  return words.slice(words.indexOf(`/bin/${runtime}`) + 1, words.indexOf("/app/main.js"));
}
const serviceOptions = {
  deno: optionsOf("deno", "ENTRYPOINT"),
  node: optionsOf("node", "ENTRYPOINT"),
};
const probeOptions = {
  deno: optionsOf("deno", "HEALTHCHECK"),
  node: optionsOf("node", "HEALTHCHECK"),
};

/** Bundles as the image does; gives the bundle's main file. */
export function bundle(folder: string, name: string, main = "main.ts"): string {
  const options = [
    "--quiet",
    "--minify",
    "--code-splitting",
    "--sourcemap=linked",
    `--outdir=${WORK}/${name}`,
  ];
  output([DENO, "bundle", ...options, `${folder}/${main}`]);
  return `${WORK}/${name}/main.js`;
}

const main = bundle(ROOT, "bundle");
/** The service as the images run it, without their init. */
export const serve = {
  deno: (file = main): string[] => [DENO, ...serviceOptions.deno, file],
  node: (file = main): string[] => [NODE, ...serviceOptions.node, file],
};
/** The probe as the images run it. */
export const ping = {
  deno: [DENO, ...probeOptions.deno, main, "--ping"],
  node: [NODE, ...probeOptions.node, main, "--ping"],
};
export const source = {
  deno: [DENO, "run", "-q", "-P", "main.ts"],
  node: [NODE, "main.ts"],
  tsx: [...TSX, "main.ts"],
};

// ── What it is compared with ──

const emptyJs = write("empty.js", "");
const emptyTs = write("empty.ts", "");
/** Programs of nothing: what starting each runtime costs, with the options of the probe. */
export const empty = {
  deno: [DENO, ...probeOptions.deno, emptyJs],
  denoTs: [DENO, "run", "-q", "-P", emptyTs],
  node: [NODE, ...probeOptions.node, emptyJs],
  nodeTs: [NODE, emptyTs],
  tsx: [...TSX, emptyTs],
};

/** On Node.js the least that a probe can be: a socket, and the first bytes of the answer. */
export const socketAlone = [
  NODE,
  write(
    "socket.mjs",
    `import { connect } from "node:net";
connect({ host: "127.0.0.1", port: Number(process.env.PORT) })
  .once("data", (data) => process.exit(String(data).startsWith("HTTP/1.1 200") ? 0 : 1))
  .write("GET /healthz HTTP/1.1\\r\\nHost: probe\\r\\nConnection: close\\r\\n\\r\\n");`,
  ),
];

/** The runtime's own server, with the options of the service: nothing as the answer to everything. */
export const raw = {
  deno: [
    DENO,
    ...serviceOptions.deno,
    write(
      "raw-deno.js",
      `const port = Number(Deno.env.get("PORT"));
Deno.serve({ hostname: "127.0.0.1", port, onListen() {} }, () => new Response(null));`,
    ),
  ],
  node: [
    NODE,
    ...serviceOptions.node,
    write(
      "raw-node.mjs",
      `import { createServer } from "node:http";
createServer((_, response) => response.end()).listen(Number(process.env.PORT), "127.0.0.1");`,
    ),
  ],
};

/** Hono alone: the service's routes on the same adapter, bundled and run alike. `text` is what `/` answers. */
export function bare(text: string) {
  const app = `import { Hono } from "hono";
const app = new Hono();
const uncached = { "Cache-Control": "no-store" };
app.get("/healthz", (c) => c.body(null, 200, uncached));
app.get("/readyz", (c) => c.json({ status: "ready" }, 200, uncached));
app.get("/", (c) => c.text(${JSON.stringify(text)}));`;
  write(
    "bare-deno/main.ts",
    `${app}
Deno.serve({ hostname: "127.0.0.1", port: Number(Deno.env.get("PORT")), onListen() {} }, app.fetch);`,
  );
  write(
    "bare-node/main.ts",
    `${app}
import { serve } from "@hono/node-server";
serve({ fetch: app.fetch, hostname: "127.0.0.1", port: Number(process.env.PORT) });`,
  );
  return {
    deno: serve.deno(bundle(`${WORK}/bare-deno`, "bare-deno-bundle")),
    node: serve.node(bundle(`${WORK}/bare-node`, "bare-node-bundle")),
  };
}
