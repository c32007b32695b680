/**
 * Holds what an archive of the project has, because a copy starts from it: few files, each useful
 * to an owner on the first day, and none that speaks of what a copy lacks.
 */
import assert from "node:assert/strict";
import { existsSync, readFileSync, statSync } from "node:fs";
import { dirname, resolve } from "node:path";
import { after, before, test } from "node:test";
import { filesOf, FOLDER, removeCopies, serveArchive, unpackArchive } from "../support/copies.ts";

/** Each file of a copy, by what an owner does with it on the first day. */
const FILES = {
  "write the service and its tests": ["main.ts", "main.test.ts"],
  "keep data": ["data/.gitignore"],
  "name packages, scripts and permissions": [
    ".npmrc",
    "deno.json",
    "deno.lock",
    "package-lock.json",
    "package.json",
  ],
  "start, test, check, choose a runtime": [
    "exec.cmd",
    "test-deadline.ts",
    "tools/check.mjs",
    "tools/dependencies.mjs",
    "tools/only.mjs",
    "tools/package.json",
    "tools/test-node.mjs",
    "tsconfig.json",
  ],
  "edit and commit without noise": [".editorconfig", ".gitattributes", ".gitignore"],
  "ship": [".dockerignore", "Dockerfile", "compose.yaml"],
  "deploy": [
    "deploy/haproxy.yaml",
    "deploy/heartbeat.container",
    "deploy/kubernetes.yaml",
    "deploy/prometheus.rules.yaml",
    "deploy/stack.yaml",
    "deploy/watch.sh",
    "deploy/where.mjs",
  ],
  "let others check and update it": [
    ".github/renovate.json",
    ".github/update.sh",
    ".github/workflows/ci.yml",
    ".github/workflows/heartbeat.yml",
  ],
  "read": [
    "README.md",
    "docs/alerts.md",
    "docs/containers.md",
    "docs/copy.md",
    "docs/lifecycle.svg",
    "docs/recipes.md",
  ],
};

/** Where the archive lies unpacked, and the files that it has. */
const copied = `${FOLDER}/archive`;
let files: string[] = [];

before(async () => {
  await serveArchive();
  await unpackArchive(copied);
  files = await filesOf(copied);
});
after(removeCopies);

test("a copy has the files that an owner uses on the first day, and no other", () => {
  assert.deepEqual(files.toSorted(), Object.values(FILES).flat().toSorted());
});

test("a copy pins no version that nobody moves", () => {
  const read = (file: string) => readFileSync(`${copied}/${file}`, "utf8");
  const renovate = JSON.parse(read(".github/renovate.json"));
  // The base images: each ARG has its rule, and no FROM names a version of its own.
  const patterns: string[] = renovate.customManagers.map((
    { matchStrings }: { matchStrings: string[] },
  ) => matchStrings[0]);
  const dockerfile = read("Dockerfile");
  for (const [line] of dockerfile.matchAll(/^ARG \w+=.*$/gm)) {
    assert.ok(patterns.some((pattern) => new RegExp(pattern).test(line)), line);
  }
  assert.doesNotMatch(dockerfile, /^FROM .*:\d/m);
  // The actions: each by its commit, with the version that Renovate reads and writes.
  for (const file of files.filter((file) => file.includes("workflows/"))) {
    assert.doesNotMatch(read(file), /-version: ['"]?\d/, file);
    for (const [line] of read(file).matchAll(/^.* uses: .*$/gm)) {
      assert.match(line, / uses: [\w-]+\/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/, file);
    }
  }
  // Images that are not the owner's: in files that Renovate's manager docker-compose reads.
  const [pattern] = renovate["docker-compose"].managerFilePatterns;
  const isRead = new RegExp(pattern.slice(1, -1));
  for (const file of files.filter((file) => /^(compose|deploy\/.*)\.yaml$/.test(file))) {
    const hasImage = /^ +image: [\w-]+:/m.test(read(file));
    if (hasImage) assert.match(file, isRead);
  }
});

test("nothing in a copy speaks of what it lacks", () => {
  const settings = ["deno.json", "tsconfig.json"];
  for (const file of files) {
    const lines = readFileSync(`${copied}/${file}`, "utf8").replaceAll(/https:\/\/[^\s)]+/g, "")
      .split("\n");
    const naming = lines.filter((line) => /\bproof\/|"proof"|\.proof\b/.test(line));
    assert.deepEqual(
      naming.map((line) => line.trim()),
      settings.includes(file) ? ['"exclude": ["proof"]'] : [],
      file,
    );
  }
});

/** The anchor that GitHub makes of a heading. */
const anchorOf = (heading: string) =>
  heading.toLowerCase().replace(/[^\p{L}\p{N} _-]/gu, "").replaceAll(" ", "-");

test("no document of a copy has a dead link, anchor or picture", () => {
  const text = (file: string) => readFileSync(file, "utf8").replace(/^```.*?^```$/gms, "");
  let count = 0;
  for (const file of files.filter((file) => file.endsWith(".md"))) {
    const path = `${copied}/${file}`;
    const targets = [
      ...text(path).matchAll(/\]\(([^)\s]+)\)|^\[[^\]]+\]: (\S+)$|(?:src|href)="([^"]+)"/gm),
    ];
    for (const [, inline, reference, html] of targets) {
      const target = inline ?? reference ?? html;
      if (/^(https?|mailto):/.test(target)) continue;
      count++;
      const [to, anchor] = target.split("#");
      let there = path;
      if (to) there = resolve(dirname(path), to);
      const isThere = existsSync(there) && statSync(there).isFile();
      assert.ok(isThere, `${file} links to ${target}`);
      if (!anchor) continue;
      const anchors = [...text(there).matchAll(/^#+ (.+)$/gm)].map(([, heading]) =>
        anchorOf(heading)
      );
      assert.ok(anchors.includes(anchor), `${file} links to ${target}, which has ${anchors}`);
    }
  }
  assert.ok(count > 3, `only ${count} links`);
});
