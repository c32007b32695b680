/** Draws two pictures of what was measured: what a probe costs, and what healing does. */
import type { Lane, Moment } from "./containers.ts";
import type { Row } from "./measure.ts";

const round = (value: number) => Math.round(value * 10) / 10;

// ── What a probe costs ──

const BAR_STEP_PX = 20;
const PLOT_WIDTH_PX = 520;
const PLOT_LEFT_PX = 180;
const PROBES_WIDTH_PX = 705;
/** Past this, ticks stand further apart, or their labels would touch. */
const CLOSE_TICKS_MS = 360;
const EMPTY_COLOR = "#4c78a8";
const PROBE_COLOR = "#f58518";

/** What an empty program costs on a runtime, and what the probe adds to it. */
interface Bar {
  name: string;
  emptyMs: number;
  ownMs: number;
}

function barsOf(rows: Row[]): Bar[] {
  const cpu = (row: Row) => row.figures.find(({ name }) => name === "CPU")!;
  const bars: Bar[] = [];
  for (const row of rows) {
    if (row.against !== "an empty program") continue;
    const { ours, theirs = 0 } = cpu(row);
    bars.push({ name: row.what, emptyMs: theirs, ownMs: Math.max(0, ours - theirs) });
  }
  for (const other of ["node -e with fetch", "the Go peer"]) {
    const row = rows.find(({ against }) => against === other);
    if (row) bars.push({ name: other, emptyMs: 0, ownMs: cpu(row).theirs! });
  }
  return bars;
}

const rect = (left: number, top: number, width: number, height: number, color: string) =>
  `<rect x="${left}" y="${top}" width="${width}" height="${height}" fill="${color}" />`;
const text = (left: number, top: number, anchor: string, words: string, style = "") =>
  `<text x="${left}" y="${top}" text-anchor="${anchor}"${style}>${words}</text>`;
const stroke = (path: string, color: string) =>
  `<path d="${path}" fill="none" stroke="${color}" />`;

/** The axes of the bars: a grid, ticks, and their labels. */
function drawAxes(bars: Bar[], mostMs: number, x: (ms: number) => number): string[] {
  const bottom = bars.length * BAR_STEP_PX;
  const stepMs = mostMs > CLOSE_TICKS_MS ? 50 : 20;
  const ticks = Array.from({ length: Math.floor(mostMs / stepMs) + 1 }, (_, at) => at * stepMs);
  const anchors = new Map([[0, "start"], [mostMs, "end"]]);
  const grid = ticks.map((ms) => `M${x(ms) + 0.5},0.5v${bottom}`).join("");
  const below = ticks.map((ms) => `M${x(ms) + 0.5},${bottom + 0.5}v5`).join("");
  const beside = bars.map((_, at) => `M0.5,${(at + 0.5) * BAR_STEP_PX + 0.5}h-5`).join("");
  return [
    stroke(`M0.5,0.5h${PLOT_WIDTH_PX}v${bottom}h-${PLOT_WIDTH_PX}Z${grid}`, "#ddd"),
    stroke(`M0.5,${bottom + 0.5}h${PLOT_WIDTH_PX}M0.5,0.5v${bottom}${below}${beside}`, "#888"),
    ...ticks.map((ms) => text(x(ms), bottom + 15, anchors.get(ms) ?? "middle", `${ms}`)),
  ];
}

/** A bar for each probe. */
export function drawProbes(rows: Row[]): string {
  const bars = barsOf(rows);
  const longestMs = Math.max(...bars.map(({ emptyMs, ownMs }) => emptyMs + ownMs));
  const mostMs = Math.ceil(longestMs / 10) * 10;
  const x = (ms: number) => round(ms / mostMs * PLOT_WIDTH_PX);
  const bottom = bars.length * BAR_STEP_PX;
  const title = "What one probe costs: CPU of the whole process, ms";
  const parts = [
    text(PLOT_WIDTH_PX / 2, -7, "middle", title, ` font-size="13px" font-weight="bold"`),
    ...drawAxes(bars, mostMs, x),
  ];
  bars.forEach(({ name, emptyMs, ownMs }, at) => {
    const top = at * BAR_STEP_PX;
    parts.push(
      rect(0, top + 1, x(emptyMs), BAR_STEP_PX - 2, EMPTY_COLOR),
      rect(x(emptyMs), top + 1, x(ownMs), BAR_STEP_PX - 2, PROBE_COLOR),
      text(-7, top + 13, "end", name),
    );
  });
  parts.push(
    rect(1, bottom + 36, 10, 10, EMPTY_COLOR),
    text(16, bottom + 44, "start", "empty program"),
    rect(131, bottom + 36, 10, 10, PROBE_COLOR),
    text(146, bottom + 44, "start", "probe itself"),
  );
  const height = bottom + 73;
  const box = `0 0 ${PROBES_WIDTH_PX} ${height}`;
  const size = `width="${PROBES_WIDTH_PX}" height="${height}" viewBox="${box}"`;
  return `<svg xmlns="http://www.w3.org/2000/svg" ${size}
  font-family="sans-serif" font-size="10px">
<rect width="100%" height="100%" fill="white" />
<g transform="translate(${PLOT_LEFT_PX},22)">
${parts.join("\n")}
</g>
</svg>
`;
}

