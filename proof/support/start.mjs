/**
 * `node start.mjs START PROBE` runs START by this machine's shell, cmd on Windows, until PROBE succeeds. Then it ends
 * START with all that it started. It fails if PROBE does not succeed within the deadline.
 */
import { execFileSync, spawn, spawnSync } from "node:child_process";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";

const DEADLINE_MS = 60_000;
const PAUSE_MS = 500;
const isWindows = process.platform === "win32";
const [start, probe] = process.argv.slice(2);

/** Ends the shell and what it started: on Windows by its tool for trees, else by their group. */
function endAll(pid) {
  if (isWindows) execFileSync("taskkill", ["/pid", `${pid}`, "/t", "/f"]);
  else process.kill(-pid, "SIGTERM");
}

/** Resolves to whether the probe succeeded before the deadline. */
async function isHealthy() {
  const endMs = performance.now() + DEADLINE_MS;
  while (performance.now() < endMs) {
    if (spawnSync(probe, { shell: true, stdio: "inherit" }).status === 0) return true;
    await sleep(PAUSE_MS);
  }
  return false;
}

const service = spawn(start, { shell: true, stdio: "inherit", detached: !isWindows });
const wasHealthy = await isHealthy();
endAll(service.pid);
process.exitCode = wasHealthy ? 0 : 1;
