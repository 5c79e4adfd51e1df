"""The commands that look at a server, measure it, or help to use it."""
