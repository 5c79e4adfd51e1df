"""The OpenAPI document: valid, whole, and made of what validates requests."""

from __future__ import annotations

import json
from types import ModuleType

import jsonschema_rs
import pytest
import schemathesis
from hypothesis import given
from hypothesis import strategies as st

from kvserver.api import feed_query
from kvserver.api.query import EXPIRY, INTEGER, Parameter, parse
from kvserver.description import openapi
from kvserver.http import routes
from kvserver.one_key import asked
from kvserver.rest import batch, many, memorykv
from kvserver.rest.server import status
from shards.wire.errors import (
    ERRORS,
    AnswerTooLarge,
    BadRequest,
    Conflict,
    FailedDependency,
    MethodNotAllowed,
    PatchesTooLarge,
)
from tests.unit.kvserver.description.document import DOCUMENT, inside, operations, resolved

NOT_OF_OPERATIONS = {MethodNotAllowed.code}
"""Told where there is no operation."""


OF_RESULTS = {FailedDependency.code, AnswerTooLarge.code, PatchesTooLarge.code}
"""Told in the results of a batch alone."""


NEVER = {Conflict.code}
"""What others have in common."""


def test_it_is_openapi() -> None:
    schemathesis.openapi.from_dict(json.loads(json.dumps(DOCUMENT))).validate()
    assert DOCUMENT["openapi"].startswith("3.1")
    ids = [described["operationId"] for _, _, described in operations()]
    assert len(set(ids)) == len(ids)
    for each in inside(DOCUMENT):
        if "$ref" in each:
            assert resolved(each["$ref"])


def test_every_route_is_described() -> None:
    described = {operation.route for operation in openapi.OPERATIONS}
    assert described == set(routes.LABELS) - {routes.NOWHERE, routes.V1_OTHER}


@pytest.mark.parametrize("module", [batch, asked, many, memorykv, status, feed_query])
def test_every_parameter_is_described(module: ModuleType) -> None:
    for value in vars(module).values():
        if (
            isinstance(value, dict)
            and value is not EXPIRY
            and any(isinstance(row, Parameter) for row in value.values())
        ):
            assert any(operation.parameters is value for operation in openapi.OPERATIONS), value
    for _, _, described in operations():
        for parameter in described.get("parameters", ()):
            assert parameter["description"]


def test_every_error_is_described() -> None:
    problem = {"schema": {"$ref": "#/components/schemas/Problem"}}
    responses = DOCUMENT["components"]["responses"].values()
    assert all(response["content"]["application/problem+json"] == problem for response in responses)
    told = {code for response in responses for code in response[openapi.CODES]}
    assert told | OF_RESULTS | NOT_OF_OPERATIONS | NEVER == set(ERRORS)
    assert set(DOCUMENT["components"]["schemas"]["Problem"]["properties"]["code"]["enum"]) == set(ERRORS)
    for error in ERRORS.values():
        assert error.title and error.hint


def test_every_example_is_valid() -> None:
    seen = 0
    for media in inside(DOCUMENT["paths"]):
        if "example" in media:
            schema = {**media["schema"], "components": DOCUMENT["components"]}
            jsonschema_rs.Draft202012Validator(schema, validate_formats=True).validate(media["example"])
            seen += 1
    assert seen >= 10


@given(st.integers(-(1 << 66), 1 << 66) | st.sampled_from([-(1 << 63), (1 << 63) - 1, 1 << 63, -(1 << 63) - 1]))
def test_what_is_described_of_whole_numbers_is_what_is_read(number: int) -> None:
    table = {parameter.name: parameter for parameter in (many.LIST["limit"], many.DELETE["cut"], asked.POST["incr"])}
    for name, parameter in table.items():
        valid = jsonschema_rs.is_valid(parameter.kind.schema, number)
        try:
            assert parse(f"{name}={number}".encode(), table) == {name: number}
        except BadRequest:
            assert not valid
        else:
            assert valid
    assert INTEGER.schema["format"] == "int64"
