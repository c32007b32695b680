/**
 * An example to start from: a route asked in process, and the service as a process.
 * `npm test` and `deno task test` run each *.test.ts.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { rmSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { addRoutes, createApp } from "./main.ts";

const DEADLINE_MS = 20_000;

// A variable that your service needs is set here, because a test must not touch the real database.
process.env.DATABASE = ":memory:";

/** A started service opens a file, because a database in memory asks for no permission. */
const DATABASE = `data/test-${process.pid}.db`;

/**
 * Runs main.ts on this runtime and stops it once `listening` resolves; returns its exit code and
 * what it printed.
 */
async function run(args: string[], port: string, listening = async (_port: string) => {}) {
  const options = "Deno" in globalThis ? ["run", "-q", "-P", "--no-prompt"] : process.execArgv;
  const child = spawn(process.execPath, [...options, "main.ts", ...args], {
    cwd: import.meta.dirname,
    env: { ...process.env, HOST: "127.0.0.1", PORT: port, DATABASE },
    timeout: DEADLINE_MS,
    killSignal: "SIGKILL",
  });
  const exit = once(child, "close");
  let printed = "";
  child.stderr.on("data", (chunk) => {
    printed += chunk;
  });
  try {
    for await (const chunk of child.stdout) {
      printed += chunk;
      const [, address] = /^Listening on http:\/\/\S+:(\d+)/m.exec(String(chunk)) ?? [];
      if (!address) continue;
      await listening(address);
      process.kill(child.pid!, "SIGTERM");
    }
    const [code] = await exit;
    return { code, printed };
  } finally {
    child.kill("SIGKILL");
  }
}

test("addRoutes() answers / when it is asked", async () => {
  const service = new AbortController();
  const app = await createApp(() => false);
  const { close } = await addRoutes(app, { stopping: service.signal, log() {} }) ?? {};
  try {
    const response = await app.request("/");
    assert.match(
      await response.text(),
      /replace this route/,
      "The text expected here is the placeholder's: change it",
    );
  } finally {
    service.abort();
    await close?.();
  }
});

test("main() answers the probe, and exits with 0 when it is sent SIGTERM", async () => {
  try {
    const service = await run([], "0", async (port) => {
      const probe = await run(["--ping"], port);
      assert.equal(probe.code, 0, probe.printed);
    });
    // Windows has no SIGTERM: a process that is sent one ends at once. Ctrl-C drains there, too.
    if (process.platform !== "win32") assert.equal(service.code, 0, service.printed);
  } finally {
    for (const file of [DATABASE, `${DATABASE}-wal`, `${DATABASE}-shm`]) {
      rmSync(`${import.meta.dirname}/${file}`, { force: true });
    }
  }
});
