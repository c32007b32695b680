/** How the service stops: run on each runtime by itself. */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  Client,
  cut,
  TEST_TIMEOUT_MS,
  until,
  untilPrinted,
  withRoutes,
  withService,
} from "../support/harness.ts";

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  test(`on ${signal} an idle service exits 0 at once`, async () => {
    await withService({}, async (service) => {
      const { port, kill, exit, ping } = service;
      const idle = new Client(port).get("/healthz");
      await idle.until(/\r\n\r\n/);
      const silent = new Client(port);
      const half = new Client(port).send("GET / HTTP/1.1\r\nHo");
      const halfBody = new Client(port).send(
        "POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
      );
      await halfBody.until(/404/);
      assert.equal((await ping()).code, 0);
      const startMs = performance.now();
      kill(signal);
      assert.equal(await exit, 0);
      assert.ok(performance.now() - startMs < 900, `took ${performance.now() - startMs} ms`);
      assert.equal(service.stderr, "");
      for (const client of [idle, silent, half, halfBody]) await client.ended;
    });
  });
}

const SLOW = `let release = () => {};
app.get("/slow", (c) => new Promise((resolve) => release = () => resolve(c.text("whole"))));
app.get("/release", (c) => { release(); return c.text("ok"); });
(await import("node:process")).default.once("SIGUSR2", () => release());
app.get("/elsewhere", () => Response.redirect("http://test/"));
app.get("/large", () => new Response(new Uint8Array(20_000_000)));`;

test("told to stop, it is unready at once, still alive, and answers with close", async () => {
  await withRoutes({ DRAIN_DELAY_MS: "60000" }, SLOW, async (service) => {
    const { port, kill, ping } = service;
    const slow = new Client(port).get("/slow");
    await new Client(port).get("/readyz").until(/ready"}$/);
    kill("SIGTERM");
    await untilPrinted(service, () => /^Draining, requests in flight: 1$/m.exec(service.stdout));
    assert.match(
      await new Client(port).get("/readyz").until(/}$/),
      /^HTTP\/1\.1 503 [^]*"draining"}$/,
    );
    assert.equal((await ping()).code, 0);
    for (const path of ["/", "/elsewhere"]) {
      assert.match(
        await new Client(port).get(path).until(/\r\n\r\n/),
        /\r\nconnection: close\r\n/i,
      );
    }
    assert.equal(service.child.exitCode, null);
    await new Client(port).get("/release").until(/ok$/);
    await slow.until(/\r\nconnection: close\r\n[^]*whole$/i);
    await cut(service, "SIGTERM");
  });
});

test("it goes on accepting for as long as the drain delay", async () => {
  await withService({ DRAIN_DELAY_MS: "1000" }, async (service) => {
    const startMs = performance.now();
    service.kill("SIGTERM");
    await untilPrinted(service, () => /^Draining/m.exec(service.stdout));
    const client = new Client(service.port).get("/");
    await client.until(/^HTTP\/1\.1 200 /);
    assert.equal(await service.exit, 0);
    assert.ok(performance.now() - startMs >= 990, "the drain delay was cut short");
  });
});

test("a request in flight at SIGTERM gets its whole response, a new connection none", async () => {
  await withRoutes({}, SLOW, async (service) => {
    const { port, kill, child } = service;
    for (const body of ["whole body", "half"]) { // neither of which any route reads
      const unread = new Client(port).send(
        `POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n${body}`,
      );
      await unread.until(/404/);
    }
    const slow = new Client(port).get("/slow");
    await new Client(port).get("/").until(/own\n$/);
    const large = new Client(port).get("/large");
    await large.until(/\r\n\r\n/);
    large.socket.pause();
    kill("SIGTERM");
    await untilPrinted(service, () => /^Draining/m.exec(service.stdout));
    const isRefused = async () => {
      const late = new Client(port).get("/healthz");
      await late.ended;
      return late.received === "";
    };
    await until(isRefused, "refused connection", TEST_TIMEOUT_MS);
    assert.equal(child.exitCode, null);
    large.socket.resume();
    const size = () => large.received.length - large.received.indexOf("\r\n\r\n") - 4;
    await until(() => size() >= 20_000_000, "whole of /large", TEST_TIMEOUT_MS);
    assert.equal(size(), 20_000_000);
    assert.equal(slow.received, "");
    kill("SIGUSR2"); // releases /slow, because no request can any more
    await slow.until(/^HTTP\/1\.1 200 [^]*whole$/);
    assert.equal(await service.exit, 0);
    assert.equal(service.stderr, "");
  });
});

test("a route whose client has left is waited for", async () => {
  await withRoutes({}, SLOW, async (service) => {
    const gone = new Client(service.port).get("/slow");
    await new Client(service.port).get("/").until(/own\n$/);
    gone.socket.destroy();
    await gone.ended;
    await new Client(service.port).get("/").until(/own\n$/);
    service.kill("SIGTERM");
    await untilPrinted(service, () => /^Draining, requests in flight: 1$/m.exec(service.stdout));
    await cut(service, "SIGINT");
    assert.equal(service.stderr, "Cut by a second signal, requests in flight: 1\n");
  });
});

test("at the deadline it cuts what is left, says how many, and exits 1", async () => {
  await withRoutes({ SHUTDOWN_TIMEOUT_MS: "300" }, SLOW, async (service) => {
    const clients = [new Client(service.port).get("/slow"), new Client(service.port).get("/slow")];
    await new Client(service.port).get("/").until(/own\n$/);
    service.kill("SIGTERM");
    assert.equal(await service.exit, 1);
    assert.equal(service.stderr, "Cut after 300 ms, requests in flight: 2\n");
    for (const client of clients) await client.ended;
  });
});

test("a second signal ends it with exit code 1, unless within 500 ms of the first", async () => {
  for (
    const [first, second] of [
      ["SIGTERM", "SIGTERM"],
      ["SIGTERM", "SIGINT"],
      ["SIGINT", "SIGTERM"],
      ["SIGINT", "SIGINT"],
    ] as const
  ) {
    await withService({ DRAIN_DELAY_MS: "60000" }, async (service) => {
      service.kill(first);
      await untilPrinted(service, () => /^Draining/m.exec(service.stdout));
      const startMs = performance.now();
      await cut(service, second);
      const tookMs = performance.now() - startMs;
      assert.ok(
        tookMs > 400 && tookMs < 2000,
        `it took ${tookMs} ms, where a signal within 500 ms is the same`,
      );
      assert.equal(service.stderr, "Cut by a second signal, requests in flight: 0\n");
    });
  }
});
