/** The blocks of docs/recipes.md, and which of them a file of tests has used. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { ROOT } from "../support/harness.ts";

export interface Block {
  recipe: string;
  language: string;
  code: string;
}

const DOCUMENT = readFileSync(`${ROOT}/docs/recipes.md`, "utf8");
export const blocks: Block[] = DOCUMENT.split(/^## /m).slice(1).flatMap((section) =>
  [...section.matchAll(/^```(\w*)\n(.*?)^```$/gms)].map(([, language, code]) => ({
    recipe: section.split("\n")[0],
    language,
    code,
  }))
);
const used = new Set<Block>();
export const use = (block: Block) => used.add(block);

/**
 * The blocks of a recipe in a language, or those of them with a text; there is at least one. Each
 * counts as used once it is taken.
 */
export function* blocksOf(recipe: string, language: string, text = ""): Generator<string> {
  const found = blocks.filter((block) =>
    block.recipe === recipe && block.language === language && block.code.includes(text)
  );
  assert.notEqual(found.length, 0, `${recipe}: ${language} ${text}`);
  for (const block of found) {
    use(block);
    yield block.code;
  }
}

/** Fails if a block of these recipes was not used by this file. */
export function assertUsed(recipes: string[]) {
  const unused = blocks.filter((block) => recipes.includes(block.recipe) && !used.has(block));
  assert.deepEqual(unused.map(({ recipe, code }) => `${recipe}: ${code}`), []);
}
