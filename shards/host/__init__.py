"""The machine: shared memory, processes, their logs and settings."""
