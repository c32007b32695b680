/**
 * How the images heal themselves on plain Docker, on a real engine. The probe's timing is shortened
 * by flags, with one case at the image's own. What was measured is printed beside the test.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { after, before, describe, test, type TestContext } from "node:test";
import {
  build,
  docker,
  health,
  inspect,
  LOCKED,
  onHostNetwork,
  probeCommand,
  published,
  removeImages,
  run,
  say,
  signalRuntime,
  skip,
  type Target,
  TARGETS,
  withContainer,
} from "../support/engine.ts";
import { isInitOf } from "../../main.ts";
import { entries, ROOT, run as runMain, sleep, until, withRoutesOf } from "../support/harness.ts";

const ROUTES = `
if (runtime.variable("NEVER_HEALTHY")) { // accepts, and never answers
  process.getBuiltinModule("node:net").createServer(() => {}).listen(8080, "0.0.0.0");
  await new Promise(() => {});
}
app.get("/wedge", () => { for (;;); });
app.get("/wait", () => {
  Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0);
  return new Response();
});
app.get("/block/:ms", (c) => {
  for (const end = Date.now() + Number(c.req.param("ms")); Date.now() < end;);
  return c.text("back");
});
let started = 0;
app.get("/slow/:ms", async (c) => {
  started++;
  await sleep(Number(c.req.param("ms")));
  return c.text("whole");
});
app.get("/started", (c) => c.text(String(started)));
app.get("/crash", () => {
  setTimeout(() => { throw new Error("a crash of the user's own"); });
  return new Response();
});
app.get("/memory", () => { for (const held = [];;) held.push(new Uint8Array(1 << 20).fill(1)); });
`;
/** A probe every second that fails after half of one: a streak is full in seconds. */
const FAST = [
  "--health-interval",
  "1s",
  "--env",
  "PING_TIMEOUT_MS=500",
  "--publish",
  "127.0.0.1::8080",
];
const HEAL_AFTER_MS = 4000;
const HEALING = [...FAST, "--env", `HEAL_AFTER_MS=${HEAL_AFTER_MS}`];

before(async () => {
  if (skip) return;
  const source = readFileSync(`${ROOT}/main.ts`, "utf8");
  for (const target of TARGETS) await build(target, "plain", withRoutesOf(source, ROUTES));
}, { timeout: 600_000 });

after(async () => {
  if (!skip) await removeImages();
});

/** Asks a route whose answer may never come. */
const ask = async (container: string, path: string) =>
  await fetch(`http://127.0.0.1:${await published(container)}${path}`).then(
    (r) => r.text(),
    String,
  );

/** Listens to health, ends with exit codes and starts, because Docker keeps but 256 events. */
async function withEvents(
  container: string,
  body: (told: { ms: number; what: string }[]) => Promise<void>,
) {
  const told: { ms: number; what: string }[] = [];
  const filters = [`container=${container}`, "event=health_status", "event=die", "event=start"];
  const listener = spawn("docker", [
    "events",
    ...filters.flatMap((filter) => ["--filter", filter]),
    ...["--format", "{{.TimeNano}} {{.Action}} {{.Actor.Attributes.exitCode}}"],
  ]);
  createInterface(listener.stdout).on("line", (line) => {
    const [nano, ...words] = line.split(" ");
    const what = words.join(" ").replace("health_status: ", "").replace(" <no value>", "");
    told.push({ ms: Number(nano) / 1e6, what });
  });
  try {
    await body(told);
  } finally {
    listener.kill();
    await once(listener, "exit");
  }
}

/** The state of the runtime by proc_pid_stat(5): running, sleeping or stopped. */
const RUNNING = /^R/;
const SLEEPING = /^S/;
const STOPPED = /^T/;

/** The log of the container has one line, which says why there was a restart. */
async function assertTrace(container: string, state: RegExp) {
  const { stdout, stderr } = await run("docker", ["logs", container]);
  const traces = [...entries(stdout), ...entries(stderr)].filter(({ healed }) => healed);
  assert.equal(traces.length, 1, "not one line tells of the healing");
  const [trace] = traces;
  assert.match(`${trace.healed}`, /^unhealthy: [ -~]+; ended the service after \d+ ms$/);
  assert.match(`${trace.state}`, state);
  assert.ok(Math.abs(Number(trace.time) - Date.now()) < 200_000);
}

