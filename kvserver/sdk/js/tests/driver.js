/**
 * Carries out the requests of the conformance suite with a client: `{id, do, args}` in, lines of JSON out. No I/O of its
 * own: it runs in Node and in pages.
 */

import { KVError, OutcomeUnknown, Refused, KEEP, DELETE, UNCHANGED, json } from "../client.js";

export class Driver {
  #kv;
  #write;
  #watches = new Set();
  #isStopped = false;

  /** `connect()` makes the client; `write(line)` takes a line. */
  constructor(connect, write) {
    this.#kv = connect();
    this.#write = write;
  }

  /** Carry out one request, a line of JSON. Errors are answers. */
  async handle(line) {
    const { id, do: verb, args = {} } = parse(line);
    const run = VERBS[verb];
    if (!run) return this.#write(JSON.stringify({ id, unsupported: true }));
    try {
      const ok = await run.call(this, this.#kv, args, id);
      const text = ok instanceof Raw ? ok.text : JSON.stringify(ok);
      this.#write(`{"id":${JSON.stringify(id)},"ok":${text}}`);
    } catch (error) {
      this.#write(JSON.stringify({ id, error: errorOf(error) }));
    }
  }

  /** End all watches, those of later requests too. */
  stop() {
    this.#isStopped = true;
    for (const watch of this.#watches) watch.close();
  }

  setOptions(options) {
    this.#kv = this.#kv.withOptions(options);
    return {};
  }

  async watch(id, kv, { prefixes, keys, count, until_synced: untilSynced, on_gap: onGap, ...options }) {
    const watch = kv.watch(prefixes, { keys, onGap, ...options });
    this.#watches.add(watch);
    await watch.open();
    this.#write(JSON.stringify({ id, ready: true }));
    if (this.#isStopped) watch.close();
    let seen = 0;
    for await (const change of watch) {
      this.#write(JSON.stringify({ id, change: { ...changeOf(change), cursor: watch.cursor || null } }));
      seen++;
      if (seen === count || (untilSynced && change.kind === "synced")) break;
    }
    this.#watches.delete(watch);
    return { cursor: watch.cursor };
  }
}

/** JSON that is written as it is: numbers of users never become those of JavaScript. */
class Raw {
  constructor(text) {
    this.text = text;
  }
}

/** Return what a line says, whole numbers that JavaScript's have no digits for as BigInts. */
function parse(line) {
  const tokens = /"(?:[^"\\]|\\.)*"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?/g;
  const text = line.replace(tokens, (token) => (/^-?\d{16,}$/.test(token) ? `{"whole number":"${token}"}` : token));
  return JSON.parse(text, (_, value) => {
    const digits = value?.["whole number"];
    if (digits === undefined) return value;
    return Number.isSafeInteger(Number(digits)) ? Number(digits) : BigInt(digits);
  });
}

const VERBS = {
  options(_, args) {
    return this.setOptions(args);
  },
  get: async (kv, { key, range }) => entryOf(await kv.get(key, { range })),
  head: async (kv, { key }) => metaOf(await kv.head(key)),
  get_if_changed: async (kv, { key, revision }) => {
    const found = await kv.getIfChanged(key, revision);
    return found === UNCHANGED ? "unchanged" : entryOf(found);
  },
  get_many: async (kv, { keys }) => {
    const found = await kv.getMany(keys);
    return Object.assign(Object.create(null), Object.fromEntries([...found].map(([key, each]) => [key, entryOf(each)])));
  },
  put: (kv, args) => kv.put(args.key, valueOf(args), optionsOf(args)),
  create: async (kv, args) => ({ revision: (await kv.create(args.key, valueOf(args), optionsOf(args))).revision }),
  exchange: async (kv, args) => {
    const { revision, previous } = await kv.exchange(args.key, valueOf(args), optionsOf(args));
    return { revision, previous: entryOf(previous) };
  },
  patch: async (kv, args) => {
    const entry = await kv.patch(args.key, json(args.patch), optionsOf(args));
    return new Raw(`{"revision":${entry.revision},"value":${entry.text()}}`);
  },
  incr: async (kv, args) => ({ value: String(await kv.incr(args.key, args.by, optionsOf(args))) }),
  touch: async (kv, args) => ({ revision: await kv.touch(args.key, optionsOf(args)) }),
  delete: async (kv, args) => ({ deleted: await kv.delete(args.key, optionsOf(args)) }),
  page: async (kv, { prefix, ...args }) => {
    const { items, prefixes, next, cursor } = await kv.page(prefix, args);
    return { items: items.map(itemOf), prefixes, next, cursor };
  },
  scan: async (kv, { prefix, ...args }) => {
    const items = [];
    for await (const item of kv.scan(prefix, args)) items.push(itemOf(item));
    return { items };
  },
  count: async (kv, { prefix }) => ({ count: await kv.count(prefix) }),
  delete_prefix: async (kv, { prefix = "", dry_run: dryRun, limit, all }) => {
    const { count, complete } = await kv.deletePrefix(prefix, { dryRun, limit, all });
    return { deleted: count, complete };
  },
  batch: async (kv, { ops }) => ({ results: (await kv.batch(ops.map(opOf))).map(resultOf) }),
  atomic: async (kv, { ops }) => ({ results: (await kv.batch(ops.map(opOf), { atomic: true })).map(resultOf) }),
  update: async (kv, { key, with: how, text = "" }) => entryOf(await kv.update(key, CHANGES[how](text))),
  watch(kv, args, id) {
    return this.watch(id, kv, args);
  },
  status: (kv) => kv.status(),
  ping: async (kv) => {
    await kv.ping();
    return {};
  },
  /** Get or put a key `count` times, so many `tasks` at a time, for benchmarks. */
  repeat: async (kv, { verb, key, value_base64: value = "", count, tasks = 1 }) => {
    const bytes = bytesOf(value);
    const work = async () => {
      for (let done = 0; done < count / tasks; done++) await (verb === "get" ? kv.get(key) : kv.put(key, bytes));
    };
    const begun = performance.now();
    await Promise.all(Array.from({ length: tasks }, work));
    return { seconds: (performance.now() - begun) / 1000 };
  },
  whoami: (kv) => kv.whoami(),
  ticket: (kv, args) => kv.ticket(args.for, { grants: args.grants, ttl: args.ttl }),
};

const CHANGES = {
  append: (text) => (entry) => (entry?.text() ?? "") + text,
  increment: () => (entry) => String(BigInt(entry?.text() ?? "0") + 1n),
  delete: () => () => DELETE,
  keep: () => () => KEEP,
};

function valueOf(args) {
  return args.value_base64 === undefined ? json(args.json) : bytesOf(args.value_base64);
}

function optionsOf({ content_type: contentType, if_revision: ifRevision, ttl_if_new: ttlIfNew, ...args }) {
  const { ttl, expires, persist } = args;
  return given({ contentType, ttl, expires, ifRevision, ttlIfNew, persist });
}

/** Return the members that have a value. */
function given(members) {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined));
}

