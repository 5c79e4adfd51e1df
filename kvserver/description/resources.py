"""The manual and the API's description, `/docs/` and `/v1/openapi.json`, the client libraries, `/sdk/`, and the
console, `/console/`: pages and files that stay the same until the server is replaced. Pages are made at the first
request and kept for good."""

from __future__ import annotations

import binascii
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

import msgspec
from falcon.asgi import Request, Response

import kvserver
from kvserver import __version__
from kvserver.access.tokens import Tokens
from kvserver.api import query
from kvserver.console.files import SECURITY_POLICY
from kvserver.description import openapi
from kvserver.description.html import frame, reference, sdk, search
from kvserver.description.html.manual import START, Manual
from kvserver.description.operations import EXAMPLE_URL
from kvserver.http.routes import CONSOLE, DOCS, OPENAPI, SDK
from kvserver.rest.memorykv import lead_to_page, wants_page
from kvserver.rest.values import answer_body
from kvserver.sdk.files import FILES
from shards.wire.errors import ERRORS, NoSuchResource

HTML = "text/html; charset=utf-8"
JSON: Final = "application/json"
REVALIDATE: Final = "no-cache"
"""Clients keep a file, and ask each time whether it is still the same: so a page imports what fits the server."""
PICTURE_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
"""That of a picture which is opened alone: it has styles of its own, and nothing in it runs."""
TEXT = "text/plain; charset=utf-8"
WELCOME = f"""\
kvserver {__version__}: a key-value server with a live feed of every change.
PUT /v1/kv/{{key}} stores a value, GET /v1/kv/{{key}} reads it, GET /v1/feed watches every change.
The manual is at {DOCS}, for tools at {OPENAPI}; the console is at {CONSOLE}.
"""


_document = cache(openapi.make_document)
"""By whether tokens are wanted."""


@cache
def _make_openapi(with_tokens: bool) -> bytes:
    return msgspec.json.encode(_document(with_tokens))


_CHAPTERS: Final = Path(kvserver.__file__).parent / "manual"


@cache
def _read_manual() -> Manual:
    return Manual({path.stem: path.read_text("utf-8") for path in _CHAPTERS.glob("*.md")})


@cache
def _make_chapter(name: str) -> bytes:
    return _read_manual().render(name).encode()


@cache
def _make_missing_page() -> bytes:
    return _read_manual().render_missing().encode()


@cache
def _make_search_index() -> bytes:
    return msgspec.json.encode(search.list_records(_read_manual(), _document(False)))


@cache
def _make_overview() -> bytes:
    return reference.render_overview(_document(False)).encode()


@cache
def _error_list() -> bytes:
    return reference.error_list().encode()


@cache
def _make_sdk_page() -> bytes:
    return sdk.render_libraries().encode()


@cache
def _make_error(code: str) -> bytes:
    return reference.render_error(_document(False), ERRORS[code]).encode()


class Root:
    """`/`"""

    async def on_get(self, req: Request, resp: Response) -> None:
        """302 to the console for a browser, else 200 with what this is and where to go."""
        if wants_page(req):
            lead_to_page(resp, CONSOLE)
            resp.data = b""
        else:
            resp.content_type = TEXT
            resp.data = WELCOME.encode()

    on_head = on_get


class OpenAPI:
    """`/v1/openapi.json`"""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens = tokens

    async def on_get(self, req: Request, resp: Response) -> None:
        """200 with the document; 304 if the client has it."""
        query.parse(req.scope["query_string"], query.NOTHING)
        await _answer_unless_known(req, resp, _name_address(req, _make_openapi(self._tokens.required)), JSON)

    on_head = on_get


class Docs:
    """`/docs/`"""

    async def on_get(self, req: Request, resp: Response) -> None:
        """200 with the page; 304 if the client has it."""
        await _give_page(req, resp, _make_chapter(START), frame.POLICY_WITH_PICTURES)

    on_head = on_get


class ChapterPage:
    """`/docs/{chapter}`"""

    async def on_get(self, req: Request, resp: Response, key: bytes) -> None:
        """200 with the page of that chapter; 304 if the client has it; 404 if there is no such chapter."""
        name = key.decode()
        if name != START and name in _read_manual():
            await _give_page(req, resp, _make_chapter(name), frame.POLICY_WITH_PICTURES)
        elif wants_page(req):
            resp.status = 404
            resp.content_type = HTML
            resp.set_header("Content-Security-Policy", frame.SECURITY_POLICY)
            resp.data = _make_missing_page()
        else:
            raise NoSuchResource(f"the manual has no chapter {name[:64]!r}; {DOCS} lists them")

    on_head = on_get


class Pictures:
    """`/docs/pictures/{file}`"""

    def __init__(self, files: Mapping[str, tuple[bytes, str]]) -> None:
        """`files`: the content and the media type of each, by name."""
        self._files = files

    async def on_get(self, req: Request, resp: Response, key: bytes = b"") -> None:
        """200 with the picture of that name; 304 if the client has it; 404 for other names."""
        name = key.decode()
        if name not in self._files:
            raise NoSuchResource(f"the manual has no picture {name[:64]!r}")
        content, kind = self._files[name]
        resp.set_header("Cache-Control", REVALIDATE)
        resp.set_header("Content-Security-Policy", PICTURE_POLICY)
        await _answer_unless_known(req, resp, content, kind)

    on_head = on_get


