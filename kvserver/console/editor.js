// Editing a value: as text that is kept byte for byte, or as hexadecimal. What somebody else stored is never overwritten
// unseen: saving asks for the revision that was read, and shows both versions where there is another.

import { button, h, labelled, newId } from "./dom.js";
import { spanFields } from "./expiry.js";
import { session } from "./session.js";
import { bytesOf, bytesOfHex, editableOf, faultOfJson, hexOf, indentJson, isJsonType, kindOf, pairsOf, showLines, textOf } from "./values.js";

const SHOWN_OF_A_VERSION = 1 << 16;

export class Editor {
  #entry;
  #onSaved;
  #field;
  #type;
  #told;
  #conflict;
  #readBytes;
  #isOpen = true;

  constructor(entry, { onSaved }) {
    this.#entry = entry;
    this.#onSaved = onSaved;
    const kind = kindOf(entry.contentType, entry.bytes);
    const text = kind === "bytes" ? null : textOf(entry.bytes);
    const editable = text === null ? null : keptEditable(text);
    this.#field = h("textarea", { class: "value", spellcheck: false, autocomplete: "off", wrap: editable ? "soft" : "off" });
    this.#field.value = this.#field.defaultValue = editable ? editable.text : pairsOf(entry.bytes);
    this.#readBytes = () => (editable ? bytesOf(editable.restore(this.#field.value)) : bytesOfHex(this.#field.value));
    this.#type = h("input", { defaultValue: entry.contentType, autocomplete: "off", spellcheck: false });
    this.#told = h("p", { class: "told", role: "status" });
    this.#conflict = h("div", { class: "conflict", hidden: true, role: "alert" });
    const label = editable ? (editable.ends === "LF" ? "Value" : `Value (line ends: ${editable.ends})`) : "Value, in hexadecimal";
    const indent = button("Indent", () => (this.#field.value = indentJson(this.#field.value)));
    indent.hidden = !(editable && isJsonType(entry.contentType));
    this.element = h(
      "form",
      { class: "editor", onsubmit: (event) => (event.preventDefault(), this.save()) },
      this.#conflict,
      labelled(label, this.#field, { class: "field large" }),
      labelled("Type", this.#type),
      this.#told,
      h("p", { class: "actions" }, h("button", { type: "submit", class: "main", "aria-keyshortcuts": "Control+S" }, "Save"), indent, button("Cancel", () => this.#leave(""))),
    );
    this.element.addEventListener("keydown", (event) => {
      if ((event.ctrlKey || event.metaKey) && event.key === "s") {
        event.preventDefault();
        this.save();
      }
    });
  }

  /** Whether something was changed that is not saved. */
  get isChanged() {
    return this.#isOpen && (this.#field.value !== this.#field.defaultValue || this.#type.value !== this.#type.defaultValue);
  }

  focus() {
    this.#field.focus();
    this.#field.setSelectionRange(0, 0);
  }

  close() {
    this.#isOpen = false;
  }

  #leave(text) {
    this.#isOpen = false;
    this.#onSaved(text);
  }

  /** Save what is in the field, if the key still has the revision that was read. */
  async save({ evenIfNoJson = false } = {}) {
    const bytes = this.#readBytes();
    if (bytes === null) return this.#tell("These are not pairs of hexadecimal digits.");
    const fault = isJsonType(this.#type.value) ? faultOfJson(textOf(bytes) ?? "\0") : null;
    if (fault !== null && !evenIfNoJson) return this.#askAboutJson(fault);
    const { key, revision, expires } = this.#entry;
    this.#tell("Saving …");
    try {
      const how = { contentType: this.#type.value, expires: expires ?? undefined };
      await (revision ? session.kv.put(key, bytes, { ...how, ifRevision: revision }) : session.kv.create(key, bytes, how));
      this.#leave("Saved.");
    } catch (error) {
      if (!this.#isOpen || session.isLockedBy(error)) return undefined;
      if (["precondition_failed", "exists"].includes(error.code) || error.status === 412) return this.check("Not saved: ");
      this.#tell(`Not saved: ${error.detail || error.message}`);
    }
    return undefined;
  }

  #tell(text, ...buttons) {
    this.#told.replaceChildren(text, ...buttons);
  }

  #askAboutJson(fault) {
    this.#tell(`This is not JSON: ${fault} `, button("Save it anyway", () => this.save({ evenIfNoJson: true })));
  }

  /** Take a change of the key by the feed. */
  take(change) {
    if (change.revision <= this.#entry.revision) return;
    if (change.kind === "touch") this.#adopt(change.revision, change.expires);
    else this.check();
  }

  /** Take over a revision whose value is the one that was read. */
  #adopt(revision, expires) {
    this.#entry = Object.assign(Object.create(this.#entry), { revision, expires });
  }

  /** Look whether somebody else changed the key, and show both versions if so. */
  async check(before = "") {
    try {
      const theirs = await session.kv.get(this.#entry.key);
      if (!this.#isOpen || (theirs?.revision ?? 0) === this.#entry.revision) return;
      if (theirs && sameBytes(theirs.bytes, this.#entry.bytes) && theirs.contentType === this.#entry.contentType) {
        this.#adopt(theirs.revision, theirs.expires);
        if (before) this.#tell(`${before}its expiry was changed meanwhile. Save again.`);
        return;
      }
      this.#showConflict(theirs, before);
    } catch (error) {
      if (this.#isOpen && !session.isLockedBy(error)) this.#tell(`${before}${error.detail || error.message}`);
    }
  }

  #showConflict(theirs, before) {
    const what = theirs ? "somebody else changed it" : "somebody else deleted it";
    const mine = this.#readBytes() ?? new Uint8Array();
    const versions = h("div", { class: "versions" }, ...compared(mine, theirs?.bytes ?? null));
    const overwrite = button(theirs ? "Keep mine over it, and save" : "Create it again with mine", () => {
      this.#entry = Object.assign(Object.create(this.#entry), { revision: theirs?.revision ?? 0, expires: theirs?.expires ?? null });
      this.#conflict.hidden = true;
      this.save();
    });
    this.#conflict.replaceChildren(
      h("p", {}, h("strong", {}, `${before || ""}${before ? what : what[0].toUpperCase() + what.slice(1)}.`), " Nothing is overwritten until you choose."),
      versions,
      h("p", { class: "actions" }, button("Take theirs", () => this.#leave("")), overwrite),
    );
    this.#conflict.hidden = false;
    this.#tell("");
    this.#conflict.scrollIntoView({ block: "nearest" });
  }
}

/** Return how a text is edited, or null where a field would change it. */
function keptEditable(text) {
  const editable = editableOf(text);
  if (!editable) return null;
  const field = document.createElement("textarea");
  field.value = editable.text;
  return editable.restore(field.value) === text ? editable : null;
}

function sameBytes(one, other) {
  return one.length === other.length && one.every((byte, at) => byte === other[at]);
}

/** Return both versions, side by side, with the lines marked in which they differ. */
function compared(mine, theirs) {
  const lines = [mine, theirs ?? new Uint8Array()].map((bytes) => {
    const part = bytes.subarray(0, SHOWN_OF_A_VERSION);
    const text = textOf(part);
    return (text === null ? hexOf(part) : showLines(text)).split("\n");
  });
  const least = Math.min(lines[0].length, lines[1].length);
  let [start, end] = [0, 0];
  while (start < least && lines[0][start] === lines[1][start]) start++;
  while (end < least - start && lines[0].at(-1 - end) === lines[1].at(-1 - end)) end++;
  const show = (name, shown, isThere) => {
    const changed = shown.slice(start, shown.length - end).join("\n");
    const rest = end ? `\n${shown.slice(shown.length - end).join("\n")}` : "";
    const before = start ? `${shown.slice(0, start).join("\n")}\n` : "";
    const id = newId("version");
    const body = h("pre", { tabIndex: 0, role: "group", "aria-labelledby": id }, ...(isThere ? [before, h("mark", {}, changed), rest] : ["(deleted)"]));
    return h("div", {}, h("h3", { id }, name), body);
  };
  return [show("Yours", lines[0], true), show("Theirs", lines[1], theirs !== null)];
}

const TYPES = [
  ["text/plain; charset=utf-8", "Text"],
  ["application/json", "JSON"],
  ["application/octet-stream", "A file"],
];

/** Return the form for a new key, whose name begins with `prefix`. */
export function openNew(prefix) {
  const key = h("input", { value: prefix, autocomplete: "off", spellcheck: false, class: "mono" });
  const type = h("select", {}, ...TYPES.map(([value, name]) => h("option", { value }, name)));
  const text = h("textarea", { class: "value", spellcheck: false });
  const file = h("input", { type: "file" });
  const span = spanFields("Expires in (empty: never)");
  const told = h("p", { class: "told", role: "status" });
  const textField = labelled("Value", text, { class: "field large" });
  const fileField = labelled("File", file);
  fileField.hidden = true;
  type.addEventListener("change", () => {
    fileField.hidden = type.value !== TYPES[2][0];
    textField.hidden = !fileField.hidden;
  });
  let mayBeNoJson = false;
  const save = async () => {
    const ttl = span.seconds();
    const isFile = !fileField.hidden;
    if (Number.isNaN(ttl)) return (told.textContent = "An expiry is a number above 0, or empty.");
    if (!key.value) return (told.textContent = "A key has at least one character.");
    const why = session.whyNot("write", key.value);
    if (why) return (told.textContent = why);
    if (isFile && !file.files[0]) return (told.textContent = "Choose a file.");
    const fault = type.value === TYPES[1][0] ? faultOfJson(text.value) : null;
    if (fault !== null && !mayBeNoJson) {
      return told.replaceChildren(`This is not JSON: ${fault} `, button("Save it anyway", () => ((mayBeNoJson = true), save())));
    }
    const value = isFile ? await file.files[0].arrayBuffer() : bytesOf(text.value);
    const contentType = isFile ? file.files[0].type || type.value : type.value;
    try {
      await session.kv.create(key.value, value, { contentType, ...(ttl === null ? {} : { ttl }) });
      location.hash = `#/key/${encodeURIComponent(key.value)}`;
    } catch (error) {
      if (session.isLockedBy(error)) return undefined;
      if (error.status !== 412) return (told.textContent = `Not created: ${error.detail || error.message}`);
      told.replaceChildren("There is such a key already; nothing was changed. ", h("a", { href: `#/key/${encodeURIComponent(key.value)}` }, "Look at it"));
    }
    return undefined;
  };
  const form = h(
    "form",
    { class: "editor", onsubmit: (event) => (event.preventDefault(), save()) },
    labelled("Key", key),
    labelled("What it is", type),
    textField,
    fileField,
    span.element,
    told,
    h("p", { class: "actions" }, h("button", { type: "submit", class: "main" }, "Create"), button("Cancel", () => (location.hash = "#/keys"))),
  );
  return [h("h2", {}, "New key"), form];
}
