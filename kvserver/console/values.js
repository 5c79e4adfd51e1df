// Values, keys and figures as people read them. Pure.

const UTF8 = new TextEncoder();
const STRICT = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const JSON_TYPE = /^application\/(?:[^;]+\+)?json\b/i;
const IMAGE_TYPE = /^image\/(?:png|jpeg|gif|webp|avif|bmp|svg\+xml|x-icon|vnd\.microsoft\.icon)\b/i;
const UNSEEN = /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;
const BINARY = /[\u0000-\u0008\u000e-\u001a\u001c-\u001f]/;

/** Return bytes as text, or null where they are not UTF-8. */
export function textOf(bytes) {
  try {
    return STRICT.decode(bytes);
  } catch {
    return null;
  }
}

/** Return text as bytes of UTF-8. */
export function bytesOf(text) {
  return UTF8.encode(text);
}

/** Return how a value is shown: "image", "json", "text" or "bytes". What is said to be bytes may still be text. */
export function kindOf(contentType, bytes) {
  if (IMAGE_TYPE.test(contentType)) return "image";
  const text = textOf(bytes);
  if (text === null) return "bytes";
  if (JSON_TYPE.test(contentType)) return "json";
  return BINARY.test(text) ? "bytes" : "text";
}

/** Return whether a type says that values are JSON. */
export function isJsonType(contentType) {
  return JSON_TYPE.test(contentType);
}

/** Return what is wrong with a text as JSON, or null. */
export function faultOfJson(text) {
  try {
    JSON.parse(text);
    return null;
  } catch (error) {
    return error.message;
  }
}

/**
 * Return a valid JSON text with line breaks and indents; strings and numbers stay as they are written. What does not
 * parse is returned unchanged.
 */
export function indentJson(text) {
  if (faultOfJson(text) !== null) return text;
  const tokens = text.match(/"(?:[^"\\]|\\.)*"|[[\]{}:,]|[^\s"[\]{}:,]+/g) ?? [];
  const line = (depth) => `\n${"  ".repeat(depth)}`;
  let [shown, depth] = ["", 0];
  tokens.forEach((token, at) => {
    const before = tokens[at - 1];
    if (token === "]" || token === "}") {
      depth -= 1;
      shown += (before === "[" || before === "{" ? "" : line(depth)) + token;
      return;
    }
    if (before === "[" || before === "{" || before === ",") shown += line(depth);
    shown += token === ":" ? ": " : token;
    if (token === "[" || token === "{") depth += 1;
  });
  return shown;
}

/**
 * Return how a text is edited in a field, which knows no line break but LF: `{text, ends, restore}`, or null where the
 * field cannot keep it byte for byte. `ends` names the line breaks.
 */
export function editableOf(text) {
  if (!text.includes("\r")) return { text, ends: "LF", restore: (edited) => edited };
  if (!/\r(?!\n)|(?<!\r)\n/.test(text)) {
    return { text: text.replaceAll("\r\n", "\n"), ends: "CR LF", restore: (edited) => edited.replaceAll("\n", "\r\n") };
  }
  if (text.includes("␍")) return null;
  return { text: text.replaceAll("\r", "␍"), ends: "mixed; ␍ is a CR", restore: (edited) => edited.replaceAll("␍", "\r") };
}

/** Return bytes as lines of hexadecimal, each with its offset and what is text in it. */
export function hexOf(bytes) {
  const lines = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const row = bytes.subarray(at, at + 16);
    const pairs = Array.from(row, (byte) => byte.toString(16).padStart(2, "0"));
    const texts = Array.from(row, (byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : "."));
    const halves = [pairs.slice(0, 8).join(" "), pairs.slice(8).join(" ")];
    lines.push(`${at.toString(16).padStart(6, "0")}  ${halves.join("  ").padEnd(48)}  ${texts.join("")}`);
  }
  return lines.join("\n");
}

/** Return the bytes that pairs of hexadecimal digits name, or null for what is something else. */
export function bytesOfHex(text) {
  const digits = text.replace(/\s+/g, "");
  if (digits.length % 2 || /[^0-9a-f]/i.test(digits)) return null;
  return Uint8Array.from(digits.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}

/** Return bytes as pairs of hexadecimal digits, sixteen a line. */
export function pairsOf(bytes) {
  const pairs = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0"));
  const lines = [];
  for (let at = 0; at < pairs.length; at += 16) lines.push(pairs.slice(at, at + 16).join(" "));
  return lines.join("\n");
}

/** Return a text of which every character can be seen: controls, and marks that turn the direction, are named. */
export function showText(text) {
  return text.replace(UNSEEN, (character) => {
    const code = character.codePointAt(0);
    if (code < 32) return String.fromCodePoint(0x2400 + code);
    return code === 127 ? "␡" : `‹U+${code.toString(16).toUpperCase().padStart(4, "0")}›`;
  });
}

/** Return a text with its line breaks and tabs, everything else as `showText` has it. */
export function showLines(text) {
  return text.split(/([\n\t])/).map((part, at) => (at % 2 ? part : showText(part))).join("");
}

/** Return the beginning of a value in one line. */
export function previewOf(entry, most = 120) {
  if (!entry.hasValue) return "";
  const bytes = entry.bytes.subarray(0, 4 * most);
  const longest = bytes.length < entry.size ? 4 : 1; // where it is cut, that may be within a character
  let text = null;
  for (let cut = 0; cut < longest && text === null; cut++) text = textOf(bytes.subarray(0, bytes.length - cut));
  if (text === null || BINARY.test(text)) return `${pairsOf(bytes.subarray(0, 16)).replaceAll("\n", " ")}${entry.size > 16 ? " …" : ""}`;
  const shown = showText(text.slice(0, most));
  return bytes.length < entry.size || text.length > most ? `${shown} …` : shown;
}

/** Return a number of bytes in words. */
export function sizeText(bytes) {
  if (bytes === undefined || bytes === null) return "";
  let [value, unit] = [bytes, 0];
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  while (value >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${unit && value < 100 ? Number(value.toFixed(1)) : Math.round(value)} ${units[unit]}`;
}

/** Return a count with its thousands set apart. */
export function countText(count) {
  return count.toLocaleString("en-US");
}

/** Return a noun with its count. */
export function countOf(count, noun) {
  return `${countText(count)} ${noun}${count === 1 ? "" : "s"}`;
}

/** Return a length of time in words: its two largest units. */
export function spanText(seconds) {
  if (seconds < 60) return seconds < 10 ? `${Math.max(0, seconds).toFixed(1)} s` : `${Math.round(seconds)} s`;
  const whole = Math.round(seconds);
  const parts = [["d", 86_400], ["h", 3600], ["min", 60], ["s", 1]];
  const first = parts.findIndex(([, length]) => whole >= length);
  const [unit, length] = parts[first];
  const rest = Math.floor((whole % length) / (parts[first + 1]?.[1] ?? 1));
  return `${Math.floor(whole / length)} ${unit}${parts[first + 1] && rest ? ` ${rest} ${parts[first + 1][0]}` : ""}`;
}

/** Return a moment as the time of day, with milliseconds. */
export function clockText(date) {
  const two = (number) => String(number).padStart(2, "0");
  const [hours, minutes, seconds] = [date.getHours(), date.getMinutes(), date.getSeconds()].map(two);
  return `${hours}:${minutes}:${seconds}.${String(date.getMilliseconds()).padStart(3, "0")}`;
}

/** Return a media type without what is the same everywhere. */
export function typeText(contentType) {
  return contentType.replace("application/", "").replace(/;\s*charset=utf-8/i, "") || "octet-stream";
}
