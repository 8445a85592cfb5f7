"""Running the application with uvicorn, until a signal says otherwise."""

import asyncio
import signal
import socket
from collections.abc import Callable
from types import FrameType

from superpose.errors import InputError, require
from superpose.serving.app import create_app
from superpose.serving.engine import Engine
from superpose.serving.settings import ServerSettings

LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Until the last connection is seen to be closed.
SLACK_SECONDS = 2.0


def serve(
    engine: Engine,
    settings: ServerSettings,
    host: str = "127.0.0.1",
    port: int = 8000,
    ready: Callable[[str], None] = lambda url: None,
) -> int:
    """Serve until SIGTERM or SIGINT, then answer what was accepted, and return the signal's number.

    At a signal the server takes no more connections and no more requests, runs incomplete batches at once, and ends
    when the last answer is sent, or after ``settings.drain`` seconds.

    Args:
        engine: answers the requests.
        settings: names and limits.
        host: address to listen at; the default is reachable from this machine only.
        port: to listen at; 0: any free one.
        ready: given the server's address once it answers.

    Raises:
        InputError: uvicorn is not installed, or the address cannot be listened at.
        RuntimeError: the engine did not start; the log says why.
    """
    require("uvicorn", "serve")
    import uvicorn

    sock = _listen(host, port)
    config = uvicorn.Config(
        create_app(engine, settings),
        log_level="warning",
        access_log=False,
        lifespan="on",
        timeout_graceful_shutdown=max(1, round(settings.drain + SLACK_SECONDS)),
    )

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            if self.started:
                ready(f"http://{f'[{host}]' if ':' in host else host}:{sock.getsockname()[1]}")

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # Before waiting for the connections: jobs that wait for a full batch would wait for nobody.
            engine.drain()
            await super().shutdown(sockets)

    received: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        received.append(number)

    # uvicorn puts these handlers back and raises its signals again after its shutdown, which must not end the process.
    before = {each: signal.signal(each, note) for each in (signal.SIGTERM, signal.SIGINT)}
    try:
        server = Server(config)
        asyncio.run(server.serve(sockets=[sock]))
        if not server.started and not received:
            raise RuntimeError("the server did not start")
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
        sock.close()
    return received[0] if received else 0


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port < 2**16:
        raise InputError(f"--port is {port}; allowed: 0 to {2**16 - 1}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise InputError(f"--host {host} --port {port} cannot be listened at: {error.strerror or error}") from error
    return sock
