/**
 * Holds the telemetry of docs/alerts.md: the service's is sent to a collector, which may hang. The
 * probe sends none. Without a Docker engine it skips, and says so; in CI that is a failure.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import process from "node:process";
import { after, before, test } from "node:test";
import { docker, health, run, skip } from "../support/engine.ts";
import { ROOT } from "../support/harness.ts";

const NAME = `heartbeat-telemetry-${process.pid}`;
const IMAGE = `${NAME}:deno`;
const DOCUMENT = readFileSync(`${ROOT}/docs/alerts.md`, "utf8");
const healthy = (container: string) => health(container, "healthy");

before(async () => {
  if (!skip) await docker(["build", "--quiet", "--tag", IMAGE, "--target", "deno", "."]);
});
after(async () => {
  if (skip) return;
  const containers = await docker(["ps", "--all", "--quiet", "--filter", `label=${NAME}`]);
  if (containers) await docker(["rm", "--force", ...containers.split("\n")]);
  await docker(["image", "rm", "--force", IMAGE, `${NAME}:node`]);
});

/** The document's command that holds a word, as arguments without the program. */
function documented(word: string): string[] {
  const blocks = [...DOCUMENT.matchAll(/^```sh\n(.+?)\n```$/gms)].map(([, text]) => text);
  const text = blocks.find((block) => block.includes(word)) ?? assert.fail(`no ${word}`);
  return text.trim().split(/\s+/).slice(1);
}

/** A collector that keeps what it gets by path, and answers unless it hangs. */
async function collect(isHanging = false) {
  const got: Record<string, string> = {};
  const server = createServer((incoming, outgoing) => {
    incoming.setEncoding("latin1").on("data", (chunk) => {
      got[incoming.url!] = (got[incoming.url!] ?? "") + chunk;
    });
    if (!isHanging) incoming.on("end", () => outgoing.end());
  });
  await once(server.listen(0, "0.0.0.0"), "listening");
  const close = () => {
    server.closeAllConnections();
    server.close();
  };
  return { got, port: (server.address() as AddressInfo).port, close };
}

/** The command of the document, detached and for a collector and an image of the test's. */
const telemetry = (port: number) => [
  ...["run", "--detach", "--label", NAME, "--publish", "127.0.0.1::8080"],
  ...documented("OTEL_DENO").slice(3).map((word) =>
    word.replace(/^heartbeat$/, IMAGE).replace("4318", `${port}`)
  ),
];

const get = async (container: string) => {
  const address = (await docker(["port", container, "8080/tcp"])).split("\n")[0];
  return await (await fetch(`http://${address}/`)).text();
};

test("a collector gets logs, traces and metrics of the service", { skip }, async () => {
  const collector = await collect();
  try {
    const container = await docker(telemetry(collector.port));
    await healthy(container);
    await get(container);
    await docker(["stop", container]);
    assert.match(collector.got["/v1/logs"], /shop[^]*Listening on/);
    assert.match(collector.got["/v1/traces"], /shop[^]*GET/);
    assert.match(collector.got["/v1/metrics"], /http\.server\.request\.duration/);
  } finally {
    collector.close();
  }
});

test("a collector that hangs holds up neither a probe nor a stop, and the probe sends nothing", {
  skip,
}, async () => {
  const collector = await collect(true);
  try {
    const container = await docker(telemetry(collector.port));
    await healthy(container);
    await get(container);
    const startMs = performance.now();
    await docker(["stop", container]);
    const stopMs = performance.now() - startMs;
    assert.equal(await docker(["inspect", "--format", "{{.State.ExitCode}}", container]), "0");
    assert.ok(stopMs < 5000, `stopped in ${stopMs} ms`);

    for (const path in collector.got) delete collector.got[path];
    const format = "{{json .Config.Healthcheck.Test}}";
    const probe = JSON.parse(await docker(["image", "inspect", "--format", format, IMAGE]));
    const [command, ...args] = probe.slice(1);
    const flags = telemetry(collector.port).slice(2, -1);
    const probed = await docker([
      "run",
      ...flags,
      "--entrypoint",
      command,
      "--name",
      `${NAME}-probe`,
      IMAGE,
      ...args,
    ])
      .catch((error) => error);
    assert.match(probed.stderr, /^unhealthy: .+\n$/, "nothing listens");
    const times = await docker([
      "inspect",
      "--format",
      "{{.State.StartedAt}} {{.State.FinishedAt}}",
      `${NAME}-probe`,
    ]);
    const [started, finished] = times.split(" ").map(Date.parse);
    assert.ok(finished - started < 2000, `the probe took ${finished - started} ms`);
    assert.deepEqual(collector.got, {});
  } finally {
    collector.close();
  }
});

test(
  "Node.js: an instrumentation in the entry point is not the probe's, one in NODE_OPTIONS is",
  { skip },
  async () => {
    const folder = mkdtempSync(`${tmpdir()}/alerts-`);
    const node = `${NAME}:node`;
    try {
      await docker(["build", "--quiet", "--tag", node, "--target", "node", "."]);
      writeFileSync(`${folder}/instrument.mjs`, `console.error("instrumented");\n`);
      chmodSync(folder, 0o755);
      const flags = ["--detach", "--label", NAME, "--health-interval", "1s"];
      const words = documented("--import").slice(3).map((word) =>
        word.replace(/^heartbeat$/, node).replace(/^\.\//, `${folder}/`)
      );
      const inEntryPoint = await docker(["run", ...flags, ...words]);
      const volume = words.slice(0, 2);
      const inOptions = await docker([
        "run",
        ...flags,
        ...volume,
        "--env",
        "NODE_OPTIONS=--import /instrument.mjs",
        node,
      ]);
      for (const [container, expected] of [[inEntryPoint, 0], [inOptions, 1]] as const) {
        await healthy(container);
        assert.match((await run("docker", ["logs", container])).stderr, /^instrumented\n/);
        const output = await docker([
          "inspect",
          "--format",
          "{{(index .State.Health.Log 0).Output}}",
          container,
        ]);
        assert.equal(output.split("instrumented").length - 1, expected, output);
      }
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
);
