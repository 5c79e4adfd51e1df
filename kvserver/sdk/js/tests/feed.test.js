import assert from "node:assert/strict";
import { test } from "node:test";

import { Follow, Forbidden, Gap, JsonLines } from "../client.js";

const UTF8 = new TextEncoder();

test("lines are whole whatever the borders of the chunks, within a character too", () => {
  const told = [{ key: "grün €😀\ud83d" }, { value: "a\nb\u2028" }, [1]];
  const bytes = UTF8.encode(told.map((each) => `${JSON.stringify(each)}\n`).join("") + '{"half":');
  for (const size of [1, 2, 3, 7, bytes.length]) {
    const lines = new JsonLines();
    const found = [];
    for (let at = 0; at < bytes.length; at += size) found.push(...lines.push(bytes.subarray(at, at + size)));
    assert.deepEqual(found, told);
  }
});

test("half a pair of surrogates in JSON stays what it is", () => {
  const [message] = new JsonLines().push(UTF8.encode('{"key":"\\ud800x"}\n'));
  assert.equal(message.key, "\ud800x");
});

test("empty lines are nothing, and what is no UTF-8 or no JSON is an error", () => {
  assert.deepEqual(new JsonLines().push(UTF8.encode("\n\r\n[1]\n")), [[1]]);
  assert.throws(() => new JsonLines().push(new Uint8Array([0xff, 10])), TypeError);
  assert.throws(() => new JsonLines().push(UTF8.encode("<p>\n")), SyntaxError);
});

const TIME = "2026-11-22T11:40:00.123Z";

test("events become changes, with the cursor behind them", () => {
  const follow = new Follow({ strip: 2 });
  const { changes, cursor } = follow.take({
    type: "events",
    cursor: "e.60",
    events: [
      { op: "put", key: "p/a", revision: 57, time: TIME, content_type: "text/plain", expires: null, value: '{"n":1}' },
      { op: "put", key: "p/b", revision: 58, time: TIME, content_type: "image/png", expires: TIME, size: 2, value_base64: "iVA=" },
      { op: "put", key: "p/c", revision: 58, time: TIME, content_type: "image/png", expires: null, size: 9 },
      { op: "touch", key: "p/a", revision: 59, time: TIME, expires: TIME },
      { op: "delete", key: "p/a", revision: 60, time: TIME, cause: "expire" },
      { op: "of a newer server", key: "p/a", revision: 61, time: TIME },
    ],
  });
  assert.deepEqual([cursor, follow.cursor], ["e.60", "e.60"]);
  const [text, bytes, unread, touch, gone] = changes;
  assert.equal(changes.length, 5);
  assert.deepEqual([text.kind, text.key, text.revision, text.json().n, text.origin], ["put", "a", 57, 1, "live"]);
  assert.equal(text.time.toISOString(), TIME);
  assert.deepEqual([[...bytes.bytes], bytes.size, bytes.expires.toISOString()], [[0x89, 0x50], 2, TIME]);
  assert.deepEqual([unread.hasValue, unread.size], [false, 9]);
  assert.deepEqual(touch, { kind: "touch", key: "a", revision: 59, time: new Date(TIME), expires: new Date(TIME) });
  assert.deepEqual(gone, { kind: "delete", key: "a", revision: 60, time: new Date(TIME), cause: "expire" });
});

test("a snapshot begins with a reset and ends with synced, also when it is empty", () => {
  const follow = new Follow();
  const item = { key: "k", revision: 5, modified: TIME, expires: null, content_type: "t", value: "v" };
  const first = follow.take({ type: "snapshot", cursor: "e.5.aw.1", first: true, items: [item] });
  assert.deepEqual(first.changes.map(({ kind }) => kind), ["reset", "put"]);
  assert.deepEqual(first.changes[0], { kind: "reset", reason: "start", snapshot: true });
  assert.equal(first.changes[1].origin, "snapshot");
  assert.deepEqual(follow.take({ type: "snapshot", cursor: "e.5.b.1", items: [item] }).changes.length, 1);
  const end = { type: "snapshot_end", cursor: "e.5" };
  const kinds = (follow) => follow.take(end).changes.map(({ kind }) => kind);
  assert.deepEqual(follow.take(end).changes, [{ kind: "synced", cursor: "e.5" }]);
  assert.deepEqual(new Follow().take(end).changes, [first.changes[0], { kind: "synced", cursor: "e.5" }]);
  assert.deepEqual(kinds(follow), ["reset", "synced"], "the next snapshot, an empty one");
  assert.deepEqual(kinds(new Follow({ since: "e.5.aw.1" })), ["synced"], "what came before the cursor stays");
  const lost = new Follow();
  lost.take({ type: "gap", cursor: "f.9", reason: "trimmed", oldest: "f.8", snapshot: true });
  assert.deepEqual(kinds(lost), ["synced"], "the gap was the reset");
});

test("a gap is thrown, or told, or followed by a snapshot", () => {
  const gap = { type: "gap", cursor: "f.9", reason: "trimmed", oldest: "f.8", snapshot: false };
  const follow = new Follow({ since: "e.1" });
  assert.throws(() => follow.take(gap), (error) => error instanceof Gap && error.reason === "trimmed" && error.cursor === "f.9");
  assert.equal(follow.cursor, "e.1");
  const going = new Follow({ since: "e.1", onGap: "continue" });
  assert.deepEqual(going.take(gap).changes, [{ kind: "reset", reason: "trimmed", snapshot: false }]);
  assert.equal(going.cursor, "f.9");
  assert.deepEqual(follow.take({ ...gap, snapshot: true }).changes, [{ kind: "reset", reason: "trimmed", snapshot: true }]);
});

test("bookmarks and unknown messages move the cursor alone, closing says when to come back", () => {
  const follow = new Follow();
  assert.deepEqual(follow.take({ type: "bookmark", cursor: "e.7" }), { changes: [], cursor: "e.7" });
  assert.deepEqual(follow.take({ type: "news", cursor: "e.8" }), { changes: [], cursor: "e.8" });
  assert.equal(follow.comeBackAfter, null);
  assert.deepEqual(follow.take({ type: "closing", cursor: "e.9", reason: "stop", retry_ms: 1500 }).cursor, "e.9");
  assert.equal(follow.comeBackAfter, 1.5);
});

test("activity has what it is about", () => {
  const follow = new Follow({ strip: 2 });
  const read = follow.take({ type: "activity", cursor: "e.7", op: "read", key: "p/a", time: TIME });
  assert.deepEqual(read.changes, [{ kind: "activity", op: "read", key: "a", time: new Date(TIME) }]);
});

test("an error in the stream is the server's", () => {
  const error = { type: "error", status: 403, code: "forbidden", detail: "no", hint: "h" };
  assert.throws(() => new Follow().take(error), (thrown) => thrown instanceof Forbidden && thrown.detail === "no");
  const passing = { type: "error", status: 503, code: "feed_unavailable" };
  assert.throws(() => new Follow().take(passing), (thrown) => !(thrown instanceof Forbidden));
});
