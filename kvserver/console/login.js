// The form for a token, and who is signed in.

import { button, h, labelled, newId, tickBox } from "./dom.js";
import { session } from "./session.js";

/** Return the form that asks for a token. */
export function tokenForm() {
  const token = h("input", { type: "password", autocomplete: "off", spellcheck: false, required: true });
  const keep = h("input", { type: "checkbox" });
  const told = h("p", { class: "notice bad", role: "alert", hidden: true });
  const heading = h("h2", { id: newId("login") }, "This server wants a token");
  const submit = h("button", { type: "submit", class: "main" }, "Open the console");
  const say = (text) => {
    told.textContent = text;
    told.hidden = !text;
  };
  say(session.reason);
  return h(
    "form",
    {
      class: "login",
      "aria-labelledby": heading.id,
      onsubmit: async (event) => {
        event.preventDefault();
        submit.disabled = true;
        try {
          await session.signIn(token.value.trim(), keep.checked);
        } catch (error) {
          say(error.status === 401 ? "The server does not know this token." : error.detail || error.message);
          token.focus();
        } finally {
          submit.disabled = false;
        }
      },
    },
    heading,
    told,
    labelled("Token", token),
    h("p", {}, tickBox("Keep it until this tab is closed", keep)),
    h("p", { class: "actions" }, submit),
    h("p", { class: "hint" }, "It stays in this page, and goes to this server alone. ", h("a", { href: "/docs/access" }, "How tokens are made")),
  );
}

/** Show who is signed in, and what that allows. */
export function showWho(box) {
  if (!session.isOpen || !session.name) return box.replaceChildren(...(session.isOpen ? [h("span", { class: "soft", title: "The server has no tokens: everyone may do everything" }, "no token needed")] : []));
  const rights = session.grants.map(({ prefix, allow }) => h("li", {}, h("bdi", { class: "mono" }, prefix || "(all keys)"), `: ${allow.join(", ")}`));
  const details = h("details", { class: "menu" }, h("summary", {}, session.name), h("div", {}, h("p", {}, "This token may:"), h("ul", {}, ...rights), button("Forget the token", () => session.signOut())));
  return box.replaceChildren(details);
}
