// The keys as a tree: levels that are loaded page by page, kept right by the changes of the feed. Pure.

/** Return below 0, 0 or above 0, as `one` comes before, at or after `other` in the server's order, that of UTF-8. */
export function compareKeys(one, other) {
  const length = Math.min(one.length, other.length);
  for (let at = 0; at < length; at++) {
    let [left, right] = [one.charCodeAt(at), other.charCodeAt(at)];
    if (left === right) continue;
    // Pairs of surrogates stand for what comes after U+FFFF.
    if (left >= 0xd800 && right >= 0xd800) {
      left = left >= 0xe000 ? left - 0x800 : left + 0x2000;
      right = right >= 0xe000 ? right - 0x800 : right + 0x2000;
    }
    return left - right;
  }
  return one.length - other.length;
}

/** A key or a folder. A folder's `key` is the prefix of the keys in it. */
class Node {
  constructor(key, isFolder, item) {
    this.key = key;
    this.isFolder = isFolder;
    this.item = item;
    this.level = null;
    this.isOpen = false;
    this.changedAt = 0;
    /** What was counted below a folder, and when. */
    this.known = null;
    this.id = `${isFolder ? "folder" : "key"}:${key}`;
  }
}

/** The keys and folders right below a prefix, in order, as far as they are loaded. */
class Level {
  constructor(prefix, depth) {
    this.prefix = prefix;
    this.depth = depth;
    this.nodes = [];
    /** Up to which key it is loaded; null: wholly; undefined: not at all. */
    this.next = undefined;
    this.isLoading = false;
    this.error = null;
    /** Changes that came while a page was on its way: it may or may not have them. */
    this.late = [];
  }

  get isWhole() {
    return this.next === null;
  }

  /** Return where a node is, or would be. */
  find(key, isFolder) {
    let [low, high] = [0, this.nodes.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      const node = this.nodes[middle];
      const order = compareKeys(node.key, key) || Number(node.isFolder) - Number(isFolder);
      if (order < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  get(key, isFolder) {
    const node = this.nodes[this.find(key, isFolder)];
    return node?.key === key && node.isFolder === isFolder ? node : null;
  }

  add(node) {
    this.nodes.splice(this.find(node.key, node.isFolder), 0, node);
    return node;
  }

  remove(node) {
    const at = this.find(node.key, node.isFolder);
    if (this.nodes[at] === node) this.nodes.splice(at, 1);
  }

  /** Whether a key lies in what is loaded. */
  covers(key) {
    return this.next === null || (this.next !== undefined && compareKeys(key, this.next) <= 0);
  }
}

export class Tree {
  /** `delimiter`: where keys are folded; empty: nowhere. `prefix`: the keys that it shows. */
  constructor(delimiter, prefix = "") {
    this.delimiter = delimiter;
    this.root = new Level(prefix, 1);
  }

  /**
   * Take a page of a level: `items` and `prefixes` in order, `next` to continue with. Returns the folders that may be
   * empty now.
   */
  addPage(level, { items, prefixes, next }) {
    for (const item of items) this.#upsert(level, item.key, item, 0);
    for (const prefix of prefixes) if (!level.get(prefix, true)) level.add(new Node(prefix, true, null));
    level.next = next;
    const { late } = level;
    Object.assign(level, { late: [], isLoading: false });
    return late.flatMap((change) => this.take(change, 0));
  }

  #upsert(level, key, item, now) {
    const node = level.get(key, false);
    if (!node) return (level.add(new Node(key, false, item)).changedAt = now);
    if (item.revision < node.item.revision) return undefined;
    node.item = item;
    node.changedAt = now;
    return undefined;
  }

  /** Return the folder of `level` that `key` is in, or null. */
  folderOf(level, key) {
    if (!this.delimiter) return null;
    const at = key.indexOf(this.delimiter, level.prefix.length);
    return at < 0 ? null : key.slice(0, at + this.delimiter.length);
  }

  /**
   * Take a change of the feed; `now`: the time it is marked with. Returns the folders that may be empty now.
   */
  take(change, now) {
    const { key } = change;
    const doubtful = [];
    if (!key?.startsWith(this.root.prefix)) return doubtful;
    let level = this.root;
    for (;;) {
      if (level.isLoading) level.late.push(change);
      const folder = this.folderOf(level, key);
      if (folder === null) break;
      let node = level.get(folder, true);
      if (change.kind === "put" && !node && level.covers(folder)) node = level.add(new Node(folder, true, null));
      if (!node) return doubtful;
      node.changedAt = now;
      if (change.kind === "delete") doubtful.push(node);
      if (!node.level) return doubtful;
      level = node.level;
    }
    this.#takeInLevel(level, change, now);
    return doubtful;
  }

  #takeInLevel(level, change, now) {
    const { key, kind } = change;
    const node = level.get(key, false);
    if (kind === "put") {
      if (level.covers(key)) this.#upsert(level, key, change, now);
    } else if (kind === "touch") {
      if (node && node.item.revision < change.revision) {
        node.item = { ...plain(node.item), revision: change.revision, expires: change.expires };
        node.changedAt = now;
      }
    } else if (kind === "delete") {
      if (node && node.item.revision <= change.revision) level.remove(node);
    }
  }

  /** Return the level that a node is in. */
  levelOf(node) {
    let level = this.root;
    for (;;) {
      const folder = this.folderOf(level, node.key);
      if (folder === null || (node.isFolder && folder === node.key)) return level;
      level = level.get(folder, true)?.level;
      if (!level) return null;
    }
  }

  /** Remove a folder that holds nothing any more. */
  removeFolder(node) {
    this.levelOf(node)?.remove(node);
  }

  /** Open or close a folder. Returns its level if it has to be loaded. */
  setOpen(node, isOpen) {
    node.isOpen = isOpen;
    if (!isOpen || node.level) return null;
    node.level = new Level(node.key, this.levelOf(node).depth + 1);
    return node.level;
  }

  /** Return all levels that are shown. */
  openLevels() {
    const levels = [];
    const walk = (level) => {
      levels.push(level);
      for (const node of level.nodes) if (node.isOpen && node.level) walk(node.level);
    };
    walk(this.root);
    return levels;
  }

  /** Return the rows that are shown, in order: `{id, node, level, at}`, and where more
   *  is to be loaded one without a node: `count` nodes of its level were there. */
  rows() {
    const rows = [];
    const walk = (level) => {
      level.nodes.forEach((node, at) => {
        rows.push({ id: node.id, node, level, at });
        if (node.isOpen && node.level) walk(node.level);
      });
      if (!level.isWhole) rows.push({ id: `more:${level.prefix}`, node: null, level, at: -1, count: level.nodes.length });
    };
    walk(this.root);
    return rows;
  }
}

/** Return what a row shows of a key. */
function plain({ key, size, revision, contentType, expires }) {
  return { key, size, revision, contentType, expires };
}
