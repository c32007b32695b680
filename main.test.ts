/** Run by `npm test`, under Node.js and under Deno: each runtime tests the program on itself. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { createApp, createHandler, probe, readStatus } from "./main.ts";
import {
  Client,
  type Env,
  freePort,
  launch,
  ROOT,
  run,
  SELF,
  settings,
  TEST_TIMEOUT_MS,
  until,
  VARIABLES,
  withFake,
  withRoutes,
  withService,
  WRONG_ANSWERS,
} from "./tests/harness.ts";

// ── Settings ──

test("readSettings() gives the defaults when nothing is set, or set to nothing", () => {
  const defaults = {
    port: 8080,
    host: "0.0.0.0",
    pingTimeoutMs: 3000,
    drainDelayMs: 0,
    shutdownTimeoutMs: 8000,
    accessLog: true,
  };
  assert.deepEqual(settings(), defaults);
  assert.deepEqual(settings(Object.fromEntries(VARIABLES.map((name) => [name, ""]))), defaults);
});

test("readSettings() takes what is well formed", () => {
  for (const PORT of ["0", "1", "80", "65535"]) assert.equal(settings({ PORT }).port, Number(PORT));
  for (const HOST of ["::", "::1", "0:0::0", "FE80::1", "::ffff:1.2.3.4", "10.0.0.1", "localhost", "a-b.example"]) {
    assert.equal(settings({ HOST }).host, HOST);
  }
  assert.equal(settings({ PING_TIMEOUT_MS: "2147483647" }).pingTimeoutMs, 2_147_483_647);
  assert.equal(settings({ DRAIN_DELAY_MS: "5000" }).drainDelayMs, 5000);
  assert.equal(settings({ SHUTDOWN_TIMEOUT_MS: "0" }).shutdownTimeoutMs, 0);
  assert.equal(settings({ ACCESS_LOG: "off" }).accessLog, false);
});

test("readSettings() refuses what is malformed, naming the variable and its value", () => {
  const refuses = (name: string, value: string, rule: string, shown = JSON.stringify(value)) => {
    const message = `Cannot parse ${name} as it must be ${rule}: current value is ${shown}`;
    assert.throws(() => settings({ [name]: value }), { message });
  };
  for (const value of ["80abc", "65536", "-1", "+80", "1e3", "0x50", " 80", "80 ", "8.0", "080", "٣", "NaN", " "]) {
    const shown = value === "٣" ? '"?"' : undefined;
    refuses("PORT", value, "an integer from 0 to 65535", shown);
    refuses("DRAIN_DELAY_MS", value === "65536" ? "2147483648" : value, "an integer from 0 to 2147483647", shown);
  }
  refuses("PING_TIMEOUT_MS", "0", "an integer from 1 to 2147483647");
  refuses("SHUTDOWN_TIMEOUT_MS", "8s", "an integer from 0 to 2147483647");
  for (const value of ["ON", "true", "1", "on ", "constructor"]) refuses("ACCESS_LOG", value, "on or off");
  for (
    const value of [
      "http://a",
      "a:80",
      "[::1]",
      "::1]:80/[",
      "::1]/[",
      "1.2.3",
      "0",
      "256.0.0.1",
      "a b",
      " a",
      "a/b",
      "a@b",
      "a?b",
      "a#b",
      "%61",
      ":",
      ":::",
      "12345::",
      "fe80::1%eth0",
      "a\nb",
    ]
  ) refuses("HOST", value, "an IP address or a host name");
  refuses("HOST", "\x1b[31m\x9bred", "an IP address or a host name", '"\\u001b[31m?red"');
  refuses("HOST", `${"x".repeat(5000)} `, "an IP address or a host name", `"${"x".repeat(80)}"`);
});

// ── Routes ──

/** The application, what it prints meanwhile and a way to ask it. */
async function withApp(
  body: (
    ask: (path: string, method?: string) => Promise<Response>,
    printed: string[],
    app: Awaited<ReturnType<typeof createApp>>,
  ) => Promise<void>,
  { accessLog = true, draining = false } = {},
) {
  const { log, error } = console;
  const printed: string[] = [];
  console.log = console.error = (line: string) => void printed.push(line);
  try {
    const app = await createApp(() => draining);
    const handle = createHandler(app, accessLog, () => draining);
    const ask = async (path: string, method = "GET") => await handle(new Request(`http://test${path}`, { method }));
    await body(ask, printed, app);
  } finally {
    Object.assign(console, { log, error });
  }
}

