// What a page can do beside being read: its examples can be copied, and everything can be searched.

const create = (name, properties, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

// Copying: of a console what is typed, of other examples everything.

const typedText = (block) => {
  const typed = [...block.querySelectorAll(".typed")];
  return typed.length ? typed.map((line) => line.textContent).join("\n") : block.textContent;
};

const copyText = async (text) => {
  if (navigator.clipboard) return navigator.clipboard.writeText(text);
  // A page without TLS, from another machine: browsers have no clipboard there but for what is selected.
  const field = create("textarea", { value: text, readOnly: true, className: "unseen" });
  document.body.append(field);
  field.select();
  const copied = document.execCommand("copy");
  field.remove();
  if (!copied) throw new Error("the browser copies nothing here");
};

for (const example of document.querySelectorAll(".example")) {
  const button = create("button", { type: "button", className: "copy", textContent: "Copy" });
  button.setAttribute("aria-live", "polite");
  let reset;
  button.addEventListener("click", async () => {
    const told = await copyText(typedText(example.querySelector("pre"))).then(() => "Copied", () => "Select it by hand");
    button.textContent = told;
    button.focus();
    clearTimeout(reset);
    reset = setTimeout(() => (button.textContent = "Copy"), 2000);
  });
  example.classList.add("copyable");
  example.append(button);
}

// Searching.

const form = document.querySelector(".search");
const field = form.querySelector("input");
const found = form.querySelector(".found");
const status = found.querySelector("p");
const list = found.querySelector("ul");
const MOST = 20;
const AROUND = 60;

let index;
const load = () =>
  (index ??= fetch("/docs/search.json")
    .then((answer) => (answer.ok ? answer.json() : Promise.reject(new Error(`status ${answer.status}`))))
    .then((records) =>
      records.map((record) => ({
        ...record,
        low: { page: record.page.toLowerCase(), heading: record.heading.toLowerCase(), text: record.text.toLowerCase() },
      })),
    )
    .catch((error) => {
      index = undefined;
      throw error;
    }));

// How well a record fits: 0 unless it has every word, more where headings have it, most where they begin with it.
const rate = ({ low }, words) => {
  let sum = 0;
  for (const word of words) {
    const at = low.heading.indexOf(word);
    const begins = at === 0 || (at > 0 && !/[a-z0-9]/.test(low.heading[at - 1]));
    const worth = (at < 0 ? 0 : begins ? 12 : 6) + (low.page.includes(word) ? 3 : 0) + (low.text.includes(word) ? 1 : 0);
    if (!worth) return 0;
    sum += worth;
  }
  return sum;
};

// `text` with every word marked, as nodes.
const mark = (text, words) => {
  const pattern = words.map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")).join("|");
  return text
    .split(new RegExp(`(${pattern})`, "gi"))
    .map((part, place) => (place % 2 ? create("mark", { textContent: part }) : part));
};

// The part of a record's text where the first word stands.
const excerpt = ({ text, low }, words) => {
  const at = Math.min(...words.map((word) => low.text.indexOf(word)).filter((place) => place >= 0), text.length);
  const start = at === text.length || at < AROUND ? 0 : text.lastIndexOf(" ", at - AROUND / 2) + 1;
  const rest = text.slice(start);
  const part = rest.length > 3 * AROUND ? rest.slice(0, rest.lastIndexOf(" ", 3 * AROUND)) : rest;
  return (start ? "… " : "") + part + (start + part.length < text.length ? " …" : "");
};

const showRecord = (record, words) => {
  const where = record.page === record.heading ? [] : [create("small", { textContent: record.page })];
  const link = create("a", { href: record.at }, ...where, create("b", {}, ...mark(record.heading, words)));
  link.append(create("span", {}, ...mark(excerpt(record, words), words)));
  return create("li", {}, link);
};

const close = () => {
  found.hidden = true;
  list.replaceChildren();
};

const search = async () => {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  if (!words.length) return close();
  let records;
  try {
    records = await load();
  } catch {
    found.hidden = false;
    status.textContent = "The server does not answer.";
    return list.replaceChildren();
  }
  if (words.join(" ") !== field.value.toLowerCase().trim().split(/\s+/).join(" ")) return; // typed on meanwhile
  const rated = records.map((record) => [rate(record, words), record]).filter(([worth]) => worth);
  rated.sort(([one], [other]) => other - one);
  list.replaceChildren(...rated.slice(0, MOST).map(([, record]) => showRecord(record, words)));
  const count = rated.length === 1 ? "1 place" : `${rated.length} places`;
  status.textContent = rated.length ? (rated.length > MOST ? `${count}, the best ${MOST}:` : `${count}:`) : "Nothing found.";
  found.hidden = false;
  found.scrollTop = 0;
};

form.hidden = false;
field.addEventListener("focus", () => load().catch(() => {}), { once: true });
field.addEventListener("input", search);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  list.querySelector("a")?.click();
});
list.addEventListener("click", close);

document.addEventListener("keydown", (event) => {
  const writes = event.target.closest?.("input, textarea, select, [contenteditable]");
  if (event.key === "/" && !writes && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    field.focus();
    field.select();
  }
});
form.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !found.hidden) {
    event.preventDefault();
    field.focus();
    close();
  }
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step || found.hidden) return;
  event.preventDefault();
  const stops = [field, ...list.querySelectorAll("a")];
  stops[Math.min(Math.max(stops.indexOf(document.activeElement) + step, 0), stops.length - 1)].focus();
});
document.addEventListener("click", (event) => form.contains(event.target) || close());
form.addEventListener("focusout", (event) => {
  if (event.relatedTarget && !form.contains(event.relatedTarget)) close();
});

// The navigation: folded away once a place on this page was chosen, and scrolled to where the page is in it.

const menu = document.querySelector(".menu");
const summary = menu?.querySelector("summary");
menu?.addEventListener("click", (event) => {
  if (event.target.closest("a") && summary.offsetParent) menu.open = false;
});
menu?.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
