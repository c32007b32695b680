/**
 * What Hono's middleware costs, for docs/recipes.md: `node --import tsx bench/middleware.ts` prints the table. Each is
 * loaded in turn with the same service without it. BENCH_NODE names a Node.js that runs TypeScript by itself.
 */
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import process from "node:process";
import { denoPath, ROOT, scratch, withRoutesOf } from "../support/harness.ts";
import { load, median, withServer } from "./measure.ts";

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
  for (const [name, use] of Object.entries(all)) if (process.env.MIDDLEWARE!.split(" ").includes(name)) app.use(use);
  const item = { item: "tea", cents: 250 };
  const items = Array.from({ length: 300 }, (_, cents) => ({ item: "tea", cents }));
  app.get("/item", (c) => c.json(item));
  app.get("/items", (c) => c.json(items));
  app.post("/orders", async (c) => c.json(await c.req.json()));
`;

const folder = scratch();
const POST = `${folder}/post.lua`;
writeFileSync(POST, `wrk.method = "POST"\nwrk.body = '{"text":"${"a".repeat(1000)}"}'\n`);
writeFileSync(`${folder}/main.ts`, withRoutesOf(readFileSync(`${ROOT}/main.ts`, "utf8"), ROUTES));

const HEADERS = ["Origin: https://shop.example.com", "Authorization: Bearer right"].flatMap((
  line,
) => ["--header", line]);
const GZIP = ["--header", "Accept-Encoding: gzip"];
const SCRIPT = ["--script", POST];
/** The names of the middleware, and what is asked for. */
const CASES: [names: string, what: string, path: string, options: string[]][] = [
  ["cors", "a small answer", "/item", []],
  ["secureHeaders", "a small answer", "/item", []],
  ["bearerAuth", "a small answer", "/item", []],
  ["timeout", "a small answer", "/item", []],
  ["bodyLimit", "a body of 1 kB", "/orders", SCRIPT],
  ["compress", "9 kB, not compressed", "/items", []],
  ["compress", "9 kB, compressed", "/items", GZIP],
  [
    "cors secureHeaders compress bearerAuth timeout bodyLimit",
    "a body of 1 kB, not compressed",
    "/orders",
    SCRIPT,
  ],
];
const RUNTIMES = {
  Deno: [denoPath(), "run", "-q", "-P", "--no-prompt"],
  "Node.js": [process.env.BENCH_NODE || process.execPath],
};

try {
  console.log(`| middleware | asked | ${Object.keys(RUNTIMES).join(" | ")} |\n|-|-|-|-|`);
  for (const [names, what, path, options] of CASES) {
    const ratios = [];
    for (const runtime of Object.values(RUNTIMES)) {
      const command = [...runtime, `${folder}/main.ts`];
      const side = (MIDDLEWARE: string) => ({
        name: "",
        command,
        env: { MIDDLEWARE, ACCESS_LOG: "off", HOST: "127.0.0.1" },
      });
      const rounds: number[] = [];
      await withServer(side(names), (ours) =>
        withServer(side("none"), (theirs) => {
          for (let round = 0; round <= ROUNDS; round++) {
            const [withIt, without] = [ours, theirs].map((server) =>
              load(server, path, round === 0 ? 1 : LOAD_SECONDS, CONNECTIONS, [
                ...HEADERS,
                ...options,
              ]).perCpuS
            );
            if (round > 0) rounds.push(withIt / without); // the first one warms
          }
        }));
      ratios.push(median(rounds).toFixed(2));
    }
    console.log(`| ${names} | ${what} | ${ratios.join(" | ")} |`);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
