/** The bodies that requests come with, on each runtime and in both images. */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { describe, test } from "node:test";
import { Client, type Env } from "../support/harness.ts";
import { send } from "../support/http.ts";
import { onEveryRuntime, onEverySubject, shareService } from "../support/subjects.ts";

const MIB = 1024 * 1024;
const sha256 = (bytes: Uint8Array) => createHash("sha256").update(bytes).digest("hex");

describe("the service of items", () =>
  onEverySubject((subject) => {
    const service = shareService(subject);

    test("takes a file by parseBody()", async () => {
      const body = new FormData();
      body.set("note", "a note");
      body.set("file", new File([new Uint8Array(MIB)], "zeros.bin"));
      const url = `http://127.0.0.1:${service().port}/upload`;
      const response = await fetch(url, { method: "POST", body });
      assert.deepEqual(await response.json(), { name: "zeros.bin", size: MIB, note: "a note" });
    });

    for (const how of ["with a length", "in chunks"]) {
      const headers: Env = how === "in chunks" ? { "Transfer-Encoding": "chunked" } : {};

      test(`echoes 8 MiB as a stream, sent ${how}`, async () => {
        const body = randomBytes(8 * MIB);
        const { status, body: echoed } = await send(service().port, "/echo", body, headers);
        assert.deepEqual([status, echoed.length], [200, body.length]);
        assert.equal(sha256(echoed), sha256(body));
      });

      test(`reads a body after an await, sent ${how}`, async () => {
        const { body } = await send(service().port, "/late", new Uint8Array(MIB), headers);
        assert.deepEqual(JSON.parse(`${body}`), { size: MIB });
      });

      test(`reads a body by the stream that it answers with, sent ${how}`, async () => {
        const { body } = await send(service().port, "/streamed", new Uint8Array(MIB), headers);
        assert.match(`${body}`, /^\.+\n1048576$/);
      });
    }
  }));

/** Routes that answer with an error, and leave the body unread. */
const UNREAD = `
const { HTTPException } = await import("hono/http-exception");
const { bearerAuth } = await import("hono/bearer-auth");
const { bodyLimit } = await import("hono/body-limit");
app.post("/auth", bearerAuth({ token: "x" }), (c) => c.text("in"));
app.post("/limit", bodyLimit({ maxSize: 10 }), async (c) => c.text(await c.req.text()));
app.post("/refused", () => { throw new HTTPException(422, { message: "no" }); });
app.post("/broken", () => { throw new Error("SECRET"); });
app.post("/mirror", (c) => c.body(c.req.raw.body, 400));
app.get("/slow/:ms", async (c) => {
  await sleep(Number(c.req.param("ms")));
  return c.text("whole");
});
`;
const UNREAD_PATHS = ["/auth", "/limit", "/refused", "/broken", "/nope"];

/** Sends so much of an upload of that length, and waits for the head of the error. */
async function sendRefused(port: number, path: string, length: number, part: string) {
  const head = `POST ${path} HTTP/1.1\r\nHost: test\r\nContent-Length: ${length}\r\n\r\n`;
  const client = new Client(port).send(head + part);
  assert.match(await client.until(/\r\n\r\n/), /^HTTP\/1\.1 [45]\d\d /);
  return client;
}

describe("an error answer whose route left the body unread", () =>
  onEveryRuntime(({ isNode, inRoutes }) => {
    test("holds no stop", async () => {
      for (const path of UNREAD_PATHS) {
        await inRoutes({}, UNREAD, async (service) => {
          await sendRefused(service.port, path, 100_000, "half");
          const startMs = performance.now();
          service.kill("SIGTERM");
          assert.equal(await service.exit, 0, path);
          assert.ok(performance.now() - startMs < 2000, path);
        });
      }
    });

    test("may be the body itself", async () => {
      await inRoutes({}, UNREAD, async ({ port }) => {
        const { status, body } = await send(port, "/mirror", "x".repeat(50_000));
        assert.deepEqual([status, `${body}`], [400, "x".repeat(50_000)]);
      });
    });

    // Deno closes the connection of such an answer at once.
    if (!isNode) return;
    test("leaves its connection open", async () => {
      await inRoutes({}, UNREAD, async ({ port }) => {
        for (const path of UNREAD_PATHS) {
          const client = await sendRefused(port, path, 200_000, "a".repeat(200_000));
          client.received = "";
          // The adapter of Node.js closes a connection 500 ms after such an answer.
          assert.match(await client.get("/slow/900").until(/whole$/), /HTTP\/1\.1 200 OK/, path);
          client.socket.destroy();
        }
      });
    });
  }));
