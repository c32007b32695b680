/** A body that does not parse is a 400 without an error in the log. Any other fault is a 500. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { lineOf } from "../support/harness.ts";
import { onEveryRuntime, shareRoutes } from "../support/subjects.ts";

const INTERNAL_ERROR = '{"error":"Internal Server Error"}';

/** Routes that read a body, and fail in other ways. */
const READING = `
app.post("/json/:id", async (c) => c.json(await c.req.json()));
app.post("/form/:id", async (c) => c.json(Object.keys(await c.req.parseBody())));
app.post("/form-data/:id", async (c) => c.json([...(await c.req.formData()).keys()]));
app.post("/own/:id", async (c) => {
  await c.req.json();
  JSON.parse("{ of the user's own");
  return c.text("never");
});
app.post("/upstream/:id", async (c) => {
  await c.req.json();
  await new Response("{ of another server").json();
  return c.text("never");
});
app.post("/upstream-of-text/:id", async (c) => {
  await c.req.text();
  return c.json(await new Response("").json());
});
app.post("/bytes-and-json/:id", async (c) => {
  await c.req.arrayBuffer();
  return c.json(await c.req.json());
});
app.post("/raw-and-form/:id", async (c) => {
  await c.req.raw.text();
  return c.json(Object.keys(await c.req.parseBody()));
});
app.post("/raw-and-form-data/:id", async (c) => {
  await c.req.raw.text();
  return c.json([...(await c.req.formData()).keys()]);
});
app.post("/text-and-form-data/:id", async (c) => {
  await c.req.text();
  return c.json([...(await c.req.formData()).keys()]);
});
app.post("/after/:id", async (c) => {
  await c.req.parseBody();
  throw new SyntaxError("after a good body");
});
`;
const JSON_TYPE = "application/json";
const FORM_TYPE = "multipart/form-data; boundary=----------------------------boundary";
const FORM = `------------------------------boundary\r
Content-Disposition: form-data; name="a"\r
\r
1\r
------------------------------boundary--\r
`;
/** What is sent, its name, its type and its text. */
const SENT = {
  "half of JSON": [JSON_TYPE, '{"a":'],
  "an empty text as JSON": [JSON_TYPE, ""],
  "a text as JSON": [JSON_TYPE, "not json"],
  "JSON": [JSON_TYPE, '{"a":1}'],
  "an empty text": ["text/plain", ""],
  "a text as a form": [FORM_TYPE, "not a form"],
  "half of a form": [FORM_TYPE, FORM.slice(0, 60)],
  "a form": [FORM_TYPE, FORM],
} as const;
const BODIES: [string, keyof typeof SENT, number][] = [
  // The client's fault.
  ["/json", "half of JSON", 400],
  ["/json", "an empty text as JSON", 400],
  ["/json", "a text as JSON", 400],
  ["/bytes-and-json", "half of JSON", 400],
  ["/form", "a text as a form", 400],
  ["/form-data", "a text as a form", 400],
  ["/form-data", "JSON", 400],
  ["/text-and-form-data", "a text as a form", 400],
  // No fault.
  ["/json", "JSON", 200],
  ["/form", "a form", 200],
  ["/form-data", "a form", 200],
  ["/text-and-form-data", "a form", 200],
  // A fault of the route, or of the server that it asked.
  ["/own", "JSON", 500],
  ["/upstream", "JSON", 500],
  ["/upstream-of-text", "an empty text", 500],
  ["/after", "a form", 500],
  ["/raw-and-form", "a form", 500],
  ["/raw-and-form-data", "a form", 500],
];

describe("a malformed body is the client's fault, and no other fault is", () =>
  onEveryRuntime((on) => {
    const service = shareRoutes(on, READING);
    const bodies = [...BODIES];
    // Deno takes half a form for an empty one.
    if (on.isNode) bodies.push(["/form", "half of a form", 400]);
    for (const [index, [route, sent, status]] of bodies.entries()) {
      test(`${route} of ${sent} is ${status}`, async () => {
        const path = `${route}/${index}`; // a line of its own in the log
        const url = `http://127.0.0.1:${service().port}${path}`;
        const [type, body] = SENT[sent];
        const headers = { "Content-Type": type };
        const response = await fetch(url, { method: "POST", headers, body });
        assert.equal(response.status, status);
        const text = await response.text();
        if (status === 400) assert.equal(text, '{"error":"Malformed request body"}');
        if (status === 500) assert.equal(text, INTERNAL_ERROR);
        const { line, isError } = await lineOf(service(), path);
        assert.equal(isError, status === 500);
        assert.equal(line.stack !== undefined, status === 500);
      });
    }
  }));
