/**
 * heartbeat 4.0.0: an HTTP service in one file. It has health endpoints, a probe that asks one of
 * them, and a stop that answers every accepted request.
 *
 *     npx tsx main.ts                   serve on Node.js
 *     deno run -P --no-prompt main.ts   serve on Deno
 *
 * With `--ping` both commands ask the running instance for /healthz: exit code 0 if it is healthy,
 * 1 if not.
 *
 * @module
 */
import type { HttpBindings, WebSocketServerLike } from "@hono/node-server";
import type { Context, Hono, HonoRequest } from "hono";
import type { HTTPException } from "hono/http-exception";
import type { IncomingMessage, Server as HttpServer } from "node:http";

/**
 * Your service: its routes, and what it opens and closes. The server listens once this resolves.
 *
 * @param app Takes the routes: https://hono.dev/docs/api/routing
 * @param tools `stopping` aborts when your streams and loops have to end. `log(c, fields)` adds to
 * the request's line in the log
 * @returns Hooks: `ready` for /readyz, `close` for the end, `websocket` for Node.js
 */
export async function addRoutes(app: App, { stopping, log }: Tools): Promise<Hooks | void> {
  // Import packages in here, by `await import("…")`, so that `--ping` does not load them.
  // ════════ YOUR ROUTES BEGIN HERE ════════

  app.get("/", (c) => c.text("It works: replace this route in main.ts with your own\n"));

  // ════════ YOUR ROUTES END HERE ════════
}

// ── What addRoutes() takes and returns ──

/** The application. `c.env` holds what the runtime gives with a request, on Node.js or Deno. */
export type App = Hono<{
  Bindings: Partial<HttpBindings & Deno.ServeHandlerInfo<Deno.NetAddr>>;
  Variables: Record<string, unknown>;
}>;

/** What a service is given. */
export interface Tools {
  /** Aborts after a signal and DRAIN_DELAY_MS: end streams and loops then. */
  stopping: AbortSignal;
  /**
   * Adds fields to the request's line in the log. A field `error` sends the line to standard error.
   * If it is an Error, the line gets its text, `cause` and `stack`. If the client had left already,
   * the line gets `incomplete` in place of the Error, because the service did not fail.
   */
  log(c: { env?: object }, fields: Record<string, unknown>): void;
}

/** What a service may return. */
export interface Hooks {
  /**
   * Called for /readyz, at most once a second.
   * The service is unready if it returns false, fails or takes longer than a second.
   */
  ready?(): unknown;
  /**
   * Called after the last request. It gets what is left of SHUTDOWN_TIMEOUT_MS, and at least a
   * second.
   */
  close?(): unknown;
  /**
   * For Node.js, a WebSocketServer of `ws` with `noServer: true`:
   * https://hono.dev/docs/helpers/websocket
   */
  websocket?: {
    server: WebSocketServerLike & { clients?: Iterable<{ close(code: number): void }> };
  };
}

// ── The application ──

/** The shortest time between two calls of `ready`, and the longest that one may take. */
const READY_LIMIT_MS = 1000;
const INTERNAL_ERROR = { error: "Internal Server Error" };

/**
 * Builds the application with its health endpoints. Imports Hono here so that `--ping` does not
 * load it.
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
  await markMalformedBodies();
  const app: App = new Hono();
  const checkReady = createReadyCheck(ready);
  const uncached = { "Cache-Control": "no-store" };

  // Registered first: no middleware can break or delay the health endpoints.
  app.get("/healthz", (c) => c.body(null, 200, uncached));
  app.get("/readyz", async (c) => {
    if (isDraining()) return c.json({ status: "draining" }, 503, uncached);
    if (await checkReady()) return c.json({ status: "ready" }, 200, uncached);
    return c.json({ status: "unready" }, 503, uncached);
  });

  app.notFound((c) => c.json({ error: "Not Found" }, 404));
  app.onError(answerError);
  return app;
}

/**
 * Returns a check that calls `ready` at most once in READY_LIMIT_MS. It logs each change, so a
 * service that is ready from the start has no line.
 */
function createReadyCheck(ready: () => unknown): () => Promise<boolean> {
  let askedMs = -Infinity;
  let wasReady = true;
  let latest = Promise.resolve(true);

  const ask = async (): Promise<boolean> => {
    let isReady = true;
    let reason: unknown;
    try {
      const value = await within(READY_LIMIT_MS, "ready()", ready);
      if (value === false) {
        isReady = false;
        reason = "ready() returned false";
      }
    } catch (error) {
      isReady = false;
      reason = error;
    }
    if (isReady && !wasReady) print(toLine({ status: "ready" }));
    if (!isReady && wasReady) {
      print(toLine({ status: "unready", ...errorFields(reason) }), runtime.writeError);
    }
    wasReady = isReady;
    return isReady;
  };

  return () => {
    const nowMs = performance.now();
    if (nowMs - askedMs >= READY_LIMIT_MS) {
      askedMs = nowMs;
      latest = ask();
    }
    return latest;
  };
}

/**
 * Answers what a route threw: an HTTPException as it says, a malformed body with 400, anything else
 * with 500. Logs it if the status is 500 or more. An `onError` of your own calls this for errors
 * that it does not handle.
 */
export async function answerError(error: Error, c: Context): Promise<Response> {
  // Tests the shape and not the class, because a package may bring a second copy of the class.
  if ("getResponse" in error) return await answerException(error as HTTPException, c);
  // A body does not parse either if it was cut because its client left.
  if (malformed.has(error) && !runtime.hasClientLeft(c.env, error)) {
    return c.json({ error: "Malformed request body" }, 400);
  }
  log(c, { error });
  return c.json(INTERNAL_ERROR, 500);
}

/**
 * Answers an HTTPException. Plain text becomes `{"error": …}`, the form of every other error.
 * c.json() and c.newResponse() keep the headers that were set before the exception. c.json() puts
 * its own Content-Type in place of the response's.
 */
async function answerException(exception: HTTPException, c: Context): Promise<Response> {
  const response = exception.getResponse();
  if (response.status >= 500) log(c, { error: exception });
  const { body, headers } = response;
  const isText = headers.get("Content-Type")?.startsWith("text/plain");
  if (!body || !isText || headers.has("Content-Encoding")) return c.newResponse(body, response);
  const text = await response.text();
  headers.delete("Content-Length"); // the text's, not the JSON's
  // An HTTPException without a message has an empty text.
  return c.json({ error: text || `Status ${response.status}` }, response);
}

/** Errors of c.req.json(), formData() and parseBody() for a body that does not parse. */
const malformed = new WeakSet<Error>();
/** Whether HonoRequest has been patched. Once is enough, however many applications tests build. */
let isPatched = false;

/**
 * Patches HonoRequest, so that the errors of a body that does not parse are put into `malformed`.
 * Their types alone do not tell them from a fault of the route, which throws the same types.
 */
