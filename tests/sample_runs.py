"""A store with synthetic runs: several studies and scales, every verdict, every kind of figure, hard values."""

import math
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from superpose.experiment import (
    Claim,
    ClaimRecord,
    Figure,
    Judgement,
    Measurement,
    RunRecord,
    Store,
    Study,
    StudyConfig,
    above,
    all_of,
    any_of,
    at_least,
    at_most,
    below,
    exact,
    judge,
    over_items,
    over_seeds,
    proportion,
)
from superpose.experiment.environment import Environment, Provenance, source_hash
from superpose.experiment.record import NOT_ASKED, TABLE, utc

NOON = datetime(2026, 3, 14, 12, 0, 0, tzinfo=UTC)
HOSTILE = "<script>window.pwned = 1</script> & \"quotes\" 'too' | pipe </script><!-- $x_1$"
LONG = (
    "With demonstrations of two tasks mixed in one prompt, both tasks' answers get non-negligible probability in a "
    "single forward pass, in more than one task family, and this stays so when the proportions of the mixture move "
    "from one tenth to nine tenths, whatever the order in which the demonstrations stand."
)


class MixedConfig(StudyConfig):
    model: str = "a-small-model"
    prompts: int = 60
    mixture_step: float = 0.1
    tasks: tuple[str, ...] = ("copy", "capitalise")


MIXED = Study(
    slug="mixed-tasks",
    title="Two Tasks in One Prompt: A Study of Mixtures That Has Rather a Long Title",
    room="interpret",
    paper="Doe, Roe, Poe; Some Conference 2025, arXiv 0000.00000",
    card="docs/mixed-tasks.md",
    summary=(
        "If the demonstrations in one prompt come from several tasks, a language model puts probability on the right "
        "answer of every one of them at once. The study mixes tasks in prompts and looks at what comes out."
    ),
    config=MixedConfig,
    presets={"smoke": {"prompts": 4, "seeds": 1}, "laptop": {}, "gpu": {"prompts": 400, "seeds": 5}},
    claims=(
        Claim(
            id="MT1",
            sentence=LONG,
            paper_figure="Fig. 2: bars for 4 families of 3-4 tasks on models of 70B and more",
            criteria={
                scale: all_of(at_least("word.weaker-task", 0.15), any_of(above("times-control", 5), above("alt", 2)))
                for scale in ("laptop", "gpu")
            },
        ),
        Claim(
            id="MT2",
            sentence="The divergence from the mixture stays below one nat.",
            paper_figure="Fig. 4",
            criteria={"laptop": below("kl", 1.0)},
            explanations={
                "laptop:fails": (
                    "One answer underflows to probability zero on some prompts, so the divergence is infinite there; "
                    "the conditional divergence, reported beside it, stays small."
                )
            },
        ),
        Claim(
            id="MT3",
            sentence="Injected combinations of vectors reproduce the mixture.",
            paper_figure="none",
            criteria={"laptop": at_most("largest-step-back", 0.05)},
            explanations={"laptop:inconclusive": "The interval straddles the bound: 32 queries are too few."},
        ),
        Claim(
            id="MT4",
            sentence="In the paper's four panels every task gets some probability.",
            paper_figure="Fig. 2",
            role="reported",
            reason="small models cannot do several of these tasks even alone",
        ),
        Claim(
            id="MT5",
            sentence="The effect emerges in training on one task per sequence.",
            paper_figure="0.489 at equal weights",
            role="unmeasurable",
            reason="needs a model trained from scratch",
        ),
        Claim(
            id="MT6",
            sentence="Generation collapses after the first token.",
            paper_figure="limitation section",
            criteria={"gpu": above("after", 0.8)},
        ),
    ),
    figures=(
        Figure(
            id="mixtures",
            title="Two tasks in one prompt",
            curves=("mixture-word", "mixture-ab"),
            panels={"mixture-word": "word: copy / Capitalise", "mixture-ab": "A@B=: copy A / copy B"},
            x_label="share of demonstrations of the first task",
            y_label="probability of the answer",
            y_range=(0, 1),
            claims=("MT1", "MT2"),
            arms={"first": "first task", "second": "second task", "other": "everything else"},
            caption="Mean probability of each task's whole answer; 95 % bootstrap bands over prompts.",
        ),
        Figure(
            id="panels",
            title="The paper's four panels",
            kind="bars",
            curves=("panel-word", "panel-country", "panel-ab"),
            panels={"panel-word": "word", "panel-country": "country", "panel-ab": "A@B"},
            x_label="task",
            y_label="probability of the answer",
            y_range=(0, 1),
            claims=("MT4",),
            caption="Uniform mixtures, as in Fig. 2.",
        ),
        Figure(
            id="interpolation",
            title="Injecting convex combinations",
            kind="stack",
            curves=("patched", "in-context"),
            x_label="weight of the first task",
            y_label="probability",
            y_range=(0, 1),
            claims=("MT3",),
        ),
        Figure(
            id="plane",
            title="Task vectors in the discriminant plane",
            kind="scatter",
            curves=("plane",),
            x_label="first discriminant",
            y_label="second discriminant",
            claims=("MT3",),
        ),
        Figure(
            id="divergence",
            title="Divergence on a logarithmic axis",
            curves=("kl",),
            x_label="demonstrations",
            y_label="KL (nats)",
            log_y=True,
            claims=("MT2",),
        ),
        Figure(id="absent", title="Never measured", curves=("nowhere",), x_label="x", y_label="y"),
    ),
)

