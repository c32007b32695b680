/** What the benchmark runs: the project as it is run, and the programs that it is compared with. */
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import process from "node:process";
import { ROOT, scratch } from "../harness.ts";

export { ROOT };
export const NODE = process.env.BENCH_NODE || process.execPath;
/** A Go program that answers /healthz and has --ping; its rows are left out if it is not named. */
export const PEER = process.env.PEER;
export const TSX = [process.execPath, `${ROOT}/node_modules/tsx/dist/cli.mjs`];
/** What every program gets, unless a row says otherwise. */
export const ENV = { ...process.env, HOST: "127.0.0.1", DENO_NO_UPDATE_CHECK: "1", ACCESS_LOG: "off", NO_COLOR: "1" };

/** A command, and what the tables call it. */
export interface Side {
  name: string;
  command: string[];
  env?: Record<string, string>;
}

/** Runs a command and gives what it prints; throws what it says if it fails. */
export function output(command: string[], env: NodeJS.ProcessEnv = ENV, cwd = ROOT): string {
  const { status, stdout, stderr, error } = spawnSync(command[0], command.slice(1), { cwd, env, encoding: "utf8" });
  if (status !== 0) throw new Error(`Cannot run ${command.join(" ")}: ${error?.message ?? stderr.trim()}`);
  return stdout.trim();
}

/** The binary itself: the command that npm installs may be a script, which would be measured as well. */
export const DENO = output([`${ROOT}/node_modules/.bin/deno`, "eval", "console.log(Deno.execPath())"]);

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
  for (const entry of readdirSync(ROOT).filter((entry) => !/^(node_modules|\.git|proof)$/.test(entry))) {
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
/** What an instruction of the Dockerfile gives Deno, the file and what follows it aside. */
const optionsOf = (instruction: RegExp): string[] => {
  const words: string[] = JSON.parse(instruction.exec(dockerfile)![1]);
  return words.slice(words.indexOf("/bin/deno") + 1, words.indexOf("/app/main.js"));
};
const serviceOptions = optionsOf(/ENTRYPOINT (\[.*"\/bin\/deno".*\])/);
const probeOptions = optionsOf(/HEALTHCHECK .*CMD (\["\/bin\/deno".*\])/);

/** Bundles as the image does; gives the bundle's main file. */
export function bundle(folder: string, name: string, main = "main.ts"): string {
  const options = ["--quiet", "--minify", "--code-splitting", `--outdir=${WORK}/${name}`];
  output([DENO, "bundle", ...options, `${folder}/${main}`]);
  return `${WORK}/${name}/main.js`;
}

const main = bundle(ROOT, "bundle");
/** The service as the images run it, without their init. */
export const serve = {
  deno: (file = main): string[] => [DENO, ...serviceOptions, file],
  node: (file = main): string[] => [NODE, file],
};
/** The probe as the images run it. */
export const ping = {
  deno: [DENO, ...probeOptions, main, "--ping"],
  node: [NODE, main, "--ping"],
};
export const source = { deno: [DENO, "run", "-q", "-P", "main.ts"], node: [NODE, "main.ts"], tsx: [...TSX, "main.ts"] };

// ── What it is compared with ──

const emptyJs = write("empty.js", "");
const emptyTs = write("empty.ts", "");
/** Programs of nothing: what starting each runtime costs. */
export const empty = {
  deno: [DENO, "run", emptyJs],
  denoTs: [DENO, "run", emptyTs],
  node: [NODE, emptyJs],
  nodeTs: [NODE, emptyTs],
  tsx: [...TSX, emptyTs],
};

/** The runtime's own server: one answer to everything, a text or nothing. */
export const raw = {
  denoFile: (text = "") =>
    write(
      `raw-${text ? "text" : "empty"}.ts`,
      `Deno.serve({ hostname: "127.0.0.1", port: Number(Deno.env.get("PORT")), onListen() {} }, () =>
  new Response(${text ? JSON.stringify(text) : null}));`,
    ),
  deno: (text = "") => [DENO, "run", "-q", "-A", raw.denoFile(text)],
  denoInImage: () => [DENO, ...serviceOptions, raw.denoFile()],
  node: (text = "") => [
    NODE,
    write(
      `raw-${text ? "text" : "empty"}.mjs`,
      `import { createServer } from "node:http";
createServer((_, response) => {
  ${text && 'response.setHeader("Content-Type", "text/plain; charset=UTF-8");'}
  response.end(${JSON.stringify(text)});
}).listen(Number(process.env.PORT), "127.0.0.1");`,
    ),
  ],
};

/** Hono alone, with the same two routes, on the same adapter, bundled likewise. */
export function bare(text: string) {
  const app = `import { Hono } from "hono";
const app = new Hono();
app.get("/healthz", (c) => c.body(null));
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
    deno: [DENO, "run", "-q", "-A", bundle(`${WORK}/bare-deno`, "bare-deno-bundle")],
    node: [NODE, bundle(`${WORK}/bare-node`, "bare-node-bundle")],
  };
}
