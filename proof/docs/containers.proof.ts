/**
 * Holds docs/containers.md: runs its commands on a Docker engine, and compares what it repeats of
 * other files with them. Kubernetes and the known limits have files of their own.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import process from "node:process";
import { after, before, describe, test } from "node:test";
import {
  build,
  docker,
  health,
  image,
  published,
  removeImages,
  run,
  signalRuntime,
  skip,
  type Target,
  TARGETS,
  until as untilTrue,
  withContainer,
} from "../support/engine.ts";
import { ROOT, withRoutesOf } from "../support/harness.ts";

const NAME = `heartbeat-containers-${process.pid}`;
const DOCUMENT = readFileSync(`${ROOT}/docs/containers.md`, "utf8");
const COMMANDS = [...DOCUMENT.matchAll(/^```sh\n(.+?)\n```$/gms)].flatMap(([, block]) =>
  block.split("\n")
);

// ── What it repeats ──

test("the commands for HAProxy are those of deploy/haproxy.yaml, which are tried", () => {
  const file = readFileSync(`${ROOT}/deploy/haproxy.yaml`, "utf8");
  const tried = [...file.matchAll(/^# (docker compose .+)$/gm)].map(([, command]) => command);
  assert.deepEqual(COMMANDS.filter((command) => command.includes("haproxy.yaml")), tried);
});

test("the probe's commands for ECS are those of the image", () => {
  const dockerfile = readFileSync(`${ROOT}/Dockerfile`, "utf8").replaceAll("\\\n", "");
  const [node, deno] = [...dockerfile.matchAll(/^HEALTHCHECK .+ CMD (\[.+\])$/gm)].map(([, cmd]) =>
    JSON.parse(cmd)
  );
  const shown = [...DOCUMENT.matchAll(/"command": (\[[^\]]+\])|`(\["CMD"[^\]]+\])`/g)].map((
    [, a, b],
  ) => JSON.parse(a ?? b));
  assert.deepEqual(shown, [["CMD", ...deno], ["CMD", ...node]]);
});

// ── What it runs ──

describe("on a Docker engine", { skip }, () => {
  const containers: string[] = [];
  before(() => build("deno"));
  after(async () => {
    if (containers.length > 0) await docker(["rm", "--force", ...containers]);
    await removeImages();
  });

  const FLAGS = ` --detach --label ${NAME} `;
  for (const command of COMMANDS.filter((command) => command.startsWith("docker run "))) {
    test(command, async () => {
      const ours = command.replace(/ heartbeat$/, ` ${image("deno")}`).replace(
        "--name shop",
        `--name ${NAME}`,
      )
        .replace("8080:8080", "127.0.0.1::8080").replace(" --detach ", " ").replace(
          "run ",
          `run${FLAGS}`,
        );
      // The file that is mounted for one environment is the project's own here.
      const line = ours.replace("deno.staging.json", "deno.json");
      const container = (await run("sh", ["-c", line], { cwd: ROOT })).stdout.trim();
      containers.push(container);
      const health = async () =>
        JSON.parse(await docker(["inspect", "--format", "{{json .State.Health}}", container]));
      const seen = await untilTrue(async () => {
        const found = await health();
        return found.Status === "healthy" && found;
      }, "healthy container");
      const shown = JSON.parse(/^\{"Status".+$/m.exec(DOCUMENT)![0]);
      assert.deepEqual(Object.keys(seen.Log.at(-1)), Object.keys(shown.Log[0]));
      assert.deepEqual(seen.Log.at(-1).Output, shown.Log[0].Output);
    });
  }

  for (const target of TARGETS) {
    test(`${target}: the log tells why it was healed, and what it did`, async () => {
      const source = withRoutesOf(readFileSync(`${ROOT}/main.ts`, "utf8"), WEDGES);
      await build(target, "wedges", source);
      await Promise.all([
        assertHealed(target, "R (running)", (port) => void ask(port, "/computes")),
        assertHealed(target, "S (sleeping)", (port) => void ask(port, "/waits")),
        assertHealed(
          target,
          "T (stopped)",
          (_port, container) => signalRuntime(container, target, "SIGSTOP"),
        ),
      ]);
    });
  }
});

// ── Healing ──

const WEDGES = `
  app.get("/computes", () => { for (;;); });
  app.get("/waits", (c) => {
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
    return c.text("");
  });
`;
/** A probe that is quick to judge. */
const QUICK = ["--health-interval", "1s", "--env", "PING_TIMEOUT_MS=300"];

/** Asks a route whose answer never comes. */
const ask = (port: number, path: string) => fetch(`http://127.0.0.1:${port}${path}`).catch(String);

/** Wedges a service until it is healed; its log then has the document's line, with this state. */
async function assertHealed(
  target: Target,
  state: string,
  wedge: (port: number, container: string) => unknown,
) {
  assert.ok(DOCUMENT.includes(`| \`${state}\``), `the document has ${state}`);
  const shown = JSON.parse(/^\{"time".+"healed".+\}$/m.exec(DOCUMENT)![0]);
  const flags = ["--publish", "127.0.0.1::8080", "--env", "HEAL_AFTER_MS=1000", ...QUICK];
  await withContainer(target, flags, async (container) => {
    await health(container, "healthy");
    await wedge(await published(container), container);
    assert.equal(await docker(["wait", container]), "142");
    const { stderr } = await run("docker", ["logs", container]);
    const line = JSON.parse(/^\{.+"healed".+\}$/m.exec(stderr)![0]);
    const withoutNumbers = ({ healed }: { healed: string }) => healed.replaceAll(/\d+/g, "0");
    assert.equal(withoutNumbers(line), withoutNumbers(shown));
    assert.equal(line.state, state);
  }, "wedges");
}
