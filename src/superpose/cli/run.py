"""``superpose run``: measure a study's claims."""

from typing import TYPE_CHECKING, Annotated

import typer

from superpose.cli.failures import Failed, say
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
    from superpose.experiment import StoredRun


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("run")(run)


def run(
    studies: Annotated[list[str], typer.Argument(help="Names of studies, or 'all'.")],
    claims: Annotated[str, typer.Option("--claims", help="Only these claims: A,B.")] = "",
    scale: Annotated[str, typer.Option("--scale", help="smoke, laptop or gpu.")] = "laptop",
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Change a config field: a.b=3 (the claims are then not judged).")
    ] = None,
    seeds: Annotated[int | None, typer.Option("--seeds", help="Number of seeds.")] = None,
    jobs: JobsOption = 1,
    device: DeviceOption = "auto",
    engine: EngineOption = "local",
    store: StoreOption = DEFAULT_STORE,
    fresh: FreshOption = False,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure a study's claims on this machine and store the run.

    Interrupted or killed, it loses no finished step: the same command goes on from there.
    """
    from superpose.errors import InputError
    from superpose.experiment import Options, Progress, Store, plan, run_study
    from superpose.experiment.engines import engine as make_engine
    from superpose.studies import all_studies, get_study

    chosen = list(all_studies().values()) if studies == ["all"] else [get_study(s) for s in dict.fromkeys(studies)]
    settings = _settings(overrides or [], seeds)
    wanted = [c.strip() for c in claims.split(",") if c.strip()]
    plans = [plan(s, scale=scale, claims=wanted, overrides=settings) for s in chosen]
    options = Options(Store(store), device=device_of(device), progress=Progress(quiet), fresh=fresh)
    options.store.check_writable()  # before Ray is started
    options.engine = make_engine(engine, jobs)
    done: list[StoredRun] = []
    failures: list[str] = []
    try:
        for request in plans:
            try:
                done.append(run_study(request, options))
                say(f"wrote {done[-1].folder}")
            except InputError:
                raise
            except Exception as error:
                failures.append(f"{request.study.slug}: {type(error).__name__}: {error}")
                say(f"failed {failures[-1]}")
    finally:
        options.engine.close()
    _print(done, as_json)
    if failures:
        raise Failed("; ".join(failures))


def _settings(overrides: list[str], seeds: int | None) -> dict[str, object]:
    from superpose.errors import InputError

    settings: dict[str, object] = {}
    for text in overrides:
        name, equals, value = text.partition("=")
        if not (equals and name):
            raise InputError(f"--set is {text!r}; allowed: FIELD=VALUE")
        settings[name.strip()] = value
    if seeds is not None:
        settings["seeds"] = seeds
    return settings


def _print(done: "list[StoredRun]", as_json: bool) -> None:
    if as_json:
        # The model's own JSON spells infinities as strings; json.dump would write words that JSON does not have.
        print("[" + ",\n".join(run.record.model_dump_json(indent=1) for run in done) + "]")
        return
    from superpose.cli.report import print_claims
    from superpose.experiment.record import NOT_ASKED
    from superpose.report.verdicts import claims_rows
    from superpose.studies import all_studies

    rows = claims_rows(done, all_studies())
    print_claims([row for row in rows if row["because"] != NOT_ASKED])
