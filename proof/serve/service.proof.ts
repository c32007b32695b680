/**
 * Run by `npm test` on Node.js: moves a realistic service (service.ts), and one that does everything wrong, in at the
 * mark of main.ts, and drives them over real sockets under tsx, Node.js 26 and Deno.
 */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { createHash, randomBytes, randomUUID } from "node:crypto";
import { once } from "node:events";
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer, type IncomingMessage, request as httpRequest } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { dirname } from "node:path";
import process from "node:process";
import { after, before, describe, test } from "node:test";
import { promisify } from "node:util";
import { WebSocket } from "ws";
import { docker, LOCKED, onHostNetwork, skip } from "../support/engine.ts";
import {
  allRuntimes,
  Client,
  denoPath,
  entries,
  type Env,
  launch,
  ROOT,
  type Runtime,
  type Service,
  sleep,
  STACK,
  TEST_TIMEOUT_MS,
  until,
  withService,
} from "../support/harness.ts";

/** What moves in finds the packages of proof/ here, and those of the project one level below. */
const FOLDER = mkdtempSync(`${tmpdir()}/heartbeat-service-`);
symlinkSync(`${ROOT}/proof/node_modules`, `${FOLDER}/node_modules`);
const MIB = 1024 * 1024;
/** Within this the stop of an idle service is over, whatever streams and sockets are open. */
const PROMPT_MS = 1000;

// ── The runtimes ──

const RUNTIMES = allRuntimes().map((runtime) => {
  if (runtime.name !== "Deno") return runtime;
  return {
    ...runtime,
    options: [...runtime.options, `--allow-read=${FOLDER}`, `--allow-write=${FOLDER}`],
  };
});

// ── What moves in ──

const readPackage = (folder: string) => JSON.parse(readFileSync(`${folder}/package.json`, "utf8"));

/** A folder with main.ts, what moves in at its mark, and what a service of its own brings along. */
function moveIn(name: string, code: string): string {
  const folder = `${FOLDER}/${name}`;
  mkdirSync(`${folder}/service`, { recursive: true });
  const source = readFileSync(`${ROOT}/main.ts`, "utf8");
  assert.match(source, /YOUR ROUTES BEGIN HERE.*\n/);
  writeFileSync(
    `${folder}/main.ts`,
    source.replace(/YOUR ROUTES BEGIN HERE.*\n/, (line) => `${line}${code}\n`),
  );
  const service = readFileSync(`${import.meta.dirname}/service.ts`, "utf8");
  writeFileSync(`${folder}/service.ts`, service.replace("../../main.ts", "./main.ts"));
  cpSync(`${import.meta.dirname}/service`, `${folder}/service`, { recursive: true });
  mkdirSync(`${folder}/static`);
  writeFileSync(`${folder}/static/hello.txt`, "hello from a file\n");
  cpSync(`${ROOT}/deno.json`, `${folder}/deno.json`);
  cpSync(`${ROOT}/deno.lock`, `${folder}/deno.lock`);
  const { type, dependencies } = readPackage(ROOT);
  for (const own of ["ws", "@types/ws", "zod"]) {
    dependencies[own] = readPackage(`${FOLDER}/node_modules/${own}`).version;
  }
  symlinkSync(realpathSync(`${ROOT}/node_modules`), `${folder}/node_modules`);
  writeFileSync(`${folder}/package.json`, JSON.stringify({ type, dependencies }));
  return `${folder}/main.ts`;
}

const SERVICE = 'return await (await import("./service.ts")).addRoutes(app, { stopping });';

