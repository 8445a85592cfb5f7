"""Between text and tokens, for two threads at once."""

import copy
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jinja2

from superpose.serving.errors import ServingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]


class Codec:
    """A tokenizer behind a lock for encoding, and a copy of it for the thread that decodes.

    Args:
        tokenizer: of the model.
        plain_chat: write a chat as lines of ``role: content`` where the tokenizer has no chat template; otherwise
            such a chat is refused.
    """

    def __init__(self, tokenizer: "PreTrainedTokenizerBase", *, plain_chat: bool = False) -> None:
        self._writer: Any = tokenizer
        self._reader: Any = copy.deepcopy(tokenizer)
        self._plain_chat = plain_chat
        self._lock = threading.Lock()

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return len(self._writer)

    @property
    def end(self) -> int | None:
        """The tokenizer's end token, if it has one."""
        return self._writer.eos_token_id

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the tokens of a text; ``special``: with those that the tokenizer puts around every text."""
        with self._lock:
            return list(self._writer(text, add_special_tokens=special, verbose=False)["input_ids"])

    def encode_chat(self, messages: Sequence[Message]) -> list[int]:
        """Return the tokens of a chat, up to where the assistant's next words begin.

        Raises:
            ServingError: the tokenizer has no chat template, or its template refuses this chat.
        """
        if not self._writer.chat_template:
            if not self._plain_chat:
                message = (
                    "messages cannot be written for this model: its tokenizer has no chat template; "
                    "allowed: /v1/completions, or a server started with --plain-chat"
                )
                raise ServingError(400, message, param="messages", code="no_chat_template")
            lines = [f"{message['role']}: {message['content']}\n" for message in messages]
            return self.encode("".join(lines) + "assistant:")
        try:
            with self._lock:
                text = self._writer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        except jinja2.TemplateError as error:
            message = f"messages are refused by the model's chat template: {error}"
            raise ServingError(400, message, param="messages", code="chat_template") from error
        return self.encode(text, special=False)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens, special ones left out; for one thread only."""
        return self._reader.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)
