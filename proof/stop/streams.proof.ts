/** Event streams and WebSockets hold up no stop. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { describe, test } from "node:test";
import { WebSocket } from "ws";
import { Client, entries, stop } from "../support/harness.ts";
import { ask, get, split } from "../support/http.ts";
import { onEveryRuntime, onEverySubject } from "../support/subjects.ts";

/** Within this the stop of an idle service is over, whatever streams and sockets are open. */
const PROMPT_MS = 1000;

describe("the service of items", () =>
  onEverySubject(({ inService }) => {
    test("ends open event streams by `stopping`, and the stop is prompt", async () => {
      await inService({}, async (service) => {
        const clients = Array.from({ length: 30 }, () => new Client(service.port).get("/events"));
        for (const client of clients) await client.until(/event: hello/);
        const { code, ms } = await stop(service);
        assert.equal(code, 0);
        assert.ok(ms < PROMPT_MS, `the stop took ${ms} ms`);
        for (const client of clients) {
          await client.ended;
          const { responses, isComplete } = split(client.received);
          assert.ok(isComplete);
          assert.match(responses[0].body, /event: bye/);
        }
        assert.doesNotMatch(service.stderr, /warning/i);
        assert.equal(entries(service.stdout).filter(({ path }) => path === "/events").length, 30);
      });
    });

    test("closes open WebSockets with 1001, and the stop is prompt", async () => {
      await inService({}, async (service) => {
        const url = `ws://127.0.0.1:${service.port}/ws`;
        const sockets = Array.from({ length: 3 }, () => new WebSocket(url));
        for (const socket of sockets) {
          if (socket.readyState !== WebSocket.OPEN) await once(socket, "open");
        }
        const closes = sockets.map((socket) => once(socket, "close"));
        const { code, ms } = await stop(service);
        assert.equal(code, 0);
        assert.ok(ms < PROMPT_MS, `the stop took ${ms} ms`);
        for (const close of closes) assert.equal((await close)[0], 1001);
        assert.match(service.stdout, /^Draining, requests in flight: 0$/m);
        assert.equal(service.stderr.replace(/^No SQLite.*\n/, ""), "");
        const accepted = entries(service.stdout).filter(({ status }) => status === 101);
        assert.equal(accepted.filter(({ path }) => path === "/ws").length, 3);
      });
    });
  }));

const ROUTES = `
app.get("/", (c) => c.text("ok"));
app.get("/listen", (c) => new Promise((resolve) =>
  stopping.addEventListener("abort", () => resolve(c.text("stopping")))));
`;

onEveryRuntime(({ inRoutes }) => {
  test("30 routes may listen on `stopping`", async () => {
    await inRoutes({}, ROUTES, async (service) => {
      const clients = Array.from({ length: 30 }, () => new Client(service.port).get("/listen"));
      await ask(service.port, get("/"));
      const { code, ms } = await stop(service);
      assert.equal(code, 0);
      assert.ok(ms < PROMPT_MS);
      for (const client of clients) {
        await client.ended;
        assert.match(client.received, /stopping$/);
      }
      assert.equal(service.stderr, "");
    });
  });
});
