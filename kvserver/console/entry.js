// One key: what it holds, shown by its type, and what can be done to it.

import { button, copyButton, download, h, openDialog } from "./dom.js";
import { Editor, openNew } from "./editor.js";
import { openExpiry } from "./expiry.js";
import { session } from "./session.js";
import { faultOfJson, hexOf, indentJson, kindOf, showLines, showText, sizeText, spanText, textOf } from "./values.js";

const MOST_SHOWN = 1 << 20;
const FIRST_PART = 1 << 16;
const RELOAD_MS = 50;
const SAID_MS = 4000;
const AGAIN_MS = 3000;

export class EntryPane {
  #key = null;
  #entry = null;
  #editor = null;
  #mode = "";
  #reload = 0;
  #image = null;
  #life = null;
  #changed = null;
  #loads = 0;
  #deleted = null;
  #said = null;

  constructor(box) {
    this.box = box;
    this.close();
  }

  /** Show nothing, or these elements. */
  close(children = null) {
    this.#forget();
    const hint = h("p", { class: "hint" }, "Choose a key to see what it holds. / finds keys, ? lists all shortcuts.");
    this.box.replaceChildren(...(children ? [this.#backLink(), ...children] : [hint]));
  }

  #forget() {
    clearTimeout(this.#reload);
    this.#editor?.close();
    [this.#key, this.#entry, this.#editor, this.#mode, this.#life, this.#deleted] = [null, null, null, "", null, null];
    this.#said = null;
    this.#reload = 0;
    this.#dropImage();
  }

  #dropImage() {
    if (this.#image) URL.revokeObjectURL(this.#image);
    this.#image = null;
  }

  #backLink() {
    return h("p", { class: "back" }, h("a", { href: "#/keys" }, "‹ All keys"));
  }

  /** Show the form for a new key, whose name begins with `prefix`. */
  openNew(prefix) {
    this.#forget();
    this.box.replaceChildren(this.#backLink(), ...openNew(prefix));
    this.box.querySelector("input").focus();
  }

  /** Show a key. */
  async open(key) {
    if (key === this.#key && this.#entry) return;
    this.#forget();
    this.#key = key;
    this.box.replaceChildren(this.#backLink(), this.#heading(), h("p", { role: "status" }, "Loading …"));
    await this.#load();
  }

  async #load() {
    const [key, load] = [this.#key, ++this.#loads];
    const isOver = () => key !== this.#key || load !== this.#loads;
    try {
      const entry = await readEntry(key);
      if (isOver()) return;
      this.#entry = entry;
      if (entry) this.#deleted = null;
      if (this.#editor) return;
      this.#render();
    } catch (error) {
      if (isOver() || session.isLockedBy(error)) return;
      const told = h("p", { class: "notice bad", role: "status" }, `It cannot be read: ${error.detail || error.message}`);
      this.box.replaceChildren(this.#backLink(), this.#heading(), told, h("p", { class: "actions" }, button("Try again", () => this.#load())));
      if (error.status === 503) setTimeout(() => isOver() || this.#load(), AGAIN_MS); // a machine that lost its cluster, say
    }
  }

  #heading() {
    return h("h2", { class: "key" }, h("bdi", {}, showText(this.#key) || "(empty name)"));
  }

  #render() {
    this.#dropImage();
    const entry = this.#entry;
    if (!entry) return this.#renderAbsent();
    const { scrollTop } = this.box;
    const kind = kindOf(entry.contentType, entry.bytes);
    const modes = modesOf(kind, entry);
    if (!modes.includes(this.#mode)) [this.#mode] = modes;
    const switcher = h("p", { class: "modes", role: "group", "aria-label": "How it is shown" });
    for (const mode of modes.length > 1 ? modes : []) {
      const shown = button(mode, () => {
        this.#mode = mode;
        this.#render();
        [...this.box.querySelectorAll(".modes button")].find((each) => each.textContent === mode)?.focus();
      });
      shown.setAttribute("aria-pressed", String(mode === this.#mode));
      switcher.append(shown);
    }
    this.box.replaceChildren(this.#backLink(), this.#heading(), this.#facts(), this.#actions(), ...this.#notices(kind), switcher, this.#body(kind));
    this.box.scrollTop = scrollTop;
    if (this.#said && performance.now() - this.#said.at < SAID_MS) this.say(this.#said.text, this.#said.isBad);
    return undefined;
  }

  #renderAbsent() {
    const why = { expire: "It expired.", evict: "It was evicted to make room.", prefix: "It was deleted with its prefix." };
    const text = this.#deleted ? (why[this.#deleted.cause] ?? "It was deleted.") : "There is no such key.";
    const actions = h("p", { class: "actions" });
    const before = this.#deleted?.entry;
    const reason = session.whyNot("write", this.#key);
    if (before?.isWhole) actions.append(button("Put it back", () => this.#putBack(before), { reason }));
    actions.append(button("Create it", () => (location.hash = `#/new/${encodeURIComponent(this.#key)}`), { reason }));
    this.box.replaceChildren(this.#backLink(), this.#heading(), h("p", { class: "notice", role: "status" }, text), actions);
  }

  async #putBack(before) {
    try {
      await session.kv.create(before.key, before.bytes, { contentType: before.contentType });
      await this.#load();
    } catch (error) {
      if (!session.isLockedBy(error)) this.say(`It was not put back: ${error.detail || error.message}`, true);
    }
  }

  #facts() {
    const entry = this.#entry;
    this.#life = h("dd", {});
    this.#changed = h("dd", {});
    const facts = h("dl", { class: "facts" });
    const rows = [
      ["Type", h("dd", {}, entry.contentType)],
      ["Size", h("dd", {}, `${sizeText(entry.size)}${entry.size >= 1024 ? ` (${entry.size.toLocaleString("en-US")} bytes)` : ""}`)],
      ["Changed", this.#changed],
      ["Expires", this.#life],
      ["Revision", h("dd", { class: "revision" }, String(entry.revision))],
    ];
    for (const [name, shown] of rows) facts.append(h("div", {}, h("dt", {}, name), shown));
    this.tick();
    return facts;
  }

  /** Show how long it has been and will be there. */
  tick() {
    if (!this.#entry || !this.#life) return;
    const { expires, modified } = this.#entry;
    this.#life.textContent = expires ? `in ${spanText((expires - session.now()) / 1000)}` : "never";
    this.#life.title = expires ? expires.toISOString() : "";
    this.#changed.textContent = modified ? `${spanText(Math.max(0, Math.round((session.now() - modified) / 1000)))} ago` : "";
    this.#changed.title = modified ? modified.toISOString() : "";
  }

  #actions() {
    const entry = this.#entry;
    const reason = session.whyNot("write", entry.key);
    return h(
      "p",
      { class: "actions" },
      button("Edit", () => this.edit(), { class: "main", reason: reason || whyNoEdit(entry) }),
      button("Expiry …", () => openExpiry(entry, () => this.#load()), { reason }),
      button("Replace by a file …", () => this.#replace(), { reason }),
      button("Download", () => this.#download()),
      copyButton("Copy key", () => entry.key),
      copyButton("Copy curl", () => curlOf(entry.key)),
      button("Delete …", () => this.#delete(), { class: "danger", reason }),
    );
  }

  #notices(kind) {
    const notices = [];
    const entry = this.#entry;
    if (!entry.isWhole) notices.push(`These are the first ${sizeText(entry.bytes.length)} of ${sizeText(entry.size)}; Download has all.`);
    const fault = kind === "json" && entry.isWhole ? faultOfJson(textOf(entry.bytes)) : null;
    if (fault) notices.push(`The type says JSON, but it is not: ${fault}`);
    return notices.map((text) => h("p", { class: "notice" }, text));
  }

  #body(kind) {
    const { bytes, contentType } = this.#entry;
    if (!bytes.length) return h("p", { class: "hint" }, "The value is empty.");
    if (this.#mode === "Image") {
      this.#image = URL.createObjectURL(new Blob([bytes], { type: contentType }));
      return h("p", { class: "picture" }, h("img", { src: this.#image, alt: `The value of ${showText(this.#key)}` }));
    }
    const text = textOf(bytes);
    const shown = this.#mode === "Hex" ? hexOf(bytes) : showLines(this.#mode === "Indented" ? indentJson(text) : text);
    return h("pre", { class: `value ${this.#mode === "Hex" ? "hex" : kind}`, tabIndex: 0, role: "group", "aria-label": "Value" }, shown);
  }

  /** Say something above the value. */
  say(text, isBad = false) {
    this.#said = { text, isBad, at: performance.now() };
    this.box.querySelector(".said")?.remove();
    this.box.querySelector("h2").after(h("p", { class: `notice said${isBad ? " bad" : " good"}`, role: "status" }, text));
  }

  /** Edit the value. */
  edit() {
    const entry = this.#entry;
    if (!entry || this.#editor || whyNoEdit(entry) || session.whyNot("write", entry.key)) return;
    this.#editor = new Editor(entry, {
      onSaved: async (text) => {
        this.#editor = null;
        await this.#load();
        if (text && this.#entry) this.say(text);
      },
    });
    this.box.replaceChildren(this.#backLink(), this.#heading(), this.#editor.element);
    this.#editor.focus();
  }

  #replace() {
    const entry = this.#entry;
    const input = h("input", { type: "file", hidden: true });
    input.addEventListener("change", async () => {
      const [file] = input.files;
      input.remove();
      if (!file) return;
      try {
        const contentType = file.type || "application/octet-stream";
        await session.kv.put(entry.key, await file.arrayBuffer(), { contentType, expires: entry.expires ?? undefined, ifRevision: entry.revision });
        await this.#load();
        this.say(`Replaced by ${showText(file.name)}.`);
      } catch (error) {
        if (session.isLockedBy(error)) return;
        const isOld = error.code === "precondition_failed";
        this.say(isOld ? "Somebody else changed it meanwhile. Nothing was replaced; look at it first." : `Not replaced: ${error.detail || error.message}`, true);
      }
    });
    this.box.append(input);
    input.click();
  }

  async #download() {
    const entry = this.#entry;
    try {
      const whole = entry.isWhole ? entry : await session.kv.withOptions({ timeout: 60 }).get(entry.key);
      if (whole) download(entry.key.split("/").pop() || "value", whole.bytes, whole.contentType);
    } catch (error) {
      if (!session.isLockedBy(error)) this.say(`Not downloaded: ${error.detail || error.message}`, true);
    }
  }

  #delete() {
    const entry = this.#entry;
    openDialog("Delete this key?", (close) => {
      const told = h("p", { role: "status" });
      const act = button("Delete", async () => {
        try {
          await session.kv.delete(entry.key, { ifRevision: entry.revision });
          close();
          this.#gone({ cause: "request" });
        } catch (error) {
          if (session.isLockedBy(error)) return close();
          const isOld = error.code === "precondition_failed";
          told.textContent = isOld ? "Somebody else changed it meanwhile. It was not deleted; look at it first." : `Not deleted: ${error.detail || error.message}`;
        }
        return undefined;
      }, { class: "danger" });
      return [h("p", { class: "key mono" }, h("bdi", {}, showText(entry.key))), told, h("p", { class: "actions" }, act, button("Cancel", close))];
    });
  }

  #gone({ cause }) {
    if (this.#entry) this.#deleted = { cause, entry: this.#entry };
    this.#entry = null;
    this.#loads += 1;
    this.#renderAbsent();
  }

  /** Take a change of the feed. */
  take(change) {
    if (change.key !== this.#key || this.#key === null) return;
    const known = this.#entry?.revision ?? 0;
    if (this.#editor) this.#editor.take(change);
    else if (change.revision <= known) return;
    else if (change.kind === "delete" && this.#entry) this.#gone(change);
    else if (change.kind !== "delete") this.#reload ||= setTimeout(() => this.#reloadNow(), RELOAD_MS);
  }

  async #reloadNow() {
    await this.#load();
    const flash = this.box.querySelector(".facts");
    flash?.classList.add("fresh");
    setTimeout(() => flash?.classList.remove("fresh"), 1200);
    this.#reload = 0;
  }

  /** Whether there is text that is not saved. */
  get isChanged() {
    return Boolean(this.#editor?.isChanged);
  }

  /** Ask whether text that is not saved may be lost. */
  mayLeave() {
    return !this.isChanged || confirm("Leave without saving?");
  }

  /** Read the key again: changes may have been missed. */
  refresh() {
    if (this.#key !== null && !this.#editor) this.#load();
    else this.#editor?.check();
  }
}

/** Return an entry, of a large one the first part; `isWhole` says whether it is all. */
async function readEntry(key) {
  const kv = session.kv;
  const meta = await kv.head(key);
  if (!meta) return null;
  const isLarge = meta.size !== undefined && meta.size > MOST_SHOWN;
  const entry = await kv.get(key, isLarge ? { range: [0, FIRST_PART - 1] } : {});
  if (!entry) return null;
  return Object.assign(entry, { size: isLarge ? meta.size : entry.bytes.length, isWhole: !isLarge });
}

function modesOf(kind, { isWhole, bytes }) {
  if (kind === "image") return isWhole ? ["Image", "Hex"] : ["Hex"];
  if (kind === "bytes") return ["Hex"];
  const canIndent = kind === "json" && isWhole && faultOfJson(textOf(bytes)) === null;
  return canIndent ? ["As stored", "Indented", "Hex"] : ["As stored", "Hex"];
}

function whyNoEdit(entry) {
  if (!entry.isWhole) return `Values over ${sizeText(MOST_SHOWN)} are replaced by a file`;
  const isText = textOf(entry.bytes) !== null;
  return !isText && entry.size > FIRST_PART ? `Bytes over ${sizeText(FIRST_PART)} are replaced by a file` : "";
}

/** Return a command that reads a key. */
export function curlOf(key) {
  const path = encodeURIComponent(key).replaceAll("%2F", "/").replaceAll("'", "%27");
  const isPlain = key.split("/").every((part) => !["", ".", ".."].includes(part));
  const address = `${location.origin}/v1/kv/${isPlain ? path : path.replaceAll("/", "%2F")}`;
  return `curl ${session.hasToken ? '-H "Authorization: Bearer $KVSERVER_TOKEN" ' : ""}${isPlain ? "" : "--path-as-is "}'${address}'`;
}
