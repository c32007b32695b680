/**
 * Holds what docs/containers.md changes in deploy/kubernetes.yaml: its fragments are valid by the
 * published schema once they are in the manifest. The commands of its probes run in both images,
 * locked down, where no kubelet could reach the port. Kubernetes itself was run by hand.
 */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { constants, tmpdir } from "node:os";
import { after, before, describe, test } from "node:test";
import { Deployment } from "kubernetes-models/apps/v1/Deployment";
import { PersistentVolumeClaim } from "kubernetes-models/v1/PersistentVolumeClaim";
import { parse, parseAllDocuments } from "yaml";
import {
  build,
  docker,
  health,
  image,
  LOCKED,
  probeCommand,
  removeImages,
  run,
  signalRuntime,
  skip,
  type Target,
  TARGETS,
  withContainer,
} from "../support/engine.ts";
import { ROOT, withRoutesOf } from "../support/harness.ts";

type Manifest = ConstructorParameters<typeof Deployment>[0] & object;
type Container = NonNullable<
  NonNullable<NonNullable<Manifest["spec"]>["template"]["spec"]>["containers"]
>[number];
type Fields = Record<string, unknown>;

const DOCUMENT = readFileSync(`${ROOT}/docs/containers.md`, "utf8");
const [, SECTION] = /^## Kubernetes\n(.+?)^## /ms.exec(DOCUMENT)!;
const [WRITES, PROBES, ON_NODE] = [...SECTION.matchAll(/^```yaml\n(.+?)^```$/gms)]
  .map(([, block]) => block);

const MANIFEST = readFileSync(`${ROOT}/deploy/kubernetes.yaml`, "utf8");
const deploymentOf = (text: string): Manifest => parseAllDocuments(text)[0].toJS();
const manifest = () => deploymentOf(MANIFEST);
const probes: Required<Pick<Container, "startupProbe" | "livenessProbe" | "readinessProbe">> =
  parse(
    PROBES,
  );
/** The commands that ask for health and for readiness. */
const COMMANDS: Record<Target, { ping: string[]; ready: string[] }> = {
  deno: {
    ping: probes.livenessProbe.exec!.command!,
    ready: probes.readinessProbe.exec!.command!,
  },
  node: parse(ON_NODE),
};

const isMap = (value: unknown): value is Fields =>
  typeof value === "object" && value !== null && !Array.isArray(value);

/** Puts a fragment into a manifest: maps are merged, and so are the first of two lists' maps. */
function merge(base: unknown, change: unknown): unknown {
  if (Array.isArray(base) && Array.isArray(change)) return [merge(base[0], change[0])];
  if (!isMap(base) || !isMap(change)) return change;
  const merged: Fields = { ...base };
  for (const [key, value] of Object.entries(change)) {
    // The document says so: the strategy stands in place of the manifest's.
    merged[key] = key === "strategy" ? value : merge(base[key], value);
  }
  return merged;
}

test("the lines for a service that writes are valid in the manifest, which mounts nothing", () => {
  const [{ spec }, claim] = parseAllDocuments(WRITES).map((document) => document.toJS());
  assert.equal(manifest().spec!.template.spec!.volumes, undefined);
  const changed = merge(manifest(), { spec }) as Manifest;
  new Deployment(changed).validate();
  new PersistentVolumeClaim(claim).validate();
  const { replicas, strategy, template } = changed.spec!;
  assert.deepEqual([replicas, strategy], [1, { type: "Recreate" }]);
  const { volumes, securityContext, containers } = template.spec!;
  assert.equal(volumes![0].persistentVolumeClaim!.claimName, claim.metadata.name);
  assert.equal(securityContext!.runAsNonRoot, true);
  assert.equal(containers[0].volumeMounts![0].mountPath, "/data");
});

test("the three probes are valid in the manifest, and leave none that asks over HTTP", () => {
  const deployment = manifest();
  const container = Object.assign(deployment.spec!.template.spec!.containers[0], probes);
  new Deployment(deployment).validate();
  for (const probe of [container.startupProbe, container.livenessProbe, container.readinessProbe]) {
    assert.deepEqual(Object.keys(probe.exec!), ["command"]);
    assert.equal(probe.httpGet, undefined);
  }
  assert.equal(container.livenessProbe.terminationGracePeriodSeconds, 1);
});

test("the line for clusters with IPv6 first is valid once it is no comment", () => {
  const deployment = deploymentOf(MANIFEST.replace("# - { name: HOST,", "- { name: HOST,"));
  new Deployment(deployment).validate();
  const { env } = deployment.spec!.template.spec!.containers[0];
  assert.deepEqual(env!.map(({ name, value }) => [name, value]), [
    ["DRAIN_DELAY_MS", "5000"],
    ["HOST", "::"],
  ]);
});

