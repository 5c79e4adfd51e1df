"""A log line for each answered request, by web workers (on both paths) and gateways; see `--access-log`."""

from __future__ import annotations

import logging
from typing import Final

_LOG: Final = logging.getLogger("kvserver.access")


class AccessLog:
    """Writes to the log of the process, whatever its level; neither queries, which may hold tickets, nor headers."""

    def __init__(self) -> None:
        _LOG.setLevel(logging.INFO)

    def __call__(
        self, client: str, method: str, path: bytes, status: int, seconds: float, request_id: bytes = b""
    ) -> None:
        """Log one request.

        `client`: its address. `path`: as sent, its query is left out. `request_id`: the X-Request-Id of its answer,
        empty if it has none.
        """
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
        _LOG.info(words, fields, extra={"fields": fields})
