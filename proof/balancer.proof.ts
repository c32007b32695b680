/**
 * Run by `npm run test:faults`: HAProxy, with its plain check on /readyz, before an instance on Node.js and one on Deno.
 * Each is restarted twice under load. Without HAProxy it skips, and says so; in CI that is a failure.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { Agent, type IncomingMessage, request } from "node:http";
import { test } from "node:test";
import {
  allRuntimes,
  Client,
  freePort,
  launch,
  missing,
  type Program,
  ROOT,
  type Runtime,
  scratch,
  until,
} from "./harness.ts";

const FOLDER = scratch();
/** HAProxy asks twice, 500 ms apart, before it takes an instance out; a check that has begun counts too. */
const DRAIN_DELAY_MS = "2000";
const CHECK = "check inter 500ms fall 2 rise 1";
const RESTARTS = 2;
const WORKERS = 8;
/** So that what is tested is not how a machine that is too busy answers checks late. */
const PAUSE_MS = 4;
const UPLOAD = Buffer.alloc(65_536, "x");

const ROUTES = `app.get("/", (c) => c.text("ok"));
app.post("/upload", async (c) => c.text(String((await c.req.arrayBuffer()).byteLength)));`;

const RUNTIMES = allRuntimes().filter(({ name }) => name !== "Node.js 26");

/** Whether HAProxy is there. */
async function hasBalancer(): Promise<boolean> {
  const child = spawn("haproxy", ["-v"], { stdio: "ignore" });
  return await Promise.race([once(child, "close").then(() => true), once(child, "error").then(() => false)]);
}
const skip = !await hasBalancer() && missing("no haproxy is installed, so no restart behind a balancer is tested");

/** Starts an instance, and waits until it listens. */
async function start(runtime: Runtime, port: number): Promise<Program> {
  const env = { HOST: "127.0.0.1", PORT: `${port}`, DRAIN_DELAY_MS, ACCESS_LOG: "off" };
  const program = launch([...runtime.options, `${FOLDER}/main.ts`], env, { runtime });
  await until(program, () => /Listening on/.exec(program.stdout));
  return program;
}

/** Asks once, every other time with an upload, and tells whether the whole right answer came. */
async function ask(port: number, agent: Agent, isUpload: boolean): Promise<string> {
  const path = isUpload ? "/upload" : "/";
  const sent = request({ host: "127.0.0.1", port, path, agent, method: isUpload ? "POST" : "GET" });
  sent.end(isUpload ? UPLOAD : undefined);
  const [response] = await once(sent, "response") as [IncomingMessage];
  let text = "";
  for await (const chunk of response) text += chunk;
  const wanted = isUpload ? `${UPLOAD.length}` : "ok";
  return response.statusCode === 200 && text === wanted ? "" : `${path}: ${response.statusCode} ${text.slice(0, 100)}`;
}

/** Waits for HAProxy to say what it thinks of an instance. */
async function waitFor(statusPort: number, name: string, status: string) {
  for (const startMs = performance.now();;) {
    const client = new Client(statusPort).send("GET /;csv HTTP/1.0\r\n\r\n");
    await client.ended;
    const line = client.received.split("\n").find((line) => line.startsWith(`instances,${name},`));
    if (line?.split(",")[17] === status) return;
    assert.ok(performance.now() - startMs < 10_000, `${name} is not ${status}: ${line}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

test("no request is lost behind HAProxy when instances are restarted under load", { skip }, async (t) => {
  const children: { kill: (signal: NodeJS.Signals) => void }[] = [];
  const agent = new Agent({ keepAlive: true, maxSockets: WORKERS });
  try {
    const source = readFileSync(`${ROOT}/main.ts`, "utf8");
    writeFileSync(`${FOLDER}/main.ts`, source.replace(/YOUR ROUTES BEGIN HERE.*\n/, (line) => `${line}${ROUTES}\n`));
    const [port, statusPort, ...ports] = [await freePort(), await freePort(), await freePort(), await freePort()];
    const servers = ports.map((port, at) => `  server instance${at} 127.0.0.1:${port} ${CHECK}`);
    writeFileSync(
      `${FOLDER}/haproxy.cfg`,
      `defaults
  mode http
  timeout connect 2s
  timeout client 10s
  timeout server 10s
frontend service
  bind 127.0.0.1:${port}
  default_backend instances
backend instances
  balance roundrobin
  option httpchk GET /readyz
${servers.join("\n")}
frontend status
  bind 127.0.0.1:${statusPort}
  stats enable
  stats uri /
`,
    );
    const programs = await Promise.all(RUNTIMES.map((runtime, at) => start(runtime, ports[at])));
    children.push(...programs);
    const haproxy = spawn("haproxy", ["-db", "-f", `${FOLDER}/haproxy.cfg`], { stdio: ["ignore", "ignore", "pipe"] });
    children.push({ kill: () => haproxy.kill("SIGKILL") });
    let said = "";
    haproxy.stderr.on("data", (chunk) => said += chunk);
    // It listens a little later than it is started.
    for (let isThere = false; !isThere;) {
      assert.equal(haproxy.exitCode, null, said);
      isThere = await ask(port, agent, false).then((wrong) => wrong === "", () => false);
    }

    let isOver = false;
    let count = 0;
    const lost: string[] = [];
    const workers = Array.from({ length: WORKERS }, async (_, worker) => {
      for (let turn = worker; !isOver; turn++) {
        count++;
        const wrong = await ask(port, agent, turn % 2 === 0).catch(String);
        if (wrong) lost.push(wrong);
        await new Promise((resolve) => setTimeout(resolve, PAUSE_MS));
      }
    });
    for (let restart = 0; restart < RESTARTS; restart++) {
      for (const [at, runtime] of RUNTIMES.entries()) {
        await waitFor(statusPort, `instance${1 - at}`, "UP");
        programs[at].kill("SIGTERM");
        assert.equal(await programs[at].exit, 0, programs[at].stderr);
        await waitFor(statusPort, `instance${at}`, "DOWN");
        children.push(programs[at] = await start(runtime, ports[at]));
        await waitFor(statusPort, `instance${at}`, "UP");
      }
    }
    isOver = true;
    await Promise.all(workers);
    t.diagnostic(`${count - lost.length} of ${count} requests were answered, half of them uploads`);
    assert.deepEqual(lost, []);
    assert.ok(count > 1000, `only ${count} requests`);
  } finally {
    agent.destroy();
    for (const child of children) child.kill("SIGKILL");
    rmSync(FOLDER, { recursive: true, force: true });
  }
});
