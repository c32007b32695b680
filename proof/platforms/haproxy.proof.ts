/**
 * Two instances behind HAProxy on one Docker host, by deploy/haproxy.yaml: runs the commands that
 * its head names. Asks who the client is and holds a quiet WebSocket, by the recipes of
 * docs/recipes.md, then deploys new versions under load. Without a Docker engine it skips, and says
 * so; in CI that is a failure.
 *
 *     node --import tsx --test proof/platforms/haproxy.proof.ts
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import process from "node:process";
import { test, type TestContext } from "node:test";
import { WebSocket } from "ws";
import { blocksOf } from "../docs/blocks.ts";
import { ROUTES, underLoad } from "../support/clients.ts";
import { NAME, removeImages, run, say, skip, type Target, TARGETS } from "../support/engine.ts";
import { copyProject, ROOT, sleep, until, withRoutesOf } from "../support/harness.ts";

const FILE = "deploy/haproxy.yaml";
const COMMANDS = [...readFileSync(`${ROOT}/${FILE}`, "utf8").matchAll(/^# (docker compose .+)$/gm)]
  .map(([, line]) => line);
/** Of the client and the server, in place of the file's own: the tunnel has one of its own. */
const TIMEOUT_S = 3;
/** What a client makes up. It ends as the address of Docker's gateway does, to be no proxy's. */
const FORGED = "6.6.6.1";
/** The gateway of Docker's network, from which the host asks, is the one that ends with 1. */
const PROXIES = "const PROXIES = /\\.(?!1$)\\d+$/;";

/** The recipes' routes: who the client is, and the half of the WebSocket for this runtime. */
function routesOf(target: Target): string {
  const [client] = blocksOf("The client's address behind a proxy", "ts");
  const [socket] = blocksOf("A WebSocket", "ts");
  const halves = /^([^]+)if \(typeof Deno [^\n]+\n([^]+?)^\}\n([^]+)$/m.exec(socket);
  assert.ok(halves, socket);
  const [, events, onNode, onDeno] = halves;
  const half = target === "node" ? onNode : onDeno;
  return client.replace(/^const PROXIES.*$/m, PROXIES) + ROUTES + events + half;
}

/** A copy of the project that the commands deploy, each version of it under a name of its own. */
class Deployment {
  readonly folder = mkdtempSync(`${tmpdir()}/haproxy-`);
  readonly image: string;
  readonly target: Target;

  constructor(target: Target) {
    this.target = target;
    this.image = `${NAME}:${target}-haproxy`;
  }

  /** Copies the project, with timeouts that a test can wait for. */
  prepare() {
    copyProject(this.folder);
    const file = readFileSync(`${this.folder}/${FILE}`, "utf8");
    const short = file.replaceAll(/(timeout (client|server)) 60s/g, `$1 ${TIMEOUT_S}s`);
    assert.notEqual(short, file);
    writeFileSync(`${this.folder}/${FILE}`, short);
  }

  async shell(command: string): Promise<string> {
    const project = { IMAGE: this.image, PUBLISHED_PORT: "0", COMPOSE_PROJECT_NAME: NAME };
    const env = { ...process.env, ...project, TARGET: this.target };
    return (await run("sh", ["-c", command], { cwd: this.folder, env })).stdout.trim();
  }

  /** Writes a version, before the hooks that a recipe may return. */
  write(version: string) {
    const routes = `app.get("/version", (c) => c.text("${version}"));\n${routesOf(this.target)}`;
    const source = readFileSync(`${ROOT}/main.ts`, "utf8");
    writeFileSync(`${this.folder}/main.ts`, withRoutesOf(source, routes));
  }

  async start(): Promise<URL> {
    // Node.js has no WebSocket server of its own.
    const install = "npm install --silent --package-lock-only --ignore-scripts ws";
    if (this.target === "node") await this.shell(install);
    this.write("0");
    await this.shell(COMMANDS[0]);
    const address = await this.shell(`docker compose --file ${FILE} port balancer 8080`);
    return new URL(`http://127.0.0.1:${address.split(":").at(-1)}`);
  }

  async deploy(version: string) {
    // The build takes the name away from the present image, which removeImages() finds by a name.
    await this.shell(`docker tag ${this.image} ${this.image}-before-${version}`);
    this.write(version);
    for (const command of COMMANDS.slice(1)) await this.shell(command);
  }

  logs = (service: string) =>
    this.shell(`docker compose --file ${FILE} logs --no-color --no-log-prefix ${service}`);

  async remove() {
    try {
      await this.shell(`docker compose --file ${FILE} down --volumes --timeout 1`);
    } finally {
      rmSync(this.folder, { recursive: true });
      await removeImages();
    }
  }
}

for (const target of TARGETS) {
  test(
    `${target}: behind HAProxy`,
    { skip, timeout: 300_000 },
    async (t) => {
      assert.equal(COMMANDS.length, 4);
      const deployment = new Deployment(target);
      try {
        deployment.prepare();
        const url = await deployment.start();
        await until(async () => await versionAt(url) === "0", "answer through HAProxy");
        await t.test("a client has its own address in the log, whatever it says", () =>
          assertClient(deployment, url));
        await t.test("a quiet WebSocket outlives the timeout", () => assertQuietWebSocket(url));
        await t.test("two deployments lose no request", (t) => assertNoneLost(t, deployment, url));
      } catch (error) {
        console.log(await deployment.logs("balancer").catch(String));
        throw error;
      } finally {
        await deployment.remove();
      }
    },
  );
}

const versionAt = async (url: URL) => await (await fetch(new URL("/version", url))).text();

/** Asks with a forged address: the log has the one from which HAProxy was asked. */
async function assertClient(deployment: Deployment, url: URL) {
  const headers = { "X-Forwarded-For": FORGED };
  assert.equal((await fetch(new URL("/quick", url), { headers })).status, 200);
  const line = await until(async () => {
    const lines = (await deployment.logs("app-1 app-2")).split("\n");
    return lines.find((text) => text.includes('"path":"/quick"'));
  }, "line of the log");
  // Compose begins a line with what clears it on a terminal.
  const { client } = JSON.parse(line.slice(line.indexOf("{")));
  assert.match(client, /^\d+\.\d+\.\d+\.1$/);
  assert.notEqual(client, FORGED);
}

/** Holds a WebSocket that says nothing for longer than the timeouts of client and server. */
async function assertQuietWebSocket(url: URL) {
  const socket = new WebSocket(new URL("/echo", url.href.replace("http", "ws")));
  await once(socket, "open");
  await sleep(2 * TIMEOUT_S * 1000);
  assert.equal(socket.readyState, WebSocket.OPEN);
  socket.send("hello");
  const [message] = await once(socket, "message");
  assert.equal(`${message}`, "echo: hello");
  socket.terminate();
}

async function assertNoneLost(t: TestContext, deployment: Deployment, url: URL) {
  const fact = await underLoad(url, async () => {
    for (const version of ["1", "2"]) {
      await deployment.deploy(version);
      for (let asked = 0; asked < 10; asked++) assert.equal(await versionAt(url), version);
    }
  });
  say(t, fact);
}
