"""``superpose superposition``: does your own model do several in-context tasks at once?"""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from superpose.cli.failures import say
from superpose.cli.options import (
    DEFAULT_STORE,
    DeviceOption,
    EngineOption,
    FreshOption,
    JobsOption,
    JsonOption,
    QuietOption,
    StoreOption,
    device_of,
)

if TYPE_CHECKING:
    from superpose.experiment import Measurement, RunRecord

app = typer.Typer(help="Task superposition on your own model.", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Task superposition on your own model."""


@app.command("measure")
def measure(
    model: Annotated[str, typer.Argument(help="Registered name, local folder, .gguf file, or hub id.")],
    family: Annotated[str, typer.Option("--family", help="Built-in family, or a CSV or YAML file.")] = "word",
    tasks: Annotated[str, typer.Option("--tasks", help="Two or more tasks: a,b,c.")] = "",
    sweep: Annotated[str, typer.Option("--sweep", help="Share of the first task: FROM:TO:STEP.")] = "",
    proportions: Annotated[
        list[str] | None, typer.Option("--proportions", help="One mixture: 0.5,0.3,0.2 (may be repeated).")
    ] = None,
    demos: Annotated[int, typer.Option("--demos", help="Demonstrations per prompt.")] = 20,
    prompts: Annotated[int, typer.Option("--prompts", help="Prompts per mixture.")] = 20,
    search_budget: Annotated[
        int, typer.Option("--search-budget", help="Expansions per prompt of the exact search behind r; 0: no r.")
    ] = 200,
    seed: Annotated[int, typer.Option("--seed", help="Of the prompts.")] = 0,
    dtype: Annotated[str, typer.Option("--dtype", help="float32, bfloat16 or float16.")] = "float32",
    jobs: JobsOption = 1,
    device: DeviceOption = "auto",
    engine: EngineOption = "local",
    store: StoreOption = DEFAULT_STORE,
    fresh: FreshOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Mix tasks in prompts to a model, and print and store how much probability each task's answer gets."""
    from superpose.studies.superposition_measure.request import measurement_request

    request = measurement_request(model, family, tasks=tasks, sweep=sweep, proportions=proportions or [])
    from superpose.experiment import Options, Progress, Store, plan, run_study
    from superpose.experiment.engines import engine as make_engine
    from superpose.studies import get_study

    settings: dict[str, Any] = {
        **request,
        "demonstrations": demos,
        "prompts": prompts,
        "search_budget": search_budget,
        "seed": seed,
        "dtype": dtype,
    }
    checked = plan(get_study("superposition-measure"), overrides=settings)
    options = Options(Store(store), device=device_of(device), progress=Progress(quiet), fresh=fresh)
    options.store.check_writable()  # before Ray is started
    options.engine = make_engine(engine, jobs)
    try:
        stored = run_study(checked, options)
    finally:
        options.engine.close()
    say(f"wrote {stored.folder}; see the curve with: superpose report --store {store}")
    if as_json:
        print(stored.record.model_dump_json(indent=1))
        return
    _print(stored.record)


def _print(record: "RunRecord") -> None:
    from rich.console import Console
    from rich.table import Table

    from superpose.studies.superposition_measure.study import Config

    config = Config.model_validate(record.config)
    measured = {m.name: m for claim in record.claims for m in claim.measurements}
    columns = [c for c in dict.fromkeys(name.partition("@")[0] for name in measured) if c != "search-settled"]
    table = Table("mixture", *(name.removeprefix("p.") for name in columns), box=None, pad_edge=False)
    for mixture in dict.fromkeys(name.partition("@")[2] for name in measured):
        cells = [measured.get(f"{name}@{mixture}") for name in columns]
        table.add_row(
            mixture, *("" if m is None else f"{m.value:.3f}\n[dim]{m.low:.2f} … {m.high:.2f}[/dim]" for m in cells)
        )
    Console().print(f"{config.model}, {config.family}: {', '.join(config.tasks)}", table, sep="\n", highlight=False)


def _cell(m: "Measurement | None") -> str:
    return "" if m is None else f"{m.value:.3f}\n[dim]{m.low:.2f} … {m.high:.2f}[/dim]"
