/** The size of main.ts: what a reader has to hold in mind at once. `deno fmt` gives each block two spaces. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { ROOT } from "./support/harness.ts";

const LINES_MAX = 480;
const FUNCTION_LINES_MAX = 50;
const LEVELS_MAX = 4;
const INDENT_CHARS = 2;

/** The lines that hold code, without comments and blank lines. */
function codeOf(source: string): string[] {
  const lines = source.replace(/\/\*\*?[^]*?\*\//g, "").split("\n");
  return lines.filter((line) => !/^\s*(\/\/.*)?$/.test(line));
}

/** The top-level declarations, each with its lines. */
function declarationsOf(lines: string[]): string[][] {
  const declarations: string[][] = [];
  for (const line of lines) {
    if (/^\w/.test(line)) declarations.push([]);
    declarations.at(-1)!.push(line);
  }
  return declarations;
}

/** How many blocks lie around the deepest line below a declaration's own. */
function levelsOf(declaration: string[]): number {
  let levels = 0;
  let deepest = 0;
  for (const line of declaration) {
    // A continued expression is indented, too; only what opens a block counts.
    const isBlock = /^\s*\}/.test(line);
    if (isBlock) levels = line.search(/\S/) / INDENT_CHARS;
    if (/\{$/.test(line)) levels = line.search(/\S/) / INDENT_CHARS + 1;
    deepest = Math.max(deepest, levels - 1);
  }
  return deepest;
}

const lines = codeOf(readFileSync(`${ROOT}/main.ts`, "utf8"));
const declarations = declarationsOf(lines);

test(`main.ts has at most ${LINES_MAX} lines of code`, () => {
  assert.ok(lines.length <= LINES_MAX, `${lines.length} lines`);
  assert.ok(lines.length > 300, `${lines.length} lines: the count is wrong`);
});

test(`no function of main.ts has more than ${FUNCTION_LINES_MAX} lines, or nests more than ${LEVELS_MAX} levels`, () => {
  assert.ok(declarations.length > 60, `${declarations.length} declarations: the count is wrong`);
  for (const declaration of declarations) {
    assert.ok(
      declaration.length <= FUNCTION_LINES_MAX,
      `${declaration.length} lines: ${declaration[0]}`,
    );
    assert.ok(
      levelsOf(declaration) <= LEVELS_MAX,
      `${levelsOf(declaration)} levels: ${declaration[0]}`,
    );
  }
});

test("the counts see what is too long and too deep", () => {
  const deep = [
    "function f() {",
    "  if (a) {",
    "    for (;;) {",
    "      if (b) {",
    "        if (c) {",
    "          if (d) {",
  ];
  assert.equal(levelsOf(deep), 5);
  assert.equal(levelsOf(deep.slice(0, 2)), 1);
  assert.deepEqual(codeOf("/** a */\na; // b\n\n  // c\n/*\n d\n*/\n}"), ["a; // b", "}"]);
});
