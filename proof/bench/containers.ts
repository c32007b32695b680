/** Containers of the benchmark: building their images, and following what happens to them. */
import { spawn } from "node:child_process";
import process from "node:process";
import { sleep } from "../support/harness.ts";
import { has, output } from "./programs.ts";
import { ask } from "./servers.ts";

/** An image to build. */
export interface Built {
  tag: string;
  folder: string;
  options: string[];
}

/** Builds images, and removes them once they are measured. */
export async function withImages<T>(images: Built[], body: () => Promise<T> | T): Promise<T> {
  try {
    for (const { tag, folder, options } of images) {
      output(["docker", "build", "--quiet", "--tag", tag, ...options, folder]);
    }
    return await body();
  } finally {
    has(["docker", "rmi", "--force", ...images.map(({ tag }) => tag)]);
  }
}

// ── The life of a container ──

/** What happened to a container, in seconds from `docker run`. */
export interface Moment {
  atS: number;
  what: "run" | "started" | "wedged" | "failed probe" | "healthy" | "unhealthy" | "ended";
  /** What the probe printed, or the exit code. */
  detail?: string;
}

export interface Lane {
  name: string;
  moments: Moment[];
  endS: number;
}

/** A wedge must be over after this. */
const HEAL_LIMIT_S = 180;
const LOOK_MS = 500;

/** What the moments of a lane are called by the engine. */
const MOMENTS: Record<string, Moment["what"]> = {
  "start": "started",
  "health_status: healthy": "healthy",
  "health_status: unhealthy": "unhealthy",
  "die": "ended",
};

interface DockerEvent {
  Action: string;
  Actor: { ID: string; Attributes: { exitCode?: string } };
  timeNano: number;
}

interface DockerHealth {
  Log: { End: string; ExitCode: number; Output: string }[];
}

/** A container that is followed. */
interface Followed {
  name: string;
  id: string;
  fromS: number;
  /** By the time at which the probe ended, because the engine keeps only the last five. */
  failedProbes: Map<string, Moment>;
}

const nowS = () => Date.now() / 1000;

/** Follows the engine's events of an image's containers. */
function followEvents(image: string) {
  const events: DockerEvent[] = [];
  const args = ["events", "--format", "{{json .}}", "--filter", `image=${image}`];
  const follower = spawn("docker", args, { stdio: ["ignore", "pipe", "inherit"] });
  let rest = "";
  follower.stdout.on("data", (chunk) => {
    const lines = `${rest}${chunk}`.split("\n");
    rest = lines.pop()!;
    for (const line of lines) events.push(JSON.parse(line));
  });
  return { events, end: () => follower.kill() };
}

function run(image: string, name: string, options: string[]): Followed {
  const fromS = nowS();
  const run = ["docker", "run", "--detach", "--publish=127.0.0.1::8080", ...options, image];
  return { name, id: output(run), fromS, failedProbes: new Map() };
}

/** Asks for the route that never ends. */
function wedge({ id }: Followed): void {
  const port = Number(output(["docker", "port", id, "8080/tcp"]).split(":").at(-1));
  ask(port, "/wedge").catch(() => {}); // nobody ever answers
}

/** Notes the probes that failed since the last look. */
function lookAtProbes({ id, fromS, failedProbes }: Followed): void {
  const text = output(["docker", "inspect", "--format={{json .State.Health}}", id]);
  const { Log }: DockerHealth = JSON.parse(text);
  for (const { End, ExitCode, Output } of Log) {
    if (ExitCode === 0) continue;
    const atS = Date.parse(End) / 1000 - fromS;
    failedProbes.set(End, { atS, what: "failed probe", detail: Output.trim() });
  }
}

/** Looks until the containers' life is over; gives when that was. */
async function look(containers: Followed[], events: DockerEvent[], endAfterMs: number) {
  const fromS = nowS();
  const timesHealthy = ({ id }: Followed) =>
    events.filter(({ Action, Actor }) => Actor.ID === id && Action === "health_status: healthy")
      .length;
  let endS = Infinity;
  while (nowS() < endS) {
    await sleep(LOOK_MS);
    containers.forEach(lookAtProbes);
    const isHealed = containers.some((container) => timesHealthy(container) === 2);
    if (endS === Infinity && isHealed) endS = nowS() + endAfterMs / 1000;
    if (nowS() - fromS > HEAL_LIMIT_S) {
      throw new Error(`No container was healthy again within ${HEAL_LIMIT_S} s`);
    }
  }
  return endS;
}

/** What happened to a container, in its order. */
function laneOf(
  { name, id, fromS, failedProbes }: Followed,
  events: DockerEvent[],
  wedgedS: number,
  endS: number,
): Lane {
  const moments: Moment[] = [
    { atS: 0, what: "run" },
    { atS: wedgedS - fromS, what: "wedged" },
    ...failedProbes.values(),
  ];
  for (const { Action, Actor, timeNano } of events) {
    const what = MOMENTS[Action];
    if (Actor.ID !== id || !what) continue;
    const { exitCode } = Actor.Attributes;
    const detail = exitCode && `exit code ${exitCode}`;
    moments.push({ atS: timeNano / 1e9 - fromS, what, detail });
  }
  for (const moment of moments) moment.atS = Math.round(moment.atS * 10) / 10;
  return {
    name,
    moments: moments.toSorted((a, b) => a.atS - b.atS),
    endS: Math.round(endS - fromS),
  };
}

/**
 * Follows containers of one image that are started together and wedged together: their event loops
 * turn for ever.
 *
 * @param options What `docker run` gets for each
 * @param wedgeAfterMs From `docker run`
 * @param endAfterMs From the first one that is healthy again
 */
export async function lives(
  image: string,
  options: Record<string, string[]>,
  wedgeAfterMs: number,
  endAfterMs: number,
): Promise<Lane[]> {
  const containers: Followed[] = [];
  // They would be restarted for ever, and turn for ever.
  const remove = () => void has(["docker", "rm", "--force", ...containers.map(({ id }) => id)]);
  process.once("exit", remove);
  const { events, end } = followEvents(image);
  try {
    await sleep(LOOK_MS); // until it follows
    for (const [name, more] of Object.entries(options)) containers.push(run(image, name, more));
    await sleep(containers[0].fromS * 1000 + wedgeAfterMs - Date.now());
    const wedgedS = nowS();
    containers.forEach(wedge);
    const endS = await look(containers, events, endAfterMs);
    return containers.map((container) => laneOf(container, events, wedgedS, endS));
  } finally {
    end();
    process.off("exit", remove);
    remove();
  }
}
