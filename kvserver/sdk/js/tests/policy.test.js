import assert from "node:assert/strict";
import { test } from "node:test";

import * as client from "../client.js";
import { answer, cut, done, problem, scripted, silent, value } from "./scripted.js";

const { connect } = client;

/** Run `use(kv)` against a server that gives these answers; the result or error, and what was asked. */
async function against(answers, options, use) {
  const server = await scripted(...answers);
  try {
    const kv = connect(server.url, { patience: 0.6, timeout: 5, ...options });
    const outcome = await use(kv).catch((error) => error);
    return { outcome, seen: server.seen };
  } finally {
    await server.close();
  }
}

const put = (kv) => kv.put("k", "x");
const guarded = (kv) => kv.put("k", "x", { ifRevision: 5 });
const get = (kv) => kv.get("k");
const WITHOUT = { idempotency: false };
const html = answer(200, { "Content-Type": "text/html" }, "<h1>Sign in</h1>");
const proxy = (status) => answer(status, { "Content-Type": "text/html" }, "<h1>no</h1>");

/** [what, answers, options, call, the error's class or null, requests] */
const ROWS = [
  ["a lost read is repeated", [cut, value(7, "x")], {}, get, null, 2],
  ["a read without an answer in time is repeated", [silent, value(7, "x")], { timeout: 0.2 }, get, null, 2],
  ["a lost write is repeated with its key", [cut, done(7)], {}, put, null, 2],
  ["a late write is repeated with its key", [silent, done(7)], { timeout: 0.2 }, put, null, 2],
  ["a lost write without a key is unknown", [cut], WITHOUT, put, "OutcomeUnknown", 1],
  ["a lost write on a revision is repeated without a key", [cut, done(7)], WITHOUT, guarded, null, 2],
  ["a proxy's 502 to a write is repeated with its key", [proxy(502), done(7)], {}, put, null, 2],
  ["a proxy's 504 to a write without a key is unknown", [proxy(504)], WITHOUT, put, "OutcomeUnknown", 1],
  ["a proxy's 500 to a read is repeated", [proxy(500), value(7, "x")], {}, get, null, 2],
  ["outcome_unknown is repeated with its key", [problem(504, "outcome_unknown"), done(7)], {}, put, null, 2],
  ["outcome_unknown without a key", [problem(504, "outcome_unknown")], WITHOUT, put, "OutcomeUnknown", 1],
  ["internal without a key", [problem(500, "internal")], WITHOUT, put, "InternalError", 1],
  ["outcome_unknown to a read", [problem(504, "outcome_unknown"), value(7, "x")], {}, get, null, 2],
  ["protocol_error", [problem(500, "protocol_error")], {}, put, "ProtocolError", 1],
  ["503 is repeated, without a key too", [problem(503, "unavailable"), done(7)], WITHOUT, put, null, 2],
  ["408 is repeated", [problem(408, "request_timeout"), done(7)], WITHOUT, put, null, 2],
  ["429 of a proxy is repeated", [proxy(429), done(7)], WITHOUT, put, null, 2],
  ["507", [problem(507, "memory_limit")], {}, put, "MemoryLimit", 1],
  ["412", [problem(412, "precondition_failed")], {}, guarded, "PreconditionFailed", 1],
  ["an unknown code takes the class of its status", [problem(409, "new_code")], {}, put, "Conflict", 1],
  ["a page of a captive portal, to a read", [html], {}, get, "NotAnswered", 1],
  ["a page of a captive portal, to a write", [html], {}, put, "OutcomeUnknown", 1],
  ["a 404 that is no kvserver's is not an absent key", [proxy(404)], {}, get, "NotAnswered", 1],
  ["a redirect is not followed", [answer(302, { Location: "/v1/kv/other" })], {}, get, "NotAnswered", 1],
  ["a redirect of a write", [answer(307, { Location: "/v1/kv/other" })], {}, put, "OutcomeUnknown", 1],
  ["unknown, then refused for the token", [cut, problem(401, "unauthorized")], {}, put, "OutcomeUnknown", 2],
  ["unknown, then refused for the value", [cut, problem(413, "value_too_large")], {}, put, "ValueTooLarge", 2],
  ["unknown, then 412 with a key", [cut, problem(412, "precondition_failed")], {}, guarded, "PreconditionFailed", 2],
];

