"""Client of a server's public API: requests, the meaning of answers, and retries."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from threading import Event
from typing import Final
from urllib.parse import quote, urlencode

import httpx
import msgspec
from msgspec import Struct

from kvserver.transfer.records import PutOperation, lines_of

MESSAGE_PACK: Final = "application/vnd.msgpack"
LINES: Final = "application/x-ndjson"
OCTETS: Final = "application/octet-stream"
TOKEN_VARIABLE: Final = "KVSERVER_TOKEN"
PATIENCE_S: Final = 60.0
"""Default of --patience: seconds during which an unreachable server is retried."""

_CONNECT_S: Final = 10.0
_ANSWER_S: Final = 60.0
_ANSWER_BYTES: Final = 16 << 20
"""More than any answer to a batch, or any error, has."""
_FIRST_WAIT_S: Final = 0.05
_LONGEST_WAIT_S: Final = 2.0
_AWAY: Final = (429, 502, 503, 504)
"""Statuses after which a request is repeated; puts may be."""
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


class Result(Struct):
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
        self.url = url
        self._answered = False
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"} if token else {},
            timeout=httpx.Timeout(_ANSWER_S, connect=_CONNECT_S),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            mounts={"http://": None, "https://": None}
            if _is_here(_checked_host(url))
            else None,  # a proxy cannot reach this machine
        )

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def send_batch(self, body: bytes) -> list[Result]:
        """Execute the batch `body`, in MessagePack. Raises `TooMuch`."""
        answer = self._request("POST", "v1/batch", body, MESSAGE_PACK)
        try:
            return msgspec.msgpack.decode(answer.content, type=_Results).results
        except (msgspec.DecodeError, ValueError):
            raise TransferError(f"what answers at {self.url} is no kvserver: its answer to a batch is none") from None

    def send_put(self, put: PutOperation) -> Result:
        """Execute a single put, which may be larger than a batch. Raises `TooMuch`."""
        target = f"v1/kv/{quote(put.key, safe='')}"
        if put.expires:
            target += "?" + urlencode({"expires": put.expires})
        answer = self._request("PUT", target, put.value, put.content_type or OCTETS, also=_OF_A_RECORD)
        return Result(answer.status_code, detail="" if answer.is_success else _problem_text(answer))

    @contextmanager
    def stream_items(self, prefix: str, after: str | None) -> Iterator[Iterator[bytes]]:
        """Yield the lines of the list of all items whose keys begin with `prefix` and sort after `after`.

        The iterator raises `Away` if the stream breaks off.
        """
        query = {"values": "true", "prefix": prefix} | ({} if after is None else {"after": after})
        target = "v1/kv?" + urlencode(query, quote_via=quote, safe="")
        headers = {"Accept": LINES, "Accept-Encoding": "identity"}
        with self._translate_errors(), self._http.stream("GET", target, headers=headers) as answer:
            if answer.status_code != HTTPStatus.OK:
                self._checked_answer(self._read_whole(answer))
            self._answered = True
            yield self._stream_lines(answer)

    def _stream_lines(self, answer: httpx.Response) -> Iterator[bytes]:
        try:
            yield from lines_of(answer.iter_raw())
        except ValueError as error:
            raise TransferError(f"what answers at {self.url} is no kvserver: {error}") from None

    def _read_whole(self, answer: httpx.Response) -> httpx.Response:
        """Read `answer` to its end, up to a limit. Raises `TransferError`."""
        found = bytearray()
        try:
            for piece in answer.iter_bytes():
                found += piece
                if len(found) > _ANSWER_BYTES:
                    raise TransferError(
                        f"what answers at {self.url} is no kvserver: its answer has more than {_ANSWER_BYTES >> 20} MiB"
                    )
        except httpx.DecodingError as error:
            raise TransferError(f"what answers at {self.url} is no kvserver: {error}") from None
        headers = {"Retry-After": answer.headers.get("Retry-After", "")}
        return httpx.Response(answer.status_code, headers=headers, content=bytes(found))

    def _request(
        self, method: str, target: str, body: bytes, content_type: str, also: tuple[int, ...] = ()
    ) -> httpx.Response:
        """Send a request; return its answer if it is a success or its status is in `also`."""
        headers = {"Content-Type": content_type}
        with self._translate_errors(), self._http.stream(method, target, content=body, headers=headers) as stream:
            answer = self._read_whole(stream)
        return answer if answer.status_code in also else self._checked_answer(answer)

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Turn connection errors into `Away`; a refused first connection into `TransferError`."""
        try:
            yield
        except httpx.TransportError as error:
            why = f"the server at {self.url} cannot be reached: {error or type(error).__name__}"
            if not self._answered and isinstance(error, httpx.ConnectError):
                raise TransferError(why) from None
            raise Away(why) from None

    def _checked_answer(self, answer: httpx.Response) -> httpx.Response:
        """Return `answer` if it is a success, else raise."""
        self._answered = True
        status = answer.status_code
        if answer.is_success:
            return answer
        why = f"the server at {self.url} answers {status}: {_problem_text(answer)}"
        if status in (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.REQUEST_TIMEOUT):
            raise TooMuch(why)
        if status == HTTPStatus.UNAUTHORIZED:
            raise TransferError(f"{why}. The token comes from {TOKEN_VARIABLE}, or from the file of --token-file")
        if status in _AWAY:
            raise Away(why, _retry_after(answer))
        raise TransferError(why)


def _problem_text(answer: httpx.Response) -> str:
    """Format the problem document of an error in one line."""
    try:
        problem = msgspec.json.decode(answer.content, type=_Problem)
    except (msgspec.DecodeError, ValueError):
        return answer.reason_phrase
    sentences = dict.fromkeys(text.removesuffix(".") for text in (problem.title, problem.detail, problem.hint) if text)
    return ". ".join(sentences)


def _retry_after(answer: httpx.Response) -> float:
    text = answer.headers.get("Retry-After", "")
    return float(text) if text.isascii() and text.isdigit() else 0.0


def _checked_host(url: str) -> str:
    """Return the host of a server's URL. Raises `ValueError`."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"{url!r} is no URL: {error}") from None
    if parsed.scheme not in ("http", "https") or not parsed.host or parsed.userinfo:
        raise ValueError("the URL of a server is like http://localhost:8080, without user and password")
    return parsed.host


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
