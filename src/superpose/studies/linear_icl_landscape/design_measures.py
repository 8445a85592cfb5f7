"""How the claims on retrieved and aligned examples are measured (I4 and I5)."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from superpose.experiment import Run, exact, over_items
from superpose.studies.linear_icl_landscape import steps
from superpose.studies.linear_icl_landscape.config import Config
from superpose.studies.linear_icl_landscape.figures import (
    LARGE_DIMS,
    SAMPLED_ALPHAS,
    SAMPLED_DIM,
    SAMPLED_LENGTHS,
    SAMPLED_NOISE,
)
from superpose.studies.linear_icl_landscape.measures import extremes, largest_gap, log2, over_exact, points, train
from superpose.theory import (
    aligned_approximation,
    aligned_optimum,
    aligned_signal,
    effective_sample_size,
    kappa,
    rag_approximation,
    rag_optimum,
)

FINE = tuple(i / 50 for i in range(31))  # alphas of lines without sampled points
LINE = (0.0, *SAMPLED_ALPHAS, 0.6)


@dataclass(frozen=True)
class Kind:
    """One of the two designs: its name, the paper's power of kappa, and its formulas."""

    name: str
    claim: str
    power: int

    @property
    def design(self) -> str:
        """The registered name."""
        return f"{self.name}-linear"

    def risk(self, dim: Any, n: Any, alpha: Any, noise: float, approximate: bool = False) -> torch.Tensor:
        """Exact or approximate risk."""
        pair = (rag_optimum, rag_approximation) if self.name == "rag" else (aligned_optimum, aligned_approximation)
        return pair[approximate](dim, n, alpha, noise).risk

    def worth(self, dim: Any, n: Any, alpha: Any, noise: float) -> torch.Tensor:
        """Independent examples per example, from the exact risk."""
        signal = None if self.name == "rag" else aligned_signal(dim, alpha)
        return effective_sample_size(self.risk(dim, n, alpha, noise), dim, noise, signal) / torch.as_tensor(n)


RAG, ALIGNED = Kind("rag", "I4", 1), Kind("aligned", "I5", 2)


def measure_design(run: Run[Config], kind: Kind, alphas: tuple[float, ...]) -> None:
    """I4 and I5: the exact risk against samples and trained layers, and the approximation in large dimensions."""
    _sampled(run, kind)
    _large(run, kind)
    c = run.config
    alphas = tuple(sorted(alphas))
    fields = {"name": kind.design, "dim": c.dim, "points": c.noisy_length}
    cells = train(run, steps.ATTENTION, [{"alpha": alpha, **fields} for alpha in alphas], restarts=c.restarts)
    run.measure(kind.claim, largest_gap("trained.largest-risk-gap", cells))
    line = sorted({0.0, *alphas})
    values = kind.risk(c.dim, c.noisy_length, torch.tensor(line, dtype=torch.float64), 0.0) / c.dim
    run.curve(f"trained-{kind.name}", "best gradient step (exact)", line, values.numpy())
    points(run, f"trained-{kind.name}", "linear attention (trained)", alphas, cells)


def _sampled(run: Run[Config], kind: Kind) -> None:
    """Fifteen cells of length and alpha."""
    fields = {"name": kind.design, "dim": SAMPLED_DIM, "noise": SAMPLED_NOISE}
    common = {"ranks": [None], "prompts": run.config.sampled_prompts, "seed": 0}
    cells = [(n, alpha) for n in SAMPLED_LENGTHS for alpha in SAMPLED_ALPHAS]
    items = [{"design": {"points": n, "alpha": alpha, **fields}, **common} for n, alpha in cells]
    found = dict(zip(cells, run.map(steps.sampled, items), strict=True))
    run.measure(kind.claim, *extremes([over_exact(one["errors"][0], one["exact"][0]) for one in found.values()]))
    line, fine, most = torch.tensor(LINE, dtype=torch.float64), torch.tensor(FINE, dtype=torch.float64), []
    for i, n in enumerate(SAMPLED_LENGTHS):
        known = kind.risk(SAMPLED_DIM, n, line, SAMPLED_NOISE)
        guess = kind.risk(SAMPLED_DIM, n, line, SAMPLED_NOISE, approximate=True)
        curve = f"{kind.name}-{i}"
        run.curve(curve, "exact", LINE, known.numpy() / SAMPLED_DIM)
        run.curve(curve, "paper's approximation", LINE, guess.numpy() / SAMPLED_DIM)
        drawn = [over_items("risk", found[n, alpha]["errors"][0] / SAMPLED_DIM) for alpha in SAMPLED_ALPHAS]
        run.curve_of(curve, "sampled", SAMPLED_ALPHAS, drawn)
        worth = kind.worth(SAMPLED_DIM, n, fine, SAMPLED_NOISE)
        run.curve(f"worth-{kind.name}", f"exact, n = {n}", FINE, worth.numpy())
        most.append(float((guess / known - 1).abs()[LINE.index(0.3)]))
    law = "kappa" if kind.power == 1 else "kappa^2"
    run.curve(f"worth-{kind.name}", f"{law} (paper)", FINE, kappa(SAMPLED_DIM, fine).pow(kind.power).numpy())
    run.measure(kind.claim, exact("approximation-gap-at-alpha-0.3-dim-20", max(most), n=len(most)))


def _large(run: Run[Config], kind: Kind) -> None:
    """How the approximation's relative gap falls with the dimension, and what an example is worth there."""
    dims = torch.tensor(LARGE_DIMS)
    alpha = dims.double().rsqrt()
    known = kind.risk(dims, 2 * dims, alpha, SAMPLED_NOISE)
    gaps = (kind.risk(dims, 2 * dims, alpha, SAMPLED_NOISE, approximate=True) / known - 1).abs()
    slope = float((gaps[-1] / gaps[-2]).log()) / math.log(LARGE_DIMS[-1] / LARGE_DIMS[-2])
    promised = kappa(dims, alpha).pow(kind.power)
    worth = kind.worth(dims, 2 * dims, alpha, SAMPLED_NOISE) / promised
    law = "kappa" if kind.power == 1 else "kappa^2"
    name = "retrieved" if kind.name == "rag" else "task-aligned"
    run.curve("gap", name, log2(LARGE_DIMS), gaps.numpy())
    run.measure(
        kind.claim,
        exact("slope-of-the-gap", slope),
        exact("gap-at-largest-dim", gaps[-1]),
        exact(f"worth-over-{law.replace('^', '')}", worth[-1]),
    )
