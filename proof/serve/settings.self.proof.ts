/** The settings: run on each runtime by itself. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { settings, VARIABLES } from "../support/harness.ts";

test("readSettings() gives the defaults when nothing is set, or set to nothing", () => {
  const defaults = {
    port: 8080,
    host: "0.0.0.0",
    pingTimeoutMs: 3000,
    drainDelayMs: 0,
    shutdownTimeoutMs: 8000,
    healAfterMs: 0,
    accessLog: true,
  };
  assert.deepEqual(settings(), defaults);
  assert.deepEqual(settings(Object.fromEntries(VARIABLES.map((name) => [name, ""]))), defaults);
});

test("readSettings() takes what is well formed", () => {
  for (const PORT of ["0", "1", "80", "65535"]) assert.equal(settings({ PORT }).port, Number(PORT));
  for (
    const HOST of [
      "::",
      "::1",
      "0:0::0",
      "FE80::1",
      "::ffff:1.2.3.4",
      "10.0.0.1",
      "localhost",
      "a-b.example",
    ]
  ) {
    assert.equal(settings({ HOST }).host, HOST);
  }
  assert.equal(settings({ PING_TIMEOUT_MS: "2147483647" }).pingTimeoutMs, 2_147_483_647);
  assert.equal(settings({ DRAIN_DELAY_MS: "5000" }).drainDelayMs, 5000);
  assert.equal(settings({ SHUTDOWN_TIMEOUT_MS: "0" }).shutdownTimeoutMs, 0);
  assert.equal(settings({ ACCESS_LOG: "off" }).accessLog, false);
});

test("readSettings() refuses what is malformed, naming the variable and its value", () => {
  const refuses = (name: string, value: string, rule: string, shown = JSON.stringify(value)) => {
    const message = `Cannot parse ${name} as it must be ${rule}: current value is ${shown}`;
    assert.throws(() => settings({ [name]: value }), { message });
  };
  for (
    const value of [
      "80abc",
      "65536",
      "-1",
      "+80",
      "1e3",
      "0x50",
      " 80",
      "80 ",
      "8.0",
      "080",
      "٣",
      "NaN",
      " ",
    ]
  ) {
    const shown = value === "٣" ? '"?"' : undefined;
    refuses("PORT", value, "an integer from 0 to 65535", shown);
    refuses(
      "DRAIN_DELAY_MS",
      value === "65536" ? "2147483648" : value,
      "an integer from 0 to 2147483647",
      shown,
    );
  }
  refuses("PING_TIMEOUT_MS", "0", "an integer from 1 to 2147483647");
  refuses("SHUTDOWN_TIMEOUT_MS", "8s", "an integer from 0 to 2147483647");
  for (const value of ["ON", "true", "1", "on ", "constructor"]) {
    refuses("ACCESS_LOG", value, "on or off");
  }
  for (
    const value of [
      "http://a",
      "[::1]",
      "::1]:80/[",
      "::1]/[",
      "a b",
      " a",
      "a/b",
      "a@b",
      "a?b",
      "a#b",
      "%61",
      "fe80::1%eth0",
      "a\nb",
    ]
  ) refuses("HOST", value, "an IP address or a host name");
  refuses("HOST", "\x1b[31m\x9bred", "an IP address or a host name", '"\\u001b[31m?red"');
  refuses("HOST", `${"x".repeat(5000)} `, "an IP address or a host name", `"${"x".repeat(64)}"`);
});
