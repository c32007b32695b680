/** A client that leaves is no error of the service. */
import assert from "node:assert/strict";
import { createServer, type IncomingMessage, type RequestListener, type Server } from "node:http";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { describe, test } from "node:test";
import { Client, lineOf, type Service, sleep, until } from "../support/harness.ts";
import { get, talk } from "../support/http.ts";
import { onEveryRuntime } from "../support/subjects.ts";

const READING = `
app.post("/text", async (c) => c.text(String((await c.req.text()).length)));
app.post("/json", async (c) => c.json(await c.req.json()));
app.post("/form", async (c) => c.json(Object.keys(await c.req.parseBody())));
app.post("/stream", async (c) => {
  let size = 0;
  for await (const chunk of c.req.raw.body!) size += chunk.length;
  return c.text(String(size));
});
app.post("/forwarded", (c) => fetch(runtime.variable("UPSTREAM")!, {
  method: "POST",
  body: c.req.raw.body,
  duplex: "half",
} as RequestInit));
`;
const BOUNDARY = "-".repeat(30);
const PART = `--${BOUNDARY}\r\nContent-Disposition: form-data; name="a"\r\n\r\nhalf`;
const UPLOADS = {
  "/text": "text/plain",
  "/json": "application/json",
  "/form": `multipart/form-data; boundary=${BOUNDARY}`,
  "/stream": "text/plain",
};

/** Begins an upload, and leaves in the middle of it once `begun` resolves. */
async function leave(
  service: Service,
  path: string,
  type: string,
  how: string,
  begun = () => talk(service.port, get("/")) as Promise<unknown>,
) {
  const head = `POST ${path} HTTP/1.1\r\nHost: test\r\nContent-Type: ${type}\r\n`;
  const client = new Client(service.port).send(`${head}Content-Length: 100000\r\n\r\n${PART}`);
  await begun();
  if (how === "end") client.socket.destroy();
  else client.socket.resetAndDestroy();
}

/** Runs `body` with the URL of another server. */
async function withServer(
  answer: RequestListener,
  body: (url: string, server: Server) => Promise<void>,
) {
  const server = createServer(answer);
  await once(server.listen(0, "127.0.0.1"), "listening");
  const { port } = server.address() as AddressInfo;
  try {
    await body(`http://127.0.0.1:${port}/`, server);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

/** The line says that the request is incomplete, and nothing that it failed. */
async function assertIncomplete(service: Service, path: string) {
  const { line, isError } = await lineOf(service, path);
  assert.deepEqual([line.incomplete, isError, line.stack], [true, false, undefined]);
  assert.equal(service.stderr, "");
}

describe("a client that leaves", () =>
  onEveryRuntime(({ isNode, inRoutes }) => {
    for (const how of ["end", "reset"]) {
      for (const [path, type] of Object.entries(UPLOADS)) {
        test(`is logged as incomplete in an upload to ${path}, by ${how}`, async () => {
          await inRoutes({}, READING, async (service) => {
            await leave(service, path, type, how);
            await assertIncomplete(service, path);
          });
        });
      }

      test(`is logged as incomplete while fetch() passes its upload on, by ${how}`, async () => {
        await withServer((request) => request.resume(), async (UPSTREAM, server) => {
          await inRoutes({ UPSTREAM }, READING, async (service) => {
            const begun = () => once(server, "request");
            await leave(service, "/forwarded", "text/plain", how, begun);
            await assertIncomplete(service, "/forwarded");
          });
        });
      });
    }

    test("is told from another server that cuts an upload, which is an error", async () => {
      const cut = (request: IncomingMessage) => {
        request.once("data", () => request.socket.destroy());
      };
      await withServer(cut, async (UPSTREAM) => {
        await inRoutes({ UPSTREAM }, READING, async (service) => {
          const body = "x".repeat(100_000);
          const url = `http://127.0.0.1:${service.port}/forwarded`;
          const response = await fetch(url, { method: "POST", body });
          assert.equal(response.status, 500);
          assert.equal((await lineOf(service, "/forwarded")).isError, true);
        });
      });
    });

    if (!isNode) return; // Deno does not tell of the rest
    test("is logged as incomplete in the middle of a response, or before it", async () => {
      const routes = `
app.get("/slow", async (c) => { await sleep(1000); return c.text("whole"); });
app.get("/long", (c) => c.body(new ReadableStream({ async pull(controller) {
  await sleep(5);
  controller.enqueue(new Uint8Array(100_000));
} })));`;
      for (const path of ["/long", "/slow"]) {
        await inRoutes({}, routes, async (service) => {
          const client = new Client(service.port).get(path);
          if (path === "/long") await client.until(/\r\n\r\n/);
          else await talk(service.port, get("/"));
          client.socket.destroy();
          await assertIncomplete(service, path);
        });
      }
    });
  }));

const SIGNAL = `
let aborted = 0;
app.all("/signal", async (c) => {
  c.req.raw.signal.addEventListener("abort", () => { aborted += 1; });
  if (c.req.method === "GET") await sleep(Number(c.req.query("ms") ?? 0));
  return c.text("ok");
});
app.get("/aborted", (c) => c.json(aborted));
`;

onEveryRuntime(({ inRoutes }) => {
  test("the signal of a request aborts only when its client leaves", async () => {
    await inRoutes({}, SIGNAL, async (service) => {
      const url = `http://127.0.0.1:${service.port}/signal`;
      await (await fetch(url)).text();
      await (await fetch(url, { method: "POST", body: "x" })).text();
      const aborted = async () =>
        (await talk(service.port, get("/aborted"))).received.split("\r\n\r\n")[1];
      await sleep(50);
      assert.equal(await aborted(), "0");
      const client = new Client(service.port).get("/signal?ms=300");
      await aborted();
      client.socket.destroy();
      await until(async () => await aborted() === "1", "aborted signal", 2000);
      assert.equal(service.stderr, "");
    });
  });
});
