"""`/v1/whoami`: what the token of a request is called, and what it allows."""

from __future__ import annotations

from typing import Any

import msgspec
from falcon.asgi import Request, Response

from kvserver.access.grants import VERBS, Grants
from kvserver.api import query
from kvserver.http.scope import GRANTS


class WhoAmI:
    """`/v1/whoami`"""

    async def on_get(self, req: Request, resp: Response) -> None:
        """200 with name and grants of the token; without tokens everybody has all of them."""
        query.parse(req.scope["query_string"], query.NOTHING)
        resp.content_type = "application/json"
        resp.data = msgspec.json.encode(describe_grants(req.scope[GRANTS]))

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
