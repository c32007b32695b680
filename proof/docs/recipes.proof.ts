/**
 * Holds docs/recipes.md: puts its blocks, as they stand, into copies of the template, runs what an owner runs there
 * (`npm test`, `npm run check`), and asks for what each recipe promises on every runtime and in both images.
 */
import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createServer, request } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { dirname } from "node:path";
import process from "node:process";
import { after, before, test } from "node:test";
import { promisify } from "node:util";
import { gzipSync } from "node:zlib";
import { WebSocket } from "ws";
import {
  docker,
  health,
  inspect,
  skip as noEngine,
  TARGETS,
  until as eventually,
} from "../support/engine.ts";
import {
  allRuntimes,
  Client,
  denoPath,
  type Env,
  freePort,
  launch,
  missing,
  ROOT,
  type Runtime,
  type Service,
  TEST_TIMEOUT_MS,
  until,
  withService,
} from "../support/harness.ts";

const LINES_MAX = 25;
const TIMEOUT_MS = 120_000;
/** A stop of a service with endless streams takes milliseconds; this machine may be busy. */
const STOP_MAX_MS = 3_000;
const NAME = `heartbeat-recipes-${process.pid}`;
const FOLDER = mkdtempSync(`${tmpdir()}/heartbeat-recipes-`);
const NODE_26 = process.env.BENCH_NODE;

// ── The document ──

interface Block {
  recipe: string;
  language: string;
  code: string;
}

const DOCUMENT = readFileSync(`${ROOT}/docs/recipes.md`, "utf8");
const blocks: Block[] = DOCUMENT.split(/^## /m).slice(1).flatMap((section) =>
  [...section.matchAll(/^```(\w+)\n(.*?)^```$/gms)].map(([, language, code]) => ({
    recipe: section.split("\n")[0],
    language,
    code,
  }))
);
const used = new Set<Block>();

/** The blocks of a recipe in a language; there is at least one. */
function blocksOf(recipe: string, language: string): string[] {
  const found = blocks.filter((block) => block.recipe === recipe && block.language === language);
  assert.notEqual(found.length, 0, `${recipe}: ${language}`);
  for (const block of found) used.add(block);
  return found.map(({ code }) => code);
}

test("no example is longer than 25 lines", () => {
  for (const { recipe, code } of blocks) {
    assert.ok(code.trimEnd().split("\n").length <= LINES_MAX, recipe);
  }
});

// ── Copies of the template with recipes in them ──

/** Runs shell commands in a folder, of which none may fail. */
async function shell(
  cwd: string,
  commands: string,
  more: Env = {},
  node = process.execPath,
): Promise<string> {
  const env: NodeJS.ProcessEnv = {
    ...process.env,
    PATH: `${dirname(node)}:${process.env.PATH}`,
    ...more,
  };
  delete env.NODE_TEST_CONTEXT; // with it Node.js runs no test inside a test
  const options = { cwd, env, maxBuffer: 1 << 26, timeout: TIMEOUT_MS };
  const run = promisify(execFile)("bash", ["-euo", "pipefail", "-c", commands], options);
  const { stdout, stderr } = await run.catch((error) =>
    assert.fail(`${commands}\n${error.stdout}${error.stderr}`)
  );
  return stdout + stderr;
}

/** Replaces a text in a file, which must be there. */
function edit(path: string, from: string | RegExp, to: string) {
  const text = readFileSync(path, "utf8");
  assert.notEqual(text.search(from), -1, `${from} in ${path}`);
  writeFileSync(path, text.replace(from, () => to));
}

