// The last changes that came, in bounded memory, and how many there were. Pure.

/** What a row can be, in the order of the tick boxes. */
export const KINDS = ["put", "touch", "delete", "expire", "evict", "reads"];

/** Return which of `KINDS` a change is. */
export function kindOfChange({ kind, cause }) {
  if (kind === "activity") return "reads";
  return kind === "delete" && (cause === "expire" || cause === "evict") ? cause : kind;
}

/** The last `limit` rows, newest first when they are listed. */
export class Ring {
  #rows;
  #next = 0;
  #count = 0;

  constructor(limit) {
    this.limit = limit;
    this.#rows = new Array(limit);
  }

  /** How many rows there are. */
  get size() {
    return Math.min(this.#count, this.limit);
  }

  push(row) {
    this.#rows[this.#next] = row;
    this.#next = (this.#next + 1) % this.limit;
    this.#count += 1;
  }

  clear() {
    this.#rows = new Array(this.limit);
    [this.#next, this.#count] = [0, 0];
  }

  /** Return the rows for which `isWanted` holds, the newest first. */
  list(isWanted) {
    const rows = [];
    for (let back = 1; back <= this.size; back++) {
      const row = this.#rows[(this.#next - back + this.limit) % this.limit];
      if (isWanted(row)) rows.push(row);
    }
    return rows;
  }
}

/** The sizes of the last keys that changed, so that a change can say by how much. The oldest are forgotten. */
export class Sizes {
  #known = new Map();

  constructor(limit) {
    this.limit = limit;
  }

  /** Set what a key holds now; null: nothing. Returns what it held, undefined where that is not known. */
  set(key, held) {
    const before = this.#known.get(key);
    this.#known.delete(key);
    this.#known.set(key, held);
    if (this.#known.size > this.limit) this.#known.delete(this.#known.keys().next().value);
    return before;
  }

  clear() {
    this.#known.clear();
  }
}

/** Counts of the last seconds. */
export class Rate {
  #counts;
  #second = 0;

  constructor(seconds) {
    this.#counts = new Array(seconds).fill(0);
  }

  #moveTo(second) {
    const steps = Math.min(second - this.#second, this.#counts.length);
    for (let step = 0; step < steps; step++) {
      this.#counts.shift();
      this.#counts.push(0);
    }
    this.#second = Math.max(this.#second, second);
  }

  /** Count what came at a time in seconds. */
  add(count, now) {
    this.#moveTo(Math.floor(now));
    this.#counts[this.#counts.length - 1] += count;
  }

  /** Return the counts of the seconds before this one. */
  counts(now) {
    this.#moveTo(Math.floor(now));
    return this.#counts.slice(0, -1);
  }
}

/** Return the line that MemoryKV's `/wal` has for a row, or null where it has none. */
export function walLine({ change, text }) {
  const { kind, op, key, prefix, cause, peer } = change;
  if (kind === "put") return `Insert { key: ${key}, value: ${text()} }`;
  if (kind === "delete") return cause === "prefix" ? null : `Delete { key: ${key} }`;
  if (kind !== "activity") return null;
  return {
    read: `Read { key: ${key}}`,
    list: "List",
    list_prefix: `ListPrefix { prefix: ${prefix}}`,
    delete: `Delete { key: ${key} }`,
    delete_prefix: `DeletePrefix { key: ${prefix} }`,
    delete_all: "DeleteAll",
    heartbeat: `Heartbeat from ${peer}`,
  }[op];
}
