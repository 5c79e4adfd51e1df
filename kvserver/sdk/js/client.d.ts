/**
 * Types of client.js, the client of kvserver for browsers, Node from 20 on, Deno and workers.
 *
 * All durations are seconds. A failed write throws a `Refused` (nothing was done) or an `OutcomeUnknown` (it may or may
 * not have been done), a failed read a `Refused` or a `NotAnswered`. Methods that take a `signal` throw its reason when
 * it is aborted; a write that was sent may then have been done. An option that a call does not have is a TypeError, and
 * nothing is sent.
 */

// --- Connecting -----------------------------------------------------------------------------------------------------

/**
 * Return a client. Nothing is sent yet.
 *
 * `url`: else the page's own origin, else the environment's KVSERVER_URL, else http://localhost:8080. A URL without a
 * scheme is http. Several URLs, in a list or with commas between them, are the servers of one cluster: the client uses
 * the first until it fails, then the next. Throws TypeError for a URL that is none, and for an option that does not exist.
 */
export function connect(url?: string | readonly string[] | null, options?: ConnectOptions): Client;

/** Return the base that `connect` makes of a URL. Throws TypeError. */
export function baseOf(url: string): string;

export interface ConnectOptions extends ClientOptions {
  /**
   * Sent with each request, never in a URL; a function is called once, and again when the server refuses its token.
   * Else the environment's KVSERVER_TOKEN.
   */
  token?: string | (() => string | Promise<string>);
  /** What is put before all keys, see `within`. */
  prefix?: string;
}

export interface ClientOptions {
  /** Seconds for one answer, in all. Default: 10. */
  timeout?: number;
  /** Seconds during which a failed request is repeated, if that is safe; 0: never. Default: 5. */
  patience?: number;
  /** Send an Idempotency-Key with each write, so that every write may be repeated. Default: true. */
  idempotency?: boolean;
  /**
   * What carries feeds. "auto" (the default): a WebSocket in pages and their workers, where it does not count towards the
   * six connections to a server; else lines of JSON; polls where a proxy holds lines back.
   */
  transport?: Transport;
  /** Seconds of silence after which a connection of the feed is dead; the server sends something every 10. Default: 25. */
  silence?: number;
  /** Called before a request is repeated. */
  onRetry?: (retry: { error: KVError; attempts: number; seconds: number }) => void;
  /** Instead of the platform's `fetch`. */
  fetch?: (url: string, init?: RequestInit) => Promise<Response>;
  /** Instead of the platform's `WebSocket`; Node 20 has none. */
  WebSocket?: new (url: string) => unknown;
}

export type Transport = "auto" | "websocket" | "lines" | "poll";

// --- Values ---------------------------------------------------------------------------------------------------------

/**
 * What can be stored. Text is stored as UTF-8 with the type text/plain, bytes as application/octet-stream, a Blob with its
 * own type; numbers, BigInts, booleans, arrays and plain objects as JSON. `json(value)` stores any JSON: strings and
 * null, too.
 */
export type Value = string | ArrayBuffer | ArrayBufferView | Blob | number | bigint | boolean | Json | object;

/** A value to be stored as JSON, see `json`. */
export interface Json {
  readonly value: unknown;
}

/** Mark a value to be stored as JSON. */
export function json(value: unknown): Json;

/** `getIfChanged` found the revision that it was asked about. */
export const UNCHANGED: unique symbol;
/** From the function of `update`: leave the key as it is. As its `ttl`: leave the expiry. */
export const KEEP: unique symbol;
/** From the function of `update`: delete the key. */
export const DELETE: unique symbol;

/** What is known of a key, without its value. */
export interface Meta {
  key: string;
  /** Bytes of the value. */
  size: number;
  /** Its place in the history of the store: grows with each change, never returns. */
  revision: number;
  contentType: string;
  /** When it expires; null: never. */
  expires: Date | null;
  /** When the value was put; null where the server does not tell it. */
  modified: Date | null;
}

