/**
 * Client of kvserver for browsers, Node from 20 on, Deno and workers: one module, without dependencies. MIT license.
 *
 *     import { connect } from "./client.js";
 *     const kv = connect("http://localhost:8080");
 *     await kv.put("flags/beta", { on: true });
 *     for await (const change of kv.watch("flags/", { snapshot: true })) console.log(change.kind, change.key);
 *
 * All durations are seconds. Absent keys are `null`. A failed write is a `Refused` (nothing was done) or an
 * `OutcomeUnknown` (it may have been done); a failed read is a `Refused` or a `NotAnswered`. The types, with the
 * description of every method, are in client.d.ts.
 *
 * The parts, in this order: errors, options, values, paths, what is repeated, calls, lists, batches, the feed, mirrors,
 * locks, the client.
 */

const UTF8 = new TextEncoder();
const UTF8_TEXT = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

// --- Errors ---------------------------------------------------------------------------------------------------------

/** Base of all errors of this client. */
export class KVError extends Error {
  static code = "";
  static status = null;
  static title = "The request failed";

  constructor(detail = "", { hint = "", cause } = {}) {
    super("", cause === undefined ? undefined : { cause });
    const { code, status, title } = new.target;
    const told = [title, detail, hint].filter(Boolean).map((text) => text.replace(/\.$/, ""));
    this.message = [...new Set(told)].join(". ");
    Object.assign(this, { code, status, title, detail, hint, requestId: null, attempts: 0, retryAfter: 0 });
    this.members = {};
  }

  get name() {
    return this.constructor.name;
  }
}

/** Nothing was done. */
export class Refused extends KVError {
  static code = "refused";
  static title = "The server refuses the request";
}

export class BadRequest extends Refused {
  static code = "bad_request";
  static status = 400;
  static title = "The request is malformed";
}

export class BadKey extends BadRequest {
  static code = "bad_key";
  static title = "The key is not valid";
}

export class BadCursor extends BadRequest {
  static code = "bad_cursor";
  static title = "This is not a cursor of the feed";
}

export class CrossSlot extends BadRequest {
  static code = "cross_slot";
  static title = "The keys of an atomic batch belong to different slots";
}

export class Unauthorized extends Refused {
  static code = "unauthorized";
  static status = 401;
  static title = "This request needs a token";
}

export class InvalidToken extends Unauthorized {
  static code = "invalid_token";
  static title = "The token is not known";
}

export class BadTicket extends Unauthorized {
  static code = "bad_ticket";
  static title = "The ticket is not valid";
}

export class Forbidden extends Refused {
  static code = "forbidden";
  static status = 403;
  static title = "This request is not allowed";
}

export class ForbiddenOrigin extends Forbidden {
  static code = "forbidden_origin";
  static title = "Pages of this origin may not use the store";
}

export class NotFound extends Refused {
  static code = "not_found";
  static status = 404;
  static title = "No such key";
}

export class NoSuchResource extends Refused {
  static code = "no_such_resource";
  static status = 404;
  static title = "There is nothing at this path";
}

export class MethodNotAllowed extends Refused {
  static code = "method_not_allowed";
  static status = 405;
  static title = "The resource does not know this method";
}

export class RequestTimeout extends Refused {
  static code = "request_timeout";
  static status = 408;
  static title = "The request did not arrive in time";
}

export class Conflict extends Refused {
  static code = "conflict";
  static status = 409;
  static title = "The operation does not fit what the key holds";
}

export class NotAnInteger extends Conflict {
  static code = "not_an_integer";
  static title = "The value is not a whole number that can be added to";
}

export class Overflow extends Conflict {
  static code = "overflow";
  static title = "The result would not fit a signed integer of 64 bits";
}

export class NotJson extends Conflict {
  static code = "not_json";
  static title = "The value is not JSON";
}

/** An operation of an atomic batch failed; nothing was done. `failed` is its index, `results` are those of all. */
export class BatchFailed extends Conflict {
  static code = "batch_failed";
  static title = "An operation of the atomic batch failed; nothing was done";
  failed = -1;
  results = [];
}

/** The condition does not hold. `revision` is that of what is there, 0 if nothing is. */
export class PreconditionFailed extends Refused {
  static code = "precondition_failed";
  static status = 412;
  static title = "The condition does not hold";
  revision = 0;
}

/** `create` found that the key exists already. */
export class Exists extends PreconditionFailed {
  static title = "The key exists already";
}

export class TooLarge extends Refused {
  static code = "too_large";
  static status = 413;
  static title = "The request is larger than the server takes";
}

export class ValueTooLarge extends TooLarge {
  static code = "value_too_large";
  static title = "The value is larger than the server takes";
}

export class AnswerTooLarge extends TooLarge {
  static code = "answer_too_large";
  static title = "The answer to the batch would be too large";
}

export class BatchTooLarge extends TooLarge {
  static code = "batch_too_large";
  static title = "The atomic batch is too large to be written as one";
}

export class PatchesTooLarge extends TooLarge {
  static code = "patches_too_large";
  static title = "The patches of the batch have written too much; this one did nothing";
}

export class KeyTooLong extends TooLarge {
  static code = "key_too_long";
  static status = 414;
  static title = "The key is longer than 511 bytes";
}

export class UriTooLong extends TooLarge {
  static code = "uri_too_long";
  static status = 414;
  static title = "The request line is longer than 8 KiB";
}

export class HeadersTooLarge extends TooLarge {
  static code = "headers_too_large";
  static status = 431;
  static title = "The request headers are too large";
}

export class UnsupportedMediaType extends Refused {
  static code = "unsupported_media_type";
  static status = 415;
  static title = "A body of this type or coding cannot be taken";
}

export class RangeNotSatisfiable extends Refused {
  static code = "range_not_satisfiable";
  static status = 416;
  static title = "The range starts after the end of the value";
}

export class Misdirected extends Refused {
  static code = "misdirected";
  static status = 421;
  static title = "The server is not known under this name";
}

export class IdempotencyMismatch extends Refused {
  static code = "idempotency_mismatch";
  static status = 422;
  static title = "This Idempotency-Key belongs to another request";
}

export class FailedDependency extends Refused {
  static code = "failed_dependency";
  static status = 424;
  static title = "Another operation of the atomic batch failed";
}

export class InsufficientStorage extends Refused {
  static code = "insufficient_storage";
  static status = 507;
  static title = "There is no space left for this write; nothing was done";
}

/** The write would pass the server's memory limit. `members` has `limit`, `used` and `needed`, in bytes. */
export class MemoryLimit extends InsufficientStorage {
  static code = "memory_limit";
  static title = "The write would pass the memory limit; nothing was done";
}

export class Unavailable extends Refused {
  static code = "unavailable";
  static status = 503;
  static title = "The server cannot answer now; nothing was done";
}

export class Overloaded extends Unavailable {
  static code = "overloaded";
  static title = "The server has too much to do; nothing was done";
}

export class FeedUnavailable extends Unavailable {
  static code = "feed_unavailable";
  static title = "No gateway takes feed connections now";
}

export class NotCurrent extends Unavailable {
  static code = "not_current";
  static title = "This machine cannot show that its data are current";
}

export class StaleIncarnation extends Unavailable {
  static code = "stale_incarnation";
}

export class DeadlinePassed extends Unavailable {
  static code = "deadline_passed";
}

export class ProtocolError extends Refused {
  static code = "protocol_error";
  static status = 500;
  static title = "A shard could not read the request";
}

/** The request did not reach a server. */
export class CannotConnect extends Refused {
  static code = "cannot_connect";
  static title = "The server cannot be reached; nothing was done";
}

/** The write may or may not have been done. `current` is what the key held when the client looked afterwards, if it did. */
export class OutcomeUnknown extends KVError {
  static code = "outcome_unknown";
  static title = "The write may or may not have been done";
  current = null;
}

/** A fault of the server, while or after it did the write. */
export class InternalError extends OutcomeUnknown {
  static code = "internal";
  static status = 500;
  static title = "The server failed; the write may or may not have been done";
}

/** A read had no answer. */
export class NotAnswered extends KVError {
  static code = "not_answered";
  static title = "The server did not answer";
}

/** The write was done, but its result is withheld: the token may not read, or the answer was lost. */
export class AnswerWithheld extends KVError {
  static code = "answer_withheld";
  static title = "Done, but the result is withheld";
  revision = 0;
}

/** Changes of the feed are missing: the server does not keep them any more. `cursor` is where the feed can continue. */
export class Gap extends KVError {
  static code = "gap";
  static title = "Changes are missing from the feed";
  reason = "";
  cursor = "";
}

/** The lock was lost while it was held. */
export class LockLost extends KVError {
  static code = "lock_lost";
  static title = "The lock was lost";

  constructor(detail = "", options = {}) {
    super(detail, options);
    if (detail) this.message = `${this.title}: ${detail}`;
  }
}

/** The class of every code that a server sends. */
const CODES = new Map(
  [
    ...[BadRequest, BadKey, BadCursor, CrossSlot, Unauthorized, InvalidToken, BadTicket, Forbidden, ForbiddenOrigin],
    ...[NotFound, NoSuchResource, MethodNotAllowed, RequestTimeout, Conflict, NotAnInteger, Overflow, NotJson],
    ...[BatchFailed, PreconditionFailed, ValueTooLarge, AnswerTooLarge, BatchTooLarge, PatchesTooLarge, KeyTooLong],
    ...[UriTooLong, HeadersTooLarge, UnsupportedMediaType, RangeNotSatisfiable, Misdirected, IdempotencyMismatch],
    ...[FailedDependency, InsufficientStorage, MemoryLimit, Unavailable, Overloaded, FeedUnavailable],
    ...[NotCurrent, StaleIncarnation, DeadlinePassed, ProtocolError, OutcomeUnknown, InternalError],
  ].map((cls) => [cls.code, cls]),
);

/** The class of an error with a code that this client does not know yet, by its status. */
const STATUSES = new Map([
  ...[BadRequest, Unauthorized, Forbidden, NoSuchResource, MethodNotAllowed, RequestTimeout, Conflict],
  ...[PreconditionFailed, TooLarge, UriTooLong, UnsupportedMediaType, RangeNotSatisfiable, Misdirected],
  ...[IdempotencyMismatch, FailedDependency, HeadersTooLarge, Unavailable, InsufficientStorage],
].map((cls) => [cls.status, cls]));
STATUSES.set(429, Overloaded);

/** Return the error that a problem document describes; an unknown code takes the class of its status. */
export function errorOf(status, problem = {}) {
  const text = (name) => (typeof problem[name] === "string" ? problem[name] : "");
  const cls = CODES.get(text("code")) ?? STATUSES.get(status) ?? (status < 500 ? Refused : OutcomeUnknown);
  const error = new cls(text("detail"), { hint: text("hint") });
  error.code = text("code") || cls.code;
  error.status = status;
  const { type, title, status: _, code, detail, hint, ...members } = problem;
  error.members = members;
  if ("revision" in error && Number.isSafeInteger(members.revision)) error.revision = members.revision;
  return error;
}

/** What answered is no kvserver. Inside of this module: users get `NotAnswered` or `OutcomeUnknown`. */
class ForeignAnswer extends Error {}

/** A connection of the feed, or a list, that broke and may be continued. Inside of this module. */
class Lost extends Error {
  retryAfter = 0;
}

// --- Options of calls -----------------------------------------------------------------------------------------------

const LIFETIME = ["ttl", "expires"];
const PUT = ["contentType", ...LIFETIME, "ifRevision", "idempotent", "signal"];

/** The options of each call. */
const OPTIONS = {
  get: ["range", "signal"],
  head: ["signal"],
  getIfChanged: ["signal"],
  getMany: ["signal"],
  put: PUT,
  create: PUT.filter((name) => name !== "ifRevision"),
  exchange: PUT,
  patch: ["ifRevision", "signal"],
  incr: ["ttlIfNew", "ifRevision", "signal"],
  touch: [...LIFETIME, "persist", "ifRevision", "signal"],
  delete: ["ifRevision", "signal"],
  update: ["ttl", "contentType", "idempotent", "tries", "signal"],
  page: ["after", "before", "limit", "reverse", "values", "delimiter", "signal"],
  scan: ["values", "reverse", "signal"],
  keys: ["reverse", "signal"],
  count: ["signal"],
  deletePrefix: ["dryRun", "limit", "all", "signal"],
  batch: ["atomic", "signal"],
  commit: ["signal"],
  watch: [
    ...["keys", "snapshot", "since", "ops", "values", "activity", "conflate", "onGap", "patience", "transport"],
    ...["silence", "onState", "signal"],
  ],
  envelopes: ["all"],
  subscribe: ["onError"],
  wait: ["timeout", "signal"],
  mirror: ["patience", "transport", "silence", "signal"],
  waitSynced: ["timeout", "signal"],
  waitRevision: ["timeout", "signal"],
  lock: ["ttl", "signal"],
  withLock: ["ttl", "signal"],
  status: ["signal"],
  whoami: ["signal"],
  ping: ["signal"],
  ticket: ["grants", "ttl", "signal"],
};

