/**
 * A rolling update of deploy/stack.yaml under load, on one node. The clients ask through the
 * published port. That needs IPVS in the kernel; without it they ask inside the stack's network,
 * and the test says so. Without a Docker engine it skips, and says so; in CI that is a failure.
 *
 *     node --import tsx --test proof/platforms/swarm.loads.proof.ts
 */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { after, before, test } from "node:test";
import { ROUTES, underLoad } from "../support/clients.ts";
import {
  build,
  docker,
  image,
  NAME,
  removeImages,
  say,
  skip,
  type Target,
  TARGETS,
} from "../support/engine.ts";
import { freePort, ROOT, until, withRoutesOf } from "../support/harness.ts";

/** A stack for each target: a swarm that was just left may still hold the networks of a name. */
const stackOf = (target: Target) => `${NAME}-${target}`;
const serviceOf = (target: Target) => `${stackOf(target)}_heartbeat`;
const VERSIONS = ["1", "2"];

before(async () => {
  if (skip) return;
  for (const target of TARGETS) {
    for (const version of VERSIONS) {
      const routes = `${ROUTES}app.get("/version", (c) => c.text("${version}"));`;
      await build(target, version, withRoutesOf(readFileSync(`${ROOT}/main.ts`, "utf8"), routes));
    }
  }
}, { timeout: 600_000 });

after(async () => {
  if (!skip) await removeImages();
});

/** Whether the kernel has what Swarm publishes a port by. Docker loads the module if it may. */
function hasIpvs(): boolean {
  spawnSync("modprobe", ["ip_vs"]);
  return existsSync("/proc/net/ip_vs");
}

/** Runs the clients inside the stack's network, by the Node.js of the service's image. */
async function underLoadInside(target: Target, body: () => Promise<void>): Promise<string> {
  const flags = [
    "--rm",
    "--init",
    "--name",
    `${NAME}-clients`,
    "--network",
    `${stackOf(target)}_default`,
  ];
  const mount = [
    "--volume",
    `${ROOT}/proof:/proof:ro`,
    "--entrypoint",
    "/bin/node",
    image("node", VERSIONS[0]),
  ];
  const clients = spawn("docker", [
    "run",
    ...flags,
    ...mount,
    "/proof/support/clients.ts",
    "http://tasks.heartbeat:8080",
  ]);
  let printed = "";
  for (const output of [clients.stdout, clients.stderr]) {
    output.on("data", (chunk) => {
      printed += chunk;
    });
  }
  const exit = once(clients, "exit");
  try {
    await body();
  } finally {
    await docker(["kill", "--signal", "SIGTERM", `${NAME}-clients`]).catch(String);
    await exit;
  }
  assert.equal(clients.exitCode, 0, printed);
  return printed.trim();
}

/** Deploys the stack and waits until Swarm has it running. */
async function deploy(target: Target, version: string, port: number, files: string[]) {
  const flags = [
    "--detach=true",
    "--resolve-image",
    "never",
    ...files.flatMap((file) => ["--compose-file", file]),
  ];
  await docker(["stack", "deploy", ...flags, stackOf(target)], {
    IMAGE: image(target, version),
    PUBLISHED_PORT: `${port}`,
  });
  await until(async () => {
    const [{ Spec, UpdateStatus }] = JSON.parse(
      await docker(["service", "inspect", serviceOf(target)]),
    );
    assert.doesNotMatch(UpdateStatus?.State ?? "", /paused|rollback/, UpdateStatus?.Message);
    const replicas = await docker([
      "service",
      "ls",
      "--filter",
      `name=${serviceOf(target)}`,
      "--format",
      "{{.Replicas}}",
    ]);
    return Spec.TaskTemplate.ContainerSpec.Image === image(target, version) && replicas === "2/2" &&
      UpdateStatus?.State !== "updating";
  }, "converged stack");
}

for (const target of TARGETS) {
  test(
    `${target}: a rolling update on Swarm loses no request`,
    { skip, timeout: 300_000 },
    async (t) => {
      const state = await docker(["info", "--format", "{{.Swarm.LocalNodeState}}"]);
      assert.equal(state, "inactive", "this test makes and leaves a swarm of its own");
      const folder = mkdtempSync(`${tmpdir()}/swarm-`);
      const attachable = `${folder}/attachable.yaml`;
      writeFileSync(attachable, "networks: { default: { attachable: true } }\n");
      const files = ["deploy/stack.yaml", attachable];
      await docker(["swarm", "init", "--advertise-addr", "127.0.0.1"]);
      try {
        const port = await freePort();
        const url = new URL(`http://127.0.0.1:${port}`);
        await deploy(target, VERSIONS[0], port, files);
        const answers = () => fetch(new URL("/healthz", url)).then(({ ok }) => ok, () => false);
        const isPublished = hasIpvs();
        if (isPublished) await until(answers, "answer through the published port");
        const update = () => deploy(target, VERSIONS[1], port, files);
        const fact = isPublished
          ? await underLoad(url, update)
          : await underLoadInside(target, update);
        say(
          t,
          isPublished
            ? "through the published port"
            : "inside the network: this kernel has no IPVS",
        );
        say(t, fact);
      } catch (error) {
        console.log(await docker(["service", "ps", "--no-trunc", serviceOf(target)]).catch(String));
        throw error;
      } finally {
        await docker(["swarm", "leave", "--force"]);
        rmSync(folder, { recursive: true });
      }
    },
  );
}
