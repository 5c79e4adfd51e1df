"""The client libraries of other languages than Python, in a folder each, and which of their files the server hands out.

- `files`: the table of those files
"""
