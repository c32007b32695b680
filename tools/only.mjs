/**
 * Makes this a copy for one runtime: `npm run only-node` or `deno task only-deno`.
 * Takes out the files, scripts and jobs of the other one, and itself. What stays of the other: its
 * room in main.ts, its stages in the Dockerfile, and its lines in documents and ignore files.
 */
import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import process from "node:process";

const WORKFLOWS = [".github/workflows/ci.yml", ".github/workflows/heartbeat.yml"];
const COMPOSE_FILES = ["compose.yaml", "deploy/haproxy.yaml"];
const OF_NODE = [
  "package.json",
  "package-lock.json",
  "tsconfig.json",
  ".npmrc",
  "exec.cmd",
  "tools",
];
const OF_DENO = [
  "deno.json",
  "deno.lock",
  "test-deadline.ts",
  "tools/dependencies.mjs",
  "tools/only.mjs",
];

const remove = (files) => files.forEach((file) => rmSync(file, { recursive: true, force: true }));

/** Changes a text file, if the owner still has it. */
function edit(file, change) {
  if (existsSync(file)) writeFileSync(file, change(readFileSync(file, "utf8")));
}

/** Takes a runtime's jobs, and the steps that are named after it, out of a workflow. */
function withoutJobs(text, runtime, name) {
  return text
    .replace(new RegExp(`^  ${runtime}:\n(?:    .*\n|\n)+`, "m"), "")
    .replace(new RegExp(`^( +)- name: ${name}\\b.*\n(?:\\1  .*\n)+`, "gm"), "")
    .replace(new RegExp(`^ +- { target: ${runtime}, .*\n`, "m"), "")
    .replace(new RegExp(`(?<=\\[.*)\\b${runtime}, `, "g"), "")
    .replace(new RegExp(`, ${runtime}(?=\\])`, "g"), "");
}

/** Every image is the one that the Dockerfile's last line names. */
const withoutTarget = (text) =>
  text.replace(/^( +build:) { context: (\.+), target: .* }.*$/m, "$1 $2");

/** Takes one of Renovate's managers out of its file. */
const withoutManager = (text, manager) => text.replace(`"${manager}", `, "");

/** What the example test starts the service with: on Deno the first, on Node.js the second. */
const START_OPTIONS = /"Deno" in globalThis \? (\[.*?\]) : (process\.execArgv)/;

/** Takes a runtime out of the files that both kinds of copies keep. */
function takeOut(runtime, name) {
  for (const file of WORKFLOWS) edit(file, (text) => withoutJobs(text, runtime, name));
  for (const file of COMPOSE_FILES) edit(file, withoutTarget);
}

function onlyNode() {
  const excluded = /"lint": .*?"exclude": \[(.*?)\]/s.exec(readFileSync("deno.json", "utf8"));
  edit("package.json", (text) => {
    const manifest = JSON.parse(text);
    const { scripts } = manifest;
    scripts.test = "npm run test:node";
    if (excluded) scripts.lint += ` --rules-exclude=${excluded[1].match(/[\w-]+/g).join()}`;
    for (const name of ["test:deno", "dependencies", "only-node"]) delete scripts[name];
    return `${JSON.stringify(manifest, null, 2)}\n`;
  });
  edit("main.test.ts", (text) => text.replace(START_OPTIONS, "$2"));
  edit("tools/check.mjs", (text) => text.replaceAll(/^ +{ needs: "deno\..*\n/gm, ""));
  edit("Dockerfile", (text) => text.replace(/^FROM deno\n*$/m, "FROM node\n"));
  takeOut("deno", "Deno");
  // The one image that is left needs no suffix.
  edit(WORKFLOWS[0], (text) => text.replace('suffix: "-node"', 'suffix: ""'));
  edit(".github/renovate.json", (text) => withoutManager(text, "deno"));
  remove(OF_DENO);
}

/** The imports that are a package.json's packages, as lines of deno.json. */
function toImports({ dependencies, devDependencies, optionalDependencies }) {
  const { tools, tsx, ...packages } = {
    ...devDependencies,
    ...optionalDependencies,
    ...dependencies,
  };
  const lines = Object.entries(packages).map(([name, version]) => {
    if (!/^[\^~]?\d/.test(version)) throw new Error(`Cannot import ${name}@${version} from npm`);
    return `    "${name}": "npm:${name}@${version}"`;
  });
  return `  "imports": {\n${lines.join(",\n")}\n  },\n`;
}

function onlyDeno() {
  const imports = toImports(JSON.parse(readFileSync("package.json", "utf8")));
  edit("deno.json", (text) =>
    text
      .replace("{\n", `{\n${imports}`)
      .replace(/,\n *"only-deno": .*(?=\n)|\n *"only-deno": .*,(?=\n)/, ""));
  takeOut("node", "Node.js");
  edit("main.test.ts", (text) => text.replace(START_OPTIONS, "$1"));
  edit(".github/renovate.json", (text) => withoutManager(text, "npm"));
  remove(OF_NODE);
  execFileSync(process.execPath, ["install", "--quiet", "--lockfile-only"], { stdio: "inherit" });
}

try {
  if (process.argv[2] === "node") onlyNode();
  else onlyDeno();
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
