"""Who may open a feed: by the token in the header, or by a ticket in the query where no header can be sent."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from urllib.parse import unquote_to_bytes

from kvserver.access.grants import Grants
from kvserver.access.tickets import Kind, Tickets
from kvserver.access.tokens import Tokens
from kvserver.gateway.transport.head import Head
from kvserver.http import head_rules
from shards.wire.errors import BadCursor, BadRequest, Forbidden, Unauthorized

_NO_FEED = "the token grants feed on no key"


class Door:
    """One per gateway process."""

    def __init__(self, tokens: Tokens, tickets: Tickets) -> None:
        self.tokens, self._tickets = tokens, tickets

    def enter(self, head: Head, kind: Kind) -> Grants:
        """What the client may, some of it concerning the feed; its ticket, if it sent one, is used up.

        Raises `Unauthorized`, `Forbidden`; `BadRequest` if it sent two tokens.
        """
        sent = head.values(b"authorization")
        if len(sent) > 1 and self.tokens.required:
            raise BadRequest(head_rules.ONE_AUTHORIZATION)
        ticket = ticket_of(head)
        if self.tokens.required and ticket is not None and not sent:
            grants = self._tickets.redeem(ticket, kind)
        else:
            grants = self.tokens.authenticate(sent[0] if sent else None)
        if not grants.feed:
            raise Forbidden(_NO_FEED)
        return grants

    def enter_again(self, head: Head, word: bytes) -> tuple[Grants, Callable[[], bytes] | None]:
        """The same for an SSE stream, whose client comes back with the ticket it came with first, and the last `word`
        of its stream; and what makes the words by which it may come back again, None if it came without a ticket."""
        ticket = ticket_of(head)
        if not self.tokens.required or ticket is None or head.values(b"authorization"):
            return self.enter(head, "sse"), None
        grants = self._tickets.resume_stream(ticket, word) if word else self.enter(head, "sse")
        return grants, partial(self._tickets.make_resume_token, ticket)


def ticket_of(head: Head) -> bytes | None:
    """The ticket in the query, None if there is none."""
    for part in head.query.split(b"&"):
        name, _, value = part.partition(b"=")
        if name == b"ticket":
            return unquote_to_bytes(value)
    return None


def is_told_in_stream(head: Head) -> bool:
    """Whether the client is a page, which cannot see how a handshake failed: it is accepted, and then told.

    A page sends a ticket, or nothing but its Origin; who can send a header sees the status.
    """
    by_page = ticket_of(head) is not None or bool(head.first(b"origin"))
    return by_page and not head.values(b"authorization")


Telling = Unauthorized | Forbidden | BadCursor
"""What a page is told in the stream."""


def close_code(error: Telling) -> int:
    """The code with which such a connection is closed."""
    return 3000 if isinstance(error, Unauthorized) else 3003
