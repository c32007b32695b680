/**
 * heartbeat: an HTTP service in one file that serves, proves its own health and stops well.
 *
 *     npx tsx main.ts                         serve under Node.js
 *     deno run -P --no-prompt main.ts         serve under Deno
 *     deno run -P --no-prompt main.ts --ping  ask the running instance for /healthz: exit 0 if it is healthy, 1 if not
 *
 * @module
 */
import type { HttpBindings, WebSocketServerLike } from "@hono/node-server";
import type { Context, ErrorHandler, Hono } from "hono";
import type { IncomingMessage } from "node:http";
import type { AddressInfo, Socket } from "node:net";

/**
 * Your service: its routes, and what it needs and holds. It listens once this is done.
 *
 * @param app Takes the routes: https://hono.dev/docs/api/routing
 * @param stopping Aborts when the drain begins: what streams or loops ends then
 * @returns What readiness depends on, what is to be closed at the end, and a WebSocket server for Node.js
 */
export async function addRoutes(app: App, { stopping }: { stopping: AbortSignal }): Promise<Hooks | void> {
  // ════════ YOUR ROUTES BEGIN HERE ════════ (a package by `await import("…")`, so that the probe does not load it)

  app.get("/", (c) => c.text(`heartbeat ${VERSION}: replace this route in main.ts with your own\n`));

  // ════════ YOUR ROUTES END HERE ════════
}

// ── What a service may use and return ──

/** The application that takes the routes. `c.env` is what the runtime gives with a request. */
export type App = Hono<{
  Bindings: Partial<HttpBindings & Deno.ServeHandlerInfo<Deno.NetAddr>>;
  Variables: Record<string, unknown>;
}>;

/** What a service may return to be asked and told. */
export interface Hooks {
  /** Asked by /readyz, at most once a second: false, an error or no answer within a second is unready. */
  ready?(): unknown;
  /** Run after the drain, with what is left of its deadline and at least a second. */
  close?(): unknown;
  /** For Node.js, as its adapter takes it: https://hono.dev/docs/helpers/websocket */
  websocket?: { server: WebSocketServerLike };
}

const VERSION = "2.0.0";

// ── The application ──

/** How often `ready` is asked at most, and how long it may take. */
const READY_LIMIT_MS = 1000;

/**
 * Builds the application. Hono is loaded here, for the probe does without.
 *
 * @param isDraining Whether the service was told to stop
 * @param ready Asked by /readyz
 * @returns It, to take routes
 */
export async function createApp(isDraining: () => boolean, ready: Hooks["ready"] = () => true): Promise<App> {
  const { Hono } = await import("hono");
  const app: App = new Hono();
  const isReady = shareReady(ready);

  // Before the user's, so that no middleware of theirs can fail, delay or change what tells of health.
  const check = (path: string, answer: (c: Context) => Response | Promise<Response>) =>
    app.all(path, (c) => {
      if (/^(GET|HEAD)$/.test(c.req.method)) return answer(c);
      runtime.discardBody(c.req.raw);
      return c.json({ error: "Method Not Allowed" }, 405, { Allow: "GET, HEAD" });
    });
  const uncached = { "Cache-Control": "no-store" };
  let healthy: Response | undefined;
  check("/healthz", () => healthy ??= new Response(null, { headers: uncached }));
  check("/readyz", async (c) => {
    const status = isDraining() ? "draining" : await isReady() ? "ready" : "unready";
    return c.json({ status }, status === "ready" ? 200 : 503, uncached);
  });

  app.notFound((c) => {
    runtime.discardBody(c.req.raw);
    return c.json({ error: "Not Found" }, 404);
  });
  /** What an HTTPException under 500 tells the client: that is no error of the service. */
  const clientFault = (error: Parameters<ErrorHandler>[0]) => {
    const response = "getResponse" in error && error.getResponse();
    return response && response.status < 500 && response;
  };
  const { onError } = app;
  // A handler of the user's own takes the place of ours, and the log still tells.
  app.onError = (handler) =>
    onError((error, c) => {
      if (!clientFault(error)) logError(target(c.req.raw), error);
      return handler(error, c);
    });
  app.onError((error) => clientFault(error) || internalError());
  return app;
}

