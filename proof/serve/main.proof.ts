/** Settings, routes and the program: run by `npm test`, on each runtime. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { addRoutes, type App, createApp, createHandler } from "../../main.ts";
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
  withService,
} from "../support/harness.ts";

// ── Settings ──

test("readSettings() gives the defaults when nothing is set, or set to nothing", () => {
  const defaults = {
    port: 8080,
    host: "0.0.0.0",
    pingTimeoutMs: 3000,
    drainDelayMs: 0,
    shutdownTimeoutMs: 8000,
    healAfterMs: 0,
    accessLog: true,
  };
  assert.deepEqual(settings(), defaults);
  assert.deepEqual(settings(Object.fromEntries(VARIABLES.map((name) => [name, ""]))), defaults);
});

test("readSettings() takes what is well formed", () => {
  for (const PORT of ["0", "1", "80", "65535"]) assert.equal(settings({ PORT }).port, Number(PORT));
  for (
    const HOST of [
      "::",
      "::1",
      "0:0::0",
      "FE80::1",
      "::ffff:1.2.3.4",
      "10.0.0.1",
      "localhost",
      "a-b.example",
    ]
  ) {
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
  for (
    const value of [
      "80abc",
      "65536",
      "-1",
      "+80",
      "1e3",
      "0x50",
      " 80",
      "80 ",
      "8.0",
      "080",
      "٣",
      "NaN",
      " ",
    ]
  ) {
    const shown = value === "٣" ? '"?"' : undefined;
    refuses("PORT", value, "an integer from 0 to 65535", shown);
    refuses(
      "DRAIN_DELAY_MS",
      value === "65536" ? "2147483648" : value,
      "an integer from 0 to 2147483647",
      shown,
    );
  }
  refuses("PING_TIMEOUT_MS", "0", "an integer from 1 to 2147483647");
  refuses("SHUTDOWN_TIMEOUT_MS", "8s", "an integer from 0 to 2147483647");
  for (const value of ["ON", "true", "1", "on ", "constructor"]) {
    refuses("ACCESS_LOG", value, "on or off");
  }
  for (
    const value of [
      "http://a",
      "[::1]",
      "::1]:80/[",
      "::1]/[",
      "a b",
      " a",
      "a/b",
      "a@b",
      "a?b",
      "a#b",
      "%61",
      "fe80::1%eth0",
      "a\nb",
    ]
  ) refuses("HOST", value, "an IP address or a host name");
  refuses("HOST", "\x1b[31m\x9bred", "an IP address or a host name", '"\\u001b[31m?red"');
  refuses("HOST", `${"x".repeat(5000)} `, "an IP address or a host name", `"${"x".repeat(64)}"`);
});

// ── Routes ──

/** Takes what main.ts prints in this process: by the console on Node.js, past it on Deno. Returns what undoes that. */
function intercept(take: (text: string) => void): () => void {
  const { log, error } = console;
  if (!("Deno" in globalThis)) {
    console.log = console.error = take;
    return () => Object.assign(console, { log, error });
  }
  const files = [Deno.stdout, Deno.stderr];
  const writes = files.map(({ writeSync }) => writeSync);
  const writeSync = (bytes: Uint8Array) => {
    take(new TextDecoder().decode(bytes));
    return bytes.length;
  };
  for (const file of files) Object.assign(file, { writeSync });
  return () => files.forEach((file, at) => Object.assign(file, { writeSync: writes[at] }));
}

/** A way to ask the application, so many lines that it logged meanwhile, and itself. */
async function withApp(
  body: (
    ask: (path: string, method?: string) => Promise<Response>,
    logged: (count: number) => Promise<Record<string, unknown>[]>,
    app: App,
  ) => Promise<void>,
  { accessLog = false, draining = false } = {},
) {
  const printed: string[] = [];
  const take = (lines: string) => void printed.push(...lines.trimEnd().split("\n"));
  const restore = intercept(take);
  const logged = async (count: number) => {
    const startMs = performance.now();
    while (printed.length < count && performance.now() - startMs < 5000) {
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
    assert.equal(printed.length, count);
    return printed.splice(0).map((line) => JSON.parse(line));
  };
  try {
    const app = await createApp(() => draining);
    await addRoutes(app, { stopping: new AbortController().signal, log() {} });
    const handler = createHandler(app, () => draining, accessLog);
    const ask = async (path: string, method = "GET") => {
      const request = new Request(`http://test${path}`, { method });
      return await handler.answer(request, {}, Promise.resolve(true));
    };
    await body(ask, logged, app);
  } finally {
    restore();
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
        // The body of a HEAD is dropped by the runtime's server, not by the handler.
        assert.deepEqual(await response.json(), { status: draining ? "draining" : "ready" });
      }
    }, { draining });
  }
});

test("a POST to a health path is a 404 like any other", async () => {
  await withApp(async (ask) => {
    for (const path of ["/healthz", "/readyz"]) assert.equal((await ask(path, "POST")).status, 404);
  });
});

test("GET / answers a line of text, and an unknown path 404", async () => {
  await withApp(async (ask) => {
    assert.match(await (await ask("/")).text(), /^It works: [^\n]+\n$/);
    for (const path of ["/nope", "/healthz/", "//healthz", "/healthz%00"]) {
      const response = await ask(path);
      assert.equal(response.status, 404, path);
      assert.deepEqual(await response.json(), { error: "Not Found" });
    }
  });
});

