"""Client of a server's public API: requests, the meaning of answers, and retries."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from threading import Event
from typing import Final

import msgspec
from msgspec import Struct

from kvserver.client.core.answers import retry_after_of
from kvserver.client.core.calls import Answer, Attempt, Call, Lost
from kvserver.client.core.paths import KV, key_path, with_query
from kvserver.client.errors import ForeignAnswer, NotAnswered
from kvserver.client.transport.pool import Pool, Stream
from kvserver.client.transport.servers import find_servers
from kvserver.transfer.records import PutOperation, lines_of

MESSAGE_PACK: Final = "application/vnd.msgpack"
LINES: Final = "application/x-ndjson"
OCTETS: Final = "application/octet-stream"
TOKEN_VARIABLE: Final = "KVSERVER_TOKEN"
PATIENCE_S: Final = 60.0
"""Default of --patience: seconds during which an unreachable server is retried."""

_ANSWER_S: Final = 60.0
_ANSWER_BYTES: Final = 16 << 20
"""More than any answer to a batch, or any error, has."""
_FIRST_WAIT_S: Final = 0.05
_LONGEST_WAIT_S: Final = 2.0
_AWAY: Final = (429, 502, 503, 504)
"""Statuses after which a request is repeated; puts may be."""
_FIRST_REFUSAL: Final = 300
_OF_A_RECORD: Final = (400, 403, 507)
"""Statuses about the record itself, like the result of an operation in a batch."""


class TransferError(Exception):
    """The transfer cannot continue; the message says why."""


class Away(Exception):
    """The server is unreachable or unavailable: retry after at least `retry_after_s` seconds."""

    def __init__(self, why: str, retry_after_s: float = 0.0) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s


class TooMuch(Exception):
    """The request is larger than the server accepts, or too slow to arrive."""


class Stopped(Exception):
    """Waiting was stopped by the caller."""


class Result(Struct, gc=False):
    """Result of an operation."""

    status: int
    code: str = ""
    detail: str = ""


class _Results(Struct):
    results: list[Result]


class _Problem(Struct):
    title: str = ""
    detail: str = ""
    hint: str = ""


class Patience:
    """Waits between retries, for at most `seconds` without progress. Setting `stop` ends the wait."""

    def __init__(self, seconds: float, stop: Event) -> None:
        self._seconds, self._stop = seconds, stop
        self.note_progress()

    def note_progress(self) -> None:
        """Restart the time limit after progress."""
        self._until: float | None = None
        self._next_s = _FIRST_WAIT_S

    def wait(self, away: Away) -> None:
        """Wait before the next retry. Raises `TransferError` after too long without progress, `Stopped`."""
        now = time.monotonic()
        if self._until is None:
            self._until = now + self._seconds
        left = self._until - now
        if left <= 0:
            raise TransferError(f"{away} (tried for {self._seconds:g} seconds)")
        pause = min(max(away.retry_after_s, self._next_s), left)
        self._next_s = min(self._next_s * 2, _LONGEST_WAIT_S)
        if self._stop.wait(pause):
            raise Stopped


class Remote:
    """The server at `url`. Thread-safe.

    `token`: sent with each request, unless it is None. Raises `ValueError` for an invalid URL. Every method raises
    `TransferError` and `Away`.
    """

    def __init__(self, url: str, token: str | None, connections: int) -> None:
        servers = find_servers(url)
        self.url = url
        self._answered = False
        self._unreached, self._servers = 0, len(servers)
        self._pool = Pool(servers, token, connections)

    def close(self) -> None:
        """Close its connections."""
        self._pool.close()

    def send_batch(self, body: bytes) -> list[Result]:
        """Execute the batch `body`, in MessagePack. Raises `TooMuch`."""
        answer = self._request("POST", "/v1/batch", body, MESSAGE_PACK)
        try:
            return msgspec.msgpack.decode(answer.body, type=_Results).results
        except (msgspec.DecodeError, ValueError):
            raise self._foreign("its answer to a batch is malformed") from None

    def send_put(self, put: PutOperation) -> Result:
        """Execute a single put, which may be larger than a batch. Raises `TooMuch`."""
        target = with_query(key_path(put.key), [("expires", put.expires or None)])
        answer = self._request("PUT", target, put.value, put.content_type or OCTETS, also=_OF_A_RECORD)
        return Result(answer.status, detail="" if answer.status < _FIRST_REFUSAL else _problem_text(answer))

    @contextmanager
    def stream_items(self, prefix: str, after: str | None) -> Iterator[Iterator[bytes]]:
        """Yield the lines of the list of all items whose keys begin with `prefix` and sort after `after`.

        The iterator raises `Away` if the stream breaks off.
        """
        target = with_query(KV, [("values", "true"), ("prefix", prefix), ("after", after)])
        stream = self._open_stream(Call("GET", target, _whole_answer, headers={"Accept": LINES}))
        try:
            yield self._stream_lines(stream)
        finally:
            stream.close()

    def _open_stream(self, call: Call[Answer]) -> Stream:
        try:
            opened = self._pool.open_stream(call, _ANSWER_S, _ANSWER_BYTES)
        except ForeignAnswer as error:
            raise self._foreign(str(error)) from None
        if isinstance(opened, Stream):
            self._answered = True
            return opened
        answer = self._checked_answer(opened)
        raise self._foreign(f"its answer to a list is {answer.status}")

    def _stream_lines(self, stream: Stream) -> Iterator[bytes]:
        try:
            yield from lines_of(iter(lambda: self._read(stream), b""))
        except ValueError as error:
            raise self._foreign(str(error)) from None

    def _read(self, stream: Stream) -> bytes:
        try:
            return stream.read(_ANSWER_S)
        except NotAnswered as error:
            stream.leave()
            raise self._away(error.detail) from None

    def _request(self, method: str, target: str, body: bytes, content_type: str, also: tuple[int, ...] = ()) -> Answer:
        """Send a request; return its answer if it is a success or its status is in `also`."""
        call = Call(method, target, _whole_answer, headers={"Content-Type": content_type}, body=body)
        try:
            answer = self._pool.attempt(Attempt(call), _ANSWER_S, _ANSWER_BYTES)
        except ForeignAnswer as error:
            raise self._foreign(str(error)) from None
        return self._checked_answer(answer, also)

    def _checked_answer(self, answer: Answer | Lost, also: tuple[int, ...] = ()) -> Answer:
        """Return `answer` if it is a success or its status is in `also`, else raise."""
        if isinstance(answer, Lost):
            self._unreached += not answer.sent
            if not self._answered and not answer.sent and self._unreached >= self._servers:
                raise TransferError(str(self._away(answer.why)))
            raise self._away(answer.why)
        self._answered = True
        status = answer.status
        if status < _FIRST_REFUSAL or status in also:
            return answer
        why = f"the server at {self.url} answers {status}: {_problem_text(answer)}"
        if status in (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT):
            raise TooMuch(why)
        if status == HTTPStatus.UNAUTHORIZED:
            raise TransferError(f"{why}. The token comes from {TOKEN_VARIABLE}, or from the file of --token-file")
        if status in _AWAY:
            raise Away(why, retry_after_of(answer) if self._servers == 1 else 0.0)  # another is asked the next time
        raise TransferError(why)

    def _away(self, why: str) -> Away:
        return Away(f"the server at {self.url} cannot be reached: {why}")

    def _foreign(self, why: str) -> TransferError:
        return TransferError(f"what answers at {self.url} is no kvserver: {why}")


def _whole_answer(answer: Answer) -> Answer:
    return answer


def _problem_text(answer: Answer) -> str:
    """Format the problem document of an error in one line."""
    try:
        problem = msgspec.json.decode(answer.body, type=_Problem)
    except (msgspec.DecodeError, ValueError):
        return HTTPStatus(answer.status).phrase if answer.status in set(HTTPStatus) else "an error"
    sentences = dict.fromkeys(text.removesuffix(".") for text in (problem.title, problem.detail, problem.hint) if text)
    return ". ".join(sentences)