/** What the operations of a batch have beside `op` and `key`. */
const OPERATIONS = {
  get: ["ifRevision"],
  put: ["value", "contentType", ...LIFETIME, "ifRevision"],
  patch: ["patch", "ifRevision"],
  incr: ["by", "ttlIfNew", "ifRevision"],
  touch: [...LIFETIME, "persist", "ifRevision"],
  delete: ["ifRevision"],
};

/** Return the `options` of a call. Throws TypeError for one that it does not have: a misspelt one is not passed over. */
function optionsOf(call, options) {
  if (typeof options !== "object" || options === null) {
    throw new TypeError(`the options of ${call} are an object, not ${options === null ? "null" : typeof options}`);
  }
  refuseUnknown(`${call} has no option`, options, OPTIONS[call]);
  return options;
}

function refuseUnknown(what, given, known) {
  const unknown = Object.keys(given).filter((name) => !known.includes(name));
  if (unknown.length) throw new TypeError(`${what} ${unknown.join(", ")}; there are ${known.join(", ")}`);
}

/** Return a prefix of keys. Throws TypeError for what is no text, like options at its place. */
function prefixOf(prefix) {
  if (typeof prefix !== "string") throw new TypeError(`a prefix is a string, not ${prefix === null ? "null" : typeof prefix}`);
  return prefix;
}

// --- Values ---------------------------------------------------------------------------------------------------------

const OCTETS = "application/octet-stream";
const TEXT = "text/plain; charset=utf-8";
const JSON_TYPE = "application/json";

/** `getIfChanged` found the revision that it was asked about. */
export const UNCHANGED = Symbol("UNCHANGED");
/** From the function of `update`: leave the key as it is. As its `ttl`: leave the expiry. */
export const KEEP = Symbol("KEEP");
/** From the function of `update`: delete the key. */
export const DELETE = Symbol("DELETE");

class Json {
  constructor(value) {
    this.value = value;
  }
}

/** Mark a value to be stored as JSON: for strings, null and objects of classes. */
export function json(value) {
  return new Json(value);
}

/** Precedes the digits of a BigInt in a text that JSON.stringify makes; no other code knows it. */
const BIG = randomName();
const BIGS = new RegExp(`"${BIG}(-?\\d+)"`, "g");

/** Return `value` as JSON. BigInts keep all of their digits. Throws TypeError for what JSON cannot say. */
function jsonText(value) {
  let hasBig = false;
  const text = JSON.stringify(value, (_, member) => {
    if (typeof member === "number" && !Number.isFinite(member)) throw new TypeError(`JSON cannot say ${member}`);
    if (typeof member !== "bigint") return member;
    hasBig = true;
    return BIG + member;
  });
  if (text === undefined) throw new TypeError(`JSON cannot say ${typeof value}`);
  return hasBig ? text.replace(BIGS, "$1") : text;
}

function isPlain(value) {
  const prototype = Object.getPrototypeOf(value);
  return Array.isArray(value) || prototype === null || Object.getPrototypeOf(prototype) === null;
}

function isWellFormed(text) {
  return !/\p{Surrogate}/u.test(text);
}

/** Return what is stored for `value`: its bytes, or text (then `bytes` is null), and the type it has by itself. */
async function contentOf(value, contentType) {
  const [body, own] = await bodyOf(value);
  if (contentType !== undefined && !/^[\x20-\x7e]+$/.test(contentType)) {
    throw new BadRequest(`${JSON.stringify(contentType)} is no content type, like text/plain`);
  }
  return { body, contentType: contentType ?? own };
}

async function bodyOf(value) {
  if (typeof value === "string") {
    if (!isWellFormed(value)) throw new BadRequest("a text with half a pair of surrogates is not UTF-8: put its bytes");
    return [UTF8.encode(value), TEXT];
  }
  if (ArrayBuffer.isView(value)) {
    return [new Uint8Array(value.buffer, value.byteOffset, value.byteLength).slice(), OCTETS];
  }
  if (value instanceof ArrayBuffer) return [new Uint8Array(value.slice(0)), OCTETS];
  if (typeof Blob !== "undefined" && value instanceof Blob) {
    return [new Uint8Array(await value.arrayBuffer()), value.type || OCTETS];
  }
  return [UTF8.encode(jsonText(jsonOf(value))), JSON_TYPE];
}

/** Return the value that is stored as JSON. Throws TypeError for what is no value. */
function jsonOf(value) {
  if (value instanceof Json) return value.value;
  if (["number", "bigint", "boolean"].includes(typeof value)) return value;
  if (typeof value === "object" && value !== null && (isPlain(value) || typeof value.toJSON === "function")) return value;
  const what = value === null ? "null" : typeof value === "object" ? value.constructor.name : typeof value;
  throw new TypeError(`a value is text, bytes, a Blob, or what JSON can say, not ${what}; json(value) stores any JSON`);
}

function ttlText(ttl) {
  if (ttl === undefined || ttl === null) return null;
  if (typeof ttl !== "number") throw new TypeError(`a time to live is a number of seconds, not ${typeof ttl}`);
  if (!(ttl > 0 && ttl < 1e12)) throw new BadRequest(`a time to live is above 0 seconds and at most ten years, not ${ttl}`);
  return String(Number(Math.max(ttl, 0.001).toFixed(3)));
}

function expiresText(expires) {
  if (expires === undefined || expires === null) return null;
  if (expires instanceof Date) {
    if (Number.isNaN(expires.getTime())) throw new BadRequest("the Date of the expiry is no point in time");
    return expires.toISOString();
  }
  if (typeof expires !== "string") throw new TypeError(`a point in time is a Date or text, not ${typeof expires}`);
  return expires;
}

function wholeText(number, what) {
  if (typeof number !== "number") throw new TypeError(`${what} is a number, not ${typeof number}`);
  if (!Number.isSafeInteger(number) || number < 0) throw new BadRequest(`${what} is a whole number from 0 on, not ${number}`);
  return String(number);
}

function momentOf(text) {
  if (text === null || text === undefined) return null;
  const moment = new Date(text);
  if (Number.isNaN(moment.getTime())) throw new ForeignAnswer(`${JSON.stringify(text)} is no point in time`);
  return moment;
}

function fromBase64(text) {
  if (typeof Uint8Array.fromBase64 === "function") return Uint8Array.fromBase64(text);
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

function toBase64(bytes) {
  if (typeof bytes.toBase64 === "function") return bytes.toBase64();
  let binary = "";
  for (let at = 0; at < bytes.length; at += 0x8000) {
    binary += String.fromCharCode.apply(null, bytes.subarray(at, at + 0x8000));
  }
  return btoa(binary);
}

/** A key's value and what is known of it. */
export class Entry {
  #value;
  #text;

  /** `value`: bytes, text, or undefined where values were not asked for; `size` is needed for the latter only. */
  constructor({ key, value, size, revision, contentType, expires = null, modified = null }) {
    this.key = key;
    this.revision = revision;
    this.contentType = contentType;
    this.expires = expires;
    this.modified = modified;
    if (typeof value === "string") this.#text = value;
    else this.#value = value;
    this.size = size ?? (this.hasValue ? this.bytes.length : 0);
  }

  /** Whether the value is here: not in lists and feeds without `values`. */
  get hasValue() {
    return this.#value !== undefined || this.#text !== undefined;
  }

  /** The value. Throws TypeError where values were not asked for. */
  get bytes() {
    if (!this.hasValue) throw new TypeError("the value is not here: ask with values: true");
    return (this.#value ??= UTF8.encode(this.#text));
  }

  /** Return the value as UTF-8 text. Throws TypeError where it is none. */
  text() {
    return (this.#text ??= UTF8_TEXT.decode(this.bytes));
  }

  /** Return the value parsed as JSON. Throws SyntaxError where it is none. */
  json() {
    return JSON.parse(this.text());
  }

  /** The entity tag, as HTTP has it. */
  get etag() {
    return `"${this.revision}"`;
  }

  /** Return this entry with another expiry and its revision: what a touch leaves. */
  touched(revision, expires) {
    const value = this.#value ?? this.#text;
    return new Entry({ ...this, value, revision, expires });
  }
}

/** Return the value of a JSON object with `value` or `value_base64`; undefined where it has neither. */
function valueIn(object) {
  if (typeof object.value === "string") return object.value;
  return typeof object.value_base64 === "string" ? fromBase64(object.value_base64) : undefined;
}

// --- Paths ----------------------------------------------------------------------------------------------------------

const DROPPED = new Set(["", ".", ".."]);

function checkKey(key) {
  if (typeof key !== "string") throw new TypeError(`a key is a string, not ${typeof key}`);
  if (!key) throw new BadKey("a key has at least one byte");
  if (!isWellFormed(key)) throw new BadKey("a key is UTF-8, and this text has half a pair of surrogates");
}

/**
 * Return the path of `key`. Segments that parsers of URLs remove (empty, `.` and `..`, also as `%2e`) are kept by a
 * `%2F` next to them; the keys `.` and `..` themselves have no path: null. Throws `BadKey`.
 */
export function keyPath(key) {
  checkKey(key);
  if (isDots(key)) return null;
  const segments = key.split("/").map(
    // What a path may have as it is stays readable.
    (segment) => encodeURIComponent(segment).replace(/%(?:24|26|2B|2C|3A|3B|3D|40)/g, decodeURIComponent),
  );
  return `/v1/kv/${segments.reduce(
    (path, segment, i) => path + (DROPPED.has(segment) || DROPPED.has(segments[i - 1]) ? "%2F" : "/") + segment,
  )}`;
}

function isDots(key) {
  return key === "." || key === "..";
}

/** Return `path` with the parameters that are neither null nor undefined; a list gives one each. */
function withQuery(path, parameters) {
  const parts = [];
  for (const [name, value] of Object.entries(parameters)) {
    for (const each of Array.isArray(value) ? value : [value]) {
      if (each === null || each === undefined) continue;
      if (typeof each === "string" && !isWellFormed(each)) {
        throw new BadKey(`${name} is UTF-8, and this text has half a pair of surrogates`);
      }
      parts.push(`${name}=${encodeURIComponent(each)}`);
    }
  }
  return parts.length ? `${path}?${parts.join("&")}` : path;
}

/** Return the slot of a key, 0 to 16383: keys of an atomic batch have one. Of a key with `{tag}`, only the tag counts. */
export function slotOf(key) {
  const start = key.indexOf("{");
  const end = start < 0 ? -1 : key.indexOf("}", start + 1);
  let crc = 0;
  for (const byte of UTF8.encode(end > start + 1 ? key.slice(start + 1, end) : key)) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) crc = ((crc << 1) ^ (crc & 0x8000 ? 0x1021 : 0)) & 0xffff;
  }
  return crc % 16384;
}

// --- What is repeated -----------------------------------------------------------------------------------------------
//
// | outcome                                      | read   | write with its key | without | on a revision, without    |
// | the connection was refused                   | repeat | repeat             | repeat  | repeat                    |
// | lost, time-out, a proxy's 500, 502, 504,     | repeat | repeat             | raise   | repeat                    |
// |   `internal`, `outcome_unknown`              |        |                    |         |                           |
// | 503, 408, 429                                | repeat | repeat             | repeat  | repeat                    |
// | any other error                              | raise  | raise              | raise   | 412, 404: look at the key |
//
// Its key is the Idempotency-Key, one for each call. Repeats end when the patience is used up, which counts from the
// first failure. Then the last error is thrown, but OutcomeUnknown if any attempt may have been done.
//
// Of a client with several servers each attempt after a failure goes to the next, at once until all were asked, then
// after a delay.

const READ = "read";
const WRITE = "write";
const CONDITIONAL = "conditional";
const CREATE = "create";
/** A prefix delete up to a known revision, which may be repeated without a key. */
const SWEEP = "sweep";

const OF_PROXIES = new Set([500, 502, 504]);
/** Statuses that another server of the store may not answer. */
const OF_ONE_SERVER = new Set([500, 502, 503, 504]);
/** Statuses that are decided before the server looks for the outcome that it remembers. */
const BEFORE_THE_WRITE = new Set([401, 403, 408, 421, 429, 503, 507]);
/** Refusals that one's own earlier write explains. */
const OF_THE_KEY = new Set([404, 412]);

/** Return the longest delay in seconds before repeat `n`, counted from 0; the true one is drawn from 0 to it. */
export function longestDelay(n) {
  return Math.min(2, 0.05 * 2 ** Math.min(n, 10));
}

/** Send `call`, repeat it where that is safe, and return what its answer says. Throws KVError. */
async function perform(connection, call, signal) {
  const { idempotency, patience, onRetry } = connection.settings;
  const key = idempotency && call.kind !== READ && !call.keyless ? randomName() : null;
  let [attempts, giveUpAt, renewed, unknown] = [0, null, false, null];
  for (;;) {
    const outcome = await connection.attempt(call, key, signal);
    attempts++;
    const { result, error, again, isUnknown } = judge(call, outcome, key !== null);
    if (!error) return result;
    error.attempts = attempts;
    if (error instanceof Unauthorized && !renewed) {
      renewed = true;
      if (await connection.renew()) continue;
    }
    if (isUnknown) unknown = error;
    else if (unknown && !again) return await endUnknown(connection, call, error, unknown, key !== null, signal);
    giveUpAt ??= now() + patience;
    const left = giveUpAt - now();
    const { count } = connection;
    const isElsewhere = attempts % count !== 0 && isAnsweredBetterElsewhere(outcome);
    const least = isElsewhere ? 0 : error.retryAfter;
    if (!again || left <= 0 || least >= left) {
      if (unknown && call.kind === CREATE && !again) await look(connection, call, unknown, signal);
      throw unknown ?? error;
    }
    const longest = isElsewhere ? 0 : longestDelay(Math.max(Math.floor(attempts / count) - 1, 0));
    const delay = Math.min(Math.random() * longest + least, left);
    onRetry?.({ error, attempts, seconds: delay });
    await sleep(delay, signal);
  }
}

/** Return whether another server of the store may answer what this one did not. */
function isAnsweredBetterElsewhere({ lost, status }) {
  return lost !== undefined || OF_ONE_SERVER.has(status);
}

/** Decide about a write that was refused after an attempt that may have been done. */
async function endUnknown(connection, call, error, unknown, keyed, signal) {
  unknown.attempts = error.attempts;
  unknown.cause = error;
  if (BEFORE_THE_WRITE.has(error.status)) throw unknown;
  if (keyed || !OF_THE_KEY.has(error.status)) throw error;
  const entry = await look(connection, call, unknown, signal);
  const done = call.doneIf?.(entry);
  if (done) return done;
  throw unknown;
}

/** Read what the key holds now into `unknown.current`, once; null if there is no answer. */
async function look(connection, call, unknown, signal) {
  if (!call.look) return null;
  const { result = null } = judge(call.look, await connection.attempt(call.look, null, signal), false);
  if ("current" in unknown) unknown.current = result;
  return result;
}

/** Return the `result` of an attempt, or its `error`: whether it may be sent `again`, and whether it `isUnknown`. */
function judge(call, outcome, keyed) {
  if (outcome.lost) {
    if (outcome.sent) return lost(call, outcome, keyed);
    return { error: new CannotConnect(outcome.lost, outcome), again: true };
  }
  if (outcome.status < 400 || (call.accepts?.includes(outcome.status) && (outcome.status < 500 || isProblem(outcome)))) {
    try {
      return { result: call.read(outcome) };
    } catch (error) {
      if (error instanceof ForeignAnswer) return foreign(call, error.message);
      if (!(error instanceof KVError)) throw error;
      error.requestId = outcome.headers.get("x-request-id");
      return { error: call.kind === READ ? asRead(error) : error, again: false };
    }
  }
  const error = problemOf(outcome);
  if ([503, 408, 429].includes(outcome.status)) return { error, again: true };
  if (!isProblem(outcome)) {
    if (!OF_PROXIES.has(outcome.status)) return foreign(call, `an answer ${outcome.status} without a problem document`);
    return lost(call, { lost: `a proxy answers ${outcome.status}` }, keyed);
  }
  if (error instanceof OutcomeUnknown) {
    return { ...lost(call, {}, keyed), error: call.kind === READ ? asRead(error) : error };
  }
  return { error: call.refuse?.(error) ?? error, again: false };
}

function lost(call, { lost: why, cause, hint }, keyed) {
  if (call.kind === READ) return { error: new NotAnswered(why, { cause, hint }), again: true };
  const again = keyed || call.kind === CONDITIONAL || call.kind === SWEEP;
  return { error: new OutcomeUnknown(why, { cause, hint }), again, isUnknown: true };
}

/** Return the failure of an answer that is no kvserver's: it will not become one by a repeat. */
function foreign(call, why) {
  const told = `what answers is no kvserver: ${why}`;
  if (call.kind === READ) return { error: new NotAnswered(told), again: false };
  return { error: new OutcomeUnknown(told), again: false, isUnknown: true };
}

/** Return the error of a read: one that speaks of a write becomes `NotAnswered`. */
function asRead(error) {
  if (!(error instanceof OutcomeUnknown)) return error;
  const { status, requestId, retryAfter } = error;
  return Object.assign(new NotAnswered(error.detail || error.title, error), { status, requestId, retryAfter });
}

/** Return a name that nobody else has. (crypto.randomUUID is missing in pages that came by plain http.) */
function randomName() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}

