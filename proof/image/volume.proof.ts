/**
 * Run by `npm run test:image`: the volume is all that the image's user can write to, but for the
 * memory at /dev/shm. At /data and at /app/data it is the same folder, so that a path of the source
 * holds in the image, and a mount of 3.0.0 stays where it is.
 */
import assert from "node:assert/strict";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { after, before, test } from "node:test";
import {
  buildFolder,
  buildFrom,
  docker,
  health,
  LOCKED,
  NAME,
  published,
  removeImages,
  skip,
  type Target,
  TARGETS,
  withContainer,
} from "../support/engine.ts";
import { withRoutesOf } from "../support/harness.ts";

const ROUTES = `
const { readFile, writeFile } = await import("node:fs/promises");
app.put("/note", async (c) => {
  await writeFile("data/note.txt", await c.req.text());
  return c.body(null, 204);
});
app.get("/note", async (c) => c.text(await readFile("data/note.txt", "utf8")));
`;
const MOUNTS = ["/data", "/app/data"];

function edit(file: string, change: (text: string) => string) {
  const text = readFileSync(file, "utf8");
  const changed = change(text);
  assert.notEqual(changed, text, file);
  writeFileSync(file, changed);
}

before(async () => {
  if (skip) return;
  const folder = buildFolder();
  try {
    edit(`${folder}/main.ts`, (text) => withRoutesOf(text, ROUTES));
    edit(
      `${folder}/deno.json`,
      (text) => text.replace('"read": ["static"]', '"read": ["data"], "write": ["data"]'),
    );
    for (const target of TARGETS) await buildFrom(folder, target, "note");
  } finally {
    rmSync(folder, { recursive: true });
  }
}, { timeout: 600_000 });

after(async () => {
  if (!skip) await removeImages();
});

/** Runs a locked-down container with a volume at `mount`, and hands on its URL for notes. */
async function withNote(
  target: Target,
  volume: string,
  mount: string,
  body: (url: string) => Promise<void>,
) {
  const flags = [...LOCKED, "--publish", "127.0.0.1::8080", "--volume", `${volume}:${mount}`];
  await withContainer(target, flags, async (container) => {
    await health(container, "healthy");
    await body(`http://127.0.0.1:${await published(container)}/note`);
  }, "note");
}

for (const target of TARGETS) {
  test(`${target}: nothing but the volume is writable for the image's user`, { skip }, async () => {
    await withContainer(target, [], async (container) => {
      await health(container, "healthy");
      const attempt = (path: string) =>
        target === "deno"
          ? ["/bin/deno", "eval", `Deno.writeTextFileSync("${path}", "")`]
          : ["/bin/node", "-e", `fs.writeFileSync("${path}", "")`];
      for (const path of ["/app/deno.json", "/app/main.js", "/app/new", "/new", "/bin/tini"]) {
        const denied = docker(["exec", container, ...attempt(path)]);
        await assert.rejects(denied, /EACCES|PermissionDenied/, path);
      }
      // The last is memory, where a probe keeps what it tells the next.
      for (const path of ["/app/data/new", "/data/new", "/dev/shm/new"]) {
        await docker(["exec", container, ...attempt(path)]);
      }
    }, "note");
  });

  test(`${target}: what is written in one mount is read in the other`, { skip }, async () => {
    for (const [first, second] of [MOUNTS, MOUNTS.toReversed()]) {
      const volume = `${NAME}-${target}-${MOUNTS.indexOf(first)}`;
      try {
        await withNote(target, volume, first, async (url) => {
          assert.equal((await fetch(url, { method: "PUT", body: `from ${first}` })).status, 204);
        });
        await withNote(target, volume, second, async (url) => {
          assert.equal(await (await fetch(url)).text(), `from ${first}`);
        });
      } finally {
        await docker(["volume", "rm", "--force", volume]);
      }
    }
  });
}
