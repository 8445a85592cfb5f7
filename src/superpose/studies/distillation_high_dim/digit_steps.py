"""Real data: random features of scikit-learn's digits (K10), and small networks that teach a large one (K9)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from superpose.errors import require
from superpose.experiment import current, step, track
from superpose.theory import SurrogateDesigner, min_norm_fit, weak_to_strong
from superpose.training import Optimiser, Schedule, distill, optimise, seeded, shuffled_batches

BATCH = 64
LR = 3e-3
CLASSES = 10
SIDE = 8  # pixels
LARGE_SEED = 1000  # apart from the small networks' seeds


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images in [0, 1], ``[1797, 64]``, and the digits they show."""
    images, labels = require("sklearn.datasets", "lab").load_digits(return_X_y=True)
    return images / 16, labels


@step(version="1", label="random features of digits")
def digit_risks(features: int, samples: int, runs: int, seed: int) -> dict[str, dict[str, Any]]:
    """Students on random ReLU features, whose truth is the regression of "digit >= 5" on all digits.

    The population is the data set: covariance and risk are taken over all of it, and labels have no noise.

    Returns:
        Per mode of :class:`superpose.theory.SurrogateDesigner`: predicted ``theory`` and ``true_theory``, simulated
        ``risks`` and ``true_risks`` ``[runs]``.
    """
    images, shown = digits()
    weights = np.random.default_rng(seed).standard_normal((images.shape[1], features)) / SIDE
    x = np.maximum(images @ weights, 0)
    head = min_norm_fit(torch.from_numpy(x), torch.from_numpy((shown >= 5).astype(np.float64)[:, None]), "svd")
    truth = head.squeeze(-1).numpy()
    found = {}
    for mode in ("optimal", "mask"):
        teacher = SurrogateDesigner(samples, mode).fit(x, truth)
        told = weak_to_strong(
            x, x @ truth, teacher.label(x), samples, runs=runs, seed=seed, test_inputs=x, test_labels=x @ truth
        )
        found[mode] = {
            "theory": teacher.risk_,
            "true_theory": teacher.true_risk_,
            "risks": told.surrogate_risks,
            "true_risks": told.true_risks,
        }
    return found


@step(version="1", label="small networks teach a large one")
def networks(
    widths: Sequence[int], target_width: int, surrogate_images: int, target_images: int, train_steps: int, seed: int
) -> dict[str, Any]:
    """Train small convolutional networks on some true labels, a large one on their labels of other images.

    Returns:
        Test accuracies: ``true`` of the large network of true labels; ``surrogate``, ``hard`` and ``soft`` per width.
    """
    images, shown = digits()
    device = current().device
    x = torch.from_numpy(images).float().reshape(-1, 1, SIDE, SIDE).to(device)
    y = torch.from_numpy(shown).to(device)
    order = torch.randperm(len(x), generator=seeded(seed, "split")).to(device)
    first, second, test = order.tensor_split([surrogate_images, surrogate_images + target_images])

    def accuracy(network: nn.Module) -> float:
        with torch.inference_mode():
            return float((network(x[test]).argmax(-1) == y[test]).float().mean())

    def large() -> nn.Module:
        return network_of(target_width, LARGE_SEED + seed).to(device)

    true = large()
    fit(true, x[second], y[second], train_steps, seed)
    found: dict[str, Any] = {"true": accuracy(true), "surrogate": [], "hard": [], "soft": []}
    for width in track(widths, "widths of the surrogate"):
        surrogate = network_of(width, seed).to(device)
        fit(surrogate, x[first], y[first], train_steps, seed)
        found["surrogate"].append(accuracy(surrogate))
        for labels in ("hard", "soft"):
            target = large()
            distill(target, surrogate, x[second], labels=labels, batch=BATCH, seed=seed, **settings(train_steps))
            found[labels].append(accuracy(target))
    return found


def network_of(width: int, seed: int) -> nn.Sequential:
    """Two convolutions and a read-out, with weights that depend on the seed only."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(width * (SIDE // 4) ** 2, CLASSES),
        )


def settings(train_steps: int) -> dict[str, Any]:
    """What every training of the study shares."""
    return {"steps": train_steps, "optimiser": Optimiser("adam", lr=LR), "schedule": Schedule("cosine")}


def fit(network: nn.Module, x: Tensor, y: Tensor, train_steps: int, seed: int) -> None:
    """Train on labels as they are, in the order in which :func:`superpose.training.distill` takes its pool."""
    chosen = shuffled_batches(len(x), BATCH, seed)

    def loss(picked: Tensor) -> Tensor:
        return F.cross_entropy(network(x[picked]), y[picked])

    optimise(loss, network.parameters(), lambda at: chosen(at).to(x.device), seed=seed, **settings(train_steps))