test("GET and HEAD /healthz answer 200 with no body, draining or not", async () => {
  for (const draining of [false, true]) {
    await withApp(async (ask) => {
      for (const method of ["GET", "HEAD"]) {
        const response = await ask("/healthz", method);
        assert.equal(response.status, 200);
        assert.equal(response.headers.get("Cache-Control"), "no-store");
        assert.equal(await response.text(), "");
      }
    }, { draining });
  }
});

test("GET and HEAD /readyz answer 200, and 503 once draining", async () => {
  for (const draining of [false, true]) {
    await withApp(async (ask) => {
      for (const method of ["GET", "HEAD"]) {
        const response = await ask("/readyz", method);
        assert.equal(response.status, draining ? 503 : 200);
        assert.equal(response.headers.get("Cache-Control"), "no-store");
        const body = JSON.stringify({ status: draining ? "draining" : "ready" });
        assert.equal(await response.text(), method === "GET" ? body : "");
      }
    }, { draining });
  }
});

test("the health endpoints answer 405 to another method, with Allow", async () => {
  await withApp(async (ask) => {
    for (const path of ["/healthz", "/readyz"]) {
      for (const method of ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"]) {
        const response = await ask(path, method);
        assert.equal(response.status, 405);
        assert.equal(response.headers.get("Allow"), "GET, HEAD");
        assert.deepEqual(await response.json(), { error: "Method Not Allowed" });
      }
    }
  });
});

test("GET / answers a line of text, and an unknown path 404", async () => {
  await withApp(async (ask) => {
    assert.match(await (await ask("/")).text(), /^heartbeat [^\n]+\n$/);
    for (const path of ["/nope", "/healthz/", "//healthz", "/healthz%00"]) {
      const response = await ask(path);
      assert.equal(response.status, 404, path);
      assert.deepEqual(await response.json(), { error: "Not Found" });
    }
  });
});

test("the access log has a line per request, but none for health and no query", async () => {
  await withApp(async (ask, printed) => {
    for (const path of ["/healthz", "/readyz", "/?token=secret", "/nope"]) await ask(path);
    const entries = printed.map((line) => JSON.parse(line));
    assert.deepEqual(entries.map(({ method, path, status }) => [method, path, status]), [
      ["GET", "/", 200],
      ["GET", "/nope", 404],
    ]);
    for (const { time, ms } of entries) {
      assert.equal(new Date(time).toISOString(), time);
      assert.ok(ms >= 0 && ms < 1000, ms);
    }
  });
  await withApp(async (ask, printed) => {
    await ask("/");
    assert.deepEqual(printed, []);
  }, { accessLog: false });
});

test("a handler that throws answers a generic 500 and logs the detail", async () => {
  for (
    const [thrown, text] of [
      [new Error("the detail"), "Error: the detail"],
      ["the detail", "the detail"],
      [{ toString: () => "the detail" }, "the detail"],
      [Object.create(null), "object"], // it has no text
    ]
  ) {
    await withApp(async (ask, printed, app) => {
      const fail = () => {
        throw thrown;
      };
      app.get("/now", fail);
      app.get("/later", async () => await Promise.reject(thrown));
      app.get("/behind", async (c, next) => {
        await next();
        c.header("After", "all");
      }, fail);
      for (const path of ["/now", "/later", "/behind"]) {
        printed.length = 0;
        const response = await ask(path);
        assert.equal(response.status, 500);
        if (path === "/behind" && thrown instanceof Error) assert.equal(response.headers.get("After"), "all");
        assert.deepEqual(await response.json(), { error: "Internal Server Error" });
        const [failure, access] = printed.map((line) => JSON.parse(line));
        assert.equal(failure.error, text);
        assert.deepEqual([failure.path, access.path, access.status], [path, path, 500]);
      }
    });
  }
});

test("a route that returns what no client can be sent answers a generic 500", async () => {
  await withApp(async (ask, printed, app) => {
    app.get("/error", () => Response.error());
    const response = await ask("/error");
    assert.deepEqual([response.status, await response.json()], [500, { error: "Internal Server Error" }]);
    assert.deepEqual(printed.map((line) => JSON.parse(line).status), [undefined, 500]);
  });
});

