"""A client's connection to a web worker: what stands between the socket and the Falcon application.

In reading order: `acceptor` (which worker takes a connection), `target` (which route and key a path names), `answers`
(headers of every answer, how errors are told), `heads`, `bodies` and `cutter` (where the parts of a request end, and
what of them is taken), `intake` (the request as it arrives, guards and limits), `exchange` (one request and its
answer), `http` (the connection: order, time limits, the end), `shares` and `proxies` (what one address may hold before
it has asked, and whose address that is), `handshake` and `handoff` (feed connections go to the gateway), `traffic` and
`counting` (what connections share: limits, clock, metrics), `coding` (compression).
"""
