"""Bodies of answers, coded if their client wants that."""

from __future__ import annotations

import asyncio

from falcon.asgi import Request, Response

from kvserver.web import coding


async def answer(req: Request, resp: Response, body: bytes, content_type: str = "") -> str:
    """Make `body` the answer's, coded if the client accepts that, and if a body of `content_type` is worth it.

    Returns the coding, empty for none.
    """
    if coding.SMALLEST <= len(body) <= coding.LARGEST and (accepted := req.get_header("Accept-Encoding")):
        name = coding.choose(accepted)
        if name is not None and coding.is_codable(content_type):
            coder = coding.CODERS[name]
            if len(body) < coding.LARGE:
                coded = coder(body)
            else:
                coded = await asyncio.get_running_loop().run_in_executor(None, coder, body)
            if len(coded) < len(body):
                resp.set_header("Content-Encoding", name)
                resp.data = coded
                return name
    resp.data = body
    return ""
