// What surrounds an example of the README on a page of the server: its address, its origin, and the page's token.
//     node page.js http://127.0.0.1:8080 TOKEN 'the example'
const [address, token, example] = process.argv.slice(2);

const fetchAnywhere = globalThis.fetch;
globalThis.fetch = (target, {headers, ...options}) =>
  fetchAnywhere(new URL(target, address), {...options, headers: {...headers, Origin: address}});
globalThis.WebSocket ??= require("undici").WebSocket;

const run = new Function("token", `return (async () => { ${example}; return feed; })()`);
run(token).then((feed) => {
  feed.addEventListener("open", () => { console.log("open"); feed.close(); });
  feed.addEventListener("error", (event) => { console.error(event.message ?? event); process.exitCode = 1; });
}, (error) => { console.error(error); process.exitCode = 1; });
