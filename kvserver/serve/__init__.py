"""`kvserver serve`: everything is started, watched and stopped from here.

In reading order: `supervisor` (the loop), `store` (the store is found, recovered, put on a board, closed), `children`
(start, reap, back off), `stalls` (who stands still and holds others up), `housekeeping` (segments, trimming, marks),
`listening` and `rundir` (ports and directories), `signals`, `deployment` (what the gunicorn configurations share),
`banner`.
"""