/**
 * Wedges a healthy container and waits until it was ended and is healthy again. Checks what Docker
 * and the log told of it.
 */
async function heals(
  t: TestContext,
  container: string,
  state: RegExp,
  wedge: () => unknown,
) {
  await health(container, "healthy");
  await withEvents(container, async (told) => {
    await sleep(1000); // the listener connects
    const wedgedMs = Date.now();
    void wedge();
    await until(
      () => Promise.resolve(told.at(-1)?.what === "healthy" && told.length >= 4),
      "healed container",
    );
    assert.deepEqual(told.map(({ what }) => what), ["unhealthy", "die 142", "start", "healthy"]);
    say(
      t,
      `${t.name}: ${
        told.map(({ ms, what }) => `${what} ${((ms - wedgedMs) / 1000).toFixed(1)} s`)
      } after the wedge`,
    );
    await assertTrace(container, state);
    // No loop: nothing ends it again.
    await sleep(HEAL_AFTER_MS + 2000);
    assert.equal(told.length, 4);
    assert.equal((await inspect(container)).Health.Status, "healthy");
  });
}

const outputs = async (container: string) =>
  (await inspect(container)).Health.Log.map(({ Output }) => Output);

/** Waits until the last probe printed this. */
const untilOutput = (container: string, text: string) =>
  until(async () => (await outputs(container)).at(-1)!.includes(text), text);

/** Runs the image's probe several times in the same second. Each finds that it is unhealthy. */
async function assertUnhealthyAtOnce(container: string, target: Target, count: number) {
  const probe = await probeCommand(target);
  const ask = () => docker(["exec", container, ...probe]).catch(String);
  for (const said of await Promise.all(Array.from({ length: count }, ask))) {
    assert.match(said, /unhealthy: /);
  }
}

/** A service that is wedged, and whose process 1 is another one, is not ended. */
async function assertLeftAlone(target: Target, pid: string) {
  await withContainer(target, [...HEALING, "--pid", pid], async (container) => {
    await health(container, "healthy");
    void ask(container, "/wedge");
    await untilOutput(container, "; not counted: process 1 is not this container's init");
    await sleep(HEAL_AFTER_MS + 1000);
    assert.equal((await inspect(container)).Status, "running");
    await docker(["kill", container]);
  });
}

/** So many containers at a time, because each that is wedged takes a core. */
const CONTAINERS_AT_ONCE = 3;
const LIMIT = { timeout: 200_000 };

