/** The access log: a line for each request, and none that is lost. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, entries, lineOf, type Service, sleep } from "../support/harness.ts";
import { get, talk } from "../support/http.ts";
import { onEveryRuntime } from "../support/subjects.ts";

const ROUTES = `
const { bodyLimit } = await import("hono/body-limit");
app.get("/plain", (c) => {
  log(c, { user: "ada", nested: { a: 1 } });
  log(c, { order: 7 });
  return c.text("ok");
});
app.get("/clash", (c) => {
  log(c, { time: 1, method: "X", path: "/x", status: 1, toJSON: () => "x", own: true });
  return c.text("ok");
});
app.get("/bigint", (c) => { log(c, { big: 1n }); return c.text("ok"); });
app.get("/cycle", (c) => {
  const cycle: { self?: unknown } = {};
  cycle.self = cycle;
  log(c, cycle);
  return c.text("ok");
});
app.post("/limited", bodyLimit({ maxSize: 10 }), async (c) => {
  log(c, { size: (await c.req.text()).length });
  return c.text("ok");
});
app.get("/error", (c) => { log(c, { user: "ada" }); throw new Error("SECRET"); });
app.get("/caught", (c) => {
  log(c, { error: new Error("caught", { cause: new Error("the cause") }) });
  return c.text("ok");
});
app.get("/nothing", (c) => { log({ env: undefined }, { user: "ada" }); return c.text("ok"); });
`;

onEveryRuntime(({ isNode, inRoutes }) => {
  /** Asks a route, and gives its one line. */
  async function ask(service: Service, path: string, init?: RequestInit) {
    const response = await fetch(`http://127.0.0.1:${service.port}${path}`, init);
    assert.equal(response.status, path === "/error" ? 500 : 200);
    await response.text();
    return await lineOf(service, path);
  }

  test("a request is one line, with the fields that its route adds", async () => {
    await inRoutes({}, ROUTES, async (service) => {
      const { line } = await ask(service, "/plain");
      assert.deepEqual([line.user, line.nested, line.order], ["ada", { a: 1 }, 7]);
      const first = Object.keys(line).slice(0, 5);
      assert.deepEqual(first, ["time", "method", "path", "status", "ms"]);
      const limited = await ask(service, "/limited", { method: "POST", body: "12345" });
      assert.equal(limited.line.size, 5);
      await ask(service, "/nothing");
    });
  });

  test("a route's fields replace none of the usual ones", async () => {
    await inRoutes({}, ROUTES, async (service) => {
      const { line } = await ask(service, "/clash");
      const { method, path, status, own } = line;
      assert.deepEqual([method, path, status, own], ["GET", "/clash", 200, true]);
      assert.ok(Number(line.time) > 1e12);
    });
  });

  test("a field that JSON cannot hold spoils no line", async () => {
    await inRoutes({}, ROUTES, async (service) => {
      for (const path of ["/bigint", "/cycle"]) {
        const { line, isError } = await ask(service, path);
        assert.deepEqual([line.status, isError], [200, false]);
        assert.match(`${line.unloggable}`, /BigInt|circular|cyclic/i);
      }
    });
  });

  test("a line with an error is on standard error, with its cause and its stack", async () => {
    await inRoutes({}, ROUTES, async (service) => {
      const failed = await ask(service, "/error");
      assert.deepEqual([failed.isError, failed.line.user], [true, "ada"]);
      assert.equal(failed.line.error, "Error: SECRET");
      const caught = await ask(service, "/caught");
      assert.deepEqual([caught.isError, caught.line.status], [true, 200]);
      assert.deepEqual([caught.line.error, caught.line.cause], [
        "Error: caught",
        "Error: the cause",
      ]);
      assert.match(`${caught.line.stack}`, /main\.ts:\d+/);
    });
  });

  test("ACCESS_LOG=off leaves the lines with an error alone", async () => {
    await inRoutes({ ACCESS_LOG: "off" }, ROUTES, async (service) => {
      for (const path of ["/plain", "/error"]) await talk(service.port, get(path));
      assert.equal((await lineOf(service, "/error")).isError, true);
      assert.deepEqual(entries(service.stdout).map(({ path }) => path), []);
    });
  });

  for (const pauseMs of [500, 1500]) {
    test(`no line is lost at a stop, though its reader pauses for ${pauseMs} ms`, async () => {
      await inRoutes({}, "", async (service) => {
        const count = 2000;
        service.child.stdout!.pause();
        const client = new Client(service.port);
        // Of all that was received, because a chunk may end within a status line.
        const answered = () => client.received.split("HTTP/1.1 200").length - 1;
        const line = `GET /?${"x".repeat(100)} HTTP/1.1\r\nHost: test\r\n\r\n`;
        for (let sent = 0; sent < count; sent += 100) {
          client.send(line.repeat(100));
          while (answered() < sent + 100 && isNode) await sleep(5);
        }
        if (!isNode) await sleep(200); // Deno waits for its reader
        setTimeout(() => service.child.stdout!.resume(), pauseMs);
        service.kill("SIGTERM");
        assert.equal(await service.exit, 0);
        await client.ended;
        const lines = entries(service.stdout).filter(({ path }) => path === "/").length;
        const expected = isNode ? count : answered();
        assert.ok(expected > 0);
        assert.equal(lines, expected);
      });
    });
  }
});
