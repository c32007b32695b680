/** What memory the service holds: idle, after a load, and after a longer one. */
import { figure, type Goal, inTurn, type Row } from "../measure.ts";
import { NAMES, type Runtime, RUNTIMES } from "../programs.ts";
import { add, type Part } from "../report.ts";
import { ITEM_PATH, serverBefore, servers } from "../routes.ts";
import { load, residentMib, type Server, withServer } from "../servers.ts";

const ROUNDS = 3;
const CONNECTIONS = 64;
const MANY_CONNECTIONS = 512;
const WARM_REQUESTS = 50_000;
const END_REQUESTS = 200_000;

/** What a server holds at four moments of a load, in MiB. */
interface Held {
  idle: number;
  warm: number;
  end: number;
  many: number;
}

function hold(server: Server): Held {
  let requests = 0;
  const loadUntil = (total: number) => {
    while (requests < total) requests += load(server, ITEM_PATH, 1, CONNECTIONS).requests;
    return residentMib(server);
  };
  const idle = residentMib(server);
  const warm = loadUntil(WARM_REQUESTS);
  const end = loadUntil(END_REQUESTS);
  load(server, ITEM_PATH, 1, MANY_CONNECTIONS);
  return { idle, warm, end, many: residentMib(server) };
}

/** The row of two sides, of which `pairs` holds what they held in each round. */
function row(what: string, against: string, pairs: Held[][], goal: Goal): Row {
  const of = (key: keyof Held) => pairs.map((pair) => pair.map((held) => held[key]));
  const grown = pairs.map((pair) => pair.map(({ warm, end }) => end / warm));
  const figures = [
    figure("idle", "MiB", 0, of("idle")),
    figure("warm", "MiB", 0, of("warm")),
    figure("after load", "MiB", 0, of("end"), goal),
    figure("growth between", "times", 2, grown),
    figure(`after ${MANY_CONNECTIONS} connections`, "MiB", 0, of("many")),
  ];
  return { what, against, figures };
}

async function measureOn(runtime: Runtime, rows: Row[]): Promise<void> {
  const { service, logging, hono } = servers(runtime);
  const sides = [logging, service, hono];
  const before = serverBefore(runtime);
  if (before) sides.push(before);
  const rounds = await inTurn(ROUNDS, sides, (side) => withServer(side, hold));
  const of = (mine: number, other: number) => rounds.map((held) => [held[mine], held[other]]);
  const on = NAMES[runtime];
  add(rows, row(on, service.name, of(0, 1), { atMost: 1.5 }));
  if (before) add(rows, row(on, before.name, of(0, 3), { atMost: 1.05 }));
  add(rows, row(`${on}, access log off`, hono.name, of(1, 2), { atMost: 1.05 }));
}

async function measure(): Promise<Row[]> {
  const rows: Row[] = [];
  for (const runtime of RUNTIMES) await measureOn(runtime, rows);
  return rows;
}

export const memory: Part = {
  title: "What it holds",
  method: `Resident memory, ${ROUNDS} rounds in turn, each with new processes that answer ` +
    `\`${ITEM_PATH}\`: idle, warm after ${WARM_REQUESTS / 1000}k requests by ${CONNECTIONS} ` +
    `connections, after load at ${END_REQUESTS / 1000}k, and after 1 s more by ` +
    `${MANY_CONNECTIONS} connections. As it comes the log is on.`,
  needs: ["wrk"],
  measure,
};
