import assert from "node:assert/strict";
import { test } from "node:test";

import * as client from "../client.js";
import { answer, cut, feed, problem, scripted } from "./scripted.js";

const TIME = "2026-11-22T11:40:00.123Z";
const put = (key, revision, value = "v") => ({ op: "put", key, revision, time: TIME, content_type: "t", expires: null, value });
const events = (cursor, ...list) => ({ type: "events", cursor, events: list });
const bookmark = (cursor) => ({ type: "bookmark", cursor, time: TIME });

/** Watch a server that gives these answers until `count` changes have come; what came, and what was asked. */
async function watched(answers, { count = 1, url, ...options } = {}) {
  const server = await scripted(...answers);
  const states = [];
  const kv = client.connect(server.url, { patience: 3, silence: options.silence ?? 5 });
  const watch = kv.watch("p/", { ...options, onState: ({ state }) => states.push(state) });
  const keys = [];
  let error = null;
  try {
    for await (const change of watch) {
      keys.push(change.key ?? change.kind);
      if (keys.length === count) break;
    }
  } catch (thrown) {
    error = thrown;
  }
  await server.close();
  const since = server.seen.map((each) => new URL(each.url, "http://x").searchParams.get("since"));
  return { keys, error, states, since, seen: server.seen, cursor: watch.cursor };
}

test("what breaks off is resumed behind the last message, without the half line", async () => {
  const half = JSON.stringify(events("e.3", put("p/c", 3))).slice(0, -9);
  const answers = [
    feed(bookmark("e.0"), events("e.2", put("p/a", 1), put("p/b", 2)), half, "end"),
    cut,
    problem(503, "feed_unavailable"),
    feed(events("e.3", put("p/c", 3))),
  ];
  const { keys, since, states, cursor } = await watched(answers, { count: 3 });
  assert.deepEqual(keys, ["p/a", "p/b", "p/c"]);
  assert.deepEqual(since, [null, "e.2", "e.2", "e.2"]);
  assert.deepEqual(states, ["connecting", "live", ...Array(3).fill(["waiting", "connecting"]).flat(), "live", "closed"]);
  assert.equal(cursor, "e.3");
});

test("the cursor is kept through a break before the first message", async () => {
  const { since } = await watched([feed("end"), feed(events("e.9", put("p/a", 9)))], { since: "e.5" });
  assert.deepEqual(since, ["e.5", "e.5"]);
});

test("silence is death", async () => {
  const answers = [feed(bookmark("e.4")), feed(events("e.9", put("p/a", 9)))];
  const { since } = await watched(answers, { silence: 0.3 });
  assert.deepEqual(since, [null, "e.4"]);
});

test("a feed that is closed comes back when the server says", async () => {
  const closing = { type: "closing", cursor: "e.4", reason: "stop", retry_ms: 20 };
  const { since, error } = await watched([feed(closing), feed(events("e.9", put("p/a", 9)))]);
  assert.deepEqual([since, error], [[null, "e.4"], null]);
});

test("lines that a proxy holds back are polled after the second silence", async () => {
  const poll = (cursor, ...messages) =>
    answer(200, { "Content-Type": "application/json" }, JSON.stringify({ cursor, more: false, messages }));
  const answers = [feed(), feed(), poll("e.4", events("e.4", put("p/a", 4))), poll("e.5", events("e.5", put("p/b", 5)))];
  const { keys, since, seen } = await watched(answers, { count: 2, silence: 0.2, since: "e.3", patience: 9 });
  assert.deepEqual(keys, ["p/a", "p/b"]);
  assert.deepEqual(since, ["e.3", "e.3", "e.3", "e.4"]);
  assert.deepEqual(seen.map(({ url }) => new URL(url, "http://x").searchParams.get("wait")), [null, null, "4", "4"]);
});

for (const retry of [0, -5, undefined, null, "soon"]) {
  test(`a feed that is closed again and again comes back ever later, with retry_ms ${retry}, and patience counts`, async () => {
    const closing = { type: "closing", cursor: "e.4", reason: "stop", retry_ms: retry };
    const answers = [...Array(60).fill(feed(closing)), feed(events("e.9", put("p/a", 9)))];
    const { error, keys, seen } = await watched(answers, { patience: 0.65 });
    assert.ok(error instanceof client.NotAnswered, String(error ?? keys));
    assert.ok(seen.length <= 4, `${seen.length} requests, where at least 0.1, 0.2 and 0.4 s are between them`);
    assert.deepEqual(keys, []);
  });
}

test("patience counts where each connection brings an error alone", async () => {
  const error = { type: "error", status: 503, code: "feed_unavailable", detail: "later" };
  const found = await watched([feed(error, "end")], { patience: 0.5 });
  assert.ok(found.error instanceof client.KVError, String(found.error));
});

