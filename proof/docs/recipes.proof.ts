/** Holds what all recipes of docs/recipes.md have in common; the other files run them. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { blocks } from "./blocks.ts";

const LINES_MAX = 25;

test(`no example is longer than ${LINES_MAX} lines`, () => {
  for (const { recipe, code } of blocks) {
    assert.ok(code.trimEnd().split("\n").length <= LINES_MAX, recipe);
  }
});

test("each recipe is run by a file of this folder", () => {
  const files = readdirSync(import.meta.dirname).filter((name) => /^recipes-.+\.ts$/.test(name));
  const texts = files.map((name) => readFileSync(`${import.meta.dirname}/${name}`, "utf8"));
  for (const { recipe } of blocks) {
    assert.ok(texts.some((text) => text.includes(`"${recipe}"`)), recipe);
  }
});
