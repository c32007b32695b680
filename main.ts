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
import type { Context, Hono } from "hono";
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
 * @returns It, to take routes, and what gives it the hook that readiness depends on
 */
export async function createApp(
  isDraining: () => boolean,
): Promise<{ app: App; useReady(ready: Hooks["ready"]): void }> {
  const { Hono } = await import("hono");
  const app: App = new Hono();
  let unready: (() => Promise<boolean>) | undefined;

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
  check("/readyz", (c) => {
    const answer = (status: string) => c.json({ status }, status === "ready" ? 200 : 503, uncached);
    if (isDraining()) return answer("draining");
    return unready ? unready().then((isUnready) => answer(isUnready ? "unready" : "ready")) : answer("ready");
  });

  app.notFound((c) => {
    runtime.discardBody(c.req.raw);
    return c.json({ error: "Not Found" }, 404);
  });
  const { onError } = app;
  // A handler of the user's own takes the place of ours, and the log still tells.
  app.onError = (handler) =>
    onError((error, c) => {
      const isClientFault = "getResponse" in error && error.getResponse().status < 500;
      if (!isClientFault) logError(target(c.req.raw), error);
      return handler(error, c);
    });
  app.onError((error) => {
    const response = "getResponse" in error && error.getResponse();
    return response && response.status < 500 ? response : internalError();
  });
  return { app, useReady: (ready) => unready = ready && shareUnready(ready) };
}

