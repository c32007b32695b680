/**
 * Run by `npm run test:image`: the health of both images, as a real Docker engine sees it.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import {
  build,
  docker,
  health,
  inspect,
  LOCKED,
  probeCommand,
  published,
  removeImages,
  say,
  signalRuntime,
  skip,
  TARGETS,
  withContainer,
} from "../support/engine.ts";
import { ROOT, until, withRoutesOf } from "../support/harness.ts";

const ROUTES = `
app.get("/block", () => {
  for (const end = Date.now() + 12_000; Date.now() < end;);
  return new Response("unblocked");
});
`;

before(async () => {
  if (skip) return;
  const source = withRoutesOf(readFileSync(`${ROOT}/main.ts`, "utf8"), ROUTES);
  for (const target of TARGETS) {
    await build(target);
    await build(target, "routes", source);
  }
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
}
