"""What web workers and gateways share of HTTP.

| module | what is in it |
| --- | --- |
| `routes` | from a request target to a route and a key |
| `scope` | keys of the ASGI scope that are ours |
| `head_rules` | limits and rules of a request's head |
| `responses` | headers of every answer, and how an error is rendered |
| `idempotency` | what a request with an Idempotency-Key is known by |
| `value_headers` | headers of stored values |
| `compression` | content codings |
| `origins` | which web pages may use the store, and the names of the server |
| `proxies` | the client on whose behalf a proxy asks |
| `handshake` | which requests become feed connections |
| `send_queue` | what the kernel still holds of what was written to a connection |
| `reports` | figures and log lines of answered requests |
"""
