/**
 * heartbeat 3.0.0: an HTTP service in one file that serves, proves its own health and stops well.
 *
 *     npx tsx main.ts                         serve on Node.js
 *     deno run -P --no-prompt main.ts         serve on Deno
 *     deno run -P --no-prompt main.ts --ping  ask the running instance for /healthz: exit 0 if it is healthy, 1 if not
 *
 * @module
 */
import type { HttpBindings, WebSocketServerLike } from "@hono/node-server";
import type { Hono } from "hono";
import type { IncomingMessage, Server as HttpServer } from "node:http";

/**
 * Your service: its routes, and what it opens and closes. The server listens once this resolves.
 *
 * @param app Takes the routes: https://hono.dev/docs/api/routing
 * @param tools `stopping` aborts when the drain begins; `log(c, fields)` adds to the request's line in the log
 * @returns Hooks: `ready` for /readyz, `close` for the end, `websocket` for Node.js
 */
export async function addRoutes(app: App, { stopping, log }: Tools): Promise<Hooks | void> {
  // ════════ YOUR ROUTES BEGIN HERE ════════ (import packages by `await import("…")`: --ping then does not load them)

  app.get("/", (c) => c.text("It works: replace this route in main.ts with your own\n"));

  // ════════ YOUR ROUTES END HERE ════════
}

// ── What addRoutes() takes and returns ──

/** The application. `c.env` holds what the runtime gives with a request. */
export type App = Hono<{
  Bindings: Partial<HttpBindings & Deno.ServeHandlerInfo<Deno.NetAddr>>;
  Variables: Record<string, unknown>;
}>;

/** What a service is given. */
export interface Tools {
  /** Aborted when the drain begins: end streams and loops on it. */
  stopping: AbortSignal;
  /** Adds fields to the request's line in the log. A field `error` sends the line to standard error. */
  log(c: { env?: object }, fields: Record<string, unknown>): void;
}

/** What a service may return. */
export interface Hooks {
  /** Called for /readyz, at most once a second. Unready: it returns false, fails or takes longer than a second. */
  ready?(): unknown;
  /** Called after the drain, with the rest of SHUTDOWN_TIMEOUT_MS and at least a second. */
  close?(): unknown;
  /** For Node.js, a WebSocketServer of `ws` with `noServer: true`: https://hono.dev/docs/helpers/websocket */
  websocket?: {
    server: WebSocketServerLike & { clients?: Iterable<{ close(code: number): void }> };
  };
}

// ── The application ──

/** The shortest time between two calls of `ready`, and the longest that one may take. */
const READY_LIMIT_MS = 1000;
const INTERNAL_ERROR = { error: "Internal Server Error" };

/**
 * Builds the application with its health endpoints. Imports Hono here so that `--ping` does not load it.
 *
 * @param isDraining Whether the service was told to stop
 * @param ready Called for /readyz
 * @returns The application, ready to take routes
 */
export async function createApp(
  isDraining: () => boolean,
  ready: Hooks["ready"] = () => true,
): Promise<App> {
  const { Hono } = await import("hono");
  const app: App = new Hono();
  const isReady = shareReady(ready);
  const uncached = { "Cache-Control": "no-store" };
  let healthy: Response | undefined; // made by the first request, because only then is Response the adapter's

  // Registered first: no middleware can break or delay the health endpoints.
  app.get("/healthz", () => healthy ??= new Response(null, { headers: uncached }));
  app.get("/readyz", async (c) => {
    const status = isDraining() ? "draining" : await isReady() ? "ready" : "unready";
    return c.json({ status }, status === "ready" ? 200 : 503, uncached);
  });

  app.notFound((c) => c.json({ error: "Not Found" }, 404));
  app.onError((error, c) => {
    const response = "getResponse" in error ? error.getResponse() : undefined; // an HTTPException
    if (!response || response.status >= 500) noteError(c.env, error);
    // c.newResponse() and c.json() keep the headers that were set before the error.
    return response ? c.newResponse(response.body, response) : c.json(INTERNAL_ERROR, 500);
  });
  return app;
}

/** Calls `ready` at most once in READY_LIMIT_MS, shares its outcome until then, and logs each change of it. */
function shareReady(ready: () => unknown): () => Promise<boolean> {
  let askedMs = -Infinity;
  let isReady = true;
  let outcome = Promise.resolve(true);
  const settle = (value: boolean, reason?: unknown) => {
    if (value && !isReady) print(toLine({ status: "ready" }));
    if (!value && isReady) {
      print(toLine({ status: "unready", ...errorFields(reason) }), runtime.writeError);
    }
    return isReady = value;
  };
  return () => {
    if (performance.now() - askedMs < READY_LIMIT_MS) return outcome;
    askedMs = performance.now();
    return outcome = within(READY_LIMIT_MS, "ready()", ready)
      .then(
        (value) => settle(value !== false, "ready() returned false"),
        (error) => settle(false, error),
      );
  };
}

