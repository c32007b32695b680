/** Holds the recipes of docs/recipes.md that are middleware and loops, on every runtime. */
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { before, test } from "node:test";
import { promisify } from "node:util";
import { allRuntimes, missing, type Service, untilPrinted } from "../support/harness.ts";
import { assertUsed } from "./blocks.ts";
import {
  assertAnswer,
  assertGreen,
  assertGreenAlone,
  assertGreenOnDenoAlone,
  lineOf,
  makeCopy,
  serve,
  stop,
  STOP_MAX_MS,
  url,
} from "./recipes.ts";

const RECIPES = [
  "CORS, security headers, limits, compression, auth",
  "Metrics for Prometheus",
  "A background loop",
];
const hasPromtool = await promisify(execFile)("promtool", ["--version"]).then(
  () => true,
  () => false,
);
const noPromtool = !hasPromtool &&
  missing("no promtool (Debian: prometheus), so the metrics were not checked");

let copy = "";
before(async () => {
  copy = await makeCopy("middleware", RECIPES);
});

test("recipes of middleware leave the gate green", async () => {
  await assertGreen(copy);
});

for (const kind of ["node", "deno"] as const) {
  test(`recipes of middleware leave a copy for ${kind} alone green`, () =>
    assertGreenAlone(copy, kind));
}

test("on a machine that has Deno alone, metrics leave the gate green", () =>
  assertGreenOnDenoAlone("Metrics for Prometheus", "Metrics for Prometheus"));

for (const runtime of allRuntimes()) {
  test(`${runtime.name}: CORS, security headers, limits, compression, auth`, async () => {
    await serve(copy, runtime, { TOKEN: "right" }, assertMiddleware);
  });

  test(`${runtime.name}: metrics that promtool accepts, and a loop that ends`, {
    skip: noPromtool,
  }, async () => {
    await serve(copy, runtime, { TOKEN: "right" }, assertMetrics);
  });
}

test("the blocks of these recipes were all used", () => assertUsed(RECIPES));

async function assertMiddleware(service: Service) {
  const address = url(service, "/orders/new");
  const order = (token: string, body: string) => ({
    method: "POST",
    body,
    headers: {
      Authorization: `Bearer ${token}`,
      Origin: "https://shop.example.com",
      "Accept-Encoding": "gzip",
    },
  });
  const long = JSON.stringify("a".repeat(5000));
  const { headers } = await assertAnswer(address, order("right", long), 201, long);
  assert.equal(headers.get("Access-Control-Allow-Origin"), "https://shop.example.com");
  assert.equal(headers.get("X-Content-Type-Options"), "nosniff");
  assert.equal(headers.get("Content-Encoding"), "gzip");
  await assertAnswer(address, order("wrong", "1"), 401, /Unauthorized/);
  const slowly = { headers: order("right", "").headers };
  const slow = await assertAnswer(url(service, "/orders/slow"), slowly, 504, /Gateway/);
  assert.equal(slow.headers.get("Access-Control-Allow-Origin"), "https://shop.example.com");
  // Last, because the adapter of Node.js closes this connection half a second later, whatever is on
  // it (to be reported).
  const huge = order("right", JSON.stringify("a".repeat(200_000)));
  await assertAnswer(address, huge, 413, /Payload Too Large/);
  await stop(service);
}

async function assertMetrics(service: Service) {
  await untilPrinted(service, () => /^swept$/m.exec(service.stdout));
  await assertAnswer(url(service, "/healthz"), {}, 200, "");
  await assertAnswer(url(service, "/"), {}, 200, /It works/);
  await assertAnswer(url(service, "/orders/none"), {}, 401, /Unauthorized/);
  await lineOf(service, "/orders/none");
  const metrics = await (await fetch(url(service, "/metrics"))).text();
  assert.match(metrics, /^http_requests_total\{.*route="\/",status="200".*\} 1$/m);
  assert.doesNotMatch(metrics, /healthz/);
  const promtool = spawn("promtool", ["check", "metrics"], {
    stdio: ["pipe", "inherit", "inherit"],
  });
  promtool.stdin.end(metrics);
  assert.deepEqual(await once(promtool, "exit"), [0, null]);
  const ms = await stop(service);
  assert.ok(ms < STOP_MAX_MS, `${ms} ms`);
}
