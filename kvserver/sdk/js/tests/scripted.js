/** A server that answers as it is told: real sockets, so that connections can be cut where a test wants it. */

import { createServer } from "node:http";
import { once } from "node:events";

/**
 * Start one. `answers` are taken in turn, the last for ever: functions of (request, response, body). `seen` has what was
 * asked: `{method, url, headers, body}`.
 */
export async function scripted(...answers) {
  const seen = [];
  const server = createServer(async (request, response) => {
    const chunks = [];
    for await (const chunk of request) chunks.push(chunk);
    const { method, url, headers } = request;
    const body = Buffer.concat(chunks).toString();
    seen.push({ method, url, headers, body });
    const answer = answers.length > 1 ? answers.shift() : answers[0];
    await answer(request, response, body);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const close = async () => {
    server.closeAllConnections();
    server.close();
    await once(server, "close");
  };
  return { url: `http://127.0.0.1:${server.address().port}`, seen, close };
}

/** Answer with a status, headers and a body. */
export function answer(status, headers = {}, body = "") {
  return (_, response) => response.writeHead(status, headers).end(body);
}

/** Answer with an error of the server. */
export function problem(status, code, { headers = {}, ...members } = {}) {
  const body = JSON.stringify({ type: `/docs/errors/${code}`, title: code, status, code, detail: "why", ...members });
  return answer(status, { "Content-Type": "application/problem+json", ...headers }, body);
}

/** Answer a write that was done. */
export function done(revision, status = 204) {
  return answer(status, { "KV-Revision": String(revision), ETag: `"${revision}"` });
}

/** Answer a read with a value. */
export function value(revision, body, type = "application/octet-stream") {
  return answer(200, { "KV-Revision": String(revision), "Content-Type": type }, body);
}

/** End the connection without an answer. */
export function cut(_, response) {
  response.socket.destroy();
}

/** Never answer. */
export function silent() {}

/** Answer a feed with these messages, or texts as they are, and leave it open; `end` as the last one ends it. */
export function feed(...messages) {
  return (_, response) => {
    response.writeHead(200, { "Content-Type": "application/x-ndjson" });
    response.flushHeaders();
    for (const message of messages) {
      if (message === "end") response.end();
      else response.write(typeof message === "string" || message instanceof Uint8Array ? message : `${JSON.stringify(message)}\n`);
    }
  };
}
