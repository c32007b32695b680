/**
 * What the proofs of copies share: the archive of the project as it stands, and commands run as an
 * owner would. The archive is served on loopback; giget and the packages come from the registry.
 */
import assert from "node:assert/strict";
import { execFile, spawnSync } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { dirname } from "node:path";
import process from "node:process";
import { promisify } from "node:util";
import { denoPath, ROOT } from "./harness.ts";

/** The folder of one proof, which it removes. */
export const FOLDER = mkdtempSync(`${tmpdir()}/heartbeat-copy-`);
/** A copy for both runtimes, for Node.js alone and for Deno alone. */
export const KINDS = ["both", "node", "deno"] as const;
export type Kind = typeof KINDS[number];
/** An install downloads packages, a gate runs all tests of a copy. */
const COMMAND_TIMEOUT_MS = 300_000;
type Env = Record<string, string>;

/** Runs shell commands, none of which may fail, as a user without settings of the machine. */
export async function shell(cwd: string, commands: string, more: Env = {}): Promise<string> {
  const env: NodeJS.ProcessEnv = {
    ...process.env,
    GIT_AUTHOR_NAME: "A user",
    GIT_AUTHOR_EMAIL: "user@example.com",
    GIT_COMMITTER_NAME: "A user",
    GIT_COMMITTER_EMAIL: "user@example.com",
    GIT_CONFIG_GLOBAL: "/dev/null",
    GIT_CONFIG_SYSTEM: "/dev/null",
    XDG_CACHE_HOME: `${FOLDER}/cache`, // giget keeps there what it fetched
    npm_config_yes: "true", // on a terminal npx asks whether it may fetch giget
    NO_COLOR: "1",
    CI: undefined, // an owner's machine: with CI an install only checks the locks
    ...more,
  };
  delete env.NODE_TEST_CONTEXT; // with it Node.js runs no test inside a test
  const options = ["--norc", "-euo", "pipefail", "-c", commands];
  const { stdout, stderr } = await promisify(execFile)("bash", options, {
    cwd,
    env,
    maxBuffer: 1 << 26,
    timeout: COMMAND_TIMEOUT_MS,
  });
  return stdout + stderr;
}

/** What a command that fails prints, on whichever output. */
export async function failure(folder: string, commands: string, env: Env = {}): Promise<string> {
  const { stdout, stderr } = await shell(folder, commands, env).then(
    (said) => assert.fail(`it passed: ${said}`),
    (e) => e,
  );
  return `${stdout}${stderr}`;
}

/** Replaces a text in a file, which must be there. */
export function edit(folder: string, file: string, from: string | RegExp, to: string) {
  const text = readFileSync(`${folder}/${file}`, "utf8");
  assert.notEqual(text.replace(from, "\0"), text, `${from} in ${file}`);
  writeFileSync(`${folder}/${file}`, text.replace(from, to));
}

const PAGE = "docs/copy.md";

/** The commands of a document under a heading, one text for each block. */
export function blocks(heading: string, document = PAGE): string[] {
  const [, section] = readFileSync(`${ROOT}/${document}`, "utf8").split(`\n## ${heading}\n`);
  assert.ok(section, `${document} has a section ${heading}`);
  return [...section.split("\n## ")[0].matchAll(/^```sh\n(.+?)\n```$/gms)].map(([, text]) => text);
}

/** The commands of a row in docs/copy.md's table of packages: for npm, and on Deno alone. */
export function packageCommands(row: string): { npm: string; deno: string } {
  const cells = new RegExp(`^\\| ${row} +\\| \`(.+?)\` +\\| \`(.+?)\` +\\|$`, "m")
    .exec(readFileSync(`${ROOT}/${PAGE}`, "utf8"));
  assert.ok(cells, `docs/copy.md has a row ${row}`);
  return { npm: cells[1], deno: cells[2] };
}

/**
 * The PATH of a machine that has Deno alone, or Node.js alone: a copy for both has Deno from npm.
 * It has everything else that this machine has.
 */
export function pathWith(kind: Kind): string {
  const folder = `${FOLDER}/path-${kind}`;
  if (existsSync(folder)) return folder;
  mkdirSync(folder);
  const hidden = kind === "deno" ? /^(node|nodejs|npm|npx|corepack|deno)$/ : /^deno$/;
  const linked = new Set<string>();
  const folders = process.env.PATH!.split(":").filter((from) => !from.includes("node_modules"));
  for (const from of folders.filter((from) => existsSync(from))) {
    for (const name of readdirSync(from)) {
      if (hidden.test(name) || linked.has(name)) continue;
      linked.add(name);
      symlinkSync(`${from}/${name}`, `${folder}/${name}`);
    }
  }
  if (kind === "deno") symlinkSync(denoPath(), `${folder}/deno`);
  const absent = kind === "deno" ? "node" : "deno";
  const find = spawnSync("/bin/sh", ["-c", `command -v ${absent}`], { env: { PATH: folder } });
  assert.notEqual(find.status, 0, `${absent} is on the PATH: ${find.stdout}`);
  return folder;
}

const ARCHIVE = `${FOLDER}/heartbeat.tar.gz`;
const server = createServer((request, response) => {
  response.writeHead(200, { "Content-Type": "application/gzip" });
  if (request.method === "HEAD") response.end();
  else response.end(readFileSync(ARCHIVE));
});
let url = "";

/** Makes and serves the archive of the project as it stands here, committed or not. */
export async function serveArchive(): Promise<void> {
  // Of a commit, because .gitattributes takes itself out by export-subst.
  const commands = `git add --all
    commit=$(git commit-tree -m archive "$(git write-tree)")
    git archive --prefix=heartbeat/ --output="${ARCHIVE}" "$commit"`;
  await shell(ROOT, commands, { GIT_INDEX_FILE: `${FOLDER}/index` });
  await once(server.listen(0, "127.0.0.1"), "listening");
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/heartbeat.tar.gz`;
}

/** Unpacks the archive, as a host gives it of a tag. */
export async function unpackArchive(folder: string): Promise<void> {
  mkdirSync(folder, { recursive: true });
  await shell(folder, `tar -xzf "${ARCHIVE}" --strip-components=1`);
}

/** Runs a start of the page in a folder, with the archive's address in place of the host's. */
export async function startCopy(name: string, commands: string, env: Env): Promise<string> {
  mkdirSync(`${FOLDER}/${name}`);
  const address = /"gh:[^"]+"/.exec(commands)?.[0] ?? assert.fail(commands);
  await shell(`${FOLDER}/${name}`, commands.replace(address, `"${url}"`), env);
  return `${FOLDER}/${name}/shop`;
}

/** The files of a copy, without what npm installed and git's own. */
export async function filesOf(folder: string): Promise<string[]> {
  const skipped = "\\( -name node_modules -o -name .git \\) -prune";
  const said = await shell(folder, `find . ${skipped} -o -type f -print | sed 's#^./##' | sort`);
  return said.trim().split("\n");
}

export function removeCopies(): void {
  server.close();
  rmSync(FOLDER, { recursive: true, force: true });
}

/** The folder of a file, made where it is missing, and the file written. */
export function write(folder: string, file: string, text: string): void {
  mkdirSync(dirname(`${folder}/${file}`), { recursive: true });
  writeFileSync(`${folder}/${file}`, text);
}
