// Who uses the console: the client with its token, and what the token may do.

import { connect, Unauthorized } from "/sdk/client.js";

const KEPT = "kvserver.console.token";
/** The storage of this tab; one that keeps nothing where the browser allows none. */
const storage = (() => {
  try {
    return globalThis.sessionStorage;
  } catch {
    return { getItem: () => null, setItem() {}, removeItem() {} };
  }
})();

const WORDS = { read: "read", write: "change", feed: "watch", admin: "see all of the server" };

/** The one session of the page. Events: `open` (a client is there, maybe another one), `locked` (a token is needed). */
class Session extends EventTarget {
  kv = connect();
  name = null;
  grants = [];
  isOpen = false;
  /** Why a token is needed. */
  reason = "";
  #token = null;
  /** Milliseconds by which the server's clock is ahead of this one's. */
  skewMs = 0;

  /** Return the server's time, in milliseconds. */
  now() {
    return Date.now() + this.skewMs;
  }

  /** Ask what time the server has, if the token may know. A difference that the way explains counts as none. */
  async readClock() {
    if (!this.may("admin", "") && !this.may("read", "")) return;
    const sent = Date.now();
    try {
      const { clock } = await this.kv.status();
      const came = Date.now();
      const ahead = Date.parse(clock.time) - (sent + came) / 2;
      this.skewMs = Math.abs(ahead) > 1000 + came - sent ? ahead : 0;
    } catch (error) {
      this.isLockedBy(error);
    }
  }

  get hasToken() {
    return this.#token !== null;
  }

  /** Ask the server who this is, with the token that was kept. */
  async start() {
    const token = storage.getItem(KEPT);
    try {
      await this.#enter(token);
    } catch (error) {
      if (!(error instanceof Unauthorized)) throw error;
      this.lock(token ? "The token that was kept is not valid any more." : "");
    }
  }

  /** Use another token. `isKept`: until this tab is closed. Throws what the server says to it. */
  async signIn(token, isKept) {
    await this.#enter(token);
    if (isKept) storage.setItem(KEPT, token);
    else storage.removeItem(KEPT);
  }

  async #enter(token) {
    const kv = connect(undefined, { ...(token ? { token } : {}), patience: 4 });
    const { name, grants } = await kv.whoami();
    Object.assign(this, { kv, name, grants, isOpen: true, reason: "" });
    this.#token = token || null;
    this.dispatchEvent(new Event("open"));
  }

  /** Forget the token. */
  signOut() {
    this.lock("");
  }

  /** Ask for a token. */
  lock(reason) {
    storage.removeItem(KEPT);
    Object.assign(this, { isOpen: false, reason, name: null, grants: [], kv: connect() });
    this.#token = null;
    this.dispatchEvent(new Event("locked"));
  }

  /** Look at an error: one that says that the token is not known asks for another. Returns whether it did. */
  isLockedBy(error) {
    if (!(error instanceof Unauthorized)) return false;
    if (this.isOpen) this.lock(this.hasToken ? "The token is not valid any more." : "The server wants a token now.");
    return true;
  }

  /** Ask again what the token may do: its grants may have changed. */
  async refresh() {
    try {
      const { name, grants } = await this.kv.whoami();
      Object.assign(this, { name, grants });
      this.dispatchEvent(new Event("grants"));
    } catch (error) {
      if (!this.isLockedBy(error)) return; // the server is away; it is asked again when it is back
    }
  }

  /** Whether a key may be read, written or watched. */
  may(verb, key) {
    return this.grants.some(({ prefix, allow }) => allow.includes(verb) && key.startsWith(prefix));
  }

  /** Return why a key, or all keys below a prefix, may not be read, written or watched; empty: they may. */
  whyNot(verb, key) {
    if (this.may(verb, key)) return "";
    const granted = this.grants.filter(({ allow }) => allow.includes(verb)).map(({ prefix }) => prefix || "everything");
    const where = granted.length ? `; it may for: ${granted.join(", ")}` : "";
    return `The token ${this.name ?? ""} may not ${WORDS[verb]} this${where}`.replace("  ", " ");
  }
}

export const session = new Session();
