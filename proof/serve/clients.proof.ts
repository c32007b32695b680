/** What real clients and routes do, on each runtime: run by `npm test` on Node.js. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { type AddressInfo, connect } from "node:net";
import process from "node:process";
import { describe, test } from "node:test";
import { gzipSync } from "node:zlib";
import { WebSocket } from "ws";
import {
  allRuntimes,
  Client,
  entries,
  type Env,
  type Service,
  sleep,
  STACK,
  TEST_TIMEOUT_MS,
  until,
  withRoutes,
} from "../support/harness.ts";

/** All that a connection gives until it ends. */
async function talk(port: number, text: string): Promise<string> {
  const client = new Client(port).send(text);
  await client.ended;
  return client.received;
}

const get = (path: string, headers = "") =>
  `GET ${path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n${headers}\r\n`;

// ── 1. No response can end the process ──

const MAJOR = Number(process.versions.node.split(".")[0]);
const CONTROL_CHARACTERS = [
  ...Array.from({ length: 32 }, (_, code) => code).filter((code) => code !== 9),
  127,
];

const UNSENDABLE = `
const value = (c: { req: { query(name: string): string | undefined } }) => "SECRET" + c.req.query("value") + "."; // white space at the end is stripped
app.get("/sync", (c) => new Response("text", { headers: { "X-Test": value(c) } }));
app.get("/async", async (c) => {
  await sleep(1);
  return new Response("text", { headers: { "X-Test": value(c) } });
});
app.get("/pairs", (c) => new Response("text", { headers: [["X-Test", value(c)]] }));
app.get("/async-pairs", async (c) => {
  await sleep(1);
  return new Response("text", { headers: [["X-Test", value(c)]] });
});
app.get("/redirect", (c) => c.redirect("/" + value(c)));
app.get("/cookie", (c) => c.text("text", 200, { "Set-Cookie": "name=" + value(c) }));
app.get("/file", (c) => {
  c.header("Content-Disposition", "attachment; filename=" + value(c));
  return c.text("text");
});
app.get("/stream", (c) => c.body(new ReadableStream({ start(controller) {
  controller.enqueue(new TextEncoder().encode("text"));
  controller.close();
} }), 200, { "X-Test": value(c) }));
app.get("/status", (c) => new Response("SECRET", { status: Number(c.req.query("value")) }));
app.get("/slow", async (c) => {
  await sleep(300);
  return c.text("whole");
});
`;

/** Paths whose response no runtime can send. */
function unsendable(): string[] {
  const routes = ["sync", "async", "pairs", "async-pairs", "redirect", "cookie", "file", "stream"];
  const values = [
    ...CONTROL_CHARACTERS.map((code) => encodeURIComponent(String.fromCharCode(code))),
    "%E6%97%A5",
  ];
  const headers = routes.flatMap((route) => values.map((value) => `/${route}?value=${value}`));
  // A redirect is encoded by Hono where it holds more than ASCII.
  return [
    ...headers.filter((path) => path !== "/redirect?value=%E6%97%A5"),
    ...["99", "1000", "-1"].map((value) => `/status?value=${value}`),
  ];
}

// ── 2. An upgrade that is no WebSocket ──

const WEBSOCKET = `
const isDeno = "Deno" in globalThis;
const { upgradeWebSocket } = isDeno ? await import("hono/deno") : await import("@hono/node-server");
app.get("/ws", upgradeWebSocket(() => ({ onMessage: ({ data }, socket) => socket.send("echo: " + data) })));
app.all("/ordinary", async (c) => c.text("got " + (await c.req.text()).length));
if (!isDeno) {
  const { WebSocketServer } = await import(${JSON.stringify(import.meta.resolve("ws"))});
  return { websocket: { server: new WebSocketServer({ noServer: true }) } };
}
`;

const UPGRADES = {
  "curl --http2":
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
  "Java's HttpClient":
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n",
  "Apache HttpClient 5.4": "Upgrade: TLS/1.2\r\nConnection: Upgrade\r\n",
};

// ── 3 to 12 ──