test("a handler that throws Hono's HTTPException answers what that says of a client's fault, and hides the service's", async () => {
  const { HTTPException } = await import("hono/http-exception");
  await withApp(async (ask, printed, app) => {
    app.get("/secret", () => {
      throw new HTTPException(401, { message: "who are you?" });
    });
    app.get("/fault", () => {
      throw new HTTPException(503, { message: "the password is" });
    });
    const response = await ask("/secret");
    assert.deepEqual([response.status, await response.text()], [401, "who are you?"]);
    const fault = await ask("/fault");
    assert.deepEqual([fault.status, await fault.json()], [500, { error: "Internal Server Error" }]);
    assert.match(printed.find((line) => line.includes("password")) ?? "", /"path":"\/fault"/);
  });
});

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
    for (let split = 0; split <= head.length; split++) assert.equal(await readStatus(bytes(head, split)), status);
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
      "HTTP/1.1 200 O\0K\r\n\r\n",
      "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
      "HTTP/1.1 200 OK\r\n folded: x\r\n\r\n",
      "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
      "HTTP/1.1 200 OK\rA: b\r\n\r\n",
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
      await assert.rejects(probe(settings({ PORT: `${port}`, PING_TIMEOUT_MS: "400" })), (error: Error) => {
        assert.match(error.message, seen, name);
        assert.ok(error.message.startsWith(`unhealthy: http://127.0.0.1:${port}/healthz `), error.message);
        assert.match(error.message, /^[ -~]{1,300}$/, name);
        return true;
      });
      assert.ok(performance.now() - startMs < 2500, `${name} took ${performance.now() - startMs} ms`);
    })
  ));
  await withFake((socket) => socket.write("HTTP/1.1 200 OK\r\n\r\nand a body that never ends"), async (port) => {
    assert.equal(await probe(settings({ PORT: `${port}` })), `healthy: http://127.0.0.1:${port}/healthz answered 200`);
  });
});

test("probe() says when nothing listens, and refuses a port that it cannot know", async () => {
  const port = await freePort();
  await assert.rejects(
    probe(settings({ PORT: `${port}` })),
    /^Error: unhealthy: http:\/\/127\.0\.0\.1:\d+\/healthz .*refused/i,
  );
  await assert.rejects(probe(settings({ HOST: "localhost", PORT: `${port}` })), /refused/i);
  await assert.rejects(probe(settings({ PORT: "0" })), { message: /^Cannot probe PORT=0: / });
});

test("probe() sends one plain request, and reaches a wildcard on loopback of its family", async () => {
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
        const host = HOST === "localhost" ? HOST : listen === "::1" ? "[::1]" : listen;
        assert.equal(request, `GET /healthz HTTP/1.1\r\nHost: ${host}:${port}\r\nConnection: close\r\n\r\n`);
      }
    }, listen);
  }
});

// ── The program ──

test("--help and --version print on standard output; anything else is refused, and serves nothing", async () => {
  const { version } = JSON.parse(readFileSync(`${ROOT}/package.json`, "utf8"));
  assert.deepEqual(await run(["--version"]), { code: 0, stdout: `${version}\n`, stderr: "" });
  const help = await run(["--help"]);
  assert.deepEqual([help.code, help.stderr], [0, ""]);
  for (const name of VARIABLES) assert.ok(help.stdout.includes(name), name);
  for (const args of [["--pong"], ["--ping", "--ping"], ["--ping", "x"], ["serve"], [""], ["--ping=1"], ["-h"]]) {
    const { code, stdout, stderr } = await run(args);
    const stray = args.find((arg) => arg !== "--ping") ?? "--ping";
    assert.deepEqual([code, stdout, stderr], [1, "", `Unexpected argument ${JSON.stringify(stray)}\n${help.stdout}`]);
  }
});

test("a malformed setting ends the service and the probe with the same line", async () => {
  for (const env of [{ PORT: "80abc" }, { HOST: "http://x" }, { ACCESS_LOG: "yes" }] as Env[]) {
    const [name, value] = Object.entries(env)[0];
    const [served, probed] = await Promise.all([run([], env), run(["--ping"], env)]);
    assert.deepEqual(served, probed);
    assert.equal(served.code, 1);
    assert.equal(served.stdout, "");
    assert.match(
      served.stderr,
      new RegExp(`^Cannot parse ${name} as it must be [^\n]+: current value is "${value}"\n$`),
    );
  }
});

