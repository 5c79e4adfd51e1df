"""A client's connection to a web worker: everything between the socket and the Falcon application.

| module | what is in it |
| --- | --- |
| `acceptor` | which worker takes a new connection |
| `limits` | what one address, one token and all clients together may hold of a worker |
| `context` | what all connections of a worker share: clock, limits, tokens, counts, heads of answers |
| `parsing` | from bytes to requests |
| `ports` | the time limits of a connection, and what others need of it |
| `exchange` | one request and its answer: the ASGI side |
| `encoding` | bodies of answers in the coding that their client accepts |
| `flow` | back-pressure, clients that stop reading, and resets |
| `eager` | runs a coroutine up to its first wait at once |
| `handover` | the sending end of a handover: how a gateway gets a connection |
| `feed_handover` | when a feed connection is handed over, and what its client gets without a gateway |
| `connection` | order of requests, time limits, the end |
| `hot` | the hot path of requests for one key |
| `worker` | gunicorn's worker class |
"""
