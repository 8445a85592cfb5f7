"""Tables in a terminal: a cell is data, never markup, and nothing of it is cut."""

import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text


def show(
    headers: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    title: "Text | None" = None,
    whole: int = 0,
    wrap: bool = True,
) -> None:
    """Print a table on stdout.

    Args:
        headers: one per column.
        rows: cells: rich ``Text``, or anything that has words; None is an empty cell.
        title: a line above.
        whole: so many of the first columns stay in one line while there is room; longer cells are folded.
        wrap: fold cells to 80 columns also where stdout is no terminal; else every row is one line there.
    """
    from rich.console import Console
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    cells = [
        [cell if isinstance(cell, Text) else Text("" if cell is None else str(cell)) for cell in row] for row in rows
    ]
    for at, header in enumerate(headers):
        words = Text(header)
        longest = max([words.cell_len, *(row[at].cell_len for row in cells)])
        table.add_column(words, overflow="fold", min_width=min(longest, _NAME) if at < whole else None)
    for row in cells:
        table.add_row(*row)
    console = Console()
    if not (wrap or sys.stdout.isatty()):
        wide = console.options.update(max_width=_UNWRAPPED)
        console = Console(width=max(Measurement.get(console, wide, table).maximum, console.width))
    if title is not None:
        console.print(title)
    console.print(table)


_NAME = 40  # columns that a name may take from the others
_UNWRAPPED = 10**6