test("an address that it cannot listen on is one line, and exit code 1", async () => {
  await withFake(() => {}, async (port) => {
    for (
      const env of [
        { HOST: "127.0.0.1", PORT: `${port}` },
        { HOST: "localhost.invalid", PORT: "0" },
        { HOST: "192.0.2.1", PORT: "0" }, // https://www.rfc-editor.org/rfc/rfc5737#section-3
      ]
    ) {
      const { code, stdout, stderr } = await run([], env, {
        runtime: { ...SELF, options: SELF.options.map((o) => o === "-P" ? "-A" : o) },
      });
      assert.deepEqual([code, stdout], [1, ""]);
      assert.match(stderr, new RegExp(`^Cannot listen on ${env.HOST}:${env.PORT}: [^\n]+\n$`));
    }
  });
});

test("--ping is 0 for a healthy instance and 1 with a reason for the rest, whatever the environment says", async () => {
  await withService({}, async ({ port, ping }) => {
    const healthy = { code: 0, stdout: `healthy: http://127.0.0.1:${port}/healthz answered 200\n`, stderr: "" };
    assert.deepEqual(await ping(), healthy);
    const proxy = "http://127.0.0.1:1";
    const misleading = {
      HTTP_PROXY: proxy,
      http_proxy: proxy,
      ALL_PROXY: proxy,
      NODE_USE_ENV_PROXY: "1",
      NO_PROXY: "",
    };
    const { code, stdout } = await ping(misleading); // some versions of Node.js warn about what they are told to do
    assert.deepEqual([code, stdout], [healthy.code, healthy.stdout]);
    assert.deepEqual(await ping({ HOST: "0.0.0.0" }), healthy);
  });
  await withFake(() => {}, async (port) => {
    const { code, stdout, stderr } = await run(["--ping"], { PORT: `${port}`, PING_TIMEOUT_MS: "200" });
    assert.deepEqual([code, stdout], [1, ""]);
    assert.match(
      stderr,
      /^unhealthy: http:\/\/127\.0\.0\.1:\d+\/healthz gave no HTTP response head within PING_TIMEOUT_MS=200\n$/,
    );
  });
  const refused = await run(["--ping"], { PORT: "0" });
  assert.deepEqual([refused.code, refused.stdout], [1, ""]);
});

test("nobody reading what it prints changes neither the probe's exit code nor the service's answers", async () => {
  const port = await freePort();
  const env = { HOST: "127.0.0.1", PORT: `${port}` };
  for (const output of [">/dev/full", ">/dev/full 2>&1"]) {
    const service = launch([...SELF.options, "main.ts"], env, { output });
    try {
      const startMs = performance.now();
      for (let answered = false; !answered;) {
        const client = new Client(port).get("/");
        const answer = await client.until(/\n$/).catch(() => undefined);
        answered = answer !== undefined;
        client.socket.destroy();
        assert.match(answer ?? "HTTP/1.1 200", /^HTTP\/1\.1 200/);
        assert.ok(performance.now() - startMs < TEST_TIMEOUT_MS);
      }
      for (const unread of [">/dev/full", ">&-", ">/dev/full 2>&1"]) {
        assert.equal((await run(["--ping"], env, { output: unread })).code, 0);
      }
      service.kill("SIGTERM");
      assert.equal(await service.exit, 0);
    } finally {
      service.kill("SIGKILL");
      await service.exit;
    }
    for (const unread of [">/dev/full 2>&1", ">&- 2>&-"]) {
      assert.equal((await run(["--ping"], env, { output: unread })).code, 1);
    }
  }
});

