/**
 * Shows that known limits of docs/containers.md are still there, on the runtimes that they name. A
 * limit that is gone fails: then its row leaves the document. NOT_RUN has the other rows.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { describe, test } from "node:test";
import { WebSocket } from "ws";
import {
  allRuntimes,
  Client,
  type Env,
  MAJOR,
  MINOR,
  ROOT,
  type Runtime,
  type Service,
  untilPrinted,
  withRoutes,
} from "../support/harness.ts";

const DOCUMENT = readFileSync(`${ROOT}/docs/containers.md`, "utf8");

const ROUTES = `
  const { streamSSE } = await import("hono/streaming");
  const { compress } = await import("hono/compress");
  app.use("/long", compress());
  app.get("/long", (c) => c.text("a".repeat(5000)));
  app.use("/late-header", async (c, next) => {
    await next();
    c.header("X-Late", "yes");
  });
  app.get("/late-header", (c) => c.text("a text"));
  app.get("/count", (c) => c.text("counted"));
  app.get("/crash", () => {
    setTimeout(() => { throw new Error("a crash"); }, 10);
    return new Promise<Response>(() => {});
  });
  app.get("/header", (c) => c.redirect("/\\u0001"));
  if (typeof Deno === "undefined") {
    const { etag } = await import("hono/etag");
    const { serveStatic } = await import("@hono/node-server/serve-static");
    app.use("/main.ts", etag(), serveStatic({ root: import.meta.dirname }));
  }
  app.get("/throws", (c) =>
    streamSSE(c, async () => {
      throw new Error("in the stream");
    }));
  app.get("/slow", async (c) => (await sleep(300), c.text("slow")));
  app.get("/endless", (c) =>
    c.body(
      new ReadableStream({
        async pull(body) {
          await sleep(20);
          body.enqueue(new Uint8Array(9));
        },
      }),
    ));
  app.get("/fails", (c) =>
    c.body(
      new ReadableStream({
        async pull(body) {
          await sleep(20);
          body.error(new Error("the body fails"));
        },
      }),
    ));
  app.get("/length", (c) => c.body("four", 200, { "Content-Length": "10" }));
  app.post("/ignored", (c) => c.text("ignored"));
  app.post("/late", (c) =>
    c.body(
      new ReadableStream({
        async start(body) {
          await sleep(50);
          body.enqueue(new TextEncoder().encode(await c.req.text().catch(String)));
          body.close();
        },
      }),
      400,
    ));
`;
const WEBSOCKET = `
  const { WebSocketServer } = await import("${ROOT}/proof/node_modules/ws/wrapper.mjs");
  return { websocket: { server: new WebSocketServer({ noServer: true }) } };
`;
/** Begins work at a message, and tells of both its ends. */
const EVENTS = `
  const events = {
    async onMessage() {
      console.log("begun");
      await sleep(300);
      console.log("done");
    },
  };
`;
const ON_NODE = `${EVENTS}
  const { upgradeWebSocket } = await import("@hono/node-server");
  app.get("/work", upgradeWebSocket(() => events));
  ${WEBSOCKET}
`;
const ON_DENO = `${EVENTS}
  const { upgradeWebSocket } = await import("hono/deno");
  app.get("/work", upgradeWebSocket(() => events));
`;
/** A text and a loop in a mounted app. */
const MOUNTED = `
  const { Hono } = await import("hono");
  const mounted = new Hono();
  mounted.get("/text", (c) => c.text("a text"));
  mounted.get("/loop", (c) =>
    streamSSE(c, async (stream) => {
      while (!stream.aborted && !stream.closed) {
        console.log("turn");
        await stream.sleep(20);
      }
    }));
  app.mount("/mounted", mounted.fetch);
`;
/** A stop that is held goes on until then. */
const HELD: Env = { SHUTDOWN_TIMEOUT_MS: "500" };

const post = (path: string, headers: string, body: string) =>
  `POST ${path} HTTP/1.1\r\nHost: a\r\n${headers}\r\n\r\n${body}`;
const upgrade = (protocol: string, more = "") =>
  `GET /count HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: ${protocol}\r\n${more}\r\n`;
/** The line of a path in the access log. */
const lineOf = (service: Service, path: string) =>
  untilPrinted(
    service,
    () => service.stdout.split("\n").find((line) => line.includes(`"path":"${path}"`)),
  );

