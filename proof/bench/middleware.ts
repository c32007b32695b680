/**
 * What Hono's middleware costs, for docs/recipes.md: `node --import tsx bench/middleware.ts` prints
 * the table. Each is loaded in turn with the same service without it. BENCH_NODE names a Node.js
 * that runs TypeScript by itself.
 */
import { median } from "./measure.ts";
import { build, copy, NAMES, type Runtime, RUNTIMES, type Side, side, write } from "./programs.ts";
import { load, withServers } from "./servers.ts";

const ROUNDS = 5;
const LOAD_SECONDS = 2;
const CONNECTIONS = 64;

const ROUTES = `
  const { bearerAuth } = await import("hono/bearer-auth");
  const { bodyLimit } = await import("hono/body-limit");
  const { compress } = await import("hono/compress");
  const { cors } = await import("hono/cors");
  const { secureHeaders } = await import("hono/secure-headers");
  const { timeout } = await import("hono/timeout");
  const all = {
    cors: cors({ origin: "https://shop.example.com" }),
    secureHeaders: secureHeaders(),
    compress: compress(),
    bearerAuth: bearerAuth({ token: "right" }),
    timeout: timeout(2000),
    bodyLimit: bodyLimit({ maxSize: 100 * 1024 }),
  };
  const { env } = (await import("node:process")).default;
  for (const [name, use] of Object.entries(all)) {
    if (env.MIDDLEWARE!.split(" ").includes(name)) app.use(use);
  }
  const item = { item: "tea", cents: 250 };
  const items = Array.from({ length: 300 }, (_, cents) => ({ item: "tea", cents }));
  app.get("/item", (c) => c.json(item));
  app.get("/items", (c) => c.json(items));
  app.post("/orders", async (c) => c.json(await c.req.json()));
`;

const POST_LUA = `wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"text":"${"a".repeat(1000)}"}'
`;
const POST = ["--script", write("post.lua", POST_LUA)];
const GZIP = ["--header", "Accept-Encoding: gzip"];
const HEADERS = [
  "--header",
  "Origin: https://shop.example.com",
  "--header",
  "Authorization: Bearer right",
];

/** The names of the middleware, and what is asked for. */
const CASES: [names: string, what: string, path: string, options: string[]][] = [
  ["cors", "a small answer", "/item", []],
  ["secureHeaders", "a small answer", "/item", []],
  ["bearerAuth", "a small answer", "/item", []],
  ["timeout", "a small answer", "/item", []],
  ["bodyLimit", "a body of 1 kB", "/orders", POST],
  ["compress", "9 kB, not compressed", "/items", []],
  ["compress", "9 kB, compressed", "/items", GZIP],
  [
    "cors secureHeaders compress bearerAuth timeout bodyLimit",
    "a body of 1 kB, not compressed",
    "/orders",
    POST,
  ],
];

/** What is left, with the first side's middleware, of what the second side delivers. */
function ratio(sides: Side[], path: string, options: string[]): Promise<number> {
  const more = [...HEADERS, ...options];
  return withServers(sides, (servers) => {
    for (const server of servers) load(server, path, 1, CONNECTIONS, more); // until it is warm
    const rounds = Array.from({ length: ROUNDS }, () => {
      const [withIt, without] = servers.map((server) =>
        load(server, path, LOAD_SECONDS, CONNECTIONS, more).perCpuS
      );
      return withIt / without;
    });
    return median(rounds);
  });
}

const commands = {} as Record<Runtime, string[]>;
for (const runtime of RUNTIMES) {
  commands[runtime] = build(copy(`middleware-${runtime}`, ROUTES), runtime).serve;
}
console.log(`| middleware | request | ${RUNTIMES.map((runtime) => NAMES[runtime]).join(" | ")} |`);
console.log("|-|-|-|-|");
for (const [names, what, path, options] of CASES) {
  const ratios: string[] = [];
  for (const runtime of RUNTIMES) {
    const sides = [names, "none"].map((MIDDLEWARE) =>
      side(MIDDLEWARE, commands[runtime], { MIDDLEWARE })
    );
    ratios.push((await ratio(sides, path, options)).toFixed(2));
  }
  console.log(`| ${names} | ${what} | ${ratios.join(" | ")} |`);
}
