// Deleting all keys below a prefix: first what it would delete, then the prefix typed by hand.

import { button, h, labelled, openDialog } from "./dom.js";
import { session } from "./session.js";
import { countOf, showText } from "./values.js";

const SHOWN = 10;

/** Ask whether all keys below a prefix are to be deleted, and delete them. */
export function openRemoval(prefix) {
  openDialog("Delete all below a prefix", (close) => {
    const told = h("p", { role: "status" }, "Counting what it would delete …");
    const sample = h("ul", { class: "sample" });
    const typed = h("input", { autocomplete: "off", spellcheck: false, class: "mono" });
    const submit = h("button", { type: "submit", class: "danger" }, "Delete");
    const form = h(
      "form",
      {
        onsubmit: async (event) => {
          event.preventDefault();
          if (typed.value !== prefix) {
            told.textContent = "What was typed is not the prefix. Nothing was deleted.";
            return typed.focus();
          }
          submit.disabled = typed.disabled = true;
          told.textContent = "Deleting …";
          return remove(prefix, told, form);
        },
      },
      labelled("Type the prefix to confirm", typed),
      h("p", { class: "actions" }, submit, button("Cancel", close)),
    );
    const end = h("p", { class: "actions" }, button("Close", close));
    describe(prefix, told, sample);
    return [h("p", { class: "key mono" }, h("bdi", {}, showText(prefix))), told, sample, form, Object.assign(end, { hidden: true })];
  });
}

async function describe(prefix, told, sample) {
  try {
    const [{ count }, { items }] = await Promise.all([
      session.kv.deletePrefix(prefix, { dryRun: true }),
      session.kv.page(prefix, { limit: SHOWN }),
    ]);
    told.textContent = `This would delete ${countOf(count, "key")}${count > SHOWN ? `, the first ${SHOWN} of them:` : ":"}`;
    sample.replaceChildren(...items.map(({ key }) => h("li", {}, h("bdi", {}, showText(key)))));
  } catch (error) {
    if (!session.isLockedBy(error)) told.textContent = `It cannot be counted: ${error.detail || error.message}`;
  }
}

async function remove(prefix, told, form) {
  try {
    const { count } = await session.kv.withOptions({ patience: 30, timeout: 30 }).deletePrefix(prefix);
    told.textContent = `${countOf(count, "key")} deleted.`;
  } catch (error) {
    if (session.isLockedBy(error)) return;
    told.textContent = `Not all were deleted: ${error.detail || error.message}`;
  }
  form.hidden = true;
  form.nextElementSibling.hidden = false;
  form.nextElementSibling.querySelector("button").focus();
}