/** A key's value and what is known of it. */
export class Entry implements Meta {
  constructor(facts: Omit<Meta, "size"> & { size?: number; value?: Uint8Array | string });
  key: string;
  size: number;
  revision: number;
  contentType: string;
  expires: Date | null;
  modified: Date | null;
  /** Whether the value is here: not in lists and feeds without `values`. */
  get hasValue(): boolean;
  /** The value. Throws TypeError where values were not asked for. */
  get bytes(): Uint8Array;
  /** Return the value as text. Throws TypeError where it is not UTF-8. */
  text(): string;
  /** Return the value parsed as JSON; numbers above 2^53 lose digits, `text()` has them. Throws SyntaxError. */
  json(): any;
  /** The entity tag, as HTTP has it. */
  get etag(): string;
  /** Return this entry with another expiry and its revision: what a touch leaves. */
  touched(revision: number, expires: Date | null): Entry;
}

/** A key in a list. */
export type Item = Entry & { created: Date | null };

/** Anything that takes time can be aborted. */
export interface Abortable {
  signal?: AbortSignal;
}

export interface PutOptions extends Abortable {
  contentType?: string;
  /** Seconds until it expires, in steps of a millisecond. */
  ttl?: number;
  /** When it expires. */
  expires?: Date | string;
  /** Only over this revision; 0: only if there is no such key. */
  ifRevision?: number;
  /** Without idempotency: if the outcome is unknown and the key then holds exactly what was sent, it counts as done. */
  idempotent?: boolean;
}

export interface Written {
  revision: number;
  /** The key was absent before. */
  created: boolean;
}

// --- The client -----------------------------------------------------------------------------------------------------

export class Client {
  private constructor();
  /** The base URL. */
  get url(): string;
  /** The base URLs of all servers. */
  get urls(): string[];
  /** What is put before all keys of this client. */
  readonly prefix: string;

  /** Return a client for the keys below `prefix`, which it adds to keys and takes off what comes back. */
  within(prefix: string): Client;
  /** Return a client with other options. */
  withOptions(options: ClientOptions): Client;

  /** Return a value; null: there is none. `range`: its bytes from the first to the last, both included. */
  get(key: string, options?: Abortable & { range?: [first: number, last?: number | null] }): Promise<Entry | null>;
  /** Return what is known of a key; null: there is none. */
  head(key: string, options?: Abortable): Promise<Meta | null>;
  /** Return a value unless it has this revision. */
  getIfChanged(key: string, revision: number, options?: Abortable): Promise<Entry | null | typeof UNCHANGED>;
  /** Return the values of many keys, in few requests. */
  getMany(keys: Iterable<string>, options?: Abortable): Promise<Map<string, Entry | null>>;
  /** Store a value. Throws `PreconditionFailed` (with the `revision` that is there). */
  put(key: string, value: Value, options?: PutOptions): Promise<Written>;
  /** Store a value under a key that is absent. Throws `Exists`. */
  create(key: string, value: Value, options?: Omit<PutOptions, "ifRevision">): Promise<Written>;
  /** Store a value, and return the one before; null: there was none. */
  exchange(key: string, value: Value, options?: PutOptions): Promise<{ revision: number; previous: Entry | null }>;
  /**
   * Read a value, and store what `change` makes of it; repeat if another write came first. Returns what the key then
   * holds. Throws `PreconditionFailed` after `tries`, and what `change` throws.
   *
   * The type of the value and its expiry stay, unless `contentType` or `ttl` (null: no expiry) say otherwise; with `ttl`,
   * the `expires` that is returned is by the local clock.
   */
  update(key: string, change: Next, options?: UpdateOptions): Promise<Entry | null>;
  /** Merge a JSON merge patch (RFC 7396) into a value; an absent one is {}. Throws `NotJson`, `AnswerWithheld`. */
  patch(key: string, patch: unknown, options?: Abortable & { ifRevision?: number }): Promise<Entry>;
  /** Add to a whole number of 64 bits; an absent one is 0. Throws `NotAnInteger`, `Overflow`, `AnswerWithheld`. */
  incr(
    key: string,
    by?: number | bigint,
    options?: Abortable & { ttlIfNew?: number; ifRevision?: number },
  ): Promise<bigint>;
  /** Change the expiry alone; the revision. Throws `NotFound`. */
  touch(
    key: string,
    options: Abortable & { ttl?: number; expires?: Date | string; persist?: boolean; ifRevision?: number },
  ): Promise<number>;
  /** Delete a key. Returns whether there was one. */
  delete(key: string, options?: Abortable & { ifRevision?: number }): Promise<boolean>;

