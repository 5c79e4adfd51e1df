"""The gateway: hosts feed connections. gunicorn's application is `kvserver.gateway:app`.

- `transport`: connections: heads, WebSockets, streams, the send budget.
- `feed`: `/v1/feed`, from the history to the messages of one client. Pure.
- `wal`: `/wal`, from the history to lines of text. Pure.
- `history`: the log, followed, and what clients share of it.
- `sessions`: clients: who gets which feed, and what carries it.
- `app`: the application: which feed a request is for.
- `worker`: gunicorn's worker class, and how it stops.
"""

from kvserver.gateway.app import app

__all__ = ["app"]