CACHE = Study(
    slug="tiny-cache",
    title="A Tiny Cache",
    room="inference",
    paper="Nobody 2024",
    card="docs/tiny-cache.md",
    summary="A cache a tenth the size. The study counts bytes.",
    config=StudyConfig,
    presets={"smoke": {"seeds": 1}, "laptop": {}, "gpu": {"seeds": 5}},
    claims=(
        Claim(
            id="C1",
            sentence="The cache is at least four times smaller.",
            paper_figure="4x",
            criteria={scale: at_least("ratio", 4) for scale in ("smoke", "laptop", "gpu")},
        ),
        Claim(
            id="C2",
            sentence="Nothing is lost.",
            paper_figure="within 0.1 points",
            criteria={scale: at_most("loss", 0.1) for scale in ("laptop", "gpu")},
            explanations={"gpu:fails": "At this length the dictionary is too small."},
        ),
    ),
    figures=(
        Figure(
            id="many",
            title="Nine sizes at once",
            curves=("sizes",),
            x_label="length (tokens)",
            y_label="bytes per token",
            claims=("C1",),
        ),
    ),
)

STUDIES = [MIXED, CACHE]


def row(table: str, curve: str, arm: str, x: float | str, value: float, low: float, high: float, n: int) -> dict:
    named = isinstance(x, str)
    return {
        "table": table,
        "curve": curve,
        "arm": arm,
        "x": None if named else float(x),
        "label": x if named else None,
        "value": value,
        "low": low,
        "high": high,
        "n": n,
    }


def mixed_rows() -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    rows = []
    for curve, top in (("mixture-word", 0.95), ("mixture-ab", 0.6)):
        for x in np.linspace(0, 1, 11):
            parts = {"first": top * x, "second": top * (1 - x)}
            for arm, value in (*parts.items(), ("other", 1 - sum(parts.values()))):
                rows.append(row("curve", curve, arm, x, value, max(value - 0.06, 0), min(value + 0.05, 1), 60))
    for curve, tasks in (
        ("panel-word", ("first", "last", "upper")),
        ("panel-country", ("capital", "continent")),
        ("panel-ab", ("copy A", "copy B", "add")),
    ):
        for arm in ("a-small-model", "a-larger-model"):
            for task in tasks:
                value = float(rng.uniform(0.05, 0.8))
                rows.append(row("curve", curve, arm, task, value, value * 0.8, min(value * 1.3, 1), 12))
    for curve in ("patched", "in-context"):
        for x in np.linspace(0, 1, 6):
            for arm, value in (("copy", 0.7 * x), ("capitalise", 0.7 * (1 - x)), ("other", 0.3)):
                rows.append(row("curve", curve, arm, x, value, value, value, 32))
    for number, arm in enumerate(("copy", "capitalise", "half and half")):
        for x, y in rng.normal((number * 3 - 3, number % 2), 0.6, (25, 2)):
            rows.append(row("sample", "plane", arm, x, y, y, y, 1))
    for x, value in ((4, 2.0), (8, 0.7), (16, math.inf), (32, 0.04), (64, 0.0), (128, 0.002)):
        rows.append(row("curve", "kl", "plain", x, value, value / 2, value * 2 if value else 0.001, 60))
    return rows


def mixed_measurements(good: bool = True) -> dict[str, list[Measurement]]:
    rng = np.random.default_rng(1)
    return {
        "MT1": [
            over_items("word.weaker-task", rng.uniform(0.2, 0.4, 60)),
            over_items("times-control", rng.uniform(20, 30, 60), unit="x"),
            exact("alt", 1.0),
            proportion("prompts-with-both", 51, 60),
            exact("width", 12345.0, unit="dims"),
            exact("error", 3.1e-12),
        ],
        "MT2": [
            over_seeds("kl", np.array([math.inf, math.inf, math.inf]) if good else np.full(3, 0.2), unit="nats"),
            over_seeds("kl-conditional", np.array([0.11, 0.12, 0.1])),
        ],
        "MT3": [over_items("largest-step-back", rng.normal(0.05, 0.05, 32))],
        "MT4": [proportion("word.first", 9, 12), proportion("country.capital", 0, 12)],
        "MT6": [proportion("after", 30, 32)],
    }


