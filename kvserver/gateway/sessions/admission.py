"""Admission to `/v1/feed`: from a request's head to the session that serves it."""

from __future__ import annotations

import secrets
from typing import Final

from kvserver.gateway.history.source import LogFollower
from kvserver.gateway.sessions.access import FeedAccess
from kvserver.gateway.sessions.clients import FeedRefusal, StreamFeed, WebSocketFeed
from kvserver.gateway.sessions.feed_request import NDJSON, FeedRequest, read_feed_request
from kvserver.gateway.sessions.polls import PollFeed
from kvserver.gateway.transport.handler import StreamSession, WebSocketSession
from kvserver.gateway.transport.head import Head, answer_bytes, refusal_bytes, stream_head
from kvserver.gateway.transport.send_budget import SendBudget
from kvserver.http.handshake import EVENT_STREAM
from kvserver.http.origins import Origins
from shards.wire.errors import BadCursor, BadTicket, Forbidden, Unauthorized

JSON_TYPE: Final = b"application/json"


class Admission:
    """Admits clients of `/v1/feed`."""

    def __init__(self, follower: LogFollower, access: FeedAccess, origins: Origins) -> None:
        self._follower, self._access, self._origins = follower, access, origins

    def admit(self, head: Head, budget: SendBudget) -> WebSocketSession | StreamSession:
        """Make the session for a request: read it, authorize it, build what its carrier needs.

        Args:
            budget: charged with what the client has not taken.

        Raises `KVError`, which then is the answer. Uses up a ticket.
        """
        request = read_feed_request(head)
        if request.carrier == "websocket":
            return self._admit_websocket(request, budget)
        request.check_cursor()
        if request.carrier == "sse":
            return self._admit_event_stream(head, request, budget)
        if request.credentials.ticket is not None and self._access.tokens.required:
            raise BadTicket("tickets are for WebSocket and SSE")
        grants = self._access.authorize(request.credentials, "sse")
        if request.carrier == "ndjson":
            answer_head = stream_head(head, self._origins, NDJSON)
            return StreamFeed(self._follower, budget, request.query, grants, answer_head, sse=False)
        brief, origins = head.brief(), self._origins
        return PollFeed(
            self._follower,
            budget,
            request.query,
            grants,
            lambda body: answer_bytes(brief, origins, JSON_TYPE, body),
            lambda error: refusal_bytes(error, brief, origins, secrets.token_hex(8).encode()),
        )

    def _admit_websocket(self, request: FeedRequest, budget: SendBudget) -> WebSocketSession:
        try:
            request.check_cursor()
            grants = self._access.authorize(request.credentials, "websocket")
            return WebSocketFeed(self._follower, budget, request.query, grants, request.protocol)
        except (Unauthorized, Forbidden, BadCursor) as error:
            if request.credentials.is_page:
                return FeedRefusal(error, request.protocol)
            raise

    def _admit_event_stream(self, head: Head, request: FeedRequest, budget: SendBudget) -> StreamSession:
        grants, new_token = self._access.authorize_resume(request.credentials, request.resume_token)
        answer_head = stream_head(head, self._origins, EVENT_STREAM)
        return StreamFeed(self._follower, budget, request.query, grants, answer_head, sse=True, new_token=new_token)
