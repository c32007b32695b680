/** Ends with one line where the root's packages are missing: Hono, Deno, tsx and tsc are its. */
import { existsSync } from "node:fs";
import process from "node:process";

if (!existsSync(`${import.meta.dirname}/../../node_modules/hono`)) {
  console.error("The root has no node_modules: run `npm ci` there first");
  process.exit(1);
}