// ── Requests in flight ──

/** Answers requests and knows how many are in flight. */
export type Handler = ReturnType<typeof createHandler>;

/**
 * Wraps the application: answers whatever its routes do, counts requests in flight, and logs each one when it is over.
 *
 * @param isDraining Whether the service drains; each response then closes its connection
 * @param accessLog Whether every request is logged; if not, only a failed one is. Health never is
 */
export function createHandler(app: App, isDraining: () => boolean, accessLog: boolean) {
  let inFlight = 0;
  let onIdle = () => {};
  return {
    inFlight: () => inFlight,
    /** Resolves once nothing is in flight. */
    idle: () => new Promise<void>((resolve) => inFlight === 0 ? resolve() : onIdle = resolve),
    /**
     * Answers a request. Returns a promise only where the route does, because the adapter of Node.js is faster without.
     *
     * @param env What the runtime gives with the request: a new object for each request
     * @param over Resolves once the response was sent, rejects if the client left
     */
    answer(request: Request, env: object, over: Promise<unknown>): Response | Promise<Response> {
      const startMs = accessLog ? performance.now() : 0;
      const accept = (response: Response): Response => {
        if (!(response instanceof Response && response.status)) {
          throw new TypeError("the route returned no Response");
        }
        // An error answer reads away what its route did not, because an unread body holds or ends its connection.
        const unread = response.status >= 400 && request.method !== "GET" && request.body;
        if (unread && !unread.locked && unread !== response.body) {
          unread.pipeTo(new WritableStream()).catch(() => {});
        }
        return runtime.prepare(response, env, isDraining());
      };
      const fail = (thrown: unknown): Response => {
        noteError(env, thrown);
        return accept(Response.json(INTERNAL_ERROR, { status: 500 }));
      };
      let response: Response | Promise<Response>;
      inFlight++;
      try {
        const returned = app.fetch(request, env);
        response = returned instanceof Promise
          ? returned.then(accept).catch(fail)
          : accept(returned);
      } catch (thrown) {
        response = fail(thrown);
      }
      const end = async (isSent: boolean) => {
        const { status } = response instanceof Promise ? await response : response; // a route may outlive its client
        if (--inFlight === 0) onIdle();
        if (accessLog || notes.has(env)) logRequest(request, env, status, startMs, isSent);
      };
      over.then(() => end(true), () => end(false));
      return response;
    },
  };
}

// ── The log ──

/** Lines of the access log are gathered for this long, because one write costs as much as a request. */
const GATHER_MS = 10;
const ERROR_LIMIT_CHARS = 400;
const STACK_LIMIT_CHARS = 1000;

/** Further fields of a request's line, by its `env`; most requests have none. */
const notes = new WeakMap<object, Record<string, unknown>>();

/** Adds fields to a request's line; does nothing without an `env`, as in `app.request()`. */
const log: Tools["log"] = ({ env }, fields) =>
  env && notes.set(env, Object.assign(notes.get(env) ?? {}, fields));

/** Notes what was thrown; after the client left it makes the request incomplete, not failed. */
const noteError = (env: object, thrown: unknown) =>
  env &&
  log({ env }, runtime.hasClientLeft(env, thrown) ? { incomplete: true } : errorFields(thrown));

