/** What `--ping` tells of health: run on each runtime by itself. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { probe, readStatus } from "../../main.ts";
import { freePort, run, settings, withFake, withService } from "../support/harness.ts";
import { WRONG_ANSWERS } from "../support/hostile.ts";

// ── Reading a response ──

/** Gives a text byte by byte, or in two parts split at a byte. */
async function* bytes(text: string, split?: number): AsyncGenerator<Uint8Array> {
  const all = Uint8Array.from(text, (character) => character.charCodeAt(0));
  if (split === undefined) { for (let i = 0; i < all.length; i++) yield all.subarray(i, i + 1); }
  else {
    yield all.subarray(0, split);
    yield all.subarray(split);
  }
}

test("readStatus() gives the status of a complete head, however it is split", async () => {
  for (
    const [head, status] of [
      ["HTTP/1.1 200 OK\r\n\r\n", 200],
      ["HTTP/1.0 200\r\n\r\n", 200],
      ["HTTP/1.1 200 \r\nA: b\r\nC:\r\n\r\nbody", 200],
      ["HTTP/1.1 503 Über\xff\r\nX-Y: \t z \r\n\r\n", 503],
    ] as const
  ) {
    assert.equal(await readStatus(bytes(head)), status);
    for (let split = 0; split <= head.length; split++) {
      assert.equal(await readStatus(bytes(head, split)), status);
    }
  }
});

test("readStatus() refuses anything else, saying what it saw", async () => {
  for (
    const head of [
      "",
      "HTTP/1.1 200 OK\r\n",
      "HTTP/1.1 200 OK\n\n",
      "HTTP/1.1 200OK\r\n\r\n",
      "HTTP/1.1 2000 OK\r\n\r\n",
      "HTTP/1.1 20 OK\r\n\r\n",
      "HTTP/1.1 +20 OK\r\n\r\n",
      "HTTP/1.1  200 OK\r\n\r\n",
      "HTTP/2 200\r\n\r\n",
      "HTTP/1.2 200 OK\r\n\r\n",
      "http/1.1 200 OK\r\n\r\n",
      " HTTP/1.1 200 OK\r\n\r\n",
      "SSH-2.0-OpenSSH_9.2\r\n",
      "\x16\x03\x01\x02\x00\x01\x00",
      `HTTP/1.1 200 OK\r\nA: ${"x".repeat(20_000)}\r\n\r\n`,
    ]
  ) {
    for (const chunks of [bytes(head), bytes(head, 7)]) {
      await assert.rejects(readStatus(chunks), (error: Error) => {
        assert.match(error.message, /^sent no HTTP response head in \d+ bytes: "[ -~]*"$/);
        assert.ok(error.message.length < 200);
        return true;
      });
    }
  }
});

// ── The probe, against servers that misbehave ──

test("probe() takes a complete head with status 200 for health, and nothing else", async () => {
  await Promise.all(WRONG_ANSWERS.map(([name, answer, seen]) =>
    withFake(answer, async (port) => {
      const startMs = performance.now();
      const { outcome, text } = await probe(settings({ PORT: `${port}`, PING_TIMEOUT_MS: "400" }));
      assert.equal(outcome, "unhealthy", name);
      assert.match(text, seen, name);
      assert.ok(text.startsWith(`unhealthy: http://127.0.0.1:${port}/healthz `), text);
      assert.match(text, /^[ -~]{1,500}$/, name);
      assert.ok(
        performance.now() - startMs < 2500,
        `${name} took ${performance.now() - startMs} ms`,
      );
    })
  ));
  await withFake(
    (socket) => socket.write("HTTP/1.1 200 OK\r\n\r\nand a body that never ends"),
    async (port) => {
      const text = `healthy: http://127.0.0.1:${port}/healthz answered 200`;
      assert.deepEqual(await probe(settings({ PORT: `${port}` })), { outcome: "healthy", text });
    },
  );
});

test("probe() says when nothing listens, and refuses a port that it cannot know", async () => {
  const port = await freePort();
  for (const HOST of ["0.0.0.0", "localhost"]) {
    const { outcome, text } = await probe(settings({ HOST, PORT: `${port}` }));
    assert.equal(outcome, "refused");
    assert.match(text, /^unhealthy: http:\/\/(127\.0\.0\.1|localhost):\d+\/healthz .*refused/i);
  }
  await assert.rejects(probe(settings({ PORT: "0" })), { message: /^Cannot probe PORT=0: / });
});

test("probe() sends one plain request, to loopback of its family for a wildcard", async () => {
  for (
    const [listen, hosts] of [["127.0.0.1", ["0.0.0.0", "127.0.0.1", "localhost"]], ["::1", [
      "::",
      "0::0",
      "::1",
    ]]] as const
  ) {
    let request = "";
    await withFake((socket) => {
      request = "";
      socket.on("data", (chunk) => {
        request += chunk;
        if (request.endsWith("\r\n\r\n")) socket.end("HTTP/1.1 200 OK\r\n\r\n");
      });
    }, async (port) => {
      for (const HOST of hosts) {
        await probe(settings({ HOST, PORT: `${port}` }));
        let host: string = listen === "::1" ? "[::1]" : listen;
        if (HOST === "localhost") host = HOST;
        assert.equal(
          request,
          `GET /healthz HTTP/1.1\r\nHost: ${host}:${port}\r\nConnection: close\r\n\r\n`,
        );
      }
    }, listen);
  }
});

// ── The program ──

test("--ping is 0 for a healthy instance and 1 with a reason for the rest", async () => {
  await withService({}, async ({ port, ping }) => {
    const healthy = {
      code: 0,
      stdout: `healthy: http://127.0.0.1:${port}/healthz answered 200\n`,
      stderr: "",
    };
    assert.deepEqual(await ping(), healthy);
    const proxy = "http://127.0.0.1:1";
    const misleading = {
      HTTP_PROXY: proxy,
      http_proxy: proxy,
      ALL_PROXY: proxy,
      HTTPS_PROXY: proxy,
      NODE_USE_ENV_PROXY: "1",
      NO_PROXY: "",
      FORCE_COLOR: "1",
      NODE_ENV: "test",
      DEBUG: "*",
    };
    // Some versions of Node.js warn about what they are told to do.
    const { code, stdout } = await ping(misleading);
    assert.deepEqual([code, stdout], [healthy.code, healthy.stdout]);
    assert.deepEqual(await ping({ HOST: "0.0.0.0" }), healthy);
  });
  const unheard = await run(["--ping"], { PORT: `${await freePort()}` });
  assert.deepEqual([unheard.code, unheard.stdout], [1, ""]);
  assert.match(unheard.stderr, /^unhealthy: [ -~]+refused[ -~]*\n$/i);
  const refused = await run(["--ping"], { PORT: "0" });
  assert.deepEqual([refused.code, refused.stdout], [1, ""]);
});

test("--ping does not hang where a server accepts and never answers", async () => {
  await withFake(() => {}, async (port) => {
    const { code, stdout, stderr } = await run(["--ping"], {
      PORT: `${port}`,
      PING_TIMEOUT_MS: "200",
    });
    assert.deepEqual([code, stdout], [1, ""]);
    const url = `http://127.0.0.1:${port}/healthz`;
    const late = "gave no HTTP response head within PING_TIMEOUT_MS=200";
    assert.equal(stderr, `unhealthy: ${url} ${late}\n`);
  });
});
