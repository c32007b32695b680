/** What Deno's own telemetry costs. */
import { figure, inTurn, type Row } from "../measure.ts";
import { side, write } from "../programs.ts";
import { add, type Part } from "../report.ts";
import { ITEM_PATH, servers } from "../routes.ts";
import { load, residentMib, withServer } from "../servers.ts";

const ROUNDS = 5;
const LOAD_SECONDS = 2;
const CONNECTIONS = 64;

const COLLECTOR_JS = `import { createServer } from "node:http";
let exports = 0;
createServer((request, response) => {
  if (request.method === "POST") exports++;
  request.resume().on("end", () => response.end(String(exports)));
}).listen(Number(process.env.PORT), "127.0.0.1");`;

async function measure(): Promise<Row[]> {
  const rows: Row[] = [];
  const collector = side("collector", [process.execPath, write("collector.mjs", COLLECTOR_JS)]);
  const { command } = servers("deno").service;
  await withServer(collector, async ({ port }) => {
    const url = `http://127.0.0.1:${port}`;
    const on = side("on", command, { OTEL_DENO: "true", OTEL_EXPORTER_OTLP_ENDPOINT: url });
    const rounds = await inTurn(
      ROUNDS,
      [on, side("off", command)],
      (side) =>
        withServer(side, (server) => {
          load(server, ITEM_PATH, 1, CONNECTIONS); // until it is warm
          const { perCpuS, p99Ms } = load(server, ITEM_PATH, LOAD_SECONDS, CONNECTIONS);
          return { perCpuS, p99Ms, mib: residentMib(server) };
        }),
    );
    const of = (key: "perCpuS" | "p99Ms" | "mib") =>
      rounds.map((pair) => pair.map((seen) => seen[key]));
    add(rows, {
      what: `\`${ITEM_PATH}\` on Deno, OTEL_DENO=true`,
      against: "off",
      figures: [
        figure("requests per CPU second", "k/s", 1, of("perCpuS")),
        figure("p99", "ms", 2, of("p99Ms")),
        figure("memory after it", "MiB", 0, of("mib")),
      ],
    });
    if (await (await fetch(url)).text() === "0") throw new Error("The collector got nothing");
  });
  return rows;
}

export const telemetry: Part = {
  title: "What telemetry costs",
  method: `${ROUNDS} rounds in turn, ${LOAD_SECONDS} s each after one of warming up, with a ` +
    `collector on the same machine that takes everything.`,
  needs: ["wrk"],
  measure,
};
