/** Event streams and their clients, on each runtime and in both images. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Client, entries, type Service, until, untilPrinted } from "../support/harness.ts";
import { ask, get, post } from "../support/http.ts";
import { onEverySubject } from "../support/subjects.ts";

/** Within this a stream knows that its client has left. */
const PROMPT_MS = 1000;

/** The line of a response whose client has left. */
const lineOf = (service: Service, wanted: string) =>
  untilPrinted(
    service,
    () => entries(service.stdout).find(({ path }) => path === wanted),
  );

onEverySubject(({ isNode, inService }) => {
  // Deno does not tell.
  const incomplete = isNode ? true : undefined;

  test("the log calls a stream whose client has left incomplete", async () => {
    await inService({}, async (service) => {
      const client = new Client(service.port).get("/events");
      await client.until(/event: hello/);
      client.socket.destroy();
      assert.equal((await lineOf(service, "/events")).incomplete, incomplete);
      assert.deepEqual(entries(service.stderr), []);
    });
  });

  test("the log calls an echo whose client has left incomplete", async () => {
    await inService({}, async (service) => {
      const echo = new Client(service.port).send(post("/echo", 100_000, "x".repeat(5000)));
      await echo.until(/\r\n\r\n/);
      echo.socket.destroy();
      assert.equal((await lineOf(service, "/echo")).incomplete, incomplete);
      assert.deepEqual(entries(service.stderr), []);
    });
  });

  test("the log calls an answer whose client left before it incomplete", async () => {
    await inService({}, async (service) => {
      const early = new Client(service.port).get("/slow?ms=1000");
      await ask(service.port, get("/greeting"));
      early.socket.destroy();
      assert.equal((await lineOf(service, "/slow")).incomplete, incomplete);
    });
  });

  test("an event stream is told that its client has left", async () => {
    await inService({}, async ({ port }) => {
      const client = new Client(port).get("/events");
      await client.until(/event: hello/);
      assert.equal((await ask(port, get("/open"))).body, "1");
      client.socket.destroy();
      const isClosed = async () => (await ask(port, get("/open"))).body === "0";
      await until(isClosed, "closed stream", PROMPT_MS);
    });
  });
});
