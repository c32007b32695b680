/** What a service does under load: it answers every request, its probe and its stop work. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  allRuntimes,
  launch,
  ROOT,
  type Runtime,
  TSX,
  untilPrinted,
  withService,
} from "../support/harness.ts";
import { assertHealthy } from "../support/health.ts";

const REQUESTS = 1_000_000;
const PROBES = 100;
const CONNECTIONS = 64;

/** Starts the load with the arguments that load.ts names. */
function startLoad(...args: number[]) {
  const program = [...TSX.options, `${ROOT}/proof/support/load.ts`];
  return launch([...program, ...args.map(String)], {}, { runtime: TSX });
}

/** Runs the load to its end. */
async function load(...args: number[]) {
  const program = startLoad(...args);
  assert.equal(await program.exit, 0, program.stderr);
  const last = program.stdout.trim().split("\n").at(-1)!;
  return JSON.parse(last) as { sent: number; answered: number; refused: number };
}

function define(runtime: Runtime): void {
  test(`${PROBES} probes are healthy under a load that saturates a core`, async (t) => {
    await withService({ ACCESS_LOG: "off" }, async ({ port }) => {
      let slowestMs = 0;
      const loading = startLoad(port, CONNECTIONS, 0, 16);
      try {
        await untilPrinted(loading, () => loading.stdout);
        for (let asked = 0; asked < PROBES; asked += 1) {
          const startMs = performance.now();
          await assertHealthy(port);
          slowestMs = Math.max(slowestMs, performance.now() - startMs);
        }
      } finally {
        loading.kill("SIGKILL");
        await loading.exit;
      }
      t.diagnostic(`the slowest took ${slowestMs.toFixed()} ms`);
    }, { runtime });
  });

  test(`${REQUESTS.toLocaleString("en")} requests are all answered`, async (t) => {
    await withService({ ACCESS_LOG: "off" }, async ({ port, kill, exit }) => {
      const startMs = performance.now();
      const { sent, answered } = await load(port, CONNECTIONS, REQUESTS, 32);
      assert.deepEqual([sent, answered], [REQUESTS, REQUESTS]);
      t.diagnostic(`${Math.round(answered / (performance.now() - startMs))} in a millisecond`);
      kill("SIGTERM");
      assert.equal(await exit, 0);
    }, { runtime });
  });

  for (const DRAIN_DELAY_MS of ["0", "300"]) {
    test(`a stop answers all that it accepted, with a delay of ${DRAIN_DELAY_MS} ms`, async (t) => {
      await withService({ DRAIN_DELAY_MS }, async (service) => {
        const loaded = load(service.port, CONNECTIONS, 0, 1);
        await untilPrinted(service, () => service.stdout.length > 100_000 || undefined);
        service.kill("SIGTERM");
        assert.equal(await service.exit, 0, service.stderr);
        const { sent, answered, refused } = await loaded;
        const accepted = service.stdout.split("\n").filter((line) => line.startsWith("{")).length;
        assert.equal(answered, accepted);
        assert.equal(refused, CONNECTIONS, "each connection ends by a refused one");
        // The kernel resets what it took for the service and the service had not yet accepted.
        const reset = sent - answered;
        assert.ok(reset <= CONNECTIONS, `${reset} requests were lost without a line`);
        t.diagnostic(`${accepted} accepted and answered, ${reset} reset`);
      }, { runtime });
    });
  }
}

for (const runtime of allRuntimes()) describe(runtime.name, () => define(runtime));
