"""Where the server is."""

from __future__ import annotations

import pytest

from kvserver.client.transport.address import checked_token, find_address, find_proxy, find_token


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://localhost:8080", "http://localhost:8080"),
        ("localhost:9120", "http://localhost:9120"),
        ("kv.example", "http://kv.example:80"),
        ("HTTPS://kv.example/", "https://kv.example:443"),
        ("https://kv.example/below/this/", "https://kv.example:443/below/this"),
        ("http://[::1]:9", "http://[::1]:9"),
        (" http://a:1 ", "http://a:1"),
    ],
)
def test_urls(url: str, found: str) -> None:
    assert find_address(url, {}).url == found


def test_the_environment_says_it_otherwise() -> None:
    assert find_address(None, {"KVSERVER_URL": "a:1"}).url == "http://a:1"
    assert find_address("b:2", {"KVSERVER_URL": "a:1"}).url == "http://b:2"
    assert find_address(None, {}).url == find_address(None, {"KVSERVER_URL": ""}).url == "http://localhost:8080"


@pytest.mark.parametrize(
    "url",
    [
        "",
        " ",
        "ftp://a",
        "http://",
        "http://u:p@a",
        "http://u@a",
        "http://a?x=y",
        "http://a#b",
        "http://a:b",
        "http://[a",
    ],
)
def test_what_is_no_url_of_a_server(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        find_address(url, {})


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "[::1]"])
def test_no_proxy_is_asked_the_way_to_this_machine(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert find_proxy(find_address(f"http://{host}", {}), "environment") is None
    far = find_address("http://kv.example", {})
    assert find_proxy(far, "environment") == "http://proxy:3128"
    assert find_proxy(far, None) is None
    assert find_proxy(far, "http://other:1") == "http://other:1"
    monkeypatch.setenv("no_proxy", "kv.example")
    assert find_proxy(far, "environment") is None


def test_tokens() -> None:
    assert find_token("t", {"KVSERVER_TOKEN": "e"}) == "t"
    assert find_token(None, {"KVSERVER_TOKEN": " e\n"}) == "e"
    assert find_token(None, {}) is None
    assert find_token("", {"KVSERVER_TOKEN": "e"}) is None
    for wrong in ("two words", "a\nb", "ü"):
        with pytest.raises(ValueError, match="token") as raised:
            checked_token(wrong)
        assert wrong not in str(raised.value)
