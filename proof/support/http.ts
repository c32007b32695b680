/** HTTP over sockets of its own: what was sent, and all that came back as it came. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { once } from "node:events";
import { type IncomingMessage, request as httpRequest } from "node:http";
import { promisify } from "node:util";
import { Client, denoPath, type Env, TEST_TIMEOUT_MS } from "./harness.ts";

/** A whole request, after which the connection is closed. HTTP/1.0 comes without Host. */
export function get(path: string, version = "1.1", headers = ""): string {
  const usual = version === "1.1" ? "Host: test\r\nConnection: close\r\n" : "";
  return `GET ${path} HTTP/${version}\r\n${usual}${headers}\r\n`;
}

/** The head of an upload, and as much of its body as is given. */
export const post = (path: string, length: number, body: string) =>
  `POST ${path} HTTP/1.1\r\nHost: test\r\nContent-Length: ${length}\r\n\r\n${body}`;

/** All that a connection gave until it ended, and how it ended. */
export interface Talk {
  received: string;
  isReset: boolean;
}

export async function talk(port: number, text: string): Promise<Talk> {
  const client = new Client(port);
  let isReset = false;
  client.socket.on("error", () => {
    isReset = true;
  });
  await client.send(text).ended;
  return { received: client.received, isReset };
}

/** Several talks by Deno: Node.js takes a reset for an end when it comes with the last bytes. */
export async function talkByDeno(port: number, texts: string[]): Promise<Talk[]> {
  const code = `const talks = [];
for (const text of ${JSON.stringify(texts)}) {
  const talk = { received: "", isReset: false };
  const connection = await Deno.connect({ hostname: "127.0.0.1", port: ${port} });
  try {
    await connection.write(new TextEncoder().encode(text));
    for await (const chunk of connection.readable) talk.received += new TextDecoder().decode(chunk);
  } catch {
    talk.isReset = true;
  }
  talks.push(talk);
}
console.log(JSON.stringify(talks));`;
  const options = { timeout: TEST_TIMEOUT_MS };
  const { stdout } = await promisify(execFile)(denoPath(), ["eval", code], options);
  return JSON.parse(stdout);
}

/** A response as it came, and what came after it. */
interface Part {
  body: string;
  rest: string;
  isComplete: boolean;
}

/** Reads a body in chunks. */
function readChunks(rest: string): Part {
  let body = "";
  for (;;) {
    const [line, digits] = /^([\da-f]+)\r\n/i.exec(rest) ?? [];
    if (line === undefined) return { body, rest, isComplete: false };
    const size = parseInt(digits, 16);
    const end = line.length + size + "\r\n".length;
    if (rest.length < end) return { body, rest, isComplete: false };
    body += rest.slice(line.length, line.length + size);
    rest = rest.slice(end);
    if (size === 0) return { body, rest, isComplete: true };
  }
}

/** Reads a body of the length that the head tells, or up to the connection's end. */
function readLength(rest: string, status: string, head: string, isReset: boolean): Part {
  const length = /^content-length: (\d+)\r$/im.exec(head)?.[1];
  let size = length === undefined ? rest.length : Number(length);
  if (/^(1..|204|304)$/.test(status)) size = 0;
  const isComplete = rest.length >= size && !(length === undefined && isReset);
  return { body: rest.slice(0, size), rest: rest.slice(size), isComplete };
}

export interface Answer {
  status: number;
  head: string;
  body: string;
}

/** The responses on a connection, and whether the last one looks complete to its client. */
export function split(received: string, isReset = false) {
  const responses: Answer[] = [];
  let isComplete = false;
  for (let rest = received; rest !== "";) {
    const [, head, status] = /^(HTTP\/1\.[01] (\d+)[^]*?\r\n)\r\n/.exec(rest) ?? [];
    if (head === undefined) return { responses, isComplete: false };
    const after = rest.slice(head.length + "\r\n".length);
    const isChunked = /^transfer-encoding: chunked\r$/im.test(head);
    const part = isChunked ? readChunks(after) : readLength(after, status, head, isReset);
    responses.push({ status: Number(status), head, body: part.body });
    isComplete = part.isComplete;
    if (!isComplete) break;
    rest = part.rest;
  }
  return { responses, isComplete };
}

/** Asks once, and wants one whole answer. */
export async function ask(port: number, text: string): Promise<Answer> {
  const { received, isReset } = await talk(port, text);
  const { responses, isComplete } = split(received, isReset);
  const shown = JSON.stringify(received.slice(0, 500));
  assert.ok(isComplete && responses.length === 1, `no whole answer: ${shown}`);
  return responses[0];
}

/** Asks with a body, of a length told or in chunks, on a connection of its own. */
export async function send(
  port: number,
  path: string,
  body: Uint8Array | string,
  headers: Env = {},
  method = "POST",
) {
  const request = httpRequest({ port, host: "127.0.0.1", path, method, headers, agent: false });
  if (headers["Transfer-Encoding"]) {
    for (let at = 0; at < body.length; at += 65_536) request.write(body.slice(at, at + 65_536));
    request.end();
  } else {
    request.end(body);
  }
  const [response] = await once(request, "response") as [IncomingMessage];
  const chunks: Uint8Array[] = [];
  for await (const chunk of response) chunks.push(chunk);
  return { status: response.statusCode, headers: response.headers, body: Buffer.concat(chunks) };
}
