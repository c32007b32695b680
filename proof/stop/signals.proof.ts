/** The signals in every order: one drains, a second one ends. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { cut, stop, untilPrinted, withService } from "../support/harness.ts";
import { onEveryRuntime } from "../support/subjects.ts";

const SIGNALS = ["SIGTERM", "SIGINT"] as const;

onEveryRuntime(({ runtime }) => {
  for (const first of SIGNALS) {
    test(`${first} alone ends with 0`, async () => {
      await withService({}, async (service) => {
        assert.equal((await stop(service, first)).code, 0);
      }, { runtime });
    });

    for (const second of SIGNALS) {
      test(`${first} and then ${second} ends with 1`, async () => {
        await withService({ DRAIN_DELAY_MS: "60000" }, async (service) => {
          service.kill(first);
          await untilPrinted(service, () => /^Draining/m.exec(service.stdout));
          await cut(service, second);
        }, { runtime });
      });
    }
  }
});
