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

/** The comments that a copy for both has alone: how to choose the image, whose the memory is. */
const withoutChoice = (text) => text.replace(/^ *# (With both runtimes|Deno's values).*\n/m, "");

/** What the example test starts the service with: on Deno the first, on Node.js the second. */
const START_OPTIONS = /"Deno" in globalThis \? (\[.*?\]) : (process\.execArgv)/;
/** What runs it: on Node.js the first, on Deno the second. */
const TEST_COMMANDS = /(`npm test`) and (`deno task test`) run each/;

/** Takes a runtime out of the files that both kinds of copies keep. */
function takeOut(runtime, name) {
  const keepsNode = runtime === "deno";
  for (const file of WORKFLOWS) edit(file, (text) => withoutJobs(text, runtime, name));
  for (const file of COMPOSE_FILES) edit(file, withoutTarget);
  for (const file of ["Dockerfile", "deploy/kubernetes.yaml"]) edit(file, withoutChoice);
  edit("main.test.ts", (text) =>
    text
      .replace(START_OPTIONS, keepsNode ? "$2" : "$1")
      .replace(TEST_COMMANDS, keepsNode ? "$1 runs each" : "$2 runs each"));
}

function onlyNode() {
  const settings = readFileSync("deno.json", "utf8");
  const rules = /"lint": .*?"exclude": \[(.*?)\]/s.exec(settings)?.[1].match(/[\w-]+/g);
  const [, paths = ""] = /^ {2}"exclude": \[(.*?)\]/ms.exec(settings) ?? [];
  const isThere = (path) => existsSync(path) || path.includes("*");
  const ignored = (paths.match(/[^",\s]+/g) ?? []).filter(isThere);
  edit("package.json", (text) => {
    const manifest = JSON.parse(text);
    const { scripts } = manifest;
    scripts.test = "npm run test:node";
    if (rules) scripts.lint += ` --rules-exclude=${rules}`;
    if (ignored.length > 0) {
      scripts.fmt += ` --ignore=${ignored}`;
      scripts.lint += ` --ignore=${ignored}`;
    }
    for (const name of ["test:deno", "dependencies", "only-node"]) delete scripts[name];
    return `${JSON.stringify(manifest, null, 2)}\n`;
  });
  edit("tools/check.mjs", (text) => text.replaceAll(/^ +{ needs: "deno\..*\n/gm, ""));
  edit("Dockerfile", (text) => text.replace(/^FROM deno\n*$/m, "FROM node\n"));
  // Deno's image takes less memory.
  edit("deploy/kubernetes.yaml", (text) =>
    text
      .replace("memory: 48Mi", "memory: 72Mi")
      .replace("memory: 96Mi", "memory: 128Mi"));
  takeOut("deno", "Deno");
  // The one image that is left needs no suffix.
  edit(WORKFLOWS[0], (text) => text.replace('suffix: "-node"', 'suffix: ""'));
  edit(".github/renovate.json", (text) => withoutManager(text, "deno"));
  remove(OF_DENO);
}

/** The packages of package.json as lines of deno.json, in the versions that npm has locked. */
function toImports({ dependencies, devDependencies, optionalDependencies }, locked) {
  const { tools, tsx, ...packages } = {
    ...devDependencies,
    ...optionalDependencies,
    ...dependencies,
  };
  return Object.entries(packages).map(([name, range]) => {
    if (!/^[\^~]?\d/.test(range)) throw new Error(`Cannot import ${name}@${range} from npm`);
    const version = locked[`node_modules/${name}`]?.version ?? range.replace(/^[\^~]/, "");
    return [name, `    "${name}": "npm:${name}@${version}",\n`];
  });
}

/** Adds lines to the imports of deno.json, except those that it has. */
function withImports(text, lines) {
  const [begin, present = ""] = /"imports"\s*:\s*{([^}]*)/.exec(text) ?? [];
  const added = lines.filter(([name]) => !present.includes(`"${name}"`)).map(([, line]) => line);
  if (begin) return text.replace(begin, begin.replace("{", `{\n${added.join("")}`));
  return text.replace(/^\s*{/m, `{\n  "imports": {\n${added.join("")}  },`);
}

const readJson = (file) => JSON.parse(readFileSync(file, "utf8"));

function onlyDeno() {
  const { packages = {} } = existsSync("package-lock.json") ? readJson("package-lock.json") : {};
  const imports = toImports(readJson("package.json"), packages);
  const deno = (...args) => execFileSync(process.execPath, args, { stdio: "inherit" });
  edit("deno.json", (text) =>
    withImports(text, imports)
      .replace(/,\n *"only-deno": .*(?=\n)|\n *"only-deno": .*,(?=\n)/, ""));
  deno("fmt", "--quiet", "deno.json");
  takeOut("node", "Node.js");
  edit("Dockerfile", (text) =>
    text
      .replace(/npm run dependencies \(on Deno alone: (.+?)\)/, "$1")
      .replace("need --target node", "need Node.js"));
  edit(".github/renovate.json", (text) => withoutManager(text, "npm"));
  // An owner's registry stays.
  edit(".npmrc", (text) => text.replace(/^save-exact=true\n?/m, ""));
  if (existsSync(".npmrc") && readFileSync(".npmrc", "utf8").trim() === "") remove([".npmrc"]);
  remove(OF_NODE);
  deno("install", "--quiet", "--lockfile-only");
}

try {
  if (process.argv[2] === "node") onlyNode();
  else onlyDeno();
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
