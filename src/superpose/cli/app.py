"""The command tree. Nothing heavy is imported here: --help must be instant."""

import typer

from superpose.cli import batching, cache, lexico, models, report, run, serve, studies, superposition

app = typer.Typer(
    name="superpose",
    help="Papers on in-context learning and efficient language models: methods to use, claims to measure.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
studies.register(app)
run.register(app)
report.register(app)
serve.register(app)
app.add_typer(models.app, name="models")
app.add_typer(cache.app, name="cache")
app.add_typer(superposition.app, name="superposition")
app.add_typer(batching.app, name="batching")
app.add_typer(lexico.app, name="lexico")


@app.callback(invoke_without_command=True)
def root(version: bool = typer.Option(False, "--version", help="Print the version and exit.")) -> None:
    """Papers on in-context learning and efficient language models: methods to use, claims to measure."""
    if version:
        from superpose import __version__

        print(__version__)
        raise typer.Exit
