/**
 * Run by `npm run test:image`: what both images hold and say of themselves, who may change it, and
 * the places that their log names.
 */
import assert from "node:assert/strict";
import { chmodSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { after, before, test } from "node:test";
import {
  build,
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
import { ROOT, withRoutesOf } from "../support/harness.ts";

const ROUTES = `
app.get("/throws", () => { throw new Error("boom"); });
const { addShop, seen } = await import("./shop/shop.ts");
addShop(app);
app.get("/seen", (c) => c.json(seen()));
`;
/** A second file, which imports values of main.ts: those must be the running service's own. */
const SHOP = `import { type App, readSettings } from "../main.ts";

export function addShop(app: App) {
  app.get("/shop", () => {
    throw new Error("closed");
  });
}

export const seen = () => readSettings((name) => name === "PORT" ? "4242" : undefined).port;
`;
const SHOP_LINE = 5;

/** How often the runtime's binary an image may weigh. Node.js has packages beside it. */
const RATIO_MAX: Record<Target, number> = { deno: 1.06, node: 1.07 };
const DENO_MAX_BYTES = 101e6;
const DENO_GZIPPED_MAX_BYTES = 44e6;

const source = withRoutesOf(readFileSync(`${ROOT}/main.ts`, "utf8"), ROUTES);

before(async () => {
  if (skip) return;
  const folder = buildFolder();
  try {
    mkdirSync(`${folder}/shop`);
    mkdirSync(`${folder}/static`);
    writeFileSync(`${folder}/main.ts`, source);
    writeFileSync(`${folder}/shop/shop.ts`, SHOP);
    writeFileSync(`${folder}/static/hello.txt`, "hello\n");
    // As a checkout under umask 077 leaves them.
    for (const file of ["deno.json", "static/hello.txt"]) chmodSync(`${folder}/${file}`, 0o600);
    chmodSync(`${folder}/static`, 0o700);
    for (const target of TARGETS) {
      await build(target);
      await buildFrom(folder, target, "shop");
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
}, { timeout: 600_000 });

after(async () => {
  if (!skip) await removeImages();
});

interface Entry {
  mode: string;
  owner: string;
  path: string;
}

/** What stands in the file system of an image, less what Docker itself puts there. */
async function listing(target: Target, variant = "plain"): Promise<Entry[]> {
  const container = await docker(["create", image(target, variant)]);
  try {
    const tar = `docker export ${container} | tar --list --verbose --numeric-owner`;
    const { stdout } = await run("sh", ["-c", tar]);
    const entries = stdout.trim().split("\n").map((line) => {
      const [mode, owner, , , , path] = line.split(/ +/);
      return { mode, owner, path };
    });
    const isDockers = /^(\.dockerenv|dev\/|etc\/(hostname|hosts|mtab|resolv\.conf)|proc|sys)/;
    return entries.filter(({ path }) => !isDockers.test(path));
  } finally {
    await docker(["rm", container]);
  }
}

for (const target of TARGETS) {
  test(`${target}: the image says how it is started, stopped and probed`, { skip }, async () => {
    const config = JSON.parse(
      await docker(["image", "inspect", "--format", "{{json .Config}}", image(target)]),
    );
    assert.equal(config.User, "65532:65532");
    assert.equal(config.WorkingDir, "/app");
    assert.equal(config.StopSignal, "SIGTERM");
    assert.deepEqual(Object.keys(config.ExposedPorts), ["8080/tcp"]);
    assert.deepEqual(config.Labels ?? {}, {}, "the workflow adds the labels of its owner");
    const seconds = (count: number) => count * 1e9;
    const { Test: probe, ...timing } = config.Healthcheck;
    assert.deepEqual(timing, {
      StartPeriod: seconds(2),
      StartInterval: seconds(1),
      Interval: seconds(10),
      Timeout: seconds(5),
      Retries: 3,
    });
    const runtime = `/bin/${target}`;
    const entry: string[] = config.Entrypoint;
    assert.deepEqual(entry.slice(0, 6), ["/bin/tini", "-s", "-e", "143", "--", runtime]);
    assert.equal(entry.at(-1), "/app/main.js");
    assert.deepEqual(entry.filter((word) => /^--(allow|deny|unstable)/.test(word)), []);
    assert.deepEqual(probe.slice(0, 2), ["CMD", runtime]);
    assert.deepEqual(probe.slice(-2), ["/app/main.js", "--ping"]);
  });

  test(`${target}: the image holds its runtime, what that needs and the service, and no more`, {
    skip,
  }, async () => {
    const files = (await listing(target)).map(({ path }) => path).filter((path) =>
      !path.endsWith("/")
    );
    const known = [
      /^bin\/(deno|node|tini)$/,
      /^app\/([\w-]+\.js(\.map)?|data)$/,
      target === "node" ? /^app\/(package\.json|node_modules\/(@hono\/node-server|hono)\/)/ : null,
      target === "deno" ? /^app\/deno\.json$/ : null,
      /^etc\/(passwd|ssl\/certs\/ca-certificates\.crt)$/,
      /^(usr\/)?lib(64|\/[\w-]+)?\/[\w.+-]+\.so[.\d]*$/,
    ];
    const isKnown = (path: string) => known.some((pattern) => pattern?.test(path));
    assert.deepEqual(files.filter((path) => !isKnown(path)), []);
    for (const file of ["app/main.js", "app/main.js.map", "app/data", "bin/tini"]) {
      assert.ok(files.includes(file), `${file} is missing`);
    }
  });

  test(`${target}: the image weighs little more than its runtime`, { skip }, async (t) => {
    const container = await docker(["create", image(target)]);
    try {
      const binary = `docker cp ${container}:/bin/${target} - | tar -xO | wc -c`;
      const runtimeBytes = Number((await run("sh", ["-c", binary])).stdout);
      const format = ["--format", "{{.Size}}"];
      const bytes = Number(await docker(["image", "inspect", ...format, image(target)]));
      const ratio = bytes / runtimeBytes;
      const saved = await run("sh", ["-c", `docker save ${image(target)} | gzip | wc -c`]);
      const gzippedBytes = Number(saved.stdout);
      const mb = (count: number) => (count / 1e6).toFixed(1);
      say(t, `${mb(bytes)} MB, ${mb(gzippedBytes)} MB gzipped, ${ratio.toFixed(3)} of its runtime`);
      assert.ok(ratio <= RATIO_MAX[target], `${ratio} times the runtime's binary`);
      if (target === "deno") {
        assert.ok(bytes <= DENO_MAX_BYTES, `${bytes} bytes`);
        assert.ok(gzippedBytes <= DENO_GZIPPED_MAX_BYTES, `${gzippedBytes} bytes gzipped`);
      }
    } finally {
      await docker(["rm", container]);
    }
  });

  test(`${target}: every user can read all, and write to the volume alone, whatever the umask`, {
    skip,
  }, async () => {
    const entries = await listing(target, "shop");
    assert.ok(entries.some(({ path }) => path === "app/static/hello.txt"));
    for (const { mode, owner, path } of entries) {
      assert.equal(owner, "0/0", `${path} belongs to ${owner}`);
      assert.match(mode, /^(l|-r..r..r|dr.xr.xr.[xt])/, `${path} cannot be read: ${mode}`);
      const isWritable = !mode.startsWith("l") && (mode[5] === "w" || mode[8] === "w");
      assert.equal(isWritable, path === "data/", `${path}: ${mode}`);
    }
    const config = entries.find(({ path }) => path === "app/deno.json");
    assert.equal(config?.mode, target === "deno" ? "-rw-r--r--" : undefined);
  });

  test(`${target}: what a route throws is logged with its line in the source`, {
    skip,
  }, async () => {
    const flags = ["--publish", "127.0.0.1::8080", ...LOCKED];
    await withContainer(target, flags, async (container) => {
      await health(container, "healthy");
      const url = `http://127.0.0.1:${await published(container)}`;
      assert.equal((await fetch(`${url}/throws`)).status, 500);
      assert.equal((await fetch(`${url}/shop`)).status, 500);
      assert.equal(await (await fetch(`${url}/seen`)).json(), 4242);
      const { stdout, stderr } = await run("docker", ["logs", container]);
      const line = source.split("\n").findIndex((text) => text.includes('"/throws"')) + 1;
      assert.match(stderr, new RegExp(`"stack":" +at [^\\\\]*/main\\.ts:${line}:`));
      assert.match(stderr, new RegExp(`"stack":" +at [^\\\\]*/shop/shop\\.ts:${SHOP_LINE}:`));
      assert.equal(stdout.match(/Listening on/g)?.length, 1, "main.ts ran once");
    }, "shop");
  });
}

test("a target needs no image of the other runtime", { skip }, async () => {
  const folder = buildFolder();
  try {
    for (const [target, other] of [TARGETS, TARGETS.toReversed()]) {
      const unknown = ["--build-arg", `${other.toUpperCase()}_VERSION=0.0.0`];
      await buildFrom(folder, target, "alone", unknown);
      await assert.rejects(buildFrom(folder, other, "none", unknown), /:0\.0\.0/);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});

test("a change in main.ts alone rebuilds in seconds", { skip }, async (t) => {
  for (const target of TARGETS) {
    const changed = readFileSync(`${ROOT}/main.ts`, "utf8").replace(
      "replace this",
      `${target}: replace this`,
    );
    const startMs = performance.now();
    await build(target, "again", changed);
    say(t, `${target}: ${(performance.now() - startMs).toFixed()} ms`);
    assert.ok(performance.now() - startMs < 20_000);
  }
});
