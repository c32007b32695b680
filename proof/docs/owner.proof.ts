/**
 * Holds that `npm test`, `npm run check` and Deno's tasks see what an owner writes, wherever it
 * lies: green, red with the line as it was written, hanging, or not there.
 */
import assert from "node:assert/strict";
import { rmSync } from "node:fs";
import { after, before, beforeEach, test } from "node:test";
import {
  edit,
  failure,
  FOLDER,
  removeCopies,
  serveArchive,
  shell,
  unpackArchive,
  write,
} from "../support/copies.ts";

const TIMEOUT_MS = 300_000;
const OWN = "shop/parts/routes.test.ts";
const TEST_COMMANDS = ["npm run test:node", "npm run test:deno"];
const shop = `${FOLDER}/owner/shop`;

/** Writes the owner's test file. */
function writeTest(lines: string[]) {
  const imports = ['import assert from "node:assert/strict";', 'import { test } from "node:test";'];
  write(shop, OWN, [...imports, "", ...lines, ""].join("\n"));
}

before(async () => {
  await serveArchive();
  await unpackArchive(shop);
  await shell(shop, "npm ci");
});
beforeEach(() => {
  writeTest([
    "interface Item {",
    "  name: string;",
    "}",
    "",
    'test("an item has a name", () => {',
    '  const item: Item = { name: "tea" };',
    '  assert.equal(item.name, "tea");',
    "});",
  ]);
});
after(removeCopies);

test("an owner's test is run and checked, wherever it lies", { timeout: TIMEOUT_MS }, async () => {
  await shell(shop, "npm run check");
  for (const command of TEST_COMMANDS) {
    assert.match(await shell(shop, command), /an item has a name/, command);
  }
});

test("a failure is red, and names the line as it was written", {
  timeout: TIMEOUT_MS,
}, async () => {
  edit(shop, OWN, 'item.name, "tea"', 'item.name, "coffee"');
  const failed = [/^Failed on Node\.js v[\d.]+: .*routes\.test\.ts$/m, /^Failed on Deno$/m];
  for (const [index, command] of TEST_COMMANDS.entries()) {
    const said = await failure(shop, command);
    assert.match(said, /routes\.test\.ts:10:10/, command);
    assert.match(said, failed[index], command);
  }
  assert.match(await failure(shop, "npm test"), failed[0]);
});

test("a type error is red, for both compilers", { timeout: TIMEOUT_MS }, async () => {
  edit(shop, OWN, 'name: "tea" }', "name: 1 }");
  for (const command of ["npm run check", "deno task check", "npx tsc"]) {
    const said = await failure(shop, `PATH="$PWD/node_modules/.bin:$PATH"; ${command}`);
    assert.match(said, /routes\.test\.ts[:(]9\b/, command);
  }
});

test("a file that is not formatted is shown, with what formats it", {
  timeout: TIMEOUT_MS,
}, async () => {
  edit(shop, OWN, 'name: "tea" }', 'name:   "tea" }');
  assert.match(await failure(shop, "npm run check"), /name: {3}"tea"[^]*npm run fmt/);
  await shell(shop, "npm run fmt && npm run check");
});

test("the owner's own answer turns one expectation of the example red, and says which", {
  timeout: TIMEOUT_MS,
}, async () => {
  edit(shop, "main.ts", /app\.get\("\/", .+/, 'app.get("/", (c) => c.json({ shop: true }));');
  const counts = [/fail 1$/m, / 1 failed/];
  for (const [index, command] of TEST_COMMANDS.entries()) {
    const said = await failure(shop, command);
    assert.match(said, /The text expected here is the placeholder's: change it/, command);
    assert.match(said, counts[index], command);
  }
});

const HANGING = {
  "waits for ever": ["setInterval(() => {}, 1000);", "await new Promise(() => {});"],
  "loops for ever": ["for (;;);"],
};

for (const [name, lines] of Object.entries(HANGING)) {
  test(`a test that ${name} is ended, and its file named`, { timeout: TIMEOUT_MS }, async () => {
    writeTest([`test("hangs", async () => {`, ...lines, "});"]);
    edit(shop, "tools/test-node.mjs", "FILE_DEADLINE_MS = 60_000", "FILE_DEADLINE_MS = 5_000");
    edit(shop, "test-deadline.ts", "60_000", "5_000");
    try {
      for (const command of TEST_COMMANDS) {
        const said = await failure(shop, command);
        assert.match(said, /shop\/parts\/routes\.test\.ts took more than 5 s$/m, command);
        assert.match(said, /^Failed on /m, command);
      }
    } finally {
      edit(shop, "tools/test-node.mjs", "FILE_DEADLINE_MS = 5_000", "FILE_DEADLINE_MS = 60_000");
      edit(shop, "test-deadline.ts", "5_000", "60_000");
    }
  });
}

test("no test at all is red", { timeout: TIMEOUT_MS }, async () => {
  rmSync(`${shop}/${OWN}`);
  rmSync(`${shop}/main.test.ts`);
  assert.match(await failure(shop, TEST_COMMANDS[0]), /there is no \*\.test\.ts/);
  await failure(shop, TEST_COMMANDS[1]);
});
