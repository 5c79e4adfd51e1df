// The view of the feed: every change as it comes, counted exactly, shown at the pace of the screen.

import { button, download, h, labelled, tickBox } from "./dom.js";
import { sparkline } from "./chart.js";
import { KINDS, kindOfChange, Rate, Ring, Sizes, walLine } from "./ring.js";
import { VirtualList } from "./rows.js";
import { session } from "./session.js";
import { clockText, countText, previewOf, showText, sizeText, spanText, textOf, typeText } from "./values.js";
import { Following, rateText, shortRevision } from "./watching.js";

const KEPT_ROWS = 10_000;
const KEPT_BYTES = 1024;
const NOISE_S = 20;
const NOISE_TTL_S = 120;
const NARROW = matchMedia("(max-width: 44rem)");
const TWO_LINES = matchMedia("(max-width: 60rem)");
const HINTS = { put: "stored", touch: "another expiry", delete: "deleted", expire: "time was up", evict: "no room", reads: "reads, lists, heartbeats" };

export class FeedView {
  #following = null;
  #since = "";
  #ring = new Ring(KEPT_ROWS);
  #sizes = new Sizes(KEPT_ROWS);
  #rate = new Rate(61);
  #counts = Object.fromEntries(KINDS.map((kind) => [kind, 0]));
  #received = 0;
  #number = 0;
  #isPaused = false;
  #isPointerIn = false;
  #heldAt = null;
  #noise = null;
  #isDue = false;

