// The view of the keys: a tree that is loaded page by page and kept right by the feed, and beside it one entry.

import { FolderCounts } from "./counts.js";
import { button, forbid, h } from "./dom.js";
import { EntryPane } from "./entry.js";
import { openRemoval } from "./remove.js";
import { VirtualList } from "./rows.js";
import { findKeys } from "./search.js";
import { session } from "./session.js";
import { Tree } from "./tree.js";
import { countOf, countText, showText, sizeText, spanText } from "./values.js";

const FIRST_PAGE = 200;
const NEXT_PAGES = 1000;
const FRESH_MS = 1500;
const DOUBT_MS = 700;
const NARROW = matchMedia("(max-width: 44rem)");

export class KeysView {
  #tree;
  #list;
  #counts;
  #active = "";
  #reopen = new Set();
  #doubtful = new Set();
  #doubtTimer = 0;
  #isDue = false;
  #selected = null;
  #sought = "";
  #search = null;
  #told = "";

  constructor(box) {
    this.box = box;
    this.how = h("select", { "aria-label": "Keys that" }, h("option", { value: "start" }, "start with"), h("option", { value: "contain" }, "contain"));
    this.prefix = h("input", { type: "search", placeholder: "Find keys", autocomplete: "off", spellcheck: false });
    this.prefix.setAttribute("aria-label", "Find keys");
    this.prefix.setAttribute("aria-keyshortcuts", "/");
    this.delimiter = h("select", { "aria-label": "Folders end at" });
    for (const [value, text] of [["/", "folders by /"], [":", "folders by :"], [".", "folders by ."], ["", "no folders"]]) {
      this.delimiter.append(h("option", { value }, text));
    }
    this.create = button("New key", () => (location.hash = `#/new/${encodeURIComponent(this.#prefixForNew())}`), { class: "main" });
    this.told = h("p", { class: "told", role: "status" });
    this.treeBox = h("div", { class: "tree", role: "tree", tabIndex: 0, "aria-label": "Keys" });
    this.pane = h("section", { class: "entry", "aria-label": "Entry", tabIndex: -1 });
    const form = h("form", { class: "find", role: "search" }, h("div", { class: "seek" }, this.how, this.prefix), this.delimiter, this.create);
    box.append(h("div", { class: "browse" }, form, this.told, this.treeBox), this.pane);
    this.entry = new EntryPane(this.pane);
    this.#list = new VirtualList(this.treeBox, {
      heightOf: () => (NARROW.matches ? 40 : 30),
      make: () => this.#makeRow(),
      fill: (element, row) => this.#fillRow(element, row),
    });
    this.#counts = new FolderCounts(
      (prefix, limit) => this.#countUpTo(prefix, limit),
      (node) => !this.box.hidden && this.#list.elementOf(node.id) !== null,
      () => this.#list.paintSoon(),
    );
    this.#listen(form);
  }

  async #countUpTo(prefix, limit) {
    const { items, next } = await session.kv.page(prefix, { limit });
    return { count: items.length, isAll: next === null };
  }

  #listen(form) {
    let timer;
    this.prefix.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.load(), 250);
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      clearTimeout(timer);
      if (this.prefix.value !== this.#sought) this.load();
      this.treeBox.focus();
    });
    for (const select of [this.how, this.delimiter]) select.addEventListener("change", () => this.load());
    form.addEventListener("keydown", (event) => event.key === "Escape" && this.#search?.abort());
    this.treeBox.addEventListener("keydown", (event) => this.#onKey(event));
    this.treeBox.addEventListener("click", (event) => {
      const id = event.target.closest(".row")?.dataset.id;
      const row = this.#list.rows.find((each) => each.id === id);
      if (row) this.#choose(row, event.target.className);
    });
  }

  #prefixForNew() {
    return this.#selected?.folder ?? this.#tree?.root.prefix ?? "";
  }

  /** Load the tree anew. `isSame`: what was open is opened again. */
  async load(isSame = false) {
    const open = isSame && this.#tree ? this.#tree.openLevels().map(({ prefix }) => prefix) : [];
    this.#reopen = new Set(open);
    this.#search?.abort();
    this.#sought = this.prefix.value;
    const isSearch = this.how.value === "contain" && this.#sought !== "";
    this.#search = isSearch ? new AbortController() : null;
    this.#tree = new Tree(isSearch ? "" : this.delimiter.value, isSearch ? "" : this.#sought);
    this.#doubtful.clear();
    if (!isSame) this.treeBox.scrollTop = 0;
    forbid(this.create, session.grants.some(({ allow }) => allow.includes("write")) ? "" : session.whyNot("write", ""));
    this.told.textContent = "Loading …";
    await (isSearch ? this.#find() : this.#loadLevel(this.#tree.root));
  }

  /** Show the keys whose names contain what is sought, as they are found. */
  async #find() {
    const [tree, text] = [this.#tree, this.#sought];
    tree.addPage(tree.root, { items: [], prefixes: [], next: null });
    try {
      await findKeys(session.kv, text, this.#search.signal, ({ items, looked, isOver }) => {
        if (tree !== this.#tree) return;
        tree.addPage(tree.root, { items, prefixes: [], next: null });
        const ends = { all: "", most: " Not all were looked at: narrow the search.", stopped: " Stopped." };
        this.#told = `${countOf(tree.root.nodes.length, "key")} found in ${countText(looked)}${isOver ? `.${ends[isOver]}` : " so far; Escape stops."}`;
        this.#paintSoon();
      });
    } catch (error) {
      if (tree !== this.#tree || session.isLockedBy(error)) return;
      this.#told = `The search ended early: ${error.detail || error.message}`;
      this.#paintSoon();
    }
  }

  /** Forget everything that was read. */
  clear() {
    this.#search?.abort();
    this.#tree = null;
    this.#doubtful.clear();
    this.#list.setRows([]);
    this.#list.paint();
    this.told.textContent = "";
    this.entry.close();
  }

  async #loadLevel(level) {
    const tree = this.#tree;
    if (level.isLoading || level.isWhole) return;
    Object.assign(level, { isLoading: true, error: null });
    const limit = level.next === undefined ? FIRST_PAGE : NEXT_PAGES;
    try {
      const options = { limit, after: level.next, ...(tree.delimiter ? { delimiter: tree.delimiter } : {}) };
      const page = await session.kv.page(level.prefix, options);
      if (tree !== this.#tree) return;
      this.#doubt(tree.addPage(level, page));
    } catch (error) {
      if (tree !== this.#tree || session.isLockedBy(error)) return;
      level.error = error.detail || error.message;
    } finally {
      level.isLoading = false;
    }
    for (const node of level.nodes) {
      if (!node.isFolder || node.isOpen || !this.#reopen.delete(node.key)) continue;
      const inside = tree.setOpen(node, true);
      if (inside) this.#loadLevel(inside);
    }
    this.#paintSoon();
  }

  /** Take changes of the feed. */
  take(changes) {
    if (!this.#tree) return;
    const now = performance.now();
    for (const change of changes) {
      this.entry.take(change);
      if (this.#search && !change.key?.includes(this.#sought)) continue;
      this.#doubt(this.#tree.take(change, now));
    }
    this.#paintSoon();
  }

  #doubt(folders) {
    for (const folder of folders) this.#doubtful.add(folder);
    if (this.#doubtful.size) this.#doubtTimer ||= setTimeout(() => this.#settleDoubts(), DOUBT_MS);
  }

  /** Ask of folders in which keys were deleted whether they still hold one. */
  async #settleDoubts() {
    const [tree, folders] = [this.#tree, [...this.#doubtful]];
    this.#doubtful.clear();
    for (const folder of folders) {
      const { changedAt } = folder;
      try {
        const { items } = await session.kv.page(folder.key, { limit: 1 });
        if (tree !== this.#tree) break;
        if (!items.length && folder.changedAt === changedAt) tree.removeFolder(folder);
        else if (!items.length) this.#doubtful.add(folder);
      } catch (error) {
        if (session.isLockedBy(error)) break; // else the server is away: the tree is loaded anew, or the folder stays
      }
    }
    this.#doubtTimer = this.#doubtful.size ? setTimeout(() => this.#settleDoubts(), DOUBT_MS) : 0;
    this.#paintSoon();
  }

  #paintSoon() {
    if (this.#isDue) return;
    this.#isDue = true;
    requestAnimationFrame(() => {
      this.#isDue = false;
      this.#paint();
    });
  }

  #paint() {
    if (!this.#tree) return;
    this.#list.setRows(this.#tree.rows());
    this.#list.paint();
    this.#tell();
  }

  #tell() {
    const { root } = this.#tree;
    const count = root.nodes.length;
    const folders = root.nodes.reduce((sum, { isFolder }) => sum + Number(isFolder), 0);
    const what = [[folders, "folder"], [count - folders, "key"]].filter(([each]) => each).map(([each, noun]) => countOf(each, noun));
    let text = `${what.join(", ")}${root.isWhole ? "" : " loaded, more as you scroll"}`;
    if (root.error) text = `The keys cannot be listed: ${root.error}`;
    else if (root.isWhole && !count) text = root.prefix ? "No key starts like this." : "The store is empty.";
    else if (root.next === undefined) text = "Loading …";
    if (this.#search) text = this.#told;
    if (this.told.textContent !== text) this.told.textContent = text;
  }

  /** Paint what changes by time alone. */
  tick() {
    if (this.#tree && !this.box.hidden) this.#list.paintSoon();
    this.entry.tick();
  }

  // Rows.

  #makeRow() {
    const parts = ["twist", "name", "life", "size"].map((name) => h("span", { class: name }));
    return Object.assign(h("div", { class: "row", role: "treeitem" }, ...parts), { parts });
  }

  #fillRow(element, { id, node, level, at, count }) {
    const [twist, name, life, size] = element.parts;
    element.dataset.id = id;
    element.id = this.#elementId(id);
    element.style.setProperty("--depth", level.depth - 1);
    element.setAttribute("aria-level", level.depth);
    element.setAttribute("aria-setsize", level.isWhole ? level.nodes.length : -1);
    element.setAttribute("aria-posinset", at < 0 ? level.nodes.length + 1 : at + 1);
    element.classList.toggle("active", id === this.#active);
    element.classList.toggle("more", !node);
    if (!node) {
      name.textContent = level.error ? `Not loaded: ${level.error}. Press to try again.` : "Loading …";
      [twist, life, size].forEach((part) => (part.textContent = ""));
      element.removeAttribute("aria-label");
      element.removeAttribute("aria-description");
      element.removeAttribute("aria-expanded");
      if (!level.error && count === level.nodes.length) this.#loadLevel(level); // else the next page is here already
      return;
    }
    const isSelected = node.isFolder ? this.#selected?.folder === node.key : this.#selected?.key === node.key;
    element.classList.toggle("folder", node.isFolder);
    element.classList.toggle("fresh", node.changedAt > 0 && performance.now() - node.changedAt < FRESH_MS);
    element.setAttribute("aria-selected", isSelected);
    if (node.isFolder) element.setAttribute("aria-expanded", node.isOpen);
    else element.removeAttribute("aria-expanded");
    twist.textContent = node.isFolder ? (node.isOpen ? "▾" : "▸") : "";
    setText(name, this.#nameOf(node, level));
    element.setAttribute("aria-label", name.textContent);
    const expires = node.item?.expires;
    setText(life, expires ? spanText((expires - session.now()) / 1000) : "");
    const below = node.isFolder ? this.#counts.show(node) : null;
    setText(size, node.isFolder ? (below?.text ?? "⋯") : sizeText(node.item.size));
    if (below) element.setAttribute("aria-description", below.words);
    else element.removeAttribute("aria-description");
    element.title = below ? `${showText(node.key)}\n${below.words}` : showText(node.key);
  }

  /** Return what is told of a key below its folder: the rest of it, or a word where nothing is left. */
  #nameOf(node, level) {
    const cut = this.#tree.delimiter ? level.prefix.lastIndexOf(this.#tree.delimiter) + this.#tree.delimiter.length : 0;
    const start = this.#tree.delimiter && cut >= this.#tree.delimiter.length ? cut : 0;
    return showText(node.key.slice(start)) || "(empty name)";
  }

  #elementId(id) {
    return `row-${encodeURIComponent(id)}`;
  }

  // Choosing.

  /** `part`: what of the row was pressed: "twist" opens a folder alone, "size" shows it alone. */
  #choose(row, part = "") {
    this.#setActive(row);
    const { node, level } = row;
    if (!node) {
      level.error = null;
      this.#loadLevel(level);
    } else if (node.isFolder) {
      const isAside = part === "size";
      if (!isAside) this.#toggle(node, !node.isOpen);
      if (isAside || (part !== "twist" && !NARROW.matches)) location.hash = `#/folder/${encodeURIComponent(node.key)}`;
    } else location.hash = `#/key/${encodeURIComponent(node.key)}`;
  }

  #toggle(node, isOpen) {
    const level = this.#tree.setOpen(node, isOpen);
    if (level) this.#loadLevel(level);
    this.#paintSoon();
  }

  #setActive(row) {
    this.#active = row.id;
    this.treeBox.setAttribute("aria-activedescendant", this.#elementId(row.id));
    this.#list.paintSoon();
  }

  #onKey(event) {
    const { rows } = this.#list;
    if (!rows.length || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = rows.findIndex(({ id }) => id === this.#active);
    const row = rows[at];
    const page = Math.max(1, Math.floor(this.treeBox.clientHeight / this.#list.heightOf()) - 1);
    const steps = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1, PageDown: page, PageUp: -page, Home: -rows.length, End: rows.length };
    if (event.key in steps) {
      const next = Math.min(Math.max(at < 0 ? 0 : at + steps[event.key], 0), rows.length - 1);
      this.#setActive(rows[next]);
      this.#list.reveal(next);
    } else if ((event.key === "Enter" || event.key === " ") && row) this.#choose(row);
    else if (event.key === "ArrowRight" && row?.node?.isFolder) {
      if (!row.node.isOpen) this.#toggle(row.node, true);
      else if (rows[at + 1]) this.#setActive(rows[at + 1]);
    } else if (event.key === "ArrowLeft" && row) this.#goOut(row, rows);
    else return;
    event.preventDefault();
  }

  #goOut({ node, level }, rows) {
    if (node?.isFolder && node.isOpen) return this.#toggle(node, false);
    const at = rows.findIndex((each) => each.node?.level === level);
    if (at < 0) return undefined;
    this.#setActive(rows[at]);
    return this.#list.reveal(at);
  }

  /** Show what the address names: `kind` is "keys", "key", "folder" or "new". */
  show(kind, name) {
    this.#selected = kind === "key" ? { key: name } : kind === "folder" ? { folder: name } : null;
    this.box.classList.toggle("has-entry", kind !== "keys");
    if (kind === "key") this.entry.open(name);
    else if (kind === "folder") this.#showFolder(name);
    else if (kind === "new") this.entry.openNew(name);
    else this.entry.close();
    this.#list.paintSoon();
  }

  async #showFolder(prefix) {
    const count = h("p", { role: "status" }, "Counting …");
    const heading = h("h2", { class: "key" }, h("bdi", {}, showText(prefix)));
    const actions = h(
      "p",
      { class: "actions" },
      button("New key here", () => (location.hash = `#/new/${encodeURIComponent(prefix)}`), { reason: session.whyNot("write", prefix) }),
      button("Delete all below …", () => openRemoval(prefix), {
        class: "danger",
        reason: session.whyNot("write", prefix) || session.whyNot("read", prefix),
      }),
    );
    this.entry.close([heading, count, actions]);
    try {
      count.textContent = `${countOf(await session.kv.count(prefix), "key")} below this folder`;
    } catch (error) {
      if (!session.isLockedBy(error)) count.textContent = `The keys cannot be counted: ${error.detail || error.message}`;
    }
  }
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
