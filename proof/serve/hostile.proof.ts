/** Hostile clients: malformed requests, held connections, no file descriptors left. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { describe, test } from "node:test";
import { Client, sleep, STACK, until, withRoutes, withService } from "../support/harness.ts";
import { assertHealthy } from "../support/health.ts";
import { HOSTILE } from "../support/hostile.ts";
import { onEveryRuntime } from "../support/subjects.ts";

const ECHO = `app.post("/echo", async (c) => c.text(await c.req.text()));`;
const HELD_CONNECTIONS = 500;
/** Nothing has to come: many such requests are only half there. */
const ANSWER_MS = 50;
const WAYS = ["whole", "cut", "byte by byte"] as const;

/** Sends a request in that way. Returns what came of it. */
async function sendHostile(port: number, request: string, way: typeof WAYS[number]) {
  const client = new Client(port);
  await once(client.socket, "connect");
  client.socket.setNoDelay();
  for (const part of way === "byte by byte" ? request.split("") : [request]) {
    await new Promise<void>((sent) => {
      client.socket.write(part, "latin1", () => sent());
    });
  }
  if (way === "cut") {
    client.socket.resetAndDestroy();
  } else {
    const answered = once(client.socket, "data").catch(() => {});
    await Promise.race([answered, client.ended, sleep(ANSWER_MS)]);
  }
  client.socket.destroy();
  return client.received;
}

describe("the service", () =>
  onEveryRuntime(({ runtime }) => {
    test(`survives ${HOSTILE.length} hostile requests, whole, cut and byte by byte`, async (t) => {
      await withRoutes({}, ECHO, async (service) => {
        let answers = 0;
        for (const request of HOSTILE) {
          for (const way of WAYS) {
            if (way === "byte by byte" && request.length > 500) continue;
            const received = await sendHostile(service.port, request, way);
            assert.doesNotMatch(received, STACK);
            if (received) answers += 1;
            await assertHealthy(service.port);
          }
        }
        service.kill("SIGTERM");
        assert.equal(await service.exit, 0, service.stderr);
        assert.match(service.stdout, /^Draining, requests in flight: 0$/m);
        assert.doesNotMatch(service.stdout + service.stderr, STACK);
        assert.ok(!(service.stdout + service.stderr).includes("\x1b"));
        assert.ok(answers > HOSTILE.length, "hardly any was answered");
        t.diagnostic(`${answers} answers, a healthy probe after each`);
      }, { runtime });
    });

    test(`is healthy beside ${HELD_CONNECTIONS} silent and half-sent connections`, async (t) => {
      await withService({}, async ({ port, kill, exit }) => {
        const clients = Array.from({ length: HELD_CONNECTIONS }, (_, i) => {
          const client = new Client(port);
          return i % 2 ? client : client.send("GET / HTTP/1.1\r\nHo");
        });
        await Promise.all(clients.map((client) => once(client.socket, "connect")));
        const startMs = performance.now();
        for (let asked = 0; asked < 10; asked += 1) await assertHealthy(port);
        t.diagnostic(`a probe took ${((performance.now() - startMs) / 10).toFixed(1)} ms`);
        kill("SIGTERM");
        assert.equal(await exit, 0);
        for (const client of clients) client.socket.destroy();
      }, { runtime });
    });

    test("keeps its connections without file descriptors, and recovers in a second", async (t) => {
      await withService({ ACCESS_LOG: "off" }, async ({ port, kill, exit }) => {
        const first = new Client(port);
        const askAgain = async () => {
          first.received = "";
          await first.get("/healthz").until(/^HTTP\/1\.1 200[^]*\r\n\r\n/);
        };
        await askAgain();
        const clients = Array.from({ length: 120 }, () => new Client(port));
        await Promise.all(clients.map(({ socket, ended }) => {
          const connected = once(socket, "connect").catch(() => {});
          return Promise.race([connected, ended]);
        }));
        await Promise.race(clients.map(({ ended }) => ended)); // some get none, so it has run out
        await askAgain();
        for (const client of clients) client.socket.destroy();
        const startMs = performance.now();
        await until(() => assertHealthy(port).then(() => true, () => false), "recovery", 1000);
        t.diagnostic(`it recovered after ${(performance.now() - startMs).toFixed()} ms`);
        await askAgain();
        kill("SIGTERM");
        assert.equal(await exit, 0);
      }, { runtime, before: "ulimit -n 64" });
    });
  }));
