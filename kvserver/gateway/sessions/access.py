"""Who may open a feed: by the token in the header, or by a ticket in the query where no header can be sent."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from kvserver.access.grants import Grants
from kvserver.access.tickets import Kind, Tickets
from kvserver.access.tokens import Tokens
from kvserver.gateway.sessions.feed_request import Credentials
from kvserver.http import head_rules
from shards.wire.errors import BadCursor, BadRequest, Forbidden, Unauthorized

InStreamError = Unauthorized | Forbidden | BadCursor
"""An error that a page gets in the stream."""


class FeedAccess:
    """Authorizes the clients of one gateway process.

    Attributes:
        tokens: those of the store.
    """

    def __init__(self, tokens: Tokens, tickets: Tickets) -> None:
        self.tokens, self._tickets = tokens, tickets

    def authorize(self, credentials: Credentials, kind: Kind) -> Grants:
        """Return the grants of a client, some of which concern the feed. Uses up its ticket, if it sent one.

        Raises `Unauthorized`, `Forbidden`; `BadRequest` if it sent two tokens.
        """
        authorization, ticket, _ = credentials
        if len(authorization) > 1 and self.tokens.required:
            raise BadRequest(head_rules.ONE_AUTHORIZATION)
        if self.tokens.required and ticket is not None and not authorization:
            grants = self._tickets.redeem(ticket, kind)
        else:
            grants = self.tokens.authenticate(authorization[0] if authorization else None)
        if not grants.feed:
            raise Forbidden("the token grants feed on no key")
        return grants

    def authorize_resume(
        self, credentials: Credentials, resume_token: bytes
    ) -> tuple[Grants, Callable[[], bytes] | None]:
        """Authorize an SSE stream, whose client returns with the used ticket and the last `resume_token` it got.

        Returns the grants, and what makes the next resume tokens: None if the client did not come with a ticket. Raises
        as `authorize`.
        """
        ticket = credentials.ticket
        if not self.tokens.required or ticket is None or credentials.authorization:
            return self.authorize(credentials, "sse"), None
        grants = (
            self._tickets.resume_stream(ticket, resume_token) if resume_token else self.authorize(credentials, "sse")
        )
        return grants, partial(self._tickets.make_resume_token, ticket)


def close_code(error: InStreamError) -> int:
    """Return the WebSocket close code of an error that was sent in the stream."""
    return 3000 if isinstance(error, Unauthorized) else 3003
