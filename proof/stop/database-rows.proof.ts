/** A database keeps every row that was acknowledged, however the service ends. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { drain, type Service, sleep, stop, until } from "../support/harness.ts";
import { ask, get, send } from "../support/http.ts";
import { onEverySubject } from "../support/subjects.ts";

const WRITERS = 3;
/** A second signal this late is another one. */
const OTHER_SIGNAL_MS = 600;

/** Adds items until one is not acknowledged. */
async function write(port: number, writer: number, acknowledged: string[]): Promise<void> {
  for (let count = 0;; count += 1) {
    const name = `${writer}-${count}`;
    const body = JSON.stringify({ name });
    const { status } = await send(port, "/items", body).catch(() => ({ status: 0 }));
    if (status !== 201) return;
    acknowledged.push(name);
  }
}

/** The ends, each with its exit code. */
const ENDS: [string, number | null, (service: Service) => ReturnType<typeof stop>][] = [
  ["a stop", 0, (service) => stop(service)],
  ["a second signal", 1, async (service) => {
    await drain(service);
    await sleep(OTHER_SIGNAL_MS);
    return await stop(service);
  }],
  ["a SIGKILL", null, (service) => stop(service, "SIGKILL")],
];

onEverySubject(({ noRows, newData, inService }) => {
  if (noRows) return; // subjects.ts has printed why
  for (const [end, code, finish] of ENDS) {
    test(`every row that was acknowledged is there after ${end}`, async () => {
      const data = { SERVICE_DATA: newData() };
      const acknowledged: string[] = [];
      const DRAIN_DELAY_MS = end === "a second signal" ? "60000" : "0";
      await inService({ ...data, DRAIN_DELAY_MS }, async (service) => {
        const writers = Array.from(
          { length: WRITERS },
          (_, writer) => write(service.port, writer, acknowledged),
        );
        await until(() => acknowledged.length >= 30, "rows");
        assert.equal((await finish(service)).code, code);
        await Promise.all(writers);
      });
      await inService(data, async ({ port }) => {
        const items: { name: string }[] = JSON.parse((await ask(port, get("/items"))).body);
        const names = new Set(items.map(({ name }) => name));
        assert.deepEqual(acknowledged.filter((name) => !names.has(name)), []);
      });
    });
  }
});
