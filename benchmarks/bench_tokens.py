"""From-scratch token training: tokens per second of ours against a plain ``transformers`` Llama loop of the same size.

The task and the decoder are those of the study ``task-superposition`` (one letter-retrieval task per sequence, three
layers). The peer is ``LlamaForCausalLM`` of the same width, depth, heads and perceptron size, trained as its
documentation shows (ids and labels in, torch's AdamW as it comes, clipping, the loss read). Its block is not ours
(rotary positions, three perceptron matrices), so losses are printed and not equal; episodes are equal. A ratio above 1
means that ours is faster. Ours is timed as it comes and with the trainer's ``compile=True`` (the seconds that compiling
takes are printed beside it).

    python benchmarks/bench_tokens.py [--threads 1] [--steps 12] [--repeats 7] [--json FILE]
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.utils import logging

from superpose.models import BackboneSpec, TokenLearner, count_parameters
from superpose.tasks import task
from superpose.training import Optimiser, optimise, seeded
from training_peers import SIDES, Run, llama_peer

WIDTHS, LAYERS, HEADS, BATCH, LR, BETAS, CLIP = (16, 32, 64), 3, 4, 32, 2e-3, (0.9, 0.98), 1.0


def measure(width: int, options: argparse.Namespace) -> dict[str, Any]:
    """Tokens per CPU second of each side, and the ratios within each repeat."""
    lines = task("retrieve-letters", hint=0.5)
    spec = BackboneSpec(
        name="decoder",
        layout=("attention", "mlp") * LAYERS,
        width=width,
        heads=HEADS,
        positions="none",
        init="torch",
    )
    learner = TokenLearner(spec, lines.vocab, line_length=lines.line_length, lead=lines.lead, seed=0)
    twin = TokenLearner(spec, lines.vocab, line_length=lines.line_length, lead=lines.lead, seed=0)
    llama = llama_peer(lines.vocab, width, HEADS, LAYERS, lines.length)
    optimizer = torch.optim.AdamW(llama.parameters(), lr=LR, betas=BETAS, weight_decay=0.0)
    llama.train()
    torch._dynamo.reset()

    def ours(learner: TokenLearner, compile: bool, seed: int, steps: int) -> Run:
        ends = [time.process_time()]
        history = optimise(
            lambda drawn: lines.loss(learner(drawn.inputs, reads=drawn.reads), drawn),
            learner.parameters(),
            lambda index: lines.sample(BATCH, seeded(seed, "train", index)),
            steps=steps,
            optimiser=Optimiser("adamw", lr=LR, betas=BETAS),
            clip=CLIP,
            seed=seed,
            compile=compile,
            on_step=lambda _: ends.append(time.process_time()),
        )
        return Run(history.losses, np.asarray(ends[1:]) - ends[0])

    def theirs(seed: int, steps: int) -> Run:
        start, losses, ends = time.process_time(), [], []
        for index in range(steps):
            drawn = lines.sample(BATCH, seeded(seed, "train", index))
            optimizer.zero_grad()
            loss = llama(input_ids=drawn.inputs, labels=labels(drawn.inputs, drawn.reads, drawn.targets)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(llama.parameters(), CLIP)
            optimizer.step()
            losses.append(loss.item())
            ends.append(time.process_time() - start)
        return Run(np.asarray(losses), np.asarray(ends))

    sides: dict[str, Callable[[int, int], Run]] = {
        "peer": theirs,
        "superpose": partial(ours, learner, False),
        "compiled": partial(ours, twin, True),
    }
    warm = {side: run(0, 3) for side, run in sides.items()}
    runs: dict[str, list[Run]] = {side: [] for side in sides}
    for seed in range(1, options.repeats + 1):
        # Who goes first changes, so that no side always has the warmer cache.
        for side in SIDES[seed % 3 :] + SIDES[: seed % 3]:
            runs[side].append(sides[side](seed, options.steps))
    tokens = BATCH * lines.length
    return {
        "width": width,
        "tokens_per_sequence": lines.length,
        "parameters": {"superpose": count_parameters(learner), "peer": count_parameters(llama)},
        "tokens_per_second": {side: tokens / statistics.median(r.per_step() for r in runs[side]) for side in SIDES},
        "ratios": {
            side: statistics.median(a.per_step() / b.per_step() for a, b in zip(runs["peer"], runs[side], strict=True))
            for side in SIDES[1:]
        },
        "losses": {side: float(runs[side][-1].losses[-1]) for side in SIDES},
        "compile_seconds": float(warm["compiled"].ends[0]),
    }


def labels(inputs: Tensor, reads: Tensor, targets: Tensor) -> Tensor:
    """Labels as ``transformers`` wants them: the token behind each read, everything else ignored."""
    out = torch.full_like(inputs, -100)
    out[:, reads + 1] = targets
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    logging.set_verbosity_error()
    print(
        f"{LAYERS} layers, {HEADS} heads, batch {BATCH}, {options.threads} thread(s); tokens per CPU second, medians of"
        f" {options.repeats} x {options.steps} steps"
    )
    rows = []
    for width in WIDTHS:
        row = measure(width, options)
        rows.append(row)
        rate, ratio, loss = row["tokens_per_second"], row["ratios"], row["losses"]
        print(
            f"width {width:3}  Llama {rate['peer']:7.0f} ({row['parameters']['peer']} parameters)"
            f"  superpose {rate['superpose']:7.0f} ({row['parameters']['superpose']}; {ratio['superpose']:.2f}x)"
            f"  compiled {rate['compiled']:7.0f} ({ratio['compiled']:.2f}x, after {row['compile_seconds']:.0f} s of"
            f" compiling)  losses at the end {loss['peer']:.3f} / {loss['superpose']:.3f} / {loss['compiled']:.3f}",
            flush=True,
        )
    if options.json is not None:
        options.json.write_text(json.dumps({"threads": options.threads, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
