/** Driver of the conformance suite in Node: requests as lines of JSON on standard input, answers on standard output. */

import { createInterface } from "node:readline";

import { connect } from "../client.js";
import { Driver } from "./driver.js";

const driver = new Driver(connect, (line) => process.stdout.write(`${line}\n`));
const input = createInterface({ input: process.stdin });
let last = Promise.resolve();
input.on("line", (line) => {
  if (line.trim()) last = last.then(() => driver.handle(line));
});
input.on("close", () => driver.stop());
