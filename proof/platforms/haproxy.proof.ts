/**
 * Two instances behind HAProxy on one Docker host, by deploy/haproxy.yaml: runs the commands that its head names, and
 * deploys a new version under load. Without a Docker engine it skips, and says so; in CI that is a failure.
 *
 *     node --import tsx --test proof/platforms/haproxy.proof.ts
 */
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import process from "node:process";
import { test } from "node:test";
import { ROUTES, underLoad } from "../support/clients.ts";
import { NAME, removeImages, run, say, skip, TARGETS } from "../support/engine.ts";
import { copyProject, ROOT, until, withRoutesOf } from "../support/harness.ts";

const FILE = "deploy/haproxy.yaml";
const COMMANDS = [...readFileSync(`${ROOT}/${FILE}`, "utf8").matchAll(/^# (docker compose .+)$/gm)]
  .map(([, line]) => line);

for (const target of TARGETS) {
  test(
    `${target}: a new version behind HAProxy loses no request`,
    { skip, timeout: 300_000 },
    async (t) => {
      const folder = mkdtempSync(`${ROOT}/.test-haproxy-`);
      const variables = {
        IMAGE: `${NAME}:${target}-haproxy`,
        PUBLISHED_PORT: "0",
        COMPOSE_PROJECT_NAME: NAME,
      };
      const shell = async (command: string) => {
        const env = { ...process.env, ...variables };
        return (await run("sh", ["-c", command], { cwd: folder, env })).stdout.trim();
      };
      const write = (version: string) => {
        const routes = `${ROUTES}app.get("/version", (c) => c.text("${version}"));`;
        writeFileSync(
          `${folder}/main.ts`,
          withRoutesOf(readFileSync(`${ROOT}/main.ts`, "utf8"), routes),
        );
      };
      try {
        copyProject(folder);
        if (target === "node") {
          const file = readFileSync(`${folder}/${FILE}`, "utf8");
          assert.match(file, /build: \.\.\n/);
          writeFileSync(
            `${folder}/${FILE}`,
            file.replace("build: ..\n", "build: { context: .., target: node }\n"),
          );
        }
        const [up, ...deploy] = COMMANDS;
        assert.deepEqual(deploy.length, 3);
        write("0");
        await shell(up);
        const address = await shell(`docker compose --file ${FILE} port balancer 8080`);
        const url = new URL(`http://127.0.0.1:${address.split(":").at(-1)}`);
        const version = async () => await (await fetch(new URL("/version", url))).text();
        await until(async () => await version() === "0", "answer through HAProxy");

        const fact = await underLoad(url, async () => {
          for (const next of ["1", "2"]) {
            // The build takes the name away from the present image, which removeImages() finds by a name.
            await shell(`docker tag ${variables.IMAGE} ${variables.IMAGE}-before-${next}`);
            write(next);
            for (const command of deploy) await shell(command);
            for (let asked = 0; asked < 10; asked++) assert.equal(await version(), next);
          }
        });
        say(t, fact);
      } catch (error) {
        console.log(
          await shell(`docker compose --file ${FILE} logs --no-color balancer`).catch(String),
        );
        throw error;
      } finally {
        await shell(`docker compose --file ${FILE} down --volumes --timeout 1`);
        rmSync(folder, { recursive: true });
        await removeImages();
      }
    },
  );
}
