/**
 * `npm run bench` measures all parts; `npm run bench -- NAME…` measures only those named, and keeps
 * what results.json holds of the others; `npm run bench -- --report` measures nothing and writes
 * the documents anew. The last line tells how long each part took.
 *
 * What is measured is in parts/, what runs in programs.ts and routes.ts, how it is measured in
 * measure.ts, servers.ts and containers.ts, how it is reported in report.ts and pictures.ts.
 * BENCH_NODE names a Node.js that runs TypeScript by itself, PEER a Go program that answers
 * /healthz and has --ping.
 */
import { readFileSync } from "node:fs";
import os from "node:os";
import { performance } from "node:perf_hooks";
import process from "node:process";
import { image } from "./parts/image.ts";
import { install } from "./parts/install.ts";
import { lifecycle } from "./parts/lifecycle.ts";
import { memory } from "./parts/memory.ts";
import { probe } from "./parts/probe.ts";
import { start } from "./parts/start.ts";
import { telemetry } from "./parts/telemetry.ts";
import { throughput } from "./parts/throughput.ts";
import { DENO, has, NODE, output } from "./programs.ts";
import { type Group, type Part, report, type Tool } from "./report.ts";

/** The parts in the order of the report. */
const PARTS: Record<string, Part> = {
  probe,
  throughput,
  telemetry,
  memory,
  start,
  install,
  image,
  lifecycle,
};
const NAMES = Object.keys(PARTS);
/** How to see that a tool is there. */
const LOOK: Record<Exclude<Tool, "docker">, string> = {
  hyperfine: "command -v hyperfine",
  time: "test -x /usr/bin/time",
  wrk: "command -v wrk",
};

/** The names of the parts to measure. */
function chosen(names: string[]): string[] {
  const stray = names.find((name) => !NAMES.includes(name));
  if (stray !== undefined) {
    throw new Error(`There is no part ${JSON.stringify(stray)}: there are ${NAMES.join(", ")}`);
  }
  if (names.length === 0) return NAMES;
  return NAMES.filter((name) => names.includes(name));
}

/** Ends with one line if what the parts need is missing; gives the parts that can be measured. */
function measurable(names: string[]): string[] {
  const [major, minor] = output([NODE, "--version"]).slice(1).split(".").map(Number);
  if (major < 22 || (major === 22 && minor < 18)) {
    throw new Error(`BENCH_NODE must name Node.js 22.18 or later: it is ${NODE}`);
  }
  const isNeeded = (tool: Tool) => names.some((name) => PARTS[name].needs.includes(tool));
  const missing = Object.entries(LOOK)
    .filter(([tool, script]) => isNeeded(tool as Tool) && !has(["sh", "-c", script]))
    .map(([tool]) => tool);
  if (missing.length > 0) {
    const install = `apt-get install ${missing.join(" ")}`;
    throw new Error(`Missing: ${missing.join(", ")}. Install with: ${install}`);
  }
  if (!isNeeded("docker") || has(["docker", "version"])) return names;
  const left = names.filter((name) => PARTS[name].needs.includes("docker"));
  console.error(`Left out: ${left.join(", ")}, as no Docker engine answers`);
  return names.filter((name) => !left.includes(name));
}

/** The machine and the programs, as the report tells them. */
function surroundings(needs: Tool[]): { machine: string; runtimes: string } {
  const system = /PRETTY_NAME="(.*)"/.exec(readFileSync("/etc/os-release", "utf8"))![1];
  const memory = `${Math.round(os.totalmem() / 2 ** 30)} GiB`;
  const deno = `Deno ${output([DENO, "--version"]).split(/[ \n]/)[1]}`;
  const runtimes = [deno, `Node.js ${output([NODE, "--version"]).slice(1)}`];
  if (needs.includes("docker")) {
    runtimes.push(`Docker ${output(["docker", "version", "--format={{.Server.Version}}"])}`);
  }
  return {
    machine: `${os.availableParallelism()} cores, ${memory}, ${system}`,
    runtimes: runtimes.join(", "),
  };
}

/** Writes the documents, in the form that `deno fmt` gives them. */
function writeReport(results: Record<string, Group>): void {
  output([DENO, "fmt", "--quiet", ...report(results, NAMES)]);
}

async function main(args: string[]): Promise<void> {
  if (args.includes("--report")) return writeReport({});
  const took: string[] = [];
  for (const name of measurable(chosen(args))) {
    const { title, method, needs, measure } = PARTS[name];
    const fromMs = performance.now();
    const measured = await measure();
    const date = new Date().toISOString().slice(0, 10);
    const rows = Array.isArray(measured) ? { rows: measured } : measured;
    const group: Group = { title, method, date, ...surroundings(needs), ...rows };
    writeReport({ [name]: group }); // what was measured is kept, whatever comes
    took.push(`${name} ${Math.round((performance.now() - fromMs) / 1000)} s`);
  }
  console.log(took.join(", "));
}

try {
  await main(process.argv.slice(2));
} catch (error) {
  console.error((error as Error).message);
  process.exit(1);
}