test("the Host field chooses no route", async () => {
  await withService({}, async ({ port }) => {
    for (const host of ["x/healthz?", "x/", "x/..", "x?", "x#", "a@b", "x\\y"]) {
      const client = new Client(port).send(`GET /nope HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
      assert.match(await client.until(/\r\n\r\n/), /^HTTP\/1\.1 400 /, host);
    }
  });
});

test("it serves over IPv6, and the probe finds it on the wildcard", async () => {
  for (const HOST of ["::1", "::"]) {
    await withService({ HOST }, async ({ port, ping, stdout }) => {
      assert.equal(stdout, `Listening on http://[${HOST}]:${port}\n`);
      assert.equal((await ping()).stdout, `healthy: http://[::1]:${port}/healthz answered 200\n`);
    });
  }
});

// ── Stopping ──

for (const signal of ["SIGTERM", "SIGINT"] as const) {
  test(`on ${signal} an idle service exits 0 at once`, async () => {
    await withService({}, async (service) => {
      const { port, kill, exit, ping } = service;
      const idle = new Client(port).get("/healthz");
      await idle.until(/\r\n\r\n/);
      const silent = new Client(port);
      const half = new Client(port).send("GET / HTTP/1.1\r\nHo");
      const halfBody = new Client(port).send("POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf");
      await halfBody.until(/404/);
      assert.equal((await ping()).code, 0);
      const startMs = performance.now();
      kill(signal);
      assert.equal(await exit, 0);
      assert.ok(performance.now() - startMs < 900, `took ${performance.now() - startMs} ms`);
      assert.equal(service.stderr, "");
      for (const client of [idle, silent, half, halfBody]) await client.ended;
    });
  });
}

const SLOW = `let release = () => {};
app.get("/slow", (c) => new Promise((resolve) => release = () => resolve(c.text("whole"))));
app.get("/release", (c) => { release(); return c.text("ok"); });
app.get("/elsewhere", () => Response.redirect("http://test/"));
app.get("/large", () => new Response(new Uint8Array(20_000_000)));`;

test("told to stop, it is unready at once, alive still, and closes connections as it answers", async () => {
  await withRoutes({ DRAIN_DELAY_MS: "700" }, SLOW, async (service) => {
    const { port, kill, exit, ping } = service;
    const slow = new Client(port).get("/slow");
    await new Client(port).get("/readyz").until(/ready"}$/);
    const startMs = performance.now();
    kill("SIGTERM");
    await until(service, () => /^Draining, unfinished requests: 1$/m.exec(service.stdout));
    assert.match(await new Client(port).get("/readyz").until(/}$/), /^HTTP\/1\.1 503 [^]*"draining"}$/);
    assert.equal((await ping()).code, 0);
    for (const path of ["/", "/elsewhere"]) {
      assert.match(await new Client(port).get(path).until(/\r\n\r\n/), /\r\nconnection: close\r\n/i);
    }
    assert.equal(service.child.exitCode, null);
    await new Client(port).get("/release").until(/ok$/);
    await slow.ended;
    assert.match(slow.received, /\r\nconnection: close\r\n[^]*whole$/i);
    assert.equal(await exit, 0);
    assert.ok(performance.now() - startMs >= 690, "the drain delay was cut short");
  });
});

test("a request under way gets its whole response, and a new connection none", async () => {
  await withRoutes({}, SLOW, async (service) => {
    const { port, kill, child, exit } = service;
    for (const body of ["whole body", "half"]) { // neither of which any route reads
      const unread = new Client(port).send(`POST /nope HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n${body}`);
      await unread.until(/404/);
    }
    const slow = new Client(port).get("/slow");
    await new Client(port).get("/").until(/own\n$/);
    const release = new Client(port).send("GET /rel");
    const large = new Client(port).get("/large");
    await large.until(/\r\n\r\n/);
    large.socket.pause();
    kill("SIGTERM");
    await until(service, () => /^Draining/m.exec(service.stdout));
    for (let refused = false; !refused;) {
      const late = new Client(port).get("/healthz");
      await late.ended;
      refused = late.received === "";
    }
    assert.equal(child.exitCode, null);
    large.socket.resume();
    await large.ended;
    assert.equal(large.received.length - large.received.indexOf("\r\n\r\n") - 4, 20_000_000);
    assert.equal(slow.received, "");
    release.socket.destroy();
    kill("SIGTERM");
    assert.equal(await exit, 1);
    assert.match(service.stderr, /^Cut by a second signal, unfinished requests: 1\n$/);
  });
});

test("a route whose client has left is waited for", async () => {
  await withRoutes({}, SLOW, async (service) => {
    const gone = new Client(service.port).get("/slow");
    await new Client(service.port).get("/").until(/own\n$/);
    gone.socket.destroy();
    await gone.ended;
    await new Client(service.port).get("/").until(/own\n$/);
    service.kill("SIGTERM");
    await until(service, () => /^Draining, unfinished requests: 1$/m.exec(service.stdout));
    service.kill("SIGINT");
    assert.equal(await service.exit, 1);
    assert.equal(service.stderr, "Cut by a second signal, unfinished requests: 1\n");
  });
});

