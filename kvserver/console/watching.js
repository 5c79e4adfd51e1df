// A watch of the feed that says in words what happens to it.

import { Forbidden, Unauthorized } from "/sdk/client.js";
import { countText, spanText } from "./values.js";

/** Return the end of a cursor or revision, by which people tell it from others. */
export function shortRevision(text) {
  const digits = String(text).split(".").slice(0, 2).at(-1).replace(/^\w+\./, "");
  return digits.length > 9 ? `…${digits.slice(-6)}` : digits;
}

const GAPS = {
  trimmed: "the server no longer keeps them",
  epoch: "the store has another history now",
  bad_cursor: "the server does not know the place where this page was",
};

/**
 * Follow the changes of the store for as long as the page wants. `take(changes)` gets what comes; `tell({kind, text})`
 * the state: kind is "connecting", "live", "waiting" or "refused"; `note({kind, text})` what is worth a line in a list:
 * kind is "lost", "resumed", "gap" or "refused". `onLost(isSnapshot)` is called where changes are missing.
 */
export class Following {
  #watch;
  #callbacks;
  #state = "";
  #wasLive = false;
  #resumesFrom = null;
  #hasNoted = false;

  constructor(kv, prefixes, options, callbacks) {
    this.#callbacks = { note: () => {}, onLost: () => {}, onError: () => {}, ...callbacks };
    this.#watch = kv.watch(prefixes, {
      ...options,
      ...{ onGap: "continue", patience: Infinity, onState: (state) => this.#tellState(state) },
    });
    this.#run();
  }

  /** Where another watch can continue. */
  get cursor() {
    return this.#watch.cursor;
  }

  close() {
    this.#callbacks = { take() {}, tell() {}, note() {}, onLost() {}, onError() {} };
    this.#watch.close();
  }

  async #run() {
    try {
      for await (const { changes } of this.#watch.envelopes({ all: true })) {
        const reset = changes.find(({ kind }) => kind === "reset");
        if (reset) this.#tellGap(reset);
        else if (this.#resumesFrom !== null) {
          this.#callbacks.note({ kind: "resumed", text: `resumed from ${shortRevision(this.#resumesFrom)}, nothing was missed` });
        }
        this.#resumesFrom = null;
        if (changes.length) this.#callbacks.take(changes);
      }
    } catch (error) {
      const text = error instanceof Forbidden ? "the token may not watch" : error.detail || error.message;
      this.#callbacks.tell({ kind: "refused", text: `refused: ${text}` });
      this.#callbacks.note({ kind: "refused", text: `refused: ${text}` });
      this.#callbacks.onError(error);
    }
  }

  #tellGap({ reason }) {
    this.#callbacks.note({ kind: "gap", text: `GAP: changes are missing, ${GAPS[reason] ?? reason}` });
    this.#callbacks.onLost();
  }

  #tellState({ state, seconds, error, cursor }) {
    const { tell, note } = this.#callbacks;
    const before = this.#state;
    this.#state = state;
    if (state === "live") {
      this.#wasLive = true;
      tell({ kind: "live", text: "live" });
    } else if (state === "waiting") {
      const why = before === "live" ? (error ? "connection lost" : "the server stops or reloads") : "the server does not answer";
      const from = cursor ? `, from ${shortRevision(cursor)}` : "";
      if (before === "live" || !this.#hasNoted) {
        this.#hasNoted = true;
        note({ kind: "lost", text: `${why}; coming back in ${spanText(seconds)}${from}` });
      }
      if (this.#wasLive) this.#resumesFrom = cursor;
      tell({ kind: "waiting", text: `${why}; next try in ${spanText(seconds)}` });
    } else if (state === "connecting") {
      const text = this.#resumesFrom === null ? "connecting …" : `resuming from ${shortRevision(this.#resumesFrom)} …`;
      tell({ kind: "connecting", text });
    }
  }
}

/** Whether an error says that a token is needed. */
export function needsToken(error) {
  return error instanceof Unauthorized;
}

/** Return a count per second in words. */
export function rateText(perSecond) {
  return `${perSecond >= 10 || perSecond === 0 ? countText(Math.round(perSecond)) : perSecond.toFixed(1)}/s`;
}
