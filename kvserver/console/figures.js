// From two answers of /v1/status to what happened between them. Pure.

/** Return what grew between two flat objects of counters, each per second. A counter that fell was begun anew. */
function growth(before, after, seconds) {
  return Object.fromEntries(
    Object.entries(after).map(([name, count]) => [name, Math.max(0, count - (before?.[name] ?? 0)) / seconds]),
  );
}

/** Return the sum of the shards' operations by kind. */
export function operationsOf({ shards }) {
  const sums = {};
  for (const { operations } of shards) for (const [kind, count] of Object.entries(operations)) sums[kind] = (sums[kind] ?? 0) + count;
  return sums;
}

/**
 * Return the duration in seconds below which a share of requests lies, by the counts of a histogram; null without any.
 * Within a bucket they are taken as spread evenly; the last bucket, which has no end, counts as its start.
 */
export function quantile(share, bounds, counts) {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (!total) return null;
  let left = share * total;
  for (const [at, count] of counts.entries()) {
    if (left <= count && count) {
      const start = at ? bounds[at - 1] : 0;
      return at < bounds.length ? start + (bounds[at] - start) * (left / count) : start;
    }
    left -= count;
  }
  return bounds.at(-1);
}

/** Return what happened between two answers: figures per second, quantiles in seconds, and what is now. */
export function compare(before, after) {
  const seconds = after.uptime_s - before.uptime_s;
  const isSame = seconds > 0;
  const length = isSame ? seconds : Math.max(after.uptime_s, 0.001);
  const known = isSame ? before : null;
  const { bounds_s: bounds, counts } = after.traffic.durations;
  const old = known?.traffic.durations.counts ?? [];
  const between = counts.map((count, at) => Math.max(0, count - (old[at] ?? 0)));
  const clients = after.gateways.reduce((sum, gateway) => sum + gateway.clients, 0);
  return {
    requests: growth(known?.traffic.requests, after.traffic.requests, length),
    changes: growth(known ? operationsOf(known) : null, operationsOf(after), length),
    deliveries: growth(known?.feed, after.feed, length).deliveries,
    median: quantile(0.5, bounds, between),
    p99: quantile(0.99, bounds, between),
    memory: after.memory.used,
    clients,
  };
}
