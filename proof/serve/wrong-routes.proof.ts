/** Whatever a route does wrong, it harms no other request, and its client gets a 500 or is cut. */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  assertOnlyEntries,
  drain,
  entries,
  type Service,
  STACK,
  untilPrinted,
} from "../support/harness.ts";
import { ask, get, split, type Talk, talk, talkByDeno } from "../support/http.ts";
import { onEveryRuntime } from "../support/subjects.ts";
import { withUpstream } from "../support/upstream.ts";

// ── Routes that fail, or answer with what is no response ──

const PARTS = `
const text = new TextEncoder().encode("a chunk\\n");
const fail = () => { throw new Error("SECRET"); };
const loose = (path: string, answer: () => unknown) => app.get(path, answer as () => Response);
const streamed = (source: UnderlyingDefaultSource, init?: ResponseInit) =>
  new Response(new ReadableStream(source), init);
const late = () => {
  let count = 0;
  return { async pull(controller: ReadableStreamDefaultController) {
    await sleep(10);
    if (count++ < 3) controller.enqueue(text); else fail();
  } };
};
`;

/** What must be answered with a 500 in JSON, because nothing of it can have left. */
const REFUSED = `
loose("/string", () => "SECRET");
loose("/object", () => ({ text: "SECRET" }));
loose("/async-object", async () => ({ text: "SECRET" }));
loose("/like-a-response", () => ({ status: 200, text: "SECRET" }));
loose("/network-error", () => Response.error());
loose("/throws", fail);
loose("/rejects", async () => fail());
`;

/** What may be that, or cut. */
const BROKEN = `
loose("/bad-chunk", () => streamed({ pull(controller) {
  controller.enqueue({ text: "SECRET" });
  controller.close();
} }));
loose("/bad-late-chunk", () => {
  let count = 0;
  return streamed({ async pull(controller) {
    await sleep(10);
    controller.enqueue(count++ < 3 ? text : { text: "SECRET" });
  } });
});
loose("/bad-status", () => new Response("SECRET", { status: 1000 }));
loose("/bad-header", () => new Response("text", { headers: { "X-Bad": "SECRET 日本" } }));
loose("/bad-header-stream", () => streamed(late(), { headers: { "X-Bad": "SECRET 日本" } }));
loose("/at-once", () => streamed({
  start: (controller) => controller.error(new Error("SECRET")),
}));
loose("/first-pull", () => streamed({ pull: fail }));
loose("/late", () => streamed(late()));
loose("/late-length", () => streamed(late(), { headers: { "Content-Length": "1000" } }));
loose("/used", async () => {
  const response = new Response("text");
  await response.text();
  return response;
});
loose("/used-stream", async () => {
  const response = streamed({ start(controller) {
    controller.enqueue(text);
    controller.close();
  } });
  await response.text();
  return response;
});
loose("/locked", () => {
  const response = new Response("text");
  response.body!.getReader();
  return response;
});
loose("/locked-stream", () => {
  const response = streamed({});
  response.body!.getReader();
  return response;
});
app.get("/hono-at-once", (c) => c.body(new ReadableStream({
  start: (controller) => controller.error(new Error("SECRET")),
})));
app.get("/hono-late", (c) => c.body(new ReadableStream(late()), 200, { "X-Own": "yes" }));
app.get("/proxied", () =>
  fetch("http://127.0.0.1:" + runtime.variable("UPSTREAM_PORT") + "/broken"));
`;

/** Right answers beside them. */
const RIGHT = `
app.get("/whole", (c) => {
  let count = 0;
  return c.body(new ReadableStream({ async pull(controller) {
    await sleep(1);
    if (count++ < 3) controller.enqueue(text); else controller.close();
  } }), 203, { "X-Own": "yes" });
});
`;