/** What a container with this profile gets is what a kernel without IPv6 answers. */
const WITHOUT_IPV6 = {
  defaultAction: "SCMP_ACT_ALLOW",
  syscalls: [{
    names: ["socket"],
    action: "SCMP_ACT_ERRNO",
    errnoRet: constants.errno.EAFNOSUPPORT,
    args: [{ index: 0, value: 10, op: "SCMP_CMP_EQ" }], // AF_INET6
  }],
};

describe("on a Docker engine", { skip }, () => {
  before(async () => {
    for (const target of TARGETS) await build(target);
  }, { timeout: 300_000 });
  after(removeImages);

  for (const target of TARGETS) {
    test(`${target}: the probes' commands tell health and readiness apart`, async () => {
      assert.deepEqual(COMMANDS[target].ping, await probeCommand(target));
      const env = ["--env", "HOST=127.0.0.1", "--env", "DRAIN_DELAY_MS=60000"];
      const container = await docker(["run", "--detach", ...LOCKED, ...env, image(target)]);
      try {
        await health(container, "healthy");
        await assertProbes(container, target, 0, 0);
        await docker(["kill", "--signal", "TERM", container]);
        await assertProbes(container, target, 0, 1);
        await signalRuntime(container, target, "SIGSTOP");
        assert.equal(await exitCode(container, COMMANDS[target].ping), 1);
      } finally {
        await docker(["rm", "--force", container]);
      }
    });
  }

  for (const target of TARGETS) {
    test(`${target}: where HTTP_PROXY is set, the probes are ready by NO_PROXY`, async () => {
      // Nothing listens at port 9. Node.js obeys HTTP_PROXY only with the last variable.
      const env = ["HTTP_PROXY=http://127.0.0.1:9", "NO_PROXY=127.0.0.1", "NODE_USE_ENV_PROXY=1"];
      const flags = [...LOCKED, ...["HOST=127.0.0.1", ...env].flatMap((pair) => ["--env", pair])];
      await withContainer(target, flags, async (container) => {
        await health(container, "healthy");
        await assertProbes(container, target, 0, 0);
        const { ping, ready } = COMMANDS[target];
        const byProxy = ["--env", "NO_PROXY="];
        assert.equal(await exitCode(container, ping, byProxy), 0, "the image's own obeys none");
        assert.equal(await exitCode(container, ready, byProxy), 1);
      });
    });

    test(`${target}: HOST=:: serves IPv4 too, and names a kernel without IPv6`, async () => {
      const host = ["--env", "HOST=::"];
      await withContainer(target, [...LOCKED, ...host], async (container) => {
        await health(container, "healthy");
        assert.equal(await exitCode(container, COMMANDS[target].ready), 0);
      });
      const folder = mkdtempSync(`${tmpdir()}/heartbeat-kubernetes-`);
      try {
        writeFileSync(`${folder}/seccomp.json`, JSON.stringify(WITHOUT_IPV6));
        const profile = ["--security-opt", `seccomp=${folder}/seccomp.json`];
        const args = ["run", "--rm", ...profile, ...host, image(target)];
        const failed = await run("docker", args, { timeout: 30_000 }).catch((error) => error);
        assert.equal(failed.code, 1);
        assert.match(failed.stderr, /^Cannot listen on \[::\]:8080: .*family not supported.*\n$/);
      } finally {
        rmSync(folder, { recursive: true });
      }
    });
  }

  test("a service with SQLite fails to start where nothing is mounted", async () => {
    const routes = `
      const { DatabaseSync } = await import("node:sqlite");
      new DatabaseSync("data/notes.db").exec("CREATE TABLE note (text)");
    `;
    const source = withRoutesOf(readFileSync(`${ROOT}/main.ts`, "utf8"), routes);
    await build("node", "sqlite", source);
    const failed = await run("docker", ["run", "--rm", "--read-only", image("node", "sqlite")])
      .catch((error) => error);
    assert.equal(failed.code, 1);
    assert.match(failed.stderr, /"error":"Error: unable to open database file"/);
  });
});

const exitCode = (container: string, command: string[], flags: string[] = []): Promise<number> =>
  run("docker", ["exec", ...flags, container, ...command]).then(() => 0, ({ code }) => code);

async function assertProbes(container: string, target: Target, healthy: number, ready: number) {
  const { ping, ready: isReady } = COMMANDS[target];
  assert.equal(await exitCode(container, ping), healthy, "health");
  assert.equal(await exitCode(container, isReady), ready, "readiness");
}
