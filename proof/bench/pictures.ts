/** Draws the two pictures, from what was measured alone: what a probe costs, and what healing does. */
import type { Lane, Moment, Row } from "./measure.ts";

const round = (value: number) => Math.round(value * 10) / 10;

// ── What a probe costs ──

const BAR_STEP_PX = 20;
const PLOT_WIDTH_PX = 520;
const PLOT_LEFT_PX = 180;
/** Past this, ticks stand further apart, or their labels would touch. */
const CLOSE_TICKS_MS = 360;
const EMPTY_COLOR = "#4c78a8";
const PROBE_COLOR = "#f58518";

/** A bar for each probe: what an empty program costs on its runtime, and what the probe adds to it. */
export function drawProbes(rows: Row[]): string {
  const cpu = (row: Row) => row.figures.find(({ name }) => name === "CPU")!;
  const bars: { name: string; emptyMs: number; ownMs: number }[] = [];
  for (const row of rows) {
    if (row.against === "an empty program") {
      const { ours, theirs = 0 } = cpu(row);
      bars.push({ name: row.what, emptyMs: theirs, ownMs: Math.max(0, ours - theirs) });
    }
  }
  for (const other of ["node -e with fetch", "the Go peer"]) {
    const row = rows.find(({ against }) => against === other);
    if (row) bars.push({ name: other, emptyMs: 0, ownMs: cpu(row).theirs! });
  }
  const mostMs = Math.ceil(Math.max(...bars.map(({ emptyMs, ownMs }) => emptyMs + ownMs)) / 10) *
    10;
  const x = (ms: number) => round(ms / mostMs * PLOT_WIDTH_PX);
  const bottom = bars.length * BAR_STEP_PX;
  const stepMs = mostMs > CLOSE_TICKS_MS ? 50 : 20;
  const ticks = Array.from({ length: Math.floor(mostMs / stepMs) + 1 }, (_, at) => at * stepMs);
  const rect = (left: number, y: number, width: number, height: number, color: string) =>
    `<rect x="${left}" y="${y}" width="${width}" height="${height}" fill="${color}" />`;
  const text = (left: number, y: number, anchor: string, words: string) =>
    `<text x="${left}" y="${y}" text-anchor="${anchor}">${words}</text>`;
  return `<svg xmlns="http://www.w3.org/2000/svg" width="705" height="${
    bottom + 73
  }" viewBox="0 0 705 ${bottom + 73}"
  font-family="sans-serif" font-size="10px">
<rect width="100%" height="100%" fill="white" />
<g transform="translate(${PLOT_LEFT_PX},22)">
${
    text(PLOT_WIDTH_PX / 2, -7, "middle", "What one probe costs: CPU of the whole process, ms")
      .replace("<text", '<text font-size="13px" font-weight="bold"')
  }
<path d="M0.5,0.5h${PLOT_WIDTH_PX}v${bottom}h-${PLOT_WIDTH_PX}Z${
    ticks.map((ms) => `M${x(ms) + 0.5},0.5v${bottom}`).join("")
  }" fill="none" stroke="#ddd" />
${
    bars.map(({ name, emptyMs, ownMs }, at) =>
      [
        rect(0, at * BAR_STEP_PX + 1, x(emptyMs), BAR_STEP_PX - 2, EMPTY_COLOR),
        rect(x(emptyMs), at * BAR_STEP_PX + 1, x(ownMs), BAR_STEP_PX - 2, PROBE_COLOR),
        text(-7, at * BAR_STEP_PX + 13, "end", name),
      ].join("\n")
    ).join("\n")
  }
<path d="M0.5,${bottom + 0.5}h${PLOT_WIDTH_PX}M0.5,0.5v${bottom}${
    ticks.map((ms) => `M${x(ms) + 0.5},${bottom + 0.5}v5`).join("")
  }${
    bars.map((_, at) => `M0.5,${(at + 0.5) * BAR_STEP_PX + 0.5}h-5`).join("")
  }" fill="none" stroke="#888" />
${
    ticks.map((ms) =>
      text(x(ms), bottom + 15, ms === 0 ? "start" : ms === mostMs ? "end" : "middle", `${ms}`)
    ).join(
      "\n",
    )
  }
${rect(1, bottom + 36, 10, 10, EMPTY_COLOR)}
${text(16, bottom + 44, "start", "empty program")}
${rect(131, bottom + 36, 10, 10, PROBE_COLOR)}
${text(146, bottom + 44, "start", "probe itself")}
</g>
</svg>
`;
}

// ── What healing does ──

const WIDTH_PX = 500;
const MARGIN_PX = 14;
const LANE_HEIGHT_PX = 34;

/** What a container was, from one moment to the next. */
const STATES: Partial<Record<Moment["what"], { kind: string; words: string }>> = {
  run: { kind: "starting", words: "" },
  started: { kind: "starting", words: "" },
  healthy: { kind: "healthy", words: "healthy" },
  wedged: { kind: "wedged", words: "wedged: answers nobody" },
  unhealthy: { kind: "unhealthy", words: "unhealthy" },
  ended: { kind: "starting", words: "" },
};

