"""The C client: how it is built, its examples, MemoryKV's functions, its policy against servers that fail.

| module | what it has |
| --- | --- |
| `building` | compiles programs with the client |
| `wicked_server` | a server of HTTP that does what its test says |
"""