function opOf(op) {
  const value = op.value ?? ("json" in op || "value_base64" in op ? valueOf(op) : undefined);
  return given({ op: op.op, key: op.key, value, patch: op.patch && json(op.patch), by: op.by, ...optionsOf(op) });
}

function entryOf(entry) {
  if (entry === null) return null;
  const { key, bytes, revision, contentType, expires, modified } = entry;
  return { key, value_base64: base64Of(bytes), revision, content_type: contentType, expires, modified };
}

function metaOf(meta) {
  return meta && { size: meta.size, revision: meta.revision, content_type: meta.contentType, expires: meta.expires };
}

function itemOf(item) {
  const { key, revision, size, contentType, expires } = item;
  const told = { key, revision, size, content_type: contentType, expires };
  return item.hasValue ? { ...told, value_base64: base64Of(item.bytes) } : told;
}

function resultOf({ op, status, revision, code, entry }) {
  const told = { status };
  if (entry && op === "incr") told.result = entry.text();
  if (entry && op === "patch") told.result = entry.json();
  if (revision !== null) told.revision = revision;
  if (code !== null) told.code = code;
  if (entry) told.value_base64 = base64Of(entry.bytes);
  return told;
}

function changeOf(change) {
  if (change.kind !== "put") return change;
  const { kind, key, revision, time, contentType, expires, origin, size } = change;
  const told = { kind, key, revision, time, content_type: contentType, expires, origin };
  return change.hasValue ? { ...told, value_base64: base64Of(change.bytes) } : { ...told, size };
}

function errorOf(error) {
  if (!(error instanceof KVError)) return { half: "other", code: error.name, status: null, revision: null, detail: error.message };
  const half = error instanceof Refused ? "refused" : error instanceof OutcomeUnknown ? "unknown" : "other";
  const { code, status, revision = null, detail } = error;
  const told = { half, code, status, revision, detail };
  return code === "batch_failed" ? { ...told, failed: error.failed, results: error.results.map(resultOf) } : told;
}

function bytesOf(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}

function base64Of(bytes) {
  let binary = "";
  for (const byte of bytes) binary += String.fromCharCode(byte);
  return btoa(binary);
}
