/**
 * Clients of a service that is being restarted: some open a connection for each request, some keep
 * theirs, some upload, some wait for an answer that takes its time. A request is lost if its whole
 * right answer does not come. None is sent twice.
 *
 * As a program it asks until SIGTERM, and exits 1 if a request was lost:
 *
 *     node clients.ts http://tasks.heartbeat:8080
 *
 * It imports nothing of ours, because it then lies alone in a container.
 */
import assert from "node:assert/strict";
import { Agent, type IncomingMessage, request } from "node:http";
import { once } from "node:events";
import process from "node:process";
import { setTimeout as sleep } from "node:timers/promises";

/** What the clients ask for, for withRoutesOf(). */
export const ROUTES = `
app.get("/quick", (c) => c.text("ok"));
app.get("/slow", async (c) => { await sleep(300); return c.text("ok"); });
app.post("/upload", async (c) => c.text(String((await c.req.arrayBuffer()).byteLength)));
`;
const PART = Buffer.alloc(16_384, "x");
const PARTS = 4;
/** Between the parts of an upload, so that a stop finds some in the middle of theirs. */
const PART_PAUSE_MS = 25;
const REQUEST_TIMEOUT_MS = 20_000;

interface Kind {
  name: string;
  path: "/quick" | "/slow" | "/upload";
  /** Whether its connection is kept for the next request. */
  isKept: boolean;
  clients: number;
  /** Between two requests: two cores shared with the service must not be what is tested. */
  pauseMs: number;
}
const KINDS: Kind[] = [
  { name: "on new connections", path: "/quick", isKept: false, clients: 4, pauseMs: 5 },
  { name: "on kept connections", path: "/quick", isKept: true, clients: 8, pauseMs: 5 },
  {
    name: "now and then on kept connections",
    path: "/quick",
    isKept: true,
    clients: 8,
    pauseMs: 400,
  },
  { name: "slow", path: "/slow", isKept: true, clients: 4, pauseMs: 0 },
  { name: "uploads", path: "/upload", isKept: true, clients: 4, pauseMs: 0 },
];

/** Sends one request; throws unless the whole right answer comes. */
async function ask(url: URL, { path, isKept }: Kind, agent: Agent) {
  const isUpload = path === "/upload";
  const method = isUpload ? "POST" : "GET";
  const headers = isUpload ? { "Content-Length": PART.length * PARTS } : {};
  // One address a connection: a client that tries the next one would hide a refusal.
  const options = {
    path,
    method,
    headers,
    agent: isKept ? agent : false as const,
    autoSelectFamily: false,
  };
  const sent = request(url, { ...options, signal: AbortSignal.timeout(REQUEST_TIMEOUT_MS) });
  const answered = once(sent, "response") as Promise<[IncomingMessage]>;
  answered.catch(() => {}); // awaited below, after the upload
  for (let part = 0; isUpload && part < PARTS && !sent.destroyed; part++) {
    sent.write(PART);
    await sleep(PART_PAUSE_MS);
  }
  sent.end();
  const [response] = await answered;
  let text = "";
  for await (const chunk of response) text += chunk;
  const wanted = isUpload ? `${PART.length * PARTS}` : "ok";
  if (response.statusCode !== 200 || text !== wanted) {
    throw new Error(`${response.statusCode} ${JSON.stringify(text.slice(0, 100))}`);
  }
}

/**
 * Runs `body` while the clients ask.
 *
 * @returns How many requests of each kind were answered, in one line
 * @throws if a request was lost, or a kind sent hardly any
 */
export async function underLoad(url: URL, body: () => Promise<void>): Promise<string> {
  const startMs = performance.now();
  const lost: string[] = [];
  let isOver = false;
  const clients = KINDS.map(async (kind) => {
    let count = 0;
    await Promise.all(Array.from({ length: kind.clients }, async () => {
      const agent = new Agent({ keepAlive: true, maxSockets: 1 });
      while (!isOver) {
        count++;
        await ask(url, kind, agent).catch((error) => {
          const atS = ((performance.now() - startMs) / 1000).toFixed(1);
          lost.push(`${kind.name}, after ${atS} s: ${error.code ?? error.message}`);
        });
        await sleep(kind.pauseMs);
      }
      agent.destroy();
    }));
    assert.ok(count > 50, `only ${count} requests ${kind.name}`);
    return { name: kind.name, count };
  });
  try {
    await body();
  } finally {
    isOver = true;
    await Promise.allSettled(clients);
  }
  const counts = await Promise.all(clients);
  const total = counts.reduce((sum, { count }) => sum + count, 0);
  assert.deepEqual(lost.slice(0, 20), [], `${lost.length} of ${total} requests were lost`);
  return `none of ${total} requests was lost: ${
    counts.map(({ name, count }) => `${count} ${name}`).join(", ")
  }`;
}

if (import.meta.main) {
  const isOver = once(process, "SIGTERM");
  console.log(await underLoad(new URL(process.argv[2]), async () => void await isOver));
}
