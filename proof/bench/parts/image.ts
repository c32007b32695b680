/** What the images weigh, and how soon a container of them is healthy. */
import { cpSync } from "node:fs";
import { dirname } from "node:path";
import { performance } from "node:perf_hooks";
import process from "node:process";
import { type Built, withImages } from "../containers.ts";
import { type Figure, figure, type Goal, median, type Row } from "../measure.ts";
import { NAMES, output, ROOT, type Runtime, RUNTIMES, write } from "../programs.ts";
import { add, type Part } from "../report.ts";
import { PACKAGE_FILES } from "./install.ts";

const DOCKER_STARTS = 3;
const FIRST_PROBE_MS = 1000;

const PLAIN_DOCKERFILE = `FROM node:26.10.0-trixie-slim
WORKDIR /app
COPY . .
RUN npm ci --silent --ignore-scripts
CMD ["npx", "tsx", "main.ts"]`;

const tag = (name: string) => `heartbeat-bench-${process.pid}:${name}`;

/** The image that many a tutorial builds. */
function plainRecipe(): Built {
  const folder = dirname(write("plain/Dockerfile", PLAIN_DOCKERFILE));
  for (const file of [...PACKAGE_FILES, "main.ts"]) {
    cpSync(`${ROOT}/${file}`, `${folder}/${file}`, { recursive: true });
  }
  return { tag: tag("plain"), folder, options: [] };
}

interface Size {
  unpacked: number;
  gzipped: number;
}

function sizeOf(image: string): Size {
  const unpacked = output(["docker", "image", "inspect", "--format={{.Size}}", image]);
  const gzipped = output(["sh", "-c", `docker save ${image} | gzip | wc -c`]);
  return { unpacked: Number(unpacked), gzipped: Number(gzipped) };
}

/** The size of the runtime's binary in an image. */
function binarySize(runtime: Runtime): number {
  const container = output(["docker", "create", tag(runtime)]);
  const script = `docker cp ${container}:/bin/${runtime} - | tar -xO | wc -c`;
  const bytes = output(["sh", "-c", script]);
  output(["docker", "rm", container]);
  return Number(bytes);
}

/** From `docker run` until its health check says so. */
function healthyMs(image: string): number {
  const fromMs = performance.now();
  const id = output(["docker", "run", "--detach", image]);
  try {
    const inspect = ["docker", "inspect", "--format={{.State.Health.Status}}", id];
    while (output(inspect) !== "healthy") {
      if (performance.now() - fromMs > 30_000) throw new Error(`${image} is not healthy`);
    }
    return performance.now() - fromMs;
  } finally {
    output(["docker", "rm", "--force", id]);
  }
}

const mb = (name: string, ours: number, theirs: number, goal?: Goal): Figure =>
  figure(name, "MB", 1, [[ours / 1e6, theirs / 1e6]], goal);

function measureImage(runtime: Runtime, plain: Size, rows: Row[]): void {
  const what = `image on ${NAMES[runtime]}`;
  const ours = sizeOf(tag(runtime));
  add(rows, {
    what,
    against: "the runtime's stripped binary",
    figures: [mb("unpacked", ours.unpacked, binarySize(runtime), { atMost: 1.06 })],
  });
  add(rows, {
    what,
    against: "the plain recipe",
    figures: [
      mb("unpacked", ours.unpacked, plain.unpacked),
      mb("gzipped", ours.gzipped, plain.gzipped),
    ],
  });
  const times = Array.from({ length: DOCKER_STARTS }, () => healthyMs(tag(runtime)));
  add(rows, {
    what: `docker run, ${what}`,
    against: "the first probe is due",
    figures: [figure("to healthy", "ms", 0, [[median(times), FIRST_PROBE_MS]])],
  });
}

function measure(): Promise<Row[]> {
  const rows: Row[] = [];
  const built = RUNTIMES.map((runtime) => (
    { tag: tag(runtime), folder: ROOT, options: [`--target=${runtime}`] }
  ));
  return withImages([plainRecipe(), ...built], () => {
    const plain = sizeOf(tag("plain"));
    for (const runtime of RUNTIMES) measureImage(runtime, plain, rows);
    return rows;
  });
}

export const image: Part = {
  title: "What an image weighs",
  method: `The plain recipe is \`npm ci\` and \`npx tsx main.ts\` on Node.js's own slim image. ` +
    `To healthy is the median of ${DOCKER_STARTS}.`,
  needs: ["docker"],
  measure,
};
