"""The gateway: hosts feed connections. gunicorn's application is `kvserver.gateway:app`.

In reading order, what a connection passes: `head` (what is refused before it is a WebSocket), `handler` (gunicorn,
gevent-websocket), `socket` on `frames` (the connection and its guards), `app` (which feed) and `access` (for whom),
`source` on `feed`, `tail`, `views` and `formats` (what is shown on `/wal`). `worker` is gunicorn's worker class,
`handover` takes connections from the web workers.

Of `/v1/feed`: `events` (decoded, and shared), `encodings` and `envelopes` (messages), `cursors`, `selection` (of keys)
and `filters`, `snapshots`, `conflation`, and `follow`, which makes of them one client's way; `history` on `index` (what
clients share), `clients` by what carries them (WebSocket, or `stream`), `admission` (who gets which). `budget` bounds
what they have not taken.

Not pure are `app`, `access`, `admission`, `clients`, `handler`, `handover`, `history`, `socket`, `source`, `stream` and
`worker`.
"""

from kvserver.gateway.app import app

__all__ = ["app"]
