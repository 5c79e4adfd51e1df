/** What programs write, for the checker of types alone; it is never run. */

import { connect, json, slotOf, DELETE, KEEP, UNCHANGED } from "../client.js";
import type { Change, Client, Entry, Mirror, Result, Written } from "../client.js";
import { BatchFailed, Exists, Gap, KVError, OutcomeUnknown, PreconditionFailed, Refused } from "../client.js";

const kv: Client = connect("localhost:9120", { token: async () => "secret", timeout: 3, transport: "lines" });
const page: Client = connect();

async function oneKey(): Promise<void> {
  const written: Written = await kv.put("flags/beta", { on: true }, { ttl: 60, ifRevision: 0 });
  await kv.put("picture", new Uint8Array([1, 2]), { contentType: "image/png", expires: new Date() });
  await kv.put("text", "text");
  await kv.put("null", json(null));
  const entry: Entry | null = await kv.get("flags/beta", { range: [0, 9] });
  const on: boolean = entry?.json().on ?? false;
  const found = await kv.getIfChanged("flags/beta", written.revision);
  if (found !== UNCHANGED && found !== null) console.log(found.bytes.length, found.expires?.toISOString(), on);
  const count: bigint = await kv.incr("visits", 10n ** 17n, { ttlIfNew: 3600 });
  const updated = await kv.update("n", (before) => (before ? String(Number(before.text()) + 1) : "1"), { ttl: KEEP });
  await kv.update("n", async (before) => (before ? DELETE : KEEP));
  const revision: number = await kv.touch("n", { persist: true });
  const gone: boolean = await kv.delete("n", { ifRevision: revision });
  const { previous } = await kv.exchange("leader", "me");
  const patched = await kv.patch("flags/beta", { on: null }, { ifRevision: written.revision });
  console.log(count, updated?.etag, gone, previous?.text(), patched.revision);
}

async function manyKeys(signal: AbortSignal): Promise<void> {
  const { items, next } = await kv.page("a/", { limit: 10, delimiter: "/", after: null });
  console.log(items[0]?.created, next?.length);
  for await (const item of kv.scan("a/", { values: true, signal })) console.log(item.text());
  for await (const key of kv.within("a/").keys()) console.log(key.length);
  const results: Result[] = await kv.batch([
    { op: "put", key: "a", value: [1, 2], ttl: 3 },
    { op: "incr", key: "b", by: 2n },
    { op: "touch", key: "a", persist: true },
    { op: "get", key: "a", ifRevision: 7 },
  ]);
  console.log(results[0]?.check().revision, slotOf("{tag}a"));
  await kv.atomic().check("{a}1", 0).put("{a}2", "x").incr("{a}3").commit({ signal });
  const found: Map<string, Entry | null> = await kv.getMany(new Set(["a", "b"]));
  console.log(found.get("a")?.size, (await kv.deletePrefix("a/", { dryRun: true })).count);
}

async function feed(): Promise<void> {
  const watch = await kv.watch(["a/", "b/"], { snapshot: true, since: "x", ops: ["put", "delete:expire"] }).open();
  for await (const change of watch) show(change);
  for await (const { changes, cursor } of kv.watch(null, { keys: "one" }).envelopes()) console.log(changes.length, cursor);
  const stop: () => void = page.watch("a/").subscribe(show, { onError: console.error });
  stop();
  const mirror: Mirror = await page.mirror("a/").waitSynced({ timeout: 5 });
  for (const [key, entry] of mirror) console.log(key, entry.text());
  mirror.addEventListener("change", (event) => console.log((event as CustomEvent).detail.key));
  const entry = await kv.wait("ready", (held) => held?.text() === "yes", { timeout: 5 });
  console.log(entry?.revision, await kv.withLock("job", async (lock) => lock.fence));
}

function show(change: Change): string {
  switch (change.kind) {
    case "put":
      return change.origin + change.key + change.text() + change.time.toISOString();
    case "touch":
      return change.key + (change.expires?.toISOString() ?? "never");
    case "delete":
      return change.key + change.cause;
    case "reset":
      return change.reason;
    case "synced":
      return change.cursor;
    case "activity":
      return change.op + (change.key ?? change.prefix ?? change.peer);
  }
}

function explain(error: unknown): string {
  if (error instanceof Exists) return `there at ${error.revision}`;
  if (error instanceof PreconditionFailed) return `at ${error.revision}`;
  if (error instanceof BatchFailed) return error.results[error.failed]?.code ?? "";
  if (error instanceof Gap) return error.cursor;
  if (error instanceof OutcomeUnknown) return error.current?.text() ?? "unknown";
  if (error instanceof Refused) return error.code;
  return error instanceof KVError ? error.detail : String(error);
}

// @ts-expect-error: there is no such option
connect("x", { patient: 3 });
// @ts-expect-error: null is no value
kv.put("x", null);
// @ts-expect-error: an operation that does not exist
kv.batch([{ op: "move", key: "x" }]);

export { explain, feed, manyKeys, oneKey };
