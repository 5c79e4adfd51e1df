"""A client's connection to a web worker: what stands between the socket and the Falcon application.

In reading order: `acceptor` (which worker takes a connection), `target` (which route and key a path names), `answers`
(headers of every answer, how errors are told), `intake` (the request as it arrives, guards and limits), `exchange` (one
request and its answer), `http` (the connection: order, time limits, the end), `handshake` and `handoff` (feed
connections go to the gateway), `traffic` and `counting` (what connections share: limits, clock, metrics), `coding`
(compression).
"""
