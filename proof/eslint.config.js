/**
 * Holds that one statement does one thing. `npm run check` runs it from the root, for the file that
 * owners read, its test and the proof.
 */
import { readFileSync } from "node:fs";
import { defineConfig } from "eslint/config";
import { parser } from "typescript-eslint";

const EDITORCONFIG = new URL("../.editorconfig", import.meta.url);
const [, LINE_COLUMNS] = /^max_line_length = (\d+)$/m.exec(readFileSync(EDITORCONFIG, "utf8"));
const DEPTH = 4;
const FUNCTION_LINES = 50;
const TEST_LINES = 60;

// Selectors name children, because descendants would flag what an innocent callback does.
const HOLDER = ":matches(ArrayExpression, CallExpression, NewExpression, SpreadElement)";
const CALL = ":matches(CallExpression, AwaitExpression, ChainExpression)";
const CHAIN = "CallExpression[callee.property.name=/^(then|catch|finally)$/]";
/** A call that happens under a condition, as the child of an expression. */
const CONDITIONAL_CALLS = [
  `LogicalExpression > ${CALL}.right`,
  `ConditionalExpression > ${CALL}.consequent`,
  `ConditionalExpression > ${CALL}.alternate`,
];

const RESTRICTED_SYNTAX = [
  {
    selector: ":not(ExpressionStatement, ForStatement) > AssignmentExpression",
    message: "An assignment is a statement of its own.",
  },
  ...CONDITIONAL_CALLS.map((call) => ({
    selector: `${HOLDER} > ${call}`,
    message: "A conditional call inside an array or an argument is an `if` of its own.",
  })),
  ...CONDITIONAL_CALLS.map((call) => ({
    selector: `${CHAIN} > ArrowFunctionExpression > ${call}`,
    message: "A promise chain hides an `if`.",
  })),
  {
    selector: `LogicalExpression > AwaitExpression.left > ${CHAIN}`,
    message: "A promise chain hides a `try` and its `catch`.",
  },
  {
    // A function's own block, and DEPTH below it. max-depth begins anew in each callback.
    selector: "BlockStatement ".repeat(1 + DEPTH + 1).trim(),
    message: `More than ${DEPTH} levels deep, callbacks included.`,
  },
];

const TEST_PATTERN = /^(test|t\.test|describe|before|after)$/;

/** The length of a function of the proof. The tests that it groups count for themselves. */
const proofLength = {
  create({ report, sourceCode }) {
    const isTest = (call) => TEST_PATTERN.test(sourceCode.getText(call.callee));
    const tests = [];
    const functions = [];
    return {
      CallExpression(node) {
        if (isTest(node)) tests.push(node);
      },
      ":function"(node) {
        functions.push(node);
      },
      "Program:exit"() {
        for (const node of functions) {
          const inner = tests.filter(({ range: [start, end] }) =>
            start > node.range[0] && end <= node.range[1]
          );
          const own = sourceCode.getTokens(node).filter(({ range: [at] }) =>
            !inner.some(({ range: [start, end] }) => at >= start && at < end)
          );
          const lines = new Set();
          for (const { loc: { start, end } } of own) {
            for (let line = start.line; line <= end.line; line++) lines.add(line);
          }
          const most = tests.includes(node.parent) ? TEST_LINES : FUNCTION_LINES;
          if (lines.size > most) report({ node, message: `${lines.size} lines, at most ${most}.` });
        }
      },
    };
  },
};

const builtIn = { skipBlankLines: true, skipComments: true, max: FUNCTION_LINES };

export default defineConfig(
  {
    files: ["**/*.{ts,js,mjs}"],
    languageOptions: { parser },
    linterOptions: { reportUnusedDisableDirectives: "error" },
    plugins: { proof: { rules: { length: proofLength } } },
    rules: {
      "max-depth": ["error", DEPTH],
      "max-len": ["error", Number(LINE_COLUMNS), { ignoreUrls: true }],
      "max-lines-per-function": ["error", builtIn],
      "no-cond-assign": ["error", "always"],
      "no-multi-assign": "error",
      "no-nested-ternary": "error",
      "no-restricted-syntax": ["error", ...RESTRICTED_SYNTAX],
      "no-return-assign": ["error", "always"],
      "no-sequences": ["error", { allowInParentheses: false }],
      "no-unused-expressions": "error",
    },
  },
  {
    files: ["proof/**"],
    rules: { "max-lines-per-function": "off", "proof/length": "error" },
  },
);
