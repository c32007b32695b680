/**
 * Run by `npm run test:faults`: the same faults and bad input on every runtime, a line each.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import fc from "fast-check";
import { probe, readSettings, readStatus } from "../../main.ts";
import {
  allRuntimes,
  Client,
  cut,
  type Env,
  freePort,
  launch,
  run,
  type Runtime,
  type Service,
  settings,
  STACK,
  TEST_TIMEOUT_MS,
  untilPrinted,
  withFake,
  withRoutes,
  withService,
} from "../support/harness.ts";
import { HOSTILE, WRONG_ANSWERS } from "../support/hostile.ts";

const REQUESTS = 1_000_000;
const HELD_CONNECTIONS = 500;
const PROBES = 100;
const PROBES_AT_ONCE = 50;

const RUNTIMES = allRuntimes();

/** A case: its name, and what it does on a runtime; it returns what was seen. */
type Case = [string, (runtime: Runtime) => Promise<string>];

/** Probes a service that must be healthy. */
async function healthy(port: number, PING_TIMEOUT_MS = "3000") {
  const { outcome, text } = await probe(
    settings({ HOST: "127.0.0.1", PORT: `${port}`, PING_TIMEOUT_MS }),
  );
  assert.equal(outcome, "healthy", text);
}

/** Runs the load to its end. */
async function load(
  ...args: number[]
): Promise<{ sent: number; answered: number; refused: number }> {
  const program = launch(["--import", "tsx", "proof/support/load.ts", ...args.map(String)], {}, {
    runtime: RUNTIMES[0],
  });
  assert.equal(await program.exit, 0, program.stderr);
  return JSON.parse(program.stdout.trim().split("\n").at(-1)!);
}

const ECHO = `app.post("/echo", async (c) => c.text(await c.req.text()));`;

