/** Asks a service for its health in this process. */
import assert from "node:assert/strict";
import { probe } from "../../main.ts";
import { settings } from "./harness.ts";

/** Throws unless the service on a port of this machine is healthy. */
export async function assertHealthy(port: number): Promise<void> {
  const { outcome, text } = await probe(settings({ HOST: "127.0.0.1", PORT: `${port}` }));
  assert.equal(outcome, "healthy", text);
}
