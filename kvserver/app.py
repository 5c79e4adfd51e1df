"""The REST application: which resource serves which route, and how errors are told.

Falcon's own router would decide by decoded paths; `Routes` takes its place and asks `kvserver.http.routes`, so `/a%2Fb`
and `/%6Beys` are keys. CORS and the other headers of every answer are the connection's business
(`kvserver.http.responses`).
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import Any

import falcon
import falcon.asgi
from falcon.asgi import Request, Response
from falcon.routing.util import map_http_methods

from kvserver.access.tickets import Tickets
from kvserver.description.resources import Docs, Error, Errors, OpenAPI, Root
from kvserver.http import responses
from kvserver.http import routes as target
from kvserver.http.responses import PREFLIGHT, WrongMethod
from kvserver.http.scope import GIVEN_ID, ROUTE
from kvserver.rest.batch import Batch
from kvserver.rest.kv import KeyOfVersion1
from kvserver.rest.many import Many
from kvserver.rest.memorykv import Feed, Key, Keys, Ping, Prefix, Wal
from kvserver.rest.status import Live, Ready, ShardStates, Status
from kvserver.rest.tickets import TicketOffice
from kvserver.store.client import Router
from kvserver.web.context import WorkerContext
from kvserver.web.parsing import body_rules
from shards.host.board import Board
from shards.wire.errors import BadRequest, KVError, NoSuchResource

log = logging.getLogger("kvserver.app")

_ORDER = ("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE")


def create_app(router: Router, board: Board, context: WorkerContext) -> falcon.asgi.App[Request, Response]:
    """The application of one worker: writes and reads go through `router`, figures come from `board`, `context` says
    whether there is room for large answers, and who may do what."""
    states = ShardStates(board)
    routes = Routes()
    routes.add_route(target.ROOT, Root())
    routes.add_route(target.PING, Ping())
    routes.add_route(target.KEY, Key(router, context))
    routes.add_route(target.KEYS, Keys(router, context))
    routes.add_route(target.PREFIX, Prefix(router, context))
    routes.add_route(target.WAL, Wal())
    routes.add_route(target.FEED, Feed())
    routes.add_route(target.KV, KeyOfVersion1(router, context))
    routes.add_route(target.MANY, Many(router, context))
    routes.add_route(target.BATCH, Batch(router, context))
    routes.add_route(target.TICKETS, TicketOffice(Tickets(board, context.tokens)))
    routes.add_route(target.STATUS, Status(board, states))
    routes.add_route(target.LIVE, Live())
    routes.add_route(target.READY, Ready(board, states))
    routes.add_route(target.OPENAPI, OpenAPI(context.tokens))
    routes.add_route(target.DOCS, Docs())
    routes.add_route(target.ERRORS, Errors())
    routes.add_route(target.ERROR, Error())
    app: falcon.asgi.App[Request, Response] = falcon.asgi.App(router=routes)  # type: ignore[call-overload]
    app.resp_options.default_media_type = None  # type: ignore[assignment]  # an empty answer has no type
    app.add_error_handler(KVError, _on_error)
    app.add_error_handler(falcon.HTTPError, _on_falcon_error)
    app.add_error_handler(Exception, _on_fault)
    context.find_refusal = Foresight(app, routes).refusal
    return app


app = create_app
"""What gunicorn loads. The worker calls it after its fork, when it has a router and a board to hand over."""


class Methods(dict[str, Any]):
    """Method to responder of one resource; those it lacks lead to 405."""

    def __init__(self, resource: object) -> None:
        super().__init__(map_http_methods(resource))
        self.allow = ",".join(method for method in _ORDER if method in self)

    def __missing__(self, method: str) -> Callable[..., Any]:
        async def not_allowed(req: Request, resp: Response, **_: Any) -> None:
            raise WrongMethod(self.allow)

        return not_allowed


class NoSuchRoute(NoSuchResource):
    """A path below `/v1/` that is no route."""

    hint = "The routes of version 1 are listed at /docs/ and in /v1/openapi.json; a key is /v1/kv/{key}."


class Preflight:
    """OPTIONS of every path."""

    async def on_options(self, req: Request, resp: Response, allow: str) -> None:
        """200: what pages of other origins may do."""
        resp.set_headers(PREFLIGHT)
        if allow:
            resp.set_header("Allow", allow)
        if "PATCH" in allow:
            resp.set_header("Accept-Patch", responses.MERGE_PATCH.decode())
        resp.data = b""


class Routes:
    """Falcon's interface of a router, over `target.resolve_path`."""

    def __init__(self) -> None:
        self._routes: dict[str, tuple[object, Methods]] = {}
        preflight = Preflight()
        self._preflight = (preflight, Methods(preflight))

    def add_route(self, uri_template: str, resource: object, **_: Any) -> None:
        """Serve the route of that label with `resource`."""
        self._routes[uri_template] = (resource, Methods(resource))

    def find(self, uri: str, req: Request) -> tuple[object, Methods, dict[str, Any], str]:
        """Falcon asks where a request goes. `uri` is not looked at. Raises `NoSuchResource`, `BadKey`."""
        scope = req.scope
        if req.method == "OPTIONS":
            return self._find_preflight(scope)
        route, argument = target.resolve_path(scope["raw_path"])
        scope[ROUTE] = route
        found = self._routes.get(route)
        if route == target.V1_OTHER:
            raise NoSuchRoute(f"the nearest route is {target.find_nearest_route(scope['raw_path'])}")
        if found is None or (route == target.ROOT and req.method in ("PUT", "DELETE")):  # the empty key
            raise NoSuchResource
        return *found, {"key": argument} if argument else {}, route

    def _find_preflight(self, scope: dict[str, Any]) -> tuple[object, Methods, dict[str, Any], str]:
        try:
            route = target.resolve_path(scope["raw_path"]).route
        except BadRequest:
            route = target.NOWHERE
        scope[ROUTE] = route
        found = self._routes.get(route)
        return *self._preflight, {"allow": found[1].allow if found else ""}, route


