/**
 * Keeps deno.lock in step with package.json. npm runs it after installs that changed node_modules.
 * With CI set it only checks, because `npm ci` would mend a lock that nobody committed.
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import process from "node:process";

/** Runs a command of node_modules. By a shell, because Windows finds commands only so. */
const run = (command) => spawnSync(command, { shell: true, encoding: "utf8" });

/** Mends or checks the lock; returns one line if that failed. */
function follow() {
  const install = "deno install --quiet --lockfile-only";
  const { status, stderr } = run(process.env.CI ? `${install} --frozen` : install);
  if (status === 0) return undefined;
  if (/lockfile is out of date/.test(stderr)) {
    return "deno.lock is behind package.json: npm run dependencies";
  }
  return stderr.trim();
}

// No Deno: after `npm ci --omit=dev`, for example.
if (existsSync("deno.lock") && run("deno --version").status === 0) {
  const failure = follow();
  if (failure) console.error(failure);
  process.exitCode = failure ? 1 : 0;
}
