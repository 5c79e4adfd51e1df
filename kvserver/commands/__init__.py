"""The commands beside `serve`, one module each; `place` is what they share: whose data directory, and who serves it.

A command that cannot do what it was asked for says why on standard error and ends with status 1; status 2 is for a
command line that makes no sense. Bars are shown on a terminal only.
"""
