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
  fetch("http://127.0.0.1:" + Deno_or_process_env("UPSTREAM_PORT") + "/broken"));
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

const pathsOf = (routes: string) => [...routes.matchAll(/^\w+(?:\.get)?\("(.+?)"/gm)].map(([, path]) => path);