for (const [what, answers] of [
  ["says nothing", [feed()]],
  ["has no answer", [() => {}]],
  ["says nothing after its first message", [feed(bookmark("e.1"))]],
  [
    "brings bytes that never end a line",
    [
      (_, response) => {
        response.writeHead(200, { "Content-Type": "application/x-ndjson" });
        const timer = setInterval(() => response.write(" "), 20);
        response.on("close", () => clearInterval(timer));
      },
    ],
  ],
]) {
  test(`patience counts on an open connection that ${what}`, { timeout: 20_000 }, async () => {
    const { error, seen, states } = await watched(answers, { patience: 0.4, silence: 60 });
    assert.ok(error instanceof client.NotAnswered, String(error));
    assert.match(error.message, /no message came within 0.4 s/);
    assert.equal(seen.length, 1);
    assert.equal(states.at(-1), "closed");
  });
}

test("the client's patience counts for the first message, and 0 is one connection", { timeout: 20_000 }, async () => {
  const server = await scripted(feed());
  const open = (patience, silence) => client.connect(server.url, { patience, silence }).watch("p/").open();
  await assert.rejects(open(0.3, 60), /no message came within 0.3 s/);
  await assert.rejects(open(0, 0.3), /nothing came for 0.3 s/);
  assert.equal(server.seen.length, 2);
  await server.close();
});

test("a consumer that takes its time costs no patience", async () => {
  const server = await scripted(feed(bookmark("e.0"), events("e.1", put("p/a", 1)), events("e.2", put("p/b", 2))));
  const keys = [];
  for await (const { key } of client.connect(server.url).watch("p/", { patience: 0.3 })) {
    keys.push(key);
    if (keys.length === 2) break;
    await new Promise((next) => setTimeout(next, 600));
  }
  assert.deepEqual(keys, ["p/a", "p/b"]);
  await server.close();
});

/** A WebSocket that opens, and brings these messages. */
function socketWith(...messages) {
  return class {
    constructor() {
      setTimeout(() => {
        this.onopen();
        for (const data of messages) this.onmessage({ data });
      });
    }
    close() {}
  };
}

test("patience counts on a silent WebSocket, and one that brings no JSON is no kvserver's", { timeout: 20_000 }, async () => {
  const watch = (WebSocket) => client.connect("x", { transport: "websocket", WebSocket, patience: 0.3, silence: 60 }).watch();
  await assert.rejects(watch(socketWith()).open(), /no message came within 0.3 s/);
  for (const data of [new Blob(["x"]), new ArrayBuffer(3), "<p>"]) {
    const error = await watch(socketWith(data)).open().catch((caught) => caught);
    assert.ok(error instanceof client.NotAnswered, String(error));
    assert.match(error.message, /no kvserver: a message that is not JSON/);
  }
});

for (const [status, code, name] of [
  [400, "bad_cursor", "BadCursor"],
  [401, "unauthorized", "Unauthorized"],
  [403, "forbidden", "Forbidden"],
]) {
  test(`a ${status} is thrown`, async () => {
    const { error, seen } = await watched([problem(status, code)]);
    assert.equal(error.constructor, client[name]);
    assert.equal(seen.length, 1);
    const inStream = await watched([feed({ type: "error", status, code, detail: "d" })]);
    assert.equal(inStream.error.constructor, client[name]);
  });
}

test("what is no kvserver is not asked again", async () => {
  const page = answer(200, { "Content-Type": "text/html" }, "<p>\n");
  for (const answers of [[page], [answer(302, { Location: "/" })], [answer(404)], [feed("<p>\n")]]) {
    const { error, seen } = await watched(answers);
    assert.ok(error instanceof client.NotAnswered, String(error));
    assert.equal(seen.length, 1);
  }
});

test("patience: that of the client for the first message, and the watch's own afterwards", async () => {
  const first = await watched([problem(503, "unavailable")], { patience: 0.2 });
  assert.ok(first.error instanceof client.Unavailable);
  const later = await watched([feed(bookmark("e.1"), "end"), cut], { patience: 0.3 });
  assert.ok(later.error instanceof client.NotAnswered);
  const server = await scripted(cut);
  await server.close();
  const watch = client.connect(server.url, { patience: 0.2 }).watch();
  await assert.rejects(watch.open(), client.CannotConnect);
});

test("a gap is thrown, with where the feed can go on", async () => {
  const gap = { type: "gap", cursor: "f.9", reason: "epoch", oldest: "f.1", snapshot: false };
  const { error } = await watched([feed(gap)], { since: "e.1" });
  assert.ok(error instanceof client.Gap);
  assert.deepEqual([error.reason, error.cursor], ["epoch", "f.9"]);
  const { keys } = await watched([feed(gap, events("f.10", put("p/a", 10)))], { count: 2, onGap: "continue" });
  assert.deepEqual(keys, ["reset", "p/a"]);
});

