"""ETags and conditions: lists of tags, what each header takes for a match, and dates that are ignored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvserver.api.conditions import Preconditions, Tag, etag, may_join, parse_tags, read_conditions
from shards.wire.errors import BadRequest, PreconditionFailed
from shards.wire.protocol import Condition

CODINGS = ("", "gzip", "br", "zstd", "deflate")
DATE, SECONDS = "Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777


def of(**headers: str) -> Preconditions:
    """The conditions in headers named like `if_match`."""
    return read_conditions(lambda name: headers.get(name.lower().replace("-", "_")))


def holds(wanted: Preconditions, revision: int, modified: int = 0) -> bool:
    try:
        wanted.check(revision, modified)
    except PreconditionFailed as error:
        assert error.revision == revision
        return False
    return True


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        (None, None),
        ("*", "*"),
        (" * ", "*"),
        ("", []),
        (",", []),
        ('"57"', [Tag(57)]),
        ('"57-gzip" , W/"58",,"59-br"', [Tag(57, "gzip"), Tag(58, "", True), Tag(59, "br")]),
        (' ,"1","2",', [Tag(1), Tag(2)]),
        ('"1"\t,\t"2"', [Tag(1), Tag(2)]),
        ('"057"', []),
        ('"0"', []),
        ('"57-lz4"', []),
        ('"a,b", "57"', [Tag(57)]),
        ('"*"', []),
        ('""', []),
        ('"\xe9"', []),
        (f'"{"9" * 19}"', [Tag(10**19 - 1)]),
        (f'"{"9" * 20}"', []),
    ],
)
def test_lists_of_tags(text: str | None, tags: object) -> None:
    assert parse_tags("If-Match", text) == tags


@pytest.mark.parametrize(
    "text", ["57", '"57', '57"', 'w/"57"', '"57" "58"', '*, "57"', '"57", *', "**", '"5 7"', '"57";x', '"57"\xa0']
)
def test_what_is_no_list_of_tags(text: str) -> None:
    with pytest.raises(BadRequest, match="If-None-Match"):
        parse_tags("If-None-Match", text)


@given(st.lists(st.builds(Tag, st.integers(1, 1 << 53), st.sampled_from(CODINGS), st.booleans())), st.integers(1, 9))
def test_what_was_given_out_is_understood(tags: list[Tag], revision: int) -> None:
    sent = ", ".join(("W/" if tag.weak else "") + etag(tag.revision, tag.coding) for tag in tags)
    assert parse_tags("If-Match", sent) == tags
    strong = [tag.revision for tag in tags if not tag.weak]
    assert holds(of(if_match=sent), revision) == (revision in strong)
    assert of(if_match=sent).for_shard() == Condition(if_match=strong)
    assert of(if_none_match=sent).for_shard() == Condition(if_none_match=[tag.revision for tag in tags])


def test_none() -> None:
    assert of() == Preconditions()
    assert of().for_shard() is None
    assert holds(of(), 5)
    assert of().fresh_codings(5, 0) is None


def test_a_date_holds_until_the_value_is_modified() -> None:
    wanted = of(if_unmodified_since=DATE)
    assert [holds(wanted, 5, SECONDS + later) for later in (-1, 0, 1)] == [True, True, False]
    assert holds(of(if_match='"5"', if_unmodified_since=DATE), 5, SECONDS + 1), "a date that comes with tags is ignored"


def test_any() -> None:
    assert holds(of(if_match="*"), 5)
    assert of(if_match="*", if_none_match="*").for_shard() == Condition(if_match="*", if_none_match="*")
    assert of(if_none_match="*").fresh_codings(5, 0) == ()


@pytest.mark.parametrize(
    ("sent", "known"),
    [('"5"', [""]), ('"4", "5-br", "5"', ["br", ""]), ('W/"5-zstd"', ["zstd"]), ('"6"', None), ("", None)],
)
def test_what_a_client_has(sent: str, known: list[str] | None) -> None:
    assert of(if_none_match=sent).fresh_codings(5, 0) == known
    assert of(if_none_match=sent, if_modified_since=DATE).fresh_codings(5, 0) == known, (
        "the date does not count beside a tag"
    )


def test_dates() -> None:
    assert of(if_modified_since=DATE).fresh_codings(5, SECONDS) == ()
    assert of(if_modified_since=DATE).fresh_codings(5, SECONDS + 1) is None
    assert of(if_unmodified_since=f" {DATE} ").unmodified_since == SECONDS
    assert of(if_unmodified_since=DATE, if_match="*").unmodified_since is None
    for nonsense in ("yesterday", "", "0", f"{DATE}, {DATE}"):
        assert of(if_modified_since=nonsense, if_unmodified_since=nonsense) == Preconditions()


@pytest.mark.parametrize(
    ("if_range", "joins"),
    [
        (None, True),
        ('"5"', True),
        (' "5" ', True),
        ('"5-gzip"', False),
        ('W/"5"', False),
        ('"6"', False),
        (DATE, False),
        ("*", False),
        ("5", False),
        ('"5", "6"', False),
    ],
)
def test_ranges_are_joined_to_the_very_same_bytes(if_range: str | None, joins: bool) -> None:
    assert may_join(if_range, 5) is joins


@given(st.text(st.characters(max_codepoint=255)) | st.text('W/"*, 57-gzipbr\t', max_size=20))
def test_no_header_is_a_fault(text: str) -> None:
    try:
        found = of(if_match=text, if_none_match=text, if_modified_since=text, if_unmodified_since=text)
    except BadRequest as error:
        assert error.detail
    else:
        assert found.for_shard() is not None
        holds(found, 5), found.fresh_codings(5, 5), may_join(text, 5)
