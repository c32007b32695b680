/**
 * Run by `npm run test:image`: `docker stop` on both images, idle, with a request in flight and
 * under load.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { connect } from "node:net";
import { after, before, test } from "node:test";
import {
  build,
  docker,
  health,
  inspect,
  onHostNetwork,
  probeCommand,
  removeImages,
  say,
  skip,
  TARGETS,
  withContainer,
} from "../support/engine.ts";
import { launch, ROOT, until, untilPrinted, withRoutesOf } from "../support/harness.ts";

const CONNECTIONS = 32;
const ROUTES = `
app.get("/slow", async (c) => { await sleep(1500); return c.text("whole"); });
`;

before(async () => {
  if (skip) return;
  const source = withRoutesOf(readFileSync(`${ROOT}/main.ts`, "utf8"), ROUTES);
  for (const target of TARGETS) {
    await build(target);
    await build(target, "routes", source);
  }
}, { timeout: 600_000 });

after(async () => {
  if (!skip) await removeImages();
});

for (const target of TARGETS) {
  test(
    `${target}: docker stop lets a request in flight finish, and exits 0`,
    { skip },
    async () => {
      for (const init of [[], ["--init"]]) {
        const { port, flags } = await onHostNetwork();
        await withContainer(target, [...init, ...flags], async (container) => {
          await health(container, "healthy");
          const socket = connect(port, "127.0.0.1");
          let received = "";
          socket.on("data", (chunk) => {
            received += chunk;
          });
          socket.write("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n");
          const log = () => docker(["exec", container, ...probe]).then(() => true);
          const probe = await probeCommand(target);
          await until(log, "probe after the request");
          const closed = once(socket, "close");
          await docker(["stop", container]);
          await closed;
          assert.match(received, /\r\nconnection: close\r\n[^]*whole$/i);
          assert.equal((await inspect(container)).ExitCode, 0);
        }, "routes");
      }
    },
  );

  test(`${target}: docker stop under load answers each accepted request`, { skip }, async (t) => {
    const { port, flags } = await onHostNetwork();
    await withContainer(target, flags, async (container) => {
      await health(container, "healthy");
      const load = launch(
        ["--import", "tsx", "proof/support/load.ts", `${port}`, `${CONNECTIONS}`, "0", "1"],
        {},
      );
      await untilPrinted(load, () => load.stdout);
      await docker(["stop", container]);
      assert.equal((await inspect(container)).ExitCode, 0);
      assert.equal(await load.exit, 0, load.stderr);
      const { sent, answered, refused } = JSON.parse(load.stdout.trim().split("\n").at(-1)!);
      const lines = (await docker(["logs", container])).split("\n").filter((line) =>
        line.startsWith("{")
      );
      assert.equal(answered, lines.length, "each accepted request is answered");
      assert.equal(refused, CONNECTIONS, "each connection ends by a refused one");
      // The kernel resets what it took for the service and the service had not yet accepted.
      const reset = sent - answered;
      assert.ok(reset <= CONNECTIONS, `${reset} requests were lost without a line`);
      say(t, `${answered} requests accepted and answered, ${reset} reset`);
    });
  });

  test(`${target}: docker stop ends an idle container in under a second, with exit code 0`, {
    skip,
  }, async (t) => {
    for (const init of [[], ["--init"]]) {
      await withContainer(target, init, async (container) => {
        await health(container, "healthy");
        const startMs = performance.now();
        await docker(["stop", container]);
        const tookMs = performance.now() - startMs;
        say(t, `stopped${init.length ? " under --init" : ""} in ${tookMs.toFixed()} ms`);
        assert.ok(tookMs < 1000, `took ${tookMs} ms`);
        assert.equal((await inspect(container)).ExitCode, 0);
      });
    }
  });
}
