// What a machine of a cluster says of itself and of the others, in words. Pure.

import { countOf } from "./values.js";

const MOST_DIFFERENCE_S = 0.5;

/** Return which machine this is, who its members are, and who is out. */
export function clusterText({ node, nodes, order }) {
  const names = (isMember) => nodes.filter(({ member }) => member === isMember).map(({ name }) => name).join(" ");
  const out = names(false);
  return `${node} of ${names(true) || "none"}${out ? ` (${out} out)` : ""}${order.lag ? `, ${countOf(order.lag, "message")} behind` : ""}`;
}

/** Return what is wrong, as this machine sees it; nothing without a cluster. */
export function clusterProblems(cluster) {
  if (!cluster) return [];
  if (cluster.stopped) return [`this machine has stopped: ${cluster.stopped}`]; // it hears of nobody then
  const found = [];
  if (!cluster.member) found.push("this machine is out of its cluster: it shows no value until it has caught up");
  else if (!cluster.current) found.push("this machine has lost its cluster: it shows no value");
  for (const { name, member, reachable } of cluster.nodes) {
    if (name === cluster.node) continue;
    if (!member) found.push(`machine ${name} is out of the cluster`);
    else if (!reachable) found.push(`machine ${name} does not answer`);
  }
  if (cluster.clock_difference_s > MOST_DIFFERENCE_S) found.push(`the clocks of the machines differ by ${cluster.clock_difference_s.toFixed(1)} s`);
  return found;
}

/** Return a row for each machine: its name, and what this one knows of it. */
export function machineRows(cluster) {
  if (!cluster) return [];
  const own = cluster.stopped ? "stopped" : !cluster.member ? "out" : cluster.current ? "current" : "not current";
  return cluster.nodes.map(({ name, member, reachable }) => {
    if (name === cluster.node) return [`${name}, this one`, own];
    return [name, member ? (reachable ? "member" : "does not answer") : "out"];
  });
}
