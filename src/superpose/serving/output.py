"""The answer to one job while it grows: what ends it, and what of it may be shown."""

from collections.abc import Collection

from superpose.serving.codec import Codec
from superpose.serving.errors import ServingError
from superpose.serving.jobs import Done, Failed, FinishReason, Job
from superpose.serving.text import REPLACEMENT, StopFinder, TextStream

CONTEXT_TOKENS = 4


class Output:
    """Takes tokens and delivers events. Streamed or not, with stop strings or not, the text is the same.

    Args:
        job: whom to deliver to.
        codec: decodes.
        ends: end tokens.
    """

    def __init__(self, job: Job, codec: Codec, ends: Collection[int]) -> None:
        self.job = job
        self._codec = codec
        self._ends = frozenset() if job.sampling.ignore_eos else frozenset(ends)
        self._stops = StopFinder(job.sampling.stop)
        # Decoding token by token costs more than decoding once, so it is done only where somebody looks.
        self._text = self._stream() if job.stream or job.sampling.stop else None
        self._kept: list[str] = []
        self.tokens: list[int] = []

    def push(self, token: int) -> bool:
        """Add a token; return whether this answer takes no more of them."""
        if self.job.over:
            return True
        self.tokens.append(token)
        if token in self._ends:
            return self._finish("stop", self.tokens[:-1])
        if self._text is not None and self._pass_on(self._text.push(token)):
            return self._finish("stop", None)
        if len(self.tokens) >= self.job.sampling.max_tokens:
            return self._finish("length", self.tokens)
        return False

    def fail(self, error: ServingError) -> None:
        """End the answer with an error."""
        self.job.finish(Failed(error))

    def _stream(self) -> TextStream:
        return TextStream(self._codec, self.job.prompt[-CONTEXT_TOKENS:])

    def _pass_on(self, text: str) -> bool:
        passed, stopped = self._stops.push(text)
        if passed and self.job.stream:
            self.job.delta(passed)
        elif passed:
            self._kept.append(passed)
        return stopped

    def _finish(self, reason: FinishReason, unseen: list[int] | None) -> bool:
        """Deliver the end; ``unseen``: the answer's tokens, None where a stop string has ended it."""
        if unseen is None:
            text = "".join(self._kept)
        elif self._text is None:
            text = self._whole(unseen)
        else:
            if self._pass_on(self._text.finish()):
                reason = "stop"
            else:
                self._pass_rest()
            text = "".join(self._kept)
        self.job.finish(Done(text, reason, len(self.tokens)))
        return True

    def _pass_rest(self) -> None:
        rest = self._stops.finish()
        if rest and self.job.stream:
            self.job.delta(rest)
        elif rest:
            self._kept.append(rest)

    def _whole(self, tokens: list[int]) -> str:
        before = self.job.prompt[-CONTEXT_TOKENS:]
        start, text = self._codec.decode(before), self._codec.decode([*before, *tokens])
        if REPLACEMENT not in text and text.startswith(start):
            return text[len(start) :]
        stream = self._stream()
        return "".join([*(stream.push(token) for token in tokens), stream.finish()])