/** Asks `ready` at most once in READY_LIMIT_MS; what comes in between shares the outcome. Logs when that changes. */
function shareUnready(ready: () => unknown): () => Promise<boolean> {
  let askedMs = -Infinity;
  let wasUnready = false;
  let outcome = Promise.resolve(false);
  const ask = async () => {
    const asked = (async () => {
      if (await ready() === false) throw new Error("ready() returned false");
    })();
    const thrown = await inTime(asked, READY_LIMIT_MS).then(
      (isInTime) => isInTime ? undefined : { error: new Error(`ready() took more than ${READY_LIMIT_MS} ms`) },
      (error) => ({ error }),
    );
    const isUnready = thrown !== undefined;
    if (isUnready && !wasUnready) logError({ status: "unready" }, thrown.error);
    if (!isUnready && wasUnready) print(entry({ status: "ready" }));
    return wasUnready = isUnready;
  };
  return () => {
    if (performance.now() - askedMs >= READY_LIMIT_MS) {
      askedMs = performance.now();
      outcome = ask();
    }
    return outcome;
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
const target = ({ method, url = "" }: { method?: string; url?: string }) => ({
  method,
  path: url.replace(/^\w+:\/\/[^/]*|[?#].*/g, ""),
});

/** Logs in one line what was thrown, which may be anything, and where. */
function logError(context: object, thrown: unknown): void {
  let error: string = typeof thrown;
  let stack;
  try {
    error = String(thrown).slice(0, ERROR_LIMIT_CHARS);
    stack = thrown instanceof Error
      ? thrown.stack?.match(/^ +at .*$/gm)?.join("\n").slice(0, STACK_LIMIT_CHARS)
      : undefined;
  } catch { /* it has no text */ }
  print(entry({ ...context, error, stack }), console.error);
}

/** What a client learns of a failure. */
const internalError = () => Response.json({ error: "Internal Server Error" }, { status: 500 });

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
  const respond = (request: Request, env: object, prepare: (response: Response) => Response) => {
    const finish = (response: Response) => {
      const isResponse = response instanceof RuntimeResponse && response.status !== 0; // 0: a network error
      if (!isResponse) {
        throw new TypeError(`the route returned ${response === null ? null : typeof response}, no response to send`);
      }
      return prepare(response);
    };
    const fail = (thrown: unknown) => {
      logError(target(request), thrown);
      return prepare(internalError());
    };
    try {
      const response = app.fetch(request, env);
      return response instanceof Promise ? response.then(finish).catch(fail) : finish(response);
    } catch (thrown) {
      return fail(thrown);
    }
  };
  return {
    /**
     * @param env What the runtime gives with the request
     * @param prepare The runtime's last word on a response; may throw
     * @returns The response, and what is to be called once, when that was sent or its client is gone
     */
    answer(request: Request, env: object, prepare: (response: Response) => Response) {
      const startMs = accessLog ? performance.now() : 0; // which costs a tenth of a request
      inFlight++;
      const response = respond(request, env, prepare);
      const end = (status: number, isComplete: boolean) => {
        if (accessLog) {
          const { method, path } = target(request);
          if (path !== "/healthz" && path !== "/readyz") {
            const ms = Math.round((performance.now() - startMs) * 1000) / 1000;
            const incomplete = isComplete ? undefined : true;
            const line = JSON.stringify({ time: timestamp(), method, path, status, ms, incomplete });
            if (gathered.push(line) === 1) setTimeout(flush, GATHER_MS);
          }
        }
        if (--inFlight === 0) onIdle();
      };
      return {
        response,
        sent(isComplete: boolean, status?: number) {
          // A client may leave before its route is done.
          if (response instanceof Promise) response.then((response) => end(status ?? response.status, isComplete));
          else end(status ?? response.status, isComplete);
        },
      };
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
 * @returns The exit code: 0 once every request in flight is answered and all is closed, 1 if not
 * @throws {Error} in one line that names the address, if it cannot listen there
 */
async function serve({ host, port, accessLog, drainDelayMs, shutdownTimeoutMs }: Settings): Promise<number> {
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
    runtime.onSignal("SIGTERM", stop);
    runtime.onSignal("SIGINT", stop);
  });
  runtime.onExit(flush);

  const { app, useReady } = await createApp(isDraining);
  const handler = createHandler(app, accessLog);
  const listen = await runtime.loadServer();
  const stopping = new AbortController();
  runtime.allowListeners(stopping.signal);
  let hooks: Hooks | void;
  try {
    hooks = await addRoutes(app, { stopping: stopping.signal });
  } catch (error) {
    logError({ during: "addRoutes()" }, error);
    return 1;
  }
  isStarted = true;
  useReady(hooks?.ready?.bind(hooks));

  /** Runs the user's close() and tells whether it succeeded in time. */
  const close = async (ms: number): Promise<boolean> => {
    try {
      if (await inTime((async () => await hooks?.close?.())(), ms)) return true;
      throw new Error(`close() took more than ${Math.round(ms)} ms`);
    } catch (error) {
      logError({ during: "close()" }, error);
      return false;
    }
  };
  const listener = await listen(host, port, handler, isDraining, hooks?.websocket).catch(async (error) => {
    await close(Math.max(CLOSE_LEAST_MS, shutdownTimeoutMs));
    throw new Error(`Cannot listen on ${authority(host, port)}: ${errorMessage(error)}`);
  });
  print(`Listening on http://${authority(host, listener.port)}`);

  await stopped;
  await sleep(drainDelayMs);
  const deadlineMs = performance.now() + shutdownTimeoutMs;
  stopping.abort();
  const isDrained = await inTime(listener.close(handler.idle()), shutdownTimeoutMs);
  if (!isDrained) {
    const left = handler.inFlight() || "none, but connections still open";
    print(`Cut after ${shutdownTimeoutMs} ms, requests in flight: ${left}`, console.error);
  }
  const isClosed = await close(Math.max(CLOSE_LEAST_MS, deadlineMs - performance.now()));
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
export interface Finding {
  outcome: "healthy" | "unhealthy" | "refused";
  /** One line. */
  text: string;
}

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
    const isOwnInit = INIT_PATTERN.test(command) && command.includes(`\0${import.meta.filename}\0`) && its &&
      its === own;
    if (!isOwnInit) return "refused: process 1 is not this container's init";
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
  const integer = (name: string, fallback: string, least: number, most = TIMER_LIMIT_MS) =>
    Number(read(name, fallback, `an integer from ${least} to ${most}`, (text) => {
      const value = parseInt(text);
      return `${value}` === text && value >= least && value <= most;
    }));
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
  const url = `http://${bracketed(text)}`;
  if (!URL.canParse(url)) return false;
  return text.includes(":") ? /^[\da-f:.]+$/i.test(text) : new URL(url).host === text.toLowerCase();
}

// ── Text and time ──

/** As much of others' text as a message quotes: escaped, a character takes up to six. */
const QUOTE_LIMIT_CHARS = 64;

/** What can be read, or nothing. */
function attempt(read: () => string): string {
  try {
    return read();
  } catch {
    return "";
  }
}

/** Others' text as a message shows it: quoted, bounded, printable ASCII. */
function quote(text: string): string {
  return JSON.stringify(text.slice(0, QUOTE_LIMIT_CHARS)).replace(/[^ -~]/g, "?");
}

/** What went wrong, in the runtime's words; the error of several addresses at once has only a code. */
function errorMessage(error: unknown): string {
  const { message, code } = error as Error & { code?: string };
  return message || `${code}`;
}

/** A host as a URL has it: https://www.rfc-editor.org/rfc/rfc3986#section-3.2.2 */
const bracketed = (host: string) => host.includes(":") ? `[${host}]` : host;

const authority = (host: string, port: number) => `${bracketed(host)}:${port}`;

const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

/** Whether a promise resolves within a time; rejects if it does. */
async function inTime(promise: Promise<unknown>, ms: number): Promise<boolean> {
  let stop = () => {};
  const late = new Promise<false>((resolve) => {
    const timer = setTimeout(() => resolve(false), ms);
    stop = () => clearTimeout(timer);
  });
  return await Promise.race([promise.then(() => true), late]).finally(stop);
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
    onSignal: (signal: "SIGTERM" | "SIGINT", handler: () => void): unknown => process.on(signal, handler),
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
      const watched = (response: Response, onError: (error: unknown) => void): Response => {
        const body = KEPT in response ? (response as unknown as Record<symbol, unknown[]>)[KEPT][1] : response.body;
        if (!(body instanceof ReadableStream)) return response;
        const { status, statusText, headers } = response;
        const { readable, writable } = new TransformStream();
        const chunks = new RuntimeResponse(body).body!; // throws if it was read already, or is locked
        chunks.pipeTo(writable, { preventAbort: true }).catch(onError);
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
      return async (
        hostname: string,
        port: number,
        handler: Handler,
        isDraining: () => boolean,
        websocket: Hooks["websocket"],
      ) => {
        /** What ends each request in flight, the newest of them, and whether the response that closes it is on its way. */
        const connections = new Map<Socket, { inFlight: Set<() => void>; newest: number; isLast: boolean }>();
        let isClosing = false;
        const upgraded = new Map<unknown, { close(code: number): void }>();
        const server = createAdaptorServer({
          serverOptions: { ServerResponse: CheckedResponse },
          hostname: "localhost", // of a request without Host: HTTP/1.0, as HAProxy checks
          websocket,
          fetch(request, env) {
            const { incoming, outgoing } = env as {
              incoming: HttpBindings["incoming"];
              outgoing?: HttpBindings["outgoing"];
            };
            if (!outgoing) {
              const { response, sent } = handler.answer(request, env, (response) => response);
              Promise.resolve(response).then(() =>
                setImmediate(() => sent(true, upgraded.has(incoming) ? 101 : undefined))
              );
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
              return watched(response, (error) => {
                if (!socket.destroyed) outgoing.destroy(error as Error); // the client has not left
              });
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
        websocket?.server.on("connection", (ws, incoming) => {
          connections.delete(incoming.socket);
          upgraded.set(incoming, ws);
          ws.on("close", () => upgraded.delete(incoming));
        });
        await new Promise<void>((resolve, reject) => server.once("error", reject).listen(port, hostname, resolve));
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
    onSignal: (signal, handler) => Deno.addSignalListener(signal, handler),
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
    loadServer: () =>
      Promise.resolve(async (hostname, port, handler, isDraining) => {
        const servers: Deno.HttpServer[] = [];
        const uploads = new Set<Promise<void>>();
        let isClosing = false;
        const prepare = (response: Response) => {
          if (response.bodyUsed) throw new TypeError("the route returned a response whose body was read already");
          if (!isDraining() || response.status === 101) return response;
          const last = new Response(response.body, response); // the headers of some responses are immutable
          last.headers.set("Connection", "close");
          return last;
        };
        const onError = (error: unknown) => {
          logError({}, error);
          return internalError();
        };
        const listen = (onListen: (address: Deno.NetAddr) => void) => {
          const server = Deno.serve({ hostname, port, onListen, onError }, (request, info) => {
            // Deno would take what follows the host in this field for the path. Reading the field costs more than its URL.
            if (!PLAIN_URL_PATTERN.test(request.url) && /[/?#\\@]/.test(request.headers.get("host") ?? "")) {
              return new Response(null, { status: 400 });
            }
            const { completed } = info;
            if (request.method !== "GET" && request.body) {
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
            while (uploads.size > 0) await Promise.race(uploads);
            const ended = Promise.all(servers.map((server) => server.shutdown()));
            await idle;
            await ended; // a large response is `completed` before its last bytes have left
          },
        };
      }),
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
  const flags = ["--ping", "--help", "--version"];
  const stray = args.find((arg) => !flags.includes(arg)) ?? args[1];
  if (stray !== undefined) throw new Error(`Unexpected argument ${quote(stray)}\n${USAGE}`);
  if (args.includes("--help")) print(USAGE, runtime.writeOut);
  else if (args.includes("--version")) print(VERSION, runtime.writeOut);
  else if (args.includes("--ping")) {
    const settings = readSettings(runtime.env);
    const finding = await probe(settings);
    const note = settings.healAfterMs && heal(finding, settings.healAfterMs);
    const line = note ? `${finding.text}; ${note}` : finding.text;
    if (finding.outcome !== "healthy") throw new Error(line);
    print(line, runtime.writeOut);
  } else return await serve(readSettings(runtime.env));
  return 0;
}

if (runtime.isProgram()) {
  const code = await main(runtime.args).catch((error) => {
    print(errorMessage(error), runtime.writeError);
    return 1;
  });
  runtime.exit(code);
}
