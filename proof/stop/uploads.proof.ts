/** Uploads in a stop: those in flight are read to their end. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Client, drain, TEST_TIMEOUT_MS, until, untilPrinted } from "../support/harness.ts";
import { ask, get, post, split } from "../support/http.ts";
import { onEveryRuntime, onEverySubject } from "../support/subjects.ts";

const HALF = "x".repeat(50_000);
const BOUNDARY = "b".repeat(30);
const FILE = `--${BOUNDARY}\r
Content-Disposition: form-data; name="file"; filename="f"\r
\r
${HALF}\r
`;
const END = `--${BOUNDARY}--\r\n`;
const FORM_HEAD = `POST /upload HTTP/1.1\r
Host: test\r
Content-Type: multipart/form-data; boundary=${BOUNDARY}\r
Content-Length: ${FILE.length + END.length}\r
\r
`;

/** The body of the one response, which has to be whole. */
async function bodyOf(client: Client): Promise<string> {
  await client.ended;
  const { responses, isComplete } = split(client.received);
  assert.ok(isComplete, JSON.stringify(client.received.slice(0, 300)));
  return responses[0].body;
}

describe("the service of items", () =>
  onEverySubject(({ inService }) => {
    test("reads uploads in flight when the stop begins to their end", async () => {
      await inService({}, async (service) => {
        const begin = (path: string) => new Client(service.port).send(post(path, 100_000, HALF));
        const late = begin("/late");
        const echo = begin("/echo");
        const streamed = begin("/streamed");
        const ignored = begin("/ignored");
        const form = new Client(service.port).send(FORM_HEAD + FILE);
        await echo.until(/\r\n\r\n/); // the echo has begun
        await streamed.until(/\r\n\r\n/);
        await ask(service.port, get("/greeting"));
        await drain(service);
        await refused(service.port);
        for (const client of [late, echo, streamed, ignored]) client.send(HALF);
        form.send(END);
        assert.equal(await service.exit, 0, service.stderr);
        assert.equal(await bodyOf(late), '{"size":100000}');
        assert.equal(await bodyOf(echo), "x".repeat(100_000));
        assert.match(await bodyOf(streamed), /^\.+\n100000$/);
        assert.equal(await bodyOf(ignored), "ignored");
        assert.equal(await bodyOf(form), '{"name":"f","size":50000}');
      });
    });
  }));

/** Resolves once the service takes no new upload: its listener is closed, or answers 503. */
async function refused(port: number): Promise<void> {
  const isRefused = async () => {
    const late = new Client(port).send(post("/late", 1, "x"));
    await late.until(/\r\n\r\n/).catch(() => {}); // a refused or closed connection
    late.socket.destroy();
    return late.received === "" || late.received.startsWith("HTTP/1.1 503");
  };
  await until(isRefused, "refused upload", TEST_TIMEOUT_MS);
}

/** Shows that a request without a body is refused, too. */
async function assertRefused(port: number, method: string) {
  const { status } = await ask(port, get("/upload").replace("GET", method));
  assert.equal(status, 503);
}

const ROUTES = `
stopping.addEventListener("abort", () => console.log("stopping"));
app.on(["POST", "PUT", "PATCH", "DELETE"], "/upload", async (c) =>
  c.text((await c.req.arrayBuffer()).byteLength + " bytes"));
app.get("/slow", async (c) => { await sleep(300); return c.text("whole"); });
`;

describe("an upload that begins in a stop", () =>
  onEveryRuntime(({ isNode, inRoutes }) => {
    for (const method of ["POST", "PUT", "PATCH", "DELETE"]) {
      test(`is refused, and its client's debt holds up nothing: ${method}`, async () => {
        await inRoutes({}, ROUTES, async (service) => {
          const send = (length: number, body: string) => {
            const head = `${method} /upload HTTP/1.1\r\nHost: x\r\nContent-Length: ${length}`;
            return new Client(service.port).send(`${head}\r\n\r\n${body}`);
          };
          const begun = send(10, "begun");
          await ask(service.port, get("/"));
          service.kill("SIGTERM");
          await untilPrinted(service, () => /^stopping$/m.exec(service.stdout));
          const late = send(100, "late");
          // Deno tells an upload by its method, with a body or without. Node.js accepts no
          // connection by then.
          if (isNode) await late.ended;
          else await late.until(/\r\n\r\n/);
          assert.match(late.received, isNode ? /^$/ : /^HTTP\/1\.1 503 /);
          if (!isNode) await assertRefused(service.port, method);
          const startMs = performance.now();
          begun.send("whole");
          await begun.until(/10 bytes$/);
          assert.equal(await service.exit, 0, service.stderr);
          assert.ok(performance.now() - startMs < 2000);
        });
      });
    }

    test("in the drain delay is answered, with a length and in chunks", async () => {
      await inRoutes({ DRAIN_DELAY_MS: "60000" }, ROUTES, async (service) => {
        await drain(service);
        const whole = new Client(service.port).send(post("/upload", 5, "12345"));
        await whole.until(/5 bytes$/);
        const head = "POST /upload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
        const chunked = new Client(service.port).send(`${head}5\r\n12345\r\n0\r\n\r\n`);
        await chunked.until(/5 bytes$/);
      });
    });
  }));
