"""The HTTP application: OpenAI-compatible endpoints in front of an engine."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from superpose import __version__
from superpose.serving.call import Call, refuse_beyond
from superpose.serving.decoding import check_prompt
from superpose.serving.engine import Engine
from superpose.serving.errors import ServingError
from superpose.serving.jobs import Delta, Sampling
from superpose.serving.middleware import Gate
from superpose.serving.schemas import ChatRequest, CompletionRequest, parse
from superpose.serving.settings import ServerSettings
from superpose.serving.shapes import Shape

logger = logging.getLogger(__name__)

# The OpenAI API's own default for completions; a chat goes on to the end of what is allowed.
COMPLETION_TOKENS = 16
CLIENT_LEFT = 499


def create_app(engine: Engine, settings: ServerSettings) -> FastAPI:
    """Return the application; it starts the engine when it starts, and stops it when it stops.

    It is a plain ASGI application without globals: run it with :func:`superpose.serving.serve`, with uvicorn, or
    inside whatever else speaks ASGI.

    Args:
        engine: answers the requests.
        settings: names and limits.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        engine.start()
        try:
            yield
        finally:
            await asyncio.to_thread(engine.stop, settings.drain)

    app = FastAPI(title="superpose", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Gate, keys=settings.api_keys, max_body=settings.max_body, metrics=engine.metrics)
    app.add_exception_handler(ServingError, _refused)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_exception_handler(Exception, _broken)
    endpoints = _Endpoints(engine, settings)
    app.get("/health")(endpoints.health)
    app.get("/metrics")(endpoints.metrics)
    app.get("/v1/models")(endpoints.models)
    app.get("/v1/models/{name:path}")(endpoints.model)
    app.post("/v1/completions")(endpoints.completions)
    app.post("/v1/chat/completions")(endpoints.chat)
    return app


