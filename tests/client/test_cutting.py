"""Connections that break at every byte: each client says of each write whether it was surely not done, and is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from tests.client.cutting_proxy import Cut, CuttingProxy
from tests.client.driver import Driver, Failed
from tests.client.sdks import Sdk
from tests.client.test_conformance import coded
from tests.system.harness import Server


@pytest.fixture(scope="module")
def server(make_dir: Callable[[str], Path]) -> Iterator[Server]:
    """A server that needs no disk: thousands of writes."""
    with Server(make_dir("data"), "--in-memory", "--shards", "1", "--workers", "1") as running:
        yield running


@pytest.fixture(scope="module")
def direct(server: Server) -> Iterator[httpx.Client]:
    """A client beside the proxy, which sees what the server did."""
    with server.client() as client:
        yield client


@pytest.fixture
def proxy(server: Server) -> Iterator[CuttingProxy]:
    """A proxy before the server, which cuts nothing yet."""
    with CuttingProxy(server.host, server.port) as proxy:
        yield proxy


@pytest.fixture
def through(sdk: Sdk, proxy: CuttingProxy) -> Iterator[Driver]:
    """The driver behind the proxy, without any repeat."""
    with Driver(sdk.command(), proxy.url) as driver:
        driver.ask("options", patience=0, idempotency=False)
        yield driver


def outcome(driver: Driver, do: str, **args: object) -> str:
    """What became of a request: `done`, or the half and the code of its error."""
    try:
        driver.ask(do, **args)
    except Failed as error:
        return f"{error.half} {error.code}"
    return "done"


def holds(direct: httpx.Client, key: str) -> bytes:
    return direct.get(f"/v1/kv/{key}").content


def sizes_of_a_put(sdk: Sdk, proxy: CuttingProxy, key: str) -> tuple[int, int]:
    """The bytes of a put, and of the answer to it."""
    with Driver(sdk.command(), proxy.url) as driver:
        driver.ask("options", idempotency=False)
        driver.ask("put", key=key, value_base64=coded(b"000000"))
        requested, answered = proxy.requested, proxy.answered
        driver.ask("put", key=key, value_base64=coded(b"000000"))  # that overwrites, as those to come
        return requested, proxy.answered - answered


@pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])
def test_a_put_is_cut_at_every_byte_of_the_request(
    sdk: Sdk, through: Driver, proxy: CuttingProxy, direct: httpx.Client, reset: bool
) -> None:
    key = f"{sdk.name}-request-{reset}"
    requested, _ = sizes_of_a_put(sdk, proxy, key)
    for at in range(0, requested, 1 if not reset else 7):
        proxy.cuts.append(Cut(request=at, reset=reset))
        found = outcome(through, "put", key=key, value_base64=coded(b"%06d" % (at + 1)))
        assert found in ("refused cannot_connect", "unknown outcome_unknown"), f"at byte {at}"
        assert holds(direct, key) == b"000000", f"at byte {at}"


@pytest.mark.parametrize("reset", [False, True], ids=["end", "reset"])
def test_a_put_is_cut_at_every_byte_of_the_answer(
    sdk: Sdk, through: Driver, proxy: CuttingProxy, direct: httpx.Client, reset: bool
) -> None:
    key = f"{sdk.name}-answer-{reset}"
    _, answered = sizes_of_a_put(sdk, proxy, key)
    for at in range(0, answered, 1 if not reset else 7):
        proxy.cuts.append(Cut(answer=at, reset=reset))
        value = b"%06d" % (at + 1)
        found = outcome(through, "put", key=key, value_base64=coded(value))
        assert found == "unknown outcome_unknown", f"at byte {at}"
        assert holds(direct, key) == value, f"at byte {at}"


def test_of_a_large_put_not_all_was_sent(sdk: Sdk, through: Driver, proxy: CuttingProxy, direct: httpx.Client) -> None:
    """What did not even go to the kernel cannot have been done."""
    key = f"{sdk.name}-large"
    proxy.cuts.append(Cut(request=20_000))
    found = outcome(through, "put", key=key, value_base64=coded(b"x" * 5_000_000))
    assert found == ("refused cannot_connect" if sdk.knows_what_was_sent else "unknown outcome_unknown")
    assert direct.get(f"/v1/kv/{key}").status_code == 404


@pytest.mark.parametrize(
    ("do", "args"),
    [("incr", {}), ("put", {"value_base64": ""}), ("delete", {}), ("patch", {"patch": {}}), ("touch", {"ttl": 60})],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_library_repeats_a_write_on_its_own(
    sdk: Sdk, through: Driver, proxy: CuttingProxy, direct: httpx.Client, do: str, args: dict[str, object]
) -> None:
    """A used connection that is lost makes libraries repeat a request silently."""
    key = f"{sdk.name}-silent-{do}"
    direct.put(f"/v1/kv/{key}", content=b"1")
    through.ask("ping")
    proxy.cuts.append(Cut(answer=proxy.answered))  # the next connection ends when it would answer a second request
    proxy.drop_all()
    through.ask("options", patience=5)
    through.ask("ping")
    through.ask("options", patience=0)
    connections = proxy.connections
    before = revision(direct)
    assert outcome(through, do, key=key, **args) == "unknown outcome_unknown"
    assert revision(direct) == before + 1
    assert proxy.connections == connections


def revision(direct: httpx.Client) -> int:
    """The place of the last change in the history."""
    found: int = direct.get("/v1/status").json()["revision"]
    return found


def test_a_read_is_repeated(sdk: Sdk, proxy: CuttingProxy, direct: httpx.Client) -> None:
    direct.put(f"/v1/kv/{sdk.name}-read", content=b"x" * 1000)
    with Driver(sdk.command(), proxy.url) as driver:
        for cut in (Cut(request=0), Cut(request=50), Cut(answer=0), Cut(answer=100), Cut(answer=700, reset=True)):
            proxy.cuts.extend((cut, cut))
            proxy.drop_all()
            entry = driver.ask("get", key=f"{sdk.name}-read")
            assert entry["value_base64"] == coded(b"x" * 1000)
        assert not proxy.cuts


def test_a_read_that_cannot_be_repeated(sdk: Sdk, through: Driver, proxy: CuttingProxy, direct: httpx.Client) -> None:
    direct.put(f"/v1/kv/{sdk.name}-once", content=b"x" * 1000)
    proxy.cuts.append(Cut(answer=700))
    assert outcome(through, "get", key=f"{sdk.name}-once") == "other not_answered"


def test_what_was_surely_not_done_is_repeated(sdk: Sdk, proxy: CuttingProxy, direct: httpx.Client) -> None:
    """Without an Idempotency-Key too."""
    if not sdk.knows_what_was_sent:
        return
    key = f"{sdk.name}-repeated"
    with Driver(sdk.command(), proxy.url) as driver:
        driver.ask("options", idempotency=False)
        proxy.cuts.extend((Cut(request=20_000), Cut(request=40_000)))
        driver.ask("put", key=key, value_base64=coded(b"x" * 5_000_000))
    assert len(holds(direct, key)) == 5_000_000


def test_nobody_listens(sdk: Sdk, through: Driver, proxy: CuttingProxy) -> None:
    with Driver(sdk.command(), "http://127.0.0.1:9") as driver:
        driver.ask("options", patience=0)
        assert outcome(driver, "put", key="k", value_base64="") == "refused cannot_connect"
        assert outcome(driver, "get", key="k") == "refused cannot_connect"
        driver.ask("options", patience=0.3)
        assert outcome(driver, "incr", key="k") == "refused cannot_connect"


@pytest.mark.parametrize("side", ["request", "answer"])
def test_with_an_idempotency_key_every_cut_is_repeated_and_done_once(
    sdk: Sdk, proxy: CuttingProxy, direct: httpx.Client, side: str
) -> None:
    """An increment is the one write of which two look different from one."""
    key = f"{sdk.name}-once-{side}"
    with Driver(sdk.command(), proxy.url) as driver:
        driver.ask("incr", key=key)
        size = proxy.requested if side == "request" else proxy.answered
    with Driver(sdk.command(), proxy.url) as driver:
        for number, at in enumerate(range(0, size + 1, 5), start=2):
            proxy.drop_all()
            proxy.cuts.append(Cut(request=at) if side == "request" else Cut(answer=at))
            assert driver.ask("incr", key=key) == {"value": str(number)}, f"at byte {at}"
    assert holds(direct, key) == str(number).encode()
