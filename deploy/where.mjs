/**
 * Prints the call stack of a running service as its source has it: functions, files and lines.
 * Runs inside the container, by the service's own runtime, which reads it from standard input:
 *
 *     docker compose exec -T app /bin/node - <deploy/where.mjs
 *     docker compose exec -T app /bin/deno run -q -A --no-config - <deploy/where.mjs
 *
 * Deno's inspector has to be open from the start: docs/recipes.md, "Find what wedges it".
 */
import { existsSync, readFileSync } from "node:fs";
import process from "node:process";

const INSPECTOR_URL = "http://127.0.0.1:9229/json/list";
const TIMEOUT_MS = 5000;
const POLL_MS = 50;
const FRAMES_MAX = 10;
const BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/** One number of a mapping. A digit from 32 on, such as "g", is followed by a further one. */
const NUMBER_PATTERN = /[g-z0-9+/]*[A-Za-f]/g;

/** Decodes one number of a mapping: https://tc39.es/ecma426/#sec-base64-vlq */
function toNumber(digits) {
  const bits = [...digits].reduceRight((sum, digit) => sum * 32 + BASE64.indexOf(digit) % 32, 0);
  const size = Math.floor(bits / 2);
  return bits % 2 === 0 ? size : -size;
}

/**
 * Returns the last mapping of a line up to a column. Deno's own SourceMap gives no names.
 *
 * @returns Its source, the line there from 1 on, and the name there if it has one
 */
function findMapping({ mappings, sources, names }, { lineNumber, columnNumber }) {
  // The column here, the source, the line and the column there, the name: each is a step from the
  // mapping before. The column begins anew in each line.
  const fields = [0, 0, 0, 0, 0];
  let found;
  for (const [number, line] of mappings.split(";").slice(0, lineNumber + 1).entries()) {
    fields[0] = 0;
    for (const mapping of line.split(",")) {
      const steps = (mapping.match(NUMBER_PATTERN) ?? []).map(toNumber);
      for (const [index, step] of steps.entries()) fields[index] += step;
      if (number !== lineNumber || fields[0] > columnNumber) continue;
      const name = steps.length === 5 ? names[fields[4]] : undefined;
      found = { source: sources[fields[1]], line: fields[2] + 1, name };
    }
  }
  return found;
}

/** Describes a frame by the source map of its script. The runtime's own scripts have none. */
function describe({ functionName, location, functionLocation }, url) {
  const name = functionName || "(anonymous)";
  const path = new URL(`${url}.map`);
  if (!existsSync(path)) return `${name} ${url}:${location.lineNumber + 1}`;
  const map = JSON.parse(readFileSync(path, "utf8"));
  const { source, line } = findMapping(map, location);
  // The mapping before a function is that of its name, if it has one.
  const before = { ...functionLocation, columnNumber: functionLocation.columnNumber - 1 };
  const original = functionName && findMapping(map, before)?.name;
  return `${original || name} ${source.replace(/^(\.\.\/)+/, "")}:${line}`;
}

/** Ends with one line, and exit code 1. */
function fail(text) {
  console.error(text);
  process.exit(1);
}

/**
 * Opens the inspector of Node.js. The init passes the signal on. `docker kill` would send it, too,
 * but then Docker restarts the container no more.
 */
function openInspector() {
  if (!("Deno" in globalThis)) process.kill(1, "SIGUSR1");
}

/** Asks for the address of the inspector until it answers. */
async function findInspector() {
  try {
    const [{ webSocketDebuggerUrl }] = await (await fetch(INSPECTOR_URL)).json();
    return webSocketDebuggerUrl;
  } catch (error) {
    late = `Cannot reach the inspector at ${INSPECTOR_URL}: ${
      error.cause?.message ?? error.message
    }. docs/recipes.md says how it is opened: "Find what wedges it"`;
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
    return await findInspector();
  }
}

const stuck = `No JavaScript ran within ${TIMEOUT_MS} ms: the service waits, or is stopped`;
let late = stuck;
setTimeout(() => fail(late), TIMEOUT_MS);
openInspector();
const socket = new WebSocket(await findInspector());
late = stuck;
/** The address of each script, by its id. */
const urls = new Map();
socket.onopen = () => {
  socket.send(JSON.stringify({ id: 1, method: "Debugger.enable" }));
  socket.send(JSON.stringify({ id: 2, method: "Debugger.pause" }));
};
socket.onmessage = ({ data }) => {
  const { method, params } = JSON.parse(data);
  if (method === "Debugger.scriptParsed") urls.set(params.scriptId, params.url);
  if (method !== "Debugger.paused") return;
  for (const frame of params.callFrames.slice(0, FRAMES_MAX)) {
    console.log(describe(frame, urls.get(frame.location.scriptId)));
  }
  process.exit(0); // The service goes on once the debugger is gone.
};
