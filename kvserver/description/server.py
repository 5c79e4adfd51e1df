"""The operations about the server and its clients, and its pages. Pure."""

from __future__ import annotations

from typing import Final

from kvserver.console.files import MEDIA_TYPES
from kvserver.description import headers, pictures
from kvserver.description.bodies import ref
from kvserver.description.headers import LOCATION
from kvserver.description.operations import HTML, JSON, OF_READS, TEXT, Content, ErrorClasses, Media, Operation, Success
from kvserver.http import routes
from kvserver.sdk.files import FILES
from shards.wire.errors import Forbidden, NoSuchResource

TAG: Final = "The server"


_PAGE: Final[Content] = {HTML: TEXT}
_FILES: Final[Content] = {file.media_type.partition(";")[0]: TEXT for file in FILES.values()}

_FILES_OF_THE_CONSOLE: Final[Content] = {kind.partition(";")[0]: TEXT for kind in MEDIA_TYPES.values()}
_PICTURES: Final[Content] = dict.fromkeys(pictures.MEDIA_TYPES.values(), TEXT)


def _page_operation(
    route: str, summary: str, content: Content = _PAGE, errors: ErrorClasses = (), examples: tuple[str, ...] = ()
) -> Operation:
    """Describe a GET of a page or file that stays the same until the server is replaced."""
    return Operation(
        route=route,
        method="get",
        tag=TAG,
        summary=summary,
        headers=(headers.IF_NOT_THIS,),
        answers=(
            Success(200, "The content.", content, (headers.TAG_OF_THIS,)),
            Success(304, "The client has it already.", headers=(headers.TAG_OF_THIS,)),
        ),
        errors=errors,
        examples=examples,
    )


OPERATIONS: Final = (
    Operation(
        route=routes.WHOAMI,
        method="get",
        tag=TAG,
        summary="Who am I, and what may I do",
        description="Name and grants of the token that is sent; without tokens the name is null, and anyone may do "
        "everything. A key has the rights of every row whose prefix it starts with.",
        grants="any token",
        answers=(
            Success(
                200,
                "The token that was sent.",
                {
                    JSON: Media(
                        ref("WhoAmI"),
                        {"name": "deploy", "grants": [{"prefix": "flags/", "allow": ["read", "write"]}]},
                    )
                },
            ),
        ),
        examples=("curl http://localhost:8080/v1/whoami",),
    ),
    Operation(
        route=routes.STATUS,
        method="get",
        tag=TAG,
        summary="What is running",
        description="`traffic`, `feed`, and `operations`, `groups` and `flush_s` of shards are growing counters: two "
        "answers make a rate. Those of a process are a fraction of a second old. A process that was killed takes along "
        "what it counted in that time; otherwise they only grow while the server runs. `/metrics` shows the same "
        "figures in more detail.",
        grants="`admin`, or `read` on all keys, which shows all but the ids of processes",
        answers=(Success(200, "Processes, history, log, figures.", {JSON: Media(ref("Status"))}),),
        errors=(Forbidden,),
        examples=("curl http://localhost:8080/v1/status",),
    ),
    Operation(
        route=routes.LIVE,
        method="get",
        tag=TAG,
        summary="Does this worker answer?",
        answers=(Success(200, "It does.", {JSON: Media(ref("Health"), {"status": "live"})}),),
        examples=("curl http://localhost:8080/health/live",),
    ),
    Operation(
        route=routes.READY,
        method="get",
        tag=TAG,
        summary="Is every shard up?",
        answers=(Success(200, "Every one.", {JSON: Media(ref("Health"), {"status": "ready"})}),),
        errors=OF_READS,
        examples=("curl http://localhost:8080/health/ready",),
    ),
    Operation(
        route=routes.ROOT,
        method="get",
        tag=TAG,
        summary="What this is, and where to go",
        answers=(
            Success(200, "Three lines of text.", {"text/plain": TEXT}),
            Success(302, "To the console, for whoever accepts `text/html`.", headers=(LOCATION,)),
        ),
        examples=("curl http://localhost:8080/",),
    ),
    _page_operation(routes.OPENAPI, "This description", {JSON: Media({"type": "object"})}),
    _page_operation(routes.DOCS, "The manual: its start, which lists all chapters"),
    _page_operation(routes.CHAPTER, "One chapter of the manual", errors=(NoSuchResource,)),
    _page_operation(routes.PICTURE, "A picture of the manual", _PICTURES, (NoSuchResource,)),
    _page_operation(routes.REFERENCE, "This description for people"),
    _page_operation(
        routes.SEARCH,
        "What the search of these pages searches",
        {JSON: Media({"type": "array", "items": {"type": "object"}})},
    ),
    _page_operation(routes.ERRORS, "All errors"),
    _page_operation(routes.ERROR, "One error", errors=(NoSuchResource,)),
    _page_operation(routes.SDK, "Client libraries, with an example of each"),
    _page_operation(
        routes.SDK_FILE,
        "A file of a client library",
        _FILES,
        (NoSuchResource,),
        ("curl -i http://localhost:8080/sdk/client.js",),
    ),
    _page_operation(routes.CONSOLE, "The console, a page that shows and changes the store"),
    _page_operation(routes.CONSOLE_FILE, "A file of the console", _FILES_OF_THE_CONSOLE, (NoSuchResource,)),
)
"""All of them."""
