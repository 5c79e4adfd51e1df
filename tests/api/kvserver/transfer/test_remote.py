"""Import and export against something that answers as no kvserver does: they end, with a line that says why."""

from __future__ import annotations

import contextlib
import io
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import msgspec
import pytest

from kvserver.transfer import remote
from kvserver.transfer.exporter import ItemExporter
from kvserver.transfer.importer import ItemImporter
from kvserver.transfer.records import LineError
from kvserver.transfer.remote import Remote, TransferError

Answer = Callable[[], Iterator[bytes]]


@contextlib.contextmanager
def answering(body: Answer, status: int = 200) -> Iterator[Remote]:
    """A client of a server that answers everything with `status` and what `body` makes."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            self.send_response(status)
            self.end_headers()
            with contextlib.suppress(OSError):  # the client has heard enough
                for piece in body():
                    self.wfile.write(piece)

        do_POST = do_GET

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        client = Remote(f"http://127.0.0.1:{server.server_address[1]}", None, 1)
        try:
            yield client
        finally:
            client.close()
            server.shutdown()
            thread.join()


def line(key: str, **more: object) -> bytes:
    return json.dumps({"key": key, "content_type": None, "expires": None, "value": "v"} | more).encode() + b"\n"


def for_ever(*lines: bytes) -> Answer:
    def make() -> Iterator[bytes]:
        while True:
            yield from lines

    return make


def once(*lines: bytes) -> Answer:
    return lambda: iter(lines)


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


def results(*statuses: int) -> Answer:
    return once(msgspec.msgpack.encode({"results": [{"status": status} for status in statuses]}))


RESULTS: dict[str, tuple[Answer, str]] = {
    "too few": (results(), "0 results for 1 records"),
    "too many": (results(201, 201), "2 results for 1 records"),
    "moved": (results(302), "answers 302"),
    "no status": (results(0), "answers 0"),
    "below all": (results(-5), "answers -5"),
    "no results": (once(b"hello"), "its answer to a batch is none"),
    "an answer without an end": (for_ever(b"x" * 65536), "its answer has more than"),
}


@pytest.mark.parametrize("what", RESULTS)
def test_an_import_ends_and_counts_nothing(what: str) -> None:
    answer, says = RESULTS[what]
    with answering(answer) as server:
        importer = ItemImporter(server, 60.0, lambda _: None)
        with pytest.raises((TransferError, LineError), match=says):
            importer.run(io.BytesIO(line("a")))
        assert importer.imported == 0


def test_an_error_without_an_end_is_not_read_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_ANSWER_BYTES", 1 << 20)
    with answering(for_ever(b"x" * 65536), 500) as server, pytest.raises(TransferError, match="more than 1 MiB"):
        ItemExporter(server, "", 60.0, lambda _: None).run(io.BytesIO())


def test_keys_that_ascend_by_their_bytes_are_taken() -> None:
    keys = ["p/", "p/\x00", "p/A", "p/a", "p/é", "p/\uffff", "p/\U0001f600"]
    answer = once(*map(line, keys), b'{"end":{"items":%d}}\n' % len(keys))
    target = io.BytesIO()
    with answering(answer) as server:
        ItemExporter(server, "p/", 60.0, lambda _: None).run(target)
    assert [json.loads(each)["key"] for each in target.getvalue().splitlines()] == keys
