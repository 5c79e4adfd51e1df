"""The OpenAPI 3.1 document, made of the tables. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from http import HTTPStatus
from itertools import groupby
from typing import Any, Final

from kvserver import __version__
from kvserver.api.query import Parameter, Schema
from kvserver.description import bodies, headers, memorykv, messages, server, version1
from kvserver.description.headers import Header
from kvserver.description.operations import ANY, EXAMPLE_URL, Content, Operation, Success
from kvserver.http import responses as answers
from kvserver.http import routes
from kvserver.sdk.files import FILES
from shards.wire.errors import KVError
from shards.wire.keys import MAX_KEY

OPERATIONS: Final = (*version1.OPERATIONS, *server.OPERATIONS, *memorykv.OPERATIONS)
"""All of them."""

PROBLEM: Final = "application/problem+json"
CODES: Final = "x-codes"
"""Extension of error responses: the codes they may have. If each response had a schema of its codes, generated clients
would have a class for each."""

_INTRODUCTION: Final = """\
Shared state with a live feed of every change, over plain HTTP.

Keys are UTF-8, 1 to 511 bytes. In version 1 the key is all that follows `/v1/kv/`, slashes included, encoded or not; a
segment that is empty, `.` or `..` is best sent with `%2F`, since many clients remove it. The routes at the root are
MemoryKV's: there a slash in a key is `%2F`.

Version 1 refuses with 400 what it does not understand: query parameters that are unknown or come twice, malformed
values. The routes at the root ignore queries.

Where the server wants tokens, they are sent as `Authorization: Bearer <token>`. Each grants `read`, `write`, `feed` and
`admin` on keys with certain prefixes; lists show what is granted.

Errors are problem details (RFC 9457) with a stable `code`. Those of the routes at the root have MemoryKV's bodies, a
short text or none, unless `Accept` names `application/problem+json`.

A method that a path does not know is 405, and `Allow` has those it knows. OPTIONS is answered everywhere, and every
answer carries CORS headers. Every answer to a request with an `X-Request-Id` has it too."""

_TOKEN: Final = "token"

_TAGS: Final = (
    {"name": version1.KEY_TAG, "description": "Types, revisions, conditions, expiry, atomic changes."},
    {"name": version1.MANY_TAG, "description": "Lists, batches and deletes of prefixes."},
    {"name": version1.FEED_TAG, "description": "Every change as it happens."},
    {"name": server.TAG, "description": "Status, health and this description."},
    {"name": memorykv.TAG, "description": "The routes at the root: MemoryKV's clients work unchanged."},
)
_PATHS: Final = {
    "key": ({"type": "string", "minLength": 1, "maxLength": MAX_KEY}, "1 to 511 bytes of UTF-8."),
    "prefix": ({"type": "string", "minLength": 1}, "What keys begin with; a slash is `%2F`."),
    "chapter": ({"type": "string", "pattern": "^[a-z0-9-]+$"}, "The name of a chapter."),
    "code": ({"type": "string", "pattern": "^[a-z_]+$"}, "The code of an error."),
    "file": ({"type": "string", "enum": list(FILES)}, "The name of the file."),
}
"""Parameters of paths."""
_ANY_KEY: Final[Schema] = {"type": "string", "minLength": 1}
"""MemoryKV's GET and DELETE take a key that is too long for one that is absent."""


def make_document(with_tokens: bool = False) -> dict[str, Any]:
    """Make the whole description. `with_tokens`: of a server that requires tokens."""
    paths: dict[str, dict[str, Any]] = {}
    responses: dict[str, Any] = {}
    for operation in OPERATIONS:
        path = paths.setdefault(path_template(operation.route), {})
        path[operation.method] = _describe_operation(operation, responses, with_tokens)
        if operation.has_head:
            path["head"] = _describe_head(path["get"])
    return {
        "openapi": "3.1.0",
        "info": {"title": "kvserver", "version": __version__, "description": _INTRODUCTION},
        "servers": [{"url": EXAMPLE_URL}],
        "tags": list(_TAGS),
        "paths": paths,
        "components": {
            "schemas": {**bodies.make_body_schemas(), **messages.make_message_schemas()},
            "responses": dict(sorted(responses.items())),
            "securitySchemes": {_TOKEN: {"type": "http", "scheme": "bearer"}},
        },
    }


def path_template(route: str) -> str:
    """Return the path of a route as OpenAPI writes it: `/keys/:prefix` is `/keys/{prefix}`."""
    return re.sub(r":(\w+)", r"{\1}", route)


