"""An echo server on the gateway's socket layer, for the Autobahn test suite and the tests of that layer.

    gunicorn -k kvserver.gateway.worker.SocketWorker -b 127.0.0.1:9010 tests.echo.app:app

Limits come from the environment: `ECHO_MAX_MESSAGE=67108864 ECHO_PING_S=0.5`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import fields
from typing import Any

from kvserver.gateway.transport.handler import run_session
from kvserver.gateway.transport.head import Head, check_upgrade
from kvserver.gateway.transport.limits import ConnectionLimits
from kvserver.gateway.transport.send_budget import SendBudget
from kvserver.gateway.transport.websocket import WebSocket
from kvserver.http.origins import Hosts, Origins, Pages


class Echo:
    """Sends back what it gets; `fail` makes it raise, and `close 4001 reason` close."""

    protocol = ""

    def run(self, websocket: WebSocket) -> None:
        """Echo until the client is gone."""
        while (message := websocket.receive()) is not None:
            if message == "fail":
                raise RuntimeError("as the client asked")
            if isinstance(message, str) and message.startswith("close "):
                _, code, reason = message.split(" ", 2)
                websocket.close(int(code), reason)
            else:
                websocket.send(message)

    def end(self) -> None:
        """Nothing to release."""


class EchoApp:
    """Admits everybody."""

    def __init__(self) -> None:
        given = {field.name: os.environ.get(f"ECHO_{field.name.upper()}") for field in fields(ConnectionLimits)}
        self.limits = ConnectionLimits(
            **{name: type(getattr(ConnectionLimits, name))(text) for name, text in given.items() if text}
        )
        self.budget = SendBudget()
        self.pages = Pages(Origins(os.environ.get("ECHO_ORIGINS", "*")), Hosts())

    def admit(self, head: Head, peer: str) -> Echo:
        """An echo for every WebSocket."""
        check_upgrade(head)
        return Echo()

    def answered(self, head: Head | None, peer: str, status: int, seconds: float, request_id: bytes) -> None:
        """Nobody counts."""

    def leave(self, session: Echo) -> None:
        """Its client is gone."""
        session.end()

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """WSGI."""
        return run_session(environ, start_response)


app = EchoApp()