/** Everything that a route, a hook or a start can do wrong, by path or by the variable WRONG. */
const WRONG = `
const wrong = runtime.variable("WRONG");
if (wrong === "start") throw new Error("SECRET of the start");
const text = new TextEncoder().encode("a chunk\\n");
const fail = () => { throw new Error("SECRET"); };
const loose = (path: string, answer: () => unknown) => app.get(path, answer as () => Response);
const streamed = (source: UnderlyingDefaultSource, init?: ResponseInit) => new Response(new ReadableStream(source), init);
const late = () => {
  let count = 0;
  return { async pull(controller: ReadableStreamDefaultController) {
    await sleep(10);
    if (count++ < 3) controller.enqueue(text); else fail();
  } };
};
loose("/string", () => "SECRET");
loose("/object", () => ({ text: "SECRET" }));
loose("/async-object", async () => ({ text: "SECRET" }));
loose("/like-a-response", () => ({ status: 200, text: "SECRET" }));
loose("/network-error", () => Response.error());
loose("/throws", fail);
loose("/rejects", async () => fail());
loose("/at-once", () => streamed({ start: (controller) => controller.error(new Error("SECRET")) }));
loose("/first-pull", () => streamed({ pull: fail }));
loose("/late", () => streamed(late()));
loose("/late-length", () => streamed(late(), { headers: { "Content-Length": "1000" } }));
loose("/used", async () => { const response = new Response("text"); await response.text(); return response; });
loose("/used-stream", async () => {
  const response = streamed({ start(controller) { controller.enqueue(text); controller.close(); } });
  await response.text();
  return response;
});
loose("/bad-chunk", () => streamed({ pull(controller) { controller.enqueue({ text: "SECRET" }); controller.close(); } }));
loose("/bad-late-chunk", () => {
  let count = 0;
  return streamed({ async pull(controller) {
    await sleep(10);
    controller.enqueue(count++ < 3 ? text : { text: "SECRET" });
  } });
});
loose("/bad-status", () => new Response("SECRET", { status: 1000 }));
loose("/bad-header", () => new Response("text", { headers: { "X-Bad": "SECRET 日本" } }));
loose("/bad-header-stream", () => streamed(late(), { headers: { "X-Bad": "SECRET 日本" } }));
loose("/locked", () => { const response = new Response("text"); response.body!.getReader(); return response; });
loose("/locked-stream", () => { const response = streamed({}); response.body!.getReader(); return response; });
app.get("/hono-at-once", (c) => c.body(new ReadableStream({ start: (controller) => controller.error(new Error("SECRET")) })));
app.get("/hono-late", (c) => c.body(new ReadableStream(late()), 200, { "X-Own": "yes" }));
app.get("/proxied", () => fetch("http://127.0.0.1:" + runtime.variable("UPSTREAM_PORT") + "/broken"));

app.get("/", (c) => c.text("ok"));
app.get("/whole", (c) => {
  let count = 0;
  return c.body(new ReadableStream({ async pull(controller) {
    await sleep(1);
    if (count++ < 3) controller.enqueue(text); else controller.close();
  } }), 203, { "X-Own": "yes" });
});
app.get("/slow/:ms", async (c) => {
  console.log("ran");
  await sleep(Number(c.req.param("ms")));
  return c.text("whole");
});
app.get("/large", () => new Response(new Uint8Array(20_000_000)));
app.get("/elsewhere", () => Response.redirect("http://example.test/"));
app.get("/listen", (c) => new Promise((resolve) =>
  stopping.addEventListener("abort", () => resolve(c.text("stopping")))));
app.get("/endless", () => streamed({ async pull(controller) { await sleep(5); controller.enqueue(text); } }));
app.get("/crash/:how", (c) => {
  const crash = { throw: fail, reject: async () => fail(), exit: () => runtime.exit(7),
    "process.exit": async () => (await import("node:process")).exit(7) }[c.req.param("how")]!;
  setTimeout(crash, 4);
  return c.text("crashing");
});

let mode = "fine";
app.get("/mode/:mode", (c) => c.text(mode = c.req.param("mode")));
return {
  ready() {
    console.log("asked");
    if (mode === "throws") throw new Error("SECRET of readiness");
    if (mode === "rejects") return Promise.reject(new Error("SECRET of readiness"));
    if (mode === "hangs") return new Promise(() => {});
    if (mode === "slow") return sleep(300);
    return mode !== "false";
  },
  async close() {
    console.log("closing");
    if (wrong === "close") throw new Error("SECRET of the end");
    if (wrong === "slow close") await sleep(700);
    if (wrong === "late close") await sleep(60_000);
    console.log("closed");
  },
};
`;

let serviceFile: string;
let wrongFile: string;
before(() => {
  serviceFile = moveIn("service", SERVICE);
  wrongFile = moveIn("wrong", WRONG);
});
after(() => rmSync(FOLDER, { recursive: true, force: true }));

// ── What is asked ──

/** A whole request, after which the connection is closed. */
const get = (path: string, version = "1.1") =>
  `GET ${path} HTTP/${version}\r\n${
    version === "1.1" ? "Host: test\r\nConnection: close\r\n" : ""
  }\r\n`;

/** The head of an upload, and as much of its body as is given. */
const post = (path: string, length: number, body: string) =>
  `POST ${path} HTTP/1.1\r\nHost: test\r\nContent-Length: ${length}\r\n\r\n${body}`;

interface Talk {
  received: string;
  isReset: boolean;
}

/** All that a connection gives until it ends, and how it ended. */
async function talk(port: number, text: string): Promise<Talk> {
  const client = new Client(port);
  let isReset = false;
  client.socket.on("error", () => isReset = true);
  await client.send(text).ended;
  return { received: client.received, isReset };
}

/** Holds several such talks by Deno: Node.js takes a reset for an end when it comes with the last bytes. */
async function talkByDeno(port: number, texts: string[]): Promise<Talk[]> {
  const code = `const talks = [];
for (const text of ${JSON.stringify(texts)}) {
  const talk = { received: "", isReset: false };
  const connection = await Deno.connect({ hostname: "127.0.0.1", port: ${port} });
  try {
    await connection.write(new TextEncoder().encode(text));
    for await (const chunk of connection.readable) talk.received += new TextDecoder().decode(chunk);
  } catch {
    talk.isReset = true;
  }
  talks.push(talk);
}
console.log(JSON.stringify(talks));`;
  const { stdout } = await promisify(execFile)(denoPath(), ["eval", code], {
    timeout: TEST_TIMEOUT_MS,
  });
  return JSON.parse(stdout);
}

/** The responses that came on a connection, and whether the last one looks complete to its client. */
function split(received: string, isReset = false) {
  const responses: { status: number; head: string; body: string }[] = [];
  let isComplete = false;
  for (let rest = received; rest !== "";) {
    const [, head, status] = /^(HTTP\/1\.[01] (\d+)[^]*?\r\n)\r\n/.exec(rest) ?? [];
    isComplete = false;
    if (head === undefined) break;
    rest = rest.slice(head.length + 2);
    let body = "";
    const length = /^content-length: (\d+)\r$/im.exec(head)?.[1];
    if (/^transfer-encoding: chunked\r$/im.test(head)) {
      for (let match; (match = /^([\da-f]+)\r\n/i.exec(rest));) {
        const size = parseInt(match[1], 16);
        if (rest.length < match[0].length + size + 2) break;
        body += rest.slice(match[0].length, match[0].length + size);
        rest = rest.slice(match[0].length + size + 2);
        if (size === 0) {
          isComplete = true;
          break;
        }
      }
    } else {
      const size = /^(1..|204|304)$/.test(status)
        ? 0
        : length === undefined
        ? rest.length
        : Number(length);
      isComplete = rest.length >= size && !(length === undefined && isReset);
      body = rest.slice(0, size);
      rest = rest.slice(size);
    }
    responses.push({ status: Number(status), head, body });
    if (!isComplete) break;
  }
  return { responses, isComplete };
}