  /** Return one page of a list, in byte order. */
  page(prefix?: string, options?: PageOptions): Promise<Page>;
  /** Return all keys with a prefix as a stream; one that breaks off continues after the last key. */
  scan(prefix?: string, options?: Abortable & { values?: boolean; reverse?: boolean }): Scan;
  /** Return the names of all keys with a prefix as a stream. */
  keys(prefix?: string, options?: Abortable & { reverse?: boolean }): AsyncGenerator<string, void, undefined>;
  /** Return how many keys have a prefix. */
  count(prefix?: string, options?: Abortable): Promise<number>;
  /**
   * Delete all keys with a prefix; the empty one needs `all`. What is put after it began stays. `complete` is false only
   * where `limit` ended it; `dryRun` deletes nothing.
   */
  deletePrefix(
    prefix: string,
    options?: Abortable & { dryRun?: boolean; limit?: number; all?: boolean },
  ): Promise<{ count: number; complete: boolean; cut: number }>;

  /**
   * Carry out operations in one request, in order for each key. What fails says so in its result. With `atomic`, all or
   * none are done, on keys of one slot: throws `BatchFailed`, `CrossSlot`.
   */
  batch(ops: readonly Operation[], options?: Abortable & { atomic?: boolean }): Promise<Result[]>;
  /** Return a builder of an atomic batch. */
  atomic(): Atomic;

  /**
   * Return the changes of keys with one of the `prefixes` (default: all keys), and of `keys`. It reconnects on its own
   * after every break. Throws, where it is read, `Gap`, `BadCursor`, `Unauthorized`, `Forbidden`.
   */
  watch(prefixes?: string | readonly string[] | null, options?: WatchOptions): Watch;
  /**
   * Wait until `until` is true for what a key holds (null: nothing), by default until there is a value. Throws the
   * DOMException TimeoutError after `timeout`.
   */
  wait(
    key: string,
    until?: (entry: Entry | null) => boolean | Promise<boolean>,
    options?: Abortable & { timeout?: number },
  ): Promise<Entry | null>;
  /** Return a live copy of the keys with a prefix. By default its patience has no end. */
  mirror(prefix?: string, options?: Abortable & Pick<WatchOptions, "patience" | "transport" | "silence">): Mirror;
  /** Take a lock, and wait for it as long as it takes; a holder that vanishes loses it after `ttl` seconds (default: 10). */
  lock(name: string, options?: Abortable & { ttl?: number }): Promise<Lock>;
  /** Run something while a lock is held. Throws `LockLost` at its end if it was lost. */
  withLock<T>(name: string, run: (lock: Lock) => T | Promise<T>, options?: Abortable & { ttl?: number }): Promise<T>;

  /** Return the state of the server, as GET /v1/status has it. */
  status(options?: Abortable): Promise<Record<string, any>>;
  /** Return whose token this is and what it may do; without tokens `name` is null. */
  whoami(options?: Abortable): Promise<{ name: string | null; grants: { prefix: string; allow: string[] }[] }>;
  /** Return how many seconds a request takes. */
  ping(options?: Abortable): Promise<number>;
  /**
   * Return a password that a page sends in place of the token. For "websocket" and "sse": for one connection to the
   * feed; use it at once. For "kv": `grants`, a part of the token's rights, for `ttl` seconds (300 if left out); a
   * client takes it as its `token`.
   */
  ticket(
    purpose: "websocket" | "sse" | "kv",
    options?: Abortable & { grants?: { prefix: string; allow: string[] }[]; ttl?: number },
  ): Promise<{ ticket: string; expires: Date | null }>;
}

type Next = (
  entry: Entry | null,
) => Value | typeof KEEP | typeof DELETE | Promise<Value | typeof KEEP | typeof DELETE>;

export interface UpdateOptions extends Abortable {
  ttl?: number | null | typeof KEEP;
  contentType?: string;
  idempotent?: boolean;
  /** Default: 64. */
  tries?: number;
}

export interface PageOptions extends Abortable {
  /** Only keys after this one. */
  after?: string | null;
  /** Only keys before this one. */
  before?: string | null;
  /** 1 to 1000; default: 100. */
  limit?: number;
  reverse?: boolean;
  values?: boolean;
  /** Keys are folded at its first occurrence after the prefix. */
  delimiter?: string;
}

export interface Page {
  items: Item[];
  /** What the delimiter folds. */
  prefixes: string[];
  /** Hand it to `after` (with `reverse` to `before`) for the next page; null at the end. */
  next: string | null;
  /** Hand it to `watch`'s `since` to miss nothing that happens after the page was read. */
  cursor: string;
}

