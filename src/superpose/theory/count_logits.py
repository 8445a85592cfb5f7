"""The multinomial logit whose offsets are log-counts: what softmax attention over repeated tokens is.

For a prompt that holds token j m_j times and ends with token k, the next token is j with probability

    m_j exp(theta[j, k]) / sum_i m_i exp(theta[i, k]).

Orientation, everywhere in this file: ``logits[j, k]``, row j the candidate, column k the last token. The likelihood
is concave in the logits, so fitting is Newton's method.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from superpose.errors import InputError

# Curvature below this share of a problem's largest at 0 is rounding: a direction that is not identified, or one in
# which the likelihood rises for ever. Small beside the tolerance, or such directions would never be done with.
FLAT = 1e-13
MOST_NEWTON_STEPS = 200
ARMIJO = 1e-4
ROUNDING = 1e-14


def count_log_probabilities(
    logits: Float[Tensor, "vocabulary vocabulary"],
    counts: Num[Tensor, "samples vocabulary"],
    last: Int[Tensor, " samples"],
) -> Float[Tensor, "samples vocabulary"]:
    """Return the log-probabilities of the next token, -inf for tokens with count 0.

    Args:
        logits: theta[j, k], row = candidate, column = last token.
        counts: how often each token occurs in each prompt; positive reals are allowed (position weights).
        last: last token of each prompt.
    """
    scores = logits.mT[last] + counts.to(logits.dtype).log()
    return scores.log_softmax(-1)


def count_log_likelihood(
    logits: Float[Tensor, "vocabulary vocabulary"],
    counts: Num[Tensor, "samples vocabulary"],
    last: Int[Tensor, " _"],
    targets: Int[Tensor, " _"],
    weights: Float[Tensor, " _"] | None = None,
) -> Float[Tensor, ""]:
    """Return the weighted sum of the targets' log-probabilities; by default their mean. Differentiable in the logits.

    Args:
        logits: theta[j, k], row = candidate, column = last token.
        counts: how often each token occurs in each prompt.
        last: last token of each prompt.
        targets: the token that followed.
        weights: of each sample; 1/samples by default.

    Raises:
        InputError: a target that does not occur in its prompt (probability 0), or ids, counts or shapes that do not
            fit together.
    """
    check_samples(counts, last, targets, len(logits), weights)
    chosen = count_log_probabilities(logits, counts, last).gather(1, targets[:, None]).squeeze(1)
    return chosen.mean() if weights is None else (weights.to(chosen) * chosen).sum()


def fit_count_logits(
    counts: Num[Tensor, "samples vocabulary"],
    last: Int[Tensor, " _"],
    targets: Int[Tensor, " _"],
    vocabulary: int,
    *,
    weights: Float[Tensor, " _"] | None = None,
    basis: Float[Tensor, "logits coordinates"] | None = None,
    l2: float = 0.0,
    start: Float[Tensor, " coordinates"] | None = None,
    tolerance: float = 1e-11,
) -> Float[Tensor, "vocabulary vocabulary"]:
    """Return the maximum-likelihood logits, by damped Newton steps in float64.

    What the data do not identify stays 0: without a basis every column sums to 0 over each group of tokens that the
    prompts contrast with one another, and columns without data are 0 (the minimum-norm solution). Where a token of a
    prompt was never chosen the likelihood has no maximum, and the logits stop where it rises by less than
    ``tolerance``: some of them are then large numbers that stand for infinity.

    Args:
        counts: how often each token occurs in each prompt.
        last: last token of each prompt.
        targets: the token that followed, one of its prompt.
        vocabulary: number of tokens, at least 2.
        weights: of each sample; 1/samples by default.
        basis: columns that span the allowed logits, each a ``[vocabulary, vocabulary]`` table flattened row by row;
            all logits by default.
        l2: ``l2 / 2`` times the sum of squared coordinates is added to minus the likelihood: of all logits, or of the
            coefficients of the basis (for an orthonormal basis of weight matrices that is their Frobenius norm).
        start: coefficients of the basis to start from; 0 by default. Only with a basis.
        tolerance: the last Newton step is the one that promises a rise of at most this, in units of the largest
            curvature at zero logits; what is left after it is about the square.

    Raises:
        InputError: as in `count_log_likelihood`; a vocabulary below 2, a basis of another size, a negative l2.
        RuntimeError: Newton's method did not end.
    """
    if vocabulary < 2:
        raise InputError(f"vocabulary is {vocabulary}; allowed: at least 2 tokens")
    if not l2 >= 0:
        raise InputError(f"l2 is {l2}; allowed: 0 or more")
    if basis is not None and len(basis) != vocabulary**2:
        raise InputError(f"basis has {len(basis)} rows; allowed: {vocabulary**2}, one per logit")
    if start is not None and (basis is None or len(start) != basis.shape[1]):
        raise InputError(
            f"start has {len(start)} coefficients; allowed: one per column of a basis, which must be given"
        )
    check_samples(counts, last, targets, vocabulary, weights)
    problem = _Likelihood(counts, last, targets, vocabulary, weights)
    if basis is None:
        found = newton_maximise(
            problem.by_column, torch.zeros(vocabulary, vocabulary, dtype=torch.float64), l2, tolerance
        )
        return found.mT
    span = basis.double()
    begin = torch.zeros(span.shape[1], dtype=torch.float64) if start is None else start.double()
    found = newton_maximise(lambda x: problem.on_basis(span, x), begin[None], l2, tolerance)
    return (span @ found[0]).view(vocabulary, vocabulary)


def count_information(
    logits: Float[Tensor, "vocabulary vocabulary"],
    counts: Num[Tensor, "samples vocabulary"],
    last: Int[Tensor, " samples"],
    weights: Float[Tensor, " samples"] | None = None,
) -> Float[Tensor, "vocabulary vocabulary vocabulary"]:
    """Return the Fisher information about each column of logits: entry k is the matrix for last token k.

    Weights default to 1/samples, as in `count_log_likelihood`.
    """
    problem = _Likelihood(counts, last, None, len(logits), weights)
    return problem.by_column(logits.double().mT).curvature


def check_samples(
    counts: Num[Tensor, "samples vocabulary"],
    last: Int[Tensor, " _"],
    targets: Int[Tensor, " _"],
    vocabulary: int,
    weights: Float[Tensor, " _"] | None = None,
) -> None:
    """Refuse prompts and targets that the model cannot have produced.

    Raises:
        InputError: no sample, sizes that differ, ids outside the vocabulary, negative or infinite counts, negative
            weights, or a target that does not occur in its prompt.
    """
    samples = len(counts)
    if samples == 0:
        raise InputError("counts has no sample; allowed: at least one")
    if counts.shape[1] != vocabulary:
        raise InputError(f"counts has {counts.shape[1]} columns; allowed: {vocabulary}, one per token")
    for name, ids in (("last", last), ("targets", targets)):
        if len(ids) != samples:
            raise InputError(f"{name} has {len(ids)} entries; allowed: {samples}, one per sample")
        if not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
            raise InputError(
                f"{name} has tokens from {int(ids.min())} to {int(ids.max())}; allowed: 0 to {vocabulary - 1}"
            )
    if not bool(((counts >= 0) & torch.isfinite(counts.double())).all()):
        raise InputError("counts has a negative or infinite entry; allowed: 0 or more")
    if weights is not None and (len(weights) != samples or not bool((weights >= 0).all())):
        raise InputError(f"weights must be {samples} numbers, one per sample, 0 or more")
    missing = counts.gather(1, targets[:, None]).squeeze(1) == 0
    if bool(missing.any()):
        sample = int(missing.nonzero()[0])
        raise InputError(
            f"targets[{sample}] is {int(targets[sample])}, which does not occur in its prompt: its probability is 0; "
            "allowed: tokens of the prompt"
        )


class Quadratic(NamedTuple):
    """A concave function of several problems at once, to second order: value, gradient and minus the Hessian."""

    value: Float[Tensor, " problems"]
    gradient: Float[Tensor, "problems coordinates"]
    curvature: Float[Tensor, "problems coordinates coordinates"]


def newton_maximise(
    local: Callable[[Tensor], Quadratic], start: Float[Tensor, "problems coordinates"], l2: float, tolerance: float
) -> Float[Tensor, "problems coordinates"]:
    """Maximise concave functions side by side, each by damped Newton steps in the directions with curvature.

    Args:
        local: the functions at a point, to second order.
        start: where to begin; what has no curvature stays there.
        l2: ``l2 / 2`` times the squared norm is subtracted from each.
        tolerance: the last step of each problem is the one whose expected rise is at most this, in units of the
            problem's largest curvature at 0.

    Raises:
        RuntimeError: it did not end in MOST_NEWTON_STEPS steps.
    """

    def penalised(x: Tensor) -> Quadratic:
        value, gradient, curvature = local(x)
        ridge = l2 * torch.eye(x.shape[1], dtype=x.dtype)
        return Quadratic(value - l2 / 2 * x.square().sum(1), gradient - l2 * x, curvature + ridge)

    scale = torch.linalg.eigvalsh(local(torch.zeros_like(start)).curvature)[:, -1].clamp_min(0)
    x, here, last = start, penalised(start), torch.zeros(len(start), dtype=torch.bool)
    for _ in range(MOST_NEWTON_STEPS):
        values, vectors = torch.linalg.eigh(here.curvature)
        curved = (values > FLAT * scale[:, None]) | (l2 > 0)
        slope = torch.einsum("pij,pi->pj", vectors, here.gradient)
        move = torch.where(curved, slope / torch.where(curved, values, 1.0), 0.0)
        step = torch.einsum("pij,pj->pi", vectors, move)
        rise = (here.gradient * step).sum(1)
        going = ~last & (rise > 0)
        if not bool(going.any()):
            return x
        last = last | (rise <= tolerance * scale)
        length = going.to(x.dtype)
        rounding = ROUNDING * here.value.abs().clamp_min(1.0)
        while True:
            there = penalised(x + length[:, None] * step)
            # At the top the rise drowns in rounding, and a full step is as good as any.
            short = going & (there.value < here.value + ARMIJO * length * rise - rounding)
            if not bool(short.any()):
                break
            length = torch.where(short, length / 2, length)
        x, here = x + length[:, None] * step, there
    raise RuntimeError(
        f"Newton's method did not end in {MOST_NEWTON_STEPS} steps; the data may be degenerate: try l2 > 0"
    )


class _Likelihood:
    """Samples sorted by their last token, and the weighted log-likelihood (up to a constant) to second order."""

    def __init__(self, counts: Tensor, last: Tensor, targets: Tensor | None, vocabulary: int, weights: Tensor | None):
        order = last.argsort(stable=True)
        groups = torch.bincount(last, minlength=vocabulary).tolist()
        even = torch.full((len(last),), 1 / len(last), dtype=torch.float64)
        each = even if weights is None else weights.double()[order]
        self.offsets = counts.double()[order].log().split(groups)
        self.weights = each.split(groups)
        self.targets = None if targets is None else targets[order, None].split(groups)
        self.chosen = torch.zeros(vocabulary, vocabulary, dtype=torch.float64)
        if targets is not None:
            self.chosen.index_put_((last[order], targets[order]), each, accumulate=True)

    def by_column(self, columns: Tensor) -> Quadratic:
        """Row k of ``columns`` holds the logits for last token k."""
        value, gradient = (columns * self.chosen).sum(1), torch.zeros_like(columns)
        curvature = columns.new_zeros(*columns.shape, columns.shape[1])
        for k, (offsets, weights) in enumerate(zip(self.offsets, self.weights, strict=True)):
            scores = offsets + columns[k]
            normaliser = scores.logsumexp(1, keepdim=True)
            p = scores.sub_(normaliser).exp_()
            weighted = p * weights[:, None]
            value[k] -= weights @ normaliser.squeeze(1)
            curvature[k] = torch.diag(weighted.sum(0)) - weighted.mT @ p
            if self.targets is not None:
                # 1 - p as the sum of the others: where p is nearly 1, the difference would be all rounding.
                weighted.scatter_(1, self.targets[k], 0.0)
                weighted.scatter_(1, self.targets[k], -weighted.sum(1, keepdim=True))
                gradient[k] = -weighted.sum(0)
        return Quadratic(value, gradient, curvature)

    def on_basis(self, span: Tensor, x: Tensor) -> Quadratic:
        """The same over coefficients of a basis, as one problem."""
        size = len(self.chosen)
        columns = (span @ x[0]).view(size, size).mT
        whole = self.by_column(columns)
        # Rows of the basis by column of the logits, as the curvature is.
        parts = span.view(size, size, -1).transpose(0, 1)
        gradient = torch.einsum("kjc,kj->c", parts, whole.gradient)
        curvature = torch.einsum("kic,kij,kjd->cd", parts, whole.curvature, parts)
        return Quadratic(whole.value.sum()[None], gradient[None], curvature[None])