/** Logs a request that is over, on standard error if it failed. `startMs` is 0 if the access log is off. */
function logRequest(
  { method, url }: Request,
  env: object,
  status: number,
  startMs: number,
  isSent: boolean,
): void {
  const path = url.replace(/^\w+:\/\/[^/]*|[?#].*/g, ""); // without the query, which may hold secrets
  if (path === "/healthz" || path === "/readyz") return;
  const note = notes.get(env);
  const ms = startMs ? Math.round((performance.now() - startMs) * 1000) / 1000 : undefined;
  const line = toLine({
    method,
    path,
    status,
    ms,
    incomplete: !isSent || note?.incomplete || undefined,
  }, note);
  if (note?.error !== undefined) print(line, runtime.writeError);
  else if (startMs && gathered.push(line) === 1) setTimeout(flush, GATHER_MS);
}

/** Makes a line of the log. `time` is in milliseconds since 1970. More fields replace none of the usual ones. */
function toLine(fields: object, more?: object): string {
  const usual = { time: Date.now(), ...fields };
  try {
    // The usual fields come first to be read first, and again last because they must win. No toJSON, because
    // JSON.stringify() would call it.
    return JSON.stringify(more ? { ...usual, ...more, ...usual, toJSON: undefined } : usual);
  } catch (error) { // a BigInt or a cycle
    return JSON.stringify({ ...usual, unloggable: toText(error) });
  }
}

/** Describes what was thrown, which may be anything, in bounded fields. */
function errorFields(thrown: unknown) {
  const { cause, stack } = thrown instanceof Error ? thrown : {} as Partial<Error>;
  const frames = `${stack}`.match(/^ +at .*$/gm)?.join("\n").slice(0, STACK_LIMIT_CHARS);
  return { error: toText(thrown), cause: cause && toText(cause), stack: frames };
}

/** Returns a bounded text. An object that is no Error may have none: String() can throw for it. */
const toText = (value: unknown) =>
  (value instanceof Error || typeof value !== "object" ? String(value) : "an object").slice(
    0,
    ERROR_LIMIT_CHARS,
  );

const gathered: string[] = [];

/** Prints the gathered lines. */
function flush(): void {
  if (gathered.length > 0) print(gathered.splice(0).join("\n"));
}

/** Prints a text and a line break; ignores a failed write (full disk, closed pipe). */
function print(text: string, write: (text: string) => unknown = runtime.writeOut): void {
  try {
    write(text);
  } catch { /* nobody can be told */ }
}

// ── The server ──

/** The shortest time that `close` gets. */
const CLOSE_MIN_MS = 1000;

/** A listening server. `close` stops accepting, and resolves once nothing is in flight. */
type Listener = { port: number; close(): Promise<unknown> };

/**
 * Serves until a signal, then drains.
 *
 * @returns The exit code: 0 if every request in flight was answered and `close` succeeded, else 1
 * @throws {Error} in one line, if addRoutes() fails or it cannot listen
 */
async function serve(
  { host, port, accessLog, drainDelayMs, shutdownTimeoutMs }: Settings,
): Promise<number> {
  let exitCode = 0;

  // Start.
  let isDraining = false;
  let hooks: Hooks = {};
  const stopping = new AbortController();
  runtime.allowListeners(stopping.signal);
  const app = await createApp(() => isDraining, () => hooks.ready?.());
  const handler = createHandler(app, () => isDraining, accessLog);
  hooks = await addRoutes(app, { stopping: stopping.signal, log }).catch((error) => {
    throw new Error(toLine({ during: "addRoutes()", ...errorFields(error) }));
  }) ?? {};

  // Listen.
  const signal = firstSignal(handler);
  const listener = await runtime.listen(host, port, handler, hooks).catch((error) => {
    throw new Error(`Cannot listen on ${authority(host, port)}: ${errorMessage(error)}`);
  });
  print(`Listening on http://${authority(host, listener.port)}`);

  // Wait for the signal.
  await signal;
  isDraining = true;
  print(`Draining, requests in flight: ${handler.inFlight()}`);

  // Delay: a balancer sees /readyz fail and sends no more.
  await sleep(drainDelayMs);

  // Drain.
  const deadlineMs = performance.now() + shutdownTimeoutMs;
  const leftMs = () => Math.max(CLOSE_MIN_MS, Math.round(deadlineMs - performance.now()));
  stopping.abort();
  await within(shutdownTimeoutMs, "the drain", listener.close).catch(() => {
    exitCode = 1;
    const left = handler.inFlight() || "none, but connections still open";
    print(`Cut after ${shutdownTimeoutMs} ms, requests in flight: ${left}`, runtime.writeError);
  });

  // Close.
  await within(leftMs(), "close()", () => hooks.close?.()).catch((error) => {
    exitCode = 1;
    print(toLine({ during: "close()", ...errorFields(error) }), runtime.writeError);
  });
  flush();
  await within(leftMs(), "the log", runtime.written).catch(() => {}); // the service ends even if nobody reads it
  return exitCode;
}

/** A signal this soon after the first is the same one: under `npm start` a terminal's Ctrl-C arrives twice. */
const SAME_SIGNAL_MS = 500;

/** Resolves at the first SIGTERM or SIGINT. One after SAME_SIGNAL_MS ends the process with exit code 1. */
function firstSignal(handler: Handler): Promise<unknown> {
  let firstMs: number | undefined;
  return new Promise((resolve) => {
    runtime.onSignal(() => {
      resolve(firstMs ??= performance.now());
      if (performance.now() - firstMs < SAME_SIGNAL_MS) return;
      flush();
      print(
        `Cut by a second signal, requests in flight: ${handler.inFlight()}`,
        runtime.writeError,
      );
      runtime.exit(1);
    });
  });
}

// ── The probe ──

/** The most bytes of a response head that the probe reads. */
const HEAD_LIMIT_BYTES = 16_384;
/** The unspecified address of either family, however it is written. */
const WILDCARD_PATTERN = /^[0.:]+$/;

/** What a probe found. `refused` is unhealthy but never healed: nothing listens yet, or any more. */
export type Finding = { outcome: "healthy" | "unhealthy" | "refused"; text: string };

/**
 * Asks the instance that the settings describe for /healthz. Uses a plain socket because an HTTP client costs more than
 * the rest of the probe, obeys proxies and refuses some ports.
 *
 * @returns What it found, with one line of text
 * @throws {Error} in one line, if the settings do not tell the port
 */
export async function probe({ host, port, pingTimeoutMs }: Settings): Promise<Finding> {
  if (port === 0) {
    throw new Error("Cannot probe PORT=0: set it to the port that the service listens on");
  }
  const address = !WILDCARD_PATTERN.test(host) ? host : host.includes(":") ? "::1" : "127.0.0.1";
  const url = `http://${authority(address, port)}/healthz`;
  const request = `GET /healthz HTTP/1.1\r\nHost: ${
    authority(address, port)
  }\r\nConnection: close\r\n\r\n`;
  const deadline = AbortSignal.timeout(pingTimeoutMs);
  try {
    const status = await readStatus(runtime.exchange(address, port, request, deadline));
    const outcome = status === 200 ? "healthy" : "unhealthy";
    return { outcome, text: `${outcome}: ${url} answered ${status}` };
  } catch (error) {
    const outcome = (error as { code?: string }).code === "ECONNREFUSED" ? "refused" : "unhealthy";
    const late = `gave no HTTP response head within PING_TIMEOUT_MS=${pingTimeoutMs}`;
    return { outcome, text: `unhealthy: ${url} ${deadline.aborted ? late : errorMessage(error)}` };
  }
}

/**
 * Reads a response to the end of its head: https://www.rfc-editor.org/rfc/rfc9112#section-4
 *
 * @param chunks The bytes of the response, split anywhere
 * @returns The status code
 * @throws {Error} quoting what came, if that is not a complete response head of at most 16,384 bytes
 */
export async function readStatus(chunks: AsyncIterable<Uint8Array>): Promise<number> {
  let head = "";
  for await (const chunk of chunks) {
    head += String.fromCharCode(...chunk.subarray(0, HEAD_LIMIT_BYTES - head.length));
    if (head.includes("\r\n\r\n") || head.length === HEAD_LIMIT_BYTES || /^[^H]/.test(head)) break;
  }
  const [, status] = /^HTTP\/1\.[01] ([1-5]\d\d)\b[^]*\r\n\r\n/.exec(head) ?? [];
  if (status) return Number(status);
  throw new Error(`sent no HTTP response head in ${head.length} bytes: ${quote(head)}`);
}

// ── Healing: plain Docker restarts what ended, not what is unhealthy ──

/** What one probe tells the next: when process 1 started, how many probes failed in a row, and since when. */
const STREAK_FILE = "/dev/shm/heartbeat-streak";
/** Docker calls a container unhealthy after this many failures. Only a later failure ends the service. */
const FAILURES_MIN = 3;
const INIT_PATTERN = /(^|\/)(tini|docker-init|dumb-init|catatonit)$/;
/** The command line of process 1 begins with an emulator if the image is for another architecture. */
const EMULATOR_PATTERN = /qemu|rosetta/;

/**
 * Notes what a probe found, and ends a service whose probes failed for `healAfterMs` without a break. The init passes
 * the signals on. SIGALRM ends both runtimes, even in an endless loop. SIGCONT wakes a stopped one, so that it can end.
 *
 * @returns What it did, or why it did nothing; nothing for a healthy probe
 */
export function heal({ outcome }: Finding, healAfterMs: number): string | void {
  try {
    const startTime = runtime.readFile("/proc/1/stat").replace(/^.*\) /, "").split(" ")[19]; // proc_pid_stat(5)
    if (outcome === "healthy") return runtime.writeFile(STREAK_FILE, startTime);
    if (outcome === "refused") return "not counted: nothing listens";
    const isSameContainer =
      runtime.readFile("/proc/1/mountinfo") === runtime.readFile("/proc/self/mountinfo");
    const isInit = isInitOf(runtime.entry(), runtime.readFile("/proc/1/cmdline").split("\0"));
    if (!isSameContainer || !isInit) return "refused: process 1 is not this container's init";
    const nowMs = Number(runtime.readFile("/proc/uptime").split(" ")[0]) * 1000; // a clock that nobody sets
    const [notedTime, failures = 0, sinceMs = nowMs] = runtime.readFile(STREAK_FILE).split(" ").map(
      Number,
    );
    if (notedTime !== Number(startTime)) return "not counted: never healthy";
    const lastedMs = Math.round(nowMs - sinceMs);
    if (failures < FAILURES_MIN || lastedMs < healAfterMs) {
      runtime.writeFile(STREAK_FILE, `${startTime} ${failures + 1} ${sinceMs}`);
      return `noted: ${failures + 1} failures in ${lastedMs} ms, HEAL_AFTER_MS=${healAfterMs}`;
    }
    for (const signal of ["SIGALRM", "SIGCONT"] as const) runtime.kill(1, signal);
    return `ended the service after ${lastedMs} ms`;
  } catch (error) {
    // ENOENT: no healthy probe has written the file yet.
    const isMissing = outcome !== "healthy" && (error as { code?: string }).code === "ENOENT";
    return isMissing ? "not counted: never healthy" : `cannot note: ${quote(errorMessage(error))}`;
  }
}

/**
 * Whether a process is an init that runs a program.
 *
 * @param program The path of the program
 * @param args The command line of the process: https://man7.org/linux/man-pages/man5/proc_pid_cmdline.5.html
 */
export function isInitOf(program: string, args: string[]): boolean {
  return INIT_PATTERN.test(args.find((arg) => !EMULATOR_PATTERN.test(arg)) ?? "") &&
    args.includes(program);
}

// ── Settings ──

/** The longest delay that a timer takes; a longer one would fire at once. */
const TIMER_MAX_MS = 2_147_483_647;

/** The settings of the service and the probe. */
export type Settings = ReturnType<typeof readSettings>;

/**
 * Reads the settings; an empty variable counts as unset.
 *
 * @param env Returns a variable's value by its name
 * @throws {Error} in one line that names a malformed variable and its value
 */
export function readSettings(env: (name: string) => string | undefined) {
  const read = (
    name: string,
    fallback: string,
    rule: string,
    isValid: (text: string) => boolean,
  ) => {
    const text = env(name) || fallback;
    if (isValid(text)) return text;
    throw new Error(`Cannot parse ${name} as it must be ${rule}: current value is ${quote(text)}`);
  };
  const integer = (name: string, fallback: string, min: number, max = TIMER_MAX_MS) => {
    const isValid = (text: string) => `${parseInt(text)}` === text && +text >= min && +text <= max;
    return Number(read(name, fallback, `an integer from ${min} to ${max}`, isValid));
  };
  return {
    port: integer("PORT", "8080", 0, 65_535),
    host: read(
      "HOST",
      "0.0.0.0",
      "an IP address or a host name",
      (text) => /^[\w.:-]+$/.test(text),
    ),
    pingTimeoutMs: integer("PING_TIMEOUT_MS", "3000", 1),
    drainDelayMs: integer("DRAIN_DELAY_MS", "0", 0),
    shutdownTimeoutMs: integer("SHUTDOWN_TIMEOUT_MS", "8000", 0),
    healAfterMs: integer("HEAL_AFTER_MS", "0", 0),
    accessLog: read("ACCESS_LOG", "on", "on or off", (text) => /^(on|off)$/.test(text)) === "on",
  };
}

// ── Text and time ──

/** The quoted text can be six times as long, because JSON writes a control character as \u0000. */
const QUOTE_LIMIT_CHARS = 64;

/** Quotes a text of unknown origin: bounded, printable ASCII. */
const quote = (text: string) =>
  JSON.stringify(text.slice(0, QUOTE_LIMIT_CHARS)).replace(/[^ -~]/g, "?");

/** An error's message, or its code: Node.js gives no message if it tried several addresses. */
const errorMessage = (error: unknown) =>
  (error as Error).message || `${(error as { code?: string }).code}`;

/** A host and a port as in a URL: https://www.rfc-editor.org/rfc/rfc3986#section-3.2 */
const authority = (host: string, port: number) =>
  `${host.includes(":") ? `[${host}]` : host}:${port}`;

const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** Resolves to what `run` returns; rejects if it throws or takes longer than `ms`. */
const within = async <T>(ms: number, name: string, run: () => T): Promise<Awaited<T>> =>
  await Promise.race([
    run(),
    sleep(ms).then(() => Promise.reject(new Error(`${name} took more than ${ms} ms`))),
  ]);

// ── Node.js ──

/** Longer than any balancer keeps an idle connection (Google's: 600 s): it must not send into a closed one. */
const KEEP_ALIVE_MS = 620_000;

/** What the adapter gives with a request; an upgrade comes without `outgoing`. */
type NodeEnv = Partial<HttpBindings>;

function node() {
  return {
    args: process.argv.slice(2),
    entry: () => `${process.argv[1]}`,
    env: (name: string) => process.env[name],
    exit: (code: number) => process.exit(code),
    writeOut: (text: string): unknown => console.log(text),
    writeError: (text: string): unknown => console.error(text),
    /** Resolves once all output is written, because process.exit() drops what a pipe has not taken yet. */
    written: () =>
      Promise.all(
        [process.stdout, process.stderr].map((out) => new Promise((end) => out.write("", end))),
      ),
    readFile: (path: string) => process.getBuiltinModule("node:fs").readFileSync(path, "utf8"),
    writeFile: (path: string, text: string) =>
      process.getBuiltinModule("node:fs").writeFileSync(path, text),
    kill: (id: number, signal: "SIGALRM" | "SIGCONT"): unknown => process.kill(id, signal),
    onSignal: (handler: () => void): unknown =>
      process.on("SIGTERM", handler).on("SIGINT", handler),
    /** Node.js 20 warns of more than ten listeners on an AbortSignal. */
    allowListeners: (signal: AbortSignal) =>
      process.getBuiltinModule("node:events").setMaxListeners(0, signal),
    /** Sends a request over TCP and returns the response; throws once the signal aborts. */
    async *exchange(
      host: string,
      port: number,
      request: string,
      signal: AbortSignal,
    ): AsyncIterable<Uint8Array> {
      const socket = process.getBuiltinModule("node:net").connect({ host, port, signal });
      socket.on("error", () => {}).write(request); // an error after the response does not matter
      const chunks = process.getBuiltinModule("node:events").on(socket, "data", { close: ["end"] });
      for await (const [chunk] of chunks) yield chunk; // the socket's own iterator costs more
    },
    hasClientLeft: (env: NodeEnv, _thrown: unknown) => env.incoming?.socket.destroyed,
    prepare: prepareOnNode,
    listen: listenOnNode,
  };
}

async function listenOnNode(
  host: string,
  port: number,
  handler: Handler,
  { websocket }: Hooks,
): Promise<Listener> {
  const { createAdaptorServer } = await import("@hono/node-server");
  // A failed write to the log does not end the service.
  for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {});
  const upgrades = websocket && { shouldUpgradeCallback: isWebSocket }; // Node.js 22 and later
  const server = createAdaptorServer({
    websocket,
    hostname: "localhost", // for requests without a Host field: HAProxy checks with HTTP/1.0
    serverOptions: {
      ServerResponse: safeServerResponse(),
      keepAliveTimeout: KEEP_ALIVE_MS,
      ...upgrades,
    },
    fetch: (request, env) => handler.answer(request, env, whenSent(env as NodeEnv)),
  }) as HttpServer;
  if (websocket) refuseOtherUpgrades(server);
  await new Promise<void>((resolve, reject) =>
    server.once("error", reject).listen(port, host, resolve)
  );
  return {
    port: (server.address() as { port: number }).port,
    async close() {
      // http.Server's own close() cuts responses that are not sent yet (no upstream issue yet).
      process.getBuiltinModule("node:net").Server.prototype.close.call(server);
      for (const client of websocket?.server.clients ?? []) client.close(1001); // RFC 6455, 7.4.1: going away
      await handler.idle();
      server.closeAllConnections();
    },
  };
}

