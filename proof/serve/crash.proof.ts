/** A crash of the user's code loses no line of a request that is over. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { entries } from "../support/harness.ts";
import { get, talk } from "../support/http.ts";
import { onEveryRuntime } from "../support/subjects.ts";

/** The crash comes before the gathered lines would be written. */
const ROUTES = `
const fail = () => { throw new Error("a crash of the user's own"); };
const crashes: Record<string, () => unknown> = {
  throw: fail,
  reject: async () => fail(),
  exit: () => runtime.exit(7),
};
app.get("/crash/:how", (c) => {
  setTimeout(crashes[c.req.param("how")], 4);
  return c.text("crashing");
});
`;
const CODES = { throw: 1, reject: 1, exit: 7 };

onEveryRuntime(({ inRoutes }) => {
  for (const [how, code] of Object.entries(CODES)) {
    test(`its request has its line after a crash by ${how}`, async () => {
      await inRoutes({}, ROUTES, async (service) => {
        await talk(service.port, get(`/crash/${how}`));
        assert.equal(await service.exit, code, service.stderr);
        const paths = entries(service.stdout).map(({ path }) => path);
        assert.deepEqual(paths, [`/crash/${how}`]);
        if (how !== "exit") assert.match(service.stderr, /a crash of the user's own/);
      });
    });
  }
});
