/**
 * Run by `npm run test:image`: builds the images and follows them on a real Docker engine. Without an engine it skips,
 * and says so; in CI that is a failure.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { after, before, test } from "node:test";
import { parse, parseAllDocuments } from "yaml";
import {
  build,
  docker,
  health,
  image,
  inspect,
  LOCKED,
  NAME,
  onHostNetwork,
  probeCommand,
  published,
  removeImages,
  run,
  say,
  signalRuntime,
  skip,
  TARGETS,
  until,
  withContainer,
} from "../support/engine.ts";
import { launch, ROOT, until as untilPrinted, withRoutesOf } from "../support/harness.ts";

const ROUTES = `
app.get("/block", () => { for (const end = Date.now() + 12_000; Date.now() < end;); return new Response("unblocked"); });
app.get("/slow", async (c) => { await sleep(1500); return c.text("whole"); });
app.get("/throws", () => { throw new Error("boom"); });
app.get("/reach", async (c) => c.text(await fetch("http://192.0.2.1/").then(String, String)));
`;

before(async () => {
  if (skip) return;
  const source = readFileSync(`${ROOT}/main.ts`, "utf8");
  for (const target of TARGETS) {
    await build(target);
    await build(target, "routes", withRoutesOf(source, ROUTES));
  }
  // A service that runs and never gets healthy.
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

for (const target of TARGETS) {
  test(
    `${target}: a container with nothing prepared is healthy within 2 seconds`,
    { skip },
    async (t) => {
      const startMs = performance.now();
      await withContainer(target, ["--publish", "127.0.0.1::8080"], async (container) => {
        assert.equal((await inspect(container)).Health.Status, "starting");
        const { StartedAt, Health } = await health(container, "healthy");
        const fromStartMs = Date.parse(Health.Log[0].End) - Date.parse(StartedAt);
        assert.ok(fromStartMs < 2000, `${fromStartMs} ms`);
        say(
          t,
          `healthy ${fromStartMs} ms after the start, ${
            (performance.now() - startMs).toFixed()
          } ms after docker run`,
        );
        const [{ ExitCode, Output }] = Health.Log;
        assert.deepEqual([ExitCode, Output], [
          0,
          "healthy: http://127.0.0.1:8080/healthz answered 200\n",
        ]);
        const response = await fetch(`http://127.0.0.1:${await published(container)}/healthz`);
        assert.equal(response.status, 200);
      });
    },
  );

  test(`${target}: the image holds its runtime, what that needs and the bundle, and no more`, {
    skip,
  }, async (t) => {
    const config = JSON.parse(
      await docker(["image", "inspect", "--format", "{{json .Config}}", image(target)]),
    );
    assert.equal(config.User, "65532:65532");
    assert.equal(config.StopSignal, "SIGTERM");
    assert.deepEqual(Object.keys(config.ExposedPorts), ["8080/tcp"]);
    assert.deepEqual(config.Labels ?? {}, {}, "the workflow adds the labels of its owner");
    const seconds = (count: number) => count * 1e9;
    assert.deepEqual(
      { ...config.Healthcheck, Test: config.Healthcheck.Test[0] },
      {
        Test: "CMD",
        StartPeriod: seconds(2),
        StartInterval: seconds(1),
        Interval: seconds(10),
        Timeout: seconds(5),
        Retries: 3,
      },
    );
    const program = [`/bin/${target}`, "/app/main.js"];
    assert.deepEqual(config.Entrypoint.slice(0, 6), [
      "/bin/tini",
      "-s",
      "-e",
      "143",
      "--",
      program[0],
    ]);
    assert.deepEqual([config.Entrypoint.at(-1), config.Healthcheck.Test[1]], program.toReversed());
    assert.deepEqual(config.Healthcheck.Test.slice(-2), [program[1], "--ping"]);

    const container = await docker(["create", image(target)]);
    try {
      const { stdout } = await run("sh", ["-c", `docker export ${container} | tar -t`]);
      const files = stdout.trim().split("\n").filter((file) => !file.endsWith("/"));
      const own = files.filter((file) =>
        !/^(\.dockerenv|dev\/|etc\/(hostname|hosts|mtab|resolv\.conf)|proc|sys)/.test(file)
      );
      const known =
        /^(bin\/(deno|node|tini)|app\/([\w-]+\.js(\.map)?|package\.json)|etc\/passwd|etc\/ssl\/certs\/ca-certificates\.crt|(usr\/)?lib(64|\/[\w-]+)?\/[\w.+-]+\.so[.\d]*)$/;
      assert.deepEqual(own.filter((file) => !known.test(file)), []);
      const runtime = await run("sh", [
        "-c",
        `docker cp ${container}:/bin/${target} - | tar -xO | wc -c`,
      ]);
      const size = Number(
        await docker(["image", "inspect", "--format", "{{.Size}}", image(target)]),
      );
      const ratio = size / Number(runtime.stdout);
      assert.ok(ratio <= 1.06, `${ratio} times the runtime's binary`);
      const saved = await run("sh", ["-c", `docker save ${image(target)} | gzip | wc -c`]);
      const gzipped = Number(saved.stdout);
      if (target === "deno") {
        assert.ok(size <= 101e6, `${size} bytes`);
        assert.ok(gzipped <= 44e6, `${gzipped} bytes gzipped`);
      }
      const mb = (bytes: number) => (bytes / 1e6).toFixed(1);
      say(
        t,
        `${mb(size)} MB, ${mb(gzipped)} MB gzipped, ${ratio.toFixed(3)} times the runtime's binary`,
      );
    } finally {
      await docker(["rm", container]);
    }
  });

  test(
    `${target}: a process stopped dead gets unhealthy after three failed probes, and healthy once resumed`,
    { skip },
    async (t) => {
      await withContainer(target, ["--health-interval", "1s"], async (container) => {
        const events = spawn("docker", [
          ...[
            "events",
            "--filter",
            "event=health_status",
            "--filter",
            `container=${container}`,
            "--format",
            "{{.Action}}",
          ],
        ]);
        let reported = "";
        events.stdout.on("data", (chunk) => reported += chunk);
        try {
          await health(container, "healthy");
          await signalRuntime(container, target, "SIGSTOP");
          const startMs = performance.now();
          const { Health } = await health(container, "unhealthy");
          say(
            t,
            `unhealthy ${
              (performance.now() - startMs).toFixed()
            } ms after SIGSTOP, probing every second`,
          );
          assert.equal(Health.FailingStreak, 3);
          const failed = Health.Log.filter(({ ExitCode }) => ExitCode !== 0);
          assert.equal(failed.length, 3);
          for (const { ExitCode, Output } of failed) {
            assert.equal(ExitCode, 1);
            assert.match(
              Output,
              /^unhealthy: http:\/\/127\.0\.0\.1:8080\/healthz gave no HTTP response head within PING_TIMEOUT_MS=3000\n$/,
            );
            assert.ok(Output.length <= 4096);
          }
          await signalRuntime(container, target, "SIGCONT");
          await health(container, "healthy");
          await until(
            () =>
              Promise.resolve(/(: healthy\n)[^]*(: unhealthy\n)[^]*(: healthy\n)/.test(reported)),
            "third event",
          );
          assert.deepEqual(reported.match(/\w+$/gm), ["healthy", "unhealthy", "healthy"]);
        } finally {
          events.kill();
          await once(events, "exit");
        }
      });
    },
  );

  test(`${target}: an event loop that its own program blocks gets unhealthy, and healthy again`, {
    skip,
  }, async () => {
    const flags = [
      "--health-interval",
      "1s",
      "--env",
      "PING_TIMEOUT_MS=1000",
      "--publish",
      "127.0.0.1::8080",
    ];
    await withContainer(target, flags, async (container) => {
      await health(container, "healthy");
      const blocked = fetch(`http://127.0.0.1:${await published(container)}/block`);
      const { Health } = await health(container, "unhealthy");
      assert.equal(Health.FailingStreak, 3);
      assert.match(Health.Log.at(-1)!.Output, /^[^\n]+ within PING_TIMEOUT_MS=1000\n$/);
      assert.equal(await (await blocked).text(), "unblocked");
      await health(container, "healthy");
    }, "routes");
  });

  test(`${target}: probe and server agree on PORT and HOST`, { skip }, async () => {
    for (
      const [variables, seen] of [
        [["PORT=80"], "127.0.0.1:80"],
        [["PORT=65535", "HOST=127.0.0.1"], "127.0.0.1:65535"],
        [["HOST=::"], "[::1]:8080"],
        [["HOST=localhost", "PORT=6000"], "localhost:6000"],
      ] as [string[], string][]
    ) {
      const flags = variables.flatMap((variable) => ["--env", variable]).concat(
        "--sysctl",
        "net.ipv6.conf.all.disable_ipv6=0",
      );
      await withContainer(target, flags, async (container) => {
        const { Health } = await health(container, "healthy", 10_000);
        assert.ok(
          Health.Log.at(-1)!.Output.includes(seen.replace(":80/", "/").replace(/:80$/, "")),
          Health.Log.at(-1)!.Output,
        );
      });
    }
  });

  test(
    `${target}: locked down it gets healthy, and 100 probes leave nothing behind`,
    { skip },
    async (t) => {
      await withContainer(target, [...LOCKED, "--network", "none"], async (container) => {
        await health(container, "healthy", 10_000);
        const probe = await probeCommand(target);
        const memoryMib = async () => {
          const usage = await docker([
            "stats",
            "--no-stream",
            "--format",
            "{{.MemUsage}}",
            container,
          ]);
          return parseFloat(usage);
        };
        const ask = () => docker(["exec", container, ...probe]);
        for (let warm = 0; warm < 10; warm++) await ask();
        const beforeMib = await memoryMib();
        for (let asked = 0; asked < 100; asked++) {
          assert.equal(await ask(), "healthy: http://127.0.0.1:8080/healthz answered 200");
        }
        const afterMib = await memoryMib();
        say(t, `${beforeMib} MiB before 100 probes, ${afterMib} MiB after`);
        assert.ok(afterMib - beforeMib < 4, `memory grew from ${beforeMib} to ${afterMib} MiB`);
        assert.equal(
          (await docker(["top", container])).split("\n").length,
          3,
          "a process was left behind",
        ); // a title, the init, the service
        assert.equal(await docker(["diff", container]), "");
        assert.deepEqual(
          (await inspect(container)).Health.Log.map(({ ExitCode }) => ExitCode).filter(Boolean),
          [],
        );
        assert.equal(
          await docker(["logs", container]),
          "Listening on http://localhost:8080 (HOST=0.0.0.0)",
        );
      });
    },
  );

  test(
    `${target}: docker stop lets a request in flight finish, and exits 0`,
    { skip },
    async () => {
      for (const init of [[], ["--init"]]) {
        const { port, flags } = await onHostNetwork();
        await withContainer(target, [...init, ...flags], async (container) => {
          await health(container, "healthy");
          const socket = connect(port, "127.0.0.1");
          let received = "";
          socket.on("data", (chunk) => received += chunk);
          socket.write("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n");
          const log = () => docker(["exec", container, ...probe]).then(() => true);
          const probe = await probeCommand(target);
          await until(log, "probe after the request");
          const closed = once(socket, "close");
          await docker(["stop", container]);
          await closed;
          assert.match(received, /\r\nconnection: close\r\n[^]*whole$/i);
          assert.equal((await inspect(container)).ExitCode, 0);
        }, "routes");
      }
    },
  );

  test(`${target}: docker stop under load loses no request`, { skip }, async (t) => {
    const { port, flags } = await onHostNetwork();
    await withContainer(target, flags, async (container) => {
      await health(container, "healthy");
      const load = launch(
        ["--import", "tsx", "proof/support/load.ts", `${port}`, "32", "0", "1"],
        {},
      );
      await untilPrinted(load, () => load.stdout);
      await docker(["stop", container]);
      assert.equal((await inspect(container)).ExitCode, 0);
      assert.equal(await load.exit, 0, load.stderr);
      const { answered } = JSON.parse(load.stdout.trim().split("\n").at(-1)!);
      const lines = (await docker(["logs", container])).split("\n").filter((line) =>
        line.startsWith("{")
      );
      assert.equal(answered, lines.length, "each accepted request is answered");
      say(t, `${answered} requests accepted and answered`);
    });
  });

  test(`${target}: docker stop ends an idle container in under a second, with exit code 0`, {
    skip,
  }, async (t) => {
    for (const init of [[], ["--init"]]) {
      await withContainer(target, init, async (container) => {
        await health(container, "healthy");
        const startMs = performance.now();
        await docker(["stop", container]);
        const tookMs = performance.now() - startMs;
        say(t, `stopped${init.length ? " under --init" : ""} in ${tookMs.toFixed()} ms`);
        assert.ok(tookMs < 1000, `took ${tookMs} ms`);
        assert.equal((await inspect(container)).ExitCode, 0);
      });
    }
  });
}

for (const target of TARGETS) {
  test(`${target}: what a route throws is logged with its line in main.ts`, { skip }, async () => {
    await withContainer(target, ["--publish", "127.0.0.1::8080"], async (container) => {
      await health(container, "healthy");
      assert.equal(
        (await fetch(`http://127.0.0.1:${await published(container)}/throws`)).status,
        500,
      );
      const source = withRoutesOf(readFileSync(`${ROOT}/main.ts`, "utf8"), ROUTES).split("\n");
      const line = source.findIndex((text) => text.includes('"/throws"')) + 1;
      assert.match(
        (await run("docker", ["logs", container])).stderr,
        new RegExp(`"stack":" +at [^\\\\]*/main\\.ts:${line}:`),
      );
    }, "routes");
  });
}

test("deno: the service reaches no address but its own", { skip }, async () => {
  await withContainer("deno", ["--publish", "127.0.0.1::8080"], async (container) => {
    await health(container, "healthy");
    const response = await fetch(`http://127.0.0.1:${await published(container)}/reach`);
    assert.match(await response.text(), /NotCapable: Requires net access to "192\.0\.2\.1:80"/);
  }, "routes");
});

