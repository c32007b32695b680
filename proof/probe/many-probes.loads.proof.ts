/**
 * Many probes at once: of servers that answer wrongly or never, and of a healthy one.
 * probe.self.proof.ts has them one by one.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { allRuntimes, run, TEST_TIMEOUT_MS, withFake, withService } from "../support/harness.ts";
import { WRONG_ANSWERS } from "../support/hostile.ts";

const PROBES_AT_ONCE = 50;
/** Probes share two cores with the servers that they ask, so that an answer takes a while. */
const PATIENCE_MS = 4000;

// One test after the other, because each takes the whole machine.
for (const runtime of allRuntimes()) {
  const { name } = runtime;
  test(`${name}: ${WRONG_ANSWERS.length} servers that answer wrongly are unhealthy`, async (t) => {
    let slowestMs = 0;
    await Promise.all(
      WRONG_ANSWERS.map(([wrong, answer, expected]) =>
        withFake(answer, async (port) => {
          const startMs = performance.now();
          const env = { PORT: `${port}`, PING_TIMEOUT_MS: `${PATIENCE_MS}` };
          const { code, stdout, stderr } = await run(["--ping"], env, { runtime });
          slowestMs = Math.max(slowestMs, performance.now() - startMs);
          assert.deepEqual([code, stdout], [1, ""], wrong);
          assert.match(stderr.trimEnd(), expected, wrong);
          assert.match(stderr, /^unhealthy: [ -~]{1,300}\n$/, wrong);
        })
      ),
    );
    assert.ok(slowestMs < TEST_TIMEOUT_MS / 2);
    t.diagnostic(`the slowest of all at once took ${slowestMs.toFixed()} ms`);
  });

  test(`${name}: ${PROBES_AT_ONCE} probes at once are healthy`, async (t) => {
    const startMs = performance.now();
    await withService({}, async ({ ping }) => {
      const ask = () => ping({ PING_TIMEOUT_MS: "15000" });
      const probes = await Promise.all(Array.from({ length: PROBES_AT_ONCE }, ask));
      assert.deepEqual(probes.filter(({ code }) => code !== 0), []);
    }, { runtime });
    t.diagnostic(`all healthy, in ${((performance.now() - startMs) / 1000).toFixed(1)} s`);
  });
}