test("the access log has a line per request, but none for health and no query", async () => {
  await withApp(async (ask, logged) => {
    for (const path of ["/healthz", "/readyz", "/?token=secret", "/nope"]) await ask(path);
    const entries = await logged(2);
    assert.deepEqual(entries.map(({ method, path, status }) => [method, path, status]), [
      ["GET", "/", 200],
      ["GET", "/nope", 404],
    ]);
    for (const { time, ms } of entries) {
      assert.ok(Math.abs(Number(time) - Date.now()) < 60_000, `${time}`);
      assert.ok(Number(ms) >= 0 && Number(ms) < 1000, `${ms}`);
    }
  }, { accessLog: true });
  await withApp(async (ask, logged, app) => {
    app.get("/fail", () => Promise.reject(new Error("the only line")));
    for (const path of ["/", "/fail"]) await ask(path);
    assert.deepEqual((await logged(1)).map(({ error }) => error), ["Error: the only line"]);
  });
});

test("a handler that throws answers a generic 500 and logs the detail", async () => {
  for (
    const [thrown, text] of [
      [new Error("the detail"), "Error: the detail"],
      ["the detail", "the detail"],
      [Object.create(null), "an object"], // it has no text
    ]
  ) {
    await withApp(async (ask, logged, app) => {
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
        const response = await ask(path);
        assert.equal(response.status, 500);
        if (path === "/behind" && thrown instanceof Error) {
          assert.equal(response.headers.get("After"), "all");
        }
        assert.deepEqual(await response.json(), { error: "Internal Server Error" });
        const [line] = await logged(1);
        assert.deepEqual([line.path, line.status, line.error], [path, 500, text]);
        if (thrown instanceof Error) {
          assert.match(String(line.stack), /^ +at .*main\.proof\.ts:\d+/);
        }
      }
    }, { accessLog: true });
  }
});

test("a route that returns what no client can be sent answers a generic 500", async () => {
  await withApp(async (ask, logged, app) => {
    app.get("/error", () => Response.error());
    const response = await ask("/error");
    assert.deepEqual([response.status, await response.json()], [500, {
      error: "Internal Server Error",
    }]);
    assert.deepEqual((await logged(1)).map(({ status }) => status), [500]);
  }, { accessLog: true });
});

test("a handler that throws Hono's HTTPException is answered as that says, and logged from 500 on", async () => {
  const { HTTPException } = await import("hono/http-exception");
  await withApp(async (ask, logged, app) => {
    app.get("/secret", () => {
      throw new HTTPException(401, { message: "who are you?" });
    });
    app.get("/fault", () => {
      throw new HTTPException(503, { message: "not now" });
    });
    const response = await ask("/secret");
    assert.deepEqual([response.status, await response.json()], [401, { error: "who are you?" }]);
    const fault = await ask("/fault");
    assert.deepEqual([fault.status, await fault.json()], [503, { error: "not now" }]);
    const lines = await logged(2);
    assert.deepEqual(lines.map(({ path, status, error }) => [path, status, error]), [
      ["/fault", 503, "Error: not now"], // on standard error, and so at once
      ["/secret", 401, undefined],
    ]);
  }, { accessLog: true });
});

// ── The program ──

test("--help prints on standard output; anything else is refused, and serves nothing", async () => {
  const help = await run(["--help"]);
  assert.deepEqual([help.code, help.stderr], [0, ""]);
  for (const name of VARIABLES) assert.ok(help.stdout.includes(name), name);
  for (
    const args of [
      ["--pong"],
      ["--ping", "--ping"],
      ["--ping", "x"],
      ["serve"],
      [""],
      ["--ping=1"],
      ["-h"],
      [
        "--version",
      ],
    ]
  ) {
    const { code, stdout, stderr } = await run(args);
    const stray = args.find((arg) => arg !== "--ping") ?? "--ping";
    assert.deepEqual([code, stdout, stderr], [
      1,
      "",
      `Unexpected argument ${JSON.stringify(stray)}\n${help.stdout}`,
    ]);
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
  for (const [HOST, address] of [["::1", "[::1]:PORT"], ["::", "localhost:PORT (HOST=::)"]]) {
    await withService({ HOST }, async ({ port, ping, stdout }) => {
      assert.equal(stdout, `Listening on http://${address.replace("PORT", `${port}`)}\n`);
      assert.equal((await ping()).stdout, `healthy: http://[::1]:${port}/healthz answered 200\n`);
    });
  }
});

// ── The ways to start it ──

test("importing main.ts does nothing", async () => {
  const code = `await import("./main.ts"); console.log("imported");`;
  const args = "Deno" in globalThis
    ? ["eval", code]
    : [...SELF.options, "--input-type=module", "-e", code];
  const program = launch(args, { PORT: "malformed" });
  assert.equal(await program.exit, 0, program.stderr);
  assert.equal(program.stdout, "imported\n");
});

if ("Deno" in globalThis) {
  test("without permissions and a terminal it says which flag to add", async () => {
    const unset = await run(["--ping"], {}, { runtime: { ...SELF, options: ["run", "-q"] } });
    assert.deepEqual([unset.code, unset.stdout], [1, ""]);
    assert.match(unset.stderr, /^[^\n]*env access to "PORT"[^\n]*--allow-env[^\n]*\n$/);
    const unconnected = await run(["--ping"], {}, {
      runtime: { ...SELF, options: ["run", "-q", "--allow-env"] },
    });
    assert.deepEqual([unconnected.code, unconnected.stdout], [1, ""]);
    assert.match(
      unconnected.stderr,
      /^[^\n]*net access to "127\.0\.0\.1:8080"[^\n]*--allow-net[^\n]*\n$/,
    );
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
