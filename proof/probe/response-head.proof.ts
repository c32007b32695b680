/** A property of the reading of a response, for any head and any bytes. */
import assert from "node:assert/strict";
import { test } from "node:test";
import fc from "fast-check";
import { readStatus } from "../../main.ts";

/** Splits bytes at given places. */
async function* split(bytes: Uint8Array, places: number[]): AsyncGenerator<Uint8Array> {
  let from = 0;
  for (
    const place of [...places.map((place) => place % (bytes.length + 1)), bytes.length].sort((
      a,
      b,
    ) => a - b)
  ) {
    yield bytes.subarray(from, place);
    from = place;
  }
}

test("a response head means the same however it is split", async () => {
  const places = fc.array(fc.nat(), { maxLength: 20 });
  const token = fc.stringMatching(/^[!#$%&'*+.^_`|~\w-]{1,10}$/);
  const value = fc.stringMatching(/^[ -~]{0,20}$/);
  const head = fc.tuple(
    fc.integer({ min: 100, max: 599 }),
    value,
    fc.array(fc.tuple(token, value), { maxLength: 10 }),
    fc.string(),
  );
  await fc.assert(fc.asyncProperty(head, places, async ([status, reason, fields, body], places) => {
    const text = `HTTP/1.1 ${status} ${reason}\r\n${
      fields.map((field) => `${field.join(":")}\r\n`).join("")
    }\r\n${body}`;
    assert.equal(await readStatus(split(new TextEncoder().encode(text), places)), status);
  }));
});

test("bytes mean the same however they are split, and those of no head are refused", async () => {
  const places = fc.array(fc.nat(), { maxLength: 20 });
  const start = fc.constantFrom("HTTP/1.1 200", "HTTP/1.0 503", "HTTP/1.1 20", "HTTP/2 200", "");
  const part = fc.constantFrom(" OK", "\r\n", "\r\n\r\n", "a: b", "0", "\0", "HTTP/1.1 404");
  const text = fc.tuple(start, fc.array(part, { maxLength: 8 }));
  let heads = 0;
  await fc.assert(
    fc.asyncProperty(text, places, async ([start, parts], places) => {
      const bytes = new TextEncoder().encode(start + parts.join(""));
      const read = (places: number[]) => readStatus(split(bytes, places)).catch(() => "refused");
      const whole = await read([]);
      assert.equal(await read(places), whole);
      if (whole !== "refused") heads += 1;
    }),
    { numRuns: 500 },
  );
  assert.ok(heads > 0 && heads < 500, `${heads} of 500 were heads`);
  await fc.assert(
    fc.asyncProperty(
      fc.uint8Array({ maxLength: 200 }),
      places,
      (bytes, places) =>
        assert.rejects(readStatus(split(bytes, places)), /^Error: sent no HTTP response head/),
    ),
  );
});
