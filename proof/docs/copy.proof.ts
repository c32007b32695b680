/**
 * Holds docs/copy.md: makes the archive of the project as it stands, starts a copy from it under Node.js and under Deno
 * by the very lines of the document, and takes a newer version. The archive is served on loopback; giget and the
 * packages come from the registry.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { dirname, resolve } from "node:path";
import process from "node:process";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { copyProject, denoPath, ROOT } from "../support/harness.ts";

const TIMEOUT_MS = 300_000;
const FILES_MAX = 27;
const LINES_MAX = 650;
const ADDRESS = "gh:your-team/heartbeat#v3.0.0";
const FOLDER = mkdtempSync(`${tmpdir()}/heartbeat-copy-`);
const UPSTREAM = `${FOLDER}/heartbeat`;
const [START, START_ON_DENO, RENAME, BEGIN, UPDATE] = [
  ...readFileSync(`${ROOT}/docs/copy.md`, "utf8").matchAll(/^```sh\n(.+?)\n```$/gms),
].map(([, commands]) => commands);

/** Runs shell commands, of which none may fail, as a user with an identity and no settings of the machine. */
async function shell(
  cwd: string,
  commands: string,
  more: Record<string, string> = {},
): Promise<string> {
  const identity = Object.fromEntries(
    ["AUTHOR", "COMMITTER"].flatMap((
      who,
    ) => [[`GIT_${who}_NAME`, "A user"], [`GIT_${who}_EMAIL`, "user@example.com"]]),
  );
  const git = { GIT_CONFIG_GLOBAL: "/dev/null", GIT_CONFIG_SYSTEM: "/dev/null" };
  // giget keeps what it fetched in the cache. On a terminal npx asks whether it may fetch giget.
  const tools = { XDG_CACHE_HOME: `${FOLDER}/cache`, npm_config_yes: "true", NO_COLOR: "1" };
  const env: NodeJS.ProcessEnv = { ...process.env, ...identity, ...git, ...tools, ...more };
  delete env.NODE_TEST_CONTEXT; // with it Node.js runs no test inside a test
  const { stdout, stderr } = await promisify(execFile)("bash", [
    "--norc",
    "-euo",
    "pipefail",
    "-c",
    commands,
  ], {
    cwd,
    env,
  });
  return stdout + stderr;
}

/** Replaces a text in a file, which must be there. */
function edit(folder: string, file: string, from: string | RegExp, to: string) {
  const text = readFileSync(`${folder}/${file}`, "utf8");
  assert.notEqual(text.search(from), -1, `${from} in ${file}`);
  writeFileSync(`${folder}/${file}`, text.replace(from, to));
}

/** The archive of the project as it stands here, committed or not: what a host gives of a tag. */
const archive = `${FOLDER}/heartbeat.tar.gz`;
/** The files of the archive, and where they lie unpacked. */
const copied = `${FOLDER}/archive`;
let files: string[] = [];
let url = "";
const server = createServer((request, response) => {
  response.writeHead(200, { "Content-Type": "application/gzip" });
  response.end(request.method === "HEAD" ? undefined : readFileSync(archive));
});

