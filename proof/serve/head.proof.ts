/** HEAD has GET's head, and leaves nothing running: on each runtime and in both images. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { drain, entries, stop, until, untilPrinted } from "../support/harness.ts";
import { ask, get, talk } from "../support/http.ts";
import { onEverySubject } from "../support/subjects.ts";

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

onEverySubject(({ inService }) => {
  test("HEAD has the status, the length and the type of GET", async () => {
    await inService({}, async ({ port }) => {
      for (const path of PATHS) {
        const head = await askHead(port, path);
        assert.deepEqual(framing(head), framing((await ask(port, get(path))).head), path);
      }
    });
  });

  test("HEAD has the length of GET while draining, and closes its connection", async () => {
    await inService({ DRAIN_DELAY_MS: "60000" }, async (service) => {
      await drain(service);
      for (const path of PATHS) {
        const head = await askHead(service.port, path);
        const { head: ofGet } = await ask(service.port, get(path));
        assert.deepEqual(framing(head), framing(ofGet), path);
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