class Reference:
    """`/docs/reference`"""

    async def on_get(self, req: Request, resp: Response) -> None:
        """200 with the page; 304 if the client has it."""
        await _give_page(req, resp, _make_overview())

    on_head = on_get


class SearchIndex:
    """`/docs/search.json`"""

    async def on_get(self, req: Request, resp: Response) -> None:
        """200 with all that can be found; 304 if the client has it."""
        resp.set_header("Cache-Control", REVALIDATE)
        await _answer_unless_known(req, resp, _make_search_index(), JSON)

    on_head = on_get


class Errors:
    """`/docs/errors/`"""

    async def on_get(self, req: Request, resp: Response) -> None:
        """200 with the page; 304 if the client has it."""
        await _give_page(req, resp, _error_list())

    on_head = on_get


class Error:
    """`/docs/errors/{code}`"""

    async def on_get(self, req: Request, resp: Response, key: bytes) -> None:
        """200 with the page of that code; 304 if the client has it; 404 if there is no such error."""
        code = key.decode()
        if code not in ERRORS:
            raise NoSuchResource(f"no error is called {code[:64]!r}")
        await _give_page(req, resp, _make_error(code))

    on_head = on_get


class SdkPage:
    """`/sdk/`"""

    async def on_get(self, req: Request, resp: Response) -> None:
        """200 with the page; 304 if the client has it."""
        await _give_page(req, resp, _make_sdk_page())

    on_head = on_get


class SdkFiles:
    """`/sdk/{file}`"""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        """`files`: the content of each of `FILES`, by name."""
        self._files = files

    async def on_get(self, req: Request, resp: Response, key: bytes) -> None:
        """200 with the file of that name, as it is in the package; 304 if the client has it; 404 for other names."""
        name = key.decode()
        if name not in FILES:
            raise NoSuchResource(f"there is no file {name[:64]!r} in {SDK}; there are {', '.join(FILES)}")
        resp.set_header("Cache-Control", REVALIDATE)
        await _answer_unless_known(req, resp, self._files[name], FILES[name].media_type)

    on_head = on_get


class ConsolePage:
    """`/console/`"""

    def __init__(self, page: bytes) -> None:
        self._page = page

    async def on_get(self, req: Request, resp: Response) -> None:
        """200 with the page; 304 if the client has it."""
        resp.set_header("Cache-Control", REVALIDATE)
        resp.set_header("Content-Security-Policy", SECURITY_POLICY)
        resp.set_header("Cross-Origin-Opener-Policy", "same-origin")
        resp.set_header("Referrer-Policy", "no-referrer")
        await _answer_unless_known(req, resp, self._page, HTML)

    on_head = on_get


class ConsoleFiles:
    """`/console/{file}`"""

    def __init__(self, files: Mapping[str, tuple[bytes, str]]) -> None:
        """`files`: the content and the media type of each, by name."""
        self._files = files

    async def on_get(self, req: Request, resp: Response, key: bytes) -> None:
        """200 with the file of that name, as it is in the package; 304 if the client has it; 404 for other names."""
        name = key.decode()
        if name not in self._files:
            raise NoSuchResource(f"the console has no file {name[:64]!r}")
        content, kind = self._files[name]
        resp.set_header("Cache-Control", REVALIDATE)
        await _answer_unless_known(req, resp, content, kind)

    on_head = on_get


async def _give_page(req: Request, resp: Response, page: bytes, policy: str = frame.SECURITY_POLICY) -> None:
    resp.set_header("Cache-Control", REVALIDATE)
    resp.set_header("Content-Security-Policy", policy)
    await _answer_unless_known(req, resp, _name_address(req, page), HTML)


_EXAMPLE: Final = EXAMPLE_URL.encode()
_EXAMPLE_OF_SOCKETS: Final = _EXAMPLE.replace(b"http", b"ws")
_HOST: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?")


def _name_address(req: Request, page: bytes) -> bytes:
    """Return `page` with the server's URL as the client knows it in its examples; a proxy says whether it used TLS."""
    host = req.get_header("Host") or ""
    if not _HOST.fullmatch(host):
        return page
    scheme = "https" if req.get_header("X-Forwarded-Proto") == "https" else "http"
    page = page.replace(_EXAMPLE, f"{scheme}://{host}".encode())
    return page.replace(_EXAMPLE_OF_SOCKETS, f"{scheme.replace('http', 'ws')}://{host}".encode())


async def _answer_unless_known(req: Request, resp: Response, body: bytes, content_type: str) -> None:
    """Answer with `body`, or 304 if the client has it. The ETag is weak: the same for every coding."""
    tag = f'W/"{binascii.crc32(body):08x}-{len(body)}"'
    resp.set_header("ETag", tag)
    known = req.get_header("If-None-Match")
    if known is not None and (known.strip() == "*" or tag[2:] in known):
        resp.status = 304
        return
    resp.content_type = content_type
    await answer_body(req, resp, body, content_type)
