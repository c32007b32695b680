/** Loaded by `deno task test` with each test file: ends a run that hangs, because Deno does not. */
import { setTimeout } from "node:timers";

const LIMIT_MS = 60_000;
/** The test runner needs this long to print the line. */
const PRINT_MS = 200;

const timer = setTimeout(() => {
  console.error(`A test file took more than ${LIMIT_MS / 1000} s`);
  setTimeout(() => Deno.kill(Deno.pid, "SIGKILL"), PRINT_MS); // a test may not call Deno.exit()
}, LIMIT_MS);
timer.unref();
