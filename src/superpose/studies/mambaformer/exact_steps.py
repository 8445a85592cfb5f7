"""What must hold to rounding before anything is trained."""

import itertools
import math

import torch
from torch import Tensor
from transformers import MambaConfig, MambaModel

from superpose.experiment import step
from superpose.models import Backbone, BackboneSpec
from superpose.studies.mambaformer.steps import build
from superpose.tasks import SparseParity, VectorMQAR
from superpose.theory import parity_bayes_accuracy, parity_prior_accuracy
from superpose.training import seeded

ARCHITECTURES = ("transformer", "mamba", "standard-hybrid", "mambaformer", "mamba-transformer")
EARLY_LABELS = 6


@step(version="1", label="exact checks")
@torch.inference_mode()
def exact_checks(width: int, heads: int, state: int, prompts: int, seed: int) -> dict[str, float]:
    """Largest differences between what must be equal.

    Returns:
        ``mamba``: a stack of Mamba blocks and transformers' ``MambaModel`` on the same weights, relative to the
        largest output; ``stepwise``: token by token and all at once, over the five architectures; ``causality``: how
        much a changed token changes outputs before it; ``retrieval``: the error of the value beside the nearest key;
        ``prior``: the closed form of the accuracy without examples and counting all inputs; ``bayes``: the exact
        accuracy of Bayes' predictor and its score on drawn labels, in standard errors, at its worst position.
    """
    stepwise, causality = zip(
        *(_stack(name, width, heads, state, prompts, seed) for name in ARCHITECTURES), strict=True
    )
    return {
        "mamba": _against_transformers(width, state, prompts, seed),
        "stepwise": max(stepwise),
        "causality": max(causality),
        "retrieval": _nearest_key(prompts, seed),
        "prior": max(abs(parity_prior_accuracy(d, k) - _count(d, k)) for d, k in ((4, 2), (5, 2), (6, 3), (8, 2))),
        "bayes": _bayes(prompts, seed),
    }


def _against_transformers(width: int, state: int, prompts: int, seed: int) -> float:
    blocks, length = 2, 24
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        knobs = {"mamba": {"state": state}}
        layout = ("mamba",) * blocks
        ours = Backbone(BackboneSpec("mamba", layout, width, positions="none", norm="rms", init="torch", knobs=knobs))
        config = MambaConfig(
            vocab_size=2,
            hidden_size=width,
            state_size=state,
            num_hidden_layers=blocks,
            time_step_rank=math.ceil(width / 16),
        )
        theirs = MambaModel(config).eval()
        x = torch.randn(min(prompts, 64), length, width)
    renamed = {"blocks": "layers", "inner": "mixer"}
    weights = {
        ".".join(renamed.get(part, part) for part in name.split(".")): tensor
        for name, tensor in ours.state_dict().items()
    }
    weights["norm_f.weight"] = weights.pop("norm.weight")
    weights["embeddings.weight"] = theirs.state_dict()["embeddings.weight"]
    theirs.load_state_dict(weights)
    reference = theirs(inputs_embeds=x, use_cache=False).last_hidden_state
    return float((ours(x) - reference).abs().max() / reference.abs().max())


def _stack(name: str, width: int, heads: int, state: int, prompts: int, seed: int) -> tuple[float, float]:
    task = SparseParity(dim=4, points=12)
    learner = build(name, 2, width, heads, state, task, seed).eval()
    inputs = task.sample(min(prompts, 64), seeded(seed, "exact")).inputs
    whole = learner(inputs)
    pieces: list[Tensor] = []
    kept = None
    for token in inputs.split(1, dim=1):
        piece, kept = learner.extend(token, kept)
        pieces.append(piece)
    place = inputs.shape[1] // 2
    changed = inputs.clone()
    changed[:, place] = -changed[:, place]
    before = learner(changed)[:, :place] - whole[:, :place]
    return float((torch.cat(pieces, 1) - whole).abs().max()), float(before.abs().max())


def _nearest_key(prompts: int, seed: int) -> float:
    task = VectorMQAR(dim=16, points=8)
    drawn = task.sample(prompts, seeded(seed, "exact"))
    pairs, queries = drawn.inputs[:, : 2 * task.points], drawn.inputs[:, drawn.reads]
    nearest = torch.cdist(queries, pairs[:, ::2]).argmin(-1)
    values = pairs[:, 1::2].gather(1, nearest.unsqueeze(-1).expand(-1, -1, task.dim))
    return float(task.error(values, drawn).max())


def _count(dim: int, k: int) -> float:
    """The accuracy of the majority of all parities, over all inputs and parities; a tie is a coin toss."""
    x = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=dim)), dtype=torch.float64)
    labels = torch.stack([x[:, list(chosen)].prod(-1) for chosen in itertools.combinations(range(dim), k)], dim=-1)
    return float((0.5 + labels.sum(-1, keepdim=True).sign() * labels / 2).mean())


def _bayes(prompts: int, seed: int) -> float:
    task = SparseParity(dim=4, points=12)
    drawn = task.sample(prompts, seeded(seed, "exact"))
    wrong = task.optimum(drawn)
    if wrong is None:
        raise TypeError("sparse parity in four dimensions has an exact predictor")
    exact = parity_bayes_accuracy(drawn.info["x"], task.k)
    difference = (1 - wrong - exact).double()
    error = difference.std(0) / math.sqrt(prompts)
    # Later on there are too few errors for a standard error.
    return float((difference.mean(0).abs() / error)[:EARLY_LABELS].max())
