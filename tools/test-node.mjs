/**
 * `npm run test:node` runs each *.test.ts below the current folder on this Node.js, each in a
 * process of its own. A program does it, because Node.js 20 finds no *.test.ts, and later versions
 * never end a file that loops for ever.
 */
import { execFile } from "node:child_process";
import { readdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import process from "node:process";

// No effect on Node.js 20: there FILE_DEADLINE_MS alone ends a test.
const TEST_DEADLINE_MS = 30_000;
const FILE_DEADLINE_MS = 60_000;
const OPTIONS = [
  "--enable-source-maps",
  "--import=tsx",
  "--test-reporter=spec",
  `--test-timeout=${TEST_DEADLINE_MS}`,
  "--test-force-exit", // a server that a test left open must not count as hanging
];

/** Returns the paths of all *.test.ts in a folder. It skips packages and hidden folders. */
function findTests(folder) {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = `${folder}/${entry.name}`;
    const isOurs = entry.name !== "node_modules" && !entry.name.startsWith(".");
    if (entry.isDirectory()) return isOurs ? findTests(path) : [];
    return entry.name.endsWith(".test.ts") ? [path] : [];
  });
}

/** Runs one file and prints what it printed. Resolves to whether it passed. */
function runTests(file) {
  // SIGKILL, because an endless loop handles no other signal.
  const limits = { timeout: FILE_DEADLINE_MS, killSignal: "SIGKILL", maxBuffer: Infinity };
  return new Promise((resolve) => {
    execFile(process.execPath, [...OPTIONS, file], limits, (error, stdout, stderr) => {
      console.log(`${file}\n${stdout}${stderr}`);
      if (error?.killed) console.log(`${file} took more than ${FILE_DEADLINE_MS / 1_000} s\n`);
      resolve(error === null);
    });
  });
}

const files = findTests(".");
const failed = files.length > 0 ? [] : ["there is no *.test.ts"];
const queue = files.values();

/** Runs files until the queue is empty. */
async function work() {
  for (const file of queue) {
    if (!await runTests(file)) failed.push(file);
  }
}

await Promise.all(Array.from({ length: availableParallelism() }, work));
if (failed.length > 0) {
  console.error(`Failed on Node.js ${process.version}: ${failed.join(", ")}`);
  process.exitCode = 1;
}
