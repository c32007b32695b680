/**
 * Holds that a copy for both runtimes, for Node.js alone and for Deno alone is first class: starts
 * each by the lines of the README on a machine that has no other runtime, and does what an owner
 * does with it on the first day.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { appendFileSync, readFileSync, writeFileSync } from "node:fs";
import process from "node:process";
import { after, before, test } from "node:test";
import { parse } from "yaml";
import {
  blocks,
  edit,
  failure,
  filesOf,
  FOLDER,
  type Kind,
  KINDS,
  packageCommands,
  pathWith,
  removeCopies,
  serveArchive,
  shell,
  startCopy,
  unpackArchive,
} from "../support/copies.ts";
import { docker, skip } from "../support/engine.ts";
import { freePort } from "../support/harness.ts";

const TIMEOUT_MS = 300_000;
const START_LIMIT_MS = 60_000;
/** What an owner upgrades from. Any version that is older than the newest does. */
const OLD_HONO = "4.13.17";
/** The README's lines that make a copy, without the last, which starts it. */
const [START, START_ON_DENO] = blocks("Start", "README.md").map((text) =>
  text.replace(/\n.*$/, "")
);
const [BEGIN] = blocks("Start");
const [ONLY_NODE, ONLY_DENO] = blocks("One runtime");

/** A route that uses a package, and what it answers. */
interface Use {
  package: string;
  route: string;
  answer: RegExp;
}

const ZOD: Use = {
  package: "zod",
  route: `
  const { z } = await import("zod");
  app.get("/used", (c) => c.text(z.string().parse("checked by zod")));
`,
  answer: /^checked by zod$/,
};
/** Has native parts. */
const ARGON2: Use = {
  package: "@node-rs/argon2",
  route: `
  const { hash } = await import("@node-rs/argon2");
  app.get("/used", async (c) => c.text(await hash("tea")));
`,
  answer: /^\$argon2id\$/,
};

/** What an owner of a kind types, and what their copy lacks. */
const COPIES = {
  both: {
    start: START,
    only: undefined,
    run: (script: string) => `npm run --silent ${script}`,
    manager: "npm",
    lacks: /^$/,
    runtime: "/bin/deno",
    use: ZOD,
    old: `npm install hono@${OLD_HONO}`,
  },
  node: {
    start: START,
    only: ONLY_NODE,
    run: (script: string) => `npm run --silent ${script}`,
    manager: "npm",
    lacks: /^(deno\.|test-deadline|tools\/(only|dependencies))/,
    runtime: "/bin/node",
    use: ARGON2,
    old: `npm install hono@${OLD_HONO}`,
  },
  deno: {
    start: START_ON_DENO,
    only: ONLY_DENO,
    run: (script: string) => `deno task --quiet --frozen ${script}`,
    manager: "deno",
    lacks: /^(package|tsconfig|\.npmrc|exec|tools\/)/,
    runtime: "/bin/deno",
    use: ZOD,
    old: `deno add --save-exact npm:hono@${OLD_HONO}`,
  },
} as const satisfies Record<Kind, unknown>;

before(serveArchive);
after(removeCopies);

/** Makes a function do its work at the first call alone, because each test may run alone. */
function once(work: () => Promise<void>): () => Promise<void> {
  let done: Promise<void> | undefined;
  return () => {
    done ??= work();
    return done;
  };
}

/** Starts a command of the owner's in a process group, which ends with the body. */
async function withCommand(
  shop: string,
  command: string,
  env: Record<string, string>,
  body: (stop: () => Promise<number | null>) => Promise<void>,
) {
  const child = spawn("sh", ["-c", `exec ${command}`], {
    cwd: shop,
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "inherit"],
    detached: true,
  });
  const exit = new Promise<number | null>((resolve) => child.once("exit", resolve));
  const timer = setTimeout(() => process.kill(-child.pid!, "SIGKILL"), START_LIMIT_MS);
  let printed = "";
  try {
    for await (const chunk of child.stdout!) {
      printed += chunk;
      if (printed.includes("Listening on ")) break;
    }
    assert.match(printed, /Listening on /, command);
    child.stdout!.resume();
    await body(() => {
      process.kill(child.pid!, "SIGTERM");
      return exit;
    });
  } finally {
    clearTimeout(timer);
    try {
      process.kill(-child.pid!, "SIGKILL");
    } catch { /* all of them have ended */ }
  }
}

