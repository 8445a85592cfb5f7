"""A training step of ours against plain PyTorch loops of the same mathematics: same weights, episodes and rate.

The peers are written as the papers' own loops are (``training_peers.py``); both sides draw their episodes, clip,
update and read the loss inside what is timed. Losses are compared step by step before a ratio is printed. A ratio
above 1 means that ours is faster. With a clone of krafton-ai/mambaformer-icl or Leiay/looped_transformer, the peers are
that repository's own model classes (Mamba's CUDA kernels replaced by ``transformers``' MambaMixer).

    python benchmarks/bench_training.py [--threads 1] [--steps 25] [--repeats 5] [--official CLONE] [--json FILE]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.utils import logging

from official_models import HYBRID_HEADS, official_peer
from superpose.models import ContinuousLearner, backbone_spec
from superpose.tasks import task
from superpose.training import Curriculum, Ramp, seeded, train_in_context
from training_peers import gpt2_peer, plain_loop, stack_peer

WIDTH, HEADS, BATCH, LR, CLIP = 32, 4, 64, 1e-3, 10.0
LOOPS, WINDOW = 12, 6
# Losses may differ by rounding only; training amplifies it from step to step.
FIRST, TOLERANCE = 10, 1e-4


@dataclass(frozen=True)
class Case:
    """One row: an architecture on a task, and its peer."""

    label: str
    architecture: str
    depth: int
    task: str
    settings: dict[str, Any]
    peer: Callable[[ContinuousLearner], nn.Module]
    looped: bool = False


def _looped(learner: ContinuousLearner) -> nn.Module:
    return stack_peer(learner, LOOPS, WINDOW)


PARITY: dict[str, Any] = {"dim": 4, "k": 2, "points": 12}
LINEAR: dict[str, Any] = {"dim": 3, "points": 8}
CASES = (
    Case("transformer, sparse parity", "transformer", 2, "sparse-parity", PARITY, gpt2_peer),
    Case("transformer 12 layers, linear", "transformer", 12, "linear", LINEAR, stack_peer),
    Case("looped 12 (window 6), linear", "looped", 1, "linear", LINEAR, _looped, looped=True),
    Case("mambaformer, sparse parity", "mambaformer", 1, "sparse-parity", PARITY, stack_peer),
    Case("mambaformer, vector MQAR", "mambaformer", 1, "vector-mqar", {"dim": 16, "points": 8}, stack_peer),
)


def plain_loss(objective: str) -> Callable[[nn.Module, Any], Tensor]:
    """The loss of all outputs as the papers' loops compute it."""

    def loss(model: nn.Module, batch: Any) -> Tensor:
        outputs = model(batch.inputs, batch.reads)
        prediction, target = torch.cat(outputs), torch.cat([batch.targets] * len(outputs))
        if objective == "binary":
            return nn.functional.binary_cross_entropy(torch.sigmoid(prediction), (target + 1) / 2)
        return (target - prediction).square().mean()

    return loss


def timed(run: Callable[[], Any]) -> tuple[float, np.ndarray]:
    start = time.process_time()
    losses = run()
    return time.process_time() - start, np.asarray(losses)


def measure(case: Case, options: argparse.Namespace):
    """Seconds per step of theirs and of ours, one pair per seed, and how far their losses are apart.

    None where the clone has no such model.
    """
    drawn_from = task(case.task, **case.settings)
    heads = HYBRID_HEADS if options.official is not None and case.architecture == "mambaformer" else HEADS
    spec = backbone_spec(case.architecture, width=WIDTH, heads=heads, depth=case.depth, max_positions=drawn_from.length)
    looped: dict[str, Any] = (
        {"window": WINDOW, "curriculum": Curriculum(loops=Ramp(LOOPS, LOOPS, 0, 1))} if case.looped else {}
    )
    loss = plain_loss(drawn_from.objective)
    pairs, apart, ends = [], 0.0, []
    for seed in range(options.repeats + 1):
        learner = ContinuousLearner(spec, drawn_from.in_dim, drawn_from.out_dim, seed=seed)
        peer = case.peer(learner)
        if options.official is not None:
            # Its models read the labels of functions only, from an interleaved prompt.
            peer = None if case.task == "vector-mqar" else official_peer(options.official, learner, LOOPS, WINDOW)
            if peer is None:
                return None
        steps = options.steps if seed else 2

        def theirs(peer: nn.Module = peer, seed: int = seed, steps: int = steps) -> list[float]:
            return plain_loop(peer, loss, lambda i: drawn_from.sample(BATCH, seeded(seed, "train", i)), steps, LR, CLIP)

        def ours(learner: nn.Module = learner, seed: int = seed, steps: int = steps) -> np.ndarray:
            return train_in_context(
                learner, drawn_from, seed=seed, steps=steps, batch=BATCH, lr=LR, clip=CLIP, **looped
            ).losses

        # Who goes first alternates, so that neither always has the warmer cache.
        if seed % 2:
            (slow, a), (fast, b) = timed(theirs), timed(ours)
        else:
            (fast, b), (slow, a) = timed(ours), timed(theirs)
        if seed == 0:  # warm-up
            continue
        apart = max(apart, float(np.abs(a[:FIRST] / b[:FIRST] - 1).max()))
        ends.append((a[-5:].mean(), b[-5:].mean()))
        pairs.append((slow / steps, fast / steps))
    return pairs, apart, ends


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--official", type=Path, metavar="CLONE")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    logging.set_verbosity_error()
    print(
        f"width {WIDTH}, batch {BATCH}, {options.threads} thread(s); CPU milliseconds per training step,"
        f" medians of {options.repeats} x {options.steps} steps"
    )
    rows = []
    name = "plain" if options.official is None else "official"
    for case in CASES:
        measured = measure(case, options)
        if measured is None:
            continue
        pairs, apart, ends = measured
        if apart > TOLERANCE:
            raise SystemExit(f"{case.label}: losses differ by {apart:.1e} within {FIRST} steps; allowed: {TOLERANCE:g}")
        slow, fast = (1e3 * statistics.median(column) for column in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        theirs, ours = (statistics.mean(column) for column in zip(*ends, strict=True))
        print(
            f"{case.label:32} {name} {slow:7.2f}  superpose {fast:7.2f}  ratio {ratio:5.2f}"
            f"  (losses apart {apart:.0e} in {min(FIRST, options.steps)} steps; at the end {theirs:.5f} / {ours:.5f})",
            flush=True,
        )
        rows.append(
            {"case": case.label, "peer": name, "peer_ms": slow, "superpose_ms": fast, "ratio": ratio, "apart": apart}
        )
    if options.json is not None:
        options.json.write_text(json.dumps({"threads": options.threads, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
