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
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 200 }), places, async (bytes, places) => {
      const read = (places: number[]) =>
        readStatus(split(bytes, places)).catch((error) => error instanceof Error);
      assert.equal(await read(places), await read([]));
    }),
  );
});
