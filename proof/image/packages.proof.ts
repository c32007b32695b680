/**
 * Run by `npm run test:image`: packages with native parts, and packages of a private registry.
 */
import assert from "node:assert/strict";
import { createHash, randomUUID } from "node:crypto";
import { once } from "node:events";
import {
  appendFileSync,
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import process from "node:process";
import { after, test } from "node:test";
import { parse } from "yaml";
import {
  buildFolder,
  buildFrom,
  docker,
  health,
  image,
  LOCKED,
  published,
  removeImages,
  run,
  say,
  skip,
  type Target,
  TARGETS,
  withContainer,
} from "../support/engine.ts";
import { denoPath, ROOT, withRoutesOf } from "../support/harness.ts";

const FOLDER = mkdtempSync(`${tmpdir()}/heartbeat-packages-`);

after(async () => {
  rmSync(FOLDER, { recursive: true });
  if (!skip) await removeImages();
});

/** Adds packages to a folder's package.json and both locks, as `npm install` does, and routes. */
async function addPackages(folder: string, packages: string[], routes: string, home: string) {
  const main = readFileSync(`${folder}/main.ts`, "utf8");
  writeFileSync(`${folder}/main.ts`, withRoutesOf(main, routes));
  const options = {
    cwd: folder,
    env: { ...process.env, HOME: home, npm_config_userconfig: `${home}/.npmrc` },
  };
  const flags = ["--package-lock-only", "--ignore-scripts", "--no-audit", "--no-fund"];
  // `npm install` looks at the development tools, too.
  mkdirSync(`${folder}/tools`);
  writeFileSync(`${folder}/tools/package.json`, '{ "name": "tools" }');
  await run("npm", ["install", ...flags, ...packages], options);
  await run(denoPath(), ["install", "--quiet", "--lockfile-only"], options);
}

/** Shows what a failed step printed, each line after the step's number and time. */
const SHOWN = ["--quiet=false", "--progress=plain"];

// ── Native parts ──

const NATIVE_ROUTES = `
const { hash, verify } = await import("@node-rs/argon2");
const { default: bcrypt } = await import("bcrypt");
const { default: sharp } = await import("sharp");
app.get("/argon2", async (c) => c.json(await verify(await hash("tea"), "tea")));
app.get("/bcrypt", async (c) => c.json(await bcrypt.compare("tea", await bcrypt.hash("tea", 4))));
app.get("/sharp", async (c) => {
  const create = { width: 9, height: 9, channels: 3 as const, background: "red" };
  return c.json((await sharp({ create }).png().toBuffer()).subarray(1, 4).toString());
});
`;

test("node: packages with native parts work in the locked-down image", { skip }, async (t) => {
  const folder = buildFolder();
  try {
    // bcrypt brings its parts for all platforms.
    const packages = ["@node-rs/argon2", "bcrypt", "sharp"];
    await addPackages(folder, packages, NATIVE_ROUTES, FOLDER);
    await buildFrom(folder, "node", "native");
  } finally {
    rmSync(folder, { recursive: true });
  }
  const flags = [...LOCKED, "--publish", "127.0.0.1::8080"];
  await withContainer("node", flags, async (container) => {
    await health(container, "healthy");
    const url = `http://127.0.0.1:${await published(container)}`;
    assert.equal(await (await fetch(`${url}/argon2`)).json(), true);
    assert.equal(await (await fetch(`${url}/bcrypt`)).json(), true);
    assert.equal(await (await fetch(`${url}/sharp`)).json(), "PNG");
  }, "native");
  const format = ["--format", "{{.Size}}"];
  const bytes = Number(await docker(["image", "inspect", ...format, image("node", "native")]));
  say(t, `${(bytes / 1e6).toFixed(1)} MB with argon2, bcrypt and sharp`);
});

test("deno: the build tells that a package with native parts needs Node.js", {
  skip,
}, async () => {
  const folder = buildFolder();
  try {
    const routes = 'app.get("/", async () => void await import("@node-rs/argon2"));';
    await addPackages(folder, ["@node-rs/argon2"], routes, FOLDER);
    const hint = /^#\d+ [\d.]+ .*Native parts need --target node/m;
    await assert.rejects(buildFrom(folder, "deno", "native", SHOWN), hint);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("deno: sharp builds and fails at the start, whatever permissions it has", {
  skip,
}, async () => {
  const folder = buildFolder();
  try {
    await addPackages(folder, ["sharp"], 'await import("sharp");', FOLDER);
    const config = JSON.parse(readFileSync(`${folder}/deno.json`, "utf8"));
    config.permissions.default = { all: true };
    writeFileSync(`${folder}/deno.json`, JSON.stringify(config));
    await buildFrom(folder, "deno", "sharp");
  } finally {
    rmSync(folder, { recursive: true });
  }
  const start = run("docker", ["run", "--rm", ...LOCKED, image("deno", "sharp")]);
  await assert.rejects(
    start,
    /"during":"addRoutes\(\)","error":"Error: Could not load the \\"sharp\\" module/,
  );
});

test("deno: the build tells that deno.lock is behind", { skip }, async () => {
  const folder = buildFolder();
  try {
    const manifest = `${folder}/package.json`;
    const { dependencies, ...rest } = JSON.parse(readFileSync(manifest, "utf8"));
    dependencies.zod = "4.6.7";
    writeFileSync(manifest, JSON.stringify({ ...rest, dependencies }));
    const hint = /lockfile is out of date[^]*^#\d+ [\d.]+ .*npm run dependencies/m;
    await assert.rejects(buildFrom(folder, "deno", "behind", SHOWN), hint);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

// ── A private registry ──

const TOKEN = "a-token-that-no-image-holds";
const TEA = { name: "@acme/tea", version: "1.2.3", type: "module", exports: "./index.js" };

/** New each time, because npm takes an archive that its cache knows without asking for it. */
const TEA_TEXT = `earl grey ${randomUUID()}`;

/** A registry with one package, which it gives to nobody without TOKEN. */
async function withRegistry(body: (address: string) => Promise<void>) {
  const source = mkdtempSync(`${FOLDER}/tea-`);
  writeFileSync(`${source}/package.json`, JSON.stringify(TEA));
  writeFileSync(`${source}/index.js`, `export const tea = ${JSON.stringify(TEA_TEXT)};\n`);
  const { stdout } = await run("npm", ["pack", "--silent"], { cwd: source });
  const archive = readFileSync(`${source}/${stdout.trim()}`);
  const integrity = `sha512-${createHash("sha512").update(archive).digest("base64")}`;
  const server = createServer(({ headers, url = "" }, response) => {
    const isAllowed = headers.authorization === `Bearer ${TOKEN}`;
    const isKnown = /^\/@acme(%2f|\/)tea(\/.*\.tgz)?$/i.test(url);
    if (!isAllowed || !isKnown) return response.writeHead(isAllowed ? 404 : 401).end("{}");
    if (url.endsWith(".tgz")) return response.end(archive);
    const dist = { integrity, tarball: `http://${headers.host}/@acme/tea/tea.tgz` };
    const versions = { [TEA.version]: { ...TEA, dist } };
    const tags = { latest: TEA.version };
    response.setHeader("Content-Type", "application/json");
    response.end(JSON.stringify({ name: TEA.name, "dist-tags": tags, versions }));
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  try {
    await body(`127.0.0.1:${(server.address() as AddressInfo).port}`);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

/** In how many lines of an image and its history a text stands. Layers are saved uncompressed. */
async function occurrences(name: string, text: string): Promise<number> {
  const saved = `docker save ${name}; docker history --no-trunc ${name}`;
  const { stdout } = await run("sh", ["-c", `{ ${saved}; } | grep --text --count '${text}' || :`]);
  return Number(stdout);
}

/** What docs/containers.md says of a private registry. */
const DOCUMENT = readFileSync(`${ROOT}/docs/containers.md`, "utf8");
const SETTINGS = /^```ini\n# \.npmrc\n(.+)\n# ~\/\.npmrc\n(.+)\n```$/m.exec(DOCUMENT)!;
const COMMAND = /^docker build --secret .+$/m.exec(DOCUMENT)![0];
const COMPOSE = /^```yaml\n# compose\.yaml\n([^`]+build:\n +secrets:[^`]+)```$/m.exec(DOCUMENT)![1];

const CI_STEP = /^```yaml\n# \.github\/workflows\/ci\.yml\n([^`]+)```$/m.exec(DOCUMENT)![1];

/** A folder and a home with the two files of the document, and a package of the registry. */
async function teaFolder(address: string, home: string): Promise<string> {
  const folder = buildFolder(FOLDER);
  const [project, own] = SETTINGS.slice(1).map((line) =>
    line.replace("https:", "http:").replace("npm.acme.example", address).replace("the-token", TOKEN)
  );
  appendFileSync(`${folder}/.npmrc`, `${project}\n`);
  writeFileSync(`${home}/.npmrc`, `${own}\n`);
  const routes = `
const { tea } = await import("@acme/tea");
app.get("/tea", (c) => c.text(tea));
`;
  await addPackages(folder, [TEA.name], routes, home);
  return folder;
}

/** Fails if an image holds anything of the registry, or does not serve what came from there. */
async function assertTea(target: Target, address: string) {
  const name = image(target, "tea");
  assert.ok(await occurrences(name, TEA_TEXT) > 0, "the search finds what is there");
  assert.equal(await occurrences(name, TOKEN), 0, `${name} holds the token`);
  assert.equal(await occurrences(name, address), 0, `${name} holds the address`);
  const flags = [...LOCKED, "--publish", "127.0.0.1::8080"];
  await withContainer(target, flags, async (container) => {
    await health(container, "healthy");
    const response = await fetch(`http://127.0.0.1:${await published(container)}/tea`);
    assert.equal(await response.text(), TEA_TEXT);
  }, "tea");
}

test("both: a secret opens a private registry, and no image holds any of it", {
  skip,
}, async () => {
  const home = `${FOLDER}/home`;
  mkdirSync(home);
  await withRegistry(async (address) => {
    const folder = await teaFolder(address, home);
    for (const target of TARGETS) {
      const network = ["--network", "host"];
      const without = buildFrom(folder, target, "tea", [...network, ...SHOWN]);
      // Deno says no more than that a module is missing. The Dockerfile names the reasons.
      await assert.rejects(without, /401 Unauthorized|^#\d+ [\d.]+ .*private registry --secret/m);
      const flags = `--quiet ${network.join(" ")} --target ${target}`;
      const command = COMMAND.replace("--tag heartbeat", `--tag ${image(target, "tea")} ${flags}`);
      await run("sh", ["-c", command], { cwd: folder, env: { ...process.env, HOME: home } });
      await assertTea(target, address);
    }
  });
});

test("compose.yaml takes the secret, and builds the target that TARGET names", {
  skip,
}, async () => {
  const home = `${FOLDER}/composed`;
  mkdirSync(home);
  await withRegistry(async (address) => {
    const folder = await teaFolder(address, home);
    cpSync(`${ROOT}/compose.yaml`, `${folder}/compose.yaml`);
    const override = COMPOSE.replace(/( +)(secrets: \[)/, "$1network: host\n$1$2");
    writeFileSync(`${folder}/compose.override.yaml`, override);
    for (const target of TARGETS) {
      const variables = { HOME: home, TARGET: target, IMAGE: image(target, "tea") };
      const options = { cwd: folder, env: { ...process.env, ...variables } };
      await run("docker", ["compose", "build", "--quiet"], options);
      await assertTea(target, address);
    }
  });
});

test("deno: a copy for Deno alone keeps the private registry", { skip }, async () => {
  const home = `${FOLDER}/alone`;
  mkdirSync(home);
  await withRegistry(async (address) => {
    const folder = await teaFolder(address, home);
    cpSync(`${ROOT}/tools/only.mjs`, `${folder}/tools/only.mjs`);
    const options = { cwd: folder, env: { ...process.env, HOME: home } };
    await run(denoPath(), ["run", "-A", "tools/only.mjs", "deno"], options);
    const { imports } = JSON.parse(readFileSync(`${folder}/deno.json`, "utf8"));
    assert.equal(imports[TEA.name], `npm:${TEA.name}@${TEA.version}`);
    const tag = `--tag ${image("deno", "tea")} --quiet --network host`;
    await run("sh", ["-c", COMMAND.replace("--tag heartbeat", tag)], options);
    await assertTea("deno", address);
  });
});

test("the step of ci.yml writes the file that has the token", async () => {
  const home = `${FOLDER}/ci`;
  mkdirSync(home);
  const [step] = parse(CI_STEP);
  assert.deepEqual(step.env, { NPM_TOKEN: "${{ secrets.NPM_TOKEN }}" });
  await run("sh", ["-c", step.run], { env: { HOME: home, NPM_TOKEN: "the-token" } });
  assert.equal(readFileSync(`${home}/.npmrc`, "utf8"), `${SETTINGS[2]}\n`);
});
