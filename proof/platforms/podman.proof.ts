/**
 * Runs both images on Podman, locked down: the health check is kept, a wedged container is ended
 * and started again, and a stop lets a request in flight finish. Builds both there, too. Without
 * Podman it skips, and says so; in CI that is a failure.
 *
 *     node --import tsx --test proof/platforms/podman.proof.ts
 */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import { after, before, test } from "node:test";
import {
  buildFolder,
  buildFrom,
  docker,
  image,
  NAME,
  onHostNetwork,
  removeImages,
  run,
  say,
  skip,
  TARGETS,
} from "../support/engine.ts";
import { Client, missing, ROOT, until, withRoutesOf } from "../support/harness.ts";

const ROUTES = `
let started = 0;
app.get("/slow", async (c) => { started++; await sleep(1500); return c.text("whole"); });
app.get("/started", (c) => c.text(String(started)));
const { readFileSync, writeFileSync } = await import("node:fs");
app.put("/note", async (c) => {
  writeFileSync("data/note", await c.req.text());
  return c.body(null, 204);
});
app.get("/note", (c) => c.text(readFileSync("data/note", "utf8")));
`;
const LOCKED = ["--read-only", "--cap-drop", "all", "--security-opt", "no-new-privileges"];
/** Podman's defaults lie above the hard limits of some machines, where no container would start. */
const LIMITS = ["--ulimit", "nofile=20000:20000", "--ulimit", "nproc=4096:4096"];
const HEALING = [
  "--restart",
  "always",
  "--env",
  "HEAL_AFTER_MS=1000",
  "--env",
  "PING_TIMEOUT_MS=500",
];
/** Three failures turn it unhealthy; the fourth probe ends it. */
const PROBES_MOST = 4;
const START_PERIOD_MS = 2000;

/** Runs podman and returns its standard output; throws with its standard error. */
async function podman(...args: string[]): Promise<string> {
  const env = { ...process.env };
  delete env.DOCKER_CONFIG; // Podman fails if it names a folder without a config.json
  return (await run("podman", args, { env, maxBuffer: 1 << 28 })).stdout.trim();
}

const hasPodman = await podman("version").then(() => true, () => false);
const skipped = skip ||
  (!hasPodman && missing("no `podman version` answers, so nothing is tested on Podman"));
const podmanImage = (target: typeof TARGETS[number]) => `localhost/${image(target, "routes")}`;

