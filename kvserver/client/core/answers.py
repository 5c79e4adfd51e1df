"""Parts of answers: revisions, times, problem documents. Pure."""

from __future__ import annotations

import json
import re
from datetime import datetime, timezone
from typing import Any, Final

from kvserver.client.core.calls import Answer
from kvserver.client.errors import ForeignAnswer, KVError, error_of

_MONTHS: Final = {
    name: number
    for number, name in enumerate(
        ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"), start=1
    )
}
_HTTP_DATE: Final = re.compile(r"[A-Z][a-z]{2}, (\d\d) ([A-Z][a-z]{2}) (\d{4}) (\d\d):(\d\d):(\d\d) GMT", re.ASCII)
_RFC3339: Final = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?Z", re.ASCII)
_REVISION: Final = re.compile(r"[0-9]{1,19}", re.ASCII)


def revision_of(answer: Answer, header: str = "kv-revision") -> int:
    """Return the revision in a header. Raises `ForeignAnswer`."""
    text = answer.headers.get(header, "")
    if not _REVISION.fullmatch(text):
        raise ForeignAnswer(f"an answer {answer.status} without {header}")
    return int(text)


def moment_of(text: str | None) -> datetime | None:
    """Return the point in time of a text in the server's form, or None for None. Raises `ForeignAnswer`."""
    if text is None:
        return None
    found = _RFC3339.fullmatch(text)
    if not found:
        raise ForeignAnswer(f"{text!r} is no point in time")
    year, month, day, hour, minute, second, fraction = found.groups()
    micros = int((fraction or "0").ljust(6, "0"))
    try:
        return datetime(int(year), int(month), int(day), int(hour), int(minute), int(second), micros, timezone.utc)
    except ValueError:
        raise ForeignAnswer(f"{text!r} is no point in time") from None


def http_date_of(text: str | None) -> datetime | None:
    """Return the point in time of an HTTP date; None for what is none."""
    found = _HTTP_DATE.fullmatch(text or "")
    if not found or found[2] not in _MONTHS:
        return None
    day, _, year, hour, minute, second = found.groups()
    try:
        return datetime(int(year), _MONTHS[found[2]], int(day), int(hour), int(minute), int(second), 0, timezone.utc)
    except ValueError:
        return None


def document_of(answer: Answer) -> dict[str, Any]:
    """Return the JSON object that is the answer's body. Raises `ForeignAnswer`."""
    if not answer.headers.get("content-type", "").startswith("application/json"):
        raise ForeignAnswer(f"an answer {answer.status} that is not JSON")
    return _object_of(answer.body)


def _object_of(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise ForeignAnswer("an answer that is not JSON") from None
    if not isinstance(document, dict):
        raise ForeignAnswer("an answer that is no JSON object")
    return document


def member(document: Any, name: str, kind: type[Any]) -> Any:
    """Return a member of `document` that must be there and of a type. Raises `ForeignAnswer`."""
    value = document.get(name) if isinstance(document, dict) else None
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ForeignAnswer(f"an answer without {name}")
    return value


def is_problem(answer: Answer) -> bool:
    """Tell whether an answer is an error of a kvserver, not of a proxy before it."""
    return answer.headers.get("content-type", "").startswith("application/problem+json")


def problem_of(answer: Answer) -> KVError:
    """Return the error that an answer describes; one without a body (of HEAD), by its status."""
    document: dict[str, Any] = {}
    if is_problem(answer) and answer.body:
        try:
            document = _object_of(answer.body)
        except ForeignAnswer:
            document = {}
    members = {n: v for n, v in document.items() if n not in ("type", "title", "status", "code", "detail", "hint")}
    revision = answer.headers.get("kv-revision", "")
    if _REVISION.fullmatch(revision):
        members.setdefault("revision", int(revision))
    code, detail, hint = (text if isinstance(text := document.get(n), str) else "" for n in ("code", "detail", "hint"))
    error = error_of(answer.status, code, detail, hint, members)
    error.request_id = answer.headers.get("x-request-id")
    error.retry_after = retry_after_of(answer)
    return error


def retry_after_of(answer: Answer) -> float:
    """Return after how many seconds the server asks to repeat; 0 if it does not say."""
    text = answer.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0.0
