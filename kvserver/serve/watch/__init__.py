"""Checks and maintenance while a store runs.

- `scarcity`: tolerates temporary shortages of descriptors, processes or memory.
- `stalls`: finds stalled processes that block others.
- `new_workers`: finds web workers and gateways that replaced others.
- `clock`: reports a clock that is wrong or was set.
- `housekeeping`: prepares and trims segments, appends marks, removes expired tickets.
- `snapshots`: decides when a snapshot is due.
- `tokens`: applies changes of the token file.
"""
