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
)
from superpose.cli.session import prepared

if TYPE_CHECKING:
    from rich.text import Text

    from superpose.experiment import Measurement, RunRecord

_OPTIONS = {
    "demonstrations": "--demos",
    "prompts": "--prompts",
    "search_budget": "--search-budget",
    "seed": "--seed",
    "dtype": "--dtype",
    "tasks": "--tasks",
    "mixtures": "--proportions",
}  # the config's fields as they are called here

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
    from superpose.experiment import plan, run_study
    from superpose.studies import get_study

    settings: dict[str, Any] = {
        **request,
        "demonstrations": demos,
        "prompts": prompts,
        "search_budget": search_budget,
        "seed": seed,
        "dtype": dtype,
    }
    checked = plan(get_study("superposition-measure"), overrides=settings, options=_OPTIONS)
    with prepared(store, engine=engine, jobs=jobs, device=device, fresh=fresh, quiet=quiet) as options:
        stored = run_study(checked, options)
    say(f"wrote {stored.folder}; see the curve with: superpose report --store {store}")
    if as_json:
        print(stored.record.model_dump_json(indent=1))
        return
    _print(stored.record)


def _print(record: "RunRecord") -> None:
    from rich.text import Text

    from superpose.cli.tables import show

    config = record.config
    measured = {m.name: m for claim in record.claims for m in claim.measurements}
    columns = list(dict.fromkeys(name.partition("@")[0] for name in measured))
    settled = [m for name, m in measured.items() if name.startswith("search-settled@")]
    if all(m.value == 1 for m in settled):
        columns = [name for name in columns if name != "search-settled"]
    # Measurements spell a task's name with fewer letters than its owner may have; their order is the tasks'.
    tasks = dict(zip([name for name in columns if name.startswith("p.")], config["tasks"], strict=False))
    headers = [tasks.get(name, "settled" if name == "search-settled" else name.removeprefix("p.")) for name in columns]
    rows = []
    for mixture in dict.fromkeys(name.partition("@")[2] for name in measured):
        found = {name: measured.get(f"{name}@{mixture}") for name in columns}
        rows.append([mixture, *(_settled(m) if name == "search-settled" else _cell(m) for name, m in found.items())])
    show(
        ["mixture", *headers], rows, title=Text(f"{config['model']}, {config['family']}: {', '.join(config['tasks'])}")
    )


def _cell(m: "Measurement | None") -> "Text":
    from rich.text import Text

    return Text() if m is None else Text.assemble(f"{m.value:.3f}", (f"\n{m.low:.2f} … {m.high:.2f}", "dim"))


def _settled(m: "Measurement | None") -> str:
    return "" if m is None else f"{round(m.value * m.n)}/{m.n}"
