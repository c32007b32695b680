/**
 * Holds docs/alerts.md: the watch is run against a real Docker engine and a webhook, and loses its connection to the one
 * and the other; the Prometheus rules are tested by promtool; telemetry is sent to a collector. What is missing is skipped, and said; in CI that is a failure.
 */
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer, request } from "node:http";
import {
  type AddressInfo,
  connect,
  createServer as createSocketServer,
  type Socket,
} from "node:net";
import { tmpdir } from "node:os";
import process from "node:process";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { missing, ROOT } from "../support/harness.ts";

const PATIENCE_MS = 60_000;
const POLL_MS = 50;
/** As many events as the daemon keeps. */
const EVENTS_KEPT = 256;
const NAME = `heartbeat-alerts-${process.pid}`;
const IMAGE = `${NAME}:deno`;

const run = promisify(execFile);
const docker = async (...args: string[]) =>
  (await run("docker", args, { cwd: ROOT })).stdout.trim();

const hasEngine = await docker("version").then(() => true, () => false);
const skip = !hasEngine &&
  missing("no Docker engine answers `docker version`, so no alert was tested");
const hasPromtool = await run("promtool", ["--version"]).then(() => true, () => false);
const skipRules = !hasPromtool &&
  missing("no promtool (Debian: prometheus), so the Prometheus rules were not tested");

const DOCUMENT = readFileSync(`${ROOT}/docs/alerts.md`, "utf8");

/** The document's command that holds a word. */
function documentedText(word: string): string {
  const blocks = [...DOCUMENT.matchAll(/^```sh\n(.+?)\n```$/gms)];
  return blocks.find(([, text]) => text.includes(word))?.[1] ??
    assert.fail(`no command with ${word}`);
}

/** The same as one line of arguments, without the program. */
const documented = (word: string) =>
  documentedText(word).replaceAll("\\\n", " ").trim().split(/\s+/).slice(1);