def record(
    study: Study | None,
    slug: str,
    scale: str,
    measurements: dict[str, list[Measurement]],
    *,
    minutes: int = 0,
    asked: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    source: str | None = None,
    changed: dict[str, Any] | None = None,
) -> RunRecord:
    started = NOON + timedelta(minutes=minutes)
    claims = []
    config: dict[str, Any] = {"model": "my-model"}
    if study is not None:
        config = study.configure(scale, changed or {})[0].model_dump(mode="json")
        unjudged = f"the config left the preset: {', '.join(changed)}" if changed else ""
        for claim in study.claims:
            skipped = bool(asked) and claim.id not in asked and claim.role != "unmeasurable"
            made = () if skipped else tuple(measurements.get(claim.id, ()))
            judgement = (
                Judgement(verdict="not judged", because=NOT_ASKED) if skipped else judge(claim, scale, made, unjudged)  # type: ignore[arg-type]
            )
            claims.append(
                ClaimRecord(
                    id=claim.id,
                    sentence=claim.sentence,
                    paper_figure=claim.paper_figure,
                    role=claim.role,
                    measurements=made,
                    judgement=judgement,
                )
            )
    else:
        for name, made in measurements.items():
            claims.append(
                ClaimRecord(
                    id=name,
                    sentence=HOSTILE,
                    paper_figure="none",
                    role="reported",
                    measurements=tuple(made),
                    judgement=Judgement(verdict="reported", because="your own model: nothing to compare with"),
                )
            )
    return RunRecord(
        id=f"{slug}--{utc(started)}--{minutes:08x}",
        study=slug,
        scale=scale,  # type: ignore[arg-type]
        preset=not changed,
        changed=tuple(changed or ()),
        config=config,
        device="cuda" if scale == "gpu" else "cpu",
        started=started,
        seconds=754.3,
        steps_run=31,
        steps_cached=4,
        environment=Environment(
            cpu="An Ordinary Processor @ 2.00GHz",
            cores=2,
            memory_gib=8,
            gpu="A Large GPU" if scale == "gpu" else "",
            system="Linux x86_64",
            python="3.12.1",
            packages={"superpose": "0.1.0", "torch": "2.13.0", "numpy": "2.3.1"},
        ),
        provenance=Provenance(commit="0123456789abcdef0123456789abcdef01234567", source=source or source_hash()),
        claims=tuple(claims),
        notes=notes,
        tables_sha256="",
    )


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=TABLE)


def fill(root: Path) -> Store:
    """Two known studies (three scales), an older run that is not shown, and two runs of a user's own model."""
    store = Store(root)
    rows = table(mixed_rows())
    store.save(record(MIXED, "mixed-tasks", "laptop", mixed_measurements(good=False), minutes=1), rows)
    store.save(
        record(
            MIXED,
            "mixed-tasks",
            "laptop",
            mixed_measurements(),
            minutes=2,
            notes=("gemma3-270m-q4_k_m is not in the cache and was left out", HOSTILE),
            source="an-older-source!",
        ),
        rows,
    )
    store.save(
        record(MIXED, "mixed-tasks", "smoke", mixed_measurements(), minutes=3, asked=("MT4",)), table(mixed_rows()[:66])
    )
    sizes = [
        row("curve", "sizes", f"{2**arm} bits", x, x * 0.1 * (arm + 1), x * 0.09 * (arm + 1), x * 0.11 * (arm + 1), 5)
        for arm in range(9)
        for x in (128, 512, 2048)
    ]
    cache = {"C1": [exact("ratio", 7.9, unit="x")], "C2": [over_seeds("loss", np.array([0.4, 0.5, 0.45, 0.44, 0.5]))]}
    store.save(record(CACHE, "tiny-cache", "gpu", cache, minutes=4), table(sizes))
    for minutes in (5, 6):
        own = {"P": [proportion("copy", 7, 12), exact("kl", math.inf, unit="nats")]}
        mine = [
            *(
                row("curve", "sweep", arm, x / 4, x / 8, x / 9, x / 7, 12)
                for arm in ("copy", HOSTILE)
                for x in range(5)
            ),
            *(row("curve", "tasks", "mine", name, 0.5, 0.25, math.inf, 12) for name in ("copy", "reverse")),
            *(row("sample", "vectors", "mine", x, x * x, x * x, x * x, 1) for x in range(5)),
        ]
        store.save(record(None, "my-own-model", "laptop", own, minutes=minutes, notes=(HOSTILE,)), table(mine))
    return store


def corrupt(store: Store) -> Path:
    """Truncate the newest run by hand."""
    folder = sorted(path for path in store.root.iterdir() if path.name.startswith("my-own-model"))[-1]
    text = (folder / "run.json").read_text()
    (folder / "run.json").write_text(text[: len(text) // 2])
    return folder
