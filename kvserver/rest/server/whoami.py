"""`/v1/whoami`: what the token of a request is called, and what it allows."""

from __future__ import annotations

from typing import Any

import msgspec
from falcon.asgi import Request, Response

from kvserver.access.grants import VERBS, Grants
from kvserver.access.tokens import Tokens
from kvserver.api import query
from kvserver.api.times import rfc3339
from kvserver.http.scope import GRANTS


class WhoAmI:
    """`/v1/whoami`"""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def on_get(self, req: Request, resp: Response) -> None:
        """200 with name and grants of the token, and when they end if they do; without tokens everybody has all."""
        query.parse(req.scope["query_string"], query.NOTHING)
        resp.content_type = "application/json"
        grants = req.scope[GRANTS]
        ends_ms = self._tokens.unix_end(grants)
        described = describe_grants(grants) | ({} if ends_ms is None else {"expires": rfc3339(ends_ms)})
        resp.data = msgspec.json.encode(described)

    on_head = on_get


def describe_grants(grants: Grants) -> dict[str, Any]:
    """Return name and grants as a JSON object, a row for each prefix; the name is null without tokens."""
    prefixes = sorted({prefix for verb in VERBS for prefix in getattr(grants, verb)})
    return {
        "name": grants.name or None,
        "grants": [
            {"prefix": prefix.decode(), "allow": [verb for verb in VERBS if prefix in getattr(grants, verb)]}
            for prefix in prefixes
        ],
    }
