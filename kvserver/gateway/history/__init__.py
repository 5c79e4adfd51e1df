"""The log, followed: what clients of a gateway share of it."""
