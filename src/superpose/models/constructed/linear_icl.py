"""One-layer in-context learners of linear regression: linear attention, H3, and the gradient step that both compute.

A prompt is n rows ``(x_i, y_i)``, oldest first, and the query's row ``(x, 0)``, as `superpose.tasks.LinearDesign` draws
them; every module maps ``[batch, n + 1, dim + 1]`` to one prediction per prompt. From arXiv 2407.10005.
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

from superpose.errors import InputError, choose
from superpose.models.context import Context
from superpose.models.learners import seeded
from superpose.models.mixers.linear_attention import LinearAttention

PROBED = 1 << 22  # numbers in the prompts that read off a preconditioner at a time


class PromptRegressor(nn.Module):
    """Base: checks prompts before they are answered.

    Args:
        dim: coordinates of an input.
    """

    def __init__(self, dim: int):
        super().__init__()
        if dim < 1:
            raise InputError(f"dim is {dim}; allowed: 1 or more")
        self.dim = dim

    def predict(self, prompts: Float[Tensor, "batch rows width"]) -> Float[Tensor, " batch"]:
        """Predict the query's label of prompts that need no check."""
        raise NotImplementedError

    def forward(self, prompts: Float[Tensor, "batch rows width"]) -> Float[Tensor, " batch"]:
        """Predict the query's label.

        Args:
            prompts: rows ``(x_i, y_i)`` and, last, ``(x, 0)``.

        Raises:
            InputError: another width, no example, or a label in the query's row.
        """
        if prompts.shape[-1] != self.dim + 1 or prompts.shape[1] < 2:
            raise InputError(
                f"prompts has shape {list(prompts.shape)}; allowed: [batch, n + 1, {self.dim + 1}] with n >= 1"
            )
        leaked = int((prompts[:, -1, -1] != 0).sum())
        if leaked:
            raise InputError(f"prompts has {leaked} with a label in the query's row; allowed: 0 there, it is asked for")
        return self.predict(prompts)


class PromptLearner(nn.Module):
    """A regressor as `superpose.training` calls learners: ``(inputs, reads) -> [batch, reads, 1]``.

    A `superpose.tasks.LinearDesign` leaks no label, so prompts are not checked, which also lets trainers stack models.

    Args:
        regressor: what is trained, in place.
    """

    def __init__(self, regressor: PromptRegressor):
        super().__init__()
        self.regressor = regressor

    def forward(
        self, inputs: Float[Tensor, "batch rows width"], reads: Int[Tensor, " reads"] | None = None
    ) -> Float[Tensor, "batch reads 1"]:
        """Predict at the last row, the one position that a design reads."""
        return self.regressor.predict(inputs)[:, None, None]


class PGD(PromptRegressor):
    """One step of preconditioned gradient descent from zero, ``x^T W X^T y``: a sum over the examples, no 1/n.

    W is the weight of the linear layer ``w``, so that ``peft`` adapts it: ``LoraConfig(target_modules=["w"])``.

    Args:
        dim: coordinates of an input.
        preconditioner: W; default torch's initial weights.
    """

    def __init__(self, dim: int, preconditioner: Float[Tensor, "_ _"] | None = None):
        super().__init__(dim)
        self.w = nn.Linear(dim, dim, bias=False)
        if preconditioner is not None:
            _assign(self.w.weight, "preconditioner", preconditioner)

    def predict(self, prompts: Float[Tensor, "batch rows width"]) -> Float[Tensor, " batch"]:
        """Predict the query's label of checked prompts."""
        x, y = prompts[:, :-1, :-1], prompts[:, :-1, -1]
        moment = (self.weigh(y).unsqueeze(1) @ x).squeeze(1)
        return (prompts[:, -1, :-1] * self.w(moment)).sum(-1)

    def weigh(self, y: Float[Tensor, "batch context"]) -> Float[Tensor, "batch context"]:
        """Multiply labels by sample weights: none here."""
        return y


class WeightedPGD(PGD):
    """A step with a weight per example, ``x^T W X^T (weights * y)``: what one H3 layer computes.

    Args:
        dim: coordinates of an input.
        n: longest prompt; a shorter one has the weights of the newest examples.
        preconditioner: W; default torch's initial weights.
        weights: of the examples, oldest first; default ones.
    """

    def __init__(
        self,
        dim: int,
        n: int,
        preconditioner: Float[Tensor, "_ _"] | None = None,
        weights: Float[Tensor, " _"] | None = None,
    ):
        super().__init__(dim, preconditioner)
        self.weights = nn.Parameter(torch.ones(_at_least_one("n", n)))
        if weights is not None:
            _assign(self.weights, "weights", weights)

    def weigh(self, y: Float[Tensor, "batch context"]) -> Float[Tensor, "batch context"]:
        """Multiply labels by the weights of the newest examples."""
        _fits("n", len(self.weights), y.shape[1])
        return y * self.weights[len(self.weights) - y.shape[1] :]


