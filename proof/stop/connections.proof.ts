/** Connections in a stop: idle ones, slow ones, and what each answer says of its own. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { Client, drain, sleep, untilPrinted } from "../support/harness.ts";
import { get, split, talk } from "../support/http.ts";
import { onEveryRuntime } from "../support/subjects.ts";
import { withUpstream } from "../support/upstream.ts";

const ROUTES = `
const { streamSSE } = await import("hono/streaming");
app.get("/", (c) => c.text("ok"));
app.get("/slow/:ms", async (c) => {
  console.log("ran");
  await sleep(Number(c.req.param("ms")));
  return c.text("whole");
});
app.get("/large", () => new Response(new Uint8Array(20_000_000)));
app.get("/elsewhere", () => Response.redirect("http://example.test/"));
app.get("/own-keep-alive", (c) => c.text("ok", 200, { Connection: "keep-alive" }));
app.get("/raw-fetch", () =>
  fetch("http://127.0.0.1:" + runtime.variable("UPSTREAM_PORT") + "/gzip"));
app.get("/error", () => { throw new Error("SECRET"); });
app.get("/events", (c) => streamSSE(c, async (stream) => {
  await stream.writeSSE({ data: "one" });
  await stream.writeSSE({ data: "two" });
}));
`;

const ALREADY_SENT = `
const { RESPONSE_ALREADY_SENT } = await import("@hono/node-server/utils/response");
const plain = { "Content-Type": "text/plain" };
app.get("/already-sent", (c) => {
  c.env.outgoing!.writeHead(200, { ...plain, Connection: "keep-alive" }).end("sent by the route");
  return RESPONSE_ALREADY_SENT;
});
app.get("/sent-later", async (c) => {
  setTimeout(() => c.env.outgoing!.writeHead(200, plain).end("sent later"), 50);
  return RESPONSE_ALREADY_SENT;
});
app.get("/bare-head", (c) => {
  c.env.outgoing!.writeHead(204).end();
  return RESPONSE_ALREADY_SENT;
});
`;

const DRAINING = ["/", "/own-keep-alive", "/raw-fetch", "/events", "/nope", "/error", "/readyz"];

onEveryRuntime(({ isNode, inRoutes }) => {
  test("while draining each answer closes its connection, whatever its route says", async () => {
    await withUpstream((env) =>
      inRoutes({ DRAIN_DELAY_MS: "60000", ...env }, ROUTES, async (service) => {
        await drain(service);
        for (const path of DRAINING) {
          const client = new Client(service.port).get(path);
          // Deno leaves the closing to its client until the listener closes.
          await (isNode ? client.ended : client.until(/\r\n\r\n/));
          assert.match(client.received, /^HTTP\/1\.1 \d+ [^]*\r\nconnection: close\r\n/i, path);
          assert.doesNotMatch(client.received, /\r\nconnection: keep-alive/i, path);
        }
      })
    );
  });

  test("a route's keep-alive does not hold a client that asked to close", async () => {
    await inRoutes({}, ROUTES, async ({ port }) => {
      for (const path of ["/own-keep-alive", "/events"]) {
        assert.match((await talk(port, get(path))).received, /ok$|two/);
      }
    });
  });

  test("a redirect while draining goes out whole, and closes its connection", async () => {
    await inRoutes({ DRAIN_DELAY_MS: "60000" }, ROUTES, async (service) => {
      await drain(service);
      const client = new Client(service.port).get("/elsewhere");
      await client.until(/\r\n\r\n/);
      const { responses: [{ status, head }], isComplete } = split(client.received);
      assert.ok(isComplete);
      assert.equal(status, 302);
      assert.match(head, /^location: http:\/\/example.test\/\r$/im);
      assert.match(head, /^connection: close\r$/im);
    });
  });

  test("an idle connection is served after 7 s, and a stop closes it at once", async () => {
    await inRoutes({}, ROUTES, async (service) => {
      const client = new Client(service.port).get("/");
      await client.until(/ok$/);
      await sleep(7000); // Node.js closes after 5 s by default, on the wire after 6
      client.received = "";
      await client.get("/").until(/ok$/);
      const startMs = performance.now();
      service.kill("SIGTERM");
      assert.equal(await service.exit, 0);
      assert.ok(performance.now() - startMs < 1000);
    });
  });

  test("an idle connection gets one more answer while requests are in flight", async () => {
    await inRoutes({}, ROUTES, async (service) => {
      const silent = new Client(service.port);
      const idle = new Client(service.port).get("/");
      const last = new Client(service.port).get("/");
      await idle.until(/ok$/);
      await last.until(/ok$/);
      const slow = new Client(service.port).get("/slow/1500");
      await untilPrinted(service, () => /^ran$/m.exec(service.stdout));
      await drain(service);
      if (isNode) {
        last.received = "";
        assert.match(await last.get("/").until(/ok$/), /^connection: close\r$/im);
      }
      for (const client of [silent, idle, last]) await client.ended;
      await slow.ended;
      assert.match(slow.received, /whole$/);
      assert.equal(await service.exit, 0);
    });
  });

  test("a slow client that takes 20 MB through a stop gets all of it", async () => {
    await inRoutes({}, ROUTES, async (service) => {
      const client = new Client(service.port);
      let size = 0;
      client.socket.removeAllListeners("data").on("data", (chunk) => {
        size += chunk.length;
      });
      client.get("/large");
      await once(client.socket, "data");
      client.socket.pause();
      await drain(service);
      for (let count = 0; count < 20; count += 1) {
        await sleep(20);
        client.socket.read(500_000);
      }
      assert.equal(service.child.exitCode, null);
      client.socket.resume();
      await client.ended;
      assert.ok(size > 20_000_000, `${size} bytes`);
      assert.equal(await service.exit, 0);
    });
  });

  if (!isNode) return;
  test("RESPONSE_ALREADY_SENT works before a stop, in its delay and after it", async () => {
    await inRoutes({ DRAIN_DELAY_MS: "300" }, ROUTES + ALREADY_SENT, async (service) => {
      const check = async (path: string, text: string) => {
        const { received } = await talk(service.port, get(path));
        assert.match(received, new RegExp(`^HTTP/1.1 20[04] [^]*${text}`));
      };
      await check("/already-sent", "sent by the route");
      await check("/sent-later", "sent later");
      await check("/bare-head", "");
      const last = new Client(service.port).get("/slow/400");
      await untilPrinted(service, () => /^ran$/m.exec(service.stdout));
      await drain(service);
      await check("/already-sent", "sent by the route");
      await last.ended;
      assert.match(last.received, /whole$/);
      assert.equal(await service.exit, 0);
      assert.equal(service.stderr, "");
    });
  });
});
