/** The command --ping: wrong servers, and many probes at once. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { run, TEST_TIMEOUT_MS, withFake, withService } from "../support/harness.ts";
import { WRONG_ANSWERS } from "../support/hostile.ts";
import { onEveryRuntime } from "../support/subjects.ts";

const PROBES_AT_ONCE = 50;
/** Many probes share two cores, so that one takes seconds to start. */
const PATIENCE_MS = 4000;

onEveryRuntime(({ runtime }) => {
  test(`--ping calls ${WRONG_ANSWERS.length} servers that answer wrongly unhealthy`, async (t) => {
    let slowestMs = 0;
    await Promise.all(
      WRONG_ANSWERS.map(([name, answer, expected]) =>
        withFake(answer, async (port) => {
          const startMs = performance.now();
          const env = { PORT: `${port}`, PING_TIMEOUT_MS: `${PATIENCE_MS}` };
          const { code, stdout, stderr } = await run(["--ping"], env, { runtime });
          slowestMs = Math.max(slowestMs, performance.now() - startMs);
          assert.deepEqual([code, stdout], [1, ""], name);
          assert.match(stderr.trimEnd(), expected, name);
          assert.match(stderr, /^unhealthy: [ -~]{1,300}\n$/, name);
        })
      ),
    );
    assert.ok(slowestMs < TEST_TIMEOUT_MS / 2);
    t.diagnostic(`the slowest of all at once took ${slowestMs.toFixed()} ms`);
  });

  test(`${PROBES_AT_ONCE} probes at once are healthy`, async (t) => {
    const startMs = performance.now();
    await withService({}, async ({ ping }) => {
      const ask = () => ping({ PING_TIMEOUT_MS: "15000" });
      const probes = await Promise.all(Array.from({ length: PROBES_AT_ONCE }, ask));
      assert.deepEqual(probes.filter(({ code }) => code !== 0), []);
    }, { runtime });
    t.diagnostic(`all healthy, in ${((performance.now() - startMs) / 1000).toFixed(1)} s`);
  });
});
