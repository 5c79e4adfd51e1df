"""A line for each request that was answered, if it is asked for: by web workers on both roads, and by gateways."""

from __future__ import annotations

import logging
from typing import Final

_LOG: Final = logging.getLogger("kvserver.access")


class AccessLog:
    """Writes to the log of the process, whatever its level. Not a query: tickets stand there, and no header."""

    def __init__(self) -> None:
        _LOG.setLevel(logging.INFO)

    def __call__(self, client: str, method: str, path: bytes, status: int, seconds: float) -> None:
        """Tell of one request. `client`: its address. `path`: as it was sent; its query is left out."""
        fields = {
            "client": client,
            "method": method,
            "path": path.partition(b"?")[0].decode("ascii", "backslashreplace").replace('"', "%22"),
            "status": status,
            "seconds": round(seconds, 6),
        }
        words = '%(client)s "%(method)s %(path)s" %(status)d %(seconds).6f s'
        _LOG.info(words, fields, extra={"fields": fields})