before(async () => {
  await shell(
    ROOT,
    `git add --all && git archive --prefix=heartbeat/ --output="${archive}" "$(git write-tree)"`,
    { GIT_INDEX_FILE: `${FOLDER}/index` },
  );
  mkdirSync(copied);
  await shell(copied, `tar -xzf "${archive}" --strip-components=1`);
  files = (await shell(copied, "find . -type f | sed 's#^./##' | sort")).trim().split("\n");
  await once(server.listen(0, "127.0.0.1"), "listening");
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/heartbeat.tar.gz`;
});
after(() => {
  server.close();
  rmSync(FOLDER, { recursive: true, force: true });
});

// ── The archive ──

test("a copy has few files, and none of ours", () => {
  assert.ok(files.length <= FILES_MAX, `${files.length} files: ${files}`);
  for (
    const own of [
      "main.ts",
      "main.test.ts",
      "data/.gitignore",
      "docs/copy.md",
      ".github/workflows/ci.yml",
    ]
  ) {
    assert.ok(files.includes(own), own);
  }
  const ours = /^(proof|\.ci)\/|^(CHANGELOG|CONTRIBUTING|LICENSE|\.gitattributes)|renovate|proof/;
  assert.deepEqual(files.filter((file) => ours.test(file)), []);
});

test("a copy has few lines beside main.ts, the locks and the documents", (t) => {
  const counted = files.filter((file) =>
    !/^(main\.ts|deno\.lock|package-lock\.json)$|\.(md|svg)$/.test(file)
  )
    .map((file) =>
      [file, readFileSync(`${copied}/${file}`, "utf8").split("\n").length - 1] as const
    );
  const lines = counted.reduce((sum, [, count]) => sum + count, 0);
  t.diagnostic(`${files.length} files, ${lines} lines beside main.ts, the locks and the documents`);
  assert.ok(
    lines <= LINES_MAX,
    `${lines} lines: ${counted.map((entry) => entry.join(" ")).join(", ")}`,
  );
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
      const there = to ? resolve(dirname(path), to) : path;
      assert.ok(existsSync(there) && statSync(there).isFile(), `${file} links to ${target}`);
      if (!anchor) continue;
      const anchors = [...text(there).matchAll(/^#+ (.+)$/gm)].map(([, heading]) =>
        anchorOf(heading)
      );
      assert.ok(anchors.includes(anchor), `${file} links to ${target}, which has ${anchors}`);
    }
  }
  assert.ok(count > 3, `only ${count} links`);
});

// ── The start ──

/** Runs a start of the document, with the archive's address in place of the host's. */
async function start(
  name: string,
  commands: string,
  env: Record<string, string> = {},
): Promise<string> {
  mkdirSync(`${FOLDER}/${name}`);
  assert.ok(commands.includes(ADDRESS), commands);
  await shell(`${FOLDER}/${name}`, commands.replace(ADDRESS, url), env);
  return `${FOLDER}/${name}/shop`;
}

/** What a copy holds before anything is installed. */
const filesOf = async (folder: string) =>
  (await shell(folder, "find . -name node_modules -prune -o -type f -print | sed 's#^./##' | sort"))
    .trim().split("\n");

test(
  "one line starts a copy on Deno, which is green as it comes",
  { timeout: TIMEOUT_MS },
  async () => {
    const env = { PATH: `${dirname(denoPath())}:/usr/bin:/bin` };
    const shop = await start("on-deno", START_ON_DENO, env);
    assert.deepEqual(await filesOf(shop), files);
    await shell(shop, "deno task check && deno task test", env);
  },
);

test(
  "one line starts a copy on Node.js, which is green and takes a newer version",
  { timeout: TIMEOUT_MS },
  async () => {
    const shop = await start("on-node", START);
    assert.deepEqual(await filesOf(shop), files);
    const read = (file: string) => readFileSync(`${shop}/${file}`, "utf8");
    assert.equal(JSON.parse(read("package.json")).name, "shop");
    await shell(shop, RENAME);
    assert.match(read("deploy/stack.yaml"), /^ {2}shop:$/m);
    await shell(shop, BEGIN);
    await shell(shop, "npm run check && npm test");
    assert.equal(
      await shell(shop, "git status --short"),
      "",
      "a test or a check left something behind",
    );

    // What the user writes: a route with a package, a second file, an address that it reaches.
    await shell(shop, "npm install --silent zod && npm run lock");
    writeFileSync(
      `${shop}/prices.ts`,
      "/** What things cost. */\nexport const prices = { tea: 3 };\n",
    );
    const route = `  const { prices } = await import("./prices.ts");
  const { z } = await import("zod");
  app.get("/prices/:name", (c) => c.json({ price: prices[z.literal("tea").parse(c.req.param("name"))] }));
`;
    edit(shop, "main.ts", /(?<=YOUR ROUTES BEGIN HERE.*\n)/, `\n${route}`);
    edit(
      shop,
      "Dockerfile",
      /(?<=ENTRYPOINT[^]*?--allow-net=[^"]*localhost)/,
      ",api.example.com:443",
    );
    await shell(shop, "npm run check && git add . && git commit --quiet --message ours");

    // What the next version changes: our part of main.ts, the base image, a package.
    copyProject(UPSTREAM);
    const commit = (message: string, tag: string) =>
      shell(UPSTREAM, `git add . && git commit --quiet --message ${message} && git tag ${tag}`);
    await shell(UPSTREAM, "git init --quiet");
    await commit("old", "v3.0.0");
    edit(
      UPSTREAM,
      "main.ts",
      /(?=\/\*\* Does what the arguments say)/,
      "// The next version was here.\n",
    );
    edit(UPSTREAM, "Dockerfile", /^ARG DENO_VERSION=.*$/m, "ARG DENO_VERSION=9.9.9");
    edit(UPSTREAM, "package.json", /"hono": "[\d.]+"/, `"hono": "4.13.18"`);
    await commit("new", "v3.1.0");

    const said = await shell(
      shop,
      UPDATE.replaceAll("https://github.com/your-team/heartbeat", UPSTREAM),
    );
    assert.doesNotMatch(said, /conflict/i);
    const main = read("main.ts");
    assert.ok(main.includes(route) && main.includes("// The next version was here."));
    assert.match(read("Dockerfile"), /^ARG DENO_VERSION=9\.9\.9$/m);
    assert.match(read("Dockerfile"), /ENTRYPOINT[^]*localhost,api\.example\.com:443"/);
    const { name, dependencies } = JSON.parse(read("package.json"));
    assert.equal(name, "shop");
    assert.equal(dependencies.hono, "4.13.18");
    assert.ok(dependencies.zod);
    for (const lock of ["package-lock.json", "deno.lock"]) {
      for (const name of ["zod", "hono"]) {
        assert.ok(read(lock).includes(name), `${name} in ${lock}`);
      }
    }
    assert.equal(await shell(shop, "git status --short"), "", "all of it is committed");
  },
);

// ── Tests and checks of the owner's ──

/** What a command that fails prints, whichever of its outputs it takes. */
const failure = async (folder: string, commands: string): Promise<string> => {
  const { stdout, stderr } = await shell(folder, commands).then(
    (said) => assert.fail(`it passed: ${said}`),
    (e) => e,
  );
  return `${stdout}${stderr}`;
};

test("npm test and npm run check see what the owner writes, wherever it lies", {
  timeout: TIMEOUT_MS,
}, async () => {
  const shop = `${FOLDER}/owner/shop`;
  await shell(
    FOLDER,
    `mkdir owner && cp -r archive owner/shop && cd owner/shop && npm ci && mkdir -p shop/parts`,
  );
  const own = `${shop}/shop/parts/routes.test.ts`;
  const write = (lines: string[]) =>
    writeFileSync(
      own,
      [
        'import assert from "node:assert/strict";',
        'import { test } from "node:test";',
        ...lines,
        "",
      ].join("\n"),
    );

  write(
    ["", "interface Item {", "  name: string;", "}", "", 'test("an item has a name", () => {']
      .concat(
        ['  const item: Item = { name: "tea" };', '  assert.equal(item.name, "tea");', "});"],
      ),
  );
  await shell(shop, "npm run check");
  for (const command of ["npm run test:node", "npm run test:deno"]) {
    assert.match(await shell(shop, command), /an item has a name/, command);
  }

  // A failure is red, and names the line as it was written.
  edit(shop, "shop/parts/routes.test.ts", 'item.name, "tea"', 'item.name, "coffee"');
  for (const command of ["npm test", "npm run test:node", "npm run test:deno"]) {
    assert.match(await failure(shop, command), /routes\.test\.ts:10:10/, command);
  }
  edit(shop, "shop/parts/routes.test.ts", 'item.name, "coffee"', 'item.name, "tea"');

  // A type error is red, for both compilers.
  edit(shop, "shop/parts/routes.test.ts", 'name: "tea" }', "name: 1 }");
  for (const command of ["npm run check", "deno task check", "npx tsc"]) {
    const said = await failure(shop, `PATH="$PWD/node_modules/.bin:$PATH"; ${command}`);
    assert.match(said, /routes\.test\.ts[:(]9\b/, command);
  }

  // The owner's own answer for / turns one expectation of the example red, and its message says which.
  edit(shop, "shop/parts/routes.test.ts", "name: 1 }", 'name: "tea" }');
  edit(shop, "main.ts", /app\.get\("\/", .+/, 'app.get("/", (c) => c.json({ shop: true }));');
  for (
    const [command, count] of [["npm run test:node", /fail 1$/m], [
      "npm run test:deno",
      / 1 failed/,
    ]] as const
  ) {
    const said = await failure(shop, command);
    assert.match(said, /The text expected here is the placeholder's: change it/, command);
    assert.match(said, count, command);
  }

  // A test that never ends is ended.
  write([
    "",
    'test("waits", async () => {',
    "  setInterval(() => {}, 1000);",
    "  await new Promise(() => {});",
    "});",
  ]);
  edit(shop, "package.json", "--test-timeout=60000", "--test-timeout=2000");
  edit(shop, "test-deadline.ts", "60_000", "2_000");
  assert.match(
    await failure(shop, "npm run test:node"),
    /routes\.test\.ts[^]*timed out after 2000ms/,
  );
  assert.match(await failure(shop, "npm run test:deno"), /^A test file took more than 2 s$/m);

  // No test at all is red.
  rmSync(own);
  rmSync(`${shop}/main.test.ts`);
  assert.match(await failure(shop, "npm test"), /^No \*\.test\.ts found$/m);
  await failure(shop, "npm run test:deno");
});
