/** Holds what all recipes of docs/recipes.md have in common; the other files run them. */
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { blocks } from "./blocks.ts";

test("each recipe is in a list of a file of this folder that uses all its blocks", () => {
  const files = readdirSync(import.meta.dirname).filter((name) => /^recipes-.+\.ts$/.test(name));
  const lists = files.flatMap((name) => {
    const text = readFileSync(`${import.meta.dirname}/${name}`, "utf8");
    assert.match(text, /assertUsed\(.*RECIPES/, name);
    return [...text.matchAll(/^const (?:RECIPES|OF_IMAGES) = \[(.+?)\];$/gms)];
  });
  const listed = lists.flatMap(([, list]) =>
    [...list.matchAll(/"(.+?)"/g)].map(([, name]) => name)
  );
  const recipes = new Set(blocks.map(({ recipe }) => recipe));
  assert.deepEqual([...recipes].toSorted(), [...new Set(listed)].toSorted());
});
