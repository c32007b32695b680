/** HOST=:: serves IPv4 where IPv6 is switched off, and the probe finds it. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { launch, missing } from "../support/harness.ts";
import { onEveryRuntime } from "../support/subjects.ts";

/** Switches IPv6 off and loopback on, in a network of its own, and runs the rest there. */
const UNSHARE = ["--net", "sh", "-ec"];
const SWITCH_OFF = `ip link set lo up
echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
"$@" & service=$!
until "$@" --ping; do sleep 0.2; done
kill "$service"
wait "$service"`;

const { code, stderr } = await ended(["--net", "ip", "link"]);
const skip = code !== 0 && missing(`no network of its own can be made: ${stderr}`);

/** Runs `unshare` to its end. */
async function ended(args: string[]) {
  const runtime = { name: "unshare", path: "unshare", options: [] };
  const program = launch(args, { HOST: "::", PORT: "8080" }, { runtime });
  const timer = setTimeout(() => program.kill("SIGKILL"), 20_000);
  const code = await program.exit;
  clearTimeout(timer);
  return { ...program, code };
}

onEveryRuntime(({ runtime }) => {
  test("the probe of HOST=:: falls back to 127.0.0.1", { skip }, async () => {
    const command = [runtime.path, ...runtime.options, "main.ts"];
    const { code, stdout, stderr } = await ended([...UNSHARE, SWITCH_OFF, "sh", ...command]);
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^healthy: http:\/\/127\.0\.0\.1:8080\/healthz answered 200$/m);
    assert.match(stdout, /^Draining, requests in flight: 0$/m);
  });
});
