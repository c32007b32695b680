/** What `ready` says is what /readyz answers, and what the log tells. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { entries, until } from "../support/harness.ts";
import { ask, get } from "../support/http.ts";
import { onEveryRuntime } from "../support/subjects.ts";

const ROUTES = `
let mode = "fine";
app.get("/mode/:mode", (c) => {
  mode = c.req.param("mode");
  return c.text(mode);
});
return {
  ready() {
    console.log("asked");
    if (mode === "throws") throw new Error("SECRET of readiness");
    if (mode === "rejects") return Promise.reject(new Error("SECRET of readiness"));
    if (mode === "hangs") return new Promise(() => {});
    return mode !== "false";
  },
};
`;
const READY = '200 {"status":"ready"}';
const UNREADY = '503 {"status":"unready"}';
/** Twice the shortest time between two calls of `ready`, and some time on a busy machine. */
const TURN_MS = 2600;

async function askReady(port: number): Promise<string> {
  const { status, body } = await ask(port, get("/readyz"));
  return `${status} ${body}`;
}

/** Lets `ready` say something else, and waits until /readyz does. */
async function turn(port: number, mode: string, answer: string): Promise<void> {
  await ask(port, get(`/mode/${mode}`));
  await until(async () => await askReady(port) === answer, `${answer} of ${mode}`, TURN_MS);
  await Promise.all([askReady(port), askReady(port), askReady(port)]);
}

onEveryRuntime(({ inRoutes }) => {
  test("/readyz answers what ready() says, and the log tells of a change once", async () => {
    await inRoutes({}, ROUTES, async (service) => {
      const { port } = service;
      const startMs = performance.now();
      assert.equal(await askReady(port), READY);
      for (const mode of ["false", "throws", "rejects", "hangs"]) {
        await turn(port, mode, UNREADY);
        assert.equal((await ask(port, get("/healthz"))).status, 200);
        await turn(port, "fine", READY);
      }
      const errors = entries(service.stderr).map(({ status, error }) => `${status}: ${error}`);
      assert.deepEqual(errors, [
        "unready: ready() returned false",
        "unready: Error: SECRET of readiness",
        "unready: Error: SECRET of readiness",
        "unready: Error: ready() took more than 1000 ms",
      ]);
      assert.equal(entries(service.stdout).filter(({ status }) => status === "ready").length, 4);
      const asked = service.stdout.match(/^asked$/gm)!.length;
      assert.ok(asked <= (performance.now() - startMs) / 1000 + 1, `asked ${asked} times`);
      assert.deepEqual(entries(service.stdout).filter(({ path }) => path === "/readyz"), []);
    });
  });

  test("probes share what ready() says, and wait for at most a second", async () => {
    await inRoutes({}, ROUTES, async ({ port }) => {
      await ask(port, get("/mode/hangs"));
      const startMs = performance.now();
      const answers = await Promise.all(Array.from({ length: 5 }, () => askReady(port)));
      assert.ok(performance.now() - startMs < 1300);
      assert.deepEqual(answers, Array(5).fill(UNREADY));
    });
  });
});