/** Asks `ready` at most once in READY_LIMIT_MS; what comes in between shares the outcome. Logs when that changes. */
function shareReady(ready: () => unknown): () => Promise<boolean> {
  let askedMs = -Infinity;
  let wasReady = true;
  let outcome = Promise.resolve(true);
  const ask = async () => {
    if (await ready() === false) throw new Error("ready() returned false");
  };
  const onError = (error: unknown) => wasReady && logError({ status: "unready" }, error);
  return () => {
    if (performance.now() - askedMs < READY_LIMIT_MS) return outcome;
    askedMs = performance.now();
    return outcome = succeeds("ready()", ask, READY_LIMIT_MS, onError).then((isReady) => {
      if (isReady && !wasReady) print(entry({ status: "ready" }));
      return wasReady = isReady;
    });
  };
}

// ── Answers and the log ──

/** How long lines of the access log are gathered, to be written at once: a write costs as much as a request. */
const GATHER_MS = 10;
/** As much of what was thrown as a line holds. */
const ERROR_LIMIT_CHARS = 400;
const STACK_LIMIT_CHARS = 1000;

const gathered: string[] = [];

function flush(): void {
  if (gathered.length > 0) print(gathered.splice(0).join("\n"));
}

/** Prints a line. That it cannot (a full disk, a closed pipe) must change neither an answer nor an exit code. */
function print(line: string, write: (line: string) => unknown = console.log): void {
  flush();
  try {
    write(line);
  } catch { /* nobody is left to tell */ }
}

let stamped = "";
let stampedMs = 0;

/** The time, written once a millisecond: that costs more than the rest of a line. */
function timestamp(): string {
  const nowMs = Date.now();
  if (nowMs !== stampedMs) stamped = new Date(stampedMs = nowMs).toISOString();
  return stamped;
}

/** A line of the log. */
const entry = (fields: object) => JSON.stringify({ time: timestamp(), ...fields });