for (const [what, answers, options, call, error, requests] of ROWS) {
  test(what, async () => {
    const { outcome, seen } = await against(answers, options, call);
    if (error) assert.equal(outcome.constructor, client[error], outcome.stack);
    else assert.equal(outcome instanceof Error, false, outcome.stack);
    assert.equal(seen.length, requests);
    const keys = new Set(seen.map(({ headers }) => headers["idempotency-key"]));
    assert.equal(keys.size, 1, "the key is the same for each repeat");
    const hasKey = options.idempotency !== false && call !== get;
    assert.equal([...keys][0] !== undefined, hasKey);
    if (hasKey) assert.match([...keys][0], /^[A-Za-z0-9._~-]{1,64}$/);
    if (error) assert.equal(outcome.attempts, requests);
  });
}

test("two calls have two keys", async () => {
  const { seen } = await against([done(7)], {}, async (kv) => [await put(kv), await put(kv)]);
  assert.notEqual(seen[0].headers["idempotency-key"], seen[1].headers["idempotency-key"]);
});

test("patience ends what is unknown as unknown, and what is refused as refused", async () => {
  const unknown = await against([cut], { patience: 0.2 }, put);
  assert.ok(unknown.outcome instanceof client.OutcomeUnknown);
  assert.ok(unknown.seen.length > 1);
  const refused = await against([problem(503, "overloaded")], { patience: 0.2 }, put);
  assert.ok(refused.outcome instanceof client.Overloaded);
  const mixed = await against([cut, problem(503, "overloaded")], { patience: 0.2 }, put);
  assert.ok(mixed.outcome instanceof client.OutcomeUnknown, "the first may have been done");
  const none = await against([problem(503, "overloaded")], { patience: 0 }, put);
  assert.equal(none.seen.length, 1);
});

test("Retry-After beyond the patience is not waited for", async () => {
  const later = problem(503, "overloaded", { headers: { "Retry-After": "30" } });
  const { outcome, seen } = await against([later], {}, put);
  assert.equal(outcome.retryAfter, 30);
  assert.equal(seen.length, 1);
});

test("a server that is not there", async () => {
  const server = await scripted(silent);
  await server.close();
  const error = await connect(server.url, { patience: 0 }).put("k", "x").catch((caught) => caught);
  assert.ok(error instanceof client.CannotConnect && error instanceof client.Refused);
  assert.equal(error.code, "cannot_connect");
  assert.match(error.message, /ECONNREFUSED/);
});

test("a lost create looks at the key instead of creating it twice", async () => {
  const { outcome, seen } = await against([cut, value(9, "theirs")], WITHOUT, (kv) => kv.create("k", "mine"));
  assert.ok(outcome instanceof client.OutcomeUnknown);
  assert.equal(outcome.current.text(), "theirs");
  assert.deepEqual(seen.map(({ method }) => method), ["PUT", "GET"]);
});

test("a 412 to one's own repeat: unknown, or done if that was asked for and the value is there", async () => {
  const answers = () => [cut, problem(412, "precondition_failed"), value(9, "x", "text/plain; charset=utf-8")];
  const asked = (idempotent) => (kv) => kv.put("k", "x", { ifRevision: 5, idempotent });
  const { outcome } = await against(answers(), WITHOUT, asked(false));
  assert.ok(outcome instanceof client.OutcomeUnknown);
  assert.equal(outcome.current.revision, 9);
  assert.deepEqual((await against(answers(), WITHOUT, asked(true))).outcome, { revision: 9, created: false });
});