class LinearAttentionICL(PromptRegressor):
    """One layer of linear attention (one head, no softmax, no residual) whose last row is read out.

    It is the laboratory's `LinearAttention` mixer with identity features and no output projection. The query's row
    attends to the examples but is not attended to: at the optimum this changes nothing, since its label is 0.

    Args:
        dim: coordinates of an input.
        rank: columns of the query and key matrices, which bound the rank of the preconditioner; default full.
        normalise: ``"none"``, a plain sum over the examples as in the theory, or ``"positions"``, divided by their
            number: the same functions for a fixed n, better conditioned for training.
        seed: of the initial weights, torch's own; default the global generator.

    Raises:
        InputError: dim below 1, rank outside 1..dim, an unknown normaliser.
    """

    def __init__(self, dim: int, rank: int | None = None, normalise: str = "none", seed: int | None = None):
        super().__init__(dim)
        choose("normalise", normalise, ("none", "positions"))
        if rank is not None and not 1 <= rank <= dim:
            raise InputError(f"rank is {rank}; allowed: 1 to {dim}, the dimension")
        self.rank = rank
        with seeded(seed):
            self.mixer = LinearAttention(dim + 1, heads=1, normalise=normalise, bias=False)
            self.read = nn.Linear(dim + 1, 1, bias=False)
        # The theory has W_v and the read-out h only; a third factor would be redundant.
        self.mixer.out = nn.Identity()  # type: ignore[assignment]  # any module of equal width fits
        if rank is not None:
            parametrize.register_parametrization(self.mixer.qkv, "weight", _Rank(dim + 1, rank))

    def predict(self, prompts: Float[Tensor, "batch rows width"]) -> Float[Tensor, " batch"]:
        """Predict the query's label of checked prompts."""
        examples = torch.ones(prompts.shape[:2], dtype=torch.bool, device=prompts.device)
        examples[:, -1] = False
        mixed, _ = self.mixer(prompts, Context(padding=examples, causal=False))
        return self.read(mixed[:, -1]).squeeze(-1)

    @torch.no_grad()
    def set_preconditioner(self, preconditioner: Float[Tensor, "_ _"], n: int | None = None) -> None:
        """Write down the weights that make the layer the step ``x^T W X^T y``.

        Args:
            preconditioner: W.
            n: examples per prompt, needed where the layer divides by them.

        Raises:
            InputError: W of another size or of a higher rank than the layer's, or no n where it is needed.
        """
        dim = self.dim
        if preconditioner.shape != (dim, dim):
            raise InputError(f"preconditioner has shape {list(preconditioner.shape)}; allowed: {[dim, dim]}")
        if self.mixer.normalise == "positions" and n is None:
            raise InputError("n is None; allowed: the examples per prompt, because normalise is 'positions'")
        factor = 1 if self.mixer.normalise == "none" or n is None else _at_least_one("n", n)
        left, values, right = torch.linalg.svd(factor * preconditioner.double())
        rank = int((values > 1e-6 * values[0]).sum())
        if self.rank is not None and rank > self.rank:
            raise InputError(f"preconditioner has rank {rank}; allowed: {self.rank} or less, the layer's")
        root = values.sqrt().unsqueeze(-1)
        weight = torch.zeros(3, dim + 1, dim + 1, dtype=torch.float64)
        weight[0, :dim, :dim], weight[1, :dim, :dim], weight[2, dim, dim] = root * left.mT, root * right, 1.0
        qkv: Any = self.mixer.qkv
        written = qkv.weight if self.rank is None else qkv.parametrizations.weight.original
        written.copy_(weight.flatten(0, 1))
        self.read.weight.copy_(torch.eye(dim + 1)[dim:])


