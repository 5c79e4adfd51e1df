"""The connection to the servers of NATS."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import ssl
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Final

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from shards.order import stream
from shards.order.order import Message

WATCH_S: Final = 1.0
"""Between two looks at what the servers say, and two attempts to reach them."""
_REQUEST_S: Final = 1.0
_REPORT_S: Final = 5.0

log = logging.getLogger("order")


class Engine:
    """The connection to the servers. `options` are those of the command line."""

    def __init__(self, options: argparse.Namespace) -> None:
        self._options = options
        self.client = Client()
        self._last_error = ""

    async def connect(self) -> None:
        """Connect to the first server that answers; the client goes to another one by itself later."""
        reporting = asyncio.create_task(self._report_waiting())
        try:
            await self._connect()
        finally:
            reporting.cancel()

    async def _connect(self) -> None:
        options = self._options
        secrets = Path(options.user_file).read_text().strip().partition(":") if options.user_file else None
        await self.client.connect(
            options.servers.split(","),
            name=f"kvserver {options.node}",
            dont_randomize=True,  # the first one is this machine's own
            connect_timeout=1,
            reconnect_time_wait=0.05,  # type: ignore[arg-type]  # any number of seconds will do
            max_reconnect_attempts=-1,
            ping_interval=1,
            max_outstanding_pings=2,
            no_echo=True,  # what comes under this machine's name is another's
            error_cb=self._note_error,
            tls=_tls_of(options),
            user=secrets[0] if secrets else None,
            password=secrets[2] if secrets else None,
        )

    async def keep_connecting(self) -> None:
        """Connect, however often that has to be tried."""
        while True:
            try:
                await self.connect()
                return
            except (nats.errors.Error, OSError, TimeoutError) as error:
                log.warning("the engine cannot be reached yet: %s", error or type(error).__name__)
                await asyncio.sleep(WATCH_S)

    async def _note_error(self, error: Exception) -> None:
        self._last_error = str(error) or type(error).__name__
        log.debug("the engine's client: %s", self._last_error)

    async def _report_waiting(self) -> None:
        """Say now and then why there is no connection: the client itself tries for ever and says nothing."""
        said = ""
        while True:
            await asyncio.sleep(_REPORT_S)
            problem = self._last_error or (
                "no answer; an engine answers when it has reached another one: are the servers of the others started?"
            )
            if problem != said:
                log.warning("no engine of %s can be used yet: %s", self._options.servers, problem)
            said = problem

    async def close(self) -> None:
        """Disconnect. What ends the client's own tasks may end its wait for the socket, too."""
        with contextlib.suppress(asyncio.CancelledError, OSError):
            await self.client.close()

    async def publish(self, subject: str, payload: bytes, reply: str = "") -> None:
        """Publish, if that can be done."""
        with contextlib.suppress(nats.errors.Error, OSError):
            await self.client.publish(subject, payload, reply=reply)

    async def request(self, subject: str, payload: bytes = b"", timeout_s: float = _REQUEST_S) -> bytes:
        """Ask the servers, and return the answer. Raises `EngineError`."""
        try:
            return (await self.client.request(subject, payload, timeout=timeout_s)).data
        except (nats.errors.Error, OSError, TimeoutError) as error:
            raise stream.EngineError(f"no answer to {subject}: {error or type(error).__name__}") from None

    async def look(self) -> stream.StreamFacts:
        """Ask what the stream is. Raises `EngineError`."""
        return stream.read_info(await self.request(stream.INFO))

    async def check_flushing(self, servers: frozenset[str]) -> None:
        """Check that `servers` flush each message. Raises `NotDurable`."""
        monitors = [url for url in self._options.monitors.split(",") if url]
        if self._options.may_lose:
            return
        if monitors:
            read = await asyncio.gather(*(asyncio.to_thread(read_flushing, url) for url in monitors))
            servers = frozenset()
        else:
            read = list(map(stream.read_flushing, await self._ask_all("$SYS.REQ.SERVER.PING.JSZ")))
        stream.check_flushing({name: always for told in read for name, always in told.items()}, servers)

    async def fetch(self, request: dict[str, int], take: Callable[[Message], None]) -> int:
        """Fetch messages by their sequence from any replica, hand them to `take`, and return how many there were."""
        inbox = self.client.new_inbox()
        subscription = await self.client.subscribe(inbox)
        count = 0
        try:
            await self.client.publish(stream.DIRECT, msgspec.json.encode(request), reply=inbox)
            while True:
                answer = await subscription.next_msg(timeout=_REQUEST_S)
                message = stream.read_message(answer.headers, answer.data)
                if message is None:
                    return count
                count += 1
                take(message)
                if "batch" not in request:
                    return count
        except (nats.errors.Error, OSError, TimeoutError):
            return count
        finally:
            with contextlib.suppress(nats.errors.Error, OSError):
                await subscription.unsubscribe()

    @contextlib.asynccontextmanager
    async def subscribed(self, hear: Mapping[str, Callable[[Msg], Awaitable[None]]]) -> AsyncIterator[None]:
        """Let what comes under each subject be heard, for as long as the context lasts."""
        subscriptions = [await self.client.subscribe(subject, cb=heard) for subject, heard in hear.items()]
        try:
            yield
        finally:
            for subscription in subscriptions:
                with contextlib.suppress(nats.errors.Error, OSError):
                    await subscription.unsubscribe()

    async def _ask_all(self, subject: str) -> list[bytes]:
        """Return what all servers answer within a while."""
        inbox = self.client.new_inbox()
        subscription = await self.client.subscribe(inbox)
        replies = []
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            await self.client.publish(subject, reply=inbox)
            while True:
                replies.append((await subscription.next_msg(timeout=_REQUEST_S)).data)
        await subscription.unsubscribe()
        return replies


def read_flushing(url: str) -> dict[str, object]:
    """Return what a server says of its JetStream over HTTP, by its URL; empty: nothing."""
    with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/jsz", timeout=_REQUEST_S) as answer:
        return stream.read_flushing_of(url, bytes(answer.read()))
    return {}


def _tls_of(options: argparse.Namespace) -> ssl.SSLContext | None:
    if not options.tls_ca:
        return None
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cafile=options.tls_ca)
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # of Python 3.13; engines take certificates without key identifiers
    if options.tls_cert:
        context.load_cert_chain(options.tls_cert, options.tls_key)
    return context
