"""`kvserver serve`: everything is started, watched and stopped from here.

In reading order: `supervisor` (the loop), `store` (the store is found, recovered, put on a board, closed), `children`
(start, reap, back off), `scarcity` (what has to wait for descriptors or memory), `stalls` (who stands still and holds
others up), `housekeeping` (segments, trimming, marks, tickets), `tokenwatch` (tokens follow their file), `listening`
and `rundir` (ports and directories), `signals`, `deployment` (what the gunicorn configurations share), `banner`.
`exporter` is a process of its own, which serves /metrics.
"""