/** All keys of a range. */
export class Scan implements AsyncIterable<Item> {
  private constructor();
  /** Hand it to `watch`'s `since` to miss nothing that happens after the scan has begun; empty before. */
  readonly cursor: string;
  [Symbol.asyncIterator](): AsyncIterator<Item, void, undefined>;
}

/** One operation of a batch. On a get, `ifRevision` is a check without a write. */
export type Operation =
  | { op: "get"; key: string; ifRevision?: number }
  | ({ op: "put"; key: string; value: Value } & Omit<PutOptions, "signal" | "idempotent">)
  | { op: "patch"; key: string; patch: unknown; ifRevision?: number }
  | { op: "incr"; key: string; by?: number | bigint; ttlIfNew?: number; ifRevision?: number }
  | { op: "touch"; key: string; ttl?: number; expires?: Date | string; persist?: boolean; ifRevision?: number }
  | { op: "delete"; key: string; ifRevision?: number };

/** What one operation of a batch did. */
export class Result {
  private constructor();
  readonly op: Operation["op"];
  readonly key: string;
  /** As a request of its own would have been answered. */
  readonly status: number;
  readonly revision: number | null;
  readonly code: string | null;
  readonly detail: string;
  /** The value after it (get, incr, patch), or null. */
  readonly entry: Entry | null;
  /** Whether it was done. */
  get ok(): boolean;
  /** Return this result, or throw the error in it. */
  check(): Result;
}

/** Operations that are done together or not at all, on keys of one slot: give them a common {tag} in braces. */
export class Atomic {
  private constructor();
  /** Fail unless the key has this revision; 0: unless there is no such key. */
  check(key: string, ifRevision: number): this;
  get(key: string): this;
  put(key: string, value: Value, options?: Omit<PutOptions, "signal" | "idempotent">): this;
  patch(key: string, patch: unknown, options?: { ifRevision?: number }): this;
  incr(key: string, by?: number | bigint, options?: { ttlIfNew?: number; ifRevision?: number }): this;
  touch(
    key: string,
    options: { ttl?: number; expires?: Date | string; persist?: boolean; ifRevision?: number },
  ): this;
  delete(key: string, options?: { ifRevision?: number }): this;
  /** Send it. Throws `CrossSlot` before anything is sent, and `BatchFailed`. */
  commit(options?: Abortable): Promise<Result[]>;
}

// --- The feed -------------------------------------------------------------------------------------------------------

export interface WatchOptions extends Abortable {
  /** Also these keys; without `prefixes`, only these. */
  keys?: string | readonly string[];
  /** Send the state first, then changes. */
  snapshot?: boolean;
  /** Continue after this cursor. */
  since?: string;
  /** Only these: `put`, `touch`, `delete`, and deletes of one cause, `delete:expire`. */
  ops?: string | readonly string[];
  /** Send values; else only their sizes. Default: true. */
  values?: boolean;
  /** Also requests that change nothing: reads, lists, deletes of absent keys, heartbeats. */
  activity?: boolean;
  /** When this client is behind, send only the latest change of each key. */
  conflate?: boolean;
  /** Where changes are missing and no snapshot follows: throw `Gap` (the default), or continue with what is kept. */
  onGap?: "raise" | "continue";
  /**
   * Seconds without a message after which it gives up, also on an open connection: give more than the 10 seconds after
   * which the server sends one. A `closing` or an error does not count as a message. Default: that of the client
   * for the first message, and none afterwards; Infinity: never; 0: when its connection breaks.
   */
  patience?: number;
  transport?: Transport;
  silence?: number;
  /** Called when the state changes. `seconds`: until it comes back, where it waits. */
  onState?: (state: { state: Watch["state"]; seconds: number; error: Error | null; cursor: string }) => void;
}

/** A value was put. `time` is that of the change, of a snapshot's items that of the last put. */
export type Put = Entry & { kind: "put"; origin: "live" | "snapshot"; time: Date };