function now() {
  return performance.now() / 1000;
}

/** Return seconds as what setTimeout takes: it fires at once where it is told more than 2^31 ms. */
function timerOf(seconds) {
  return Math.min(seconds * 1000, 2 ** 31 - 1);
}

/** Wait. Throws the signal's reason when it is aborted. */
function sleep(seconds, signal) {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const abort = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, timerOf(seconds));
    signal?.addEventListener("abort", abort, { once: true });
  });
}

// --- Connection -----------------------------------------------------------------------------------------------------

const NEVER_CONNECTED = new Set([
  ...["ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "EHOSTUNREACH", "ENETUNREACH", "UND_ERR_CONNECT_TIMEOUT"],
  "ConnectionRefused", // of Bun
  ...["CERT_HAS_EXPIRED", "DEPTH_ZERO_SELF_SIGNED_CERT", "SELF_SIGNED_CERT_IN_CHAIN", "ERR_TLS_CERT_ALTNAME_INVALID"],
]);

/** What all parts of a client share: where the servers are, the token, and how one request is sent. */
class Connection {
  /** `given`: the token, or the function that knows it; `known`: what it said. Shared with `with`'s. */
  #access;
  /** `bases`: the URLs of the servers; `current`: the index of the one that is used now. Shared with `with`'s. */
  #servers;

  constructor(servers, access, settings) {
    this.#servers = servers;
    this.settings = Object.freeze(settings);
    this.#access = access;
  }

  /** Return the same connection with other settings. */
  with(settings) {
    return new Connection(this.#servers, this.#access, { ...this.settings, ...settings });
  }

  /** How many servers there are. */
  get count() {
    return this.#servers.bases.length;
  }

  /** The URLs of all servers. */
  get bases() {
    return [...this.#servers.bases];
  }

  /** The URL of the server that is used now. */
  get base() {
    return this.#servers.bases[this.#servers.current];
  }

  /** Use the server after that at `base` from now on, unless it was left already. */
  leave(base) {
    if (base === this.base) this.#servers.current = (this.#servers.current + 1) % this.count;
  }

  /** Whether requests carry a token. */
  get hasToken() {
    return Boolean(this.#access.given);
  }

  /** Ask for the token again. Returns whether there is a function to ask. */
  async renew() {
    if (typeof this.#access.given !== "function") return false;
    this.#access.known = undefined;
    return true;
  }

  /** Return the headers of a request, with the token. */
  async headers(more = {}) {
    const headers = new Headers(more);
    const { given } = this.#access;
    if (!given) return headers;
    const token = (this.#access.known ??= await (typeof given === "function" ? given() : given));
    if (typeof token !== "string" || !/^[\x21-\x7e]+$/.test(token)) {
      throw new BadRequest("the token is not one word of ASCII");
    }
    headers.set("Authorization", `Bearer ${token}`);
    return headers;
  }

  /** Send one request; a Response whose body is not read. `redirect`: a token never follows one. */
  async open(path, { method = "GET", headers, body, signal }, base = this.base) {
    return await this.settings.fetch(base + path, {
      ...{ method, headers, body, signal, redirect: "manual", cache: "no-store", credentials: "omit" },
    });
  }

  /** Send `call` once; `{status, headers, bytes}`, or `{lost, sent}` without an answer. Throws the reason of `signal`. */
  async attempt(call, key, signal) {
    signal?.throwIfAborted();
    const headers = await this.headers(call.headers);
    if (key) headers.set("Idempotency-Key", key);
    const { base } = this;
    const outcome = await this.#attemptAt(base, call, headers, signal);
    if (isAnsweredBetterElsewhere(outcome)) this.leave(base);
    return outcome;
  }

  async #attemptAt(base, call, headers, signal) {
    const cut = new AbortController();
    const seconds = call.timeout ?? this.settings.timeout;
    const abort = () => cut.abort();
    const timer = setTimeout(abort, timerOf(seconds));
    signal?.addEventListener("abort", abort, { once: true });
    try {
      const answer = await this.open(call.path, { ...call, headers, signal: cut.signal }, base);
      if (answer.type === "opaqueredirect" || (answer.status >= 300 && answer.status < 400 && answer.status !== 304)) {
        return { status: 302, headers: answer.headers, bytes: new Uint8Array(), isRedirect: true };
      }
      return { status: answer.status, headers: answer.headers, bytes: new Uint8Array(await answer.arrayBuffer()) };
    } catch (cause) {
      signal?.throwIfAborted();
      if (cut.signal.aborted) return { lost: `no answer within ${seconds} s`, sent: true, cause };
      return this.explain(cause, base);
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
    }
  }

  /** Return what a failed fetch says. Whether the request was sent is known only where the connection failed. */
  explain(cause, base = this.base) {
    const inner = cause?.cause;
    const codes = [cause?.code, inner?.code, ...(inner?.errors ?? []).map((each) => each.code)];
    const why = [cause?.message, inner?.message || inner?.code].filter(Boolean).join(": ");
    const isDenos = /client error \(Connect\)/.test(why);
    const sent = !codes.some((code) => NEVER_CONNECTED.has(code)) && inner?.message !== "bad port" && !isDenos;
    return { lost: why, sent, cause, hint: pageHint(base) };
  }
}

/** Return a likely reason where a browser reports none; empty outside of pages. */
function pageHint(base) {
  const page = globalThis.location;
  if (!page?.hostname) return "";
  const { protocol, hostname } = new URL(base);
  if (isLocal(hostname) && !isLocal(page.hostname)) {
    return (
      "This page is on the public web and the server is in the local network: Chrome asks a person before the page may " +
      "reach it, see the site's permission `Local network access`"
    );
  }
  if (page.protocol === "https:" && protocol === "http:" && !isLocal(hostname)) {
    return "This page came by https, so the browser lets it reach only servers that speak https";
  }
  return "The browser does not tell why: the server may be away, or not list this page's origin in --origins";
}

function isLocal(hostname) {
  return /^(localhost|.*\.localhost|.*\.local|127\..*|10\..*|192\.168\..*|172\.(1[6-9]|2\d|3[01])\..*|169\.254\..*|\[(::1|f[cde].*)\])$/.test(
    hostname,
  );
}

// --- Answers --------------------------------------------------------------------------------------------------------

function isProblem(answer) {
  return (answer.headers.get("content-type") ?? "").startsWith("application/problem+json");
}

/** Return the error that an answer describes; one without a body (of HEAD), by its status. */
function problemOf(answer) {
  let problem = {};
  if (isProblem(answer) && answer.bytes.length) {
    try {
      problem = objectIn(answer.bytes);
    } catch {
      problem = {};
    }
  }
  const revision = answer.headers.get("kv-revision");
  if (/^\d{1,16}$/.test(revision ?? "")) problem = { revision: Number(revision), ...problem };
  const error = errorOf(answer.status, problem);
  error.requestId = answer.headers.get("x-request-id");
  error.retryAfter = retryAfterOf(answer.headers);
  return error;
}

function retryAfterOf(headers) {
  const text = headers.get("retry-after") ?? "";
  return /^\d{1,6}$/.test(text) ? Number(text) : 0;
}

function objectIn(bytes) {
  let document;
  try {
    document = JSON.parse(UTF8_TEXT.decode(bytes));
  } catch {
    throw new ForeignAnswer("an answer that is not JSON");
  }
  if (typeof document !== "object" || document === null) throw new ForeignAnswer("an answer that is no JSON object");
  return document;
}

/** Return the JSON object that is the answer's body. Throws ForeignAnswer. */
function documentOf(answer) {
  if (!(answer.headers.get("content-type") ?? "").startsWith(JSON_TYPE)) {
    throw new ForeignAnswer(answer.isRedirect ? "a redirect" : `an answer ${answer.status} that is not JSON`);
  }
  return objectIn(answer.bytes);
}

function memberOf(document, name, type) {
  const value = document[name];
  if (typeof value !== type) throw new ForeignAnswer(`an answer without ${name}`);
  return value;
}

function revisionOf(answer, header = "kv-revision") {
  const text = answer.headers.get(header) ?? "";
  if (answer.isRedirect) throw new ForeignAnswer("a redirect");
  if (!/^\d{1,16}$/.test(text)) throw new ForeignAnswer(`an answer ${answer.status} without ${header}`);
  return Number(text);
}

/** Return whether the server says that there is no such key. Throws ForeignAnswer for any other 404. */
function isAbsent(answer) {
  if (answer.status !== 404) return false;
  if (!isProblem(answer)) throw new ForeignAnswer("a 404 that is no kvserver's");
  return true;
}

function entryOf(key, answer) {
  if (answer.status !== 200 && answer.status !== 206) throw new ForeignAnswer(`an answer ${answer.status} to a read`);
  return new Entry({ key, value: answer.bytes, revision: revisionOf(answer), ...metaOf(answer) });
}

function metaOf(answer) {
  const { headers } = answer;
  const modified = new Date(headers.get("last-modified") ?? NaN);
  return {
    contentType: headers.get("content-type") ?? "",
    expires: momentOf(headers.get("kv-expires")),
    modified: Number.isNaN(modified.getTime()) ? null : modified,
  };
}

function withheld(answer) {
  const error = new AnswerWithheld("the token may not read the key, or the answer was lost");
  error.revision = revisionOf(answer);
  return error;
}

// --- Calls about one key --------------------------------------------------------------------------------------------
//
// `name` is {key, full}: the user's key, and what stands on the wire, with the client's prefix before it. `ops` says the
// same to a batch: the keys `.` and `..` have no path that parsers of URLs keep, and go that way.

function getCall(name, { range, unless } = {}) {
  const headers = {};
  if (range) {
    const [first, last] = range;
    const end = last === undefined || last === null ? "" : wholeText(last, "the end of a range");
    headers.Range = `bytes=${wholeText(first, "the start of a range")}-${end}`;
  }
  if (unless !== undefined) headers["If-None-Match"] = `"${wholeText(unless, "a revision")}"`;
  const read = (answer) => {
    if (answer.status === 304 && unless !== undefined) return UNCHANGED;
    return isAbsent(answer) ? null : entryOf(name.key, answer);
  };
  const ops = [{ op: "get", key: name.full }];
  return { kind: READ, path: keyPath(name.full), headers, accepts: [404], read, ops, unless, range };
}

/** The size in the answer is that of a coded body where the ETag says so: then it is undefined. */
function headCall(name) {
  const read = (answer) => {
    if (isAbsent(answer)) return null;
    const length = answer.headers.get("content-length") ?? "";
    if (answer.status !== 200) throw new ForeignAnswer(`an answer ${answer.status} to HEAD`);
    const isCoded = !/^"\d+"$/.test(answer.headers.get("etag") ?? "");
    const size = isCoded || !/^\d+$/.test(length) ? undefined : Number(length);
    return { key: name.key, size, revision: revisionOf(answer), ...metaOf(answer) };
  };
  return { kind: READ, method: "HEAD", path: keyPath(name.full), accepts: [404], read };
}

async function putCall(name, value, options, { read = readWritten, refuse, returns } = {}) {
  const { ttl, expires, ifRevision, idempotent } = options;
  if (ttl !== undefined && expires !== undefined) throw new BadRequest("give ttl or expires, not both");
  const path = keyPath(name.full);
  const { body, contentType } = await contentOf(value, options.contentType);
  const parameters = { return: returns, ttl: ttlText(ttl), expires: expiresText(expires) };
  const doneIf = (entry) => {
    if (entry?.contentType !== contentType || toBase64(entry.bytes) !== toBase64(body)) return null;
    return { revision: entry.revision, created: false };
  };
  const op = { op: "put", key: name.full, value_base64: toBase64(body), content_type: contentType, ...conditionIn(ifRevision) };
  if (ttl !== undefined) op.ttl = Number(parameters.ttl);
  if (expires !== undefined) op.expires = parameters.expires;
  return {
    kind: kindOf(ifRevision),
    method: "PUT",
    path: path && withQuery(path, parameters),
    headers: { "Content-Type": contentType, ...condition(ifRevision) },
    body,
    read,
    refuse,
    ops: returns ? [{ op: "get", key: name.full }, op] : [op],
    look: getCall(name),
    doneIf: idempotent ? doneIf : undefined,
  };
}

function readWritten(answer) {
  if (answer.status !== 201 && answer.status !== 204 && answer.status !== 200) {
    throw new ForeignAnswer(answer.isRedirect ? "a redirect" : `an answer ${answer.status} to a PUT`);
  }
  return { revision: revisionOf(answer), created: answer.status === 201 };
}

function readExchanged(key, answer) {
  const revision = revisionOf(answer);
  if (answer.status === 201) return { revision, previous: null };
  if (answer.status !== 200) throw withheld(answer);
  const before = revisionOf(answer, "kv-previous-revision");
  const contentType = answer.headers.get("content-type") ?? "";
  return { revision, previous: new Entry({ key, value: answer.bytes, revision: before, contentType }) };
}

function existsOf(error) {
  if (!(error instanceof PreconditionFailed)) return error;
  const { code, message, ...facts } = error;
  return Object.assign(new Exists(error.detail, error), facts, { title: Exists.title });
}

function patchCall(name, patch, { ifRevision }) {
  const document = patch instanceof Json ? patch.value : patch;
  const text = jsonText(document);
  const read = (answer) => {
    if (![200, 201].includes(answer.status) || !answer.bytes.length) throw withheld(answer);
    const contentType = answer.headers.get("content-type") ?? JSON_TYPE;
    return new Entry({ key: name.key, value: answer.bytes, revision: revisionOf(answer), ...metaOf(answer), contentType });
  };
  const call = changeCall("PATCH", name, {}, read, ifRevision, { op: "patch", patch: document });
  call.headers["Content-Type"] = "application/merge-patch+json";
  return { ...call, body: UTF8.encode(text) };
}

function incrCall(name, by, { ttlIfNew, ifRevision }) {
  const read = (answer) => {
    if (![200, 201].includes(answer.status) || !answer.bytes.length) throw withheld(answer);
    const text = new TextDecoder("latin1").decode(answer.bytes);
    if (!/^-?\d+$/.test(text)) throw new ForeignAnswer("an answer that is no whole number");
    revisionOf(answer);
    return BigInt(text);
  };
  const parameters = { incr: incrementText(by), ttl_if_new: ttlText(ttlIfNew) };
  const op = { op: "incr", by: BigInt(parameters.incr) };
  if (ttlIfNew !== undefined) op.ttl_if_new = Number(parameters.ttl_if_new);
  return changeCall("POST", name, parameters, read, ifRevision, op);
}

function incrementText(by) {
  if (typeof by === "bigint") return String(by);
  if (typeof by !== "number") throw new TypeError(`an increment is a number or a BigInt, not ${typeof by}`);
  if (!Number.isSafeInteger(by)) throw new BadRequest(`an increment is a whole number; above 2^53 a BigInt: not ${by}`);
  return String(by);
}

function touchCall(name, { ttl, expires, persist = false, ifRevision }) {
  if ((ttl !== undefined) + (expires !== undefined) + persist !== 1) {
    throw new BadRequest("give one of ttl, expires and persist: true");
  }
  const parameters = { ttl: ttlText(ttl), expires: expiresText(expires), persist: persist ? "true" : null };
  const op = { op: "touch" };
  if (ttl !== undefined) op.ttl = Number(parameters.ttl);
  if (expires !== undefined) op.expires = parameters.expires;
  if (persist) op.persist = true;
  return changeCall("POST", name, parameters, (answer) => revisionOf(answer), ifRevision, op);
}

function deleteCall(name, { ifRevision }) {
  const read = (answer) => !isAbsent(answer) && Boolean(revisionOf(answer));
  return { ...changeCall("DELETE", name, {}, read, ifRevision, { op: "delete" }), accepts: [404] };
}

function changeCall(method, name, parameters, read, ifRevision, op) {
  const path = keyPath(name.full);
  return {
    kind: kindOf(ifRevision),
    method,
    path: path && withQuery(path, parameters),
    headers: condition(ifRevision),
    read,
    ops: [{ ...op, key: name.full, ...conditionIn(ifRevision) }],
    look: getCall(name),
  };
}

function kindOf(ifRevision) {
  if (ifRevision === undefined) return WRITE;
  return ifRevision ? CONDITIONAL : CREATE;
}

function condition(ifRevision) {
  if (ifRevision === undefined) return {};
  const text = wholeText(ifRevision, "ifRevision");
  return ifRevision ? { "If-Match": `"${text}"` } : { "If-None-Match": "*" };
}

function conditionIn(ifRevision) {
  return ifRevision === undefined ? {} : { if_revision: Number(wholeText(ifRevision, "ifRevision")) };
}

// --- Batches --------------------------------------------------------------------------------------------------------

function batchCall(ops, atomic, read) {
  const headers = { "Content-Type": JSON_TYPE };
  const kind = ops.every((op) => op.op === "get") ? READ : WRITE;
  return { kind, method: "POST", path: "/v1/batch", headers, body: UTF8.encode(jsonText({ atomic, ops })), read };
}

function resultsIn(document) {
  if (!Array.isArray(document.results)) throw new ForeignAnswer("an answer without results");
  return document.results;
}

/** Return the call that says in a batch what `call` says about a key that has no path. */
function asBatch(call) {
  if (call.range) throw new BadRequest("parts of the keys . and .. cannot be read: read the whole value");
  const read = (answer) => {
    const results = resultsIn(documentOf(answer));
    const pretended = answerOf(results.at(-1));
    const before = results.length > 1 && results[0].status === 200 ? answerOf(results[0]) : null;
    if (before) {
      Object.assign(pretended, { status: 200, bytes: before.bytes });
      pretended.headers.set("kv-previous-revision", before.headers.get("kv-revision"));
      pretended.headers.set("content-type", before.headers.get("content-type"));
    }
    if (call.unless !== undefined && results[0].revision === call.unless) pretended.status = 304;
    if (pretended.status < 400 || call.accepts?.includes(pretended.status)) return call.read(pretended);
    const error = problemOf(pretended);
    throw call.refuse?.(error) ?? error;
  };
  const isAtomic = call.ops.length > 1;
  const refuse = (error) => {
    const result = error instanceof BatchFailed && error.members.results?.[error.members.failed];
    if (!result) return error;
    const inner = problemOf(answerOf(result));
    return call.refuse?.(inner) ?? inner;
  };
  return { ...batchCall(call.ops, isAtomic, read), kind: call.kind, refuse, look: call.look && asBatch(call.look), doneIf: call.doneIf };
}

/** Return an operation's result as the answer that a request of its own would have had. */
function answerOf(result) {
  const headers = new Headers();
  if (result.revision !== undefined) headers.set("kv-revision", String(result.revision));
  if (result.status >= 400) {
    headers.set("content-type", "application/problem+json");
    return { status: result.status, headers, bytes: UTF8.encode(JSON.stringify(result)) };
  }
  headers.set("content-type", result.content_type ?? "");
  if (result.expires) headers.set("kv-expires", result.expires);
  const value = valueIn(result) ?? "";
  return { status: result.status, headers, bytes: typeof value === "string" ? UTF8.encode(value) : value };
}

/** What one operation of a batch did. */
export class Result {
  constructor(op, key, result) {
    this.op = op;
    this.key = key;
    this.status = result.status;
    this.revision = result.revision ?? null;
    this.code = result.code ?? null;
    this.detail = result.detail ?? "";
    const value = valueIn(result);
    /** The value after it (get, incr, patch), or null. */
    this.entry = null;
    if (value !== undefined) {
      const { revision, content_type: contentType } = result;
      this.entry = new Entry({ key, value, revision, contentType, expires: momentOf(result.expires) });
    }
  }

  /** Whether it was done. */
  get ok() {
    return this.status < 400;
  }

  /** Return this result, or throw the error in it. */
  check() {
    if (this.ok) return this;
    const error = errorOf(this.status, { code: this.code ?? "", detail: this.detail, revision: this.revision });
    throw this.op === "get" ? asRead(error) : error;
  }
}

/** Return a user's operation as the API has it. */
async function wireOf(op, fullOf) {
  const { op: verb, key, value, patch, contentType, ttl, expires, ttlIfNew, by, ifRevision, persist } = op;
  if (!Object.hasOwn(OPERATIONS, verb)) {
    throw new TypeError(`there is no operation ${verb}; there are ${Object.keys(OPERATIONS).join(", ")}`);
  }
  refuseUnknown(`the operation ${verb} has no`, op, ["op", "key", ...OPERATIONS[verb]]);
  const wire = { op: verb, key: fullOf(key).full, ...conditionIn(ifRevision) };
  if (verb === "put") Object.assign(wire, await contentInBatch(value, contentType));
  if (verb === "patch") wire.patch = patch instanceof Json ? patch.value : patch;
  if (verb === "incr") wire.by = BigInt(incrementText(by ?? 1));
  if (ttl !== undefined) wire.ttl = Number(ttlText(ttl));
  if (expires !== undefined) wire.expires = expiresText(expires);
  if (ttlIfNew !== undefined) wire.ttl_if_new = Number(ttlText(ttlIfNew));
  if (persist) wire.persist = true;
  return wire;
}

async function contentInBatch(value, given) {
  const { body, contentType } = await contentOf(value, given);
  const asText = contentType === JSON_TYPE || typeof value === "string";
  const shown = asText ? { value: UTF8_TEXT.decode(body) } : { value_base64: toBase64(body) };
  return { ...shown, content_type: contentType };
}

/** Several operations that are done together or not at all, on keys of one slot: give them a common {tag}. */
export class Atomic {
  #ops = [];
  #commit;

  constructor(commit) {
    this.#commit = commit;
  }

  #add(op) {
    this.#ops.push(op);
    return this;
  }

  /** Fail unless the key has this revision; 0: unless there is no such key. */
  check(key, ifRevision) {
    return this.#add({ op: "get", key, ifRevision });
  }

  get(key) {
    return this.#add({ op: "get", key });
  }

  put(key, value, options = {}) {
    return this.#add({ op: "put", key, value, ...options });
  }

  patch(key, patch, options = {}) {
    return this.#add({ op: "patch", key, patch, ...options });
  }

  incr(key, by = 1, options = {}) {
    return this.#add({ op: "incr", key, by, ...options });
  }

  touch(key, options) {
    return this.#add({ op: "touch", key, ...options });
  }

  delete(key, options = {}) {
    return this.#add({ op: "delete", key, ...options });
  }

  /** Send it; the results. Throws `CrossSlot`, `BatchFailed`. */
  async commit(options = {}) {
    const { signal } = optionsOf("commit", options);
    return this.#commit(this.#ops, signal);
  }
}

// --- Streams of lines -----------------------------------------------------------------------------------------------

/** Cuts bytes into lines, whatever the borders of the chunks, and parses each as JSON. Pure. */
export class JsonLines {
  #decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
  #half = [];

  /** Return what the lines say that these bytes complete. Throws SyntaxError, TypeError (not UTF-8). */
  push(bytes) {
    const lines = this.#decoder.decode(bytes, { stream: true }).split("\n");
    this.#half.push(lines.shift());
    if (!lines.length) return [];
    const whole = [this.#half.join(""), ...lines];
    this.#half = [whole.pop()];
    return whole.filter((line) => line.trim()).map((line) => JSON.parse(line));
  }
}

/** Return the open answer to a GET of lines. Throws `Lost` where another try may help, else KVError. */
async function openLines(connection, path, cut) {
  const seconds = connection.settings.silence;
  for (let renewed = false; ; renewed = true) {
    const headers = await connection.headers({ Accept: "application/x-ndjson" });
    let answer;
    try {
      answer = await inTime(connection.open(path, { headers, signal: cut.signal }), seconds, cut);
      if (answer.status === 200 && answer.body) return ndjsonOf(answer);
      const bytes = new Uint8Array(await inTime(answer.arrayBuffer(), seconds, cut));
      answer = { status: answer.status, headers: answer.headers, bytes };
    } catch (error) {
      if (error instanceof Lost || error instanceof KVError || cut.signal.aborted) throw error;
      const { lost: why, sent, hint } = connection.explain(error);
      const cause = new (sent ? NotAnswered : CannotConnect)(why, { cause: error, hint });
      throw new Lost(cause.message, { cause });
    }
    if (answer.status === 401 && isProblem(answer) && !renewed && (await connection.renew())) continue;
    throw refusalOf(answer);
  }
}

/** Return why a stream was not given: `Lost` where another try may help, else the error. */
function refusalOf(answer) {
  const { status } = answer;
  const isPassing = [408, 429].includes(status) || (status >= 500 && status < 600);
  if (!isPassing) return isProblem(answer) ? asRead(problemOf(answer)) : notOurs(`an answer ${status || 302} to a stream`);
  const isBare = !isProblem(answer) && ![408, 429, 503].includes(status);
  const error = isBare ? new NotAnswered(`a proxy answers ${status}`) : asRead(problemOf(answer));
  return Object.assign(new Lost(error.message, { cause: error }), { retryAfter: error.retryAfter });
}

/** Return what is thrown when the patience with a list is used up: why its last connection failed. */
function endOf(lost) {
  return lost.cause instanceof KVError ? lost.cause : new NotAnswered(lost.message, { cause: lost });
}

function ndjsonOf(answer) {
  const type = answer.headers.get("content-type") ?? "";
  if (!type.startsWith("application/x-ndjson")) throw notOurs(`a stream of type ${type || "unknown"}`);
  return answer;
}

function notOurs(why) {
  return new NotAnswered(`what answers is no kvserver: ${why}`);
}

/** Return what `promise` gives; after `seconds`, abort `cut` and throw `Lost`. */
async function inTime(promise, seconds, cut) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => {
      reject(new Lost(`nothing came for ${seconds} s`));
      cut.abort(new Lost("silence"));
    }, timerOf(seconds));
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Yield what the lines of an open answer say. Throws `Lost` at its end, too: what is complete says so in a line. */
async function* linesOf(connection, answer, cut) {
  const lines = new JsonLines();
  const reader = answer.body.getReader();
  try {
    for (;;) {
      const { done, value } = await inTime(reader.read(), connection.settings.silence, cut);
      if (done) throw new Lost("the connection ended");
      yield* lines.push(value);
    }
  } catch (error) {
    if (error instanceof Lost || cut.signal.aborted) throw error;
    if (error instanceof SyntaxError) throw notOurs("a line that is not JSON");
    throw new Lost(error.message, { cause: error });
  } finally {
    reader.cancel().catch(() => {});
    cut.abort();
  }
}

/** Return a controller that is aborted with `signal`, and how to forget the signal. */
function linked(signal) {
  const cut = new AbortController();
  const abort = () => cut.abort(signal.reason);
  if (signal?.aborted) abort();
  signal?.addEventListener("abort", abort, { once: true });
  return [cut, () => signal?.removeEventListener("abort", abort)];
}

// --- Lists ----------------------------------------------------------------------------------------------------------

function itemOf(item, strip) {
  const { key, size, revision, content_type: contentType } = item;
  const [created, modified, expires] = [item.created, item.modified, item.expires].map(momentOf);
  const entry = new Entry({ key: key.slice(strip), value: valueIn(item), size, revision, contentType, expires, modified });
  return Object.assign(entry, { created });
}

/** Every key of a range, as an async iterable; a list that breaks off is continued after the last key. */
export class Scan {
  #connection;
  #prefix;
  #parameters;
  #signal;
  /** Hand it to `watch`'s `since` to miss nothing that happens after the scan has begun; empty before. */
  cursor = "";

  constructor(connection, prefix, parameters, signal) {
    this.#connection = connection;
    this.#prefix = prefix;
    this.#parameters = parameters;
    this.#signal = signal;
  }

  async *[Symbol.asyncIterator]() {
    const parameters = { ...this.#parameters };
    const { patience } = this.#connection.settings;
    let [attempts, failures, giveUpAt] = [0, 0, null];
    for (;;) {
      attempts++;
      const { base, count } = this.#connection;
      try {
        for await (const line of this.#lines(parameters)) {
          if (line.end) return;
          const next = line.error ? line.next : (line.key ?? line.prefix);
          if (next) parameters[parameters.reverse ? "before" : "after"] = next;
          if (line.error) throw new Lost(line.error.detail || line.error.code || "the list broke off");
          [attempts, failures, giveUpAt] = [1, 0, null];
          if (line.key !== undefined) yield itemOf(line, this.#prefix.length);
        }
      } catch (error) {
        if (error instanceof KVError) throw Object.assign(error, { attempts });
        if (!(error instanceof Lost)) throw error;
        this.#connection.leave(base);
        giveUpAt ??= now() + patience;
        const left = giveUpAt - now();
        if (left <= 0) throw Object.assign(endOf(error), { attempts });
        const isElsewhere = ++failures % count !== 0;
        const delay = isElsewhere ? 0 : Math.random() * longestDelay(failures / count - 1) + error.retryAfter;
        await sleep(Math.min(delay, left), this.#signal);
      }
    }
  }

  async *#lines(parameters) {
    const [cut, forget] = linked(this.#signal);
    try {
      const answer = await openLines(this.#connection, withQuery("/v1/kv", parameters), cut);
      this.cursor ||= answer.headers.get("kv-cursor") ?? "";
      yield* linesOf(this.#connection, answer, cut);
    } finally {
      forget();
      cut.abort();
    }
  }
}

// --- The feed -------------------------------------------------------------------------------------------------------

/** A value that was put: an entry with `kind`, `origin` ("live" or "snapshot") and `time`. */
class Put extends Entry {
  kind = "put";

  constructor(facts, origin, time) {
    super(facts);
    this.origin = origin;
    this.time = time;
  }
}

/** What the messages of a feed say: which changes, after which cursor, and what goes wrong. Pure. */
export class Follow {
  #strip;
  #onGap;
  /** Whether the reset before a snapshot was reported: an empty one has it with its end. */
  #isReset;
  /** Where the feed continues after a break; empty before the first message. */
  cursor;
  /** Seconds after which a feed that the server closes comes back, else null. */
  comeBackAfter = null;

  /** `strip`: characters that are taken off every key. */
  constructor({ since = "", onGap = "raise", strip = 0 } = {}) {
    this.cursor = since;
    this.#isReset = since.split(".").length > 2; // it goes on within a snapshot
    this.#onGap = onGap;
    this.#strip = strip;
  }

  /** Return the envelope `{changes, cursor}` of a message. Throws `Gap`, the server's error, `Lost`. */
  take(message) {
    this.comeBackAfter = null;
    if (message.type === "error") throw streamError(message);
    const changes = this.#changesOf(message);
    if (typeof message.cursor === "string") this.cursor = message.cursor;
    return { changes, cursor: this.cursor };
  }

  #changesOf(message) {
    switch (message.type) {
      case "events":
        return message.events.map((event) => this.#eventOf(event)).filter(Boolean);
      case "snapshot":
        return [...this.#beginning(message.first), ...message.items.map((item) => this.#itemOf(item))];
      case "snapshot_end":
        return this.#endOf(message);
      case "gap":
        return [this.#gapOf(message)];
      case "activity":
        return [this.#activityOf(message)];
      case "closing":
        this.comeBackAfter = message.retry_ms > 0 && Number.isFinite(message.retry_ms) ? message.retry_ms / 1000 : 0;
    }
    return []; // a bookmark, or what a newer server says
  }

  #gapOf({ reason, snapshot = false, cursor }) {
    if (!snapshot && this.#onGap === "raise") {
      throw Object.assign(new Gap(`the server no longer keeps the missing changes (${reason})`), { reason, cursor });
    }
    this.#isReset = snapshot;
    return { kind: "reset", reason, snapshot };
  }

  #beginning(isFirst) {
    this.#isReset = true;
    return isFirst ? [{ kind: "reset", reason: "start", snapshot: true }] : [];
  }

  #endOf({ cursor }) {
    const before = this.#beginning(!this.#isReset);
    this.#isReset = false;
    return [...before, { kind: "synced", cursor }];
  }

  #eventOf(event) {
    const { op, revision, size, content_type: contentType } = event;
    const key = event.key.slice(this.#strip);
    const [time, expires] = [momentOf(event.time), momentOf(event.expires)];
    if (op === "delete") return { kind: "delete", key, revision, time, cause: event.cause };
    if (op === "touch") return { kind: "touch", key, revision, time, expires };
    if (op !== "put") return null; // of a newer server
    const facts = { key, value: valueIn(event), size, revision, contentType, expires, modified: time };
    return new Put(facts, "live", time);
  }

  #itemOf(item) {
    const { revision, size, content_type: contentType } = item;
    const [modified, expires] = [momentOf(item.modified), momentOf(item.expires)];
    const key = item.key.slice(this.#strip);
    return new Put({ key, value: valueIn(item), size, revision, contentType, expires, modified }, "snapshot", modified);
  }

  #activityOf({ op, key, prefix, peer, time }) {
    const activity = { kind: "activity", op, time: momentOf(time) };
    if (key !== undefined) activity.key = key.slice(this.#strip);
    if (prefix !== undefined) activity.prefix = prefix.slice(this.#strip);
    if (peer !== undefined) activity.peer = peer;
    return activity;
  }
}

/** Return the error in a stream: `Lost` where a new connection may help. */
function streamError(message) {
  const error = asRead(errorOf(message.status, message));
  const isPassing = message.status >= 500 || [408, 429].includes(message.status) || error instanceof BadTicket;
  return isPassing ? new Lost(error.message, { cause: error }) : error;
}

/** Return the longest delay in seconds before a feed comes back for the `n`th time in a row, counted from 0. */
export function longestReturn(n) {
  return n ? Math.min(10, 0.1 * 2 ** Math.min(n, 10)) : 0.25;
}

/** Return the least delay in seconds before a feed that the server closed comes back, whatever the server says. */
function leastReturn(n) {
  return Math.min(10, 0.1 * 2 ** Math.min(n, 10));
}

/** Run a call of a transport: what another connection may cure is `Lost`. */
async function performForFeed(connection, call, signal) {
  try {
    return await perform(connection.with({ patience: 0, onRetry: undefined }), call, signal);
  } catch (error) {
    const isPassing = [NotAnswered, OutcomeUnknown, CannotConnect, Unavailable, RequestTimeout, Overloaded];
    if (!isPassing.some((cls) => error instanceof cls)) throw error;
    throw Object.assign(new Lost(error.message, { cause: error }), { retryAfter: error.retryAfter });
  }
}

/** Yield the messages of a feed that comes as lines of JSON. */
async function* messagesByLines(connection, parameters, cut) {
  const answer = await openLines(connection, withQuery("/v1/feed", parameters), cut);
  let isSilent = true;
  try {
    for await (const message of linesOf(connection, answer, cut)) {
      isSilent = false;
      yield message;
    }
  } catch (error) {
    throw error instanceof Lost ? Object.assign(error, { isSilent }) : error;
  }
}

/** Yield the messages of a feed that is polled. */
async function* messagesByPolls(connection, parameters, cut, patienceOf) {
  let { since } = parameters;
  for (;;) {
    const longest = Math.min(25, Math.max(1, Math.floor(patienceOf() / 2))); // an answer comes while there is patience
    const wait = since || parameters.snapshot ? longest : 0;
    const path = withQuery("/v1/feed", { ...parameters, since, wait });
    const call = { kind: READ, path, timeout: wait + connection.settings.timeout, read: documentOf };
    const { cursor, messages } = await performForFeed(connection, call, cut.signal);
    yield* messages;
    since = cursor;
    yield { type: "bookmark", cursor };
  }
}

/** Characters of messages that wait for a consumer, from which on a WebSocket is given up, and resumed later. */
const MOST_WAITING = 16 << 20;

/** Yield the messages of a feed that comes by WebSocket; with a token, each connection has a new ticket. */
async function* messagesBySocket(connection, parameters, cut) {
  const { WebSocket, silence } = connection.settings;
  const ticket = connection.hasToken ? (await performForFeed(connection, ticketCall("websocket"), cut.signal)).ticket : null;
  const path = withQuery("/v1/feed", { ...parameters, ticket });
  const socket = new WebSocket(connection.base.replace(/^http/, "ws") + path);
  let [waiting, size, isOpen, ended, wake] = [[], 0, false, null, () => {}];
  const end = (why) => {
    ended ??= Object.assign(new Lost(why), { isRefused: !isOpen });
    wake();
  };
  socket.onopen = () => (isOpen = true);
  socket.onclose = ({ code, reason }) => end(`the connection was closed (${[code, reason].filter(Boolean).join(" ")})`);
  socket.onerror = () => isOpen || end("the connection was refused"); // in Node 20 no close follows
  socket.onmessage = ({ data }) => {
    if (ended) return;
    waiting.push(data);
    size += data.length ?? data.size ?? data.byteLength;
    if (size > MOST_WAITING) {
      socket.close();
      end("the program takes messages too slowly");
    }
    wake();
  };
  const abort = () => end("aborted");
  cut.signal.addEventListener("abort", abort, { once: true });
  try {
    for (;;) {
      const batch = waiting;
      [waiting, size] = [[], 0];
      for (const text of batch) yield messageIn(text);
      if (waiting.length) continue;
      cut.signal.throwIfAborted();
      if (ended) throw ended;
      await inTime(new Promise((resolve) => (wake = resolve)), silence, cut);
    }
  } finally {
    cut.signal.removeEventListener("abort", abort);
    socket.close();
  }
}

/** Return the message that a WebSocket brought. Throws `NotAnswered` for what is no JSON, like a binary frame. */
function messageIn(text) {
  try {
    if (typeof text === "string") return JSON.parse(text);
  } catch {
    // told below
  }
  throw notOurs("a message that is not JSON");
}

function ticketCall(purpose, grants, ttl) {
  const body = UTF8.encode(JSON.stringify({ for: purpose, grants, ttl }));
  const read = (answer) => {
    const document = documentOf(answer);
    return { ticket: memberOf(document, "ticket", "string"), expires: momentOf(document.expires) };
  };
  return { kind: READ, method: "POST", path: "/v1/tickets", headers: { "Content-Type": JSON_TYPE }, body, read };
}

const TRANSPORTS = { lines: messagesByLines, websocket: messagesBySocket, poll: messagesByPolls };

function isPage() {
  return typeof document !== "undefined" || typeof WorkerGlobalScope !== "undefined";
}

/** The first message of a connection comes within so many seconds. */
const FIRST_MESSAGE_S = 12;

/**
 * The changes of keys, as an async iterable that reconnects after every break, with no change lost or repeated.
 * For one consumer; it connects when that begins to read, and ends with it.
 */
export class Watch {
  #connection;
  #parameters;
  #options;
  #follow;
  #transport;
  #cut;
  #forget;
  #run;
  #first = null;
  #isClosed = false;
  #hasHeard = false;
  #heard = 0;
  #liveSince = null;
  #silences = 0;
  #refusals = 0;
  /** After the last message all of whose changes were taken: give it to `since` to continue there. */
  cursor;
  /** "connecting", "live" (a message within 25 s), "waiting" (to come back) or "closed". */
  state = "connecting";
  /** Why the last connection failed, or null. */
  error = null;

  constructor(connection, parameters, options) {
    this.#connection = connection;
    this.#parameters = parameters;
    this.#options = options;
    this.#follow = new Follow(options);
    this.cursor = this.#follow.cursor;
    const { transport } = connection.settings;
    this.#transport = transport;
    if (transport === "auto") this.#transport = isPage() && connection.settings.WebSocket ? "websocket" : "lines";
    if (!(this.#transport in TRANSPORTS)) throw new TypeError(`transport is auto, websocket, lines or poll, not ${transport}`);
    if (this.#transport === "websocket" && !connection.settings.WebSocket) {
      throw new TypeError("there is no WebSocket here: use another transport, or give connect() the option WebSocket");
    }
    [this.#cut, this.#forget] = linked(options.signal);
    this.#run = this.#messages();
  }

  /** Connect. Resolves when the first message has come: what is written after that is sure to be seen. */
  async open() {
    this.#first ??= this.#run.next();
    await this.#first;
    return this;
  }

  /** End it: whoever iterates sees the end. */
  close() {
    this.#isClosed = true;
    this.#cut.abort();
    this.#first?.catch(() => {});
    this.#end();
  }

  /** Return whole messages, `{changes, cursor}`: an atomic batch is never divided. `all`: those without changes, too. */
  async *envelopes(options = {}) {
    const { all = false } = optionsOf("envelopes", options);
    for await (const envelope of this.#received()) {
      this.cursor = envelope.cursor;
      if (all || envelope.changes.length) yield envelope;
    }
  }

  async *[Symbol.asyncIterator]() {
    for await (const { changes, cursor } of this.#received()) {
      const last = changes.pop();
      yield* changes;
      this.cursor = cursor;
      if (last) yield last;
    }
  }

  async *#received() {
    try {
      for (;;) {
        const { done, value } = await (this.#first ?? this.#run.next());
        this.#first = null;
        if (done) return;
        yield value;
      }
    } finally {
      this.close();
    }
  }

  /** Call `take` with each change, in order, after the one before is done. Returns the function that ends it. */
  subscribe(take, options = {}) {
    const { onError = report } = optionsOf("subscribe", options);
    const run = async () => {
      for await (const change of this) {
        if (this.#isClosed) return;
        await take(change);
      }
    };
    run().catch(onError);
    return () => this.close();
  }

  async *#messages() {
    let failures = 0;
    this.#heard = now();
    try {
      for (;;) {
        this.#tell("connecting");
        this.#liveSince = null;
        let error = null;
        const { base } = this.#connection;
        try {
          yield* this.#connected();
        } catch (thrown) {
          if (!(thrown instanceof Lost) || this.#cut.signal.aborted) throw thrown;
          error = thrown;
        }
        this.#connection.leave(base);
        if (this.#liveSince !== null && now() - this.#liveSince >= 10) failures = 0;
        await this.#pause(error, failures++);
      }
    } catch (error) {
      if (this.#isClosed) return;
      this.#options.signal?.throwIfAborted();
      this.error = error;
      throw error;
    } finally {
      this.#end();
    }
  }

  /** Seconds without a message after which it gives up. One that says that the feed is closed, or an error, is none. */
  get #patience() {
    return this.#options.patience ?? (this.#hasHeard ? Infinity : this.#connection.settings.patience);
  }

  /** Seconds without a message on an open connection; after a cursor, a quiet feed sends its first bookmark after 10. */
  get #longestQuiet() {
    const mayBeQuiet = this.#options.patience === undefined && this.#follow.cursor;
    return mayBeQuiet ? Math.max(this.#patience, FIRST_MESSAGE_S) : this.#patience;
  }

  /** Yield what one connection says until the server closes it. Throws `Lost` where it breaks, or patience is used up. */
  async *#connected() {
    const [cut, forget] = linked(this.#cut.signal);
    const parameters = { ...this.#parameters, since: this.#follow.cursor || null };
    let [late, timer] = [null, undefined];
    const giveUp = () => {
      late = Object.assign(new Lost(`no message came within ${this.#longestQuiet} s`), { isLate: true });
      cut.abort(late);
    };
    const wait = () => {
      const left = this.#heard + this.#longestQuiet - now();
      if (this.#patience > 0 && left < Infinity) timer = setTimeout(giveUp, timerOf(left)); // 0: this one connection
    };
    try {
      wait();
      for await (const message of TRANSPORTS[this.#transport](this.#connection, parameters, cut, () => this.#patience || Infinity)) {
        clearTimeout(timer);
        const taken = now();
        if (this.#liveSince === null) this.#tell("live");
        this.#liveSince ??= taken;
        const envelope = this.#follow.take(message);
        const isClosing = this.#follow.comeBackAfter !== null;
        if (!isClosing) [this.#hasHeard, this.#heard] = [true, taken];
        yield envelope;
        if (isClosing) return;
        this.#heard += now() - taken; // the time that the consumer takes is no silence of the server
        wait();
      }
    } catch (error) {
      throw late && !this.#cut.signal.aborted ? late : error;
    } finally {
      clearTimeout(timer);
      forget();
      cut.abort();
    }
  }

  /** Wait until it is time to come back, after the feed was closed or broke off by `error`. */
  async #pause(error, failures) {
    const isLate = Boolean(error?.isLate);
    if (isLate) error = this.error ?? error; // why the connection before broke says more
    this.error = error;
    const patience = this.#patience;
    if (error && !isLate) await this.#chooseTransport(error, this.#heard + patience - now());
    const { count } = this.#connection;
    const rounds = Math.floor(failures / count);
    const isElsewhere = (failures + 1) % count !== 0;
    const seconds = error
      ? Math.max(Math.random() * longestReturn(rounds), isElsewhere ? 0 : error.retryAfter)
      : Math.max(isElsewhere ? 0 : this.#follow.comeBackAfter, leastReturn(rounds)) * (1 + Math.random() / 2);
    this.#follow.comeBackAfter = null;
    const left = this.#heard + patience - now();
    if (left <= 0 || isLate) {
      const cause = error?.cause instanceof KVError ? error.cause : null;
      if (!this.#hasHeard && cause) throw cause;
      const why = cause ? cause.detail || cause.title : error?.message;
      throw new NotAnswered(why ?? "the feed was closed", { cause: error });
    }
    this.#tell("waiting", Math.min(seconds, left));
    const [cut, forget] = linked(this.#cut.signal);
    const online = () => cut.abort();
    globalThis.addEventListener?.("online", online, { once: true });
    try {
      await sleep(Math.min(seconds, left), cut.signal);
    } catch {
      this.#cut.signal.throwIfAborted();
    } finally {
      globalThis.removeEventListener?.("online", online);
      forget();
    }
  }

  /** Take another transport where this one does not get through: a WebSocket is refused, lines are held back. */
  async #chooseTransport({ isRefused, isSilent }, left) {
    this.#silences = isSilent ? this.#silences + 1 : 0;
    const isAuto = this.#connection.settings.transport === "auto";
    if (isAuto && this.#silences >= 2 && this.#transport === "lines") this.#transport = "poll";
    if (!isRefused || left <= 0) return;
    const since = this.#follow.cursor || null;
    const path = withQuery("/v1/feed", { ...this.#parameters, since, snapshot: null, values: "false" });
    try {
      const timeout = Math.min(left, this.#connection.settings.timeout);
      await performForFeed(this.#connection, { kind: READ, path, timeout, read: documentOf }, this.#cut.signal);
    } catch (error) {
      if (!(error instanceof Lost)) throw error; // the WebSocket could not tell why it was refused
      return;
    }
    this.#refusals++;
    if (isAuto && this.#refusals >= 2) this.#transport = "lines";
  }

  #tell(state, seconds = 0) {
    if (this.state === "closed") return;
    this.state = state;
    this.#options.onState?.({ state, seconds, error: this.error, cursor: this.#follow.cursor });
    if (state === "live") this.error = null;
  }

  #end() {
    this.#forget();
    this.#tell("closed");
  }
}

/** Report an error that nobody catches, as the platform does. */
function report(error) {
  if (typeof globalThis.reportError === "function") globalThis.reportError(error);
  else
    queueMicrotask(() => {
      throw error;
    });
}

// --- Mirrors --------------------------------------------------------------------------------------------------------

/**
 * A live copy of the keys below a prefix, read like a Map. What is read is one state of the store; after a gap the old
 * one stays until the new one is whole. Events: `change` (`detail`: key, old, new), `state`, `error`.
 */
export class Mirror extends EventTarget {
  #watch;
  #entries = new Map();
  #aside = null;
  #waiting = new Set();
  #isSynced = false;
  #isLive = false;
  #heard = now();
  /** After what the copy has: give it to `since`. */
  cursor = "";
  /** The revision up to which the copy has everything below its prefix. */
  revision = 0;
  /** What ended it, or null; reading throws it. */
  error = null;
  /** "starting", "live" (a message within 25 s), "stale", or "closed". */
  state = "starting";

  constructor(makeWatch) {
    super();
    this.#watch = makeWatch(({ state }) => {
      this.#isLive = state === "live";
      this.#showState(state === "closed");
    });
    this.#follow().then(
      () => this.#fail(null),
      (error) => this.#fail(error),
    );
  }

  async #follow() {
    for await (const { changes, cursor } of this.#watch.envelopes({ all: true })) this.#apply(changes, cursor);
  }

  #apply(changes, cursor) {
    this.#heard = now();
    const told = changes.flatMap((change) => this.#applyOne(change));
    if (!this.#aside) {
      this.cursor = cursor;
      this.revision = Number(/^[^.]+\.(\d+)$/.exec(cursor)?.[1] ?? this.revision);
    }
    this.#showState();
    for (const detail of told) this.dispatchEvent(new CustomEvent("change", { detail }));
    for (const each of this.#waiting) each.look();
  }

  /** Apply a change; what changed in what is shown, as `{key, old, new}`. */
  #applyOne(change) {
    const { kind, key } = change;
    if (kind === "reset") this.#aside = new Map();
    if (kind === "synced") return this.#swap();
    const entries = this.#aside ?? this.#entries;
    const old = entries.get(key) ?? null;
    let next = old;
    if (kind === "put") next = change;
    if (kind === "touch") next = old?.touched(change.revision, change.expires) ?? null;
    if (kind === "delete") next = null;
    if (next === old) return [];
    if (next) entries.set(key, next);
    else entries.delete(key);
    return entries === this.#entries ? [{ key, old, new: next }] : [];
  }

  #swap() {
    this.#isSynced = true;
    if (!this.#aside) return [];
    const [old, next] = [this.#entries, this.#aside];
    [this.#entries, this.#aside] = [next, null];
    const told = [];
    for (const [key, entry] of old) if (!next.has(key)) told.push({ key, old: entry, new: null });
    for (const [key, entry] of next) {
      const before = old.get(key) ?? null;
      if (before?.revision !== entry.revision) told.push({ key, old: before, new: entry });
    }
    return told;
  }

  #showState(isClosed = false) {
    const current = this.#isSynced && this.#isLive && !this.#aside ? "live" : this.#isSynced ? "stale" : "starting";
    const state = isClosed ? "closed" : current;
    if (state === this.state || this.state === "closed") return;
    this.state = state;
    this.dispatchEvent(new CustomEvent("state", { detail: { state, error: this.#watch?.error ?? null } }));
  }

  #fail(error) {
    this.error = error;
    this.#showState(true);
    if (error) this.dispatchEvent(new CustomEvent("error", { detail: error }));
    for (const each of this.#waiting) each.look();
  }

  #read() {
    if (this.error) throw this.error;
    return this.#entries;
  }

  get(key) {
    return this.#read().get(key);
  }

  has(key) {
    return this.#read().has(key);
  }

  get size() {
    return this.#read().size;
  }

  keys() {
    return this.#read().keys();
  }

  values() {
    return this.#read().values();
  }

  entries() {
    return this.#read().entries();
  }

  forEach(take, thisArgument) {
    this.#read().forEach((entry, key) => take.call(thisArgument, entry, key, this));
  }

  [Symbol.iterator]() {
    return this.entries();
  }

  /** Seconds since the last message. */
  get age() {
    return now() - this.#heard;
  }

  /** Wait until the copy is whole for the first time. */
  async waitSynced(options = {}) {
    await this.#wait(() => this.#isSynced, optionsOf("waitSynced", options));
    return this;
  }

  /** Wait until the copy has the write that was answered with `revision`, of a key below its prefix. */
  async waitRevision(revision, options = {}) {
    await this.#wait(() => this.#isSynced && this.revision >= revision, optionsOf("waitRevision", options));
    return this;
  }

  #wait(isThere, { timeout, signal }) {
    return new Promise((resolve, reject) => {
      const [cut, forget] = linked(signal);
      const settle = (end, value) => {
        this.#waiting.delete(waiter);
        clearTimeout(timer);
        forget();
        end(value);
      };
      const look = () => {
        if (isThere()) settle(resolve);
        else if (this.state === "closed") settle(reject, this.error ?? new NotAnswered("the mirror was closed"));
        else if (cut.signal.aborted) settle(reject, cut.signal.reason);
      };
      const waiter = { look };
      const timer = timeout && setTimeout(() => settle(reject, lateError(timeout)), timeout * 1000);
      cut.signal.addEventListener("abort", look, { once: true });
      this.#waiting.add(waiter);
      look();
    });
  }

  /** End it. */
  close() {
    this.#watch.close();
  }
}

function lateError(seconds) {
  return new DOMException(`not within ${seconds} s`, "TimeoutError");
}

// --- Locks ----------------------------------------------------------------------------------------------------------

/** A lock that is held, and kept by touching its key. By the local clock: it may end without a network. */
export class Lock {
  #kv;
  #name;
  #ttl;
  #owner;
  #revision;
  #heldUntil;
  #heldUntilDate;
  #keeping;
  #ending;
  #loss = new AbortController();
  #isReleased = false;

  constructor(kv, name, ttl, owner, revision, sentAt) {
    [this.#kv, this.#name, this.#ttl, this.#owner, this.#revision] = [kv, name, ttl, owner, revision];
    /** Grows over the whole store: hand it to what the lock protects, to be refused there if it is below another. */
    this.fence = revision;
    this.#holdFrom(sentAt);
    this.#keepOn();
  }

  /** Aborted, with `LockLost`, when the lock is lost. */
  get signal() {
    return this.#loss.signal;
  }

  /** Whether it is certainly held. */
  get held() {
    const isInTime = now() < this.#heldUntil && Date.now() < this.#heldUntilDate;
    return !this.#isReleased && !this.signal.aborted && isInTime;
  }

  #holdFrom(sentAt) {
    this.#heldUntil = sentAt + 0.9 * this.#ttl;
    const left = (this.#heldUntil - now()) * 1000;
    this.#heldUntilDate = Date.now() + left; // the other clock stands still while the machine sleeps
    clearTimeout(this.#ending);
    this.#ending = setTimeout(() => this.#lose("it could not be kept in time"), left);
  }

  #keepOn() {
    this.#keeping = setTimeout(() => this.#keep(), (this.#ttl / 3) * 1000);
  }

  async #keep() {
    const sentAt = now();
    try {
      this.#revision = await this.#kv.touch(this.#name, { ttl: this.#ttl, ifRevision: this.#revision });
      if (!this.#isReleased && !this.signal.aborted) this.#holdFrom(sentAt);
    } catch (error) {
      if (error instanceof PreconditionFailed || error instanceof NotFound) await this.#lookAgain(error);
    }
    if (!this.#isReleased && !this.signal.aborted) this.#keepOn();
  }

  /** A touch whose outcome was unknown may have been done: then the key is still this lock's, at a newer revision. */
  async #lookAgain(error) {
    const entry = await this.#kv.get(this.#name).catch(() => undefined);
    if (isOf(this.#owner, entry)) this.#revision = entry.revision;
    else if (entry !== undefined) this.#lose(whereItIs(entry), error);
  }

  #lose(why, cause) {
    if (this.#isReleased || this.signal.aborted) return;
    this.#stop();
    this.#loss.abort(new LockLost(why, { cause }));
  }

  #stop() {
    clearTimeout(this.#keeping);
    clearTimeout(this.#ending);
  }

  /** Release it. Throws `LockLost` if it was lost before. */
  async release() {
    this.signal.throwIfAborted();
    if (this.#isReleased) return;
    this.#isReleased = true;
    this.#stop();
    for (let revision = this.#revision; ; ) {
      try {
        if (await this.#kv.delete(this.#name, { ifRevision: revision })) return;
        throw new LockLost(whereItIs(null));
      } catch (error) {
        if (!(error instanceof PreconditionFailed)) throw error;
        const entry = await this.#kv.get(this.#name);
        if (!isOf(this.#owner, entry)) throw new LockLost(whereItIs(entry), { cause: error });
        revision = entry.revision; // a touch was under way
      }
    }
  }
}

/** Return why a lock is lost whose key holds this now. */
function whereItIs(entry) {
  return entry ? "another holds it" : "its key was deleted";
}

/** Return whether an entry is that of a lock's owner. */
function isOf(owner, entry) {
  return Boolean(entry) && toBase64(entry.bytes) === btoa(owner);
}

// --- The client -----------------------------------------------------------------------------------------------------

/** Most operations in one request of `getMany`. */
const MANY = 1000;

/** What `connect` returns. Its methods may run at the same time. */
export class Client {
  #connection;
  /** What is put before all keys of this client, see `within`. */
  prefix;

  constructor(connection, prefix = "") {
    this.#connection = connection;
    this.prefix = prefix;
  }

  /** The base URL of the server that is used now. */
  get url() {
    return this.#connection.base;
  }

  /** The base URLs of all servers. */
  get urls() {
    return this.#connection.bases;
  }

  /** Return a client for the keys below `prefix`, which it adds to keys and takes off what comes back. */
  within(prefix) {
    return new Client(this.#connection, this.prefix + prefixOf(prefix));
  }

  /** Return a client with another `timeout`, `patience`, `idempotency`, `transport` or `onRetry`. */
  withOptions(options) {
    return new Client(this.#connection.with(settingsOf(options, this.#connection.settings)), this.prefix);
  }

  #name(key) {
    checkKey(key);
    return { key, full: this.prefix + key };
  }

  #send(call, signal) {
    return perform(this.#connection, call.path === null ? asBatch(call) : call, signal);
  }

  async get(key, options = {}) {
    const { range, signal } = optionsOf("get", options);
    return this.#send(getCall(this.#name(key), { range }), signal);
  }

  async head(key, options = {}) {
    const { signal } = optionsOf("head", options);
    const name = this.#name(key);
    const call = headCall(name);
    const meta = call.path === null ? undefined : await this.#send(call, signal);
    if (meta === null || meta?.size !== undefined) return meta;
    const { items } = await this.page(key, { limit: 1, signal }); // in byte order, the key itself comes first
    const [item] = items;
    if (item?.key !== key) return null;
    const { size, revision, contentType, expires, modified } = item;
    return { key, size, revision, contentType, expires, modified };
  }

  async getIfChanged(key, revision, options = {}) {
    const { signal } = optionsOf("getIfChanged", options);
    return this.#send(getCall(this.#name(key), { unless: revision }), signal);
  }

  async getMany(keys, options = {}) {
    const { signal } = optionsOf("getMany", options);
    const found = new Map();
    let left = [...new Set(keys)];
    while (left.length) {
      const part = left.slice(0, MANY);
      const results = await this.batch(part.map((key) => ({ op: "get", key })), { signal });
      const later = [];
      results.forEach((result, i) => {
        if (result.code === "answer_too_large") later.push(part[i]);
        else found.set(part[i], result.status === 404 ? null : result.check().entry);
      });
      if (later.length === part.length) found.set(later[0], await this.get(later.shift(), { signal })); // alone too large
      left = [...later, ...left.slice(MANY)];
    }
    return found;
  }

  async put(key, value, options = {}) {
    optionsOf("put", options);
    return this.#send(await putCall(this.#name(key), value, options), options.signal);
  }

  async create(key, value, options = {}) {
    optionsOf("create", options);
    const call = await putCall(this.#name(key), value, { ...options, ifRevision: 0 }, { refuse: existsOf });
    return this.#send(call, options.signal);
  }

  async exchange(key, value, options = {}) {
    optionsOf("exchange", options);
    const read = (answer) => readExchanged(key, answer);
    return this.#send(await putCall(this.#name(key), value, options, { read, returns: "previous" }), options.signal);
  }

  async patch(key, patch, options = {}) {
    return this.#send(patchCall(this.#name(key), patch, optionsOf("patch", options)), options.signal);
  }

  async incr(key, by = 1, options = {}) {
    return this.#send(incrCall(this.#name(key), by, optionsOf("incr", options)), options.signal);
  }

  async touch(key, options = {}) {
    return this.#send(touchCall(this.#name(key), optionsOf("touch", options)), options.signal);
  }

  async delete(key, options = {}) {
    return this.#send(deleteCall(this.#name(key), optionsOf("delete", options)), options.signal);
  }

  async update(key, change, options = {}) {
    const { ttl = KEEP, contentType, idempotent, tries = 64, signal } = optionsOf("update", options);
    let failure = null;
    for (let n = 0; n < tries; n++) {
      if (n) await sleep(Math.random() * longestDelay(n - 1), signal);
      const entry = await this.get(key, { signal });
      const next = await change(entry);
      if (next === KEEP) return entry;
      try {
        const ifRevision = entry?.revision ?? 0;
        if (next === DELETE) {
          if (!entry || (await this.delete(key, { ifRevision, signal }))) return null;
          failure = new PreconditionFailed("the key is absent");
          continue;
        }
        const { body, contentType: type } = await contentOf(next, contentType ?? entry?.contentType);
        const lifetime = ttl === KEEP ? { expires: entry?.expires ?? undefined } : { ttl: ttl ?? undefined };
        const how = { ...lifetime, contentType: type, ifRevision, idempotent, signal };
        const { revision } = await this.put(key, body, how);
        const expires = ttl === KEEP ? (entry?.expires ?? null) : ttl && new Date(Date.now() + ttl * 1000);
        return new Entry({ key, value: body, revision, contentType: type, expires });
      } catch (error) {
        // The expiry that is to be kept may have come in the meantime.
        const isOver = error instanceof BadRequest && entry?.expires && entry.expires <= Date.now() + 1000;
        if (!(error instanceof PreconditionFailed) && !isOver) throw error;
        failure = error;
      }
    }
    throw failure;
  }

  #listParameters(prefix, { after, before, reverse, values, delimiter }) {
    const full = (bound) => (bound === undefined || bound === null ? null : this.prefix + bound);
    const flag = (value) => (value ? "true" : null);
    return {
      ...{ prefix: this.prefix + prefixOf(prefix) || null, after: full(after), before: full(before), delimiter },
      ...{ reverse: flag(reverse), values: flag(values) },
    };
  }

  async page(prefix = "", options = {}) {
    const { limit, signal, ...range } = optionsOf("page", options);
    const parameters = { ...this.#listParameters(prefix, range), limit };
    const strip = this.prefix.length;
    const read = (answer) => {
      const { items, prefixes, next } = documentOf(answer);
      if (!Array.isArray(items)) throw new ForeignAnswer("an answer without items");
      return {
        items: items.map((item) => itemOf(item, strip)),
        prefixes: (prefixes ?? []).map((each) => each.slice(strip)),
        next: next?.slice(strip) ?? null,
        cursor: answer.headers.get("kv-cursor") ?? "",
      };
    };
    return this.#send({ kind: READ, path: withQuery("/v1/kv", parameters), read }, signal);
  }

  scan(prefix = "", options = {}) {
    const { values = false, reverse = false, signal } = optionsOf("scan", options);
    const parameters = this.#listParameters(prefix, { values, reverse });
    return new Scan(this.#connection, this.prefix, parameters, signal);
  }

  async *keys(prefix = "", options = {}) {
    for await (const { key } of this.scan(prefix, optionsOf("keys", options))) yield key;
  }

  async count(prefix = "", options = {}) {
    const { signal } = optionsOf("count", options);
    const path = withQuery("/v1/kv", { prefix: this.prefix + prefixOf(prefix) || null, count: "true" });
    const read = (answer) => memberOf(documentOf(answer), "count", "number");
    return this.#send({ kind: READ, path, read }, signal);
  }

  async deletePrefix(prefix, options = {}) {
    const { dryRun = false, limit, all = false, signal } = optionsOf("deletePrefix", options);
    const full = this.prefix + prefixOf(prefix);
    const { patience } = this.#connection.settings;
    let [count, cut, failures, giveUpAt] = [0, null, 0, null];
    for (;;) {
      const left = limit === undefined ? null : limit - count;
      const parameters = { prefix: full || null, all: all && !full ? "true" : null, limit: left, cut };
      const call = sweepCall({ ...parameters, dry_run: dryRun ? "true" : null });
      const swept = await this.#send(call, signal);
      count += swept.deleted;
      cut = swept.cut;
      if (swept.complete || (limit !== undefined && count >= limit)) return { count, complete: swept.complete, cut };
      giveUpAt = swept.error ? (giveUpAt ?? now() + patience) : null;
      failures = swept.error ? failures + 1 : 0;
      if (giveUpAt !== null && now() >= giveUpAt) throw swept.error;
      if (failures) await sleep(Math.random() * longestDelay(failures), signal);
    }
  }

  async batch(ops, options = {}) {
    const { atomic = false, signal } = optionsOf("batch", options);
    const wire = await Promise.all(ops.map((op) => wireOf(op, (key) => this.#name(key))));
    const resultsOf = (results) => results.map((each, i) => new Result(ops[i].op, ops[i].key, each));
    const call = batchCall(wire, atomic, (answer) => resultsOf(resultsIn(documentOf(answer))));
    call.refuse = (error) => {
      if (!(error instanceof BatchFailed)) return error;
      const { failed = -1, results = [] } = error.members;
      return Object.assign(error, { failed, results: resultsOf(results) });
    };
    return this.#send(call, signal);
  }

  atomic() {
    return new Atomic((ops, signal) => {
      const slots = new Set(ops.map(({ key }) => slotOf(this.#name(key).full)));
      if (slots.size > 1) throw new CrossSlot("give the keys a common {tag} in braces: only the tag decides on the slot");
      return this.batch(ops, { atomic: true, signal });
    });
  }

  watch(prefixes, options = {}) {
    const { keys = [], snapshot, since, ops, values = true, activity, conflate, ...rest } = optionsOf("watch", options);
    const { transport, silence, onGap = "raise", patience, onState, signal } = rest;
    if (onGap !== "raise" && onGap !== "continue") throw new TypeError(`onGap is raise or continue, not ${onGap}`);
    const chosen = prefixes === undefined || prefixes === null ? (keys.length ? [] : [""]) : [prefixes].flat();
    const flag = (value) => (value ? "true" : null);
    const parameters = {
      prefix: chosen.map((prefix) => this.prefix + prefixOf(prefix)).filter((prefix) => prefix || chosen.length > 1 || keys.length),
      key: [keys].flat().map((key) => this.#name(key).full),
      ops: [ops ?? []].flat().join(",") || null,
      values: values ? null : "false",
      ...{ snapshot: flag(snapshot), activity: flag(activity), conflate: flag(conflate) },
    };
    const connection = this.#connection.with(settingsOf({ transport, silence }, this.#connection.settings));
    const wishes = { onGap, patience, onState, signal, since: since ?? "", strip: this.prefix.length };
    return new Watch(connection, parameters, wishes);
  }

  async wait(key, until = (entry) => entry !== null, options = {}) {
    const { timeout, signal } = optionsOf("wait", options);
    const [cut, forget] = linked(signal);
    const timer = timeout && setTimeout(() => cut.abort(lateError(timeout)), timeout * 1000);
    try {
      let [entry, isSynced] = [null, false];
      for await (const change of this.watch(undefined, { keys: [key], snapshot: true, signal: cut.signal })) {
        if (change.kind === "put") entry = change;
        else if (change.kind === "touch") entry = entry?.touched(change.revision, change.expires) ?? null;
        else if (change.kind !== "synced") entry = null;
        isSynced = change.kind === "synced" || (isSynced && change.kind !== "reset");
        if (isSynced && (await until(entry))) return entry;
      }
      return null;
    } finally {
      clearTimeout(timer);
      forget();
    }
  }

  mirror(prefix = "", options = {}) {
    optionsOf("mirror", options);
    return new Mirror((onState) => this.watch(prefix, { patience: Infinity, ...options, snapshot: true, onState }));
  }

  async lock(name, options = {}) {
    const { ttl = 10, signal } = optionsOf("lock", options);
    if (!(ttl > 0)) throw new BadRequest(`the time to live of a lock is above 0 seconds, not ${ttl}`);
    const owner = randomName();
    for (;;) {
      const sentAt = now();
      const revision = await this.#tryLock(name, owner, ttl, signal);
      if (revision !== null) return new Lock(this, name, ttl, owner, revision, sentAt);
      await this.wait(name, (entry) => entry === null, { signal });
    }
  }

  /** Create the lock's key; its revision, or null if it is another's. */
  async #tryLock(name, owner, ttl, signal) {
    try {
      return (await this.create(name, owner, { ttl, signal })).revision;
    } catch (error) {
      if (!(error instanceof Exists) && !(error instanceof OutcomeUnknown)) throw error;
      const entry = await this.get(name, { signal });
      return isOf(owner, entry) ? entry.revision : null;
    }
  }

  async withLock(name, run, options = {}) {
    const lock = await this.lock(name, optionsOf("withLock", options));
    try {
      return await run(lock);
    } finally {
      await lock.release();
    }
  }

  #document(path, signal) {
    return this.#send({ kind: READ, path, read: documentOf }, signal);
  }

  async status(options = {}) {
    const { signal } = optionsOf("status", options);
    return this.#document("/v1/status", signal);
  }

  async whoami(options = {}) {
    const { signal } = optionsOf("whoami", options);
    return this.#document("/v1/whoami", signal);
  }

  async ping(options = {}) {
    const { signal } = optionsOf("ping", options);
    const begun = now();
    const read = ({ status, bytes }) => {
      if (status !== 200 || UTF8_TEXT.decode(bytes) !== "pong") throw new ForeignAnswer("no pong to a ping");
      return now() - begun;
    };
    return this.#send({ kind: READ, path: "/ping", read }, signal);
  }

  async ticket(purpose, options = {}) {
    const { grants, ttl, signal } = optionsOf("ticket", options);
    return this.#send(ticketCall(purpose, grants, ttl), signal);
  }
}

/** Return the call that deletes below a prefix. An interruption has `error`, and the `cut` to continue with. */
function sweepCall(parameters) {
  const read = (answer) => {
    if (answer.status === 200) {
      const document = documentOf(answer);
      memberOf(document, "deleted", "number");
      return { ...document, complete: memberOf(document, "complete", "boolean") };
    }
    if (!isProblem(answer)) throw new ForeignAnswer(answer.isRedirect ? "a redirect" : `an answer ${answer.status} to a DELETE`);
    const error = problemOf(answer);
    const { deleted = 0, cut } = error.members;
    if (cut === undefined || parameters.limit !== null) throw error;
    return { deleted, cut, complete: false, error };
  };
  const mayRepeat = parameters.cut !== null && parameters.limit === null;
  const kind = parameters.dry_run ? READ : mayRepeat ? SWEEP : WRITE;
  return { kind, keyless: true, method: "DELETE", path: withQuery("/v1/kv", parameters), accepts: [504], read };
}

const DEFAULTS = {
  ...{ timeout: 10, patience: 5, idempotency: true, transport: "auto", silence: 25, onRetry: undefined },
  fetch: (...request) => globalThis.fetch(...request),
  WebSocket: globalThis.WebSocket,
};

/** Return `before` with the `options` that are given. Throws TypeError for one that does not exist. */
function settingsOf(options, before) {
  const settings = { ...before };
  for (const [name, value] of Object.entries(options)) {
    if (!(name in DEFAULTS)) throw new TypeError(`there is no option ${name}; there are ${Object.keys(DEFAULTS).join(", ")}`);
    if (value !== undefined) settings[name] = value;
  }
  for (const name of ["timeout", "patience", "silence"]) {
    if (!(settings[name] >= 0)) throw new TypeError(`${name} is a number of seconds, not ${settings[name]}`);
  }
  return settings;
}

function environment(name) {
  try {
    return globalThis.process?.env?.[name] || undefined;
  } catch {
    return undefined; // Deno without the permission to read it
  }
}

/** Return the base of `url`, without a slash at its end. `localhost:9120` is http. Throws TypeError. */
export function baseOf(url) {
  const text = /^[a-z][a-z0-9+.-]*:\/\//i.test(url) ? url : `http://${url}`;
  const { protocol, username, password, search, hash, origin, pathname } = new URL(text);
  if (protocol !== "http:" && protocol !== "https:") throw new TypeError(`a server's URL is http or https, not ${protocol}`);
  if (username || password) throw new TypeError("a URL with a password is not taken: give a token");
  if (search || hash) throw new TypeError("a server's URL has no query");
  return origin + pathname.replace(/\/+$/, "");
}

/** Return the bases of `url`: one URL, several with commas between them, or a list. Throws TypeError. */
function basesOf(url) {
  const bases = (Array.isArray(url) ? url : url.split(",")).map((each) => baseOf(each.trim()));
  if (!bases.length) throw new TypeError("a client needs the URL of a server; the list of URLs is empty");
  const again = bases.find((base, i) => bases.indexOf(base) < i);
  if (again) throw new TypeError(`each URL names another server of the store, but ${again} is there twice`);
  return bases;
}

/**
 * Return a client of the server at `url`: else the page's own, else of KVSERVER_URL, else http://localhost:8080. Nothing
 * is sent yet. Several URLs, in a list or with commas between them, are the servers of one cluster: the client uses the
 * first until it fails, then the next.
 */
export function connect(url, { token = environment("KVSERVER_TOKEN"), prefix = "", ...options } = {}) {
  const { protocol, origin } = globalThis.location ?? {};
  const own = /^https?:$/.test(protocol ?? "") ? origin : undefined;
  const bases = basesOf(url ?? own ?? environment("KVSERVER_URL") ?? "http://localhost:8080");
  return new Client(new Connection({ bases, current: 0 }, { given: token }, settingsOf(options, DEFAULTS)), prefix);
}
