"""Hashes of the history at some places, compared with those of other machines: who has made something else of it. Pure.

Every machine notes the hash of its state (`State.hash`) at every `EVERY`-th message and tells the newest with each ask.
Equal messages give equal states, so a difference means that a machine decided otherwise, or that its disk or memory has
lied. A difference stays, since each hash contains those before it.
"""

from __future__ import annotations

from typing import Final

EVERY: Final = 64
"""Messages from one noted place to the next."""
KEPT: Final = 1024
"""Places that are kept: others may be behind."""
_REPORTS_KEPT = 8  # of places that this machine has not reached yet, of each node


class Histories:
    """The hashes that this machine has noted, and what others said of theirs.

    Attributes:
        checkpoint: the newest place that was noted and its hash; 0 and empty: none.
        differing: the place at which another node was found to have another history, by node.
    """

    def __init__(self) -> None:
        self.checkpoint: tuple[int, bytes] = (0, b"")
        self.differing: dict[str, int] = {}
        self._noted: dict[int, bytes] = {}
        self._reports: dict[str, dict[int, bytes]] = {}

    def note(self, sequence: int, digest: bytes) -> None:
        """Note the hash after message `sequence`, if its place is one to be noted. To be called for each message."""
        if sequence % EVERY:
            return
        self.checkpoint = (sequence, digest)
        self._noted[sequence] = digest
        if len(self._noted) > KEPT:
            del self._noted[next(iter(self._noted))]
        for node, reports in self._reports.items():
            report = reports.pop(sequence, None)
            if report is not None:
                self._compare(node, sequence, report)

    def hear(self, node: str, sequence: int, digest: bytes) -> None:
        """Follow what `node` says of its history."""
        if sequence in self._noted:
            self._compare(node, sequence, digest)
        elif sequence > self.checkpoint[0]:
            reports = self._reports.setdefault(node, {})
            reports[sequence] = digest
            if len(reports) > _REPORTS_KEPT:
                del reports[next(iter(reports))]

    def is_in_minority(self, nodes: int) -> bool:
        """Whether most of so many nodes, this one included, have another history: this machine must stop."""
        return len(self.differing) > nodes // 2

    def _compare(self, node: str, sequence: int, digest: bytes) -> None:
        """Compare hashes of one place. A node that agrees now began anew, from a peer."""
        if self._noted[sequence] == digest:
            self.differing.pop(node, None)
        else:
            self.differing.setdefault(node, sequence)
