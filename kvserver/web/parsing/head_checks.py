"""What the head of a request decides before its body arrives: the client's rights, and refusals.

No client sends a body in vain: while one is still to come, the application is asked what it would refuse by the head
alone, and the limits of bytes and of requests in flight are checked for the body that is announced.
"""

from __future__ import annotations

from kvserver.access.grants import NOTHING
from kvserver.access.tokens import Tokens
from kvserver.http import routes
from kvserver.http.responses import HTML, accepts_type
from kvserver.http.scope import GRANTS
from kvserver.web.context import WorkerContext
from kvserver.web.limits.peer import Peer
from kvserver.web.parsing.request import IncomingRequest, RequestHead
from shards.wire.errors import Unauthorized


def authenticate(tokens: Tokens, request: IncomingRequest) -> None:
    """Set the grants of `request` in its scope, and its `error` if it lacks a token that it needs."""
    request.token_generation = tokens.generation
    try:
        request.scope[GRANTS] = tokens.authenticate(request.authorization)
    except Unauthorized as error:
        request.scope[GRANTS] = NOTHING
        if not (request.method == "OPTIONS" or routes.is_open(request.path) or _leads_to_page(request)):
            request.error = error


def _leads_to_page(request: IncomingRequest) -> bool:
    """Whether a browser asks for a key that leads it to a page; see `memorykv.Key`, which checks its grants."""
    is_read = request.method in ("GET", "HEAD")
    return is_read and routes.is_page_name(request.path) and accepts_type(request.accept, HTML)


def examine_head(
    context: WorkerContext, peer: Peer, request: IncomingRequest, message: RequestHead, available: int
) -> bool:
    """Whether to send `100 Continue` to a request whose body follows. Raises `KVError` if its head alone refuses it.

    `available`: so many bytes after the head are here already. A body of known length that is here whole is no burden:
    its request is answered in its turn, and another may follow.
    """
    allowed, length = message.allowance, message.length
    is_too_large = (length or 0) > allowed.most
    if length is not None and length <= available and not is_too_large and not message.expects_continue:
        return False
    refusal = context.find_refusal(request.scope)
    if refusal is None and (allowed.forbidden or is_too_large):
        refusal = allowed.too_large()
    if refusal is not None:
        raise refusal
    load = context.load
    load.check_in_flight(load.find_quotas(peer.quota, request.scope.get(GRANTS)))
    peer.check_quota(length or 0)
    return message.expects_continue and request.version == "1.1"
