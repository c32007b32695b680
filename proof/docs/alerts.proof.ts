/**
 * Holds docs/alerts.md: the watch is run against a real Docker engine and a webhook, and loses its
 * connection to the one and the other; the Prometheus rules are tested by promtool. Telemetry has a
 * file of its own. What is missing is skipped, and said; in CI that is a failure.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
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
import { docker, health, run, skip, type Target, TARGETS } from "../support/engine.ts";
import { missing, ROOT, until } from "../support/harness.ts";

/** As many events as the daemon keeps. */
const EVENTS_KEPT = 256;
const NAME = `heartbeat-alerts-${process.pid}`;
const imageOf = (target: Target) => `${NAME}:${target}`;

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

/** A server on a free port that keeps what is posted to it. */
async function receive(status: () => number) {
  const bodies: string[] = [];
  const server = createServer((incoming, outgoing) => {
    let body = "";
    incoming.on("data", (chunk) => {
      body += chunk;
    }).on("end", () => {
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
  const format = "{{.Endpoints.docker.Host}}";
  const host = process.env.DOCKER_HOST ?? await docker(["context", "inspect", "--format", format]);
  const [, daemon] = /^unix:\/\/(.+)$/.exec(host) ??
    assert.fail("the engine is not reached by a Unix socket");
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
async function start(name: string, flags: string[] = [], target: Target = "deno") {
  const timing = [
    "--health-interval",
    "1s",
    "--health-retries",
    "2",
    "--env",
    "PING_TIMEOUT_MS=500",
  ];
  const named = ["--name", name, "--label", NAME, ...timing, ...flags];
  await docker(["run", "--detach", ...named, imageOf(target)]);
  await healthy(name);
}

/** Waits until a container is healthy in the life that follows so many restarts. */
const healthy = (name: string, restarts = 0) =>
  until(
    async () =>
      await docker(["inspect", "--format", "{{.RestartCount}} {{.State.Health.Status}}", name]) ===
        `${restarts} healthy`,
    `healthy ${name} after ${restarts} restarts`,
  );

/** Runs a line of code inside of a container. */
const inside = (name: string, code: string) => docker(["exec", name, "/bin/deno", "eval", code]);

/** Stops the runtime, not the init, by the document's command for an image. */
const wedge = (name: string, target: Target = "deno") =>
  run("sh", ["-c", documentedText(`shop-app-1 /bin/${target} `).replace("shop-app-1", name)]);

/** Does what the probe does to heal, at once. */
const end = (name: string) => inside(name, `Deno.kill(1, "SIGALRM")`).catch(() => {});

before(async () => {
  if (skip) return;
  for (const target of TARGETS) {
    await docker(["build", "--quiet", "--tag", imageOf(target), "--target", target, "."]);
  }
});
after(async () => {
  if (skip) return;
  const containers = await docker(["ps", "--all", "--quiet", "--filter", `label=${NAME}`]);
  if (containers) await docker(["rm", "--force", ...containers.split("\n")]);
  await docker(["image", "rm", "--force", ...TARGETS.map(imageOf)]);
});

/** The watch, with the webhook that it posts to and the socket by which it asks the daemon. */
interface Watch {
  socket: Awaited<ReturnType<typeof interpose>>;
  /** What was posted since the last clear(). */
  texts(): string[];
  clear(): void;
  /** Waits until these were posted. */
  told(...expected: string[]): Promise<unknown>;
  /** What the watch printed on standard error. */
  errors(): string;
  /** Sets what the webhook answers from now on. */
  answer(status: number): void;
}

/** Runs watch.sh for the containers of these tests. It ends with 0 when it is told to. */
async function withWatch(body: (watch: Watch) => Promise<void>) {
  const folder = mkdtempSync(`${tmpdir()}/alerts-`);
  let status = 200;
  const webhook = await receive(() => status);
  const socket = await interpose(`${folder}/docker.sock`);
  const program = spawn("sh", ["deploy/watch.sh", "--filter", `label=${NAME}`], {
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
  program.stderr!.on("data", (chunk) => {
    errors += chunk;
  });
  const ended = once(program, "exit");
  const texts = () => webhook.bodies.map((text) => JSON.parse(text).text as string);
  const watch: Watch = {
    socket,
    texts,
    clear() {
      webhook.bodies.length = 0;
      errors = "";
    },
    told: (...expected) =>
      until(() => expected.every((text) => texts().includes(text)), `${expected}`)
        .catch((error) => assert.fail(`${error.message}: ${texts()}, standard error ${errors}`)),
    errors: () => errors,
    answer(next) {
      status = next;
    },
  };
  try {
    await body(watch);
  } finally {
    program.kill("SIGTERM");
    const [code] = await ended;
    socket.cut();
    webhook.close();
    rmSync(folder, { recursive: true, force: true });
    assert.equal(code, 0, errors);
  }
}

const HEALING = `${NAME}-healing`;
const STAYS = `${NAME}-stays`;
const WEDGED = `${NAME}-wedged`;
const ENDED = `${HEALING} was ended by its probe (exit code 142)`;
const RECOVERED = `${HEALING} is healthy again`;

test("watch.sh tells of each unhealthy container, its end and its recovery, whatever breaks", {
  skip,
}, () =>
  withWatch(async (watch) => {
    await tellsOfHealing(watch);
    await tellsWhatTheDaemonKept(watch);
    await tellsTheStateIfTheDaemonLostEvents(watch);
    await survivesItsWebhook(watch);
  }));

async function tellsOfHealing({ texts, told }: Watch) {
  await start(HEALING, ["--env", "HEAL_AFTER_MS=1000", "--restart", "unless-stopped"]);
  assert.deepEqual(texts(), [], "a start is no alert");
  await wedge(HEALING);
  await told(RECOVERED);
  assert.deepEqual(texts(), [`${HEALING} is unhealthy`, ENDED, RECOVERED]);
  const [, shown] = /^```\n(shop-app-1 [^]+?)\n```$/m.exec(DOCUMENT)!;
  const posted = shown.replaceAll("shop-app-1", HEALING).split("\n");
  assert.deepEqual(texts(), posted, "the document shows what is posted");
}

/** The connection breaks, and the events that the daemon kept tell what happened meanwhile. */
async function tellsWhatTheDaemonKept({ socket, texts, told, clear, errors }: Watch) {
  clear();
  socket.cut();
  await until(
    () => /^Cannot read the events of the Docker daemon/.test(errors()),
    "line on standard error",
  );
  await end(HEALING);
  await healthy(HEALING, 2);
  await socket.mend();
  await told(RECOVERED);
  assert.deepEqual(texts(), [ENDED, RECOVERED]);
}

/** More happens than the daemon keeps: the present state tells. */
async function tellsTheStateIfTheDaemonLostEvents({ socket, texts, told, clear }: Watch) {
  clear();
  await start(STAYS);
  await start(WEDGED);
  socket.cut();
  await end(STAYS);
  await wedge(WEDGED);
  const format = "{{.State.Health.Status}}";
  await until(
    async () => await docker(["inspect", "--format", format, WEDGED]) === "unhealthy",
    "unhealthy container",
  );
  await end(HEALING);
  await healthy(HEALING, 3);
  for (let i = 0; i < EVENTS_KEPT; i += 2) {
    await rename(socket.daemon, STAYS, `${STAYS}-renamed`);
    await rename(socket.daemon, `${STAYS}-renamed`, STAYS);
  }
  await socket.mend();
  await told(
    `${HEALING} was restarted unseen (RestartCount 3)`,
    `${WEDGED} is unhealthy`,
    `${STAYS} was ended by its probe (exit code 142)`,
  );
  assert.equal(texts().length, 3, `${texts()}`);
}

/** Makes an event of the daemon's by its socket, because the client takes much longer. */
async function rename(socketPath: string, from: string, to: string) {
  const path = `/containers/${from}/rename?name=${to}`;
  const sent = request({ socketPath, method: "POST", path }).end();
  const [response] = await once(sent, "response");
  assert.equal(response.resume().statusCode, 204);
}

/** A webhook that is down costs a line. */
async function survivesItsWebhook({ answer, clear, errors }: Watch) {
  answer(503);
  clear();
  await docker(["kill", "--signal", "CONT", WEDGED]);
  await inside(
    WEDGED,
    `for (const { name } of Deno.readDirSync("/proc")) if (+name) Deno.kill(+name, "SIGCONT")`,
  );
  await until(() => errors().includes("\n"), "line on standard error");
  assert.match(errors(), /^Cannot post "[^"]+ is healthy again": curl: .+ 503\n$/);
}

test("the document's line for Node.js stops that image's runtime", { skip }, async () => {
  const name = `${NAME}-node`;
  await start(name, [], "node");
  await wedge(name, "node");
  await health(name, "unhealthy");
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
