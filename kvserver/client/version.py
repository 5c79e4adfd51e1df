"""The version of the client, which is the server's."""

__version__ = "0.1.0"
