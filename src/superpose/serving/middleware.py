"""What happens to every request before and after its endpoint: the key, the size of the body, the count."""

import asyncio
import hmac
from collections.abc import Sequence

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from superpose.serving.errors import ServingError
from superpose.serving.metrics import Metrics

# A client that is still sending does not read its refusal, so a body is read, and forgotten, up to so many limits.
LINGER = 8
BODY_SECONDS = 60
OPEN_PATHS = frozenset({"/health"})
COUNTED_PATHS = frozenset({"/health", "/metrics", "/v1/models", "/v1/completions", "/v1/chat/completions"})


class Gate:
    """Refuses requests without a valid key or with too large a body, and counts all of them.

    Args:
        app: what is behind it.
        keys: one of them must come as ``Authorization: Bearer KEY``; none: no key is needed.
        max_body: most bytes of a body.
        metrics: counts.
    """

    def __init__(self, app: ASGIApp, keys: Sequence[str], max_body: int, metrics: Metrics) -> None:
        self._app, self._max_body, self._metrics = app, max_body, metrics
        self._keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection, as ASGI has it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in COUNTED_PATHS else "other"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.requests.labels(path, str(message["status"])).inc()
            await send(message)

        headers = dict(scope["headers"])
        try:
            self._check_key(scope["path"], headers.get(b"authorization", b""))
            async with asyncio.timeout(BODY_SECONDS):
                body = await self._body(headers.get(b"content-length"), receive)
        except ServingError as error:
            response = JSONResponse(error.body, error.status, {**error.headers, "Connection": "close"})
            await response(scope, receive, counted)
            return
        except TimeoutError:
            error = ServingError(408, f"the body did not arrive within {BODY_SECONDS} s", code="body_too_slow")
            await JSONResponse(error.body, error.status, {"Connection": "close"})(scope, receive, counted)
            return
        if body is None:
            return

        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            return waiting.pop() if waiting else await receive()

        await self._app(scope, replay, counted)

    def _check_key(self, path: str, authorization: bytes) -> None:
        if not self._keys or path in OPEN_PATHS:
            return
        scheme, _, given = authorization.partition(b" ")
        # Every key is compared, each in a time that does not depend on where it differs.
        matches = [hmac.compare_digest(key, given.strip()) for key in self._keys]
        if scheme.lower() != b"bearer" or not any(matches):
            message = "the API key is missing or wrong; send it as 'Authorization: Bearer KEY'"
            raise ServingError(401, message, kind="authentication_error", code="invalid_api_key")

    async def _body(self, announced: bytes | None, receive: Receive) -> bytes | None:
        """Return the body, or None where the client left before its end."""
        patience = LINGER * self._max_body
        if announced is not None and announced.isdigit() and int(announced) > patience:
            raise self._too_large()
        body = bytearray()
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            piece = message.get("body", b"")
            size += len(piece)
            if size <= self._max_body:
                body += piece
            if size > patience or (size > self._max_body and not message.get("more_body", False)):
                raise self._too_large()
            if not message.get("more_body", False):
                return bytes(body)

    def _too_large(self) -> ServingError:
        return ServingError(413, f"the body is too large; allowed: {self._max_body} bytes", code="body_too_large")
