"""Exact search for the top K strings against a beam search with as many model evaluations.

    python benchmarks/bench_search.py [--model smollm2-135m] [--threads 1] [--json FILE]

The beam follows the paper's rule: a string is complete where the newline is the most probable next token, a branch
stops where the newline has more than half of the probability, the search when its best path is below 0.01. Both
searches run on one prompt cache, so the time ratio is about the searches and not about caching.
"""

import argparse
import json
import math
import statistics
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from superpose.interpret import MixturePrompt, encode, family, top_strings
from superpose.models import extend, load, prefill, repeat_cache

TASKS = ("copy", "capitalise", "upper", "first")
DEMONSTRATIONS = 24
SMALLEST_PATH = 0.01
STOP_AT = 0.5

TokenPath = tuple[tuple[int, ...], float]


@dataclass
class Beam:
    """What a beam search found.

    Attributes:
        by_rule: paths and log-probabilities, newline included, of the strings complete by the paper's rule.
        generous: those of every string whose path was evaluated, whatever its newline's rank.
    """

    by_rule: list[TokenPath] = field(default_factory=list)
    generous: list[TokenPath] = field(default_factory=list)

    def note(self, path: tuple[int, ...], logprob: float, most_probable: bool) -> None:
        self.generous.append((path, logprob))
        if most_probable:
            self.by_rule.append((path, logprob))


@torch.inference_mode()
def beam_search(model: PreTrainedModel, prompt: list[int], newline: int, width: int, budget: int) -> Beam:
    found = Beam()
    last, cache = prefill(model, torch.tensor([prompt]))
    paths: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    rows = last.float().log_softmax(-1)
    while True:
        candidates: list[tuple[tuple[int, ...], float]] = []
        for (path, logprob), row in zip(paths, rows, strict=True):
            end = float(row[newline])
            found.note(path, logprob + end, int(row.argmax()) == newline)
            if end <= math.log(STOP_AT):
                values, tokens = row.topk(width + 1)
                children = zip(tokens.tolist(), values.tolist(), strict=True)
                candidates += [((*path, token), logprob + value) for token, value in children if token != newline]
        room = min(width, budget - len(found.generous))
        paths = sorted(candidates, key=lambda item: -item[1])[: max(room, 0)]
        if not paths or paths[0][1] < math.log(SMALLEST_PATH):
            return found
        ids = torch.tensor([path for path, _ in paths])
        rows = extend(model, repeat_cache(cache, len(paths)), ids)[:, -1].float().log_softmax(-1)


def mass(tokenizer: PreTrainedTokenizerBase, found: Iterable[TokenPath], k: int) -> float:
    """Probability of the k best texts, each by its best path, as the exact search counts them."""
    best: dict[object, float] = {}
    for path, logprob in found:
        text = tokenizer.decode(list(path))
        best[text] = max(best.get(text, -math.inf), logprob)
    return sum(math.exp(value) for value in sorted(best.values(), reverse=True)[:k])


def main() -> None:
    parser = argparse.ArgumentParser(description="exact top-K search against a beam")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    loaded = load(options.model)
    newline = encode(loaded.tokenizer, "\n")[-1]
    k = len(TASKS)
    rows = []
    print(f"{loaded.name}: top {k} strings, m = {DEMONSTRATIONS}, beam of {options.width}, {options.threads} thread(s)")
    columns = {
        "prompt": 6,
        "evaluations": 12,
        "exact mass": 11,
        "beam, rule": 11,
        "beam, all": 10,
        "beam/exact time": 16,
    }
    print(" ".join(f"{name:>{width}}" for name, width in columns.items()))
    for seed in range(options.prompts):
        rng = np.random.default_rng(seed)
        prompt = MixturePrompt.build(family("word"), TASKS, [1 / k] * k, DEMONSTRATIONS, rng)
        ids = encode(loaded.tokenizer, prompt.text)
        if seed == 0:
            top_strings(loaded.model, loaded.tokenizer, prompt.text, k)
        begin = time.perf_counter()
        top = top_strings(loaded.model, loaded.tokenizer, prompt.text, k)
        middle = time.perf_counter()
        beam = beam_search(loaded.model, ids, newline, options.width, top.expansions)
        end = time.perf_counter()
        row = {
            "complete": top.complete,
            "evaluations": top.expansions,
            "beam_evaluations": len(beam.generous),
            "exact": mass(loaded.tokenizer, zip(top.tokens, top.logprobs, strict=True), k),
            "beam_rule": mass(loaded.tokenizer, beam.by_rule, k),
            "beam_generous": mass(loaded.tokenizer, beam.generous, k),
            "beam_over_exact_time": (end - middle) / (middle - begin),
            "exact_seconds": middle - begin,
        }
        rows.append(row)
        print(f"{seed:6} {row['evaluations']:5} /{row['beam_evaluations']:5} {row['exact']:11.4f}", end=" ")
        print(f"{row['beam_rule']:11.4f} {row['beam_generous']:10.4f} {row['beam_over_exact_time']:16.2f}")
    result = {
        "model": loaded.name,
        "k": k,
        "demonstrations": DEMONSTRATIONS,
        "threads": options.threads,
        "prompts": rows,
        "over_budget": sum(not row["complete"] for row in rows),
        "never_worse": all(row["exact"] >= row["beam_generous"] - 1e-5 for row in rows if row["complete"]),
        "mean_mass": {
            name: statistics.mean(row[name] for row in rows) for name in ("exact", "beam_rule", "beam_generous")
        },
        "beam_over_exact_time": statistics.median(row["beam_over_exact_time"] for row in rows),
    }
    print("mean mass:", ", ".join(f"{name} {value:.4f}" for name, value in result["mean_mass"].items()))
    print(f"exact never worse: {result['never_worse']}; over budget: {result['over_budget']};", end=" ")
    print(f"time of beam / exact: {result['beam_over_exact_time']:.2f} (median)")
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
