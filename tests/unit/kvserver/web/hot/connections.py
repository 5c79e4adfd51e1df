"""A connection in place of a real one, for requests of the hot path."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from kvserver.http.responses import ResponseHeads
from kvserver.web.hot.fields import HeaderFields, read_fields
from tests.unit.kvserver.web.limits.stub import make_load


class Connection(SimpleNamespace):
    """A connection that keeps what is written."""

    def __init__(self) -> None:
        load, _ = make_load()
        heads = ResponseHeads(False, True), ResponseHeads(True, True)
        origins = SimpleNamespace(all=True)
        context = SimpleNamespace(
            load=load,
            heads=heads,
            pages=SimpleNamespace(origins=origins),
            record_answer=self.record_answer,
            tasks=set(),
        )
        super().__init__(
            context=context,
            peer=SimpleNamespace(quota=load.quotas.of_address("a"), address=("192.0.2.1", 1)),
            transport=SimpleNamespace(write=self.write, writelines=lambda parts: self.write(b"".join(parts))),
            flow=SimpleNamespace(write_paused=False),
            answering=None,
            has_pending_input=False,
            written=b"",
            recorded=[],
            finished=[],
        )

    def write(self, data: bytes) -> None:
        self.written += data

    def record_answer(self, client: Any, method: str, route: str, path: bytes, status: int, *_: Any) -> None:
        self.recorded.append((method, path, status))

    def finish_write(self) -> None:
        self.finished.append("write")

    def finish_exchange(self, keep_alive: bool) -> None:
        self.finished.append(keep_alive)


def fields_of(block: bytes = b"") -> HeaderFields:
    """The fields of a request: Host, and the lines in `block`."""
    fields = read_fields(b"\r\nHost: h\r\n" + block)
    assert fields is not None
    return fields
