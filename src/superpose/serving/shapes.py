"""How answers look in JSON: the OpenAI API's objects for completions and for chats."""

import time
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import uuid4

from superpose.serving.jobs import Done


@dataclass(frozen=True)
class Shape:
    """The objects of one answer.

    Attributes:
        kind: of the endpoint.
        model: the name that the client used.
        id: of the answer.
        created: seconds since 1970.
    """

    kind: Literal["completion", "chat"]
    model: str
    id: str = field(default_factory=lambda: uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, answers: list[Done], prompt_tokens: int) -> dict[str, Any]:
        """The answer in one object."""
        choices = [self._choice(i, each.text, each.reason, "message") for i, each in enumerate(answers)]
        return self._object(choices, chunk=False) | {"usage": usage(prompt_tokens, answers)}

    def opening(self, index: int) -> dict[str, Any] | None:
        """What a stream says before the first text, if anything."""
        if self.kind == "completion":
            return None
        return self._object([self._delta(index, {"role": "assistant", "content": ""}, None)], chunk=True)

    def text(self, index: int, text: str) -> dict[str, Any]:
        """More text of a stream."""
        if self.kind == "completion":
            return self._object([self._choice(index, text, None, "")], chunk=True)
        return self._object([self._delta(index, {"content": text}, None)], chunk=True)

    def closing(self, index: int, reason: str) -> dict[str, Any]:
        """The end of one answer of a stream."""
        if self.kind == "completion":
            return self._object([self._choice(index, "", reason, "")], chunk=True)
        return self._object([self._delta(index, {}, reason)], chunk=True)

    def totals(self, answers: list[Done], prompt_tokens: int) -> dict[str, Any]:
        """What a stream says last, if its usage was asked for."""
        return self._object([], chunk=True) | {"usage": usage(prompt_tokens, answers)}

    def _object(self, choices: list[dict[str, Any]], *, chunk: bool) -> dict[str, Any]:
        prefix, name = ("chatcmpl", "chat.completion") if self.kind == "chat" else ("cmpl", "text_completion")
        return {
            "id": f"{prefix}-{self.id}",
            "object": f"{name}.chunk" if chunk and self.kind == "chat" else name,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }

    def _choice(self, index: int, text: str, reason: str | None, key: str) -> dict[str, Any]:
        said = {key: {"role": "assistant", "content": text}} if self.kind == "chat" else {"text": text}
        return {"index": index, **said, "logprobs": None, "finish_reason": reason}

    def _delta(self, index: int, delta: dict[str, Any], reason: str | None) -> dict[str, Any]:
        return {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}


def usage(prompt_tokens: int, answers: list[Done]) -> dict[str, int]:
    """Tokens read and tokens generated, end tokens included."""
    generated = sum(each.tokens for each in answers)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": generated,
        "total_tokens": prompt_tokens + generated,
    }