/** Asks once, and wants one whole answer. */
async function ask(port: number, text: string) {
  const { received, isReset } = await talk(port, text);
  const { responses, isComplete } = split(received, isReset);
  assert.ok(
    isComplete && responses.length === 1,
    `no whole answer: ${JSON.stringify(received.slice(0, 500))}`,
  );
  return responses[0];
}

/** Asks with a body, of a length told or in chunks, on a connection of its own. */
async function send(
  port: number,
  path: string,
  body: Uint8Array | string,
  headers: Env = {},
  method = "POST",
) {
  const request = httpRequest({ port, host: "127.0.0.1", path, method, headers, agent: false });
  if (headers["Transfer-Encoding"]) {
    for (let at = 0; at < body.length; at += 65_536) request.write(body.slice(at, at + 65_536));
    request.end();
  } else request.end(body);
  const [response] = await once(request, "response") as [IncomingMessage];
  const chunks: Uint8Array[] = [];
  for await (const chunk of response) chunks.push(chunk);
  return { status: response.statusCode, headers: response.headers, body: Buffer.concat(chunks) };
}

const postItem = (port: number, name: string) =>
  send(port, "/items", JSON.stringify({ name }), { "Content-Type": "application/json" });

/** Whether nothing but whole lines of JSON was printed as an error, as it is on Node.js. */
function assertOnlyEntries(stderr: string) {
  assert.doesNotMatch(stderr, STACK);
  for (const line of stderr.split("\n").slice(0, -1)) {
    assert.doesNotThrow(() => JSON.parse(line), `no JSON: ${line}`);
  }
}

/** Signals, waits for the end, and gives what it took. */
async function stop(service: Service, signal: NodeJS.Signals = "SIGTERM") {
  const startMs = performance.now();
  service.kill(signal);
  const code = await service.exit;
  return { code, ms: performance.now() - startMs };
}

/** Signals, and waits until it drains. */
async function drain(service: Service) {
  service.kill("SIGTERM");
  await until(service, () => /^Draining/m.exec(service.stdout));
}

/** What a server of another's answers, whole at `/whole` and broken off at `/broken`. */
const upstream = createServer((request, response) => {
  if (request.url === "/broken") {
    response.writeHead(200, { "Content-Length": "1000" }).write("a part\n");
    setTimeout(() => response.destroy(), 50);
  } else response.writeHead(203, { "Set-Cookie": ["first=1", "second=2"] }).end("u".repeat(MIB));
});
before(async () => {
  await once(upstream.listen(0, "127.0.0.1"), "listening");
});
after(() => {
  upstream.closeAllConnections();
  upstream.close();
});
const upstreamPort = () => `${(upstream.address() as AddressInfo).port}`;

/** Starts the service, and ends it whatever happens; SERVICE_DATA names where it keeps its rows. */
type InService = (env: Env, body: (service: Service) => Promise<void>) => Promise<void>;

interface Subject {
  isNode: boolean;
  isImage: boolean;
  /** Why no row is followed. */
  noRows?: string;
  /** A new place for rows. */
  newData: () => string;
  inService: InService;
}

describe("main.ts with a service inside", { concurrency: RUNTIMES.length }, () => {
  for (const runtime of RUNTIMES) {
    const isNode = runtime.name !== "Deno";
    const newData = () => mkdtempSync(`${FOLDER}/data-`);
    const noRows = runtime.name === "tsx" && Number(process.versions.node.split(".")[0]) < 24
      ? `SKIPPED: Node.js ${process.versions.node} has no node:sqlite of its own, so no row was followed under tsx`
      : undefined;
    if (noRows) console.log(noRows);
    const inService: InService = (more, body) =>
      withService({ UPSTREAM_PORT: upstreamPort(), SERVICE_DATA: newData(), ...more }, body, {
        runtime,
        file: serviceFile,
      });
    describe(`on ${runtime.name}`, () => {
      holdsWhatIsPromised({ isNode, isImage: false, noRows, newData, inService });
      survivesWhatIsWrong(runtime, isNode);
    });
  }
});

test("what moves in needs no cast: it is type checked under Deno, as tsc checks it for Node.js", async () => {
  await promisify(execFile)(denoPath(), ["check", "--quiet", "main.ts"], {
    cwd: dirname(serviceFile),
  });
});

// ── The images ──

const NAME = `heartbeat-test-service-${process.pid}`;
/** Starts a container in the foreground: what it prints, its signals and its exit code are the client's. */
async function withContainer(
  target: string,
  volume: string,
  env: Env,
  body: (service: Service) => Promise<void>,
) {
  const container = `${NAME}-${randomUUID()}`;
  const { port, flags: network } = await onHostNetwork();
  const variables = Object.entries({ UPSTREAM_PORT: `${port}`, ...env }).flatMap((
    [name, value],
  ) => ["--env", `${name}=${value}`]);
  const flags = ["--name", container, ...network, "--volume", `${volume}:/data`, ...variables];
  const program = launch(["run", ...LOCKED, ...flags, `${NAME}:${target}`], {}, {
    runtime: { name: target, path: "docker", options: [] },
  });
  const kill = (signal: NodeJS.Signals) =>
    void docker(["kill", "--signal", signal, container]).catch(() => {});
  const exit = program.exit.then((code) => code === 137 ? null : code); // as of a process that SIGKILL ended
  const ping = async () => {
    const [, ...probe] = JSON.parse(
      await docker(["inspect", "--format", "{{json .Config.Healthcheck.Test}}", container]),
    );
    return { code: 0, stdout: await docker(["exec", container, ...probe]), stderr: "" };
  };
  try {
    await until(program, () => /Listening on/.exec(program.stdout));
    await body(Object.assign(program, { kill, exit, port, ping }));
  } finally {
    await docker(["rm", "--force", container]);
    await program.exit;
  }
}

