/** What one probe costs: the process that a HEALTHCHECK starts. */
import { rmSync } from "node:fs";
import { freePort } from "../../support/harness.ts";
import { cost, figure, type Goal, inTurn, peakMib, type Row } from "../measure.ts";
import {
  build,
  empty,
  image,
  NAMES,
  NODE,
  PEER,
  RUNTIMES,
  type Side,
  side,
  socketAlone,
  source,
  versionBefore,
  WORK,
} from "../programs.ts";
import { add, type Part } from "../report.ts";
import { withServer } from "../servers.ts";

const PAIRS = 20;
const PEAK_PAIRS = 5;
const CONTAINERS = 200;
const PROBE_INTERVAL_S = 10;
const HEAL_AFTER_MS = 30_000;

const EMPTY = "an empty program";
const FETCH = "node -e with fetch";

/** A row to be: what probes, what it is compared with, and the goal. */
type Case = [what: string, ours: string[] | Side, theirs: Side, goal?: Goal];

/** Probes beside programs of nothing. */
function besideNothing(): Case[] {
  const nothing = (command: string[]) => side(EMPTY, command);
  const ofSource = (command: string[]) => [...command, "--ping"];
  const nodeName = `main.ts on ${NAMES.node}`;
  return [
    ["image on Deno", image.deno.ping, nothing(empty.deno), { atMost: 1.15 }],
    ["image on Node.js", image.node.ping, nothing(empty.node), { atMost: 1.25 }],
    ["image on Node.js", image.node.ping, side("a socket of node:net", socketAlone)],
    ["main.ts on Deno", ofSource(source.deno), nothing(empty.denoTs), { atMost: 1.25 }],
    [nodeName, ofSource(source.node), nothing(empty.nodeTs), { atMost: 1.25 }],
    ["main.ts on tsx", ofSource(source.tsx), nothing(empty.tsx), { atMost: 1.25 }],
  ];
}

/** The image's probe beside others' probes of the same service. */
function besideOthers(port: string): Case[] {
  const url = `http://127.0.0.1:${port}/healthz`;
  const code = `fetch("${url}").then((r)=>process.exit(r.ok?0:1),()=>process.exit(1))`;
  const curl = side("curl -f", ["curl", "-fsS", "-o", "/dev/null", url]);
  const cases: Case[] = [
    ["image on Deno", image.deno.ping, side(FETCH, [NODE, "-e", code]), { atMost: 0.3 }],
    ["image on Deno", image.deno.ping, curl],
  ];
  if (PEER) cases.push(["image on Deno", image.deno.ping, side("the Go peer", [PEER, "--ping"])]);
  return cases;
}

/** The image's probe beside version 3's, and beside itself with other settings. */
function besideItself(): Case[] {
  const cases: Case[] = [];
  const before = versionBefore();
  for (const runtime of RUNTIMES) {
    const what = `image on ${NAMES[runtime]}`;
    const { ping } = image[runtime];
    if (before) {
      cases.push([what, ping, side("version 3", build(before, runtime).ping), { atMost: 1.05 }]);
    }
    const healing = side("on", ping, { HEAL_AFTER_MS: `${HEAL_AFTER_MS}` });
    const off = side("off", ping, { HEAL_AFTER_MS: "0" });
    cases.push([`${what}, healing on`, healing, off, { atMost: 1.07 }]);
  }
  const node = [...source.node, "--ping"];
  const cached = side("set", node, { NODE_COMPILE_CACHE: `${WORK}/compile-cache` });
  cases.push([`main.ts on Node.js, NODE_COMPILE_CACHE set`, cached, side("not set", node)]);
  return cases;
}

async function compare([what, mine, other, goal]: Case, PORT: string): Promise<Row> {
  const ours = Array.isArray(mine) ? side("ours", mine) : mine;
  const sides = [ours, other].map((side) => ({ ...side, env: { ...side.env, PORT } }));
  const runs = await inTurn(PAIRS, sides, cost);
  const figures = [
    figure("CPU", "ms", 1, runs.map((pair) => pair.map(({ cpuMs }) => cpuMs)), goal),
    figure("wall", "ms", 1, runs.map((pair) => pair.map(({ wallMs }) => wallMs)), goal),
    figure("peak memory", "MiB", 0, await inTurn(PEAK_PAIRS, sides, peakMib), goal),
  ];
  return { what, against: other.name, figures };
}

/** What a row comes to for many containers. */
function forMany({ against, figures: [{ ours, theirs = 0 }] }: Row): Row {
  const cores = (ms: number) => CONTAINERS / PROBE_INTERVAL_S * ms / 1000;
  return {
    what: `image on Deno, ${CONTAINERS} containers probed every ${PROBE_INTERVAL_S} s, computed`,
    against,
    figures: [figure("CPU", "cores", 2, [[cores(ours), cores(theirs)]])],
  };
}

async function measure(): Promise<Row[]> {
  const rows: Row[] = [];
  const port = `${await freePort()}`;
  await withServer(side("service", image.deno.serve, { PORT: port }), async () => {
    for (const one of [...besideNothing(), ...besideOthers(port), ...besideItself()]) {
      add(rows, await compare(one, port));
    }
  });
  rmSync("/dev/shm/heartbeat-streak", { force: true }); // what a probe that heals leaves
  add(rows, forMany(rows.find(({ against }) => against === FETCH)!));
  return rows;
}

export const probe: Part = {
  title: "What a probe costs",
  method: `${PAIRS} pairs of processes, and ${PEAK_PAIRS} for the memory; CPU is that of the ` +
    `process and all it starts.`,
  needs: ["hyperfine", "time"],
  measure,
};