test("create says that the key exists, with its revision", async () => {
  const taken = problem(412, "precondition_failed", { headers: { "KV-Revision": "57" } });
  const { outcome } = await against([taken], {}, (kv) => kv.create("k", "x"));
  assert.equal(outcome.constructor, client.Exists);
  assert.deepEqual([outcome.revision, outcome.code, outcome.status], [57, "precondition_failed", 412]);
});

test("an answer that is withheld is no failure of the write", async () => {
  const { outcome } = await against([done(57)], {}, (kv) => kv.incr("k"));
  assert.equal(outcome.constructor, client.AnswerWithheld);
  assert.equal(outcome.revision, 57);
});

test("a function that knows the token is asked again after 401, once", async () => {
  const tokens = ["old", "new", "newer"];
  const options = { token: async () => tokens.shift() };
  const { seen } = await against([problem(401, "invalid_token"), value(7, "x")], options, get);
  assert.deepEqual(seen.map(({ headers }) => headers.authorization), ["Bearer old", "Bearer new"]);
  const { outcome } = await against([problem(401, "invalid_token")], { token: async () => "x" }, get);
  assert.ok(outcome instanceof client.InvalidToken);
  assert.equal(outcome.attempts, 2);
});

test("a token that is no header is refused without being shown", async () => {
  const { outcome, seen } = await against([done(7)], { token: "geheim\n" }, put);
  assert.ok(outcome instanceof client.BadRequest);
  assert.doesNotMatch(outcome.message, /geheim/);
  assert.equal(seen.length, 0);
});

test("an abort throws its reason, and ends the repeats", async () => {
  const stop = new AbortController();
  const reason = new Error("enough");
  const { outcome } = await against([(...args) => (stop.abort(reason), silent(...args))], {}, (kv) =>
    kv.get("k", { signal: stop.signal }),
  );
  assert.equal(outcome, reason);
});

test("onRetry is told why and for how long", async () => {
  const told = [];
  await against([problem(503, "overloaded"), value(7, "x")], { onRetry: (retry) => told.push(retry) }, get);
  assert.equal(told.length, 1);
  assert.equal(told[0].error.code, "overloaded");
  assert.ok(told[0].seconds >= 0 && told[0].seconds <= 0.05);
});

test("delays double up to their limit", () => {
  assert.deepEqual([0, 1, 2, 5, 6, 99].map(client.longestDelay), [0.05, 0.1, 0.2, 1.6, 2, 2]);
  assert.deepEqual([0, 1, 2, 6, 7, 99].map(client.longestReturn), [0.25, 0.2, 0.4, 6.4, 10, 10]);
});

test("a prefix delete goes on behind what was done, and is not repeated blindly", async () => {
  const json = (body) => answer(200, { "Content-Type": "application/json" }, JSON.stringify(body));
  const interrupted = problem(504, "outcome_unknown", { deleted: 2, cut: 40 });
  const answers = [interrupted, json({ deleted: 3, complete: false, cut: 40 }), cut, json({ deleted: 1, complete: true, cut: 40 })];
  const { outcome, seen } = await against(answers, {}, (kv) => kv.deletePrefix("a/"));
  assert.deepEqual(outcome, { count: 6, complete: true, cut: 40 });
  assert.deepEqual(
    seen.map(({ url }) => url),
    ["/v1/kv?prefix=a%2F", ...Array(3).fill("/v1/kv?prefix=a%2F&cut=40")],
  );
  const lost = await against([cut], {}, (kv) => kv.deletePrefix("a/"));
  assert.ok(lost.outcome instanceof client.OutcomeUnknown, "without a cut, a repeat would delete what is newer");
  assert.equal(lost.seen.length, 1);
});