/** Whether a request has a line: the one of a later request is awaited. */
async function assertNoLine(service: Service, status: number) {
  await (await fetch(`http://127.0.0.1:${service.port}/count`)).text();
  await lineOf(service, "/count");
  assert.doesNotMatch(service.stdout, new RegExp(`"status":${status}`));
}

async function assertAbandoned(service: Service) {
  const socket = new WebSocket(`ws://127.0.0.1:${service.port}/work`);
  await once(socket, "open");
  socket.send("work");
  await untilPrinted(service, () => /^begun$/m.exec(service.stdout));
  service.kill("SIGTERM");
  assert.equal(await service.exit, 0);
  assert.doesNotMatch(service.stdout, /^done$/m);
}

interface Limit {
  /** The first words of the limit's row, by which the two are matched; `holds` proves the rest. */
  limit: string;
  on: (runtime: Runtime) => boolean;
  routes?: string;
  holds: (service: Service, client: Client) => Promise<void>;
}
const anywhere = () => true;
const onDeno = ({ name }: Runtime) => name === "Deno";
const onNode = ({ name }: Runtime) => name !== "Deno";

/** Whether the Node.js that runs tsx is older than 22.21, or than 24.9. */
const answersUpgradesItself = MAJOR < 22 || MAJOR === 23 ||
  (MAJOR === 22 && MINOR < 21) || (MAJOR === 24 && MINOR < 9);

