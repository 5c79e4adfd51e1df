// The tree of keys against a plain list of them.

import assert from "node:assert/strict";
import { test } from "node:test";

import { compareKeys, Tree } from "../../../../kvserver/console/tree.js";

const utf8 = new TextEncoder();
const item = (key, revision = 1) => ({ key, revision, size: 1, contentType: "", expires: null });
const put = (key, revision) => ({ kind: "put", ...item(key, revision) });
const shown = (tree) => tree.rows().map(({ node, level }) => (node ? node.key : `more ${level.prefix}`));

test("keys have the server's order", () => {
  const keys = ["", "/", "a", "a/", "a/b", "ab", "é", "\uffff", "\ue000", "🙂", "🙃a", "z"];
  const byBytes = [...keys].sort((one, other) => Buffer.compare(utf8.encode(one), utf8.encode(other)));
  assert.deepEqual([...keys].sort(compareKeys), byBytes);
});

test("pages, then changes", () => {
  const tree = new Tree("/");
  assert.deepEqual(shown(tree), ["more "]);
  tree.addPage(tree.root, { items: [item("b")], prefixes: ["a/"], next: "b" });
  assert.deepEqual(shown(tree), ["a/", "b", "more "]);
  tree.take(put("c", 2), 1);
  assert.deepEqual(shown(tree), ["a/", "b", "more "], "beyond what is loaded");
  tree.take(put("aa", 3), 1);
  assert.deepEqual(shown(tree), ["a/", "aa", "b", "more "]);
  tree.addPage(tree.root, { items: [item("c", 2)], prefixes: [], next: null });
  tree.take(put("new/x", 4), 1);
  assert.deepEqual(shown(tree), ["a/", "aa", "b", "c", "new/"]);
  const folder = tree.root.get("a/", true);
  const level = tree.setOpen(folder, true);
  tree.addPage(level, { items: [item("a/", 1), item("a/x", 9)], prefixes: ["a//"], next: null });
  assert.deepEqual(shown(tree).slice(0, 4), ["a/", "a/", "a//", "a/x"]);
  tree.take({ kind: "delete", key: "a/x", revision: 8 }, 1);
  assert.ok(shown(tree).includes("a/x"), "an older change than what was read");
  assert.deepEqual(tree.take({ kind: "delete", key: "a/x", revision: 10 }, 1), [folder]);
  assert.ok(!shown(tree).includes("a/x"));
  tree.take({ kind: "touch", key: "b", revision: 11, expires: new Date(5) }, 1);
  assert.equal(tree.root.get("b", false).item.expires.getTime(), 5);
  tree.removeFolder(folder);
  assert.deepEqual(shown(tree), ["aa", "b", "c", "new/"]);
  assert.equal(tree.setOpen(tree.root.get("new/", true), true).depth, 2);
});

test("what changes while a page comes is in the tree, whether the page has it or not", () => {
  const tree = new Tree("/");
  tree.root.isLoading = true;
  tree.take({ kind: "delete", key: "k", revision: 5 }, 1);
  tree.take(put("new", 6), 1);
  tree.take({ kind: "touch", key: "new", revision: 7, expires: new Date(1) }, 1);
  tree.take(put("folder/x", 8), 1);
  tree.take({ kind: "delete", key: "gone/x", revision: 9 }, 1);
  const doubtful = tree.addPage(tree.root, { items: [item("b", 4), item("k", 4)], prefixes: ["gone/"], next: null });
  assert.deepEqual(shown(tree), ["b", "folder/", "gone/", "new"]);
  assert.deepEqual(doubtful.map(({ key }) => key), ["gone/"]);
  assert.equal(tree.root.get("new", false).item.revision, 7);
  assert.deepEqual([tree.root.late, tree.root.isLoading], [[], false]);
});

test("names that objects have are ordinary keys", () => {
  const tree = new Tree("/");
  tree.addPage(tree.root, { items: [], prefixes: [], next: null });
  for (const [at, key] of ["__proto__", "constructor", "/lead", "trail/", "toString"].entries()) tree.take(put(key, at + 1), 1);
  assert.deepEqual(shown(tree), ["/", "__proto__", "constructor", "toString", "trail/"]);
});

test("random changes leave what a list of keys says", () => {
  const names = ["a", "a/", "a/b", "a/b/c", "b", "/", "//x", "a/c"];
  let seed = 1;
  const random = (below) => (seed = (seed * 48_271) % 2_147_483_647) % below;
  for (let round = 0; round < 300; round++) {
    const tree = new Tree("/");
    tree.addPage(tree.root, { items: [], prefixes: [], next: null });
    const keys = new Set();
    for (let revision = 1; revision < 20; revision++) {
      const key = names[random(names.length)];
      const isPut = random(3) > 0;
      const doubtful = tree.take(isPut ? put(key, revision) : { kind: "delete", key, revision }, revision);
      if (isPut) keys.add(key);
      else keys.delete(key);
      for (const folder of doubtful) if (![...keys].some((each) => each.startsWith(folder.key))) tree.removeFolder(folder);
    }
    const top = [...keys].map((key) => (key.includes("/") ? key.slice(0, key.indexOf("/") + 1) : key));
    assert.deepEqual(shown(tree), [...new Set(top)].sort());
  }
});
