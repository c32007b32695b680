/**
 * Run by `npm run test:image`: the image under Compose and Swarm, and the manifest for Kubernetes.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test, type TestContext } from "node:test";
import { parse, parseAllDocuments } from "yaml";
import {
  build,
  docker,
  image,
  NAME,
  probeCommand,
  removeImages,
  say,
  signalRuntime,
  skip,
} from "../support/engine.ts";
import { freePort, ROOT, until } from "../support/harness.ts";

before(async () => {
  if (skip) return;
  await build("deno");
  // A service that runs and never gets healthy.
  const source = readFileSync(`${ROOT}/main.ts`, "utf8");
  const broken = source.replace(
    /app\.get\("\/healthz", .+\);/,
    'app.get("/healthz", (c) => c.body(null, 500));',
  );
  assert.ok(broken !== source, "main.ts has no such route");
  await build("deno", "broken", broken);
}, { timeout: 600_000 });

after(async () => {
  if (!skip) await removeImages();
});

test(
  "docker compose up --wait comes back once the service is healthy",
  { skip },
  async (t) => {
    const compose = ["compose", "--project-name", NAME];
    const file = { IMAGE: image("deno"), PUBLISHED_PORT: "0" };
    try {
      const startMs = performance.now();
      await docker([...compose, "up", "--wait"], file);
      say(t, `healthy after ${(performance.now() - startMs).toFixed()} ms`);
      const states = await docker([...compose, "ps", "--format", "{{.Service}} {{.Health}}"], file);
      assert.equal(states, "app healthy");
    } finally {
      await docker([...compose, "down", "--volumes", "--timeout", "5"], file);
    }
  },
);

// ── Swarm ──

const SERVICE = `${NAME}_heartbeat`;

interface Task {
  ID: string;
  CurrentState: string;
  DesiredState: string;
  Error: string;
}

async function tasks(): Promise<Task[]> {
  const lines = await docker(["service", "ps", "--no-trunc", "--format", "{{json .}}", SERVICE]);
  return lines.split("\n").map((line) => JSON.parse(line));
}

const running = async () =>
  (await tasks()).filter(({ CurrentState, DesiredState }) =>
    /^Running/.test(CurrentState) && DesiredState === "Running"
  );

const containerOf = ({ ID }: Task) =>
  docker(["inspect", "--format", "{{.Status.ContainerStatus.ContainerID}}", ID]);

/** Two tasks run, and each is healthy by its own probe. */
async function assertTwoAnswer() {
  const up = await running();
  assert.equal(up.length, 2);
  await assertAnswer(await Promise.all(up.map(containerOf)));
}

async function assertAnswer(containers: string[]) {
  const probe = await probeCommand("deno");
  await Promise.all(containers.map((container) => docker(["exec", container, ...probe])));
}

/** Deploys deploy/stack.yaml on a swarm of this test's own. */
async function withStack(body: () => Promise<void>) {
  const state = await docker(["info", "--format", "{{.Swarm.LocalNodeState}}"]);
  assert.equal(state, "inactive", "this test makes and leaves a swarm of its own");
  await docker(["swarm", "init", "--advertise-addr", "127.0.0.1"]);
  try {
    const flags = ["--detach=true", "--resolve-image", "never"];
    const file = ["--compose-file", "deploy/stack.yaml"];
    const env = { IMAGE: image("deno"), PUBLISHED_PORT: `${await freePort()}` };
    await docker(["stack", "deploy", ...flags, ...file, NAME], env);
    await until(async () => (await running()).length === 2, "two running tasks");
    await assertTwoAnswer();
    await body();
  } finally {
    await docker(["swarm", "leave", "--force"]);
  }
}

async function replacesAWedgedReplica(t: TestContext) {
  const [wedged] = await running();
  await signalRuntime(await containerOf(wedged), "deno", "SIGSTOP");
  const wedgedMs = performance.now();
  await until(async () => {
    const up = await running();
    return up.length === 2 && !up.some(({ ID }) => ID === wedged.ID);
  }, "replacement");
  const tookS = ((performance.now() - wedgedMs) / 1000).toFixed(1);
  say(t, `Swarm replaced a wedged replica ${tookS} s after it stopped answering`);
  const failed = (await tasks()).find(({ ID }) => ID === wedged.ID)!;
  assert.match(failed.Error, /unhealthy/);
  await assertTwoAnswer();
}

async function rollsBackABrokenUpdate(t: TestContext) {
  const before = await running();
  const ids = (tasks: Task[]) => tasks.map(({ ID }) => ID).sort().join();
  const containers = await Promise.all(before.map(containerOf));
  const updateMs = performance.now();
  const change = ["--env-add", "PORT=9090", "--image", image("deno", "broken")];
  await docker(["service", "update", "--detach", "--no-resolve-image", ...change, SERVICE]);
  const status = await until(async () => {
    const format = ["--format", "{{json .UpdateStatus}}"];
    const { State } = JSON.parse(await docker(["service", "inspect", ...format, SERVICE])) ?? {};
    await assertAnswer(containers); // the old ones, whatever Swarm says of its tasks meanwhile
    return State === "rollback_completed" && State;
  }, "roll-back");
  say(t, `${status} ${((performance.now() - updateMs) / 1000).toFixed(1)} s after the update`);
  await until(async () => ids(await running()) === ids(before), "the same two tasks");
  await assertTwoAnswer();
}

test(
  "Swarm replaces a wedged replica, and rolls back an update that never gets healthy",
  { skip },
  async (t) => {
    await withStack(async () => {
      await replacesAWedgedReplica(t);
      await rollsBackABrokenUpdate(t);
    });
  },
);

// ── Kubernetes ──

test("kubernetes.yaml is valid by its schema, and as strict as the container", async () => {
  const [{ Deployment }, { Service }, { PodDisruptionBudget }] = await Promise.all([
    import("kubernetes-models/apps/v1/Deployment"),
    import("kubernetes-models/v1/Service"),
    import("kubernetes-models/policy/v1/PodDisruptionBudget"),
  ]);
  const documents = parseAllDocuments(readFileSync(`${ROOT}/deploy/kubernetes.yaml`, "utf8")).map((
    document,
  ) => document.toJS());
  const models = [Deployment, Service, PodDisruptionBudget];
  assert.deepEqual(documents.map(({ kind }) => kind), models.map(({ kind }) => kind));
  documents.forEach((document, i) => new models[i](document).validate());
  assert.throws(() => new Deployment({ ...documents[0], spec: { replicas: "two" } }).validate());

  assert.equal(documents[0].spec.strategy.type, "RollingUpdate");
  assert.equal(documents[2].spec.unhealthyPodEvictionPolicy, "AlwaysAllow");
  const { spec } = documents[0].spec.template;
  const [container] = spec.containers;
  assert.deepEqual(container.securityContext, {
    allowPrivilegeEscalation: false,
    readOnlyRootFilesystem: true,
    capabilities: { drop: ["ALL"] },
  });
  assert.equal(spec.securityContext.runAsNonRoot, true);
  assert.deepEqual(
    [container.startupProbe, container.livenessProbe, container.readinessProbe].map(({ httpGet }) =>
      httpGet.path
    ),
    ["/healthz", "/healthz", "/readyz"],
  );
  const compose = parse(readFileSync(`${ROOT}/compose.yaml`, "utf8"));
  for (const { read_only, cap_drop } of Object.values<Record<string, unknown>>(compose.services)) {
    assert.deepEqual([read_only, cap_drop], [true, ["ALL"]]);
  }
});