describe("the image with a service inside", { concurrency: 2, skip }, () => {
  const volumes: string[] = [];
  const newData = () => {
    volumes.push(`${NAME}-${volumes.length}`);
    return volumes.at(-1)!;
  };
  const targets = ["deno", "node"];
  before(async () => {
    if (skip) return;
    const folder = dirname(serviceFile);
    await promisify(execFile)(denoPath(), ["install", "--quiet", "--lockfile-only"], {
      cwd: folder,
    });
    cpSync(`${ROOT}/.dockerignore`, `${folder}/.dockerignore`);
    // The one place where a permission is added.
    const recipe = readFileSync(`${ROOT}/Dockerfile`, "utf8");
    const permitted = recipe.replace(
      '"--allow-read=/app/static"',
      '"--allow-read=/app/static,/data", "--allow-write=/data"',
    );
    assert.notEqual(permitted, recipe);
    writeFileSync(`${folder}/Dockerfile`, permitted);
    for (const target of targets) {
      await docker(["build", "--quiet", "--tag", `${NAME}:${target}`, "--target", target, folder]);
    }
  });
  after(async () => {
    if (skip) return;
    if (volumes.length > 0) await docker(["volume", "rm", "--force", ...volumes]);
    await docker(["rmi", "--force", ...targets.map((target) => `${NAME}:${target}`)]);
  });
  for (const target of targets) {
    const inService: InService = ({ SERVICE_DATA = newData(), ...env }, body) =>
      withContainer(target, SERVICE_DATA, { SERVICE_DATA: "/data", ...env }, body);
    describe(`on ${target}`, () =>
      holdsWhatIsPromised({ isNode: target === "node", isImage: true, newData, inService }));
  }
});

// ── The service, and what is promised to it ──

