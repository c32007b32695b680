/** How the benchmark reports: results.json keeps all; tables and pictures are made from it. */
import { readFileSync, writeFileSync } from "node:fs";
import type { Lane } from "./containers.ts";
import type { Figure, Row } from "./measure.ts";
import { drawLifecycle, drawProbes } from "./pictures.ts";

const ROOT = `${import.meta.dirname}/../..`;
const RESULTS = `${ROOT}/proof/bench/results.json`;
/** What stands between these in a Markdown file is written by `npm run bench`. */
const BLOCK_PATTERN = /(<!-- bench:begin -->\n)[^]*(<!-- bench:end -->)/;

/** What one group of rows came to, and where. */
export interface Group {
  title: string;
  method: string;
  date: string;
  machine: string;
  runtimes: string;
  rows: Row[];
  lanes?: Lane[];
}
export type Results = Record<string, Group>;

/** A program that a part needs. */
export type Tool = "hyperfine" | "time" | "wrk" | "docker";

/** What can be measured by itself. */
export interface Part {
  title: string;
  method: string;
  needs: Tool[];
  measure(): Promise<Row[] | { rows: Row[]; lanes: Lane[] }> | Row[];
}

export const readResults = (): Results => JSON.parse(readFileSync(RESULTS, "utf8"));

// ── Tables ──

const number = (value: number, { digits }: Figure) => value.toFixed(digits);

/** Whether a figure misses its goal. */
const isMissed = ({ ratio, goal: { atMost = Infinity, atLeast = 0 } = {} }: Figure) =>
  ratio !== undefined && (ratio > atMost || ratio < atLeast);

/** Ours / theirs: the ratio, and its goal; bold where that is missed. */
function cell(figure: Figure): string {
  const { ours, theirs, ratio, goal: { atMost, atLeast } = {} } = figure;
  if (theirs === undefined || ratio === undefined) return number(ours, figure);
  let text = ratio.toFixed(2);
  // To as many digits as it takes to see on which side of its goal it lies.
  if (Number(text) === (atMost ?? atLeast) && isMissed(figure)) text = ratio.toFixed(3);
  if (atMost) text += isMissed(figure) ? ` > ${atMost}` : ` ≤ ${atMost}`;
  if (atLeast) text += isMissed(figure) ? ` < ${atLeast}` : ` ≥ ${atLeast}`;
  return `${number(ours, figure)} / ${number(theirs, figure)}: ${
    isMissed(figure) ? `**${text}**` : text
  }`;
}

const line = (cells: string[]) => `| ${cells.join(" | ")} |`;
const rule = (columns: number) => line(Array.from({ length: columns }, () => "---"));

/** Rows as Markdown: a table for all that hold the same quantities. */
export function tables(rows: Row[]): string {
  const lines = new Map<string, string[]>();
  for (const { what, against = "", figures } of rows) {
    const names = figures.map(({ name, unit }) => unit ? `${name}, ${unit}` : name);
    const head = line(["measured", "against", ...names]);
    if (!lines.has(head)) lines.set(head, [head, rule(figures.length + 2)]);
    lines.get(head)!.push(line([what, against, ...figures.map(cell)]));
  }
  return [...lines.values()].map((lines) => lines.join("\n")).join("\n\n");
}

/** Keeps a row, and shows it at once to whoever waits. */
export function add(rows: Row[], row: Row): void {
  rows.push(row);
  console.error(tables([row]).split("\n").at(-1));
}

function section(name: string, { title, method, date, machine, runtimes, rows }: Group): string {
  const how = `\`npm run bench -- ${name}\`, ${date}, ${machine}, ${runtimes}. ${method}`;
  return `## ${title}\n\n${how}\n\n${tables(rows)}\n`;
}

/** All of it, for proof/bench/README.md. */
export const everything = (results: Results) =>
  Object.entries(results).map(([name, group]) => section(name, group)).join("\n");

/** A column of the README's table: where its figures are, less the name of the runtime. */
interface Column {
  head: string;
  part: string;
  row: string;
  name: string;
}

const COLUMNS: Column[] = [
  { head: "one probe, CPU", part: "probe", row: "image on ", name: "CPU" },
  {
    head: "JSON answers per second of CPU",
    part: "throughput",
    row: "`/items/17?x=1`, JSON, on ",
    name: "requests per CPU second",
  },
  { head: "memory after load", part: "memory", row: "", name: "after load" },
  {
    head: "start to the first answer",
    part: "start",
    row: "start to the first 200, image on ",
    name: "time",
  },
  { head: "image, unpacked", part: "image", row: "image on ", name: "unpacked" },
];

/** What a reader chooses a runtime by, for the README. A part without figures has no column. */
export function summary(results: Results): string {
  const cellOf = ({ part, row, name }: Column, runtime: string) => {
    const rows = results[part]?.rows.filter(({ what }) => what === `${row}${runtime}`) ?? [];
    const figure = rows.flatMap(({ figures }) => figures).find((figure) => figure.name === name);
    return figure && `${number(figure.ours, figure)} ${figure.unit}`;
  };
  const known = COLUMNS.filter((column) => cellOf(column, "Deno") && cellOf(column, "Node.js"));
  const rowOf = (runtime: string) =>
    line([runtime, ...known.map((column) => cellOf(column, runtime)!)]);
  const head = line(["", ...known.map((column) => column.head)]);
  return [head, rule(known.length + 1), rowOf("Deno"), rowOf("Node.js")].join("\n");
}

/** What the marks of each Markdown file are to hold. */
export const BLOCKS = { "README.md": summary, "proof/bench/README.md": everything };

/** Puts a text between the marks of a Markdown file; gives the whole. */
export const fill = (markdown: string, text: string) =>
  markdown.replace(BLOCK_PATTERN, (_, begin, end) => `${begin}\n${text}\n\n${end}`);

// ── Files ──

/**
 * Keeps what was measured beside what earlier runs left of other parts, and writes all that is made
 * of it.
 *
 * @param order Of the parts
 * @returns The files written
 */
export function report(measured: Results, order: string[]): string[] {
  let kept: Results = {};
  try {
    kept = readResults();
  } catch { /* the first run */ }
  const all = { ...kept, ...measured };
  const results = Object.fromEntries(
    order.filter((name) => all[name]).map((name) => [name, all[name]]),
  );
  const files = ["proof/bench/results.json"];
  const write = (file: string, text: string) => {
    writeFileSync(`${ROOT}/${file}`, text);
    if (!files.includes(file)) files.push(file);
  };
  write("proof/bench/results.json", JSON.stringify(results, null, 2) + "\n");
  for (const [file, text] of Object.entries(BLOCKS)) {
    write(file, fill(readFileSync(`${ROOT}/${file}`, "utf8"), text(results)));
  }
  if (results.probe) write("proof/bench/probe.svg", drawProbes(results.probe.rows));
  if (results.lifecycle?.lanes) write("docs/lifecycle.svg", drawLifecycle(results.lifecycle.lanes));
  return files;
}
