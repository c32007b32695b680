/** The command --ping: wrong servers, none, many probes at once, a closed output. */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type Env,
  freePort,
  run,
  TEST_TIMEOUT_MS,
  withFake,
  withService,
} from "../support/harness.ts";
import { WRONG_ANSWERS } from "../support/hostile.ts";
import { onEveryRuntime } from "../support/subjects.ts";

const PROBES_AT_ONCE = 50;
/** Many probes share two cores, so that one takes seconds to start. */
const PATIENCE_MS = 4000;

onEveryRuntime(({ runtime }) => {
  test(`${WRONG_ANSWERS.length} servers answer wrongly, late, endlessly or half`, async (t) => {
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

  test("nothing listens on the port", async () => {
    const { code, stderr } = await run(["--ping"], { PORT: `${await freePort()}` }, { runtime });
    assert.equal(code, 1);
    assert.match(stderr, /^unhealthy: [ -~]+refused[ -~]*\n$/i);
  });

  test("the environment leads astray", async () => {
    const proxy = "http://127.0.0.1:1";
    const misleading: Env = {
      NODE_USE_ENV_PROXY: "1",
      NO_COLOR: "",
      FORCE_COLOR: "1",
      NODE_ENV: "test",
      DEBUG: "*",
      no_proxy: "",
    };
    for (const name of ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]) {
      Object.assign(misleading, { [name]: proxy, [name.toLowerCase()]: proxy });
    }
    await withService({}, async ({ ping }) => {
      const { code, stdout } = await ping(misleading);
      assert.equal(code, 0);
      assert.match(stdout, /^healthy: [ -~]+\n$/);
    }, { runtime });
  });

  test("its output is closed or full", async () => {
    await withService({}, async ({ port }) => {
      const env = { HOST: "127.0.0.1", PORT: `${port}` };
      for (const output of [">&-", ">&- 2>&-", ">/dev/full", ">/dev/full 2>&1"]) {
        const healthy = await run(["--ping"], env, { runtime, output });
        assert.equal(healthy.code, 0, output);
        const refused = await run(["--ping"], { PORT: "1" }, { runtime, output });
        assert.equal(refused.code, 1, output);
      }
    }, { runtime });
  });

  test(`${PROBES_AT_ONCE} ask at once`, async (t) => {
    const startMs = performance.now();
    await withService({}, async ({ ping }) => {
      const ask = () => ping({ PING_TIMEOUT_MS: "15000" });
      const probes = await Promise.all(Array.from({ length: PROBES_AT_ONCE }, ask));
      assert.deepEqual(probes.filter(({ code }) => code !== 0), []);
    }, { runtime });
    t.diagnostic(`all healthy, in ${((performance.now() - startMs) / 1000).toFixed(1)} s`);
  });
});