// ── What healing does ──

const WIDTH_PX = 500;
const MARGIN_PX = 14;
const LANE_HEIGHT_PX = 34;
const UPPER_PX = 130;
const LOWER_PX = 240;
const AXIS_PX = LOWER_PX + LANE_HEIGHT_PX + 26;
const HEIGHT_PX = AXIS_PX + 28;

const STYLE = `.page { fill: #fff }
text { font: 14px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328 }
.title { font-size: 17px; font-weight: 600 }
.strong { font-weight: 600 }
.muted { fill: #59636e; font-size: 12px }
.in { fill: #fff; font-size: 12px; font-weight: 600 }
.starting { fill: #818b98 }
.healthy { fill: #1a7f37 }
.wedged { fill: #9a6700 }
.unhealthy { fill: #cf222e }
.cross { stroke: #cf222e; stroke-width: 2; fill: none }
.lead { stroke: #818b98; fill: none }
@media (prefers-color-scheme: dark) {
  .page { fill: #0d1117 }
  text { fill: #f0f6fc }
  .muted { fill: #9198a1 }
  .in { fill: #fff }
  .healthy { fill: #238636 }
  .wedged { fill: #9e6a03 }
  .unhealthy { fill: #da3633 }
  .cross { stroke: #f85149 }
}`;

/** What a container was, from one moment to the next. */
const STATES: Partial<Record<Moment["what"], { kind: string; words: string }>> = {
  run: { kind: "starting", words: "" },
  started: { kind: "starting", words: "" },
  healthy: { kind: "healthy", words: "healthy" },
  wedged: { kind: "wedged", words: "wedged: answers nobody" },
  unhealthy: { kind: "unhealthy", words: "unhealthy" },
  ended: { kind: "starting", words: "" },
};

/** Where a moment stands. */
type Scale = (atS: number) => number;

const word = (left: number, top: number, words: string, kind = "", anchor = "start") =>
  `<text x="${left}" y="${top}" class="${kind}" text-anchor="${anchor}">${words}</text>`;
const seconds = (atS: number) => `${Math.round(atS)} s`;
const first = ({ moments }: Lane, what: Moment["what"]) =>
  moments.find((moment) => moment.what === what)!.atS;
const last = ({ moments }: Lane, what: Moment["what"]) =>
  moments.findLast((moment) => moment.what === what)!.atS;

/** The moments at which a container's state changed. */
function changesOf({ moments }: Lane): Moment[] {
  const changes: Moment[] = [];
  for (const moment of moments) {
    const state = STATES[moment.what];
    const previous = changes.at(-1);
    if (!state || (previous && STATES[previous.what]!.kind === state.kind)) continue;
    changes.push(moment);
  }
  return changes;
}

/** A bar of states. */
function drawStates(lane: Lane, top: number, endS: number, x: Scale): string[] {
  const parts: string[] = [];
  const changes = changesOf(lane);
  changes.forEach(({ atS, what }, at) => {
    const [from, to] = [x(atS), x(changes[at + 1]?.atS ?? endS)];
    const { kind, words } = STATES[what]!;
    const width = round(to - from);
    if (width <= 0) return;
    const size = `width="${width}" height="${LANE_HEIGHT_PX}"`;
    parts.push(`<rect x="${from}" y="${top}" ${size} class="${kind}" />`);
    if (words) parts.push(word(round((from + to) / 2), top + 21, words, "in", "middle"));
  });
  return parts;
}

/** A cross below the bar for each probe that failed. */
function drawProbesOf({ moments }: Lane, top: number, x: Scale): string[] {
  const crosses = moments.filter(({ what }) => what === "failed probe").map(({ atS }) => x(atS));
  const crossY = top + LANE_HEIGHT_PX + 6;
  const path = crosses.map((at) => `M${at - 4},${crossY}l8,8m0,-8l-8,8`).join("");
  const parts = [
    `<path d="${path}" class="cross" />`,
    word(MARGIN_PX, crossY + 9, "starting", "muted"),
  ];
  if (crosses.length > 0) {
    parts.push(word(crosses[0] - 9, crossY + 9, "probes fail", "muted", "end"));
  }
  return parts;
}

