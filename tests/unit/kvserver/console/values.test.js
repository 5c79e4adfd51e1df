// How values, keys and figures are shown.

import assert from "node:assert/strict";
import { test } from "node:test";

import * as values from "../../../../kvserver/console/values.js";

const bytes = (...numbers) => Uint8Array.from(numbers);

test("kinds of values", () => {
  const kind = (type, text) => values.kindOf(type, typeof text === "string" ? values.bytesOf(text) : text);
  assert.equal(kind("application/json", "{}"), "json");
  assert.equal(kind("application/problem+json; charset=utf-8", "no json"), "json");
  assert.equal(kind("application/octet-stream", "hello\n"), "text");
  assert.equal(kind("application/octet-stream", "a\0b"), "bytes");
  assert.equal(kind("text/plain", bytes(0xff)), "bytes");
  assert.equal(kind("application/json", bytes(0xff)), "bytes");
  assert.equal(kind("image/png", bytes(1)), "image");
  assert.equal(kind("image/svg+xml", "<svg/>"), "image");
  assert.equal(kind("image/x-unheard", "text"), "text");
  assert.equal(kind("", ""), "text");
});

test("JSON is indented without a change to strings and numbers", () => {
  const text = '{"n":0.10000000000000000001,"e":1E400,"s":"a\\"{,}:[]\\u00e9","l":[1,[],{},{"a":null}]}';
  const shown = values.indentJson(text);
  assert.equal(shown.split("\n").length, 13);
  assert.ok(shown.includes('"n": 0.10000000000000000001,') && shown.includes('"s": "a\\"{,}:[]\\u00e9"') && shown.includes("[],"));
  assert.equal(shown.replace(/^ +|\n|(?<=:) /gm, ""), text);
  for (const other of ["{", "nan", ""]) assert.equal(values.indentJson(other), other);
  for (const other of ["1", '"a b"', "[]", "{}"]) assert.equal(values.indentJson(` ${other} `), other);
});

test("what is edited goes back byte for byte", () => {
  const asField = (text) => text.replace(/\r\n?/g, "\n");
  for (const text of ["", "a", "a\nb\n", "a\r\nb\r\n", "a\rb", "a\r\n\nb\r", "\r", "\r\n", "␍\n", "\ufeffa"]) {
    const { text: shown, restore } = values.editableOf(text);
    assert.equal(restore(asField(shown)), text, JSON.stringify(text));
  }
  assert.equal(values.editableOf("␍\r"), null);
  assert.equal(values.editableOf("a\r\nb").ends, "CR LF");
});

test("hexadecimal there and back", () => {
  const all = Uint8Array.from({ length: 256 }, (_, at) => at);
  assert.deepEqual(values.bytesOfHex(values.pairsOf(all)), all);
  assert.deepEqual(values.bytesOfHex(""), bytes());
  for (const wrong of ["0", "0g", "é0"]) assert.equal(values.bytesOfHex(wrong), null);
  assert.match(values.hexOf(all), /^000000 {2}00 01 .*\n000010/);
  assert.ok(values.hexOf(values.bytesOf("<b>")).endsWith("<b>"));
});

test("what cannot be seen is named", () => {
  assert.equal(values.showText("a\0\n\x7f\u202e\u200bz"), "a␀␊␡‹U+202E›‹U+200B›z");
  assert.equal(values.showLines("a\n\tb\u202e"), "a\n\tb‹U+202E›");
  assert.equal(values.showText("é 世界 🙂 <b>"), "é 世界 🙂 <b>");
});

test("figures in words", () => {
  assert.deepEqual([0, 1023, 1024, 5e6, 2 ** 40].map(values.sizeText), ["0 B", "1023 B", "1 KiB", "4.8 MiB", "1 TiB"]);
  assert.deepEqual([0.4, 59, 60, 3725, 90_000].map(values.spanText), ["0.4 s", "59 s", "1 min", "1 h 2 min", "1 d 1 h"]);
  assert.deepEqual([values.countOf(1, "key"), values.countOf(1200, "key")], ["1 key", "1,200 keys"]);
  assert.deepEqual(["application/json", "text/plain; charset=utf-8", ""].map(values.typeText), ["json", "text/plain", "octet-stream"]);
});

test("a preview is one short line, and not cut within a character", () => {
  const preview = (value) => values.previewOf({ hasValue: true, bytes: value, size: value.length }, 10);
  assert.equal(preview(values.bytesOf("a\nb")), "a␊b");
  assert.equal(preview(values.bytesOf("世".repeat(20))), `${"世".repeat(10)} …`);
  assert.equal(preview(bytes(0xff, 0)), "ff 00");
  assert.equal(values.previewOf({ hasValue: false }), "");
});
