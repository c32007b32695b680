/**
 * Runs the proof of the folders named, because no test runner finds *.proof.ts by itself:
 *
 *     node support/run.js serve stop           all of it
 *     node support/run.js --self serve stop    *.self.proof.ts alone, on this Node.js
 *     node support/run.js --deno serve stop    *.self.proof.ts alone, on Deno
 *
 * A file *.self.proof.ts proves the runtime that runs it; any other starts the runtimes by itself.
 * A file *.loads.proof.ts loads the machine: it runs after the others, with nothing beside it.
 */
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import process from "node:process";
import "./parent.js";

const DEADLINE = "./support/deadline.js";
const NODE = [process.execPath, "--import", "tsx", "--import", DEADLINE, "--test"];
const COMMANDS = {
  "--deno": ["deno", "test", "-A", "--preload", DEADLINE],
  "--self": [...NODE, "--test-concurrency=2"],
};

const [option] = process.argv[2] in COMMANDS ? process.argv.splice(2, 1) : [];
const folders = process.argv.slice(2);

/** Returns the files with tests in a folder. */
function filesOf(folder) {
  const ending = option ? ".self.proof.ts" : ".proof.ts";
  const names = readdirSync(folder, { recursive: true }).filter((name) => name.endsWith(ending));
  if (names.length === 0) throw new Error(`${folder} holds no *${ending}`);
  return names.map((name) => `${folder}/${name}`);
}

/** Runs a command, and ends the program if it fails. */
function run([command, ...args], files) {
  if (files.length === 0) return;
  const { error, status } = spawnSync(command, [...args, ...files], { stdio: "inherit" });
  if (error) throw error;
  if (status !== 0) process.exit(1);
}

try {
  if (folders.length === 0) throw new Error("Name at least one folder");
  const files = folders.flatMap(filesOf);
  const loads = (file) => file.endsWith(".loads.proof.ts");
  run(COMMANDS[option ?? "--self"], files.filter((file) => !loads(file)));
  for (const file of files.filter(loads)) run(NODE, [file]);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
