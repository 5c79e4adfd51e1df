"""Where requests of the application go, and how errors become answers.

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

from kvserver.http import responses
from kvserver.http import routes as target
from kvserver.http.responses import PREFLIGHT, WrongMethod
from kvserver.http.scope import GIVEN_ID, ROUTE
from kvserver.store.reading import MIN_REVISION, ReadingRule
from kvserver.web.parsing import body_rules
from shards.wire.errors import BadRequest, KVError, NoSuchResource

log = logging.getLogger("kvserver.app")

App = falcon.asgi.App[Request, Response]

_ORDER = ("GET", "HEAD", "PUT", "POST", "PATCH", "DELETE")


class Methods(dict[str, Any]):
    """Maps the methods of one resource to their responders; other methods lead to 405."""

    def __init__(self, resource: object) -> None:
        super().__init__(map_http_methods(resource))
        self.allow = ",".join(method for method in _ORDER if method in self)

    def __missing__(self, method: str) -> Callable[..., Any]:
        async def refuse_method(req: Request, resp: Response, **_: Any) -> None:
            raise WrongMethod(self.allow)

        return refuse_method


class NoSuchRoute(NoSuchResource):
    """A path below `/v1/` that no route matches."""

    hint = "The routes of version 1 are listed at /docs/ and in /v1/openapi.json; a key is /v1/kv/{key}."


class Preflight:
    """Answers OPTIONS, of every path."""

    async def on_options(self, req: Request, resp: Response, allow: str) -> None:
        """200: what pages of other origins may do."""
        resp.set_headers(PREFLIGHT)
        if allow:
            resp.set_header("Allow", allow)
        if "PATCH" in allow:
            resp.set_header("Accept-Patch", responses.MERGE_PATCH.decode())
        resp.data = b""


Match = tuple[object, Methods, dict[str, Any], str]
"""What Falcon expects of a router: the resource, its methods, the responder's arguments, the route."""


class Routes:
    """Finds the resource of a request by its undecoded target. Has the interface of Falcon's routers."""

    def __init__(self) -> None:
        self._routes: dict[str, tuple[object, Methods]] = {}
        preflight = Preflight()
        self._preflight = (preflight, Methods(preflight))

    def add_route(self, uri_template: str, resource: object, **_: Any) -> None:
        """Serve the route of that label with `resource`."""
        self._routes[uri_template] = (resource, Methods(resource))

    def find(self, uri: str, req: Request) -> Match:
        """Find the resource of `req`, and write its route into the scope. Falcon's `uri` is decoded, so it is ignored.

        Raises `NoSuchResource`, `BadKey`.
        """
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

    def _find_preflight(self, scope: dict[str, Any]) -> Match:
        try:
            route = target.resolve_path(scope["raw_path"]).route
        except BadRequest:
            route = target.NOWHERE
        scope[ROUTE] = route
        found = self._routes.get(route)
        return *self._preflight, {"allow": found[1].allow if found else ""}, route


class MinRevision:
    """Middleware of a cluster: lets a request that names a revision wait until this machine has it."""

    def __init__(self, reading: ReadingRule) -> None:
        self._reading = reading

    async def process_request(self, req: Request, resp: Response) -> None:
        """Raise `BadRequest`, or `NotCurrent` if the revision does not come in time."""
        given = req.get_header(MIN_REVISION)
        if given is not None:
            await self._reading.reach(given)


class _BodyWanted(Exception):
    """Raised where a responder reads the body."""


async def _want_body() -> Any:
    raise _BodyWanted


class Foresight:
    """Refuses by the head alone a request whose body is still to come, so that no body is received in vain.

    Runs the responder up to where it reads the body. Those of `body_rules.READ` have then checked all that the head
    decides, and changed nothing.
    """

    def __init__(self, app: App, routes: Routes) -> None:
        self._app, self._routes = app, routes

    def find_refusal(self, scope: dict[str, Any]) -> KVError | None:
        """Return the error of the request with this ASGI scope, whatever its body; None if its body decides."""
        req = Request(scope, _want_body, options=self._app.req_options)
        try:
            _, methods, params, route = self._routes.find("", req)
        except KVError as error:
            return error
        # A responder of another route could change something before it reads the body. That of a method the resource
        # lacks only raises.
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


# Errors


def add_error_handlers(app: App) -> None:
    """Make answers of all that responders of `app` raise."""
    app.add_error_handler(KVError, _answer_error)
    app.add_error_handler(falcon.HTTPError, _answer_falcon_error)
    app.add_error_handler(Exception, _answer_fault)


async def _answer_error(req: Request, resp: Response, error: KVError, params: dict[str, Any]) -> None:
    """Answer with `error`: the only place of the application that does."""
    request_id = _ensure_request_id(req)
    answer = responses.render_error(error, req.scope["raw_path"], req.accept.encode(), request_id)
    resp.status = answer.status
    resp.stream = None
    resp.data = answer.body
    resp.content_type = None
    for name, value in answer.headers:
        resp.set_header(name.decode(), value.decode())
    log.debug("%s %r: %s: %s (request %s)", req.method, req.scope["raw_path"], error.code, error, request_id.decode())


def _ensure_request_id(req: Request) -> bytes:
    """Return the id of the request in answers and logs: the client's, else a random one made at its first error."""
    request_id: bytes = req.scope.get(GIVEN_ID) or secrets.token_hex(8).encode()
    req.scope[GIVEN_ID] = request_id
    return request_id


async def _answer_falcon_error(req: Request, resp: Response, error: falcon.HTTPError, params: dict[str, Any]) -> None:
    """Answer 400: Falcon refuses little that the connection lets through."""
    await _answer_error(req, resp, BadRequest(error.description or error.title or ""), params)


async def _answer_fault(req: Request, resp: Response, error: Exception, params: dict[str, Any]) -> None:
    """Log a fault of ours with its traceback, and answer 500."""
    request_id = _ensure_request_id(req).decode()
    log.error("%s %r failed (request %s)", req.method, req.scope["raw_path"], request_id, exc_info=error)
    await _answer_error(req, resp, KVError(), params)
