// When a key expires: shown, set and taken off.

import { button, h, labelled, openDialog } from "./dom.js";
import { session } from "./session.js";
import { showText } from "./values.js";

const UNITS = [["s", 1, "seconds"], ["m", 60, "minutes"], ["h", 3600, "hours"], ["d", 86_400, "days"]];

/** Return fields for a length of time: `{element, seconds()}`; null where nothing is entered, NaN for what is none. */
export function spanFields(label) {
  const number = h("input", { inputMode: "decimal", size: 8, autocomplete: "off" });
  const unit = h("select", { "aria-label": "Unit" }, ...UNITS.map(([, length, name]) => h("option", { value: String(length) }, name)));
  const element = h("div", { class: "span" }, labelled(label, number), unit);
  const seconds = () => {
    if (!number.value.trim()) return null;
    const given = Number(number.value) * Number(unit.value);
    return given > 0 ? given : Number.NaN;
  };
  return { element, seconds, number };
}

/** Ask when a key is to expire. `onDone` is called after it was changed. */
export function openExpiry(entry, onDone) {
  openDialog("When does it expire?", (close) => {
    const fields = spanFields("In");
    const told = h("p", { role: "status" }, entry.expires ? `Now: at ${entry.expires.toLocaleString()}` : "Now: never");
    const touch = async (how) => {
      try {
        await session.kv.touch(entry.key, { ...how, ifRevision: entry.revision });
        close();
        onDone();
      } catch (error) {
        if (session.isLockedBy(error)) return close();
        const isOld = error.code === "precondition_failed";
        told.textContent = isOld ? "Somebody else changed it meanwhile. Nothing was done; look at it first." : `Not changed: ${error.detail || error.message}`;
      }
      return undefined;
    };
    const form = h("form", {
      onsubmit: (event) => {
        event.preventDefault();
        const ttl = fields.seconds();
        if (ttl === null || Number.isNaN(ttl)) told.textContent = "Enter a number above 0.";
        else touch({ ttl });
      },
    });
    const never = button("Never", () => touch({ persist: true }), { reason: entry.expires ? "" : "It never expires" });
    form.append(fields.element, h("p", { class: "actions" }, h("button", { type: "submit", class: "main" }, "Set"), never, button("Cancel", close)));
    return [h("p", { class: "key mono" }, h("bdi", {}, showText(entry.key))), told, form];
  });
}
