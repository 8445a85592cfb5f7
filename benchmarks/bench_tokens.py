"""From-scratch token training: tokens per second of ours against a plain ``transformers`` Llama loop of the same size.

The task and the decoder are those of the study ``task-superposition`` (one letter-retrieval task per sequence, three
layers). The peer is ``LlamaForCausalLM`` of the same width, depth, heads and perceptron size, trained as its
documentation shows (ids and labels in, torch's AdamW as it comes, clipping, the loss read). Its block is not ours
(rotary positions, three perceptron matrices), so losses are printed and not equal; episodes are equal. A ratio above 1
means that ours is faster.

    python benchmarks/bench_tokens.py [--threads 1] [--steps 12] [--repeats 7] [--json FILE]
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch
from torch import Tensor
from transformers.utils import logging

from superpose.models import BackboneSpec, TokenLearner, count_parameters
from superpose.tasks import task
from superpose.training import Optimiser, optimise, seeded
from training_peers import llama_peer

WIDTHS, LAYERS, HEADS, BATCH, LR, BETAS, CLIP = (16, 32, 64), 3, 4, 32, 2e-3, (0.9, 0.98), 1.0


def measure(width: int, options: argparse.Namespace) -> dict[str, float]:
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
    llama = llama_peer(lines.vocab, width, HEADS, LAYERS, lines.length)
    optimizer = torch.optim.AdamW(llama.parameters(), lr=LR, betas=BETAS, weight_decay=0.0)
    llama.train()

    def ours(seed: int, steps: int) -> float:
        history = optimise(
            lambda drawn: lines.loss(learner(drawn.inputs, reads=drawn.reads), drawn),
            learner.parameters(),
            lambda index: lines.sample(BATCH, seeded(seed, "train", index)),
            steps=steps,
            optimiser=Optimiser("adamw", lr=LR, betas=BETAS),
            clip=CLIP,
            seed=seed,
        )
        return float(history.losses[-1])

    def theirs(seed: int, steps: int) -> float:
        loss = torch.zeros(())
        for index in range(steps):
            drawn = lines.sample(BATCH, seeded(seed, "train", index))
            optimizer.zero_grad()
            loss = llama(input_ids=drawn.inputs, labels=labels(drawn.inputs, drawn.reads, drawn.targets)).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(llama.parameters(), CLIP)
            optimizer.step()
            loss.item()
        return loss.item()

    for warm_up in (ours, theirs):
        warm_up(0, 2)
    fast, slow, ratios = [], [], []
    last = (0.0, 0.0)
    for seed in range(1, options.repeats + 1):
        seconds = {}
        # Who goes first alternates, so that neither always has the warmer cache.
        for run in (ours, theirs) if seed % 2 else (theirs, ours):
            start = time.process_time()
            end = run(seed, options.steps)
            seconds[run] = time.process_time() - start
            last = (end, last[1]) if run is ours else (last[0], end)
        fast.append(seconds[ours])
        slow.append(seconds[theirs])
        ratios.append(seconds[theirs] / seconds[ours])
    tokens = BATCH * lines.length * options.steps
    return {
        "width": width,
        "tokens_per_sequence": lines.length,
        "parameters": count_parameters(learner),
        "llama_parameters": count_parameters(llama),
        "tokens_per_second": tokens / statistics.median(fast),
        "llama_tokens_per_second": tokens / statistics.median(slow),
        "ratio": statistics.median(ratios),
        "loss": last[0],
        "llama_loss": last[1],
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
        print(
            f"width {width:3}  Llama {row['llama_tokens_per_second']:8.0f} ({row['llama_parameters']:6.0f} parameters)"
            f"  superpose {row['tokens_per_second']:8.0f} ({row['parameters']:6.0f})  ratio {row['ratio']:5.2f}"
            f"  (losses at the end {row['llama_loss']:.3f} / {row['loss']:.3f})",
            flush=True,
        )
    if options.json is not None:
        options.json.write_text(json.dumps({"threads": options.threads, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
