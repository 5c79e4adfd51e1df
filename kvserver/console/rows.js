// A list of any length of which only the rows in sight are in the page. All rows have one height.

import { h } from "./dom.js";

const BEYOND = 6;

export class VirtualList {
  #rows = [];
  #shown = new Map();
  #isDue = false;

  /**
   * `box` scrolls. `heightOf()`: the height of a row in pixels. `make()` returns an empty row, `fill(element, row, at)`
   * makes it show a row; rows are told apart by their `id`. `onPaint(first, last)` is called with what is in sight.
   */
  constructor(box, { heightOf, make, fill, onPaint = () => {} }) {
    this.box = box;
    this.heightOf = heightOf;
    this.make = make;
    this.fill = fill;
    this.onPaint = onPaint;
    this.space = h("div", { class: "space", role: "presentation" });
    box.append(this.space);
    box.addEventListener("scroll", () => this.paintSoon(), { passive: true });
    new ResizeObserver(() => this.paintSoon()).observe(box);
  }

  get rows() {
    return this.#rows;
  }

  setRows(rows) {
    this.#rows = rows;
    this.paintSoon();
  }

  /** Paint with the next frame. */
  paintSoon() {
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => {
      this.#isDue = false;
      this.paint();
    });
  }

  /** Show the rows that are in sight. An element stays that of its row, so that a click does not miss it. */
  paint() {
    const height = this.heightOf();
    const { clientHeight, scrollTop } = this.box;
    if (!clientHeight && this.#rows.length) return;
    this.space.style.height = `${this.#rows.length * height}px`;
    const first = Math.max(0, Math.floor(scrollTop / height) - BEYOND);
    const last = Math.min(this.#rows.length, Math.ceil((scrollTop + clientHeight) / height) + BEYOND);
    const kept = new Map();
    for (let at = first; at < last; at++) {
      const row = this.#rows[at];
      const element = this.#shown.get(row.id) ?? this.make();
      this.#shown.delete(row.id);
      kept.set(row.id, element);
      element.style.transform = `translateY(${at * height}px)`;
      element.style.height = `${height}px`;
      this.fill(element, row, at);
      if (!element.isConnected) this.space.append(element);
    }
    for (const element of this.#shown.values()) element.remove();
    this.#shown = kept;
    this.onPaint(first, last);
  }

  /** Return the element of a row that is in sight, or null. */
  elementOf(id) {
    return this.#shown.get(id) ?? null;
  }

  /** Scroll so that a row is in sight. */
  reveal(at) {
    const height = this.heightOf();
    const { scrollTop, clientHeight } = this.box;
    if (at * height < scrollTop) this.box.scrollTop = at * height;
    else if ((at + 1) * height > scrollTop + clientHeight) this.box.scrollTop = (at + 1) * height - clientHeight;
    this.paint();
  }
}
