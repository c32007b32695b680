/** The hook `close`: when it runs, and what its failure does. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  assertOnlyEntries,
  Client,
  drain,
  entries,
  sleep,
  stop,
  untilPrinted,
} from "../support/harness.ts";
import { onEveryRuntime } from "../support/subjects.ts";

const ROUTES = `
app.get("/slow", async (c) => { console.log("ran"); await sleep(60_000); return c.text("whole"); });
return {
  async close() {
    console.log("closing");
    const close = runtime.variable("CLOSE");
    if (close === "fails") throw new Error("SECRET of the end");
    if (close === "is slow") await sleep(700);
    if (close === "is late") await sleep(60_000);
    console.log("closed");
  },
};
`;

describe("the hook `close`", () =>
  onEveryRuntime(({ inRoutes }) => {
    test("runs after the drain, with a second though less is left of the deadline", async () => {
      await inRoutes({ CLOSE: "is slow", SHUTDOWN_TIMEOUT_MS: "100" }, ROUTES, async (service) => {
        assert.equal((await stop(service)).code, 0);
        assert.match(service.stdout, /^Draining.*\nclosing\nclosed\n$/m);
        assert.equal(service.stderr, "");
      });
    });

    test("runs after a drain that was cut", async () => {
      await inRoutes({ SHUTDOWN_TIMEOUT_MS: "200" }, ROUTES, async (service) => {
        new Client(service.port).get("/slow");
        await untilPrinted(service, () => /^ran$/m.exec(service.stdout));
        assert.equal((await stop(service)).code, 1);
        assert.match(service.stdout, /^closing\nclosed$/m);
        assert.equal(service.stderr, "Cut after 200 ms, requests in flight: 1\n");
      });
    });

    test("does not run on a second signal", async () => {
      await inRoutes({}, ROUTES, async (service) => {
        new Client(service.port).get("/slow");
        await untilPrinted(service, () => /^ran$/m.exec(service.stdout));
        await drain(service);
        await sleep(600); // a signal within 500 ms is the same
        assert.equal((await stop(service, "SIGINT")).code, 1);
        assert.doesNotMatch(service.stdout, /clos/);
        assert.equal(service.stderr, "Cut by a second signal, requests in flight: 1\n");
      });
    });

    test("is logged in a line if it fails, and the exit code is 1", async () => {
      await inRoutes({ CLOSE: "fails" }, ROUTES, async (service) => {
        assert.equal((await stop(service)).code, 1);
        assertOnlyEntries(service.stderr);
        const [{ during, error, stack }, ...more] = entries(service.stderr);
        assert.deepEqual([during, error, more], ["close()", "Error: SECRET of the end", []]);
        assert.match(`${stack}`, /main\.ts:\d+/);
      });
    });

    test("is logged in a line if it takes more than what is left, and the code is 1", async () => {
      await inRoutes({ CLOSE: "is late", SHUTDOWN_TIMEOUT_MS: "1500" }, ROUTES, async (service) => {
        const { code, ms } = await stop(service);
        assert.equal(code, 1);
        assert.ok(ms >= 1400 && ms < 2500, `${ms} ms`);
        assertOnlyEntries(service.stderr);
        const [{ error }] = entries(service.stderr);
        assert.match(`${error}`, /^Error: close\(\) took more than 1[45]\d\d ms$/);
      });
    });
  }));
