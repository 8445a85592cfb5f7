"""One training step of a looped transformer: gradients in a window of T loops against all b loops.

The same model, prompts and loss (on the last T of b iterates) in both; only how far gradients go back differs. The
iterates are compared before anything is timed. If forward costs one and backward two, time should be
(b + 2T) / 3b of the whole, and memory T / b; a ratio may exceed that by the slack. Memory is what autograd keeps for
the backward pass: it is counted, not sampled, and the same on every device.

    python benchmarks/bench_looped.py [--device cpu] [--threads 1] [--repeats 3] [--json FILE]
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch

from superpose.models import ContinuousLearner, backbone_spec
from superpose.tasks import task
from superpose.training import loop_window, seeded

LOOPS = 20
WINDOWS = (5, 15)
LINEAR = task("linear", dim=20, points=20)
WIDTH, HEADS, BATCH = 128, 4, 32
TIME_SLACK, MEMORY_SLACK = 1.25, 1.25
OBJECTIVE = loop_window(LINEAR.loss)


def prepared(device: str) -> tuple[ContinuousLearner, Callable[[int, bool], torch.Tensor]]:
    spec = backbone_spec("looped", width=WIDTH, heads=HEADS, loops=LOOPS, max_positions=LINEAR.length)
    learner = ContinuousLearner(spec, LINEAR.in_dim, 1, seed=0).to(device)
    drawn = LINEAR.sample(BATCH, seeded(0, "train")).to(device)

    def step(window: int, whole: bool) -> torch.Tensor:
        learner.zero_grad(set_to_none=True)
        grad_loops = LOOPS if whole else window
        iterates = learner(drawn.inputs, reads=drawn.reads, grad_loops=grad_loops, return_all=True)[-window:]
        OBJECTIVE(iterates, drawn).backward()
        return iterates.detach()

    return learner, step


def seconds(run: Callable[[], object], device: str) -> float:
    if device != "cpu":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def kept_bytes(learner: ContinuousLearner, step: Callable[[int, bool], torch.Tensor], window: int, whole: bool) -> int:
    """What autograd keeps for the backward pass, every storage once, without the parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in learner.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def pack(saved: torch.Tensor) -> torch.Tensor:
        storage = saved.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage  # held, so that no address is used twice
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved):
        step(window, whole)
    return sum(storage.nbytes() for storage in kept.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    learner, step = prepared(options.device)
    print(
        f"b = {LOOPS} loops, width {WIDTH}, {BATCH} prompts of {LINEAR.length} positions, {options.threads} thread(s); "
        f"fastest of {options.repeats}"
    )
    rows, missed = [], []
    for window in WINDOWS:
        apart = (step(window, True) - step(window, False)).abs().max().item()
        if apart > 1e-6:
            raise SystemExit(f"T = {window}: the iterates differ by {apart:.1e}; allowed: 1e-6")
        times = {True: float("inf"), False: float("inf")}
        for _ in range(options.repeats):
            for whole in times:
                spent = seconds(lambda window=window, whole=whole: step(window, whole), options.device)
                times[whole] = min(times[whole], spent)
        memory = {whole: kept_bytes(learner, step, window, whole) for whole in times}
        row = {
            "window": window,
            "milliseconds": [1e3 * times[True], 1e3 * times[False]],
            "time ratio": times[False] / times[True],
            "time expected": (LOOPS + 2 * window) / (3 * LOOPS),
            "megabytes": [memory[True] / 1e6, memory[False] / 1e6],
            "memory ratio": memory[False] / memory[True],
            "memory expected": window / LOOPS,
        }
        rows.append(row)
        print(
            f"T = {window:2}  time: all {row['milliseconds'][0]:7.1f} ms, window {row['milliseconds'][1]:7.1f} ms, "
            f"ratio {row['time ratio']:.2f} (expected {row['time expected']:.2f})   "
            f"memory: all {row['megabytes'][0]:6.1f} MB, {row['megabytes'][1]:6.1f} MB, "
            f"ratio {row['memory ratio']:.2f} (expected {row['memory expected']:.2f})",
            flush=True,
        )
        if row["time ratio"] > TIME_SLACK * row["time expected"]:
            missed.append(f"time at T = {window}")
        if row["memory ratio"] > MEMORY_SLACK * row["memory expected"]:
            missed.append(f"memory at T = {window}")
    if options.json is not None:
        report = {"device": options.device, "threads": options.threads, "loops": LOOPS, "rows": rows}
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if missed:
        raise SystemExit(f"above the expected ratio by more than the slack: {', '.join(missed)}")


if __name__ == "__main__":
    main()
