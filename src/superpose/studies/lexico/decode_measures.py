"""How the claims on decoding are measured (L2's perplexity, L4, L5, L6, L8)."""

from collections.abc import Callable, Sequence

import numpy as np

from superpose.experiment import Measurement, Run, over_items, paired_difference, paired_ratio
from superpose.studies.lexico.config import AWAY, HOME, Config
from superpose.studies.lexico.samples import (
    EVICTIONS,
    KIVI,
    decoded,
    far_bytes,
    head_dim,
    lexico,
    nll,
    rivals,
    vector_bytes,
)
from superpose.studies.lexico.texts import COPY

FULL = {"kind": "full"}


def increase(name: str, ours: np.ndarray, theirs: np.ndarray) -> Measurement:
    """Perplexity over that of another arm, minus 1, on the same windows."""
    return over_items(name, ours - theirs, statistic=lambda rows: float(np.exp(rows.mean()) - 1))


def perplexity(name: str, rows: np.ndarray) -> Measurement:
    """Perplexity over all windows."""
    return over_items(name, rows, statistic=lambda x: float(np.exp(x.mean())))


def measure_perplexity(run: Run[Config]) -> None:
    """L4, and L2 away from home: perplexity, and agreement with the full cache, at the named sparsity."""
    s = run.config.sparsity
    # Token by token, as the paper evaluates; the comparison with other methods codes in their blocks instead.
    even = lexico(run, s, block=1)
    split = lexico(run, s + s // 2, value_sparsity=s - s // 2, block=1)  # the same bytes, more of them for keys
    for domain in (HOME, AWAY):
        if domain == HOME and "L4" not in run.claims:
            continue
        full, ours, other = decoded(run, domain, [FULL, even, split])
        claims = ["L4"] if domain == HOME else [claim for claim in ("L2", "L4") if claim in run.claims]
        run.measure(claims, increase(f"increase.{domain}", nll(ours), nll(full)))
        run.measure(claims, increase(f"increase-with-more-atoms-for-keys.{domain}", nll(other), nll(full)))
        same = (ours["choices"] == full["choices"]).mean(-1)
        run.measure(claims, over_items(f"agreement.{domain}", same))


def measure_copying(run: Run[Config]) -> None:
    """L4: random words that have left the exact window are to be repeated."""
    c = run.config
    shown = sorted({c.sparsities[0], c.sparsities[len(c.sparsities) // 2], c.sparsity})
    methods = [FULL, *(lexico(run, s) for s in shown)]
    others = {name: method for name, method in rivals(run).items() if name in (KIVI, "h2o")}
    names = ["full", *(f"s{s}" for s in shown), *others]
    scored = decoded(run, COPY, [*methods, *others.values()])
    accuracy = {name: one["right"].mean(-1) for name, one in zip(names, scored, strict=True)}
    run.curve_of("copying", "accuracy", names, [over_items(name, accuracy[name]) for name in names])
    run.measure("L4", over_items("copying.full", accuracy["full"]))
    run.measure("L4", over_items("copying.lexico", accuracy[f"s{c.sparsity}"]))
    if (accuracy["full"] > 0).all():
        relative = paired_ratio("copying.relative", accuracy[f"s{c.sparsity}"], accuracy["full"], over="items")
    else:
        # A sequence of which the full cache copies nothing has no ratio; the total has one, if anything is copied.
        total = max(accuracy["full"].mean(), np.finfo(float).tiny)
        relative = over_items("copying.relative", accuracy[f"s{c.sparsity}"] / total)
    run.measure("L4", relative)


def measure_rivals(run: Run[Config]) -> None:
    """L5 and L6: quantisation and eviction with the same exact window."""
    c = run.config
    dim = head_dim(run)
    others = rivals(run)
    shares = [vector_bytes(s) / (2 * dim) for s in c.sparsities]
    for domain in (HOME, AWAY):
        scored = decoded(run, domain, [FULL, *(lexico(run, s) for s in c.sparsities), *others.values()])
        rows = dict(zip(("full", *c.sparsities, *others), map(nll, scored), strict=True))
        curve = f"decode-{domain}"
        run.curve_of(curve, "full cache", [0.0, 1.0], [perplexity("full", rows["full"])] * 2)
        run.curve_of(curve, "Lexico", shares, [perplexity(f"s{s}", rows[s]) for s in c.sparsities])
        for name in others:
            run.curve_of(curve, name, [far_bytes(run, name)], [perplexity(name, rows[name])])
        for name in (KIVI, *EVICTIONS):
            run.measure(
                "L5",
                paired_difference(
                    f"lexico-minus-{name}.{domain}", rows[c.sparsity], rows[name], over="items", unit="nats"
                ),
            )
        for name in ("full", c.sparsity, *others):
            label = f"s{name}" if isinstance(name, int) else name
            run.measure("L5", perplexity(f"perplexity.{label}.{domain}", rows[name]))
        ours = np.stack([rows[s] for s in c.sparsities], axis=1)
        for name in (KIVI, "kivi4"):
            table = np.concatenate([rows[name][:, None], ours], axis=1)
            ratio = over_items(
                f"compression.{name}.{domain}", table, statistic=_compression(shares, far_bytes(run, name)), unit="x"
            )
            run.measure("L6", ratio)


def _compression(shares: Sequence[float], other: float) -> Callable[[np.ndarray], float]:
    """Bytes of another method over those of Lexico at its quality, which stands in column 0 of the rows."""

    def statistic(rows: np.ndarray) -> float:
        means = rows.mean(0)
        # Only codes that are better than every smaller one; np.interp wants them in strict order.
        better = [i for i, x in enumerate(means[1:]) if i == 0 or x < means[1 : i + 1].min()]
        ours = means[1:][better]
        if means[0] < ours[-1]:
            return 0.0  # no sparsity of the sweep reaches that quality
        # Where the sparsest code is better still, its bytes are an upper bound.
        return other / float(np.interp(-means[0], -ours, np.asarray(shares)[better]))

    return statistic


def measure_buffer(run: Run[Config]) -> None:
    """L8: sparsity against exact tokens at equal bytes, and what losing the buffer costs."""
    c = run.config
    points = buffers(c.sweep, c.budget, c.length, head_dim(run))
    rows = np.stack([nll(x) for x in decoded(run, HOME, [lexico(run, s, buffer=n, block=1) for s, n in points])])
    shown = [perplexity(f"s{s}", row) for (s, _), row in zip(points, rows, strict=True)]
    run.curve_of("buffer", f"{c.budget:.0%} of float16", [n for _, n in points], shown)
    largest = max(n for _, n in points)
    inside = [i for i, (_, n) in enumerate(points) if 0 < n < largest]
    ends = {"no-buffer": [i for i, (_, n) in enumerate(points) if n == 0], "largest-buffer": [0]}
    choose, report = np.arange(c.windows)[::2], np.arange(c.windows)[1::2]
    best = min(inside, key=lambda i: rows[i, choose].mean())
    run.note(f"L8: the best point inside is s={points[best][0]} with {points[best][1]} exact tokens")
    for end, at in ends.items():
        difference = paired_difference(
            f"inside-minus-{end}", rows[best, report], rows[at[-1], report], over="items", unit="nats"
        )
        run.measure("L8", difference)
    small = c.sparsities[1] if c.sparsities[1] < c.sparsity else c.sparsities[0]
    pairs = [(s, n) for s in (small, c.sparsity) for n in (0, c.small_buffer)]
    cost = [nll(x) for x in decoded(run, HOME, [lexico(run, s, buffer=n, block=1) for s, n in pairs])]
    run.measure(
        "L8",
        increase("losing-buffer.small", cost[0], cost[1]),
        increase("losing-buffer.named", cost[2], cost[3]),
        over_items(
            "losing-buffer.small-minus-named",
            np.stack(cost, axis=1),
            statistic=lambda x: (
                float(np.exp(x[:, 0].mean()) - np.exp(x[:, 1].mean()))
                - float(np.exp(x[:, 2].mean()) - np.exp(x[:, 3].mean()))
            ),
            unit="perplexity",
        ),
    )


def buffers(sweep: Sequence[int], budget: float, length: int, dim: int) -> list[tuple[int, int]]:
    """Sparsities, and the exact tokens that each leaves room for at one total of bytes after ``length`` tokens."""
    exact = 2 * dim
    room = [length * (budget * exact - vector_bytes(s)) / (exact - vector_bytes(s)) for s in sweep]
    return [(s, max(0, round(tokens))) for s, tokens in zip(sweep, room, strict=True)]