const CASES: Case[] = [
  [`${HOSTILE.length} hostile requests, whole, cut and byte by byte`, async (runtime) => {
    let answers = 0;
    await withRoutes({}, ECHO, async (service) => {
      for (const request of HOSTILE) {
        for (const way of ["whole", "cut", "byte by byte"]) {
          if (way === "byte by byte" && request.length > 500) continue;
          const client = new Client(service.port);
          await once(client.socket, "connect");
          const parts = way === "byte by byte" ? request.split("") : [request];
          client.socket.setNoDelay();
          for (const part of parts) {
            await new Promise<void>((resolve) =>
              client.socket.write(part, "latin1", () => resolve())
            );
          }
          if (way === "cut") client.socket.resetAndDestroy();
          else {await Promise.race([
              once(client.socket, "data").catch(() => {}),
              client.ended,
              new Promise((r) => setTimeout(r, 50)),
            ]);}
          client.socket.destroy();
          assert.doesNotMatch(client.received, STACK);
          if (client.received) answers++;
          await healthy(service.port);
        }
      }
      service.kill("SIGTERM");
      assert.equal(await service.exit, 0, service.stderr);
      assert.match(service.stdout, /^Draining, requests in flight: 0$/m);
      assert.doesNotMatch(service.stdout + service.stderr, STACK);
      assert.ok(!(service.stdout + service.stderr).includes("\x1b"));
    }, { runtime });
    return `${answers} answers, a healthy probe after each, no stack, a clean stop`;
  }],

  [`${HELD_CONNECTIONS} silent and half-sent connections`, async (runtime) => {
    let tookMs = 0;
    await withService({}, async ({ port, kill, exit }) => {
      const clients = Array.from({ length: HELD_CONNECTIONS }, (_, i) => {
        const client = new Client(port);
        return i % 2 ? client : client.send("GET / HTTP/1.1\r\nHo");
      });
      await Promise.all(clients.map((client) => once(client.socket, "connect")));
      const startMs = performance.now();
      for (let asked = 0; asked < 10; asked++) await healthy(port);
      tookMs = (performance.now() - startMs) / 10;
      kill("SIGTERM");
      assert.equal(await exit, 0);
      for (const client of clients) client.socket.destroy();
    }, { runtime });
    return `a probe took ${tookMs.toFixed(1)} ms, and the stop was clean`;
  }],

  ["no file descriptors left, then some", async (runtime) => {
    let recoveredMs = 0;
    await withService({ ACCESS_LOG: "off" }, async ({ port, kill, exit }) => {
      const first = new Client(port).get("/healthz");
      await first.until(/\r\n\r\n/);
      const clients = Array.from({ length: 120 }, () => new Client(port));
      await Promise.all(
        clients.map((client) =>
          Promise.race([once(client.socket, "connect"), client.ended]).catch(() => {})
        ),
      );
      await Promise.race(clients.map((client) => client.ended)); // some get none, so it has run out
      first.received = "";
      await first.get("/healthz").until(/^HTTP\/1\.1 200/);
      for (const client of clients) client.socket.destroy();
      const startMs = performance.now();
      while (!await healthy(port).then(() => true, () => false)) {
        assert.ok(performance.now() - startMs < 1000, "it did not recover within a second");
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
      recoveredMs = performance.now() - startMs;
      first.received = "";
      await first.get("/healthz").until(/^HTTP\/1\.1 200/);
      kill("SIGTERM");
      assert.equal(await exit, 0);
    }, { runtime, before: "ulimit -n 64" });
    return `it kept the connection that it had, and accepted again after ${recoveredMs.toFixed()} ms`;
  }],

  [`${PROBES} probes under a load that saturates a core`, async (runtime) => {
    let slowestMs = 0;
    await withService({ ACCESS_LOG: "off" }, async (service) => {
      const loading = launch(
        ["--import", "tsx", "proof/support/load.ts", `${service.port}`, "64", "0", "16"],
        {},
        {
          runtime: RUNTIMES[0],
        },
      );
      try {
        await untilPrinted(loading, () => loading.stdout);
        for (let asked = 0; asked < PROBES; asked++) {
          const startMs = performance.now();
          await healthy(service.port);
          slowestMs = Math.max(slowestMs, performance.now() - startMs);
        }
      } finally {
        loading.kill("SIGKILL");
        await loading.exit;
      }
    }, { runtime });
    return `all ${PROBES} healthy, the slowest after ${slowestMs.toFixed()} ms`;
  }],

  [`${REQUESTS.toLocaleString("en")} requests`, async (runtime) => {
    let seen = "";
    await withService({ ACCESS_LOG: "off" }, async ({ port, kill, exit }) => {
      const startMs = performance.now();
      const { sent, answered } = await load(port, 64, REQUESTS, 32);
      assert.deepEqual([sent, answered], [REQUESTS, REQUESTS]);
      seen = `${answered} answered, ${
        Math.round(answered / (performance.now() - startMs))
      } a millisecond`;
      kill("SIGTERM");
      assert.equal(await exit, 0);
    }, { runtime });
    return seen;
  }],

  ["a stop under load", async (runtime) => {
    let seen = "";
    for (const DRAIN_DELAY_MS of ["0", "300"]) {
      await withService({ DRAIN_DELAY_MS }, async (service) => {
        const loaded = load(service.port, 64, 0, 1);
        await untilPrinted(service, () => service.stdout.length > 100_000);
        service.kill("SIGTERM");
        assert.equal(await service.exit, 0, service.stderr);
        const { answered } = await loaded;
        const accepted = service.stdout.split("\n").filter((line) => line.startsWith("{")).length;
        assert.equal(answered, accepted, "each accepted request is answered");
        seen += `${answered} accepted, ${answered} answered${
          DRAIN_DELAY_MS === "0" ? "; with a drain delay " : ""
        }`;
      }, { runtime });
    }
    return seen;
  }],

  ["the signals in every order, and twice", async (runtime) => {
    const signals = ["SIGTERM", "SIGINT"] as const;
    for (const first of signals) {
      await withService({}, async (service) => {
        service.kill(first);
        assert.equal(await service.exit, 0);
      }, { runtime });
      for (const second of signals) {
        await withService({ DRAIN_DELAY_MS: "60000" }, async (service) => {
          service.kill(first);
          await untilPrinted(service, () => /^Draining/m.exec(service.stdout));
          await cut(service, second);
        }, { runtime });
      }
    }
    return "0 after one, 1 at once after a second";
  }],

  [
    `a probe of ${WRONG_ANSWERS.length} servers that answer wrongly, late, endlessly or half`,
    async (runtime) => {
      let slowestMs = 0;
      await Promise.all(
        WRONG_ANSWERS.map(([name, answer, expected]) =>
          withFake(answer, async (port) => {
            const startMs = performance.now();
            const { code, stdout, stderr } = await run(["--ping"], {
              PORT: `${port}`,
              PING_TIMEOUT_MS: "1000",
            }, {
              runtime,
            });
            slowestMs = Math.max(slowestMs, performance.now() - startMs);
            assert.deepEqual([code, stdout], [1, ""], name);
            assert.match(stderr.trimEnd(), expected, name);
            assert.match(stderr, /^unhealthy: [ -~]{1,300}\n$/, name);
          })
        ),
      );
      assert.ok(slowestMs < TEST_TIMEOUT_MS / 2);
      return `all unhealthy, the slowest of all at once after ${slowestMs.toFixed()} ms`;
    },
  ],

  ["a probe of a port that nothing listens on", async (runtime) => {
    const { code, stderr } = await run(["--ping"], { PORT: `${await freePort()}` }, { runtime });
    assert.equal(code, 1);
    return stderr.trim();
  }],

  ["a probe that its environment leads astray", async (runtime) => {
    const proxy = "http://127.0.0.1:1";
    const misleading: Env = {
      NODE_USE_ENV_PROXY: "1",
      NO_COLOR: "",
      FORCE_COLOR: "1",
      NODE_ENV: "test",
      DEBUG: "*",
      no_proxy: "",
    };
    for (const name of ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"]) {
      Object.assign(misleading, { [name]: proxy, [name.toLowerCase()]: proxy });
    }
    await withService({}, async ({ ping }) => {
      const { code, stdout } = await ping(misleading);
      assert.equal(code, 0);
      assert.match(stdout, /^healthy: [ -~]+\n$/);
    }, { runtime });
    return `healthy, with ${Object.keys(misleading).length} variables set against it`;
  }],

  ["a probe whose output is closed", async (runtime) => {
    await withService({}, async ({ port }) => {
      for (const output of [">&-", ">&- 2>&-", ">/dev/full", ">/dev/full 2>&1"]) {
        assert.equal(
          (await run(["--ping"], { HOST: "127.0.0.1", PORT: `${port}` }, { runtime, output })).code,
          0,
          output,
        );
        assert.equal((await run(["--ping"], { PORT: "1" }, { runtime, output })).code, 1, output);
      }
    }, { runtime });
    return "0 and 1 as with it open";
  }],

  [`${PROBES_AT_ONCE} probes at once`, async (runtime) => {
    const startMs = performance.now();
    await withService({}, async ({ ping }: Service) => {
      const probes = await Promise.all(
        Array.from({ length: PROBES_AT_ONCE }, () => ping({ PING_TIMEOUT_MS: "10000" })),
      );
      assert.deepEqual(probes.filter(({ code }) => code !== 0), []);
    }, { runtime });
    return `all healthy, in ${((performance.now() - startMs) / 1000).toFixed(1)} s`;
  }],
];

for (const runtime of RUNTIMES) {
  for (const [name, body] of CASES) {
    test(`${name}, ${runtime.name}`, { timeout: 120_000 }, async () => {
      console.log(`${name} | ${runtime.name} | ${await body(runtime)}`);
    });
  }
}

// ── Properties ──

test("a setting is an integer in range, or refused in one printable line that names it", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), (PORT) => {
      const isPort = /^(0|[1-9]\d{0,4})$/.test(PORT) && Number(PORT) <= 65_535;
      try {
        assert.equal(settings({ PORT }).port, PORT === "" ? 8080 : Number(PORT));
        assert.ok(isPort || PORT === "");
      } catch (error) {
        assert.ok(!isPort && error instanceof Error);
        assert.match(
          error.message,
          /^Cannot parse PORT as it must be an integer from 0 to 65535: current value is "[ -~]*"$/,
        );
      }
    }),
    { numRuns: 10_000 },
  );
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 65_535 }),
      (port) => settings({ PORT: `${port}` }).port === port,
    ),
  );
});