/** A label above the upper bar, with a line down to its moment. */
function drawLabel(left: number, top: number, atS: number, words: string, anchor = "start") {
  const beside = anchor === "start" ? left + 5 : left - 5;
  const strong = `<tspan class="strong">${seconds(atS)}</tspan>`;
  return `<path d="M${left},${top - 11}V${UPPER_PX}" class="lead" />
${word(beside, top, `${strong} ${words}`, "", anchor)}`;
}

/** The container that heals itself. */
function drawHealed(lane: Lane, endS: number, x: Scale): string[] {
  const label = (atS: number, rise: number, words: string, anchor?: string) =>
    drawLabel(x(atS), UPPER_PX - rise, atS, words, anchor);
  const again = `<tspan class="strong">${seconds(last(lane, "healthy"))}</tspan>`;
  const below = UPPER_PX + LANE_HEIGHT_PX + 32;
  return [
    word(MARGIN_PX, 54, `${lane.name}: it heals itself`, "strong"),
    label(0, 46, "docker run"),
    label(first(lane, "wedged"), 8, "event loop wedges"),
    label(first(lane, "unhealthy"), 27, "unhealthy, event sent", "end"),
    label(first(lane, "ended"), 46, "ended by its probe, exit 142", "end"),
    ...drawStates(lane, UPPER_PX, endS, x),
    ...drawProbesOf(lane, UPPER_PX, x),
    word(WIDTH_PX - MARGIN_PX, below, `${again} started, healthy again`, "", "end"),
  ];
}

/** The container that stays as it is: its last state goes on past the end. */
function drawLeft(lane: Lane, endS: number, x: Scale): string[] {
  const middle = LOWER_PX + LANE_HEIGHT_PX / 2;
  const tip = `M${x(endS)},${LOWER_PX}L${x(endS) + 10},${middle}L${x(endS)},${
    middle + LANE_HEIGHT_PX / 2
  }Z`;
  return [
    word(MARGIN_PX, LOWER_PX - 12, `${lane.name}: it stays unhealthy`, "strong"),
    ...drawStates(lane, LOWER_PX, endS, x),
    ...drawProbesOf(lane, LOWER_PX, x),
    `<path d="${tip}" class="unhealthy" />`,
  ];
}

function drawAxis(endS: number, x: Scale): string[] {
  const ticks = Array.from({ length: Math.floor(endS / 10) + 1 }, (_, at) => at * 10);
  const marks = ticks.map((atS) => `M${x(atS)},${AXIS_PX}v5`).join("");
  const label = (atS: number) => atS === 0 ? "0 s" : `${atS}`;
  return [
    `<path d="M${x(0)},${AXIS_PX}H${x(endS)}${marks}" class="lead" />`,
    ...ticks.map((atS) => word(x(atS), AXIS_PX + 19, label(atS), "muted", "middle")),
  ];
}

/** The picture in words. */
function describe(healed: Lane, left: Lane): string {
  const moments = [
    `wedged at ${seconds(first(healed, "wedged"))}`,
    `unhealthy at ${seconds(first(healed, "unhealthy"))}`,
    `ended at ${seconds(first(healed, "ended"))}`,
    `healthy again at ${seconds(last(healed, "healthy"))}`,
  ];
  const unhealthy = seconds(first(left, "unhealthy"));
  return `${healed.name}: ${moments.join(", ")}. ${left.name}: unhealthy from ${unhealthy} on.`;
}

/** The lives of two containers that are wedged alike: one heals itself, and one does not. */
export function drawLifecycle([healed, left]: Lane[]): string {
  const endS = Math.max(healed.endS, left.endS);
  const x = (atS: number) => round(MARGIN_PX + atS / endS * (WIDTH_PX - 2 * MARGIN_PX));
  const parts = [
    word(MARGIN_PX, 26, "An event loop wedges: with healing, and without", "title"),
    ...drawHealed(healed, endS, x),
    ...drawLeft(left, endS, x),
    ...drawAxis(endS, x),
  ];
  const box = `viewBox="0 0 ${WIDTH_PX} ${HEIGHT_PX}"`;
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH_PX * 1.6}" ${box} role="img">
<title>${describe(healed, left)}</title>
<style>
${STYLE}
</style>
<rect class="page" width="100%" height="100%" rx="6" />
${parts.join("\n")}
</svg>
`;
}
