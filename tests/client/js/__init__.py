"""The JavaScript client: in Node, under the checker of types, and in Debian's chromium."""
