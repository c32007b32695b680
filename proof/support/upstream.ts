/** Another server, which the service asks by fetch(). */
import { once } from "node:events";
import { createServer, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { gzipSync } from "node:zlib";
import type { Env } from "./harness.ts";

/** The body of `/whole`. */
export const WHOLE = "u".repeat(1024 * 1024);
/** The body of `/gzip`, once it is decompressed. */
export const ZIPPED = "from upstream ".repeat(100);

const ANSWERS: Record<string, (response: ServerResponse) => void> = {
  "/whole": (response) =>
    response.writeHead(203, { "Set-Cookie": ["first=1", "second=2"] }).end(WHOLE),
  /** Breaks off. */
  "/broken": (response) => {
    response.writeHead(200, { "Content-Length": "1000" }).write("a part\n");
    setTimeout(() => response.destroy(), 50);
  },
  /** Compresses, and keeps its connections. */
  "/gzip": (response) => {
    const type = { "Content-Encoding": "gzip", "Content-Type": "text/plain" };
    response.writeHead(200, { ...type, Connection: "keep-alive" }).end(gzipSync(ZIPPED));
  },
};

/** Runs `body` while the other server listens, with the variable that names its port. */
export async function withUpstream(body: (env: Env) => Promise<void>): Promise<void> {
  const upstream = createServer(({ url }, response) => ANSWERS[url!](response));
  await once(upstream.listen(0, "127.0.0.1"), "listening");
  try {
    await body({ UPSTREAM_PORT: `${(upstream.address() as AddressInfo).port}` });
  } finally {
    upstream.closeAllConnections();
    upstream.close();
  }
}
