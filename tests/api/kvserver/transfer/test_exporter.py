"""Exports from a server that answers wrongly end, with a message that says why."""

from __future__ import annotations

import io
import json

import pytest

from kvserver.transfer.exporter import ItemExporter
from kvserver.transfer.remote import TransferError
from tests.api.kvserver.transfer.answers import Answer, answering, for_ever, line, once

ITEMS: dict[str, tuple[Answer, str]] = {
    "the same for ever": (for_ever(line("p/a")), 'the key "p/a" after "p/a": keys must ascend'),
    "a circle": (for_ever(line("p/a"), line("p/b")), 'the key "p/a" after "p/b"'),
    "a broken stream that begins anew": (once(line("p/b")), 'the key "p/b" after "p/b"'),
    "backwards": (once(line("p/\U0001f600"), line("p/\uffff")), "keys must ascend"),
    "another prefix": (once(line("q")), 'which does not begin with "p/"'),
    "a key that is too long": (once(line("p/" + "k" * 600)), "a key of 602 bytes"),
    "no value": (once(b'{"key":"p/a"}\n'), "exactly one of"),
    "two values": (once(line("p/a", value_base64="")), "exactly one of"),
    "another number of items": (once(line("p/a"), b'{"end":{"items":7}}\n'), "has sent 7 items, but 1 have arrived"),
    "a line without an end": (for_ever(b"x" * 65536), "a line has more than"),
    "nothing but ends of lines": (for_ever(b"\n"), "no kvserver"),
}


@pytest.mark.parametrize("what", ITEMS)
def test_an_export_ends(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    answer, says = ITEMS[what]
    monkeypatch.setattr("kvserver.transfer.records.lines_of.__defaults__", (1 << 20,))
    with answering(answer) as server, pytest.raises(TransferError) as ended:
        ItemExporter(server, "p/", 60.0, lambda _: None).run(io.BytesIO())
    assert says in str(ended.value)
    assert server.url in str(ended.value) or "has sent" in says


def test_keys_that_ascend_by_their_bytes_are_taken() -> None:
    keys = ["p/", "p/\x00", "p/A", "p/a", "p/é", "p/\uffff", "p/\U0001f600"]
    answer = once(*map(line, keys), b'{"end":{"items":%d}}\n' % len(keys))
    target = io.BytesIO()
    with answering(answer) as server:
        ItemExporter(server, "p/", 60.0, lambda _: None).run(target)
    assert [json.loads(each)["key"] for each in target.getvalue().splitlines()] == keys
