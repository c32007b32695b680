/**
 * A realistic service, as a user would write it: items in a database, uploads, event streams, a
 * WebSocket. subjects.ts moves it in at the mark of main.ts.
 */
import type { MiddlewareHandler } from "hono";
import type { GetConnInfo } from "hono/conninfo";
import type { WSContext } from "hono/ws";
import { Hono } from "hono";
import { deleteCookie, setCookie } from "hono/cookie";
import { HTTPException } from "hono/http-exception";
import { streamSSE } from "hono/streaming";
import process from "node:process";
import { z } from "zod";
import { type App, type Hooks, readSettings } from "../../../main.ts";
import { openStore, type Store } from "./store.ts";

const TICK_MS = 20;

/** What differs between the runtimes. */
interface Platform {
  getConnInfo: GetConnInfo;
  files: MiddlewareHandler;
  echo: MiddlewareHandler;
  websocket?: Hooks["websocket"];
}

const root = import.meta.dirname; // static/ lies beside it, in the image beside the bundle
const events = {
  onMessage: ({ data }: { data: unknown }, socket: WSContext<unknown>) =>
    socket.send(`echo: ${data}`),
};

async function onNode(): Promise<Platform> {
  const { upgradeWebSocket } = await import("@hono/node-server");
  const { getConnInfo } = await import("@hono/node-server/conninfo");
  const { serveStatic } = await import("@hono/node-server/serve-static");
  const { WebSocketServer } = await import("ws");
  const websocket = { server: new WebSocketServer({ noServer: true }) };
  return {
    getConnInfo,
    files: serveStatic({ root }),
    echo: upgradeWebSocket(() => events),
    websocket,
  };
}

async function onDeno(): Promise<Platform> {
  const { getConnInfo, serveStatic, upgradeWebSocket } = await import("hono/deno");
  return { getConnInfo, files: serveStatic({ root }), echo: upgradeWebSocket(() => events) };
}

/** The routes, and what the service needs and holds. */
export async function addRoutes(app: App, { stopping }: { stopping: AbortSignal }): Promise<Hooks> {
  const platform = await ("Deno" in globalThis ? onDeno() : onNode());
  const store = await openStore(`${process.env.SERVICE_DATA}/items.sqlite`);
  app.use(async (c, next) => {
    c.set("user", c.req.header("X-User") ?? "nobody");
    await next();
    c.header("X-Service", "yes");
  });
  if (process.env.OWN_HANDLERS) addOwnHandlers(app);
  addItems(app, store);
  addBodies(app);
  addStreams(app, stopping);
  addAnswers(app, stopping);
  addErrors(app);
  app.get("/ws", platform.echo);
  app.get("/static/*", platform.files);
  app.get("/address", (c) => c.text(platform.getConnInfo(c).remote.address ?? "unknown"));
  const { websocket } = platform;
  return { websocket, ready: () => store.check(), close: () => store.close() };
}

function addOwnHandlers(app: App): void {
  app.onError((error, c) =>
    c.text(`own handler: ${error instanceof HTTPException ? error.status : "?"}`, 500)
  );
  app.notFound((c) => c.text("own: nothing here", 404));
}

const Item = z.object({ name: z.string().min(1).max(100) });

async function readItem(request: Request): Promise<{ name: string }> {
  const { success, data } = Item.safeParse(await request.json().catch(() => undefined));
  if (success) return data;
  throw new HTTPException(400, { message: "an item has a name" });
}

function addItems(app: App, store: Store): void {
  app.get("/items", (c) => c.json(store.list()));
  app.post("/items", async (c) => c.json(store.add((await readItem(c.req.raw)).name), 201));
  app.get("/items/:id", (c) => {
    const item = store.find(Number(c.req.param("id")));
    return item ? c.json(item) : c.notFound();
  });
  app.put("/items/:id", async (c) => {
    const isFound = store.rename(Number(c.req.param("id")), (await readItem(c.req.raw)).name);
    return isFound ? c.body(null, 204) : c.notFound();
  });
  app.delete("/items/:id", (c) => {
    const isFound = store.remove(Number(c.req.param("id")));
    return isFound ? c.body(null, 204) : c.notFound();
  });
}

function addBodies(app: App): void {
  app.post("/upload", async (c) => {
    const { file, note } = await c.req.parseBody();
    if (!(file instanceof File)) throw new HTTPException(400, { message: "no file" });
    return c.json({ name: file.name, size: (await file.bytes()).length, note });
  });
  app.post("/echo", (c) => c.body(c.req.raw.body!));
  app.post("/late", async (c) => {
    await new Promise((resolve) => setTimeout(resolve, Number(c.req.query("ms") ?? 50)));
    return c.json({ size: (await c.req.arrayBuffer()).byteLength });
  });
  app.post("/streamed", (c) => {
    const reader = c.req.raw.body!.getReader();
    let size = 0;
    return c.body(
      new ReadableStream({
        async pull(controller) {
          const { done, value } = await reader.read();
          size += value?.length ?? 0;
          controller.enqueue(new TextEncoder().encode(done ? `\n${size}` : "."));
          if (done) controller.close();
        },
      }),
    );
  });
  app.post("/ignored", (c) => c.text("ignored"));
}

function addStreams(app: App, stopping: AbortSignal): void {
  let open = 0;
  app.get("/events", (c) =>
    streamSSE(c, async (stream) => {
      const ended = new Promise<void>((resolve) => {
        if (stopping.aborted) resolve();
        stopping.addEventListener("abort", () => resolve());
        stream.onAbort(() => resolve());
      });
      open += 1;
      await stream.writeSSE({ event: "hello", data: `${c.get("user")}` });
      await ended;
      open -= 1;
      await stream.writeSSE({ event: "bye", data: "stopping" });
    }));
  app.get("/open", (c) => c.json(open));
}

function addAnswers(app: App, stopping: AbortSignal): void {
  let ticks = 0;
  const ticker = setInterval(() => {
    ticks += 1;
  }, TICK_MS);
  stopping.addEventListener("abort", () => clearInterval(ticker));
  app.get("/ticks", (c) => c.json(ticks));
  app.get("/user", (c) => c.text(`${c.get("user")}`));
  app.get("/cookies", (c) => {
    setCookie(c, "first", "1");
    setCookie(c, "second", "2", { httpOnly: true });
    deleteCookie(c, "third");
    return c.text("baked");
  });
  app.get("/redirect", () => Response.redirect("http://example.test/elsewhere", 303));
  app.get(
    "/proxy/:path",
    (c) => fetch(`http://127.0.0.1:${process.env.UPSTREAM_PORT}/${c.req.param("path")}`),
  );
  app.get("/slow", async (c) => {
    await new Promise((resolve) => setTimeout(resolve, Number(c.req.query("ms"))));
    return c.text("slow but whole");
  });
  // A value of main.ts, not a type alone.
  app.get("/settings", (c) => c.json(readSettings((name) => process.env[name])));
  app.get("/greeting", (c) => c.text(`${process.env.GREETING}`));
}

function addErrors(app: App): void {
  app.get("/teapot", () => {
    throw new HTTPException(418, { message: "short and stout" });
  });
  app.get("/throws", () => {
    throw new Error("SECRET of the route");
  });
  const area = new Hono();
  area.onError((_error, c) => c.text("the area's own handler", 500));
  area.get("/throws", () => {
    throw new Error("SECRET of the area");
  });
  app.route("/area", area);
}
