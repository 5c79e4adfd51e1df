"""The handover of feed connections: when, to whom, and what if nobody takes them."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from kvserver.web import handover
from kvserver.web.handover import LATE_NS
from tests.api.kvserver.web.checks import (
    EVENTS,
    HANDSHAKE,
    listen_as_gateway,
)
from tests.api.web import Client, Web, request, scenario


async def _hand_over(web: Web, client: Client, data: bytes) -> tuple[list[object], socket.socket, socket.socket]:
    """Take the connection over as a gateway would; its channel is not answered yet."""
    import msgspec

    listener = web.listener  # type: ignore[attr-defined]
    await client.send(data)
    channel, _ = await web.loop.sock_accept(listener)
    message, descriptors, _, _ = socket.recv_fds(channel, 1 << 17, 1)
    return msgspec.msgpack.decode(message), socket.socket(fileno=descriptors[0]), channel


@scenario
async def test_a_handshake_is_handed_over_behind_earlier_answers(web: Web) -> None:
    with listen_as_gateway(web):
        client = await web.connect()
        web.shards.gate.clear()
        head = request("GET", "/wal?x=1", *HANDSHAKE)
        taking = asyncio.create_task(_hand_over(web, client, request("PUT", "/k", body=b"1") + head + b"\x81\x80frame"))
        await web.settle()
        assert not taking.done()
        web.shards.gate.set()
        (version, peer, sent, rest), connection, channel = await taking
        assert version == 1
        assert peer == "{}:{}".format(*client.writer.get_extra_info("sockname"))
        assert sent.lower() == head.lower()  # type: ignore[attr-defined]
        assert rest == b"\x81\x80frame"
        assert (await client.answer()).status == 200
        with connection, channel:
            connection.setblocking(False)
            channel.setblocking(False)
            await client.send(b"more")
            await web.settle()
            channel.send(b"\x01")
            await web.until(lambda: not web.context.connections)
            assert await web.loop.sock_recv(connection, 100) == b"more"
            await web.loop.sock_sendall(connection, b"HTTP/1.1 101 \r\n\r\n")
            assert (await client.answer()).status == 101


@scenario
async def test_a_gateway_that_stands_still_is_asked_last(web: Web) -> None:
    """It would have the fewest clients, and not answer."""
    with listen_as_gateway(web) as stands_still:
        ((_, row),) = web.board.gateways.living_rows()
        row.heartbeat_ns -= LATE_NS
        with listen_as_gateway(web):
            web.board.gateways.living_rows()[1][1].clients = 100
            client = await web.connect()
            _, connection, channel = await _hand_over(web, client, request("GET", "/wal", *HANDSHAKE))
            with connection, channel:
                channel.send(b"\x01")
                await web.until(lambda: not web.context.connections)
            with pytest.raises(BlockingIOError):
                stands_still.accept()
        client = await web.connect()
        web.listener = stands_still  # type: ignore[attr-defined]
        _, connection, channel = await _hand_over(web, client, request("GET", "/wal", *HANDSHAKE))
        with connection, channel:  # there is no other any more
            channel.send(b"\x01")
            await web.until(lambda: not web.context.connections)


@scenario
async def test_a_client_that_comes_while_gateways_are_replaced_waits_for_the_next_one(web: Web) -> None:
    """A 503 would end an EventSource for good."""
    client = await web.connect()
    await client.send(request("GET", "/v1/feed", "Accept: text/event-stream"))
    await asyncio.sleep(0.2)
    with listen_as_gateway(web):
        _, connection, channel = await _hand_over(web, client, b"")
        with connection, channel:
            channel.send(b"\x01")
            await web.until(lambda: not web.context.connections)


@scenario
async def test_who_waits_at_a_gateway_that_dies_goes_to_the_next(web: Web) -> None:
    """Whether it died with the connection in its hands or in its queue."""
    client, queued = await web.connect(), await web.connect()
    with listen_as_gateway(web):
        _, connection, channel = await _hand_over(web, client, EVENTS)
        await queued.send(EVENTS)
        await web.settle()
        connection.close()
        channel.close()
    web.board.gateways.living_rows()[0][1].state = web.board.gateways.living_rows()[0][1].STOPPING
    with listen_as_gateway(web):
        for _ in range(2):
            _, connection, channel = await _hand_over(web, client, b"")
            with connection, channel:
                channel.send(b"\x01")
        await web.until(lambda: not web.context.connections)


def test_a_gateway_that_stands_still_too_long_cannot_accept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two of them would serve one connection."""

    async def test(web: Web) -> None:
        client = await web.connect()
        with listen_as_gateway(web) as stands_still:
            _, connection, channel = await _hand_over(web, client, EVENTS)
            _, again, later = await _hand_over(web, client, b"")  # by then the first offer is over
            with connection, channel, again, later:
                with pytest.raises(BrokenPipeError):
                    channel.send(b"\x01")
                later.send(b"\x01")
                await web.until(lambda: not web.context.connections)
            with pytest.raises(BlockingIOError):
                stands_still.accept()

    monkeypatch.setattr(handover, "ACCEPT_S", 0.1)
    scenario(test)(tmp_path)
