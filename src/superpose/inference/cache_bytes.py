"""The memory of a key-value cache, counted."""

from dataclasses import dataclass


@dataclass(frozen=True)
class CacheBytes:
    """The memory of a cache in bytes.

    Attributes:
        codes: tokens that have left the exact window, coded or quantised.
        buffer: tokens held exactly, with those of layers that are skipped.
        adaptive: atoms of the session.
        full: what a cache of float16 (``paper``) or of the model's dtype (``layout``) would hold instead.
        dictionary: the dictionaries, shared by all caches of the model and not in `total`.
    """

    codes: int
    buffer: int
    adaptive: int
    full: int
    dictionary: int

    @property
    def total(self) -> int:
        """Codes, exact tokens and the session's atoms."""
        return self.codes + self.buffer + self.adaptive

    @property
    def ratio(self) -> float:
        """`total` over the full cache."""
        return self.total / self.full
