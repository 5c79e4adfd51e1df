"""Exit statuses by cause, the same for every command that uses a server. Pure.

| status | meaning |
| --- | --- |
| 0 | done |
| 1 | any other failure |
| 2 | a wrong command line, or a request that is malformed |
| 3 | no such key; a wait that timed out |
| 4 | a condition does not hold, the key exists already, or the value does not fit |
| 5 | not allowed |
| 6 | the server cannot be reached, or refuses for now; nothing was done |
| 7 | the outcome of a write is unknown |
| 130 | Ctrl-C |
| 141 | standard output was closed by its reader |
"""

from __future__ import annotations

from typing import Final

FAILED: Final = 1
MISUSE: Final = 2
ABSENT: Final = 3
CONDITION: Final = 4
NOT_ALLOWED: Final = 5
UNREACHABLE: Final = 6
UNKNOWN: Final = 7
INTERRUPTED: Final = 130
PIPE_CLOSED: Final = 141