test("it ends by close, by an abort with its reason, and with its consumer", async () => {
  const server = await scripted(feed(bookmark("e.1")));
  const kv = client.connect(server.url);
  const closed = await kv.watch("a").open();
  setTimeout(() => closed.close(), 10);
  for await (const change of closed) assert.fail(change.kind);
  assert.equal(closed.state, "closed");
  const stop = new AbortController();
  const aborted = await kv.watch("a", { signal: stop.signal }).open();
  setTimeout(() => stop.abort(new Error("enough")), 10);
  await assert.rejects(async () => {
    for await (const change of aborted) assert.fail(change.kind);
  }, /enough/);
  await server.close();
});

test("subscribe calls in order, one after another, until it is ended", async () => {
  const server = await scripted(feed(events("e.2", put("p/a", 1), put("p/b", 2))));
  const kv = client.connect(server.url);
  const told = [];
  await new Promise((resolve, reject) => {
    const stop = kv.watch("p/").subscribe(
      async ({ key }) => {
        told.push(`${key} begins`);
        await new Promise((next) => setImmediate(next));
        told.push(`${key} ends`);
        if (key === "p/b") resolve(stop());
      },
      { onError: reject },
    );
  });
  assert.deepEqual(told, ["p/a begins", "p/a ends", "p/b begins", "p/b ends"]);
  await server.close();
});

test("an envelope is not divided, and the cursor is behind what was taken whole", async () => {
  const server = await scripted(feed(bookmark("e.0"), events("e.2", put("p/a", 1), put("p/b", 2)), bookmark("e.3")));
  const watch = client.connect(server.url).watch("p/");
  const cursors = [];
  for await (const { key } of watch) {
    cursors.push([key, watch.cursor]);
    if (key === "p/b") break;
  }
  assert.deepEqual(cursors, [["p/a", "e.0"], ["p/b", "e.2"]]);
  const whole = client.connect(server.url).watch("p/");
  for await (const { changes, cursor } of whole.envelopes()) {
    assert.deepEqual([changes.map(({ key }) => key), cursor, whole.cursor], [["p/a", "p/b"], "e.2", "e.2"]);
    break;
  }
  await server.close();
});

test("a mirror swaps when the new state is whole, and tells the difference", async () => {
  const item = (key, revision, value) => ({ key, revision, modified: TIME, expires: null, content_type: "t", value });
  const snapshot = (cursor, ...items) => ({ type: "snapshot", cursor, first: true, items });
  const end = (cursor) => ({ type: "snapshot_end", cursor });
  const gap = { type: "gap", cursor: "f.20", reason: "epoch", oldest: "f.1", snapshot: true };
  let second;
  const answers = [
    feed(snapshot("e.3.x.1", item("a", 1, "1"), item("b", 2, "2")), end("e.3"), events("e.4", put("c", 4)), "end"),
    (request, response) => {
      feed(gap, snapshot("f.20.x.1", item("b", 2, "2"), item("d", 18, "4")))(request, response);
      second = response;
    },
  ];
  const server = await scripted(...answers);
  const mirror = client.connect(server.url).mirror();
  const told = [];
  const stale = new Promise((resolve) => {
    mirror.addEventListener("state", ({ detail }) => detail.state === "stale" && resolve());
  });
  mirror.addEventListener("change", ({ detail }) => told.push([detail.key, detail.old?.revision, detail.new?.revision]));
  await mirror.waitRevision(4, { timeout: 5 });
  assert.deepEqual([...mirror.keys()], ["a", "b", "c"]);
  assert.deepEqual(told, [["a", undefined, 1], ["b", undefined, 2], ["c", undefined, 4]]);
  assert.deepEqual([mirror.get("a").text(), mirror.has("x"), mirror.size, mirror.cursor], ["1", false, 3, "e.4"]);
  await stale;
  while (!second) await new Promise((next) => setTimeout(next, 5));
  assert.deepEqual([...mirror.keys()], ["a", "b", "c"], "the old state stays while the new one is not whole");
  told.length = 0;
  second.write(`${JSON.stringify(end("f.20"))}\n`);
  await mirror.waitRevision(20, { timeout: 5 });
  assert.deepEqual([...mirror].map(([key, { revision }]) => [key, revision]), [["b", 2], ["d", 18]]);
  assert.deepEqual(told, [["a", 1, undefined], ["c", 4, undefined], ["d", undefined, 18]]);
  assert.equal(mirror.state, "live");
  mirror.close();
  await assert.rejects(mirror.waitRevision(99), client.NotAnswered);
  await server.close();
});

test("what ends a mirror is thrown by whoever reads it", async () => {
  const server = await scripted(problem(403, "forbidden"));
  const mirror = client.connect(server.url).mirror();
  const told = new Promise((resolve) => mirror.addEventListener("error", ({ detail }) => resolve(detail)));
  await assert.rejects(mirror.waitSynced(), client.Forbidden);
  assert.ok((await told) instanceof client.Forbidden);
  assert.throws(() => mirror.get("a"), client.Forbidden);
  assert.throws(() => mirror.size, client.Forbidden);
  await server.close();
});
