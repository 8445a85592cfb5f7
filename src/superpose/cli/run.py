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
)
from superpose.cli.session import prepared

if TYPE_CHECKING:
    from superpose.experiment import StoredRun, Study


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("run")(run)


def run(
    studies: Annotated[list[str], typer.Argument(help="Names of studies, or 'all'.")],
    claims: Annotated[str | None, typer.Option("--claims", help="Only these claims: A,B.")] = None,
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
    from superpose.experiment import plan, run_study
    from superpose.studies import all_studies, get_study

    chosen = list(all_studies().values()) if studies == ["all"] else [get_study(s) for s in dict.fromkeys(studies)]
    settings = _settings(overrides or [], seeds)
    wanted = [name.strip() for name in (claims or "").split(",") if name.strip()]
    if claims is not None and not wanted:
        raise InputError(f"--claims is {claims!r}; allowed: ids of claims with commas between them")
    named = {"seeds": "--seeds"} if seeds is not None else {}
    plans = [plan(s, scale=scale, claims=wanted, overrides=settings, options=named) for s in chosen]
    done: list[StoredRun] = []
    failures: dict[str, Exception] = {}
    with prepared(store, engine=engine, jobs=jobs, device=device, fresh=fresh, quiet=quiet) as options:
        for request in plans:
            try:
                done.append(run_study(request, options))
                say(f"wrote {done[-1].folder}")
            except Exception as error:
                if len(plans) == 1 and isinstance(error, InputError):
                    raise
                failures[request.study.slug] = error
                if len(plans) > 1:  # the others go on; a single one is told at the end
                    say(f"failed {_told(request.study.slug, error)}")
    _print(done, chosen, as_json)
    if len(plans) == 1 and failures:
        raise Failed(_told(*failures.popitem()))
    if failures:
        raise Failed(f"{len(failures)} of {len(plans)} studies: {', '.join(failures)}")


def _told(slug: str, error: Exception) -> str:
    from superpose.errors import InputError
    from superpose.experiment.run import StepFailed

    kind = "" if isinstance(error, InputError | StepFailed) else f"{type(error).__name__}: "
    return f"{slug}: {kind}{error}"


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


def _print(done: "list[StoredRun]", studies: "list[Study]", as_json: bool) -> None:
    if as_json:
        # The model's own JSON spells infinities as strings; json.dump would write words that JSON does not have.
        print("[" + ",\n".join(run.record.model_dump_json(indent=1) for run in done) + "]")
        return
    from superpose.cli.report import print_claims
    from superpose.report.verdicts import claims_rows

    print_claims(claims_rows(done, studies))
