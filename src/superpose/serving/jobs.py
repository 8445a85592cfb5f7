"""One prompt to be continued, how, and what comes back."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from superpose.errors import InputError
from superpose.serving.errors import ServingError

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How a prompt is continued; every request of a batch has its own.

    Attributes:
        max_tokens: tokens after which the answer ends, at least 1.
        temperature: logits are divided by it; 0: the most probable token. Default 1, as in the OpenAI API.
        top_p: sample among the smallest set of tokens with at least this much probability, above 0 up to 1.
        seed: of the draws; None: another one each time.
        stop: strings that end the answer and are not part of it.
        ignore_eos: go on after the end token; for measurements.

    Raises:
        InputError: a value outside its range.
    """

    max_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise InputError(f"max_tokens is {self.max_tokens}; allowed: 1 or more")
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature is {self.temperature}; allowed: 0 or more, finite")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}; allowed: above 0, up to 1")
        if any(not each for each in self.stop):
            raise InputError("stop holds an empty string; allowed: strings of one character or more")


@dataclass(frozen=True)
class Delta:
    """More text of a streamed answer."""

    text: str


@dataclass(frozen=True)
class Done:
    """The end of an answer.

    Attributes:
        text: what has not been streamed: the whole answer of a request that does not stream.
        reason: ``stop`` at the end token or a stop string, ``length`` at the limit of tokens.
        tokens: how many tokens the model generated for it, the end token included.
    """

    text: str
    reason: FinishReason
    tokens: int


@dataclass(frozen=True)
class Failed:
    """The answer will not come."""

    error: ServingError


Event = Delta | Done | Failed


class Job:
    """A prompt on its way through an engine. Exactly one `Done` or `Failed` is delivered, unless it is cancelled.

    Args:
        prompt: its tokens, at least one.
        sampling: how to continue it.
        deliver: given every event, by the engine's thread; it must be quick, and must not raise.
        stream: whether text is wanted as it is generated.

    Raises:
        InputError: an empty prompt.
    """

    def __init__(
        self, prompt: Sequence[int], sampling: Sampling, deliver: Callable[[Event], None], *, stream: bool = False
    ) -> None:
        if not prompt:
            raise InputError("prompt has no tokens; allowed: one or more")
        self.prompt, self.sampling, self.stream = list(prompt), sampling, stream
        self.created = time.monotonic()
        self._deliver = deliver
        self._over = False
        self._lock = threading.Lock()

    @property
    def over(self) -> bool:
        """Whether the answer was delivered, failed, or is wanted no more."""
        return self._over

    def delta(self, text: str) -> None:
        """Deliver more text."""
        if not self._over:
            self._deliver(Delta(text))

    def finish(self, event: Done | Failed) -> bool:
        """Deliver the end, if nothing has ended this job before; return whether it did."""
        if self.cancel():
            self._deliver(event)
            return True
        return False

    def cancel(self) -> bool:
        """Say that the answer is wanted no more; return whether that is news."""
        with self._lock:
            news, self._over = not self._over, True
            return news