class _Endpoints:
    def __init__(self, engine: Engine, settings: ServerSettings) -> None:
        self._engine, self._settings = engine, settings
        self._started = int(time.time())

    async def health(self) -> Response:
        """Say whether requests are taken."""
        state = self._engine.state()
        status = "draining" if state.draining else "ok" if state.alive else "stopped"
        healthy = state.alive and not state.draining
        content = {"status": status, "waiting": state.waiting, "running": state.running}
        return JSONResponse(content, 200 if healthy else 503)

    async def metrics(self) -> Response:
        """Answer Prometheus."""
        return PlainTextResponse(self._engine.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def models(self) -> Response:
        """List the names of the one model."""
        return JSONResponse({"object": "list", "data": [self._card(name) for name in self._settings.names]})

    async def model(self, name: str) -> Response:
        """Describe the model, if it has this name."""
        self._check_name(name)
        return JSONResponse(self._card(name))

    async def completions(self, request: Request) -> Response:
        """Continue prompts."""
        asked = parse(CompletionRequest, await request.body())
        self._check_name(asked.model)
        prompts = [await self._tokens(each) for each in asked.prompts]
        max_tokens = COMPLETION_TOKENS if asked.max_tokens is None else asked.max_tokens
        return await self._answer(request, asked, prompts, max_tokens, Shape("completion", asked.model), "prompt")

    async def chat(self, request: Request) -> Response:
        """Go on with a chat."""
        asked = parse(ChatRequest, await request.body())
        self._check_name(asked.model)
        messages = [message.plain for message in asked.messages]
        prompt = await asyncio.to_thread(self._engine.codec.encode_chat, messages)
        max_tokens = asked.max_completion_tokens or asked.max_tokens
        if max_tokens is None:
            room = self._settings.max_tokens if self._engine.context is None else self._engine.context - len(prompt)
            max_tokens = max(1, min(self._settings.max_tokens, room))
        return await self._answer(request, asked, [prompt], max_tokens, Shape("chat", asked.model), "messages")

    async def _answer(
        self,
        request: Request,
        asked: CompletionRequest | ChatRequest,
        prompts: Sequence[Sequence[int]],
        max_tokens: int,
        shape: Shape,
        param: str,
    ) -> Response:
        if max_tokens > self._settings.max_tokens:
            message = f"max_tokens is {max_tokens}; allowed: 1 to {self._settings.max_tokens}"
            raise ServingError(400, message, param="max_tokens", code="invalid_value")
        for prompt in prompts:
            if not prompt:
                raise ServingError(
                    400, f"{param} is empty; allowed: one token or more", param=param, code="empty_prompt"
                )
            refuse_beyond(self._engine, prompt, max_tokens, param)
        sampling = Sampling(
            max_tokens,
            1.0 if asked.temperature is None else asked.temperature,
            1.0 if asked.top_p is None else asked.top_p,
            asked.seed,
            asked.stops,
            asked.ignore_eos,
        )
        stream = bool(asked.stream)
        call = Call(self._engine, prompts, sampling, stream=stream, timeout=self._settings.timeout)
        call.submit()
        if not stream:
            return await self._whole(request, call, shape)
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        return _Stream(_server_sent(call, shape, usage=usage), lambda: self._close(call))

    async def _whole(self, request: Request, call: Call, shape: Shape) -> Response:
        answer = asyncio.ensure_future(call.whole())
        left = asyncio.ensure_future(_client_left(request))
        try:
            await asyncio.wait({answer, left}, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                return Response(status_code=CLIENT_LEFT)
            return JSONResponse(shape.whole(answer.result(), call.prompt_tokens))
        finally:
            for task in (answer, left):
                task.cancel()
            self._close(call)

    def _close(self, call: Call) -> None:
        if call.close():
            self._engine.metrics.abandoned.inc()

    async def _tokens(self, prompt: str | list[int]) -> list[int]:
        if isinstance(prompt, list):
            check_prompt(prompt, self._engine.vocabulary)
            return prompt
        return await asyncio.to_thread(self._engine.codec.encode, prompt) if prompt else []

    def _check_name(self, name: str) -> None:
        if name not in self._settings.names:
            message = f"model is {name!r:.200}; allowed: {', '.join(self._settings.names)}"
            raise ServingError(404, message, param="model", code="model_not_found")

    def _card(self, name: str) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": self._started, "owned_by": "superpose"}


class _Stream(StreamingResponse):
    """Server-sent events; ``closed`` is called at their end, also where the client leaves before it."""

    def __init__(self, content: AsyncIterator[str], closed: Callable[[], None]) -> None:
        super().__init__(content, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._closed = closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._closed()


async def _server_sent(call: Call, shape: Shape, *, usage: bool) -> AsyncIterator[str]:
    opened: set[int] = set()
    try:
        async for index, event in call.events():
            if index not in opened and (opening := shape.opening(index)) is not None:
                yield _data(opening)
            opened.add(index)
            if isinstance(event, Delta):
                yield _data(shape.text(index, event.text))
            else:
                yield _data(shape.closing(index, event.reason))
        if usage:
            yield _data(shape.totals(list(call.answers.values()), call.prompt_tokens))
    except ServingError as error:
        # The status has been sent already; the official client raises on an object with this key.
        yield _data(error.body)
    yield "data: [DONE]\n\n"


def _data(content: dict[str, Any]) -> str:
    return f"data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n"


async def _client_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _refused(_: Request, error: Exception) -> Response:
    if not isinstance(error, ServingError):
        raise error
    return JSONResponse(error.body, error.status, error.headers)


async def _not_found(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    told = ServingError(error.status_code, f"{request.method} {request.url.path}: {error.detail}", code="unknown_url")
    return JSONResponse(told.body, error.status_code, error.headers)


async def _broken(_: Request, error: Exception) -> Response:
    logger.error("a request failed", exc_info=error)
    told = ServingError(500, f"the server failed: {type(error).__name__}", kind="server_error", code="internal_error")
    return JSONResponse(told.body, told.status)
