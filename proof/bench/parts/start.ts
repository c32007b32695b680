/** How fast the service starts, and stops with streams open. */
import { figure, type Goal, inTurn, type Row } from "../measure.ts";
import {
  build,
  copy,
  image,
  NAMES,
  raw,
  RUNTIMES,
  side,
  source,
  versionBefore,
} from "../programs.ts";
import { add, type Part } from "../report.ts";
import { stopMs, withServer } from "../servers.ts";

const START_PAIRS = 15;
const STOP_PAIRS = 7;
const STREAMS = 30;

const EVENTS = `
app.get("/events", async (c) => {
  const { streamSSE } = await import("hono/streaming");
  return streamSSE(c, async (stream) => {
    await stream.writeSSE({ data: "open" });
    await new Promise((resolve) => stopping.addEventListener("abort", resolve));
  });
});`;

type Case = [what: string, ours: string[], against: string, theirs: string[], goal?: Goal];

function starts(): Case[] {
  const cases: Case[] = [
    ["image on Deno", image.deno.serve, "raw Deno.serve", raw.deno, { atMost: 1.2 }],
    ["image on Node.js", image.node.serve, "raw node:http", raw.node, { atMost: 1.2 }],
    ["main.ts on Deno", source.deno, "raw Deno.serve", raw.deno],
    ["main.ts on Node.js", source.node, "raw node:http", raw.node],
  ];
  const before = versionBefore();
  if (!before) return cases;
  for (const runtime of RUNTIMES) {
    const { serve } = build(before, runtime);
    cases.push([`image on ${NAMES[runtime]}`, image[runtime].serve, "version 3", serve]);
  }
  return cases;
}

async function measureStarts(rows: Row[]): Promise<void> {
  for (const [name, ours, against, theirs, goal] of starts()) {
    const sides = [side(name, ours), side(against, theirs)];
    const pairs = await inTurn(
      START_PAIRS,
      sides,
      (side) => withServer(side, ({ startMs }) => startMs),
    );
    const what = `start to the first 200, ${name}`;
    add(rows, { what, against, figures: [figure("time", "ms", 0, pairs, goal)] });
  }
}

async function measureStops(rows: Row[]): Promise<void> {
  for (const runtime of RUNTIMES) {
    const { serve } = build(copy(`events-${runtime}`, EVENTS), runtime);
    const sides = [STREAMS, 0].map((streams) => side(`${streams}`, serve));
    const pairs = await inTurn(
      STOP_PAIRS,
      sides,
      (side) => withServer(side, (server) => stopMs(server, "/events", Number(side.name))),
    );
    const what = `stop, image on ${NAMES[runtime]}, ${STREAMS} event streams open`;
    add(rows, { what, against: "none open", figures: [figure("time", "ms", 0, pairs)] });
  }
}

async function measure(): Promise<Row[]> {
  const rows: Row[] = [];
  await measureStarts(rows);
  await measureStops(rows);
  return rows;
}

export const start: Part = {
  title: "How fast it starts and stops",
  method: `${START_PAIRS} pairs of starts, ${STOP_PAIRS} of stops. A stop is from SIGTERM to the ` +
    `end, with exit code 0.`,
  needs: [],
  measure,
};