class H3ICL(PromptRegressor):
    """One H3 layer, read out at the last row: ``h^T (q_last * sum_j f_{n - j} k_j v_j)`` with one learned filter f.

    Not the laboratory's `H3` mixer: its filters are sums of decaying exponentials and differ by channel, where the
    theory has one free filter over time; with equal filters they agree. Only the last row is computed.

    Args:
        dim: coordinates of an input.
        n_max: longest prompt; the filter has ``n_max + 1`` taps, newest first, the first of them the query's row.
        normalise: ``"none"`` or ``"positions"`` (divided by the number of examples), as in `LinearAttentionICL`.
        seed: of the initial weights, torch's own (the filter begins as ones); default the global generator.

    Raises:
        InputError: dim or n_max below 1, an unknown normaliser.
    """

    def __init__(self, dim: int, n_max: int, normalise: str = "none", seed: int | None = None):
        super().__init__(dim)
        choose("normalise", normalise, ("none", "positions"))
        self.normalise = normalise
        with seeded(seed):
            self.qkv = nn.Linear(dim + 1, 3 * (dim + 1), bias=False)
            self.read = nn.Linear(dim + 1, 1, bias=False)
        self.filter = nn.Parameter(torch.ones(_at_least_one("n_max", n_max) + 1))

    def predict(self, prompts: Float[Tensor, "batch rows width"]) -> Float[Tensor, " batch"]:
        """Predict the query's label of checked prompts."""
        rows, width = prompts.shape[1:]
        _fits("n_max", len(self.filter) - 1, rows - 1)
        q = F.linear(prompts[:, -1], self.qkv.weight[:width])
        k, v = F.linear(prompts, self.qkv.weight[width:]).chunk(2, dim=-1)
        mixed = q * torch.einsum("brw,r->bw", k * v, self.filter[:rows].flip(0))
        return self.read(mixed).squeeze(-1) / (rows - 1 if self.normalise == "positions" else 1)

    @torch.no_grad()
    def set_preconditioner(self, preconditioner: Float[Tensor, "_ _"], weights: Float[Tensor, " n"]) -> None:
        """Write down the weights that make the layer the step ``x^T W X^T (weights * y)``.

        Args:
            preconditioner: W.
            weights: of the examples, oldest first, for prompts of exactly n examples where the layer divides by them.

        Raises:
            InputError: W of another size, or more weights than ``n_max``.
        """
        dim, n = self.dim, len(weights)
        if preconditioner.shape != (dim, dim):
            raise InputError(f"preconditioner has shape {list(preconditioner.shape)}; allowed: {[dim, dim]}")
        _fits("n_max", len(self.filter) - 1, n)
        weight = torch.zeros(3, dim + 1, dim + 1, dtype=torch.float64)
        weight[0, :dim, :dim] = preconditioner.mT
        weight[1, :dim, :dim] = torch.eye(dim)
        weight[2, :dim, dim] = 1.0
        self.qkv.weight.copy_(weight.flatten(0, 1))
        self.read.weight.copy_((torch.arange(dim + 1) < dim).unsqueeze(0))
        self.filter.zero_()
        self.filter[1 : n + 1] = (weights.flip(0) * (n if self.normalise == "positions" else 1)).to(self.filter)


class _Rank(nn.Module):
    """Zero all but the first rows of the query and the key matrix, so that their product has at most that rank."""

    kept: Tensor

    def __init__(self, width: int, rank: int):
        super().__init__()
        first = (torch.arange(width) < rank).float()
        self.register_buffer("kept", torch.cat([first, first, torch.ones(width)]).unsqueeze(-1), persistent=False)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.kept.to(weight)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight


@torch.no_grad()
def recover_preconditioner(model: nn.Module, n: int) -> Float[Tensor, "context dim dim"]:
    """Read off, by probing, the maps W_i for which the part of the prediction odd in the labels is ``y_i x^T W_i x_i``.

    Equal maps are one preconditioner; `superpose.theory.sample_weights` splits maps into W and a weight per example.

    Args:
        model: a `PromptRegressor`, or anything with its ``dim`` that maps prompts to predictions linearly in the query.
        n: examples per prompt.

    Returns:
        One map per place, oldest first.

    Raises:
        InputError: n below 1.
    """
    dim, n = int(model.dim), _at_least_one("n", n)  # type: ignore[arg-type]
    parameter = next(model.parameters())
    basis = torch.eye(dim, device=parameter.device, dtype=parameter.dtype)
    maps = basis.new_empty(n, dim, dim)
    at_once = max(1, PROBED // (2 * dim * (n + 1) * (dim + 1)))
    for place in range(n):
        for start in range(0, dim, at_once):
            queries = basis[start : start + at_once]
            # [sign, query, example]: all prompts at once would be 2 n^2 dim^3 numbers.
            prompts = basis.new_zeros(2, len(queries), dim, n + 1, dim + 1)
            prompts[:, :, :, place, :-1] = basis
            prompts[0, :, :, place, -1] = 1
            prompts[1, :, :, place, -1] = -1
            prompts[..., -1, :-1] = queries[:, None]
            up, down = model(prompts.flatten(0, 2)).unflatten(0, (2, len(queries), dim))
            maps[place, start : start + at_once] = (up - down) / 2
    return maps


def _assign(parameter: Tensor, argument: str, value: Tensor) -> None:
    if value.shape != parameter.shape:
        raise InputError(f"{argument} has shape {list(value.shape)}; allowed: {list(parameter.shape)}")
    with torch.no_grad():
        parameter.copy_(value)


def _at_least_one(argument: str, value: int) -> int:
    if value < 1:
        raise InputError(f"{argument} is {value}; allowed: 1 or more")
    return value


def _fits(argument: str, most: int, given: int) -> None:
    if given > most:
        raise InputError(f"prompts has {given} examples; allowed: {most} or fewer, the module's {argument}")
