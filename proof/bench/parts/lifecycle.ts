/** What healing does to a container whose event loop turns for ever. */
import process from "node:process";
import { type Lane, lives, type Moment, withImages } from "../containers.ts";
import { alone, type Row } from "../measure.ts";
import { copy } from "../programs.ts";
import { add, type Part } from "../report.ts";

const HEAL_AFTER_MS = 30_000;
const WEDGE_AFTER_MS = 15_000;
const HEALED_FOR_MS = 12_000;

const WEDGE = `app.get("/wedge", () => { for (;;); });`;

async function measure(): Promise<{ rows: Row[]; lanes: Lane[] }> {
  const tag = `heartbeat-bench-${process.pid}:wedge`;
  const heal = `HEAL_AFTER_MS=${HEAL_AFTER_MS}`;
  // Half a core each, so that neither what turns for ever nor its probe waits for the other's.
  const all = ["--restart=unless-stopped", "--cpus=0.5"];
  const options = { [heal]: [...all, "--env", heal], "HEAL_AFTER_MS not set": all };
  const built = { tag, folder: copy("wedge", WEDGE), options: ["--target=deno"] };
  const lanes = await withImages(
    [built],
    () => lives(tag, options, WEDGE_AFTER_MS, HEALED_FOR_MS),
  );
  const [{ moments }] = lanes;
  const at = (what: Moment["what"]) => moments.findLast((moment) => moment.what === what)!.atS;
  const rows: Row[] = [];
  add(rows, {
    what: `image on Deno, wedged, ${heal}`,
    figures: [
      alone("to unhealthy", "s", 0, at("unhealthy") - at("wedged")),
      alone("to its end", "s", 0, at("ended") - at("wedged")),
      alone("to healthy again", "s", 0, at("healthy") - at("wedged")),
    ],
  });
  return { rows, lanes };
}

export const lifecycle: Part = {
  title: "What healing does",
  method: `Two containers of one image, wedged together ${WEDGE_AFTER_MS / 1000} s after ` +
    `\`docker run\` by a route whose loop never ends, with half a core each; the moments are in ` +
    `results.json, and drawn in [lifecycle.svg](../../docs/lifecycle.svg).`,
  needs: ["docker"],
  measure,
};