/** The lives of two containers that are wedged alike: one that heals itself, and one that does not. */
export function drawLifecycle(lanes: Lane[]): string {
  const endS = Math.max(...lanes.map(({ endS }) => endS));
  const x = (atS: number) => round(MARGIN_PX + atS / endS * (WIDTH_PX - 2 * MARGIN_PX));
  const parts: string[] = [];
  const text = (left: number, y: number, words: string, kind = "", anchor = "start") =>
    parts.push(
      `<text x="${left}" y="${y}" class="${kind}" text-anchor="${anchor}">${words}</text>`,
    );
  const seconds = (atS: number) => `${Math.round(atS)} s`;

  /** A bar of states, and a cross for each probe that failed. */
  const bar = ({ moments }: Lane, y: number) => {
    const states = moments.filter(({ what }) => STATES[what]);
    const changes = states.filter(({ what }, at) =>
      STATES[what]!.kind !== (at && STATES[states[at - 1].what]!.kind)
    );
    changes.forEach(({ atS, what }, at) => {
      const [from, to] = [x(atS), x(changes[at + 1]?.atS ?? endS)];
      const { kind, words } = STATES[what]!;
      const width = round(to - from);
      if (width <= 0) return;
      parts.push(
        `<rect x="${from}" y="${y}" width="${width}" height="${LANE_HEIGHT_PX}" class="${kind}" />`,
      );
      if (words) text(round((from + to) / 2), y + 21, words, "in", "middle");
    });
    const crosses = moments.filter(({ what }) => what === "failed probe").map(({ atS }) => x(atS));
    const crossY = y + LANE_HEIGHT_PX + 6;
    parts.push(
      `<path d="${
        crosses.map((at) => `M${at - 4},${crossY}l8,8m0,-8l-8,8`).join("")
      }" class="cross" />`,
    );
    text(MARGIN_PX, crossY + 9, "starting", "muted");
    if (crosses.length > 0) text(crosses[0] - 9, crossY + 9, "probes fail", "muted", "end");
  };
  /** A label above a bar, with a line down to its moment. */
  const label = (atS: number, top: number, y: number, words: string, anchor = "start") => {
    const at = x(atS);
    parts.push(`<path d="M${at},${top - 11}V${y}" class="lead" />`);
    text(
      anchor === "start" ? at + 5 : at - 5,
      top,
      `<tspan class="strong">${seconds(atS)}</tspan> ${words}`,
      "",
      anchor,
    );
  };
  const [healed, left] = lanes;
  const at = (lane: Lane, what: Moment["what"]) =>
    lane.moments.find((moment) => moment.what === what)!;
  const last = (lane: Lane, what: Moment["what"]) =>
    lane.moments.findLast((moment) => moment.what === what)!;

  text(MARGIN_PX, 26, "An event loop wedges: with healing, and without", "title");
  text(MARGIN_PX, 54, `${healed.name}: it heals itself`, "strong");
  const upper = 130;
  label(0, upper - 46, upper, "docker run");
  label(at(healed, "wedged").atS, upper - 8, upper, "event loop wedges");
  label(at(healed, "unhealthy").atS, upper - 27, upper, "unhealthy, event sent", "end");
  label(at(healed, "ended").atS, upper - 46, upper, "ended by its probe, exit 142", "end");
  bar(healed, upper);
  const again = last(healed, "healthy");
  const told = `<tspan class="strong">${seconds(again.atS)}</tspan> started, healthy again`;
  text(WIDTH_PX - MARGIN_PX, upper + LANE_HEIGHT_PX + 32, told, "", "end");
  const lower = 240;
  text(MARGIN_PX, lower - 12, `${left.name}: it stays unhealthy`, "strong");
  bar(left, lower);
  const [end, middle] = [x(endS), lower + LANE_HEIGHT_PX / 2];
  parts.push(
    `<path d="M${end},${lower}l10,${LANE_HEIGHT_PX / 2}L${end},${
      middle + LANE_HEIGHT_PX / 2
    }Z" class="unhealthy" />`,
  );

  const axisY = lower + LANE_HEIGHT_PX + 26;
  const ticks = Array.from({ length: Math.floor(endS / 10) + 1 }, (_, at) => at * 10);
  parts.push(
    `<path d="M${x(0)},${axisY}H${x(endS)}${
      ticks.map((atS) => `M${x(atS)},${axisY}v5`).join("")
    }" class="lead" />`,
  );
  ticks.forEach((atS) => text(x(atS), axisY + 19, atS === 0 ? "0 s" : `${atS}`, "muted", "middle"));

  const height = axisY + 28;
  const described = `${healed.name}: wedged at ${seconds(at(healed, "wedged").atS)}, unhealthy at ${
    seconds(at(healed, "unhealthy").atS)
  }, ended at ${seconds(at(healed, "ended").atS)}, healthy again at ${
    seconds(again.atS)
  }. ${left.name}: unhealthy from ${seconds(at(left, "unhealthy").atS)} on.`;
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${
    WIDTH_PX * 1.6
  }" viewBox="0 0 ${WIDTH_PX} ${height}" role="img">
<title>${described}</title>
<style>
.page { fill: #fff }
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
}
</style>
<rect class="page" width="100%" height="100%" rx="6" />
${parts.join("\n")}
</svg>
`;
}