/** Adds what a permission allows to the lists of deno.json, and of the ENTRYPOINT. */
function permit(copy: string, line: string) {
  const [, name, list] = /^"(\w+)": \[(.*)\],$/.exec(line) ?? [];
  const [, option, values] = /^"(--allow-\w+)=(.*)",$/.exec(line) ?? [];
  const [path, pattern, separator, added, format]: [
    string,
    RegExp,
    string,
    string,
    (items: string) => string,
  ] = name
    ? [
      `${copy}/deno.json`,
      new RegExp(`"${name}": \\[(.*)\\]`),
      ", ",
      list,
      (items) => `"${name}": [${items}]`,
    ]
    : [
      `${copy}/Dockerfile`,
      new RegExp(`"${option}=(.*?)"`),
      ",",
      values,
      (items) => `"${option}=${items}"`,
    ];
  const [, present] = pattern.exec(readFileSync(path, "utf8")) ?? [];
  if (present !== undefined) {
    edit(
      path,
      pattern,
      format(
        [...new Set([...present.split(separator), ...added.split(separator)])].join(separator),
      ),
    );
  } else if (name) edit(path, /"read": /, `${format(added)},\n      "read": `);
  else edit(path, /"--allow-read=/, `${format(added)}, "--allow-read=`);
}

/** Inserts a text behind another, which must be there. */
function insert(path: string, behind: RegExp, text: string) {
  const [found] = behind.exec(readFileSync(path, "utf8")) ?? assert.fail(`${behind} in ${path}`);
  edit(path, behind, found + text);
}

/** Puts the blocks of a recipe where they say that they go. */
async function add(copy: string, recipe: string) {
  for (const block of blocks.filter((block) => block.recipe === recipe)) {
    const { language, code } = block;
    const [heading, file] = /^\/\/ (\S+\.ts)\n/.exec(code) ?? [];
    if (language === "sh") await shell(copy, code);
    else if (language === "jsonc") code.match(/^".*/gm)!.forEach((line) => permit(copy, line));
    else if (language !== "ts") continue;
    else if (heading && existsSync(`${copy}/${file}`)) {
      insert(
        `${copy}/${file}`,
        /^\/\/ A variable that your service needs.*\n/m,
        code.slice(heading.length),
      );
    } else if (file) {
      mkdirSync(dirname(`${copy}/${file}`), { recursive: true });
      writeFileSync(`${copy}/${file}`, code);
    } else {
      // Hooks are returned after every route, the placeholder's included.
      const routes = code.replace(/^(?=.)/gm, "  ");
      if (/^ *return \{/m.test(code)) insert(`${copy}/main.ts`, /"It works.*\n/, `\n${routes}`);
      else edit(`${copy}/main.ts`, /^ {2}app\.get\("\/",/m, `${routes}\n  app.get("/",`);
    }
    used.add(block);
  }
}

/** What an owner starts from. */
const archive = `${FOLDER}/archive.tar`;
before(() =>
  shell(ROOT, `git add --all && git archive --output="${archive}" "$(git write-tree)"`, {
    GIT_INDEX_FILE: `${FOLDER}/index`,
  })
);
after(() => rmSync(FOLDER, { recursive: true, force: true }));

async function makeCopy(name: string, recipes: string[]): Promise<string> {
  const copy = `${FOLDER}/${name}`;
  mkdirSync(copy);
  await shell(copy, `tar -xf "${archive}" && npm install --silent`);
  for (const recipe of recipes) await add(copy, recipe);
  return copy;
}

const RUNTIMES = allRuntimes();

/** Starts main.ts of a copy. */
const serve = (
  copy: string,
  runtime: Runtime,
  env: Env,
  body: (service: Service) => Promise<void>,
) => withService(env, body, { runtime, before: `cd "${copy}"` });

/** Starts main.ts of a copy, which fails, and returns what it said. */
async function failToStart(copy: string, runtime: Runtime): Promise<string> {
  const program = launch([...runtime.options, "main.ts"], { PORT: "0" }, {
    runtime,
    before: `cd "${copy}"`,
  });
  const timer = setTimeout(() => program.kill("SIGKILL"), TEST_TIMEOUT_MS);
  assert.equal(await program.exit, 1, program.stdout);
  clearTimeout(timer);
  return program.stderr;
}

const url = ({ port }: { port: number }, path: string) => `http://127.0.0.1:${port}${path}`;

async function assertAnswer(
  address: string,
  init: RequestInit,
  status: number,
  text: string | RegExp,
) {
  const response = await fetch(address, init);
  const body = await response.text();
  assert.equal(response.status, status, `${address}: ${body}`);
  if (typeof text === "string") assert.equal(body, text, address);
  else assert.match(body, text, address);
  return response;
}

/** Stops a service, which exits with 0, and returns how long that took. */
async function stop(service: Service): Promise<number> {
  const startMs = performance.now();
  service.kill("SIGTERM");
  assert.equal(await service.exit, 0, service.stdout + service.stderr);
  return performance.now() - startMs;
}

/** Runs what an owner runs before a push. */
const assertGreen = (copy: string, node?: string) =>
  shell(copy, "npm run check && npm test", {}, node);

/** The service's line of the log for a path. */
const lineOf = (service: Service, path: string) =>
  until(service, () => service.stdout.split("\n").find((line) => line.includes(`"path":"${path}"`)))
    .then((line) => JSON.parse(line) as Record<string, unknown>);

// ── Routes ──

const ROUTES = [
  "The client's address behind a proxy",
  "A request id and the user in the log",
  "A package",
  "A second file",
  "A variable",
  "A proxied upstream",
  "An event stream",
  "A WebSocket",
];
let routes = "";
test("recipes of routes leave the gate green", async () => {
  routes = await makeCopy("routes", ROUTES);
  await assertGreen(routes);
});

test("on a machine that has Deno alone, a package leaves the gate green", async () => {
  const copy = `${FOLDER}/deno-alone`;
  mkdirSync(copy);
  await shell(copy, `tar -xf "${archive}"`);
  const [install, routes] = [...blocksOf("A package", "sh"), ...blocksOf("A package", "ts")];
  const [, command] = /: (deno add .+)\n/.exec(install) ?? assert.fail(install);
  edit(
    `${copy}/main.ts`,
    /^ {2}app\.get\("\/",/m,
    `${routes.replace(/^(?=.)/gm, "  ")}\n  app.get("/",`,
  );
  await shell(copy, `${command} && deno task check && deno task test`, {
    PATH: `${dirname(denoPath())}:/usr/bin:/bin`,
  });
});

/** Asks from an address of this machine. */
function ask(
  port: number,
  path: string,
  localAddress: string,
  headers: Record<string, string>,
): Promise<number> {
  return new Promise((resolve, reject) =>
    request({ host: "127.0.0.1", port, path, localAddress, headers }, (response) => {
      response.resume().on("end", () => resolve(response.statusCode!));
    }).on("error", reject).end()
  );
}

/** An upstream with a compressed answer, an echo and an endless stream; counts its open streams. */
async function withUpstream(body: (address: string, open: () => number) => Promise<void>) {
  let open = 0;
  const server = createServer(async (incoming, outgoing) => {
    if (incoming.url?.startsWith("/api/text")) {
      outgoing.writeHead(200, { "Content-Encoding": "gzip" }).end(
        gzipSync(`text of ${incoming.url}`),
      );
    } else if (incoming.url === "/api/echo") incoming.pipe(outgoing);
    else {
      open++;
      outgoing.on("close", () => open--);
      outgoing.writeHead(200, { "Content-Type": "text/event-stream" }).write("data: first\n\n");
    }
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  try {
    await body(`http://127.0.0.1:${(server.address() as AddressInfo).port}`, () => open);
  } finally {
    server.closeAllConnections();
    server.close();
  }
}

for (const runtime of RUNTIMES) {
  test(`${runtime.name}: a package, a second file, a required variable`, async () => {
    await serve(routes, runtime, { GREETING: "Good day" }, async (service) => {
      const post = (body: string) => ({ method: "POST", body });
      const link = '{"url":"https://example.com/"}';
      await assertAnswer(url(service, "/links"), post(link), 201, link);
      await assertAnswer(url(service, "/links"), post('{"url":1}'), 400, /"error":"Invalid/);
      await assertAnswer(url(service, "/links"), post("no JSON"), 400, /"error":"Invalid/);
      await assertAnswer(url(service, "/prices/tea"), {}, 200, '{"cents":250}');
      await assertAnswer(url(service, "/prices/gold"), {}, 404, "no such item");
      await assertAnswer(url(service, "/greeting"), {}, 200, "Good day");
      await stop(service);
      assert.equal(service.stderr, "");
    });
    const said = await failToStart(routes, runtime);
    assert.match(said, /^\{.*"error":"Error: GREETING is not set".*\}\n$/);
  });

  test(`${runtime.name}: a request id, the user and the client in the log`, async () => {
    await serve(routes, runtime, { GREETING: "-", PASSWORD: "secret" }, async (service) => {
      const basic = (password: string) => ({ Authorization: `Basic ${btoa(`ada:${password}`)}` });
      const hops = "6.6.6.6, 9.9.9.9,10.0.0.7";
      const headers = { ...basic("secret"), "X-Request-Id": "abc-1", "X-Forwarded-For": hops };
      assert.equal(await ask(service.port, "/account/orders", "127.0.0.1", headers), 200);
      const { id, user, client, status } = await lineOf(service, "/account/orders");
      assert.deepEqual({ id, user, client, status }, {
        id: "abc-1",
        user: "ada",
        client: "9.9.9.9",
        status: 200,
      });
      assert.equal(
        await ask(service.port, "/account/none", "127.0.0.2", { ...headers, ...basic("wrong") }),
        401,
      );
      const refused = await lineOf(service, "/account/none");
      assert.deepEqual([refused.client, refused.user], ["127.0.0.2", undefined]);
      const { headers: answered } = await assertAnswer(url(service, "/greeting"), {}, 200, "-");
      const plain = await lineOf(service, "/greeting");
      assert.deepEqual([plain.id, plain.client], [answered.get("X-Request-Id"), "127.0.0.1"]);
      await stop(service);
    });
  });

  test(`${runtime.name}: event streams and WebSockets end with the service`, async () => {
    await serve(routes, runtime, { GREETING: "-" }, async (service) => {
      const events = new Client(service.port).get("/events");
      await events.until(/(data: \d+\s+){1}.*(data: \d+\s+){1}/s);
      const socket = new WebSocket(`ws://127.0.0.1:${service.port}/echo`);
      await once(socket, "open");
      socket.send("hello");
      const [message] = await once(socket, "message");
      assert.equal(`${message}`, "echo: hello");
      const closed = once(socket, "close");
      const ms = await stop(service);
      assert.ok(ms < STOP_MAX_MS, `${ms} ms`);
      assert.equal((await closed)[0], 1001);
      await events.ended;
      assert.match(events.received, /\r\n0\r\n\r\n$/);
      assert.equal(service.stderr, "");
    });
  });

  test(`${runtime.name}: a proxied upstream ends with its client and with the service`, async () => {
    await withUpstream((UPSTREAM, open) =>
      serve(routes, runtime, { GREETING: "-", UPSTREAM }, async (service) => {
        const text = "text of /api/text?a=1";
        const { headers } = await assertAnswer(url(service, "/api/text?a=1"), {}, 200, text);
        assert.equal(headers.get("Content-Encoding"), null);
        await assertAnswer(
          url(service, "/api/echo"),
          { method: "POST", body: "a body" },
          200,
          "a body",
        );
        const leaving = new Client(service.port).get("/api/events");
        await leaving.until(/data: first/);
        assert.equal(open(), 1);
        leaving.socket.destroy();
        await eventually(async () => open() === 0, "end of the upstream's stream", STOP_MAX_MS);
        const staying = new Client(service.port).get("/api/events");
        await staying.until(/data: first/);
        const startMs = performance.now();
        service.kill("SIGTERM");
        assert.equal(await service.exit, 0, service.stderr);
        assert.ok(performance.now() - startMs < STOP_MAX_MS);
        await staying.ended;
        await eventually(async () => open() === 0, "end of the upstream's stream", STOP_MAX_MS);
      })
    );
  });
}

// ── Middleware ──

const MIDDLEWARE = [
  "CORS, security headers, limits, compression, auth",
  "Metrics for Prometheus",
  "A background loop",
];
const hasPromtool = await promisify(execFile)("promtool", ["--version"]).then(
  () => true,
  () => false,
);
let middleware = "";
test("recipes of middleware leave the gate green", async () => {
  middleware = await makeCopy("middleware", MIDDLEWARE);
  await assertGreen(middleware);
});

for (const runtime of RUNTIMES) {
  test(`${runtime.name}: CORS, security headers, limits, compression, auth`, async () => {
    await serve(middleware, runtime, { TOKEN: "right" }, async (service) => {
      const address = url(service, "/orders/new");
      const order = (token: string, body: string) => ({
        method: "POST",
        body,
        headers: {
          Authorization: `Bearer ${token}`,
          Origin: "https://shop.example.com",
          "Accept-Encoding": "gzip",
        },
      });
      const long = JSON.stringify("a".repeat(5000));
      const { headers } = await assertAnswer(address, order("right", long), 201, long);
      assert.equal(headers.get("Access-Control-Allow-Origin"), "https://shop.example.com");
      assert.equal(headers.get("X-Content-Type-Options"), "nosniff");
      assert.equal(headers.get("Content-Encoding"), "gzip");
      await assertAnswer(address, order("wrong", "1"), 401, "Unauthorized");
      const slow = await assertAnswer(
        url(service, "/orders/slow"),
        { headers: order("right", "").headers },
        504,
        /^Gateway/,
      );
      assert.equal(slow.headers.get("Access-Control-Allow-Origin"), "https://shop.example.com");
      // Last, because the adapter of Node.js closes this connection half a second later, whatever is on it (to be reported).
      await assertAnswer(
        address,
        order("right", JSON.stringify("a".repeat(200_000))),
        413,
        "Payload Too Large",
      );
      await stop(service);
    });
  });

  test(`${runtime.name}: metrics that promtool accepts, and a loop that ends`, {
    skip: !hasPromtool &&
      missing("no promtool (Debian: prometheus), so the metrics were not checked"),
  }, async () => {
    await serve(middleware, runtime, { TOKEN: "right" }, async (service) => {
      await until(service, () => /^swept$/m.exec(service.stdout));
      await assertAnswer(url(service, "/healthz"), {}, 200, "");
      await assertAnswer(url(service, "/"), {}, 200, /It works/);
      await assertAnswer(url(service, "/orders/none"), {}, 401, "Unauthorized");
      const metrics = await (await fetch(url(service, "/metrics"))).text();
      assert.match(metrics, /^http_requests_total\{.*route="\/",status="200".*\} 1$/m);
      assert.doesNotMatch(metrics, /healthz/);
      const promtool = spawn("promtool", ["check", "metrics"], {
        stdio: ["pipe", "inherit", "inherit"],
      });
      promtool.stdin.end(metrics);
      assert.deepEqual(await once(promtool, "exit"), [0, null]);
      const ms = await stop(service);
      assert.ok(ms < STOP_MAX_MS, `${ms} ms`);
    });
  });
}

// ── Files, addresses and variables: what Deno has to permit ──

const FILES = [
  "A secret from a file",
  "An address that you call",
  "Files and a volume",
  "Static files",
];
let files = "";
let withDatabase = "";
test("recipes of files leave the gate green", async () => {
  files = await makeCopy("files", FILES);
  mkdirSync(`${files}/static`);
  writeFileSync(`${files}/static/rates.json`, '{ "EUR": 1 }\n');
  writeFileSync(`${files}/static/made.js`, "var  made=1");
  edit(`${files}/deno.json`, /"exclude": \["proof"\]/, '"exclude": ["proof", "static"]');
  withDatabase = `${FOLDER}/database`;
  cpSync(files, withDatabase, { recursive: true, verbatimSymlinks: true });
  await add(withDatabase, "A database");
  if (NODE_26) await assertGreen(withDatabase, NODE_26);
  else missing("BENCH_NODE names no Node.js with SQLite, so the gate was not run with a database");
  assert.ok(!existsSync(`${withDatabase}/data/notes.db`), "the tests touched the real database");
});

const bearer = (token: string) => ({ headers: { Authorization: `Bearer ${token}` } });

/** Asks for all that these recipes promise; on Node.js 20 there is no database. */
async function assertFiles(port: number, isFirst: boolean, hasDatabase: boolean) {
  const at = { port };
  await assertAnswer(url(at, "/admin/hello"), bearer("secret"), 200, "hello");
  await assertAnswer(url(at, "/admin/hello"), bearer("other"), 401, "Unauthorized");
  await assertAnswer(url(at, "/rates"), {}, 200, '{"EUR":1}');
  await assertAnswer(url(at, "/static/rates.json"), {}, 200, '{ "EUR": 1 }\n');
  await assertAnswer(url(at, "/static/none.json"), {}, 404, /Not Found/);
  if (isFirst) {
    await assertAnswer(url(at, "/pages/one"), {}, 404, /Not Found/);
    await assertAnswer(url(at, "/pages/one"), { method: "PUT", body: "page one" }, 204, "");
    if (hasDatabase) {
      await assertAnswer(url(at, "/notes"), { method: "POST", body: "a note" }, 201, '{"id":1}');
    }
  }
  await assertAnswer(url(at, "/pages/one"), {}, 200, "page one");
  if (hasDatabase) await assertAnswer(url(at, "/notes"), {}, 200, '[{"id":1,"text":"a note"}]');
}

for (const runtime of RUNTIMES) {
  test(`${runtime.name}: a secret, an address, files, static files, a database`, async (t) => {
    const hasDatabase = runtime.name !== "tsx";
    if (!hasDatabase) t.diagnostic("SKIPPED: the database, because Node.js 20 has no node:sqlite");
    const copy = hasDatabase ? withDatabase : files;
    const port = await freePort();
    const env = {
      API_KEY: "secret",
      PORT: `${port}`,
      RATES_URL: `http://127.0.0.1:${port}/static`,
    };
    for (const isFirst of [true, false]) {
      await serve(copy, runtime, env, async (service) => {
        await assertFiles(port, isFirst, hasDatabase);
        await stop(service);
        assert.equal(service.stderr, "");
      });
    }
    await shell(copy, "rm data/*");

    assert.match(
      await failToStart(copy, runtime),
      /ENOENT|No such file/,
      "Deno may read /run/secrets",
    );
  });
}

test("Deno: the address of the recipe is one that it may call", async () => {
  const runtime = RUNTIMES.at(-1)!;
  await serve(
    withDatabase,
    runtime,
    { API_KEY: "secret", DATABASE: ":memory:" },
    async (service) => {
      await (await fetch(url(service, "/rates"))).text();
      assert.doesNotMatch(service.stderr, /NotCapable/, "a failed lookup is all that may happen");
      await stop(service);
    },
  );
});

test("Deno: the log names a missing permission", async () => {
  const { path, name } = RUNTIMES.at(-1)!;
  const options = ["run", "-q", "--no-prompt", "--allow-env", "--allow-net", "--allow-read=data"];
  await serve(files, { path, name, options }, { API_KEY: "secret" }, async (service) => {
    const put = { method: "PUT", body: "a page" };
    await assertAnswer(url(service, "/pages/one"), put, 500, '{"error":"Internal Server Error"}');
    await until(
      service,
      () =>
        /"error":"NotCapable: Requires write access to \\"data\/one\.txt\\"/.exec(service.stderr),
    );
    await stop(service);
  });
});

// ── `.env` ──

test("variables from a file, on each runtime", async () => {
  const [onNode, onDeno] = blocksOf("Variables from a file", "sh");
  writeFileSync(`${routes}/.env`, "GREETING=from the file\nHOST=127.0.0.1\nPORT=0\n");
  const bash: Runtime = { name: "sh", path: "bash", options: [] };
  const PATH = `${dirname(denoPath())}:${dirname(process.execPath)}:${process.env.PATH}`;
  for (const line of [onNode, onDeno]) {
    for (const env of [{}, { GREETING: "from the shell" }] as Env[]) {
      const args = ["-c", `cd "${routes}" && exec ${line}`];
      const program = launch(args, { PATH, ...env }, { runtime: bash });
      try {
        const listening = await until(
          program,
          () => /Listening on (http:\S+).*\n/.exec(program.stdout),
        );
        const expected = "GREETING" in env ? "from the shell" : "from the file";
        await assertAnswer(`${listening[1]}/greeting`, {}, 200, expected);
        program.kill("SIGTERM");
        assert.equal(await program.exit, 0);
      } finally {
        program.kill("SIGKILL");
      }
    }
  }
});

// ── Images ──

/** The proof's own addition to compose.yaml: the second service is the upstream of the first, by the recipe's name. */
const OVERRIDE = `
services:
  app:
    environment: { RATES_URL: "http://api.example.com:8080/static" }
  orders:
    environment: { API_KEY: another, DATABASE: ":memory:" }
    networks: { default: { aliases: [api.example.com] } }
`;

for (const target of TARGETS) {
  test(`${target}: an image under Compose, with a secret, a volume and an address`, {
    skip: noEngine,
  }, async () => {
    const tag = `${NAME}:${target}`;
    const project = `${NAME}-${target}`;
    const compose = async (overrides: string[], ...args: string[]) => {
      const names = ["compose.yaml", ...overrides].flatMap((
        file,
      ) => ["--file", `${withDatabase}/${file}`]);
      const env = { IMAGE: tag, ORDERS_IMAGE: tag, PUBLISHED_PORT: "127.0.0.1:0" };
      return await docker(["compose", "--project-name", project, ...names, ...args], env);
    };
    const [secret] = blocksOf("A secret from a file", "yaml");
    const [waiting] = blocksOf("Waiting for another service", "yaml");
    writeFileSync(`${FOLDER}/api_key`, "secret\n", { mode: 0o644 });
    for (const [name, text] of Object.entries({ secret, waiting, override: OVERRIDE })) {
      writeFileSync(`${withDatabase}/${name}.yaml`, text);
    }
    await docker(["build", "--quiet", "--tag", tag, "--target", target, withDatabase]);
    const running = ["secret.yaml", "waiting.yaml", "override.yaml"];
    try {
      await compose(running, "up", "--wait", "--no-build");
      const [app, orders] = await Promise.all(
        ["app", "orders"].map((name) => compose(running, "ps", "--quiet", name)),
      );
      const healthyAt = (await inspect(app)).Health.Log.find(({ ExitCode }) => ExitCode === 0)!.End;
      assert.ok(Date.parse((await inspect(orders)).StartedAt) > Date.parse(healthyAt), "it waited");
      const port = async () =>
        Number((await docker(["port", app, "8080/tcp"])).split("\n")[0].split(":").at(-1));
      await assertFiles(await port(), true, true);
      await docker(["restart", app]);
      await health(app, "healthy");
      await assertFiles(await port(), false, true);
      await lookInside(app, target);
      await readEnvFile(tag);
    } finally {
      await compose(running, "down", "--volumes", "--timeout", "5");
      await docker(["image", "rm", "--force", tag]);
    }
  });
}

/** Runs an image with variables from a file, of which Docker takes the quotes literally. */
async function readEnvFile(tag: string) {
  const folder = mkdtempSync(`${FOLDER}/env-`);
  writeFileSync(`${folder}/.env`, 'API_KEY=secret\nDATABASE=:memory:\nQUOTED="a"\n');
  const [, , line] = blocksOf("Variables from a file", "sh");
  const published = line.replace("8080:8080 shop", `127.0.0.1::8080 --detach ${tag}`);
  assert.notEqual(published, line);
  const container = (await shell(folder, published)).trim();
  try {
    await health(container, "healthy");
    const port = Number((await docker(["port", container, "8080/tcp"])).split(":").at(-1));
    await assertAnswer(url({ port }, "/admin/hello"), bearer("secret"), 200, "hello");
    assert.match(
      await docker(["inspect", "--format", "{{json .Config.Env}}", container]),
      /"QUOTED=\\"a\\""/,
    );
  } finally {
    await docker(["rm", "--force", container]);
  }
}

/** Runs the commands that look into a container without a shell. */
async function lookInside(app: string, target: string) {
  const [outside, onDeno, onNode, beside] = blocksOf(
    "Looking into an image that has no shell",
    "sh",
  );
  const folder = mkdtempSync(`${FOLDER}/inside-`);
  const printed = await shell(folder, outside, { app });
  for (const expected of [/^0 healthy: /m, /main\.js/, /MiB/, /^app\/main\.js$/m]) {
    assert.match(printed, expected);
  }
  assert.ok(existsSync(`${folder}/app-files/main.js`));
  assert.match(
    await shell(folder, target === "deno" ? onDeno : onNode, { app }),
    /^Name:\s+tini$/m,
  );
  const [, version] = /NODE_VERSION=(\S+)/.exec(readFileSync(`${ROOT}/Dockerfile`, "utf8"))!;
  // The base of the image is the same Debian; this one has a client in place of curl.
  const asked = beside.replace("-it ", "").replace(
    "debian:trixie-slim",
    `node:${version}-trixie-slim`,
  )
    .replace(
      /bash\s*$/,
      `bash -c 'ls /proc/1/root/app; node -p "fetch(\\"http://127.0.0.1:8080/readyz\\").then((r) => r.text()).then(console.log), 0"'`,
    );
  const seen = await shell(folder, asked, { app });
  assert.match(seen, /main\.js/);
  assert.match(seen, /"status":"ready"/);
}

test("every block of the document was used", { skip: noEngine }, () => {
  const unused = blocks.filter((block) => !used.has(block)).map(({ recipe, code }) =>
    `${recipe}: ${code}`
  );
  assert.deepEqual(unused, []);
});