async function markMalformedBodies(): Promise<void> {
  const { HonoRequest } = await import("hono/request");
  if (isPatched) return;
  isPatched = true;
  // What each method throws if it cannot parse. Any other error comes from reading the body.
  const parseErrors = { json: SyntaxError, formData: TypeError, parseBody: TypeError };
  for (const name of ["json", "formData", "parseBody"] as const) {
    const parse = HonoRequest.prototype[name] as (...args: unknown[]) => Promise<unknown>;
    const parseAndMark = function (this: HonoRequest, ...args: unknown[]) {
      // If the body is taken, json() throws a TypeError, which is not marked anyway.
      const isTaken = name !== "json" && isTakenRaw(this);
      return parse.apply(this, args).catch((error) => {
        if (error instanceof parseErrors[name] && !isTaken) malformed.add(error);
        throw error;
      });
    };
    Object.defineProperty(HonoRequest.prototype, name, { value: parseAndMark });
  }
}

/** Whether the route read the body by `c.req.raw`. Nothing is left to be parsed then. */
function isTakenRaw({ raw, bodyCache }: HonoRequest): boolean {
  return raw.bodyUsed && Object.keys(bodyCache).length === 0;
}

// ── Requests in flight ──

/** Returns a counter, which tells when it comes back to zero. */
function createCounter() {
  let count = 0;
  let onZero = () => {};
  return {
    count: () => count,
    up() {
      count += 1;
    },
    down() {
      count -= 1;
      if (count === 0) onZero();
    },
    /** Resolves once the count is zero. Only one caller may wait. */
    zero(): Promise<void> {
      if (count === 0) return Promise.resolve();
      return new Promise((resolve) => {
        onZero = resolve;
      });
    },
  };
}

/** Answers requests and knows how many are in flight. */
export type Handler = ReturnType<typeof createHandler>;

/**
 * Wraps the application: gives an answer whatever its routes do, counts requests in flight, and
 * logs each one when it is over.
 *
 * @param isDraining Whether the service drains; each response then closes its connection
 * @param accessLog Whether every request is logged; if not, only a failed one is
 */
export function createHandler(app: App, isDraining: () => boolean, accessLog: boolean) {
  const inFlight = createCounter();
  return {
    inFlight: inFlight.count,
    /** Resolves once nothing is in flight. */
    idle: inFlight.zero,
    /**
     * Answers a request. Returns a promise only where the route does, because the adapter of
     * Node.js sends a Response faster than a promise of one.
     *
     * @param env What the runtime gives with the request: a new object for each request
     * @param sent Resolves once the response was sent, rejects if it was cut or the client left
     */
    answer(request: Request, env: object, sent: Promise<unknown>): Response | Promise<Response> {
      const startMs = accessLog ? performance.now() : 0; // because Deno's clock takes time
      let response: Response | Promise<Response>;

      /** Makes a response of a route ready to be sent. */
      const finish = (made: Response): Response => {
        assertResponse(made);
        // A response without an error may go on to read the body, as an echo does.
        if (made.status >= 400) discardUnread(request, made);
        return runtime.prepare(made, env, isDraining());
      };
      const fail = (thrown: unknown): Response => {
        noteError(env, thrown);
        return finish(Response.json(INTERNAL_ERROR, { status: 500 }));
      };
      const end = async (isSent: boolean) => {
        // A route may still run after its client left. Only a promise is awaited, because each
        // await takes time.
        const { status } = response instanceof Promise ? await response : response;
        inFlight.down();
        if (accessLog || notes.has(env)) {
          logRequest(request, env, { status, isSent, startMs, accessLog });
        }
      };

      inFlight.up();
      try {
        if (request.method === "HEAD") showAsGet(request);
        const returned = app.fetch(request, env);
        response = returned instanceof Promise
          ? returned.then(finish).catch(fail)
          : finish(returned);
      } catch (thrown) {
        response = fail(thrown);
      }
      sent.then(() => end(true), () => end(false));
      return response;
    },
  };
}

/** Throws if a route returned no Response, or Response.error(), whose status is 0. */
function assertResponse(returned: Response): void {
  if (returned instanceof Response && returned.status) return;
  throw new TypeError("the route returned no Response");
}

/**
 * Discards the body of a request whose route answered with an error and did not read it. Left
 * unread, it would hold the connection open on Deno, and end it on Node.js.
 */
function discardUnread(request: Request, response: Response): void {
  if (request.method === "GET") return; // it has no body, and reading `body` takes time
  const { body } = request;
  if (!body || body.locked || body === response.body) return; // the last: it is sent back
  discard(body);
}

/** Reads a body to its end, and throws the data away. */
function discard(body: ReadableStream): void {
  body.pipeTo(new WritableStream()).catch(() => {});
}

/**
 * Shows a HEAD to Hono as a GET. For a HEAD Hono runs the GET's route, puts null in place of the
 * response's body, and does not cancel that (no upstream issue yet). So an event stream would go
 * on for ever, and Deno would send the length of null, 0. Hono reads the method first to choose the
 * route: that read gives GET, and every later one gives HEAD. The body is then cancelled by
 * prepare() on Node.js, and by Deno itself.
 */
function showAsGet(request: Request): void {
  let isRouted = false;
  const get = () => {
    if (isRouted) return "HEAD";
    isRouted = true;
    return "GET";
  };
  Object.defineProperty(request, "method", { get });
}

// ── The log ──

/** Lines of the access log are gathered for this long: one write costs as much as a request. */
const GATHER_MS = 10;
const ERROR_LIMIT_CHARS = 400;
const STACK_LIMIT_CHARS = 1000;

/** Further fields of a request's line, by its `env`; most requests have none. */
const notes = new WeakMap<object, Record<string, unknown>>();

/** Adds fields to those noted before. */
function note(env: object, fields: Record<string, unknown>): void {
  notes.set(env, { ...notes.get(env), ...fields });
}

/** The tool `log` of addRoutes(). Does nothing without an `env`, as in `app.request()`. */
function log({ env }: { env?: object }, { error, ...fields }: Record<string, unknown>): void {
  if (!env) return;
  note(env, fields);
  if (error instanceof Error) noteError(env, error);
  else if (error !== undefined) note(env, { error });
}

/** Notes what was thrown. If the client had left, notes `incomplete` in its place. */
function noteError(env: object, thrown: unknown): void {
  if (runtime.hasClientLeft(env, thrown)) note(env, { incomplete: true });
  else note(env, errorFields(thrown));
}

/** What became of a request. */
interface Outcome {
  status: number;
  /** False if its client left or its response was cut. */
  isSent: boolean;
  /** When the request came, if the access log is on. */
  startMs: number;
  /** Whether the access log is on. */
  accessLog: boolean;
}

