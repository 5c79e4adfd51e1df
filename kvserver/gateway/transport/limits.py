"""What one connection may do. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ConnectionLimits:
    """Sizes in bytes and times in seconds that a connection is held to.

    Attributes:
        max_message: bytes of a message from the client; a longer one is closed with 1009.
        handshake_s: time for the whole request head.
        ping_s: how often all clients are pinged.
        silence_s: a client that sends nothing for so long, not even pongs, is dropped.
        stall_s: a client that takes nothing of what is being written for so long is dropped.
        linger_s: how long a closing connection waits for the peer.
        intake_bytes_s: what a client sends beyond so many bytes a second is read later; 0: no limit.
    """

    max_message: int = 64 << 10
    handshake_s: float = 10.0
    ping_s: float = 20.0
    silence_s: float = 60.0
    stall_s: float = 20.0
    linger_s: float = 1.0
    intake_bytes_s: int = 0
