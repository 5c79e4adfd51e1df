// Finding keys by what is in their names, wherever in the store.

const MOST_FOUND = 500;
const EVERY_MS = 200;

/**
 * Look through the names of all keys for a text. `onFound({items, looked, isOver})` is called now and then with what was
 * found since, and how many keys were looked at; the last time with `isOver`: "all", "most" (there may be more) or
 * "stopped". Throws what reading throws.
 */
export async function findKeys(kv, text, signal, onFound) {
  let [items, found, looked, toldAt] = [[], 0, 0, performance.now()];
  const tell = (isOver) => {
    onFound({ items, looked, isOver });
    [items, toldAt] = [[], performance.now()];
  };
  try {
    for await (const item of kv.scan("", { signal })) {
      looked += 1;
      if (item.key.includes(text)) {
        items.push(item);
        found += 1;
      }
      if (found >= MOST_FOUND) return tell("most");
      if (performance.now() - toldAt > EVERY_MS) tell("");
    }
    tell("all");
  } catch (error) {
    if (!signal.aborted) throw error;
    tell("stopped");
  }
  return undefined;
}
