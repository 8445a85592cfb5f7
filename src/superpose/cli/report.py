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
    """Print every claim's verdict per study and scale, from the newest run that was asked for it."""
    from superpose.experiment import Store
    from superpose.report.verdicts import claims_rows
    from superpose.studies import all_studies, get_study

    known = {slug: get_study(slug) for slug in studies} if studies else all_studies()
    runs, problems = Store(store).runs()
    for problem in problems:
        say(f"warning: {problem}")
    rows = [row for row in claims_rows(runs, known) if not studies or row["study"] in studies]
    if as_json:
        json.dump(rows, sys.stdout, indent=1)
        print()
        return
    print_claims(rows)
    if not rows:
        say(f"no runs in {store}; measure something first: superpose run task-superposition --store {store}")


def print_claims(rows: list[dict[str, Any]]) -> None:
    """Print claim rows on stdout: the verdict, the sentence, and under it what decided."""
    from rich.text import Text

    from superpose.cli.tables import show

    for study in dict.fromkeys(row["study"] for row in rows):
        lines = []
        for row in (row for row in rows if row["study"] == study):
            text = Text(row["sentence"])
            for line in row["because"].split("; ") if row["verdict"] in COLOURS else [row["because"]]:
                text.append(f"\n{line}", style="dim")
            if row["explanation"]:
                text.append(f"\nwhy: {row['explanation']}", style="italic")
            colour = COLOURS.get(row["verdict"], "dim")
            lines.append([Text(row["claim"], "bold"), row["scale"], Text(row["verdict"], colour), text])
        headers = ["claim", "scale", "verdict", "sentence, and what decided"]
        show(headers, lines, title=Text.assemble("\n", (study, "bold")), whole=3)


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
    from superpose.cli.tables import show
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
    show(columns, rows, wrap=False)
