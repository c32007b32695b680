/** Holds the recipes of docs/recipes.md that are routes, in one copy, on every runtime. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer, request } from "node:http";
import type { AddressInfo } from "node:net";
import { dirname } from "node:path";
import process from "node:process";
import { before, test } from "node:test";
import { gzipSync } from "node:zlib";
import { WebSocket } from "ws";
import {
  allRuntimes,
  Client,
  denoPath,
  type Service,
  until as eventually,
} from "../support/harness.ts";
import { post } from "../support/http.ts";
import { assertUsed, blocksOf } from "./blocks.ts";
import {
  assertAnswer,
  assertGreen,
  assertGreenAlone,
  assertGreenOnDenoAlone,
  bearer,
  failToStart,
  lineOf,
  makeCopy,
  serve,
  shell,
  stop,
  STOP_MAX_MS,
  url,
} from "./recipes.ts";

const RECIPES = [
  "The client's address behind a proxy",
  "A request id and the user in the log",
  "A package",
  "Validated input",
  "A second file",
  "A variable",
  "A proxied upstream",
  "An event stream",
  "A WebSocket",
];
const CLIENTS = 5;

let copy = "";
before(async () => {
  copy = await makeCopy("routes", RECIPES);
});

test("recipes of routes leave the gate green", async () => {
  await assertGreen(copy);
});

for (const kind of ["node", "deno"] as const) {
  test(`recipes of routes leave a copy for ${kind} alone green`, () =>
    assertGreenAlone(copy, kind));
}

test("the test's lines find that a proxied upstream has no permission", async () => {
  const env = { UPSTREAM: "http://192.0.2.1:9000" };
  await assert.rejects(shell(copy, "npm run test:deno", env), /NotCapable: .*192\.0\.2\.1:9000/);
});

test("on a machine that has Deno alone, a package leaves the gate green", () =>
  assertGreenOnDenoAlone("A package", "Validated input"));

for (const runtime of allRuntimes()) {
  test(`${runtime.name}: checked input, a second file, a required variable`, async () => {
    await serve(copy, runtime, { GREETING: "Good day" }, async (service) => {
      await assertInput(service);
      await assertAnswer(url(service, "/prices/tea"), {}, 200, '{"cents":250}');
      await assertAnswer(url(service, "/prices/gold"), {}, 404, /no such item/);
      await assertAnswer(url(service, "/greeting"), {}, 200, "Good day");
      await stop(service);
      assert.equal(service.stderr, "");
    });
    const said = await failToStart(copy, runtime);
    assert.match(said, /^\{.*"error":"Error: GREETING is not set".*\}\n$/);
  });

  test(`${runtime.name}: a request id, the user and the client in the log`, async () => {
    const TOKENS = JSON.stringify({ [await hashOf("a-token")]: "bob" });
    const env = { GREETING: "-", PASSWORD: "secret", TOKENS };
    await serve(copy, runtime, env, assertLog);
  });

  test(`${runtime.name}: with HOST=::, the client has the same address in the log`, async () => {
    await serve(copy, runtime, { GREETING: "-", HOST: "::" }, async (service) => {
      const headers = { "X-Forwarded-For": "6.6.6.6, 9.9.9.9" };
      assert.equal(await ask(service.port, "/greeting", "127.0.0.1", headers), 200);
      assert.equal((await lineOf(service, "/greeting")).client, "9.9.9.9");
      await stop(service);
    });
  });

  test(`${runtime.name}: an event stream pushes, and unsubscribes whoever left`, async () => {
    await serve(copy, runtime, { GREETING: "-" }, assertPush);
  });

  test(`${runtime.name}: event streams and WebSockets end with the service`, async () => {
    await serve(copy, runtime, { GREETING: "-" }, assertEnds);
  });

  test(`${runtime.name}: a proxied upstream ends with its client or the service`, async () => {
    await withUpstream((UPSTREAM, open) =>
      serve(copy, runtime, { GREETING: "-", UPSTREAM }, (service) => assertProxied(service, open))
    );
  });
}

test("the blocks of these recipes were all used", () => assertUsed(RECIPES));

/** The hash of a token, by the document's own lines. */
async function hashOf(token: string): Promise<string> {
  const lines = [...blocksOf("A request id and the user in the log", "sh")];
  const PATH = `${dirname(denoPath())}:${dirname(process.execPath)}:${process.env.PATH}`;
  const print = (line: string) => shell(copy, line.replace("a-token", token), { PATH });
  const [onNode, onDeno] = await Promise.all(lines.map(print));
  assert.equal(onDeno, onNode);
  return onNode.trim();
}

