/** No figure is copied by hand: what the documents say is what was measured. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { BLOCKS, fill, readResults } from "./report.ts";

const read = (file: string) => readFileSync(`${import.meta.dirname}/../../${file}`, "utf8");
/** A Markdown text, however its tables are aligned and its lines are broken. */
const plain = (markdown: string) => markdown.replace(/\s+/g, " ").replace(/-{3,}/g, "---");

for (const [file, made] of Object.entries(BLOCKS)) {
  test(`${file} shows what proof/bench/results.json holds`, () => {
    const text = read(file);
    assert.match(
      text,
      /<!-- bench:begin -->[^]*<!-- bench:end -->/,
      `${file} has no marks for the figures`,
    );
    assert.equal(
      plain(text),
      plain(fill(text, made(readResults()))),
      "run: npm run bench -- --report",
    );
  });
}

const evidence = read("proof/bench/README.md");
const [, before, block, after, byHand] =
  /^([^]*)<!-- bench:begin -->([^]*)<!-- bench:end -->([^]*)^## Measured once, by hand$([^]*)$/m
    .exec(evidence) ?? [];

test("proof/bench/README.md explains with no figure that was not measured", () => {
  const numbers = (text: string) => text.match(/\d+(?:[.,]\d+)*/g) ?? [];
  const measured = new Set(numbers(block));
  assert.deepEqual(numbers(before + after).filter((number) => !measured.has(number)), []);
});

test("proof/bench/README.md says of each figure that was measured by hand when that was", () => {
  const rows = byHand.split("\n").filter((line) => line.startsWith("|")).slice(2);
  assert.ok(rows.length > 0);
  for (const row of rows) assert.match(row, /\| 20\d\d-\d\d-\d\d +\|/);
});
