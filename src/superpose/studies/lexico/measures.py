"""How the claims on codes, bytes and the identity are measured (L1, L2, L3, L7)."""

from itertools import pairwise

import numpy as np

from superpose.experiment import Measurement, Run, exact, over_items, paired_ratio
from superpose.studies.language_models import available, short
from superpose.studies.lexico import steps
from superpose.studies.lexico.config import AWAY, FAR, HOME, TRAIN, Config
from superpose.studies.lexico.samples import errors, head_dim, place, text, trained, vector_bytes

SIDES = ("key", "value")


def measure_errors(run: Run[Config]) -> None:
    """L1: trained and sampled atoms against random ones and principal components of the same bytes."""
    c = run.config
    arms = {
        "trained": errors(run, trained(run)),
        "sampled": errors(run, trained(run, updates=0)),
        "random": errors(run, f"{steps.RANDOM}:{c.atoms}"),
        "components": run.step(
            steps.component_errors,
            **place(run),
            **text(HOME),
            train={**text(TRAIN), "count": c.train_windows, "length": c.train_length},
            count=c.error_windows,
            length=c.error_length,
            components=[min(vector_bytes(s), head_dim(run)) for s in c.sparsities],
        ),
    }
    for arm, found in arms.items():
        for k, side in enumerate(SIDES):
            points = [over_items(f"{side}.{arm}.s{s}", found[i, :, k]) for i, s in enumerate(c.sparsities)]
            run.curve_of(f"error-{side}", arm, c.sparsities, points)
            run.measure("L1", *points)
    for arm in ("random", "components", "sampled"):
        run.measure("L1", _largest(f"trained-minus-{arm}", arms["trained"] - arms[arm]))
    _over_atoms(run, arms["trained"])


def _largest(name: str, differences: np.ndarray) -> Measurement:
    """The largest mean difference over sparsities, keys and values: below 0, one arm wins everywhere."""
    return over_items(name, differences.swapaxes(0, 1), statistic=lambda rows: float(rows.mean(0).max()))


def _over_atoms(run: Run[Config], main: np.ndarray) -> None:
    c = run.config
    by_atoms = {c.atoms: main} | {n: errors(run, trained(run, atoms=n)) for n in c.more_atoms if n != c.atoms}
    at = c.sparsities.index(c.sparsity)
    sizes = sorted(by_atoms)
    for k, side in enumerate(SIDES):
        points = [over_items(f"{side}.atoms{n}", by_atoms[n][at, :, k]) for n in sizes]
        run.curve_of("error-atoms", side, sizes, points)
    if len(sizes) > 1:
        steps_up = np.stack([by_atoms[b][at] - by_atoms[a][at] for a, b in pairwise(sizes)])
        run.measure("L1", _largest("more-atoms-minus-fewer", steps_up))


def measure_domains(run: Run[Config]) -> None:
    """L2: one dictionary on domains that it was not trained on, for every model that is here."""
    c = run.config
    at = c.sparsities.index(c.sparsity)
    for model in available(run, c.model, c.other_models):
        suffix = "" if model == c.model else f".{short(model)}"
        name = trained(run, model)
        rows_of = {HOME: at, AWAY: 0, FAR: 0}
        found = {d: errors(run, name, d, model)[row] for d, row in rows_of.items()}
        control = {d: errors(run, f"{steps.RANDOM}:{c.atoms}", d, model)[row] for d, row in rows_of.items()}
        for k, side in enumerate(SIDES):
            for arm, rows in (("trained", found), ("random", control)):
                points = [over_items(f"{side}.{arm}.{domain}{suffix}", rows[domain][:, k]) for domain in rows]
                run.curve_of(f"domains-{side}", f"{arm}{suffix}", list(rows), points)
        for domain in (AWAY, FAR):
            for k, side in enumerate(SIDES):
                run.measure(
                    "L2",
                    paired_ratio(
                        f"{side}-ratio.{domain}{suffix}", found[domain][:, k], found[HOME][:, k], over="items"
                    ),
                )
            gap = (found[domain] - control[domain])[None]
            run.measure("L2", _largest(f"trained-minus-random.{domain}{suffix}", gap))


def measure_bytes(run: Run[Config]) -> None:
    """L3: the live cache against the closed form."""
    c = run.config
    prompt = c.length - c.block
    found = run.step(
        steps.live_bytes,
        **place(run),
        **text(HOME),
        dictionaries=trained(run),
        sparsities=list(c.sparsities),
        prompt=prompt,
        generated=c.block,
        buffer=c.buffer,
        block=c.block,
    )
    gap = np.abs(found["live"] - found["closed"])
    run.measure("L3", exact("largest-mismatch", gap.max(), n=gap.size, unit="bytes"))
    share = found["live"][:, 0] / found["full"]  # by the paper's count
    run.measure("L3", *[exact(f"share.s{s}", x) for s, x in zip(c.sparsities, share, strict=True)])
    run.curve("bytes", "live cache", c.sparsities, share)
    run.curve("bytes", "closed form", c.sparsities, found["closed"][:, 0] / found["full"])
    far = [vector_bytes(s) / (2 * head_dim(run)) for s in c.sparsities]
    run.curve("bytes", "coded part alone", c.sparsities, far)


def measure_identity(run: Run[Config]) -> None:
    """L7: attention through codes against attention over what they stand for."""
    c = run.config
    sizes = {"sparsities": list(c.sparsities), "dim": max(c.sparsities) * 4, "atoms": 512, "tokens": 300}
    gaps = run.map(steps.factored_gap, [{"seed": seed, **sizes} for seed in run.seeds])
    run.measure("L7", exact("largest-difference", max(gaps), n=len(gaps) * len(c.sparsities)))