test("a host is an address or a name that a URL can hold as it stands, or refused", () => {
  const accepted = (HOST: string) => {
    try {
      return readSettings((name) => name === "HOST" ? HOST : undefined).host === HOST;
    } catch (error) {
      assert.match(
        (error as Error).message,
        /^Cannot parse HOST as it must be an IP address or a host name: [ -~]+$/,
      );
      return false;
    }
  };
  fc.assert(fc.property(fc.ipV4(), accepted));
  fc.assert(fc.property(fc.ipV6(), accepted));
  fc.assert(fc.property(fc.domain(), accepted));
  fc.assert(
    fc.property(fc.string({ unit: "binary", minLength: 1 }), (text) => {
      if (accepted(text)) assert.match(text, /^[^\s/?#@[\]]+$/);
    }),
    { numRuns: 10_000 },
  );
});

/** Splits bytes at given places. */
async function* split(bytes: Uint8Array, places: number[]): AsyncGenerator<Uint8Array> {
  let from = 0;
  for (
    const place of [...places.map((place) => place % (bytes.length + 1)), bytes.length].sort((
      a,
      b,
    ) => a - b)
  ) {
    yield bytes.subarray(from, place);
    from = place;
  }
}

test("a response head means the same however it is split", async () => {
  const places = fc.array(fc.nat(), { maxLength: 20 });
  const token = fc.stringMatching(/^[!#$%&'*+.^_`|~\w-]{1,10}$/);
  const value = fc.stringMatching(/^[ -~]{0,20}$/);
  const head = fc.tuple(
    fc.integer({ min: 100, max: 599 }),
    value,
    fc.array(fc.tuple(token, value), { maxLength: 10 }),
    fc.string(),
  );
  await fc.assert(fc.asyncProperty(head, places, async ([status, reason, fields, body], places) => {
    const text = `HTTP/1.1 ${status} ${reason}\r\n${
      fields.map((field) => `${field.join(":")}\r\n`).join("")
    }\r\n${body}`;
    assert.equal(await readStatus(split(new TextEncoder().encode(text), places)), status);
  }));
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), places, async (bytes, places) => {
      const read = (places: number[]) =>
        readStatus(split(bytes, places)).catch((error) => error instanceof Error);
      assert.equal(await read(places), await read([]));
    }),
  );
});
