"""How a language model's continuations and chains of letters are measured (M10)."""

from collections.abc import Mapping

import numpy as np

from superpose.experiment import Run, exact, over_items, paired_difference
from superpose.models import resolve
from superpose.studies.language_models import available, short
from superpose.studies.self_attention_markov import text_steps
from superpose.studies.self_attention_markov.config import Config
from superpose.studies.self_attention_markov.trajectory_measures import lengths, logs
from superpose.theory import collapse_report


def measure_language(run: Run[Config]) -> None:
    """M10 on greedy continuations of the main model; M10T on sampled ones, and on how counts act in both."""
    c = run.config
    for index, model in enumerate(available(run, c.model, c.other_models)):
        prefix = "" if index == 0 else f"{short(model)}."
        for kind, sampled in (("greedy", False), ("sampled", True)):
            one = run.step(
                text_steps.continuations,
                model=model,
                dtype=c.dtype,
                prompts=c.text_prompts,
                new_tokens=c.new_tokens,
                sampled=sampled,
                seed=40,
                fingerprint=resolve(model).fingerprint,
            )
            report = collapse_report(one["ids"].tolist(), window=c.window, ngrams=(1, 2))
            distinct = report.distinct[1].numpy()
            windows = [str(1 + at) for at in range(distinct.shape[1])]
            arm = f"{short(model)}, {kind}"
            run.curve_of("distinct", arm, windows, [over_items("share", column) for column in distinct.T])
            tops = report.window_top_share.numpy()
            run.curve_of("window-top", arm, windows, [over_items("share", column) for column in tops.T])
            run.measure(
                "M10T" if sampled else "M10",
                paired_difference(f"{prefix}{kind}.change", distinct[:, -1], distinct[:, 0], over="items"),
                over_items(f"{prefix}{kind}.distinct-first-window", distinct[:, 0]),
                over_items(f"{prefix}{kind}.distinct-last-window", distinct[:, -1]),
                over_items(f"{prefix}{kind}.distinct-bigrams-last-window", report.distinct[2].numpy()[:, -1]),
                over_items(f"{prefix}{kind}.top-share-last-window", tops[:, -1]),
            )
            _count_effects(run, f"{prefix}{kind}", one)


def _count_effects(run: Run[Config], prefix: str, one: Mapping[str, np.ndarray]) -> None:
    told = [np.isfinite(row) for row in one["slope"]]
    if not all(row.any() for row in told):
        run.note(f"{prefix}: in some text all tokens occur equally often, so the effect of counts is not measured")
        return
    shares = {
        "steps-where-commoner-is-likelier": "correlation",
        "steps-where-counts-add-to-the-last-token": "raised",
    }
    for name, key in shares.items():
        values = [float((row[kept] > 0).mean()) for row, kept in zip(one[key], told, strict=True)]
        run.measure("M10T", over_items(f"{prefix}.{name}", values))
    slopes = [float(np.median(row[kept])) for row, kept in zip(one["slope"], told, strict=True)]
    run.measure("M10T", over_items(f"{prefix}.median-slope-on-log-count", slopes))


def measure_characters(run: Run[Config]) -> None:
    """M10C: effective numbers of characters after the whole continuation."""
    c = run.config
    at = lengths(c.steps)
    trajectories = max(8, c.trajectories // 3)
    one = run.step(text_steps.letter_chains, trajectories=trajectories, at=at, seed=50, text=text_steps.digest())
    for kind, arm in (("counted", "multiplied by counts"), ("plain", "plain")):
        run.curve_of("characters", arm, logs(at), [over_items("effective", column) for column in one[kind].T])
        run.measure("M10C", over_items(f"{kind}.effective-characters", one[kind][:, -1]))
    run.measure("M10C", exact("characters-that-dominate-their-row", one["dominant"], n=len(text_steps.LETTERS)))
