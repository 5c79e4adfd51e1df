// The page: which view is shown, who is signed in, the connection that keeps the keys live, and the shortcuts.

import { button, h, openDialog } from "./dom.js";
import { FeedView } from "./feed.js";
import { KeysView } from "./keys.js";
import { showWho, tokenForm } from "./login.js";
import { session } from "./session.js";
import { StatusView } from "./status.js";
import { Following } from "./watching.js";

const EARLY_MS = 700;

const main = document.querySelector("main");
const who = document.querySelector(".who");
const state = document.querySelector(".tabs .state");
const tabs = [...document.querySelectorAll(".tabs a")];

const section = (name) => h("section", { class: `view ${name}`, "aria-label": name[0].toUpperCase() + name.slice(1), hidden: true });
const boxes = { keys: section("keys"), feed: section("feed"), status: section("status") };
main.append(...Object.values(boxes));
const views = { keys: new KeysView(boxes.keys), feed: new FeedView(boxes.feed, (told) => ((states.feed = told), showState())), status: new StatusView(boxes.status) };

let shown = location.hash;
let login = null;
let live = null;
let isDown = false;
let keysAreDue = false;
let wasEarly = false;

// What is shown.

/** Return the view and what it shows, as the address says. */
function readAddress() {
  const [, kind = "", name = ""] = /^#\/(\w+)(?:\/(.*))?$/.exec(location.hash) ?? [];
  try {
    return { kind, name: decodeURIComponent(name) };
  } catch {
    return { kind: "keys", name: "" };
  }
}

function route() {
  if (location.hash !== shown && !views.keys.entry.mayLeave()) {
    history.replaceState(null, "", shown || "#/keys");
    return;
  }
  shown = location.hash;
  const { kind, name } = readAddress();
  const view = kind === "feed" || kind === "status" ? kind : "keys";
  for (const [each, box] of Object.entries(boxes)) box.hidden = !session.isOpen || each !== view;
  for (const tab of tabs) {
    if (tab.hash === `#/${view}`) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  document.title = `${view[0].toUpperCase() + view.slice(1)} · kvserver`;
  if (!session.isOpen) return;
  if (view === "keys") views.keys.show(["key", "folder", "new"].includes(kind) ? kind : "keys", name);
  else views[view].start();
  if (view !== "status") views.status.stop();
  showState();
}

// The connection that keeps the keys live.

const states = { keys: { kind: "connecting", text: "connecting …" }, feed: null };

/** Show the state of the connection that the view lives on. */
function showState() {
  const { kind, text } = (!boxes.feed.hidden && states.feed) || states.keys;
  state.dataset.kind = kind;
  const words = state.querySelector(".words");
  if (words.textContent !== text) words.textContent = text;
}

function tell({ kind, text }) {
  states.keys = { kind, text };
  showState();
  if (kind === "live" || kind === "refused") loadKeys();
  if (kind === "waiting") isDown = true;
  else if (kind === "live" && isDown) {
    isDown = false;
    session.refresh();
    views.keys.entry.refresh();
  }
}

/** Load the keys once the feed shows every later change; if that takes long, before, and then again. */
function loadKeys(isEarly = false) {
  if (!keysAreDue || !session.isOpen) return;
  views.keys.load(wasEarly);
  if (wasEarly) views.keys.entry.refresh();
  keysAreDue = wasEarly = isEarly;
}

function follow() {
  live?.close();
  if (!session.grants.some(({ allow }) => allow.includes("feed"))) {
    live = null;
    return tell({ kind: "refused", text: "not live: the token may not watch" });
  }
  live = new Following(session.kv, null, { values: false }, {
    take: (changes) => views.keys.take(changes),
    tell,
    onLost: () => {
      views.keys.load(true);
      views.keys.entry.refresh();
    },
    onError: (error) => session.isLockedBy(error),
  });
  return undefined;
}

// Who is signed in.

session.addEventListener("open", () => {
  login?.remove();
  login = null;
  showWho(who);
  [keysAreDue, wasEarly] = [true, false];
  follow();
  session.readClock();
  setTimeout(() => keysAreDue && !wasEarly && loadKeys(true), EARLY_MS);
  views.feed.restart();
  views.status.restart();
  route();
});

session.addEventListener("grants", () => {
  showWho(who);
  if (!live || states.keys.kind === "refused") follow();
  if (states.feed?.kind === "refused") views.feed.restart();
});

session.addEventListener("locked", () => {
  live?.close();
  live = null;
  views.feed.stop();
  views.status.stop();
  Object.values(views).forEach((view) => view.clear());
  showWho(who);
  for (const box of Object.values(boxes)) box.hidden = true;
  document.querySelectorAll("dialog").forEach((dialog) => dialog.close());
  login?.remove();
  login = tokenForm();
  main.append(login);
  tell({ kind: "refused", text: "a token is needed" });
  login.querySelector("input").focus();
});

// Shortcuts.

const SHORTCUTS = [
  ["/", "find keys"],
  ["g k, g f, g s", "keys, feed, status"],
  ["n", "new key"],
  ["e", "edit the key that is shown"],
  ["Ctrl S", "save"],
  ["↑ ↓ j k", "move in the keys"],
  ["→ ←", "open and close a folder"],
  ["Enter", "show a key"],
  ["?", "this list"],
];
let isAfterG = false;

function showShortcuts() {
  openDialog("Shortcuts", (close) => [
    h("dl", { class: "shortcuts" }, ...SHORTCUTS.map(([keys, text]) => h("div", {}, h("dt", {}, h("kbd", {}, keys)), h("dd", {}, text)))),
    h("p", { class: "actions" }, button("Close", close)),
  ]);
}

document.addEventListener("keydown", (event) => {
  const writes = event.target.closest?.("input, textarea, select, dialog[open]");
  if (writes || event.ctrlKey || event.metaKey || event.altKey || !session.isOpen) return;
  const places = { k: "#/keys", f: "#/feed", s: "#/status" };
  if (isAfterG && event.key in places) location.hash = places[event.key];
  else if (event.key === "/") {
    if (readAddress().kind !== "keys") location.hash = "#/keys";
    route();
    views.keys.prefix.focus();
  } else if (event.key === "n") location.hash = "#/new/";
  else if (event.key === "e" && !boxes.keys.hidden) views.keys.entry.edit();
  else if (event.key === "?") showShortcuts();
  else {
    isAfterG = event.key === "g";
    return;
  }
  isAfterG = false;
  event.preventDefault();
  event.stopPropagation();
}, { capture: true });

document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  main.focus();
});

// Beginning.

addEventListener("hashchange", route);
addEventListener("beforeunload", (event) => views.keys.entry.isChanged && event.preventDefault());
setInterval(() => {
  for (const view of Object.values(views)) view.tick?.();
}, 1000);

async function start() {
  for (let wait = 500; ; wait = Math.min(2 * wait, 5000)) {
    try {
      return await session.start();
    } catch (error) {
      tell({ kind: "waiting", text: `the server does not answer: ${error.detail || error.message}` });
      await new Promise((resolve) => setTimeout(resolve, wait));
    }
  }
}

start();