class _BodyWanted(Exception):
    """Raised where a responder reads the body."""


async def _want_body() -> Any:
    raise _BodyWanted


class Foresight:
    """Tells what becomes of a request whose body is still to come, so that none is waited for in vain.

    Its responder is run up to where it reads the body. Those of `bodies.READ` have then checked all that the head
    decides, and changed nothing.
    """

    def __init__(self, app: falcon.asgi.App[Request, Response], routes: Routes) -> None:
        self._app, self._routes = app, routes

    def refusal(self, scope: dict[str, Any]) -> KVError | None:
        """What the request with this ASGI scope will be refused for whatever its body is; None if that is not known."""
        req = Request(scope, _want_body, options=self._app.req_options)
        try:
            _, methods, params, route = self._routes.find("", req)
        except KVError as error:
            return error
        if req.method in methods and (route, req.method) not in body_rules.READ:
            return None
        work = methods[req.method](req, Response(options=self._app.resp_options), **params)
        try:
            work.send(None)
        except KVError as error:
            return error
        except Exception:  # it wants the body; or it fails, which shows again when the request is answered
            return None
        finally:
            work.close()
        return None


async def _on_error(req: Request, resp: Response, error: KVError, params: dict[str, Any]) -> None:
    """The one place that tells an error of the application."""
    request_id = _request_id(req)
    answer = responses.render_error(error, req.scope["raw_path"], req.accept.encode(), request_id)
    resp.status = answer.status
    resp.stream = None
    resp.data = answer.body
    resp.content_type = None
    for name, value in answer.headers:
        resp.set_header(name.decode(), value.decode())
    log.debug("%s %r: %s: %s (request %s)", req.method, req.scope["raw_path"], error.code, error, request_id.decode())


def _request_id(req: Request) -> bytes:
    """By what the client and the log know it: what the client gave, else one that is made at its first error."""
    request_id: bytes = req.scope.get(GIVEN_ID) or secrets.token_hex(8).encode()
    req.scope[GIVEN_ID] = request_id
    return request_id


async def _on_falcon_error(req: Request, resp: Response, error: falcon.HTTPError, params: dict[str, Any]) -> None:
    """Falcon finds fault with little that the connection lets through."""
    await _on_error(req, resp, BadRequest(error.description or error.title or ""), params)


async def _on_fault(req: Request, resp: Response, error: Exception, params: dict[str, Any]) -> None:
    """A fault of ours: logged with its traceback, 500 for the client."""
    log.error("%s %r failed (request %s)", req.method, req.scope["raw_path"], _request_id(req).decode(), exc_info=error)
    await _on_error(req, resp, KVError(), params)