def _describe_operation(operation: Operation, responses: dict[str, Any], with_tokens: bool) -> dict[str, Any]:
    granted = f"On a server with tokens: {operation.grants}." if operation.grants else ""
    described: dict[str, Any] = {
        "operationId": _operation_id(operation.method, operation.route),
        "tags": [operation.tag],
        "summary": operation.summary,
        "description": "\n\n".join(part for part in (operation.description, granted) if part),
        "security": [{_TOKEN: []}] if operation.grants and with_tokens else [],
        "parameters": [
            *(_path_parameter(name, operation) for name in re.findall(r":(\w+)", operation.route)),
            *(_query_parameter(parameter) for parameter in operation.parameters.values()),
            *(_header_parameter(header) for header in operation.headers),
        ],
    }
    if operation.body is not None:
        needed = ANY not in operation.body  # no bytes at all are a value, too
        described["requestBody"] = {"required": needed, "content": _describe_content(operation.body)}
    described["responses"] = {
        **{str(answer.status): _describe_answer(answer) | _describe_links(operation) for answer in operation.answers},
        **_refer_to_errors(operation, responses),
    }
    if operation.examples:
        described["x-codeSamples"] = [{"lang": "Shell", "source": example} for example in operation.examples]
    return {name: value for name, value in described.items() if value or name == "responses"}


def _operation_id(method: str, route: str) -> str:
    return "_".join((method, *(re.findall(r"[a-z0-9]+", route.replace(".json", "")) or ["root"])))


def _describe_head(get: dict[str, Any]) -> dict[str, Any]:
    """HEAD, where GET is what `get` describes."""
    answered = {
        status: response if "$ref" in response else {k: v for k, v in response.items() if k != "content"}
        for status, response in get["responses"].items()
        if status not in ("206", "416")
    }
    parameters = [each for each in get.get("parameters", ()) if each["name"] not in ("Range", "If-Range")]
    name = get["operationId"].replace("get", "head", 1)
    same = {"tags": get["tags"], **({"security": get["security"]} if "security" in get else {})}
    return {"operationId": name, "summary": f"{get['summary']}: the headers alone", **same} | {
        "parameters": parameters,
        "responses": answered,
    }


# Requests


def _path_parameter(name: str, operation: Operation) -> dict[str, Any]:
    schema, description = _PATHS[name]
    if operation.route == routes.KEY and operation.method != "put":
        schema = _ANY_KEY
    return {"name": name, "in": "path", "required": True, "schema": schema, "description": description}


def _query_parameter(parameter: Parameter) -> dict[str, Any]:
    schema = parameter.kind.schema
    if parameter.repeats:
        schema = {"type": "array", "items": schema, "maxItems": parameter.most}
    return {"name": parameter.name, "in": "query", "schema": schema, "description": parameter.description}


def _header_parameter(header: Header) -> dict[str, Any]:
    return {"name": header.name, "in": "header", "schema": header.schema, "description": header.description}


def _describe_content(content: Content) -> dict[str, Any]:
    return {
        name: {"schema": media.schema} | ({} if media.example is None else {"example": media.example})
        for name, media in content.items()
    }


# Answers


def _describe_answer(answer: Success) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.description}
    if answer.headers:
        described["headers"] = _describe_headers(answer.headers)
    if answer.content:
        described["content"] = _describe_content(answer.content)
    return described


def _describe_links(operation: Operation) -> dict[str, Any]:
    """Describe what can be done next with a key that was written."""
    if operation.route != routes.KV or operation.method == "get":
        return {}
    methods = ("get",) if operation.method == "delete" else ("get", "delete")
    same_key = {"parameters": {"key": "$request.path.key"}}
    return {
        "links": {method: {"operationId": _operation_id(method, operation.route), **same_key} for method in methods}
    }


def _describe_headers(rows: Iterable[Header]) -> dict[str, Any]:
    return {
        row.name: {"schema": row.schema, "description": row.description} | ({"required": True} if row.always else {})
        for row in rows
    }


def _refer_to_errors(operation: Operation, responses: dict[str, Any]) -> dict[str, Any]:
    """Return references to error responses, by status, and add the responses themselves to `responses`."""
    found = {}
    by_status = sorted(operation.all_errors, key=lambda error: (error.status, error.code))
    for status, errors in groupby(by_status, key=lambda error: error.status):
        listed = list(errors)
        is_plain = not answers.uses_problems(operation.route.encode())
        name = ".".join([*(["plain"] if is_plain else []), *(error.code for error in listed)])
        responses[name] = _describe_error(status, listed, is_plain)
        found[str(status)] = {"$ref": f"#/components/responses/{name}"}
    return found


def _describe_error(status: int, errors: list[type[KVError]], is_plain: bool) -> dict[str, Any]:
    content: dict[str, Any] = {PROBLEM: {"schema": bodies.ref("Problem")}}
    if is_plain and any(answers.render_memorykv_text(error("why")) for error in errors):
        content["text/plain"] = {"schema": {"type": "string"}}
    explained = "\n".join(f"- `{error.code}`: {error.title}" for error in errors)
    return {
        "description": f"{HTTPStatus(status).phrase}\n\n{explained}",
        "headers": _describe_headers((headers.REQUEST_ID, *_OF_STATUS.get(status, ()))),
        "content": content,
        CODES: [error.code for error in errors],
    }


_OF_STATUS: Final[dict[int, tuple[Header, ...]]] = {
    401: (headers.CHALLENGE,),
    412: (headers.ETAG._replace(always=False), headers.REVISION._replace(always=False)),
    415: (headers.ACCEPT_PATCH,),
    416: (headers.CONTENT_RANGE, headers.ACCEPT_RANGES),
    503: (headers.RETRY_AFTER,),
}
"""Headers of errors."""
