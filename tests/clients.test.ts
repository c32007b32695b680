/** What real clients and routes do, on each runtime: run by `npm test` on Node.js. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { connect } from "node:net";
import { describe, test } from "node:test";
import { WebSocket } from "ws";
import { allRuntimes, Client, type Env, type Service, STACK, TEST_TIMEOUT_MS, until, withRoutes } from "./harness.ts";

/** The lines of a log that hold JSON. */
const entries = (text: string): Record<string, unknown>[] =>
  text.split("\n").filter((line) => line.startsWith("{")).map((line) => JSON.parse(line));

/** All that a connection gives until it ends. */
async function talk(port: number, text: string): Promise<string> {
  const client = new Client(port).send(text);
  await client.ended;
  return client.received;
}

const get = (path: string, headers = "") => `GET ${path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n${headers}\r\n`;

// ── 1. No response can end the process ──

const CONTROL_CHARACTERS = [...Array.from({ length: 32 }, (_, code) => code).filter((code) => code !== 9), 127];

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
  const values = [...CONTROL_CHARACTERS.map((code) => encodeURIComponent(String.fromCharCode(code))), "%E6%97%A5"];
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
  const { WebSocketServer } = await import("ws");
  return { websocket: { server: new WebSocketServer({ noServer: true }) } };
}
`;

const UPGRADES = {
  "curl --http2": "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n",
  "Java's HttpClient": "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n",
  "Apache HttpClient 5.4": "Upgrade: TLS/1.2\r\nConnection: Upgrade\r\n",
};

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
            assert.match(received, /^HTTP\/1\.1 500 [^]*\r\n\r\n\{"error":"Internal Server Error"\}$/, path);
          }
          await until(service, () => service.stderr.endsWith("\n"));
          assert.doesNotMatch(service.stderr, STACK);
          const lines = entries(service.stderr);
          assert.deepEqual(lines.map((line) => line.path), [path.replace(/\?.*/, "")], `${path}: ${service.stderr}`);
        }
        assert.match(await slow, /^HTTP\/1\.1 200 OK[^]*whole$/);
        assert.match(await talk(service.port, get("/slow")), /whole$/);
      });
    });

    test("an upgrade that is no WebSocket gets an ordinary answer, or a 400 that closes", async () => {
      await inRoutes({}, WEBSOCKET, async (service) => {
        const { port } = service;
        const ordinary = /^HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\ngot (\d)$/;
        const refused = /^HTTP\/1\.1 400 Bad Request\r\n[^]*connection: close\r\n/i;
        for (const headers of Object.values(UPGRADES)) {
          for (const body of ["", "12345"]) {
            const client = new Client(port).send(
              `POST /ordinary HTTP/1.1\r\nHost: test\r\n${headers}Content-Length: ${body.length}\r\n\r\n${body}`,
            );
            const answer = await client.until(/got \d$|400 Bad Request\r\n[^]*\r\n\r\n/);
            // Deno refuses an upgrade with a length by itself.
            if (runtime.name === "Node.js 26") assert.equal(ordinary.exec(answer)?.[1], `${body.length}`);
            else assert.match(answer, refused);
            if (runtime.name === "tsx") await client.ended;
            client.socket.destroy();
          }
          const client = new Client(port).send(`GET /ordinary HTTP/1.1\r\nHost: test\r\n${headers}\r\n`);
          const answer = await client.until(/got \d$|400 Bad Request\r\n[^]*\r\n\r\n/);
          assert.match(answer, runtime.name === "tsx" ? refused : ordinary);
          client.socket.destroy();
        }
        for (const headers of [...Object.values(UPGRADES), "Connection: Upgrade\r\nUpgrade: websocket\r\n"]) {
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
  });
}
