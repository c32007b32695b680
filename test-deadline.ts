/** Loaded by `deno task test` with each test file: ends one that hangs, because Deno does not. */
import { Worker } from "node:worker_threads";

const LIMIT_MS = 60_000;
/** The test runner needs this long to print the line. */
const PRINT_MS = 200;

/** Runs in a thread of its own, because an endless loop holds the timers of its own thread. */
const END_LATER = `setTimeout(() => {
  console.error("${Deno.mainModule} took more than ${LIMIT_MS / 1000} s");
  setTimeout(() => Deno.kill(Deno.pid, "SIGKILL"), ${PRINT_MS}); // Deno.exit() ends a thread alone
}, ${LIMIT_MS})`;
const thread = new Worker(END_LATER, { eval: true });
thread.unref(); // it must not keep a run that is over
