"""Reports of activity, to a gateway's end of the socket."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import zmq

from shards.wire.protocol import (
    Activity,
    Delete,
    Put,
    decode_activity,
    decode_presence,
)
from tests.api.kvserver.store.tools import collect, routing
from tests.stores import Store


def test_activity_goes_to_gateways_only_while_somebody_listens(store: Store) -> None:
    async def main() -> None:
        context: zmq.Context[Any] = zmq.Context()
        index, row = store.board.gateways.claim_row()
        subscriber = new_gateway_socket(context, store, index)
        try:
            async with routing(store) as client:
                client.get(b"nobody listens")
                row.listening = 1
                lines: list[Activity] = []
                async with asyncio.timeout(20):
                    while not lines:  # until the subscription has arrived
                        client.get(b"first")
                        await asyncio.sleep(0.01)
                        lines = received(subscriber)
                assert {(line.kind, line.subject) for line in lines} == {("read", b"first")}
                await asyncio.sleep(0)
                done = await client.request(Put(b"here", b""))
                client.get(b"here")
                await collect(client.list_keys(b""))
                await collect(client.list_keys(b"he"))
                await client.request(Delete(b"absent"))
                await client.request(Delete(b"here"))
                client.report_activity("read", b"last")
                async with asyncio.timeout(20):
                    while not lines or lines[-1].subject != b"last":
                        await asyncio.sleep(0.01)
                        lines += received(subscriber)
                told = [(line.kind, line.subject) for line in lines if line.subject != b"first"]
                assert told == [
                    ("read", b"here"),
                    ("list", b""),
                    ("list_prefix", b"he"),
                    ("delete", b"absent"),
                    ("read", b"last"),
                ]
                assert [line.end for line in lines if line.subject == b"here"] == [done.revision]
                assert lines[-1].end == done.revision + 1, "the delete of `here` took a revision, the other did not"
        finally:
            row.listening = 0
            context.destroy(linger=0)

    asyncio.run(main())


def received(subscriber: zmq.Socket[Any]) -> list[Activity]:
    lines: list[Activity] = []
    while subscriber.poll(0):
        lines += decode_activity(subscriber.recv())
    return lines


def test_a_roll_call_is_answered_when_what_comes_next_arrives(store: Store) -> None:
    async def main() -> None:
        context: zmq.Context[Any] = zmq.Context()
        index, row = store.board.gateways.claim_row()
        row.listening = 1
        subscriber = new_gateway_socket(context, store, index)
        try:
            async with routing(store) as client, asyncio.timeout(20):
                frames: list[bytes] = []
                while not frames:
                    row.roll_call += 1
                    await asyncio.sleep(0.01)
                    frames = [subscriber.recv() for _ in range(subscriber.poll(0))]
                assert {decode_presence(frame) for frame in frames} == {os.getpid()}
                client.get(b"key")
                while decode_presence(frame := await asyncio.to_thread(subscriber.recv)) is not None:
                    pass
                assert [line.subject for line in decode_activity(frame)] == [b"key"]
        finally:
            row.listening = 0
            context.destroy(linger=0)

    asyncio.run(main())


def new_gateway_socket(context: zmq.Context[Any], store: Store, index: int) -> zmq.Socket[Any]:
    subscriber = context.socket(zmq.SUB)
    subscriber.setsockopt(zmq.SUBSCRIBE, b"")
    subscriber.setsockopt(zmq.LINGER, 0)
    subscriber.bind(f"ipc://{store.run_dir}/gateway-{index}.activity")
    return subscriber