/** Resolves once a response was sent, rejects if it was cut or its client left. */
async function whenSent(env: NodeEnv): Promise<void> {
  const { incoming, outgoing } = env;
  if (!outgoing) return; // an upgrade
  await new Promise<unknown>((resolve) => {
    outgoing.on("close", resolve);
    // Node.js 20 and 22 never close a pipelined response whose client has left.
    incoming!.on("close", () => incoming!.socket.destroyed && resolve(undefined));
  });
  if (outgoing.errored) log({ env }, errorFields(outgoing.errored));
  if (outgoing.errored || !outgoing.writableFinished) throw new Error("not sent");
}

/** The symbol under which the adapter keeps the parts of a Response: status, body, headers. */
let partsKey: symbol | undefined;

/** Makes the status of a Response 101, which its constructor does not take. */
const SWITCHING = { status: { value: 101 } };

/**
 * Makes a response safe for the adapter. Touches no property of a text's Response, because that ends the adapter's
 * fast path.
 */
function prepareOnNode(response: Response, env: NodeEnv, isDraining: boolean): Response {
  const { outgoing } = env;
  // An upgrade. If its route accepts it, upgradeWebSocket() has added a second symbol to the env.
  if (!outgoing) {
    return Object.getOwnPropertySymbols(env)[1]
      ? Object.defineProperties(response, SWITCHING)
      : response;
  }
  if (isDraining) outgoing.shouldKeepAlive = false;
  partsKey ??= Object.getOwnPropertySymbols(new Response())[0];
  const parts = (response as unknown as Record<symbol, unknown[] | undefined>)[partsKey];
  // Read because it throws for a malformed pair here, not later in the adapter.
  if (Array.isArray(parts?.[2])) response.headers;
  if (!parts && response.bodyUsed) {
    throw new TypeError("the route returned a Response whose body was read already");
  }
  const body = parts ? parts[1] : response.body;
  if (!(body instanceof ReadableStream)) return response;
  // A body that fails cuts the response. The adapter would print a stack, and may send the error's text (no upstream
  // issue yet).
  const { readable, writable } = new TransformStream();
  body.pipeTo(writable, { preventAbort: true }).catch((error) => outgoing.destroy(error));
  return new Response(readable, response);
}

