"""Gradient descent on one attention layer's key-query weights, for many data sets side by side (arXiv 2403.08081)."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from superpose.errors import InputError, choose
from superpose.models import OneLayerAttention

from .kept import KeptEvaluations
from .optimise import optimise
from .optimisers import Optimiser

# Of the logarithm of the label's probability.
LOSSES: dict[str, Callable[[Tensor], Tensor]] = {
    "log": lambda log: -log,
    "linear": lambda log: -log.exp(),
    "squared": lambda log: (1 - log.exp()).square(),
}
CLASSIFIERS = ("identity", "embeddings")


def train_next_token(
    model: OneLayerAttention,
    ids: Int[Tensor, "*sets batch length"],
    labels: Int[Tensor, "*prompts"],
    mask: Bool[Tensor, "*sets batch length"] | None = None,
    *,
    steps: int,
    lr: float,
    normalised: bool = False,
    loss: str = "log",
    classifier: str = "identity",
    at: Sequence[int] = (),
    checkpoint: Path | str | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> Float[Tensor, "points *sets width width"]:
    """Train the layer in place by full-batch gradient descent; return W after the steps named in ``at``.

    The sets do not meet: the loss is the sum over sets of each set's mean over its prompts.

    Args:
        model: the layer, with as many sets as there are data sets.
        ids: the prompts, padded where ``mask`` is False.
        labels: the token that followed each prompt.
        mask: False for padding.
        steps: updates.
        lr: constant learning rate.
        normalised: divide the gradient of each set (and factor) by its norm, as the authors do with lr 0.01. The
            finite part then keeps oscillating by about half a step.
        loss: ``"log"`` (-log u), ``"linear"`` (-u) or ``"squared"`` ((1 - u)^2) of the label's probability u.
        classifier: ``"identity"``: u is the attention on the label; ``"embeddings"``: u is the softmax of the
            attended embedding's products with all embeddings.
        at: numbers of finished steps, increasing, from 0 to ``steps``; default none.
        checkpoint: folder for checkpoints; a training that was killed goes on from there.
        progress: called with (done, total) after each step.

    Raises:
        InputError: an unknown loss or classifier, points outside the training, labels of another shape, or a label
            that is not in its prompt where the loss is then infinite.
        TrainingDiverged: the loss is not finite any more.
    """
    choose("loss", loss, LOSSES)
    choose("classifier", classifier, CLASSIFIERS)
    points = list(at)
    if points != sorted(set(points)) or (points and not 0 <= points[0] <= points[-1] <= steps):
        raise InputError(f"at is {points}; allowed: increasing numbers of steps from 0 to {steps}")
    if labels.shape != ids.shape[:-1]:
        raise InputError(f"labels has shape {tuple(labels.shape)}; allowed: {tuple(ids.shape[:-1])}, one per prompt")
    kept = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    found = ((ids == labels.unsqueeze(-1)) & kept).any(-1)
    if loss == "log" and classifier == "identity" and not bool(found.all()):
        at_fault = tuple((~found).nonzero()[0].tolist())
        raise InputError(f"labels{list(at_fault)} is not in its prompt: its loss is infinite; allowed: a token of it")
    with torch.no_grad():
        model.attention(ids, mask)  # refuses what the layer cannot read
    logs = _log_probabilities(model, ids, kept, classifier)

    def objective(_: int) -> Tensor:
        return LOSSES[loss](logs(labels.unsqueeze(-1))).mean((-2, -1)).sum()

    folder, journal = None, None
    if checkpoint is not None:
        folder = Path(checkpoint)
        folder.mkdir(parents=True, exist_ok=True)
        journal = KeptEvaluations(folder / "weights.safetensors")
    snapshots: dict[str, Tensor] = {} if journal is None else dict(journal.rows)
    due = set(points)

    def keep(step: int) -> None:
        if step in due:
            snapshots[str(step)] = model.weight.detach().clone()
            if journal is not None:
                journal.add({str(step): snapshots[str(step)]})

    if "0" not in snapshots:
        keep(0)
    parameters = list(model.parameters())
    hooks: list[Any] = [p.register_hook(_unit) for p in parameters] if normalised else []
    try:
        optimise(
            objective,
            parameters,
            lambda step: step,
            steps=steps,
            optimiser=Optimiser("sgd", lr=lr),
            checkpoint=folder,
            checkpoint_every=max(1, steps // 4),
            identity={"loss": loss, "classifier": classifier, "normalised": normalised, "at": points},
            on_step=keep,
            progress=progress,
        )
    finally:
        for hook in hooks:
            hook.remove()
    if not points:
        return model.weight.detach()[None][:0]
    return torch.stack([snapshots[str(point)] for point in points])


def _log_probabilities(
    model: OneLayerAttention, ids: Tensor, kept: Tensor, classifier: str
) -> Callable[[Tensor], Tensor]:
    """A function of tokens, one per prompt: the log of their probabilities under the weights of the moment."""
    similar = model.embeddings @ model.embeddings.mT

    def of_products(attention: Tensor, tokens: Tensor) -> Tensor:
        return (attention @ similar).log_softmax(-1).gather(-1, tokens)

    if model.positions is not None:

        def by_layer(tokens: Tensor) -> Tensor:
            attention = model(ids, kept)
            return of_products(attention, tokens) if classifier == "embeddings" else attention.gather(-1, tokens).log()

        return by_layer
    # Without positions a prompt is no more than its counts and its last token: half the cost of a call of the layer.
    counts = model.embeddings.new_zeros(*ids.shape[:-1], model.vocabulary)
    log_counts = counts.scatter_add_(-1, ids.masked_fill(~kept, 0), kept.to(counts)).log()
    place = torch.arange(ids.shape[-1], device=ids.device)
    last = ids.gather(-1, torch.where(kept, place, -1).argmax(-1, keepdim=True))
    queries = model.embeddings.gather(-2, last.expand(*last.shape[:-1], model.embeddings.shape[-1]))
    keys = model.embeddings.mT

    def by_counts(tokens: Tensor) -> Tensor:
        logs = (queries @ model.weight.mT @ keys + log_counts).log_softmax(-1)
        return of_products(logs.exp(), tokens) if classifier == "embeddings" else logs.gather(-1, tokens)

    return by_counts


def _unit(gradient: Tensor) -> Tensor:
    """Each set's gradient over its norm."""
    norm = torch.linalg.matrix_norm(gradient, keepdim=True)
    # Probabilities carry rounding errors of this size: a gradient below it is noise, and must not become a full step.
    return gradient / (norm + torch.finfo(gradient.dtype).eps)