test("a scan that breaks off goes on behind the last key, and never ends early", async () => {
  const item = (key) => `{"key":"${key}","revision":5,"size":1,"content_type":"t","created":null,"modified":null,"expires":null}\n`;
  const lines = (...parts) => (_, response) => {
    response.writeHead(200, { "Content-Type": "application/x-ndjson", "KV-Cursor": "e.5" });
    for (const part of parts) response.write(part);
    response.write("", () => response.destroy());
  };
  const answers = [
    lines(item("a"), item("b"), item("c").slice(0, 9)),
    lines('{"error":{"code":"unavailable","detail":"d"},"next":"b2"}\n'),
    lines(item("c"), '{"end":{"items":1,"cursor":"e.9"}}\n'),
  ];
  const { outcome, seen } = await against(answers, {}, async (kv) => {
    const scan = kv.scan("x");
    const keys = [];
    for await (const { key } of scan) keys.push(key);
    return [keys, scan.cursor];
  });
  assert.deepEqual(outcome, [["a", "b", "c"], "e.5"]);
  assert.deepEqual(seen.map(({ url }) => new URL(url, "http://x").searchParams.get("after")), [null, "b", "b2"]);
  const broken = await against([lines(item("a")), cut], { patience: 0.2 }, async (kv) => {
    for await (const { key } of kv.scan()) assert.equal(key, "a");
  });
  assert.ok(broken.outcome instanceof client.NotAnswered);
});

/** Read a whole scan. */
async function scanned(kv) {
  for await (const { key } of kv.scan("x")) assert.fail(key);
}

test("a prefix delete that something else answers is unknown, and one that deletes nothing is a read", async () => {
  const elsewhere = answer(302, { Location: "/" });
  for (const answers of [[elsewhere], [answer(204)], [html], [proxy(404)], [proxy(502)], [proxy(999)]]) {
    const { outcome, seen } = await against(answers, {}, (kv) => kv.deletePrefix("a/"));
    assert.equal(outcome.constructor, client.OutcomeUnknown, String(outcome));
    assert.deepEqual([outcome.attempts, seen.length], [1, 1]);
    const dry = await against(answers, { patience: 0 }, (kv) => kv.deletePrefix("a/", { dryRun: true }));
    assert.equal(dry.outcome.constructor, client.NotAnswered, String(dry.outcome));
  }
});

test("no error of a scan speaks of a write or says anything twice, and each says how often it was sent", async () => {
  const sent = [
    [proxy(999), "NotAnswered"],
    [proxy(502), "NotAnswered"],
    [problem(504, "outcome_unknown"), "NotAnswered"],
    [problem(500, "internal"), "NotAnswered"],
    [problem(503, "unavailable"), "Unavailable"],
    [problem(403, "forbidden"), "Forbidden"],
    [cut, "NotAnswered"],
    [answer(302, { Location: "/" }), "NotAnswered"],
  ];
  for (const [given, name] of sent) {
    const { outcome, seen } = await against([given], { patience: 0.2 }, scanned);
    assert.equal(outcome.constructor, client[name], String(outcome));
    assert.doesNotMatch(outcome.message, /write/);
    assert.equal(outcome.message.split(outcome.title).length, 2, outcome.message);
    assert.equal(outcome.attempts, seen.length);
  }
  const { outcome, seen } = await against([proxy(999)], {}, scanned);
  assert.match(outcome.message, /no kvserver: an answer 999 to a stream/);
  assert.equal(seen.length, 1, "it will not become a kvserver by a repeat");
});

test("what a batch says about a read is the error of a read", async () => {
  const lost = { status: 504, code: "outcome_unknown", detail: "why" };
  const body = JSON.stringify({ results: [lost] });
  const answers = [answer(200, { "Content-Type": "application/json" }, body)];
  for (const call of [(kv) => kv.getMany(["k"]), (kv) => kv.get(".")]) {
    const { outcome } = await against(answers, {}, call);
    assert.equal(outcome.constructor, client.NotAnswered, String(outcome));
  }
});

test("a 304 that was not asked for is no answer", async () => {
  const { outcome } = await against([answer(304)], {}, get);
  assert.equal(outcome.constructor, client.NotAnswered, String(outcome));
});