test("deno: only-deno takes the owner's packages and registry along", {
  timeout: TIMEOUT_MS,
}, async () => {
  const shop = `${FOLDER}/packages`;
  await unpackArchive(shop);
  const npm = { PATH: pathWith("both") };
  const { dependencies } = JSON.parse(readFileSync(`${shop}/package.json`, "utf8"));
  await shell(shop, `npm install --package-lock-only --ignore-scripts hono@${OLD_HONO}`, npm);
  const manifest = JSON.parse(readFileSync(`${shop}/package.json`, "utf8"));
  manifest.dependencies.hono = "^4.0.0"; // npm's lock has an exact version
  manifest.devDependencies["@types/ws"] = "^8.18.2"; // npm's lock has none
  manifest.optionalDependencies.zod = "4.6.7";
  writeFileSync(`${shop}/package.json`, JSON.stringify(manifest));
  const imports = '"imports": { "@shop/": "./shop/", "zod": "npm:zod@4.5.0" }';
  edit(shop, "deno.json", /^{\n/, `// Ours.\n{ ${imports},\n`);
  const registry = "@acme:registry=https://npm.acme.example/\n";
  appendFileSync(`${shop}/.npmrc`, registry);
  await shell(shop, `${ONLY_DENO} && deno fmt --check`, { PATH: pathWith("deno") });
  const [, text] = readFileSync(`${shop}/deno.json`, "utf8").split("// Ours.\n");
  assert.deepEqual(JSON.parse(text).imports, {
    "@hono/node-server": `npm:@hono/node-server@${dependencies["@hono/node-server"]}`,
    "@shop/": "./shop/",
    "@types/ws": "npm:@types/ws@8.18.2",
    hono: `npm:hono@${OLD_HONO}`,
    zod: "npm:zod@4.5.0", // Deno's is the one that ran
  });
  assert.equal(readFileSync(`${shop}/.npmrc`, "utf8"), registry);
});

/** The memory that deploy/kubernetes.yaml says: of the image that `docker build .` makes. */
const MEMORY = { both: ["48Mi", "96Mi"], node: ["72Mi", "128Mi"], deno: ["48Mi", "96Mi"] };

/** Fails if a file of the copy has the other runtime's values, or names its commands. */
function assertOneRuntime(shop: string, kind: Kind) {
  const read = (file: string) => readFileSync(`${shop}/${file}`, "utf8");
  const kubernetes = read("deploy/kubernetes.yaml");
  const memory = [...kubernetes.matchAll(/memory: (\w+)/g)].map(([, value]) => value);
  assert.deepEqual(memory, MEMORY[kind]);
  assert.equal(/For Node\.js write/.test(kubernetes), kind === "both");
  // Deno's stages stay in a copy for Node.js alone.
  const [head, stages] = read("Dockerfile").split("# ════════ Deno ════════");
  const example = read("main.test.ts");
  assert.equal(/--target/.test(head), kind === "both");
  assert.equal(/npm run|--target/.test(stages), kind !== "deno");
  assert.equal(/"Deno" in globalThis/.test(example), kind === "both");
  assert.equal(/npm test/.test(example), kind !== "deno");
  assert.equal(/deno task/.test(example), kind !== "node");
}

/** The managers of packages that Renovate runs in a copy of each kind. */
const MANAGERS = { both: ["npm", "deno"], node: ["npm"], deno: ["deno"] };

for (const kind of KINDS) {
  const { start, only, run, lacks, manager, runtime, use, old } = COPIES[kind];
  const shop = `${FOLDER}/${kind}/shop`;
  const path = () => ({ PATH: pathWith(kind) });
  const manifest = manager === "npm" ? "package.json" : "deno.json";

  const make = once(async () => {
    await startCopy(kind, start, path());
    await shell(shop, BEGIN, path());
    if (only) await shell(shop, only, path());
  });
  const addPackage = once(async () => {
    await make();
    await shell(shop, packageCommands("Add")[manager].replace("zod", use.package), path());
    edit(shop, "main.ts", /(?<=YOUR ROUTES BEGIN HERE.*\n)/, use.route);
  });

  test(`${kind}: the page's lines make a copy that is green`, { timeout: TIMEOUT_MS }, async () => {
    await make();
    const files = await filesOf(shop);
    assert.deepEqual(files.filter((file) => lacks.test(file)), []);
    assertOneRuntime(shop, kind);
    const workflows = ["ci", "heartbeat"].map((name) =>
      readFileSync(`${shop}/.github/workflows/${name}.yml`, "utf8")
    ).join("");
    assert.equal(/setup-deno/.test(workflows), kind !== "node");
    assert.equal(/setup-node|npm/.test(workflows), kind !== "deno");
    await shell(shop, "git add . && git commit --quiet --allow-empty --message kind", path());
    await shell(shop, `${run("check")} && ${run("test")}`, path());
    assert.equal(await shell(shop, "git status --short"), "", "it left something behind");
  });

  test(`${kind}: Renovate moves its packages, actions and images, and Deno as one`, {
    timeout: TIMEOUT_MS,
  }, async () => {
    await make();
    const renovate = JSON.parse(readFileSync(`${shop}/.github/renovate.json`, "utf8"));
    assert.deepEqual(renovate.enabledManagers, [
      ...MANAGERS[kind],
      "github-actions",
      "docker-compose",
      "custom.regex",
    ]);
    const isDeno = ({ groupName }: { groupName: string }) => groupName === "Deno";
    const [rule, ...others] = renovate.packageRules.filter(isDeno);
    assert.deepEqual(rule.matchPackageNames, ["deno", "denoland/deno", "@types/deno"]);
    assert.deepEqual(others, []);
  });

  test(`${kind}: ci.yml has its runtimes alone, and sees a stale lock`, {
    timeout: TIMEOUT_MS,
  }, async () => {
    await make();
    const { jobs } = parse(readFileSync(`${shop}/.github/workflows/ci.yml`, "utf8"));
    const runtimes = kind === "both" ? ["deno", "node"] : [kind];
    assert.deepEqual(Object.keys(jobs).toSorted(), [...runtimes, "image", "publish"].toSorted());
    assert.deepEqual(jobs.publish.needs.toSorted(), [...runtimes, "image"].toSorted());
    assert.deepEqual(jobs.image.strategy.matrix.target, runtimes);
    const published = runtimes.map((target, index) => ({ target, suffix: index ? "-node" : "" }));
    assert.deepEqual(jobs.publish.strategy.matrix.include, published);
    for (const runtime of runtimes) {
      const lines: string[] = jobs[runtime].steps.flatMap(({ run }: { run?: string }) => run ?? []);
      const sed = lines.find((line) => line.startsWith("sed ")) ?? assert.fail(`${lines}`);
      const outputs = { GITHUB_OUTPUT: `${FOLDER}/output` };
      const said = await shell(shop, `>"$GITHUB_OUTPUT"; ${sed}; cat "$GITHUB_OUTPUT"`, outputs);
      const [, version] = new RegExp(`^ARG ${runtime.toUpperCase()}_VERSION=(.+)$`, "m")
        .exec(readFileSync(`${shop}/Dockerfile`, "utf8"))!;
      assert.equal(said, `version=${version}\n`);
      // The lock is behind the manifest.
      const install = lines.find((line) => /npm ci|task .*check/.test(line))!;
      const kept = readFileSync(`${shop}/${manifest}`);
      edit(shop, manifest, /("hono": "\D*)[\d.]+/, `$1${OLD_HONO}`);
      const env = { PATH: pathWith(runtime as Kind), CI: "true" };
      assert.match(await failure(shop, install, env), /in sync|lockfile is out of date/);
      writeFileSync(`${shop}/${manifest}`, kept);
    }
  });

  test(`${kind}: it starts, answers, proves its health and stops`, {
    timeout: TIMEOUT_MS,
  }, async () => {
    await make();
    const env = { ...path(), PORT: `${await freePort()}`, HOST: "127.0.0.1" };
    await withCommand(shop, run("start"), env, async (stop) => {
      assert.match(await shell(shop, run("ping"), env), /^healthy: /m);
      assert.equal(await stop(), 0);
    });
    await withCommand(shop, run("dev"), env, async () => {
      assert.match(await shell(shop, run("ping"), env), /^healthy: /m);
    });
  });

  test(`${kind}: a package is added and Hono is upgraded`, { timeout: TIMEOUT_MS }, async () => {
    const version = () =>
      /"hono": "[^\d]*([\d.]+)"/.exec(readFileSync(`${shop}/${manifest}`, "utf8"))?.[1] ??
        assert.fail(`no Hono in ${manifest}`);
    await addPackage();
    await shell(shop, old, path());
    assert.equal(version(), OLD_HONO);
    await shell(shop, packageCommands("Upgrade")[manager], path());
    assert.notEqual(version(), OLD_HONO);
    await shell(shop, `${run("check")} && ${run("test")}`, path());
  });

  test(`${kind}: docker build and compose mean its runtime`, {
    skip,
    timeout: TIMEOUT_MS,
  }, async () => {
    await addPackage();
    const image = (await shell(shop, "docker build --quiet .")).trim();
    const entry = await docker(["inspect", "--format", "{{json .Config.Entrypoint}}", image]);
    assert.ok(JSON.parse(entry).includes(runtime), entry);
    const port = await freePort();
    const project = `heartbeat-${kind}-${process.pid}`;
    const env = { COMPOSE_PROJECT_NAME: project, PUBLISHED_PORT: `${port}` };
    try {
      await shell(shop, "docker compose up --build --wait", env);
      const answer = await fetch(`http://127.0.0.1:${port}/used`);
      assert.match(await answer.text(), use.answer);
    } finally {
      await shell(shop, "docker compose down --volumes --rmi local", env);
      await docker(["image", "rm", "--force", image]).catch(() => {}); // compose may have had it
    }
  });
}
