/** How the benchmark reports: results.json keeps all, and tables and pictures are made from that alone. */
import { readFileSync, writeFileSync } from "node:fs";
import type { Figure, Lane, Row } from "./measure.ts";
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

/** All of it, for proof/bench/README.md. */
export const everything = (results: Results) =>
  Object.entries(results).map(([name, { title, method, date, machine, runtimes, rows }]) =>
    `## ${title}\n\n\`npm run bench -- ${name}\`, ${date}, ${machine}, ${runtimes}. ${method}\n\n${
      tables(rows)
    }\n`
  ).join("\n");

/** What a reader chooses a runtime by, for the README. */
export function summary(results: Results): string {
  const ours = (group: string, what: string, name: string) => {
    const figures = results[group]?.rows.find((row) => row.what === what)?.figures;
    const figure = figures?.find((figure) => figure.name === name);
    return figure && `${number(figure.ours, figure)} ${figure.unit}`;
  };
  const columns = [
    ["one probe, CPU", "probe", "image on ", "CPU"],
    ["requests to `/` per second of CPU", "serving", "`/` on ", "requests per CPU second"],
    ["memory after load", "memory", "", "after load"],
    ["start to the first answer", "start", "start to the first 200, image on ", "time"],
    ["image, unpacked", "image", "image on ", "unpacked"],
  ].map((
    [what, group, row, name],
  ) => [what, ours(group, `${row}Deno`, name), ours(group, `${row}Node.js`, name)]);
  const known = columns.filter((column): column is string[] => !column.includes(undefined));
  const [head, ...rows] = ["", "Deno", "Node.js"].map((name, i) =>
    line([name, ...known.map((column) => column[i])])
  );
  return [head, rule(known.length + 1), ...rows].join("\n");
}

/** What the marks of each Markdown file are to hold. */
export const BLOCKS = { "README.md": summary, "proof/bench/README.md": everything };

/** Puts a text between the marks of a Markdown file; gives the whole. */
export const fill = (markdown: string, text: string) =>
  markdown.replace(BLOCK_PATTERN, (_, begin, end) => `${begin}\n${text}\n\n${end}`);

// ── Files ──

/**
 * Keeps what was measured beside what earlier runs left of other groups, and writes all that is made of it.
 *
 * @param order Of the groups
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
