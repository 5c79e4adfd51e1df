"""Which addresses a store without access control may listen on."""

from __future__ import annotations

import pytest

from kvserver.serve import listening
from kvserver.settings import ServerSettings
from shards.host.settings import (
    SettingError,
    load_settings,
)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1"])
def test_loopback_may_be_listened_on(host: str) -> None:
    listening.refuse_open_access(load_settings(ServerSettings, {"host": host}, {}), has_tokens=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.0.1"])
def test_anything_else_only_if_it_is_meant(host: str) -> None:
    with pytest.raises(SettingError, match=r"no access control.*--tokens.*--insecure"):
        listening.refuse_open_access(load_settings(ServerSettings, {"host": host}, {}), has_tokens=False)
    listening.refuse_open_access(load_settings(ServerSettings, {"host": host}, {}), has_tokens=True)
    listening.refuse_open_access(
        load_settings(ServerSettings, {"host": host, "insecure": "true"}, {}), has_tokens=False
    )
