"""A training step of ours against plain PyTorch loops of the same mathematics: same weights, episodes and rate.

The peers are written as the papers' own loops are (``training_peers.py``); both sides draw their episodes, clip,
update and read the loss inside what is timed. Losses are compared step by step before a ratio is printed. A ratio
above 1 means that ours is faster. Ours is timed as it comes and with the trainer's ``compile=True`` (the seconds that
compiling takes are printed beside it; the papers' loops do not compile). With a clone of krafton-ai/mambaformer-icl or
Leiay/looped_transformer, the peers are that repository's own model classes (Mamba's CUDA kernels replaced by
``transformers``' MambaMixer).

    python benchmarks/bench_training.py [--threads 1] [--steps 25] [--repeats 5] [--official CLONE] [--json FILE]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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
from training_peers import SIDES, Run, gpt2_peer, plain_loop, stack_peer

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


def measure(case: Case, options: argparse.Namespace) -> dict[str, list[Run]] | None:
    """One run of each side per seed (the first is the warm-up); None where the clone has no such model."""
    drawn_from = task(case.task, **case.settings)
    heads = HYBRID_HEADS if options.official is not None and case.architecture == "mambaformer" else HEADS
    spec = backbone_spec(case.architecture, width=WIDTH, heads=heads, depth=case.depth, max_positions=drawn_from.length)
    looped: dict[str, Any] = (
        {"window": WINDOW, "curriculum": Curriculum(loops=Ramp(LOOPS, LOOPS, 0, 1))} if case.looped else {}
    )
    loss = plain_loss(drawn_from.objective)
    # One learner for all compiled runs: another one would be compiled anew.
    compiled = ContinuousLearner(spec, drawn_from.in_dim, drawn_from.out_dim, seed=0)
    torch._dynamo.reset()
    runs: dict[str, list[Run]] = {side: [] for side in SIDES}
    for seed in range(options.repeats + 1):
        learner = ContinuousLearner(spec, drawn_from.in_dim, drawn_from.out_dim, seed=seed)
        compiled.load_state_dict(learner.state_dict())
        peer = case.peer(learner)
        if options.official is not None:
            # Its models read the labels of functions only, from an interleaved prompt.
            peer = None if case.task == "vector-mqar" else official_peer(options.official, learner, LOOPS, WINDOW)
            if peer is None:
                return None
        steps = options.steps if seed else 3

        def theirs(peer: nn.Module = peer, seed: int = seed, steps: int = steps) -> Run:
            return plain_loop(peer, loss, lambda i: drawn_from.sample(BATCH, seeded(seed, "train", i)), steps, LR, CLIP)

        def ours(learner: ContinuousLearner, compile: bool, seed: int = seed, steps: int = steps) -> Run:
            ends = [time.process_time()]
            history = train_in_context(
                learner,
                drawn_from,
                seed=seed,
                steps=steps,
                batch=BATCH,
                lr=LR,
                clip=CLIP,
                compile=compile,
                on_step=lambda _: ends.append(time.process_time()),
                **looped,
            )
            return Run(history.losses, np.asarray(ends[1:]) - ends[0])

        sides: dict[str, Callable[[], Run]] = {
            "peer": theirs,
            "superpose": partial(ours, learner, False),
            "compiled": partial(ours, compiled, True),
        }
        # Who goes first changes, so that no side always has the warmer cache.
        for side in SIDES[seed % 3 :] + SIDES[: seed % 3]:
            runs[side].append(sides[side]())
    return runs


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
        first = measured["compiled"][0].ends[0]
        timed = {side: runs[1:] for side, runs in measured.items()}
        ms = {side: 1e3 * statistics.median(run.per_step() for run in runs) for side, runs in timed.items()}
        row: dict[str, Any] = {"case": case.label, "peer": name, "ms": ms, "compile_seconds": first}
        for side in SIDES[1:]:
            pairs = list(zip(timed["peer"], timed[side], strict=True))
            apart = max(float(np.abs(a.losses[:FIRST] / b.losses[:FIRST] - 1).max()) for a, b in pairs)
            if apart > TOLERANCE:
                raise SystemExit(
                    f"{case.label}, {side}: losses differ by {apart:.1e} within {FIRST} steps; allowed: {TOLERANCE:g}"
                )
            row[side] = {"ratio": statistics.median(a.per_step() / b.per_step() for a, b in pairs), "apart": apart}
        print(
            f"{case.label:29} {name} {ms['peer']:6.2f}  superpose {ms['superpose']:6.2f}"
            f" ({row['superpose']['ratio']:.2f}x, losses apart {row['superpose']['apart']:.0e})"
            f"  compiled {ms['compiled']:6.2f} ({row['compiled']['ratio']:.2f}x, {row['compiled']['apart']:.0e},"
            f" after {first:.0f} s of compiling)",
            flush=True,
        )
        rows.append(row)
    if options.json is not None:
        options.json.write_text(json.dumps({"threads": options.threads, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
