/**
 * Holds docs/containers.md: runs its commands on a Docker engine, compares what it repeats of other files with them, and
 * shows that each known limit is still there. A limit that is gone fails: then its line leaves the document.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import process from "node:process";
import { after, before, describe, test } from "node:test";
import {
  build,
  docker,
  image,
  removeImages,
  run,
  skip,
  until as untilTrue,
} from "../support/engine.ts";
import {
  allRuntimes,
  Client,
  type Env,
  ROOT,
  type Runtime,
  type Service,
  until,
  withRoutes,
} from "../support/harness.ts";

const NAME = `heartbeat-containers-${process.pid}`;
const DOCUMENT = readFileSync(`${ROOT}/docs/containers.md`, "utf8");
const COMMANDS = [...DOCUMENT.matchAll(/^```sh\n(.+?)\n```$/gms)].flatMap(([, block]) =>
  block.split("\n")
);

// ── What it repeats ──

test("the commands for HAProxy are those of deploy/haproxy.yaml, which are tried", () => {
  const file = readFileSync(`${ROOT}/deploy/haproxy.yaml`, "utf8");
  const tried = [...file.matchAll(/^# (docker compose .+)$/gm)].map(([, command]) => command);
  assert.deepEqual(COMMANDS.filter((command) => command.includes("haproxy.yaml")), tried);
});

test("the probe's commands for Kubernetes and ECS are those of the image", () => {
  const dockerfile = readFileSync(`${ROOT}/Dockerfile`, "utf8").replaceAll("\\\n", "");
  const [node, deno] = [...dockerfile.matchAll(/^HEALTHCHECK .+ CMD (\[.+\])$/gm)].map(([, cmd]) =>
    JSON.parse(cmd)
  );
  const shown = [...DOCUMENT.matchAll(/"command": (\[[^\]]+\])|`(\["CMD"[^\]]+\])`/g)].map((
    [, a, b],
  ) => JSON.parse(a ?? b));
  assert.deepEqual(shown, [["CMD", ...deno], ["CMD", ...node]]);
  const words = /^ +command: \[([^\]]+)\]$/m.exec(DOCUMENT)![1].split(/,\s+/);
  assert.deepEqual(words, deno);
});

// ── What it runs ──

describe("on a Docker engine", { skip }, () => {
  const containers: string[] = [];
  before(() => build("deno"));
  after(async () => {
    if (containers.length > 0) await docker(["rm", "--force", ...containers]);
    await removeImages();
  });

  const FLAGS = ` --detach --label ${NAME} `;
  for (const command of COMMANDS.filter((command) => command.startsWith("docker run "))) {
    test(command, async () => {
      const ours = command.replace(/ heartbeat$/, ` ${image("deno")}`).replace(
        "--name shop",
        `--name ${NAME}`,
      )
        .replace("8080:8080", "127.0.0.1::8080").replace(" --detach ", " ").replace(
          "run ",
          `run${FLAGS}`,
        );
      // The file that is mounted for one environment is the project's own here.
      const line = ours.replace("deno.staging.json", "deno.json");
      const container = (await run("sh", ["-c", line], { cwd: ROOT })).stdout.trim();
      containers.push(container);
      const health = async () =>
        JSON.parse(await docker(["inspect", "--format", "{{json .State.Health}}", container]));
      const seen = await untilTrue(async () => {
        const found = await health();
        return found.Status === "healthy" && found;
      }, "healthy container");
      const shown = JSON.parse(/^\{"Status".+$/m.exec(DOCUMENT)![0]);
      assert.deepEqual(Object.keys(seen.Log.at(-1)), Object.keys(shown.Log[0]));
      assert.deepEqual(seen.Log.at(-1).Output, shown.Log[0].Output);
    });
  }
});

// ── Known limits ──

const ROUTES = `
  const { streamSSE } = await import("hono/streaming");
  let beats = 0;
  app.get("/count", (c) => c.json({ beats }));
  app.get("/beats", (c) =>
    streamSSE(c, async (stream) => {
      while (!stopping.aborted && !stream.aborted) {
        beats++;
        await sleep(20);
      }
    }));
  app.get("/throws", (c) =>
    streamSSE(c, async () => {
      throw new Error("in the stream");
    }));
  app.get("/slow", async (c) => (await sleep(300), c.text("slow")));
  app.get("/endless", (c) =>
    c.body(new ReadableStream({ pull: async (body) => (await sleep(20), body.enqueue(new Uint8Array(9))) })));
  app.get("/fails", (c) =>
    c.body(new ReadableStream({ pull: async (body) => (await sleep(20), body.error(new Error("the body fails"))) })));
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
/** A stop that is held goes on until then. */
const HELD: Env = { SHUTDOWN_TIMEOUT_MS: "500" };

const post = (path: string, headers: string, body: string) =>
  `POST ${path} HTTP/1.1\r\nHost: a\r\n${headers}\r\n\r\n${body}`;
const upgrade = (protocol: string, more = "") =>
  `GET /count HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: ${protocol}\r\n${more}\r\n`;
/** The line of a path in the access log. */
const lineOf = (service: Service, path: string) =>
  until(
    service,
    () => service.stdout.split("\n").find((line) => line.includes(`"path":"${path}"`)),
  );
const counted = async ({ port }: Service) =>
  await (await fetch(`http://127.0.0.1:${port}/count`)).json() as { beats: number };

/** Whether a request has a line: the one of a later request is awaited. */
async function assertNoLine(service: Service, status: number) {
  await counted(service);
  await lineOf(service, "/count");
  assert.doesNotMatch(service.stdout, new RegExp(`"status":${status}`));
}

interface Limit {
  /** The first words of the limit in the document. */
  limit: string;
  on: (runtime: Runtime) => boolean;
  routes?: string;
  holds: (service: Service, client: Client) => Promise<void>;
}
const anywhere = () => true;
const onDeno = ({ name }: Runtime) => name === "Deno";
const onNode = ({ name }: Runtime) => name !== "Deno";

const LIMITS: Limit[] = [
  {
    limit: "HEAD on an event stream starts its loop",
    on: anywhere,
    async holds(service, client) {
      client.send("HEAD /beats HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
      await client.ended;
      const { beats } = await counted(service);
      await untilTrue(async () => (await counted(service)).beats > beats, "further beat");
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
      await until(service, () => /^Error: in the stream\n +at /m.test(service.stderr));
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
    limit: "A body that is shorter than its `Content-Length`",
    on: onNode,
    async holds({ port }) {
      const answer = fetch(`http://127.0.0.1:${port}/length`, { signal: AbortSignal.timeout(500) });
      await assert.rejects(answer.then((response) => response.text()), { name: "TimeoutError" });
    },
  },
  {
    limit: "With a WebSocket server, on Node.js 20, an upgrade",
    on: (runtime) =>
      onNode(runtime) && runtime.name === "tsx" && Number(process.versions.node.split(".")[0]) < 24,
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
      await until(service, () => /^Error: the body fails\n +at /m.test(service.stderr));
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

for (const runtime of allRuntimes()) {
  describe(`known limits, ${runtime.name}`, () => {
    for (const { limit, routes = "", holds } of LIMITS.filter(({ on }) => on(runtime))) {
      test(limit, async () => {
        assert.ok(DOCUMENT.includes(`| ${limit}`), "the document has this limit");
        await withRoutes(HELD, ROUTES + routes, async (service) => {
          const client = new Client(service.port);
          try {
            await holds(service, client);
          } finally {
            client.socket.destroy();
          }
        }, { runtime });
      });
    }
  });
}
