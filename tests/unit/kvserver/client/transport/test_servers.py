"""Several servers: what names them, and which is used."""

from __future__ import annotations

import pytest

from kvserver.client import AsyncClient, Client
from kvserver.client.core.calls import Answer, Lost
from kvserver.client.transport.servers import CONNECT_S, find_servers


def test_urls() -> None:
    urls = "http://a:1,http://b:2/x"
    assert find_servers("a:1, http://b:2/x/ ", environ={}).urls == urls
    assert find_servers(["a:1", "b:2/x"], environ={}).urls == urls
    assert find_servers(None, environ={"KVSERVER_URL": "a:1,b:2/x"}).urls == urls
    assert find_servers(None, environ={}).urls == "http://localhost:8080"
    assert repr(Client(["a:1", "b:2"])) == "Client('http://a:1,http://b:2')"
    assert repr(AsyncClient("a:1,b:2")) == "AsyncClient('http://a:1,http://b:2')"


@pytest.mark.parametrize("url", ["a:1,", ",a:1", "a:1,,b:2", [], ["a:1", ""], "", "ftp://a,b"])
def test_what_names_no_servers(url: str | list[str]) -> None:
    with pytest.raises(ValueError, match="URL"):
        find_servers(url, environ={})


def test_a_server_is_named_once() -> None:
    with pytest.raises(ValueError, match="http://a:80 is there twice"):
        find_servers("a,b,http://a/", environ={})


def test_a_server_is_left_once_however_many_threads_saw_it_fail() -> None:
    servers = find_servers("a,b,c", environ={})
    servers.leave(0)
    servers.leave(0)
    assert servers.current == 1
    servers.leave(1)
    servers.leave(2)
    assert servers.current == 0


@pytest.mark.parametrize(
    ("outcome", "leaves"),
    [
        (Lost("", False), True),
        (Lost("", True), True),
        *((Answer(status, {}, b""), True) for status in (500, 502, 503, 504)),
        *((Answer(status, {}, b""), False) for status in (200, 204, 404, 401, 408, 412, 429, 501, 507)),
    ],
)
def test_only_what_another_may_answer_makes_a_client_leave(outcome: Answer | Lost, leaves: bool) -> None:
    servers = find_servers("a,b", environ={})
    servers.note(0, outcome)
    assert servers.current == int(leaves)


def test_a_connection_is_awaited_for_long_only_where_there_is_no_other() -> None:
    assert find_servers("a", environ={}).connect_s(30) == 30
    assert find_servers("a,b", environ={}).connect_s(30) == CONNECT_S
    assert find_servers("a,b", environ={}).connect_s(0.5) == 0.5