/** The paths of routes, each of which begins a line. */
const pathsOf = (routes: string) =>
  [...routes.matchAll(/^(?:loose|app\.\w+)\("(\/.+?)"/gm)].map(([, path]) => path);
const PATHS = [...pathsOf(REFUSED), ...pathsOf(BROKEN)];
const INTERNAL_ERROR = '{"error":"Internal Server Error"}';

/**
 * Deno ends a connection of HTTP/1.0 as it ends a complete response. It answers a locked stream
 * with a 500 of its own, and a text whose stream is locked with the text.
 */
const isBeyondUs = (path: string, version: string) =>
  version === "1.0" || path.startsWith("/locked");

/** Nothing of what was thrown reached the client, and what looks complete is a 500. */
function assertAnswer(isNode: boolean, path: string, version: string, { received, isReset }: Talk) {
  assert.doesNotMatch(received, /SECRET/);
  const { responses, isComplete } = split(received, isReset);
  if (pathsOf(REFUSED).includes(path)) assert.ok(isComplete, "it was cut");
  if (!isComplete || (!isNode && isBeyondUs(path, version))) return;
  const [{ status, body }] = responses;
  assert.deepEqual([status, body], [500, INTERNAL_ERROR]);
}

/** One line tells of the request: on standard error, with what failed. */
async function assertLine(service: Service, path: string, { received, isReset }: Talk) {
  const find = () => entries(service.stderr).find((entry) => entry.path === path);
  const line = await untilPrinted(service, find);
  const { isComplete } = split(received, isReset);
  assert.equal(line.incomplete, isComplete ? undefined : true);
  assert.ok(line.error, "the line has no error");
  assert.deepEqual(entries(service.stdout).filter((entry) => entry.path === path), []);
}

/** Deno tells of a failed body by itself, and not whether the response arrived. */
async function assertTold(service: Service, path: string) {
  const isTold = path !== "/proxied" && !path.startsWith("/locked");
  if (isTold) await untilPrinted(service, () => service.stderr !== "");
  const all = () => entries(service.stdout + service.stderr);
  await untilPrinted(service, () => all().find((entry) => entry.path === path));
}

onEveryRuntime(({ isNode, inRoutes }) => {
  for (const when of ["", " while draining"]) {
    const name =
      `a route that fails, or returns no response, gets no complete answer but a 500${when}`;
    test(name, async (t) => {
      const check = async (service: Service, path: string, version: string, talk: Talk) => {
        assertAnswer(isNode, path, version, talk);
        const hasLine = isNode || pathsOf(REFUSED).includes(path);
        if (hasLine) await assertLine(service, path, talk);
        else await assertTold(service, path);
        if (isNode) assertOnlyEntries(service.stderr);
      };
      const routes = PARTS + REFUSED + BROKEN + RIGHT;
      await withUpstream((env) =>
        inRoutes({ DRAIN_DELAY_MS: "60000", ...env }, routes, async (service) => {
          if (when) await drain(service);
          const checkByTalk = async (path: string) => {
            service.stderr = "";
            await check(service, path, "1.1", await talk(service.port, get(path)));
          };
          for (const path of PATHS) {
            await t.test(`${path} over HTTP/1.1`, () => checkByTalk(path));
          }
          service.stderr = "";
          const talks = await talkByDeno(service.port, PATHS.map((path) => get(path, "1.0")));
          for (const [at, path] of PATHS.entries()) {
            await t.test(`${path} over HTTP/1.0`, () => check(service, path, "1.0", talks[at]));
          }
          for (const version of ["1.1", "1.0"]) {
            const { status, head, body } = await ask(service.port, get("/whole", version));
            assert.deepEqual([status, body], [203, "a chunk\n".repeat(3)]);
            assert.match(head, /^x-own: yes\r$/im);
          }
        })
      );
    });
  }
});

// ── Responses that no runtime can send ──

const UNSENDABLE = `
const value = (c: { req: { query(name: string): string | undefined } }) =>
  "SECRET" + c.req.query("value") + "."; // white space at the end is stripped
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

const TAB = 9;
const DELETE = 127;
const CONTROL_CHARACTERS = [...Array(32).keys(), DELETE].filter((code) => code !== TAB);

/** The paths of UNSENDABLE, each with each value that no header can have. */
function unsendable(): string[] {
  const routes = pathsOf(UNSENDABLE).filter((path) => !/status|slow/.test(path));
  const controls = CONTROL_CHARACTERS.map((code) => encodeURIComponent(String.fromCharCode(code)));
  const values = [...controls, "%E6%97%A5"];
  const headers = routes.flatMap((route) => values.map((value) => `${route}?value=${value}`));
  const statuses = ["99", "1000", "-1"].map((value) => `/status?value=${value}`);
  // A redirect is encoded by Hono where it holds more than ASCII.
  return [...headers.filter((path) => path !== "/redirect?value=%E6%97%A5"), ...statuses];
}

onEveryRuntime(({ inRoutes }) => {
  test("no response can end the process, and requests beside it are answered", async () => {
    await inRoutes({}, UNSENDABLE, async (service) => {
      const slow = talk(service.port, get("/slow"));
      for (const path of unsendable()) {
        service.stderr = "";
        const { received } = await talk(service.port, get(path));
        assert.doesNotMatch(received, /SECRET/, path);
        const refused = /^HTTP\/1\.1 500 [^]*\r\n\r\n\{"error":"Internal Server Error"\}$/;
        if (received) assert.match(received, refused, path);
        await untilPrinted(service, () => service.stderr.endsWith("\n"));
        assert.doesNotMatch(service.stderr, STACK);
        const paths = entries(service.stderr).map((line) => line.path);
        assert.deepEqual(paths, [path.replace(/\?.*/, "")], `${path}: ${service.stderr}`);
      }
      assert.match((await slow).received, /^HTTP\/1\.1 200 OK[^]*whole$/);
      assert.match((await talk(service.port, get("/slow"))).received, /whole$/);
    });
  });
});
