/**
 * heartbeat: an HTTP service in one file that serves, proves its own health and stops well.
 *
 *     npx tsx main.ts             serve under Node.js
 *     deno run -P main.ts         serve under Deno
 *     deno run -P main.ts --ping  ask the running instance for /healthz: exit 0 if it is healthy, 1 if not
 *
 * @module
 */
import type { AddressInfo, Socket } from "node:net";
import type { Context, Hono } from "hono";

const VERSION = "1.0.0";
/** The longest delay a timer takes; a longer one would fire at once. */
const TIMER_LIMIT_MS = 2_147_483_647;
/** Between two attempts to listen again. */
const PAUSE_MS = 250;
/** As much of an answer as the probe reads; Node.js sets its requests the same limit. */
const HEAD_LIMIT_BYTES = 16_384;
/** A status line, then fields: https://www.rfc-editor.org/rfc/rfc9112#section-2.1 */
const HEAD_PATTERN = /^HTTP\/1\.[01] ([1-5]\d\d)(?: [^\0\r\n]*)?\r\n(?:[!#$%&'*+.^_`|~\w-]+:[^\0\r\n]*\r\n)*\r\n/;
/** As much of others' text as a message quotes: Docker keeps 4,096 bytes of what a probe prints. */
const QUOTE_LIMIT_CHARS = 80;
/** Nothing but an authority and one segment of a path: whatever the Host field held, it added nothing to the path. */
const PLAIN_URL_PATTERN = /^http:\/\/[^/?#\\@]+\/[^/?#\\@]*$/;
/** The unspecified address of either family, however it is written. */
const WILDCARD_PATTERN = /^[0.:]+$/;
const USAGE = `Usage: main.ts [--ping | --help | --version]

Serves; with --ping asks the running instance for /healthz, and exits 0 if it is healthy, 1 if not.

Environment, for both: PORT (8080), HOST (0.0.0.0), PING_TIMEOUT_MS (3000), DRAIN_DELAY_MS (0),
SHUTDOWN_TIMEOUT_MS (8000), ACCESS_LOG (on)`;

// ── Settings ──

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
    accessLog: read("ACCESS_LOG", "on", "on or off", (text) => /^(on|off)$/.test(text)) === "on",
  };
}

/** Whether the URL parser takes a text for a host as it stands: https://url.spec.whatwg.org/#host-parsing */
function isHost(text: string): boolean {
  const url = `http://${bracketed(text)}`;
  if (!URL.canParse(url)) return false;
  return text.includes(":") ? /^[\da-f:.]+$/i.test(text) : new URL(url).host === text.toLowerCase();
}

// ── The service ──

/**
 * Builds the application. Hono is loaded here, for the probe does without.
 *
 * @param isDraining Whether the service was told to stop
 */
export async function createApp(isDraining: () => boolean): Promise<Hono> {
  const { Hono } = await import("hono");
  const app = new Hono();

  const uncached = { "Cache-Control": "no-store" };
  const healthy = new Response(null, { headers: uncached });
  // One handler a path and no middleware: a request that more than one matches costs Hono a promise and a tenth more.
  const check = (path: string, answer: (c: Context) => Response) =>
    app.all(path, (c) => {
      if (/^(GET|HEAD)$/.test(c.req.method)) return answer(c);
      return c.json({ error: "Method Not Allowed" }, 405, { Allow: "GET, HEAD" });
    });
  check("/healthz", () => healthy);
  check("/readyz", (c) => {
    return isDraining() ? c.json({ status: "draining" }, 503, uncached) : c.json({ status: "ready" }, 200, uncached);
  });

  // ════════ YOUR ROUTES BEGIN HERE ════════

  app.get("/", (c) => c.text(`heartbeat ${VERSION}: replace this route in main.ts with your own\n`));

  // ════════ YOUR ROUTES END HERE ════════

  app.notFound((c) => c.json({ error: "Not Found" }, 404));
  app.onError((error, c) => {
    const response = "getResponse" in error && error.getResponse();
    return response && response.status < 500 ? response : failure(c.req.raw, error);
  });
  return app;
}

/** A request's path, without the query, which may hold secrets. Not by new URL(): it refuses hosts that clients send. */
const pathOf = (request: Request) => request.url.replace(/^\w+:\/\/[^/]*|[?#].*/g, "");

/** A line of the log: what was asked for, and what came of it. */
const entry = (request: Request, outcome: object) =>
  JSON.stringify({ time: new Date().toISOString(), method: request.method, path: pathOf(request), ...outcome });

/** Prints what a route threw, which may be anything, and gives the client an answer that does not tell it. */
function failure(request: Request, thrown: unknown): Response {
  let error: string = typeof thrown;
  try {
    error = String(thrown);
  } catch { /* it has no text */ }
  print(entry(request, { error }), console.error);
  return Response.json({ error: "Internal Server Error" }, { status: 500 });
}

/**
 * Makes an application answer whatever its routes do, and tell of it.
 *
 * @param accessLog Whether a request prints a line; one for health never does
 * @param isDraining Whether the service was told to stop: an answer is then the last on its connection
 * @returns What gives the answer to a request: for a route that fails a generic 500, and the detail in a line
 */
export function createHandler(app: Hono, accessLog: boolean, isDraining: () => boolean): Service["answer"] {
  return (request) => {
    const startMs = performance.now();
    const finish = (response: Response) => {
      if (response.status === 0) throw new Error("the route returned a network error, which no client can be sent");
      let answer = response;
      if (isDraining()) {
        answer = new Response(response.body, response); // the headers of some responses are immutable
        answer.headers.set("Connection", "close");
      }
      if (accessLog && !/^\/(healthz|readyz)$/.test(pathOf(request))) {
        const ms = Math.round((performance.now() - startMs) * 1000) / 1000;
        print(entry(request, { status: response.status, ms }));
      }
      return answer;
    };
    // What Hono leaves: what is thrown and is no Error, and what finish() refuses.
    const fail = (thrown: unknown) => finish(failure(request, thrown));
    try {
      const response = app.fetch(request);
      return response instanceof Promise ? response.then(finish).catch(fail) : finish(response);
    } catch (thrown) {
      return fail(thrown);
    }
  };
}

/**
 * Serves until a signal, then drains.
 *
 * @returns The exit code: 0 once every request under way is answered, 1 if some had to be cut
 * @throws {Error} in one line that names the address, if it cannot listen there
 */
async function serve({ host, port, accessLog, drainDelayMs, shutdownTimeoutMs }: Settings): Promise<number> {
  let underWay = 0;
  let isDraining = false;
  const stopped = new Promise<void>((resolve) => {
    const stop = () => {
      if (isDraining) {
        print(`Cut by a second signal, unfinished requests: ${underWay}`, console.error);
        runtime.exit(1);
      }
      print(`Draining, unfinished requests: ${underWay}`);
      isDraining = true;
      resolve();
    };
    runtime.onSignal("SIGTERM", stop);
    runtime.onSignal("SIGINT", stop);
  });

  const handle = createHandler(await createApp(() => isDraining), accessLog, () => isDraining);
  let onAnswered = () => {};
  const service: Service = {
    answer(request) {
      underWay++;
      return handle(request);
    },
    sent() {
      if (--underWay === 0) onAnswered();
    },
  };
  const listener = await runtime.listen(host, port, service).catch((error) => {
    throw new Error(`Cannot listen on ${authority(host, port)}: ${cause(error)}`);
  });
  print(`Listening on http://${authority(host, listener.port)}`);

  await stopped;
  await sleep(drainDelayMs);
  const answered = new Promise<void>((resolve) => {
    onAnswered = resolve;
    if (underWay === 0) resolve();
  });
  const isLate = sleep(shutdownTimeoutMs).then(() => true);
  if (!await Promise.race([listener.close(answered), isLate])) return 0;
  print(
    `Cut after ${shutdownTimeoutMs} ms, unfinished requests: ${underWay || "none, but connections still open"}`,
    console.error,
  );
  return 1;
}

// ── The probe ──

/**
 * Asks the instance that the settings describe for its health. Over a plain socket, for an HTTP client costs more
 * than the rest of the probe, obeys proxies and refuses some ports.
 *
 * @returns What was seen of a healthy instance
 * @throws {Error} in one line that says what was seen instead, or that the port cannot be known
 */
export async function probe({ host, port, pingTimeoutMs }: Settings): Promise<string> {
  if (port === 0) throw new Error("Cannot probe PORT=0: set it to the port that the service listens on");
  const target = !WILDCARD_PATTERN.test(host) ? host : host.includes(":") ? "::1" : "127.0.0.1";
  const url = new URL(`http://${authority(target, port)}/healthz`);
  const request = `GET ${url.pathname} HTTP/1.1\r\nHost: ${url.host}\r\nConnection: close\r\n\r\n`;
  const deadline = AbortSignal.timeout(pingTimeoutMs);
  const seen = await readStatus(runtime.exchange(target, port, request, deadline)).then(
    (status) => `answered ${status}`,
    (error) => deadline.aborted ? `gave no HTTP response head within PING_TIMEOUT_MS=${pingTimeoutMs}` : cause(error),
  );
  if (seen === "answered 200") return `healthy: ${url} ${seen}`;
  throw new Error(`unhealthy: ${url} ${seen}`);
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

// ── Words ──

/** Prints a line. That it cannot (a full disk, a closed pipe) must change neither an answer nor an exit code. */
function print(line: string, write: (line: string) => void = console.log): void {
  try {
    write(line);
  } catch { /* nobody is left to tell */ }
}

/** Others' text as a message shows it: quoted, bounded, printable ASCII. */
function quote(text: string): string {
  return JSON.stringify(text.slice(0, QUOTE_LIMIT_CHARS)).replace(/[^ -~]/g, "?");
}

/** What went wrong, in the runtime's words; the error of several addresses at once has only a code. */
function cause(error: unknown): string {
  const { message, code } = error as Error & { code?: string };
  return message || `${code}`;
}

/** A host as a URL has it: https://www.rfc-editor.org/rfc/rfc3986#section-3.2.2 */
const bracketed = (host: string) => host.includes(":") ? `[${host}]` : host;

const authority = (host: string, port: number) => `${bracketed(host)}:${port}`;

const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

// ── The runtimes: all that differs between them ──

interface Service {
  answer(request: Request): Response | Promise<Response>;
  /** To be called once for each answer, when that is handed over or its client is gone. */
  sent(): void;
}

function node() {
  return {
    args: process.argv.slice(2),
    env: (name: string) => process.env[name],
    exit: (code: number) => process.exit(code),
    onSignal(signal: "SIGTERM" | "SIGINT", handler: () => void): void {
      process.on(signal, handler);
    },
    /** Whether this file was started, not imported; Node.js before 24.2 does not tell. */
    isProgram() {
      const { existsSync, realpathSync } = process.getBuiltinModule("node:fs");
      const [, path = ""] = process.argv; // tsx takes it without its extension, too
      return import.meta.main ?? (existsSync(path) ? realpathSync(path) : `${path}.ts`) === import.meta.filename;
    },
    /** Sends a request over TCP and gives what comes back; throws once the signal aborts. */
    exchange(host: string, port: number, request: string, signal: AbortSignal): AsyncIterable<Uint8Array> {
      const socket = process.getBuiltinModule("node:net").connect({ host, port, signal });
      socket.write(request);
      return socket;
    },
    /** Listens; `close` stops accepting, and resolves when `answered` has and all of it is sent. */
    async listen(hostname: string, port: number, service: Service) {
      // A log that nobody can take must not end the service.
      for (const stream of [process.stdout, process.stderr]) stream.on("error", () => {});
      const { createAdaptorServer } = await import("@hono/node-server");
      const server = createAdaptorServer({
        overrideGlobalObjects: false,
        fetch(request, { incoming: { socket }, outgoing }) {
          const response = service.answer(request);
          let isSent = false; // both may close at once
          const sent = () => {
            socket.off("close", sent);
            if (isSent) return;
            isSent = true;
            // A client may leave before its route is done.
            if (response instanceof Promise) response.then(service.sent, service.sent);
            else service.sent();
          };
          outgoing.on("close", sent);
          // Node.js 20 never closes the responses that a client asked for in advance and did not stay for.
          socket.on("close", sent);
          return response;
        },
      });
      server.on("connection", (socket: Socket) => socket.setMaxListeners(0)); // one for each request asked in advance
      await new Promise<void>((resolve, reject) => server.once("error", reject).listen(port, hostname, resolve));
      return {
        port: (server.address() as AddressInfo).port,
        close(answered: Promise<void>) {
          // http.Server's own close() would cut the connections whose response is written but not yet sent.
          process.getBuiltinModule("node:net").Server.prototype.close.call(server);
          return answered;
        },
      };
    },
  };
}

function deno(): ReturnType<typeof node> {
  /** Reads away what a route left of a request: its connection would not end while the client owes the rest. */
  const discard = async (request: Request, answer: Response | Promise<Response>) => {
    const response = await answer;
    if (!request.bodyUsed) request.body?.pipeTo(new WritableStream()).catch(() => {});
    return response;
  };
  return {
    args: Deno.args,
    env: Deno.env.get,
    exit: Deno.exit,
    onSignal: Deno.addSignalListener,
    isProgram: () => import.meta.main,
    async *exchange(hostname, port, request, signal) {
      const connection = await Deno.connect({ hostname, port, signal });
      signal.addEventListener("abort", () => connection.close());
      await connection.write(new TextEncoder().encode(request));
      const chunk = new Uint8Array(HEAD_LIMIT_BYTES);
      for (let size; (size = await connection.read(chunk));) yield chunk.subarray(0, size);
    },
    async listen(hostname, port, service) {
      const servers: Deno.HttpServer[] = [];
      let isClosing = false;
      const listen = (onListen: (address: Deno.NetAddr) => void) => {
        const server = Deno.serve({ hostname, port, onListen }, (request, { completed }) => {
          // Deno would take what follows the host in this field for the path. Reading the field costs more than its URL.
          if (!PLAIN_URL_PATTERN.test(request.url) && /[/?#\\@]/.test(request.headers.get("host") ?? "")) {
            return new Response(null, { status: 400 });
          }
          completed.then(service.sent, service.sent);
          const response = service.answer(request);
          return request.body ? discard(request, response) : response;
        });
        servers.push(server);
        // Without a file descriptor to accept with, it gives up; it still serves the connections that it has.
        server.finished.catch(replace);
      };
      const replace = async (error: unknown) => {
        print(`Cannot accept connections: ${cause(error)}`, console.error);
        await sleep(PAUSE_MS);
        if (!isClosing) await new Promise(listen).catch(replace);
      };
      ({ port } = await new Promise<Deno.NetAddr>(listen));
      return {
        port,
        async close(answered) {
          isClosing = true;
          const ended = Promise.all(servers.map((server) => server.shutdown()));
          await answered;
          await ended; // a large response is `completed` before its last bytes have left
        },
      };
    },
  };
}

const runtime = typeof Deno === "undefined" ? node() : deno();

// ── The program ──

/** Does what the arguments say and returns the exit code. */
async function main(args: string[]): Promise<number> {
  const flags = ["--ping", "--help", "--version"];
  const stray = args.find((arg) => !flags.includes(arg)) ?? args[1];
  if (stray !== undefined) throw new Error(`Unexpected argument ${quote(stray)}\n${USAGE}`);
  if (args.includes("--help")) print(USAGE);
  else if (args.includes("--version")) print(VERSION);
  else if (args.includes("--ping")) print(await probe(readSettings(runtime.env)));
  else return await serve(readSettings(runtime.env));
  return 0;
}

if (runtime.isProgram()) {
  const code = await main(runtime.args).catch((error) => {
    print(cause(error), console.error);
    return 1;
  });
  runtime.exit(code);
}
