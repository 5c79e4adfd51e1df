// Counts of folders: which are asked for, when again, and what is told of them.

import assert from "node:assert/strict";
import { test } from "node:test";

import { FolderCounts } from "../../../../kvserver/console/counts.js";

const folder = (key) => ({ key, isFolder: true, level: null, changedAt: 0, known: null });

/** Return counts of a store, what it was asked, and what resolves once `times` folders were counted. */
function counting(store, isInSight = () => true) {
  const asked = [];
  let told = () => {};
  const read = async (prefix, limit) => {
    asked.push([prefix, limit]);
    const keys = store[prefix];
    if (keys === undefined) throw new Error("not allowed");
    return { count: Math.min(keys, limit), isAll: keys <= limit };
  };
  const counts = new FolderCounts(read, isInSight, () => told());
  const counted = (times) =>
    new Promise((resolve) => {
      told = () => (times -= 1) || resolve();
    });
  return { counts, asked, counted };
}

test("a folder is counted up to a bound, once however often it is shown", async () => {
  const { counts, asked, counted } = counting({ "a/": 1000, "b/": 1001, "c/": 1 });
  const folders = ["a/", "b/", "c/"].map(folder);
  const all = counted(3);
  for (let again = 0; again < 3; again++) for (const each of folders) assert.equal(counts.show(each), null);
  await all;
  assert.deepEqual(asked, [["a/", 1000], ["b/", 1000], ["c/", 1000]]);
  const said = folders.map((each) => counts.show(each));
  assert.deepEqual(said.map(({ text }) => text), ["1,000", "1,000+", "1"]);
  assert.deepEqual(said.map(({ words }) => words), ["1,000 keys", "at least 1,000 keys", "1 key"]);
});

test("a folder that has left before its turn is not counted", async () => {
  const { counts, asked, counted } = counting({ "a/": 1, "b/": 2 }, ({ key }) => key === "b/");
  const one = counted(1);
  for (const key of ["a/", "b/"]) counts.show(folder(key));
  await one;
  assert.deepEqual(asked, [["b/", 1000]]);
});

test("a folder is counted again after a change, but not at once", async () => {
  const store = { "a/": 1 };
  const { counts, asked, counted } = counting(store);
  const node = folder("a/");
  let all = counted(1);
  counts.show(node);
  await all;
  store["a/"] = 2;
  node.changedAt = node.known.at + 1;
  assert.equal(counts.show(node, node.known.at + 1999).text, "1");
  all = counted(1);
  assert.equal(counts.show(node, node.known.at + 2001).text, "1");
  await all;
  assert.equal(counts.show(node).text, "2");
  assert.equal(asked.length, 2);
});

test("what cannot be counted is asked for half a minute later", async () => {
  const { counts, asked, counted } = counting({});
  const node = folder("a/");
  const all = counted(1);
  assert.equal(counts.show(node), null);
  await all;
  node.changedAt = node.known.at + 1;
  assert.equal(counts.show(node, node.known.at + 29_000), null);
  assert.equal(asked.length, 1);
});

test("a folder that is loaded wholly needs no question", () => {
  const { counts, asked } = counting({});
  const keys = [{ isFolder: false }, { isFolder: false }];
  assert.equal(counts.show({ ...folder("a/"), level: { isWhole: true, nodes: keys } }).text, "2");
  assert.equal(asked.length, 0);
});
