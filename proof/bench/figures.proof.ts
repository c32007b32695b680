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
    assert.match(text, /<!-- bench:begin -->[^]*<!-- bench:end -->/, `${file} has no marks for the figures`);
    assert.equal(plain(text), plain(fill(text, made(readResults()))), "run: npm run bench -- --report");
  });
}

test("proof/bench/README.md explains with no figure that was not measured", () => {
  const [, before, block, after] = /^([^]*)<!-- bench:begin -->([^]*)<!-- bench:end -->([^]*)$/.exec(
    read("proof/bench/README.md"),
  )!;
  const numbers = (text: string) => text.match(/\d+(?:[.,]\d+)*/g) ?? [];
  const measured = new Set(numbers(block));
  assert.deepEqual(numbers(before + after).filter((number) => !measured.has(number)), []);
});