for (const target of TARGETS) {
  describe(`${target}: healing`, { concurrency: CONTAINERS_AT_ONCE, skip }, () => {
    test(
      "an event loop that turns for ever is ended and healthy again, and the log says why",
      LIMIT,
      async (t) => {
        await withContainer(
          target,
          [...HEALING, ...LOCKED, "--restart", "unless-stopped"],
          async (container) => {
            await heals(t, container, RUNNING, () => ask(container, "/wedge"));
          },
        );
      },
    );
    test("a runtime stopped from inside is ended under on-failure", LIMIT, async (t) => {
      await withContainer(
        target,
        [...HEALING, "--restart", "on-failure:3"],
        async (container) => {
          await heals(t, container, STOPPED, () => signalRuntime(container, target, "SIGSTOP"));
        },
      );
    });
    test("without a policy it stays ended, with exit code 142, and says why", LIMIT, async () => {
      await withContainer(target, HEALING, async (container) => {
        await health(container, "healthy");
        void ask(container, "/wedge");
        await until(async () => (await inspect(container)).Status === "exited", "end");
        assert.equal((await inspect(container)).ExitCode, 142);
        const all = (await outputs(container)).map((text) => /; (\w+)/.exec(text)?.[1]);
        const notes = all.filter((note) => note !== undefined);
        assert.ok(notes.length >= 3, notes.join());
        for (const note of notes) assert.match(note, /^(noted|ended)$/);
        await assertTrace(container, RUNNING);
      });
    });
    test("not asked for, it is left alone", LIMIT, async () => {
      await withContainer(target, FAST, async (container) => {
        await health(container, "healthy");
        void ask(container, "/wedge");
        await health(container, "unhealthy");
        await sleep(HEAL_AFTER_MS + 4000);
        assert.equal((await inspect(container)).Status, "running");
        for (const text of await outputs(container)) assert.doesNotMatch(text, /;/);
      });
    });
    test(
      "hiccups shorter than the time, and one across a pause longer than it, are left alone",
      LIMIT,
      async () => {
        await withContainer(
          target,
          [...HEALING, "--restart", "unless-stopped"],
          async (container) => {
            await health(container, "healthy");
            for (let hiccup = 0; hiccup < 2; hiccup++) {
              assert.equal(await ask(container, "/block/2500"), "back");
              await until(
                async () => (await outputs(container)).at(-1)!.startsWith("healthy"),
                "healthy probe",
              );
            }
            const blocked = ask(container, "/block/5000");
            await until(
              async () => (await outputs(container)).at(-1)!.includes("noted: "),
              "noted failure",
            );
            await docker(["pause", container]);
            await sleep(HEAL_AFTER_MS + 1000);
            await docker(["unpause", container]);
            assert.equal(await blocked, "back");
            await health(container, "healthy");
            assert.equal(
              await docker(["inspect", "--format", "{{.RestartCount}}", container]),
              "0",
            );
          },
        );
      },
    );
    test(
      "a service that never becomes healthy is not ended, and the probe says so",
      LIMIT,
      async () => {
        const flags = [...HEALING, "--env", "NEVER_HEALTHY=1"];
        await withContainer(target, flags, async (container) => {
          await health(container, "unhealthy");
          await sleep(HEAL_AFTER_MS + 2000);
          assert.equal((await inspect(container)).Status, "running");
          assert.match((await outputs(container)).at(-1)!, /; not counted: never healthy\n$/);
        });
      },
    );
    test("a drain longer than the time loses nothing", LIMIT, async () => {
      const { port, flags } = await onHostNetwork();
      const timing = [
        "--health-interval",
        "1s",
        "--env",
        "PING_TIMEOUT_MS=500",
        "--stop-timeout",
        "30",
      ];
      const settings = [
        "--env",
        `HEAL_AFTER_MS=${HEAL_AFTER_MS}`,
        "--env",
        "SHUTDOWN_TIMEOUT_MS=20000",
      ];
      await withContainer(target, [...flags, ...timing, ...settings], async (container) => {
        await health(container, "healthy");
        const get = (path: string) =>
          fetch(`http://127.0.0.1:${port}${path}`).then((r) => r.text(), String);
        const slow = get(`/slow/${HEAL_AFTER_MS + 4000}`);
        await until(async () => await get("/started") === "1", "request in flight");
        await docker(["stop", container]);
        assert.equal(await slow, "whole");
        assert.equal((await inspect(container)).ExitCode, 0);
      });
    });
    test(
      "without /dev/shm, or with a folder in the file's place, only the healing is lost",
      LIMIT,
      async () => {
        for (const flags of [["--ipc", "none"], ["--tmpfs", "/dev/shm/heartbeat-streak"]]) {
          await withContainer(target, [...HEALING, ...flags], async (container) => {
            const { Health } = await health(container, "healthy");
            assert.match(Health.Log.at(-1)!.Output, /^healthy: [^;]+; cannot note: "[ -~]+"\n$/);
            void ask(container, "/wedge");
            await health(container, "unhealthy");
            assert.equal((await inspect(container)).Status, "running");
          });
        }
      },
    );
    test("probes at once end nothing early", LIMIT, async () => {
      await withContainer(
        target,
        [...FAST, "--env", "HEAL_AFTER_MS=60000"],
        async (container) => {
          await health(container, "healthy");
          await signalRuntime(container, target, "SIGSTOP");
          await untilOutput(container, "noted: 1 failures");
          await assertUnhealthyAtOnce(container, target, 5);
          assert.equal((await inspect(container)).Status, "running");
        },
      );
    });
    test("another process 1 is left alone: of the host, of a second instance", LIMIT, async () => {
      await withContainer(target, [...HEALING, "--restart", "unless-stopped"], async (other) => {
        await health(other, "healthy");
        for (const pid of ["host", `container:${other}`]) await assertLeftAlone(target, pid);
        assert.equal(await docker(["inspect", "--format", "{{.RestartCount}}", other]), "0");
      });
    });
    test("under docker run --init it works the same", LIMIT, async (t) => {
      await withContainer(
        target,
        [...HEALING, "--init", "--restart", "unless-stopped"],
        async (container) => {
          await heals(t, container, SLEEPING, () => ask(container, "/wait"));
        },
      );
    });
    test("ends of other kinds keep their exit codes, and zombies are reaped", LIMIT, async () => {
      const ends: [number, (container: string) => Promise<unknown>, string[]][] = [
        [1, (container) => ask(container, "/crash"), []],
        [137, (container) => docker(["kill", container]), []],
        [137, (container) => Promise.resolve(void ask(container, "/memory")), [
          "--memory",
          "96m",
        ]],
      ];
      for (const [code, end, flags] of ends) {
        await withContainer(target, [...HEALING, ...flags], async (container) => {
          await health(container, "healthy");
          await end(container);
          await until(
            async () => (await inspect(container)).Status === "exited",
            `end with ${code}`,
          );
          assert.equal((await inspect(container)).ExitCode, code);
        });
      }
      await withContainer(target, HEALING, async (container) => {
        await health(container, "healthy");
        // A child whose parent is gone becomes the init's.
        const orphan = target === "deno"
          ? [
            "/bin/deno",
            "eval",
            `new Deno.Command("/bin/deno", { args: ["eval", ""] }).spawn(); Deno.exit()`,
          ]
          : [
            "/bin/node",
            "-e",
            `child_process.spawn("/bin/node", ["-e", ""], { detached: true }).unref()`,
          ];
        await docker(["exec", container, ...orphan]);
        const titles = async () =>
          (await docker(["top", container, "-o", "pid,stat"])).split("\n").slice(1);
        await until(async () => (await titles()).length === 2, "reaped child");
        assert.ok((await titles()).every((title) => !title.includes("Z")));
      });
    });
  });

  const options = { skip, ...LIMIT };
  test(`${target}: a stop right after the start is heard, twenty times`, options, async (t) => {
    const tookMs: number[] = [];
    for (let i = 0; i < 20; i++) {
      await withContainer(target, [], async (container) => {
        const startMs = performance.now();
        await docker(["stop", container]);
        tookMs.push(performance.now() - startMs);
        assert.equal((await inspect(container)).ExitCode, 0);
      });
    }
    say(t, `the slowest of 20 stops took ${Math.max(...tookMs).toFixed()} ms`);
    assert.ok(Math.max(...tookMs) < 5000);
  });
}

