import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { BadRequest, Entry, KVError, connect, json } from "../client.js";
import { done, scripted } from "./scripted.js";

let server, kv;
before(async () => {
  server = await scripted(done(7, 201));
  kv = connect(server.url);
});
after(() => server.close());

const STORED = [
  ["text", "grün", "grün", "text/plain; charset=utf-8"],
  ["empty text", "", "", "text/plain; charset=utf-8"],
  ["bytes", new Uint8Array([65, 0, 66]).subarray(0, 1), "A", "application/octet-stream"],
  ["a buffer", new Uint8Array([65]).buffer, "A", "application/octet-stream"],
  ["a typed Blob", new Blob(["x"], { type: "image/png" }), "x", "image/png"],
  ["a Blob", new Blob(["x"]), "x", "application/octet-stream"],
  ["an object", { on: true }, '{"on":true}', "application/json"],
  ["an array", [1, null], "[1,null]", "application/json"],
  ["a number", 7, "7", "application/json"],
  ["a BigInt", 2n ** 62n, "4611686018427387904", "application/json"],
  ["false", false, "false", "application/json"],
  ["a Date", new Date(0), '"1970-01-01T00:00:00.000Z"', "application/json"],
  ["marked null", json(null), "null", "application/json"],
  ["marked text", json("x"), '"x"', "application/json"],
];

for (const [what, value, body, type] of STORED) {
  test(`${what} is stored as ${type}`, async () => {
    assert.deepEqual(await kv.put("k", value), { revision: 7, created: true });
    const sent = server.seen.at(-1);
    assert.equal(sent.body, body);
    assert.equal(sent.headers["content-type"], type);
  });
}

test("a given type wins", async () => {
  await kv.put("k", { on: true }, { contentType: "text/x" });
  assert.equal(server.seen.at(-1).headers["content-type"], "text/x");
});

test("what is no value is refused before it is sent", async () => {
  const count = server.seen.length;
  for (const value of [null, undefined, () => 1, Symbol("x"), new Map(), new (class A {})(), NaN, Infinity, { a: NaN }]) {
    await assert.rejects(kv.put("k", value), TypeError);
  }
  await assert.rejects(kv.put("k", "\ud800"), BadRequest);
  await assert.rejects(kv.put("k", "x", { contentType: "a\r\nb" }), BadRequest);
  await assert.rejects(kv.put("k", "x", { contentType: "" }), BadRequest);
  await assert.rejects(kv.put("k", "x", { ttl: 0 }), BadRequest);
  await assert.rejects(kv.put("k", "x", { ttl: "3" }), TypeError);
  await assert.rejects(kv.put("k", "x", { ttl: 3, expires: new Date() }), BadRequest);
  await assert.rejects(kv.put("k", "x", { expires: new Date(NaN) }), BadRequest);
  await assert.rejects(kv.put("k", "x", { ifRevision: 1.5 }), BadRequest);
  await assert.rejects(kv.incr("k", 1.5), BadRequest);
  await assert.rejects(kv.incr("k", 2 ** 53), BadRequest);
  await assert.rejects(kv.touch("k"), BadRequest);
  await assert.rejects(kv.touch("k", { ttl: 3, persist: true }), BadRequest);
  await assert.rejects(kv.batch([{ op: "put", key: "k", value: "x", ttll: 3 }]), /no ttll/);
  assert.equal(server.seen.length, count);
});

test("lifetimes and conditions as the API has them", async () => {
  const urlOf = async (options) => {
    await kv.put("k", "x", options);
    const { url, headers } = server.seen.at(-1);
    return [url, headers["if-match"], headers["if-none-match"]];
  };
  assert.deepEqual(await urlOf({ ttl: 0.0001 }), ["/v1/kv/k?ttl=0.001", undefined, undefined]);
  assert.deepEqual(await urlOf({ ttl: 1.5 }), ["/v1/kv/k?ttl=1.5", undefined, undefined]);
  assert.deepEqual(await urlOf({ ifRevision: 5 }), ["/v1/kv/k", '"5"', undefined]);
  assert.deepEqual(await urlOf({ ifRevision: 0 }), ["/v1/kv/k", undefined, "*"]);
  const expires = new Date("2030-01-01T00:00:00.123Z");
  assert.deepEqual(await urlOf({ expires }), ["/v1/kv/k?expires=2030-01-01T00%3A00%3A00.123Z", undefined, undefined]);
});

test("increments beyond 2^53 are sent digit by digit, in batches too", async () => {
  await kv.incr("k", 9007199254740993n).catch((error) => assert.ok(error instanceof KVError));
  assert.equal(server.seen.at(-1).url, "/v1/kv/k?incr=9007199254740993");
  await kv.batch([{ op: "incr", key: "k", by: -9007199254740993n }]).catch((error) => assert.ok(error instanceof KVError));
  assert.equal(server.seen.at(-1).body, '{"atomic":false,"ops":[{"op":"incr","key":"k","by":-9007199254740993}]}');
  await kv.put("k", { id: 2n ** 64n, text: "1n" });
  assert.equal(server.seen.at(-1).body, '{"id":18446744073709551616,"text":"1n"}');
});

test("an entry keeps its bytes: no mark at the beginning is lost, no digit of JSON unless it is parsed", () => {
  const facts = { key: "k", revision: 1, contentType: "text/plain" };
  const marked = new Entry({ ...facts, value: new Uint8Array([0xef, 0xbb, 0xbf, 65]) });
  assert.equal(marked.text(), "\ufeffA");
  assert.deepEqual([...new Entry({ ...facts, value: "\ufeffA" }).bytes], [0xef, 0xbb, 0xbf, 65]);
  assert.equal(new Entry({ ...facts, value: "12345678901234567890" }).text(), "12345678901234567890");
  assert.throws(() => new Entry({ ...facts, value: new Uint8Array([0xff]) }).text(), TypeError);
  const unread = new Entry({ ...facts, size: 3 });
  assert.equal(unread.hasValue, false);
  assert.throws(() => unread.bytes, /values: true/);
  const empty = new Entry({ ...facts, value: "" });
  assert.deepEqual([empty.hasValue, empty.size, empty.text()], [true, 0, ""]);
  assert.equal(empty.touched(9, null).etag, '"9"');
});
