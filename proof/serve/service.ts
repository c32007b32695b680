/**
 * A realistic service, as a user would write it: service.proof.ts moves it in at the mark of main.ts and drives it
 * on each runtime and in both images.
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
import { type App, type Hooks, readSettings } from "../../main.ts";
import { openStore } from "./service/store.ts";

const TICK_MS = 20;

/** What differs between the runtimes. */
interface Platform {
  getConnInfo: GetConnInfo;
  files: MiddlewareHandler;
  echo: MiddlewareHandler;
  websocket?: Hooks["websocket"];
}

const root = import.meta.dirname;
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

const Item = z.object({ name: z.string().min(1).max(100) });

/** The routes, and what the service needs and holds. */
export async function addRoutes(app: App, { stopping }: { stopping: AbortSignal }): Promise<Hooks> {
  const { getConnInfo, files, echo, websocket } =
    await ("Deno" in globalThis ? onDeno() : onNode());
  const store = await openStore(`${process.env.SERVICE_DATA}/items.sqlite`);
  let ticks = 0;
  const ticker = setInterval(() => ticks++, TICK_MS);
  stopping.addEventListener("abort", () => clearInterval(ticker));

  app.use(async (c, next) => {
    c.set("user", c.req.header("X-User") ?? "nobody");
    await next();
    c.header("X-Service", "yes");
  });
  if (process.env.OWN_HANDLERS) {
    app.onError((error, c) =>
      c.text(`own handler: ${error instanceof HTTPException ? error.status : "?"}`, 500)
    );
    app.notFound((c) => c.text("own: nothing here", 404));
  }

  // ── Items ──
  const readItem = async (request: Request) => {
    const { success, data } = Item.safeParse(await request.json().catch(() => undefined));
    if (success) return data;
    throw new HTTPException(400, { message: "an item has a name" });
  };
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
  app.delete(
    "/items/:id",
    (c) => store.remove(Number(c.req.param("id"))) ? c.body(null, 204) : c.notFound(),
  );

  // ── Bodies ──
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

  // ── Streams and sockets ──
  let open = 0;
  app.get("/events", (c) =>
    streamSSE(c, async (stream) => {
      const ended = new Promise<void>((resolve) => {
        if (stopping.aborted) resolve();
        stopping.addEventListener("abort", () => resolve());
        stream.onAbort(() => resolve());
      });
      open++;
      await stream.writeSSE({ event: "hello", data: `${c.get("user")}` });
      await ended;
      open--;
      await stream.writeSSE({ event: "bye", data: "stopping" });
    }));
  app.get("/open", (c) => c.json(open));
  app.get("/ws", echo);

  // ── The rest ──
  app.get("/static/*", files);
  app.get("/address", (c) => c.text(getConnInfo(c).remote.address ?? "unknown"));
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
  app.get("/settings", (c) => c.json(readSettings((name) => process.env[name]))); // a value of main.ts, not a type alone
  app.get("/ticks", (c) => c.json(ticks));
  app.get("/greeting", (c) => c.text(`${process.env.GREETING}`));
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

  return { websocket, ready: () => store.check(), close: () => store.close() };
}