  /** `tell({kind, text})` is called with the state of its connection. */
  constructor(box, tell) {
    this.box = box;
    this.tell = tell;
    this.pause = button("Pause", () => this.#setPaused(!this.#isPaused), { class: "main" });
    this.told = h("p", { class: "told" });
    this.line = h("span", { class: "line" });
    this.prefix = h("input", { type: "search", autocomplete: "off", spellcheck: false, placeholder: "all keys" });
    this.text = h("input", { type: "search", autocomplete: "off", spellcheck: false, placeholder: "in key or value" });
    this.wal = h("input", { type: "checkbox" });
    this.conflate = h("input", { type: "checkbox" });
    this.ticks = KINDS.map((kind) => {
      const box = h("input", { type: "checkbox", checked: kind !== "reads", value: kind });
      const count = h("span", { class: "count" }, "0");
      return { kind, box, count, label: h("label", { class: `tick op ${kind}`, title: HINTS[kind] }, box, kind, count) };
    });
    this.list = h("div", { class: "events", role: "group", tabIndex: 0, "aria-label": "Changes, the newest first" });
    this.noise = button("Make some noise", () => this.#toggleNoise());
    this.#build();
    NARROW.addEventListener("change", () => (box.querySelector(".filters").open ||= !NARROW.matches));
    this.rows = new VirtualList(this.list, {
      heightOf: () => (TWO_LINES.matches ? 50 : 26),
      make: () => this.#makeRow(),
      fill: (element, row) => this.#fillRow(element, row),
    });
  }

  #build() {
    const address = h("code", {}, `curl -X PUT -d hello ${location.origin}/v1/kv/greeting`);
    this.box.append(
      h(
        "div",
        { class: "controls" },
        h("p", { class: "actions" }, this.pause, button("Clear", () => this.#clear()), button("Save as .ndjson", () => this.#save()), this.noise),
        h("fieldset", { class: "ops" }, h("legend", {}, "Show"), this.ticks.map(({ label }) => label)),
        h(
          "details",
          { class: "filters", open: !NARROW.matches },
          h("summary", {}, "Filters"),
          h(
            "div",
            {},
            labelled("Prefix", this.prefix),
            labelled("Text", this.text),
            h("p", { class: "field" }, tickBox("as MemoryKV's /wal has it", this.wal), tickBox("if behind, only the latest of each key", this.conflate)),
          ),
        ),
      ),
      h("p", { class: "counts" }, this.line, this.told),
      this.list,
      h("p", { class: "hint" }, "Open this page in a second tab, and change a key there; or in a terminal: ", address),
    );
    for (const { kind, box } of this.ticks) box.addEventListener("change", () => (kind === "reads" ? this.#follow() : this.#paintAll()));
    for (const box of [this.text, this.wal]) box.addEventListener("input", () => this.#paintAll());
    this.conflate.addEventListener("change", () => this.#follow());
    let timer;
    this.prefix.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.#follow(), 400);
      this.#paintAll();
    });
    this.list.addEventListener("pointerenter", (event) => this.#hold(event.pointerType === "mouse"));
    this.list.addEventListener("pointerleave", () => this.#hold(false));
    for (const kind of ["focusin", "focusout"]) this.list.addEventListener(kind, () => this.#paintSoon());
    this.list.addEventListener("scroll", () => this.#paintSoon(), { passive: true });
    this.list.addEventListener("click", (event) => {
      const key = event.target.closest(".row")?.dataset.key;
      if (key !== undefined && !String(getSelection())) location.hash = `#/key/${encodeURIComponent(key)}`;
    });
  }

  /** Start to follow the feed, if it is not followed yet. */
  start() {
    if (!this.#following && session.isOpen) this.#follow();
    this.rows.paintSoon();
  }

  /** Follow with the client of the session, which is another one now. */
  restart() {
    this.stop();
    if (!this.box.hidden) this.start();
  }

  stop() {
    if (!this.#following) return;
    this.#since = this.#following.cursor;
    this.#following.close();
    this.#following = null;
  }

  #isOn(kind) {
    return this.ticks.find((each) => each.kind === kind).box.checked;
  }

  #follow() {
    this.stop();
    const options = { since: this.#since || undefined, activity: this.#isOn("reads"), conflate: this.conflate.checked };
    this.#following = new Following(session.kv, this.prefix.value || null, options, {
      take: (changes) => this.#take(changes),
      tell: (state) => this.tell(state),
      note: ({ kind, text }) => this.#push({ note: kind, text, time: new Date() }),
      onLost: () => this.#sizes.clear(),
      onError: (error) => session.isLockedBy(error),
    });
    this.#paintAll();
  }

  // Receiving.

  #take(changes) {
    let count = 0;
    for (const change of changes) {
      if (!["put", "touch", "delete", "activity"].includes(change.kind)) continue;
      count += 1;
      this.#counts[kindOfChange(change)] += 1;
      this.#push(this.#rowOf(change));
    }
    this.#received += count;
    this.#rate.add(count, performance.now() / 1000);
  }

  #rowOf(change) {
    const row = { change, kind: kindOfChange(change), time: change.time, entry: null, shown: null, before: undefined };
    if (change.kind === "put") {
      if (change.size <= KEPT_BYTES) row.entry = change;
      else row.shown = previewOf(change);
      const { key, revision, size, contentType, expires } = change;
      row.change = { kind: "put", key, revision, size, contentType, expires };
      row.before = this.#sizes.set(key, row);
      if (row.before) row.before = { size: row.before.change.size, shown: previewOfRow(row.before) };
    } else if (change.kind === "delete") {
      const before = this.#sizes.set(change.key, null);
      if (before) row.before = { size: before.change.size, shown: previewOfRow(before) };
    }
    row.text = () => (row.entry ? (textOf(row.entry.bytes) ?? previewOfRow(row)) : (row.shown ?? ""));
    return row;
  }

  #push(row) {
    this.#number += 1;
    row.id = this.#number;
    this.#ring.push(row);
    this.#paintSoon();
  }

  // Holding still.

  #setPaused(isPaused) {
    this.#isPaused = isPaused;
    this.pause.textContent = isPaused ? "Resume" : "Pause";
    this.pause.setAttribute("aria-pressed", String(isPaused));
    if (!isPaused) this.list.scrollTop = 0;
    this.#paintAll();
  }

  #hold(isIn) {
    this.#isPointerIn = isIn;
    this.#paintSoon();
  }

  /** Why rows are not moved now, or "". */
  get #holding() {
    if (this.#isPaused) return "Paused";
    if (this.list.scrollTop > 0) return "Held while you are further down";
    if (this.list !== document.activeElement && this.list.contains(document.activeElement)) return "Held while a row has the focus";
    return this.#isPointerIn ? "Held while the pointer is on it" : "";
  }

  // Painting.

  #paintSoon() {
    if (this.#isDue || this.box.hidden) return;
    this.#isDue = true;
    requestAnimationFrame(() => {
      this.#isDue = false;
      this.#paint();
    });
  }

  #paintAll() {
    this.#heldAt = null;
    this.#paintSoon();
  }

  #paint() {
    const holding = this.#holding;
    if (!holding || this.#heldAt === null) {
      this.#heldAt = holding ? this.#received : null;
      this.rows.setRows(this.#ring.list((row) => this.#isWanted(row)));
      this.rows.paint();
    }
    this.#tellCounts(holding);
  }

  #isWanted(row) {
    if (row.note) return !this.wal.checked;
    const { change, kind } = row;
    if (!this.#isOn(kind)) return false;
    if (this.prefix.value && !(change.key ?? change.prefix ?? "").startsWith(this.prefix.value)) return false;
    if (this.wal.checked && walLine(row) === null) return false;
    const wanted = this.text.value.toLowerCase();
    if (!wanted) return true;
    return (change.key ?? "").toLowerCase().includes(wanted) || row.text().toLowerCase().includes(wanted);
  }

  #tellCounts(holding) {
    const kept = this.#ring.size < this.#received ? `, the last ${countText(this.#ring.size)} are kept` : "";
    const count = holding ? this.#received - this.#heldAt : 0;
    const held = count || this.#isPaused || (holding && !this.#isPointerIn) ? `${holding}: ${countText(count)} new. ` : "";
    this.told.textContent = `${held}${countText(this.#received)} received${kept}`;
    this.told.dataset.received = this.#received;
    for (const { kind, count } of this.ticks) count.textContent = countText(this.#counts[kind]);
  }

  /** Paint what changes by time alone. */
  tick() {
    if (this.box.hidden) return;
    const counts = this.#rate.counts(performance.now() / 1000);
    const recent = counts.slice(-3);
    const rate = recent.reduce((sum, count) => sum + count, 0) / recent.length;
    const fast = rate > 500 ? ", faster than anybody reads: pause to look" : "";
    this.line.replaceChildren(sparkline(counts), ` ${rateText(rate)}${fast}`);
    this.rows.paintSoon(); // the ages
  }

  #makeRow() {
    const parts = ["time", "op", "key", "value", "delta", "type", "revision", "age"].map((name) => h(name === "key" ? "a" : "span", { class: name }));
    return Object.assign(h("div", { class: "row" }, ...parts), { parts });
  }

  #fillRow(element, row) {
    const [time, op, key, value, delta, type, revision, age] = element.parts;
    element.classList.toggle("wal", this.wal.checked);
    setText(age, row.note ? "" : ageOf(row.time));
    if (element.filledWith === row && element.filledAsWal === this.wal.checked) return;
    [element.filledWith, element.filledAsWal] = [row, this.wal.checked];
    const { change, kind, note } = row;
    element.classList.toggle("note", Boolean(note));
    setText(time, clockText(row.time));
    time.title = row.time.toISOString();
    op.className = `op ${note ?? kind}`;
    if (note) {
      setText(op, "");
      setText(key, row.text);
      [value, delta, type, revision].forEach((part) => setText(part, ""));
      delete element.dataset.key;
      key.removeAttribute("href");
      element.title = "";
      return;
    }
    if (change.key === undefined) {
      delete element.dataset.key;
      key.removeAttribute("href");
    } else {
      element.dataset.key = change.key;
      key.href = `#/key/${encodeURIComponent(change.key)}`;
    }
    setText(op, wordOf(row));
    setText(key, this.wal.checked ? walLine(row) : showText(change.key ?? change.prefix ?? change.peer ?? ""));
    setText(value, this.wal.checked ? "" : aboutOf(row));
    setText(delta, deltaOf(row));
    setText(type, change.kind === "put" ? typeText(change.contentType) : "");
    setText(revision, change.revision ? shortRevision(change.revision) : "");
    revision.title = change.revision ?? "";
    element.title = row.before ? `${row.before.shown} → ${change.kind === "put" ? previewOfRow(row) : "(gone)"}` : "";
  }