/** The ServerResponse of the adapter, safe from the routes' headers. */
function safeServerResponse() {
  return class<R extends IncomingMessage>
    extends process.getBuiltinModule("node:http").ServerResponse<R> {
    override writeHead(...args: unknown[]): this {
      // A route's own keep-alive would outlive a drain, and a client that asked to close.
      const headers = args.at(-1) as Record<string, unknown>;
      for (const name of ["connection", "Connection"]) {
        if (headers[name] !== "close") delete headers[name];
      }
      try {
        return Reflect.apply(super.writeHead, this, args);
      } catch (error) { // a bad header; the adapter would let it end the process (no upstream issue yet)
        return this.destroy(error as Error);
      }
    }
    override destroy(error?: Error): this {
      if (this.req.socket.destroyed) return super.destroy(); // the client left, which is no error
      if (error) this.req.socket.resetAndDestroy(); // any other end would complete a response over HTTP/1.0
      return super.destroy(error);
    }
  };
}

const isWebSocket = ({ headers }: IncomingMessage) =>
  headers.upgrade?.toLowerCase() === "websocket";

/**
 * Answers an upgrade that is no WebSocket (h2c, TLS) with 400 on Node.js 20, and survives a reset. The adapter
 * leaves such an upgrade alone, so its client waits, and a reset ends the process (no upstream issue yet).
 */
