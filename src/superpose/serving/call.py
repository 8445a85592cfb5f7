"""One HTTP request's jobs, and their events in the event loop."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence

from superpose.serving.engine import Engine
from superpose.serving.errors import ServingError, timed_out
from superpose.serving.jobs import Delta, Done, Event, Failed, Job, Sampling

Clock = Callable[[], float]


class Call:
    """The jobs of one request: submitted together, answered together, given up together.

    Args:
        engine: answers them.
        prompts: tokens of each prompt.
        sampling: for all of them.
        stream: whether text is wanted as it is generated.
        timeout: seconds until the answer must be complete.
    """

    def __init__(
        self, engine: Engine, prompts: Sequence[Sequence[int]], sampling: Sampling, *, stream: bool, timeout: float
    ) -> None:
        self._engine, self._timeout = engine, timeout
        self._loop = asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._start = time.monotonic()
        self._first = True
        self.prompt_tokens = sum(map(len, prompts))
        self.answers: dict[int, Done] = {}
        self._jobs = [Job(each, sampling, self._sink(i), stream=stream) for i, each in enumerate(prompts)]

    def submit(self) -> None:
        """Hand the jobs to the engine.

        Raises:
            ServingError: the engine refuses them.
        """
        for job in self._jobs:
            self._engine.check(job)
        self._engine.submit(self._jobs)

    def close(self) -> bool:
        """Give up what is not answered; return whether there was any."""
        left = [job for job in self._jobs if not job.over]
        for job in left:
            self._engine.cancel(job)
        return bool(left)

    async def events(self) -> AsyncIterator[tuple[int, Delta | Done]]:
        """Every event of every job, until all are answered.

        Raises:
            ServingError: a job failed, or the time is over.
        """
        deadline = self._start + self._timeout
        while len(self.answers) < len(self._jobs):
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    index, event = await self._events.get()
            except TimeoutError as error:
                raise timed_out(self._timeout) from error
            if isinstance(event, Failed):
                raise event.error
            self._measure(event)
            if isinstance(event, Done):
                self.answers[index] = event
            yield index, event

    async def whole(self) -> list[Done]:
        """Wait for all answers.

        Raises:
            ServingError: a job failed, or the time is over.
        """
        async for _ in self.events():
            pass
        return [self.answers[i] for i in range(len(self._jobs))]

    def _sink(self, index: int) -> Callable[[Event], None]:
        def deliver(event: Event) -> None:
            try:
                self._loop.call_soon_threadsafe(self._events.put_nowait, (index, event))
            except RuntimeError:
                # The loop has closed: the server was told to end without waiting, and nobody listens any more.
                self._jobs[index].cancel()

        return deliver

    def _measure(self, event: Delta | Done) -> None:
        seconds = time.monotonic() - self._start
        if isinstance(event, Done):
            self._engine.metrics.answer_seconds.observe(seconds)
            self._engine.metrics.completion_tokens.inc(event.tokens)
        elif self._first:
            self._engine.metrics.first_text_seconds.observe(seconds)
            self._first = False


def refuse_beyond(engine: Engine, prompt: Sequence[int], max_tokens: int, param: str) -> None:
    """Refuse a prompt that leaves no room for the tokens asked for.

    Raises:
        ServingError: prompt and answer are longer than the context.
    """
    if engine.context is not None and len(prompt) + max_tokens > engine.context:
        message = (
            f"{param} has {len(prompt)} tokens and {max_tokens} more are asked for, {len(prompt) + max_tokens} "
            f"together; allowed: the model's context of {engine.context}"
        )
        raise ServingError(400, message, param=param, code="context_length_exceeded")
