/**
 * Holds docs/containers.md: runs its commands on a Docker engine, and compares what it repeats of
 * other files with them. Kubernetes and the known limits have files of their own.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import process from "node:process";
import { after, before, describe, test } from "node:test";
import { build, docker, image, removeImages, run, skip } from "../support/engine.ts";
import { ROOT, until } from "../support/harness.ts";

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
      const seen = await until(async () => {
        const found = await health();
        return found.Status === "healthy" && found;
      }, "healthy container");
      const shown = JSON.parse(/^\{"Status".+$/m.exec(DOCUMENT)![0]);
      assert.deepEqual(Object.keys(seen.Log.at(-1)), Object.keys(shown.Log[0]));
      assert.deepEqual(seen.Log.at(-1).Output, shown.Log[0].Output);
    });
  }
});