/** What a request asked for, without the query, which may hold secrets. Not by new URL(): that refuses some hosts. */
const target = ({ method, url }: Request) => ({ method, path: url.replace(/^\w+:\/\/[^/]*|[?#].*/g, "") });

/** Logs in one line what was thrown, which may be anything, and where. */
function logError(context: object, thrown: unknown): void {
  let error: string = typeof thrown;
  let cause, stack;
  try {
    error = String(thrown).slice(0, ERROR_LIMIT_CHARS);
    ({ cause } = thrown as Error);
    cause &&= String(cause).slice(0, ERROR_LIMIT_CHARS);
    stack = (thrown as Error).stack?.match(/^ +at .*$/gm)?.join("\n").slice(0, STACK_LIMIT_CHARS);
  } catch { /* it has no text, or is null or undefined */ }
  print(entry({ ...context, error, cause, stack }), console.error);
}

/** What a client learns of a failure. */
const internalError = () => Response.json({ error: "Internal Server Error" }, { status: 500 });

/** What answers requests, and counts those in flight. */
export type Handler = ReturnType<typeof createHandler>;

/**
 * Makes an application answer whatever its routes do, and tell of it.
 *
 * @param accessLog Whether a request prints a line when it is over; one for health never does
 */
export function createHandler(app: App, accessLog: boolean) {
  const RuntimeResponse = Response; // the adapter of Node.js will put a subclass in its place
  let inFlight = 0;
  let onIdle = () => {};
  return {
    /**
     * @param env What the runtime gives with the request
     * @param prepare The runtime's last word on a response; may throw
     * @returns The response, and what is to be called once, when that was sent or its client is gone
     */
    answer(request: Request, env: object, prepare: (response: Response) => Response) {
      const startMs = accessLog ? performance.now() : 0; // which costs a tenth of a request
      inFlight++;
      const finish = (response: Response) => {
        if (response instanceof RuntimeResponse && response.status !== 0) return prepare(response); // 0: a network error
        throw new TypeError(`the route returned ${response === null ? null : typeof response}, no response to send`);
      };
      const fail = (thrown: unknown) => {
        logError(target(request), thrown);
        return prepare(internalError());
      };
      let response: Response | Promise<Response>;
      try {
        const returned = app.fetch(request, env);
        response = returned instanceof Promise ? returned.then(finish).catch(fail) : finish(returned);
      } catch (thrown) {
        response = fail(thrown);
      }
      const sent = async (isComplete: boolean, sentStatus?: number) => {
        // A client may leave before its route is done.
        const { status } = response instanceof Promise ? await response : response;
        if (--inFlight === 0) onIdle();
        if (!accessLog) return;
        const { method, path } = target(request);
        if (path === "/healthz" || path === "/readyz") return;
        const ms = Math.round((performance.now() - startMs) * 1000) / 1000;
        const incomplete = !isComplete || undefined;
        const line = JSON.stringify({ time: timestamp(), method, path, status: sentStatus ?? status, ms, incomplete });
        if (gathered.push(line) === 1) setTimeout(flush, GATHER_MS);
      };
      return { response, sent };
    },
    inFlight: () => inFlight,
    /** Resolves once nothing is in flight. */
    idle: () => new Promise<void>((resolve) => inFlight === 0 ? resolve() : onIdle = resolve),
  };
}

// ── The server ──

/** A signal this soon after the first is the same one: under `npm start` a terminal's Ctrl-C arrives twice. */
const SAME_SIGNAL_MS = 500;
/** What `close` gets at least. */
const CLOSE_LEAST_MS = 1000;

/**
 * Serves until a signal, then drains.
 *
 * @returns The exit code: 0 once every request in flight is answered and all is closed, 1 if not, or if it cannot listen
 */
async function serve({ host, port, accessLog, drainDelayMs, shutdownTimeoutMs }: Settings): Promise<number> {
  let hooks: Hooks = {};
  let isStarted = false;
  let signalledMs = -1;
  const isDraining = () => signalledMs >= 0;
  const stopped = new Promise<void>((resolve) => {
    const stop = () => {
      if (!isStarted) runtime.exit(0); // nothing is in flight
      else if (!isDraining()) {
        signalledMs = performance.now();
        print(`Draining, requests in flight: ${handler.inFlight()}`);
        resolve();
      } else if (performance.now() - signalledMs > SAME_SIGNAL_MS) {
        print(`Cut by a second signal, requests in flight: ${handler.inFlight()}`, console.error);
        runtime.exit(1);
      }
    };
    runtime.onSignal(stop);
  });
  runtime.onExit(flush);

  const app = await createApp(isDraining, () => hooks.ready?.());
  const handler = createHandler(app, accessLog);
  const listen = await runtime.loadServer();
  const stopping = new AbortController();
  runtime.allowListeners(stopping.signal);
  try {
    hooks = await addRoutes(app, { stopping: stopping.signal }) ?? {};
  } catch (error) {
    logError({ during: "addRoutes()" }, error);
    return 1;
  }
  isStarted = true;

  /** Runs the user's close() and tells whether it succeeded in time. */
  const close = (leftMs: number) => {
    const ms = Math.max(CLOSE_LEAST_MS, Math.round(leftMs));
    return succeeds("close()", () => hooks.close?.(), ms, (error) => logError({ during: "close()" }, error));
  };
  const listener = await listen(host, port, handler, isDraining, hooks).catch((error) =>
    print(`Cannot listen on ${authority(host, port)}: ${errorMessage(error)}`, console.error)
  );
  if (!listener) {
    await close(shutdownTimeoutMs);
    return 1;
  }
  print(`Listening on http://${authority(host, listener.port)}`);

  await stopped;
  await sleep(drainDelayMs);
  const deadlineMs = performance.now() + shutdownTimeoutMs;
  stopping.abort();
  const isDrained = await succeeds("the drain", () => listener.close(handler.idle()), shutdownTimeoutMs, () => {
    const left = handler.inFlight() || "none, but connections still open";
    print(`Cut after ${shutdownTimeoutMs} ms, requests in flight: ${left}`, console.error);
  });
  const isClosed = await close(deadlineMs - performance.now());
  return isDrained && isClosed ? 0 : 1;
}

// ── The probe ──

/** As much of an answer as the probe reads; Node.js sets its requests the same limit. */
const HEAD_LIMIT_BYTES = 16_384;
/** A status line, then fields: https://www.rfc-editor.org/rfc/rfc9112#section-2.1 */
const HEAD_PATTERN = /^HTTP\/1\.[01] ([1-5]\d\d)(?: [^\0\r\n]*)?\r\n(?:[!#$%&'*+.^_`|~\w-]+:[^\0\r\n]*\r\n)*\r\n/;
/** The unspecified address of either family, however it is written. */
const WILDCARD_PATTERN = /^[0.:]+$/;

/** What a probe found: a refused connection is unhealthy too, but nothing is wedged that does not listen. */
export type Finding = { outcome: "healthy" | "unhealthy" | "refused"; text: string };

/**
 * Asks the instance that the settings describe for its health. Over a plain socket, for an HTTP client costs more
 * than the rest of the probe, obeys proxies and refuses some ports.
 *
 * @throws {Error} in one line, if the port cannot be known
 */
export async function probe({ host, port, pingTimeoutMs }: Settings): Promise<Finding> {
  if (port === 0) throw new Error("Cannot probe PORT=0: set it to the port that the service listens on");
  const target = !WILDCARD_PATTERN.test(host) ? host : host.includes(":") ? "::1" : "127.0.0.1";
  const url = new URL(`http://${authority(target, port)}/healthz`);
  const request = `GET ${url.pathname} HTTP/1.1\r\nHost: ${url.host}\r\nConnection: close\r\n\r\n`;
  const deadline = AbortSignal.timeout(pingTimeoutMs);
  try {
    const status = await readStatus(runtime.exchange(target, port, request, deadline));
    const outcome = status === 200 ? "healthy" : "unhealthy";
    return { outcome, text: `${outcome}: ${url} answered ${status}` };
  } catch (error) {
    const outcome = (error as { code?: string }).code === "ECONNREFUSED" ? "refused" : "unhealthy";
    const late = `gave no HTTP response head within PING_TIMEOUT_MS=${pingTimeoutMs}`;
    return { outcome, text: `unhealthy: ${url} ${deadline.aborted ? late : errorMessage(error)}` };
  }
}

/**
 * Reads a response to the end of its head.
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
  const match = HEAD_PATTERN.exec(head);
  if (match) return Number(match[1]);
  throw new Error(`sent no HTTP response head in ${head.length} bytes: ${quote(head)}`);
}

// ── Healing: what plain Docker leaves to us ──

/** What one probe tells the next, in memory: which life of process 1 it is about, then when each failure was. */
const STREAK_FILE = "/dev/shm/heartbeat-streak";
/** So many failures turn a container unhealthy: Docker is to tell of it before anything is ended. */
const LEAST_FAILURES = 3;
const INIT_PATTERN = /^(\S*\/)?(tini|docker-init|dumb-init|catatonit)\0/;

/**
 * Notes what a probe found, and ends a service that has failed for `healAfterMs` without a break. Its init passes the
 * signal on; SIGALRM ends either runtime natively, though its event loop turns for ever, and after SIGCONT a stopped one.
 *
 * @returns What it did, or why it did nothing
 */
export function heal({ outcome }: Finding, healAfterMs: number): string {
  try {
    const life = runtime.readFile("/proc/1/stat").replace(/^.*\) /, "").split(" ")[19]; // proc_pid_stat(5): starttime
    if (outcome === "healthy") {
      runtime.writeFile(STREAK_FILE, life);
      return "";
    }
    if (outcome === "refused") return "not counted: nothing listens";
    const command = attempt(() => runtime.readFile("/proc/1/cmdline"));
    const [its, own] = ["1", "self"].map((id) => attempt(() => runtime.readLink(`/proc/${id}/ns/mnt`)));
    const isInit = INIT_PATTERN.test(command) && command.includes(`\0${import.meta.filename}\0`);
    if (!isInit || !its || its !== own) return "refused: process 1 is not this container's init";
    const [notedLife, ...noted] = attempt(() => runtime.readFile(STREAK_FILE)).split(" ");
    if (notedLife !== life) return "not counted: never healthy";
    const nowMs = Date.now();
    const failuresMs = noted.map(Number);
    if (failuresMs.some((ms) => !(ms <= nowMs))) failuresMs.length = 0; // the clock was set back
    const sinceMs = nowMs - (failuresMs[0] ?? nowMs);
    if (failuresMs.length < LEAST_FAILURES || sinceMs < healAfterMs) {
      runtime.writeFile(STREAK_FILE, [life, ...failuresMs, nowMs].join(" "));
      return `noted: ${failuresMs.length + 1} failures in ${sinceMs} ms, HEAL_AFTER_MS=${healAfterMs}`;
    }
    for (const signal of ["SIGALRM", "SIGCONT"] as const) runtime.kill(1, signal);
    return `ended the service after ${sinceMs} ms`;
  } catch (error) {
    return `cannot note: ${quote(errorMessage(error))}`;
  }
}

// ── Settings ──

/** The longest delay a timer takes; a longer one would fire at once. */
const TIMER_LIMIT_MS = 2_147_483_647;

/** What the environment tells the service and the probe alike. */
export type Settings = ReturnType<typeof readSettings>;

/**
 * Reads the settings; an empty variable counts as unset.
 *
 * @param env Gives a variable's value by its name
 * @throws {Error} in one line that names a malformed variable and its value
 */
export function readSettings(env: (name: string) => string | undefined) {
  const read = (name: string, fallback: string, rule: string, isValid: (text: string) => boolean) => {
    const text = env(name) || fallback;
    if (isValid(text)) return text;
    throw new Error(`Cannot parse ${name} as it must be ${rule}: current value is ${quote(text)}`);
  };
  const integer = (name: string, fallback: string, least: number, most = TIMER_LIMIT_MS) => {
    const isValid = (text: string) => `${parseInt(text)}` === text && +text >= least && +text <= most;
    return Number(read(name, fallback, `an integer from ${least} to ${most}`, isValid));
  };
  return {
    port: integer("PORT", "8080", 0, 65_535),
    host: read("HOST", "0.0.0.0", "an IP address or a host name", isHost),
    pingTimeoutMs: integer("PING_TIMEOUT_MS", "3000", 1),
    drainDelayMs: integer("DRAIN_DELAY_MS", "0", 0),
    shutdownTimeoutMs: integer("SHUTDOWN_TIMEOUT_MS", "8000", 0),
    healAfterMs: integer("HEAL_AFTER_MS", "0", 0),
    accessLog: read("ACCESS_LOG", "on", "on or off", (text) => /^(on|off)$/.test(text)) === "on",
  };
}

/** Whether the URL parser takes a text for a host as it stands: https://url.spec.whatwg.org/#host-parsing */
function isHost(text: string): boolean {
  const host = attempt(() => new URL(`http://${bracketed(text)}`).host);
  return text.includes(":") ? host !== "" && /^[\da-f:.]+$/i.test(text) : host === text.toLowerCase();
}

// ── Text and time ──

/** What can be read, or nothing. */
function attempt(read: () => string): string {
  try {
    return read();
  } catch {
    return "";
  }
}

/** As much of others' text as a message quotes: escaped, a character takes up to six. */
const QUOTE_LIMIT_CHARS = 64;

/** Others' text as a message shows it: quoted, bounded, printable ASCII. */
const quote = (text: string) => JSON.stringify(text.slice(0, QUOTE_LIMIT_CHARS)).replace(/[^ -~]/g, "?");

/** What went wrong, in the runtime's words; the error of several addresses at once has only a code. */
const errorMessage = (error: unknown) => (error as Error).message || `${(error as { code?: string }).code}`;

/** A host as a URL has it: https://www.rfc-editor.org/rfc/rfc3986#section-3.2.2 */
const bracketed = (host: string) => host.includes(":") ? `[${host}]` : host;

const authority = (host: string, port: number) => `${bracketed(host)}:${port}`;

const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** Whether what is run succeeds within a time; hands on why not. */
async function succeeds(name: string, run: () => unknown, ms: number, onError: (error: unknown) => unknown) {
  const late = sleep(ms).then(() => Promise.reject(new Error(`${name} took more than ${ms} ms`)));
  try {
    await Promise.race([(async () => await run())(), late]);
    return true;
  } catch (error) {
    onError(error);
    return false;
  }
}

// ── The runtimes: all that differs between them ──

function node() {
  const fs = () => process.getBuiltinModule("node:fs");
  return {
    args: process.argv.slice(2),
    env: (name: string) => process.env[name],
    exit: (code: number) => process.exit(code),
    writeOut: (line: string): unknown => console.log(line),
    writeError: (line: string): unknown => console.error(line),
    readFile: (path: string) => fs().readFileSync(path, "utf8"),
    writeFile: (path: string, text: string) => fs().writeFileSync(path, text),
    readLink: (path: string) => fs().readlinkSync(path),
    kill: (id: number, signal: "SIGALRM" | "SIGCONT"): unknown => process.kill(id, signal),
    onSignal: (handler: () => void): unknown => process.on("SIGTERM", handler).on("SIGINT", handler),
    onExit: (handler: () => void): unknown => process.on("exit", handler),
    allowListeners: (signal: AbortSignal) => process.getBuiltinModule("node:events").setMaxListeners(0, signal),
    discardBody: (_request: Request): unknown => null, // the adapter does it by itself
    /** Whether this file was started, not imported; Node.js before 24.2 does not tell. */
    isProgram() {
      const { existsSync, realpathSync } = fs();
      const [, path = ""] = process.argv; // tsx takes it without its extension, too
      return import.meta.main ?? (existsSync(path) ? realpathSync(path) : `${path}.ts`) === import.meta.filename;
    },
    /** Sends a request over TCP and gives what comes back; throws once the signal aborts. */
    exchange(host: string, port: number, request: string, signal: AbortSignal): AsyncIterable<Uint8Array> {
      const socket = process.getBuiltinModule("node:net").connect({ host, port, signal });
      socket.write(request);
      return socket;
    },
    /** Loads what listens, and with it the classes that the user's responses are made of. */
    async loadServer() {
      // A log that nobody can take must not end the service.
      for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {});
      const { ServerResponse } = process.getBuiltinModule("node:http");
      const { createAdaptorServer, getRequestListener } = await import("@hono/node-server");
      const RuntimeResponse = Response;
      getRequestListener(() => new Response()); // a response of the runtime's own class would be slow
      // Where the adapter keeps what a response was made of, to send it as it is; to read its body would end that.
      const [KEPT] = Object.getOwnPropertySymbols(new Response());
      /** A response whose body cannot fail the adapter's way, which prints a stack and sends the error's text. */
      const watched = (response: Response, onError: (error: Error) => unknown): Response => {
        // The adapter would make headers of pairs too late for their error to be caught.
        if (KEPT in response && Array.isArray((response as unknown as Record<symbol, unknown[]>)[KEPT][2])) {
          response.headers;
        }
        const body = KEPT in response ? (response as unknown as Record<symbol, unknown[]>)[KEPT][1] : response.body;
        if (!(body instanceof ReadableStream)) return response;
        const { status, statusText, headers } = response;
        let leftBytes = Number(headers.get("Content-Length") ?? Infinity);
        const { readable, writable } = new TransformStream({
          transform(chunk, controller) {
            controller.enqueue(chunk);
            leftBytes -= chunk?.length;
            if (leftBytes === 0) controller.terminate(); // a client may leave before the body says that it was the last
          },
        });
        const chunks = new RuntimeResponse(body).body!; // throws if it was read already, or is locked
        chunks.pipeTo(writable, { preventAbort: true }).catch((error) => leftBytes === 0 || onError(error));
        return new Response(readable, { status, statusText, headers });
      };
      // The adapter checks no header: what is thrown here would end the process.
      class CheckedResponse<Request extends IncomingMessage> extends ServerResponse<Request> {
        override writeHead(...args: unknown[]) {
          try {
            return Reflect.apply(super.writeHead, this, args);
          } catch (error) {
            return this.destroy(error as Error);
          }
        }
        override destroy(error?: Error) {
          if (error) this.socket?.resetAndDestroy(); // of HTTP/1.0 any other end would be a complete answer
          return super.destroy(error);
        }
      }
      /** Listens; what it returns stops accepting, and resolves when `idle` has and all of it is sent. */
      return async (host: string, port: number, handler: Handler, isDraining: () => boolean, { websocket }: Hooks) => {
        /** What ends each request in flight, the newest of them, and whether the response that closes it is on its way. */
        const connections = new Map<Socket, { inFlight: Set<() => void>; newest: number; isLast: boolean }>();
        let isClosing = false;
        const upgraded = new Map<unknown, { close(code: number): void }>();
        const isWebSocket = ({ headers }: IncomingMessage) => headers.upgrade?.toLowerCase() === "websocket";
        const server = createAdaptorServer({
          // Node.js 24.9 and later answer any other upgrade (h2c, TLS) like an ordinary request.
          serverOptions: { ServerResponse: CheckedResponse, ...websocket && { shouldUpgradeCallback: isWebSocket } },
          hostname: "localhost", // of a request without Host: HTTP/1.0, as HAProxy checks
          websocket,
          fetch(request, env) {
            const { incoming, outgoing } = env as Pick<HttpBindings, "incoming"> & Partial<HttpBindings>;
            if (!outgoing) {
              const { response, sent } = handler.answer(request, env, (response) => response);
              const end = () => sent(!incoming.socket.destroyed, upgraded.has(incoming) ? 101 : undefined);
              Promise.resolve(response).then(() => setImmediate(end));
              return response;
            }
            const { socket } = incoming;
            const connection = connections.get(socket)!;
            // What is pipelined behind a last response is not run, for it could not be answered.
            if (connection.isLast) return new Promise<Response>(() => {});
            const ordinal = ++connection.newest; // not the response: what is held so long fills the old generation
            const { response, sent } = handler.answer(request, env, (response) => {
              if (isDraining() && connection.newest === ordinal) {
                connection.isLast = true;
                outgoing.setHeader("Connection", "close");
              }
              // A client that has left is no error of the body.
              return watched(response, (error) => socket.destroyed || outgoing.destroy(error));
            });
            const end = () => {
              if (!connection.inFlight.delete(end)) return;
              if (outgoing.errored) logError(target(request), outgoing.errored);
              sent(outgoing.writableFinished && !outgoing.errored);
              if (isClosing && connection.inFlight.size === 0) socket.destroySoon();
            };
            connection.inFlight.add(end);
            outgoing.on("close", end);
            return response;
          },
        });
        server.on("connection", (socket: Socket) => {
          const inFlight = new Set<() => void>();
          connections.set(socket, { inFlight, newest: 0, isLast: false });
          socket.on("close", () => {
            connections.delete(socket);
            for (const end of inFlight) end(); // Node.js 20 never closes pipelined responses whose client has left
          });
        });
        // The adapter leaves an upgrade that is no WebSocket alone: its client waits, and a reset ends the process.
        const [upgrade] = server.listeners("upgrade");
        if (upgrade) {
          server.removeAllListeners("upgrade").on(
            "upgrade",
            (incoming: IncomingMessage, socket: Socket, head: Uint8Array) => {
              socket.on("error", () => {});
              if (isWebSocket(incoming)) upgrade.call(server, incoming, socket, head);
              else socket.resume().end("HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
            },
          );
        }
        websocket?.server.on("connection", (ws, incoming) => {
          connections.delete(incoming.socket);
          upgraded.set(incoming, ws);
          ws.on("close", () => upgraded.delete(incoming));
        });
        await new Promise<void>((resolve, reject) => server.once("error", reject).listen(port, host, resolve));
        return {
          port: (server.address() as AddressInfo).port,
          close(idle: Promise<void>) {
            isClosing = true;
            // http.Server's own close() would cut the connections whose response is written but not yet sent.
            process.getBuiltinModule("node:net").Server.prototype.close.call(server);
            for (const ws of upgraded.values()) ws.close(1001); // https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1
            for (const [socket, { inFlight }] of connections) if (inFlight.size === 0) socket.destroySoon();
            return idle;
          },
        };
      };
    },
  };
}

function deno(): ReturnType<typeof node> {
  /** Nothing but an authority and one segment of a path: whatever the Host field held, it added nothing to the path. */
  const PLAIN_URL_PATTERN = /^http:\/\/[^/?#\\@]+\/[^/?#\\@]*$/;
  /** Header values that `Headers` takes and that end Deno with a panic when they are sent. */
  const UNSENDABLE_PATTERN = /[^\t -~\x80-\xff]/;
  /** Between two attempts to listen again. */
  const PAUSE_MS = 250;
  return {
    args: Deno.args,
    env: Deno.env.get,
    exit: Deno.exit,
    // What is not used is not named, for Deno loads it then. Past the console, which would take part in telemetry and
    // make the probe wait for its collector.
    writeOut: (line) => Deno.stdout.writeSync(new TextEncoder().encode(`${line}\n`)),
    writeError: (line) => Deno.stderr.writeSync(new TextEncoder().encode(`${line}\n`)),
    readFile: (path) => Deno.readTextFileSync(path),
    writeFile: (path, text) => Deno.writeTextFileSync(path, text),
    readLink: (path) => Deno.readLinkSync(path),
    kill: (id, signal) => Deno.kill(id, signal),
    onSignal: (handler) => (["SIGTERM", "SIGINT"] as const).map((name) => Deno.addSignalListener(name, handler)),
    onExit: (handler) => ["unload", "error", "unhandledrejection"].map((event) => addEventListener(event, handler)),
    allowListeners: () => {},
    // Its connection would not end while the client owes the rest.
    discardBody: (request) => request.body?.pipeTo(new WritableStream()).catch(() => {}),
    isProgram: () => import.meta.main,
    async *exchange(hostname, port, request, signal) {
      const connection = await Deno.connect({ hostname, port, signal });
      signal.addEventListener("abort", () => connection.close());
      await connection.write(new TextEncoder().encode(request));
      const chunk = new Uint8Array(HEAD_LIMIT_BYTES);
      for (let size; (size = await connection.read(chunk));) yield chunk.subarray(0, size);
    },
    loadServer: async () => async (hostname, port, handler, isDraining) => {
      const servers: Deno.HttpServer[] = [];
      const uploads = new Set<Promise<void>>();
      let isClosing = false;
      const prepare = (response: Response) => {
        if (response.bodyUsed) throw new TypeError("the route returned a response whose body was read already");
        response.headers.forEach((value, name) => {
          if (UNSENDABLE_PATTERN.test(value)) throw new TypeError(`the header ${name} holds a control character`);
        });
        if (!isDraining() || response.status === 101) return response;
        const last = new Response(response.body, response); // the headers of some responses are immutable
        last.headers.set("Connection", "close");
        return last;
      };
      /** Answers what no route is asked. */
      const refuse = (request: Request, status: number) => {
        runtime.discardBody(request);
        return new Response(null, { status, headers: { Connection: "close" } });
      };
      const onError = (error: unknown) => {
        logError({}, error);
        return internalError();
      };
      const listen = (onListen: (address: Deno.NetAddr) => void) => {
        const server = Deno.serve({ hostname, port, onListen, onError }, (request, info) => {
          // Deno would take what follows the host in this field for the path. Reading the field costs more than its URL.
          if (!PLAIN_URL_PATTERN.test(request.url) && /[/?#\\@]/.test(request.headers.get("host") ?? "")) {
            return refuse(request, 400);
          }
          const { completed } = info;
          if (request.method !== "GET" && request.body) {
            if (isClosing) return refuse(request, 503); // see close()
            const upload = completed.catch(() => {}).finally(() => uploads.delete(upload));
            uploads.add(upload);
          }
          const { response, sent } = handler.answer(request, info, prepare);
          completed.then(() => sent(true), () => sent(false));
          return response;
        });
        servers.push(server);
        // Without a file descriptor to accept with, it gives up; it still serves the connections that it has.
        server.finished.catch(replace);
      };
      const replace = async (error: unknown) => {
        print(`Cannot accept connections: ${errorMessage(error)}`, console.error);
        await sleep(PAUSE_MS);
        if (!isClosing) await new Promise(listen).catch(replace);
      };
      ({ port } = await new Promise<Deno.NetAddr>(listen));
      return {
        port,
        async close(idle) {
          isClosing = true;
          // shutdown() makes the bodies of requests in flight unreadable: https://github.com/denoland/deno/issues/36809
          // So it waits for those that began, and the listener refuses others meanwhile.
          while (uploads.size > 0) await Promise.race(uploads);
          // Both, for a large response is `completed` before its last bytes have left.
          await Promise.all([idle, ...servers.map((server) => server.shutdown())]);
        },
      };
    },
  };
}

const runtime = typeof Deno === "undefined" ? node() : deno();

// ── The program ──

const USAGE = `Usage: main.ts [--ping | --help | --version]

Serves; with --ping asks the running instance for /healthz, and exits 0 if it is healthy, 1 if not.

Environment, for both: PORT (8080), HOST (0.0.0.0), PING_TIMEOUT_MS (3000), DRAIN_DELAY_MS (0),
SHUTDOWN_TIMEOUT_MS (8000), HEAL_AFTER_MS (0: never), ACCESS_LOG (on)`;

/** Does what the arguments say and returns the exit code. */
async function main(args: string[]): Promise<number> {
  const stray = args.find((arg) => !/^--(ping|help|version)$/.test(arg)) ?? args[1];
  if (stray !== undefined) throw new Error(`Unexpected argument ${quote(stray)}\n${USAGE}`);
  const [flag] = args;
  if (!flag) return await serve(readSettings(runtime.env));
  let line = flag === "--help" ? USAGE : VERSION;
  if (flag === "--ping") {
    const settings = readSettings(runtime.env);
    const finding = await probe(settings);
    const note = settings.healAfterMs && heal(finding, settings.healAfterMs);
    line = note ? `${finding.text}; ${note}` : finding.text;
    if (finding.outcome !== "healthy") throw new Error(line);
  }
  print(line, runtime.writeOut);
  return 0;
}

if (runtime.isProgram()) {
  await main(runtime.args).catch((error) => {
    print(errorMessage(error), runtime.writeError);
    return 1;
  }).then(runtime.exit);
}
