"""Connections of a gateway: heads, WebSocket frames, streams over plain HTTP, and what clients have not taken."""