before(async () => {
  if (skipped) return;
  const folder = mkdtempSync(`${tmpdir()}/podman-`);
  try {
    const source = buildFolder(folder);
    const config = readFileSync(`${source}/deno.json`, "utf8");
    const permitted = config.replace('["static"]', '["static", "data"], "write": ["data"]');
    assert.notEqual(permitted, config);
    writeFileSync(`${source}/deno.json`, permitted);
    const main = withRoutesOf(readFileSync(`${ROOT}/main.ts`, "utf8"), ROUTES);
    writeFileSync(`${source}/main.ts`, main);
    for (const target of TARGETS) {
      await buildFrom(source, target, "routes");
      const archive = `${folder}/${target}.tar`;
      await docker(["save", "--output", archive, image(target, "routes")]);
      // Not `podman load`: Docker's archive is an OCI one too, and Podman would take that one,
      // without the health check.
      await podman("pull", "--quiet", `docker-archive:${archive}`);
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
}, { timeout: 300_000 });

after(async () => {
  if (skipped) return;
  await podman("rmi", "--force", ...TARGETS.map(podmanImage));
  await removeImages();
});

interface State {
  Status: string;
  ExitCode: number;
  StartedAt: string;
  Health: { Status: string; FailingStreak: number; Log: { Output: string }[] };
}

const inspect = async (container: string): Promise<State & { RestartCount: number }> => {
  const [{ State, RestartCount }] = JSON.parse(await podman("container", "inspect", container));
  return { ...State, RestartCount };
};

/** Runs the health check as Podman's timer would; true if it passed. */
const isHealthy = (container: string) =>
  podman("healthcheck", "run", container).then(() => true, () => false);

/** Starts a container and removes it after, whatever happens. */
async function withContainer(
  target: typeof TARGETS[number],
  flags: string[],
  body: (container: string, port: number) => Promise<void>,
) {
  const { port, flags: network } = await onHostNetwork();
  const container = await podman(
    "run",
    "--detach",
    ...network,
    ...LOCKED,
    ...LIMITS,
    ...flags,
    podmanImage(target),
  );
  try {
    await until(() => isHealthy(container), "healthy container");
    await body(container, port);
  } catch (error) {
    console.log(
      await podman("logs", container).catch(String),
      JSON.stringify(await inspect(container)),
    );
    throw error;
  } finally {
    await podman("rm", "--force", "--time", "0", container);
  }
}

for (const target of TARGETS) {
  test(`${target}: Podman keeps the image's health check`, { skip: skipped }, async (t) => {
    const [kept] = JSON.parse(await podman("image", "inspect", podmanImage(target)));
    const [built] = JSON.parse(await docker(["image", "inspect", image(target, "routes")]));
    const ignored = { StartInterval: undefined }; // Podman before 5 does not know it
    assert.deepEqual({ ...kept.Healthcheck, ...ignored }, {
      ...built.Config.Healthcheck,
      ...ignored,
    });
    say(t, await podman("version", "--format", "Podman {{.Client.Version}}"));
  });

  test(
    `${target}: Podman's restart policy starts a wedged service again`,
    { skip: skipped },
    async (t) => {
      await withContainer(target, HEALING, async (container) => {
        const { StartedAt } = await inspect(container);
        const isCounted = () =>
          Promise.resolve(Date.now() - Date.parse(StartedAt) > START_PERIOD_MS);
        await until(isCounted, "end of the start period");

        const children = "/proc/1/task/1/children";
        const stop = target === "deno"
          ? [
            "/bin/deno",
            "eval",
            `Deno.kill(parseInt(Deno.readTextFileSync("${children}")), "SIGSTOP")`,
          ]
          : [
            "/bin/node",
            "-e",
            `process.kill(parseInt(fs.readFileSync("${children}")), "SIGSTOP")`,
          ];
        await podman("exec", container, ...stop);
        const wedgedMs = performance.now();
        const seen: string[] = [];
        for (
          let probes = 0;
          probes < PROBES_MOST && (await inspect(container)).RestartCount === 0;
          probes++
        ) {
          assert.equal(await isHealthy(container), false);
          seen.push((await inspect(container)).Health.Status);
        }
        assert.ok(seen.includes("unhealthy"), `Podman saw ${seen}`);
        await until(async () => (await inspect(container)).RestartCount === 1, "restart");
        await until(() => isHealthy(container), "healthy container");
        say(
          t,
          `${seen}, healthy again ${
            ((performance.now() - wedgedMs) / 1000).toFixed(1)
          } s after the wedge`,
        );

        const events = [
          "--stream=false",
          "--since",
          StartedAt,
          "--filter",
          `container=${container}`,
        ];
        const died = ["--filter", "event=died", "--format", "{{.ContainerExitCode}}"];
        assert.equal(await podman("events", ...events, ...died), "142");
        const { Health, RestartCount } = await inspect(container);
        assert.deepEqual([Health.Status, RestartCount], ["healthy", 1]);
      });
    },
  );

  test(
    `${target}: podman stop lets a request in flight finish, and exits 0`,
    { skip: skipped },
    async () => {
      await withContainer(target, HEALING, async (container, port) => {
        const slow = new Client(port).get("/slow");
        const started = () => fetch(`http://127.0.0.1:${port}/started`).then((r) => r.text());
        await until(async () => await started() === "1", "request in flight");
        await podman("stop", container);
        await slow.ended;
        assert.match(slow.received, /\r\nconnection: close\r\n[^]*whole$/i);
        const { Status, ExitCode } = await inspect(container);
        assert.deepEqual([Status, ExitCode], ["exited", 0]);
      });
    },
  );

  test(`${target}: Podman gives /data and /app/data one volume`, { skip: skipped }, async () => {
    const volume = `${NAME}-${target}`;
    try {
      const mounted = (folder: string) => ["--volume", `${volume}:${folder}`];
      await withContainer(target, mounted("/data"), async (_, port) => {
        const note = { method: "PUT", body: "tea" };
        assert.equal((await fetch(`http://127.0.0.1:${port}/note`, note)).status, 204);
      });
      await withContainer(target, mounted("/app/data"), async (_, port) => {
        assert.equal(await (await fetch(`http://127.0.0.1:${port}/note`)).text(), "tea");
      });
    } finally {
      await podman("volume", "rm", "--force", volume);
    }
  });
}

/**
 * Gives Podman the base images that Docker has, because it takes no short name as it comes.
 *
 * @returns Their names there
 */
async function provideBases(folder: string, dockerfile: string): Promise<string[]> {
  const versions = Object.fromEntries(
    [...dockerfile.matchAll(/^ARG (\w+)=(.+)$/gm)].map(([, name, value]) => [name, value]),
  );
  const bases = dockerfile.matchAll(/^FROM (?:--\S+ )?(\S+:\S+) AS/gm);
  const names = [...bases].map(([, name]) =>
    name.replace(/\$\{(\w+)\}/g, (_, variable) => versions[variable])
  );
  const archive = `${folder}/base.tar`;
  for (const name of new Set(names)) {
    await docker(["save", "--output", archive, name]);
    await podman("pull", "--quiet", `docker-archive:${archive}`);
    rmSync(archive);
  }
  return names.map((name) => `localhost/${name}`);
}

test("Podman builds what the last line of the Dockerfile names", {
  skip: skipped,
  timeout: 400_000,
}, async (t) => {
  const folder = buildFolder();
  const dockerfile = readFileSync(`${folder}/Dockerfile`, "utf8");
  const major = Number((await podman("version", "--format", "{{.Client.Version}}")).split(".")[0]);
  // Podman before 5 does not know the option, as docs/containers.md says.
  const known = major < 5 ? dockerfile.replaceAll("--start-interval=1s ", "") : dockerfile;
  const bases: string[] = [];
  try {
    bases.push(...await provideBases(folder, dockerfile));
    for (const target of TARGETS) {
      const tag = `localhost/${NAME}:built-${target}`;
      writeFileSync(`${folder}/Dockerfile`, known.replace(/^FROM deno$/m, `FROM ${target}`));
      const startMs = performance.now();
      const flags = ["--quiet", "--layers=false", "--format", "docker", "--tag", tag];
      await podman("build", ...flags, folder);
      say(t, `${target}: ${((performance.now() - startMs) / 1000).toFixed()} s`);
      const [{ Config, Healthcheck }] = JSON.parse(await podman("image", "inspect", tag));
      assert.ok(Config.Entrypoint.includes(`/bin/${target}`), `${Config.Entrypoint}`);
      assert.equal(Healthcheck.Retries, 3);
      await podman("rmi", "--force", tag);
    }
  } finally {
    await podman("rmi", "--force", ...new Set(bases));
    rmSync(folder, { recursive: true });
  }
});
