/** Properties of the settings, for any text. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { readSettings } from "../../main.ts";
import { settings } from "../support/harness.ts";

test("a setting is an integer in range, or refused in one printable line that names it", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), (PORT) => {
      const isPort = /^(0|[1-9]\d{0,4})$/.test(PORT) && Number(PORT) <= 65_535;
      try {
        assert.equal(settings({ PORT }).port, Number(PORT || "8080"));
        assert.ok(isPort || PORT === "");
      } catch (error) {
        assert.ok(!isPort && error instanceof Error);
        assert.match(
          error.message,
          /^Cannot parse PORT as it must be an integer from 0 to 65535: current value is "[ -~]*"$/,
        );
      }
    }),
    { numRuns: 10_000 },
  );
  fc.assert(
    fc.property(
      fc.integer({ min: 0, max: 65_535 }),
      (port) => settings({ PORT: `${port}` }).port === port,
    ),
  );
});

test("a host is an address or a name that a URL can hold as it stands, or refused", () => {
  const accepted = (HOST: string) => {
    try {
      return readSettings((name) => name === "HOST" ? HOST : undefined).host === HOST;
    } catch (error) {
      assert.match(
        (error as Error).message,
        /^Cannot parse HOST as it must be an IP address or a host name: [ -~]+$/,
      );
      return false;
    }
  };
  fc.assert(fc.property(fc.ipV4(), accepted));
  fc.assert(fc.property(fc.ipV6(), accepted));
  fc.assert(fc.property(fc.domain(), accepted));
  fc.assert(
    fc.property(fc.string({ unit: "binary", minLength: 1 }), (text) => {
      if (accepted(text)) assert.match(text, /^[^\s/?#@[\]]+$/);
    }),
    { numRuns: 10_000 },
  );
});
