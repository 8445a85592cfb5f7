"""From a growing list of tokens to text that may be shown: no half characters, no stop strings."""

from collections.abc import Sequence

from superpose.serving.codec import Codec

REPLACEMENT = "\ufffd"
# Bytes that no further byte can complete: a character has at most four, each at least one token.
LONGEST_CHARACTER = 4


class TextStream:
    """Decodes tokens as they come, holding back those that end inside a character.

    Text is decoded with a few tokens before it, as some tokenizers write a word differently at the beginning. Tokens
    that are not valid UTF-8 even together come out as replacement characters, once more tokens show that they are.

    Args:
        codec: decodes.
        before: the last tokens before the text.
    """

    def __init__(self, codec: Codec, before: Sequence[int] = ()) -> None:
        self._codec = codec
        self._tokens = list(before[-LONGEST_CHARACTER:])
        self._shown = codec.decode(self._tokens) if self._tokens else ""
        if self._shown.endswith(REPLACEMENT):
            self._tokens, self._shown = [], ""
        self._read = len(self._tokens)

    def push(self, token: int) -> str:
        """Add a token and return the text that is certain now."""
        self._tokens.append(token)
        text = self._codec.decode(self._tokens)
        held = len(self._tokens) - self._read
        if text.endswith(REPLACEMENT) and held < 2 * LONGEST_CHARACTER:
            return ""
        return self._show(text)

    def finish(self) -> str:
        """Return what is held back: an incomplete character as a replacement character."""
        return self._show(self._codec.decode(self._tokens)) if len(self._tokens) > self._read else ""

    def _show(self, text: str) -> str:
        new = text[len(self._shown) :]
        if new:
            self._tokens = self._tokens[self._read :]
            self._shown = self._codec.decode(self._tokens)
            self._read = len(self._tokens)
        return new


class StopFinder:
    """Passes text through up to the first stop string, holding back what may be the beginning of one.

    Args:
        stops: the strings, none of them empty; none: everything passes at once.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> tuple[str, bool]:
        """Add text; return what passes, and whether a stop string was found, after which nothing passes."""
        if not self._stops:
            return text, False
        held = self._held + text
        found = [position for stop in self._stops if (position := held.find(stop)) >= 0]
        if found:
            self._held = ""
            return held[: min(found)], True
        keep = max(self._beginning(held, stop) for stop in self._stops)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep], False

    def finish(self) -> str:
        """Return what was held back after all."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _beginning(text: str, stop: str) -> int:
        longest = min(len(text), len(stop) - 1)
        return next((size for size in range(longest, 0, -1) if stop.startswith(text[-size:])), 0)
