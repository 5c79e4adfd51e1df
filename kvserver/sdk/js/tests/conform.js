/**
 * Driver of the conformance suite: requests as lines of JSON on standard input, answers on standard output. `Driver` has
 * no I/O of its own, so that a page can run it, too.
 */

import { pathToFileURL } from "node:url";

import { createInterface } from "node:readline";

import { Driver } from "./driver.js";
import { connect } from "../client.js";

async function main() {
  const driver = new Driver(connect, (line) => process.stdout.write(`${line}\n`));
  for await (const line of createInterface({ input: process.stdin })) {
    if (line.trim()) await driver.handle(JSON.parse(line));
  }
  driver.stop();
}

if (import.meta.url === pathToFileURL(process.argv[1]).href) await main();