test("a change in main.ts alone rebuilds in seconds", { skip }, async (t) => {
  for (const target of TARGETS) {
    const source = readFileSync(`${ROOT}/main.ts`, "utf8").replace(
      "replace this",
      `${target}: replace this`,
    );
    const startMs = performance.now();
    await build(target, "again", source);
    say(t, `${target}: ${(performance.now() - startMs).toFixed()} ms`);
    assert.ok(performance.now() - startMs < 20_000);
  }
});

// ── One machine and beyond it ──

test(
  "docker compose up --build --wait comes back once the service is healthy",
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

test(
  "Swarm replaces a wedged replica, and rolls back an update that never gets healthy",
  { skip },
  async (t) => {
    const state = await docker(["info", "--format", "{{.Swarm.LocalNodeState}}"]);
    assert.equal(state, "inactive", "this test makes and leaves a swarm of its own");
    const service = `${NAME}_heartbeat`;
    const tasks = async () => {
      const lines = await docker([
        "service",
        "ps",
        "--no-trunc",
        "--format",
        "{{json .}}",
        service,
      ]);
      return lines.split("\n").map((line) =>
        JSON.parse(line) as Record<
          "ID" | "CurrentState" | "DesiredState" | "Error" | "Image",
          string
        >
      );
    };
    const running = async () =>
      (await tasks()).filter(({ CurrentState, DesiredState }) =>
        /^Running/.test(CurrentState) && DesiredState === "Running"
      );
    const containerOf = ({ ID }: { ID: string }) =>
      docker(["inspect", "--format", "{{.Status.ContainerStatus.ContainerID}}", ID]);
    const probe = await probeCommand("deno");
    const answers = async () => {
      const up = await running();
      await Promise.all(
        up.map(async (task) => await docker(["exec", await containerOf(task), ...probe])),
      );
      return up.length;
    };
    await docker(["swarm", "init", "--advertise-addr", "127.0.0.1"]);
    try {
      const env = { IMAGE: image("deno"), PUBLISHED_PORT: "18080" };
      await docker(
        [
          "stack",
          "deploy",
          "--detach=true",
          "--resolve-image",
          "never",
          "--compose-file",
          "deploy/stack.yaml",
          NAME,
        ],
        env,
      );
      const [wedged] = await until(
        async () => (await running()).length === 2 && await running(),
        "two running tasks",
      );
      assert.equal(await answers(), 2);

      await signalRuntime(await containerOf(wedged), "deno", "SIGSTOP");
      const wedgedMs = performance.now();
      await until(async () => {
        const up = await running();
        return up.length === 2 && !up.some(({ ID }) => ID === wedged.ID);
      }, "replacement");
      say(
        t,
        `Swarm replaced a wedged replica ${
          ((performance.now() - wedgedMs) / 1000).toFixed(1)
        } s after it stopped answering`,
      );
      const failed = (await tasks()).find(({ ID }) => ID === wedged.ID)!;
      assert.match(failed.Error, /unhealthy/);
      assert.equal(await answers(), 2);

      const old = (await running()).map(({ ID }) => ID).sort();
      const updateMs = performance.now();
      await docker([
        "service",
        "update",
        "--detach",
        "--no-resolve-image",
        "--env-add",
        "PORT=9090",
        "--image",
        image("deno", "broken"),
        service,
      ]);
      const status = await until(async () => {
        const { State } = JSON.parse(
          await docker(["service", "inspect", "--format", "{{json .UpdateStatus}}", service]),
        ) ?? {};
        assert.ok(await answers() >= 2, "the old tasks went on serving");
        return /^rollback_completed$/.test(State) && State as string;
      }, "roll-back");
      say(t, `${status} ${((performance.now() - updateMs) / 1000).toFixed(1)} s after the update`);
      assert.deepEqual((await running()).map(({ ID }) => ID).sort(), old);
      assert.equal(await answers(), 2);
    } finally {
      await docker(["swarm", "leave", "--force"]);
    }
  },
);

test("kubernetes.yaml is valid by the published schema, and as strict as the container", async () => {
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
