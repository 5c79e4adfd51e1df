import assert from "node:assert/strict";
import { test } from "node:test";

import { BadKey, baseOf, connect, keyPath, slotOf } from "../client.js";

const PATHS = {
  "a": "a",
  "a/b": "a/b",
  "flags:on@x": "flags:on@x",
  "a b?c#d%e": "a%20b%3Fc%23d%25e",
  "ü€😀": "%C3%BC%E2%82%AC%F0%9F%98%80",
  "\u0000\n": "%00%0A",
  "/a": "%2Fa",
  "a/": "a%2F",
  "/": "%2F",
  "//": "%2F%2F",
  "a//b": "a%2F%2Fb",
  "a/../b": "a%2F..%2Fb",
  "./b": ".%2Fb",
  "b/..": "b%2F..",
  "...": "...",
  "a/%2e%2e/b": "a/%252e%252e/b",
  "a\\b": "a%5Cb",
  "!$&'()*+,;=:@~-._": "!$&'()*+,;=:@~-._",
};

for (const [key, path] of Object.entries(PATHS)) {
  test(`the path of ${JSON.stringify(key)}`, () => {
    assert.equal(keyPath(key), `/v1/kv/${path}`);
    const { pathname } = new URL(keyPath(key), "http://x");
    assert.equal(pathname, `/v1/kv/${path}`, "a parser of URLs leaves it as it is");
    assert.equal(decodeURIComponent(pathname.slice("/v1/kv/".length)), key);
  });
}

test("the keys . and .. have no path that parsers of URLs keep", () => {
  assert.equal(new URL("/v1/kv/%2e%2E", "http://x").pathname, "/v1/");
  assert.equal(keyPath("."), null);
  assert.equal(keyPath(".."), null);
});

test("what is no key is refused before it is sent", async () => {
  for (const key of ["", "\ud800", "a\udc00b"]) assert.throws(() => keyPath(key), BadKey);
  assert.throws(() => keyPath(7), TypeError);
  const kv = connect("http://127.0.0.1:9");
  await assert.rejects(kv.get(""), BadKey);
  await assert.rejects(kv.page("\ud800"), BadKey);
  assert.throws(() => kv.watch(null, { keys: [""] }), BadKey);
});

test("slots are those of the server: CRC-16/XMODEM modulo 16384, of the tag if there is one", () => {
  assert.equal(slotOf("123456789"), 0x31c3);
  assert.equal(slotOf("{123456789}x"), 0x31c3);
  assert.equal(slotOf("a{123456789}x{y}"), 0x31c3);
  assert.equal(slotOf("{}123456789") === slotOf("123456789"), false);
  assert.equal(slotOf("{123456789") === slotOf("123456789"), false);
  assert.equal(slotOf("}{123456789}"), 0x31c3);
});

test("base URLs", () => {
  assert.equal(baseOf("localhost:9120"), "http://localhost:9120");
  assert.equal(baseOf("https://kv.example/store/"), "https://kv.example/store");
  assert.equal(baseOf("[::1]:80"), "http://[::1]");
  for (const wrong of ["ftp://x", "http://u:p@x", "http://x/?a", "http://x/#a", "", "http://"]) {
    assert.throws(() => baseOf(wrong), TypeError, wrong);
  }
});

test("options that do not exist are refused", () => {
  assert.throws(() => connect("x").watch("", { snapshots: true }), /no option snapshots/);
  assert.throws(() => connect("x").watch("", { onGap: "ignore" }), /onGap is raise or continue/);
  assert.throws(() => connect("x").watch("", { transport: "pigeon" }), /transport is auto/);
  assert.throws(() => connect("x", { patient: 3 }), /no option patient/);
  assert.throws(() => connect("x", { timeout: "10" }).withOptions({ patience: -1 }), /patience is a number of seconds/);
});

test("several URLs are the servers of one cluster", () => {
  assert.deepEqual(connect("a:1, http://b:2/x/").urls, ["http://a:1", "http://b:2/x"]);
  assert.deepEqual(connect(["a:1", "b:2"]).urls, ["http://a:1", "http://b:2"]);
  assert.equal(connect(["a:1", "b:2"]).url, "http://a:1");
  for (const wrong of ["a:1,", ",a:1", [], "a,b,http://a/"]) assert.throws(() => connect(wrong), TypeError, String(wrong));
});
