"""``superpose cache``: finished steps that later runs reuse."""

import typer

app = typer.Typer(help="Finished steps that later runs reuse.", no_args_is_help=True)


@app.command("size")
def size() -> None:
    """Print how much the cache holds, and where."""
    from superpose.experiment import StepCache

    cache = StepCache()
    count, used = cache.size()
    print(f"{count} steps, {used / 2**20:.1f} MiB in {cache.root}")


@app.command("clear")
def clear() -> None:
    """Remove every finished step that no process is working on; fetched models stay."""
    from superpose.experiment import StepCache

    print(f"removed {StepCache().clear()} steps")
