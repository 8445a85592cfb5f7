"""``superpose list`` and ``superpose show``: what there is to measure."""

import json
import sys
from typing import Annotated, Any

import typer

from superpose.cli.options import JsonOption


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    app.command("list")(list_studies)
    app.command("show")(show_study)


def list_studies(as_json: JsonOption = False) -> None:
    """List the studies."""
    from superpose.studies import all_studies

    studies = all_studies().values()
    if as_json:
        rows = [
            {"study": s.slug, "title": s.title, "room": s.room, "claims": [c.id for c in s.claims], "card": s.card}
            for s in studies
        ]
        json.dump(rows, sys.stdout, indent=1)
        print()
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("study", "title", "room", "claims", box=None, pad_edge=False)
    for s in studies:
        table.add_row(f"[bold]{s.slug}[/bold]", s.title, s.room, str(len(s.claims)))
    Console().print(table)


def show_study(study: Annotated[str, typer.Argument(help="A study's name.")], as_json: JsonOption = False) -> None:
    """Show a study: its paper, claims, criteria and config."""
    from superpose.studies import get_study

    found = get_study(study)
    if as_json:
        json.dump(_document(found), sys.stdout, indent=1)
        print()
        return
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console.print(f"[bold]{found.slug}[/bold]: {found.title}\n{found.paper}\n\n{found.summary}\n", highlight=False)
    claims = Table("claim", "sentence", "paper", "criterion (laptop)", box=None, pad_edge=False)
    for c in found.claims:
        criterion = str(c.criteria["laptop"]) if "laptop" in c.criteria else f"{c.role}: {c.reason}"
        claims.add_row(f"[bold]{c.id}[/bold]", c.sentence, c.paper_figure, criterion)
    console.print(claims)
    config = Table("config field", *found.presets, box=None, pad_edge=False)
    presets = {scale: found.preset(scale).model_dump(mode="json") for scale in found.presets}
    for name in found.config.model_fields:
        config.add_row(name, *(str(presets[scale][name]) for scale in found.presets))
    console.print("\n", config)


def _document(found: Any) -> dict[str, Any]:
    return {
        "study": found.slug,
        "title": found.title,
        "room": found.room,
        "paper": found.paper,
        "summary": found.summary,
        "card": found.card,
        "claims": [c.model_dump(mode="json") for c in found.claims],
        "presets": {scale: found.preset(scale).model_dump(mode="json") for scale in found.presets},
        "figures": [f.model_dump(mode="json") for f in found.figures],
    }