export type Change =
  | Put
  | { kind: "touch"; key: string; revision: number; time: Date; expires: Date | null }
  | { kind: "delete"; key: string; revision: number; time: Date; cause: "request" | "prefix" | "expire" | "evict" }
  /** Before each snapshot, an empty one too. Discard the copy: keys that do not come before `synced` are gone. Without
   *  `snapshot`, changes are missing. */
  | { kind: "reset"; reason: "start" | "trimmed" | "epoch" | "bad_cursor"; snapshot: boolean }
  /** The snapshot is whole. */
  | { kind: "synced"; cursor: string }
  | { kind: "activity"; op: string; key?: string; prefix?: string; peer?: string; time: Date };

/** The changes in one message, and the cursor after them. */
export interface Envelope {
  changes: Change[];
  cursor: string;
}

/** The changes of keys, for one consumer. It connects when that begins to read, and ends with it. */
export class Watch implements AsyncIterable<Change> {
  private constructor();
  /** After the last message all of whose changes were taken: give it to `since` to continue there. */
  readonly cursor: string;
  readonly state: "connecting" | "live" | "waiting" | "closed";
  /** Why the last connection failed, or null. */
  readonly error: Error | null;
  /** Connect. Resolves when the first message has come: what is written after that is sure to be seen. */
  open(): Promise<this>;
  [Symbol.asyncIterator](): AsyncIterator<Change, void, undefined>;
  /** Return whole messages: an atomic batch is never divided. `all`: those without changes, too. */
  envelopes(options?: { all?: boolean }): AsyncGenerator<Envelope, void, undefined>;
  /** Call `take` with each change, in order, after the one before is done. Returns the function that ends it. */
  subscribe(
    take: (change: Change) => unknown,
    options?: { onError?: (error: unknown) => void },
  ): () => void;
  /** End it: whoever iterates sees the end. */
  close(): void;
}

export interface MirrorChange {
  key: string;
  old: Entry | null;
  new: Entry | null;
}

/**
 * A live copy of keys, read like a Map: one state of the store. After a gap the old one stays until the new one is whole.
 * Events are CustomEvents: `change` (detail: `MirrorChange`), `state` (detail: `{state, error}`), `error`.
 */
export class Mirror extends EventTarget implements Iterable<[string, Entry]> {
  private constructor();
  /** After what the copy has. */
  readonly cursor: string;
  /** The revision up to which the copy has everything. */
  readonly revision: number;
  readonly state: "starting" | "live" | "stale" | "closed";
  /** What ended it; reading throws it. */
  readonly error: Error | null;
  /** Seconds since the last message. */
  get age(): number;
  get size(): number;
  get(key: string): Entry | undefined;
  has(key: string): boolean;
  keys(): IterableIterator<string>;
  values(): IterableIterator<Entry>;
  entries(): IterableIterator<[string, Entry]>;
  forEach(take: (entry: Entry, key: string, mirror: Mirror) => void, thisArgument?: unknown): void;
  [Symbol.iterator](): IterableIterator<[string, Entry]>;
  /** Wait until the copy is whole for the first time. */
  waitSynced(options?: Abortable & { timeout?: number }): Promise<this>;
  /** Wait until the copy has the write that was answered with `revision`. */
  waitRevision(revision: number, options?: Abortable & { timeout?: number }): Promise<this>;
  /** End it. */
  close(): void;
}

/** A lock that is held, by the local clock: it may be lost without a network. */
export class Lock {
  private constructor();
  /** Grows over the whole store: hand it to what the lock protects, to be refused there if it is below another. */
  readonly fence: number;
  /** Whether it is held, for certain. */
  get held(): boolean;
  /** Aborted, with `LockLost`, when the lock is lost. */
  get signal(): AbortSignal;
  /** Release it. Throws `LockLost` if it was lost before. */
  release(): Promise<void>;
}

// --- Parts ----------------------------------------------------------------------------------------------------------

/** Return the path of a key; null for `.` and `..`, which have none that parsers of URLs keep. Throws `BadKey`. */
export function keyPath(key: string): string | null;
/** Return the slot of a key, 0 to 16383: those of an atomic batch have one. */
export function slotOf(key: string): number;
/** Return the longest delay in seconds before repeat `n` of a request, counted from 0. */
export function longestDelay(n: number): number;
/** Return the longest delay in seconds before a feed comes back for the `n`th time in a row, counted from 0. */
export function longestReturn(n: number): number;
/** Return the error that a problem document describes. */
export function errorOf(status: number, problem?: Record<string, unknown>): KVError;

