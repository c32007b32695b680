/**
 * A healing waits for no reader of process 1's log. Runs without an engine, in namespaces whose
 * process 1 is an init, as in a container. heal.proof.ts shows the line where it has a reader.
 */
import assert from "node:assert/strict";
import { realpathSync } from "node:fs";
import { test } from "node:test";
import { freePort, launch, missing, ROOT } from "../support/harness.ts";
import { onEveryRuntime } from "../support/subjects.ts";

const UNSHARE = ["--pid", "--mount", "--mount-proc", "--kill-child", "sh", "-euc"];
/** Stops the service once it is healthy, and probes until the init ends, and all others with it. */
const SCRIPT = `mount -t tmpfs none /dev/shm
mkfifo /dev/shm/log
exec 3<>/dev/shm/log
ready=$1
shift
{
  until "$@" --ping; do sleep 0.2; done
  eval "$ready"
  for service in $(cat /proc/1/task/1/children); do true; done
  kill -STOP "$service"
  while true; do "$@" --ping || true; done
} &
exec docker-init -- "$@" 2>/dev/shm/log 3>&-`;
/** What becomes of the log's pipe before the healing. */
const PIPES = {
  full: "dd if=/dev/zero of=/dev/shm/log bs=4096 oflag=nonblock || true",
  closed: "exec 3>&-",
};
const TIMEOUT_MS = 40_000;

const { code, stderr } = await ended([
  "--pid",
  "--mount",
  "--kill-child",
  "docker-init",
  "--version",
]);
const skip = code !== 0 && missing(`no namespace with docker-init as its process 1: ${stderr}`);

/** Runs `unshare` to its end. */
async function ended(args: string[], PORT = "0") {
  const env = { HOST: "127.0.0.1", PORT, PING_TIMEOUT_MS: "300", HEAL_AFTER_MS: "1" };
  const runtime = { name: "unshare", path: "unshare", options: [] };
  const program = launch(args, env, { runtime });
  const timer = setTimeout(() => program.kill("SIGKILL"), TIMEOUT_MS);
  const code = await program.exit;
  clearTimeout(timer);
  return { ...program, code };
}

onEveryRuntime(({ runtime, isNode }) => {
  // As in the image: the probe may read and signal process 1.
  const options = isNode ? runtime.options : ["run", "--allow-all"];
  for (const [state, ready] of Object.entries(PIPES)) {
    test(`a healing ends the service where the pipe of its log is ${state}`, { skip }, async () => {
      const command = [runtime.path, ...options, `${realpathSync(ROOT)}/main.ts`];
      const args = [...UNSHARE, SCRIPT, "sh", ready, ...command];
      const { code, stdout, stderr } = await ended(args, `${await freePort()}`);
      assert.equal(code, 142, stdout + stderr);
    });
  }
});
