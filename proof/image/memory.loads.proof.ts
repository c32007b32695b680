/**
 * Run by `npm run test:image`, after the others because it loads the machine: both images live
 * within the memory limit of a locked-down container, with the access log on and the health check
 * running beside.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import {
  build,
  docker,
  health,
  LOCKED,
  onHostNetwork,
  removeImages,
  run,
  say,
  skip as withoutEngine,
  TARGETS,
  withContainer,
} from "../support/engine.ts";
import { missing } from "../support/harness.ts";

const CONNECTIONS = [8, 64, 512];
const LOAD_S = 20;

const hasWrk = await run("wrk", ["--version"]).then(() => true, ({ code }) => code !== "ENOENT");
const skip = withoutEngine ||
  (!hasWrk && missing("wrk is not installed, so no image is loaded within its memory limit"));

before(async () => {
  if (!skip) { for (const target of TARGETS) await build(target); }
}, { timeout: 600_000 });

after(async () => {
  if (!withoutEngine) await removeImages();
});

/** Returns what a runtime holds, read from the machine: a process inside needs memory, too. */
function memory(init: number): string {
  const runtime = readFileSync(`/proc/${init}/task/${init}/children`, "utf8").split(" ")[0];
  const status = readFileSync(`/proc/${runtime}/status`, "utf8");
  const mib = (name: string) =>
    Math.round(Number(new RegExp(`${name}:\\s+(\\d+)`).exec(status)![1]) / 1024);
  return `at most ${mib("VmHWM")} MiB resident, its binary included; ${
    mib("RssAnon")
  } MiB of its own after the load`;
}

for (const target of TARGETS) {
  test(
    `${target}: stays within its memory under load, with the log on`,
    { skip, timeout: 240_000 },
    async (t) => {
      const { port, flags } = await onHostNetwork();
      const url = `http://127.0.0.1:${port}/`;
      // Without swap, so that nothing goes beyond the limit; with a bound for the disk.
      const bounds = ["--memory-swap", "96m", "--log-opt", "max-size=1m"];
      await withContainer(target, [...LOCKED, ...bounds, ...flags], async (container) => {
        await health(container, "healthy");
        const startedAt = await docker(["inspect", "--format", "{{.State.StartedAt}}", container]);
        for (const connections of CONNECTIONS) {
          const options = ["--threads=1", `--connections=${connections}`, `--duration=${LOAD_S}s`];
          const { stdout } = await run("wrk", [...options, url]);
          const format =
            "{{.State.Pid}} {{.State.Status}} {{.State.OOMKilled}} {{.State.StartedAt}}";
          const [init, ...state] = (await docker(["inspect", "--format", format, container])).split(
            " ",
          );
          assert.deepEqual(
            state,
            ["running", "false", startedAt],
            `after ${connections} connections`,
          );
          assert.doesNotMatch(stdout, /Non-2xx|(connect|read|write) [1-9]/);
          const [, perS] = /Requests\/sec:\s+([\d.]+)/.exec(stdout)!;
          assert.ok(Number(perS) * LOAD_S > connections, `${stdout}: a connection has no answer`);
          say(t, `${connections} connections: ${memory(Number(init))}; ${perS} requests/s`);
        }
        const log = await docker(["logs", "--tail", "1", container]);
        assert.match(log, /"path":"\/","status":200/, "the access log is on");
        assert.equal((await fetch(url)).status, 200);
        await health(container, "healthy");
      });
    },
  );
}