test(
  "with the image's own timing: unhealthy and its event first, then the end",
  { skip, ...LIMIT },
  async (t) => {
    const flags = [
      "--publish",
      "127.0.0.1::8080",
      "--env",
      "HEAL_AFTER_MS=30000",
      "--restart",
      "unless-stopped",
    ];
    await withContainer("deno", flags, async (container) => {
      await heals(t, container, RUNNING, () => ask(container, "/wedge"));
    });
  },
);

test("isInitOf() takes an init that runs the program, also behind an emulator", () => {
  const program = "/app/main.js";
  const run = ["/bin/deno", "run", "--allow-env", program, ""];
  for (
    const init of [
      ["/bin/tini", "-s", "--"],
      ["tini", "--"],
      ["/sbin/docker-init", "--", "/bin/tini", "-s", "--"],
      ["/usr/bin/qemu-aarch64", "/bin/tini", "-s", "--"],
      ["/usr/libexec/qemu-binfmt/aarch64-binfmt-P", "/bin/tini", "/bin/tini", "-s", "--"],
      ["/run/rosetta/rosetta", "/bin/tini", "-s", "--"],
    ]
  ) assert.equal(isInitOf(program, [...init, ...run]), true, init.join(" "));
  for (
    const args of [
      [""],
      run,
      ["/sbin/init", ""],
      ["/bin/sh", "-c", "tini", ...run],
      ["/usr/bin/qemu-aarch64", ...run],
      ["/usr/bin/notini", ...run],
      ["/bin/tini", "--", "/bin/deno", "run", "/app/other.js", ""],
      ["/bin/tini\0--", ...run],
    ]
  ) assert.equal(isInitOf(program, args), false, args.join(" "));
});

test("--ping on a host, where process 1 is another, does no harm", async () => {
  const { code, stderr } = await runMain(["--ping"], { PORT: "1", HEAL_AFTER_MS: "1" });
  assert.equal(code, 1);
  assert.match(stderr, /^unhealthy: .+; not counted: nothing listens\n$/);
});