test("at the deadline it cuts what is left, says how many, and exits 1", async () => {
  await withRoutes({ SHUTDOWN_TIMEOUT_MS: "300" }, SLOW, async (service) => {
    const clients = [new Client(service.port).get("/slow"), new Client(service.port).get("/slow")];
    await new Client(service.port).get("/").until(/own\n$/);
    service.kill("SIGTERM");
    assert.equal(await service.exit, 1);
    assert.equal(service.stderr, "Cut after 300 ms, unfinished requests: 2\n");
    for (const client of clients) await client.ended;
  });
});

test("a second signal ends it at once, whichever it is", async () => {
  for (const [first, second] of [["SIGTERM", "SIGTERM"], ["SIGINT", "SIGTERM"], ["SIGTERM", "SIGINT"]] as const) {
    await withService({ DRAIN_DELAY_MS: "60000" }, async (service) => {
      service.kill(first);
      await until(service, () => /^Draining/m.exec(service.stdout));
      service.kill(second);
      assert.equal(await service.exit, 1);
      assert.equal(service.stderr, "Cut by a second signal, unfinished requests: 0\n");
    });
  }
});

// ── The ways to start it ──

test("importing main.ts does nothing", async () => {
  const code = `await import("./main.ts"); console.log("imported");`;
  const args = "Deno" in globalThis ? ["eval", code] : [...SELF.options, "--input-type=module", "-e", code];
  const program = launch(args, { PORT: "malformed" });
  assert.equal(await program.exit, 0, program.stderr);
  assert.equal(program.stdout, "imported\n");
});

if ("Deno" in globalThis) {
  test("without permissions and a terminal it says which flag to add", async () => {
    const unset = await run(["--ping"], {}, { runtime: { ...SELF, options: ["run", "-q"] } });
    assert.deepEqual([unset.code, unset.stdout], [1, ""]);
    assert.match(unset.stderr, /^[^\n]*env access to "PORT"[^\n]*--allow-env[^\n]*\n$/);
    const unconnected = await run(["--ping"], {}, { runtime: { ...SELF, options: ["run", "-q", "--allow-env"] } });
    assert.deepEqual([unconnected.code, unconnected.stdout], [1, ""]);
    assert.match(unconnected.stderr, /^[^\n]*net access to "127\.0\.0\.1:8080"[^\n]*--allow-net[^\n]*\n$/);
  });

  test("deno.json and package.json ask for the same versions", () => {
    const read = (file: string) => JSON.parse(readFileSync(`${ROOT}/${file}`, "utf8"));
    const { dependencies } = read("package.json");
    const imports = Object.entries(dependencies).map(([name, range]) => [name, `npm:${name}@${range}`]);
    assert.deepEqual(read("deno.json").imports, Object.fromEntries(imports));
  });

  test("deno.lock holds no more than the service runs, or a fresh clone would download the rest", () => {
    const { npm } = JSON.parse(readFileSync(`${ROOT}/deno.lock`, "utf8"));
    assert.deepEqual(Object.keys(npm).map((name) => name.replace(/(.)@.*/, "$1")).sort(), [
      "@hono/node-server",
      "hono",
    ]);
  });
} else {
  test("the tsx command serves, probes, passes signals on and leaves no process behind", async () => {
    const tsx = [`${ROOT}/node_modules/tsx/dist/cli.mjs`];
    const program = launch([...tsx, "main.ts"], { PORT: "0", HOST: "127.0.0.1" });
    try {
      const port = await until(program, () => /:(\d+)\n/.exec(program.stdout)?.[1]);
      for (const name of ["main.ts", "./main.ts", "main", `${ROOT}/main.ts`]) {
        const probed = launch([...tsx, name, "--ping"], { PORT: port, HOST: "127.0.0.1" });
        assert.equal(await probed.exit, 0, probed.stderr);
        assert.equal(probed.stdout, `healthy: http://127.0.0.1:${port}/healthz answered 200\n`);
      }
      program.kill("SIGTERM");
      assert.equal(await program.exit, 0);
      await assert.rejects(new Client(Number(port)).until(/./));
    } finally {
      program.kill("SIGTERM");
      await program.exit;
    }
  });
}
