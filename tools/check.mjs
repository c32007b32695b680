/**
 * Run by `npm run check`: looks at locks, format, lint and types.
 * Ends at the first step that fails, and says what mends it.
 */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import process from "node:process";

/**
 * The steps. One that needs a file is left out where there is none: pnpm has no package-lock.json.
 * `mend` follows what the command printed; `instead` replaces what it printed if that matches.
 */
const STEPS = [
  {
    needs: "package-lock.json",
    command: "npm ci --dry-run --ignore-scripts --loglevel=error",
    instead: { match: /in sync/, say: "package-lock.json is behind package.json: npm install" },
  },
  { needs: "deno.lock", command: "node tools/dependencies.mjs" },
  { command: "npm run --silent fmt -- --check", mend: "This formats it: npm run fmt" },
  { command: "npm run --silent lint" },
  { needs: "deno.json", command: "deno check --quiet" },
  { command: "tsc" },
];

/** Runs a step and returns its exit code. By a shell, because Windows finds commands only so. */
function run({ needs, command, instead, mend }) {
  if (needs && !existsSync(needs)) return 0;
  const env = { ...process.env, CI: "true", NO_COLOR: "1" }; // the locks are checked, not mended
  const { status, stdout, stderr } = spawnSync(command, { shell: true, encoding: "utf8", env });
  if (status === 0) return 0;
  const said = `${stdout}${stderr}`.trim();
  console.error(instead?.match.test(said) ? instead.say : said);
  if (mend) console.error(mend);
  return 1;
}

process.exitCode = STEPS.some((step) => run(step) !== 0) ? 1 : 0;
