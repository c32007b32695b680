/** The application, asked in process: run on each runtime by itself. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { addRoutes, type App, createApp, createHandler } from "../../main.ts";
import { until } from "../support/harness.ts";

/**
 * Takes what main.ts prints in this process: by the console on Node.js, past it on Deno. Returns
 * what undoes that.
 */
function intercept(take: (text: string) => void): () => void {
  const { log, error } = console;
  if (!("Deno" in globalThis)) {
    Object.assign(console, { log: take, error: take });
    return () => Object.assign(console, { log, error });
  }
  const files = [Deno.stdout, Deno.stderr];
  const writes = files.map(({ writeSync }) => writeSync);
  const writeSync = (bytes: Uint8Array) => {
    take(new TextDecoder().decode(bytes));
    return bytes.length;
  };
  for (const file of files) Object.assign(file, { writeSync });
  return () => files.forEach((file, at) => Object.assign(file, { writeSync: writes[at] }));
}

/** A way to ask the application, so many lines that it logged meanwhile, and itself. */
async function withApp(
  body: (
    ask: (path: string, method?: string) => Promise<Response>,
    logged: (count: number) => Promise<Record<string, unknown>[]>,
    app: App,
  ) => Promise<void>,
  { accessLog = false, draining = false } = {},
) {
  const printed: string[] = [];
  const take = (lines: string) => void printed.push(...lines.trimEnd().split("\n"));
  const restore = intercept(take);
  const logged = async (count: number) => {
    await until(() => printed.length >= count, `${count} lines of the log`);
    assert.equal(printed.length, count);
    return printed.splice(0).map((line) => JSON.parse(line));
  };
  try {
    const app = await createApp(() => draining);
    await addRoutes(app, { stopping: new AbortController().signal, log() {} });
    const handler = createHandler(app, () => draining, accessLog);
    const ask = async (path: string, method = "GET") => {
      const request = new Request(`http://test${path}`, { method });
      return await handler.answer(request, {}, Promise.resolve(true));
    };
    await body(ask, logged, app);
  } finally {
    restore();
  }
}

test("GET and HEAD /healthz answer 200 with no body, draining or not", async () => {
  for (const draining of [false, true]) {
    await withApp(async (ask) => {
      for (const method of ["GET", "HEAD"]) {
        const response = await ask("/healthz", method);
        assert.equal(response.status, 200);
        assert.equal(response.headers.get("Cache-Control"), "no-store");
        assert.equal(await response.text(), "");
      }
    }, { draining });
  }
});

test("GET and HEAD /readyz answer 200, and 503 once draining", async () => {
  for (const draining of [false, true]) {
    await withApp(async (ask) => {
      for (const method of ["GET", "HEAD"]) {
        const response = await ask("/readyz", method);
        assert.equal(response.status, draining ? 503 : 200);
        assert.equal(response.headers.get("Cache-Control"), "no-store");
        // The server drops the body of a HEAD, not the handler.
        assert.deepEqual(await response.json(), { status: draining ? "draining" : "ready" });
      }
    }, { draining });
  }
});

test("a POST to a health path is a 404 like any other", async () => {
  await withApp(async (ask) => {
    for (const path of ["/healthz", "/readyz"]) assert.equal((await ask(path, "POST")).status, 404);
  });
});

test("GET / answers a line of text, and an unknown path 404", async () => {
  await withApp(async (ask) => {
    assert.match(await (await ask("/")).text(), /^It works: [^\n]+\n$/);
    for (const path of ["/nope", "/healthz/", "//healthz", "/healthz%00"]) {
      const response = await ask(path);
      assert.equal(response.status, 404, path);
      assert.deepEqual(await response.json(), { error: "Not Found" });
    }
  });
});

test("the access log has a line per request, but none for health and no query", async () => {
  await withApp(async (ask, logged) => {
    for (const path of ["/healthz", "/readyz", "/?token=secret", "/nope"]) await ask(path);
    const entries = await logged(2);
    assert.deepEqual(entries.map(({ method, path, status }) => [method, path, status]), [
      ["GET", "/", 200],
      ["GET", "/nope", 404],
    ]);
    for (const { time, ms } of entries) {
      assert.ok(Math.abs(Number(time) - Date.now()) < 60_000, `${time}`);
      assert.ok(Number(ms) >= 0 && Number(ms) < 1000, `${ms}`);
    }
  }, { accessLog: true });
  await withApp(async (ask, logged, app) => {
    app.get("/fail", () => Promise.reject(new Error("the only line")));
    for (const path of ["/", "/fail"]) await ask(path);
    assert.deepEqual((await logged(1)).map(({ error }) => error), ["Error: the only line"]);
  });
});

test("a handler that throws answers a generic 500 and logs the detail", async () => {
  for (
    const [thrown, text] of [
      [new Error("the detail"), "Error: the detail"],
      ["the detail", "the detail"],
      [Object.create(null), "an object"], // it has no text
    ]
  ) {
    await withApp(async (ask, logged, app) => {
      const fail = () => {
        throw thrown;
      };
      app.get("/now", fail);
      app.get("/later", async () => await Promise.reject(thrown));
      app.get("/behind", async (c, next) => {
        await next();
        c.header("After", "all");
      }, fail);
      for (const path of ["/now", "/later", "/behind"]) {
        const response = await ask(path);
        assert.equal(response.status, 500);
        if (path === "/behind" && thrown instanceof Error) {
          assert.equal(response.headers.get("After"), "all");
        }
        assert.deepEqual(await response.json(), { error: "Internal Server Error" });
        const [line] = await logged(1);
        assert.deepEqual([line.path, line.status, line.error], [path, 500, text]);
        if (thrown instanceof Error) {
          assert.match(String(line.stack), /^ +at .*app\.self\.proof\.ts:\d+/);
        }
      }
    }, { accessLog: true });
  }
});

test("app.request() answers a route that throws, which has no env", async () => {
  const app = await createApp(() => false);
  app.get("/throws", () => {
    throw new Error("SECRET");
  });
  app.post("/json", async (c) => c.json(await c.req.json()));
  const thrown = await app.request("/throws");
  assert.deepEqual([thrown.status, await thrown.json()], [500, { error: "Internal Server Error" }]);
  assert.equal((await app.request("/json", { method: "POST", body: "{" })).status, 400);
});

test("a route that returns what no client can be sent answers a generic 500", async () => {
  await withApp(async (ask, logged, app) => {
    app.get("/error", () => Response.error());
    const response = await ask("/error");
    assert.deepEqual([response.status, await response.json()], [500, {
      error: "Internal Server Error",
    }]);
    assert.deepEqual((await logged(1)).map(({ status }) => status), [500]);
  }, { accessLog: true });
});

test("an HTTPException is answered as it says, and logged as an error from 500 on", async () => {
  const { HTTPException } = await import("hono/http-exception");
  await withApp(async (ask, logged, app) => {
    app.get("/secret", () => {
      throw new HTTPException(401, { message: "who are you?" });
    });
    app.get("/fault", () => {
      throw new HTTPException(503, { message: "not now" });
    });
    const response = await ask("/secret");
    assert.deepEqual([response.status, await response.json()], [401, { error: "who are you?" }]);
    const fault = await ask("/fault");
    assert.deepEqual([fault.status, await fault.json()], [503, { error: "not now" }]);
    const lines = await logged(2);
    assert.deepEqual(lines.map(({ path, status, error }) => [path, status, error]), [
      ["/fault", 503, "Error: not now"], // on standard error, and so at once
      ["/secret", 401, undefined],
    ]);
  }, { accessLog: true });
});
