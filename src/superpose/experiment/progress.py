"""Progress with ETA on stderr; plain lines where stderr is no terminal."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

R = TypeVar("R")
_EVERY = 10.0  # seconds between plain lines


class Progress:
    """Bars over steps, and over the inner loops of the step that runs in this process.

    Args:
        quiet: show nothing at all.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self._terminal = self._console.is_terminal and not quiet
        self._quiet = quiet
        self._bars = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._terminal,
        )

    def __enter__(self) -> "Progress":
        if self._terminal:
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal:
            self._bars.stop()

    def say(self, text: str, *, title: str = "") -> None:
        """Print a line above the bars, as it stands; the title goes before it in bold."""
        if not self._quiet:
            parts = [(title, "bold"), " ", text] if title else [text]
            self._console.print(Text.assemble(*parts), highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def bar(self, description: str, total: int | None) -> Iterator[Callable[[], None]]:
        """A bar of ``total`` parts; calling what it yields moves it on by one."""
        task = self._bars.add_task(description, total=total)
        started = last = time.monotonic()
        done = 0

        def advance() -> None:
            nonlocal done, last
            done += 1
            self._bars.advance(task)
            now = time.monotonic()
            if not self._terminal and not self._quiet and now - last > _EVERY:
                last = now
                eta = f", about {(now - started) / done * (total - done):.0f} s left" if total else ""
                print(f"  {description}: {done}/{total or '?'}{eta}", file=sys.stderr, flush=True)

        try:
            yield advance
        finally:
            self._bars.remove_task(task)

    def track(self, items: Iterable[R], description: str, total: int | None = None) -> Iterator[R]:
        """Iterate, moving a bar."""
        if total is None and hasattr(items, "__len__"):
            total = len(items)  # type: ignore[arg-type]
        with self.bar(f"  {description}", total) as advance:
            for item in items:
                yield item
                advance()
