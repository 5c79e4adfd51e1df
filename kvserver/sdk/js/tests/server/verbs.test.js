/** What needs the real server, at KVSERVER_URL, and is not in the conformance suite of all clients. */

import assert from "node:assert/strict";
import { test } from "node:test";

import { connect, DELETE, Exists, json, KEEP, LockLost, PreconditionFailed } from "../../client.js";

const kv = connect();

for (const key of [".", "..", "a/../b", "./y", "x/", "/x", "a//b", "ü€😀", "q'()*!~$&+,;=:@?#%25\\"]) {
  test(`every verb with the key ${key}`, async () => {
    const { revision } = await kv.create(key, "one");
    await assert.rejects(kv.create(key, "x"), (error) => error instanceof Exists && error.revision === revision);
    assert.equal((await kv.get(key)).text(), "one");
    assert.equal((await kv.head(key)).size, 3);
    assert.equal((await kv.getIfChanged(key, revision)).description, "UNCHANGED");
    assert.equal((await kv.getMany([key])).get(key).revision, revision);
    const { previous, revision: later } = await kv.exchange(key, "{}", { ifRevision: revision });
    assert.deepEqual([previous.text(), previous.revision], ["one", revision]);
    await assert.rejects(kv.exchange(key, "x", { ifRevision: revision }), (error) => error.revision === later);
    assert.deepEqual((await kv.patch(key, { a: 1 })).json(), { a: 1 });
    assert.ok((await kv.touch(key, { ttl: 50 })) > later);
    assert.notEqual((await kv.get(key)).expires, null);
    await assert.rejects(kv.delete(key, { ifRevision: revision }), PreconditionFailed);
    assert.equal(await kv.delete(key), true);
    assert.equal(await kv.delete(key), false);
    assert.equal(await kv.get(key), null);
    assert.equal(await kv.head(key), null);
    assert.deepEqual(await kv.exchange(key, "x").then(({ previous: none }) => none), null);
    assert.equal(await kv.incr(key).catch(({ code }) => code), "not_an_integer");
    assert.equal(await kv.delete(key), true);
  });
}

test("the size of what is sent compressed", async () => {
  await kv.put("compressed", "a".repeat(3000));
  assert.equal((await kv.head("compressed")).size, 3000);
  assert.equal((await kv.get("compressed")).size, 3000);
});

test("below a prefix, keys are as the client names them", async () => {
  const below = kv.within("below/");
  await below.put("a", "1");
  assert.equal((await kv.get("below/a")).text(), "1");
  const watch = await below.watch(["a", "b"], { snapshot: true }).open();
  const { items, next } = await below.page("", { limit: 1, values: true });
  assert.deepEqual([items[0].key, items[0].text(), next], ["a", "1", null]);
  await below.batch([{ op: "put", key: "b", value: "2" }]);
  const seen = [];
  for await (const { kind, key } of watch) {
    seen.push(`${kind} ${key ?? ""}`);
    if (key === "b") break;
  }
  assert.deepEqual(seen, ["reset ", "put a", "synced ", "put b"]);
  const names = [];
  for await (const key of below.keys()) names.push(key);
  assert.deepEqual(names, ["a", "b"]);
  assert.equal((await below.deletePrefix("")).count, 2, "a client below a prefix deletes nothing else");
});

test("sixteen writers that update one key lose nothing", async () => {
  const once = () => kv.update("sum", (entry) => ({ n: (entry?.json().n ?? 0) + 1 }));
  await Promise.all(Array.from({ length: 16 }, async () => (await once(), await once())));
  assert.equal((await kv.get("sum")).json().n, 32);
});

test("an update keeps type and expiry, or sets them, or deletes", async () => {
  await kv.put("kept", "1", { contentType: "text/x", ttl: 50 });
  const before = await kv.get("kept");
  await kv.update("kept", (entry) => `${entry.text()}2`);
  const after = await kv.get("kept");
  assert.deepEqual([after.text(), after.contentType, after.expires], ["12", "text/x", before.expires]);
  await kv.update("kept", () => json("x"), { ttl: null, contentType: "application/json" });
  const changed = await kv.get("kept");
  assert.deepEqual([changed.json(), changed.contentType, changed.expires], ["x", "application/json", null]);
  assert.equal((await kv.update("kept", () => KEEP)).revision, changed.revision);
  assert.equal(await kv.update("kept", () => DELETE), null);
  assert.equal(await kv.get("kept"), null);
});

test("wait", async () => {
  const waiting = kv.wait("later", (entry) => entry?.text() === "yes", { timeout: 20 });
  await kv.put("later", "no");
  await kv.put("later", "yes");
  assert.equal((await waiting).text(), "yes");
  assert.equal(await kv.wait("never", (entry) => entry === null), null);
  await assert.rejects(kv.wait("never", undefined, { timeout: 0.05 }), { name: "TimeoutError" });
});

test("a mirror has one's own writes", async () => {
  const mirror = await kv.mirror("mirrored/").waitSynced({ timeout: 20 });
  for (let n = 0; n < 20; n++) {
    const { revision } = await kv.put("mirrored/n", String(n));
    await mirror.waitRevision(revision, { timeout: 20 });
    assert.equal(mirror.get("mirrored/n").text(), String(n));
  }
  const touched = await kv.touch("mirrored/n", { ttl: 60 });
  await mirror.waitRevision(touched, { timeout: 20 });
  assert.deepEqual([mirror.get("mirrored/n").revision, mirror.get("mirrored/n").expires === null], [touched, false]);
  await kv.delete("mirrored/n");
  await kv.wait("mirrored/n", (entry) => entry === null);
  mirror.close();
});

test("a lock has one holder at a time, in turn, with a fence that grows", async () => {
  let holders = 0;
  const fences = [];
  const work = (lock) => {
    assert.equal(++holders, 1);
    assert.ok(lock.held);
    fences.push(lock.fence);
    return new Promise((resolve) => setTimeout(() => resolve(holders--), 20));
  };
  await Promise.all(Array.from({ length: 4 }, () => kv.withLock("lock", work)));
  assert.deepEqual(fences, [...fences].sort((a, b) => a - b));
  assert.equal(new Set(fences).size, 4);
});

test("a lock is kept beyond its time to live, and tells its loss", async () => {
  const lock = await kv.lock("kept lock", { ttl: 1.5 });
  await new Promise((resolve) => setTimeout(resolve, 2500));
  assert.ok(lock.held, "it was touched");
  await kv.put("kept lock", "stolen");
  await new Promise((resolve) => lock.signal.addEventListener("abort", resolve));
  assert.equal(lock.held, false);
  assert.ok(lock.signal.reason instanceof LockLost);
  assert.match(lock.signal.reason.message, /^The lock was lost: (its key was deleted|another holds it)$/);
  await assert.rejects(lock.release(), LockLost);
  await kv.delete("kept lock");
});