async function until<T>(
  look: () => T | false | undefined | Promise<T | false | undefined>,
  what: () => string,
) {
  for (const startMs = performance.now();;) {
    const found = await look();
    if (found) return found;
    assert.ok(performance.now() - startMs < PATIENCE_MS, `no ${what()} within ${PATIENCE_MS} ms`);
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

/** A server on a free port that keeps what is posted to it. */
async function receive(status: () => number) {
  const bodies: string[] = [];
  const server = createServer((incoming, outgoing) => {
    let body = "";
    incoming.on("data", (chunk) => body += chunk).on("end", () => {
      if (status() === 200) bodies.push(body);
      outgoing.writeHead(status()).end();
    });
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  return {
    bodies,
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    close: () => server.close(),
  };
}

/** A socket before the daemon's, which can be cut and mended. */
async function interpose(path: string) {
  const [, daemon] = /^unix:\/\/(.+)$/.exec(
    process.env.DOCKER_HOST ??
      await docker("context", "inspect", "--format", "{{.Endpoints.docker.Host}}"),
  ) ?? assert.fail("the engine is not reached by a Unix socket");
  const sockets = new Set<Socket>();
  const server = createSocketServer((client) => {
    const upstream = connect(daemon);
    for (const [from, to] of [[client, upstream], [upstream, client]]) {
      sockets.add(from.on("error", () => {}).on("close", () => to.destroy()));
      from.pipe(to);
    }
  });
  const cut = () => {
    server.close();
    for (const socket of sockets) socket.destroy();
    sockets.clear();
  };
  const mend = () => once(server.listen(path), "listening");
  await mend();
  return { cut, mend, daemon };
}

/** Starts a container whose probe is quick to judge. */
async function start(name: string, ...flags: string[]): Promise<string> {
  const timing = [
    "--health-interval",
    "1s",
    "--health-retries",
    "2",
    "--env",
    "PING_TIMEOUT_MS=500",
  ];
  await docker("run", "--detach", "--name", name, "--label", NAME, ...timing, ...flags, IMAGE);
  await healthy(name);
  return name;
}

/** Waits until a container is healthy in the life that follows so many restarts. */
const healthy = (name: string, restarts = 0) =>
  until(
    async () =>
      await docker("inspect", "--format", "{{.RestartCount}} {{.State.Health.Status}}", name) ===
        `${restarts} healthy`,
    () => `healthy ${name} after ${restarts} restarts`,
  );

/** Runs a line of code inside of a container. */
const inside = (name: string, code: string) => docker("exec", name, "/bin/deno", "eval", code);

/** Stops the runtime, not the init, by the document's command. */
const wedge = (name: string) =>
  run("bash", ["-c", documentedText("docker exec").replace("shop-app-1", name)]);

/** Does what the probe does to heal, at once. */
const end = (name: string) => inside(name, `Deno.kill(1, "SIGALRM")`).catch(() => {});

before(async () => {
  if (!skip) await docker("build", "--quiet", "--tag", IMAGE, ".");
});
after(async () => {
  if (skip) return;
  const containers = await docker("ps", "--all", "--quiet", "--filter", `label=${NAME}`);
  if (containers) await docker("rm", "--force", ...containers.split("\n"));
  await docker("image", "rm", "--force", IMAGE, `${NAME}:node`);
});

test("watch.sh tells of each unhealthy container, its end and its recovery, whatever breaks", {
  skip,
}, async () => {
  const folder = mkdtempSync(`${tmpdir()}/alerts-`);
  let status = 200;
  const webhook = await receive(() => status);
  const socket = await interpose(`${folder}/docker.sock`);
  const watch = spawn("sh", ["deploy/watch.sh", "--filter", `label=${NAME}`], {
    cwd: ROOT,
    env: {
      ...process.env,
      WEBHOOK: webhook.url,
      DOCKER_HOST: `unix://${folder}/docker.sock`,
      TMPDIR: folder,
    },
    stdio: ["ignore", "inherit", "pipe"],
  });
  let errors = "";
  watch.stderr!.on("data", (chunk) => errors += chunk);
  const ended = once(watch, "exit");
  const texts = () => webhook.bodies.map((body) => JSON.parse(body).text as string);
  const told = (...expected: string[]) =>
    until(
      () => expected.every((text) => texts().includes(text)),
      () => `${expected} in ${texts()}, standard error ${errors}`,
    );
  try {
    const healing = `${NAME}-healing`;
    const [unhealthy, healed, recovered] = [
      `${healing} is unhealthy`,
      `${healing} was ended by its probe (exit code 142)`,
      `${healing} is healthy again`,
    ];
    await start(healing, "--env", "HEAL_AFTER_MS=1000", "--restart", "unless-stopped");
    assert.deepEqual(texts(), [], "a start is no alert");
    await wedge(healing);
    await told(recovered);
    assert.deepEqual(texts(), [unhealthy, healed, recovered]);
    const shown = /^```\n(shop-app-1 [^]+?)\n```$/m.exec(DOCUMENT)![1].replaceAll(
      "shop-app-1",
      healing,
    );
    assert.deepEqual(texts(), shown.split("\n"), "the document shows what is posted");

    // The connection breaks, and what happens meanwhile is told by the events that the daemon kept.
    webhook.bodies.length = 0;
    socket.cut();
    await until(
      () => /^Cannot read the events of the Docker daemon/.test(errors),
      () => `line in ${errors}`,
    );
    await end(healing);
    await healthy(healing, 2);
    await socket.mend();
    await told(recovered);
    assert.deepEqual(texts(), [healed, recovered]);

    // More happens than the daemon keeps: the present state tells.
    webhook.bodies.length = 0;
    const stays = await start(`${NAME}-stays`);
    const wedged = await start(`${NAME}-wedged`);
    socket.cut();
    await end(stays);
    await wedge(wedged);
    await until(
      async () =>
        await docker("inspect", "--format", "{{.State.Health.Status}}", wedged) === "unhealthy",
      () => "unhealthy container",
    );
    await end(healing);
    await healthy(healing, 3);
    for (let i = 0; i < EVENTS_KEPT; i++) {
      const path = `/containers/${i % 2 ? `${stays}-renamed` : stays}/rename?name=${
        i % 2 ? stays : `${stays}-renamed`
      }`;
      const rename = request({ socketPath: socket.daemon, method: "POST", path }).end();
      const [response] = await once(rename, "response");
      assert.equal(response.resume().statusCode, 204);
    }
    await socket.mend();
    const unseen = `${healing} was restarted unseen (RestartCount 3)`;
    const still = `${wedged} is unhealthy`;
    const gone = `${stays} was ended by its probe (exit code 142)`;
    await told(unseen, still, gone);
    assert.equal(texts().length, 3, `${texts()}`);

    // A webhook that is down costs a line.
    status = 503;
    errors = "";
    await docker("kill", "--signal", "CONT", wedged);
    await inside(
      wedged,
      `for (const { name } of Deno.readDirSync("/proc")) if (+name) Deno.kill(+name, "SIGCONT")`,
    );
    await until(() => errors.includes("\n"), () => "line on standard error");
    assert.match(errors, /^Cannot post "[^"]+ is healthy again": curl: .+ 503\n$/);
  } finally {
    watch.kill("SIGTERM");
    const [code] = await ended;
    socket.cut();
    webhook.close();
    rmSync(folder, { recursive: true, force: true });
    assert.equal(code, 0, errors);
  }
});

test("watch.sh without WEBHOOK ends with one line", async () => {
  const error = await run("sh", ["deploy/watch.sh"], {
    cwd: ROOT,
    env: { ...process.env, WEBHOOK: "" },
  }).catch((e) => e);
  assert.equal(error.code, 1);
  assert.equal(error.stderr, "Cannot watch: set WEBHOOK to the address that takes the alerts\n");
});

test(
  "the Prometheus rules fire for what does not heal, and for nothing else",
  { skip: skipRules },
  async () => {
    await run("promtool", ["check", "rules", "deploy/prometheus.rules.yaml"], { cwd: ROOT });
    await run("promtool", ["test", "rules", "proof/docs/prometheus.test.yaml"], { cwd: ROOT });
  },
);

// ── Telemetry ──

/** A collector that keeps what it gets by path, and answers unless it hangs. */
async function collect(isHanging = false) {
  const got: Record<string, string> = {};
  const server = createServer((incoming, outgoing) => {
    incoming.setEncoding("latin1").on(
      "data",
      (chunk) => got[incoming.url!] = (got[incoming.url!] ?? "") + chunk,
    );
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
  const address = (await docker("port", container, "8080/tcp")).split("\n")[0];
  return await (await fetch(`http://${address}/`)).text();
};

test("a collector gets logs, traces and metrics of the service", { skip }, async () => {
  const collector = await collect();
  try {
    const container = await docker(...telemetry(collector.port));
    await healthy(container);
    await get(container);
    await docker("stop", container);
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
    const container = await docker(...telemetry(collector.port));
    await healthy(container);
    await get(container);
    const startMs = performance.now();
    await docker("stop", container);
    const stopMs = performance.now() - startMs;
    assert.equal(await docker("inspect", "--format", "{{.State.ExitCode}}", container), "0");
    assert.ok(stopMs < 5000, `stopped in ${stopMs} ms`);

    for (const path in collector.got) delete collector.got[path];
    const [command, ...args] = JSON.parse(
      await docker("image", "inspect", "--format", "{{json .Config.Healthcheck.Test}}", IMAGE),
    ).slice(1);
    const flags = telemetry(collector.port).slice(2, -1);
    const probe = await docker(
      "run",
      ...flags,
      "--entrypoint",
      command,
      "--name",
      `${NAME}-probe`,
      IMAGE,
      ...args,
    )
      .catch((error) => error);
    assert.match(probe.stderr, /^unhealthy: .+\n$/, "nothing listens");
    const times = await docker(
      "inspect",
      "--format",
      "{{.State.StartedAt}} {{.State.FinishedAt}}",
      `${NAME}-probe`,
    );
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
      await docker("build", "--quiet", "--tag", node, "--target", "node", ".");
      writeFileSync(`${folder}/instrument.mjs`, `console.error("instrumented");\n`);
      chmodSync(folder, 0o755);
      const flags = ["--detach", "--label", NAME, "--health-interval", "1s"];
      const words = documented("--import").slice(3).map((word) =>
        word.replace(/^heartbeat-node$/, node).replace(/^\.\//, `${folder}/`)
      );
      const inEntryPoint = await docker("run", ...flags, ...words);
      const volume = words.slice(0, 2);
      const inOptions = await docker(
        "run",
        ...flags,
        ...volume,
        "--env",
        "NODE_OPTIONS=--import /instrument.mjs",
        node,
      );
      for (const [container, expected] of [[inEntryPoint, 0], [inOptions, 1]] as const) {
        await healthy(container);
        assert.match((await run("docker", ["logs", container])).stderr, /^instrumented\n/);
        const output = await docker(
          "inspect",
          "--format",
          "{{(index .State.Health.Log 0).Output}}",
          container,
        );
        assert.equal(output.split("instrumented").length - 1, expected, output);
      }
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  },
);