/** Cuts bytes into lines, and parses each as JSON. */
export class JsonLines {
  /** Return what the lines say that these bytes complete. Throws SyntaxError, TypeError (not UTF-8). */
  push(bytes: Uint8Array): any[];
}

/** What the messages of a feed say. */
export class Follow {
  constructor(options?: { since?: string; onGap?: "raise" | "continue"; strip?: number });
  readonly cursor: string;
  /** Seconds after which a feed that the server closes comes back, else null. */
  comeBackAfter: number | null;
  /** Return the changes of a message. Throws `Gap`, and the server's error. */
  take(message: Record<string, unknown>): Envelope;
}

// --- Errors ---------------------------------------------------------------------------------------------------------

/** Base of all errors of this client. */
export class KVError extends Error {
  constructor(detail?: string, options?: { hint?: string; cause?: unknown });
  /** Stable identifier: the server's or, where no server answered, the client's own. */
  readonly code: string;
  /** HTTP status; null where no server answered. */
  readonly status: number | null;
  /** The code in words. */
  readonly title: string;
  /** What was wrong this time. */
  readonly detail: string;
  /** What would be right instead. */
  readonly hint: string;
  /** The server's name for the request, in its log too. */
  readonly requestId: string | null;
  /** How often the request was sent. */
  readonly attempts: number;
  /** Seconds after which the server asks to repeat; 0 if it does not say. */
  readonly retryAfter: number;
  /** Further facts of the server's answer. */
  readonly members: Record<string, any>;
}

/** Nothing was done. */
export class Refused extends KVError {}
export class BadRequest extends Refused {}
export class BadKey extends BadRequest {}
export class BadCursor extends BadRequest {}
export class CrossSlot extends BadRequest {}
export class Unauthorized extends Refused {}
export class InvalidToken extends Unauthorized {}
export class BadTicket extends Unauthorized {}
export class Forbidden extends Refused {}
export class ForbiddenOrigin extends Forbidden {}
export class NotFound extends Refused {}
export class NoSuchResource extends Refused {}
export class MethodNotAllowed extends Refused {}
export class RequestTimeout extends Refused {}
export class Conflict extends Refused {}
export class NotAnInteger extends Conflict {}
export class Overflow extends Conflict {}
export class NotJson extends Conflict {}
/** `failed` is the index of the operation that failed. */
export class BatchFailed extends Conflict {
  readonly failed: number;
  readonly results: Result[];
}
/** `revision` is that of what is there, 0 if nothing is. */
export class PreconditionFailed extends Refused {
  readonly revision: number;
}
export class Exists extends PreconditionFailed {}
export class TooLarge extends Refused {}
export class ValueTooLarge extends TooLarge {}
export class AnswerTooLarge extends TooLarge {}
export class BatchTooLarge extends TooLarge {}
export class PatchesTooLarge extends TooLarge {}
export class KeyTooLong extends TooLarge {}
export class UriTooLong extends TooLarge {}
export class HeadersTooLarge extends TooLarge {}
export class UnsupportedMediaType extends Refused {}
export class RangeNotSatisfiable extends Refused {}
export class Misdirected extends Refused {}
export class IdempotencyMismatch extends Refused {}
export class FailedDependency extends Refused {}
export class InsufficientStorage extends Refused {}
/** `members` has `limit`, `used` and `needed`, in bytes. */
export class MemoryLimit extends InsufficientStorage {}
export class Unavailable extends Refused {}
export class Overloaded extends Unavailable {}
export class FeedUnavailable extends Unavailable {}
export class NotCurrent extends Unavailable {}
export class StaleIncarnation extends Unavailable {}
export class DeadlinePassed extends Unavailable {}
export class ProtocolError extends Refused {}
/** The request did not reach a server. */
export class CannotConnect extends Refused {}
/** The write may or may not have been done. `current` is what the key held afterwards, if the client looked. */
export class OutcomeUnknown extends KVError {
  readonly current: Entry | null;
}
export class InternalError extends OutcomeUnknown {}
/** A read had no answer. */
export class NotAnswered extends KVError {}
/** The write was done, but its result is withheld. */
export class AnswerWithheld extends KVError {
  readonly revision: number;
}
/** Changes of the feed are missing. `cursor` is where the feed can continue. */
export class Gap extends KVError {
  readonly reason: "trimmed" | "epoch" | "bad_cursor";
  readonly cursor: string;
}
export class LockLost extends KVError {}
