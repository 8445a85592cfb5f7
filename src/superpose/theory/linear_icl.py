"""One step of preconditioned gradient descent on independent examples: the best preconditioner and its exact risk.

The predictor is ``x^T W X^T y``, a sum over the n labelled examples of a prompt (no 1/n), and the risk is the mean
squared error on the noisy label of the query. One layer of linear attention computes this predictor and, for tasks
of mean zero, nothing that is better (arXiv 2407.10005). Everything is exact for finite n and dim, in float64.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from superpose.errors import InputError

from .covariances import NO_VARIANCE, covariance, roots

Number = float | int | Tensor


@dataclass(frozen=True)
class PGDOptimum:
    """The best preconditioner and its risk.

    Attributes:
        preconditioner: W of ``x^T W X^T y``.
        risk: mean squared error on the noisy label.
    """

    preconditioner: Float[Tensor, "*sweep dim dim"]
    risk: Float[Tensor, "*sweep"]


@dataclass(frozen=True)
class LoraOptimum:
    """The best low-rank update of a preconditioner and the risk after it.

    Attributes:
        update: what is added to the pretrained W; its rank is at most the given one.
        risk: mean squared error on the noisy label of the new tasks.
    """

    update: Float[Tensor, "dim dim"]
    risk: Float[Tensor, ""]


def count(argument: str, value: Number, low: float = 1) -> Float[Tensor, "*sweep"]:
    """Return whole numbers from ``low`` on, as float64.

    Raises:
        InputError: one of them is something else.
    """
    wide = torch.as_tensor(value, dtype=torch.float64)
    if not bool(((wide >= low) & (wide == wide.round()) & torch.isfinite(wide)).all()):
        raise InputError(f"{argument} is {_shown(value)}; allowed: whole numbers, {low:g} or more")
    return wide


def amount(argument: str, value: Number, low: float = 0.0, high: float = float("inf")) -> Float[Tensor, "*sweep"]:
    """Return finite numbers in ``low..high``, as float64.

    Raises:
        InputError: one of them is something else.
    """
    wide = torch.as_tensor(value, dtype=torch.float64)
    if not bool(((wide >= low) & (wide <= high) & torch.isfinite(wide)).all()):
        raise InputError(f"{argument} is {_shown(value)}; allowed: {low:g} to {high:g}")
    return wide


def pgd_optimum(
    n: Number,
    inputs: Float[Tensor, "*sweep _ _"],
    tasks: Float[Tensor, "*sweep _ _"],
    noise: Number = 0.0,
    rank: int | None = None,
) -> PGDOptimum:
    """Return the best preconditioner of at most some rank, and its risk, for independent Gaussian examples.

    Assumes x and all x_i ~ N(0, inputs), independent; labels ``x^T beta + noise``, with beta independent of them. Only
    the second moment of beta enters, so a mean m of beta is covered by ``tasks + m m^T`` (but then linear attention can
    do better than this predictor). Directions without variance get no weight, the limit of the formula.

    Args:
        n: labelled examples in the prompt; broadcasts over the sweep.
        inputs: covariance of the inputs.
        tasks: covariance of beta (second moment, if its mean is not zero).
        noise: standard deviation of the label noise, that of the query's label included; broadcasts over the sweep.
        rank: the largest rank of W, 0..dim (the columns of the query and key matrices); None for full rank.

    Raises:
        InputError: n below 1, noise below 0, a matrix that is no covariance, two of different size, or a rank above
            the dimension.
    """
    n, variance = count("n", n), amount("noise", noise).square()
    _, inverse, whitened = _whiten(inputs, tasks)
    dim = whitened.shape[-1]
    values, vectors = torch.linalg.eigh(whitened)
    values, vectors = values.clamp_min(0).flip(-1), vectors.flip(-1)
    kept = _keep(rank, dim).to(values.device) & (values > NO_VARIANCE * values[..., :1])
    total = values.sum(-1)
    below = (n + 1).unsqueeze(-1) * values + (total + variance).unsqueeze(-1)
    weights = torch.where(kept, values / torch.where(kept, below, 1.0), 0.0)
    risk = total + variance - n * (weights * values).sum(-1)
    inner = (vectors * weights.unsqueeze(-2)) @ vectors.mT
    return PGDOptimum(inverse @ inner @ inverse, risk)


def pgd_risk(
    preconditioner: Float[Tensor, "*sweep _ _"],
    n: Number,
    inputs: Float[Tensor, "*sweep _ _"],
    tasks: Float[Tensor, "*sweep _ _"],
    noise: Number = 0.0,
) -> Float[Tensor, "*sweep"]:
    """Return the exact risk of any preconditioner; the assumptions and arguments of `pgd_optimum`.

    Raises:
        InputError: as `pgd_optimum`, or a preconditioner of another size or with entries that are not finite.
    """
    n, variance = count("n", n), amount("noise", noise).square()
    root, _, whitened = _whiten(inputs, tasks)
    size = list(whitened.shape[-2:])
    if list(preconditioner.shape[-2:]) != size or not bool(torch.isfinite(preconditioner).all()):
        raise InputError(f"preconditioner has shape {list(preconditioner.shape)}; allowed: [..., *{size}], finite")
    inner = root @ preconditioner.double() @ root
    total = whitened.diagonal(dim1=-2, dim2=-1).sum(-1)
    cross = (inner * whitened).sum((-2, -1))
    square = ((inner @ _second_moment(n, whitened, variance)) * inner).sum((-2, -1))
    return total + variance - 2 * n * cross + square


def lora_optimum(
    pretrained: Float[Tensor, "_ _"],
    n: int,
    tasks: Float[Tensor, "_ _"],
    noise: float = 0.0,
    rank: int = 1,
    inputs: Float[Tensor, "_ _"] | None = None,
) -> LoraOptimum:
    """Return the best update of at most some rank to a pretrained preconditioner, and the exact risk after it.

    The risk is a quadratic form around the new optimum, so the best update is a truncated singular value decomposition
    in its metric. Where old and new task covariances commute this is the paper's sum over eigen-directions.

    Args:
        pretrained: W before adaptation, for example ``pgd_optimum(...).preconditioner`` of the old tasks.
        n: labelled examples in the prompt.
        tasks: covariance of the new tasks.
        noise: standard deviation of the label noise.
        rank: the largest rank of the update, 0..dim.
        inputs: covariance of the inputs; default the identity.

    Raises:
        InputError: as `pgd_optimum`, or a pretrained W of another size.
    """
    identity = torch.eye(tasks.shape[-1], dtype=torch.float64, device=tasks.device)
    inputs = identity if inputs is None else inputs
    best = pgd_optimum(n, inputs, tasks, noise)
    if pretrained.shape != best.preconditioner.shape:
        raise InputError(
            f"pretrained has shape {list(pretrained.shape)}; allowed: {list(best.preconditioner.shape)}, as tasks"
        )
    root, inverse, whitened = _whiten(inputs, tasks)
    curvature = _second_moment(count("n", n), whitened, amount("noise", noise).square())
    metric, metric_inverse = roots(curvature)
    missing = root @ (best.preconditioner - pretrained.double()) @ root @ metric
    left, values, right = torch.linalg.svd(missing)
    kept = _keep(rank, len(values)).to(values.device)
    inner = (left * (values * kept)) @ right @ metric_inverse
    return LoraOptimum(inverse @ inner @ inverse, best.risk + (values * ~kept).square().sum())


def effective_sample_size(
    risk: Number, dim: Number, noise: Number = 0.0, signal: Number | None = None
) -> Float[Tensor, "*sweep"]:
    """Return how many independent isotropic examples give the same quality: the inverse of the i.i.d. formula.

    The quality is the share of the signal's variance that is left, ``(risk - noise^2) / signal``; independent examples
    leave ``1 - n / (n + dim + 1 + noise^2)``.

    Args:
        risk: mean squared error on the noisy label, for example ``rag_optimum(...).risk``.
        dim: coordinates of an input.
        noise: standard deviation of the label noise.
        signal: variance of the label without noise; default ``dim``, which is right for the i.i.d. and retrieval
            designs.

    Returns:
        A real number, 0 where the prompt does not help, infinite where nothing is left to explain.

    Raises:
        InputError: a risk outside ``noise^2 .. signal + noise^2``, or a size below 1.
    """
    dim, variance = count("dim", dim), amount("noise", noise).square()
    signal = dim if signal is None else amount("signal", signal)
    risk = amount("risk", risk)
    left = (risk - variance) / signal
    if not bool(((left >= 0) & (left <= 1 + 1e-9)).all()):
        raise InputError(
            f"risk is {_shown(risk)}; allowed: from the noise's variance to that plus the signal's variance"
        )
    return (dim + 1 + variance) * (1 - left).clamp_min(0) / left


def sample_weights(
    maps: Float[Tensor, "context dim dim"],
) -> tuple[Float[Tensor, "dim dim"], Float[Tensor, " context"]]:
    """Split ``sum_i y_i x^T W_i x_i`` into one preconditioner and a weight per example, of mean 1.

    The best rank-one fit of the maps; exact where all W_i are multiples of one matrix, as in a weighted step.

    Args:
        maps: W_i of every place of the context, as `superpose.models.recover_preconditioner` returns them.

    Raises:
        InputError: weights that add up to zero, which have no mean to scale by.
    """
    left, values, right = torch.linalg.svd(maps.double().flatten(1), full_matrices=False)
    weights = left[:, 0] * values[0]
    mean = weights.mean()
    if float(mean.abs()) <= NO_VARIANCE * float(values[0]):
        raise InputError(f"maps have weights that add up to {float(weights.sum()):.3g}; allowed: not to zero")
    return (right[0] * mean).unflatten(0, maps.shape[1:]).to(maps), (weights / mean).to(maps)


def _whiten(
    inputs: Tensor, tasks: Tensor
) -> tuple[Float[Tensor, "*sweep dim dim"], Float[Tensor, "*sweep dim dim"], Float[Tensor, "*sweep dim dim"]]:
    """Return the root of the input covariance, its pseudo-inverse, and the task covariance for white inputs."""
    inputs, tasks = covariance("inputs", inputs), covariance("tasks", tasks)
    if inputs.shape[-1] != tasks.shape[-1]:
        raise InputError(f"tasks has {tasks.shape[-1]} dimensions; allowed: {inputs.shape[-1]}, as inputs")
    root, inverse = roots(inputs)
    return root, inverse, root @ tasks @ root


def _second_moment(n: Tensor, whitened: Tensor, variance: Tensor) -> Float[Tensor, "*sweep dim dim"]:
    """Return ``E u u^T`` of ``u = X^T y`` for white inputs."""
    total = whitened.diagonal(dim1=-2, dim2=-1).sum(-1)
    identity = torch.eye(whitened.shape[-1], dtype=whitened.dtype, device=whitened.device)
    same, other = n * (n + 1), n * (total + variance)
    return same[..., None, None] * whitened + other[..., None, None] * identity


def _keep(rank: int | None, dim: int) -> Tensor:
    if rank is None:
        return torch.ones(dim, dtype=torch.bool)
    if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank <= dim:
        raise InputError(f"rank is {rank!r}; allowed: a whole number from 0 to the dimension {dim}")
    return torch.arange(dim) < rank


def _shown(value: Number) -> str:
    return str(value.tolist()) if isinstance(value, Tensor) else repr(value)
