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
    from rich.text import Text

    from superpose.cli.tables import show

    rows = [[Text(s.slug, "bold"), s.title, s.room, len(s.claims)] for s in studies]
    show(["study", "title", "room", "claims"], rows, whole=1)


def show_study(study: Annotated[str, typer.Argument(help="A study's name.")], as_json: JsonOption = False) -> None:
    """Show a study: its paper, claims, criteria and config."""
    from superpose.studies import get_study

    found = get_study(study)
    if as_json:
        json.dump(_document(found), sys.stdout, indent=1)
        print()
        return
    from rich.text import Text

    from superpose.cli.tables import show

    claims = []
    for c in found.claims:
        criterion = f"holds if {c.criteria['laptop']}" if "laptop" in c.criteria else f"{c.role}: {c.reason}"
        text = Text.assemble(c.sentence, (f"\npaper: {c.paper_figure}", "dim"), f"\n{criterion}")
        claims.append([Text(c.id, "bold"), text])
    about = Text.assemble((found.slug, "bold"), f": {found.title}\n{found.paper}\n\n{found.summary}\n")
    show(["claim", "sentence, the paper's figure, and the laptop scale's criterion"], claims, title=about, whole=1)
    presets = {scale: found.preset(scale).model_dump(mode="json") for scale in found.presets}
    fields = [[name, *(values[name] for values in presets.values())] for name in found.config.model_fields]
    show(["config field", *found.presets], fields, title=Text())


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
