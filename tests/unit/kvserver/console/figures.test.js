// The ring of the feed, its rates, and what two statuses say.

import assert from "node:assert/strict";
import { test } from "node:test";

import { compare, quantile } from "../../../../kvserver/console/figures.js";
import { kindOfChange, Rate, Ring, Sizes, walLine } from "../../../../kvserver/console/ring.js";

test("a ring keeps the last rows, and lists the newest first", () => {
  const ring = new Ring(3);
  for (const row of [1, 2, 3, 4, 5]) ring.push(row);
  assert.deepEqual(ring.list(() => true), [5, 4, 3]);
  assert.deepEqual(ring.list((row) => row % 2), [5, 3]);
  assert.equal(ring.size, 3);
  ring.clear();
  assert.deepEqual(ring.list(() => true), []);
});

test("sizes of the oldest keys are forgotten", () => {
  const sizes = new Sizes(2);
  assert.equal(sizes.set("__proto__", 1), undefined);
  assert.equal(sizes.set("__proto__", 2), 1);
  sizes.set("b", 1);
  sizes.set("c", 1);
  assert.equal(sizes.set("__proto__", 3), undefined);
});

test("rates of whole seconds", () => {
  const rate = new Rate(4);
  rate.add(5, 10.2);
  rate.add(5, 10.9);
  rate.add(1, 12);
  assert.deepEqual(rate.counts(13), [10, 0, 1]);
  assert.deepEqual(rate.counts(99), [0, 0, 0]);
});

test("kinds of changes, and MemoryKV's lines", () => {
  assert.deepEqual(
    [{ kind: "put" }, { kind: "delete", cause: "prefix" }, { kind: "delete", cause: "expire" }, { kind: "activity" }].map(kindOfChange),
    ["put", "delete", "expire", "reads"],
  );
  const line = (change) => walLine({ change, text: () => "v" });
  assert.equal(line({ kind: "put", key: "k" }), "Insert { key: k, value: v }");
  assert.equal(line({ kind: "delete", key: "k", cause: "evict" }), "Delete { key: k }");
  assert.equal(line({ kind: "activity", op: "list_prefix", prefix: "p" }), "ListPrefix { prefix: p}");
  assert.equal(line({ kind: "touch", key: "k" }), null);
});

test("quantiles of a histogram", () => {
  const bounds = [1, 2, 4];
  assert.equal(quantile(0.5, bounds, [0, 0, 0, 0]), null);
  assert.equal(quantile(0.5, bounds, [10, 0, 0, 0]), 0.5);
  assert.equal(quantile(0.5, bounds, [0, 2, 2, 0]), 2);
  assert.equal(quantile(0.99, bounds, [0, 0, 0, 3]), 4);
});

test("figures per second, also over a restart", () => {
  const status = (uptime, count) => ({
    uptime_s: uptime,
    shards: [{ operations: { put: count } }, { operations: { put: count } }],
    gateways: [{ clients: 2 }, { clients: 1 }],
    memory: { used: 7 },
    feed: { deliveries: count },
    traffic: { requests: { "2xx": count }, durations: { bounds_s: [1], counts: [count, 0] } },
  });
  const between = compare(status(10, 100), status(12, 110));
  assert.deepEqual([between.requests["2xx"], between.changes.put, between.deliveries, between.clients], [5, 10, 5, 3]);
  assert.equal(compare(status(10, 100), status(2, 6)).requests["2xx"], 3);
});
