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
BARS = {"one forward each": 0.7 * len(TASKS), "right-padded batch": 2.0}
Cases = list[tuple[list[int], list[list[int]]]]
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
    cases: Cases = []
    for seed in range(options.prompts):
        rng = np.random.default_rng(seed)
        prompt = MixturePrompt.build(family("word"), TASKS, [1 / len(TASKS)] * len(TASKS), DEMONSTRATIONS, rng)
        ids = encode(loaded.tokenizer, prompt.text)
        answers = [encode(loaded.tokenizer, f"{prompt.text}{answer}\n")[len(ids) :] for answer in prompt.answers]
        cases.append((ids, answers))

    lengths = [len(ids) for ids, _ in cases]
    print(f"{loaded.name}: K = {len(TASKS)}, m = {DEMONSTRATIONS}", end=" ")
    print(f"({min(lengths)}-{max(lengths)} tokens), {options.threads} thread(s)")
    result: dict[str, object] = {"model": loaded.name, "answers": len(TASKS), "demonstrations": DEMONSTRATIONS}
    result |= {"prompt_tokens": lengths, "threads": options.threads}
    for dtype in (torch.float32, torch.float64):
        # In float32 two forwards of one text in pieces of other lengths round differently, by more than the bar;
        # float64 tells rounding from a mistake.
        loaded.model.to(dtype=dtype)
        name = str(dtype).removeprefix("torch.")
        result[name] = rows = compare(loaded.model, cases, options.repeats)
        print(f"{name:34} {'seconds':>8} {'x ours':>7} {'largest difference in log-probability':>38}")
        for method, values in rows.items():
            print(f"{method:34} {values['seconds']:8.3f} {values['ratio']:7.2f} {values['difference']:38.1e}")
        for method, bar in BARS.items():
            print(f"  faster than {method} by {bar:.1f}x: {verdict(rows[method]['ratio'] >= bar)}")
        difference = rows["shared prefix"]["difference"]
        print(f"  equal to one forward each within {EQUAL:.0e}: {verdict(difference <= EQUAL)}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def compare(model: PreTrainedModel, cases: Cases, repeats: int) -> dict[str, dict[str, float]]:
    """Seconds of every method, its ratio to ours, and its distance from one forward each, on the same prompts."""
    seconds: dict[str, list[float]] = {name: [] for name in METHODS}
    scores: dict[str, list[list[float]]] = {name: [] for name in METHODS}
    for method in METHODS.values():
        method(model, *cases[0])
    for ids, answers in cases:
        for repeat in range(repeats):
            for name, method in METHODS.items():
                begin = time.perf_counter()
                values = method(model, ids, answers)
                seconds[name].append(time.perf_counter() - begin)
                if repeat == 0:
                    scores[name].append(values)
    plain = np.array(scores["one forward each"])
    return {
        name: {
            "seconds": statistics.median(seconds[name]),
            # Neighbours in time are compared, so that a loaded machine slows both sides of a ratio.
            "ratio": statistics.median(np.array(seconds[name]) / np.array(seconds["shared prefix"])),
            "difference": float(np.abs(np.array(scores[name]) - plain).max()),
        }
        for name in METHODS
    }


def verdict(passed: bool) -> str:
    return "passed" if passed else "MISSED"


if __name__ == "__main__":
    main()