function holdsWhatIsPromised({ isNode, isImage, noRows, newData, inService }: Subject) {
  describe("the service", () => {
    let service: Service;
    let release: () => void;
    let done: Promise<void>;
    before(async () => {
      await new Promise<void>((resolve, reject) => {
        done = inService({ GREETING: "a variable of its own" }, (started) => {
          service = started;
          resolve();
          return new Promise((resolve) => release = resolve);
        });
        done.catch(reject);
      });
    });
    after(async () => {
      release();
      await done;
    });
    const lines = (path: string) => entries(service.stdout).filter((entry) => entry.path === path);

    test("creates, reads, renames and removes items, and refuses what is none", async () => {
      const { port } = service;
      const created = await postItem(port, "first");
      assert.equal(created.status, 201);
      const { id } = JSON.parse(`${created.body}`);
      assert.deepEqual(JSON.parse((await ask(port, get(`/items/${id}`))).body), {
        id,
        name: "first",
      });
      const renamed = await send(port, `/items/${id}`, '{"name":"second"}', {}, "PUT");
      assert.equal(renamed.status, 204);
      assert.deepEqual(JSON.parse((await ask(port, get("/items"))).body), [{ id, name: "second" }]);
      assert.equal((await send(port, `/items/${id}`, "", {}, "DELETE")).status, 204);
      assert.equal((await ask(port, get(`/items/${id}`))).status, 404);
      for (const body of ["", "{", '{"name":""}', '{"name":1}']) {
        const { status, body: text } = await send(port, "/items", body);
        assert.deepEqual([status, `${text}`], [400, '{"error":"an item has a name"}']);
      }
    });

    test("takes a file by parseBody()", async () => {
      const form = new FormData();
      form.set("note", "a note");
      form.set("file", new File([new Uint8Array(MIB)], "zeros.bin"));
      const response = await fetch(`http://127.0.0.1:${service.port}/upload`, {
        method: "POST",
        body: form,
      });
      assert.deepEqual(await response.json(), { name: "zeros.bin", size: MIB, note: "a note" });
    });

    for (const how of ["with a length", "in chunks"]) {
      test(`echoes 8 MiB as a stream, sent ${how}`, async () => {
        const body = randomBytes(8 * MIB);
        const headers: Env = how === "in chunks" ? { "Transfer-Encoding": "chunked" } : {};
        const { status, body: echoed } = await send(service.port, "/echo", body, headers);
        assert.deepEqual([status, echoed.length], [200, body.length]);
        assert.equal(
          createHash("sha256").update(echoed).digest("hex"),
          createHash("sha256").update(body).digest("hex"),
        );
      });

      test(`reads a body after an await, and by the stream that it answers with, sent ${how}`, async () => {
        const body = new Uint8Array(MIB);
        const headers: Env = how === "in chunks" ? { "Transfer-Encoding": "chunked" } : {};
        assert.deepEqual(JSON.parse(`${(await send(service.port, "/late", body, headers)).body}`), {
          size: MIB,
        });
        assert.match(
          `${(await send(service.port, "/streamed", body, headers)).body}`,
          /^\.+\n1048576$/,
        );
      });
    }

    test("answers a route that ignores its body, and what follows on the connection", async () => {
      assert.equal(
        `${(await send(service.port, "/ignored", new Uint8Array(MIB))).body}`,
        "ignored",
      );
      const { received } = await talk(
        service.port,
        post("/ignored", 5, "12345") + get("/greeting"),
      );
      assert.deepEqual(split(received).responses.map(({ body }) => body), [
        "ignored",
        "a variable of its own",
      ]);
    });

    test("serves a static file, and no file outside the folder", async () => {
      assert.equal((await ask(service.port, get("/static/hello.txt"))).body, "hello from a file\n");
      for (
        const path of [
          "/static/none.txt",
          "/static/../main.ts",
          "/static/%2e%2e/main.ts",
          "/static/..%2fmain.ts",
        ]
      ) {
        const { status, body } = await ask(service.port, get(path));
        assert.notEqual(status, 200, path);
        assert.doesNotMatch(body, /addRoutes/);
      }
    });

    test("knows the client's address", async () => {
      const { body } = await ask(service.port, get("/address"));
      assert.match(body, isImage ? /^\d+(\.\d+){3}$/ : /^127\.0\.0\.1$/);
    });

    test("sets a variable before the route and a header after it", async () => {
      const { head, body } = await ask(
        service.port,
        get("/user").replace("\r\n\r\n", "\r\nX-User: ada\r\n\r\n"),
      );
      assert.equal(body, "ada");
      assert.match(head, /^x-service: yes\r$/im);
      assert.match((await ask(service.port, get("/throws"))).head, /^x-service: yes\r$/im);
    });

    test("sends each cookie in a line of its own", async () => {
      const { head } = await ask(service.port, get("/cookies"));
      assert.match(head, /^set-cookie: first=1; Path=\/\r$/im);
      assert.match(head, /^set-cookie: second=2; Path=\/; HttpOnly\r$/im);
      assert.equal(head.match(/^set-cookie:/gim)?.length, 3);
    });

    test("redirects", async () => {
      const { status, head } = await ask(service.port, get("/redirect"));
      assert.equal(status, 303);
      assert.match(head, /^location: http:\/\/example.test\/elsewhere\r$/im);
    });

    test("answers with what fetch() gave", async () => {
      // Of another server, and of its own: in a container there is no other.
      const { status, head, body } = await ask(
        service.port,
        get(isImage ? "/proxy/cookies" : "/proxy/whole"),
      );
      assert.deepEqual([status, body], isImage ? [200, "baked"] : [203, "u".repeat(MIB)]);
      assert.match(head, /^set-cookie: first=1.*\r\n(.*\r\n)*?set-cookie: second=2.*\r$/im);
    });

    test("reads a variable of its own, and its timer runs", async () => {
      assert.equal((await ask(service.port, get("/greeting"))).body, "a variable of its own");
      assert.ok(Number((await ask(service.port, get("/ticks"))).body) > 0);
    });

    test("imports values from main.ts into a second file", async () => {
      assert.equal(
        JSON.parse((await ask(service.port, get("/settings"))).body).shutdownTimeoutMs,
        8000,
      );
    });

    test("is ready while its database answers", async () => {
      const { status, body } = await ask(service.port, get("/readyz"));
      assert.deepEqual([status, body], [200, '{"status":"ready"}']);
      assert.equal((await service.ping()).code, 0);
    });

    test("answers HTTP/1.0 without Host", async () => {
      for (
        const [path, status] of [["/readyz", 200], ["/healthz", 200], ["/greeting", 200], [
          "/nope",
          404,
        ]] as const
      ) {
        assert.equal((await ask(service.port, get(path, "1.0"))).status, status, path);
      }
    });

    test("answers a route that throws with a generic 500, and logs it in one line with its place", async () => {
      const { status, body } = await ask(service.port, get("/throws?token=SECRET"));
      assert.deepEqual([status, body], [500, '{"error":"Internal Server Error"}']);
      const logged = await until(
        service,
        () => entries(service.stderr).find(({ path }) => path === "/throws"),
      );
      assert.deepEqual([logged.method, logged.error], ["GET", "Error: SECRET of the route"]);
      assert.match(`${logged.stack}`, isImage ? /at .*:\d+:\d+/ : /at .*service\.ts:\d+:\d+/);
    });

    test("takes an HTTPException under 500 for no error, and leaves an area's own handler to it", async () => {
      const teapot = await ask(service.port, get("/teapot"));
      assert.deepEqual([teapot.status, teapot.body], [418, '{"error":"short and stout"}']);
      const area = await ask(service.port, get("/area/throws"));
      assert.deepEqual([area.status, area.body], [500, "the area's own handler"]);
      await until(service, () => lines("/area/throws")[0] && lines("/teapot")[0]);
      assert.deepEqual(
        entries(service.stderr).filter(({ path }) => /teapot|area/.test(`${path}`)),
        [],
      );
    });

    test("answers what no route takes with 404", async () => {
      const { status, body } = await ask(service.port, get("/nope"));
      assert.deepEqual([status, body], [404, '{"error":"Not Found"}']);
    });

    test("echoes over a WebSocket, which the access log calls 101", async () => {
      const socket = new WebSocket(`ws://127.0.0.1:${service.port}/ws`);
      await once(socket, "open");
      socket.send("over a socket");
      const [data] = await once(socket, "message");
      assert.equal(`${data}`, "echo: over a socket");
      socket.close();
      await once(socket, "close");
      assert.equal((await until(service, () => lines("/ws")[0])).status, 101);
    });

    test("logs a response whose client has left as incomplete, where the runtime tells", async () => {
      const client = new Client(service.port).get("/events");
      await client.until(/event: hello/);
      client.socket.destroy();
      const line = await until(service, () => lines("/events")[0]);
      assert.equal(line.incomplete, isNode ? true : undefined);
      const echo = new Client(service.port).send(post("/echo", 100_000, "x".repeat(5000)));
      await echo.until(/\r\n\r\n/);
      echo.socket.destroy();
      const count = lines("/echo").length;
      assert.equal(
        (await until(service, () => lines("/echo")[count])).incomplete,
        isNode ? true : undefined,
      );
      assert.deepEqual(
        entries(service.stderr).filter(({ path }) => path === "/events" || path === "/echo"),
        [],
      );
      const early = new Client(service.port).get("/slow?ms=200");
      await ask(service.port, get("/greeting"));
      early.socket.destroy();
      assert.equal(
        (await until(service, () => lines("/slow")[0])).incomplete,
        isNode ? true : undefined,
      );
    });

    test("tells an event stream that its client has left", async () => {
      const client = new Client(service.port).get("/events");
      await client.until(/event: hello/);
      assert.equal((await ask(service.port, get("/open"))).body, "1");
      client.socket.destroy();
      for (
        const startMs = performance.now();
        (await ask(service.port, get("/open"))).body !== "0";
      ) {
        assert.ok(performance.now() - startMs < PROMPT_MS);
      }
    });

    test("prints nothing but lines of its log", () => {
      assertOnlyEntries(service.stderr.replace(/^No SQLite, items are kept in memory: .*\n/, ""));
    });
  });

  test("handlers of the user's own win, and are left to log", async () => {
    await inService({ OWN_HANDLERS: "1" }, async (service) => {
      assert.equal((await ask(service.port, get("/throws"))).body, "own handler: ?");
      assert.equal((await ask(service.port, get("/teapot"))).body, "own handler: 418");
      const nope = await ask(service.port, get("/nope"));
      assert.deepEqual([nope.status, nope.body], [404, "own: nothing here"]);
      await until(service, () => entries(service.stdout).find(({ path }) => path === "/nope"));
      assert.deepEqual(entries(service.stderr), []);
    });
  });

  test("uploads in flight when the stop begins are read to their end", async () => {
    await inService({}, async (service) => {
      const half = "x".repeat(50_000);
      const paths = ["/late", "/echo", "/streamed", "/ignored"];
      const clients = paths.map((path) => new Client(service.port).send(post(path, 100_000, half)));
      const form = (content: string) => `--${"b".repeat(30)}\r\n${content}\r\n`;
      const file = form(`Content-Disposition: form-data; name="file"; filename="f"\r\n\r\n${half}`);
      const end = `--${"b".repeat(30)}--\r\n`;
      const upload = new Client(service.port).send(
        `POST /upload HTTP/1.1\r\nHost: test\r\nContent-Type: multipart/form-data; boundary=${
          "b".repeat(30)
        }\r\n` +
          `Content-Length: ${file.length + end.length}\r\n\r\n${file}`,
      );
      await clients[1].until(/\r\n\r\n/); // the echo has begun
      await clients[2].until(/\r\n\r\n/);
      await ask(service.port, get("/greeting"));
      await drain(service);
      await sleep(100); // the listener closes
      for (const client of clients) client.send(half);
      upload.send(end);
      assert.equal(await service.exit, 0, service.stderr);
      for (const client of [...clients, upload]) await client.ended;
      const bodies = [...clients, upload].map(({ received }) => {
        const { responses, isComplete } = split(received);
        assert.ok(isComplete, JSON.stringify(received.slice(0, 300)));
        return responses[0].body;
      });
      assert.equal(bodies[0], '{"size":100000}');
      assert.equal(bodies[1], "x".repeat(100_000));
      assert.match(bodies[2], /^\.+\n100000$/);
      assert.equal(bodies[3], "ignored");
      assert.equal(bodies[4], '{"name":"f","size":50000}');
    });
  });

  test("open event streams end by `stopping`, and the stop is prompt", async () => {
    await inService({}, async (service) => {
      const clients = Array.from({ length: 30 }, () => new Client(service.port).get("/events"));
      for (const client of clients) await client.until(/event: hello/);
      const { code, ms } = await stop(service);
      assert.equal(code, 0);
      assert.ok(ms < PROMPT_MS, `the stop took ${ms} ms`);
      for (const client of clients) {
        await client.ended;
        const { responses, isComplete } = split(client.received);
        assert.ok(isComplete);
        assert.match(responses[0].body, /event: bye/);
      }
      assert.doesNotMatch(service.stderr, /warning/i);
      assert.equal(entries(service.stdout).filter(({ path }) => path === "/events").length, 30);
    });
  });

  test("open WebSockets are closed with 1001, and hold up nothing", async () => {
    await inService({}, async (service) => {
      const sockets = Array.from(
        { length: 3 },
        () => new WebSocket(`ws://127.0.0.1:${service.port}/ws`),
      );
      for (const socket of sockets) {
        if (socket.readyState !== WebSocket.OPEN) await once(socket, "open");
      }
      const closes = sockets.map((socket) => once(socket, "close"));
      const { code, ms } = await stop(service);
      assert.equal(code, 0);
      assert.ok(ms < PROMPT_MS, `the stop took ${ms} ms`);
      for (const close of closes) assert.equal((await close)[0], 1001);
      assert.match(service.stdout, /^Draining, requests in flight: 0$/m);
      assert.equal(service.stderr.replace(/^No SQLite.*\n/, ""), "");
      assert.equal(
        entries(service.stdout).filter(({ path, status }) => path === "/ws" && status === 101)
          .length,
        3,
      );
    });
  });

  for (const end of ["a stop", "a second signal", "a SIGKILL"]) {
    test(`every row that was acknowledged is there after ${end}`, { skip: noRows }, async () => {
      const data = { SERVICE_DATA: newData() };
      const acknowledged: string[] = [];
      await inService(
        { ...data, DRAIN_DELAY_MS: end === "a second signal" ? "60000" : "0" },
        async (service) => {
          let isOver = false;
          const write = async (writer: number) => {
            for (let count = 0; !isOver; count++) {
              const name = `${writer}-${count}`;
              const { status } = await postItem(service.port, name).catch(() => ({ status: 0 }));
              if (status === 201) acknowledged.push(name);
              else isOver = true;
            }
          };
          const writers = [write(1), write(2), write(3)];
          while (acknowledged.length < 30) await sleep(10);
          if (end === "a second signal") {
            await drain(service);
            await sleep(600);
          }
          assert.equal(
            (await stop(service, end === "a SIGKILL" ? "SIGKILL" : "SIGTERM")).code,
            {
              "a stop": 0,
              "a second signal": 1,
              "a SIGKILL": null,
            }[end],
          );
          isOver = true;
          await Promise.all(writers);
        },
      );
      await inService(data, async (service) => {
        const names = new Set(
          JSON.parse((await ask(service.port, get("/items"))).body).map((item: { name: string }) =>
            item.name
          ),
        );
        assert.deepEqual(acknowledged.filter((name) => !names.has(name)), []);
      });
    });
  }
}

