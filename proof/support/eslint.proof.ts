/** The rules of eslint.config.js find what they forbid, and nothing else. */
import assert from "node:assert/strict";
import { resolve } from "node:path";
import { test } from "node:test";
import { ESLint } from "eslint";
import { ROOT } from "./harness.ts";

const cwd = resolve(ROOT);
const eslint = new ESLint({ cwd, overrideConfigFile: `${cwd}/proof/eslint.config.js` });

/** The rules that a text breaks in a file of that path. */
async function broken(text: string, filePath = "main.ts"): Promise<string[]> {
  const [{ messages }] = await eslint.lintText(text, { filePath });
  return [...new Set(messages.map(({ ruleId, message }) => ruleId ?? message))];
}

const lines = (count: number) => "  g();\n".repeat(count);

const VIOLATIONS: [string, string][] = [
  ["const x = a ? 1 : b ? 2 : 3;", "no-nested-ternary"],
  ["a && g();", "no-unused-expressions"],
  ["a || g();", "no-unused-expressions"],
  ["a ? g() : h();", "no-unused-expressions"],
  ["response.headers;", "no-unused-expressions"],
  ["while (x = g()) h();", "no-cond-assign"],
  ["for (let x; (x = g());) h();", "no-cond-assign"],
  ["x = y = 1;", "no-multi-assign"],
  ["const f = () => (g(), h());", "no-sequences"],
  ["function f() { return x = 1; }", "no-return-assign"],
  ["g(() => x = 1);", "no-return-assign"],
  [`${"{ if (a) ".repeat(5)} g(); ${"}".repeat(5)}`, "max-depth"],
  [`function f() {\n${lines(49)}}`, "max-lines-per-function"],
  [`const x = ${"1 + ".repeat(25)}1;`, "max-len"],
  [`// ${"word ".repeat(20)}`, "max-len"],
  // An assignment inside an expression.
  ["g(x = 1);", "no-restricted-syntax"],
  ["const y = a && (x = 1);", "no-restricted-syntax"],
  ["const y = a ? (x = 1) : 0;", "no-restricted-syntax"],
  ["const y = [x = 1];", "no-restricted-syntax"],
  ["const y = { x: x = 1 };", "no-restricted-syntax"],
  ["const y = `${x = 1}`;", "no-restricted-syntax"],
  ["async function f() { await (x ??= g()); }", "no-restricted-syntax"],
  // A conditional call inside an array or an argument.
  ["const y = [text, ms && heal(finding, ms)].filter(Boolean);", "no-restricted-syntax"],
  ["const y = [c ? g() : 0];", "no-restricted-syntax"],
  ["const y = [...c ? g() : []];", "no-restricted-syntax"],
  ["f(c && g());", "no-restricted-syntax"],
  ["f(c && g?.());", "no-restricted-syntax"],
  ["f(c ?? g());", "no-restricted-syntax"],
  ["f(c ? 0 : g());", "no-restricted-syntax"],
  ["f(new F(c || g()));", "no-restricted-syntax"],
  ["async function f() { h(c && await g()); }", "no-restricted-syntax"],
  // A promise chain that hides an `if` or a `catch`.
  ["p.then(() => x || y());", "no-restricted-syntax"],
  ["p.catch((e) => e.code ? y() : 0);", "no-restricted-syntax"],
  ["async function f() { return await p.catch(g) ?? {}; }", "no-restricted-syntax"],
  // Five levels below a function's own, of which callbacks are some.
  [
    `function f() {${" g(() => { if (a) {".repeat(2)} { h(); } ${"} });".repeat(2)} }`,
    "no-restricted-syntax",
  ],
];

for (const [text, rule] of VIOLATIONS) {
  test(`${rule} finds ${text.slice(0, 60).replace(/\s+/g, " ")}`, async () => {
    assert.ok((await broken(text)).includes(rule), "it does not");
    if (rule !== "max-lines-per-function") {
      assert.ok((await broken(text, "proof/x.proof.ts")).includes(rule), "it does not in proof/");
    }
  });
}

test("innocent code is not flagged", async () => {
  const text = `
    for (let at = 0; at < 3; at += 1) g(at);
    const { x = 1 } = await h(a ? 1 : 2);
    socket.on("data", (chunk) => {
      received += chunk;
    });
    const found = list.filter((item) => item.isOpen() && isNew(item));
    const line = f(a ?? b, [c && d, () => e && i()], { k: a ? j() : undefined });
    p.then((value) => value.ok, (error) => settle(false, error));
    if (a && isOpen(b)) l(await p.catch(report));
  `.replace(/^ +/gm, "");
  assert.deepEqual(await broken(text), []);
  assert.deepEqual(await broken(`function f() {\n${lines(48)}}`), []);
});

test("in proof/ a test has 60 lines, and what groups tests any number", async () => {
  const inProof = (text: string) => broken(text, "proof/x.proof.ts");
  const testOf = (count: number) => `test("x", async () => {\n${lines(count)}});\n`;
  assert.deepEqual(await inProof(testOf(58)), []);
  assert.deepEqual(await inProof(testOf(59)), ["proof/length"]);
  assert.deepEqual(await inProof(`describe("x", () => {\n${testOf(40).repeat(3)}});`), []);
  assert.deepEqual(await inProof(`function f() {\n${testOf(40).repeat(3)}}`), []);
  assert.deepEqual(await inProof(`function f() {\n${testOf(9)}${lines(49)}}`), ["proof/length"]);
});