const REAL = `
const isDeno = "Deno" in globalThis;
const { HTTPException } = await import("hono/http-exception");
const { bearerAuth } = await import("hono/bearer-auth");
const { bodyLimit } = await import("hono/body-limit");
const { requestId } = await import("hono/request-id");
const { streamSSE } = await import("hono/streaming");
const { timeout } = await import("hono/timeout");
const { proxy } = await import("hono/proxy");
const env = runtime.variable;

if (!isDeno) {
  const { RESPONSE_ALREADY_SENT } = await import("@hono/node-server/utils/response");
  app.get("/already-sent", (c) => {
    const { outgoing } = c.env;
    outgoing!.writeHead(200, { "Content-Type": "text/plain", Connection: "keep-alive" }).end("sent by the route");
    return RESPONSE_ALREADY_SENT;
  });
  app.get("/sent-later", async (c) => {
    setTimeout(() => c.env.outgoing!.writeHead(200, { "Content-Type": "text/plain" }).end("sent later"), 50);
    return RESPONSE_ALREADY_SENT;
  });
}
app.get("/", (c) => c.text("ok"));
app.get("/own-keep-alive", (c) => c.text("ok", 200, { Connection: "keep-alive" }));
app.get("/raw-fetch", () => fetch("http://127.0.0.1:" + env("UPSTREAM_PORT") + "/"));
app.get("/proxied", (c) => proxy("http://127.0.0.1:" + env("UPSTREAM_PORT") + "/", { headers: c.req.header() }));
app.get("/events", (c) => streamSSE(c, async (stream) => {
  await stream.writeSSE({ data: "one" });
  await stream.writeSSE({ data: "two" });
}));
app.get("/slow/:ms", async (c) => {
  await sleep(Number(c.req.param("ms")));
  return c.text("whole");
});

// Errors
app.use("/kept/*", requestId());
app.use("/kept/*", async (c, next) => {
  c.header("X-Rate-Limit", "7");
  await next();
});
app.get("/kept/error", () => { throw new Error("SECRET", { cause: new Error("the cause") }); });
app.get("/kept/exception", () => { throw new HTTPException(503, { res: new Response("later", { status: 503, headers: { "Retry-After": "9" } }) }); });
app.get("/kept/client", () => { throw new HTTPException(409, { message: "no" }); });
app.get("/timeout", timeout(20), async (c) => {
  await sleep(500);
  return c.text("late");
});

// The log
app.get("/log/plain", (c) => { log(c, { user: "ada", nested: { a: 1 } }); log(c, { order: 7 }); return c.text("ok"); });
app.get("/log/clash", (c) => {
  log(c, { time: 1, method: "X", path: "/x", status: 1, toJSON: () => "x", own: true });
  return c.text("ok");
});
app.get("/log/bigint", (c) => { log(c, { big: 1n }); return c.text("ok"); });
app.get("/log/cycle", (c) => { const cycle: { self?: unknown } = {}; cycle.self = cycle; log(c, cycle); return c.text("ok"); });
app.post("/log/limited", bodyLimit({ maxSize: 10 }), async (c) => { log(c, { size: (await c.req.text()).length }); return c.text("ok"); });
app.get("/log/error", (c) => { log(c, { user: "ada" }); throw new Error("SECRET"); });
app.get("/log/nothing", (c) => { log({ env: undefined }, { user: "ada" }); return c.text("ok"); });

// Clients that leave
app.post("/read/text", async (c) => c.text(String((await c.req.text()).length)));
app.post("/read/json", async (c) => c.json(await c.req.json()));
app.post("/read/form", async (c) => c.json(Object.keys(await c.req.parseBody())));
app.post("/read/stream", async (c) => {
  let size = 0;
  for await (const chunk of c.req.raw.body!) size += chunk.length;
  return c.text(String(size));
});
app.get("/long", (c) => c.body(new ReadableStream({ async pull(controller) {
  await sleep(5);
  controller.enqueue(new Uint8Array(100_000));
} })));

// Bodies that an error answer ignores
app.post("/auth", bearerAuth({ token: "x" }), (c) => c.text("in"));
app.post("/limit", bodyLimit({ maxSize: 10 }), async (c) => c.text(await c.req.text()));
app.post("/refused", () => { throw new HTTPException(422, { message: "no" }); });
app.post("/broken", () => { throw new Error("SECRET"); });
app.post("/mirror", (c) => c.body(c.req.raw.body, 400));

// Signals
let aborted = 0;
app.all("/signal", async (c) => {
  c.req.raw.signal.addEventListener("abort", () => aborted++);
  if (c.req.method === "GET") await sleep(Number(c.req.query("ms") ?? 0));
  return c.text("ok");
});
app.get("/aborted", (c) => c.json(aborted));
`;

