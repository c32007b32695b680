/** Loaded with each file of tests: ends one that waits for ever, because no test runner does. */
import { basename } from "node:path";
import process from "node:process";
import { setTimeout } from "node:timers";

/** The longest file takes half of it on a busy machine; a job of proof.yml has 30 minutes. */
const FILE_DEADLINE_MS = 20 * 60_000;
/** The test runner needs this long to print the line. */
const PRINT_MS = 200;

/** Not so the runner of Node.js, which loads this as well. */
const runsTests = "Deno" in globalThis || process.env.NODE_TEST_CONTEXT !== undefined;

function end() {
  const file = basename(process.argv[1] ?? "A file of tests");
  console.error(`${file} took more than ${FILE_DEADLINE_MS / 60_000} minutes`);
  // Not process.exit(): on Deno a test may not call it.
  setTimeout(() => process.kill(process.pid, "SIGKILL"), PRINT_MS);
}

if (runsTests) setTimeout(end, FILE_DEADLINE_MS).unref();
