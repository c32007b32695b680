/** A realistic service works in main.ts as its user wrote it: on each runtime, in both images. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { ask, get, post, send, split, talk } from "../support/http.ts";
import { checkTypesOnDeno, onEverySubject, shareService } from "../support/subjects.ts";
import { WHOLE, withUpstream } from "../support/upstream.ts";

const GREETING = "a variable of its own";
const HELLO = "hello from a file\n";

describe("the service of items", () =>
  onEverySubject((subject) => {
    const { isImage, isNode, inService } = subject;
    const service = shareService(subject, { GREETING });

    test("creates, reads, renames and removes items, and refuses what is none", async () => {
      const { port } = service();
      const created = await send(port, "/items", '{"name":"first"}');
      assert.equal(created.status, 201);
      const { id } = JSON.parse(`${created.body}`);
      const read = async (path: string) => JSON.parse((await ask(port, get(path))).body);
      assert.deepEqual(await read(`/items/${id}`), { id, name: "first" });
      const renamed = await send(port, `/items/${id}`, '{"name":"second"}', {}, "PUT");
      assert.equal(renamed.status, 204);
      assert.deepEqual(await read("/items"), [{ id, name: "second" }]);
      assert.equal((await send(port, `/items/${id}`, "", {}, "DELETE")).status, 204);
      assert.equal((await ask(port, get(`/items/${id}`))).status, 404);
      for (const body of ["", "{", '{"name":""}', '{"name":1}']) {
        const { status, body: text } = await send(port, "/items", body);
        assert.deepEqual([status, `${text}`], [400, '{"error":"an item has a name"}']);
      }
    });

    test("answers a route that ignores its body, and what follows on the connection", async () => {
      const { port } = service();
      const ignored = await send(port, "/ignored", new Uint8Array(1024 * 1024));
      assert.equal(`${ignored.body}`, "ignored");
      const { received } = await talk(port, post("/ignored", 5, "12345") + get("/greeting"));
      assert.deepEqual(split(received).responses.map(({ body }) => body), ["ignored", GREETING]);
    });

    test("serves a static file, and no file outside the folder", async () => {
      const { port } = service();
      assert.equal((await ask(port, get("/static/hello.txt"))).body, HELLO);
      const range = await ask(port, get("/static/hello.txt", "1.1", "Range: bytes=0-4\r\n"));
      // A known limit of docs/containers.md: Deno's answers no ranges.
      assert.deepEqual([range.status, range.body], isNode ? [206, "hello"] : [200, HELLO]);
      const outside = ["none.txt", "../main.ts", "%2e%2e/main.ts", "..%2fmain.ts"];
      for (const path of outside) {
        const { status, body } = await ask(port, get(`/static/${path}`));
        assert.notEqual(status, 200, path);
        assert.doesNotMatch(body, /addRoutes/);
      }
    });

    test("knows the client's address", async () => {
      const { body } = await ask(service().port, get("/address"));
      assert.match(body, isImage ? /^\d+(\.\d+){3}$/ : /^127\.0\.0\.1$/);
    });

    test("sets a variable before the route and a header after it", async () => {
      const { port } = service();
      const { head, body } = await ask(port, get("/user", "1.1", "X-User: ada\r\n"));
      assert.equal(body, "ada");
      assert.match(head, /^x-service: yes\r$/im);
      assert.match((await ask(port, get("/throws"))).head, /^x-service: yes\r$/im);
    });

    test("sends each cookie in a line of its own", async () => {
      const { head } = await ask(service().port, get("/cookies"));
      assert.match(head, /^set-cookie: first=1; Path=\/\r$/im);
      assert.match(head, /^set-cookie: second=2; Path=\/; HttpOnly\r$/im);
      assert.equal(head.match(/^set-cookie:/gim)?.length, 3);
    });

    test("redirects", async () => {
      const { status, head } = await ask(service().port, get("/redirect"));
      assert.equal(status, 303);
      assert.match(head, /^location: http:\/\/example.test\/elsewhere\r$/im);
    });

    test("answers with what fetch() gave", async () => {
      await withUpstream((env) =>
        inService(env, async ({ port }) => {
          const { status, head, body } = await ask(
            port,
            get(isImage ? "/proxy/cookies" : "/proxy/whole"),
          );
          assert.deepEqual([status, body], isImage ? [200, "baked"] : [203, WHOLE]);
          assert.match(head, /^set-cookie: first=1.*\r\n(.*\r\n)*?set-cookie: second=2.*\r$/im);
        })
      );
    });

    test("reads a variable of its own, and its timer runs", async () => {
      const { port } = service();
      assert.equal((await ask(port, get("/greeting"))).body, GREETING);
      assert.ok(Number((await ask(port, get("/ticks"))).body) > 0);
    });

    test("imports values from main.ts into a second file", async () => {
      const { body } = await ask(service().port, get("/settings"));
      assert.equal(JSON.parse(body).shutdownTimeoutMs, 8000);
    });

    test("is ready while its database answers", async () => {
      const { status, body } = await ask(service().port, get("/readyz"));
      assert.deepEqual([status, body], [200, '{"status":"ready"}']);
      assert.equal((await service().ping()).code, 0);
    });

    test("answers HTTP/1.0 without Host", async () => {
      const statuses = { "/readyz": 200, "/healthz": 200, "/greeting": 200, "/nope": 404 };
      for (const [path, status] of Object.entries(statuses)) {
        assert.equal((await ask(service().port, get(path, "1.0"))).status, status, path);
      }
    });

    test("answers what no route takes with 404", async () => {
      const { status, body } = await ask(service().port, get("/nope"));
      assert.deepEqual([status, body], [404, '{"error":"Not Found"}']);
    });
  }));

test("the service needs no cast: Deno checks its types, as tsc does for Node.js", async () => {
  await checkTypesOnDeno();
});
