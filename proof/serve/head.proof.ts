/** HEAD has GET's head, and leaves nothing running: on each runtime and in both images. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { drain, entries, stop, until, untilPrinted } from "../support/harness.ts";
import { ask, get, talk } from "../support/http.ts";
import { onEveryRuntime, onEverySubject } from "../support/subjects.ts";

const PATHS = [
  "/greeting",
  "/items",
  "/static/hello.txt",
  "/user",
  "/cookies",
  "/redirect",
  "/nope",
  "/static/none.txt",
  "/teapot",
  "/throws",
  "/area/throws",
  "/healthz",
  "/readyz",
];
const HEADS = 300;
const PROMPT_MS = 1000;

/** The fields of a head that tell of the body. */
function framing(head: string) {
  const read = (pattern: RegExp) => pattern.exec(head)?.[1];
  return {
    status: read(/^HTTP\/1\.1 (\d+)/),
    length: read(/^content-length: (.*)\r$/im),
    type: read(/^content-type: (.*)\r$/im),
  };
}

/** Asks for a head, after which nothing may come. */
async function askHead(port: number, path: string): Promise<string> {
  const { received } = await talk(port, get(path).replace("GET", "HEAD"));
  assert.match(received, /^HTTP\/1\.1 \d+ ((?!\r\n\r\n)[^])*\r\n\r\n$/, path);
  return received;
}

/**
 * On Node.js middleware that sets a header after the route makes a text a stream. The adapter
 * learns its length while it sends it, and a HEAD then has none. A file's length is a header.
 */
function assertFraming(head: string, ofGet: string, isNode: boolean, path: string): void {
  const [asked, wanted] = [framing(head), framing(ofGet)];
  const isText = path !== "/static/hello.txt";
  if (isNode && isText && asked.length === undefined) wanted.length = undefined;
  assert.deepEqual(asked, wanted, path);
}

const BARE = `
app.get("/text", (c) => c.text("a text"));
app.get("/json", (c) => c.json({ a: "text" }));
app.get("/async", async (c) => c.json({ a: await Promise.resolve("text") }));
app.get("/empty", (c) => c.body(null, 204));
app.get("/own-length", (c) => c.body(new ReadableStream({ start(controller) {
  controller.enqueue(new TextEncoder().encode("12345"));
  controller.close();
} }), 200, { "Content-Length": "5", "Content-Type": "text/plain" }));
app.get("/throws", () => { throw new Error("SECRET"); });
`;

onEveryRuntime(({ inRoutes }) => {
  test("HEAD has the status, the length and the type of GET", async () => {
    await inRoutes({}, BARE, async ({ port }) => {
      const paths = ["/text", "/json", "/async", "/empty", "/own-length", "/throws", "/nope"];
      for (const path of [...paths, "/healthz", "/readyz"]) {
        const { head } = await ask(port, get(path));
        assert.deepEqual(framing(await askHead(port, path)), framing(head), path);
      }
    });
  });
});

onEverySubject(({ isNode, inService }) => {
  test("HEAD has the status, the type and no other length than GET", async () => {
    await inService({}, async ({ port }) => {
      for (const path of PATHS) {
        const { head } = await ask(port, get(path));
        assertFraming(await askHead(port, path), head, isNode, path);
      }
    });
  });

  test("HEAD is as GET while draining, and closes its connection", async () => {
    await inService({ DRAIN_DELAY_MS: "60000" }, async (service) => {
      await drain(service);
      for (const path of PATHS) {
        const head = await askHead(service.port, path);
        const { head: ofGet } = await ask(service.port, get(path));
        assertFraming(head, ofGet, isNode, path);
        assert.match(head, /^connection: close\r$/im);
      }
    });
  });

  test("the log calls it HEAD", async () => {
    await inService({}, async (service) => {
      await askHead(service.port, "/greeting");
      const find = () => entries(service.stdout).find(({ path }) => path === "/greeting");
      assert.equal((await untilPrinted(service, find)).method, "HEAD");
    });
  });

  test("HEAD of an event stream has no length, and leaves no loop", async () => {
    await inService({}, async (service) => {
      const { port } = service;
      for (let asked = 0; asked < HEADS; asked += 1) {
        const { status, length, type } = framing(await askHead(port, "/events"));
        assert.deepEqual([status, length, type], ["200", undefined, "text/event-stream"]);
      }
      const open = async () => (await ask(port, get("/open"))).body;
      await until(async () => await open() === "0", "end of every loop", PROMPT_MS);
      const { code, ms } = await stop(service);
      assert.equal(code, 0);
      assert.ok(ms < PROMPT_MS, `the stop took ${ms} ms`);
    });
  });
});
