/**
 * A load: keeps requests in flight on many connections, and prints as JSON how many were sent and
 * answered.
 *
 * Arguments: the port, how many connections, how many requests in all (0: until nothing listens any
 * more) and how many of them a connection pipelines. A connection that the server closes between two
 * answers is opened again. A first line says when the load is on.
 */
import { connect } from "node:net";
import process from "node:process";

const [port, connections, total, ahead] = process.argv.slice(2).map(Number);
const REQUEST = "GET / HTTP/1.1\r\nHost: load\r\n\r\n";
const ANSWER = "replace this route in main.ts with your own\n";
let sent = 0;
let answered = 0;
let refused = 0;
let isLoaded = false;

/** Sends and counts on one connection until the total is sent or the server closes. */
function converse(): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    let pending = 0;
    let rest = "";
    let isLast = false;
    const send = () => {
      const count = total === 0 ? ahead : Math.min(ahead, total - sent);
      if (count === 0) return socket.end();
      sent += count;
      pending += count;
      socket.write(REQUEST.repeat(count));
    };
    socket.once("connect", send);
    socket.on("data", (chunk) => {
      const parts = (rest + chunk.toString("latin1")).split(ANSWER);
      rest = parts.pop()!;
      isLast ||= parts.some((part) => /\r\nconnection: close\r\n/i.test(part));
      answered += parts.length;
      if (!isLoaded && answered > 1000) console.log("loaded");
      isLoaded ||= answered > 1000;
      pending -= parts.length;
      if (isLast) socket.end();
      else if (pending === 0) send();
    });
    let isRefused = false;
    socket.on("error", ({ code }: NodeJS.ErrnoException) => {
      isRefused = code === "ECONNREFUSED";
    });
    socket.once("close", () => resolve(isRefused));
  });
}

await Promise.all(Array.from({ length: connections }, async () => {
  while (total === 0 || sent < total) {
    if (await converse()) {
      refused++;
      break;
    }
  }
}));
console.log(JSON.stringify({ sent, answered, refused }));
