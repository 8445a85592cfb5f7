"""Context-conditioned Markov chains: running counts, fits and batches beside the obvious other ways.

(a) writing a long text: running counts beside the attention layer on the growing sequence, same draws, same tokens;
    bar 50x at 2000 tokens;
(b) learning from prompts: Newton on counts beside Adam on the attention layer, to the same loss; bar 10x;
(c) 300 chains in one batch beside one after the other, same law; bar 10x;
(d) what estimation costs as the vocabulary and the samples grow.

    python benchmarks/bench_ccmc.py [--threads 1] [--quick]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from superpose.models import OneLayerAttention
from superpose.tasks import continue_prompts, draw_next, uniform_prompts
from superpose.theory import (
    attention_weight,
    count_log_likelihood,
    fit_count_logits,
    prompt_counts,
    trajectory_samples,
)
from superpose.training import Optimiser, optimise

TOKENS, WIDTH, LENGTH = 6, 16, 12


def seconds(call: Callable[[], object], repeats: int = 3) -> float:
    found = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def chain(tokens: int, seed: int = 0) -> torch.Tensor:
    p = torch.rand(tokens, tokens, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.2
    return p / p.sum(1, keepdim=True)


def layer_of(p: torch.Tensor) -> OneLayerAttention:
    g = torch.Generator().manual_seed(1)
    layer = OneLayerAttention(torch.randn(len(p), max(WIDTH, 2 * len(p)), generator=g, dtype=torch.float64))
    with torch.no_grad():
        layer.weight.copy_(attention_weight(p, layer.embeddings))
    return layer


def verdict(ratio: float, bar: float) -> str:
    return f"{ratio:8.1f}x   bar {bar:g}x: {'met' if ratio >= bar else 'NOT met'}"


def writing(steps: int) -> None:
    p, prompts = chain(TOKENS), uniform_prompts(4, LENGTH, TOKENS, torch.Generator().manual_seed(2))
    layer = layer_of(p)

    def by_attention() -> torch.Tensor:
        ids, g = prompts, torch.Generator().manual_seed(3)
        with torch.no_grad():
            for _ in range(steps):
                edges = layer(ids).cumsum(1)
                draw = torch.rand(len(ids), generator=g, dtype=torch.float64)[:, None] * edges[:, -1:]
                ids = torch.cat([ids, (edges <= draw).sum(1, keepdim=True)], 1)
        return ids[:, LENGTH:]

    def by_counts() -> torch.Tensor:
        return continue_prompts(p, prompts, steps, torch.Generator().manual_seed(3))

    if not torch.equal(by_attention(), by_counts()):
        raise SystemExit("(a) the two ways wrote different tokens")
    slow, fast = seconds(by_attention, 1), seconds(by_counts)
    print(f"(a) 4 texts of {steps} tokens, {TOKENS} tokens of vocabulary: the same tokens")
    print(f"    attention {slow:.3f} s, running counts {fast:.3f} s, {slow / fast:.1f}x")
    grown = uniform_prompts(4, LENGTH + steps, TOKENS, torch.Generator().manual_seed(4))
    many = uniform_prompts(256, LENGTH + steps, TOKENS, torch.Generator().manual_seed(4))
    for batch in (grown, many):
        counts, last = prompt_counts(batch, TOKENS)
        doubled = counts.double()
        g = torch.Generator().manual_seed(5)

        def one_attention(batch: torch.Tensor = batch, g: torch.Generator = g) -> None:
            with torch.no_grad():
                edges = layer(batch).cumsum(1)
                draw = torch.rand(len(batch), generator=g, dtype=torch.float64)[:, None] * edges[:, -1:]
                (edges <= draw).sum(1)

        def one_count(doubled: torch.Tensor = doubled, last: torch.Tensor = last, g: torch.Generator = g) -> None:
            draw_next(p, doubled, last, g)

        slow, fast = seconds(one_attention, 20), seconds(one_count, 200)
        told = f"    a step at {steps} tokens, {len(batch):3} texts: {1e6 * slow:9.1f} us and {1e6 * fast:6.1f} us"
        print(f"{told} {verdict(slow / fast, 50)}")


def learning(samples: int, updates: int) -> None:
    p, g = chain(TOKENS), torch.Generator().manual_seed(6)
    prompts = uniform_prompts(samples, LENGTH, TOKENS, g)
    counts, last = prompt_counts(prompts, TOKENS)
    targets = draw_next(p, counts, last, g)
    best = -float(count_log_likelihood(fit_count_logits(counts, last, targets, TOKENS), counts, last, targets))
    fast = seconds(lambda: fit_count_logits(*prompt_counts(prompts, TOKENS), targets, TOKENS))
    print(f"(b) {samples} prompts of {LENGTH} tokens; maximum likelihood {best:.6f} nats in {fast:.4f} s")
    for lr in (0.003, 0.01, 0.03):
        layer = layer_of(torch.full((TOKENS, TOKENS), 1 / TOKENS))

        def loss(_: int, layer: OneLayerAttention = layer) -> torch.Tensor:
            return -layer(prompts).gather(1, targets[:, None]).log().mean()

        history = optimise(loss, layer.parameters(), lambda at: at, steps=updates, optimiser=Optimiser("adam", lr=lr))
        for gap in (1e-4, 1e-6):
            reached = (history.losses <= best + gap).nonzero()[0]
            if len(reached):
                slow = float(history.seconds[int(reached[0])])
                told = f"    Adam, lr {lr:<5}: within {gap:g} after {int(reached[0]):5} updates, {slow:7.3f} s"
                print(f"{told} {verdict(slow / fast, 10)}")
            else:
                print(f"    Adam, lr {lr:<5}: not within {gap:g} after {updates} updates")


def batching(chains: int, steps: int) -> None:
    p, prompts = chain(TOKENS), uniform_prompts(chains, LENGTH, TOKENS, torch.Generator().manual_seed(7))
    rows, columns = p.tolist(), range(TOKENS)

    def one_by_one() -> None:
        import random

        rng = random.Random(0)
        for prompt in prompts.tolist():
            counts, last = [prompt.count(j) for j in columns], prompt[-1]
            for _ in range(steps):
                row = rows[last]
                last = rng.choices(columns, [counts[j] * row[j] for j in columns])[0]
                counts[last] += 1

    together = seconds(lambda: continue_prompts(p, prompts, steps, torch.Generator().manual_seed(8)))
    alone = seconds(one_by_one, 1)
    print(f"(c) {chains} chains of {steps} tokens: Python loop {alone:.2f} s, one batch {together:.3f} s", end=" ")
    print(verdict(alone / together, 10))


def costs(vocabularies: tuple[int, ...], lengths: tuple[int, ...]) -> None:
    print("(d) seconds of a fit: prompts of 12 uniform tokens, and prefixes of one trajectory")
    print(f"{'samples':>10}" + "".join(f"{f'K = {k}':>12}" for k in vocabularies))
    for n in lengths:
        cells = []
        for tokens in vocabularies:
            g = torch.Generator().manual_seed(9)
            p, prompts = chain(tokens), uniform_prompts(n, LENGTH, tokens, g)
            counts, last = prompt_counts(prompts, tokens)
            targets = draw_next(p, counts, last, g)
            told = seconds(lambda c=counts, la=last, y=targets, k=tokens: fit_count_logits(c, la, y, k), 1)
            start = torch.arange(tokens)[None]
            written = torch.cat([start, continue_prompts(p, start, n, g)], 1)
            path = seconds(lambda w=written, k=tokens: fit_count_logits(*trajectory_samples(w, k, k), k), 1)
            cells.append(f"{told:6.3f}/{path:5.3f}")
        print(f"{n:10}" + "".join(f"{cell:>12}" for cell in cells), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    writing(200 if options.quick else 2000)
    learning(200 if options.quick else 2000, 100 if options.quick else 3000)
    batching(20 if options.quick else 300, 200 if options.quick else 2000)
    costs((4, 8) if options.quick else (4, 8, 16, 32, 64), (1000,) if options.quick else (1000, 4000, 16_000, 64_000))


if __name__ == "__main__":
    main()
