// What a machine of a cluster says of itself and of the others.

import assert from "node:assert/strict";
import { test } from "node:test";

import { clusterProblems, clusterText, machineRows } from "../../../../kvserver/console/cluster.js";

const cluster = (changes = {}, others = {}) => ({
  node: "a",
  member: true,
  current: true,
  stopped: null,
  clock_difference_s: 0.5,
  order: { lag: 0 },
  ...changes,
  nodes: ["a", "b", "c"].map((name) => ({ name, member: true, reachable: true, ...(name === "c" ? others : {}) })),
});

test("all is well", () => {
  assert.deepEqual(clusterProblems(cluster()), []);
  assert.deepEqual(clusterProblems(null), []);
  assert.equal(clusterText(cluster()), "a of a b c");
  assert.deepEqual(machineRows(cluster()), [["a, this one", "current"], ["b", "member"], ["c", "member"]]);
  assert.deepEqual(machineRows(null), []);
});

test("another machine is away", () => {
  const silent = cluster({}, { reachable: false });
  assert.deepEqual(clusterProblems(silent), ["machine c does not answer"]);
  assert.deepEqual(machineRows(silent)[2], ["c", "does not answer"]);
  const out = cluster({ order: { lag: 7 } }, { member: false, reachable: false });
  assert.deepEqual(clusterProblems(out), ["machine c is out of the cluster"]);
  assert.equal(clusterText(out), "a of a b (c out), 7 messages behind");
  assert.deepEqual(machineRows(out)[2], ["c", "out"]);
});

test("this machine is away", () => {
  assert.deepEqual(clusterProblems(cluster({ current: false })), ["this machine has lost its cluster: it shows no value"]);
  assert.match(clusterProblems(cluster({ current: false, member: false }))[0], /out of its cluster: .* caught up/);
  const stopped = cluster({ current: false, stopped: "the engine has no stream KV" }, { member: false });
  assert.deepEqual(clusterProblems(stopped), ["this machine has stopped: the engine has no stream KV"]);
  const own = [{ current: false }, { member: false }, { stopped: "why" }].map((changes) => machineRows(cluster(changes))[0][1]);
  assert.deepEqual(own, ["not current", "out", "stopped"]);
});

test("clocks differ", () => {
  assert.deepEqual(clusterProblems(cluster({ clock_difference_s: 0.71 })), ["the clocks of the machines differ by 0.7 s"]);
});
