// How many keys lie below the folders in sight: counted one folder after another, up to a bound, and again after changes.

import { countOf, countText } from "./values.js";

const MOST = 1000;
const FIRST_MS = 120;
const AGAIN_MS = 2000;
const AGAIN_OF_MANY_MS = 30_000;

export class FolderCounts {
  #waiting = new Set();
  #isBusy = false;

  /**
   * `read(prefix, limit)` resolves to how many keys there are, at most `limit`, and whether that is all: `{count, isAll}`.
   * `isInSight(node)`: whether a folder is still to be counted when it is its turn. `onCounted()` is called for each.
   */
  constructor(read, isInSight, onCounted) {
    Object.assign(this, { read, isInSight, onCounted });
  }

  /** Return what is known of a folder in sight, `{text, words}`, or null; have it counted if that is not known or old. */
  show(node, now = performance.now()) {
    const loaded = node.level?.isWhole && !node.level.nodes.some(({ isFolder }) => isFolder) ? node.level.nodes.length : null;
    if (loaded !== null) return tell(loaded, true);
    const { known } = node;
    const pause = known?.isAll === false ? AGAIN_OF_MANY_MS : AGAIN_MS;
    if (!known || (known.at < node.changedAt && now - known.at > pause)) this.#want(node);
    return known?.count === undefined ? null : tell(known.count, known.isAll);
  }

  #want(node) {
    this.#waiting.add(node);
    if (this.#isBusy) return;
    this.#isBusy = true;
    setTimeout(() => this.#countAll(), FIRST_MS);
  }

  async #countAll() {
    for (const node of this.#waiting) {
      this.#waiting.delete(node);
      if (!this.isInSight(node)) continue;
      const at = performance.now();
      try {
        node.known = { at, ...(await this.read(node.key, MOST)) };
      } catch {
        node.known = { at, ...node.known, isAll: false }; // the server is away, or does not allow it: later again
      }
      this.onCounted();
    }
    this.#isBusy = false;
  }
}

function tell(count, isAll) {
  return isAll ? { text: countText(count), words: countOf(count, "key") } : { text: `${countText(count)}+`, words: `at least ${countOf(count, "key")}` };
}
