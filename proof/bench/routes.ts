/** Routes as services have them, how each is asked, and the servers that have them. */
import {
  bareHono,
  build,
  copy,
  type Runtime,
  type Side,
  side,
  versionBefore,
  write,
} from "./programs.ts";

const CODE = `
app.get("/items/:id", (c) => c.json({ id: c.req.param("id"), x: c.req.query("x"), cents: 250 }));
app.get("/prices/:id", async (c) => {
  const cents = await Promise.resolve(250);
  c.header("X-Currency", "EUR");
  return c.json({ cents });
});
app.post("/orders", async (c) => c.json(await c.req.json(), 201));`;

export interface Route {
  /** What the tables call it. */
  name: string;
  path: string;
  /** Options of wrk. */
  options: string[];
  /** The least that it delivers, of what bare Hono does. */
  goals: Record<Runtime, number>;
  /** Whether the access log has it. */
  isLogged: boolean;
}

const POST_LUA = `wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"item":"tea","cents":250}'
`;

const route = (name: string, path: string, onDeno: number, more: Partial<Route> = {}): Route => (
  { name, path, options: [], goals: { deno: onDeno, node: 0.95 }, isLogged: true, ...more }
);

export const ITEM_PATH = "/items/17?x=1";
export const ROUTES: Route[] = [
  route(`\`${ITEM_PATH}\`, JSON`, ITEM_PATH, 0.86),
  route("`/prices/17`, async with a header", "/prices/17", 0.86),
  route("`POST /orders`, JSON", "/orders", 0.9, {
    options: [`--script=${write("post.lua", POST_LUA)}`],
  }),
  route("`/`, text", "/", 0.9),
  route("`/healthz`", "/healthz", 0.86, { isLogged: false }),
];

/** Asks for all routes by turns, so that a server is warm for each. */
const WARM_LUA = `local requests, at = {}, 0
function init()
  local json = { ["Content-Type"] = "application/json" }
  requests = {
    wrk.format("GET", "${ITEM_PATH}"),
    wrk.format("GET", "/prices/17"),
    wrk.format("POST", "/orders", json, '{"item":"tea","cents":250}'),
    wrk.format("GET", "/"),
    wrk.format("GET", "/healthz"),
  }
end
function request()
  at = at % #requests + 1
  return requests[at]
end
`;
export const WARM_OPTIONS = [`--script=${write("warm.lua", WARM_LUA)}`];

/** The service with its log off and on, and Hono alone, all with the routes. */
export interface Servers {
  service: Side;
  logging: Side;
  hono: Side;
}

const LOG_ON = { ACCESS_LOG: "on" };

export function servers(runtime: Runtime): Servers {
  const { serve } = build(copy(`routes-${runtime}`, CODE), runtime);
  return {
    service: side("access log off", serve),
    logging: side("access log on", serve, LOG_ON),
    hono: side("bare Hono", bareHono(runtime, CODE)),
  };
}

/** Version 3 as it comes, with the routes; undefined if git does not have it. */
export function serverBefore(runtime: Runtime): Side | undefined {
  const folder = versionBefore();
  if (!folder) return undefined;
  const { serve } = build(copy(`before-${runtime}`, CODE, folder), runtime);
  return side("version 3", serve, LOG_ON);
}