  // Actions.

  /** Forget everything that was received. */
  clear() {
    this.#since = "";
    if (this.#noise) this.#toggleNoise();
    this.rows.setRows([]);
    this.rows.paint();
    this.#clear();
  }

  #clear() {
    this.#ring.clear();
    this.#sizes.clear();
    this.#received = 0;
    for (const kind of KINDS) this.#counts[kind] = 0;
    this.list.scrollTop = 0;
    this.#paintAll();
  }

  #save() {
    const rows = this.#ring.list((row) => !row.note && this.#isWanted(row)).reverse();
    download("feed.ndjson", rows.map((row) => `${JSON.stringify(recordOf(row))}\n`).join(""), "application/x-ndjson");
  }

  #toggleNoise() {
    if (this.#noise) {
      clearInterval(this.#noise);
      this.#noise = null;
      this.noise.textContent = "Make some noise";
      return;
    }
    const name = Math.random().toString(36).slice(2, 8);
    let count = 0;
    const write = () => {
      count += 1;
      session.kv.put(`bg:${name}:iter:${count}`, `iteration ${count}`, { ttl: NOISE_TTL_S }).catch((error) => {
        if (!session.isLockedBy(error)) this.#push({ note: "refused", text: `the noise was not written: ${error.detail || error.message}`, time: new Date() });
      });
    };
    write();
    this.#noise = setInterval(write, NOISE_S * 1000);
    this.noise.textContent = "Stop the noise";
  }
}

