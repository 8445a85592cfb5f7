"""k seeds of one architecture trained together (stacked parameters) against k runs one after the other.

Same learners, same episodes, same number of steps in one process; the losses are compared before a ratio is
printed. A ratio above 1 means that together is faster. No bar: the figures say when ``train_many`` should stack.

    python benchmarks/bench_many.py [--device cpu] [--threads 1] [--steps 8] [--repeats 3] [--json FILE]
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import torch

from superpose.models import ContinuousLearner, backbone_spec
from superpose.tasks import task
from superpose.training import Curriculum, Ramp, train_many

COUNTS = (1, 2, 3, 4, 5, 6, 7, 8)
# architecture, width, episodes per step: the smallest a test trains, and the studies' laptop size.
CASES = (("transformer", 16, 8), ("transformer", 32, 64), ("looped", 16, 8), ("mambaformer", 16, 8))
LINEAR = task("linear", dim=3, points=8)


def seconds(name: str, width: int, batch: int, count: int, together: bool, options: argparse.Namespace):
    spec = backbone_spec(name, width=width, heads=4, max_positions=LINEAR.length)
    learners = [ContinuousLearner(spec, LINEAR.in_dim, 1, seed=seed).to(options.device) for seed in range(count)]
    looped = {"window": 3, "curriculum": Curriculum(loops=Ramp(6, 6, 0, 1))} if name == "looped" else {}
    settings = {"seeds": list(range(count)), "batch": batch, "together": together} | looped
    train_many(learners, LINEAR, steps=1, **settings)
    start = time.perf_counter() if options.device != "cpu" else time.process_time()
    histories = train_many(learners, LINEAR, steps=options.steps, **settings)
    end = time.perf_counter() if options.device != "cpu" else time.process_time()
    return end - start, np.stack([history.losses for history in histories])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = "CPU" if options.device == "cpu" else "wall"
    print(f"one after the other / together, {clock} seconds, median of {options.repeats}, {options.steps} steps")
    print(f"{'':34}" + "".join(f"{f'k={count}':>7}" for count in COUNTS))
    rows = []
    for name, width, batch in CASES:
        ratios, apart_by_most = [], 0.0
        for count in COUNTS:
            pairs = []
            for _ in range(options.repeats):
                one, expected = seconds(name, width, batch, count, False, options)
                two, losses = seconds(name, width, batch, count, True, options)
                apart_by_most = max(apart_by_most, float(np.abs(losses - expected).max() / np.abs(expected).max()))
                pairs.append(one / two)
            ratios.append(statistics.median(pairs))
        if apart_by_most > 1e-3:
            raise SystemExit(f"{name}: losses differ by {apart_by_most:.1e} of the largest; the work was not the same")
        row = {"architecture": name, "width": width, "batch": batch}
        rows.append({**row, "ratio": dict(zip(COUNTS, ratios, strict=True))})
        label = f"{name}, width {width}, batch {batch}"
        print(f"{label:34}" + "".join(f"{ratio:7.2f}" for ratio in ratios), flush=True)
    if options.json is not None:
        report = {"device": options.device, "threads": options.threads, "rows": rows}
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
