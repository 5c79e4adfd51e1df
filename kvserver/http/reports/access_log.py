"""A log line for each answered request, or for slow ones alone, by web workers (on both paths) and gateways.

See `--access-log` and `--slow-ms`.
"""

from __future__ import annotations

import logging
import math
from typing import Final

_LOG: Final = logging.getLogger("kvserver.access")


class AccessLog:
    """Writes to the log of the process, whatever its level; neither queries, which may hold tickets, nor headers."""

    def __init__(self, *, every: bool = True, slow_s: float = math.inf) -> None:
        """`every`: log each request, at INFO. `slow_s`: seconds that make a request a slow one, logged at WARNING."""
        _LOG.setLevel(logging.INFO if every else logging.WARNING)
        self._least_s = 0.0 if every else slow_s
        self._slow_s = slow_s

    @classmethod
    def of(cls, every: bool, slow_ms: int) -> AccessLog | None:
        """Return the log for the settings `--access-log` and `--slow-ms`; None if no request is to be logged."""
        if not every and not slow_ms:
            return None
        return cls(every=every, slow_s=slow_ms / 1000 if slow_ms else math.inf)

    def __call__(
        self, client: str, method: str, path: bytes, status: int, seconds: float, request_id: bytes = b""
    ) -> None:
        """Log one request, if it is one of those to be logged.

        `client`: its address. `path`: as sent, its query is left out. `seconds`: from its first byte to the end of its
        answer. `request_id`: the X-Request-Id of its answer, empty if it has none.
        """
        if seconds < self._least_s:
            return
        fields = {
            "client": client,
            "method": method,
            "path": path.partition(b"?")[0].decode("ascii", "backslashreplace").replace('"', "%22"),
            "status": status,
            "seconds": round(seconds, 6),
        }
        words = '%(client)s "%(method)s %(path)s" %(status)d %(seconds).6f s'
        if request_id:
            fields["request_id"] = request_id.decode()
            words += " (request %(request_id)s)"
        if seconds >= self._slow_s:
            _LOG.warning("slow: " + words, fields, extra={"fields": fields})
        else:
            _LOG.info(words, fields, extra={"fields": fields})
