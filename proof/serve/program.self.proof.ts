/** The program: its arguments, its start, its address. Run on each runtime by itself. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import {
  Client,
  type Env,
  freePort,
  launch,
  ROOT,
  run,
  SELF,
  until,
  untilPrinted,
  VARIABLES,
  withFake,
  withService,
} from "../support/harness.ts";

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

test("a closed or full output changes no answer and no exit code of the probe", async () => {
  const port = await freePort();
  const env = { HOST: "127.0.0.1", PORT: `${port}` };
  for (const output of [">/dev/full", ">/dev/full 2>&1"]) {
    const service = launch([...SELF.options, "main.ts"], env, { output });
    try {
      const answer = await until(async () => {
        const client = new Client(port).get("/");
        const received = await client.until(/\n$/).catch(() => undefined);
        client.socket.destroy();
        return received;
      }, "answer");
      assert.match(answer, /^HTTP\/1\.1 200/);
      for (const unread of [">/dev/full", ">&-", ">&- 2>&-", ">/dev/full 2>&1"]) {
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
  const addresses = { "::1": "[::1]:PORT", "::": "localhost:PORT (HOST=::)" };
  for (const [HOST, address] of Object.entries(addresses)) {
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

  test("deno.lock holds no more than the service runs", () => {
    const { npm } = JSON.parse(readFileSync(`${ROOT}/deno.lock`, "utf8"));
    assert.deepEqual(Object.keys(npm).map((name) => name.replace(/(.)@.*/, "$1")).sort(), [
      "@hono/node-server",
      "hono",
    ]);
  });
} else {
  test("the tsx command serves, probes, passes signals on and leaves no process", async () => {
    const tsx = [`${ROOT}/node_modules/tsx/dist/cli.mjs`];
    const program = launch([...tsx, "main.ts"], { PORT: "0", HOST: "127.0.0.1" });
    try {
      const port = await untilPrinted(program, () => /:(\d+)\n/.exec(program.stdout)?.[1]);
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
