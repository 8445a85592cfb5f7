"""``superpose claims``, ``report`` and ``query``: reading what runs have found."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from superpose.cli.failures import say
from superpose.cli.options import DEFAULT_STORE, JsonOption, StoreOption

COLOURS = {"holds": "green", "fails": "red", "inconclusive": "yellow"}


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("claims")(claims)
    app.command("report")(report)
    app.command("query")(query)


def claims(
    studies: Annotated[list[str] | None, typer.Argument(help="Only these studies.")] = None,
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Print every claim's verdict, from the newest run of each study and scale."""
    from superpose.experiment import Store
    from superpose.report.verdicts import claims_rows
    from superpose.studies import all_studies, get_study

    for slug in studies or []:
        get_study(slug)
    runs, problems = Store(store).runs()
    for problem in problems:
        say(f"warning: {problem}")
    rows = [row for row in claims_rows(runs, all_studies()) if not studies or row["study"] in studies]
    if as_json:
        json.dump(rows, sys.stdout, indent=1)
        print()
        return
    print_claims(rows)
    if not rows:
        say(f"no runs in {store}; measure something first: superpose run task-superposition --store {store}")


def print_claims(rows: list[dict[str, Any]]) -> None:
    """Print claim rows on stdout: the verdict, the sentence, and under it what decided."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for study in dict.fromkeys(row["study"] for row in rows):
        table = Table("claim", "scale", "verdict", "sentence, and what decided", box=None, pad_edge=False)
        for row in (row for row in rows if row["study"] == study):
            text = Text(row["sentence"])
            for line in row["because"].split("; ") if row["verdict"] in COLOURS else [row["because"]]:
                text.append(f"\n{line}", style="dim")
            if row["explanation"]:
                text.append(f"\nwhy: {row['explanation']}", style="italic")
            colour = COLOURS.get(row["verdict"], "dim")
            table.add_row(f"[bold]{row['claim']}[/bold]", row["scale"], f"[{colour}]{row['verdict']}[/{colour}]", text)
        console.print(f"\n[bold]{study}[/bold]", table, sep="\n")


def report(
    store: StoreOption = DEFAULT_STORE,
    out: Annotated[Path, typer.Option("--out", help="Folder of the site.")] = Path("site"),
) -> None:
    """Build the static site: it opens from disk, without a network."""
    from superpose.experiment import Store
    from superpose.report import build_site
    from superpose.studies import all_studies

    page = build_site(Store(store), out, list(all_studies().values()))
    say("wrote the site; open")
    print(page.resolve())


def query(
    sql: Annotated[str, typer.Argument(help='For example "SELECT study, claim, verdict FROM claims".')],
    store: StoreOption = DEFAULT_STORE,
    as_json: JsonOption = False,
) -> None:
    """Ask the runs in SQL: tables runs, claims, measurements, curves. It can read and write no files."""
    from rich.console import Console
    from rich.table import Table

    from superpose.experiment import Store
    from superpose.report import jsonable
    from superpose.report import query as run_query
    from superpose.studies import all_studies

    for problem in Store(store).runs()[1]:
        say(f"warning: {problem}")
    columns, rows = run_query(Store(store), sql, list(all_studies().values()))
    if as_json:
        document = [dict(zip(columns, row, strict=True)) for row in rows]
        json.dump(jsonable(document), sys.stdout, indent=1, default=str)
        print()
        return
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    Console().print(table)
