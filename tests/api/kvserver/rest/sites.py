"""Measures of the store of tests of many keys."""

from __future__ import annotations

SHARDS = 3


MAX_VALUE = 2_000_000