function previewOfRow(row) {
  row.shown ??= row.entry ? previewOf(row.entry) : "";
  return row.shown;
}

function wordOf({ change, kind }) {
  return (kind === "reads" ? change.op.replace("_", " ") : kind).toUpperCase();
}

function aboutOf(row) {
  const { change } = row;
  if (change.kind === "put") return previewOfRow(row);
  if (change.kind === "touch") return change.expires ? `expires ${change.expires.toLocaleString()}` : "never expires";
  return change.kind === "delete" && change.cause === "prefix" ? "with its prefix" : "";
}

function deltaOf({ change, before }) {
  if (change.kind === "put") {
    if (!before) return sizeText(change.size);
    const more = change.size - before.size;
    return more ? `${more > 0 ? "+" : "−"}${sizeText(Math.abs(more))}` : "±0 B";
  }
  return change.kind === "delete" && before ? `−${sizeText(before.size)}` : "";
}

function ageOf(time) {
  const seconds = Math.max(0, (session.now() - time) / 1000);
  return seconds < 1 ? "now" : spanText(Math.floor(seconds)).replace(".0 s", " s");
}

function recordOf({ change, entry, time }) {
  const { kind, op, key, prefix, peer, revision, cause, size, contentType, expires } = change;
  const record = { op: kind === "activity" ? op : kind, key, prefix, peer, revision, time, cause, size, content_type: contentType, expires };
  const text = entry ? textOf(entry.bytes) : null;
  if (kind !== "put") return record;
  if (text !== null) return { ...record, value: text };
  return entry ? { ...record, value_base64: btoa(String.fromCharCode(...entry.bytes)) } : { ...record, value_left_out: true };
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}
