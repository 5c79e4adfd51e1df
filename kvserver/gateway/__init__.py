"""The gateway: hosts feed connections. gunicorn's application is `kvserver.gateway:app`.

In reading order, what a connection passes: `head` (what is refused before it is a WebSocket), `handler` (gunicorn,
gevent-websocket), `socket` on `frames` (the connection and its guards), `app` (which feed) and `door` (for whom),
`source` on `feed`, `tail`, `views` and `formats` (what is shown). `worker` is gunicorn's worker class, `handover` takes
connections from the web workers.

Pure are `head`, `frames`, `feed`, `tail`, `views` and `formats`.
"""

from kvserver.gateway.app import app

__all__ = ["app"]