// ── What a service can do wrong ──

function survivesWhatIsWrong(runtime: Runtime, isNode: boolean) {
  const inWrong = (env: Env, body: (service: Service) => Promise<void>) =>
    withService({ UPSTREAM_PORT: upstreamPort(), ...env }, body, { runtime, file: wrongFile });
  const startWrong = (env: Env) =>
    launch([...runtime.options, wrongFile], { HOST: "127.0.0.1", PORT: "0", ...env }, { runtime });

  // ── What goes wrong in a route ──

  /** What must be answered with a 500 in JSON: nothing of it can have left. */
  const refused = [
    "/string",
    "/object",
    "/async-object",
    "/like-a-response",

    "/network-error",
    "/throws",
    "/rejects",
  ];
  /** What may be that, or cut. */
  const broken = [
    "/bad-chunk",
    "/bad-late-chunk",
    "/bad-status",
    "/bad-header",
    "/bad-header-stream",
    "/at-once",
    "/first-pull",
    "/late",
    "/late-length",
    "/used",
    "/used-stream",
    "/locked",
  ]
    .concat(["/locked-stream", "/hono-at-once", "/hono-late", "/proxied"]);

  /**
   * Deno ends the connection of HTTP/1.0 as it ends a complete response. It answers a locked stream with a 500 of its
   * own, and a text whose stream is locked with the text.
   */
  const isBeyondUs = (path: string, version: string) =>
    !isNode && (version === "1.0" || path.startsWith("/locked"));

  for (const when of ["", " while draining"]) {
    test(`a route that fails, or answers with what is no response, gets no complete answer but a 500${when}`, async (t) => {
      await inWrong({ DRAIN_DELAY_MS: "60000" }, async (service) => {
        if (when) await drain(service);
        const paths = [...refused, ...broken];
        const check = async (path: string, version: string, { received, isReset }: Talk) => {
          assert.doesNotMatch(received, /SECRET/);
          const { responses, isComplete } = split(received, isReset);
          if (refused.includes(path)) assert.ok(isComplete, "it was cut");
          if (isComplete && !isBeyondUs(path, version)) {
            const [{ status, body }] = responses;
            assert.deepEqual([status, body], [500, '{"error":"Internal Server Error"}']);
          }
          if (isNode || refused.includes(path)) {
            // One line tells of the request: on standard error, with what failed.
            const line = await until(
              service,
              () => entries(service.stderr).find((entry) => entry.path === path),
            );
            assert.equal(line.incomplete, isComplete ? undefined : true);
            assert.ok(line.error, "the line has no error");
            assert.deepEqual(entries(service.stdout).filter((entry) => entry.path === path), []);
            if (isNode) assertOnlyEntries(service.stderr);
          } else {
            // The runtime tells of the failure by itself, and not whether the response arrived.
            if (path !== "/proxied" && !path.startsWith("/locked")) {
              await until(service, () => service.stderr !== "");
            }
            await until(
              service,
              () => entries(service.stdout + service.stderr).find((entry) => entry.path === path),
            );
          }
        };
        for (const path of paths) {
          await t.test(`${path} over HTTP/1.1`, async () => {
            service.stderr = "";
            await check(path, "1.1", await talk(service.port, get(path)));
          });
        }
        service.stderr = "";
        const talks = await talkByDeno(service.port, paths.map((path) => get(path, "1.0")));
        for (const [at, path] of paths.entries()) {
          await t.test(`${path} over HTTP/1.0`, () => check(path, "1.0", talks[at]));
        }
        for (const version of ["1.1", "1.0"]) {
          const { status, head, body } = await ask(service.port, get("/whole", version));
          assert.deepEqual([status, body], [203, "a chunk\n".repeat(3)]);
          assert.match(head, /^x-own: yes\r$/im);
        }
      });
    });
  }

  // ── Readiness ──

  test("what ready() says is what /readyz answers, within a second, and the log tells of a change once", async () => {
    await inWrong({}, async (service) => {
      const { port } = service;
      const startMs = performance.now();
      const probe = async () => {
        const { status, body } = await ask(port, get("/readyz"));
        return `${status} ${body}`;
      };
      const turns = async (mode: string, answer: string) => {
        await ask(port, get(`/mode/${mode}`));
        const startMs = performance.now();
        while (await probe() !== answer) {
          assert.ok(performance.now() - startMs < 2600, `${mode} is still not ${answer}`);
          await sleep(50);
        }
        await Promise.all([probe(), probe(), probe()]);
      };
      const [unready, ready] = ['503 {"status":"unready"}', '200 {"status":"ready"}'];
      assert.equal(await probe(), ready);
      for (const mode of ["false", "throws", "rejects", "hangs"]) {
        await turns(mode, unready);
        assert.equal((await ask(port, get("/healthz"))).status, 200);
        await turns("fine", ready);
      }
      assert.deepEqual(entries(service.stderr).map(({ status, error }) => [status, error]), [
        ["unready", "ready() returned false"],
        ["unready", "Error: SECRET of readiness"],
        ["unready", "Error: SECRET of readiness"],
        ["unready", "Error: ready() took more than 1000 ms"],
      ]);
      assert.equal(entries(service.stdout).filter(({ status }) => status === "ready").length, 4);
      const asked = service.stdout.match(/^asked$/gm)!.length;
      assert.ok(asked <= (performance.now() - startMs) / 1000 + 1, `asked ${asked} times`);
      assert.deepEqual(entries(service.stdout).filter(({ path }) => path === "/readyz"), []);
    });
  });

  test("probes in between share what ready() says, and the one that asks waits for at most a second", async () => {
    await inWrong({}, async ({ port }) => {
      await ask(port, get("/mode/hangs"));
      const startMs = performance.now();
      const answers = await Promise.all(Array.from({ length: 5 }, () => ask(port, get("/readyz"))));
      assert.ok(performance.now() - startMs < 1300);
      assert.deepEqual(answers.map(({ status }) => status), [503, 503, 503, 503, 503]);
    });
  });

  // ── The stop ──

  test("an idle connection gets one more answer while requests are in flight, then all are closed", async () => {
    await inWrong({}, async (service) => {
      const idle = [
        new Client(service.port),
        new Client(service.port).get("/"),
        new Client(service.port).get("/"),
      ];
      for (const client of idle.slice(1)) await client.until(/ok$/);
      const slow = new Client(service.port).get("/slow/1500");
      await until(service, () => /^ran$/m.exec(service.stdout));
      await drain(service);
      if (isNode) {
        idle[2].received = "";
        assert.match(await idle[2].get("/").until(/ok$/), /^connection: close\r$/im);
      }
      for (const client of idle) await client.ended;
      await slow.ended;
      assert.match(slow.received, /whole$/);
      assert.equal(await service.exit, 0);
    });
  });

  test("a connection whose slow client takes 20 MB through a stop gets all of it", async () => {
    await inWrong({}, async (service) => {
      const client = new Client(service.port);
      let size = 0;
      client.socket.removeAllListeners("data").on("data", (chunk) => size += chunk.length);
      client.get("/large");
      await once(client.socket, "data");
      client.socket.pause();
      await drain(service);
      for (let count = 0; count < 20; count++) {
        await sleep(20);
        client.socket.read(500_000);
      }
      assert.equal(service.child.exitCode, null);
      client.socket.resume();
      await client.ended;
      assert.ok(size > 20_000_000, `${size} bytes`);
      assert.equal(await service.exit, 0);
    });
  });

  test("a redirect while draining goes out whole, and says that its connection is closed", async () => {
    await inWrong({ DRAIN_DELAY_MS: "60000" }, async (service) => {
      await drain(service);
      const client = new Client(service.port).get("/elsewhere");
      await client.until(/\r\n\r\n/);
      const { responses: [{ status, head }], isComplete } = split(client.received);
      assert.ok(isComplete);
      assert.equal(status, 302);
      assert.match(head, /^location: http:\/\/example.test\/\r$/im);
      assert.match(head, /^connection: close\r$/im);
    });
  });

  test("30 routes may listen on `stopping`, which a route that starts later finds aborted", async () => {
    await inWrong({}, async (service) => {
      const clients = Array.from({ length: 30 }, () => new Client(service.port).get("/listen"));
      await ask(service.port, get("/"));
      const { code, ms } = await stop(service);
      assert.equal(code, 0);
      assert.ok(ms < PROMPT_MS);
      for (const client of clients) {
        await client.ended;
        assert.match(client.received, /stopping$/);
      }
      assert.equal(service.stderr, "");
    });
  });

  // ── close() ──

  test("close() runs after the drain, and has a second though less is left of the deadline", async () => {
    await inWrong({ WRONG: "slow close", SHUTDOWN_TIMEOUT_MS: "100" }, async (service) => {
      assert.equal((await stop(service)).code, 0);
      assert.match(service.stdout, /^Draining.*\nclosing\nclosed\n$/m);
      assert.equal(service.stderr, "");
    });
  });

  test("close() runs after a drain that was cut", async () => {
    await inWrong({ SHUTDOWN_TIMEOUT_MS: "200" }, async (service) => {
      new Client(service.port).get("/slow/60000");
      await until(service, () => /^ran$/m.exec(service.stdout));
      assert.equal((await stop(service)).code, 1);
      assert.match(service.stdout, /^closing\nclosed$/m);
      assert.equal(service.stderr, "Cut after 200 ms, requests in flight: 1\n");
    });
  });

  test("close() does not run on a second signal", async () => {
    await inWrong({}, async (service) => {
      new Client(service.port).get("/slow/60000");
      await until(service, () => /^ran$/m.exec(service.stdout));
      await drain(service);
      await sleep(600);
      assert.equal((await stop(service, "SIGINT")).code, 1);
      assert.doesNotMatch(service.stdout, /clos/);
      assert.equal(service.stderr, "Cut by a second signal, requests in flight: 1\n");
    });
  });

  test("close() that fails, or takes more than what is left, is logged in a line, and the exit code is 1", async () => {
    await inWrong({ WRONG: "close" }, async (service) => {
      assert.equal((await stop(service)).code, 1);
      assertOnlyEntries(service.stderr);
      const [{ during, error, stack }, ...more] = entries(service.stderr);
      assert.deepEqual([during, error, more], ["close()", "Error: SECRET of the end", []]);
      assert.match(`${stack}`, /main\.ts:\d+/);
    });
    await inWrong({ WRONG: "late close", SHUTDOWN_TIMEOUT_MS: "1500" }, async (service) => {
      const { code, ms } = await stop(service);
      assert.equal(code, 1);
      assert.ok(ms >= 1400 && ms < 2500, `${ms} ms`);
      assertOnlyEntries(service.stderr);
      assert.match(
        `${entries(service.stderr)[0].error}`,
        /^Error: close\(\) took more than 1[45]\d\d ms$/,
      );
    });
  });

  // ── The start ──

  test("a start that fails exits 1 with one line that says what and where", async () => {
    const program = startWrong({ WRONG: "start" });
    assert.equal(await program.exit, 1);
    assert.equal(program.stdout, "");
    assertOnlyEntries(program.stderr);
    const [{ error, stack }, ...more] = entries(program.stderr);
    assert.deepEqual([error, more], ["Error: SECRET of the start", []]);
    assert.match(`${stack}`, /main\.ts:\d+/);
  });
}
