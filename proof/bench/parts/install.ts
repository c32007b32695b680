/** What an install brings. */
import { cpSync, mkdirSync, readFileSync } from "node:fs";
import { figure, type Row } from "../measure.ts";
import { output, ROOT, WORK } from "../programs.ts";
import { add, type Part } from "../report.ts";

/** What `npm ci` reads. */
export const PACKAGE_FILES = ["package.json", "package-lock.json", "tools"];

interface Installed {
  packages: number;
  mb: number;
}

/** Installs into an empty folder, and counts. */
function installed(name: string, options: string[]): Installed {
  const folder = `${WORK}/${name}`;
  mkdirSync(folder);
  for (const file of PACKAGE_FILES) {
    cpSync(`${ROOT}/${file}`, `${folder}/${file}`, { recursive: true });
  }
  output(["npm", "ci", "--silent", ...options], undefined, folder);
  const modules = `${folder}/node_modules`;
  const { packages } = JSON.parse(readFileSync(`${modules}/.package-lock.json`, "utf8"));
  const [bytes] = output(["du", "--summarize", "--bytes", modules]).split("\t");
  return { packages: Object.keys(packages).length, mb: Number(bytes) / 1e6 };
}

function measure(): Row[] {
  const sizes = [installed("install", []), installed("install-run", ["--omit=dev"])];
  const rows: Row[] = [];
  add(rows, {
    what: "`npm ci`, all that the project is developed with",
    against: "`npm ci --omit=dev`, what it runs with",
    figures: [
      figure("packages", "", 0, [sizes.map(({ packages }) => packages)]),
      figure("size", "MB", 1, [sizes.map(({ mb }) => mb)]),
    ],
  });
  return rows;
}

export const install: Part = {
  title: "What an install brings",
  method: "Into an empty folder.",
  needs: [],
  measure,
};
