/** What a client and the log are told of an error. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { assertOnlyEntries, entries, lineOf, untilPrinted } from "../support/harness.ts";
import { ask, get } from "../support/http.ts";
import { onEveryRuntime, onEverySubject, shareRoutes } from "../support/subjects.ts";

const INTERNAL_ERROR = '{"error":"Internal Server Error"}';

describe("the service of items", () =>
  onEverySubject(({ isImage, inService }) => {
    test("answers a route that throws with a 500, and logs one line with its place", async () => {
      await inService({}, async (service) => {
        const { status, body } = await ask(service.port, get("/throws?token=SECRET"));
        assert.deepEqual([status, body], [500, INTERNAL_ERROR]);
        const find = () => entries(service.stderr).find(({ path }) => path === "/throws");
        const logged = await untilPrinted(service, find);
        assert.deepEqual([logged.method, logged.error], ["GET", "Error: SECRET of the route"]);
        assert.match(`${logged.stack}`, isImage ? /at .*:\d+:\d+/ : /at .*routes\.ts:\d+:\d+/);
        assertOnlyEntries(service.stderr.replace(/^No SQLite, .*\n/, ""));
      });
    });

    test("takes an HTTPException under 500 for no error, and leaves an area its own", async () => {
      await inService({}, async (service) => {
        const teapot = await ask(service.port, get("/teapot"));
        assert.deepEqual([teapot.status, teapot.body], [418, '{"error":"short and stout"}']);
        const area = await ask(service.port, get("/area/throws"));
        assert.deepEqual([area.status, area.body], [500, "the area's own handler"]);
        const has = (wanted: string) => entries(service.stdout).some(({ path }) => path === wanted);
        await untilPrinted(service, () => has("/teapot") && has("/area/throws") || undefined);
        assert.deepEqual(entries(service.stderr), []);
      });
    });

    test("may have error handlers of its own, which win and are left to log", async () => {
      await inService({ OWN_HANDLERS: "1" }, async (service) => {
        assert.equal((await ask(service.port, get("/throws"))).body, "own handler: ?");
        assert.equal((await ask(service.port, get("/teapot"))).body, "own handler: 418");
        const nope = await ask(service.port, get("/nope"));
        assert.deepEqual([nope.status, nope.body], [404, "own: nothing here"]);
        const find = () => entries(service.stdout).find(({ path }) => path === "/nope");
        await untilPrinted(service, find);
        assert.deepEqual(entries(service.stderr), []);
      });
    });
  }));

/** Middleware and routes that throw, behind middleware that sets headers. */
const THROWING = `
const { HTTPException } = await import("hono/http-exception");
const { basicAuth } = await import("hono/basic-auth");
const { bearerAuth } = await import("hono/bearer-auth");
const { bodyLimit } = await import("hono/body-limit");
const { cors } = await import("hono/cors");
const { csrf } = await import("hono/csrf");
const { requestId } = await import("hono/request-id");
const { setCookie } = await import("hono/cookie");
const { timeout } = await import("hono/timeout");
app.use(requestId());
app.use(cors({ origin: "http://other.test" }));
app.use(async (c, next) => {
  c.header("X-Rate-Limit", "7");
  setCookie(c, "kept", "yes");
  await next();
});
app.get("/error", () => {
  throw new Error("SECRET", { cause: new Error("the cause") });
});
app.get("/client", () => { throw new HTTPException(409, { message: "no" }); });
app.get("/server", () => { throw new HTTPException(503, { message: "not now" }); });
app.get("/silent", () => { throw new HTTPException(409); });
app.get("/later", () => { throw new HTTPException(503, {
  res: new Response("later", {
    status: 503,
    headers: { "Content-Length": "5", "Retry-After": "9" },
  }),
}); });
app.get("/html", () => { throw new HTTPException(409, {
  res: new Response("<p>no</p>", { status: 409, headers: { "Content-Type": "text/html" } }),
}); });
app.get("/bearer", bearerAuth({ token: "x" }), (c) => c.text("in"));
app.get("/basic", basicAuth({ username: "a", password: "b" }), (c) => c.text("in"));
app.post("/limit", bodyLimit({ maxSize: 10 }), async (c) => c.text(await c.req.text()));
app.post("/csrf", csrf(), (c) => c.text("in"));
app.get("/timeout", timeout(20), async (c) => {
  await sleep(500);
  return c.text("late");
});
app.get("/returned", (c) => c.text("returned, not thrown", 405));
`;

/** What is asked, its status, its body, and whether the log takes it for an error. */
const ANSWERS: [string, number, string, boolean][] = [
  ["GET /error", 500, INTERNAL_ERROR, true],
  ["GET /client", 409, '{"error":"no"}', false],
  ["GET /server", 503, '{"error":"not now"}', true],
  ["GET /silent", 409, '{"error":"Status 409"}', false],
  ["GET /later", 503, '{"error":"later"}', true],
  ["GET /html", 409, "<p>no</p>", false],
  ["GET /bearer", 401, '{"error":"Unauthorized"}', false],
  ["GET /basic", 401, '{"error":"Unauthorized"}', false],
  ["POST /limit", 413, '{"error":"Payload Too Large"}', false],
  ["POST /csrf", 403, '{"error":"Forbidden"}', false],
  ["GET /timeout", 504, '{"error":"Gateway Timeout"}', true],
  ["GET /returned", 405, "returned, not thrown", false],
];
const HEADERS: Record<string, [string, string]> = {
  "GET /later": ["Retry-After", "9"],
  "GET /bearer": ["WWW-Authenticate", 'Bearer realm=""'],
  "GET /basic": ["WWW-Authenticate", 'Basic realm="Secure Area"'],
};

describe("an HTTPException is answered as JSON, any other error with a 500", () =>
  onEveryRuntime((on) => {
    const service = shareRoutes(on, THROWING);
    for (const [asked, status, body, isError] of ANSWERS) {
      test(`${asked} is ${status} ${body}, with every header that was set`, async () => {
        const [method, path] = asked.split(" ");
        const response = await fetch(`http://127.0.0.1:${service().port}${path}`, {
          method,
          body: method === "POST" ? "a=1&b=22222" : undefined,
          headers: { Origin: "http://other.test", "Content-Type": "text/plain" },
        });
        assert.deepEqual([response.status, await response.text()], [status, body]);
        const { headers } = response;
        const isJson = headers.get("Content-Type") === "application/json";
        assert.equal(isJson, body.startsWith("{"));
        assert.equal(headers.get("X-Rate-Limit"), "7");
        assert.equal(headers.get("Access-Control-Allow-Origin"), "http://other.test");
        assert.deepEqual(headers.getSetCookie(), ["kept=yes; Path=/"]);
        assert.ok(headers.get("X-Request-Id"));
        const [name, value] = HEADERS[asked] ?? ["X-Rate-Limit", "7"];
        assert.equal(headers.get(name), value);
        const { line, isError: wasError } = await lineOf(service(), path);
        assert.deepEqual([line.status, wasError], [status, isError]);
        if (path !== "/error") return;
        assert.deepEqual([line.error, line.cause], ["Error: SECRET", "Error: the cause"]);
        assert.match(`${line.stack}`, /main\.ts:\d+/);
      });
    }
  }));