/** An upstream that compresses, and keeps its connections. */
async function withUpstream(body: (env: Env) => Promise<void>) {
  const upstream = createServer((_request, response) => {
    response.writeHead(200, {
      "Content-Encoding": "gzip",
      "Content-Type": "text/plain",
      Connection: "keep-alive",
    });
    response.end(gzipSync("from upstream ".repeat(100)));
  });
  await once(upstream.listen(0, "127.0.0.1"), "listening");
  try {
    await body({ UPSTREAM_PORT: `${(upstream.address() as AddressInfo).port}` });
  } finally {
    upstream.closeAllConnections();
    upstream.close();
  }
}

/** The one line that the log has of a path, on whichever stream. */
async function lineOf(service: Service, path: string, count = 1) {
  const find = (text: string) => entries(text).filter((entry) => entry.path === path);
  await until(service, () => find(service.stdout).length + find(service.stderr).length >= count);
  const [out, error] = [find(service.stdout), find(service.stderr)];
  assert.equal(out.length + error.length, count, `lines of ${path}`);
  return { line: (error[0] ?? out.at(-1))!, isError: error.length > 0 };
}

for (const runtime of allRuntimes()) {
  const isNode = runtime.name !== "Deno";
  const inRoutes = (env: Env, routes: string, body: (service: Service) => Promise<void>) =>
    withRoutes(env, routes, body, { runtime });

  describe(runtime.name, { timeout: 6 * TEST_TIMEOUT_MS }, () => {
    test("no response can end the process, and requests beside it are answered", async () => {
      await inRoutes({}, UNSENDABLE, async (service) => {
        const slow = talk(service.port, get("/slow"));
        for (const path of unsendable()) {
          service.stderr = "";
          const received = await talk(service.port, get(path));
          assert.doesNotMatch(received, /SECRET/, path);
          if (received) {
            assert.match(
              received,
              /^HTTP\/1\.1 500 [^]*\r\n\r\n\{"error":"Internal Server Error"\}$/,
              path,
            );
          }
          await until(service, () => service.stderr.endsWith("\n"));
          assert.doesNotMatch(service.stderr, STACK);
          const lines = entries(service.stderr);
          assert.deepEqual(
            lines.map((line) => line.path),
            [path.replace(/\?.*/, "")],
            `${path}: ${service.stderr}`,
          );
        }
        assert.match(await slow, /^HTTP\/1\.1 200 OK[^]*whole$/);
        assert.match(await talk(service.port, get("/slow")), /whole$/);
      });
    });

    test("an upgrade that is no WebSocket gets an ordinary answer, or a 400 that closes", async () => {
      await inRoutes({}, WEBSOCKET, async (service) => {
        const { port } = service;
        const ordinary = /^HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\ngot (\d)$/;
        // Node.js 20 cannot decide by request: https://nodejs.org/api/http.html#httpcreateserveroptions-requestlistener
        const answersUpgrades = runtime.name === "Node.js 26" ||
          runtime.name === "tsx" && MAJOR > 20;
        const refused = /^HTTP\/1\.1 400 Bad Request\r\n[^]*connection: close\r\n/i;
        for (const headers of Object.values(UPGRADES)) {
          for (const body of ["", "12345"]) {
            const client = new Client(port).send(
              `POST /ordinary HTTP/1.1\r\nHost: test\r\n${headers}Content-Length: ${body.length}\r\n\r\n${body}`,
            );
            const answer = await client.until(/got \d$|400 Bad Request\r\n[^]*\r\n\r\n/);
            // Deno refuses an upgrade with a length by itself.
            if (answersUpgrades) assert.equal(ordinary.exec(answer)?.[1], `${body.length}`);
            else assert.match(answer, refused);
            if (isNode && !answersUpgrades) await client.ended;
            client.socket.destroy();
          }
          const client = new Client(port).send(
            `GET /ordinary HTTP/1.1\r\nHost: test\r\n${headers}\r\n`,
          );
          const answer = await client.until(/got \d$|400 Bad Request\r\n[^]*\r\n\r\n/);
          assert.match(answer, isNode && !answersUpgrades ? refused : ordinary);
          client.socket.destroy();
        }
        for (
          const headers of [
            ...Object.values(UPGRADES),
            "Connection: Upgrade\r\nUpgrade: websocket\r\n",
          ]
        ) {
          for (const text of [get("/ordinary", headers), get("/ordinary", headers).slice(0, -2)]) {
            const socket = connect(port, "127.0.0.1");
            await once(socket, "connect");
            socket.write(text);
            socket.resetAndDestroy();
          }
        }
        const socket = new WebSocket(`ws://127.0.0.1:${port}/ws`);
        await once(socket, "open");
        socket.send("hello");
        assert.equal(`${(await once(socket, "message"))[0]}`, "echo: hello");
        socket.close();
        await once(socket, "close");
        assert.match(await talk(port, get("/ordinary")), ordinary);
        assert.equal(service.stderr, "");
      });
    });

    if (isNode) {
      test("RESPONSE_ALREADY_SENT works before a stop, in the drain delay and in the drain", {
        skip: !isNode && "Node.js only",
      }, async () => {
        await inRoutes({ DRAIN_DELAY_MS: "300" }, REAL, async (service) => {
          const check = async (path: string, text: string) => {
            const received = await talk(service.port, get(path));
            assert.match(received, new RegExp(`^HTTP/1.1 200 OK[^]*${text}`));
          };
          await check("/already-sent", "sent by the route");
          await check("/sent-later", "sent later");
          const last = new Client(service.port).get("/slow/400");
          await sleep(50);
          service.kill("SIGTERM");
          await until(service, () => /^Draining/m.exec(service.stdout));
          await check("/already-sent", "sent by the route");
          await last.ended;
          assert.match(last.received, /whole$/);
          assert.equal(await service.exit, 0);
          assert.equal(service.stderr, "");
        });
      });
    }

    test("while draining each answer closes its connection, whatever its route says of it", async () => {
      await withUpstream((env) =>
        inRoutes({ DRAIN_DELAY_MS: "60000", ...env }, REAL, async (service) => {
          service.kill("SIGTERM");
          await until(service, () => /^Draining/m.exec(service.stdout));
          for (
            const path of [
              "/",
              "/own-keep-alive",
              "/raw-fetch",
              "/events",
              "/nope",
              "/kept/error",
              "/readyz",
            ]
          ) {
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
      await inRoutes({}, REAL, async (service) => {
        for (const path of ["/own-keep-alive", "/events"]) {
          assert.match(await talk(service.port, get(path)), /ok$|two/);
        }
      });
    });

    test("an idle connection is served after 7 s, and a stop closes it at once", async () => {
      await inRoutes({}, REAL, async (service) => {
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

    test("an error keeps the headers that were set before it, and an HTTPException is answered as it says", async () => {
      await inRoutes({}, REAL, async (service) => {
        const ask = (path: string) => fetch(`http://127.0.0.1:${service.port}${path}`);
        const answer = async (path: string, status: number, body: string, isError: boolean) => {
          const response = await ask(path);
          assert.deepEqual([response.status, await response.text()], [status, body]);
          const { line, isError: wasError } = await lineOf(service, path);
          assert.deepEqual([line.status, wasError], [status, isError], path);
          return response.headers;
        };
        const kept = [
          await answer("/kept/error", 500, '{"error":"Internal Server Error"}', true),
          await answer("/kept/exception", 503, '{"error":"later"}', true),
          await answer("/kept/client", 409, '{"error":"no"}', false),
        ];
        for (const headers of kept) {
          assert.equal(headers.get("X-Rate-Limit"), "7");
          assert.ok(headers.get("X-Request-Id"));
        }
        assert.equal(kept[1].get("Retry-After"), "9");
        await answer("/timeout", 504, '{"error":"Gateway Timeout"}', true);
        const { line } = await lineOf(service, "/kept/error");
        assert.deepEqual([line.error, line.cause], ["Error: SECRET", "Error: the cause"]);
        assert.match(`${line.stack}`, /main\.ts:\d+/);
      });
    });

    test("a request is one line, with the fields that its route adds", async () => {
      await inRoutes({}, REAL, async (service) => {
        const ask = async (path: string, method = "GET", body?: string) => {
          const response = await fetch(`http://127.0.0.1:${service.port}${path}`, { method, body });
          await response.text();
          return { status: response.status, ...await lineOf(service, path) };
        };
        const plain = (await ask("/log/plain")).line;
        assert.deepEqual([plain.user, plain.nested, plain.order], ["ada", { a: 1 }, 7]);
        assert.deepEqual(Object.keys(plain).slice(0, 5), [
          "time",
          "method",
          "path",
          "status",
          "ms",
        ]);
        const clash = (await ask("/log/clash")).line;
        assert.deepEqual([clash.method, clash.path, clash.status, clash.own], [
          "GET",
          "/log/clash",
          200,
          true,
        ]);
        assert.ok(Number(clash.time) > 1e12);
        for (const path of ["/log/bigint", "/log/cycle"]) {
          const { status, line, isError } = await ask(path);
          assert.deepEqual([status, line.status, isError], [200, 200, false]);
          assert.match(`${line.unloggable}`, /BigInt|circular|cyclic/i);
        }
        assert.equal((await ask("/log/limited", "POST", "12345")).line.size, 5);
        const failed = await ask("/log/error");
        assert.deepEqual([failed.isError, failed.line.user, failed.line.error], [
          true,
          "ada",
          "Error: SECRET",
        ]);
        assert.equal((await ask("/log/nothing")).status, 200);
      });
      await inRoutes({ ACCESS_LOG: "off" }, REAL, async (service) => {
        for (const path of ["/log/plain", "/log/error"]) await talk(service.port, get(path));
        assert.equal((await lineOf(service, "/log/error")).isError, true);
        assert.deepEqual(entries(service.stdout), []);
      });
    });

    test("a client that leaves is no error of the service", async () => {
      await inRoutes({}, REAL, async (service) => {
        const boundary = "-".repeat(30);
        const part = `--${boundary}\r\nContent-Disposition: form-data; name="a"\r\n\r\nhalf`;
        for (const how of ["end", "reset"]) {
          for (
            const [kind, type] of [["text", "text/plain"], ["json", "application/json"], [
              "form",
              `multipart/form-data; boundary=${boundary}`,
            ], ["stream", "text/plain"]]
          ) {
            const path = `/read/${kind}?${how}`;
            const client = new Client(service.port).send(
              `POST ${path} HTTP/1.1\r\nHost: test\r\nContent-Type: ${type}\r\nContent-Length: 100000\r\n\r\n${part}`,
            );
            await talk(service.port, get("/")); // its request has begun
            service.stdout = service.stderr = "";
            if (how === "end") client.socket.destroy();
            else client.socket.resetAndDestroy();
            const { line, isError } = await lineOf(service, `/read/${kind}`);
            assert.deepEqual(
              [line.incomplete, isError, line.stack],
              [true, false, undefined],
              path,
            );
            assert.equal(service.stderr, "", path);
          }
        }
        if (!isNode) return; // Deno does not tell of the rest
        for (const path of ["/long", "/slow/300"]) {
          const client = new Client(service.port).get(path);
          if (path === "/long") await client.until(/\r\n\r\n/);
          else await talk(service.port, get("/"));
          client.socket.destroy();
          const { line, isError } = await lineOf(service, path);
          assert.deepEqual([line.incomplete, isError], [true, false], path);
        }
        assert.equal(service.stderr, "");
      });
    });

    test("no line of the log is lost at a stop, though its reader pauses", async () => {
      for (const pauseMs of [500, 1500]) {
        await inRoutes({}, REAL, async (service) => {
          const count = 2000;
          service.child.stdout!.pause();
          const client = new Client(service.port);
          let answered = 0;
          client.socket.removeAllListeners("data").on(
            "data",
            (chunk) => answered += `${chunk}`.split("HTTP/1.1 200").length - 1,
          );
          const line = get(`/?${"x".repeat(100)}`).replace("Connection: close\r\n", "");
          for (let sent = 0; sent < count; sent += 100) {
            client.send(line.repeat(100));
            while (answered < sent + 100 && isNode) await sleep(5);
          }
          if (!isNode) await sleep(200); // Deno waits for its reader
          setTimeout(() => service.child.stdout!.resume(), pauseMs);
          service.kill("SIGTERM");
          assert.equal(await service.exit, 0);
          assert.equal(
            entries(service.stdout).filter(({ path }) => path === "/").length,
            isNode ? count : answered,
          );
        });
      }
    });

    test("the signal of a request aborts only when its client leaves", async () => {
      await inRoutes({}, REAL, async (service) => {
        for (const method of ["GET", "POST"]) {
          const response = await fetch(`http://127.0.0.1:${service.port}/signal`, {
            method,
            body: method === "POST" ? "x" : undefined,
          });
          await response.text();
        }
        const aborted = async () =>
          (await talk(service.port, get("/aborted"))).split("\r\n\r\n")[1];
        await sleep(50);
        assert.equal(await aborted(), "0");
        const client = new Client(service.port).get("/signal?ms=300");
        await aborted();
        client.socket.destroy();
        for (const startMs = performance.now(); await aborted() !== "1";) {
          assert.ok(performance.now() - startMs < 2000);
        }
        assert.equal(service.stderr, "");
      });
    });

    test("an error answer whose route left the body unread holds no stop", async () => {
      for (const path of ["/auth", "/limit", "/refused", "/broken", "/nope"]) {
        await inRoutes({}, REAL, async (service) => {
          const client = new Client(service.port).send(
            `POST ${path} HTTP/1.1\r\nHost: test\r\nContent-Length: 100000\r\n\r\nhalf`,
          );
          assert.match(await client.until(/\r\n\r\n/), /^HTTP\/1\.1 [45]\d\d /);
          const startMs = performance.now();
          service.kill("SIGTERM");
          assert.equal(await service.exit, 0, path);
          assert.ok(performance.now() - startMs < 2000, path);
        });
      }
      await inRoutes({}, REAL, async (service) => {
        const body = "x".repeat(50_000);
        const response = await fetch(`http://127.0.0.1:${service.port}/mirror`, {
          method: "POST",
          body,
        });
        assert.deepEqual([response.status, await response.text()], [400, body]);
      });
    });

    // Deno closes the connection of such an answer at once.
    if (isNode) {
      test("a connection goes on after an error answer that left a body unread", async () => {
        await inRoutes({}, REAL, async (service) => {
          for (const path of ["/auth", "/limit", "/refused", "/broken", "/nope"]) {
            const client = new Client(service.port).send(
              `POST ${path} HTTP/1.1\r\nHost: test\r\nContent-Length: 200000\r\n\r\n${
                "a".repeat(200_000)
              }`,
            );
            await client.until(/^HTTP\/1\.1 [45]\d\d /);
            client.received = "";
            // The adapter of Node.js closes a connection 500 ms after such an answer.
            assert.match(await client.get("/slow/900").until(/whole$/), /HTTP\/1\.1 200 OK/, path);
            client.socket.destroy();
          }
        });
      });
    }

    test("proxy() hands a compressed answer on", async () => {
      await withUpstream((env) =>
        inRoutes(env, REAL, async (service) => {
          const response = await fetch(`http://127.0.0.1:${service.port}/proxied`);
          assert.equal(await response.text(), "from upstream ".repeat(100));
        })
      );
    });
  });
}
