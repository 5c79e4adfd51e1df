"""What web workers and gateways refuse in a request's head: the limits, the rules and the words. Pure."""

from __future__ import annotations

import re
from typing import Final

REQUEST_LINE: Final = 8 << 10
"""Most bytes of a request line."""
HEADERS: Final = 64 << 10
"""Most bytes of all headers."""
MOST_HEADERS: Final = 500
"""Header fields of a request: each takes far more memory than its bytes."""

HOST: Final = re.compile(rb"[^\x00-\x20,/@?#\x7f]*")

NOT_A_HOST: Final = "Host header: not a host"
ONE_HOST: Final = "Host header: exactly one is needed"
NOT_A_LENGTH: Final = "Content-Length: not a number"
UNKNOWN_CODING: Final = "Transfer-Encoding: only chunked is known"
TWO_LENGTHS: Final = "Transfer-Encoding: not with Content-Length or HTTP/1.0"
ONE_AUTHORIZATION: Final = "Authorization header: exactly one is needed"
UNKNOWN_VERSION: Final = "HTTP version: only 1.1 and 1.0 are known"


def fault(version: str, hosts: int, codings: int, has_length: bool) -> str | None:
    """What is wrong with a head of `version` that has so many headers Host and Transfer-Encoding; None if nothing."""
    if version not in ("1.1", "1.0"):
        return UNKNOWN_VERSION
    if hosts != 1 and (hosts or version == "1.1"):
        return ONE_HOST
    if codings and (has_length or version == "1.0"):
        return TWO_LENGTHS
    return None
