"""``superpose cache``: finished steps that later runs reuse, and the dictionaries that they trained."""

import shutil
from pathlib import Path

import typer

app = typer.Typer(help="Finished steps that later runs reuse.", no_args_is_help=True)


@app.command("size")
def size() -> None:
    """Print how much the cache holds, and where."""
    from superpose.experiment import StepCache

    cache = StepCache()
    count, used = cache.size()
    print(f"{count} steps, {used / 2**20:.1f} MiB in {cache.root}")
    found = _dictionaries()
    if found:
        used = sum(file.stat().st_size for folder in found for file in folder.rglob("*") if file.is_file())
        print(f"{len(found)} dictionaries, {used / 2**20:.1f} MiB in {found[0].parent}")


@app.command("clear")
def clear() -> None:
    """Remove every finished step that no process is working on, and trained dictionaries; fetched models stay."""
    from superpose.experiment import StepCache

    found = _dictionaries()
    for folder in found:
        shutil.rmtree(folder)
    print(f"removed {StepCache().clear()} steps and {len(found)} dictionaries")


def _dictionaries() -> list[Path]:
    from superpose.cachedir import dictionaries_dir

    return sorted(path for path in dictionaries_dir().glob("*") if path.is_dir())
