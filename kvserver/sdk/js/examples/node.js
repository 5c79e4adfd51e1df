/** Stores, reads, changes, counts and watches: `KVSERVER_URL=http://localhost:8080 node node.js`. */

import { connect, PreconditionFailed } from "../client.js";

const kv = connect();

await kv.put("flags/beta", { on: true });
const flag = await kv.get("flags/beta");
console.log(flag.key, flag.json().on, flag.contentType);

await kv.put("flags/beta", { on: false }, { ifRevision: flag.revision });
try {
  await kv.put("flags/beta", { on: true }, { ifRevision: flag.revision });
} catch (error) {
  if (!(error instanceof PreconditionFailed)) throw error;
  console.log("another write came first");
}

await kv.update("flags/beta", (entry) => ({ ...entry.json(), for: ["staff"] }));
console.log(String(await kv.incr("visits")), (await kv.get("nothing")) ?? "nothing");

const watch = kv.watch("flags/", { snapshot: true });
for await (const change of watch) {
  if (change.kind === "put") console.log(change.origin, change.key, change.text());
  if (change.kind === "synced") await kv.delete("flags/beta");
  if (change.kind === "delete") break;
}
console.log("deleted");
