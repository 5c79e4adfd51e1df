"""Where processes listen, by the tables of the kernel."""

from __future__ import annotations

from kvserver.commands.local.running import parse_listening

TABLE = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100 0 0 10 0
   1: 00000000:2328 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12 1 0 100 0 0 10 0
   2: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 13 1 0 100 0 0 10 0
   3: 0100007F:1F92 0100007F:1F90 01 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100 0 0 10 0
"""
TABLE_6 = """\
  sl  local_address                         remote_address                        st ...
   0: 00000000000000000000000001000000:1F90 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 11 1
   1: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 12 1
"""


def test_listening_sockets_of_a_process_are_its_urls() -> None:
    assert list(parse_listening(TABLE, {"11", "12"})) == ["http://127.0.0.1:8080", "http://localhost:9000"]
    assert list(parse_listening(TABLE_6, {"11", "12"})) == ["http://[::1]:8080", "http://localhost:8080"]
    assert list(parse_listening(TABLE, set())) == []
