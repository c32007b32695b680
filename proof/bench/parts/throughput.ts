/** What the service delivers for what it uses, beside Hono alone and with its log on. */
import assert from "node:assert/strict";
import { figure, type Goal, type Row } from "../measure.ts";
import { NAMES, PEER, type Runtime, RUNTIMES, type Side, side } from "../programs.ts";
import { add, type Part } from "../report.ts";
import { type Route, ROUTES, servers, WARM_OPTIONS } from "../routes.ts";
import { type Load, load, type Server, withServer, withServers } from "../servers.ts";

const ROUNDS = 5;
const WARM_SECONDS = 2;
const LOAD_SECONDS = 2;
const CONNECTIONS = 64;
/** The least that the service delivers with its log on, of what it does without. */
const LOG_GOAL = 0.8;

/** What one server delivers, by route. */
type Loads = Map<Route, Load>;

/** Loads servers in turn, route by route, each once it is warm. */
function loadInTurn(sides: Side[]): Promise<Loads[]> {
  return withServers(sides, (servers) => {
    for (const server of servers) load(server, "/", WARM_SECONDS, CONNECTIONS, WARM_OPTIONS);
    const loads: Loads[] = servers.map(() => new Map());
    for (const route of ROUTES) {
      servers.forEach((server, at) => {
        if (sides[at].env?.ACCESS_LOG === "on" && !route.isLogged) return;
        loads[at].set(route, load(server, route.path, LOAD_SECONDS, CONNECTIONS, route.options));
      });
    }
    return loads;
  });
}

/** What a server answers to each route. */
function answers({ port }: Server): Promise<string[]> {
  return Promise.all(ROUTES.map(async ({ path, options }) => {
    const post = { method: "POST", body: `{"item":"tea"}` };
    const init = options.length > 0 ? post : {};
    const response = await fetch(`http://127.0.0.1:${port}${path}`, init);
    return `${path}: ${response.status} ${await response.text()}`;
  }));
}

/** The row of two sides, of which `pairs` holds what they delivered in each round. */
function row(what: string, against: string, pairs: Load[][], goal?: Goal): Row {
  const of = (key: "perCpuS" | "perS" | "p99Ms") =>
    pairs.map((pair) => pair.map((load) => load[key]));
  const figures = [
    figure("requests per CPU second", "k/s", 1, of("perCpuS"), goal),
    figure("requests per second", "k/s", 1, of("perS")),
    figure("p99", "ms", 2, of("p99Ms")),
  ];
  return { what, against, figures };
}

async function measureOn(runtime: Runtime, rows: Row[]): Promise<void> {
  const { service, logging, hono } = servers(runtime);
  assert.deepEqual(await withServer(service, answers), await withServer(hono, answers));
  const rounds: Loads[][] = [];
  for (let round = 0; round < ROUNDS; round++) {
    rounds.push(await loadInTurn([hono, service, logging]));
  }
  for (const route of ROUTES) {
    const what = `${route.name}, on ${NAMES[runtime]}`;
    const loads = rounds.map((sides) => sides.map((side) => side.get(route)!));
    const beside = loads.map(([bare, off]) => [off, bare]);
    add(rows, row(what, hono.name, beside, { atLeast: route.goals[runtime] }));
    if (!route.isLogged) continue;
    const logged = loads.map(([, off, on]) => [on, off]);
    add(rows, row(`${what}, access log on`, service.name, logged, { atLeast: LOG_GOAL }));
  }
}

/** The service's /healthz on each runtime beside a Go program's. */
async function measurePeer(rows: Row[]): Promise<void> {
  const peer = side("the Go peer", [PEER!]);
  for (const runtime of RUNTIMES) {
    const { service } = servers(runtime);
    const pairs: Load[][] = [];
    for (let round = 0; round < ROUNDS; round++) {
      const pair = await withServers([service, peer], (both) =>
        both.map((server) => {
          load(server, "/healthz", 1, CONNECTIONS); // until it is warm
          return load(server, "/healthz", LOAD_SECONDS, CONNECTIONS);
        }));
      pairs.push(pair);
    }
    add(rows, row(`\`/healthz\`, on ${NAMES[runtime]}`, peer.name, pairs));
  }
}

async function measure(): Promise<Row[]> {
  const rows: Row[] = [];
  for (const runtime of RUNTIMES) await measureOn(runtime, rows);
  if (PEER) await measurePeer(rows);
  else console.error("Left out: the rows of the Go peer, as PEER is not set");
  return rows;
}

export const throughput: Part = {
  title: "What it serves",
  method: `${ROUNDS} rounds in turn, each with new processes: one load thread, ${CONNECTIONS} ` +
    `connections, ${LOAD_SECONDS} s a route after ${WARM_SECONDS} of all routes mixed. Standard ` +
    `output goes to /dev/null. Health is never logged.`,
  needs: ["wrk"],
  measure,
};
