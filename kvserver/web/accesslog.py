"""A line for each request that was answered, if it is asked for. Both roads, and hand-overs to the feed, call it."""

from __future__ import annotations

import logging
from typing import Final

_LOG: Final = logging.getLogger("kvserver.access")


class AccessLog:
    """Writes to the log of the process, whatever its level. Not a query: tickets stand there, and no header."""

    def __init__(self) -> None:
        _LOG.setLevel(logging.INFO)

    def __call__(self, client: tuple[str, int] | None, method: str, path: bytes, status: int, seconds: float) -> None:
        """Tell of one request. `path`: as it was sent, without its query."""
        fields = {
            "client": client[0] if client else "",
            "method": method,
            "path": path.partition(b"?")[0].decode("ascii", "backslashreplace").replace('"', "%22"),
            "status": status,
            "seconds": round(seconds, 6),
        }
        words = '%(client)s "%(method)s %(path)s" %(status)d %(seconds).6f s'
        _LOG.info(words, fields, extra={"fields": fields})
