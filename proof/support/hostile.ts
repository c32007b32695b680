/** Hostile clients and servers: what they send. */
import type { Socket } from "node:net";

const HOST = "Host: x\r\n";
/** Malformed or hostile requests: lines, headers, lengths, encodings, smuggling, sizes. */
export const HOSTILE: string[] = [
  "\r\n\r\n",
  "\n",
  "\0".repeat(1000),
  "\x16\x03\x01\x02\x00\x01\x00",
  "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
  "GET\r\n\r\n",
  "GET /\r\n\r\n",
  "GET / HTTP/9.9\r\n\r\n",
  "GET / HTTP/1.1\r\n\r\n",
  `get / HTTP/1.1\r\n${HOST}\r\n`,
  `FOO / HTTP/1.1\r\n${HOST}\r\n`,
  `TRACE / HTTP/1.1\r\n${HOST}\r\n`,
  `TRACK / HTTP/1.1\r\n${HOST}\r\n`,
  `CONNECT x:1 HTTP/1.1\r\n${HOST}\r\n`,
  `CONNECT / HTTP/1.1\r\n${HOST}\r\n`,
  `OPTIONS * HTTP/1.1\r\n${HOST}\r\n`,
  `GET * HTTP/1.1\r\n${HOST}\r\n`,
  `GET http://[::bad/ HTTP/1.1\r\n${HOST}\r\n`,
  `GET http://a b/ HTTP/1.1\r\n${HOST}\r\n`,
  `GET //evil.example/x HTTP/1.1\r\n${HOST}\r\n`,
  `GET /%00%ff%zz HTTP/1.1\r\n${HOST}\r\n`,
  `GET /%E0%A4%A HTTP/1.1\r\n${HOST}\r\n`,
  `GET /\xff\xfe HTTP/1.1\r\n${HOST}\r\n`,
  `GET /a\\b HTTP/1.1\r\n${HOST}\r\n`,
  `GET /../../etc/passwd HTTP/1.1\r\n${HOST}\r\n`,
  `GET /\x1b[31mred HTTP/1.1\r\n${HOST}\r\n`,
  "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
  "GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
  "GET / HTTP/1.1\r\nHost: \r\n\r\n",
  "GET / HTTP/1.1\r\nHost: a@b/c?d#e\r\n\r\n",
  "GET / HTTP/1.1\r\nHost: x:99999\r\n\r\n",
  "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
  "GET / HTTP/1.1\r\nHost: \xff\r\n\r\n",
  "GET / HTTP/1.1\r\nHost: %zz\r\n\r\n",
  `GET / HTTP/1.1\r\n${HOST}A: ${"x".repeat(100_000)}\r\n\r\n`,
  `GET /${"a".repeat(100_000)} HTTP/1.1\r\n${HOST}\r\n`,
  `GET / HTTP/1.1\r\n${HOST}${"A: b\r\n".repeat(10_000)}\r\n`,
  `GET / HTTP/1.1\r\n${HOST}Bad Header: x\r\n\r\n`,
  `GET / HTTP/1.1\r\n${HOST}: x\r\n\r\n`,
  `GET / HTTP/1.1\r\n${HOST}A: b\0c\r\n\r\n`,
  `GET / HTTP/1.1\r\n${HOST} folded: x\r\n\r\n`,
  "GET / HTTP/1.1\nHost: x\n\n",
  `POST / HTTP/1.1\r\n${HOST}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n` +
  `GET /x HTTP/1.1\r\n${HOST}\r\n`,
  `POST / HTTP/1.1\r\n${HOST}Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef`,
  `POST / HTTP/1.1\r\n${HOST}Content-Length: -1\r\n\r\n`,
  `POST / HTTP/1.1\r\n${HOST}Content-Length: 99999999999999999999\r\n\r\n`,
  `POST / HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\nZZ\r\n\r\n`,
  `POST / HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n\r\n`,
  `POST / HTTP/1.1\r\n${HOST}Transfer-Encoding: gzip, chunked\r\n\r\n5\r\nabc`,
  `POST / HTTP/1.1\r\n${HOST}Transfer-Encoding: xchunked\r\n\r\n5\r\nabc`,
  `POST /echo HTTP/1.1\r\n${HOST}Content-Length: 10\r\n\r\nhalf`,
  `POST /echo HTTP/1.1\r\n${HOST}Transfer-Encoding: chunked\r\n\r\n5\r\nabcdefgh\r\n`,
  `POST /healthz HTTP/1.1\r\n${HOST}Expect: 100-continue\r\nContent-Length: 10\r\n\r\n`,
  `GET / HTTP/1.1\r\n${HOST}Expect: nonsense\r\n\r\n`,
  `GET / HTTP/1.1\r\n${HOST}Upgrade: websocket\r\nConnection: Upgrade\r\n` +
  "Sec-WebSocket-Key: x\r\n\r\n",
  `GET / HTTP/1.1\r\n${HOST}Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n` +
  "HTTP2-Settings: AAMA\r\n\r\n",
  `GET / HTTP/1.1\r\n${HOST}Connection: keep-alive, close, x\r\n\r\n`,
  `GET / HTTP/1.1\r\n${HOST}Cookie: ${"a=b; ".repeat(2000)}\r\n\r\n`,
  `GET / HTTP/1.1\r\n${HOST}\r\n`.repeat(200),
];

/**
 * Servers that a probe must not take for healthy: what they do with a connection, and what the probe
 * says of it.
 */
export const WRONG_ANSWERS: [string, (socket: Socket) => void, RegExp][] = [
  ["nothing, and closes", (socket) => socket.end(), /sent no HTTP response head in 0 bytes: ""$/],
  ["nothing, and waits", () => {}, /gave no HTTP response head within PING_TIMEOUT_MS=\d+$/],
  [
    "half a head, and waits",
    (socket) => socket.write("HTTP/1.1 200 OK\r\n"),
    /gave no HTTP response head within PING_TIMEOUT_MS=\d+$/,
  ],
  [
    "half a head, and closes",
    (socket) => socket.end("HTTP/1.1 200 OK\r\n"),
    /in 17 bytes: "HTTP\/1.1 200 OK\\r\\n"$/,
  ],
  ["a reset", (socket) => socket.resetAndDestroy(), /reset|closed|head/i],
  ["a drip", (socket) => {
    const drip = setInterval(() => socket.write("HTTP/1.1 200 OK\r\nA: "), 20);
    socket.on("close", () => clearInterval(drip));
  }, /within PING_TIMEOUT_MS=\d+$|in \d+ bytes/],
  ["a flood", (socket) => {
    const flood = () => {
      while (
        socket.writable && socket.write("HTTP/1.1 200 OK\r\nA: ".padEnd(65_536, "x"))
      ) { /* until it is full */ }
    };
    socket.on("drain", flood);
    flood();
  }, /sent no HTTP response head in 16384 bytes/],
  [
    "another protocol",
    (socket) => socket.write("SSH-2.0-OpenSSH_9.2\r\n"),
    /"SSH-2.0-OpenSSH_9.2\\r\\n"$/,
  ],
  ["colours", (socket) => socket.end("\x1b[31mred\x9b"), /"\\u001b\[31mred\?+"$/],
  ["an interim response", (socket) => socket.end("HTTP/1.1 100 Continue\r\n\r\n"), /answered 100$/],
  ["204", (socket) => socket.end("HTTP/1.1 204 No Content\r\n\r\n"), /answered 204$/],
  ["302", (socket) => socket.end("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n"), /answered 302$/],
  ["503", (socket) => socket.end("HTTP/1.1 503 No\r\n\r\n"), /answered 503$/],
];
