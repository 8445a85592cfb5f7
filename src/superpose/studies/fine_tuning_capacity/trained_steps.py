"""Side networks trained from scratch, and a classifier of digits that is patched."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from superpose.errors import require
from superpose.experiment import current, step, tracked
from superpose.models import Patched, fit_patch, patch_change
from superpose.training import Optimiser, Schedule, StackedModels, optimise, seeded

# Of 0.01, 0.03 and 0.1, the one that brought the most networks of 128 tuned samples to their targets.
LR = 0.01
WARM = 5  # one part in five of the updates warms up
DIM = 4
HIDDEN = 64
DIGITS_LR = 3e-3


@step(version="1", label="side networks trained")
def trained(depth: int, tuned: int, width: int, restarts: int, train_steps: int) -> np.ndarray:
    """Train networks of one size to answer -1 or 1 on N points and 0 on as many others, each on data of its own.

    Args:
        depth: 2 or 3 layers.
        tuned: N; the points are Gaussian in four dimensions, K = 2 N.
        width: hidden neurons in all; three layers have half of them in each.
        restarts: networks, trained together.
        train_steps: updates by Adam, all points at once, on the mean squared residual.

    Returns:
        The largest residual of each network, ``[restarts]``.
    """
    device = current().device
    drawn = [_task(tuned, seeded(restart, f"side data {tuned}")) for restart in range(restarts)]
    x, y = (torch.stack(each).to(device) for each in zip(*drawn, strict=True))
    models = StackedModels(
        [
            _side_network(depth, width, seeded(restart, f"side {depth} {width}")).to(device)
            for restart in range(restarts)
        ]
    )

    def loss(_: Any) -> Tensor:
        return (models(x)[..., 0] - y).square().mean(1).sum()

    with tracked(train_steps, "updates") as move:
        optimise(
            loss,
            [parameter for model in models.models for parameter in model.parameters()],
            lambda index: None,
            steps=train_steps,
            optimiser=Optimiser("adam", lr=LR),
            schedule=Schedule("cosine", warmup=train_steps // WARM),
            checkpoint=current().folder / "training",
            progress=move,
        )
    with torch.inference_mode():
        return (models(x)[..., 0] - y).abs().amax(1).cpu().numpy()


def _task(tuned: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x = torch.randn(2 * tuned, DIM, generator=generator)
    y = torch.zeros(2 * tuned)
    y[:tuned] = torch.randint(0, 2, (tuned,), generator=generator) * 2.0 - 1
    return x, y


def _side_network(depth: int, width: int, generator: torch.Generator) -> nn.Sequential:
    sizes = [width] if depth == 2 else [width // 2, width - width // 2]
    layers: list[nn.Module] = []
    before = DIM
    for size in sizes:
        layers += [nn.Linear(before, size), nn.ReLU()]
        before = size
    network = nn.Sequential(*layers, nn.Linear(before, 1))
    with torch.no_grad():
        for module in network:
            if isinstance(module, nn.Linear):
                spread = (2 / module.in_features) ** 0.5  # keeps the size of activations behind ReLU
                module.weight.copy_(spread * torch.randn(module.weight.shape, generator=generator))
                module.bias.copy_(0.5 * torch.randn(module.bias.shape, generator=generator))
    return network


@step(version="2", label="digits patched")
def digits(seed: int, fixed: int, trained_on: int, train_steps: int, tries: int) -> dict[str, Any]:
    """Train a classifier of scikit-learn's digits, then put some of the images right that it misreads.

    Half of the images are K: those to put right, and all others of this half to keep. Wanted outputs are the present
    ones with those of the right and of the guessed class exchanged. The other half is not given to the patch.

    Returns:
        Per depth ("two", "three"): ``neurons``, ``accuracy_on_fixed``, the largest ``move_of_kept`` outputs (computed
        in float64), ``flips`` of predictions and the ``median_move`` on images unknown to the patch; and of the
        classifier: its ``accuracy`` on images not trained on, and how many it ``misread`` of those K.
    """
    data = require("sklearn.datasets", "lab").load_digits()
    order = np.random.default_rng([seed, 6]).permutation(len(data.target))
    images = torch.from_numpy(data.data[order]).float() / 16
    labels = torch.from_numpy(data.target[order]).long()
    classifier = _classifier(images[:trained_on], labels[:trained_on], seed, train_steps)
    with torch.no_grad():
        outputs = classifier(images)
    guesses = outputs.argmax(1)
    known = np.arange(len(images)) % 2 == 0
    misread = np.flatnonzero(known & (guesses != labels).numpy())
    chosen = torch.from_numpy(misread[:fixed])
    wanted = outputs[chosen].double()
    right, wrong = labels[chosen][:, None], guesses[chosen][:, None]
    exchanged = wanted.scatter(1, right, wanted.gather(1, wrong)).scatter(1, wrong, wanted.gather(1, right))
    positions = torch.from_numpy(np.flatnonzero(known))
    place = torch.searchsorted(positions, chosen)
    kept = torch.ones(len(positions), dtype=torch.bool)
    kept[place] = False
    found: dict[str, Any] = {
        "accuracy": float((guesses[trained_on:] == labels[trained_on:]).double().mean()),
        "misread": len(misread),
        "fixed": len(chosen),
        "kept": int(kept.sum()),
    }
    for depth, name in ((2, "two"), (3, "three")):
        g = fit_patch(classifier, images[positions], exchanged, place, depth, tries=tries, seed=seed)
        with torch.inference_mode():
            answers = Patched(classifier, g)(images)
            moves = patch_change(g, images)
        unknown = torch.from_numpy(~known)
        found[name] = {
            "neurons": g.report.neurons,
            "accuracy_on_fixed": float((answers[chosen].argmax(1) == labels[chosen]).double().mean()),
            "move_of_kept": float(moves[positions[kept]].abs().max()),
            "flips": float((answers[unknown].argmax(1) != guesses[unknown]).double().mean()),
            "median_move": float(moves[unknown].abs().amax(1).median()),
            "moves_of_unknown": moves[unknown].abs().amax(1).numpy(),
        }
    return found


def _classifier(images: Tensor, labels: Tensor, seed: int, train_steps: int) -> nn.Sequential:
    network = nn.Sequential(nn.Linear(images.shape[1], HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))
    generator = seeded(seed, "classifier")
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
    optimise(
        lambda batch: cross_entropy(network(images), labels),
        network.parameters(),
        lambda index: None,
        steps=train_steps,
        optimiser=Optimiser("adam", lr=DIGITS_LR),
        seed=seed,
    )
    return network.eval()


def widths(depth: int, tuned: int, widest: float) -> Sequence[int]:
    """Widths in steps of about sqrt 2: up to ``widest`` N in two layers, and ``4 widest`` sqrt N in three."""
    largest = widest * tuned if depth == 2 else 4 * widest * tuned**0.5
    smallest = max(2.0, tuned / 2 if depth == 2 else 2 * tuned**0.5)
    ladder = (round(2 ** (power / 2)) for power in range(2, 40))
    return [width for width in ladder if smallest <= width <= largest]