/**
 * Logs a request that is over. A line with an error goes to standard error at once, any other to
 * the access log. Requests for health have no line.
 */
function logRequest(
  { method, url }: Request,
  env: object,
  { status, isSent, startMs, accessLog }: Outcome,
): void {
  // The path alone, because a query may hold secrets.
  const path = url.replace(/^\w+:\/\/[^/]*|[?#].*/g, "");
  if (path === "/healthz" || path === "/readyz") return;
  const more = notes.get(env);
  const ms = accessLog ? roundedMs(performance.now() - startMs) : undefined;
  const incomplete = !isSent || more?.incomplete || undefined;
  const line = toLine({ method, path, status, ms, incomplete }, more);
  if (more?.error !== undefined) {
    print(line, runtime.writeError);
  } else if (accessLog) {
    gathered.push(line);
    if (gathered.length === 1) setTimeout(flush, GATHER_MS);
  }
}

/** Rounds to a microsecond. */
function roundedMs(ms: number): number {
  return Math.round(ms * 1000) / 1000;
}

/**
 * Makes a line of the log, with `time` in milliseconds since 1970.
 *
 * @param fields The usual fields
 * @param more Further fields, which replace none of the usual ones
 */
function toLine(fields: object, more?: object): string {
  const usual = { time: Date.now(), ...fields };
  if (!more) return JSON.stringify(usual);
  try {
    // The usual fields come first to be read first, and again last because they must win.
    // A field named toJSON is removed, because JSON.stringify() would call it.
    return JSON.stringify({ ...usual, ...more, ...usual, toJSON: undefined });
  } catch (error) { // a BigInt, a cycle, or a toJSON() that throws
    return JSON.stringify({ ...usual, unloggable: toText(error) });
  }
}

/** Returns bounded fields that describe what was thrown. That may be a value of any type. */
function errorFields(thrown: unknown) {
  const { cause, stack }: Partial<Error> = thrown instanceof Error ? thrown : {};
  // The frames alone, because the message is in `error`.
  const frames = `${stack}`.match(/^ +at .*$/gm)?.join("\n").slice(0, STACK_LIMIT_CHARS);
  return {
    error: toText(thrown),
    cause: cause === undefined ? undefined : toText(cause),
    stack: frames,
  };
}

/** Returns a bounded text. An object that is no Error gives "an object": String() may throw. */
function toText(value: unknown): string {
  if (typeof value === "object" && !(value instanceof Error)) return "an object";
  return String(value).slice(0, ERROR_LIMIT_CHARS);
}

/** Lines of the access log that wait for flush(). */
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

/** The shortest time that the `close` of a service gets, and that the log gets after it. */
const CLOSE_MIN_MS = 1000;

/** A listening server. `close` waits for the requests in flight, and ends accepting. */
type Listener = { port: number; close(): Promise<unknown> };

/**
 * Serves until a signal, then drains.
 *
 * @returns The exit code: 0 if every request in flight was answered and `close` succeeded, else 1
 * @throws {Error} in one line, if addRoutes() fails or the server cannot listen
 */
async function serve(settings: Settings): Promise<number> {
  let isDraining = false;
  let hooks: Hooks = {};

  // Start.
  const stopping = new AbortController();
  runtime.allowAbortListeners(stopping.signal); // each open stream listens
  const app = await createApp(() => isDraining, () => hooks.ready?.());
  hooks = await start(app, { stopping: stopping.signal, log });

  // Listen.
  const handler = createHandler(app, () => isDraining, settings.accessLog);
  const signalled = firstSignal(handler);
  const listener = await listen(settings, handler, hooks);
  print(`Listening on ${describeAddress(settings.host, listener.port)}`);
  runtime.beforeEnd(flush); // a crash loses no gathered line

  // Drain, from the signal on: /readyz fails, and each response closes its connection.
  await signalled;
  isDraining = true;
  print(`Draining, requests in flight: ${handler.inFlight()}`);
  await sleep(settings.drainDelayMs); // a balancer sees /readyz fail and sends no more

  // Stop.
  stopping.abort();
  return await stop(listener, handler, hooks, settings.shutdownTimeoutMs);
}

/** Runs addRoutes(). If it fails, throws an Error whose message is one line and names it. */
async function start(app: App, tools: Tools): Promise<Hooks> {
  try {
    return await addRoutes(app, tools) ?? {};
  } catch (error) {
    throw new Error(toLine({ during: "addRoutes()", ...errorFields(error) }));
  }
}

/** Listens. If it cannot, throws an Error whose message is one line and names the address. */
async function listen(
  { host, port }: Settings,
  handler: Handler,
  hooks: Hooks,
): Promise<Listener> {
  try {
    return await runtime.listen(host, port, handler, hooks);
  } catch (error) {
    throw new Error(`Cannot listen on ${authority(host, port)}: ${errorMessage(error)}`);
  }
}

/**
 * The address that the start prints. For a wildcard such as 0.0.0.0 it has localhost, because no
 * browser on Windows opens a wildcard.
 */
function describeAddress(host: string, port: number): string {
  if (!WILDCARD_PATTERN.test(host)) return `http://${authority(host, port)}`;
  return `http://localhost:${port} (HOST=${host})`;
}

/**
 * Stops accepting, waits for the requests in flight, and closes what the service opened.
 *
 * @param shutdownTimeoutMs How long the requests may take. `close` gets the rest of it, and at
 * least CLOSE_MIN_MS
 * @returns The exit code of serve()
 */
async function stop(
  listener: Listener,
  handler: Handler,
  hooks: Hooks,
  shutdownTimeoutMs: number,
): Promise<number> {
  let exitCode = 0;
  const deadlineMs = performance.now() + shutdownTimeoutMs;
  const leftMs = () => Math.max(CLOSE_MIN_MS, Math.round(deadlineMs - performance.now()));

  try {
    await within(shutdownTimeoutMs, "the stop", listener.close);
  } catch { // it took longer
    exitCode = 1;
    const open = handler.inFlight() || "none, but connections still open";
    print(`Cut after ${shutdownTimeoutMs} ms, requests in flight: ${open}`, runtime.writeError);
  }

  try {
    await within(leftMs(), "close()", () => hooks.close?.());
  } catch (error) {
    exitCode = 1;
    print(toLine({ during: "close()", ...errorFields(error) }), runtime.writeError);
  }

  flush();
  try {
    await within(leftMs(), "the log", runtime.written);
  } catch { /* the service ends even if nobody reads its log */ }
  return exitCode;
}

/** A signal this soon after the first is the same one: under `npm start` Ctrl-C arrives twice. */
const SAME_SIGNAL_MS = 500;

/** Resolves at the first SIGTERM or SIGINT. A second one ends the process with exit code 1. */
function firstSignal(handler: Handler): Promise<void> {
  let firstMs: number | undefined;
  return new Promise((resolve) => {
    runtime.onSignal(() => {
      const nowMs = performance.now();
      if (firstMs === undefined) {
        firstMs = nowMs;
        resolve();
        return;
      }
      if (nowMs - firstMs < SAME_SIGNAL_MS) return;
      flush();
      const open = handler.inFlight();
      print(`Cut by a second signal, requests in flight: ${open}`, runtime.writeError);
      runtime.exit(1);
    });
  });
}

// ── The probe ──

/** The most bytes of a response head that the probe reads. */
const HEAD_LIMIT_BYTES = 16_384;
/** The wildcard address of IPv4 or IPv6, however it is written: 0.0.0.0, ::, 0:0:0:0:0:0:0:0. */
const WILDCARD_PATTERN = /^[0.:]+$/;

/** What a probe found, in one word and in one line of text. */
export interface Finding {
  /**
   * `refused`: nothing listens there, because the service is starting or has ended. `--ping` calls
   * it unhealthy, and heal() does not count it.
   * `unavailable`: the machine has no such address.
   */
  outcome: "healthy" | "unhealthy" | "refused" | "unavailable";
  text: string;
}

/**
 * Asks the instance that the settings describe for /healthz: at HOST, or on loopback for a
 * wildcard.
 *
 * @returns What it found
 * @throws {Error} in one line, if the settings do not tell the port
 */
export async function probe(settings: Settings): Promise<Finding> {
  const { host, port } = settings;
  if (port === 0) {
    throw new Error("Cannot probe PORT=0: set it to the port that the service listens on");
  }
  if (!WILDCARD_PATTERN.test(host)) return await askHealth(host, settings);
  if (!host.includes(":")) return await askHealth("127.0.0.1", settings);
  const finding = await askHealth("::1", settings);
  if (finding.outcome !== "unavailable") return finding;
  // Where IPv6 is switched off, a service with HOST=:: listens on IPv4.
  return await askHealth("127.0.0.1", settings);
}

/**
 * Asks one address for /healthz. Uses a plain socket because an HTTP client costs more than the
 * rest of the probe, obeys proxies and refuses some ports.
 */
async function askHealth(
  address: string,
  { port, pingTimeoutMs }: Settings,
): Promise<Finding> {
  const host = authority(address, port);
  const url = `http://${host}/healthz`;
  const request = `GET /healthz HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`;
  const deadline = AbortSignal.timeout(pingTimeoutMs);
  try {
    const status = await readStatus(runtime.exchange(address, port, request, deadline));
    const outcome = status === 200 ? "healthy" : "unhealthy";
    return { outcome, text: `${outcome}: ${url} answered ${status}` };
  } catch (error) {
    const late = `gave no HTTP response head within PING_TIMEOUT_MS=${pingTimeoutMs}`;
    const reason = deadline.aborted ? late : errorMessage(error);
    return { outcome: outcomeOf(error), text: `unhealthy: ${url} ${reason}` };
  }
}

/** The outcome of a probe that failed with this error. */
function outcomeOf(error: unknown): Finding["outcome"] {
  switch (errorCode(error)) {
    case "ECONNREFUSED":
      return "refused";
    case "EADDRNOTAVAIL":
      return "unavailable";
    default:
      return "unhealthy";
  }
}

/**
 * Reads a response to the end of its head: https://www.rfc-editor.org/rfc/rfc9112#section-4
 *
 * @param chunks The bytes of the response, split anywhere
 * @returns The status code
 * @throws {Error} if that is no response head of at most HEAD_LIMIT_BYTES; the message quotes what
 * came
 */
export async function readStatus(chunks: AsyncIterable<Uint8Array>): Promise<number> {
  let head = "";
  for await (const chunk of chunks) {
    head += String.fromCharCode(...chunk.subarray(0, HEAD_LIMIT_BYTES - head.length));
    const isComplete = head.includes("\r\n\r\n");
    const isTooLong = head.length === HEAD_LIMIT_BYTES;
    const isOtherProtocol = head !== "" && !head.startsWith("H"); // HTTP/1.1 …
    if (isComplete || isTooLong || isOtherProtocol) break;
  }
  // [^] is any character, a line break too.
  const [, status] = /^HTTP\/1\.[01] ([1-5]\d\d)\b[^]*\r\n\r\n/.exec(head) ?? [];
  if (status) return Number(status);
  throw new Error(`sent no HTTP response head in ${head.length} bytes: ${quote(head)}`);
}

// ── Healing ──
// Docker restarts a container that ended, and not one that is unhealthy. So with HEAL_AFTER_MS the
// probe, which Docker runs, ends a service that stays unhealthy.

/**
 * What one probe tells the next: when process 1 started, the failures in a row, and the time of the
 * first of them. It is in /dev/shm, because a read-only container can write there.
 */
const STREAK_FILE = "/dev/shm/heartbeat-streak";
/**
 * Docker calls a container unhealthy after this many failed probes in a row. Only a later one may
 * end the service, so that Docker says so first.
 */
const DOCKER_RETRIES = 3;
const INIT_PATTERN = /(^|\/)(tini|docker-init|dumb-init|catatonit)$/;
/** A command line begins with an emulator if the image is for another architecture. */
const EMULATOR_PATTERN = /qemu|rosetta/;

/**
 * Counts failed probes in STREAK_FILE, and ends a service whose probes failed for `healAfterMs`
 * without a break. A probe that was refused changes nothing.
 *
 * @returns What it did, or why it did nothing; nothing for a healthy probe
 */
export function heal(finding: Finding, healAfterMs: number): string | void {
  try {
    const starttime = readStarttime();
    if (finding.outcome === "healthy") {
      runtime.writeFile(STREAK_FILE, starttime);
      return;
    }
    if (finding.outcome === "refused") return "not counted: nothing listens";
    if (!isInitOurs()) return "not counted: process 1 is not this container's init";

    const nowMs = readUptimeMs();
    const streak = readStreak(starttime, nowMs);
    if (!streak) return "not counted: never healthy";
    const failures = streak.failures + 1;
    const lastedMs = Math.round(nowMs - streak.sinceMs);
    if (failures > DOCKER_RETRIES && lastedMs >= healAfterMs) {
      const act = `ended the service after ${lastedMs} ms`;
      leaveTrace(`${finding.text}; ${act}`);
      endService();
      return act; // the streak stays: if the service lives on, the next probe tries again
    }
    runtime.writeFile(STREAK_FILE, `${starttime} ${failures} ${streak.sinceMs}`);
    return `noted: ${failures} failures in ${lastedMs} ms, HEAL_AFTER_MS=${healAfterMs}`;
  } catch (error) {
    return `cannot note: ${quote(errorMessage(error))}`;
  }
}

/**
 * Returns when process 1 started, which tells this run of the container from the one before. It is
 * field 22, `starttime`, of proc_pid_stat(5).
 */
function readStarttime(): string {
  // Field 2 is a name in parentheses that may hold spaces. So the fields behind it are split.
  const fieldsFromThird = runtime.readFile("/proc/1/stat").replace(/^.*\) /, "").split(" ");
  return fieldsFromThird[22 - 3];
}

/** The time since the machine started. Unlike Date.now(), it does not jump if the clock is set. */
function readUptimeMs(): number {
  const [seconds] = runtime.readFile("/proc/uptime").split(" ");
  return Number(seconds) * 1000;
}

/** Failed probes since the last healthy one, and when the first of them was. */
interface Streak {
  failures: number;
  sinceMs: number;
}

/**
 * Reads what earlier probes noted.
 *
 * @returns Nothing if no probe was healthy since process 1 started
 */
function readStreak(starttime: string, nowMs: number): Streak | undefined {
  let text: string;
  try {
    text = runtime.readFile(STREAK_FILE);
  } catch (error) {
    if (errorCode(error) === "ENOENT") return undefined;
    throw error;
  }
  // A healthy probe notes the starttime alone.
  const [noted, failures = "0", sinceMs = `${nowMs}`] = text.split(" ");
  if (noted !== starttime) return undefined;
  return { failures: Number(failures), sinceMs: Number(sinceMs) };
}

/**
 * Whether process 1 is an init that runs this program, in this container. Where containers share
 * processes, process 1 is another container's or the host's, and has other mounts.
 */
function isInitOurs(): boolean {
  const ownMounts = runtime.readFile("/proc/self/mountinfo");
  if (runtime.readFile("/proc/1/mountinfo") !== ownMounts) return false;
  return isInitOf(runtime.entry(), readCommandLine("1"));
}

/** The arguments of a process: https://man7.org/linux/man-pages/man5/proc_pid_cmdline.5.html */
function readCommandLine(id: string): string[] {
  return runtime.readFile(`/proc/${id}/cmdline`).split("\0");
}

/**
 * Whether a process is an init that runs a program.
 *
 * @param program The path of the program
 * @param args The command line of the process
 */
export function isInitOf(program: string, args: string[]): boolean {
  const command = args.find((arg) => !EMULATOR_PATTERN.test(arg)) ?? "";
  return INIT_PATTERN.test(command) && args.includes(program);
}

/**
 * Writes why the service ends to standard error of process 1, because the container's log has that
 * and not what a probe prints. Does not wait if the pipe is full. Does not throw if the pipe is
 * closed or another user's.
 *
 * @param reason What the probe found, and what it did
 */
function leaveTrace(reason: string): void {
  try {
    // Deno takes the functions of Node.js, too, because its own have no O_NONBLOCK.
    const { constants, openSync, writeSync } = process.getBuiltinModule("node:fs");
    const flags = constants.O_WRONLY | constants.O_APPEND | constants.O_NONBLOCK;
    const output = openSync("/proc/1/fd/2", flags);
    writeSync(output, `${toLine({ healed: reason, state: readState() })}\n`);
  } catch { /* nobody can be told */ }
}

/**
 * The state of the service. That is the first process that is no init: above it is the image's
 * init, and with `docker run --init` another one above that. An endless loop is `R (running)`, a
 * wait `S (sleeping)`, a SIGSTOP `T (stopped)`.
 *
 * @returns Nothing if the kernel does not tell
 */
function readState(): string | undefined {
  try {
    let id = "1";
    while (isInitOf(runtime.entry(), readCommandLine(id))) {
      [id] = runtime.readFile(`/proc/${id}/task/${id}/children`).split(" ");
    }
    const [, state] = /^State:\t(.*)$/m.exec(runtime.readFile(`/proc/${id}/status`)) ?? [];
    return state;
  } catch {
    return undefined;
  }
}

/**
 * Ends the service: the init passes the signals on. SIGALRM ends both runtimes, even in an endless
 * loop. SIGCONT wakes a stopped one, so that it can end.
 */
function endService(): void {
  runtime.kill(1, "SIGALRM");
  runtime.kill(1, "SIGCONT");
}

// ── Settings ──

/** The longest delay that a timer takes; a longer one would fire at once. */
const TIMER_MAX_MS = 2_147_483_647;

/** The settings of the service and the probe. */
export type Settings = ReturnType<typeof readSettings>;

/**
 * Reads the settings; an empty variable counts as unset.
 *
 * @param variable Returns a variable's value by its name
 * @throws {Error} in one line that names a malformed variable and its value
 */
export function readSettings(variable: (name: string) => string | undefined) {
  const read = (
    name: string,
    fallback: string,
    rule: string,
    isValid: (text: string) => boolean,
  ) => {
    const text = variable(name) || fallback;
    if (isValid(text)) return text;
    const value = quote(text);
    throw new Error(`Cannot parse ${name} as it must be ${rule}: current value is ${value}`);
  };
  const integer = (name: string, fallback: string, min: number, max = TIMER_MAX_MS) => {
    const rule = `an integer from ${min} to ${max}`;
    const isValid = (text: string) => `${parseInt(text)}` === text && +text >= min && +text <= max;
    return Number(read(name, fallback, rule, isValid));
  };
  const isHost = (text: string) => /^[\w.:-]+$/.test(text);
  const isSwitch = (text: string) => /^(on|off)$/.test(text);
  return {
    port: integer("PORT", "8080", 0, 65_535),
    host: read("HOST", "0.0.0.0", "an IP address or a host name", isHost),
    pingTimeoutMs: integer("PING_TIMEOUT_MS", "3000", 1),
    drainDelayMs: integer("DRAIN_DELAY_MS", "0", 0),
    shutdownTimeoutMs: integer("SHUTDOWN_TIMEOUT_MS", "8000", 0),
    healAfterMs: integer("HEAL_AFTER_MS", "0", 0), // 0: never
    accessLog: read("ACCESS_LOG", "on", "on or off", isSwitch) === "on",
  };
}

// ── Text and time ──

/** The most characters of a text that are quoted. JSON may write one as six: \u0000. */
const QUOTE_LIMIT_CHARS = 64;

/** Quotes a text of unknown origin: bounded, printable ASCII. */
function quote(text: string): string {
  return JSON.stringify(text.slice(0, QUOTE_LIMIT_CHARS)).replace(/[^ -~]/g, "?");
}

/** An error's code, such as ENOENT. Both runtimes give the operating system's. */
function errorCode(error: unknown): string | undefined {
  return (error as { code?: string }).code;
}

/** An error's message, or its code: Node.js gives no message if it tried several addresses. */
function errorMessage(error: unknown): string {
  return (error as Error).message || `${errorCode(error)}`;
}

/** A host and a port as in a URL: https://www.rfc-editor.org/rfc/rfc3986#section-3.2 */
function authority(host: string, port: number): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

function sleep(ms: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

/** Resolves to what `run` returns; rejects if it throws or takes longer than `ms`. */
async function within<T>(ms: number, name: string, run: () => T): Promise<Awaited<T>> {
  const rejectLate = async (): Promise<never> => {
    await sleep(ms);
    throw new Error(`${name} took more than ${ms} ms`);
  };
  return await Promise.race([run(), rejectLate()]);
}

// ── The runtimes ──

/** What differs between Node.js and Deno. */
interface Runtime {
  /** The arguments behind the name of the program. */
  args: string[];
  /** The program's absolute path, links unresolved. An init's command line has to name it. */
  entry(): string;
  /** The path of the file that was started. On Node.js its links are resolved. */
  realEntry(): string;
  /** The value of an environment variable. */
  variable(name: string): string | undefined;
  /** Ends the process. */
  exit(code: number): never;
  /** Writes a line to standard output. */
  writeOut(text: string): unknown;
  /** Writes a line to standard error. */
  writeError(text: string): unknown;
  /** Resolves once all output is written. */
  written(): Promise<unknown>;
  /** Reads a text file. */
  readFile(path: string): string;
  /** Writes a text file. */
  writeFile(path: string, text: string): void;
  /** Sends a signal to a process. */
  kill(id: number, signal: "SIGALRM" | "SIGCONT"): unknown;
  /** Calls back at each SIGTERM and SIGINT. */
  onSignal(callback: () => void): unknown;
  /** Calls back before the process ends by a throw, a rejection or an exit. */
  beforeEnd(callback: () => void): unknown;
  /** Lets any number of listeners wait for an AbortSignal, without a warning. */
  allowAbortListeners(signal: AbortSignal): void;
  /** Sends a request over TCP, yields the bytes of the response; throws once the signal aborts. */
  exchange(
    host: string,
    port: number,
    request: string,
    signal: AbortSignal,
  ): AsyncIterable<Uint8Array>;
  /** Whether a client had left. Node.js tells by the socket in `env`, Deno by what was thrown. */
  hasClientLeft(env: object | undefined, thrown: unknown): boolean;
  /** Checks a response and makes it safe to send; throws for one that cannot be sent. */
  prepare(response: Response, env: object, isDraining: boolean): Response;
  /** Listens, and resolves once connections are accepted. */
  listen(host: string, port: number, handler: Handler, hooks: Hooks): Promise<Listener>;
}

// ── Node.js ──

/**
 * How long an idle connection stays open: longer than at any balancer (Google's: 600 s). So the
 * balancer closes it. If the service did, a request could be on its way.
 */
const KEEP_ALIVE_MS = 620_000;

/** What the adapter gives with a request; an upgrade comes without `outgoing`. */
type NodeEnv = Partial<HttpBindings>;

function node(): Runtime {
  const fs = () => process.getBuiltinModule("node:fs");
  const events = () => process.getBuiltinModule("node:events");
  return {
    args: process.argv.slice(2),
    entry: () => `${process.argv[1]}`,
    realEntry: realEntryOnNode,
    variable: (name) => process.env[name],
    exit: (code) => process.exit(code),
    writeOut: (text) => console.log(text),
    writeError: (text) => console.error(text),
    written() {
      // process.exit() drops what a pipe has not taken yet.
      const streams = [process.stdout, process.stderr];
      return Promise.all(streams.map((stream) => new Promise((end) => stream.write("", end))));
    },
    readFile: (path) => fs().readFileSync(path, "utf8"),
    writeFile: (path, text) => fs().writeFileSync(path, text),
    kill: (id, signal) => process.kill(id, signal),
    onSignal(callback) {
      process.on("SIGTERM", callback);
      process.on("SIGINT", callback);
    },
    beforeEnd: (callback) => process.on("exit", callback),
    // Node.js 20 and 22 warn of more than ten listeners on an AbortSignal.
    allowAbortListeners: (signal) => events().setMaxListeners(0, signal),
    async *exchange(host, port, request, signal) {
      const socket = process.getBuiltinModule("node:net").connect({ host, port, signal });
      socket.on("error", () => {}); // an error after the response does not matter
      socket.write(request);
      // The socket's own iterator takes more CPU time.
      for await (const [chunk] of events().on(socket, "data", { close: ["end"] })) yield chunk;
    },
    hasClientLeft: (env?: NodeEnv) => env?.incoming?.socket.destroyed === true,
    prepare: createPrepare(),
    listen: listenOnNode,
  };
}

/**
 * Finds the file of the program, and resolves links. Adds `.ts` where the command line left it out,
 * as tsx allows.
 */
function realEntryOnNode(): string {
  const { existsSync, realpathSync } = process.getBuiltinModule("node:fs");
  let path = `${process.argv[1]}`;
  // PM2 starts its launcher, which imports the file that this variable names.
  if (/ProcessContainer(Fork)?\.js$/.test(path)) path = `${process.env.pm_exec_path}`;
  if (!existsSync(path)) path = `${path}.ts`;
  return existsSync(path) ? realpathSync(path) : path;
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
  // Node.js 22.21, 24.9 and later call shouldUpgradeCallback before an upgrade. Others take each
  // upgrade, so refuseOtherUpgrades() answers those that are no WebSocket.
  const upgrades = websocket && { shouldUpgradeCallback: isWebSocket };
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
  await new Promise<void>((resolve, reject) => {
    server.once("error", reject);
    server.listen(port, host, resolve);
  });
  return {
    port: (server.address() as { port: number }).port,
    async close() {
      stopAccepting(server);
      const goingAway = 1001; // RFC 6455, 7.4.1
      for (const client of websocket?.server.clients ?? []) client.close(goingAway);
      await handler.idle();
      server.closeAllConnections();
    },
  };
}

/**
 * Accepts no more connections. The close() of http.Server would also cut responses that are not
 * sent yet (no upstream issue yet), so this calls the one of net.Server.
 */
function stopAccepting(server: HttpServer): void {
  process.getBuiltinModule("node:net").Server.prototype.close.call(server);
}

/** Resolves once a response was sent, rejects if it was cut or its client left. */
async function whenSent(env: NodeEnv): Promise<void> {
  const { incoming, outgoing } = env;
  if (!outgoing) return; // an upgrade
  await new Promise<void>((resolve) => {
    outgoing.on("close", resolve);
    // If a client leaves, Node.js 20 and 22 emit no `close` of a response that waits behind an
    // earlier one of its connection.
    incoming!.on("close", () => {
      if (incoming!.socket.destroyed) resolve();
    });
  });
  // Not by noteError(): the service cut the socket, and noteError() would say that the client left.
  if (outgoing.errored) note(env, errorFields(outgoing.errored));
  if (outgoing.errored || !outgoing.writableFinished) throw new Error("not sent");
}

/** What the adapter's own Response keeps under a symbol: status, body, headers. */
type Parts = [number, BodyInit | null, HeadersInit | undefined];

/** Returns the `prepare` of Node.js, which makes a response safe for the adapter. */
function createPrepare() {
  // Found at the first response, because the adapter has replaced the global Response by then.
  let partsKey: symbol | undefined;
  return (response: Response, env: NodeEnv, isDraining: boolean): Response => {
    const { outgoing } = env;
    if (!outgoing) return markUpgrade(response, env);
    if (isDraining) outgoing.shouldKeepAlive = false;

    // The adapter sends a text fast while its Response is only parts. They are under the first
    // symbol of a Response. Reading body, bodyUsed or headers builds a real Response. So this reads
    // the parts.
    partsKey ??= Object.getOwnPropertySymbols(new Response())[0];
    const parts = (response as unknown as Record<symbol, Parts | undefined>)[partsKey];
    if (parts) assertHeaders(parts[2]);
    else assertUnread(response);
    const body = parts ? parts[1] : response.body;
    if (!(body instanceof ReadableStream)) return response;
    if (outgoing.req.method === "HEAD") {
      body.cancel().catch(() => {});
      return new Response(null, response);
    }
    return cutOnFailure(response, body, outgoing);
  };
}

/**
 * Throws for an array of anything but pairs of headers, because in the adapter it would end the
 * process. safeServerResponse() refuses what is wrong in any other form.
 */
function assertHeaders(headers: HeadersInit | undefined): void {
  if (Array.isArray(headers)) new Headers(headers);
}

function assertUnread(response: Response): void {
  if (!response.bodyUsed) return;
  throw new TypeError("the route returned a Response whose body was read already");
}

/**
 * Cuts a response whose body fails. `preventAbort` hides the failure from the adapter, which would
 * print a stack, and may send the error's text (no upstream issue yet).
 */
function cutOnFailure(
  response: Response,
  body: ReadableStream,
  outgoing: NonNullable<NodeEnv["outgoing"]>,
): Response {
  const { readable, writable } = new TransformStream();
  body.pipeTo(writable, { preventAbort: true }).catch((error) => outgoing.destroy(error));
  return new Response(readable, response);
}

/** Gives the response of an accepted upgrade the status 101, which no constructor takes. */
function markUpgrade(response: Response, env: NodeEnv): Response {
  // The adapter gives the env one symbol. upgradeWebSocket() adds another if the route accepts.
  const isAccepted = Object.getOwnPropertySymbols(env).length > 1;
  return isAccepted ? Object.defineProperty(response, "status", { value: 101 }) : response;
}

/** A ServerResponse for the adapter: a bad header ends no process, and an error resets. */
function safeServerResponse() {
  const { ServerResponse } = process.getBuiltinModule("node:http");
  return class<R extends IncomingMessage> extends ServerResponse<R> {
    override writeHead(...args: unknown[]): this {
      const headers = args.at(-1);
      if (typeof headers === "object") keepOnlyClose(headers as Record<string, unknown>);
      try {
        return Reflect.apply(super.writeHead, this, args);
      } catch (error) { // a bad header; it would end the process (no upstream issue yet)
        return this.destroy(error as Error);
      }
    }
    override destroy(error?: Error): this {
      if (this.req.socket.destroyed) return super.destroy(); // the client left, which is no error
      // A client of HTTP/1.0 would take a mere end for the end of the body.
      if (error) this.req.socket.resetAndDestroy();
      return super.destroy(error);
    }
  };
}

/**
 * Removes a route's own Connection header, unless it says close. A keep-alive of fetch() or
 * streamSSE() would keep a connection open that a drain or its client wants closed.
 */
function keepOnlyClose(headers: Record<string, unknown>): void {
  for (const name of ["connection", "Connection"]) {
    if (headers[name] !== "close") delete headers[name];
  }
}

function isWebSocket({ headers }: IncomingMessage): boolean {
  return headers.upgrade?.toLowerCase() === "websocket";
}

/**
 * Answers an upgrade that is no WebSocket (h2c, TLS) with 400, on a Node.js that does not ask
 * isWebSocket(). The adapter would leave its client waiting, and a reset by that client would end
 * the process (no upstream issue yet).
 */
function refuseOtherUpgrades(server: HttpServer): void {
  // The adapter refuses a WebSocket that no route accepts, if its listener is the only one for
  // upgrades. So this takes the place of the adapter's listener, and calls it.
  const [upgrade] = server.listeners("upgrade");
  server.removeAllListeners("upgrade");
  server.on("upgrade", (incoming, socket, head) => {
    socket.on("error", () => {}); // a reset
    if (isWebSocket(incoming)) {
      upgrade.call(server, incoming, socket, head);
    } else {
      const answer = "HTTP/1.1 400 Bad Request\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
      socket.resume();
      socket.end(answer);
    }
  });
}

// ── Deno ──

/** Header values that `Headers` takes, and that end Deno with a panic (no upstream issue yet). */
const UNSENDABLE_PATTERN = /[^\t -~\x80-\xff]/;
/**
 * Deno tells only by such texts that a client left: "Http: error reading a body from connection",
 * "BadResource: Cannot read body as underlying resource unavailable", "Error: Cannot read request
 * body …". If a route passes the body on by fetch(), the text is in the `cause` of fetch's error.
 */
const CLIENT_LEFT_PATTERN =
  /^(BadResource|Http): .+ body|^Error: (Cannot read request|unexpected EOF .+ HTTP\/1) body/;
/** The pause before listenAgain() tries, and between its attempts. */
const LISTEN_PAUSE_MS = 250;

/**
 * Whether the log goes to OpenTelemetry, which takes it from the console alone. Set by the server,
 * so that it stays false in a probe, where the console would wait for the collector.
 */
let isLogExported = false;

function deno(): Runtime {
  const entry = () => Deno.mainModule.replace("file://", "");
  return {
    args: Deno.args,
    entry,
    realEntry: entry,
    variable: Deno.env.get,
    exit: Deno.exit,
    writeOut(text) {
      if (isLogExported) console.log(text);
      else writeLine(Deno.stdout, text);
    },
    writeError(text) {
      if (isLogExported) console.error(text);
      else writeLine(Deno.stderr, text);
    },
    written: () => Promise.resolve(),
    readFile: (path) => Deno.readTextFileSync(path),
    writeFile: (path, text) => Deno.writeTextFileSync(path, text),
    kill: (id, signal) => Deno.kill(id, signal),
    onSignal(callback) {
      Deno.addSignalListener("SIGTERM", callback);
      Deno.addSignalListener("SIGINT", callback);
    },
    beforeEnd(callback) {
      for (const name of ["error", "unhandledrejection", "unload"]) {
        addEventListener(name, callback);
      }
    },
    allowAbortListeners() {},
    async *exchange(hostname, port, request, signal) {
      const connection = await Deno.connect({ hostname, port, signal });
      signal.addEventListener("abort", () => connection.close());
      await connection.write(new TextEncoder().encode(request));
      // connection.readable would make the probe take a quarter more CPU time.
      const chunk = new Uint8Array(HEAD_LIMIT_BYTES);
      let size = await connection.read(chunk);
      while (size) {
        yield chunk.subarray(0, size);
        size = await connection.read(chunk);
      }
    },
    hasClientLeft(_env, thrown) {
      const cause = thrown instanceof Error ? thrown.cause : undefined;
      return CLIENT_LEFT_PATTERN.test(toText(thrown)) || CLIENT_LEFT_PATTERN.test(toText(cause));
    },
    prepare: prepareOnDeno,
    listen: listenOnDeno,
  };
}

/** Writes a line without the console, because the console would double the service's memory. */
function writeLine(file: { writeSync(bytes: Uint8Array): number }, text: string): void {
  let rest = new TextEncoder().encode(`${text}\n`);
  while (rest.length > 0) {
    const size = file.writeSync(rest);
    rest = rest.subarray(size);
  }
}

async function listenOnDeno(hostname: string, port: number, handler: Handler): Promise<Listener> {
  isLogExported = Deno.env.has("OTEL_DENO");
  const uploads = createCounter(); // requests that may have a body
  let isClosing = false;

  const handle = (request: Request, info: Deno.ServeHandlerInfo<Deno.NetAddr>) => {
    if (hasPathInHost(request)) return refuse(request, 400);
    if (request.method !== "GET" && request.method !== "HEAD") {
      // close() goes on accepting until the earlier uploads end. A new one would prolong that.
      if (isClosing) return refuse(request, 503);
      uploads.up();
      info.completed.then(uploads.down, uploads.down);
    }
    return handler.answer(request, info, info.completed);
  };

  let boundPort = port;
  const startServer = () => {
    const server = Deno.serve({ hostname, port: boundPort, onListen() {} }, handle);
    server.finished.catch(listenAgain);
    return server;
  };
  /**
   * Starts another server on the port. If Deno.serve() cannot accept (too many open files), it
   * accepts no more for good, and serves the connections that are open.
   */
  const listenAgain = async (error: unknown): Promise<void> => {
    print(`Cannot accept connections: ${errorMessage(error)}`, runtime.writeError);
    await sleep(LISTEN_PAUSE_MS);
    if (isClosing) return;
    try {
      server = startServer();
    } catch (nextError) {
      await listenAgain(nextError);
    }
  };

  let server = startServer();
  boundPort = server.addr.port; // PORT=0 is any port at first, and then that one
  return {
    port: boundPort,
    async close() {
      isClosing = true;
      // shutdown() makes the bodies of requests in flight unreadable:
      // https://github.com/denoland/deno/issues/36809
      await uploads.zero();
      // A server before listenAgain() may still have requests, so shutdown() alone is not enough.
      await Promise.all([handler.idle(), server.shutdown()]);
    },
  };
}

/**
 * A URL with one slash behind the host, and no query. Deno joins the Host field and the path: `a/b`
 * and `/c` make `http://a/b/c`. The path brings one slash, so the Host field had none.
 */
const PLAIN_URL_PATTERN = /^http:\/\/[^/?#\\@]+\/[^/?#\\@]*$/;

/**
 * Whether the Host field holds more than a host and a port. Deno would take the rest for the path's
 * beginning (no upstream issue yet).
 */
function hasPathInHost(request: Request): boolean {
  if (PLAIN_URL_PATTERN.test(request.url)) return false; // because reading `headers` takes time
  return /[/?#\\@]/.test(request.headers.get("Host") ?? "");
}

/** Answers a request without asking a route. It is neither counted nor logged. */
function refuse({ body }: Request, status: number): Response {
  if (body) discard(body);
  return new Response(null, { status, headers: { Connection: "close" } });
}

/** The `prepare` of Deno. While draining, each response closes its connection. */
function prepareOnDeno(response: Response, _env: object, isDraining: boolean): Response {
  assertUnread(response);
  response.headers.forEach((value, name) => {
    if (!UNSENDABLE_PATTERN.test(value)) return;
    throw new TypeError(`the header ${name} holds a control character`);
  });
  if (!isDraining || response.status === 101) return response;
  const last = new Response(response.body, response); // the headers of some are immutable
  last.headers.set("Connection", "close");
  return last;
}

// ── The program ──

const runtime: Runtime = typeof Deno === "undefined" ? node() : deno();

const USAGE = `Usage: main.ts          serve
       main.ts --ping   ask the running instance for /healthz: exit 0 if it is healthy, 1 if not

Environment, for both: PORT (8080), HOST (0.0.0.0), PING_TIMEOUT_MS (3000), DRAIN_DELAY_MS (0),
SHUTDOWN_TIMEOUT_MS (8000), HEAL_AFTER_MS (0: never), ACCESS_LOG (on)`;

/** Does what the arguments say and returns the exit code. */
async function main(args: string[]): Promise<number> {
  const isOption = (arg: string) => arg === "--ping" || arg === "--help";
  const unexpected = args.find((arg) => !isOption(arg)) ?? args[1]; // at most one option
  if (unexpected !== undefined) {
    throw new Error(`Unexpected argument ${quote(unexpected)}\n${USAGE}`);
  }
  switch (args[0]) {
    case "--help":
      print(USAGE);
      return 0;
    case "--ping":
      print(await ping(readSettings(runtime.variable)));
      return 0;
    default:
      return await serve(readSettings(runtime.variable));
  }
}

/** Probes and heals. Returns a line if the service is healthy, else throws an Error with it. */
async function ping(settings: Settings): Promise<string> {
  const finding = await probe(settings);
  let line = finding.text;
  if (settings.healAfterMs > 0) {
    const act = heal(finding, settings.healAfterMs);
    if (act) line += `; ${act}`;
  }
  if (finding.outcome !== "healthy") throw new Error(line);
  return line;
}

/** Whether this file was started, and not imported. */
function isStarted(): boolean {
  if (import.meta.main) return true; // undefined on Node.js before 22.18
  const entry = runtime.realEntry();
  if (entry === import.meta.filename) return true;
  // A bundler may put this module into a part of the bundle. Then main.js beside it was started.
  const isBundled = !import.meta.filename?.endsWith(".ts");
  return isBundled && entry === `${import.meta.dirname}/main.js`;
}

/** Runs the program to its end. A failure is a text on standard error, and exit code 1. */
async function run(): Promise<void> {
  let exitCode = 1;
  try {
    exitCode = await main(runtime.args);
  } catch (error) {
    print(errorMessage(error), runtime.writeError);
  }
  runtime.exit(exitCode);
}

// Not awaited, because a module that addRoutes() imports may import this one, and wait for its end.
if (isStarted()) run();
