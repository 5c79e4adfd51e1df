"""Connections of a gateway: from the bytes of a request to a WebSocket or a stream that nothing can harm.

- `limits`: what one connection may do. Pure.
- `send_budget`: what clients have not taken, bounded. Pure.
- `frames`: WebSocket frames. Pure.
- `head`: the head of a request, its refusals, and the answers' bytes. Pure.
- `scheduling`: fair turns for greenlets.
- `outlet`: the sending side of a connection.
- `websocket`: a connection after the 101.
- `stream`: an answer that lasts, over plain HTTP.
- `monitor`: pings, drops and closes all connections of a process.
- `handler`: hosts connections, from the head to the session.
- `handover`: takes connections over from the web workers.
"""