function refuseOtherUpgrades(server: HttpServer): void {
  const [upgrade] = server.listeners("upgrade");
  // Replaces the adapter's listener, because that refuses a WebSocket only if it is the one listener.
  server.removeAllListeners("upgrade").on("upgrade", (incoming, socket, head) => {
    socket.on("error", () => {});
    if (isWebSocket(incoming)) upgrade.call(server, incoming, socket, head);
    else {socket.resume().end(
        "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n",
      );}
  });
}

// ── Deno ──

/** Header values that `Headers` takes and that end Deno with a panic when they are sent (no upstream issue yet). */
const UNSENDABLE_PATTERN = /[^\t -~\x80-\xff]/;
/** A URL with one path segment and no query: nothing in its Host field can have added a path. */
const PLAIN_URL_PATTERN = /^http:\/\/[^/?#\\@]+\/[^/?#\\@]*$/;
/** The time between two attempts to listen again. */
const LISTEN_PAUSE_MS = 250;

/**
 * Whether the log goes through the console, because only the console exports it by OpenTelemetry. Never in a probe: it
 * would wait for the collector.
 */
let isExported = false;

function deno(): ReturnType<typeof node> {
  /** Writes past the console, which doubles the service's memory. */
  const write = (file: { writeSync(bytes: Uint8Array): number }, text: string) => {
    for (let rest = new TextEncoder().encode(`${text}\n`); rest.length > 0;) {
      rest = rest.subarray(file.writeSync(rest));
    }
  };
  return {
    args: Deno.args,
    entry: () => Deno.mainModule.replace("file://", ""),
    env: Deno.env.get,
    exit: Deno.exit,
    writeOut: (text) => isExported ? console.log(text) : write(Deno.stdout, text),
    writeError: (text) => isExported ? console.error(text) : write(Deno.stderr, text),
    written: () => Promise.resolve([]),
    readFile: (path) => Deno.readTextFileSync(path),
    writeFile: (path, text) => Deno.writeTextFileSync(path, text),
    kill: (id, signal) => Deno.kill(id, signal),
    onSignal: (handler) =>
      (["SIGTERM", "SIGINT"] as const).map((name) => Deno.addSignalListener(name, handler)),
    allowListeners: () => {},
    async *exchange(hostname, port, request, signal) {
      const connection = await Deno.connect({ hostname, port, signal });
      signal.addEventListener("abort", () => connection.close());
      await connection.write(new TextEncoder().encode(request));
      const chunk = new Uint8Array(HEAD_LIMIT_BYTES); // connection.readable would make the probe a quarter dearer
      for (let size; (size = await connection.read(chunk));) yield chunk.subarray(0, size);
    },
    hasClientLeft: (_env, thrown) => /^(BadResource|Http): .+ body/.test(toText(thrown)), // it tells only by this text
    prepare: prepareOnDeno,
    listen: listenOnDeno,
  };
}

async function listenOnDeno(hostname: string, port: number, handler: Handler): Promise<Listener> {
  isExported = Deno.env.has("OTEL_DENO");
  const uploads = new Set<Promise<unknown>>();
  let isClosing = false;
  const handle = (request: Request, info: Deno.ServeHandlerInfo<Deno.NetAddr>) => {
    // Deno takes a path in the Host field for the URL's (no upstream issue yet). Testing the URL first is faster.
    const host = PLAIN_URL_PATTERN.test(request.url) ? "" : request.headers.get("Host") ?? "";
    if (/[/?#\\@]/.test(host)) return refuse(request, 400);
    if (request.method !== "GET" && request.body) {
      if (isClosing) return refuse(request, 503); // the listener is open only for the uploads that began before
      const upload = info.completed.catch(() => {}).finally(() => uploads.delete(upload));
      uploads.add(upload);
    }
    return handler.answer(request, info, info.completed);
  };
  const listen = () => {
    const server = Deno.serve({ hostname, port, onListen() {} }, handle);
    server.finished.catch(listenAgain);
    return server;
  };
  /** Deno.serve() ends when it cannot accept (too many open files). Its open connections are still served. */
  const listenAgain = (error: unknown): Promise<unknown> => {
    print(`Cannot accept connections: ${errorMessage(error)}`, runtime.writeError);
    return sleep(LISTEN_PAUSE_MS).then(() => isClosing || (server = listen())).catch(listenAgain);
  };
  let server = listen();
  port = server.addr.port;
  return {
    port,
    async close() {
      isClosing = true;
      // shutdown() makes the bodies of requests in flight unreadable: https://github.com/denoland/deno/issues/36809
      await Promise.all(uploads);
      await Promise.all([handler.idle(), server.shutdown()]);
    },
  };
}

/** Answers a request without asking a route, and reads its body away. */
function refuse({ body }: Request, status: number): Response {
  body?.pipeTo(new WritableStream()).catch(() => {});
  return new Response(null, { status, headers: { Connection: "close" } });
}

/** Checks a response before Deno sends it; while draining, asks the client to close its connection. */
function prepareOnDeno(response: Response, _env: object, isDraining: boolean): Response {
  if (response.bodyUsed) {
    throw new TypeError("the route returned a Response whose body was read already");
  }
  response.headers.forEach((value, name) => {
    if (UNSENDABLE_PATTERN.test(value)) {
      throw new TypeError(`the header ${name} holds a control character`);
    }
  });
  if (!isDraining || response.status === 101) return response;
  const last = new Response(response.body, response); // the headers of some responses are immutable
  last.headers.set("Connection", "close");
  return last;
}

// ── The program ──

const runtime = typeof Deno === "undefined" ? node() : deno();

const USAGE = `Usage: main.ts          serve
       main.ts --ping   ask the running instance for /healthz: exit 0 if it is healthy, 1 if not

Environment, for both: PORT (8080), HOST (0.0.0.0), PING_TIMEOUT_MS (3000), DRAIN_DELAY_MS (0),
SHUTDOWN_TIMEOUT_MS (8000), HEAL_AFTER_MS (0: never), ACCESS_LOG (on)`;

/** Does what the arguments say and returns the exit code. */
async function main(args: string[]): Promise<number> {
  const stray = args.find((arg) => !/^--(ping|help)$/.test(arg)) ?? args[1];
  if (stray !== undefined) throw new Error(`Unexpected argument ${quote(stray)}\n${USAGE}`);
  if (args.length === 0) return await serve(readSettings(runtime.env));
  print(args[0] === "--help" ? USAGE : await ping(readSettings(runtime.env)));
  return 0;
}

/** Probes and heals. Returns the line of a healthy probe, throws that of any other. */
async function ping(settings: Settings): Promise<string> {
  const finding = await probe(settings);
  const line = [finding.text, settings.healAfterMs && heal(finding, settings.healAfterMs)].filter(
    Boolean,
  ).join("; ");
  if (finding.outcome === "healthy") return line;
  throw new Error(line);
}

// The paths by which this file is started, not imported. tsx takes it without `.ts`; a bundle may keep it beside main.js.
const programs = [
  import.meta.filename,
  import.meta.filename?.replace(/\.ts$/, ""),
  `${import.meta.dirname}/main.js`,
];
if (import.meta.main || programs.includes(runtime.entry())) {
  // Not awaited, because a module that imports from this one would wait for it for ever.
  main(runtime.args).catch((error) => {
    print(errorMessage(error), runtime.writeError);
    return 1;
  }).then(runtime.exit);
}
