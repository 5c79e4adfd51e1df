import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import * as client from "../client.js";
import { done, feed, scripted } from "./scripted.js";

/** Each call, with `options` at their place. */
const CALLS = {
  get: (kv, options) => kv.get("k", options),
  head: (kv, options) => kv.head("k", options),
  getIfChanged: (kv, options) => kv.getIfChanged("k", 5, options),
  getMany: (kv, options) => kv.getMany(["k"], options),
  put: (kv, options) => kv.put("k", "x", options),
  create: (kv, options) => kv.create("k", "x", options),
  exchange: (kv, options) => kv.exchange("k", "x", options),
  patch: (kv, options) => kv.patch("k", {}, options),
  incr: (kv, options) => kv.incr("k", 1, options),
  touch: (kv, options) => kv.touch("k", { ttl: 5, ...options }),
  delete: (kv, options) => kv.delete("k", options),
  update: (kv, options) => kv.update("k", () => "x", options),
  page: (kv, options) => kv.page("k", options),
  scan: async (kv, options) => kv.scan("k", options),
  keys: (kv, options) => kv.keys("k", options).next(),
  count: (kv, options) => kv.count("k", options),
  deletePrefix: (kv, options) => kv.deletePrefix("k", options),
  batch: (kv, options) => kv.batch([{ op: "get", key: "k" }], options),
  commit: (kv, options) => kv.atomic().get("k").commit(options),
  watch: async (kv, options) => kv.watch("k", options),
  envelopes: (kv, options) => kv.watch("k").envelopes(options).next(),
  subscribe: async (kv, options) => kv.watch("k").subscribe(() => {}, options),
  wait: (kv, options) => kv.wait("k", undefined, options),
  mirror: async (kv, options) => kv.mirror("k", options),
  lock: (kv, options) => kv.lock("k", options),
  withLock: (kv, options) => kv.withLock("k", () => {}, options),
  status: (kv, options) => kv.status(options),
  whoami: (kv, options) => kv.whoami(options),
  ping: (kv, options) => kv.ping(options),
  ticket: (kv, options) => kv.ticket("sse", options),
};

/** Assert that `call` is refused with a TypeError and that nothing is sent. */
async function refused(call, text) {
  const server = await scripted(done(7));
  try {
    await assert.rejects(call(client.connect(server.url)), (error) => error instanceof TypeError && text.test(error.message));
    assert.equal(server.seen.length, 0);
  } finally {
    await server.close();
  }
}

for (const [name, call] of Object.entries(CALLS)) {
  test(`${name} refuses an option that it does not have, and names those that it has`, async () => {
    await refused((kv) => call(kv, { tll: 5 }), /has no option tll; there are \w+/);
    await refused((kv) => call(kv, { ifrevision: 5 }), /has no option ifrevision; there are \w+/);
  });
}

test("each method whose types say that it has options is among them", () => {
  const types = readFileSync(new URL("../client.d.ts", import.meta.url), "utf8");
  const declared = [...types.matchAll(/^ {2}(\w+)(?:<\w+>)?\([^;]*\boptions\??: [^;]*\): /gm)].map(([, name]) => name);
  const known = [...Object.keys(CALLS), "waitSynced", "waitRevision", "withOptions"];
  const missing = declared.filter((name) => !known.includes(name) && !["constructor", "check"].includes(name));
  assert.ok(declared.length > 25);
  assert.deepEqual(missing, []);
});

test("a mirror's waits refuse an option that they do not have", async () => {
  const server = await scripted(feed({ type: "bookmark", cursor: "e.1" }));
  const mirror = client.connect(server.url).mirror("k");
  await assert.rejects(mirror.waitSynced({ timeot: 5 }), /waitSynced has no option timeot; there are timeout, signal/);
  await assert.rejects(mirror.waitRevision(1, { timeot: 5 }), /waitRevision has no option timeot; there are timeout, signal/);
  mirror.close();
  await server.close();
});

test("an operation of a batch has the members of its verb alone", async () => {
  const batch = (op) => (kv) => kv.batch([{ op: "put", key: "a", value: "x" }, op]);
  await refused(batch({ op: "put", key: "k", value: "x", tll: 5 }), /the operation put has no tll; there are op, key, value/);
  await refused(batch({ op: "delete", key: "k", ttl: 5 }), /the operation delete has no ttl/);
  await refused(batch({ op: "incr", key: "k", ttl: 5 }), /the operation incr has no ttl; there are .*ttlIfNew/);
  await refused(batch({ op: "move", key: "k" }), /there is no operation move; there are get, put/);
  await refused((kv) => kv.atomic().put("k", "x", { tll: 5 }).commit(), /the operation put has no tll/);
});

test("options that are no object, and options at the place of a prefix, are refused", async () => {
  await refused((kv) => kv.put("k", "x", 60), /the options of put are an object, not number/);
  await refused((kv) => kv.get("k", null), /the options of get are an object, not null/);
  await refused((kv) => kv.create("k", "x", { ifRevision: 5 }), /create has no option ifRevision/);
  await refused((kv) => kv.page({ limit: 5 }), /a prefix is a string, not object/);
  await refused((kv) => kv.count({}), /a prefix is a string, not object/);
  await refused(async (kv) => kv.scan({ values: true }), /a prefix is a string, not object/);
  await refused(async (kv) => kv.watch({ snapshot: true }), /a prefix is a string, not object/);
  await refused(async (kv) => kv.within(5), /a prefix is a string, not number/);
});

test("a ticket for requests is asked for with grants and ttl", async () => {
  const server = await scripted((request, response) => {
    response.writeHead(201, { "Content-Type": "application/json" });
    response.end('{"ticket":"kvd_x","expires":"2026-11-22T11:40:00.123Z"}');
  });
  const grants = [{ prefix: "rooms/7/", allow: ["read", "feed"] }];
  const found = await client.connect(server.url).ticket("kv", { grants, ttl: 60 });
  assert.equal(found.ticket, "kvd_x");
  assert.deepEqual(JSON.parse(server.seen[0].body), { for: "kv", grants, ttl: 60 });
  await server.close();
});
