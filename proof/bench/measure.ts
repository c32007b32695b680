/**
 * How the benchmark measures: what is compared runs in turn on the same machine. What counts is the
 * median of the rounds' ratios, because a machine's speed changes from minute to minute for both.
 */
import { readFileSync } from "node:fs";
import { ENV, output, type Side, WORK } from "./programs.ts";

export interface Goal {
  atMost?: number;
  atLeast?: number;
}

/** One quantity of one row: ours, and what it is compared with. */
export interface Figure {
  name: string;
  unit: string;
  digits: number;
  ours: number;
  theirs?: number;
  ratio?: number;
  goal?: Goal;
}

export interface Row {
  what: string;
  against?: string;
  figures: Figure[];
}

export const median = (values: number[]) => values.toSorted((a, b) => a - b)[values.length >> 1];

/** Measures every side once a round. */
export async function inTurn<T>(
  rounds: number,
  sides: Side[],
  measure: (side: Side) => T | Promise<T>,
): Promise<T[][]> {
  const seen: T[][] = [];
  for (let round = 0; round < rounds; round++) {
    const row: T[] = [];
    for (const side of sides) row.push(await measure(side));
    seen.push(row);
  }
  return seen;
}

/** A value as results.json keeps it. */
const kept = (value: number) => Number(value.toPrecision(4));

/** What two sides come to: the median of each, and that of the rounds' ratios. */
export function figure(
  name: string,
  unit: string,
  digits: number,
  pairs: number[][],
  goal?: Goal,
): Figure {
  return {
    name,
    unit,
    digits,
    ours: kept(median(pairs.map(([mine]) => mine))),
    theirs: kept(median(pairs.map(([, other]) => other))),
    ratio: Number(median(pairs.map(([mine, other]) => mine / other)).toFixed(3)),
    goal,
  };
}

/** What was measured of ours alone. */
export const alone = (name: string, unit: string, digits: number, ours: number): Figure => (
  { name, unit, digits, ours: kept(ours) }
);

// ── One run of a command ──

export interface Cost {
  cpuMs: number;
  wallMs: number;
}

const HYPERFINE = ["hyperfine", "--shell=none", "--runs=1", "--style=none", "--output=pipe"];

/** What one run of a command costs, it and all that it starts. */
export function cost({ command, env }: Side): Cost {
  const json = `${WORK}/hyperfine.json`;
  const words = command.map((word) => `'${word}'`).join(" ");
  output([...HYPERFINE, `--export-json=${json}`, words], { ...ENV, ...env });
  const [{ user, system, mean }] = JSON.parse(readFileSync(json, "utf8")).results;
  return { cpuMs: (user + system) * 1000, wallMs: mean * 1000 };
}

/** The most memory that a command held, in MiB. */
export function peakMib({ command, env }: Side): number {
  const script = `/usr/bin/time --format=%M --output="$0" "$@" | cat >/dev/null`;
  output(["sh", "-c", script, `${WORK}/peak`, ...command], { ...ENV, ...env });
  return Number(readFileSync(`${WORK}/peak`, "utf8")) / 1024;
}
