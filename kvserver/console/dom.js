// Elements from names, properties and children. Text is always text: nothing here makes markup of a string.

const SVG = "http://www.w3.org/2000/svg";

/**
 * Return a new element. `properties` are set on it: `class`, names with a dash and `role` as attributes, `on…` as
 * listeners, others as properties. Children are nodes or strings; null and false are left out.
 */
export function h(name, properties = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (key === "class") element.className = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key.includes("-") || key === "role" || key === "for") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Return a new element of SVG with these attributes. */
export function svg(name, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

let count = 0;

/** Return an id that no other element of the page has. */
export function newId(prefix) {
  count += 1;
  return `${prefix}-${count}`;
}

/** Return a field with its label. */
export function labelled(text, field, more = {}) {
  field.id ||= newId("field");
  return h("p", { class: "field", ...more }, h("label", { for: field.id }, text), field);
}

/** Return a tick box with its label. */
export function tickBox(text, box) {
  return h("label", { class: "tick" }, box, text);
}

/**
 * Return a button. `reason`: why it cannot be used now; it then stays reachable by keyboard, and says why.
 */
export function button(text, onclick, { reason = "", ...properties } = {}) {
  const shown = h("button", { type: "button", ...properties }, text);
  shown.addEventListener("click", (event) => {
    if (shown.getAttribute("aria-disabled") === "true") event.stopImmediatePropagation();
    else onclick(event);
  });
  forbid(shown, reason);
  return shown;
}

/** Let a button be used, or say why it cannot. */
export function forbid(shown, reason) {
  if (reason) {
    shown.setAttribute("aria-disabled", "true");
    shown.setAttribute("aria-description", reason);
  } else {
    shown.removeAttribute("aria-disabled");
    shown.removeAttribute("aria-description");
  }
  shown.title = reason;
}

/**
 * Show a dialog until it is closed. `fill` is called with the function that closes it, and returns what is in it.
 */
export function openDialog(title, fill) {
  const heading = h("h2", { id: newId("dialog") }, title);
  const dialog = h("dialog", { "aria-labelledby": heading.id });
  const close = () => dialog.close();
  dialog.append(heading, ...[fill(close, dialog)].flat());
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** Copy a text to the clipboard; false where the browser has none for this page. */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const field = h("textarea", { value: text, readOnly: true, class: "unseen" });
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }
}

/** Return a button that copies what `textOf()` returns. */
export function copyButton(name, textOf) {
  let reset;
  const shown = button(name, async () => {
    shown.textContent = (await copyText(textOf())) ? "Copied" : "Select it by hand";
    clearTimeout(reset);
    reset = setTimeout(() => (shown.textContent = name), 2000);
  });
  shown.setAttribute("aria-live", "polite");
  return shown;
}

/** Hand bytes to the person as a file. */
export function download(name, bytes, type) {
  const address = URL.createObjectURL(new Blob([bytes], { type }));
  const link = h("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}