/** Asks for what a checked body promises: a good one is taken, another gets 400 and is told why. */
async function assertInput(service: Service) {
  const post = (body: string) => ({
    method: "POST",
    body,
    headers: { "Content-Type": "application/json" },
  });
  const address = url(service, "/links");
  const link = '{"url":"https://example.com/"}';
  await assertAnswer(address, post(link), 201, link);
  await assertAnswer(address, post('{"url":1}'), 400, /^\{"error":"url: Invalid input: .+"\}$/);
  await assertAnswer(address, post('{"url":"no"}'), 400, '{"error":"url: Invalid URL"}');
  await assertAnswer(address, post("no JSON"), 400, /Malformed JSON/);
  await assertAnswer(address, { method: "POST", body: link }, 400, /"url: Invalid input/);
}

/** Asks from an address of this machine. */
function ask(
  port: number,
  path: string,
  localAddress: string,
  headers: Record<string, string>,
): Promise<number> {
  return new Promise((resolve, reject) =>
    request({ host: "127.0.0.1", port, path, localAddress, headers }, (response) => {
      response.resume().on("end", () => resolve(response.statusCode!));
    }).on("error", reject).end()
  );
}

/** Asks for what the log promises: a request id, the user of either kind of auth, the client. */
async function assertLog(service: Service) {
  const basic = (password: string) => ({ Authorization: `Basic ${btoa(`ada:${password}`)}` });
  const hops = "6.6.6.6, 9.9.9.9,10.0.0.7";
  const headers = { ...basic("secret"), "X-Request-Id": "abc-1", "X-Forwarded-For": hops };
  assert.equal(await ask(service.port, "/account/orders", "127.0.0.1", headers), 200);
  const { id, user, client, status } = await lineOf(service, "/account/orders");
  assert.deepEqual([id, user, client, status], ["abc-1", "ada", "9.9.9.9", 200]);

  const wrong = { ...headers, ...basic("wrong") };
  assert.equal(await ask(service.port, "/account/none", "127.0.0.2", wrong), 401);
  const refused = await lineOf(service, "/account/none");
  assert.deepEqual([refused.client, refused.user], ["127.0.0.2", undefined]);

  await assertAnswer(url(service, "/team/members"), bearer("a-token"), 200, "[]");
  assert.equal((await lineOf(service, "/team/members")).user, "bob");
  await assertAnswer(url(service, "/team/none"), bearer("another"), 401, /Unauthorized/);
  assert.equal((await lineOf(service, "/team/none")).user, undefined);

  const { headers: answered } = await assertAnswer(url(service, "/greeting"), {}, 200, "-");
  const plain = await lineOf(service, "/greeting");
  assert.deepEqual([plain.id, plain.client], [answered.get("X-Request-Id"), "127.0.0.1"]);
  await stop(service);
}

/** Places an order; returns how many event streams it was sent to. */
async function order(service: Service, text: string): Promise<number> {
  const response = await fetch(url(service, "/orders"), { method: "POST", body: text });
  return (await response.json()).subscribers;
}

/** Shows that each client gets what happens, and that nobody is a subscriber after leaving. */
async function assertPush(service: Service) {
  const clients = Array.from({ length: CLIENTS }, () => new Client(service.port));
  for (const client of clients) await client.get("/orders/events").until(/\r\n\r\n/);
  assert.equal(await order(service, "one"), CLIENTS);
  for (const client of clients) await client.until(/data: one\n\n/);
  await fetch(url(service, "/orders/events"), { method: "HEAD" });
  const [staying, ...leaving] = clients;
  for (const { socket } of leaving) socket.destroy();
  const isAlone = async () => await order(service, "two") === 1;
  await eventually(isAlone, "end of the subscriptions of those who left", STOP_MAX_MS);
  await staying.until(/data: two\n\n/);
  staying.socket.destroy();
  const isNobody = async () => await order(service, "three") === 0;
  await eventually(isNobody, "end of the last subscription", STOP_MAX_MS);
  await stop(service);
  assert.equal(service.stderr, "");
}

/** Shows that a stop ends what is endless, in time and cleanly, also what begins in the stop. */
async function assertEnds(service: Service) {
  const busy = new Client(service.port).send(post("/orders", 2, "1")); // it holds the stop
  const late = new Client(service.port).get("/healthz");
  await late.until(/ 200 /);
  const events = new Client(service.port).get("/orders/events");
  await events.until(/\r\n\r\n/);
  assert.equal(await order(service, "one"), 1);
  await events.until(/data: one\n\n/);
  const socket = new WebSocket(`ws://127.0.0.1:${service.port}/echo`);
  await once(socket, "open");
  socket.send("hello");
  const [message] = await once(socket, "message");
  assert.equal(`${message}`, "echo: hello");
  const closed = once(socket, "close");
  const startMs = performance.now();
  service.kill("SIGTERM");
  await events.until(/\r\n0\r\n\r\n$/);
  await late.get("/orders/events").until(/event-stream[^]*\r\n0\r\n\r\n$/);
  busy.send("2");
  await busy.until(/ 201 /);
  assert.equal((await closed)[0], 1001);
  assert.equal(await service.exit, 0, service.stderr);
  const ms = performance.now() - startMs;
  assert.ok(ms < STOP_MAX_MS, `${ms} ms`);
  assert.equal(service.stderr, "");
}

/** An upstream with a compressed answer, an echo and an endless stream; counts its open streams. */
async function withUpstream(body: (address: string, open: () => number) => Promise<void>) {
  let open = 0;
  const server = createServer((incoming, outgoing) => {
    if (incoming.url?.startsWith("/api/text")) {
      const text = gzipSync(`text of ${incoming.url}`);
      outgoing.writeHead(200, { "Content-Encoding": "gzip" }).end(text);
    } else if (incoming.url === "/api/echo") incoming.pipe(outgoing);
    else {
      open++;
      outgoing.on("close", () => open--);
      outgoing.writeHead(200, { "Content-Type": "text/event-stream" }).write("data: first\n\n");
    }
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  try {
    await body(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, () => open);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

/** Shows that answers and bodies pass through, and that a stream ends with whoever reads it. */
async function assertProxied(service: Service, open: () => number) {
  const text = "text of /api/text?a=1";
  const { headers } = await assertAnswer(url(service, "/api/text?a=1"), {}, 200, text);
  assert.equal(headers.get("Content-Encoding"), null);
  const echo = { method: "POST", body: "a body" };
  await assertAnswer(url(service, "/api/echo"), echo, 200, "a body");
  const leaving = new Client(service.port).get("/api/events");
  await leaving.until(/data: first/);
  assert.equal(open(), 1);
  leaving.socket.destroy();
  await eventually(async () => open() === 0, "end of the upstream's stream", STOP_MAX_MS);
  const staying = new Client(service.port).get("/api/events");
  await staying.until(/data: first/);
  const ms = await stop(service);
  assert.ok(ms < STOP_MAX_MS, `${ms} ms`);
  await staying.ended;
  await eventually(async () => open() === 0, "end of the upstream's stream", STOP_MAX_MS);
}
