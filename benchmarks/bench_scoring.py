"""Shared-prefix scoring of K answers against one forward per answer and against a right-padded batch.

    python benchmarks/bench_scoring.py [--model smollm2-135m] [--threads 1] [--json FILE]

All methods score the same prompts in one process, alternating; ratios are medians over prompts and repeats.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel

from superpose.interpret import MixturePrompt, continuation_logprobs, encode, family
from superpose.models import load

TASKS = ("copy", "capitalise", "upper", "first")
DEMONSTRATIONS = 60
EQUAL = 1e-5  # largest difference in log-probability
Scorer = Callable[[PreTrainedModel, list[int], list[list[int]]], list[float]]


def picked(logits: torch.Tensor, tokens: list[int]) -> float:
    """Sum the log-probabilities of the last tokens of a sequence, given the logits that predict them."""
    return float((logits.gather(1, torch.tensor(tokens)[:, None])[:, 0] - logits.logsumexp(-1)).sum())


def shared_prefix(model: PreTrainedModel, prompt: list[int], answers: list[list[int]]) -> list[float]:
    return [float(tokens.sum()) for tokens in continuation_logprobs(model, prompt, answers)]


@torch.inference_mode()
def one_forward_each(model: PreTrainedModel, prompt: list[int], answers: list[list[int]]) -> list[float]:
    """The official scorer: prompt + answer, batch 1, logits of every position."""
    scores = []
    for answer in answers:
        logits = model(input_ids=torch.tensor([prompt + answer])).logits[0]
        scores.append(picked(logits[len(prompt) - 1 : -1], answer))
    return scores


@torch.inference_mode()
def one_forward_each_trimmed(model: PreTrainedModel, prompt: list[int], answers: list[list[int]]) -> list[float]:
    """The same, but with the logits of the answers only: what a careful user would write."""
    scores = []
    for answer in answers:
        logits = model(input_ids=torch.tensor([prompt + answer]), logits_to_keep=len(answer) + 1).logits[0]
        scores.append(picked(logits[:-1], answer))
    return scores


@torch.inference_mode()
def padded_batch(model: PreTrainedModel, prompt: list[int], answers: list[list[int]]) -> list[float]:
    """The way of lm-eval: K full sequences, right-padded to one batch, logits of every position."""
    longest = len(prompt) + max(map(len, answers))
    rows = [prompt + answer + [0] * (longest - len(prompt) - len(answer)) for answer in answers]
    logits = model(input_ids=torch.tensor(rows)).logits
    start = len(prompt) - 1
    return [picked(logits[i, start : start + len(answer)], answer) for i, answer in enumerate(answers)]


METHODS: dict[str, Scorer] = {
    "shared prefix": shared_prefix,
    "one forward each": one_forward_each,
    "one forward each, trimmed logits": one_forward_each_trimmed,
    "right-padded batch": padded_batch,
}


def main() -> None:
    parser = argparse.ArgumentParser(description="shared-prefix scoring against its peers")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = load(options.model)
    cases = []
    for seed in range(options.prompts):
        rng = np.random.default_rng(seed)
        prompt = MixturePrompt.build(family("word"), TASKS, [1 / len(TASKS)] * len(TASKS), DEMONSTRATIONS, rng)
        ids = encode(loaded.tokenizer, prompt.text)
        answers = [encode(loaded.tokenizer, f"{prompt.text}{answer}\n")[len(ids) :] for answer in prompt.answers]
        cases.append((ids, answers))

    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    scores: dict[str, list[list[float]]] = {name: [] for name in METHODS}
    for method in METHODS.values():
        method(loaded.model, *cases[0])
    for ids, answers in cases:
        for repeat in range(options.repeats):
            for name, method in METHODS.items():
                begin = time.perf_counter()
                values = method(loaded.model, ids, answers)
                seconds[name].append(time.perf_counter() - begin)
                if repeat == 0:
                    scores[name].append(values)
    # The truth up to rounding: float32 rounds the logits of a large model by more than 1e-5 in any method.
    loaded.model.double()
    truth = np.array([one_forward_each(loaded.model, *case) for case in cases])
    exact = np.array([shared_prefix(loaded.model, *case) for case in cases])
    plain = np.array(scores["one forward each"])

    def row(name: str) -> dict[str, float]:
        return {
            "seconds": statistics.median(seconds[name]),
            # Neighbours in time are compared, so that a loaded machine slows both sides of a ratio.
            "ratio": statistics.median(np.array(seconds[name]) / np.array(seconds["shared prefix"])),
            "from_one_forward_each": float(np.abs(np.array(scores[name]) - plain).max()),
            "from_float64": float(np.abs(np.array(scores[name]) - truth).max()),
        }

    rows = {name: row(name) for name in METHODS}
    bars = {"one forward each": 0.7 * len(TASKS), "right-padded batch": 2.0}
    result = {
        "model": loaded.name,
        "answers": len(TASKS),
        "demonstrations": DEMONSTRATIONS,
        "prompt_tokens": [len(ids) for ids, _ in cases],
        "threads": options.threads,
        "methods": rows,
        "float64_difference": float(np.abs(exact - truth).max()),
        "fast_enough": all(rows[name]["ratio"] >= bar for name, bar in bars.items()),
    }
    result["equal"] = rows["shared prefix"]["from_one_forward_each"] <= EQUAL
    result["equal_in_float64"] = result["float64_difference"] <= EQUAL
    lengths = result["prompt_tokens"]
    print(f"{loaded.name}: K = {len(TASKS)}, m = {DEMONSTRATIONS} ({min(lengths)}-{max(lengths)} tokens),", end=" ")
    print(f"{options.threads} thread(s); differences are the largest in log-probability")
    print(f"{'method':34} {'seconds':>8} {'x ours':>7} {'from one forward':>17} {'from float64':>13}")
    for name, values in rows.items():
        print(f"{name:34} {values['seconds']:8.3f} {values['ratio']:7.2f}", end=" ")
        print(f"{values['from_one_forward_each']:17.1e} {values['from_float64']:13.1e}")
    print(f"bars: {', '.join(f'{name} >= {bar:.1f}x' for name, bar in bars.items())}:", end=" ")
    print("passed" if result["fast_enough"] else "MISSED")
    differences = {
        "float32": (rows["shared prefix"]["from_one_forward_each"], result["equal"]),
        "float64": (result["float64_difference"], result["equal_in_float64"]),
    }
    for dtype, (difference, equal) in differences.items():
        print(f"shared prefix = one forward each, in {dtype}: {difference:.1e} (bar {EQUAL:.0e}):", end=" ")
        print("passed" if equal else "MISSED")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
