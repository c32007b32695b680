/** WebSockets, and upgrades that are none. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { connect } from "node:net";
import { describe, test } from "node:test";
import { WebSocket } from "ws";
import { Client, entries, MAJOR, untilPrinted } from "../support/harness.ts";
import { get, talk } from "../support/http.ts";
import { onEveryRuntime, onEverySubject } from "../support/subjects.ts";

describe("the service of items", () =>
  onEverySubject(({ inService }) => {
    test("echoes over a WebSocket, which the access log calls 101", async () => {
      await inService({}, async (service) => {
        const socket = new WebSocket(`ws://127.0.0.1:${service.port}/ws`);
        await once(socket, "open");
        socket.send("over a socket");
        const [data] = await once(socket, "message");
        assert.equal(`${data}`, "echo: over a socket");
        socket.close();
        await once(socket, "close");
        const find = () => entries(service.stdout).find(({ path }) => path === "/ws");
        assert.equal((await untilPrinted(service, find)).status, 101);
      });
    });
  }));

const ROUTES = `
const isDeno = "Deno" in globalThis;
const { upgradeWebSocket } = isDeno ? await import("hono/deno") : await import("@hono/node-server");
app.get("/ws", upgradeWebSocket(() => ({
  onMessage: ({ data }, socket) => socket.send("echo: " + data),
})));
app.all("/ordinary", async (c) => c.text("got " + (await c.req.text()).length));
if (!isDeno) {
  const { WebSocketServer } = await import(${JSON.stringify(import.meta.resolve("ws"))});
  return { websocket: { server: new WebSocketServer({ noServer: true }) } };
}
`;

const H2C = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n";
const UPGRADES = {
  "curl --http2": `${H2C}HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n`,
  "Java's HttpClient": `${H2C}HTTP2-Settings: AAEAAEAAAAIAAAAB\r\n`,
  "Apache HttpClient 5.4": "Upgrade: TLS/1.2\r\nConnection: Upgrade\r\n",
};
const ORDINARY = /^HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\ngot (\d)$/;
const REFUSED = /^HTTP\/1\.1 400 Bad Request\r\n[^]*connection: close\r\n/i;
const EITHER = /got \d$|400 Bad Request\r\n[^]*\r\n\r\n/;

/** Asks for an upgrade; returns the connection and what it gave. */
async function upgrade(port: number, method: string, headers: string) {
  const request = `${method} /ordinary HTTP/1.1\r\nHost: test\r\n${headers}`;
  const client = new Client(port).send(request);
  return { client, answer: await client.until(EITHER) };
}

describe("a WebSocket that no route accepts", () =>
  onEveryRuntime(({ inRoutes }) => {
    for (const path of ["/ordinary", "/nope"]) {
      test(`does not open: ${path}`, async () => {
        await inRoutes({}, ROUTES, async (service) => {
          const socket = new WebSocket(`ws://127.0.0.1:${service.port}${path}`);
          const [error] = await once(socket, "error");
          assert.match(`${error}`, /Unexpected server response: \d{3}/);
          assert.match((await talk(service.port, get("/ordinary"))).received, ORDINARY);
          assert.equal(service.stderr, "");
        });
      });
    }
  }));

describe("an upgrade that is no WebSocket", () =>
  onEveryRuntime(({ runtime, isNode, inRoutes }) => {
    // Node.js 20 cannot decide by request:
    // https://nodejs.org/api/http.html#httpcreateserveroptions-requestlistener
    const decides = runtime.name === "Node.js 26" || (runtime.name === "tsx" && MAJOR > 20);

    test("with a body gets an ordinary answer, or a 400 that closes", async () => {
      await inRoutes({}, ROUTES, async ({ port }) => {
        for (const headers of Object.values(UPGRADES)) {
          for (const body of ["", "12345"]) {
            const rest = `${headers}Content-Length: ${body.length}\r\n\r\n${body}`;
            const { client, answer } = await upgrade(port, "POST", rest);
            // Deno refuses an upgrade with a length by itself.
            if (decides) assert.equal(ORDINARY.exec(answer)?.[1], `${body.length}`);
            else assert.match(answer, REFUSED);
            if (isNode && !decides) await client.ended;
            client.socket.destroy();
          }
        }
      });
    });

    test("without a body gets an ordinary answer, or a 400 that closes", async () => {
      await inRoutes({}, ROUTES, async ({ port }) => {
        for (const headers of Object.values(UPGRADES)) {
          const { client, answer } = await upgrade(port, "GET", `${headers}\r\n`);
          assert.match(answer, isNode && !decides ? REFUSED : ORDINARY);
          client.socket.destroy();
        }
      });
    });

    test("whose client resets, whole or half, harms neither service nor WebSockets", async () => {
      await inRoutes({}, ROUTES, async (service) => {
        const { port } = service;
        const webSocket = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
        for (const headers of [...Object.values(UPGRADES), webSocket]) {
          const whole = get("/ordinary", "1.1", headers);
          for (const text of [whole, whole.slice(0, -2)]) {
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
        assert.match((await talk(port, get("/ordinary"))).received, ORDINARY);
        assert.equal(service.stderr, "");
      });
    });
  }));
