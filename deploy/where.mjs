/**
 * Prints where a service is, in the words of its source: its call stack, by the source maps of its image. Reads the
 * script from standard input, because the image holds none of it:
 *
 *     docker exec -i shop /bin/node - < deploy/where.mjs
 *     docker exec -i shop /bin/deno run -q -A --no-config - < deploy/where.mjs
 *
 * The service's inspector has to be open: docs/recipes.md, "Find what wedges it".
 */
import { existsSync, readFileSync } from "node:fs";
import process from "node:process";

const INSPECTOR_URL = "http://127.0.0.1:9229/json/list";
const TIMEOUT_MS = 5000;
const FRAMES_MAX = 10;
const BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/** One number of a mapping: digits from 32 on are followed by another one. */
const NUMBER_PATTERN = /[g-z0-9+/]*[A-Za-f]/g;

function end(text) {
  console.error(text);
  process.exit(1);
}

/** Decodes one number of a mapping: https://tc39.es/ecma426/#sec-base64-vlq */
function toNumber(digits) {
  const bits = [...digits].reduceRight((sum, digit) => sum * 32 + BASE64.indexOf(digit) % 32, 0);
  const size = Math.floor(bits / 2);
  return bits % 2 === 0 ? size : -size;
}

/** Returns the last mapping of a line up to a column, with its source, line and name. Both count from 0. */
function findMapping({ mappings, sources, names }, { lineNumber, columnNumber }) {
  // The fields of a mapping: the column here, the source, the line and column there, the name.
  const fields = [0, 0, 0, 0, 0];
  let found;
  for (const [number, line] of mappings.split(";").slice(0, lineNumber + 1).entries()) {
    fields[0] = 0;
    for (const mapping of line.split(",")) {
      const steps = mapping.match(NUMBER_PATTERN) ?? [];
      steps.forEach((digits, index) => fields[index] += toNumber(digits));
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
  if (!existsSync(new URL(`${url}.map`))) return `${name} ${url}:${location.lineNumber + 1}`;
  const map = JSON.parse(readFileSync(new URL(`${url}.map`), "utf8"));
  const { source, line } = findMapping(map, location);
  // The mapping before a function is that of its name, if it has one.
  const { lineNumber, columnNumber } = functionLocation;
  const named = findMapping(map, { lineNumber, columnNumber: columnNumber - 1 });
  const original = functionName && named?.name;
  return `${original || name} ${source.replace(/^(\.\.\/)+/, "")}:${line}`;
}

setTimeout(
  () => end(`No JavaScript ran within ${TIMEOUT_MS} ms: the service waits, or is stopped`),
  TIMEOUT_MS,
);
const response = await fetch(INSPECTOR_URL).catch((error) => {
  end(`Cannot reach the inspector at ${INSPECTOR_URL}: ${error.cause?.message ?? error.message}`);
});
const [{ webSocketDebuggerUrl }] = await response.json();
const socket = new WebSocket(webSocketDebuggerUrl);
socket.onopen = () => {
  socket.send(JSON.stringify({ id: 1, method: "Debugger.enable" }));
  socket.send(JSON.stringify({ id: 2, method: "Debugger.pause" }));
};
/** The address of each script, by its id. */
const urls = new Map();
socket.onmessage = ({ data }) => {
  const { method, params } = JSON.parse(data);
  if (method === "Debugger.scriptParsed") urls.set(params.scriptId, params.url);
  if (method !== "Debugger.paused") return;
  for (const frame of params.callFrames.slice(0, FRAMES_MAX)) {
    console.log(describe(frame, urls.get(frame.location.scriptId)));
  }
  process.exit(0);
};
