"""The one exception that a client sees, as the OpenAI API words it."""

from typing import Any


class ServingError(Exception):
    """Something that the client is told, with the HTTP status and the fields of an OpenAI error object.

    Args:
        status: HTTP status.
        message: one sentence; names the argument, its value and what is allowed where the client is at fault.
        kind: the ``type`` of the error object.
        param: the argument at fault, if there is one.
        code: the machine-readable ``code``.
        retry_after: seconds after which the client should try again, sent as ``Retry-After``.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.param, self.code, self.retry_after = param, code, retry_after

    @property
    def body(self) -> dict[str, Any]:
        """The JSON document that the client gets."""
        return {"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to the answer."""
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}


def queue_full(limit: int, retry_after: int) -> ServingError:
    """Too many requests wait already."""
    message = f"the queue holds its limit of {limit} waiting requests; try again in {retry_after} s"
    return ServingError(429, message, kind="rate_limit_error", code="queue_full", retry_after=retry_after)


def shutting_down() -> ServingError:
    """The server finishes what it has and takes no more."""
    message = "the server is shutting down"
    return ServingError(503, message, kind="server_error", code="shutting_down", retry_after=1)


def timed_out(seconds: float) -> ServingError:
    """The answer was not complete in time."""
    message = f"the answer was not complete after the server's limit of {seconds:g} s"
    return ServingError(504, message, kind="timeout_error", code="timeout")


def model_failed(error: BaseException) -> ServingError:
    """The model raised while it ran the batch of this request."""
    reason = (str(error).strip().splitlines() or ["no reason given"])[0]
    message = f"the model failed on this request: {type(error).__name__}: {reason}"
    return ServingError(500, message, kind="server_error", code="model_failed")


def worker_gone() -> ServingError:
    """The thread that runs the model has ended."""
    return ServingError(503, "the engine is not running", kind="server_error", code="engine_stopped")