const LIMITS: Limit[] = [
  {
    limit: "An `app.mount()`ed Hono app keeps Hono's own HEAD",
    on: anywhere,
    routes: MOUNTED,
    async holds(service, client) {
      client.send("HEAD /mounted/loop HTTP/1.1\r\nHost: a\r\n\r\n");
      await lineOf(service, "/mounted/loop");
      client.socket.destroy();
      await untilPrinted(service, () => /(turn\n){20}$/.exec(service.stdout));
    },
  },
  {
    limit: "An `app.mount()`ed Hono app keeps Hono's own HEAD",
    on: onDeno,
    routes: MOUNTED,
    async holds(_service, client) {
      await client.send("HEAD /mounted/text HTTP/1.1\r\nHost: a\r\n\r\n").until(/\r\n\r\n/);
      assert.match(client.received, /^content-length: 0\r$/im);
    },
  },
  {
    limit: "A request in flight when a crash ends the service has no line",
    on: anywhere,
    async holds(service, client) {
      client.get("/crash");
      assert.notEqual(await service.exit, 0);
      assert.doesNotMatch(service.stdout + service.stderr, /"path":"\/crash"/);
    },
  },
  {
    limit: "The work that a WebSocket message began is abandoned at a stop",
    on: onDeno,
    routes: ON_DENO,
    holds: assertAbandoned,
  },
  {
    limit: "The work that a WebSocket message began is abandoned at a stop",
    on: onNode,
    routes: ON_NODE,
    holds: assertAbandoned,
  },
  {
    limit: "`compress` sends HEAD the length of what it would compress",
    on: anywhere,
    async holds(_service, client) {
      const fields = "Host: a\r\nAccept-Encoding: gzip\r\nConnection: close\r\n\r\n";
      client.send(`HEAD /long HTTP/1.1\r\n${fields}`);
      await client.ended;
      assert.match(client.received, /^content-length: 5000\r$/im);
      assert.doesNotMatch(client.received, /content-encoding/i);
    },
  },
  {
    limit: "`serveStatic` ignores `If-Range`",
    on: onNode,
    async holds({ port }) {
      const headers = { Range: "bytes=0-1", "If-Range": "Thu, 01 Jan 1970 00:00:00 GMT" };
      const response = await fetch(`http://127.0.0.1:${port}/main.ts`, { headers });
      await response.arrayBuffer();
      assert.equal(response.status, 206);
    },
  },
  {
    limit: "`etag()` hashes the part that a 206 answers",
    on: onNode,
    async holds({ port }) {
      const tagOf = async (Range: string) => {
        const response = await fetch(`http://127.0.0.1:${port}/main.ts`, { headers: { Range } });
        await response.arrayBuffer();
        return response.headers.get("ETag") ?? assert.fail("no ETag");
      };
      assert.notEqual(await tagOf("bytes=0-1"), await tagOf("bytes=5-9"));
    },
  },
  {
    limit: "A HEAD has no `Content-Length` where a middleware sets a header after the route",
    on: onNode,
    async holds(_service, client) {
      await client.send("HEAD /late-header HTTP/1.1\r\nHost: a\r\n\r\n").until(/\r\n\r\n/);
      assert.match(client.received, /^HTTP\/1\.1 200 /);
      assert.doesNotMatch(client.received, /content-length/i);
    },
  },
  {
    limit: "A request with two `Host` fields is answered",
    on: onNode,
    async holds(_service, client) {
      client.send("GET /count HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n");
      await client.until(/^HTTP\/1\.1 200 /);
    },
  },
  {
    limit: "A path of 60 KB is answered, and is in the log in one line",
    on: onDeno,
    async holds(service, client) {
      const path = `/${"a".repeat(60_000)}`;
      await client.get(path).until(/^HTTP\/1\.1 404 /);
      await lineOf(service, path);
    },
  },
  {
    limit: "A client that half-closes its connection loses a slow answer",
    on: anywhere,
    async holds(_service, client) {
      client.socket.end("GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
      await client.ended;
      assert.equal(client.received, "");
    },
  },
  {
    limit: "Hono prints what fails in `streamSSE()` or `stream()`",
    on: anywhere,
    async holds(service, client) {
      client.get("/throws");
      assert.doesNotMatch(await lineOf(service, "/throws"), /"error"/);
      await untilPrinted(service, () => /^Error: in the stream\n +at /m.test(service.stderr));
    },
  },
  {
    limit: "A request that is cut has no line in the log",
    on: anywhere,
    async holds(service, client) {
      await client.get("/endless").until(/\r\n\r\n/);
      service.kill("SIGTERM");
      assert.equal(await service.exit, 1);
      assert.match(service.stderr, /^Cut after 500 ms, requests in flight: 1$/m);
      assert.doesNotMatch(service.stdout + service.stderr, /endless/);
    },
  },
  ...(["SIGHUP", "SIGQUIT"] as const).map((signal): Limit => ({
    limit: "SIGHUP and SIGQUIT end the service without a drain",
    on: anywhere,
    async holds(service) {
      service.kill(signal);
      await service.exit;
      assert.doesNotMatch(service.stdout, /Draining/);
    },
  })),
  {
    limit: "A request whose headers are over 16 KB gets 431",
    on: onNode,
    async holds(service, client) {
      client.send(`GET / HTTP/1.1\r\nHost: a\r\nCookie: ${"a".repeat(20_000)}\r\n\r\n`);
      await client.until(/^HTTP\/1\.1 431 /);
      await assertNoLine(service, 431);
    },
  },
  {
    limit: "A header that Node.js cannot send",
    on: onNode,
    async holds(_service, client) {
      await client.get("/header").ended;
      assert.equal(client.received, "");
    },
  },
  {
    limit: "A body that is shorter than its `Content-Length`",
    on: onNode,
    async holds({ port }) {
      const answer = fetch(`http://127.0.0.1:${port}/length`, { signal: AbortSignal.timeout(500) });
      await assert.rejects(answer.then((response) => response.text()), { name: "TimeoutError" });
    },
  },
  {
    limit: "With a WebSocket server, before Node.js 22.21 and 24.9, an upgrade",
    on: ({ name }) => name === "tsx" && answersUpgradesItself,
    routes: WEBSOCKET,
    async holds(_service, client) {
      await client.send(upgrade("h2c")).until(/^HTTP\/1\.1 400 /);
    },
  },
  {
    limit: "With a WebSocket server, a WebSocket request to an ordinary route",
    on: onNode,
    routes: WEBSOCKET,
    async holds(_service, client) {
      const key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
      await client.send(upgrade("websocket", key)).until(
        /^HTTP\/1\.1 200 [^]*Content-Length: 0\r\n/i,
      );
    },
  },
  {
    limit: "A request to upgrade that has a body or a `Content-Length` gets 400",
    on: onDeno,
    async holds(service, client) {
      await client.send(upgrade("h2c", "Content-Length: 4\r\n") + "four").until(/^HTTP\/1\.1 400 /);
      await assertNoLine(service, 400);
    },
  },
  {
    limit:
      "A client that leaves before or in the middle of an answer is logged without `incomplete`",
    on: onDeno,
    async holds(service, client) {
      await client.get("/endless").until(/\r\n\r\n/);
      client.socket.destroy();
      assert.doesNotMatch(await lineOf(service, "/endless"), /incomplete/);
    },
  },
  {
    limit: "A body that fails is printed by the runtime",
    on: onDeno,
    async holds(service, client) {
      client.get("/fails");
      assert.doesNotMatch(await lineOf(service, "/fails"), /"error"|incomplete/);
      await untilPrinted(service, () => /^Error: the body fails\n +at /m.test(service.stderr));
    },
  },
  {
    limit: "A body that fails over HTTP/1.0, without a length, ends like a complete one",
    on: onDeno,
    async holds({ port }) {
      const socket = connect(port, "127.0.0.1").end("GET /fails HTTP/1.0\r\n\r\n");
      let received = "";
      for await (const chunk of socket) received += chunk; // throws if the connection is reset
      assert.match(received, /^HTTP\/1\.0 200 /);
    },
  },
  {
    limit: "A client that owes the rest of a body holds a stop",
    on: onDeno,
    async holds(service, client) {
      await client.send(post("/ignored", "Content-Length: 100", "0123")).until(/ignored$/);
      service.kill("SIGTERM");
      assert.equal(await service.exit, 1);
      assert.match(service.stderr, /none, but connections still open/);
    },
  },
  {
    limit: "An answer of 400 or above that reads the request's body late",
    on: onDeno,
    async holds(_service, client) {
      await client.send(post("/late", "Content-Length: 4", "four")).until(
        /^HTTP\/1\.1 400 [^]*Body already consumed/,
      );
    },
  },
];

/** The rows that no case above runs, and why. */
const NOT_RUN: Record<string, string> = {
  "A SIGKILL takes up to the last ten milliseconds": "it depends on those milliseconds",
  "A client whose upload `bodyLimit()` refuses during a stop": "it happens at times",
  "On the Docker host itself, Docker's proxy ends with the container": "it happens at times",
  "A client can make up its own `X-Forwarded-For`": "platforms/haproxy.proof.ts tries the cure",
  "A quiet WebSocket ends at the proxy's timeout": "platforms/haproxy.proof.ts tries the cure",
  "A quiet event stream ends at the proxy's timeout": "it is the proxy's",
  "nginx speaks HTTP/1.0 without keep-alive": "it is from nginx's documentation, as the page says",
  "Two replicas that write to volumes of their own": "it follows from the volumes",
  "An upload that takes more than five minutes": "it takes five minutes",
  "The listener is open until the uploads in flight are done": "stop/uploads.proof.ts expects it",
  "A client that sends nothing, or half a request": "it cannot be seen to wait for ever",
  "`serveStatic` answers no byte ranges": "serve/routes.proof.ts asks for one",
  "A log that nobody reads": "it takes a pipe that is full, which the kernel sizes",
};

test("each row of the document is a case here, or not run for a reason", () => {
  const [, section] = DOCUMENT.split("\n## Known limits\n");
  const cells = [...section.split("\n## ")[0].matchAll(/^\| (.+?) +\|/gm)].map(([, cell]) => cell);
  const rows = cells.filter((cell) => !/^(-+|on .+|with a proxy .+)$/.test(cell));
  const known = [...LIMITS.map(({ limit }) => limit), ...Object.keys(NOT_RUN)];
  const finds = (row: string) => known.filter((limit) => row.startsWith(limit));
  assert.deepEqual(rows.filter((row) => new Set(finds(row)).size !== 1), []);
  assert.deepEqual(known.filter((limit) => !rows.some((row) => row.startsWith(limit))), []);
});

/** Shows that a limit holds, and closes the connection that it used. */
async function assertHolds(service: Service, holds: Limit["holds"]) {
  const client = new Client(service.port);
  try {
    await holds(service, client);
  } finally {
    client.socket.destroy();
  }
}

for (const runtime of allRuntimes()) {
  describe(`known limits, ${runtime.name}`, () => {
    for (const { limit, routes = "", holds } of LIMITS.filter(({ on }) => on(runtime))) {
      test(limit, async () => {
        await withRoutes(HELD, ROUTES + routes, (service) => assertHolds(service, holds), {
          runtime,
        });
      });
    }
  });
}
