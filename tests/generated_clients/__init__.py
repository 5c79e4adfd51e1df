"""Clients that generators make of the API's description, against the real server. Run by hand:

    python -m tests.generated_clients                 all of them; `python`, `typescript`, `go` choose

Each generator is installed into a temporary directory by its own package manager, makes a client of what
`/v1/openapi.json` says, and a program of a few lines stores and reads a value with that. They need a network, `npm` and
`node`, and `go`. Generators that are named here are the latest of their kind, so this is not part of the test run.
"""
