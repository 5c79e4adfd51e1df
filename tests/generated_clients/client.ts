// Stores and reads a value by what openapi-typescript made.
import createClient from "openapi-fetch";
import type { paths } from "./api.js";

declare const process: { argv: string[] };

const client = createClient<paths>({ baseUrl: process.argv[2] });
const params = { path: { key: "generated/typescript" } };
const stored = await client.PUT("/v1/kv/{key}", { params, body: "dark", bodySerializer: (value) => value as string });
if (stored.response.status !== 201) throw new Error(`${stored.response.status}: ${stored.error?.detail}`);
const read = await client.GET("/v1/kv/{key}", { params, parseAs: "text" });
console.log(read.data);
