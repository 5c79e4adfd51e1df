"""Lines of JSON that no terminal obeys."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from kvserver.commands.parts.output import json_line
from shards.host.logs import escape_controls


def test_text_stays_readable() -> None:
    assert json_line({"key": "é"}) == '{"key":"é"}'


@given(st.dictionaries(st.text(max_size=10), st.text(max_size=20) | st.integers() | st.none(), max_size=4))
def test_a_line_is_the_document_and_obeys_nothing(document: dict[str, object]) -> None:
    line = json_line(document)
    assert escape_controls(line) == line
    assert json.loads(line) == document
