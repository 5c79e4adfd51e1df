import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import * as client from "../client.js";

const TYPES = readFileSync(new URL("../client.d.ts", import.meta.url), "utf8");

/** Return the names of values that the types declare. */
function declared() {
  return [...TYPES.matchAll(/^export (?:class|function|const) (\w+)/gm)].map(([, name]) => name);
}

/** Return the methods and accessors that the types declare of a class: {name: whether it is an accessor}. */
function declaredMembers(name) {
  const [, body] = new RegExp(`^export class ${name}[^{]*\\{\\n(.*?)^\\}`, "ms").exec(TYPES) ?? [, ""];
  const members = [...body.matchAll(/^ {2}(get )?(\[Symbol\.\w+\]|\w+)(?:<\w+>)?\(/gm)];
  return members.map(([, , member]) => member).filter((member) => member !== "constructor");
}

/** Return the public methods and accessors of a class's own. */
function members(cls) {
  return Reflect.ownKeys(cls.prototype)
    .filter((key) => key !== "constructor")
    .map((key) => (typeof key === "symbol" ? `[${key.description}]` : key));
}

test("types and exports have the same names", () => {
  assert.deepEqual(declared().sort(), Object.keys(client).sort());
});

for (const [name, value] of Object.entries(client)) {
  if (typeof value !== "function" || !/^class\b/.test(String(value)) || value.prototype instanceof client.KVError) continue;
  test(`types and class ${name} have the same members`, () => {
    const found = members(value).filter((member) => !(name === "KVError" && member === "name"));
    assert.deepEqual(declaredMembers(name).sort(), found.sort());
  });
}

test("each error is of the class that the types say", () => {
  for (const [, name, parent] of TYPES.matchAll(/^export class (\w+) extends (\w+)/gm)) {
    if (parent === "EventTarget") continue;
    const base = parent === "Error" ? Error : client[parent];
    assert.equal(Object.getPrototypeOf(client[name]), base, name);
  }
});
